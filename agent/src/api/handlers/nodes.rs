//! Changes of nodes.

use axum::extract::{Extension, State};
use axum::response::Response;
use hirsel_model::NodeId;
use hirsel_model::control::Command;
use hirsel_model::spec::Availability;

use super::changes::{Change, ChangeParams, Changed, carry_out};
use super::{AgentState, Params, Part};
use crate::api::auth::Caller;
use crate::api::envelope::Envelope;
use crate::api::error::{ApiError, Code, ErrorBody};
use crate::api::sight::{Sight, Standing};
use crate::api::views::storage;

/// What can be done with a node.
const VERBS: [&str; 5] = ["drain", "cordon", "uncordon", "leave", "forget"];

/// Drains, cordons, opens, sends away or forgets a node.
#[utoipa::path(post, path = "/v1/nodes/{node}/{verb}",
    params(("node", description = "name"), ("verb", description = "drain, cordon, uncordon, leave, forget")),
    responses((status = 200, body = Envelope<Changed>), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub async fn change(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Part((node, verb)): Part<(String, String)>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    let sight = agent.sight();
    let id = node_named(&sight, &node)?;
    let set = |availability| Command::SetAvailability { node: id, availability };
    let (command, did, undo) = match verb.as_str() {
        "drain" => {
            let did = format!("draining {node}: what it holds moves away{}", stays(&sight, id));
            (set(Availability::Draining), did, Some("uncordon"))
        }
        "cordon" => (set(Availability::Cordoned), format!("cordoned {node}: nothing new goes there"), Some("uncordon")),
        "uncordon" => (set(Availability::Open), format!("opened {node}"), Some("cordon")),
        "leave" => (
            set(Availability::Leaving),
            format!("{node} hands everything over, then leaves for good{}", stays(&sight, id)),
            Some("uncordon"),
        ),
        "forget" => {
            let standing = sight.standing(id);
            if standing != Standing::Down && params.force.is_none() {
                return Err(still_there(&node, standing));
            }
            if let Some(words) = storage::lost_with(&sight, id).filter(|_| params.force.is_none()) {
                let told = ApiError::new(Code::Unsafe, format!("{node} is not forgotten: {words}"));
                return Err(told
                    .next("bring the nodes back that have the rest, or their disks")
                    .next(format!("hirsel forget {node} --force REASON")));
            }
            (Command::RemoveNode { node: id }, format!("forgot {node}: its key is not accepted any more"), None)
        }
        other => return Err(ApiError::not_found("verb", other, VERBS)),
    };
    let undo = undo.map(|undo| format!("hirsel {undo} {node}"));
    carry_out(&agent, &caller, &params, Change { command, did, undo }).await
}

/// What of a node will not move away as things are.
fn stays(sight: &Sight, node: NodeId) -> String {
    storage::stays(sight, node).map(|words| format!("; {words}")).unwrap_or_default()
}

/// The rights that a verb about nodes needs: what cannot be undone needs more.
pub fn is_final(verb: &str) -> bool {
    matches!(verb, "leave" | "forget")
}

fn still_there(node: &str, standing: Standing) -> ApiError {
    let message = format!(
        "{node} is {}, not down: forgetting it would leave what it runs without anybody in charge",
        standing.word()
    );
    ApiError::new(Code::Unsafe, message)
        .next(format!("hirsel drain {node}"))
        .next(format!("hirsel leave --node {node}"))
        .next(format!("hirsel forget {node} --force REASON"))
}

/// The node called `name`.
pub(in crate::api) fn node_named(sight: &Sight, name: &str) -> Result<NodeId, ApiError> {
    let spec = &sight.state.spec;
    let found = spec.node_named(name).map(|(id, _)| id);
    found.ok_or_else(|| ApiError::not_found("node", name, spec.nodes.values().map(|node| node.name.as_str())))
}

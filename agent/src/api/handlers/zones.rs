//! Keys of zones: what there is, and the next step of replacing one.

use axum::extract::{Extension, State};
use axum::response::Response;
use hirsel_model::control::Command;
use hirsel_model::dnssec::{Cause, Change as KeyChange, Step};
use serde::Deserialize;
use utoipa::ToSchema;

use super::changes::{Change, ChangeParams, Changed, carry_out};
use super::{AgentState, Fields, Params, Part, answer};
use crate::api::auth::Caller;
use crate::api::envelope::Envelope;
use crate::api::error::{ApiError, Code, ErrorBody};
use crate::api::sight::Sight;
use crate::api::views::zones::{self, ZoneView};

/// What is known of the zone above.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RollFields {
    /// It names the next key (DS).
    seen: bool,
}

/// Zones that are signed or shall be, with their keys.
#[utoipa::path(get, path = "/v1/dns/zones", responses((status = 200, body = Envelope<Vec<ZoneView>>)))]
pub async fn list(State(agent): State<AgentState>) -> Response {
    let sight = agent.sight();
    answer(&sight, zones::zones(&sight))
}

/// One of them.
#[utoipa::path(get, path = "/v1/dns/zones/{zone}", params(("zone", description = "Its name")),
    responses((status = 200, body = Envelope<ZoneView>), (status = 404, body = ErrorBody)))]
pub async fn show(State(agent): State<AgentState>, Part(zone): Part<String>) -> Result<Response, ApiError> {
    let (sight, zone) = (agent.sight(), normal(&zone));
    let found = zones::zone(&sight, &zone).ok_or_else(|| unknown(&sight, &zone))?;
    Ok(answer(&sight, found))
}

/// Begins to replace the key of a zone, or takes the next step of that.
#[utoipa::path(post, path = "/v1/dns/zones/{zone}/roll", params(("zone", description = "Its name")), request_body = RollFields,
    responses((status = 200, body = Envelope<Changed>), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub async fn roll(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Part(zone): Part<String>,
    Params(params): Params<ChangeParams>,
    Fields(fields): Fields<RollFields>,
) -> Result<Response, ApiError> {
    let (sight, zone) = (agent.sight(), normal(&zone));
    let keys = sight.state.signing.zones.get(&zone).ok_or_else(|| unknown(&sight, &zone))?;
    let cause = match (&params.force, fields.seen) {
        (Some(reason), _) => Cause::Forced(reason.clone()),
        (None, true) => Cause::Seen,
        (None, false) => Cause::Time,
    };
    if fields.seen && keys.step != Step::Offered {
        let message = format!("no key of zone {zone} waits to be named by the zone above");
        return Err(ApiError::new(Code::Usage, message).next("hirsel dns list"));
    }
    let did = match keys.step {
        Step::Steady => format!("another key of zone {zone} is drawn; it takes over in steps: hirsel dns list"),
        Step::Published => format!("the next key of zone {zone} can be named by the zone above: hirsel dns ds {zone}"),
        Step::Offered => format!("zone {zone} is signed with its next key; the former is listed for three more days"),
        Step::Leaving => format!("the former key of zone {zone} is forgotten"),
    };
    let change = match keys.step {
        Step::Steady => KeyChange::Want { zone },
        from => KeyChange::Advance { zone, from, cause },
    };
    carry_out(&agent, &caller, &params, Change { did, undo: None, command: Command::Signing { change } }).await
}

fn normal(zone: &str) -> String {
    zone.trim_end_matches('.').to_ascii_lowercase()
}

fn unknown(sight: &Sight, zone: &str) -> ApiError {
    let known: Vec<String> = zones::zones(sight).into_iter().map(|it| it.zone).collect();
    ApiError::not_found("signed zone", zone, known.iter().map(String::as_str)).next("hirsel dns list")
}

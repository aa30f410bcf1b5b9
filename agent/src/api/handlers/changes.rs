//! Changes of applications and roles, and what all changes have in common: `plan`, `if_index`, the way to the leader and back.

use std::time::Duration;

use axum::extract::{Extension, State};
use axum::response::Response;
use hirsel_mesh::identity::client_authority;
use hirsel_model::control::{Command, Entry, Outcome, Refusal};
use hirsel_model::spec::{AppSpec, Replicas, RoleSpec};
use hirsel_model::{AppName, LogIndex, RoleName, ServiceName, manifest};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::buckets::refuse_taken;
use super::{AgentState, Fields, Params, Part, Text, answer_with};
use crate::api::auth::{Caller, signature};
use crate::api::envelope::Envelope;
use crate::api::error::{ApiError, Code, ErrorBody};
use crate::api::forecast::{self, Forecast};
use crate::api::sight::Sight;
use crate::api::views::wanted;

/// How long a change may take to be confirmed by the leader: several elections long, and short enough for a person to wait.
const PROPOSE_TTL: Duration = Duration::from_secs(10);
/// How long the answer to a change waits for this node to know of it too, so that a read right after sees it.
pub(super) const CATCH_UP: Duration = Duration::from_secs(1);
/// How often a change of a role's wishes is made again when somebody else changed them meanwhile.
const ROLE_TRIES_MAX: usize = 4;

/// What every change takes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChangeParams {
    /// Only show what would change.
    pub plan: bool,
    /// Refuse when what is wanted was changed after this index.
    pub if_index: Option<u64>,
    /// Do it although a safety rule refuses; why.
    pub force: Option<String>,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Changed {
    /// In words.
    pub did: String,
    /// How to undo it, where that is possible.
    pub undo: Option<String>,
    /// Index of the change in the control log.
    pub index: u64,
}

/// A change on its way.
pub(super) struct Change {
    pub command: Command,
    pub did: String,
    pub undo: Option<String>,
}

/// Shows what `change` would do, or proposes it and answers when it is applied here too.
pub(super) async fn carry_out(
    agent: &AgentState,
    caller: &Caller,
    params: &ChangeParams,
    change: Change,
) -> Result<Response, ApiError> {
    let notes = wanted::notes(&agent.sight(), &change.command);
    if params.plan {
        let sight = agent.sight();
        let entry = entry(agent, caller, params, change.command).await?;
        let shown = forecast::forecast(&sight, &change.did, entry).await?;
        return Ok(answer_with(&sight, shown, notes));
    }
    let index = propose(agent, caller, params, change.command).await?;
    Ok(answer_with(&agent.sight(), Changed { did: change.did, undo: change.undo, index: index.0 }, notes))
}

/// Proposes `command`, and waits until this node knows of it.
pub(super) async fn propose(
    agent: &AgentState,
    caller: &Caller,
    params: &ChangeParams,
    command: Command,
) -> Result<LogIndex, ApiError> {
    let entry = entry(agent, caller, params, command).await?;
    let index = match agent.propose(entry, PROPOSE_TTL).await? {
        Outcome::Done { index } | Outcome::Admitted { index, .. } | Outcome::Lengthened { index, .. } => index,
        Outcome::Refused(refusal) => return Err(refused(&agent.sight(), refusal)),
    };
    let _ = tokio::time::timeout(CATCH_UP, agent.beyond(LogIndex(index.0.saturating_sub(1)))).await;
    Ok(index)
}

/// `if_index` is any index of the log that the asker has seen: nothing that is wanted may have changed after it. The entry carries the
/// index of the last such change, so that the comparison is made again, exactly, when the entry is applied.
async fn entry(
    agent: &AgentState,
    caller: &Caller,
    params: &ChangeParams,
    command: Command,
) -> Result<Entry, ApiError> {
    if let Some(seen) = params.if_index
        && seen > agent.sight().state.applied.0
    {
        let _ = tokio::time::timeout(CATCH_UP, agent.beyond(LogIndex(seen - 1))).await;
    }
    let sight = agent.sight();
    let if_index = match params.if_index {
        Some(seen) if seen < sight.state.spec_index.0 => {
            let what = "what is wanted was changed after the index you saw".to_string();
            return Err(Refusal::Conflict { what, expected: seen, found: sight.state.spec_index.0 }.into());
        }
        Some(_) => Some(sight.state.spec_index),
        None => None,
    };
    let by = match &params.force {
        Some(reason) => format!("{} (forced: {})", signature(&sight, caller), clip(reason)),
        None => signature(&sight, caller),
    };
    Ok(Entry { at: sight.wall, by, if_index, command })
}

/// Longest reason that is written into the log.
const REASON_CHARS_MAX: usize = 200;

fn clip(reason: &str) -> String {
    reason.chars().filter(|c| !c.is_control()).take(REASON_CHARS_MAX).collect()
}

/// A refusal, with the names that this node knows as suggestions.
fn refused(sight: &Sight, refusal: Refusal) -> ApiError {
    let Refusal::NotFound { kind, name } = &refusal else { return refusal.into() };
    let spec = &sight.state.spec;
    let known: Vec<String> = match kind.as_str() {
        "node" => spec.nodes.values().map(|node| node.name.to_string()).collect(),
        "app" => spec.apps.keys().map(ToString::to_string).collect(),
        "service" => spec.apps.values().flat_map(|app| app.services.keys()).map(ToString::to_string).collect(),
        "token" => sight.state.tokens.keys().cloned().collect(),
        "certificate" => sight.state.certificates.named.keys().map(ToString::to_string).collect(),
        "access key" => sight.state.access.keys.keys().map(ToString::to_string).collect(),
        "secret" => sight.state.secrets.all().map(|(id, _)| id.to_string()).collect(),
        _ => Vec::new(),
    };
    ApiError::not_found(kind, name, known.iter().map(String::as_str))
}

/// Reads a manifest, or says everything that is wrong with it.
fn read_manifest(sight: &Sight, text: &str) -> Result<(AppName, AppSpec), ApiError> {
    let built: std::collections::BTreeSet<RoleName> =
        sight.state.spec.nodes.values().flat_map(|node| node.built.iter().cloned()).collect();
    let built: Vec<RoleName> = built.into_iter().collect();
    manifest::parse_for(text, &built, Some(&sight.state.secrets)).map_err(|errors| {
        let told = match errors.len() {
            1 => "the manifest has an error".to_string(),
            count => format!("the manifest has {count} errors"),
        };
        let first = errors.first().map(|error| format!(": {}:{}: {}", error.line, error.column, error.message));
        let unset = errors.iter().filter_map(|error| error.message.split_once("; try: ").map(|(_, command)| command));
        let unset: std::collections::BTreeSet<String> = unset.map(str::to_owned).collect();
        let lines = errors.iter().map(|error| format!("{}:{}: {}", error.line, error.column, error.message));
        ApiError {
            code: Code::Manifest,
            message: told + &first.unwrap_or_default(),
            evidence: lines.collect(),
            next: unset.into_iter().chain(["correct the file, then: hirsel plan FILE".into()]).collect(),
        }
    })
}

/// Refuses ports that hirsel has itself, as far as this node can tell: others may have been given other ones, and say so by themselves.
fn refuse_own_ports(sight: &Sight, spec: &AppSpec) -> Result<(), ApiError> {
    let own = spec.ports.keys().find_map(|port| Some((port, sight.config.user_of(*port)?)));
    let Some((port, user)) = own else { return Ok(()) };
    let message = format!("port {port} is not to be had: hirsel has it itself on {}, {user}", sight.name(sight.me));
    Err(ApiError::new(Code::Usage, message).next("choose another port, then: hirsel plan FILE"))
}

/// Refuses routes that no client could show a certificate for.
fn refuse_unfit_authorities(spec: &AppSpec) -> Result<(), ApiError> {
    for route in &spec.routes {
        let Some(clients) = &route.actions.client_certificates else { continue };
        client_authority(&clients.authorities).map_err(|why| {
            ApiError::new(Code::Usage, format!("client_ca of route {route}: {why}"))
                .next("openssl x509 -noout -text -in FILE: what it is")
                .next("correct the file, then: hirsel plan FILE")
        })?;
    }
    Ok(())
}

/// Creates or updates an application.
#[utoipa::path(post, path = "/v1/apply", request_body(content = String, content_type = "text/plain", description = "an application manifest"),
    responses((status = 200, body = Envelope<Changed>), (status = 400, body = ErrorBody)))]
pub async fn apply(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Params(params): Params<ChangeParams>,
    Text(text): Text,
) -> Result<Response, ApiError> {
    let sight = agent.sight();
    let (app, spec) = read_manifest(&sight, &text)?;
    refuse_own_ports(&sight, &spec)?;
    refuse_unfit_authorities(&spec)?;
    refuse_taken(&agent, &app, &spec).await?;
    let known = sight.state.spec.apps.get(&app);
    let change = Change {
        did: match known {
            Some(_) => format!("updated {app}"),
            None => format!("created {app}"),
        },
        undo: Some(match known {
            Some(known) => format!("hirsel apply FILE with the manifest of revision {}", known.revision),
            None => format!("hirsel rm {app}"),
        }),
        command: Command::ApplyApp { app, spec },
    };
    carry_out(&agent, &caller, &params, change).await
}

/// What `apply` would do.
#[utoipa::path(post, path = "/v1/plan", request_body(content = String, content_type = "text/plain", description = "an application manifest"),
    responses((status = 200, body = Envelope<Forecast>), (status = 400, body = ErrorBody)))]
pub async fn plan(
    agent: State<AgentState>,
    caller: Extension<Caller>,
    Params(params): Params<ChangeParams>,
    text: Text,
) -> Result<Response, ApiError> {
    apply(agent, caller, Params(ChangeParams { plan: true, ..params }), text).await
}

/// To how many.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScaleFields {
    /// Which service; may be left out where there is one only.
    service: Option<String>,
    /// How many.
    replicas: u32,
}

/// Changes the count of a service.
#[utoipa::path(post, path = "/v1/apps/{app}/scale", params(("app", description = "application")), request_body = ScaleFields,
    responses((status = 200, body = Envelope<Changed>), (status = 404, body = ErrorBody)))]
pub async fn scale(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Part(app): Part<String>,
    Params(params): Params<ChangeParams>,
    Fields(fields): Fields<ScaleFields>,
) -> Result<Response, ApiError> {
    let sight = agent.sight();
    let (app, spec) = app_named(&sight, &app)?;
    let service = service_named(&app, spec, fields.service.as_deref())?;
    let before = spec.services.get(&service).map(|known| known.replicas);
    let count = fields.replicas;
    // A service that breathes between two counts keeps its upper one.
    let max = before.filter(|before| before.max > before.min).map_or(count, |before| before.max.max(count));
    let change = Change {
        did: match before {
            Some(before) => format!("scaled {app}/{service} from {} to {count}", before.min),
            None => format!("scaled {app}/{service} to {count}"),
        },
        undo: before.map(|before| format!("hirsel scale {app}/{service}={}", before.min)),
        command: Command::Scale { app, service, replicas: Replicas { min: count, max } },
    };
    carry_out(&agent, &caller, &params, change).await
}

/// Which part.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RestartFields {
    /// Which service; all when none is given.
    service: Option<String>,
}

/// Replaces all instances by new ones of the same description.
#[utoipa::path(post, path = "/v1/apps/{app}/restart", params(("app", description = "application")), request_body = RestartFields,
    responses((status = 200, body = Envelope<Changed>), (status = 404, body = ErrorBody)))]
pub async fn restart(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Part(app): Part<String>,
    Params(params): Params<ChangeParams>,
    Fields(fields): Fields<RestartFields>,
) -> Result<Response, ApiError> {
    let sight = agent.sight();
    let (app, spec) = app_named(&sight, &app)?;
    let service = match fields.service.as_deref() {
        Some(service) => Some(service_named(&app, spec, Some(service))?),
        None => None,
    };
    let what = service.as_ref().map_or_else(|| app.to_string(), |service| format!("{app}/{service}"));
    let change = Change {
        did: format!("replacing every instance of {what}, one after another"),
        undo: None,
        command: Command::Restart { app, service },
    };
    carry_out(&agent, &caller, &params, change).await
}

/// Stops an application without forgetting it.
#[utoipa::path(post, path = "/v1/apps/{app}/stop", params(("app", description = "application")),
    responses((status = 200, body = Envelope<Changed>), (status = 404, body = ErrorBody)))]
pub async fn stop(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Part(app): Part<String>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    let (app, _) = app_named(&agent.sight(), &app).map(|(app, _)| (app, ()))?;
    let (did, undo) = (format!("stopped {app}"), Some(format!("hirsel start {app}")));
    let change = Change { did, undo, command: Command::SetStopped { app, stopped: true } };
    carry_out(&agent, &caller, &params, change).await
}

/// Starts an application that was stopped.
#[utoipa::path(post, path = "/v1/apps/{app}/start", params(("app", description = "application")),
    responses((status = 200, body = Envelope<Changed>), (status = 404, body = ErrorBody)))]
pub async fn start(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Part(app): Part<String>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    let (app, _) = app_named(&agent.sight(), &app).map(|(app, _)| (app, ()))?;
    let (did, undo) = (format!("started {app}"), Some(format!("hirsel stop {app}")));
    let change = Change { did, undo, command: Command::SetStopped { app, stopped: false } };
    carry_out(&agent, &caller, &params, change).await
}

/// Forgets an application.
#[utoipa::path(delete, path = "/v1/apps/{app}", params(("app", description = "application")),
    responses((status = 200, body = Envelope<Changed>), (status = 404, body = ErrorBody)))]
pub async fn remove(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Part(app): Part<String>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    let (app, _) = app_named(&agent.sight(), &app).map(|(app, _)| (app, ()))?;
    let change = Change {
        did: format!("removed {app}"),
        undo: Some("hirsel apply FILE with its manifest".into()),
        command: Command::RemoveApp { app },
    };
    carry_out(&agent, &caller, &params, change).await
}

/// Which node.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PinFields {
    /// Its name.
    node: String,
}

/// Prefers a node for a role.
#[utoipa::path(post, path = "/v1/roles/{role}/pin", params(("role", description = "role")), request_body = PinFields,
    responses((status = 200, body = Envelope<Changed>), (status = 404, body = ErrorBody)))]
pub async fn pin(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Part(role): Part<String>,
    Params(params): Params<ChangeParams>,
    Fields(fields): Fields<PinFields>,
) -> Result<Response, ApiError> {
    let (words, undo) =
        (format!("pinned {role} to {}", fields.node), format!("hirsel role unpin {role} {}", fields.node));
    change_role(&agent, &caller, &params, &role, (words, undo), |sight, spec| {
        spec.pins.insert(super::nodes::node_named(sight, &fields.node)?);
        Ok(())
    })
    .await
}

/// Takes the preference back.
#[utoipa::path(post, path = "/v1/roles/{role}/unpin", params(("role", description = "role")), request_body = PinFields,
    responses((status = 200, body = Envelope<Changed>), (status = 404, body = ErrorBody)))]
pub async fn unpin(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Part(role): Part<String>,
    Params(params): Params<ChangeParams>,
    Fields(fields): Fields<PinFields>,
) -> Result<Response, ApiError> {
    let (words, undo) =
        (format!("unpinned {role} from {}", fields.node), format!("hirsel role pin {role} {}", fields.node));
    change_role(&agent, &caller, &params, &role, (words, undo), |sight, spec| {
        spec.pins.remove(&super::nodes::node_named(sight, &fields.node)?);
        Ok(())
    })
    .await
}

/// From where to where.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveFields {
    /// The node that has the slot.
    node: String,
    /// The node that shall have it.
    to: String,
}

/// Moves one slot of a role to another node, once.
#[utoipa::path(post, path = "/v1/roles/{role}/move", params(("role", description = "role")), request_body = MoveFields,
    responses((status = 200, body = Envelope<Changed>), (status = 404, body = ErrorBody)))]
pub async fn move_role(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Part(role): Part<String>,
    Params(params): Params<ChangeParams>,
    Fields(fields): Fields<MoveFields>,
) -> Result<Response, ApiError> {
    let sight = agent.sight();
    let role = role_named(&sight, &role)?;
    let from = super::nodes::node_named(&sight, &fields.node)?;
    let to = super::nodes::node_named(&sight, &fields.to)?;
    let change = Change {
        did: format!("{role} moves from {} to {}", fields.node, fields.to),
        undo: Some(format!("hirsel role move {role} {} --to {}", fields.to, fields.node)),
        command: Command::MoveRole { role, from, to },
    };
    carry_out(&agent, &caller, &params, change).await
}

/// The wishes about a role travel whole; so that no other change of them is lost, the entry holds only while nothing changed since
/// they were read, and is made again when something did.
pub(super) async fn change_role(
    agent: &AgentState,
    caller: &Caller,
    params: &ChangeParams,
    role: &str,
    (did, undo): (String, String),
    alter: impl Fn(&Sight, &mut RoleSpec) -> Result<(), ApiError>,
) -> Result<Response, ApiError> {
    for tried in 1.. {
        let sight = agent.sight();
        let role = role_named(&sight, role)?;
        let mut spec = sight.state.spec.roles.get(&role).cloned().unwrap_or_default();
        alter(&sight, &mut spec)?;
        let seen = params.if_index.or(Some(sight.state.spec_index.0));
        let held = ChangeParams { if_index: seen, ..params.clone() };
        let change = Change { did: did.clone(), undo: Some(undo.clone()), command: Command::SetRole { role, spec } };
        match carry_out(agent, caller, &held, change).await {
            Err(error) if error.code == Code::Conflict && params.if_index.is_none() && tried < ROLE_TRIES_MAX => {
                let _ = tokio::time::timeout(CATCH_UP, agent.beyond(sight.state.applied)).await;
            }
            done => return done,
        }
    }
    Err(ApiError::new(Code::Conflict, "others change roles all the time; try again"))
}

pub(super) fn app_named<'a>(sight: &'a Sight, name: &str) -> Result<(AppName, &'a AppSpec), ApiError> {
    let apps = &sight.state.spec.apps;
    let found = apps.iter().find(|(known, _)| known.as_str() == name).map(|(known, spec)| (known.clone(), spec));
    found.ok_or_else(|| ApiError::not_found("app", name, apps.keys().map(|known| known.as_str())))
}

fn service_named(app: &AppName, spec: &AppSpec, name: Option<&str>) -> Result<ServiceName, ApiError> {
    let known = || spec.services.keys().map(|known| known.as_str());
    match (name, spec.services.len()) {
        (None, 1) => spec.services.keys().next().cloned().ok_or_else(|| ApiError::not_found("service", "", known())),
        (None, _) => Err(ApiError::new(
            Code::Usage,
            format!(
                "{app} has several services: {}; name one as {app}/SERVICE",
                known().collect::<Vec<_>>().join(", ")
            ),
        )),
        (Some(name), _) => spec
            .services
            .keys()
            .find(|known| known.as_str() == name)
            .cloned()
            .ok_or_else(|| ApiError::not_found("service", name, known())),
    }
}

fn role_named(sight: &Sight, name: &str) -> Result<RoleName, ApiError> {
    let built = sight.state.spec.nodes.values().flat_map(|node| &node.built);
    let known: std::collections::BTreeSet<&RoleName> = built.chain(sight.state.plan.roles.keys()).collect();
    let found = known.iter().find(|known| known.as_str() == name).map(|known| (*known).clone());
    found.ok_or_else(|| ApiError::not_found("role", name, known.iter().map(|known| known.as_str())))
}

//! What can be asked. Every answer comes from this node's own memory.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use serde::Deserialize;

use super::{AgentState, Params, Part, answer, buckets, json};
use crate::api::doctor::{self, Doctor};
use crate::api::envelope::Envelope;
use crate::api::error::{ApiError, Code, ErrorBody};
use crate::api::requests::{self, RouteTraffic, past};
use crate::api::simulate::{self, Simulated};
use crate::api::views::apps::{self, App, Instance, Which};
use crate::api::views::members::{self, Member};
use crate::api::views::roles::{self, RoleSlot};
use crate::api::views::status::{self, Status};
use crate::api::views::tokens::{self, Token};
use crate::api::views::why::{self, Why};

/// Whether this agent works. Needs no rights.
#[utoipa::path(get, path = "/healthz", responses((status = 200, description = "this agent works")))]
pub async fn healthz() -> Response {
    "ok\n".into_response()
}

/// The metrics of this node in the text format of Prometheus.
#[utoipa::path(get, path = "/metrics", responses((status = 200, content_type = "text/plain", body = String)))]
pub async fn metrics(State(agent): State<AgentState>) -> Response {
    let kind = http::HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(CONTENT_TYPE, kind)], crate::api::metrics::expose(&agent.metrics(), &agent.sight())).into_response()
}

/// One screen.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Envelope<Status>)))]
pub async fn status(State(agent): State<AgentState>) -> Response {
    let sight = agent.sight();
    let mut envelope = Envelope::new(&sight, status::status(&sight));
    envelope.warnings.extend(status::warnings(&sight));
    json(http::StatusCode::OK, &envelope)
}

/// Which nodes to list.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MembersParams {
    all: bool,
}

/// One entry per node.
#[utoipa::path(get, path = "/v1/members", params(("all" = bool, Query, description = "those that left too")),
    responses((status = 200, body = Envelope<Vec<Member>>)))]
pub async fn members(State(agent): State<AgentState>, Params(params): Params<MembersParams>) -> Response {
    let sight = agent.sight();
    let mut listed = members::members(&sight);
    if params.all {
        listed.extend(members::left(&sight));
    }
    answer(&sight, listed)
}

/// One entry per role and slot.
#[utoipa::path(get, path = "/v1/roles", responses((status = 200, body = Envelope<Vec<RoleSlot>>)))]
pub async fn roles(State(agent): State<AgentState>) -> Response {
    let sight = agent.sight();
    answer(&sight, roles::roles(&sight))
}

/// One entry per application.
#[utoipa::path(get, path = "/v1/apps", responses((status = 200, body = Envelope<Vec<App>>)))]
pub async fn apps(State(agent): State<AgentState>) -> Response {
    let sight = agent.sight();
    answer(&sight, apps::apps(&sight))
}

/// Which instances to list.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PsParams {
    all: bool,
}

/// The instances of an application.
#[utoipa::path(get, path = "/v1/apps/{app}/ps", params(("app", description = "application"), ("all" = bool, Query, description = "ended ones too")),
    responses((status = 200, body = Envelope<Vec<Instance>>), (status = 404, body = ErrorBody)))]
pub async fn ps(
    State(agent): State<AgentState>,
    Part(app): Part<String>,
    Params(params): Params<PsParams>,
) -> Result<Response, ApiError> {
    let sight = agent.sight();
    let which = if params.all { Which::All } else { Which::Planned };
    let listed = app.parse().ok().and_then(|name| apps::ps(&sight, &name, which));
    match listed {
        Some(listed) => Ok(answer(&sight, listed)),
        None => Err(ApiError::not_found("app", &app, sight.state.spec.apps.keys().map(|name| name.as_str()))),
    }
}

/// Why something is as it is.
#[utoipa::path(get, path = "/v1/why/{thing}", params(("thing", description = "node, role/slot, app, app/service, instance, bucket/key, voters, can_lose, or the id of a request")),
    responses((status = 200, body = Envelope<Why>), (status = 404, body = ErrorBody)))]
pub async fn why(State(agent): State<AgentState>, Part(thing): Part<String>) -> Result<Response, ApiError> {
    let sight = agent.sight();
    let otherwise = match why::why(&sight, &thing) {
        Ok(told) => return Ok(answer(&sight, told)),
        Err(error) => error,
    };
    if let Some(told) = buckets::why(&agent, &sight, &thing).await? {
        return Ok(answer(&sight, told));
    }
    let (told, missing) = past::why(&agent, &thing, otherwise).await?;
    let mut envelope = Envelope::new(&sight, told);
    envelope.warnings.extend(missing);
    Ok(json(http::StatusCode::OK, &envelope))
}

/// What goes through the routes of every load balancer.
#[utoipa::path(get, path = "/v1/traffic", responses((status = 200, body = Envelope<Vec<RouteTraffic>>)))]
pub async fn traffic(State(agent): State<AgentState>) -> Response {
    let (told, missing) = requests::traffic(&agent).await;
    let mut envelope = Envelope::new(&agent.sight(), told);
    envelope.warnings.extend(missing);
    json(http::StatusCode::OK, &envelope)
}

/// Whether this node and its ways to the others are as they should be. Takes seconds where some do not answer.
#[utoipa::path(get, path = "/v1/doctor", responses((status = 200, body = Envelope<Doctor>)))]
pub async fn doctor(State(agent): State<AgentState>) -> Response {
    let found = agent.examine().await;
    let sight = agent.sight();
    answer(&sight, doctor::doctor(&sight, &found))
}

/// What to suppose.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimulateParams {
    events: String,
}

/// What losses and departures would come to. Changes nothing.
#[utoipa::path(get, path = "/v1/simulate", params(("events" = String, Query, description = "what happens at once, parted by commas: kill:NODE, zone:ZONE, leave:NODE, drain:NODE")),
    responses((status = 200, body = Envelope<Simulated>), (status = 404, body = ErrorBody)))]
pub async fn simulate(
    State(agent): State<AgentState>,
    Params(params): Params<SimulateParams>,
) -> Result<Response, ApiError> {
    let sight = agent.sight();
    let events: Vec<String> = params.events.split(',').map(ToString::to_string).collect();
    let told = simulate::simulate(&sight, &events).await?;
    Ok(answer(&sight, told))
}

/// The tokens given out, without their secrets.
#[utoipa::path(get, path = "/v1/tokens", responses((status = 200, body = Envelope<Vec<Token>>)))]
pub async fn tokens(State(agent): State<AgentState>) -> Response {
    let sight = agent.sight();
    answer(&sight, tokens::tokens(&sight))
}

/// This description.
pub async fn openapi() -> Response {
    let kind = http::HeaderValue::from_static("application/json");
    ([(CONTENT_TYPE, kind)], crate::api::openapi::document()).into_response()
}

/// Everything else.
pub async fn nothing(uri: http::Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    ApiError::new(Code::NotFound, format!("no such path: {path}")).next("GET /v1/openapi.json")
}

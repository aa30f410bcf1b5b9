//! A majority that is lost for good: what survived, and going on with it.

use axum::extract::{Extension, State};
use axum::response::Response;
use hirsel_model::control::Command;
use serde::Deserialize;
use utoipa::ToSchema;

use super::changes::{Change, ChangeParams, Changed, carry_out};
use super::{AgentState, Fields, Params, answer};
use crate::api::auth::{Caller, signature};
use crate::api::envelope::Envelope;
use crate::api::error::{ApiError, Code, ErrorBody};
use crate::api::recovery::Recovery;

/// What is looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LostParams {
    /// Names of nodes, with commas between them.
    lost: String,
}

/// What survived, and what a recovery would make of it.
#[utoipa::path(get, path = "/v1/recover", params(("lost" = String, Query, description = "nodes that are lost, n1,n2")),
    responses((status = 200, body = Envelope<Recovery>), (status = 404, body = ErrorBody)))]
pub async fn plan(State(agent): State<AgentState>, Params(params): Params<LostParams>) -> Result<Response, ApiError> {
    let lost: Vec<String> = params.lost.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let plan = agent.recovery(lost).await?;
    Ok(answer(&agent.sight(), plan))
}

/// Who is lost.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RecoverFields {
    /// Names of nodes that are lost for good.
    lost: Vec<String>,
    /// Somebody made sure that they are off, and what is exclusive may start elsewhere.
    off: bool,
    /// Do it although a safety rule refuses; why.
    force: Option<String>,
}

/// Founds the control group anew on the most advanced survivor.
#[utoipa::path(post, path = "/v1/recover", request_body = RecoverFields,
    responses((status = 200, body = Envelope<Recovery>), (status = 422, body = ErrorBody)))]
pub async fn recover(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Fields(fields): Fields<RecoverFields>,
) -> Result<Response, ApiError> {
    let by = signature(&agent.sight(), &caller);
    let done = agent.recover(fields.lost, fields.off, fields.force, by).await?;
    Ok(answer(&agent.sight(), done))
}

/// Says that the nodes which were given up are off: what is exclusive may start elsewhere.
#[utoipa::path(post, path = "/v1/recover/off",
    responses((status = 200, body = Envelope<Changed>), (status = 404, body = ErrorBody)))]
pub async fn confirm_off(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    let estranged = agent.sight().state.plan.estranged.clone();
    if estranged.nodes.is_empty() {
        let error = ApiError::new(Code::NotFound, "no node was given up that may still be on");
        return Err(error.next("hirsel recover --plan").next("hirsel status"));
    }
    let did = format!("{} are off: what is exclusive may start elsewhere", estranged.names());
    let command = Command::ConfirmOff { nodes: estranged.nodes.into_keys().collect() };
    carry_out(&agent, &caller, &params, Change { command, did, undo: None }).await
}

//! A majority that is lost for good: what survived, and going on with it.

use axum::extract::{Extension, State};
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{AgentState, Fields, Params, answer};
use crate::api::auth::{Caller, signature};
use crate::api::envelope::Envelope;
use crate::api::error::{ApiError, ErrorBody};
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
    let done = agent.recover(fields.lost, fields.force, by).await?;
    Ok(answer(&agent.sight(), done))
}

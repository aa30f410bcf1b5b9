//! A backup on its way out: sealed here, with a key that came with the question.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::extract::{Extension, State};
use axum::response::Response;
use futures::stream;
use hirsel_mesh::archive::{By, FileKey, Lock};
use http::header::CONTENT_TYPE;

use super::{AgentState, Fields};
use crate::api::auth::{Caller, signature};
use crate::api::backup::{BackupFields, from_hex};
use crate::api::error::{ApiError, Code, ErrorBody};

/// The control state in one sealed file. Who asks is written into the log.
#[utoipa::path(post, path = "/v1/backup", request_body = BackupFields,
    responses((status = 200, content_type = "application/octet-stream", description = "the file"), (status = 422, body = ErrorBody)))]
pub async fn backup(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Fields(fields): Fields<BackupFields>,
) -> Result<Response, ApiError> {
    let wrong =
        |what: &str| ApiError::new(Code::Usage, format!("{what} is not what it should be; use: hirsel backup FILE"));
    let by = match fields.by.as_str() {
        "passphrase" if fields.rounds > 0 => By::Passphrase,
        "recovery_key" => By::RecoveryKey,
        _ => return Err(wrong("by")),
    };
    let salt = from_hex(&fields.salt).ok_or_else(|| wrong("salt"))?;
    let key = from_hex(&fields.key).ok_or_else(|| wrong("key"))?;
    let lock = Lock { by, rounds: fields.rounds, salt };
    let sealing = agent.backup(lock, FileKey::from_bytes(key), signature(&agent.sight(), &caller)).await?;
    let pieces = sealing.map(|piece| Ok::<_, Infallible>(Bytes::from(piece)));
    let mut response = Response::new(Body::from_stream(stream::iter(pieces)));
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}

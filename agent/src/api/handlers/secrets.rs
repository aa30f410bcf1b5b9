//! Secrets: what is set, never to what. A value comes in as the body of a request, is sealed, and is in no answer, no error and no log.

use axum::extract::{Extension, State};
use axum::response::Response;
use hirsel_model::AppName;
use hirsel_model::control::{Command, SEALING_KEY};
use hirsel_model::secret::{SECRET_BYTES_MAX, Sealed, SecretId};
use serde::Deserialize;

use super::changes::{Change, ChangeParams, Changed, carry_out};
use super::{AgentState, Params, Part, Text, answer};
use crate::api::auth::Caller;
use crate::api::envelope::Envelope;
use crate::api::error::{ApiError, Code, ErrorBody};
use crate::api::views::secrets::{self, Sealing, Secret};

/// How often a value is sealed again when another key came into force meanwhile.
pub(super) const TRIES_MAX: usize = 4;

/// Which secret, besides its name, and the flags of every change.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SecretParams {
    /// The application it belongs to; the whole cluster when none is given.
    app: Option<String>,
    plan: bool,
    if_index: Option<u64>,
    force: Option<String>,
}

impl SecretParams {
    fn parts(self, name: &str) -> Result<(SecretId, ChangeParams), ApiError> {
        let wrong = |what: &str, error: &dyn std::fmt::Display| ApiError::new(Code::Usage, format!("{what}: {error}"));
        let name = name.parse().map_err(|error| wrong("name of the secret", &error))?;
        let app = self.app.map(|app| app.parse::<AppName>()).transpose();
        let app = app.map_err(|error| wrong("name of the application", &error))?;
        let Self { plan, if_index, force, .. } = self;
        Ok((SecretId { app, name }, ChangeParams { plan, if_index, force }))
    }
}

/// The secrets there are, and who uses them.
#[utoipa::path(get, path = "/v1/secrets", responses((status = 200, body = Envelope<Vec<Secret>>)))]
pub async fn list(State(agent): State<AgentState>) -> Response {
    let sight = agent.sight();
    answer(&sight, secrets::secrets(&sight))
}

/// Which key seals them: what it is recognized by, not the key.
#[utoipa::path(get, path = "/v1/sealing", responses((status = 200, body = Envelope<Sealing>)))]
pub async fn sealing(State(agent): State<AgentState>) -> Response {
    let sight = agent.sight();
    answer(&sight, secrets::sealing(&sight))
}

/// Sets a secret. Services that use it are updated.
#[utoipa::path(put, path = "/v1/secrets/{name}", params(("name", description = "secret"), ("app" = Option<String>, Query, description = "the application it belongs to")),
    request_body(content = String, content_type = "text/plain", description = "the value"),
    responses((status = 200, body = Envelope<Changed>), (status = 400, body = ErrorBody)))]
pub async fn set(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Part(name): Part<String>,
    Params(params): Params<SecretParams>,
    Text(value): Text,
) -> Result<Response, ApiError> {
    let (id, params) = params.parts(&name)?;
    check_value(&id, &value)?;
    for tried in 1.. {
        let sight = agent.sight();
        let words = |error| {
            ApiError::new(Code::NoLeader, format!("secret {id} cannot be sealed: {error}")).next("hirsel status")
        };
        let sealed = agent.seal(&id, value.clone()).await.map_err(words)?;
        if sealed.same && !params.plan {
            let did = format!("secret {id} has this value already");
            return Ok(answer(&sight, Changed { did, undo: None, index: sight.state.applied.0 }));
        }
        let known = sight.state.secrets.get(&id).is_some();
        let users = secrets::users(&sight, &id);
        let rolls = match users.len() {
            0 => String::new(),
            _ => format!("; {} gets it, instances one after another", users.join(", ")),
        };
        let app = id.app.as_ref().map(|app| format!(" --app {app}")).unwrap_or_default();
        let change = Change {
            did: format!("{} secret {id}{rolls}", if known { "changed" } else { "set" }),
            undo: Some(match known {
                true => format!("hirsel secret set {}{app} with the former value", id.name),
                false => format!("hirsel secret rm {}{app}", id.name),
            }),
            command: Command::SetSecret { id: id.clone(), sealed: Sealed(sealed.sealed), key: sealed.key },
        };
        match carry_out(&agent, &caller, &params, change).await {
            Err(error) if error.message.starts_with(SEALING_KEY) && tried < TRIES_MAX => {
                let _ = tokio::time::timeout(super::changes::CATCH_UP, agent.beyond(sight.state.applied)).await;
            }
            done => return done,
        }
    }
    Err(ApiError::new(Code::Conflict, "the sealing key changes all the time; try again"))
}

/// A program gets it as a variable of its environment.
fn check_value(id: &SecretId, value: &str) -> Result<(), ApiError> {
    let wrong = |what: String| Err(ApiError::new(Code::Usage, format!("value of secret {id} {what}")));
    match value {
        "" => wrong("is empty".into()),
        _ if value.len() > SECRET_BYTES_MAX => wrong(format!("of {} bytes exceeds {SECRET_BYTES_MAX}", value.len())),
        _ if value.contains('\0') => wrong("holds a zero byte, which no program can be given".into()),
        _ => Ok(()),
    }
}

/// Forgets a secret that no service uses.
#[utoipa::path(delete, path = "/v1/secrets/{name}", params(("name", description = "secret"), ("app" = Option<String>, Query, description = "the application it belongs to")),
    responses((status = 200, body = Envelope<Changed>), (status = 404, body = ErrorBody)))]
pub async fn remove(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Part(name): Part<String>,
    Params(params): Params<SecretParams>,
) -> Result<Response, ApiError> {
    let (id, params) = params.parts(&name)?;
    let sight = agent.sight();
    if sight.state.secrets.get(&id).is_none() {
        let known: Vec<String> = sight.state.secrets.all().map(|(id, _)| id.to_string()).collect();
        return Err(ApiError::not_found("secret", &id.to_string(), known.iter().map(String::as_str)));
    }
    let undo = Some(format!("hirsel secret set {} with its value", id.name));
    let change = Change { did: format!("removed secret {id}"), undo, command: Command::RemoveSecret { id } };
    carry_out(&agent, &caller, &params, change).await
}

/// Seals everything with a new key.
#[utoipa::path(post, path = "/v1/sealing/rotate", responses((status = 200, body = Envelope<Changed>)))]
pub async fn rotate(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    let did = "the leader hands a new sealing key to all voters and spares, and seals everything with it".into();
    carry_out(&agent, &caller, &params, Change { did, undo: None, command: Command::RotateSealing }).await
}

//! Access keys of the object store. A secret is drawn here, is in the answer to who asked for the key, and in no other, no error and no
//! log.

use axum::extract::{Extension, State};
use axum::response::Response;
use hirsel_model::access::{ACCOUNT, AccessKeyId, BucketPattern, Change as AccessChange, May, NewAccessKey as New};
use hirsel_model::control::{Command, SEALING_KEY};
use hirsel_model::secret::Sealed;
use serde::Deserialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::changes::{CATCH_UP, Change, ChangeParams, Changed, carry_out, propose};
use super::secrets::TRIES_MAX;
use super::{AgentState, Fields, Params, Part, answer};
use crate::api::auth::Caller;
use crate::api::envelope::Envelope;
use crate::api::error::{ApiError, Code, ErrorBody};
use crate::api::views::access::{self, AccessKey, NewAccessKey};

/// The access key to make.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AccessKeyFields {
    /// What it is for, in words.
    name: String,
    /// For which account it acts; `main` when none is given.
    account: Option<String>,
    /// With which buckets: names, or beginnings of names with `*` behind; all when none is given.
    buckets: Vec<String>,
    /// Whether it may only read and list.
    read_only: bool,
    /// Whether it may not make or remove buckets.
    makes_no_buckets: bool,
}

impl AccessKeyFields {
    fn may(&self) -> Result<May, ApiError> {
        let wrong = |error: hirsel_model::access::BucketPatternError| ApiError::new(Code::Usage, error.to_string());
        let buckets = self.buckets.iter().map(|text| text.parse().map_err(wrong)).collect::<Result<_, _>>()?;
        let buckets = if self.buckets.is_empty() { [BucketPattern::all()].into() } else { buckets };
        let makes_buckets = !self.read_only && !self.makes_no_buckets;
        Ok(May { buckets, reads_only: self.read_only, makes_buckets })
    }
}

/// The access keys there are.
#[utoipa::path(get, path = "/v1/access-keys", responses((status = 200, body = Envelope<Vec<AccessKey>>)))]
pub async fn list(State(agent): State<AgentState>) -> Response {
    let sight = agent.sight();
    answer(&sight, access::access_keys(&sight))
}

/// Makes an access key. Its secret is in the answer and nowhere else.
#[utoipa::path(post, path = "/v1/access-keys", request_body = AccessKeyFields,
    responses((status = 200, body = Envelope<NewAccessKey>), (status = 400, body = ErrorBody)))]
pub async fn create(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Params(params): Params<ChangeParams>,
    Fields(fields): Fields<AccessKeyFields>,
) -> Result<Response, ApiError> {
    let account = fields.account.as_deref().unwrap_or(ACCOUNT);
    let account =
        account.parse().map_err(|error| ApiError::new(Code::Usage, format!("name of the account: {error}")))?;
    let new = |sealed, key| -> Result<New, ApiError> {
        Ok(New { account: Clone::clone(&account), may: fields.may()?, about: fields.name.clone(), sealed, key })
    };
    for tried in 1.. {
        let sight = agent.sight();
        let (id, secret) = agent.draw_access_key();
        let words = |error| {
            ApiError::new(Code::NoLeader, format!("the access key cannot be sealed: {error}")).next("hirsel status")
        };
        let sealed = agent.seal_access_key(&id, secret.clone()).await.map_err(words)?;
        let new = new(Sealed(sealed.sealed), sealed.key)?;
        let command = Command::Access { change: AccessChange::Create { id: id.clone(), new } };
        if params.plan {
            let did = format!("an access key for account {account}");
            return carry_out(&agent, &caller, &params, Change { command, did, undo: None }).await;
        }
        match propose(&agent, &caller, &params, command).await {
            Err(error) if error.message.starts_with(SEALING_KEY) && tried < TRIES_MAX => {
                let _ = timeout(CATCH_UP, agent.beyond(sight.state.applied)).await;
            }
            Err(error) => return Err(error),
            Ok(_) => {
                // Whoever uses it at once, here, is known.
                let _ = timeout(CATCH_UP, agent.has_access_key(&id)).await;
                let sight = agent.sight();
                let made = NewAccessKey {
                    access_key_id: id.to_string(),
                    secret_access_key: secret,
                    endpoint: access::endpoint(&sight),
                    region: sight.config.s3_region.clone(),
                    name: fields.name.clone(),
                    account: account.to_string(),
                };
                return Ok(answer(&sight, made));
            }
        }
    }
    Err(ApiError::new(Code::Conflict, "the sealing key changes all the time; try again"))
}

/// Takes an access key back.
#[utoipa::path(delete, path = "/v1/access-keys/{id}", params(("id", description = "id of the access key")),
    responses((status = 200, body = Envelope<Changed>), (status = 404, body = ErrorBody)))]
pub async fn remove(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Part(id): Part<String>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    let id: AccessKeyId = id.parse().map_err(|error: hirsel_model::access::AccessKeyIdError| {
        ApiError::new(Code::Usage, error.to_string()).next("hirsel bucket key list")
    })?;
    let command = Command::Access { change: AccessChange::Remove { id: id.clone() } };
    let change = Change { did: format!("removed access key {id}"), undo: None, command };
    carry_out(&agent, &caller, &params, change).await
}

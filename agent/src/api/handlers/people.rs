//! Tokens, and the webhook.

use axum::extract::{Extension, State};
use axum::response::Response;
use hirsel_model::WallTime;
use hirsel_model::control::{Command, TokenGrants, TokenRecord};
use serde::Deserialize;
use utoipa::ToSchema;

use super::changes::{Change, ChangeParams, Changed, carry_out, propose};
use super::{AgentState, Fields, Params, Part, answer};
use crate::api::auth::Caller;
use crate::api::envelope::Envelope;
use crate::api::error::{ApiError, Code, ErrorBody};
use crate::api::sight::rfc3339;
use crate::api::views::tokens::{NewToken, grants_word};

/// A join token is good for an hour: long enough to set up a rack, short enough to be found in a shell history without harm.
const JOIN_TTL_S: u64 = 3_600;
/// A person's token is good for a month.
const PERSON_TTL_S: u64 = 30 * 24 * 3_600;
/// No token is good for longer than ten years.
const TTL_S_MAX: u64 = 10 * 365 * 24 * 3_600;

/// The token to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenFields {
    /// `join`, `viewer`, `operator`, `admin`.
    #[schema(value_type = String)]
    grants: TokenGrants,
    /// How many uses; any number when none is given.
    uses: Option<u32>,
    /// For how long, in seconds.
    ttl_s: Option<u64>,
}

/// Gives out a token. Its word is in the answer and nowhere else.
#[utoipa::path(post, path = "/v1/tokens", request_body = TokenFields, responses((status = 200, body = Envelope<NewToken>), (status = 403, body = ErrorBody)))]
pub async fn new_token(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Params(params): Params<ChangeParams>,
    Fields(fields): Fields<TokenFields>,
) -> Result<Response, ApiError> {
    let usual = if fields.grants == TokenGrants::Join { JOIN_TTL_S } else { PERSON_TTL_S };
    let ttl_s = fields.ttl_s.unwrap_or(usual);
    if ttl_s == 0 || ttl_s > TTL_S_MAX {
        return Err(ApiError::new(Code::Usage, format!("a life of {ttl_s} s is not between 1 and {TTL_S_MAX} s")));
    }
    if fields.uses == Some(0) {
        return Err(ApiError::new(Code::Usage, "a token without uses is good for nothing"));
    }
    let minted = agent.mint();
    let expires_at = WallTime(agent.sight().wall.0.saturating_add(ttl_s * 1000));
    let record = TokenRecord {
        secret_hash: minted.secret_hash,
        grants: fields.grants,
        expires_at,
        uses_left: fields.uses,
        revoked: false,
    };
    let command = Command::NewToken { id: minted.id.clone(), record };
    if params.plan {
        let did = format!("a token for {}", grants_word(fields.grants));
        return carry_out(&agent, &caller, &params, Change { command, did, undo: None }).await;
    }
    propose(&agent, &caller, &params, command).await?;
    let made = NewToken {
        id: minted.id,
        token: minted.word,
        grants: grants_word(fields.grants).into(),
        expires_at: rfc3339(expires_at),
        uses: fields.uses,
    };
    Ok(answer(&agent.sight(), made))
}

/// Takes a token back.
#[utoipa::path(delete, path = "/v1/tokens/{id}", params(("id", description = "public part, or the whole token")),
    responses((status = 200, body = Envelope<Changed>), (status = 404, body = ErrorBody)))]
pub async fn revoke(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Part(id): Part<String>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    let id = agent.read_token(&id).map_or(id, |parts| parts.id);
    let change = Change {
        did: format!("revoked token {id}"),
        undo: Some("hirsel token new".into()),
        command: Command::RevokeToken { id },
    };
    carry_out(&agent, &caller, &params, change).await
}

/// Where to post.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookFields {
    /// An `http://` or `https://` address; none to post nowhere.
    url: Option<String>,
}

/// Longest address of a webhook.
const URL_BYTES_MAX: usize = 2_048;

/// Sets or removes the webhook that is told when less can be lost than before.
#[utoipa::path(put, path = "/v1/webhook", request_body = WebhookFields, responses((status = 200, body = Envelope<Changed>), (status = 400, body = ErrorBody)))]
pub async fn set_webhook(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Params(params): Params<ChangeParams>,
    Fields(fields): Fields<WebhookFields>,
) -> Result<Response, ApiError> {
    if let Some(url) = &fields.url {
        check_url(url)?;
    }
    let before = agent.sight().state.cluster.webhook.clone();
    let change = Change {
        did: match &fields.url {
            Some(url) => format!("a drop of can_lose is posted to {url}"),
            None => "a drop of can_lose is posted nowhere".into(),
        },
        undo: Some(match before {
            Some(before) => format!("hirsel webhook set {before}"),
            None => "hirsel webhook rm".into(),
        }),
        command: Command::SetWebhook { url: fields.url },
    };
    carry_out(&agent, &caller, &params, change).await
}

fn check_url(url: &str) -> Result<(), ApiError> {
    let wrong = |why: &str| Err(ApiError::new(Code::Usage, format!("webhook {url:.200?}: {why}")));
    if url.len() > URL_BYTES_MAX {
        return wrong("too long");
    }
    match url.parse::<http::Uri>() {
        Ok(uri) if !matches!(uri.scheme_str(), Some("http" | "https")) => wrong("expected http:// or https://"),
        Ok(uri) if uri.host().is_none_or(str::is_empty) => wrong("it names no host"),
        Ok(_) => Ok(()),
        Err(error) => wrong(&error.to_string()),
    }
}

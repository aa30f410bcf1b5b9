//! Commands about tokens and the webhook.

use super::limits::{TOKENS_MAX, WEBHOOK_BYTES_MAX, WORD_BYTES_MAX, at_most, cut};
use super::{Context, ControlState, Outcome, Refusal, TokenGrants, TokenRecord, not_found};

/// Bytes of a SHA-256 hash.
const HASH_BYTES: usize = 32;

pub(super) fn new_token(
    state: &mut ControlState,
    context: &Context,
    id: String,
    record: TokenRecord,
) -> Result<Outcome, Refusal> {
    at_most(|| "token id in bytes".into(), id.len(), WORD_BYTES_MAX)?;
    if record.secret_hash.len() != HASH_BYTES {
        return Err(Refusal::Invalid(format!("hash of {} bytes is no SHA-256", record.secret_hash.len())));
    }
    match state.tokens.get(&id) {
        Some(known) if *known == record => return Ok(context.done()),
        Some(_) => return Err(Refusal::Invalid(format!("token {id} exists already"))),
        None => (),
    }
    let good = |record: &TokenRecord| !record.revoked && record.expires_at > context.at && record.uses_left != Some(0);
    let full = state.tokens.len() >= TOKENS_MAX;
    if full {
        at_most(
            || "number of tokens".into(),
            state.tokens.values().filter(|known| good(known)).count() + 1,
            TOKENS_MAX,
        )?;
        state.tokens.retain(|_, known| good(known));
    }
    let message = match record.grants {
        TokenGrants::Join => format!("join token {id} was made"),
        TokenGrants::Viewer => format!("token {id} for a viewer was made"),
        TokenGrants::Operator => format!("token {id} for an operator was made"),
        TokenGrants::Admin => format!("token {id} for an admin was made"),
    };
    state.tokens.insert(id.clone(), record);
    context.happened(state, format!("token/{id}"), &message);
    Ok(context.done())
}

pub(super) fn revoke_token(state: &mut ControlState, context: &Context, id: String) -> Result<Outcome, Refusal> {
    let record = state.tokens.get_mut(&id).ok_or_else(|| not_found("token", cut(&id, WORD_BYTES_MAX)))?;
    if record.revoked {
        return Ok(context.done());
    }
    record.revoked = true;
    context.happened(state, format!("token/{id}"), &format!("token {id} was revoked"));
    Ok(context.done())
}

pub(super) fn set_webhook(
    state: &mut ControlState,
    context: &Context,
    url: Option<String>,
) -> Result<Outcome, Refusal> {
    if let Some(url) = &url {
        at_most(|| "webhook address in bytes".into(), url.len(), WEBHOOK_BYTES_MAX)?;
        if !(url.starts_with("http://") || url.starts_with("https://")) {
            let shown = cut(url, 64);
            return Err(Refusal::Invalid(format!("webhook {shown:?} is no address: use http://… or https://…")));
        }
    }
    if state.cluster.webhook == url {
        return Ok(context.done());
    }
    let message = if url.is_some() { "the webhook was set" } else { "the webhook was removed" };
    state.cluster.webhook = url;
    context.happened(state, "webhook", message);
    Ok(context.done())
}

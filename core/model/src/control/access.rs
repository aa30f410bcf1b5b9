//! Commands about access keys and master keys of the object store.

use std::sync::Arc;

use super::limits::at_most;
use super::{Context, ControlState, Outcome, Refusal, not_found, secrets};
use crate::access::{
    ABOUT_BYTES_MAX, AccessKey, AccessKeyId, Change, KEYS_MAX, MASTER_KEY_BYTES, MASTER_KEYS_MAX, MasterKey,
    NewAccessKey, PATTERNS_MAX, SECRET_BYTES,
};
use crate::secret::{SEAL_BYTES_MAX, Sealed};

pub(super) fn change(state: &mut ControlState, context: &Context, change: Change) -> Result<Outcome, Refusal> {
    match change {
        Change::Create { id, new } => create(state, context, id, new),
        Change::Remove { id } => remove(state, context, &id),
        Change::DrawMaster { base, sealed, key } => draw_master(state, context, base, sealed, &key),
    }
}

fn create(state: &mut ControlState, context: &Context, id: AccessKeyId, new: NewAccessKey) -> Result<Outcome, Refusal> {
    secrets::check_key(state, &new.key)?;
    let NewAccessKey { account, may, about, sealed, key: _ } = new;
    let invalid = |what: &str| Err(Refusal::Invalid(format!("access key {id} {what}")));
    if state.access.keys.contains_key(&id) {
        return invalid("is there already");
    }
    if sealed.0.is_empty() {
        return invalid("has no secret");
    }
    if may.buckets.is_empty() {
        return invalid("is for no bucket");
    }
    if may.reads_only && may.makes_buckets {
        return invalid("would make buckets and only read");
    }
    at_most(|| "number of access keys".into(), state.access.keys.len() + 1, KEYS_MAX)?;
    at_most(|| format!("buckets of access key {id}"), may.buckets.len(), PATTERNS_MAX)?;
    at_most(|| format!("description of access key {id} in bytes"), about.len(), ABOUT_BYTES_MAX)?;
    at_most(|| format!("secret of access key {id} in bytes"), sealed.0.len(), SECRET_BYTES + SEAL_BYTES_MAX)?;
    if about.chars().any(char::is_control) {
        return invalid("has a description of more than one line, or with characters that cannot be printed");
    }
    let access = &mut state.access;
    access.last = access.last.saturating_add(1);
    let message = format!("access key {id} was made, for account {account}");
    let made = AccessKey { version: access.last, at: context.at, account, may, about, secret: sealed };
    access.keys.insert(id.clone(), Arc::new(made));
    context.happened(state, subject(&id), &message);
    Ok(context.done())
}

fn remove(state: &mut ControlState, context: &Context, id: &AccessKeyId) -> Result<Outcome, Refusal> {
    if state.access.keys.remove(id).is_none() {
        return Err(not_found("access key", id));
    }
    context.happened(state, subject(id), &format!("access key {id} was removed"));
    Ok(context.done())
}

fn draw_master(
    state: &mut ControlState,
    context: &Context,
    base: u64,
    sealed: Sealed,
    key: &str,
) -> Result<Outcome, Refusal> {
    secrets::check_key(state, key)?;
    let found = state.access.newest_master();
    if base != found {
        return Err(Refusal::Conflict { what: "newest master key".into(), expected: base, found });
    }
    if sealed.0.is_empty() {
        return Err(Refusal::Invalid("the master key is empty".into()));
    }
    at_most(|| "number of master keys".into(), state.access.master.len() + 1, MASTER_KEYS_MAX)?;
    at_most(|| "master key in bytes".into(), sealed.0.len(), MASTER_KEY_BYTES + SEAL_BYTES_MAX)?;
    let access = &mut state.access;
    access.last = access.last.saturating_add(1);
    let version = access.last;
    access.master.insert(version, MasterKey { at: context.at, key: sealed });
    context.happened(state, "access", &format!("master key {version} of the object store was drawn"));
    Ok(context.done())
}

fn subject(id: &AccessKeyId) -> String {
    format!("access-key/{id}")
}

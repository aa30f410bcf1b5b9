//! Commands about access keys and master keys of the object store. An application with buckets has one key, which may use these and nothing
//! else; it follows what is applied.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::limits::at_most;
use super::{Context, ControlState, Outcome, Refusal, apps, not_found, secrets};
use crate::access::{
    ABOUT_BYTES_MAX, AccessKey, AccessKeyId, Change, KEYS_MAX, MASTER_KEY_BYTES, MASTER_KEYS_MAX, MasterKey, May,
    NewAccessKey, PATTERNS_MAX, SECRET_BYTES,
};
use crate::id::{AppName, ServiceName};
use crate::secret::{SEAL_BYTES_MAX, Sealed};
use crate::spec::{account, asks_for_key};

pub(super) fn change(state: &mut ControlState, context: &Context, change: Change) -> Result<Outcome, Refusal> {
    match change {
        Change::Create { id, new } => create(state, context, id, new),
        Change::CreateForApp { app, id, sealed, key } => create_for_app(state, context, app, id, (sealed, &key)),
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
    let app = state.access.apps.iter().find(|(_, its)| *its == id).map(|(app, _)| app.clone());
    if let Some(app) = app {
        state.access.apps.remove(&app);
        begin_anew(state, context, &app, id);
    }
    Ok(context.done())
}

/// Programs that run with the key of `app`, which is gone, are replaced: the leader draws another one, and those that come wait for it.
fn begin_anew(state: &mut ControlState, context: &Context, app: &AppName, id: &AccessKeyId) {
    let Some(spec) = state.spec.apps.get(app).filter(|spec| !spec.buckets.is_empty()) else { return };
    let asking = spec.services.iter().filter(|(_, service)| asks_for_key(service)).map(|(name, _)| name.clone());
    let asking: BTreeSet<ServiceName> = asking.collect();
    if asking.is_empty() {
        return;
    }
    let revision = apps::replace(state, app, &asking);
    state.spec_index = context.index;
    let names: Vec<String> = asking.iter().map(|name| format!("{app}/{name}")).collect();
    let message = format!("{} gets another access key than {id}: revision {revision}", names.join(", "));
    context.happened(state, app, &message);
}

/// Makes the key of an application: what it may do is not asked of whoever drew it.
fn create_for_app(
    state: &mut ControlState,
    context: &Context,
    app: AppName,
    id: AccessKeyId,
    (sealed, key): (Sealed, &str),
) -> Result<Outcome, Refusal> {
    let wants = state.spec.apps.get(&app).filter(|spec| !spec.buckets.is_empty());
    let Some((spec, account)) = wants.and_then(|spec| Some((spec, account(&app)?))) else {
        return Err(Refusal::Invalid(format!("application {app} wants no bucket")));
    };
    if let Some(there) = state.access.apps.get(&app) {
        return Err(Refusal::Invalid(format!("application {app} has access key {there} already")));
    }
    let may = May { buckets: spec.bucket_patterns(&app).collect(), reads_only: false, makes_buckets: false };
    let about = format!("application {app}");
    create(state, context, id.clone(), NewAccessKey { account, may, about, sealed, key: key.into() })?;
    state.access.apps.insert(app, id);
    Ok(context.done())
}

/// The key of `app` may use what it wants now. One of an application that wants nothing more stays until nobody runs with it
/// ([`crate::access::key_step`]).
pub(super) fn follow(state: &mut ControlState, app: &AppName) {
    let Some(spec) = state.spec.apps.get(app).filter(|spec| !spec.buckets.is_empty()) else { return };
    let Some(key) = state.access.apps.get(app).and_then(|id| state.access.keys.get_mut(id)) else { return };
    let buckets = spec.bucket_patterns(app).collect();
    if key.may.buckets != buckets {
        Arc::make_mut(key).may.buckets = buckets;
    }
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

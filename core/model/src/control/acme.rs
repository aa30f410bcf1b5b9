//! Commands about certificates that the cluster gets by itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::limits::{HOST_BYTES_MAX, at_most};
use super::{Context, ControlState, Outcome, Refusal, not_found, secrets};
use crate::acme::{
    Account, Binding, Brought, CONTACT_BYTES_MAX, CONTACTS_MAX, Challenge, Change, KEY_BYTES_MAX, KID_BYTES_MAX,
    NewBinding, NewSettings, ORDERS_MAX, ROOTS_BYTES_MAX, Settings, TOKEN_BYTES_MAX, Trouble, URL_BYTES_MAX,
    WORDS_BYTES_MAX, Window, certificate, hosts,
};
use crate::id::CertificateName;
use crate::secret::Sealed;

const SUBJECT: &str = "acme";

pub(super) fn change(state: &mut ControlState, context: &Context, change: Change) -> Result<Outcome, Refusal> {
    match change {
        Change::Set { settings } => set(state, context, settings),
        Change::Off => off(state, context),
        Change::Account { directory, id, sealed, key } => account(state, context, directory, id, sealed, &key),
        Change::ForgetAccount { id } => forget_account(state, context, &id),
        Change::Offer { host, challenge } => offer(state, context, host, challenge),
        Change::Withdraw { hosts } => withdraw(state, context, &hosts),
        Change::Failed { host, trouble } => failed(state, context, host, trouble),
        Change::Renew { host } => renew(state, context, host),
        Change::Window { name, window } => set_window(state, context, &name, window),
    }
}

fn set(state: &mut ControlState, context: &Context, new: NewSettings) -> Result<Outcome, Refusal> {
    let NewSettings { directory, contacts, roots, way, binding } = new;
    at_most(|| "URL of the directory in bytes".into(), directory.len(), URL_BYTES_MAX)?;
    if !directory.starts_with("https://") {
        return Err(Refusal::Invalid("a directory has a URL that begins with https:// (RFC 8555, section 6.1)".into()));
    }
    at_most(|| "number of contacts".into(), contacts.len(), CONTACTS_MAX)?;
    let longest = contacts.iter().map(String::len).max().unwrap_or_default();
    at_most(|| "a contact in bytes".into(), longest, CONTACT_BYTES_MAX)?;
    at_most(|| "roots of the directory in bytes".into(), roots.len(), ROOTS_BYTES_MAX)?;
    let binding = match binding {
        None => None,
        Some(NewBinding { kid, sealed, key }) => {
            secrets::check_key(state, &key)?;
            at_most(|| "key identifier in bytes".into(), kid.len(), KID_BYTES_MAX)?;
            check_sealed("the key of the external account", &sealed)?;
            Some(Binding { kid, version: next_version(state), key: sealed })
        }
    };
    let kid = |binding: &Option<Binding>| binding.as_ref().map(|it| it.kid.clone());
    let before = &state.acme.settings;
    let moved = before.as_ref().is_none_or(|before| {
        (&before.directory, &before.contacts, kid(&before.binding)) != (&directory, &contacts, kid(&binding))
    });
    let message = format!("certificates come from {directory}");
    let acme = &mut state.acme;
    acme.settings = Some(Settings { directory, contacts, roots, way, binding });
    if moved {
        // Whom the directory may write to is a part of the account, and another binding makes another account.
        acme.account = None;
    }
    // What failed before may not any more.
    acme.account_trouble = None;
    acme.troubles.clear();
    acme.challenges.clear();
    context.happened(state, SUBJECT, &message);
    Ok(context.done())
}

fn off(state: &mut ControlState, context: &Context) -> Result<Outcome, Refusal> {
    if state.acme.settings.is_none() {
        return Err(Refusal::Invalid("no certificate is got by itself: there is nothing to turn off".into()));
    }
    state.acme = Default::default();
    context.happened(state, SUBJECT, "no certificate is got by itself any more");
    Ok(context.done())
}

fn account(
    state: &mut ControlState,
    context: &Context,
    directory: String,
    id: String,
    sealed: Sealed,
    key: &str,
) -> Result<Outcome, Refusal> {
    secrets::check_key(state, key)?;
    at_most(|| "URL of the account in bytes".into(), id.len(), URL_BYTES_MAX)?;
    check_sealed("the key of the account", &sealed)?;
    check_directory(state, &directory)?;
    let version = next_version(state);
    let message = format!("the cluster has an account at {directory}: {id}");
    state.acme.account = Some(Account { directory, id, version, key: sealed, made_at: context.at });
    state.acme.account_trouble = None;
    context.happened(state, SUBJECT, &message);
    Ok(context.done())
}

fn check_directory(state: &ControlState, directory: &str) -> Result<(), Refusal> {
    match &state.acme.settings {
        Some(settings) if settings.directory == *directory => Ok(()),
        Some(_) | None => Err(Refusal::Invalid(format!("certificates do not come from {directory} any more"))),
    }
}

fn check_sealed(what: &str, sealed: &Sealed) -> Result<(), Refusal> {
    at_most(|| format!("{what} in bytes"), sealed.0.len(), KEY_BYTES_MAX)?;
    if sealed.0.is_empty() { Err(Refusal::Invalid(format!("{what} is empty"))) } else { Ok(()) }
}

/// From the numbers of certificates: all that is sealed beside secrets is told apart by them.
fn next_version(state: &mut ControlState) -> u64 {
    state.certificates.last = state.certificates.last.saturating_add(1);
    state.certificates.last
}

fn forget_account(state: &mut ControlState, context: &Context, id: &str) -> Result<Outcome, Refusal> {
    if state.acme.account.as_ref().is_none_or(|account| account.id != id) {
        return Err(not_found("account", id));
    }
    state.acme.account = None;
    context.happened(state, SUBJECT, &format!("the directory knows account {id} no more; another one is made"));
    Ok(context.done())
}

fn offer(state: &mut ControlState, context: &Context, host: String, challenge: Challenge) -> Result<Outcome, Refusal> {
    check_asked(state, &host)?;
    let longest = challenge.token.len().max(challenge.answer.len());
    at_most(|| format!("challenge for {host} in bytes"), longest, TOKEN_BYTES_MAX)?;
    // It becomes a part of a path, and a directory is a stranger.
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if challenge.token.is_empty() || !challenge.token.bytes().all(good) {
        return Err(Refusal::Invalid(format!("the token of the challenge for {host} is none (RFC 8555, section 8.1)")));
    }
    let others = state.acme.challenges.keys().filter(|other| **other != host).count();
    at_most(|| "number of challenges".into(), others + 1, ORDERS_MAX)?;
    state.acme.challenges.insert(host, challenge);
    Ok(context.done())
}

fn check_asked(state: &ControlState, host: &str) -> Result<(), Refusal> {
    if state.acme.settings.is_none() {
        return Err(Refusal::Invalid(format!("no certificate is got by itself, so none for {}", short(host))));
    }
    if !hosts(state).contains(host) {
        return Err(not_found("host with tls = \"auto\"", short(host)));
    }
    Ok(())
}

fn short(host: &str) -> String {
    super::limits::cut(host, HOST_BYTES_MAX)
}

fn withdraw(state: &mut ControlState, context: &Context, gone: &BTreeSet<String>) -> Result<Outcome, Refusal> {
    let asked: BTreeSet<String> = hosts(state).into_iter().map(str::to_owned).collect();
    let acme = &mut state.acme;
    acme.challenges.retain(|host, _| !gone.contains(host));
    acme.troubles.retain(|host, _| !gone.contains(host) || asked.contains(host));
    acme.wishes.retain(|host| !gone.contains(host) || asked.contains(host));
    Ok(context.done())
}

fn failed(
    state: &mut ControlState,
    context: &Context,
    host: Option<String>,
    trouble: Trouble,
) -> Result<Outcome, Refusal> {
    at_most(|| "words of a failure in bytes".into(), trouble.words.len(), WORDS_BYTES_MAX)?;
    let minutes = trouble.again_at.0.saturating_sub(trouble.at.0).div_ceil(60_000);
    let words = format!("{} (failure {}, tried again in {minutes} min)", trouble.words, trouble.failures);
    match host {
        Some(host) => {
            check_asked(state, &host)?;
            let message = format!("no certificate for {host}: {words}");
            state.acme.challenges.remove(&host);
            context.happened(state, format!("certificate/{host}"), &message);
            state.acme.troubles.insert(host, trouble);
        }
        None if state.acme.settings.is_none() => {
            return Err(Refusal::Invalid("no certificate is got by itself, so no account is needed".into()));
        }
        None => {
            state.acme.account_trouble = Some(trouble);
            context.happened(state, SUBJECT, &format!("no account at the directory: {words}"));
        }
    }
    Ok(context.done())
}

fn renew(state: &mut ControlState, context: &Context, host: String) -> Result<Outcome, Refusal> {
    check_asked(state, &host)?;
    if let Some((name, _)) = Brought::of(state).covering(&host, context.at) {
        return Err(Refusal::Invalid(format!("certificate {name}, which was brought, is good for {host}")));
    }
    state.acme.troubles.remove(&host);
    state.acme.account_trouble = None;
    let message = format!("another certificate for {host} is wanted now");
    context.happened(state, format!("certificate/{host}"), &message);
    state.acme.wishes.insert(host);
    Ok(context.done())
}

fn set_window(
    state: &mut ControlState,
    context: &Context,
    name: &CertificateName,
    window: Option<Window>,
) -> Result<Outcome, Refusal> {
    if let Some(window) = &window {
        at_most(|| format!("URL of an explanation for {name} in bytes"), window.url.len(), URL_BYTES_MAX)?;
        if window.end < window.start {
            return Err(Refusal::Invalid(format!("the time to renew {name} ends before it begins")));
        }
    }
    if certificate(state, name.as_str()).is_none() {
        return Err(not_found("certificate that came by itself", name));
    }
    let set = state.certificates.named.get_mut(name).map(Arc::make_mut).and_then(|it| it.automatic.as_mut());
    if let Some(automatic) = set {
        automatic.window = window;
    }
    Ok(context.done())
}

/// What a certificate that came by itself puts an end to.
pub(super) fn issued(state: &mut ControlState, name: &CertificateName) {
    let acme = &mut state.acme;
    acme.challenges.remove(name.as_str());
    acme.troubles.remove(name.as_str());
    acme.wishes.remove(name.as_str());
}

//! Commands about secrets, and about the key that seals them.
//!
//! What is sealed comes sealed, with the name of the key; what was sealed with another key than the one in force is refused, so that
//! everything that is kept opens with one key at every moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::limits::at_most;
use super::record::record;
use super::{Context, ControlState, Outcome, Refusal, apps, not_found};
use crate::access::SEALED_BYTES_MAX as ACCESS_BYTES_MAX;
use crate::certificate::KEYS_BYTES_MAX;
use crate::dnssec::KEYS_BYTES_MAX as ZONE_KEYS_BYTES_MAX;
use crate::event::{Cause, EventKind, NewEvent};
use crate::id::*;
use crate::secret::{SEAL_BYTES_MAX, SECRET_BYTES_MAX, SECRETS_BYTES_MAX, SECRETS_MAX, Sealed, SecretId, Secrets};
use crate::spec::AppSpec;
use crate::tickets::KEYS_BYTES_MAX as TICKET_KEYS_BYTES_MAX;

/// The key that seals the secrets, the authority's key and those of certificates. The key itself is in no control state.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealing {
    /// What the key in force is recognized by: a hash of it. Empty in a cluster that was founded before there were such names.
    pub key: String,
    /// Every node that may have got it: whoever voted or was a spare since it is in force.
    pub holders: BTreeSet<NodeId>,
    /// An operator wants another one.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    pub wanted: bool,
}

/// Everything sealed anew.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resealed {
    /// The key that was in force.
    pub base: String,
    /// The one that shall be.
    pub key: String,
    /// Who has got it, durably.
    pub holders: BTreeSet<NodeId>,
    /// Certificate of the authority whose key was sealed.
    pub ca: Sealed,
    /// That key.
    pub ca_key: Sealed,
    /// The values of all secrets, by version.
    pub values: BTreeMap<u64, Sealed>,
    /// The keys of all certificates of the front door, and of the account where more of them come from, by version.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub certificates: BTreeMap<u64, Sealed>,
    /// The keys of TLS tickets, by version.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tickets: BTreeMap<u64, Sealed>,
    /// The secrets of access keys, and the master keys of the object store, by version.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub access: BTreeMap<u64, Sealed>,
    /// The keys of zones, by version.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub zones: BTreeMap<u64, Sealed>,
}

/// Where the newest value of a secret is kept.
fn place<'a>(secrets: &'a mut Secrets, id: &SecretId) -> &'a mut BTreeMap<SecretName, crate::secret::Secret> {
    match &id.app {
        Some(app) => secrets.apps.entry(app.clone()).or_default(),
        None => &mut secrets.cluster,
    }
}

pub(super) fn set(
    state: &mut ControlState,
    context: &Context,
    id: SecretId,
    sealed: Sealed,
    key: &str,
) -> Result<Outcome, Refusal> {
    check_key(state, key)?;
    at_most(|| format!("value of secret {id} in bytes"), sealed.0.len(), SECRET_BYTES_MAX + SEAL_BYTES_MAX)?;
    let known = state.secrets.get(&id).is_some();
    at_most(|| "number of secrets".into(), state.secrets.all().count() + usize::from(!known), SECRETS_MAX)?;
    let bytes = state.secrets.bytes() + sealed.0.len();
    at_most(|| "all secrets together in bytes".into(), bytes, SECRETS_BYTES_MAX)?;

    state.secrets.last += 1;
    let version = state.secrets.last;
    let secret = place(&mut state.secrets, &id).entry(id.name.clone()).or_default();
    secret.set_at = context.at;
    secret.values.insert(version, sealed);
    context.happened(state, subject(&id), &format!("secret {id} was {}", if known { "changed" } else { "set" }));
    roll_out(state, context, &id);
    Ok(context.done())
}

pub(super) fn remove(state: &mut ControlState, context: &Context, id: SecretId) -> Result<Outcome, Refusal> {
    if state.secrets.get(&id).is_none() {
        return Err(not_found("secret", &id));
    }
    let mut without = state.secrets.clone();
    place(&mut without, &id).remove(&id.name);
    without.apps.retain(|_, own| !own.is_empty());
    let lost = |(app, spec): (&AppName, &AppSpec)| -> Vec<String> {
        let broken = spec.services.iter().filter(|(_, service)| without.resolve(app, service).is_err());
        let services = broken.map(|(name, _)| format!("{app}/{name}"));
        let open = |name: &SecretName| without.meant(app, name).is_none();
        let routes = spec.routes.iter().filter(|route| route.secrets().iter().any(open));
        services.chain(routes.map(|route| format!("{app}, route {route}"))).collect()
    };
    let users: Vec<String> = state.spec.apps.iter().flat_map(lost).collect();
    if let Some(first) = users.first() {
        let more = users.len() - 1;
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        return Err(Refusal::Unsafe(format!(
            "secret {id} is used by {first}{more}; apply the application without it first"
        )));
    }
    state.secrets = without;
    context.happened(state, subject(&id), &format!("secret {id} was removed"));
    roll_out(state, context, &id);
    Ok(context.done())
}

/// Services that would run with another value now get a new revision: the plan replaces their instances as for any other change.
fn roll_out(state: &mut ControlState, context: &Context, id: &SecretId) {
    let mut events = Vec::new();
    let names: Vec<AppName> = state.spec.apps.keys().cloned().collect();
    for app in names {
        let Some(spec) = state.spec.apps.get_mut(&app) else { continue };
        let old = spec.clone();
        let revision = spec.revision.next();
        let mut changed = Vec::new();
        for (name, service) in &mut spec.services {
            match state.secrets.resolve(&app, service) {
                Ok(now) if now != service.secrets => {
                    service.secrets = now;
                    service.revision = revision;
                    changed.push(format!("{app}/{name}"));
                }
                Ok(_) | Err(_) => {}
            }
        }
        if changed.is_empty() {
            continue;
        }
        spec.revision = revision;
        apps::keep_former(state, &app, old);
        events.push(NewEvent {
            kind: EventKind::Happened,
            subject: app.to_string(),
            message: format!("{} gets the new value of secret {id}: revision {revision}", changed.join(", ")),
            cause: Cause::Subject(subject(id)),
            rejected: Vec::new(),
        });
    }
    if !events.is_empty() {
        state.spec_index = context.index;
        record(state, context.at, events);
    }
    forget_old(state);
}

fn subject(id: &SecretId) -> String {
    format!("secret/{id}")
}

/// Drops values that are not the newest and that no description names any more.
pub(super) fn forget_old(state: &mut ControlState) {
    if state.secrets.all().all(|(_, secret)| secret.values.len() < 2) {
        return;
    }
    let current = state.spec.apps.values().flat_map(|app| app.services.values());
    let former = state.former.values().flat_map(BTreeMap::values).flat_map(BTreeMap::values);
    let in_use: BTreeSet<u64> = current.chain(former).flat_map(|service| service.secrets.values().copied()).collect();
    let own = state.secrets.apps.values_mut().flat_map(BTreeMap::values_mut);
    for secret in state.secrets.cluster.values_mut().chain(own) {
        let newest = secret.version();
        secret.values.retain(|version, _| *version == newest || in_use.contains(version));
    }
}

/// Fills in the versions that an application's services run with.
pub(super) fn fill_in(state: &ControlState, app: &AppName, spec: &mut AppSpec) -> Result<(), Refusal> {
    for (name, service) in &mut spec.services {
        service.secrets = state.secrets.resolve(app, service).map_err(|missing| {
            Refusal::Invalid(format!(
                "service {name:?} needs secret {missing}, which is not set; try: hirsel secret set {missing}",
                name = name.as_str()
            ))
        })?;
    }
    Ok(())
}

/// Whether every agent knows how to seal.
pub(super) fn check_ready(state: &ControlState) -> Result<(), Refusal> {
    if !state.cluster.sealing.key.is_empty() {
        return Ok(());
    }
    let message = "the key that seals secrets is not ready: every agent must be of a version that knows secrets first";
    Err(Refusal::Invalid(format!("{message}; try: hirsel members")))
}

pub(super) fn check_key(state: &ControlState, key: &str) -> Result<(), Refusal> {
    check_ready(state)?;
    let sealing = &state.cluster.sealing;
    if sealing.key == key {
        return Ok(());
    }
    let number = |key: &str| u64::from_str_radix(key.get(..16).unwrap_or_default(), 16).unwrap_or_default();
    Err(Refusal::Conflict { what: SEALING_KEY.into(), expected: number(key), found: number(&sealing.key) })
}

/// What a conflict says that was compared, when something was sealed with a key that is not in force any more: seal it again.
pub const SEALING_KEY: &str = "sealing key";

pub(super) fn want_sealing(state: &mut ControlState, context: &Context) -> Result<Outcome, Refusal> {
    if !state.cluster.sealing.wanted {
        state.cluster.sealing.wanted = true;
        context.happened(state, "secrets", "all secrets shall be sealed with a new key");
    }
    Ok(context.done())
}

pub(super) fn reseal(state: &mut ControlState, context: &Context, new: Resealed) -> Result<Outcome, Refusal> {
    let sealing = &state.cluster.sealing;
    let stale = |what: &str| Err(Refusal::Invalid(format!("{what} changed meanwhile; it is sealed again")));
    if sealing.key != new.base || new.key.is_empty() {
        return stale("the sealing key");
    }
    if state.cluster.ca != new.ca.0 {
        return stale("the authority");
    }
    let missing =
        |secret: &crate::secret::Secret| secret.values.keys().any(|version| !new.values.contains_key(version));
    if state.secrets.all().any(|(_, secret)| missing(secret)) {
        return stale("a secret");
    }
    let mut certificates = new.certificates;
    if state.certificates.named.values().any(|it| !certificates.contains_key(&it.version)) {
        return stale("a certificate");
    }
    if state.acme.keys().any(|(version, ..)| !certificates.contains_key(&version)) {
        return stale("the account where certificates come from");
    }
    if state.tickets.keys.iter().any(|it| !new.tickets.contains_key(&it.version)) {
        return stale("a key of TLS tickets");
    }
    let mut access = new.access;
    if state.access.sealed().any(|(version, ..)| !access.contains_key(&version)) {
        return stale("an access key");
    }
    if state.signing.zones.values().flat_map(|it| &it.keys).any(|it| !new.zones.contains_key(&it.version)) {
        return stale("a key of a zone");
    }
    let zones = new.zones.values().map(|it| it.0.len()).sum();
    at_most(|| "keys of zones in bytes".into(), zones, ZONE_KEYS_BYTES_MAX)?;
    at_most(
        || "keys of all certificates in bytes".into(),
        certificates.values().map(|it| it.0.len()).sum(),
        KEYS_BYTES_MAX,
    )?;
    let tickets = new.tickets.values().map(|it| it.0.len()).sum();
    at_most(|| "keys of TLS tickets in bytes".into(), tickets, TICKET_KEYS_BYTES_MAX)?;
    let bytes = access.values().map(|it| it.0.len()).sum();
    at_most(|| "keys of the object store in bytes".into(), bytes, ACCESS_BYTES_MAX)?;
    at_most(
        || "all secrets together in bytes".into(),
        new.values.values().map(|it| it.0.len()).sum(),
        2 * SECRETS_BYTES_MAX,
    )?;
    state.cluster.sealed_ca_key = new.ca_key.0;
    let mut values = new.values;
    let own = state.secrets.apps.values_mut().flat_map(BTreeMap::values_mut);
    for secret in state.secrets.cluster.values_mut().chain(own) {
        for (version, sealed) in &mut secret.values {
            if let Some(again) = values.remove(version) {
                *sealed = again;
            }
        }
    }
    for certificate in state.certificates.named.values_mut() {
        if let Some(again) = certificates.remove(&certificate.version) {
            Arc::make_mut(certificate).key = again;
        }
    }
    for (version, key) in state.acme.keys_mut() {
        if let Some(again) = certificates.remove(&version) {
            *key = again;
        }
    }
    let mut tickets = new.tickets;
    for ticket in &mut state.tickets.keys {
        if let Some(again) = tickets.remove(&ticket.version) {
            ticket.key = again;
        }
    }
    for (version, sealed) in state.access.sealed_mut() {
        if let Some(again) = access.remove(&version) {
            *sealed = again;
        }
    }
    let mut zones = new.zones;
    for key in state.signing.zones.values_mut().flat_map(|it| &mut it.keys) {
        if let Some(again) = zones.remove(&key.version) {
            key.key = again;
        }
    }
    let first = new.base.is_empty();
    state.cluster.sealing = Sealing { key: new.key, holders: new.holders, wanted: false };
    note_holders(state);
    let message = match first {
        true => "the key that seals secrets got a name",
        false => "all secrets were sealed with a new key, which only the present voters and spares got",
    };
    context.happened(state, "secrets", message);
    Ok(context.done())
}

/// Whoever votes or is a spare may fetch the key from now on, and is counted as holding it.
pub(super) fn note_holders(state: &mut ControlState) {
    if state.cluster.sealing.key.is_empty() {
        return;
    }
    let plan = &state.plan;
    state.cluster.sealing.holders.extend(plan.voters.iter().chain(&plan.spares));
}

#[cfg(test)]
mod tests {
    use super::super::samples::{adopt, app, cluster, instance, named, place, service};
    use super::super::{Command, Entry};
    use super::*;
    use crate::spec::ServiceSpec;
    use crate::time::WallTime;

    const KEY: &str = "00000000000000aa";
    const NEXT: &str = "00000000000000bb";

    fn id(text: &str) -> SecretId {
        match text.split_once('/') {
            Some((app, name)) => SecretId { app: Some(named(app)), name: named(name) },
            None => SecretId { app: None, name: named(text) },
        }
    }

    fn run(state: &mut ControlState, command: Command) -> Result<(), String> {
        let index = state.applied.next();
        let entry = Entry { at: WallTime(1_000), by: "admin@n1".into(), if_index: None, command };
        match state.apply(index, entry) {
            Outcome::Refused(refusal) => Err(refusal.to_string()),
            Outcome::Done { .. } | Outcome::Admitted { .. } | Outcome::Lengthened { .. } => Ok(()),
        }
    }

    fn set(state: &mut ControlState, secret: &str, key: &str) -> Result<(), String> {
        run(state, Command::SetSecret { id: id(secret), sealed: Sealed(secret.into()), key: key.into() })
    }

    /// Three nodes that vote, a key, and `shop`: web uses two secrets, work none.
    fn shop() -> ControlState {
        let mut state = cluster(3);
        state.cluster.sealing.key = KEY.into();
        adopt(&mut state, |plan| plan.voters = [NodeId(1), NodeId(2), NodeId(3)].into());
        set(&mut state, "mail", KEY).unwrap();
        set(&mut state, "shop/pw", KEY).unwrap();
        apply_shop(&mut state).unwrap();
        state
    }

    fn apply_shop(state: &mut ControlState) -> Result<(), String> {
        let env = [("A".to_owned(), "${secret.mail} ${secret.pw}".to_owned())].into();
        let spec = app(&[("web", ServiceSpec { env, ..service("serve") }), ("work", service("work"))]);
        run(state, Command::ApplyApp { app: named("shop"), spec })
    }

    fn web(state: &ControlState) -> (u64, Vec<(&str, u64)>) {
        let web = &state.spec.apps[&named("shop")].services[&named("web")];
        (web.revision.0, web.secrets.iter().map(|(name, version)| (name.as_str(), *version)).collect())
    }

    #[test]
    fn a_service_runs_with_the_versions_it_was_applied_with_and_a_new_value_is_a_new_revision() {
        let mut state = shop();
        assert_eq!(web(&state), (1, vec![("mail", 1), ("pw", 2)]));
        apply_shop(&mut state).unwrap();
        assert_eq!(web(&state).0, 1, "nothing changed");
        adopt(&mut state, |plan| drop(plan.instances.insert(instance("shop/web/1"), place(1, 1))));
        set(&mut state, "mail", KEY).unwrap();
        assert_eq!(web(&state), (3, vec![("mail", 3), ("pw", 2)]));
        let shop = &state.spec.apps[&named("shop")];
        assert_eq!(shop.services[&named("work")].revision.0, 1, "it names no secret");
        assert_eq!(state.spec_index, state.applied, "there is something to plan");
        let said: Vec<&str> = state.log.events.iter().rev().take(2).map(|event| event.message.as_str()).collect();
        assert_eq!(
            said,
            ["shop/web gets the new value of secret mail: revision 3", "secret mail was changed (by admin@n1)"]
        );
        let last = state.log.events.back().unwrap();
        assert_eq!(last.cause, Some(last.index - 1));
        // The former value stays as long as an instance runs by it.
        assert!(state.secrets.value(&(named("shop"), named("mail"), 1)).is_some());
        let needed: Vec<u64> =
            crate::secret::needed(&state, NodeId(1)).into_iter().map(|(.., version)| version).collect();
        assert_eq!(needed, [1, 2], "an instance of the former revision");
        assert!(crate::secret::needed(&state, NodeId(2)).is_empty());
        set(&mut state, "mail", KEY).unwrap();
        adopt(&mut state, |plan| plan.instances.clear());
        assert!(state.secrets.value(&(named("shop"), named("mail"), 1)).is_none());
    }

    #[test]
    fn the_nearer_of_two_secrets_of_one_name_wins_while_it_is_there() {
        let mut state = shop();
        set(&mut state, "shop/mail", KEY).unwrap();
        assert_eq!(web(&state).1[0], ("mail", 3));
        set(&mut state, "mail", KEY).unwrap();
        assert_eq!(web(&state), (2, vec![("mail", 3), ("pw", 2)]), "it is not the one that is used");
        run(&mut state, Command::RemoveSecret { id: id("shop/mail") }).unwrap();
        assert_eq!(web(&state), (3, vec![("mail", 4), ("pw", 2)]));
    }

    #[test]
    fn what_is_used_is_not_removed_and_what_is_not_set_is_not_used() {
        let mut state = shop();
        let refused = run(&mut state, Command::RemoveSecret { id: id("shop/pw") }).unwrap_err();
        assert!(refused.contains("secret shop/pw is used by shop/web"), "{refused}");
        assert_eq!(run(&mut state, Command::RemoveSecret { id: id("pw") }).unwrap_err(), "no secret named \"pw\"");
        run(&mut state, Command::RemoveApp { app: named("shop") }).unwrap();
        run(&mut state, Command::RemoveSecret { id: id("shop/pw") }).unwrap();
        assert!(
            apply_shop(&mut state)
                .unwrap_err()
                .contains("needs secret pw, which is not set; try: hirsel secret set pw")
        );
    }

    #[test]
    fn values_have_limits_and_one_key() {
        let mut state = shop();
        let stale = set(&mut state, "mail", NEXT).unwrap_err();
        assert!(stale.starts_with(SEALING_KEY), "{stale}");
        let long = Sealed(vec![0; SECRET_BYTES_MAX + SEAL_BYTES_MAX + 1]);
        let refused = run(&mut state, Command::SetSecret { id: id("x"), sealed: long, key: KEY.into() }).unwrap_err();
        assert!(refused.starts_with("value of secret x in bytes of 16449 exceeds"), "{refused}");
        let refused = (0..SECRETS_MAX).find_map(|number| set(&mut state, &format!("s{number}"), KEY).err()).unwrap();
        assert_eq!(refused, "number of secrets of 1001 exceeds 1000");
        let mut old = cluster(1);
        assert!(set(&mut old, "mail", "").unwrap_err().contains("not ready"));
    }

    fn resealed(state: &ControlState) -> Resealed {
        let versions = state.secrets.all().flat_map(|(_, secret)| secret.values.keys().copied().collect::<Vec<_>>());
        Resealed {
            base: KEY.into(),
            key: NEXT.into(),
            holders: [NodeId(1), NodeId(2)].into(),
            ca: Sealed(state.cluster.ca.clone()),
            ca_key: Sealed(vec![9]),
            values: versions.map(|version| (version, Sealed(vec![9]))).collect(),
            certificates: BTreeMap::new(),
            tickets: BTreeMap::new(),
            access: BTreeMap::new(),
            zones: BTreeMap::new(),
        }
    }

    #[test]
    fn everything_is_sealed_anew_in_one_change_or_nothing_is() {
        let mut state = shop();
        run(&mut state, Command::RotateSealing).unwrap();
        assert!(state.cluster.sealing.wanted);
        let early = resealed(&state);
        set(&mut state, "mail", KEY).unwrap();
        assert!(run(&mut state, Command::Reseal { resealed: early }).unwrap_err().contains("a secret changed"));
        let good = resealed(&state);
        run(&mut state, Command::Reseal { resealed: good.clone() }).unwrap();
        let sealing = &state.cluster.sealing;
        assert_eq!((sealing.key.as_str(), sealing.wanted), (NEXT, false));
        assert_eq!(
            sealing.holders,
            [NodeId(1), NodeId(2), NodeId(3)].into(),
            "those who may fetch it count as holders"
        );
        assert!(state.secrets.all().flat_map(|(_, secret)| secret.values.values()).all(|sealed| sealed.0 == [9]));
        assert_eq!(state.cluster.sealed_ca_key, [9]);
        assert!(run(&mut state, Command::Reseal { resealed: good }).unwrap_err().contains("sealing key changed"));
        assert!(set(&mut state, "mail", KEY).is_err(), "sealed with the former key");
        set(&mut state, "mail", NEXT).unwrap();
    }

    #[test]
    fn whoever_votes_or_is_a_spare_counts_as_holding_the_key_until_there_is_another() {
        let mut state = shop();
        adopt(&mut state, |plan| {
            plan.voters = [NodeId(1)].into();
            plan.spares = [NodeId(3)].into();
        });
        assert_eq!(state.cluster.sealing.holders, [NodeId(1), NodeId(2), NodeId(3)].into());
        let again = Resealed { holders: [NodeId(1), NodeId(3)].into(), ..resealed(&state) };
        run(&mut state, Command::Reseal { resealed: again }).unwrap();
        assert_eq!(state.cluster.sealing.holders, [NodeId(1), NodeId(3)].into());
    }
}

//! Commands about the certificates of the front door.

use std::sync::Arc;

use super::limits::{HOST_BYTES_MAX, WORD_BYTES_MAX, at_most};
use super::{Context, ControlState, Outcome, Refusal, acme, not_found, secrets};
use crate::certificate::{
    CERTIFICATES_MAX, CHAIN_BYTES_MAX, CHAINS_BYTES_MAX, Certificate, Facts, ISSUER_BYTES_MAX, KEY_BYTES_MAX,
    NAMES_MAX, NewCertificate, is_domain,
};
use crate::id::*;
use crate::secret::SEAL_BYTES_MAX;

pub(super) fn set(
    state: &mut ControlState,
    context: &Context,
    name: CertificateName,
    new: NewCertificate,
) -> Result<Outcome, Refusal> {
    secrets::check_key(state, &new.key)?;
    check_facts(&name, &new.facts)?;
    at_most(|| format!("chain of certificate {name} in bytes"), new.chain.len(), CHAIN_BYTES_MAX)?;
    at_most(|| format!("key of certificate {name} in bytes"), new.sealed.0.len(), KEY_BYTES_MAX + SEAL_BYTES_MAX)?;
    if new.chain.is_empty() || new.sealed.0.is_empty() {
        return Err(Refusal::Invalid(format!("certificate {name} is empty")));
    }
    let certificates = &mut state.certificates;
    let known = certificates.named.contains_key(&name);
    at_most(|| "number of certificates".into(), certificates.named.len() + usize::from(!known), CERTIFICATES_MAX)?;
    let former = certificates.named.get(&name).map_or(0, |known| known.chain.len());
    let bytes = certificates.chain_bytes() - former + new.chain.len();
    at_most(|| "chains of all certificates in bytes".into(), bytes, CHAINS_BYTES_MAX)?;

    let brought = certificates.named.get(&name).is_some_and(|known| known.automatic.is_none());
    let NewCertificate { facts, chain, sealed, key: _, automatic } = new;
    let did = match (&automatic, known) {
        (None, false) => "added",
        (None, true) => "replaced",
        // What people brought, they alone replace.
        (Some(_), true) if brought => {
            return Err(Refusal::Invalid(format!("certificate {name} was brought, and is not replaced by itself")));
        }
        (Some(_), true) => "renewed",
        (Some(_), false) => "issued",
    };
    certificates.last = certificates.last.saturating_add(1);
    let message = format!("certificate {name} was {did}: {}, version {}", domains(&facts), certificates.last);
    let is_automatic = automatic.is_some();
    let set = Certificate { version: certificates.last, set_at: context.at, facts, chain, key: sealed, automatic };
    certificates.named.insert(name.clone(), Arc::new(set));
    if is_automatic {
        acme::issued(state, &name);
    }
    context.happened(state, subject(&name), &message);
    Ok(context.done())
}

fn check_facts(name: &CertificateName, facts: &Facts) -> Result<(), Refusal> {
    let Facts { names, not_before: _, not_after: _, issuer, serial, fingerprint, key } = facts;
    at_most(|| format!("number of domains of certificate {name}"), names.len(), NAMES_MAX)?;
    if names.is_empty() {
        return Err(Refusal::Invalid(format!("certificate {name} is for no domain")));
    }
    for domain in names {
        at_most(|| format!("domain of certificate {name} in bytes"), domain.len(), HOST_BYTES_MAX)?;
        if !is_domain(domain) {
            return Err(Refusal::Invalid(format!("certificate {name} is for {domain:?}, which is no domain")));
        }
    }
    at_most(|| format!("issuer of certificate {name} in bytes"), issuer.len(), ISSUER_BYTES_MAX)?;
    let longest = [serial, fingerprint, key].into_iter().map(String::len).max().unwrap_or_default();
    at_most(|| format!("serial number of certificate {name} in bytes"), longest, WORD_BYTES_MAX)
}

/// The first domains, and how many more there are.
fn domains(facts: &Facts) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<&str> = facts.names.iter().take(SHOWN).map(String::as_str).collect();
    match facts.names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

pub(super) fn remove(state: &mut ControlState, context: &Context, name: &CertificateName) -> Result<Outcome, Refusal> {
    if state.certificates.named.remove(name).is_none() {
        return Err(not_found("certificate", name));
    }
    context.happened(state, subject(name), &format!("certificate {name} was removed"));
    Ok(context.done())
}

fn subject(name: &CertificateName) -> String {
    format!("certificate/{name}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::samples::{adopt, cluster, named};
    use super::super::{Command, Entry, Resealed};
    use super::*;
    use crate::certificate::needed;
    use crate::duty::Duty;
    use crate::plan::{Assignment, Because, Reason};
    use crate::secret::Sealed;
    use crate::tag::Tag;
    use crate::time::WallTime;

    const KEY: &str = "00000000000000aa";
    const NEXT: &str = "00000000000000bb";

    fn run(state: &mut ControlState, command: Command) -> Result<(), String> {
        let entry = Entry { at: WallTime(1_000), by: "admin@n1".into(), if_index: None, command };
        match state.apply(state.applied.next(), entry) {
            Outcome::Refused(refusal) => Err(refusal.to_string()),
            Outcome::Done { .. } | Outcome::Admitted { .. } | Outcome::Lengthened { .. } => Ok(()),
        }
    }

    fn new(domain: &str) -> NewCertificate {
        NewCertificate {
            facts: Facts { names: [domain.to_owned()].into(), ..Facts::default() },
            chain: format!("the chain of {domain}"),
            sealed: Sealed(domain.into()),
            key: KEY.into(),
            automatic: None,
        }
    }

    fn set(state: &mut ControlState, name: &str, new: NewCertificate) -> Result<(), String> {
        run(state, Command::SetCertificate { name: named(name), new })
    }

    fn front() -> ControlState {
        let mut state = cluster(3);
        state.cluster.sealing.key = KEY.into();
        adopt(&mut state, |plan| {
            plan.voters = [NodeId(1)].into();
            let reason = Reason { because: Because::Wanted, text: "wanted".into() };
            let held = Assignment { node: NodeId(2), duty: Duty::Replica, reason, since: Generation(1) };
            plan.roles.insert(RoleName::lb(), BTreeMap::from([(Slot(0), held)]));
        });
        state
    }

    #[test]
    fn a_certificate_is_added_replaced_and_removed_and_no_version_comes_twice() {
        let mut state = front();
        let spec_index = state.spec_index;
        set(&mut state, "shop", new("shop.example.com")).unwrap();
        set(&mut state, "blog", new("*.blog.example")).unwrap();
        set(&mut state, "shop", new("shop.example.org")).unwrap();
        assert_eq!(state.certificates.versions(), [(named("blog"), 2), (named("shop"), 3)].into());
        run(&mut state, Command::RemoveCertificate { name: named("shop") }).unwrap();
        set(&mut state, "shop", new("shop.example.org")).unwrap();
        assert_eq!(state.certificates.versions(), [(named("blog"), 2), (named("shop"), 4)].into());
        let again = run(&mut state, Command::RemoveCertificate { name: named("shpo") }).unwrap_err();
        assert_eq!(again, "no certificate named \"shpo\"");
        let said: Vec<&str> = state.log.events.iter().rev().take(3).map(|event| event.message.as_str()).collect();
        assert_eq!(
            said,
            [
                "certificate shop was added: shop.example.org, version 4 (by admin@n1)",
                "certificate shop was removed (by admin@n1)",
                "certificate shop was replaced: shop.example.org, version 3 (by admin@n1)",
            ]
        );
        assert_eq!(state.spec_index, spec_index, "nothing is planned anew for it");
    }

    #[test]
    fn who_balances_load_needs_all_keys_and_nobody_else_any() {
        let mut state = front();
        set(&mut state, "shop", new("shop.example.com")).unwrap();
        assert_eq!(needed(&state, NodeId(2)), [(named("shop"), 1)].into());
        assert!(needed(&state, NodeId(1)).is_empty() && needed(&state, NodeId(3)).is_empty());
    }

    #[test]
    fn certificates_have_limits_and_one_key() {
        let mut state = front();
        let refused = |state: &mut ControlState, alter: fn(&mut NewCertificate)| {
            let mut new = new("a.example");
            alter(&mut new);
            let before = state.clone();
            let refused = set(state, "a", new).unwrap_err();
            assert_eq!(state.certificates, before.certificates);
            refused
        };
        let stale = refused(&mut state, |new| new.key = NEXT.into());
        assert!(stale.starts_with(secrets::SEALING_KEY), "{stale}");
        for (alter, words) in [
            ((|new| new.chain = "x".repeat(CHAIN_BYTES_MAX + 1)) as fn(&mut NewCertificate), "chain of certificate a"),
            (|new| new.sealed = Sealed(vec![0; KEY_BYTES_MAX + SEAL_BYTES_MAX + 1]), "key of certificate a"),
            (|new| new.chain.clear(), "is empty"),
            (|new| new.facts.names.clear(), "for no domain"),
            (|new| new.facts.names = ["A b".to_owned()].into(), "\"A b\", which is no domain"),
            (|new| new.facts.names.extend((0..NAMES_MAX).map(|n| format!("n{n}.example"))), "number of domains"),
            (|new| new.facts.issuer = "x".repeat(ISSUER_BYTES_MAX + 1), "issuer of certificate a"),
            (|new| new.facts.serial = "0".repeat(WORD_BYTES_MAX + 1), "serial number of certificate a"),
        ] {
            let refused = refused(&mut state, alter);
            assert!(refused.contains(words), "{refused}");
        }
        let mut old = cluster(1);
        assert!(
            set(&mut old, "a", NewCertificate { key: String::new(), ..new("a.example") })
                .unwrap_err()
                .contains("not ready")
        );
        old.cluster.feature_level = 1;
        let refused = set(&mut old, "a", new("a.example")).unwrap_err();
        assert!(refused.contains("a certificate of the front door needs feature level 2"), "{refused}");
    }

    #[test]
    fn all_of_them_are_at_most_what_every_snapshot_can_hold() {
        let mut state = front();
        let long = || NewCertificate { chain: "x".repeat(CHAIN_BYTES_MAX), ..new("a.example") };
        for number in 0..CHAINS_BYTES_MAX / CHAIN_BYTES_MAX {
            set(&mut state, &format!("c{number}"), long()).unwrap();
        }
        // What takes the place of another needs no more room.
        set(&mut state, "c0", long()).unwrap();
        let refused = set(&mut state, "more", new("a.example")).unwrap_err();
        assert!(refused.starts_with("chains of all certificates in bytes of "), "{refused}");

        let mut state = front();
        let refused = (0..).find_map(|number| set(&mut state, &format!("c{number}"), new("a.example")).err()).unwrap();
        assert_eq!(refused, "number of certificates of 1001 exceeds 1000");
    }

    #[test]
    fn keys_are_sealed_anew_with_everything_else_or_nothing_is() {
        let mut state = front();
        set(&mut state, "shop", new("shop.example.com")).unwrap();
        let resealed = |state: &ControlState| Resealed {
            base: KEY.into(),
            key: NEXT.into(),
            holders: [NodeId(1)].into(),
            ca: Sealed(state.cluster.ca.clone()),
            ca_key: Sealed(vec![9]),
            values: BTreeMap::new(),
            certificates: state.certificates.named.values().map(|it| (it.version, Sealed(vec![9]))).collect(),
            tickets: BTreeMap::new(),
            access: BTreeMap::new(),
            zones: BTreeMap::new(),
        };
        let early = resealed(&state);
        set(&mut state, "shop", new("shop.example.org")).unwrap();
        let stale = run(&mut state, Command::Reseal { resealed: early }).unwrap_err();
        assert!(stale.contains("a certificate changed"), "{stale}");
        let good = resealed(&state);
        run(&mut state, Command::Reseal { resealed: good }).unwrap();
        let shop = &state.certificates.named[&named("shop")];
        assert_eq!(
            (shop.version, &shop.key, shop.chain.as_str()),
            (2, &Sealed(vec![9]), "the chain of shop.example.org")
        );
        assert!(set(&mut state, "shop", new("shop.example.org")).unwrap_err().starts_with(secrets::SEALING_KEY));
    }

    #[test]
    fn another_foundation_gives_no_version_that_the_lost_may_have_given() {
        let mut state = front();
        set(&mut state, "shop", new("shop.example.com")).unwrap();
        let command =
            Command::Recover { tag: Tag::default().next(5), survivor: NodeId(2), lost: [NodeId(1)].into(), off: true };
        run(&mut state, command).unwrap();
        set(&mut state, "shop", new("shop.example.org")).unwrap();
        assert!(state.certificates.last > 1_000, "{}", state.certificates.last);
    }

    #[test]
    fn a_state_without_certificates_is_written_as_before_there_were_any() {
        let bytes = crate::codec::encode(&cluster(1));
        assert!(!bytes.windows(12).any(|part| part == b"certificates"));
        let mut state = front();
        set(&mut state, "shop", new("shop.example.com")).unwrap();
        let state = ControlState { certificates: state.certificates, ..ControlState::default() };
        assert_eq!(crate::codec::decode::<ControlState>(&crate::codec::encode(&state)).unwrap(), state);
    }
}

//! What holds for any sequence of commands.

use std::sync::Arc;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

use super::samples::{named, node, service, token};
use super::*;
use crate::access::{AccessKey, AccessKeyId, BucketPattern, May, NewAccessKey};
use crate::acme::{Challenge, NewBinding, NewSettings, ORDERS_MAX, Trouble, Way, Window};
use crate::certificate::Facts;
use crate::codec::{decode, encode};
use crate::duty::Duty;
use crate::event::{Cause, EVENTS_MAX, EventKind, Rejected};
use crate::grant::long::HowOver;
use crate::plan::{Assignment, Because, InstanceAssignment, Phase, Reason, Unmet, Verdict, VerdictKind};
use crate::spec::{
    AccessLog, BucketSpec, Capacity, Check, HealthSpec, LogFormat, PortId, PortSpec, Protocol, RouteSpec, Safety,
    Target,
};
use crate::tickets::KEYS_MAX;

fn node_id() -> impl Strategy<Value = NodeId> {
    prop_oneof![9 => 0..6u64, 1 => Just(u64::MAX)].prop_map(NodeId)
}

/// Mostly names that meet again, so that commands find what others made.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![9 => prop::sample::select(vec!["a", "b", "web", "n1", "n2"]).prop_map(String::from), 1 => "[a-z0-9]{1,63}"]
}

fn name<T: std::str::FromStr + std::fmt::Debug>() -> impl Strategy<Value = T> {
    word().prop_map(|text| named(&text))
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![9 => word(), 1 => ".{0,600}"]
}

fn node_spec() -> impl Strategy<Value = NodeSpec> {
    (word(), 0..8u8).prop_map(|(name, number)| node(&name, number))
}

fn service_spec() -> impl Strategy<Value = ServiceSpec> {
    let health = option::of((text(), 0..2000u64, 0..4u32)).prop_map(|health| {
        health.map(|(path, interval_ms, failures)| HealthSpec {
            check: Check::Http { path: format!("/{path}") },
            interval_ms,
            timeout_ms: 1,
            failures,
        })
    });
    (vec(text(), 0..3), btree_map(text(), text(), 0..3), 0..4u32, 0..4u32, health).prop_map(
        |(command, env, min, max, health)| ServiceSpec {
            command,
            env,
            replicas: Replicas { min, max },
            health,
            ..service("serve")
        },
    )
}

fn good_service() -> impl Strategy<Value = ServiceSpec> {
    prop::sample::select(vec!["serve", "work", "rest"]).prop_map(service)
}

fn app_spec() -> impl Strategy<Value = AppSpec> {
    let service = prop_oneof![3 => good_service(), 1 => service_spec()];
    let route = (text(), text(), name()).prop_map(|(host, path, to)| RouteSpec::plain(host, format!("/{path}"), to));
    let copies = (1..5u8).prop_map(|copies| BucketSpec { safety: Safety::Copies(copies), ..BucketSpec::default() });
    let some = (btree_map(1..4u16, name(), 0..2), btree_map(name(), copies, 0..2));
    (btree_map(name(), service, 0..3), vec(route, 0..2), any::<bool>(), some).prop_map(
        |(services, routes, stopped, (ports, buckets))| {
            let ports = ports.into_iter().map(|(number, to)| {
                let port = PortId { number, protocol: Protocol::Tcp };
                (port, PortSpec::to(Target::Service(to)))
            });
            AppSpec {
                revision: Revision(u64::MAX),
                services,
                routes,
                stopped,
                ports: ports.collect(),
                zones: BTreeMap::new(),
                buckets,
            }
        },
    )
}

fn new_event() -> impl Strategy<Value = NewEvent> {
    let kind =
        prop::sample::select(vec![EventKind::Happened, EventKind::Decided, EventKind::Done, EventKind::Verified]);
    let cause = prop_oneof![
        Just(Cause::None),
        text().prop_map(Cause::Subject),
        prop_oneof![0..20u64, Just(u64::MAX)].prop_map(Cause::Index)
    ];
    let rejected = vec((node_id(), text()).prop_map(|(node, reason)| Rejected { node, reason }), 0..3);
    (kind, text(), text(), cause, rejected).prop_map(|(kind, subject, message, cause, rejected)| NewEvent {
        kind,
        subject,
        message,
        cause,
        rejected,
    })
}

fn reason() -> Reason {
    Reason { because: Because::Wanted, text: "wanted".into() }
}

fn plan_change() -> impl Strategy<Value = PlanChange> {
    let held = option::of(node_id()).prop_map(|node| {
        node.map(|node| Assignment { node, duty: Duty::Replica, reason: reason(), since: Generation(1) })
    });
    let roles = btree_map(name(), btree_map((0..3u16).prop_map(Slot), held, 0..3), 0..2);
    let instance = (name(), name(), 0..5u64).prop_map(|(app, service, number)| InstanceId { app, service, number });
    let placed = option::of((node_id(), 0..4u64, any::<bool>())).prop_map(|placed| {
        placed.map(|(node, revision, active)| InstanceAssignment {
            node,
            revision: Revision(revision),
            phase: if active { Phase::Active } else { Phase::Draining },
            reason: reason(),
            since: Generation(1),
            exclusive: revision % 2 == 0,
        })
    });
    let verdict = option::of(any::<bool>()).prop_map(|verdict| {
        verdict.map(|down| Verdict {
            kind: if down { VerdictKind::Down } else { VerdictKind::Unfit },
            incarnation: Incarnation(1),
            since: Generation(1),
            evidence: String::new(),
        })
    });
    let unmet = vec((text(), text()).prop_map(|(subject, reason)| Unmet { subject, reason }), 0..2);
    let reverted = btree_map(name(), btree_map(name(), (0..4u64).prop_map(Revision), 0..2), 0..2);
    (
        (roles, btree_map(instance, placed, 0..4), btree_map(node_id(), verdict, 0..2)),
        (option::of(btree_set(node_id(), 0..3)), option::of(unmet), option::of(reverted), option::of(0..9u64)),
    )
        .prop_map(|((roles, instances, verdicts), (voters, unmet, reverted, next_instance))| PlanChange {
            roles,
            instances,
            verdicts,
            voters,
            unmet,
            reverted,
            next_instance,
            ..Default::default()
        })
}

fn certificate() -> impl Strategy<Value = NewCertificate> {
    let facts = (btree_set(prop_oneof![9 => word(), 1 => text()], 0..3), text(), 0..9u64)
        .prop_map(|(names, issuer, at)| Facts { names, issuer, not_after: WallTime(at), ..Facts::default() });
    let key = prop_oneof![9 => Just(KEY), 1 => Just("another")];
    (facts, text(), vec(any::<u8>(), 0..9), key).prop_map(|(facts, chain, sealed, key)| NewCertificate {
        facts,
        chain,
        sealed: Sealed(sealed),
        key: key.into(),
        automatic: None,
    })
}

fn ticket_change() -> impl Strategy<Value = TicketChange> {
    let key = prop_oneof![9 => Just(KEY.to_owned()), 1 => Just("another".to_owned())];
    prop_oneof![
        6 => (0..6u64, vec(any::<u8>(), 0..3).prop_map(Sealed), key)
            .prop_map(|(base, sealed, key)| TicketChange::Draw { base, sealed, key }),
        2 => any::<bool>().prop_map(|forget| TicketChange::Want { forget }),
        1 => Just(TicketChange::Forget),
    ]
}

fn access_change() -> impl Strategy<Value = AccessChange> {
    let id = || (0..4u8).prop_map(|it| format!("HIRS{it:016}").parse::<AccessKeyId>().expect("an id"));
    let key = || prop_oneof![9 => Just(KEY.to_owned()), 1 => Just("another".to_owned())];
    let sealed = || vec(any::<u8>(), 0..3).prop_map(Sealed);
    let pattern = prop_oneof![Just(BucketPattern::all()), Just("media-*".parse().expect("a pattern"))];
    let may = (btree_set(pattern, 0..3), any::<bool>(), any::<bool>());
    let may = may.prop_map(|(buckets, reads_only, makes_buckets)| May { buckets, reads_only, makes_buckets });
    let new = (name(), may, prop_oneof![9 => word(), 1 => text()], sealed(), key());
    let new = new.prop_map(|(account, may, about, sealed, key)| NewAccessKey { account, may, about, sealed, key });
    prop_oneof![
        6 => (id(), new).prop_map(|(id, new)| AccessChange::Create { id, new }),
        2 => id().prop_map(|id| AccessChange::Remove { id }),
        3 => (name(), id(), sealed(), key())
            .prop_map(|(app, id, sealed, key)| AccessChange::CreateForApp { app, id, sealed, key }),
        3 => (0..6u64, sealed(), key()).prop_map(|(base, sealed, key)| AccessChange::DrawMaster { base, sealed, key }),
    ]
}

fn acme_change() -> impl Strategy<Value = AcmeChange> {
    let host = || prop_oneof![9 => word(), 1 => text()];
    let sealed = || {
        (
            vec(any::<u8>(), 0..3).prop_map(Sealed),
            prop_oneof![9 => Just(KEY.to_owned()), 1 => Just("another".to_owned())],
        )
    };
    let directory = || prop_oneof![9 => Just("https://ca/dir".to_owned()), 1 => text()];
    let binding = (text(), sealed()).prop_map(|(kid, (sealed, key))| NewBinding { kid, sealed, key });
    let way = prop::sample::select(vec![Way::Http, Way::TlsAlpn]);
    let settings = (directory(), vec(text(), 0..2), text(), option::of(way.clone()), option::of(binding)).prop_map(
        |(directory, contacts, roots, way, binding)| NewSettings { directory, contacts, roots, way, binding },
    );
    let trouble = (any::<u32>(), 0..9u64, 0..9u64, text()).prop_map(|(failures, at, again, words)| Trouble {
        failures,
        at: WallTime(at),
        again_at: WallTime(again),
        words,
    });
    let challenge = (way, prop_oneof![9 => word(), 1 => text()], text()).prop_map(|(way, token, answer)| Challenge {
        way,
        token,
        answer,
        since: WallTime(1),
    });
    let window = (0..9u64, 0..9u64).prop_map(|(start, end)| Window {
        start: WallTime(start),
        end: WallTime(end),
        url: String::new(),
    });
    prop_oneof![
        4 => settings.prop_map(|settings| AcmeChange::Set { settings }),
        1 => Just(AcmeChange::Off),
        2 => (directory(), word(), sealed()).prop_map(|(directory, id, (sealed, key))| AcmeChange::Account { directory, id, sealed, key }),
        1 => word().prop_map(|id| AcmeChange::ForgetAccount { id }),
        4 => (host(), challenge).prop_map(|(host, challenge)| AcmeChange::Offer { host, challenge }),
        1 => btree_set(host(), 0..3).prop_map(|hosts| AcmeChange::Withdraw { hosts }),
        2 => (option::of(host()), trouble).prop_map(|(host, trouble)| AcmeChange::Failed { host, trouble }),
        1 => host().prop_map(|host| AcmeChange::Renew { host }),
        1 => (name(), option::of(window)).prop_map(|(name, window)| AcmeChange::Window { name, window }),
    ]
}

/// What everything is sealed with.
const KEY: &str = "00000000000000aa";

/// A cluster of a build that seals.
fn cluster_info() -> ClusterInfo {
    let sealing = Sealing { key: KEY.into(), ..Sealing::default() };
    ClusterInfo { id: ClusterId("c1".into()), sealing, ..Default::default() }
}

/// A command; those that name a generation or an index are made to fit half of the time by [`run`].
fn command() -> impl Strategy<Value = Command> {
    let cluster = cluster_info();
    let availability = prop::sample::select(vec![
        Availability::Open,
        Availability::Cordoned,
        Availability::Draining,
        Availability::Leaving,
    ]);
    let replicas = (0..4u32, 0..20_000u32).prop_map(|(min, max)| Replicas { min, max });
    let record = (option::of(0..2u32), any::<bool>(), 0..3u64).prop_map(|(uses_left, revoked, expires)| TokenRecord {
        revoked,
        expires_at: WallTime(expires),
        ..token(uses_left)
    });
    let log = option::of(Just(AccessLog::of(LogFormat::Json)));
    let role = (option::of(0..4u16), btree_set(node_id(), 0..2), log).prop_map(|(count, pins, log)| RoleSpec {
        count,
        pins,
        log,
        ..RoleSpec::default()
    });
    let role_name = prop_oneof![Just(RoleName::lb()), name()];
    prop_oneof![
        1 => node_spec().prop_map(move |node| Command::Found { cluster: cluster.clone(), node }),
        4 => (node_spec(), word()).prop_map(|(node, token)| Command::Admit { node, token }),
        1 => (node_id(), 0..3u64, node_spec()).prop_map(|(node, incarnation, said)| Command::Announce {
            node,
            incarnation: Incarnation(incarnation),
            addr: said.addr,
            capacity: Capacity::default(),
            built: said.built,
            version: said.version,
        }),
        2 => (node_id(), availability).prop_map(|(node, availability)| Command::SetAvailability { node, availability }),
        2 => node_id().prop_map(|node| Command::RemoveNode { node }),
        4 => (name(), app_spec()).prop_map(|(app, spec)| Command::ApplyApp { app, spec }),
        1 => (name(), name(), replicas).prop_map(|(app, service, replicas)| Command::Scale { app, service, replicas }),
        1 => (name(), option::of(name())).prop_map(|(app, service)| Command::Restart { app, service }),
        1 => (name(), any::<bool>()).prop_map(|(app, stopped)| Command::SetStopped { app, stopped }),
        1 => name().prop_map(|app| Command::RemoveApp { app }),
        1 => (role_name, role).prop_map(|(role, spec)| Command::SetRole { role, spec }),
        2 => (word(), record).prop_map(|(id, record)| Command::NewToken { id, record }),
        1 => word().prop_map(|id| Command::RevokeToken { id }),
        1 => option::of(text()).prop_map(|url| Command::SetWebhook { url }),
        3 => (name(), certificate()).prop_map(|(name, new)| Command::SetCertificate { name, new }),
        1 => name().prop_map(|name| Command::RemoveCertificate { name }),
        4 => acme_change().prop_map(|change| Command::Acme { change }),
        4 => access_change().prop_map(|change| Command::Access { change }),
        3 => ticket_change().prop_map(|change| Command::Tickets { change }),
        2 => (node_id(), node_id()).prop_map(|(from, to)| Command::MoveRole { role: RoleName::lb(), from, to }),
        1 => (0..3u64, node_id(), btree_set(node_id(), 0..3), any::<bool>()).prop_map(|(epochs, survivor, lost, off)| {
            Command::Recover { tag: (0..epochs).fold(Tag::default(), |tag, epoch| tag.next(epoch)), survivor, lost, off }
        }),
        1 => btree_set(node_id(), 0..3).prop_map(|nodes| Command::ConfirmOff { nodes }),
        2 => (node_id(), node_spec()).prop_map(|(former, node)| Command::Rejoin { former, node }),
        2 => (node_id(), 0..3u64, 0..40_000u64).prop_map(|(node, incarnation, length_ms)| Command::LongGrant {
            node,
            incarnation: Incarnation(incarnation),
            length_ms,
        }),
        1 => (name(), name(), 0..5u64, 0..40u64).prop_map(|(app, service, number, since)| Command::EndLongGrants {
            over: [(InstanceId { app, service, number }, Over { since: LogIndex(since), how: HowOver::RanOut })].into(),
        }),
        4 => (plan_change(), vec(new_event(), 0..4), any::<bool>()).prop_map(|(change, events, fits)| Command::Adopt {
            base: Generation(if fits { FITS } else { 0 }),
            spec_index: LogIndex(if fits { FITS } else { 0 }),
            change,
            events,
        }),
        1 => vec(new_event(), 0..4).prop_map(|events| Command::Note { events }),
        1 => (0..4u32, btree_map(node_id(), (0..3u64).prop_map(Incarnation), 0..3))
            .prop_map(|(to, understood)| Command::RaiseLevel { to, understood }),
    ]
}

/// Stands for the generation and the index in force.
const FITS: u64 = u64::MAX - 7;

fn fit(state: &ControlState, command: &mut Command) {
    if let Command::Adopt { base, spec_index, .. } = command
        && base.0 == FITS
    {
        (*base, *spec_index) = (state.plan.generation, state.spec_index);
    }
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let if_index = prop_oneof![9 => Just(None), 1 => (0..10u64).prop_map(|index| Some(LogIndex(index)))];
    let entry = (command(), 0..3u64, text(), if_index).prop_map(|(command, at, by, if_index)| Entry {
        at: WallTime(at),
        by,
        if_index,
        command,
    });
    let found = cluster_info();
    let first = Entry {
        at: WallTime(0),
        by: "n1".into(),
        if_index: None,
        command: Command::Found { cluster: found, node: node("n1", 1) },
    };
    (vec(entry, 0..40), any::<bool>()).prop_map(move |(mut entries, founded)| {
        if founded {
            entries.insert(0, first.clone());
        }
        entries
    })
}

/// Applies all entries and checks after each what must always hold.
fn run(entries: &mut [Entry]) -> ControlState {
    let mut state = ControlState::default();
    for (index, entry) in (1..).map(LogIndex).zip(entries) {
        fit(&state, &mut entry.command);
        let mut before = state.clone();
        let outcome = state.apply(index, entry.clone());
        assert_eq!(state.applied, index);
        if let Outcome::Refused(refusal) = &outcome {
            before.applied = index;
            assert_eq!(state, before, "a refused command changed something: {refusal}");
            assert!(!refusal.to_string().is_empty());
        }
        check(&before, &state);
    }
    state
}

fn check(before: &ControlState, after: &ControlState) {
    let adopted = after.plan != before.plan;
    let rises = after.plan.generation.0 - before.plan.generation.0;
    let anew = after.cluster.tag != before.cluster.tag;
    assert!(if anew { rises > 1 } else { rises == u64::from(adopted) }, "generations rise by one: {rises}");
    assert_eq!(
        after.spec != before.spec,
        after.spec_index != before.spec_index,
        "the index tells when the spec changed"
    );
    assert!(after.next_node >= before.next_node);
    assert!(after.spec.nodes.keys().all(|node| *node < after.next_node));

    let names: std::collections::BTreeSet<_> = after.spec.nodes.values().map(|node| &node.name).collect();
    assert_eq!(names.len(), after.spec.nodes.len(), "names of nodes are unique");
    for (app, spec) in &after.spec.apps {
        assert!(spec.services.values().all(|service| service.revision <= spec.revision && service.revision.0 > 0));
        assert!(before.spec.apps.get(app).is_none_or(|before| before.revision <= spec.revision));
    }

    let acme = &after.acme;
    assert!(acme.challenges.len() <= ORDERS_MAX);
    assert!(acme.settings.is_some() || *acme == Acme::default(), "something is left of what was turned off");
    let versions: Vec<u64> = acme.keys().map(|(version, ..)| version).collect();
    let named = after.certificates.named.values().map(|it| it.version);
    assert!(named.chain(versions.iter().copied()).all(|version| version <= after.certificates.last));
    assert!(versions.iter().all(|version| after.certificates.named.values().all(|it| it.version != *version)));

    let tickets: Vec<u64> = after.tickets.keys.iter().map(|key| key.version).collect();
    assert!(tickets.len() <= KEYS_MAX && tickets.windows(2).all(|pair| pair[0] > pair[1]), "the newest one first");
    assert!(tickets.iter().all(|version| *version <= after.tickets.last) && after.tickets.last >= before.tickets.last);

    let (old, new) = (&before.access, &after.access);
    assert!(new.last >= old.last);
    let versions: Vec<u64> = new.sealed().map(|(version, ..)| version).collect();
    let distinct: std::collections::BTreeSet<&u64> = versions.iter().collect();
    assert!(distinct.len() == versions.len() && versions.iter().all(|version| *version <= new.last));
    let same = |old: &Arc<AccessKey>, new: &Arc<AccessKey>, of_app| {
        let may = if of_app { new.may.clone() } else { old.may.clone() };
        **new == AccessKey { may, ..(**old).clone() }
    };
    let of_app = |id| new.apps.values().any(|own| own == id);
    let stays = |(id, key)| old.keys.get(id).is_some_and(|old| same(old, key, of_app(id)));
    assert!(new.keys.iter().all(|(id, key)| stays((id, key)) || key.version > old.last));
    for (app, id) in &new.apps {
        let key = new.keys.get(id).expect("the key of an application is one");
        let patterns = after.spec.apps.get(app).filter(|spec| !spec.buckets.is_empty());
        let patterns = patterns.map(|spec| spec.bucket_patterns(app).collect());
        assert!(patterns.is_none_or(|wanted| key.may.buckets == wanted) && !key.may.makes_buckets);
    }
    assert!(old.master.iter().all(|(version, key)| new.master.get(version) == Some(key)), "a master key was lost");

    let (old, new) = (&before.certificates, &after.certificates);
    assert!(new.last >= old.last);
    for (name, certificate) in &new.named {
        let same = old.named.get(name) == Some(certificate);
        assert!(certificate.version <= new.last && (same || certificate.version > old.last), "a version came twice");
    }

    let log = &after.log;
    assert!(log.events.len() <= EVENTS_MAX);
    assert!(log.last >= before.log.last);
    let numbers: Vec<u64> = log.events.iter().map(|event| event.index).collect();
    assert!(
        numbers.windows(2).all(|pair| pair[1] == pair[0] + 1) && numbers.last().is_none_or(|last| *last == log.last)
    );
    for event in &log.events {
        assert!(event.cause.is_none_or(|cause| cause < event.index), "an event follows from one before it");
        let incident = event.incident.expect("every event belongs to a chain");
        match event.cause.and_then(|cause| log.get(cause)) {
            Some(cause) => assert_eq!(cause.incident, Some(incident), "a chain is one incident"),
            None => assert!(incident == event.index || event.cause == Some(incident)),
        }
    }
}

proptest! {
    #[test]
    fn no_sequence_of_commands_panics_or_breaks_an_invariant(mut entries in entries()) {
        run(&mut entries);
    }

    #[test]
    fn replicas_that_apply_the_same_entries_are_equal_also_through_a_snapshot(mut entries in entries(), at in 0..40usize) {
        let first = run(&mut entries);
        let mut second = ControlState::default();
        for (index, entry) in (1..).zip(&entries) {
            if index == at {
                second = decode(&encode(&second)).expect("a snapshot");
            }
            let entry: Entry = decode(&encode(entry)).expect("an entry");
            second.apply(LogIndex(index as u64), entry);
        }
        prop_assert_eq!(first, second);
    }

    #[test]
    fn an_entry_and_a_state_are_read_as_they_were_written(mut entries in entries()) {
        for entry in &entries {
            prop_assert_eq!(&decode::<Entry>(&encode(entry)).expect("an entry"), entry);
        }
        let state = run(&mut entries);
        prop_assert_eq!(&decode::<ControlState>(&encode(&state)).expect("a state"), &state);
    }

    #[test]
    fn bytes_that_were_changed_anywhere_never_panic(mut entries in entries(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = encode(&run(&mut entries));
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = decode::<ControlState>(&bytes);
    }

    #[test]
    fn no_bytes_at_all_panic(bytes in vec(any::<u8>(), 0..300)) {
        let _ = decode::<Entry>(&bytes);
        let _ = decode::<ControlState>(&bytes);
        let _ = decode::<crate::report::NodeReport>(&bytes);
    }
}

use std::sync::Arc;

use super::*;
use crate::control::samples::{app, cluster, named};
use crate::control::{Command, Entry, Outcome};
use crate::order::Work;
use crate::spec::{AppSpec, ZoneSpec};

const KEY: &str = "00000000000000aa";
const NOON: WallTime = WallTime(1_000_000_000_000);
const ZONE: &str = "example.com";

fn after(ms: u64) -> WallTime {
    WallTime(NOON.0 + ms)
}

fn run(state: &mut ControlState, at: WallTime, command: Command) -> Result<(), String> {
    let entry = Entry { at, by: "n1".into(), if_index: None, command };
    match state.apply(state.applied.next(), entry) {
        Outcome::Refused(refusal) => Err(refusal.to_string()),
        Outcome::Done { .. } | Outcome::Admitted { .. } | Outcome::Lengthened { .. } => Ok(()),
    }
}

fn change(state: &mut ControlState, at: WallTime, change: Change) -> Result<(), String> {
    run(state, at, Command::Signing { change })
}

fn apply(state: &mut ControlState, dnssec: bool) {
    let zone = ZoneSpec { dnssec, ..ZoneSpec::default() };
    let zones = [(ZONE.to_owned(), Arc::new(zone)), ("plain.test".to_owned(), Arc::default())].into();
    let spec = AppSpec { zones, ..app(&[]) };
    run(state, NOON, Command::ApplyApp { app: named("shop"), spec }).expect("applied");
}

/// A cluster that can seal, with a zone that wants to be signed.
fn begun() -> ControlState {
    let mut state = cluster(3);
    state.cluster.feature_level = 2;
    state.cluster.sealing.key = KEY.into();
    apply(&mut state, true);
    state
}

/// What a leader does at `at`, until nothing more is due: a word for each thing.
fn lead(state: &mut ControlState, at: WallTime) -> Vec<String> {
    let mut done = Vec::new();
    while let Some(due) = due(state, at) {
        assert!(done.len() < 10, "{done:?}");
        let (word, next) = match due {
            Due::Draw(zone, base) => {
                let public = Sealed(vec![state.signing.last as u8 + 1; PUBLIC_BYTES]);
                let sealed = Sealed(vec![7; 160]);
                ("draw".to_owned(), Change::Draw { zone, base, public, sealed, key: KEY.into() })
            }
            Due::Change(change) => {
                let word = match &change {
                    Change::Advance { from, .. } => format!("advance from {from:?}"),
                    Change::Part { parts, .. } => format!("part {parts}"),
                    Change::Forget { .. } => "forget".into(),
                    Change::Draw { .. } | Change::Want { .. } => panic!("{change:?}"),
                };
                (word, change)
            }
        };
        change(state, at, next).expect("what is due is not refused");
        done.push(word);
    }
    done
}

/// What nodes are told: versions that are listed, the one that signs, the one that the zone above shall name.
fn told(state: &ControlState) -> Option<(Vec<u64>, u64, Option<u64>)> {
    let orders = crate::reconciler::orders(state, NodeId(2), &[crate::id::RoleName::dns()]);
    let Work::Dns(names) = &orders[&crate::id::RoleName::dns()].work else { panic!("names") };
    assert!(names.signed.keys().all(|zone| zone == ZONE));
    let signed = names.signed.get(ZONE)?;
    Some((signed.keys.keys().copied().collect(), signed.signs, signed.offered))
}

#[test]
fn a_zone_that_asks_for_it_gets_a_key_and_no_other_does() {
    let mut state = begun();
    assert_eq!(told(&state), None, "nothing is signed before there is a key");
    assert_eq!(lead(&mut state, NOON), ["draw"]);
    assert_eq!(told(&state), Some((vec![1], 1, Some(1))));
    assert_eq!(needed(&state, NodeId(2)).into_keys().collect::<Vec<_>>(), [1]);
    assert_eq!(needed(&state, NodeId(9)), BTreeMap::new(), "a stranger is told nothing");
    assert_eq!(next_look(&state), None);
    let mut old = begun();
    old.cluster.feature_level = 1;
    assert_eq!(due(&old, NOON), None, "older builds cannot read it");
    let mut bare = begun();
    bare.cluster.sealing.key = String::new();
    assert_eq!(due(&bare, NOON), None, "a key that cannot be sealed is not drawn");
}

#[test]
fn a_key_is_replaced_in_steps_that_wait_for_what_others_remember() {
    let mut state = begun();
    lead(&mut state, NOON);
    change(&mut state, NOON, Change::Want { zone: ZONE.into() }).expect("wanted");
    assert_eq!(lead(&mut state, NOON), ["draw"]);
    assert_eq!(told(&state), Some((vec![1, 2], 1, Some(1))));
    assert_eq!(lead(&mut state, after(PUBLISH_MS - 1)), Vec::<String>::new());
    assert_eq!(next_look(&state), Some(after(PUBLISH_MS)));
    let again = change(&mut state, NOON, Change::Want { zone: ZONE.into() }).unwrap_err();
    assert!(again.contains("being replaced already"), "{again}");

    assert_eq!(lead(&mut state, after(PUBLISH_MS)), ["advance from Published"]);
    assert_eq!(told(&state), Some((vec![1, 2], 1, Some(2))));
    let far = after(100 * LEAVE_MS);
    assert_eq!(lead(&mut state, far), Vec::<String>::new(), "only a person sees the zone above");
    let advance = |from, cause| Change::Advance { zone: ZONE.into(), from, cause };
    assert!(change(&mut state, far, advance(Step::Offered, Cause::Time)).unwrap_err().contains("zone above"));
    assert!(change(&mut state, far, advance(Step::Published, Cause::Seen)).unwrap_err().contains("another step"));
    change(&mut state, far, advance(Step::Offered, Cause::Seen)).expect("it is named above");
    assert_eq!(told(&state), Some((vec![1, 2], 2, Some(2))));

    let early = change(&mut state, far, advance(Step::Leaving, Cause::Time)).unwrap_err();
    assert!(early.contains("resolvers may remember"), "{early}");
    assert_eq!(lead(&mut state, WallTime(far.0 + LEAVE_MS)), ["advance from Leaving"]);
    assert_eq!(told(&state), Some((vec![2], 2, Some(2))));
    assert_eq!(due(&state, WallTime(u64::MAX)), None);
}

#[test]
fn who_cannot_wait_does_not_have_to() {
    let mut state = begun();
    lead(&mut state, NOON);
    change(&mut state, NOON, Change::Want { zone: ZONE.into() }).expect("wanted");
    lead(&mut state, NOON);
    for from in [Step::Published, Step::Offered, Step::Leaving] {
        let cause = Cause::Forced("it was seen elsewhere".into());
        change(&mut state, NOON, Change::Advance { zone: ZONE.into(), from, cause }).expect("forced");
    }
    assert_eq!(told(&state), Some((vec![2], 2, Some(2))));
    assert!(state.log.events.iter().any(|event| event.message.contains("ahead of time: it was seen elsewhere")));
    let idle = Change::Advance { zone: ZONE.into(), from: Step::Steady, cause: Cause::Forced("x".into()) };
    assert!(change(&mut state, NOON, idle).unwrap_err().contains("is being replaced"));
}

#[test]
fn a_zone_that_shall_not_be_signed_any_more_is_until_nobody_remembers_that_it_was() {
    let mut state = begun();
    lead(&mut state, NOON);
    apply(&mut state, false);
    assert_eq!(lead(&mut state, NOON), ["part true"]);
    assert_eq!(told(&state), Some((vec![1], 1, None)), "signed, and the zone above shall forget it");
    apply(&mut state, true);
    assert_eq!(lead(&mut state, NOON), ["part false"]);
    assert_eq!(told(&state), Some((vec![1], 1, Some(1))), "with the key that it had");

    run(&mut state, NOON, Command::RemoveApp { app: named("shop") }).expect("removed");
    assert_eq!(lead(&mut state, NOON), ["part true"]);
    assert_eq!(told(&state), None, "there is no zone");
    assert_eq!(lead(&mut state, after(RETAIN_MS - 1)), Vec::<String>::new());
    assert_eq!(needed(&state, NodeId(1)).len(), 1);
    assert_eq!(lead(&mut state, after(RETAIN_MS)), ["forget"]);
    assert_eq!(state.signing, Signing { last: 1, ..Signing::default() });
    apply(&mut state, true);
    lead(&mut state, NOON);
    assert_eq!(told(&state).map(|told| told.1), Some(2), "no number comes again");
}

#[test]
fn a_key_that_makes_no_sense_is_refused_and_nothing_changes() {
    let mut state = begun();
    lead(&mut state, NOON);
    let before = state.signing.clone();
    let mut refused = |zone: &str, base, public: usize, sealed: usize, key: &str| {
        let (public, sealed) = (Sealed(vec![1; public]), Sealed(vec![7; sealed]));
        let zone = zone.to_owned();
        change(&mut state, NOON, Change::Draw { zone, base, public, sealed, key: key.into() }).unwrap_err()
    };
    assert!(refused(ZONE, 0, 64, 160, KEY).contains("newest key of zone example.com"));
    assert!(refused(ZONE, 1, 65, 160, KEY).contains("ECDSA"));
    assert!(refused(ZONE, 1, 64, 0, KEY).contains("ECDSA"));
    assert!(refused(ZONE, 1, 64, 9_000, KEY).contains("exceeds"));
    assert!(refused(ZONE, 1, 64, 160, "00000000000000bb").starts_with("sealing key"));
    assert!(refused("plain.test", 0, 64, 160, KEY).contains("not to be signed"));
    assert!(refused("other.test", 0, 64, 160, KEY).contains("not to be signed"));
    assert_eq!(state.signing, before);
    let unknown = Change::Want { zone: "plain.test".into() };
    assert!(change(&mut state, NOON, unknown).unwrap_err().contains("no signed zone"));
}

#[test]
fn a_state_without_signed_zones_is_written_as_before_there_were_any() {
    let bytes = crate::codec::encode(&cluster(3));
    assert!(!bytes.windows(7).any(|part| part == b"signing"));
}

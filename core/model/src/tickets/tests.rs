use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::certificate::{Facts, NewCertificate};
use crate::control::samples::{adopt, cluster, named};
use crate::control::{Command, Entry, Outcome, Resealed};
use crate::duty::Duty;
use crate::plan::{Assignment, Because, Reason};

const KEY: &str = "00000000000000aa";
const NOON: WallTime = WallTime(1_000_000_000_000);

fn run(state: &mut ControlState, at: WallTime, command: Command) -> Result<(), String> {
    let entry = Entry { at, by: "n1".into(), if_index: None, command };
    match state.apply(state.applied.next(), entry) {
        Outcome::Refused(refusal) => Err(refusal.to_string()),
        Outcome::Done { .. } | Outcome::Admitted { .. } | Outcome::Lengthened { .. } => Ok(()),
    }
}

fn draw(state: &mut ControlState, at: WallTime) -> Result<(), String> {
    let base = state.tickets.newest();
    let change = Change::Draw { base, sealed: Sealed(vec![7; 76]), key: state.cluster.sealing.key.clone() };
    run(state, at, Command::Tickets { change })
}

fn after(ms: u64) -> WallTime {
    WallTime(NOON.0 + ms)
}

/// Three nodes; the first two balance load, with a certificate.
fn front() -> ControlState {
    let mut state = cluster(3);
    state.cluster.sealing.key = KEY.into();
    adopt(&mut state, |plan| {
        plan.voters = (1..=3).map(NodeId).collect();
        let held = |node| {
            let reason = Reason { because: Because::Wanted, text: "wanted".into() };
            Assignment { node: NodeId(node), duty: Duty::Replica, reason, since: Generation(1) }
        };
        plan.roles.insert(RoleName::lb(), [(Slot(0), held(1)), (Slot(1), held(2))].into());
    });
    let facts = Facts { names: ["shop.example".to_owned()].into(), ..Facts::default() };
    let new =
        NewCertificate { facts, chain: "chain".into(), sealed: Sealed(vec![1; 40]), key: KEY.into(), automatic: None };
    run(&mut state, NOON, Command::SetCertificate { name: named("shop"), new }).expect("a certificate");
    state
}

/// Two keys, as soon as there is something to be resumed.
fn begun() -> ControlState {
    let mut state = front();
    for _ in 0..2 {
        assert_eq!(due(&state, NOON), Due::Draw);
        draw(&mut state, NOON).expect("a key");
    }
    assert_eq!(due(&state, NOON), Due::Nothing);
    state
}

fn versions(state: &ControlState) -> Vec<u64> {
    state.tickets.keys.iter().map(|key| key.version).collect()
}

#[test]
fn a_key_is_told_ahead_then_seals_then_opens_twice_and_is_forgotten() {
    let mut state = begun();
    let first = versions(&state)[1];
    assert_eq!(state.tickets.sealing(), Some(first));
    let mut lives = Vec::new();
    for round in 1..=4 {
        let at = after(round * ROTATE_EVERY_MS);
        assert_eq!(due(&state, WallTime(at.0 - 1)), Due::Nothing);
        assert_eq!(next_look(&state), Some(at));
        assert_eq!(due(&state, at), Due::Draw);
        draw(&mut state, at).expect("a key");
        lives.push(versions(&state).iter().position(|version| *version == first));
        assert!(state.tickets.keys.len() <= KEYS_MAX);
        assert!(state.tickets.sealing() > Some(first), "the next one took over");
    }
    assert_eq!(lives, [Some(2), Some(3), None, None]);
}

#[test]
fn only_load_balancers_are_told_and_a_node_without_the_key_in_force_seals_with_one_that_others_have() {
    let mut state = begun();
    draw(&mut state, after(ROTATE_EVERY_MS)).expect("a key");
    let [newest, sealing, former] = versions(&state)[..] else { panic!("three keys") };
    assert_eq!(needed(&state, NodeId(2)), [newest, sealing, former].into());
    assert_eq!(needed(&state, NodeId(3)), BTreeSet::new());
    let tickets = &state.tickets;
    assert_eq!(tickets.sealing_of(|_| true), Some(sealing));
    assert_eq!(tickets.sealing_of(|version| version != sealing), Some(former));
    assert_eq!(tickets.sealing_of(|version| version == newest), None, "others may not have it yet");
}

#[test]
fn there_are_keys_only_while_something_can_be_resumed() {
    let mut state = begun();
    run(&mut state, NOON, Command::RemoveCertificate { name: named("shop") }).expect("removed");
    assert_eq!(due(&state, NOON), Due::Forget);
    run(&mut state, NOON, Command::Tickets { change: Change::Forget }).expect("forgotten");
    assert_eq!((due(&state, NOON), &state.tickets), (Due::Nothing, &Tickets { last: 2, ..Tickets::default() }));
    assert!(run(&mut state, NOON, Command::Tickets { change: Change::Want { forget: true } }).is_err());

    let mut idle = begun();
    idle.plan.roles.clear();
    assert_eq!(due(&idle, NOON), Due::Forget);
    let mut old = begun();
    old.tickets = Tickets::default();
    old.cluster.feature_level = 1;
    assert_eq!(due(&old, NOON), Due::Nothing, "older builds cannot read it");
    assert!(draw(&mut old, NOON).unwrap_err().contains("needs feature level 2"));
}

#[test]
fn a_key_that_follows_another_than_it_should_or_is_sealed_with_an_old_one_is_refused() {
    let mut state = begun();
    let before = state.tickets.clone();
    let mut refused = |base, sealed: usize, key: &str| {
        let change = Change::Draw { base, sealed: Sealed(vec![7; sealed]), key: key.into() };
        run(&mut state, NOON, Command::Tickets { change }).unwrap_err()
    };
    assert!(refused(before.newest() - 1, 76, KEY).contains("newest key of TLS tickets"));
    assert!(refused(before.newest(), 76, "00000000000000bb").starts_with("sealing key"));
    assert!(refused(before.newest(), 1_000, KEY).starts_with("key of TLS tickets in bytes"));
    assert!(refused(before.newest(), 0, KEY).contains("empty"));
    assert_eq!(state.tickets, before);
}

#[test]
fn an_operator_gets_another_key_at_once_and_may_have_all_forgotten() {
    let mut state = begun();
    let [next, sealing] = versions(&state)[..] else { panic!("two keys") };
    let want = |forget| Command::Tickets { change: Change::Want { forget } };
    run(&mut state, after(5), want(false)).expect("wanted");
    assert_eq!(due(&state, after(5)), Due::Draw);
    draw(&mut state, after(5)).expect("a key");
    assert_eq!((due(&state, after(5)), state.tickets.sealing()), (Due::Nothing, Some(next)));
    assert_eq!(versions(&state)[2], sealing, "what is out is still opened");
    run(&mut state, after(9), want(true)).expect("wanted");
    assert_eq!((versions(&state).len(), due(&state, after(9))), (0, Due::Draw));
    draw(&mut state, after(9)).expect("a key");
    draw(&mut state, after(9)).expect("a key");
    assert_eq!(due(&state, after(9)), Due::Nothing);
    assert!(versions(&state).iter().all(|version| *version > next), "no number comes again");
}

#[test]
fn a_clock_that_was_far_ahead_keeps_no_key_for_ever() {
    let mut state = begun();
    draw(&mut state, after(100 * ROTATE_EVERY_MS)).expect("a key");
    assert_eq!(due(&state, after(1)), Due::Draw);
    draw(&mut state, after(1)).expect("a key");
    assert_eq!(due(&state, after(2)), Due::Nothing);
}

#[test]
fn keys_are_sealed_anew_with_everything_else_or_nothing_is() {
    let mut state = begun();
    let certificates: BTreeMap<u64, Sealed> =
        state.certificates.named.values().map(|it| (it.version, Sealed(vec![9]))).collect();
    let mut resealed = Resealed {
        base: KEY.into(),
        key: "00000000000000bb".into(),
        holders: [NodeId(1)].into(),
        ca: Sealed(state.cluster.ca.clone()),
        ca_key: Sealed(vec![9]),
        values: BTreeMap::new(),
        certificates,
        tickets: BTreeMap::new(),
        access: BTreeMap::new(),
        zones: BTreeMap::new(),
    };
    let stale = run(&mut state, NOON, Command::Reseal { resealed: resealed.clone() }).unwrap_err();
    assert!(stale.contains("a key of TLS tickets changed"), "{stale}");
    resealed.tickets.extend(state.tickets.keys.iter().map(|it| (it.version, Sealed(vec![9]))));
    let before = versions(&state);
    run(&mut state, NOON, Command::Reseal { resealed }).expect("sealed anew");
    assert_eq!(versions(&state), before);
    assert!(state.tickets.keys.iter().all(|it| it.key == Sealed(vec![9])));
}

#[test]
fn another_foundation_gives_no_number_that_the_lost_may_have_given() {
    let mut state = begun();
    let tag = crate::tag::Tag::default().next(5);
    let command = Command::Recover { tag, survivor: NodeId(2), lost: [NodeId(1)].into(), off: true };
    run(&mut state, NOON, command).expect("recovered");
    assert_eq!(versions(&state), [2, 1], "what is out is still opened");
    draw(&mut state, NOON).expect("a key");
    assert!(state.tickets.last > 1_000);
}

#[test]
fn a_state_without_keys_is_written_as_before_there_were_any() {
    let bytes = crate::codec::encode(&front());
    assert!(!bytes.windows(7).any(|part| part == b"tickets"));
    let state = begun();
    let state = ControlState { tickets: state.tickets, ..ControlState::default() };
    assert_eq!(crate::codec::decode::<ControlState>(&crate::codec::encode(&state)).expect("a state"), state);
}

proptest! {
    /// Leaders whose clocks disagree come and go, and two load balancers hear of each key late, each in its own time: as long as that is
    /// less than a key's life, a ticket of one is opened by the other until its time is over, and never after its key is gone.
    #[test]
    fn what_one_seals_the_other_opens_for_as_long_as_clients_were_told(
        steps in prop::collection::vec((0..ROTATE_EVERY_MS / 8, -600_000i64..600_000), 20..120),
        behind in [0..6usize, 0..6usize],
    ) {
        let mut state = begun();
        let mut now = NOON.0;
        // What was in force at the end of each step; a load balancer that is behind looks at an older one.
        let mut past = vec![(now, state.tickets.clone())];
        for (pause, skew) in steps {
            now += pause;
            let wall = WallTime(now.saturating_add_signed(skew));
            if due(&state, wall) == Due::Draw {
                draw(&mut state, wall).expect("a key");
            }
            prop_assert_eq!(due(&state, wall), Due::Nothing, "one at a time");
            past.push((now, state.tickets.clone()));
        }
        // Clocks that differ by 20 minutes at most make each life shorter by that.
        let skew = 1_200_000;
        let seen = |at: usize, behind: usize| &past[at.saturating_sub(behind)].1;
        let knows = |tickets: &Tickets, version| tickets.keys.iter().any(|key| key.version == version);
        for at in 0..past.len() {
            let mine = seen(at, behind[0]);
            let sealed = mine.sealing_of(|_| true).expect("two keys from the first day");
            for later in at..past.len() {
                let age = past[later].0 - past[at].0;
                let late = past[at].0 - past[at.saturating_sub(behind[0])].0;
                if age + late + 3 * skew < u64::from(LIFETIME_S) * 1000 {
                    prop_assert!(knows(seen(later, behind[1]), sealed), "{sealed} after {age} ms");
                }
                if age > 5 * ROTATE_EVERY_MS {
                    prop_assert!(!knows(&past[later].1, sealed), "{sealed} is kept after {age} ms");
                }
            }
        }
    }
}

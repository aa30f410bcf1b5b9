use super::*;
use crate::control::samples::{adopt, app, cluster, named, service};
use crate::control::{Command, Entry, Outcome, Resealed};
use crate::duty::Duty;
use crate::plan::{Assignment, Because, Reason};

const KEY: &str = "00000000000000aa";

fn run(state: &mut ControlState, change: Change) -> Result<(), String> {
    run_any(state, Command::Access { change })
}

fn run_any(state: &mut ControlState, command: Command) -> Result<(), String> {
    let entry = Entry { at: WallTime(5), by: "admin@n1".into(), if_index: None, command };
    match state.apply(state.applied.next(), entry) {
        Outcome::Refused(refusal) => Err(refusal.to_string()),
        Outcome::Done { .. } | Outcome::Admitted { .. } | Outcome::Lengthened { .. } => Ok(()),
    }
}

fn id(number: u64) -> AccessKeyId {
    format!("{ID_PREFIX}{number:016}").parse().expect("an id")
}

fn new() -> NewAccessKey {
    let about = "pictures of the shop".into();
    NewAccessKey { account: named(ACCOUNT), may: May::default(), about, sealed: Sealed(vec![7; 68]), key: KEY.into() }
}

fn create(number: u64) -> Change {
    Change::Create { id: id(number), new: new() }
}

fn draw(base: u64) -> Change {
    Change::DrawMaster { base, sealed: Sealed(vec![8; 60]), key: KEY.into() }
}

/// Three nodes, and a key that seals.
fn sealing() -> ControlState {
    let mut state = cluster(3);
    state.cluster.sealing.key = KEY.into();
    state
}

fn may(buckets: &[&str], reads_only: bool, makes_buckets: bool) -> May {
    May { buckets: buckets.iter().map(|text| text.parse().expect("a pattern")).collect(), reads_only, makes_buckets }
}

#[test]
fn a_key_may_do_what_it_was_made_for_and_no_more() {
    assert!(May::default().make("media"));
    let one = may(&["media", "log-*"], false, false);
    assert!(one.write("media") && one.read("log-2031") && one.read("log-"));
    assert!(!one.read("media2") && !one.read("log") && !one.make("media"));
    let reads = may(&["*"], true, true);
    assert!(reads.read("media") && !reads.write("media") && !reads.make("media"));
}

#[test]
fn an_id_has_twenty_capital_letters_and_digits_and_a_pattern_one_star_at_its_end() {
    assert_eq!("AKIAIOSFODNN7EXAMPLE".parse::<AccessKeyId>().expect("an id").as_str(), "AKIAIOSFODNN7EXAMPLE");
    for bad in ["", "AKIA", "akiaiosfodnn7example", "AKIAIOSFODNN7EXAMPL-", "ÄKIAIOSFODNN7EXAMPL"] {
        assert!(bad.parse::<AccessKeyId>().is_err(), "{bad}");
    }
    for good in ["*", "media", "my.bucket-*"] {
        assert!(good.parse::<BucketPattern>().is_ok(), "{good}");
    }
    let long = "a".repeat(64);
    for bad in ["", "a*b", "**", "Media", "a_b", "a/b", &long] {
        assert!(bad.parse::<BucketPattern>().is_err(), "{bad}");
    }
}

#[test]
fn keys_are_made_and_removed_and_no_version_comes_again() {
    let mut state = sealing();
    run(&mut state, create(1)).expect("a key");
    run(&mut state, draw(0)).expect("a master key");
    assert!(run(&mut state, create(1)).unwrap_err().contains("is there already"));
    assert_eq!(state.access.keys[&id(1)].version, 1);
    assert_eq!(state.access.newest_master(), 2);
    assert!(state.log.events.iter().any(|event| event.message.contains("was made, for account main (by admin@n1)")));
    run(&mut state, Change::Remove { id: id(1) }).expect("removed");
    assert!(run(&mut state, Change::Remove { id: id(1) }).unwrap_err().contains("no access key named"));
    run(&mut state, create(1)).expect("a key");
    assert_eq!(state.access.keys[&id(1)].version, 3);
}

#[test]
fn what_makes_no_sense_or_is_sealed_with_another_key_is_refused() {
    let mut state = sealing();
    let mut refused = |new| {
        let before = state.access.clone();
        let words = run(&mut state, Change::Create { id: id(1), new }).unwrap_err();
        assert_eq!(state.access, before);
        words
    };
    assert!(refused(NewAccessKey { may: may(&[], false, false), ..new() }).contains("is for no bucket"));
    assert!(refused(NewAccessKey { may: may(&["a"], true, true), ..new() }).contains("only read"));
    assert!(refused(NewAccessKey { about: "a\nb".into(), ..new() }).contains("more than one line"));
    assert!(refused(NewAccessKey { about: "a".repeat(201), ..new() }).contains("exceeds 200"));
    assert!(refused(NewAccessKey { sealed: Sealed(Vec::new()), ..new() }).contains("no secret"));
    assert!(refused(NewAccessKey { sealed: Sealed(vec![1; 1_000]), ..new() }).contains("exceeds"));
    assert!(refused(NewAccessKey { key: "00000000000000bb".into(), ..new() }).starts_with("sealing key"));
    assert!(run(&mut state, draw(4)).unwrap_err().contains("newest master key"));
    state.cluster.feature_level = 1;
    assert!(run(&mut state, create(1)).unwrap_err().contains("needs feature level 2"));
    state.cluster.feature_level = LEVEL;
    for number in 0..KEYS_MAX as u64 {
        run(&mut state, create(number)).expect("a key");
    }
    assert!(run(&mut state, create(KEYS_MAX as u64)).unwrap_err().contains("number of access keys"));
}

#[test]
fn the_first_master_key_is_due_with_the_first_who_stores_or_may_ask() {
    let mut state = sealing();
    assert!(!master_is_due(&state));
    run(&mut state, create(1)).expect("a key");
    assert!(master_is_due(&state));
    run(&mut state, draw(0)).expect("a master key");
    assert!(!master_is_due(&state));

    let mut stores = sealing();
    adopt(&mut stores, |plan| {
        let reason = Reason { because: Because::Wanted, text: "wanted".into() };
        let held = Assignment { node: NodeId(2), duty: Duty::Replica, reason, since: Generation(1) };
        plan.roles.insert(RoleName::storage(), [(Slot(0), held)].into());
    });
    assert!(master_is_due(&stores));
    stores.cluster.feature_level = 1;
    assert!(!master_is_due(&stores), "older builds cannot read it");
}

#[test]
fn everything_is_sealed_anew_together_or_nothing_is() {
    let mut state = sealing();
    run(&mut state, create(1)).expect("a key");
    run(&mut state, draw(0)).expect("a master key");
    let mut resealed = Resealed {
        base: KEY.into(),
        key: "00000000000000bb".into(),
        holders: [NodeId(1)].into(),
        ca: Sealed(state.cluster.ca.clone()),
        ca_key: Sealed(vec![9]),
        values: BTreeMap::new(),
        certificates: BTreeMap::new(),
        tickets: BTreeMap::new(),
        zones: BTreeMap::new(),
        access: [(1, Sealed(vec![9]))].into(),
    };
    let stale = run_any(&mut state, Command::Reseal { resealed: resealed.clone() }).unwrap_err();
    assert!(stale.contains("an access key changed meanwhile"), "{stale}");
    resealed.access.insert(2, Sealed(vec![10]));
    run_any(&mut state, Command::Reseal { resealed }).expect("sealed anew");
    let sealed: Vec<_> = state.access.sealed().map(|(version, _, sealed)| (version, sealed.0.clone())).collect();
    assert_eq!(sealed, [(1, vec![9]), (2, vec![10])]);
}

#[test]
fn another_foundation_keeps_all_keys_and_gives_no_number_that_the_lost_may_have_given() {
    let mut state = sealing();
    run(&mut state, create(1)).expect("a key");
    run(&mut state, draw(0)).expect("a master key");
    let tag = crate::tag::Tag::default().next(5);
    let lost = [NodeId(1)].into();
    run_any(&mut state, Command::Recover { tag, survivor: NodeId(2), lost, off: true }).expect("recovered");
    assert_eq!((state.access.keys.len(), state.access.newest_master()), (1, 2));
    run(&mut state, create(2)).expect("a key");
    assert!(state.access.keys[&id(2)].version > 1_000);
}

#[test]
fn a_state_without_keys_is_written_as_before_there_were_any() {
    let bytes = crate::codec::encode(&sealing());
    assert!(!bytes.windows(6).any(|part| part == b"access"));
    let mut state = sealing();
    run(&mut state, create(1)).expect("a key");
    assert_eq!(crate::codec::decode::<ControlState>(&crate::codec::encode(&state)).expect("a state"), state);
}

/// An application with one bucket of this name, and a program that is told its key.
fn wanting(label: &str) -> Command {
    let mut web = service("serve");
    web.env.insert("KEY".into(), format!("${{bucket.{label}.secret_access_key}}"));
    let mut spec = app(&[("web", web), ("worker", service("work"))]);
    spec.buckets.insert(named(label), crate::spec::BucketSpec::default());
    Command::ApplyApp { app: named("shop"), spec }
}

fn for_app(number: u64) -> Change {
    Change::CreateForApp { app: named("shop"), id: id(number), sealed: Sealed(vec![7; 68]), key: KEY.into() }
}

#[test]
fn an_application_with_buckets_has_a_key_that_may_use_them_and_nothing_else() {
    let mut state = sealing();
    assert!(run(&mut state, for_app(1)).unwrap_err().contains("wants no bucket"));
    assert_eq!(key_step(&state), None);
    run_any(&mut state, wanting("media")).expect("applied");
    assert_eq!(key_step(&state), Some(KeyStep::Draw(named("shop"))));
    run(&mut state, for_app(1)).expect("a key");
    assert_eq!(key_step(&state), None);
    assert!(run(&mut state, for_app(2)).unwrap_err().contains("has access key"));
    let key = &state.access.keys[&id(1)];
    assert_eq!((key.account.as_str(), &key.may), ("app-shop", &may(&["shop-media"], false, false)));
    // What is applied says what it may use, and it is the same key.
    run_any(&mut state, wanting("pictures")).expect("applied");
    assert_eq!(state.access.keys[&id(1)].may, may(&["shop-pictures"], false, false));
    assert_eq!(state.access.keys[&id(1)].version, 1);
}

#[test]
fn a_key_that_is_taken_back_is_followed_by_another_one_and_by_programs_that_run_with_it() {
    let mut state = sealing();
    run_any(&mut state, wanting("media")).expect("applied");
    run(&mut state, for_app(1)).expect("a key");
    let revisions = |state: &ControlState| {
        let services = &state.spec.apps[&named::<AppName>("shop")].services;
        (services[&named("web")].revision.0, services[&named("worker")].revision.0)
    };
    assert_eq!(revisions(&state), (1, 1));
    run(&mut state, Change::Remove { id: id(1) }).expect("removed");
    assert_eq!(revisions(&state), (2, 1), "only who asks for it is replaced");
    assert_eq!(key_step(&state), Some(KeyStep::Draw(named("shop"))));
    let last = state.log.events.iter().next_back().expect("an event").message.clone();
    assert!(last.starts_with(&format!("shop/web gets another access key than {}: revision 2", id(1))), "{last}");
}

#[test]
fn a_key_stays_until_nobody_runs_with_it() {
    use crate::control::samples::{instance, place};
    let mut state = sealing();
    run_any(&mut state, wanting("media")).expect("applied");
    run(&mut state, for_app(1)).expect("a key");
    adopt(&mut state, |plan| drop(plan.instances.insert(instance("shop/web/1"), place(2, 1))));
    run_any(&mut state, Command::RemoveApp { app: named("shop") }).expect("removed");
    assert_eq!(key_step(&state), None, "it drains");
    state.plan.instances.clear();
    assert_eq!(key_step(&state), Some(KeyStep::Remove(id(1))));
    run(&mut state, Change::Remove { id: id(1) }).expect("removed");
    assert_eq!((key_step(&state), state.access.apps.len()), (None, 0));
}

//! Stories about hosts that ask for certificates, and what holds whatever happens.

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;
use crate::certificate::{Age, Facts, NewCertificate, age};
use crate::control::samples::{cluster, named};
use crate::control::{Command, Entry, Outcome};
use crate::id::*;
use crate::spec::{AppSpec, RouteSpec, Target};

const KEY: &str = "00000000000000aa";
const DAY: u64 = 24 * HOUR_MS;
const NOON: WallTime = WallTime(1_000 * DAY);

fn run(state: &mut ControlState, at: WallTime, command: Command) -> Result<(), String> {
    let entry = Entry { at, by: "admin@n1".into(), if_index: None, command };
    match state.apply(state.applied.next(), entry) {
        Outcome::Refused(refusal) => Err(refusal.to_string()),
        Outcome::Done { .. } | Outcome::Admitted { .. } | Outcome::Lengthened { .. } => Ok(()),
    }
}

fn change(state: &mut ControlState, at: WallTime, change: Change) -> Result<(), String> {
    run(state, at, Command::Acme { change })
}

fn ask(state: &mut ControlState, hosts: &[&str]) {
    let route = |host: &&str| {
        let to = Target::Outside(vec!["10.0.0.9:80".parse().expect("an address")]);
        RouteSpec { to, tls: Tls::Auto, ..RouteSpec::plain(*host, "/", named("web")) }
    };
    let routes = hosts.iter().map(route).collect();
    let spec = AppSpec {
        revision: Revision(0),
        services: BTreeMap::new(),
        routes,
        stopped: false,
        ports: BTreeMap::new(),
        zones: BTreeMap::new(),
        buckets: BTreeMap::new(),
    };
    run(state, NOON, Command::ApplyApp { app: named("shop"), spec }).expect("routes");
}

fn settings(directory: &str) -> NewSettings {
    NewSettings { directory: directory.into(), contacts: Vec::new(), roots: String::new(), way: None, binding: None }
}

const DIRECTORY: &str = "https://ca.example/dir";

fn account(state: &mut ControlState) -> Result<(), String> {
    let new = Change::Account {
        directory: DIRECTORY.into(),
        id: "https://ca.example/1".into(),
        sealed: Sealed(vec![1]),
        key: KEY.into(),
    };
    change(state, NOON, new)
}

/// A cluster with an account, whose routes ask for these hosts.
fn asking(hosts: &[&str]) -> ControlState {
    let mut state = cluster(1);
    state.cluster.sealing.key = KEY.into();
    ask(&mut state, hosts);
    change(&mut state, NOON, Change::Set { settings: settings(DIRECTORY) }).expect("settings");
    account(&mut state).expect("an account");
    state
}

fn issue(state: &mut ControlState, host: &str, at: WallTime, days: u64) -> Result<(), String> {
    bring(state, host, host, at, days, Some(Automatic::default()))
}

fn bring(
    state: &mut ControlState,
    name: &str,
    domain: &str,
    at: WallTime,
    days: u64,
    automatic: Option<Automatic>,
) -> Result<(), String> {
    let facts = Facts {
        names: [domain.to_owned()].into(),
        not_before: at,
        not_after: WallTime(at.0 + days * DAY),
        ..Facts::default()
    };
    let new = NewCertificate { facts, chain: domain.into(), sealed: Sealed(vec![1]), key: KEY.into(), automatic };
    run(state, at, Command::SetCertificate { name: named(name), new })
}

fn fail(state: &mut ControlState, host: &str, at: WallTime) -> Trouble {
    let trouble = after_failure(state.acme.troubles.get(host), at, "no such name", None, 7);
    change(state, at, Change::Failed { host: Some(host.into()), trouble: trouble.clone() }).expect("noted");
    trouble
}

fn standing_of<'a>(state: &'a ControlState, host: &str, wall: WallTime) -> Standing<'a> {
    standing(state, &Brought::of(state), host, wall)
}

fn later(at: WallTime, ms: u64) -> WallTime {
    WallTime(at.0 + ms)
}

#[test]
fn a_host_is_ordered_for_and_then_not_again_until_a_third_of_its_time_is_left() {
    let mut state = asking(&["shop.test"]);
    assert_eq!(due(&state, NOON, &BTreeSet::new()), ["shop.test"]);
    assert_eq!(due(&state, NOON, &["shop.test".to_owned()].into()), [] as [String; 0], "it is under way");
    issue(&mut state, "shop.test", NOON, 90).unwrap();
    let Standing::Good { renew_at } = standing_of(&state, "shop.test", NOON) else { panic!("it is good") };
    let after = renew_at.0 - NOON.0;
    assert!((57 * DAY..=60 * DAY).contains(&after), "{} hours", after / HOUR_MS);
    assert_eq!(next_look(&state, NOON), Some(renew_at));
    assert_eq!(due(&state, WallTime(renew_at.0 - 1), &BTreeSet::new()), [] as [String; 0]);
    assert_eq!(due(&state, renew_at, &BTreeSet::new()), ["shop.test"]);
    assert_eq!(standing_of(&state, "shop.test", renew_at), Standing::Due(Why::Renewal));
    issue(&mut state, "shop.test", renew_at, 90).unwrap();
    assert_eq!(due(&state, renew_at, &BTreeSet::new()), [] as [String; 0]);
    let messages: Vec<&str> = state.log.events.iter().rev().take(2).map(|event| event.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "certificate shop.test was renewed: shop.test, version 3 (by admin@n1)",
            "certificate shop.test was issued: shop.test, version 2 (by admin@n1)"
        ]
    );
}

#[test]
fn after_each_failure_it_is_tried_again_later_and_otherwise_until_an_operator_wishes() {
    let mut state = asking(&["shop.test"]);
    let mut at = NOON;
    let mut waits = Vec::new();
    for _ in 0..9 {
        let way = way(state.acme.settings.as_ref().unwrap(), state.acme.troubles.get("shop.test"));
        assert_eq!(way, if waits.len() % 2 == 0 { Way::Http } else { Way::TlsAlpn });
        assert_eq!(due(&state, at, &BTreeSet::new()), ["shop.test"]);
        let trouble = fail(&mut state, "shop.test", at);
        assert_eq!(due(&state, WallTime(trouble.again_at.0 - 1), &BTreeSet::new()), [] as [String; 0]);
        assert_eq!(next_look(&state, at), Some(trouble.again_at));
        waits.push((trouble.again_at.0 - at.0) / MINUTE_MS);
        at = trouble.again_at;
    }
    assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 640, 720]);
    // In the first hour a directory sees no more failures than it takes.
    assert!(waits.iter().take(4).sum::<u64>() >= 60);
    let trouble = fail(&mut state, "shop.test", at);
    assert_eq!(standing_of(&state, "shop.test", at), Standing::Waiting { why: Why::Lacking, trouble: &trouble });
    change(&mut state, at, Change::Renew { host: "shop.test".into() }).unwrap();
    assert_eq!(due(&state, at, &BTreeSet::new()), ["shop.test"]);
    issue(&mut state, "shop.test", at, 90).unwrap();
    assert!(state.acme.troubles.is_empty() && state.acme.wishes.is_empty());

    // A certificate that is good is got anew when somebody wishes, and the wish outlives failures.
    change(&mut state, at, Change::Renew { host: "shop.test".into() }).unwrap();
    assert_eq!(standing_of(&state, "shop.test", at), Standing::Due(Why::Wished));
    let trouble = fail(&mut state, "shop.test", at);
    assert_eq!(standing_of(&state, "shop.test", at), Standing::Waiting { why: Why::Wished, trouble: &trouble });
    assert_eq!(due(&state, trouble.again_at, &BTreeSet::new()), ["shop.test"]);
}

#[test]
fn a_directory_that_wants_to_be_left_alone_is() {
    let trouble = after_failure(None, NOON, "too many requests", Some(3 * HOUR_MS), 0);
    assert_eq!(trouble.again_at, later(NOON, 3 * HOUR_MS));
    let trouble = after_failure(Some(&trouble), NOON, "too many requests", Some(u64::MAX), u64::MAX);
    assert_eq!((trouble.failures, trouble.again_at), (2, later(NOON, ASKED_WAIT_MAX_MS)));
    let long = after_failure(None, NOON, &"ä".repeat(WORDS_BYTES_MAX), None, 0);
    assert!(long.words.len() <= WORDS_BYTES_MAX);
}

#[test]
fn whoever_has_nothing_comes_first_and_no_more_are_under_way_than_may_be() {
    let mut state = asking(&["a.test", "b.test", "c.test", "d.test", "e.test", "f.test"]);
    issue(&mut state, "a.test", NOON, 90).unwrap();
    let at = later(NOON, 89 * DAY);
    assert_eq!(due(&state, at, &BTreeSet::new()), ["b.test", "c.test", "d.test", "e.test"]);
    let busy = ["b.test", "c.test"].map(str::to_owned).into();
    assert_eq!(due(&state, at, &busy), ["d.test", "e.test"]);
    for host in ["b.test", "c.test", "d.test", "e.test", "f.test"] {
        issue(&mut state, host, at, 90).unwrap();
    }
    assert_eq!(due(&state, at, &BTreeSet::new()), ["a.test"]);
}

#[test]
fn no_more_orders_are_made_than_a_directory_takes() {
    let hosts: Vec<String> = (0..256).map(|number| format!("h{number:03}.test")).collect();
    let mut state = asking(&hosts.iter().map(String::as_str).collect::<Vec<_>>());
    let mut at = NOON;
    while let [first, ..] = &due(&state, at, &BTreeSet::new())[..] {
        issue(&mut state, &first.clone(), at, 90).unwrap();
        at = later(at, 1_000);
    }
    let issued = state.certificates.named.len();
    assert_eq!(issued, ORDERS_WITHIN_MAX);
    assert_eq!(
        due(&state, later(NOON, ORDERS_WITHIN_MS + 2_000), &BTreeSet::new()).len(),
        3,
        "some are forgotten by now"
    );
}

#[test]
fn what_people_brought_goes_before_what_comes_by_itself() {
    let mut state = asking(&["shop.test", "a.b.test", "blog.test"]);
    bring(&mut state, "wild", "*.b.test", NOON, 30, None).unwrap();
    bring(&mut state, "mine", "shop.test", NOON, 30, None).unwrap();
    bring(&mut state, "blog.test", "other.test", NOON, 30, None).unwrap();
    let until = later(NOON, 30 * DAY);
    for (host, name) in [("a.b.test", "wild"), ("shop.test", "mine")] {
        assert_eq!(standing_of(&state, host, NOON), Standing::Covered { name: &named(name), until });
    }
    assert_eq!(standing_of(&state, "blog.test", NOON), Standing::Taken);
    assert_eq!(due(&state, NOON, &BTreeSet::new()), [] as [String; 0]);
    let refused = issue(&mut state, "blog.test", NOON, 90).unwrap_err();
    assert!(refused.contains("was brought"), "{refused}");
    let refused = change(&mut state, NOON, Change::Renew { host: "shop.test".into() }).unwrap_err();
    assert!(refused.contains("certificate mine"), "{refused}");
    // When it ends, the cluster helps itself.
    let at = later(NOON, 30 * DAY);
    assert_eq!(next_look(&state, NOON), Some(at));
    assert_eq!(due(&state, at, &BTreeSet::new()), ["a.b.test", "shop.test"]);
}

#[test]
fn a_directory_says_when_to_renew_and_is_not_waited_for_to_the_end() {
    let mut state = asking(&["shop.test"]);
    issue(&mut state, "shop.test", NOON, 90).unwrap();
    let mut window = |from: u64, until: u64| {
        let window = Window { start: later(NOON, from * DAY), end: later(NOON, until * DAY), url: String::new() };
        change(&mut state, NOON, Change::Window { name: named("shop.test"), window: Some(window) })?;
        Ok::<_, String>((renew_at("shop.test", certificate(&state, "shop.test").unwrap()).0 - NOON.0) / DAY)
    };
    assert!((10..20).contains(&window(10, 20).unwrap()));
    // It was revoked: at once.
    assert_eq!(window(0, 0).unwrap(), 0);
    assert_eq!(window(95, 99).unwrap(), 81);
    assert!(window(9, 8).unwrap_err().contains("ends before it begins"));
    assert_eq!(standing_of(&state, "shop.test", later(NOON, 85 * DAY)), Standing::Due(Why::Renewal));
}

#[test]
fn nothing_is_left_of_an_order_that_nobody_makes_any_more() {
    let mut state = asking(&["shop.test", "blog.test"]);
    let offer = |host: &str| Change::Offer {
        host: host.into(),
        challenge: Challenge { way: Way::Http, token: "t".into(), answer: "t.x".into(), since: NOON },
    };
    change(&mut state, NOON, offer("shop.test")).unwrap();
    change(&mut state, NOON, offer("blog.test")).unwrap();
    assert!(change(&mut state, NOON, offer("other.test")).unwrap_err().contains("no host"));
    let busy = ["shop.test".to_owned()].into();
    // Another leader, who has one of them under way.
    let Some(Command::Acme { change: tidied }) = tidy(&state, NOON, &busy) else { panic!("something is left") };
    change(&mut state, NOON, tidied).unwrap();
    assert_eq!(state.acme.challenges.keys().collect::<Vec<_>>(), ["shop.test"]);
    assert_eq!(tidy(&state, NOON, &busy), None);
    issue(&mut state, "shop.test", NOON, 90).unwrap();
    assert!(state.acme.challenges.is_empty());

    // Nobody asks any more: what failed is forgotten, and the certificate once it ended.
    fail(&mut state, "blog.test", NOON);
    ask(&mut state, &[]);
    let Some(Command::Acme { change: tidied }) = tidy(&state, NOON, &BTreeSet::new()) else {
        panic!("trouble is left")
    };
    change(&mut state, NOON, tidied).unwrap();
    assert!(state.acme.troubles.is_empty());
    assert_eq!(tidy(&state, later(NOON, 89 * DAY), &BTreeSet::new()), None);
    assert_eq!(next_look(&state, NOON), Some(later(NOON, 90 * DAY)));
    let ended = tidy(&state, later(NOON, 90 * DAY), &BTreeSet::new());
    assert_eq!(ended, Some(Command::RemoveCertificate { name: named("shop.test") }));
}

#[test]
fn an_account_is_made_when_it_is_needed_and_another_one_where_another_is_needed() {
    let mut state = cluster(1);
    state.cluster.sealing.key = KEY.into();
    ask(&mut state, &["shop.test"]);
    assert_eq!(standing_of(&state, "shop.test", NOON), Standing::Unset);
    assert!(!account_is_due(&state, NOON));
    assert!(account(&mut state).unwrap_err().contains("do not come from"));
    change(&mut state, NOON, Change::Set { settings: settings(DIRECTORY) }).unwrap();
    assert!(account_is_due(&state, NOON));
    assert_eq!(due(&state, NOON, &BTreeSet::new()), [] as [String; 0], "not without an account");
    let trouble = after_failure(None, NOON, "refused", None, 0);
    change(&mut state, NOON, Change::Failed { host: None, trouble: trouble.clone() }).unwrap();
    assert!(!account_is_due(&state, NOON) && account_is_due(&state, trouble.again_at));
    assert_eq!(next_look(&state, NOON), Some(trouble.again_at));
    account(&mut state).unwrap();
    assert!(!account_is_due(&state, NOON) && state.acme.account_trouble.is_none());

    let with = |way| NewSettings { way, ..settings(DIRECTORY) };
    change(&mut state, NOON, Change::Set { settings: with(Some(Way::TlsAlpn)) }).unwrap();
    assert!(state.acme.account.is_some(), "the same directory");
    let bound = NewBinding { kid: "k".into(), sealed: Sealed(vec![1]), key: KEY.into() };
    let bound = NewSettings { binding: Some(bound), ..settings(DIRECTORY) };
    change(&mut state, NOON, Change::Set { settings: bound }).unwrap();
    assert!(account_is_due(&state, NOON), "another binding");
    account(&mut state).unwrap();
    let versions: BTreeSet<u64> = state.acme.keys().map(|(version, ..)| version).collect();
    assert_eq!(versions.len(), 2);
    let id = "https://ca.example/1".to_owned();
    change(&mut state, NOON, Change::ForgetAccount { id: id.clone() }).unwrap();
    assert!(account_is_due(&state, NOON));
    assert!(change(&mut state, NOON, Change::ForgetAccount { id }).is_err());
    change(&mut state, NOON, Change::Off).unwrap();
    assert_eq!(state.acme, Acme::default());
    assert!(change(&mut state, NOON, Change::Off).unwrap_err().contains("nothing to turn off"));
}

#[test]
fn what_makes_no_sense_or_takes_too_much_room_is_refused() {
    let mut state = asking(&["shop.test"]);
    let long = "x".repeat(URL_BYTES_MAX + 1);
    for (alter, words) in [
        (NewSettings { directory: "http://ca.example".into(), ..settings("") }, "https://"),
        (NewSettings { directory: format!("https://{long}"), ..settings("") }, "URL of the directory"),
        (NewSettings { contacts: vec!["a@b".into(); CONTACTS_MAX + 1], ..settings(DIRECTORY) }, "number of contacts"),
        (NewSettings { contacts: vec![long.clone()], ..settings(DIRECTORY) }, "a contact in bytes"),
        (NewSettings { roots: "x".repeat(ROOTS_BYTES_MAX + 1), ..settings(DIRECTORY) }, "roots of the directory"),
    ] {
        let refused = change(&mut state, NOON, Change::Set { settings: alter }).unwrap_err();
        assert!(refused.contains(words), "{refused}");
    }
    let offer = |token: &str| Change::Offer {
        host: "shop.test".into(),
        challenge: Challenge { way: Way::Http, token: token.into(), answer: "a".into(), since: NOON },
    };
    for token in ["", "a/b", "../x", "a b", &long] {
        assert!(change(&mut state, NOON, offer(token)).is_err(), "{token}");
    }
    let mut old = asking(&["shop.test"]);
    old.cluster.feature_level = 1;
    let refused = change(&mut old, NOON, Change::Off).unwrap_err();
    assert!(refused.contains("needs feature level 2"), "{refused}");
}

#[test]
fn a_host_that_no_load_balancer_can_prove_is_none() {
    for good in ["shop.test", "localhost", "xn--bcher-kva.example", "a.b.c.d.test"] {
        assert_eq!(unfit(good), None, "{good}");
    }
    for wrong in ["*", "*.shop.test", "10.0.0.1", "Shop.test", "a_b.test", ""] {
        assert!(unfit(wrong).is_some(), "{wrong}");
    }
}

#[test]
fn a_short_lived_certificate_is_late_only_when_its_renewal_is() {
    let mut state = asking(&["shop.test"]);
    issue(&mut state, "shop.test", NOON, 6).unwrap();
    let of = |at| age(&named("shop.test"), certificate(&state, "shop.test").unwrap(), at);
    assert_eq!(of(NOON), Age::Good);
    assert_eq!(of(later(NOON, 4 * DAY)), Age::Good);
    assert_eq!(of(later(NOON, 5 * DAY + 20 * HOUR_MS)), Age::Late);
    assert_eq!(of(later(NOON, 6 * DAY)), Age::Expired);
}

#[test]
fn a_state_without_any_of_it_is_written_as_before_there_was_any() {
    let bytes = crate::codec::encode(&cluster(1));
    assert!(!bytes.windows(4).any(|part| part == b"acme"));
    let state = asking(&["shop.test"]);
    assert_eq!(crate::codec::decode::<ControlState>(&crate::codec::encode(&state)).unwrap(), state);
}

fn any_host() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a.test", "b.test", "c.test", "d.test", "e.test", "f.test"]).prop_map(str::to_owned)
}

/// What may happen: time passes, an order ends well or badly, somebody wishes, the leader changes.
#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Orders(Vec<bool>),
    Wish(String),
    Ask(BTreeSet<String>),
    Lead,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..100 * HOUR_MS).prop_map(Step::Pass),
        4 => vec(any::<bool>(), 1..6).prop_map(Step::Orders),
        1 => any_host().prop_map(Step::Wish),
        1 => btree_set(any_host(), 0..6).prop_map(Step::Ask),
        1 => Just(Step::Lead),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever happened, a cluster whose orders go well has a good certificate for each host that asks, and nothing besides.
    #[test]
    fn it_comes_right_whatever_happened(steps in vec(step(), 0..40)) {
        let mut state = asking(&["a.test"]);
        let mut at = NOON;
        let mut last: BTreeMap<String, Trouble> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Pass(ms) => at = later(at, ms),
                Step::Orders(ends) => {
                    let orders = due(&state, at, &BTreeSet::new());
                    prop_assert!(orders.len() <= ORDERS_MAX);
                    for (host, well) in orders.into_iter().zip(ends) {
                        prop_assert!(state.acme.troubles.get(&host).is_none_or(|it| it.again_at <= at), "too early");
                        if well {
                            issue(&mut state, &host, at, 90).unwrap();
                        } else {
                            let trouble = fail(&mut state, &host, at);
                            prop_assert!(trouble.again_at.0 >= at.0 + WAIT_FIRST_MS);
                            last.insert(host, trouble);
                        }
                    }
                }
                Step::Wish(host) => drop(change(&mut state, at, Change::Renew { host })),
                Step::Ask(hosts) => ask(&mut state, &hosts.iter().map(String::as_str).collect::<Vec<_>>()),
                Step::Lead => {}
            }
            while let Some(command) = tidy(&state, at, &BTreeSet::new()) {
                run(&mut state, at, command).unwrap();
            }
        }
        for _ in 0..100 {
            for host in due(&state, at, &BTreeSet::new()) {
                issue(&mut state, &host, at, 90).unwrap();
            }
            let Some(next) = next_look(&state, at) else { break };
            if hosts(&state).into_iter().all(|host| matches!(standing_of(&state, host, at), Standing::Good { .. })) {
                break;
            }
            at = next;
        }
        for host in hosts(&state) {
            prop_assert!(matches!(standing_of(&state, host, at), Standing::Good { .. }), "{host}");
        }
        prop_assert!(state.acme.troubles.is_empty() && state.acme.wishes.is_empty());
    }

    /// The time to renew is within the life of a certificate, and before its end as long as that has an extent.
    #[test]
    fn it_is_renewed_before_it_ends(days in 1..1_000u64, from in 0..2_000u64, long in 0..2_000u64, has in any::<bool>()) {
        let mut state = asking(&["shop.test"]);
        issue(&mut state, "shop.test", NOON, days).unwrap();
        let mut it = certificate(&state, "shop.test").unwrap().clone();
        let window = Window { start: later(NOON, from * DAY), end: later(NOON, (from + long) * DAY), url: String::new() };
        it.automatic = Some(Automatic { window: has.then_some(window) });
        let at = renew_at("shop.test", &it);
        prop_assert!(at >= NOON && at < it.facts.not_after);
    }

    /// No chance makes hosts that failed together wait less than they must, nor all of them the same.
    #[test]
    fn waits_grow_and_are_spread(chances in vec(any::<u64>(), 50), failures in 1..30u32) {
        let before = Trouble { failures, at: NOON, again_at: NOON, words: String::new() };
        let at: BTreeSet<u64> =
            chances.iter().map(|chance| after_failure(Some(&before), NOON, "", None, *chance).again_at.0 - NOON.0).collect();
        prop_assert!(at.iter().all(|wait| (2 * WAIT_FIRST_MS..=WAIT_MAX_MS * 5 / 4).contains(wait)));
        prop_assert!(at.len() > 25);
    }
}

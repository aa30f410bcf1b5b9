use std::collections::BTreeMap;

use hirsel_model::order::{Backend, LbOrder};
use hirsel_model::plan::Phase;
use hirsel_model::spec::{Queue, Sticky};
use hirsel_model::view::Liveness;
use hirsel_model::{Generation, InstanceId, NodeId};
use hirsel_role::Me;
use http::Request;
use tokio::sync::Notify;

use super::*;
use crate::instance::Whom;
use crate::table::{Origin, Standing, Table};
use crate::ways::Ways;

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const NOW: Timestamp = Timestamp(1_000_000);
const READY: Standing =
    Standing { liveness: Liveness::Alive, port: 20_000, phase: Phase::Active, drain_ms: 30_000, healthy: true };

/// Instances `numbers` of `shop/web`, all healthy, in the zone of their load balancer.
fn table(numbers: impl IntoIterator<Item = u64>) -> Table {
    table_in(numbers.into_iter().map(|number| (number, "a")), &[("a", 1)])
}

/// The same in zones, with so many load balancers in each; this one is in `a`.
fn table_in(numbers: impl IntoIterator<Item = (u64, &'static str)>, balancers: &[(&str, u32)]) -> Table {
    let host = "127.0.0.1".parse().unwrap();
    let me =
        Me { id: NodeId(1), name: "n1".parse().unwrap(), zone: "a".parse().unwrap(), instance_host: host, bind: host };
    let (mut order, mut standings) = (LbOrder::default(), BTreeMap::new());
    order.balancers = balancers.iter().map(|(zone, number)| (zone.parse().unwrap(), *number)).collect();
    for (number, zone) in numbers {
        let id: InstanceId = format!("shop/web/{number}").parse().unwrap();
        let addr = "10.0.0.2:7400".parse().unwrap();
        let backend = Backend {
            node: NodeId(2),
            addr,
            zone: zone.parse().unwrap(),
            phase: Phase::Active,
            drain_ms: 30_000,
            protocol: Default::default(),
        };
        let key = ("shop".parse().unwrap(), "web".parse().unwrap());
        order.backends.entry(key).or_default().insert(id.clone(), backend);
        standings.insert(id, READY);
    }
    let find = &mut |whom, protocol| Arc::new(Instance::new(whom, protocol, Arc::new(Notify::new())));
    Table::build(Generation(1), Arc::<Ways>::default(), &order, &standings, &me, find)
}

fn web(table: &Table) -> &Service {
    table.service(&Origin::Service("shop".parse().unwrap(), "web".parse().unwrap())).unwrap()
}

fn instance(table: &Table, number: u64) -> Arc<Instance> {
    let of = |candidate: &&Candidate| number_of(&candidate.instance) == number;
    web(table).ready.iter().find(of).unwrap().instance.clone()
}

fn number_of(instance: &Instance) -> u64 {
    match &instance.whom {
        Whom::Instance { id, .. } => id.number,
        Whom::Outside(addr) => addr.port().into(),
    }
}

fn sharing(policy: Policy) -> Sharing {
    // Something has to be said.
    let other = Balance { policy, try_timeout_ms: Some(1), ..Balance::default() };
    Sharing::of(&other, 0).unwrap().unwrap()
}

/// As `choice` picks, at `now` with this chance.
fn pick<'a>(table: &Table, choice: &Choice<'a>, now: Timestamp, draw: u64, tried: &[Arc<Instance>]) -> Picked<'a> {
    choice.pick(web(table), Moment { now, draw, tried, balancers: &table.balancers, is_first: false })
}

fn take(table: &Table, choice: &Choice<'_>, draw: u64) -> Option<Ticket> {
    match pick(table, choice, NOW, draw, &[]) {
        Picked::Taken(ticket, _) => Some(ticket),
        Picked::Full(_) | Picked::Nobody => None,
    }
}

fn hash(key: HashKey) -> Policy {
    Policy::Hash(HashBy { key, bound_percent: 150 })
}

fn head(path: &str, lines: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri(path);
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

/// Whom `times` requests went to that each end before the next.
fn taken(table: &Table, choice: &Choice<'_>, now: Timestamp, times: u64) -> BTreeMap<u64, u64> {
    let mut taken = BTreeMap::new();
    for at in 0..times {
        let Picked::Taken(ticket, _) = pick(table, choice, now, alike::mix(at), &[]) else { panic!("nobody") };
        *taken.entry(number_of(ticket.instance())).or_default() += 1;
    }
    taken
}

#[test]
fn a_route_that_says_nothing_shares_as_always() {
    assert!(Sharing::of(&Balance::default(), 0).unwrap().is_none());
}

#[test]
fn each_takes_its_turn() {
    let (table, sharing) = (table(1..=3), sharing(Policy::RoundRobin));
    let choice = sharing.choice(&head("/", &[]), HERE);
    assert_eq!(taken(&table, &choice, NOW, 30), [(1, 10), (2, 10), (3, 10)].into());
    instance(&table, 2).failed(NOW);
    assert_eq!(taken(&table, &choice, NOW, 30), [(1, 15), (3, 15)].into());
}

#[test]
fn the_one_with_the_fewest_requests_takes_the_next() {
    let (table, sharing) = (table(1..=3), sharing(Policy::LeastRequests));
    let choice = sharing.choice(&head("/", &[]), HERE);
    let mut tickets = Vec::new();
    for at in 0..30 {
        tickets.push(take(&table, &choice, alike::mix(at)).unwrap());
    }
    assert!((1..=3).all(|number| instance(&table, number).in_flight() == 10));
}

#[test]
fn requests_that_are_alike_meet_on_every_load_balancer() {
    let (one, other) = (table(1..=5), table(1..=5));
    let sharing = sharing(hash(HashKey::Header("x-user".into())));
    let mut used = BTreeMap::new();
    for user in 0..200 {
        let head = head("/", &[("x-user", &format!("u{user}"))]);
        let choice = sharing.choice(&head, HERE);
        let here = taken(&one, &choice, NOW, 5);
        assert_eq!(here.len(), 1, "whatever chance says");
        assert_eq!(here, taken(&other, &choice, NOW, 5));
        *used.entry(*here.keys().next().unwrap()).or_insert(0) += 1;
    }
    assert!(used.len() == 5 && used.values().all(|n| *n >= 20), "{used:?}");
}

#[test]
fn only_the_keys_of_an_instance_that_is_gone_or_ejected_move_and_they_come_back() {
    let (all, without) = (table(1..=5), table([1, 2, 4, 5]));
    let sharing = sharing(hash(HashKey::Path));
    for page in 0..200 {
        let head = head(&format!("/p{page}?x"), &[]);
        let choice = sharing.choice(&head, HERE);
        let of = |table: &Table| *taken(table, &choice, NOW, 1).keys().next().unwrap();
        let before = of(&all);
        assert!(before == 3 || of(&without) == before);
        instance(&all, 3).failed(NOW);
        assert_eq!(of(&all), of(&without));
        instance(&all, 3).succeeded(Duration::from_millis(1), NOW);
        assert_eq!(of(&all), before);
    }
}

#[test]
fn what_an_instance_has_too_much_of_goes_to_others() {
    let (table, sharing) = (table(1..=4), sharing(hash(HashKey::Client)));
    let choice = sharing.choice(&head("/", &[]), HERE);
    let tickets: Vec<_> = (0..100).map(|at| take(&table, &choice, at).unwrap()).collect();
    let loads: Vec<u32> = (1..=4).map(|number| instance(&table, number).in_flight()).collect();
    assert!(loads.iter().all(|n| *n <= 38), "150 % of 25: {loads:?}");
    drop(tickets);
    assert_eq!(taken(&table, &choice, NOW, 20).len(), 1, "with nothing under way all of it meets again");
}

#[test]
fn the_key_is_what_the_route_says() {
    let v6 = |text: &str| text.parse::<IpAddr>().unwrap();
    let key = |by: HashKey, head: &Parts, client: IpAddr| sharing(hash(by)).key(head, client);
    let plain = head("/a?b", &[("cookie", "a=1; sid=s1;sidx=2"), ("cookie", "later=\"q\""), ("x-user", "anna")]);
    assert_eq!(key(HashKey::Client, &plain, v6("fd00::1")), key(HashKey::Client, &plain, v6("fd00::2")));
    assert_ne!(key(HashKey::Client, &plain, v6("fd00::1")), key(HashKey::Client, &plain, v6("fd00:0:0:1::1")));
    assert_eq!(key(HashKey::Client, &plain, v6("::ffff:10.0.0.1")), key(HashKey::Client, &plain, HERE));
    assert_eq!(key(HashKey::Path, &plain, HERE), Some(alike::key(b"/a")));
    assert_eq!(key(HashKey::Header("x-user".into()), &plain, HERE), Some(alike::key(b"anna")));
    assert_eq!(key(HashKey::Header("x-none".into()), &plain, HERE), None);
    for (name, value) in [("sid", Some("s1")), ("sidx", Some("2")), ("later", Some("\"q\"")), ("si", None)] {
        let expected = value.map(|value| alike::key(value.as_bytes()));
        assert_eq!(key(HashKey::Cookie(name.into()), &plain, HERE), expected, "{name}");
    }
    assert_eq!(key(HashKey::Cookie("sid".into()), &head("/", &[("cookie", "sid=")]), HERE), None);
    let asked = head("/?a=1&i%64=x%20y&id=z&empty=", &[]);
    for (name, value) in [("a", Some("1")), ("id", Some("x y")), ("empty", None), ("none", None)] {
        let expected = value.map(|value| alike::key(value.as_bytes()));
        assert_eq!(key(HashKey::Query(name.into()), &asked, HERE), expected, "{name}");
    }
    assert_eq!(key(HashKey::Query("id".into()), &head("/?id=x+y", &[]), HERE), Some(alike::key(b"x y")));
    assert_eq!(sharing(Policy::RoundRobin).key(&plain, HERE), None);
}

#[test]
fn without_a_key_the_less_loaded_takes_a_request() {
    let (table, sharing) = (table(1..=3), sharing(hash(HashKey::Cookie("sid".into()))));
    let taken = taken(&table, &sharing.choice(&head("/", &[]), HERE), NOW, 300);
    assert!(taken.len() == 3 && taken.values().all(|n| *n > 50), "{taken:?}");
}

#[test]
fn the_share_of_a_new_instance_grows_whatever_the_policy_is() {
    for policy in [Policy::LeastLoaded, Policy::RoundRobin, Policy::LeastRequests] {
        let (table, mut sharing) = (table(1..=4), sharing(policy.clone()));
        sharing.slow_start = Some(Duration::from_secs(10));
        instance(&table, 4).became_ready(NOW);
        let choice = sharing.choice(&head("/", &[]), HERE);
        let share = |after_s: u64| {
            let now = NOW + Duration::from_secs(after_s);
            taken(&table, &choice, now, 4_000).get(&4).copied().unwrap_or(0)
        };
        let shares = [share(0), share(5), share(10)];
        // Of a whole share of 1,000: a tenth, about half, all.
        assert!((40..=200).contains(&shares[0]), "{policy:?}: {shares:?}");
        assert!((350..=750).contains(&shares[1]), "{policy:?}: {shares:?}");
        assert!((850..=1_150).contains(&shares[2]), "{policy:?}: {shares:?}");
    }
}

#[test]
fn keys_move_to_a_new_instance_once_each_while_it_warms() {
    let (table, mut sharing) = (table(1..=4), sharing(hash(HashKey::Path)));
    sharing.slow_start = Some(Duration::from_secs(10));
    instance(&table, 4).became_ready(NOW);
    let mut moved = [0; 11];
    for page in 0..400 {
        let head = head(&format!("/p{page}"), &[]);
        let choice = sharing.choice(&head, HERE);
        let of = |s: u64| *taken(&table, &choice, NOW + Duration::from_secs(s), 1).keys().next().unwrap();
        let mut last = of(0);
        for (after, moved) in (0..=10).zip(&mut moved) {
            let now = of(after);
            assert!(now == last || now == 4, "{page}: from {last} to {now}");
            *moved += u32::from(now == 4);
            last = now;
        }
    }
    assert!(moved.is_sorted() && moved[0] < 25 && (75..=125).contains(&moved[10]), "{moved:?}");
}

#[test]
fn where_all_are_new_all_take_their_share() {
    let (table, mut sharing) = (table(1..=3), sharing(Policy::RoundRobin));
    sharing.slow_start = Some(Duration::from_secs(10));
    (1..=3).for_each(|number| instance(&table, number).became_ready(NOW));
    let taken = taken(&table, &sharing.choice(&head("/", &[]), HERE), NOW, 300);
    assert_eq!(taken, [(1, 100), (2, 100), (3, 100)].into());
}

#[test]
fn what_was_tried_or_is_closed_takes_nothing_and_the_last_one_is_never_left_alone() {
    let policies = [Policy::LeastLoaded, Policy::RoundRobin, Policy::LeastRequests, hash(HashKey::Client)];
    for sharing in policies.map(sharing) {
        let table = table(1..=3);
        let choice = sharing.choice(&head("/", &[]), HERE);
        let number = |tried: &[Arc<Instance>]| match pick(&table, &choice, NOW, 5, tried) {
            Picked::Taken(ticket, _) => Some(number_of(ticket.instance())),
            Picked::Full(_) | Picked::Nobody => None,
        };
        instance(&table, 1).close();
        assert_eq!(number(&[instance(&table, 2)]), Some(3));
        instance(&table, 3).failed(NOW);
        assert_eq!(number(&[]), Some(2));
        assert_eq!(number(&[instance(&table, 2)]), Some(3), "ejected is better than nothing");
        assert_eq!(number(&[instance(&table, 2), instance(&table, 3)]), None);
    }
}

#[test]
fn a_session_goes_to_its_instance_and_elsewhere_when_that_one_is_gone() {
    let sticky =
        Sticky { cookie: "at".into(), path: "/".into(), same_site: Default::default(), max_age_s: None, secure: false };
    let sharing = Sharing::of(&Balance { sticky: Some(sticky), ..Balance::default() }, 0).unwrap().unwrap();
    let (table, other) = (table(1..=4), table(1..=4));
    let first = sharing.choice(&head("/", &[]), HERE);
    let at = number_of(take(&table, &first, 9).unwrap().instance());
    let cookie = first.cookie(false).unwrap();
    let pair = cookie.to_str().unwrap().split(';').next().unwrap().to_owned();
    let known = || sharing.choice(&head("/", &[("cookie", &pair)]), HERE);
    for (table, draw) in [&table, &other].into_iter().flat_map(|table| (0..20).map(move |draw| (table, draw))) {
        let choice = known();
        assert_eq!(number_of(take(table, &choice, alike::mix(draw)).unwrap().instance()), at);
        assert_eq!(choice.cookie(false), None, "it is known");
    }
    instance(&table, at).failed(NOW);
    let choice = known();
    let now_at = number_of(take(&table, &choice, 9).unwrap().instance());
    assert_ne!(now_at, at);
    assert!(choice.cookie(true).unwrap().to_str().unwrap().ends_with("; Secure"), "and is told so");
    for forged in ["at=0000000000000000", "at=", "at=../../etc", "at=ffffffffffffffffff"] {
        let choice = sharing.choice(&head("/", &[("cookie", forged)]), HERE);
        assert!(take(&table, &choice, 9).is_some() && choice.cookie(false).is_some(), "{forged}");
    }
}

#[test]
fn no_instance_has_more_requests_than_it_may_and_who_comes_then_is_told() {
    let balance = Balance { concurrency: Some(2), policy: hash(HashKey::Client), ..Balance::default() };
    let (table, sharing) = (table(1..=3), Sharing::of(&balance, 0).unwrap().unwrap());
    let choice = sharing.choice(&head("/", &[]), HERE);
    let mut tickets: Vec<_> = (0..6).map(|draw| take(&table, &choice, draw).unwrap()).collect();
    assert!((1..=3).all(|number| instance(&table, number).in_flight() == 2));
    assert!(matches!(pick(&table, &choice, NOW, 0, &[]), Picked::Full(_)));
    let freed = number_of(tickets.pop().unwrap().instance());
    assert_eq!(number_of(take(&table, &choice, 0).unwrap().instance()), freed);
    // One that is left alone takes nothing because others are full.
    drop(tickets);
    instance(&table, 1).failed(NOW);
    let held: Vec<_> = (0..4).map(|draw| take(&table, &choice, draw).unwrap()).collect();
    assert!(matches!(pick(&table, &choice, NOW, 0, &[]), Picked::Full(_)));
    assert_eq!((held.len(), instance(&table, 1).in_flight()), (4, 0));
}

#[tokio::test]
async fn who_comes_later_is_behind_those_who_wait() {
    let queue = Some(Queue { requests: 2, wait_ms: 60_000 });
    let balance = Balance { concurrency: Some(1), queue, ..Balance::default() };
    let (table, sharing) = (table(1..=1), Sharing::of(&balance, 0).unwrap().unwrap());
    let choice = sharing.choice(&head("/", &[]), HERE);
    let ticket = take(&table, &choice, 0).unwrap();
    let Picked::Full(line) = pick(&table, &choice, NOW, 0, &[]) else { panic!("there is room") };
    let place = line.join().unwrap().first().await.unwrap();
    drop(ticket);
    assert!(matches!(pick(&table, &choice, NOW, 0, &[]), Picked::Full(_)), "though there is room");
    let first = Moment { now: NOW, draw: 0, tried: &[], balancers: &table.balancers, is_first: true };
    assert!(matches!(choice.pick(web(&table), first), Picked::Taken(..)));
    drop(place);
    assert!(take(&table, &choice, 0).is_some());
}

#[test]
fn errors_in_a_row_leave_an_instance_alone_but_never_more_than_the_share() {
    let balance = Balance { eject: Some(Eject { errors: 3, share_percent: 50 }), ..Balance::default() };
    let (table, sharing) = (table(1..=3), Sharing::of(&balance, 0).unwrap().unwrap());
    let choice = sharing.choice(&head("/", &[]), HERE);
    let judge = |number, status| {
        choice.judge(web(&table), &instance(&table, number), StatusCode::from_u16(status).unwrap(), NOW)
    };
    assert!(!judge(1, 500) && !judge(1, 503) && !judge(1, 404) && !judge(1, 500), "404 is an answer");
    assert!(!judge(1, 500) && judge(1, 502) && !judge(1, 500));
    let taken = taken(&table, &choice, NOW, 100);
    assert!(!taken.contains_key(&1) && taken.len() == 2, "{taken:?}");
    assert!((0..10).all(|_| !judge(2, 500)), "one of three is half, rounded down");
    let later = NOW + Duration::from_secs(1);
    assert!(self::taken(&table, &choice, later, 100).contains_key(&1), "after a second it is tried again");
    let plain = self::sharing(Policy::RoundRobin);
    assert!(self::taken(&table, &plain.choice(&head("/", &[]), HERE), NOW, 9).contains_key(&1), "others do not care");
}

#[test]
fn the_own_zone_comes_first_as_far_as_it_has_its_share() {
    let zoned = |zones: &[&'static str], balancers: &[(&str, u32)]| {
        let numbers = (1..).zip(zones).map(|(number, zone)| (number, *zone));
        let table = table_in(numbers, balancers);
        let balance = Balance { same_zone: true, ..Balance::default() };
        let sharing = Sharing::of(&balance, 0).unwrap().unwrap();
        taken(&table, &sharing.choice(&head("/", &[]), HERE), NOW, 1_000)
    };
    let each = [("a", 1), ("b", 1), ("c", 1)];
    let own = zoned(&["a", "a", "b", "b", "c", "c"], &each);
    assert_eq!(own.keys().copied().collect::<Vec<_>>(), [1, 2], "{own:?}");
    let half = zoned(&["a", "b", "b", "c", "c", "c"], &each);
    assert!((420..=580).contains(&half[&1]) && !half.contains_key(&2) && half.len() == 4, "{half:?}");
    assert_eq!(zoned(&["b", "c"], &each).len(), 2, "without one of its own a zone is as any other");
}

#[test]
fn of_a_zone_that_is_not_well_the_requests_go_to_others() {
    let table = table_in([(1, "a"), (2, "a"), (3, "b"), (4, "b")], &[("a", 1), ("b", 1)]);
    let balance = Balance { same_zone: true, ..Balance::default() };
    let sharing = Sharing::of(&balance, 0).unwrap().unwrap();
    let choice = sharing.choice(&head("/", &[]), HERE);
    let own = taken(&table, &choice, NOW, 1_000);
    assert_eq!(own.keys().copied().collect::<Vec<_>>(), [1, 2]);
    instance(&table, 1).failed(NOW);
    let spilled = taken(&table, &choice, NOW, 1_000);
    // A third of those that are well, for half of the requests.
    assert!((600..=740).contains(&spilled[&2]), "{spilled:?}");
    instance(&table, 2).failed(NOW);
    assert_eq!(taken(&table, &choice, NOW, 1_000).keys().copied().collect::<Vec<_>>(), [3, 4]);
}

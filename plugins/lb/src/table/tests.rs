use std::collections::BTreeMap;
use std::sync::Arc;

use hirsel_model::order::{Backend, LbOrder};
use hirsel_model::plan::Phase;
use hirsel_model::spec::RouteSpec;
use proptest::prelude::*;
use tokio::sync::Notify;

use super::*;
use crate::actions::Tools;
use crate::paths::SPELLED_BYTES_MAX;
use crate::ways::{Finding, Ways};

const ME: NodeId = NodeId(1);

fn me() -> Me {
    let host = "127.0.0.1".parse().unwrap();
    Me { id: ME, name: "n1".parse().unwrap(), zone: "a".parse().unwrap(), instance_host: host, bind: host }
}

/// A table with `routes` (host, path, service), and instances `service` number, node, how it stands.
fn table(routes: &[(&str, &str, &str)], instances: &[(&str, u64, u64, Standing)]) -> Table {
    let mut order = LbOrder::default();
    for (host, path, to) in routes {
        let route = RouteSpec::plain(*host, *path, to.parse().unwrap());
        order.routes.push(("shop".parse().unwrap(), route));
    }
    let mut standings = BTreeMap::new();
    for (service, number, node, standing) in instances {
        let id: InstanceId = format!("shop/{service}/{number}").parse().unwrap();
        let backend = Backend {
            node: NodeId(*node),
            addr: "10.0.0.2:7400".parse().unwrap(),
            zone: "a".parse().unwrap(),
            phase: standing.phase,
            drain_ms: 30_000,
            protocol: AppProtocol::Http1,
        };
        let key = ("shop".parse().unwrap(), service.parse().unwrap());
        order.backends.entry(key).or_default().insert(id.clone(), backend);
        standings.insert(id, *standing);
    }
    built(&order, &standings)
}

fn built(order: &LbOrder, standings: &BTreeMap<InstanceId, Standing>) -> Table {
    let find = &mut |whom, protocol| Arc::new(Instance::new(whom, protocol, Arc::new(Notify::new())));
    Table::build(Generation(7), ways(order), order, standings, &me(), find)
}

fn ways(order: &LbOrder) -> Arc<Ways> {
    let tools = Tools::fixed();
    Arc::new(Ways::build(&order.routes, None, &tools, (&[], &Ways::default())))
}

fn web() -> Origin {
    Origin::Service("shop".parse().unwrap(), "web".parse().unwrap())
}

const READY: Standing =
    Standing { liveness: Liveness::Alive, port: 20_000, phase: Phase::Active, drain_ms: 30_000, healthy: true };

fn head(path: &str) -> http::request::Parts {
    http::Request::builder().uri(path).body(()).unwrap().into_parts().0
}

fn found<'a>(table: &'a Table, host: &str, path: &str) -> Option<&'a str> {
    match table.ways.find(host, &head(path)) {
        Finding::Route(route) => match &**table.origin(route, || 0)? {
            Origin::Service(_, service) => Some(service.as_str()),
            Origin::Outside(..) => Some("outside"),
            Origin::Bucket(..) => Some("bucket"),
        },
        Finding::Nowhere => None,
        Finding::Ambiguous => Some("?"),
    }
}

fn picked(table: &Table, draw: u64, tried: &[Arc<Instance>]) -> Option<u64> {
    table.service(&web())?.pick(Timestamp(0), draw, tried).map(|(ticket, _)| match &ticket.instance().whom {
        Whom::Instance { id, .. } => id.number,
        Whom::Outside(addr) => addr.port().into(),
    })
}

#[test]
fn the_host_itself_comes_before_any_host_and_the_longest_path_before_shorter_ones() {
    let table = table(
        &[
            ("shop.example", "/", "web"),
            ("shop.example", "/api", "api"),
            ("shop.example", "/api/v2/", "next"),
            ("*", "/", "rest"),
            ("docs.example", "/manual", "docs"),
        ],
        &[],
    );
    assert_eq!(found(&table, "shop.example", "/"), Some("web"));
    assert_eq!(found(&table, "shop.example", "/api"), Some("api"));
    assert_eq!(found(&table, "shop.example", "/apiary"), Some("web"));
    assert_eq!(found(&table, "shop.example", "/api/v2"), Some("next"));
    assert_eq!(found(&table, "shop.example", "/api/v2/x"), Some("next"));
    assert_eq!(found(&table, "other.example", "/api"), Some("rest"));
    assert_eq!(
        found(&table, "docs.example", "/elsewhere"),
        Some("rest"),
        "a host without the path leaves it to any host"
    );
    assert_eq!(found(&table, "", "*"), Some("rest"));
}

#[test]
fn a_wildcard_stands_for_one_label_and_comes_after_the_host_itself() {
    let routes = [("shop.example", "/a", "web"), ("*.example", "/", "wild"), ("*.shop.example", "/", "deep")];
    let table = table(&routes, &[]);
    assert_eq!(found(&table, "shop.example", "/a"), Some("web"));
    assert_eq!(found(&table, "shop.example", "/b"), Some("wild"), "what the host itself does not take");
    assert_eq!(found(&table, "docs.example", "/"), Some("wild"));
    assert_eq!(found(&table, "a.shop.example", "/"), Some("deep"));
    for host in ["example", "a.b.shop.example", ".example", "", "xexample", "a.b.example"] {
        assert_eq!(found(&table, host, "/"), None, "{host:?}");
    }
}

#[test]
fn a_path_whose_readings_lead_to_different_routes_is_ambiguous() {
    let table =
        table(&[("h", "/", "web"), ("h", "/admin", "admin"), ("h", "/files", "files"), ("one", "/", "web")], &[]);
    for path in [
        "/static/../admin",
        "/%61dmin",
        "//admin/x",
        "/x/%2e%2e/admin",
        "/x/..%2Fadmin",
        "/admin;a",
        "/admin/..",
        "/%2561dmin",
    ] {
        assert_eq!(found(&table, "h", path), Some("?"), "{path}");
        assert_eq!(found(&table, "one", path), Some("web"), "there is one way only");
    }
    for (path, service) in [
        ("/files/a%2Fb%20c", "files"),
        ("/files//x", "files"),
        ("/files/x;v=1/../y", "files"),
        ("/a%20b", "web"),
        ("/proxy/http://x/", "web"),
        ("/.well-known/acme", "web"),
        ("/admin/%2e%2e/admin/", "admin"),
    ] {
        assert_eq!(found(&table, "h", path), Some(service), "{path}");
    }
    assert_eq!(found(&table, "h", "/files/../etc"), Some("?"), "nothing leads out of a route");
    let long = format!("/files/%20{}", "a".repeat(SPELLED_BYTES_MAX));
    assert_eq!(found(&table, "h", &long), Some("?"), "too long to be read in all ways");
    assert_eq!(found(&table, "h", &long.replace('%', "_")), Some("files"));
}

#[test]
fn requests_are_shared_by_weight_and_one_without_instances_leaves_its_share() {
    let mut order = LbOrder::default();
    let shares = [("web", 3), ("next", 1), ("off", 0)].map(|(name, weight)| (name.parse().unwrap(), weight));
    let mut route = RouteSpec::plain("h", "/", "web".parse().unwrap());
    route.to = Target::Shares(shares.into());
    order.routes.push(("shop".parse().unwrap(), route));
    let share = |table: &Table, name: &str| {
        let Finding::Route(route) = table.ways.find("h", &head("/")) else { panic!("there is a route") };
        let wanted = Origin::Service("shop".parse().unwrap(), name.parse().unwrap());
        (0..100).filter(|draw| table.origin(route, || *draw).is_some_and(|it| **it == wanted)).count()
    };
    let none = built(&order, &BTreeMap::new());
    assert_eq!((share(&none, "web"), share(&none, "next"), share(&none, "off")), (75, 25, 0));
    let id: InstanceId = "shop/next/1".parse().unwrap();
    let backend = Backend {
        node: ME,
        addr: "10.0.0.2:7400".parse().unwrap(),
        zone: "a".parse().unwrap(),
        phase: Phase::Active,
        drain_ms: 30_000,
        protocol: AppProtocol::Http1,
    };
    let key = ("shop".parse().unwrap(), "next".parse().unwrap());
    order.backends.entry(key).or_default().insert(id.clone(), backend);
    let one = built(&order, &BTreeMap::from([(id, READY)]));
    assert_eq!((share(&one, "web"), share(&one, "next")), (0, 100));
}

#[test]
fn without_a_route_there_is_no_service() {
    let table = table(&[("shop.example", "/a", "web")], &[("web", 1, 1, READY)]);
    assert_eq!(found(&table, "shop.example", "/b"), None);
    assert_eq!(found(&table, "other.example", "/a"), None);
}

#[test]
fn a_way_in_belongs_to_the_first_that_claimed_it() {
    let table = table(&[("a", "/x", "web"), ("a", "/x/", "api")], &[]);
    assert_eq!(found(&table, "a", "/x"), Some("web"));
}

#[test]
fn only_active_and_healthy_instances_are_picked() {
    let drains = Standing { phase: Phase::Draining, ..READY };
    let ill = Standing { healthy: false, ..READY };
    let table = table(&[], &[("web", 1, 1, drains), ("web", 2, 1, ill), ("web", 3, 2, READY)]);
    for draw in [0, u64::MAX, 0x1234_5678_9ABC_DEF0] {
        assert_eq!(picked(&table, draw, &[]), Some(3));
    }
}

#[test]
fn an_instance_on_a_node_that_is_not_heard_is_the_last_resort() {
    let unheard = Standing { liveness: Liveness::Suspect, ..READY };
    let both = table(&[], &[("web", 1, 2, unheard), ("web", 2, 3, READY)]);
    assert_eq!(picked(&both, u64::MAX, &[]), Some(2));
    let only = table(&[], &[("web", 1, 2, unheard)]);
    assert_eq!(picked(&only, 0, &[]), Some(1));
}

#[test]
fn when_all_are_ejected_all_take_requests_again() {
    let table = table(&[], &[("web", 1, 1, READY), ("web", 2, 1, READY)]);
    let service = table.service(&web()).unwrap();
    service.ready[0].instance.failed(Timestamp(0));
    assert_eq!(picked(&table, 0, &[]), Some(2));
    service.ready[1].instance.failed(Timestamp(0));
    assert!(picked(&table, 0, &[]).is_some(), "the last one is never ejected");
}

#[test]
fn those_tried_are_left_out() {
    let table = table(&[], &[("web", 1, 1, READY), ("web", 2, 1, READY)]);
    let service = table.service(&web()).unwrap();
    let tried = [service.ready[0].instance.clone()];
    assert_eq!(picked(&table, 0, &tried), Some(2));
    let tried = [service.ready[0].instance.clone(), service.ready[1].instance.clone()];
    assert_eq!(picked(&table, 0, &tried), None);
}

#[test]
fn instances_of_this_node_are_reached_directly_and_others_through_their_door() {
    let table = table(&[], &[("web", 1, 1, READY), ("web", 2, 2, READY)]);
    let service = table.service(&web()).unwrap();
    assert_eq!(service.ready[0].way, Way::Direct("127.0.0.1:20000".parse().unwrap()));
    let addr = "10.0.0.2:7400".parse().unwrap();
    assert_eq!(service.ready[1].way, Way::Door { node: NodeId(2), addr });
}

fn segments() -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "ab", "api"]), 0..4)
}

proptest! {
    #[test]
    fn a_path_goes_to_the_longest_prefix_of_its_segments(prefixes in prop::collection::vec(segments(), 1..6), path in segments()) {
        let paths: Vec<String> = prefixes.iter().map(|segments| format!("/{}", segments.join("/"))).collect();
        let names: Vec<String> = (0..paths.len()).map(|n| format!("s{n}")).collect();
        let routes: Vec<_> = paths.iter().zip(&names).map(|(path, name)| ("*", path.as_str(), name.as_str())).collect();
        let table = table(&routes, &[]);
        let expected = prefixes
            .iter()
            .enumerate()
            .filter(|(_, prefix)| path.starts_with(prefix))
            // Of equal ones the first.
            .max_by_key(|(at, prefix)| (prefix.len(), std::cmp::Reverse(*at)))
            .map(|(at, _)| names[at].as_str());
        prop_assert_eq!(found(&table, "any", &format!("/{}", path.join("/"))), expected);
    }
}

use hickory_proto::rr::Name;

use super::*;
use crate::testing::{Town, market};

/// What a name is, in a word, with its zone.
fn place(name: &str) -> String {
    let names = market().names();
    let asked = text(&Name::from_ascii(name).unwrap());
    let Some((zone, rest)) = names.zone(&asked) else { return "not ours".into() };
    let place = match names.place(zone, &asked, rest) {
        None => "nothing".to_owned(),
        Some(Place::Apex(held)) => format!("apex {}", held.is_some_and(|held| held.is_host)),
        Some(Place::Between) => "between".into(),
        Some(Place::App(app)) => format!("app of {}", app.services.len()),
        Some(Place::Service(it)) => format!("{}/{} of {}", it.app, it.service, it.instances.len()),
        Some(Place::ByProtocol(it)) => format!("{}/{} by protocol", it.app, it.service),
        Some(Place::Instance(it)) => format!("{}/{}/{}", it.app, it.service, it.instances[0].0),
        Some(Place::Node(node)) => format!("node {node}"),
        Some(Place::Objects) => "objects".into(),
        Some(Place::Bucket) => "bucket".into(),
        Some(Place::Server(node)) => format!("server {node}"),
        Some(Place::Held(held) | Place::Wild(held)) if held.is_host => "host".into(),
        Some(Place::Held(held) | Place::Wild(held)) if held.own.is_some() => "records".into(),
        Some(Place::Held(_) | Place::Wild(_)) => "between".into(),
    };
    format!("{place} in {}", zone.name)
}

#[test]
fn each_name_of_the_internal_zone_is_what_it_says() {
    for (name, expected) in [
        ("hirsel.", "apex false"),
        ("node.hirsel.", "between"),
        ("n2.node.hirsel.", "node 2"),
        ("n9.node.hirsel.", "nothing"),
        ("x.n2.node.hirsel.", "nothing"),
        ("s3.hirsel.", "objects"),
        ("my.media.s3.hirsel.", "bucket"),
        ("shop.hirsel.", "app of 3"),
        ("blog.hirsel.", "app of 0"),
        ("none.hirsel.", "nothing"),
        ("web.shop.hirsel.", "shop/web of 3"),
        ("WEB.Shop.hIRSEL.", "shop/web of 3"),
        ("idle.shop.hirsel.", "shop/idle of 0"),
        ("api.shop.hirsel.", "nothing"),
        ("_tcp.shop.hirsel.", "between"),
        ("_tcp.blog.hirsel.", "nothing"),
        ("_web._tcp.shop.hirsel.", "shop/web by protocol"),
        ("web._tcp.shop.hirsel.", "nothing"),
        ("_web._udp.shop.hirsel.", "nothing"),
        ("_api._tcp.shop.hirsel.", "nothing"),
        ("2.web.shop.hirsel.", "shop/web/2"),
        ("02.web.shop.hirsel.", "nothing"),
        ("4.web.shop.hirsel.", "nothing"),
        ("x.2.web.shop.hirsel.", "nothing"),
        ("*.shop.hirsel.", "nothing"),
        (r"web\.shop.hirsel.", "nothing"),
    ] {
        assert_eq!(place(name), format!("{expected} in hirsel"), "{name}");
    }
}

#[test]
fn a_label_of_any_bytes_is_text_that_no_name_of_ours_is() {
    let name = Name::from_labels([&b"we\0b"[..], b"Sh.op", b"\xff", b"hirsel"]).unwrap();
    assert_eq!(text(&name), "we?b.sh?op.?.hirsel");
}

#[test]
fn of_a_zone_that_was_handed_over_exactly_the_hosts_exist() {
    for (name, expected) in [
        ("example.com.", "apex false in example.com"),
        ("shop.example.com.", "host in example.com"),
        ("SHOP.example.com.", "host in example.com"),
        ("x.shop.example.com.", "nothing in example.com"),
        ("other.example.com.", "nothing in example.com"),
        ("ns.example.com.", "between in example.com"),
        ("n3.ns.example.com.", "server 3 in example.com"),
        ("n9.ns.example.com.", "nothing in example.com"),
        ("nsx.example.com.", "nothing in example.com"),
        ("a.b.example.com.", "between in example.com"),
        ("deep.a.b.example.com.", "host in example.com"),
        // RFC 4592: a wildcard stands for what does not exist below its parent, however deep.
        ("wild.example.com.", "between in example.com"),
        ("any.wild.example.com.", "host in example.com"),
        ("any.deeper.wild.example.com.", "host in example.com"),
        ("*.wild.example.com.", "host in example.com"),
        // The longest zone is asked.
        ("www.sub.example.com.", "host in sub.example.com"),
        ("sub.example.com.", "apex false in sub.example.com"),
        ("n1.ns.sub.example.com.", "server 1 in sub.example.com"),
        ("notexample.com.", "not ours"),
        ("com.", "not ours"),
        (".", "not ours"),
        ("shop.test.", "not ours"),
    ] {
        assert_eq!(place(name), expected, "{name}");
    }
}

#[test]
fn a_zone_may_itself_be_the_host_of_a_route_and_an_application_called_node_has_no_names() {
    let mut town = market();
    town.order.hosts.insert("example.com".into());
    town.run("node", "n2", 7, 3);
    let names = town.names();
    let (zone, rest) = names.zone("example.com").unwrap();
    assert!(matches!(names.place(zone, "example.com", rest), Some(Place::Apex(Some(held))) if held.is_host));
    let (zone, rest) = names.zone("n2.node.hirsel").unwrap();
    assert!(matches!(names.place(zone, "n2.node.hirsel", rest), Some(Place::Node(NodeId(2)))));
}

#[test]
fn the_servers_of_a_zone_are_names_that_no_wildcard_stands_for() {
    let mut town = market();
    town.order.hosts.insert("*.example.com".into());
    let names = town.names();
    let place = |name: &str| {
        let (zone, rest) = names.zone(name).unwrap();
        names.place(zone, name, rest)
    };
    assert!(matches!(place("n3.ns.example.com"), Some(Place::Server(NodeId(3)))));
    assert!(matches!(place("ns.example.com"), Some(Place::Between)));
    assert!(place("n9.ns.example.com").is_none() && place("x.n3.ns.example.com").is_none());
    assert!(matches!(place("n3.other.example.com"), Some(Place::Wild(_))));
}

#[test]
fn a_change_makes_the_names_it_touches_and_no_others() {
    let mut town = market();
    for number in 0..1_000 {
        town.order.hosts.insert(format!("www{number}.example.com"));
        town.run(&format!("app{number}"), "web", 1, 1);
    }
    town.record("example.com", "mail", "A 192.0.2.7");
    let mut names = town.names();
    assert!(names.made > 1_000);
    let mut next = |town: &Town, made: usize, what: &str| {
        names = names.next(Generation(names.generation.0 + 1), Arc::new(town.order.clone()), &town.zones);
        assert_eq!(names.made, made, "{what}");
        // It is the same as if all had been made anew.
        let anew = town.names();
        for name in ["www7.example.com", "new.example.com", "mail.example.com", "a.b.example.com", "b.example.com"] {
            let (zone, rest) = names.zone(name).unwrap();
            let shown = |place: Option<Place<'_>>| match place {
                Some(Place::Held(held) | Place::Wild(held)) => format!("{} {:?}", held.is_host, held.own),
                other => format!("{other:?}"),
            };
            let (old, rest_) = anew.zone(name).unwrap();
            assert_eq!(shown(names.place(zone, name, rest)), shown(anew.place(old, name, rest_)), "{what}: {name}");
        }
    };
    for number in 0..1_000 {
        town.run(&format!("app{number}"), "web", 2, 2);
        next(&town, 0, "an instance more: services are looked up in the order");
    }
    next(&town, 0, "nothing");
    town.order.hosts.insert("new.example.com".into());
    next(&town, 1, "a host more");
    town.order.hosts.remove("deep.a.b.example.com");
    next(&town, 1, "a host less, and nothing is left between");
    town.record("example.com", "mail", "A 192.0.2.8");
    next(&town, 1, "a record of a name");
    town.record("example.com", "*.b", "TXT x");
    next(&town, 1, "a name more");
    town.order.zones.clear();
    next(&town, 2, "no records");
}

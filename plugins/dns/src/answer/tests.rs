use hickory_proto::rr::RecordType::{A, AAAA, ANY, AXFR, HINFO, MX, NS, SOA, SRV, TXT};
use proptest::prelude::*;

use super::*;
use crate::testing::{Town, market, mesh, town};

const OK: ResponseCode = ResponseCode::NoError;

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

#[test]
fn a_service_is_its_instances_near_ones_first() {
    let town = market();
    assert_eq!(town.ask("web.shop.hirsel.", A), (OK, words(&["10.0.0.1", "10.0.0.2", "10.0.0.3"])));
    let srv = town.answer("web.shop.hirsel.", SRV, 0, false);
    let told: Vec<String> = srv.answers.iter().map(|record| record.data.to_string()).collect();
    let expected = ["0 8 20001 1.web.shop.hirsel.", "0 1 20002 2.web.shop.hirsel.", "0 1 20003 3.web.shop.hirsel."];
    assert_eq!(told, expected);
    assert_eq!(town.ask("_web._tcp.shop.hirsel.", SRV), (OK, words(&expected)));
    let extra: Vec<String> = srv.additionals.iter().map(|record| format!("{} {}", record.name, record.data)).collect();
    assert_eq!(extra, ["1.web.shop.hirsel. 10.0.0.1", "2.web.shop.hirsel. 10.0.0.2", "3.web.shop.hirsel. 10.0.0.3"]);
    assert!(srv.is_authoritative && srv.answers.iter().all(|record| record.ttl == INTERNAL_TTL_S));
    assert_eq!(town.ask("2.web.shop.hirsel.", A), (OK, words(&["10.0.0.2"])));
    assert_eq!(town.ask("2.web.shop.hirsel.", SRV), (OK, words(&["0 1 20002 2.web.shop.hirsel."])));
}

#[test]
fn what_is_not_heard_or_not_well_is_in_no_answer() {
    let mut town = market();
    town.lose(2);
    assert_eq!(town.ask("web.shop.hirsel.", A), (OK, words(&["10.0.0.1", "10.0.0.3"])));
    assert_eq!(town.ask("shop.hirsel.", A), (OK, words(&["203.0.113.1"])));
    town.alter(3, |all| all.values_mut().for_each(|facts| facts.healthy = false));
    assert_eq!(town.ask("web.shop.hirsel.", A), (OK, words(&["10.0.0.1"])));
    town.alter(1, |all| all.values_mut().for_each(|facts| facts.state = InstanceState::Stopping));
    let none = town.answer("web.shop.hirsel.", A, 0, false);
    assert_eq!((none.code, none.class, none.answers.len()), (OK, Class::NoData, 0), "the name exists");
    // The node that is lost is still called what it is called.
    assert_eq!(town.ask("n2.node.hirsel.", A), (OK, words(&["10.0.0.2"])));
    let servers = town.ask("hirsel.", NS).1;
    assert_eq!(servers, ["n1.node.hirsel.", "n3.node.hirsel.", "n4.node.hirsel."]);
}

#[test]
fn objects_and_all_buckets_are_at_every_node_that_is_heard() {
    let mut town = market();
    town.lose(2);
    let all = words(&["203.0.113.1", "203.0.113.3", "203.0.113.4"]);
    for name in ["s3.hirsel.", "media.s3.hirsel.", "my.bucket.s3.hirsel."] {
        let (code, mut told) = town.ask(name, A);
        told.sort();
        assert_eq!((code, &told), (OK, &all), "{name}");
    }
    assert!(!town.answer("media.s3.hirsel.", A, 0, false).is_kept, "there is no end of them");
    let other = town.answer("s3.hirsel.", MX, 0, false);
    assert_eq!((other.code, other.class, other.answers.len()), (OK, Class::NoData, 0));
}

#[test]
fn a_loopback_address_is_told_on_its_own_host_only() {
    let mut town = market();
    for seen in town.live.nodes.values_mut() {
        seen.addresses.as_mut().unwrap().instances = None;
    }
    assert_eq!(town.ask("web.shop.hirsel.", A), (OK, vec![]));
    let here = town.answer("web.shop.hirsel.", A, 0, true);
    assert_eq!(here.answers.len(), 1);
    assert_eq!(here.answers[0].data.to_string(), "127.0.0.1");
}

#[test]
fn nothing_of_that_kind_is_not_nothing_of_that_name() {
    let town = market();
    let exist = ["hirsel.", "node.hirsel.", "shop.hirsel.", "blog.hirsel.", "idle.shop.hirsel.", "_tcp.shop.hirsel."];
    let more = ["_web._tcp.shop.hirsel.", "1.web.shop.hirsel.", "n1.node.hirsel.", "example.com.", "wild.example.com."];
    for name in exist.into_iter().chain(more) {
        let answer = town.answer(name, MX, 0, false);
        assert_eq!((answer.code, answer.class, answer.answers.len()), (OK, Class::NoData, 0), "{name}");
        assert_eq!(answer.authorities[0].record_type(), SOA, "{name}");
    }
    for name in ["x.hirsel.", "x.node.hirsel.", "x.shop.hirsel.", "other.example.com.", "n9.ns.example.com."] {
        for kind in [A, SRV, ANY, SOA] {
            let answer = town.answer(name, kind, 0, false);
            assert_eq!((answer.code, answer.class), (ResponseCode::NXDomain, Class::NxDomain), "{name}");
            let soa = &answer.authorities[0];
            assert!(soa.record_type() == SOA && name.ends_with(&soa.name.to_string()), "{name}: {soa}");
        }
    }
    for name in ["example.net.", ".", "com.", "1.0.0.10.in-addr.arpa."] {
        let answer = town.answer(name, A, 0, false);
        assert_eq!((answer.code, answer.is_authoritative, answer.authorities.len()), (ResponseCode::Refused, false, 0));
    }
    assert_eq!(town.ask("hirsel.", AXFR).0, ResponseCode::Refused);
}

#[test]
fn a_zone_says_who_serves_it_and_how_long_absence_holds() {
    let town = market();
    let soa = town.ask("example.com.", SOA).1;
    assert_eq!(soa, ["n1.ns.example.com. hostmaster.example.com. 7 60 10 86400 10"]);
    assert_eq!(town.ask("hirsel.", SOA).1, ["n1.node.hirsel. hostmaster.hirsel. 7 60 10 86400 1"]);
    let ns = town.answer("example.com.", NS, 0, false);
    assert_eq!((ns.answers.len(), ns.additionals.len()), (4, 4));
    assert_eq!(ns.additionals[2].to_string(), "n3.ns.example.com. 10 IN A 203.0.113.3");
    assert_eq!(town.ask("n3.ns.example.com.", A), (OK, words(&["203.0.113.3"])));
    let any = town.answer("web.shop.hirsel.", ANY, 0, false);
    assert_eq!((any.answers.len(), any.answers[0].record_type()), (1, HINFO));
    assert_eq!(town.ask("n3.node.hirsel.", TXT).1, ["node=n3zone=csite=default"]);
}

#[test]
fn a_route_is_answered_with_the_load_balancers_that_work() {
    let mut town = market();
    town.live
        .nodes
        .get_mut(&NodeId(2))
        .unwrap()
        .addresses
        .as_mut()
        .unwrap()
        .public
        .push("2001:db8::2".parse().unwrap());
    for name in ["shop.example.com.", "any.wild.example.com.", "www.sub.example.com."] {
        assert_eq!(town.ask(name, A), (OK, words(&["203.0.113.1", "203.0.113.2"])), "{name}");
        assert_eq!(town.ask(name, AAAA), (OK, words(&["2001:db8::2"])));
        assert!(town.answer(name, A, 0, false).answers.iter().all(|record| record.ttl == PUBLIC_TTL_S));
    }
    // One that does not say where it is reached is where the mesh is.
    town.live.nodes.get_mut(&NodeId(1)).unwrap().addresses = None;
    assert_eq!(town.ask("shop.example.com.", A).1, ["10.0.0.1", "203.0.113.2"]);
    town.live.nodes.get_mut(&NodeId(1)).unwrap().roles.clear();
    town.lose(2);
    let lost = town.answer("shop.example.com.", A, 0, false);
    assert_eq!(lost.code, ResponseCode::ServFail, "somebody else may know: nobody shall remember that there is none");
    assert_eq!(town.ask("shop.example.com.", MX), (OK, vec![]), "that there is no mail is known all the same");
    assert_eq!(town.ask("blog.hirsel.", A), (OK, vec![]), "no route leads there");
}

#[test]
fn the_order_turns_so_that_clients_spread() {
    let mut town = town(30);
    for number in 1..=30 {
        town.run("shop", "web", number, number);
    }
    let near: Vec<String> = (1..=30).filter(|id| id % 3 == 1).map(|id| mesh(id).to_string()).collect();
    let mut first = std::collections::BTreeMap::<String, u32>::new();
    for draw in 0..1_000_u64 {
        let answer = town.answer("web.shop.hirsel.", A, draw.wrapping_mul(0x9e37_79b9_7f4a_7c15), false);
        let told: Vec<String> = answer.answers.iter().map(|record| record.data.to_string()).collect();
        assert_eq!(told.len(), 30);
        assert!(told[..10].iter().all(|addr| near.contains(addr)), "the near ones first: {told:?}");
        *first.entry(told[0].clone()).or_default() += 1;
    }
    assert_eq!(first.len(), 10);
    assert!(first.values().all(|count| (60..140).contains(count)), "{first:?}");
}

/// Names of one to three short letters, so that they collide now and then.
fn word() -> impl Strategy<Value = String> {
    "[a-c_*1]{1,3}"
}

prop_compose! {
    /// Any application on any nodes in any state.
    fn any_town()(
        nodes in 1..12_u64,
        placed in prop::collection::vec(("[a-b]{1,2}", "[a-b]{1,2}", 1..12_u64, any::<bool>(), any::<bool>()), 0..40),
        lost in prop::collection::vec(1..12_u64, 0..6),
    ) -> Town {
        let mut town = town(nodes);
        let mut placed: Vec<_> = placed;
        placed.sort();
        for (number, (app, service, node, healthy, routed)) in (1..).zip(placed) {
            let node = (node - 1) % nodes + 1;
            town.run(&app, &service, number, node);
            town.app(&app).is_routed |= routed;
            town.alter(node, |all| {
                let id = format!("{app}/{service}/{number}").parse().unwrap();
                all.get_mut(&id).unwrap().healthy = healthy;
            });
        }
        for node in lost.into_iter().filter(|node| *node <= nodes && *node != 1) {
            town.lose(node);
        }
        town
    }
}

proptest! {
    #[test]
    fn every_name_that_is_told_can_be_asked_for_and_no_other_instance_is_told(town in any_town(), draw: u64) {
        for (app, named) in &town.order.apps {
            for (service, instances) in &named.services {
                let name = format!("{service}.{app}.hirsel.");
                let heard = |node: NodeId| node.0 == 1 || town.live.nodes[&node].liveness == Liveness::Alive;
                let healthy = |number: u64, node: NodeId| match &town.live.nodes[&node].facts[&RoleName::compute()] {
                    RoleFacts::Compute(all) => all[&format!("{app}/{service}/{number}").parse().unwrap()].healthy,
                    other => panic!("{other:?}"),
                };
                let mut ready: Vec<String> = instances.iter().filter(|(number, node)| heard(*node) && healthy(*number, *node))
                    .map(|(number, _)| format!("{number}.{name}")).collect();
                let srv = town.answer(&name, SRV, draw, false);
                prop_assert_eq!(srv.code, OK);
                let mut told = Vec::new();
                for record in &srv.answers {
                    let RData::SRV(data) = &record.data else { panic!("{record}") };
                    told.push(data.target.to_string());
                    prop_assert_eq!(town.ask(&data.target.to_string(), A).1.len(), 1);
                }
                prop_assert_eq!(srv.answers.len(), srv.additionals.len());
                ready.sort();
                told.sort();
                prop_assert_eq!(&told, &ready);
                let addrs = town.answer(&name, A, draw, false);
                prop_assert_eq!(addrs.answers.is_empty(), ready.is_empty());
                prop_assert_eq!(addrs.authorities.len(), usize::from(ready.is_empty()));
            }
        }
        for zone in ["hirsel.", "example.com."] {
            let servers = town.ask(zone, NS).1;
            prop_assert!(!servers.is_empty());
            for server in servers {
                prop_assert_eq!(town.ask(&server, A).1.len(), 1, "{}", server);
            }
        }
    }

    #[test]
    fn below_our_zones_a_name_is_or_is_not_and_elsewhere_it_is_refused(
        labels in prop::collection::vec(word(), 0..5),
        zone in prop::sample::select(vec!["hirsel.", "example.com.", "net.", "."]),
        kind in prop::sample::select(vec![A, AAAA, SRV, TXT, NS, SOA, ANY, MX]),
        town in any_town(),
    ) {
        let below = labels.iter().map(|label| format!("{label}.")).collect::<String>();
        let answer = town.answer(&format!("{below}{}", if zone == "." && !below.is_empty() { "" } else { zone }), kind, 3, true);
        let ours = matches!(zone, "hirsel." | "example.com.");
        prop_assert_eq!(answer.is_authoritative, ours);
        match answer.code {
            ResponseCode::Refused => prop_assert!(!ours),
            ResponseCode::NXDomain => prop_assert!(ours && answer.answers.is_empty() && answer.authorities.len() == 1),
            ResponseCode::NoError => prop_assert!(ours && answer.answers.is_empty() != answer.authorities.is_empty()),
            ResponseCode::ServFail => prop_assert!(ours && answer.answers.is_empty()),
            other => prop_assert!(false, "{}", other),
        }
    }
}

/// [`market`] with records of all kinds in `example.com`.
fn registry() -> Town {
    let mut town = market();
    for (owner, data) in [
        ("@", "MX 10 mail.example.com."),
        ("@", "MX 20 mx.example.net."),
        ("@", "TXT v=spf1 mx -all"),
        ("@", "CAA 0 issue \"letsencrypt.org\""),
        ("mail", "A 192.0.2.7"),
        ("mail", "AAAA 2001:db8::7"),
        ("shop", "TXT beside the route"),
        ("alias", "CNAME Mail.Example.com."),
        ("away", "CNAME www.example.net."),
        ("nowhere", "CNAME none.example.com."),
        ("front", "CNAME shop.example.com."),
        ("first", "CNAME alias.example.com."),
        ("*.dev", "A 192.0.2.9"),
        ("x.y.dev", "TXT deep"),
        ("*.any", "CNAME mail.example.com."),
        ("_sip._tcp", "SRV 0 5 5060 mail.example.com."),
        ("sub2", "NS ns1.sub2.example.com."),
        ("sub2", "NS ns.example.net."),
        ("ns1.sub2", "A 192.0.2.53"),
    ] {
        town.record("example.com", owner, data);
    }
    town
}

/// Everything that is said: code, whether with authority, and each section in words.
fn said(town: &Town, name: &str, kind: RecordType) -> String {
    let answer = town.answer(name, kind, 0, false);
    let words = |list: &[Record]| {
        list.iter()
            .map(|it| format!("{} {} {} {}", it.name, it.ttl, it.record_type(), it.data))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let flag = if answer.is_authoritative { " aa" } else { "" };
    let sections = [&answer.answers, &answer.authorities, &answer.additionals].map(|list| words(list));
    format!("{}{flag} | {}", answer.code, sections.join(" | "))
}

#[test]
fn records_are_answered_beside_routes_and_names_of_others_are_followed_as_far_as_they_are_ours() {
    use RecordType::{CAA, CNAME, DS};
    let town = registry();
    let soa = "example.com. 10 SOA n1.ns.example.com. hostmaster.example.com. 7 60 10 86400 10";
    let mail = "mail.example.com. 300 A 192.0.2.7";
    for (name, kind, expected) in [
        ("mail.example.com", A, "No Error aa | mail.example.com. 300 A 192.0.2.7 |  | ".into()),
        (
            "example.com",
            MX,
            format!(
                "No Error aa | example.com. 300 MX 10 mail.example.com., example.com. 300 MX 20 mx.example.net. |  | {mail}, \
                 mail.example.com. 300 AAAA 2001:db8::7"
            ),
        ),
        ("example.com", TXT, "No Error aa | example.com. 300 TXT v=spf1 mx -all |  | ".into()),
        ("shop.example.com", TXT, "No Error aa | shop.example.com. 300 TXT beside the route |  | ".into()),
        (
            "shop.example.com",
            A,
            "No Error aa | shop.example.com. 10 A 203.0.113.1, shop.example.com. 10 A 203.0.113.2 |  | ".into(),
        ),
        (
            "_sip._tcp.example.com",
            SRV,
            format!(
                "No Error aa | _sip._tcp.example.com. 300 SRV 0 5 5060 mail.example.com. |  | {mail}, \
                 mail.example.com. 300 AAAA 2001:db8::7"
            ),
        ),
        // Another name is told with what it means; the case is that of the question, and of who wrote the record.
        (
            "ALIAS.example.com",
            A,
            "No Error aa | ALIAS.example.com. 300 CNAME Mail.Example.com., Mail.Example.com. 300 A 192.0.2.7 |  | ".into(),
        ),
        (
            "first.example.com",
            A,
            "No Error aa | first.example.com. 300 CNAME alias.example.com., alias.example.com. 300 CNAME Mail.Example.com., \
             Mail.Example.com. 300 A 192.0.2.7 |  | "
                .into(),
        ),
        ("alias.example.com", CNAME, "No Error aa | alias.example.com. 300 CNAME Mail.Example.com. |  | ".into()),
        ("alias.example.com", MX, format!("No Error aa | alias.example.com. 300 CNAME Mail.Example.com. | {soa} | ")),
        ("away.example.com", A, "No Error aa | away.example.com. 300 CNAME www.example.net. |  | ".into()),
        (
            "nowhere.example.com",
            A,
            format!("Non-Existent Domain aa | nowhere.example.com. 300 CNAME none.example.com. | {soa} | "),
        ),
        (
            "front.example.com",
            A,
            "No Error aa | front.example.com. 300 CNAME shop.example.com., shop.example.com. 10 A 203.0.113.1, \
             shop.example.com. 10 A 203.0.113.2 |  | "
                .into(),
        ),
        // RFC 4592.
        ("q.dev.example.com", A, "No Error aa | q.dev.example.com. 300 A 192.0.2.9 |  | ".into()),
        ("p.q.dev.example.com", A, "No Error aa | p.q.dev.example.com. 300 A 192.0.2.9 |  | ".into()),
        ("q.dev.example.com", MX, format!("No Error aa |  | {soa} | ")),
        ("y.dev.example.com", A, format!("No Error aa |  | {soa} | ")),
        ("z.y.dev.example.com", A, format!("Non-Existent Domain aa |  | {soa} | ")),
        ("dev.example.com", A, format!("No Error aa |  | {soa} | ")),
        ("*.dev.example.com", A, "No Error aa | *.dev.example.com. 300 A 192.0.2.9 |  | ".into()),
        (
            "q.any.example.com",
            A,
            format!("No Error aa | q.any.example.com. 300 CNAME mail.example.com., {mail} |  | "),
        ),
        // Others answer, and their addresses are told; what is said of the delegation itself is ours.
        (
            "sub2.example.com",
            A,
            "No Error |  | sub2.example.com. 300 NS ns.example.net., sub2.example.com. 300 NS ns1.sub2.example.com. | \
             ns1.sub2.example.com. 300 A 192.0.2.53"
                .into(),
        ),
        (
            "deep.in.Sub2.example.com",
            NS,
            "No Error |  | sub2.example.com. 300 NS ns.example.net., sub2.example.com. 300 NS ns1.sub2.example.com. | \
             ns1.sub2.example.com. 300 A 192.0.2.53"
                .into(),
        ),
        ("sub2.example.com", DS, format!("No Error aa |  | {soa} | ")),
    ] {
        assert_eq!(said(&town, name, kind), expected, "{name} {kind}");
    }
    let caa = town.answer("example.com", CAA, 0, false);
    let RData::Unknown { rdata, .. } = &caa.answers[0].data else { panic!("{caa:?}") };
    assert_eq!(rdata.anything, b"\0\x05issueletsencrypt.org");
}

#[test]
fn a_circle_of_names_has_an_end() {
    let mut town = registry();
    town.record("example.com", "a", "CNAME b.sub.example.com.");
    town.record("sub.example.com", "b", "CNAME a.example.com.");
    let answer = town.answer("a.example.com", A, 0, false);
    assert_eq!((answer.code, answer.answers.len()), (OK, hirsel_model::spec::CHAIN_MAX + 1));
}

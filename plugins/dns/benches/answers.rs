//! What names cost on a large cluster: making them anew when the plan changed, and one answer.
//!
//! `cargo bench -p hirsel-dns --bench answers`.
#![allow(missing_docs, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::RecordType;
use hickory_proto::serialize::binary::BinEncodable;
use hirsel_dns::answer::Knowledge;
use hirsel_dns::message::{Asker, Transport, reply};
use hirsel_dns::names::{Names, name};
use hirsel_model::order::{DnsOrder, NamedApp, NamedNode};
use hirsel_model::report::{InstanceFacts, InstanceState, RoleFacts, RoleReport, RoleState};
use hirsel_model::view::Liveness;
use hirsel_model::{Generation, InstanceId, NodeId, RoleName};
use hirsel_role::{Addresses, Live, LiveNode, Me};

const NODES: u64 = 100;
const APPS: u64 = 1_000;
const INSTANCES: u64 = 20;
const RUNS: u32 = 50;

fn main() {
    let (order, live) = cluster();
    let (order, zones) = (Arc::new(order), ["example.com".to_owned()]);
    let each = mean(RUNS, || drop(black_box(Names::new(Generation(1), order.clone(), &zones))));
    println!("names of {APPS} services with {INSTANCES} instances and a route each, made anew: {:.2} ms", ms(each));
    let mut changed = DnsOrder::clone(&order);
    changed.hosts.insert("new.example.com".into());
    let (changed, before) = (Arc::new(changed), Names::new(Generation(1), order.clone(), &zones));
    let each = mean(RUNS, || drop(black_box(before.next(Generation(2), changed.clone(), &zones))));
    println!(
        "the same with one route more: {:.3} ms, {} name made",
        ms(each),
        before.next(Generation(2), changed.clone(), &zones).made
    );
    let mut moved = DnsOrder::clone(&order);
    moved
        .apps
        .values_mut()
        .take(1)
        .flat_map(|app| app.services.values_mut())
        .for_each(|instances| instances.truncate(1));
    let moved = Arc::new(moved);
    let each = mean(RUNS, || drop(black_box(before.next(Generation(2), moved.clone(), &zones))));
    println!(
        "the same with an instance less: {:.3} ms, {} names made",
        ms(each),
        before.next(Generation(2), moved.clone(), &zones).made
    );
    let copy = Arc::new(DnsOrder::clone(&order));
    let each = mean(RUNS, || assert!(black_box(&copy) == black_box(&order)));
    println!("two orders compared: {:.2} ms", ms(each));
    let names = Names::new(Generation(1), order, &zones);
    let host = Ipv4Addr::LOCALHOST.into();
    let me = Me {
        id: NodeId(1),
        name: "n1".parse().expect("a name"),
        zone: "a".parse().expect("a name"),
        instance_host: host,
        bind: host,
    };
    let known = Knowledge { names: &names, live: &live, me: &me, window: None };
    let asker = Asker { transport: Transport::Udp, is_local: true };
    for (asked, kind) in [
        ("web.app7.hirsel", RecordType::A),
        ("web.app7.hirsel", RecordType::SRV),
        ("n7.node.hirsel", RecordType::A),
        ("www7.example.com", RecordType::A),
        ("nobody.hirsel", RecordType::A),
        ("example.net", RecordType::A),
    ] {
        let question = question(asked, kind);
        let mut draw = 0;
        let each = mean(20_000, || {
            draw += 0x9e37_79b9;
            drop(black_box(reply(black_box(&question), asker, known, draw)));
        });
        println!("{asked} {kind}: {:.1} µs", each.as_secs_f64() * 1e6);
    }
}

fn mean(runs: u32, mut work: impl FnMut()) -> Duration {
    work();
    let began = Instant::now();
    (0..runs).for_each(|_| work());
    began.elapsed() / runs
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn question(asked: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(name(format_args!("{asked}")), kind));
    message.set_edns(Edns::new());
    message.to_bytes().expect("a question can be written")
}

fn cluster() -> (DnsOrder, Live) {
    let (mut order, mut facts) = (DnsOrder::default(), BTreeMap::<NodeId, BTreeMap<InstanceId, InstanceFacts>>::new());
    let mut number = 0;
    for app in 1..=APPS {
        let mut instances = Vec::new();
        for copy in 0..INSTANCES {
            number += 1;
            let node = NodeId((app + copy * 5) % NODES + 1);
            let id = format!("app{app}/web/{number}").parse().expect("an instance");
            let seen = InstanceFacts {
                state: InstanceState::Running,
                healthy: true,
                port: 20_000,
                ..InstanceFacts::default()
            };
            facts.entry(node).or_default().insert(id, seen);
            instances.push((number, node));
        }
        let services = [("web".parse().expect("a name"), instances)].into();
        order.apps.insert(format!("app{app}").parse().expect("a name"), NamedApp { is_routed: true, services });
        order.hosts.insert(format!("www{app}.example.com"));
    }
    order.lbs = (1..=3).map(NodeId).collect();
    let mut live = Live::default();
    for id in 1..=NODES {
        let addr = Ipv4Addr::new(10, 0, 0, id as u8).into();
        let zone = ["a", "b", "c"][id as usize % 3].parse().expect("a name");
        let site = "default".parse().expect("a name");
        let name = format!("n{id}").parse().expect("a name");
        order.nodes.insert(NodeId(id), NamedNode { name, addr: (addr, 7400).into(), zone, site });
        let runs = RoleReport { state: RoleState::Running, ..RoleReport::default() };
        let compute = RoleFacts::Compute(facts.remove(&NodeId(id)).unwrap_or_default());
        let seen = LiveNode {
            liveness: Liveness::Alive,
            facts: [(RoleName::compute(), compute)].into(),
            roles: [(RoleName::lb(), runs.clone()), (RoleName::dns(), runs)].into(),
            addresses: Some(Addresses { public: vec![addr], instances: Some(addr) }),
            ..LiveNode::default()
        };
        live.nodes.insert(NodeId(id), seen);
    }
    (order, live)
}

//! A small cluster in words, which tests ask for names.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{DNSClass, RecordType};
use hirsel_model::order::{DnsOrder, NamedApp, NamedNode, SignedZone};
use hirsel_model::report::{InstanceFacts, InstanceState, RoleFacts, RoleReport, RoleState};
use hirsel_model::spec::RecordData;
use hirsel_model::view::Liveness;
use hirsel_model::{AppName, Generation, InstanceId, NodeId, RoleName};
use hirsel_role::dnssec::ZoneKeyring;
use hirsel_role::{Addresses, Live, LiveNode, Me};

use crate::answer::{Answer, Knowledge, Question, answer};
use crate::dnssec::Window;
use crate::names::Names;

pub mod validator;

/// What is known, to be altered.
#[derive(Debug)]
pub struct Town {
    pub order: DnsOrder,
    pub live: Live,
    pub me: Me,
    pub zones: Vec<String>,
    /// Keys that have come to us.
    pub keyring: ZoneKeyring,
    /// All keys that were drawn: what is told of each.
    pub drawn: BTreeMap<u64, Vec<u8>>,
    /// The names that were signed last.
    made: Mutex<Option<(Arc<Names>, ZoneKeyring)>>,
}

/// An address of the mesh.
pub fn mesh(node: u64) -> IpAddr {
    Ipv4Addr::new(10, 0, (node / 250) as u8, (node % 250) as u8).into()
}

/// Nodes `n1` to `nCOUNT` in zones a, b, c in turn, all well, each with the public address 203.0.113.N; lb on the first two. We are
/// `n1`, and `example.com` and `sub.example.com` are ours.
pub fn town(count: u64) -> Town {
    let mut town = Town {
        order: DnsOrder { serial: 7, ..DnsOrder::default() },
        live: Live::default(),
        me: Me {
            id: NodeId(1),
            name: "n1".parse().unwrap(),
            zone: "a".parse().unwrap(),
            instance_host: Ipv4Addr::LOCALHOST.into(),
            bind: mesh(1),
        },
        zones: vec!["example.com".into(), "sub.example.com".into()],
        keyring: ZoneKeyring::default(),
        drawn: BTreeMap::new(),
        made: Mutex::default(),
    };
    for id in 1..=count {
        let node = NamedNode {
            name: format!("n{id}").parse().unwrap(),
            addr: (mesh(id), 7400).into(),
            zone: ["c", "a", "b"][(id % 3) as usize].parse().unwrap(),
            site: "default".parse().unwrap(),
        };
        town.order.nodes.insert(NodeId(id), node);
        let public = vec![Ipv4Addr::new(203, 0, 113, (id % 250) as u8).into()];
        let runs = RoleReport { state: RoleState::Running, ..RoleReport::default() };
        let seen = LiveNode {
            liveness: Liveness::Alive,
            roles: [(RoleName::lb(), runs.clone()), (RoleName::dns(), runs)].into(),
            addresses: Some(Addresses { public, instances: Some(mesh(id)) }),
            ..LiveNode::default()
        };
        town.live.nodes.insert(NodeId(id), seen);
    }
    town.order.lbs = [NodeId(1), NodeId(2)].into();
    town
}

/// [`town`] of four with an application `shop` (web 1 to 3 on n1 to n3, worker 9 on n2, idle without instances), `blog` without
/// anything, and routes.
pub fn market() -> Town {
    let mut town = town(4);
    for number in 1..=3 {
        town.run("shop", "web", number, number);
    }
    town.run("shop", "worker", 9, 2);
    let shop = town.app("shop");
    shop.is_routed = true;
    shop.services.insert("idle".parse().unwrap(), Vec::new());
    town.app("blog");
    let hosts = ["shop.example.com", "*.wild.example.com", "deep.a.b.example.com", "www.sub.example.com", "shop.test"];
    town.order.hosts = hosts.iter().map(ToString::to_string).collect();
    town
}

impl Town {
    /// The application of this name.
    pub fn app(&mut self, app: &str) -> &mut NamedApp {
        self.order.apps.entry(app.parse::<AppName>().unwrap()).or_default()
    }

    /// A healthy instance on a node, port 20000 and its number.
    pub fn run(&mut self, app: &str, service: &str, number: u64, node: u64) {
        let instances = self.app(app).services.entry(service.parse().unwrap()).or_default();
        instances.push((number, NodeId(node)));
        let port = 20_000 + number as u16;
        let facts = InstanceFacts { state: InstanceState::Running, healthy: true, port, ..InstanceFacts::default() };
        self.alter(node, |all| {
            all.insert(format!("{app}/{service}/{number}").parse().unwrap(), facts);
        });
    }

    /// Alters what a node says of its instances.
    pub fn alter(&mut self, node: u64, how: impl FnOnce(&mut std::collections::BTreeMap<InstanceId, InstanceFacts>)) {
        let facts = &mut self.live.nodes.get_mut(&NodeId(node)).unwrap().facts;
        let compute = facts.entry(RoleName::compute()).or_insert_with(|| RoleFacts::Compute(Default::default()));
        let RoleFacts::Compute(all) = compute else { panic!("facts of compute") };
        how(all);
    }

    /// A record that an application says, of a zone that is there already; its name below the zone.
    pub fn record(&mut self, zone: &str, owner: &str, data: &str) {
        let spec = Arc::make_mut(self.order.zones.entry(zone.into()).or_default());
        let data: RecordData = data.parse().unwrap();
        let name = spec.records.entry(owner.into()).or_default();
        if !matches!(data, RecordData::Mx { .. } | RecordData::Txt(_) | RecordData::Ns(_)) {
            name.data.retain(|other| other.kind() != data.kind());
        }
        name.data.insert(data);
    }

    /// A zone is signed with these keys, of which one is in force. They are drawn where they are new.
    pub fn sign(&mut self, zone: &str, listed: &[u64], signs: u64) {
        for version in listed {
            self.drawn.entry(*version).or_insert_with(|| {
                let (key, public) = validator::draw();
                self.keyring.0.insert(*version, key);
                public
            });
        }
        let keys = listed.iter().map(|version| (*version, self.drawn[version].clone())).collect();
        let signed = SignedZone { keys, signs, offered: listed.last().copied() };
        self.order.signed.insert(zone.into(), Arc::new(signed));
    }

    /// Who believes the keys of a zone that are listed now.
    pub fn validator(&self, zone: &str) -> validator::Validator {
        let keys = self.order.signed[zone].keys.values().cloned().collect();
        validator::Validator { zone: zone.into(), keys }
    }

    /// Does something with all that is known, while signatures are given.
    pub fn with_signatures<T>(&self, window: Window, ask: impl FnOnce(Knowledge<'_>) -> T) -> T {
        let names = self.signed_names();
        ask(Knowledge { names: &names, live: &self.live, me: &self.me, window: Some(window) })
    }

    pub fn signed_names(&self) -> Arc<Names> {
        let mut made = self.made.lock().unwrap();
        let is_old =
            |(names, keyring): &(Arc<Names>, ZoneKeyring)| *names.order != self.order || *keyring != self.keyring;
        if made.as_ref().is_none_or(is_old) {
            *made = Some((Arc::new(self.names().with_keys(&self.keyring)), self.keyring.clone()));
        }
        made.as_ref().unwrap().0.clone()
    }

    pub fn lose(&mut self, node: u64) {
        self.live.nodes.get_mut(&NodeId(node)).unwrap().liveness = Liveness::Suspect;
    }

    pub fn names(&self) -> Names {
        Names::new(Generation(7), Arc::new(self.order.clone()), &self.zones)
    }

    /// Does something with all that is known.
    pub fn with<T>(&self, ask: impl FnOnce(Knowledge<'_>) -> T) -> T {
        ask(Knowledge { names: &self.names(), live: &self.live, me: &self.me, window: None })
    }

    pub fn answer(&self, name: &str, kind: RecordType, draw: u64, is_local: bool) -> Answer {
        let name = crate::names::name(format_args!("{}", name.trim_end_matches('.')));
        let class = DNSClass::IN;
        let question = Question {
            name: &name,
            kind,
            class,
            is_local,
            records_max: 1_000,
            draw,
            wants_signatures: false,
            takes_nxdomain: false,
        };
        self.with(|known| answer(question, known))
    }

    /// The code, and what is answered, in words and in order.
    pub fn ask(&self, name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        let answer = self.answer(name, kind, 0, false);
        (answer.code, answer.answers.iter().map(|record| record.data.to_string()).collect())
    }
}

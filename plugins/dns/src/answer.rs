//! What is said to a question: pure, from what the plan says and what is heard of the nodes at this moment.
//!
//! Invariants: an address is told only of a node that is heard, and of an instance that works and takes requests; a name that exists
//! is never denied because nothing stands behind it now (no data, RFC 2308), and one that does not exist always is. Only the name of
//! a node itself is answered whatever its state, for it says which host is meant, not where work is done.

use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, HINFO, NS, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hirsel_model::report::{InstanceState, RoleFacts, RoleState};
use hirsel_model::spec::CHAIN_MAX;
use hirsel_model::view::Liveness;
use hirsel_model::{InstanceId, NodeId, RoleName};
use hirsel_role::{INTERNAL_ZONE, Live, LiveNode, Me};

use crate::dnssec::Window;
use crate::dnssec::wire::NXNAME;
use crate::metrics::Class;
use crate::names::{Held, Names, Own, Place, SERVERS, Service, Zone, name, text};

mod signed;

/// How long an answer about services and nodes of the cluster may be kept: a second, because that is how fast news travels here. Zero
/// would make programs that ask before every connection ask over the network each time.
pub const INTERNAL_TTL_S: u32 = 1;
/// The same for hosts of routes. Public resolvers ask again this often, for as long as anybody is interested; a lost load balancer is
/// in their caches no longer.
pub const PUBLIC_TTL_S: u32 = 10;
/// How long the record of a zone, and its list of name servers, may be kept.
const ZONE_TTL_S: u32 = 60;
/// Name servers listed of a zone. With their addresses they fit into an answer of 512 bytes.
const SERVERS_MAX: usize = 6;
/// Weight of an instance in the zone of who answers, and of any other one: most of the traffic stays near, and the far ones are known to
/// work before they are needed.
const WEIGHT_NEAR: u16 = 8;
const WEIGHT_FAR: u16 = 1;

/// A question.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The name as it was written: answers repeat it, also its case.
    pub name: &'a Name,
    /// What about it.
    pub kind: RecordType,
    /// In which class.
    pub class: DNSClass,
    /// Whether it came from this host: only there the loopback address of an instance means anything.
    pub is_local: bool,
    /// Most records that are worth listing: more would not fit.
    pub records_max: usize,
    /// Any number, a new one for each question: which of several records is the first.
    pub draw: u64,
    /// Whether who asks wants signatures (RFC 3225).
    pub wants_signatures: bool,
    /// Whether it then takes NXDOMAIN with the proof of a name that has nothing (RFC 9824, section 5.1).
    pub takes_nxdomain: bool,
}

/// What an answer is made from.
#[derive(Clone, Copy, Debug)]
pub struct Knowledge<'a> {
    /// The names.
    pub names: &'a Names,
    /// What is heard of the nodes.
    pub live: &'a Live,
    /// This node.
    pub me: &'a Me,
    /// When signatures are good that are given now; none where nothing is signed.
    pub window: Option<Window>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// How it went.
    pub code: ResponseCode,
    /// Whether we are the ones to ask.
    pub is_authoritative: bool,
    /// What was asked for.
    pub answers: Vec<Record>,
    /// The record of the zone, when there is nothing.
    pub authorities: Vec<Record>,
    /// Addresses of names in the answer.
    pub additionals: Vec<Record>,
    /// Not everything is listed.
    pub is_cut: bool,
    /// Somebody else was asked.
    pub is_recursive: bool,
    /// For the metrics.
    pub class: Class,
    /// In which order the answers may be told.
    pub order: Order,
    /// Whether the same question has the same answer, order aside, as long as nothing changes, and is worth being remembered.
    pub is_kept: bool,
}

/// In which order answers are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they are.
    Fixed,
    /// All are addresses of the name asked for. The first ones come first, beginning with any of them; then the others, beginning with
    /// any of those.
    Turned {
        /// How many of the answers are first ones.
        near: usize,
        /// How many there are.
        of: usize,
    },
}

/// Answers a question.
pub fn answer(question: Question<'_>, known: Knowledge<'_>) -> Answer {
    let mut answer = Answer::empty(ResponseCode::Refused, false, Class::Refused);
    if question.kind == NXNAME {
        (answer.code, answer.class) = (ResponseCode::FormErr, Class::FormErr);
        return answer;
    }
    if question.class != DNSClass::IN || matches!(question.kind, RecordType::AXFR | RecordType::IXFR) {
        return answer;
    }
    // The name that is meant by the one asked for, and the one meant by that (RFC 1034, section 3.6.2), as long as they are ours.
    let mut meant: Option<Name> = None;
    for _ in 0..=CHAIN_MAX {
        let question = Question { name: meant.as_ref().unwrap_or(question.name), ..question };
        match known.step(&mut answer, question) {
            Some(next) => meant = Some(next),
            None => break,
        }
    }
    if let Some(window) = known.window.filter(|_| question.wants_signatures) {
        known.sign(&mut answer, question.kind, window);
    }
    answer
}

impl Answer {
    fn empty(code: ResponseCode, is_authoritative: bool, class: Class) -> Self {
        let (answers, authorities, additionals) = (Vec::new(), Vec::new(), Vec::new());
        let order = Order::Fixed;
        Self {
            code,
            is_authoritative,
            answers,
            authorities,
            additionals,
            is_cut: false,
            is_recursive: false,
            class,
            order,
            is_kept: false,
        }
    }
}

/// An instance that takes requests now.
#[derive(Clone, Copy)]
struct Ready {
    number: u64,
    addr: IpAddr,
    port: u16,
    is_near: bool,
}

impl Knowledge<'_> {
    /// Adds what there is to say of one name, and returns the one that is meant by it.
    fn step(&self, answer: &mut Answer, question: Question<'_>) -> Option<Name> {
        let asked = text(question.name);
        // Of names of others nothing is said; who asks knows where to go on.
        let (zone, rest) = self.names.zone(&asked)?;
        if question.kind == RecordType::DS
            && rest.is_empty()
            && let Some(above) = self.names.above(&asked)
        {
            self.below(answer, question, above, zone);
            return None;
        }
        let signer = self.signer(question, zone);
        if signer.is_some_and(|signer| !signer.is_ready()) {
            // Who wants it signed would believe nothing else, and asks somebody else.
            (answer.code, answer.class, answer.is_kept) = (ResponseCode::ServFail, Class::ServFail, false);
            return None;
        }
        if answer.answers.is_empty() {
            (answer.is_authoritative, answer.is_kept) = (true, true);
        }
        (answer.code, answer.class) = (ResponseCode::NoError, Class::Answered);
        // What is said of a delegation itself is ours to say (RFC 4035, section 3.1.4.1): there is nothing.
        let cut = zone.cut(&asked).filter(|(name, _)| question.kind != RecordType::DS || *name != asked);
        if let Some((cut, own)) = cut {
            self.delegated(answer, question, zone, cut, own);
            return None;
        }
        let before = answer.answers.len();
        let place = self.names.place(zone, &asked, rest);
        if signer.is_some() && matches!(question.kind, RecordType::NSEC | RecordType::RRSIG) {
            answer.is_kept &= !matches!(place, None | Some(Place::Wild(_)));
            answer.answers = self.proof(answer, question, zone, place);
            return None;
        }
        let Some(place) = place else {
            (answer.code, answer.class) = (ResponseCode::NXDomain, Class::NxDomain);
            // There is no end of names that do not exist.
            answer.is_kept = false;
            self.nothing(answer, question, zone, None);
            return None;
        };
        if let Place::Held(held) | Place::Wild(held) = place
            && let Some(own) = &held.own
            && let Some(alias) = &own.alias
            && !matches!(question.kind, RecordType::CNAME | RecordType::ANY)
        {
            answer.is_kept &= matches!(place, Place::Held(_));
            answer.answers.extend(
                own.of(RecordType::CNAME)
                    .map(|data| Record::from_rdata(question.name.clone(), own.ttl_s, data.clone())),
            );
            return Some(alias.clone());
        }
        self.fill(answer, question, zone, place);
        if answer.answers.len() == before && answer.code == ResponseCode::NoError {
            answer.class = if before == 0 { Class::NoData } else { Class::Answered };
            self.nothing(answer, question, zone, Some(place));
        }
        None
    }

    /// Names who answers instead (RFC 1034, section 4.3.2, step 3b).
    fn delegated(&self, answer: &mut Answer, question: Question<'_>, zone: &Zone, cut: &str, own: &Own) {
        answer.is_authoritative &= !answer.answers.is_empty();
        answer.is_kept = false;
        let owner = name(format_args!("{cut}"));
        let servers = own.of(RecordType::NS).map(|data| Record::from_rdata(owner.clone(), own.ttl_s, data.clone()));
        answer.authorities.extend(servers);
        answer.authorities.extend(self.unsigned(question, zone, &owner));
        self.hosts(answer, zone, own);
    }

    /// Addresses of the hosts that records lead to, as far as they are in the same zone.
    fn hosts(&self, answer: &mut Answer, zone: &Zone, own: &Own) {
        for host in &own.hosts {
            let key = text(host);
            let Some(own) = zone.rest(&key).and_then(|_| zone.held(&key)?.own.as_ref()) else { continue };
            let addrs = own.of(RecordType::A).chain(own.of(RecordType::AAAA));
            answer.additionals.extend(addrs.map(|data| Record::from_rdata(host.clone(), own.ttl_s, data.clone())));
        }
    }

    /// What is held at a name.
    fn held(&self, answer: &mut Answer, question: Question<'_>, zone: &Zone, held: &Held) {
        if held.is_host {
            self.ways_in(answer, question, ttl(zone));
        }
        let Some(own) = &held.own else { return };
        match question.kind {
            RecordType::A | RecordType::AAAA => {
                let addrs = own.of(question.kind).filter_map(RData::ip_addr).collect();
                self.addresses(answer, question, own.ttl_s, addrs, Vec::new());
            }
            kind => {
                let say = |data: &RData| Record::from_rdata(question.name.clone(), own.ttl_s, data.clone());
                let before = answer.answers.len();
                answer.answers.extend(own.of(kind).map(say));
                if answer.answers.len() > before && matches!(kind, RecordType::MX | RecordType::SRV) {
                    self.hosts(answer, zone, own);
                }
            }
        }
    }

    fn fill(&self, answer: &mut Answer, question: Question<'_>, zone: &Zone, place: Place<'_>) {
        let ttl = ttl(zone);
        let say = |data| Record::from_rdata(question.name.clone(), ttl, data);
        if question.kind == RecordType::ANY {
            // RFC 8482: one small record instead of all there are.
            return answer.answers.push(say(RData::HINFO(HINFO::new("RFC8482".into(), String::new()))));
        }
        match place {
            Place::Apex(held) => match (question.kind, held) {
                (RecordType::SOA, _) => answer.answers.push(self.soa(zone, question.name.clone())),
                (RecordType::NS, _) => self.servers(answer, question, zone),
                (RecordType::DNSKEY | RecordType::CDNSKEY | RecordType::CDS, _) => self.keys(answer, question, zone),
                (_, Some(held)) => self.held(answer, question, zone, held),
                (_, None) => {}
            },
            Place::Between => {}
            Place::App(app) if app.is_routed => self.ways_in(answer, question, ttl),
            Place::App(_) => {}
            Place::Held(held) => self.held(answer, question, zone, held),
            Place::Wild(held) => {
                // So many names may be asked for that one stands for all of them.
                answer.is_kept = false;
                self.held(answer, question, zone, held);
            }
            Place::Service(service) => self.service(answer, question, ttl, service),
            Place::ByProtocol(service) if question.kind == RecordType::SRV => {
                self.service(answer, question, ttl, service);
            }
            Place::ByProtocol(_) => {}
            Place::Instance(service) => {
                self.service(answer, question, ttl, service);
                if question.kind == RecordType::TXT
                    && let Some((_, node)) = service.instances.first()
                {
                    answer.answers.extend(self.about(*node).map(say));
                }
            }
            Place::Node(node) if question.kind == RecordType::TXT => answer.answers.extend(self.about(node).map(say)),
            Place::Node(node) => {
                let addr = self.names.order.nodes.get(&node).map(|node| node.addr.ip());
                self.addresses(answer, question, ttl, addr.into_iter().collect(), Vec::new());
            }
            Place::Objects => self.any_node(answer, question, ttl),
            Place::Bucket => {
                answer.is_kept = false;
                self.any_node(answer, question, ttl);
            }
            Place::Server(node) => self.addresses(answer, question, ttl, self.public(node), Vec::new()),
        }
    }

    /// Addresses of the load balancers. When none is heard we cannot know: whoever asked shall ask somebody else, and not remember
    /// that there is nothing.
    fn ways_in(&self, answer: &mut Answer, question: Question<'_>, ttl: u32) {
        let works = |node: &&NodeId| self.is_heard(**node) && self.runs(**node, &RoleName::lb());
        self.fronts(answer, question, ttl, self.names.order.lbs.iter().filter(works));
    }

    /// Addresses of all nodes that are heard: each of them answers.
    fn any_node(&self, answer: &mut Answer, question: Question<'_>, ttl: u32) {
        let heard = self.names.order.nodes.keys().filter(|node| self.is_heard(**node));
        self.fronts(answer, question, ttl, heard);
    }

    /// Addresses at which the public reaches these nodes, those near to us first.
    fn fronts<'n>(&self, answer: &mut Answer, question: Question<'_>, ttl: u32, of: impl Iterator<Item = &'n NodeId>) {
        if !matches!(question.kind, RecordType::A | RecordType::AAAA) {
            return;
        }
        let (mut near, mut far) = (Vec::new(), Vec::new());
        for node in of {
            if self.is_near(*node) { near.extend(self.public(*node)) } else { far.extend(self.public(*node)) }
        }
        if near.is_empty() && far.is_empty() {
            answer.code = ResponseCode::ServFail;
            answer.class = Class::ServFail;
            return;
        }
        self.addresses(answer, question, ttl, near, far);
    }

    fn service(&self, answer: &mut Answer, question: Question<'_>, ttl: u32, service: Service<'_>) {
        if !matches!(question.kind, RecordType::A | RecordType::AAAA | RecordType::SRV) {
            return;
        }
        let (mut near, mut far): (Vec<Ready>, Vec<Ready>) =
            self.ready(service, question).into_iter().partition(|ready| ready.is_near);
        if question.kind != RecordType::SRV {
            let addrs = |list: &[Ready]| list.iter().map(|ready| ready.addr).collect();
            return self.addresses(answer, question, ttl, addrs(&near), addrs(&far));
        }
        // Each is as long as its name, so they are turned when they are written only.
        answer.is_kept = near.len() + far.len() <= 1;
        rotate(&mut near, question.draw);
        rotate(&mut far, question.draw);
        answer.is_cut = near.len() + far.len() > question.records_max;
        for ready in near.iter().chain(&far).take(question.records_max) {
            let target = name(format_args!("{}.{}.{}.{INTERNAL_ZONE}", ready.number, service.service, service.app));
            let weight = if ready.is_near { WEIGHT_NEAR } else { WEIGHT_FAR };
            let data = RData::SRV(SRV::new(0, weight, ready.port, target.clone()));
            answer.answers.push(Record::from_rdata(question.name.clone(), ttl, data));
            answer.additionals.push(Record::from_rdata(target, ttl, address(ready.addr)));
        }
    }

    /// The instances of a service that take requests, on nodes that are heard, as far as who asks can reach them.
    fn ready(&self, service: Service<'_>, question: Question<'_>) -> Vec<Ready> {
        let mut id = InstanceId { app: service.app.clone(), service: service.service.clone(), number: 0 };
        let compute = RoleName::compute();
        let ready = service.instances.iter().filter_map(|(number, node)| {
            id.number = *number;
            let seen = self.heard(*node)?;
            let Some(RoleFacts::Compute(instances)) = seen.facts.get(&compute) else { return None };
            let facts = instances.get(&id)?;
            let runs = matches!(facts.state, InstanceState::Starting | InstanceState::Running);
            let elsewhere = seen.addresses.as_ref().and_then(|told| told.instances);
            let here = (*node == self.me.id && question.is_local).then_some(self.me.instance_host);
            let addr = elsewhere.or(here)?;
            let is_ready = runs && facts.healthy && facts.port != 0;
            is_ready.then(|| Ready { number: *number, addr, port: facts.port, is_near: self.is_near(*node) })
        });
        ready.collect()
    }

    /// Answers with those of the addresses that are of the kind asked for, each once: near ones first, each group rotated.
    fn addresses(
        &self,
        answer: &mut Answer,
        question: Question<'_>,
        ttl: u32,
        mut near: Vec<IpAddr>,
        mut far: Vec<IpAddr>,
    ) {
        let wanted = |addr: &IpAddr| match question.kind {
            RecordType::A => addr.is_ipv4(),
            RecordType::AAAA => addr.is_ipv6(),
            _ => false,
        };
        for list in [&mut near, &mut far] {
            list.retain(wanted);
            list.sort_unstable();
            list.dedup();
            rotate(list, question.draw);
        }
        answer.is_cut = near.len() + far.len() > question.records_max;
        if answer.answers.is_empty() {
            answer.order = Order::Turned { near: near.len(), of: near.len() + far.len() };
        } else {
            answer.is_kept &= near.len() + far.len() <= 1;
        }
        let all = near.into_iter().chain(far).take(question.records_max);
        answer.answers.extend(all.map(|addr| Record::from_rdata(question.name.clone(), ttl, address(addr))));
    }

    /// The name servers of a zone: nodes that are heard and answer names, and this one.
    fn servers(&self, answer: &mut Answer, question: Question<'_>, zone: &Zone) {
        for node in self.serving() {
            let server = self.server_name(zone, node);
            let ns = RData::NS(NS(server.clone()));
            answer.answers.push(Record::from_rdata(question.name.clone(), ZONE_TTL_S, ns));
            let glue = self.server_addrs(zone, node).into_iter().map(address);
            answer.additionals.extend(glue.map(|data| Record::from_rdata(server.clone(), ttl(zone), data)));
        }
    }

    fn serving(&self) -> Vec<NodeId> {
        let dns = RoleName::dns();
        let serves = |node: &&NodeId| **node == self.me.id || self.is_heard(**node) && self.runs(**node, &dns);
        self.names.order.nodes.keys().filter(serves).copied().take(SERVERS_MAX).collect()
    }

    fn server_name(&self, zone: &Zone, node: NodeId) -> Name {
        let node = self.names.node_name(node).unwrap_or_default();
        if zone.is_internal {
            name(format_args!("{node}.node.{}", zone.name))
        } else {
            name(format_args!("{node}.{SERVERS}.{}", zone.name))
        }
    }

    fn server_addrs(&self, zone: &Zone, node: NodeId) -> Vec<IpAddr> {
        if zone.is_internal { self.mesh(node) } else { self.public(node) }
    }

    /// The record of a zone. As there are no transfers, its times only say how fresh we are; the last one is how long the absence of
    /// something may be remembered (RFC 2308).
    fn soa(&self, zone: &Zone, owner: Name) -> Record {
        let first = self.serving().into_iter().next().unwrap_or(self.me.id);
        let person = name(format_args!("hostmaster.{}", zone.name));
        // RFC 1982 lets it begin again after four thousand million.
        let serial = (self.names.order.serial & u64::from(u32::MAX)) as u32;
        let soa = SOA::new(self.server_name(zone, first), person, serial, 60, 10, 86_400, ttl(zone));
        Record::from_rdata(owner, ttl(zone), RData::SOA(soa))
    }

    /// What there is to say of a node in words.
    fn about(&self, node: NodeId) -> Option<RData> {
        let named = self.names.order.nodes.get(&node)?;
        let words =
            vec![format!("node={}", named.name), format!("zone={}", named.zone), format!("site={}", named.site)];
        Some(RData::TXT(TXT::new(words)))
    }

    /// Where the public reaches a node: as it says, or, where it does not, where the mesh does.
    fn public(&self, node: NodeId) -> Vec<IpAddr> {
        let told = self.live.nodes.get(&node).and_then(|seen| seen.addresses.as_ref());
        told.map(|told| told.public.clone()).unwrap_or_else(|| self.mesh(node))
    }

    fn mesh(&self, node: NodeId) -> Vec<IpAddr> {
        self.names.order.nodes.get(&node).map(|node| node.addr.ip()).into_iter().collect()
    }

    /// What is heard of a node now; none when it is not heard. This node always hears itself.
    fn heard(&self, node: NodeId) -> Option<&LiveNode> {
        self.live.nodes.get(&node).filter(|seen| node == self.me.id || seen.liveness == Liveness::Alive)
    }

    fn is_heard(&self, node: NodeId) -> bool {
        self.heard(node).is_some()
    }

    fn runs(&self, node: NodeId, role: &RoleName) -> bool {
        let report = self.live.nodes.get(&node).and_then(|seen| seen.roles.get(role));
        report.is_some_and(|report| matches!(report.state, RoleState::Running | RoleState::Degraded))
    }

    fn is_near(&self, node: NodeId) -> bool {
        self.names.order.nodes.get(&node).is_some_and(|node| node.zone == self.me.zone)
    }
}

fn ttl(zone: &Zone) -> u32 {
    if zone.is_internal { INTERNAL_TTL_S } else { PUBLIC_TTL_S }
}

fn address(addr: IpAddr) -> RData {
    match addr {
        IpAddr::V4(addr) => RData::A(A(addr)),
        IpAddr::V6(addr) => RData::AAAA(AAAA(addr)),
    }
}

fn rotate<T>(list: &mut [T], draw: u64) {
    if let Some(by) = draw.checked_rem(list.len() as u64) {
        // Less than the length.
        list.rotate_left(by as usize);
    }
}

#[cfg(test)]
mod tests;

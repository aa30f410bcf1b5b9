//! What there is to be asked for: zones, and the names in them. Immutable, and swapped whole; what one order has in common with the
//! one before is shared, so that a change of one name touches that name and those above it.
//!
//! Only what the plan says is in here. How instances and nodes are at the moment is looked up with each question, so that nothing has
//! to be made anew when a node falls silent; services are looked up in the order itself.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::Name;
use hirsel_model::order::{DnsOrder, NamedApp};
use hirsel_model::{AppName, Generation, NodeId, ServiceName};
use hirsel_role::INTERNAL_ZONE;
use hirsel_role::dnssec::ZoneKeyring;

use crate::dnssec::Signers;

mod shared;
mod zone;

pub use zone::{Held, Own, Zone};

/// Below the internal zone: nodes by their name. An application of this name has no names of its own.
const NODES: &str = "node";
/// Below the internal zone: where objects are served, and below that buckets by their name (`hirsel_role::S3_NAME`). An application of this
/// name has no names of its own either.
const OBJECTS: &str = "s3";
/// Below any other zone: its name servers by the names of their nodes.
pub const SERVERS: &str = hirsel_model::spec::SERVERS;
/// How services are asked for by protocol (RFC 2782).
const TCP: &str = "_tcp";

/// All names.
#[derive(Debug)]
pub struct Names {
    /// The plan they are from.
    pub generation: Generation,
    /// The order they are from.
    pub order: Arc<DnsOrder>,
    /// How many names were made for it; all others are those of the names before.
    pub made: usize,
    zones: BTreeMap<String, Arc<Zone>>,
    /// Most labels of the name of a zone.
    labels_max: usize,
    nodes: Arc<Nodes>,
    /// Who signs for the zones that are signed.
    pub signers: Arc<Signers>,
}

/// What nodes are called, and their addresses.
#[derive(Debug, Default)]
struct Nodes {
    by_name: HashMap<String, NodeId>,
    members: HashSet<IpAddr>,
}

/// What a name is.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// The zone itself, and what else there is at its name.
    Apex(Option<&'a Held>),
    /// Nothing, with something below.
    Between,
    /// An application.
    App(&'a NamedApp),
    /// A service.
    Service(Service<'a>),
    /// A service, asked for by protocol: it has no addresses.
    ByProtocol(Service<'a>),
    /// An instance.
    Instance(Service<'a>),
    /// A node.
    Node(NodeId),
    /// The object store, which any node answers for.
    Objects,
    /// A bucket of it: so many may be asked for that nobody looks whether there is one.
    Bucket,
    /// A node as name server of a zone.
    Server(NodeId),
    /// The host of a route, or records of an application.
    Held(&'a Held),
    /// The same, by a wildcard that stands for this name (RFC 4592).
    Wild(&'a Held),
}

/// A service of an application, or one instance of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Service<'a> {
    /// The application.
    pub app: &'a AppName,
    /// The service.
    pub service: &'a ServiceName,
    /// Number and node of each instance that takes requests by the plan.
    pub instances: &'a [(u64, NodeId)],
}

impl Names {
    /// The names of `order`, and of the hosts of its routes in its zones and in `zones`, besides the internal one.
    pub fn new(generation: Generation, order: Arc<DnsOrder>, zones: &[String]) -> Self {
        let none = Arc::default();
        let empty = Self {
            generation,
            order: none,
            made: 0,
            zones: BTreeMap::new(),
            labels_max: 0,
            nodes: Arc::default(),
            signers: Arc::default(),
        };
        empty.next(generation, order, zones)
    }

    /// These names as `order` alters them: what stays as it is, is shared. Only where zones come or go all are made anew, for then
    /// hosts may belong to another one.
    pub fn next(&self, generation: Generation, order: Arc<DnsOrder>, zones: &[String]) -> Self {
        let told = zones.iter().map(String::as_str).chain(order.zones.keys().map(String::as_str));
        let wanted: BTreeMap<&str, bool> = told.map(|zone| (zone, false)).chain([(INTERNAL_ZONE, true)]).collect();
        let is_alike =
            self.zones.len() == wanted.len() && self.zones.keys().all(|zone| wanted.contains_key(zone.as_str()));
        let fresh = || {
            wanted.iter().map(|(zone, internal)| ((*zone).to_owned(), Arc::new(Zone::new(zone, *internal)))).collect()
        };
        let mut next = Self {
            generation,
            made: 0,
            zones: if is_alike { self.zones.clone() } else { fresh() },
            labels_max: wanted.keys().map(|zone| zone.split('.').count()).max().unwrap_or(0),
            nodes: if self.order.nodes == order.nodes { self.nodes.clone() } else { Arc::new(Nodes::new(&order)) },
            order: order.clone(),
            signers: self.signers.clone(),
        };
        let none = Arc::default();
        let names: Vec<String> = next.zones.keys().cloned().collect();
        for zone in names {
            let spec = order.zones.get(&zone).unwrap_or(&none);
            if next.zones.get(&zone).is_some_and(|zone| !zone.follows(spec)) {
                next.made += next.alter(&zone, |zone| zone.follow(spec));
            }
        }
        let gone = self.order.hosts.difference(&order.hosts).filter(|_| is_alike).map(|host| (host, false));
        let come =
            order.hosts.iter().filter(|host| !is_alike || !self.order.hosts.contains(*host)).map(|host| (host, true));
        for (host, is_host) in gone.chain(come) {
            let Some(zone) = next.zone(host).map(|(zone, _)| zone.name.clone()) else { continue };
            next.made += next.alter(&zone, |zone| {
                zone.set_host(host, is_host);
                1
            });
        }
        next
    }

    /// The same names, signed with the keys of their order that are in `keyring`.
    pub fn with_keys(self, keyring: &ZoneKeyring) -> Self {
        let signers = Arc::new(self.signers.next(&self.order.signed, keyring));
        Self { signers, ..self }
    }

    fn alter(&mut self, zone: &str, alter: impl FnOnce(&mut Zone) -> usize) -> usize {
        self.zones.get_mut(zone).map_or(0, |zone| alter(Arc::make_mut(zone)))
    }

    /// The zone that a name (see [`text`]) is in, the longest one of several, and the part of the name below it.
    pub fn zone<'n>(&self, name: &'n str) -> Option<(&Zone, &'n str)> {
        // However many labels are asked for, no more are looked up than the longest zone has.
        let labels = 1 + name.bytes().filter(|byte| *byte == b'.').count();
        let all = std::iter::once(name).chain(parents(name)).skip(labels.saturating_sub(self.labels_max));
        let zone = all.filter_map(|name| self.zones.get(name)).next()?;
        Some((zone, zone.rest(name)?))
    }

    /// The zone right above that of the name `zone`, where it is one of ours.
    pub fn above(&self, zone: &str) -> Option<&Zone> {
        Some(self.zone(parents(zone).next()?)?.0)
    }

    /// What `name` is, whose part below `zone` is `rest`. None where there is no such name. Names that others answer for
    /// ([`Zone::cut`]) are no matter of this.
    pub fn place<'a>(&'a self, zone: &'a Zone, name: &str, rest: &str) -> Option<Place<'a>> {
        if rest.is_empty() {
            return Some(Place::Apex(zone.held(name)));
        }
        let own = if zone.is_internal { self.internal(rest) } else { None };
        let own = own.or_else(|| zone.held(name).map(Place::Held));
        let server = |rest: &str| if zone.is_internal { None } else { self.server(rest) };
        own.or_else(|| server(rest)).or_else(|| {
            // RFC 4592: a wildcard directly below the nearest name that exists stands for what is not there.
            let exists = |above: &&str| {
                let rest = zone.rest(above).unwrap_or_default();
                rest.is_empty() || zone.held(above).is_some() || server(rest).is_some()
            };
            let nearest = parents(name).find(exists)?;
            zone.held(&format!("*.{nearest}")).map(Place::Wild)
        })
    }

    /// The node of this number, as names know it.
    pub fn node_name(&self, node: NodeId) -> Option<&str> {
        self.order.nodes.get(&node).map(|node| node.name.as_str())
    }

    /// Whether a node of the cluster has this address.
    pub fn is_member(&self, addr: IpAddr) -> bool {
        self.nodes.members.contains(&addr)
    }

    fn internal(&self, rest: &str) -> Option<Place<'_>> {
        let mut labels = rest.rsplit('.');
        let labels = (labels.next()?, labels.next(), labels.next(), labels.next());
        if labels.0 == NODES {
            return match labels {
                (_, None, ..) => Some(Place::Between),
                (_, Some(node), None, _) => self.nodes.by_name.get(node).copied().map(Place::Node),
                _ => None,
            };
        }
        if labels.0 == OBJECTS {
            // A name of a bucket may have dots.
            return Some(if labels.1.is_none() { Place::Objects } else { Place::Bucket });
        }
        let (app, named) = self.order.apps.get_key_value(&labels.0.parse().ok()?)?;
        let service = |label: &str| {
            let (service, instances) = named.services.get_key_value(&label.parse().ok()?)?;
            Some(Service { app, service, instances })
        };
        match labels {
            (_, None, ..) => Some(Place::App(named)),
            (_, Some(TCP), None, _) => (!named.services.is_empty()).then_some(Place::Between),
            (_, Some(TCP), Some(label), None) => service(label.strip_prefix('_')?).map(Place::ByProtocol),
            (_, Some(label), None, _) => service(label).map(Place::Service),
            (_, Some(label), Some(number), None) => {
                let service = service(label)?;
                // Written as we write it: `07` is no name.
                let wanted: u64 = number.parse().ok().filter(|wanted: &u64| wanted.to_string() == number)?;
                let at = service.instances.binary_search_by_key(&wanted, |(number, _)| *number).ok()?;
                Some(Place::Instance(Service { instances: &service.instances[at..=at], ..service }))
            }
            _ => None,
        }
    }

    fn server(&self, rest: &str) -> Option<Place<'_>> {
        match rest.strip_suffix(SERVERS)? {
            "" => Some(Place::Between),
            node => self.nodes.by_name.get(node.strip_suffix('.')?).copied().map(Place::Server),
        }
    }
}

impl Nodes {
    fn new(order: &DnsOrder) -> Self {
        Self {
            by_name: order.nodes.iter().map(|(id, node)| (node.name.to_string(), *id)).collect(),
            members: order.nodes.values().map(|node| node.addr.ip()).collect(),
        }
    }
}

/// The names above a name, from the nearest on.
fn parents(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('.').map(|(dot, _)| &name[dot + 1..])
}

/// A name as names are compared here: in lower case, labels between dots, without a final one. What can be part of no name of ours
/// (also a dot inside a label) becomes `?`, which is part of none.
pub fn text(name: &Name) -> String {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|byte| match byte.to_ascii_lowercase() {
            good @ (b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'*') => char::from(good),
            _ => '?',
        }));
    }
    text
}

/// The name of labels between dots. The root when that would be too long, which names of ours never are.
pub fn name(labels: std::fmt::Arguments<'_>) -> Name {
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _ = text.write_fmt(labels);
    Name::from_labels(text.split('.').map(str::as_bytes)).unwrap_or_else(|_| Name::root())
}

#[cfg(test)]
mod tests;

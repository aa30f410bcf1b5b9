//! What there is to be asked for: zones, and the names in them. Immutable, made anew with each order and swapped whole.
//!
//! Only what the plan says is in here. How instances and nodes are at the moment is looked up with each question, so that nothing has
//! to be made anew when a node falls silent.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::Name;
use hirsel_model::order::{DnsOrder, NamedApp};
use hirsel_model::{AppName, Generation, NodeId, ServiceName};
use hirsel_role::INTERNAL_ZONE;

/// Below the internal zone: nodes by their name. An application of this name has no names of its own.
const NODES: &str = "node";
/// Below any other zone: its name servers by the names of their nodes.
pub const SERVERS: &str = "ns";
/// How services are asked for by protocol (RFC 2782).
const TCP: &str = "_tcp";

/// All names.
#[derive(Debug)]
pub struct Names {
    /// The plan they are from.
    pub generation: Generation,
    /// The order they are from.
    pub order: Arc<DnsOrder>,
    zones: Vec<Zone>,
    nodes: HashMap<String, NodeId>,
    hosts: HashSet<String>,
    /// Names that hold nothing and exist because of a host below them (RFC 8020).
    between: HashSet<String>,
    members: HashSet<IpAddr>,
}

/// A zone that is answered for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// In lower case, without a final dot.
    pub name: String,
    /// Whether it is the cluster's own.
    pub is_internal: bool,
}

/// What a name is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place<'a> {
    /// The zone itself.
    Apex {
        /// Whether it is the host of a route too.
        is_host: bool,
    },
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
    /// A node as name server of a zone.
    Server(NodeId),
    /// The host of a route.
    Host,
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
    /// The names of `order`, and of the hosts of its routes in `zones` besides the internal one.
    pub fn new(generation: Generation, order: Arc<DnsOrder>, zones: &[String]) -> Self {
        let zone = |name: &String| Zone { name: name.clone(), is_internal: false };
        let internal = Zone { name: INTERNAL_ZONE.into(), is_internal: true };
        let zones: Vec<Zone> =
            [internal].into_iter().chain(zones.iter().filter(|name| *name != INTERNAL_ZONE).map(zone)).collect();
        let nodes = order.nodes.iter().map(|(id, node)| (node.name.to_string(), *id)).collect();
        let members = order.nodes.values().map(|node| node.addr.ip()).collect();
        let inside = |host: &&String| zones.iter().any(|zone| zone.rest(host).is_some());
        let hosts: HashSet<String> = order.hosts.iter().filter(inside).cloned().collect();
        let between = hosts.iter().flat_map(|host| parents(host)).map(str::to_owned).collect();
        Self { generation, order, zones, nodes, hosts, between, members }
    }

    /// The zone that a name (see [`text`]) is in, the longest one of several, and the part of the name below it.
    pub fn zone<'n>(&self, name: &'n str) -> Option<(&Zone, &'n str)> {
        let all = self.zones.iter().filter_map(|zone| Some((zone, zone.rest(name)?)));
        all.max_by_key(|(zone, _)| zone.name.len())
    }

    /// What `name` is, whose part below `zone` is `rest`. None where there is no such name.
    pub fn place(&self, zone: &Zone, name: &str, rest: &str) -> Option<Place<'_>> {
        if rest.is_empty() {
            return Some(Place::Apex { is_host: self.hosts.contains(name) });
        }
        let own = if zone.is_internal { self.internal(rest) } else { None };
        own.or_else(|| self.host(zone, name)).or_else(|| if zone.is_internal { None } else { self.server(rest) })
    }

    /// The node of this number, as names know it.
    pub fn node_name(&self, node: NodeId) -> Option<&str> {
        self.order.nodes.get(&node).map(|node| node.name.as_str())
    }

    /// Whether a node of the cluster has this address.
    pub fn is_member(&self, addr: IpAddr) -> bool {
        self.members.contains(&addr)
    }

    fn internal(&self, rest: &str) -> Option<Place<'_>> {
        let mut labels = rest.rsplit('.');
        let labels = (labels.next()?, labels.next(), labels.next(), labels.next());
        if labels.0 == NODES {
            return match labels {
                (_, None, ..) => Some(Place::Between),
                (_, Some(node), None, _) => self.nodes.get(node).copied().map(Place::Node),
                _ => None,
            };
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
            node => self.nodes.get(node.strip_suffix('.')?).copied().map(Place::Server),
        }
    }

    /// A host itself, or one that a wildcard stands for (RFC 4592): the one directly below the nearest name that exists.
    fn host(&self, zone: &Zone, name: &str) -> Option<Place<'_>> {
        if self.hosts.contains(name) {
            return Some(Place::Host);
        }
        if self.between.contains(name) {
            return Some(Place::Between);
        }
        let nearest = parents(name).find(|parent| {
            parent.len() <= zone.name.len() || self.hosts.contains(*parent) || self.between.contains(*parent)
        })?;
        self.hosts.contains(&format!("*.{nearest}")).then_some(Place::Host)
    }
}

impl Zone {
    /// The part of `name` below this zone, without the dot between; none when it is not in it.
    fn rest<'n>(&self, name: &'n str) -> Option<&'n str> {
        let above = name.strip_suffix(self.name.as_str())?;
        if above.is_empty() { Some(above) } else { above.strip_suffix('.') }
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

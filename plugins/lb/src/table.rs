//! The routing table: which service answers a host and path, and which of its instances take requests. Immutable, and swapped whole.
//!
//! Built from the order (what the plan says) and from what is heard of the nodes (liveness, ports, health). What is kept of an
//! instance over time is not in the table but in [`Instance`], found again by its id.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use hirsel_model::order::{Backend, LbOrder};
use hirsel_model::plan::Phase;
use hirsel_model::report::{InstanceFacts, InstanceState, RoleFacts};
use hirsel_model::view::Liveness;
use hirsel_model::{AppName, Generation, InstanceId, NodeId, RoleName, ServiceName, Timestamp};
use hirsel_role::{Live, Me};

use crate::balance;
use crate::instance::{Instance, Ticket};

/// A service of an application.
pub type ServiceKey = (AppName, ServiceName);

/// Finds the lasting part of an instance, or begins one.
pub type FindInstance<'a> = &'a mut dyn FnMut(&InstanceId, NodeId) -> Arc<Instance>;

/// Where requests go.
#[derive(Debug, Default)]
pub struct Table {
    /// The order it was built from.
    pub generation: Generation,
    hosts: HashMap<String, Vec<Path>>,
    any_host: Vec<Path>,
    services: Vec<Service>,
    by_key: BTreeMap<ServiceKey, usize>,
}

/// A path prefix of one host.
#[derive(Debug)]
struct Path {
    /// Without final slash.
    prefix: String,
    service: usize,
}

/// A service and its instances.
#[derive(Debug)]
pub struct Service {
    /// Which.
    pub key: Arc<ServiceKey>,
    /// Healthy, on nodes that are heard.
    ready: Vec<Candidate>,
    /// Healthy when they were last heard of, on nodes that are not heard now.
    doubtful: Vec<Candidate>,
}

/// An instance that may take a request.
#[derive(Debug)]
pub struct Candidate {
    /// What is kept of it.
    pub instance: Arc<Instance>,
    /// How to reach it.
    pub way: Way,
}

/// How an instance is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// On this host.
    Direct(SocketAddr),
    /// Through the door of its node.
    Door {
        /// Its node.
        node: NodeId,
        /// Where the mesh reaches that node.
        addr: SocketAddr,
    },
}

/// How an instance stands, for the comparison of two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether its node is heard.
    pub liveness: Liveness,
    /// The port it listens on; zero when it is not known to run.
    pub port: u16,
    /// Whether it takes new requests.
    pub phase: Phase,
    /// Whether its check passes.
    pub healthy: bool,
}

/// How every instance of `order` stands.
pub fn standings(order: &LbOrder, live: &Live, me: NodeId) -> BTreeMap<InstanceId, Standing> {
    let backends = order.backends.values().flatten();
    backends.map(|(id, backend)| (id.clone(), standing(id, backend, live, me))).collect()
}

fn standing(id: &InstanceId, backend: &Backend, live: &Live, me: NodeId) -> Standing {
    let facts = facts_of(live, backend.node, id);
    let runs = facts.filter(|facts| matches!(facts.state, InstanceState::Starting | InstanceState::Running));
    Standing {
        liveness: liveness_of(live, backend.node, me),
        port: runs.map_or(0, |facts| facts.port),
        phase: backend.phase,
        healthy: runs.is_some_and(|facts| facts.healthy && facts.port != 0),
    }
}

/// Whether `node` is heard. This node always hears itself.
pub fn liveness_of(live: &Live, node: NodeId, me: NodeId) -> Liveness {
    if node == me { Liveness::Alive } else { live.nodes.get(&node).map_or(Liveness::Suspect, |node| node.liveness) }
}

fn facts_of<'a>(live: &'a Live, node: NodeId, id: &InstanceId) -> Option<&'a InstanceFacts> {
    match live.nodes.get(&node)?.facts.get(&RoleName::compute())? {
        RoleFacts::Compute(instances) => instances.get(id),
        RoleFacts::None | RoleFacts::Lb(_) | RoleFacts::Unknown => None,
    }
}

impl Table {
    /// The table for `order` and what `standings` says of its instances.
    pub fn build(
        generation: Generation,
        order: &LbOrder,
        standings: &BTreeMap<InstanceId, Standing>,
        me: &Me,
        find: FindInstance<'_>,
    ) -> Self {
        let mut table = Table { generation, ..Table::default() };
        for (key, backends) in &order.backends {
            table.by_key.insert(key.clone(), table.services.len());
            table.services.push(Service::build(key, backends, standings, me, find));
        }
        for (app, route) in &order.routes {
            let key = (app.clone(), route.to.clone());
            let service = *table.by_key.entry(key.clone()).or_insert_with(|| {
                table.services.push(Service { key: Arc::new(key), ready: Vec::new(), doubtful: Vec::new() });
                table.services.len() - 1
            });
            let paths = match route.host.as_str() {
                "*" => &mut table.any_host,
                host => table.hosts.entry(host.to_ascii_lowercase()).or_default(),
            };
            let prefix = route.path.trim_end_matches('/').to_owned();
            // The same way in twice: the first one keeps it, whoever comes later cannot take it over.
            if !paths.iter().any(|path| path.prefix == prefix) {
                paths.push(Path { prefix, service });
            }
        }
        for paths in table.hosts.values_mut().chain([&mut table.any_host]) {
            paths.sort_by_key(|path| std::cmp::Reverse(path.prefix.len()));
        }
        table
    }

    /// The service that answers `path` of `host` (lower case, no port): by the host itself before `*`, by the longest prefix that
    /// ends where a segment ends.
    pub fn route(&self, host: &str, path: &str) -> Option<&Service> {
        let find = |paths: &[Path]| paths.iter().find(|candidate| covers(&candidate.prefix, path)).map(|p| p.service);
        let exact = self.hosts.get(host).and_then(|paths| find(paths));
        exact.or_else(|| find(&self.any_host)).map(|service| &self.services[service])
    }

    /// The service called `key`.
    pub fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.by_key.get(key).map(|service| &self.services[*service])
    }
}

/// Whether `prefix` (without final slash) is the whole of `path` or ends where one of its segments ends.
fn covers(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        // `OPTIONS *` has no path.
        || prefix.is_empty()
}

impl Service {
    fn build(
        key: &ServiceKey,
        backends: &BTreeMap<InstanceId, Backend>,
        standings: &BTreeMap<InstanceId, Standing>,
        me: &Me,
        find: FindInstance<'_>,
    ) -> Self {
        let mut service = Service { key: Arc::new(key.clone()), ready: Vec::new(), doubtful: Vec::new() };
        for (id, backend) in backends {
            let Some(standing) = standings.get(id) else { continue };
            if standing.phase != Phase::Active || !standing.healthy {
                continue;
            }
            let way = if backend.node == me.id {
                Way::Direct(SocketAddr::new(me.instance_host, standing.port))
            } else {
                Way::Door { node: backend.node, addr: backend.addr }
            };
            let candidate = Candidate { instance: find(id, backend.node), way };
            match standing.liveness {
                Liveness::Alive => service.ready.push(candidate),
                Liveness::Suspect => service.doubtful.push(candidate),
            }
        }
        service
    }

    /// Takes a request on with one of the instances, none of `tried`: by preference one that is not ejected, then one that is, then
    /// one whose node is not heard. None if there is none.
    pub fn pick(&self, now: Timestamp, draw: u64, tried: &[Arc<Instance>]) -> Option<(Ticket, Way)> {
        let untried = |candidate: &Candidate| !tried.iter().any(|tried| Arc::ptr_eq(tried, &candidate.instance));
        choose(&self.ready, now, draw, |c| !c.instance.is_ejected(now) && untried(c))
            .or_else(|| choose(&self.ready, now, draw, untried))
            .or_else(|| choose(&self.doubtful, now, draw, untried))
    }

    /// Whether some instance other than `this` would take a request now.
    pub fn has_other_than(&self, this: &Arc<Instance>, now: Timestamp) -> bool {
        self.ready.iter().any(|candidate| {
            let other = &candidate.instance;
            !Arc::ptr_eq(other, this) && !other.is_closed() && !other.is_ejected(now)
        })
    }
}

fn choose(
    candidates: &[Candidate],
    now: Timestamp,
    draw: u64,
    usable: impl Fn(&Candidate) -> bool,
) -> Option<(Ticket, Way)> {
    let cost = |at: usize| {
        let instance = &candidates[at].instance;
        balance::cost(instance.in_flight(), instance.latency_us(now))
    };
    let open = |at: usize| !candidates[at].instance.is_closed() && usable(&candidates[at]);
    let chosen = &candidates[balance::pick(candidates.len(), draw, open, cost)?];
    Some((chosen.instance.take()?, chosen.way))
}

#[cfg(test)]
mod tests;

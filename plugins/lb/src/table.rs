//! The routing table: which service answers a host and path, and which of its instances take requests. Immutable, and swapped whole.
//!
//! Built from the order (what the plan says) and from what is heard of the nodes (liveness, ports, health). What is kept of an
//! instance over time is not in the table but in [`Instance`], found again by its id.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use hirsel_model::order::{Backend, LbOrder};
use hirsel_model::plan::Phase;
use hirsel_model::report::{InstanceFacts, InstanceState, RoleFacts};
use hirsel_model::spec::{AppProtocol, PortId, Target};
use hirsel_model::view::Liveness;
use hirsel_model::{AppName, Generation, InstanceId, NodeId, RoleName, ServiceName, Timestamp, ZoneName};
use hirsel_role::{Live, Me};

use crate::balance;
use crate::balance::zones::{ByZone, ZONES_MAX};
use crate::instance::{Instance, Ticket, Whom};
use crate::sharing::session::Token;
use crate::ways::Ways;

/// What answers requests, under a name that holds over all tables.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A service of an application.
    Service(AppName, ServiceName),
    /// Programs outside the cluster that an application leads to.
    Outside(AppName, AppProtocol, Vec<SocketAddr>),
    /// Objects of a bucket that an application leads to. The storage role has them, and no instance.
    Bucket(AppName, String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Service(app, service) => write!(f, "{app}/{service}"),
            Origin::Outside(app, ..) => write!(f, "{app}, outside the cluster,"),
            Origin::Bucket(app, bucket) => write!(f, "{app}, bucket {bucket},"),
        }
    }
}

/// Finds the lasting part of an instance that speaks so, or begins one.
pub type FindInstance<'a> = &'a mut dyn FnMut(Whom, AppProtocol) -> Arc<Instance>;

/// Where requests go.
#[derive(Debug, Default)]
pub struct Table {
    /// The order it was built from.
    pub generation: Generation,
    /// Which route takes a request.
    pub ways: Arc<Ways>,
    /// What answers each of the routes of `ways`.
    targets: Vec<To>,
    /// What takes the connections of each port.
    ports: BTreeMap<PortId, To>,
    services: Vec<Service>,
    by_origin: BTreeMap<Arc<Origin>, usize>,
    /// How many load balancers there are in each zone. The own one comes first.
    pub balancers: ByZone,
}

/// What answers the requests of one route.
#[derive(Debug)]
enum To {
    One(usize),
    /// Services with weights above zero.
    Shares(Vec<(usize, u32)>),
    /// The route answers by itself.
    Nobody,
}

/// A service, or whatever else answers, and its instances.
#[derive(Debug)]
pub struct Service {
    /// Which.
    pub origin: Arc<Origin>,
    /// Healthy, on nodes that are heard.
    pub(crate) ready: Vec<Candidate>,
    /// Healthy when they were last heard of, on nodes that are not heard now.
    pub(crate) doubtful: Vec<Candidate>,
    /// Healthy, and about to stop: they answer their sessions as long as they are open.
    pub(crate) lingering: Vec<Candidate>,
}

/// An instance that may take a request.
#[derive(Debug)]
pub struct Candidate {
    /// What is kept of it.
    pub instance: Arc<Instance>,
    /// How to reach it.
    pub way: Way,
    /// What the cookies of its sessions say.
    pub token: Token,
    /// The number of its zone; zero is the own one.
    pub zone: usize,
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
    /// How long it is waited for once it takes none.
    pub drain_ms: u64,
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
        drain_ms: backend.drain_ms,
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
        RoleFacts::None | RoleFacts::Lb(_) | RoleFacts::Address(_) | RoleFacts::Storage(_) | RoleFacts::Unknown => None,
    }
}

impl Table {
    /// The table for `order` and what `standings` says of its instances. `ways` are those of its routes.
    pub fn build(
        generation: Generation,
        ways: Arc<Ways>,
        order: &LbOrder,
        standings: &BTreeMap<InstanceId, Standing>,
        me: &Me,
        find: FindInstance<'_>,
    ) -> Self {
        let zones = Zones::of(order, me);
        let mut table = Table { generation, ways, balancers: zones.balancers, ..Table::default() };
        for ((app, service), backends) in &order.backends {
            let origin = Origin::Service(app.clone(), service.clone());
            table.serve(origin, |origin| Service::build(origin, backends, standings, (me, &zones), find));
        }
        for (app, route) in &order.routes {
            let to = table.target(app, &route.to, find);
            table.targets.push(to);
        }
        for (port, (app, spec)) in &order.ports {
            let to = table.target(app, &spec.to, find);
            table.ports.insert(*port, to);
        }
        table
    }

    fn target(&mut self, app: &AppName, to: &Target, find: FindInstance<'_>) -> To {
        let mut named =
            |service: &ServiceName| self.serve(Origin::Service(app.clone(), service.clone()), Service::none);
        match to {
            Target::Service(service) => To::One(named(service)),
            Target::Shares(shares) => {
                let shares = shares.iter().filter(|(_, weight)| **weight > 0);
                To::Shares(shares.map(|(service, weight)| (named(service), *weight)).collect())
            }
            Target::Outside(addrs) => To::One(self.outside(app, AppProtocol::Http1, addrs, find)),
            Target::OutsideH2c(addrs) => To::One(self.outside(app, AppProtocol::H2c, addrs, find)),
            Target::Bucket(assets) => {
                To::One(self.serve(Origin::Bucket(app.clone(), assets.bucket.clone()), Service::none))
            }
            Target::Redirect(_) | Target::Respond(_) => To::Nobody,
        }
    }

    fn outside(&mut self, app: &AppName, protocol: AppProtocol, addrs: &[SocketAddr], find: FindInstance<'_>) -> usize {
        let origin = Origin::Outside(app.clone(), protocol, addrs.to_vec());
        self.serve(origin, |origin| Service::outside(origin, (app, protocol), addrs, find))
    }

    /// The number of what is called `origin`, which `build` makes if it is not there yet.
    fn serve(&mut self, origin: Origin, build: impl FnOnce(Arc<Origin>) -> Service) -> usize {
        let origin = Arc::new(origin);
        if let Some(known) = self.by_origin.get(&origin) {
            return *known;
        }
        let number = self.services.len();
        self.services.push(build(origin.clone()));
        self.by_origin.insert(origin, number);
        number
    }

    /// What answers a request of the route with this number, by chance where several share its requests. One that has no instance leaves its share to
    /// the others. None if the route answers by itself.
    pub fn origin(&self, route: usize, draw: impl FnOnce() -> u64) -> Option<&Arc<Origin>> {
        self.drawn(&self.targets[route], draw)
    }

    /// What takes a connection of `port`, by chance where several share them. None if there is no such port.
    pub fn origin_of_port(&self, port: PortId, draw: impl FnOnce() -> u64) -> Option<&Arc<Origin>> {
        self.drawn(self.ports.get(&port)?, draw)
    }

    fn drawn(&self, to: &To, draw: impl FnOnce() -> u64) -> Option<&Arc<Origin>> {
        let number = match to {
            To::One(number) => *number,
            To::Shares(shares) => {
                let able = |(number, _): &&(usize, u32)| self.services[*number].has_any();
                let drawn = draw();
                let chosen = choose_share(shares.iter().filter(able), drawn);
                chosen.or_else(|| choose_share(shares.iter(), drawn))?
            }
            To::Nobody => return None,
        };
        Some(&self.services[number].origin)
    }

    /// What answers the sessions of `token` among the services that share the requests of the route with this number.
    pub fn origin_of_session(&self, route: usize, token: Token) -> Option<&Arc<Origin>> {
        let To::Shares(shares) = &self.targets[route] else { return None };
        let services = shares.iter().map(|(number, _)| &self.services[*number]);
        Some(&services.into_iter().find(|service| service.holds(token))?.origin)
    }

    /// What is called `origin`.
    pub fn service(&self, origin: &Origin) -> Option<&Service> {
        self.by_origin.get(origin).map(|service| &self.services[*service])
    }
}

/// The zones of a cluster, as a load balancer numbers them.
struct Zones<'a> {
    own: &'a ZoneName,
    others: BTreeSet<&'a ZoneName>,
    balancers: ByZone,
}

impl<'a> Zones<'a> {
    fn of(order: &'a LbOrder, me: &'a Me) -> Self {
        let zones = order.backends.values().flat_map(BTreeMap::values).map(|backend| &backend.zone);
        let others = zones.chain(order.balancers.keys()).filter(|zone| **zone != me.zone).collect();
        let mut zones = Self { own: &me.zone, others, balancers: ByZone::default() };
        for (zone, number) in &order.balancers {
            zones.balancers[zones.number(zone)] += number;
        }
        zones
    }

    fn number(&self, zone: &ZoneName) -> usize {
        if zone == self.own {
            return 0;
        }
        let before = self.others.iter().take_while(|other| **other < zone).count();
        (1 + before).min(ZONES_MAX - 1)
    }
}

/// One of `shares`, as often as its weight says.
fn choose_share<'a>(shares: impl Iterator<Item = &'a (usize, u32)> + Clone, draw: u64) -> Option<usize> {
    let total: u64 = shares.clone().map(|(_, weight)| u64::from(*weight)).sum();
    let mut left = draw.checked_rem(total)?;
    for (number, weight) in shares {
        match left.checked_sub(u64::from(*weight)) {
            Some(less) => left = less,
            None => return Some(*number),
        }
    }
    None
}

impl Service {
    fn build(
        origin: Arc<Origin>,
        backends: &BTreeMap<InstanceId, Backend>,
        standings: &BTreeMap<InstanceId, Standing>,
        (me, zones): (&Me, &Zones<'_>),
        find: FindInstance<'_>,
    ) -> Self {
        let mut service = Service::none(origin);
        for (id, backend) in backends {
            let Some(standing) = standings.get(id) else { continue };
            if !standing.healthy {
                continue;
            }
            let way = if backend.node == me.id {
                Way::Direct(SocketAddr::new(me.instance_host, standing.port))
            } else {
                Way::Door { node: backend.node, addr: backend.addr }
            };
            let whom = Whom::Instance { id: id.clone(), node: backend.node };
            let instance = find(whom, backend.protocol);
            let candidate = Candidate { token: instance.token, instance, way, zone: zones.number(&backend.zone) };
            match (standing.phase, standing.liveness) {
                (Phase::Active, Liveness::Alive) => service.ready.push(candidate),
                (Phase::Active, Liveness::Suspect) => service.doubtful.push(candidate),
                (Phase::Draining, Liveness::Alive) => service.lingering.push(candidate),
                (Phase::Draining, Liveness::Suspect) => {}
            }
        }
        service
    }

    /// One that has no instance.
    fn none(origin: Arc<Origin>) -> Self {
        Self { origin, ready: Vec::new(), doubtful: Vec::new(), lingering: Vec::new() }
    }

    /// Programs outside, of which nothing is known but how they did so far.
    fn outside(
        origin: Arc<Origin>,
        (app, protocol): (&AppName, AppProtocol),
        addrs: &[SocketAddr],
        find: FindInstance<'_>,
    ) -> Self {
        let candidate = |(place, addr): (usize, &SocketAddr)| Candidate {
            instance: find(Whom::Outside(*addr), protocol),
            way: Way::Direct(*addr),
            token: Token::of_outside(app.as_str(), place),
            zone: 0,
        };
        Self { ready: addrs.iter().enumerate().map(candidate).collect(), ..Self::none(origin) }
    }

    /// Whether one of its instances answers the sessions of `token`.
    fn holds(&self, token: Token) -> bool {
        self.ready.iter().chain(&self.lingering).any(|candidate| candidate.token == token)
    }

    fn has_any(&self) -> bool {
        !self.ready.is_empty() || !self.doubtful.is_empty()
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

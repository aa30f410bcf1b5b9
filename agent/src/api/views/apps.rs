//! `apps` and `ps`: applications, and the instances of one.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use hirsel_model::plan::{InstanceAssignment, Phase};
use hirsel_model::report::{InstanceFacts, InstanceState};
use hirsel_model::spec::{AppSpec, PathKind, RouteSpec};
use hirsel_model::{AppName, InstanceId, NodeId, RoleName, ServiceName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::wanted::{self, AppBucket};
use crate::api::sight::{Sight, Standing, instance_host};

/// The ports of plain HTTP and of HTTPS, which a URL leaves out.
const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;

/// An application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct App {
    /// Its name.
    pub app: String,
    /// How often it was applied.
    pub revision: u64,
    /// Its programs.
    pub services: Vec<Service>,
    /// Where it answers.
    pub endpoints: Vec<String>,
    /// `healthy`, `degraded`, `critical`, `stopped`.
    pub health: String,
    /// What is missing, and why.
    pub unmet: Vec<String>,
    /// Buckets that it wants.
    #[serde(default)]
    pub buckets: Vec<AppBucket>,
}

/// A program of an application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// Its name.
    pub service: String,
    /// How many instances are wanted.
    pub wanted: u32,
    /// How many work.
    pub healthy: u32,
    /// What it is started from, where that is not the host's own files.
    pub image_or_artifact: Option<String>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Revision of the application at which the way to run it last changed.
    pub revision: u64,
    /// The revision that did not become healthy and was taken back.
    pub reverted: Option<u64>,
}

/// An instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Instance {
    /// `APP/SERVICE/NUMBER`.
    pub instance: String,
    /// Its service.
    pub service: String,
    /// The node it runs on.
    pub node: String,
    /// HOST:PORT as it listens on its node; none until it has a port.
    pub addr: Option<String>,
    /// `waiting`, `starting`, `running`, `draining`, `stopping`, `ended`; `unknown` while its node is not heard.
    pub state: String,
    /// Whether it works.
    pub healthy: bool,
    /// How often it was started again on its node.
    pub restarts: u32,
    /// Revision of the application it runs.
    pub revision: u64,
    /// Why there.
    pub because: String,
    /// For how long it has been in the plan there; none when the log does not reach back.
    pub since_ms: Option<u64>,
    /// Its last exit or failure.
    pub message: Option<String>,
}

/// Every application of the spec.
pub fn apps(sight: &Sight) -> Vec<App> {
    sight.state.spec.apps.iter().map(|(name, spec)| app(sight, name, spec)).collect()
}

fn app(sight: &Sight, name: &AppName, spec: &AppSpec) -> App {
    let services: Vec<Service> = spec
        .services
        .iter()
        .map(|(service, described)| Service {
            service: service.to_string(),
            wanted: if spec.stopped { 0 } else { described.replicas.min },
            healthy: healthy_of(sight, name, service),
            image_or_artifact: None,
            command: described.command.clone(),
            revision: described.revision.0,
            reverted: sight.state.plan.reverted.get(name).and_then(|of| of.get(service)).map(|revision| revision.0),
        })
        .collect();
    let buckets = wanted::buckets(sight, name, spec);
    let troubles = buckets.iter().filter_map(|it| Some(format!("bucket {}: {}", it.bucket, it.problem.as_ref()?)));
    let unmet: Vec<String> = unmet(sight, name).into_iter().chain(troubles).collect();
    App {
        app: name.to_string(),
        revision: spec.revision.0,
        health: health(spec.stopped, &services, &unmet).into(),
        endpoints: endpoints(sight, spec),
        services,
        unmet,
        buckets,
    }
}

fn healthy_of(sight: &Sight, app: &AppName, service: &ServiceName) -> u32 {
    let active = sight
        .state
        .plan
        .instances
        .iter()
        .filter(|(id, assignment)| id.app == *app && id.service == *service && assignment.phase == Phase::Active);
    active.filter(|(id, _)| sight.is_healthy(id)).map(|_| 1).sum()
}

fn unmet(sight: &Sight, app: &AppName) -> Vec<String> {
    let prefix = format!("{app}/");
    let about = |subject: &str| subject == app.as_str() || subject.starts_with(&prefix);
    let unmet = sight.state.plan.unmet.iter().filter(|unmet| about(&unmet.subject));
    unmet.map(|unmet| format!("{}: {}", unmet.subject, unmet.reason)).collect()
}

fn health(stopped: bool, services: &[Service], unmet: &[String]) -> &'static str {
    if stopped {
        "stopped"
    } else if services.iter().any(|service| service.wanted > 0 && service.healthy == 0) {
        "critical"
    } else if !unmet.is_empty() || services.iter().any(|service| service.healthy < service.wanted) {
        "degraded"
    } else {
        "healthy"
    }
}

/// The URLs of each host and path that is routed, each once, then of each port at each lb node; a route for any host is reached at every lb node. Where a certificate covers
/// the host there is one with HTTPS, and it comes first; none without if whoever comes so is only led there.
fn endpoints(sight: &Sight, spec: &AppSpec) -> Vec<String> {
    let lb: BTreeSet<NodeId> = sight
        .state
        .plan
        .roles
        .get(&RoleName::lb())
        .map(|slots| slots.values().map(|assignment| assignment.node).collect())
        .unwrap_or_default();
    let hosts = |route: &RouteSpec| -> Vec<String> {
        if route.host != "*" {
            return vec![route.host.clone()];
        }
        let nodes = lb.iter().filter_map(|node| sight.state.spec.nodes.get(node));
        nodes
            .map(|node| if node.addr.is_ipv6() { format!("[{}]", node.addr.ip()) } else { node.addr.ip().to_string() })
            .collect()
    };
    let port = |port: u16, usual: u16| if port == usual { String::new() } else { format!(":{port}") };
    let (plain, secure) = (port(sight.http_port, HTTP_PORT), port(sight.https_port, HTTPS_PORT));
    let mut urls: Vec<String> = Vec::new();
    for route in &spec.routes {
        // No URL says which paths an expression takes.
        let path = match route.kind {
            PathKind::Prefix | PathKind::Exact => route.path.as_str(),
            PathKind::Regex => "/",
        };
        for host in hosts(route) {
            let passed = route.is_passed_through();
            let covered = passed || sight.state.certificates.cover(&host, sight.wall);
            let led = covered && (passed || route.actions.https.is_some());
            let with = covered.then(|| format!("https://{host}{secure}{path}"));
            let without = (!led).then(|| format!("http://{host}{plain}{path}"));
            for url in with.into_iter().chain(without) {
                if !urls.contains(&url) {
                    urls.push(url);
                }
            }
        }
    }
    for port in spec.ports.keys() {
        let nodes = lb.iter().filter_map(|node| sight.state.spec.nodes.get(node));
        urls.extend(nodes.map(|node| format!("{}://{}", port.protocol, SocketAddr::new(node.addr.ip(), port.number))));
    }
    urls
}

/// Whether ended instances are listed too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The plan's.
    Planned,
    /// Also those that nodes still remember.
    All,
}

/// The instances of `app`; none when there is no such application.
pub fn ps(sight: &Sight, app: &AppName, which: Which) -> Option<Vec<Instance>> {
    let planned = sight.state.plan.instances.iter().filter(|(id, _)| id.app == *app);
    let mut instances: Vec<Instance> = planned.map(|(id, assignment)| instance(sight, id, assignment)).collect();
    if which == Which::All {
        instances.extend(unplanned(sight, app));
        instances.sort_by(|a, b| (&a.service, &a.instance).cmp(&(&b.service, &b.instance)));
    }
    (!instances.is_empty() || sight.state.spec.apps.contains_key(app)).then_some(instances)
}

fn instance(sight: &Sight, id: &InstanceId, assignment: &InstanceAssignment) -> Instance {
    let facts = sight.instance(id);
    let state = match (sight.standing(assignment.node), facts) {
        (Standing::Suspect | Standing::Unfit | Standing::Down, _) => "unknown",
        (Standing::Alive, None) => "waiting",
        (Standing::Alive, Some(facts)) => match (assignment.phase, facts.state) {
            (Phase::Draining, InstanceState::Running | InstanceState::Starting) => "draining",
            (_, state) => state_word(state),
        },
    };
    Instance {
        instance: id.to_string(),
        service: id.service.to_string(),
        node: sight.name(assignment.node),
        addr: facts.and_then(|facts| addr(sight, assignment.node, facts)),
        state: state.into(),
        healthy: sight.is_healthy(id),
        restarts: facts.map_or(0, |facts| facts.restarts),
        revision: assignment.revision.0,
        because: assignment.reason.text.clone(),
        since_ms: sight.since_ms(assignment.since),
        message: facts.and_then(|facts| facts.message.clone()),
    }
}

/// Instances of `app` that nodes tell of and the plan does not list there: ended, or about to be.
fn unplanned<'a>(sight: &'a Sight, app: &'a AppName) -> impl Iterator<Item = Instance> + 'a {
    let told = sight
        .live
        .nodes
        .keys()
        .flat_map(|node| sight.instances_on(*node).into_iter().flatten().map(|told| (*node, told)));
    let planned_there = |node: NodeId, id: &InstanceId| {
        sight.state.plan.instances.get(id).is_some_and(|assigned| assigned.node == node)
    };
    told.filter(move |(node, (id, _))| id.app == *app && !planned_there(*node, id)).map(|(node, (id, facts))| {
        Instance {
            instance: id.to_string(),
            service: id.service.to_string(),
            node: sight.name(node),
            addr: addr(sight, node, facts),
            state: state_word(facts.state).into(),
            healthy: false,
            restarts: facts.restarts,
            revision: facts.revision.0,
            because: "no longer in the plan".into(),
            since_ms: None,
            message: facts.message.clone(),
        }
    })
}

fn addr(sight: &Sight, node: NodeId, facts: &InstanceFacts) -> Option<String> {
    let node = sight.state.spec.nodes.get(&node).filter(|_| facts.port != 0)?;
    Some(SocketAddr::new(instance_host(node), facts.port).to_string())
}

fn state_word(state: InstanceState) -> &'static str {
    match state {
        InstanceState::Waiting => "waiting",
        InstanceState::Starting => "starting",
        InstanceState::Running => "running",
        InstanceState::Stopping => "stopping",
        InstanceState::Ended => "ended",
        InstanceState::Unknown => "unknown",
    }
}

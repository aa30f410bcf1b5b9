//! The spec: what the operator asked for. It changes only by commands, and the planner only reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::*;

mod action;
mod address;
mod answer;
mod assets;
mod balance;
mod bucket;
mod cache;
mod client;
mod port;
mod route;
mod seen;
mod zone;

pub use action::*;
pub use address::*;
pub use answer::*;
pub use assets::*;
pub use balance::*;
pub use bucket::*;
pub use cache::*;
pub use client::*;
pub use port::*;
pub use route::*;
pub use seen::*;
pub use zone::*;

/// Everything the operator wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Admitted nodes.
    pub nodes: BTreeMap<NodeId, NodeSpec>,
    /// Wishes about roles; a role that is missing here has [`RoleSpec::default`].
    pub roles: BTreeMap<RoleName, RoleSpec>,
    /// Applications.
    pub apps: BTreeMap<AppName, AppSpec>,
    /// Addresses that some node with the lb role shall hold.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub addresses: BTreeMap<IpAddr, AddressSpec>,
}

impl Spec {
    /// The node called `name`.
    pub fn node_named(&self, name: &str) -> Option<(NodeId, &NodeSpec)> {
        self.nodes.iter().find(|(_, node)| node.name.as_str() == name).map(|(id, node)| (*id, node))
    }

    /// What people call `node`; its number when it is not (or no longer) in the spec.
    pub fn name_of(&self, node: NodeId) -> String {
        self.nodes.get(&node).map_or_else(|| format!("#{node}"), |spec| spec.name.to_string())
    }
}

/// A node as admitted, and what the operator said about it since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSpec {
    /// Unique in the cluster.
    pub name: NodeName,
    /// Where the mesh reaches it (one port number, UDP and TCP).
    pub addr: SocketAddr,
    /// Failure domain.
    pub zone: ZoneName,
    /// Data centre.
    pub site: ZoneName,
    /// For constraints.
    pub labels: BTreeMap<String, String>,
    /// Pinned Ed25519 public key, 32 bytes.
    #[serde(with = "serde_key")]
    pub key: [u8; 32],
    /// Latest start that the cluster knows of.
    pub incarnation: Incarnation,
    /// Whether it takes work.
    pub availability: Availability,
    /// What it has to give.
    pub capacity: Capacity,
    /// Roles whose plugin its agent has. Only those are planned on it.
    pub built: BTreeSet<RoleName>,
    /// Version of its agent.
    pub version: String,
}

impl NodeSpec {
    /// Whether it has this label; `zone`, `site` and `node` are labels too.
    pub fn has_label(&self, label: &str, value: &str) -> bool {
        match label {
            "zone" => self.zone.as_str() == value,
            "site" => self.site.as_str() == value,
            "node" => self.name.as_str() == value,
            _ => self.labels.get(label).is_some_and(|found| found == value),
        }
    }
}

/// What is as it always was is not written, so that older agents can read it.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

mod serde_key {
    use serde::{Deserialize, Deserializer, Serializer};
    pub fn serialize<S: Serializer>(key: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(key)
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
        <[u8; 32]>::deserialize(from)
    }
}

/// Whether a node takes work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Availability {
    /// Takes anything.
    #[default]
    Open,
    /// Keeps what it has, takes nothing new.
    Cordoned,
    /// Gives away what it has, takes nothing new, stays a member.
    Draining,
    /// As [`Availability::Draining`], and is removed when it holds nothing any more.
    Leaving,
}

/// What a node has to give, or a service wants, in whole units so that sums are exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capacity {
    /// Thousandths of a processor.
    pub cpu_millis: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
}

/// Wishes about one role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleSpec {
    /// How many slots; none means the default of the role.
    pub count: Option<u16>,
    /// Nodes that shall hold it first.
    pub pins: BTreeSet<NodeId>,
    /// Slots that shall change hands once, by the node that has one. The next plan adopted carries them out or says why not, and then
    /// they are forgotten: nothing stays pinned.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub moves: BTreeMap<NodeId, NodeId>,
    /// lb: how requests of routes are written down that do not say themselves, and of those that no route takes. None for not at all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub log: Option<AccessLog>,
}

/// An application as last applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppSpec {
    /// Counts the applies.
    pub revision: Revision,
    /// Its programs.
    pub services: BTreeMap<ServiceName, ServiceSpec>,
    /// Its endpoints, in the order written.
    pub routes: Vec<RouteSpec>,
    /// Wanted down: kept, but nothing of it runs.
    pub stopped: bool,
    /// Ports that load balancers open for it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<PortId, PortSpec>,
    /// Zones that it hands over to the cluster, in lower case and without a final dot. They are answered also while it is stopped.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub zones: BTreeMap<String, Arc<ZoneSpec>>,
    /// Buckets of the object store that it wants, by what it calls them. They are there also while it is stopped.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub buckets: BTreeMap<BucketLabel, BucketSpec>,
}

impl AppSpec {
    /// Whether load balancers know `service`: some route or port leads to it.
    pub fn is_balanced(&self, service: &ServiceName) -> bool {
        let mut routed = self.routes.iter().flat_map(|route| route.to.services());
        let mut passed = self.ports.values().flat_map(|port| port.to.services());
        routed.any(|to| to == service) || passed.any(|to| to == service)
    }
}

/// One program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// The revision of the application at which the way to run this service last changed. Instances of an older one are replaced.
    pub revision: Revision,
    /// Program and arguments; `${NAME}` stands for a variable of the instance's environment.
    pub command: Vec<String>,
    /// Folder on every host to run in; the instance's own folder when none is given.
    pub workdir: Option<String>,
    /// Extra environment.
    pub env: BTreeMap<String, String>,
    /// System user to run as, where the agent may choose.
    pub user: Option<String>,
    /// How many.
    pub replicas: Replicas,
    /// What one instance needs.
    pub resources: Capacity,
    /// How to see that an instance works; without it an instance is healthy while it runs.
    pub health: Option<HealthSpec>,
    /// How instances are replaced.
    pub update: UpdateSpec,
    /// How instances are stopped.
    pub stop: StopSpec,
    /// Labels a node must have; `zone`, `site` and `node` are labels too.
    pub constraints: BTreeMap<String, String>,
    /// What copies keep apart from each other.
    pub spread: Spread,
    /// Never two at once: an instance acts only while its node holds a grant for it (see [`crate::grant`]).
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    pub exclusive: bool,
    /// The secrets that its environment names, each in the version that its instances run with. Given when it is applied, and again
    /// with every new value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<SecretName, u64>,
    /// What it speaks with those who are led to it.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    pub protocol: AppProtocol,
}

/// What a program speaks with a load balancer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 in clear from the first byte on ("with prior knowledge": RFC 9113, section 3.3), which gRPC asks for.
    H2c,
}

/// Lower and upper count of instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replicas {
    /// At least, and the count wanted as long as nothing scales.
    pub min: u32,
    /// At most.
    pub max: u32,
}

/// What copies keep apart from each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// Over zones first, then over nodes.
    #[default]
    Zone,
    /// Over nodes, whatever their zone.
    Node,
}

/// How to see that an instance works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthSpec {
    /// What is tried.
    pub check: Check,
    /// Time between two checks once it is healthy.
    pub interval_ms: u64,
    /// Time one check may take.
    pub timeout_ms: u64,
    /// This many failures in a row make an instance unhealthy.
    pub failures: u32,
}

/// What a check tries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Check {
    /// `GET path` answers 200–399, in what the service speaks.
    Http {
        /// Path and query.
        path: String,
    },
    /// The port accepts a connection.
    Tcp,
    /// The program says by `grpc.health.v1.Health/Check` that it serves.
    Grpc {
        /// What is asked about; empty for the program as a whole.
        service: String,
    },
}

/// How services were described before, by revision.
pub type Former = BTreeMap<AppName, BTreeMap<ServiceName, BTreeMap<Revision, ServiceSpec>>>;

/// How instances are replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateSpec {
    /// What comes first.
    pub order: UpdateOrder,
    /// How many are replaced at a time.
    pub parallel: u32,
    /// Go back when new instances do not become healthy: to an older revision that still runs, and where none does (they are stopped
    /// first, or their nodes fell) to the last one that all wanted instances were healthy with. A first deployment has none.
    pub auto_revert: bool,
}

impl Default for UpdateSpec {
    fn default() -> Self {
        Self { order: UpdateOrder::StartFirst, parallel: 1, auto_revert: false }
    }
}

/// What comes first in an update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    /// The new instance is healthy before the old one is drained.
    #[default]
    StartFirst,
    /// The old instance is gone before the new one starts.
    StopFirst,
}

/// How instances are stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopSpec {
    /// Signal number sent first.
    pub signal: i32,
    /// Time from the signal to the kill.
    pub grace_ms: u64,
    /// Longest time that requests under way are waited for before the signal.
    pub drain_ms: u64,
}

impl Default for StopSpec {
    fn default() -> Self {
        Self { signal: 15, grace_ms: 10_000, drain_ms: 30_000 }
    }
}

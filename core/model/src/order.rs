//! An order: what one node shall make true for one role. Cut out of spec and plan by the reconciler; a plugin carries it out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::duty::Duty;
use crate::id::*;
use crate::plan::{AddressCandidate, Phase};
use crate::purge::Purges;
use crate::spec::{AccessLog, AppProtocol, BucketSpec, PortId, PortSpec, RouteSpec, ServiceSpec, ZoneSpec};
use crate::storage::StorageTable;

/// What this node shall make true for one role. An order without slots and work means: stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// For which role.
    pub role: RoleName,
    /// The plan it was cut from.
    pub generation: Generation,
    /// The slots this node holds, and what to do in each.
    pub slots: BTreeMap<Slot, Duty>,
    /// What there is to do.
    pub work: Work,
}

impl Order {
    /// Whether everything of this role is to stop here.
    pub fn is_stop(&self) -> bool {
        self.slots.is_empty() && self.work == Work::None
    }
}

/// What there is to do, by role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Work {
    /// Nothing beyond holding the slots.
    #[default]
    None,
    /// compute: run exactly these instances.
    Compute(BTreeMap<InstanceId, InstanceOrder>),
    /// lb: answer these routes.
    Lb(Arc<LbOrder>),
    /// dns: answer for these names.
    Dns(Arc<DnsOrder>),
    /// address: hold these addresses, as far as nobody better does.
    Address(Arc<AddressOrder>),
    /// storage: keep what this table says, where a slot is held, and serve all objects.
    Storage(Arc<StorageOrder>),
}

/// Where objects are. Every node gets it, for any node answers for all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StorageOrder {
    /// Partitions, and who votes in the metadata group.
    pub table: StorageTable,
    /// Who keeps data: holders of a slot.
    pub nodes: BTreeSet<NodeId>,
    /// The latest start of each node's agent that the cluster knows of: what earlier ones had begun is over.
    pub incarnations: BTreeMap<NodeId, Incarnation>,
    /// Buckets that applications want, by what they are called in the store.
    pub buckets: BTreeMap<String, WantedBucket>,
}

/// A bucket that an application wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedBucket {
    /// Whose it is: a bucket of somebody else is not taken.
    pub account: AccountName,
    /// As the application wants it.
    pub spec: BucketSpec,
}

/// An instance to run here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceOrder {
    /// How: the description of its own revision, which the control state keeps while an instance runs by it. When that one is not
    /// known any more it is the newest; an instance that runs is never restarted because of it, for `revision` tells what it is.
    pub service: Arc<ServiceSpec>,
    /// Which revision of it.
    pub revision: Revision,
    /// Whether it still takes requests. A draining instance is not started again when it ends.
    pub phase: Phase,
}

/// All ways in, and what stands behind them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LbOrder {
    /// Routes of all applications that are not stopped.
    pub routes: Vec<(AppName, RouteSpec)>,
    /// Ports of the same applications, each of which belongs to one.
    pub ports: BTreeMap<PortId, (AppName, PortSpec)>,
    /// Where the instances of each service are that a route or a port leads to. Whether one is healthy, and its port, tells the report of its node.
    pub backends: BTreeMap<(AppName, ServiceName), BTreeMap<InstanceId, Backend>>,
    /// How many load balancers there are in each zone.
    pub balancers: BTreeMap<ZoneName, u32>,
    /// How requests are written down where a route does not say.
    pub log: Option<AccessLog>,
    /// What people call the nodes, for what is written down.
    pub names: BTreeMap<NodeId, NodeName>,
    /// Floating addresses that this node may hold: it listens there besides, whether it does or not.
    pub addresses: BTreeSet<IpAddr>,
    /// Answers that shall be forgotten.
    pub purges: Purges,
}

/// All floating addresses. Every node gets them, for one that held an address must know who does now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressOrder {
    /// All that the cluster shall hold, whether anybody may or not.
    pub wanted: BTreeSet<IpAddr>,
    /// Who may hold each, and how.
    pub addresses: BTreeMap<IpAddr, FloatingAddress>,
    /// By what the beats of the nodes are believed.
    pub members: BTreeMap<NodeId, BeatMember>,
}

/// A floating address as whoever may hold it knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FloatingAddress {
    /// Bits of its network.
    pub prefix: u8,
    /// The best one first.
    pub candidates: Vec<AddressCandidate>,
    /// The plan that made this list.
    pub since: Generation,
}

/// By what the beats of a node are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BeatMember {
    /// What people call it.
    pub name: NodeName,
    /// Its pinned public key.
    pub key: [u8; 32],
    /// The latest start of its agent that the cluster knows of: what earlier ones said counts no more.
    pub incarnation: Incarnation,
}

/// An instance as the load balancer knows it from the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The node it runs on.
    pub node: NodeId,
    /// Where the mesh reaches that node.
    pub addr: SocketAddr,
    /// Zone of that node.
    pub zone: ZoneName,
    /// Whether it takes new requests.
    pub phase: Phase,
    /// How long requests under way are waited for once it takes no new ones.
    pub drain_ms: u64,
    /// What it speaks, by the description of its own revision.
    pub protocol: AppProtocol,
}

/// All names of the cluster, and what stands behind them. Every node gets it, for every agent answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsOrder {
    /// All nodes.
    pub nodes: BTreeMap<NodeId, NamedNode>,
    /// The nodes that hold a slot of lb.
    pub lbs: BTreeSet<NodeId>,
    /// All applications, also those that are stopped: their names exist, and nothing stands behind them.
    pub apps: BTreeMap<AppName, NamedApp>,
    /// Hosts of all routes, in lower case, of applications that are not stopped. Without `*`, which names no host.
    pub hosts: BTreeSet<String>,
    /// Zones that applications hand over, each of one of them.
    pub zones: BTreeMap<String, Arc<ZoneSpec>>,
    /// Those of them that are signed.
    pub signed: BTreeMap<String, Arc<SignedZone>>,
    /// Rises with everything that may alter a zone: what its record says of how new it is.
    pub serial: u64,
}

/// With what a zone is signed, as everybody may know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignedZone {
    /// The keys that are listed, by version: what is told of each.
    pub keys: BTreeMap<u64, Vec<u8>>,
    /// The one that signs.
    pub signs: u64,
    /// The one that the zone above shall name; none when it shall name none any more.
    pub offered: Option<u64>,
}

/// A node as names know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedNode {
    /// What people call it.
    pub name: NodeName,
    /// Where the mesh reaches it.
    pub addr: SocketAddr,
    /// Failure domain.
    pub zone: ZoneName,
    /// Data centre.
    pub site: ZoneName,
}

/// An application as names know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedApp {
    /// Whether some route or port leads to it, and it is not stopped.
    pub is_routed: bool,
    /// The instances that take new requests by the plan, of each service: number and node, in rising order. Whether one is healthy,
    /// and its port, tells the report of its node.
    pub services: BTreeMap<ServiceName, Vec<(u64, NodeId)>>,
}

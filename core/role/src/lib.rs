//! The plugin boundary: what a role is given, what it is asked, what it tells.
//!
//! A role is one level-triggered verb, [`Role::converge`], called again and again until its order holds and afterwards to watch over
//! it. It is given what it may touch ([`Context`]) and nothing global. No plugin knows another plugin: they meet in the plan.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures::future::BoxFuture;
use hirsel_mesh::raft::Calls;
use hirsel_mesh::seam::{BoxStream, Chance, Clock, World};
use hirsel_model::grant::Holdings;
use hirsel_model::order::Order;
use hirsel_model::report::{RoleFacts, RoleReport};
use hirsel_model::resilience::CanLose;
use hirsel_model::spec::{Block, PortId, Protocol};
use hirsel_model::view::Liveness;
use hirsel_model::{ClusterId, Generation, Incarnation, InstanceId, NodeId, NodeName, RoleName, ZoneName};
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, watch};

pub mod access;
pub mod assets;
pub mod certificate;
pub mod dnssec;
pub mod handover;
pub mod host;
pub mod outbound;
pub mod peers;
pub mod requests;
pub mod secret;
pub mod storage;
pub mod voice;
pub mod window;

pub use handover::Handover;
pub use host::Host;
pub use voice::Voice;

/// The zone that holds the names of the cluster itself.
pub const INTERNAL_ZONE: &str = "hirsel";

/// Below which name of the cluster buckets are hosts.
pub const S3_NAME: &str = "s3.hirsel";

/// Below which name of the cluster buckets are web sites: below [`S3_NAME`], so that no application loses its name.
pub const WEB_NAME: &str = "web.s3.hirsel";

/// Where load balancers are asked whether they answer: a host name that no route has.
pub const LB_NAME: &str = "lb.hirsel";

/// A kind of work a node can do.
pub trait Plugin: Send + Sync {
    /// Its name.
    fn role(&self) -> RoleName;
    /// Whether it runs in every agent without a slot. Then the planner does not know it, and nobody is told that this agent has it.
    fn is_gateway(&self) -> bool {
        false
    }
    /// A new, idle role. Called at start, and again after a panic: what runs on the host from before must be found and adopted.
    fn start(&self, context: Context) -> Box<dyn Role>;
}

/// A role on this node.
pub trait Role: Send {
    /// Moves this host one step towards `order` and says what is true now. Idempotent and cancel-safe: it returns within a second or
    /// is dropped. Long work is started here and reported as `Starting`; a failure is observed, not returned.
    fn converge<'a>(&'a mut self, order: &'a Order) -> BoxFuture<'a, RoleReport>;
}

/// What a role may touch.
#[derive(Clone)]
pub struct Context {
    /// This node.
    pub me: Me,
    /// Processes, listeners and connections, addresses, files.
    pub host: Arc<dyn Host>,
    /// What is heard of all nodes now.
    pub live: watch::Receiver<Arc<Live>>,
    /// Until when exclusive instances of this node may act.
    pub grants: watch::Receiver<Arc<Holdings>>,
    /// Values of secrets that instances of this node need.
    pub secrets: watch::Receiver<Arc<secret::Values>>,
    /// Certificates that the load balancer of this node shows.
    pub certificates: watch::Receiver<Arc<certificate::Bundles>>,
    /// What the load balancer of this node answers for hosts that get a certificate.
    pub challenges: watch::Receiver<Arc<certificate::Challenges>>,
    /// With what the load balancer of this node lets clients resume sessions.
    pub tickets: watch::Receiver<Arc<certificate::TicketKeys>>,
    /// Who may ask the object store of this node for something, and with what it encrypts what is stored.
    pub access_keys: watch::Receiver<Arc<access::AccessKeys>>,
    /// Keys with which the names of this node are signed.
    pub zone_keys: watch::Receiver<Arc<dnssec::ZoneKeyring>>,
    /// Floating addresses on this host.
    pub floating: Arc<Handover>,
    /// Whether this agent is about to end: whoever can hand something over does so now.
    pub ending: watch::Receiver<bool>,
    /// By what others believe that this node speaks, where nobody is connected.
    pub voice: Arc<Voice>,
    /// Ways to instances on other nodes.
    pub doors: Arc<dyn Doors>,
    /// The same role on other nodes.
    pub peers: Arc<dyn peers::Peers>,
    /// What the role has Raft groups of its own with; none where there are none, as in tests of roles that need none.
    pub groups: Option<Groups>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub chance: Arc<dyn Chance>,
    /// Where background work of this role runs: on a runtime of its own in the agent.
    pub spawner: Spawner,
    /// Asks for another `converge` now, because something changed.
    pub wake: Arc<Notify>,
    /// Where the role's metrics are registered: empty at each start, and exposed beside those of the agent and the other roles. Names
    /// begin with `hirsel_ROLE_`.
    pub metrics: Arc<std::sync::Mutex<Registry>>,
    /// Where the load balancer tells the agent of requests.
    pub requests: requests::Window,
    /// Where the storage role lets the agent at objects.
    pub objects: storage::Window,
    /// The role's part of the agent's configuration.
    pub config: RoleConfig,
}

/// What Raft groups of a role stand on: logs in the agent's data folder, and calls of the mesh. Files and calls begin with the name of the role.
#[derive(Clone)]
pub struct Groups {
    /// Where logs and states are.
    pub world: World,
    /// How members reach each other.
    pub calls: Arc<dyn Calls>,
    /// This start of the agent.
    pub incarnation: Incarnation,
}

/// This node, as a role needs to know it.
#[derive(Clone, Debug)]
pub struct Me {
    /// Its number.
    pub id: NodeId,
    /// What people call it.
    pub name: NodeName,
    /// Its zone.
    pub zone: ZoneName,
    /// The address instances listen on: loopback unless told otherwise.
    pub instance_host: IpAddr,
    /// The address public services (lb) listen on.
    pub bind: IpAddr,
}

/// Memory for answers that are kept, unless the configuration says otherwise: some thousand pages, and little on any host.
pub const CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// What clients of S3 are told that a region is, unless the configuration says otherwise.
pub const S3_REGION: &str = "hirsel";

/// Bytes per second that repair may read and write, unless the configuration says otherwise: half of what a link of a gigabit carries in each
/// direction. A terabyte in copies takes four hours.
pub const REPAIR_RATE: u64 = 128 << 20;

/// The agent's configuration as far as roles are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleConfig {
    /// Port of the mesh, UDP and TCP.
    pub mesh_port: u16,
    /// lb: port of plain HTTP.
    pub http_port: u16,
    /// lb: port of HTTPS.
    pub https_port: u16,
    /// lb: whether HTTP/3 is offered beside HTTPS, on the same port over UDP.
    pub http3: bool,
    /// lb: whoever connects from here to either port says by the PROXY protocol whom it connects for.
    pub accept_proxy: Vec<Block>,
    /// lb: bytes of memory for answers that are kept, of routes that say so; zero for none. Nothing is taken before there are any.
    pub cache_bytes: u64,
    /// lb: bytes of disk for such answers that memory has no room for; zero for none.
    pub cache_disk_bytes: u64,
    /// compute: first port given to instances.
    pub port_first: u16,
    /// compute: last port given to instances.
    pub port_last: u16,
    /// compute: user to run instances as when the service names none and the agent is root; none keeps the agent's own.
    pub run_as: Option<String>,
    /// dns: where names are answered, over UDP and TCP; none where they are not.
    pub dns: Option<SocketAddr>,
    /// dns: zones besides the internal one that were handed to the cluster, in lower case, without a final dot.
    pub dns_zones: Vec<String>,
    /// dns: resolvers that questions about names of others are passed on to, for this host itself; none where such are refused.
    pub dns_forward: Vec<SocketAddr>,
    /// dns: who else may have questions passed on.
    pub dns_forward_for: Vec<Block>,
    /// storage: where objects are served by the protocol of S3; none where they are not.
    pub s3: Option<SocketAddr>,
    /// storage: what clients of S3 are told that this region is.
    pub s3_region: String,
    /// storage: domains below which buckets are hosts, in lower case, besides [`S3_NAME`].
    pub s3_domains: Vec<String>,
    /// storage: how many bytes of its disk data may take; none where no less than there are.
    pub storage_bytes: Option<u64>,
    /// storage: how many bytes per second are read and written for pieces that are made anew or moved, by whoever does that; none where there is no
    /// limit.
    pub repair_rate: Option<u64>,
    /// storage: domains below which buckets are web sites, in lower case, besides [`WEB_NAME`]; the bucket of that very name is one at the
    /// domain itself.
    pub web_domains: Vec<String>,
    /// storage: where data is kept; an absolute path, or none for a folder in the agent's own.
    pub storage_disk: Option<String>,
    /// address: a program that is run when this node takes a floating address; its absolute path.
    pub address_hook: Option<String>,
}

impl Default for RoleConfig {
    fn default() -> Self {
        Self {
            mesh_port: 7400,
            http_port: 80,
            https_port: 443,
            http3: true,
            accept_proxy: Vec::new(),
            cache_bytes: CACHE_BYTES,
            cache_disk_bytes: 0,
            port_first: 20_000,
            port_last: 29_999,
            run_as: None,
            dns: None,
            dns_zones: Vec::new(),
            dns_forward: Vec::new(),
            dns_forward_for: Vec::new(),
            s3: None,
            s3_region: S3_REGION.into(),
            s3_domains: Vec::new(),
            storage_bytes: None,
            repair_rate: Some(REPAIR_RATE),
            web_domains: Vec::new(),
            storage_disk: None,
            address_hook: None,
        }
    }
}

impl RoleConfig {
    /// What hirsel itself uses a port for, in words; none if it leaves it to others.
    pub fn user_of(&self, port: PortId) -> Option<&'static str> {
        let (number, dns) = (port.number, self.dns.map(|addr| addr.port()));
        let s3 = self.s3.map(|addr| addr.port());
        match port.protocol {
            Protocol::Tcp if number == self.http_port => Some("for plain HTTP"),
            Protocol::Tcp if number == self.https_port => Some("for HTTPS"),
            Protocol::Tcp if number == self.mesh_port => Some("for the nodes among themselves"),
            Protocol::Tcp if Some(number) == dns => Some("to answer for names"),
            Protocol::Tcp if Some(number) == s3 => Some("to serve objects (S3)"),
            Protocol::Udp if number == self.mesh_port => Some("for the nodes among themselves"),
            Protocol::Udp if Some(number) == dns => Some("to answer for names"),
            Protocol::Udp if self.http3 && number == self.https_port => {
                Some("for HTTP/3 (`http3 = false` under [lb] in the agent's file leaves it to others)")
            }
            Protocol::Tcp | Protocol::Udp => None,
        }
    }
}

/// What is heard of all nodes: soft, local, and at most a second old while a node lives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Live {
    /// Every node of the spec.
    pub nodes: BTreeMap<NodeId, LiveNode>,
    /// Who leads, as far as this node knows.
    pub leader: Option<NodeId>,
    /// The cluster this node belongs to.
    pub cluster: ClusterId,
    /// What can be lost, where this node holds a role that asks for it.
    pub can_lose: Option<CanLose>,
    /// Where to tell people that less can be lost than before.
    pub webhook: Option<String>,
}

/// What is heard of one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LiveNode {
    /// Whether to send it traffic: gossip and control pings both hear it.
    pub liveness: Liveness,
    /// The plan it follows.
    pub generation: Generation,
    /// Facts of its roles.
    pub facts: BTreeMap<RoleName, RoleFacts>,
    /// How far each of its roles is.
    pub roles: BTreeMap<RoleName, RoleReport>,
    /// Its addresses, once it has said so.
    pub addresses: Option<Addresses>,
    /// The certificate it shows, once it has said so.
    pub certificate: Option<Certificate>,
    /// By what the certificates that its load balancer has are told from others; empty for none.
    pub shown: String,
    /// Use of its scarcest resource in tenths.
    pub load: u8,
    /// The feature level its build reports; zero for none.
    pub level: u32,
    /// The start of the agent that says all this; zero from a build that does not tell.
    pub incarnation: Incarnation,
}

/// What a node says of its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Where the public reaches what it serves (lb); never empty.
    pub public: Vec<IpAddr>,
    /// Where other hosts reach its instances; none when those listen on its loopback.
    pub instances: Option<IpAddr>,
}

/// What a node says of its certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// When it ends, in seconds since 1970.
    pub ends_s: u64,
    /// By what its authority is recognized; another word when it is a former one.
    pub of: String,
}

/// Ways to instances on other nodes, through the one port of the mesh.
pub trait Doors: Send + Sync {
    /// A connection to `instance` on the node whose mesh address is `node_addr`. The agent there forwards it.
    fn open<'a>(
        &'a self,
        node: NodeId,
        node_addr: SocketAddr,
        instance: &'a InstanceId,
    ) -> BoxFuture<'a, io::Result<BoxStream>>;
    /// The same for datagrams, each behind its length ([`hirsel_mesh::transport::datagrams`]). Not to an instance of this node.
    fn open_for_datagrams<'a>(
        &'a self,
        _node: NodeId,
        _node_addr: SocketAddr,
        _instance: &'a InstanceId,
    ) -> BoxFuture<'a, io::Result<BoxStream>> {
        Box::pin(std::future::ready(Err(io::ErrorKind::Unsupported.into())))
    }
    /// Where instances of this node listen: what its door forwards to. Replaces the table whole.
    fn publish(&self, table: BTreeMap<InstanceId, SocketAddr>);
}

/// Starts background work. Tasks end when the handle they return is dropped with the role's runtime.
#[derive(Clone, Debug)]
pub struct Spawner {
    handle: tokio::runtime::Handle,
}

impl Spawner {
    /// Spawns on `handle`.
    pub fn new(handle: tokio::runtime::Handle) -> Self {
        Self { handle }
    }

    /// Spawns a task.
    pub fn spawn<F>(&self, work: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.handle.spawn(work)
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("me", &self.me).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_hirsel_has_itself_is_named() {
        let at = |text: &str| Some(text.parse().unwrap());
        let config = RoleConfig { dns: at("127.0.0.1:53"), s3: at("127.0.0.1:7480"), ..RoleConfig::default() };
        let user = |config: &RoleConfig, number, protocol| config.user_of(PortId { number, protocol });
        assert_eq!(user(&config, 443, Protocol::Tcp), Some("for HTTPS"));
        assert!(user(&config, 443, Protocol::Udp).is_some_and(|user| user.starts_with("for HTTP/3")));
        assert_eq!(user(&config, 80, Protocol::Udp), None);
        assert_eq!(user(&config, 53, Protocol::Udp), Some("to answer for names"));
        assert_eq!(user(&config, 7480, Protocol::Tcp), Some("to serve objects (S3)"));
        assert_eq!(user(&config, 7480, Protocol::Udp), None);
        let without = RoleConfig { http3: false, ..config };
        assert_eq!(user(&without, 443, Protocol::Udp), None);
    }
}

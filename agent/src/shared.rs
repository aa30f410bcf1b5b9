//! What every interface of a running agent may look at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hirsel_mesh::control::Control;
use hirsel_mesh::gossip::Heard;
use hirsel_mesh::seam::World;
use hirsel_mesh::transport::Transport;
use hirsel_model::grant::Holdings;
use hirsel_model::report::NodeReport;
use hirsel_model::{ClusterId, Incarnation, NodeId, RoleName, Timestamp};
use hirsel_role::access::AccessKeys;
use hirsel_role::certificate::{Bundles, Challenges, TicketKeys};
use hirsel_role::dnssec::ZoneKeyring;
use hirsel_role::host::Host;
use hirsel_role::requests::Window;
use hirsel_role::secret::Values;
use hirsel_role::{Handover, Live, Me, Voice};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::metrics::Registries;

/// A running agent, seen from its interfaces.
pub struct Shared {
    /// This node's number.
    pub node: NodeId,
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// This node, as its roles know it.
    pub me: Me,
    /// Which start of the agent this is.
    pub incarnation: Incarnation,
    /// Network, disk, clock, chance.
    pub world: World,
    /// The control state, and the way to change it.
    pub control: Arc<Control>,
    /// Calls to other nodes.
    pub transport: Arc<Transport>,
    /// What is heard of all nodes, as roles see it.
    pub live: watch::Receiver<Arc<Live>>,
    /// Until when exclusive instances of this node may act.
    pub grants: watch::Receiver<Arc<Holdings>>,
    /// Values of secrets that instances of this node need.
    pub secrets: watch::Receiver<Arc<Values>>,
    /// Certificates that the load balancer of this node shows.
    pub certificates: watch::Receiver<Arc<Bundles>>,
    /// What the load balancer of this node answers for hosts that get a certificate.
    pub challenges: watch::Receiver<Arc<Challenges>>,
    /// With what the load balancer of this node lets clients resume sessions.
    pub tickets: watch::Receiver<Arc<TicketKeys>>,
    /// Who may ask the object store of this node for something, and with what it encrypts.
    pub access_keys: watch::Receiver<Arc<AccessKeys>>,
    /// Keys with which names are signed here.
    pub zone_keys: watch::Receiver<Arc<ZoneKeyring>>,
    /// Floating addresses on this host.
    pub floating: Arc<Handover>,
    /// Whether this agent is about to end.
    pub ending: watch::Sender<bool>,
    /// By what others believe that this node speaks.
    pub voice: Arc<Voice>,
    /// What gossip hears.
    pub heard: watch::Receiver<Arc<BTreeMap<NodeId, Heard>>>,
    /// Nodes this one does not hear.
    pub unheard: watch::Receiver<BTreeSet<NodeId>>,
    /// Since when each node that gets no traffic has been silent, on this node's clock.
    pub silent_since: watch::Receiver<BTreeMap<NodeId, Timestamp>>,
    /// This node's own report.
    pub report: watch::Receiver<Arc<NodeReport>>,
    /// Metrics of this agent and its roles.
    pub metrics: Registries,
    /// What the load balancer of this node tells of requests.
    pub requests: Window,
    /// Where the storage role lets the agent at objects.
    pub objects: hirsel_role::storage::Window,
    /// Hosts of the roles, by role: instances' output is read through compute's, what is written down of requests through lb's.
    pub hosts: BTreeMap<RoleName, Arc<dyn Host>>,
    /// Roles this build has.
    pub built: Vec<RoleName>,
    /// When the agent started.
    pub started: Timestamp,
    /// The agent's configuration.
    pub config: Config,
    /// Ends the agent when cancelled; instances go on.
    pub stop: CancellationToken,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("node", &self.node).finish_non_exhaustive()
    }
}

//! Nodes of a test cluster on loopback sockets, and what they do to each other.

use std::sync::atomic::{AtomicU64, Ordering};

use hirsel_model::{ClusterId, Incarnation, Timestamp, WallTime};

use super::*;
use crate::identity::tests::Counting;
use crate::identity::{Authority, NodeKey, draw_cluster_id};
use crate::seam::Clock;
use crate::seam::real::{FolderDisk, OsClock, OsNet};

mod authorities;
mod calls;
mod doors;
mod garbage;
mod lanes;
mod members;
mod newcomers;
mod ports;

/// A condition that is not met by then never will be.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// Long enough for any call that works.
pub(crate) const TTL: Duration = Duration::from_secs(10);

/// A clock whose wall the test sets.
#[derive(Debug)]
pub(crate) struct TestClock(pub(crate) AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        OsClock.now()
    }
    fn wall(&self) -> WallTime {
        WallTime(self.0.load(Ordering::Relaxed))
    }
}

/// A cluster on loopback: an authority, and the members that all its nodes know.
pub(crate) struct Herd {
    seed: u8,
    pub(crate) cluster: ClusterId,
    pub(crate) authority: Authority,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) chance: Arc<Counting>,
    pub(crate) peers: watch::Sender<Arc<Peers>>,
    folder: tempfile::TempDir,
}

/// A node of it.
pub(crate) struct Node {
    pub(crate) identity: Identity,
    pub(crate) world: World,
    pub(crate) transport: Arc<Transport>,
}

impl Herd {
    /// `seed` is the herd's own: no other test has it.
    pub(crate) fn new(seed: u8) -> Herd {
        let chance = Arc::new(Counting::from(u64::from(seed)));
        let clock = Arc::new(TestClock(AtomicU64::new(1_800_000_000_000)));
        let cluster = draw_cluster_id(&*chance);
        let authority = Authority::create(&cluster, &*chance, clock.wall());
        let peers = watch::Sender::new(Arc::default());
        Herd { seed, cluster, authority, clock, chance, peers, folder: tempfile::tempdir().unwrap() }
    }

    /// `count` nodes, all members, all knowing each other.
    pub(crate) async fn nodes(&self, count: u64) -> Vec<Node> {
        let mut nodes = Vec::new();
        for node in 1..=count {
            nodes.push(self.start(self.identity(node), 0).await);
        }
        nodes
    }

    pub(crate) fn identity(&self, node: u64) -> Identity {
        let key = NodeKey::generate(&*self.chance);
        let node = NodeId(node);
        let mut reset_seed = [0; 32];
        crate::seam::Chance::fill(&*self.chance, &mut reset_seed);
        Identity {
            cluster: self.cluster.clone(),
            node,
            name: format!("n{node}").parse().unwrap(),
            ca: self.authority.certificate().to_vec(),
            former: Vec::new(),
            cert: self.authority.issue(node, &self.cluster, &key.csr(), self.clock.wall()).unwrap(),
            key: key.pkcs8().to_vec(),
            reset_seed,
            incarnation: Incarnation(1),
        }
    }

    /// One address per node, as on real hosts, and in a network of the herd's own, so that no other test takes a port that one of its
    /// nodes has just left, or that a test chose for it.
    pub(crate) fn addr(&self, node: NodeId, port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, self.seed, u8::try_from(node.0).expect("few nodes")], port))
    }

    pub(crate) fn world(&self, node: NodeId) -> World {
        let nth = self.chance.0.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder.path().join(format!("{node}-{nth}"));
        World {
            net: Arc::new(OsNet),
            disk: Arc::new(FolderDisk::open(&folder).unwrap()),
            clock: self.clock.clone(),
            chance: self.chance.clone(),
        }
    }

    /// Starts a node on `port` and makes it a member.
    pub(crate) async fn start(&self, identity: Identity, port: u16) -> Node {
        let node = self.start_with(identity, port, self.peers.subscribe()).await;
        self.pin(&node);
        node
    }

    pub(crate) async fn start_with(&self, identity: Identity, port: u16, peers: watch::Receiver<Arc<Peers>>) -> Node {
        let world = self.world(identity.node);
        let addr = self.addr(identity.node, port);
        let config = TransportConfig {
            world: world.clone(),
            identity: identity.clone(),
            bind: addr,
            advertise: addr,
            peers,
            streams: tokio::runtime::Handle::current(),
        };
        let transport = Transport::start(config).await.unwrap();
        Node { identity, world, transport }
    }

    pub(crate) fn pin(&self, node: &Node) {
        self.put(node.identity.node, node.transport.advertise(), node.identity.public_key());
    }

    /// Makes whatever is at `addr` the member `node`.
    pub(crate) fn put(&self, node: NodeId, addr: SocketAddr, key: [u8; 32]) {
        self.peers.send_modify(|peers| {
            Arc::make_mut(peers).nodes.insert(node, Peer { addr, key });
        });
    }

    pub(crate) fn unpin(&self, node: NodeId) {
        self.peers.send_modify(|peers| {
            Arc::make_mut(peers).nodes.remove(&node);
        });
    }
}

impl Node {
    /// Answers `echo` calls with the caller and the body.
    pub(crate) fn serve_echo(&self) {
        self.transport.serve("echo", |from, body| {
            Box::pin(async move { Ok([from.to_string().as_bytes(), b":", &body].concat()) })
        });
    }

    pub(crate) async fn echo(&self, to: NodeId, text: &str) -> Result<String, CallError> {
        let answer = self.transport.call(to, "echo", text.into(), TTL).await?;
        Ok(String::from_utf8(answer).unwrap())
    }
}

pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    timeout(LIMIT, work).await.expect("within the limit")
}

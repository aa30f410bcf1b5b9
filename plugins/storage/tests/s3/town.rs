//! S3 of one process: three nodes with a disk each (folders), one metadata group of one voter, and a listener on loopback.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hirsel_mesh::raft::{CallHandler as RaftHandler, Calls, StreamHandler as RaftStreams};
use hirsel_mesh::seam::real::{self, FolderVolume};
use hirsel_mesh::seam::{BoxStream, Net};
use hirsel_mesh::transport::CallError;
use hirsel_model::access::May;
use hirsel_model::order::StorageOrder;
use hirsel_model::storage::{PARTITIONS, Partition, StorageTable, WIDTHS, partition};
use hirsel_model::view::Liveness;
use hirsel_model::{ClusterId, Incarnation, NodeId};
use hirsel_role::Host;
use hirsel_role::access::{AccessKey, AccessKeys, MasterKey};
use hirsel_role::host::real::{Groups, GuardConfig, RealHost, RealHostConfig};
use hirsel_role::outbound::Outbound;
use hirsel_role::peers::{CallHandler, Peers, StreamHandler};
use hirsel_role::secret::Plain;
use hirsel_role::{Live, LiveNode, Spawner};
use hirsel_storage::disk::{Disk, DiskId, Identity, Settings};
use hirsel_storage::gateway::{Gateway, Parts};
use hirsel_storage::meta::access::Metadata;
use hirsel_storage::meta::group::MetaGroup;
use hirsel_storage::replicate;
use hirsel_storage::rules::date::Day;
use hirsel_storage::s3::keys::Keys;
use hirsel_storage::s3::{Front, Names, Server};
use hirsel_storage::store::Store;
use hirsel_storage::tidy;
use hirsel_storage::wire::{Remote, Service};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Each node's share of the disk.
const DISK_BYTES: u64 = 6 << 30;
const NODES: u64 = 3;
/// Between two passes over what buckets say is to be deleted by itself: as long as a client may want to look at it before.
const TIDY_EVERY: Duration = Duration::from_secs(3);
/// Where buckets are: another place than where those are that clients are told of no place.
const REGION: &str = "hill-1";
/// Under this name each bucket is a host.
pub const HOST: &str = "s3.example.com";
/// Under this name each bucket is a web site.
pub const SITE: &str = "web.example.com";

#[derive(Default)]
struct Wires {
    calls: BTreeMap<(NodeId, &'static str), CallHandler>,
    streams: BTreeMap<(NodeId, &'static str), StreamHandler>,
}

/// A node's end of the wires.
#[derive(Clone)]
struct End {
    me: NodeId,
    wires: Arc<Mutex<Wires>>,
}

impl End {
    fn wires(&self) -> MutexGuard<'_, Wires> {
        self.wires.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peers for End {
    fn call(
        &self,
        to: NodeId,
        kind: &'static str,
        body: Vec<u8>,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, CallError>> {
        async move {
            let handler = self.wires().calls.get(&(to, kind)).cloned().ok_or(CallError::NoHandler)?;
            let answered = timeout(ttl, handler(self.me, body)).await.map_err(|_| CallError::TimedOut)?;
            answered.map_err(CallError::Refused)
        }
        .boxed()
    }

    fn open(&self, to: NodeId, kind: &'static str, hello: Vec<u8>) -> BoxFuture<'_, Result<BoxStream, CallError>> {
        async move {
            let handler = self.wires().streams.get(&(to, kind)).cloned().ok_or(CallError::NoHandler)?;
            let (ours, theirs) = tokio::io::duplex(256 << 10);
            tokio::spawn(handler(self.me, hello, Box::new(theirs)));
            Ok(Box::new(ours) as BoxStream)
        }
        .boxed()
    }

    fn serve(&self, kind: &'static str, handler: CallHandler) {
        self.wires().calls.insert((self.me, kind), handler);
    }

    fn serve_streams(&self, kind: &'static str, handler: StreamHandler) {
        self.wires().streams.insert((self.me, kind), handler);
    }
}

/// A group of one speaks to nobody.
struct Alone;

impl Calls for Alone {
    fn me(&self) -> NodeId {
        NodeId(1)
    }

    fn call<'a>(
        &'a self,
        _: NodeId,
        _: &'static str,
        _: Vec<u8>,
        _: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, CallError>> {
        async { Err(CallError::Unreachable) }.boxed()
    }

    fn serve(&self, _: &'static str, _: RaftHandler) {}

    fn open_stream<'a>(
        &'a self,
        _: NodeId,
        _: &'static str,
        _: Vec<u8>,
    ) -> BoxFuture<'a, Result<BoxStream, CallError>> {
        async { Err(CallError::Unreachable) }.boxed()
    }

    fn serve_stream(&self, _: &'static str, _: RaftStreams) {}
}

/// An access key of the fixture: id, secret, owner.
pub type Said = (String, String, String);

/// A server at work.
pub struct Town {
    pub addr: SocketAddr,
    pub gateway: Gateway,
    front: Front,
    net: Arc<dyn Net>,
    host: Arc<dyn Host>,
    /// Authorities that it believes besides those of the host, once it replicates.
    pub believes: Vec<CertificateDer<'static>>,
    server: Option<Server>,
    /// What copies buckets elsewhere.
    replicates: Option<JoinHandle<()>>,
    _order: watch::Sender<Arc<StorageOrder>>,
    _live: watch::Sender<Arc<Live>>,
    _keys: watch::Sender<Arc<AccessKeys>>,
}

impl Town {
    /// Nobody is answered any more.
    pub fn go_away(&mut self) {
        self.server = None;
    }

    /// Clients are answered again, where they were.
    pub async fn come_back(&mut self) {
        let listener = self.net.listen(self.addr).await.expect("the address is free");
        let spawner = Spawner::new(tokio::runtime::Handle::current());
        self.server = Some(Server::start(listener, self.front.clone(), names(), spawner));
    }

    /// Buckets are copied elsewhere no more.
    pub fn stop_replicating(&mut self) {
        if let Some(task) = self.replicates.take() {
            task.abort();
        }
    }

    /// Buckets are copied elsewhere, by somebody who knows nothing but what the metadata say.
    pub fn replicate(&mut self) {
        self.stop_replicating();
        let outbound = Arc::new(Outbound::believing(self.host.clone(), self.believes.clone()));
        self.replicates = Some(tokio::spawn(replicate::keep(self.front.clone(), outbound)));
    }
}

impl Drop for Town {
    fn drop(&mut self) {
        self.stop_replicating();
    }
}

/// The key with which every town encrypts what is stored.
pub const MASTER: (u64, [u8; 32]) = (1, [7; 32]);

/// Under which names the town is a host.
fn names() -> Names {
    Names { hosts: vec![HOST.to_owned()], sites: vec![SITE.to_owned()] }
}

/// Three partitions' worth of everything, on all three nodes.
fn order() -> StorageOrder {
    let nodes: Vec<NodeId> = (1..=NODES).map(NodeId).collect();
    let here = Partition { nodes: nodes.clone(), next: Vec::new(), table: 1 };
    let partitions = (0..PARTITIONS).map(|number| (partition(WIDTHS[0], number), here.clone())).collect();
    let (voters, founder) = ([NodeId(1)].into(), Some(NodeId(1)));
    let table = StorageTable { version: 1, partitions, voters, founder, foundation: None };
    StorageOrder { table, nodes: nodes.into_iter().collect(), ..StorageOrder::default() }
}

/// Everything in `folder`, with these keys, listening at `addr`. The days that buckets count in are so long.
pub async fn start(folder: &Path, addr: SocketAddr, keys: Vec<Said>, day: Day) -> Town {
    let world = real::world(&folder.join("agent")).expect("a data folder");
    let spawner = Spawner::new(tokio::runtime::Handle::current());
    let wires = Arc::new(Mutex::new(Wires::default()));
    let cluster = ClusterId("c".into());
    for node in 1..=NODES {
        let root = folder.join(format!("disk{node}"));
        std::fs::create_dir_all(&root).expect("a folder");
        let volume = Arc::new(FolderVolume::open(&root).expect("a volume"));
        let identity = Identity { cluster: cluster.clone(), node: NodeId(node), disk: DiskId::ONLY };
        Disk::lay_out(&*volume, &identity).expect("it is empty");
        let settings = Settings::for_volume(DISK_BYTES);
        let disk = Disk::open(volume, identity, settings, spawner.clone()).await.expect("it opens");
        let service = Service::default();
        service.set_disks([(DiskId::ONLY, Arc::new(disk))].into());
        service.serve(&End { me: NodeId(node), wires: wires.clone() });
    }
    let peers = Arc::new(End { me: NodeId(1), wires });
    let group = Arc::new(MetaGroup::start(&world, NodeId(1), Arc::new(Alone)).await.expect("it starts"));
    let order = order();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !group.leads() {
        group.steer(&order.table).await.expect("it is founded");
        assert!(tokio::time::Instant::now() < deadline, "the group of one does not lead itself");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let meta = Metadata::new(group, peers.clone(), world.clock.clone(), world.chance.clone());
    let alive = |node| (NodeId(node), LiveNode { liveness: Liveness::Alive, ..LiveNode::default() });
    let live = Live {
        nodes: (1..=NODES).map(alive).collect(),
        leader: Some(NodeId(1)),
        cluster,
        can_lose: None,
        webhook: None,
    };
    let (order, live) = (watch::Sender::new(Arc::new(order)), watch::Sender::new(Arc::new(live)));
    let gateway = Gateway::new(Parts {
        me: NodeId(1),
        incarnation: Incarnation(1),
        meta,
        store: Store::new(Remote::new(peers)),
        order: order.subscribe(),
        wanted: watch::Sender::new(true),
        live: live.subscribe(),
        clock: world.clock.clone(),
        chance: world.chance.clone(),
        spawner: spawner.clone(),
    });
    let keys = (1..).zip(keys).map(|(version, (id, secret, owner))| {
        let account = owner.parse().expect("the name of an account");
        let key = AccessKey { version, account, may: May::default(), secret: Plain(secret) };
        (id.parse().expect("the id of an access key"), key)
    });
    let keys =
        AccessKeys { keys: keys.collect(), master: [(MASTER.0, MasterKey(MASTER.1))].into(), ..Default::default() };
    let keys = watch::Sender::new(Arc::new(keys));
    let tidied = gateway.clone();
    spawner.spawn(async move {
        loop {
            tokio::time::sleep(TIDY_EVERY).await;
            tidy::pass(&tidied, day).await.expect("the metadata is here");
        }
    });
    let front = Front::new(gateway.clone(), Keys::new(keys.subscribe()), REGION);
    let listener = world.net.listen(addr).await.expect("the address is free");
    let addr = listener.local_addr().expect("it listens");
    let server = Some(Server::start(listener, front.clone(), names(), spawner));
    let guard = GuardConfig { folder: folder.join("guard"), command: Vec::new() };
    let (groups, net) = (Groups::Never, world.net.clone());
    let host = RealHostConfig { folder: folder.join("host"), shim: Vec::new(), guard, groups, net: net.clone() };
    let host = Arc::new(RealHost::new(host).expect("a folder"));
    let (believes, replicates) = (Vec::new(), None);
    Town { addr, gateway, front, net, host, believes, server, replicates, _order: order, _live: live, _keys: keys }
}

//! Nodes with real disks (folders), a real mesh on loopback and one metadata group: all of storage but the agent around it.

#![allow(dead_code, reason = "each test uses what it needs")]

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use hirsel_mesh::identity::{Authority, Identity as NodeIdentity, NodeKey, draw_cluster_id};
use hirsel_mesh::seam::real::{self, FolderVolume};
use hirsel_mesh::seam::volume::Volume;
use hirsel_mesh::seam::{self, World};
use hirsel_mesh::transport::{Peer, Peers, Transport, TransportConfig};
use hirsel_model::order::StorageOrder;
use hirsel_model::storage::{PARTITIONS, Partition, StorageTable, WIDTHS, partition};
use hirsel_model::view::Liveness;
use hirsel_model::{ClusterId, Incarnation, NodeId};
use hirsel_role::peers::MeshPeers;
use hirsel_role::{Live, LiveNode, Spawner};
use hirsel_storage::disk::{Disk, DiskId, Identity, Settings};
use hirsel_storage::gateway::{Gateway, Parts};
use hirsel_storage::heal::spare::Spares;
use hirsel_storage::meta::access::Metadata;
use hirsel_storage::meta::group::MetaGroup;
use hirsel_storage::store::Store;
use hirsel_storage::wire::{Remote, Service, Target};
use tokio::sync::watch;

const SOON: Duration = Duration::from_secs(30);

/// The data folder of an agent, of which nothing comes back while it hangs.
#[derive(Debug)]
struct Hanging {
    disk: Arc<dyn seam::Disk>,
    hung: watch::Sender<bool>,
}

impl seam::Disk for Hanging {
    fn backend(&self, path: &str) -> io::Result<Box<dyn redb::StorageBackend>> {
        self.disk.backend(path)
    }

    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        self.disk.read(path)
    }

    fn write(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.disk.write(path, bytes)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn run<'a>(&'a self, work: Box<dyn FnOnce() -> io::Result<()> + Send + 'static>) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            // It is not gone while this is asked of it.
            let _ = self.hung.subscribe().wait_for(|hung| !hung).await;
            self.disk.run(work).await
        })
    }
}

/// One node.
pub struct Node {
    pub transport: Arc<Transport>,
    pub store: Store,
    pub target: Target,
    pub gateway: Gateway,
    pub group: Arc<MetaGroup>,
    pub disk: Arc<Disk>,
    /// Where its disk is; where none of it lies in a folder, that is empty.
    pub folder: PathBuf,
    /// What all nodes hear of the plan.
    pub order: watch::Sender<Arc<StorageOrder>>,
    pub peers: Arc<MeshPeers>,
    /// Whether its data folder hangs, under the metadata.
    pub hung: watch::Sender<bool>,
    /// What it gives up, and says that it keeps.
    pub spares: Spares,
    service: Service,
    spawner: Spawner,
}

impl Node {
    /// Takes up another disk in the place of the one it had.
    pub async fn replace_disk(&mut self, volume: Arc<dyn Volume>, cluster: &ClusterId, disk: DiskId) {
        let number = self.target.node;
        self.disk = open(volume, &Identity { cluster: cluster.clone(), node: number, disk }, &self.spawner).await;
        self.target.disk = disk;
        self.service.set_disks([(disk, self.disk.clone())].into());
        self.spares = Spares::new(&self.gateway, self.disk.clone(), self.order.subscribe(), self.peers.clone());
        self.spares.serve();
    }
}

async fn open(volume: Arc<dyn Volume>, disk: &Identity, spawner: &Spawner) -> Arc<Disk> {
    Disk::lay_out(&*volume, disk).unwrap();
    let settings = Settings { capacity_bytes: u64::MAX, reserve_bytes: 1 << 20, segment_bytes: 4 << 20 };
    Arc::new(Disk::open(volume, disk.clone(), settings, spawner.clone()).await.unwrap())
}

/// A table over nodes 1 to `count`, all of which keep data; the first `voters` have the metadata.
fn table(count: u64, voters: u64) -> StorageTable {
    let mut table = StorageTable { version: 1, founder: Some(NodeId(1)), ..StorageTable::default() };
    table.voters = (1..=voters).map(NodeId).collect();
    for width in WIDTHS {
        for number in 0..PARTITIONS {
            let nodes = (0..u64::from(width).min(count)).map(|n| NodeId(1 + (u64::from(number) + n) % count)).collect();
            table.partitions.insert(partition(width, number), Partition { nodes, next: Vec::new(), table: 1 });
        }
    }
    table
}

/// What nodes have in common, and can be added to.
pub struct Mesh {
    pub cluster: ClusterId,
    pub order: watch::Sender<Arc<StorageOrder>>,
    pub live: watch::Sender<Arc<Live>>,
    folder: PathBuf,
    net: u8,
    scratch: World,
    authority: Authority,
    known: watch::Sender<Arc<Peers>>,
}

impl Mesh {
    /// For `count` nodes, of which the first `voters` have the metadata. Addresses are `127.0.NET.N`.
    pub fn new(folder: &Path, net: u8, count: u64, voters: u64) -> Mesh {
        let (all, incarnations) = ((1..=count).map(NodeId), (1..=count).map(|node| (NodeId(node), Incarnation(1))));
        let table = table(count, voters);
        let order = StorageOrder {
            table,
            nodes: all.clone().collect(),
            incarnations: incarnations.collect(),
            ..StorageOrder::default()
        };
        let live = Live { nodes: all.map(|node| (node, heard())).collect(), ..Live::default() };
        let scratch = real::world(&folder.join("authority")).unwrap();
        let cluster = draw_cluster_id(&*scratch.chance);
        let authority = Authority::create(&cluster, &*scratch.chance, scratch.clock.wall());
        let (order, live) = (watch::Sender::new(Arc::new(order)), watch::Sender::new(Arc::new(live)));
        let known = watch::Sender::new(Arc::<Peers>::default());
        Mesh { cluster, order, live, folder: folder.into(), net, scratch, authority, known }
    }

    /// Starts a node with a disk in a folder.
    pub async fn start(&self, number: u64) -> Node {
        let root = self.folder.join(format!("disk{number}"));
        std::fs::create_dir(&root).unwrap();
        let volume = Arc::new(FolderVolume::open(&root).unwrap());
        Node { folder: root, ..self.start_on(number, volume).await }
    }

    /// Starts a node whose disk is `volume`.
    pub async fn start_on(&self, number: u64, volume: Arc<dyn Volume>) -> Node {
        let key = NodeKey::generate(&*self.scratch.chance);
        let (mut reset_seed, wall) = ([0; 32], self.scratch.clock.wall());
        self.scratch.chance.fill(&mut reset_seed);
        let identity = NodeIdentity {
            cluster: self.cluster.clone(),
            node: NodeId(number),
            name: format!("n{number}").parse().unwrap(),
            ca: self.authority.certificate().to_vec(),
            former: Vec::new(),
            cert: self.authority.issue(NodeId(number), &self.cluster, &key.csr(), wall).unwrap(),
            key: key.pkcs8().to_vec(),
            reset_seed,
            incarnation: Incarnation(1),
        };
        let mut world = real::world(&self.folder.join(number.to_string())).unwrap();
        let hung = watch::Sender::new(false);
        world.disk = Arc::new(Hanging { disk: world.disk, hung: hung.clone() });
        let addr: SocketAddr = ([127, 0, self.net, number as u8], 0).into();
        let config = TransportConfig {
            world: world.clone(),
            identity: identity.clone(),
            bind: addr,
            advertise: addr,
            peers: self.known.subscribe(),
            streams: tokio::runtime::Handle::current(),
        };
        let transport = Transport::start(config).await.unwrap();
        let peer = Peer { addr: transport.advertise(), key: identity.public_key() };
        self.known.send_modify(|known| {
            Arc::make_mut(known).nodes.insert(identity.node, peer);
        });

        let spawner = Spawner::new(tokio::runtime::Handle::current());
        let disk = Identity { cluster: self.cluster.clone(), node: NodeId(number), disk: DiskId(number) };
        let disk = open(volume, &disk, &spawner).await;
        let service = Service::default();
        service.set_disks([(DiskId(number), disk.clone())].into());
        let peers = Arc::new(MeshPeers::new(transport.clone(), "storage".parse().unwrap(), spawner.clone()));
        service.serve(&*peers);
        let store = Store::new(Remote::new(peers.clone()).beside(NodeId(number), service.clone()));
        let group = Arc::new(MetaGroup::start(&world, NodeId(number), transport.clone()).await.unwrap());
        let meta = Metadata::new(group.clone(), peers.clone(), world.clock.clone(), world.chance.clone());
        meta.serve();
        let gateway = Gateway::new(Parts {
            me: NodeId(number),
            incarnation: Incarnation(1),
            meta,
            store: store.clone(),
            order: self.order.subscribe(),
            wanted: watch::Sender::new(true),
            live: self.live.subscribe(),
            clock: world.clock.clone(),
            chance: world.chance.clone(),
            spawner: spawner.clone(),
        });
        let target = Target { node: NodeId(number), disk: DiskId(number) };
        let (order, folder) = (self.order.clone(), PathBuf::new());
        let spares = Spares::new(&gateway, disk.clone(), order.subscribe(), peers.clone());
        spares.serve();
        Node { transport, store, target, gateway, group, disk, folder, order, peers, hung, spares, service, spawner }
    }
}

/// Of a node that is heard.
pub fn heard() -> LiveNode {
    LiveNode { liveness: Liveness::Alive, ..LiveNode::default() }
}

/// Has the metadata group of these nodes become what the table says.
pub async fn steer<'a>(nodes: impl Iterator<Item = &'a Node> + Clone, table: &StorageTable) {
    let begun = Instant::now();
    let mut voters = nodes.clone().filter(|node| table.voters.contains(&node.target.node));
    while voters.clone().any(|node| node.group.voters() != table.voters) {
        assert!(begun.elapsed() < SOON, "the metadata group never came to be");
        for node in nodes.clone() {
            // In words; what is reached is looked at.
            let _ = node.group.steer(table).await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(voters.next().is_some());
}

/// So many nodes, of which the first `voters` have the metadata, when these are ready. Addresses are `127.0.NET.N`.
pub async fn nodes(folder: &Path, net: u8, count: u64, voters: u64) -> Vec<Node> {
    let mesh = Mesh::new(folder, net, count, voters);
    let mut nodes = Vec::new();
    for number in 1..=count {
        nodes.push(mesh.start(number).await);
    }
    let table = mesh.order.borrow().table.clone();
    steer(nodes.iter(), &table).await;
    nodes
}

/// Bytes that are different for each `n`.
pub fn content(n: u8, bytes: usize) -> Bytes {
    let mut content = vec![0; bytes];
    blake3::Hasher::new().update(&[n]).finalize_xof().fill(&mut content);
    content.into()
}

//! Nodes with real disks (folders), a real mesh on loopback and one metadata group: all of storage but the agent around it.

#![allow(dead_code, reason = "each test uses what it needs")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hirsel_mesh::identity::{Authority, Identity as NodeIdentity, NodeKey, draw_cluster_id};
use hirsel_mesh::seam::real::{self, FolderVolume};
use hirsel_mesh::transport::{Peer, Peers, Transport, TransportConfig};
use hirsel_model::order::StorageOrder;
use hirsel_model::storage::{PARTITIONS, Partition, StorageTable, WIDTHS, partition};
use hirsel_model::view::Liveness;
use hirsel_model::{Incarnation, NodeId};
use hirsel_role::peers::MeshPeers;
use hirsel_role::{Live, LiveNode, Spawner};
use hirsel_storage::disk::{Disk, DiskId, Identity, Settings};
use hirsel_storage::gateway::{Gateway, Parts};
use hirsel_storage::meta::access::Metadata;
use hirsel_storage::meta::group::MetaGroup;
use hirsel_storage::store::Store;
use hirsel_storage::wire::{Remote, Service, Target};
use tokio::sync::watch;

const SOON: Duration = Duration::from_secs(30);

/// One node.
pub struct Node {
    pub transport: Arc<Transport>,
    pub store: Store,
    pub target: Target,
    pub gateway: Gateway,
    pub group: Arc<MetaGroup>,
    pub disk: Arc<Disk>,
    /// Where its disk is.
    pub folder: PathBuf,
    /// What all nodes hear of the plan.
    pub order: watch::Sender<Arc<StorageOrder>>,
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

/// So many nodes, of which the first `voters` have the metadata, when these are ready. Addresses are `127.0.NET.N`.
pub async fn nodes(folder: &Path, net: u8, count: u64, voters: u64) -> Vec<Node> {
    let table = table(count, voters);
    let (all, incarnations) = ((1..=count).map(NodeId), (1..=count).map(|node| (NodeId(node), Incarnation(1))));
    let order =
        StorageOrder { table: table.clone(), nodes: all.clone().collect(), incarnations: incarnations.collect() };
    let heard = || LiveNode { liveness: Liveness::Alive, ..LiveNode::default() };
    let live = Live { nodes: all.map(|node| (node, heard())).collect(), ..Live::default() };
    let (order, live) = (watch::Sender::new(Arc::new(order)), watch::channel(Arc::new(live)).1);
    let scratch = real::world(&folder.join("authority")).unwrap();
    let cluster = draw_cluster_id(&*scratch.chance);
    let authority = Authority::create(&cluster, &*scratch.chance, scratch.clock.wall());
    let known = watch::Sender::new(Arc::<Peers>::default());
    let (mut nodes, mut members) = (Vec::new(), Peers::default());
    for number in 1..=count {
        let key = NodeKey::generate(&*scratch.chance);
        let mut reset_seed = [0; 32];
        scratch.chance.fill(&mut reset_seed);
        let identity = NodeIdentity {
            cluster: cluster.clone(),
            node: NodeId(number),
            name: format!("n{number}").parse().unwrap(),
            ca: authority.certificate().to_vec(),
            former: Vec::new(),
            cert: authority.issue(NodeId(number), &cluster, &key.csr(), scratch.clock.wall()).unwrap(),
            key: key.pkcs8().to_vec(),
            reset_seed,
            incarnation: Incarnation(1),
        };
        let world = real::world(&folder.join(number.to_string())).unwrap();
        let addr: SocketAddr = ([127, 0, net, number as u8], 0).into();
        let config = TransportConfig {
            world: world.clone(),
            identity: identity.clone(),
            bind: addr,
            advertise: addr,
            peers: known.subscribe(),
            streams: tokio::runtime::Handle::current(),
        };
        let transport = Transport::start(config).await.unwrap();
        members.nodes.insert(identity.node, Peer { addr: transport.advertise(), key: identity.public_key() });

        let root = folder.join(format!("disk{number}"));
        std::fs::create_dir(&root).unwrap();
        let volume = Arc::new(FolderVolume::open(&root).unwrap());
        let disk = Identity { cluster: cluster.clone(), node: NodeId(number), disk: DiskId(number) };
        Disk::lay_out(&*volume, &disk).unwrap();
        let spawner = Spawner::new(tokio::runtime::Handle::current());
        let settings = Settings { capacity_bytes: u64::MAX, reserve_bytes: 1 << 20, segment_bytes: 4 << 20 };
        let disk = Arc::new(Disk::open(volume, disk, settings, spawner.clone()).await.unwrap());
        let service = Service::default();
        service.set_disks([(DiskId(number), disk.clone())].into());
        let peers = Arc::new(MeshPeers::new(transport.clone(), "storage".parse().unwrap(), spawner.clone()));
        service.serve(&*peers);
        let store = Store::new(Remote::new(peers.clone()));
        let group = Arc::new(MetaGroup::start(&world, NodeId(number), transport.clone()).await.unwrap());
        let meta = Metadata::new(group.clone(), peers, world.clock.clone(), world.chance.clone());
        meta.serve();
        let gateway = Gateway::new(Parts {
            me: NodeId(number),
            incarnation: Incarnation(1),
            meta,
            store: store.clone(),
            order: order.subscribe(),
            wanted: watch::Sender::new(true),
            live: live.clone(),
            clock: world.clock.clone(),
            chance: world.chance.clone(),
            spawner,
        });
        let target = Target { node: NodeId(number), disk: DiskId(number) };
        nodes.push(Node { transport, store, target, gateway, group, disk, folder: root, order: order.clone() });
    }
    known.send_replace(Arc::new(members));
    let (wanted, begun): (BTreeSet<NodeId>, _) = (table.voters.clone(), Instant::now());
    while nodes.iter().take(voters as usize).any(|node| node.group.voters() != wanted) {
        assert!(begun.elapsed() < SOON, "the metadata group never came to be");
        for node in &nodes {
            // In words; what is reached is looked at.
            let _ = node.group.steer(&table).await;
        }
    }
    nodes
}

/// Bytes that are different for each `n`.
pub fn content(n: u8, bytes: usize) -> Bytes {
    let mut content = vec![0; bytes];
    blake3::Hasher::new().update(&[n]).finalize_xof().fill(&mut content);
    content.into()
}

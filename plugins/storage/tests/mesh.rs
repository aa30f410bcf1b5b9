//! Nodes with real disks (folders) and a real mesh on loopback write and read through each other.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hirsel_mesh::identity::{Authority, Identity as NodeIdentity, NodeKey, draw_cluster_id};
use hirsel_mesh::seam::real::{self, FolderVolume};
use hirsel_mesh::transport::{Peer, Peers, Transport, TransportConfig};
use hirsel_model::{Incarnation, NodeId};
use hirsel_role::Spawner;
use hirsel_role::peers::MeshPeers;
use hirsel_storage::chunk::ChunkId;
use hirsel_storage::codec::Codec;
use hirsel_storage::disk::{Disk, DiskId, Identity, Settings};
use hirsel_storage::spread::Goal;
use hirsel_storage::store::{Piece, Store};
use hirsel_storage::wire::{Remote, Service, Target};
use tokio::sync::watch;

struct Node {
    transport: Arc<Transport>,
    store: Store,
    target: Target,
}

async fn nodes(folder: &Path, count: u64) -> Vec<Node> {
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
        let addr: SocketAddr = ([127, 0, 73, number as u8], 0).into();
        let config = TransportConfig {
            world,
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
        let settings = Settings { reserve_bytes: 1 << 20, segment_bytes: 4 << 20 };
        let disk = Disk::open(volume, disk, settings, spawner.clone()).await.unwrap();
        let service = Service::default();
        service.set_disks([(DiskId(number), Arc::new(disk))].into());
        let peers = Arc::new(MeshPeers::new(transport.clone(), "storage".parse().unwrap(), spawner));
        service.serve(&*peers);
        let store = Store::new(Remote::new(peers));
        nodes.push(Node { transport, store, target: Target { node: NodeId(number), disk: DiskId(number) } });
    }
    known.send_replace(Arc::new(members));
    nodes
}

fn content(n: u8, bytes: usize) -> Bytes {
    let mut content = vec![0; bytes];
    blake3::Hasher::new().update(&[n]).finalize_xof().fill(&mut content);
    content.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_writes_another_reads_while_a_third_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = nodes(folder.path(), 7).await;
    let targets: Vec<Target> = nodes.iter().map(|node| node.target).collect();
    let copies = Goal { needed: 3, least: 2 };
    let mut written = Vec::new();
    for (n, bytes) in [(1, 100), (2, 4_096), (3, 200_000), (4, 1 << 20), (5, 4 << 20)] {
        let piece = Piece::new(ChunkId([n; 16]), &content(n, bytes));
        let outcome = nodes[0].store.write_copies(&piece, 3, &targets, copies).await;
        assert!(outcome.is_written && outcome.missed.is_empty(), "{outcome:?}");
        written.push((n, bytes, outcome.places));
    }
    let codec = Codec::new("4+2".parse().unwrap());
    let stripe = content(9, 3_000_000);
    let shards = codec.encode(&stripe).unwrap();
    let pieces: Vec<Piece> = (50..).zip(&shards).map(|(n, shard)| Piece::new(ChunkId([n; 16]), shard)).collect();
    let outcome = nodes[1].store.write_pieces(&pieces, &targets, Goal { needed: 6, least: 5 }).await;
    assert!(outcome.is_written && outcome.safe() == 6, "{outcome:?}");

    // One is gone without a word, and what is read and written goes around it.
    nodes[0].transport.close().await;
    let reader = &nodes[6].store;
    for (n, bytes, places) in written {
        let sources: Vec<Target> = places.iter().flatten().map(|place| targets[*place]).collect();
        let read = reader.read_copy(ChunkId([n; 16]), 0..u32::MAX, &sources).await.unwrap();
        assert_eq!(read, content(n, bytes));
    }
    let places: Vec<_> = pieces.iter().zip(&targets).map(|(piece, target)| (piece.chunk, Some(*target))).collect();
    assert_eq!(reader.read_stripe(&codec, 3_000_000, &places).await.unwrap(), stripe);
    assert_eq!(reader.repair_shard(&codec, 3_000_000, &places, 0).await.unwrap(), shards[0]);
    let begun = Instant::now();
    let piece = Piece::new(ChunkId([77; 16]), &content(77, 2 << 20));
    let outcome = reader.write_copies(&piece, 3, &targets, copies).await;
    assert!(outcome.is_written && outcome.safe() == 3, "{outcome:?}");
    assert_eq!(outcome.missed.iter().map(|missed| missed.target).collect::<Vec<_>>(), [0]);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

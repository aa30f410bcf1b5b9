//! What gossip costs and how soon it misses somebody, by the number of nodes. It takes about four minutes.
//!
//! All nodes are in this process, each with an address, a data folder and a socket of its own on loopback, and gossip as agents do: the
//! same transport, the same intervals, about as much to say. Nothing else runs: no consensus, no roles, no control pings. Bytes are
//! those of all datagrams with their headers, so keep-alives and acknowledgements of QUIC count. A node is lost by closing its socket
//! to both sides, as a cut cable does; detection is told by every other node. On a machine that is full the times are those of the
//! machine: look at the processor time beside them.
//!
//! `cargo bench -p hirsel-mesh --bench gossip [-- NODES...]`

#![allow(clippy::print_stdout, reason = "a benchmark reports on the terminal")]
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hirsel_mesh::gossip::Gossip;
use hirsel_mesh::identity::{Authority, Identity, NodeKey, draw_cluster_id};
use hirsel_mesh::seam::real;
use hirsel_mesh::transport::{Peer, Peers, Transport, TransportConfig};
use hirsel_model::view::Liveness;
use hirsel_model::{ClusterId, Incarnation, NodeId};
use tokio::sync::watch;

use wire::{Counted, Wire};

#[path = "../machine.rs"]
mod machine;
mod wire;

const SIZES: [usize; 3] = [10, 50, 100];
/// After all hear each other: failure detectors have their samples.
const SETTLE: Duration = Duration::from_secs(10);
const MEASURE: Duration = Duration::from_secs(15);
/// Nodes lost one after another.
const LOSSES: usize = 5;
const LIMIT: Duration = Duration::from_secs(120);
/// What a node with some ten instances says of itself.
const SAID_BYTES: usize = 600;

struct Node {
    gossip: Arc<Gossip>,
    _transport: Arc<Transport>,
    wire: Arc<Wire>,
}

fn main() {
    // `cargo test --benches` asks every bench to run as a test; a figure from there would mean nothing.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let asked: Vec<usize> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    println!("machine: {}", machine::describe());
    println!(
        "each: all nodes in one process; {} s of quiet, counted, then {LOSSES} nodes cut off one after another",
        MEASURE.as_secs()
    );
    println!(
        "{:>6} {:>12} {:>14} {:>14} {:>10} {:>12} {:>26} {:>8}",
        "nodes",
        "all hear all",
        "kB/s per node",
        "packets/s",
        "CPU/node",
        "machine busy",
        "missed: median, p95, worst",
        "false"
    );
    for count in if asked.is_empty() { SIZES.to_vec() } else { asked } {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(report(count.max(2)));
        runtime.shutdown_timeout(Duration::from_secs(5));
    }
}

async fn report(count: usize) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let began = Instant::now();
    let mut nodes = herd(folder.path(), count).await;
    all(&nodes, |heard| heard.len() == count - 1 && heard.values().all(|node| node.liveness == Liveness::Alive)).await;
    let whole = began.elapsed();
    tokio::time::sleep(SETTLE).await;

    let mut watched: Vec<_> = nodes.iter().map(|node| node.gossip.heard()).collect();
    let before = total(&nodes);
    let (cpu, began) = (machine::processor_time(), Instant::now());
    let mut mistaken = 0;
    while began.elapsed() < MEASURE {
        tokio::time::sleep(Duration::from_millis(50)).await;
        for heard in &mut watched {
            if heard.has_changed().unwrap_or(false) {
                mistaken += heard.borrow_and_update().values().filter(|node| node.liveness != Liveness::Alive).count();
            }
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let spent = (machine::processor_time() - cpu).as_secs_f64() / seconds;
    let (bytes, packets) = total(&nodes);
    let each = |all: u64| all as f64 / seconds / count as f64;

    let mut missed = Vec::new();
    for _ in 0..LOSSES.min(count - 1) {
        let lost = nodes.pop().unwrap();
        let number = NodeId(nodes.len() as u64 + 1);
        lost.wire.cut();
        let cut = Instant::now();
        let watch = nodes.iter().map(|node| {
            let mut heard = node.gossip.heard();
            async move {
                let gone =
                    heard.wait_for(|heard| heard.get(&number).is_none_or(|node| node.liveness != Liveness::Alive));
                drop(tokio::time::timeout(LIMIT, gone).await.expect("it is missed").expect("gossip runs"));
                cut.elapsed()
            }
        });
        missed.extend(futures::future::join_all(watch).await);
    }
    missed.sort();
    let at = |part: f64| missed[((missed.len() - 1) as f64 * part).ceil() as usize].as_secs_f64();
    println!(
        "{count:>6} {:>10.1} s {:>14.1} {:>14.0} {:>8.2} % {:>10.0} % {:>26} {mistaken:>8}",
        whole.as_secs_f64(),
        each(bytes - before.0) / 1e3,
        each(packets - before.1),
        spent * 100.0 / count as f64,
        spent * 100.0 / std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64),
        format!("{:.2}, {:.2}, {:.2} s", at(0.5), at(0.95), at(1.0)),
    );
}

/// Starts them all, as members of one cluster.
async fn herd(folder: &std::path::Path, count: usize) -> Vec<Node> {
    let scratch = real::world(&folder.join("authority")).unwrap();
    let cluster = draw_cluster_id(&*scratch.chance);
    let authority = Authority::create(&cluster, &*scratch.chance, scratch.clock.wall());
    let peers = watch::Sender::new(Arc::<Peers>::default());
    let mut transports = Vec::new();
    for number in 1..=count as u64 {
        let key = NodeKey::generate(&*scratch.chance);
        let identity = Identity {
            cluster: cluster.clone(),
            node: NodeId(number),
            name: format!("n{number}").parse().unwrap(),
            ca: authority.certificate().to_vec(),
            former: Vec::new(),
            cert: authority.issue(NodeId(number), &cluster, &key.csr(), scratch.clock.wall()).unwrap(),
            key: key.pkcs8().to_vec(),
            reset_seed: [number as u8; 32],
            incarnation: Incarnation(1),
        };
        let wire = Arc::new(Wire::default());
        let mut world = real::world(&folder.join(number.to_string())).unwrap();
        world.net = Arc::new(Counted::new(wire.clone()));
        let addr: SocketAddr = ([127, 1, (number / 250) as u8, (number % 250) as u8 + 1], 0).into();
        let config = TransportConfig {
            world: world.clone(),
            identity: identity.clone(),
            bind: addr,
            advertise: addr,
            peers: peers.subscribe(),
            streams: tokio::runtime::Handle::current(),
        };
        let transport = Transport::start(config).await.unwrap();
        let peer = Peer { addr: transport.advertise(), key: identity.public_key() };
        peers.send_modify(|peers| {
            Arc::make_mut(peers).nodes.insert(identity.node, peer);
        });
        transports.push((transport, world, wire));
    }
    let mut nodes = Vec::new();
    for (transport, world, wire) in transports {
        let gossip = speaking(&transport, &world, &cluster).await;
        nodes.push(Node { gossip, _transport: transport, wire });
    }
    nodes
}

async fn speaking(transport: &Arc<Transport>, world: &hirsel_mesh::seam::World, cluster: &ClusterId) -> Arc<Gossip> {
    let me = (transport.me(), Incarnation(1));
    let gossip = Gossip::start(transport, world, cluster, me, Vec::new()).await.unwrap();
    gossip.set("gen", "1".into()).await;
    gossip.set("role.compute", "x".repeat(SAID_BYTES)).await;
    gossip
}

type Heard = BTreeMap<NodeId, hirsel_mesh::gossip::Heard>;

async fn all(nodes: &[Node], told: impl Fn(&Heard) -> bool) {
    for node in nodes {
        let mut heard = node.gossip.heard();
        let found = tokio::time::timeout(LIMIT, heard.wait_for(|heard| told(heard))).await;
        drop(found.expect("all hear all in time").expect("gossip runs"));
    }
}

fn total(nodes: &[Node]) -> (u64, u64) {
    nodes.iter().map(|node| node.wire.sent()).fold((0, 0), |sum, sent| (sum.0 + sent.0, sum.1 + sent.1))
}

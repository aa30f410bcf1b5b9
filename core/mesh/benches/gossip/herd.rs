//! Nodes of one cluster that gossip and do nothing else, and what is seen of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hirsel_mesh::gossip::{GOSSIP_INTERVAL, Gossip, Heard};
use hirsel_mesh::identity::{Authority, Identity, NodeKey, draw_cluster_id};
use hirsel_mesh::seam::{Net, real};
use hirsel_mesh::transport::{Peer, Peers, Transport, TransportConfig};
use hirsel_model::view::Liveness;
use hirsel_model::{Incarnation, NodeId};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::wire::{Counted, Wire};
use crate::{LIMIT, MEASURE, SETTLE, SETTLE_AGAIN, Seen, machine};

/// What a node with some ten instances says of itself.
const SAID_BYTES: usize = 600;
/// From so many nodes on, those that are lost stay away.
const REVIVED_BELOW: usize = 100;
/// From a value that is everywhere to the next one: no multiple of an interval.
const NEWS_EVERY: Duration = Duration::from_millis(137);
/// How often it is looked at whether somebody is missed who is there.
const LOOK_EVERY: Duration = Duration::from_millis(50);

struct Node {
    id: NodeId,
    gossip: Arc<Gossip>,
    _transport: Arc<Transport>,
    wire: Arc<Wire>,
}

type Heards = BTreeMap<NodeId, Heard>;

/// Starts `count` nodes on `net`, and looks at them quiet, with news, and losing nodes, `events` of each.
pub async fn look(count: usize, net: Arc<dyn Net>, events: usize) -> Seen {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let began = Instant::now();
    let mut nodes = start(folder.path(), count, &net).await;
    all_hear_all(&nodes).await;
    let whole = began.elapsed();
    sleep(SETTLE).await;

    let mut watched: Vec<_> = nodes.iter().map(|node| node.gossip.heard()).collect();
    let (sent, processor, began) = (total(&nodes), machine::processor_time(), Instant::now());
    let mut mistaken = 0;
    while began.elapsed() < MEASURE {
        sleep(LOOK_EVERY).await;
        for heard in &mut watched {
            if heard.has_changed().unwrap_or(false) {
                mistaken += heard.borrow_and_update().values().filter(|node| node.liveness != Liveness::Alive).count();
            }
        }
    }
    let each = began.elapsed().as_secs_f64() * count as f64;
    let (bytes, packets) = total(&nodes);
    let processor = (machine::processor_time() - processor).as_secs_f64() / each;
    let (bytes, packets) = ((bytes - sent.0) as f64 / each, (packets - sent.1) as f64 / each);
    let news = spread(&nodes, events).await;
    let missed = lose(&mut nodes, events).await;
    Seen { whole, bytes, packets, processor, news, missed, mistaken }
}

async fn start(folder: &Path, count: usize, net: &Arc<dyn Net>) -> Vec<Node> {
    let scratch = real::world(&folder.join("authority")).unwrap();
    let cluster = draw_cluster_id(&*scratch.chance);
    let authority = Authority::create(&cluster, &*scratch.chance, scratch.clock.wall());
    let peers = watch::Sender::new(Arc::<Peers>::default());
    let (mut transports, mut members) = (Vec::new(), Peers::default());
    for number in 1..=count as u64 {
        let key = NodeKey::generate(&*scratch.chance);
        let mut reset_seed = [0; 32];
        scratch.chance.fill(&mut reset_seed);
        let identity = Identity {
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
        let wire = Arc::new(Wire::default());
        let mut world = real::world(&folder.join(number.to_string())).unwrap();
        world.net = Arc::new(Counted::new(net.clone(), wire.clone()));
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
        members.nodes.insert(identity.node, Peer { addr: transport.advertise(), key: identity.public_key() });
        transports.push((transport, world, wire));
    }
    peers.send_replace(Arc::new(members));
    let nodes = transports.into_iter().map(|(transport, world, wire)| {
        let cluster = cluster.clone();
        async move {
            // Agents do not begin in step.
            sleep(GOSSIP_INTERVAL.mul_f64((world.chance.number() % 1000) as f64 / 1000.0)).await;
            let id = transport.me();
            let gossip = Gossip::start(&transport, &world, &cluster, (id, Incarnation(1)), Vec::new()).await.unwrap();
            gossip.set("gen", "1".into()).await;
            gossip.set("role.compute", "x".repeat(SAID_BYTES)).await;
            Node { id, gossip, _transport: transport, wire }
        }
    });
    futures::future::join_all(nodes).await
}

/// How long each value that a node says anew took to each other node.
async fn spread(nodes: &[Node], events: usize) -> Vec<Duration> {
    let mut took = Vec::new();
    for nth in 0..events {
        sleep(NEWS_EVERY).await;
        let (from, value) = (&nodes[nth * 7 % nodes.len()], nth.to_string());
        from.gossip.set("news", value.clone()).await;
        let said = Instant::now();
        let others = nodes.iter().filter(|node| node.id != from.id);
        let heard = others.map(|node| async {
            until(node, |heard| heard.get(&from.id).and_then(|node| node.values.get("news")) == Some(&value)).await;
            said.elapsed()
        });
        took.extend(futures::future::join_all(heard).await);
    }
    took
}

/// Cuts nodes off, one after another: how long each other node took to miss them.
async fn lose(nodes: &mut Vec<Node>, events: usize) -> Vec<Duration> {
    let stay_away = nodes.len() >= REVIVED_BELOW;
    let mut missed = Vec::new();
    for _ in 0..events {
        let lost = nodes.remove(0);
        lost.wire.cut();
        let cut = Instant::now();
        let watch = nodes.iter().map(|node| async {
            until(node, |heard| heard.get(&lost.id).is_none_or(|node| node.liveness != Liveness::Alive)).await;
            cut.elapsed()
        });
        missed.extend(futures::future::join_all(watch).await);
        if !stay_away {
            lost.wire.repair();
            nodes.push(lost);
            all_hear_all(nodes).await;
            sleep(SETTLE_AGAIN).await;
        }
    }
    missed
}

async fn all_hear_all(nodes: &[Node]) {
    for node in nodes {
        until(node, |heard| {
            let heard = |other: &Node| heard.get(&other.id).is_some_and(|node| node.liveness == Liveness::Alive);
            nodes.iter().all(|other| other.id == node.id || heard(other))
        })
        .await;
    }
}

async fn until(node: &Node, told: impl Fn(&Heards) -> bool) {
    let mut heard = node.gossip.heard();
    let found = tokio::time::timeout(LIMIT, heard.wait_for(|heard| told(heard))).await;
    drop(found.expect("all hear it in time").expect("gossip runs"));
}

fn total(nodes: &[Node]) -> (u64, u64) {
    nodes.iter().map(|node| node.wire.sent()).fold((0, 0), |sum, sent| (sum.0 + sent.0, sum.1 + sent.1))
}

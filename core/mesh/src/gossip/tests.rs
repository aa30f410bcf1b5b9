//! Herds that gossip over loopback sockets.

use std::ops::Deref;

use super::*;
use crate::transport::tests::{Herd, Node, within};

async fn gossip(herd: &Herd, node: &Node) -> Arc<Gossip> {
    let me = (node.identity.node, node.identity.incarnation);
    Gossip::start(&node.transport, &node.world, &herd.cluster, me, Vec::new()).await.unwrap()
}

async fn all(herd: &Herd, nodes: &[Node]) -> Vec<Arc<Gossip>> {
    let mut all = Vec::new();
    for node in nodes {
        let gossip = gossip(herd, node).await;
        gossip.set("name", node.identity.name.to_string()).await;
        all.push(gossip);
    }
    all
}

/// Waits until what `gossip` hears is as told.
async fn hears(gossip: &Gossip, told: impl Fn(&BTreeMap<NodeId, Heard>) -> bool) {
    let mut heard = gossip.heard();
    let found = within(heard.wait_for(|heard| told(heard.deref()))).await;
    drop(found.expect("gossip runs"));
}

fn alive(heard: &BTreeMap<NodeId, Heard>, node: u64) -> bool {
    heard.get(&NodeId(node)).is_some_and(|heard| heard.liveness == Liveness::Alive)
}

fn says(heard: &BTreeMap<NodeId, Heard>, node: u64, key: &str) -> Option<String> {
    heard.get(&NodeId(node))?.values.get(key).cloned()
}

#[tokio::test]
async fn five_nodes_hear_each_other_and_notice_a_dead_one() {
    let herd = Herd::new(200);
    let mut nodes = herd.nodes(5).await;
    let mut gossips = all(&herd, &nodes).await;
    for (index, gossip) in gossips.iter().enumerate() {
        let me = index as u64 + 1;
        hears(gossip, |heard| {
            heard.len() == 4
                && (1..=5)
                    .filter(|n| *n != me)
                    .all(|n| alive(heard, n) && says(heard, n, "name") == Some(format!("n{n}")))
        })
        .await;
    }
    gossips[0].set("name", "renamed".into()).await;
    for gossip in &gossips[1..] {
        hears(gossip, |heard| says(heard, 1, "name").as_deref() == Some("renamed")).await;
    }
    let (dead, node) = (gossips.pop().unwrap(), nodes.pop().unwrap());
    dead.shutdown().await;
    node.transport.close().await;
    let began = tokio::time::Instant::now();
    for gossip in &gossips {
        hears(gossip, |heard| !alive(heard, 5)).await;
        assert!((1..=4).filter(|n| NodeId(*n) != gossip.me).all(|n| alive(&gossip.heard().borrow(), n)));
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_restarted_node_is_heard_in_its_new_life_only() {
    let herd = Herd::new(201);
    let mut nodes = herd.nodes(3).await;
    let mut gossips = all(&herd, &nodes).await;
    gossips[2].set("only-before", "x".into()).await;
    hears(&gossips[0], |heard| alive(heard, 3) && says(heard, 3, "only-before").is_some()).await;
    gossips.pop().unwrap().shutdown().await;
    let Node { mut identity, transport, .. } = nodes.pop().unwrap();
    let port = transport.advertise().port();
    transport.close().await;
    drop(transport);
    identity.incarnation = identity.incarnation.next();
    // The port is free as soon as the tasks of the old life have ended.
    let addr = herd.addr(NodeId(3), port);
    within(async {
        while std::net::UdpSocket::bind(addr).is_err() || std::net::TcpListener::bind(addr).is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let node = herd.start(identity, port).await;
    let again = gossip(&herd, &node).await;
    again.set("name", "again".into()).await;
    hears(&gossips[0], |heard| {
        alive(heard, 3)
            && heard[&NodeId(3)].incarnation == Incarnation(2)
            && says(heard, 3, "name").as_deref() == Some("again")
            && says(heard, 3, "only-before").is_none()
    })
    .await;
    // Its own former life is no neighbour of it.
    hears(&again, |heard| alive(heard, 1) && alive(heard, 2)).await;
    assert!(!again.heard().borrow().contains_key(&NodeId(3)));
}

#[tokio::test]
async fn whoever_is_no_member_is_not_heard() {
    let herd = Herd::new(202);
    let nodes = herd.nodes(3).await;
    let gossips = all(&herd, &nodes).await;
    hears(&gossips[0], |heard| alive(heard, 2) && alive(heard, 3)).await;
    herd.unpin(NodeId(3));
    hears(&gossips[0], |heard| alive(heard, 2) && !heard.contains_key(&NodeId(3))).await;
    // A member that comes later is heard, although nobody was told of it by gossip.
    let node = herd.start(herd.identity(4), 0).await;
    let late = gossip(&herd, &node).await;
    late.set("name", "late".into()).await;
    hears(&gossips[1], |heard| says(heard, 4, "name").as_deref() == Some("late")).await;
    hears(&late, |heard| alive(heard, 1) && alive(heard, 2)).await;
}

#[tokio::test]
async fn gossip_that_died_is_started_again_and_says_what_it_said() {
    let herd = Herd::new(203);
    let nodes = herd.nodes(2).await;
    let gossips = all(&herd, &nodes).await;
    hears(&gossips[1], |heard| says(heard, 1, "name").as_deref() == Some("n1")).await;
    // As a panic inside does.
    gossips[0].running.lock().await.as_ref().unwrap().abort();
    gossips[0].set("mood", "risen".into()).await;
    hears(&gossips[1], |heard| {
        alive(heard, 1)
            && says(heard, 1, "mood").as_deref() == Some("risen")
            && says(heard, 1, "name").as_deref() == Some("n1")
            && heard[&NodeId(1)].incarnation == Incarnation(1)
    })
    .await;
    hears(&gossips[0], |heard| says(heard, 2, "name").as_deref() == Some("n2")).await;
}

#[tokio::test]
async fn values_keep_their_limits_on_both_sides() {
    let herd = Herd::new(204);
    let nodes = herd.nodes(2).await;
    let gossips = all(&herd, &nodes).await;
    gossips[0].set("huge", "x".repeat(VALUE_BYTES_MAX + 1)).await;
    gossips[0].set(&"k".repeat(KEY_BYTES_MAX + 1), "x".into()).await;
    for n in 0..4 {
        gossips[0].set(&format!("large-{n}"), "x".repeat(VALUE_BYTES_MAX)).await;
    }
    gossips[0].set("last", "x".into()).await;
    hears(&gossips[1], |heard| says(heard, 1, "last").is_some()).await;
    let heard = gossips[1].heard().borrow()[&NodeId(1)].values.keys().cloned().collect::<Vec<_>>();
    assert_eq!(heard, ["large-0", "large-1", "last", "name"]);
    // A peer that says more is cut.
    let bytes = |n: usize| "x".repeat(n);
    let said: Vec<(String, String)> =
        (0..100).map(|n| (format!("k{n}"), bytes(1000))).chain([("huge".into(), bytes(9000))]).collect();
    let kept = bounded(said.iter().map(|(k, v)| (k.as_str(), v.as_str())));
    assert!(kept.len() < 25 && kept.values().map(String::len).sum::<usize>() <= NODE_BYTES_MAX);
}

#[tokio::test]
async fn nonsense_from_a_member_does_not_end_gossip() {
    let herd = Herd::new(205);
    let nodes = herd.nodes(2).await;
    let gossips = all(&herd, &nodes).await;
    let mut compressor = zstd::bulk::Compressor::new(1).unwrap();
    for n in 0..500u64 {
        let mut noise = vec![0; usize::try_from(n % 300).unwrap()];
        herd.chance.fill(&mut noise);
        if n % 3 == 0 {
            // Begins as a message does.
            noise.splice(0..0, [0x53, 0xb0, 0, u8::try_from(n % 4).unwrap()]);
        }
        let body = if n % 2 == 0 { compressor.compress(&noise).unwrap() } else { noise };
        nodes[0].transport.send_message(NodeId(2), body);
        tokio::task::yield_now().await;
    }
    gossips[0].set("after", "all".into()).await;
    hears(&gossips[1], |heard| alive(heard, 1) && says(heard, 1, "after").as_deref() == Some("all")).await;
}

/// A message of a member that chitchat cannot survive: a delta whose last version is not its highest.
#[tokio::test]
async fn a_message_that_kills_chitchat_does_not_kill_the_agent() {
    use chitchat::Serializable;
    let herd = Herd::new(206);
    let nodes = herd.nodes(2).await;
    let gossips = all(&herd, &nodes).await;
    hears(&gossips[1], |heard| alive(heard, 1) && says(heard, 1, "name").is_some()).await;
    let mut delta = vec![0];
    let known = gossips[0].running.lock().await.as_ref().unwrap().chitchat_id().clone();
    known.serialize(&mut delta);
    delta.extend([[0; 8], [0; 8]].concat());
    delta.push(1);
    "key".serialize(&mut delta);
    "value".serialize(&mut delta);
    delta.extend(100u64.to_le_bytes());
    delta.extend([0, 2]);
    delta.extend(50u64.to_le_bytes());
    let mut message = vec![0x53, 0xb0, 0, 2, 2];
    message.extend(u16::try_from(delta.len()).unwrap().to_le_bytes());
    message.extend(delta);
    message.push(0);
    nodes[0].transport.send_message(NodeId(2), zstd::bulk::compress(&message, 1).unwrap());
    // It dies, and comes back with a new generation of the same life.
    let generation = async || {
        let running = gossips[1].running.lock().await;
        running.as_ref().unwrap().chitchat_id().generation_id
    };
    let before = generation().await;
    within(async {
        while generation().await == before {
            tokio::task::yield_now().await;
        }
    })
    .await;
    gossips[1].set("mood", "risen".into()).await;
    hears(&gossips[0], |heard| {
        alive(heard, 2) && heard[&NodeId(2)].incarnation == Incarnation(1) && says(heard, 2, "mood").is_some()
    })
    .await;
}

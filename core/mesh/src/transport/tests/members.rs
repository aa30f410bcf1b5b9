//! Who is believed, and how soon a change is noticed.

use quinn::ConnectionError;

use super::*;

#[tokio::test]
async fn a_node_of_another_cluster_is_no_peer() {
    let (ours, theirs) = (Herd::new(30), Herd::new(31));
    let a = ours.nodes(1).await.remove(0);
    let b = theirs.start(theirs.identity(2), 0).await;
    b.serve_echo();
    a.serve_echo();
    // Even if each knows the other's address and key.
    ours.pin(&b);
    theirs.pin(&a);
    assert_eq!(a.echo(NodeId(2), "x").await, Err(CallError::Unreachable));
    assert_eq!(b.echo(NodeId(1), "x").await, Err(CallError::Unreachable));
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_worth_nothing() {
    let herd = Herd::new(39);
    let a = herd.nodes(1).await.remove(0);
    a.serve_echo();
    // The right cluster, the right node, even the pinned key: but signed by somebody else.
    let mut forged = herd.identity(2);
    let other = Authority::create(&herd.cluster, &*herd.chance, herd.clock.wall());
    let csr = NodeKey::from_pkcs8(&forged.key).unwrap().csr();
    forged.cert = other.issue(NodeId(2), &herd.cluster, &csr, herd.clock.wall()).unwrap();
    let b = herd.start(forged, 0).await;
    b.serve_echo();
    assert_eq!(b.echo(NodeId(1), "x").await, Err(CallError::Unreachable));
    assert_eq!(a.echo(NodeId(2), "x").await, Err(CallError::Unreachable));
    let door = b.transport.open_door(NodeId(1), a.transport.advertise(), &"a/b/1".parse().unwrap()).await;
    assert_ne!(door.err().unwrap().kind(), io::ErrorKind::NotFound, "it was asked for an instance");
}

#[tokio::test]
async fn only_the_pinned_key_speaks_for_a_node() {
    let herd = Herd::new(32);
    let a = herd.nodes(1).await.remove(0);
    a.serve_echo();
    // Certified by the authority, but with another key than the one that is pinned (a node that re-joined, a stolen old key).
    let b = herd.start(herd.identity(2), 0).await;
    b.serve_echo();
    assert_eq!(a.echo(NodeId(2), "x").await.unwrap(), "1:x");
    let peers = herd.peers.subscribe();
    let impostor = herd.start_with(herd.identity(2), 0, peers).await;
    assert_eq!(impostor.echo(NodeId(1), "x").await, Err(CallError::Unreachable));
    // And the other way: it sits at the address where node 2 should be.
    herd.put(NodeId(2), impostor.transport.advertise(), b.identity.public_key());
    b.transport.close().await;
    impostor.serve_echo();
    assert_eq!(a.transport.call(NodeId(2), "echo", vec![], TTL).await, Err(CallError::Unreachable));
}

#[tokio::test]
async fn a_node_speaks_only_for_itself() {
    let herd = Herd::new(33);
    let nodes = herd.nodes(3).await;
    nodes.iter().for_each(Node::serve_echo);
    // Node 3 sits where node 2 is expected: a right certificate of the wrong node.
    let key = nodes[1].identity.public_key();
    herd.put(NodeId(2), nodes[2].transport.advertise(), key);
    assert_eq!(nodes[0].echo(NodeId(2), "x").await, Err(CallError::Unreachable));
    assert_eq!(nodes[2].echo(NodeId(1), "x").await.unwrap(), "3:x");
}

#[tokio::test]
async fn a_newcomer_is_heard_as_soon_as_it_is_pinned_and_no_longer() {
    let herd = Herd::new(34);
    let a = herd.nodes(1).await.remove(0);
    a.serve_echo();
    let b = herd.start_with(herd.identity(2), 0, herd.peers.subscribe()).await;
    assert_eq!(b.echo(NodeId(1), "x").await, Err(CallError::Unreachable));
    herd.pin(&b);
    within(async { while b.echo(NodeId(1), "x").await.is_err() {} }).await;
    let connection = a.transport.shared.connection(NodeId(2)).await.unwrap();
    herd.unpin(NodeId(2));
    within(connection.closed()).await;
    assert!(b.transport.call(NodeId(1), "echo", vec![], TTL).await.is_err());
}

#[tokio::test]
async fn expired_but_pinned_certificates_are_accepted() {
    let herd = Herd::new(35);
    let nodes = herd.nodes(2).await;
    nodes.iter().for_each(Node::serve_echo);
    for year in [2040u64, 1999] {
        herd.clock.0.store((year - 1970) * 365 * 86_400_000, Ordering::Relaxed);
        for node in &nodes {
            node.transport.shared.endpoint.close(0u32.into(), b"");
        }
        let again = [herd.start(nodes[0].identity.clone(), 0).await, herd.start(nodes[1].identity.clone(), 0).await];
        again.iter().for_each(Node::serve_echo);
        assert_eq!(again[0].echo(NodeId(2), "x").await.unwrap(), "1:x", "in {year}");
        // A new certificate is shown from then on.
        let key = NodeKey::from_pkcs8(&again[0].identity.key).unwrap();
        let renewed = herd.authority.issue(NodeId(1), &herd.cluster, &key.csr(), herd.clock.wall()).unwrap();
        again[0].transport.renew(renewed).unwrap();
        assert!(again[0].transport.renew(again[1].identity.cert.clone()).is_err());
        assert_eq!(again[1].echo(NodeId(1), "x").await.unwrap(), "2:x", "in {year}");
    }
}

#[tokio::test]
async fn only_a_newer_certificate_of_the_same_authority_is_shown() {
    let herd = Herd::new(29);
    let nodes = herd.nodes(2).await;
    nodes.iter().for_each(Node::serve_echo);
    let (me, transport) = (&nodes[0].identity, &nodes[0].transport);
    let csr = NodeKey::from_pkcs8(&me.key).unwrap().csr();
    assert_eq!(nodes[1].echo(NodeId(1), "x").await.unwrap(), "2:x");
    let connection = nodes[1].transport.shared.connection(NodeId(1)).await.unwrap();

    let issued = |authority: &Authority, wall| authority.issue(NodeId(1), &herd.cluster, &csr, wall).unwrap();
    let earlier = WallTime(herd.clock.wall().0 - 5 * 86_400_000);
    assert!(transport.renew(issued(&herd.authority, earlier)).is_err(), "it ends earlier");
    herd.clock.0.fetch_add(11 * 86_400_000, Ordering::Relaxed);
    let before = transport.certificate();
    let other = Authority::create(&herd.cluster, &*herd.chance, herd.clock.wall());
    assert!(transport.renew(issued(&other, herd.clock.wall())).is_err(), "signed by somebody else");
    assert_eq!(transport.certificate(), before);
    let after = transport.renew(issued(&herd.authority, herd.clock.wall())).unwrap();
    assert_eq!(after.not_after - before.not_after, 11 * 86_400);
    assert_eq!(transport.certificate(), after);

    assert_eq!(connection.close_reason(), None, "what is up stays up");
    assert_eq!(nodes[1].echo(NodeId(1), "x").await.unwrap(), "2:x");
    let client = tokio_rustls::TlsConnector::from(nodes[1].transport.shared.tls.https_client());
    let stream = tokio::net::TcpStream::connect(transport.advertise()).await.unwrap();
    let name = common_name(&herd.cluster, NodeId(1)).try_into().unwrap();
    transport.serve_https(|_| Box::pin(std::future::pending()));
    let stream = within(client.connect(name, stream)).await.unwrap();
    let shown = stream.get_ref().1.peer_certificates().unwrap();
    assert_eq!(certified(&shown[0], &herd.cluster).unwrap(), after, "HTTPS shows it, too");
}

/// A node on a runtime of its own, which can be killed as a process is: without a word.
pub(super) fn start_apart(herd: &Herd, identity: Identity, port: u16) -> (tokio::runtime::Runtime, Node) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let node = std::thread::scope(|scope| scope.spawn(|| runtime.block_on(herd.start(identity, port))).join().unwrap());
    (runtime, node)
}

pub(super) fn kill(runtime: tokio::runtime::Runtime, node: Node) {
    std::thread::spawn(move || {
        runtime.shutdown_timeout(LIMIT);
        drop(node);
    })
    .join()
    .unwrap();
}

#[tokio::test]
async fn a_restarted_peer_is_noticed_by_its_reset_not_by_silence() {
    let herd = Herd::new(36);
    let a = herd.nodes(1).await.remove(0);
    let (runtime, b) = start_apart(&herd, herd.identity(2), 0);
    b.serve_echo();
    assert_eq!(a.echo(NodeId(2), "x").await.unwrap(), "1:x");
    let connection = a.transport.shared.connection(NodeId(2)).await.unwrap();
    let (identity, port) = (b.identity.clone(), b.transport.advertise().port());
    kill(runtime, b);
    let b = herd.start(identity, port).await;
    b.serve_echo();
    let reason = within(connection.closed()).await;
    assert!(matches!(reason, ConnectionError::Reset), "{reason}");
    within(async { while a.echo(NodeId(2), "x").await.is_err() {} }).await;
}

#[tokio::test]
async fn pings_tell_who_answers() {
    let herd = Herd::new(37);
    let a = herd.nodes(1).await.remove(0);
    let (runtime, b) = start_apart(&herd, herd.identity(2), 0);
    let mut pings = a.transport.pings();
    let answered = |states: &Arc<BTreeMap<NodeId, PingState>>| states.get(&NodeId(2)).map(|state| state.answered);
    a.transport.set_pinged([NodeId(1), NodeId(2)].into());
    within(pings.wait_for(|states| answered(states) == Some(true))).await.unwrap();
    assert!(!pings.borrow().contains_key(&NodeId(1)), "nobody pings itself");
    let (identity, port) = (b.identity.clone(), b.transport.advertise().port());
    kill(runtime, b);
    let began = tokio::time::Instant::now();
    within(pings.wait_for(|states| answered(states) == Some(false))).await.unwrap();
    assert!(began.elapsed() >= PING_INTERVAL, "one lost ping is not enough");
    let _b = herd.start(identity, port).await;
    within(pings.wait_for(|states| answered(states) == Some(true))).await.unwrap();
    a.transport.set_pinged(BTreeSet::new());
    within(pings.wait_for(|states| states.is_empty())).await.unwrap();
}

#[tokio::test]
async fn messages_that_arrive_spare_most_pings() {
    const ROUNDS: u64 = 20;
    let herd = Herd::new(146);
    let nodes = herd.nodes(2).await;
    let [a, b] = nodes.as_slice() else { unreachable!() };
    let (mut pings, mut beats) = (a.transport.pings(), a.transport.beats());
    a.transport.set_pinged([NodeId(2)].into());
    within(pings.wait_for(|states| states.get(&NodeId(2)).is_some_and(|state| state.answered))).await.unwrap();
    let line = a.transport.shared.connection(NodeId(2)).await.unwrap();
    let before = line.stats().frame_tx.datagram;
    let inbox = b.transport.messages();
    for _ in 0..ROUNDS {
        within(beats.changed()).await.unwrap();
        a.transport.send_message(NodeId(2), b"news".to_vec());
        within(async { inbox.lock().await.recv().await }).await.unwrap();
    }
    let sent = line.stats().frame_tx.datagram - before;
    assert!((1..=ROUNDS / 2).contains(&sent), "{sent} pings in {ROUNDS} rounds");
    assert_eq!(pings.borrow().get(&NodeId(2)).map(|state| state.answered), Some(true));
}

#[tokio::test]
async fn bulk_that_nobody_reads_delays_no_ping_and_no_call() {
    use tokio::io::AsyncWriteExt;
    let herd = Herd::new(38);
    let nodes = herd.nodes(2).await;
    nodes[1].serve_echo();
    nodes[1].transport.serve_stream("sink", |_, _, stream| {
        Box::pin(async move {
            let _unread = stream;
            std::future::pending().await
        })
    });
    let (mut written, seen) = (0, watch::Sender::new(0));
    for _ in 0..12 {
        let mut bulk = nodes[0].transport.open_stream(NodeId(2), "sink", vec![]).await.unwrap();
        let seen = seen.clone();
        tokio::spawn(async move {
            while let Ok(bytes) = bulk.write(&[0; 64 << 10]).await {
                seen.send_modify(|written| *written += bytes);
            }
        });
    }
    // Until nothing more fits.
    let mut changes = seen.subscribe();
    while let Ok(changed) = timeout(Duration::from_millis(300), changes.changed()).await {
        changed.unwrap();
        written = *changes.borrow_and_update();
    }
    assert!(written >= 12 << 20, "{written} bytes are on their way");
    assert_eq!(nodes[0].echo(NodeId(2), "x").await.unwrap(), "1:x");
    let mut pings = nodes[0].transport.pings();
    nodes[0].transport.set_pinged([NodeId(2)].into());
    within(pings.wait_for(|states| states.get(&NodeId(2)).is_some_and(|state| state.answered))).await.unwrap();
}

//! Which connections are kept alive, and how the others end.

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{ConnectionError, ServerConfig};

use super::members::{kill, start_apart};
use super::*;
use crate::transport::lane::{Lane, Line};

/// The resting connection from `node` to a peer, which is dialed if there is none.
async fn resting(node: &Node, to: u64) -> Line {
    let line = within(node.transport.shared.connection_for_messages(NodeId(to))).await.unwrap();
    assert_eq!(Lane::of(&line), Lane::Resting);
    line
}

async fn arrives(at: &Node, body: &[u8]) {
    let messages = at.transport.messages();
    let (_, got) = within(async { messages.lock().await.recv().await }).await.unwrap();
    assert_eq!(got, body);
}

/// Until the watched connection was kept alive for one and a half seconds, longer than any silence it would live through.
async fn kept_alive(line: &Line) {
    let until = line.stats().frame_tx.ping + line.stats().frame_rx.ping + 6;
    within(async {
        while line.stats().frame_tx.ping + line.stats().frame_rx.ping < until {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(line.close_reason(), None);
}

#[tokio::test]
async fn a_connection_for_messages_stays_without_being_kept_alive() {
    let herd = Herd::new(140);
    let nodes = herd.nodes(3).await;
    let [a, b, c] = nodes.as_slice() else { unreachable!() };
    c.serve_echo();
    a.transport.send_message(NodeId(2), b"first".to_vec());
    arrives(b, b"first").await;
    let quiet = resting(a, 2).await;
    assert_eq!(a.echo(NodeId(3), "x").await.unwrap(), "1:x");
    let watched = a.transport.shared.connection(NodeId(3)).await.unwrap();
    assert_eq!(Lane::of(&watched), Lane::Watched);
    // The handshake has an end of its own, with acknowledgements.
    kept_alive(&watched).await;
    let sent = |line: &Line| (line.stats().udp_tx.datagrams, line.stats().udp_rx.datagrams);
    let before = sent(&quiet);
    kept_alive(&watched).await;
    assert_eq!(sent(&quiet), before, "nothing goes over it while nobody speaks");
    assert_eq!(quiet.close_reason(), None);
    // The other side has the same connection, and answers on it.
    b.transport.send_message(NodeId(1), b"second".to_vec());
    arrives(a, b"second").await;
    assert_eq!(resting(a, 2).await.stable_id(), quiet.stable_id());
    assert_eq!(a.transport.shared.endpoint.open_connections(), 2);
}

#[tokio::test]
async fn messages_share_the_connection_that_is_kept_alive_anyway() {
    let herd = Herd::new(141);
    let nodes = herd.nodes(2).await;
    nodes[1].serve_echo();
    assert_eq!(nodes[0].echo(NodeId(2), "x").await.unwrap(), "1:x");
    nodes[0].transport.send_message(NodeId(2), b"shared".to_vec());
    arrives(&nodes[1], b"shared").await;
    nodes[1].transport.send_message(NodeId(1), b"back".to_vec());
    arrives(&nodes[0], b"back").await;
    assert_eq!(nodes[0].transport.shared.endpoint.open_connections(), 1);
    // Who waits for a peer with whom there is only a resting one gets another.
    let c = herd.start(herd.identity(3), 0).await;
    c.serve_echo();
    nodes[0].transport.send_message(NodeId(3), b"message".to_vec());
    arrives(&c, b"message").await;
    assert_eq!(nodes[0].echo(NodeId(3), "x").await.unwrap(), "1:x");
    let both = within(nodes[0].transport.shared.connection_for_messages(NodeId(3))).await.unwrap();
    assert_eq!(Lane::of(&both), Lane::Watched);
}

#[tokio::test]
async fn a_message_that_nobody_takes_ends_a_resting_connection() {
    let herd = Herd::new(142);
    let a = herd.nodes(1).await.remove(0);
    let (runtime, b) = start_apart(&herd, herd.identity(2), 0);
    a.transport.send_message(NodeId(2), b"before".to_vec());
    arrives(&b, b"before").await;
    let line = resting(&a, 2).await;
    let (identity, port) = (b.identity.clone(), b.transport.advertise().port());
    kill(runtime, b);
    a.transport.send_message(NodeId(2), b"into the void".to_vec());
    let reason = within(line.closed()).await;
    assert!(matches!(reason, ConnectionError::LocallyClosed), "{reason}");
    // As soon as it is back, messages arrive on another.
    let b = herd.start(identity, port).await;
    let messages = b.transport.messages();
    within(async {
        let mut inbox = messages.lock().await;
        loop {
            a.transport.send_message(NodeId(2), b"after".to_vec());
            if let Ok(Some((_, got))) = timeout(Duration::from_millis(50), inbox.recv()).await {
                return assert_eq!(got, b"after");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_knows_one_kind_only_gets_messages_on_that() {
    let herd = Herd::new(143);
    let nodes = herd.nodes(2).await;
    // What sits at the address of node 2 has its key, and answers as agents did before there were two kinds.
    let (server, _) = nodes[1].transport.shared.tls.mesh().unwrap();
    let server = QuicServerConfig::try_from(server).unwrap();
    let server = ServerConfig::with_crypto(Arc::new(server));
    let older = quinn::Endpoint::server(server, herd.addr(NodeId(2), 0)).unwrap();
    herd.put(NodeId(2), older.local_addr().unwrap(), nodes[1].identity.public_key());
    let serve = tokio::spawn(async move {
        let connection = older.accept().await.unwrap().await.unwrap();
        let mut message = connection.accept_uni().await.unwrap();
        let got = message.read_to_end(100).await.unwrap();
        (older, connection, got)
    });
    nodes[0].transport.send_message(NodeId(2), b"to an older one".to_vec());
    let (_older, _connection, got) = within(serve).await.unwrap();
    assert_eq!(got, b"to an older one");
    let line = nodes[0].transport.shared.connection_for_messages(NodeId(2)).await.unwrap();
    assert_eq!(Lane::of(&line), Lane::Watched);
}

#[tokio::test]
async fn silence_ends_a_watched_connection_at_the_side_that_was_dialed_too() {
    let herd = Herd::new(144);
    let a = herd.nodes(1).await.remove(0);
    a.serve_echo();
    let (runtime, b) = start_apart(&herd, herd.identity(2), 0);
    assert_eq!(b.echo(NodeId(1), "x").await.unwrap(), "2:x");
    let line = a.transport.shared.connection(NodeId(2)).await.unwrap();
    assert!(line.side().is_server(), "it is the one that the other side dialed");
    kill(runtime, b);
    let began = tokio::time::Instant::now();
    let reason = within(line.closed()).await;
    assert!(matches!(reason, ConnectionError::TimedOut), "{reason}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn two_that_dialed_each_other_in_the_same_moment_settle_on_one_connection() {
    let herd = Herd::new(145);
    let nodes = herd.nodes(2).await;
    nodes.iter().for_each(Node::serve_echo);
    let dials = nodes.iter().zip([2, 1]).map(|(node, to)| {
        tokio::spawn(crate::transport::quic::dial(node.transport.shared.clone(), NodeId(to), Lane::Watched))
    });
    within(futures::future::join_all(dials)).await;
    let open = |node: &Node| node.transport.shared.endpoint.open_connections();
    assert_eq!(nodes.iter().map(open).collect::<Vec<_>>(), [2, 2]);
    // Whoever asks meanwhile is answered.
    within(async {
        while nodes.iter().any(|node| open(node) != 1) {
            assert_eq!(nodes[0].echo(NodeId(2), "x").await.unwrap(), "1:x");
            assert_eq!(nodes[1].echo(NodeId(1), "x").await.unwrap(), "2:x");
        }
    })
    .await;
    for (node, to, is_dialer) in [(&nodes[0], 2, true), (&nodes[1], 1, false)] {
        let line = node.transport.shared.connection(NodeId(to)).await.unwrap();
        assert_eq!(line.side().is_client(), is_dialer, "node 1 has dialed it");
        assert_eq!(line.close_reason(), None);
    }
}

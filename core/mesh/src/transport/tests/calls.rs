//! Calls and streams between nodes.

use std::sync::atomic::AtomicUsize;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::*;

#[tokio::test]
async fn a_call_is_answered_and_its_caller_is_known() {
    let herd = Herd::new(10);
    let nodes = herd.nodes(2).await;
    nodes.iter().for_each(Node::serve_echo);
    assert_eq!(nodes[0].echo(NodeId(2), "hello").await.unwrap(), "1:hello");
    assert_eq!(nodes[1].echo(NodeId(1), "hello").await.unwrap(), "2:hello");
}

#[tokio::test]
async fn a_call_that_is_answered_leaves_nothing_to_be_said() {
    let herd = Herd::new(19);
    let nodes = herd.nodes(2).await;
    nodes[1].serve_echo();
    for _ in 0..20 {
        nodes[0].echo(NodeId(2), "hello").await.unwrap();
    }
    let line = nodes[0].transport.shared.connection(NodeId(2)).await.unwrap();
    let (sent, got) = (line.stats().frame_tx, line.stats().frame_rx);
    assert!(sent.stop_sending + got.stop_sending < 10, "{} and {}", sent.stop_sending, got.stop_sending);
}

#[tokio::test]
async fn a_node_serves_its_own_calls_and_streams() {
    let herd = Herd::new(11);
    let nodes = herd.nodes(1).await;
    nodes[0].serve_echo();
    assert_eq!(nodes[0].echo(NodeId(1), "self").await.unwrap(), "1:self");
    serve_upper(&nodes[0]);
    assert_eq!(upper(&nodes[0], NodeId(1)).await, "HELLO, N1");
}

#[tokio::test]
async fn what_is_not_served_or_refused_or_broken_is_told_apart() {
    let herd = Herd::new(12);
    let nodes = herd.nodes(2).await;
    let call = |to, kind| nodes[0].transport.call(NodeId(to), kind, vec![7], TTL);
    nodes[1].transport.serve("refuse", |_, _| Box::pin(async { Err("not today".into()) }));
    nodes[1].transport.serve("panic", |_, _| Box::pin(async { panic!("on purpose") }));
    nodes[1].transport.serve("panic-at-once", |_, _| panic!("on purpose"));
    nodes[1].serve_echo();
    assert_eq!(call(2, "nothing").await, Err(CallError::NoHandler));
    assert_eq!(call(2, "refuse").await, Err(CallError::Refused("not today".into())));
    // Nobody knows what they did before.
    assert_eq!(call(2, "panic").await, Err(CallError::Unreachable));
    assert_eq!(call(2, "panic-at-once").await, Err(CallError::Unreachable));
    assert_eq!(call(3, "echo").await, Err(CallError::Unreachable));
    assert!(
        nodes[0].transport.open_stream(NodeId(2), "nothing", vec![]).await.is_err_and(|e| e == CallError::NoHandler)
    );
    assert!(call(2, "echo").await.is_ok());
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_on_both_sides() {
    let herd = Herd::new(13);
    let nodes = herd.nodes(2).await;
    let (dropped_tx, mut dropped) = mpsc::channel(1);
    /// Tells when the work it belongs to is given up.
    struct Held(mpsc::Sender<()>);
    impl Drop for Held {
        fn drop(&mut self) {
            let _ = self.0.try_send(());
        }
    }
    nodes[1].transport.serve("never", move |_, _| {
        let held = Held(dropped_tx.clone());
        Box::pin(async move {
            let _held = held;
            std::future::pending().await
        })
    });
    nodes[1].serve_echo();
    nodes[0].echo(NodeId(2), "connect first").await.unwrap();
    let began = tokio::time::Instant::now();
    let answer = nodes[0].transport.call(NodeId(2), "never", vec![], Duration::from_millis(200)).await;
    assert_eq!(answer, Err(CallError::TimedOut));
    // Deadlines travel in whole milliseconds, cut off.
    assert!(began.elapsed() >= Duration::from_millis(190), "{:?}", began.elapsed());
    within(dropped.recv()).await.unwrap();
}

#[tokio::test]
async fn a_call_to_a_node_that_is_away_fails_by_its_deadline() {
    let herd = Herd::new(14);
    let nodes = herd.nodes(1).await;
    // A port of which nobody answers.
    let silent = std::net::UdpSocket::bind(herd.addr(NodeId(9), 0)).unwrap();
    let key = herd.identity(9).public_key();
    herd.put(NodeId(9), silent.local_addr().unwrap(), key);
    let short = nodes[0].transport.call(NodeId(9), "echo", vec![], Duration::from_millis(100)).await;
    assert_eq!(short, Err(CallError::TimedOut));
    let long = nodes[0].transport.call(NodeId(9), "echo", vec![], LIMIT).await;
    assert_eq!(long, Err(CallError::Unreachable));
}

#[tokio::test]
async fn bodies_are_carried_up_to_their_limit_and_refused_beyond() {
    let herd = Herd::new(15);
    let nodes = herd.nodes(2).await;
    nodes[1].transport.serve("count", |_, body| Box::pin(async move { Ok(body.len().to_string().into_bytes()) }));
    nodes[1].transport.serve("much", |_, _| Box::pin(async { Ok(vec![1; BODY_BYTES_MAX + 1]) }));
    let call = |kind, bytes| nodes[0].transport.call(NodeId(2), kind, vec![3; bytes], LIMIT);
    assert_eq!(call("count", BODY_BYTES_MAX).await.unwrap(), b"16777216");
    assert!(matches!(call("count", BODY_BYTES_MAX + 1).await, Err(CallError::Refused(_))));
    assert!(matches!(call("much", 0).await, Err(CallError::Refused(words)) if words.contains("exceeds")));
    // Nobody reads the body of a call that nobody serves.
    assert_eq!(call("nothing", BODY_BYTES_MAX).await, Err(CallError::NoHandler));
}

#[tokio::test]
async fn many_calls_at_once_are_all_answered() {
    let herd = Herd::new(16);
    let nodes = herd.nodes(2).await;
    let served = Arc::new(AtomicUsize::new(0));
    let counting = served.clone();
    nodes[1].transport.serve("slow", move |_, body| {
        counting.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            tokio::task::yield_now().await;
            Ok(body)
        })
    });
    // More than a peer may have open at once.
    let calls = (0..1000u32).map(|n| nodes[0].transport.call(NodeId(2), "slow", n.to_be_bytes().to_vec(), LIMIT));
    for (n, answer) in futures::future::join_all(calls).await.into_iter().enumerate() {
        assert_eq!(answer.unwrap(), u32::try_from(n).unwrap().to_be_bytes());
    }
    assert_eq!(served.load(Ordering::Relaxed), 1000);
}

#[tokio::test]
async fn a_stream_runs_both_ways_and_ends_by_halves() {
    let herd = Herd::new(17);
    let nodes = herd.nodes(2).await;
    serve_upper(&nodes[1]);
    assert_eq!(upper(&nodes[0], NodeId(2)).await, "HELLO, N1");
}

/// Answers, once the other half is closed, with all it got in capitals.
fn serve_upper(node: &Node) {
    node.transport.serve_stream("upper", |from, hello, mut stream| {
        Box::pin(async move {
            let mut text = String::from_utf8(hello).unwrap();
            stream.read_to_string(&mut text).await.unwrap();
            stream.write_all(format!("{text}, n{from}").to_uppercase().as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        })
    });
}

async fn upper(node: &Node, to: NodeId) -> String {
    let mut stream = node.transport.open_stream(to, "upper", b"he".to_vec()).await.unwrap();
    stream.write_all(b"llo").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

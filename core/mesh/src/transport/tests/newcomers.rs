//! Those who know only a token or a fingerprint.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::identity::{JoinToken, fingerprint};

#[tokio::test]
async fn a_newcomer_with_a_token_is_answered() {
    let herd = Herd::new(70);
    let node = herd.nodes(1).await.remove(0);
    let token = JoinToken::create(&*herd.chance, herd.authority.certificate());
    let addr = node.transport.advertise();
    let error = join_request(&node.world, addr, &token, b"me".to_vec()).await.unwrap_err();
    assert!(matches!(error, JoinError::Refused(_)), "{error}");
    node.transport.serve_join(|_, request| {
        Box::pin(async move { if request == b"me" { Ok(b"welcome".repeat(100_000)) } else { Err("who?".into()) } })
    });
    assert_eq!(join_request(&node.world, addr, &token, b"me".to_vec()).await.unwrap(), b"welcome".repeat(100_000));
    let error = join_request(&node.world, addr, &token, b"you".to_vec()).await.unwrap_err();
    assert_eq!(error.to_string(), "who?");
}

#[tokio::test]
async fn a_newcomer_tells_nothing_to_another_cluster() {
    let herd = Herd::new(71);
    let node = herd.nodes(1).await.remove(0);
    node.transport.serve_join(|_, _| Box::pin(async { Ok(vec![]) }));
    let other = JoinToken::create(&*herd.chance, b"another authority");
    let error = join_request(&node.world, node.transport.advertise(), &other, b"me".to_vec()).await.unwrap_err();
    assert!(matches!(error, JoinError::AnotherCluster { .. }), "{error}");
    // Nor to one that shows the right authority but was not certified by it.
    let right = JoinToken::create(&*herd.chance, herd.authority.certificate());
    let thief_herd = Herd::new(72);
    let mut stolen = thief_herd.identity(2);
    stolen.ca = herd.authority.certificate().to_vec();
    let thief = thief_herd.start(stolen, 0).await;
    thief.transport.serve_join(|_, _| Box::pin(async { Ok(vec![]) }));
    let error = join_request(&node.world, thief.transport.advertise(), &right, b"me".to_vec()).await.unwrap_err();
    assert!(!matches!(error, JoinError::Refused(_) | JoinError::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn whoever_is_not_there_or_no_agent_is_told_apart() {
    let herd = Herd::new(73);
    let node = herd.nodes(1).await.remove(0);
    let token = JoinToken::create(&*herd.chance, herd.authority.certificate());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"220 mail.example.com ESMTP\r\n").await.unwrap();
    });
    let error = join_request(&node.world, addr, &token, vec![]).await.unwrap_err();
    assert!(matches!(error, JoinError::NotAnAgent { .. }), "{error}");
    let closed = std::net::TcpListener::bind(herd.addr(NodeId(9), 0)).unwrap().local_addr().unwrap();
    let error = join_request(&node.world, closed, &token, vec![]).await.unwrap_err();
    assert!(matches!(error, JoinError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn https_is_for_anybody_and_knows_members() {
    let herd = Herd::new(74);
    let nodes = herd.nodes(2).await;
    nodes[0].transport.serve_https(|mut https| {
        Box::pin(async move {
            let text = format!("{:?}", https.node.map(|node| node.0));
            https.stream.write_all(text.as_bytes()).await.unwrap();
            https.stream.shutdown().await.unwrap();
        })
    });
    let addr = nodes[0].transport.advertise();
    let ca = fingerprint(herd.authority.certificate());
    let (mut stream, _) = connect_https(&nodes[0].world, addr, ca).await.unwrap();
    let mut text = String::new();
    within(stream.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "None");
    let tls = nodes[1].transport.shared.tls.https_client();
    let name = nodes[0].transport.shared.name_of(NodeId(1)).try_into().unwrap();
    let stream = nodes[1].world.net.connect(addr).await.unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(tls).connect(name, stream).await.unwrap();
    let mut text = String::new();
    within(stream.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "Some(2)");
}

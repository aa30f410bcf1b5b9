//! Ports that are taken, and given back.

use super::*;

#[tokio::test]
async fn a_taken_port_is_said_plainly() {
    let herd = Herd::new(90);
    let node = herd.nodes(1).await.remove(0);
    let again = |bind: SocketAddr| {
        Transport::start(TransportConfig {
            world: node.world.clone(),
            identity: node.identity.clone(),
            bind,
            advertise: bind,
            peers: herd.peers.subscribe(),
            streams: tokio::runtime::Handle::current(),
        })
    };
    let error = again(node.transport.advertise()).await.err().unwrap();
    assert!(matches!(error, TransportError::PortTaken { protocol: "tcp", .. }), "{error}");
    let udp = std::net::UdpSocket::bind(herd.addr(NodeId(2), 0)).unwrap();
    let error = again(udp.local_addr().unwrap()).await.err().unwrap();
    assert!(error.to_string().contains("udp port 127.0.90.2:"), "{error}");
    // An address of no interface here (RFC 5737).
    let error = again("192.0.2.1:7400".parse().unwrap()).await.err().unwrap();
    assert!(matches!(error, TransportError::Bind { .. }), "{error}");
}

#[tokio::test]
async fn a_port_is_free_again_after_closing() {
    let herd = Herd::new(91);
    let nodes = herd.nodes(2).await;
    nodes[1].serve_echo();
    nodes[0].echo(NodeId(2), "x").await.unwrap();
    let Node { identity, transport, .. } = herd.start(herd.identity(3), 0).await;
    let port = transport.advertise().port();
    transport.close().await;
    drop(transport);
    // Its tasks let go of the sockets as they end.
    within(async {
        loop {
            let addr = herd.addr(NodeId(3), port);
            if std::net::UdpSocket::bind(addr).is_ok() && std::net::TcpListener::bind(addr).is_ok() {
                break;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    herd.start(identity, port).await;
}

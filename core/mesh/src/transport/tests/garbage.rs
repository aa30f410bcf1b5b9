//! Whatever arrives at the ports, the node goes on.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::identity::JoinToken;
use crate::seam::Chance;

fn noise(herd: &Herd, length: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(length).unwrap()];
    herd.chance.fill(&mut bytes);
    bytes
}

#[tokio::test]
async fn random_and_truncated_datagrams_do_no_harm() {
    let herd = Herd::new(110);
    let nodes = herd.nodes(2).await;
    nodes[1].serve_echo();
    assert_eq!(nodes[0].echo(NodeId(2), "before").await.unwrap(), "1:before");
    // A true first packet, to be cut and altered: that of a dial to a socket which only listens.
    let listening = tokio::net::UdpSocket::bind(herd.addr(NodeId(9), 0)).await.unwrap();
    herd.put(NodeId(9), listening.local_addr().unwrap(), [0; 32]);
    let _ = nodes[0].transport.call(NodeId(9), "echo", vec![], Duration::from_millis(50)).await;
    let mut first = vec![0; 2000];
    let length = within(listening.recv(&mut first)).await.unwrap();
    first.truncate(length);
    let socket = tokio::net::UdpSocket::bind(herd.addr(NodeId(8), 0)).await.unwrap();
    let to = nodes[1].transport.advertise();
    for n in 0..2000 {
        let packet = match n % 4 {
            0 => noise(&herd, herd.chance.number() % 1500),
            1 => first[..n % first.len()].to_vec(),
            2 => {
                let mut packet = first.clone();
                let index = usize::try_from(herd.chance.number()).unwrap() % packet.len();
                packet[index] ^= 1 << (n % 8);
                packet
            }
            // Looks like a packet of a connection that is up.
            _ => [&[0x40 | (n % 64) as u8], noise(&herd, 60).as_slice()].concat(),
        };
        socket.send_to(&packet, to).await.unwrap();
    }
    assert_eq!(nodes[0].echo(NodeId(2), "after").await.unwrap(), "1:after");
    assert!(nodes[1].transport.shared.endpoint.open_connections() < 100);
}

#[tokio::test]
async fn random_truncated_and_silent_connections_do_no_harm() {
    let herd = Herd::new(111);
    let nodes = herd.nodes(2).await;
    let to = nodes[1].transport.advertise();
    nodes[1].transport.serve_join(|_, request| Box::pin(async move { Ok(request) }));
    let token = JoinToken::create(&*herd.chance, herd.authority.certificate());
    let hello = client_hello(&nodes[0]).await;
    let mut silent = Vec::new();
    for n in 0..200 {
        let mut stream = TcpStream::connect(to).await.unwrap();
        let sent = match n % 4 {
            0 => noise(&herd, 1 + herd.chance.number() % 4000),
            1 => hello[..n * hello.len() / 200].to_vec(),
            2 => {
                let mut altered = hello.clone();
                let index = usize::try_from(herd.chance.number()).unwrap() % altered.len();
                altered[index] ^= 1 << (n % 8);
                altered
            }
            _ => Vec::new(),
        };
        // It may hang up before it has read everything.
        let _ = stream.write_all(&sent).await;
        if n % 4 == 3 {
            silent.push(stream);
        }
    }
    let answer = join_request(&nodes[0].world, to, &token, b"still there?".to_vec()).await.unwrap();
    assert_eq!(answer, b"still there?");
    // Whoever says nothing is closed in the end.
    let mut byte = [0];
    assert_eq!(within(silent[0].read(&mut byte)).await.unwrap_or(0), 0);
}

/// The first bytes of a TLS client that wants to join.
async fn client_hello(node: &Node) -> Vec<u8> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let token = JoinToken::create(&Counting::from(1), b"");
    let (_, hello) = tokio::join!(join_request(&node.world, addr, &token, vec![]), async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut hello = vec![0; 4000];
        let length = stream.read(&mut hello).await.unwrap();
        hello.truncate(length);
        hello
    });
    hello
}

#[tokio::test]
async fn an_address_that_holds_many_connections_keeps_nobody_else_out() {
    let herd = Herd::new(114);
    let nodes = herd.nodes(2).await;
    let to = nodes[1].transport.advertise();
    nodes[1].transport.serve_join(|_, request| Box::pin(async move { Ok(request) }));
    let token = JoinToken::create(&*herd.chance, herd.authority.certificate());
    let mut silent = Vec::new();
    for _ in 0..300 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.66:0".parse().unwrap()).unwrap();
        silent.push(socket.connect(to).await.unwrap());
    }
    // Those beyond the limit of their address are closed at once, the others are waited for.
    let mut byte = [0];
    assert_eq!(within(silent[299].read(&mut byte)).await.unwrap_or(0), 0);
    assert!(silent[0].try_read(&mut byte).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
    assert_eq!(join_request(&nodes[0].world, to, &token, b"me".to_vec()).await.unwrap(), b"me");
}

#[tokio::test]
async fn a_protocol_that_is_not_ours_is_closed() {
    let herd = Herd::new(112);
    let node = herd.nodes(1).await.remove(0);
    let mut config = (*node.transport.shared.tls.https_client()).clone();
    config.alpn_protocols = vec![b"smtp".to_vec()];
    let stream = node.world.net.connect(node.transport.advertise()).await.unwrap();
    let name = node.transport.shared.name_of(NodeId(1)).try_into().unwrap();
    let connected = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream);
    assert!(within(connected).await.is_err());
}

#[tokio::test]
async fn members_that_speak_nonsense_do_no_harm() {
    let herd = Herd::new(113);
    let nodes = herd.nodes(2).await;
    nodes[1].serve_echo();
    let connection = nodes[0].transport.shared.connection(NodeId(2)).await.unwrap();
    for n in 0..200 {
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        let _ = send.write_all(&noise(&herd, n % 50)).await;
        let _ = send.finish();
        let mut message = connection.open_uni().await.unwrap();
        let _ = message.write_all(&noise(&herd, n)).await;
        let _ = message.finish();
        let _ = connection.send_datagram(noise(&herd, n % 12).into());
    }
    assert_eq!(nodes[0].echo(NodeId(2), "still there?").await.unwrap(), "1:still there?");
}

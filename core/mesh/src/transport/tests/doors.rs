//! Doors to instances.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

fn instance(number: u64) -> InstanceId {
    format!("shop/web/{number}").parse().unwrap()
}

/// An instance that answers what it got, reversed, once the other half is closed.
async fn reversing() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut text = Vec::new();
                stream.read_to_end(&mut text).await.unwrap();
                text.reverse();
                stream.write_all(&text).await.unwrap();
                stream.shutdown().await.unwrap();
            });
        }
    });
    addr
}

async fn ask(mut door: BoxStream, text: &[u8]) -> Vec<u8> {
    // The other side answers only when this half is closed, and this half must stay open for reading.
    door.write_all(text).await.unwrap();
    door.shutdown().await.unwrap();
    let mut answer = Vec::new();
    within(door.read_to_end(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn a_door_leads_to_an_instance_in_both_directions() {
    let herd = Herd::new(50);
    let nodes = herd.nodes(2).await;
    let addr = nodes[1].transport.advertise();
    nodes[1].transport.publish_doors([(instance(1), reversing().await)].into());
    let open = || nodes[0].transport.open_door(NodeId(2), addr, &INSTANCE);
    static INSTANCE: std::sync::LazyLock<InstanceId> = std::sync::LazyLock::new(|| instance(1));
    assert_eq!(ask(open().await.unwrap(), b"abc").await, b"cba");
    let mut large: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let answer = ask(open().await.unwrap(), &large).await;
    large.reverse();
    assert!(answer == large);
}

#[tokio::test]
async fn a_door_to_oneself_is_the_instance() {
    let herd = Herd::new(51);
    let node = herd.nodes(1).await.remove(0);
    node.transport.publish_doors([(instance(1), reversing().await)].into());
    let door = node.transport.open_door(NodeId(1), node.transport.advertise(), &instance(1)).await.unwrap();
    assert_eq!(ask(door, b"abc").await, b"cba");
}

#[tokio::test]
async fn a_door_that_leads_nowhere_says_so() {
    let herd = Herd::new(52);
    let nodes = herd.nodes(2).await;
    let closed = std::net::TcpListener::bind(herd.addr(NodeId(9), 0)).unwrap().local_addr().unwrap();
    nodes[1].transport.publish_doors([(instance(1), closed)].into());
    let addr = nodes[1].transport.advertise();
    let open = async |addr, number| {
        let opened = nodes[0].transport.open_door(NodeId(2), addr, &instance(number)).await;
        opened.err().expect("no door").kind()
    };
    assert_eq!(open(addr, 1).await, io::ErrorKind::ConnectionRefused);
    assert_eq!(open(addr, 2).await, io::ErrorKind::NotFound);
    assert_eq!(open(closed, 1).await, io::ErrorKind::ConnectionRefused);
    // The port of another node is not taken for this one.
    assert!(nodes[0].transport.open_door(NodeId(2), nodes[0].transport.advertise(), &instance(1)).await.is_err());
}

#[tokio::test]
async fn an_instance_that_hangs_up_closes_the_door() {
    let herd = Herd::new(53);
    let nodes = herd.nodes(2).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    nodes[1].transport.publish_doors([(instance(1), listener.local_addr().unwrap())].into());
    let mut door = nodes[0].transport.open_door(NodeId(2), nodes[1].transport.advertise(), &instance(1)).await.unwrap();
    let (mut accepted, _) = listener.accept().await.unwrap();
    accepted.write_all(b"bye").await.unwrap();
    drop(accepted);
    let mut answer = Vec::new();
    within(door.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"bye");
}

#[tokio::test]
async fn doors_open_for_members_only_and_close_when_one_leaves() {
    let herd = Herd::new(54);
    let nodes = herd.nodes(2).await;
    let addr = nodes[1].transport.advertise();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    nodes[1].transport.publish_doors([(instance(1), listener.local_addr().unwrap())].into());
    let stranger = herd.start_with(herd.identity(3), 0, herd.peers.subscribe()).await;
    assert!(stranger.transport.open_door(NodeId(2), addr, &instance(1)).await.is_err());
    let mut door = nodes[0].transport.open_door(NodeId(2), addr, &instance(1)).await.unwrap();
    let (mut accepted, _) = listener.accept().await.unwrap();
    herd.unpin(NodeId(1));
    let mut byte = [0];
    assert_eq!(within(accepted.read(&mut byte)).await.unwrap_or(0), 0);
    assert_eq!(within(door.read(&mut byte)).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn datagrams_pass_a_door_one_by_one_and_only_the_instance_answers() {
    let herd = Herd::new(55);
    let nodes = herd.nodes(2).await;
    let instance_socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    nodes[1].transport.publish_doors([(instance(1), instance_socket.local_addr().unwrap())].into());
    let addr = nodes[1].transport.advertise();
    let mut door = nodes[0].transport.open_datagram_door(NodeId(2), addr, &instance(1)).await.unwrap();
    let mut incoming = datagrams::Incoming::default();
    let mut room = vec![0; 70_000];
    let mut client = None;
    for text in [&b"one"[..], b"", &[7; 30_000]] {
        datagrams::write(&mut door, text).await.unwrap();
        let (length, from) = within(instance_socket.recv_from(&mut room)).await.unwrap();
        assert!(room[..length] == *text);
        assert_eq!(*client.get_or_insert(from), from, "one door is one client");
        let stranger = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        stranger.send_to(b"astray", (std::net::Ipv4Addr::LOCALHOST, from.port())).await.unwrap();
        instance_socket.send_to(text, (std::net::Ipv4Addr::LOCALHOST, from.port())).await.unwrap();
        assert!(within(incoming.next(&mut door)).await.unwrap().unwrap() == *text);
    }
    let nowhere = nodes[0].transport.open_datagram_door(NodeId(2), addr, &instance(2)).await;
    assert_eq!(nowhere.err().expect("no door").kind(), io::ErrorKind::NotFound);
    assert!(nodes[1].transport.open_datagram_door(NodeId(2), addr, &instance(1)).await.is_err(), "it is this node");
}

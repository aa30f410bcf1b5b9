//! Whether somebody is there, without being a member: a TCP connection that is closed again, and a QUIC packet that everybody who
//! speaks QUIC must answer.
//!
//! The packet asks for a version that does not exist, so the answer is a list of versions (RFC 9000, section 6): no state is kept on
//! the other side, and no connection is disturbed. It has 1,200 bytes, the least that every path must carry for QUIC, and our
//! sockets forbid its fragmentation: an answer shows that the path carries it.

use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::AsyncUdpSocket;
use quinn::udp::{RecvMeta, Transmit};
use tokio::time::{Instant, timeout};

use crate::seam::World;

/// The datagram that a path must carry (RFC 9000, section 14).
pub const DATAGRAM_BYTES: usize = 1_200;
/// A datagram may be lost: three are sent, each waited for so long.
const ANSWER_WITHIN: Duration = Duration::from_millis(700);
const TRIES: usize = 3;
/// A connection takes no longer than this.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// One of the versions that are reserved for being unknown (RFC 9000, section 15).
const NO_VERSION: [u8; 4] = [0x1a, 0x2a, 0x3a, 0x4a];
const ID_BYTES: usize = 8;

/// Opens a TCP connection to `addr` and closes it again. Says how long it took.
pub async fn knock_tcp(world: &World, addr: SocketAddr) -> io::Result<Duration> {
    let began = Instant::now();
    let connected = timeout(CONNECT_WITHIN, world.net.connect(addr)).await;
    let stream = connected.map_err(|_| late(CONNECT_WITHIN))??;
    drop(stream);
    Ok(began.elapsed())
}

/// Sends a full QUIC packet to `addr` and waits for the answer. Says how long the way there and back takes.
pub async fn knock_udp(world: &World, addr: SocketAddr) -> io::Result<Duration> {
    let any: IpAddr = match addr {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = world.net.udp(SocketAddr::new(any, 0)).await?;
    let mut id = [0; ID_BYTES];
    world.chance.fill(&mut id);
    let packet = packet(&id);
    for _ in 0..TRIES {
        let began = Instant::now();
        send(&socket, addr, &packet).await?;
        if let Ok(answered) = timeout(ANSWER_WITHIN, answer(&socket, &id)).await {
            answered?;
            return Ok(began.elapsed());
        }
    }
    Err(late(ANSWER_WITHIN * TRIES as u32))
}

fn late(within: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} ms", within.as_millis()))
}

/// A long header with an unknown version, the id of the other side and ours, and nothing else.
fn packet(id: &[u8; ID_BYTES]) -> Vec<u8> {
    let mut packet = vec![0xc0];
    packet.extend(NO_VERSION);
    for _ in 0..2 {
        packet.push(ID_BYTES as u8);
        packet.extend(id);
    }
    packet.resize(DATAGRAM_BYTES, 0);
    packet
}

/// Whether `datagram` lists versions in answer to the packet with `id`.
fn is_answer(datagram: &[u8], id: &[u8; ID_BYTES]) -> bool {
    let long = datagram.first().is_some_and(|first| first & 0x80 != 0);
    let to_us = datagram.get(5).is_some_and(|length| usize::from(*length) == ID_BYTES);
    long && datagram.get(1..5) == Some(&[0; 4]) && to_us && datagram.get(6..6 + ID_BYTES) == Some(id)
}

/// What came back, as the one who knocked reads it.
pub(super) fn decode(datagram: &[u8]) {
    let _ = is_answer(datagram, &[7; ID_BYTES]);
}

async fn send(socket: &Arc<dyn AsyncUdpSocket>, addr: SocketAddr, packet: &[u8]) -> io::Result<()> {
    let transmit = Transmit { destination: addr, ecn: None, contents: packet, segment_size: None, src_ip: None };
    let mut poller = socket.clone().create_io_poller();
    loop {
        match socket.try_send(&transmit) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll_fn(|context| poller.as_mut().poll_writable(context)).await?;
            }
            sent => return sent,
        }
    }
}

async fn answer(socket: &Arc<dyn AsyncUdpSocket>, id: &[u8; ID_BYTES]) -> io::Result<()> {
    let mut buffer = vec![0; 65_535];
    loop {
        let mut meta = [RecvMeta::default()];
        let received = poll_fn(|context| {
            let mut buffers = [IoSliceMut::new(&mut buffer)];
            socket.poll_recv(context, &mut buffers, &mut meta)
        });
        let count = received.await?;
        let length = if count > 0 { meta[0].len.min(buffer.len()) } else { 0 };
        if is_answer(&buffer[..length], id) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_list_of_versions_for_us_is_an_answer() {
        let id = [7; ID_BYTES];
        let mut good = vec![0x80, 0, 0, 0, 0, 8];
        good.extend(id);
        assert!(is_answer(&good, &id));
        assert!(!is_answer(&good, &[8; ID_BYTES]) && !is_answer(&good[..10], &id) && !is_answer(&[], &id));
        good[4] = 1;
        assert!(!is_answer(&good, &id), "a version is not a list of them");
        assert_eq!(packet(&id).len(), DATAGRAM_BYTES);
    }
}

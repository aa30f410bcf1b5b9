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
use tokio::time::{Instant, timeout, timeout_at};

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

/// Payloads that are tried beyond [`DATAGRAM_BYTES`], as they fill packets on ways that are known to be narrow (IPv6's least, tunnels,
/// overlays), on Ethernet, and where jumbo frames are sent. IPv6 has 20 bytes less of each.
const PAYLOADS: [usize; 8] = [1_200, 1_232, 1_372, 1_392, 1_422, 1_472, 8_873, 8_972];
/// Bytes of an IPv4 and a UDP header.
pub const HEADERS_BYTES: u64 = 28;
/// What is not answered by then is too large, or was lost: it is sent again.
const PAYLOAD_WITHIN: Duration = Duration::from_millis(250);

/// The largest packet that is known to be sent in one piece towards somebody, and the largest that arrived there. Lengths count the IP
/// header. Nothing is fragmented on the way: our sockets forbid it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// As far as this host knows; none where it does not.
    pub mtu: Option<u64>,
    /// What was answered of the sizes that were tried; none if nothing was.
    pub arrived: Option<u64>,
    /// The largest that was tried within `mtu`.
    pub tried: u64,
}

/// Sends full QUIC packets of several sizes to `addr`, and says which arrive.
///
/// # Errors
/// When there is no socket to send from.
pub async fn knock_sizes(world: &World, addr: SocketAddr) -> io::Result<Carried> {
    let any: IpAddr = if addr.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let less = if addr.is_ipv4() { 0 } else { 20 };
    let mtu = world.net.mtu(addr);
    let fits = |payload: &usize| mtu.is_none_or(|mtu| *payload as u64 + HEADERS_BYTES <= mtu);
    let mut sizes: Vec<usize> = PAYLOADS.iter().copied().filter(fits).collect();
    sizes.sort_unstable();
    let tried = sizes.last().map_or(0, |payload| *payload as u64 + HEADERS_BYTES);
    let socket = world.net.udp(SocketAddr::new(any, 0)).await?;
    let mut seed = [0; ID_BYTES];
    world.chance.fill(&mut seed);
    // Each size has an id of its own, which the answer repeats.
    let mut waiting: Vec<(usize, [u8; ID_BYTES])> =
        (0_u8..).zip(sizes).map(|(n, size)| (size, id_of(seed, n))).collect();
    let mut arrived = None;
    for _ in 0..TRIES {
        for (size, id) in &waiting {
            let mut packet = packet(id);
            packet.resize(size - less, 0);
            send(&socket, addr, &packet).await?;
        }
        let deadline = Instant::now() + PAYLOAD_WITHIN;
        while let Ok(answered) = timeout_at(deadline, answer_to(&socket, &waiting)).await {
            let size = answered?;
            waiting.retain(|(other, _)| *other > size);
            arrived = arrived.max(Some(size as u64 + HEADERS_BYTES));
            if waiting.is_empty() {
                break;
            }
        }
        if waiting.is_empty() {
            break;
        }
    }
    Ok(Carried { mtu, arrived, tried })
}

fn id_of(mut seed: [u8; ID_BYTES], number: u8) -> [u8; ID_BYTES] {
    seed[0] = number;
    seed
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
    answer_to(socket, &[(DATAGRAM_BYTES, *id)]).await.map(drop)
}

/// Which of those is answered first.
async fn answer_to(socket: &Arc<dyn AsyncUdpSocket>, ids: &[(usize, [u8; ID_BYTES])]) -> io::Result<usize> {
    let mut buffer = vec![0; 65_535];
    loop {
        let mut meta = [RecvMeta::default()];
        let received = poll_fn(|context| {
            let mut buffers = [IoSliceMut::new(&mut buffer)];
            socket.poll_recv(context, &mut buffers, &mut meta)
        });
        let count = received.await?;
        let length = if count > 0 { meta[0].len.min(buffer.len()) } else { 0 };
        if let Some((size, _)) = ids.iter().find(|(_, id)| is_answer(&buffer[..length], id)) {
            return Ok(*size);
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

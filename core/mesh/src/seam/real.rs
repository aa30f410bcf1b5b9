//! The real world: the operating system behind the seams.
//!
//! Sockets are tokio's, the data folder is a directory of this process alone, the clock goes on while the host sleeps, and chance
//! comes from the kernel. Nothing in here decides anything.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hirsel_model::{Timestamp, WallTime};
use quinn::Runtime;
use ring::rand::{SecureRandom, SystemRandom};
use rustix::net::sockopt;
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, Protocol, SockFilter, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::{BoxStream, Chance, Clock, Gate, Listener, Net, World};

mod disk;
mod volume;

pub use disk::FolderDisk;
pub use volume::FolderVolume;

/// A socket of the operating system, which quinn asks its runtime to wrap. Nobody opens one but [`Net::udp`].
pub(crate) type SystemSocket = std::net::UdpSocket;

/// Buffers of the UDP socket. A burst of gossip from a few hundred nodes must fit while the agent is not scheduled; the kernel cuts
/// it down to `net.core.rmem_max` where that is lower.
const UDP_BUFFER_BYTES: usize = 4 << 20;
/// Connections the kernel holds for us before they are accepted: a restarting agent meets all its peers at once.
const ACCEPT_BACKLOG: u32 = 1024;
/// An idle stream is probed after this, so that what hangs on a vanished host ends although nobody writes.
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(10);
/// Interval of the probes, and how many may stay unanswered.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(3);
const KEEP_ALIVE_PROBES: u32 = 3;

/// The world of an agent whose data is in `folder`, which is made if it is missing and locked for this process.
pub fn world(folder: &Path) -> io::Result<World> {
    Ok(World {
        net: Arc::new(OsNet),
        disk: Arc::new(FolderDisk::open(folder)?),
        clock: Arc::new(OsClock),
        chance: chance(),
    })
}

/// Chance alone, for who needs nothing else of a world.
pub fn chance() -> Arc<dyn Chance> {
    Arc::new(OsChance(SystemRandom::new()))
}

/// The kernel's sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsNet;

impl Net for OsNet {
    fn udp(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Arc<dyn quinn::AsyncUdpSocket>>> {
        async move { bound(udp_socket(addr)?, addr) }.boxed()
    }

    fn udp_ahead(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Arc<dyn quinn::AsyncUdpSocket>>> {
        async move {
            let socket = udp_socket(addr)?;
            set_freebind(&socket, addr)?;
            bound(socket, addr)
        }
        .boxed()
    }

    fn listen(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        async move {
            let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // A restarted agent must not wait for the last life's connections to leave TIME_WAIT.
            socket.set_reuseaddr(true)?;
            socket.bind(addr)?;
            let listener = socket.listen(ACCEPT_BACKLOG)?;
            Ok(Box::new(OsListener(listener)) as Box<dyn Listener>)
        }
        .boxed()
    }

    fn udp_on<'a>(
        &'a self,
        addr: SocketAddr,
        interface: &'a str,
    ) -> BoxFuture<'a, io::Result<Arc<dyn quinn::AsyncUdpSocket>>> {
        async move {
            let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
            socket.bind_device(Some(interface.as_bytes()))?;
            socket.set_nonblocking(true)?;
            socket.bind(&addr.into())?;
            quinn::TokioRuntime.wrap_udp_socket(socket.into())
        }
        .boxed()
    }

    fn listen_ahead(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        async move {
            let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            set_freebind(&socket, addr)?;
            socket.set_nonblocking(true)?;
            socket.bind(&addr.into())?;
            socket.listen(i32::try_from(ACCEPT_BACKLOG).unwrap_or(i32::MAX))?;
            let listener = TcpListener::from_std(socket.into())?;
            Ok(Box::new(OsListener(listener)) as Box<dyn Listener>)
        }
        .boxed()
    }

    fn connect(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        async move { Ok(Box::new(tuned(TcpStream::connect(addr).await?)) as BoxStream) }.boxed()
    }

    fn mtu(&self, addr: SocketAddr) -> Option<u64> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP)).ok()?;
        // Sends nothing: only the route is looked up.
        socket.connect(&addr.into()).ok()?;
        let mtu = if addr.is_ipv4() { sockopt::ip_mtu(&socket) } else { sockopt::ipv6_mtu(&socket) };
        mtu.ok().map(u64::from)
    }
}

fn udp_socket(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // More than the kernel allows is no error, and less is only slower.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(UDP_BUFFER_BYTES);
    Ok(socket)
}

fn bound(socket: Socket, addr: SocketAddr) -> io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    quinn::TokioRuntime.wrap_udp_socket(socket.into())
}

fn set_freebind(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    match addr {
        SocketAddr::V4(_) => socket.set_freebind_v4(true),
        SocketAddr::V6(_) => socket.set_freebind_v6(true),
    }
}

struct OsListener(TcpListener);

impl Listener for OsListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        async move {
            let (stream, from) = self.0.accept().await?;
            Ok((Box::new(tuned(stream)) as BoxStream, from))
        }
        .boxed()
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn gate(&self) -> Option<Arc<dyn Gate>> {
        let socket = socket2::SockRef::from(&self.0).try_clone().ok()?;
        Some(Arc::new(OsGate(socket)))
    }
}

/// The same socket once more, which drops what asks for a connection while it is shut.
struct OsGate(Socket);

impl Gate for OsGate {
    fn set_shut(&self, shut: bool) -> io::Result<()> {
        if !shut {
            return match self.0.detach_filter() {
                // It was not shut.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                done => done,
            };
        }
        self.0.attach_filter(&DROPS_SYN)
    }
}

/// A program of the kernel's packet filter, over the head of TCP: drops a SYN without an ACK and passes everything else, so that a
/// handshake that began is ended.
const DROPS_SYN: [SockFilter; 5] = [
    // The flags.
    SockFilter::new(0x30, 0, 0, 13),
    SockFilter::new(0x54, 0, 0, 0x12),
    SockFilter::new(0x15, 0, 1, 0x02),
    SockFilter::new(0x06, 0, 0, 0),
    SockFilter::new(0x06, 0, 0, u32::MAX),
];

/// Sends at once and notices a vanished peer. A socket that refuses an option still works, or fails at the next use.
fn tuned(stream: TcpStream) -> TcpStream {
    let _ = stream.set_nodelay(true);
    let probes =
        TcpKeepalive::new().with_time(KEEP_ALIVE_AFTER).with_interval(KEEP_ALIVE_EVERY).with_retries(KEEP_ALIVE_PROBES);
    let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&probes);
    stream
}

/// The kernel's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsClock;

impl Clock for OsClock {
    fn now(&self) -> Timestamp {
        Timestamp(milliseconds(ClockId::Boottime))
    }

    fn wall(&self) -> WallTime {
        WallTime(milliseconds(ClockId::Realtime))
    }
}

fn milliseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    // Before 1970, or before the host started, there is nothing.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}

/// The kernel's random numbers.
#[derive(Debug)]
pub struct OsChance(SystemRandom);

impl Chance for OsChance {
    fn fill(&self, bytes: &mut [u8]) {
        // getrandom(2) cannot fail for a valid buffer once the kernel has started.
        self.0.fill(bytes).expect("the kernel gives random bytes");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn the_clocks_run() {
        let clock = OsClock;
        let (now, wall) = (clock.now(), clock.wall());
        assert!(now.0 > 0, "the host has been up for a while");
        assert!(wall.0 > 1_700_000_000_000, "it is later than 2023");
        assert!(clock.now() >= now);
    }

    #[test]
    fn chance_does_not_repeat_itself() {
        let chance = OsChance(SystemRandom::new());
        assert_ne!(chance.number(), chance.number());
    }

    #[tokio::test]
    async fn a_stream_carries_bytes_both_ways() {
        let mut listener = OsNet.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (client, server) = tokio::join!(OsNet.connect(addr), listener.accept());
        let (mut client, (mut server, _)) = (client.unwrap(), server.unwrap());
        client.write_all(b"there").await.unwrap();
        server.write_all(b"back").await.unwrap();
        client.shutdown().await.unwrap();
        server.shutdown().await.unwrap();
        let (mut there, mut back) = (Vec::new(), Vec::new());
        server.read_to_end(&mut there).await.unwrap();
        client.read_to_end(&mut back).await.unwrap();
        assert_eq!((there.as_slice(), back.as_slice()), (&b"there"[..], &b"back"[..]));
    }

    #[tokio::test]
    async fn a_gate_holds_off_who_comes_and_nobody_who_is_there() {
        let mut listener = OsNet.listen_ahead("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let (addr, gate) = (listener.local_addr().unwrap(), listener.gate().unwrap());
        let mut there = OsNet.connect(addr).await.unwrap();
        let (mut here, _) = listener.accept().await.unwrap();
        gate.set_shut(true).unwrap();
        gate.set_shut(true).unwrap();
        let held_off = OsNet.connect(addr);
        tokio::pin!(held_off);
        let soon = std::time::Duration::from_millis(200);
        assert!(tokio::time::timeout(soon, &mut held_off).await.is_err(), "neither let in nor refused");
        there.write_all(b"x").await.unwrap();
        assert_eq!(here.read_u8().await.unwrap(), b'x');
        gate.set_shut(false).unwrap();
        gate.set_shut(false).unwrap();
        assert!(held_off.await.is_ok(), "it tried again by itself");
    }

    #[tokio::test]
    async fn a_udp_socket_waits_at_an_address_that_is_not_there_yet() {
        // Kept for documentation (RFC 5737): no host has it.
        let addr = "192.0.2.7:0".parse().unwrap();
        assert_eq!(OsNet.udp(addr).await.unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
        assert_eq!(OsNet.udp_ahead(addr).await.unwrap().local_addr().unwrap().ip(), addr.ip());
    }

    #[tokio::test]
    async fn a_taken_udp_port_is_refused() {
        let first = OsNet.udp("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let again = OsNet.udp(first.local_addr().unwrap()).await;
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}

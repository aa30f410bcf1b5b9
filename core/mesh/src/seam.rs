//! The seams: everything the outside world does to an agent comes through these four traits.
//!
//! In production they are the operating system ([`real`]); in simulation a seeded network, a disk that loses what was not synced, a
//! virtual clock and a seeded generator. Nothing above this module reads a clock, opens a socket or a file by itself. Waiting is
//! done with `tokio::time` only, which simulation runs in virtual time.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use hirsel_model::{Timestamp, WallTime};
use tokio::io::{AsyncRead, AsyncWrite};

mod datagrams;
pub mod real;
pub mod volume;

pub use datagrams::{Datagrams, Origin, Sender};

/// The world of one agent.
#[derive(Clone, Debug)]
pub struct World {
    /// Sockets.
    pub net: Arc<dyn Net>,
    /// The data folder.
    pub disk: Arc<dyn Disk>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub chance: Arc<dyn Chance>,
}

/// A byte stream in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}
/// A stream of any make.
pub type BoxStream = Box<dyn Stream>;

/// Accepts streams.
pub trait Listener: Send + Sync {
    /// The next stream and where it comes from. Cancel-safe.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>>;
    /// Where it listens.
    fn local_addr(&self) -> io::Result<SocketAddr>;
    /// What holds those off who want to connect; none where that cannot be done.
    fn gate(&self) -> Option<Arc<dyn Gate>> {
        None
    }
}

/// Holds those off who want to connect: they are neither let in nor refused, and try again by themselves (RFC 6298: after a second).
/// Whoever is connected, or about to be, is not concerned.
pub trait Gate: Send + Sync {
    /// Holds them off, or does not any more.
    fn set_shut(&self, shut: bool) -> io::Result<()>;
}

/// Sockets.
pub trait Net: Send + Sync + fmt::Debug {
    /// A UDP socket for the QUIC endpoint.
    fn udp(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Arc<dyn quinn::AsyncUdpSocket>>>;
    /// A TCP listener. A restarted process may take its address again at once.
    fn listen(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>>;
    /// A UDP socket that sends and hears on one network interface only.
    fn udp_on<'a>(
        &'a self,
        addr: SocketAddr,
        interface: &'a str,
    ) -> BoxFuture<'a, io::Result<Arc<dyn quinn::AsyncUdpSocket>>> {
        let _ = (addr, interface);
        Box::pin(std::future::ready(Err(io::ErrorKind::Unsupported.into())))
    }
    /// A TCP listener at an address that this host may have later only.
    fn listen_ahead(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        self.listen(addr)
    }
    /// A UDP socket at an address that this host may have later only.
    fn udp_ahead(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Arc<dyn quinn::AsyncUdpSocket>>> {
        self.udp(addr)
    }
    /// A TCP connection, without delay (Nagle off).
    fn connect(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>>;
    /// Largest IP packet that is sent towards `addr` in one piece, as far as this host knows: the interface's MTU, or what a router on
    /// the way said. None where nobody knows.
    fn mtu(&self, addr: SocketAddr) -> Option<u64> {
        let _ = addr;
        None
    }
}

/// The data folder of an agent. Paths are relative to it, with `/`; they never leave it.
pub trait Disk: Send + Sync + fmt::Debug {
    /// A file for an embedded database.
    fn backend(&self, path: &str) -> io::Result<Box<dyn redb::StorageBackend>>;
    /// The whole file, or none when there is no such file. At most 64 MiB.
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>>;
    /// Replaces the file, durably and whole: after a crash there is the old one or the new one. Created 0600.
    fn write(&self, path: &str, bytes: &[u8]) -> io::Result<()>;
    /// Removes the file; removing what is not there is no error.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Runs a piece of durable work (it blocks: it syncs) where it stalls nobody, and waits for it. In simulation this takes virtual
    /// time, during which the power may fail.
    fn run<'a>(&'a self, work: Box<dyn FnOnce() -> io::Result<()> + Send + 'static>) -> BoxFuture<'a, io::Result<()>>;
}

/// Time.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Monotonic, and running while the host sleeps (`CLOCK_BOOTTIME`).
    fn now(&self) -> Timestamp;
    /// For people and certificates, never to decide by.
    fn wall(&self) -> WallTime;
}

/// Chance.
pub trait Chance: Send + Sync + fmt::Debug {
    /// Fills `bytes` with unpredictable ones (in simulation: seeded ones).
    fn fill(&self, bytes: &mut [u8]);

    /// A number of 64 random bits.
    fn number(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

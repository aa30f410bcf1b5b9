//! Two kinds of connections with a peer, and what each costs while nobody speaks.
//!
//! On a *watched* one somebody waits for the peer, and wants to know soon when it is gone: control pings, calls, streams. Silence ends
//! it after a second, so it is kept alive four times a second.
//!
//! On a *resting* one there are only messages, which may be lost and which nobody waits for. Gossip draws its partners from all members, so
//! every agent has a connection with every other before long. If those were kept alive, too, each agent of 300 would send some 1,200
//! packets a second that say nothing, and receive as many. A handshake for each message instead would cost about the same. So these are
//! kept open and nothing is sent on them. A message that is not acknowledged in time ends one, as silence does the other.
//!
//! Messages use a watched connection where there is one: among few nodes there is one everywhere, and what is sent shares packets.
//! One that nobody needed for minutes is closed by the side that dialed it, or the node that once asked all others how they are would
//! keep them all alive for ever.
//!
//! Two nodes that dial each other in the same moment have two watched connections, each end sending on one of them. After two seconds
//! both use the one that the node with the lower id dialed, and the other is closed: each costs both ends eight packets a second.
//!
//! Which kind it is, is agreed on in the handshake (ALPN). A peer that is older knows watched ones only, and gets them.

use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use quinn::crypto::rustls::{HandshakeData, QuicClientConfig};
use quinn::{ClientConfig, Connection, VarInt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

use super::tls::MESH;

const GOSSIP: &[u8] = b"hirsel-gossip/1";

/// A watched peer that says nothing for this long is gone.
const IDLE: Duration = Duration::from_secs(1);
/// A quarter of it, so that two lost packets in a row close nothing.
const KEEP_ALIVE: Duration = Duration::from_millis(250);
/// A resting connection is forgotten after this. In a site of 300 every two nodes exchange messages each twelve seconds in the mean: next
/// to no connection is ever set up twice.
const REST: Duration = Duration::from_secs(120);
/// A watched connection that nobody needed for this long is closed. Longer than any call may take.
const UNUSED: Duration = Duration::from_secs(180);
/// Where both ends dialed in the same moment, both settle on one of the two connections after this. Longer than [`IDLE`]: what is up by
/// then is not what a peer left behind that was started anew.
pub(super) const SETTLE_AFTER: Duration = Duration::from_secs(2);
/// The other one is closed when nobody needed it for this long. Control pings go over whichever an end uses, four times a second.
const SPARE: Duration = Duration::from_secs(3);
/// The first retransmission waits three times this. QUIC's own 333 ms would make one lost handshake packet cost a second.
const INITIAL_RTT: Duration = Duration::from_millis(50);
/// Calls and streams a peer may have open at once; more wait at its side.
const STREAMS_PER_PEER_MAX: u32 = 256;
/// Gossip messages a peer may have under way at once.
const MESSAGES_PER_PEER_MAX: u32 = 64;
/// Packets that wait for one acknowledgement; QUIC's own are two. What is sent to a peer in one moment, a ping with a message and a
/// call, is then acknowledged by the answer to it, and needs no packet that says nothing else. More would let short bulk transfers
/// wait: of these as many packets are sent at first as ten.
const PACKETS_PER_ACKNOWLEDGEMENT: u32 = 5;
/// Bytes written and not acknowledged yet on one connection. On a slow link every bulk stream holds up to 1.25 MB of them, so that
/// dozens may run before a call waits to be written; QUIC's own limit is eight.
const UNACKNOWLEDGED_BYTES_MAX: u64 = 64 << 20;
/// Bytes of control pings waiting on one connection; each is 9 bytes.
const PINGS_BYTES_MAX: usize = 16 << 10;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    /// Somebody waits for the peer.
    Watched,
    /// Messages only.
    Resting,
}

impl Lane {
    /// Of which kind a connection is, as both ends agreed.
    pub(super) fn of(connection: &Connection) -> Lane {
        let agreed = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
        match agreed.and_then(|data| data.protocol) {
            Some(protocol) if protocol == GOSSIP => Lane::Resting,
            _ => Lane::Watched,
        }
    }

    /// What is offered to a peer, or accepted from one: it takes the first that it knows.
    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Lane::Watched => vec![MESH.into()],
            Lane::Resting => vec![GOSSIP.into(), MESH.into()],
        }
    }

    fn quic(self) -> io::Result<Arc<quinn::TransportConfig>> {
        let (idle, keep_alive) = match self {
            Lane::Watched => (IDLE, Some(KEEP_ALIVE)),
            Lane::Resting => (REST, None),
        };
        let mut acknowledging = quinn::AckFrequencyConfig::default();
        acknowledging.ack_eliciting_threshold(VarInt::from_u32(PACKETS_PER_ACKNOWLEDGEMENT - 1));
        let mut quic = quinn::TransportConfig::default();
        quic.ack_frequency_config(Some(acknowledging));
        quic.max_idle_timeout(Some(idle.try_into().map_err(io::Error::other)?))
            .keep_alive_interval(keep_alive)
            .initial_rtt(INITIAL_RTT)
            .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_PER_PEER_MAX))
            .max_concurrent_uni_streams(VarInt::from_u32(MESSAGES_PER_PEER_MAX))
            .send_window(UNACKNOWLEDGED_BYTES_MAX)
            .datagram_receive_buffer_size(Some(PINGS_BYTES_MAX))
            .datagram_send_buffer_size(PINGS_BYTES_MAX);
        Ok(Arc::new(quic))
    }
}

/// How connections of either kind are dialed.
pub(super) struct Dialing {
    watched: ClientConfig,
    resting: ClientConfig,
}

impl Dialing {
    pub(super) fn new(client: &rustls::ClientConfig) -> io::Result<Dialing> {
        let config = |lane: Lane| {
            let mut client = client.clone();
            client.alpn_protocols = lane.protocols();
            let client = QuicClientConfig::try_from(client).map_err(io::Error::other)?;
            let mut client = ClientConfig::new(Arc::new(client));
            client.transport_config(lane.quic()?);
            Ok::<_, io::Error>(client)
        };
        Ok(Dialing { watched: config(Lane::Watched)?, resting: config(Lane::Resting)? })
    }

    pub(super) fn of(&self, lane: Lane) -> ClientConfig {
        match lane {
            Lane::Watched => self.watched.clone(),
            Lane::Resting => self.resting.clone(),
        }
    }
}

/// What is accepted: either kind. The shorter of both ends' idle times counts, and one end is enough to keep a connection alive: so it
/// is the dialing end that makes it a watched one.
pub(super) fn accepting(server: &mut rustls::ServerConfig) -> io::Result<Arc<quinn::TransportConfig>> {
    server.alpn_protocols = Lane::Resting.protocols();
    Lane::Resting.quic()
}

/// A connection, and who needs it.
#[derive(Clone)]
pub(super) struct Line {
    connection: Connection,
    usage: Arc<Usage>,
    since: Instant,
}

struct Usage {
    open: AtomicUsize,
    last: Mutex<Instant>,
}

impl Line {
    pub(super) fn new(connection: Connection) -> Line {
        Line { connection, usage: Usage::new(), since: Instant::now() }
    }

    /// Needs it now, for no longer than a call may take.
    pub(super) fn touch(&self) {
        self.usage.touch();
    }

    /// Needs it until the stream is dropped.
    pub(super) fn hold<S>(&self, stream: S) -> Held<S> {
        Held { stream, _user: self.user() }
    }

    /// Needs it until what is returned is dropped.
    pub(super) fn user(&self) -> User {
        self.usage.user()
    }

    /// Whether it has been up for so long that both ends may settle on it.
    pub(super) fn is_settled(&self) -> bool {
        self.close_reason().is_none() && self.since.elapsed() >= SETTLE_AFTER
    }

    /// Waits until nobody has needed a watched connection for so long that we, who dialed it, should close it.
    pub(super) async fn unused(&self) {
        if !self.is_ours_to_close() {
            return std::future::pending().await;
        }
        self.usage.unused(UNUSED).await;
    }

    /// Waits until nobody has needed it for a while, which does not take as long where another one is used in its place.
    pub(super) async fn spare(&self) {
        self.usage.unused(SPARE).await;
    }

    /// Watched ones are closed by who dialed them; resting ones cost nothing.
    pub(super) fn is_ours_to_close(&self) -> bool {
        self.connection.side().is_client() && Lane::of(&self.connection) == Lane::Watched
    }
}

impl Deref for Line {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl Usage {
    fn new() -> Arc<Usage> {
        Arc::new(Usage { open: AtomicUsize::new(0), last: Mutex::new(Instant::now()) })
    }

    fn touch(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn user(self: &Arc<Self>) -> User {
        self.open.fetch_add(1, Ordering::Relaxed);
        User(self.clone())
    }

    async fn unused(&self, limit: Duration) {
        loop {
            let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let is_open = self.open.load(Ordering::Relaxed) > 0;
            let due = if is_open { Instant::now() + limit } else { last + limit };
            if due <= Instant::now() {
                return;
            }
            sleep_until(due).await;
        }
    }
}

/// Needs a connection as long as it is there.
pub(super) struct User(Arc<Usage>);

impl Drop for User {
    fn drop(&mut self) {
        self.0.touch();
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream whose connection is needed as long as it is there.
pub(super) struct Held<S> {
    stream: S,
    _user: User,
}

impl<S: AsyncRead + Unpin> AsyncRead for Held<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Held<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_nobody_needed_for_long_is_unused() {
        let usage = Usage::new();
        let unused = |usage: &Arc<Usage>| {
            let usage = usage.clone();
            async move { usage.unused(UNUSED).await }.boxed()
        };
        let began = Instant::now();
        let mut waiting = unused(&usage);
        assert!((&mut waiting).now_or_never().is_none());
        tokio::time::advance(UNUSED / 2).await;
        usage.touch();
        waiting.await;
        assert_eq!(began.elapsed(), UNUSED / 2 + UNUSED, "counted from the last use");

        let stream = usage.user();
        let mut waiting = unused(&usage);
        tokio::time::advance(UNUSED * 3).await;
        assert!((&mut waiting).now_or_never().is_none(), "there is an open stream");
        drop(stream);
        let closed = Instant::now();
        waiting.await;
        assert!(closed.elapsed() >= UNUSED, "a stream was open until then: {:?}", closed.elapsed());
    }
}

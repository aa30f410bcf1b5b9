//! One connection that carries many requests: how it is made, and the task that drives it.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use h2::{Ping, PingPong};
use hirsel_mesh::seam::BoxStream;
use hirsel_role::Spawner;
use tokio::sync::Notify;
use tracing::debug;

use super::STREAMS_MAX;
use super::watch::Seen;
use crate::io::{Gauge, Gauged};

/// What an instance may send of one answer before its client takes it: as much as clients may send of a request.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;

/// The same for all answers of one connection: as much as they all may, so that a client that takes nothing holds up no other.
const CONNECTION_WINDOW_BYTES: u32 = STREAM_WINDOW_BYTES * STREAMS_MAX as u32;

/// Most of one request that waits for the instance to take it.
const SEND_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Longest head of an answer, as of one in HTTP/1.1.
const HEAD_BYTES_MAX: u32 = 128 * 1024;

/// What pieces of answers may cost beyond their bytes while nobody takes them. A program that streams messages of some bytes sends each
/// in a frame of its own, which costs a quarter of a kilobyte: a full window of such messages, for a dozen slow clients.
const FRAMES_COST_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Requests that were given up are remembered, so that what still comes for them is passed over; as many as may be under way.
const GIVEN_UP_MAX: usize = STREAMS_MAX;

/// A connection that carries many requests.
pub struct Link {
    /// Begins requests. The connection ends when there is none of these any more, and no request.
    pub sender: SendRequest<Bytes>,
    /// What is seen of it.
    pub vital: Arc<Vital>,
}

/// What is seen of a connection, and told to the task that drives it.
#[derive(Debug)]
pub struct Vital {
    gauge: Arc<Gauge>,
    /// Requests that it may carry at once.
    room: AtomicUsize,
    /// Requests that have a place on it.
    streams: AtomicUsize,
    /// It carried one before.
    used: AtomicBool,
    /// It takes no new ones.
    retired: AtomicBool,
    /// It has ended, or is to end now.
    ended: AtomicBool,
    /// It is to be asked whether it is there.
    ask: AtomicBool,
    answers: AtomicU64,
    freed: Arc<Notify>,
}

impl Vital {
    fn new(freed: Arc<Notify>) -> Self {
        Self {
            gauge: Arc::default(),
            room: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            used: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            ask: AtomicBool::new(false),
            answers: AtomicU64::new(0),
            freed,
        }
    }

    /// Requests that have a place on it.
    pub fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Whether it takes new requests, now or later.
    pub fn is_in_use(&self) -> bool {
        !self.retired.load(Ordering::Acquire) && !self.ended.load(Ordering::Acquire)
    }

    /// Whether it takes another request now.
    pub fn has_room(&self) -> bool {
        self.is_in_use() && self.streams() < self.room.load(Ordering::Relaxed)
    }

    /// What a sweep sees.
    pub fn seen(&self) -> Seen {
        let answers = self.answers.load(Ordering::Relaxed);
        Seen { read_bytes: self.gauge.read_bytes(), answers, streams: self.streams() }
    }

    /// It takes no new requests: its instance said so, or what is told of the instance does.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// Asks whether it is there.
    pub fn ask(&self) {
        self.ask.store(true, Ordering::Release);
        self.gauge.nudge();
    }

    /// Ends it, and every request on it.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.gauge.nudge();
    }

    /// A request takes a place. True if one did before.
    pub(super) fn enter(&self) -> bool {
        self.streams.fetch_add(1, Ordering::Relaxed);
        self.used.swap(true, Ordering::Relaxed)
    }

    /// A request leaves its place to another.
    pub(super) fn leave(&self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
        self.freed.notify_one();
    }

    /// The instance takes so many at once.
    fn allow(&self, streams: usize) {
        let room = streams.min(STREAMS_MAX);
        if self.room.swap(room, Ordering::Relaxed) < room {
            self.freed.notify_waiters();
        }
    }
}

/// Speaks HTTP/2 over `stream`, and waits until the instance has said its settings. `freed` is told when there may be a place.
///
/// # Errors
/// If the other end speaks something else, or ends.
pub async fn open(stream: BoxStream, freed: Arc<Notify>, spawner: &Spawner) -> Result<Arc<Link>, h2::Error> {
    let vital = Arc::new(Vital::new(freed));
    let stream = Gauged::new(stream, vital.gauge.clone());
    let (sender, mut connection) = Builder::new()
        // Nothing is pushed that nobody asked for.
        .enable_push(false)
        // None before the instance has said how many it takes.
        .initial_max_send_streams(0)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buffer_size(SEND_BUFFER_BYTES_MAX)
        .max_header_list_size(HEAD_BYTES_MAX)
        .data_frame_budget(FRAMES_COST_BYTES_MAX)
        .max_concurrent_reset_streams(GIVEN_UP_MAX)
        .handshake(stream)
        .await?;
    poll_fn(|cx| {
        vital.gauge.driven_by(cx);
        if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(ended.and(Err(h2::Reason::NO_ERROR.into())));
        }
        match connection.max_concurrent_send_streams() {
            0 => Poll::Pending,
            streams => {
                vital.allow(streams);
                Poll::Ready(Ok(()))
            }
        }
    })
    .await?;
    drop(spawner.spawn(drive(connection, vital.clone())));
    Ok(Arc::new(Link { sender, vital }))
}

/// Drives a connection until it ends.
async fn drive(mut connection: Connection<Gauged, Bytes>, vital: Arc<Vital>) {
    let ending = Ending(vital);
    let vital = &ending.0;
    let mut pings = connection.ping_pong();
    let ended = poll_fn(|cx| {
        vital.gauge.driven_by(cx);
        if vital.ended.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        if let Some(pings) = &mut pings {
            ping(pings, vital, cx);
        }
        let polled = Pin::new(&mut connection).poll(cx);
        vital.allow(connection.max_concurrent_send_streams());
        polled
    })
    .await;
    if let Err(error) = ended {
        debug!(%error, "connection to an instance ended");
    }
}

/// Asks whether the other end is there if that is wanted, and notes its answer.
fn ping(pings: &mut PingPong, vital: &Vital, cx: &mut std::task::Context<'_>) {
    if vital.ask.swap(false, Ordering::AcqRel) {
        // One that cannot be sent is on its way already, or the connection has ended.
        let _ = pings.send_ping(Ping::opaque());
    }
    if let Poll::Ready(Ok(_)) = pings.poll_pong(cx) {
        vital.answers.fetch_add(1, Ordering::Relaxed);
    }
}

/// Says that a connection has ended, whatever became of the task that drove it.
struct Ending(Arc<Vital>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
        self.0.freed.notify_waiters();
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("vital", &self.vital).finish_non_exhaustive()
    }
}

/// As an error of a connection that could not be made.
pub fn failed(error: h2::Error) -> io::Error {
    match error.get_io() {
        Some(io) => io::Error::new(io.kind(), io.to_string()),
        None => io::Error::new(io::ErrorKind::InvalidData, format!("it does not speak HTTP/2 in clear: {error}")),
    }
}

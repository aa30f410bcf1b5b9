//! Listens: datagrams one after the other, and a bounded number of connections.
//!
//! Over UDP one question is worked on at a time, over TCP one of each connection, so there is no more work under way than there are
//! connections and one. Who is too slow, or has nothing to ask, is disconnected.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use hirsel_mesh::seam::{BoxStream, Chance, Clock, Datagrams, Listener};
use hirsel_role::{Live, Me, Spawner};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::answer::Knowledge;
use crate::kept::{Kept, Key};
use crate::limit::{Limiter, Verdict};
use crate::message::{Asker, QUESTION_BYTES_MAX, Reply, Transport, reply, slip};
use crate::metrics::{Class, Metrics};
use crate::names::Names;

/// Connections at once; more wait in the kernel's queue. Clients come over TCP when an answer was too large, and go again.
const CLIENTS_MAX: usize = 256;
/// Of them from one address, so that one client does not keep out all others. Resolvers that keep connections need a few.
const CLIENTS_PER_ADDR_MAX: u32 = 32;
/// A connection without a question is closed after this time, and one that does not take its answer. RFC 7766 asks for seconds.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// When no file descriptor is left, accepting pauses: trying again at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// So many datagrams may fail to be read in a row before the socket is given up and opened again.
const FAILURES_MAX: u32 = 20;

/// What answers are made from, for all who ask.
pub struct Desk {
    /// The names in force.
    pub names: ArcSwap<Names>,
    live: watch::Receiver<Arc<Live>>,
    me: Me,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    draws: AtomicU64,
    limiter: Mutex<Limiter>,
}

impl Desk {
    /// Answers from `names` and what is heard.
    pub fn new(
        names: Names,
        live: watch::Receiver<Arc<Live>>,
        me: Me,
        clock: Arc<dyn Clock>,
        chance: &dyn Chance,
        metrics: Metrics,
    ) -> Self {
        let (draws, limiter) = (AtomicU64::new(chance.number()), Mutex::new(Limiter::new(chance.number())));
        Self { names: ArcSwap::from_pointee(names), live, me, clock, metrics, draws, limiter }
    }

    /// Answers what came on a connection.
    fn answer(&self, bytes: &[u8], peer: IpAddr) -> Reply {
        let (names, live) = (self.names.load(), self.live.borrow().clone());
        let known = Knowledge { names: &names, live: &live, me: &self.me };
        let asker = Asker { transport: Transport::Tcp, is_local: self.is_local(&names, peer) };
        reply(bytes, asker, known, self.draw())
    }

    /// Nothing is kept yet.
    fn kept(&self) -> Kept {
        Kept::new(self.names.load_full(), self.live.borrow().clone())
    }

    /// Answers a datagram into `out`. False where there is nothing to say.
    fn answer_datagram(&self, bytes: &[u8], peer: IpAddr, kept: &mut Kept, out: &mut Vec<u8>) -> bool {
        let (names, live) = (self.names.load(), self.live.borrow());
        kept.follow(&names, &live);
        let is_local = self.is_local(&names, peer);
        let is_counted = !is_local && !names.is_member(peer);
        let draw = self.draw();
        let reply = match if is_counted { self.limit(peer) } else { Verdict::Answer } {
            Verdict::Answer => {
                let key = Key::of(bytes, is_local);
                if let Some(class) = key.as_ref().and_then(|key| kept.answer(key, bytes, draw, out)) {
                    self.metrics.over_udp(class);
                    return true;
                }
                let known = Knowledge { names: &names, live: &live, me: &self.me };
                let reply = reply(bytes, Asker { transport: Transport::Udp, is_local }, known, draw);
                if let Some(key) = &key {
                    kept.keep(key, &reply);
                }
                reply
            }
            Verdict::Slip => slip(bytes),
            Verdict::Drop => Reply::nothing(),
        };
        self.metrics.over_udp(reply.class);
        if reply.is_cut && reply.class != Class::Slipped {
            self.metrics.cut.inc();
        }
        let Some(bytes) = reply.bytes else { return false };
        *out = bytes;
        true
    }

    /// Whether who asks is on this host.
    fn is_local(&self, names: &Names, peer: IpAddr) -> bool {
        let own = names.order.nodes.get(&self.me.id).map(|node| node.addr.ip());
        peer.is_loopback() || peer == self.me.bind || own == Some(peer)
    }

    fn limit(&self, peer: IpAddr) -> Verdict {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner).take(peer, self.clock.now())
    }

    /// A new number for each question, well mixed (the finalizer of SplitMix64): who asks for two kinds of records in turn shall not
    /// get every second number.
    fn draw(&self) -> u64 {
        let mut draw = self.draws.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        draw = (draw ^ draw >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        draw = (draw ^ draw >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        draw ^ draw >> 31
    }
}

/// Both listeners at work. They end when this is dropped.
pub struct Server {
    tasks: [JoinHandle<()>; 2],
}

impl Server {
    /// Answers what comes.
    pub fn start(datagrams: Datagrams, listener: Box<dyn Listener>, desk: &Arc<Desk>, spawner: &Spawner) -> Self {
        let connections = Connections { desk: desk.clone(), spawner: spawner.clone(), by_addr: Arc::default() };
        let udp = spawner.spawn(serve_datagrams(datagrams, desk.clone()));
        let tcp = spawner.spawn(accept(listener, connections));
        Self { tasks: [udp, tcp] }
    }

    /// Whether one of them has ended by itself.
    pub fn is_broken(&self) -> bool {
        self.tasks.iter().any(JoinHandle::is_finished)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn serve_datagrams(mut datagrams: Datagrams, desk: Arc<Desk>) {
    let (mut failures, mut kept, mut out) = (0, desk.kept(), Vec::new());
    while failures < FAILURES_MAX {
        let (is_answered, origin) = match datagrams.receive().await {
            Ok((bytes, origin)) => {
                (desk.answer_datagram(bytes, origin.peer.ip().to_canonical(), &mut kept, &mut out), origin)
            }
            Err(error) => {
                debug!(%error, "could not read a datagram");
                failures += 1;
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        failures = 0;
        if is_answered && let Err(error) = datagrams.send(&out, origin).await {
            // Who asked asks again.
            debug!(%error, peer = %origin.peer, "could not answer");
        }
    }
}

#[derive(Clone)]
struct Connections {
    desk: Arc<Desk>,
    spawner: Spawner,
    by_addr: Arc<Mutex<BTreeMap<IpAddr, u32>>>,
}

async fn accept(mut listener: Box<dyn Listener>, connections: Connections) {
    let slots = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        // Never closed: this is its owner.
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => connections.take(stream, peer, slot),
            Err(error) => {
                warn!(%error, "could not accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Connections {
    fn take(&self, stream: BoxStream, peer: SocketAddr, slot: OwnedSemaphorePermit) {
        let addr = peer.ip().to_canonical();
        let Some(counted) = Counted::new(self, addr, slot) else { return };
        let desk = self.desk.clone();
        drop(self.spawner.spawn(async move {
            if let Err(error) = converse(stream, addr, &desk).await {
                debug!(%error, %peer, "connection ended");
            }
            drop(counted);
        }));
    }
}

/// One connection, until its asker has nothing more to ask.
async fn converse(mut stream: BoxStream, peer: IpAddr, desk: &Desk) -> io::Result<()> {
    let mut bytes = Vec::new();
    // An end, or nothing in time: it may go.
    while let Ok(Ok(length)) = timeout(IDLE_MAX, stream.read_u16()).await {
        let length = usize::from(length);
        if length > QUESTION_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a question of {length} bytes")));
        }
        bytes.resize(length, 0);
        timeout(IDLE_MAX, stream.read_exact(&mut bytes)).await??;
        let reply = desk.answer(&bytes, peer);
        desk.metrics.over_tcp(reply.class);
        // What gets no answer is no question; and nothing is longer than its length can say.
        let Some(answer) = reply.bytes else { return Ok(()) };
        let Ok(length) = u16::try_from(answer.len()) else { return Ok(()) };
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        timeout(IDLE_MAX, stream.write_all(&framed)).await??;
    }
    Ok(())
}

/// A connection in the count of its address, for as long as it is open.
struct Counted {
    connections: Connections,
    addr: IpAddr,
    _slot: OwnedSemaphorePermit,
}

impl Counted {
    /// None when this address has enough of them.
    fn new(connections: &Connections, addr: IpAddr, slot: OwnedSemaphorePermit) -> Option<Self> {
        let mut by_addr = connections.by_addr.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_addr.entry(addr).or_default();
        if *count >= CLIENTS_PER_ADDR_MAX {
            return None;
        }
        *count += 1;
        connections.desk.metrics.clients.inc();
        Some(Self { connections: connections.clone(), addr, _slot: slot })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut by_addr = self.connections.by_addr.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_addr.get_mut(&self.addr) {
            *count -= 1;
            if *count == 0 {
                by_addr.remove(&self.addr);
            }
        }
        self.connections.desk.metrics.clients.dec();
    }
}

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
use hirsel_mesh::seam::{BoxStream, Chance, Clock, Datagrams, Listener, Origin, Sender};
use hirsel_role::{Live, Me, Spawner};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::answer::Knowledge;
use crate::dnssec::Window;
use crate::forward::{Asked, Forward};
use crate::kept::{Kept, Key};
use crate::limit::{Limiter, Verdict};
use crate::message::{Asker, QUESTION_BYTES_MAX, Reply, Transport, abroad, relay, reply, slip};
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
    forward: Option<Arc<Forward>>,
}

/// What became of a datagram.
enum Said {
    /// It has its answer.
    Answer,
    /// It gets none.
    Nothing,
    /// Others have to be asked.
    Abroad(Asked),
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
        Self { names: ArcSwap::from_pointee(names), live, me, clock, metrics, draws, limiter, forward: None }
    }

    /// Asks others about names of others.
    pub fn with_forward(self, forward: Forward) -> Self {
        Self { forward: Some(Arc::new(forward)), ..self }
    }

    /// What others have to be asked, for who may have that.
    fn abroad(&self, bytes: &[u8], reply: &Reply, peer: IpAddr, is_local: bool) -> Option<(&Arc<Forward>, Asked)> {
        let forward = self.forward.as_ref().filter(|_| reply.class == Class::Refused)?;
        Some((forward, abroad(bytes).filter(|_| forward.serves(peer, is_local))?))
    }

    /// What others say.
    async fn fetch(&self, bytes: &[u8], asked: &Asked, transport: Transport) -> Reply {
        let Some(forward) = &self.forward else { return Reply::nothing() };
        let found = forward.resolve(asked).await;
        relay(bytes, transport, found.as_deref(), forward.now())
    }

    /// Answers what came on a connection.
    async fn answer(&self, bytes: &[u8], peer: IpAddr) -> Reply {
        let (reply, asked) = self.answer_alone(bytes, peer);
        match asked {
            Some(asked) => self.fetch(bytes, &asked, Transport::Tcp).await,
            None => reply,
        }
    }

    fn answer_alone(&self, bytes: &[u8], peer: IpAddr) -> (Reply, Option<Asked>) {
        let (names, live) = (self.names.load(), self.live.borrow().clone());
        let known = Knowledge { names: &names, live: &live, me: &self.me, window: self.window(&names) };
        let asker = Asker { transport: Transport::Tcp, is_local: self.is_local(&names, peer) };
        let reply = reply(bytes, asker, known, self.draw());
        let asked = self.abroad(bytes, &reply, peer, asker.is_local).map(|(_, asked)| asked);
        (reply, asked)
    }

    /// Nothing is kept yet.
    fn kept(&self) -> Kept {
        Kept::new(self.names.load_full(), self.live.borrow().clone())
    }

    /// Answers a datagram into `out`.
    fn answer_datagram(&self, bytes: &[u8], peer: IpAddr, kept: &mut Kept, out: &mut Vec<u8>) -> Said {
        let (names, live) = (self.names.load(), self.live.borrow());
        let window = self.window(&names);
        kept.follow(&names, &live, window);
        let is_local = self.is_local(&names, peer);
        let is_counted = !is_local && !names.is_member(peer);
        let draw = self.draw();
        let reply = match if is_counted { self.limit(peer) } else { Verdict::Answer } {
            Verdict::Answer => {
                let key = Key::of(bytes, is_local);
                if let Some(class) = key.as_ref().and_then(|key| kept.answer(key, bytes, draw, out)) {
                    self.metrics.over_udp(class);
                    return Said::Answer;
                }
                let known = Knowledge { names: &names, live: &live, me: &self.me, window };
                let reply = reply(bytes, Asker { transport: Transport::Udp, is_local }, known, draw);
                if let Some(key) = &key {
                    kept.keep(key, &reply);
                }
                match self.abroad(bytes, &reply, peer, is_local) {
                    None => reply,
                    Some((forward, asked)) => match forward.remembered(&asked) {
                        None => return Said::Abroad(asked),
                        Some(found) => relay(bytes, Transport::Udp, Some(&found), forward.now()),
                    },
                }
            }
            Verdict::Slip => slip(bytes),
            Verdict::Drop => Reply::nothing(),
        };
        self.count(&reply);
        let Some(bytes) = reply.bytes else { return Said::Nothing };
        *out = bytes;
        Said::Answer
    }

    /// When signatures are good that are given now; none where nothing is signed, and nobody has to look at a clock.
    fn window(&self, names: &Names) -> Option<Window> {
        (!names.signers.is_empty()).then(|| Window::at(self.clock.wall()))
    }

    fn count(&self, reply: &Reply) {
        self.metrics.over_udp(reply.class);
        if reply.is_cut && reply.class != Class::Slipped {
            self.metrics.cut.inc();
        }
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
        let udp = spawner.spawn(serve_datagrams(datagrams, desk.clone(), spawner.clone()));
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

async fn serve_datagrams(mut datagrams: Datagrams, desk: Arc<Desk>, spawner: Spawner) {
    let sender = datagrams.sender();
    let (mut failures, mut kept, mut out) = (0, desk.kept(), Vec::new());
    while failures < FAILURES_MAX {
        let (said, origin) = match datagrams.receive().await {
            Ok((bytes, origin)) => {
                let peer = origin.peer.ip().to_canonical();
                let said = desk.answer_datagram(bytes, peer, &mut kept, &mut out);
                if let Said::Abroad(asked) = &said {
                    let (desk, sender, bytes, asked) = (desk.clone(), sender.clone(), bytes.to_vec(), asked.clone());
                    drop(spawner.spawn(async move { fetch(&desk, &bytes, &asked, &sender, origin).await }));
                }
                (said, origin)
            }
            Err(error) => {
                debug!(%error, "could not read a datagram");
                failures += 1;
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        failures = 0;
        if matches!(said, Said::Answer)
            && let Err(error) = datagrams.send(&out, origin).await
        {
            // Who asked asks again.
            debug!(%error, peer = %origin.peer, "could not answer");
        }
    }
}

/// Answers a datagram with what others say, when they have.
async fn fetch(desk: &Desk, bytes: &[u8], asked: &Asked, sender: &Sender, to: Origin) {
    let reply = desk.fetch(bytes, asked, Transport::Udp).await;
    desk.count(&reply);
    if let Some(bytes) = reply.bytes
        && let Err(error) = sender.send(&bytes, to).await
    {
        debug!(%error, peer = %to.peer, "could not answer");
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
        let reply = desk.answer(&bytes, peer).await;
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

//! Questions about names of others, for the hosts themselves: passed on to resolvers that the operator named, and remembered.
//!
//! Invariants: only who is on this host, or in a network that was allowed, is served, and nobody where no resolver is named. The same
//! question is under way once. There is a limit on questions under way, on who waits for them, on how long, and on what is remembered.
//! An answer counts only if it comes from the one asked, to a port and with a number that were drawn, and repeats the name in the case
//! that was drawn (draft-vixie-dnsext-dns0x20); who does not repeat that is asked over TCP. What it says is not verified: it is passed on
//! without the mark that it were (AD).

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hirsel_mesh::seam::{Chance, Clock, Origin};
use hirsel_model::Timestamp;
use hirsel_model::spec::Block;
use hirsel_role::Spawner;
use hirsel_role::host::Host;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::debug;

mod memory;
pub mod wire;

use memory::Memory;
pub use wire::Asked;
use wire::{Told, lifetime, question, read};

/// Different questions under way at once. One takes two sockets at most and mostly some milliseconds.
const FLIGHTS_MAX: usize = 256;
/// Who waits for them, over all. One takes some kilobytes.
const WAITERS_MAX: usize = 1_024;
/// How long one resolver may take over UDP, before the next one is asked. Most are within 100 ms, even if they have to ask around.
const TRY_MAX: Duration = Duration::from_millis(1_200);
/// How long it may take over TCP.
const TCP_MAX: Duration = Duration::from_secs(3);
/// How often all resolvers are asked.
const ROUNDS: usize = 2;
/// After this nobody waits any more: programs ask again after five seconds (`resolv.conf`).
const FLIGHT_MAX: Duration = Duration::from_millis(4_800);
/// Datagrams that are no answer to what was asked, after which somebody is guessing: TCP cannot be guessed into.
const STRAYS_MAX: usize = 16;

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// The answer as it came.
    pub bytes: Vec<u8>,
    /// When.
    pub at: Timestamp,
}

/// Asks others.
pub struct Forward {
    resolvers: Vec<SocketAddr>,
    allowed: Vec<Block>,
    host: Arc<dyn Host>,
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
    spawner: Spawner,
    /// The resolver that answered last.
    preferred: AtomicUsize,
    state: Mutex<State>,
    counters: Counters,
}

#[derive(Default)]
struct State {
    memory: Memory,
    flights: HashMap<Asked, watch::Receiver<Option<Arc<Found>>>>,
    waiters: usize,
}

/// What is counted.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    remembered: Counter,
    asked: Counter,
    failed: Counter,
    over_tcp: Counter,
    beyond: Counter,
}

impl Counters {
    /// Makes them readable.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "hirsel_dns_forward_remembered",
            "Questions about names of others answered from memory",
            self.remembered.clone(),
        );
        registry.register("hirsel_dns_forward_asked", "Questions that were passed on", self.asked.clone());
        registry.register("hirsel_dns_forward_failed", "Questions that no resolver answered", self.failed.clone());
        registry.register("hirsel_dns_forward_tcp", "Questions that were passed on over TCP", self.over_tcp.clone());
        registry.register("hirsel_dns_forward_refused", "Questions beyond what may be under way", self.beyond.clone());
    }
}

/// The world as far as it is needed.
pub struct Outside {
    /// Sockets.
    pub host: Arc<dyn Host>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Numbers, ports and case.
    pub chance: Arc<dyn Chance>,
    /// Where questions are under way.
    pub spawner: Spawner,
}

impl Forward {
    /// Asks `resolvers`, for this host and for clients in `allowed`.
    pub fn new(resolvers: Vec<SocketAddr>, allowed: Vec<Block>, outside: Outside, counters: Counters) -> Self {
        let Outside { host, clock, chance, spawner } = outside;
        let (preferred, state) = (AtomicUsize::new(0), Mutex::default());
        Self { resolvers, allowed, host, clock, chance, spawner, preferred, state, counters }
    }

    /// Whether who asks from there is served.
    pub fn serves(&self, peer: IpAddr, is_local: bool) -> bool {
        is_local || self.allowed.iter().any(|block| block.holds(peer))
    }

    /// What is remembered, if it is; otherwise it has to be asked for.
    pub fn remembered(&self, asked: &Asked) -> Option<Arc<Found>> {
        let found = self.lock().memory.get(asked, self.clock.now())?;
        self.counters.remembered.inc();
        Some(found)
    }

    /// The time, to tell how old something is.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Asks, together with all who ask the same. None when nobody answers in time, or too much is under way. What is under way goes on
    /// when this is dropped, and is remembered.
    pub async fn resolve(self: &Arc<Self>, asked: &Asked) -> Option<Arc<Found>> {
        if let Some(found) = self.remembered(asked) {
            return Some(found);
        }
        let mut flight = {
            let mut state = self.lock();
            if state.waiters >= WAITERS_MAX {
                self.counters.beyond.inc();
                return None;
            }
            let flight = match state.flights.get(asked) {
                Some(flight) => flight.clone(),
                None if state.flights.len() >= FLIGHTS_MAX => {
                    self.counters.beyond.inc();
                    return None;
                }
                None => {
                    let (told, flight) = watch::channel(None);
                    state.flights.insert(asked.clone(), flight.clone());
                    let (this, asked) = (self.clone(), asked.clone());
                    drop(self.spawner.spawn(async move { this.fly(asked, told).await }));
                    flight
                }
            };
            state.waiters += 1;
            flight
        };
        let _waiter = Waiter(self);
        // An end without a word is that of the one who asked.
        let _ = flight.changed().await;
        flight.borrow().clone()
    }

    async fn fly(self: Arc<Self>, asked: Asked, told: watch::Sender<Option<Arc<Found>>>) {
        let landing = Landing { forward: &self, asked: &asked };
        let found = timeout(FLIGHT_MAX, self.ask(&asked)).await.ok().flatten();
        if found.is_none() {
            self.counters.failed.inc();
        }
        let found = found.map(|bytes| Arc::new(Found { bytes, at: self.clock.now() }));
        if let Some(found) = &found {
            self.lock().memory.keep(asked.clone(), found.clone(), lifetime(&found.bytes), self.clock.now());
        }
        drop(landing);
        told.send_replace(found);
    }

    /// Asks one resolver after the other, the one first that answered last.
    async fn ask(&self, asked: &Asked) -> Option<Vec<u8>> {
        let (count, first) = (self.resolvers.len(), self.preferred.load(Ordering::Relaxed));
        for turn in 0..count * ROUNDS {
            let index = (first + turn) % count;
            let resolver = self.resolvers[index];
            self.counters.asked.inc();
            match self.ask_one(asked, resolver).await {
                Ok(bytes) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Some(bytes);
                }
                Err(error) => debug!(%resolver, %error, "a resolver did not answer"),
            }
        }
        None
    }

    async fn ask_one(&self, asked: &Asked, resolver: SocketAddr) -> io::Result<Vec<u8>> {
        let question = self.question(asked);
        let told = timeout(TRY_MAX, self.over_udp(&question, resolver)).await;
        match told.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? {
            Told::Answer(bytes) => Ok(bytes),
            Told::Failed(code) => Err(io::Error::other(format!("it says {code}"))),
            Told::Cut | Told::OtherCase | Told::Stray => {
                self.counters.over_tcp.inc();
                let told = timeout(TCP_MAX, self.over_tcp(&self.question(asked), resolver)).await;
                match told.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? {
                    // Nobody else can speak on this connection: the case is no matter.
                    Told::Answer(bytes) => Ok(bytes),
                    other => Err(io::Error::other(format!("over TCP it says {other:?}"))),
                }
            }
        }
    }

    fn question(&self, asked: &Asked) -> Vec<u8> {
        let mut drawn = [0; 34];
        self.chance.fill(&mut drawn);
        let [high, low, case @ ..] = drawn;
        question(asked, u16::from_be_bytes([high, low]), &case)
    }

    /// From a port that the system draws.
    async fn over_udp(&self, question: &[u8], resolver: SocketAddr) -> io::Result<Told> {
        let any = if resolver.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let mut socket = self.host.udp(SocketAddr::new(any, 0)).await?;
        socket.send(question, Origin { peer: resolver, local: None }).await?;
        for _ in 0..STRAYS_MAX {
            let (bytes, origin) = socket.receive().await?;
            let is_from = origin.peer.port() == resolver.port()
                && origin.peer.ip().to_canonical() == resolver.ip().to_canonical();
            match read(bytes, question) {
                Told::Stray => {}
                told if is_from => return Ok(told),
                _ => {}
            }
        }
        Ok(Told::Stray)
    }

    async fn over_tcp(&self, question: &[u8], resolver: SocketAddr) -> io::Result<Told> {
        let mut stream = self.host.connect(resolver).await?;
        let length = u16::try_from(question.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes()[..], question].concat()).await?;
        let mut bytes = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut bytes).await?;
        Ok(match read(&bytes, question) {
            Told::OtherCase => {
                let mut bytes = bytes;
                wire::restore(&mut bytes, question);
                read(&bytes, question)
            }
            told => told,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who waits, for as long as it does.
struct Waiter<'a>(&'a Forward);

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.lock().waiters -= 1;
    }
}

/// A question under way, which is over however it ends.
struct Landing<'a> {
    forward: &'a Forward,
    asked: &'a Asked,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.forward.lock().flights.remove(self.asked);
    }
}

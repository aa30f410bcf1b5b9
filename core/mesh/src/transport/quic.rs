//! The UDP port: one QUIC connection per peer and [`Lane`], dialed when needed.
//!
//! Connections are keyed by the node of the peer's certificate, never by address. The newest one is used: after a restart the
//! peer's new connection must replace the one that is dead but not timed out yet. Two nodes that dial each other in the same moment
//! have two connections for a while, each sending on one of them; [`super::lane`] says how they settle on one.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hirsel_model::NodeId;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, Incoming, VarInt};
use rustls_pki_types::CertificateDer;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::lane::{self, Dialing, Lane, Line, SETTLE_AFTER};
use super::timer::QuicRuntime;
use super::tls::Tls;
use super::{CallError, Shared, call, message, ping};
use crate::identity::{Certified, Identity};
use crate::seam::{Chance, World};

/// A dial is given up early, so that the next one starts with fresh timers: when a partition heals, an old handshake may be waiting
/// in a backoff of more than a second.
const DIAL_WITHIN: Duration = Duration::from_secs(1);
/// A peer that refuses at once is not dialed in a busy loop.
const DIAL_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// A connection that ends this soon counts as a refused dial: in TLS 1.3 the server judges our certificate after we are connected.
const YOUNG: Duration = Duration::from_millis(500);
/// An accepted handshake must be done by then.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(3);
/// Handshakes going on at once; each costs about a millisecond of processor time.
const HANDSHAKES_MAX: usize = 256;
/// From this many on, a client must first show that its address is real, which costs it one round trip.
const HANDSHAKES_BUSY: usize = 64;
/// Connections that were begun by a packet and not looked at yet, and the bytes kept for each and for all of them.
const INCOMING_MAX: usize = 1024;
const INCOMING_BYTES_MAX: u64 = 64 << 10;
const INCOMING_BYTES_TOTAL_MAX: u64 = 8 << 20;
/// Connections of one kind with one peer that are kept.
const CONNECTIONS_PER_PEER_MAX: usize = 4;

/// Why a connection is closed by us.
pub(super) const CLOSED: VarInt = VarInt::from_u32(0);
const UNPINNED: VarInt = VarInt::from_u32(1);
const SUPERSEDED: VarInt = VarInt::from_u32(2);
const UNUSED: VarInt = VarInt::from_u32(3);
pub(super) const SILENT: VarInt = VarInt::from_u32(4);

/// The connections to all peers.
#[derive(Default)]
pub(super) struct Links(Mutex<BTreeMap<(NodeId, Lane), Arc<Peering>>>);

/// The connections of one kind with one peer.
struct Peering {
    link: watch::Sender<Link>,
    /// All that are up, oldest first.
    connections: Mutex<Vec<Line>>,
}

#[derive(Clone)]
enum Link {
    /// No connection; not dialed again before the moment given.
    Down(Option<Instant>),
    Dialing,
    Up(Line),
}

impl Links {
    fn with(&self, node: NodeId, lane: Lane) -> Arc<Peering> {
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Peering { link: watch::Sender::new(Link::Down(None)), connections: Mutex::default() });
        links.entry((node, lane)).or_insert_with(new).clone()
    }
}

impl Peering {
    /// Uses the connection that the lower of both ends has dialed, if it has been up for a while: the other end does the same.
    fn settle(&self, (me, peer): (NodeId, NodeId)) {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let by_the_lower = |line: &&Line| line.side().is_client() == (me < peer);
        let Some(line) = connections.iter().rev().find(|line| by_the_lower(line) && line.is_settled()) else { return };
        self.link.send_if_modified(|link| {
            let other = matches!(link, Link::Up(used) if used.stable_id() != line.stable_id());
            if other {
                *link = Link::Up(line.clone());
            }
            other
        });
    }

    fn has_another_than(&self, line: &Line) -> bool {
        matches!(&*self.link.borrow(), Link::Up(used) if used.stable_id() != line.stable_id())
    }
}

/// The endpoint behind both directions of every connection, and how it dials.
pub(super) fn endpoint(
    world: &World,
    identity: &Identity,
    tls: &Tls,
    socket: Arc<dyn quinn::AsyncUdpSocket>,
) -> io::Result<(Endpoint, Dialing)> {
    let (server, client) = tls.mesh().map_err(io::Error::other)?;
    let mut server = Arc::unwrap_or_clone(server);
    let quic = lane::accepting(&mut server)?;
    let server = QuicServerConfig::try_from(server).map_err(io::Error::other)?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(server));
    server
        .transport_config(quic)
        .time_source(tls.clock())
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES_MAX)
        .incoming_buffer_size_total(INCOMING_BYTES_TOTAL_MAX);
    let config = endpoint_config(world.chance.as_ref(), &identity.reset_seed);
    let endpoint = Endpoint::new_with_abstract_socket(config, Some(server), socket, Arc::new(QuicRuntime))?;
    Ok((endpoint, Dialing::new(&client)?))
}

/// How an endpoint names connections, and by what it resets those of its former life: the same as long as `reset_seed` is.
pub fn endpoint_config(chance: &dyn Chance, reset_seed: &[u8]) -> quinn::EndpointConfig {
    let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, reset_seed);
    // Derived, because connection ids are seen on the wire and reveal their key.
    let derived = ring::hmac::sign(&reset_key, b"connection ids");
    let mut cid_key = [0; 8];
    cid_key.copy_from_slice(&derived.as_ref()[..8]);
    let cid_key = u64::from_le_bytes(cid_key);
    let mut seed = [0; 32];
    chance.fill(&mut seed);
    let mut config = quinn::EndpointConfig::new(Arc::new(reset_key));
    // A restarted node resets the connections of its former life only with both: with random ids it would drop their packets before
    // it thinks of resetting them.
    config
        .cid_generator(move || Box::new(quinn_proto::HashedConnectionIdGenerator::from_key(cid_key)))
        .rng_seed(Some(seed));
    config
}

/// Accepts connections for as long as the endpoint lives.
pub(super) async fn accept(shared: Arc<Shared>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    while let Some(incoming) = shared.endpoint.accept().await {
        let Ok(permit) = handshakes.clone().try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let busy = HANDSHAKES_MAX - handshakes.available_permits() > HANDSHAKES_BUSY;
        if busy && !incoming.remote_address_validated() && incoming.may_retry() {
            // A client that cannot be reached at its address never comes back.
            let _ = incoming.retry();
            continue;
        }
        let accepting = shared.clone();
        shared.spawn(async move {
            welcome(&accepting, incoming).await;
            drop(permit);
        });
    }
}

async fn welcome(shared: &Arc<Shared>, incoming: Incoming) {
    let from = incoming.remote_address();
    match timeout(HANDSHAKE_WITHIN, async move { incoming.await }).await {
        Ok(Ok(connection)) => drop(adopt(shared, connection)),
        Ok(Err(error)) => debug!(%from, %error, "connection refused"),
        Err(_) => debug!(%from, "handshake took too long"),
    }
}

impl Shared {
    /// The live connection to a peer for whoever waits for it, dialing if there is none. Give it a deadline.
    pub(super) async fn connection(self: &Arc<Self>, to: NodeId) -> Result<Line, CallError> {
        let line = self.connection_on(to, Lane::Watched).await?;
        line.touch();
        Ok(line)
    }

    /// The live connection to a peer for messages, which keep none alive: one that is there anyway, or a resting one.
    pub(super) async fn connection_for_messages(self: &Arc<Self>, to: NodeId) -> Result<Line, CallError> {
        if let Some(line) = self.watched(to) {
            return Ok(line);
        }
        let resting = self.connection_on(to, Lane::Resting).await;
        // An older peer agrees to nothing but a watched one, and others may have got one meanwhile.
        resting.or_else(|error| self.watched(to).ok_or(error))
    }

    /// The watched connection to a peer, if there is one.
    fn watched(&self, to: NodeId) -> Option<Line> {
        match &*self.links.with(to, Lane::Watched).link.borrow() {
            Link::Up(line) if line.close_reason().is_none() => Some(line.clone()),
            _ => None,
        }
    }

    async fn connection_on(self: &Arc<Self>, to: NodeId, lane: Lane) -> Result<Line, CallError> {
        if !self.peers.borrow().nodes.contains_key(&to) {
            return Err(CallError::Unreachable);
        }
        let peering = self.links.with(to, lane);
        let mut seen = peering.link.subscribe();
        let must_dial = peering.link.send_if_modified(|link| {
            let idle = match link {
                Link::Down(None) => true,
                Link::Down(Some(again)) => *again <= Instant::now(),
                Link::Dialing => false,
                Link::Up(line) => line.close_reason().is_some(),
            };
            if idle {
                *link = Link::Dialing;
            }
            idle
        });
        if must_dial {
            // A task of its own: a caller that gives up early must not abort a handshake that the next caller needs.
            self.spawn(dial(self.clone(), to, lane));
        }
        loop {
            match &*seen.borrow_and_update() {
                Link::Up(line) => return Ok(line.clone()),
                Link::Down(_) => return Err(CallError::Unreachable),
                Link::Dialing => {}
            }
            // The peer may dial us first; that wakes us too.
            seen.changed().await.map_err(|_| CallError::Unreachable)?;
        }
    }
}

pub(super) async fn dial(shared: Arc<Shared>, to: NodeId, lane: Lane) {
    let done = match timeout(DIAL_WITHIN, handshake(&shared, to, lane)).await {
        Ok(Ok(connection)) => adopt(&shared, connection),
        Ok(Err(error)) => {
            debug!(node = %to, %error, "dialing failed");
            None
        }
        Err(_) => {
            debug!(node = %to, "dialing took too long");
            None
        }
    };
    if done != Some(lane) {
        shared.links.with(to, lane).link.send_if_modified(|link| {
            let dialing = matches!(link, Link::Dialing);
            if dialing {
                *link = Link::Down(Some(Instant::now() + DIAL_AGAIN_AFTER));
            }
            dialing
        });
    }
}

async fn handshake(shared: &Shared, to: NodeId, lane: Lane) -> io::Result<Connection> {
    let addr = shared.peers.borrow().nodes.get(&to).map(|peer| peer.addr);
    let addr = addr.ok_or_else(|| io::Error::other("the node left"))?;
    let (config, name) = (shared.dialing.of(lane), shared.name_of(to));
    let connecting = shared.endpoint.connect_with(config, addr, &name).map_err(io::Error::other)?;
    Ok(connecting.await?)
}

/// Makes `connection` the one of its kind to its peer, and serves it. Says which kind that is; none if its peer is no member.
fn adopt(shared: &Arc<Shared>, connection: Connection) -> Option<Lane> {
    let owner = owner(shared, &connection);
    // The handshake has seen to this; but the members may have changed since.
    let Some(owner) = owner.filter(|owner| shared.peers.borrow().pins(owner.node, &owner.key)) else {
        connection.close(UNPINNED, b"not a member");
        return None;
    };
    let (node, lane) = (owner.node, Lane::of(&connection));
    debug!(%node, ?lane, remote = %connection.remote_address(), "connected");
    let (peering, line) = (shared.links.with(node, lane), Line::new(connection));
    {
        let mut connections = peering.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.push(line.clone());
        if connections.len() > CONNECTIONS_PER_PEER_MAX {
            connections.remove(0).close(SUPERSEDED, b"superseded");
        }
    }
    peering.link.send_replace(Link::Up(line.clone()));
    shared.spawn(serve(shared.clone(), peering, line, owner));
    Some(lane)
}

fn owner(shared: &Shared, connection: &Connection) -> Option<Certified> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    shared.tls.owner(&chain)
}

/// Serves one connection until it ends or its peer is no member any more.
async fn serve(shared: Arc<Shared>, peering: Arc<Peering>, line: Line, owner: Certified) {
    let began = Instant::now();
    let node = owner.node;
    let reason = tokio::select! {
        reason = streams(&shared, &line, node) => reason,
        () = shared.unpinned(&owner) => {
            line.close(UNPINNED, b"not a member any more");
            "not a member any more".into()
        }
        () = line.unused() => {
            line.close(UNUSED, b"nobody needs it");
            "nobody needs it".into()
        }
        () = settle(&peering, &line, (shared.me(), node)) => {
            line.close(UNUSED, b"another one is used");
            "another one is used".into()
        }
    };
    debug!(%node, reason, "connection ended");
    let mut connections = peering.connections.lock().unwrap_or_else(PoisonError::into_inner);
    connections.retain(|other| other.stable_id() != line.stable_id());
    let next = connections.last().filter(|other| other.close_reason().is_none()).cloned();
    drop(connections);
    peering.link.send_if_modified(|link| {
        let ours = matches!(link, Link::Up(used) if used.stable_id() == line.stable_id());
        if ours {
            let young = began.elapsed() < YOUNG;
            *link = match next {
                Some(other) => Link::Up(other),
                None => Link::Down(young.then(|| Instant::now() + DIAL_AGAIN_AFTER)),
            };
        }
        ours
    });
}

/// Waits until both ends use another connection in place of this one, and it is on us to close it.
async fn settle(peering: &Peering, line: &Line, ends: (NodeId, NodeId)) {
    sleep(SETTLE_AFTER).await;
    peering.settle(ends);
    if line.is_ours_to_close() {
        while peering.has_another_than(line) {
            line.spare().await;
            if peering.has_another_than(line) {
                return;
            }
        }
    }
    // It is the one that is used.
    std::future::pending().await
}

/// Why it ended.
async fn streams(shared: &Arc<Shared>, line: &Line, node: NodeId) -> String {
    loop {
        let ended = tokio::select! {
            bi = line.accept_bi() => match bi {
                Ok((send, recv)) => {
                    line.touch();
                    let (shared, line, user) = (shared.clone(), line.clone(), line.user());
                    shared.clone().spawn(async move {
                        call::answer(shared, &line, node, send, recv).await;
                        drop(user);
                    });
                    continue;
                }
                Err(reason) => reason,
            },
            uni = line.accept_uni() => match uni {
                Ok(recv) => {
                    shared.spawn(message::receive(shared.clone(), node, recv));
                    continue;
                }
                Err(reason) => reason,
            },
            datagram = line.read_datagram() => match datagram {
                Ok(datagram) => {
                    line.touch();
                    ping::receive(shared, line, node, &datagram);
                    continue;
                }
                Err(reason) => reason,
            },
        };
        return ended.to_string();
    }
}

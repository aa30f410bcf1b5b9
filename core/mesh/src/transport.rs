//! How agents speak to each other: one UDP port and one TCP port, everything encrypted, both ends known.
//!
//! - Over QUIC: gossip messages, calls (a question and its answer, with a deadline), streams, control pings. `quic` keeps the
//!   connections, one per peer and kind of use (`lane`), `call` and `message` use them, `ping` asks who answers.
//! - Over TCP, split by ALPN: `door` (an lb reaching an instance on another node), `join` (a newcomer with a token), and HTTPS,
//!   which is handed to whoever serves it.
//!
//! A peer is who its certificate says, if the authority signed it and its key is the one pinned for that node in [`Peers`]. Nothing
//! here believes an id or an address that a message claims. Nothing waits without a deadline, and nothing grows without a limit.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::future::BoxFuture;
use hirsel_model::{InstanceId, NodeId};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::identity::{Certified, Former, Identity, IdentityError, certified, common_name};
use crate::seam::{BoxStream, World};

mod call;
pub mod datagrams;
mod door;
mod join;
mod knock;
mod lane;
mod message;
mod ping;
mod quic;
mod tcp;
#[cfg(test)]
pub(crate) mod tests;
mod timer;
mod tls;

pub use call::BODY_BYTES_MAX;
use door::Carries;
pub use join::{JoinError, connect_https, join_request};
pub use knock::{Carried, DATAGRAM_BYTES, HEADERS_BYTES, knock_sizes, knock_tcp, knock_udp};
pub use ping::PING_INTERVAL;
pub use quic::endpoint_config;
pub use timer::QuicRuntime;

/// Reads the beginning of a call ([`crate::decoders`]).
pub(crate) async fn decode_call(bytes: &[u8]) {
    call::decode(bytes).await;
}

/// Reads an answer.
pub(crate) async fn decode_answer(bytes: &[u8]) {
    call::decode_answer(bytes).await;
}

/// Reads what goes over a connection of somebody who joins.
pub(crate) async fn decode_join(bytes: &[u8]) {
    join::decode(bytes).await;
}

/// Reads the answer to a knock.
pub(crate) fn decode_knock(bytes: &[u8]) {
    knock::decode(bytes);
}

/// Reads the header of a door.
pub(crate) async fn decode_door(mut bytes: &[u8]) {
    let _ = door::header(&mut bytes).await;
}

/// Calls to begin with.
pub(crate) fn call_samples() -> Vec<Vec<u8>> {
    call::samples()
}

/// How often another port is drawn when UDP and TCP are to share a number that the system picks (`bind` to port 0).
const PORT_DRAWS: usize = 16;
/// How long closing waits for the peers to be told.
const CLOSE_WITHIN: Duration = Duration::from_millis(500);

/// Another node, as the control state knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where its mesh ports are.
    pub addr: SocketAddr,
    /// Its pinned Ed25519 key.
    pub key: [u8; 32],
}

/// All nodes that belong to the cluster. Whoever is not in here is not spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// By number.
    pub nodes: BTreeMap<NodeId, Peer>,
}

impl Peers {
    /// Whether `node` is a member with this key.
    pub fn pins(&self, node: NodeId, key: &[u8; 32]) -> bool {
        self.nodes.get(&node).is_some_and(|peer| peer.key == *key)
    }

    /// Whose address this is.
    pub fn at(&self, addr: SocketAddr) -> Option<NodeId> {
        self.nodes.iter().find(|(_, peer)| peer.addr == addr).map(|(node, _)| *node)
    }
}

/// What a transport needs to start.
pub struct TransportConfig {
    /// Sockets, time, chance.
    pub world: World,
    /// Who this is.
    pub identity: Identity,
    /// Address of both ports. With port 0 the system picks one number for both.
    pub bind: SocketAddr,
    /// Where peers reach this node. Its port 0 means the one that was bound.
    pub advertise: SocketAddr,
    /// The members; read again whenever it matters.
    pub peers: watch::Receiver<Arc<Peers>>,
    /// Where TCP connections are served, which carry the traffic of clients; all else runs where the transport is started.
    pub streams: tokio::runtime::Handle,
}

/// Why a transport did not start.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Another process has the port.
    #[error(
        "{protocol} port {addr} is already in use; is another hirsel running here? try: hirsel status, or another --bind"
    )]
    PortTaken {
        /// `udp` or `tcp`.
        protocol: &'static str,
        /// The address asked for.
        addr: SocketAddr,
    },
    /// The address cannot be used.
    #[error("cannot listen on {protocol} {addr}: {source}")]
    Bind {
        /// `udp` or `tcp`.
        protocol: &'static str,
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The identity of this node cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Its key or certificates are not accepted by the TLS library.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The node is unknown, or there is no connection to it. Whether the call was carried out is unknown.
    #[error("no connection to the node")]
    Unreachable,
    /// The deadline passed. The call may have been carried out.
    #[error("no answer before the deadline")]
    TimedOut,
    /// The other side said no, in words. Nothing was done, except when its answer was too large to be sent.
    #[error("refused: {0}")]
    Refused(String),
    /// The other side does not know this kind of call: it is older, or not ready yet.
    #[error("the node does not serve this kind of call")]
    NoHandler,
}

/// Whether a node answers control pings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PingState {
    /// False once three in a row were not answered.
    pub answered: bool,
    /// Round trip of the last answer, in milliseconds, rounded; followed only coarsely.
    pub rtt_ms: u32,
}

/// An HTTPS connection, after its handshake.
pub struct HttpsStream {
    /// The bytes inside.
    pub stream: BoxStream,
    /// Who connected.
    pub remote: SocketAddr,
    /// The member that showed its certificate; none for anybody else.
    pub node: Option<NodeId>,
}

type CallHandler = Arc<dyn Fn(NodeId, Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> + Send + Sync>;
type StreamHandler = Arc<dyn Fn(NodeId, Vec<u8>, BoxStream) -> BoxFuture<'static, ()> + Send + Sync>;
type HttpsHandler = Arc<dyn Fn(HttpsStream) -> BoxFuture<'static, ()> + Send + Sync>;
type JoinHandler = Arc<dyn Fn(SocketAddr, Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> + Send + Sync>;

/// Messages as they arrive, for one reader at a time.
pub(crate) type Inbox = Arc<tokio::sync::Mutex<mpsc::Receiver<(NodeId, Vec<u8>)>>>;

/// What answers. Set while the agent starts, read by every connection.
#[derive(Default)]
struct Handlers {
    calls: BTreeMap<&'static str, CallHandler>,
    streams: BTreeMap<&'static str, StreamHandler>,
    https: Option<HttpsHandler>,
    join: Option<JoinHandler>,
    doors: Arc<BTreeMap<InstanceId, SocketAddr>>,
}

/// What all tasks of the transport share.
struct Shared {
    world: World,
    identity: Identity,
    advertise: SocketAddr,
    peers: watch::Receiver<Arc<Peers>>,
    tls: tls::Tls,
    endpoint: quinn::Endpoint,
    dialing: lane::Dialing,
    links: quic::Links,
    handlers: RwLock<Handlers>,
    /// Kibibytes of call bodies being received or handled.
    bodies: Arc<Semaphore>,
    messages_out: Arc<Semaphore>,
    messages_in: mpsc::Sender<(NodeId, Vec<u8>)>,
    pings: ping::Pings,
    /// The runtime of the transport. A connection is often first asked for by a task of another runtime that may end any time.
    runtime: tokio::runtime::Handle,
    streams: tokio::runtime::Handle,
    stop: CancellationToken,
}

impl Shared {
    fn me(&self) -> NodeId {
        self.identity.node
    }

    fn name_of(&self, node: NodeId) -> String {
        common_name(&self.identity.cluster, node)
    }

    /// Waits until this key does not speak for this node any more. While nobody tells of members, those known remain.
    async fn unpinned(&self, owner: &Certified) {
        let mut peers = self.peers.clone();
        if peers.wait_for(|peers| !peers.pins(owner.node, &owner.key)).await.is_err() {
            std::future::pending().await
        }
    }

    /// A panic of a handler never happens while this is held, so a poisoned lock is as good as any.
    fn handlers(&self) -> std::sync::RwLockReadGuard<'_, Handlers> {
        self.handlers.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` until it is done or the transport stops.
    fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(until(self.stop.clone(), work));
    }

    /// The same, for work on TCP connections.
    fn spawn_stream(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        self.streams.spawn(until(self.stop.clone(), work));
    }
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

/// The ports of this node and its connections to the others. Dropping it closes everything.
pub struct Transport {
    shared: Arc<Shared>,
    messages: Inbox,
}

impl Transport {
    /// Binds both ports and begins to serve. Handlers may be set at any time: until then their calls are told so.
    pub async fn start(config: TransportConfig) -> Result<Arc<Transport>, TransportError> {
        let TransportConfig { world, identity, bind, mut advertise, peers, streams } = config;
        identity.check()?;
        let tls = tls::Tls::new(&world, &identity, peers.clone())?;
        let (listener, socket) = bind_both(&world, &streams, bind).await?;
        let bound =
            socket.local_addr().map_err(|source| TransportError::Bind { protocol: "udp", addr: bind, source })?;
        if advertise.port() == 0 {
            advertise.set_port(bound.port());
        }
        let (endpoint, dialing) = quic::endpoint(&world, &identity, &tls, socket)
            .map_err(|source| TransportError::Bind { protocol: "udp", addr: bind, source })?;
        let (messages_in, messages) = mpsc::channel(message::MESSAGES_WAITING_MAX);
        let shared = Arc::new(Shared {
            world,
            identity,
            advertise,
            peers,
            tls,
            endpoint,
            dialing,
            links: quic::Links::default(),
            handlers: RwLock::default(),
            bodies: Arc::new(Semaphore::new(call::BODIES_KIB_MAX)),
            messages_out: Arc::new(Semaphore::new(message::MESSAGES_LEAVING_MAX)),
            messages_in,
            pings: ping::Pings::default(),
            runtime: tokio::runtime::Handle::current(),
            streams,
            stop: CancellationToken::new(),
        });
        shared.spawn(quic::accept(shared.clone()));
        shared.spawn_stream(tcp::accept(shared.clone(), listener));
        shared.spawn(ping::run(shared.clone()));
        Ok(Arc::new(Transport { shared, messages: Arc::new(tokio::sync::Mutex::new(messages)) }))
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.shared.me()
    }

    /// Where peers reach this node, with the port that was bound.
    pub fn advertise(&self) -> SocketAddr {
        self.shared.advertise
    }

    /// The members as this transport sees them now.
    pub fn peers(&self) -> watch::Receiver<Arc<Peers>> {
        self.shared.peers.clone()
    }

    /// What the certificate says that this node shows now, on all of its ports.
    pub fn certificate(&self) -> Certified {
        self.shared.tls.shown().expect("only checked certificates are shown")
    }

    /// Whether the certificate that is shown is of the cluster's present authority.
    pub fn is_current(&self) -> bool {
        self.shared.tls.is_current()
    }

    /// Believes this authority and those before it from now on, and shows them. Connections that are up stay up.
    pub fn follow_authority(&self, ca: Vec<u8>, former: Vec<Former>) -> Result<(), TransportError> {
        self.shared.tls.alter(|identity| (identity.ca, identity.former) = (ca, former))
    }

    /// Whether `certificate` may follow the one that is shown: of this node and its key, signed by the cluster's authority, and good
    /// for longer, unless the present one is not good by this node's clock.
    pub fn check_renewal(&self, certificate: &[u8]) -> Result<Certified, TransportError> {
        let renewed = Identity { cert: certificate.to_vec(), ..self.shared.identity.clone() };
        renewed.check()?;
        self.shared.tls.is_signed(certificate)?;
        // One of a former authority is followed by any of the present one.
        let is_current = self.is_current();
        let (now, next) = (self.certificate(), certified(certificate, &self.shared.identity.cluster)?);
        let second = self.shared.world.clock.wall().0 / 1000;
        let is_good = is_current && (now.not_before..=now.not_after).contains(&second);
        if is_good && next.not_after <= now.not_after {
            let why = format!("it ends at {}, the present one at {}", next.not_after, now.not_after);
            return Err(IdentityError::Certificate(why).into());
        }
        Ok(next)
    }

    /// Shows this certificate from now on, if [`Transport::check_renewal`] lets it. Connections that are up stay up.
    pub fn renew(&self, certificate: Vec<u8>) -> Result<Certified, TransportError> {
        let said = self.check_renewal(&certificate)?;
        self.shared.tls.alter(|identity| identity.cert = certificate)?;
        Ok(said)
    }

    /// Asks `to`. The whole call, dialing included, takes at most `ttl`; the other side drops its work then, too.
    pub async fn call(
        &self,
        to: NodeId,
        kind: &'static str,
        body: Vec<u8>,
        ttl: Duration,
    ) -> Result<Vec<u8>, CallError> {
        call::call(&self.shared, to, kind, body, ttl).await
    }

    /// Answers calls of this kind. The first argument is the caller as its certificate says. A handler that panics gives no answer.
    pub fn serve(
        &self,
        kind: &'static str,
        handler: impl Fn(NodeId, Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> + Send + Sync + 'static,
    ) {
        self.set(|handlers| drop(handlers.calls.insert(kind, Arc::new(handler))));
    }

    /// Opens a stream in both directions that lives as long as both sides want. `hello` arrives with it.
    pub async fn open_stream(&self, to: NodeId, kind: &'static str, hello: Vec<u8>) -> Result<BoxStream, CallError> {
        call::open_stream(&self.shared, to, kind, hello).await
    }

    /// Serves streams of this kind. The stream ends when the future does.
    pub fn serve_stream(
        &self,
        kind: &'static str,
        handler: impl Fn(NodeId, Vec<u8>, BoxStream) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) {
        self.set(|handlers| drop(handlers.streams.insert(kind, Arc::new(handler))));
    }

    /// Who answers control pings. A node appears here once it has answered, or has not answered three times.
    pub fn pings(&self) -> watch::Receiver<Arc<BTreeMap<NodeId, PingState>>> {
        self.shared.pings.states()
    }

    /// Whom to ping from now on.
    pub fn set_pinged(&self, nodes: BTreeSet<NodeId>) {
        self.shared.pings.set_targets(nodes, self.me());
    }

    /// A connection to `instance` through the agent of `to`, whose mesh address is `addr`. Uses the caller's runtime.
    pub async fn open_door(&self, to: NodeId, addr: SocketAddr, instance: &InstanceId) -> io::Result<BoxStream> {
        door::open(&self.shared, to, addr, instance, Carries::Bytes).await
    }

    /// The same for datagrams, each of which is written and read with [`datagrams`]. Not to this node itself.
    pub async fn open_datagram_door(
        &self,
        to: NodeId,
        addr: SocketAddr,
        instance: &InstanceId,
    ) -> io::Result<BoxStream> {
        door::open(&self.shared, to, addr, instance, Carries::Datagrams).await
    }

    /// Where instances of this node listen. Replaces the table whole; connections that are open stay.
    pub fn publish_doors(&self, table: BTreeMap<InstanceId, SocketAddr>) {
        self.set(|handlers| handlers.doors = Arc::new(table));
    }

    /// Serves HTTPS connections (HTTP/1.1) on the TCP port.
    pub fn serve_https(&self, handler: impl Fn(HttpsStream) -> BoxFuture<'static, ()> + Send + Sync + 'static) {
        self.set(|handlers| handlers.https = Some(Arc::new(handler)));
    }

    /// Answers newcomers: one request, one reply. The request is from anybody; it is for the handler to check its token.
    pub fn serve_join(
        &self,
        handler: impl Fn(SocketAddr, Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> + Send + Sync + 'static,
    ) {
        self.set(|handlers| handlers.join = Some(Arc::new(handler)));
    }

    /// Closes everything and tells the peers, so that they need not wait for silence.
    pub async fn close(&self) {
        self.shared.stop.cancel();
        self.shared.endpoint.close(quic::CLOSED, b"closed");
        // Whoever cannot be told will find out.
        let _ = timeout(CLOSE_WITHIN, self.shared.endpoint.wait_idle()).await;
    }

    /// Begins a round of control pings, unless one has just begun: whoever speaks to others now and then sets the pace.
    pub(crate) fn beat(&self) {
        self.shared.pings.beat();
    }

    /// Tells when a round begins.
    pub(crate) fn beats(&self) -> watch::Receiver<tokio::time::Instant> {
        self.shared.pings.beats()
    }

    /// Sends one message, at most once, without waiting. What cannot leave now is lost.
    pub(crate) fn send_message(&self, to: NodeId, body: Vec<u8>) {
        message::send(&self.shared, to, body);
    }

    /// Messages as they arrive, for one reader at a time.
    pub(crate) fn messages(&self) -> Inbox {
        self.messages.clone()
    }

    fn set(&self, change: impl FnOnce(&mut Handlers)) {
        change(&mut self.shared.handlers.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        self.shared.endpoint.close(quic::CLOSED, b"closed");
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("me", &self.me())
            .field("advertise", &self.advertise())
            .finish_non_exhaustive()
    }
}

/// One port number for both protocols.
async fn bind_both(
    world: &World,
    streams: &tokio::runtime::Handle,
    bind: SocketAddr,
) -> Result<(Box<dyn crate::seam::Listener>, Arc<dyn quinn::AsyncUdpSocket>), TransportError> {
    let explain = |protocol, addr, source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => TransportError::PortTaken { protocol, addr },
        _ => TransportError::Bind { protocol, addr, source },
    };
    let mut draws = if bind.port() == 0 { PORT_DRAWS } else { 1 };
    loop {
        // A socket belongs to the runtime that it is opened on.
        let net = world.net.clone();
        let listener = streams.spawn(async move { net.listen(bind).await }).await.map_err(io::Error::other).flatten();
        let listener = listener.map_err(|source| explain("tcp", bind, source))?;
        let addr = listener.local_addr().map_err(|source| explain("tcp", bind, source))?;
        match world.net.udp(SocketAddr::new(bind.ip(), addr.port())).await {
            Ok(socket) => return Ok((listener, socket)),
            Err(error) if draws > 1 && error.kind() == io::ErrorKind::AddrInUse => draws -= 1,
            Err(error) => return Err(explain("udp", SocketAddr::new(bind.ip(), addr.port()), error)),
        }
    }
}

//! The public side: accepts connections, serves HTTP on each (1.1 or 2, as the client likes: over TLS it says so in the handshake, in
//! clear by how it begins), and stops gracefully.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use hirsel_mesh::seam::{BoxStream, Listener};
use hirsel_role::Spawner;
use http::header::ALT_SVC;
use http::{HeaderValue, Request, Response};
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use quinn::Endpoint;
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::behind;
use crate::challenge::ACME_TLS;
use crate::client::{Client, Seen, Will};
use crate::clients::Trusts;
use crate::clients::asking::Tls;
use crate::gather::{Sender, gathered};
use crate::headers::ClientLines;
use crate::http3::Beside;
use crate::incoming::Incoming;
use crate::io::Gauged;
use crate::passthrough::{self, Looked, Rewound};
use crate::ports::one_client;
use crate::proxy::Proxy;
use crate::proxy_protocol::Header;
use crate::stream::AnswerBody;
use crate::tls::{HTTP_2, plain_name};

/// Connections of one port served at once, twice as many as the ten thousand that a front door is asked for; more wait in the kernel's queue.
/// One of HTTP/1.1 may hold a hundred kilobytes at worst, one of HTTP/2 some
/// megabytes: as many answers, held whole, as it may have requests under way, and none of them taken by its client.
pub const CLIENTS_MAX: usize = 20_000;

/// Of these, one client may have so many (IPv6: a /64): whoever takes all that it may leaves as many to others. A balancer before us that
/// does not say whom it connects for is one client, and half is enough for it; a host that is passed on to ourselves ends there.
pub const CLIENT_CONNECTIONS_MAX: usize = CLIENTS_MAX / 2;

/// Most that is read ahead of one client: the longest head, and the largest piece of a body.
const READ_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Longest head of a request. Half of it is the usual limit; cookies of large sites come near that.
pub(crate) const HEAD_BYTES_MAX: usize = 32 * 1024;

/// What a client of HTTP/2 begins with, if it knows that we speak it.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Requests that one connection of HTTP/2 or HTTP/3 may have under way (RFC 9113, section 6.5.2, advises against fewer).
pub(crate) const STREAMS_MAX: u32 = 100;

/// What a client may send of one body before anybody takes it: a hundred megabits per second from five milliseconds away.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 64 * 1024;

/// The same for all bodies of one connection. Half of it is what small pieces may cost beyond their bytes before the connection is ended
/// as an attack: two thousand messages of some bytes each that an instance has not taken yet.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// Most of one answer that waits for a client to take it.
const SEND_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// When no file descriptor is left, accepting pauses: trying again at once would only burn the processor.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long requests may go on after the role was told to stop.
pub const STOP_WITHIN: Duration = Duration::from_secs(30);

/// A listener at work.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
    /// The same over QUIC, while that is offered.
    beside: Option<Beside>,
}

pub(crate) struct Shared {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) spawner: Spawner,
    tls: Option<Tls>,
    /// What clients were asked for at the last sweep.
    trusts: ArcSwapOption<Trusts>,
    clients: Mutex<Clients>,
    pub(crate) slots: Arc<Semaphore>,
    /// Where else the same is answered (RFC 7838), while HTTP/3 is offered.
    alternative: ArcSwapOption<HeaderValue>,
    /// Whoever wants to connect over QUIC is neither let in nor refused.
    pub(crate) shut: AtomicBool,
    stopping: AtomicBool,
    /// Told when the last connection has ended while stopping.
    idle: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Clients {
    next: u64,
    open: BTreeMap<u64, (Arc<Client>, Seen)>,
    /// How many each client has of them.
    of_each: BTreeMap<IpAddr, usize>,
}

impl Server {
    /// Serves what `listener` accepts, over TLS if there is a `tls`. `idle` is told when the last connection has ended after a stop.
    pub fn start(
        listener: Box<dyn Listener>,
        tls: Option<Tls>,
        proxy: Arc<Proxy>,
        spawner: Spawner,
        idle: Arc<Notify>,
    ) -> Self {
        let shared = Arc::new(Shared {
            proxy,
            spawner: spawner.clone(),
            trusts: ArcSwapOption::new(tls.as_ref().map(|tls| tls.certificates.trusts())),
            tls,
            clients: Mutex::default(),
            slots: Arc::new(Semaphore::new(CLIENTS_MAX)),
            alternative: ArcSwapOption::empty(),
            shut: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            idle,
        });
        let accepting = spawner.spawn(accept(listener, shared.clone()));
        Self { shared, accepting, beside: None }
    }

    /// Offers HTTP/3 as well, over `endpoint`, and says so to others in these words.
    pub fn offer(&mut self, endpoint: Endpoint, words: HeaderValue) {
        self.beside = Some(Beside::start(endpoint, self.shared.clone()));
        self.shared.alternative.store(Some(Arc::new(words)));
    }

    /// Whether it offers HTTP/3.
    pub fn offers(&self) -> bool {
        self.beside.as_ref().is_some_and(|beside| !beside.is_broken())
    }

    /// Offers it no more: nobody is let in, and who is there finishes.
    pub fn withdraw(&mut self) {
        if self.beside.take().is_some() {
            self.shared.alternative.store(None);
            self.shared.clients().open.values().for_each(|(client, _)| {
                if client.is_over_quic() {
                    client.tell(Will::Finish);
                }
            });
        }
    }

    /// Holds off who wants to connect over QUIC, or does not any more.
    pub fn hold_off(&self, shut: bool) {
        self.shared.shut.store(shut, Ordering::SeqCst);
    }

    /// Stops listening; connections end after the request under way, idle ones at once.
    pub fn stop(&self) {
        self.accepting.abort();
        if let Some(beside) = &self.beside {
            beside.stop();
        }
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.tell_all(Will::Finish);
    }

    /// Goes on listening; connections end after the request under way, idle ones at once, and so do those that come.
    pub fn finish(&self) {
        if !self.shared.stopping.swap(true, Ordering::SeqCst) {
            self.tell_all(Will::Finish);
        }
    }

    /// Connections that come go on as usual.
    pub fn go_on(&self) {
        self.shared.stopping.store(false, Ordering::SeqCst);
    }

    /// Ends what is left.
    pub fn end(&self) {
        self.stop();
        self.tell_all(Will::End);
        if let Some(beside) = &self.beside {
            beside.end();
        }
    }

    /// How many client connections are open.
    pub fn clients(&self) -> usize {
        self.shared.clients().open.len()
    }

    /// Whether the accept loop has ended by itself, which it never should.
    pub fn is_broken(&self) -> bool {
        self.accepting.is_finished()
    }

    /// Ends connections that stand still, and has those end whose clients would be asked for something else now. Called every half second.
    pub fn sweep(&self) {
        self.shared.end_outdated();
        for (client, seen) in self.shared.clients().open.values_mut() {
            if client.sweep(seen) {
                client.tell(Will::End);
            }
        }
    }

    fn tell_all(&self, will: Will) {
        for (client, _) in self.shared.clients().open.values() {
            client.tell(will);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("encrypted", &self.tls.is_some()).finish_non_exhaustive()
    }
}

impl Shared {
    /// Notes for whom a connection was made that is encrypted, and what its client showed. False if that is not what is asked for.
    pub(crate) fn knows(
        &self,
        client: &Client,
        name: Option<String>,
        chain: Option<&[CertificateDer<'static>]>,
    ) -> bool {
        let (Some(tls), Some(name)) = (&self.tls, name) else { return true };
        let now = UnixTime::since_unix_epoch(Duration::from_millis(self.proxy.seer.clock.wall().0));
        let Some(proof) = tls.certificates.trusts().proof(name, chain, now) else { return false };
        client.proves(proof.clone());
        // A sweep that came between could not see it.
        tls.certificates.trusts().holds(&proof)
    }

    /// A handshake failed, for want of a certificate of the client or for something else.
    pub(crate) fn refuses(&self, for_want_of_certificate: bool) {
        if let Some(tls) = self.tls.as_ref().filter(|_| for_want_of_certificate) {
            tls.certificates.refusals.none();
        }
    }

    fn end_outdated(&self) {
        let Some(now) = self.tls.as_ref().map(|tls| tls.certificates.trusts()) else { return };
        let before = self.trusts.swap(Some(now.clone()));
        if before.is_some_and(|before| Arc::ptr_eq(&before, &now)) {
            return;
        }
        for (client, _) in self.clients().open.values() {
            if client.proof().is_some_and(|proof| !now.holds(proof)) {
                client.tell(Will::Finish);
            }
        }
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(mut listener: Box<dyn Listener>, shared: Arc<Shared>) {
    loop {
        // Never closed: the semaphore lives as long as the server.
        let Ok(slot) = shared.slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, remote)) => drop(shared.spawner.spawn(serve(stream, remote, shared.clone(), slot))),
            Err(error) => {
                warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection until it ends.
async fn serve(mut stream: BoxStream, remote: SocketAddr, shared: Arc<Shared>, slot: OwnedSemaphorePermit) {
    let mut from = remote;
    let trusted = shared.proxy.trusts(remote.ip());
    if trusted {
        // Apart, so that no other connection carries room for it.
        match Box::pin(behind::told(&mut stream)).await {
            Ok((header, begun)) => {
                if let Header::For { client, to: _ } = header {
                    from = client;
                }
                stream = behind::rewound(stream, begun);
            }
            Err(error) => {
                shared.proxy.metrics.refused_headers.inc();
                debug!(%error, %remote, "connection without a header of the PROXY protocol");
                return;
            }
        }
    }
    let mut client = Client::new(ClientLines::new(from, shared.tls.is_some()), Some(slot));
    client.direct = !trusted;
    let client = Arc::new(client);
    let Some(_registered) = Registered::new(&shared, &client) else {
        return debug!(%remote, "connection of a client that has as many as it may");
    };
    let stream = Gauged::new(stream, client.gauge.clone());
    let ended = match &shared.tls {
        None => serve_clear(stream, &client, &shared).await,
        Some(tls) => serve_tls(stream, tls, &client, &shared).await,
    };
    if let Err(error) = ended {
        debug!(%error, %remote, "connection ended");
    }
}

/// Speaks HTTP/2 with whoever begins with it (RFC 9113, section 3.3), and else HTTP/1.1.
async fn serve_clear(
    mut stream: Gauged,
    client: &Arc<Client>,
    shared: &Arc<Shared>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let begins = poll_fn(|cx| {
        client.gauge.driven_by(cx);
        match client.will() {
            Will::Go => {}
            // Whoever has said nothing misses nothing.
            Will::Finish if !stream.is_untouched() => {}
            Will::Finish | Will::End => return Poll::Ready(Ok(None)),
        }
        stream.poll_begins_with(cx, PREFACE).map_ok(Some)
    });
    match begins.await? {
        None => Ok(()),
        Some(true) => serve_http_2(stream, client, shared).await,
        Some(false) => serve_http_1(stream, client, shared).await,
    }
}

/// Shakes hands, which the sweep bounds like the head of a request, and speaks what was agreed on.
async fn serve_tls(
    stream: Gauged,
    tls: &Tls,
    client: &Arc<Client>,
    shared: &Arc<Shared>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut stream = Rewound::new(stream);
    if shared.proxy.passes_any() {
        // Apart, so that no other connection carries room for it.
        let looked = drive(Box::pin(passthrough::look(stream)), client, |_| {}).await?;
        let Some(Looked { name, stream: read }) = looked else { return Ok(()) };
        if let Some(name) = name
            && shared.proxy.routes.table().ways.passes(&name).is_some()
        {
            drive(Box::pin(passthrough::pass(&shared.proxy, client, &name, read)), client, |_| {}).await?;
            return Ok(());
        }
        stream = read;
    }
    let agreed = drive(TlsAcceptor::from(tls.begin()).accept(stream), client, |_| {}).await;
    if let Err(error) = &agreed {
        shared.proxy.metrics.refused_handshakes.inc();
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        shared.refuses(matches!(cause, Some(rustls::Error::NoCertificatesPresented)));
    }
    let Some(stream) = agreed? else { return Ok(()) };
    let (name, chain) = (stream.get_ref().1.server_name().map(plain_name), stream.get_ref().1.peer_certificates());
    if !shared.knows(client, name, chain) {
        return Ok(());
    }
    let protocol = stream.get_ref().1.alpn_protocol();
    client.shook(stream.get_ref().1.protocol_version());
    shared.proxy.metrics.shook(stream.get_ref().1.handshake_kind());
    if protocol == Some(ACME_TLS) {
        // The certificate was all there is to say (RFC 8737, section 3).
        return Ok(());
    }
    if protocol != Some(HTTP_2) {
        return serve_http_1(stream, client, shared).await;
    }
    serve_http_2(stream, client, shared).await
}

async fn serve_http_2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    client: &Arc<Client>,
    shared: &Arc<Shared>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    client.speaks_in_frames();
    let (stream, sender) = gathered(stream);
    let connection = http2::Builder::new(On(shared.spawner.clone()))
        .auto_date_header(false)
        // For WebSockets, and nothing else.
        .enable_connect_protocol()
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), answering(client.clone(), shared.clone()));
    let connection = Sending { connection: pin!(connection), sender };
    let ended = drive(connection, client, |mut it| it.connection.as_mut().graceful_shutdown()).await;
    if ended.as_ref().is_err_and(|error| is_ours(error.as_ref())) {
        shared.proxy.metrics.refused_requests.inc();
    }
    ended?;
    Ok(())
}

/// Whether a connection of HTTP/2 ended because we could not go on with what its client said.
fn is_ours(error: &(dyn Error + Send + Sync + 'static)) -> bool {
    let cause = error.downcast_ref::<hyper::Error>().and_then(|error| error.source()?.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| cause.is_go_away() && cause.is_library())
}

/// A connection, and what it says.
struct Sending<C, S> {
    connection: C,
    sender: Sender<S>,
}

impl<C, S, E> Future for Sending<C, S>
where
    C: Future<Output = Result<(), E>> + Unpin,
    S: AsyncWrite + Unpin,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    type Output = Result<(), Box<dyn Error + Send + Sync>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(ended) = Pin::new(&mut self.connection).poll(cx) {
            return Poll::Ready(ended.map_err(Into::into));
        }
        if let Err(error) = self.sender.turn(cx) {
            return Poll::Ready(Err(error.into()));
        }
        Poll::Pending
    }
}

async fn serve_http_1(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    client: &Arc<Client>,
    shared: &Arc<Shared>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let connection = http1::Builder::new()
        // The wall clock belongs to people; an instance's own `Date` passes.
        .auto_date_header(false)
        .max_buf_size(READ_BUFFER_BYTES_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), answering(client.clone(), shared.clone()))
        .with_upgrades();
    let ended = drive(connection, client, |connection| connection.graceful_shutdown()).await;
    // It was answered all the same, by hyper.
    if ended.as_ref().is_err_and(hyper::Error::is_parse) {
        shared.proxy.metrics.refused_requests.inc();
    }
    ended?;
    Ok(())
}

/// What hyper asks for an answer to each request of `client`.
fn answering(
    client: Arc<Client>,
    shared: Arc<Shared>,
) -> impl Service<
    Request<hyper::body::Incoming>,
    Response = Response<AnswerBody>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<AnswerBody>, Infallible>> + Send + 'static,
> {
    service_fn(move |request| {
        let (shared, client) = (shared.clone(), client.clone());
        async move {
            let mut answer = shared.proxy.answer(&client, request.map(Incoming::Hyper)).await;
            if client.lines.encrypted
                && client.direct
                && let Some(words) = &*shared.alternative.load()
            {
                // A program that names one by itself knows better.
                answer.headers_mut().entry(ALT_SVC).or_insert_with(|| HeaderValue::clone(words));
            }
            Ok(answer)
        }
    })
}

/// Polls what `client` waits for, until it is there, or the client is told to end: then none. `finish` is called once when it is told
/// to come to an end.
async fn drive<F: Future<Output = Result<T, E>>, T, E>(
    work: F,
    client: &Client,
    finish: impl Fn(Pin<&mut F>),
) -> Result<Option<T>, E> {
    let mut work = pin!(work);
    let mut told = Will::Go;
    poll_fn(|cx| {
        client.gauge.driven_by(cx);
        match client.will() {
            Will::End => return Poll::Ready(Ok(None)),
            Will::Finish if told == Will::Go => {
                told = Will::Finish;
                finish(work.as_mut());
            }
            Will::Finish | Will::Go => {}
        }
        work.as_mut().poll(cx).map_ok(Some)
    })
    .await
}

/// Where the requests of an HTTP/2 connection run.
#[derive(Clone)]
struct On(Spawner);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for On {
    fn execute(&self, request: F) {
        drop(self.0.spawn(request));
    }
}

/// A connection in the list of the server for as long as it is open.
pub(crate) struct Registered {
    shared: Arc<Shared>,
    number: u64,
    /// Whose it is.
    of: IpAddr,
}

impl Registered {
    /// None if the client has as many as it may.
    pub(crate) fn new(shared: &Arc<Shared>, client: &Arc<Client>) -> Option<Self> {
        let of = one_client(client.lines.ip);
        let number = {
            let mut clients = shared.clients();
            let open = clients.of_each.entry(of).or_default();
            if *open >= CLIENT_CONNECTIONS_MAX {
                shared.proxy.metrics.refused_connections.inc();
                return None;
            }
            *open += 1;
            clients.next += 1;
            let number = clients.next;
            clients.open.insert(number, (client.clone(), Seen::default()));
            number
        };
        shared.proxy.metrics.clients.inc();
        // Whoever was accepted just before the stop was not in the list when all were told.
        if shared.stopping.load(Ordering::SeqCst) {
            client.tell(Will::Finish);
        }
        Some(Self { shared: shared.clone(), number, of })
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.proxy.metrics.clients.dec();
        let mut clients = self.shared.clients();
        clients.open.remove(&self.number);
        match clients.of_each.get_mut(&self.of) {
            Some(open) if *open > 1 => *open -= 1,
            Some(_) | None => drop(clients.of_each.remove(&self.of)),
        }
        if clients.open.is_empty() && self.shared.stopping.load(Ordering::SeqCst) {
            self.shared.idle.notify_one();
        }
    }
}

//! One connection of HTTP/3, and its requests.

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h3::error::{Code, ConnectionError, StreamError};
use h3::server::{RequestResolver, RequestStream};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Body as _;
use quinn::VarInt;
use quinn::crypto::rustls::HandshakeData;
use rustls_pki_types::CertificateDer;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use super::body::Body;
use super::head;
use super::transport::{Accepted, Both, Desk, Quic, Sending};
use super::{EXCESSIVE_LOAD, HANDSHAKE_WITHIN, HEAD_BYTES_MAX, NO_ERROR};
use crate::client::{Client, Will};
use crate::headers::ClientLines;
use crate::incoming::Incoming;
use crate::serve::{Registered, STREAMS_MAX, Shared};
use crate::stream::AnswerBody;
use crate::tls::plain_name;

/// The head of a request must be whole by then, as over TCP.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// The end of a request that mostly has no body is waited for so long, if it does not come with the head: some clients say it apart.
const END_WITHIN: Duration = Duration::from_millis(100);

/// What a client sent before it read that the connection ends arrives within two round trips; and within these bounds, whatever was
/// measured.
const GRACE_MIN: Duration = Duration::from_millis(50);
const GRACE_MAX: Duration = Duration::from_millis(500);

type Connection = h3::server::Connection<Quic, Bytes>;
type Resolver = RequestResolver<Quic, Bytes>;

/// Shakes hands and serves the connection until it ends.
pub(super) async fn serve(
    incoming: quinn::Incoming,
    slot: OwnedSemaphorePermit,
    handshake: OwnedSemaphorePermit,
    shared: Arc<Shared>,
) {
    let from = incoming.remote_address();
    let quic = match timeout(HANDSHAKE_WITHIN, async { incoming.await }).await {
        Ok(Ok(quic)) => quic,
        failed => {
            shared.proxy.metrics.refused_handshakes.inc();
            if let Ok(Err(error)) = failed {
                shared.refuses(is_for_want_of_certificate(&error));
            }
            return debug!(%from, "no connection over QUIC");
        }
    };
    drop(handshake);
    let name = name_of(&quic);
    if let Some(name) = &name
        && shared.proxy.routes.table().ways.passes(name).is_some()
    {
        // A certificate for it happens to be here, but what is behind it is reached over TCP alone.
        return quic.close(VarInt::from_u32(NO_ERROR), b"this host is passed on over TCP alone");
    }
    let client = Client::new(ClientLines::new(quic.remote_address(), true), Some(slot)).over_quic();
    client.shook(Some(rustls::ProtocolVersion::TLSv1_3));
    let client = Arc::new(client);
    let shown = quic.peer_identity().and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
    if !shared.knows(&client, name, shown.as_ref().map(|chain| &chain[..])) {
        return quic.close(VarInt::from_u32(NO_ERROR), b"other certificates are asked for now");
    }
    let Some(_registered) = Registered::new(&shared, &client) else {
        return quic.close(VarInt::from_u32(EXCESSIVE_LOAD), b"this client has as many connections as it may");
    };
    let desk = Desk::new();
    let mut builder = h3::server::builder();
    builder.max_field_section_size(HEAD_BYTES_MAX).send_grease(false);
    let built = builder.build(Quic::new(quic.clone(), client.gauge.clone(), desk.clone()));
    let Ok(Ok(connection)) = timeout(HANDSHAKE_WITHIN, built).await else {
        return debug!(%from, "no connection of HTTP/3");
    };
    let metrics = shared.proxy.metrics.clone();
    let serving = Serving { quic, desk, current: client.clone(), client, shared, ongoing: Arc::default() };
    if let Err(error) = serving.requests(connection).await {
        if matches!(error, ConnectionError::Local { .. }) && !error.is_h3_no_error() {
            metrics.refused_requests.inc();
        }
        debug!(%error, %from, "connection ended");
    }
}

/// Whom a client wants to talk to, in lower case.
fn name_of(quic: &quinn::Connection) -> Option<String> {
    Some(plain_name(&quic.handshake_data()?.downcast::<HandshakeData>().ok()?.server_name?))
}

/// Whether a client was not let in because it showed no certificate.
fn is_for_want_of_certificate(error: &quinn::ConnectionError) -> bool {
    let code = quinn::TransportErrorCode::crypto(rustls::AlertDescription::CertificateRequired.into());
    matches!(error, quinn::ConnectionError::TransportError(error) if error.code == code)
}

/// A connection at work.
struct Serving {
    quic: quinn::Connection,
    desk: Arc<Desk>,
    /// The connection as it is listed.
    client: Arc<Client>,
    /// The same with the address that the client has now.
    current: Arc<Client>,
    shared: Arc<Shared>,
    ongoing: Arc<AtomicUsize>,
}

/// How far a connection is on its way to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    /// It goes on.
    Open,
    /// The client is told that it ends; what is on its way is answered still.
    Leaving,
    /// What comes now is refused, and may be asked elsewhere.
    Left,
    /// It ends with the last answer.
    Ending,
}

/// What came first.
enum Next {
    /// We are told to go on otherwise.
    Told(Will),
    /// The time that the course takes is over.
    Over,
    Came(Result<Option<Box<Resolver>>, ConnectionError>),
}

impl Serving {
    async fn requests(mut self, mut connection: Connection) -> Result<(), ConnectionError> {
        let (mut course, mut until) = (Course::Open, None);
        // The place of the first request that has not come.
        let mut next_index = 0;
        loop {
            let next = tokio::select! {
                biased;
                will = self.told(course) => Next::Told(will),
                () = over(until) => Next::Over,
                came = connection.accept() => Next::Came(came.map(|resolver| resolver.map(Box::new))),
            };
            match next {
                Next::Told(Will::Go) => {}
                Next::Told(Will::End) => return Ok(()),
                Next::Told(Will::Finish) => {
                    (course, until) = (Course::Leaving, Some(self.grace()));
                    // Of who has asked nothing yet the first request may be on its way, and this would refuse it.
                    if next_index > 0 {
                        self.desk.refuse_from(next_index + u64::from(STREAMS_MAX));
                        // Counted from the request that came last.
                        connection.shutdown(STREAMS_MAX as usize + 1).await?;
                    }
                }
                Next::Over if course == Course::Leaving => {
                    (course, until) = (Course::Left, Some(self.grace()));
                    self.desk.refuse_from(next_index);
                    connection.shutdown(1).await?;
                }
                Next::Over => (course, until) = (Course::Ending, None),
                Next::Came(Ok(Some(resolver))) => {
                    let Some(accepted) = self.desk.take() else { continue };
                    next_index = accepted.index + 1;
                    self.take(resolver, accepted);
                }
                // The client ends it, and has all its answers.
                Next::Came(Ok(None)) => return Ok(()),
                Next::Came(Err(error)) => return Err(error),
            }
        }
    }

    /// Completes when the connection is to go on otherwise than it does.
    async fn told(&self, course: Course) -> Will {
        poll_fn(|cx| {
            self.client.gauge.driven_by(cx);
            match (self.client.will(), course) {
                (Will::End, _) => Poll::Ready(Will::End),
                (Will::Finish, Course::Open) => Poll::Ready(Will::Finish),
                (_, Course::Ending) if self.ongoing.load(Ordering::SeqCst) == 0 => Poll::Ready(Will::End),
                _ => Poll::Pending,
            }
        })
        .await
    }

    /// Until when what the client sent before it read what we say has come.
    fn grace(&self) -> Instant {
        Instant::now() + (self.quic.rtt() * 2).clamp(GRACE_MIN, GRACE_MAX)
    }

    /// Has a request answered.
    fn take(&mut self, resolver: Box<Resolver>, accepted: Accepted) {
        let remote = self.quic.remote_address();
        if remote.ip().to_canonical() != self.current.lines.ip {
            debug!(from = %self.current.lines.ip, to = %remote, "client has moved");
            self.current = Arc::new(self.client.moved(ClientLines::new(remote, true)));
        }
        let ongoing = Ongoing::begin(&self.ongoing, &self.client);
        let (shared, client) = (self.shared.clone(), self.current.clone());
        drop(self.shared.spawner.spawn(async move {
            answer(resolver, accepted, &client, &shared).await;
            drop(ongoing);
        }));
    }
}

async fn over(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => pending().await,
    }
}

/// A request under way, until the client has its answer.
struct Ongoing {
    count: Arc<AtomicUsize>,
    client: Arc<Client>,
}

impl Ongoing {
    fn begin(count: &Arc<AtomicUsize>, client: &Arc<Client>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self { count: count.clone(), client: client.clone() }
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        if self.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.client.gauge.nudge();
        }
    }
}

/// Answers one request, unless the client gives it up.
async fn answer(resolver: Box<Resolver>, accepted: Accepted, client: &Arc<Client>, shared: &Arc<Shared>) {
    let Accepted { index: _, mut stopped, strict } = accepted;
    let resolved = async {
        tokio::select! {
            resolved = timeout(HEAD_WITHIN, resolver.resolve_request()) => resolved.ok()?.ok(),
            _ = &mut stopped => None,
        }
    };
    let Some((request, stream)) = resolved.await else {
        // Whoever begins requests without end costs no less than who gives them up.
        return drop(client.begin());
    };
    strict.store(true, Ordering::SeqCst);
    let Some((request, mut send)) = read(request, stream).await else { return drop(client.begin()) };
    let answer = tokio::select! {
        biased;
        answer = Box::pin(shared.proxy.answer(client, request)) => answer,
        _ = &mut stopped => return,
    };
    // Its body is dropped with this, and knows then that nobody wanted the rest.
    let delivered = tokio::select! {
        biased;
        delivered = deliver(&mut send, answer) => delivered,
        _ = &mut stopped => return,
    };
    match delivered {
        // Until the client has it, a connection that ends would take it away.
        Ok(()) => drop(stopped.await),
        Err(error) => {
            debug!(%error, "answer not delivered");
            send.stop_stream(Code::H3_INTERNAL_ERROR);
        }
    }
}

/// The request as all others are, and where its answer goes; none, and it is refused, if it is malformed.
async fn read(
    request: Request<()>,
    mut stream: RequestStream<Both, Bytes>,
) -> Option<(Request<Incoming>, RequestStream<Sending, Bytes>)> {
    let Ok(length) = head::length(&request) else {
        stream.stop_stream(Code::H3_MESSAGE_ERROR);
        stream.stop_sending(Code::H3_MESSAGE_ERROR);
        return None;
    };
    let (send, receive) = stream.split();
    let mut body = Body::new(receive, length);
    let first = poll_fn(|cx| body.poll_first(cx));
    // Whether it has a body or not, it goes on.
    if length.is_none() && head::is_mostly_without_body(request.method()) {
        let _ = timeout(END_WITHIN, first).await;
    } else {
        let mut first = pin!(first);
        let _ = poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx))).await;
    }
    Some((request.map(|()| Incoming::Http3(Box::new(body))), send))
}

/// Writes an answer, as fast as the client takes it.
async fn deliver(send: &mut RequestStream<Sending, Bytes>, answer: Response<AnswerBody>) -> Result<(), StreamError> {
    let (mut head, body) = answer.into_parts();
    let has_length = !(head.status.is_informational() || head.status == StatusCode::NO_CONTENT);
    if has_length
        && !body.is_end_stream()
        && let Some(length) = body.size_hint().exact()
    {
        head.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    let mut body = pin!(body);
    send.send_response(Response::from_parts(head, ())).await?;
    while !body.is_end_stream() {
        let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await else { break };
        let Ok(frame) = frame else {
            send.stop_stream(Code::H3_INTERNAL_ERROR);
            return Ok(());
        };
        match frame.into_data() {
            Ok(bytes) if bytes.is_empty() => {}
            Ok(bytes) => send.send_data(bytes).await?,
            Err(frame) => {
                if let Ok(trailer) = frame.into_trailers() {
                    send.send_trailers(trailer).await?;
                }
            }
        }
    }
    send.finish().await
}

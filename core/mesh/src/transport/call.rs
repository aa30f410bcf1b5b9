//! Calls and streams: one QUIC stream each, in both directions.
//!
//! ```text
//! opener:  1 call | 2 stream · time left in ms (u32) · length of kind (u8) · kind · length of body (u32) · body
//! answer:  0 done | 1 refused | 2 no handler | 3 too late · for a call: length (u32) · the answer or the words
//! ```
//!
//! Lengths are told in advance, because a stream that its writer drops ends like one that is complete.
//!
//! The caller is who the connection's certificate says. A deadline travels with the call, so that nobody works for a caller that
//! has given up.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use hirsel_model::NodeId;
use quinn::{RecvStream, SendStream, WriteError};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, error};

use super::lane::Line;
use super::{CallError, Shared};
use crate::seam::BoxStream;

/// Largest body of a call or an answer. Snapshots are cut into pieces below this; anything larger belongs on a stream.
pub const BODY_BYTES_MAX: usize = 16 << 20;
/// Large bodies being received or handled, in kibibytes: a handful of the largest.
pub(super) const BODIES_KIB_MAX: usize = 128 << 10;
/// Smaller bodies need no room of it: heartbeats never wait behind snapshots. The number of streams bounds them.
const SMALL_BODY_BYTES: u32 = 64 << 10;
/// No call holds anything longer than this, whatever its caller says.
const TTL_MAX: Duration = Duration::from_secs(120);
/// The head of a stream must be there by then, and the answer to opening one.
const HEAD_WITHIN: Duration = Duration::from_secs(2);
/// Buffer of a stream to ourselves.
const LOCAL_STREAM_BYTES: usize = 64 << 10;

const CALL: u8 = 1;
const STREAM: u8 = 2;

const DONE: u8 = 0;
const REFUSED: u8 = 1;
const NO_HANDLER: u8 = 2;
const TOO_LATE: u8 = 3;

/// What a stream begins with.
struct Head {
    purpose: u8,
    ttl: Duration,
    kind: String,
    body: u32,
}

impl Head {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.purpose];
        bytes.extend(u32::try_from(self.ttl.as_millis()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.push(u8::try_from(self.kind.len()).expect("kinds of calls are short words"));
        bytes.extend(self.kind.as_bytes());
        bytes.extend(self.body.to_be_bytes());
        bytes
    }

    /// None for anything that is no head.
    async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Head> {
        let purpose = stream.read_u8().await.ok()?;
        let ttl = Duration::from_millis(stream.read_u32().await.ok()?.into());
        let mut kind = vec![0; stream.read_u8().await.ok()?.into()];
        stream.read_exact(&mut kind).await.ok()?;
        let kind = String::from_utf8(kind).ok()?;
        let body = stream.read_u32().await.ok()?;
        (body as usize <= BODY_BYTES_MAX).then_some(Head { purpose, ttl: ttl.min(TTL_MAX), kind, body })
    }
}

/// What a peer would be answered to: the head of a call, and what follows it.
pub(super) async fn decode(mut bytes: &[u8]) {
    if let Some(head) = Head::read(&mut bytes).await {
        let mut body = vec![0; (head.body as usize).min(bytes.len())];
        let _ = bytes.read_exact(&mut body).await;
    }
}

/// An answer, as the asker reads it.
pub(super) async fn decode_answer(mut bytes: &[u8]) {
    let _ = read_answer(&mut bytes).await;
}

/// The beginning of a call of every kind.
pub(super) fn samples() -> Vec<Vec<u8>> {
    let head = |purpose| Head { purpose, ttl: Duration::from_secs(1), kind: "echo".into(), body: 2 };
    [CALL, STREAM].into_iter().map(|purpose| [head(purpose).encode(), b"ok".to_vec()].concat()).collect()
}

pub(super) async fn call(
    shared: &Arc<Shared>,
    to: NodeId,
    kind: &'static str,
    body: Vec<u8>,
    ttl: Duration,
) -> Result<Vec<u8>, CallError> {
    let length = fits(&body)?;
    let asked = async {
        if to == shared.me() {
            return handle(shared, to, kind, body).await;
        }
        let deadline = Instant::now() + ttl;
        let connection = shared.connection(to).await?;
        let _user = connection.user();
        let (mut send, mut recv) = connection.open_bi().await.map_err(|_| CallError::Unreachable)?;
        let ttl = deadline.saturating_duration_since(Instant::now());
        let head = Head { purpose: CALL, ttl, kind: kind.into(), body: length };
        write(&mut send, &head.encode(), &body).await?;
        let _ = send.finish();
        let (status, answer) = read_answer(&mut recv).await?;
        match status {
            DONE => Ok(answer),
            NO_HANDLER => Err(CallError::NoHandler),
            TOO_LATE => Err(CallError::TimedOut),
            _ => Err(CallError::Refused(String::from_utf8_lossy(&answer).into_owned())),
        }
    };
    timeout(ttl, asked).await.unwrap_or(Err(CallError::TimedOut))
}

pub(super) async fn open_stream(
    shared: &Arc<Shared>,
    to: NodeId,
    kind: &'static str,
    hello: Vec<u8>,
) -> Result<BoxStream, CallError> {
    let length = fits(&hello)?;
    if to == shared.me() {
        let handler = shared.handlers().streams.get(kind).cloned().ok_or(CallError::NoHandler)?;
        let (ours, theirs) = tokio::io::duplex(LOCAL_STREAM_BYTES);
        shared.spawn(guarded_stream(kind.to_owned(), handler(to, hello, Box::new(theirs))));
        return Ok(Box::new(ours));
    }
    let opened = async {
        let connection = shared.connection(to).await?;
        let (mut send, mut recv) = connection.open_bi().await.map_err(|_| CallError::Unreachable)?;
        let head = Head { purpose: STREAM, ttl: HEAD_WITHIN, kind: kind.into(), body: length };
        write(&mut send, &head.encode(), &hello).await?;
        let mut status = [0];
        recv.read_exact(&mut status).await.map_err(|_| CallError::Unreachable)?;
        match status[0] {
            DONE => Ok(Box::new(connection.hold(tokio::io::join(recv, send))) as BoxStream),
            NO_HANDLER => Err(CallError::NoHandler),
            _ => Err(CallError::Refused("the stream was not opened".into())),
        }
    };
    timeout(HEAD_WITHIN, opened).await.unwrap_or(Err(CallError::TimedOut))
}

fn fits(body: &[u8]) -> Result<u32, CallError> {
    match u32::try_from(body.len()) {
        Ok(length) if body.len() <= BODY_BYTES_MAX => Ok(length),
        _ => Err(CallError::Refused(format!("body of {} bytes exceeds {BODY_BYTES_MAX}", body.len()))),
    }
}

/// Writes, unless the other side has already answered and wants no more: then its answer says why.
async fn write(send: &mut SendStream, head: &[u8], body: &[u8]) -> Result<(), CallError> {
    for part in [head, body] {
        match send.write_all(part).await {
            Ok(()) => {}
            Err(WriteError::Stopped(_)) => return Ok(()),
            Err(_) => return Err(CallError::Unreachable),
        }
    }
    Ok(())
}

async fn read_answer(recv: &mut (impl AsyncRead + Unpin)) -> Result<(u8, Vec<u8>), CallError> {
    let broken = |_| CallError::Unreachable;
    let status = recv.read_u8().await.map_err(broken)?;
    let length = recv.read_u32().await.map_err(broken)? as usize;
    if length > BODY_BYTES_MAX {
        return Err(CallError::Refused(format!("the answer of {length} bytes exceeds {BODY_BYTES_MAX}")));
    }
    let mut answer = vec![0; length];
    recv.read_exact(&mut answer).await.map_err(|_| CallError::Unreachable)?;
    take_end(recv);
    Ok((status, answer))
}

/// Takes note that the stream has ended, if that is known already, which it mostly is: the end comes with the last bytes. One that is
/// dropped before costs a packet to say that no more is wanted, and another one to confirm that.
fn take_end(recv: &mut (impl AsyncRead + Unpin)) {
    let _ = recv.read(&mut [0]).now_or_never();
}

/// Serves what a peer opened.
pub(super) async fn answer(shared: Arc<Shared>, line: &Line, from: NodeId, send: SendStream, mut recv: RecvStream) {
    let Ok(Some(head)) = timeout(HEAD_WITHIN, Head::read(&mut recv)).await else {
        debug!(node = %from, "stream without a head");
        return;
    };
    let deadline = Instant::now() + head.ttl;
    match head.purpose {
        CALL => answer_call(&shared, from, &head, send, recv, deadline).await,
        STREAM => answer_stream(&shared, line, (from, head), send, recv, deadline).await,
        _ => debug!(node = %from, purpose = head.purpose, "stream of an unknown purpose"),
    }
}

async fn answer_call(
    shared: &Arc<Shared>,
    from: NodeId,
    head: &Head,
    mut send: SendStream,
    mut recv: RecvStream,
    deadline: Instant,
) {
    let answered = async {
        if !shared.handlers().calls.contains_key(head.kind.as_str()) {
            return Some(Err(CallError::NoHandler));
        }
        let (body, _room) = read_body(shared, head.body, &mut recv).await?;
        take_end(&mut recv);
        Some(handle(shared, from, &head.kind, body).await)
    };
    let (status, body) = match timeout_at(deadline, answered).await {
        Err(_) | Ok(Some(Err(CallError::TimedOut))) => (TOO_LATE, Vec::new()),
        // The caller hung up, or nobody knows what the handler did: no answer.
        Ok(None | Some(Err(CallError::Unreachable))) => return,
        Ok(Some(Ok(body))) if body.len() > BODY_BYTES_MAX => {
            (REFUSED, format!("the answer of {} bytes exceeds {BODY_BYTES_MAX}", body.len()).into_bytes())
        }
        Ok(Some(Ok(body))) => (DONE, body),
        Ok(Some(Err(CallError::NoHandler))) => (NO_HANDLER, Vec::new()),
        Ok(Some(Err(CallError::Refused(words)))) => (REFUSED, words.into_bytes()),
    };
    let Ok(length) = u32::try_from(body.len()) else { return };
    let mut start = vec![status];
    start.extend(length.to_be_bytes());
    // A little longer than the deadline, to tell that it has passed.
    let sent = timeout_at(deadline.max(Instant::now() + HEAD_WITHIN), async {
        send.write_all(&start).await.ok()?;
        send.write_all(&body).await.ok()?;
        send.finish().ok()
    });
    if !matches!(sent.await, Ok(Some(()))) {
        debug!(node = %from, kind = head.kind, "the caller did not wait for its answer");
    }
}

/// Room first, bytes then. The room is held for as long as the caller holds on to it; none if the peer hung up.
async fn read_body<'a>(
    shared: &'a Shared,
    bytes: u32,
    recv: &mut RecvStream,
) -> Option<(Vec<u8>, Option<SemaphorePermit<'a>>)> {
    let room = match bytes {
        0..=SMALL_BODY_BYTES => None,
        large => Some(shared.bodies.acquire_many(large.div_ceil(1024)).await.ok()?),
    };
    let mut body = vec![0; bytes as usize];
    recv.read_exact(&mut body).await.ok()?;
    Some((body, room))
}

async fn answer_stream(
    shared: &Arc<Shared>,
    line: &Line,
    (from, head): (NodeId, Head),
    mut send: SendStream,
    mut recv: RecvStream,
    deadline: Instant,
) {
    let Some(handler) = shared.handlers().streams.get(head.kind.as_str()).cloned() else {
        let _ = send.write_all(&[NO_HANDLER]).await;
        return;
    };
    let opened = timeout_at(deadline, async {
        let (hello, _room) = read_body(shared, head.body, &mut recv).await?;
        send.write_all(&[DONE]).await.ok()?;
        Some(hello)
    });
    if let Ok(Some(hello)) = opened.await {
        let stream = Box::new(line.hold(tokio::io::join(recv, send)));
        guarded_stream(head.kind, handler(from, hello, stream)).await;
    }
}

/// Asks the handler of this node.
async fn handle(shared: &Arc<Shared>, from: NodeId, kind: &str, body: Vec<u8>) -> Result<Vec<u8>, CallError> {
    let handler = shared.handlers().calls.get(kind).cloned().ok_or(CallError::NoHandler)?;
    match AssertUnwindSafe(async { handler(from, body).await }).catch_unwind().await {
        Ok(answer) => answer.map_err(CallError::Refused),
        Err(_) => {
            error!(kind, node = %from, "the handler of a call panicked");
            // What it did before is unknown, so this is no refusal.
            Err(CallError::Unreachable)
        }
    }
}

async fn guarded_stream(kind: String, serving: impl Future<Output = ()> + Send) {
    if AssertUnwindSafe(serving).catch_unwind().await.is_err() {
        error!(kind, "the handler of a stream panicked");
    }
}

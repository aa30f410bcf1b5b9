//! One connection to an instance, driven by the task of the request that uses it.
//!
//! It speaks HTTP/1.1 by itself: what is told is written from the client's head as it is, and the answer is read by the task that waits
//! for it. So a request costs no second task, no copy of its head, no channel, and no timer. With hyper's client, whose connection is a
//! future of its own that requests and answers are handed to and fro, all of a proxied request took a fifth more processor time. An idle
//! connection is polled by nobody; whether it is still open is seen when it is taken from the pool ([`Upstream::is_alive`]).

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use hirsel_mesh::seam::BoxStream;
use hirsel_model::Timestamp;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use hyper::body::{Body as _, Frame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::io::Gauged;
use crate::replay::Failure;
use crate::stream::RequestBody;
use crate::trailers;
use decode::{Body, Garbled, Piece};
use encode::Framing;

pub mod decode;
pub mod encode;
mod pulse;

pub use pulse::{Pulse, Stage};

/// Largest head of an answer. A program that sends more is taken for broken.
const HEAD_BYTES_MAX: usize = 128 * 1024;

/// What is read at once at first, and at most when an answer is large.
const READ_BYTES: std::ops::RangeInclusive<usize> = 8 * 1024..=64 * 1024;

/// Heads on the way to the one that counts (RFC 9110, section 15.2). Only a bound against a defect.
const INTERIM_MAX: usize = 32;

/// What is kept of the room for what is to be written: heads fit, and a body only passes through.
const WRITE_ROOM_BYTES: usize = 16 * 1024;

/// Why there is no answer.
#[derive(Debug)]
pub struct SendError {
    /// How it failed.
    pub failure: Failure,
    /// The body of the request, if nothing of it or of its head was taken.
    pub unsent: Option<RequestBody>,
}

/// A connection to an instance.
pub struct Upstream {
    stream: Gauged,
    /// What was read and not taken yet.
    read: BytesMut,
    /// How much is read at once.
    read_bytes: usize,
    told: Told,
    /// What is to come of the answer.
    body: Body,
    /// Whether it can carry another request after this one.
    keeps: bool,
    /// The instance sends nothing any more.
    closed: bool,
    /// What others may tell.
    pub pulse: Arc<Pulse>,
    /// When it was last put into the pool.
    pub idle_since: Timestamp,
    /// Whether it carried a request before.
    pub reused: bool,
}

/// A request as it is written.
struct Told {
    /// What is to be written: this, from `at` on, then `piece`, then `behind`.
    out: Vec<u8>,
    at: usize,
    piece: Bytes,
    behind: &'static [u8],
    /// Where the rest of its body comes from.
    rest: RequestBody,
    /// How much that will be; none if it goes out in chunks.
    left: Option<u64>,
    /// Something of the body was taken from where it comes.
    begun: bool,
    /// All of it was taken.
    whole: bool,
}

/// Why a request is not told any further.
enum Stuck {
    /// The connection broke.
    Connection,
    /// The client broke off, or sends another number of bytes than it said.
    Client,
}

impl Upstream {
    /// Speaks HTTP over `stream`.
    pub fn new(stream: BoxStream, pulse: Arc<Pulse>) -> Box<Self> {
        Box::new(Self {
            stream: Gauged::new(stream, pulse.gauge.clone()),
            read: BytesMut::new(),
            read_bytes: *READ_BYTES.start(),
            told: Told::default(),
            body: Body::End,
            keeps: true,
            closed: false,
            pulse,
            idle_since: Timestamp::default(),
            reused: false,
        })
    }

    /// Whether an idle connection is still open and has nothing to say, as far as the kernel knows by now.
    pub fn is_alive(&mut self) -> bool {
        !self.pulse.is_lost() && self.settle()
    }

    /// Whether the connection is done with its request and can carry another.
    pub fn settle(&mut self) -> bool {
        // Nobody is to be woken for an idle connection: it is looked at when it is taken.
        self.pulse.gauge.driven_by_nobody();
        let done = self.keeps && self.told.is_done() && self.body == Body::End;
        done && !self.closed && self.read.is_empty() && {
            let mut cx = Context::from_waker(Waker::noop());
            let mut byte = [0];
            Pin::new(&mut self.stream).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
        }
    }

    /// Tells a request and waits for the head of the answer.
    ///
    /// When the instance is lost meanwhile, `leave` is asked once whether to give up (there is another place to go).
    pub async fn send(
        &mut self,
        head: &Parts,
        body: RequestBody,
        leave: impl Fn() -> bool,
    ) -> Result<Response<()>, SendError> {
        let before = self.pulse.gauge.written_bytes();
        self.told.begin(head, body);
        self.body = Body::End;
        let mut asked = false;
        let mut interim = 0;
        let answer = poll_fn(|cx| {
            self.attend(cx);
            if let Some(failure) = self.pulse.over() {
                return Poll::Ready(Err(failure));
            }
            if !asked && self.pulse.is_lost() {
                asked = true;
                if leave() {
                    return Poll::Ready(Err(Failure::Lost));
                }
            }
            self.poll_answer(cx, &head.method, &mut interim)
        });
        let failure = match answer.await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        self.keeps = false;
        let nothing_written = self.pulse.gauge.written_bytes() == before;
        let failure = if nothing_written && failure == Failure::Broken { Failure::NotWritten } else { failure };
        let unsent = (nothing_written && !self.told.begun).then(|| std::mem::take(&mut self.told.rest));
        Err(SendError { failure, unsent })
    }

    /// Writes on, and reads until the head of the answer is there.
    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
        interim: &mut usize,
    ) -> Poll<Result<Response<()>, Failure>> {
        let stuck = match self.poll_tell(cx) {
            Poll::Ready(Err(Stuck::Client)) => return Poll::Ready(Err(Failure::ClientGone)),
            Poll::Ready(Err(Stuck::Connection)) => true,
            Poll::Ready(Ok(())) | Poll::Pending => false,
        };
        loop {
            match decode::head(&mut self.read, method) {
                Err(Garbled) => return Poll::Ready(Err(Failure::Garbled)),
                Ok(Some(head)) => {
                    let status = head.response.status();
                    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
                        *interim += 1;
                        if *interim > INTERIM_MAX {
                            return Poll::Ready(Err(Failure::Garbled));
                        }
                        continue;
                    }
                    // One that answers before it was told all, and listens no more, is not told another.
                    self.keeps = head.keeps && !stuck && status != StatusCode::SWITCHING_PROTOCOLS;
                    self.body = head.body;
                    return Poll::Ready(Ok(head.response));
                }
                Ok(None) if self.read.len() > HEAD_BYTES_MAX => return Poll::Ready(Err(Failure::Garbled)),
                Ok(None) => {}
            }
            match self.poll_read(cx) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false) | Err(_)) => return Poll::Ready(Err(Failure::Broken)),
                // What could not be written will not be answered either, unless that is on its way already.
                Poll::Pending if stuck => return Poll::Ready(Err(Failure::Broken)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Makes the task of `cx` the one that is woken. To be called before flags are looked at, so that none is missed.
    pub fn attend(&self, cx: &Context<'_>) {
        self.pulse.gauge.driven_by(cx);
    }

    /// How much of the answer is still to come, if that is known.
    pub fn body_left(&self) -> Option<u64> {
        self.body.left()
    }

    /// Whether all of the answer has come.
    pub fn is_end(&self) -> bool {
        self.body == Body::End
    }

    /// Takes the next piece of the answer. After [`Upstream::attend`].
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        // Programs may answer while they are still told.
        if !self.told.is_done()
            && let Poll::Ready(Err(_)) = self.poll_tell(cx)
        {
            self.keeps = false;
            self.told.give_up();
        }
        loop {
            match self.body.take(&mut self.read, self.closed) {
                Ok(Piece::Data(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Ok(Piece::Trailer(fields)) => return Poll::Ready(Some(Ok(Frame::trailers(fields)))),
                Ok(Piece::End) => return Poll::Ready(None),
                Ok(Piece::More) => {}
                Err(Garbled) => {
                    self.keeps = false;
                    return Poll::Ready(Some(Err(Failure::Broken)));
                }
            }
            if ready!(self.poll_read(cx)).is_err() {
                self.keeps = false;
                return Poll::Ready(Some(Err(Failure::Broken)));
            }
        }
    }

    /// Reads what there is. False at the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.closed {
            return Poll::Ready(Ok(false));
        }
        let mut room = self.read.capacity() - self.read.len();
        if room < self.read_bytes / 2 {
            self.read.reserve(self.read_bytes);
            room = self.read.capacity() - self.read.len();
        }
        let reading = pin!(self.stream.read_buf(&mut self.read));
        let bytes = ready!(reading.poll(cx))?;
        self.closed = bytes == 0;
        if bytes == room {
            self.read_bytes = (self.read_bytes * 2).min(*READ_BYTES.end());
        }
        Poll::Ready(Ok(!self.closed))
    }

    /// Writes what is to be told, as it comes.
    fn poll_tell(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stuck>> {
        loop {
            ready!(self.told.poll_write(&mut self.stream, cx)).map_err(|_| Stuck::Connection)?;
            if self.told.whole {
                return Poll::Ready(Ok(()));
            }
            ready!(self.told.poll_more(cx))?;
        }
    }

    /// The bare stream after a 101, and what the instance sent right behind it.
    pub fn into_upgraded(self: Box<Self>) -> (Gauged, Bytes) {
        (self.stream, self.read.freeze())
    }
}

impl Default for Told {
    fn default() -> Self {
        let (out, piece, rest) = (Vec::new(), Bytes::new(), RequestBody::Empty);
        Self { out, at: 0, piece, behind: b"", rest, left: Some(0), begun: false, whole: true }
    }
}

impl Told {
    /// Begins with a head. A body at hand goes along with it.
    fn begin(&mut self, head: &Parts, body: RequestBody) {
        self.out.clear();
        self.at = 0;
        let length = body.size_hint().exact();
        let framing = match (&body, length) {
            (RequestBody::Empty, _) | (_, Some(0)) => Framing::Empty,
            (_, Some(bytes)) => Framing::Length(bytes),
            (_, None) => Framing::Chunked,
        };
        encode::head(head, framing, &mut self.out);
        self.left = length;
        self.begun = false;
        self.whole = framing == Framing::Empty;
        self.rest = RequestBody::Empty;
        match body {
            RequestBody::Whole(bytes) => {
                self.piece = bytes;
                self.whole = true;
            }
            body => self.rest = body,
        }
    }

    /// Whether all of it was written.
    fn is_done(&self) -> bool {
        self.whole && self.is_written()
    }

    /// Whether what was taken so far was written.
    fn is_written(&self) -> bool {
        self.at == self.out.len() && self.piece.is_empty() && self.behind.is_empty()
    }

    /// Nobody listens any more.
    fn give_up(&mut self) {
        *self = Self::default();
    }

    fn poll_write(&mut self, stream: &mut Gauged, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_written() {
            let stream = Pin::new(&mut *stream);
            let parts = [&self.out[self.at..], &self.piece, self.behind];
            let written = if self.piece.is_empty() {
                ready!(stream.poll_write(cx, parts[0]))?
            } else {
                ready!(stream.poll_write_vectored(cx, &parts.map(IoSlice::new)))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let [out, piece, _] = parts.map(<[u8]>::len);
            self.at += written.min(out);
            self.piece.advance(written.saturating_sub(out).min(piece));
            self.behind = &self.behind[written.saturating_sub(out + piece)..];
            if self.piece.is_empty() && self.at == self.out.len() && !self.behind.is_empty() {
                self.out.extend_from_slice(std::mem::take(&mut self.behind));
            }
        }
        self.out.clear();
        self.out.shrink_to(WRITE_ROOM_BYTES);
        self.at = 0;
        self.piece = Bytes::new();
        Poll::Ready(Ok(()))
    }

    /// Takes the next piece of the body.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stuck>> {
        let frame = ready!(Pin::new(&mut self.rest).poll_frame(cx));
        self.begun = true;
        let Some(frame) = frame else {
            self.rest = RequestBody::Empty;
            self.whole = true;
            match self.left {
                Some(0) => {}
                Some(_) => return Poll::Ready(Err(Stuck::Client)),
                None => self.out.extend_from_slice(encode::LAST_CHUNK),
            }
            return Poll::Ready(Ok(()));
        };
        let bytes = match frame.map_err(|_| Stuck::Client)?.into_data() {
            Ok(bytes) => bytes,
            Err(frame) => {
                self.end_with(frame);
                return Poll::Ready(Ok(()));
            }
        };
        if bytes.is_empty() {
            return Poll::Ready(Ok(()));
        }
        match &mut self.left {
            Some(left) => *left = left.checked_sub(bytes.len() as u64).ok_or(Stuck::Client)?,
            None => {
                encode::chunk_of(bytes.len(), &mut self.out);
                self.behind = b"\r\n";
            }
        }
        self.piece = bytes;
        Poll::Ready(Ok(()))
    }

    /// Fields behind the body end it. Behind one of known length there is no place for them, and they may be left out (RFC 9110,
    /// section 6.5.1).
    fn end_with(&mut self, frame: Frame<Bytes>) {
        let (None, Ok(mut trailer)) = (self.left, frame.into_trailers()) else { return };
        trailers::prune(&mut trailer);
        encode::last_chunk_with(&trailer, &mut self.out);
        self.rest = RequestBody::Empty;
        self.whole = true;
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("reused", &self.reused).field("keeps", &self.keeps).finish_non_exhaustive()
    }
}

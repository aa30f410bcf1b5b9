//! Bodies, in both directions.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hirsel_mesh::seam::Clock;
use hirsel_model::Timestamp;
use hirsel_model::spec::Encoding;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};

use crate::account::Account;
use crate::actions::compress::encoder::{Encoded, Encoder, Room};
use crate::assets::Given;
use crate::budget::Reserved;
use crate::cache::filling::{PIECE_BYTES_MAX, Reader};
use crate::cache::reading::Reading;
use crate::carrier::Carrier;
use crate::client::Busy;
use crate::grpc;
use crate::incoming::Incoming;
use crate::instance::Ticket;
use crate::replay::Failure;
use crate::upstream::Stage;

/// The body of a request on its way to an instance.
#[derive(Default)]
pub enum RequestBody {
    /// There is none.
    #[default]
    Empty,
    /// It is at hand, and can be told again.
    Whole(Bytes),
    /// It is passed on as it comes.
    Passing(Incoming),
    /// The same, up to a limit.
    Limited(Box<Limited>),
    /// It is at hand in part.
    Pieced(Box<Pieced>),
}

/// A body of which something is at hand: its beginning, or the fields behind it.
#[derive(Debug, Default)]
pub struct Pieced {
    /// What comes first.
    pub pieces: VecDeque<Bytes>,
    /// What comes then.
    pub rest: RequestBody,
    /// What comes behind it, if that is at hand.
    pub trailer: Option<HeaderMap>,
    /// What it takes of what may be kept.
    pub reserved: Option<Reserved>,
}

impl Pieced {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(piece) = self.pieces.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match ready!(Pin::new(&mut self.rest).poll_frame(cx)) {
            None => Poll::Ready(self.trailer.take().map(|trailer| Ok(Frame::trailers(trailer)))),
            frame => Poll::Ready(frame),
        }
    }
}

/// A body of unknown length that may not be longer than a limit.
#[derive(Debug)]
pub struct Limited {
    incoming: Incoming,
    left: u64,
    exceeded: Arc<AtomicBool>,
}

impl Limited {
    /// At most `bytes_max` of `incoming`; `exceeded` tells that there was more.
    pub fn new(incoming: Incoming, bytes_max: u64, exceeded: Arc<AtomicBool>) -> Self {
        Self { incoming, left: bytes_max, exceeded }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(bytes) = frame.data_ref()
        {
            match self.left.checked_sub(bytes.len() as u64) {
                Some(left) => self.left = left,
                None => {
                    self.exceeded.store(true, Ordering::Release);
                    return Poll::Ready(Some(Err(io::ErrorKind::FileTooLarge.into())));
                }
            }
        }
        polled
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut *self {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Whole(_) => match std::mem::replace(&mut *self, RequestBody::Empty) {
                RequestBody::Whole(bytes) if !bytes.is_empty() => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                _ => Poll::Ready(None),
            },
            RequestBody::Passing(incoming) => Pin::new(incoming).poll_frame(cx),
            RequestBody::Limited(limited) => limited.poll_frame(cx),
            RequestBody::Pieced(pieced) => pieced.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Whole(bytes) => bytes.is_empty(),
            RequestBody::Passing(incoming) => incoming.is_end_stream(),
            RequestBody::Limited(limited) => limited.incoming.is_end_stream(),
            RequestBody::Pieced(pieced) => {
                pieced.pieces.is_empty() && pieced.rest.is_end_stream() && pieced.trailer.is_none()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            RequestBody::Passing(incoming) => incoming.size_hint(),
            RequestBody::Limited(limited) => limited.incoming.size_hint(),
            // Behind one of known length there would be no place for fields.
            RequestBody::Pieced(_) => SizeHint::default(),
        }
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RequestBody::Empty => "Empty",
            RequestBody::Whole(_) => "Whole",
            RequestBody::Passing(_) => "Passing",
            RequestBody::Limited(_) => "Limited",
            RequestBody::Pieced(_) => "Pieced",
        })
    }
}

/// The body of an answer on its way to a client.
#[derive(Debug)]
pub struct AnswerBody {
    kind: Kind,
    /// What is known of the request, while it takes more than one step to send.
    account: Option<Box<Account>>,
    /// The client waits for this answer until its last byte was taken.
    busy: Option<Busy>,
}

#[derive(Debug)]
enum Kind {
    Whole(Bytes),
    /// And what comes behind it.
    Trailed(Bytes, Option<Box<HeaderMap>>),
    Passing(Box<Passing>),
    /// What is kept: it goes out in pieces.
    Kept(Bytes),
    /// What others read too.
    Filling(Box<Reader>),
    /// What is kept on disk.
    Stored(Box<Reading>),
    /// An object.
    Given(Box<Given>),
    Encoded(Box<(Encoded, Kind)>),
}

/// A body that comes from an instance.
#[derive(Debug)]
struct Passing {
    /// None once the answer has ended.
    leg: Option<Leg>,
    /// It answers a call by gRPC, whose end has to be said in its words.
    call: bool,
    /// Tells the time when the connection goes back into the pool.
    clock: Arc<dyn Clock>,
}

/// The part of a request's way between us and the instance.
#[derive(Debug)]
pub struct Leg {
    /// What carries it.
    pub upstream: Carrier,
    /// The request under way.
    pub ticket: Ticket,
}

impl Leg {
    /// The answer has ended: the connection goes back into the pool if it can carry another request.
    pub fn finish(self, now: Timestamp) {
        match self.upstream {
            Carrier::Alone(upstream) => self.ticket.instance().pool.put(upstream, now),
            Carrier::Shared(_) => {}
        }
    }
}

impl AnswerBody {
    /// A body at hand.
    pub fn whole(bytes: Bytes) -> Self {
        Self { kind: Kind::Whole(bytes), account: None, busy: None }
    }

    /// A body at hand, and what comes behind it.
    pub fn trailed(bytes: Bytes, trailer: HeaderMap) -> Self {
        Self { kind: Kind::Trailed(bytes, Some(Box::new(trailer))), account: None, busy: None }
    }

    /// A body that is kept: the same, however large it is.
    pub fn kept(bytes: Bytes) -> Self {
        let kind = if bytes.len() > PIECE_BYTES_MAX { Kind::Kept(bytes) } else { Kind::Whole(bytes) };
        Self { kind, account: None, busy: None }
    }

    /// A body that comes in, and is kept.
    pub fn filling(reader: Reader) -> Self {
        Self { kind: Kind::Filling(Box::new(reader)), account: None, busy: None }
    }

    /// A body that is kept on disk.
    pub fn stored(reading: Reading) -> Self {
        Self { kind: Kind::Stored(Box::new(reading)), account: None, busy: None }
    }

    /// An object.
    pub fn given(given: Given) -> Self {
        Self { kind: Kind::Given(Box::new(given)), account: None, busy: None }
    }

    /// A body passed on as it comes, behind these header fields.
    pub fn passing(leg: Leg, headers: &HeaderMap, clock: Arc<dyn Clock>) -> Self {
        leg.upstream.pulse().enter(Stage::Streaming);
        // Who speaks HTTP/1.1 answers no call.
        let call = matches!(leg.upstream, Carrier::Shared(_)) && grpc::is_call(headers);
        Self { kind: Kind::Passing(Box::new(Passing { leg: Some(leg), call, clock })), account: None, busy: None }
    }

    /// The same, encoded; or as it was if there is no room for that, or it would not get smaller.
    pub fn encoded(self, encoding: Encoding, room: &Room) -> Result<Self, Self> {
        let Self { kind, account, busy } = self;
        let encoded = match kind {
            Kind::Whole(bytes) => match Encoder::whole(encoding, &bytes, room) {
                Some(encoded) => Ok(Kind::Whole(encoded)),
                None => Err(Kind::Whole(bytes)),
            },
            kind @ (Kind::Passing(_) | Kind::Kept(_) | Kind::Filling(_) | Kind::Stored(_) | Kind::Given(_)) => {
                match Encoder::new(encoding, None, room) {
                    Some(encoder) => Ok(Kind::Encoded(Box::new((Encoded::by(encoder), kind)))),
                    None => Err(kind),
                }
            }
            as_it_is @ (Kind::Encoded(_) | Kind::Trailed(..)) => Err(as_it_is),
        };
        match encoded {
            Ok(kind) => Ok(Self { kind, account, busy }),
            Err(kind) => Err(Self { kind, account, busy }),
        }
    }

    /// How much of it is at hand, if it is whole.
    pub fn at_hand(&self) -> Option<u64> {
        match &self.kind {
            Kind::Whole(bytes) => Some(bytes.len() as u64),
            Kind::Trailed(..)
            | Kind::Passing(_)
            | Kind::Kept(_)
            | Kind::Filling(_)
            | Kind::Stored(_)
            | Kind::Given(_)
            | Kind::Encoded(_) => None,
        }
    }

    /// All of it, if it is at hand and nothing comes behind it; else as it was.
    pub fn into_whole(self) -> Result<Bytes, Self> {
        match self.kind {
            Kind::Whole(bytes) => Ok(bytes),
            kind => Err(Self { kind, ..self }),
        }
    }

    /// Whether it is passed on as it comes, and is no answer to a call.
    pub fn is_passing(&self) -> bool {
        match &self.kind {
            Kind::Passing(passing) => !passing.call,
            Kind::Given(_) => true,
            Kind::Whole(_)
            | Kind::Trailed(..)
            | Kind::Kept(_)
            | Kind::Filling(_)
            | Kind::Stored(_)
            | Kind::Encoded(_) => false,
        }
    }

    /// Has `account` go along until it is sent.
    pub fn accounted(mut self, account: Box<Account>) -> Self {
        self.account = Some(account);
        self
    }

    /// Keeps its client marked as waiting.
    pub fn keeping(mut self, mut busy: Busy) -> Self {
        // What is at hand costs an instance nothing more.
        if !matches!(self.kind, Kind::Passing(_) | Kind::Given(_) | Kind::Encoded(_)) {
            busy.answered();
        }
        self.busy = Some(busy);
        self
    }
}

impl Kind {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self {
            Kind::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Kind::Trailed(bytes, _) if !bytes.is_empty() => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Kind::Trailed(_, trailer) => Poll::Ready(trailer.take().map(|trailer| Ok(Frame::trailers(*trailer)))),
            Kind::Passing(passing) => passing.poll_frame(cx),
            Kind::Kept(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Kept(bytes) => {
                let piece = bytes.split_to(bytes.len().min(PIECE_BYTES_MAX));
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Kind::Filling(reader) => reader.poll_frame(cx),
            Kind::Stored(reading) => reading.poll_frame(cx),
            Kind::Given(given) => given.poll_frame(cx),
            Kind::Encoded(pair) => {
                let (encoded, plain) = &mut **pair;
                encoded.poll_frame(cx, |cx| plain.poll(cx))
            }
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let polled = self.kind.poll(cx);
        let ended = polled.is_ready() && self.is_end_stream();
        if ended && let Some(busy) = &mut self.busy {
            busy.answered();
        }
        if let Some(account) = &mut self.account {
            match &polled {
                Poll::Ready(Some(Ok(frame))) => account.sends(frame.data_ref().map_or(0, |bytes| bytes.len() as u64)),
                Poll::Ready(Some(Err(_))) => account.breaks(),
                Poll::Ready(None) => account.over(),
                Poll::Pending => {}
            }
            if ended {
                account.over();
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole(bytes) => bytes.is_empty(),
            Kind::Trailed(bytes, trailer) => bytes.is_empty() && trailer.is_none(),
            Kind::Passing(passing) => passing.leg.is_none(),
            Kind::Kept(bytes) => bytes.is_empty(),
            Kind::Filling(reader) => reader.is_over(),
            Kind::Stored(reading) => reading.is_over(),
            Kind::Given(given) => given.is_over(),
            Kind::Encoded(pair) => pair.0.is_done(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole(bytes) | Kind::Trailed(bytes, _) | Kind::Kept(bytes) => {
                SizeHint::with_exact(bytes.len() as u64)
            }
            Kind::Filling(reader) => reader.left(),
            Kind::Stored(reading) => reading.left(),
            Kind::Given(given) => given.left(),
            Kind::Encoded(_) => SizeHint::default(),
            Kind::Passing(passing) => match passing.leg.as_ref().map(|leg| leg.upstream.body_left()) {
                Some(Some(left)) => SizeHint::with_exact(left),
                Some(None) => SizeHint::default(),
                None => SizeHint::with_exact(0),
            },
        }
    }
}

impl Passing {
    /// The answer ends before it is whole: a call by a status, anything else visibly.
    fn broken(&mut self, failure: Failure) -> io::Result<Frame<Bytes>> {
        self.leg = None;
        if self.call {
            return Ok(Frame::trailers(grpc::trailer_of(failure)));
        }
        Err(match failure {
            Failure::TimedOut | Failure::Lost => io::ErrorKind::TimedOut.into(),
            Failure::Reset(reason) => io::Error::other(Reset(h2::Reason::from(reason).into())),
            _ => io::ErrorKind::ConnectionReset.into(),
        })
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Some(leg) = &mut self.leg else { return Poll::Ready(None) };
        leg.upstream.attend(cx);
        if let Some(failure) = leg.upstream.pulse().over() {
            return Poll::Ready(Some(self.broken(failure)));
        }
        match leg.upstream.poll_body(cx) {
            Poll::Ready(None) => {
                if let Some(leg) = self.leg.take() {
                    leg.finish(self.clock.now());
                }
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(failure))) => Poll::Ready(Some(self.broken(failure))),
            Poll::Ready(Some(Ok(frame))) => {
                // Of a body of known length nobody asks for more than that.
                if leg.upstream.is_end()
                    && let Some(leg) = self.leg.take()
                {
                    leg.finish(self.clock.now());
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

/// The instance reset its answer. A client of HTTP/2 sees the same reason, which hyper finds as the source of this.
#[derive(Debug)]
struct Reset(h2::Error);

impl fmt::Display for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the instance reset its answer")
    }
}

impl std::error::Error for Reset {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

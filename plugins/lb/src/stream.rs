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
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::actions::compress::encoder::{Encoded, Encoder, Room};
use crate::client::Busy;
use crate::instance::Ticket;
use crate::upstream::{Stage, Upstream};

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
        polled.map_err(io::Error::other)
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
            RequestBody::Passing(incoming) => Pin::new(incoming).poll_frame(cx).map_err(io::Error::other),
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
    /// The client waits for this answer until its last byte was taken.
    _busy: Option<Busy>,
}

#[derive(Debug)]
enum Kind {
    Whole(Bytes),
    Passing(Box<Passing>),
    Encoded(Box<(Encoded, Passing)>),
}

/// A body that comes from an instance.
#[derive(Debug)]
struct Passing {
    /// None once the answer has ended.
    leg: Option<Leg>,
    /// Tells the time when the connection goes back into the pool.
    clock: Arc<dyn Clock>,
}

/// The part of a request's way between us and the instance.
#[derive(Debug)]
pub struct Leg {
    /// The connection.
    pub upstream: Box<Upstream>,
    /// The request under way.
    pub ticket: Ticket,
}

impl Leg {
    /// The answer has ended: the connection goes back into the pool if it can carry another request.
    pub fn finish(self, now: Timestamp) {
        self.ticket.instance().pool.put(self.upstream, now);
    }
}

impl AnswerBody {
    /// A body at hand.
    pub fn whole(bytes: Bytes) -> Self {
        Self { kind: Kind::Whole(bytes), _busy: None }
    }

    /// A body passed on as it comes.
    pub fn passing(leg: Leg, clock: Arc<dyn Clock>) -> Self {
        leg.upstream.pulse.enter(Stage::Streaming);
        Self { kind: Kind::Passing(Box::new(Passing { leg: Some(leg), clock })), _busy: None }
    }

    /// The same, encoded; or as it was if there is no room for that, or it would not get smaller.
    pub fn encoded(self, encoding: Encoding, room: &Room) -> Result<Self, Self> {
        let Self { kind, _busy } = self;
        let encoded = match kind {
            Kind::Whole(bytes) => match Encoder::whole(encoding, &bytes, room) {
                Some(encoded) => Ok(Kind::Whole(encoded)),
                None => Err(Kind::Whole(bytes)),
            },
            Kind::Passing(passing) => match Encoder::new(encoding, None, room) {
                Some(encoder) => Ok(Kind::Encoded(Box::new((Encoded::by(encoder), *passing)))),
                None => Err(Kind::Passing(passing)),
            },
            encoded @ Kind::Encoded(_) => Err(encoded),
        };
        match encoded {
            Ok(kind) => Ok(Self { kind, _busy }),
            Err(kind) => Err(Self { kind, _busy }),
        }
    }

    /// Keeps its client marked as waiting.
    pub fn keeping(mut self, busy: Busy) -> Self {
        self._busy = Some(busy);
        self
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut self.kind {
            Kind::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Kind::Passing(passing) => passing.poll_frame(cx),
            Kind::Encoded(pair) => {
                let (encoded, passing) = &mut **pair;
                encoded.poll_frame(cx, |cx| passing.poll_frame(cx))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole(bytes) => bytes.is_empty(),
            Kind::Passing(passing) => passing.leg.is_none(),
            Kind::Encoded(pair) => pair.0.is_done(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
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
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Some(leg) = &mut self.leg else { return Poll::Ready(None) };
        leg.upstream.attend(cx);
        if leg.upstream.pulse.over().is_some() {
            self.leg = None;
            return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
        }
        match leg.upstream.poll_body(cx) {
            Poll::Ready(None) => {
                if let Some(leg) = self.leg.take() {
                    leg.finish(self.clock.now());
                }
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(_failure))) => {
                self.leg = None;
                Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())))
            }
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

//! One request on a connection that carries many: a stream of HTTP/2, driven by the task of the request.
//!
//! What an instance says it did not take (REFUSED_STREAM, or GOAWAY with the number of an earlier stream: RFC 9113, section 8.7) is told
//! again whatever its method; so what was sent of its body is kept until an answer begins, up to
//! [`BODY_KEPT_BYTES_MAX`]. Resets pass in both directions: one of the instance reaches the client
//! with its reason, and a request whose client goes away is reset when it is dropped. No more of a body is taken than the other side has
//! room for.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::request::Parts;
use http::{HeaderMap, Method, Response};
use hyper::body::{Body as _, Frame};

use super::{Place, head};
use crate::budget::{Budget, Reserved};
use crate::io::Gauge;
use crate::replay::{BODY_KEPT_BYTES_MAX, Failure};
use crate::stream::{Pieced, RequestBody};
use crate::trailers;
use crate::upstream::{Pulse, SendError};

/// Pieces below this are copied to be kept: a piece of ten bytes may hold a buffer of thousands.
const COPIED_BYTES_MAX: usize = 4 * 1024;

/// A request on a connection that carries many.
pub struct Lane {
    // Before the place: another takes that when these have ended.
    telling: Telling,
    answer: Answer,
    /// What is to come of the answer, if it said so.
    left: Option<u64>,
    /// The instance ends the connection, and said that it did not take this request.
    turned_away: bool,
    /// What others may tell.
    pub pulse: Arc<Pulse>,
    place: Place,
}

/// How far the answer is.
enum Answer {
    /// Nothing was asked.
    None,
    Awaited(ResponseFuture),
    Body(RecvStream),
    /// All of it has come.
    End,
}

/// How far the request is told.
#[derive(Default)]
struct Telling {
    /// None if nothing more is to be told.
    to: Option<SendStream<Bytes>>,
    /// What waits for room.
    piece: Bytes,
    /// Where the rest comes from.
    rest: RequestBody,
    /// There is no rest.
    whole: bool,
    /// What was taken of the body, as long as it may have to be told again.
    kept: Option<Kept>,
}

/// What was taken of a body.
struct Kept {
    pieces: VecDeque<Bytes>,
    trailer: Option<HeaderMap>,
    reserved: Reserved,
}

/// The client's body broke off.
struct ClientGone;

impl Lane {
    /// A request that takes this place.
    pub fn new(place: Place, pulse: Arc<Pulse>) -> Box<Self> {
        let (telling, answer) = (Telling::default(), Answer::None);
        Box::new(Self { telling, answer, left: None, turned_away: false, pulse, place })
    }

    /// Whether that it failed speaks of its connection alone: one that had carried others, or that the instance was about to end.
    pub fn is_excused(&self, failure: Failure) -> bool {
        match failure {
            Failure::Refused => self.turned_away,
            _ => self.place.reused,
        }
    }

    /// Tells a request and waits for the head of the answer. What is kept of its body counts against `budget`.
    ///
    /// When the instance is lost meanwhile, `leave` is asked once whether to give up (there is another place to go).
    pub async fn send(
        &mut self,
        head: &Parts,
        body: RequestBody,
        budget: &Arc<Budget>,
        leave: impl Fn() -> bool,
    ) -> Result<Response<()>, SendError> {
        let request = head::request(head, body.size_hint().exact());
        let empty = body.is_end_stream();
        match self.place.link().sender.clone().send_request(request, empty) {
            Ok((answer, to)) => {
                self.answer = Answer::Awaited(answer);
                self.telling.begin(to, body, empty, budget);
            }
            Err(error) => {
                // The connection has ended or is about to: nothing was written.
                let failure = self.failure(&error);
                let failure = if failure == Failure::Broken { Failure::NotWritten } else { failure };
                return Err(SendError { failure, unsent: Some(body) });
            }
        }
        let mut asked = false;
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
            self.poll_answer(cx, &head.method)
        });
        match answer.await {
            Ok(answer) => {
                self.telling.kept = None;
                Ok(answer)
            }
            Err(failure) => {
                self.answer = Answer::End;
                let unsent = if failure == Failure::Refused { self.telling.take_back() } else { None };
                Err(SendError { failure, unsent })
            }
        }
    }

    /// Makes the task of `cx` the one that is woken. To be called before flags are looked at, so that none is missed.
    pub fn attend(&self, cx: &Context<'_>) {
        self.pulse.gauge.driven_by(cx);
    }

    /// How much of the answer is still to come, if that is known.
    pub fn body_left(&self) -> Option<u64> {
        if self.is_end() { Some(0) } else { self.left }
    }

    /// Whether all of the answer has come.
    pub fn is_end(&self) -> bool {
        match &self.answer {
            Answer::None | Answer::Awaited(_) => false,
            Answer::Body(body) => body.is_end_stream(),
            Answer::End => true,
        }
    }

    /// Takes the next piece of the answer. After [`Lane::attend`].
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        // Programs may answer while they are still told.
        if let Poll::Ready(Err(ClientGone)) = self.telling.poll(cx, &self.pulse.gauge) {
            self.answer = Answer::End;
            return Poll::Ready(Some(Err(Failure::ClientGone)));
        }
        let Answer::Body(body) = &mut self.answer else { return Poll::Ready(None) };
        match ready!(body.poll_data(cx)) {
            Some(Ok(bytes)) => {
                // Whoever takes it has it now, and takes no more than there is room for.
                let released = body.flow_control().release_capacity(bytes.len());
                debug_assert!(released.is_ok(), "it was all received");
                self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64));
                self.pulse.gauge.note(bytes.len());
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            Some(Err(error)) => return Poll::Ready(Some(Err(self.broke(&error)))),
            None => {}
        }
        let behind = ready!(body.poll_trailers(cx));
        match behind {
            Ok(trailer) => {
                self.answer = Answer::End;
                Poll::Ready(trailer.and_then(|mut trailer| {
                    trailers::prune(&mut trailer);
                    (!trailer.is_empty()).then(|| Ok(Frame::trailers(trailer)))
                }))
            }
            Err(error) => Poll::Ready(Some(Err(self.broke(&error)))),
        }
    }

    /// Tells on, and reads until the head of the answer is there.
    fn poll_answer(&mut self, cx: &mut Context<'_>, method: &Method) -> Poll<Result<Response<()>, Failure>> {
        if let Poll::Ready(Err(ClientGone)) = self.telling.poll(cx, &self.pulse.gauge) {
            return Poll::Ready(Err(Failure::ClientGone));
        }
        let Answer::Awaited(answer) = &mut self.answer else { return Poll::Ready(Err(Failure::Garbled)) };
        let answer = match ready!(Pin::new(answer).poll(cx)) {
            Ok(answer) => answer,
            Err(error) => return Poll::Ready(Err(self.failure(&error))),
        };
        self.pulse.gauge.note(1);
        let Ok((answer, length, body)) = head::answer(answer) else { return Poll::Ready(Err(Failure::Garbled)) };
        self.left = length;
        let bodyless = head::is_bodyless(method, answer.status());
        self.answer = if bodyless { Answer::End } else { Answer::Body(body) };
        Poll::Ready(Ok(answer))
    }

    /// An answer that had begun broke off.
    fn broke(&mut self, error: &h2::Error) -> Failure {
        self.answer = Answer::End;
        match self.failure(error) {
            // It was taken: there was a head.
            Failure::Refused => Failure::Reset(Reason::REFUSED_STREAM.into()),
            failure => failure,
        }
    }

    /// What an error says of the request.
    fn failure(&mut self, error: &h2::Error) -> Failure {
        if error.is_remote() && error.is_go_away() {
            self.place.link().vital.retire();
            self.turned_away = true;
            return Failure::Refused;
        }
        match error.reason() {
            Some(Reason::REFUSED_STREAM) if error.is_remote() => Failure::Refused,
            Some(reason) if error.is_remote() => Failure::Reset(reason.into()),
            // What the instance sends is no HTTP/2.
            Some(_) => Failure::Garbled,
            None if error.is_io() => {
                self.place.link().vital.retire();
                Failure::Broken
            }
            None => Failure::Garbled,
        }
    }
}

impl Telling {
    fn begin(&mut self, to: SendStream<Bytes>, body: RequestBody, empty: bool, budget: &Arc<Budget>) {
        if empty {
            *self = Self { whole: true, ..Self::default() };
            return;
        }
        self.to = Some(to);
        match body {
            // Whoever gave it has it still.
            RequestBody::Whole(bytes) => (self.piece, self.whole) = (bytes, true),
            body => {
                let reserved = budget.reserve(0);
                self.kept = reserved.map(|reserved| Kept { pieces: VecDeque::new(), trailer: None, reserved });
                self.rest = body;
            }
        }
    }

    /// Tells what there is room for, until all is told or nobody listens any more.
    fn poll(&mut self, cx: &mut Context<'_>, gauge: &Gauge) -> Poll<Result<(), ClientGone>> {
        loop {
            let Some(to) = &mut self.to else { return Poll::Ready(Ok(())) };
            if self.piece.is_empty() {
                ready!(self.poll_more(cx))?;
                continue;
            }
            to.reserve_capacity(self.piece.len());
            let room = to.capacity().min(self.piece.len());
            if room == 0 {
                match ready!(to.poll_capacity(cx)) {
                    Some(Ok(_)) => continue,
                    // Nobody listens any more; how the answer ends is seen there.
                    Some(Err(_)) | None => self.stop(),
                }
                continue;
            }
            let last = self.whole && room == self.piece.len();
            let sent = to.send_data(self.piece.split_to(room), last);
            gauge.note(room);
            if last || sent.is_err() {
                self.stop();
            }
        }
    }

    /// Takes the next piece of the body.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientGone>> {
        let frame = if self.whole { None } else { ready!(Pin::new(&mut self.rest).poll_frame(cx)) };
        let Some(frame) = frame else {
            self.whole = true;
            if let Some(to) = &mut self.to {
                // If that fails nobody listens any more.
                let _ = to.send_data(Bytes::new(), true);
            }
            self.stop();
            return Poll::Ready(Ok(()));
        };
        match frame.map_err(|_| ClientGone)?.into_data() {
            Ok(bytes) => {
                self.whole = self.rest.is_end_stream();
                self.keep(&bytes);
                self.piece = bytes;
            }
            Err(frame) => {
                let Ok(mut trailer) = frame.into_trailers() else { return Poll::Ready(Ok(())) };
                trailers::prune(&mut trailer);
                self.whole = true;
                if let Some(kept) = &mut self.kept {
                    kept.trailer = Some(trailer.clone());
                }
                if let Some(to) = &mut self.to {
                    let _ = to.send_trailers(trailer);
                }
                self.stop();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Nothing more is told.
    fn stop(&mut self) {
        (self.to, self.piece) = (None, Bytes::new());
    }

    fn keep(&mut self, bytes: &Bytes) {
        let Some(kept) = &mut self.kept else { return };
        if bytes.is_empty() {
            return;
        }
        if !kept.reserved.grow(bytes.len() as u64, BODY_KEPT_BYTES_MAX) {
            self.kept = None;
            return;
        }
        let small = bytes.len() < COPIED_BYTES_MAX;
        kept.pieces.push_back(if small { Bytes::copy_from_slice(bytes) } else { bytes.clone() });
    }

    /// The body as it was before anything of it was taken, if all that was taken is at hand.
    fn take_back(&mut self) -> Option<RequestBody> {
        let Kept { pieces, trailer, reserved } = self.kept.take()?;
        let rest = if self.whole { RequestBody::Empty } else { std::mem::take(&mut self.rest) };
        if pieces.is_empty() && trailer.is_none() {
            return Some(rest);
        }
        Some(RequestBody::Pieced(Box::new(Pieced { pieces, rest, trailer, reserved: Some(reserved) })))
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("place", &self.place).finish_non_exhaustive()
    }
}

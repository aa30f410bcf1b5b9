//! One connection to an instance, driven by the task of the request that uses it.
//!
//! hyper's client connection is a future that somebody must poll. Here it is polled inside the request's own future, so that a
//! request costs no second task, no wake-up across threads and no timer. An idle connection is polled by nobody; whether it is still
//! open is seen when it is taken from the pool ([`Upstream::is_alive`]).

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hirsel_mesh::seam::BoxStream;
use hirsel_model::Timestamp;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1::{Builder, Connection, Parts, SendRequest};
use hyper_util::rt::TokioIo;

use crate::io::{Gauge, Gauged};
use crate::replay::Failure;
use crate::stream::RequestBody;

/// Largest head of an answer, and most that is read ahead. A program that sends more is taken for broken.
const READ_BUFFER_BYTES_MAX: usize = 128 * 1024;

/// What a connection is doing: how long it may stand still depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// A request is sent, or the head of its answer is waited for. A minute, as usual among proxies.
    Waiting,
    /// The body of an answer comes. Event streams may be silent for minutes.
    Streaming,
    /// It is a tunnel. An hour, for sessions in which people type.
    Tunnel,
}

impl Stage {
    /// How many sweeps (half a second each) nothing may move.
    fn sweeps_max(self) -> u32 {
        match self {
            Stage::Waiting => 2 * 60,
            Stage::Streaming => 2 * 600,
            Stage::Tunnel => 2 * 3600,
        }
    }
}

const OVER_NOT: u8 = 0;
const OVER_LOST: u8 = 1;
const OVER_TIMED_OUT: u8 = 2;

/// What others may tell whoever waits on a connection.
#[derive(Debug)]
pub struct Pulse {
    /// How much went through.
    pub gauge: Arc<Gauge>,
    sweeps_max: AtomicU32,
    lost: AtomicBool,
    over: AtomicU8,
}

impl Default for Pulse {
    fn default() -> Self {
        let sweeps_max = AtomicU32::new(Stage::Waiting.sweeps_max());
        Self { gauge: Arc::default(), sweeps_max, lost: AtomicBool::new(false), over: AtomicU8::new(OVER_NOT) }
    }
}

impl Pulse {
    /// Says what the connection is doing now.
    pub fn enter(&self, stage: Stage) {
        self.sweeps_max.store(stage.sweeps_max(), Ordering::Relaxed);
    }

    /// How many sweeps nothing may move.
    pub fn sweeps_max(&self) -> u32 {
        self.sweeps_max.load(Ordering::Relaxed)
    }

    /// The node is not heard any more, or the instance ended: what can be told again is told elsewhere, and the connection is not
    /// used again.
    pub fn lose(&self) {
        self.lost.store(true, Ordering::Release);
        self.gauge.nudge();
    }

    /// Nothing will come any more: whoever waits fails with `failure`.
    pub fn end(&self, failure: Failure) {
        let over = if failure == Failure::TimedOut { OVER_TIMED_OUT } else { OVER_LOST };
        self.over.store(over, Ordering::Release);
        self.lose();
    }

    /// Whether [`Pulse::lose`] was called.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Whether [`Pulse::end`] was called, and with which failure.
    pub fn over(&self) -> Option<Failure> {
        match self.over.load(Ordering::Acquire) {
            OVER_NOT => None,
            OVER_TIMED_OUT => Some(Failure::TimedOut),
            _ => Some(Failure::Lost),
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub struct SendError {
    /// How it failed.
    pub failure: Failure,
    /// The request, if nothing of it was written.
    pub unsent: Option<Request<RequestBody>>,
}

/// A connection to an instance.
pub struct Upstream {
    sender: SendRequest<RequestBody>,
    connection: Connection<TokioIo<Gauged>, RequestBody>,
    /// What others may tell.
    pub pulse: Arc<Pulse>,
    /// When it was last put into the pool.
    pub idle_since: Timestamp,
    /// Whether it carried a request before.
    pub reused: bool,
    ended: bool,
    /// Wakes the driver, but only from outside a turn.
    waker: Waker,
}

/// How a turn of polling came out.
enum Turn {
    /// What was waited for is out.
    Ready,
    /// Something moved: another turn may bring it.
    Again,
    Still,
}

/// After so many turns in a row the other tasks come first: tokio's budget for cooperation looks like progress.
const TURNS_MAX: usize = 8;

impl Upstream {
    /// Speaks HTTP over `stream`.
    pub async fn new(stream: BoxStream, pulse: Arc<Pulse>) -> Result<Box<Self>, hyper::Error> {
        let io = TokioIo::new(Gauged::new(stream, pulse.gauge.clone()));
        let (sender, connection) = Builder::new().max_buf_size(READ_BUFFER_BYTES_MAX).handshake(io).await?;
        let waker = Waker::from(pulse.gauge.clone());
        let idle_since = Timestamp::default();
        Ok(Box::new(Self { sender, connection, pulse, idle_since, reused: false, ended: false, waker }))
    }

    /// Whether an idle connection is still open and has nothing to say, as far as the kernel knows by now.
    pub fn is_alive(&mut self) -> bool {
        !self.pulse.is_lost() && self.settle()
    }

    /// Whether the connection is done with its request and can carry another.
    pub fn settle(&mut self) -> bool {
        // Nobody is to be woken for an idle connection: it is looked at when it is taken.
        self.pulse.gauge.driven_by_nobody();
        self.turn(&mut |_| false);
        !self.ended && self.sender.is_ready()
    }

    /// Sends `request` and waits for the head of the answer.
    ///
    /// When the instance is lost meanwhile, `leave` is asked once whether to give up (there is another place to go).
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
        leave: impl Fn() -> bool,
    ) -> Result<Response<Incoming>, SendError> {
        let before = self.pulse.gauge.written_bytes();
        let mut answer = pin!(self.sender.try_send_request(request));
        let mut asked = false;
        let result = poll_fn(|cx| {
            self.attend(cx);
            if let Some(failure) = self.pulse.over() {
                return Poll::Ready(Err((failure, None)));
            }
            if !asked && self.pulse.is_lost() {
                asked = true;
                if leave() {
                    return Poll::Ready(Err((Failure::Lost, None)));
                }
            }
            match self.poll_with(cx, |cx| answer.as_mut().poll(cx)) {
                Poll::Ready(answer) => Poll::Ready(answer.map_err(|mut error| {
                    let failure = match error.error() {
                        error if error.is_parse() => Failure::Garbled,
                        // What fails on our side of the connection is the body that the client sends.
                        error if error.is_user() => Failure::ClientGone,
                        _ => Failure::Broken,
                    };
                    (failure, error.take_message())
                })),
                Poll::Pending if self.ended => Poll::Ready(Err((Failure::Broken, None))),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        result.map_err(|(failure, unsent)| {
            let nothing_written = self.pulse.gauge.written_bytes() == before;
            let failure = if nothing_written && failure == Failure::Broken { Failure::NotWritten } else { failure };
            SendError { failure, unsent }
        })
    }

    /// Makes the task of `cx` the one that is woken. To be called before flags are looked at, so that none is missed.
    pub fn attend(&self, cx: &Context<'_>) {
        self.pulse.gauge.driven_by(cx);
    }

    /// Takes the next piece of the body that comes over this connection. After [`Upstream::attend`].
    pub fn poll_body(
        &mut self,
        incoming: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.poll_with(cx, |cx| Pin::new(&mut *incoming).poll_frame(cx))
    }

    /// Polls `what` comes out of the connection together with the connection, until neither moves the other.
    fn poll_with<T>(&mut self, cx: &mut Context<'_>, mut what: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        // What comes out is large, and put aside once, not handed from turn to turn.
        let mut out = Poll::Pending;
        let mut is_out = |cx: &mut Context<'_>| {
            out = what(cx);
            out.is_ready()
        };
        for _ in 0..TURNS_MAX {
            match self.turn(&mut is_out) {
                Turn::Ready => return out,
                Turn::Still => return Poll::Pending,
                Turn::Again => {}
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One turn: what comes out asks first, so that the connection reads for it, and then takes what was read.
    fn turn(&mut self, is_out: &mut dyn FnMut(&mut Context<'_>) -> bool) -> Turn {
        let gauge = &self.pulse.gauge;
        let mut cx = Context::from_waker(&self.waker);
        gauge.begin_turn();
        let mut ready = is_out(&mut cx);
        if !ready && !self.ended {
            self.ended = self.connection.poll_without_shutdown(&mut cx).is_ready();
            ready = is_out(&mut cx);
        }
        match (ready, gauge.end_turn()) {
            (true, _) => Turn::Ready,
            (false, true) => Turn::Again,
            (false, false) => Turn::Still,
        }
    }

    /// Waits until the connection has left HTTP after a 101 and returns the bare stream.
    pub async fn into_upgraded(mut self: Box<Self>) -> Result<Parts<TokioIo<Gauged>>, hyper::Error> {
        if !self.ended {
            poll_fn(|cx| self.connection.poll_without_shutdown(cx)).await?;
        }
        Ok(self.connection.into_parts())
    }
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("reused", &self.reused).field("ended", &self.ended).finish_non_exhaustive()
    }
}

//! QUIC as the library wants it, over quinn's connections and streams.
//!
//! What comes is cut into frames on the way ([`super::frames`]); what goes through is put on the gauge of the client's connection; a
//! request that the client was told is not answered any more (GOAWAY) is refused here; and a stream that is dropped before its answer was
//! whole is reset, so that nobody takes a part of an answer for all of it.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h3::error::Code;
use h3::quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf};
use quinn::{ConnectionError, ReadError, VarInt, WriteError};

use super::frames::{Fault, Frames};
use crate::io::Gauge;

/// What is read of a stream at once.
const CHUNK_BYTES_MAX: usize = 16 * 1024;

/// So many pieces of nothing that matters are read before others get their turn.
const CHUNKS_AT_ONCE_MAX: usize = 32;

type Pending<T> = Pin<Box<dyn Future<Output = Result<T, ConnectionError>> + Send + Sync>>;

/// Completes when the client does not want an answer any more (the error code), when it has taken all of it (none), or with the connection.
pub(super) type Stopped = Pin<Box<dyn Future<Output = Option<u64>> + Send + Sync>>;

/// What is known of a stream that was just accepted.
pub(super) struct Accepted {
    /// Its place among those of the client.
    pub index: u64,
    /// When nobody waits for it any more.
    pub stopped: Stopped,
    /// Set once there is an answer of ours: from then on what is dropped is reset.
    pub strict: Arc<AtomicBool>,
}

/// What is shared with who serves the connection.
pub(super) struct Desk {
    /// The stream accepted last.
    accepted: Mutex<Option<Accepted>>,
    /// Requests from this place on are refused.
    refused_from: AtomicU64,
}

impl Desk {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { accepted: Mutex::default(), refused_from: AtomicU64::new(u64::MAX) })
    }

    /// What is known of the stream accepted last. Each is told once.
    pub(super) fn take(&self) -> Option<Accepted> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Refuses requests from the one in this place on.
    pub(super) fn refuse_from(&self, index: u64) {
        self.refused_from.store(index, Ordering::SeqCst);
    }
}

/// A connection.
pub(super) struct Quic {
    connection: quinn::Connection,
    gauge: Arc<Gauge>,
    desk: Arc<Desk>,
    accepting: Option<Pending<(quinn::SendStream, quinn::RecvStream)>>,
    accepting_one_way: Option<Pending<quinn::RecvStream>>,
    opening: Option<Pending<quinn::SendStream>>,
}

impl Quic {
    pub(super) fn new(connection: quinn::Connection, gauge: Arc<Gauge>, desk: Arc<Desk>) -> Self {
        Self { connection, gauge, desk, accepting: None, accepting_one_way: None, opening: None }
    }

    fn receive(&self, stream: quinn::RecvStream, frames: Frames) -> Receiving {
        Receiving {
            stream,
            ahead: Bytes::new(),
            frames,
            connection: self.connection.clone(),
            gauge: self.gauge.clone(),
            end: None,
        }
    }

    fn send(&self, stream: quinn::SendStream, strict: Arc<AtomicBool>) -> Sending {
        Sending { stream, writing: None, gauge: self.gauge.clone(), waits: false, is_over: false, strict }
    }
}

/// Polls what is kept until it is done; made anew after that.
fn poll_kept<T>(
    kept: &mut Option<Pending<T>>,
    make: impl FnOnce() -> Pending<T>,
    cx: &mut Context<'_>,
) -> Poll<Result<T, ConnectionError>> {
    let done = ready!(kept.get_or_insert_with(make).as_mut().poll(cx));
    *kept = None;
    Poll::Ready(done)
}

impl quic::Connection<Bytes> for Quic {
    type RecvStream = Receiving;
    type OpenStreams = Self;

    fn poll_accept_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Receiving, ConnectionErrorIncoming>> {
        let connection = &self.connection;
        let make = || {
            let connection = connection.clone();
            Box::pin(async move { connection.accept_uni().await }) as Pending<_>
        };
        let stream = ready!(poll_kept(&mut self.accepting_one_way, make, cx)).map_err(ended)?;
        Poll::Ready(Ok(self.receive(stream, Frames::of_one_way())))
    }

    fn poll_accept_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Both, ConnectionErrorIncoming>> {
        loop {
            let connection = &self.connection;
            let make = || {
                let connection = connection.clone();
                Box::pin(async move { connection.accept_bi().await }) as Pending<_>
            };
            let (mut send, mut receive) = ready!(poll_kept(&mut self.accepting, make, cx)).map_err(ended)?;
            let index = send.id().index();
            if index >= self.desk.refused_from.load(Ordering::SeqCst) {
                // It was told so, or will be; and may ask elsewhere.
                let refused = varint(Code::H3_REQUEST_REJECTED.value());
                let _ = (send.reset(refused), receive.stop(refused));
                continue;
            }
            let stopped = send.stopped();
            let stopped = Box::pin(async move { stopped.await.ok().flatten().map(VarInt::into_inner) });
            let strict = Arc::new(AtomicBool::new(false));
            let accepted = Accepted { index, stopped, strict: strict.clone() };
            *self.desk.accepted.lock().unwrap_or_else(PoisonError::into_inner) = Some(accepted);
            let receive = self.receive(receive, Frames::of_request());
            return Poll::Ready(Ok(Both { send: self.send(send, strict), receive }));
        }
    }

    fn opener(&self) -> Self {
        Self::new(self.connection.clone(), self.gauge.clone(), self.desk.clone())
    }
}

impl quic::OpenStreams<Bytes> for Quic {
    type BidiStream = Both;
    type SendStream = Sending;

    fn poll_open_bidi(&mut self, _: &mut Context<'_>) -> Poll<Result<Both, StreamErrorIncoming>> {
        // Only clients open such (RFC 9114, section 6.1).
        Poll::Ready(Err(StreamErrorIncoming::Unknown(Box::new(io::Error::from(io::ErrorKind::Unsupported)))))
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<Sending, StreamErrorIncoming>> {
        let connection = &self.connection;
        let make = || {
            let connection = connection.clone();
            Box::pin(async move { connection.open_uni().await }) as Pending<_>
        };
        let opened = ready!(poll_kept(&mut self.opening, make, cx));
        let stream =
            opened.map_err(|error| StreamErrorIncoming::ConnectionErrorIncoming { connection_error: ended(error) })?;
        Poll::Ready(Ok(self.send(stream, Arc::default())))
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.connection.close(varint(code.value()), reason);
    }
}

/// A request and its answer.
pub(super) struct Both {
    send: Sending,
    receive: Receiving,
}

impl quic::RecvStream for Both {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        let polled = quic::RecvStream::poll_data(&mut self.receive, cx);
        if let Some(End::Broken(Fault::Stream(code))) = self.receive.end {
            quic::SendStream::reset(&mut self.send, code);
        }
        polled
    }

    fn stop_sending(&mut self, code: u64) {
        self.receive.stop_sending(code);
    }

    fn recv_id(&self) -> StreamId {
        self.receive.recv_id()
    }
}

impl quic::SendStream<Bytes> for Both {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_ready(cx)
    }

    fn send_data<D: Into<WriteBuf<Bytes>>>(&mut self, data: D) -> Result<(), StreamErrorIncoming> {
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_finish(cx)
    }

    fn reset(&mut self, code: u64) {
        self.send.reset(code);
    }

    fn send_id(&self) -> StreamId {
        self.send.send_id()
    }
}

impl quic::BidiStream<Bytes> for Both {
    type SendStream = Sending;
    type RecvStream = Receiving;

    fn split(self) -> (Sending, Receiving) {
        (self.send, self.receive)
    }
}

/// What comes on a stream.
pub(super) struct Receiving {
    stream: quinn::RecvStream,
    /// What was read and not handed over yet: a chunk at most.
    ahead: Bytes,
    frames: Frames,
    connection: quinn::Connection,
    gauge: Arc<Gauge>,
    end: Option<End>,
}

/// Why nothing more comes.
#[derive(Clone, Copy, Debug)]
enum End {
    /// It is whole.
    Over,
    /// The client broke it off, or we did.
    Reset(u64),
    /// It is not to be understood.
    Broken(Fault),
}

impl Receiving {
    fn broken(&mut self, fault: Fault) -> StreamErrorIncoming {
        self.end = Some(End::Broken(fault));
        match fault {
            Fault::Stream(code) => {
                let _ = self.stream.stop(varint(code));
                StreamErrorIncoming::StreamTerminated { error_code: code }
            }
            Fault::Connection(code) => {
                self.connection.close(varint(code), b"");
                let connection_error = ConnectionErrorIncoming::ApplicationClose { error_code: code };
                StreamErrorIncoming::ConnectionErrorIncoming { connection_error }
            }
        }
    }
}

impl quic::RecvStream for Receiving {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        match self.end {
            None => {}
            Some(End::Over) => return Poll::Ready(Ok(None)),
            Some(End::Reset(error_code)) => {
                return Poll::Ready(Err(StreamErrorIncoming::StreamTerminated { error_code }));
            }
            Some(End::Broken(fault)) => return Poll::Ready(Err(self.broken(fault))),
        }
        for _ in 0..CHUNKS_AT_ONCE_MAX {
            match self.frames.next(&mut self.ahead) {
                Ok(Some(piece)) => return Poll::Ready(Ok(Some(piece))),
                Ok(None) => {}
                Err(fault) => return Poll::Ready(Err(self.broken(fault))),
            }
            let read = pin!(self.stream.read_chunk(CHUNK_BYTES_MAX, true)).poll(cx);
            match ready!(read) {
                Ok(Some(chunk)) => {
                    self.gauge.note(chunk.bytes.len());
                    self.ahead = chunk.bytes;
                }
                Ok(None) => {
                    if let Err(fault) = self.frames.end() {
                        return Poll::Ready(Err(self.broken(fault)));
                    }
                    self.end = Some(End::Over);
                    return Poll::Ready(Ok(None));
                }
                Err(error) => {
                    if let ReadError::Reset(code) = error {
                        self.end = Some(End::Reset(code.into_inner()));
                    }
                    return Poll::Ready(Err(unread(error)));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn stop_sending(&mut self, code: u64) {
        self.end.get_or_insert(End::Reset(code));
        let _ = self.stream.stop(varint(code));
    }

    fn recv_id(&self) -> StreamId {
        id(self.stream.id())
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if self.end.is_none() {
            // What is left of it does not matter.
            let _ = self.stream.stop(varint(Code::H3_NO_ERROR.value()));
        }
    }
}

/// What goes out on a stream.
pub(super) struct Sending {
    stream: quinn::SendStream,
    writing: Option<WriteBuf<Bytes>>,
    gauge: Arc<Gauge>,
    /// Whether it waits for room.
    waits: bool,
    /// Whether its end was said.
    is_over: bool,
    /// Whether dropping it before its end resets it.
    strict: Arc<AtomicBool>,
}

impl Sending {
    fn set_waits(&mut self, waits: bool) {
        if std::mem::replace(&mut self.waits, waits) != waits {
            self.gauge.waits(waits);
        }
    }
}

impl quic::SendStream<Bytes> for Sending {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        while let Some(data) = &mut self.writing
            && data.has_remaining()
        {
            let Poll::Ready(written) = Pin::new(&mut self.stream).poll_write(cx, data.chunk()) else {
                self.set_waits(true);
                return Poll::Pending;
            };
            let written = written.map_err(unwritten)?;
            data.advance(written);
            self.gauge.wrote(written);
            self.set_waits(false);
        }
        self.writing = None;
        Poll::Ready(Ok(()))
    }

    fn send_data<D: Into<WriteBuf<Bytes>>>(&mut self, data: D) -> Result<(), StreamErrorIncoming> {
        if self.writing.is_some() {
            let busy = io::Error::new(io::ErrorKind::WouldBlock, "what was written before has not gone out");
            return Err(StreamErrorIncoming::Unknown(Box::new(busy)));
        }
        self.writing = Some(data.into());
        Ok(())
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.is_over = true;
        Poll::Ready(self.stream.finish().map_err(|error| StreamErrorIncoming::Unknown(Box::new(error))))
    }

    fn reset(&mut self, code: u64) {
        self.is_over = true;
        let _ = self.stream.reset(varint(code));
    }

    fn send_id(&self) -> StreamId {
        id(self.stream.id())
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.set_waits(false);
        // Without a word it would be finished.
        if !self.is_over && self.strict.load(Ordering::SeqCst) {
            let _ = self.stream.reset(varint(Code::H3_INTERNAL_ERROR.value()));
        }
    }
}

fn varint(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

fn id(id: quinn::StreamId) -> StreamId {
    let number = u64::from(VarInt::from(id));
    StreamId::try_from(number).expect("both have 62 bits")
}

fn ended(error: ConnectionError) -> ConnectionErrorIncoming {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            ConnectionErrorIncoming::ApplicationClose { error_code: close.error_code.into_inner() }
        }
        ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        other => ConnectionErrorIncoming::Undefined(Arc::new(other)),
    }
}

fn unread(error: ReadError) -> StreamErrorIncoming {
    match error {
        ReadError::Reset(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() },
        ReadError::ConnectionLost(error) => {
            StreamErrorIncoming::ConnectionErrorIncoming { connection_error: ended(error) }
        }
        other => StreamErrorIncoming::Unknown(Box::new(other)),
    }
}

fn unwritten(error: WriteError) -> StreamErrorIncoming {
    match error {
        WriteError::Stopped(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() },
        WriteError::ConnectionLost(error) => {
            StreamErrorIncoming::ConnectionErrorIncoming { connection_error: ended(error) }
        }
        other => StreamErrorIncoming::Unknown(Box::new(other)),
    }
}

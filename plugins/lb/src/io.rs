//! A byte stream with a gauge on it: how much went through, whether a write is stuck, and a way to wake whoever drives it.
//!
//! The gauge lets one sweep over all connections find those that stand still ([`crate::client`], [`crate::upstream`]), so that no
//! request needs a timer of its own.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use futures::task::AtomicWaker;
use hirsel_mesh::seam::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is read of a stream at once to see what it is: the first request, in most cases.
const AHEAD_BYTES: usize = 1024;

/// What is written in pieces is put together up to so many bytes: a head and a small body.
const PIECED_BYTES_MAX: usize = 2048;

/// What can be seen of a stream from outside.
#[derive(Debug, Default)]
pub struct Gauge {
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    write_stuck: AtomicBool,
    /// Of a connection with streams of its own: how many of them wait for room.
    streams_stuck: AtomicU32,
    driver: AtomicWaker,
}

impl Gauge {
    /// Bytes read so far.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    /// Bytes written so far.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Ordering::Relaxed)
    }

    /// Whether the last write found no room: the other end does not read.
    pub fn is_write_stuck(&self) -> bool {
        self.write_stuck.load(Ordering::Relaxed) || self.streams_stuck.load(Ordering::Relaxed) > 0
    }

    /// A number that changes whenever something went through.
    pub fn progress(&self) -> u64 {
        self.read_bytes().wrapping_add(self.written_bytes())
    }

    /// Notes that so many bytes came or went that no stream of its own counts.
    pub fn note(&self, bytes: usize) {
        self.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Notes that a stream of the connection wrote so many bytes.
    pub fn wrote(&self, bytes: usize) {
        self.written_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Notes that one more stream of the connection waits for room, or one less.
    pub fn waits(&self, one_more: bool) {
        match one_more {
            true => self.streams_stuck.fetch_add(1, Ordering::Relaxed),
            false => self.streams_stuck.fetch_sub(1, Ordering::Relaxed),
        };
    }

    /// Forgets the task to wake.
    pub fn driven_by_nobody(&self) {
        drop(self.driver.take());
    }

    /// Remembers the task to wake.
    pub fn driven_by(&self, cx: &Context<'_>) {
        self.driver.register(cx.waker());
    }

    /// Wakes the task that drives the stream, to make it look at what was flagged.
    pub fn nudge(&self) {
        self.driver.wake();
    }

    fn count_written(&self, result: &Poll<io::Result<usize>>) {
        match result {
            Poll::Ready(Ok(bytes)) => {
                self.written_bytes.store(self.written_bytes().wrapping_add(*bytes as u64), Ordering::Relaxed);
                if self.is_write_stuck() {
                    self.write_stuck.store(false, Ordering::Relaxed);
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.write_stuck.store(true, Ordering::Relaxed),
        }
    }
}

thread_local! {
    /// Where short pieces are put together; of each thread, so that it is neither cleared nor allocated for each answer.
    static PIECE: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(PIECED_BYTES_MAX));
}

/// A stream with a gauge.
pub struct Gauged {
    stream: BoxStream,
    gauge: Arc<Gauge>,
    /// What was read to see what it is, and is read again.
    ahead: Vec<u8>,
}

impl Gauged {
    /// Puts `gauge` on `stream`.
    pub fn new(stream: BoxStream, gauge: Arc<Gauge>) -> Self {
        Self { stream, gauge, ahead: Vec::new() }
    }

    /// Whether nothing has come yet.
    pub fn is_untouched(&self) -> bool {
        self.ahead.is_empty()
    }

    /// Whether what comes begins with `beginning`. It is read again afterwards.
    ///
    /// # Errors
    /// Those of reading.
    pub fn poll_begins_with(&mut self, cx: &mut Context<'_>, beginning: &[u8]) -> Poll<io::Result<bool>> {
        loop {
            let seen = self.ahead.len().min(beginning.len());
            if self.ahead[..seen] != beginning[..seen] {
                return Poll::Ready(Ok(false));
            }
            if seen == beginning.len() {
                return Poll::Ready(Ok(true));
            }
            let mut read = [0; AHEAD_BYTES];
            let mut read = ReadBuf::new(&mut read);
            // Not by way of what was read ahead.
            ready!(self.poll_stream(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(false));
            }
            self.ahead.extend_from_slice(read.filled());
        }
    }

    fn poll_stream(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        let bytes = buf.filled().len() - before;
        if bytes > 0 {
            // Only the task that drives the stream writes: no need for an atomic addition.
            let gauge = &self.gauge;
            gauge.read_bytes.store(gauge.read_bytes().wrapping_add(bytes as u64), Ordering::Relaxed);
        }
        result
    }
}

impl AsyncRead for Gauged {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return self.poll_stream(cx, buf);
        }
        let bytes = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..bytes]);
        if bytes == self.ahead.len() {
            self.ahead = Vec::new();
        } else {
            self.ahead.drain(..bytes);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Gauged {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.gauge.count_written(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes: usize = bufs.iter().map(|buf| buf.len()).sum();
        let result = if bytes <= PIECED_BYTES_MAX {
            // One short piece costs the kernel less than a list of two, the copy included.
            PIECE.with_borrow_mut(|piece| {
                piece.clear();
                bufs.iter().for_each(|buf| piece.extend_from_slice(buf));
                Pin::new(&mut self.stream).poll_write(cx, piece)
            })
        } else {
            Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
        };
        self.gauge.count_written(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

//! Writes of many streams in one: what an HTTP/2 connection has to say in one turn of the scheduler goes out together.
//!
//! The state machine of HTTP/2 flushes each frame as it comes. Behind it each answer then costs a record of TLS, a system call and a
//! packet of its own, although many were ready at the same time. So nothing is written before whoever drives the connection says
//! so, which it does after every other task has had its turn that was ready as well: no timer is set, and an answer that comes alone goes
//! out at once.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What waits at most: the largest record of TLS (RFC 8446, section 5.1), twice.
const WAITING_BYTES_MAX: usize = 32 * 1024;

/// What is as long as this is not copied to wait.
const LONG_BYTES: usize = 8 * 1024;

thread_local! {
    /// Room for what waits, passed on from connection to connection, so that one at rest holds none.
    static ROOM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A stream whose writes wait until they are sent; the other end of it is [`Sender`].
#[derive(Debug)]
pub struct Gathered<S>(Arc<Mutex<Waiting<S>>>);

/// Who sends what waits.
#[derive(Debug)]
pub struct Sender<S> {
    waiting: Arc<Mutex<Waiting<S>>>,
    /// Everybody else has had a turn since something waits.
    had_turn: bool,
}

#[derive(Debug)]
struct Waiting<S> {
    stream: S,
    bytes: Vec<u8>,
    sent: usize,
    /// Something was written that may not be flushed.
    is_dirty: bool,
}

/// Both ends over `stream`.
pub fn gathered<S>(stream: S) -> (Gathered<S>, Sender<S>) {
    let waiting = Arc::new(Mutex::new(Waiting { stream, bytes: Vec::new(), sent: 0, is_dirty: false }));
    (Gathered(waiting.clone()), Sender { waiting, had_turn: false })
}

fn lock<S>(waiting: &Mutex<Waiting<S>>) -> MutexGuard<'_, Waiting<S>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: AsyncWrite + Unpin> Sender<S> {
    /// Sends what waits, if all that could add to it has had its turn; else asks to be called again after that. To be called after each
    /// turn of what writes.
    ///
    /// # Errors
    /// Those of writing.
    pub fn turn(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut waiting = lock(&self.waiting);
        if waiting.bytes.is_empty() && !waiting.is_dirty {
            self.had_turn = false;
            return Ok(());
        }
        if !std::mem::replace(&mut self.had_turn, true) {
            // A task that wakes itself comes after all that are ready.
            cx.waker().wake_by_ref();
            return Ok(());
        }
        match waiting.poll_out(cx) {
            Poll::Ready(Ok(())) => {
                self.had_turn = false;
                Ok(())
            }
            Poll::Ready(Err(error)) => Err(error),
            // Woken when there is room, and then it is not put off again.
            Poll::Pending => Ok(()),
        }
    }
}

impl<S: AsyncWrite + Unpin> Waiting<S> {
    /// Writes all that waits.
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.bytes[self.sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
        }
        self.sent = 0;
        let mut room = std::mem::take(&mut self.bytes);
        if room.capacity() > 0 {
            room.clear();
            ROOM.set(room);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_written(cx))?;
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.is_dirty = false;
        Poll::Ready(Ok(()))
    }

    fn poll_take(&mut self, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let bytes: usize = bufs.iter().map(|buf| buf.len()).sum();
        if self.bytes.len() + bytes > WAITING_BYTES_MAX || bytes >= LONG_BYTES {
            ready!(self.poll_written(cx))?;
        }
        self.is_dirty = true;
        if bytes >= LONG_BYTES {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        }
        if self.bytes.capacity() == 0 {
            self.bytes = ROOM.take();
            self.bytes.reserve(WAITING_BYTES_MAX);
        }
        bufs.iter().for_each(|buf| self.bytes.extend_from_slice(buf));
        Poll::Ready(Ok(bytes))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_take(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_take(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Done when [`Sender::turn`] is.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut waiting = lock(&self.0);
        ready!(waiting.poll_out(cx))?;
        Pin::new(&mut waiting.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// Drives `work` as a connection is driven, and says how often it had a turn.
    async fn driven<S: AsyncWrite + Unpin, T>(mut sender: Sender<S>, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|cx| {
            let polled = work.as_mut().poll(cx);
            sender.turn(cx).unwrap();
            polled
        })
        .await
    }

    #[tokio::test]
    async fn what_is_said_in_one_turn_goes_out_in_one_piece() {
        let (ours, mut theirs) = duplex(1 << 20);
        let (mut stream, sender) = gathered(ours);
        let writing = async {
            for piece in [&b"one "[..], b"two ", b"three"] {
                stream.write_all(piece).await.unwrap();
                stream.flush().await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let reading = async {
            let mut read = [0; 64];
            let bytes = theirs.read(&mut read).await.unwrap();
            read[..bytes].to_vec()
        };
        tokio::select! {
            () = driven(sender, writing) => unreachable!(),
            read = reading => assert_eq!(read, b"one two three"),
        }
    }

    #[tokio::test]
    async fn what_waits_goes_out_before_the_end() {
        let (ours, mut theirs) = duplex(1 << 20);
        let (mut stream, _never_asked) = gathered(ours);
        stream.write_all(b"goodbye").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut read = Vec::new();
        theirs.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"goodbye");
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_holds_up_the_writer() {
        let (ours, _theirs) = duplex(1024);
        let (mut stream, sender) = gathered(ours);
        let writing = async {
            let mut taken = 0;
            while taken < 10 * WAITING_BYTES_MAX {
                let piece = [0; 1000];
                let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_write(cx, &piece))).await;
                let Poll::Ready(written) = polled else { return taken };
                taken += written.unwrap();
                tokio::task::yield_now().await;
            }
            taken
        };
        let taken = driven(sender, writing).await;
        assert!(taken <= WAITING_BYTES_MAX + 2 * 1024, "{taken} bytes were taken");
    }

    proptest! {
        #[test]
        fn every_byte_arrives_in_order(pieces in prop::collection::vec((1..20_000_usize, any::<bool>()), 1..40), room in 1..70_000_usize) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (ours, mut theirs) = duplex(room);
                let (mut stream, sender) = gathered(ours);
                let mut next = 0_u8;
                let mut sent = Vec::new();
                let pieces: Vec<(Vec<u8>, bool)> = pieces.into_iter().map(|(bytes, flushes)| {
                    let piece = std::iter::repeat_with(|| { next = next.wrapping_add(1); next }).take(bytes).collect::<Vec<_>>();
                    sent.extend_from_slice(&piece);
                    (piece, flushes)
                }).collect();
                let writing = async move {
                    for (piece, yields) in &pieces {
                        stream.write_all(piece).await.unwrap();
                        stream.flush().await.unwrap();
                        if *yields {
                            tokio::task::yield_now().await;
                        }
                    }
                    stream.shutdown().await.unwrap();
                };
                let mut read = Vec::new();
                let reading = async { theirs.read_to_end(&mut read).await.unwrap(); };
                tokio::join!(driven(sender, writing), reading);
                assert_eq!(read, sent);
            });
        }
    }
}

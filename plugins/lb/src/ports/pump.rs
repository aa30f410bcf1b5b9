//! Carries bytes both ways between two streams, each direction until its own end.
//!
//! What was read is written at once from a buffer that all connections of a thread share; only what the other side does not take is
//! kept, and nothing more is read before that is gone. So an idle connection holds no buffer, and a slow one holds
//! [`KEPT_BYTES_MAX`] for each direction at most.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most that is read at once, and so most that is kept of what the other side does not take.
pub const KEPT_BYTES_MAX: usize = 64 * 1024;

thread_local! {
    /// Where bytes are between reading and writing.
    static PASSING: RefCell<Box<[u8]>> = RefCell::new(vec![0; KEPT_BYTES_MAX].into());
}

/// One direction.
#[derive(Debug)]
pub struct Direction {
    /// Was read and not taken yet, from `at` on.
    kept: Vec<u8>,
    at: usize,
    stage: Stage,
    /// Something was written since the last flush.
    unflushed: bool,
    /// What went through.
    bytes: Counter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// Nothing more comes; the other side is still to be told.
    Ended,
    /// It was told.
    Closed,
}

impl Direction {
    /// One of which `begun` was read before. `bytes` counts what is taken by the other side.
    pub fn new(begun: Vec<u8>, bytes: Counter) -> Self {
        Self { kept: begun, at: 0, stage: Stage::Open, unflushed: false, bytes }
    }

    fn poll<A, B>(&mut self, cx: &mut Context<'_>, mut from: Pin<&mut A>, mut to: Pin<&mut B>) -> Poll<io::Result<()>>
    where
        A: AsyncRead + ?Sized,
        B: AsyncWrite + ?Sized,
    {
        loop {
            while self.at < self.kept.len() {
                let taken = ready!(to.as_mut().poll_write(cx, &self.kept[self.at..]))?;
                self.took(taken)?;
                self.at += taken;
            }
            (self.kept, self.at) = (Vec::new(), 0);
            match self.stage {
                Stage::Closed => return Poll::Ready(Ok(())),
                Stage::Ended => {
                    ready!(to.as_mut().poll_shutdown(cx))?;
                    self.stage = Stage::Closed;
                }
                Stage::Open => {
                    let passed = PASSING.with_borrow_mut(|room| self.poll_pass(cx, room, from.as_mut(), to.as_mut()));
                    if passed?.is_pending() {
                        if self.unflushed {
                            ready!(to.as_mut().poll_flush(cx))?;
                            self.unflushed = false;
                        }
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    /// Reads once, and writes as much of it as is taken.
    fn poll_pass<A, B>(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut [u8],
        from: Pin<&mut A>,
        mut to: Pin<&mut B>,
    ) -> io::Result<Poll<()>>
    where
        A: AsyncRead + ?Sized,
        B: AsyncWrite + ?Sized,
    {
        let mut read = ReadBuf::new(room);
        if from.poll_read(cx, &mut read)?.is_pending() {
            return Ok(Poll::Pending);
        }
        let mut bytes = read.filled();
        if bytes.is_empty() {
            self.stage = Stage::Ended;
        }
        while !bytes.is_empty() {
            match to.as_mut().poll_write(cx, bytes) {
                Poll::Ready(taken) => {
                    let taken = taken?;
                    self.took(taken)?;
                    bytes = &bytes[taken..];
                }
                Poll::Pending => {
                    self.kept = bytes.to_vec();
                    break;
                }
            }
        }
        Ok(Poll::Ready(()))
    }

    fn took(&mut self, bytes: usize) -> io::Result<()> {
        if bytes == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.unflushed = true;
        self.bytes.inc_by(bytes as u64);
        Ok(())
    }
}

/// Carries on between `client` and `target`. Ready when both directions have ended, or one broke, which ends both.
pub fn poll<A, B>(
    cx: &mut Context<'_>,
    (client, up): (&mut A, &mut Direction),
    (target, down): (&mut B, &mut Direction),
) -> Poll<io::Result<()>>
where
    A: AsyncRead + AsyncWrite + Unpin + ?Sized,
    B: AsyncRead + AsyncWrite + Unpin + ?Sized,
{
    let went_up = up.poll(cx, Pin::new(client), Pin::new(target))?;
    let went_down = down.poll(cx, Pin::new(target), Pin::new(client))?;
    if went_up.is_ready() && went_down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// Both outer ends, and the work between the inner ones, which may hold `room` bytes each.
    fn between(
        room: usize,
        begun: &[u8],
    ) -> (DuplexStream, DuplexStream, impl Future<Output = io::Result<()>> + use<>) {
        let (client, mut inner_client) = duplex(room);
        let (target, mut inner_target) = duplex(room);
        let (mut up, mut down) =
            (Direction::new(begun.to_vec(), Counter::default()), Direction::new(Vec::new(), Counter::default()));
        let work = async move {
            poll_fn(|cx| super::poll(cx, (&mut inner_client, &mut up), (&mut inner_target, &mut down))).await
        };
        (client, target, work)
    }

    #[tokio::test]
    async fn each_direction_ends_by_itself_and_both_end_the_connection() {
        let (mut client, mut target, work) = between(64, b"early ");
        let work = tokio::spawn(work);
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut asked = Vec::new();
        target.read_to_end(&mut asked).await.unwrap();
        assert_eq!(asked, b"early question", "whoever asked has said so, and can still be answered");
        target.write_all(b"answer").await.unwrap();
        target.shutdown().await.unwrap();
        let mut answered = Vec::new();
        client.read_to_end(&mut answered).await.unwrap();
        assert_eq!(answered, b"answer");
        work.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_taken_holds_up_whoever_sends_it() {
        const ROOM: usize = 1024;
        let (mut client, mut target, work) = between(ROOM, b"");
        let _work = tokio::spawn(work);
        let mut sent = 0;
        // As long as nobody reads, it comes to an end.
        while let Ok(written) = tokio::time::timeout(Duration::from_secs(1), client.write(&[7; 512])).await {
            sent += written.unwrap();
        }
        assert!(sent <= KEPT_BYTES_MAX + 2 * ROOM, "{sent}");
        let mut taken = vec![0; sent];
        target.read_exact(&mut taken).await.unwrap();
        client.write_all(b"on").await.unwrap();
        let mut rest = [0; 2];
        target.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"on");
    }

    #[tokio::test]
    async fn a_side_that_breaks_ends_the_other() {
        let (client, mut target, work) = between(64, b"");
        drop(client);
        let work = tokio::spawn(work);
        let mut nothing = Vec::new();
        target.read_to_end(&mut nothing).await.unwrap();
        assert!(nothing.is_empty());
        // Nobody is there to take this.
        let _ = target.write_all(&[1; 4096]).await;
        assert!(work.await.unwrap().is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_is_sent_arrives_whole_and_in_order(
            up in prop::collection::vec(any::<u8>(), 0..5000),
            down in prop::collection::vec(any::<u8>(), 0..5000),
            room in 1..300usize,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (there, here) = runtime.block_on(async {
                let (client, target, work) = between(room, b"");
                let exchange = |stream: DuplexStream, say: Vec<u8>| async move {
                    let (mut read, mut write) = tokio::io::split(stream);
                    let mut heard = Vec::new();
                    let speak = async { write.write_all(&say).await.unwrap(); write.shutdown().await.unwrap(); };
                    let (_, listened) = tokio::join!(speak, read.read_to_end(&mut heard));
                    listened.unwrap();
                    heard
                };
                let (worked, here, there) = tokio::join!(work, exchange(client, up.clone()), exchange(target, down.clone()));
                worked.unwrap();
                (there, here)
            });
            prop_assert_eq!(there, up);
            prop_assert_eq!(here, down);
        }
    }
}

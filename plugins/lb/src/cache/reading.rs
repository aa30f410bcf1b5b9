//! A body on disk on its way to a client: one block at a time, and the next one when the client has taken that.

use std::fmt;
use std::io;
use std::ops::Range;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::body::{Frame, SizeHint};

use super::disk::{BLOCK_BYTES, Opened};

/// One who reads a body on disk, or a part of it.
pub struct Reading {
    opened: Opened,
    at: u64,
    end: u64,
    block: Option<BoxFuture<'static, io::Result<Bytes>>>,
}

impl Reading {
    /// These bytes of it.
    pub fn new(mut opened: Opened, part: Range<u64>) -> Self {
        let end = part.end.min(opened.stored.length());
        if part.start >= BLOCK_BYTES as u64 {
            opened.first = Bytes::new();
        }
        Self { opened, at: part.start.min(end), end, block: None }
    }

    /// Whether there is nothing more to be read.
    pub fn is_over(&self) -> bool {
        self.at >= self.end
    }

    /// How much there is still to be read.
    pub fn left(&self) -> SizeHint {
        SizeHint::with_exact(self.end - self.at)
    }

    /// The next piece.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.is_over() {
            return Poll::Ready(None);
        }
        let size = BLOCK_BYTES as u64;
        let number = self.at / size;
        let whole = match &mut self.block {
            None if number == 0 => std::mem::take(&mut self.opened.first),
            block => {
                let opened = &self.opened;
                let reads = block.get_or_insert_with(|| {
                    let Opened { file, stored, first: _ } = opened.clone();
                    async move { stored.block(file.as_ref(), number).await }.boxed()
                });
                let read = ready!(reads.poll_unpin(cx));
                self.block = None;
                match read {
                    Ok(read) => read,
                    Err(error) => {
                        // It was not what it should be: the client sees that the answer breaks off.
                        self.at = self.end;
                        return Poll::Ready(Some(Err(error)));
                    }
                }
            }
        };
        let start = number * size;
        let place = |at: u64| usize::try_from(at - start).unwrap_or(whole.len()).min(whole.len());
        let piece = whole.slice(place(self.at)..place(self.end));
        self.at += piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").field("at", &self.at).field("end", &self.end).finish_non_exhaustive()
    }
}

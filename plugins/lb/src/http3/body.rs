//! The body of a request, and that it is as long as its head says (RFC 9114, section 4.1.2).

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h3::error::StreamError;
use h3::server::RequestStream;
use hyper::body::{Frame, SizeHint};

use super::transport::Receiving;

/// What a client sends behind the head of its request.
pub struct Body {
    stream: RequestStream<Receiving, Bytes>,
    /// What its head says that is still to come.
    left: Option<u64>,
    at: At,
    /// What came first, if that was looked at before anybody asked.
    first: Option<io::Result<Frame<Bytes>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Data,
    Trailer,
    End,
}

impl Body {
    pub(super) fn new(stream: RequestStream<Receiving, Bytes>, length: Option<u64>) -> Self {
        Self { stream, left: length, at: At::Data, first: None }
    }

    /// Waits until something of it has come, or its end. What is wrong with it is told who asks for it then.
    pub(super) fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.first.is_none() {
            self.first = ready!(self.poll_next(cx)).transpose();
        }
        Poll::Ready(())
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let piece = ready!(self.stream.poll_recv_data(cx)).map_err(broken)?;
        let Some(mut piece) = piece else { return Poll::Ready(Ok(None)) };
        let piece = piece.copy_to_bytes(piece.remaining());
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(piece.len() as u64).ok_or(io::ErrorKind::InvalidData)?;
        }
        Poll::Ready(Ok(Some(piece)))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Frame<Bytes>>>> {
        let next = ready!(self.poll_next_unless_broken(cx));
        if next.is_err() {
            // Nothing is asked of the stream any more.
            self.at = At::End;
        }
        Poll::Ready(next)
    }

    fn poll_next_unless_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Frame<Bytes>>>> {
        if self.at == At::Data {
            if let Some(piece) = ready!(self.poll_piece(cx))? {
                return Poll::Ready(Ok(Some(Frame::data(piece))));
            }
            self.at = At::Trailer;
        }
        if self.at == At::Trailer {
            let trailer = ready!(self.stream.poll_recv_trailers(cx)).map_err(broken)?;
            self.at = At::End;
            if self.left.unwrap_or(0) > 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            return Poll::Ready(Ok(trailer.map(Frame::trailers)));
        }
        Poll::Ready(Ok(None))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        Poll::Ready(ready!(self.poll_next(cx)).transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.at == At::End && self.first.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().and_then(|first| first.as_ref().ok()?.data_ref());
        let first = first.map_or(0, Bytes::len) as u64;
        match self.left {
            Some(left) => SizeHint::with_exact(left + first),
            None if self.at == At::End => SizeHint::with_exact(first),
            None => SizeHint::default(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("left", &self.left).field("at", &self.at).finish_non_exhaustive()
    }
}

fn broken(error: StreamError) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

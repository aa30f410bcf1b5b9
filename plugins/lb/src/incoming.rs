//! The body of a request as it comes in, over whatever HTTP the client speaks: the path of a request is one for all of them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::http3;

/// The body of a client's request.
#[derive(Debug)]
pub enum Incoming {
    /// Over HTTP/1.1 or HTTP/2.
    Hyper(hyper::body::Incoming),
    /// Over HTTP/3.
    Http3(Box<http3::body::Body>),
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Incoming::Hyper(body) => Pin::new(body).poll_frame(cx).map_err(io::Error::other),
            Incoming::Http3(body) => Pin::new(&mut **body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Incoming::Hyper(body) => body.is_end_stream(),
            Incoming::Http3(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Incoming::Hyper(body) => body.size_hint(),
            Incoming::Http3(body) => body.size_hint(),
        }
    }
}

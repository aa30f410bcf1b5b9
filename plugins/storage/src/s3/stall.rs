//! Bodies whose client stops sending: given up after a while, so that nobody can hold a request, and what it has in memory, for ever.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use s3s::StdError;
use tokio::time::{Instant, Sleep, sleep};

/// A client may be silent for so long in the middle of a body. Clients of S3 give up on servers after about as long.
pub const SILENT_WITHIN: Duration = Duration::from_secs(60);

/// By these words of an error it is known: errors of bodies lose their types on their way through s3s.
pub const STALLED: &str = "the client stopped sending";

/// A body that ends with an error where nothing comes for a while.
pub struct Paced<B> {
    inner: B,
    within: Duration,
    /// Until when something has to come, while it is waited for.
    until: Option<Pin<Box<Sleep>>>,
}

impl<B> Paced<B> {
    /// `inner`, in which nothing may be missing for longer than `within`.
    pub fn new(inner: B, within: Duration) -> Self {
        Self { inner, within, until: None }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Paced<B>
where
    B::Error: Into<StdError>,
{
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            self.until = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let within = self.within;
        let until = self.until.get_or_insert_with(|| Box::pin(sleep(within)));
        if until.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        until.as_mut().reset(Instant::now() + within);
        Poll::Ready(Some(Err(STALLED.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    #[tokio::test]
    async fn a_body_goes_on_while_something_comes_and_ends_where_nothing_does() {
        let pieces = futures::stream::iter(["a", "b"]).map(|piece| Ok::<_, StdError>(Frame::data(Bytes::from(piece))));
        let body = StreamBody::new(pieces.chain(futures::stream::pending()));
        let mut paced = Paced::new(body, Duration::from_millis(1));
        for piece in ["a", "b"] {
            let frame = paced.frame().await.expect("it goes on").expect("it came");
            assert_eq!(frame.into_data().ok().as_deref(), Some(piece.as_bytes()));
        }
        let ended = paced.frame().await.expect("it says so");
        assert_eq!(ended.err().map(|why| why.to_string()).as_deref(), Some(STALLED));
    }
}

//! A body that comes in, and those who read it meanwhile.
//!
//! It is taken from its instance as fast as that sends it, and each client reads what has come so far at its own pace. Memory for it is
//! reserved before: for all of it where its length is known, else piece by piece. Where there is no more to be had, or the body is too
//! long to be kept, it goes to disk on its way, and those who are behind read it there; else the rest is handed to the client that asked for it, who reads it from the instance at its own pace; there is no
//! other one then.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use hirsel_role::host::scratch::Scrap;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};

use crate::budget::Reserved;
use crate::stream::AnswerBody;

/// A body that comes in.
#[derive(Default)]
pub struct Filling(Mutex<State>);

#[derive(Default)]
struct State {
    /// What has come, each piece with where it begins.
    pieces: Vec<(u64, Bytes)>,
    /// How much that is.
    bytes: u64,
    end: Option<End>,
    waiting: Vec<Waker>,
    reserved: Option<Reserved>,
    /// What came first is read there, up to this.
    written: Option<(Arc<dyn Scrap>, u64)>,
}

enum End {
    /// That is all, and maybe fields behind it.
    Whole(Option<HeaderMap>),
    /// It broke off.
    Broken(io::ErrorKind),
    /// Whoever asked for it reads on from here.
    Rest(Option<Box<AnswerBody>>),
}

impl Filling {
    /// Nothing has come; `reserved` is what is reserved for it.
    pub fn new(reserved: Reserved) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { reserved: Some(reserved), ..State::default() })))
    }

    /// A piece has come. `reserve` makes room for it; if there is none it is passed on all the same, and false is said.
    pub fn push(&self, bytes: &Bytes, reserve: impl FnOnce(&mut Reserved) -> bool) -> bool {
        let mut state = self.state();
        let has_room = state.reserved.as_mut().is_some_and(reserve);
        if !bytes.is_empty() {
            // A copy of its own: the piece may hold on to a buffer much larger than itself.
            let (start, piece) = (state.bytes, Bytes::copy_from_slice(bytes));
            state.bytes += piece.len() as u64;
            state.pieces.push((start, piece));
        }
        state.wake();
        has_room
    }

    /// What has come so far, as far as it is in memory.
    pub fn so_far(&self) -> Vec<Bytes> {
        self.state().pieces.iter().map(|(_, piece)| piece.clone()).collect()
    }

    /// What came first is on disk, up to here: memory lets go of it.
    pub fn is_written(&self, file: &Arc<dyn Scrap>, until: u64) {
        let mut state = self.state();
        if until > 0 {
            state.written = Some((file.clone(), until));
            state.pieces.retain(|(start, piece)| start + piece.len() as u64 > until);
        }
    }

    /// All of it has come: what is reserved for it, and the whole of it.
    pub fn take(&self) -> Option<(Reserved, Vec<u8>)> {
        let mut state = self.state();
        let mut whole = Vec::with_capacity(usize::try_from(state.bytes).unwrap_or(0));
        state.pieces.iter().for_each(|(_, piece)| whole.extend_from_slice(piece));
        Some((state.reserved.take()?, whole))
    }

    /// Ends it well. `whole` is the same as all pieces, which are let go of.
    pub fn finish(&self, whole: Option<Bytes>, trailer: Option<HeaderMap>) {
        let mut state = self.state();
        if let Some(whole) = whole {
            state.pieces = vec![(0, whole)];
        }
        state.end = Some(End::Whole(trailer));
        state.wake();
    }

    /// It broke off.
    pub fn break_off(&self, error: &io::Error) {
        let mut state = self.state();
        state.end.get_or_insert(End::Broken(error.kind()));
        state.wake();
    }

    /// Whoever asked for it reads the rest.
    pub fn hand_over(&self, rest: AnswerBody) {
        let mut state = self.state();
        state.end = Some(End::Rest(Some(Box::new(rest))));
        state.wake();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }
}

/// One who reads a body that comes in.
pub struct Reader {
    filling: Arc<Filling>,
    /// How much was read.
    at: u64,
    length: Option<u64>,
    /// What is read behind it.
    rest: Option<Box<AnswerBody>>,
    /// What is read from disk.
    reading: Option<BoxFuture<'static, io::Result<Vec<u8>>>>,
    /// It asked for it.
    owns: bool,
    is_over: bool,
}

impl Reader {
    /// The one who asked for it. `length` is that of the whole, if it is known.
    pub fn first(filling: Arc<Filling>, length: Option<u64>) -> Self {
        Self { filling, at: 0, length, rest: None, reading: None, owns: true, is_over: length == Some(0) }
    }

    /// One who came later.
    pub fn later(filling: Arc<Filling>, length: u64) -> Self {
        Self { owns: false, ..Self::first(filling, Some(length)) }
    }

    /// Whether there is nothing more to be read.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// How much there is still to be read.
    pub fn left(&self) -> SizeHint {
        match (self.is_over, self.length) {
            (true, _) => SizeHint::with_exact(0),
            (false, Some(length)) => SizeHint::with_exact(length.saturating_sub(self.at)),
            (false, None) => SizeHint::default(),
        }
    }

    /// The next piece.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if let Some(rest) = &mut self.rest {
            let polled = Pin::new(rest).poll_frame(cx);
            self.is_over = matches!(polled, Poll::Ready(None | Some(Err(_))));
            return polled;
        }
        if let Some(reading) = &mut self.reading {
            let read = ready!(reading.poll_unpin(cx));
            self.reading = None;
            return match read {
                Ok(read) if !read.is_empty() => {
                    self.at += read.len() as u64;
                    self.is_over = self.length == Some(self.at);
                    Poll::Ready(Some(Ok(Frame::data(read.into()))))
                }
                read => {
                    self.is_over = true;
                    Poll::Ready(Some(Err(read.err().unwrap_or(io::ErrorKind::UnexpectedEof.into()))))
                }
            };
        }
        let mut state = self.filling.state();
        if let Some((file, until)) = &state.written
            && self.at < *until
        {
            let bytes = usize::try_from(until - self.at).unwrap_or(PIECE_BYTES_MAX).min(PIECE_BYTES_MAX);
            self.reading = Some(file.read(self.at, bytes));
            drop(state);
            return self.poll_frame(cx);
        }
        let found = state.pieces.partition_point(|(start, _)| *start <= self.at);
        if let Some((start, piece)) = found.checked_sub(1).and_then(|at| state.pieces.get(at))
            && let Ok(skip) = usize::try_from(self.at - start)
            && skip < piece.len()
        {
            // Once all of it has come it is one piece: it goes out in parts, so that nobody is held up by an encoder for long.
            let end = piece.len().min(skip + PIECE_BYTES_MAX);
            let piece = piece.slice(skip..end);
            self.at += piece.len() as u64;
            self.is_over = self.length == Some(self.at);
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match &mut state.end {
            None => {
                if !state.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                    state.waiting.push(cx.waker().clone());
                }
                Poll::Pending
            }
            Some(End::Rest(rest)) if self.owns => {
                self.rest = rest.take();
                drop(state);
                self.is_over = self.rest.is_none();
                self.poll_frame(cx)
            }
            Some(End::Whole(trailer)) => {
                let trailer = if self.owns { trailer.take() } else { None };
                self.is_over = true;
                Poll::Ready(trailer.map(|trailer| Ok(Frame::trailers(trailer))))
            }
            Some(End::Broken(kind)) => {
                self.is_over = true;
                Poll::Ready(Some(Err((*kind).into())))
            }
            Some(End::Rest(_)) => {
                self.is_over = true;
                Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())))
            }
        }
    }
}

/// Most that is passed on at once.
pub const PIECE_BYTES_MAX: usize = 64 * 1024;

impl fmt::Debug for Filling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filling").field("bytes", &self.state().bytes).finish_non_exhaustive()
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("at", &self.at).field("length", &self.length).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;
    use http_body_util::BodyExt;

    fn filling() -> Arc<Filling> {
        Filling::new(Budget::new(1_000).reserve(0).unwrap())
    }

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    async fn read(body: AnswerBody) -> io::Result<Bytes> {
        Ok(body.collect().await?.to_bytes())
    }

    #[tokio::test]
    async fn all_read_the_same_whenever_they_came() {
        let filling = filling();
        let first = tokio::spawn(read(AnswerBody::filling(Reader::first(filling.clone(), Some(6)))));
        assert!(filling.push(&bytes("abc"), |it| it.grow(3, 100)));
        let second = tokio::spawn(read(AnswerBody::filling(Reader::later(filling.clone(), 6))));
        assert!(filling.push(&bytes("def"), |it| it.grow(3, 100)));
        let (reserved, whole) = filling.take().unwrap();
        assert_eq!((reserved.bytes(), &whole[..]), (6, &b"abcdef"[..]));
        filling.finish(Some(whole.into()), None);
        let third = read(AnswerBody::filling(Reader::later(filling, 6))).await.unwrap();
        assert_eq!(
            [first.await.unwrap().unwrap(), second.await.unwrap().unwrap(), third],
            [bytes("abcdef"), bytes("abcdef"), bytes("abcdef")]
        );
    }

    #[tokio::test]
    async fn one_that_is_too_long_is_read_on_by_whoever_asked_for_it() {
        let filling = filling();
        let first = tokio::spawn(read(AnswerBody::filling(Reader::first(filling.clone(), None))));
        assert!(!filling.push(&bytes("abc"), |it| it.grow(3, 2)));
        filling.hand_over(AnswerBody::whole(bytes("def")));
        assert_eq!(first.await.unwrap().unwrap(), bytes("abcdef"));
        let late = read(AnswerBody::filling(Reader::later(filling, 6))).await;
        assert!(late.is_err());
    }

    #[tokio::test]
    async fn one_that_breaks_off_does_so_for_all() {
        let filling = filling();
        let first = tokio::spawn(read(AnswerBody::filling(Reader::first(filling.clone(), Some(6)))));
        filling.push(&bytes("abc"), |_| true);
        filling.break_off(&io::ErrorKind::ConnectionReset.into());
        assert!(first.await.unwrap().is_err());
        assert!(read(AnswerBody::filling(Reader::later(filling, 6))).await.is_err());
    }
}

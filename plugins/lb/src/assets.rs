//! Objects of a bucket as answers: which object a path is, what is said with it, and its body on the way (RFC 9110, sections 13 and 14).
//!
//! An object is asked for by GET and HEAD, and nothing else: no list of what there is, and nothing is written. Which objects a client may
//! have the route says, and what it asks of its clients.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::StreamExt;
use hirsel_role::assets::Asset;
use hirsel_role::storage::Pieces;
use http::header::{ACCEPT_RANGES, CONTENT_TYPE, ETAG, HeaderName, IF_MATCH, IF_UNMODIFIED_SINCE, LAST_MODIFIED};
use http::{HeaderMap, HeaderValue};
use hyper::body::{Frame, SizeHint};

use crate::budget::Reserved;
use crate::cache::dates;
use crate::cache::directives::Members;
use crate::cache::filling::PIECE_BYTES_MAX;

/// What an object is that says nothing of itself.
const UNKNOWN_TYPE: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// The key of the object that a path is, with `index` behind one that ends with a slash; none of a path that is no object.
pub fn key(path: &str, index: Option<&str>) -> Option<String> {
    let mut key = decoded(path.strip_prefix('/').unwrap_or(path))?;
    if key.is_empty() || key.ends_with('/') {
        key.push_str(index?);
    }
    Some(key)
}

/// The key of the index of what `path` names without a slash at its end, and where its client is led if that is there: relative to where
/// it asked, whatever the route made of its path.
pub fn folder(path: &str, index: Option<&str>) -> Option<(String, HeaderValue)> {
    if path.ends_with('/') {
        return None;
    }
    let last = path.rsplit('/').next()?;
    // "./", for the last segment may hold what ends a scheme.
    let location = HeaderValue::try_from(format!("./{last}/")).ok()?;
    Some((key(&format!("{path}/"), Some(index?))?, location))
}

/// What the path of a request says, without its escapes; none of what is no text.
fn decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digit = |at: usize| char::from(*after.get(at)?).to_digit(16);
        bytes.push(u8::try_from(digit(0)? * 16 + digit(1)?).ok()?);
        rest = after.get(2..)?;
    }
    String::from_utf8(bytes).ok()
}

/// What is said with an object.
pub fn headers(asset: &Asset) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &asset.headers {
        // What a header cannot hold is not said.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
    headers.entry(CONTENT_TYPE).or_insert(UNKNOWN_TYPE);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.extend(HeaderValue::try_from(format!("\"{}\"", asset.etag)).ok().map(|tag| (ETAG, tag)));
    headers.extend(dates::written(asset.changed).map(|at| (LAST_MODIFIED, at)));
    headers
}

/// Whether a client asks for what is there only if it is another one than this (sections 13.1.1 and 13.1.4).
pub fn is_refused(asked: &HeaderMap, headers: &HeaderMap) -> bool {
    if asked.contains_key(IF_MATCH) {
        let mut tags = asked.get_all(IF_MATCH).iter().flat_map(Members::of);
        let own = headers.get(ETAG).map(HeaderValue::as_bytes);
        return !tags.any(|tag| tag == b"*" || Some(tag) == own);
    }
    match (dates::said(asked, &IF_UNMODIFIED_SINCE), dates::said(headers, &LAST_MODIFIED)) {
        (Some(since), Some(changed)) => changed > since,
        _ => false,
    }
}

/// An object on its way to a client.
pub struct Given {
    /// Locked by nobody but who has it: what is read may be moved between threads, not shared by them.
    pieces: Mutex<Pieces>,
    piece: Bytes,
    left: u64,
    /// What of it may be in memory.
    _reserved: Reserved,
}

impl Given {
    /// So many bytes, of which `reserved` may be in memory.
    pub fn new(pieces: Pieces, bytes: u64, reserved: Reserved) -> Self {
        Self { pieces: Mutex::new(pieces), piece: Bytes::new(), left: bytes, _reserved: reserved }
    }

    /// The next bytes.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        while self.piece.is_empty() {
            let pieces = self.pieces.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
            self.piece = match ready!(Pin::new(pieces).poll_next_unpin(cx)) {
                Some(Ok(piece)) => piece,
                Some(Err(words)) => return Poll::Ready(Some(Err(self.broken(io::Error::other(words))))),
                None => return Poll::Ready(Some(Err(self.broken(io::ErrorKind::UnexpectedEof.into())))),
            };
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let piece = self.piece.split_to(self.piece.len().min(PIECE_BYTES_MAX).min(most));
        self.left -= piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    /// It ends before its end.
    fn broken(&mut self, error: io::Error) -> io::Error {
        self.left = 0;
        self.pieces = Mutex::new(Box::pin(futures::stream::empty()));
        error
    }

    /// Whether all of it is on its way.
    pub fn is_over(&self) -> bool {
        self.left == 0
    }

    /// How much is to come.
    pub fn left(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Given").field("left", &self.left).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use hirsel_model::WallTime;

    use super::*;
    use crate::budget::Budget;

    #[test]
    fn a_path_is_the_key_of_an_object_and_an_index_stands_behind_a_slash() {
        let index = Some("index.html");
        for (path, of) in [
            ("/", Some("index.html")),
            ("/a.css", Some("a.css")),
            ("/docs/", Some("docs/index.html")),
            ("/a%20b/%C3%A4+c", Some("a b/ä+c")),
            ("/%2F", Some("/index.html")),
            ("/a%", None),
            ("/a%4", None),
            ("/a%zz", None),
            ("/%FF", None),
        ] {
            assert_eq!(key(path, index).as_deref(), of, "{path}");
        }
        assert_eq!((key("/", None), key("/docs/", None)), (None, None));
        assert_eq!(key("/docs", None).as_deref(), Some("docs"));
    }

    #[test]
    fn whoever_leaves_out_the_slash_of_a_folder_is_led_to_it() {
        let (key, location) = folder("/a/my%20docs", Some("index.html")).unwrap();
        assert_eq!((key.as_str(), location.to_str().unwrap()), ("a/my docs/index.html", "./my%20docs/"));
        assert_eq!(folder("/a/docs/", Some("index.html")), None);
        assert_eq!(folder("/a/docs", None), None);
    }

    fn asset() -> Asset {
        let told = [("cache-control", "max-age=60"), ("content-type", "text/css"), ("x", "a\nb")];
        Asset {
            bytes: 3,
            etag: "abc-1".into(),
            changed: WallTime(784_111_777_000),
            headers: told.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            open: Box::new(|_| Box::pin(futures::stream::empty())),
        }
    }

    #[test]
    fn what_is_said_with_an_object_is_what_was_said_of_it_and_what_tells_it_from_others() {
        let said = headers(&asset());
        let of = |name: &str| said.get(name).and_then(|value| value.to_str().ok());
        assert_eq!((of("etag"), of("last-modified")), (Some("\"abc-1\""), Some("Sun, 06 Nov 1994 08:49:37 GMT")));
        assert_eq!((of("content-type"), of("cache-control"), of("x")), (Some("text/css"), Some("max-age=60"), None));
        let bare = headers(&Asset { headers: Default::default(), ..asset() });
        assert_eq!(bare["content-type"], "application/octet-stream");
    }

    #[test]
    fn who_wants_another_one_is_refused() {
        let said = headers(&asset());
        let asked =
            |name: HeaderName, value: &str| [(name, HeaderValue::try_from(value).unwrap())].into_iter().collect();
        for (name, value, refused) in [
            (IF_MATCH, "\"abc-1\"", false),
            (IF_MATCH, "\"x\", \"abc-1\"", false),
            (IF_MATCH, "*", false),
            (IF_MATCH, "\"x\"", true),
            (IF_MATCH, "W/\"abc-1\"", true),
            (IF_UNMODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:37 GMT", false),
            (IF_UNMODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:36 GMT", true),
            (IF_UNMODIFIED_SINCE, "yesterday", false),
        ] {
            assert_eq!(is_refused(&asked(name.clone(), value), &said), refused, "{name}: {value}");
        }
    }

    fn given(pieces: Vec<Result<Bytes, String>>, bytes: u64) -> (Vec<usize>, Option<io::Error>) {
        let reserved = Budget::new(10).reserve(10).unwrap();
        let mut given = Given::new(Box::pin(futures::stream::iter(pieces)), bytes, reserved);
        let (mut came, mut cx) = (Vec::new(), Context::from_waker(futures::task::noop_waker_ref()));
        loop {
            match given.poll_frame(&mut cx) {
                Poll::Ready(Some(Ok(frame))) => came.push(frame.into_data().unwrap().len()),
                Poll::Ready(Some(Err(error))) => {
                    assert!(given.is_over());
                    return (came, Some(error));
                }
                Poll::Ready(None) | Poll::Pending => return (came, None),
            }
        }
    }

    #[test]
    fn a_body_goes_out_in_small_pieces_and_breaks_off_where_it_ends_too_early() {
        let piece = |bytes: usize| Ok(Bytes::from(vec![0; bytes]));
        let (came, error) = given(vec![piece(PIECE_BYTES_MAX + 1), piece(0), piece(2)], PIECE_BYTES_MAX as u64 + 3);
        assert!(error.is_none() && came == [PIECE_BYTES_MAX, 1, 2], "{came:?} {error:?}");
        let (came, error) = given(vec![piece(2)], 3);
        assert_eq!((came, error.map(|error| error.kind())), (vec![2], Some(io::ErrorKind::UnexpectedEof)));
        let (came, error) = given(vec![piece(2), Err("gone".into())], 3);
        assert_eq!((came, error.map(|error| error.to_string())), (vec![2], Some("gone".into())));
        let (came, error) = given(vec![piece(5)], 3);
        assert!(error.is_none() && came == [3]);
    }
}

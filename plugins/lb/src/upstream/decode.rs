//! What an instance answers: heads, and bodies by the way in which they end (RFC 9112, sections 4 to 7).
//!
//! Strict where two readers could see two things: a length is digits and said in one way, chunks are the one transfer coding, and their
//! lines end with CRLF. Whatever else comes is garbled, and nothing of it reaches a client. Pure: told the bytes that have come so far.

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use httparse::{Header, ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use crate::trailers;

/// Header fields of one head, or of one trailer.
const FIELDS_MAX: usize = 100;

/// The extensions of all chunks of a body, and its trailer: nobody has a use for more.
const ASIDE_BYTES_MAX: usize = 16 * 1024;

/// No chunk is longer than sixteen hexadecimal digits can say.
const SIZE_DIGITS_MAX: usize = 16;

/// What came is no HTTP/1 answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Garbled;

/// The head of an answer.
#[derive(Debug)]
pub struct Head {
    /// Status and header fields.
    pub response: Response<()>,
    /// What follows it.
    pub body: Body,
    /// Whether the instance wants to keep the connection.
    pub keeps: bool,
}

/// The body of an answer, as far as it is still to come.
#[derive(Debug, PartialEq, Eq)]
pub enum Body {
    /// Nothing more.
    End,
    /// So many bytes, at least one.
    Length(u64),
    /// Chunks.
    Chunked(Chunks),
    /// Until the instance closes the connection.
    UntilClosed,
}

/// A place in a body in chunks.
#[derive(Debug, PartialEq, Eq)]
pub struct Chunks {
    at: At,
    /// Bytes of extensions so far.
    aside: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// In the line that says how long the next chunk is: its digits so far.
    Size { digits: usize, size: u64 },
    /// Behind the digits: in an extension, which nobody reads.
    Extension { size: u64 },
    /// At the line feed of that line.
    SizeEnd { size: u64 },
    /// So many bytes of data are to come.
    Data { left: u64 },
    /// Behind the data, before its carriage return, or between that and the line feed.
    DataEnd { line_feed: bool },
    /// Behind the last chunk.
    Trailer,
}

/// A piece of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Some of its bytes, at least one.
    Data(Bytes),
    /// What comes behind a body in chunks, as far as it has a place there.
    Trailer(HeaderMap),
    /// It has come to its end.
    End,
    /// More has to be read first.
    More,
}

/// Takes the head of the answer to a `method` request from the front of what was read; none if it is not all there.
///
/// # Errors
/// If this is no head.
pub fn head(read: &mut BytesMut, method: &Method) -> Result<Option<Head>, Garbled> {
    if read.is_empty() {
        return Ok(None);
    }
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let parsing = ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, read, &mut fields);
    let Status::Complete(length) = parsing.map_err(|_| Garbled)? else { return Ok(None) };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Garbled)?;
    let old = parsed.version == Some(0);
    let reason = parsed.reason.filter(|reason| !reason.is_empty() && Some(*reason) != status.canonical_reason());
    let reason = reason.and_then(|reason| ReasonPhrase::try_from(reason.as_bytes()).ok());
    let places = Places::of(parsed.headers, read);
    let bytes = read.split_to(length).freeze();
    let mut headers = places.fields(&bytes)?;
    let (body, framed_once) = body_of(method, status, old, &mut headers)?;
    let keeps = framed_once && body != Body::UntilClosed && keeps(old, &headers);
    let mut response = Response::new(());
    *response.status_mut() = status;
    // As a client is answered, whatever the instance speaks.
    *response.version_mut() = Version::HTTP_11;
    *response.headers_mut() = headers;
    if let Some(reason) = reason {
        response.extensions_mut().insert(reason);
    }
    Ok(Some(Head { response, body, keeps }))
}

/// Where the fields of a head are among its bytes.
struct Places {
    fields: [(u32, u32, u32, u32); FIELDS_MAX],
    count: usize,
}

impl Places {
    fn of(parsed: &[Header<'_>], bytes: &[u8]) -> Self {
        let begin = bytes.as_ptr().addr();
        let at = |part: &[u8]| part.as_ptr().addr().wrapping_sub(begin) as u32;
        let mut places = Self { fields: [(0, 0, 0, 0); FIELDS_MAX], count: parsed.len() };
        for (place, field) in places.fields.iter_mut().zip(parsed) {
            let (name, value) = (field.name.as_bytes(), field.value);
            *place = (at(name), name.len() as u32, at(value), value.len() as u32);
        }
        places
    }

    /// The fields, sharing `bytes`.
    fn fields(&self, bytes: &Bytes) -> Result<HeaderMap, Garbled> {
        let mut headers = HeaderMap::with_capacity(self.count);
        for (name, name_length, value, value_length) in &self.fields[..self.count] {
            let part = |at: u32, length: u32| at as usize..at as usize + length as usize;
            let name = bytes.get(part(*name, *name_length)).ok_or(Garbled)?;
            let name = HeaderName::from_bytes(name).map_err(|_| Garbled)?;
            let value = match value_length {
                // It may be nowhere.
                0 => Bytes::new(),
                length => bytes.slice(part(*value, *length)),
            };
            headers.append(name, HeaderValue::from_maybe_shared(value).map_err(|_| Garbled)?);
        }
        Ok(headers)
    }
}

/// How the body of an answer ends (RFC 9112, section 6.3), and whether that is said in one way only.
fn body_of(method: &Method, status: StatusCode, old: bool, headers: &mut HeaderMap) -> Result<(Body, bool), Garbled> {
    let length = length(headers)?;
    let coded = headers.contains_key(TRANSFER_ENCODING);
    let bodyless = status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if bodyless || *method == Method::HEAD {
        return Ok((Body::End, !(coded && length.is_some())));
    }
    if coded {
        let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
        let chunked = codings.next().is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if !chunked || codings.next().is_some() || old {
            return Err(Garbled);
        }
        // Where both are there, it is not the length that counts, and somebody may be confused.
        headers.remove(CONTENT_LENGTH);
        return Ok((Body::Chunked(Chunks::default()), length.is_none()));
    }
    Ok(match length {
        Some(0) => (Body::End, true),
        Some(bytes) => (Body::Length(bytes), true),
        None => (Body::UntilClosed, true),
    })
}

/// The length that header fields say. Said twice alike it counts, and is passed on once.
///
/// # Errors
/// If they say two, or none that is one.
pub fn length(headers: &mut HeaderMap) -> Result<Option<u64>, Garbled> {
    let mut said: Option<u64> = None;
    let mut times = 0;
    for line in headers.get_all(CONTENT_LENGTH) {
        for one in line.as_bytes().split(|byte| *byte == b',') {
            let one = one.trim_ascii();
            if one.is_empty() || !one.iter().all(u8::is_ascii_digit) {
                return Err(Garbled);
            }
            let bytes = std::str::from_utf8(one).ok().and_then(|text| text.parse().ok()).ok_or(Garbled)?;
            if said.replace(bytes).is_some_and(|before| before != bytes) {
                return Err(Garbled);
            }
            times += 1;
        }
    }
    if let (Some(bytes), 2..) = (said, times) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
    }
    Ok(said)
}

/// Whether the connection is kept (RFC 9112, section 9.3).
fn keeps(old: bool, headers: &HeaderMap) -> bool {
    let says = |what: &[u8]| {
        let lines = headers.get_all(CONNECTION).iter();
        lines
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
            .any(|one| one.trim_ascii().eq_ignore_ascii_case(what))
    };
    if old { says(b"keep-alive") && !says(b"close") } else { !says(b"close") }
}

impl Body {
    /// How many bytes are still to come, if that is known.
    pub fn left(&self) -> Option<u64> {
        match self {
            Body::End => Some(0),
            Body::Length(left) => Some(*left),
            Body::Chunked(_) | Body::UntilClosed => None,
        }
    }

    /// Takes the next piece from the front of what was read. `closed`: the instance has closed the connection, and no more comes.
    ///
    /// # Errors
    /// If this is no body, or it broke off.
    pub fn take(&mut self, read: &mut BytesMut, closed: bool) -> Result<Piece, Garbled> {
        let piece = match self {
            Body::End => return Ok(Piece::End),
            Body::Length(left) if !read.is_empty() => {
                let data = data(read, *left);
                *left -= data.len() as u64;
                if *left == 0 {
                    *self = Body::End;
                }
                return Ok(Piece::Data(data));
            }
            Body::Length(_) => Piece::More,
            Body::UntilClosed if !read.is_empty() => return Ok(Piece::Data(read.split().freeze())),
            Body::UntilClosed if closed => Piece::End,
            Body::UntilClosed => Piece::More,
            Body::Chunked(chunks) => chunks.take(read)?,
        };
        match piece {
            Piece::More if closed => return Err(Garbled),
            Piece::End | Piece::Trailer(_) => *self = Body::End,
            Piece::More | Piece::Data(_) => {}
        }
        Ok(piece)
    }
}

impl Default for Chunks {
    fn default() -> Self {
        Self { at: At::Size { digits: 0, size: 0 }, aside: 0 }
    }
}

impl Chunks {
    fn take(&mut self, read: &mut BytesMut) -> Result<Piece, Garbled> {
        loop {
            if let At::Trailer = self.at {
                return trailer(read);
            }
            let Some(&byte) = read.first() else { return Ok(Piece::More) };
            if let At::Data { left } = self.at {
                let data = data(read, left);
                let left = left - data.len() as u64;
                self.at = if left == 0 { At::DataEnd { line_feed: false } } else { At::Data { left } };
                return Ok(Piece::Data(data));
            }
            read.advance(1);
            self.at = self.after(byte)?;
        }
    }

    /// Where one byte of what is around the data leads.
    fn after(&mut self, byte: u8) -> Result<At, Garbled> {
        Ok(match (self.at, byte) {
            (At::Size { digits, size }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < SIZE_DIGITS_MAX => {
                let digit = (byte as char).to_digit(16).ok_or(Garbled)?;
                At::Size { digits: digits + 1, size: size << 4 | u64::from(digit) }
            }
            (At::Size { digits: 1.., size }, b'\r') => At::SizeEnd { size },
            (At::Size { digits: 1.., size }, b';' | b' ' | b'\t') => At::Extension { size },
            (At::Extension { size }, b'\r') => At::SizeEnd { size },
            (At::Extension { size }, byte) if byte != b'\n' => {
                self.aside += 1;
                if self.aside > ASIDE_BYTES_MAX {
                    return Err(Garbled);
                }
                At::Extension { size }
            }
            (At::SizeEnd { size: 0 }, b'\n') => At::Trailer,
            (At::SizeEnd { size }, b'\n') => At::Data { left: size },
            (At::DataEnd { line_feed: false }, b'\r') => At::DataEnd { line_feed: true },
            (At::DataEnd { line_feed: true }, b'\n') => At::Size { digits: 0, size: 0 },
            _ => return Err(Garbled),
        })
    }
}

/// At most `left` bytes of what was read.
fn data(read: &mut BytesMut, left: u64) -> Bytes {
    let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(read.len());
    read.split_to(bytes).freeze()
}

/// The trailer of a body in chunks, which an empty line ends.
fn trailer(read: &mut BytesMut) -> Result<Piece, Garbled> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let parsed = httparse::parse_headers(read, &mut fields).map_err(|_| Garbled)?;
    let Status::Complete((length, fields)) = parsed else {
        return if read.len() > ASIDE_BYTES_MAX { Err(Garbled) } else { Ok(Piece::More) };
    };
    let places = Places::of(fields, read);
    let bytes = read.split_to(length).freeze();
    let mut fields = places.fields(&bytes)?;
    trailers::prune(&mut fields);
    Ok(if fields.is_empty() { Piece::End } else { Piece::Trailer(fields) })
}

#[cfg(test)]
mod tests;

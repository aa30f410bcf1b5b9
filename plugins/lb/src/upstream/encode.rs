//! The head of a request as it goes to an instance (RFC 9112, sections 2 to 6).

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, Method};

/// How an instance learns where the body of a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// After so many bytes.
    Length(u64),
    /// In chunks: how long it will be is not known.
    Chunked,
}

/// What ends a body in chunks.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Appends the head of a request. Where its body ends is said by `framing` alone, whatever its header fields say.
pub fn head(parts: &Parts, framing: Framing, out: &mut Vec<u8>) {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    put(out, &[parts.method.as_str().as_bytes(), b" "]);
    // OPTIONS of the server as a whole (RFC 9112, section 3.2.4), and a query whose path is left out.
    if !path.starts_with('/') && path != "*" {
        out.push(b'/');
    }
    put(out, &[path.as_bytes(), b" HTTP/1.1\r\n"]);
    for (name, value) in &parts.headers {
        if name != CONTENT_LENGTH && name != TRANSFER_ENCODING {
            put(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
        }
    }
    match framing {
        Framing::Empty if says_that_it_is_empty(&parts.method, &parts.headers) => {
            out.extend_from_slice(b"content-length: 0\r\n")
        }
        Framing::Empty => {}
        Framing::Length(bytes) => put(out, &[b"content-length: ", bytes.to_string().as_bytes(), b"\r\n"]),
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends what goes before so many bytes of a body in chunks.
pub fn chunk_of(bytes: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{bytes:x}\r\n").as_bytes());
}

/// Appends what ends a body in chunks that has fields behind it.
pub fn last_chunk_with(trailer: &HeaderMap, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailer {
        put(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
    }
    out.extend_from_slice(b"\r\n");
}

/// Methods that usually have a body say so when they have none (RFC 9110, section 8.6).
fn says_that_it_is_empty(method: &Method, headers: &HeaderMap) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH) || headers.contains_key(CONTENT_LENGTH)
}

fn put(out: &mut Vec<u8>, pieces: &[&[u8]]) {
    pieces.iter().for_each(|piece| out.extend_from_slice(piece));
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn encoded(method: &str, uri: &str, lines: &[(&str, &str)], framing: Framing) -> String {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let mut out = Vec::new();
        head(&request.body(()).unwrap().into_parts().0, framing, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_head_is_told_line_by_line() {
        let told = encoded("GET", "/a?b=1", &[("host", "shop"), ("x", "1"), ("x", "2")], Framing::Empty);
        assert_eq!(told, "GET /a?b=1 HTTP/1.1\r\nhost: shop\r\nx: 1\r\nx: 2\r\n\r\n");
        assert_eq!(encoded("OPTIONS", "*", &[], Framing::Empty), "OPTIONS * HTTP/1.1\r\n\r\n");
        assert_eq!(encoded("GET", "http://a", &[], Framing::Empty), "GET / HTTP/1.1\r\n\r\n");
        assert_eq!(encoded("GET", "http://a?q", &[], Framing::Empty), "GET /?q HTTP/1.1\r\n\r\n");
    }

    #[test]
    fn where_a_body_ends_is_said_once_and_not_by_the_client() {
        let lines = [("content-length", "7"), ("content-length", "9"), ("transfer-encoding", "gzip")];
        let said = |framing| encoded("POST", "/", &lines, framing);
        assert_eq!(said(Framing::Length(3)), "POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\n");
        assert_eq!(said(Framing::Chunked), "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n");
        assert_eq!(said(Framing::Empty), "POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(encoded("DELETE", "/", &lines, Framing::Empty), "DELETE / HTTP/1.1\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(encoded("DELETE", "/", &[], Framing::Empty), "DELETE / HTTP/1.1\r\n\r\n");
    }

    #[test]
    fn a_chunk_says_its_size_in_hexadecimal() {
        let mut out = Vec::new();
        chunk_of(255, &mut out);
        assert_eq!(out, b"ff\r\n");
    }

    #[test]
    fn fields_come_behind_the_last_chunk() {
        let mut trailer = HeaderMap::new();
        trailer.append("x-sum", "7".parse().unwrap());
        trailer.append("x-sum", "8".parse().unwrap());
        let mut out = Vec::new();
        last_chunk_with(&trailer, &mut out);
        assert_eq!(out, b"0\r\nx-sum: 7\r\nx-sum: 8\r\n\r\n");
    }
}

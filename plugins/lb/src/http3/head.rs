//! What the head of a request must not say (RFC 9114, sections 4.1.2, 4.2 and 4.3.1), as far as the library lets it pass. Pure.

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Method, Request};

/// Fields that speak of a connection of HTTP/1.1.
const OF_A_CONNECTION: [HeaderName; 5] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// It is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// How long the body of a request is, if its head says so.
///
/// # Errors
/// If the head is malformed.
pub fn length<B>(request: &Request<B>) -> Result<Option<u64>, Malformed> {
    let headers = request.headers();
    if OF_A_CONNECTION.iter().any(|name| headers.contains_key(name)) {
        return Err(Malformed);
    }
    if headers.get_all(TE).iter().any(|value| value != "trailers") {
        return Err(Malformed);
    }
    let path = request.uri().path_and_query().map(|path| path.as_str());
    let is_path = match path {
        // It is answered that this is not offered.
        _ if request.method() == Method::CONNECT => true,
        Some("*") => request.method() == Method::OPTIONS,
        Some(path) => path.starts_with('/'),
        None => false,
    };
    if is_path { content_length(headers) } else { Err(Malformed) }
}

fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut lines = headers.get_all(CONTENT_LENGTH).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    let digits = line.as_bytes();
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    if lines.next().is_some() || !is_number {
        return Err(Malformed);
    }
    line.to_str().ok().and_then(|text| text.parse().ok()).map(Some).ok_or(Malformed)
}

/// Whether requests of this method mostly have no body, so that its end is waited for before it is taken for one.
pub fn is_mostly_without_body(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::DELETE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: &str, uri: &str, fields: &[(&str, &str)]) -> Result<Option<u64>, Malformed> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        length(&request.body(()).unwrap())
    }

    #[test]
    fn how_long_a_body_is_is_said_once_and_in_digits() {
        let said = |values: &[&str]| {
            read("POST", "https://a/", &values.iter().map(|value| ("content-length", *value)).collect::<Vec<_>>())
        };
        assert_eq!((said(&[]), said(&["0"]), said(&["17"])), (Ok(None), Ok(Some(0)), Ok(Some(17))));
        for bad in [&["1", "1"][..], &["1, 1"], &["+1"], &["-1"], &[""], &["0x1"], &["99999999999999999999999"]] {
            assert_eq!(said(bad), Err(Malformed), "{bad:?}");
        }
    }

    #[test]
    fn what_belongs_to_a_connection_of_http_1_is_malformed() {
        let fields = ["connection", "transfer-encoding", "upgrade", "keep-alive", "proxy-connection"];
        for field in fields {
            assert_eq!(read("GET", "https://a/", &[(field, "x")]), Err(Malformed), "{field}");
        }
        assert_eq!(read("GET", "https://a/", &[("te", "trailers")]), Ok(None));
        assert_eq!(read("GET", "https://a/", &[("te", "trailers"), ("te", "gzip")]), Err(Malformed));
    }

    #[test]
    fn a_target_is_a_path() {
        assert_eq!(read("GET", "https://a/x?y", &[]), Ok(None));
        assert_eq!(read("OPTIONS", "*", &[]), Ok(None));
        assert_eq!(read("GET", "*", &[]), Err(Malformed));
        assert_eq!(read("CONNECT", "a:443", &[]), Ok(None));
    }
}

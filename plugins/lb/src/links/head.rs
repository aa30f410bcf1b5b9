//! The head of a request as it goes to an instance in HTTP/2 (RFC 9113, sections 8.2 and 8.3), and of an answer as it comes. Pure.

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};

use crate::upstream::decode::{Garbled, length};

/// A request. `length` is that of its body, if it is known: what its header fields say of it does not count.
pub fn request(parts: &Parts, body_length: Option<u64>) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = parts.method.clone();
    let headers = request.headers_mut();
    headers.reserve(parts.headers.len());
    for (name, value) in &parts.headers {
        // These are for a connection of HTTP/1.1; what `Connection` names was taken out before.
        let of_connection = matches!(*name, CONNECTION | UPGRADE | TRANSFER_ENCODING | HOST | CONTENT_LENGTH);
        if !of_connection && (name != TE || value == "trailers") {
            headers.append(name, value.clone());
        }
    }
    if let Some(bytes) = body_length
        && (bytes > 0 || says_that_it_is_empty(&parts.method, &parts.headers))
    {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
    }
    match target(parts) {
        Some(uri) => {
            *request.uri_mut() = uri;
            *request.version_mut() = Version::HTTP_2;
        }
        // Whoever named no host, or one that is none: told as it is, which is allowed where HTTP/1.1 is translated (section 8.3.1).
        None => {
            *request.uri_mut() = path(parts).into();
            *request.version_mut() = Version::HTTP_11;
            if let Some(host) = parts.headers.get(HOST).filter(|host| !host.is_empty()) {
                request.headers_mut().insert(HOST, host.clone());
            }
        }
    }
    request
}

fn target(parts: &Parts) -> Option<Uri> {
    let authority = Authority::try_from(parts.headers.get(HOST)?.as_bytes()).ok()?;
    let mut target = http::uri::Parts::default();
    target.scheme = Some(Scheme::HTTP);
    target.authority = Some(authority);
    target.path_and_query = Some(path(parts));
    Uri::from_parts(target).ok()
}

fn path(parts: &Parts) -> PathAndQuery {
    let path = parts.uri.path_and_query();
    match path {
        Some(path) if path.as_str().starts_with('/') || path == "*" => path.clone(),
        // A query whose path is left out; shown, it has one.
        Some(path) => PathAndQuery::try_from(path.to_string()).unwrap_or(PathAndQuery::from_static("/")),
        None => PathAndQuery::from_static("/"),
    }
}

/// Methods that usually have a body say so when they have none (RFC 9110, section 8.6).
fn says_that_it_is_empty(method: &Method, headers: &HeaderMap) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH) || headers.contains_key(CONTENT_LENGTH)
}

/// Whether an answer has no body, whatever it says.
pub fn is_bodyless(asked: &Method, status: StatusCode) -> bool {
    asked == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// An answer as a client is answered, and the length that it says its body has.
///
/// # Errors
/// If it can be read in two ways, or is none that HTTP/2 knows.
pub fn answer<T>(answer: Response<T>) -> Result<(Response<()>, Option<u64>, T), Garbled> {
    let (mut head, body) = answer.into_parts();
    // There is nothing to switch to (section 8.6).
    if head.status.is_informational() {
        return Err(Garbled);
    }
    head.version = Version::HTTP_11;
    head.extensions.clear();
    let length = length(&mut head.headers)?;
    Ok((Response::from_parts(head, ()), length, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(method: &str, uri: &str, lines: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_head_is_told_without_what_belongs_to_a_connection() {
        let lines = [
            ("host", "shop:81"),
            ("te", "trailers"),
            ("connection", "te"),
            ("content-length", "7"),
            ("x-a", "1"),
            ("x-a", "2"),
        ];
        let told = request(&parts("POST", "/a?b=1", &lines), Some(3));
        assert_eq!(told.uri(), "http://shop:81/a?b=1");
        assert_eq!(told.version(), Version::HTTP_2);
        let mut names: Vec<_> = told.headers().iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap())).collect();
        names.sort();
        assert_eq!(names, ["content-length=3", "te=trailers", "x-a=1", "x-a=2"]);
        let upgrade = [("host", "a"), ("connection", "upgrade"), ("upgrade", "websocket"), ("te", "gzip")];
        assert!(request(&parts("GET", "/", &upgrade), Some(0)).headers().is_empty());
    }

    #[test]
    fn the_length_of_a_body_is_said_where_it_is_known() {
        let said = |method, length| {
            let told = request(&parts(method, "/", &[("host", "a"), ("content-length", "9")]), length);
            told.headers().get(CONTENT_LENGTH).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(said("POST", Some(3)).as_deref(), Some("3"));
        assert_eq!(said("POST", Some(0)).as_deref(), Some("0"));
        assert_eq!(said("POST", None), None);
        assert!(request(&parts("GET", "/", &[("host", "a")]), Some(0)).headers().is_empty());
    }

    #[test]
    fn whoever_named_no_host_is_told_so() {
        for lines in [&[("host", "")][..], &[]] {
            let told = request(&parts("GET", "/x", lines), Some(0));
            assert_eq!((told.uri().to_string().as_str(), told.headers().len()), ("/x", 0));
        }
        let told = request(&parts("OPTIONS", "*", &[("host", "a")]), Some(0));
        assert_eq!(told.uri().path(), "*");
        let told = request(&parts("GET", "http://a?q", &[("host", "a")]), Some(0));
        assert_eq!(told.uri().path_and_query().unwrap(), "/?q");
    }

    #[test]
    fn an_answer_that_can_be_read_in_two_ways_is_none() {
        let came = |lines: &[(&str, &str)]| {
            let mut built = Response::builder().version(Version::HTTP_2);
            for (name, value) in lines {
                built = built.header(*name, *value);
            }
            answer(built.body(()).unwrap()).map(|(head, length, ())| (head.version(), length))
        };
        assert_eq!(came(&[("content-length", "3")]), Ok((Version::HTTP_11, Some(3))));
        assert_eq!(came(&[("content-length", "3"), ("content-length", "3")]), Ok((Version::HTTP_11, Some(3))));
        assert_eq!(came(&[("content-length", "3"), ("content-length", "4")]), Err(Garbled));
        assert_eq!(came(&[]), Ok((Version::HTTP_11, None)));
        let switching = Response::builder().status(101).body(()).unwrap();
        assert!(answer(switching).is_err());
    }
}

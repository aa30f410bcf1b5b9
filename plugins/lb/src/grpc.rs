//! What the load balancer says by itself to whoever calls by gRPC: a status in the words of gRPC, where others are shown a page.
//!
//! By the mapping of statuses that gRPC has for proxies that know nothing of it ("HTTP to gRPC Status Code Mapping") and for resets
//! ("gRPC over HTTP2", errors), but for what is said more exactly: a time that is up is a deadline exceeded.

use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::pages::Said;
use crate::replay::Failure;
use crate::stream::AnswerBody;

const CALL: &str = "application/grpc";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Longest message, before it is encoded.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Statuses of gRPC that are said here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Code {
    /// The client gave the call up.
    Cancelled = 1,
    /// Nobody knows better.
    Unknown = 2,
    /// The time is up.
    DeadlineExceeded = 4,
    /// This client may not.
    PermissionDenied = 7,
    /// Too much was asked for.
    ResourceExhausted = 8,
    /// There is no such call here.
    Unimplemented = 12,
    /// Somebody broke the rules.
    Internal = 13,
    /// Nobody is there now; another try may find somebody.
    Unavailable = 14,
    /// This client has to say who it is.
    Unauthenticated = 16,
}

/// Whether the head of a request or an answer is that of a call. `application/grpc-web` is another protocol.
pub fn is_call(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE) else { return false };
    let Some(rest) = kind.as_bytes().strip_prefix(CALL.as_bytes()) else { return false };
    matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// The status of a page.
pub fn code(status: StatusCode) -> Code {
    match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        413 => Code::ResourceExhausted,
        429 | 502 | 503 => Code::Unavailable,
        504 => Code::DeadlineExceeded,
        _ => Code::Unknown,
    }
}

/// The status of a stream that was reset (RFC 9113, section 7).
pub fn code_of_reset(reason: u32) -> Code {
    match h2::Reason::from(reason) {
        h2::Reason::REFUSED_STREAM => Code::Unavailable,
        h2::Reason::CANCEL => Code::Cancelled,
        h2::Reason::ENHANCE_YOUR_CALM => Code::ResourceExhausted,
        h2::Reason::INADEQUATE_SECURITY => Code::PermissionDenied,
        _ => Code::Internal,
    }
}

/// What ends an answer whose instance failed.
pub fn trailer_of(failure: Failure) -> HeaderMap {
    let (code, message) = match failure {
        Failure::Reset(reason) => (code_of_reset(reason), "the instance broke off its answer"),
        Failure::TimedOut | Failure::Slow => (Code::DeadlineExceeded, "the answer stood still for too long"),
        Failure::ClientGone => (Code::Cancelled, "the request broke off"),
        Failure::Garbled => (Code::Internal, "the answer could not be understood"),
        Failure::NotWritten | Failure::Broken | Failure::Lost | Failure::Refused => {
            (Code::Unavailable, "the instance that answered went away")
        }
    };
    let mut fields = HeaderMap::with_capacity(2);
    say(&mut fields, code, message);
    fields
}

/// A page of our own as an answer to a call: its head is all of it. What an instance answered stays as it is.
pub fn spoken(mut answer: Response<AnswerBody>) -> Response<AnswerBody> {
    let Some(said) = answer.extensions_mut().remove::<Said>() else { return answer };
    let code = said.code.unwrap_or_else(|| code(answer.status()));
    *answer.status_mut() = StatusCode::OK;
    let headers = answer.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(CALL));
    say(headers, code, &said.text);
    answer.map(|_page| AnswerBody::whole(bytes::Bytes::new()))
}

fn say(fields: &mut HeaderMap, code: Code, message: &str) {
    fields.insert(GRPC_STATUS, HeaderValue::from(code as u16));
    fields.insert(GRPC_MESSAGE, encoded(message));
}

/// Percent-encoded, as messages are.
fn encoded(message: &str) -> HeaderValue {
    let mut out = String::with_capacity(message.len());
    for byte in message.bytes().take(MESSAGE_BYTES_MAX) {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    HeaderValue::try_from(out).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages;

    #[test]
    fn a_call_is_known_by_its_kind() {
        let known = |kind: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, kind.parse().unwrap());
            is_call(&headers)
        };
        assert!(known("application/grpc") && known("application/grpc+proto") && known("application/grpc;charset=x"));
        assert!(!known("application/grpc-web") && !known("application/json") && !is_call(&HeaderMap::new()));
    }

    #[test]
    fn a_page_becomes_a_status_with_its_words() {
        let spoken = |page| {
            let answer = spoken(page);
            assert_eq!(
                (answer.status(), &answer.headers()["content-type"]),
                (StatusCode::OK, &"application/grpc".parse().unwrap())
            );
            assert!(!answer.headers().contains_key("content-length"));
            answer.headers()["grpc-status"].to_str().unwrap().to_owned()
        };
        assert_eq!(spoken(pages::no_instance("shop/web")), "14");
        assert_eq!(spoken(pages::timed_out("shop/web")), "4");
        assert_eq!(spoken(pages::no_route("a", "/b")), "12");
        assert_eq!(spoken(pages::forbidden("no")), "7");
        assert_eq!(spoken(pages::reset("shop/web", 8)), "1");
        let answer = super::spoken(pages::bad_request("50 % of ü"));
        assert_eq!(answer.headers()["grpc-message"], "50 %25 of %C3%BC");
    }

    #[test]
    fn what_an_instance_answered_stays_as_it_is() {
        let answer = Response::builder().status(503).body(AnswerBody::whole("x".into())).unwrap();
        assert_eq!(spoken(answer).status(), 503);
    }
}

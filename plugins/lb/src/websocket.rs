//! WebSockets of clients that speak HTTP/2 (RFC 8441), to instances that speak HTTP/1.1 (RFC 6455).
//!
//! Such a client asks to be connected to a path; an instance is asked to change its connection, with a key that we draw, and its answer
//! is looked at in place of the client. To routes it is a GET, as it is in HTTP/1.1. Pure.

use data_encoding::BASE64;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use hyper::ext::Protocol;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::headers::prepare_answer;

const WEBSOCKET: &str = "websocket";

/// What a key is hashed with (RFC 6455, section 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A request that was translated, and what an instance that agrees has to say.
#[derive(Clone, Debug)]
pub struct Joined {
    accept: HeaderValue,
}

impl Joined {
    /// Whether the head of an answer agrees.
    pub fn agrees(&self, headers: &HeaderMap) -> bool {
        headers.get(SEC_WEBSOCKET_ACCEPT) == Some(&self.accept)
    }
}

/// Makes a request to be connected to a WebSocket one that an instance understands. False, with nothing changed, if it is none.
pub fn translate<B>(request: &mut Request<B>, draw: impl Fn() -> u64) -> bool {
    let wanted = |wanted: &Protocol| wanted.as_str() == WEBSOCKET;
    if *request.method() != Method::CONNECT || !request.extensions().get().is_some_and(wanted) {
        return false;
    }
    let nonce = [draw().to_be_bytes(), draw().to_be_bytes()].concat();
    let key = BASE64.encode(&nonce);
    let accept = accept(&key);
    let (Ok(key), Ok(accept)) = (HeaderValue::try_from(key), HeaderValue::try_from(accept)) else { return false };
    *request.method_mut() = Method::GET;
    let headers = request.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
    headers.insert(SEC_WEBSOCKET_KEY, key);
    headers.entry(SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
    request.extensions_mut().insert(Joined { accept });
    true
}

/// Makes the head of an answer that agrees one that the client understands.
pub fn join(head: &mut Parts) {
    prepare_answer(&mut head.headers, None);
    head.headers.remove(SEC_WEBSOCKET_ACCEPT);
    head.status = StatusCode::OK;
}

fn accept(key: &str) -> String {
    BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes()).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_answer_of_the_standard() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn who_asks_to_be_connected_to_a_websocket_asks_an_instance_for_a_change() {
        let mut request = Request::builder().method("CONNECT").uri("https://a/chat").body(()).unwrap();
        assert!(!translate(&mut request, || 7), "to what it does not say");
        request.extensions_mut().insert(Protocol::from_static("connect-udp"));
        assert!(!translate(&mut request, || 7));
        request.extensions_mut().insert(Protocol::from_static(WEBSOCKET));
        assert!(translate(&mut request, || 7));
        assert_eq!((request.method(), request.uri().path()), (&Method::GET, "/chat"));
        assert_eq!(request.headers()["upgrade"], "websocket");
        assert_eq!(request.headers()["sec-websocket-version"], "13");
        let joined = request.extensions().get::<Joined>().unwrap();
        let mut answer = HeaderMap::new();
        assert!(!joined.agrees(&answer));
        let said = accept(request.headers()["sec-websocket-key"].to_str().unwrap());
        answer.insert("sec-websocket-accept", said.parse().unwrap());
        assert!(joined.agrees(&answer));
        assert!(!translate(&mut request, || 7), "it is one already");
    }
}

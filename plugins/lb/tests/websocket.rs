//! WebSockets of clients that speak HTTP/2, to instances that speak HTTP/1.1.

mod common;

use bytes::Bytes;
use common::backend::{Backend, Deed, ok};
use common::frames::{Client2, whole};
use common::{Bed, until, within};
use data_encoding::BASE64;
use h2::ext::Protocol;
use http::Request;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

fn connect(path: &str) -> Request<()> {
    let mut request = Request::builder().method("CONNECT").uri(format!("http://shop.example{path}")).body(()).unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "chat".parse().unwrap());
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    request
}

async fn backend() -> Backend {
    Backend::new(|request, _| {
        let agreed = |key: &str| {
            let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
            let accept = BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()).as_ref());
            let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket";
            format!("{head}\r\nSec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\nhi").into_bytes()
        };
        match (request.path(), request.header("sec-websocket-key")) {
            ("/chat", Some(key)) if request.header("upgrade") == Some("websocket") => Deed::Echo(agreed(key)),
            ("/liar", Some(_)) => Deed::Echo(agreed("another key")),
            ("/no", _) => Deed::Say(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno".to_vec()),
            _ => Deed::Say(ok("a page")),
        }
    })
    .await
}

#[tokio::test]
async fn a_websocket_over_http_2_is_a_tunnel_to_the_instance() {
    let backend = backend().await;
    let bed = Bed::serving(&[&backend]).await;
    let client = Client2::connect(bed.addr).await;
    until(|| client.may_connect()).await;
    let (answer, mut out) = client.begin(connect("/chat"), false).await.unwrap();
    let (head, mut body) = within(answer).await.unwrap().into_parts();
    assert_eq!((head.status.as_u16(), &head.headers["sec-websocket-protocol"]), (200, &"chat".parse().unwrap()));
    assert!(["connection", "upgrade", "sec-websocket-accept"].iter().all(|name| !head.headers.contains_key(*name)));
    let mut heard = Vec::new();
    for (told, all) in [("", "hi"), ("one", "hione"), ("two", "hionetwo")] {
        if !told.is_empty() {
            out.send_data(Bytes::from_static(told.as_bytes()), false).unwrap();
        }
        while heard.len() < all.len() {
            let piece = within(body.data()).await.unwrap().unwrap();
            body.flow_control().release_capacity(piece.len()).unwrap();
            heard.extend_from_slice(&piece);
        }
        assert_eq!(heard, all.as_bytes());
    }
    let seen = backend.request(0);
    assert_eq!((seen.method(), seen.header("host")), ("GET", Some("shop.example")));
    assert_eq!(
        (seen.header("sec-websocket-version"), seen.header("sec-websocket-protocol")),
        (Some("13"), Some("chat"))
    );
    // Others go on beside it, and it ends as its client wants.
    assert_eq!(client.get("/").await.unwrap().body, "a page");
    out.send_data(Bytes::new(), true).unwrap();
    assert!(whole(body).await.unwrap().0.is_empty());
}

#[tokio::test]
async fn an_instance_that_does_not_agree_makes_no_websocket() {
    let backend = backend().await;
    let bed = Bed::serving(&[&backend]).await;
    let client = Client2::connect(bed.addr).await;
    until(|| client.may_connect()).await;
    for (path, status) in [("/no", 403), ("/liar", 502), ("/page", 502)] {
        let (answer, _out) = client.begin(connect(path), false).await.unwrap();
        assert_eq!(within(answer).await.unwrap().status(), status, "{path}");
    }
    // Nothing else is connected to.
    let mut other = connect("/chat");
    other.extensions_mut().insert(Protocol::from_static("connect-udp"));
    let (answer, _out) = client.begin(other, false).await.unwrap();
    assert_eq!(within(answer).await.unwrap().status(), 400);
}

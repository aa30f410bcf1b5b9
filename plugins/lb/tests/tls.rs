//! The encrypted side: which certificate a client is shown, what is spoken, and how it ends.

mod common;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::authority::{Authority, bundles};
use common::backend::{Backend, Deed, ok};
use common::{Bed, ME, until, within};
use hirsel_model::report::RoleState;
use hirsel_role::certificate::{Bundle, Bundles};
use http::{Request, Response, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A role that serves `backend` on both ports.
async fn serving(backend: &Backend, certificates: Arc<Bundles>) -> Bed {
    let mut bed = Bed::serving(&[backend]).await;
    bed.certificates.send_replace(certificates);
    show(&mut bed).await;
    bed
}

/// Converges as the agent would, once the certificates have been seen.
async fn show(bed: &mut Bed) {
    within(bed.wake.clone().notified()).await;
    assert_eq!(bed.converge().await.state, RoleState::Running);
}

async fn shake(bed: &Bed, client: &TlsConnector, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = within(TcpStream::connect(bed.https)).await?;
    within(client.connect(ServerName::try_from(name.to_owned()).unwrap(), stream)).await
}

/// The serial number of the certificate that is shown for `name`.
async fn shown(bed: &Bed, client: &TlsConnector, name: &str) -> u64 {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let stream = shake(bed, client, name).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    let chain = stream.get_ref().1.peer_certificates().unwrap();
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    leaf.raw_serial().iter().fold(0, |all, byte| (all << 8) | u64::from(*byte))
}

async fn speak_2<B>(bed: &Bed, client: &TlsConnector) -> SendRequest<B>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let stream = shake(bed, client, "shop.example").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn text(answer: Response<hyper::body::Incoming>) -> String {
    String::from_utf8(within(answer.into_body().collect()).await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn who_is_asked_for_is_shown_and_whoever_is_not_there_is_refused() {
    let (authority, backend) = (Authority::new(), Backend::named("a").await);
    let exact = authority.certify(&["shop.example.com"], 1);
    let wild = authority.certify(&["*.example.com", "Other.Example"], 2);
    let bed = serving(&backend, bundles(&[("exact", &exact), ("wild", &wild)])).await;
    let client = authority.client(&[]);
    assert_eq!(shown(&bed, &client, "shop.example.com").await, 1);
    assert_eq!(shown(&bed, &client, "SHOP.example.com").await, 1);
    assert_eq!(shown(&bed, &client, "blog.example.com").await, 2);
    assert_eq!(shown(&bed, &client, "other.example").await, 2);
    for nobody in ["a.b.example.com", "example.com", "shop.test", "127.0.0.1"] {
        let refused = shake(&bed, &client, nobody).await;
        assert!(refused.is_err(), "{nobody}");
    }
    until(|| bed.counted("hirsel_lb_refused_handshakes_total") == 4).await;
    // In clear it speaks to nobody there.
    let mut plain = TcpStream::connect(bed.https).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    let _ = within(plain.read_to_end(&mut said)).await;
    assert!(!said.starts_with(b"HTTP"), "{said:?}");
}

#[tokio::test]
async fn of_what_a_client_offers_the_best_is_taken_and_not_the_first() {
    let (authority, backend) = (Authority::new(), Backend::named("a").await);
    let bed = serving(&backend, bundles(&[("one", &authority.certify(&["shop.example"], 1))])).await;
    let mut provider = rustls::crypto::ring::default_provider();
    let best = provider.cipher_suites[0].suite();
    provider.cipher_suites.reverse();
    let stream = shake(&bed, &authority.client_with(provider, &[]), "shop.example").await.unwrap();
    assert_eq!(stream.get_ref().1.negotiated_cipher_suite().map(|suite| suite.suite()), Some(best));
}

#[tokio::test]
async fn a_certificate_changes_without_a_restart_and_a_connection_that_is_open_goes_on() {
    let (authority, backend) = (Authority::new(), Backend::named("a").await);
    let mut bed = serving(&backend, bundles(&[("shop", &authority.certify(&["shop.example"], 1))])).await;
    let client = authority.client(&["http/1.1"]);
    let mut open = shake(&bed, &client, "shop.example").await.unwrap();
    bed.certificates.send_replace(bundles(&[("shop", &authority.certify(&["shop.example"], 7))]));
    show(&mut bed).await;
    assert_eq!(shown(&bed, &client, "shop.example").await, 7);
    open.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut said = String::new();
    let _ = within(open.read_to_string(&mut said)).await;
    assert!(said.starts_with("HTTP/1.1 200 OK") && said.ends_with("ok a"), "{said}");
    assert_eq!(backend.request(0).header("x-forwarded-proto"), Some("https"));

    // All are taken back: an order may be on its way by which others take this place, who are waited for.
    bed.certificates.send_replace(Arc::default());
    within(bed.wake.clone().notified()).await;
    bed.converge_until(|report| report.state == RoleState::Running).await;
    assert_eq!(shown(&bed, &authority.client(&[]), "shop.example").await, 7);
    // None has come, so the last one was removed: nobody listens any more.
    bed.clock.by(Duration::from_secs(1));
    let https = bed.https;
    within(async {
        while TcpStream::connect(https).await.is_ok() {
            bed.converge().await;
        }
    })
    .await;
    assert_eq!(bed.get("/").await.text(), "ok a", "and plain HTTP goes on");
}

#[tokio::test]
async fn what_cannot_be_shown_is_said_and_the_rest_is_shown() {
    let (authority, backend) = (Authority::new(), Backend::named("a").await);
    let (good, other) = (authority.certify(&["shop.example"], 1), authority.certify(&["blog.example"], 2));
    let mixed = Bundle { key: good.key.clone(), ..other };
    let mut bed = Bed::serving(&[&backend]).await;
    bed.certificates.send_replace(bundles(&[("good", &good), ("mixed", &mixed)]));
    within(bed.wake.clone().notified()).await;
    let report = bed.converge().await;
    assert_eq!(report.state, RoleState::Degraded);
    assert!(report.message.unwrap().starts_with("certificate mixed cannot be shown: its key"));
    assert_eq!(shown(&bed, &authority.client(&[]), "shop.example").await, 1);
}

#[tokio::test]
async fn many_requests_of_one_connection_are_under_way_at_once_in_http_2() {
    let authority = Authority::new();
    let backend = Backend::new(|request, _| match request.path() {
        "/slow" => Deed::Hold(ok("slow")),
        _ => Deed::Say(ok("quick")),
    })
    .await;
    let bed = serving(&backend, bundles(&[("shop", &authority.certify(&["shop.example"], 1))])).await;
    let mut client = speak_2(&bed, &authority.client(&["h2", "http/1.1"])).await;
    let request = |path: &str| {
        let request = Request::get(format!("https://shop.example{path}")).version(Version::HTTP_2);
        request.header("cookie", "a=1").header("cookie", "b=2").body(Full::default()).unwrap()
    };
    let slow = tokio::spawn(client.send_request(request("/slow")));
    until(|| backend.seen.lock().unwrap().len() == 1).await;
    let quick = within(client.send_request(request("/quick?x=1"))).await.unwrap();
    assert_eq!((quick.version(), quick.status().as_u16()), (Version::HTTP_2, 200));
    assert_eq!(text(quick).await, "quick");
    let told = backend.request(1);
    assert_eq!(told.start, "GET /quick?x=1 HTTP/1.1");
    assert_eq!((told.header("host"), told.header("cookie")), (Some("shop.example"), Some("a=1; b=2")));
    assert_eq!(told.header("x-forwarded-proto"), Some("https"));
    backend.release();
    assert_eq!(text(within(slow).await.unwrap().unwrap()).await, "slow");
}

#[tokio::test]
async fn large_bodies_pass_both_ways_in_http_2() {
    let authority = Authority::new();
    let large = vec![b'x'; 3 << 20];
    let answer = ok(std::str::from_utf8(&large).unwrap());
    let backend = Backend::new(move |_, _| Deed::Say(answer.clone())).await;
    let bed = serving(&backend, bundles(&[("shop", &authority.certify(&["shop.example"], 1))])).await;
    let mut client = speak_2(&bed, &authority.client(&["h2"])).await;
    let request = Request::post("https://shop.example/").body(Full::from(large.clone())).unwrap();
    let answer = within(client.send_request(request)).await.unwrap();
    assert_eq!(text(answer).await.len(), large.len());
    assert_eq!(backend.request(0).body.len(), large.len());
}

#[tokio::test]
async fn a_stop_lets_requests_of_http_2_end_and_then_the_connection() {
    let authority = Authority::new();
    let backend = Backend::new(|_, _| Deed::Hold(ok("late"))).await;
    let mut bed = serving(&backend, bundles(&[("shop", &authority.certify(&["shop.example"], 1))])).await;
    let mut client = speak_2(&bed, &authority.client(&["h2"])).await;
    let request = Request::get("https://shop.example/").body(Full::default()).unwrap();
    let late = tokio::spawn(client.send_request(request));
    until(|| backend.seen.lock().unwrap().len() == 1).await;
    assert_eq!(bed.stop().await.state, RoleState::Running, "a request is under way");
    backend.release();
    assert_eq!(text(within(late).await.unwrap().unwrap()).await, "late");
    bed.converge_until(|report| report.state == RoleState::Stopped).await;
    within(async {
        while client.ready().await.is_ok() {
            tokio::task::yield_now().await
        }
    })
    .await;
}

/// A route for each of the things that are done besides passing a request on.
const ACTIONS: &str = r#"
[route."shop.example"]
to = "web"
[route."shop.example/old"]
redirect = { to = "https://www.example", status = 308 }
[route."shop.example/known"]
respond = { status = 200, body = "known", headers = { x-known = "1" } }
[route."shop.example/api"]
to = "web"
rewrite = { strip_prefix = true, add_prefix = "/v2" }
request_headers = { set = { x-tenant = "shop" }, remove = ["cookie"] }
response_headers = { set = { x-frame-options = "DENY" } }
[route."shop.example/staff"]
to = "web"
basic_auth = { users = { anna = "$pbkdf2-sha256$i=1000$c2FsdA$Q/9Kvus9r/Z5pRD/V9eBFX31v5LhSkQG2Q44eDQAprk" } }
[route."shop.example/denied"]
to = "web"
deny = ["127.0.0.1"]
[route."shop.example/inside"]
to = "web"
allow = ["10.0.0.0/8"]
[route."shop.example/open"]
to = "web"
cors = { origins = ["https://app.example"], methods = ["PUT"] }
[route."shop.example/small"]
to = "web"
body_max = "10B"
[route."shop.example/slow"]
to = "web"
timeout = "50ms"
[route."shop.example/rare"]
to = "web"
rate_limit = { requests = 1, per = "1h" }
[route."shop.example/text"]
respond = { body = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", headers = { content-type = "text/html" } }
compress = { min = "1B" }
[route."shop.example/page"]
to = "web"
deny = "127.0.0.1"
error_pages = { 403 = "not you" }
[route."shop.example/tls"]
to = "web"
redirect = "https"
"#;

#[tokio::test]
async fn every_action_of_a_route_holds_in_http_2() {
    let authority = Authority::new();
    let backend = Backend::new(|request, _| match request.path() {
        "/slow" => Deed::Hang,
        path => Deed::Say(ok(path)),
    })
    .await;
    let mut bed = Bed::new().await;
    bed.routes(ACTIONS);
    bed.place(1, ME, backend.addr.port());
    bed.converge().await;
    bed.certificates.send_replace(bundles(&[("shop", &authority.certify(&["shop.example"], 1))]));
    show(&mut bed).await;
    let client = speak_2::<BoxBody<Bytes, Infallible>>(&bed, &authority.client(&["h2"])).await;
    let ask = async |method: &str, path: &str, headers: &[(&str, &str)], pieces: &[&'static str]| {
        let mut request = Request::builder().method(method).uri(format!("https://shop.example{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let frames: Vec<_> = pieces.iter().map(|piece| Ok(Frame::data(Bytes::from(*piece)))).collect();
        let body = match frames.is_empty() {
            true => Full::default().boxed(),
            false => StreamBody::new(futures::stream::iter(frames)).boxed(),
        };
        let (head, body) = within(client.clone().send_request(request.body(body).unwrap())).await.unwrap().into_parts();
        assert_eq!(head.version, Version::HTTP_2);
        let text = text(Response::new(body)).await;
        (head.status.as_u16(), head.headers, text)
    };
    let get = async |path: &str| ask("GET", path, &[], &[]).await;

    let (status, headers, _) = get("/old/a?b=%20").await;
    assert_eq!((status, &headers["location"]), (308, &"https://www.example/old/a?b=%20".parse().unwrap()));
    let (status, headers, body) = get("/known").await;
    assert_eq!((status, &*body, headers["x-known"].as_bytes()), (200, "known", &b"1"[..]));
    let (status, headers, body) = ask("HEAD", "/known", &[], &[]).await;
    assert_eq!((status, &*body, headers["content-length"].as_bytes()), (200, "", &b"5"[..]));

    let before = backend.count();
    let (status, headers, body) = ask("GET", "/api/x?y", &[("cookie", "a=1")], &[]).await;
    assert_eq!((status, &*body, headers["x-frame-options"].as_bytes()), (200, "/v2/x?y", &b"DENY"[..]));
    let told = backend.request(before);
    assert_eq!((told.header("x-tenant"), told.header("cookie")), (Some("shop"), None));

    assert_eq!(get("/staff").await.0, 401);
    let right = [("authorization", "Basic YW5uYTpyaWdodA==")];
    assert_eq!(ask("GET", "/staff", &right, &[]).await.0, 200);
    assert_eq!((get("/denied").await.0, get("/inside").await.0), (403, 403));
    let asks = [("origin", "https://app.example"), ("access-control-request-method", "PUT")];
    let (status, headers, _) = ask("OPTIONS", "/open", &asks, &[]).await;
    assert_eq!((status, headers["access-control-allow-origin"].as_bytes()), (204, &b"https://app.example"[..]));
    assert_eq!(ask("POST", "/small", &[("content-length", "10")], &["0123456789"]).await.0, 200);
    assert_eq!(ask("POST", "/small", &[("content-length", "11")], &["0123456789", "0"]).await.0, 413);
    assert_eq!(ask("POST", "/small", &[], &["01234", "56789"]).await.0, 200);
    assert_eq!(ask("POST", "/small", &[], &["01234", "56789", "0"]).await.0, 413);
    assert_eq!(ask("POST", "/slow", &[], &["x"]).await.0, 504);
    assert_eq!((get("/rare").await.0, get("/rare").await.0), (200, 429));
    let (status, headers, _) = ask("HEAD", "/text", &[("accept-encoding", "gzip, br")], &[]).await;
    assert_eq!((status, headers["content-encoding"].as_bytes()), (200, &b"gzip"[..]));
    let (status, headers, _) = get("/text").await;
    assert_eq!((status, headers["vary"].as_bytes()), (200, &b"Accept-Encoding"[..]));
    let (status, _, body) = get("/page").await;
    assert_eq!((status, &*body), (403, "not you"));
    assert_eq!(get("/tls").await.2, "/tls", "it is there already");
    assert_eq!(get("/").await.2, "/", "and the connection serves on");
}

#[tokio::test]
async fn an_answer_to_head_has_no_body_in_http_2_whoever_gives_it() {
    let authority = Authority::new();
    let backend = Backend::new(|_, _| Deed::Say(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n".to_vec())).await;
    let bed = serving(&backend, bundles(&[("shop", &authority.certify(&["shop.example"], 1))])).await;
    let mut client = speak_2::<Full<Bytes>>(&bed, &authority.client(&["h2"])).await;
    let mut ask = async |host: &str| {
        let request = Request::head(format!("https://{host}/")).body(Full::default()).unwrap();
        let answer = within(client.send_request(request)).await.unwrap();
        let length = answer.headers().get("content-length").map(|it| it.to_str().unwrap().to_owned());
        (answer.status().as_u16(), length.is_some(), text(answer).await)
    };
    assert_eq!(ask("shop.example").await, (200, true, String::new()));
    backend.kill().await;
    assert_eq!(ask("shop.example").await, (503, true, String::new()));
}

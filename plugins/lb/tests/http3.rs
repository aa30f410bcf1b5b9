//! HTTP/3: the same routes, over QUIC, for those who were told of it.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use common::authority::{Authority, bundles};
use common::backend::{Backend, Deed, ok};
use common::quic::{Bare, Cable, Client, End, begin, dial, dial_at, end, fields, frame, give_up, request};
use common::{Bed, ME, free_addr, until, within};
use hirsel_model::report::RoleState;
use hirsel_model::spec::{AccessLog, LogFormat};
use hirsel_role::RoleConfig;
use hirsel_role::certificate::Bundles;
use http::{HeaderMap, Request};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// What a client sends of its request that was malformed.
const MESSAGE_ERROR: u64 = 0x10e;

fn certified(authority: &Authority) -> Arc<Bundles> {
    bundles(&[("shop", &authority.certify(&["shop.example"], 1))])
}

/// A role that serves `backend` with a certificate for `shop.example`.
async fn serving(authority: &Authority, backend: &Backend) -> Bed {
    let mut bed = Bed::serving(&[backend]).await;
    certify(&mut bed, certified(authority)).await;
    bed
}

async fn certify(bed: &mut Bed, certificates: Arc<Bundles>) {
    bed.certificates.send_replace(certificates);
    within(bed.wake.clone().notified()).await;
    let report = bed.converge().await;
    assert_eq!(report.state, RoleState::Running, "{:?}", report.message);
}

/// Waits until nobody has the port any more.
async fn until_free(bed: &mut Bed) {
    let https = bed.https;
    within(async {
        while UdpSocket::bind(https).await.is_err() {
            bed.converge().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// What is said of HTTP/3 over TCP.
async fn announced(bed: &Bed, authority: &Authority) -> Option<String> {
    let stream = within(TcpStream::connect(bed.https)).await.unwrap();
    let name = ServerName::try_from("shop.example").unwrap();
    let mut stream = within(authority.client(&["http/1.1"]).connect(name, stream)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut said = String::new();
    let _ = within(stream.read_to_string(&mut said)).await;
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    said.lines().find_map(|line| line.strip_prefix("alt-svc: ")).map(str::to_owned)
}

fn plain_head() -> Vec<u8> {
    head(&[])
}

fn head(more: &[(&str, &str)]) -> Vec<u8> {
    let mut lines = vec![(":method", "POST"), (":scheme", "https"), (":authority", "shop.example"), (":path", "/")];
    lines.extend(more);
    fields(&lines)
}

#[tokio::test]
async fn a_request_takes_the_way_of_all_others() {
    let (authority, backend) = (Authority::new(), Backend::named("a").await);
    let mut bed = serving(&authority, &backend).await;
    bed.usual_log(AccessLog::of(LogFormat::Json));
    bed.converge().await;
    let client = Client::connect(&bed, &authority).await;
    let asked = Request::get("https://shop.example/x?y=1").header("cookie", "a=1").header("cookie", "b=2");
    let answer = client.ask(asked.body(()).unwrap(), &[]).await;
    assert_eq!((answer.status.as_u16(), answer.text(), answer.header("content-length")), (200, "ok a", Some("4")));
    assert!(answer.header("x-request-id").is_some() && answer.header("alt-svc").is_none());
    let told = backend.request(0);
    assert_eq!(told.start, "GET /x?y=1 HTTP/1.1");
    let header = |name| told.header(name);
    assert_eq!((header("host"), header("cookie")), (Some("shop.example"), Some("a=1; b=2")));
    assert_eq!((header("x-forwarded-proto"), header("x-forwarded-for")), (Some("https"), Some("127.0.0.1")));
    assert_eq!((header("transfer-encoding"), header("content-length")), (None, None), "it has no body");
    let log = bed.log(1).await;
    for part in [r#""http":"HTTP/3.0""#, r#""tls":"TLSv1.3""#, r#""client":"127.0.0.1""#, r#""bytes_out":4"#] {
        assert!(log[0].contains(part), "{part} in {}", log[0]);
    }
    // Another one on the same connection, to a path that no route has, and one without a body.
    bed.routes("[route.\"shop.example/a\"]\nto = \"web\"\n");
    bed.converge().await;
    assert_eq!(client.get("/").await.status, 404);
    let answer = client.ask(request("HEAD", "/a"), &[]).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (200, ""));
    assert_eq!(bed.counted("hirsel_lb_clients"), 1);
    drop(client);
    until(|| bed.counted("hirsel_lb_clients") == 0).await;
}

#[tokio::test]
async fn it_is_announced_to_those_who_come_over_tls_and_to_nobody_else() {
    let (authority, backend) = (Authority::new(), Backend::named("a").await);
    let bed = serving(&authority, &backend).await;
    let words = format!("h3=\":{}\"; ma=86400", bed.https.port());
    assert_eq!(announced(&bed, &authority).await.as_deref(), Some(&*words));
    assert_eq!(bed.get("/").await.header("alt-svc"), None);

    let config = RoleConfig { http3: false, ..RoleConfig::default() };
    let mut without = Bed::with(free_addr().await, config).await;
    without.route("*", "/", "web");
    without.place(1, ME, backend.addr.port());
    without.converge().await;
    certify(&mut without, certified(&authority)).await;
    assert_eq!(announced(&without, &authority).await, None);
    assert!(UdpSocket::bind(without.https).await.is_ok(), "nothing is open");
}

#[tokio::test]
async fn nothing_is_open_before_there_is_a_certificate_and_after_the_last_one() {
    let (authority, backend) = (Authority::new(), Backend::named("a").await);
    let mut bed = Bed::serving(&[&backend]).await;
    drop(UdpSocket::bind(bed.https).await.expect("nobody is there"));
    certify(&mut bed, certified(&authority)).await;
    let client = Client::connect(&bed, &authority).await;
    assert_eq!(client.get("/").await.text(), "ok a");
    assert!(UdpSocket::bind(bed.https).await.is_err());
    bed.certificates.send_replace(Arc::default());
    until_free(&mut bed).await;
    assert_eq!(client.ended().await, "Remote error: ApplicationClose: H3_NO_ERROR");
}

#[tokio::test]
async fn where_the_port_is_taken_https_goes_on_without_it_until_it_is_free() {
    let (authority, backend) = (Authority::new(), Backend::named("a").await);
    let mut bed = Bed::serving(&[&backend]).await;
    let taken = UdpSocket::bind(bed.https).await.unwrap();
    bed.certificates.send_replace(certified(&authority));
    within(bed.wake.clone().notified()).await;
    let report = bed.converge().await;
    let (port, ip) = (bed.https.port(), bed.https.ip());
    assert_eq!(report.state, RoleState::Degraded);
    let words = report.message.unwrap();
    assert!(words.starts_with(&format!("no HTTP/3: port {port}/udp on {ip} is taken by another program")), "{words}");
    assert_eq!(announced(&bed, &authority).await, None);
    drop(taken);
    bed.clock.by(Duration::from_secs(60));
    bed.converge_until(|report| report.state == RoleState::Running).await;
    assert!(announced(&bed, &authority).await.is_some());
    assert_eq!(Client::connect(&bed, &authority).await.get("/").await.text(), "ok a");
}

#[tokio::test]
async fn a_port_of_an_application_does_not_take_its_place() {
    let backend = Backend::named("a").await;
    let mut bed = Bed::serving(&[&backend]).await;
    let port = bed.https.port();
    bed.ports(&format!("[port.\"{port}/udp\"]\nto = \"web\"\n"));
    let report = bed.converge().await;
    let words = report.message.unwrap();
    let expected = format!("port {port}/udp of shop is not open here: hirsel has it itself, for HTTP/3");
    assert!(words.starts_with(&expected), "{words}");
}

#[tokio::test]
async fn who_is_asked_for_is_shown_and_a_certificate_changes_without_a_restart() {
    let (authority, backend) = (Authority::new(), Backend::named("a").await);
    let mut bed = Bed::serving(&[&backend]).await;
    let (exact, wild) = (authority.certify(&["shop.example.com"], 1), authority.certify(&["*.example.com"], 2));
    certify(&mut bed, bundles(&[("exact", &exact), ("wild", &wild)])).await;
    let shown = async |bed: &Bed, name: &str| {
        use x509_parser::prelude::{FromDer, X509Certificate};
        let (_endpoint, quic) = dial(bed, &authority, name).await?;
        let chain =
            quic.peer_identity().unwrap().downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>().unwrap();
        let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
        Ok::<_, String>(leaf.raw_serial()[0])
    };
    assert_eq!((shown(&bed, "shop.example.com").await, shown(&bed, "blog.example.com").await), (Ok(1), Ok(2)));
    assert!(shown(&bed, "shop.test").await.is_err());
    until(|| bed.counted("hirsel_lb_refused_handshakes_total") == 1).await;
    let open = Client::named(&bed, &authority, "shop.example.com").await.unwrap();
    certify(&mut bed, bundles(&[("exact", &authority.certify(&["shop.example.com"], 7))])).await;
    assert_eq!(shown(&bed, "shop.example.com").await, Ok(7));
    assert!(shown(&bed, "blog.example.com").await.is_err());
    assert_eq!(open.get("/").await.text(), "ok a", "and a connection that is open goes on");
}

#[tokio::test]
async fn a_host_that_is_passed_on_encrypted_is_not_answered() {
    let (authority, backend) = (Authority::new(), Backend::named("a").await);
    let mut bed = serving(&authority, &backend).await;
    bed.routes("[route.\"*\"]\nto = \"web\"\n[route.\"shop.example\"]\nto = \"web\"\ntls = \"passthrough\"\n");
    bed.converge().await;
    let client = Client::connect(&bed, &authority).await;
    assert!(client.try_ask(request("GET", "/"), &[], None).await.is_err());
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn large_bodies_pass_both_ways_and_wait_for_who_takes_them() {
    let authority = Authority::new();
    let large = vec![b'x'; 3 << 20];
    let answer = ok(std::str::from_utf8(&large).unwrap());
    let backend = Backend::new(move |_, _| Deed::Say(answer.clone())).await;
    let bed = serving(&authority, &backend).await;
    let client = Client::connect(&bed, &authority).await;
    // Of unknown length, and of a known one.
    for length in [None, Some(large.len())] {
        let mut asked = request("POST", "/");
        asked.headers_mut().extend(length.map(|length| (http::header::CONTENT_LENGTH, length.into())));
        let pieces: Vec<Bytes> = large.chunks(100_000).map(Bytes::copy_from_slice).collect();
        let answer = client.try_ask(asked, &pieces, None).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, large.len()));
    }
    assert_eq!((backend.request(0).body.len(), backend.request(1).body.len()), (large.len(), large.len()));
    assert_eq!(backend.request(1).header("content-length"), Some(&*large.len().to_string()));
}

#[tokio::test]
async fn fields_behind_bodies_pass_both_ways() {
    const SUMMED: &str = "HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 294\r\nContent-Length: 7\r\n\r\n";
    let (authority, backend) = (Authority::new(), Backend::new(|_, _| Deed::Say(SUMMED.into())).await);
    let bed = serving(&authority, &backend).await;
    let client = Client::connect(&bed, &authority).await;
    let mut asked = request("POST", "/");
    asked.headers_mut().insert("te", "trailers".parse().unwrap());
    let trailer = HeaderMap::from_iter([("x-sum".parse().unwrap(), "7".parse().unwrap())]);
    let answer = client.try_ask(asked, &[Bytes::from_static(b"abc")], Some(trailer)).await.unwrap();
    assert_eq!(answer.text(), "abc");
    let trailer = answer.trailer.unwrap();
    assert_eq!((trailer.len(), trailer["x-sum"].as_bytes()), (1, &b"294"[..]));
    let told = backend.request(0);
    assert_eq!((told.body.as_slice(), told.trailer.as_slice()), (&b"abc"[..], &["x-sum: 7".to_owned()][..]));
}

/// A route for each of the things that are done besides passing a request on.
const ACTIONS: &str = r#"
[route."shop.example"]
to = "web"
[route."shop.example/old"]
redirect = { to = "https://www.example", status = 308 }
[route."shop.example/staff"]
to = "web"
basic_auth = { users = { anna = "$pbkdf2-sha256$i=1000$c2FsdA$Q/9Kvus9r/Z5pRD/V9eBFX31v5LhSkQG2Q44eDQAprk" } }
[route."shop.example/denied"]
to = "web"
deny = ["127.0.0.1"]
error_pages = { 403 = "not you" }
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
respond = { body = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", headers = { content-type = "text/html" } }
compress = { min = "1B" }
[route."shop.example/tls"]
to = "web"
redirect = "https"
"#;

#[tokio::test]
async fn every_action_of_a_route_holds() {
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
    certify(&mut bed, certified(&authority)).await;
    let client = Client::connect(&bed, &authority).await;
    let ask = async |method: &str, path: &str, headers: &[(&'static str, &str)], pieces: &[&str]| {
        let mut asked = request(method, path);
        for (name, value) in headers {
            asked.headers_mut().append(*name, value.parse().unwrap());
        }
        client.ask(asked, pieces).await
    };
    let answer = client.get("/old/a?b=%20").await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (308, Some("https://www.example/old/a?b=%20")));
    assert_eq!(client.get("/staff").await.status, 401);
    assert_eq!(ask("GET", "/staff", &[("authorization", "Basic YW5uYTpyaWdodA==")], &[]).await.status, 200);
    let answer = client.get("/denied").await;
    assert_eq!((answer.status.as_u16(), answer.text()), (403, "not you"));
    let asks = [("origin", "https://app.example"), ("access-control-request-method", "PUT")];
    let answer = ask("OPTIONS", "/open", &asks, &[]).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("access-control-allow-origin")),
        (204, Some("https://app.example"))
    );
    assert_eq!(ask("POST", "/small", &[("content-length", "10")], &["0123456789"]).await.status, 200);
    assert_eq!(ask("POST", "/small", &[("content-length", "11")], &["0123456789", "0"]).await.status, 413);
    assert_eq!(ask("POST", "/small", &[], &["01234", "56789"]).await.status, 200);
    assert_eq!(ask("POST", "/small", &[], &["01234", "56789", "0"]).await.status, 413);
    assert_eq!(ask("POST", "/slow", &[], &["x"]).await.status, 504);
    assert_eq!(
        (client.get("/rare").await.status, client.get("/rare").await.status.as_u16()),
        (http::StatusCode::OK, 429)
    );
    let answer = ask("GET", "/text", &[("accept-encoding", "gzip")], &[]).await;
    assert_eq!((answer.status.as_u16(), answer.header("content-encoding")), (200, Some("gzip")));
    assert_eq!(client.get("/tls").await.text(), "/tls", "it is there already");
    let answer = ask("CONNECT", "/", &[], &[]).await;
    assert_eq!(answer.status, 400);
}

#[tokio::test]
async fn a_client_that_moves_is_known_by_where_it_is() {
    let (authority, backend) = (Authority::new(), Backend::named("a").await);
    let bed = serving(&authority, &backend).await;
    let client = Client::connect(&bed, &authority).await;
    client.get("/").await;
    client.endpoint.rebind(std::net::UdpSocket::bind("127.0.0.2:0").unwrap()).unwrap();
    assert_eq!(client.get("/").await.text(), "ok a");
    // The first packet from there may be the request, or what tells that it has moved.
    client.get("/").await;
    let from = |at: usize| backend.request(at).header("x-forwarded-for").unwrap().to_owned();
    assert_eq!((from(0), from(2)), ("127.0.0.1".into(), "127.0.0.2".into()));
    assert_eq!(bed.counted("hirsel_lb_clients"), 1);
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused_and_the_connection_goes_on() {
    let (authority, backend) = (Authority::new(), Backend::named("a").await);
    let bed = serving(&authority, &backend).await;
    let client = Bare::connect(&bed, &authority).await;
    // `:status: 431`, as the library writes it.
    let says_so =
        |end: &End| matches!(end, End::Answered(bytes) if bytes.ends_with(&[0x5f, 0x09, 0x83, 0x69, 0x90, 0xff]));
    // By what its lines take when they are known, and by its length alone: of this one nothing but the beginning comes.
    let many = vec![("x", ""); 2_000];
    let refused = client.ask(&head(&many)).await;
    assert!(says_so(&refused), "{refused:?}");
    let (mut send, receive) = client.quic.open_bi().await.unwrap();
    send.write_all(&[1, 0x81, 0, 0, 0, 0, 0]).await.unwrap();
    let refused = end(receive).await;
    assert!(says_so(&refused), "{refused:?}");
    assert!(matches!(client.ask(&plain_head()).await, End::Answered(bytes) if bytes.ends_with(b"ok a")));
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn malformed_requests_are_refused_and_reach_nobody() {
    let (authority, backend) = (Authority::new(), Backend::named("a").await);
    let bed = serving(&authority, &backend).await;
    let client = Bare::connect(&bed, &authority).await;
    let pseudo = [(":method", "GET"), (":scheme", "https"), (":authority", "shop.example"), (":path", "/")];
    let without = |name: &str| fields(&pseudo.iter().copied().filter(|(other, _)| *other != name).collect::<Vec<_>>());
    for (bytes, why) in [
        (head(&[(":path", "/other")]), "a path twice"),
        (head(&[(":status", "200")]), "a status"),
        (head(&[("x", "1"), (":path", "/")]), "a path behind a field"),
        (head(&[("X-Large", "1")]), "capitals in a name"),
        (head(&[("x", "a\r\nb: c")]), "a value of two lines"),
        (head(&[("host", "other.example")]), "two hosts"),
        (head(&[("connection", "close")]), "a field of a connection"),
        (head(&[("transfer-encoding", "chunked")]), "a coding of HTTP/1.1"),
        (head(&[("te", "gzip")]), "another coding"),
        (head(&[("content-length", "1"), ("content-length", "1")]), "two lengths"),
        (head(&[("content-length", "+1")]), "a length that is no number"),
        (without(":method"), "no method"),
        (without(":path"), "no path"),
        (without(":authority"), "no host"),
        (fields(&[pseudo[0], pseudo[1], pseudo[2], (":path", "x")]), "a path that is none"),
    ] {
        assert_eq!(client.ask(&bytes).await, End::Reset(MESSAGE_ERROR), "{why}");
    }
    assert_eq!(backend.count(), 0);
    // A body of another length than its head says never looks whole.
    let too_long = [head(&[("content-length", "2")]), frame(0, b"abc")].concat();
    let too_short = [head(&[("content-length", "4")]), frame(0, b"abc")].concat();
    let with_end = [plain_head(), frame(0, b"abc"), fields(&[(":path", "/")])].concat();
    for (bytes, why) in [(too_long, "too long"), (too_short, "too short"), (with_end, "a path behind a body")] {
        let answered = client.ask(&bytes).await;
        assert!(!matches!(&answered, End::Answered(bytes) if bytes.ends_with(b"ok a")), "{why}: {answered:?}");
    }
    assert_eq!(backend.count(), 0);
    let fine =
        [head(&[("content-length", "3")]), frame(0, b"ab"), frame(0, b""), frame(0x21, b"?"), frame(0, b"c")].concat();
    assert!(matches!(client.ask(&fine).await, End::Answered(bytes) if bytes.ends_with(b"ok a")));
    assert_eq!(backend.request(0).body, b"abc");
}

#[tokio::test]
async fn what_is_no_http_3_ends_its_connection_and_no_other() {
    let (authority, backend) = (Authority::new(), Backend::named("a").await);
    let bed = serving(&authority, &backend).await;
    let other = Client::connect(&bed, &authority).await;
    let (unexpected, broken, undecodable) = (0x105, 0x106, 0x200);
    let cut = frame(0, b"abc");
    for (bytes, code, why) in [
        (frame(0, b"abc"), unexpected, "a body without a head"),
        ([plain_head(), plain_head(), plain_head()].concat(), MESSAGE_ERROR, "a head behind a body"),
        ([plain_head(), frame(4, b"")].concat(), unexpected, "settings in a request"),
        ([plain_head(), cut[..4].to_vec()].concat(), broken, "a body that breaks off"),
        (frame(1, &[1, 0]), undecodable, "a table that is not there"),
        (frame(1, &[0, 0, 0x27, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]), undecodable, "no number"),
    ] {
        let client = Bare::connect(&bed, &authority).await;
        let ended = client.ask(&bytes).await;
        assert!(matches!(ended, End::Closed(_) | End::Reset(_) | End::Answered(_)), "{why}: {ended:?}");
        if code != MESSAGE_ERROR {
            assert_eq!(client.closed().await, code, "{why}");
        }
    }
    // Of what comes before a request nothing is kept, however much it is.
    let client = Bare::connect(&bed, &authority).await;
    let (mut send, receive) = client.quic.open_bi().await.unwrap();
    send.write_all(&[0x21, 0x81, 0, 0, 0]).await.unwrap();
    for _ in 0..1 << 8 {
        within(send.write_all(&[0; 1 << 16])).await.unwrap();
    }
    send.write_all(&plain_head()).await.unwrap();
    send.finish().unwrap();
    assert!(matches!(end(receive).await, End::Answered(bytes) if bytes.ends_with(b"ok a")));
    assert_eq!(other.get("/").await.text(), "ok a");
}

#[tokio::test]
async fn as_many_requests_are_under_way_as_one_connection_may_have() {
    let authority = Authority::new();
    let backend = Backend::new(|_, _| Deed::Hold(ok("late"))).await;
    let bed = serving(&authority, &backend).await;
    let client = Bare::connect(&bed, &authority).await;
    let mut under_way = Vec::new();
    for _ in 0..100 {
        let (mut send, receive) = within(client.quic.open_bi()).await.unwrap();
        send.write_all(&plain_head()).await.unwrap();
        send.finish().unwrap();
        under_way.push(receive);
    }
    until(|| backend.count() == 100).await;
    let mut more = Box::pin(client.quic.open_bi());
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut more).await.is_err(), "it has to wait");
    backend.release();
    for receive in under_way {
        assert!(matches!(end(receive).await, End::Answered(bytes) if bytes.ends_with(b"late")));
    }
    assert!(within(more).await.is_ok());
}

#[tokio::test]
async fn a_request_that_its_client_gives_up_ends_at_the_instance_too() {
    let authority = Authority::new();
    let backend = Backend::new(|_, _| Deed::Hang).await;
    let mut bed = serving(&authority, &backend).await;
    bed.usual_log(AccessLog::of(LogFormat::Json));
    bed.converge().await;
    let client = Bare::connect(&bed, &authority).await;
    let (mut send, receive) = client.quic.open_bi().await.unwrap();
    send.write_all(&plain_head()).await.unwrap();
    send.finish().unwrap();
    until(|| backend.count() == 1 && backend.open() == 1).await;
    give_up(send, receive);
    until(|| backend.open() == 0).await;
    let log = bed.log(1).await;
    assert!(log[0].contains(r#""status":499"#) && log[0].contains("reset_by_client"), "{}", log[0]);
}

#[tokio::test]
async fn whoever_gives_up_all_that_it_asks_for_is_sent_away_and_others_are_served() {
    let authority = Authority::new();
    let backend = Backend::new(|request, _| match request.path() {
        "/well" => Deed::Say(ok("well")),
        _ => Deed::Hang,
    })
    .await;
    let bed = serving(&authority, &backend).await;
    let other = Client::connect(&bed, &authority).await;
    let client = Bare::connect(&bed, &authority).await;
    let mut given_up = 0;
    while given_up < 20_000 {
        let Ok((mut send, receive)) = within(client.quic.open_bi()).await else { break };
        if send.write_all(&plain_head()).await.is_err() {
            break;
        }
        give_up(send, receive);
        given_up += 1;
    }
    assert!(given_up < 5_000, "{given_up}");
    assert_eq!(client.closed().await, 0x100);
    assert_eq!(other.get("/well").await.text(), "well");
}

#[tokio::test]
async fn a_stop_fails_no_request() {
    let authority = Authority::new();
    let backend = Backend::new(|request, _| match request.path() {
        "/late" => Deed::Hold(ok("late")),
        _ => Deed::Say(ok("quick")),
    })
    .await;
    let mut bed = serving(&authority, &backend).await;
    let (client, busy, idle) = (
        Client::connect(&bed, &authority).await,
        Client::connect(&bed, &authority).await,
        Client::connect(&bed, &authority).await,
    );
    let late = tokio::spawn({
        let client = client.clone();
        async move { client.get("/late").await }
    });
    until(|| backend.count() == 1).await;
    // One asks again and again until it is told that the connection ends.
    let asking = tokio::spawn(async move {
        let mut answered = 0;
        loop {
            match busy.try_ask(request("POST", "/"), &[], None).await {
                Ok(answer) => assert_eq!((answer.status.as_u16(), answer.text()), (200, "quick")),
                Err(error) => return (answered, error.to_string()),
            }
            answered += 1;
        }
    });
    until(|| backend.count() > 3).await;
    assert_eq!(bed.stop().await.state, RoleState::Running, "a request is under way");
    let (answered, end) = within(asking).await.unwrap();
    // What was told that it was not carried out may be asked elsewhere, whatever its method.
    assert!(end.contains("closing") || end.contains("H3_REQUEST_REJECTED"), "{end}");
    assert_eq!(backend.count() - 1, answered, "and it was not");
    assert_eq!(idle.ended().await, "Remote error: ApplicationClose: H3_NO_ERROR");
    let refused = dial(&bed, &authority, "shop.example").await.map(|_| ()).unwrap_err();
    assert!(refused.contains("refused"), "{refused}");
    backend.release();
    assert_eq!(within(late).await.unwrap().text(), "late");
    bed.converge_until(|report| report.state == RoleState::Stopped).await;
    assert_eq!(client.ended().await, "Remote error: ApplicationClose: H3_NO_ERROR");
    until_free(&mut bed).await;
}

#[tokio::test]
async fn an_agent_that_ends_says_so() {
    let (authority, backend) = (Authority::new(), Backend::named("a").await);
    let mut bed = serving(&authority, &backend).await;
    let client = Client::connect(&bed, &authority).await;
    assert_eq!(client.get("/").await.text(), "ok a");
    bed.ending.send_replace(true);
    within(bed.wake.clone().notified()).await;
    assert_eq!(bed.converge().await.state, RoleState::Running);
    assert_eq!(client.ended().await, "Remote error: ApplicationClose: H3_NO_ERROR");
    assert_eq!(announced(&bed, &authority).await, None, "and HTTPS goes on to the last moment");
}

#[tokio::test]
async fn an_agent_that_was_killed_and_started_again_tells_its_former_clients() {
    let (authority, backend) = (Authority::new(), Backend::named("a").await);
    let bed = serving(&authority, &backend).await;
    let cable = Cable::to(bed.https).await;
    let (_endpoint, quic) = dial_at(cable.addr, &authority, "shop.example").await.unwrap();
    // Nobody hears what it says when it ends.
    cable.set_cut(true);
    let (host, addr, https) = (bed.host.clone(), bed.addr, bed.https);
    drop(bed);
    let mut bed = Bed::on(host, addr, https, RoleConfig::default());
    bed.route("*", "/", "web");
    bed.place(1, ME, backend.addr.port());
    bed.certificates.send_replace(certified(&authority));
    within(bed.wake.clone().notified()).await;
    let clock = bed.clock.clone();
    bed.converge_until(|report| {
        // Its former life lets go of both ports in its own time.
        clock.by(Duration::from_secs(60));
        report.state == RoleState::Running
    })
    .await;
    cable.set_cut(false);
    let (mut send, _receive) = quic.open_bi().await.unwrap();
    send.write_all(&plain_head()).await.unwrap();
    assert_eq!(within(quic.closed()).await, quinn::ConnectionError::Reset);
}

#[tokio::test]
async fn nothing_is_answered_before_the_handshake_is_done() {
    let (authority, backend) = (Authority::new(), Backend::named("a").await);
    let bed = serving(&authority, &backend).await;
    let (endpoint, quic) = dial(&bed, &authority, "shop.example").await.unwrap();
    let client = Bare::over(endpoint.clone(), quic).await;
    assert!(
        matches!(client.ask(&plain_head()).await, End::Answered(_)),
        "by then it has what a session is resumed with"
    );
    let again = endpoint.connect(bed.https, "shop.example").unwrap();
    assert!(again.into_0rtt().is_err(), "early data could be played again");
}

#[tokio::test]
async fn connections_that_never_come_to_be_keep_nobody_out() {
    let (authority, backend) = (Authority::new(), Backend::named("a").await);
    let bed = serving(&authority, &backend).await;
    // As of somebody who writes the addresses of others into packets: what is answered never comes back.
    let cable = Cable::to(bed.https).await;
    cable.set_deaf(true);
    let (_endpoint, _begun) = begin(cable.addr, &authority, 200);
    until(|| cable.passed.load(Ordering::SeqCst) >= 200).await;
    let client = Client::connect(&bed, &authority).await;
    assert_eq!(client.get("/").await.text(), "ok a");
    assert_eq!(bed.counted("hirsel_lb_clients"), 1);
}

#[tokio::test]
async fn who_has_to_say_whom_it_connects_for_is_not_let_in() {
    let (authority, backend) = (Authority::new(), Backend::named("a").await);
    let mut bed = Bed::configured(free_addr().await, &["127.0.0.1"]).await;
    bed.route("*", "/", "web");
    bed.place(1, ME, backend.addr.port());
    bed.converge().await;
    certify(&mut bed, certified(&authority)).await;
    let refused = dial(&bed, &authority, "shop.example").await.map(|_| ()).unwrap_err();
    assert!(refused.contains("refused"), "{refused}");
    assert_eq!(bed.counted("hirsel_lb_refused_headers_total"), 1);
}

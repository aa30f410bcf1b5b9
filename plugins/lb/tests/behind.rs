//! A balancer before this one: who the client is when it says so, and only then.

mod common;

use common::authority::{Authority, bundles};
use common::backend::{Backend, Deed, ok};
use common::haproxy::Haproxy;
use common::wire::Client;
use common::{Bed, ME, free_addr, until, within};
use hirsel_model::report::RoleState;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A load balancer that believes `trusted`, before an instance that gives back who asked.
async fn serving(trusted: &str, rest: &str) -> (Bed, Backend) {
    let backend = Backend::new(|request, _| {
        Deed::Say(ok(&format!("{}!", request.header("x-forwarded-for").unwrap_or("nobody"))))
    });
    let (backend, mut bed) = (backend.await, Bed::configured(free_addr().await, &[trusted]).await);
    bed.routes(&format!("[route.\"*\"]\nto = \"web\"\n{rest}"));
    bed.place(1, ME, backend.addr.port());
    assert_eq!(bed.converge().await.state, RoleState::Running);
    (bed, backend)
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const HEADER: &str = "PROXY TCP4 192.0.2.7 192.0.2.1 1234 80\r\n";

#[tokio::test]
async fn the_client_is_whoever_a_trusted_balancer_says() {
    let (bed, _backend) = serving("127.0.0.1", "").await;
    let mut client = Client::connect(bed.addr).await;
    client.send(format!("{HEADER}{GET}")).await;
    assert_eq!(client.answer().await.text(), "192.0.2.7!");
    // It is said once, for all requests of the connection.
    client.send(GET).await;
    assert_eq!(client.answer().await.text(), "192.0.2.7!");
    // In version 2, in pieces; and one that only looks whether we are there.
    let mut client = Client::connect(bed.addr).await;
    let header = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24";
    let addrs = [[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]; 2].concat();
    client.send(header).await;
    tokio::task::yield_now().await;
    client.send([&addrs[..], &[0, 1, 0, 80], GET.as_bytes()].concat()).await;
    assert_eq!(client.answer().await.text(), "2001:db8::1!");
    let mut client = Client::connect(bed.addr).await;
    client.send([b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", GET.as_bytes()].concat()).await;
    assert_eq!(client.answer().await.text(), "127.0.0.1!");
}

#[tokio::test]
async fn a_trusted_balancer_has_to_say_it_and_nobody_else_is_believed() {
    let (bed, _backend) = serving("127.0.0.1", "").await;
    for wrong in [GET, "PROXY TCP4 here there 1 2\r\n"] {
        let mut client = Client::connect(bed.addr).await;
        client.send(wrong).await;
        assert!(client.is_closed().await, "{wrong}");
    }
    until(|| bed.counted("hirsel_lb_refused_headers_total") == 2).await;
    let (bed, backend) = serving("10.0.0.0/8", "").await;
    assert_eq!(bed.ask(GET).await.text(), "127.0.0.1!");
    let before = backend.count();
    assert_eq!(bed.ask(&format!("{HEADER}{GET}")).await.status(), 400);
    assert_eq!(backend.count(), before);
}

#[tokio::test]
async fn lists_are_about_the_client_and_not_about_the_balancer() {
    let (bed, _backend) = serving("127.0.0.1", "deny = \"192.0.2.0/24\"\n").await;
    assert_eq!(bed.ask(&format!("{HEADER}{GET}")).await.status(), 403);
    let other = "PROXY TCP4 198.51.100.7 192.0.2.1 1234 80\r\n";
    assert_eq!(bed.ask(&format!("{other}{GET}")).await.text(), "198.51.100.7!");
}

#[tokio::test]
async fn it_is_said_before_tls() {
    let (authority, (mut bed, _backend)) = (Authority::new(), serving("127.0.0.1", "").await);
    bed.certificates.send_replace(bundles(&[("a", &authority.certify(&["a.test"], 1))]));
    within(bed.wake.clone().notified()).await;
    bed.converge().await;
    let mut stream = within(TcpStream::connect(bed.https)).await.unwrap();
    stream.write_all(HEADER.as_bytes()).await.unwrap();
    let name = ServerName::try_from("a.test").unwrap();
    let mut stream = within(authority.client(&[]).connect(name, stream)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let _ = within(stream.read_to_string(&mut answer)).await;
    assert!(answer.ends_with("192.0.2.7!"), "{answer}");
}

#[tokio::test]
async fn haproxy_before_us_keeps_the_clients_address() {
    for sends in [" send-proxy", " send-proxy-v2"] {
        let (bed, _backend) = serving("127.0.0.0/8", "").await;
        let front = free_addr().await;
        let Some(_front) = Haproxy::passing(front, "", bed.addr, sends).await else { return };
        let mut client = Client::connect(front).await;
        client.send(GET).await;
        let from = client.stream.local_addr().unwrap().ip();
        assert_eq!(client.answer().await.text(), format!("{from}!"));
    }
}

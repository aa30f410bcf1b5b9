//! Sessions that are resumed at another load balancer than where they began.

mod common;

use std::sync::Arc;

use common::authority::{Authority, bundles};
use common::backend::Backend;
use common::{Bed, until, within};
use hirsel_model::report::RoleState;
use hirsel_role::certificate::{Bundles, TicketKey, TicketKeys};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// These keys, of which one seals.
fn keys(sealing: u64, all: &[u64]) -> Arc<TicketKeys> {
    let key = |version: &u64| (*version, TicketKey([u8::try_from(*version).unwrap(); 48]));
    Arc::new(TicketKeys { sealing: Some(sealing), keys: all.iter().map(key).collect() })
}

/// A load balancer of its own.
async fn balancer(backend: &Backend, certificates: &Arc<Bundles>, keys: Arc<TicketKeys>) -> Bed {
    let mut bed = Bed::serving(&[backend]).await;
    bed.tickets.send_replace(keys);
    bed.certificates.send_replace(certificates.clone());
    within(bed.wake.clone().notified()).await;
    assert_eq!(bed.converge().await.state, RoleState::Running);
    bed
}

/// One who speaks this version of TLS, and remembers sessions.
fn client(authority: &Authority, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    Arc::new(authority.client_speaking(version, &["http/1.1"]))
}

/// How a client shakes hands with `name` at a load balancer, where it is answered.
async fn shakes(bed: &Bed, client: &Arc<ClientConfig>, name: &str) -> HandshakeKind {
    let stream = within(TcpStream::connect(bed.https)).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut stream = within(TlsConnector::from(client.clone()).connect(name, stream)).await.unwrap();
    // Tickets of TLS 1.3 come behind the handshake.
    stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    let _ = within(stream.read_to_end(&mut said)).await;
    assert!(said.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&said));
    stream.get_ref().1.handshake_kind().unwrap()
}

const FULL: HandshakeKind = HandshakeKind::Full;
const RESUMED: HandshakeKind = HandshakeKind::Resumed;

async fn a_session_goes_on_elsewhere(version: &'static SupportedProtocolVersion) {
    let (authority, backend) = (Authority::new(), Backend::named("a").await);
    let shown = bundles(&[("shop", &authority.certify(&["shop.example", "blog.example"], 1))]);
    let one = balancer(&backend, &shown, keys(1, &[1, 2])).await;
    let two = balancer(&backend, &shown, keys(1, &[1, 2])).await;
    let client = client(&authority, version);
    assert_eq!(shakes(&one, &client, "shop.example").await, FULL);
    assert_eq!(shakes(&two, &client, "shop.example").await, RESUMED);
    until(|| two.counted("hirsel_lb_handshakes_total{kind=\"resumed\"}") == 1).await;
    // Another key seals, and one of them has not heard of the next one: what is out is good.
    one.tickets.send_replace(keys(2, &[1, 2, 3]));
    assert_eq!(shakes(&one, &client, "shop.example").await, RESUMED);
    two.tickets.send_replace(keys(3, &[2, 3, 4]));
    assert_eq!(shakes(&two, &client, "shop.example").await, RESUMED, "sealed with the second");
    // All of them are gone.
    one.tickets.send_replace(keys(8, &[8, 9]));
    assert_eq!(shakes(&one, &client, "shop.example").await, FULL);
}

#[tokio::test]
async fn a_session_goes_on_at_another_load_balancer_over_changes_of_keys_until_they_are_gone() {
    a_session_goes_on_elsewhere(&rustls::version::TLS13).await;
    a_session_goes_on_elsewhere(&rustls::version::TLS12).await;
}

/// A client whose memory of `shop.example` is offered to `blog.example`.
#[derive(Debug)]
struct Confused(Arc<dyn rustls::client::ClientSessionStore>);

impl Confused {
    fn name() -> ServerName<'static> {
        ServerName::try_from("shop.example").unwrap()
    }
}

impl rustls::client::ClientSessionStore for Confused {
    fn set_kx_hint(&self, _: ServerName<'static>, _: rustls::NamedGroup) {}
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<rustls::NamedGroup> {
        None
    }
    fn set_tls12_session(&self, _: ServerName<'static>, value: rustls::client::Tls12ClientSessionValue) {
        self.0.set_tls12_session(Self::name(), value);
    }
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<rustls::client::Tls12ClientSessionValue> {
        self.0.tls12_session(&Self::name())
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&Self::name());
    }
    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: rustls::client::Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(Self::name(), value);
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<rustls::client::Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&Self::name())
    }
}

#[tokio::test]
async fn a_session_with_one_name_is_none_with_another_though_one_certificate_is_for_both() {
    let (authority, backend) = (Authority::new(), Backend::named("a").await);
    let shown = bundles(&[("both", &authority.certify(&["shop.example", "blog.example"], 1))]);
    let bed = balancer(&backend, &shown, keys(1, &[1, 2])).await;
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let mut config = authority.client_speaking(version, &["http/1.1"]);
        let memory = Arc::new(rustls::client::ClientSessionMemoryCache::new(8));
        config.resumption = rustls::client::Resumption::store(Arc::new(Confused(memory)));
        let client = Arc::new(config);
        assert_eq!(shakes(&bed, &client, "shop.example").await, FULL);
        assert_eq!(shakes(&bed, &client, "shop.example").await, RESUMED);
        assert_eq!(shakes(&bed, &client, "blog.example").await, FULL, "{version:?}");
    }
}

#[tokio::test]
async fn without_a_key_sessions_are_remembered_where_they_began() {
    let (authority, backend) = (Authority::new(), Backend::named("a").await);
    let shown = bundles(&[("shop", &authority.certify(&["shop.example"], 1))]);
    let one = balancer(&backend, &shown, Arc::default()).await;
    let two = balancer(&backend, &shown, Arc::default()).await;
    let client = client(&authority, &rustls::version::TLS13);
    assert_eq!(shakes(&one, &client, "shop.example").await, FULL);
    assert_eq!(shakes(&one, &client, "shop.example").await, RESUMED);
    assert_eq!(shakes(&two, &client, "shop.example").await, FULL);
}

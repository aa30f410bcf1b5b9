//! Clients that are let in by their certificates, made by OpenSSL, over every HTTP that is spoken here; and all others.

mod common;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use common::authority::{Authority, bundles};
use common::backend::{Backend, Deed};
use common::{Bed, quic, until, within};
use hirsel_model::report::RoleState;
use hirsel_role::certificate::{TicketKey, TicketKeys};
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const ASKED: &str = "shop.example";
const ALSO_ASKED: &str = "admin.example";
const OPEN: &str = "open.example";

/// A folder in which OpenSSL makes certificates.
struct Desk(PathBuf);

impl Desk {
    /// None where there is no OpenSSL.
    fn new() -> Option<Self> {
        static DESKS: AtomicU64 = AtomicU64::new(0);
        if !Command::new("openssl").arg("version").output().is_ok_and(|output| output.status.success()) {
            assert_ne!(std::env::var("HIRSEL_REQUIRE").as_deref(), Ok("all"), "openssl is missing");
            eprintln!("skipped: needs openssl");
            return None;
        }
        let number = DESKS.fetch_add(1, Ordering::SeqCst);
        let folder = std::env::temp_dir().join(format!("hirsel-clients-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("ext"), "extendedKeyUsage=clientAuth\n").unwrap();
        Some(Self(folder))
    }

    fn run(&self, line: &str) -> String {
        let ran =
            Command::new("openssl").args(line.split(' ')).current_dir(&self.0).stdin(Stdio::null()).output().unwrap();
        assert!(ran.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap()
    }

    /// One who certifies clients, in PEM.
    fn authority(&self, name: &str) -> String {
        self.run(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.pem -subj /O=Shop/CN={name} -days 30"
        ));
        self.read(&format!("{name}.pem"))
    }

    /// A client certified by `by` for so many days, with its key.
    fn client(&self, name: &str, by: &str, days: i32) -> (String, String) {
        self.run(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj /O=Shop/CN={name}"
        ));
        self.run(&format!(
            "x509 -req -in {name}.csr -CA {by}.pem -CAkey {by}.key -CAcreateserial -out {name}.pem -days {days} -extfile ext"
        ));
        (self.read(&format!("{name}.pem")), self.read(&format!("{name}.key")))
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A load balancer that asks clients of two hosts for certificates, and those of a third one for nothing.
struct Door {
    bed: Bed,
    backend: Backend,
    authority: Authority,
    desk: Desk,
}

/// What routes of the two hosts say, as certified by `pem`.
fn asks(pem: &str, besides: &str) -> String {
    let route = |host: &str| format!("[route.\"{host}\"]\nto = \"web\"\nclient_ca = \"\"\"\n{pem}\"\"\"\n{besides}");
    format!("{}{}[route.\"{OPEN}\"]\nto = \"web\"\n", route(ASKED), route(ALSO_ASKED))
}

impl Door {
    async fn new(besides: &str) -> Option<Self> {
        let desk = Desk::new()?;
        let pem = desk.authority("clients");
        let (authority, backend) = (Authority::new(), Backend::named("a").await);
        let mut bed = Bed::serving(&[&backend]).await;
        bed.routes(&asks(&pem, besides));
        let keys = [1, 2].map(|version| (version, TicketKey([u8::try_from(version).unwrap(); 48]))).into();
        bed.tickets.send_replace(Arc::new(TicketKeys { sealing: Some(1), keys }));
        bed.certificates.send_replace(bundles(&[("all", &authority.certify(&[ASKED, ALSO_ASKED, OPEN], 1))]));
        within(bed.wake.clone().notified()).await;
        assert_eq!(bed.converge().await.state, RoleState::Running);
        Some(Self { bed, backend, authority, desk })
    }

    /// A client that shows what it has.
    fn showing(
        &self,
        version: &'static SupportedProtocolVersion,
        protocol: &str,
        who: &(String, String),
    ) -> ClientConfig {
        self.authority.client_showing(version, &[protocol], (&who.0, &who.1))
    }

    /// One that has nothing to show.
    fn showing_nothing(&self, version: &'static SupportedProtocolVersion, protocol: &str) -> ClientConfig {
        self.authority.client_speaking(version, &[protocol])
    }

    async fn shake(&self, client: impl Into<Arc<ClientConfig>>, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = within(TcpStream::connect(self.bed.https)).await?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        within(TlsConnector::from(client.into()).connect(name, stream)).await
    }

    /// What is answered over a connection for `name` to a request for `host`; nothing if the client is not let in.
    async fn ask_1(&self, client: impl Into<Arc<ClientConfig>>, name: &str, host: &str) -> Option<String> {
        let mut stream = self.shake(client, name).await.ok()?;
        stream.write_all(request_1(host).as_bytes()).await.ok()?;
        let mut said = Vec::new();
        let _ = within(stream.read_to_end(&mut said)).await;
        (!said.is_empty()).then(|| String::from_utf8_lossy(&said).into_owned())
    }

    async fn speak_2(&self, client: ClientConfig, name: &str) -> hyper::client::conn::http2::SendRequest<Empty<Bytes>> {
        let stream = TokioIo::new(self.shake(client, name).await.unwrap());
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    fn refused(&self, reason: &str) -> u64 {
        let name = format!("hirsel_lb_refused_client_certificates_total{{reason=\"{reason}\"}}");
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.bed.registry.lock().unwrap()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.map_or(0, |count| count.trim().parse().unwrap())
    }

    fn last(&self, name: &str) -> Option<String> {
        let seen = self.backend.seen.lock().unwrap();
        seen.last().unwrap().header(name).map(str::to_owned)
    }

    fn count(&self) -> usize {
        self.backend.seen.lock().unwrap().len()
    }
}

/// A request with what a client says of itself that may not.
fn request_1(host: &str) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nX-Client-Cert-Subject: CN=root\r\nX_Client_Cert_Verify: success\r\n\
         X-Client-Cert-Issuer: CN=root\r\nClient-Cert: :AAEC:\r\n\r\n"
    )
}

fn request(host: &str) -> Request<Empty<Bytes>> {
    let request = Request::builder().uri(format!("https://{host}/")).header("x-client-cert-subject", "CN=root");
    request.body(Empty::new()).unwrap()
}

fn request_3(host: &str) -> Request<()> {
    request(host).map(|_| ())
}

fn status(said: &str) -> &str {
    said.split(' ').nth(1).unwrap_or_default()
}

#[tokio::test]
async fn whoever_shows_a_good_certificate_is_let_in_and_the_program_is_told_whose_it_is() {
    let Some(door) = Door::new("").await else { return };
    let anna = door.desk.client("anna", "clients", 30);
    let fingerprint = door.desk.run("x509 -in anna.pem -noout -fingerprint -sha256");
    let fingerprint = fingerprint.trim().rsplit('=').next().unwrap().replace(':', "").to_lowercase();
    let told = |how: &str| {
        assert_eq!(door.last("x-client-cert-verify").as_deref(), Some("success"), "{how}");
        assert_eq!(door.last("x-client-cert-subject").as_deref(), Some("CN=anna,O=Shop"), "{how}");
        assert_eq!(door.last("x-client-cert-fingerprint").as_deref(), Some(&*fingerprint), "{how}");
        let whole: String = anna.0.lines().filter(|line| !line.starts_with("-----")).collect();
        assert_eq!(door.last("client-cert"), Some(format!(":{whole}:")), "{how}");
        for forged in ["x-client-cert-issuer", "x_client_cert_verify"] {
            assert_eq!(door.last(forged), None, "{how}");
        }
    };
    for version in [&TLS12, &TLS13] {
        let said = door.ask_1(door.showing(version, "http/1.1", &anna), ASKED, ASKED).await.unwrap();
        assert!(said.starts_with("HTTP/1.1 200 OK") && said.ends_with("ok a"), "{said}");
        told("HTTP/1.1");
    }
    let mut sender = door.speak_2(door.showing(&TLS13, "h2", &anna), ASKED).await;
    assert_eq!(within(sender.send_request(request(ASKED))).await.unwrap().status(), StatusCode::OK);
    told("HTTP/2");
    let client = quic::Client::with(&door.bed, door.showing(&TLS13, "h3", &anna), ASKED).await.unwrap();
    assert_eq!(client.ask(request_3(ASKED), &[]).await.status, StatusCode::OK);
    told("HTTP/3");

    // Where nobody is asked, nobody is told, whatever a client says.
    let said = door.ask_1(door.showing(&TLS13, "http/1.1", &anna), OPEN, OPEN).await.unwrap();
    assert_eq!(status(&said), "200");
    for name in ["x-client-cert-verify", "x-client-cert-subject", "x_client_cert_verify", "client-cert"] {
        assert_eq!(door.last(name), None, "{name}");
    }
}

#[tokio::test]
async fn whoever_shows_none_or_a_wrong_one_is_refused_in_the_handshake_and_counted() {
    let Some(door) = Door::new("").await else { return };
    door.desk.authority("others");
    let stranger = door.desk.client("stranger", "others", 30);
    let late = door.desk.client("late", "clients", -1);
    let anna = door.desk.client("anna", "clients", 30);
    let mut wanted = [("unknown", 0), ("expired", 0), ("none", 0)];
    for version in [&TLS12, &TLS13] {
        let good = door.showing(version, "http/1.1", &anna);
        assert_eq!(
            status(&door.ask_1(good, ASKED, ASKED).await.unwrap()),
            "200",
            "the others differ from this one alone"
        );
        assert_eq!(door.ask_1(door.showing(version, "http/1.1", &stranger), ASKED, ASKED).await, None);
        assert_eq!(door.ask_1(door.showing(version, "http/1.1", &late), ASKED, ASKED).await, None);
        assert_eq!(door.ask_1(door.showing_nothing(version, "http/1.1"), ASKED, ASKED).await, None);
        wanted.iter_mut().for_each(|(_, count)| *count += 1);
    }
    for who in [Some(&stranger), Some(&late), None] {
        let tls = who.map_or_else(|| door.showing_nothing(&TLS13, "h3"), |who| door.showing(&TLS13, "h3", who));
        let refused = match quic::Client::with(&door.bed, tls, ASKED).await {
            Err(_) => true,
            Ok(client) => client.try_ask(request_3(ASKED), &[], None).await.is_err(),
        };
        assert!(refused);
    }
    wanted.iter_mut().for_each(|(_, count)| *count += 1);
    until(|| wanted.iter().all(|(reason, count)| door.refused(reason) == *count)).await;
    assert_eq!(door.bed.counted("hirsel_lb_refused_handshakes_total"), 9);
    assert_eq!(door.count(), 2);
    // In clear there is nothing to show.
    let answer = door.bed.ask(&format!("GET / HTTP/1.1\r\nHost: {ASKED}\r\n\r\n")).await;
    assert_eq!((answer.status(), door.count()), (403, 2));
    assert!(answer.text().contains("come over https"), "{}", answer.text());
}

#[tokio::test]
async fn no_connection_that_was_made_for_another_host_gets_to_one_that_asks() {
    let Some(door) = Door::new("").await else { return };
    let anna = door.desk.client("anna", "clients", 30);
    for name in [OPEN, ALSO_ASKED] {
        let said = door.ask_1(door.showing(&TLS13, "http/1.1", &anna), name, ASKED).await.unwrap();
        assert_eq!(status(&said), "421", "{name}: {said}");
        let mut sender = door.speak_2(door.showing(&TLS13, "h2", &anna), name).await;
        let answer = within(sender.send_request(request(ASKED))).await.unwrap();
        assert_eq!(answer.status(), StatusCode::MISDIRECTED_REQUEST, "{name}");
        let client = quic::Client::with(&door.bed, door.showing(&TLS13, "h3", &anna), name).await.unwrap();
        assert_eq!(client.ask(request_3(ASKED), &[]).await.status, StatusCode::MISDIRECTED_REQUEST, "{name}");
        assert_eq!(door.count(), 0, "{name}");
        // However the host is spelled.
        for host in ["SHOP.example", "shop.example.", "shop.example:443"] {
            let said = door.ask_1(door.showing(&TLS13, "http/1.1", &anna), name, host).await.unwrap();
            assert_eq!(status(&said), "421", "{host}: {said}");
        }
        assert_eq!(door.count(), 0, "{name}");
    }
    // The other way round there is nothing to be protected.
    let said = door.ask_1(door.showing(&TLS13, "http/1.1", &anna), ASKED, OPEN).await.unwrap();
    assert_eq!((status(&said), door.last("x-client-cert-verify")), ("200", None));
    // A name is one name, however it is spelled.
    for host in ["SHOP.example", "shop.example.", "shop.example:443"] {
        let said = door.ask_1(door.showing(&TLS13, "http/1.1", &anna), "SHOP.example", host).await.unwrap();
        assert_eq!(status(&said), "200", "{host}: {said}");
    }
}

#[tokio::test]
async fn who_need_not_show_one_is_let_in_without_and_not_with_a_wrong_one() {
    let Some(door) = Door::new("client_auth = \"request\"\n").await else { return };
    door.desk.authority("others");
    let (anna, stranger) = (door.desk.client("anna", "clients", 30), door.desk.client("stranger", "others", 30));
    let said = door.ask_1(door.showing_nothing(&TLS13, "http/1.1"), ASKED, ASKED).await.unwrap();
    assert_eq!((status(&said), door.last("x-client-cert-verify").as_deref()), ("200", Some("none")));
    assert_eq!(door.last("x-client-cert-subject"), None);
    let said = door.ask_1(door.showing(&TLS13, "http/1.1", &anna), ASKED, ASKED).await.unwrap();
    assert_eq!((status(&said), door.last("x-client-cert-subject").as_deref()), ("200", Some("CN=anna,O=Shop")));
    assert_eq!(door.ask_1(door.showing(&TLS13, "http/1.1", &stranger), ASKED, ASKED).await, None);
    let answer = door.bed.ask(&format!("GET / HTTP/1.1\r\nHost: {ASKED}\r\n\r\n")).await;
    assert_eq!((answer.status(), door.last("x-client-cert-verify").as_deref()), (200, Some("none")));
    // It was not asked under that name.
    let said = door.ask_1(door.showing(&TLS13, "http/1.1", &anna), OPEN, ASKED).await.unwrap();
    assert_eq!(status(&said), "421");
}

#[tokio::test]
async fn another_authority_holds_at_once_also_for_connections_that_are_open() {
    let Some(mut door) = Door::new("").await else { return };
    let anna = door.desk.client("anna", "clients", 30);
    let next = door.desk.authority("next");
    let bert = door.desk.client("bert", "next", 30);
    let mut open_2 = door.speak_2(door.showing(&TLS13, "h2", &anna), ASKED).await;
    assert_eq!(within(open_2.send_request(request(ASKED))).await.unwrap().status(), StatusCode::OK);
    let open_3 = quic::Client::with(&door.bed, door.showing(&TLS13, "h3", &anna), ASKED).await.unwrap();
    assert_eq!(open_3.ask(request_3(ASKED), &[]).await.status, StatusCode::OK);
    let before = door.count();
    door.bed.routes(&asks(&next, ""));
    door.bed.converge().await;
    // It is told to connect anew, and then its connection ends.
    let answer = within(open_2.send_request(request(ASKED))).await;
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status() == StatusCode::MISDIRECTED_REQUEST));
    let answer = open_3.try_ask(request_3(ASKED), &[], None).await;
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == StatusCode::MISDIRECTED_REQUEST));
    until(|| open_2.is_closed()).await;
    open_3.ended().await;
    assert_eq!(door.count(), before);
    assert_eq!(door.ask_1(door.showing(&TLS13, "http/1.1", &anna), ASKED, ASKED).await, None);
    let said = door.ask_1(door.showing(&TLS13, "http/1.1", &bert), ASKED, ASKED).await.unwrap();
    assert_eq!((status(&said), door.last("x-client-cert-subject").as_deref()), ("200", Some("CN=bert,O=Shop")));

    // Both, while clients go from one to the other.
    let both = format!("{}{next}", door.desk.read("clients.pem"));
    door.bed.routes(&asks(&both, ""));
    door.bed.converge().await;
    for who in [&anna, &bert] {
        let said = door.ask_1(door.showing(&TLS12, "http/1.1", who), ASKED, ASKED).await.unwrap();
        assert_eq!(status(&said), "200");
    }
}

#[tokio::test]
async fn no_session_brings_anybody_in() {
    let Some(mut door) = Door::new("").await else { return };
    let anna = door.desk.client("anna", "clients", 30);
    for version in [&TLS12, &TLS13] {
        let client = Arc::new(door.showing(version, "http/1.1", &anna));
        let kind = async |name: &str| {
            let mut stream = door.shake(client.clone(), name).await.unwrap();
            stream.write_all(request_1(name).as_bytes()).await.unwrap();
            let mut said = Vec::new();
            let _ = within(stream.read_to_end(&mut said)).await;
            assert!(said.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&said));
            stream.get_ref().1.handshake_kind().unwrap()
        };
        for _ in 0..2 {
            assert_ne!(kind(ASKED).await, HandshakeKind::Resumed);
        }
        assert_ne!(kind(OPEN).await, HandshakeKind::Resumed);
        assert_eq!(kind(OPEN).await, HandshakeKind::Resumed, "where nobody is asked, sessions go on");
    }
    // A session from before anybody was asked.
    let pem = door.desk.read("clients.pem");
    for version in [&TLS12, &TLS13] {
        door.bed.routes("[route.\"*\"]\nto = \"web\"\n");
        door.bed.converge().await;
        let nobody = Arc::new(door.showing_nothing(version, "http/1.1"));
        for _ in 0..2 {
            let said = door.ask_1(nobody.clone(), ASKED, ASKED).await.unwrap();
            assert_eq!(status(&said), "200");
        }
        let before = door.count();
        door.bed.routes(&asks(&pem, ""));
        door.bed.converge().await;
        assert_eq!(door.ask_1(nobody.clone(), ASKED, ASKED).await, None);
        // And what one host gave is no good at another.
        assert_eq!(status(&door.ask_1(nobody.clone(), OPEN, OPEN).await.unwrap()), "200");
        assert_eq!(door.ask_1(nobody, ASKED, ASKED).await, None);
        assert_eq!(door.count(), before + 1);
    }
}

#[tokio::test]
async fn what_was_answered_to_one_client_is_not_given_to_another() {
    let Some(door) = Door::new("cache = true\nlog = \"json\"\n").await else { return };
    let kept = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nCache-Control: max-age=60\r\n\r\nok";
    let backend = Backend::new(move |_, _| Deed::Say(kept.as_bytes().to_vec())).await;
    let mut door = Door { backend, ..door };
    door.bed.unplace(1);
    door.bed.place(2, common::ME, door.backend.addr.port());
    door.bed.converge().await;
    let (anna, bert) = (door.desk.client("anna", "clients", 30), door.desk.client("bert", "clients", 30));
    for (who, asked) in [(&anna, 1), (&bert, 2), (&anna, 3)] {
        let said = door.ask_1(door.showing(&TLS13, "http/1.1", who), ASKED, ASKED).await.unwrap();
        assert_eq!((status(&said), door.count()), ("200", asked));
    }
    // It is written down who it was, and told.
    let log = door.bed.log(3).await;
    let line: serde_json::Value = serde_json::from_str(&log[1]).unwrap();
    assert_eq!(line["client_cert"], "CN=bert,O=Shop", "{line}");
    assert_eq!(line["client_cert_sha256"].as_str().unwrap().len(), 64);
    let teller = door.bed.requests.behind().unwrap();
    let id = line["id"].as_str().unwrap();
    until(|| !teller.recall(id).is_empty()).await;
    let told = teller.recall(id).remove(0).certificate.unwrap();
    assert!(told.starts_with("CN=bert,O=Shop, SHA-256 "), "{told}");
}

#[tokio::test]
async fn whoever_comes_in_clear_is_led_to_tls_where_the_route_says_so() {
    let Some(door) = Door::new("redirect = \"https\"\n").await else { return };
    let answer = door.bed.ask(&format!("GET / HTTP/1.1\r\nHost: {ASKED}\r\n\r\n")).await;
    assert_eq!((answer.status(), door.count()), (302, 0));
}

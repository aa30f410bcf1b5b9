//! What a client sees of a host that is passed on encrypted: the target's own certificate, and nothing of the load balancer.

mod common;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use common::authority::{Authority, bundles};
use common::backend::Backend;
use common::{Bed, ME, free_addr, until, within};
use hirsel_model::report::{RoleFacts, RoleState};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// A program that ends TLS by itself, and gives back what it is told with its name before it.
struct Program {
    addr: SocketAddr,
    names: Arc<Mutex<Vec<Option<String>>>>,
    task: JoinHandle<()>,
}

impl Program {
    async fn with(authority: &Authority, names: &[&str]) -> Self {
        let bundle = authority.certify(names, 77);
        let chain = CertificateDer::pem_slice_iter(bundle.chain.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(bundle.key.0.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
        let (acceptor, listener) =
            (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let (addr, names) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<Option<String>>>>::default());
        let seen = names.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen) = (acceptor.clone(), seen.clone());
                tokio::spawn(async move {
                    let mut stream = acceptor.accept(stream).await?;
                    seen.lock().unwrap().push(stream.get_ref().1.server_name().map(str::to_owned));
                    let mut piece = [0; 1024];
                    loop {
                        match stream.read(&mut piece).await? {
                            0 => return stream.shutdown().await,
                            read => stream.write_all(&[b"program: ", &piece[..read]].concat()).await?,
                        }
                    }
                });
            }
        });
        Self { addr, names, task }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn shake(
    bed: &Bed,
    client: &TlsConnector,
    name: &str,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = within(TcpStream::connect(bed.https)).await?;
    within(client.connect(ServerName::try_from(name.to_owned()).unwrap(), stream)).await
}

/// What is answered to `hello` over TLS for `name`.
async fn talk(bed: &Bed, client: &TlsConnector, name: &str) -> std::io::Result<String> {
    let mut stream = shake(bed, client, name).await?;
    stream.write_all(b"hello").await?;
    let mut answer = [0; 14];
    within(stream.read_exact(&mut answer)).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

const ROUTES: &str = "[route.\"db.test\"]\nto = \"web\"\ntls = \"passthrough\"\n\
                      [route.\"*.db.test\"]\nto = \"web\"\ntls = \"passthrough\"\n\
                      [route.\"shown.db.test\"]\nto = \"next\"\n";

/// A load balancer that passes on `db.test` and what is below it to `program`, but for one name.
async fn passing(program: &Program) -> Bed {
    let mut bed = Bed::new().await;
    bed.routes(ROUTES);
    bed.place(1, ME, program.addr.port());
    let report = bed.converge().await;
    assert_eq!((report.state, report.message), (RoleState::Running, None));
    bed
}

#[tokio::test]
async fn the_program_shows_its_own_certificate_though_the_load_balancer_has_none() {
    let authority = Authority::new();
    let program = Program::with(&authority, &["db.test", "*.db.test"]).await;
    let bed = passing(&program).await;
    let client = authority.client(&[]);
    assert_eq!(talk(&bed, &client, "db.test").await.unwrap(), "program: hello");
    assert_eq!(talk(&bed, &client, "A.db.test").await.unwrap(), "program: hello");
    let names = [Some("db.test".to_owned()), Some("a.db.test".to_owned())];
    assert_eq!(*program.names.lock().unwrap(), names);
    assert_eq!(bed.counted("hirsel_lb_passed_through_total"), 2);
    // Nobody answers for these: one belongs to a route that needs a certificate, the others to nobody.
    for nobody in ["shown.db.test", "a.b.db.test", "other.test", "127.0.0.1"] {
        assert!(talk(&bed, &client, nobody).await.is_err(), "{nobody}");
    }
    until(|| bed.counted("hirsel_lb_clients") == 0).await;
}

#[tokio::test]
async fn names_that_are_not_passed_on_are_shown_the_load_balancers_certificate() {
    let authority = Authority::new();
    let program = Program::with(&authority, &["db.test"]).await;
    let mut bed = passing(&program).await;
    let backend = Backend::named("next").await;
    bed.place_as("next", 9, ME, backend.addr.port());
    bed.certificates.send_replace(bundles(&[("shown", &authority.certify(&["shown.db.test"], 1))]));
    bed.converge().await;
    let client = authority.client(&[]);
    let ask = async |host: &str| {
        let mut stream = shake(&bed, &client, "shown.db.test").await?;
        stream.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        let _ = within(stream.read_to_string(&mut answer)).await;
        std::io::Result::Ok(answer)
    };
    // Shown as soon as the certificate has been seen.
    let answer = within(async {
        loop {
            if let Ok(answer) = ask("shown.db.test").await {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok next"), "{answer}");
    // Who asks there for a host that is passed on is sent to a connection of its own.
    assert!(ask("db.test").await.unwrap().starts_with("HTTP/1.1 421"));
    assert_eq!(talk(&bed, &client, "db.test").await.unwrap(), "program: hello");
}

#[tokio::test]
async fn who_comes_in_clear_is_led_to_tls_and_who_may_not_come_is_turned_away() {
    let authority = Authority::new();
    let program = Program::with(&authority, &["db.test"]).await;
    let mut bed = passing(&program).await;
    let answer = bed.ask("GET /x HTTP/1.1\r\nHost: db.test\r\n\r\n").await;
    let there = format!("https://db.test:{}/x", bed.https.port());
    assert_eq!((answer.status(), answer.header("location")), (302, Some(&*there)));
    bed.routes("[route.\"db.test\"]\nto = \"web\"\ntls = \"passthrough\"\ndeny = \"127.0.0.0/8\"\n");
    bed.converge().await;
    assert!(talk(&bed, &authority.client(&[]), "db.test").await.is_err());
    // Whoever says nothing, or nothing whole, holds no place for ever and harms nobody.
    let mut silent = TcpStream::connect(bed.https).await.unwrap();
    silent.write_all(b"\x16\x03\x01").await.unwrap();
    silent.shutdown().await.unwrap();
    assert_eq!(within(silent.read(&mut [0; 16])).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn an_instance_that_does_not_accept_is_passed_over_and_one_that_drains_keeps_its_connections() {
    let authority = Authority::new();
    let program = Program::with(&authority, &["db.test"]).await;
    let mut bed = passing(&program).await;
    let client = authority.client(&[]);
    bed.place(2, ME, free_addr().await.port());
    bed.converge().await;
    for _ in 0..5 {
        assert_eq!(talk(&bed, &client, "db.test").await.unwrap(), "program: hello");
    }
    let mut stream = shake(&bed, &client, "db.test").await.unwrap();
    bed.drain(1);
    let busy = RoleFacts::Lb([("shop/web/1".parse().unwrap(), 1)].into());
    bed.converge_until(|report| report.facts == busy).await;
    stream.write_all(b"hello").await.unwrap();
    let mut answer = [0; 14];
    within(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"program: hello");
    drop(stream);
    bed.converge_until(|report| report.facts == RoleFacts::Lb([].into())).await;
}

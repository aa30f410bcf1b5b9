//! Servers on loopback, with TLS and without: who is believed, what is kept, what is too much.

use std::sync::atomic::{AtomicUsize, Ordering};

use hirsel_mesh::seam::real;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::host::real::{Groups, GuardConfig, RealHost, RealHostConfig};

const SOON: Duration = Duration::from_secs(20);

fn host(folder: &std::path::Path) -> Arc<dyn Host> {
    let guard = GuardConfig { folder: folder.join("guard"), command: Vec::new() };
    let net = real::world(&folder.join("world")).unwrap().net;
    let config = RealHostConfig { folder: folder.join("host"), shim: Vec::new(), guard, groups: Groups::Never, net };
    Arc::new(RealHost::new(config).unwrap())
}

/// An authority, and what a server shows that it certified for `name`.
fn certified(name: &str) -> (CertificateDer<'static>, TlsAcceptor) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    (authority.der().clone(), TlsAcceptor::from(Arc::new(config)))
}

/// A server that gives the same answer to whatever is asked.
struct Server {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    async fn start(tls: Option<TlsAcceptor>, answer: String) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server { addr: listener.local_addr().unwrap(), connections: Arc::default() };
        let connections = server.connections.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                match &tls {
                    None => drop(tokio::spawn(serve(stream, answer.clone()))),
                    // Who refuses what is shown goes.
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            tokio::spawn(serve(stream, answer.clone()));
                        }
                    }
                }
            }
        });
        server
    }

    fn url(&self, scheme: &str) -> Uri {
        format!("{scheme}://{}/page", self.addr).parse().unwrap()
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, answer: String) {
    let (mut stream, mut length, mut line) = (BufReader::new(stream), 0, String::new());
    while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
        if let Some(said) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = said.trim().parse().unwrap();
        }
        if line == "\r\n" {
            let mut body = vec![0; std::mem::take(&mut length)];
            stream.read_exact(&mut body).await.unwrap();
            // Whoever does not want all of it is gone by then.
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.flush().await;
            if answer.contains("Connection: close") {
                return;
            }
        }
        line.clear();
    }
}

fn answer(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

async fn get(client: &Outbound, url: &Uri) -> Result<Response<Bytes>, String> {
    let request = Request::get(url.path()).body(Bytes::new()).unwrap();
    client.ask(&Place::of(url).unwrap(), request, SOON).await
}

#[tokio::test]
async fn over_tls_who_is_certified_by_a_believed_authority_is_talked_to_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let host = host(folder.path());
    let (authority, tls) = certified("127.0.0.1");
    let server = Server::start(Some(tls), answer("baa")).await;
    let url = server.url("https");
    let believing = Outbound::believing(host.clone(), vec![authority.clone()]);
    assert_eq!(get(&believing, &url).await.unwrap().body(), "baa");
    assert_eq!(believing.post_json(&url.to_string(), Bytes::from_static(b"{}"), SOON).await, Ok(()));

    let (other, tls) = certified("other.example");
    let words = get(&Outbound::believing(host.clone(), vec![other.clone()]), &url).await.unwrap_err();
    assert!(
        words.contains("TLS with 127.0.0.1 (") && words.contains("no authority that this host believes"),
        "{words}"
    );
    let server = Server::start(Some(tls), answer("moo")).await;
    let words = get(&Outbound::believing(host.clone(), vec![other]), &server.url("https")).await.unwrap_err();
    assert!(words.contains("its certificate is for another name"), "{words}");
    // Who does not speak TLS is no such server either.
    let plain = Server::start(None, answer("baa")).await;
    assert!(get(&believing, &plain.url("https")).await.unwrap_err().contains("TLS with"));
}

#[tokio::test]
async fn a_connection_is_used_again_and_one_that_ended_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let client = Outbound::new(host(folder.path()));
    let server = Server::start(None, answer("baa")).await;
    for _ in 0..3 {
        assert_eq!(get(&client, &server.url("http")).await.unwrap().body(), "baa");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    let closes = answer("baa").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let server = Server::start(None, closes).await;
    for _ in 0..3 {
        assert_eq!(get(&client, &server.url("http")).await.unwrap().body(), "baa");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn what_is_too_long_or_too_late_is_an_error_and_of_a_post_only_the_status_counts() {
    let folder = tempfile::tempdir().unwrap();
    let client = Outbound::new(host(folder.path()));
    let long = Server::start(None, answer(&"a".repeat(ANSWER_BYTES_MAX + 1))).await;
    let words = get(&client, &long.url("http")).await.unwrap_err();
    assert_eq!(words, "the answer has more than 262144 bytes");
    assert_eq!(client.post_json(&long.url("http").to_string(), Bytes::from_static(b"{}"), SOON).await, Ok(()));
    let refuses = Server::start(None, "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".into()).await;
    let words = client.post_json(&refuses.url("http").to_string(), Bytes::new(), SOON).await.unwrap_err();
    assert_eq!(words, "answered 503 Service Unavailable");
    assert_eq!(get(&client, &refuses.url("http")).await.unwrap().status(), 503, "who asks looks himself");
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = Place::of(&format!("http://{}", silent.local_addr().unwrap()).parse().unwrap()).unwrap();
    let asked = client.ask(&place, Request::new(Bytes::new()), Duration::from_millis(50)).await;
    assert_eq!(asked.unwrap_err(), "no answer within 50ms");
}

#[test]
fn where_a_url_leads() {
    let of = |text: &str| {
        Place::of(&text.parse().unwrap()).map(|it| (it.secure, format!("{} {} {}", it.host, it.port, it.authority)))
    };
    assert_eq!(of("https://u:p@hooks.example.com/a?b"), Ok((true, "hooks.example.com 443 hooks.example.com".into())));
    assert_eq!(of("http://[::1]:81/"), Ok((false, "::1 81 [::1]:81".into())));
    assert_eq!(of("ftp://a/"), Err("is neither http nor https".into()));
    assert_eq!(of("/a"), Err("is neither http nor https".into()));
}

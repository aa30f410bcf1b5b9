//! What a directory sees that looks whether a host is ours.

mod common;

use std::sync::Arc;

use common::backend::Backend;
use common::wire::Client;
use common::{Bed, until, within};
use hirsel_model::report::RoleState;
use hirsel_role::certificate::{Bundle, Challenges};
use hirsel_role::secret::Plain;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, X509Certificate};

const TOKEN: &str = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0";

/// As a directory does it: whoever holds the key of the certificate is who it says, and the rest is looked at afterwards.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("both speak TLS 1.3".into()))
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // The critical extension keeps the certificate from being read as others are.
        let (_, parsed) = X509Certificate::from_der(cert).map_err(|error| Error::General(error.to_string()))?;
        let key = SubjectPublicKeyInfoDer::from(parsed.public_key().raw);
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.0.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The certificate that is shown for `name` to whoever offers these protocols; and what was agreed on.
async fn shown(bed: &Bed, name: &str, protocols: &[&str]) -> std::io::Result<(Vec<u8>, Option<Vec<u8>>)> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let mut config =
        config.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider))).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = within(TcpStream::connect(bed.https)).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut stream = within(TlsConnector::from(Arc::new(config)).connect(name, stream)).await?;
    let session = stream.get_ref().1;
    let leaf = session.peer_certificates().unwrap()[0].to_vec();
    let protocol = session.alpn_protocol().map(<[u8]>::to_vec);
    if protocol.as_deref() == Some(b"acme-tls/1") {
        // There is nothing more to be said: it ends, one way or the other.
        assert_eq!(within(stream.read(&mut [0; 8])).await.unwrap_or(0), 0);
    }
    Ok((leaf, protocol))
}

/// A certificate that proves `name`, and its DER.
fn proof(name: &str) -> (Bundle, Vec<u8>) {
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(&[7; 32])];
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap();
    (Bundle { version: 0, chain: cert.pem(), key: Plain(key.serialize_pem()) }, cert.der().to_vec())
}

/// The status and the body of what is answered to a GET.
async fn get(bed: &Bed, path: &str) -> (u16, String) {
    let mut client = Client::connect(bed.addr).await;
    client.send(format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n\r\n")).await;
    let answer = client.answer().await;
    (answer.status(), answer.text().to_owned())
}

async fn tell(bed: &mut Bed, challenges: Challenges) {
    bed.challenges.send_replace(Arc::new(challenges));
    within(bed.wake.clone().notified()).await;
    assert_eq!(bed.converge().await.state, RoleState::Running);
}

#[tokio::test]
async fn a_token_is_answered_before_every_route_and_what_is_not_asked_of_us_passes() {
    let backend = Backend::named("a").await;
    let mut bed = Bed::serving(&[&backend]).await;
    let http = [(TOKEN.to_owned(), format!("{TOKEN}.thumb"))].into();
    tell(&mut bed, Challenges { http, ..Challenges::default() }).await;
    let ours = format!("/.well-known/acme-challenge/{TOKEN}");
    let proof = (200, format!("{TOKEN}.thumb"));
    assert_eq!(get(&bed, &ours).await, proof);
    assert_eq!(backend.count(), 0);
    for others in ["/.well-known/acme-challenge/other", "/.well-known/acme-challenge/", "/"] {
        let answer = get(&bed, others).await;
        assert!(answer.0 == 200 && answer != proof, "{others}: {answer:?}");
    }
    assert_eq!(backend.count(), 3);
    tell(&mut bed, Challenges::default()).await;
    assert_ne!(get(&bed, &ours).await, proof);
}

#[tokio::test]
async fn a_proof_is_shown_to_whoever_asks_for_it_alone_before_there_is_any_certificate() {
    let backend = Backend::named("a").await;
    let mut bed = Bed::serving(&[&backend]).await;
    assert!(TcpStream::connect(bed.https).await.is_err(), "nothing is to be said there");
    let (bundle, der) = proof("shop.example");
    let tls = [("shop.example".to_owned(), bundle)].into();
    tell(&mut bed, Challenges { tls, expected: true, ..Challenges::default() }).await;
    for name in ["shop.example", "SHOP.example"] {
        let (leaf, protocol) = shown(&bed, name, &["acme-tls/1"]).await.unwrap();
        assert_eq!((leaf, protocol), (der.clone(), Some(b"acme-tls/1".to_vec())));
    }
    for (name, protocols) in [
        ("blog.example", &["acme-tls/1"][..]),
        ("shop.example", &[]),
        ("shop.example", &["h2", "http/1.1"]),
        // Whoever asks for a proof asks for nothing else (RFC 8737, section 3).
        ("shop.example", &["acme-tls/1", "http/1.1"]),
    ] {
        assert!(shown(&bed, name, protocols).await.is_err(), "{name} {protocols:?}");
    }
    until(|| bed.counted("hirsel_lb_refused_handshakes_total") == 4).await;
}

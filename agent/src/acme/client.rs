//! Talks HTTPS to a directory, through the seams: names are resolved by the host, connections come from the injected network.
//!
//! Each request has a connection of its own. An order takes a dozen, and there are a few orders in two months for each host.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hirsel_mesh::seam::Net;
use hirsel_role::Host;
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER};
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// One request takes at most this: a directory that is overloaded says so earlier.
const REQUEST_WITHIN: Duration = Duration::from_secs(30);
/// An address that does not answer by then is passed over for the next one.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Largest answer: a chain of certificates is some kilobytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Addresses of a directory that are tried.
const ADDRESSES_MAX: usize = 4;

/// What a directory asks for when it is asked too much.
#[derive(Clone, Debug, Default)]
pub struct Asked(Arc<Mutex<Option<u64>>>);

impl Asked {
    /// How long it wants to be left alone, in milliseconds, if its last answer said so.
    pub fn wait_ms(&self) -> Option<u64> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, answer: &Response<Incoming>) {
        let is_limit = matches!(answer.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        let seconds = || answer.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse::<u64>().ok();
        let wait = if is_limit { seconds().map(|seconds| seconds.saturating_mul(1_000)) } else { None };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = wait;
    }
}

/// A client of one directory.
#[derive(Clone)]
pub struct Client {
    net: Arc<dyn Net>,
    host: Arc<dyn Host>,
    tls: TlsConnector,
    /// What it asked for.
    pub asked: Asked,
}

impl Client {
    /// A client that believes the authorities this host believes, and those of `roots` (PEM).
    ///
    /// # Errors
    /// In words, when there are none.
    pub fn new(net: Arc<dyn Net>, host: Arc<dyn Host>, roots: &str) -> Result<Self, String> {
        let mut store = RootCertStore::empty();
        for der in read_roots(roots)? {
            store.add(der).map_err(|error| format!("a root of the directory cannot be used: {error}"))?;
        }
        // A host without any may have been given all that is needed.
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if store.is_empty() {
            return Err(
                "this host believes no authority: install ca-certificates, or give the directory's with --ca-file"
                    .into(),
            );
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|error| error.to_string())?.with_root_certificates(store).with_no_client_auth();
        Ok(Self { net, host, tls: TlsConnector::from(Arc::new(config)), asked: Asked::default() })
    }

    async fn exchange(&self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, String> {
        let (mut head, body) = request.into_parts();
        let uri = std::mem::take(&mut head.uri);
        let name = uri.host().ok_or_else(|| format!("{uri} names no host"))?;
        if uri.scheme_str() != Some("https") {
            return Err(format!("{uri} is no https:// URL"));
        }
        let bare = name.trim_matches(['[', ']']).to_owned();
        let stream = self.connect(&bare, uri.port_u16().unwrap_or(443)).await?;
        let server = ServerName::try_from(bare.clone()).map_err(|error| format!("{bare}: {error}"))?;
        let stream = self.tls.connect(server, stream).await.map_err(|error| format!("TLS with {bare}: {error}"))?;
        let authority = uri.authority().map_or("", |it| it.as_str()).rsplit('@').next().unwrap_or_default();
        let authority = HeaderValue::from_str(authority).map_err(|error| format!("{bare}: {error}"))?;
        head.headers.insert(HOST, authority);
        head.uri = Uri::from(uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")));
        let said = |error: hyper::Error| format!("{bare}: {error}");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(said)?;
        let exchange = async {
            let answer = sender.send_request(Request::from_parts(head, body)).await.map_err(said)?;
            self.asked.note(&answer);
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| format!("the answer of {bare}: {error}"))?.to_bytes();
            Ok::<_, String>((head, body))
        };
        // Driven here and dropped with this call: nothing of it outlives the answer.
        let mut connection = std::pin::pin!(connection);
        let mut exchange = std::pin::pin!(exchange);
        let (head, body) = tokio::select! {
            biased;
            answer = &mut exchange => answer?,
            // An answer that ends with its connection is there already.
            _ = &mut connection => exchange.await?,
        };
        let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !head.status.is_success() && !kind.starts_with("application/problem+json") {
            return Err(format!("{uri} answered {}", head.status));
        }
        Ok(BytesResponse { parts: head, body: Box::new(body) })
    }

    async fn connect(&self, name: &str, port: u16) -> Result<hirsel_mesh::seam::BoxStream, String> {
        let found = self.host.resolve(name, port).await;
        let addrs = found.map_err(|error| format!("cannot resolve {name}: {error}"))?;
        let mut last = format!("{name} has no address");
        for addr in addrs.into_iter().take(ADDRESSES_MAX) {
            match timeout(CONNECT_WITHIN, self.net.connect(addr)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = format!("cannot reach {name} ({addr}): {error}"),
                Err(_late) => last = format!("cannot reach {name} ({addr}) within {} s", CONNECT_WITHIN.as_secs()),
            }
        }
        Err(last)
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            let answer = timeout(REQUEST_WITHIN, client.exchange(request)).await;
            let late = |_| format!("no answer within {} s", REQUEST_WITHIN.as_secs());
            answer.map_err(late).and_then(|answer| answer).map_err(|words| Error::Other(words.into()))
        })
    }
}

/// Certificates of `roots` (PEM).
///
/// # Errors
/// In words, when it holds something else.
pub fn read_roots(roots: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(roots.as_bytes()).collect();
    all.map_err(|error| format!("the roots of the directory are no certificates in PEM: {error}"))
}

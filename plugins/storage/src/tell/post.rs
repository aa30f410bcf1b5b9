//! One HTTP POST of JSON to a webhook, over `http://` or `https://`, through the host seam.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hirsel_mesh::seam::BoxStream;
use hirsel_role::Host;
use http::{Request, Uri, header};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// A try takes at most this, from the name to the answer. Whoever needs longer to take a notice puts it aside first.
const WITHIN: Duration = Duration::from_secs(10);
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;
/// One of them has so long to take a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// What posts.
pub struct Poster {
    host: Arc<dyn Host>,
    /// What checks the other side of `https://`: read when it is needed, and anew after a failure, for a host may learn of new authorities.
    tls: Mutex<Option<TlsConnector>>,
}

impl Poster {
    /// Through this host.
    pub fn new(host: Arc<dyn Host>) -> Self {
        Self { host, tls: Mutex::default() }
    }

    /// Posts `body` to `url`; anything but a 2xx answer is an error, in words. Redirects are not followed.
    pub async fn post(&self, url: &str, body: Vec<u8>) -> Result<(), String> {
        let late = |_| format!("no answer within {} s", WITHIN.as_secs());
        timeout(WITHIN, self.exchange(url, body.into())).await.map_err(late)?
    }

    async fn exchange(&self, url: &str, body: Bytes) -> Result<(), String> {
        let uri: Uri = url.parse().map_err(|error| format!("it is no URL: {error}"))?;
        let secure = uri.scheme_str() == Some("https");
        let name = uri.host().ok_or("the URL names no host")?.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let mut stream = self.reach(&name, port).await?;
        if secure {
            let server = ServerName::try_from(name.clone()).map_err(|error| error.to_string())?;
            let inside = self.connector()?.connect(server, stream).await;
            stream = match inside {
                Ok(inside) => Box::new(inside) as BoxStream,
                Err(error) => {
                    *self.kept() = None;
                    return Err(format!("TLS with {name}: {error}"));
                }
            };
        }
        send(stream, &uri, body).await
    }

    async fn reach(&self, name: &str, port: u16) -> Result<BoxStream, String> {
        let found = self.host.resolve(name, port).await;
        let addrs = found.map_err(|error| format!("cannot resolve {name}: {error}"))?;
        let mut failed = format!("{name} has no address");
        for addr in addrs.into_iter().take(ADDRESSES_MAX) {
            match timeout(CONNECT_WITHIN, self.host.connect(addr)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failed = format!("cannot reach {addr}: {error}"),
                Err(_late) => failed = format!("cannot reach {addr} within {} s", CONNECT_WITHIN.as_secs()),
            }
        }
        Err(failed)
    }

    fn connector(&self) -> Result<TlsConnector, String> {
        if let Some(kept) = &*self.kept() {
            return Ok(kept.clone());
        }
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        *self.kept() = Some(connector.clone());
        Ok(connector)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Option<TlsConnector>> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn send(stream: BoxStream, uri: &Uri, body: Bytes) -> Result<(), String> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    // The user part of an authority is no part of the Host header (RFC 9110, section 7.2).
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let request = Request::post(path)
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("hirsel/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(body))
        .map_err(|error| error.to_string())?;
    let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(|error| error.to_string())?;
    let mut answer = std::pin::pin!(sender.send_request(request));
    // Driven here and dropped with this call: nothing of it outlives the answer. Whoever answers and closes at once ends it before the
    // answer is looked at.
    let response = tokio::select! {
        response = &mut answer => response,
        _ = connection => answer.await,
    };
    let response = response.map_err(|error| error.to_string())?;
    if response.status().is_success() { Ok(()) } else { Err(format!("answered {}", response.status())) }
}

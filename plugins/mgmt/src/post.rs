//! One HTTP POST of JSON, over `http://` or `https://`, through the host seam.

use std::sync::Arc;
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

/// The whole exchange takes at most this.
const WITHIN: Duration = Duration::from_secs(10);

/// What checks the other side of `https://`: the roots this host trusts, or why there are none. Read anew for each post: those are
/// rare, the roots take a quarter of a megabyte, and a host may learn of new ones.
fn tls() -> Result<TlsConnector, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Posts `body` to `url`; anything but a 2xx answer is an error, in words.
pub async fn post(host: &dyn Host, url: &str, body: &[u8]) -> Result<(), String> {
    let limit = WITHIN.as_secs();
    timeout(WITHIN, exchange(host, url, body)).await.map_err(|_| format!("no answer within {limit} s"))?
}

async fn exchange(host: &dyn Host, url: &str, body: &[u8]) -> Result<(), String> {
    let uri: Uri = url.parse().map_err(|error| format!("{url:?} is no URL: {error}"))?;
    let name = uri.host().ok_or("the URL names no host")?.to_owned();
    let secure = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        other => return Err(format!("scheme {other:?}: expected http or https")),
    };
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let bare = name.trim_matches(['[', ']']).to_owned();
    let addrs = host.resolve(&bare, port).await.map_err(|error| format!("cannot resolve {bare}: {error}"))?;
    let addr = addrs.first().ok_or_else(|| format!("{bare} has no address"))?;
    let mut stream = host.connect(*addr).await.map_err(|error| format!("cannot reach {addr}: {error}"))?;
    if secure {
        let server = ServerName::try_from(bare).map_err(|error| error.to_string())?;
        let inside = tls()?.connect(server, stream).await.map_err(|error| format!("TLS with {addr}: {error}"))?;
        stream = Box::new(inside);
    }
    send(stream, &uri, body).await
}

async fn send(stream: BoxStream, uri: &Uri, body: &[u8]) -> Result<(), String> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    // The user part of an authority is no part of the Host header (RFC 9110, section 7.2).
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let request = Request::post(path)
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("hirsel/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(Bytes::copy_from_slice(body)))
        .map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // Driven here and dropped with this call: nothing of it outlives the answer. Whoever answers and closes at once ends it before the
    // answer is looked at.
    let mut answer = std::pin::pin!(sender.send_request(request));
    let response = tokio::select! {
        response = &mut answer => response,
        _ = connection => answer.await,
    };
    let response = response.map_err(|error| error.to_string())?;
    if response.status().is_success() { Ok(()) } else { Err(format!("answered {}", response.status())) }
}

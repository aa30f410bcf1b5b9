//! HTTP to the outside: what roles ask of servers that are no part of the cluster, through the host seam.
//!
//! One client for webhooks, for copies of buckets, and for whoever calls out next: `http://` and `https://`, HTTP/1.1, bodies in memory.
//!
//! - An exchange ends within its limit, from the name to the last byte of the answer, and an answer longer than the limit is an error.
//! - The other side of `https://` is checked by the authorities that this host believes (its store, or `SSL_CERT_FILE`). They are read when
//!   they are needed, and anew after a handshake failed, for a host may learn of new ones.
//! - Nothing runs when nobody waits: a connection that is kept for the next request is driven by that request.
//!
//! Redirects are not followed and no proxy is asked: what is sent may be signed, or a secret. Whether an answer is a good one is for whoever asked.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hirsel_mesh::seam::BoxStream;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{Connection, SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, RootCertStore};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::Host;

/// An address that does not answer by then is passed over for the next one.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;
/// Longest body of an answer that is read: what is asked here answers with a page at most.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// Connections that are kept while nothing is asked; the one that was not used for longest makes way.
const IDLE_MAX: usize = 16;
/// What requests say that they come from, unless they say something else.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("hirsel/", env!("CARGO_PKG_VERSION")));

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Over TLS.
    pub secure: bool,
    /// Its name, or an address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// As requests name it: without a user (RFC 9110, section 7.2).
    pub authority: String,
}

impl Place {
    /// Where a URL leads.
    ///
    /// # Errors
    /// In words, when it is none of `http://` or `https://`, or names no host.
    pub fn of(url: &Uri) -> Result<Self, String> {
        let secure = match url.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) | None => return Err("is neither http nor https".into()),
        };
        let authority = url.authority().map(|it| it.as_str()).unwrap_or_default();
        let authority = authority.rsplit('@').next().unwrap_or_default().to_owned();
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err("names no host".into());
        }
        let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Self { secure, host, port, authority })
    }
}

/// A client.
pub struct Outbound {
    host: Arc<dyn Host>,
    /// Authorities that are believed besides those of the host.
    besides: Vec<CertificateDer<'static>>,
    tls: Mutex<Option<TlsConnector>>,
    idle: Mutex<VecDeque<(Place, Kept)>>,
}

/// What is wanted of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    All,
    /// Its body is not read, however long it is.
    Status,
}

/// A connection, and what drives it.
struct Kept {
    sender: SendRequest<Full<Bytes>>,
    connection: Pin<Box<Connection<TokioIo<BoxStream>, Full<Bytes>>>>,
}

impl Outbound {
    /// Through this host, which says whom it believes.
    pub fn new(host: Arc<dyn Host>) -> Self {
        Self::believing(host, Vec::new())
    }

    /// The same, which believes these authorities, too.
    pub fn believing(host: Arc<dyn Host>, besides: Vec<CertificateDer<'static>>) -> Self {
        Self { host, besides, tls: Mutex::default(), idle: Mutex::default() }
    }

    /// Asks, and gives the answer, whatever it is. The URL of the request is a path with its query; host and length are added. It may be asked
    /// twice: a connection that was kept may have ended meanwhile.
    ///
    /// # Errors
    /// In words, where there is no answer within that time, or one that is too long.
    pub async fn ask(
        &self,
        place: &Place,
        request: Request<Bytes>,
        within: Duration,
    ) -> Result<Response<Bytes>, String> {
        self.exchange_within(place, request, Wanted::All, within).await
    }

    /// Posts JSON to a URL; anything but a 2xx answer is an error.
    ///
    /// # Errors
    /// In words.
    pub async fn post_json(&self, url: &str, body: Bytes, within: Duration) -> Result<(), String> {
        let uri: Uri = url.parse().map_err(|error| format!("{url:.200?} is no URL: {error}"))?;
        let place = Place::of(&uri).map_err(|why| format!("{url:.200?} {why}"))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::post(path).header(CONTENT_TYPE, "application/json").body(body);
        let request = request.map_err(|error| error.to_string())?;
        let status = self.exchange_within(&place, request, Wanted::Status, within).await?.status();
        if status.is_success() { Ok(()) } else { Err(format!("answered {status}")) }
    }

    async fn exchange_within(
        &self,
        place: &Place,
        request: Request<Bytes>,
        wanted: Wanted,
        within: Duration,
    ) -> Result<Response<Bytes>, String> {
        let late = |_| format!("no answer within {within:?}");
        timeout(within, self.exchange(place, request, wanted)).await.map_err(late)?
    }

    async fn exchange(
        &self,
        place: &Place,
        mut request: Request<Bytes>,
        wanted: Wanted,
    ) -> Result<Response<Bytes>, String> {
        let authority = HeaderValue::from_str(&place.authority).map_err(|error| format!("{}: {error}", place.host))?;
        let is_empty = request.body().is_empty() && matches!(*request.method(), Method::PUT | Method::POST);
        let headers = request.headers_mut();
        headers.entry(HOST).or_insert(authority);
        headers.entry(USER_AGENT).or_insert(AGENT);
        if is_empty {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        if let Some(kept) = self.take_kept(place)
            && let Ok(answer) = self.once(place, kept, request.clone(), wanted).await
        {
            return Ok(answer);
        }
        // What was kept had ended by then, which is nobody's failure.
        self.once(place, self.connect(place).await?, request, wanted).await
    }

    async fn once(
        &self,
        place: &Place,
        mut kept: Kept,
        request: Request<Bytes>,
        wanted: Wanted,
    ) -> Result<Response<Bytes>, String> {
        let answer = {
            let sender = &mut kept.sender;
            let mut exchange = std::pin::pin!(async {
                sender.ready().await.map_err(|error| error.to_string())?;
                let answer = sender.send_request(request.map(Full::new)).await.map_err(|error| error.to_string())?;
                let (head, body) = answer.into_parts();
                if wanted == Wanted::Status {
                    return Ok(Response::from_parts(head, Bytes::new()));
                }
                let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| match error
                    .is::<hyper::Error>()
                {
                    true => error.to_string(),
                    false => format!("the answer has more than {ANSWER_BYTES_MAX} bytes"),
                })?;
                Ok::<_, String>(Response::from_parts(head, body.to_bytes()))
            });
            tokio::select! {
                biased;
                answer = &mut exchange => answer?,
                // Whoever answers and closes at once ends it before the answer is looked at.
                _ = &mut kept.connection => return exchange.await,
            }
        };
        if wanted == Wanted::All && !kept.sender.is_closed() {
            let mut idle = self.idle();
            idle.push_back((place.clone(), kept));
            if idle.len() > IDLE_MAX {
                idle.pop_front();
            }
        }
        Ok(answer)
    }

    fn take_kept(&self, place: &Place) -> Option<Kept> {
        let mut idle = self.idle();
        let at = idle.iter().rposition(|(to, _)| to == place)?;
        idle.remove(at).map(|(_, kept)| kept).filter(|kept| !kept.sender.is_closed())
    }

    async fn connect(&self, place: &Place) -> Result<Kept, String> {
        let (mut stream, addr) = self.reach(place).await?;
        if place.secure {
            let server = ServerName::try_from(place.host.clone()).map_err(|error| error.to_string())?;
            stream = match self.connector()?.connect(server, stream).await {
                Ok(inside) => Box::new(inside) as BoxStream,
                Err(error) => {
                    *self.tls() = None;
                    return Err(format!("TLS with {} ({addr}): {}", place.host, why(&error)));
                }
            };
        }
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        Ok(Kept { sender, connection: Box::pin(connection) })
    }

    async fn reach(&self, place: &Place) -> Result<(BoxStream, SocketAddr), String> {
        let name = &place.host;
        let found = self.host.resolve(name, place.port).await;
        let addrs = found.map_err(|error| format!("cannot resolve {name}: {error}"))?;
        let mut failed = format!("{name} has no address");
        for addr in addrs.into_iter().take(ADDRESSES_MAX) {
            match timeout(CONNECT_WITHIN, self.host.connect(addr)).await {
                Ok(Ok(stream)) => return Ok((stream, addr)),
                Ok(Err(error)) => failed = format!("cannot reach {addr}: {error}"),
                Err(_late) => failed = format!("cannot reach {addr} within {} s", CONNECT_WITHIN.as_secs()),
            }
        }
        Err(failed)
    }

    fn connector(&self) -> Result<TlsConnector, String> {
        if let Some(kept) = &*self.tls() {
            return Ok(kept.clone());
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots.add_parsable_certificates(self.besides.iter().cloned());
        if roots.is_empty() {
            return Err("this host believes no authority: install ca-certificates".into());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        *self.tls() = Some(connector.clone());
        Ok(connector)
    }

    fn tls(&self) -> MutexGuard<'_, Option<TlsConnector>> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<(Place, Kept)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a handshake failed, for people.
fn why(error: &std::io::Error) -> String {
    let inside = error.get_ref().and_then(|inside| inside.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(wrong)) = inside else { return error.to_string() };
    match wrong {
        // The latter of one that has the same name as one that is believed.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is of no authority that this host believes; add that \
            authority to the certificates of the host"
                .into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("its certificate is for another name ({wrong})")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("its certificate has expired ({wrong})")
        }
        other => format!("its certificate is wrong ({other})"),
    }
}

#[cfg(test)]
mod tests;

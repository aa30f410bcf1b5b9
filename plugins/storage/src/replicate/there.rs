//! An S3 elsewhere: requests on their way there, through the host, signed, each within a time, over connections that are used again.
//!
//! It speaks path style (`https://HOST/BUCKET/KEY`), which every S3 understands that has a name of its own. Bodies are in memory, and their
//! SHA-256 is signed with them: what arrives as something else is not kept there.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hirsel_mesh::seam::BoxStream;
use hirsel_model::WallTime;
use hirsel_role::{Host, Spawner};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::sign::{Headers, Signer, escape};

/// An address that does not answer by then is passed over for the next one.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Addresses that are tried.
const ADDRESSES_MAX: usize = 4;
/// A request takes at most this, and a second more for each of [`SLOWEST_BYTES`] of its body.
const REQUEST_WITHIN: Duration = Duration::from_secs(30);
/// Bytes a second without which it is not waited for the end of a body.
const SLOWEST_BYTES: u64 = 256 << 10;
/// Longest answer that is read: the tags of an object, or why something is refused.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// Connections that are kept while nothing is asked.
const IDLE_MAX: usize = 8;
/// Characters that are told of an error of the other side.
const WORDS_MAX: usize = 200;

/// Where an S3 is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Over TLS.
    pub secure: bool,
    /// Its name, or an address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// As requests name it.
    pub authority: String,
}

impl Endpoint {
    /// Reads `http://HOST[:PORT]` or `https://HOST[:PORT]`.
    ///
    /// # Errors
    /// In words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("endpoint {text:.80?} {why}: expected https://HOST or http://HOST:PORT");
        let uri: Uri = text.parse().map_err(|_| wrong("is no URL"))?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) | None => return Err(wrong("is neither http nor https")),
        };
        let authority = uri.authority().map(|it| it.as_str()).filter(|it| !it.contains('@'));
        let authority = authority.ok_or_else(|| wrong("names no host, or a user"))?.to_owned();
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong("has a path"));
        }
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err(wrong("names no host"));
        }
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Self { secure, host, port, authority })
    }
}

/// Why something is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The other side is away, or refuses whatever is asked: others would fare no better.
    #[error("{0}")]
    Away(String),
    /// This request is refused.
    #[error("{0}")]
    Refused(String),
}

/// What is asked.
pub struct Ask<'a> {
    /// How.
    pub method: Method,
    /// The key; none for the bucket.
    pub key: &'a str,
    /// Names with values, both not escaped.
    pub query: Vec<(&'a str, String)>,
    /// Further headers.
    pub headers: Headers,
    /// The body.
    pub body: Bytes,
}

/// What is answered.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// What stands between the first tags of this name.
    pub fn tag(&self, name: &str) -> Option<String> {
        let text = std::str::from_utf8(&self.body).ok()?;
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        let (inside, _) = rest.split_once(&format!("</{name}>"))?;
        let plain = [("&quot;", "\""), ("&lt;", "<"), ("&gt;", ">"), ("&#39;", "'"), ("&apos;", "'"), ("&amp;", "&")];
        Some(plain.iter().fold(inside.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain)))
    }

    /// Of what kind a failure is, and in words.
    pub fn failure(&self, what: &str) -> Failure {
        let code = self.tag("Code").unwrap_or_default();
        let message = self.tag("Message").unwrap_or_default();
        let told = format!("{code} {message}");
        let told: String = told.trim().chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect();
        let words = format!("{what}: {} {told}", self.status.as_u16()).trim_end().to_owned();
        let of_all = matches!(code.as_str(), "NoSuchBucket" | "RequestTimeTooSkewed" | "SlowDown" | "QuotaExceeded");
        let status = self.status;
        if of_all
            || status.is_server_error()
            || status.is_redirection()
            || matches!(status, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS)
        {
            Failure::Away(words)
        } else {
            Failure::Refused(words)
        }
    }
}

/// A bucket of an S3 elsewhere.
pub struct There {
    endpoint: Endpoint,
    bucket: String,
    signer: Signer,
    host: Arc<dyn Host>,
    spawner: Spawner,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl There {
    /// A bucket at `endpoint`.
    pub fn new(endpoint: Endpoint, bucket: String, signer: Signer, (host, spawner): (Arc<dyn Host>, Spawner)) -> Self {
        Self { endpoint, bucket, signer, host, spawner, idle: Mutex::default() }
    }

    /// What people call a key there.
    pub fn name(&self, key: &str) -> String {
        let scheme = if self.endpoint.secure { "https" } else { "http" };
        let name = format!("{scheme}://{}/{}/{key}", self.endpoint.authority, self.bucket);
        name.chars().map(|c| if c.is_control() { '?' } else { c }).take(WORDS_MAX).collect()
    }

    /// Asks, and gives the answer, whatever it is.
    ///
    /// # Errors
    /// [`Failure::Away`] where there is none.
    pub async fn ask(&self, ask: Ask<'_>, now: WallTime) -> Result<Answer, Failure> {
        let limit = REQUEST_WITHIN + Duration::from_secs(ask.body.len() as u64 / SLOWEST_BYTES);
        let what = format!("{} {}", ask.method, self.name(ask.key));
        let asked = timeout(limit, self.exchange(ask, now)).await;
        let late = |_| format!("no answer within {} s", limit.as_secs());
        asked.map_err(late).and_then(|asked| asked).map_err(|words| Failure::Away(format!("{what}: {words}")))
    }

    async fn exchange(&self, ask: Ask<'_>, now: WallTime) -> Result<Answer, String> {
        let path = format!("/{}/{}", escape(&self.bucket, false), escape(ask.key, true));
        let query: Vec<(&str, String)> = ask.query.iter().map(|(name, value)| (*name, escape(value, false))).collect();
        let mut headers = ask.headers;
        headers.insert("host".into(), self.endpoint.authority.clone().into_bytes());
        self.signer.sign(now, ask.method.as_str(), (&path, &query), &mut headers, &ask.body);
        let pairs: Vec<String> = query
            .iter()
            .map(|(name, value)| if value.is_empty() { (*name).to_owned() } else { format!("{name}={value}") })
            .collect();
        let uri = if pairs.is_empty() { path } else { format!("{path}?{}", pairs.join("&")) };
        let make = || {
            let mut request = Request::builder().method(ask.method.clone()).uri(&uri);
            for (name, value) in &headers {
                request = request.header(name.as_str(), value.as_slice());
            }
            if ask.body.is_empty() && matches!(ask.method, Method::PUT | Method::POST) {
                request = request.header("content-length", "0");
            }
            request = request.header("user-agent", concat!("hirsel/", env!("CARGO_PKG_VERSION")));
            request.body(Full::new(ask.body.clone())).map_err(|error| error.to_string())
        };
        let kept = self.idle().pop();
        if let Some(sender) = kept.filter(|sender| !sender.is_closed())
            && let Ok(answer) = self.once(sender, make()?).await
        {
            return Ok(answer);
        }
        // What was kept had ended by then, which is nobody's failure; whatever is asked here may be asked twice.
        self.once(self.connect().await?, make()?).await
    }

    async fn once(
        &self,
        mut sender: SendRequest<Full<Bytes>>,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer, String> {
        sender.ready().await.map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| error.to_string())?.to_bytes();
        let mut idle = self.idle();
        if idle.len() < IDLE_MAX && !sender.is_closed() {
            idle.push(sender);
        }
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let Endpoint { secure, host, port, .. } = &self.endpoint;
        let found = self.host.resolve(host, *port).await;
        let addrs = found.map_err(|error| format!("cannot resolve {host}: {error}"))?;
        let mut failed = format!("{host} has no address");
        for addr in addrs.into_iter().take(ADDRESSES_MAX) {
            let mut stream = match timeout(CONNECT_WITHIN, self.host.connect(addr)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    failed = format!("cannot reach {addr}: {error}");
                    continue;
                }
                Err(_late) => {
                    failed = format!("cannot reach {addr} within {} s", CONNECT_WITHIN.as_secs());
                    continue;
                }
            };
            if *secure {
                let server = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
                let inside = tls()?.connect(server, stream).await;
                let inside = inside.map_err(|error| format!("TLS with {host} ({addr}): {error}"))?;
                stream = Box::new(inside) as BoxStream;
            }
            let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
            let (sender, connection) = shaken.map_err(|error| error.to_string())?;
            // It ends with its sender, which is kept or dropped here.
            self.spawner.spawn(async move { drop(connection.await) });
            return Ok(sender);
        }
        Err(failed)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<SendRequest<Full<Bytes>>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What checks the other side: the authorities that this host believes. Read for each connection: those are kept, the authorities take a
/// quarter of a megabyte, and a host may learn of new ones.
fn tls() -> Result<TlsConnector, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url_without_more() {
        let read =
            |text| Endpoint::parse(text).map(|it| (it.secure, format!("{} {} {}", it.host, it.port, it.authority)));
        assert_eq!(read("https://s3.example.com"), Ok((true, "s3.example.com 443 s3.example.com".into())));
        assert_eq!(read("http://10.0.0.1:7480/"), Ok((false, "10.0.0.1 7480 10.0.0.1:7480".into())));
        assert_eq!(read("http://[::1]:80"), Ok((false, "::1 80 [::1]:80".into())));
        for bad in
            ["", "s3.example.com", "ftp://a", "https://a/b", "https://a?b", "https://u:p@a", "https:///", "http://:80"]
        {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_would_befall_every_key_is_told_from_what_befalls_one() {
        let answer = |status: u16, body: &str| Answer {
            status: StatusCode::from_u16(status).expect("a status"),
            headers: HeaderMap::new(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        };
        for (status, body) in [
            (403, "<Error><Code>AccessDenied</Code></Error>"),
            (503, ""),
            (301, ""),
            (404, "<Error><Code>NoSuchBucket</Code><Message>no\nsuch</Message></Error>"),
        ] {
            assert!(matches!(answer(status, body).failure("PUT"), Failure::Away(_)), "{status}");
        }
        let refused = answer(400, "<Error><Code>InvalidTag</Code><Message>a &amp; b\u{7}</Message></Error>");
        assert_eq!(refused.failure("PUT x"), Failure::Refused("PUT x: 400 InvalidTag a & b".into()));
    }
}

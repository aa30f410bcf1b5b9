//! The sample application: a small web program inside the executable, so that a new cluster has something to run without any
//! language runtime. It says which instance answered, and behaves as a program on hirsel should: it listens where it is told, has a
//! health check, and ends what it began when it is asked to stop.
//!
//! It knows nothing of the agent; its environment is all it sees.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

/// What to apply to run the sample as an application.
pub const MANIFEST: &str = include_str!("sample.toml");

const PAGE: &str = include_str!("sample.html");
/// Where it listens when nobody says (started by hand).
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000);
/// Longest answer to wait for on purpose.
const SLOW_MAX: Duration = Duration::from_secs(30);
/// Largest body that is echoed.
const ECHO_BYTES_MAX: usize = 1 << 20;
/// Connections at once; more of them wait to be accepted.
const CONNECTIONS_MAX: usize = 1024;
/// A client that does not get its request head across in this time is dropped.
const HEAD_MAX: Duration = Duration::from_secs(30);
/// Longest time that requests under way are waited for after the wish to stop; below the grace a service has by default.
const STOP_MAX: Duration = Duration::from_secs(8);

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Identity {
    app: String,
    service: String,
    instance: String,
    node: String,
    node_name: String,
    zone: String,
    revision: String,
}

impl Identity {
    fn from(environment: &BTreeMap<String, String>) -> Self {
        let get = |name: &str, otherwise: &str| environment.get(name).map_or(otherwise, String::as_str).to_owned();
        Self {
            app: get("HIRSEL_APP", "hello"),
            service: get("HIRSEL_SERVICE", "web"),
            instance: get("HIRSEL_INSTANCE", "started by hand"),
            node: get("HIRSEL_NODE", "-"),
            node_name: get("HIRSEL_NODE_NAME", "this machine"),
            zone: get("HIRSEL_ZONE", "-"),
            revision: get("HIRSEL_REVISION", "-"),
        }
    }
}

#[derive(Debug)]
struct Sample {
    identity: Identity,
    requests: AtomicU64,
    started: Instant,
}

/// Serves on `HOST` and `PORT` of `environment` until SIGTERM or SIGINT, then ends what is under way and returns.
pub async fn serve(environment: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let addr = listen_addr(environment)?;
    let mut terminate = signal(SignalKind::terminate()).context("could not listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("could not listen for SIGINT")?;
    let listener = TcpListener::bind(addr).await.with_context(|| format!("could not listen on {addr}"))?;
    let stop = async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    };
    serve_until(listener, Identity::from(environment), stop).await;
    Ok(())
}

fn listen_addr(environment: &BTreeMap<String, String>) -> anyhow::Result<SocketAddr> {
    let host = match environment.get("HOST") {
        Some(host) => host.parse().with_context(|| format!("HOST is {host:?}, which is no IP address"))?,
        None => DEFAULT.ip(),
    };
    let port = match environment.get("PORT") {
        Some(port) => port.parse().with_context(|| format!("PORT is {port:?}, which is no port number"))?,
        None => DEFAULT.port(),
    };
    Ok(SocketAddr::new(host, port))
}

async fn serve_until(listener: TcpListener, identity: Identity, stop: impl Future<Output = ()>) {
    let sample = Arc::new(Sample { identity, requests: AtomicU64::new(0), started: Instant::now() });
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (stopping, stopped) = watch::channel(false);
    let mut stop = pin!(stop);
    loop {
        let room = async { Arc::clone(&connections).acquire_owned().await.ok().zip(listener.accept().await.ok()) };
        tokio::select! {
            () = &mut stop => break,
            accepted = room => match accepted {
                Some((permit, (stream, _))) => {
                    let connection = serve_connection(Arc::clone(&sample), stream, stopped.clone());
                    drop(tokio::spawn(async move { connection.await; drop(permit); }));
                }
                // No descriptors left, for example; it passes.
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            },
        }
    }
    drop(listener);
    stopping.send_replace(true);
    drop(stopped);
    let _ = tokio::time::timeout(STOP_MAX, stopping.closed()).await;
}

async fn serve_connection(sample: Arc<Sample>, stream: TcpStream, mut stopped: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let sample = Arc::clone(&sample);
        async move { Ok::<_, Infallible>(sample.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        // A client that breaks off is its own affair.
        _ = connection.as_mut() => {}
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

type Answer = Response<Full<Bytes>>;

impl Sample {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let path = request.uri().path();
        // Checks are not what people came for.
        if path != "/healthz" {
            self.requests.fetch_add(1, Ordering::Relaxed);
        }
        match path {
            "/echo" => echo(request).await,
            "/" | "/healthz" | "/whoami" | "/slow" if !reads => {
                let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".into());
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                answer
            }
            "/" => self.page(),
            "/healthz" => text(StatusCode::OK, "ok\n".into()),
            "/whoami" => self.whoami(),
            "/slow" => self.slow(request.uri().query()).await,
            _ => text(StatusCode::NOT_FOUND, "there are /, /whoami, /slow?ms=N, /echo and /healthz\n".into()),
        }
    }

    fn page(&self) -> Answer {
        let Identity { app, service: _, instance, node: _, node_name, zone, revision } = &self.identity;
        let uptime = format!("{} s", self.started.elapsed().as_secs());
        let requests = self.requests.load(Ordering::Relaxed).to_string();
        let values = [
            ("{{app}}", app),
            ("{{instance}}", instance),
            ("{{node_name}}", node_name),
            ("{{zone}}", zone),
            ("{{revision}}", revision),
            ("{{uptime}}", &uptime),
            ("{{requests}}", &requests),
        ];
        let page = values.iter().fold(PAGE.to_owned(), |page, (name, value)| page.replace(name, &escape(value)));
        respond(StatusCode::OK, "text/html; charset=utf-8", page.into())
    }

    fn whoami(&self) -> Answer {
        #[derive(Serialize)]
        struct WhoAmI<'a> {
            #[serde(flatten)]
            identity: &'a Identity,
            requests: u64,
            uptime_ms: u64,
            pid: u32,
        }
        let answer = WhoAmI {
            identity: &self.identity,
            requests: self.requests.load(Ordering::Relaxed),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            pid: std::process::id(),
        };
        match serde_json::to_vec(&answer) {
            Ok(json) => respond(StatusCode::OK, "application/json", json.into()),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    async fn slow(&self, query: Option<&str>) -> Answer {
        let ms = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("ms="));
        let Some(wait) = ms.unwrap_or("1000").parse().ok().map(Duration::from_millis) else {
            return text(StatusCode::BAD_REQUEST, "ms is no number of milliseconds; try /slow?ms=500\n".into());
        };
        if wait > SLOW_MAX {
            let limit = SLOW_MAX.as_millis();
            return text(StatusCode::BAD_REQUEST, format!("{} ms exceeds {limit}\n", wait.as_millis()));
        }
        tokio::time::sleep(wait).await;
        text(StatusCode::OK, format!("{} answers after {} ms\n", self.identity.instance, wait.as_millis()))
    }
}

/// The body as it came; without one, the request's head in words.
async fn echo(request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let bytes = match Limited::new(body, ECHO_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return text(StatusCode::PAYLOAD_TOO_LARGE, format!("body exceeds {ECHO_BYTES_MAX} bytes\n"));
        }
        Err(error) => return text(StatusCode::BAD_REQUEST, format!("body broke off: {error}\n")),
    };
    if !bytes.is_empty() {
        let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        return respond(StatusCode::OK, kind.unwrap_or("application/octet-stream"), bytes);
    }
    let mut lines = format!("{} {} {:?}\n", head.method, head.uri, head.version);
    for (name, value) in &head.headers {
        lines.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    text(StatusCode::OK, lines)
}

fn text(status: StatusCode, text: String) -> Answer {
    respond(status, "text/plain; charset=utf-8", text.into())
}

fn respond(status: StatusCode, kind: &str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    if let Ok(kind) = HeaderValue::from_str(kind) {
        answer.headers_mut().insert(CONTENT_TYPE, kind);
    }
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests;

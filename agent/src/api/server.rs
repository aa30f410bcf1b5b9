//! The way in: one router, served over the unix socket (for the owner of it) and over whatever streams the mesh accepts.
//!
//! A request costs a bounded amount of memory and time, whoever sends it: connections, headers and bodies have limits, and what waits
//! for others has a deadline.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::debug;

use super::agent::Agent;
use super::auth::{Need, Source, allow, identify};
use super::fresh;
use super::handlers::{
    AgentState, access, acme, addresses, backup, buckets, cache, certificates, changes, evolve, nodes, people, reads,
    recover, secrets, seeing, streams, zones,
};

/// Largest body of a request. A manifest of a thousand services is a tenth of it.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// How many connections are served at once; others wait in the listener's queue or are turned away.
const CONNECTIONS_MAX: usize = 256;
/// How long a client may take to send the head of a request, and how long a connection may idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Size of the buffer of a connection, and so the largest head of a request.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// Serves the interface of one agent.
#[derive(Clone)]
pub struct Server {
    router: Router,
    connections: Arc<Semaphore>,
}

impl Server {
    /// The interface of `agent`.
    pub fn new(agent: Arc<dyn Agent>) -> Self {
        Self { router: router(agent), connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }

    /// Serves one connection until it ends.
    pub async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, source: Source) {
        let Ok(_permit) = self.connections.try_acquire() else {
            debug!(limit = CONNECTIONS_MAX, "connection turned away");
            return;
        };
        let router = self.router.clone();
        let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let (mut parts, body) = request.into_parts();
            parts.extensions.insert(source);
            router.clone().oneshot(Request::from_parts(parts, axum::body::Body::new(body)))
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(BUFFER_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            debug!(%error, "connection ended");
        }
    }

    /// Serves the unix socket at `path` until `stop`. The socket is 0600; a stale one is replaced.
    pub async fn listen_unix(&self, path: &Path, stop: CancellationToken) -> io::Result<()> {
        let listener = bind_private(path)?;
        let owner = std::fs::metadata(path)?.uid();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) if may_open(&stream, owner) => {
                    let server = self.clone();
                    tokio::spawn(async move { server.serve(stream, Source::Socket).await });
                }
                Ok(_) => debug!("a stranger at the socket was turned away"),
                // Out of file descriptors, most likely: others may be freed.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        let _ = std::fs::remove_file(path);
        Ok(())
    }
}

/// Binds beside the final name with the rights already set, then renames: nobody else can open it in between.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    match std::fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (_folder, short) = short_path(beside)?;
    let listener = UnixListener::bind(short)?;
    std::fs::set_permissions(beside, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(beside, path)?;
    Ok(listener)
}

/// Longest path of a socket, with room for a suffix (unix(7): 108 bytes).
const SOCKET_PATH_BYTES_MAX: usize = 100;

/// A path to the same socket that is short enough for the system, valid while the folder that comes with it is held open.
pub fn short_path(path: &Path) -> io::Result<(Option<std::fs::File>, PathBuf)> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok((None, path.into())) };
    if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return Ok((None, path.into()));
    }
    let folder = std::fs::File::open(folder)?;
    let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    Ok((Some(folder), short))
}

/// The rights of the file keep others out; this holds even where a file system ignores them.
fn may_open(stream: &UnixStream, owner: u32) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == owner || peer.uid() == 0)
}

/// Every path, with the rights it needs.
pub fn router(agent: Arc<dyn Agent>) -> Router {
    let look = Router::new()
        .route("/metrics", get(reads::metrics))
        .route("/v1/status", get(reads::status))
        .route("/v1/members", get(reads::members))
        .route("/v1/roles", get(reads::roles))
        .route("/v1/apps", get(reads::apps))
        .route("/v1/apps/{app}/ps", get(reads::ps))
        .route("/v1/events", get(streams::events))
        .route("/v1/why/{*thing}", get(reads::why))
        .route("/v1/logs/{*what}", get(streams::logs))
        .route("/v1/requests", get(streams::requests))
        .route("/v1/traffic", get(reads::traffic))
        .route("/v1/plan", post(changes::plan))
        .route("/v1/simulate", get(reads::simulate))
        .route("/v1/doctor", get(reads::doctor))
        .route("/v1/upgrade", get(evolve::upgrade))
        .route("/v1/secrets", get(secrets::list))
        .route("/v1/sealing", get(secrets::sealing))
        .route("/v1/certificates", get(certificates::list))
        .route("/v1/certificates/front/{name}", get(certificates::show))
        .route("/v1/certificates/acme", get(acme::show))
        .route("/v1/addresses", get(addresses::list))
        .route("/v1/dns/zones", get(zones::list))
        .route("/v1/dns/zones/{zone}", get(zones::show))
        .route("/v1/cache", get(cache::show))
        .route("/v1/access-keys", get(access::list))
        .route("/v1/buckets", get(buckets::list))
        .route("/v1/buckets/{bucket}", get(buckets::usage))
        .route("/v1/storage/audit", get(buckets::audits))
        .route("/v1/storage/scrub", get(buckets::scrubs))
        .route("/v1/openapi.json", get(reads::openapi))
        .fallback(reads::nothing);
    let operate = Router::new()
        .route("/v1/apply", post(changes::apply))
        .route("/v1/apps/{app}", delete(changes::remove))
        .route("/v1/apps/{app}/scale", post(changes::scale))
        .route("/v1/apps/{app}/restart", post(changes::restart))
        .route("/v1/apps/{app}/rollback", post(evolve::rollback))
        .route("/v1/apps/{app}/stop", post(changes::stop))
        .route("/v1/apps/{app}/start", post(changes::start))
        .route("/v1/nodes/{node}/{verb}", post(nodes::change))
        .route("/v1/roles/{role}/pin", post(changes::pin))
        .route("/v1/roles/{role}/unpin", post(changes::unpin))
        .route("/v1/roles/{role}/move", post(changes::move_role))
        .route("/v1/roles/{role}/log", put(seeing::log))
        .route("/v1/secrets/{name}", put(secrets::set).delete(secrets::remove))
        .route("/v1/certificates/front/{name}", put(certificates::set).delete(certificates::remove))
        .route("/v1/certificates/front/{name}/renew", post(acme::renew))
        .route("/v1/dns/zones/{zone}/roll", post(zones::roll))
        .route("/v1/cache/purge", post(cache::purge))
        .route("/v1/access-keys", post(access::create))
        .route("/v1/access-keys/{id}", delete(access::remove))
        .route("/v1/storage/audit", post(buckets::audit))
        .route("/v1/storage/scrub", post(buckets::scrub))
        .route("/v1/buckets", post(buckets::create))
        .route("/v1/buckets/{bucket}", put(buckets::change).delete(buckets::remove))
        .route("/v1/buckets/{bucket}/replication", put(buckets::replicate).delete(buckets::replicate_no_more))
        // It is passed on piece by piece, and bounded where it is written.
        .route("/v1/objects/{bucket}/{*key}", get(buckets::get).put(buckets::put).layer(DefaultBodyLimit::disable()));
    let administer = Router::new()
        .route("/v1/tokens", get(reads::tokens).post(people::new_token))
        .route("/v1/tokens/{id}", delete(people::revoke))
        .route("/v1/upgrade/finish", post(evolve::finish))
        .route("/v1/recover", get(recover::plan).post(recover::recover))
        .route("/v1/backup", post(backup::backup))
        .route("/v1/recover/off", post(recover::confirm_off))
        .route("/v1/webhook", put(people::set_webhook))
        .route("/v1/addresses/{address}", put(addresses::set).delete(addresses::remove))
        .route("/v1/sealing/rotate", post(secrets::rotate))
        .route("/v1/certificates/acme", put(acme::set).delete(acme::off))
        .route("/v1/certificates/tickets", post(certificates::tickets))
        .route("/v1/certificates/rotate", post(certificates::rotate));
    let guarded =
        |router: Router<AgentState>, need: Need| router.layer(from_fn_with_state((agent.clone(), need), guard));
    guarded(look, Need::Look)
        .merge(guarded(operate, Need::Operate))
        .merge(guarded(administer, Need::Administer))
        .route("/healthz", get(reads::healthz))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(agent.clone())
}

/// Lets a request through if who asks may ask, and notes who that is. A fresh answer waits here for what is new.
async fn guard(State((agent, need)): State<(AgentState, Need)>, mut request: Request, next: Next) -> Response {
    let source = request.extensions().get::<Source>().copied().unwrap_or(Source::Network { node: None });
    let header = request.headers().get(http::header::AUTHORIZATION);
    // A header that is no text is no token.
    let header = header.map(|value| value.to_str().unwrap_or_default().to_string());
    let path = request.uri().path();
    let is_final = path.starts_with("/v1/nodes/") && path.rsplit('/').next().is_some_and(nodes::is_final);
    let need = if is_final { Need::Administer } else { need };
    let caller = identify(&*agent, &agent.sight(), source, header.as_deref());
    match caller.and_then(|caller| allow(&caller, need).map(|()| caller)) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            if request.method() == http::Method::GET {
                match fresh::taken(request.uri()) {
                    Err(error) => return error.into_response(),
                    Ok((is_fresh, uri)) => {
                        *request.uri_mut() = uri;
                        if is_fresh && let Err(error) = agent.barrier(fresh::FRESH_WITHIN).await {
                            return fresh::denied(error).into_response();
                        }
                    }
                }
            }
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

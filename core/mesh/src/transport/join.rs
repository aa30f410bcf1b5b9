//! How somebody who is no member yet reaches the cluster: a newcomer with a token, or a person who logs in. All they know is the
//! fingerprint of the authority, so the server must show the authority's certificate and one that it signed.
//!
//! ```text
//! newcomer:  length (u32) · request
//! member:    0 done | 1 refused · length (u32) · reply or words
//! ```

use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use rustls::CertificateError;
use rustls_pki_types::{ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::server::TlsStream;
use tracing::{debug, error};

use super::Shared;
use super::tls::{Alpn, Buffered, buffered, issuer, newcomer};
use crate::identity::JoinToken;
use crate::seam::{BoxStream, World};

/// A request holds a key, a name and some facts.
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// A reply holds certificates and all members.
const REPLY_BYTES_MAX: usize = 16 << 20;
/// The member must be reached by then.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// The member may have to find the leader first, or wait for an election.
const REPLY_WITHIN: Duration = Duration::from_secs(30);
/// A newcomer that is connected sends at once.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);
/// Nobody asks the server for its name, the fingerprint decides.
const SERVER_NAME: &str = "member.hirsel";

const DONE: u8 = 0;
const REFUSED: u8 = 1;

/// Why joining failed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Nobody there.
    #[error("cannot reach {addr}: {source}; is the agent there running, and is TCP port {} open?", addr.port())]
    Unreachable {
        /// Whom we tried.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody, but not the cluster of the token.
    #[error(
        "{addr} does not belong to the cluster that made this token; check the address, or ask for a token on that cluster: hirsel token new"
    )]
    AnotherCluster {
        /// Whom we tried.
        addr: SocketAddr,
    },
    /// Somebody, but no agent.
    #[error("{addr} does not speak as a hirsel agent: {source}")]
    NotAnAgent {
        /// Whom we tried.
        addr: SocketAddr,
        /// What went wrong.
        source: io::Error,
    },
    /// The cluster said no, in words.
    #[error("{0}")]
    Refused(String),
    /// The cluster did not answer in time.
    #[error("{addr} did not answer within {} s; does the cluster have a leader? try there: hirsel status", within.as_secs())]
    TimedOut {
        /// Whom we tried.
        addr: SocketAddr,
        /// How long we waited.
        within: Duration,
    },
}

/// Asks the cluster behind `seed` to be let in, once it has shown that it is the one that made the token.
pub async fn join_request(
    world: &World,
    seed: SocketAddr,
    token: &JoinToken,
    request: Vec<u8>,
) -> Result<Vec<u8>, JoinError> {
    let not_an_agent = |source| JoinError::NotAnAgent { addr: seed, source };
    let (mut stream, _) = connect(world, seed, token.ca_fingerprint, Alpn::Join).await?;
    let asked = async {
        let length = u32::try_from(request.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), request.as_slice()].concat()).await?;
        stream.flush().await?;
        let status = stream.read_u8().await?;
        Ok((status, frame(&mut stream, REPLY_BYTES_MAX).await?))
    };
    match timeout(REPLY_WITHIN, asked).await {
        Ok(Ok((DONE, reply))) => Ok(reply),
        Ok(Ok((_, words))) => Err(JoinError::Refused(String::from_utf8_lossy(&words).into_owned())),
        Ok(Err(error)) => Err(not_an_agent(error)),
        Err(_) => Err(JoinError::TimedOut { addr: seed, within: REPLY_WITHIN }),
    }
}

/// An HTTPS connection to a member of the cluster whose authority has this fingerprint, or had it. With it comes the fingerprint of the
/// authority that the member's certificate is of: whoever pinned one that was replaced may go on with that.
pub async fn connect_https(
    world: &World,
    addr: SocketAddr,
    ca_fingerprint: [u8; 32],
) -> Result<(BoxStream, Option<[u8; 32]>), JoinError> {
    connect(world, addr, ca_fingerprint, Alpn::Http).await
}

async fn connect(
    world: &World,
    addr: SocketAddr,
    ca_fingerprint: [u8; 32],
    alpn: Alpn,
) -> Result<(BoxStream, Option<[u8; 32]>), JoinError> {
    let late = |_| JoinError::Unreachable { addr, source: io::Error::from(io::ErrorKind::TimedOut) };
    let config = newcomer(world, ca_fingerprint, alpn)
        .map_err(|error| JoinError::NotAnAgent { addr, source: io::Error::other(error) })?;
    let stream = timeout(CONNECT_WITHIN, world.net.connect(addr)).await.map_err(late)?;
    let stream = stream.map_err(|source| JoinError::Unreachable { addr, source })?;
    let name = ServerName::try_from(SERVER_NAME).expect("a constant DNS name");
    let tls = timeout(CONNECT_WITHIN, TlsConnector::from(Arc::new(config)).connect(name, buffered(stream)));
    match tls.await.map_err(late)? {
        Ok(tls) => {
            let now = UnixTime::since_unix_epoch(Duration::from_millis(world.clock.wall().0));
            let of = issuer(tls.get_ref().1.peer_certificates().unwrap_or_default(), now);
            Ok((Box::new(tls), of))
        }
        Err(error) if is_unknown_issuer(&error) => Err(JoinError::AnotherCluster { addr }),
        Err(source) => Err(JoinError::NotAnAgent { addr, source }),
    }
}

fn is_unknown_issuer(error: &io::Error) -> bool {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)))
}

/// Answers one newcomer.
pub(super) async fn serve(shared: &Shared, mut tls: TlsStream<Buffered>, from: SocketAddr) {
    let Ok(Ok(request)) = timeout(REQUEST_WITHIN, frame(&mut tls, REQUEST_BYTES_MAX)).await else {
        debug!(%from, "join without a request");
        return;
    };
    let handler = shared.handlers().join.clone();
    let answered = async {
        let Some(handler) = handler else { return Err("this agent is still starting, try again".to_owned()) };
        match AssertUnwindSafe(async { handler(from, request).await }).catch_unwind().await {
            Ok(answer) => answer,
            Err(_) => {
                error!(%from, "the handler of joins panicked");
                Err("the agent failed at this request, see its log".to_owned())
            }
        }
    };
    let (status, reply) = match timeout(REPLY_WITHIN, answered).await {
        Ok(Ok(reply)) => (DONE, reply),
        Ok(Err(words)) => (REFUSED, words.into_bytes()),
        Err(_) => return,
    };
    let Ok(length) = u32::try_from(reply.len()) else { return };
    let sent = timeout(REQUEST_WITHIN, async {
        tls.write_all(&[&[status][..], &length.to_be_bytes(), &reply].concat()).await?;
        tls.shutdown().await
    });
    if !matches!(sent.await, Ok(Ok(()))) {
        debug!(%from, "the newcomer did not wait for its reply");
    }
}

/// A request to join, and a reply, as either side reads it.
pub(super) async fn decode(bytes: &[u8]) {
    let (mut request, mut reply) = (bytes, bytes);
    let _ = frame(&mut request, REQUEST_BYTES_MAX).await;
    let _ = frame(&mut reply, REPLY_BYTES_MAX).await;
}

async fn frame(stream: &mut (impl AsyncRead + Unpin), bytes_max: usize) -> io::Result<Vec<u8>> {
    let length = stream.read_u32().await? as usize;
    if length > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("frame of {length} bytes exceeds {bytes_max}")));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

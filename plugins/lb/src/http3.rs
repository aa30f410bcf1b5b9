//! HTTP/3 towards clients (RFC 9114), over QUIC: beside HTTPS, on the same port number, with the same certificates and the same routes.
//!
//! A request becomes what it is over HTTP/1.1 and HTTP/2 ([`crate::incoming`]), and takes the path of all others from there. quinn carries
//! it; the library h3 knows settings, field sections and the end of a connection. Between the two stands a layer of our own
//! ([`transport`]), since the library, as published, keeps without bound what is sent to it, and does not look at much that would be
//! understood in two ways. Connections are listed, swept and stopped as those over TCP are ([`crate::serve`]).
//!
//! Deliberately absent: early data (0-RTT), which could be played again; WebSockets (RFC 9220), datagrams, WebTransport, pushes, a dynamic
//! table of fields; and the PROXY protocol, so that who has to speak it is not let in here.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hirsel_mesh::seam::{Chance, Datagrams};
use hirsel_mesh::transport::{QuicRuntime, endpoint_config};
use hirsel_role::Context;
use http::HeaderValue;
use quinn::{Endpoint, IdleTimeout, TransportConfig, VarInt};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tracing::debug;

use crate::clients::asking::Tls;
use crate::serve::{self, Shared};

pub mod body;
mod connection;
pub mod frames;
pub mod head;
pub mod lines;
mod transport;

/// HTTP/3, as it is named in the handshake (RFC 9114, section 3.1).
pub const HTTP_3: &[u8] = b"h3";

/// Longest head of a request, as in HTTP/2.
const HEAD_BYTES_MAX: u64 = serve::HEAD_BYTES_MAX as u64;

/// For how long clients remember that the same is answered over HTTP/3: a day, as is usual (RFC 7838, section 3.1).
const REMEMBERED_S: u32 = 86_400;

/// Handshakes going on at once; each costs about a millisecond of processor time.
const HANDSHAKES_MAX: usize = 256;
/// From this many on, a client must first show that its address is real, which costs it one round trip.
const HANDSHAKES_BUSY: usize = 64;
/// A handshake must be done by then, as a head must be.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// Connections that were begun by a packet and not looked at yet, and the bytes kept for each and for all of them.
const INCOMING_MAX: usize = 1024;
const INCOMING_BYTES_MAX: u64 = 64 << 10;
const INCOMING_BYTES_TOTAL_MAX: u64 = 8 << 20;

/// Where in the role's data folder is what connections are reset by, and how long it is.
const RESET_FILE: &str = "quic-reset";
const RESET_SEED_BYTES: usize = 32;

/// One-way streams of a client: it has three (RFC 9114, section 6.2), and may try what we do not know.
const ONE_WAY_STREAMS_MAX: u32 = 16;
/// What comes of a client that is gone is waited for no longer. Whoever is there is asked in half that time, so that an answer may take
/// long and nothing between us forgets the connection; who has no request under way is ended by the sweep.
const SILENT_FOR_MAX: Duration = Duration::from_secs(30);
const ASK_AFTER: Duration = Duration::from_secs(15);

/// An endpoint over `socket` with these certificates.
fn endpoint(socket: Datagrams, tls: &Tls, chance: &dyn Chance, reset_seed: &[u8]) -> io::Result<Endpoint> {
    let mut server = quinn::ServerConfig::with_crypto(tls.over_quic()?);
    server
        .transport_config(Arc::new(transport_config()?))
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES_MAX)
        .incoming_buffer_size_total(INCOMING_BYTES_TOTAL_MAX);
    let config = endpoint_config(chance, reset_seed);
    Endpoint::new_with_abstract_socket(config, Some(server), socket.into_socket(), Arc::new(QuicRuntime))
}

fn transport_config() -> io::Result<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(Some(IdleTimeout::try_from(SILENT_FOR_MAX).map_err(io::Error::other)?))
        .keep_alive_interval(Some(ASK_AFTER))
        .max_concurrent_bidi_streams(VarInt::from_u32(serve::STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(ONE_WAY_STREAMS_MAX))
        .stream_receive_window(VarInt::from_u32(serve::STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(serve::CONNECTION_WINDOW_BYTES))
        .send_window(u64::from(serve::CONNECTION_WINDOW_BYTES))
        .datagram_receive_buffer_size(None);
    Ok(config)
}

/// Opens the UDP side of a port.
///
/// # Errors
/// Why it cannot be had.
pub async fn open(context: &Context, addr: SocketAddr, ahead: bool, tls: &Tls) -> io::Result<Endpoint> {
    let socket = match ahead {
        true => context.host.udp_ahead(addr).await?,
        false => context.host.udp(addr).await?,
    };
    endpoint(socket, tls, context.chance.as_ref(), &reset_seed(context))
}

/// What connections are reset by, kept on the disk: an agent that was killed and started again tells clients of its former life so at once,
/// who would otherwise wait for it until they think it gone. It opens nothing.
fn reset_seed(context: &Context) -> Vec<u8> {
    if let Ok(Some(kept)) = context.host.read(RESET_FILE)
        && kept.len() == RESET_SEED_BYTES
    {
        return kept;
    }
    let mut seed = vec![0; RESET_SEED_BYTES];
    context.chance.fill(&mut seed);
    if let Err(error) = context.host.write(RESET_FILE, &seed) {
        debug!(%error, "clients will not be told when this agent was started again");
    }
    seed
}

/// What is said to clients of HTTPS (RFC 7838, section 3).
pub fn announcement(port: u16) -> HeaderValue {
    let words = format!("h3=\":{port}\"; ma={REMEMBERED_S}");
    HeaderValue::try_from(words).unwrap_or(HeaderValue::from_static("clear"))
}

/// An endpoint at work beside a listener.
#[derive(Debug)]
pub(crate) struct Beside {
    endpoint: Endpoint,
    accepting: JoinHandle<()>,
    /// Whether it lets nobody in any more.
    closed: Arc<AtomicBool>,
}

impl Beside {
    pub(crate) fn start(endpoint: Endpoint, shared: Arc<Shared>) -> Self {
        let closed = Arc::<AtomicBool>::default();
        let accepting = shared.spawner.clone().spawn(accept(endpoint.clone(), shared, closed.clone()));
        Self { endpoint, accepting, closed }
    }

    /// Whether its loop has ended by itself, which it never should.
    pub(crate) fn is_broken(&self) -> bool {
        self.accepting.is_finished()
    }

    /// Refuses whoever comes.
    pub(crate) fn stop(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Ends everything at once.
    pub(crate) fn end(&self) {
        self.endpoint.close(VarInt::from_u32(NO_ERROR), b"");
    }
}

impl Drop for Beside {
    /// Whoever is there may finish. The port is free when nobody is there any more.
    fn drop(&mut self) {
        self.endpoint.set_server_config(None);
        self.accepting.abort();
    }
}

/// The end of a connection that has nothing to complain of (`H3_NO_ERROR`).
const NO_ERROR: u32 = 0x100;

/// The end of one whose client wants too much (`H3_EXCESSIVE_LOAD`).
const EXCESSIVE_LOAD: u32 = 0x107;

/// Accepts connections for as long as the endpoint lives.
async fn accept(endpoint: Endpoint, shared: Arc<Shared>, closed: Arc<AtomicBool>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    while let Some(incoming) = endpoint.accept().await {
        let from = incoming.remote_address();
        if shared.shut.load(Ordering::SeqCst) {
            // It tries again by itself.
            incoming.ignore();
            continue;
        }
        if closed.load(Ordering::SeqCst) {
            incoming.refuse();
            continue;
        }
        if shared.proxy.trusts(from.ip()) {
            debug!(%from, "who has to speak the PROXY protocol cannot over QUIC");
            shared.proxy.metrics.refused_headers.inc();
            incoming.refuse();
            continue;
        }
        let Ok(handshake) = handshakes.clone().try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let busy = HANDSHAKES_MAX - handshakes.available_permits() > HANDSHAKES_BUSY;
        if busy && !incoming.remote_address_validated() && incoming.may_retry() {
            // A client that cannot be reached at its address never comes back.
            let _ = incoming.retry();
            continue;
        }
        let Ok(slot) = shared.slots.clone().try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        drop(shared.spawner.spawn(connection::serve(incoming, slot, handshake, shared.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_announced_in_the_words_of_the_standard() {
        assert_eq!(announcement(8443), "h3=\":8443\"; ma=86400");
    }
}

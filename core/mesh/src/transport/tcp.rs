//! The TCP port: TLS, split by what the client asks for (ALPN). Whoever asks for something else is closed.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hirsel_model::NodeId;
use rustls::server::Acceptor;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};

use super::tls::{Buffered, DOOR, JOIN, buffered};
use super::{HttpsStream, Shared, door, join};
use crate::seam::{BoxStream, Listener};

/// A client that is slower is closed: it has sent four small packets by then, or it means harm.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(3);
/// Handshakes going on at once, in all and with one address. Whoever opens connections and says nothing holds these for
/// [`HANDSHAKE_WITHIN`], and must not keep out an lb, whose handshakes take milliseconds.
const HANDSHAKES_MAX: usize = 2048;
const HANDSHAKES_PER_ADDRESS_MAX: usize = 256;
/// Connections served at once of each kind. Doors: the requests in flight of every lb to this node.
const DOORS_MAX: usize = 16_384;
const HTTPS_MAX: usize = 1024;
const JOINS_MAX: usize = 64;
/// After the system refused to give another connection (no file descriptors, no memory), it is left alone for a moment.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

struct Limits {
    handshakes: Arc<Semaphore>,
    doors: Arc<Semaphore>,
    https: Arc<Semaphore>,
    joins: Arc<Semaphore>,
    /// Handshakes going on, by address of the client.
    guests: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
}

/// The place of one handshake. Given back when dropped.
struct Place {
    _permit: OwnedSemaphorePermit,
    guests: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
    from: IpAddr,
}

impl Limits {
    /// None when all places, or all for this address, are taken.
    fn place(&self, from: IpAddr) -> Option<Place> {
        let permit = self.handshakes.clone().try_acquire_owned().ok()?;
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = guests.entry(from).or_default();
        if *taken >= HANDSHAKES_PER_ADDRESS_MAX {
            return None;
        }
        *taken += 1;
        Some(Place { _permit: permit, guests: self.guests.clone(), from })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut taken) = guests.entry(self.from) {
            *taken.get_mut() -= 1;
            if *taken.get() == 0 {
                taken.remove();
            }
        }
    }
}

/// Accepts connections for as long as the transport lives.
pub(super) async fn accept(shared: Arc<Shared>, mut listener: Box<dyn Listener>) {
    let limits = Arc::new(Limits {
        handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
        doors: Arc::new(Semaphore::new(DOORS_MAX)),
        https: Arc::new(Semaphore::new(HTTPS_MAX)),
        joins: Arc::new(Semaphore::new(JOINS_MAX)),
        guests: Arc::default(),
    });
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                failing = false;
                let Some(place) = limits.place(from.ip()) else { continue };
                let (accepting, limits) = (shared.clone(), limits.clone());
                shared.spawn_stream(welcome(accepting, limits, stream, from, place));
            }
            Err(error) => {
                if !failing {
                    warn!(%error, "cannot accept connections; trying on");
                }
                failing = true;
                sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
}

async fn welcome(shared: Arc<Shared>, limits: Arc<Limits>, stream: BoxStream, from: SocketAddr, place: Place) {
    match timeout(HANDSHAKE_WITHIN, handshake(&shared, &limits, stream)).await {
        Ok(Ok(Some((purpose, tls)))) => {
            drop(place);
            serve(shared, purpose, tls, from).await;
        }
        Ok(Ok(None)) => debug!(%from, "connection closed: too many of its kind"),
        Ok(Err(error)) => debug!(%from, %error, "connection refused"),
        Err(_) => debug!(%from, "handshake took too long"),
    }
}

/// What the client came for, and the permit it holds for as long as it is served.
enum Purpose {
    Door(OwnedSemaphorePermit),
    Join(OwnedSemaphorePermit),
    Https(OwnedSemaphorePermit),
}

async fn handshake(
    shared: &Shared,
    limits: &Limits,
    stream: BoxStream,
) -> std::io::Result<Option<(Purpose, TlsStream<Buffered>)>> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), buffered(stream)).await?;
    let hello = start.client_hello();
    let asks = |protocol: &[u8]| hello.alpn().is_some_and(|mut offered| offered.any(|name| name == protocol));
    let (door, join) = (asks(DOOR), asks(JOIN));
    let (limit, config) = match (door, join) {
        (true, _) => (&limits.doors, &shared.tls.door_server),
        (_, true) => (&limits.joins, &shared.tls.join_server),
        _ => (&limits.https, &shared.tls.https_server),
    };
    let Ok(permit) = limit.clone().try_acquire_owned() else { return Ok(None) };
    let tls = start.into_stream(config.clone()).await?;
    let purpose = match (door, join) {
        (true, _) => Purpose::Door(permit),
        (_, true) => Purpose::Join(permit),
        _ => Purpose::Https(permit),
    };
    Ok(Some((purpose, tls)))
}

async fn serve(shared: Arc<Shared>, purpose: Purpose, tls: TlsStream<Buffered>, from: SocketAddr) {
    let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
    let owner = shared.tls.owner(chain);
    match purpose {
        Purpose::Door(_permit) => {
            // A door's client has shown its certificate, or the handshake would have failed.
            if let Some(owner) = owner {
                door::serve(&shared, owner, tls).await;
            }
        }
        Purpose::Join(_permit) => join::serve(&shared, tls, from).await,
        Purpose::Https(_permit) => {
            let node: Option<NodeId> = owner.map(|owner| owner.node);
            let handler = shared.handlers().https.clone();
            if let Some(handler) = handler {
                handler(HttpsStream { stream: Box::new(tls), remote: from, node }).await;
            }
        }
    }
}

//! The path of one connection at a port: who the client is, whether it is let in, who takes it, and then both ways until the end.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use arc_swap::ArcSwap;
use hirsel_mesh::seam::{BoxStream, Listener};
use hirsel_role::{Context, Spawner};
use tokio::sync::Notify;
use tracing::{debug, warn};

use super::metrics::{Metrics, Why};
use super::pump::{self, Direction};
use super::settings::Settings;
use crate::behind;
use crate::budget::Budget;
use crate::proxy::{Dialled, Proxy};
use crate::proxy_protocol::{self, Header};
use crate::serve::ACCEPT_PAUSE;
use crate::table::Table;

/// Connections of all ports of one load balancer at once. Each takes two files, and 128 KiB at worst: of a client and a target that
/// both take nothing.
const ALL_CONNECTIONS_MAX: u32 = 50_000;

/// What may wait, of all datagrams together, until their sessions have a
/// target: some thousand of the longest that usual networks carry.
const WAITING_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What all ports have together.
pub(super) struct Shared {
    pub(super) metrics: Metrics,
    /// Room for datagrams that wait.
    pub(super) waiting: Arc<Budget>,
    pub(super) spawner: Spawner,
    proxy: Arc<Proxy>,
    connections: AtomicU32,
    stopping: AtomicBool,
    /// Told when the last connection has ended while stopping.
    idle: Arc<Notify>,
}

/// An open port.
pub(super) struct Door {
    pub(super) settings: ArcSwap<Settings>,
    /// Where it listens.
    addr: SocketAddr,
    connections: AtomicU32,
    clients: Mutex<HashMap<IpAddr, u32>>,
}

impl Shared {
    pub(super) fn new(proxy: Arc<Proxy>, context: &Context, metrics: Metrics) -> Self {
        Self {
            metrics,
            waiting: Budget::new(WAITING_BYTES_MAX),
            proxy,
            spawner: context.spawner.clone(),
            connections: AtomicU32::new(0),
            stopping: AtomicBool::new(false),
            idle: context.wake.clone(),
        }
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst) as usize
    }

    pub(super) fn set_stopping(&self, stopping: bool) {
        self.stopping.store(stopping, Ordering::SeqCst);
    }
}

impl Door {
    pub(super) fn new(settings: ArcSwap<Settings>, addr: SocketAddr) -> Self {
        Self { settings, addr, connections: AtomicU32::new(0), clients: Mutex::default() }
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes what comes in at a port, until it is told to end.
pub(super) async fn accept(mut listener: Box<dyn Listener>, door: Arc<Door>, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                let settings = door.settings.load_full();
                // Waiting in the kernel's queue, as requests do, might take an hour here: it is better told at once.
                match Place::take(&door, &shared, &settings) {
                    Some(place) => drop(shared.spawner.spawn(serve(stream, remote, settings, place))),
                    None => settings.counted.refuse(Why::Full),
                }
            }
            Err(error) => {
                warn!(%error, port = %door.settings.load().port, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection until it ends.
async fn serve(mut stream: BoxStream, remote: SocketAddr, settings: Arc<Settings>, place: Place) {
    let port = settings.port;
    let (mut client, mut to, mut begun) = (remote, place.door.addr, Vec::new());
    if settings.trusts(remote.ip()) {
        match behind::told(&mut stream).await {
            Ok((header, rest)) => {
                if let Header::For { client: of, to: there } = header {
                    (client, to) = (of, there);
                }
                begun = rest;
            }
            Err(error) => {
                debug!(%port, %remote, %error, "connection without a header of the PROXY protocol");
                return settings.counted.refuse(Why::NoHeader);
            }
        }
    }
    if !settings.admits(client.ip()) {
        debug!(%port, %client, "connection is not let in");
        return settings.counted.refuse(Why::Denied);
    }
    let Some(_mine) = Mine::take(&place.door, client.ip(), settings.client_connections_max) else {
        debug!(%port, %client, "client has too many connections");
        return settings.counted.refuse(Why::Full);
    };
    let first = settings.send_proxy.map(|version| proxy_protocol::write(version, client, to)).unwrap_or_default();
    let target = |table: &Table, draw| table.origin_of_port(port, || draw).cloned();
    let Some(dialled) = place.shared.proxy.dial(target, settings.connect_within, &first).await else {
        debug!(%port, %client, "nobody takes the connection");
        return settings.counted.refuse(Why::NoTarget);
    };
    let _open = settings.counted.begin();
    if let Err(error) = carry(stream, dialled, begun, &settings).await {
        debug!(%port, %client, %error, "connection broke");
    }
}

/// Carries bytes both ways until both ends have come, one side breaks, or somebody says that it is over.
async fn carry(mut client: BoxStream, dialled: Dialled, begun: Vec<u8>, settings: &Settings) -> io::Result<()> {
    let Dialled { stream: mut target, ticket: _ticket, pulse } = dialled;
    pulse.bears(settings.idle_sweeps);
    let mut up = Direction::new(begun, settings.counted.to_target.clone());
    let mut down = Direction::new(Vec::new(), settings.counted.to_client.clone());
    poll_fn(|cx| {
        pulse.gauge.driven_by(cx);
        if let Some(failure) = pulse.over() {
            return Poll::Ready(Err(io::Error::other(format!("{failure:?}"))));
        }
        pump::poll(cx, (&mut client, &mut up), (&mut target, &mut down))
    })
    .await
}

/// A place among the connections of a port, and of all.
pub(super) struct Place {
    pub(super) door: Arc<Door>,
    shared: Arc<Shared>,
}

impl Place {
    /// Whoever finds targets.
    pub(super) fn proxy(&self) -> &Proxy {
        &self.shared.proxy
    }

    pub(super) fn take(door: &Arc<Door>, shared: &Arc<Shared>, settings: &Settings) -> Option<Self> {
        let place = Self { door: door.clone(), shared: shared.clone() };
        let here = door.connections.fetch_add(1, Ordering::SeqCst);
        let all = shared.connections.fetch_add(1, Ordering::SeqCst);
        (here < settings.connections_max && all < ALL_CONNECTIONS_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.door.connections.fetch_sub(1, Ordering::SeqCst);
        let last = self.shared.connections.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.shared.stopping.load(Ordering::SeqCst) {
            self.shared.idle.notify_one();
        }
    }
}

/// One of the connections of a client.
pub(super) struct Mine<'a> {
    door: &'a Door,
    client: IpAddr,
}

impl<'a> Mine<'a> {
    pub(super) fn take(door: &'a Door, client: IpAddr, most: u32) -> Option<Self> {
        let client = one_client(client);
        let mut clients = door.clients();
        let open = clients.entry(client).or_default();
        if *open >= most {
            return None;
        }
        *open += 1;
        drop(clients);
        Some(Self { door, client })
    }
}

impl Drop for Mine<'_> {
    fn drop(&mut self) {
        let mut clients = self.door.clients();
        match clients.get_mut(&self.client) {
            Some(open) if *open > 1 => *open -= 1,
            Some(_) | None => drop(clients.remove(&self.client)),
        }
    }
}

/// An IPv4 address, or the network of an IPv6 address, of which one client has 2^64.
pub(crate) fn one_client(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

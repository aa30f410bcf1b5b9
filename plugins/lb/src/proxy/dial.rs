//! A connection to whoever takes those of a port, or of a host that is passed on as it is.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hirsel_mesh::seam::{BoxStream, Datagrams, Origin as Peer};
use hirsel_mesh::transport::datagrams::{self, Incoming};
use hirsel_model::Timestamp;
use tokio::io::AsyncWriteExt;
use tracing::{debug, info};

use super::Proxy;
use crate::instance::{Instance, Ticket, Whom};
use crate::io::Gauged;
use crate::replay::{PATIENCE, TRIES_MAX};
use crate::table::{Origin, Table, Way};
use crate::upstream::Pulse;

/// A connection to a target.
pub struct Dialled {
    /// The connection itself.
    pub stream: Gauged,
    /// Counts among the connections of its instance.
    pub ticket: Ticket,
    /// What others may tell whoever uses it.
    pub pulse: Arc<Pulse>,
}

/// Finds whoever takes a connection in the table of the moment.
pub trait Target: Fn(&Table, u64) -> Option<Arc<Origin>> + Send + Sync {}
impl<F: Fn(&Table, u64) -> Option<Arc<Origin>> + Send + Sync> Target for F {}

/// What was tried so far.
#[derive(Default)]
struct Search {
    tried: Vec<Arc<Instance>>,
    tries: u32,
    give_up_at: Option<Timestamp>,
}

/// A way for datagrams of one client to a target.
pub struct Carrier {
    way: Carried,
    ticket: Ticket,
    pulse: Arc<Pulse>,
}

enum Carried {
    /// Over a socket of its own to this address.
    Directly(Datagrams, SocketAddr),
    ThroughDoor(BoxStream, Incoming),
}

impl Carrier {
    /// Sends a datagram.
    ///
    /// # Errors
    /// When there is no way any more.
    pub async fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        match &mut self.way {
            Carried::Directly(socket, peer) => match socket.send(datagram, Peer { peer: *peer, local: None }).await {
                // Nobody listened there when the one before came.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
                sent => sent,
            },
            Carried::ThroughDoor(door, _) => datagrams::write(door, datagram).await,
        }
    }

    /// The next datagram of the target; none when there is no way any more. Cancel-safe.
    ///
    /// # Errors
    /// When the way broke.
    pub async fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        match &mut self.way {
            Carried::ThroughDoor(door, incoming) => incoming.next(door).await,
            Carried::Directly(socket, peer) => loop {
                match socket.receive().await {
                    // Nobody but the target is heard.
                    Ok((datagram, from)) if from.peer == *peer => return Ok(Some(datagram.to_vec())),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                    Err(error) => return Err(error),
                }
            },
        }
    }
}

impl Proxy {
    /// Connects to an instance of what `to` finds in the table, told a number drawn by chance, and writes `first`. Nothing of the
    /// client has gone out before, so whoever fails is left alone for a while, and the next one is tried; none when there is nobody, and
    /// nobody comes in a while.
    pub async fn dial(&self, to: impl Target, within: Duration, first: &[u8]) -> Option<Dialled> {
        let mut search = Search::default();
        while let Some((ticket, way)) = self.next(&to, &mut search).await {
            let (instance, begun) = (ticket.instance().clone(), self.now());
            match self.reach(&instance, way, within, first).await {
                Ok((stream, pulse)) => {
                    let now = self.now();
                    instance.succeeded(now.since(begun), now);
                    return Some(Dialled { stream, ticket, pulse });
                }
                Err(error) => self.failed(instance, &error, &mut search),
            }
        }
        None
    }

    /// A way for datagrams to an instance of what `to` finds. Over UDP nobody says whether anybody is there.
    pub async fn dial_for_datagrams(&self, to: impl Target, within: Duration) -> Option<Carrier> {
        let mut search = Search::default();
        while let Some((ticket, way)) = self.next(&to, &mut search).await {
            let instance = ticket.instance().clone();
            let opened = match tokio::time::timeout(within, self.open_for_datagrams(&instance, way)).await {
                Ok(opened) => opened,
                Err(_late) => Err(io::ErrorKind::TimedOut.into()),
            };
            match opened {
                Ok(way) => {
                    let pulse = instance.pool.watch();
                    // Its sessions look after themselves.
                    pulse.bears(u32::MAX);
                    return Some(Carrier { way, ticket, pulse });
                }
                Err(error) => self.failed(instance, &error, &mut search),
            }
        }
        None
    }

    /// Whether somebody else should be asked: the instance, or its node, is gone.
    pub fn has_left(&self, carrier: &Carrier) -> bool {
        carrier.pulse.is_lost() || !self.routes.have(carrier.ticket.instance())
    }

    async fn open_for_datagrams(&self, instance: &Instance, way: Way) -> io::Result<Carried> {
        match (way, &instance.whom) {
            (Way::Direct(addr), _) => {
                let any: IpAddr =
                    if addr.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                Ok(Carried::Directly(self.host.udp(SocketAddr::new(any, 0)).await?, addr))
            }
            (Way::Door { node, addr }, Whom::Instance { id, .. }) => {
                let door = self.doors.open_for_datagrams(node, addr, id).await?;
                Ok(Carried::ThroughDoor(door, Incoming::default()))
            }
            (Way::Door { .. }, Whom::Outside(_)) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Whom to try next; waits a while for somebody. None when it is enough.
    async fn next(&self, to: &impl Target, search: &mut Search) -> Option<(Ticket, Way)> {
        while search.tries < TRIES_MAX {
            if let Some(found) = self.pick_for(to, &search.tried) {
                return Some(found);
            }
            let until = *search.give_up_at.get_or_insert_with(|| self.now() + PATIENCE);
            if !self.wait_for_instance(until).await {
                return None;
            }
            search.tried.clear();
        }
        None
    }

    fn failed(&self, instance: Arc<Instance>, error: &io::Error, search: &mut Search) {
        debug!(instance = %instance.whom, %error, "no connection");
        self.leave_alone(&instance, error);
        self.metrics.retries.inc();
        search.tries += 1;
        search.tried.push(instance);
    }

    fn pick_for(&self, to: &impl Target, tried: &[Arc<Instance>]) -> Option<(Ticket, Way)> {
        let table = self.routes.table();
        let origin = to(&table, self.draw())?;
        table.service(&origin)?.pick(self.now(), self.draw(), tried)
    }

    async fn reach(
        &self,
        instance: &Instance,
        way: Way,
        within: Duration,
        first: &[u8],
    ) -> io::Result<(Gauged, Arc<Pulse>)> {
        self.metrics.connects.inc();
        let reached = async {
            let stream: BoxStream = self.open(&instance.whom, way).await?;
            let pulse = instance.pool.watch();
            let mut stream = Gauged::new(stream, pulse.gauge.clone());
            if !first.is_empty() {
                stream.write_all(first).await?;
                stream.flush().await?;
            }
            Ok((stream, pulse))
        };
        match tokio::time::timeout(within, reached).await {
            Ok(reached) => reached,
            Err(_late) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn leave_alone(&self, instance: &Instance, error: &io::Error) {
        if !instance.failed(self.now()) {
            return;
        }
        self.metrics.ejections.inc();
        match &instance.whom {
            Whom::Instance { id, node } => info!(instance = %id, %node, %error, "instance ejected"),
            Whom::Outside(addr) => info!(%addr, %error, "address outside ejected"),
        }
    }
}

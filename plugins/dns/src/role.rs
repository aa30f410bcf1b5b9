//! Keeps the server of this node listening, and hands it the names of each order.
//!
//! It needs no slot: it answers from its first order on, and goes on for ever on the last one. That it cannot listen harms nothing
//! else: it is said once, is in the report of the node, and is tried again.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hirsel_model::order::{DnsOrder, Order, Work};
use hirsel_model::report::{RoleFacts, RoleReport, RoleState};
use hirsel_model::{Generation, RoleName, Timestamp};
use hirsel_role::dnssec::ZoneKeyring;
use hirsel_role::{Context, Plugin, Role};
use tracing::{info, warn};

use crate::forward::{Counters, Forward, Outside};
use crate::metrics::Metrics;
use crate::names::Names;
use crate::serve::{Desk, Server};

/// A port that is taken is tried again after this time, doubling up to [`LISTEN_AGAIN_MAX`].
const LISTEN_AGAIN_FIRST: Duration = Duration::from_secs(1);
/// Longest pause between two tries to listen: whoever frees the port sees it used within seconds.
const LISTEN_AGAIN_MAX: Duration = Duration::from_secs(10);

/// The plugin.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dns;

impl Plugin for Dns {
    fn role(&self) -> RoleName {
        RoleName::dns()
    }

    fn is_gateway(&self) -> bool {
        true
    }

    fn start(&self, context: Context) -> Box<dyn Role> {
        let metrics = Metrics::new();
        metrics.register(&mut context.metrics.lock().unwrap_or_else(PoisonError::into_inner));
        let names = Names::new(Generation(0), Arc::default(), &[]);
        let (live, me, clock) = (context.live.clone(), context.me.clone(), context.clock.clone());
        let desk = Desk::new(names, live, me, clock, context.chance.as_ref(), metrics);
        let desk = match forward(&context) {
            Some(forward) => desk.with_forward(forward),
            None => desk,
        };
        let desk = Arc::new(desk);
        let (mut keys, wake) = (context.zone_keys.clone(), context.wake.clone());
        drop(context.spawner.spawn(async move {
            while keys.changed().await.is_ok() {
                wake.notify_one();
            }
        }));
        let keyring = Arc::default();
        Box::new(DnsRole { context, desk, generation: Generation(0), keyring, ear: Ear::Closed })
    }
}

/// Who asks others, where the operator says whom.
fn forward(context: &Context) -> Option<Forward> {
    let (resolvers, allowed) = (context.config.dns_forward.clone(), context.config.dns_forward_for.clone());
    let counters = Counters::default();
    if resolvers.is_empty() {
        return None;
    }
    counters.register(&mut context.metrics.lock().unwrap_or_else(PoisonError::into_inner));
    let (host, clock, chance) = (context.host.clone(), context.clock.clone(), context.chance.clone());
    let outside = Outside { host, clock, chance, spawner: context.spawner.clone() };
    Some(Forward::new(resolvers, allowed, outside, counters))
}

struct DnsRole {
    context: Context,
    desk: Arc<Desk>,
    generation: Generation,
    /// With what the names are signed.
    keyring: Arc<ZoneKeyring>,
    ear: Ear,
}

/// Whether it listens.
enum Ear {
    Closed,
    /// Could not.
    Barred {
        message: String,
        again_at: Timestamp,
        pause: Duration,
    },
    Open(Server),
}

impl DnsRole {
    async fn step(&mut self, order: &Order) -> RoleReport {
        if let Work::Dns(names) = &order.work {
            self.adopt(order.generation, names);
            if let Some(addr) = self.context.config.dns {
                self.listen(addr).await;
            }
        }
        self.report()
    }

    fn adopt(&mut self, generation: Generation, order: &Arc<DnsOrder>) {
        self.generation = generation;
        let before = self.desk.names.load();
        let keyring = self.context.zone_keys.borrow().clone();
        let is_signed_alike = self.keyring == keyring && before.order.signed == order.signed;
        if before.generation == generation && before.order == *order && is_signed_alike {
            return;
        }
        let next = before.next(generation, order.clone(), &self.context.config.dns_zones);
        self.desk.names.store(Arc::new(if is_signed_alike { next } else { next.with_keys(&keyring) }));
        self.keyring = keyring;
    }

    async fn listen(&mut self, addr: SocketAddr) {
        let now = self.context.clock.now();
        let pause = match &self.ear {
            Ear::Open(server) if !server.is_broken() => return,
            Ear::Barred { again_at, .. } if now < *again_at => return,
            Ear::Barred { pause, .. } => (*pause * 2).min(LISTEN_AGAIN_MAX),
            Ear::Closed | Ear::Open(_) => LISTEN_AGAIN_FIRST,
        };
        let told = match std::mem::replace(&mut self.ear, Ear::Closed) {
            Ear::Barred { message, .. } => Some(message),
            // One half of it has ended; the other one must not keep the port.
            Ear::Open(server) => {
                drop(server);
                None
            }
            Ear::Closed => None,
        };
        let host = self.context.host.clone();
        let opened = async { Ok((host.udp(addr).await?, host.listen(addr).await?)) };
        self.ear = match opened.await {
            Ok((datagrams, listener)) => {
                info!(%addr, "names are answered");
                Ear::Open(Server::start(datagrams, listener, &self.desk, &self.context.spawner))
            }
            Err(error) => {
                let message = cannot_listen(addr, &error);
                if told.as_ref() != Some(&message) {
                    warn!(%addr, %error, "names cannot be answered; look at: hirsel doctor");
                }
                Ear::Barred { message, again_at: now + pause, pause }
            }
        };
    }

    fn report(&self) -> RoleReport {
        let (state, message) = match &self.ear {
            Ear::Closed => (RoleState::Stopped, None),
            Ear::Barred { message, .. } => (RoleState::Failed, Some(message.clone())),
            Ear::Open(_) => (RoleState::Running, None),
        };
        RoleReport { state, generation: self.generation, message, facts: RoleFacts::None, ..RoleReport::default() }
    }
}

impl Role for DnsRole {
    fn converge<'a>(&'a mut self, order: &'a Order) -> BoxFuture<'a, RoleReport> {
        self.step(order).boxed()
    }
}

fn cannot_listen(addr: SocketAddr, error: &io::Error) -> String {
    let (port, ip) = (addr.port(), addr.ip());
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "port {port} on {ip} is taken by another program; ss -lntup 'sport = :{port}' names it; free it, or choose another \
             address with --dns IP:PORT"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "no permission to listen on port {port}; run the agent as root, give it CAP_NET_BIND_SERVICE, or choose a port \
             above 1023 with --dns IP:PORT"
        ),
        io::ErrorKind::AddrNotAvailable => format!("{ip} is no address of this host; correct --dns"),
        _ => format!("could not listen on {addr}: {error}"),
    }
}

//! Makes this host match its order: listens when it holds a slot, hands orders and news to the routing table, stops gracefully.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hirsel_model::order::{Order, Work};
use hirsel_model::report::{RoleFacts, RoleReport, RoleState};
use hirsel_model::{RoleName, Timestamp};
use hirsel_role::{Context, Plugin, Role};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::metrics::Metrics;
use crate::proxy::Proxy;
use crate::serve::{STOP_WITHIN, Server};

/// A port that is taken is tried again after this time, doubling up to [`LISTEN_AGAIN_MAX`].
const LISTEN_AGAIN_FIRST: Duration = Duration::from_secs(1);

/// Longest pause between two tries to listen: whoever frees the port sees it used within seconds.
const LISTEN_AGAIN_MAX: Duration = Duration::from_secs(10);

/// Time between two looks at all connections. What stands still is found this much late at most.
const SWEEP_EVERY: Duration = Duration::from_millis(500);

/// The load balancer plugin.
#[derive(Debug, Default)]
pub struct Lb;

impl Lb {
    /// The plugin.
    pub fn new() -> Self {
        Self
    }
}

impl Plugin for Lb {
    fn role(&self) -> RoleName {
        RoleName::lb()
    }

    fn start(&self, context: Context) -> Box<dyn Role> {
        let metrics = Metrics::new();
        metrics.register(&mut context.metrics.lock().unwrap_or_else(PoisonError::into_inner));
        Box::new(LbRole::new(context, metrics))
    }
}

/// The load balancer of this node.
struct LbRole {
    addr: SocketAddr,
    proxy: Arc<Proxy>,
    public: Public,
    server: Arc<Mutex<Option<Server>>>,
    background: [JoinHandle<()>; 2],
    context: Context,
}

/// How far the public side is.
enum Public {
    Closed,
    /// Could not listen.
    Barred {
        message: String,
        again_at: Timestamp,
        pause: Duration,
    },
    Open,
    /// Ends what is under way.
    Stopping {
        until: Timestamp,
    },
}

impl LbRole {
    fn new(context: Context, metrics: Metrics) -> Self {
        let proxy = Arc::new(Proxy::new(&context, metrics));
        let server = Arc::new(Mutex::new(None));
        let background = [
            context.spawner.spawn(listen_to_news(proxy.clone(), context.live.clone())),
            context.spawner.spawn(sweep(proxy.clone(), server.clone())),
        ];
        let addr = SocketAddr::new(context.me.bind, context.config.http_port);
        Self { addr, proxy, public: Public::Closed, server, background, context }
    }

    async fn step(&mut self, order: &Order) -> RoleReport {
        match &order.work {
            Work::Lb(work) if !order.slots.is_empty() => {
                self.proxy.routes.adopt(order.generation, work);
                self.open().await;
            }
            Work::Lb(_) | Work::None | Work::Compute(_) | Work::Dns(_) => {
                self.close();
                if matches!(self.public, Public::Closed) {
                    self.proxy.routes.adopt(order.generation, &Arc::default());
                }
            }
        }
        self.report()
    }

    async fn open(&mut self) {
        let now = self.context.clock.now();
        let pause = match &self.public {
            Public::Open if !self.is_broken() => return,
            Public::Barred { again_at, .. } if now < *again_at => return,
            Public::Barred { pause, .. } => (*pause * 2).min(LISTEN_AGAIN_MAX),
            Public::Closed | Public::Stopping { .. } | Public::Open => LISTEN_AGAIN_FIRST,
        };
        self.set_server(None);
        match self.context.host.listen(self.addr).await {
            Ok(listener) => {
                let (spawner, wake) = (self.context.spawner.clone(), self.context.wake.clone());
                self.set_server(Some(Server::start(listener, self.proxy.clone(), spawner, wake)));
                self.public = Public::Open;
                info!(addr = %self.addr, "load balancer listens");
            }
            Err(error) => {
                let message = cannot_listen(self.addr, &error);
                if !matches!(&self.public, Public::Barred { message: before, .. } if *before == message) {
                    warn!(addr = %self.addr, %error, "load balancer cannot listen");
                }
                self.public = Public::Barred { message, again_at: now + pause, pause };
                self.wake_after(pause);
            }
        }
    }

    fn close(&mut self) {
        let now = self.context.clock.now();
        match &self.public {
            Public::Closed => {}
            Public::Barred { .. } => self.public = Public::Closed,
            Public::Open => {
                self.with_server(Server::stop);
                self.public = Public::Stopping { until: now + STOP_WITHIN };
                self.wake_after(STOP_WITHIN);
                info!(addr = %self.addr, "load balancer stops");
                self.close_if_done(now);
            }
            Public::Stopping { .. } => self.close_if_done(now),
        }
    }

    fn close_if_done(&mut self, now: Timestamp) {
        let Public::Stopping { until } = self.public else { return };
        if now >= until || self.clients() == 0 {
            self.set_server(None);
            // Tunnels never end by themselves.
            self.proxy.routes.end();
            self.public = Public::Closed;
        }
    }

    fn report(&self) -> RoleReport {
        let (state, message) = match &self.public {
            Public::Closed => (RoleState::Stopped, None),
            Public::Barred { message, .. } => (RoleState::Failed, Some(message.clone())),
            Public::Open => (RoleState::Running, None),
            Public::Stopping { .. } => {
                (RoleState::Running, Some(format!("stopping: {} connections end their requests", self.clients())))
            }
        };
        RoleReport {
            state,
            generation: self.proxy.routes.table().generation,
            message,
            facts: RoleFacts::Lb(self.proxy.routes.draining()),
        }
    }

    fn clients(&self) -> usize {
        self.with_server(Server::clients).unwrap_or(0)
    }

    fn is_broken(&self) -> bool {
        self.with_server(Server::is_broken).unwrap_or(true)
    }

    fn with_server<T>(&self, ask: impl FnOnce(&Server) -> T) -> Option<T> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(ask)
    }

    fn set_server(&self, server: Option<Server>) {
        let before = std::mem::replace(&mut *self.server.lock().unwrap_or_else(PoisonError::into_inner), server);
        drop(before);
    }

    fn wake_after(&self, pause: Duration) {
        let wake = self.context.wake.clone();
        drop(self.context.spawner.spawn(async move {
            tokio::time::sleep(pause).await;
            wake.notify_one();
        }));
    }
}

impl Role for LbRole {
    fn converge<'a>(&'a mut self, order: &'a Order) -> BoxFuture<'a, RoleReport> {
        self.step(order).boxed()
    }
}

impl Drop for LbRole {
    fn drop(&mut self) {
        self.background.iter().for_each(JoinHandle::abort);
        self.set_server(None);
        self.proxy.routes.end();
    }
}

/// Hands what is heard of the nodes to the routing table as soon as it is heard.
async fn listen_to_news(proxy: Arc<Proxy>, mut live: tokio::sync::watch::Receiver<Arc<hirsel_role::Live>>) {
    loop {
        live.mark_unchanged();
        proxy.routes.hear();
        if live.changed().await.is_err() {
            return;
        }
    }
}

async fn sweep(proxy: Arc<Proxy>, server: Arc<Mutex<Option<Server>>>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        proxy.routes.sweep(proxy.now());
        if let Some(server) = &*server.lock().unwrap_or_else(PoisonError::into_inner) {
            server.sweep();
        }
    }
}

fn cannot_listen(addr: SocketAddr, error: &io::Error) -> String {
    let (port, ip) = (addr.port(), addr.ip());
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "port {port} on {ip} is taken by another program; free it (ss -ltnp 'sport = :{port}' names it) or choose another \
             port for the load balancer"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "no permission to listen on port {port}; run the agent as root, give it CAP_NET_BIND_SERVICE, or choose a port \
             above 1023"
        ),
        io::ErrorKind::AddrNotAvailable => format!("{ip} is no address of this host; correct the agent's bind address"),
        _ => format!("could not listen on {addr}: {error}"),
    }
}

//! One port of the public side: listens while it is wanted, tries again where it cannot, and ends what is under way before it stops.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hirsel_mesh::seam::Gate;
use hirsel_model::Timestamp;
use hirsel_role::Context;
use rustls::ServerConfig;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use crate::proxy::Proxy;
use crate::serve::{STOP_WITHIN, Server};

/// A port that is taken is tried again after this time, doubling up to [`LISTEN_AGAIN_MAX`].
pub const LISTEN_AGAIN_FIRST: Duration = Duration::from_secs(1);

/// Longest pause between two tries to listen: whoever frees the port sees it used within seconds.
pub const LISTEN_AGAIN_MAX: Duration = Duration::from_secs(10);

/// Whoever was let in just before nobody is any more has asked by then.
const FIRST_REQUEST_WITHIN: Duration = Duration::from_millis(100);

/// A port of the public side.
pub struct Front {
    addr: SocketAddr,
    /// The host may have the address later only.
    ahead: bool,
    tls: Option<Arc<ServerConfig>>,
    state: State,
    server: Arc<Mutex<Option<Server>>>,
    /// Holds off who wants to connect.
    gate: Option<Arc<dyn Gate>>,
    /// Whether it does.
    shut: bool,
    /// Ends the connections that are open then.
    ending: Option<JoinHandle<()>>,
    context: Context,
}

/// How far it is.
#[derive(Debug)]
pub enum State {
    /// Nothing listens.
    Closed,
    /// Could not listen.
    Barred {
        /// Why, and what to do.
        message: String,
        /// When it is tried again.
        again_at: Timestamp,
        /// How long was waited before that.
        pause: Duration,
    },
    /// It takes connections.
    Open,
    /// Ends what is under way.
    Stopping {
        /// What is left then is cut off.
        until: Timestamp,
    },
}

impl Front {
    /// A port that is closed; over TLS if there is a `tls`.
    pub fn new(context: &Context, port: u16, tls: Option<Arc<ServerConfig>>) -> Self {
        let addr = SocketAddr::new(context.me.bind, port);
        Self {
            addr,
            ahead: false,
            tls,
            state: State::Closed,
            server: Arc::default(),
            gate: None,
            shut: false,
            ending: None,
            context: context.clone(),
        }
    }

    /// A port that is closed, at an address that the host may have later only.
    pub fn ahead(context: &Context, ip: IpAddr, port: u16, tls: Option<Arc<ServerConfig>>) -> Self {
        Self { addr: SocketAddr::new(ip, port), ahead: true, ..Self::new(context, port, tls) }
    }

    /// How far it is.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What a sweep over all connections needs.
    pub fn server(&self) -> Arc<Mutex<Option<Server>>> {
        self.server.clone()
    }

    /// Listens, unless it does already or is to be tried later.
    pub async fn open(&mut self, proxy: &Arc<Proxy>) {
        let now = self.context.clock.now();
        let pause = match &self.state {
            State::Open if !self.is_broken() && self.shut => return,
            State::Open if !self.is_broken() => return self.with_server(Server::go_on).unwrap_or_default(),
            State::Barred { again_at, .. } if now < *again_at => return,
            State::Barred { pause, .. } => (*pause * 2).min(LISTEN_AGAIN_MAX),
            State::Closed | State::Stopping { .. } | State::Open => LISTEN_AGAIN_FIRST,
        };
        self.gate = None;
        self.set_server(None);
        let listener = match self.ahead {
            true => self.context.host.listen_ahead(self.addr).await,
            false => self.context.host.listen(self.addr).await,
        };
        match listener {
            Ok(listener) => {
                (self.gate, self.shut) = (listener.gate(), false);
                let (spawner, wake) = (self.context.spawner.clone(), self.context.wake.clone());
                self.set_server(Some(Server::start(listener, self.tls.clone(), proxy.clone(), spawner, wake)));
                self.state = State::Open;
                info!(addr = %self.addr, "load balancer listens");
            }
            Err(error) => {
                let message = cannot_listen(self.addr, &error);
                if !matches!(&self.state, State::Barred { message: before, .. } if *before == message) {
                    warn!(addr = %self.addr, %error, "load balancer cannot listen");
                }
                self.state = State::Barred { message, again_at: now + pause, pause };
                self.wake_after(pause);
            }
        }
    }

    /// Ends what is under way, then listens no more.
    pub fn close(&mut self) {
        let now = self.context.clock.now();
        match &self.state {
            State::Closed => {}
            State::Barred { .. } => self.state = State::Closed,
            State::Open => {
                // It is the port once more.
                self.gate = None;
                self.with_server(Server::stop);
                self.state = State::Stopping { until: now + STOP_WITHIN };
                self.wake_after(STOP_WITHIN);
                info!(addr = %self.addr, "load balancer stops");
                self.close_if_done(now);
            }
            State::Stopping { .. } => self.close_if_done(now),
        }
    }

    /// Lets nobody in any more, or lets them in again. Nobody is refused.
    pub fn hold_off(&mut self, shut: bool) {
        if self.shut == shut || !matches!(self.state, State::Open) {
            return;
        }
        // Whoever could not be held off is served on.
        let Some(gate) = &self.gate else { return };
        if let Err(error) = gate.set_shut(shut) {
            return debug!(addr = %self.addr, %error, "the port stays as open as it was");
        }
        self.shut = shut;
        if let Some(ending) = self.ending.take() {
            ending.abort();
        }
        if shut {
            let server = self.server.clone();
            self.ending = Some(self.context.spawner.spawn(async move {
                tokio::time::sleep(FIRST_REQUEST_WITHIN).await;
                if let Some(server) = &*server.lock().unwrap_or_else(PoisonError::into_inner) {
                    server.finish();
                }
            }));
        } else {
            self.with_server(Server::go_on);
        }
    }

    /// How many client connections are open.
    pub fn clients(&self) -> usize {
        self.with_server(Server::clients).unwrap_or(0)
    }

    /// Ends everything at once.
    pub fn end(&mut self) {
        self.gate = None;
        self.set_server(None);
        self.state = State::Closed;
    }

    fn close_if_done(&mut self, now: Timestamp) {
        let State::Stopping { until } = self.state else { return };
        if now >= until || self.clients() == 0 {
            self.end();
        }
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

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front").field("addr", &self.addr).field("state", &self.state).finish_non_exhaustive()
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

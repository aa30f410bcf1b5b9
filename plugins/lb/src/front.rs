//! One port of the public side: listens while it is wanted, tries again where it cannot, and ends what is under way before it stops.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hirsel_mesh::seam::Gate;
use hirsel_model::Timestamp;
use hirsel_role::Context;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use crate::clients::asking::Tls;
use crate::http3;
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
    tls: Option<Tls>,
    state: State,
    server: Arc<Mutex<Option<Server>>>,
    /// Holds off who wants to connect.
    gate: Option<Arc<dyn Gate>>,
    /// Whether it does.
    shut: bool,
    /// Ends the connections that are open then.
    ending: Option<JoinHandle<()>>,
    /// Why HTTP/3 could not be offered beside, and when that is tried again.
    unoffered: Option<Unoffered>,
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

/// HTTP/3 could not be offered.
struct Unoffered {
    message: String,
    again_at: Timestamp,
    pause: Duration,
}

impl Front {
    /// A port that is closed; over TLS if there is a `tls`.
    pub fn new(context: &Context, port: u16, tls: Option<Tls>) -> Self {
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
            unoffered: None,
            context: context.clone(),
        }
    }

    /// A port that is closed, at an address that the host may have later only.
    pub fn ahead(context: &Context, ip: IpAddr, port: u16, tls: Option<Tls>) -> Self {
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
            State::Open if !self.is_broken() => return self.with_server(|it| it.go_on()).unwrap_or_default(),
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

    /// Offers HTTP/3 beside HTTPS while that is open, or does not any more. Where it cannot, HTTPS goes on without.
    pub async fn offer(&mut self, wanted: bool) {
        let State::Open = self.state else { return };
        let Some(tls) = self.tls.clone().filter(|_| wanted) else {
            self.unoffered = None;
            self.with_server(Server::withdraw);
            return;
        };
        let (now, before) = (self.context.clock.now(), self.unoffered.take());
        if self.with_server(|server| server.offers()).unwrap_or(true) {
            return;
        }
        let pause = match before {
            Some(before) if now < before.again_at => return self.unoffered = Some(before),
            Some(before) => (before.pause * 2).min(LISTEN_AGAIN_MAX),
            None => LISTEN_AGAIN_FIRST,
        };
        match http3::open(&self.context, self.addr, self.ahead, &tls).await {
            Ok(endpoint) => {
                let words = http3::announcement(self.addr.port());
                self.with_server(|server| server.offer(endpoint, words));
                info!(addr = %self.addr, "load balancer offers HTTP/3");
            }
            Err(error) => {
                if pause == LISTEN_AGAIN_FIRST {
                    warn!(addr = %self.addr, %error, "load balancer cannot offer HTTP/3");
                }
                let message = cannot_offer(self.addr, &error);
                self.unoffered = Some(Unoffered { message, again_at: now + pause, pause });
                self.wake_after(pause);
            }
        }
    }

    /// Why HTTP/3 is not offered though it should be.
    pub fn unoffered(&self) -> Option<&str> {
        self.unoffered.as_ref().map(|unoffered| &*unoffered.message)
    }

    /// Ends what is under way, then listens no more.
    pub fn close(&mut self) {
        self.unoffered = None;
        let now = self.context.clock.now();
        match &self.state {
            State::Closed => {}
            State::Barred { .. } => self.state = State::Closed,
            State::Open => {
                // It is the port once more.
                self.gate = None;
                self.with_server(|server| server.stop());
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
        self.with_server(|server| server.hold_off(shut));
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
            self.with_server(|server| server.go_on());
        }
    }

    /// How many client connections are open.
    pub fn clients(&self) -> usize {
        self.with_server(|server| server.clients()).unwrap_or(0)
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
        self.with_server(|server| server.is_broken()).unwrap_or(true)
    }

    fn with_server<T>(&self, ask: impl FnOnce(&mut Server) -> T) -> Option<T> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(ask)
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

fn cannot_offer(addr: SocketAddr, error: &io::Error) -> String {
    let (port, ip) = (addr.port(), addr.ip());
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "no HTTP/3: port {port}/udp on {ip} is taken by another program; free it (ss -lunp 'sport = :{port}' names it), or \
             say `http3 = false` under [lb] in the agent's file"
        ),
        _ => format!("no HTTP/3: could not open port {port}/udp on {ip}: {error}"),
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

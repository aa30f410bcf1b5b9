//! The ports that applications have: opens those of the order, and passes on what comes in at them ([`tcp`], [`udp`]).
//!
//! A port that cannot be opened is said in the report and tried again, and the others go on. Connections that are open stay with the
//! target that they have, whatever is changed in the manifest: they live until one side ends them, until nothing moves for too long, or
//! until their target or this load balancer is stopped.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hirsel_model::spec::{PortId, PortSpec, Protocol};
use hirsel_model::{AppName, Timestamp};
use hirsel_role::Context;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::front::{LISTEN_AGAIN_FIRST, LISTEN_AGAIN_MAX};
use crate::proxy::Proxy;
use crate::serve::STOP_WITHIN;
use metrics::Metrics;
use settings::Settings;
pub(crate) use tcp::one_client;
use tcp::{Door, Shared};

pub mod metrics;
pub mod pump;
mod settings;
mod tcp;
mod udp;

/// Ports that one load balancer opens: each is a file and a task. Far more than a cluster's applications have.
const PORTS_MAX: usize = 4096;

/// How many ports that are not open are named in a report.
const NAMED_MAX: usize = 3;

/// How long is waited for a listener that was told to end.
const END_WITHIN: Duration = Duration::from_millis(200);

/// The ports of this load balancer.
pub struct Ports {
    context: Context,
    ports: BTreeMap<PortId, Port>,
    shared: Arc<Shared>,
    /// Ports beyond [`PORTS_MAX`].
    beyond: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open,
    /// What is open then is cut off.
    Stopping(Timestamp),
}

struct Port {
    app: AppName,
    spec: PortSpec,
    state: PortState,
}

enum PortState {
    /// It takes connections.
    Open { door: Arc<Door>, accepting: JoinHandle<()> },
    /// It could not be opened.
    Barred {
        message: String,
        /// When it is tried again; none while it belongs to hirsel itself.
        again_at: Option<Timestamp>,
        pause: Duration,
    },
}

impl Ports {
    /// None is open.
    pub fn new(context: &Context, proxy: &Arc<Proxy>, metrics: Metrics) -> Self {
        let shared = Arc::new(Shared::new(proxy.clone(), context, metrics));
        Self { context: context.clone(), ports: BTreeMap::new(), shared, beyond: 0, state: State::Closed }
    }

    /// Opens what is `wanted` and closes what is not.
    pub async fn adopt(&mut self, wanted: &BTreeMap<PortId, (AppName, PortSpec)>) {
        self.state = State::Open;
        self.shared.set_stopping(false);
        self.beyond = wanted.len().saturating_sub(PORTS_MAX);
        let wanted: BTreeMap<_, _> = wanted.iter().take(PORTS_MAX).collect();
        let unwanted = self.ports.extract_if(.., |port, _| !wanted.contains_key(port)).collect::<Vec<_>>();
        for (id, port) in unwanted {
            if port.state.is_open() {
                info!(port = %id, app = %port.app, "port is closed");
            }
            self.shared.metrics.forget(id, &port.app);
            port.state.end().await;
        }
        for (id, (app, spec)) in wanted {
            self.keep(*id, app, spec).await;
        }
    }

    /// Opens a port, unless it is open or is to be tried later; and says what is done with its connections from now on.
    async fn keep(&mut self, id: PortId, app: &AppName, spec: &PortSpec) {
        let now = self.context.clock.now();
        let known = self.ports.remove(&id);
        let pause = match known {
            Some(mut port) if port.state.is_settled(now) => {
                if (&port.app, &port.spec) != (app, spec) {
                    if port.app != *app {
                        self.shared.metrics.forget(id, &port.app);
                    }
                    if let PortState::Open { door, .. } = &port.state {
                        door.settings.store(Arc::new(self.settings(id, app, spec)));
                    }
                    (port.app, port.spec) = (app.clone(), spec.clone());
                }
                self.ports.insert(id, port);
                return;
            }
            Some(Port { state: PortState::Barred { pause, .. }, .. }) => (pause * 2).min(LISTEN_AGAIN_MAX),
            // Its task has ended, which it never should.
            Some(Port { state: PortState::Open { .. }, .. }) | None => LISTEN_AGAIN_FIRST,
        };
        let state = self.open(id, app, spec, pause).await;
        self.ports.insert(id, Port { app: app.clone(), spec: spec.clone(), state });
    }

    async fn open(&self, id: PortId, app: &AppName, spec: &PortSpec, pause: Duration) -> PortState {
        if let Some(user) = self.context.config.user_of(id) {
            let message = format!("port {id} of {app} is not open here: hirsel has it itself, {user}; choose another");
            warn!(port = %id, %app, user, "port belongs to hirsel itself");
            return PortState::Barred { message, again_at: None, pause };
        }
        let addr = SocketAddr::new(self.context.me.bind, id.number);
        let door = Arc::new(Door::new(ArcSwap::from_pointee(self.settings(id, app, spec)), addr));
        let (host, spawner) = (&self.context.host, &self.context.spawner);
        let (behind, shared) = (door.clone(), self.shared.clone());
        let opened = match id.protocol {
            Protocol::Tcp => host.listen(addr).await.map(|it| spawner.spawn(tcp::accept(it, behind, shared))),
            Protocol::Udp => host.udp(addr).await.map(|it| spawner.spawn(udp::relay(it, behind, shared))),
        };
        match opened {
            Ok(accepting) => {
                info!(port = %id, %app, %addr, "port is open");
                PortState::Open { door, accepting }
            }
            Err(error) => {
                let message = cannot_open(id, app, addr, &error);
                if pause == LISTEN_AGAIN_FIRST {
                    warn!(port = %id, %app, %error, "port cannot be opened");
                }
                self.wake_after(pause);
                PortState::Barred { message, again_at: Some(self.context.clock.now() + pause), pause }
            }
        }
    }

    fn settings(&self, id: PortId, app: &AppName, spec: &PortSpec) -> Settings {
        Settings::of(id, spec, self.shared.metrics.of(id, app))
    }

    /// Takes no more connections, and ends when those that are open have, or when their time is over.
    pub async fn close(&mut self) {
        let now = self.context.clock.now();
        if self.state == State::Open {
            self.shared.set_stopping(true);
            for (id, port) in std::mem::take(&mut self.ports) {
                self.shared.metrics.forget(id, &port.app);
                port.state.end().await;
            }
            self.state = State::Stopping(now + STOP_WITHIN);
            if self.connections() > 0 {
                self.wake_after(STOP_WITHIN);
            }
        }
        if let State::Stopping(until) = self.state
            && (now >= until || self.connections() == 0)
        {
            self.state = State::Closed;
        }
    }

    /// Whether nothing is open, or what is left is to be cut off.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.shared.connections()
    }

    /// What is not as it was ordered, in words.
    pub fn trouble(&self) -> Option<String> {
        let mut words: Vec<&str> = self.ports.values().filter_map(|port| port.state.message()).collect();
        let more = words.len().saturating_sub(NAMED_MAX);
        words.truncate(NAMED_MAX);
        let mut text = words.join("; ");
        if more > 0 {
            text.push_str(&format!("; and {more} more ports"));
        }
        if self.beyond > 0 {
            let between = if text.is_empty() { "" } else { "; " };
            text.push_str(&format!("{between}{} ports are not open: {PORTS_MAX} are", self.beyond));
        }
        (!text.is_empty()).then_some(text)
    }

    /// Ends everything at once.
    pub fn end(&mut self) {
        for port in std::mem::take(&mut self.ports).into_values() {
            port.state.abort();
        }
        self.state = State::Closed;
    }

    fn wake_after(&self, pause: Duration) {
        let wake = self.context.wake.clone();
        drop(self.context.spawner.spawn(async move {
            tokio::time::sleep(pause).await;
            wake.notify_one();
        }));
    }
}

impl PortState {
    fn is_open(&self) -> bool {
        matches!(self, PortState::Open { .. })
    }

    /// Whether there is nothing to be done for it now.
    fn is_settled(&self, now: Timestamp) -> bool {
        match self {
            PortState::Open { accepting, .. } => !accepting.is_finished(),
            PortState::Barred { again_at, .. } => again_at.is_none_or(|at| now < at),
        }
    }

    fn message(&self) -> Option<&str> {
        match self {
            PortState::Open { .. } => None,
            PortState::Barred { message, .. } => Some(message),
        }
    }

    fn abort(&self) {
        if let PortState::Open { accepting, .. } = self {
            accepting.abort();
        }
    }

    /// Listens no more, so that another may.
    async fn end(self) {
        self.abort();
        if let PortState::Open { accepting, .. } = self {
            // Ended or not, there is nothing more to be done for it.
            let _ = tokio::time::timeout(END_WITHIN, accepting).await;
        }
    }
}

fn cannot_open(id: PortId, app: &AppName, addr: SocketAddr, error: &io::Error) -> String {
    let number = id.number;
    let kind = match id.protocol {
        Protocol::Tcp => "lt",
        Protocol::Udp => "lu",
    };
    let why = match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "another program on this host has it, or an instance; free it (ss -{kind}np 'sport = :{number}' names it) or choose another"
        ),
        io::ErrorKind::PermissionDenied => {
            "no permission; run the agent as root, give it CAP_NET_BIND_SERVICE, or choose a port above 1023".into()
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("{} is no address of this host; correct the agent's bind address", addr.ip())
        }
        _ => error.to_string(),
    };
    format!("port {id} of {app} is not open here: {why}")
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = |port: &Port| port.state.message().unwrap_or("open").to_owned();
        f.debug_map().entries(self.ports.iter().map(|(id, port)| (id, state(port)))).finish()
    }
}

//! Makes this host match its order: listens when it holds a slot, hands orders and news to the routing table, stops gracefully.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hirsel_model::RoleName;
use hirsel_model::order::{Order, Work};
use hirsel_model::report::{RoleFacts, RoleReport, RoleState};
use hirsel_role::{Context, Plugin, Role};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::challenge::Challenges;
use crate::clients::asking::Tls;
use crate::exposition::Exposition;
use crate::floating::{self, Floating, Servers};
use crate::front::{Front, State};
use crate::metrics::Metrics;
use crate::ports::{self, Ports};
use crate::proxy::Proxy;
use crate::tls::Certificates;

/// Time between two looks at all connections. What stands still is found this much late at most.
const SWEEP_EVERY: Duration = Duration::from_millis(500);

/// An order that takes this node's place away comes within this after its certificates are gone.
const ORDERED_WITHIN: Duration = Duration::from_secs(1);

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
        let of_ports = ports::metrics::Metrics::default();
        {
            let mut registry = context.metrics.lock().unwrap_or_else(PoisonError::into_inner);
            metrics.register(&mut registry);
            of_ports.register(&mut registry);
        }
        Box::new(LbRole::new(context, metrics, of_ports))
    }
}

/// The load balancer of this node.
struct LbRole {
    proxy: Arc<Proxy>,
    certificates: Arc<Certificates>,
    challenges: Challenges,
    /// Whether HTTP/3 is wanted on this node.
    http3: bool,
    /// Whether the agent is about to end.
    ending: watch::Receiver<bool>,
    http: Front,
    https: Front,
    ports: Ports,
    floating: Floating,
    background: [JoinHandle<()>; 11],
}

impl LbRole {
    fn new(context: Context, metrics: Metrics, of_ports: ports::metrics::Metrics) -> Self {
        let proxy = Proxy::new(&context, metrics);
        let shown = Exposition::new(proxy.clone());
        shown.register(&mut context.metrics.lock().unwrap_or_else(PoisonError::into_inner));
        context.requests.open(proxy.seer.clone());
        let challenges = Challenges::new(context.challenges.clone());
        let certificates = Arc::new(Certificates::new(challenges.clone(), proxy.metrics.refused_certificates.clone()));
        certificates.show(&context.certificates.borrow());
        let http = Front::new(&context, context.config.http_port, None);
        let tls = Tls::new(&certificates);
        let https = Front::new(&context, context.config.https_port, Some(tls.clone()));
        let (http3, ending) = (context.config.http3, context.ending.clone());
        let ports = Ports::new(&context, &proxy, of_ports);
        let servers = Servers::new(Mutex::new(vec![http.server(), https.server()]));
        let floating = Floating::new(&context, tls, servers.clone());
        let background = [
            context.spawner.spawn(listen_to_news(proxy.clone(), context.live.clone())),
            context.spawner.spawn(keep_certificates(certificates.clone(), context.clone())),
            context.spawner.spawn(certificates.tickets.clone().follow(context.tickets.clone())),
            context.spawner.spawn(proxy.among.clone().tell(context.clone())),
            context.spawner.spawn(proxy.cache.clone().tend(context.clock.clone())),
            context.spawner.spawn(proxy.cache.clone().sweep()),
            context.spawner.spawn(sweep(proxy.clone(), servers)),
            context.spawner.spawn(floating::listen_to_host(context.clone())),
            context.spawner.spawn(look_when_it_ends(context.clone())),
            context.spawner.spawn(proxy.seer.log.clone().write(context.host.clone())),
            context.spawner.spawn(proxy.seer.syslog.clone().send(context.host.clone())),
        ];
        Self { proxy, certificates, challenges, http3, ending, http, https, ports, floating, background }
    }

    async fn step(&mut self, order: &Order) -> RoleReport {
        self.floating.hand_over();
        match &order.work {
            Work::Lb(work) if !order.slots.is_empty() => {
                self.proxy.seer.adopt(work);
                self.proxy.cache.adopt(&work.purges);
                self.certificates.let_go(self.proxy.now(), ORDERED_WITHIN);
                // Asked for before it is demanded: whoever comes between has shown it.
                self.certificates.ask(&work.routes);
                self.proxy.routes.adopt(order.generation, work);
                self.http.open(&self.proxy).await;
                self.ports.adopt(&work.ports).await;
                // Without a certificate, none on its way, and nothing to be passed on, there is nothing to be said on that port.
                let certified = !self.certificates.is_empty() || self.challenges.are_expected();
                let secure = certified || self.proxy.passes_any();
                match secure {
                    true => self.https.open(&self.proxy).await,
                    false => self.https.close(),
                }
                self.https.offer(self.offers_http3()).await;
                self.floating.open(&work.addresses, secure, self.offers_http3(), &self.proxy).await;
            }
            Work::Lb(_) | Work::None | Work::Compute(_) | Work::Dns(_) | Work::Address(_) | Work::Storage(_) => {
                if self.floating.lingers() {
                    return self.report();
                }
                let stops = !self.is_closed();
                self.http.close();
                self.https.close();
                self.ports.close().await;
                self.floating.close();
                if self.is_closed() {
                    if stops {
                        // Tunnels never end by themselves.
                        self.proxy.routes.end();
                    }
                    self.proxy.routes.adopt(order.generation, &Arc::default());
                    self.proxy.cache.clear();
                    self.certificates.let_go(self.proxy.now(), Duration::ZERO);
                }
            }
        }
        self.report()
    }

    /// What is passed on encrypted comes over TCP alone. While the agent ends, clients are told so: of a connection over QUIC nobody else
    /// would tell them that it is gone.
    fn offers_http3(&self) -> bool {
        self.http3 && !self.certificates.is_empty() && !*self.ending.borrow()
    }

    fn is_closed(&self) -> bool {
        let fronts = [&self.http, &self.https];
        self.ports.is_closed()
            && self.floating.is_closed()
            && fronts.iter().all(|front| matches!(front.state(), State::Closed))
    }

    fn report(&self) -> RoleReport {
        let https = match self.https.state() {
            State::Barred { message, .. } => Some(format!("no HTTPS: {message}")),
            State::Closed | State::Open | State::Stopping { .. } => self.https.unoffered().map(str::to_owned),
        };
        let unusable = || {
            let (name, words) = self.certificates.unusable().pop_first()?;
            Some(format!("certificate {name} cannot be shown: {words}"))
        };
        let (state, message) = match self.http.state() {
            State::Closed if self.is_closed() => (RoleState::Stopped, None),
            State::Barred { message, .. } => (RoleState::Failed, Some(message.clone())),
            State::Open => {
                match https.or_else(|| self.ports.trouble()).or_else(|| self.floating.trouble()).or_else(unusable) {
                    Some(message) => (RoleState::Degraded, Some(message)),
                    None => (RoleState::Running, None),
                }
            }
            State::Stopping { .. } | State::Closed => {
                let fronts = self.http.clients() + self.https.clients() + self.floating.clients();
                let clients = fronts + self.ports.connections();
                (RoleState::Running, Some(format!("stopping: {clients} connections come to an end")))
            }
        };
        RoleReport {
            state,
            generation: self.proxy.routes.table().generation,
            message,
            facts: RoleFacts::Lb(self.proxy.routes.draining()),
            purged: self.proxy.cache.purged(),
        }
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
        self.http.end();
        self.https.end();
        self.ports.end();
        self.floating.end();
        self.proxy.routes.end();
    }
}

/// Hands what is heard of the nodes to the routing table as soon as it is heard.
async fn listen_to_news(proxy: Arc<Proxy>, mut live: watch::Receiver<Arc<hirsel_role::Live>>) {
    loop {
        live.mark_unchanged();
        proxy.routes.hear();
        if live.changed().await.is_err() {
            return;
        }
    }
}

/// Shows the certificates that there are, as soon as they have come; and has the port opened when the first one is on its way.
async fn keep_certificates(certificates: Arc<Certificates>, context: Context) {
    let (mut bundles, mut challenges) = (context.certificates.clone(), Challenges::new(context.challenges.clone()));
    loop {
        let changed = tokio::select! {
            changed = bundles.changed() => changed,
            changed = challenges.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        let told = bundles.borrow_and_update().clone();
        if certificates.hear(&told, context.clock.now()) {
            let wake = context.wake.clone();
            drop(context.spawner.spawn(async move {
                tokio::time::sleep(ORDERED_WITHIN).await;
                wake.notify_one();
            }));
        }
        context.wake.notify_one();
    }
}

/// Asks for another look when the agent is about to end.
async fn look_when_it_ends(mut context: Context) {
    if context.ending.wait_for(|ending| *ending).await.is_ok() {
        context.wake.notify_one();
    }
}

async fn sweep(proxy: Arc<Proxy>, servers: Servers) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        proxy.routes.sweep(proxy.now());
        let servers = servers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for server in &servers {
            if let Some(server) = &*server.lock().unwrap_or_else(PoisonError::into_inner) {
                server.sweep();
            }
        }
    }
}

//! Floating addresses: a load balancer that may hold one listens there too, whether it does now or not, so that nothing has to be opened
//! at the moment when it does. And one that is told to stop goes on until another node holds what this one held.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hirsel_model::Timestamp;
use hirsel_role::{Context, handover};

use crate::clients::asking::Tls;
use crate::front::{Front, State};
use crate::proxy::Proxy;
use crate::serve::Server;

/// Another node takes an address within a second. Where none does in this time, there is none.
const LINGER_MAX: Duration = Duration::from_secs(10);

/// What is under way at an address that another node is about to take is waited for no longer.
const QUIET_WITHIN: Duration = Duration::from_millis(1_500);

/// The servers that are swept, open or not.
pub type Servers = Arc<Mutex<Vec<Arc<Mutex<Option<Server>>>>>>;

/// The ports of this load balancer at floating addresses.
pub struct Floating {
    context: Context,
    tls: Tls,
    /// Plain HTTP and HTTPS, by address.
    fronts: BTreeMap<IpAddr, [Front; 2]>,
    servers: Servers,
    /// When this load balancer was told to stop.
    told_to_stop: Option<Timestamp>,
    /// Since when addresses are about to be taken by other nodes.
    leaving: BTreeMap<IpAddr, Timestamp>,
}

impl Floating {
    /// None is open. What is opened is swept with `servers`.
    pub fn new(context: &Context, tls: Tls, servers: Servers) -> Self {
        Self {
            context: context.clone(),
            tls,
            fronts: BTreeMap::new(),
            servers,
            told_to_stop: None,
            leaving: BTreeMap::new(),
        }
    }

    /// Listens at these addresses and no others, but for those that this host still has; with HTTPS and HTTP/3 or without.
    pub async fn open(&mut self, wanted: &BTreeSet<IpAddr>, https: bool, http3: bool, proxy: &Arc<Proxy>) {
        self.told_to_stop = None;
        let held = self.context.floating.held.borrow().clone();
        let apart: Vec<IpAddr> = wanted.iter().copied().filter(|address| !self.is_covered(*address)).collect();
        for address in &apart {
            let [plain, secure] = self.fronts.entry(*address).or_insert_with(|| {
                let front = |port, tls| Front::ahead(&self.context, *address, port, tls);
                let config = &self.context.config;
                let fronts = [front(config.http_port, None), front(config.https_port, Some(self.tls.clone()))];
                let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
                servers.extend(fronts.iter().map(Front::server));
                fronts
            });
            plain.open(proxy).await;
            match https {
                true => secure.open(proxy).await,
                false => secure.close(),
            }
            secure.offer(http3).await;
        }
        let unwanted =
            self.fronts.iter_mut().filter(|(address, _)| !wanted.contains(address) && !held.contains(address));
        unwanted.for_each(|(_, fronts)| fronts.iter_mut().for_each(Front::close));
        self.forget_closed();
    }

    /// Whether to go on for a while though it was told to stop: this host has addresses that others are about to take.
    pub fn lingers(&mut self) -> bool {
        let now = self.context.clock.now();
        let since = *self.told_to_stop.get_or_insert(now);
        !self.context.floating.held.borrow().is_empty() && now.since(since) < LINGER_MAX
    }

    /// Brings to an end what is under way at addresses that other nodes are about to take, lets nobody in there meanwhile, and says where
    /// nothing is left. Addresses that stay are open again.
    pub fn hand_over(&mut self) {
        let (now, leaving) = (self.context.clock.now(), self.context.floating.leaving.borrow().clone());
        self.leaving.retain(|address, _| leaving.contains(address));
        for (address, fronts) in &mut self.fronts {
            fronts.iter_mut().for_each(|front| front.hold_off(leaving.contains(address)));
        }
        let mut quiet = BTreeSet::new();
        for address in leaving {
            let since = *self.leaving.entry(address).or_insert(now);
            // Where it listens at all addresses it knows nothing of this one alone.
            let clients =
                self.fronts.get(&address).map_or(0, |fronts| fronts.iter().map(Front::clients).sum::<usize>());
            if clients == 0 || now.since(since) >= QUIET_WITHIN {
                quiet.insert(address);
            }
        }
        handover::say(&self.context.floating.quiet, quiet);
    }

    /// Ends what is under way, then listens no more.
    pub fn close(&mut self) {
        self.fronts.values_mut().flatten().for_each(Front::close);
        self.forget_closed();
    }

    /// Whether nothing is open.
    pub fn is_closed(&self) -> bool {
        self.fronts.is_empty()
    }

    /// How many client connections are open.
    pub fn clients(&self) -> usize {
        self.fronts.values().flatten().map(Front::clients).sum()
    }

    /// What could not be opened.
    pub fn trouble(&self) -> Option<String> {
        self.fronts.values().flatten().find_map(|front| match front.state() {
            State::Barred { message, .. } => Some(message.clone()),
            State::Closed | State::Open | State::Stopping { .. } => front.unoffered().map(str::to_owned),
        })
    }

    /// Ends everything at once.
    pub fn end(&mut self) {
        self.fronts.values_mut().flatten().for_each(Front::end);
        self.forget_closed();
    }

    /// Whether this load balancer listens at all addresses of that kind anyway.
    fn is_covered(&self, address: IpAddr) -> bool {
        match self.context.me.bind {
            IpAddr::V4(bind) => bind.is_unspecified() && address.is_ipv4(),
            IpAddr::V6(bind) => bind.is_unspecified(),
        }
    }

    fn forget_closed(&mut self) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        self.fronts.retain(|_, fronts| {
            let open = fronts.iter().any(|front| !matches!(front.state(), State::Closed));
            if !open {
                servers.retain(|server| fronts.iter().all(|front| !Arc::ptr_eq(server, &front.server())));
            }
            open
        });
    }
}

/// Asks for another look whenever this host has other addresses than before.
pub async fn listen_to_host(context: Context) {
    let (mut held, mut leaving) = (context.floating.held.subscribe(), context.floating.leaving.subscribe());
    loop {
        let changed = tokio::select! {
            changed = held.changed() => changed,
            changed = leaving.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        context.wake.notify_one();
    }
}

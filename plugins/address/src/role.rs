//! Keeps the beats going, and has the host do what follows from them.
//!
//! Three tasks share the [`Desk`]: the *heart* beats and begins deeds, an *ear* for each link receives and sends, and the *probe* asks the
//! load balancer. None of them waits for another, and none does anything while no address is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hirsel_mesh::seam::{Datagrams, Origin};
use hirsel_model::floating::{BEAT_EVERY, BEAT_PORT};
use hirsel_model::order::{AddressOrder, Order, Work};
use hirsel_model::report::{AddressFacts, RoleFacts, RoleReport, RoleState};
use hirsel_model::{RoleName, Timestamp};
use hirsel_role::host::floating::{Floating, HostNetwork};
use hirsel_role::{Context, Plugin, Role, handover};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{debug, info, warn};

use crate::desk::{Deed, Desk, Link};
use crate::{probe, wire};

/// In the files of the role: every address that may be on this host because of us, one a line.
const HELD_FILE: &str = "held";
/// The load balancer is asked so often.
const PROBE_EVERY: Duration = Duration::from_millis(250);
/// Interfaces are looked at so often. Whoever plugs a network in waits for no longer.
const NETWORK_EVERY: Duration = Duration::from_secs(2);
/// A link on which nobody could listen is tried again after this.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);
/// Beats that wait for a network that does not take them. Older ones are worth nothing.
const MAIL_MAX: usize = 4;
/// A hook that takes longer hangs.
const HOOK_WITHIN: Duration = Duration::from_secs(30);

/// The plugin.
#[derive(Clone, Copy, Debug, Default)]
pub struct Address;

impl Plugin for Address {
    fn role(&self) -> RoleName {
        RoleName::address()
    }

    fn is_gateway(&self) -> bool {
        true
    }

    fn start(&self, context: Context) -> Box<dyn Role> {
        let shared = Arc::new(Shared {
            desk: Mutex::new(Desk::new(context.me.id, context.config.address_hook.is_some())),
            deaf: Mutex::default(),
            awake: Notify::new(),
            stirs: Notify::new(),
            context: context.clone(),
        });
        let tasks = [context.spawner.spawn(heart(shared.clone())), context.spawner.spawn(ask_lb(shared.clone()))];
        Box::new(AddressRole { shared, tasks, network: None, names: None, trouble: None })
    }
}

struct Shared {
    desk: Mutex<Desk>,
    /// Links on which nobody could listen, and why.
    deaf: Mutex<BTreeMap<Link, String>>,
    /// There may be something to do: for the heart, and for the probe.
    awake: Notify,
    stirs: Notify,
    context: Context,
}

impl Shared {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        // Whoever panicked while it had the desk left it as it was between two decisions, or is about to start anew with the role.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deaf(&self) -> MutexGuard<'_, BTreeMap<Link, String>> {
        self.deaf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        self.context.clock.now()
    }
}

struct AddressRole {
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 2],
    /// What the host has, and when it was asked.
    network: Option<(HostNetwork, Timestamp)>,
    /// What is written down; none before the first look.
    names: Option<BTreeSet<Floating>>,
    /// Why the order cannot be gone by.
    trouble: Option<String>,
}

impl AddressRole {
    async fn step(&mut self, order: &Order) -> RoleReport {
        let none = Arc::default();
        let wanted = match &order.work {
            Work::Address(wanted) => wanted,
            Work::None | Work::Compute(_) | Work::Lb(_) | Work::Dns(_) | Work::Storage(_) => &none,
        };
        self.look_around(wanted).await;
        self.trouble = match self.write_down(wanted) {
            Ok(()) => {
                self.shared.desk().adopt(self.shared.now(), wanted);
                None
            }
            Err(words) => Some(words),
        };
        self.shared.awake.notify_one();
        self.shared.stirs.notify_one();
        self.report(order, wanted)
    }

    /// Asks the host for its interfaces, while that is of any use.
    async fn look_around(&mut self, wanted: &AddressOrder) {
        if wanted.wanted.is_empty() {
            self.network = None;
            return;
        }
        let now = self.shared.now();
        if self.network.as_ref().is_some_and(|(_, at)| now.since(*at) < NETWORK_EVERY) {
            return;
        }
        let network = self.shared.context.host.network().await.unwrap_or_else(|error| HostNetwork {
            barred: Some(format!("its network interfaces cannot be looked at: {error}")),
            ..HostNetwork::default()
        });
        self.shared.desk().set_barred(network.barred.clone());
        self.network = Some((network, now));
    }

    /// Writes down what may come onto this host before it does, and finds what an agent before this one wrote down.
    fn write_down(&mut self, wanted: &AddressOrder) -> Result<(), String> {
        let host = &self.shared.context.host;
        if self.names.is_none() {
            let file = host.read(HELD_FILE).map_err(|error| format!("cannot read which addresses it had: {error}"))?;
            let text = String::from_utf8(file.unwrap_or_default()).unwrap_or_default();
            let left: BTreeSet<Floating> = text.lines().filter_map(|line| line.parse().ok()).collect();
            self.shared.desk().leftover(left.iter().cloned());
            self.names = Some(left);
        }
        let names = self.shared.desk().names(wanted);
        if self.names.as_ref() == Some(&names) {
            return Ok(());
        }
        let text: String = names.iter().map(|floating| format!("{floating}\n")).collect();
        host.write(HELD_FILE, text.as_bytes())
            .map_err(|error| format!("cannot write down which addresses it may get: {error}"))?;
        self.names = Some(names);
        Ok(())
    }

    fn report(&self, order: &Order, wanted: &AddressOrder) -> RoleReport {
        let (held, words, trouble, idle) = {
            let desk = self.shared.desk();
            (desk.held(), desk.words(), desk.trouble(), desk.is_idle())
        };
        let deaf =
            self.shared.deaf().iter().next().map(|(link, error)| {
                format!("cannot hear other candidates on {} at {}: {error}", link.interface, link.at)
            });
        let network = self.network.as_ref().map_or_else(HostNetwork::default, |(network, _)| network.clone());
        let is_own = |address: &IpAddr| !wanted.wanted.contains(address) && !held.contains(address);
        let interfaces = network
            .interfaces
            .into_iter()
            .map(|(name, has)| (name, has.into_iter().filter(|own| is_own(&own.address)).collect()));
        let facts = AddressFacts { unable: network.barred, interfaces: interfaces.collect(), held, words };
        let message = self.trouble.clone().or(trouble).or(deaf);
        let state = match (&message, idle) {
            (Some(_), _) => RoleState::Degraded,
            (None, true) => RoleState::Stopped,
            (None, false) => RoleState::Running,
        };
        RoleReport {
            state,
            generation: order.generation,
            message,
            facts: RoleFacts::Address(facts),
            ..RoleReport::default()
        }
    }
}

impl Role for AddressRole {
    fn converge<'a>(&'a mut self, order: &'a Order) -> BoxFuture<'a, RoleReport> {
        self.step(order).boxed()
    }
}

impl Drop for AddressRole {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Beats, and begins what follows from what was heard.
async fn heart(shared: Arc<Shared>) {
    let mut ears: BTreeMap<Link, Ear> = BTreeMap::new();
    let mut rhythm = interval(BEAT_EVERY);
    // Beats that are late are not made up for.
    rhythm.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut counter = 0;
    loop {
        if shared.desk().is_idle() {
            ears.clear();
            tell_held(&shared);
            shared.awake.notified().await;
        }
        rhythm.tick().await;
        if *shared.context.ending.borrow() {
            shared.desk().part();
        }
        let quiet = shared.context.floating.quiet.borrow().clone();
        shared.desk().set_quiet(quiet);
        let pulse = shared.desk().beat(shared.now());
        for deed in pulse.deeds {
            drop(shared.context.spawner.spawn(carry_out(shared.clone(), deed)));
        }
        tell_held(&shared);
        ears.retain(|link, ear| pulse.mail.contains_key(link) && !ear.task.is_finished());
        shared.deaf().retain(|link, _| pulse.mail.contains_key(link));
        for (link, mail) in pulse.mail {
            let ear = ears.entry(link.clone()).or_insert_with(|| Ear::begin(&shared, link));
            let (datagrams, next) = wire::write(&shared.context.voice, shared.context.me.id, counter, &mail.says);
            counter = next;
            // A full queue holds beats that a network has not taken for half a second.
            let _ = ear.out.try_send((datagrams, mail.to));
        }
    }
}

/// Says which addresses are on this host, and which are about to leave it, to whoever serves at them.
fn tell_held(shared: &Shared) {
    let (held, leaving) = {
        let desk = shared.desk();
        (desk.held(), desk.leaving())
    };
    handover::say(&shared.context.floating.held, held);
    handover::say(&shared.context.floating.leaving, leaving);
}

async fn carry_out(shared: Arc<Shared>, deed: Deed) {
    let host = shared.context.host.clone();
    let before = shared.desk().held();
    let result = match &deed {
        Deed::Hold(floating, until) => host.hold(floating, *until).await,
        Deed::LetGo(floating) => host.let_go(floating).await,
        Deed::Announce(floating) => host.announce(floating).await,
        Deed::Hook(floating) => {
            let result = hook(&shared, floating).await;
            if let Err(words) = &result {
                warn!(%floating, "the hook failed: {words}");
            }
            shared.desk().done(shared.now(), &deed, result);
            return shared.context.wake.notify_one();
        }
    };
    match (&deed, &result) {
        (Deed::Hold(floating, _), Ok(())) if !before.contains(&floating.address) => {
            info!(address = %floating.address, interface = floating.interface, "this node holds the address");
        }
        (Deed::LetGo(floating), Ok(())) if before.contains(&floating.address) => {
            info!(address = %floating.address, "this node lets go of the address");
        }
        (Deed::Hold(floating, _), Err(error)) => warn!(%floating, %error, "the address cannot be held here"),
        (Deed::LetGo(floating), Err(error)) => debug!(%floating, %error, "the address is not let go of yet"),
        (Deed::Announce(floating), Err(error)) => debug!(%floating, %error, "the neighbours were not told"),
        (Deed::Hold(..) | Deed::LetGo(_) | Deed::Announce(_) | Deed::Hook(_), _) => {}
    }
    let result = result.map_err(|error| format!("it cannot be put on this host: {error}"));
    shared.desk().done(shared.now(), &deed, result);
    if matches!(deed, Deed::Hold(..) | Deed::LetGo(_)) && shared.desk().held() != before {
        tell_held(&shared);
        shared.context.wake.notify_one();
    }
}

/// Runs the operator's program for an address that is held here, for as long as it is: what it asks of somebody else must not come after
/// what the next holder asks.
async fn hook(shared: &Shared, floating: &Floating) -> Result<(), String> {
    let context = &shared.context;
    let Some(program) = &context.config.address_hook else { return Ok(()) };
    let command = [
        program.clone(),
        "take".into(),
        format!("{}/{}", floating.address, floating.prefix),
        floating.interface.clone(),
    ];
    let env = [
        ("HIRSEL_ADDRESS", floating.address.to_string()),
        ("HIRSEL_PREFIX", floating.prefix.to_string()),
        ("HIRSEL_INTERFACE", floating.interface.clone()),
        ("HIRSEL_NODE", context.me.name.to_string()),
    ];
    let mut held = context.floating.held.subscribe();
    tokio::select! {
        ended = context.host.run(&command, &env, HOOK_WITHIN) => ended,
        _ = held.wait_for(|held| !held.contains(&floating.address)) => Err("the address moved on".into()),
    }
}

/// Datagrams, and to whom they go.
type Letters = (Vec<Vec<u8>>, BTreeSet<IpAddr>);

/// What listens and speaks on a link.
struct Ear {
    out: mpsc::Sender<Letters>,
    task: JoinHandle<()>,
}

impl Ear {
    fn begin(shared: &Arc<Shared>, link: Link) -> Self {
        let (out, letters) = mpsc::channel(MAIL_MAX);
        Self { out, task: shared.context.spawner.spawn(listen(shared.clone(), link, letters)) }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(shared: Arc<Shared>, link: Link, mut letters: mpsc::Receiver<Letters>) {
    let mut datagrams = match shared.context.host.udp_on(link.at, BEAT_PORT, &link.interface).await {
        Ok(datagrams) => datagrams,
        Err(error) => {
            let known = shared.deaf().insert(link.clone(), error.to_string());
            if known.is_none() {
                warn!(interface = link.interface, at = %link.at, %error, "other candidates cannot be heard");
            }
            return sleep(LISTEN_AGAIN).await;
        }
    };
    shared.deaf().remove(&link);
    loop {
        tokio::select! {
            heard = datagrams.receive() => match heard {
                Ok((bytes, origin)) => {
                    let read = |order: &AddressOrder, ledger: &mut _| {
                        wire::read(&shared.context.voice, order, ledger, bytes)
                    };
                    shared.desk().hear(shared.now(), &link, origin.peer.ip(), read);
                }
                // A network that is gone says so for each packet.
                Err(error) => {
                    debug!(%error, interface = link.interface, "nothing was received");
                    sleep(BEAT_EVERY).await;
                }
            },
            out = letters.recv() => match out {
                Some(letters) => send(&datagrams, &link, &letters).await,
                None => return,
            },
        }
    }
}

/// Who cannot be reached is dead for us, and that is found out in another way.
async fn send(datagrams: &Datagrams, link: &Link, (beats, to): &Letters) {
    for peer in to.iter().filter(|peer| peer.is_ipv4() == link.at.is_ipv4()) {
        for beat in beats {
            let to = Origin { peer: SocketAddr::new(*peer, BEAT_PORT), local: None };
            if let Err(error) = datagrams.send(beat, to).await {
                debug!(%error, %peer, "a beat was not sent");
            }
        }
    }
}

/// Asks this node's load balancer whether it answers, while that matters.
async fn ask_lb(shared: Arc<Shared>) {
    let context = &shared.context;
    let addr = probe::addr(context.me.bind, context.config.http_port);
    loop {
        if shared.desk().is_idle() {
            shared.stirs.notified().await;
            continue;
        }
        if probe::answers(context.host.as_ref(), addr).await {
            shared.desk().lb_answers(shared.now());
        }
        sleep(PROBE_EVERY).await;
    }
}

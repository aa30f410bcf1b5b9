//! A whole agent over a world and a host. The executable and the simulation both start it here.
//!
//! Everything runs in tasks that `stop` ends; the agent returns when it was told to stop, or when it left the cluster for good.
//! Instances outlive it: they are adopted by the next start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, anyhow};
use hirsel_mesh::control::{Control, ControlConfig};
use hirsel_mesh::gossip::Gossip;
use hirsel_mesh::identity::{Identity, NodeKey};
use hirsel_mesh::seam::World;
use hirsel_mesh::transport::{Peer, Peers, Transport, TransportConfig};
use hirsel_model::book::Book;
use hirsel_model::control::{Command, ControlState, Entry};
use hirsel_model::grant::Holdings;
use hirsel_model::order::{Order, Work};
use hirsel_model::report::NodeReport;
use hirsel_model::{Generation, NodeId, RoleName, feature, reconciler};
use hirsel_role::host::Host;
use hirsel_role::peers::MeshPeers;
use hirsel_role::{Context, Groups, Live, Me, Plugin, Voice};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::access::Access;
use crate::birth::{self, Start};
use crate::certificates::Certificates;
use crate::config::Config;
use crate::dnssec::Zones;
use crate::launch::reserve::FILE as RESERVE_FILE;
use crate::leader::{Desk, lead};
use crate::lease::{self, Asker};
use crate::metrics::Registries;
use crate::pace::Pace;
use crate::roles::{self, Runtimes};
use crate::senses::{self, Senses};
use crate::shared::Shared;
use crate::tickets::Tickets;
use crate::{
    access, acme, admission, authority, calls, certificates, digest, dnssec, foundation, known, metrics, parting,
    plugins, promise, recovery, rejoin, renewal, sealing, secrets, tickets,
};

/// Handing leadership over and saying goodbye may take so long; then the agent stops anyway.
const FAREWELL_MAX: Duration = Duration::from_secs(3);
/// A wish of this agent (its announcement, the sealing key) is repeated so often until it is granted.
pub const REPEAT: Duration = Duration::from_millis(500);
/// The load is looked at so often.
const LOAD_EVERY: Duration = Duration::from_secs(2);

/// A disk that took no more is tried again so often.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// What it is tried with: more than the space that a log frees and fills as it goes.
const PROBE_BYTES: usize = 1 << 20;
/// In the data folder, for a moment.
const PROBE_FILE: &str = "probe";

/// What an agent is made of.
pub struct Setup {
    /// Its configuration.
    pub config: Config,
    /// Network, disk, clock, chance.
    pub world: World,
    /// The machine, for each role: with a data folder of the role's own.
    pub host: HostFor,
    /// Use of the scarcest resource of the machine, 0 to 1.
    pub load: Arc<dyn Fn() -> f64 + Send + Sync>,
    /// Who to be.
    pub start: Start,
    /// Where plugins run.
    pub runtimes: Runtimes,
    /// Where the connections of clients to the mesh port are served; the agent's own work runs where it is started.
    pub streams: tokio::runtime::Handle,
    /// Told when the agent runs.
    pub ready: Option<oneshot::Sender<Arc<Shared>>>,
    /// Ends the agent.
    pub stop: CancellationToken,
}

/// Makes the host of a role.
pub type HostFor = Arc<dyn Fn(&RoleName) -> Result<Arc<dyn Host>> + Send + Sync>;

/// Why an agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was told to stop.
    Stopped,
    /// It is no member any more.
    Left,
    /// It is another node from the next start on ([`crate::rejoin`]): it is to be started anew.
    Rejoined,
    /// Its log could not be written, and its disk takes writes again: it is to be started anew.
    Again,
}

/// Runs an agent until it is told to stop or has left.
pub async fn run(setup: Setup, plugins: Vec<Arc<dyn Plugin>>) -> Result<End> {
    let Setup { config, world, host, load, start, runtimes, streams, ready, stop: asked_to_stop } = setup;
    // Everything goes on until the agent has parted from what it runs, and ends with this future in any case.
    let stop = CancellationToken::new();
    let _all = stop.clone().drop_guard();
    let built = plugins::roles(&plugins);
    let born = birth::born(&world, &config, &built, start).await?;
    let identity = born.identity;
    let (peers, peers_seen) = watch::channel(Arc::new(born.peers));
    let transport = Transport::start(TransportConfig {
        world: world.clone(),
        identity: identity.clone(),
        bind: config.bind,
        advertise: config.advertise,
        peers: peers_seen.clone(),
        streams,
    })
    .await?;
    let control = Control::start(ControlConfig {
        world: world.clone(),
        transport: transport.clone(),
        me: identity.node,
        peers: peers_seen.clone(),
    })
    .await?;
    if let Some(entry) = born.founding {
        birth::establish(&world, &control, entry).await?;
    }
    let seeds = peers_seen.borrow().nodes.values().map(|peer| peer.addr).collect();
    let whoami = (identity.node, identity.incarnation);
    let gossip = Gossip::start(&transport, &world, &identity.cluster, whoami, seeds).await?;

    let (live, live_seen) = watch::channel(Arc::new(Live::default()));
    let (unheard, unheard_seen) = watch::channel(BTreeSet::new());
    let (silent_since, silent_seen) = watch::channel(BTreeMap::new());
    let (report, report_seen) = watch::channel(Arc::new(NodeReport::default()));
    let (reports, reports_seen) = watch::channel(BTreeMap::new());
    let (grants, grants_seen) = watch::channel(Arc::new(Holdings::new(world.clock.now())));
    let (values, values_seen) = watch::channel(Arc::default());
    let (bundles, bundles_seen) = watch::channel(Arc::default());
    let (challenges, challenges_seen) = watch::channel(Arc::default());
    let (tickets, tickets_seen) = watch::channel(Arc::default());
    let (access_keys, access_keys_seen) = watch::channel(Arc::default());
    let (zone_keys, zone_keys_seen) = watch::channel(Arc::default());
    let voice = Voice::new(identity.cluster.clone(), identity.incarnation, NodeKey::from_pkcs8(&identity.key)?);
    let hosts = plugins.iter().map(|plugin| Ok((plugin.role(), host(&plugin.role())?))).collect::<Result<_>>()?;
    let shared = Arc::new(Shared {
        node: identity.node,
        cluster: identity.cluster.clone(),
        me: Me {
            id: identity.node,
            name: identity.name.clone(),
            zone: config.zone.clone(),
            instance_host: config.instance_host,
            bind: config.public,
        },
        incarnation: identity.incarnation,
        started: world.clock.now(),
        world,
        control: control.clone(),
        transport: transport.clone(),
        live: live_seen,
        grants: grants_seen,
        secrets: values_seen,
        certificates: bundles_seen,
        challenges: challenges_seen,
        tickets: tickets_seen,
        access_keys: access_keys_seen,
        zone_keys: zone_keys_seen,
        floating: Arc::default(),
        ending: watch::Sender::new(false),
        voice: Arc::new(voice),
        heard: gossip.heard(),
        unheard: unheard_seen.clone(),
        silent_since: silent_seen,
        report: report_seen.clone(),
        metrics: Registries::default(),
        requests: Default::default(),
        objects: Default::default(),
        hosts,
        built,
        config,
        stop: stop.clone(),
    });
    let desk =
        Desk { book: Arc::new(Mutex::new(Book::new(0, shared.world.clock.now()))), bell: Arc::new(Notify::new()) };
    calls::serve(&shared, &desk);
    recovery::serve(&shared);
    recovery::go_on(&shared)?;
    promise::serve(&shared, grants.clone());

    let tasks = TaskTracker::new();
    let (left, mut has_left) = watch::channel(false);
    tasks.spawn(keep_peers(shared.clone(), peers, left));
    tasks.spawn(senses::watch(shared.clone(), gossip.heard(), Senses { live, unheard, silent_since }));
    tasks.spawn(keep_report(shared.clone(), gossip.clone(), reports_seen, report, load));
    tasks.spawn(promise::keep(shared.clone(), grants.clone()));
    let asker = Asker {
        transport: transport.clone(),
        control: control.clone(),
        clock: shared.world.clock.clone(),
        me: identity.node,
        incarnation: identity.incarnation,
        unheard: unheard_seen.clone(),
        report: report_seen,
        grants: grants.clone(),
    };
    tasks.spawn(lease::ask(asker, stop.clone()));
    tasks.spawn(lead(shared.clone(), desk, gossip.heard(), unheard_seen, stop.clone()));
    tasks.spawn(announce(shared.clone(), identity.clone()));
    tasks.spawn(sealing::keep(shared.clone()));
    tasks.spawn(sealing::renew(shared.clone()));
    tasks.spawn(authority::tend(shared.clone()));
    tasks.spawn(secrets::keep(shared.clone(), values, secrets::own_key(&identity)));
    tasks.spawn(known::keep::<Certificates>(shared.clone(), bundles, secrets::own_key(&identity)));
    tasks.spawn(acme::answers::keep(shared.clone(), challenges));
    tasks.spawn(acme::tend(shared.clone()));
    tasks.spawn(known::keep::<Tickets>(shared.clone(), tickets, secrets::own_key(&identity)));
    tasks.spawn(tickets::tend(shared.clone()));
    tasks.spawn(known::keep::<Access>(shared.clone(), access_keys, secrets::own_key(&identity)));
    tasks.spawn(access::tend(shared.clone()));
    tasks.spawn(known::keep::<Zones>(shared.clone(), zone_keys, secrets::own_key(&identity)));
    tasks.spawn(dnssec::tend(shared.clone()));
    tasks.spawn(foundation::watch(shared.clone()));
    tasks.spawn(renewal::keep(shared.clone(), identity.clone()));
    tasks.spawn(metrics::keep(shared.clone()));
    let mut orders = BTreeMap::new();
    for plugin in plugins {
        let (order, order_seen) = watch::channel(Arc::new(no_order(plugin.role())));
        orders.insert(plugin.role(), order);
        let context = contexts(shared.clone(), plugin.role());
        tasks.spawn(roles::drive(plugin, context, order_seen, reports.clone(), runtimes, stop.clone()));
    }
    tasks.spawn(give_orders(shared.clone(), orders));
    tasks.close();
    info!(node = %shared.me.name, id = %shared.node, cluster = %identity.cluster, "agent runs");
    if let Some(ready) = ready {
        // Whoever asked may have gone.
        let _ = ready.send(shared.clone());
    }
    let end = tokio::select! {
        () = parted(&shared, &grants, &asked_to_stop) => Ok(End::Stopped),
        () = stop.cancelled() => Ok(End::Stopped),
        // The task that would say so ends with the others: that it is gone does not mean that this node is no member.
        Ok(_) = has_left.wait_for(|left| *left) => Ok(End::Left),
        () = mended(&shared) => Ok(End::Again),
        () = rejoin::granted(shared.clone(), identity.clone()) => Ok(End::Rejoined),
        // Its programs go on under their shims, and whoever supervises it tries again until it is upgraded.
        words = outgrown(&shared) => Err(anyhow!(words)),
    };
    if matches!(end, Ok(End::Stopped)) {
        stop.cancel();
    }
    farewell(&shared, &gossip, end.as_ref().ok().copied()).await;
    stop.cancel();
    asked_to_stop.cancel();
    if timeout(FAREWELL_MAX, tasks.wait()).await.is_err() {
        debug!("some tasks did not end in time");
    }
    control.shutdown().await;
    transport.close().await;
    end
}

/// Returns when the agent was asked to stop, and what it runs exclusively may act on without it as far as that could be had.
async fn parted(shared: &Shared, grants: &watch::Sender<Arc<Holdings>>, asked: &CancellationToken) {
    asked.cancelled().await;
    shared.ending.send_replace(true);
    tokio::join!(parting::lengthen(shared, grants), parting::hand_over(shared));
}

/// Returns when the log failed because of the disk, and the disk takes writes again. Until then this node serves with what it knows,
/// and follows as one that has no log.
async fn mended(shared: &Shared) {
    let mut stopped = shared.control.stopped();
    let failed = |words: &Option<String>| words.is_some() && shared.control.is_disk_to_blame();
    if stopped.wait_for(failed).await.is_err() {
        // The replica ends with everything else.
        return std::future::pending().await;
    }
    // The watch over it may have come too late.
    let disk = shared.world.disk.clone();
    if shared.world.disk.run(Box::new(move || disk.remove(RESERVE_FILE))).await.is_ok() {
        debug!("the reserve is given up");
    }
    loop {
        sleep(PROBE_EVERY).await;
        let disk = shared.world.disk.clone();
        let probe = move || disk.write(PROBE_FILE, &[0; PROBE_BYTES]).and_then(|()| disk.remove(PROBE_FILE));
        match shared.world.disk.run(Box::new(probe)).await {
            Ok(()) => return,
            Err(error) => debug!(%error, "the disk still takes nothing"),
        }
    }
}

/// Returns the words when the cluster's feature level is above what this build understands.
async fn outgrown(shared: &Shared) -> String {
    let mut outdated = shared.control.outdated();
    let words = outdated.wait_for(Option::is_some).await.ok().and_then(|words| words.clone());
    match words {
        Some(words) => words,
        None => std::future::pending().await,
    }
}

/// A planned stop costs no election: leadership is handed over first.
async fn farewell(shared: &Shared, gossip: &Gossip, end: Option<End>) {
    let leadership = shared.control.leadership().borrow().clone();
    let next = leadership.voters.iter().find(|id| **id != shared.node && !shared.unheard.borrow().contains(id));
    if leadership.mine
        && let Some(next) = next
        && let Ok(Err(error)) = timeout(FAREWELL_MAX, shared.control.transfer_leadership(*next)).await
    {
        debug!(error, "leadership not handed over");
    }
    gossip.shutdown().await;
    match end {
        Some(End::Stopped) => info!("agent stops; its instances go on"),
        Some(End::Left) => info!("this node left the cluster"),
        Some(End::Rejoined) => info!("the agent starts anew as another node; its instances go on until then"),
        Some(End::Again) => info!("the disk takes writes again; the agent starts anew"),
        // The error says why.
        None => {}
    }
}

/// Makes what a role may touch.
fn contexts(shared: Arc<Shared>, role: RoleName) -> impl Fn(hirsel_role::Spawner) -> Context + Send + Sync + 'static {
    move |spawner| Context {
        me: shared.me.clone(),
        host: shared.hosts[&role].clone(),
        live: shared.live.clone(),
        grants: shared.grants.clone(),
        secrets: shared.secrets.clone(),
        certificates: shared.certificates.clone(),
        challenges: shared.challenges.clone(),
        tickets: shared.tickets.clone(),
        access_keys: shared.access_keys.clone(),
        zone_keys: shared.zone_keys.clone(),
        floating: shared.floating.clone(),
        ending: shared.ending.subscribe(),
        voice: shared.voice.clone(),
        doors: Arc::new(calls::MeshDoors(shared.transport.clone())),
        peers: Arc::new(MeshPeers::new(shared.transport.clone(), role.clone(), spawner.clone())),
        groups: Some(Groups {
            world: shared.world.clone(),
            calls: shared.transport.clone(),
            incarnation: shared.incarnation,
        }),
        clock: shared.world.clock.clone(),
        chance: shared.world.chance.clone(),
        spawner,
        wake: Arc::new(Notify::new()),
        metrics: shared.metrics.begin(&role),
        requests: shared.requests.clone(),
        objects: shared.objects.clone(),
        config: shared.config.roles.clone(),
    }
}

fn no_order(role: RoleName) -> Order {
    Order { role, generation: Generation(0), slots: BTreeMap::new(), work: Work::None }
}

/// Cuts this node's orders out of each new control state.
async fn give_orders(shared: Arc<Shared>, orders: BTreeMap<RoleName, watch::Sender<Arc<Order>>>) {
    let mut state = shared.control.state();
    let names: Vec<RoleName> = orders.keys().cloned().collect();
    let mut pace = Pace::begin();
    loop {
        pace.looks();
        let now = state.borrow_and_update().clone();
        // Before the first state is known nothing is ordered, so that a start stops nothing that ran before.
        if now.spec.nodes.contains_key(&shared.node) {
            for (role, order) in reconciler::orders(&now, shared.node, &names) {
                let Some(sender) = orders.get(&role) else { continue };
                sender.send_if_modified(|before| {
                    let changed = **before != order;
                    if changed {
                        *before = Arc::new(order);
                    }
                    changed
                });
            }
        }
        tokio::select! {
            changed = pace.changed(&mut state) => if changed.is_err() { return },
            () = shared.stop.cancelled() => return,
        }
    }
}

/// Feeds pinned keys and addresses to the transport, and notices when this node is no member any more.
async fn keep_peers(shared: Arc<Shared>, peers: watch::Sender<Arc<Peers>>, left: watch::Sender<bool>) {
    let mut state = shared.control.state();
    let mut was_member = false;
    let mut departed: BTreeMap<NodeId, (Peer, Instant)> = BTreeMap::new();
    let mut tag = state.borrow().cluster.tag.clone();
    let mut pace = Pace::begin();
    loop {
        pace.looks();
        let now = state.borrow_and_update().clone();
        let member = now.spec.nodes.contains_key(&shared.node);
        if was_member && !member {
            left.send_replace(true);
            return;
        }
        was_member |= member;
        if member {
            // Whoever was given up in a recovery did not leave, and must not speak for the past for another moment.
            let given_up = std::mem::replace(&mut tag, now.cluster.tag.clone()) != now.cluster.tag;
            let before = if given_up { Arc::new(peers_of(&now)) } else { peers.borrow().clone() };
            let next = with_departed(peers_of(&now), &before, &mut departed);
            if **peers.borrow() != next {
                if let Err(error) = admission::save_peers(&shared.world, &next) {
                    warn!(error = format!("{error:#}"), "members' addresses not saved");
                }
                peers.send_replace(Arc::new(next));
            }
        }
        let grace_ends = departed.values().map(|(_, since)| *since + FAREWELL_MAX).min();
        tokio::select! {
            changed = pace.changed(&mut state) => if changed.is_err() { return },
            () = sleep_until(grace_ends.unwrap_or_else(Instant::now)), if grace_ends.is_some() => {}
            () = shared.stop.cancelled() => return,
        }
    }
}

/// A node that was removed is still talked to for a moment, or it would never learn that it may go.
fn with_departed(mut next: Peers, before: &Peers, departed: &mut BTreeMap<NodeId, (Peer, Instant)>) -> Peers {
    for (id, peer) in &before.nodes {
        if !next.nodes.contains_key(id) {
            departed.entry(*id).or_insert_with(|| (peer.clone(), Instant::now()));
        }
    }
    departed.retain(|id, (_, since)| since.elapsed() < FAREWELL_MAX && !next.nodes.contains_key(id));
    next.nodes.extend(departed.iter().map(|(id, (peer, _))| (*id, peer.clone())));
    next
}

fn peers_of(state: &ControlState) -> Peers {
    let peer = |(id, spec): (&NodeId, &hirsel_model::spec::NodeSpec)| (*id, Peer { addr: spec.addr, key: spec.key });
    Peers { nodes: state.spec.nodes.iter().map(peer).collect() }
}

/// Puts the reports of all roles together, and gossips what others act on.
async fn keep_report(
    shared: Arc<Shared>,
    gossip: Arc<Gossip>,
    mut roles: watch::Receiver<BTreeMap<RoleName, hirsel_model::report::RoleReport>>,
    report: watch::Sender<Arc<NodeReport>>,
    load: Arc<dyn Fn() -> f64 + Send + Sync>,
) {
    let mut state = shared.control.state();
    let mut having = certificates::Having::new(shared.certificates.clone());
    let mut gossiped = BTreeMap::new();
    let mut step = 0;
    let mut pace = Pace::begin();
    loop {
        pace.looks();
        step = load_step(step, load());
        let mut next = NodeReport {
            version: report.borrow().version,
            incarnation: shared.incarnation,
            generation: state.borrow_and_update().plan.generation,
            roles: roles.borrow_and_update().clone(),
            load: step,
            level: feature::BUILT,
        };
        let certificate = authority::told(&shared);
        for (key, value) in [(digest::CERTIFICATE, certificate), (digest::ADDRESSES, shared.config.told_addresses())] {
            if gossiped.get(key) != Some(&value) {
                gossip.set(key, value.clone()).await;
                gossiped.insert(key.into(), value);
            }
        }
        // Nothing is said while there is nothing to show.
        let shown = having.mark().to_owned();
        if gossiped.get(digest::SHOWN).map_or("", String::as_str) != shown {
            gossip.set(digest::SHOWN, shown.clone()).await;
            gossiped.insert(digest::SHOWN.into(), shown.clone());
        }
        if **report.borrow() != next {
            next.version += 1;
            // The leader hears of it by a question of its own: a hand-over must not wait for gossip.
            report.send_replace(Arc::new(next.clone()));
            for (key, value) in digest::write(&next) {
                if gossiped.get(&key) != Some(&value) {
                    gossip.set(&key, value.clone()).await;
                    gossiped.insert(key, value);
                }
            }
        }
        tokio::select! {
            changed = roles.changed() => if changed.is_err() { return },
            changed = pace.changed(&mut state) => if changed.is_err() { return },
            changed = having.changed() => if changed.is_err() { return },
            () = sleep(LOAD_EVERY) => {}
            () = shared.stop.cancelled() => return,
        }
    }
}

/// Tenths with hysteresis: the step changes only when the load is more than a whole step away from it.
fn load_step(before: u8, load: f64) -> u8 {
    let tenths = (load * 10.0).clamp(0.0, 10.0);
    if (tenths - f64::from(before)).abs() <= 1.0 { before } else { tenths.round() as u8 }
}

/// Tells the cluster of this start, and of an address, capacity, version or set of roles that changed.
async fn announce(shared: Arc<Shared>, identity: Identity) {
    let mut state = shared.control.state();
    loop {
        let known = state.borrow_and_update().spec.nodes.get(&shared.node).cloned();
        let built: BTreeSet<RoleName> = shared.built.iter().cloned().collect();
        if let Some(known) = known {
            let current = known.incarnation == identity.incarnation
                && known.addr == shared.config.advertise
                && known.capacity == shared.config.capacity
                && known.built == built
                && known.version == admission::VERSION;
            if current {
                return;
            }
            let command = Command::Announce {
                node: shared.node,
                incarnation: identity.incarnation,
                addr: shared.config.advertise,
                capacity: shared.config.capacity,
                built,
                version: admission::VERSION.into(),
            };
            let entry = Entry { at: shared.world.clock.wall(), by: identity.name.to_string(), if_index: None, command };
            if let Err(error) = shared.control.propose(entry, FAREWELL_MAX).await {
                debug!(%error, "start not announced yet");
            }
        }
        tokio::select! {
            () = sleep(REPEAT) => {}
            () = shared.stop.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_wavers_without_being_gossiped() {
        assert_eq!(load_step(0, 0.05), 0);
        assert_eq!(load_step(0, 0.35), 4);
        assert_eq!(load_step(4, 0.45), 4);
        assert_eq!(load_step(4, 0.30), 4);
        assert_eq!(load_step(4, 0.2), 2);
        assert_eq!(load_step(4, 7.0), 10);
    }
}

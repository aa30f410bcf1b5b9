//! A simulated node: machine, disk, and the agents that live on it one after the other. The only file here that names the plugins.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use anyhow::Result;
use hirsel::birth::Start;
use hirsel::config::{Config, MESH_PORT};
use hirsel::interface;
use hirsel::roles::Runtimes;
use hirsel::run::{End, Setup, run};
use hirsel::shared::Shared;
use hirsel_mesh::control::Leadership;
use hirsel_mesh::identity::{Front, Identity, JoinToken};
use hirsel_mesh::seam::{Disk, World as Seams};
use hirsel_mesh::transport::Transport;
use hirsel_model::certificate::{NewCertificate, needed, purpose};
use hirsel_model::control::{Command, ControlState, Entry, Outcome, TokenGrants, TokenRecord};
use hirsel_model::report::NodeReport;
use hirsel_model::secret::{Sealed, SecretId};
use hirsel_model::spec::{Availability, Capacity};
use hirsel_model::{CertificateName, RoleName, WallTime};
use hirsel_role::certificate::TicketKey;
use hirsel_role::dnssec::ZoneKey;
use hirsel_role::{Host, Plugin, RoleConfig};
use rand::Rng;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::bug::{self, Bug};
use crate::chance::{SimChance, stream};
use crate::check::{Oracle, Rule};
use crate::clock::{SimClock, elapsed};
use crate::disk::{Platter, SimDisk};
use crate::drive::Drive;
use crate::host::{Machine, SimHost};
use crate::net::{Links, Open, SimNet};
use crate::objects::{self, Inspection, Inspections};
use crate::plugins::storage::role::{Seen, Shown};
use crate::registers::{Call, Journal};
use crate::trace::Trace;

/// A supervisor starts an agent that ended by itself again after so long.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// One process makes room for another.
const ANEW_AFTER: Duration = Duration::from_millis(100);
/// A wish may take so long until it counts as neither done nor refused.
const DEED_WITHIN: Duration = Duration::from_secs(4);
/// Where names are answered.
const DNS_PORT: u16 = 53;
const DAY_MS: u64 = 24 * 3600 * 1000;

/// What all nodes of a simulation share.
#[derive(Clone)]
pub struct Common {
    /// The seed.
    pub seed: u64,
    /// A mistake planted into the agents.
    pub bug: Bug,
    /// Faults of the network.
    pub links: Links,
    /// The history.
    pub trace: Trace,
    /// The oracle.
    pub oracle: Arc<Mutex<Oracle>>,
    /// What lets new nodes in, once the first node has drawn it.
    pub token: Arc<Mutex<Option<JoinToken>>>,
    /// How far all wall clocks leapt, in milliseconds.
    pub leapt_ms: Arc<AtomicU64>,
    /// What clients asked of registers.
    pub journal: Arc<Mutex<Journal>>,
    /// What clients asked of objects.
    pub objects: Arc<Mutex<objects::Journal>>,
    /// What nodes found on their disks.
    pub inspections: Inspections,
}

/// A node and what survives its agents.
#[derive(Clone)]
pub struct Node {
    /// `n1` and so on: also the name of the simulated host.
    pub name: String,
    /// Failure domain.
    pub zone: String,
    /// Its address.
    pub ip: IpAddr,
    /// Its disk.
    pub platter: Arc<Platter>,
    /// Its disk for objects.
    pub drive: Arc<Drive>,
    /// Its processes.
    pub machine: Arc<Machine>,
    /// The agent that lives on it now.
    pub life: Arc<Mutex<Life>>,
    common: Common,
    clock: SimClock,
    seeds: Vec<IpAddr>,
}

/// One life of an agent, as the world looks at it.
#[derive(Default)]
pub struct Life {
    /// Counts the lives of the node.
    pub number: u64,
    /// What the agent knows and says, once it runs.
    pub eyes: Option<Eyes>,
    hand: Option<mpsc::UnboundedSender<Deed>>,
    ended: bool,
}

/// What can be seen of a running agent.
pub struct Eyes {
    /// Its control state.
    pub state: watch::Receiver<Arc<ControlState>>,
    /// Who it thinks leads.
    pub leadership: watch::Receiver<Leadership>,
    /// What it reports.
    pub report: watch::Receiver<Arc<NodeReport>>,
    /// What it shows of itself; its own end closes it.
    pub transport: Weak<Transport>,
    /// All of it, as long as it lives.
    agent: Weak<Shared>,
    /// What it has of storage.
    storage: watch::Receiver<Option<Seen>>,
}

impl Eyes {
    /// What the agent has of storage, once that runs.
    pub fn storage(&self) -> Option<Seen> {
        self.storage.borrow().clone()
    }

    /// When the certificate ends that the agent shows, in seconds since 1970.
    pub fn certificate_ends(&self) -> Option<u64> {
        Some(self.transport.upgrade()?.certificate().not_after)
    }

    /// Whether the agent opens all that is sealed in the control state it knows.
    pub fn opens(&self) -> Result<(), String> {
        let agent = self.agent.upgrade().ok_or("it ends")?;
        let state = self.state.borrow().clone();
        let key = hirsel::sealing::key(&agent, &state)?;
        hirsel::admission::authority(&agent, &state)?;
        for (id, secret) in state.secrets.all() {
            if secret.values.values().any(|sealed| key.open(&id.purpose(), &sealed.0).is_none()) {
                return Err(format!("secret {id} does not open"));
            }
        }
        for (name, certificate) in &state.certificates.named {
            if key.open(&purpose(name), &certificate.key.0).is_none() {
                return Err(format!("the key of certificate {name} does not open"));
            }
        }
        for (_, purpose, sealed) in state.access.sealed() {
            if key.open(&purpose, &sealed.0).is_none() {
                return Err(format!("the {purpose} does not open"));
            }
        }
        for (zone, keys) in &state.signing.zones {
            let purpose = hirsel_model::dnssec::purpose(zone);
            if keys.keys.iter().any(|it| key.open(&purpose, &it.key.0).is_none()) {
                return Err(format!("a key of zone {zone} does not open"));
            }
        }
        match state.tickets.keys.iter().all(|it| key.open(hirsel_model::tickets::PURPOSE, &it.key.0).is_some()) {
            true => Ok(()),
            false => Err("a key of TLS tickets does not open".into()),
        }
    }

    /// Whether the agent has the keys of TLS tickets that the plan gives it, and no others; and those in the clear.
    pub fn tickets(&self) -> Result<BTreeMap<u64, TicketKey>, String> {
        let agent = self.agent.upgrade().ok_or("it ends")?;
        let state = self.state.borrow().clone();
        let has = agent.tickets.borrow().clone();
        let needed = hirsel_model::tickets::needed(&state, agent.node);
        if !has.keys.keys().eq(&needed) {
            return Err(format!("it has keys {:?} of {needed:?}", has.keys.keys().collect::<Vec<_>>()));
        }
        Ok(has.keys.clone())
    }

    /// The keys of zones that the agent has, if they are all that it should.
    pub fn zone_keys(&self) -> Result<BTreeMap<u64, ZoneKey>, String> {
        let agent = self.agent.upgrade().ok_or("it ends")?;
        let has = agent.zone_keys.borrow().clone();
        let state = self.state.borrow().clone();
        let needed = hirsel_model::dnssec::needed(&state, agent.node);
        if !has.0.keys().eq(needed.keys()) {
            return Err(format!("it has keys {:?} of {:?}", has.0.keys(), needed.keys()));
        }
        Ok(has.0.clone())
    }

    /// A command that sets a secret of the cluster to `value`, if this agent can seal it now.
    pub fn secret(&self, value: &str) -> Option<Command> {
        let agent = self.agent.upgrade()?;
        let key = hirsel::sealing::key(&agent, &self.state.borrow().clone()).ok()?;
        let id = SecretId { app: None, name: "key".parse().ok()? };
        let sealed = Sealed(key.seal(&id.purpose(), value.as_bytes(), agent.world.chance.as_ref()));
        Some(Command::SetSecret { id, sealed, key: key.id() })
    }

    /// A command that sets a certificate, if this agent can seal its key now.
    pub fn certificate(&self, front: &Front) -> Option<Command> {
        let agent = self.agent.upgrade()?;
        let key = hirsel::sealing::key(&agent, &self.state.borrow().clone()).ok()?;
        let name: CertificateName = "front".parse().ok()?;
        let sealed = Sealed(key.seal(&purpose(&name), front.key.as_bytes(), agent.world.chance.as_ref()));
        let Front { facts, chain, .. } = front.clone();
        Some(Command::SetCertificate {
            name,
            new: NewCertificate { facts, chain, sealed, key: key.id(), automatic: None },
        })
    }

    /// Whether the agent has every certificate, which is this one, if the plan gives it a load balancer, and otherwise none.
    pub fn shows(&self, front: &Front) -> Result<(), String> {
        let agent = self.agent.upgrade().ok_or("it ends")?;
        let state = self.state.borrow().clone();
        let has = agent.certificates.borrow().clone();
        let has: BTreeMap<_, _> =
            has.0.iter().map(|(name, it)| (name.clone(), (it.version, it.key.0.clone()))).collect();
        let should = needed(&state, agent.node).into_iter().map(|(name, version)| (name, (version, front.key.clone())));
        if has == should.collect() { Ok(()) } else { Err(format!("it has {:?}", has.keys().collect::<Vec<_>>())) }
    }
}

/// What a client asks of an agent.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a history holds a handful of them")]
pub enum Deed {
    /// Leave a mark that must never be lost once it was acknowledged.
    Mark(String),
    /// Change the spec.
    Change(Command),
    /// Use a register, through the interface.
    Call(Call),
    /// Use an object, through the gateway.
    Object(objects::Call),
    /// Look at what is on the disk for objects.
    Inspect(Inspection),
}

/// The plugins, as the agent has them.
fn plugins(planted: bool, seen: watch::Sender<Option<Seen>>) -> Vec<Arc<dyn Plugin>> {
    let storage: Arc<dyn Plugin> = Arc::new(Shown(seen));
    let idle = |plugin: Arc<dyn Plugin>| -> Arc<dyn Plugin> {
        match plugin.role() {
            role if role == storage.role() => storage.clone(),
            role if planted && role == RoleName::compute() => Arc::new(bug::Idle(plugin)),
            _ => plugin,
        }
    };
    hirsel::plugins::all().into_iter().map(idle).collect()
}

impl Node {
    /// Node number `number`, counted from one.
    pub fn new(number: usize, ip: IpAddr, seeds: Vec<IpAddr>, common: &Common) -> Self {
        let name = format!("n{number}");
        let mut rng = stream(common.seed, &format!("clock {name}"));
        let clock = SimClock {
            origin_ms: rng.random_range(0..1_000_000),
            rate_ppm: rng.random_range(-10_000..=10_000),
            wall_offset_ms: rng.random_range(-2_000..=2_000),
            leapt_ms: common.leapt_ms.clone(),
        };
        Self {
            zone: ["a", "b", "c"][(number - 1) % 3].into(),
            ip,
            platter: Arc::default(),
            drive: Arc::default(),
            machine: Machine::new(&name, clock.clone()),
            life: Arc::default(),
            common: common.clone(),
            clock,
            seeds,
            name,
        }
    }

    /// The software of the simulated host: one agent, until it ends.
    pub async fn software(self) -> turmoil::Result {
        let mut rng = stream(self.common.seed, &format!("start {}", self.name));
        // Started in the same instant, all agents would gossip and tick in phase for ever.
        sleep(Duration::from_millis(rng.random_range(0..800))).await;
        let (end, pause) = match self.live().await {
            Ok(End::Left) => ("left".to_string(), RESTART_AFTER),
            Ok(End::Rejoined) => ("joined again".to_string(), ANEW_AFTER),
            Ok(End::Again) => ("starts anew".to_string(), ANEW_AFTER),
            Ok(End::Stopped) => ("stopped".to_string(), RESTART_AFTER),
            Err(error) => (format!("ended: {error:#}"), RESTART_AFTER),
        };
        self.common.trace.note(&self.name, end.clone());
        // Nobody here asks a node to leave, or stops an agent but by force. One that cannot work without its disk may say so and end.
        if pause == RESTART_AFTER && self.platter.is_sound() {
            let message = format!("the agent of {} {end}", self.name);
            crate::lock(&self.common.oracle).violated(Rule::Alive, elapsed(), message);
        }
        sleep(pause).await;
        crate::lock(&self.life).ended = true;
        // The end of a process is the end of its tasks and sockets: the world sees to that, and starts the next one.
        std::future::pending().await
    }

    async fn live(&self) -> Result<End> {
        let number = {
            let mut life = crate::lock(&self.life);
            *life = Life { number: life.number + 1, ..Life::default() };
            life.number
        };
        crate::lock(&self.common.oracle).restarted(&self.name);
        self.common.trace.note(&self.name, format!("starts, life {number}"));
        let rng = |purpose: &str| stream(self.common.seed, &format!("{purpose} {} {number}", self.name));
        let disk = self.platter.mount();
        let net = SimNet {
            ip: self.ip,
            links: self.common.links.clone(),
            machine: self.machine.clone(),
            rng: Arc::new(Mutex::new(rng("net"))),
            trace: self.common.trace.clone(),
            open: Open::default(),
        };
        let stop = CancellationToken::new();
        let _ending = Ending { net: net.clone(), stop: stop.clone(), life: self.life.clone() };
        let seams = Seams {
            net: Arc::new(net.clone()),
            disk: disk.clone(),
            clock: Arc::new(self.clock.clone()),
            chance: Arc::new(SimChance::new(rng("chance"))),
        };
        let start = self.start(disk.as_ref()).await?;
        let (ready, is_ready) = oneshot::channel();
        let node = self.clone();
        let (show, storage) = watch::channel(None);
        tokio::spawn(async move {
            if let Ok(shared) = is_ready.await {
                node.serve(shared, storage).await;
            }
        });
        let setup = Setup {
            config: self.config(),
            world: seams,
            host: host_for(net, disk, self.drive.clone()),
            load: self.load(),
            start,
            runtimes: Runtimes::Shared,
            streams: tokio::runtime::Handle::current(),
            ready: Some(ready),
            stop,
        };
        Box::pin(run(setup, plugins(self.common.bug == Bug::Forgetful && number > 1, show))).await
    }

    /// What the machine says of its load.
    fn load(&self) -> Arc<dyn Fn() -> f64 + Send + Sync> {
        let panics = self.common.bug == Bug::Panics && self.name == bug::WHERE;
        Arc::new(move || {
            assert!(!panics || elapsed() < bug::WHEN, "a planted mistake");
            0.1
        })
    }

    /// Does what a planted mistake does by itself.
    async fn misbehave(self, shared: Arc<Shared>) {
        if self.name != bug::WHERE {
            return;
        }
        match self.common.bug {
            Bug::None | Bug::Forgetful | Bug::Contagious | Bug::Panics | Bug::Stale | Bug::Loses => {}
            Bug::Unkept | Bug::Rots => {}
            Bug::Ends => {
                sleep(bug::WHEN).await;
                shared.stop.cancel();
            }
            Bug::Restless => {
                for availability in [Availability::Draining, Availability::Open].into_iter().cycle() {
                    sleep(bug::RESTLESS_EVERY).await;
                    let command = Command::SetAvailability { node: shared.node, availability };
                    // The next one comes anyway.
                    let _ = self.propose(&shared, command).await;
                }
            }
        }
    }

    async fn start(&self, disk: &SimDisk) -> Result<Start> {
        if Identity::load(disk as &dyn Disk)?.is_some() {
            return Ok(Start::Resume);
        }
        if self.name == "n1" {
            return Ok(Start::Found);
        }
        let seeds = self.seeds.iter().map(|ip| (*ip, MESH_PORT).into()).collect();
        loop {
            if let Some(token) = crate::lock(&self.common.token).clone() {
                return Ok(Start::Join { seeds, token });
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn config(&self) -> Config {
        let word = "names are made here";
        Config {
            name: self.name.parse().expect(word),
            bind: (self.ip, MESH_PORT).into(),
            advertise: (self.ip, MESH_PORT).into(),
            public: self.ip,
            told_public: vec![self.ip],
            instance_host: [127, 0, 0, 1].into(),
            zone: self.zone.parse().expect(word),
            site: "default".parse().expect(word),
            labels: Default::default(),
            capacity: Capacity { cpu_millis: 4000, memory_bytes: 8 << 30 },
            data: format!("/{}", self.name).into(),
            roles: RoleConfig { dns: Some((self.ip, DNS_PORT).into()), ..RoleConfig::default() },
        }
    }

    /// Shows the agent to the world, and does for it what a person would.
    async fn serve(self, shared: Arc<Shared>, storage: watch::Receiver<Option<Seen>>) {
        let (hand, mut deeds) = mpsc::unbounded_channel();
        {
            let mut life = crate::lock(&self.life);
            life.eyes = Some(Eyes {
                state: shared.control.state(),
                leadership: shared.control.leadership(),
                report: shared.report.clone(),
                transport: Arc::downgrade(&shared.transport),
                agent: Arc::downgrade(&shared),
                storage: storage.clone(),
            });
            life.hand = Some(hand);
        }
        self.common.trace.note(&self.name, "runs");
        tokio::spawn(self.clone().misbehave(shared.clone()));
        while crate::lock(&self.common.token).is_none() && self.name == "n1" {
            self.give_token(&shared).await;
        }
        while let Some(deed) = deeds.recv().await {
            // A deed may wait for a leader; the next one does not wait for it.
            tokio::spawn(self.clone().do_deed(shared.clone(), storage.borrow().clone(), deed));
        }
    }

    async fn give_token(&self, shared: &Shared) {
        let token = JoinToken::create(shared.world.chance.as_ref(), &shared.control.state().borrow().cluster.ca);
        let record = self.record(token.secret_hash());
        let command = Command::NewToken { id: token.id.clone(), record };
        match self.propose(shared, command).await {
            Ok(Outcome::Done { .. }) => *crate::lock(&self.common.token) = Some(token),
            other => {
                self.common.trace.note(&self.name, format!("no token yet: {other:?}"));
                sleep(Duration::from_millis(200)).await;
            }
        }
    }

    fn record(&self, secret_hash: Vec<u8>) -> TokenRecord {
        use hirsel_mesh::seam::Clock;
        let expires_at = WallTime(self.clock.wall().0 + DAY_MS);
        TokenRecord { secret_hash, grants: TokenGrants::Join, expires_at, uses_left: None, revoked: false }
    }

    async fn propose(&self, shared: &Shared, command: Command) -> Result<Outcome, String> {
        let at = shared.world.clock.wall();
        let entry = Entry { at, by: format!("admin@{}", self.name), if_index: None, command };
        shared.control.propose(entry, DEED_WITHIN).await.map_err(|error| error.to_string())
    }

    async fn do_deed(self, shared: Arc<Shared>, storage: Option<Seen>, deed: Deed) {
        let (command, mark) = match deed {
            Deed::Object(call) => {
                let gateway = storage.and_then(|seen| seen.gateway());
                let what = call.run(gateway, self.common.objects.clone(), self.common.bug).await;
                return self.common.trace.note(&self.name, what);
            }
            Deed::Inspect(inspection) => {
                let wall_ms = shared.world.clock.wall().0;
                let Some(seen) = storage else { return };
                match inspection.run(seen, shared.node, wall_ms).await {
                    Ok(look) => drop(crate::lock(&self.common.inspections).insert(self.name.clone(), look)),
                    Err(words) => self.common.trace.note(&self.name, format!("not looked at: {words}")),
                }
                return;
            }
            Deed::Call(call) => {
                let agent = bug::Lying::plant(interface::agent(&shared, Arc::new(Default::default)), self.common.bug);
                let what = call.ask(agent, self.common.journal.clone()).await;
                return self.common.trace.note(&self.name, what);
            }
            Deed::Mark(id) => (Command::NewToken { id: id.clone(), record: self.record(vec![7; 32]) }, Some(id)),
            Deed::Change(command) => (command, None),
        };
        let outcome = self.propose(&shared, command).await;
        if let (Ok(Outcome::Done { index }), Some(mark)) = (&outcome, &mark) {
            crate::lock(&self.common.oracle).acknowledged(*index, mark);
        }
        let what = mark.unwrap_or_else(|| "change".into());
        self.common.trace.note(&self.name, format!("{what} at {:?}: {outcome:?}", elapsed()));
    }

    /// Hands a deed to the agent that lives here. False when none runs.
    pub fn ask(&self, deed: Deed) -> bool {
        crate::lock(&self.life).hand.as_ref().is_some_and(|hand| hand.send(deed).is_ok())
    }

    /// The agent ended and the host goes on: nothing more of it reaches a disk.
    pub fn unmount(&self) {
        self.platter.unmount();
        self.drive.unmount();
    }

    /// Somebody puts an empty disk for objects into its place, while no agent runs, and says so.
    pub fn replace_drive(&self) {
        self.drive.replace();
        self.platter.remove("roles/storage/disk-id");
    }

    /// Whether its power has failed inside something that one of its disks did.
    pub fn has_lost_power(&self) -> bool {
        self.platter.has_failed() || self.drive.has_failed()
    }

    /// Whether the agent ended by itself and another one is to be started. Says so once.
    pub fn take_ended(&self) -> bool {
        std::mem::take(&mut crate::lock(&self.life).ended)
    }

    /// Looks at the agent that lives here.
    pub fn look<T>(&self, f: impl FnOnce(&mut Eyes) -> T) -> Option<T> {
        crate::lock(&self.life).eyes.as_mut().map(f)
    }
}

fn host_for(net: SimNet, disk: Arc<SimDisk>, drive: Arc<Drive>) -> hirsel::run::HostFor {
    Arc::new(move |role: &RoleName| {
        Ok(Arc::new(SimHost::new(net.clone(), disk.clone(), drive.clone(), role.as_str())) as Arc<dyn Host>)
    })
}

/// Ends what belongs to one life, however it ends.
struct Ending {
    net: SimNet,
    stop: CancellationToken,
    life: Arc<Mutex<Life>>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.stop.cancel();
        self.net.open.close();
        let mut life = crate::lock(&self.life);
        (life.eyes, life.hand) = (None, None);
    }
}

//! Whole agents in a simulated world, and the hands that break and mend it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, anyhow};
use hirsel_model::control::{Command, ControlState};
use hirsel_model::plan::Phase;
use hirsel_model::report::{RoleFacts, RoleState};
use hirsel_model::{AppName, InstanceId, NodeId, RoleName, ServiceName};
use rand::Rng;
use rand::rngs::SmallRng;

use crate::bug::Bug;
use crate::causes;
use crate::chance::stream;
use crate::check::{Actor, Oracle, Rule, undeclared};
use crate::client::{self, Sight};
use crate::clock::EPOCH_MS;
use crate::net::Links;
use crate::node::{Common, Deed, Node};
use crate::registers::Clients;
use crate::trace::Trace;

/// Hosts take turns, and datagrams arrive, once per tick. A shorter one costs more and finds nothing more.
const TICK: Duration = Duration::from_millis(5);
/// The world looks at what takes longer than a tick to matter so often.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What a dying agent's kernel still sends arrives before its host begins to refuse.
const LAST_WORDS: Duration = Duration::from_millis(20);
/// A node may still be judged for what was wrong with it so long ago.
const BLAMED_FOR: Duration = Duration::from_secs(15);
/// Share of datagrams lost, and doubled, when nothing is wrong.
const LOSS: f64 = 0.01;
const DUPLICATION: f64 = 0.005;

/// How a node is, apart from its links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Power {
    /// Its agent runs.
    #[default]
    On,
    /// Its agent was killed at this time; its processes run.
    Killed(Duration),
    /// It has no power.
    Off,
    /// Its power fails inside the next sync.
    Doomed,
}

/// What is wrong with a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trouble {
    /// Its power.
    pub power: Power,
    /// Its cable is out.
    pub cut: bool,
    /// Nothing comes out of it, though everything arrives.
    pub mute: bool,
    /// Nothing reaches it, though everything leaves it.
    pub deaf: bool,
    /// Nothing leaves or reaches it until it thaws. (turmoil cannot stop the clock of one host; a host whose network stands still is
    /// what everybody else sees of a frozen one.) Its agent does nothing to its programs, which go on.
    pub frozen: bool,
    /// Share of datagrams its wire loses.
    pub loss: f64,
    /// Its disk is full.
    pub full: bool,
    /// So much longer each piece of durable work takes.
    pub slow: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Link {
    #[default]
    Open,
    /// Streams are held back.
    Hold,
    /// A living kernel refuses for a dead agent.
    Refuse,
}

/// Everything.
pub struct World {
    sim: turmoil::Sim<'static>,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// What is wrong with each node.
    pub trouble: Vec<Trouble>,
    client: IpAddr,
    links: BTreeMap<(IpAddr, IpAddr), Link>,
    common: Common,
    sight: Arc<Mutex<Sight>>,
    rng: SmallRng,
    looked: Duration,
    marks: u64,
    /// The last event of the cluster's log that was told.
    told: Cell<u64>,
    clients: Clients,
    /// When something was last wrong with each node.
    troubled: BTreeMap<usize, Duration>,
    /// The newest state that was looked at for what moved.
    moved: RefCell<Arc<ControlState>>,
    /// Of how many things that moved because of a fault `why` named it, and of how many it did not.
    named: Cell<(u64, u64)>,
}

impl World {
    /// `count` nodes and a client, nothing started yet.
    pub fn new(seed: u64, count: usize, trace: Trace, bug: Bug) -> Self {
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .tick_duration(TICK)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(10))
            .simulation_duration(Duration::from_secs(3600))
            // The default of 64 overflows in bursts; for streams it also bounds connections that wait to be accepted.
            .udp_capacity(4096)
            .tcp_capacity(1024)
            .build();
        let common = Common {
            seed,
            bug,
            links: Links::new(LOSS, DUPLICATION),
            trace,
            oracle: Arc::default(),
            token: Arc::default(),
            leapt_ms: Arc::default(),
            journal: Arc::default(),
        };
        // Looking a name up gives it an address, so addresses follow this order.
        let ips: Vec<IpAddr> = (1..=count).map(|number| sim.lookup(format!("n{number}"))).collect();
        let nodes: Vec<Node> =
            ips.iter().enumerate().map(|(i, ip)| Node::new(i + 1, *ip, ips[..1].to_vec(), &common)).collect();
        for node in &nodes {
            let node = node.clone();
            sim.host(node.name.clone(), move || node.clone().software());
        }
        let (sight, journal) = (Arc::new(Mutex::new(Sight::default())), common.journal.clone());
        let targets = nodes.iter().map(|node| (node.name.clone(), node.ip)).collect();
        let client = sim.lookup("client");
        sim.client("client", client::run(targets, sight.clone(), common.oracle.clone(), common.trace.clone()));
        Self {
            sim,
            trouble: vec![Trouble::default(); count],
            nodes,
            client,
            links: BTreeMap::new(),
            sight,
            rng: stream(seed, "world"),
            common,
            looked: Duration::ZERO,
            marks: 0,
            told: Cell::new(0),
            clients: Clients::new(seed, journal),
            troubled: BTreeMap::new(),
            moved: RefCell::default(),
            named: Cell::default(),
        }
    }

    /// True time.
    pub fn now(&self) -> Duration {
        self.sim.elapsed()
    }

    /// The oracle.
    pub fn oracle(&self) -> std::sync::MutexGuard<'_, Oracle> {
        crate::lock(&self.common.oracle)
    }

    /// The history.
    pub fn trace(&self) -> &Trace {
        &self.common.trace
    }

    /// Writes into the history.
    pub fn note(&self, what: impl Into<String>) {
        self.common.trace.note_at(self.now(), "world", what);
    }

    /// What an exact wall clock shows, in seconds since 1970.
    pub fn wall_s(&self) -> u64 {
        (EPOCH_MS + self.now().as_millis() as u64 + self.common.leapt_ms.load(Ordering::Relaxed)) / 1000
    }

    /// All wall clocks go ahead at once.
    pub fn leap(&self, length: Duration) {
        self.common.leapt_ms.fetch_add(length.as_millis() as u64, Ordering::Relaxed);
        self.note(format!("{} days later", length.as_secs() / 86_400));
    }

    /// Goes on for `length`.
    pub fn pass(&mut self, length: Duration) -> Result<()> {
        let until = self.now() + length;
        while self.now() < until {
            self.step()?;
        }
        Ok(())
    }

    /// Goes on until `holds`, at most for `limit`. Returns how long it took, or what was missing last.
    pub fn until(
        &mut self,
        limit: Duration,
        mut holds: impl FnMut(&Self) -> Result<(), String>,
    ) -> Result<Result<Duration, String>> {
        let began = self.now();
        loop {
            match holds(self) {
                Ok(()) => return Ok(Ok(self.now() - began)),
                Err(missing) if self.now() - began >= limit => return Ok(Err(missing)),
                Err(_) => self.pass(LOOK_EVERY)?,
            }
        }
    }

    /// One tick.
    fn step(&mut self) -> Result<()> {
        self.sim.step().map_err(|error| anyhow!("{error}"))?;
        for index in 0..self.nodes.len() {
            match self.trouble[index].power {
                Power::Doomed if self.nodes[index].platter.has_failed() => self.lose_power(index),
                Power::Killed(at) if self.now() == at + LAST_WORDS => self.relink(),
                Power::On | Power::Doomed if self.nodes[index].take_ended() => {
                    self.nodes[index].platter.unmount();
                    self.sim.crash(self.nodes[index].name.as_str());
                    self.sim.bounce(self.nodes[index].name.as_str());
                }
                _ => {}
            }
        }
        let now = self.now();
        for index in 0..self.nodes.len() {
            if self.trouble[index] != Trouble::default() {
                self.troubled.insert(index, now);
            }
        }
        self.observe();
        if self.now() >= self.looked + LOOK_EVERY {
            self.looked = self.now();
            self.look_around();
        }
        Ok(())
    }

    fn observe(&self) {
        let now = self.now();
        for node in &self.nodes {
            for (id, pid, fence) in node.machine.acting(now) {
                self.oracle().acts(now, Actor { node: node.name.clone(), id, pid, fence });
            }
            node.look(|eyes| {
                if eyes.leadership.has_changed().unwrap_or(false) {
                    let seen = eyes.leadership.borrow_and_update().clone();
                    let what =
                        format!("term {} leader {:?} mine {} as {:?}", seen.term, seen.leader, seen.mine, seen.member);
                    self.common.trace.note_at(now, &node.name, what);
                    if seen.mine {
                        self.oracle().leads(now, seen.term, &node.name);
                    }
                }
                if eyes.state.has_changed().unwrap_or(false) {
                    let state = eyes.state.borrow_and_update().clone();
                    self.oracle().applied(now, &node.name, &state);
                    self.tell(now, &state);
                    self.ask_why(now, &state);
                }
            });
        }
    }

    /// Writes each event of the cluster's own log into the history, once.
    fn tell(&self, now: Duration, state: &ControlState) {
        let told = self.told.replace(self.told.get().max(state.log.last));
        for event in state.log.events.iter().filter(|event| event.index > told) {
            let what = format!("plan {} {:?} {}: {}", event.generation, event.kind, event.subject, event.message);
            self.common.trace.note_at(now, "log", what);
        }
    }

    /// Asks `why` about everything that moved because of a fault.
    fn ask_why(&self, now: Duration, state: &Arc<ControlState>) {
        let before = self.moved.borrow().clone();
        if state.applied <= before.applied {
            return;
        }
        *self.moved.borrow_mut() = state.clone();
        let is_to_blame = |node: &NodeId| {
            let name = state.spec.name_of(*node);
            let index = self.nodes.iter().position(|node| node.name == name);
            index.and_then(|index| self.troubled.get(&index)).is_some_and(|at| now < *at + BLAMED_FOR)
        };
        for moved in causes::moved(&before, state) {
            if !moved.from.iter().all(is_to_blame) {
                continue;
            }
            let (named, missed) = self.named.get();
            match causes::is_named(state, &moved) {
                Ok(()) => self.named.set((named + 1, missed)),
                Err(words) => {
                    self.named.set((named, missed + 1));
                    self.common.trace.note_at(now, "why", words);
                }
            }
        }
    }

    /// Of how many things that moved because of a fault `why` named that fault first, and of how many it did not.
    pub fn named(&self) -> (u64, u64) {
        self.named.get()
    }

    /// Tells the client which lb owes answers.
    fn look_around(&self) {
        let now = self.now();
        let Some(state) = self.newest() else { return };
        let lbs = state.plan.roles.get(&RoleName::lb());
        let lbs: BTreeSet<String> =
            lbs.into_iter().flatten().map(|(_, assignment)| state.spec.name_of(assignment.node)).collect();
        let sound = |index: usize| self.trouble[index] == Trouble::default();
        // At least one instance that takes requests runs on a node that is not in trouble.
        let served = self.nodes.iter().enumerate().filter(|(index, _)| sound(*index)).any(|(_, node)| {
            let running = node.machine.running(now);
            running.keys().any(|id| {
                let listed = state.plan.instances.get(id).filter(|listed| !listed.exclusive);
                listed
                    .is_some_and(|listed| listed.phase == Phase::Active && state.spec.name_of(listed.node) == node.name)
            })
        });
        let mut sight = crate::lock(&self.sight);
        sight.served(now, served);
        for (index, node) in self.nodes.iter().enumerate() {
            sight.live(now, &node.name, sound(index) && lbs.contains(&node.name));
        }
    }

    /// The newest control state that any running agent has.
    pub fn newest(&self) -> Option<Arc<ControlState>> {
        let states = self.nodes.iter().filter_map(|node| node.look(|eyes| eyes.state.borrow().clone()));
        states.max_by_key(|state| state.applied)
    }

    /// Which node leads, as the newest term has it.
    pub fn leader(&self) -> Option<usize> {
        let name = self.oracle().leader().map(|(_, name)| name.to_string())?;
        self.nodes.iter().position(|node| node.name == name)
    }

    /// Whether the exclusive services of the newest spec act.
    pub fn is_held(&self) -> Result<(), String> {
        let (now, newest) = (self.now(), self.newest().ok_or("no agent runs")?);
        let acting: BTreeSet<_> = self.nodes.iter().flat_map(|node| node.machine.acting(now)).collect();
        let acts = |app: &AppName, service: &ServiceName| {
            acting.iter().any(|(id, ..)| id.app == *app && id.service == *service)
        };
        for (app, spec) in &newest.spec.apps {
            for (service, _) in spec.services.iter().filter(|(_, spec)| spec.exclusive) {
                if !acts(app, service) {
                    return Err(format!("nothing acts for {app}/{service}"));
                }
            }
        }
        Ok(())
    }

    /// A node where an exclusive instance acts.
    pub fn holder(&self) -> Option<usize> {
        self.nodes.iter().position(|node| !node.machine.acting(self.now()).is_empty())
    }

    /// Asks some node whose agent runs for a change of the spec.
    pub fn change(&mut self, command: Command) {
        let index = self.rng.random_range(0..self.nodes.len());
        self.note(format!("{} is asked for {command:?}", self.nodes[index].name));
        self.nodes[index].ask(Deed::Change(command));
    }

    /// Lets a client leave a mark at some node whose agent runs.
    pub fn mark(&mut self) {
        let index = self.rng.random_range(0..self.nodes.len());
        self.marks += 1;
        self.nodes[index].ask(Deed::Mark(format!("mark-{}", self.marks)));
    }

    /// Lets clients use registers, each up to `pause` after its last answer.
    pub fn use_registers(&mut self, pause: Duration) {
        self.clients.ask(self.sim.elapsed(), &self.nodes, pause);
    }

    /// Has everything read at last through every node, and judges what clients were told all the time.
    pub fn judge_registers(&mut self) -> Result<()> {
        let mut asked = 0;
        while !self.clients.read_all(self.sim.elapsed(), &self.nodes, &mut asked) {
            self.step()?;
        }
        let (done, failed, unknown) = self.clients.counts();
        self.note(format!("registers: {done} operations done, {failed} failed, {unknown} in doubt"));
        self.require(Rule::Linear, self.clients.judge());
        Ok(())
    }

    /// Changes what is wrong with a node.
    pub fn set(&mut self, index: usize, change: impl FnOnce(&mut Trouble)) {
        let before = self.trouble[index].clone();
        change(&mut self.trouble[index]);
        let after = self.trouble[index].clone();
        if before == after {
            return;
        }
        self.note(format!("{} {after:?}", self.nodes[index].name));
        self.common.links.set_loss(self.nodes[index].ip, after.loss);
        self.nodes[index].platter.set_full(after.full);
        self.nodes[index].platter.set_slow(after.slow);
        self.nodes[index].machine.hold_still(after.frozen);
        // At once, so that no request which begins now is owed an answer.
        self.look_around();
        match (before.power, after.power) {
            (same, other) if same == other => self.relink(),
            (_, Power::Killed(_)) => {
                // The kernel lives: it says that the connections end, and its page cache is written some day.
                self.nodes[index].platter.unmount();
                self.sim.crash(self.nodes[index].name.as_str());
                self.common.links.set_down(self.nodes[index].ip, true);
            }
            (_, Power::Off) => self.lose_power(index),
            (_, Power::Doomed) => {
                self.nodes[index].platter.doom();
                self.relink();
            }
            (Power::Doomed, Power::On) => {
                // It never synced: there was nothing to lose, and the power stays.
                self.nodes[index].platter.spare();
                self.relink();
            }
            (_, Power::On) => {
                self.common.links.set_down(self.nodes[index].ip, false);
                self.relink();
                self.sim.bounce(self.nodes[index].name.as_str());
            }
        }
    }

    fn lose_power(&mut self, index: usize) {
        let node = self.nodes[index].clone();
        self.trouble[index].power = Power::Off;
        self.common.links.set_down(node.ip, true);
        // Nothing leaves a host without power, not even the end of a connection.
        self.relink();
        let torn = self.rng.random_bool(0.5);
        let loss = node.platter.lose_power(torn.then_some(&mut self.rng));
        node.machine.lose_power();
        self.sim.crash(node.name.as_str());
        self.note(format!("{} is off, {} of {} unsynced writes are lost", node.name, loss.lost, loss.unsynced));
    }

    /// Ends everything that is wrong.
    pub fn heal(&mut self) {
        for index in 0..self.nodes.len() {
            self.set(index, |trouble| *trouble = Trouble::default());
        }
    }

    /// Makes every link what the troubles at its ends say.
    fn relink(&mut self) {
        let mut troubles = self.trouble.clone();
        if self.common.bug == Bug::Contagious {
            for (trouble, next) in troubles.iter_mut().zip(self.trouble.iter().cycle().skip(1)) {
                trouble.frozen |= next.frozen;
            }
        }
        let ends: Vec<(IpAddr, Trouble)> = self.nodes.iter().map(|node| node.ip).zip(troubles).collect();
        let ends: Vec<_> = ends.into_iter().chain([(self.client, Trouble::default())]).collect();
        for (index, (a, trouble_a)) in ends.iter().enumerate() {
            for (b, trouble_b) in &ends[index + 1..] {
                self.relink_pair(*a, trouble_a, *b, trouble_b);
            }
        }
    }

    fn relink_pair(&mut self, a: IpAddr, trouble_a: &Trouble, b: IpAddr, trouble_b: &Trouble) {
        let either = |f: fn(&Trouble) -> bool| f(trouble_a) || f(trouble_b);
        let links = &self.common.links;
        for (from, to, silent) in [(a, b, trouble_a.mute || trouble_b.deaf), (b, a, trouble_b.mute || trouble_a.deaf)] {
            if either(|t| t.cut) || silent { links.cut(from, to) } else { links.repair(from, to) }
        }
        let now = self.sim.elapsed();
        let refuses = |t: &Trouble| matches!(t.power, Power::Killed(at) if now >= at + LAST_WORDS);
        let wanted = if either(|t| t.cut || t.frozen || t.power == Power::Off) {
            Link::Hold
        } else if refuses(trouble_a) || refuses(trouble_b) {
            Link::Refuse
        } else {
            Link::Open
        };
        let link = self.links.entry((a, b)).or_default();
        let before = std::mem::replace(link, wanted);
        match (before, wanted) {
            (Link::Open, Link::Open) | (Link::Hold, Link::Hold) | (Link::Refuse, Link::Refuse) => {}
            (_, Link::Refuse) => self.sim.partition(a, b),
            (_, Link::Hold) => self.sim.hold(a, b),
            (Link::Hold, Link::Open) => self.sim.release(a, b),
            (Link::Refuse, Link::Open) => self.sim.repair(a, b),
        }
    }

    /// Nodes with which something is wrong.
    pub fn in_trouble(&self) -> impl Iterator<Item = &Node> {
        self.nodes
            .iter()
            .zip(&self.trouble)
            .filter(|(_, trouble)| **trouble != Trouble::default())
            .map(|(node, _)| node)
    }

    /// Whether all is well with the nodes that are not in trouble: they agree, what is declared is planned on them, and they run it,
    /// nothing else and nothing less. Says what is missing otherwise.
    pub fn is_well(&self) -> Result<(), String> {
        let now = self.now();
        let newest = self.newest().ok_or("no agent runs")?;
        if newest.spec.nodes.len() != self.nodes.len() {
            return Err(format!("{} of {} nodes joined", newest.spec.nodes.len(), self.nodes.len()));
        }
        let in_trouble: BTreeSet<String> = self.in_trouble().map(|node| node.name.clone()).collect();
        if let Some(unmet) = newest.plan.unmet.first().filter(|_| in_trouble.is_empty()) {
            return Err(format!("unmet: {} {}", unmet.subject, unmet.reason));
        }
        for (node, verdict) in &newest.plan.verdicts {
            let name = newest.spec.name_of(*node);
            if !in_trouble.contains(&name) {
                return Err(format!("{name} is judged {:?}: {}", verdict.kind, verdict.evidence));
            }
        }
        for (app, service, wanted) in newest.spec.apps.iter().flat_map(|(app, spec)| {
            spec.services.iter().map(move |(service, spec)| (app, service, spec.replicas.min as usize))
        }) {
            let of_service = newest.plan.instances.iter().filter(|(id, _)| id.app == *app && id.service == *service);
            let count = of_service.filter(|(_, assignment)| assignment.phase == Phase::Active).count();
            if count != wanted {
                return Err(format!("{count} of {wanted} instances of {app}/{service} planned"));
            }
        }
        let placed = newest.plan.instances.values().map(|at| at.node);
        let slots = newest.plan.roles.values().flat_map(|slots| slots.values().map(|slot| slot.node));
        for node in placed.chain(slots).map(|node| newest.spec.name_of(node)) {
            if in_trouble.contains(&node) {
                return Err(format!("work is still planned on {node}"));
            }
        }
        let sound = self.nodes.iter().filter(|node| !in_trouble.contains(&node.name));
        sound.into_iter().try_for_each(|node| self.is_node_well(now, node, &newest))
    }

    fn is_node_well(&self, now: Duration, node: &Node, newest: &ControlState) -> Result<(), String> {
        let seen = node
            .look(|eyes| (eyes.state.borrow().clone(), eyes.leadership.borrow().clone(), eyes.report.borrow().clone()));
        let (state, leadership, report) = seen.ok_or(format!("{} does not run", node.name))?;
        if state.applied < newest.applied {
            return Err(format!("{} applied {} of {}", node.name, state.applied, newest.applied));
        }
        if leadership.leader.is_none() {
            return Err(format!("{} knows no leader", node.name));
        }
        let (id, _) = newest.spec.node_named(&node.name).ok_or(format!("{} is no member", node.name))?;
        let listed: BTreeSet<InstanceId> =
            newest.plan.instances.iter().filter(|(_, at)| at.node == id).map(|(id, _)| id.clone()).collect();
        let running: BTreeSet<InstanceId> = node.machine.running(now).into_keys().collect();
        if let Some(message) = undeclared(&node.name, &running, &listed) {
            return Err(message);
        }
        let holds = newest.plan.roles.iter().filter(|(_, slots)| slots.values().any(|slot| slot.node == id));
        for (role, _) in holds {
            let report = report.roles.get(role);
            if !report
                .is_some_and(|report| report.state == RoleState::Running && report.generation == newest.plan.generation)
            {
                return Err(format!("{} of {} is {report:?} at plan {}", role, node.name, newest.plan.generation));
            }
        }
        let facts = report.roles.get(&RoleName::compute()).map(|report| &report.facts);
        for id in &listed {
            let healthy = match facts {
                Some(RoleFacts::Compute(facts)) => facts.get(id).is_some_and(|facts| facts.healthy),
                _ => false,
            };
            if !healthy {
                return Err(format!("{id} on {} is not healthy", node.name));
            }
        }
        Ok(())
    }

    /// Checks a condition that must hold by now.
    pub fn require(&self, rule: Rule, holds: Result<(), String>) {
        if let Err(message) = holds {
            self.oracle().violated(rule, self.now(), message);
        }
    }
}

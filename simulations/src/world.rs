//! Whole agents in a simulated world: time, wishes, and clients.

mod kept;
mod look;
mod trouble;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, anyhow};
use hirsel_model::control::{Command, ControlState};
use rand::Rng;
use rand::rngs::SmallRng;

use crate::bug::Bug;
use crate::chance::stream;
use crate::check::{Oracle, Rule};
use crate::client::{self, Sight};
use crate::clock::EPOCH_MS;
use crate::net::Links;
use crate::node::{Common, Deed, Node};
use crate::objects;
use crate::registers::Clients;
use crate::trace::Trace;

use trouble::{LAST_WORDS, Link};
pub use trouble::{Power, Trouble};

/// Hosts take turns, and datagrams arrive, once per tick. A shorter one costs more and finds nothing more.
const TICK: Duration = Duration::from_millis(5);
/// The world looks at what takes longer than a tick to matter so often.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Share of datagrams lost, and doubled, when nothing is wrong.
const LOSS: f64 = 0.01;
const DUPLICATION: f64 = 0.005;

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
    /// What happens to disks with objects: beside the rest, so that having them changes nothing else of a history.
    drives: SmallRng,
    looked: Duration,
    marks: u64,
    /// The last event of the cluster's log that was told.
    told: Cell<u64>,
    clients: Clients,
    guests: objects::Clients,
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
            objects: Arc::default(),
            inspections: Arc::default(),
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
        let guests = objects::Clients::new(seed, common.objects.clone());
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
            drives: stream(seed, "drives"),
            common,
            looked: Duration::ZERO,
            marks: 0,
            told: Cell::new(0),
            clients: Clients::new(seed, journal),
            guests,
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
                Power::Doomed if self.nodes[index].has_lost_power() => self.lose_power(index),
                Power::Killed(at) if self.now() == at + LAST_WORDS => self.relink(),
                Power::On | Power::Doomed if self.nodes[index].take_ended() => {
                    self.nodes[index].unmount();
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
}

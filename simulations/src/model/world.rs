//! Time, links, elections and commits of the model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hirsel_model::book::{Asked, Book, Surroundings};
use hirsel_model::control::{ClusterInfo, Command, ControlState, Entry, Outcome, TokenGrants, TokenRecord};
use hirsel_model::grant::ASK_EVERY;
use hirsel_model::planner::{self, change::change};
use hirsel_model::spec::{Availability, Capacity, NodeSpec};
use hirsel_model::view::{Liveness, RaftFacts};
use hirsel_model::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::Bug;
use super::check::{Checks, Found};
use super::foundations::Past;
use super::grants::{Letter, Proposed, Waiting};
use super::host::{Beat, Host, Power};
use super::partings::Parting;
use crate::check::Register;

/// One step of time.
pub(super) const STEP: Duration = Duration::from_millis(50);
const GOSSIP: Duration = Duration::from_millis(250);
/// Whom a node gossips with in one round.
const GOSSIP_WITH: usize = 3;
const PASS: Duration = Duration::from_millis(250);
/// A leader without a quorum for this long gives up.
const QUORUM_LOST: Duration = Duration::from_millis(1_200);
/// One proposal in so many is lost on its way.
const LOST_PROPOSALS: u32 = 25;
/// Nodes that only vote, where some do.
pub(super) const IDLE: u64 = 3;

pub(super) struct World {
    pub now: Timestamp,
    pub rng: SmallRng,
    /// One step of time.
    pub stride: Duration,
    pub bug: Bug,
    pub hosts: BTreeMap<NodeId, Host>,
    /// Ways that carry nothing.
    pub cuts: BTreeSet<(NodeId, NodeId)>,
    /// Chance of each message from or to a node to be lost.
    pub loss: BTreeMap<NodeId, f64>,
    /// Ways on which answers and promises are kept back.
    pub keeps_back: BTreeSet<(NodeId, NodeId)>,
    /// Those that are, until they are let go.
    pub kept_back: Vec<Letter>,
    /// The next proposal that places something exclusive is under way for so long.
    pub keeps_placement: Option<Duration>,
    /// Nodes that learn of nothing that is decided.
    pub behind: BTreeSet<NodeId>,
    /// The voters of the control group, as Raft has them.
    pub raft: BTreeSet<NodeId>,
    /// The newest committed state.
    pub committed: Arc<ControlState>,
    pub index: u64,
    quorum_seen: BTreeMap<NodeId, Timestamp>,
    pub checks: Checks,
    /// What exclusive services act on.
    pub register: Register,
    pub mail: Vec<Letter>,
    pub waiting: Vec<Waiting>,
    pub proposed: Vec<Proposed>,
    /// Agents that are being restarted on purpose.
    pub partings: Vec<Parting>,
    /// Letters arrive at once, or not at all.
    pub prompt: bool,
    /// No proposal is lost or late any more.
    pub undisturbed: bool,
    /// The former foundation, where there are two.
    pub past: Option<Past>,
    /// What was committed when; only with a mistake planted.
    pub annals: Vec<(Timestamp, Arc<ControlState>)>,
    /// Who acts by promises alone now.
    pub promised: BTreeSet<(NodeId, InstanceId)>,
    /// How often somebody began to.
    pub times_promised: usize,
    pub lines: Vec<String>,
}

/// What a cluster begins as.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shape {
    /// How many nodes there are; three to seven when it is not said.
    pub nodes: Option<u64>,
    /// The first so many do nothing but vote.
    pub idle: u64,
}

fn node_spec(number: u64, zone: &str) -> NodeSpec {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&number.to_le_bytes());
    let last = u8::try_from(number).unwrap_or(250);
    NodeSpec {
        name: format!("n{number}").parse().expect("a name"),
        addr: ([10, 0, 0, last], 7400).into(),
        zone: zone.parse().expect("a name"),
        site: "here".parse().expect("a name"),
        labels: BTreeMap::new(),
        key,
        incarnation: Incarnation(1),
        availability: Availability::Open,
        capacity: Capacity { cpu_millis: 4_000, memory_bytes: 8 << 30 },
        built: [RoleName::lb(), RoleName::compute(), RoleName::mgmt()].into(),
        version: "1".into(),
    }
}

impl World {
    /// A new cluster over three zones, founded and joined.
    pub fn new(seed: u64, bug: Bug, shape: Shape) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let nodes = shape.nodes.unwrap_or_else(|| rng.random_range(3..=7));
        let mut world = Self {
            now: Timestamp(1_000),
            rng,
            stride: STEP,
            bug,
            hosts: BTreeMap::new(),
            cuts: BTreeSet::new(),
            loss: BTreeMap::new(),
            keeps_back: BTreeSet::new(),
            kept_back: Vec::new(),
            keeps_placement: None,
            behind: BTreeSet::new(),
            raft: [NodeId(1)].into(),
            committed: Arc::default(),
            index: 0,
            quorum_seen: BTreeMap::new(),
            checks: Checks::default(),
            register: Register::default(),
            mail: Vec::new(),
            waiting: Vec::new(),
            proposed: Vec::new(),
            partings: Vec::new(),
            prompt: false,
            undisturbed: false,
            past: None,
            annals: Vec::new(),
            promised: BTreeSet::new(),
            times_promised: 0,
            lines: Vec::new(),
        };
        world.found(nodes, shape.idle);
        world
    }

    fn found(&mut self, nodes: u64, idle: u64) {
        let mut state = ControlState::default();
        let zones = ["a", "b", "c"];
        let record = TokenRecord {
            secret_hash: vec![0; 32],
            grants: TokenGrants::Join,
            expires_at: WallTime(u64::MAX),
            uses_left: None,
            revoked: false,
        };
        let cluster = ClusterInfo { id: ClusterId("model".into()), ..ClusterInfo::default() };
        let node_spec = |number: u64, zone: &str| {
            let spec = node_spec(number, zone);
            if number <= idle { NodeSpec { built: [RoleName::mgmt()].into(), ..spec } } else { spec }
        };
        let found = Command::Found { cluster, node: node_spec(1, "a") };
        let token = Command::NewToken { id: "t".into(), record };
        let zone_of = |number: u64| zones[usize::try_from(number - 1).unwrap_or(0) % zones.len()];
        let admit = |number: u64| Command::Admit { node: node_spec(number, zone_of(number)), token: "t".into() };
        for command in [found, token].into_iter().chain((2..=nodes).map(admit)) {
            self.index += 1;
            let entry = Entry { at: WallTime(self.now.0), by: String::new(), if_index: None, command };
            let outcome = state.apply(LogIndex(self.index), entry);
            assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
        }
        self.committed = Arc::new(state);
        for number in 1..=nodes {
            let mut host = Host::new(NodeId(number), self.committed.clone(), self.now, &mut self.rng);
            host.leader = Some((NodeId(1), self.now));
            self.hosts.insert(NodeId(number), host);
        }
        self.lead(NodeId(1), 1);
        self.say(&format!("{nodes} nodes"));
    }

    pub fn say(&mut self, line: &str) {
        self.lines.push(format!("{:>9.3} {line}", Duration::from_millis(self.now.0).as_secs_f64()));
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) -> Result<(), Found> {
        let end = self.now + time;
        while self.now < end {
            self.step()?;
        }
        Ok(())
    }

    pub fn step(&mut self) -> Result<(), Found> {
        self.now = self.now + self.stride;
        self.end_processes();
        self.lose_mail();
        self.decide_late()?;
        self.part()?;
        let nodes: Vec<NodeId> = self.hosts.keys().copied().collect();
        for node in nodes {
            self.thaw(node);
            if !self.hosts[&node].is_on() {
                continue;
            }
            let past = self.is_past(node);
            if past {
                self.change_places();
            }
            let turn = self.turn(node);
            if past {
                self.change_places();
            }
            turn?;
        }
        self.check_acting()
    }

    fn turn(&mut self, node: NodeId) -> Result<(), Found> {
        // Before anything newer is heard: so does who stood still.
        self.read_mail(node);
        self.gossip(node);
        self.follow(node);
        self.elect(node)?;
        self.ask(node);
        self.plead(node);
        let (now, bug) = (self.now, self.bug);
        let host = self.hosts.get_mut(&node).expect("a host");
        host.converge(now, &mut self.rng, bug);
        self.pass(node)
    }

    fn thaw(&mut self, node: NodeId) {
        let now = self.now;
        let host = self.hosts.get_mut(&node).expect("a host");
        if let Power::Frozen(until) = host.power
            && until <= now
        {
            host.power = Power::On;
            host.stood_since = None;
            self.say(&format!("{node} thaws"));
        }
    }

    /// Whether a message gets from one node to the other now.
    fn arrives(&mut self, from: NodeId, to: NodeId) -> bool {
        self.is_linked(from, to) && !self.is_lost(from, to)
    }

    /// Whether one hears the other as a member of its own foundation.
    fn is_linked(&self, from: NodeId, to: NodeId) -> bool {
        self.is_wired(from, to) && self.is_past(from) == self.is_past(to)
    }

    /// Whether the way is open. Who has not heard yet that somebody was given up answers it.
    pub(super) fn is_wired(&self, from: NodeId, to: NodeId) -> bool {
        !self.cuts.contains(&(from, to)) && self.hosts[&from].is_on() && self.hosts[&to].is_on()
    }

    fn is_lost(&mut self, from: NodeId, to: NodeId) -> bool {
        let lost = self.loss.get(&from).copied().unwrap_or(0.0).max(self.loss.get(&to).copied().unwrap_or(0.0));
        lost > 0.0 && self.rng.random_bool(lost)
    }

    fn gossip(&mut self, node: NodeId) {
        let host = self.hosts.get_mut(&node).expect("a host");
        if host.next_gossip > self.now {
            return;
        }
        host.next_gossip = self.now + GOSSIP;
        host.beat += 1;
        let others: Vec<NodeId> = self.hosts.keys().copied().filter(|other| *other != node).collect();
        if others.is_empty() {
            return;
        }
        for _ in 0..GOSSIP_WITH {
            let other = others[self.rng.random_range(0..others.len())];
            if self.arrives(node, other) {
                self.carry(node, other);
                if self.arrives(other, node) {
                    self.carry(other, node);
                }
            }
        }
    }

    /// What one node knows of all counters reaches the other.
    fn carry(&mut self, from: NodeId, to: NodeId) {
        let teller = &self.hosts[&from];
        let mut beats: Vec<(NodeId, Beat)> = teller.beats.iter().map(|(node, (beat, _))| (*node, *beat)).collect();
        beats.push((from, Beat(teller.incarnation, teller.beat)));
        let now = self.now;
        let hearer = self.hosts.get_mut(&to).expect("a host");
        beats.into_iter().filter(|(node, _)| *node != to).for_each(|(node, beat)| hearer.hears(node, beat, now));
    }

    /// Copies a newer state from whoever has one.
    fn follow(&mut self, node: NodeId) {
        let others: Vec<NodeId> = self.hosts.keys().copied().filter(|other| *other != node).collect();
        if others.is_empty() || self.behind.contains(&node) {
            return;
        }
        let other = others[self.rng.random_range(0..others.len())];
        if self.hosts[&other].state.applied > self.hosts[&node].state.applied && self.arrives(other, node) {
            let state = self.hosts[&other].state.clone();
            self.hosts.get_mut(&node).expect("a host").state = state;
        }
    }

    /// Heartbeats of leaders, and elections where they are missed.
    fn elect(&mut self, node: NodeId) -> Result<(), Found> {
        if self.hosts[&node].book.is_some() {
            self.reign(node);
            return Ok(());
        }
        let host = &self.hosts[&node];
        let waited = host.leader.is_none_or(|(_, heard)| self.now.since(heard) >= host.patience);
        if !waited || !self.raft.contains(&node) {
            return Ok(());
        }
        // Pre-Vote: nobody who hears a leader takes part.
        let lonely =
            |host: &Host| host.leader.is_none_or(|(_, heard)| self.now.since(heard) >= Duration::from_millis(800));
        let votes = |other: &&NodeId| {
            **other == node
                || (self.is_linked(node, **other) && self.is_linked(**other, node) && lonely(&self.hosts[*other]))
        };
        let voters: Vec<NodeId> = self.raft.iter().filter(votes).copied().collect();
        if voters.len() * 2 <= self.raft.len() {
            return Ok(());
        }
        let newest = voters.iter().map(|other| self.hosts[other].state.clone()).max_by_key(|state| state.applied);
        let term = voters.iter().map(|other| self.hosts[other].term).max().unwrap_or(0);
        let term = if self.bug == Bug::SameTerm { term } else { term + 1 };
        let host = self.hosts.get_mut(&node).expect("a host");
        host.state = newest.expect("a majority has a state");
        for voter in &voters {
            self.hosts.get_mut(voter).expect("a host").term = term;
        }
        self.lead(node, term);
        self.checks.elected(self.committed.cluster.tag.epoch, term, node)
    }

    pub(super) fn lead(&mut self, node: NodeId, term: u64) {
        let (now, outdated) = (self.now, self.long_ago());
        let host = self.hosts.get_mut(&node).expect("a host");
        host.term = term;
        host.restored = false;
        host.outdated = outdated;
        host.book = Some(Book::new(term, host.clock(now)));
        host.leader = Some((node, now));
        self.quorum_seen.insert(node, now);
        self.say(&format!("{node} leads term {term}"));
    }

    fn reign(&mut self, node: NodeId) {
        let (now, term) = (self.now, self.hosts[&node].term);
        let others: Vec<NodeId> = self.hosts.keys().copied().filter(|other| *other != node).collect();
        let mut deposed = false;
        for other in others {
            if self.is_linked(node, other) {
                let host = self.hosts.get_mut(&other).expect("a host");
                if host.term <= term {
                    host.term = term;
                    host.leader = Some((node, now));
                    host.book = None;
                }
            }
            deposed |= self.is_linked(other, node) && self.hosts[&other].term > term;
        }
        if self.has_quorum(node) {
            self.quorum_seen.insert(node, now);
        }
        deposed |= now.since(self.quorum_seen[&node]) >= QUORUM_LOST;
        let host = self.hosts.get_mut(&node).expect("a host");
        host.leader = Some((node, now));
        if deposed {
            // It waits as long as any voter before it stands again: `leader` keeps when it last knew one.
            host.book = None;
            self.say(&format!("{node} leads no more"));
        }
    }

    /// Who votes.
    pub fn voters(&self) -> &BTreeSet<NodeId> {
        &self.raft
    }

    pub(super) fn has_quorum(&self, node: NodeId) -> bool {
        let term = self.hosts[&node].term;
        let with = |group: &BTreeSet<NodeId>| {
            let follows = |other: &&NodeId| {
                **other == node
                    || (self.is_linked(node, **other)
                        && self.is_linked(**other, node)
                        && self.hosts[*other].term <= term)
            };
            group.iter().filter(follows).count() * 2 > group.len()
        };
        with(&self.raft)
    }

    fn ask(&mut self, node: NodeId) {
        if self.hosts[&node].next_ask > self.now {
            return;
        }
        let (now, unheard) = (self.now, self.unheard(node));
        let host = self.hosts.get_mut(&node).expect("a host");
        host.next_ask = now + ASK_EVERY;
        let Some((leader, _)) = host.leader else { return };
        let asked = Asked {
            incarnation: host.incarnation,
            last_grant: if host.last_grant.0 == leader { host.last_grant.1 } else { 0 },
            unheard,
            report: Some(host.report.clone()),
            released: Generation(0),
        };
        self.send_question(node, leader, asked);
    }

    pub(super) fn arrives_by_call(&mut self, from: NodeId, to: NodeId) -> bool {
        (0..3).any(|_| self.is_wired(from, to) && !self.is_lost(from, to))
    }

    /// Whom a node does not hear.
    fn unheard(&self, node: NodeId) -> BTreeSet<NodeId> {
        let mut unheard = self.hosts[&node].unheard(self.now);
        if self.bug == Bug::Jumpy {
            unheard.extend(self.loss.keys().filter(|lossy| **lossy != node));
        }
        unheard
    }

    /// One look of a leader at everything.
    fn pass(&mut self, node: NodeId) -> Result<(), Found> {
        let now = self.now;
        if self.hosts[&node].book.is_none() || self.hosts[&node].next_pass > now {
            return Ok(());
        }
        let (raft, unheard) = (self.raft_facts(node), self.unheard(node));
        let host = self.hosts.get_mut(&node).expect("a host");
        host.next_pass = now + PASS;
        let clock = host.clock(now);
        let says = |other: &NodeId| if unheard.contains(other) { Liveness::Suspect } else { Liveness::Alive };
        let beats = host.beats.iter().map(|(other, (beat, _))| (*other, (says(other), beat.0)));
        let heard = beats.chain([(node, (Liveness::Alive, host.incarnation))]).collect();
        let state = host.state.clone();
        let around = Surroundings { me: node, state: &state, heard: &heard, unheard: &unheard, raft };
        let Some(book) = &mut host.book else { return Ok(()) };
        let mut view = book.view(&around, clock);
        self.spoil_view(&mut view);
        let new = self.decide(&view);
        self.checks.planned(&view, &new, |view| self.decide(view))?;
        let difference = change(&view.plan, &new);
        if !difference.is_empty() {
            let events = planner::narrate(&view, &new);
            let lines: Vec<String> = events.iter().map(|event| format!("    {}", event.message)).collect();
            let (base, spec_index) = (view.plan.generation, view.spec_index);
            if self.propose(node, Command::Adopt { base, spec_index, change: difference, events })? {
                self.say(&format!("{node} adopts plan {}", self.committed.plan.generation));
                lines.iter().for_each(|line| self.say(line));
            }
        } else {
            let over = planner::long::over(&view);
            if !over.is_empty() {
                let words = format!("{node} takes long grants off the record: {over:?}");
                if self.propose(node, Command::EndLongGrants { over })? {
                    self.say(&words);
                }
            }
        }
        self.change_voters(node);
        Ok(())
    }

    fn raft_facts(&self, leader: NodeId) -> BTreeMap<NodeId, RaftFacts> {
        let state = &self.hosts[&leader].state;
        let facts = |node: &NodeId| {
            if self.raft.contains(node) {
                RaftFacts::Voter
            } else if state.plan.spares.contains(node) || state.plan.voters.contains(node) {
                RaftFacts::Learner { caught_up: self.hosts[node].state.applied.0 + 5 >= state.applied.0 }
            } else {
                RaftFacts::Absent
            }
        };
        self.hosts.keys().map(|node| (*node, facts(node))).collect()
    }

    /// One step of Raft towards the voters of the plan: it needs a majority of the old and of the new ones.
    fn change_voters(&mut self, leader: NodeId) {
        let wanted = self.hosts[&leader].state.plan.voters.clone();
        if wanted == self.raft || wanted.is_empty() || !self.has_quorum(leader) {
            return;
        }
        let follows = |node: &&NodeId| {
            **node == leader
                || (self.is_linked(leader, **node)
                    && self.is_linked(**node, leader)
                    && self.hosts[*node].state.applied == self.committed.applied)
        };
        if wanted.iter().filter(follows).count() * 2 > wanted.len() {
            self.raft = wanted;
        }
    }

    /// Hands leadership to another voter. The one who had it learns of it as it learns of every later leader.
    pub fn hand_over(&mut self) -> Result<(), Found> {
        let Some(leader) = self.leader().filter(|leader| self.has_quorum(*leader)) else { return Ok(()) };
        let up_to_date = |node: &&NodeId| {
            **node != leader
                && self.is_linked(leader, **node)
                && self.is_linked(**node, leader)
                && self.hosts[*node].state.applied == self.hosts[&leader].state.applied
        };
        let Some(next) = self.raft.iter().find(up_to_date).copied() else { return Ok(()) };
        let term = self.hosts[&leader].term + 1;
        let votes = |node: &&NodeId| **node == next || (self.is_linked(next, **node) && self.is_linked(**node, next));
        let voters: Vec<NodeId> = self.raft.iter().filter(votes).copied().collect();
        if voters.len() * 2 <= self.raft.len() || voters.iter().any(|voter| self.hosts[voter].term >= term) {
            return Ok(());
        }
        for voter in voters.into_iter().filter(|voter| *voter != leader) {
            self.hosts.get_mut(&voter).expect("a host").term = term;
        }
        self.lead(next, term);
        self.checks.elected(self.committed.cluster.tag.epoch, term, next)
    }

    /// Proposes on a leader. True when it was committed and carried out.
    pub(super) fn commit(&mut self, leader: NodeId, command: Command) -> Result<bool, Found> {
        if !self.has_quorum(leader) || self.hosts[&leader].state.applied != self.committed.applied {
            return Ok(false);
        }
        if self.rng.random_ratio(1, LOST_PROPOSALS) && !self.undisturbed {
            self.say("a proposal is lost");
            return Ok(false);
        }
        let before = self.committed.clone();
        let mut state = (*before).clone();
        self.index += 1;
        let entry = Entry { at: WallTime(self.now.0), by: String::new(), if_index: None, command };
        let outcome = state.apply(LogIndex(self.index), entry);
        if self.bug == Bug::GenerationSkips && state.plan.generation > Generation(5) {
            state.plan.generation = state.plan.generation.next();
        }
        self.committed = Arc::new(state);
        self.remember();
        let followers: Vec<NodeId> = self.raft.iter().copied().collect();
        for node in followers.into_iter().chain([leader]) {
            if node == leader || (self.is_linked(leader, node) && !self.behind.contains(&node)) {
                self.hosts.get_mut(&node).expect("a host").state = self.committed.clone();
            }
        }
        self.checks.committed(self.now, &before, &self.committed)?;
        Ok(!matches!(outcome, Outcome::Refused(_)))
    }

    /// An operator's command, asked again until a leader takes it.
    pub fn operate(&mut self, command: &Command) -> Result<(), Found> {
        self.say(&format!("operator: {}", brief(command)));
        for _ in 0..400 {
            let leader = self.leader();
            if let Some(leader) = leader
                && self.commit(leader, command.clone())?
            {
                return Ok(());
            }
            self.step()?;
        }
        self.say("operator: gave up");
        Ok(())
    }

    /// Who leads the highest term.
    pub fn leader(&self) -> Option<NodeId> {
        let in_place = self.past.as_ref().is_some_and(|past| past.in_place);
        let leads = |host: &&Host| host.is_on() && host.book.is_some() && self.is_past(host.id) == in_place;
        self.hosts.values().filter(leads).max_by_key(|host| host.term).map(|host| host.id)
    }

    pub fn has_lead(&self) -> bool {
        self.leader().is_some_and(|leader| self.has_quorum(leader))
    }
}

fn brief(command: &Command) -> String {
    let text = format!("{command:?}");
    text.chars().take(100).collect()
}

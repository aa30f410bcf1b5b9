//! A small cluster for tests: nodes that are heard or silent, instances that become healthy, a control state that adopts plans.
//!
//! It knows nothing of networks; it plays the facts that a leader would have. Time passes in ticks, and nothing is left to chance.

#![allow(dead_code, reason = "each test uses its own part of the town")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hirsel_model::control::{ClusterInfo, Command, ControlState, Entry, Outcome, TokenGrants, TokenRecord};
use hirsel_model::grant::grantable;
use hirsel_model::grant::long::LONG;
use hirsel_model::plan::{Phase, Plan};
use hirsel_model::planner::{self, change::change};
use hirsel_model::report::{
    AddressFacts, Bound, InstanceFacts, InstanceState, NodeReport, RoleFacts, RoleReport, RoleState,
};
use hirsel_model::spec::{Availability, Capacity, Network, NodeSpec};
use hirsel_model::view::{KnownLong, Liveness, NodeFacts, RaftFacts, View};
use hirsel_model::*;

/// Between two looks of the leader.
pub const TICK: Duration = Duration::from_millis(250);
/// Gossip needs this long to miss a silent node.
const MISSED_AFTER: Duration = Duration::from_millis(1_500);
const LEASE: Duration = Duration::from_secs(2);
const ELECTION: Duration = Duration::from_millis(1_250);
const HEALTHY_AFTER: Duration = Duration::from_secs(1);
const CAUGHT_UP_AFTER: Duration = Duration::from_secs(1);

/// One host of the town.
#[derive(Clone, Debug)]
pub struct House {
    pub alive: bool,
    since: Timestamp,
    follows: Generation,
    runs: BTreeMap<InstanceId, Timestamp>,
    learner_since: Option<Timestamp>,
    report: Option<Arc<NodeReport>>,
    incarnation: Incarnation,
    /// Its agent was stopped on purpose: another one comes back.
    stopped: bool,
    /// Of its interface eth0.
    pub has: BTreeSet<Network>,
}

/// The cluster, its control state, and what its leader measured.
pub struct Town {
    pub now: Timestamp,
    pub state: ControlState,
    pub leader: NodeId,
    pub houses: BTreeMap<NodeId, House>,
    /// Revisions of an application that never become healthy.
    pub sick: BTreeSet<(AppName, Revision)>,
    /// Load balancers keep requests for whatever drains.
    pub busy: bool,
    leading_since: Timestamp,
    raft: BTreeSet<NodeId>,
    steady: BTreeMap<NodeId, (bool, Timestamp)>,
    draining: BTreeMap<InstanceId, Timestamp>,
    unhealthy: BTreeMap<InstanceId, Timestamp>,
    losses: Vec<(Timestamp, NodeId)>,
    granted: BTreeMap<InstanceId, Timestamp>,
    refused: BTreeMap<InstanceId, Timestamp>,
    long: BTreeMap<(InstanceId, LogIndex), Timestamp>,
    index: u64,
}

/// A node as tests describe one.
pub fn node(name: &str, number: u64, zone: &str) -> NodeSpec {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&number.to_le_bytes());
    NodeSpec {
        name: name.parse().unwrap(),
        addr: ([10, 0, u8::try_from(number / 250).unwrap(), u8::try_from(number % 250).unwrap() + 1], 7400).into(),
        zone: zone.parse().unwrap(),
        site: "here".parse().unwrap(),
        labels: BTreeMap::new(),
        key,
        incarnation: Incarnation(1),
        availability: Availability::Open,
        capacity: Capacity { cpu_millis: 4_000, memory_bytes: 8 << 30 },
        built: [RoleName::lb(), RoleName::compute(), RoleName::mgmt()].into(),
        version: "1".into(),
    }
}

impl Town {
    pub fn found(first: NodeSpec) -> Self {
        let mut town = Self {
            now: Timestamp(0),
            state: ControlState::default(),
            leader: NodeId(1),
            houses: BTreeMap::new(),
            sick: BTreeSet::new(),
            busy: false,
            leading_since: Timestamp(0),
            raft: [NodeId(1)].into(),
            steady: BTreeMap::new(),
            draining: BTreeMap::new(),
            unhealthy: BTreeMap::new(),
            losses: Vec::new(),
            granted: BTreeMap::new(),
            refused: BTreeMap::new(),
            long: BTreeMap::new(),
            index: 0,
        };
        let cluster = ClusterInfo { id: ClusterId("town".into()), ..ClusterInfo::default() };
        assert!(town.command(Command::Found { cluster, node: first }).is_ok());
        let record = TokenRecord {
            secret_hash: vec![0; 32],
            grants: TokenGrants::Join,
            expires_at: WallTime(u64::MAX),
            uses_left: None,
            revoked: false,
        };
        assert!(town.command(Command::NewToken { id: "t".into(), record }).is_ok());
        town.settle_in();
        town
    }

    pub fn join(&mut self, spec: NodeSpec) -> Result<Outcome, String> {
        let outcome = self.command(Command::Admit { node: spec, token: "t".into() });
        self.settle_in();
        outcome
    }

    fn settle_in(&mut self) {
        for node in self.state.spec.nodes.keys() {
            self.houses.entry(*node).or_insert_with(|| House {
                alive: true,
                since: self.now,
                follows: Generation(0),
                runs: BTreeMap::new(),
                learner_since: None,
                report: None,
                incarnation: Incarnation(1),
                stopped: false,
                has: [Network { address: self.state.spec.nodes[node].addr.ip(), prefix: 24 }].into(),
            });
        }
        self.houses.retain(|node, _| self.state.spec.nodes.contains_key(node));
    }

    pub fn command(&mut self, command: Command) -> Result<Outcome, String> {
        self.index += 1;
        let entry = Entry { at: WallTime(self.now.0), by: String::new(), if_index: None, command };
        let outcome = self.state.apply(LogIndex(self.index), entry);
        self.settle_in();
        match outcome {
            Outcome::Refused(refusal) => Err(refusal.to_string()),
            done => Ok(done),
        }
    }

    pub fn set_alive(&mut self, node: NodeId, alive: bool) {
        let now = self.now;
        let house = self.houses.get_mut(&node).unwrap();
        if house.alive != alive {
            house.alive = alive;
            house.since = now;
            if std::mem::take(&mut house.stopped) {
                house.incarnation = house.incarnation.next();
            }
        }
    }

    /// Stops the agent of a node on purpose: what it holds exclusively gets a long grant.
    pub fn stop_agent(&mut self, node: NodeId) -> Result<(), String> {
        let (incarnation, length_ms) = (self.houses[&node].incarnation, LONG.as_millis() as u64);
        self.command(Command::LongGrant { node, incarnation, length_ms })?;
        self.set_alive(node, false);
        self.houses.get_mut(&node).unwrap().stopped = true;
        Ok(())
    }

    fn long(&self) -> BTreeMap<InstanceId, KnownLong> {
        let known = self.state.long.iter().map(|(id, grant)| {
            let since = self.long.get(&(id.clone(), grant.since)).copied().unwrap_or(self.now);
            (id.clone(), KnownLong { grant: grant.clone(), known_for: self.now.since(since) })
        });
        known.collect()
    }

    /// What the leader sees now.
    pub fn view(&self) -> View {
        let observers: BTreeSet<NodeId> =
            self.houses.iter().filter(|(_, house)| house.alive).map(|(node, _)| *node).collect();
        let facts = |node: &NodeId, house: &House| {
            let silent = self.now.since(house.since);
            let missed = !house.alive && silent >= MISSED_AFTER;
            let raft = if self.raft.contains(node) {
                RaftFacts::Voter
            } else {
                house.learner_since.map_or(RaftFacts::Absent, |since| RaftFacts::Learner {
                    caught_up: house.alive && self.now.since(since) >= CAUGHT_UP_AFTER,
                })
            };
            NodeFacts {
                liveness: if missed { Liveness::Suspect } else { Liveness::Alive },
                leased: house.alive || silent < LEASE,
                unheard_by: if missed { observers.clone() } else { BTreeSet::new() },
                steady_for: self.steady.get(node).map_or(Duration::ZERO, |(_, since)| self.now.since(*since)),
                incarnation: house.incarnation,
                released: Generation(0),
                raft,
                report: house.report.clone(),
            }
        };
        let since = |times: &BTreeMap<InstanceId, Timestamp>| {
            times.iter().map(|(id, since)| (id.clone(), self.now.since(*since))).collect()
        };
        View {
            now: self.now,
            leading_since: self.leading_since,
            leader: self.leader,
            level: self.state.cluster.feature_level,
            spec: Arc::new(self.state.spec.clone()),
            spec_index: self.state.spec_index,
            plan: Arc::new(self.state.plan.clone()),
            former: Arc::new(self.state.former.clone()),
            nodes: self.houses.iter().map(|(node, house)| (*node, facts(node, house))).collect(),
            draining_for: since(&self.draining),
            unhealthy_for: since(&self.unhealthy),
            granted: since(&self.granted),
            long: self.long(),
            refused_for: since(&self.refused),
            losses: self.losses.clone(),
        }
    }

    /// One look of the leader: measures, plans, adopts, and lets nodes and Raft follow. True when a plan was adopted.
    pub fn tick(&mut self) -> bool {
        self.now = self.now + TICK;
        self.elect();
        self.follow();
        self.measure();
        if !self.houses[&self.leader].alive || !self.has_quorum() {
            return false;
        }
        let view = self.view();
        let new = planner::plan(&view);
        let difference = change(&view.plan, &new);
        if difference.is_empty() {
            let over = planner::long::over(&view);
            if !over.is_empty() {
                self.command(Command::EndLongGrants { over }).unwrap();
            }
            return false;
        }
        let fallen = new.verdicts.keys().filter(|node| !view.plan.verdicts.contains_key(node));
        self.losses.extend(fallen.map(|node| (self.now, *node)));
        let events = planner::narrate(&view, &new);
        let (base, spec_index) = (view.plan.generation, view.spec_index);
        self.command(Command::Adopt { base, spec_index, change: difference, events }).unwrap();
        assert_eq!(
            self.state.plan,
            Plan { spec_index: view.spec_index, ..new },
            "what was adopted is what was planned"
        );
        true
    }

    fn has_quorum(&self) -> bool {
        self.raft.iter().filter(|node| self.houses.get(node).is_some_and(|h| h.alive)).count() * 2 > self.raft.len()
    }

    fn elect(&mut self) {
        let gone = self.houses.get(&self.leader).is_none_or(|h| !h.alive && self.now.since(h.since) >= ELECTION);
        if !gone || !self.has_quorum() {
            return;
        }
        let next = self.raft.iter().find(|node| self.houses.get(node).is_some_and(|house| house.alive));
        self.leader = *next.unwrap();
        self.leading_since = self.now;
        self.losses.clear();
        self.granted.clear();
        self.refused.clear();
        self.long.clear();
        for times in [&mut self.draining, &mut self.unhealthy] {
            times.values_mut().for_each(|since| *since = self.now);
        }
        self.steady.values_mut().for_each(|(_, since)| *since = self.now);
    }

    /// Nodes do what the plan of the tick before said, and Raft changes its members.
    fn follow(&mut self) {
        let plan = self.state.plan.clone();
        let compute = RoleName::compute();
        let leads = self.houses[&self.leader].alive && self.has_quorum();
        for (node, house) in self.houses.iter_mut().filter(|(_, house)| house.alive) {
            let mine = plan.instances.iter().filter(|(_, assigned)| assigned.node == *node);
            let mine: BTreeMap<&InstanceId, Revision> = mine.map(|(id, assigned)| (id, assigned.revision)).collect();
            house.runs.retain(|id, _| mine.contains_key(id));
            for id in mine.keys() {
                house.runs.entry((*id).clone()).or_insert(self.now);
            }
            let facts = house.runs.iter().map(|(id, since)| {
                let sick = self.sick.contains(&(id.app.clone(), mine[id]));
                let healthy = !sick && self.now.since(*since) >= HEALTHY_AFTER;
                let state = if healthy { InstanceState::Running } else { InstanceState::Starting };
                (
                    id.clone(),
                    InstanceFacts {
                        state,
                        healthy,
                        revision: mine[id],
                        bound: Bound::Grant,
                        ..InstanceFacts::default()
                    },
                )
            });
            let draining = plan.instances.iter().filter(|(_, a)| self.busy && a.phase == Phase::Draining);
            let busy = draining.map(|(id, _)| (id.clone(), 1)).collect();
            let facts = RoleFacts::Compute(facts.collect());
            let (state, generation) = (RoleState::Running, plan.generation);
            let mut roles = BTreeMap::from([(
                compute.clone(),
                RoleReport { state, generation, message: None, facts, ..RoleReport::default() },
            )]);
            if plan.roles.get(&RoleName::lb()).is_some_and(|slots| slots.values().any(|slot| slot.node == *node)) {
                roles.insert(
                    RoleName::lb(),
                    RoleReport {
                        state,
                        generation,
                        message: None,
                        facts: RoleFacts::Lb(busy),
                        ..RoleReport::default()
                    },
                );
            }
            let mut wanted = self.state.spec.addresses.keys().peekable();
            if wanted.peek().is_some() {
                let held = wanted.filter(|address| {
                    plan.addresses.get(*address).is_some_and(|list| list.candidates[0].node == *node)
                });
                let facts = AddressFacts {
                    interfaces: [("eth0".to_owned(), house.has.clone())].into(),
                    held: held.copied().collect(),
                    ..AddressFacts::default()
                };
                let facts = RoleFacts::Address(facts);
                roles.insert(
                    RoleName::address(),
                    RoleReport { state, generation, message: None, facts, ..RoleReport::default() },
                );
            }
            if leads {
                let asked = grantable(&self.state, *node).into_iter().map(|id| (id, self.now));
                self.granted.extend(asked);
            }
            house.follows = plan.generation;
            let (incarnation, load) = (house.incarnation, 0);
            house.report = Some(Arc::new(NodeReport {
                version: 0,
                incarnation,
                generation,
                roles,
                load,
                level: self.state.cluster.feature_level,
            }));
            let learns = plan.spares.contains(node) || (plan.voters.contains(node) && !self.raft.contains(node));
            house.learner_since = learns.then_some(house.learner_since.unwrap_or(self.now));
        }
        if self.has_quorum() && !plan.voters.is_empty() {
            self.raft = plan.voters.clone();
        }
    }

    fn measure(&mut self) {
        for (id, grant) in &self.state.long {
            self.long.entry((id.clone(), grant.since)).or_insert(self.now);
        }
        let plan = &self.state.plan;
        self.refused.retain(|id, _| plan.letting_go.contains_key(id));
        for (id, letting) in &plan.letting_go {
            let bound = plan.candidates.get(id).map(|listed| listed.bound()).unwrap_or_default();
            let refuses = |node| self.houses.get(node).is_some_and(|house| house.follows >= letting.since);
            if bound.iter().any(refuses) {
                self.refused.entry(id.clone()).or_insert(self.now);
            }
        }
        let view = self.view();
        for (node, reachable) in view.reachable() {
            let known = self.steady.entry(node).or_insert((reachable, self.now));
            if known.0 != reachable {
                *known = (reachable, self.now);
            }
        }
        let (mut draining, mut unhealthy) = (BTreeSet::new(), BTreeSet::new());
        for (id, assigned) in &self.state.plan.instances {
            if assigned.phase == Phase::Draining {
                draining.insert(id.clone());
            }
            let report = self.houses.get(&assigned.node).and_then(|house| house.report.as_ref());
            let facts = report.and_then(|report| report.roles.get(&RoleName::compute())).map(|role| &role.facts);
            let healthy = matches!(facts, Some(RoleFacts::Compute(all)) if all.get(id).is_some_and(|f| f.healthy));
            if !healthy {
                unhealthy.insert(id.clone());
            }
        }
        for (times, ids) in [(&mut self.draining, draining), (&mut self.unhealthy, unhealthy)] {
            times.retain(|id, _| ids.contains(id));
            for id in ids {
                times.entry(id).or_insert(self.now);
            }
        }
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.tick();
        }
    }

    /// The node called `name`.
    pub fn id(&self, name: &str) -> NodeId {
        self.state.spec.node_named(name).unwrap_or_else(|| panic!("no node {name}")).0
    }
}

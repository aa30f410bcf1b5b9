//! What will be decided if nothing else happens: the planner is asked again and again, with everything that it starts taken as in good
//! order and everything that is gone taken as gone for good, until it changes nothing any more.
//!
//! The same function decides later, so the forecast holds as long as the world does not change. It plays what the leader does
//! between two plans too: Raft follows the planned voters, a leader that is gone is succeeded by a voter, and a node that leaves is
//! removed when it holds nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::feature;
use crate::grant::GRANT_OVER;
use crate::id::*;
use crate::plan::{Phase, Plan};
use crate::planner;
use crate::report::{InstanceFacts, InstanceState, NodeReport, RoleFacts, RoleReport, RoleState};
use crate::spec::{Availability, Former, NodeSpec, Spec};
use crate::time::Timestamp;
use crate::view::{Liveness, NodeFacts, RaftFacts, View};

/// Time that passes per step: longer than every time the planner waits for in a healthy cluster (the longest hold-down), and shorter than
/// the one after which it forgets that a node flapped, because what is decided next is decided by a planner that remembers.
const STEP: Duration = Duration::from_secs(1_200);

/// Where a forecast begins.
#[derive(Clone, Debug)]
pub struct Start {
    /// What is wanted.
    pub spec: Spec,
    /// The last change of it.
    pub spec_index: LogIndex,
    /// The plan in force.
    pub plan: Plan,
    /// What services can go back to.
    pub former: Arc<Former>,
    /// Nodes that are not heard, and will not be.
    pub gone: BTreeSet<NodeId>,
    /// Who votes now.
    pub voters: BTreeSet<NodeId>,
    /// Who leads.
    pub leader: NodeId,
    /// The feature level of the cluster.
    pub level: u32,
}

/// A forecast under way: what is planned so far, and the world as it would be then.
#[derive(Clone, Debug)]
pub struct Ahead {
    view: View,
    gone: BTreeSet<NodeId>,
    voters: BTreeSet<NodeId>,
}

impl Ahead {
    /// A forecast from `start` on.
    pub fn new(start: Start) -> Self {
        let view = View {
            now: Timestamp(0) + STEP,
            leading_since: Timestamp(0),
            leader: start.leader,
            level: start.level,
            spec: Arc::new(start.spec),
            spec_index: start.spec_index,
            plan: Arc::new(start.plan),
            former: start.former,
            nodes: BTreeMap::new(),
            draining_for: BTreeMap::new(),
            unhealthy_for: BTreeMap::new(),
            granted: BTreeMap::new(),
            long: BTreeMap::new(),
            refused_for: BTreeMap::new(),
            losses: Vec::new(),
        };
        let mut forecast = Self { view, gone: start.gone, voters: start.voters };
        forecast.look();
        forecast
    }

    /// What the planner looks at now.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The plan as far as it is known.
    pub fn plan(&self) -> &Plan {
        &self.view.plan
    }

    /// What is wanted by then: nodes that left are not in it.
    pub fn spec(&self) -> &Spec {
        &self.view.spec
    }

    /// How many voters live, and how many are needed to decide anything.
    pub fn quorum(&self) -> (usize, usize) {
        let live = self.voters.iter().filter(|voter| self.lives(**voter)).count();
        (live, self.voters.len() / 2 + 1)
    }

    /// How many vote.
    pub fn voter_count(&self) -> usize {
        self.voters.len()
    }

    /// Plans once more. False when that changes nothing, and nothing will.
    pub fn step(&mut self) -> bool {
        let (live, needed) = self.quorum();
        if live < needed && !self.voters.is_empty() {
            // Nobody can decide anything: everything stays as it is.
            return false;
        }
        let next = planner::plan(&self.view);
        let rests = planner::change::change(&self.view.plan, &next).is_empty();
        if rests && !self.remove_left() {
            return false;
        }
        if !rests {
            if !next.voters.is_empty() {
                self.voters.clone_from(&next.voters);
            }
            let lost = |node: &&NodeId| !self.view.plan.verdicts.contains_key(node);
            let fallen: Vec<NodeId> = next.verdicts.keys().filter(lost).copied().collect();
            self.view.losses.extend(fallen.into_iter().map(|node| (self.view.now, node)));
            self.view.plan = Arc::new(next);
            // Adopted: what was to be moved once has been looked at.
            if self.view.spec.roles.values().any(|role| !role.moves.is_empty()) {
                let roles = &mut Arc::make_mut(&mut self.view.spec).roles;
                roles.values_mut().for_each(|role| role.moves.clear());
            }
        }
        self.view.now = self.view.now + STEP;
        self.look();
        true
    }

    fn lives(&self, node: NodeId) -> bool {
        self.view.spec.nodes.contains_key(&node) && !self.gone.contains(&node)
    }

    /// Removes a node that wants to leave and holds nothing any more, as the leader does.
    fn remove_left(&mut self) -> bool {
        let plan = &self.view.plan;
        let holds = |node: &NodeId| {
            plan.voters.contains(node)
                || plan.spares.contains(node)
                || plan.roles.values().any(|slots| slots.values().any(|slot| slot.node == *node))
                || plan.instances.values().any(|instance| instance.node == *node)
        };
        let nodes = &self.view.spec.nodes;
        let mut leaving = nodes.iter().filter(|(_, spec)| spec.availability == Availability::Leaving);
        let Some(left) = leaving.find(|(node, _)| !holds(node)).map(|(node, _)| *node) else { return false };
        if nodes.len() == 1 {
            return false;
        }
        let spec = Arc::make_mut(&mut self.view.spec);
        spec.nodes.remove(&left);
        spec.roles.values_mut().for_each(|role| {
            role.pins.remove(&left);
        });
        self.view.spec_index = self.view.spec_index.next();
        true
    }

    /// Sees every node as it will be, with everything that the plan puts on it in good order.
    fn look(&mut self) {
        if !self.lives(self.view.leader) || !self.voters.contains(&self.view.leader) {
            let next = self.voters.iter().find(|voter| self.lives(**voter));
            self.view.leader = next.copied().unwrap_or(self.view.leader);
        }
        let plan = self.view.plan.clone();
        let draining = plan.instances.iter().filter(|(_, assignment)| assignment.phase == Phase::Draining);
        self.view.draining_for = draining.map(|(id, _)| (id.clone(), STEP)).collect();
        self.view.refused_for = plan.letting_go.keys().map(|id| (id.clone(), GRANT_OVER)).collect();
        let all = self.view.spec.nodes.iter();
        self.view.nodes = all.map(|(id, spec)| (*id, self.facts(*id, spec))).collect();
    }

    fn facts(&self, id: NodeId, spec: &NodeSpec) -> NodeFacts {
        let (plan, alive) = (&self.view.plan, self.lives(id));
        let others = || self.view.spec.nodes.keys().copied().filter(|other| *other != id).collect();
        let raft = match () {
            () if self.voters.contains(&id) => RaftFacts::Voter,
            () if plan.spares.contains(&id) => RaftFacts::Learner { caught_up: alive },
            () => RaftFacts::Absent,
        };
        NodeFacts {
            liveness: if alive { Liveness::Alive } else { Liveness::Suspect },
            leased: alive,
            unheard_by: if alive { BTreeSet::new() } else { others() },
            steady_for: STEP,
            incarnation: spec.incarnation,
            released: plan.generation,
            raft,
            report: alive.then(|| Arc::new(report(plan, id, spec))),
        }
    }
}

/// What a node says on which everything is in good order.
fn report(plan: &Plan, node: NodeId, spec: &NodeSpec) -> NodeReport {
    let mine = plan.instances.iter().filter(|(_, assignment)| assignment.node == node);
    let healthy = |revision| InstanceFacts {
        state: InstanceState::Running,
        healthy: true,
        port: 1,
        revision,
        ..InstanceFacts::default()
    };
    let instances: BTreeMap<InstanceId, InstanceFacts> =
        mine.map(|(id, assignment)| (id.clone(), healthy(assignment.revision))).collect();
    let role = |role: &RoleName| {
        let facts = if *role == RoleName::compute() {
            RoleFacts::Compute(instances.clone())
        } else if *role == RoleName::lb() {
            RoleFacts::Lb(BTreeMap::new())
        } else {
            // What nodes store is not forecast yet: without facts the table stays as it is.
            RoleFacts::None
        };
        RoleReport {
            state: RoleState::Running,
            generation: plan.generation,
            message: None,
            facts,
            ..RoleReport::default()
        }
    };
    NodeReport {
        version: 1,
        incarnation: spec.incarnation,
        generation: plan.generation,
        roles: spec.built.iter().map(|name| (name.clone(), role(name))).collect(),
        load: 0,
        level: feature::BUILT,
    }
}

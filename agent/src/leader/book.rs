//! What the leader knows of the nodes: soft, measured on its own clock, begun anew with each term.
//!
//! The book only takes notes and shows them as a [`View`]; what they mean is decided by the planner. It is told the time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hirsel_mesh::gossip::Heard;
use hirsel_model::control::ControlState;
use hirsel_model::plan::Phase;
use hirsel_model::report::{NodeReport, RoleFacts};
use hirsel_model::view::{Liveness, NodeFacts, RaftFacts, View};
use hirsel_model::{Generation, Incarnation, InstanceId, NodeId, RoleName, Timestamp};

use crate::lease::{Answer, Ask};

/// How long a lease lasts. A constant of the feature level: every agent counts with the same.
pub const LEASE: Duration = Duration::from_secs(2);
/// A leader that has not looked for so long was frozen or starved: what it remembers is too old to judge by, as after an election.
const LOOKED_AWAY: Duration = Duration::from_millis(1_500);
/// Losses older than this matter to no decision.
const LOSSES_KEPT: Duration = Duration::from_secs(120);

/// Notes of one term.
#[derive(Debug)]
pub struct Book {
    /// The term the notes belong to.
    pub term: u64,
    since: Timestamp,
    looked_at: Timestamp,
    nodes: BTreeMap<NodeId, Page>,
    draining: BTreeMap<InstanceId, Timestamp>,
    unhealthy: BTreeMap<InstanceId, Timestamp>,
    losses: Vec<(Timestamp, NodeId)>,
    judged: BTreeMap<NodeId, Generation>,
}

/// Notes on one node.
#[derive(Debug, Default)]
struct Page {
    /// When it last asked with a fresh acknowledgement.
    acknowledged_at: Option<Timestamp>,
    /// Grants sent to it.
    grants: u64,
    /// The last grant it named.
    named: u64,
    incarnation: Incarnation,
    unheard: BTreeSet<NodeId>,
    report: Option<Arc<NodeReport>>,
    released: Generation,
    reachable: Option<(bool, Timestamp)>,
}

/// What the book does not measure itself.
pub struct Surroundings<'a> {
    /// The leader's node.
    pub me: NodeId,
    /// The control state.
    pub state: &'a Arc<ControlState>,
    /// What gossip says here.
    pub heard: &'a BTreeMap<NodeId, Heard>,
    /// What this node itself does not hear.
    pub unheard: &'a BTreeSet<NodeId>,
    /// Places in the control group.
    pub raft: BTreeMap<NodeId, RaftFacts>,
}

impl Book {
    /// An empty book for `term`, begun at `now`.
    pub fn new(term: u64, now: Timestamp) -> Self {
        Self {
            term,
            since: now,
            looked_at: now,
            nodes: BTreeMap::new(),
            draining: BTreeMap::new(),
            unhealthy: BTreeMap::new(),
            losses: Vec::new(),
            judged: BTreeMap::new(),
        }
    }

    /// Takes down a question and answers it. Tells whether something changed that a plan may depend on.
    pub fn asked(&mut self, node: NodeId, ask: Ask, now: Timestamp) -> (Answer, bool) {
        let page = self.nodes.entry(node).or_default();
        let again = page.incarnation == ask.incarnation;
        // An answer that never arrives is silence, though the questions do arrive: a cut in one direction.
        let acknowledged = !again || page.acknowledged_at.is_none() || ask.last_grant > page.named;
        if acknowledged {
            page.acknowledged_at = Some(now);
        }
        page.named = if again { page.named.max(ask.last_grant) } else { ask.last_grant };
        page.grants += 1;
        page.released = ask.released;
        let mut changed = !again || page.unheard != ask.unheard;
        page.incarnation = ask.incarnation;
        page.unheard = ask.unheard;
        if let Some(report) = ask.report {
            changed = true;
            page.report = Some(Arc::new(report));
        }
        let report_version = page.report.as_ref().map_or(0, |report| report.version);
        (Answer { term: self.term, grant: page.grants, report_version }, changed)
    }

    /// Reports of all nodes.
    pub fn reports(&self) -> BTreeMap<NodeId, Arc<NodeReport>> {
        self.nodes.iter().filter_map(|(id, page)| Some((*id, page.report.clone()?))).collect()
    }

    /// Everything known at `now`.
    pub fn view(&mut self, around: &Surroundings<'_>, now: Timestamp) -> View {
        let state = around.state;
        if now.since(self.looked_at) > LOOKED_AWAY {
            self.since = now;
            self.nodes.values_mut().for_each(|page| page.reachable = None);
        }
        self.looked_at = now;
        let known: BTreeSet<NodeId> = state.spec.nodes.keys().copied().collect();
        self.nodes.retain(|id, _| known.contains(id));
        let leased = |page: &Page| page.acknowledged_at.is_some_and(|at| now.since(at) < LEASE);
        let mut observers: BTreeMap<NodeId, BTreeSet<NodeId>> = self
            .nodes
            .iter()
            .filter(|(id, page)| **id != around.me && leased(page))
            .map(|(id, page)| (*id, page.unheard.clone()))
            .collect();
        observers.insert(around.me, around.unheard.clone());
        let mut nodes = BTreeMap::new();
        for id in &known {
            let page = self.nodes.entry(*id).or_default();
            let others = observers.iter().filter(|(observer, _)| *observer != id);
            let unheard_by: BTreeSet<NodeId> =
                others.clone().filter(|(_, unheard)| unheard.contains(id)).map(|(observer, _)| *observer).collect();
            let reachable = *id == around.me || unheard_by.len() * 2 < others.count().max(1);
            let since = match page.reachable {
                Some((before, since)) if before == reachable => since,
                _ => now,
            };
            page.reachable = Some((reachable, since));
            let heard = around.heard.get(id);
            let alive = *id == around.me || heard.is_some_and(|heard| heard.liveness == Liveness::Alive);
            nodes.insert(
                *id,
                NodeFacts {
                    liveness: if alive { Liveness::Alive } else { Liveness::Suspect },
                    leased: leased(page),
                    unheard_by,
                    steady_for: now.since(since),
                    incarnation: page.incarnation.max(heard.map_or(Incarnation(0), |heard| heard.incarnation)),
                    released: page.released,
                    raft: around.raft.get(id).copied().unwrap_or_default(),
                    report: page.report.clone(),
                },
            );
        }
        self.note_instances(state, now);
        self.note_verdicts(state, now);
        View {
            now,
            leading_since: self.since,
            leader: around.me,
            spec: Arc::new(state.spec.clone()),
            spec_index: state.spec_index,
            plan: Arc::new(state.plan.clone()),
            nodes,
            draining_for: ages(&self.draining, now),
            unhealthy_for: ages(&self.unhealthy, now),
            granted: BTreeMap::new(),
            losses: self.losses.clone(),
        }
    }

    fn note_instances(&mut self, state: &ControlState, now: Timestamp) {
        let instances = &state.plan.instances;
        self.draining.retain(|id, _| instances.get(id).is_some_and(|it| it.phase == Phase::Draining));
        self.unhealthy.retain(|id, _| instances.contains_key(id));
        for (id, assignment) in instances {
            if assignment.phase == Phase::Draining {
                self.draining.entry(id.clone()).or_insert(now);
            }
            let report = self.nodes.get(&assignment.node).and_then(|page| page.report.as_ref());
            let healthy = match report.and_then(|report| report.roles.get(&RoleName::compute())).map(|role| &role.facts)
            {
                Some(RoleFacts::Compute(facts)) => facts.get(id).is_some_and(|facts| facts.healthy),
                _ => false,
            };
            if healthy {
                self.unhealthy.remove(id);
            } else {
                self.unhealthy.entry(id.clone()).or_insert(now);
            }
        }
    }

    fn note_verdicts(&mut self, state: &ControlState, now: Timestamp) {
        for (id, verdict) in &state.plan.verdicts {
            if self.judged.insert(*id, verdict.since) != Some(verdict.since) {
                self.losses.push((now, *id));
            }
        }
        self.judged.retain(|id, _| state.plan.verdicts.contains_key(id));
        self.losses.retain(|(at, _)| now.since(*at) < LOSSES_KEPT);
    }
}

fn ages(since: &BTreeMap<InstanceId, Timestamp>, now: Timestamp) -> BTreeMap<InstanceId, Duration> {
    since.iter().map(|(id, at)| (id.clone(), now.since(*at))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(grant: u64) -> Ask {
        Ask { incarnation: Incarnation(1), last_grant: grant, ..Ask::default() }
    }

    fn leased(book: &mut Book, node: NodeId, now: u64) -> bool {
        let mut state = ControlState::default();
        for id in [1, 2] {
            state.spec.nodes.insert(NodeId(id), crate::testing::node_spec(id));
        }
        let (heard, unheard) = (BTreeMap::new(), BTreeSet::new());
        let around = Surroundings {
            me: NodeId(1),
            state: &Arc::new(state),
            heard: &heard,
            unheard: &unheard,
            raft: BTreeMap::new(),
        };
        book.view(&around, Timestamp(now)).nodes[&node].leased
    }

    #[test]
    fn who_asks_and_acknowledges_has_a_lease() {
        let mut book = Book::new(1, Timestamp(0));
        for (now, grant) in [(0, 0), (400, 1), (800, 2), (1200, 3)] {
            let (answer, _) = book.asked(NodeId(2), ask(grant), Timestamp(now));
            assert_eq!(answer.grant, grant + 1);
        }
        assert!(leased(&mut book, NodeId(2), 1_600));
        assert!(!leased(&mut book, NodeId(2), 3_200));
    }

    #[test]
    fn a_leader_that_was_frozen_begins_anew_to_measure() {
        let state = Arc::new(ControlState::default());
        let (heard, unheard) = (BTreeMap::new(), BTreeSet::new());
        let around =
            Surroundings { me: NodeId(1), state: &state, heard: &heard, unheard: &unheard, raft: BTreeMap::new() };
        let mut book = Book::new(1, Timestamp(0));
        assert_eq!(book.view(&around, Timestamp(250)).leading_since, Timestamp(0));
        assert_eq!(book.view(&around, Timestamp(500)).leading_since, Timestamp(0));
        assert_eq!(book.view(&around, Timestamp(9_000)).leading_since, Timestamp(9_000));
    }

    #[test]
    fn questions_whose_answers_never_arrive_are_silence() {
        let mut book = Book::new(1, Timestamp(0));
        for now in (0..4_000).step_by(400) {
            book.asked(NodeId(2), ask(1), Timestamp(now));
        }
        assert!(!leased(&mut book, NodeId(2), 4_000));
    }
}

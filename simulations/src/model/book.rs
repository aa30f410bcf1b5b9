//! What a leader notes while it leads, and the view it makes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hirsel_model::control::ControlState;
use hirsel_model::plan::Phase;
use hirsel_model::report::{NodeReport, RoleFacts};
use hirsel_model::view::{Liveness, NodeFacts, RaftFacts, View};
use hirsel_model::*;

/// How long a lease lasts.
const LEASE: Duration = Duration::from_secs(2);

/// Notes of one term.
pub(super) struct Book {
    pub since: Timestamp,
    pages: BTreeMap<NodeId, Page>,
    draining: BTreeMap<InstanceId, Timestamp>,
    unhealthy: BTreeMap<InstanceId, Timestamp>,
    losses: Vec<(Timestamp, NodeId)>,
}

#[derive(Default)]
struct Page {
    acknowledged_at: Option<Timestamp>,
    grants: u64,
    named: u64,
    incarnation: Incarnation,
    unheard: BTreeSet<NodeId>,
    report: Option<Arc<NodeReport>>,
    reachable: Option<(bool, Timestamp)>,
}

/// A question for a lease.
pub(super) struct Ask {
    pub incarnation: Incarnation,
    pub last_grant: u64,
    pub unheard: BTreeSet<NodeId>,
    pub report: Arc<NodeReport>,
}

/// What the book does not note itself.
pub(super) struct Around<'a> {
    pub me: NodeId,
    pub state: &'a ControlState,
    pub unheard: &'a BTreeSet<NodeId>,
    pub incarnations: BTreeMap<NodeId, Incarnation>,
    pub raft: BTreeMap<NodeId, RaftFacts>,
}

impl Book {
    pub fn new(now: Timestamp) -> Self {
        Self {
            since: now,
            pages: BTreeMap::new(),
            draining: BTreeMap::new(),
            unhealthy: BTreeMap::new(),
            losses: Vec::new(),
        }
    }

    /// Notes a question and gives the number of the grant that answers it.
    pub fn asked(&mut self, node: NodeId, ask: Ask, now: Timestamp) -> u64 {
        let page = self.pages.entry(node).or_default();
        let again = page.incarnation == ask.incarnation;
        if !again || page.acknowledged_at.is_none() || ask.last_grant > page.named {
            page.acknowledged_at = Some(now);
        }
        page.named = if again { page.named.max(ask.last_grant) } else { ask.last_grant };
        page.grants += 1;
        page.incarnation = ask.incarnation;
        page.unheard = ask.unheard;
        page.report = Some(ask.report);
        page.grants
    }

    pub fn lost(&mut self, node: NodeId, now: Timestamp) {
        self.losses.push((now, node));
    }

    pub fn view(&mut self, around: &Around, now: Timestamp) -> View {
        let state = around.state;
        self.note_instances(state, now);
        let leased = |page: &Page| page.acknowledged_at.is_some_and(|at| now.since(at) < LEASE);
        let mut words: BTreeMap<NodeId, &BTreeSet<NodeId>> =
            self.pages.iter().filter(|(_, page)| leased(page)).map(|(node, page)| (*node, &page.unheard)).collect();
        words.insert(around.me, around.unheard);
        let mut nodes = BTreeMap::new();
        for node in state.spec.nodes.keys() {
            let page = self.pages.get(node);
            let says = words.iter().filter(|(other, unheard)| *other != node && unheard.contains(node));
            let facts = NodeFacts {
                liveness: if around.unheard.contains(node) { Liveness::Suspect } else { Liveness::Alive },
                leased: page.is_some_and(leased),
                unheard_by: says.map(|(other, _)| *other).collect(),
                steady_for: Duration::ZERO,
                incarnation: around.incarnations.get(node).copied().unwrap_or_default(),
                released: Generation(0),
                raft: around.raft.get(node).copied().unwrap_or_default(),
                report: page.and_then(|page| page.report.clone()),
            };
            nodes.insert(*node, facts);
        }
        let ages = |times: &BTreeMap<InstanceId, Timestamp>| {
            times.iter().map(|(id, at)| (id.clone(), now.since(*at))).collect::<BTreeMap<_, _>>()
        };
        let mut view = View {
            now,
            leading_since: self.since,
            leader: around.me,
            spec: Arc::new(state.spec.clone()),
            spec_index: state.spec_index,
            plan: Arc::new(state.plan.clone()),
            nodes,
            draining_for: ages(&self.draining),
            unhealthy_for: ages(&self.unhealthy),
            granted: BTreeMap::new(),
            losses: self.losses.clone(),
        };
        for (node, reachable) in view.reachable() {
            let page = self.pages.entry(node).or_default();
            let since = match page.reachable {
                Some((before, since)) if before == reachable => since,
                Some(_) | None => now,
            };
            page.reachable = Some((reachable, since));
            if let Some(facts) = view.nodes.get_mut(&node) {
                facts.steady_for = now.since(since);
            }
        }
        view
    }

    fn note_instances(&mut self, state: &ControlState, now: Timestamp) {
        let instances = &state.plan.instances;
        self.draining.retain(|id, _| instances.contains_key(id));
        self.unhealthy.retain(|id, _| instances.contains_key(id));
        let compute = RoleName::compute();
        for (id, assigned) in instances {
            if assigned.phase == Phase::Draining {
                self.draining.entry(id.clone()).or_insert(now);
            }
            let report = self.pages.get(&assigned.node).and_then(|page| page.report.as_ref());
            let facts = report.and_then(|report| report.roles.get(&compute)).map(|role| &role.facts);
            if matches!(facts, Some(RoleFacts::Compute(all)) if all.get(id).is_some_and(|facts| facts.healthy)) {
                self.unhealthy.remove(id);
            } else {
                self.unhealthy.entry(id.clone()).or_insert(now);
            }
        }
    }
}

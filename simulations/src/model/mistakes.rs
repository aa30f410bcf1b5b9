//! Mistakes planted into what is decided and remembered: each is one guard of the design taken out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hirsel_model::control::ControlState;
use hirsel_model::grant::{Grant, Holdings, NoPromise, grantable, granted_to};
use hirsel_model::plan::{Plan, Verdict, VerdictKind};
use hirsel_model::planner;
use hirsel_model::report::{Bound, NodeReport, RoleFacts, RoleReport};
use hirsel_model::view::View;
use hirsel_model::*;

use super::Bug;
use super::host::Host;
use super::world::World;

/// A new leader with [`Bug::Inherits`] grants by what was true so long ago.
const LONG_AGO: Duration = Duration::from_secs(10);

impl World {
    /// Takes down what was decided, where a mistake needs it later.
    pub(super) fn remember(&mut self) {
        if matches!(self.bug, Bug::Inherits | Bug::ObeysOldPlan | Bug::PromisesDropped) {
            self.annals.push((self.now, self.committed.clone()));
        }
    }

    /// What a new leader goes by that has not applied all that was decided before it was elected.
    pub(super) fn long_ago(&self) -> Option<Arc<ControlState>> {
        let known = self.annals.iter().rfind(|(at, _)| *at + LONG_AGO <= self.now);
        known.filter(|_| self.bug == Bug::Inherits).map(|(_, state)| state.clone())
    }

    /// What a leader grants by.
    pub(super) fn grants_by(&self, leader: NodeId) -> Arc<ControlState> {
        let host = &self.hosts[&leader];
        host.outdated.as_ref().filter(|_| self.bug == Bug::Inherits).unwrap_or(&host.state).clone()
    }

    /// The plan that a grant was given by, where it is older than the one that the node follows.
    pub(super) fn outdated_plan(&self, node: NodeId, grant: &Grant) -> Option<Arc<ControlState>> {
        let is_older = grant.generation < self.hosts[&node].state.plan.generation;
        let granted_by = |state: &ControlState| is_older && state.plan.generation == grant.generation;
        self.annals.iter().rfind(|(_, state)| granted_by(state)).map(|(_, state)| state.clone())
    }

    /// What a node promises by.
    pub(super) fn promises_by(&self, node: NodeId, holder: NodeId, id: &InstanceId) -> Arc<ControlState> {
        let listed = self.annals.iter().rfind(|(_, state)| granted_to(state, holder, id));
        let listed = listed.filter(|_| self.bug == Bug::PromisesDropped).map(|(_, state)| state);
        listed.unwrap_or(&self.hosts[&node].state).clone()
    }

    /// What a node remembers over a start of its agent, with a mistake planted.
    pub(super) fn start_over(&mut self, node: NodeId) {
        let host = self.hosts.get_mut(&node).expect("a host");
        if self.bug == Bug::PromiseForgotten {
            host.holdings = Holdings::default();
        }
        let term = host.term;
        if self.bug == Bug::Restored && host.led == Some(term) {
            self.lead(node, term);
            self.hosts.get_mut(&node).expect("a host").restored = true;
        }
    }

    /// The plan that a leader makes of what it sees.
    pub(super) fn decide(&self, view: &View) -> Plan {
        let mut plan = planner::plan(view);
        match self.bug {
            Bug::Restless => {
                plan.next_instance += 1;
                plan.generation = view.plan.generation.next();
            }
            Bug::OnLostNode => {
                if let (Some(lost), Some(first)) = (plan.verdicts.keys().next(), plan.instances.values_mut().next()) {
                    first.node = *lost;
                    plan.generation = view.plan.generation.next();
                }
            }
            Bug::JudgesAlone => {
                let alone = |node: &NodeId| view.nodes[node].unheard_by.contains(&view.leader);
                let judged = plan.verdicts.clone();
                for node in view.nodes.keys().filter(|node| alone(node) && !judged.contains_key(node)) {
                    let (kind, since) = (VerdictKind::Unfit, view.plan.generation.next());
                    let verdict = Verdict { kind, incarnation: Incarnation(1), since, evidence: String::new() };
                    plan.verdicts.insert(*node, verdict);
                    plan.generation = since;
                }
            }
            _ => {}
        }
        plan
    }

    /// What a leader takes down wrong.
    pub(super) fn spoil_view(&self, view: &mut View) {
        if self.bug == Bug::NoHoldDown || self.bug == Bug::Jumpy {
            view.nodes.values_mut().for_each(|facts| facts.steady_for = Duration::from_secs(3_600));
        }
        match self.bug {
            Bug::NoWait => view.leading_since = Timestamp(0),
            Bug::Restored if self.hosts[&view.leader].restored => view.leading_since = Timestamp(0),
            Bug::PromisesUnknown => {
                let letting_go = view.plan.letting_go.keys();
                view.refused_for = letting_go.map(|id| (id.clone(), Duration::from_secs(3_600))).collect();
            }
            Bug::GrantsForgotten => view.granted.clear(),
            Bug::NewestAlone => {
                let letting_go = &mut Arc::make_mut(&mut view.plan).letting_go;
                let newest = letting_go.keys().map(|id| id.number).max();
                letting_go.retain(|id, _| Some(id.number) == newest);
            }
            Bug::LongUnknown => {
                // Those that are as old as its term were given before it.
                let led = view.now.since(view.leading_since);
                view.long.retain(|_, long| long.known_for + Duration::from_secs(1) < led);
            }
            Bug::LongSameStart => {
                let asked_by = view.long.values_mut().filter_map(|long| long.grant.asked_by.as_mut());
                asked_by.for_each(|start| start.0 -= 1);
            }
            Bug::LongUntold => {
                for report in view.nodes.values_mut().filter_map(|facts| facts.report.as_mut()) {
                    take_for_told(Arc::make_mut(report));
                }
            }
            Bug::ListUnacknowledged => {
                let listed = Arc::make_mut(&mut view.plan).candidates.values_mut();
                listed.for_each(|listed| listed.before = None);
            }
            Bug::SilenceConfirms => {
                for letting in view.plan.letting_go.values() {
                    let Some(facts) = view.nodes.get_mut(&letting.node).filter(|facts| !facts.leased) else { continue };
                    let silent = RoleReport { generation: letting.since, ..RoleReport::default() };
                    let silent = RoleReport { facts: RoleFacts::Compute(BTreeMap::new()), ..silent };
                    let roles = BTreeMap::from([(RoleName::compute(), silent)]);
                    facts.report = Some(Arc::new(NodeReport { roles, ..NodeReport::default() }));
                }
            }
            _ => {}
        }
    }
}

impl Host {
    /// What a holder takes its lists of candidates from.
    pub(super) fn lists(&self, bug: Bug) -> Arc<ControlState> {
        let mut state = self.state.clone();
        if bug == Bug::OldList {
            Arc::make_mut(&mut state).plan.generation = Generation(u64::MAX);
        }
        state
    }

    /// When a holder that shows this time asks for promises, and counts them.
    pub(super) fn pleads_at(&self, bug: Bug, clock: Timestamp) -> Timestamp {
        let mine = grantable(&self.state, self.id);
        // As if it were the last moment at which something could be prolonged.
        let ends = mine.iter().filter_map(|id| self.holdings.until(id, Timestamp(0))).min();
        let last = ends.filter(|_| bug == Bug::PromiseRevives).map(|ends| Timestamp(ends.0.saturating_sub(1)));
        last.map_or(clock, |last| last.min(clock))
    }
}

/// As if guard and shim of all that runs kept the end of an ordinary grant.
fn take_for_told(report: &mut NodeReport) {
    let facts = report.roles.values_mut().filter_map(|role| match &mut role.facts {
        RoleFacts::Compute(all) => Some(all.values_mut()),
        RoleFacts::None | RoleFacts::Lb(_) | RoleFacts::Address(_) | RoleFacts::Storage(_) | RoleFacts::Unknown => None,
    });
    facts.flatten().for_each(|facts| facts.bound = Bound::Grant);
}

/// What a node answers that takes itself for one that has been there for long.
pub(super) fn as_ever(bug: Bug, answer: Result<(), NoPromise>) -> Result<(), NoPromise> {
    answer.or_else(|refusal| match (bug, refusal) {
        (Bug::PromisesAtOnce, NoPromise::JustStarted) => Ok(()),
        _ => Err(refusal),
    })
}

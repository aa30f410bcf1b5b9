//! What the world sees of its nodes, and what it asks of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hirsel_model::control::ControlState;
use hirsel_model::plan::Phase;
use hirsel_model::report::{RoleFacts, RoleState};
use hirsel_model::{AppName, InstanceId, NodeId, RoleName, ServiceName};

use super::{Trouble, World};
use crate::causes;
use crate::check::{Actor, Rule, undeclared};
use crate::node::Node;

/// A node may still be judged for what was wrong with it so long ago.
const BLAMED_FOR: Duration = Duration::from_secs(15);

impl World {
    pub(super) fn observe(&self) {
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
    pub(super) fn look_around(&self) {
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

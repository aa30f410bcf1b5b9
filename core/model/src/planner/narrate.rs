//! Puts a new plan into words for the log: what happened, then what was decided because of it.
//!
//! Reads only the view and the two plans, so that the words can't differ from what was decided. Everything that follows from a node
//! names that node as its cause; nodes lost together with their zone name the zone, so that the whole is one incident.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::addresses;
use super::change::{PlanChange, change};
use super::exclusive::{self, LetGo};
use super::ground::Ground;
use super::place::Board;
use crate::event::{Cause, EventKind, NewEvent, REJECTED_MAX, Rejected};
use crate::id::*;
use crate::plan::{Assignment, Because, InstanceAssignment, Phase, Plan, Reason, VerdictKind};
use crate::spec::{Availability, Capacity, StopSpec};
use crate::view::View;

/// Most decisions about instances told one by one. A whole cluster that starts at once would fill the log with itself.
const TOLD_MAX: usize = 500;

/// The events that go into the log with the plan `new`.
pub fn narrate(view: &View, new: &Plan) -> Vec<NewEvent> {
    let change = change(&view.plan, new);
    if change.is_empty() {
        return Vec::new();
    }
    let mut tale = Tale { view, new, ground: Ground::new(view, new), events: Vec::new() };
    tale.losses();
    tale.returns();
    tale.brake(&change);
    tale.voters(&change);
    tale.roles(&change);
    tale.addresses(&change);
    tale.storage(&change);
    tale.reverts();
    tale.let_go(&change);
    tale.instances(&change);
    tale.unmet(&change);
    tale.events
}

struct Tale<'a> {
    view: &'a View,
    new: &'a Plan,
    ground: Ground<'a>,
    events: Vec<NewEvent>,
}

impl Tale<'_> {
    fn name(&self, node: NodeId) -> String {
        self.view.spec.name_of(node)
    }

    fn happened(&mut self, subject: String, message: String, cause: Cause) {
        self.events.push(NewEvent { kind: EventKind::Happened, subject, message, cause, rejected: Vec::new() });
    }

    fn decided(&mut self, subject: String, message: String, cause: Cause, rejected: Vec<Rejected>) {
        self.events.push(NewEvent { kind: EventKind::Decided, subject, message, cause, rejected });
    }

    /// Nodes that were not under a verdict before.
    fn fallen(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.new.verdicts.keys().copied().filter(|node| !self.view.plan.verdicts.contains_key(node))
    }

    fn losses(&mut self) {
        let fallen: BTreeSet<NodeId> = self.fallen().collect();
        let mut told = BTreeSet::new();
        for zone in 0..self.ground.zones.len() {
            let rows: Vec<_> = self.ground.zones[zone].iter().map(|row| &self.ground.rows[*row]).collect();
            let whole = rows.len() > 1 && self.ground.zones.len() > 1 && rows.iter().all(|row| row.lost);
            let nodes: Vec<NodeId> = rows.iter().map(|row| row.id).collect();
            let Some(first) = nodes.iter().find(|node| fallen.contains(node)).filter(|_| whole) else { continue };
            let name = rows[0].spec.zone.clone();
            let all: Vec<String> = nodes.iter().map(|node| self.name(*node)).collect();
            let message = format!("zone {name} is lost ({}): {}", all.join(", "), self.new.verdicts[first].evidence);
            self.happened(format!("zone/{name}"), message, Cause::None);
            for node in nodes.into_iter().filter(|node| fallen.contains(node)) {
                let (node_name, kind) = (self.name(node), words(self.new.verdicts[&node].kind));
                let message = format!("{node_name} is {kind}: lost with zone {name}");
                self.happened(node_name, message, Cause::Subject(format!("zone/{name}")));
                told.insert(node);
            }
        }
        for (node, verdict) in &self.new.verdicts {
            let before = self.view.plan.verdicts.get(node).map(|before| before.kind);
            if told.contains(node) || before == Some(verdict.kind) {
                continue;
            }
            let name = self.name(*node);
            let message = format!("{name} is {}: {}", words(verdict.kind), verdict.evidence);
            // A node that gets worse goes on with its own incident.
            let cause = if before.is_some() { Cause::Subject(name.clone()) } else { Cause::None };
            self.happened(name, message, cause);
        }
    }

    fn returns(&mut self) {
        for node in self.view.plan.verdicts.keys() {
            if !self.new.verdicts.contains_key(node) && self.view.spec.nodes.contains_key(node) {
                let name = self.name(*node);
                let message = format!("{name} is back: most observers hear it steadily");
                self.happened(name, message, Cause::None);
            }
        }
    }

    fn brake(&mut self, change: &PlanChange) {
        let Some(on) = change.brake else { return };
        let cause = self.fallen().next().map_or(Cause::None, |node| Cause::Subject(self.name(node)));
        let message = if on {
            "more than half of the nodes fell at once: nothing is moved for balance until half of them are back"
        } else {
            "enough nodes are back: balancing again"
        };
        self.decided("brake".into(), message.into(), cause, Vec::new());
    }

    /// That data begins to move, and that all of it is where it should be; not each of hundreds of partitions.
    fn storage(&mut self, change: &PlanChange) {
        let Some(storage) = &change.storage else { return };
        self.foundation();
        let moving = |plan: &Plan| plan.storage.partitions.values().filter(|it| !it.next.is_empty()).count();
        let starts = storage.partitions.values().flatten().filter(|it| !it.next.is_empty()).count();
        if self.view.plan.storage.partitions.is_empty() && !self.new.storage.partitions.is_empty() {
            let nodes = self.new.storage.nodes().len();
            self.decided("storage".into(), format!("objects are kept on {nodes} nodes"), Cause::None, Vec::new());
        } else if starts > 0 && moving(&self.view.plan) == 0 {
            let cause = self.fallen().next().map_or(Cause::None, |node| Cause::Subject(self.name(node)));
            let message = format!("{starts} partitions of the storage move to other nodes");
            self.decided("storage".into(), message, cause, Vec::new());
        } else if moving(self.new) == 0 && moving(&self.view.plan) > 0 {
            let message = "all partitions of the storage are where they should be".into();
            self.happened("storage".into(), message, Cause::None);
        }
    }

    /// That the metadata of objects go on without those who were lost, and what that may cost.
    fn foundation(&mut self) {
        let [before, now] = [&self.view.plan, self.new].map(|plan| plan.storage.foundation.clone());
        let Some(now) = now.filter(|now| before.as_ref() != Some(now)) else { return };
        let name = self.name(now.from);
        let message = match now.stands {
            true => {
                format!("the metadata of objects go on with what {name} had, as the foundation with tag {}", now.tag)
            }
            false => format!(
                "the metadata of objects lost their majority for good: they are founded anew on {name} with tag {} (before: {}); may be \
                 lost: {}",
                now.tag,
                now.after,
                now.may_be_lost()
            ),
        };
        self.happened("storage".into(), message, Cause::None);
    }

    fn voters(&mut self, change: &PlanChange) {
        let Some(voters) = &change.voters else { return };
        let names = |nodes: Vec<NodeId>| nodes.into_iter().map(|node| self.name(node)).collect::<Vec<_>>().join(", ");
        let joined: Vec<NodeId> = voters.difference(&self.view.plan.voters).copied().collect();
        let left: Vec<NodeId> = self.view.plan.voters.difference(voters).copied().collect();
        let mut message = format!("voters are {}", names(voters.iter().copied().collect()));
        if !joined.is_empty() && !self.view.plan.voters.is_empty() {
            message += &format!("; new: {}", names(joined.clone()));
        }
        if !left.is_empty() {
            message += &format!("; no more: {}", names(left.clone()));
        }
        let going = |node: &&NodeId| {
            let row = self.ground.row(**node).map(|row| &self.ground.rows[row]);
            row.is_none_or(|row| row.lost || row.spec.availability >= Availability::Draining)
        };
        let cause = left.iter().find(going).or(joined.first()).or(left.first());
        let cause = cause.map_or(Cause::None, |node| Cause::Subject(self.name(*node)));
        self.decided("voters".into(), message, cause, Vec::new());
    }

    fn roles(&mut self, change: &PlanChange) {
        for (role, slots) in &change.roles {
            let held = self.new.roles.get(role).into_iter().flat_map(BTreeMap::values);
            let holders: BTreeSet<NodeId> = held.map(|slot| slot.node).collect();
            for (slot, assignment) in slots {
                let subject = format!("role/{role}/{slot}");
                let before = self.view.plan.roles.get(role).and_then(|slots| slots.get(slot)).map(|slot| slot.node);
                match assignment {
                    Some(assignment) => {
                        let from = before.filter(|node| *node != assignment.node);
                        let from = from.map_or_else(String::new, |node| format!(" instead of {}", self.name(node)));
                        let on = self.name(assignment.node);
                        let message = format!("{role}/{slot} on {on}{from}: {}", assignment.reason.text);
                        let rejected = self.rejected_for_role(role, &holders, assignment);
                        let cause = self.cause(&assignment.reason, &format!("role/{role}"));
                        self.decided(subject, message, cause, rejected);
                    }
                    None => {
                        let Some(node) = before else { continue };
                        let (cause, why) = match self.ground.row(node).map(|row| &self.ground.rows[row]) {
                            Some(row) if row.lost => (self.name(node), "is lost"),
                            Some(row) if row.spec.availability >= Availability::Draining => {
                                (self.name(node), "gives away what it has")
                            }
                            Some(_) => (format!("role/{role}"), "is not needed for it any more"),
                            None => (self.name(node), "is no member any more"),
                        };
                        let message = format!("{role}/{slot} is given up: {} {why}", self.name(node));
                        self.decided(subject, message, Cause::Subject(cause), Vec::new());
                    }
                }
            }
        }
    }

    fn addresses(&mut self, change: &PlanChange) {
        for (address, list) in &change.addresses {
            let Some(list) = list else {
                let why = match self.view.spec.addresses.contains_key(address) {
                    true => "no node is fit for it any more",
                    false => "it is not wanted any more",
                };
                let message = format!("nobody is to hold {address}: {why}");
                self.decided(address.to_string(), message, Cause::Subject(address.to_string()), Vec::new());
                continue;
            };
            let message = format!("who is to hold {address}: {}", list.reason.text);
            let cause = self.cause(&list.reason, &address.to_string());
            let rejected = self.rejected_for_address(address);
            self.decided(address.to_string(), message, cause, rejected);
        }
    }

    fn rejected_for_address(&self, address: &std::net::IpAddr) -> Vec<Rejected> {
        let Some(wish) = self.view.spec.addresses.get(address) else { return Vec::new() };
        let reasons = self.ground.rows.iter().filter_map(|row| {
            let reason = addresses::objection(row, self.new, *address, wish)?;
            Some(Rejected { node: row.id, reason })
        });
        reasons.take(REJECTED_MAX).collect()
    }

    fn reverts(&mut self) {
        for (app, services) in &self.new.reverted {
            let before = self.view.plan.reverted.get(app);
            for (service, revision) in services {
                if before.and_then(|services| services.get(service)) != Some(revision) {
                    let message = format!("{app}/{service} goes back: revision {revision} did not become healthy");
                    self.decided(format!("{app}/{service}"), message, Cause::Subject(app.to_string()), Vec::new());
                }
            }
        }
    }

    fn let_go(&mut self, change: &PlanChange) {
        for (id, _) in change.letting_go.iter().filter(|(_, letting)| letting.is_none()) {
            let Some(letting) = self.view.plan.letting_go.get(id) else { continue };
            let node = self.name(letting.node);
            let message = match exclusive::how_it_let_go(self.view, id, letting) {
                None => continue,
                Some(LetGo::Confirmed) => format!("{id} has ended on {node}"),
                Some(LetGo::RanOut) => format!("{id} can act no more: every grant of {node} for it has run out"),
                Some(LetGo::Gone) => format!("{id} is taken for ended: {node} is no member any more"),
            };
            self.happened(id.to_string(), message, Cause::Subject(id.to_string()));
        }
    }

    fn instances(&mut self, change: &PlanChange) {
        let per_service = self.per_service();
        let board = self.board();
        let mut events = Vec::new();
        for (id, assigned) in change.instances.iter().take(TOLD_MAX) {
            let before = self.view.plan.instances.get(id);
            let (message, cause, rejected) = match (before, assigned) {
                (_, Some(assigned)) if assigned.phase == Phase::Draining => {
                    let message = format!("{id} on {} drains: {}", self.name(assigned.node), assigned.reason.text);
                    (message, self.cause(&assigned.reason, id.app.as_str()), Vec::new())
                }
                (_, Some(assigned)) => {
                    let message = format!("{id} on {}: {}", self.name(assigned.node), assigned.reason.text);
                    let cause = self.cause(&assigned.reason, id.app.as_str());
                    (message, cause, self.rejected_for_instance(&board, &per_service, id, assigned))
                }
                (Some(before), None) => self.ended(id, before),
                (None, None) => continue,
            };
            let (kind, subject) = (EventKind::Decided, id.to_string());
            events.push(NewEvent { kind, subject, message, cause, rejected });
        }
        self.events.append(&mut events);
        if let Some(more) = change.instances.len().checked_sub(TOLD_MAX).filter(|more| *more > 0) {
            let message = format!("{more} more decisions about instances, not told one by one");
            self.decided("plan".into(), message, Cause::None, Vec::new());
        }
    }

    fn ended(&self, id: &InstanceId, before: &InstanceAssignment) -> (String, Cause, Vec<Rejected>) {
        let node = self.name(before.node);
        let (message, cause) = match self.ground.row(before.node).map(|row| &self.ground.rows[row]) {
            Some(row) if row.lost => (format!("{id} is given up: {node} is lost"), node),
            Some(_) => {
                let why = if before.phase == Phase::Active {
                    "it served nobody"
                } else if self.view.draining_for.get(id).is_some_and(|time| *time >= self.drain_limit(id)) {
                    "its time to drain is up"
                } else {
                    "no requests are left"
                };
                (format!("{id} on {node} is stopped: {why}"), id.to_string())
            }
            None => (format!("{id} is given up: {node} is no member any more"), node),
        };
        // One that was never seen draining ended because its application did.
        let never = before.phase == Phase::Active && !self.new.verdicts.contains_key(&before.node);
        let cause = if never && self.ground.row(before.node).is_some() { id.app.to_string() } else { cause };
        (message, Cause::Subject(cause), Vec::new())
    }

    fn drain_limit(&self, id: &InstanceId) -> Duration {
        let service = self.view.spec.apps.get(&id.app).and_then(|app| app.services.get(&id.service));
        Duration::from_millis(service.map_or_else(|| StopSpec::default().drain_ms, |service| service.stop.drain_ms))
    }

    fn unmet(&mut self, change: &PlanChange) {
        let Some(unmet) = &change.unmet else { return };
        for wish in unmet.iter().filter(|wish| !self.view.plan.unmet.contains(wish)) {
            let cause = Cause::Subject(wish.subject.clone());
            self.decided(wish.subject.clone(), format!("not met: {}", wish.reason), cause, Vec::new());
        }
    }

    fn cause(&self, reason: &Reason, otherwise: &str) -> Cause {
        Cause::Subject(match &reason.because {
            Because::Lost { node } | Because::Drained { node } | Because::Joined { node } => self.name(*node),
            Because::Applied { app, .. } | Because::Updated { app, .. } | Because::Reverted { app, .. } => {
                app.to_string()
            }
            Because::Wanted | Because::Pinned | Because::Moved { .. } => otherwise.to_owned(),
        })
    }

    fn board(&self) -> Board<'_> {
        let mut board = Board::new(&self.ground, self.new);
        for (id, assigned) in &self.new.instances {
            let service = self.view.spec.apps.get(&id.app).and_then(|app| app.services.get(&id.service));
            let needs = service.map_or(Capacity::default(), |service| service.resources);
            if let Some(row) = self.ground.row(assigned.node) {
                board.add(row, needs);
            }
        }
        board
    }

    fn per_service(&self) -> BTreeMap<(&AppName, &ServiceName), BTreeSet<NodeId>> {
        let mut map: BTreeMap<_, BTreeSet<NodeId>> = BTreeMap::new();
        for (id, assigned) in &self.new.instances {
            map.entry((&id.app, &id.service)).or_default().insert(assigned.node);
        }
        map
    }

    fn rejected_for_role(&self, role: &RoleName, holders: &BTreeSet<NodeId>, chosen: &Assignment) -> Vec<Rejected> {
        let others = self.ground.rows.iter().enumerate().filter(|(_, row)| row.id != chosen.node);
        let reasons = others.map(|(at, row)| Rejected {
            node: row.id,
            reason: match self.unfit(at, role) {
                Some(reason) => reason,
                None if holders.contains(&row.id) => "holds a slot of it already".into(),
                None => "is not better placed".into(),
            },
        });
        reasons.take(REJECTED_MAX).collect()
    }

    fn rejected_for_instance(
        &self,
        board: &Board,
        per_service: &BTreeMap<(&AppName, &ServiceName), BTreeSet<NodeId>>,
        id: &InstanceId,
        chosen: &InstanceAssignment,
    ) -> Vec<Rejected> {
        let service = self.view.spec.apps.get(&id.app).and_then(|app| app.services.get(&id.service));
        let Some(service) = service else { return Vec::new() };
        let runs = per_service.get(&(&id.app, &id.service));
        let compute = RoleName::compute();
        let others = self.ground.rows.iter().enumerate().filter(|(_, row)| row.id != chosen.node);
        let reasons = others.map(|(at, row)| {
            let reason = if let Some(reason) = self.unfit(at, &compute).or_else(|| board.objection(at, service)) {
                reason
            } else if !board.takes(at) {
                "holds no slot of compute".into()
            } else if runs.is_some_and(|nodes| nodes.contains(&row.id)) {
                format!("runs {}/{} already", id.app, id.service)
            } else {
                "is not better placed".into()
            };
            Rejected { node: row.id, reason }
        });
        reasons.take(REJECTED_MAX).collect()
    }

    /// Why the node may be given nothing of `role`.
    fn unfit(&self, at: usize, role: &RoleName) -> Option<String> {
        let row = &self.ground.rows[at];
        Some(match (self.new.verdicts.get(&row.id), row.spec.availability) {
            (Some(verdict), _) => format!("is {}", words(verdict.kind)),
            (None, Availability::Cordoned) => "is cordoned".into(),
            (None, Availability::Draining) => "drains".into(),
            (None, Availability::Leaving) => "leaves".into(),
            (None, Availability::Open) if !row.spec.built.contains(role) => format!("lacks {role}"),
            (None, Availability::Open) if !row.open => "is not heard by most".into(),
            (None, Availability::Open) => return None,
        })
    }
}

fn words(kind: VerdictKind) -> &'static str {
    match kind {
        VerdictKind::Unfit => "unfit",
        VerdictKind::Down => "down",
    }
}

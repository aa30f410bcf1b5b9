//! What the leader adds to the log once decisions came true: a decision is done when its node reports so, and an incident is
//! verified when everything decided in it is done or was overtaken by a later decision.
//!
//! Computed from levels (log, plan, reports) each time, so that a new leader goes on where the last one stopped.

use std::collections::{BTreeMap, BTreeSet};

use crate::control::ControlState;
use crate::event::{Cause, Event, EventKind, NewEvent};
use crate::id::*;
use crate::report::{NodeReport, RoleFacts, RoleState};

/// How far back decisions are followed. What is older has been overtaken or will not come true any more.
const LOOK_BACK: usize = 512;

/// Events to add now; none when nothing came true since.
pub fn followup(state: &ControlState, reports: &BTreeMap<NodeId, &NodeReport>) -> Vec<NewEvent> {
    let skip = state.log.events.len().saturating_sub(LOOK_BACK);
    let recent = || state.log.iter().skip(skip);
    let caused: BTreeSet<(u64, bool)> =
        recent().filter_map(|event| Some((event.cause?, event.kind == EventKind::Verified))).collect();
    let done_before: BTreeSet<u64> =
        recent().filter(|event| event.kind == EventKind::Done).filter_map(|event| event.cause).collect();
    let mut new = Vec::new();
    let mut open: BTreeMap<u64, bool> = BTreeMap::new();
    for event in recent().filter(|event| event.kind == EventKind::Decided) {
        let fate = if done_before.contains(&event.index) { Fate::Done } else { fate(state, reports, event) };
        let settled = !matches!(fate, Fate::Open);
        if let Fate::Came(words) = fate {
            new.push(NewEvent {
                kind: EventKind::Done,
                subject: event.subject.clone(),
                message: words,
                cause: Cause::Index(event.index),
                rejected: Vec::new(),
            });
        }
        if let Some(incident) = event.incident {
            *open.entry(incident).or_insert(true) &= settled;
        }
    }
    new.extend(holders(state, reports));
    for (incident, settled) in open {
        let Some(first) = recent().find(|event| event.index == incident) else { continue };
        // Decisions after a verification (a late move of the same incident) are verified anew.
        let of = |kind| move |event: &&Event| event.kind == kind && event.incident == Some(incident);
        let last_decided = recent().rfind(of(EventKind::Decided));
        let last_verified = recent().rfind(of(EventKind::Verified));
        let verified =
            caused.contains(&(incident, true)) && last_decided.map(|e| e.index) < last_verified.map(|e| e.index);
        if settled && !verified {
            new.push(NewEvent {
                kind: EventKind::Verified,
                subject: first.subject.clone(),
                message: format!("everything decided because of event {incident} holds"),
                cause: Cause::Index(incident),
                rejected: Vec::new(),
            });
        }
    }
    new
}

/// Floating addresses that one node holds, by all that is reported, which the log does not say yet.
fn holders(state: &ControlState, reports: &BTreeMap<NodeId, &NodeReport>) -> Vec<NewEvent> {
    let holds = |node: NodeId, address| {
        let report = reports.get(&node).and_then(|report| report.roles.get(&RoleName::address()));
        matches!(report.map(|role| &role.facts), Some(RoleFacts::Address(facts)) if facts.held.contains(address))
    };
    let mut new = Vec::new();
    for address in state.spec.addresses.keys() {
        let unjudged = state.spec.nodes.keys().filter(|node| !state.plan.verdicts.contains_key(node));
        let nodes: Vec<NodeId> = unjudged.copied().filter(|node| holds(*node, address)).collect();
        let [node] = nodes.as_slice() else { continue };
        let (subject, message) = (address.to_string(), format!("{address} is held by {}", state.spec.name_of(*node)));
        let of = |kind| move |event: &&Event| event.kind == kind;
        let told = || state.log.iter().rev().filter(|event| event.subject == subject);
        if told().find(of(EventKind::Done)).is_some_and(|event| event.message == message) {
            continue;
        }
        let cause = told().find(of(EventKind::Decided)).map_or(Cause::None, |event| Cause::Index(event.index));
        new.push(NewEvent { kind: EventKind::Done, subject, message, cause, rejected: Vec::new() });
    }
    new
}

enum Fate {
    /// Not yet.
    Open,
    /// Now, in these words.
    Came(String),
    /// It is in the log already, or a later decision replaced it, or there is nothing to wait for.
    Done,
}

fn fate(state: &ControlState, reports: &BTreeMap<NodeId, &NodeReport>, event: &Event) -> Fate {
    if let Ok(id) = event.subject.parse::<InstanceId>() {
        return instance_fate(state, reports, event, &id);
    }
    let mut parts = event.subject.strip_prefix("role/").unwrap_or_default().split('/');
    let (Some(role), Some(slot)) = (parts.next(), parts.next()) else { return Fate::Done };
    let (Ok(role), Ok(slot)) = (role.parse::<RoleName>(), slot.parse::<u16>()) else { return Fate::Done };
    let Some(assignment) = state.plan.roles.get(&role).and_then(|slots| slots.get(&Slot(slot))) else {
        return Fate::Done;
    };
    if assignment.since != event.generation {
        return Fate::Done;
    }
    let report = reports.get(&assignment.node).and_then(|report| report.roles.get(&role));
    match report {
        Some(report) if report.state == RoleState::Running && report.generation >= event.generation => {
            Fate::Came(format!("{role}/{slot} runs on {}", state.spec.name_of(assignment.node)))
        }
        _ => Fate::Open,
    }
}

fn instance_fate(
    state: &ControlState,
    reports: &BTreeMap<NodeId, &NodeReport>,
    event: &Event,
    id: &InstanceId,
) -> Fate {
    let Some(assignment) = state.plan.instances.get(id).filter(|assignment| assignment.since == event.generation)
    else {
        return Fate::Done;
    };
    if assignment.phase == crate::plan::Phase::Draining {
        return Fate::Done;
    }
    let role = reports.get(&assignment.node).and_then(|report| report.roles.get(&RoleName::compute()));
    let facts = match role.map(|role| &role.facts) {
        Some(RoleFacts::Compute(instances)) => instances.get(id),
        _ => None,
    };
    match facts {
        Some(facts) if facts.healthy => {
            Fate::Came(format!("{id} is healthy on {}, port {}", state.spec.name_of(assignment.node), facts.port))
        }
        _ => Fate::Open,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::plan::{Because, InstanceAssignment, Phase, Reason};
    use crate::report::{InstanceFacts, RoleReport};
    use crate::time::WallTime;

    fn event(index: u64, kind: EventKind, subject: &str, cause: Option<u64>) -> Arc<Event> {
        Arc::new(Event {
            index,
            at: WallTime(0),
            kind,
            subject: subject.into(),
            message: String::new(),
            cause,
            incident: Some(1),
            rejected: Vec::new(),
            generation: Generation(5),
        })
    }

    fn state() -> ControlState {
        let mut state = ControlState::default();
        state.log.events.push_back(event(1, EventKind::Happened, "n3", None));
        state.log.events.push_back(event(2, EventKind::Decided, "a/web/7", Some(1)));
        let reason = Reason { because: Because::Lost { node: NodeId(3) }, text: String::new() };
        let assignment = InstanceAssignment {
            node: NodeId(1),
            revision: Revision(1),
            phase: Phase::Active,
            reason,
            since: Generation(5),
            exclusive: false,
        };
        state.plan.instances.insert("a/web/7".parse().unwrap(), assignment);
        state
    }

    fn healthy() -> NodeReport {
        let facts = InstanceFacts { healthy: true, ..InstanceFacts::default() };
        let facts = RoleFacts::Compute(BTreeMap::from([("a/web/7".parse().unwrap(), facts)]));
        let role = RoleReport { facts, ..RoleReport::default() };
        NodeReport { roles: BTreeMap::from([(RoleName::compute(), role)]), ..NodeReport::default() }
    }

    #[test]
    fn a_decision_is_done_when_its_instance_is_healthy_and_the_incident_verified_then() {
        let mut state = state();
        assert!(followup(&state, &BTreeMap::new()).is_empty());
        let report = healthy();
        let reports = BTreeMap::from([(NodeId(1), &report)]);
        let new = followup(&state, &reports);
        let kinds: Vec<_> = new.iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [EventKind::Done, EventKind::Verified]);
        state.log.events.push_back(event(3, EventKind::Done, "a/web/7", Some(2)));
        state.log.events.push_back(event(4, EventKind::Verified, "n3", Some(1)));
        assert!(followup(&state, &reports).is_empty());
    }

    #[test]
    fn whoever_holds_an_address_is_told_once_until_another_one_does() {
        let mut state = ControlState::default();
        let address: std::net::IpAddr = [192, 0, 2, 10].into();
        let spec = crate::spec::AddressSpec { prefix: 24, interface: None };
        state.spec.addresses.insert(address, spec);
        for node in [1, 2] {
            state
                .spec
                .nodes
                .insert(NodeId(node), crate::control::samples::node(&format!("n{node}"), u8::try_from(node).unwrap()));
        }
        let report = |holds: bool| {
            let held = holds.then_some(address).into_iter().collect();
            let facts = RoleFacts::Address(crate::report::AddressFacts { held, ..Default::default() });
            let role = RoleReport { facts, ..RoleReport::default() };
            NodeReport { roles: BTreeMap::from([(RoleName::address(), role)]), ..NodeReport::default() }
        };
        let (yes, no) = (report(true), report(false));
        let told = |state: &ControlState, one, other| {
            let new = followup(state, &BTreeMap::from([(NodeId(1), one), (NodeId(2), other)]));
            new.into_iter().map(|event| event.message).collect::<Vec<_>>()
        };
        assert_eq!(told(&state, &yes, &no), ["192.0.2.10 is held by n1"]);
        assert_eq!(told(&state, &yes, &yes), Vec::<String>::new(), "of two holders one is about to let go");
        let mut done = event(1, EventKind::Done, "192.0.2.10", None);
        Arc::make_mut(&mut done).message = "192.0.2.10 is held by n1".into();
        state.log.events.push_back(done);
        assert_eq!(told(&state, &yes, &no), Vec::<String>::new());
        assert_eq!(told(&state, &no, &yes), ["192.0.2.10 is held by n2"]);
    }

    #[test]
    fn a_decision_that_was_overtaken_is_not_waited_for() {
        let mut state = state();
        state.plan.instances.clear();
        let kinds: Vec<_> = followup(&state, &BTreeMap::new()).iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [EventKind::Verified]);
    }
}

//! Small states for tests.

use std::str::FromStr;

use super::*;
use crate::event::{Cause, EventKind};
use crate::plan::{Because, InstanceAssignment, Phase, Reason};
use crate::spec::{Capacity, Spread, StopSpec, UpdateSpec};

/// A name of whichever kind is asked for.
pub(crate) fn named<T: FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no name"))
}

pub(crate) fn instance(text: &str) -> InstanceId {
    text.parse().expect("an instance")
}

/// A node in zone a; `number` makes its address and its key.
pub(crate) fn node(name: &str, number: u8) -> NodeSpec {
    NodeSpec {
        name: named(name),
        addr: format!("10.0.0.{number}:7400").parse().expect("an address"),
        zone: named("a"),
        site: named("here"),
        labels: BTreeMap::new(),
        key: [number; 32],
        incarnation: Incarnation(1),
        availability: Availability::Open,
        capacity: Capacity::default(),
        built: [RoleName::lb(), RoleName::compute(), RoleName::mgmt()].into(),
        version: "0.1.0".into(),
    }
}

pub(crate) fn token(uses_left: Option<u32>) -> TokenRecord {
    let expires_at = WallTime(3_600_000);
    TokenRecord { secret_hash: vec![7; 32], grants: TokenGrants::Join, expires_at, uses_left, revoked: false }
}

/// A cluster of `n1`, `n2`, …
pub(crate) fn cluster(nodes: u8) -> ControlState {
    let mut state = ControlState::default();
    let mut run = |command| {
        let index = state.applied.next();
        let outcome = state.apply(index, Entry { at: WallTime(0), by: String::new(), if_index: None, command });
        assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    };
    run(Command::Found {
        cluster: ClusterInfo { id: ClusterId("c1".into()), ..Default::default() },
        node: node("n1", 1),
    });
    run(Command::NewToken { id: "first".into(), record: token(None) });
    for number in 2..=nodes {
        run(Command::Admit { node: node(&format!("n{number}"), number), token: "first".into() });
    }
    state
}

pub(crate) fn service(command: &str) -> ServiceSpec {
    ServiceSpec {
        revision: Revision(0),
        command: vec![command.into()],
        workdir: None,
        env: BTreeMap::new(),
        user: None,
        replicas: Replicas { min: 2, max: 2 },
        resources: Capacity::default(),
        health: None,
        update: UpdateSpec::default(),
        stop: StopSpec::default(),
        constraints: BTreeMap::new(),
        spread: Spread::Zone,
        exclusive: false,
        secrets: BTreeMap::new(),
        protocol: Default::default(),
    }
}

pub(crate) fn app(services: &[(&str, ServiceSpec)]) -> AppSpec {
    let services = services.iter().map(|(name, service)| (named(name), service.clone())).collect();
    AppSpec {
        revision: Revision(0),
        services,
        routes: vec![],
        stopped: false,
        ports: BTreeMap::new(),
        zones: BTreeMap::new(),
        buckets: BTreeMap::new(),
    }
}

/// An active instance on a node.
pub(crate) fn place(node: u64, revision: u64) -> InstanceAssignment {
    InstanceAssignment {
        node: NodeId(node),
        revision: Revision(revision),
        phase: Phase::Active,
        reason: Reason { because: Because::Wanted, text: "wanted".into() },
        since: Generation(1),
        exclusive: false,
    }
}

/// Adopts the plan that `edit` makes of the one in force.
pub(crate) fn adopt(state: &mut ControlState, edit: impl FnOnce(&mut Plan)) {
    let mut new = state.plan.clone();
    edit(&mut new);
    let mut change = PlanChange {
        voters: Some(new.voters),
        spares: Some(new.spares),
        reverted: Some(new.reverted),
        verdicts: new.verdicts.into_iter().map(|(node, verdict)| (node, Some(verdict))).collect(),
        instances: state.plan.instances.keys().map(|id| (id.clone(), None)).collect(),
        ..Default::default()
    };
    change.instances.extend(new.instances.into_iter().map(|(id, placed)| (id, Some(placed))));
    for (role, slots) in new.roles {
        change.roles.insert(role, slots.into_iter().map(|(slot, held)| (slot, Some(held))).collect());
    }
    let command = Command::Adopt { base: state.plan.generation, spec_index: state.spec_index, change, events: vec![] };
    let index = state.applied.next();
    let outcome = state.apply(index, Entry { at: WallTime(0), by: String::new(), if_index: None, command });
    assert_eq!(outcome, Outcome::Done { index });
}

pub(crate) fn text_event(kind: EventKind, subject: &str, message: &str, cause: Cause) -> NewEvent {
    NewEvent { kind, subject: subject.into(), message: message.into(), cause, rejected: vec![] }
}

//! A small cluster in plain data, for tests of the interface.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hirsel_model::control::{ClusterInfo, ControlState, TokenGrants, TokenRecord};
use hirsel_model::duty::Duty;
use hirsel_model::event::{Event, EventKind, Rejected};
use hirsel_model::plan::{Assignment, Because, InstanceAssignment, Phase, Reason};
use hirsel_model::report::{InstanceFacts, InstanceState, RoleFacts, RoleReport, RoleState};
use hirsel_model::spec::*;
use hirsel_model::view::Liveness;
use hirsel_model::*;

use hirsel_role::{Live, LiveNode, RoleConfig};

use super::sight::{Leader, Sight};

/// Noon of some day.
pub const NOON: WallTime = WallTime(1_700_000_000_000);

pub fn node(number: u8, zone: &str) -> NodeSpec {
    NodeSpec {
        name: format!("n{number}").parse().unwrap(),
        addr: format!("127.0.0.{number}:7400").parse().unwrap(),
        zone: zone.parse().unwrap(),
        site: "default".parse().unwrap(),
        labels: BTreeMap::new(),
        key: [number; 32],
        incarnation: Incarnation(1),
        availability: Availability::Open,
        capacity: Capacity { cpu_millis: 2000, memory_bytes: 1 << 30 },
        built: [RoleName::lb(), RoleName::compute(), RoleName::mgmt()].into(),
        version: "0.1.0".into(),
    }
}

pub fn service() -> ServiceSpec {
    ServiceSpec {
        revision: Revision(1),
        command: vec!["serve".into()],
        workdir: None,
        env: BTreeMap::new(),
        user: None,
        replicas: Replicas { min: 2, max: 2 },
        resources: Capacity::default(),
        health: Some(HealthSpec {
            check: Check::Http { path: "/healthz".into() },
            interval_ms: 1000,
            timeout_ms: 1000,
            failures: 3,
        }),
        update: UpdateSpec::default(),
        stop: StopSpec::default(),
        constraints: BTreeMap::new(),
        spread: Spread::Zone,
        exclusive: false,
        secrets: BTreeMap::new(),
        protocol: Default::default(),
    }
}

pub fn reason(because: Because, text: &str) -> Reason {
    Reason { because, text: text.into() }
}

pub fn instance_id(number: u64) -> InstanceId {
    format!("shop/web/{number}").parse().unwrap()
}

pub fn event(index: u64, kind: EventKind, subject: &str, message: &str, cause: Option<u64>) -> Event {
    Event {
        index,
        at: WallTime(NOON.0 - 60_000 + index * 1000),
        kind,
        subject: subject.into(),
        message: message.into(),
        cause,
        incident: cause.map(|_| 3),
        rejected: Vec::new(),
        generation: Generation(index),
    }
}

/// Three nodes in three zones. `shop/web` has two instances, on n1 and n2; number 3 replaced number 2, which died with n3.
pub fn state() -> ControlState {
    let mut state = ControlState {
        cluster: ClusterInfo { id: ClusterId("test-cluster".into()), ..ClusterInfo::default() },
        applied: LogIndex(42),
        spec_index: LogIndex(40),
        next_node: NodeId(4),
        ..ControlState::default()
    };
    for (number, zone) in [(1, "a"), (2, "b"), (3, "c")] {
        state.spec.nodes.insert(NodeId(number), node(number as u8, zone));
    }
    let web: ServiceName = "web".parse().unwrap();
    let app = AppSpec {
        revision: Revision(1),
        services: [(web.clone(), service())].into(),
        routes: vec![RouteSpec::plain("*", "/", web)],
        stopped: false,
        ports: BTreeMap::new(),
        zones: BTreeMap::new(),
        buckets: BTreeMap::new(),
    };
    let shop: AppName = "shop".parse().unwrap();
    state.spec.apps.insert(shop.clone(), app);
    let plan = &mut state.plan;
    plan.generation = Generation(5);
    plan.spec_index = LogIndex(40);
    plan.voters = [NodeId(1), NodeId(2), NodeId(3)].into();
    plan.next_instance = 4;
    for role in [RoleName::lb(), RoleName::compute(), RoleName::mgmt()] {
        let slots = (1..=3).map(|number| {
            let assignment = Assignment {
                node: NodeId(number),
                duty: Duty::Replica,
                reason: reason(Because::Wanted, "wants one on each node"),
                since: Generation(1),
            };
            (Slot(number as u16 - 1), assignment)
        });
        plan.roles.insert(role, slots.collect());
    }
    let on = |node: u64, since: u64, because: Because, text: &str| InstanceAssignment {
        node: NodeId(node),
        revision: Revision(1),
        phase: Phase::Active,
        reason: reason(because, text),
        since: Generation(since),
        exclusive: false,
    };
    let applied = Because::Applied { app: shop, revision: Revision(1) };
    plan.instances.insert(instance_id(1), on(1, 2, applied, "spread over zones"));
    plan.instances.insert(instance_id(3), on(2, 4, Because::Lost { node: NodeId(3) }, "n3 is down"));
    state.log.events = [
        event(1, EventKind::Happened, "shop", "shop was applied", None),
        event(2, EventKind::Decided, "shop/web/1", "start shop/web/1 on n1", Some(1)),
        event(3, EventKind::Happened, "n3", "n3 is down: n1, n2 do not hear it", None),
        event(4, EventKind::Decided, "shop/web/3", "start shop/web/3 on n2 instead of shop/web/2 on n3", Some(3)),
        event(5, EventKind::Done, "shop/web/3", "n2 runs shop/web/3", Some(4)),
    ]
    .map(Arc::new)
    .into();
    Arc::make_mut(&mut state.log.events[3]).rejected =
        vec![Rejected { node: NodeId(1), reason: "has one already".into() }];
    state.log.last = 5;
    for (id, grants) in [
        ("join", TokenGrants::Join),
        ("view", TokenGrants::Viewer),
        ("oper", TokenGrants::Operator),
        ("admi", TokenGrants::Admin),
    ] {
        state.tokens.insert(id.into(), token(grants));
    }
    state
}

pub fn token(grants: TokenGrants) -> TokenRecord {
    TokenRecord {
        secret_hash: vec![7; 32],
        grants,
        expires_at: WallTime(NOON.0 + 3_600_000),
        uses_left: None,
        revoked: false,
    }
}

pub fn facts(port: u16) -> InstanceFacts {
    InstanceFacts {
        state: InstanceState::Running,
        healthy: true,
        port,
        revision: Revision(1),
        ..InstanceFacts::default()
    }
}

/// What a node says that runs `instances`.
pub fn seen(instances: &[(u64, u16)]) -> LiveNode {
    let running = |facts| RoleReport {
        state: RoleState::Running,
        generation: Generation(5),
        message: None,
        facts,
        ..RoleReport::default()
    };
    let instances = instances.iter().map(|(number, port)| (instance_id(*number), facts(*port))).collect();
    let facts = RoleFacts::Compute(instances);
    LiveNode {
        liveness: Liveness::Alive,
        generation: Generation(5),
        facts: [(RoleName::compute(), facts.clone())].into(),
        roles: [
            (RoleName::compute(), running(facts)),
            (RoleName::lb(), running(RoleFacts::None)),
            (RoleName::mgmt(), running(RoleFacts::None)),
        ]
        .into(),
        addresses: None,
        certificate: None,
        shown: String::new(),
        load: 3,
        level: hirsel_model::feature::BUILT,
        incarnation: Incarnation(1),
    }
}

/// All is well, seen from n1; n2 leads.
pub fn sight() -> Sight {
    let nodes = [(NodeId(1), seen(&[(1, 20000)])), (NodeId(2), seen(&[(3, 20001)])), (NodeId(3), seen(&[]))];
    Sight {
        state: Arc::new(state()),
        leadership: Leader {
            term: 4,
            leader: Some(NodeId(2)),
            voters: BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)]),
            stale_ms: 80,
        },
        live: Arc::new(Live { nodes: nodes.into(), leader: Some(NodeId(2)), ..Live::default() }),
        seen_ms: [(NodeId(2), 120), (NodeId(3), 130)].into(),
        me: NodeId(1),
        wall: NOON,
        http_port: 8080,
        https_port: 8443,
        config: RoleConfig::default(),
    }
}

/// The sight with its control state altered.
pub fn altered(alter: impl FnOnce(&mut ControlState)) -> Sight {
    let mut sight = sight();
    alter(Arc::make_mut(&mut sight.state));
    sight
}

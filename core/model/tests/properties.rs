//! What holds for every view, drawn at random: whatever the nodes, the plan in force, and what is seen of both.

mod town;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hirsel_model::duty::Duty;
use hirsel_model::feature::BUILT;
use hirsel_model::grant::GRANT_OVER;
use hirsel_model::grant::long::LongGrant;
use hirsel_model::plan::*;
use hirsel_model::planner::change::change;
use hirsel_model::planner::{long, narrate, plan};
use hirsel_model::report::*;
use hirsel_model::spec::*;
use hirsel_model::view::*;
use hirsel_model::*;
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// A view of a cluster in any state, sensible or not, from one number: shrinking a view as such would only hide what matters.
fn any_view(seed: u64) -> View {
    let mut rng = SmallRng::seed_from_u64(seed);
    let nodes = rng.random_range(1..12_u64);
    let mut spec = Spec::default();
    for number in 1..=nodes {
        let zone = ["a", "b", "c"][rng.random_range(0..3)];
        let mut node = town::node(&format!("n{number}"), number, zone);
        node.availability = match rng.random_range(0..12) {
            0 => Availability::Cordoned,
            1 => Availability::Draining,
            2 => Availability::Leaving,
            _ => Availability::Open,
        };
        node.capacity.cpu_millis = rng.random_range(0..4) * 1_000;
        if rng.random_bool(0.1) {
            node.built.remove(&RoleName::lb());
        }
        spec.nodes.insert(NodeId(number), node);
    }
    for app in some_of(&mut rng, &["blog", "shop"], 0.8) {
        spec.apps.insert(app.parse().unwrap(), any_app(&mut rng));
    }
    for role in some_of(&mut rng, &["lb", "mgmt", "compute"], 0.3) {
        let pins = [rng.random_range(1..=nodes + 1), rng.random_range(1..=nodes)].map(NodeId);
        let pins = pins.into_iter().filter(|node| node.0 % 2 == 0).collect();
        let count = Some(rng.random_range(0..8)).filter(|count| *count < 5);
        let moves = (0..rng.random_range(0..3))
            .map(|_| (NodeId(rng.random_range(1..=nodes)), NodeId(rng.random_range(1..=nodes))))
            .collect();
        spec.roles.insert(role.parse().unwrap(), RoleSpec { count, pins, moves, log: None });
    }
    let leader = NodeId(rng.random_range(1..=nodes));
    let plan = any_plan(&mut rng, nodes);
    let mut view = View {
        now: Timestamp(1_000_000),
        leading_since: Timestamp(1_000_000 - rng.random_range(0..10_000)),
        leader,
        level: BUILT,
        spec: Arc::new(spec),
        spec_index: LogIndex(7),
        nodes: BTreeMap::new(),
        draining_for: BTreeMap::new(),
        unhealthy_for: BTreeMap::new(),
        granted: BTreeMap::new(),
        long: BTreeMap::new(),
        refused_for: BTreeMap::new(),
        losses: (0..rng.random_range(0..5))
            .map(|_| (Timestamp(990_000), NodeId(rng.random_range(1..=nodes))))
            .collect(),
        plan: Arc::new(plan),
        former: Arc::default(),
    };
    for node in (1..=nodes).map(NodeId).filter(|_| rng.random_bool(0.95)).collect::<Vec<_>>() {
        let facts = any_facts(&mut rng, &view.plan, node, nodes);
        view.nodes.insert(node, facts);
    }
    for id in view.plan.instances.keys().chain(view.plan.letting_go.keys()) {
        if rng.random_bool(0.5) {
            view.granted.insert(id.clone(), Duration::from_millis(rng.random_range(0..4_000)));
        }
        if rng.random_bool(0.3) {
            view.long.insert(id.clone(), any_long(&mut rng, &view.plan, id));
        }
        if rng.random_bool(0.5) {
            view.refused_for.insert(id.clone(), Duration::from_millis(rng.random_range(0..4_000)));
        }
        if rng.random_bool(0.3) {
            view.draining_for.insert(id.clone(), Duration::from_secs(rng.random_range(0..60)));
        }
        if rng.random_bool(0.3) {
            view.unhealthy_for.insert(id.clone(), Duration::from_secs(rng.random_range(0..120)));
        }
    }
    add_addresses(&mut rng, &mut view, nodes);
    view
}

/// Floating addresses, with lists of candidates in force and interfaces that fit them or do not.
fn add_addresses(rng: &mut SmallRng, view: &mut View, nodes: u64) {
    let (spec, plan) = (Arc::make_mut(&mut view.spec), Arc::make_mut(&mut view.plan));
    for last in 0..rng.random_range(0..5_u8) {
        let address = std::net::IpAddr::from([10, 0, last % 2, 200 + last]);
        let interface = rng.random_bool(0.2).then(|| "eth0".to_owned());
        spec.addresses.insert(address, AddressSpec { prefix: 24, interface });
        let candidate =
            |node| AddressCandidate { node: NodeId(node), interface: "eth0".into(), at: [10, 0, 0, 1].into() };
        let candidates = (0..rng.random_range(0..4)).map(|_| candidate(rng.random_range(1..=nodes + 1))).collect();
        let reason = Reason { because: Because::Wanted, text: "before".into() };
        let list = AddressPlan { candidates, since: Generation(rng.random_range(1..20)), reason };
        if rng.random_bool(0.7) {
            plan.addresses.insert(address, list);
        }
    }
    for (node, facts) in &mut view.nodes {
        let Some(report) = &mut facts.report else { continue };
        let own = Network { address: [10, 0, rng.random_range(0..3), node.0 as u8].into(), prefix: 24 };
        let unable = rng.random_bool(0.1).then(|| "lacks CAP_NET_ADMIN".to_owned());
        let facts =
            AddressFacts { unable, interfaces: [("eth0".into(), [own].into())].into(), ..AddressFacts::default() };
        if rng.random_bool(0.8) {
            let report = Arc::make_mut(report);
            let facts = RoleFacts::Address(facts);
            report.roles.insert(RoleName::address(), RoleReport { facts, ..RoleReport::default() });
        }
    }
}

/// Mostly of the node where the instance is, or was.
fn any_long(rng: &mut SmallRng, plan: &Plan, id: &InstanceId) -> KnownLong {
    let listed = plan.instances.get(id).map(|assigned| assigned.node);
    let node = listed.or(plan.letting_go.get(id).map(|letting| letting.node)).filter(|_| rng.random_bool(0.9));
    let grant = LongGrant {
        node: node.unwrap_or(NodeId(1)),
        asked_by: rng.random_bool(0.8).then(|| Incarnation(rng.random_range(0..2))),
        length_ms: rng.random_range(0..10_000),
        since: LogIndex(6),
        generation: Generation(rng.random_range(1..=20)),
        at: WallTime(0),
    };
    KnownLong { grant, known_for: Duration::from_millis(rng.random_range(0..12_000)) }
}

fn some_of<'a>(rng: &mut SmallRng, all: &[&'a str], chance: f64) -> Vec<&'a str> {
    all.iter().copied().filter(|_| rng.random_bool(chance)).collect()
}

fn any_app(rng: &mut SmallRng) -> AppSpec {
    let mut app = AppSpec {
        revision: Revision(3),
        services: BTreeMap::new(),
        routes: vec![],
        stopped: rng.random_bool(0.1),
        ports: BTreeMap::new(),
        zones: BTreeMap::new(),
        buckets: BTreeMap::new(),
    };
    for name in some_of(rng, &["api", "web"], 0.8) {
        let name: ServiceName = name.parse().unwrap();
        let min = rng.random_range(0..6);
        let order = if rng.random_bool(0.5) { UpdateOrder::StartFirst } else { UpdateOrder::StopFirst };
        let mut service = ServiceSpec {
            revision: Revision(rng.random_range(1..4)),
            command: vec!["serve".into()],
            workdir: None,
            env: BTreeMap::new(),
            user: None,
            replicas: Replicas { min, max: min },
            resources: Capacity { cpu_millis: rng.random_range(0..3) * 400, memory_bytes: 0 },
            health: None,
            update: UpdateSpec { order, parallel: rng.random_range(0..3), auto_revert: rng.random_bool(0.5) },
            stop: StopSpec::default(),
            constraints: BTreeMap::new(),
            spread: if rng.random_bool(0.7) { Spread::Zone } else { Spread::Node },
            exclusive: false,
            secrets: BTreeMap::new(),
            protocol: Default::default(),
        };
        if rng.random_bool(0.3) {
            service.exclusive = true;
            service.update.order = UpdateOrder::StopFirst;
            service.replicas = Replicas { min: min.min(1), max: min.min(1) };
        }
        if rng.random_bool(0.2) {
            service.constraints.insert("zone".into(), "a".into());
        }
        if rng.random_bool(0.7) {
            app.routes.push(RouteSpec::plain("*", "/", name.clone()));
        }
        app.services.insert(name, service);
    }
    app
}

fn any_plan(rng: &mut SmallRng, nodes: u64) -> Plan {
    let mut plan = Plan { generation: Generation(20), spec_index: LogIndex(5), ..Plan::default() };
    let reason = Reason { because: Because::Wanted, text: "before".into() };
    let any_node = |rng: &mut SmallRng| NodeId(rng.random_range(1..=nodes + 1));
    for role in some_of(rng, &["lb", "mgmt", "compute"], 0.8) {
        let mut slots = BTreeMap::new();
        for slot in 0..rng.random_range(0..=nodes as u16) {
            let node = any_node(rng);
            let since = Generation(rng.random_range(1..=20));
            slots.insert(Slot(slot), Assignment { node, duty: Duty::Replica, reason: reason.clone(), since });
        }
        plan.roles.insert(role.parse().unwrap(), slots);
    }
    for number in 1..rng.random_range(1..20) {
        let app = ["blog", "shop", "gone"][rng.random_range(0..3)].parse().unwrap();
        let service = ["api", "web"][rng.random_range(0..2)].parse().unwrap();
        let node = any_node(rng);
        let because = match rng.random_range(0..4) {
            0 => Because::Joined { node },
            1 => Because::Drained { node },
            2 => Because::Updated { app: "shop".parse().unwrap(), revision: Revision(1) },
            _ => Because::Wanted,
        };
        let assigned = InstanceAssignment {
            node,
            revision: Revision(rng.random_range(1..4)),
            phase: if rng.random_bool(0.2) { Phase::Draining } else { Phase::Active },
            reason: Reason { because, text: "before".into() },
            since: Generation(rng.random_range(1..=20)),
            exclusive: rng.random_bool(0.2),
        };
        plan.instances.insert(InstanceId { app, service, number }, assigned);
    }
    for number in 30..rng.random_range(30..34) {
        let app = ["blog", "shop", "gone"][rng.random_range(0..3)].parse().unwrap();
        let service = ["api", "web"][rng.random_range(0..2)].parse().unwrap();
        let since = Generation(rng.random_range(1..=20));
        let (node, granted, reason) = (any_node(rng), rng.random_bool(0.8), reason.clone());
        plan.letting_go.insert(InstanceId { app, service, number }, LettingGo { node, since, granted, reason });
    }
    for id in plan.instances.keys().chain(plan.letting_go.keys()).cloned().collect::<Vec<_>>() {
        let mut some = || (0..rng.random_range(0..4)).map(|_| any_node(rng)).collect::<BTreeSet<_>>();
        let (nodes, before) = (some(), some());
        let before = rng.random_bool(0.4).then_some(before);
        plan.candidates.insert(id, Candidates { nodes, since: Generation(rng.random_range(1..=20)), before });
    }
    if rng.random_bool(0.2) {
        plan.estranged.nodes.insert(any_node(rng), "former".parse().unwrap());
        plan.estranged.services.insert(("shop".parse().unwrap(), "web".parse().unwrap()));
    }
    plan.next_instance = 40;
    plan.voters = (0..rng.random_range(0..6)).map(|_| any_node(rng)).collect();
    plan.spares = (0..rng.random_range(0..3)).map(|_| any_node(rng)).collect();
    for _ in 0..rng.random_range(0..3) {
        let kind = if rng.random_bool(0.5) { VerdictKind::Down } else { VerdictKind::Unfit };
        let (since, evidence) = (Generation(rng.random_range(1..=20)), String::new());
        plan.verdicts.insert(any_node(rng), Verdict { kind, incarnation: Incarnation(1), since, evidence });
        plan.flaps.insert(any_node(rng), rng.random_range(1..9));
    }
    plan.brake = rng.random_bool(0.1);
    plan
}

fn any_facts(rng: &mut SmallRng, plan: &Plan, node: NodeId, nodes: u64) -> NodeFacts {
    let heard = rng.random_bool(0.7);
    let unheard_by = (1..=nodes).map(NodeId).filter(|_| rng.random_bool(if heard { 0.1 } else { 0.9 })).collect();
    let mut compute = BTreeMap::new();
    for (id, assigned) in &plan.instances {
        if assigned.node == node && rng.random_bool(0.8) {
            let state = if rng.random_bool(0.9) { InstanceState::Running } else { InstanceState::Ended };
            let (healthy, restarts) = (rng.random_bool(0.7), rng.random_range(0..5));
            let facts =
                InstanceFacts { state, healthy, restarts, revision: assigned.revision, ..InstanceFacts::default() };
            compute.insert(id.clone(), facts);
        }
    }
    let busy = plan.instances.keys().filter(|_| rng.random_bool(0.1)).map(|id| (id.clone(), 1)).collect();
    let generation = Generation(rng.random_range(1..=20));
    let role =
        |facts| RoleReport { state: RoleState::Running, generation, message: None, facts, ..RoleReport::default() };
    let roles = BTreeMap::from([
        (RoleName::compute(), role(RoleFacts::Compute(compute))),
        (RoleName::lb(), role(RoleFacts::Lb(busy))),
    ]);
    let report = NodeReport {
        version: 1,
        incarnation: Incarnation(1),
        generation,
        roles,
        load: 0,
        level: hirsel_model::feature::BUILT,
    };
    NodeFacts {
        liveness: if heard { Liveness::Alive } else { Liveness::Suspect },
        leased: rng.random_bool(if heard { 0.9 } else { 0.3 }),
        unheard_by,
        steady_for: Duration::from_millis(rng.random_range(0..100_000)),
        incarnation: Incarnation(rng.random_range(0..2)),
        released: Generation(0),
        raft: match rng.random_range(0..4) {
            0 => RaftFacts::Absent,
            1 => RaftFacts::Learner { caught_up: rng.random_bool(0.5) },
            _ => RaftFacts::Voter,
        },
        report: rng.random_bool(0.9).then(|| Arc::new(report)),
    }
}

fn grants_are_over(view: &View, id: &InstanceId) -> bool {
    let led = view.now.since(view.leading_since) >= GRANT_OVER;
    let short = led && view.granted.get(id).is_none_or(|ago| *ago >= GRANT_OVER);
    let long = view.long.get(id);
    short && long.is_none_or(|long| long.known_for.as_millis() * 20 >= u128::from(long.grant.length_ms) * 21)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_address_is_for_load_balancers_alone_each_once_and_spread(seed: u64) {
        let view = any_view(seed);
        let plan = plan(&view);
        let mut firsts: BTreeMap<NodeId, usize> = BTreeMap::new();
        for (address, list) in &plan.addresses {
            prop_assert!(view.spec.addresses.contains_key(address));
            let nodes: BTreeSet<NodeId> = list.candidates.iter().map(|it| it.node).collect();
            prop_assert_eq!(nodes.len(), list.candidates.len());
            prop_assert!(!nodes.is_empty());
            let holds = |node: &NodeId| plan.roles[&RoleName::lb()].values().any(|slot| slot.node == *node);
            prop_assert!(nodes.iter().all(holds));
            *firsts.entry(list.candidates[0].node).or_default() += 1;
            let same = view.plan.addresses.get(address).is_some_and(|before| before.candidates == list.candidates);
            prop_assert_eq!(list.since == plan.generation, !same, "a list is told from those before");
        }
    }

    #[test]
    fn planning_is_idempotent_and_deterministic(seed: u64) {
        let mut view = any_view(seed);
        let first = plan(&view);
        prop_assert_eq!(&first, &plan(&view));
        let dropped = first.letting_go.keys().any(|id| !view.plan.letting_go.contains_key(id));
        view.plan = Arc::new(first.clone());
        let mut first = first;
        let mut second = plan(&view);
        // What an exclusive service had is dropped by one plan and followed by the next, even if it can act no more.
        if dropped || second.letting_go != first.letting_go {
            prop_assert!(second.letting_go.keys().all(|id| first.letting_go.contains_key(id)));
            view.plan = Arc::new(second.clone());
            first = second;
            second = plan(&view);
        }
        prop_assert!(change(&first, &second).is_empty(), "{:#?}", change(&first, &second));
        prop_assert_eq!(first, second);
    }

    #[test]
    fn a_change_applied_leads_to_the_new_plan(seed: u64) {
        let view = any_view(seed);
        let new = plan(&view);
        let difference = change(&view.plan, &new);
        prop_assert_eq!(difference.is_empty(), new.generation == view.plan.generation);
        let mut applied = (*view.plan).clone();
        if !difference.is_empty() {
            applied.apply(difference);
            applied.spec_index = view.spec_index;
        }
        prop_assert_eq!(applied.generation, new.generation);
        // A role without slots is the same as no role.
        applied.roles.retain(|_, slots| !slots.is_empty());
        prop_assert_eq!(Plan { roles: new.roles.iter().filter(|(_, s)| !s.is_empty()).map(|(r, s)| (r.clone(), s.clone())).collect(), ..new.clone() }, applied);
        prop_assert!(change(&new, &new).is_empty());
    }

    #[test]
    fn nothing_is_given_to_a_node_that_may_not_have_it(seed: u64) {
        let view = any_view(seed);
        let new = plan(&view);
        let may = |node: NodeId, had: bool, role: &RoleName| {
            let Some(spec) = view.spec.nodes.get(&node) else { return false };
            let available = spec.availability == Availability::Open || (had && spec.availability == Availability::Cordoned);
            !new.verdicts.contains_key(&node) && available && spec.built.contains(role)
        };
        for (role, slots) in &new.roles {
            let mut holders = BTreeSet::new();
            for (slot, held) in slots {
                let had = view.plan.roles.get(role).is_some_and(|slots| slots.values().any(|s| s.node == held.node));
                prop_assert!(may(held.node, had, role), "{role}/{slot} on {}", held.node);
                prop_assert!(holders.insert(held.node), "{role} twice on {}", held.node);
                let same = view.plan.roles.get(role).and_then(|slots| slots.get(slot)).is_some_and(|s| s == held);
                prop_assert!(same || held.since == new.generation);
            }
        }
        for (id, assigned) in &new.instances {
            let before = view.plan.instances.get(id);
            let away = long::stays(&view, id, assigned) && before.is_some();
            let lost = new.verdicts.contains_key(&assigned.node) && !away;
            prop_assert!(view.spec.nodes.contains_key(&assigned.node) && !lost);
            prop_assert!(before.is_none_or(|before| before.node == assigned.node), "{id} changed its node");
            if before.is_none() {
                prop_assert!(may(assigned.node, false, &RoleName::compute()), "{id} on {}", assigned.node);
                prop_assert!(id.number >= view.plan.next_instance && id.number < new.next_instance);
            }
            if before.is_some_and(|before| before.phase == Phase::Draining) {
                prop_assert_eq!(assigned.phase, Phase::Draining, "{} takes requests again", id);
            }
        }
    }

    #[test]
    fn an_exclusive_instance_follows_only_when_no_other_can_act(seed: u64) {
        let view = any_view(seed);
        let new = plan(&view);
        let of = |app: &AppName, service: &ServiceName, id: &InstanceId| id.app == *app && id.service == *service;
        for (app, spec) in &view.spec.apps {
            for (service, _) in spec.services.iter().filter(|(_, service)| service.exclusive) {
                let added = new.instances.keys().filter(|id| of(app, service, id) && !view.plan.instances.contains_key(id));
                let added = added.count();
                let others = view.plan.instances.keys().filter(|id| of(app, service, id)).count();
                let on = new.instances.iter().find(|(id, _)| of(app, service, id)).map(|(_, assigned)| assigned.node);
                // One that may act on by promises alone is followed only where a promise is kept, or where it is itself.
                let keeps = |id: &InstanceId, letting: &LettingGo| {
                    let bound = view.plan.candidates.get(id).map(Candidates::bound).unwrap_or_default();
                    let known = view.plan.letting_go.contains_key(id) && letting.granted && grants_are_over(&view, id);
                    known && on.is_some_and(|on| on == letting.node || bound.contains(&on))
                };
                let letting = new.letting_go.iter().filter(|(id, _)| of(app, service, id));
                let letting = letting.filter(|(id, letting)| !keeps(id, letting)).count();
                let withheld = view.plan.estranged.services.contains(&(app.clone(), service.clone()));
                prop_assert!(!withheld || added == 0, "{app}/{service} may act on nodes that were given up");
                prop_assert!(added <= 1 && (added == 0 || others + letting == 0), "{app}/{service}: {added}, {others}, {letting}");
            }
        }
        // None is forgotten before it has let go.
        for (id, assigned) in view.plan.instances.iter().filter(|(_, assigned)| assigned.exclusive) {
            prop_assert!(new.instances.contains_key(id) || new.letting_go.get(id).is_some_and(|it| it.node == assigned.node));
        }
        for (id, letting) in view.plan.letting_go.iter().filter(|(_, letting)| letting.granted) {
            let bound = view.plan.candidates.get(id).map(Candidates::bound).unwrap_or_default();
            let refused = bound.is_empty() || view.refused_for.get(id).is_some_and(|time| *time >= GRANT_OVER);
            let over = grants_are_over(&view, id) && refused;
            let report = view.nodes.get(&letting.node).and_then(|facts| facts.report.clone());
            let compute = report.and_then(|report| report.roles.get(&RoleName::compute()).cloned());
            let said = compute.is_some_and(|compute| compute.generation >= letting.since && match compute.facts {
                RoleFacts::Compute(all) => all.get(id).is_none_or(|facts| facts.state == InstanceState::Ended),
                _ => compute.state == RoleState::Stopped,
            });
            let gone = !view.spec.nodes.contains_key(&letting.node) && !view.plan.estranged.nodes.contains_key(&letting.node);
            let over = over || (gone && grants_are_over(&view, id));
            prop_assert!(new.letting_go.contains_key(id) || over || said, "{id}");
        }
    }

    #[test]
    fn what_fits_is_met_and_what_is_not_says_why(seed: u64) {
        let view = any_view(seed);
        let new = plan(&view);
        for (app, spec) in &view.spec.apps {
            for (service, described) in spec.services.iter().filter(|_| !spec.stopped) {
                let subject = format!("{app}/{service}");
                let active = new.instances.iter().filter(|(id, a)| {
                    id.app == *app && id.service == *service && a.phase == Phase::Active
                });
                let waits = described.update.order == UpdateOrder::StopFirst;
                let unmet = new.unmet.iter().any(|unmet| unmet.subject == subject);
                prop_assert!(active.count() >= described.replicas.min as usize || unmet || waits, "{subject}");
            }
        }
    }

    #[test]
    fn no_leader_judges_itself_or_anybody_before_it_can_know(seed: u64) {
        let view = any_view(seed);
        let new = plan(&view);
        for (node, verdict) in &new.verdicts {
            let before = view.plan.verdicts.get(node);
            if before != Some(verdict) {
                prop_assert!(*node != view.leader);
                prop_assert!(view.now.since(view.leading_since) >= Duration::from_secs(1));
                prop_assert!(view.nodes[node].unheard_by.iter().any(|other| other != node));
            }
        }
    }

    #[test]
    fn the_log_names_every_decision(seed: u64) {
        let view = any_view(seed);
        let new = plan(&view);
        let difference = change(&view.plan, &new);
        let events = narrate(&view, &new);
        let told: BTreeSet<&str> = events.iter().map(|event| event.subject.as_str()).collect();
        for id in difference.instances.keys() {
            prop_assert!(told.contains(id.to_string().as_str()), "{id}");
        }
        for node in new.verdicts.keys().filter(|node| !view.plan.verdicts.contains_key(node)) {
            prop_assert!(told.contains(view.spec.name_of(*node).as_str()));
        }
        prop_assert_eq!(events.is_empty(), difference.is_empty() || !tells(&difference));
    }
}

/// Counters, spares and the counting of falls are not told.
fn tells(change: &hirsel_model::planner::change::PlanChange) -> bool {
    let lifted_only = change.verdicts.values().all(Option::is_none);
    !(change.roles.is_empty()
        && change.instances.is_empty()
        && change.voters.is_none()
        && lifted_only
        && change.brake.is_none()
        && change.reverted.is_none()
        && change.unmet.is_none())
        || !change.verdicts.is_empty()
}

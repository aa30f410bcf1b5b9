//! Cuts the orders of one node out of spec and plan.
//!
//! It decides nothing: what the plan gives to the node becomes an order, and what it does not give becomes an order to stop. So a node
//! that was judged, or that does not belong to the cluster any more, is told to stop everything by having nothing in the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::control::ControlState;
use crate::id::*;
use crate::order::{
    AddressOrder, Backend, BeatMember, DnsOrder, FloatingAddress, InstanceOrder, LbOrder, NamedApp, NamedNode, Order,
    StorageOrder, WantedBucket, Work,
};
use crate::plan::Phase;
use crate::spec::{ServiceSpec, account, store_name};

/// What `node` shall make true, for each role in `built` (a role without an order must stop; it is listed with a stop order).
pub fn orders(state: &ControlState, node: NodeId, built: &[RoleName]) -> BTreeMap<RoleName, Order> {
    built.iter().map(|role| (role.clone(), order(state, node, role))).collect()
}

fn order(state: &ControlState, node: NodeId, role: &RoleName) -> Order {
    let plan = &state.plan;
    let slots: BTreeMap<Slot, _> = plan.roles.get(role).map_or_else(BTreeMap::new, |slots| {
        let mine = slots.iter().filter(|(_, assignment)| assignment.node == node);
        mine.map(|(slot, assignment)| (*slot, assignment.duty)).collect()
    });
    let work = match role.as_str() {
        "compute" => compute(state, node, !slots.is_empty()),
        "lb" if !slots.is_empty() => Work::Lb(Arc::new(lb(state, node))),
        // No slot is needed: whoever belongs to the cluster answers for its names.
        "dns" if state.spec.nodes.contains_key(&node) => Work::Dns(Arc::new(dns(state))),
        // Without a slot too: whoever held an address lets go of it when it hears who does now.
        "address" if state.spec.nodes.contains_key(&node) => Work::Address(Arc::new(address(state))),
        // Without a slot as well: any node answers for all objects.
        "storage" if state.spec.nodes.contains_key(&node) => Work::Storage(Arc::new(storage(state))),
        _ => Work::None,
    };
    Order { role: role.clone(), generation: plan.generation, slots, work }
}

/// The instances of the plan on `node`, each with the description of its own revision. They run on while they drain, even when the
/// node has no slot any more.
fn compute(state: &ControlState, node: NodeId, has_slot: bool) -> Work {
    let mut described: BTreeMap<(&AppName, &ServiceName, Revision), Arc<ServiceSpec>> = BTreeMap::new();
    let mut instances = BTreeMap::new();
    for (id, assigned) in state.plan.instances.iter().filter(|(_, assigned)| assigned.node == node) {
        let Some(service) = state.service(&id.app, &id.service, assigned.revision) else { continue };
        let key = (&id.app, &id.service, assigned.revision);
        let service = described.entry(key).or_insert_with(|| Arc::new(service.clone())).clone();
        instances.insert(id.clone(), InstanceOrder { service, revision: assigned.revision, phase: assigned.phase });
    }
    if instances.is_empty() && !has_slot { Work::None } else { Work::Compute(instances) }
}

/// Who may hold which address, and whom to believe.
fn address(state: &ControlState) -> AddressOrder {
    let listed = |(address, list): (&std::net::IpAddr, &crate::plan::AddressPlan)| {
        let prefix = state.spec.addresses.get(address)?.prefix;
        Some((*address, FloatingAddress { prefix, candidates: list.candidates.clone(), since: list.since }))
    };
    let addresses: BTreeMap<_, _> = state.plan.addresses.iter().filter_map(listed).collect();
    let member = |node: &crate::spec::NodeSpec| BeatMember {
        name: node.name.clone(),
        key: node.key,
        incarnation: node.incarnation,
    };
    let wanted: BTreeSet<_> = state.spec.addresses.keys().copied().collect();
    let members = match addresses.is_empty() {
        true => BTreeMap::new(),
        false => state.spec.nodes.iter().map(|(id, node)| (*id, member(node))).collect(),
    };
    AddressOrder { wanted, addresses, members }
}

/// Where objects are, and who keeps them.
fn storage(state: &ControlState) -> StorageOrder {
    let slots = state.plan.roles.get(&RoleName::storage()).into_iter().flat_map(BTreeMap::values);
    StorageOrder {
        table: state.plan.storage.clone(),
        nodes: slots.map(|slot| slot.node).collect(),
        incarnations: state.spec.nodes.iter().map(|(id, node)| (*id, node.incarnation)).collect(),
        buckets: buckets(state),
    }
}

/// What the store shall have for applications, also for those that are stopped. Should two want one of a name, which `apply` refuses, it stays
/// with the first.
fn buckets(state: &ControlState) -> BTreeMap<String, WantedBucket> {
    let mut wanted = BTreeMap::new();
    for (app, spec) in &state.spec.apps {
        let Some(account) = account(app).filter(|_| !spec.buckets.is_empty()) else { continue };
        for (label, bucket) in &spec.buckets {
            let (account, spec) = (account.clone(), bucket.clone());
            wanted.entry(store_name(app, label)).or_insert(WantedBucket { account, spec });
        }
    }
    wanted
}

fn lb(state: &ControlState, node: NodeId) -> LbOrder {
    let (mut routes, mut ports) = (Vec::new(), BTreeMap::new());
    let mut routed = BTreeSet::new();
    for (app, spec) in state.spec.apps.iter().filter(|(_, spec)| !spec.stopped) {
        for route in &spec.routes {
            routes.push((app.clone(), route.clone()));
            routed.extend(route.to.services().map(|service| (app, service)));
        }
        for (port, described) in &spec.ports {
            // Should two have it, which `apply` refuses, it stays with the first by name.
            ports.entry(*port).or_insert_with(|| (app.clone(), described.clone()));
            routed.extend(described.to.services().map(|service| (app, service)));
        }
    }
    let mut backends: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for (app, service) in &routed {
        backends.insert(((*app).clone(), (*service).clone()), BTreeMap::new());
    }
    for (id, assigned) in &state.plan.instances {
        if !routed.contains(&(&id.app, &id.service)) {
            continue;
        }
        let Some(node) = state.spec.nodes.get(&assigned.node) else { continue };
        let service = state.service(&id.app, &id.service, assigned.revision);
        let drain_ms = service.map_or(0, |service| service.stop.drain_ms);
        let protocol = service.map(|service| service.protocol).unwrap_or_default();
        let (zone, phase) = (node.zone.clone(), assigned.phase);
        let backend = Backend { node: assigned.node, addr: node.addr, zone, phase, drain_ms, protocol };
        backends.entry((id.app.clone(), id.service.clone())).or_default().insert(id.clone(), backend);
    }
    let mut balancers: BTreeMap<_, u32> = BTreeMap::new();
    let held = state.plan.roles.get(&RoleName::lb()).into_iter().flat_map(BTreeMap::values);
    for node in held.filter_map(|held| state.spec.nodes.get(&held.node)) {
        *balancers.entry(node.zone.clone()).or_default() += 1;
    }
    let log = state.spec.roles.get(&RoleName::lb()).and_then(|role| role.log);
    let names = state.spec.nodes.iter().map(|(id, node)| (*id, node.name.clone())).collect();
    let mine = |list: &crate::plan::AddressPlan| list.candidates.iter().any(|candidate| candidate.node == node);
    let addresses = state.plan.addresses.iter().filter(|(_, list)| mine(list)).map(|(address, _)| *address).collect();
    let purges = state.purges.clone();
    LbOrder { routes, ports, backends, balancers, log, names, addresses, purges }
}

fn dns(state: &ControlState) -> DnsOrder {
    let named = |node: &crate::spec::NodeSpec| NamedNode {
        name: node.name.clone(),
        addr: node.addr,
        zone: node.zone.clone(),
        site: node.site.clone(),
    };
    let nodes = state.spec.nodes.iter().map(|(id, node)| (*id, named(node))).collect();
    let lbs = state.plan.roles.get(&RoleName::lb());
    let lbs = lbs.into_iter().flatten().map(|(_, slot)| slot.node).collect();
    let (mut apps, mut hosts, mut zones) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
    for (name, app) in &state.spec.apps {
        if !app.stopped {
            hosts.extend(app.routes.iter().map(|route| route.host.to_ascii_lowercase()).filter(|host| host != "*"));
        }
        // Should two have one, which `apply` refuses, it stays with the first by name.
        for (zone, spec) in &app.zones {
            zones.entry(zone.clone()).or_insert_with(|| spec.clone());
        }
        let services = app.services.keys().map(|service| (service.clone(), Vec::new())).collect();
        let leads = !app.routes.is_empty() || !app.ports.is_empty();
        apps.insert(name.clone(), NamedApp { is_routed: !app.stopped && leads, services });
    }
    // Instances of one service follow each other, so that it is looked up once.
    let mut active = state.plan.instances.iter().filter(|(_, assigned)| assigned.phase == Phase::Active).peekable();
    while let Some((InstanceId { app, service, .. }, _)) = active.peek().copied() {
        let mut instances = Vec::new();
        while let Some((id, assigned)) = active.next_if(|(id, _)| id.app == *app && id.service == *service) {
            instances.push((id.number, assigned.node));
        }
        if let Some(listed) = apps.get_mut(app).and_then(|app: &mut NamedApp| app.services.get_mut(service)) {
            *listed = instances;
        }
    }
    // Both only rise: what applications say counts by the one, where their instances are by the other.
    let serial = state.plan.generation.0.wrapping_add(state.spec_index.0);
    let keys = |zone: &String| Some((zone.clone(), Arc::new(state.signing.zones.get(zone)?.signed()?)));
    let signed = zones.keys().filter_map(keys).collect();
    DnsOrder { nodes, lbs, apps, hosts, zones, signed, serial }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::samples::{adopt, app, cluster, instance, named, place, service};
    use crate::control::{Command, Entry};
    use crate::duty::Duty;
    use crate::plan::{Assignment, Because, Reason};
    use crate::spec::{AppProtocol, PortSpec, RouteSpec, Target};
    use crate::time::WallTime;

    fn held(node: u64) -> Assignment {
        let reason = Reason { because: Because::Wanted, text: "wanted".into() };
        Assignment { node: NodeId(node), duty: Duty::Replica, reason, since: Generation(1) }
    }

    fn run(state: &mut ControlState, command: Command) {
        let index = state.applied.next();
        let entry = Entry { at: WallTime(0), by: String::new(), if_index: None, command };
        assert_eq!(state.apply(index, entry), crate::control::Outcome::Done { index });
    }

    /// Three nodes; lb on n1, compute everywhere; shop/web on n2 and (draining) n3, routed; shop/worker on n2, without a route.
    fn herd() -> ControlState {
        let mut state = cluster(3);
        let mut spec = app(&[("web", service("serve")), ("worker", service("work"))]);
        spec.routes.push(RouteSpec::plain("shop.test", "/", named("web")));
        run(&mut state, Command::ApplyApp { app: named("shop"), spec });
        adopt(&mut state, |plan| {
            plan.roles.insert(RoleName::lb(), BTreeMap::from([(Slot(0), held(1))]));
            plan.roles
                .insert(RoleName::compute(), (0..3).map(|slot| (Slot(slot), held(u64::from(slot) + 1))).collect());
            plan.instances.insert(instance("shop/web/1"), place(2, 1));
            plan.instances.insert(instance("shop/web/2"), place(3, 1));
            plan.instances.get_mut(&instance("shop/web/2")).expect("just planned").phase = Phase::Draining;
            plan.instances.insert(instance("shop/worker/3"), place(2, 1));
        });
        state
    }

    fn roles() -> Vec<RoleName> {
        vec![RoleName::compute(), RoleName::lb(), RoleName::mgmt()]
    }

    #[test]
    fn each_role_that_is_built_gets_an_order_of_the_plan_in_force() {
        let orders = orders(&herd(), NodeId(1), &roles());
        assert_eq!(orders.keys().cloned().collect::<Vec<_>>(), roles());
        assert!(orders.iter().all(|(role, order)| order.role == *role && order.generation == Generation(1)));
        assert_eq!(orders[&RoleName::lb()].slots, BTreeMap::from([(Slot(0), Duty::Replica)]));
        assert!(orders[&RoleName::mgmt()].is_stop());
    }

    #[test]
    fn an_instance_is_told_to_in_what_its_own_revision_speaks() {
        let mut state = herd();
        let mut spec = app(&[("web", ServiceSpec { protocol: AppProtocol::H2c, ..service("serve") })]);
        spec.routes.push(RouteSpec::plain("shop.test", "/", named("web")));
        run(&mut state, Command::ApplyApp { app: named("shop"), spec });
        let revision = state.spec.apps[&named("shop")].services[&named("web")].revision;
        assert_ne!(revision, Revision(1), "it is another way to run it");
        adopt(&mut state, |plan| drop(plan.instances.insert(instance("shop/web/4"), place(2, revision.0))));
        let Work::Lb(lb) = &orders(&state, NodeId(1), &roles())[&RoleName::lb()].work else { panic!("no order") };
        let spoken = lb.backends.values().flatten().map(|(id, backend)| (id.number, backend.protocol));
        let spoken: Vec<_> = spoken.collect();
        assert_eq!(spoken, [(1, AppProtocol::Http1), (2, AppProtocol::Http1), (4, AppProtocol::H2c)]);
    }

    #[test]
    fn a_purge_is_in_the_orders_of_load_balancers_without_another_plan() {
        let mut state = herd();
        run(&mut state, Command::Purge { what: crate::purge::Purged::All });
        let (index, generation) = (state.applied, state.plan.generation);
        let order = &orders(&state, NodeId(1), &roles())[&RoleName::lb()];
        let Work::Lb(lb) = &order.work else { panic!("no order") };
        assert_eq!((lb.purges.last(), order.generation), (index, generation));
    }

    #[test]
    fn a_node_runs_exactly_the_instances_the_plan_puts_there() {
        let state = herd();
        let instances = |node| match &orders(&state, NodeId(node), &roles())[&RoleName::compute()].work {
            Work::Compute(instances) => instances.keys().map(ToString::to_string).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        assert_eq!(instances(1), Vec::<String>::new());
        assert_eq!(instances(2), ["shop/web/1", "shop/worker/3"]);
        assert_eq!(instances(3), ["shop/web/2"]);
    }

    #[test]
    fn a_node_that_is_not_in_the_plan_is_told_to_stop_everything() {
        for node in [NodeId(4), NodeId(u64::MAX)] {
            assert!(orders(&herd(), node, &roles()).values().all(Order::is_stop));
        }
        // So it is with one that was judged, for the plan takes everything from it.
        let mut state = herd();
        adopt(&mut state, |plan| {
            plan.roles.insert(RoleName::compute(), BTreeMap::from([(Slot(1), held(1))]));
            plan.instances.remove(&instance("shop/web/2"));
        });
        let change = crate::planner::change::PlanChange {
            roles: BTreeMap::from([(RoleName::compute(), BTreeMap::from([(Slot(2), None)]))]),
            ..Default::default()
        };
        let (base, spec_index) = (state.plan.generation, state.spec_index);
        run(&mut state, Command::Adopt { base, spec_index, change, events: vec![] });
        assert!(orders(&state, NodeId(3), &roles()).values().all(Order::is_stop));
    }

    #[test]
    fn an_instance_drains_on_a_node_that_has_no_slot_any_more() {
        let mut state = herd();
        let change = crate::planner::change::PlanChange {
            roles: BTreeMap::from([(RoleName::compute(), BTreeMap::from([(Slot(2), None)]))]),
            ..Default::default()
        };
        let (base, spec_index) = (state.plan.generation, state.spec_index);
        run(&mut state, Command::Adopt { base, spec_index, change, events: vec![] });
        let order = orders(&state, NodeId(3), &roles()).remove(&RoleName::compute()).expect("an order");
        assert!(order.slots.is_empty() && !order.is_stop());
    }

    #[test]
    fn an_lb_knows_every_route_and_what_stands_behind_it() {
        let mut state = herd();
        let lb = |state: &ControlState| match orders(state, NodeId(1), &roles())[&RoleName::lb()].work.clone() {
            Work::Lb(order) => order,
            other => panic!("{other:?}"),
        };
        let order = lb(&state);
        assert_eq!(order.routes.len(), 1);
        let backends: Vec<_> = order.backends.iter().collect();
        assert_eq!(backends.len(), 1, "only services with a route stand behind one");
        let web = &order.backends[&(named("shop"), named("web"))];
        let phases: Vec<_> = web.values().map(|backend| (backend.node.0, backend.phase)).collect();
        assert_eq!(phases, [(2, Phase::Active), (3, Phase::Draining)]);
        let first = &web[&instance("shop/web/1")];
        assert_eq!((first.addr, first.drain_ms), ("10.0.0.2:7400".parse().expect("an address"), 30_000));
        let balancers = BTreeMap::from([(named("a"), 1)]);
        assert_eq!(order.balancers, balancers);

        run(&mut state, Command::SetStopped { app: named("shop"), stopped: true });
        let names = order.names.clone();
        assert_eq!(names.len(), state.spec.nodes.len());
        assert_eq!(*lb(&state), LbOrder { balancers, names, ..LbOrder::default() });
    }

    #[test]
    fn an_lb_knows_every_port_and_what_stands_behind_it() {
        let mut state = herd();
        let mut spec = state.spec.apps[&named("shop")].clone();
        spec.routes.clear();
        let to = Target::Service(named("worker"));
        spec.ports.insert("5432".parse().expect("a port"), PortSpec::to(to.clone()));
        run(&mut state, Command::ApplyApp { app: named("shop"), spec });
        let of = |role: RoleName| orders(&state, NodeId(1), std::slice::from_ref(&role))[&role].work.clone();
        let Work::Lb(order) = of(RoleName::lb()) else { panic!("an order") };
        assert_eq!(order.ports[&"5432/tcp".parse().expect("a port")], (named("shop"), PortSpec::to(to)));
        let behind: Vec<_> = order
            .backends
            .iter()
            .flat_map(|((_, service), them)| them.keys().map(move |id| (service.as_str(), id.number)))
            .collect();
        assert_eq!((order.routes.len(), behind), (0, vec![("worker", 3)]));
        let Work::Dns(names) = of(RoleName::dns()) else { panic!("names") };
        assert!(names.apps[&named::<AppName>("shop")].is_routed, "its name leads to the load balancers");
    }

    #[test]
    fn every_node_answers_for_all_names_without_a_slot() {
        let mut state = herd();
        let dns =
            |state: &ControlState, node| orders(state, NodeId(node), &[RoleName::dns()])[&RoleName::dns()].clone();
        for node in 1..=3 {
            let order = dns(&state, node);
            assert!(order.slots.is_empty() && !order.is_stop());
            let Work::Dns(names) = order.work else { panic!("{:?}", order.work) };
            assert_eq!((names.nodes.len(), &names.lbs), (3, &BTreeSet::from([NodeId(1)])));
            assert_eq!(names.hosts, BTreeSet::from(["shop.test".to_owned()]));
            let shop = &names.apps[&named::<AppName>("shop")];
            assert!(shop.is_routed);
            assert_eq!(shop.services[&named::<ServiceName>("web")], [(1, NodeId(2))], "what drains is left out");
            assert_eq!(shop.services[&named::<ServiceName>("worker")], [(3, NodeId(2))]);
        }
        assert!(dns(&state, 4).is_stop(), "a stranger answers for nobody");

        run(&mut state, Command::SetStopped { app: named("shop"), stopped: true });
        let Work::Dns(names) = dns(&state, 1).work else { panic!("an order") };
        assert!(names.hosts.is_empty() && !names.apps[&named::<AppName>("shop")].is_routed);
        assert_eq!(names.apps[&named::<AppName>("shop")].services.len(), 2, "names of what is stopped exist");
    }
}

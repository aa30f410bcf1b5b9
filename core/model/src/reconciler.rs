//! Cuts the orders of one node out of spec and plan.
//!
//! It decides nothing: what the plan gives to the node becomes an order, and what it does not give becomes an order to stop. So a node
//! that was judged, or that does not belong to the cluster any more, is told to stop everything by having nothing in the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::control::ControlState;
use crate::id::*;
use crate::order::{Backend, InstanceOrder, LbOrder, Order, Work};
use crate::spec::ServiceSpec;

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
        "lb" if !slots.is_empty() => Work::Lb(Arc::new(lb(state))),
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

fn lb(state: &ControlState) -> LbOrder {
    let mut routes = Vec::new();
    let mut routed = BTreeSet::new();
    for (app, spec) in state.spec.apps.iter().filter(|(_, spec)| !spec.stopped) {
        for route in &spec.routes {
            routes.push((app.clone(), route.clone()));
            routed.insert((app, &route.to));
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
        let backend = Backend { node: assigned.node, addr: node.addr, zone: node.zone.clone(), phase: assigned.phase };
        backends.entry((id.app.clone(), id.service.clone())).or_default().insert(id.clone(), backend);
    }
    LbOrder { routes, backends }
}

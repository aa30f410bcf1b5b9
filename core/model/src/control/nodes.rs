//! Commands about nodes: found, admit, announce, set availability, remove; and the level that all of them understand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::limits::{LEFT_MAX, NODES_MAX, ROLES_MAX, at_most, check_node, check_version};
use super::{ClusterInfo, Context, ControlState, LeftNode, Outcome, Refusal, TokenGrants, not_found};
use crate::id::*;
use crate::spec::{Availability, Capacity, NodeSpec};

pub(super) fn found(
    state: &mut ControlState,
    context: &Context,
    cluster: ClusterInfo,
    node: NodeSpec,
) -> Result<Outcome, Refusal> {
    if !state.spec.nodes.is_empty() || state.next_node != NodeId::default() {
        return Err(Refusal::Invalid(format!("cluster {} was founded before", state.cluster.id)));
    }
    check_node(&node)?;
    let (id, name) = (NodeId(1), node.name.clone());
    state.cluster = cluster;
    if !state.cluster.sealing.key.is_empty() {
        // The founder made the key.
        state.cluster.sealing.holders.insert(id);
    }
    state.next_node = id.next();
    let message = format!("cluster {} was founded on {name} ({}, zone {})", state.cluster.id, node.addr, node.zone);
    state.spec.nodes.insert(id, node);
    state.spec_index = context.index;
    context.happened(state, &name, &message);
    Ok(Outcome::Admitted { index: context.index, node: id, name })
}

pub(super) fn admit(
    state: &mut ControlState,
    context: &Context,
    mut node: NodeSpec,
    token: String,
) -> Result<Outcome, Refusal> {
    // A node whose answer was lost asks again with the same key: it is told what it became, and uses up nothing.
    if let Some((id, known)) = state.spec.nodes.iter().find(|(_, known)| known.key == node.key) {
        return Ok(Outcome::Admitted { index: context.index, node: *id, name: known.name.clone() });
    }
    check_token(state, context, &token)?;
    check_node(&node)?;
    at_most(|| "number of nodes".into(), state.spec.nodes.len() + 1, NODES_MAX)?;

    if let Some(left) = state.tokens.get_mut(&token).and_then(|record| record.uses_left.as_mut()) {
        *left -= 1;
    }
    let id = state.next_node.max(NodeId(1));
    let name = free_name(state, &node.name);
    let message = format!("{name} joined ({}, zone {})", node.addr, node.zone);
    node.name = name.clone();
    node.availability = Availability::Open;
    state.next_node = id.next();
    state.spec.nodes.insert(id, node);
    state.spec_index = context.index;
    context.happened(state, &name, &message);
    Ok(Outcome::Admitted { index: context.index, node: id, name })
}

fn check_token(state: &ControlState, context: &Context, id: &str) -> Result<(), Refusal> {
    let refused = |reason: &str| Err(Refusal::Token { id: super::limits::cut(id, 64), reason: reason.into() });
    let Some(record) = state.tokens.get(id) else { return refused("unknown here") };
    if record.grants != TokenGrants::Join {
        return refused("it is for people, not for joining");
    }
    if record.revoked {
        return refused("revoked");
    }
    if record.expires_at <= context.at {
        return refused("expired");
    }
    if record.uses_left == Some(0) {
        return refused("used up");
    }
    Ok(())
}

/// `wanted`, or with the lowest number from 2 on that makes it free.
fn free_name(state: &ControlState, wanted: &NodeName) -> NodeName {
    let taken: BTreeSet<&str> = state.spec.nodes.values().map(|node| node.name.as_str()).collect();
    if !taken.contains(wanted.as_str()) {
        return wanted.clone();
    }
    (2u64..)
        .map(|number| {
            let suffix = format!("-{number}");
            let room = NAME_BYTES_MAX - suffix.len();
            let stem = &wanted.as_str()[..wanted.as_str().len().min(room)];
            format!("{}{suffix}", stem.trim_end_matches('-'))
        })
        .find(|name| !taken.contains(name.as_str()))
        .and_then(|name| name.parse().ok())
        .unwrap_or_else(|| wanted.clone())
}

/// What an agent says of itself when it (re)started or changed.
pub(super) struct Announcement {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub addr: SocketAddr,
    pub capacity: Capacity,
    pub built: BTreeSet<RoleName>,
    pub version: String,
}

pub(super) fn announce(state: &mut ControlState, context: &Context, said: Announcement) -> Result<Outcome, Refusal> {
    let known = state.spec.nodes.get_mut(&said.node).ok_or_else(|| not_found("node", said.node))?;
    if said.incarnation < known.incarnation {
        return Err(Refusal::Conflict {
            what: format!("start of {}", known.name),
            expected: said.incarnation.0,
            found: known.incarnation.0,
        });
    }
    check_version(&said.version)?;
    at_most(|| "number of roles".into(), said.built.len(), ROLES_MAX)?;

    let name = known.name.clone();
    let mut news = Vec::new();
    if said.incarnation != known.incarnation {
        let first = known.incarnation == Incarnation(0);
        news.push(if first { "its agent started" } else { "its agent started again" }.to_owned());
    }
    if said.addr != known.addr {
        news.push(format!("it moved from {} to {}", known.addr, said.addr));
    }
    if said.version != known.version {
        news.push(format!("its agent went from version {} to {}", known.version, said.version));
    }
    if said.capacity != known.capacity {
        news.push("its capacity changed".to_owned());
    }
    if said.built != known.built {
        news.push("the roles it can do changed".to_owned());
    }
    if news.is_empty() {
        return Ok(context.done());
    }
    known.incarnation = said.incarnation;
    known.addr = said.addr;
    known.capacity = said.capacity;
    known.built = said.built;
    known.version = said.version;
    state.spec_index = context.index;
    context.happened(state, &name, &format!("{name}: {}", news.join(", ")));
    Ok(context.done())
}

pub(super) fn set_availability(
    state: &mut ControlState,
    context: &Context,
    node: NodeId,
    to: Availability,
) -> Result<Outcome, Refusal> {
    let known = state.spec.nodes.get(&node).ok_or_else(|| not_found("node", node))?;
    let name = known.name.clone();
    if known.availability == to {
        return Ok(context.done());
    }
    let stays = |id: NodeId, other: &NodeSpec| id != node && other.availability != Availability::Leaving;
    if to == Availability::Leaving && !state.spec.nodes.iter().any(|(id, other)| stays(*id, other)) {
        return Err(Refusal::Unsafe(format!("{name} is the last node that stays; to end the cluster, stop its agent")));
    }
    if let Some(known) = state.spec.nodes.get_mut(&node) {
        known.availability = to;
    }
    state.spec_index = context.index;
    let message = match to {
        Availability::Open => format!("{name} was opened: it takes work again"),
        Availability::Cordoned => format!("{name} was cordoned: nothing new goes there"),
        Availability::Draining => format!("{name} is drained: what it has moves away"),
        Availability::Leaving => format!("{name} leaves for good"),
    };
    context.happened(state, &name, &message);
    Ok(context.done())
}

pub(super) fn remove(state: &mut ControlState, context: &Context, node: NodeId) -> Result<Outcome, Refusal> {
    let name = state.spec.nodes.get(&node).ok_or_else(|| not_found("node", node))?.name.clone();
    if state.spec.nodes.len() == 1 {
        return Err(Refusal::Unsafe(format!("{name} is the last node")));
    }
    if !state.plan.verdicts.contains_key(&node)
        && let Some(held) = still_held(state, node)
    {
        return Err(Refusal::Unsafe(format!("{name} still has {held}; try: hirsel drain {name}")));
    }
    if let Some(spec) = state.spec.nodes.remove(&node) {
        state.left.push_back(LeftNode { id: node, at: context.at, spec });
        while state.left.len() > LEFT_MAX {
            state.left.pop_front();
        }
    }
    for role in state.spec.roles.values_mut() {
        role.pins.remove(&node);
        role.moves.retain(|from, to| *from != node && *to != node);
    }
    state.spec_index = context.index;
    context.happened(state, &name, &format!("{name} was removed: it is no member any more"));
    Ok(context.done())
}

/// One node takes the place of another, which was the same machine with a disk that cannot be trusted any more.
pub(super) fn rejoin(
    state: &mut ControlState,
    context: &Context,
    former: NodeId,
    mut node: NodeSpec,
) -> Result<Outcome, Refusal> {
    // As for a node that is admitted: whoever asks again is told what it became.
    if let Some((id, known)) = state.spec.nodes.iter().find(|(_, known)| known.key == node.key) {
        return Ok(Outcome::Admitted { index: context.index, node: *id, name: known.name.clone() });
    }
    let old = state.spec.nodes.get(&former).ok_or_else(|| not_found("node", former))?.clone();
    check_node(&node)?;
    if let Some(instance) = may_act_without_grant(state, former) {
        return Err(Refusal::Unsafe(format!("{} may still run {instance}, which must never run twice", old.name)));
    }
    let id = state.next_node.max(NodeId(1));
    (node.name, node.availability, node.labels) = (old.name.clone(), old.availability, old.labels.clone());
    state.next_node = id.next();
    state.spec.nodes.remove(&former);
    state.left.push_back(LeftNode { id: former, at: context.at, spec: old });
    while state.left.len() > LEFT_MAX {
        state.left.pop_front();
    }
    for role in state.spec.roles.values_mut() {
        if role.pins.remove(&former) {
            role.pins.insert(id);
        }
        role.moves.retain(|from, to| *from != former && *to != former);
    }
    let name = node.name.clone();
    let message =
        format!("{name} joined again as a new node ({former} before, {id} now): its disk had gone back in time");
    state.spec.nodes.insert(id, node);
    state.spec_index = context.index;
    context.happened(state, &name, &message);
    Ok(Outcome::Admitted { index: context.index, node: id, name })
}

/// Something of an exclusive service that `node` may run and that no grant ends: only the word of the node does, and a node that is no
/// member is not asked for it.
fn may_act_without_grant(state: &ControlState, node: NodeId) -> Option<&InstanceId> {
    let plan = &state.plan;
    let wanted = |id: &InstanceId| {
        let service = state.spec.apps.get(&id.app).and_then(|app| app.services.get(&id.service));
        service.is_some_and(|service| service.exclusive)
    };
    let letting = plan.letting_go.iter().find(|(_, letting)| letting.node == node && !letting.granted);
    let placed = || plan.instances.iter().find(|(id, it)| it.node == node && !it.exclusive && wanted(id));
    letting.map(|(id, _)| id).or_else(|| placed().map(|(id, _)| id))
}

/// Raises the feature level, if nobody joined or started since every member was heard to understand it.
pub(super) fn raise_level(
    state: &mut ControlState,
    context: &Context,
    to: u32,
    understood: &BTreeMap<NodeId, Incarnation>,
) -> Result<Outcome, Refusal> {
    if to <= state.cluster.feature_level {
        return Ok(context.done());
    }
    if let Some((_, node)) = state.spec.nodes.iter().find(|(id, node)| understood.get(id) != Some(&node.incarnation)) {
        let words = format!("nobody heard {}, as it runs now, say that it understands level {to}", node.name);
        return Err(Refusal::Unsafe(format!("{words}; try: hirsel upgrade --plan")));
    }
    state.cluster.feature_level = to;
    let message = format!("every node understands feature level {to}: older builds cannot join or come back");
    context.happened(state, "upgrade", &message);
    Ok(context.done())
}

/// Something the plan still gives to `node`.
fn still_held(state: &ControlState, node: NodeId) -> Option<String> {
    let plan = &state.plan;
    let slot = plan.roles.iter().find_map(|(role, slots)| {
        let (slot, _) = slots.iter().find(|(_, assignment)| assignment.node == node)?;
        Some(format!("role {role}/{slot}"))
    });
    let instance = || plan.instances.iter().find(|(_, it)| it.node == node).map(|(id, _)| format!("instance {id}"));
    let seat = || plan.voters.contains(&node).then(|| "a vote".to_owned());
    let spare = || plan.spares.contains(&node).then(|| "the place of a spare voter".to_owned());
    // Who leaves says first that it let go: that a node is no member is taken for the word that it is off.
    let letting = || plan.letting_go.iter().find(|(_, it)| it.node == node).map(|(id, _)| format!("instance {id}"));
    slot.or_else(instance).or_else(letting).or_else(seat).or_else(spare)
}

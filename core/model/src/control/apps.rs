//! Commands about applications and wishes about roles.
//!
//! A service keeps its revision as long as the way to run an instance of it stays the same, so that applying a manifest in which only
//! a count or a route changed replaces nothing. What instances of an older revision run by is kept in [`ControlState::former`].

use std::collections::{BTreeMap, BTreeSet};

use super::limits::{APPS_MAX, FORMER_MAX, NODES_MAX, at_most, check_app, check_replicas};
use super::{Context, ControlState, Outcome, Refusal, access, buckets, not_found, ports, routes, secrets, zones};
use crate::id::*;
use crate::spec::{AccessLog, AppSpec, Availability, LogFormat, Replicas, RoleSpec, ServiceSpec};

pub(super) fn apply_app(
    state: &mut ControlState,
    context: &Context,
    app: AppName,
    mut new: AppSpec,
) -> Result<Outcome, Refusal> {
    check_app(&new)?;
    routes::check_owners(state, &app, &new)?;
    ports::check_owners(state, &app, &new)?;
    zones::check_owners(state, &app, &new)?;
    buckets::check_owners(state, &app, &new)?;
    routes::check_secrets(state, &app, &new)?;
    secrets::fill_in(state, &app, &mut new)?;
    let old = state.spec.apps.get(&app);
    at_most(|| "number of applications".into(), state.spec.apps.len() + usize::from(old.is_none()), APPS_MAX)?;

    let old = old.cloned();
    // An application that was removed and comes back goes on counting: instances of its former life may still be draining.
    let before = old.as_ref().map_or_else(|| highest_former(state, &app), |old| old.revision);
    new.revision = before.next();
    for (name, service) in &mut new.services {
        let old = old.as_ref().and_then(|old| old.services.get(name));
        service.revision = match old {
            Some(old) if runs_alike(old, service) && !was_reverted(state, &app, name, old.revision) => old.revision,
            _ => new.revision,
        };
    }
    let message = format!("{app} was applied: revision {}", new.revision);
    state.spec.apps.insert(app.clone(), new);
    if let Some(old) = old {
        keep_former(state, &app, old);
    }
    access::follow(state, &app);
    state.spec_index = context.index;
    context.happened(state, &app, &message);
    Ok(context.done())
}

/// Whether an instance of `old` need not be replaced to be one of `new`: counts, constraints and the manner of updating are wishes
/// to the planner and change no instance.
fn runs_alike(old: &ServiceSpec, new: &ServiceSpec) -> bool {
    let ServiceSpec {
        revision: _,
        command,
        workdir,
        env,
        user,
        replicas: _,
        resources,
        health,
        update: _,
        stop,
        constraints: _,
        spread: _,
        exclusive,
        secrets,
        protocol,
    } = new;
    (command, workdir, env, user, resources, health, stop)
        == (&old.command, &old.workdir, &old.env, &old.user, &old.resources, &old.health, &old.stop)
        && (exclusive, secrets, protocol) == (&old.exclusive, &old.secrets, &old.protocol)
}

/// Whether the planner went back from `revision`. Applying the same again then means: try again.
fn was_reverted(state: &ControlState, app: &AppName, service: &ServiceName, revision: Revision) -> bool {
    state.plan.reverted.get(app).and_then(|services| services.get(service)) == Some(&revision)
}

fn highest_former(state: &ControlState, app: &AppName) -> Revision {
    let services = state.former.get(app).into_iter().flat_map(|services| services.values());
    let former = services.filter_map(|revisions| revisions.keys().next_back()).max().copied();
    let planned = state.plan.instances.iter().filter(|(id, _)| id.app == *app).map(|(_, it)| it.revision).max();
    former.max(planned).unwrap_or_default()
}

pub(super) fn scale(
    state: &mut ControlState,
    context: &Context,
    app: AppName,
    service: ServiceName,
    replicas: Replicas,
) -> Result<Outcome, Refusal> {
    check_replicas(service.as_str(), replicas)?;
    let spec = state.spec.apps.get_mut(&app).ok_or_else(|| not_found("app", &app))?;
    let found = spec.services.get_mut(&service).ok_or_else(|| not_found("service", format!("{app}/{service}")))?;
    if found.exclusive && replicas.max > 1 {
        return Err(Refusal::Unsafe(format!("{app}/{service} is exclusive: never two at once")));
    }
    let old = std::mem::replace(&mut found.replicas, replicas);
    if old == replicas {
        return Ok(context.done());
    }
    state.spec_index = context.index;
    let message = format!("{app}/{service} was scaled from {} to {}", counted(old), counted(replicas));
    context.happened(state, &app, &message);
    Ok(context.done())
}

fn counted(Replicas { min, max }: Replicas) -> String {
    if min == max { min.to_string() } else { format!("{min}–{max}") }
}

pub(super) fn restart(
    state: &mut ControlState,
    context: &Context,
    app: AppName,
    service: Option<ServiceName>,
) -> Result<Outcome, Refusal> {
    let spec = state.spec.apps.get(&app).ok_or_else(|| not_found("app", &app))?;
    if let Some(service) = &service
        && !spec.services.contains_key(service)
    {
        return Err(not_found("service", format!("{app}/{service}")));
    }
    let names = spec.services.keys().filter(|name| service.as_ref().is_none_or(|service| service == *name));
    let revision = replace(state, &app, &names.cloned().collect());
    state.spec_index = context.index;
    let what = service.map_or_else(|| app.to_string(), |service| format!("{app}/{service}"));
    context.happened(state, &app, &format!("{what} is restarted: revision {revision}"));
    Ok(context.done())
}

/// Has the instances of these services replaced by new ones: the revision of those.
pub(super) fn replace(state: &mut ControlState, app: &AppName, services: &BTreeSet<ServiceName>) -> Revision {
    let Some(spec) = state.spec.apps.get_mut(app) else { return Revision(0) };
    let old = spec.clone();
    let revision = spec.revision.next();
    spec.revision = revision;
    for (_, found) in spec.services.iter_mut().filter(|(name, _)| services.contains(*name)) {
        found.revision = revision;
    }
    keep_former(state, app, old);
    revision
}

pub(super) fn set_stopped(
    state: &mut ControlState,
    context: &Context,
    app: AppName,
    stopped: bool,
) -> Result<Outcome, Refusal> {
    let spec = state.spec.apps.get_mut(&app).ok_or_else(|| not_found("app", &app))?;
    if spec.stopped == stopped {
        return Ok(context.done());
    }
    spec.stopped = stopped;
    state.spec_index = context.index;
    let message = if stopped { format!("{app} was stopped") } else { format!("{app} was started") };
    context.happened(state, &app, &message);
    Ok(context.done())
}

pub(super) fn remove_app(state: &mut ControlState, context: &Context, app: AppName) -> Result<Outcome, Refusal> {
    let old = state.spec.apps.remove(&app).ok_or_else(|| not_found("app", &app))?;
    keep_former(state, &app, old);
    state.spec_index = context.index;
    context.happened(state, &app, &format!("{app} was removed"));
    Ok(context.done())
}

pub(super) fn set_role(
    state: &mut ControlState,
    context: &Context,
    role: RoleName,
    spec: RoleSpec,
) -> Result<Outcome, Refusal> {
    if !state.spec.nodes.values().any(|node| node.built.contains(&role)) {
        return Err(not_found("role", &role));
    }
    at_most(|| format!("slots of role {role}"), usize::from(spec.count.unwrap_or(0)), NODES_MAX)?;
    if let Some(missing) = spec.pins.iter().find(|node| !state.spec.nodes.contains_key(node)) {
        return Err(not_found("node", missing));
    }
    if state.spec.roles.get(&role).cloned().unwrap_or_default() == spec {
        return Ok(context.done());
    }
    let count = spec.count.map_or_else(|| "the default number of slots".into(), |count| format!("{count} slots"));
    let pins: Vec<_> = spec.pins.iter().map(|node| state.spec.name_of(*node)).collect();
    let pins = if pins.is_empty() { String::new() } else { format!(", first on {}", pins.join(", ")) };
    let log = match spec.log {
        None => "",
        Some(AccessLog { format: LogFormat::Json, .. }) => {
            "; its requests are written down as JSON unless a route says otherwise"
        }
        Some(AccessLog { format: LogFormat::Combined, .. }) => {
            "; its requests are written down in the combined format unless a route says otherwise"
        }
    };
    let message = format!("role {role} shall have {count}{pins}{log}");
    state.spec.roles.insert(role.clone(), spec);
    state.spec_index = context.index;
    context.happened(state, format!("role/{role}"), &message);
    Ok(context.done())
}

/// Asks for one slot to change hands. Refused when the planner could not do it, or would move a slot back for the spread over zones.
pub(super) fn move_role(
    state: &mut ControlState,
    context: &Context,
    role: RoleName,
    from: NodeId,
    to: NodeId,
) -> Result<Outcome, Refusal> {
    let nodes = &state.spec.nodes;
    if !nodes.values().any(|node| node.built.contains(&role)) {
        return Err(not_found("role", &role));
    }
    let known = |id: NodeId| nodes.get(&id).ok_or_else(|| not_found("node", id));
    let (source, target) = (known(from)?, known(to)?);
    let slots = state.plan.roles.get(&role);
    let holders: BTreeSet<NodeId> = slots.into_iter().flat_map(BTreeMap::values).map(|slot| slot.node).collect();
    let name = |id: &NodeId| state.spec.name_of(*id);
    if !holders.contains(&from) {
        let who: Vec<_> = holders.iter().map(name).collect();
        let who = if who.is_empty() { "nobody has one".into() } else { format!("it is on {}", who.join(", ")) };
        return Err(Refusal::Invalid(format!("{} holds no slot of {role}: {who}; try: hirsel roles", source.name)));
    }
    if holders.contains(&to) {
        return Err(Refusal::Invalid(format!("{} holds {role} already; a node has one slot of a role", target.name)));
    }
    if !target.built.contains(&role) {
        return Err(Refusal::Invalid(format!("the agent of {} cannot do {role}", target.name)));
    }
    if target.availability != Availability::Open || state.plan.verdicts.contains_key(&to) {
        let message = format!("{} takes nothing new now; try: hirsel uncordon {0}, or: hirsel why {0}", target.name);
        return Err(Refusal::Invalid(message));
    }
    let wishes = state.spec.roles.get(&role);
    if wishes.is_some_and(|wishes| wishes.pins.contains(&from)) {
        let message = format!("{role} is pinned to {0}; try: hirsel role unpin {role} {0}", source.name);
        return Err(Refusal::Invalid(message));
    }
    if let Some(zone) = emptier_zone(state, &role, &holders, from, to) {
        return Err(Refusal::Unsafe(format!(
            "{role} is spread over zones, and zone {} would have two more of it than zone {zone}: it would be moved back; \
             to insist: hirsel role pin {role} {}",
            target.zone, target.name
        )));
    }
    let message = format!("role {role} shall move from {} to {}", source.name, target.name);
    let wishes = state.spec.roles.entry(role.clone()).or_default();
    if wishes.moves.insert(from, to) == Some(to) {
        return Ok(context.done());
    }
    state.spec_index = context.index;
    context.happened(state, format!("role/{role}"), &message);
    Ok(context.done())
}

/// A zone with a free node that would have at least two fewer of `role` than the zone of `to`: balance would give it one.
fn emptier_zone(
    state: &ControlState,
    role: &RoleName,
    holders: &BTreeSet<NodeId>,
    from: NodeId,
    to: NodeId,
) -> Option<ZoneName> {
    let nodes = &state.spec.nodes;
    let zone = |node: NodeId| nodes.get(&node).map(|node| (&node.site, &node.zone));
    let after: BTreeSet<NodeId> = holders.iter().copied().filter(|node| *node != from).chain([to]).collect();
    let count = |at| after.iter().filter(|node| zone(**node) == at).count();
    let there = count(zone(to));
    let is_free = |(id, node): &(&NodeId, &crate::spec::NodeSpec)| {
        let open = node.availability == Availability::Open && !state.plan.verdicts.contains_key(id);
        open && node.built.contains(role) && !after.contains(id)
    };
    let free = nodes.iter().filter(is_free).map(|(id, _)| *id);
    let emptier = free.filter(|id| there >= count(zone(*id)) + 2).filter_map(zone).next();
    emptier.map(|(_, zone)| zone.clone())
}

/// Keeps the descriptions of `old` that are no longer those of the spec.
pub(super) fn keep_former(state: &mut ControlState, app: &AppName, old: AppSpec) {
    let current = state.spec.apps.get(app);
    for (name, service) in old.services {
        if current.and_then(|app| app.services.get(&name)).is_none_or(|now| now.revision != service.revision) {
            let former = state.former.entry(app.clone()).or_default().entry(name).or_default();
            former.insert(service.revision, service);
        }
    }
    forget_former(state);
}

/// Drops former descriptions that no instance runs by any more. The newest former one of a service stays, and the one that was seen to
/// work, to go back to.
pub(super) fn forget_former(state: &mut ControlState) {
    if state.former.is_empty() {
        return;
    }
    let in_use: std::collections::BTreeSet<_> =
        state.plan.instances.iter().map(|(id, it)| (&id.app, &id.service, it.revision)).collect();
    for (app, services) in &mut state.former {
        for (service, revisions) in services.iter_mut() {
            let declared = state.spec.apps.get(app).is_some_and(|spec| spec.services.contains_key(service));
            let newest = revisions.keys().next_back().copied().filter(|_| declared);
            let proven = state.plan.proven.get(app).and_then(|proven| proven.get(service)).filter(|_| declared);
            let stays = |revision: &Revision| Some(*revision) == newest || Some(revision) == proven;
            revisions.retain(|revision, _| stays(revision) || in_use.contains(&(app, service, *revision)));
            while revisions.len() > FORMER_MAX
                && let Some(oldest) = revisions.keys().find(|revision| Some(*revision) != proven).copied()
            {
                revisions.remove(&oldest);
            }
        }
        services.retain(|_, revisions| !revisions.is_empty());
    }
    state.former.retain(|_, services| !services.is_empty());
}

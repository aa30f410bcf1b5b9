//! Never two at once: an exclusive instance that leaves the plan is remembered until it can act no more, and nothing takes its place
//! before. What makes that sure is told in [`crate::grant`].

use std::collections::{BTreeMap, BTreeSet};

use super::ground::Ground;
use super::{Draft, long, reason};
use crate::feature;
use crate::grant::GRANT_OVER;
use crate::id::*;
use crate::plan::{Because, Candidates, InstanceAssignment, LettingGo, Phase, Plan, Reason};
use crate::report::{InstanceState, RoleFacts, RoleState};
use crate::view::View;

/// Forgets what has let go, and keeps why it was dropped for whatever takes its place.
pub(super) fn clear(view: &View, draft: &mut Draft) {
    let let_go = &mut draft.let_go;
    draft.plan.letting_go.retain(|id, letting| {
        let over = how_it_let_go(view, id, letting).is_some();
        if over {
            let_go.insert((id.app.clone(), id.service.clone()), letting.reason.clone());
        }
        !over
    });
}

/// How it is known that an instance can act no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LetGo {
    /// Its node said so.
    Confirmed,
    /// Every grant for it is over.
    RanOut,
    /// Somebody said that its node is gone for good.
    Gone,
}

/// How it is known that the instance can act no more; none while it may.
pub(super) fn how_it_let_go(view: &View, id: &InstanceId, letting: &LettingGo) -> Option<LetGo> {
    if has_confirmed(view, id, letting) {
        Some(LetGo::Confirmed)
    } else if view.plan.estranged.nodes.contains_key(&letting.node) || (letting.granted && !has_run_out(view, id)) {
        // Who was given up may have a leader, whose grants nobody here knows of.
        None
    } else if letting.granted && is_refused(view, id) {
        Some(LetGo::RanOut)
    } else {
        is_off(view, letting.node).then_some(LetGo::Gone)
    }
}

/// Whether somebody said so: by forgetting the node, or of one that was given up when the control group was founded anew. A node that
/// leaves by itself is a member until it has said that it let go of everything.
fn is_off(view: &View, node: NodeId) -> bool {
    !view.spec.nodes.contains_key(&node) && !view.plan.estranged.nodes.contains_key(&node)
}

/// Its node follows the plan that dropped it, and says that it does not run.
fn has_confirmed(view: &View, id: &InstanceId, letting: &LettingGo) -> bool {
    let report = view.nodes.get(&letting.node).and_then(|facts| facts.report.as_ref());
    let Some(compute) = report.and_then(|report| report.roles.get(&RoleName::compute())) else { return false };
    let ended = match &compute.facts {
        RoleFacts::Compute(all) => all.get(id).is_none_or(|facts| facts.state == InstanceState::Ended),
        RoleFacts::None => compute.state == RoleState::Stopped,
        RoleFacts::Lb(_) | RoleFacts::Address(_) | RoleFacts::Storage(_) | RoleFacts::Unknown => false,
    };
    compute.generation >= letting.since && ended
}

/// No grant for it can run any more, of this leader or of one before it, and no long one.
fn has_run_out(view: &View, id: &InstanceId) -> bool {
    let led = view.now.since(view.leading_since);
    led >= GRANT_OVER && view.granted.get(id).is_none_or(|ago| *ago >= GRANT_OVER) && !long::may_run(view, id)
}

/// No promise keeps it going: nobody could give one, or somebody who would have to has refused for longer than one runs.
fn is_refused(view: &View, id: &InstanceId) -> bool {
    bound(view, id).is_empty() || view.refused_for.get(id).is_some_and(|time| *time >= GRANT_OVER)
}

/// Where the next one may be started although `id` may act on by promises: on a node that has to promise, and so starts nothing as long
/// as one of its own runs, or on the node of `id` itself.
fn may_follow_on(view: &View, plan: &Plan, id: &InstanceId) -> BTreeSet<NodeId> {
    match plan.letting_go.get(id) {
        Some(letting) if letting.granted && view.plan.letting_go.contains_key(id) && has_run_out(view, id) => {
            bound(view, id).into_iter().chain([letting.node]).collect()
        }
        Some(_) | None => BTreeSet::new(),
    }
}

/// Nodes that have to promise whichever list its node goes by.
fn bound(view: &View, id: &InstanceId) -> BTreeSet<NodeId> {
    view.plan.candidates.get(id).map(Candidates::bound).unwrap_or_default()
}

/// Where an exclusive service may be started now.
pub(super) enum Clear {
    /// Anywhere.
    Anywhere,
    /// On these nodes alone.
    On(BTreeSet<NodeId>),
    /// Nowhere; what is waited for, in words.
    Nowhere(String),
}

/// Whether, and where, an exclusive service may be started besides what is `listed`.
pub(super) fn clearance(
    view: &View,
    plan: &Plan,
    service: (&AppName, &ServiceName),
    listed: impl Fn(&InstanceId) -> bool,
) -> Clear {
    let estranged = &view.plan.estranged;
    if estranged.services.contains(&(service.0.clone(), service.1.clone())) {
        let names = estranged.names();
        let words = format!("waits until somebody has made sure that it does not act on {names}, given up");
        return Clear::Nowhere(format!("{words}; when they are off: hirsel recover --off"));
    }
    let mut clear = Clear::Anywhere;
    for (id, node) in in_the_way(view, plan, service, listed) {
        let mut on = may_follow_on(view, plan, &id);
        if let Clear::On(others) = &clear {
            on.retain(|node| others.contains(node));
        }
        if on.is_empty() {
            return Clear::Nowhere(format!("waits until {id} on {} can act no more", view.spec.name_of(node)));
        }
        clear = Clear::On(on);
    }
    clear
}

/// Instances of a service that may act although `plan` does not list them, and their nodes. What only this plan drops is among them.
fn in_the_way(
    view: &View,
    plan: &Plan,
    (app, service): (&AppName, &ServiceName),
    listed: impl Fn(&InstanceId) -> bool,
) -> BTreeMap<InstanceId, NodeId> {
    let numbered = |number| InstanceId { app: app.clone(), service: service.clone(), number };
    let all = || numbered(0)..=numbered(u64::MAX);
    let before = view.plan.instances.range(all()).map(|(id, assigned)| (id, assigned.node));
    let letting = plan.letting_go.range(all()).map(|(id, letting)| (id, letting.node));
    before.filter(|(id, _)| !listed(id)).chain(letting).map(|(id, node)| (id.clone(), node)).collect()
}

/// Remembers the exclusive instances that the new plan does not list any more.
pub(super) fn remember(ground: &Ground, draft: &mut Draft) {
    let view = ground.view;
    let wanted = |id: &InstanceId| {
        let service = view.spec.apps.get(&id.app).and_then(|app| app.services.get(&id.service));
        service.is_some_and(|service| service.exclusive)
    };
    for (id, assigned) in &view.plan.instances {
        if draft.plan.instances.contains_key(id) || !(assigned.exclusive || wanted(id)) {
            continue;
        }
        let reason = why_dropped(ground, assigned);
        let letting = LettingGo { node: assigned.node, since: draft.generation, granted: assigned.exclusive, reason };
        draft.plan.letting_go.entry(id.clone()).or_insert(letting);
    }
}

fn why_dropped(ground: &Ground, assigned: &InstanceAssignment) -> Reason {
    let node = assigned.node;
    match ground.row(node).map(|row| &ground.rows[row]) {
        Some(row) if !row.lost && assigned.phase == Phase::Draining => assigned.reason.clone(),
        Some(row) if !row.lost => reason(Because::Wanted, format!("{} let go of it", ground.name(node))),
        Some(_) | None => reason(Because::Lost { node }, format!("{} is lost", ground.name(node))),
    }
}

/// Most nodes that are listed for one instance, but for a list that must keep somebody of the one before. All of them have to answer
/// within a lease while nobody leads, and the lists of a large cluster stay small. Others are given its place as well, once one of
/// these is known to refuse.
const CANDIDATES_MAX: usize = 15;

/// Lists, for each exclusive instance, who may take its place. A list that grows counts only once the holder is known to go by it, so one
/// change follows the other, and each keeps somebody of the list before.
pub(super) fn list_candidates(ground: &Ground, draft: &mut Draft) {
    let view = ground.view;
    if view.level < feature::CANDIDATES.level {
        return;
    }
    let mut listed = std::mem::take(&mut draft.plan.candidates);
    listed.retain(|id, _| draft.plan.instances.contains_key(id) || draft.plan.letting_go.contains_key(id));
    for (id, assigned) in draft.plan.instances.iter().filter(|(_, assigned)| assigned.exclusive) {
        let Some(service) = view.spec.apps.get(&id.app).and_then(|app| app.services.get(&id.service)) else { continue };
        let mut next = ground.candidates(&draft.plan, service);
        next.remove(&assigned.node);
        let mut next: BTreeSet<NodeId> = next.into_iter().take(CANDIDATES_MAX).collect();
        let Some(present) = listed.get_mut(id) else {
            listed.insert(id.clone(), Candidates { nodes: next, since: draft.generation, before: None });
            continue;
        };
        let follows = view.nodes.get(&assigned.node).and_then(|facts| facts.report.as_ref());
        let acknowledged = follows.is_some_and(|report| report.generation >= present.since);
        if present.before.is_some() && !acknowledged {
            continue;
        }
        if next == present.nodes {
            if present.bound() != present.nodes {
                present.before = None;
            }
            continue;
        }
        if !next.is_empty() && next.is_disjoint(&present.nodes) {
            next.extend(&present.nodes);
        }
        let before = Some(std::mem::replace(&mut present.nodes, next));
        (present.before, present.since) = (before, draft.generation);
    }
    draft.plan.candidates = listed;
}

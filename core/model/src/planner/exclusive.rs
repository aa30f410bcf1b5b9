//! Never two at once: an exclusive instance that leaves the plan is remembered until it can act no more, and nothing takes its place
//! before. What makes that sure is told in [`crate::grant`].

use std::collections::BTreeMap;

use super::ground::Ground;
use super::{Draft, reason};
use crate::grant::GRANT_OVER;
use crate::id::*;
use crate::plan::{Because, InstanceAssignment, LettingGo, Phase, Plan, Reason};
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
    /// It had no grants, and the operator said that its node is gone for good.
    Gone,
}

/// How it is known that the instance can act no more; none while it may.
pub(super) fn how_it_let_go(view: &View, id: &InstanceId, letting: &LettingGo) -> Option<LetGo> {
    let member = view.spec.nodes.contains_key(&letting.node);
    if has_confirmed(view, id, letting) {
        Some(LetGo::Confirmed)
    } else if letting.granted {
        has_run_out(view, id).then_some(LetGo::RanOut)
    } else {
        (!member).then_some(LetGo::Gone)
    }
}

/// Its node follows the plan that dropped it, and says that it does not run.
fn has_confirmed(view: &View, id: &InstanceId, letting: &LettingGo) -> bool {
    let report = view.nodes.get(&letting.node).and_then(|facts| facts.report.as_ref());
    let Some(compute) = report.and_then(|report| report.roles.get(&RoleName::compute())) else { return false };
    let ended = match &compute.facts {
        RoleFacts::Compute(all) => all.get(id).is_none_or(|facts| facts.state == InstanceState::Ended),
        RoleFacts::None => compute.state == RoleState::Stopped,
        RoleFacts::Lb(_) | RoleFacts::Unknown => false,
    };
    compute.generation >= letting.since && ended
}

/// No grant for it can run any more, of this leader or of one before it.
fn has_run_out(view: &View, id: &InstanceId) -> bool {
    let led = view.now.since(view.leading_since);
    led >= GRANT_OVER && view.granted.get(id).is_none_or(|ago| *ago >= GRANT_OVER)
}

/// Instances of a service that may act although `plan` does not list them, and their nodes. What only this plan drops is among them.
pub(super) fn in_the_way(
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

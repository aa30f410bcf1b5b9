//! Whether `why` names the true cause: whoever broke something here knows what it was.
//!
//! Looked at with each plan: what left a node that was judged while something was wrong with it was moved because of that node. The chain
//! that `why` tells for each such thing must begin with it, or with its zone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hirsel::api::sight::Sight;
use hirsel::api::views::why::why;
use hirsel_model::control::ControlState;
use hirsel_model::plan::Phase;
use hirsel_model::{AppName, NodeId, ServiceName};

/// Something that moved, and the nodes of which one is the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// As `why` takes it.
    pub thing: String,
    /// The nodes it, or one like it, was taken from.
    pub from: BTreeSet<NodeId>,
}

/// What moved between two states, away from nodes that are judged in the second.
pub fn moved(before: &ControlState, after: &ControlState) -> Vec<Moved> {
    let judged = |node: &NodeId| after.plan.verdicts.contains_key(node);
    let mut moved = Vec::new();
    for (role, slots) in &after.plan.roles {
        for (slot, held) in slots {
            let held_before = before.plan.roles.get(role).and_then(|slots| slots.get(slot)).map(|held| held.node);
            if let Some(from) = held_before.filter(|from| *from != held.node && judged(from)) {
                moved.push(Moved { thing: format!("{role}/{slot}"), from: [from].into() });
            }
        }
    }
    let mut lost: BTreeMap<(&AppName, &ServiceName), BTreeSet<NodeId>> = BTreeMap::new();
    for (id, placed) in before.plan.instances.iter().filter(|(_, placed)| placed.phase == Phase::Active) {
        let gone = after.plan.instances.get(id).is_none_or(|now| now.phase != Phase::Active);
        if gone && judged(&placed.node) {
            lost.entry((&id.app, &id.service)).or_default().insert(placed.node);
        }
    }
    for id in after.plan.instances.keys().filter(|id| !before.plan.instances.contains_key(id)) {
        if let Some(from) = lost.get(&(&id.app, &id.service)) {
            moved.push(Moved { thing: id.to_string(), from: from.clone() });
        }
    }
    moved
}

/// Whether the chain of `why` for what moved begins with one of the nodes it was taken from, or its zone. Otherwise, what it begins with.
pub fn is_named(state: &Arc<ControlState>, moved: &Moved) -> Result<(), String> {
    let sight = Sight { state: state.clone(), ..Sight::default() };
    let told = why(&sight, &moved.thing).map_err(|error| error.message)?;
    let root = told.because.last().map(|link| link.subject.clone()).unwrap_or_default();
    let names = |node: &NodeId| {
        let zone = state.spec.nodes.get(node).map(|spec| format!("zone/{}", spec.zone));
        root == state.spec.name_of(*node) || Some(&root) == zone.as_ref()
    };
    if moved.from.iter().any(names) { Ok(()) } else { Err(format!("{} is said to begin with {root:?}", moved.thing)) }
}

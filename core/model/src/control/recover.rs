//! The first command of another foundation: who is given up, and what nobody may confuse with the past.

use std::collections::BTreeSet;

use super::limits::LEFT_MAX;
use super::{Context, ControlState, LeftNode, Outcome, Refusal, not_found};
use crate::id::NodeId;
use crate::tag::Tag;

/// What was decided by those who are lost and reached nobody else may have used the next numbers of instances (which fence what they
/// do) and nodes. Nobody decides so much between two syncs.
const NUMBERS_LEFT_OUT: u64 = 10_000;

pub(super) fn recover(
    state: &mut ControlState,
    context: &Context,
    tag: Tag,
    survivor: NodeId,
    lost: &BTreeSet<NodeId>,
) -> Result<Outcome, Refusal> {
    if state.cluster.tag == tag {
        return Ok(context.done());
    }
    if tag.epoch != state.cluster.tag.epoch.saturating_add(1) {
        return Err(Refusal::Conflict {
            what: "epoch of the cluster".into(),
            expected: tag.epoch,
            found: state.cluster.tag.epoch,
        });
    }
    if lost.contains(&survivor) || !state.spec.nodes.contains_key(&survivor) {
        return Err(not_found("node", survivor));
    }
    let names: Vec<String> = lost.iter().map(|node| state.spec.name_of(*node)).collect();
    let before = state.spec.clone();
    for node in lost {
        let Some(spec) = state.spec.nodes.remove(node) else { continue };
        state.left.push_back(LeftNode { id: *node, at: context.at, spec });
        while state.left.len() > LEFT_MAX {
            state.left.pop_front();
        }
    }
    for role in state.spec.roles.values_mut() {
        role.pins.retain(|node| !lost.contains(node));
        role.moves.retain(|from, to| !lost.contains(from) && !lost.contains(to));
    }
    let plan = &mut state.plan;
    plan.voters = BTreeSet::from([survivor]);
    plan.spares.clear();
    plan.verdicts.retain(|node, _| !lost.contains(node));
    plan.generation = plan.generation.next();
    plan.next_instance = plan.next_instance.saturating_add(NUMBERS_LEFT_OUT);
    state.next_node = NodeId(state.next_node.0.saturating_add(NUMBERS_LEFT_OUT));
    // The other foundation knows them too: here they let nobody in any more.
    state.tokens.clear();
    if state.spec != before {
        state.spec_index = context.index;
    }
    let name = state.spec.name_of(survivor);
    let message = format!(
        "the control group was founded anew on {name} with tag {tag} (before: {}); given up: {}",
        state.cluster.tag,
        if names.is_empty() { "nobody".into() } else { names.join(", ") }
    );
    state.cluster.tag = tag;
    context.happened(state, &name, &message);
    Ok(context.done())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::samples::{cluster, place};
    use crate::control::{Command, Entry};
    use crate::id::{Generation, LogIndex};
    use crate::time::WallTime;

    #[test]
    fn another_foundation_gives_up_the_lost_and_reuses_no_number() {
        let mut state = cluster(5);
        state.cluster.feature_level = 2;
        state.plan.voters = (1..=5).map(NodeId).collect();
        state.plan.next_instance = 7;
        state.plan.instances.insert(crate::control::samples::instance("shop/web/6"), place(1, 1));
        let (generation, next_node) = (state.plan.generation, state.next_node);
        let tag = Tag::default().next(5);
        let mut run = |tag: &Tag, survivor, lost: &[u64]| {
            let lost = lost.iter().copied().map(NodeId).collect();
            let command = Command::Recover { tag: tag.clone(), survivor: NodeId(survivor), lost };
            let entry = Entry { at: WallTime(0), by: "n4".into(), if_index: None, command };
            let index = state.applied.next();
            (state.apply(index, entry), state.clone())
        };
        let (refused, _) = run(&tag.next(1), 4, &[1]);
        assert!(matches!(refused, Outcome::Refused(Refusal::Conflict { .. })), "{refused:?}");
        assert!(matches!(run(&tag, 4, &[4]).0, Outcome::Refused(_)), "it cannot give itself up");
        let (done, after) = run(&tag, 4, &[1, 2, 3]);
        assert!(matches!(done, Outcome::Done { .. }), "{done:?}");
        assert_eq!(after.spec.nodes.keys().copied().collect::<Vec<_>>(), [NodeId(4), NodeId(5)]);
        assert_eq!((after.left.len(), after.tokens.len(), &after.cluster.tag), (3, 0, &tag));
        assert_eq!((after.plan.voters, after.plan.generation), ([NodeId(4)].into(), Generation(generation.0 + 1)));
        assert!(after.plan.next_instance > 7 + 100 && after.next_node.0 > next_node.0 + 100);
        assert!(after.spec_index > LogIndex(0));
        // Said twice, done once.
        let (again, same) = run(&tag, 4, &[1, 2, 3]);
        assert!(matches!(again, Outcome::Done { .. }));
        assert_eq!(same.plan.generation, Generation(generation.0 + 1));
    }
}

//! The first command of another foundation: who is given up, and what nobody may confuse with the past.
//!
//! Those who are given up may go on behind a cut. What is plural may; for what is exclusive see [`Estranged`].

use std::collections::{BTreeMap, BTreeSet};

use super::limits::LEFT_MAX;
use super::{Context, ControlState, LeftNode, Outcome, Refusal, long, not_found};
use crate::id::{AppName, Generation, NodeId, NodeName, ServiceName};
use crate::plan::{Because, LettingGo, Plan, Reason};
use crate::spec::Spec;
use crate::tag::Tag;

#[cfg(doc)]
use crate::plan::Estranged;

/// What was decided by those who are lost and reached nobody else may have used the next numbers of plans, instances (which fence what
/// they do), nodes, secrets' values, certificates and keys. Nobody decides so much between two syncs.
const NUMBERS_LEFT_OUT: u64 = 10_000;

pub(super) fn recover(
    state: &mut ControlState,
    context: &Context,
    tag: Tag,
    survivor: NodeId,
    lost: &BTreeSet<NodeId>,
    off: bool,
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
    let given_up = lost.iter().filter_map(|node| Some((*node, state.spec.nodes.get(node)?.name.clone())));
    let given_up: BTreeMap<NodeId, NodeName> = given_up.collect();
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
    plan.generation = Generation(plan.generation.0.saturating_add(NUMBERS_LEFT_OUT));
    if !off && !given_up.is_empty() {
        estrange(plan, &before, given_up);
    }
    plan.next_instance = plan.next_instance.saturating_add(NUMBERS_LEFT_OUT);
    long::assume(state, context);
    state.next_node = NodeId(state.next_node.0.saturating_add(NUMBERS_LEFT_OUT));
    // Whoever was told a value or a key by those who are lost must not take it for another of the same number.
    state.secrets.last = state.secrets.last.saturating_add(NUMBERS_LEFT_OUT);
    state.certificates.last = state.certificates.last.saturating_add(NUMBERS_LEFT_OUT);
    state.access.last = state.access.last.saturating_add(NUMBERS_LEFT_OUT);
    state.tickets.last = state.tickets.last.saturating_add(NUMBERS_LEFT_OUT);
    state.signing.last = state.signing.last.saturating_add(NUMBERS_LEFT_OUT);
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

/// Exclusive services that run, or shall run, and which the nodes that are given up may run too.
fn exclusive(plan: &Plan, spec: &Spec) -> BTreeSet<(AppName, ServiceName)> {
    let described = spec.apps.iter().flat_map(|(app, spec)| {
        let services = spec.services.iter().filter(|(_, service)| service.exclusive);
        services.map(|(service, _)| (app.clone(), service.clone()))
    });
    let listed = plan.instances.iter().filter(|(_, assigned)| assigned.exclusive).map(|(id, _)| id);
    let named = listed.chain(plan.letting_go.keys()).map(|id| (id.app.clone(), id.service.clone()));
    described.chain(named).collect()
}

/// Takes every exclusive service out of the plan until somebody has said that the nodes are off. Those that survive end what they run
/// of it, for it may have been given to a node that is lost before it was lost, or may be given to it now.
pub(super) fn estrange(plan: &mut Plan, spec: &Spec, given_up: BTreeMap<NodeId, NodeName>) {
    let services = exclusive(plan, spec);
    let withheld = |id: &crate::id::InstanceId| services.contains(&(id.app.clone(), id.service.clone()));
    let dropped: Vec<_> = plan.instances.keys().filter(|id| withheld(id)).cloned().collect();
    for id in dropped {
        let Some(assigned) = plan.instances.remove(&id) else { continue };
        let text = format!("{}/{} may act on nodes that were given up", id.app, id.service);
        let first = given_up.keys().next().copied().unwrap_or(assigned.node);
        let node = if given_up.contains_key(&assigned.node) { assigned.node } else { first };
        let reason = Reason { because: Because::Lost { node }, text };
        let letting = LettingGo { node: assigned.node, since: plan.generation, granted: assigned.exclusive, reason };
        plan.letting_go.insert(id, letting);
    }
    plan.estranged.nodes.extend(given_up);
    plan.estranged.services.extend(services);
}

/// An operator has made sure that these nodes, which were given up, are off.
pub(super) fn confirm_off(
    state: &mut ControlState,
    context: &Context,
    nodes: &BTreeSet<NodeId>,
) -> Result<Outcome, Refusal> {
    let estranged = &mut state.plan.estranged;
    if let Some(other) = nodes.iter().find(|node| !estranged.nodes.contains_key(node)) {
        return Err(not_found("node that was given up and may be on", *other));
    }
    let names: Vec<String> =
        nodes.iter().filter_map(|node| estranged.nodes.remove(node)).map(|it| it.to_string()).collect();
    if names.is_empty() {
        return Ok(context.done());
    }
    if estranged.nodes.is_empty() {
        estranged.services.clear();
    }
    // Looked at by a plan of its own: what is under way was made from what was known before.
    state.plan.generation = state.plan.generation.next();
    let message = format!("{} are off: what they may have run exclusively may be run elsewhere", names.join(", "));
    context.happened(state, "recovery", &message);
    Ok(context.done())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::samples::{self, cluster, place};
    use crate::control::{Command, Entry};
    use crate::id::LogIndex;
    use crate::plan::{Estranged, InstanceAssignment};
    use crate::spec::ServiceSpec;
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
            let command = Command::Recover { tag: tag.clone(), survivor: NodeId(survivor), lost, off: false };
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
        assert_eq!(after.plan.voters, [NodeId(4)].into());
        assert!(after.plan.generation.0 > generation.0 + 100);
        assert!(after.plan.next_instance > 7 + 100 && after.next_node.0 > next_node.0 + 100);
        assert!(after.spec_index > LogIndex(0));
        // Said twice, done once.
        let (again, same) = run(&tag, 4, &[1, 2, 3]);
        assert!(matches!(again, Outcome::Done { .. }));
        assert_eq!(same.plan.generation, after.plan.generation);
    }

    /// Node 1 and 4 run one exclusive instance each, and something plural runs beside them.
    fn two_exclusive() -> ControlState {
        let mut state = cluster(5);
        let one = ServiceSpec { exclusive: true, ..samples::service("one") };
        let app = samples::app(&[("one", one.clone()), ("two", one), ("web", samples::service("web"))]);
        state.spec.apps.insert(samples::named("shop"), app);
        for (id, node, exclusive) in [("shop/one/1", 1, true), ("shop/two/2", 4, true), ("shop/web/3", 4, false)] {
            let placed = InstanceAssignment { exclusive, ..place(node, 1) };
            state.plan.instances.insert(samples::instance(id), placed);
        }
        state
    }

    #[test]
    fn nothing_exclusive_is_given_to_anybody_before_the_lost_are_known_to_be_off() {
        let mut state = two_exclusive();
        let mut run = |command| {
            let entry = Entry { at: WallTime(0), by: "n4".into(), if_index: None, command };
            (state.apply(state.applied.next(), entry), state.clone())
        };
        let lost: BTreeSet<NodeId> = [NodeId(1), NodeId(2), NodeId(3)].into();
        let tag = Tag::default().next(5);
        let (_, after) = run(Command::Recover { tag, survivor: NodeId(4), lost: lost.clone(), off: false });
        let left: Vec<String> = after.plan.instances.keys().map(ToString::to_string).collect();
        assert_eq!(left, ["shop/web/3"], "what was granted ends, wherever it is");
        assert_eq!(after.plan.letting_go.len(), 2);
        assert!(after.plan.letting_go.values().all(|letting| letting.since == after.plan.generation));
        assert_eq!((after.plan.estranged.names().as_str(), after.plan.estranged.services.len()), ("n1, n2, n3", 2));
        assert!(matches!(run(Command::ConfirmOff { nodes: [NodeId(4)].into() }).0, Outcome::Refused(_)));
        let (_, some) = run(Command::ConfirmOff { nodes: [NodeId(1), NodeId(2)].into() });
        assert_eq!((some.plan.estranged.names().as_str(), some.plan.estranged.services.len()), ("n3", 2));
        let (_, all) = run(Command::ConfirmOff { nodes: [NodeId(3)].into() });
        assert_eq!(all.plan.estranged, Estranged::default());
        assert!(all.plan.generation > some.plan.generation && some.plan.generation > after.plan.generation);
    }

    #[test]
    fn who_says_at_once_that_the_lost_are_off_goes_on_with_what_is_exclusive() {
        let mut state = two_exclusive();
        let (tag, lost) = (Tag::default().next(5), [NodeId(1), NodeId(2), NodeId(3)].into());
        let command = Command::Recover { tag, survivor: NodeId(4), lost, off: true };
        state.apply(state.applied.next(), Entry { at: WallTime(0), by: "n4".into(), if_index: None, command });
        assert_eq!((state.plan.instances.len(), &state.plan.estranged), (3, &Estranged::default()));
    }
}

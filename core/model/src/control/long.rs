//! Long grants on record: given by a command, so that every later leader knows of them, and taken off the record by another one.
//!
//! They are no part of the plan: a plan that was drafted before one was given cannot wipe it.

use std::collections::BTreeMap;

use super::{Context, ControlState, Outcome, Refusal, not_found};
use crate::grant::grantable;
use crate::grant::long::{HowOver, LONG_MAX, Lengthened, LongGrant, Over};
use crate::id::*;

/// Instances that an event names.
const NAMED_MAX: usize = 5;

/// Puts on record that `node` lets what the plan in force gives it exclusively act on for so long. One that is on record already is
/// counted anew, and is not made shorter: what was given before may be relied on.
pub(super) fn give(
    state: &mut ControlState,
    context: &Context,
    node: NodeId,
    incarnation: Incarnation,
    length_ms: u64,
) -> Result<Outcome, Refusal> {
    let limit = u64::try_from(LONG_MAX.as_millis()).unwrap_or(u64::MAX);
    if length_ms > limit {
        return Err(Refusal::Limit { what: "a long grant (ms)".into(), value: length_ms, limit });
    }
    let spec = state.spec.nodes.get(&node).ok_or_else(|| not_found("node", node))?;
    if incarnation < spec.incarnation {
        // It comes too late: the agent that asked is gone, and another one is back.
        return Err(Refusal::Conflict {
            what: format!("start of the agent of {}", spec.name),
            expected: incarnation.0,
            found: spec.incarnation.0,
        });
    }
    let (name, covers) = (spec.name.clone(), grantable(state, node));
    for id in &covers {
        put(state, context, id, node, Some(incarnation), length_ms);
    }
    let (tag, generation) = (state.cluster.tag.clone(), state.plan.generation);
    if !covers.is_empty() {
        let seconds = length_ms.div_ceil(1_000);
        let what = named(covers.iter());
        let message = format!("{name} stops its agent: {what} may act on without it for {seconds} s (a long grant)");
        context.happened(state, &name, &message);
    }
    Ok(Outcome::Lengthened { index: context.index, grant: Lengthened { tag, generation, covers, length_ms } })
}

fn put(
    state: &mut ControlState,
    context: &Context,
    id: &InstanceId,
    node: NodeId,
    asked_by: Option<Incarnation>,
    length_ms: u64,
) {
    let before = state.long.get(id);
    let long = LongGrant {
        node,
        asked_by: asked_by.max(before.and_then(|before| before.asked_by)),
        length_ms: length_ms.max(before.map_or(0, |before| before.length_ms)),
        since: context.index,
        generation: state.plan.generation,
        at: context.at,
    };
    state.long.insert(id.clone(), long);
}

/// The control group is founded anew: what the members hold exclusively, or may still act by, may have been given a long grant by a
/// leader that is lost now, with an entry that nobody here has.
pub(super) fn assume(state: &mut ControlState, context: &Context) {
    let length_ms = u64::try_from(LONG_MAX.as_millis()).unwrap_or(u64::MAX);
    let plan = &state.plan;
    let listed = plan.instances.iter().filter(|(_, assigned)| assigned.exclusive).map(|(id, it)| (id, it.node));
    let dropped = plan.letting_go.iter().filter(|(_, letting)| letting.granted).map(|(id, it)| (id, it.node));
    let members = listed.chain(dropped).filter(|(_, node)| state.spec.nodes.contains_key(node));
    let members: Vec<(InstanceId, NodeId)> = members.map(|(id, node)| (id.clone(), node)).collect();
    for (id, node) in members {
        put(state, context, &id, node, None, length_ms);
    }
}

/// Takes off the record what is over. One that was put there anew meanwhile stays.
pub(super) fn end(state: &mut ControlState, context: &Context, over: BTreeMap<InstanceId, Over>) -> Outcome {
    let mut ended: BTreeMap<(NodeId, HowOver), Vec<InstanceId>> = BTreeMap::new();
    for (id, Over { since, how }) in over {
        if let Some(long) = state.long.get(&id).filter(|long| long.since == since) {
            // What was only assumed is worth no word.
            if long.asked_by.is_some() {
                ended.entry((long.node, how)).or_default().push(id.clone());
            }
            state.long.remove(&id);
        }
    }
    for ((node, how), ids) in ended {
        let (name, what) = (state.spec.name_of(node), named(ids.iter()));
        let message = match how {
            HowOver::Released => format!("the agent of {name} is back: {what} acts by ordinary grants again"),
            HowOver::LetGo => format!("{what} has let go: its long grant on {name} is over"),
            HowOver::RanOut => format!("the long grant of {name} for {what} has run out"),
        };
        context.happened(state, &name, &message);
    }
    context.done()
}

fn named<'a>(ids: impl ExactSizeIterator<Item = &'a InstanceId>) -> String {
    let others = ids.len().saturating_sub(NAMED_MAX);
    let mut words: Vec<String> = ids.take(NAMED_MAX).map(ToString::to_string).collect();
    if others > 0 {
        words.push(format!("{others} more"));
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::samples::{self, instance};
    use crate::control::{Command, Entry};
    use crate::plan::InstanceAssignment;
    use crate::tag::Tag;
    use crate::time::WallTime;

    fn run(state: &mut ControlState, command: Command) -> Outcome {
        state.apply(state.applied.next(), Entry { at: WallTime(7), by: "n1".into(), if_index: None, command })
    }

    /// Node 1 has shop/one/1 exclusively and shop/web/2, node 2 has shop/two/3 exclusively.
    fn state() -> ControlState {
        let mut state = samples::cluster(3);
        for (id, node, exclusive) in [("shop/one/1", 1, true), ("shop/web/2", 1, false), ("shop/two/3", 2, true)] {
            let placed = InstanceAssignment { exclusive, ..samples::place(node, 1) };
            state.plan.instances.insert(instance(id), placed);
        }
        state
    }

    fn ask(node: u64, incarnation: u64, length_ms: u64) -> Command {
        Command::LongGrant { node: NodeId(node), incarnation: Incarnation(incarnation), length_ms }
    }

    #[test]
    fn it_covers_what_the_plan_in_force_gives_the_node_exclusively_and_is_on_record() {
        let mut state = state();
        let outcome = run(&mut state, ask(1, 1, 15_000));
        let Outcome::Lengthened { index, grant } = outcome else { panic!("{outcome:?}") };
        assert_eq!((grant.covers, grant.length_ms), ([instance("shop/one/1")].into(), 15_000));
        assert_eq!((&grant.tag, grant.generation), (&state.cluster.tag, state.plan.generation));
        let long = &state.long[&instance("shop/one/1")];
        assert_eq!((state.long.len(), long.node, long.since, long.at), (1, NodeId(1), index, WallTime(7)));
        let told = state.log.events.back().unwrap();
        assert_eq!((told.subject.as_str(), told.message.contains("shop/one/1 may act on")), ("n1", true), "{told:?}");
        let before = state.log.last;
        assert!(
            matches!(run(&mut state, ask(3, 1, 15_000)), Outcome::Lengthened { grant, .. } if grant.covers.is_empty())
        );
        assert_eq!((state.long.len(), state.log.last), (1, before), "nothing exclusive, nothing on record");
    }

    #[test]
    fn a_second_one_is_counted_anew_and_is_never_shorter() {
        let mut state = state();
        run(&mut state, ask(1, 2, 15_000));
        run(&mut state, ask(1, 3, 5_000));
        let long = state.long[&instance("shop/one/1")].clone();
        assert_eq!((long.length_ms, long.since, long.asked_by), (15_000, state.applied, Some(Incarnation(3))));
    }

    #[test]
    fn too_long_too_late_or_of_nobody_it_is_refused() {
        let mut state = state();
        assert!(matches!(run(&mut state, ask(1, 1, 30_001)), Outcome::Refused(Refusal::Limit { .. })));
        assert!(matches!(run(&mut state, ask(9, 1, 1_000)), Outcome::Refused(Refusal::NotFound { .. })));
        state.spec.nodes.get_mut(&NodeId(1)).unwrap().incarnation = Incarnation(2);
        assert!(matches!(run(&mut state, ask(1, 1, 1_000)), Outcome::Refused(Refusal::Conflict { .. })));
        state.cluster.feature_level = 1;
        assert!(matches!(run(&mut state, ask(1, 2, 1_000)), Outcome::Refused(Refusal::Level { .. })));
        assert!(state.long.is_empty());
    }

    #[test]
    fn only_the_one_that_is_named_is_taken_off_the_record() {
        let mut state = state();
        run(&mut state, ask(1, 1, 15_000));
        let first = state.long[&instance("shop/one/1")].since;
        run(&mut state, ask(1, 2, 15_000));
        let over = |since| [(instance("shop/one/1"), Over { since, how: HowOver::Released })].into();
        run(&mut state, Command::EndLongGrants { over: over(first) });
        assert_eq!(state.long.len(), 1, "it was given anew meanwhile");
        let since = state.long[&instance("shop/one/1")].since;
        run(&mut state, Command::EndLongGrants { over: over(since) });
        assert!(state.long.is_empty());
        assert!(state.log.events.back().unwrap().message.contains("agent of n1 is back"));
    }

    #[test]
    fn whoever_founds_anew_assumes_the_longest_for_all_that_survivors_may_hold() {
        let mut state = state();
        run(&mut state, ask(1, 1, 15_000));
        let (tag, lost) = (Tag::default().next(5), [NodeId(2)].into());
        run(&mut state, Command::Recover { tag, survivor: NodeId(3), lost, off: true });
        let long: Vec<_> =
            state.long.iter().map(|(id, long)| (id.to_string(), long.length_ms, long.asked_by)).collect();
        assert_eq!(
            long,
            [("shop/one/1".into(), 30_000, Some(Incarnation(1)))],
            "of the lost a person says that they are off"
        );
        assert_eq!(state.long[&instance("shop/one/1")].since, state.applied, "it is counted from here");
    }
}

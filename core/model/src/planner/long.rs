//! Long grants, as the leader counts them: which may run, what stays with a node that is away on purpose, and which are over.
//!
//! A node whose agent is restarted may be called down meanwhile, and what is plural moves. What it holds exclusively acts on there, so
//! the plan leaves it there while the long grant runs: a plan without it would end it when the agent is back. One that comes back in
//! that time has not fallen, and is trusted at once.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::grant::long::{HowOver, Over};
use crate::id::*;
use crate::plan::{InstanceAssignment, Phase, Verdict};
use crate::report::{Bound, InstanceFacts, InstanceState, NodeReport, RoleFacts};
use crate::view::{KnownLong, NodeFacts, View};

/// A node that is back on purpose must have been reachable for so long without a break: longer than one lost datagram hides.
pub(super) const BACK_FOR: Duration = Duration::from_millis(500);

impl KnownLong {
    /// Whether it may let something act.
    pub fn may_run(&self) -> bool {
        self.known_for < self.grant.over_after()
    }

    /// Whether an agent asked for it, and was not merely assumed to have.
    fn was_asked_for(&self) -> bool {
        self.grant.asked_by.is_some()
    }

    /// Whether it is known that the agent which asked is gone and another one is here, or, where it was only assumed, that the agent
    /// follows the foundation that assumed it.
    fn is_answered_by(&self, report: &NodeReport) -> bool {
        match self.grant.asked_by {
            Some(before) => report.incarnation > before,
            None => report.generation >= self.grant.generation,
        }
    }
}

/// Whether a long grant may let the instance act.
pub(super) fn may_run(view: &View, id: &InstanceId) -> bool {
    view.long.get(id).is_some_and(KnownLong::may_run)
}

/// Whether the plan leaves the instance on its node although that is lost: the agent is away on purpose.
pub fn stays(view: &View, id: &InstanceId, assigned: &InstanceAssignment) -> bool {
    let long = view.long.get(id).filter(|long| long.grant.node == assigned.node);
    assigned.exclusive
        && assigned.phase == Phase::Active
        && long.is_some_and(|long| long.may_run() && long.was_asked_for())
}

/// Whether the agent of the node is away, or was, on purpose: an instance stays there.
pub(super) fn is_away(view: &View, node: NodeId) -> bool {
    view.plan.instances.iter().any(|(id, assigned)| assigned.node == node && stays(view, id, assigned))
}

/// Whether a node that was judged while it was away on purpose speaks again. That it is heard steadily is asked elsewhere.
pub(super) fn is_back(view: &View, node: NodeId, verdict: &Verdict, facts: &NodeFacts) -> bool {
    let Some(report) = facts.report.as_ref().filter(|report| report.generation >= verdict.since) else { return false };
    let mine = || view.long.values().filter(|long| long.grant.node == node && long.was_asked_for());
    facts.leased && is_away(view, node) && mine().all(|long| long.is_answered_by(report))
}

/// The long grants that are known to be over. A node under a verdict is let out of that first.
pub fn over(view: &View) -> BTreeMap<InstanceId, Over> {
    let how = |id: &InstanceId, long: &KnownLong| {
        if !long.may_run() {
            return Some(HowOver::RanOut);
        }
        if !view.plan.instances.contains_key(id) && !view.plan.letting_go.contains_key(id) {
            return Some(HowOver::LetGo);
        }
        let judged = view.plan.verdicts.contains_key(&long.grant.node);
        (!judged && is_released(view, id, long)).then_some(HowOver::Released)
    };
    let over = view.long.iter().filter_map(|(id, long)| {
        let over = Over { since: long.grant.since, how: how(id, long)? };
        Some((id.clone(), over))
    });
    over.collect()
}

/// Its node says, since another agent is there, that guard and shim keep the end of an ordinary grant, or that it does not run. A node
/// that follows an older plan than was in force when the record was made may say so from before.
fn is_released(view: &View, id: &InstanceId, long: &KnownLong) -> bool {
    let report = view.nodes.get(&long.grant.node).and_then(|facts| facts.report.as_ref());
    let Some(report) = report.filter(|report| long.is_answered_by(report)) else { return false };
    let Some(compute) = report.roles.get(&RoleName::compute()) else { return false };
    let RoleFacts::Compute(all) = &compute.facts else { return false };
    let follows = compute.generation >= long.grant.generation;
    let short = |facts: &InstanceFacts| facts.bound == Bound::Grant || facts.state == InstanceState::Ended;
    follows && all.get(id).is_none_or(short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::{Book, Surroundings};
    use crate::control::samples::{self, instance};
    use crate::control::{Command, Entry};
    use crate::report::RoleReport;
    use crate::time::{Timestamp, WallTime};

    /// Node 2 has shop/one/1 at plan 5, and its agent, in its second start, has asked for a long grant.
    fn view() -> View {
        let mut state = samples::cluster(3);
        let placed = InstanceAssignment { exclusive: true, ..samples::place(2, 1) };
        state.plan.instances.insert(instance("shop/one/1"), placed);
        state.plan.generation = Generation(5);
        let command = Command::LongGrant { node: NodeId(2), incarnation: Incarnation(2), length_ms: 15_000 };
        state.apply(state.applied.next(), Entry { at: WallTime(0), by: String::new(), if_index: None, command });
        let (heard, unheard, raft) = Default::default();
        let around = Surroundings { me: NodeId(1), state: &state, heard: &heard, unheard: &unheard, raft };
        Book::new(1, Timestamp(0)).view(&around, Timestamp(1_000))
    }

    /// How the long grant is over when a start of the agent says, at a plan, how the instance is; none that it has none.
    fn ends(incarnation: u64, generation: u64, facts: Option<(InstanceState, Bound)>) -> Option<HowOver> {
        let mut view = view();
        let all = facts
            .map(|(state, bound)| (instance("shop/one/1"), InstanceFacts { state, bound, ..InstanceFacts::default() }));
        let (facts, generation) = (RoleFacts::Compute(all.into_iter().collect()), Generation(generation));
        let roles = [(RoleName::compute(), RoleReport { generation, facts, ..RoleReport::default() })].into();
        let report = NodeReport { incarnation: Incarnation(incarnation), generation, roles, ..NodeReport::default() };
        view.nodes.get_mut(&NodeId(2)).expect("a node").report = Some(report.into());
        over(&view).values().next().map(|over| over.how)
    }

    #[test]
    fn it_is_over_when_a_later_start_of_its_agent_says_that_it_acts_by_ordinary_grants_or_not_at_all() {
        use InstanceState::{Ended, Running, Stopping};
        let released = Some(HowOver::Released);
        assert_eq!(ends(3, 5, Some((Running, Bound::Grant))), released);
        assert_eq!(ends(4, 9, Some((Ended, Bound::Unknown))), released);
        assert_eq!(ends(3, 5, None), released, "its host was started anew, say");
        for (incarnation, generation, facts) in [
            // What the start that asked says may be older than its question.
            (2, 5, Some((Running, Bound::Grant))),
            (2, 5, None),
            // Guard and shim may keep what they were told before.
            (3, 5, Some((Running, Bound::Unknown))),
            (3, 5, Some((Stopping, Bound::Unknown))),
            (3, 5, Some((Running, Bound::Other))),
            // It asked too.
            (3, 5, Some((Running, Bound::Long))),
            // By a plan of before it need not run here.
            (3, 4, Some((Running, Bound::Grant))),
            (3, 4, None),
        ] {
            assert_eq!(ends(incarnation, generation, facts), None, "{incarnation} at {generation}: {facts:?}");
        }
    }

    #[test]
    fn without_a_word_of_its_node_it_is_over_when_its_time_is_up() {
        let mut view = view();
        assert_eq!(over(&view), BTreeMap::new());
        let long = view.long.get_mut(&instance("shop/one/1")).expect("it is on record");
        long.known_for = Duration::from_millis(15_749);
        assert_eq!(over(&view), BTreeMap::new());
        view.long.values_mut().for_each(|long| long.known_for = Duration::from_millis(15_750));
        assert_eq!(over(&view).values().map(|over| over.how).collect::<Vec<_>>(), [HowOver::RanOut]);
    }
}

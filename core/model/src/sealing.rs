//! Decides when another sealing key is due, and who must get it first.

use std::collections::BTreeSet;

use crate::control::ControlState;
use crate::id::NodeId;

/// How soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Haste {
    /// Nothing is due.
    None,
    /// Somebody who is still a member should be counted out, unless it votes or is a spare again soon.
    Later,
    /// At once.
    Now,
}

/// Whether another key is due, and which members held the present one that neither vote nor are spares any more.
pub fn due(state: &ControlState) -> (Haste, BTreeSet<NodeId>) {
    let (cluster, plan) = (&state.cluster, &state.plan);
    if !crate::secret::may_be_written(state) || plan.voters.is_empty() {
        return (Haste::None, BTreeSet::new());
    }
    let holders = &cluster.sealing.holders;
    let outside: BTreeSet<NodeId> =
        holders.iter().copied().filter(|node| !plan.voters.contains(node) && !plan.spares.contains(node)).collect();
    let left = outside.iter().any(|node| !state.spec.nodes.contains_key(node));
    let haste = match () {
        () if cluster.sealing.wanted || cluster.sealing.key.is_empty() || left => Haste::Now,
        () if !outside.is_empty() => Haste::Later,
        () => Haste::None,
    };
    (haste, outside)
}

/// Who must have a key on disk before everything is sealed with it: every voter and spare that is not judged. None while these are
/// not a majority of the voters, or `leader` is not one of them: what the others could not open would be lost with few nodes.
pub fn recipients(state: &ControlState, leader: NodeId) -> Option<BTreeSet<NodeId>> {
    let plan = &state.plan;
    let there = |node: &&NodeId| !plan.verdicts.contains_key(node);
    let voters = plan.voters.iter().filter(there).count();
    let enough = voters * 2 > plan.voters.len() && plan.voters.contains(&leader);
    enough.then(|| plan.voters.iter().chain(&plan.spares).filter(there).copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::samples::{adopt, cluster};
    use crate::plan::{Verdict, VerdictKind};

    fn ids(numbers: &[u64]) -> BTreeSet<NodeId> {
        numbers.iter().copied().map(NodeId).collect()
    }

    fn voting(voters: &[u64], spares: &[u64]) -> ControlState {
        let mut state = cluster(5);
        state.cluster.feature_level = 2;
        state.cluster.sealing.key = "00000000000000aa".into();
        adopt(&mut state, |plan| (plan.voters, plan.spares) = (ids(voters), ids(spares)));
        state
    }

    #[test]
    fn a_key_is_due_once_somebody_held_it_who_shall_not() {
        let mut state = voting(&[1, 2, 3], &[4]);
        assert_eq!(due(&state).0, Haste::None);
        adopt(&mut state, |plan| plan.voters = ids(&[1, 2, 5]));
        assert_eq!(due(&state), (Haste::Later, ids(&[3])));
        adopt(&mut state, |plan| plan.voters = ids(&[1, 2, 3, 5]));
        assert_eq!(due(&state).0, Haste::None, "it is back");
        adopt(&mut state, |plan| plan.voters = ids(&[1, 2, 5]));
        state.spec.nodes.remove(&NodeId(3));
        assert_eq!(due(&state), (Haste::Now, ids(&[3])));
    }

    #[test]
    fn a_key_is_due_when_it_is_asked_for_or_has_no_name_yet() {
        let mut state = voting(&[1], &[]);
        state.cluster.sealing.wanted = true;
        assert_eq!(due(&state).0, Haste::Now);
        state.cluster.sealing = Default::default();
        assert_eq!(due(&state).0, Haste::Now);
        state.cluster.feature_level = 1;
        assert_eq!(due(&state).0, Haste::None, "an agent that does not know it would stop");
    }

    #[test]
    fn all_that_are_not_judged_get_it_and_a_majority_must() {
        let mut state = voting(&[1, 2, 3], &[4]);
        assert_eq!(recipients(&state, NodeId(1)), Some(ids(&[1, 2, 3, 4])));
        assert_eq!(recipients(&state, NodeId(4)), None);
        let (kind, evidence) = (VerdictKind::Down, String::new());
        let judged = Verdict { kind, incarnation: crate::id::Incarnation(1), since: Default::default(), evidence };
        state.plan.verdicts.insert(NodeId(3), judged.clone());
        assert_eq!(recipients(&state, NodeId(1)), Some(ids(&[1, 2, 4])));
        state.plan.verdicts.insert(NodeId(2), judged);
        assert_eq!(recipients(&state, NodeId(1)), None);
    }
}

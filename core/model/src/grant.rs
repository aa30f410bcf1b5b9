//! Grants: how an exclusive instance never acts twice, though nodes die, freeze, and lose sight of each other.
//!
//! The plan names one instance of an exclusive service. Its node lets it act only while it holds a *grant* for it: the leader's answer
//! to a question that the node asks every [`ASK_EVERY`], good for [`LEASE`] from the moment the question was *sent*, on the node's own
//! clock. After the plan has dropped the instance, nothing takes its place before its node has said that it ended, or before
//! [`GRANT_OVER`] has passed since the last grant: by then every clock that runs within 5 % of the leader's says that it is over.
//!
//! Why no two act at once:
//! - The leader answers after a round of heartbeats that began when the question was there and that a majority acknowledged, so a
//!   leader that was deposed grants nothing that a later leader does not wait for.
//! - It grants by the newest plan it has applied, and notes the grant before it sends it. So whoever plans on top of a plan that has
//!   dropped the instance knows of every grant for it, and a new leader, which knows of none, waits as if there had been one.
//! - A grant never covers an instance that its own node was told to drop at a later plan: see [`Holdings::dropped`].
//!
//! The shape is that of leases (Gray, Cheriton: "Leases: an efficient fault-tolerant mechanism for distributed file cache
//! consistency", 1989), with the wait counted by the one who grants and the end by the one who asked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::control::ControlState;
use crate::id::*;
use crate::time::Timestamp;

/// How long a grant is good, from the moment the question was sent. A constant of the feature level: every agent counts with the same.
pub const LEASE: Duration = Duration::from_secs(2);
/// After this time on the leader's clock a grant is over on every clock: the lease and a margin of 5 % for clocks that differ.
pub const GRANT_OVER: Duration = Duration::from_millis(2_100);
/// Time between two questions.
pub const ASK_EVERY: Duration = Duration::from_millis(400);

/// What the leader's answer lets a node do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Grant {
    /// The leader's term. One lower than any seen before grants nothing.
    pub term: u64,
    /// The plan that the leader granted by.
    pub generation: Generation,
    /// Instances that may act.
    pub covers: BTreeSet<InstanceId>,
}

/// What `node` may be granted by the plan in force. An instance that drains acts on until it is dropped.
pub fn grantable(state: &ControlState, node: NodeId) -> BTreeSet<InstanceId> {
    let mine = state.plan.instances.iter().filter(|(_, assigned)| assigned.exclusive && assigned.node == node);
    mine.map(|(id, _)| id.clone()).collect()
}

/// What a node holds: until when each of its exclusive instances may act. Begins empty with each start of the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    term: u64,
    follows: Generation,
    until: BTreeMap<InstanceId, Timestamp>,
}

impl Holdings {
    /// Takes a grant that answers a question sent at `asked_at`. An older one changes nothing: it ends no later grant.
    pub fn receive(&mut self, grant: &Grant, asked_at: Timestamp) {
        if grant.term < self.term || grant.generation < self.follows {
            return;
        }
        self.term = grant.term;
        let until = asked_at + LEASE;
        for id in &grant.covers {
            let held = self.until.entry(id.clone()).or_insert(until);
            *held = until.max(*held);
        }
    }

    /// This node follows the plan `generation`, in which it shall run `listed`. What is not among them is let go, and no grant by an
    /// older plan brings it back.
    pub fn dropped(&mut self, generation: Generation, listed: &BTreeSet<InstanceId>) {
        if generation < self.follows {
            return;
        }
        self.follows = generation;
        self.until.retain(|id, _| listed.contains(id));
    }

    /// Until when the instance may act; none when nothing was granted, or nothing that still counts at `now`.
    pub fn until(&self, id: &InstanceId, now: Timestamp) -> Option<Timestamp> {
        self.until.get(id).copied().filter(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::samples::instance;

    fn grant(term: u64, generation: u64, covers: &[&str]) -> Grant {
        Grant { term, generation: Generation(generation), covers: covers.iter().map(|id| instance(id)).collect() }
    }

    #[test]
    fn a_grant_runs_from_the_question_and_the_next_one_prolongs_it() {
        let (mut held, one) = (Holdings::default(), instance("shop/one/1"));
        assert_eq!(held.until(&one, Timestamp(0)), None);
        held.receive(&grant(1, 1, &["shop/one/1"]), Timestamp(1_000));
        assert_eq!(held.until(&one, Timestamp(2_999)), Some(Timestamp(3_000)));
        assert_eq!(held.until(&one, Timestamp(3_000)), None, "the end does not belong to it");
        held.receive(&grant(1, 1, &["shop/one/1"]), Timestamp(1_400));
        held.receive(&grant(1, 1, &["shop/one/1"]), Timestamp(1_200));
        assert_eq!(held.until(&one, Timestamp(3_000)), Some(Timestamp(3_400)), "an answer that was late takes nothing");
    }

    #[test]
    fn a_term_or_a_plan_that_is_over_grants_nothing() {
        let (mut held, one) = (Holdings::default(), instance("shop/one/1"));
        held.receive(&grant(3, 1, &[]), Timestamp(0));
        held.receive(&grant(2, 1, &["shop/one/1"]), Timestamp(0));
        assert_eq!(held.until(&one, Timestamp(1)), None);
        held.receive(&grant(3, 1, &["shop/one/1"]), Timestamp(0));
        assert!(held.until(&one, Timestamp(1)).is_some());
        held.dropped(Generation(2), &BTreeSet::new());
        held.receive(&grant(4, 1, &["shop/one/1"]), Timestamp(0));
        assert_eq!(held.until(&one, Timestamp(1)), None, "it was dropped at plan 2");
        held.dropped(Generation(1), &BTreeSet::from([one.clone()]));
        held.receive(&grant(4, 1, &["shop/one/1"]), Timestamp(0));
        assert_eq!(held.until(&one, Timestamp(1)), None, "an older plan is not followed any more");
    }
}

//! Grants and promises: how an exclusive instance never acts twice, though nodes die, freeze, and lose sight of each other.
//!
//! The plan names one instance of an exclusive service. Its node, the *holder*, lets it act only until a time: by a *grant*, the leader's
//! answer to a question that the node asks every [`ASK_EVERY`], for [`LEASE`] from the moment the question was *sent*; and while no leader
//! answers by *promises* of those who could take its place, each for a lease from when it was asked for. Times end on the holder's own
//! clock, and whoever waits for one to end waits [`GRANT_OVER`] on its own: by then it is over on every clock that runs within 5 %.
//!
//! # With a leader
//! After the plan has dropped an instance, nothing takes its place before its node has said that it ended, or before [`GRANT_OVER`] has
//! passed since the last grant.
//! - The leader answers after a round of heartbeats that began when the question was there and that a majority acknowledged, and after
//!   it has applied all that was decided before. So a leader that was deposed grants nothing that a later leader does not wait for, and
//!   nobody grants by a plan that was replaced before he was asked. (Hence a late answer of a deposed leader does no harm. It is refused
//!   as well once its node has seen a higher term.)
//! - It grants by the newest plan it has applied, and notes the grant before it sends it. So whoever plans on top of a plan that has
//!   dropped the instance knows of every grant for it, and a new leader, which knows of none, waits as if there had been one. No agent
//!   leads a term again after it was started again: it would be a leader that waits for nothing.
//! - A node starts and keeps only what the plan that it follows lists, and never goes back to an older one. So a grant by an older plan
//!   that arrives late, when its node has said long ago that the instance ended, finds nothing to start. It is refused as well, though
//!   that alone would do: a grant never covers what its own node was told to drop at a later plan ([`Holdings::dropped`]), even if that
//!   node were to read an older plan again. Only without both would two act.
//!
//! # Without one
//! A holder acts on as long as each of its *candidates* ([`Candidates::nodes`]: the nodes that may be given its place) has promised not
//! to take it. Whatever voters and leaders do meanwhile, no two act at once:
//! - Say that `i` on `h` acts by promises at a time `t`. Then each candidate of the list that `h` goes by promised at some `r`, with
//!   `t < r + LEASE` on the clock of `h`, and starts no other instance of the service before `r +` [`GRANT_OVER`] on its own, whatever
//!   it is granted ([`Holdings::is_free`]). It promised only if none could act there at `r`. So none acts there at `t`. (That none can act
//!   where `i` is known to be on `h` follows from what comes below as well: an earlier one had let go when `i` was placed, or `h` starts `i`
//!   only when its own promise is over, and with it the earlier one; and whoever learned of a later one has refused since. It is looked
//!   at all the same: then a single node is right whatever the planner does.)
//! - A promise prolongs only what has not run out. So when one candidate has refused for [`GRANT_OVER`], `i` is over for good.
//!   Who follows a plan that dropped `i` refuses. Started again with an older plan it refuses for as long, so that the chain is broken
//!   all the same; and for as long it starts nothing, as it may have promised before.
//! - The planner gives the place of `i` to nobody but a candidate (or `h`, which starts nothing beside what it runs) until `h` has said
//!   that `i` ended, or a candidate is known to have refused for so long. Every instance of the service that left the plan is
//!   remembered until then, and the next one must suit all of them.
//! - `h` goes by a list that the planner takes for possible: the newest one, or the one before until `h` has reported a plan at least
//!   as new. A candidate is a member of both ([`Candidates::bound`]). After a restart `h` may have an older plan, but acts by
//!   promises only after a grant, and goes by no list older than the plan of that grant; and a grant that was asked for after the restart
//!   is by a plan at least as new as any that `h` reported before.
//! - Where nobody is left who could refuse (all candidates are gone together with `h`), the planner waits for the word of a person:
//!   `forget` says that a node is off.
//!
//! Voters need not promise: a leader, old or new, cannot start anything by itself, and what it assigns is started by a candidate or not.
//!
//! # While the agent is restarted
//! An agent that is about to stop asks for one [long grant](long): what it holds may act on for so long from when it *asked*, though it is
//! away. This is an entry of the log: it covers what the plan in force gives the node, and is on record ([`ControlState::long`], no part of
//! the plan, so that no plan that was drafted before can wipe it) before anybody relies on it. Say that `i` on `h` has one.
//! - Nothing takes the place of `i` while it may run. It is given its place by a plan that dropped `i` before; a plan in force when the
//!   entry was applied did not. So the leader whose plan finds `i` dropped has the record in the same state, unless it was taken off
//!   already. It counts the whole length and 5 % from when it first knew of it: that is after it was asked for, whoever led then, and not
//!   before its own term. So a leader that changes right after the entry, or while the agent is away, makes nobody act too early; it makes
//!   others wait longer. A leader with an older state cannot have its plan adopted.
//! - `h` takes it by the rules of any other grant ([`Holdings::lengthen`]): not when it follows a plan that dropped `i`, for then it may
//!   have said that `i` ended; not from another foundation than the one that granted last; and it prolongs only what has not run out, so
//!   that nothing comes to life again that was waited for. An answer that is lost costs time and nothing else.
//! - From then on nobody is asked for promises, so that what was said of them above stays true: nothing but grants lets `i` act, and a
//!   candidate that refused for [`GRANT_OVER`] need not refuse for as long as a long grant runs. Nor can a promise that `h` gives after its
//!   restart, when it does not know any more that `i` acts there, do harm: it would be for another instance of the service, which a plan
//!   since lists (then `i` can act no more), or which acted before `i` was started (then it has run out, and no promise prolongs it).
//! - It is taken off the record when its whole time is up for this leader; when `i` has let go; or when another start of the agent of
//!   `h` is there and says that guard and shim keep the end of an ordinary grant that *it* was given, or that `i` has ended. One and
//!   the same start that asked is not believed: its words may be older than its question. Nor is one that follows an older plan than
//!   was in force when the record was made. From there on `i` acts by ordinary grants as if nothing had been. The leader decides this
//!   from what nodes report all the time, and not `h` by a word of its own, so that a lost word, a crash in between, or a node that
//!   never comes back needs no other way. The entry names the record that it means: one that was made anew meanwhile stays.
//! - A node that is called down meanwhile keeps `i` in the plan as long as the record runs, for a plan without it would end it when the
//!   agent is back; all else moves. If a person drops it (a drain, another revision), `h` ends it when it is back and says so, and until
//!   then, or until the time is up, nothing takes its place. `forget` does not shorten that.
//! - Guard and shim have one deadline each, which every start of the agent sets anew, later or sooner. What an agent that died in between
//!   has told them is no later than what is on record, and they hear it before anything that the next agent tells.
//!
//! # When the control group is founded anew
//! Survivors of a lost majority go on as another foundation. For the survivors themselves all of the above holds: terms are counted per
//! foundation, who promised in the former one keeps it, and the first leader of the new one waits like any other. Nobody promises
//! across foundations, and neither grants nor lists nor promises of one prolong anything in another.
//!
//! Those who are *given up* are another matter: they may go on behind a cut. Of promises alone time would make an end. Every candidate
//! must promise, so where one candidate survives and refuses, a holder among the lost ends within a lease. But the lost are a majority,
//! or survivors would not have to found anything. So they may have a leader, which may have taken the survivors for lost, listed other
//! candidates, dropped what a survivor ran and started it among themselves, and may do so at any time from now on; and the survivors
//! know none of those plans. No time that survivors can count makes that impossible, so none is counted: every exclusive service that
//! there is leaves the plan, wherever it runs, and comes back when a person has made sure that the lost are off ([`Estranged`]). The same
//! holds where a backup is restored. Numbers of plans and instances go on far above all that the lost can reach.
//!
//! Nor do survivors know of a long grant whose entry only the lost have. So whoever founds anew puts the longest there is on record for all
//! that a survivor holds, or may still act by, without a name of who asked: it is over when the node, which follows the new foundation by
//! then, says what guard and shim keep. An answer of the former foundation counts no more where the new one is followed. A member whose
//! agent is away does not answer whoever wants to found anew, so it is waited for, or given up like any that is lost.
//!
//! The shape is that of leases (Gray, Cheriton: "Leases: an efficient fault-tolerant mechanism for distributed file cache
//! consistency", 1989), with the wait counted by the one who grants and the end by the one who asked.

mod holdings;
pub mod long;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::control::ControlState;
use crate::id::*;
use crate::tag::Tag;

#[cfg(doc)]
use crate::plan::{Candidates, Estranged};

pub use holdings::{Holdings, NoPromise, UNANSWERED};

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
    /// The foundation that the leader leads. One of an earlier epoch than any seen before grants nothing.
    pub tag: Tag,
    /// The leader's term. One lower than any seen before in its foundation grants nothing.
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

/// [`grantable`] for every node, looked up once per state: there are tens of thousands of instances, and each node asks several times
/// a second.
#[derive(Clone, Debug, Default)]
pub struct Shares {
    /// The state they were looked up in. Nothing in a state changes without an entry of the log.
    of: Option<(Tag, LogIndex, Generation)>,
    nodes: BTreeMap<NodeId, BTreeSet<InstanceId>>,
}

impl Shares {
    /// What `node` may be granted by the plan in force in `state`; none when that is nothing.
    pub fn of(&mut self, state: &ControlState, node: NodeId) -> Option<&BTreeSet<InstanceId>> {
        let of = (&state.cluster.tag, state.applied, state.plan.generation);
        if self.of.as_ref().is_none_or(|known| (&known.0, known.1, known.2) != of) {
            self.of = Some((of.0.clone(), of.1, of.2));
            self.nodes.clear();
            for (id, assigned) in state.plan.instances.iter().filter(|(_, assigned)| assigned.exclusive) {
                self.nodes.entry(assigned.node).or_default().insert(id.clone());
            }
        }
        self.nodes.get(&node)
    }
}

/// Whether the plan in force gives the exclusive instance to `node`.
pub fn granted_to(state: &ControlState, node: NodeId, id: &InstanceId) -> bool {
    state.plan.instances.get(id).is_some_and(|assigned| assigned.exclusive && assigned.node == node)
}

#[cfg(test)]
mod tests {
    use super::long::Lengthened;
    use super::*;
    use crate::control::samples::{self, instance};
    use crate::plan::{Candidates, InstanceAssignment};
    use crate::time::Timestamp;

    fn grant(term: u64, generation: u64, covers: &[&str]) -> Grant {
        let covers = covers.iter().map(|id| instance(id)).collect();
        Grant { tag: Tag::default(), term, generation: Generation(generation), covers }
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

    /// Node 1 runs shop/one/1 by plan 1, and 2 and 3 may take its place.
    fn listed() -> ControlState {
        let mut state = samples::cluster(3);
        let id = instance("shop/one/1");
        state.plan.generation = Generation(1);
        state.plan.instances.insert(id.clone(), InstanceAssignment { exclusive: true, ..samples::place(1, 1) });
        let nodes = [NodeId(2), NodeId(3)].into();
        state.plan.candidates.insert(id, Candidates { nodes, since: Generation(1), before: None });
        state
    }

    /// Node 1 holds shop/one/1 since a grant that it asked for at `asked_at`.
    fn holder(asked_at: u64) -> Holdings {
        let mut held = Holdings::new(Timestamp(0));
        held.receive(&grant(1, 1, &["shop/one/1"]), Timestamp(asked_at));
        held
    }

    #[test]
    fn a_holder_goes_on_by_the_oldest_of_all_promises_and_never_without_one_of_them() {
        let (state, id, me) = (listed(), instance("shop/one/1"), NodeId(1));
        let mut held = holder(10_000);
        assert!(held.pleas(&state, me, Timestamp(10_700)).is_empty(), "a leader answered lately");
        let pleas = held.pleas(&state, me, Timestamp(10_800));
        assert_eq!(pleas, [(id.clone(), [NodeId(2), NodeId(3)].into())].into());
        let mut answer = |node, answer: Result<(), &str>, asked_at, now| {
            let answer = answer.map_err(str::to_string);
            held.answered(&state, me, (&id, NodeId(node)), answer, Timestamp(asked_at), Timestamp(now));
            held.until(&id, Timestamp(now))
        };
        assert_eq!(answer(2, Ok(()), 10_800, 10_900), Some(Timestamp(12_000)), "one of two is not enough");
        assert_eq!(answer(3, Ok(()), 11_200, 11_300), Some(Timestamp(12_800)));
        assert_eq!(answer(2, Err("is busy"), 12_000, 12_100), Some(Timestamp(12_800)));
        assert_eq!(answer(3, Ok(()), 12_000, 12_100), Some(Timestamp(12_800)));
        assert_eq!(answer(2, Ok(()), 12_700, 12_800), None, "what has run out is over");
        let out = held.run_out(&state, Timestamp(12_800));
        assert!(out[0].1.ends_with("promised not to: n2 is busy"), "{out:?}");
        assert_eq!(held.missing(&id), Some(out[0].1.as_str()));
    }

    #[test]
    fn without_candidates_or_with_a_list_older_than_the_grant_nobody_is_asked() {
        let (mut state, id, me) = (listed(), instance("shop/one/1"), NodeId(1));
        let mut held = Holdings::new(Timestamp(0));
        held.receive(&grant(1, 2, &["shop/one/1"]), Timestamp(10_000));
        assert_eq!(held.pleas(&state, me, Timestamp(11_000)), [(id.clone(), BTreeSet::new())].into());
        for node in [2, 3] {
            held.answered(&state, me, (&id, NodeId(node)), Ok(()), Timestamp(11_000), Timestamp(11_100));
        }
        assert_eq!(held.until(&id, Timestamp(11_200)), Some(Timestamp(12_000)));
        state.plan.generation = Generation(2);
        state.plan.candidates.get_mut(&id).unwrap().nodes.clear();
        held.answered(&state, me, (&id, NodeId(2)), Ok(()), Timestamp(11_000), Timestamp(11_100));
        assert_eq!(held.until(&id, Timestamp(11_200)), Some(Timestamp(12_000)), "nobody is not everybody");
    }

    #[test]
    fn who_promised_starts_nothing_of_the_service_however_much_it_is_granted() {
        let (state, one) = (listed(), instance("shop/one/1"));
        let (two, else_where, tag) = (instance("shop/one/2"), instance("shop/other/2"), Tag::default());
        let mut held = Holdings::new(Timestamp(0));
        assert_eq!(held.promise(&state, (NodeId(1), &tag), &one, Timestamp(2_099)), Err(NoPromise::JustStarted));
        assert!(!held.is_free(&two, Timestamp(2_099)), "it may have promised before it was started again");
        assert!(held.is_free(&two, Timestamp(2_100)));
        assert_eq!(held.promise(&state, (NodeId(1), &tag), &one, Timestamp(3_000)), Ok(()));
        held.receive(&grant(1, 2, &["shop/one/2", "shop/other/2"]), Timestamp(4_000));
        assert!(held.until(&two, Timestamp(5_000)).is_some() && !held.is_free(&two, Timestamp(5_099)));
        assert!(held.is_free(&else_where, Timestamp(4_000)) && held.is_free(&two, Timestamp(5_100)));
    }

    #[test]
    fn who_runs_another_instance_or_knows_of_a_plan_without_it_does_not_promise() {
        let (mut state, one) = (listed(), instance("shop/one/1"));
        let mut held = Holdings::new(Timestamp(0));
        held.receive(&grant(1, 2, &["shop/one/2"]), Timestamp(4_000));
        held.dropped(Generation(3), &BTreeSet::new());
        let mut promise = |state: &ControlState, node, now| {
            held.promise(state, (NodeId(node), &Tag::default()), &one, Timestamp(now))
        };
        assert_eq!(promise(&state, 1, 5_999), Err(NoPromise::Acts), "though it was dropped: it may not have ended");
        assert_eq!(promise(&state, 1, 6_000), Ok(()));
        assert_eq!(promise(&state, 2, 6_000), Err(NoPromise::Dropped), "asked by another node than the plan's");
        state.plan.instances.clear();
        assert_eq!(promise(&state, 1, 6_000), Err(NoPromise::Dropped));
    }

    /// `state` as the foundation that follows its own knows it.
    fn founded_anew(state: &ControlState) -> ControlState {
        let mut anew = state.clone();
        anew.cluster.tag = state.cluster.tag.next(7);
        anew
    }

    #[test]
    fn a_later_foundation_grants_from_its_first_term_on_and_an_earlier_one_nothing_any_more() {
        let (mut held, one) = (Holdings::default(), instance("shop/one/1"));
        held.receive(&grant(9, 1, &[]), Timestamp(0));
        let anew = |term| Grant { tag: Tag::default().next(7), ..grant(term, 2, &["shop/one/1"]) };
        held.receive(&anew(2), Timestamp(1_000));
        assert_eq!(held.until(&one, Timestamp(1_001)), Some(Timestamp(3_000)), "its terms are counted anew");
        held.receive(&grant(10, 3, &["shop/one/1"]), Timestamp(2_000));
        held.receive(&Grant { tag: Tag::default().next(8), ..anew(3) }, Timestamp(2_000));
        held.receive(&anew(1), Timestamp(2_000));
        assert_eq!(held.until(&one, Timestamp(2_001)), Some(Timestamp(3_000)));
    }

    #[test]
    fn nobody_promises_across_foundations_and_no_promise_counts_in_another_one() {
        let (old, one, me) = (listed(), instance("shop/one/1"), NodeId(1));
        let (anew, asks) = (founded_anew(&old), (NodeId(1), &old.cluster.tag));
        let mut other = Holdings::new(Timestamp(0));
        assert_eq!(other.promise(&anew, asks, &one, Timestamp(9_000)), Err(NoPromise::Estranged));
        assert_eq!(
            other.promise(&old, (NodeId(1), &anew.cluster.tag), &one, Timestamp(9_000)),
            Err(NoPromise::Estranged)
        );
        assert_eq!(other.promise(&old, asks, &one, Timestamp(9_000)), Ok(()));
        assert!(!other.is_free(&instance("shop/one/2"), Timestamp(11_099)), "whatever it follows when it is asked to");

        // The lists of a foundation that did not grant count for nothing.
        let mut held = holder(10_000);
        assert_eq!(held.pleas(&anew, me, Timestamp(11_000)), [(one.clone(), BTreeSet::new())].into());
        for node in [2, 3] {
            held.answered(&anew, me, (&one, NodeId(node)), Ok(()), Timestamp(11_000), Timestamp(11_100));
        }
        assert_eq!(held.until(&one, Timestamp(11_200)), Some(Timestamp(12_000)));
        // Nor do promises that were given before the new one granted.
        held.receive(&Grant { tag: anew.cluster.tag.clone(), ..grant(1, 1, &["shop/one/1"]) }, Timestamp(11_050));
        held.answered(&anew, me, (&one, NodeId(2)), Ok(()), Timestamp(12_500), Timestamp(12_600));
        assert_eq!(held.until(&one, Timestamp(12_600)), Some(Timestamp(13_050)));
        held.answered(&anew, me, (&one, NodeId(3)), Ok(()), Timestamp(12_600), Timestamp(12_700));
        assert_eq!(held.until(&one, Timestamp(12_700)), Some(Timestamp(14_500)));
    }

    fn lengthened(generation: u64, covers: &[&str]) -> Lengthened {
        let Grant { tag, generation, covers, .. } = grant(1, generation, covers);
        Lengthened { tag, generation, covers, length_ms: 15_000 }
    }

    #[test]
    fn a_long_grant_prolongs_from_the_question_what_has_not_run_out() {
        let (one, two) = (instance("shop/one/1"), instance("shop/two/2"));
        let mut held = holder(10_000);
        held.lengthen(&lengthened(1, &["shop/one/1", "shop/two/2"]), Timestamp(10_500), Timestamp(11_500));
        assert_eq!((held.until(&one, Timestamp(25_499)), held.is_long(&one)), (Some(Timestamp(25_500)), true));
        assert_eq!((held.until(&one, Timestamp(25_500)), held.until(&two, Timestamp(11_500))), (None, None));
        held.receive(&grant(1, 1, &["shop/one/1"]), Timestamp(11_000));
        assert_eq!(held.until(&one, Timestamp(12_000)), Some(Timestamp(25_500)), "an ordinary one does not shorten it");
        let mut late = holder(10_000);
        late.lengthen(&lengthened(1, &["shop/one/1"]), Timestamp(10_500), Timestamp(12_000));
        assert_eq!(late.until(&one, Timestamp(12_000)), None, "what has run out is over");
    }

    #[test]
    fn a_long_grant_by_a_plan_or_a_foundation_that_is_over_grants_nothing() {
        let one = instance("shop/one/1");
        let mut held = holder(10_000);
        held.dropped(Generation(2), &[one.clone()].into());
        held.lengthen(&lengthened(1, &["shop/one/1"]), Timestamp(10_500), Timestamp(10_600));
        assert_eq!(held.until(&one, Timestamp(10_600)), Some(Timestamp(12_000)), "plan 2 is followed");
        let mut held = holder(10_000);
        held.receive(&Grant { tag: Tag::default().next(5), ..grant(1, 1, &["shop/one/1"]) }, Timestamp(10_400));
        held.lengthen(&lengthened(1, &["shop/one/1"]), Timestamp(10_500), Timestamp(10_600));
        assert_eq!((held.until(&one, Timestamp(10_600)), held.is_long(&one)), (Some(Timestamp(12_400)), false));
    }

    #[test]
    fn who_has_a_long_grant_asks_nobody_for_promises_and_counts_none() {
        let (state, one, me) = (listed(), instance("shop/one/1"), NodeId(1));
        let mut held = holder(10_000);
        held.lengthen(&lengthened(1, &["shop/one/1"]), Timestamp(10_500), Timestamp(10_600));
        assert!(held.pleas(&state, me, Timestamp(12_000)).is_empty());
        for node in [2, 3] {
            held.answered(&state, me, (&one, NodeId(node)), Ok(()), Timestamp(25_000), Timestamp(25_100));
        }
        assert_eq!(held.until(&one, Timestamp(25_499)), Some(Timestamp(25_500)));
        assert!(!held.acts_by_promises(&one, Timestamp(25_000)));
        // It promises nothing to another one of the service meanwhile.
        let two = instance("shop/one/2");
        let mut state = listed();
        state.plan.instances.insert(two.clone(), InstanceAssignment { exclusive: true, ..samples::place(2, 1) });
        let asks = (NodeId(2), &Tag::default());
        assert_eq!(held.promise(&state, asks, &two, Timestamp(25_000)), Err(NoPromise::Acts));
    }

    #[test]
    fn shares_are_those_of_the_state_they_are_asked_for() {
        let mut state = samples::cluster(3);
        let mut shares = Shares::default();
        let placed = |node, exclusive| InstanceAssignment { exclusive, ..samples::place(node, 1) };
        for (id, node, exclusive) in [("shop/one/1", 1, true), ("shop/web/2", 1, false), ("shop/two/3", 2, true)] {
            state.plan.instances.insert(instance(id), placed(node, exclusive));
        }
        state.applied = state.applied.next();
        for node in [1, 2, 3].map(NodeId) {
            assert_eq!(shares.of(&state, node).cloned().unwrap_or_default(), grantable(&state, node), "{node}");
        }
        state.plan.instances.insert(instance("shop/one/1"), placed(3, true));
        state.applied = state.applied.next();
        for node in [1, 2, 3].map(NodeId) {
            assert_eq!(shares.of(&state, node).cloned().unwrap_or_default(), grantable(&state, node), "{node}");
        }
    }
}

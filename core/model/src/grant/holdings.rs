//! What one node holds: until when each of its exclusive instances may act, and what it has promised to others.
//!
//! Told the time, which must be that of a clock that runs while the host sleeps. Begins empty with each start of the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::long::Lengthened;
use super::{ASK_EVERY, GRANT_OVER, Grant, LEASE, granted_to};
use crate::control::ControlState;
use crate::id::*;
use crate::plan::Candidates;
use crate::tag::Tag;
use crate::time::Timestamp;

/// Promises are asked for when no leader has prolonged a grant for so long: two questions went unanswered. Late enough that a busy leader
/// is not taken for none, early enough for two rounds of promises within a lease.
pub const UNANSWERED: Duration = Duration::from_millis(2 * ASK_EVERY.as_millis() as u64);

/// What a node holds and owes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// When the agent started. None only in tests of what does not depend on it.
    began: Option<Timestamp>,
    /// The newest foundation that granted anything, and its newest term.
    tag: Tag,
    term: u64,
    follows: Generation,
    held: BTreeMap<InstanceId, Held>,
    /// Until when something may act here, let go of or not.
    acts: BTreeMap<InstanceId, Timestamp>,
    /// Instances elsewhere whose place is not taken here, until when.
    promised: BTreeMap<InstanceId, Timestamp>,
    /// Why an instance is not held any longer, for people.
    missing: BTreeMap<InstanceId, String>,
}

/// One instance that may act.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    until: Timestamp,
    /// When the question was sent that a leader answered last.
    answered: Timestamp,
    /// The foundation of that leader. Lists of candidates and promises of others do not count.
    tag: Tag,
    /// The plan that it granted by. Lists of candidates of older plans do not count.
    plan: Generation,
    /// When the last question was sent to which each candidate promised.
    promises: BTreeMap<NodeId, Timestamp>,
    /// What the others said.
    refusals: BTreeMap<NodeId, String>,
    /// It has a long grant: nobody is asked for promises any more.
    long: bool,
}

/// Why a node does not promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum NoPromise {
    /// What it promised, or ran, before its start it does not know.
    #[error("has just started")]
    JustStarted,
    /// The control group was founded anew, and only one of both nodes follows the new one.
    #[error("belongs to another foundation of the cluster")]
    Estranged,
    /// By the plan that it follows the instance is not where it is asked for.
    #[error("follows a plan without it")]
    Dropped,
    /// Another instance of the service may act here.
    #[error("runs another instance")]
    Acts,
    /// Written by a newer agent.
    #[error("gives a reason that this version does not know")]
    #[serde(other)]
    Unknown,
}

impl Holdings {
    /// Nothing yet, of an agent that started at `now`.
    pub fn new(now: Timestamp) -> Self {
        Self { began: Some(now), ..Self::default() }
    }

    /// Takes a grant that answers a question sent at `asked_at`. An older one changes nothing: it ends no later grant.
    pub fn receive(&mut self, grant: &Grant, asked_at: Timestamp) {
        let newer = grant.tag.epoch > self.tag.epoch;
        let stale = grant.tag != self.tag || grant.term < self.term;
        if (stale && !newer) || grant.generation < self.follows {
            return;
        }
        // Terms of another foundation are counted anew: it does not know how far the one before came.
        (self.tag, self.term) = (grant.tag.clone(), grant.term);
        let until = asked_at + LEASE;
        self.acts.retain(|_, until| asked_at < *until);
        for id in &grant.covers {
            let fresh = || Held {
                until,
                answered: asked_at,
                tag: grant.tag.clone(),
                plan: grant.generation,
                promises: BTreeMap::new(),
                refusals: BTreeMap::new(),
                long: false,
            };
            let held = self.held.entry(id.clone()).or_insert_with(fresh);
            if held.tag != grant.tag {
                *held = Held { until: held.until, long: held.long, ..fresh() };
            }
            held.until = until.max(held.until);
            held.plan = held.plan.max(grant.generation);
            if held.answered < asked_at {
                held.answered = asked_at;
                held.refusals.clear();
            }
            self.missing.remove(id);
            let acts = self.acts.entry(id.clone()).or_insert(until);
            *acts = until.max(*acts);
        }
    }

    /// Takes a long grant that was asked for at `asked_at`. It prolongs only what has not run out at `now`, and nothing where the
    /// foundation that put it on record is not the one that granted last, or where this node follows a later plan than was in force then.
    /// From then on promises prolong that no more: nobody who refuses one could end it.
    pub fn lengthen(&mut self, grant: &Lengthened, asked_at: Timestamp, now: Timestamp) {
        if grant.tag != self.tag || grant.generation < self.follows {
            return;
        }
        let until = asked_at + Duration::from_millis(grant.length_ms);
        for id in &grant.covers {
            let Some(held) = self.held.get_mut(id).filter(|held| now < held.until && held.tag == grant.tag) else {
                continue;
            };
            held.until = until.max(held.until);
            held.plan = held.plan.max(grant.generation);
            held.long = true;
            let acts = self.acts.entry(id.clone()).or_insert(until);
            *acts = until.max(*acts);
        }
    }

    /// Whether the instance has a long grant.
    pub fn is_long(&self, id: &InstanceId) -> bool {
        self.held.get(id).is_some_and(|held| held.long)
    }

    /// This node follows the plan `generation`, in which it shall run `listed`. What is not among them is let go, and no grant by an
    /// older plan brings it back.
    pub fn dropped(&mut self, generation: Generation, listed: &BTreeSet<InstanceId>) {
        if generation < self.follows {
            return;
        }
        self.follows = generation;
        self.held.retain(|id, _| listed.contains(id));
        self.missing.retain(|id, _| listed.contains(id));
    }

    /// Until when the instance may act; none when nothing was granted, or nothing that still counts at `now`.
    pub fn until(&self, id: &InstanceId, now: Timestamp) -> Option<Timestamp> {
        self.held.get(id).map(|held| held.until).filter(|until| now < *until)
    }

    /// Whether it acts by promises alone: no leader has granted it up to `now`.
    pub fn acts_by_promises(&self, id: &InstanceId, now: Timestamp) -> bool {
        self.held.get(id).is_some_and(|held| held.answered + LEASE <= now && now < held.until && !held.long)
    }

    /// Whether the instance may be started, as far as promises go: none that was given, or may have been given before the agent was
    /// started, keeps its place for another one.
    pub fn is_free(&self, id: &InstanceId, now: Timestamp) -> bool {
        let kept = |(other, until): (&InstanceId, &Timestamp)| is_sibling(id, other) && now < *until;
        !self.has_just_started(now) && !self.promised.iter().any(kept)
    }

    /// Promises `holder`, which follows the foundation `tag`, that nothing takes the place of `id` here, for so long that it can count on
    /// a lease from when it asked. A promise binds whatever a plan says later, and whatever foundation this node follows then.
    ///
    /// # Errors
    /// Why not.
    pub fn promise(
        &mut self,
        state: &ControlState,
        (holder, tag): (NodeId, &Tag),
        id: &InstanceId,
        now: Timestamp,
    ) -> Result<(), NoPromise> {
        if self.has_just_started(now) {
            return Err(NoPromise::JustStarted);
        }
        if state.cluster.tag != *tag {
            return Err(NoPromise::Estranged);
        }
        if !granted_to(state, holder, id) {
            return Err(NoPromise::Dropped);
        }
        self.acts.retain(|_, until| now < *until);
        if self.acts.keys().any(|other| is_sibling(id, other)) {
            return Err(NoPromise::Acts);
        }
        self.promised.retain(|_, until| now < *until);
        let until = self.promised.entry(id.clone()).or_insert(now);
        *until = (*until).max(now + GRANT_OVER);
        Ok(())
    }

    /// Instances of `me` that no leader prolongs, each with the nodes to ask for promises.
    pub fn pleas(&self, state: &ControlState, me: NodeId, now: Timestamp) -> BTreeMap<InstanceId, BTreeSet<NodeId>> {
        let wants = |(id, held): &(&InstanceId, &Held)| {
            now < held.until && now.since(held.answered) >= UNANSWERED && !held.long && granted_to(state, me, id)
        };
        let nodes = |(id, held): (&InstanceId, &Held)| {
            let listed = held.list(state, id).map(|listed| listed.nodes.clone());
            (id.clone(), listed.unwrap_or_default())
        };
        self.held.iter().filter(wants).map(nodes).collect()
    }

    /// Takes what `candidate` said to a plea for `id` that was sent at `asked_at`. Once all that must promise have, the instance may act
    /// for a lease from the oldest of their promises. What ran out before is over.
    pub fn answered(
        &mut self,
        state: &ControlState,
        me: NodeId,
        (id, candidate): (&InstanceId, NodeId),
        answer: Result<(), String>,
        asked_at: Timestamp,
        now: Timestamp,
    ) {
        let Some(held) = self.held.get_mut(id).filter(|held| now < held.until && !held.long) else { return };
        match answer {
            Ok(()) => {
                let promised = held.promises.entry(candidate).or_insert(asked_at);
                *promised = asked_at.max(*promised);
                held.refusals.remove(&candidate);
            }
            Err(words) => drop(held.refusals.insert(candidate, words)),
        }
        if !granted_to(state, me, id) {
            return;
        }
        let Some(listed) = held.list(state, id).filter(|listed| !listed.nodes.is_empty()) else { return };
        let all: Option<Vec<Timestamp>> = listed.nodes.iter().map(|node| held.promises.get(node).copied()).collect();
        if let Some(oldest) = all.into_iter().flatten().min() {
            held.until = held.until.max(oldest + LEASE);
            let acts = self.acts.entry(id.clone()).or_insert(held.until);
            *acts = held.until.max(*acts);
        }
    }

    /// Forgets what has run out at `now`, and returns it with the reason, which is kept for [`Holdings::missing`].
    pub fn run_out(&mut self, state: &ControlState, now: Timestamp) -> Vec<(InstanceId, String)> {
        let out: Vec<InstanceId> =
            self.held.iter().filter(|(_, held)| held.until <= now).map(|(id, _)| id.clone()).collect();
        let mut why = Vec::new();
        for id in out {
            let Some(held) = self.held.remove(&id) else { continue };
            let words = held.why(state, &id);
            self.missing.insert(id.clone(), words.clone());
            why.push((id, words));
        }
        why
    }

    /// Why the instance may not act, where it could before.
    pub fn missing(&self, id: &InstanceId) -> Option<&str> {
        self.missing.get(id).map(String::as_str)
    }

    fn has_just_started(&self, now: Timestamp) -> bool {
        self.began.is_some_and(|began| now.since(began) < GRANT_OVER)
    }
}

impl Held {
    /// The list that counts: of the foundation that granted, and of no plan before the one that was granted by.
    fn list<'a>(&self, state: &'a ControlState, id: &InstanceId) -> Option<&'a Candidates> {
        let counts = state.cluster.tag == self.tag && state.plan.generation >= self.plan;
        state.plan.candidates.get(id).filter(|_| counts)
    }

    fn why(&self, state: &ControlState, id: &InstanceId) -> String {
        let nodes = self.list(state, id).map(|listed| listed.nodes.clone()).unwrap_or_default();
        if nodes.is_empty() {
            return "no leader answers, and no other node could take its place and promise not to".into();
        }
        let fresh = |node: &NodeId| self.promises.get(node).is_some_and(|asked_at| *asked_at + LEASE > self.until);
        let silent = nodes.iter().filter(|node| self.refusals.contains_key(node) || !fresh(node));
        let words = silent.map(|node| {
            let name = state.spec.name_of(*node);
            match self.refusals.get(node) {
                Some(words) => format!("{name} {words}"),
                None => format!("{name} does not answer"),
            }
        });
        let words: Vec<String> = words.take(NAMED_MAX).collect();
        format!("no leader answers, and not every node that could take its place promised not to: {}", words.join(", "))
    }
}

/// Nodes that a reason names: enough to know where to look.
const NAMED_MAX: usize = 5;

/// Another instance of the same service.
fn is_sibling(id: &InstanceId, other: &InstanceId) -> bool {
    id != other && id.app == other.app && id.service == other.service
}

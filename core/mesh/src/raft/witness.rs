//! What others saw of a replica: how one that comes back with an older disk (a copy that was restored, a snapshot of a virtual
//! machine that was taken back) is kept from breaking a promise that it does not remember.
//!
//! A replica that acknowledged an entry, or voted, and then forgot it, could let others lose what was acknowledged. It cannot know
//! that it forgot; the others can. So each start of a replica begins with questions:
//!
//! - A member answers nobody in Raft before that one has said what it saw of it: how far it knows the log to be committed, and what
//!   this member acknowledged of that while the other one led. Who acknowledged more than its log holds is *older*: it stops for good,
//!   with words.
//! - It votes, and stands for election, only after so many others have answered that they and it are a majority; and only for a log
//!   that holds all that is committed as far as they know.
//!
//! What was acknowledged is kept by whoever led, in memory at once and on disk with the next commit point, so it costs no write. An
//! entry that is committed is never taken back, therefore a member that is merely behind is never accused. What cannot be noticed: a
//! disk that goes back while everyone who saw more of it is out of reach; then the others' committed logs are all that protects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Weak};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hirsel_model::{NodeId, codec};
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use serde::{Deserialize, Serialize};

use super::Types;
use super::group::Inner;
use super::store::lock;
use super::tagged::tagged;
use super::wire::{Position, Request};
use crate::transport::CallError;

/// One answer. Longer than a dial takes that finds the other end, shorter than an election.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// Between two rounds of questions.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// "This is where my log ends: what did you see of me?"
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ask {
    last: Option<Position>,
}

/// The answer.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Saw {
    /// How far the log is committed, as far as the other one knows.
    committed: Option<Position>,
    /// What the asker has acknowledged of it.
    acknowledged: Option<Position>,
}

/// What this start of a replica was told.
pub(super) struct Witness {
    known: Mutex<Known>,
    older: AtomicBool,
}

#[derive(Default)]
struct Known {
    /// Who has answered.
    asked: BTreeSet<NodeId>,
    /// The furthest that anybody knows the log to be committed.
    committed: Option<Position>,
}

impl Witness {
    pub fn new() -> Self {
        Self { known: Mutex::default(), older: AtomicBool::new(false) }
    }

    /// Whether others saw more of this replica than it has.
    pub fn is_older(&self) -> bool {
        self.older.load(Ordering::Relaxed)
    }

    /// Another foundation begins: nothing that was said is about it.
    pub fn forget(&self) {
        *lock(&self.known) = Known::default();
        self.older.store(false, Ordering::Relaxed);
    }
}

/// Asks the other voters until enough have answered, whenever there are new ones.
pub(super) async fn ask_all(group: Weak<Inner>) {
    let Some(mut standing) = group.upgrade().map(|group| group.standing.subscribe()) else { return };
    loop {
        let Some(group) = group.upgrade() else { return };
        let voters = standing.borrow_and_update().voters.clone();
        let missing = group.unasked(&voters);
        if missing.is_empty() {
            drop(group);
            if standing.changed().await.is_err() {
                return;
            }
            continue;
        }
        let mut answers: FuturesUnordered<_> = missing.into_iter().map(|node| group.ask(node)).collect();
        while answers.next().await.is_some() {}
        drop(answers);
        group.look();
        drop(group);
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

impl Inner {
    /// Whom a voter among `voters` has still to ask before it may vote.
    fn unasked(&self, voters: &BTreeSet<NodeId>) -> Vec<NodeId> {
        if !voters.contains(&self.me) || self.is_confirmed(voters) || self.witness.is_older() {
            return Vec::new();
        }
        let known = lock(&self.witness.known);
        voters.iter().copied().filter(|node| *node != self.me && !known.asked.contains(node)).collect()
    }

    /// Whether those who answered are a majority together with this one.
    fn is_confirmed(&self, voters: &BTreeSet<NodeId>) -> bool {
        let known = lock(&self.witness.known);
        let others = voters.iter().filter(|node| **node != self.me);
        others.filter(|node| known.asked.contains(node)).count() + 1 > voters.len() / 2
    }

    /// Whether this replica may stand for election among `voters`.
    pub(super) fn may_stand(&self, voters: &BTreeSet<NodeId>) -> bool {
        let committed = lock(&self.witness.known).committed;
        !self.witness.is_older() && self.is_confirmed(voters) && self.log.last().map(Position::from) >= committed
    }

    /// Whether `request` of `from` may be answered now.
    pub(super) async fn may_answer(&self, from: NodeId, request: &Request) -> Result<(), String> {
        if self.witness.is_older() {
            return Err(self.stopped().unwrap_or_default());
        }
        let asked = lock(&self.witness.known).asked.contains(&from);
        if !asked {
            match self.ask(from).await {
                // It speaks Raft and does not know the question: a hirsel from before it was asked.
                Err(CallError::NoHandler) => drop(lock(&self.witness.known).asked.insert(from)),
                answered => answered.map_err(|error| format!("node {from} does not say what it saw: {error}"))?,
            }
            self.look();
        }
        if self.witness.is_older() {
            return Err(self.stopped().unwrap_or_default());
        }
        let (Request::Vote(ask) | Request::PreVote(ask)) = request else { return Ok(()) };
        let voters = self.standing.borrow().voters.clone();
        if voters.contains(&self.me) && !self.is_confirmed(&voters) {
            return Err("too few members have said what they saw of this one".into());
        }
        if ask.last < lock(&self.witness.known).committed {
            return Err("that log lacks what is committed".into());
        }
        Ok(())
    }

    /// Asks one other member, and takes what it says.
    async fn ask(&self, node: NodeId) -> Result<(), CallError> {
        let last = self.log.last().map(Position::from);
        let body = tagged(&self.tag(), codec::encode(&Ask { last }));
        let answer = self.calls.call(node, self.names.seen, body, ANSWER_WITHIN).await?;
        let saw: Saw = codec::decode(&answer).map_err(|error| CallError::Refused(error.to_string()))?;
        if saw.acknowledged > last {
            let ends =
                |at: Option<Position>| at.map_or("nowhere".into(), |at| format!("at {} of term {}", at.index, at.term));
            let words = format!(
                "the log of {} is older than what node {node} saw of it: it ends {}, and this node has acknowledged it up to {}. \
                 It does not vote with it, and joins again as a new one by itself where the others have a leader; by hand: put its data \
                 folder aside, then hirsel join SEED --token T",
                self.names.group,
                ends(last),
                ends(saw.acknowledged).trim_start_matches("at "),
            );
            self.lag(words).await;
            return Ok(());
        }
        let mut known = lock(&self.witness.known);
        known.committed = known.committed.max(saw.committed);
        known.asked.insert(node);
        Ok(())
    }

    /// Stops for good: others saw more of this replica than it has.
    pub(super) async fn lag(&self, words: String) {
        self.witness.older.store(true, Ordering::Relaxed);
        let first = self.stopped.send_if_modified(|stopped| {
            let first = stopped.is_none();
            stopped.get_or_insert(words.clone());
            first
        });
        if first {
            tracing::error!("{words}");
        }
        // The next start asks again; but whoever saw it may be gone by then.
        if let Err(error) = self.log.write_fact("older", codec::encode(&words)).await {
            tracing::debug!(%error, "that this log is older is not kept");
        }
        let raft = self.raft();
        tokio::spawn(async move { drop(raft.shutdown().await) });
    }

    /// What this replica saw of `from`, whose log ends where it says.
    pub(super) fn saw(&self, from: NodeId, ask: &Ask) -> Saw {
        let metrics = self.raft().metrics().borrow_watched().clone();
        let mut acknowledged = self.log.seen().get(&from.0).copied();
        // Nobody votes before he has the log. So a voter without one has lost it.
        let membership = &metrics.membership_config;
        if ask.last.is_none() && membership.membership().voter_ids().any(|voter| voter == from.0) {
            acknowledged = acknowledged.max(membership.log_id().map(Into::into));
        }
        Saw { committed: self.log.committed().map(Into::into), acknowledged }
    }

    /// Notes what the others have acknowledged, if this one leads.
    pub(super) fn see(&self, metrics: &openraft::RaftMetrics<Types>) {
        let (ServerState::Leader, Some(replication)) = (metrics.state, &metrics.replication) else { return };
        let committed = self.log.committed().map(Position::from);
        let before = self.log.seen();
        let mut seen: BTreeMap<u64, Position> = BTreeMap::new();
        for (node, matched) in replication.iter().filter(|(node, _)| **node != self.me.0) {
            // What is not committed yet may still be taken back.
            let now = matched.map(Position::from).min(committed);
            if let Some(at) = now.max(before.get(node).copied()) {
                seen.insert(*node, at);
            }
        }
        if seen != before {
            self.log.see(seen);
        }
    }
}

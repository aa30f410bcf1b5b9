//! Proposing from anywhere: finding the leader, trying again, and knowing what one does not know.
//!
//! A proposal may be sent several times: to a leader that dies, to the next one, to the first again. The group applies it once
//! (`sessions`). When the time is over, [`ProposeError`] tells whether a copy may still be carried out.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hirsel_model::{NodeId, codec};
use openraft::ReadPolicy;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::group::Inner;
use super::store::lock;
use super::tagged::tagged;
use super::{COMMAND_BYTES_MAX, Command, Reply};
use crate::transport::CallError;

/// Proposals of one group that may be under way at once from this node, and for others. Beyond it they queue, or are sent back.
pub(super) const PROPOSALS_MAX: usize = 1024;
/// Between two tries, unless a new leader shows up earlier.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// One try. A leader that does not answer for this long is asked again, or another one is.
const TRY_WITHIN: Duration = Duration::from_secs(2);
/// Whoever knows no leader asks one voter, and the next one as well after this: one that is gone costs no more. They answer in some milliseconds.
const ASK_NEXT_AFTER: Duration = Duration::from_millis(200);

/// Why a proposal has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nobody took it in time: it will never happen.
    #[error("no leader took the change; try: hirsel status")]
    NoLeader,
    /// Somebody took it, and no answer came in time: it has happened, will happen, or never will.
    #[error("no answer from the leader in time; the change may or may not happen")]
    TimedOut,
    /// This replica has stopped and knows of no other. If it stopped just now, the change may have been taken before.
    #[error("the control log of this node has stopped: {0}")]
    Stopped(String),
    /// Larger than any command may be.
    #[error("a change of {0} bytes exceeds {COMMAND_BYTES_MAX}")]
    TooLarge(usize),
}

/// What became of one try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Offered {
    /// Applied, now or earlier.
    Applied(Reply),
    /// Certainly not taken; ask that one.
    NotTaken(Option<u64>),
    /// Taken or not.
    Unknown,
    /// The replica asked does not work any more.
    Stopped(String),
}

/// Whether a copy of a proposal may still be carried out. The time may be over in the middle of any try: what an earlier one left in doubt
/// stays so while others are asked.
#[derive(Default)]
struct Doubt {
    /// Somebody may have taken it before.
    left: bool,
    /// It is being handed to somebody.
    now: bool,
}

impl Doubt {
    /// A try begins, which hands it over or only asks who leads.
    fn begin(&mut self, hands_over: bool) {
        self.left |= self.now;
        self.now = hands_over;
    }

    /// This try certainly left nothing.
    fn not_taken(&mut self) {
        self.now = false;
    }

    fn remains(&self) -> bool {
        self.left || self.now
    }
}

/// Numbers the proposals of this replica.
pub(super) struct Proposer {
    id: u64,
    numbers: Mutex<Numbers>,
    permits: Semaphore,
}

#[derive(Default)]
struct Numbers {
    next: u64,
    waiting: BTreeSet<u64>,
}

/// A proposal that is waited for.
struct Ticket<'a> {
    proposer: &'a Proposer,
    sequence: u64,
    settled_below: u64,
    _permit: Option<SemaphorePermit<'a>>,
}

impl Proposer {
    pub fn new(id: u64) -> Self {
        Self { id, numbers: Mutex::default(), permits: Semaphore::new(PROPOSALS_MAX) }
    }

    async fn ticket(&self) -> Ticket<'_> {
        // The semaphore is never closed.
        let permit = self.permits.acquire().await.ok();
        let mut numbers = lock(&self.numbers);
        let sequence = numbers.next;
        numbers.next += 1;
        numbers.waiting.insert(sequence);
        let settled_below = numbers.waiting.first().copied().unwrap_or(sequence);
        Ticket { proposer: self, sequence, settled_below, _permit: permit }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        lock(&self.proposer.numbers).waiting.remove(&self.sequence);
    }
}

impl Inner {
    pub(super) async fn propose(&self, body: Bytes, ttl: Duration) -> Result<(u64, Bytes), ProposeError> {
        if body.len() > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge(body.len()));
        }
        let mut doubt = Doubt::default();
        let deadline = Instant::now() + ttl;
        let tries = async {
            let ticket = self.proposer.ticket().await;
            let (proposer, sequence, settled_below) = (self.proposer.id, ticket.sequence, ticket.settled_below);
            let command = Command { proposer, sequence, settled_below, body };
            let mut targets = Targets::default();
            loop {
                let target = targets.next(self)?;
                doubt.begin(!matches!(target, Target::Nobody | Target::Perhaps(_)));
                let offered = match target {
                    Target::Leader(me) if me == self.me => self.offer_here(command.clone()).await,
                    Target::Leader(leader) => self.offer_there(leader, &command, deadline).await,
                    // Asked first whether it leads: a proposal that is handed to the dead leaves a doubt.
                    Target::Perhaps(nodes) => Offered::NotTaken(match self.read_anywhere(nodes, deadline).await {
                        Ok((node, _)) => Some(node.0),
                        Err(hint) => hint,
                    }),
                    Target::Nobody => Offered::NotTaken(None),
                };
                match offered {
                    Offered::Applied(Reply::Done { index, result }) => return Ok((index, result)),
                    // So late a copy that the group has forgotten what it did with the first.
                    Offered::Applied(Reply::Stale | Reply::Nothing) => return Err(ProposeError::TimedOut),
                    Offered::NotTaken(hint) => {
                        doubt.not_taken();
                        targets.redirect = hint.map(NodeId);
                    }
                    Offered::Unknown => {}
                    // It ended before it took this, or under it: then that may be in its log, and with others.
                    Offered::Stopped(_) => {}
                }
                self.pause(&targets).await;
            }
        };
        match timeout_at(deadline, tries).await {
            Ok(result) => result,
            Err(_) if doubt.remains() => Err(ProposeError::TimedOut),
            Err(_) => Err(self.nobody()),
        }
    }

    /// The last command that any answer given before now could reflect, as a leader confirms it now.
    pub(super) async fn confirm_read(&self, deadline: Instant) -> Result<u64, ProposeError> {
        let tries = async {
            let mut targets = Targets::default();
            loop {
                let read = match targets.next(self)? {
                    Target::Leader(me) if me == self.me => self.read_here().await,
                    Target::Leader(node) => self.read_there(node, deadline).await,
                    Target::Perhaps(nodes) => self.read_anywhere(nodes, deadline).await.map(|(_, index)| index),
                    Target::Nobody => Err(None),
                };
                match read {
                    Ok(index) => return Ok(index),
                    Err(hint) => targets.redirect = hint.map(NodeId),
                }
                self.pause(&targets).await;
            }
        };
        timeout_at(deadline, tries).await.unwrap_or_else(|_| Err(self.nobody()))
    }

    /// Proposes on this replica, if it leads.
    pub(super) async fn offer_here(&self, command: Command) -> Offered {
        if let Some(words) = self.stopped() {
            return Offered::Stopped(words);
        }
        // A leader that no majority hears would keep it in its log, where it may yet come true or not.
        if !self.standing.borrow().mine {
            return Offered::NotTaken(None);
        }
        let raft = self.raft();
        let write = timeout(TRY_WITHIN, raft.client_write(command));
        let written = tokio::select! {
            written = write => written,
            // Deposed: what waits here is for the next leader to decide, and the proposer to ask there.
            () = self.leads_no_more() => return Offered::Unknown,
        };
        match written {
            Err(_) => Offered::Unknown,
            Ok(Ok(response)) => Offered::Applied(response.data),
            Ok(Err(RaftError::APIError(error))) => match error {
                ClientWriteError::ForwardToLeader(forward) => Offered::NotTaken(self.hint_at(forward.leader_id)),
                ClientWriteError::LogEntryDiscarded(_)
                | ClientWriteError::ChangeMembershipError(_)
                | ClientWriteError::PreconditionFailed(_) => Offered::Unknown,
            },
            Ok(Err(RaftError::Fatal(fatal))) => Offered::Stopped(self.words(&fatal)),
        }
    }

    async fn offer_there(&self, leader: NodeId, command: &Command, deadline: Instant) -> Offered {
        let ttl = TRY_WITHIN.min(deadline.saturating_duration_since(Instant::now()));
        let call = self.calls.call(leader, self.names.propose, tagged(&self.tag(), codec::encode(command)), ttl);
        let answered = tokio::select! {
            answered = call => answered,
            () = self.leader_changes_from(leader) => return Offered::Unknown,
        };
        match answered {
            // An answer that cannot be read says nothing.
            Ok(answer) => codec::decode(&answer).unwrap_or(Offered::Unknown),
            Err(CallError::TimedOut | CallError::Unreachable) => Offered::Unknown,
            Err(CallError::Refused(_) | CallError::NoHandler) => Offered::NotTaken(None),
        }
    }

    /// A read point of this replica, if it leads; else who might.
    pub(super) async fn read_here(&self) -> Result<u64, Option<u64>> {
        self.read_point_of(None).await
    }

    /// A read point of this replica, if it leads `term`.
    pub(super) async fn lead_point(&self, term: u64, ttl: Duration) -> Result<u64, ProposeError> {
        let read = timeout(ttl, self.read_point_of(Some(term))).await;
        read.map_err(|_| ProposeError::TimedOut)?.map_err(|_| self.nobody())
    }

    /// A read point of this replica, if it leads, and in this term if one is given; else who might.
    async fn read_point_of(&self, term: Option<u64>) -> Result<u64, Option<u64>> {
        // Another one may be elected while the engine waits for the disk, and knows nothing of it.
        if self.is_hung() {
            return Err(None);
        }
        let read = async {
            let linearizer = self.raft().get_read_linearizer(ReadPolicy::ReadIndex).await?;
            Ok::<_, RaftError<_, LinearizableReadError<_>>>(*linearizer.read_log_id().log_id())
        };
        match timeout(TRY_WITHIN, read).await {
            // The entry is of the term in which this replica leads.
            Ok(Ok(at)) if term.is_none_or(|term| term == *at.leader_id) => {
                let mut applied = self.machine.applied();
                let there = timeout(TRY_WITHIN, applied.wait_for(|applied| applied.index >= at.index)).await;
                there.ok().and_then(Result::ok).map(|applied| applied.command).ok_or(None)
            }
            Ok(Ok(_)) => Err(None),
            Ok(Err(error)) => Err(error.forward_to_leader().and_then(|forward| self.hint_at(forward.leader_id))),
            Err(_) => Err(None),
        }
    }

    async fn read_there(&self, leader: NodeId, deadline: Instant) -> Result<u64, Option<u64>> {
        let ttl = TRY_WITHIN.min(deadline.saturating_duration_since(Instant::now()));
        tokio::select! {
            answer = self.calls.call(leader, self.names.read, tagged(&self.tag(), Vec::new()), ttl) => {
                codec::decode(&answer.map_err(|_| None)?).unwrap_or(Err(None))
            }
            () = self.leader_changes_from(leader) => Err(None),
        }
    }

    /// A read point of whichever of these leads, or who might, as the first says that knows. They are asked one after the other, and none waits for
    /// long for one that is silent.
    async fn read_anywhere(&self, nodes: Vec<NodeId>, deadline: Instant) -> Result<(NodeId, u64), Option<u64>> {
        let ask = |node| async move { self.read_there(node, deadline).await.map(|index| (node, index)) };
        let (mut left, mut asked) = (nodes.into_iter(), FuturesUnordered::new());
        asked.extend(left.next().map(ask));
        loop {
            tokio::select! {
                said = asked.next() => match said {
                    Some(Err(None)) => asked.extend(left.next().map(ask)),
                    Some(said) => return said,
                    None => return Err(None),
                },
                () = sleep(ASK_NEXT_AFTER), if left.len() > 0 => asked.extend(left.next().map(ask)),
            }
        }
    }

    /// Whom to name to others that ask for the leader. The engine names the last one it knew, which may be long dead: a proposal that is
    /// handed to it leaves a doubt.
    fn hint_at(&self, leader: Option<u64>) -> Option<u64> {
        leader.filter(|leader| self.follows(NodeId(*leader)))
    }

    /// Until the next try is worth it: a while, or until another leader shows up.
    async fn pause(&self, targets: &Targets) {
        // A redirection is followed at once, the first time.
        if targets.redirect.is_none() || targets.redirects > 0 {
            let seen = self.standing.borrow().leader;
            let _ = timeout(RETRY_AFTER, self.leader_other_than(seen)).await;
        }
    }

    async fn leads_no_more(&self) {
        self.leader_other_than(Some(self.me)).await;
    }

    async fn leader_changes_from(&self, asked: NodeId) {
        // This replica may know less than whoever named the leader that is asked.
        let seen = self.standing.borrow().leader.filter(|leader| *leader != asked);
        let mut standing = self.standing.subscribe();
        let other = |leader: NodeId| leader != asked && Some(leader) != seen;
        if standing.wait_for(|standing| standing.leader.is_some_and(other)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn leader_other_than(&self, seen: Option<NodeId>) {
        let mut standing = self.standing.subscribe();
        let other = standing.wait_for(|standing| standing.leader.is_some() && standing.leader != seen);
        if other.await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    pub(super) fn nobody(&self) -> ProposeError {
        self.stopped().map_or(ProposeError::NoLeader, ProposeError::Stopped)
    }
}

/// Whom to ask next.
#[derive(Default)]
struct Targets {
    redirect: Option<NodeId>,
    redirects: u32,
    turn: usize,
}

enum Target {
    /// Said to lead.
    Leader(NodeId),
    /// Might lead, or know who does: the first ones first.
    Perhaps(Vec<NodeId>),
    Nobody,
}

impl Targets {
    /// The leader if one is known, else the voters in turn.
    fn next(&mut self, group: &Inner) -> Result<Target, ProposeError> {
        let stopped = group.stopped();
        let usable = |node: &NodeId| *node != group.me || stopped.is_none();
        if let Some(redirect) = self.redirect.take().filter(usable) {
            self.redirects += 1;
            return Ok(Target::Leader(redirect));
        }
        self.redirects = 0;
        if let Some(leader) = group.known_leader().filter(usable) {
            return Ok(Target::Leader(leader));
        }
        let mut others: Vec<NodeId> = group.known_voters().into_iter().filter(|voter| *voter != group.me).collect();
        if let Some(words) = stopped.filter(|_| others.is_empty()) {
            return Err(ProposeError::Stopped(words));
        }
        if others.is_empty() {
            return Ok(Target::Nobody);
        }
        self.turn += 1;
        let first = self.turn % others.len();
        others.rotate_left(first);
        Ok(Target::Perhaps(others))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_proposal_settles_all_before_the_oldest_that_waits() {
        let proposer = Proposer::new(1);
        let first = proposer.ticket().await;
        let second = proposer.ticket().await;
        assert_eq!((second.sequence, second.settled_below), (1, 0));
        drop(first);
        let third = proposer.ticket().await;
        assert_eq!((third.sequence, third.settled_below), (2, 1));
        drop((second, third));
        let fourth = proposer.ticket().await;
        assert_eq!((fourth.sequence, fourth.settled_below), (3, 3));
    }

    #[test]
    fn what_one_may_have_taken_stays_in_doubt_while_others_are_asked() {
        let mut doubt = Doubt::default();
        doubt.begin(false);
        assert!(!doubt.remains(), "whoever is only asked takes nothing");
        doubt.begin(true);
        assert!(doubt.remains());
        doubt.not_taken();
        assert!(!doubt.remains());
        // Handed over, and no answer.
        doubt.begin(true);
        doubt.begin(false);
        assert!(doubt.remains());
        doubt.not_taken();
        doubt.begin(true);
        doubt.not_taken();
        assert!(doubt.remains(), "that the next one did not take it says nothing of the first");
    }
}

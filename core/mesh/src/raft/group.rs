//! One replica of a group, and what its user can do with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use hirsel_model::view::RaftFacts;
use hirsel_model::{NodeId, Tag};
use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::Fatal;
use openraft::{ChangeMembers, EmptyNode, ServerState};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::calls::Calls;
use super::engine::{LEASE, engine};
use super::log::Log;
use super::machine::{Applied, Machine};
use super::proposals::{PROPOSALS_MAX, ProposeError, Proposer};
use super::reads;
use super::serve::{Arrivals, serve};
use super::store::{Store, StoreError, lock};
use super::tagged::untagged;
use super::witness::{self, Witness};
use super::{Raft, StateMachine, Types};
use crate::seam::World;

/// A learner that lacks fewer entries than this, and answered lately, is caught up: it would be level within a heartbeat.
const CAUGHT_UP_WITHIN: u64 = 64;
/// "Lately" for a learner.
const LEARNER_HEARD_WITHIN: Duration = Duration::from_secs(1);
/// One change of the membership takes at most this long to commit; then it goes on by itself and the next step looks again.
const STEP_WITHIN: Duration = Duration::from_secs(2);
/// A leader that others told of is asked for this long after they heard it. A proposal handed to one that is gone by then leaves its
/// proposer in doubt, while asking the voters who leads costs a round trip.
const HINT_FOR: Duration = Duration::from_secs(2);
/// How often is looked at what changes by time alone (a lease that runs out).
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A voter that heard its leader this lately has no reason to ask itself whether to stand for election: that is decided from the
/// end of [`LEASE`] on. The rest of the lease is room for a timer that is late.
const CALM_FOR: Duration = Duration::from_millis(400);

/// A disk that owes a write under the log for so long hangs, and a replica on it leads no more. A disk that is only busy takes a second at its worst,
/// and who proposes waits five: in the rest of that another one is elected. A follower on such a disk acknowledges nothing as it is.
const HUNG_AFTER: Duration = Duration::from_secs(2);

/// The kinds of calls of a group, and its name in the store.
#[derive(Clone, Copy, Debug)]
pub struct GroupNames {
    /// Prefix of its keys in the store. Never changes.
    pub group: &'static str,
    /// Raft's own messages.
    pub raft: &'static str,
    /// Proposals for the leader.
    pub propose: &'static str,
    /// Read points of the leader.
    pub read: &'static str,
    /// What a replica saw of another one.
    pub seen: &'static str,
}

/// What a replica needs.
pub struct GroupConfig {
    /// Under which names.
    pub names: GroupNames,
    /// Which replica.
    pub me: NodeId,
    /// Disk and chance.
    pub world: World,
    /// Where its log is.
    pub store: Arc<Store>,
    /// How it reaches the others.
    pub calls: Arc<dyn Calls>,
}

/// A node's place in a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// Votes.
    Voter,
    /// Gets the log.
    Learner,
    /// Not in it.
    #[default]
    Outside,
}

/// What a replica knows of its group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The newest term it heard of.
    pub term: u64,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// It leads, a majority heard it within the lease, and an entry of its own term is applied.
    pub mine: bool,
    /// Who votes. During a change, the old and the new ones.
    pub voters: BTreeSet<NodeId>,
    /// Who gets the log without a vote.
    pub learners: BTreeSet<NodeId>,
    /// Where this replica is.
    pub place: Place,
}

/// What others told of the group.
#[derive(Debug, Default)]
struct Hint {
    /// Who leads, and until when that is taken for true.
    leader: Option<(NodeId, Instant)>,
    voters: BTreeSet<NodeId>,
}

/// One replica. All copies of the handle are the same replica.
#[derive(Clone)]
pub struct Group {
    pub(super) inner: Arc<Inner>,
    pub(super) watcher: Arc<Mutex<Option<JoinHandle<()>>>>,
}

pub(super) struct Inner {
    pub names: GroupNames,
    pub me: NodeId,
    /// Replaced when the group is founded anew.
    pub(super) engine: RwLock<Raft>,
    pub(super) log: Log,
    pub(super) tag: watch::Sender<Tag>,
    pub(super) witness: Witness,
    /// Held while the engine is replaced.
    pub(super) replacing: tokio::sync::Mutex<()>,
    pub machine: Machine,
    pub calls: Arc<dyn Calls>,
    pub proposer: Proposer,
    pub arrivals: Arrivals,
    pub(super) reads: reads::Queue,
    pub busy: Semaphore,
    pub standing: watch::Sender<Standing>,
    hint: Mutex<Hint>,
    pub(super) stopped: watch::Sender<Option<String>>,
    pub(super) heard: Mutex<Option<Instant>>,
    /// It leads, and no majority obeys it any more.
    pub(super) alone: Arc<AtomicBool>,
    /// The disk under its log hangs ([`HUNG_AFTER`]).
    pub(super) hung: Arc<AtomicBool>,
}

impl Group {
    /// Starts the replica from what is in the store. A replica that never was a member waits until a leader makes it one.
    ///
    /// # Errors
    /// When what is in the store cannot be used.
    pub async fn start(config: GroupConfig, machine: Box<dyn StateMachine>) -> Result<Self, StoreError> {
        let GroupConfig { names, me, world, store, calls } = config;
        let stopped = watch::Sender::new(None);
        let log = Log::open(&store, names.group)?;
        let machine = Machine::load(&world, &log, machine, stopped.clone())?;
        let tag: Tag = log.read_fact("tag")?.unwrap_or_default();
        let older: Option<String> = log.read_fact("older")?;
        let (alone, hung) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let raft = engine(names, me, &tag, (&calls, &alone, &hung), &log, &machine).await?;
        let (reads, waiting) = mpsc::channel(reads::READS_MAX);
        let inner = Arc::new(Inner {
            names,
            me,
            engine: RwLock::new(raft),
            witness: Witness::new(),
            log,
            tag: watch::Sender::new(tag),
            replacing: tokio::sync::Mutex::default(),
            machine,
            calls,
            proposer: Proposer::new(world.chance.number()),
            arrivals: Arrivals::default(),
            reads,
            busy: Semaphore::new(PROPOSALS_MAX),
            standing: watch::Sender::default(),
            hint: Mutex::default(),
            stopped,
            heard: Mutex::default(),
            alone,
            hung,
        });
        inner.look();
        serve(&inner);
        if let Some(words) = older {
            inner.lag(words).await;
        }
        tokio::spawn(witness::ask_all(Arc::downgrade(&inner)));
        tokio::spawn(reads::confirm_all(Arc::downgrade(&inner), waiting));
        let watcher = tokio::spawn(watch_engine(Arc::downgrade(&inner)));
        Ok(Self { inner, watcher: Arc::new(Mutex::new(Some(watcher))) })
    }

    /// Makes a new group with this replica as its only voter. Doing it again changes nothing.
    ///
    /// # Errors
    /// When the replica has stopped.
    pub async fn found(&self) -> Result<(), ProposeError> {
        let members = BTreeMap::from([(self.inner.me.0, EmptyNode {})]);
        match self.inner.raft().initialize(members).await {
            Ok(()) | Err(openraft::errors::RaftError::APIError(_)) => Ok(()),
            Err(openraft::errors::RaftError::Fatal(fatal)) => Err(ProposeError::Stopped(self.inner.words(&fatal))),
        }
    }

    /// Whether it ever was a member of a group.
    pub fn is_founded(&self) -> bool {
        !self.inner.standing.borrow().voters.is_empty()
    }

    /// Has the leader carry out a command, wherever the leader is, and returns the index and the result. Applied at most once.
    ///
    /// # Errors
    /// See [`ProposeError`]: with [`ProposeError::TimedOut`] it may still be applied.
    pub async fn propose(&self, command: Vec<u8>, ttl: Duration) -> Result<(u64, Bytes), ProposeError> {
        // Large, and rarely in a hot path.
        Box::pin(self.inner.propose(command.into(), ttl)).await
    }

    /// The index of the last command that a linearizable read must reflect, asked of the leader.
    ///
    /// # Errors
    /// When no leader confirmed its leadership in time.
    pub async fn read_point(&self, ttl: Duration) -> Result<u64, ProposeError> {
        Box::pin(self.inner.read_point(ttl)).await
    }

    /// As [`Group::read_point`], of this replica alone: some time after the call it led `term`, and a majority said so.
    ///
    /// # Errors
    /// When it does not lead that term, or nobody confirmed it in time.
    pub async fn lead_point(&self, term: u64, ttl: Duration) -> Result<u64, ProposeError> {
        Box::pin(self.inner.lead_point(term, ttl)).await
    }

    /// What this replica knows of the group.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.inner.standing.subscribe()
    }

    /// How far this replica has applied the log.
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.inner.machine.applied()
    }

    /// Why this replica does not work any more, once it does not.
    pub fn stopped(&self) -> watch::Receiver<Option<String>> {
        self.inner.stopped.subscribe()
    }

    /// Whether the disk under the log of this replica hangs. It then leads no more, and what it has may be old, or hang as well.
    pub fn is_hung(&self) -> bool {
        self.inner.is_hung()
    }

    /// How long ago a leader was heard, or a majority if this one leads; none if never.
    pub fn heard_ago(&self) -> Option<Duration> {
        self.inner.heard_ago()
    }

    /// Tells where to send proposals when the replica itself does not hear a leader: to who led this long ago, as far as the teller
    /// knows, or to one of these voters.
    pub fn hint(&self, leader: Option<(NodeId, Duration)>, voters: BTreeSet<NodeId>) {
        let leader = leader.and_then(|(leader, ago)| Some((leader, HINT_FOR.checked_sub(ago)?)));
        let leader = leader.map(|(leader, left)| (leader, Instant::now() + left));
        *lock(&self.inner.hint) = Hint { leader, voters };
    }

    /// The place of every member, as the leader knows it; empty elsewhere.
    pub fn facts(&self) -> BTreeMap<NodeId, RaftFacts> {
        self.inner.facts()
    }

    /// Takes one step towards this membership: adds learners, or swaps the voters in one joint change once the new ones have caught
    /// up, or removes who is in neither set. Doing it again when it is reached changes nothing. Only on the leader.
    ///
    /// # Errors
    /// In words; the next call looks again.
    pub async fn set_membership(&self, voters: &BTreeSet<NodeId>, learners: &BTreeSet<NodeId>) -> Result<(), String> {
        Box::pin(self.inner.set_membership(voters, learners)).await
    }

    /// Hands leadership to another voter and waits until it has it. Only on the leader.
    ///
    /// # Errors
    /// In words.
    pub async fn transfer_leadership(&self, to: NodeId) -> Result<(), String> {
        let mut standing = self.standing();
        let now = standing.borrow_and_update().clone();
        if now.leader == Some(to) {
            return Ok(());
        }
        if !self.inner.is_leader() {
            return Err(format!("{} does not lead", self.inner.me));
        }
        if !now.voters.contains(&to) {
            return Err(format!("node {to} has no vote"));
        }
        self.inner.raft().trigger().transfer_leader(to.0).await.map_err(|fatal| self.inner.words(&fatal))?;
        match timeout(STEP_WITHIN, standing.wait_for(|standing| standing.leader == Some(to))).await {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("node {to} did not take over within {} s", STEP_WITHIN.as_secs())),
        }
    }

    /// Stops the replica. The store stays open for others.
    pub async fn shutdown(&self) {
        // It is stopped already when this fails.
        let _ = self.inner.raft().shutdown().await;
        if let Some(watcher) = lock(&self.watcher).take() {
            watcher.abort();
        }
    }

    /// Takes a snapshot now.
    #[cfg(test)]
    pub(crate) async fn snapshot_now(&self) {
        let applied = self.inner.machine.applied().borrow().index;
        if self.inner.raft().trigger().snapshot().await.is_err() {
            return;
        }
        let done = |metrics: &openraft::RaftMetrics<Types>| metrics.snapshot.is_some_and(|at| at.index >= applied);
        if self.inner.raft().wait(Some(Duration::from_secs(10))).metrics(done, "snapshot").await.is_ok() {
            // A replica that stops meanwhile keeps its log.
            let _ = self.inner.raft().trigger().purge_log(applied).await;
        }
    }
}

/// Keeps [`Standing`] true.
pub(super) async fn watch_engine(group: std::sync::Weak<Inner>) {
    let Some((mut server, mut applied)) =
        group.upgrade().map(|group| (group.raft().server_metrics(), group.machine.applied()))
    else {
        return;
    };
    let mut next = Some(Duration::ZERO);
    loop {
        tokio::select! {
            changed = server.changed() => if changed.is_err() { break },
            changed = applied.changed() => if changed.is_err() { break },
            () = tokio::time::sleep(next.unwrap_or_default()), if next.is_some() => {}
        }
        let Some(group) = group.upgrade() else { return };
        group.look();
        next = group.next_look();
    }
    // The engine has ended.
    if let Some(group) = group.upgrade() {
        group.look();
    }
}

/// How long ago a majority heard this leader.
fn obeyed_ago(metrics: &openraft::RaftMetrics<Types>) -> Option<Duration> {
    // The only voter needs nobody, and the engine does not count its obedience while nothing is written.
    let alone = metrics.membership_config.membership().voter_ids().eq([metrics.id]);
    match alone {
        true => Some(Duration::ZERO),
        false => metrics.last_quorum_acked.map(|at| at.elapsed()),
    }
}

impl Inner {
    /// The engine that runs now.
    pub fn raft(&self) -> Raft {
        self.engine.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Which foundation of the group this replica belongs to.
    pub fn tag(&self) -> Tag {
        self.tag.borrow().clone()
    }

    /// What is inside a message, if it is of this foundation.
    pub fn untagged<'a>(&self, body: &'a [u8]) -> Result<&'a [u8], String> {
        untagged(&self.tag.borrow(), self.me, body)
    }

    /// Reads the engine and publishes what changed.
    pub(super) fn look(&self) {
        let metrics = self.raft().metrics().borrow_watched().clone();
        // What wakes us is told before the rest, which therefore may be older.
        let server = self.raft().server_metrics().borrow_watched().clone();
        if let Err(fatal) = &metrics.running_state {
            let words = self.words(fatal);
            self.stopped.send_if_modified(|stopped| {
                let first = stopped.is_none();
                stopped.get_or_insert(words);
                first
            });
        }
        let membership = server.membership_config.membership();
        let voters: BTreeSet<NodeId> = membership.voter_ids().map(NodeId).collect();
        let learners: BTreeSet<NodeId> = membership.learner_ids().map(NodeId).collect();
        // Dozens of times a second the engine asks itself whether to stand for election or to speak as a leader. Who cannot vote never does
        // either, and who hears its leader does not yet.
        let doubts = voters.contains(&self.me) && !self.is_calm();
        self.raft().runtime_config().tick(doubts || server.state == ServerState::Leader);
        self.see_disk();
        self.raft().runtime_config().elect(self.may_stand(&voters) && !self.is_hung());
        self.see(&metrics);
        let applied = *self.machine.applied().borrow();
        let leads = metrics.running_state.is_ok() && server.state == ServerState::Leader;
        let obeyed = obeyed_ago(&metrics).is_some_and(|ago| ago < LEASE);
        // One that was elected just now has not been obeyed yet, and is a leader all the same.
        self.alone.store(leads && obeyed_ago(&metrics).is_some_and(|ago| ago >= LEASE), Ordering::Relaxed);
        let term = server.vote.leader_id.term;
        let standing = Standing {
            term,
            leader: server.current_leader.map(NodeId).filter(|_| metrics.running_state.is_ok()),
            mine: leads && obeyed && applied.term == term && !self.is_hung(),
            place: match (voters.contains(&self.me), learners.contains(&self.me)) {
                (true, _) => Place::Voter,
                (false, true) => Place::Learner,
                (false, false) => Place::Outside,
            },
            voters,
            learners,
        };
        self.standing.send_if_modified(|old| {
            let changed = *old != standing;
            *old = standing;
            changed
        });
    }

    /// Looks whether the disk under the log hangs.
    fn see_disk(&self) {
        let owes_for = self.log.store().owes_for();
        let hung = owes_for >= HUNG_AFTER;
        if self.hung.swap(hung, Ordering::Relaxed) != hung {
            let group = self.names.group;
            match hung {
                true => tracing::warn!(group, ?owes_for, "the disk under the log hangs: this node leads no more"),
                false => tracing::info!(group, "the disk under the log goes on"),
            }
        }
    }

    pub(super) fn is_hung(&self) -> bool {
        self.hung.load(Ordering::Relaxed)
    }

    pub fn heard(&self) {
        *lock(&self.heard) = Some(Instant::now());
    }

    pub(super) fn heard_ago(&self) -> Option<Duration> {
        let metrics = self.raft().metrics().borrow_watched().clone();
        match metrics.state {
            ServerState::Leader => obeyed_ago(&metrics),
            _ => lock(&self.heard).map(|heard| heard.elapsed()),
        }
    }

    /// Whether a leader was heard so lately that an election is not worth a thought.
    fn is_calm(&self) -> bool {
        lock(&self.heard).is_some_and(|heard| heard.elapsed() < CALM_FOR)
    }

    /// When to look again although nothing was told; never where nothing changes by time alone.
    fn next_look(&self) -> Option<Duration> {
        let standing = self.standing.borrow();
        if self.is_leader() {
            return Some(LOOK_EVERY);
        }
        let heard = lock(&self.heard).map(|heard| heard.elapsed());
        let calm = heard.map(|ago| CALM_FOR.saturating_sub(ago)).filter(|calm| !calm.is_zero());
        (standing.place == Place::Voter).then(|| calm.unwrap_or(LOOK_EVERY))
    }

    pub fn stopped(&self) -> Option<String> {
        self.stopped.borrow().clone()
    }

    /// Why the engine ended: the first reason that was given, which is the cause of all others.
    pub fn words(&self, fatal: &Fatal<Types>) -> String {
        self.stopped().unwrap_or_else(|| match fatal {
            Fatal::StorageError(error) => error.to_string(),
            Fatal::Panicked => "the Raft engine panicked".into(),
            Fatal::Stopped => "shut down".into(),
        })
    }

    fn is_leader(&self) -> bool {
        self.raft().server_metrics().borrow_watched().state == ServerState::Leader
    }

    /// Where to send proposals: whom this replica heard within the lease, else what it was told lately.
    pub fn known_leader(&self) -> Option<NodeId> {
        // Let go of before it is looked at again: between two borrows in one another whoever writes would wait for the first, and the second for him.
        let leader = self.standing.borrow().leader;
        let heard = leader.filter(|leader| self.follows(*leader));
        heard.or_else(|| lock(&self.hint).leader.filter(|(_, until)| Instant::now() < *until).map(|(leader, _)| leader))
    }

    /// Whether this leader, which the engine names, was heard within the lease; or a majority, where this replica leads.
    pub(super) fn follows(&self, leader: NodeId) -> bool {
        if leader == self.me {
            return self.standing.borrow().mine;
        }
        self.heard_ago().is_some_and(|ago| ago < LEASE)
    }

    pub fn known_voters(&self) -> BTreeSet<NodeId> {
        let mut voters = self.standing.borrow().voters.clone();
        voters.extend(&lock(&self.hint).voters);
        voters
    }

    fn facts(&self) -> BTreeMap<NodeId, RaftFacts> {
        let metrics = self.raft().metrics().borrow_watched().clone();
        let (Some(replication), Some(heartbeat)) = (&metrics.replication, &metrics.heartbeat) else {
            return BTreeMap::new();
        };
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let last = metrics.last_log_index.unwrap_or(0);
        let fact = |id: &u64| {
            if voters.contains(id) {
                return RaftFacts::Voter;
            }
            let matched = replication.get(id).copied().flatten().map(|at| at.index);
            let level = matched.is_some_and(|at| last.saturating_sub(at) <= CAUGHT_UP_WITHIN);
            let answers = heartbeat.get(id).copied().flatten().is_some_and(|at| at.elapsed() < LEARNER_HEARD_WITHIN);
            RaftFacts::Learner { caught_up: level && answers }
        };
        membership.nodes().map(|(id, _)| (NodeId(*id), fact(id))).collect()
    }

    async fn set_membership(&self, voters: &BTreeSet<NodeId>, learners: &BTreeSet<NodeId>) -> Result<(), String> {
        if !self.is_leader() {
            return Err(format!("node {} does not lead", self.me));
        }
        if voters.is_empty() {
            return Err("a group without voters decides nothing".into());
        }
        let metrics = self.raft().metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership().clone();
        let now: BTreeSet<NodeId> = membership.voter_ids().map(NodeId).collect();
        let members: BTreeSet<NodeId> = membership.nodes().map(|(id, _)| NodeId(*id)).collect();
        let wanted: BTreeSet<NodeId> = voters.union(learners).copied().collect();
        if membership.get_joint_config().len() > 1 {
            // A change that an earlier leader began, or this one in an earlier step: finish it first.
            return self.change(ChangeMembers::AddVoterIds(BTreeSet::new())).await;
        }
        let missing: BTreeMap<u64, EmptyNode> = wanted.difference(&members).map(|id| (id.0, EmptyNode {})).collect();
        if !missing.is_empty() {
            return self.change(ChangeMembers::AddNodes(missing)).await;
        }
        if now != *voters {
            let facts = self.facts();
            let level =
                |id: &NodeId| matches!(facts.get(id), Some(RaftFacts::Voter | RaftFacts::Learner { caught_up: true }));
            // A voter that lacks the log would only make every commit wait.
            if !voters.iter().all(level) {
                return Ok(());
            }
            return self.change(ChangeMembers::ReplaceAllVoters(voters.iter().map(|id| id.0).collect())).await;
        }
        let gone: BTreeSet<u64> = members.difference(&wanted).map(|id| id.0).collect();
        match gone.is_empty() {
            true => Ok(()),
            false => self.change(ChangeMembers::RemoveNodes(gone)).await,
        }
    }

    async fn change(&self, change: ChangeMembers<u64, EmptyNode>) -> Result<(), String> {
        // Whoever loses his vote stays a learner until a later step removes him.
        match timeout(STEP_WITHIN, self.raft().change_membership(change, true)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the membership change is not committed after {} s", STEP_WITHIN.as_secs())),
        }
    }
}

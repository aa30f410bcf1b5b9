//! The control state: agreed on by a Raft group, followed by everyone.
//!
//! Every node runs a replica of the group, most of them idle: a leader makes it a voter or a spare when the plan says so. Whoever is
//! in the group has the state from its log; whoever is not, or hears no leader, follows it over a stream from one that is (`follow`,
//! `source`) and keeps the last state on its disk. So reads work everywhere, with or without a leader.
//!
//! Kept: the state that is shown never goes backwards; [`Leadership::mine`] is true only while a majority obeys and an entry of this
//! term is applied; what was answered with an [`Outcome`] is durable and happened once.
//!
//! Not here: who should vote (the plan says), and what to do with the state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hirsel_model::control::{ControlState, Entry, Outcome, Refusal};
use hirsel_model::view::RaftFacts;
use hirsel_model::{LogIndex, NodeId, codec, feature};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

pub use keep::FILE as KEPT_FILE;
pub use recover::{Evidence, seed};

use crate::raft::{COMMAND_BYTES_MAX, Calls, Group, GroupConfig, GroupNames, Place, Standing, Store};
pub use crate::raft::{ProposeError, StoreError};
use crate::seam::World;
use crate::transport::Peers;

/// The change that seals everything anew holds all keys of certificates and all values of secrets, and some bytes around each.
const _: () = assert!(
    hirsel_model::certificate::KEYS_BYTES_MAX + 2 * hirsel_model::secret::SECRETS_BYTES_MAX + (1 << 20)
        <= COMMAND_BYTES_MAX
);

mod follow;
mod frame;
mod keep;
mod machine;
mod recover;
mod source;

#[cfg(test)]
mod tests;

use frame::Beat;
pub(crate) use frame::{decode as decode_follow, samples as follow_samples};

/// The log, vote and snapshots, in the data folder.
pub const LOG_FILE: &str = "control.redb";
const NAMES: GroupNames = GroupNames {
    group: "control",
    raft: "control/raft",
    propose: "control/propose",
    read: "control/read",
    seen: "control/seen",
};
/// How long founding waits for the only voter to elect itself: a few election timeouts.
const FOUND_WITHIN: Duration = Duration::from_secs(10);
/// How often is looked at what changes by time alone: how long ago a leader was heard, and thereby who knows best. It is told to
/// people, and beats of a source come as often.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What a [`Control`] needs.
pub struct ControlConfig {
    /// Disk and chance.
    pub world: World,
    /// Calls and streams, usually an `Arc<Transport>`.
    pub transport: Arc<dyn Calls>,
    /// Which node this is.
    pub me: NodeId,
    /// Who can be asked when nothing else is known.
    pub peers: watch::Receiver<Arc<Peers>>,
}

/// Why the control state cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The log cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The cluster's feature level is above what this build understands.
    #[error("{0}")]
    Outdated(String),
}

/// A node's place in the control group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Membership {
    /// Votes.
    Voter,
    /// Gets the log, to replace a voter.
    Learner,
    /// Follows the state.
    #[default]
    Follower,
}

/// Who leads, as far as this node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The newest term heard of. Never falls.
    pub term: u64,
    /// Who leads; not necessarily still.
    pub leader: Option<NodeId>,
    /// This node leads, a majority obeyed within the lease, and an entry of this term is applied: `state` is all there is.
    pub mine: bool,
    /// Who votes.
    pub voters: BTreeSet<NodeId>,
    /// This node's place.
    pub member: Membership,
    /// How long ago a leader was heard, by this node or by its source. Kept up to date without waking watchers.
    pub stale_ms: u64,
}

/// The control state of the cluster, from this node.
pub struct Control {
    shared: Arc<Shared>,
    store: Arc<Store>,
    tasks: tokio::sync::Mutex<JoinSet<()>>,
    stop: CancellationToken,
}

/// What the tasks of a control share.
struct Shared {
    world: World,
    me: NodeId,
    calls: Arc<dyn Calls>,
    peers: watch::Receiver<Arc<Peers>>,
    group: Group,
    state: Published,
    recent: Arc<machine::Recent>,
    outdated: machine::Outdated,
    leadership: watch::Sender<Leadership>,
    /// The last beat of the source, and when it came.
    beat: watch::Sender<Option<(Beat, Instant)>>,
    started: Instant,
    /// Held while the state is written.
    keeping: tokio::sync::Mutex<()>,
}

/// The newest state, from wherever it comes.
#[derive(Clone)]
struct Published(Arc<watch::Sender<Arc<ControlState>>>);

impl Published {
    /// Shows a state unless a newer one is shown already.
    fn offer(&self, state: &Arc<ControlState>) {
        self.0.send_if_modified(|shown| {
            let newer = state.applied > shown.applied;
            if newer {
                *shown = state.clone();
            }
            newer
        });
    }

    fn now(&self) -> Arc<ControlState> {
        self.0.borrow().clone()
    }
}

impl Control {
    /// Starts from what is in the data folder.
    ///
    /// # Errors
    /// When the log is damaged, was written by a newer hirsel, or cannot be read; when the cluster has outgrown this build.
    pub async fn start(config: ControlConfig) -> Result<Arc<Self>, ControlError> {
        let ControlConfig { world, transport: calls, me, peers } = config;
        let kept = keep::load(&*world.disk).map_err(ControlError::Outdated)?;
        let state = Published(Arc::new(watch::Sender::new(Arc::new(kept.state))));
        let store = Store::open(&world, LOG_FILE).await?;
        let recent = Arc::new(machine::Recent::default());
        let outdated = machine::Outdated::default();
        let machine = machine::ControlMachine::new(state.clone(), recent.clone(), outdated.clone());
        let group = GroupConfig { names: NAMES, me, world: world.clone(), store: store.clone(), calls: calls.clone() };
        let group = Group::start(group, Box::new(machine)).await?;
        let shared = Arc::new(Shared {
            world,
            me,
            calls,
            peers,
            group,
            state,
            recent,
            outdated,
            leadership: watch::Sender::default(),
            // Too old to say who leads, good enough to know whom to ask.
            beat: watch::Sender::new(kept.beat.clone().map(|beat| (beat, Instant::now()))),
            started: Instant::now(),
            keeping: tokio::sync::Mutex::default(),
        });
        if let Some(beat) = kept.beat {
            shared.leadership.send_modify(|leadership| leadership.term = beat.term);
            shared.group.hint(None, beat.voters);
        }
        shared.look();
        let stop = CancellationToken::new();
        source::serve(&shared, &stop);
        let mut tasks = JoinSet::new();
        tasks.spawn(stop.clone().run_until_cancelled_owned(follow::run(shared.clone())).map_unit());
        tasks.spawn(stop.clone().run_until_cancelled_owned(watch_leadership(shared.clone())).map_unit());
        tasks.spawn(stop.clone().run_until_cancelled_owned(recover::keep_up(shared.clone())).map_unit());
        tasks.spawn(keep::run(shared.clone(), stop.clone()));
        Ok(Arc::new(Self { shared, store, tasks: tasks.into(), stop }))
    }

    /// Makes a new group of which this node is the only voter, and carries out its first entry. After a crash in between it can be
    /// called again.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn found(&self, entry: Entry) -> Result<Outcome, ProposeError> {
        self.shared.group.found().await?;
        let mut leadership = self.leadership();
        let led = timeout(FOUND_WITHIN, leadership.wait_for(|leadership| leadership.mine)).await;
        led.map_err(|_| self.stopped().borrow().clone().map_or(ProposeError::NoLeader, ProposeError::Stopped))?
            .map_err(|_| ProposeError::NoLeader)?;
        self.propose(entry, FOUND_WITHIN).await
    }

    /// Has the leader carry out a change, wherever it is. At most once, however often it is sent on the way. The state shown here may
    /// be older than the outcome for a moment, unless this node leads. What the cluster's feature level does not allow yet is refused
    /// here: in the log, it would stop every replica of an older build.
    ///
    /// # Errors
    /// See [`ProposeError`]: after [`ProposeError::TimedOut`] it may still happen.
    pub async fn propose(&self, entry: Entry, ttl: Duration) -> Result<Outcome, ProposeError> {
        // An older state than the newest can only have a lower level.
        let known = self.shared.state.now();
        if known.applied > LogIndex(0)
            && let Err(refusal) = feature::check(&entry.command, known.cluster.feature_level)
        {
            return Ok(Outcome::Refused(refusal));
        }
        if let Some(words) = machine::crashes(&known, &entry) {
            let words = format!("carrying it out panics ({words}), so it was not put into the log");
            return Ok(Outcome::Refused(Refusal::Invalid(words)));
        }
        let command = codec::encode(&entry);
        if command.len() > COMMAND_BYTES_MAX {
            let (value, limit) = (command.len() as u64, COMMAND_BYTES_MAX as u64);
            return Ok(Outcome::Refused(Refusal::Limit { what: "change in bytes".into(), value, limit }));
        }
        let (_, outcome) = self.shared.group.propose(command, ttl).await?;
        // Whoever leads may be newer than this node.
        codec::decode(&outcome).map_err(|error| ProposeError::Stopped(error.to_string()))
    }

    /// The newest state known here.
    pub fn state(&self) -> watch::Receiver<Arc<ControlState>> {
        self.shared.state.0.subscribe()
    }

    /// Who leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.subscribe()
    }

    /// Why the replica of this node does not work any more, once it does not. It then follows like any other node, if it can.
    pub fn stopped(&self) -> watch::Receiver<Option<String>> {
        self.shared.group.stopped()
    }

    /// Why this build cannot serve its cluster any more, once the cluster's feature level is above what it understands.
    pub fn outdated(&self) -> watch::Receiver<Option<String>> {
        self.shared.outdated.seen()
    }

    /// Whether the replica stopped because the disk did not take its log. A start from what is on disk is then worth a try.
    pub fn is_disk_to_blame(&self) -> bool {
        matches!(self.store.failed(), Some(StoreError::Disk { .. }))
    }

    /// Waits until the state shown here holds every change that was confirmed to anyone before this call, and returns its index.
    ///
    /// # Errors
    /// When no leader confirmed in time that it leads, or this node did not get its state in time.
    pub async fn read_barrier(&self, ttl: Duration) -> Result<LogIndex, ProposeError> {
        let deadline = Instant::now() + ttl;
        let point = LogIndex(self.shared.group.read_point(ttl).await?);
        self.shows(point, deadline).await
    }

    /// As [`Control::read_barrier`], and this node led `term` some time after this call: no later leader was elected before it. What
    /// another leader confirms is no answer here.
    ///
    /// # Errors
    /// When this node does not lead that term, or no majority confirmed in time that it does.
    pub async fn lead_barrier(&self, term: u64, ttl: Duration) -> Result<LogIndex, ProposeError> {
        let deadline = Instant::now() + ttl;
        let point = LogIndex(self.shared.group.lead_point(term, ttl).await?);
        self.shows(point, deadline).await
    }

    async fn shows(&self, point: LogIndex, deadline: Instant) -> Result<LogIndex, ProposeError> {
        let mut state = self.state();
        let shown = tokio::time::timeout_at(deadline, state.wait_for(|state| state.applied >= point)).await;
        shown.map_err(|_| ProposeError::TimedOut)?.map_err(|_| ProposeError::TimedOut)?;
        Ok(point)
    }

    /// The place of each node in the group, as the leader's Raft sees it. Empty on others.
    pub fn raft_facts(&self) -> BTreeMap<NodeId, RaftFacts> {
        self.shared.group.facts()
    }

    /// Takes one step towards these voters and spares: adds learners, or swaps voters in one joint change once the new ones have
    /// caught up, or removes who is neither. Only on the leader; called again and again it gets there.
    ///
    /// # Errors
    /// In words, when the step could not be taken; the next call looks again.
    pub async fn set_membership(&self, voters: BTreeSet<NodeId>, spares: BTreeSet<NodeId>) -> Result<(), String> {
        self.shared.group.set_membership(&voters, &spares).await
    }

    /// Hands leadership to another voter, and waits until it leads. Only on the leader.
    ///
    /// # Errors
    /// In words.
    pub async fn transfer_leadership(&self, to: NodeId) -> Result<(), String> {
        self.shared.group.transfer_leadership(to).await
    }

    /// Stops, with everything that was seen on disk.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        let mut tasks = self.tasks.lock().await;
        // The keeper writes what is left before it ends.
        while tasks.join_next().await.is_some() {}
        self.shared.group.shutdown().await;
        self.store.close().await;
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// `map(|_| ())` for futures whose result says nothing.
trait MapUnit: Future + Sized {
    async fn map_unit(self) {
        self.await;
    }
}
impl<F: Future> MapUnit for F {}

/// Keeps [`Leadership`] true.
async fn watch_leadership(shared: Arc<Shared>) {
    let (mut standing, mut beat) = (shared.group.standing(), shared.beat.subscribe());
    loop {
        tokio::select! {
            changed = standing.changed() => if changed.is_err() { return },
            changed = beat.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        shared.look();
    }
}

impl Shared {
    /// Puts together what the replica and the source know.
    fn look(&self) {
        let standing = self.group.standing().borrow().clone();
        let stopped = self.group.stopped().borrow().is_some();
        let heard_ago = self.group.heard_ago().filter(|_| !stopped);
        let beat = self.beat.borrow().clone();
        let now = leadership(self.me, standing, heard_ago, beat.as_ref(), self.started);
        self.leadership.send_if_modified(|shown| {
            let mut now = now;
            now.term = now.term.max(shown.term);
            let same = Leadership { stale_ms: shown.stale_ms, ..now.clone() } == *shown;
            *shown = now;
            !same
        });
    }

    /// Whether this node gets the state from its own log.
    fn has_leader_itself(&self, within: Duration) -> bool {
        self.group.standing().borrow().place != Place::Outside
            && self.group.stopped().borrow().is_none()
            && self.group.heard_ago().is_some_and(|ago| ago < within)
    }
}

/// What is true of the leader, from what the replica itself heard and from what its source said.
fn leadership(
    me: NodeId,
    standing: Standing,
    heard_ago: Option<Duration>,
    beat: Option<&(Beat, Instant)>,
    started: Instant,
) -> Leadership {
    let told_ago = beat.and_then(|(beat, came)| Some(Duration::from_millis(beat.stale_ms?) + came.elapsed()));
    let stale = heard_ago.into_iter().chain(told_ago).min().unwrap_or_else(|| started.elapsed());
    let stale_ms = u64::try_from(stale.as_millis()).unwrap_or(u64::MAX);
    // The source knows better if it heard a leader later, of a term that is not older.
    let better = beat.map(|(beat, _)| beat).filter(|beat| {
        beat.term >= standing.term
            && !standing.mine
            && told_ago.is_some_and(|told| heard_ago.is_none_or(|heard| told < heard))
    });
    if let Some(beat) = better {
        let member = match (beat.voters.contains(&me), beat.learners.contains(&me)) {
            (true, _) => Membership::Voter,
            (false, true) => Membership::Learner,
            (false, false) => Membership::Follower,
        };
        let (term, leader, voters) = (beat.term, beat.leader, beat.voters.clone());
        return Leadership { term, leader, mine: false, voters, member, stale_ms };
    }
    let member = match standing.place {
        Place::Voter => Membership::Voter,
        Place::Learner => Membership::Learner,
        Place::Outside => Membership::Follower,
    };
    let Standing { term, leader, mine, voters, .. } = standing;
    Leadership { term, leader, mine, voters, member, stale_ms }
}

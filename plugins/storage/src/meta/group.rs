//! The metadata group on one node: the state machine on its disk, replicated by the mesh.
//!
//! Who votes is in the plan ([`StorageTable::voters`]); [`MetaGroup::steer`] takes one step towards it and is called again and again, on
//! every member. The group is founded once, by the node that the plan names for it, and only while nobody has reported that there is one.
//! Any node may hand in entries, whether it is a member or not, as long as it knows who votes. Reads are made on members.
//!
//! A group that lost its majority for good goes on as the plan says ([`Foundation`]): one begins it with all that it has, the others take part when that
//! is known to have happened, and keep what they have for the case that the first is lost, too.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hirsel_mesh::raft::{Calls, Group, GroupConfig, GroupNames, Place, ProposeError, Store, StoreError};
use hirsel_mesh::seam::World;
use hirsel_model::storage::{Foundation, Left, StorageTable};
use hirsel_model::{NodeId, Tag, codec};
use tokio::time::{Instant, timeout_at};
use tracing::info;

use super::command::{Answer, Entry};
use super::machine::{Machine, Moment, Reader};
use super::refusal::Refusal;
use super::rows::RowsError;

/// Under which names the first metadata group speaks and is kept.
const NAMES: GroupNames = GroupNames {
    group: "meta",
    raft: "storage/meta/raft",
    propose: "storage/meta/propose",
    read: "storage/meta/read",
    seen: "storage/meta/seen",
};
/// The log of the group, in the data folder.
const LOG_FILE: &str = "storage/meta-log.redb";
/// Its rows.
const ROWS_FILE: &str = "storage/meta.redb";

/// Who hears nobody lead the group for so long says what it has of it. Elections take a second or two; this is only told, and decides nothing while enough
/// of those who vote are members.
const LEADERLESS_AFTER: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// It is refused; nothing was changed.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// No leader answered. With [`ProposeError::TimedOut`] it may still happen.
    #[error("{0}")]
    Group(#[from] ProposeError),
    /// This node's copy cannot be read.
    #[error("{0}")]
    Rows(#[from] RowsError),
    /// The answer cannot be understood, most likely because a newer hirsel gave it.
    #[error("the metadata group answered with something unknown: {0}")]
    Strange(String),
    /// This node's copy is not as new as it has to be, in time.
    #[error("this node's copy of the metadata did not catch up within {0:?}")]
    Behind(Duration),
}

/// The metadata group on one node.
pub struct MetaGroup {
    me: NodeId,
    group: Group,
    store: Arc<Store>,
    reader: Reader,
    /// Who should vote by the plan, as this node heard last.
    planned: Mutex<BTreeSet<NodeId>>,
    /// Since when it could have heard a leader.
    since: Mutex<Instant>,
}

impl MetaGroup {
    /// Opens what is on the disk, and takes part as far as this node is a member.
    ///
    /// # Errors
    /// When what is on the disk cannot be used.
    pub async fn start(world: &World, me: NodeId, calls: Arc<dyn Calls>) -> Result<Self, StoreError> {
        let slot = Arc::new(Mutex::new(None));
        let (disk, found) = (world.disk.clone(), slot.clone());
        let opened = world.disk.run(Box::new(move || {
            let machine = Machine::open(&*disk, ROWS_FILE);
            *found.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(machine);
            Ok(())
        }));
        let unusable = |reason: String| StoreError::Disk { what: "open", file: ROWS_FILE.into(), reason };
        opened.await.map_err(|error| unusable(error.to_string()))?;
        let machine = slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let machine = machine.unwrap_or_else(|| Err(RowsError("the disk did nothing".into())));
        let machine = machine.map_err(|error| unusable(error.to_string()))?;
        let reader = machine.reader();
        let store = Store::open(world, LOG_FILE).await?;
        let config = GroupConfig { names: NAMES, me, world: world.clone(), store: store.clone(), calls };
        let group = Group::start(config, Box::new(machine)).await?;
        Ok(Self { me, group, store, reader, planned: Mutex::default(), since: Mutex::new(Instant::now()) })
    }

    /// The group as the mesh knows it: who leads, how far this node is, why it has stopped.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Who votes, as far as this node knows; nobody before the group is founded.
    pub fn voters(&self) -> BTreeSet<NodeId> {
        self.group.standing().borrow().voters.clone()
    }

    /// Whether this node has a copy of the rows that follows the others': it is a member as far as it knows, and the plan does not say otherwise.
    /// Who is taken out of the group is not told so by the group, and would wait for ever for what is sent to it no more. Nor does a copy follow on a
    /// disk that hangs.
    pub fn is_member(&self) -> bool {
        if self.group.is_hung() {
            return false;
        }
        let is_planned = {
            let planned = lock(&self.planned);
            planned.is_empty() || planned.contains(&self.me)
        };
        is_planned && matches!(self.group.standing().borrow().place, Place::Voter | Place::Learner)
    }

    /// Whether this node leads the group, and what it reads is what all others would be told.
    pub fn leads(&self) -> bool {
        self.group.standing().borrow().mine
    }

    /// The foundation of the group that this node belongs to.
    pub fn tag(&self) -> Tag {
        self.group.tag().borrow().clone()
    }

    /// What this node has of the group, while it hears nobody lead it; none where it has nothing that could be gone on with.
    pub fn left(&self) -> Option<Left> {
        let has = self.group.evidence();
        let silent_for = lock(&self.since).elapsed().min(has.heard_ago.unwrap_or(Duration::MAX));
        if has.stopped.is_some() || self.leads() || silent_for < LEADERLESS_AFTER {
            return None;
        }
        Some(Left { tag: has.tag, term: has.term, last: has.last?, voters: has.configs })
    }

    /// Whether this node hears somebody lead the group, or leads it.
    pub fn is_led(&self) -> bool {
        let has = self.group.evidence();
        has.stopped.is_none() && (self.leads() || has.heard_ago.is_some_and(|ago| ago < LEADERLESS_AFTER))
    }

    /// Which others can be asked: those who vote, as far as this node knows, and those who should.
    pub fn known_voters(&self) -> BTreeSet<NodeId> {
        let mut voters = self.voters();
        voters.extend(lock(&self.planned).iter().copied());
        voters.remove(&self.me);
        voters
    }

    /// Takes one step towards what the plan says. Doing it again when that is reached changes nothing.
    ///
    /// # Errors
    /// In words; the next call looks again.
    pub async fn steer(&self, table: &StorageTable) -> Result<(), String> {
        if let Some(foundation) = &table.foundation {
            self.belong_to(foundation).await?;
        }
        if table.founder == Some(self.me) && !self.group.is_founded() {
            self.group.found().await.map_err(|error| error.to_string())?;
        }
        lock(&self.planned).clone_from(&table.voters);
        self.group.hint(None, table.voters.clone());
        let leads = self.group.standing().borrow().mine;
        // The founder alone is no group yet for anybody else: what is written to it could be lost with it.
        if leads && !table.voters.is_empty() {
            self.group.set_membership(&table.voters, &BTreeSet::new()).await?;
        }
        Ok(())
    }

    /// Begins the foundation, where this node is to, or takes part in it once it stands.
    async fn belong_to(&self, foundation: &Foundation) -> Result<(), String> {
        let Foundation { tag, after, from, at, above, stands } = foundation;
        let has = self.group.evidence();
        // A plan that was kept on the disk may be older than what was done by a later one.
        if has.tag == *tag || has.tag.epoch > tag.epoch {
            return Ok(());
        }
        let last = has.last.unwrap_or_default();
        let continues = has.tag == *after && has.stopped.is_none();
        let changed = match (stands, *from == self.me) {
            (false, false) => return Ok(()),
            (false, true) if continues && last >= *at => self.group.refound(tag.clone(), *above).await,
            (false, true) => {
                let ((term, index), has) = (at, has.tag);
                return Err(format!(
                    "the metadata cannot go on here: entry {index} of term {term} was here, now there is entry {} of term {} (tag {has})",
                    last.1, last.0
                ));
            }
            // All that is committed in it is in the log that the other one began with.
            (true, _) if continues && last <= *at => self.group.keep_under(tag.clone()).await,
            (true, _) => self.group.follow_tag(tag.clone()).await,
        };
        changed.map_err(|error| error.to_string())?;
        *lock(&self.since) = Instant::now();
        info!(%tag, before = %has.tag, log = ?last, "this node belongs to another foundation of the metadata");
        Ok(())
    }

    /// Has the group carry out an entry, wherever its leader is. At most once.
    ///
    /// # Errors
    /// When it is refused, or nobody answers in time.
    pub async fn ask(&self, entry: &Entry, ttl: Duration) -> Result<Answer, AskError> {
        let (_, answer) = self.group.propose(codec::encode(entry), ttl).await?;
        let outcome = codec::decode::<Result<Answer, Refusal>>(&answer);
        Ok(outcome.map_err(|error| AskError::Strange(error.to_string()))??)
    }

    /// One moment of the state, with everything in it that was answered anywhere before this call.
    ///
    /// # Errors
    /// When no leader confirms that, this node is no member, or its copy does not catch up in time.
    pub async fn moment(&self, ttl: Duration) -> Result<Moment, AskError> {
        let deadline = Instant::now() + ttl;
        let point = self.group.read_point(ttl).await?;
        let mut applied = self.group.applied();
        let there = timeout_at(deadline, applied.wait_for(|applied| applied.command >= point)).await;
        match there {
            Ok(Ok(_)) => Ok(self.reader.moment()?),
            Ok(Err(_)) | Err(_) => Err(AskError::Behind(ttl)),
        }
    }

    /// The state as this node has it, which may lack what others were answered already.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn here(&self) -> Result<Moment, AskError> {
        Ok(self.reader.moment()?)
    }

    /// Stops taking part, and closes the files.
    pub async fn stop(&self) {
        self.group.shutdown().await;
        self.store.close().await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

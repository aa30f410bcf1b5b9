//! Another foundation of the control group: what this node could bring to it, and how it takes part.
//!
//! Whoever has the most begins it (the log if that is newest, else the state that was followed). All others learn of it by the state
//! itself, which they follow from any node that has it: a state of a later epoch than the node's own log means that the log belongs to
//! the past, and it is given up for the new one.

use std::sync::Arc;
use std::time::Duration;

use hirsel_model::control::ControlState;
use hirsel_model::{LogIndex, NodeId, Tag, codec};

use super::frame::Beat;
use super::{Control, LOG_FILE, NAMES, Shared, keep};
use crate::raft::{self, Place, Store, StoreError, write_seed};
use crate::seam::World;

/// A log that could not be given up is tried again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What one node can say when it is asked how the control group could go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Its foundation.
    pub tag: Tag,
    /// The newest term it voted in.
    pub term: u64,
    /// Term and index of the last entry of its log.
    pub log: Option<(u64, u64)>,
    /// How far it knows its log to be committed.
    pub committed: Option<(u64, u64)>,
    /// Term and index of the last command in the state it shows, however it came there.
    pub state: (u64, u64),
    /// Whether it votes, by its log.
    pub votes: bool,
    /// Who votes, by its log or by whom it followed.
    pub voters: std::collections::BTreeSet<NodeId>,
    /// The leader it hears.
    pub hears: Option<NodeId>,
    /// How long ago it heard one, or its source did.
    pub stale_ms: u64,
    /// Why its log does not work, if it does not.
    pub stopped: Option<String>,
}

impl Evidence {
    /// The most that it could bring: term and index, ordered as logs are compared.
    pub fn best(&self) -> (u64, u64) {
        self.log.filter(|_| self.stopped.is_none()).unwrap_or_default().max(self.state)
    }
}

impl Control {
    /// What this node has.
    pub fn evidence(&self) -> Evidence {
        let raft::Evidence { tag, term, last, committed, place, voters, configs: _, heard_ago: _, stopped } =
            self.shared.group.evidence();
        let leadership = self.leadership().borrow().clone();
        let known = if voters.is_empty() { leadership.voters.clone() } else { voters };
        Evidence {
            tag,
            term: term.max(leadership.term),
            log: last,
            committed,
            state: followed(&self.shared),
            votes: place == Place::Voter,
            voters: known,
            hears: leadership.leader,
            stale_ms: leadership.stale_ms,
            stopped,
        }
    }

    /// Which foundation this node belongs to.
    pub fn tag(&self) -> Tag {
        self.shared.group.tag().borrow().clone()
    }

    /// Whether the log of this node is older than what others saw of it.
    pub fn is_older(&self) -> bool {
        self.shared.group.is_older()
    }

    /// Begins the foundation `tag` with all that this node has, as its only voter, in terms above `above`. Doing it again changes nothing.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub async fn refound(&self, tag: Tag, above: u64) -> Result<(), StoreError> {
        let shared = &self.shared;
        let has = self.evidence();
        let log = has.log.filter(|_| has.stopped.is_none()).unwrap_or_default();
        tracing::info!(%tag, log = ?log, state = ?has.state, "the control group is founded anew");
        if has.state > log {
            let state = shared.state.now();
            return shared.group.refound_from(tag, above, has.state, codec::encode(&*state)).await;
        }
        shared.group.refound(tag, above).await
    }
}

/// Term and index of the last command in the state that this node shows.
fn followed(shared: &Shared) -> (u64, u64) {
    let state = shared.state.now();
    let (term, applied) = shared.recent.position();
    if applied >= state.applied.0 {
        return (term, applied);
    }
    let beat = shared.beat.borrow().clone().map(|(beat, _)| beat);
    (beat.map_or(0, |beat| term_of(&state, &beat)), state.applied.0)
}

/// The term of a state that was followed. While it is still behind what its source had, its term is not known, and counts as the
/// lowest: a log then goes first.
fn term_of(state: &ControlState, beat: &Beat) -> u64 {
    beat.applied_term.filter(|_| state.applied.0 >= beat.applied).unwrap_or(0)
}

/// Gives up the log of a foundation that is over, when the state says so.
pub(super) async fn keep_up(shared: Arc<Shared>) {
    let mut state = shared.state.0.subscribe();
    loop {
        let next = state.borrow_and_update().cluster.tag.clone();
        let mine = shared.group.tag().borrow().clone();
        if next.epoch > mine.epoch {
            tracing::info!(tag = %next, before = %mine, "another foundation of the control group: this node joins it");
            // What is known stays readable, whatever comes next.
            if let Err(error) = keep::write(&shared, &mut LogIndex(0)).await {
                tracing::warn!(%error, "cannot keep the control state");
            }
            if let Err(error) = shared.group.follow_tag(next).await {
                tracing::warn!(%error, "the log of the former foundation cannot be given up");
                tokio::time::sleep(AGAIN_AFTER).await;
                continue;
            }
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

/// Writes `state` as the beginning of a control group whose only voter is `me`, into a data folder without one.
///
/// # Errors
/// When the disk does not take it.
pub async fn seed(world: &World, me: NodeId, state: &ControlState) -> Result<(), StoreError> {
    let store = Store::open(world, LOG_FILE).await?;
    let written =
        write_seed(&store, NAMES.group, me, &state.cluster.tag, (1, state.applied.0), codec::encode(state)).await;
    store.close().await;
    written
}

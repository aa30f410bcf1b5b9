//! Another foundation of a group, where a majority of its voters is lost for good.
//!
//! One replica goes on with all it has, its uncommitted tail included, as the only voter of a group with a new tag; or with a state that
//! it followed, where that is newer than any log. All others that are left forget their logs and get the new one. Raft itself cannot
//! do this: whether the others are really lost is for a person to say.
//!
//! Kept: what is on disk changes in one write; terms go on rising above all that anybody was seen to know; a replica that belongs to
//! one foundation takes part in no other (`tagged`).

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use hirsel_model::{NodeId, Tag, codec};
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::watch;

use super::engine::engine;
use super::group::{Group, Place, watch_engine};
use super::log::Log;
use super::machine::seed;
use super::store::{Store, StoreError, lock};
use super::wire::{Members, Position};
use super::{LogId, witness};

/// What one replica can say when it is asked how the group could go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Its foundation.
    pub tag: Tag,
    /// The newest term that it voted in.
    pub term: u64,
    /// Term and index of the last entry of its log.
    pub last: Option<(u64, u64)>,
    /// How far it knows its log to be committed.
    pub committed: Option<(u64, u64)>,
    /// Its place.
    pub place: Place,
    /// Who votes, by its log.
    pub voters: BTreeSet<NodeId>,
    /// The same, apart while it changes: those who did and those who will.
    pub configs: Vec<BTreeSet<NodeId>>,
    /// How long ago it heard a leader (or was heard by a majority, if it leads).
    pub heard_ago: Option<Duration>,
    /// Why it does not work, if it does not.
    pub stopped: Option<String>,
}

impl Group {
    /// Which foundation of the group this replica belongs to.
    pub fn tag(&self) -> watch::Receiver<Tag> {
        self.inner.tag.subscribe()
    }

    /// Whether others saw more of this replica than it has on its disk. It has stopped then.
    pub fn is_older(&self) -> bool {
        self.inner.witness.is_older()
    }

    /// What this replica has.
    pub fn evidence(&self) -> Evidence {
        let group = &self.inner;
        let standing = group.standing.borrow().clone();
        let place = |at: LogId| (*at.leader_id, at.index);
        let server = group.raft().server_metrics().borrow_watched().clone();
        let configs = server.membership_config.membership().get_joint_config().iter();
        let configs = configs.map(|voters| voters.iter().copied().map(NodeId).collect());
        Evidence {
            tag: group.tag(),
            term: group.log.term(),
            last: group.log.last().map(place),
            committed: group.log.committed().map(place),
            place: standing.place,
            voters: standing.voters,
            configs: configs.collect(),
            heard_ago: group.heard_ago(),
            stopped: group.stopped(),
        }
    }

    /// Goes on with what is in the log, all of it, as the only voter of the foundation `tag`, in terms above `above`. Doing it again
    /// changes nothing.
    ///
    /// # Errors
    /// When the store does not take it; the replica has stopped then.
    pub async fn refound(&self, tag: Tag, above: u64) -> Result<(), StoreError> {
        self.begin(tag, above, None).await
    }

    /// As [`Group::refound`], with a state that was not applied from this log: `at` is term and index of the last command in it.
    ///
    /// # Errors
    /// As [`Group::refound`].
    pub async fn refound_from(&self, tag: Tag, above: u64, at: (u64, u64), state: Vec<u8>) -> Result<(), StoreError> {
        let (at, packed) = packed(self.inner.me, at, state)?;
        self.begin(tag, above, Some((at, packed))).await
    }

    async fn begin(&self, tag: Tag, above: u64, base: Option<(LogId, Vec<u8>)>) -> Result<(), StoreError> {
        let _alone = self.inner.replacing.lock().await;
        if self.inner.tag() == tag {
            return Ok(());
        }
        self.halt().await;
        let begun = async {
            let group = &self.inner;
            group.log.refound(group.me.0, &tag, above, base.clone()).await?;
            if let Some((_, packed)) = &base {
                group.machine.take(packed).map_err(|reason| group.log.damaged(reason))?;
            }
            Ok(())
        };
        self.resume(tag.clone(), begun.await).await
    }

    /// Forgets the log, and waits to be made a member of the foundation `tag`. Doing it again changes nothing.
    ///
    /// # Errors
    /// As [`Group::refound`].
    pub async fn follow_tag(&self, tag: Tag) -> Result<(), StoreError> {
        let _alone = self.inner.replacing.lock().await;
        if self.inner.tag() == tag {
            return Ok(());
        }
        self.halt().await;
        let forgotten = self.inner.log.forget(&tag).await;
        self.inner.machine.reset();
        self.resume(tag.clone(), forgotten).await
    }

    /// Goes on with its log under the foundation `tag`, which somebody began with a log that holds all that is committed as far as this one
    /// knows: the newest of several of one foundation, this one among them. So nothing is lost with whoever began it. Doing it again
    /// changes nothing.
    ///
    /// # Errors
    /// As [`Group::refound`].
    pub async fn keep_under(&self, tag: Tag) -> Result<(), StoreError> {
        let _alone = self.inner.replacing.lock().await;
        if self.inner.tag() == tag {
            return Ok(());
        }
        self.halt().await;
        let kept = self.inner.log.write_fact("tag", codec::encode(&tag)).await;
        self.resume(tag.clone(), kept).await
    }

    /// Ends the engine, and what watches it.
    async fn halt(&self) {
        if let Some(watcher) = lock(&self.watcher).take() {
            watcher.abort();
        }
        // It has ended already when this fails.
        let _ = self.inner.raft().shutdown().await;
    }

    /// Starts the engine on what is on disk now.
    async fn resume(&self, tag: Tag, changed: Result<(), StoreError>) -> Result<(), StoreError> {
        let group = &self.inner;
        let started = async {
            changed?;
            engine(group.names, group.me, &tag, (&group.calls, &group.alone, &group.hung), &group.log, &group.machine)
                .await
        };
        match started.await {
            Ok(raft) => *group.engine.write().unwrap_or_else(PoisonError::into_inner) = raft,
            Err(error) => {
                group.stopped.send_replace(Some(error.to_string()));
                return Err(error);
            }
        }
        *lock(&group.heard) = None;
        group.witness.forget();
        group.stopped.send_replace(None);
        group.tag.send_replace(tag);
        group.look();
        tokio::spawn(witness::ask_all(Arc::downgrade(group)));
        *lock(&self.watcher) = Some(tokio::spawn(watch_engine(Arc::downgrade(group))));
        Ok(())
    }
}

/// Writes the beginning of a group into a store that no replica uses: the state `state`, whose last command was applied `at` term and
/// index, with `me` as the only voter of the foundation `tag`.
///
/// # Errors
/// When the store does not take it.
pub async fn write_seed(
    store: &Arc<Store>,
    group: &'static str,
    me: NodeId,
    tag: &Tag,
    at: (u64, u64),
    state: Vec<u8>,
) -> Result<(), StoreError> {
    let log = Log::open(store, group)?;
    let base = packed(me, at, state)?;
    log.refound(me.0, tag, at.0, Some(base)).await
}

fn packed(me: NodeId, (term, index): (u64, u64), state: Vec<u8>) -> Result<(LogId, Vec<u8>), StoreError> {
    let at = LogId::from(Position { term, index });
    let members = Members { voters: vec![[me.0].into()], nodes: [me.0].into() };
    let packed = seed(at, index, members, state);
    let unpackable =
        |error: io::Error| StoreError::Disk { what: "pack", file: "snapshot".into(), reason: error.to_string() };
    Ok((at, packed.map_err(unpackable)?))
}

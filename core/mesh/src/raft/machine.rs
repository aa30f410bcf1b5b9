//! Between the engine and a [`StateMachine`]: applying, snapshots, and who already got which answer.
//!
//! The state is in memory. A restarted replica takes its last snapshot and applies the committed part of its log again; so a
//! snapshot is durable before the log that it covers may be forgotten. Or it is on disk, and what is different then is in `kept`.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use hirsel_model::{codec, panic};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::kept::Arriving;
use super::log::Log;
use super::sessions::Sessions;
use super::store::{StoreError, lock};
use super::wire::{Head, Members};
use super::{
    Command, LogId, Reply, Snapshot, SnapshotData, SnapshotMeta, StateMachine, StateMachineError, StoredMembership,
    Types, io_error,
};
use crate::seam::World;

/// Entries that are applied before the result is published and answered.
const APPLY_BATCH: usize = 256;
/// Largest snapshot, compressed: what a disk of the world gives back in one piece.
pub(super) const SNAPSHOT_BYTES_MAX: u64 = 64 << 20;
/// Largest snapshot, unpacked.
const STATE_BYTES_MAX: usize = 512 << 20;
/// Fast; the state is mostly text and shrinks to a tenth anyway.
const COMPRESSION: i32 = 1;

/// How far a replica has applied its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last entry of any kind.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// The last entry that held a command.
    pub command: u64,
}

/// What is stored and sent as a snapshot.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    head: Head,
    /// The last entry that held a command.
    command: u64,
    sessions: Sessions,
    state: Bytes,
}

/// A handle; all copies are the same machine.
#[derive(Clone)]
pub(super) struct Machine {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) world: World,
    log: Log,
    pub(super) inner: Mutex<Inner>,
    pub(super) arriving: Mutex<Option<Arriving>>,
    applied: watch::Sender<Applied>,
    stopped: watch::Sender<Option<String>>,
}

pub(super) struct Inner {
    pub(super) last: Option<LogId>,
    pub(super) command: u64,
    pub(super) membership: StoredMembership,
    pub(super) sessions: Sessions,
    pub(super) machine: Box<dyn StateMachine>,
}

impl Machine {
    /// Starts from the last snapshot; the engine then applies the log after it.
    pub fn load(
        world: &World,
        log: &Log,
        machine: Box<dyn StateMachine>,
        stopped: watch::Sender<Option<String>>,
    ) -> Result<Self, StoreError> {
        let inner = Inner {
            last: None,
            command: 0,
            membership: StoredMembership::default(),
            sessions: Sessions::default(),
            machine,
        };
        let shared = Shared {
            world: world.clone(),
            log: log.clone(),
            inner: Mutex::new(inner),
            arriving: Mutex::default(),
            applied: watch::Sender::default(),
            stopped,
        };
        let machine = Self { shared: Arc::new(shared) };
        if machine.is_on_disk() {
            machine.resume().map_err(|reason| log.damaged(reason))?;
            return Ok(machine);
        }
        if let Some(packed) = log.store().fact(&log.key("snapshot"))? {
            let saved = unpack(&packed).map_err(|error| log.damaged(format!("snapshot: {error}")))?;
            machine
                .replace(saved)
                .map_err(|error| StoreError::Newer { file: log.store().file().into(), reason: error.0 })?;
        }
        Ok(machine)
    }

    /// How far it is.
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.shared.applied.subscribe()
    }

    fn replace(&self, saved: Saved) -> Result<(), StateMachineError> {
        let mut inner = lock(&self.shared.inner);
        sound(|| inner.machine.restore(&saved.state))?;
        let meta = SnapshotMeta::from(saved.head);
        inner.last = meta.last_log_id;
        inner.membership = meta.last_membership;
        inner.sessions = saved.sessions;
        inner.command = saved.command;
        self.publish(&mut inner);
        Ok(())
    }

    pub(super) fn publish(&self, inner: &mut Inner) {
        let at = inner.last.map_or_else(Applied::default, |last| Applied {
            index: last.index,
            term: *last.leader_id,
            command: inner.command,
        });
        inner.machine.applied(at);
        if inner.last.is_some() {
            self.shared.applied.send_replace(at);
        }
    }

    /// As if nothing had ever been applied.
    pub fn reset(&self) {
        let mut inner = lock(&self.shared.inner);
        inner.machine.reset();
        inner.forget();
        self.shared.applied.send_replace(Applied::default());
    }

    /// Begins with a snapshot that [`seed`] made.
    pub fn take(&self, packed: &[u8]) -> Result<(), String> {
        self.replace(unpack(packed)?).map_err(|error| error.0)
    }

    /// Says why this replica stops, and gives the engine the reason to.
    pub(super) fn stop(&self, index: u64, error: &StateMachineError) -> io::Error {
        let words = format!("cannot apply entry {index}: {error}");
        self.shared.stopped.send_if_modified(|stopped| match stopped {
            None => {
                *stopped = Some(words.clone());
                true
            }
            Some(_) => false,
        });
        io::Error::other(words)
    }
}

impl Inner {
    pub(super) fn forget(&mut self) {
        self.last = None;
        self.command = 0;
        self.membership = StoredMembership::default();
        self.sessions = Sessions::default();
    }

    fn apply(
        &mut self,
        id: LogId,
        payload: EntryPayload<Command, u64, openraft::EmptyNode>,
    ) -> Result<Reply, StateMachineError> {
        let reply = match payload {
            EntryPayload::Blank => Reply::Nothing,
            EntryPayload::Membership(members) => {
                self.membership = StoredMembership::new(Some(id), members);
                Reply::Nothing
            }
            EntryPayload::Normal(command) => match self.sessions.answered(&command) {
                Some(known) => known,
                None => {
                    let machine = &mut self.machine;
                    let result = Bytes::from(sound(|| machine.apply(id.index, &command.body))?);
                    self.sessions.remember(&command, id.index, result.clone());
                    self.command = id.index;
                    Reply::Done { index: id.index, result }
                }
            },
        };
        self.last = Some(id);
        Ok(reply)
    }

    fn save(&self) -> (SnapshotMeta, Saved) {
        let meta = SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() };
        let saved = Saved {
            head: (&meta).into(),
            command: self.command,
            sessions: self.sessions.clone(),
            state: self.machine.snapshot().into(),
        };
        (meta, saved)
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let inner = lock(&self.shared.inner);
        Ok((inner.last, inner.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut ended = false;
        while !ended {
            let mut batch = Vec::new();
            while batch.len() < APPLY_BATCH && !ended {
                match entries.try_next().await? {
                    Some(entry) => batch.push(entry),
                    None => ended = true,
                }
            }
            let mut answers: Vec<(ApplyResponder<Types>, Reply)> = Vec::new();
            let mut inner = lock(&self.shared.inner);
            for (entry, responder) in batch {
                let index = entry.log_id.index;
                let reply = inner.apply(entry.log_id, entry.payload).map_err(|error| self.stop(index, &error))?;
                answers.extend(responder.map(|responder| (responder, reply)));
            }
            inner.keep(false).map_err(|error| self.stop(inner.last.map_or(0, |last| last.index), &error))?;
            // Whoever is answered finds the result in what was published.
            self.publish(&mut inner);
            drop(inner);
            for (responder, reply) in answers {
                responder.send(reply);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: SnapshotData) -> Result<(), io::Error> {
        if self.is_on_disk() {
            let index = meta.last_log_id.map_or(0, |last| last.index);
            return self.take_arrived(meta).await.map_err(|error| self.stop(index, &error));
        }
        let saved = unpack(&data).map_err(io_error)?;
        if saved.head != Head::from(meta) {
            return Err(io::Error::other("the snapshot is not the one that was announced"));
        }
        let index = meta.last_log_id.map_or(0, |last| last.index);
        self.shared.log.write_fact("snapshot", data.to_vec()).await.map_err(io_error)?;
        self.replace(saved).map_err(|error| self.stop(index, &error))
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        if self.is_on_disk() {
            return self.as_it_is().await;
        }
        let log = &self.shared.log;
        let Some(packed) = log.store().fact(&log.key("snapshot")).map_err(io_error)? else { return Ok(None) };
        let saved = unpack(&packed).map_err(io_error)?;
        Ok(Some(Snapshot { meta: saved.head.into(), snapshot: packed.into() }))
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        if self.is_on_disk() {
            return self.as_it_is().await?.ok_or_else(|| io::Error::other("nothing is applied yet"));
        }
        let (meta, saved) = lock(&self.shared.inner).save();
        let slot = Arc::new(Mutex::new(Bytes::new()));
        let packed = slot.clone();
        // Compressing megabytes takes milliseconds that a heartbeat should not wait for.
        let work = move || {
            *lock(&packed) = zstd::bulk::compress(&codec::encode(&saved), COMPRESSION)?.into();
            Ok(())
        };
        self.shared.world.disk.run(Box::new(work)).await?;
        let data = std::mem::take(&mut *lock(&slot));
        if data.len() as u64 > SNAPSHOT_BYTES_MAX {
            return Err(io::Error::other(format!("snapshot of {} bytes exceeds {SNAPSHOT_BYTES_MAX}", data.len())));
        }
        self.shared.log.write_fact("snapshot", data.to_vec()).await.map_err(io_error)?;
        Ok(Snapshot { meta, snapshot: data })
    }
}

/// A machine that panics on an entry has not applied it, and is not asked again: the replica stops with the words, and nothing else of
/// the agent does.
pub(super) fn sound<T>(step: impl FnOnce() -> Result<T, StateMachineError>) -> Result<T, StateMachineError> {
    let caught = catch_unwind(AssertUnwindSafe(step));
    caught.unwrap_or_else(|caught| Err(StateMachineError(format!("it panicked: {}", panic::words(caught.as_ref())))))
}

/// Reads a snapshot, up to what the engine would be given.
pub(super) fn decode(bytes: &[u8]) {
    if let Ok(saved) = unpack(bytes) {
        drop(SnapshotMeta::from(saved.head));
    }
    super::kept::decode(bytes);
}

/// Snapshots of a group of which nothing is known but its state.
pub(super) fn samples(state: Vec<u8>) -> Vec<Vec<u8>> {
    let meta = SnapshotMeta { last_log_id: None, last_membership: StoredMembership::default() };
    let saved = Saved { head: (&meta).into(), command: 0, sessions: Sessions::default(), state: state.into() };
    vec![zstd::bulk::compress(&codec::encode(&saved), COMPRESSION).unwrap_or_default()]
}

/// A snapshot of a state that was not applied from this log: `command` is the last one in it, applied at `at`.
pub(super) fn seed(at: LogId, command: u64, members: Members, state: Vec<u8>) -> io::Result<Vec<u8>> {
    let head = Head { last: Some(at.into()), members_at: Some(at.into()), members };
    let saved = Saved { head, command, sessions: Sessions::default(), state: state.into() };
    zstd::bulk::compress(&codec::encode(&saved), COMPRESSION)
}

fn unpack(packed: &[u8]) -> Result<Saved, String> {
    let bytes = zstd::bulk::decompress(packed, STATE_BYTES_MAX).map_err(|error| error.to_string())?;
    codec::decode(&bytes).map_err(|error| error.to_string())
}

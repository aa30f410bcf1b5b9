//! Raft groups: a state machine of bytes, replicated over calls on a durable log.
//!
//! A group is written once here and used by whoever needs agreement: the control state, later the roles. A user brings a
//! [`StateMachine`] and gets [`Group`]: propose, read points, membership, leadership. Underneath is openraft; nothing of it shows
//! outside of this folder, and nothing of it is stored or sent in its own format (see `wire`), so that the engine can be replaced
//! or upgraded without a migration.
//!
//! Kept:
//! - An acknowledged command is durable on a majority, and is applied once however often its proposal was sent (`sessions`).
//! - A term has one leader (`leader_id_std`): the term is a fencing number.
//! - A message is taken only from the node whose certificate says it is the one that the message names.
//! - A message belongs to one foundation of the group (`tagged`): where a majority was lost for good, another one begins (`refound`),
//!   and the two never mix.
//! - A replica whose disk is older than what others saw of it neither votes nor acknowledges anything (`witness`).
//! - A replica that cannot write, or meets an entry it does not understand, stops with words ([`Group::stopped`]) and never panics.
//!
//! Not here: addresses (a node id is enough for [`Calls`]), what is agreed on, and who should be a voter.

mod calls;
mod engine;
mod group;
mod kept;
mod log;
mod machine;
mod network;
mod proposals;
mod reads;
mod refound;
mod serve;
mod sessions;
mod store;
mod tagged;
mod wire;
mod witness;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::io;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use calls::{CallHandler, Calls, StreamHandler};
pub use group::{Group, GroupConfig, GroupNames, Place, Standing};
pub use machine::Applied;
pub use proposals::ProposeError;
pub use refound::{Evidence, write_seed};
pub use store::{Store, StoreError};

pub(crate) use wire::{decode, samples};

/// Reads a snapshot ([`crate::decoders`]).
pub(crate) fn decode_snapshot(bytes: &[u8]) {
    machine::decode(bytes);
}

/// Snapshots of this state to begin with.
pub(crate) fn snapshot_samples(state: Vec<u8>) -> Vec<Vec<u8>> {
    machine::samples(state)
}

/// What a group replicates. All methods are called in the order of the log, on every replica alike.
pub trait StateMachine: Send + Sync + 'static {
    /// Carries out one command and returns its result. Deterministic.
    ///
    /// # Errors
    /// Only when the command cannot be understood; the replica then stops. A refusal is a result.
    fn apply(&mut self, index: u64, command: &[u8]) -> Result<Vec<u8>, StateMachineError>;
    /// Called after one or more entries were applied or the state was restored: the moment to publish what is true now. `at` is the
    /// last entry.
    fn applied(&mut self, _at: Applied) {}
    /// Forgets the state: it will be told anew, from its first command or by [`StateMachine::restore`].
    fn reset(&mut self);
    /// The whole state.
    fn snapshot(&self) -> Vec<u8>;
    /// Replaces the whole state by what [`StateMachine::snapshot`] returned, here or on another replica.
    ///
    /// # Errors
    /// Only when the bytes cannot be understood; the replica then stops.
    fn restore(&mut self, bytes: &[u8]) -> Result<(), StateMachineError>;
    /// Itself, if it keeps its state on disk. Then neither [`StateMachine::snapshot`] nor [`StateMachine::restore`] is ever called.
    fn on_disk(&mut self) -> Option<&mut dyn OnDisk> {
        None
    }
}

/// A state machine whose state is on disk, and need not fit into memory. It is never applied twice: a restarted replica goes on from
/// where the state is, and snapshots are made and taken a frame at a time.
///
/// What these methods do blocks for as long as a disk takes; those that sync are called where that stalls nobody.
pub trait OnDisk {
    /// What [`OnDisk::keep`] or [`OnDisk::install`] kept last, as far as it is still there. It is as old as the state, to the entry.
    ///
    /// # Errors
    /// When the disk does not give it.
    fn kept(&self) -> Result<Option<Vec<u8>>, StateMachineError>;
    /// Ends a batch of applied commands and keeps `beside` with it, in one step: a crash leaves both or neither. Only if `durable` must
    /// it outlive one.
    ///
    /// # Errors
    /// When the disk does not take it; the replica then stops.
    fn keep(&mut self, beside: &[u8], durable: bool) -> Result<(), StateMachineError>;
    /// The state as it was last kept, in frames, each no larger than a message should be. What is applied later is not in them.
    ///
    /// # Errors
    /// When the disk does not give it.
    fn frames(&self) -> Result<Box<dyn Frames>, StateMachineError>;
    /// Takes the next frame of a snapshot of another replica; the first one begins anew. The state stays as it is.
    ///
    /// # Errors
    /// When it is not the next frame, or the disk does not take it.
    fn arrive(&mut self, frame: &[u8], first: bool) -> Result<(), StateMachineError>;
    /// Makes the snapshot that has arrived the state, and keeps `beside` with it, durably and in one step.
    ///
    /// # Errors
    /// When it has not arrived whole, or the disk does not take it.
    fn install(&mut self, beside: &[u8]) -> Result<(), StateMachineError>;
}

/// The frames of a snapshot.
pub trait Frames: Send {
    /// The next one; none after the last.
    ///
    /// # Errors
    /// When the disk does not give it.
    fn next(&mut self) -> Result<Option<Vec<u8>>, StateMachineError>;
}

/// Why a replica must stop: it was handed something that it does not understand, most likely written by a newer hirsel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StateMachineError(pub String);

/// A command as it is stored: the bytes, and who sent them as which of its proposals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Command {
    /// Drawn when the proposing group was started.
    proposer: u64,
    /// Counts the proposals of the proposer.
    sequence: u64,
    /// The proposer waits for no answer below this one.
    settled_below: u64,
    body: Bytes,
}

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "proposal {:x}/{} of {} bytes", self.proposer, self.sequence, self.body.len())
    }
}

/// What applying an entry gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The result of the command, and the index at which it was applied, now or the first time.
    Done { index: u64, result: Bytes },
    /// A copy that came so late that nobody waits for it; not applied (again).
    Stale,
    /// The entry held no command.
    Nothing,
}

openraft::declare_raft_types!(
    pub(crate) Types:
        D = Command,
        R = Reply,
        NodeId = u64,
        Node = openraft::EmptyNode,
        // The default (`leader_id_adv`) lets one term have several leaders; then a term would fence nothing.
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = openraft_rt_tokio::TokioRuntime,
);

type Raft = openraft::Raft<Types, machine::Machine>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<Types>;
pub(crate) type LogId = openraft::type_config::alias::LogIdOf<Types>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<Types>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;
/// Snapshots are held and sent whole, encoded and compressed.
pub(crate) type SnapshotData = Bytes;
pub(crate) type Snapshot = openraft::type_config::alias::SnapshotOf<Types, SnapshotData>;

/// Largest command. The first plan of a large cluster is the largest thing anyone proposes: some 200 bytes per instance.
pub const COMMAND_BYTES_MAX: usize = 8 << 20;
/// Entries are sent in messages of about this size: large enough for throughput, small enough that a heartbeat behind one on a
/// slow link (100 Mbit/s) waits for less than a tick. A message always holds at least one entry.
pub(crate) const APPEND_BYTES_MAX: usize = 256 << 10;

fn io_error(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

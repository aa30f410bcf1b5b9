//! The metadata of objects: a state machine that a Raft group replicates, over ordered rows.
//!
//! Everything a client may be told about buckets, objects, versions and uploads is decided here, each question by one command or one
//! read of the rows; so read-after-write, conditional writes, listing and the end of an upload are linearizable, for commands are
//! carried out one after the other. The bytes of objects are not here: a body names *chunks*, which gateways wrote to storage nodes
//! before they commit.
//!
//! Kept:
//! - Deterministic: the same entries over the same rows give the same answers and the same rows. No clock, no chance, no I/O: an entry
//!   says when it was proposed and brings what was drawn.
//! - Whole or not at all: a refused command changes nothing ([`rows::Overlay`]).
//! - Bounded: a command touches at most [`limits::WORK_MAX`] rows or so. What would take more (the death of ten thousand parts) is put
//!   in a queue, and swept by further commands.
//! - A chunk that somebody can read is never condemned, and one that is condemned is never named again: a commit needs its *write* to be
//!   open, a write ends with its commit or abort, and the name of a chunk begins with the write that made it.
//! - A body is shared by copies through counts, and never by naming another's chunks.
//!
//! Where to start: [`command`] is what can be asked for, [`kinds`] what is kept, `apply` how the one changes the other; [`read`] and
//! [`list`] answer questions; [`outbox`] is what waits to be told; [`machine`] keeps the rows on disk.
//!
//! Not here: HTTP, signatures, policies (documents are kept as they are), who may do what, and where chunks are placed.

pub mod access;
mod apply;
pub mod command;
pub mod decoders;
pub mod group;
pub mod key;
pub mod kinds;
pub mod limits;
pub mod list;
pub mod machine;
pub mod names;
pub mod outbox;
pub mod query;
pub mod read;
pub mod refusal;
pub mod rows;
pub mod snapshot;
pub mod token;

#[cfg(test)]
mod tests;

pub use apply::{ApplyError, apply};
pub use command::{Answer, Command, Entry};
pub use refusal::Refusal;

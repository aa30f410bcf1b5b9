//! How nodes use each other's disks: what they say, over calls and streams of the mesh.
//!
//! | kind | how | asks | is answered |
//! |---|---|---|---|
//! | `storage.put` | call | [`Put`] with all blocks, up to [`SMALL_BYTES_MAX`] | [`Receipt`] |
//! | `storage.get` | call | [`Get`], up to [`SMALL_BYTES_MAX`] | [`Got`] with all blocks |
//! | `storage.write` | stream | [`Put`] without blocks; then they, one by one | [`Receipt`], after the last |
//! | `storage.read` | stream | [`Get`] | [`Got`] without blocks; then they, one by one, and a byte that says how it ended |
//! | `storage.condemn`, `storage.unlink` | call | [`Deaths`] | for each whether it was there |
//! | `storage.list` | call | [`List`] | chunks, one page of them |
//! | `storage.usage` | call | [`OfDisk`] | [`Room`] |
//!
//! Everything is MessagePack with field names; unknown fields are passed over. A kind that the other side does not know is refused by the
//! mesh itself. On a stream a block is its checksum (32 bytes) and its data, whose length both sides know. Whoever receives a block looks
//! whether it is the one that its checksum says, at both ends.

use hirsel_model::codec;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::chunk::{self, CHUNK_BYTES_MAX, Checksum, ChunkId};
use crate::disk::{DiskError, DiskId};

mod client;
mod serve;
#[cfg(test)]
mod tests;

pub use client::{Read, Remote, RemoteError, Target};
pub use serve::Service;

/// What goes into one call: as much as is packed with others on a disk. More goes over a stream, so that it holds no more than a block at a time.
pub const SMALL_BYTES_MAX: u32 = 256 << 10;
/// Chunks that are condemned or unlinked with one call.
pub const DEATHS_MAX: usize = 1000;
/// Longest answer at the beginning or end of a stream.
const FRAME_BYTES_MAX: u32 = 64 << 10;

const PUT: &str = "storage.put";
const GET: &str = "storage.get";
const WRITE: &str = "storage.write";
const READ: &str = "storage.read";
const CONDEMN: &str = "storage.condemn";
const UNLINK: &str = "storage.unlink";
const LIST: &str = "storage.list";
const USAGE: &str = "storage.usage";

/// A block in a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireBlock {
    /// What it must be.
    pub checksum: Checksum,
    /// Its data.
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
}

/// Writes a chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// To which disk.
    pub disk: DiskId,
    /// Which.
    pub chunk: ChunkId,
    /// How long it is.
    pub bytes: u32,
    /// All of it; nothing where a stream follows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<WireBlock>,
}

/// Reads the blocks in which a range of bytes lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Get {
    /// From which disk.
    pub disk: DiskId,
    /// Which chunk.
    pub chunk: ChunkId,
    /// From this byte on.
    pub from: u32,
    /// Up to before this one.
    pub to: u32,
}

/// Condemns or unlinks chunks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deaths {
    /// On which disk.
    pub disk: DiskId,
    /// Which, at most [`DEATHS_MAX`].
    pub chunks: Vec<ChunkId>,
}

/// Lists chunks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// Of which disk.
    pub disk: DiskId,
    /// Those after this one.
    #[serde(default)]
    pub after: Option<ChunkId>,
}

/// Asks something of a disk as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfDisk {
    /// Which.
    pub disk: DiskId,
}

/// A chunk is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// How long it is.
    pub bytes: u32,
    /// Its checksum as a whole.
    pub checksum: Checksum,
}

/// What was read of a chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Got {
    /// How long the whole chunk is.
    pub bytes: u32,
    /// Its checksum as a whole.
    pub checksum: Checksum,
    /// Number of the first block.
    pub first: u32,
    /// How many blocks there are.
    pub count: u32,
    /// They; nothing where they follow on a stream.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<WireBlock>,
}

/// A chunk in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Which.
    pub chunk: ChunkId,
    /// How long it is.
    pub bytes: u32,
    /// Whether it was condemned.
    #[serde(default)]
    pub condemned: bool,
}

/// How much there is on a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Room {
    /// Bytes of the volume.
    pub total: u64,
    /// Bytes that are free, the reserve among them.
    pub free: u64,
    /// Bytes that are left free.
    pub reserve: u64,
    /// Bytes of chunks.
    pub held: u64,
    /// How many there are.
    pub chunks: u64,
    /// How many of them are condemned.
    pub condemned: u64,
    /// How many of them are known to be damaged.
    pub damaged: u64,
    /// Why nothing is written to it any more, if that is so.
    pub read_only: Option<String>,
}

/// An answer: what was asked for, or a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer<T> {
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    done: Option<T>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<Refusal>,
}

fn none<T>() -> Option<T> {
    None
}

impl<T> From<Result<T, Refusal>> for Answer<T> {
    fn from(result: Result<T, Refusal>) -> Answer<T> {
        match result {
            Ok(done) => Answer { done: Some(done), refused: None },
            Err(refused) => Answer { done: None, refused: Some(refused) },
        }
    }
}

impl<T> From<Answer<T>> for Result<T, Refusal> {
    fn from(answer: Answer<T>) -> Result<T, Refusal> {
        match (answer.refused, answer.done) {
            (Some(refused), _) => Err(refused),
            (None, Some(done)) => Ok(done),
            (None, None) => Err(Refusal { why: Why::Unknown, words: "the answer says nothing".into() }),
        }
    }
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{words}")]
pub struct Refusal {
    /// For who decides.
    pub why: Why,
    /// For people.
    pub words: String,
}

/// Why something was not done, for who decides what to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The node does not have this disk (now).
    NoDisk,
    /// There is no such chunk.
    Absent,
    /// There is one of this id with other content.
    Exists,
    /// It was condemned.
    Condemned,
    /// It was not condemned before.
    NotCondemned,
    /// What is on the disk is not what was written.
    Damaged,
    /// What was sent is not what its checksums say, or too much.
    Wrong,
    /// There is no room.
    Full,
    /// Nothing is written to the disk any more.
    ReadOnly,
    /// Something else failed; whether it was done is unknown.
    Failed,
    /// Said by a newer agent.
    #[serde(other)]
    Unknown,
}

impl From<DiskError> for Refusal {
    fn from(error: DiskError) -> Refusal {
        let why = match &error {
            DiskError::Absent(_) => Why::Absent,
            DiskError::Exists(_) => Why::Exists,
            DiskError::Condemned(_) => Why::Condemned,
            DiskError::NotCondemned(_) => Why::NotCondemned,
            DiskError::Damaged { .. } => Why::Damaged,
            DiskError::Wrong { .. } => Why::Wrong,
            DiskError::Full { .. } | DiskError::TooMany { .. } => Why::Full,
            DiskError::ReadOnly { .. } => Why::ReadOnly,
            DiskError::Io(_) => Why::Failed,
        };
        Refusal { why, words: error.to_string() }
    }
}

fn wrong(words: impl ToString) -> Refusal {
    Refusal { why: Why::Wrong, words: words.to_string() }
}

/// Reads what was asked, with its limits.
fn decode<T: DeserializeOwned + Limited>(bytes: &[u8]) -> Result<T, Refusal> {
    let asked: T = codec::decode(bytes).map_err(wrong)?;
    asked.check()?;
    Ok(asked)
}

/// Something with limits that its type does not say.
trait Limited {
    fn check(&self) -> Result<(), Refusal>;
}

impl Limited for Put {
    fn check(&self) -> Result<(), Refusal> {
        let fits = self.bytes <= CHUNK_BYTES_MAX && self.blocks.len() <= chunk::count(SMALL_BYTES_MAX) as usize;
        if fits { Ok(()) } else { Err(wrong(format!("a chunk of {} bytes exceeds {CHUNK_BYTES_MAX}", self.bytes))) }
    }
}

impl Limited for Get {
    fn check(&self) -> Result<(), Refusal> {
        if self.from <= self.to { Ok(()) } else { Err(wrong("a range that ends before it begins")) }
    }
}

impl Limited for Deaths {
    fn check(&self) -> Result<(), Refusal> {
        if self.chunks.len() <= DEATHS_MAX { Ok(()) } else { Err(wrong(format!("more than {DEATHS_MAX} chunks"))) }
    }
}

impl Limited for List {
    fn check(&self) -> Result<(), Refusal> {
        Ok(())
    }
}

impl Limited for OfDisk {
    fn check(&self) -> Result<(), Refusal> {
        Ok(())
    }
}

impl Got {
    /// What was asked for, if it is that.
    fn checked(mut self, asked: &Get) -> Result<Read, Refusal> {
        self.check(asked)?;
        if self.blocks.len() != self.count as usize {
            return Err(wrong(format!("{} of {} blocks came", self.blocks.len(), self.count)));
        }
        for (number, block) in (self.first..).zip(&self.blocks) {
            sound(asked.chunk, self.bytes, number, &block.data, block.checksum)?;
        }
        let data = match &mut *self.blocks {
            [one] => std::mem::take(&mut one.data),
            many => many.iter().map(|block| &*block.data).collect::<Vec<&[u8]>>().concat(),
        };
        Ok(Read { bytes: self.bytes, checksum: self.checksum, first: self.first, data: data.into() })
    }

    fn check(&self, asked: &Get) -> Result<(), Refusal> {
        let covering = chunk::covering(self.bytes, asked.from..asked.to);
        let fits = self.bytes <= CHUNK_BYTES_MAX
            && self.count as usize == covering.len()
            && (covering.is_empty() || self.first == covering.start);
        if fits { Ok(()) } else { Err(wrong("other blocks came than were asked for")) }
    }
}

/// Refuses a block that is not the one it should be.
fn sound(chunk: ChunkId, chunk_bytes: u32, number: u32, data: &[u8], checksum: Checksum) -> Result<(), Refusal> {
    if data.len() == chunk::span(chunk_bytes, number).len() && Checksum::of_block(chunk, number, data) == checksum {
        return Ok(());
    }
    let words = format!("block {number} of chunk {chunk} was changed on its way");
    Err(Refusal { why: Why::Damaged, words })
}

/// Whatever may come, for fuzzing: questions and answers.
pub(crate) fn decode_any(bytes: &[u8]) {
    let _ = decode::<Put>(bytes);
    let _ = decode::<Deaths>(bytes);
    let _ = decode::<List>(bytes);
    let _ = decode::<OfDisk>(bytes);
    let _ = codec::decode::<Answer<Receipt>>(bytes);
    let _ = codec::decode::<Answer<Vec<bool>>>(bytes);
    let _ = codec::decode::<Answer<Room>>(bytes);
    let _ = codec::decode::<Answer<Vec<Listed>>>(bytes);
    let asked = Get { disk: DiskId(1), chunk: ChunkId([1; 16]), from: 0, to: SMALL_BYTES_MAX };
    if let Ok(got) = codec::decode::<Answer<Got>>(bytes)
        && let Ok(got) = Result::from(got)
    {
        let _ = Got::checked(got, decode::<Get>(bytes).as_ref().unwrap_or(&asked));
    }
}

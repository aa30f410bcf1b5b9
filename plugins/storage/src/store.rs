//! Writing and reading through many nodes: copies of a chunk, and shards of a stripe.
//!
//! Where they go and where they are is told by who calls (placement and metadata). A write is answered with what the commit must say: on which
//! targets each piece is safe, and which ones missed theirs.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::time::Instant;

use crate::chunk::{self, Block, Checksum, ChunkId};
use crate::codec::{CodeError, Codec};
use crate::counts::Reads;
use crate::drive;
use crate::gather::Gather;
use crate::patience::Patience;
use crate::spread::{Goal, Outcome, Spread};
use crate::wire::{Read, Remote, Target};

/// What is sent to one target.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Its id, which other pieces share only if they are copies of it.
    pub chunk: ChunkId,
    /// How long it is.
    pub bytes: u32,
    blocks: Vec<Block>,
}

impl Piece {
    /// Cuts `content` into blocks and counts their checksums.
    ///
    /// # Panics
    /// When it is larger than [`chunk::CHUNK_BYTES_MAX`].
    pub fn new(chunk: ChunkId, content: &Bytes) -> Piece {
        Piece { chunk, bytes: content.len() as u32, blocks: chunk::blocks(chunk, content) }
    }

    /// Its checksum as a whole.
    pub fn checksum(&self) -> Checksum {
        let sums: Vec<Checksum> = self.blocks.iter().map(|block| block.checksum).collect();
        Checksum::of_chunk(self.chunk, self.bytes, &sums)
    }
}

/// Why nothing could be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Too few nodes have given what they should have.
    #[error("{given} of {needed} could be read: {}", .why.join("; "))]
    TooFew {
        /// How many gave it.
        given: usize,
        /// How many are needed.
        needed: usize,
        /// Why others did not.
        why: Vec<String>,
    },
    /// What they gave is no stripe.
    #[error("{0}")]
    Code(#[from] CodeError),
}

/// Disks of many nodes.
#[derive(Clone)]
pub struct Store {
    remote: Remote,
    patience: Arc<Mutex<Patience>>,
    reads: Reads,
}

impl Store {
    /// Reached through `remote`.
    pub fn new(remote: Remote) -> Store {
        Store { remote, patience: Arc::default(), reads: Reads::default() }
    }

    /// The same, and reads are counted there.
    pub fn counted(self, reads: Reads) -> Store {
        Store { reads, ..self }
    }

    /// Each disk by itself.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Writes `copies` copies of a chunk to different ones of `targets`, the first ones if they can.
    pub async fn write_copies(&self, piece: &Piece, copies: usize, targets: &[Target], goal: Goal) -> Outcome {
        self.write(&vec![piece; copies], targets, goal).await
    }

    /// Writes each piece to one of `targets`, in their order if they can: the shards of a stripe.
    pub async fn write_pieces(&self, pieces: &[Piece], targets: &[Target], goal: Goal) -> Outcome {
        self.write(&pieces.iter().collect::<Vec<_>>(), targets, goal).await
    }

    async fn write(&self, pieces: &[&Piece], targets: &[Target], goal: Goal) -> Outcome {
        drive::spread(Spread::new(pieces.len(), targets.len(), goal), |piece, target, progress| async move {
            let (piece, target) = (pieces[piece], targets[target]);
            let put = self.remote.put(target, piece.chunk, piece.bytes, &piece.blocks, &progress).await;
            put.map(drop).map_err(|error| format!("{target}: {error}"))
        })
        .await
    }

    /// Reads `range` of a chunk from whichever of `sources` gives it first, the first one if it can.
    pub async fn read_copy(&self, chunk: ChunkId, range: Range<u32>, sources: &[Target]) -> Result<Bytes, ReadError> {
        let (from, to) = (range.start, range.end);
        let ask = |source: usize| self.get(sources[source], chunk, from, to);
        let read = drive::gather(self.gathered(sources, 1, to.saturating_sub(from)), ask, || self.hedged());
        let mut read = read.await.map_err(|failed| too_few(0, 1, failed))?;
        let Some((_, read)) = read.pop() else { return Ok(Bytes::new()) };
        Ok(read.range(from..to))
    }

    /// Reads a stripe of `bytes` bytes from any k of its shards, those of data if they can be had. A shard whose place is not known is none.
    pub async fn read_stripe(
        &self,
        codec: &Codec,
        bytes: u32,
        shards: &[(ChunkId, Option<Target>)],
    ) -> Result<Bytes, ReadError> {
        let given = self.shards(codec, bytes, shards).await?;
        Ok(codec.decode(bytes, &given)?)
    }

    /// Makes one shard of a stripe anew, from any k others.
    pub async fn repair_shard(
        &self,
        codec: &Codec,
        bytes: u32,
        shards: &[(ChunkId, Option<Target>)],
        wanted: usize,
    ) -> Result<Bytes, ReadError> {
        let mut others = shards.to_vec();
        if let Some((_, target)) = others.get_mut(wanted) {
            *target = None;
        }
        let given = self.shards(codec, bytes, &others).await?;
        Ok(codec.repair(bytes, &given, wanted)?)
    }

    /// A read of `needed` out of these sources, of so many bytes each.
    fn gathered(&self, sources: &[Target], needed: usize, bytes: u32) -> Gather {
        self.reads.all.inc();
        let hedge_after = self.patience().hedge_after(sources.iter().map(|target| target.node), bytes);
        Gather::new(sources.len(), needed, hedge_after)
    }

    fn hedged(&self) {
        self.reads.hedged.inc();
    }

    /// What one target has of a chunk; how long it took is remembered.
    async fn get(&self, target: Target, chunk: ChunkId, from: u32, to: u32) -> Result<Read, String> {
        let begun = Instant::now();
        let read = self.remote.get(target, chunk, from, to).await.map_err(|error| format!("{target}: {error}"))?;
        self.patience().answered(target.node, to.saturating_sub(from), begun.elapsed());
        Ok(read)
    }

    fn patience(&self) -> MutexGuard<'_, Patience> {
        self.patience.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn shards(
        &self,
        codec: &Codec,
        bytes: u32,
        shards: &[(ChunkId, Option<Target>)],
    ) -> Result<Vec<Option<Bytes>>, ReadError> {
        let known: Vec<(usize, ChunkId, Target)> = (0..)
            .zip(shards)
            .filter_map(|(number, (chunk, target))| target.map(|target| (number, *chunk, target)))
            .collect();
        let (needed, length) = (codec.scheme().data(), codec.scheme().shard_bytes(bytes));
        let known = &known;
        let targets: Vec<Target> = known.iter().map(|(_, _, target)| *target).collect();
        let ask = |source: usize| async move {
            let (_, chunk, target) = known[source];
            let read = self.get(target, chunk, 0, length).await?;
            if read.bytes == length { Ok(read) } else { Err(format!("{target}: a shard of another stripe")) }
        };
        let read = drive::gather(self.gathered(&targets, needed, length), ask, || self.hedged()).await;
        let read = read.map_err(|failed| too_few(known.len().saturating_sub(failed.len()), needed, failed))?;
        let mut given = vec![None; shards.len()];
        for (source, read) in read {
            given[known[source].0] = Some(read.range(0..length));
        }
        Ok(given)
    }
}

fn too_few(given: usize, needed: usize, failed: Vec<(usize, String)>) -> ReadError {
    ReadError::TooFew { given, needed, why: failed.into_iter().map(|(_, why)| why).collect() }
}

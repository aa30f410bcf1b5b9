//! Chunks: what data is cut into, and how it is known to be what was written.
//!
//! A chunk is immutable and has an id that is drawn for each upload and never again. It is checked block by block: the checksum of a
//! block is keyed by the id of its chunk and by its number, so that a block which lies where another one belongs is found as surely as
//! one with a flipped bit. Whoever writes a chunk counts the checksums once; they travel with the blocks and are kept with them, and
//! each who passes a block on looks at it again.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

/// Bytes of a block; the last one of a chunk may be shorter. Small enough that a range of a few bytes reads little besides, large enough
/// that checksums take a two-thousandth of the room.
pub const BLOCK_BYTES: u32 = 64 << 10;

/// Largest chunk: a stripe of 4 MiB. A larger one would be held in memory and sent anew by whoever replaces a slow target.
pub const CHUNK_BYTES_MAX: u32 = 4 << 20;

/// Checksums of the largest chunk.
pub const BLOCKS_MAX: u32 = CHUNK_BYTES_MAX / BLOCK_BYTES;

/// Tells keys of blocks from whatever else the hash is used for.
const BLOCK_DOMAIN: &[u8; 12] = b"hirsel block";

/// Which chunk: 16 bytes that are drawn for each upload, never a hash of its content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChunkId(pub [u8; 16]);

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&HEXLOWER.encode(&self.0))
    }
}

/// A text that is no id of a chunk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no chunk: 32 hexadecimal digits are")]
pub struct NoChunk(String);

impl FromStr for ChunkId {
    type Err = NoChunk;

    fn from_str(text: &str) -> Result<Self, NoChunk> {
        let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(ChunkId).ok_or_else(|| NoChunk(text.chars().take(64).collect()))
    }
}

/// What tells whether bytes are the ones that were written: 32 bytes of BLAKE3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Checksum(pub [u8; 32]);

impl Checksum {
    /// Of the block `number` of a chunk.
    pub fn of_block(chunk: ChunkId, number: u32, bytes: &[u8]) -> Checksum {
        let mut key = [0; 32];
        key[..16].copy_from_slice(&chunk.0);
        key[16..20].copy_from_slice(&number.to_le_bytes());
        key[20..].copy_from_slice(BLOCK_DOMAIN);
        Checksum(*blake3::keyed_hash(&key, bytes).as_bytes())
    }

    /// Of a chunk as a whole: of the checksums of its blocks and of its length.
    pub fn of_chunk(chunk: ChunkId, bytes: u32, blocks: &[Checksum]) -> Checksum {
        let mut hasher = blake3::Hasher::new_derive_key("hirsel 2026-11 storage chunk");
        hasher.update(&chunk.0).update(&bytes.to_le_bytes());
        for block in blocks {
            hasher.update(&block.0);
        }
        Checksum(*hasher.finalize().as_bytes())
    }
}

/// A block on its way, with its checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// As many bytes as the chunk has at this place.
    pub bytes: Bytes,
    /// What they must be.
    pub checksum: Checksum,
}

impl Block {
    /// The block `number` of a chunk, with its checksum counted.
    pub fn new(chunk: ChunkId, number: u32, bytes: Bytes) -> Block {
        Block { checksum: Checksum::of_block(chunk, number, &bytes), bytes }
    }

    /// Whether it is the block `number` of a chunk of `chunk_bytes` bytes.
    pub fn is(&self, chunk: ChunkId, chunk_bytes: u32, number: u32) -> bool {
        self.bytes.len() == span(chunk_bytes, number).len()
            && Checksum::of_block(chunk, number, &self.bytes) == self.checksum
    }
}

/// A whole chunk cut into blocks.
///
/// # Panics
/// When it is larger than [`CHUNK_BYTES_MAX`].
pub fn blocks(chunk: ChunkId, bytes: &Bytes) -> Vec<Block> {
    let length = u32::try_from(bytes.len()).expect("a chunk has a limit");
    assert!(length <= CHUNK_BYTES_MAX, "a chunk of {length} bytes");
    (0..count(length)).map(|number| Block::new(chunk, number, bytes.slice(span(length, number)))).collect()
}

/// How many blocks a chunk of so many bytes has.
pub fn count(chunk_bytes: u32) -> u32 {
    chunk_bytes.div_ceil(BLOCK_BYTES)
}

/// Which bytes of a chunk a block is; none beyond its end.
pub fn span(chunk_bytes: u32, number: u32) -> Range<usize> {
    let from = number.saturating_mul(BLOCK_BYTES).min(chunk_bytes);
    from as usize..from.saturating_add(BLOCK_BYTES).min(chunk_bytes) as usize
}

/// The blocks in which `range` of a chunk lies, as far as it has any.
pub fn covering(chunk_bytes: u32, range: Range<u32>) -> Range<u32> {
    let end = range.end.min(chunk_bytes);
    if range.start >= end { 0..0 } else { range.start / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id = ChunkId([0xab; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in ["", "ab", &"AB".repeat(16), &"zz".repeat(16), &"ab".repeat(17)] {
            assert!(wrong.parse::<ChunkId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_block_elsewhere_is_none() {
        let (a, b) = (ChunkId([1; 16]), ChunkId([2; 16]));
        let block = Block::new(a, 3, Bytes::from(vec![0; BLOCK_BYTES as usize]));
        assert!(block.is(a, CHUNK_BYTES_MAX, 3));
        assert!(!block.is(a, CHUNK_BYTES_MAX, 4) && !block.is(b, CHUNK_BYTES_MAX, 3));
        assert!(!block.is(a, BLOCK_BYTES * 3 + 5, 3), "the last one of that chunk is shorter");
    }

    proptest! {
        #[test]
        fn blocks_are_the_chunk(bytes in proptest::collection::vec(any::<u8>(), 0..200_000)) {
            let id = ChunkId([9; 16]);
            let bytes = Bytes::from(bytes);
            let length = bytes.len() as u32;
            let blocks = blocks(id, &bytes);
            prop_assert!((0..).zip(&blocks).all(|(number, block)| block.is(id, length, number)));
            let joined: Vec<u8> = blocks.iter().flat_map(|block| block.bytes.iter().copied()).collect();
            prop_assert_eq!(joined, bytes);
        }

        #[test]
        fn a_range_lies_in_the_blocks_that_cover_it(length in 1..CHUNK_BYTES_MAX, at in 0..CHUNK_BYTES_MAX, more in 1..CHUNK_BYTES_MAX) {
            let covering = covering(length, at..at + more);
            if at >= length {
                prop_assert!(covering.is_empty());
            } else {
                let (first, last) = (span(length, covering.start), span(length, covering.end - 1));
                prop_assert!(first.contains(&(at as usize)) && last.contains(&((at + more).min(length) as usize - 1)));
                prop_assert!(covering.end <= count(length));
            }
        }
    }
}

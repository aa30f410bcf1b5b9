//! What lies in a segment: records of small chunks, one behind the other.
//!
//! ```text
//! "HSR1" · chunk (16) · bytes (u32) · segment (u32) · offset (u32) · safe (u32) · checksum of each block (32) · check (16) · data
//! ```
//!
//! All numbers are little endian, and each record begins at a multiple of [`ALIGNMENT`]. `check` is over everything before it, segment
//! and offset included: what is left of an older record, or lies in another place than it was written to, is none. `safe` says up to
//! which offset the segment had been synced when the record was written: of what lies before that, nothing can be missing that was
//! acknowledged. So a record that is damaged before that offset was lost by the disk, and one behind it never was whole.

use crate::chunk::{self, Checksum, ChunkId};

/// Where records begin, in bytes: so that a search for the next one after a damaged one goes in steps.
pub const ALIGNMENT: u32 = 64;

const MAGIC: &[u8; 4] = b"HSR1";
const FIXED: usize = 36;
const CHECK: usize = 16;

/// Shortest head.
pub const HEAD_BYTES_MIN: usize = FIXED + CHECK;

/// What a record says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Which chunk it holds.
    pub chunk: ChunkId,
    /// How long the chunk is.
    pub bytes: u32,
    /// The segment it is in.
    pub segment: u32,
    /// Where it begins there.
    pub offset: u32,
    /// Up to where the segment was synced before.
    pub safe: u32,
    /// Of each block.
    pub checksums: Vec<Checksum>,
}

/// Bytes of the head of a record for a chunk of so many bytes.
pub fn head_bytes(chunk_bytes: u32) -> u32 {
    HEAD_BYTES_MIN as u32 + 32 * chunk::count(chunk_bytes)
}

/// Bytes of a whole record, with what fills it up.
pub fn record_bytes(chunk_bytes: u32) -> u32 {
    (head_bytes(chunk_bytes) + chunk_bytes).next_multiple_of(ALIGNMENT)
}

fn check(bytes: &[u8]) -> [u8; CHECK] {
    let mut check = [0; CHECK];
    check.copy_from_slice(&blake3::hash(bytes).as_bytes()[..CHECK]);
    check
}

impl Head {
    /// Appends the head.
    pub fn encode(&self, into: &mut Vec<u8>) {
        let from = into.len();
        into.extend(MAGIC);
        into.extend(self.chunk.0);
        for number in [self.bytes, self.segment, self.offset, self.safe] {
            into.extend(number.to_le_bytes());
        }
        for checksum in &self.checksums {
            into.extend(checksum.0);
        }
        let check = check(&into[from..]);
        into.extend(check);
    }

    /// How long the head is that begins like this, if one of a chunk of at most `bytes_max` does.
    pub fn length(start: &[u8], bytes_max: u32) -> Option<usize> {
        let fixed: &[u8; FIXED] = start.first_chunk()?;
        let bytes = number(fixed, 20);
        (fixed.starts_with(MAGIC) && bytes <= bytes_max).then(|| head_bytes(bytes) as usize)
    }

    /// The head that `bytes` begin with, if it is whole and was written for this place.
    pub fn decode(bytes: &[u8], bytes_max: u32, segment: u32, offset: u32) -> Option<Head> {
        let length = Head::length(bytes, bytes_max)?;
        let (said, found) = bytes.get(..length)?.split_at(length - CHECK);
        let head = Head {
            chunk: ChunkId(*said[4..].first_chunk()?),
            bytes: number(said, 20),
            segment: number(said, 24),
            offset: number(said, 28),
            safe: number(said, 32),
            checksums: said[FIXED..].chunks_exact(32).map(|sum| Checksum(sum.try_into().expect("32 bytes"))).collect(),
        };
        (check(said) == found && head.segment == segment && head.offset == offset).then_some(head)
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("a head is long enough"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(bytes: u32) -> Head {
        let checksums = (0..chunk::count(bytes)).map(|number| Checksum([number as u8; 32])).collect();
        Head { chunk: ChunkId([7; 16]), bytes, segment: 3, offset: 640, safe: 128, checksums }
    }

    #[test]
    fn a_head_is_one_at_its_own_place_only() {
        for bytes in [0, 1, 65_536, 65_537, 262_144] {
            let mut encoded = Vec::new();
            head(bytes).encode(&mut encoded);
            assert_eq!(encoded.len(), head_bytes(bytes) as usize);
            assert_eq!(Head::decode(&encoded, 262_144, 3, 640), Some(head(bytes)));
            assert_eq!(Head::decode(&encoded, 262_144, 3, 704), None);
            assert_eq!(Head::decode(&encoded, 262_144, 4, 640), None);
            assert_eq!(Head::decode(&encoded[..encoded.len() - 1], 262_144, 3, 640), None);
        }
        let mut encoded = Vec::new();
        head(100).encode(&mut encoded);
        assert_eq!(Head::decode(&encoded, 99, 3, 640), None, "larger than any here");
    }

    proptest! {
        #[test]
        fn one_changed_byte_makes_it_none(at in 0usize..84, change in 1u8..) {
            let mut encoded = Vec::new();
            head(100).encode(&mut encoded);
            encoded[at] ^= change;
            prop_assert_eq!(Head::decode(&encoded, 262_144, 3, 640), None);
        }
    }
}

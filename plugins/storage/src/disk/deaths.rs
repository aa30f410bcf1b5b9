//! The log of deaths: which chunks were condemned, which small ones unlinked whose records still lie in a segment, and which records are of
//! chunks that were evicted.
//!
//! Each entry is 32 bytes, at a multiple of 32: `chunk (16) · 1 condemned | 2 unlinked | 3 evicted · segment (4) · zeros (3) · check (8)`; the
//! segment is 0 but where a record was evicted. The order of entries says nothing, and neither does their number: what was once unlinked is,
//! whatever else is there. A damaged entry is passed over; the chunk is there again then, and is condemned or evicted again by who knows that
//! nobody needs it. An entry never costs a chunk that it was not written for: a chunk that was evicted and comes again lies in another segment,
//! and numbers of segments that are named here are not used again.

use std::collections::{BTreeMap, BTreeSet};

use crate::chunk::ChunkId;

/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 32;

/// How far a chunk's death has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Death {
    /// No commit names it any more; it may still be read.
    Condemned,
    /// It is gone.
    Unlinked,
    /// Its record in this segment counts no more: others have the chunk. It may come again.
    Evicted(u32),
}

/// What a log says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deaths {
    /// How far the death of each chunk has come.
    pub of: BTreeMap<ChunkId, Death>,
    /// Records that count no more: of which chunk, in which segment.
    pub evicted: BTreeSet<(ChunkId, u32)>,
    /// How many bytes its entries take.
    pub end: u64,
}

fn check(bytes: &[u8]) -> [u8; 8] {
    let mut check = [0; 8];
    let hash = blake3::keyed_hash(b"hirsel storage: deaths of chunks", bytes);
    check.copy_from_slice(&hash.as_bytes()[..8]);
    check
}

/// One entry.
pub fn encode(chunk: ChunkId, death: Death) -> [u8; ENTRY_BYTES] {
    let mut entry = [0; ENTRY_BYTES];
    entry[..16].copy_from_slice(&chunk.0);
    entry[16] = match death {
        Death::Condemned => 1,
        Death::Unlinked => 2,
        Death::Evicted(segment) => {
            entry[17..21].copy_from_slice(&segment.to_be_bytes());
            3
        }
    };
    let check = check(&entry[..24]);
    entry[24..].copy_from_slice(&check);
    entry
}

fn decode(entry: &[u8]) -> Option<(ChunkId, Death)> {
    let death = match entry.get(16)? {
        1 => Death::Condemned,
        2 => Death::Unlinked,
        3 => Death::Evicted(u32::from_be_bytes(*entry.get(17..)?.first_chunk()?)),
        _ => return None,
    };
    (check(&entry[..24]) == entry[24..]).then_some((ChunkId(*entry.first_chunk()?), death))
}

/// What a log says.
pub fn read(log: &[u8]) -> Deaths {
    let mut deaths = Deaths::default();
    for (number, entry) in log.chunks_exact(ENTRY_BYTES).enumerate() {
        let Some((chunk, death)) = decode(entry) else { continue };
        if let Death::Evicted(segment) = death {
            deaths.evicted.insert((chunk, segment));
        } else {
            let known = deaths.of.entry(chunk).or_insert(death);
            *known = death.max(*known);
        }
        deaths.end = ((number + 1) * ENTRY_BYTES) as u64;
    }
    deaths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_stands_in_whatever_order() {
        let (a, b) = (ChunkId([1; 16]), ChunkId([2; 16]));
        let mut log = Vec::new();
        log.extend(encode(a, Death::Unlinked));
        log.extend(encode(a, Death::Condemned));
        log.extend(encode(b, Death::Condemned));
        log.extend([0; 64]);
        let read_of = |log: &[u8]| (read(log).of, read(log).end);
        assert_eq!(read_of(&log), (BTreeMap::from([(a, Death::Unlinked), (b, Death::Condemned)]), 96));
        log[3] ^= 1;
        assert_eq!(read(&log).of, BTreeMap::from([(a, Death::Condemned), (b, Death::Condemned)]), "one was damaged");
    }

    #[test]
    fn each_record_that_was_evicted_is_known_and_the_chunk_is_not_dead() {
        let a = ChunkId([1; 16]);
        let log = [encode(a, Death::Evicted(7)), encode(a, Death::Evicted(0x0102_0304))].concat();
        let read = read(&log);
        assert_eq!((read.of, read.end), (BTreeMap::new(), 64));
        assert_eq!(read.evicted, BTreeSet::from([(a, 7), (a, 0x0102_0304)]));
    }
}

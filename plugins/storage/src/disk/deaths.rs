//! The log of deaths: which chunks were condemned, and which small ones unlinked whose records still lie in a segment.
//!
//! Each entry is 32 bytes, at a multiple of 32: `chunk (16) · 1 condemned | 2 unlinked · zeros (7) · check (8)`. The order of entries says
//! nothing, and neither does their number: what was once unlinked is, whatever else is there. A damaged entry is passed over; the chunk is
//! there again then, and is condemned again by who knows that nobody has it. An entry never costs a chunk that it was not written for.

use std::collections::BTreeMap;

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
    };
    let check = check(&entry[..24]);
    entry[24..].copy_from_slice(&check);
    entry
}

fn decode(entry: &[u8]) -> Option<(ChunkId, Death)> {
    let death = match entry.get(16)? {
        1 => Death::Condemned,
        2 => Death::Unlinked,
        _ => return None,
    };
    (check(&entry[..24]) == entry[24..]).then_some((ChunkId(*entry.first_chunk()?), death))
}

/// What a log says, and where its last entry ends.
pub fn read(log: &[u8]) -> (BTreeMap<ChunkId, Death>, u64) {
    let mut deaths = BTreeMap::new();
    let mut end = 0;
    for (number, entry) in log.chunks_exact(ENTRY_BYTES).enumerate() {
        if let Some((chunk, death)) = decode(entry) {
            let known = deaths.entry(chunk).or_insert(death);
            *known = death.max(*known);
            end = ((number + 1) * ENTRY_BYTES) as u64;
        }
    }
    (deaths, end)
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
        assert_eq!(read(&log), (BTreeMap::from([(a, Death::Unlinked), (b, Death::Condemned)]), 96));
        log[3] ^= 1;
        let (deaths, _) = read(&log);
        assert_eq!(deaths, BTreeMap::from([(a, Death::Condemned), (b, Death::Condemned)]), "one was damaged");
    }
}

//! The list of what lies in a segment, written beside it once nothing more comes in, so that a start does not read all data.
//!
//! ```text
//! "HSI1" · segment (u32) · length of the segment (u32) · number of entries (u32) · [chunk (16) · offset (u32) · bytes (u32)]… · check (32)
//! ```
//!
//! It says nothing that the segment does not say: when it is missing or damaged, the segment is read instead. So it needs no sync.

use crate::chunk::ChunkId;

const MAGIC: &[u8; 4] = b"HSI1";
const HEAD: usize = 16;
const ENTRY: usize = 24;
const CHECK: usize = 32;

/// Where a chunk lies in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which chunk.
    pub chunk: ChunkId,
    /// Where its record begins.
    pub offset: u32,
    /// How long the chunk is.
    pub bytes: u32,
}

/// What lies in a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sidecar {
    /// Bytes of the segment up to the end of its last record.
    pub end: u32,
    /// In the order in which they lie.
    pub entries: Vec<Entry>,
}

/// Writes the list of segment `segment`.
pub fn encode(segment: u32, sidecar: &Sidecar) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + ENTRY * sidecar.entries.len() + CHECK);
    bytes.extend(MAGIC);
    let count = u32::try_from(sidecar.entries.len()).expect("a segment has fewer records than bytes");
    for number in [segment, sidecar.end, count] {
        bytes.extend(number.to_le_bytes());
    }
    for entry in &sidecar.entries {
        bytes.extend(entry.chunk.0);
        bytes.extend(entry.offset.to_le_bytes());
        bytes.extend(entry.bytes.to_le_bytes());
    }
    let check = blake3::hash(&bytes);
    bytes.extend(check.as_bytes());
    bytes
}

/// Reads the list of segment `segment`; none unless it is whole.
pub fn decode(bytes: &[u8], segment: u32) -> Option<Sidecar> {
    let (said, check) = bytes.split_at_checked(bytes.len().checked_sub(CHECK)?)?;
    let (head, entries) = said.split_at_checked(HEAD)?;
    let number = |bytes: &[u8], at: usize| bytes[at..].first_chunk().map(|four| u32::from_le_bytes(*four));
    let count = number(head, 12)? as usize;
    let fits = head.starts_with(MAGIC) && number(head, 4)? == segment && entries.len() == count.checked_mul(ENTRY)?;
    if !fits || blake3::hash(said).as_bytes() != check {
        return None;
    }
    let entry = |bytes: &[u8]| {
        let chunk = ChunkId(*bytes.first_chunk()?);
        Some(Entry { chunk, offset: number(bytes, 16)?, bytes: number(bytes, 20)? })
    };
    Some(Sidecar { end: number(head, 8)?, entries: entries.chunks_exact(ENTRY).map(entry).collect::<Option<_>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_whole_or_none() {
        let entry = |n: u8| Entry { chunk: ChunkId([n; 16]), offset: u32::from(n) * 64, bytes: 5 };
        let sidecar = Sidecar { end: 256, entries: vec![entry(1), entry(2)] };
        let bytes = encode(4, &sidecar);
        assert_eq!(decode(&bytes, 4), Some(sidecar));
        assert_eq!(decode(&bytes, 5), None);
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 4;
            assert_eq!(decode(&wrong, 4), None, "{at}");
            assert_eq!(decode(&bytes[..at], 4), None, "{at}");
        }
        assert_eq!(decode(&encode(1, &Sidecar::default()), 1), Some(Sidecar::default()));
    }
}

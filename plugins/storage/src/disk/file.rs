//! What lies in a file of its own: one large chunk.
//!
//! ```text
//! data · checksum of each block (32) · "HSF1" · chunk (16) · bytes (u32) · check (16)
//! ```
//!
//! The data comes first, so that it lies at the beginning of pages and can be written before its checksums are known. `check` is over the
//! checksums and what follows them. The file is called after the chunk and its length, so that a list of names is enough to know what there is.

use crate::chunk::{self, CHUNK_BYTES_MAX, Checksum, ChunkId};

const MAGIC: &[u8; 4] = b"HSF1";
const CHECK: usize = 16;
const FIXED: usize = 4 + 16 + 4 + CHECK;

/// Bytes of what follows the data of a chunk of so many bytes.
pub fn tail_bytes(chunk_bytes: u32) -> u32 {
    32 * chunk::count(chunk_bytes) + FIXED as u32
}

/// Bytes of the whole file.
pub fn file_bytes(chunk_bytes: u32) -> u64 {
    u64::from(chunk_bytes) + u64::from(tail_bytes(chunk_bytes))
}

/// Name of the file.
pub fn name(chunk: ChunkId, bytes: u32) -> String {
    format!("{chunk}.{bytes}")
}

/// What a name says; none if it is no name of a chunk.
pub fn parse(name: &str) -> Option<(ChunkId, u32)> {
    let (chunk, bytes) = name.split_once('.')?;
    let bytes: u32 = bytes.parse().ok().filter(|bytes| *bytes <= CHUNK_BYTES_MAX)?;
    let chunk = chunk.parse().ok()?;
    (self::name(chunk, bytes) == name).then_some((chunk, bytes))
}

fn check(bytes: &[u8]) -> [u8; CHECK] {
    let mut check = [0; CHECK];
    check.copy_from_slice(&blake3::hash(bytes).as_bytes()[..CHECK]);
    check
}

/// What follows the data.
pub fn tail(chunk: ChunkId, bytes: u32, checksums: &[Checksum]) -> Vec<u8> {
    let mut tail: Vec<u8> = checksums.iter().flat_map(|sum| sum.0).collect();
    tail.extend(MAGIC);
    tail.extend(chunk.0);
    tail.extend(bytes.to_le_bytes());
    let check = check(&tail);
    tail.extend(check);
    tail
}

/// The checksums that follow the data of this chunk, if `tail` is what was written behind it.
pub fn checksums(chunk: ChunkId, bytes: u32, tail: &[u8]) -> Option<Vec<Checksum>> {
    let (said, found) = tail.split_at_checked(tail.len().checked_sub(CHECK)?)?;
    let (sums, fixed) = said.split_at_checked(32 * chunk::count(bytes) as usize)?;
    let mut expected = MAGIC.to_vec();
    expected.extend(chunk.0);
    expected.extend(bytes.to_le_bytes());
    let sound = fixed == expected && check(said) == found;
    sound.then(|| sums.chunks_exact(32).map(|sum| Checksum(sum.try_into().expect("32 bytes"))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_chunk_and_length() {
        let id = ChunkId([0x5a; 16]);
        assert_eq!(parse(&name(id, 4_194_304)), Some((id, 4_194_304)));
        for wrong in
            ["", "lost+found", &format!("{id}"), &format!("{id}.4194305"), &format!("{id}.01"), &format!("{id}.x")]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_tail_is_one_of_its_own_chunk_only() {
        let id = ChunkId([1; 16]);
        let sums = [Checksum([1; 32]), Checksum([2; 32])];
        let tail = tail(id, 100_000, &sums);
        assert_eq!(tail.len(), tail_bytes(100_000) as usize);
        assert_eq!(checksums(id, 100_000, &tail), Some(sums.to_vec()));
        assert_eq!(checksums(ChunkId([2; 16]), 100_000, &tail), None);
        assert_eq!(checksums(id, 100_001, &tail), None);
        for at in 0..tail.len() {
            let mut wrong = tail.clone();
            wrong[at] ^= 1;
            assert_eq!(checksums(id, 100_000, &wrong), None, "{at}");
            assert_eq!(checksums(id, 100_000, &tail[..at]), None, "{at}");
        }
    }
}

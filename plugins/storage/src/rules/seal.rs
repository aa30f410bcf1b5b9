//! Server-side encryption: what lies on disks is sealed, and opens only with the key that its object names.
//!
//! An object that is sealed has a *data key*. What opens it is in its header ([`header::Header`], kept in `About::sealed`): for SSE-C the
//! customer's key, which hirsel never keeps; for SSE-S3 and SSE-KMS a master key of the cluster, which wraps it.
//!
//! A body (and each part of an upload) is a *stream* of its own:
//!
//! ```text
//! salt (32)  block 0  block 1  …  last block          block: up to 64 KiB, and a tag of 16 bytes; only the last one is shorter
//! key of the stream = HKDF-SHA-256(data key, salt, "hirsel stream" + number of the part, 2 bytes, big-endian; 0 of a body put whole)
//! nonce of a block  = 0 0 0, 1 for the last block and else 0, the number of the block (8 bytes, big-endian)
//! ```
//!
//! Each block is AES-256-GCM. The salt is drawn anew for each writing, so that no nonce comes twice with one key, also when a part is put
//! again. A block in another's place, of another part or stream, or behind which something was cut off, does not open. An empty body
//! has one empty block. Ranges open without what is before them: block n begins at byte 32 + n × 65,552.
//!
//! Known and accepted: the length of an object can be seen by whoever has the disks, and so can its names, tags and headers.

pub mod header;
pub mod range;

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf;

/// Bytes of a block before it is sealed: what a checksum on disk covers, too, and what a range reads too much at most at each end.
pub const BLOCK_BYTES: u64 = 64 << 10;
/// Bytes that a block becomes longer.
pub const TAG_BYTES: u64 = 16;
/// Bytes of the salt in front.
pub const SALT_BYTES: u64 = 32;

const SEALED_BLOCK_BYTES: u64 = BLOCK_BYTES + TAG_BYTES;

/// Blocks of a body.
pub fn blocks(plain: u64) -> u64 {
    plain.div_ceil(BLOCK_BYTES).max(1)
}

/// How long the stream of a body is.
pub fn sealed_bytes(plain: u64) -> u64 {
    SALT_BYTES + plain + blocks(plain) * TAG_BYTES
}

/// How long the body of a stream is; none if no stream is so long.
pub fn plain_bytes(sealed: u64) -> Option<u64> {
    let body = sealed.checked_sub(SALT_BYTES)?;
    let blocks = body.div_ceil(SEALED_BLOCK_BYTES);
    let plain = body.checked_sub(blocks * TAG_BYTES)?;
    (sealed_bytes(plain) == sealed).then_some(plain)
}

/// Why something does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The key is another one.
    #[error("the key does not open the object")]
    Key,
    /// What is there is not what was sealed.
    #[error("the object is not what was sealed: block {0} does not open")]
    Block(u64),
    /// The stream ends before its end.
    #[error("the object is shorter than it was when it was sealed")]
    Short,
    /// What should say how it opens says nothing that is known.
    #[error("how the object opens cannot be read")]
    Header,
}

/// What opens the streams of one object.
#[derive(Clone, PartialEq, Eq)]
pub struct DataKey(pub [u8; 32]);

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(..)")
    }
}

/// A key out of a key.
pub(crate) fn derive(from: &[u8; 32], salt: &[u8], what: &[&[u8]]) -> [u8; 32] {
    let mut out = [0; 32];
    let pseudo = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(from);
    // It fails for lengths that are no 32 only.
    if let Ok(key) = pseudo.expand(what, hkdf::HKDF_SHA256) {
        let _ = key.fill(&mut out);
    }
    out
}

fn cipher(key: &[u8; 32]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key).ok().map(LessSafeKey::new)
}

fn stream(key: &DataKey, salt: &[u8; 32], part: u16) -> Option<LessSafeKey> {
    cipher(&derive(&key.0, salt, &[b"hirsel stream", &part.to_be_bytes()]))
}

fn nonce(number: u64, last: bool) -> Nonce {
    let mut nonce = [0; 12];
    nonce[3] = u8::from(last);
    nonce[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// Seals a stream, piece by piece.
pub struct Sealing {
    cipher: LessSafeKey,
    number: u64,
    /// What is not sealed yet: at most a block, for nobody knows yet whether it is the last one.
    held: Vec<u8>,
    salt: Option<[u8; 32]>,
}

impl Sealing {
    /// Begins a stream: part `part`, or 0 of a body that is put whole. The salt must be drawn for this stream alone.
    ///
    /// # Errors
    /// Never, as long as the cipher takes keys of 32 bytes.
    pub fn new(key: &DataKey, part: u16, salt: [u8; 32]) -> Result<Self, SealError> {
        let cipher = stream(key, &salt, part).ok_or(SealError::Key)?;
        Ok(Self { cipher, number: 0, held: Vec::with_capacity(BLOCK_BYTES as usize), salt: Some(salt) })
    }

    /// Takes bytes, and gives what is sealed of them so far.
    ///
    /// # Errors
    /// When a stream would be longer than the cipher allows, which no object is.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut out = Vec::with_capacity(bytes.len() + 2 * TAG_BYTES as usize);
        out.extend(self.salt.take().into_iter().flatten());
        while !bytes.is_empty() {
            if self.held.len() == BLOCK_BYTES as usize {
                self.seal(false, &mut out)?;
            }
            let room = BLOCK_BYTES as usize - self.held.len();
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.held.extend_from_slice(now);
            bytes = rest;
        }
        Ok(out)
    }

    /// Ends the stream, and gives the rest of it.
    ///
    /// # Errors
    /// As [`Sealing::push`].
    pub fn finish(mut self) -> Result<Vec<u8>, SealError> {
        let mut out: Vec<u8> = self.salt.take().into_iter().flatten().collect();
        self.seal(true, &mut out)?;
        Ok(out)
    }

    fn seal(&mut self, last: bool, out: &mut Vec<u8>) -> Result<(), SealError> {
        let nonce = nonce(self.number, last);
        let tag = self.cipher.seal_in_place_separate_tag(nonce, Aad::empty(), &mut self.held);
        let tag = tag.map_err(|_| SealError::Block(self.number))?;
        out.extend_from_slice(&self.held);
        out.extend_from_slice(tag.as_ref());
        self.held.clear();
        self.number += 1;
        Ok(())
    }
}

/// Opens blocks of a stream, piece by piece, from some block on.
pub struct Opening {
    cipher: LessSafeKey,
    number: u64,
    /// How long the whole body is: it says which block is the last, and how long that is.
    plain: u64,
    held: Vec<u8>,
}

impl Opening {
    /// Begins with block `first` of a stream whose body has `plain` bytes.
    ///
    /// # Errors
    /// As [`Sealing::new`].
    pub fn new(key: &DataKey, part: u16, salt: [u8; 32], plain: u64, first: u64) -> Result<Self, SealError> {
        let cipher = stream(key, &salt, part).ok_or(SealError::Key)?;
        Ok(Self { cipher, number: first, plain, held: Vec::new() })
    }

    /// Takes bytes of the stream, from the beginning of the first block on, and gives what is open of them so far.
    ///
    /// # Errors
    /// When something does not open. Nothing of that block is given.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<u8>, SealError> {
        self.held.extend_from_slice(bytes);
        let (mut out, mut begins) = (Vec::with_capacity(self.held.len()), 0);
        while let Some(length) = self.length() {
            let Some(block) = self.held.get_mut(begins..begins + length) else { break };
            let last = self.number + 1 == blocks(self.plain);
            let opened = self.cipher.open_in_place(nonce(self.number, last), Aad::empty(), block);
            out.extend_from_slice(opened.map_err(|_| SealError::Block(self.number))?);
            begins += length;
            self.number += 1;
        }
        self.held.drain(..begins);
        if self.length().is_none() && !self.held.is_empty() {
            return Err(SealError::Block(self.number));
        }
        Ok(out)
    }

    /// Checks that nothing was cut off inside a block.
    ///
    /// # Errors
    /// When something was.
    pub fn finish(self) -> Result<(), SealError> {
        if self.held.is_empty() { Ok(()) } else { Err(SealError::Short) }
    }

    /// How long the next block is; none behind the last.
    fn length(&self) -> Option<usize> {
        let all = blocks(self.plain);
        let bytes = match self.number + 1 {
            next if next < all => BLOCK_BYTES,
            next if next == all => self.plain - (all - 1) * BLOCK_BYTES,
            _ => return None,
        };
        Some((bytes + TAG_BYTES) as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: DataKey = DataKey([7; 32]);
    const SALT: [u8; 32] = [9; 32];

    fn sealed(body: &[u8], cuts: usize, part: u16) -> Vec<u8> {
        let mut sealing = Sealing::new(&KEY, part, SALT).expect("a key");
        let mut out = Vec::new();
        for piece in body.chunks(cuts.max(1)) {
            out.extend(sealing.push(piece).expect("it is short"));
        }
        out.extend(sealing.finish().expect("it is short"));
        out
    }

    fn opened(stream: &[u8], plain: u64, cuts: usize, part: u16) -> Result<Vec<u8>, SealError> {
        let mut opening = Opening::new(&KEY, part, SALT, plain, 0)?;
        let mut out = Vec::new();
        for piece in stream[32..].chunks(cuts.max(1)) {
            out.extend(opening.push(piece)?);
        }
        opening.finish()?;
        Ok(out)
    }

    fn body(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|n| (n * 7 + n / 251) as u8).collect()
    }

    const LENGTHS: [usize; 8] = [0, 1, 65_535, 65_536, 65_537, 131_072, 131_073, 300_000];

    #[test]
    fn what_is_sealed_opens_and_is_as_long_as_it_is_said_to_be() {
        for bytes in LENGTHS {
            let plain = body(bytes);
            for cuts in [1_000, 65_536, 1 << 20] {
                let stream = sealed(&plain, cuts, 0);
                assert_eq!(stream.len() as u64, sealed_bytes(bytes as u64));
                assert_eq!(plain_bytes(stream.len() as u64), Some(bytes as u64));
                assert_eq!(
                    opened(&stream, bytes as u64, cuts / 2 + 1, 0),
                    Ok(plain.clone()),
                    "{bytes} in pieces of {cuts}"
                );
            }
        }
        assert_eq!(plain_bytes(sealed_bytes(0) - 1), None);
        assert_eq!(plain_bytes(sealed_bytes(65_536) + 5), None, "a block of five bytes has no tag");
    }

    #[test]
    fn the_format_is_what_it_was() {
        let hash = |bytes: &[u8]| blake3::hash(bytes).to_hex()[..16].to_owned();
        let (short, long) = (sealed(b"hello", 5, 0), sealed(&body(65_537), 65_536, 3));
        assert_eq!([short.len(), long.len()], [53, 65_601]);
        assert_eq!([hash(&short), hash(&long)], ["a9941345fc0b151f", "7f61760299a217f7"]);
    }

    #[test]
    fn nothing_that_was_changed_moved_or_cut_opens() {
        let plain = body(200_000);
        let stream = sealed(&plain, 65_536, 1);
        let fails = |stream: &[u8], part| opened(stream, 200_000, 65_536, part).is_err();
        assert!(fails(&stream, 2), "it is another part's");
        for at in [32, 40, 65_583, 65_584, stream.len() - 1] {
            let mut changed = stream.clone();
            changed[at] ^= 1;
            assert!(fails(&changed, 1), "{at}");
        }
        let block = SEALED_BLOCK_BYTES as usize;
        let mut moved = stream.clone();
        let (first, second) = moved[32..].split_at_mut(block);
        first.swap_with_slice(&mut second[..block]);
        assert!(fails(&moved, 1), "blocks were swapped");
        // As if it ended with its second block.
        assert!(opened(&stream[..32 + 2 * block], 131_072, 65_536, 1).is_err());
        assert!(opened(&[&stream[..], b"x"].concat(), 200_000, 65_536, 1).is_err(), "something is behind it");
        assert_eq!(opened(&stream[..stream.len() - 3], 200_000, 65_536, 1), Err(SealError::Short));
        let other = Opening::new(&DataKey([8; 32]), 1, SALT, 200_000, 0).expect("a key").push(&stream[32..]);
        assert_eq!(other, Err(SealError::Block(0)));
    }

    #[test]
    fn an_opening_begins_with_any_block() {
        let plain = body(200_000);
        let stream = sealed(&plain, 65_536, 0);
        for first in 0..4_usize {
            let mut opening = Opening::new(&KEY, 0, SALT, 200_000, first as u64).expect("a key");
            let out = opening.push(&stream[32 + first * SEALED_BLOCK_BYTES as usize..]).expect("it opens");
            assert_eq!(out, plain[first * BLOCK_BYTES as usize..]);
            opening.finish().expect("whole");
        }
    }

    #[test]
    fn keys_do_not_show() {
        assert_eq!(format!("{KEY:?}"), "DataKey(..)");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_body_comes_back(bytes in 0_usize..200_000, cuts in 1_usize..100_000, part in any::<u16>()) {
            let plain = body(bytes);
            prop_assert_eq!(opened(&sealed(&plain, cuts, part), bytes as u64, cuts, part), Ok(plain));
        }

        #[test]
        fn lengths_go_there_and_back(plain in 0_u64..(5 << 40)) {
            prop_assert_eq!(plain_bytes(sealed_bytes(plain)), Some(plain));
        }
    }
}

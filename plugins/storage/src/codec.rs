//! Erasure coding: a stripe becomes k + m shards, of which any k give it back.
//!
//! Reed-Solomon over GF(2^8), systematic: the first k shards are the stripe itself, cut into pieces and filled up with zeros, so that reading
//! with all of them there costs nothing. The matrix is the one that most write (Vandermonde made systematic, polynomial 0x11D; Plank,
//! "A tutorial on Reed-Solomon coding for fault-tolerance in RAID-like systems", with its correction of 2003): a test holds its bytes against an own, slow one.
//!
//! It knows nothing of where shards are, and looks at no checksum: who gives it a shard has looked at it. Nothing here is held but one stripe.

use std::fmt;
use std::str::FromStr;

use bytes::{Bytes, BytesMut};
use rustfs_erasure_codec::CodecOptions;
use rustfs_erasure_codec::galois_8::ReedSolomon;
use serde::{Deserialize, Serialize};

use crate::chunk::CHUNK_BYTES_MAX;

/// Shards of a stripe, at most: as many storage nodes as one write is sent to.
pub const SHARDS_MAX: u8 = 32;

/// Bytes of the shortest stripe that is asked for. Of shorter ones, shards would be too small to be worth their own place.
pub const STRIPE_BYTES_MIN: u32 = 1 << 20;
/// Bytes of the longest one.
pub const STRIPE_BYTES_MAX: u32 = CHUNK_BYTES_MAX;

/// Shards begin at a multiple of this, so that no vector operation meets an odd end.
const SHARD_ALIGNMENT: u32 = 64;

/// How many shards of data, and how many besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scheme {
    data: u8,
    parity: u8,
}

/// A scheme that there is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no erasure code: write it as data+parity, like 4+2 or 8+3, with 2 data shards or more and {SHARDS_MAX} in all at most"
)]
pub struct NoScheme(String);

impl Scheme {
    /// `data` + `parity`: at least 2 + 1, at most [`SHARDS_MAX`] together.
    pub fn new(data: u8, parity: u8) -> Result<Scheme, NoScheme> {
        let sound = data >= 2 && parity >= 1 && data.checked_add(parity).is_some_and(|all| all <= SHARDS_MAX);
        if sound { Ok(Scheme { data, parity }) } else { Err(NoScheme(format!("{data}+{parity}"))) }
    }

    /// How many shards give back a stripe.
    pub fn data(self) -> usize {
        self.data.into()
    }

    /// How many may be lost.
    pub fn parity(self) -> usize {
        self.parity.into()
    }

    /// How many there are.
    pub fn shards(self) -> usize {
        self.data() + self.parity()
    }

    /// Bytes of each shard of a stripe of so many bytes.
    pub fn shard_bytes(self, stripe_bytes: u32) -> u32 {
        stripe_bytes.div_ceil(self.data.into()).next_multiple_of(SHARD_ALIGNMENT)
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.data, self.parity)
    }
}

impl From<Scheme> for String {
    fn from(scheme: Scheme) -> String {
        scheme.to_string()
    }
}

impl TryFrom<String> for Scheme {
    type Error = NoScheme;
    fn try_from(text: String) -> Result<Scheme, NoScheme> {
        text.parse()
    }
}

impl FromStr for Scheme {
    type Err = NoScheme;

    fn from_str(text: &str) -> Result<Scheme, NoScheme> {
        let none = || NoScheme(text.chars().take(32).collect());
        let (data, parity) = text.split_once('+').ok_or_else(none)?;
        let number = |digits: &str| match digits.bytes().all(|digit| digit.is_ascii_digit()) {
            true => digits.parse::<u8>().map_err(|_| none()),
            false => Err(none()),
        };
        Scheme::new(number(data)?, number(parity)?).map_err(|_| none())
    }
}

/// Why shards give no stripe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// Too many are missing.
    #[error("{present} of {needed} shards are there")]
    TooFew {
        /// How many are there.
        present: usize,
        /// How many are needed.
        needed: usize,
    },
    /// They are not those of one stripe of this length.
    #[error("shard {shard} has {bytes} bytes, where each has {expected}")]
    Length {
        /// Which.
        shard: usize,
        /// How long it is.
        bytes: usize,
        /// How long it should be.
        expected: u32,
    },
    /// There is no such stripe or shard.
    #[error("{0}")]
    Wrong(String),
}

/// A code, ready to be used.
pub struct Codec {
    scheme: Scheme,
    code: ReedSolomon,
}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Codec({})", self.scheme)
    }
}

impl Codec {
    /// The code of a scheme.
    pub fn new(scheme: Scheme) -> Codec {
        // Whoever calls it is on a thread of its own already, and others want theirs.
        let options = CodecOptions::builder().max_parallel_jobs(1).build();
        let code = ReedSolomon::with_options(scheme.data(), scheme.parity(), options);
        Codec { scheme, code: code.expect("schemes are within what the code can do") }
    }

    /// What it is the code of.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The shards of a stripe, those of data first. Without copying these, but for the last ones, which are filled up.
    pub fn encode(&self, stripe: &Bytes) -> Result<Vec<Bytes>, CodeError> {
        let length = self.shard_bytes(stripe.len())? as usize;
        let mut shards = Vec::with_capacity(self.scheme.shards());
        for number in 0..self.scheme.data() {
            let from = (number * length).min(stripe.len());
            let piece = stripe.slice(from..(from + length).min(stripe.len()));
            shards.push(if piece.len() == length { piece } else { filled(&piece, length) });
        }
        let mut parity = vec![vec![0; length]; self.scheme.parity()];
        if length > 0 {
            self.code.encode_sep(&shards, &mut parity).map_err(|error| CodeError::Wrong(error.to_string()))?;
        }
        shards.extend(parity.into_iter().map(Bytes::from));
        Ok(shards)
    }

    /// The stripe of `stripe_bytes` bytes whose shards these are, those that are missing left out.
    pub fn decode(&self, stripe_bytes: u32, shards: &[Option<Bytes>]) -> Result<Bytes, CodeError> {
        self.check(stripe_bytes, shards)?;
        let data = self.scheme.data();
        let mut stripe = BytesMut::with_capacity(data * self.scheme.shard_bytes(stripe_bytes) as usize);
        if shards[..data].iter().all(Option::is_some) {
            shards[..data].iter().flatten().for_each(|shard| stripe.extend_from_slice(shard));
        } else {
            let wanted: Vec<bool> = (0..shards.len()).map(|number| number < data).collect();
            let whole = self.reconstruct(shards, &wanted)?;
            whole[..data].iter().flatten().for_each(|shard| stripe.extend_from_slice(shard));
        }
        stripe.truncate(stripe_bytes as usize);
        Ok(stripe.freeze())
    }

    /// One shard of a stripe, from k others.
    pub fn repair(&self, stripe_bytes: u32, shards: &[Option<Bytes>], wanted: usize) -> Result<Bytes, CodeError> {
        self.check(stripe_bytes, shards)?;
        match shards.get(wanted) {
            None => Err(CodeError::Wrong(format!("{} has no shard {wanted}", self.scheme))),
            Some(Some(shard)) => Ok(shard.clone()),
            Some(None) => {
                let flags: Vec<bool> = (0..shards.len()).map(|number| number == wanted).collect();
                let whole = self.reconstruct(shards, &flags)?;
                whole
                    .into_iter()
                    .nth(wanted)
                    .flatten()
                    .map(Bytes::from)
                    .ok_or_else(|| CodeError::Wrong(format!("shard {wanted} was not counted")))
            }
        }
    }

    fn reconstruct(&self, shards: &[Option<Bytes>], wanted: &[bool]) -> Result<Vec<Option<Vec<u8>>>, CodeError> {
        let length = shards.iter().flatten().next().map_or(0, Bytes::len);
        // As many as are needed, and no more to be copied.
        let mut left = self.scheme.data();
        let mut some: Vec<Option<Vec<u8>>> = shards
            .iter()
            .map(|shard| {
                let taken = shard.as_ref().filter(|_| left > 0)?;
                left -= 1;
                Some(taken.to_vec())
            })
            .collect();
        if length == 0 {
            some.fill(Some(Vec::new()));
            return Ok(some);
        }
        let counted = self.code.reconstruct_some(&mut some, wanted);
        counted.map_err(|error| CodeError::Wrong(error.to_string()))?;
        Ok(some)
    }

    fn shard_bytes(&self, stripe: usize) -> Result<u32, CodeError> {
        let bytes = u32::try_from(stripe).ok().filter(|bytes| *bytes <= STRIPE_BYTES_MAX);
        let bytes =
            bytes.ok_or_else(|| CodeError::Wrong(format!("a stripe of {stripe} bytes exceeds {STRIPE_BYTES_MAX}")))?;
        Ok(self.scheme.shard_bytes(bytes))
    }

    fn check(&self, stripe_bytes: u32, shards: &[Option<Bytes>]) -> Result<(), CodeError> {
        let expected = self.shard_bytes(stripe_bytes as usize)?;
        if shards.len() != self.scheme.shards() {
            return Err(CodeError::Wrong(format!("{} shards are not those of {}", shards.len(), self.scheme)));
        }
        let (present, needed) = (shards.iter().flatten().count(), self.scheme.data());
        if present < needed {
            return Err(CodeError::TooFew { present, needed });
        }
        for (shard, bytes) in shards.iter().enumerate() {
            if let Some(bytes) = bytes.as_ref().map(Bytes::len).filter(|bytes| *bytes != expected as usize) {
                return Err(CodeError::Length { shard, bytes, expected });
            }
        }
        Ok(())
    }
}

fn filled(piece: &Bytes, length: usize) -> Bytes {
    let mut filled = BytesMut::with_capacity(length);
    filled.extend_from_slice(piece);
    filled.resize(length, 0);
    filled.freeze()
}

/// Cuts a stream into stripes. It holds less than one.
#[derive(Debug)]
pub struct Cutter {
    stripe_bytes: usize,
    held: BytesMut,
}

impl Cutter {
    /// Stripes of so many bytes, within [`STRIPE_BYTES_MIN`] and [`STRIPE_BYTES_MAX`]; the last one is as long as it happens to be.
    pub fn new(stripe_bytes: u32) -> Cutter {
        let stripe_bytes = stripe_bytes.clamp(STRIPE_BYTES_MIN, STRIPE_BYTES_MAX) as usize;
        Cutter { stripe_bytes, held: BytesMut::new() }
    }

    /// Takes from `piece` what the stripe still lacks; the stripe once it is whole.
    pub fn push(&mut self, piece: &mut Bytes) -> Option<Bytes> {
        if self.held.is_empty() && piece.len() >= self.stripe_bytes {
            return Some(piece.split_to(self.stripe_bytes));
        }
        let lacks = (self.stripe_bytes - self.held.len()).min(piece.len());
        self.held.extend_from_slice(&piece.split_to(lacks));
        (self.held.len() == self.stripe_bytes).then(|| std::mem::take(&mut self.held).freeze())
    }

    /// The last stripe, if anything is left.
    pub fn finish(self) -> Option<Bytes> {
        (!self.held.is_empty()).then(|| self.held.freeze())
    }
}

#[cfg(test)]
mod tests;

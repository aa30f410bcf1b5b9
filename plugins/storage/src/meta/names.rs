//! Names: of buckets, keys, versions, uploads, writes and chunks. What is in these types has been checked.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32HEX_NOPAD;
use serde::{Deserialize, Deserializer, Serialize};

use super::limits::KEY_BYTES_MAX;
use crate::chunk;

/// Why something is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(pub String);

macro_rules! checked {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Checks it.
            ///
            /// # Errors
            /// In words.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                $check(&text)?;
                Ok(Self(text))
            }

            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(from)?).map_err(serde::de::Error::custom)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }
    };
}

checked!(
    /// The name of a bucket, as S3 wants it: it is also a label of a host name.
    BucketName,
    check_bucket
);
checked!(
    /// The key of an object: 1 to 1024 bytes of UTF-8, any characters.
    ObjectKey,
    check_key
);

fn check_bucket(name: &str) -> Result<(), NameError> {
    let wrong = |why: &str| Err(NameError(format!("bucket name {name:.80?}: {why}")));
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = name.as_bytes();
    match bytes {
        _ if !(3..=63).contains(&bytes.len()) => wrong("has 3 to 63 characters"),
        _ if !bytes.iter().all(|c| plain(*c) || matches!(c, b'-' | b'.')) => {
            wrong("has lower case letters, digits, hyphens and dots only")
        }
        [first, .., last] if !plain(*first) || !plain(*last) => wrong("begins and ends with a letter or digit"),
        _ if ["..", ".-", "-."].iter().any(|pair| name.contains(pair)) => {
            wrong("has no empty label, and none that begins or ends with a hyphen")
        }
        _ if name.parse::<std::net::Ipv4Addr>().is_ok() => wrong("looks like an address"),
        _ => Ok(()),
    }
}

fn check_key(key: &str) -> Result<(), NameError> {
    match key.len() {
        0 => Err(NameError("a key has at least one character".into())),
        bytes if bytes > KEY_BYTES_MAX => Err(NameError(format!("key of {bytes} bytes exceeds {KEY_BYTES_MAX}"))),
        _ => Ok(()),
    }
}

/// Sixteen bytes that are unique: eight count, so that what is newer compares greater, and eight were drawn, so that nobody guesses them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamp {
    /// Counts in the group, from 1.
    #[serde(rename = "n")]
    pub number: u64,
    /// Drawn by whoever proposed it.
    #[serde(rename = "s")]
    pub salt: u64,
}

impl Stamp {
    /// As bytes, in order.
    pub fn bytes(self) -> [u8; 16] {
        (u128::from(self.number) << 64 | u128::from(self.salt)).to_be_bytes()
    }

    /// From [`Stamp::bytes`].
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let both = u128::from_be_bytes(bytes);
        Self { number: (both >> 64) as u64, salt: both as u64 }
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32HEX_NOPAD.encode(&self.bytes()).to_lowercase())
    }
}

impl FromStr for Stamp {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError(format!("{text:.40?} is no version or upload"));
        let lower = text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let bytes = lower.then(|| BASE32HEX_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok()).flatten();
        let bytes: [u8; 16] = bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(wrong)?;
        Ok(Self::from_bytes(bytes))
    }
}

/// A multipart upload.
pub type UploadId = Stamp;

/// Which version of an object is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum VersionRef {
    /// The one that was written while versions were not kept.
    Null,
    /// That one.
    Id(Stamp),
}

impl fmt::Display for VersionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VersionRef::Null => f.write_str("null"),
            VersionRef::Id(stamp) => stamp.fmt(f),
        }
    }
}

impl FromStr for VersionRef {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text == "null" { Ok(VersionRef::Null) } else { text.parse().map(VersionRef::Id) }
    }
}

/// One writing of a body: drawn, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WriteId(#[serde(with = "serde_bytes")] pub [u8; 12]);

/// A chunk: the partition of the placement table that it is in, which writing made it, and which of its chunks it is. Never a hash of
/// what is in it, so that what is condemned can never be needed again; and nobody can be told a wrong partition of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChunkId(#[serde(with = "serde_bytes")] pub [u8; 16]);

impl ChunkId {
    /// The chunk `number` of `write`, in `partition`.
    pub fn new(partition: u16, write: WriteId, number: u16) -> Self {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&partition.to_be_bytes());
        bytes[2..14].copy_from_slice(&write.0);
        bytes[14..].copy_from_slice(&number.to_be_bytes());
        Self(bytes)
    }

    /// Where it is.
    pub fn partition(self) -> u16 {
        u16::from_be_bytes([self.0[0], self.0[1]])
    }

    /// Which writing made it.
    pub fn write(self) -> WriteId {
        let mut bytes = [0; 12];
        bytes.copy_from_slice(&self.0[2..14]);
        WriteId(bytes)
    }

    /// Which of its chunks it is.
    pub fn number(self) -> u16 {
        u16::from_be_bytes([self.0[14], self.0[15]])
    }

    /// What a shard of it is called on disks: no two pieces of other content may share a name there. A copy is the shard 0.
    ///
    /// # Panics
    /// When it has more than [`SHARDS_MAX`] shards or a higher number than a body has chunks.
    pub fn on_disk(self, shard: u8) -> chunk::ChunkId {
        assert!(shard < SHARDS_MAX && self.number() >> NUMBER_BITS == 0, "shard {shard} of {self}");
        let mut bytes = self.0;
        bytes[14..].copy_from_slice(&(self.number() | u16::from(shard) << NUMBER_BITS).to_be_bytes());
        chunk::ChunkId(bytes)
    }

    /// Which chunk, and which shard of it, something on a disk is.
    pub fn from_disk(found: chunk::ChunkId) -> (Self, u8) {
        let last = u16::from_be_bytes([found.0[14], found.0[15]]);
        let mut bytes = found.0;
        bytes[14..].copy_from_slice(&(last & ((1 << NUMBER_BITS) - 1)).to_be_bytes());
        (Self(bytes), (last >> NUMBER_BITS) as u8)
    }
}

/// Bits of the number of a chunk that count the chunks of one writing ([`super::limits::CHUNKS_MAX`]); above them, on disks, is the shard.
const NUMBER_BITS: u32 = 11;
/// Shards of a chunk, at most.
pub const SHARDS_MAX: u8 = 32;

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_named_as_a_host_may_be() {
        let long = "a".repeat(63);
        for good in ["abc", "my.bucket-1", "1st", "1.2.3", &long] {
            assert!(BucketName::new(good).is_ok(), "{good}");
        }
        let longer = "a".repeat(64);
        for bad in
            ["", "ab", "Abc", "a_b", "-ab", "ab-", ".ab", "a..b", "a.-b", "a-.b", "10.0.0.1", "ab/", "ä.b", &longer]
        {
            assert!(BucketName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_is_anything_of_at_most_1024_bytes() {
        assert!(ObjectKey::new("\0 ☃\u{10ffff}").is_ok());
        assert!(ObjectKey::new("").is_err() && ObjectKey::new("ä".repeat(513)).is_err());
        assert!(ObjectKey::new("ä".repeat(512)).is_ok());
    }

    #[test]
    fn a_stamp_is_text_and_back_and_keeps_its_order() {
        let stamps =
            [(0, 0), (1, 9), (1, u64::MAX), (2, 0), (u64::MAX, 5)].map(|(number, salt)| Stamp { number, salt });
        let texts = stamps.map(|stamp| stamp.to_string());
        assert!(texts.is_sorted() && texts.iter().all(|text| text.len() == 26));
        for (stamp, text) in stamps.iter().zip(&texts) {
            assert_eq!(text.parse(), Ok(*stamp));
            assert_eq!(text.parse(), Ok(VersionRef::Id(*stamp)));
        }
        for bad in ["", "null", "0", &texts[2].to_uppercase(), &texts[1][1..], "ä"] {
            assert!(bad.parse::<Stamp>().is_err(), "{bad}");
        }
        assert_eq!("null".parse(), Ok(VersionRef::Null));
    }

    #[test]
    fn a_chunk_says_where_it_is_and_which_writing_made_it() {
        let write = WriteId([7; 12]);
        let chunk = ChunkId::new(258, write, 3);
        assert_eq!((chunk.partition(), chunk.write(), chunk.number()), (258, write, 3));
        for shard in [0, 5, 31] {
            let on_disk = chunk.on_disk(shard);
            assert_eq!(ChunkId::from_disk(on_disk), (chunk, shard));
            assert_eq!(on_disk == chunk::ChunkId(chunk.0), shard == 0);
        }
        assert!(chunk < ChunkId::new(258, write, 256) && chunk < ChunkId::new(259, WriteId([0; 12]), 0));
    }
}

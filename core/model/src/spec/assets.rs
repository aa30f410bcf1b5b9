//! A route that leads to objects: `to = "bucket:media"`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest name of a bucket, as S3 has it.
pub const BUCKET_BYTES_MAX: usize = 63;
/// Longest name of an index: what has room behind a path that is a key.
pub const INDEX_BYTES_MAX: usize = 255;

/// The objects of a bucket, as they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assets {
    /// Which bucket, by the name that clients of S3 know it by.
    pub bucket: String,
    /// What is added to a path that ends with a slash; such a path is nothing where nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
}

impl Assets {
    /// Whether a bucket can have this name.
    pub fn is_bucket(name: &str) -> bool {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let ends = [name.bytes().next(), name.bytes().next_back()];
        (3..=BUCKET_BYTES_MAX).contains(&name.len())
            && name.bytes().all(|b| inner(b) || b == b'-' || b == b'.')
            && ends.into_iter().flatten().all(inner)
    }

    /// Whether this can be added to a path.
    pub fn is_index(name: &str) -> bool {
        (1..=INDEX_BYTES_MAX).contains(&name.len()) && !name.contains('/') && !name.chars().any(char::is_control)
    }
}

impl fmt::Display for Assets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bucket:{}", self.bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_s3_takes() {
        for name in ["abc", "media", "my-media.2", "a".repeat(63).as_str()] {
            assert!(Assets::is_bucket(name), "{name}");
        }
        for name in ["", "ab", "Media", "-media", "media-", ".media", "me_dia", "me/dia", "a".repeat(64).as_str()] {
            assert!(!Assets::is_bucket(name), "{name}");
        }
        assert!(Assets::is_index("index.html"));
        for name in ["", "a/b", "a\n", "x".repeat(256).as_str()] {
            assert!(!Assets::is_index(name), "{name}");
        }
    }
}

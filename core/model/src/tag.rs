//! Which foundation of a cluster this is: where a majority was lost for good, or a backup was restored, a new one begins.
//!
//! Two foundations of one cluster share its id, its authority and its past, and nothing after it. Everything that could be taken for
//! that of the other one says its tag: messages of Raft, join tokens, answers to people.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Letters and digits of a word: 40 bits, so that two operators who recover two halves never draw the same one.
pub const WORD_CHARS: usize = 8;
/// Longest text of a tag, the number of an epoch included.
pub const TAG_BYTES_MAX: usize = 20 + 1 + WORD_CHARS;

/// A foundation. The first one of a cluster, [`Tag::default`], has epoch 0 and no word.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag {
    /// Counts the foundations of one line.
    pub epoch: u64,
    /// Drawn for it.
    pub word: String,
}

/// A text that is no tag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no tag: expected 0, or EPOCH-WORD")]
pub struct TagError(String);

impl Tag {
    /// Whether this is the first foundation.
    pub fn is_first(&self) -> bool {
        self.epoch == 0
    }

    /// The foundation after this one, with a word drawn from `number`.
    #[must_use]
    pub fn next(&self, number: u64) -> Tag {
        const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let letter = |place: usize| char::from(ALPHABET[(number >> (5 * place)) as usize % 32]);
        Tag { epoch: self.epoch.saturating_add(1), word: (0..WORD_CHARS).map(letter).collect() }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_first() {
            true => f.pad("0"),
            false => f.pad(&format!("{}-{}", self.epoch, self.word)),
        }
    }
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Tag, TagError> {
        if text == "0" {
            return Ok(Tag::default());
        }
        let wrong = || TagError(text.chars().take(TAG_BYTES_MAX).collect());
        let (epoch, word) = text.split_once('-').ok_or_else(wrong)?;
        let epoch: u64 = epoch.parse().map_err(|_| wrong())?;
        let plain = word.len() == WORD_CHARS && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let tag = Tag { epoch, word: word.into() };
        // One tag, one spelling.
        (plain && epoch > 0 && tag.to_string() == text).then_some(tag).ok_or_else(wrong)
    }
}

impl TryFrom<String> for Tag {
    type Error = TagError;
    fn try_from(text: String) -> Result<Tag, TagError> {
        text.parse()
    }
}

impl From<Tag> for String {
    fn from(tag: Tag) -> String {
        tag.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_read_as_it_is_written_and_nothing_else_is_one() {
        let tag = Tag::default().next(0x1234_5678_9abc);
        assert_eq!((tag.epoch, tag.word.len()), (1, WORD_CHARS));
        assert_eq!(tag.to_string().parse(), Ok(tag.clone()));
        assert_eq!("0".parse(), Ok(Tag::default()));
        assert!(tag.next(7) > tag && tag.next(7) != tag.next(8));
        for text in ["", "1", "1-", "0-abcdefgh", "01-abcdefgh", "1-ABCDEFGH", "1-abcdefghi", "x-abcdefgh"] {
            assert!(text.parse::<Tag>().is_err(), "{text}");
        }
    }
}

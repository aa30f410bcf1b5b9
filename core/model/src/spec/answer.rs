//! What becomes of the answers of a route: how they are encoded, and which pages stand for errors.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::is_default;

/// A way to write a body in fewer bytes (RFC 9110, section 8.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// RFC 1952.
    Gzip,
    /// Brotli, RFC 7932.
    Br,
    /// RFC 8878.
    Zstd,
}

impl Encoding {
    /// Its name in header fields.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::Gzip => "gzip",
            Encoding::Br => "br",
            Encoding::Zstd => "zstd",
        }
    }
}

/// Which answers go out encoded to clients that understand it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compress {
    /// What is offered: of those that a client likes equally the first.
    pub encodings: Vec<Encoding>,
    /// Types like `text/html` or `text/*`, in lower case; none stands for those of text.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub types: BTreeSet<String>,
    /// A body with fewer bytes goes out as it is.
    pub bytes_min: u64,
}

/// One status, or a hundred of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Statuses {
    /// `404`.
    One(u16),
    /// `4xx` or `5xx`, by its first digit: for what no page of its own is there.
    Class(u16),
}

impl FromStr for Statuses {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "4xx" => return Ok(Self::Class(4)),
            "5xx" => return Ok(Self::Class(5)),
            _ => {}
        }
        let status = text.parse().ok().filter(|status| (400..=599).contains(status) && text.len() == 3);
        status.map(Self::One).ok_or_else(|| format!("{text:?} is no status of an error: 404, 4xx, 503, 5xx"))
    }
}

impl TryFrom<String> for Statuses {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Statuses> for String {
    fn from(statuses: Statuses) -> String {
        statuses.to_string()
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(status) => write!(f, "{status}"),
            Self::Class(digit) => write!(f, "{digit}xx"),
        }
    }
}

/// What a client is shown instead of an error in plain words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorPage {
    /// Text.
    pub body: String,
    /// What that is, as in `Content-Type`.
    pub content_type: String,
    /// Whether it also takes the place of what programs answer with this status.
    #[serde(default, skip_serializing_if = "is_default")]
    pub programs: bool,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::codec::{decode, encode};

    #[test]
    fn statuses_are_read_as_they_are_written() {
        for text in ["400", "404", "599", "4xx", "5xx"] {
            let statuses: Statuses = text.parse().unwrap();
            assert_eq!(statuses.to_string(), text);
            let keyed = BTreeMap::from([(statuses, 1)]);
            assert_eq!(decode::<BTreeMap<Statuses, u8>>(&encode(&keyed)).unwrap(), keyed);
        }
        for text in ["", "200", "399", "600", "3xx", "5XX", "+404", "0404", "404 ", "x"] {
            assert!(text.parse::<Statuses>().is_err(), "{text}");
        }
    }
}

//! Tokens: one word that carries all a newcomer needs to know of a cluster, and a secret.
//!
//! A double click selects the word, its case does not matter, and a checksum tells a mistyped or cut one from a wrong one.
//!
//! `hirsel` + base32 of: version (1) · id (5) · secret (20) · fingerprint of the authority's certificate (32) · checksum (4)

use std::fmt;
use std::str::FromStr;

use data_encoding::{Encoding, Specification};

use super::{fingerprint, sha256};
use crate::seam::Chance;

pub(super) const PREFIX: &str = "hirsel";
const VERSION: u8 = 1;
const ID_BYTES: usize = 5;
/// 160 bits: nobody guesses it, however long the token is good.
const SECRET_BYTES: usize = 20;
const FINGERPRINT_BYTES: usize = 32;
const CHECK_BYTES: usize = 4;
const BYTES: usize = 1 + ID_BYTES + SECRET_BYTES + FINGERPRINT_BYTES + CHECK_BYTES;
/// Length of a token as text.
pub(super) const CHARS: usize = PREFIX.len() + (BYTES * 8).div_ceil(5);
/// Nothing longer is looked at.
const TEXT_BYTES_MAX: usize = 4 * CHARS;

/// A token: for a node to join with, or for a person to log in with.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Public part, by which it is listed and revoked.
    pub id: String,
    /// Secret part. The cluster keeps only its hash.
    pub secret: String,
    /// SHA-256 of the certificate of the cluster's authority: whom to trust.
    pub ca_fingerprint: [u8; 32],
}

/// A text that is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not look like one at all.
    #[error(
        "this is no token: a token is one word of {CHARS} letters and digits and begins with {PREFIX:?}; try on a member: hirsel token new"
    )]
    NotOne,
    /// Cut off, or something was added.
    #[error("the token has {0} characters instead of {CHARS}: copy it whole")]
    Length(usize),
    /// Mistyped.
    #[error("the token is damaged (its checksum is wrong): copy it again")]
    Checksum,
    /// Made by another version.
    #[error("the token is of format {0}, this hirsel knows format {VERSION}: upgrade the older of the two")]
    Version(u8),
}

impl JoinToken {
    /// A fresh token of the cluster whose authority has the certificate `ca`.
    pub fn create(chance: &dyn Chance, ca: &[u8]) -> JoinToken {
        let mut bytes = [0; ID_BYTES + SECRET_BYTES];
        chance.fill(&mut bytes);
        let (id, secret) = bytes.split_at(ID_BYTES);
        JoinToken { id: base32().encode(id), secret: base32().encode(secret), ca_fingerprint: fingerprint(ca) }
    }

    /// What the cluster keeps of the secret: SHA-256.
    pub fn secret_hash(&self) -> Vec<u8> {
        sha256(&[self.secret.as_bytes()]).to_vec()
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |text: &str| base32().decode(text.as_bytes()).unwrap_or_default();
        let mut bytes = vec![VERSION];
        bytes.extend(part(&self.id));
        bytes.extend(part(&self.secret));
        bytes.extend(self.ca_fingerprint);
        bytes.extend(checksum(&bytes));
        write!(f, "{PREFIX}{}", base32().encode(&bytes))
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<JoinToken, TokenError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(TokenError::NotOne);
        }
        // White space comes from files and terminals that break lines.
        let word: String = text.split_whitespace().collect::<String>().to_ascii_lowercase();
        let body = word.strip_prefix(PREFIX).ok_or(TokenError::NotOne)?;
        if !word.is_ascii() {
            return Err(TokenError::NotOne);
        }
        if word.len() != CHARS {
            return Err(TokenError::Length(word.len()));
        }
        let bytes = base32().decode(body.as_bytes()).map_err(|_| TokenError::Checksum)?;
        let (content, check) = bytes.split_last_chunk::<CHECK_BYTES>().ok_or(TokenError::Checksum)?;
        if checksum(content) != *check {
            return Err(TokenError::Checksum);
        }
        if content[0] != VERSION {
            return Err(TokenError::Version(content[0]));
        }
        let (id, rest) = content[1..].split_at(ID_BYTES);
        let (secret, ca) = rest.split_at(SECRET_BYTES);
        let ca_fingerprint = ca.try_into().map_err(|_| TokenError::Checksum)?;
        Ok(JoinToken { id: base32().encode(id), secret: base32().encode(secret), ca_fingerprint })
    }
}

/// Never shows the secret.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("id", &self.id).finish_non_exhaustive()
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let hash = sha256(&[b"hirsel token", bytes]);
    [hash[0], hash[1], hash[2], hash[3]]
}

/// Lower case, without the letters and digits that look alike (Crockford's alphabet).
pub(crate) fn base32() -> Encoding {
    let mut specification = Specification::new();
    specification.symbols.push_str("0123456789abcdefghjkmnpqrstvwxyz");
    specification.translate.from.push_str("oil");
    specification.translate.to.push_str("011");
    specification.encoding().expect("an alphabet of 32 different characters")
}

//! Hashes of passwords as text: `$pbkdf2-sha256$i=600000$SALT$HASH`, salt and hash in base64 without padding.
//!
//! That is the PHC string format; the form that passlib writes (`$pbkdf2-sha256$600000$…`, with `.` for `+`) is read as well. Nothing
//! is computed here.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use data_encoding::BASE64_NOPAD;

/// How a hash begins. What begins otherwise is none.
pub const MARK: &str = "$pbkdf2-sha256$";
/// Bytes of a hash: those of SHA-256.
pub const HASH_BYTES: usize = 32;
/// Fewer rounds are guessed through in no time.
const ROUNDS_MIN: u32 = 1_000;
/// More rounds take seconds for each password that is tried.
const ROUNDS_MAX: u32 = 5_000_000;
/// Longest salt in bytes.
const SALT_BYTES_MAX: usize = 64;

/// A hash, and how it was made.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    /// How often.
    pub rounds: NonZeroU32,
    /// With what.
    pub salt: Vec<u8>,
    /// What came out.
    pub hash: [u8; HASH_BYTES],
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PasswordHash({} rounds)", self.rounds)
    }
}

impl FromStr for PasswordHash {
    type Err = String;

    /// Never repeats the text.
    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix(MARK).ok_or_else(|| format!("a hash begins with {MARK}"))?;
        let parts: Vec<&str> = rest.split('$').collect();
        let [parameters, salt, hash] = parts[..] else {
            return Err(format!("a hash is written {MARK}i=ROUNDS$SALT$HASH"));
        };
        let mut rounds = None;
        for parameter in parameters.split(',') {
            match parameter.split_once('=') {
                None => rounds = parameter.parse().ok(),
                Some(("i", number)) => rounds = number.parse().ok(),
                Some(("l", length)) if length.parse() == Ok(HASH_BYTES) => {}
                Some(_) => return Err("a hash has the parameters i (rounds) and l = 32".into()),
            }
        }
        let rounds = rounds.filter(|rounds| (ROUNDS_MIN..=ROUNDS_MAX).contains(rounds));
        let rounds = rounds.and_then(NonZeroU32::new);
        let rounds = rounds.ok_or_else(|| format!("a hash has between {ROUNDS_MIN} and {ROUNDS_MAX} rounds"))?;
        let decode = |text: &str| BASE64_NOPAD.decode(text.replace('.', "+").trim_end_matches('=').as_bytes());
        let salt = decode(salt).map_err(|_| "the salt of a hash is base64")?;
        let hash = decode(hash).map_err(|_| "a hash is base64")?;
        if salt.is_empty() || salt.len() > SALT_BYTES_MAX {
            return Err(format!("the salt of a hash has 1 to {SALT_BYTES_MAX} bytes"));
        }
        let hash = hash.try_into().map_err(|_| format!("a hash of SHA-256 has {HASH_BYTES} bytes"))?;
        Ok(Self { rounds, salt, hash })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HASH: &str = "CLLgVqCPzOVj/hJ5VdfJYR+yG0JRsgcHxbWkN6ZzvKc";

    #[test]
    fn both_forms_are_read() {
        let phc: PasswordHash = format!("{MARK}i=600000,l=32$c2FsdA${HASH}").parse().unwrap();
        let passlib: PasswordHash = format!("{MARK}600000$c2FsdA${}", HASH.replace('+', ".")).parse().unwrap();
        assert_eq!(phc, passlib);
        assert_eq!((phc.rounds.get(), &phc.salt[..]), (600_000, &b"salt"[..]));
        assert_eq!(format!("{phc:?}"), "PasswordHash(600000 rounds)");
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        for text in [
            "",
            "secret",
            "$2y$05$abc",
            "$pbkdf2-sha256$",
            "$pbkdf2-sha256$i=1$c2FsdA$AAAA",
            "$pbkdf2-sha256$i=600000$c2FsdA$AAAA",
            "$pbkdf2-sha256$i=600000$$AAAA",
            "$pbkdf2-sha256$i=600000$!$AAAA",
            "$pbkdf2-sha256$i=99999999999$c2FsdA$AAAA",
        ] {
            assert!(text.parse::<PasswordHash>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(\\$pbkdf2-sha256\\$)?[i=l,0-9a-zA-Z+/.$]{0,60}") {
            let _ = text.parse::<PasswordHash>();
        }
    }
}

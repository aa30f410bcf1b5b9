//! Continuation tokens of listings: where the next page begins, as text that clients give back as it is.

use data_encoding::BASE64URL_NOPAD;

use super::limits::KEY_BYTES_MAX;
use super::names::NameError;

/// The form that is written: a token of another one is refused, not misread.
const FORM: u8 = 1;

/// The token of the page after this key or common prefix.
pub fn encode(after: &str) -> String {
    BASE64URL_NOPAD.encode(&[&[FORM], after.as_bytes()].concat())
}

/// What [`encode`] was given.
///
/// # Errors
/// When it is no token of ours: S3 calls that an invalid argument.
pub fn decode(token: &str) -> Result<String, NameError> {
    let wrong = || NameError("the continuation token is not one that was given".into());
    // A third more than what it holds.
    if token.len() > 2 * KEY_BYTES_MAX {
        return Err(wrong());
    }
    let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).map_err(|_| wrong())?;
    let (FORM, after) = bytes.split_first().map(|(form, after)| (*form, after)).ok_or_else(wrong)? else {
        return Err(wrong());
    };
    match after.len() {
        0 => Err(wrong()),
        bytes if bytes > KEY_BYTES_MAX => Err(wrong()),
        _ => String::from_utf8(after.to_vec()).map_err(|_| wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_it_was_and_nothing_else_is_one() {
        let longest = "ä".repeat(KEY_BYTES_MAX / 2);
        for after in ["a", "photos/", "\0", "☃", longest.as_str()] {
            assert_eq!(decode(&encode(after)).as_deref(), Ok(after));
        }
        let longer = encode(&"a".repeat(KEY_BYTES_MAX + 1));
        for bad in ["", "!", "AQ", "Ag8", "AWE=", "Af8", &longer, &"A".repeat(1 << 16)] {
            assert!(decode(bad).is_err(), "{bad:.20}");
        }
    }
}

//! Regular expressions over paths: how they are built, so that whoever reads a manifest and whoever answers requests agree.
//!
//! They take time in proportion to the path, whatever the expression (crate `regex`), and are bounded in size. Bytes are matched, not
//! characters: paths are ASCII.
//!
//! A command that is applied never builds one: replicas of two builds might disagree about what is right.

use regex::bytes::{Regex, RegexBuilder};

/// Bytes of a built expression: those in use have a few thousand, and a cluster may have thousands of routes.
pub const BUILT_BYTES_MAX: usize = 256 << 10;
/// Bytes of what is remembered of paths seen while matching.
const CACHE_BYTES_MAX: usize = 256 << 10;
/// How deep groups nest: what people write has three or four.
const DEPTH_MAX: u32 = 32;

/// Builds an expression.
///
/// # Errors
/// In words, on one line.
pub fn build(text: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(text)
        .unicode(false)
        .size_limit(BUILT_BYTES_MAX)
        .dfa_size_limit(CACHE_BYTES_MAX)
        .nest_limit(DEPTH_MAX)
        .build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(limit) => format!("the expression needs more than {limit} bytes"),
        // Several lines with a picture; the last one says it.
        other => {
            let words = other.to_string();
            let last = words.lines().last().unwrap_or_default();
            format!("no regular expression: {}", last.trim_start_matches("error: "))
        }
    })
}

/// Whether [`build`] would succeed.
///
/// # Errors
/// Those of [`build`].
pub fn check(text: &str) -> Result<(), String> {
    build(text).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_an_expression_is_told_on_one_line() {
        assert_eq!(check(r"^/img/\d+\.(png|jpe?g)$"), Ok(()));
        let why = check("^/a(").unwrap_err();
        assert!(why.starts_with("no regular expression: unclosed group"), "{why}");
        let why = check(&format!("{}a{}", "(".repeat(40), ")".repeat(40))).unwrap_err();
        assert!(!why.contains('\n') && why.contains("nest"), "{why}");
        assert!(check("(a{1000}){1000}").unwrap_err().contains("bytes"));
    }

    #[test]
    fn a_hostile_expression_is_linear() {
        let regex = build(r"^(a+)+$").unwrap();
        assert!(!regex.is_match(format!("{}b", "a".repeat(50_000)).as_bytes()));
    }
}

//! How else a path may be read.
//!
//! Routes are matched against the path as it was sent, byte for byte, and it is passed on as it was sent. But programs read paths in
//! their own ways: some decode `%61`, or `%2f`, some take `//` for `/`, most resolve `..`, some cut off what follows a `;`. So that
//! no spelling leads around a rule, a path that may be read differently is routed only if every reading leads to the same route
//! (see [`crate::ways::Ways::find`]).
//!
//! Not looked at: case (`/Admin`), which belongs to the path (RFC 3986, section 6.2.2.1).

use std::collections::BTreeSet;

/// Longest path that is read in other ways: as long as the longest path of a route. A longer one with such spellings is refused.
pub const SPELLED_BYTES_MAX: usize = 4096;

/// How often a path is decoded: some programs stand behind others that decode too.
const DECODED_TIMES_MAX: usize = 2;

/// Whether `path` can be read in one way only. Costs a look at each byte.
pub fn is_plain(path: &str) -> bool {
    let mut last = 0;
    for &byte in path.as_bytes() {
        match byte {
            b'%' | b'\\' | b';' => return false,
            b'/' | b'.' if last == b'/' => return false,
            _ => last = byte,
        }
    }
    true
}

/// All readings of `path` that differ from it, each once.
pub fn readings(path: &str) -> BTreeSet<Vec<u8>> {
    let mut all = unresolved(path.as_bytes());
    let resolved: Vec<Vec<u8>> = all.iter().map(|path| resolve_dots(path)).collect();
    all.extend(resolved);
    all.remove(path.as_bytes());
    all
}

/// Whether any reading of `path` has a step upwards (`..`).
pub fn climbs(path: &str) -> bool {
    let climbs = |path: &Vec<u8>| path.split(|byte| *byte == b'/').any(|segment| segment == b"..");
    !is_plain(path) && (path.len() > SPELLED_BYTES_MAX || unresolved(path.as_bytes()).iter().any(climbs))
}

/// All readings of a path, itself among them, with their dots.
fn unresolved(raw: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut decoded = BTreeSet::from([raw.to_vec()]);
    let mut slashes_kept = raw.to_vec();
    let mut whole = raw.to_vec();
    for _ in 0..DECODED_TIMES_MAX {
        slashes_kept = decode(&slashes_kept, |byte| !matches!(byte, b'/' | b'\\'));
        whole = decode(&whole, |_| true);
        decoded.insert(slashes_kept.clone());
        decoded.insert(whole.clone());
    }
    let mut all = decoded;
    for way in [turn_backslashes, without_parameters, merge_slashes] {
        let more: Vec<Vec<u8>> = all.iter().map(|path| way(path)).collect();
        all.extend(more);
    }
    all
}

/// Decodes `%XX` (RFC 3986, section 2.1) where `wanted` takes the byte that it stands for.
pub fn decode(path: &[u8], wanted: impl Fn(u8) -> bool) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        let hex = |at: usize| after.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        let stands_for = match (byte, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => u8::try_from(high * 16 + low).ok().filter(|byte| wanted(*byte)),
            _ => None,
        };
        match stands_for {
            Some(meant) => {
                decoded.push(meant);
                rest = &after[2..];
            }
            None => {
                decoded.push(byte);
                rest = after;
            }
        }
    }
    decoded
}

fn turn_backslashes(path: &[u8]) -> Vec<u8> {
    path.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect()
}

/// Cuts what follows a `;` off each segment (RFC 3986, section 3.3).
fn without_parameters(path: &[u8]) -> Vec<u8> {
    let mut bare = Vec::with_capacity(path.len());
    let mut cutting = false;
    for &byte in path {
        cutting = byte != b'/' && (cutting || byte == b';');
        if !cutting {
            bare.push(byte);
        }
    }
    bare
}

fn merge_slashes(path: &[u8]) -> Vec<u8> {
    let mut merged = Vec::with_capacity(path.len());
    for &byte in path {
        if byte != b'/' || merged.last() != Some(&b'/') {
            merged.push(byte);
        }
    }
    merged
}

/// Resolves `.` and `..` (RFC 3986, section 5.2.4); what leads above the root stays at it.
fn resolve_dots(path: &[u8]) -> Vec<u8> {
    let Some(inner) = path.strip_prefix(b"/") else { return path.to_vec() };
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut parts = inner.split(|byte| *byte == b'/').peekable();
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        match part {
            b"." | b".." => {
                if part == b".." {
                    segments.pop();
                }
                // `/a/..` is the folder itself, as `/a/../` is.
                if is_last {
                    segments.push(b"");
                }
            }
            part => segments.push(part),
        }
    }
    let mut resolved = vec![b'/'];
    resolved.extend(segments.join(&b'/'));
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reads(path: &str, as_what: &str) -> bool {
        readings(path).contains(as_what.as_bytes())
    }

    #[test]
    fn most_paths_can_be_read_in_one_way() {
        for path in ["/", "/api/v1", "/a.b/c..d/", "*", "/a-b_c~d!$&'()+,=:@", ""] {
            assert!(is_plain(path), "{path}");
            assert!(readings(path).is_empty(), "{path}: {:?}", readings(path));
        }
        // Looked at more closely, and found to be plain.
        assert!(!is_plain("/.well-known/x") && readings("/.well-known/x").is_empty());
    }

    #[test]
    fn every_spelling_of_a_path_is_read() {
        for path in [
            "/%61dmin",
            "//admin",
            "/./admin",
            "/static/../admin",
            "/static/%2e%2e/admin",
            "/static/%2E./admin",
            "/static/..%2fadmin",
            "/static%2f..%2fadmin",
            "/static/..%5cadmin",
            "/static\\..\\admin",
            "/static/..;/admin",
            "/static/..;x=1/admin",
            "/admin;x=1",
            "/a//../admin",
            "/a//../../admin",
            "/%2561dmin",
            "/static/%252e%252e%252fadmin",
            "/../../admin",
            "/x/..//admin",
            "/%2fadmin",
        ] {
            assert!(!is_plain(path) && reads(path, "/admin"), "{path}: {:?}", readings(path));
        }
        assert!(reads("/a/..", "/") && reads("/a/b/.", "/a/b/") && readings("/%").is_empty());
    }

    #[test]
    fn a_step_upwards_is_seen_in_every_spelling() {
        for path in [
            "/..",
            "/a/../b",
            "/a/%2e%2e/b",
            "/a/%252e.%252fb",
            "/a/..;x/b",
            "/a\\..\\b",
            "/a%2f..%5cb",
            "/a/.%2e",
            &format!("/;{}", "a".repeat(SPELLED_BYTES_MAX)),
        ] {
            assert!(climbs(path), "{path}");
        }
        for path in ["/", "/a..b/..c/d..", "/.well-known/x", "/a%2fb", "/a;x=..", "/%41", "//a/./b"] {
            assert!(!climbs(path), "{path}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_and_plain_paths_have_no_other_reading(path in "[/.;%\\\\2fe5c61a-c]{0,40}") {
            let path = format!("/{path}");
            let other = readings(&path);
            prop_assert!(!is_plain(&path) || other.is_empty());
            prop_assert!(other.len() <= 80);
        }

        #[test]
        fn a_path_spelled_in_other_ways_is_read_as_itself(
            segments in prop::collection::vec("[a-z]{1,5}", 1..5),
            ways in prop::collection::vec((0..8u8, any::<prop::sample::Index>()), 1..4),
        ) {
            let plain = format!("/{}", segments.join("/"));
            let mut spelled = plain.clone();
            for (way, at) in ways {
                let slashes: Vec<usize> = spelled.match_indices('/').map(|(at, _)| at).collect();
                let slash = slashes[at.index(slashes.len())];
                match way {
                    0 => spelled.insert(slash, '/'),
                    1 => spelled.insert_str(slash, "/."),
                    2 => spelled.insert_str(slash, "/x/.."),
                    3 => spelled.insert_str(slash, "/%2e"),
                    _ => {
                        let letters: Vec<usize> = spelled
                            .char_indices()
                            .filter(|(at, c)| c.is_ascii_lowercase() && !spelled[..*at].ends_with(['%', '2']))
                            .map(|(at, _)| at)
                            .collect();
                        if letters.is_empty() {
                            continue;
                        }
                        let letter = letters[at.index(letters.len())];
                        let hex = format!("%{:02x}", spelled.as_bytes()[letter]);
                        spelled.replace_range(letter..=letter, &hex);
                    }
                }
            }
            prop_assert!(spelled == plain || reads(&spelled, &plain), "{spelled}");
        }
    }
}

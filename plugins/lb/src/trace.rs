//! Traces as they pass from program to program (W3C Trace Context, levels 1 and 2): what a client says of one is read strictly, and what
//! is told on is written anew.
//!
//! Pure. A `traceparent` that is no such thing counts as none, and its `tracestate` with it; of a `tracestate` that is none, nothing is told on.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The field that names the trace and whoever asks within it.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The field in which tracing systems leave each other words.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// `00-`, 32 digits of the trace, `-`, 16 of the parent, `-`, two of flags.
pub const PARENT_BYTES: usize = 55;
/// Digits of a trace.
pub const TRACE_DIGITS: usize = 32;
/// Digits of a parent.
pub const SPAN_DIGITS: usize = 16;

/// Marks a trace that is written down.
pub const SAMPLED: u8 = 1;
/// Flags that are known: sampled, and (level 2) that the trace was drawn at random. Others are told on as zero (section 3.2.2.5).
const FLAGS_KNOWN: u8 = 0b11;
/// Most members of a `tracestate` (section 3.3.1.1).
const MEMBERS_MAX: usize = 32;
/// Longest key and value of a member.
const MEMBER_BYTES_MAX: usize = 256;
/// Longest key of a system within a tenant.
const SYSTEM_BYTES_MAX: usize = 14;
/// Longest key of a tenant.
const TENANT_BYTES_MAX: usize = 241;

/// A trace as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Came {
    /// Which trace, in lower case.
    pub trace: [u8; TRACE_DIGITS],
    /// Who asked within it.
    pub parent: [u8; SPAN_DIGITS],
    /// The flags that are known.
    pub flags: u8,
}

/// The trace that `headers` come with, if they come with one.
pub fn came(headers: &HeaderMap) -> Option<Came> {
    let mut lines = headers.get_all(TRACEPARENT).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => read(line.as_bytes()),
        // Two of them could be read in two ways.
        _ => None,
    }
}

/// Reads the value of a `traceparent` (section 3.2).
fn read(text: &[u8]) -> Option<Came> {
    let (known, rest) = text.split_at_checked(PARENT_BYTES)?;
    let digits = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let (version, trace, parent, flags) = (&known[..2], &known[3..35], &known[36..52], &known[53..]);
    let dashed = known[2] == b'-' && known[35] == b'-' && known[52] == b'-';
    if !dashed || ![version, trace, parent, flags].into_iter().all(digits) || version == b"ff" {
        return None;
    }
    // A later version may say more, after a dash.
    if !rest.is_empty() && (version == b"00" || rest[0] != b'-') {
        return None;
    }
    let (trace, parent) = (trace.try_into().ok()?, parent.try_into().ok()?);
    if trace == [b'0'; TRACE_DIGITS] || parent == [b'0'; SPAN_DIGITS] {
        return None;
    }
    Some(Came { trace, parent, flags: (digit(flags[0]) << 4 | digit(flags[1])) & FLAGS_KNOWN })
}

/// The value of a digit that was looked at before.
fn digit(byte: u8) -> u8 {
    if byte.is_ascii_digit() { byte - b'0' } else { byte - b'a' + 10 }
}

/// Writes a `traceparent`.
pub fn write(trace: &[u8; TRACE_DIGITS], span: &[u8; SPAN_DIGITS], flags: u8) -> [u8; PARENT_BYTES] {
    let mut out = *b"00-................................-................-..";
    out[3..35].copy_from_slice(trace);
    out[36..52].copy_from_slice(span);
    hex(&[flags], &mut out[53..]);
    out
}

/// Writes `bytes` in digits.
pub fn hex(bytes: &[u8], out: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(out.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

/// Whether the lines of `tracestate` in `headers` make a list of members (section 3.3.1).
pub fn is_state(headers: &HeaderMap) -> bool {
    let mut keys: [&[u8]; MEMBERS_MAX] = [b""; MEMBERS_MAX];
    let mut count = 0;
    for member in headers.get_all(TRACESTATE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b',')) {
        let member = member.trim_ascii();
        if member.is_empty() {
            continue;
        }
        let Some(at) = member.iter().position(|byte| *byte == b'=') else { return false };
        let (key, value) = (&member[..at], &member[at + 1..]);
        if count == MEMBERS_MAX || !is_key(key) || !is_value(value) || keys[..count].contains(&key) {
            return false;
        }
        keys[count] = key;
        count += 1;
    }
    count > 0
}

/// `name`, or `tenant@system`.
fn is_key(key: &[u8]) -> bool {
    let letter = |byte: &u8| byte.is_ascii_lowercase();
    let begins = |byte: &u8| letter(byte) || byte.is_ascii_digit();
    let goes_on = |part: &[u8]| part.iter().all(|byte| begins(byte) || b"_-*/".contains(byte));
    match key.iter().position(|byte| *byte == b'@') {
        None => key.len() <= MEMBER_BYTES_MAX && key.first().is_some_and(letter) && goes_on(key),
        Some(at) => {
            let (tenant, system) = (&key[..at], &key[at + 1..]);
            let sized = tenant.len() <= TENANT_BYTES_MAX && system.len() <= SYSTEM_BYTES_MAX;
            let begun = tenant.first().is_some_and(begins) && system.first().is_some_and(letter);
            sized && begun && goes_on(tenant) && goes_on(system)
        }
    }
}

fn is_value(value: &[u8]) -> bool {
    let good = |byte: &u8| matches!(byte, b' '..=b'~') && !b",=".contains(byte);
    (1..=MEMBER_BYTES_MAX).contains(&value.len()) && value.iter().all(good)
}

/// Puts the trace that is told on in place of what came.
pub fn tell(headers: &mut HeaderMap, parent: HeaderValue, continues: bool) {
    headers.insert(TRACEPARENT, parent);
    if headers.contains_key(TRACESTATE) && !(continues && is_state(headers)) {
        headers.remove(TRACESTATE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn with(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_example_of_the_recommendation_is_read() {
        let came = came(&with(&[("traceparent", GOOD)])).expect("a trace");
        assert_eq!(&came.trace, b"4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((&came.parent, came.flags), (b"00f067aa0ba902b7", SAMPLED));
        assert_eq!(write(&came.trace, &came.parent, came.flags), *GOOD.as_bytes());
    }

    #[test]
    fn what_is_no_trace_counts_as_none() {
        for (from, to) in [
            ("00-4", "ff-4"),
            ("00-4", "0-4"),
            ("00-4", "0x-4"),
            ("4bf9", "4BF9"),
            ("4bf92f3577b34da6a3ce929d0e0e4736", "00000000000000000000000000000000"),
            ("00f067aa0ba902b7", "0000000000000000"),
            ("00f067aa0ba902b7", "00f067aa0ba902b"),
            ("-01", "-1"),
            ("-01", "-01-"),
            ("-01", "-01-what-comes-later"),
            ("-01", "_01"),
            ("-01", "-0g"),
            ("-01", ""),
        ] {
            let text = GOOD.replacen(from, to, 1);
            assert_eq!(came(&with(&[("traceparent", &text)])), None, "{text}");
        }
        assert_eq!(came(&with(&[("traceparent", GOOD), ("traceparent", GOOD)])), None, "which of them?");
        assert_eq!(came(&HeaderMap::new()), None);
    }

    #[test]
    fn a_later_version_may_say_more_and_flags_that_nobody_knows_are_not_told_on() {
        for text in ["cc", "01"].map(|version| GOOD.replacen("00", version, 1)) {
            assert!(read(text.as_bytes()).is_some(), "{text}");
            assert!(read(format!("{text}-later").as_bytes()).is_some(), "{text}");
            assert!(read(format!("{text}.later").as_bytes()).is_none(), "{text}");
        }
        assert_eq!(read(GOOD.replace("-01", "-ff").as_bytes()).map(|came| came.flags), Some(3));
        assert_eq!(read(GOOD.replace("-01", "-fc").as_bytes()).map(|came| came.flags), Some(0));
    }

    #[test]
    fn a_state_is_a_list_of_members_over_all_its_lines() {
        let state = |lines: &[&str]| {
            let lines: Vec<_> = lines.iter().map(|line| ("tracestate", *line)).collect();
            is_state(&with(&lines))
        };
        assert!(state(&["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"]));
        assert!(state(&["rojo=1 , ,\tcongo=2", "fw529a3039@dt=FfV/1*x"]));
        assert!(state(&["1a@b=2", "a_-*/9=x y"]));
        for bad in ["", ",", "a", "a=", "=b", "A=1", "1=2", "a@=1", "@b=1", "a@1=1", "a@b@c=1", "a=1=2", "a=1,a=2"] {
            assert!(!state(&[bad]), "{bad:?}");
        }
        assert!(!state(&["a=1", "a=2"]), "each key once");
        assert!(state(&[&format!("{}={}", "k".repeat(256), "v".repeat(256))]));
        assert!(!state(&[&format!("{}=v", "k".repeat(257))]) && !state(&[&format!("k={}", "v".repeat(257))]));
        let many = |count: usize| (0..count).map(|number| format!("k{number}=v")).collect::<Vec<_>>().join(",");
        assert!(state(&[&many(32)]) && !state(&[&many(33)]));
    }

    #[test]
    fn a_state_goes_on_with_the_trace_it_belongs_to_and_no_other() {
        let value = HeaderValue::from_static(GOOD);
        let told = |continues: bool, state: &'static str| {
            let mut headers = with(&[("tracestate", state)]);
            tell(&mut headers, value.clone(), continues);
            headers.contains_key(TRACESTATE)
        };
        assert!(told(true, "a=1"));
        assert!(!told(false, "a=1") && !told(true, "a"));
    }

    proptest! {
        #[test]
        fn whatever_is_told_on_is_read_again(trace: [u8; 16], span: [u8; 8], flags: u8) {
            prop_assume!(trace != [0; 16] && span != [0; 8]);
            let (mut digits, mut parent) = ([0; 32], [0; 16]);
            hex(&trace, &mut digits);
            hex(&span, &mut parent);
            let came = read(&write(&digits, &parent, flags)).expect("a trace");
            prop_assert_eq!((came.trace, came.parent, came.flags), (digits, parent, flags & 3));
        }

        #[test]
        fn nothing_that_comes_makes_it_panic(text in prop::collection::vec(any::<u8>(), 0..80), cut in 0usize..60, byte: u8) {
            let _ = read(&text);
            let mut near = GOOD.as_bytes().to_vec();
            if let Some(place) = near.get_mut(cut) { *place = byte; }
            if let Some(came) = read(&near) {
                prop_assert_eq!(&write(&came.trace, &came.parent, came.flags)[3..53], &near[3..53]);
            }
            if let Ok(value) = HeaderValue::from_bytes(&text) {
                let mut headers = HeaderMap::new();
                headers.insert(TRACESTATE, value);
                let _ = is_state(&headers);
            }
        }
    }
}

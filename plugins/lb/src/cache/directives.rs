//! What `Cache-Control` says (RFC 9111, section 5.2; RFC 5861; RFC 9213), of an answer and of a request. Pure.
//!
//! What cannot be read of an answer is read so that less is kept: a number that is none makes the answer stale, of two the smaller one
//! counts, and a directive that is about some fields is taken to be about the whole answer.

use http::header::{CACHE_CONTROL, HeaderName, PRAGMA};
use http::{HeaderMap, HeaderValue};

/// What an answer says to caches in front of programs, and to no browser (RFC 9213, section 3.1).
const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// Numbers of seconds are at most this (RFC 9111, section 1.2.2): sixty-eight years are for ever.
pub const SECONDS_MAX: u64 = 1 << 31;

/// What an answer says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Nobody shall keep it.
    pub no_store: bool,
    /// It is given to nobody before it was validated.
    pub no_cache: bool,
    /// It is for one user.
    pub private: bool,
    /// It is for everybody.
    pub public: bool,
    /// Once it is stale it is given to nobody before it was validated.
    pub must_revalidate: bool,
    /// The same, for caches that many share.
    pub proxy_revalidate: bool,
    /// Whoever does not understand its status shall not keep it, and whoever does passes over `no-store`.
    pub must_understand: bool,
    /// For so many seconds it is fresh.
    pub max_age: Option<u64>,
    /// The same, for caches that many share.
    pub s_maxage: Option<u64>,
    /// For so many seconds more it may be given while a new one is asked for.
    pub while_revalidate: Option<u64>,
    /// For so many seconds more it may be given while none is to be had.
    pub if_error: Option<u64>,
    /// It says so to caches like this one: `Expires` is for others.
    pub is_targeted: bool,
}

/// What a request says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Nothing of its answer shall be kept.
    pub no_store: bool,
    /// It wants an answer that was validated.
    pub no_cache: bool,
    /// It wants what is kept, or nothing.
    pub only_if_cached: bool,
    /// It wants an answer of so many seconds at most.
    pub max_age: Option<u64>,
    /// It wants an answer that is fresh for so many seconds more.
    pub min_fresh: Option<u64>,
    /// It takes an answer that has been stale for so many seconds.
    pub max_stale: Option<u64>,
}

impl Told {
    /// By an answer with these header fields. What it says to caches like this one takes the place of what it says to all (RFC 9213).
    pub fn of(headers: &HeaderMap) -> Self {
        let mut wrong = !is_dictionary(headers, &CDN_CACHE_CONTROL);
        let targeted = Self::by(headers, &CDN_CACHE_CONTROL, |value| {
            let number = value.and_then(seconds);
            wrong |= number.is_none();
            number
        });
        if headers.contains_key(CDN_CACHE_CONTROL) && !wrong {
            return Self { is_targeted: true, ..targeted };
        }
        let stale = |value: Option<&[u8]>| Some(value.map(unquoted).and_then(seconds).unwrap_or(0));
        let mut told = Self::by(headers, &CACHE_CONTROL, stale);
        // What it says of an answer nobody ever defined; who writes it means the same (section 5.4).
        told.no_cache |= !headers.contains_key(CACHE_CONTROL) && says_no_cache(headers);
        told
    }

    /// By the field `name`, of which `read` reads numbers of seconds.
    fn by(headers: &HeaderMap, name: &HeaderName, mut read: impl FnMut(Option<&[u8]>) -> Option<u64>) -> Self {
        let mut told = Self::default();
        each(headers, name, |name, value| match name {
            "no-store" => told.no_store = true,
            "no-cache" => told.no_cache = true,
            "private" => told.private = true,
            "public" => told.public = true,
            "must-revalidate" => told.must_revalidate = true,
            "proxy-revalidate" => told.proxy_revalidate = true,
            "must-understand" => told.must_understand = true,
            "max-age" => told.max_age = least(told.max_age, read(value)),
            "s-maxage" => told.s_maxage = least(told.s_maxage, read(value)),
            "stale-while-revalidate" => told.while_revalidate = least(told.while_revalidate, read(value)),
            "stale-if-error" => told.if_error = least(told.if_error, read(value)),
            _ => {}
        });
        told
    }

    /// Whether it must not be given once it is stale, whoever would take it (section 4.2.4).
    pub fn forbids_stale(&self) -> bool {
        self.must_revalidate || self.proxy_revalidate || self.no_cache
    }

    /// Whether it says that caches which many share may keep an answer to somebody who said who he is (section 3.5).
    pub fn is_for_others(&self) -> bool {
        self.public || self.must_revalidate || self.s_maxage.is_some()
    }
}

impl Asked {
    /// By a request with these header fields.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut asked = Self::default();
        let number = |value: Option<&[u8]>| value.map(unquoted).and_then(seconds);
        each(headers, &CACHE_CONTROL, |name, value| match name {
            "no-store" => asked.no_store = true,
            "no-cache" => asked.no_cache = true,
            "only-if-cached" => asked.only_if_cached = true,
            "max-age" => asked.max_age = least(asked.max_age, number(value)),
            "min-fresh" => asked.min_fresh = number(value),
            "max-stale" if value.is_none() => asked.max_stale = Some(SECONDS_MAX),
            "max-stale" => asked.max_stale = least(asked.max_stale, number(value)),
            _ => {}
        });
        asked.no_cache |= !headers.contains_key(CACHE_CONTROL) && says_no_cache(headers);
        asked
    }
}

fn says_no_cache(headers: &HeaderMap) -> bool {
    let mut found = false;
    each(headers, &PRAGMA, |name, _| found |= name == "no-cache");
    found
}

fn least(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// A number of seconds; none if it is none.
fn seconds(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // More digits than these are more seconds than those.
    let number = std::str::from_utf8(digits).ok()?.parse().unwrap_or(SECONDS_MAX);
    Some(number.min(SECONDS_MAX))
}

/// Whether all names in a field are those of a dictionary, as that field has to be (RFC 9651, section 3.2).
fn is_dictionary(headers: &HeaderMap, name: &HeaderName) -> bool {
    let good = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-.*".contains(b);
    let is_key = |name: &[u8]| !name.is_empty() && !name[0].is_ascii_digit() && name.iter().all(good);
    let mut members = headers.get_all(name).iter().flat_map(Members::of);
    members.all(|member| is_key(member.split(|b| matches!(b, b'=' | b';')).next().unwrap_or_default()))
}

/// Calls `take` with each directive: its name in lower case, and its value as it is written.
fn each(headers: &HeaderMap, name: &HeaderName, mut take: impl FnMut(&str, Option<&[u8]>)) {
    for line in headers.get_all(name) {
        for member in Members::of(line) {
            let (name, value) = match member.iter().position(|b| *b == b'=') {
                Some(at) => (&member[..at], Some(trimmed(&member[at + 1..]))),
                None => (member, None),
            };
            let mut lower = [0; NAME_BYTES_MAX];
            let name = trimmed(name);
            let Some(room) = lower.get_mut(..name.len()) else { continue };
            room.copy_from_slice(name);
            room.make_ascii_lowercase();
            if let Ok(name) = std::str::from_utf8(room) {
                take(name, value);
            }
        }
    }
}

/// Longer than every directive that is known.
const NAME_BYTES_MAX: usize = 32;

/// The members of a list, of which some may have commas in quotes (RFC 9110, section 5.6).
pub struct Members<'a>(&'a [u8]);

impl<'a> Members<'a> {
    /// Of this line.
    pub fn of(line: &'a HeaderValue) -> Self {
        Self(line.as_bytes())
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while !self.0.is_empty() {
            let (mut quoted, mut escaped) = (false, false);
            let end = self.0.iter().position(|byte| {
                match byte {
                    _ if std::mem::take(&mut escaped) => {}
                    b'\\' if quoted => escaped = true,
                    b'"' => quoted = !quoted,
                    b',' if !quoted => return true,
                    _ => {}
                }
                false
            });
            let (member, rest) = match end {
                Some(end) => (&self.0[..end], &self.0[end + 1..]),
                None => (self.0, &self.0[self.0.len()..]),
            };
            self.0 = rest;
            let member = trimmed(member);
            if !member.is_empty() {
                return Some(member);
            }
        }
        None
    }
}

/// Without blanks at its ends.
pub fn trimmed(text: &[u8]) -> &[u8] {
    text.trim_ascii()
}

fn unquoted(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::try_from(*value).unwrap());
        }
        headers
    }

    fn told(line: &str) -> Told {
        Told::of(&headers(&[("cache-control", line)]))
    }

    #[test]
    fn directives_are_read_whatever_their_case_blanks_and_quotes() {
        let read = told("Public , MAX-AGE=60,s-maxage=\"30\" ,, stale-while-revalidate=5,stale-if-error=7");
        assert_eq!((read.public, read.max_age, read.s_maxage), (true, Some(60), Some(30)));
        assert_eq!((read.while_revalidate, read.if_error), (Some(5), Some(7)));
        assert!(told("must-revalidate").must_revalidate && told("proxy-revalidate").proxy_revalidate);
        let lines =
            headers(&[("cache-control", "no-store"), ("cache-control", "private=\"set-cookie, x\", max-age=1")]);
        let read = Told::of(&lines);
        assert!(read.no_store && read.private && read.max_age == Some(1));
    }

    #[test]
    fn a_comma_in_quotes_begins_no_directive() {
        assert!(!told("x=\"a, no-store, b\"").no_store);
        assert!(!told("x=\"a\\\", no-store\"").no_store);
        assert!(told("x=\"a\", no-store").no_store);
    }

    #[test]
    fn what_cannot_be_read_makes_an_answer_stale() {
        for line in ["max-age=x", "max-age", "max-age=", "max-age=-1", "max-age=1.5", "max-age=5, max-age=0"] {
            assert_eq!(told(line).max_age, Some(0), "{line}");
        }
        assert_eq!(told("max-age=99999999999999999999999").max_age, Some(SECONDS_MAX));
        assert_eq!(told("maxage=5, max-agee=5").max_age, None);
    }

    #[test]
    fn rfc_9213_what_is_said_to_caches_like_this_one_takes_the_place_of_what_is_said_to_all() {
        let of = |targeted: &str| {
            Told::of(&headers(&[("cdn-cache-control", targeted), ("cache-control", "no-store, max-age=5")]))
        };
        let read = of("max-age=60, stale-if-error=9");
        assert_eq!((read.max_age, read.if_error, read.no_store, read.is_targeted), (Some(60), Some(9), false, true));
        assert!(of("private").private && of("no-store").no_store);
        for wrong in ["max-age=x", "max-age", "max-age=\"60\"", "max-age=60, &&&", "max-age=60, A=1"] {
            assert_eq!((of(wrong).max_age, of(wrong).is_targeted), (Some(5), false), "{wrong}");
        }
    }

    #[test]
    fn a_request_says_what_it_takes() {
        let asked = |line: &str| Asked::of(&headers(&[("cache-control", line)]));
        assert!(asked("no-cache").no_cache && asked("no-store").no_store && asked("Only-If-Cached").only_if_cached);
        assert_eq!(asked("max-stale").max_stale, Some(SECONDS_MAX));
        assert_eq!((asked("max-stale=5").max_stale, asked("max-stale=x").max_stale), (Some(5), None));
        assert_eq!((asked("min-fresh=9").min_fresh, asked("max-age=0").max_age), (Some(9), Some(0)));
        assert!(Asked::of(&headers(&[("pragma", "no-cache")])).no_cache);
        let both = headers(&[("pragma", "no-cache"), ("cache-control", "max-age=1")]);
        assert!(!Asked::of(&both).no_cache, "the newer field counts");
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let mut headers = HeaderMap::new();
                headers.insert(CACHE_CONTROL, value);
                Told::of(&headers);
                Asked::of(&headers);
            }
        }

        #[test]
        fn numbers_are_read_as_they_are_written(number in 0..SECONDS_MAX) {
            prop_assert_eq!(told(&format!("a, max-age={number}")).max_age, Some(number));
        }
    }
}

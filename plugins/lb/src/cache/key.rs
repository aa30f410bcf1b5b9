//! By what answers are kept: host, path and query, as they were asked for. Pure.
//!
//! All that tells answers apart besides (the route, whether its client came over TLS, the fields that an answer depends on) is looked
//! at among those of one key, so that a change of what is there finds all of them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use hirsel_model::spec::Cache;
use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, ACCEPT_LANGUAGE, HeaderName};

use super::directives::trimmed;

/// Longer ones are not kept: they are no pages that many ask for.
const KEY_BYTES_MAX: usize = 4096;

/// Host with port, path and query.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

/// What tells answers of one key apart that no field of the request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Way {
    /// The route, and all of it that the program is told.
    pub route: u64,
    /// Its client came over TLS, which the program is told.
    pub encrypted: bool,
}

/// A field that an answer depends on, and what it was.
pub type Selected = (HeaderName, Option<Box<[u8]>>);

impl Key {
    /// For a request to `authority`; none if it is too long, or no text.
    pub fn of(authority: &[u8], encrypted: bool, path_and_query: &str, cache: &Cache) -> Option<Self> {
        let authority = std::str::from_utf8(authority).ok()?;
        let usual = if encrypted { ":443" } else { ":80" };
        let authority = authority.strip_suffix(usual).unwrap_or(authority);
        let (path, query) = match path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path_and_query, None),
        };
        if !path.starts_with('/') || authority.len() + path_and_query.len() > KEY_BYTES_MAX {
            return None;
        }
        let mut text = String::with_capacity(authority.len() + path_and_query.len());
        text.push_str(authority);
        text.make_ascii_lowercase();
        text.push_str(path);
        if let Some(query) = query {
            let mut mark = '?';
            let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
            for pair in query.split('&').filter(|pair| cache.ignore.is_empty() || !cache.ignores(&name(pair))) {
                text.push(mark);
                text.push_str(pair);
                mark = '&';
            }
        }
        Some(Self(text.into()))
    }

    /// The host without port.
    pub fn host(&self) -> &str {
        let authority = &self.0[..self.0.find('/').unwrap_or(self.0.len())];
        let name = match authority.strip_prefix('[').and_then(|rest| rest.find(']')) {
            Some(end) => &authority[..end + 2],
            None => authority.split(':').next().unwrap_or_default(),
        };
        name.strip_suffix('.').unwrap_or(name)
    }

    /// The path without query.
    pub fn path(&self) -> &str {
        let path = &self.0[self.0.find('/').unwrap_or(self.0.len())..];
        path.split('?').next().unwrap_or_default()
    }

    /// The key of another path of the same host, if `location`, as an answer has it, is one (RFC 9111, section 4.4).
    pub fn beside(&self, location: &str, cache: &Cache, encrypted: bool) -> Option<Self> {
        let authority = &self.0[..self.0.find('/')?];
        let location = location.split('#').next().unwrap_or_default();
        let rest = match location.strip_prefix("http://").or_else(|| location.strip_prefix("https://")) {
            Some(rest) => {
                let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                host.eq_ignore_ascii_case(authority).then_some(if path.is_empty() { "/" } else { path })?
            }
            None if location.starts_with("//") => return None,
            None => location,
        };
        Self::of(authority.as_bytes(), encrypted, rest, cache)
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A number of it, always the same.
    pub fn hash(&self) -> u64 {
        hash(&self.0)
    }
}

/// A number of something, always the same: what has the same number is compared before anything depends on it.
pub fn hash(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// What a request says in a field, in one line; alike for requests that say the same (section 4.1).
pub fn selecting(headers: &HeaderMap, name: &HeaderName) -> Option<Box<[u8]>> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?;
    let mut line = trimmed(first.as_bytes()).to_vec();
    for next in lines {
        line.extend_from_slice(b", ");
        line.extend_from_slice(trimmed(next.as_bytes()));
    }
    if name == ACCEPT_ENCODING || name == ACCEPT_LANGUAGE {
        line.make_ascii_lowercase();
        line.retain(|byte| *byte != b' ');
    }
    if name == ACCEPT_ENCODING {
        // Browsers name the same encodings in various orders.
        let mut words: Vec<&[u8]> = line.split(|byte| *byte == b',').filter(|word| !word.is_empty()).collect();
        words.sort_unstable();
        line = words.join(&b","[..]);
    }
    Some(line.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn key(authority: &str, path: &str, ignore: &[&str]) -> Option<Key> {
        let cache = Cache { ignore: ignore.iter().map(|it| (*it).to_owned()).collect(), ..Cache::default() };
        Key::of(authority.as_bytes(), false, path, &cache)
    }

    #[test]
    fn a_host_is_alike_whatever_its_case_and_the_usual_port_and_what_makes_no_difference_is_left_out() {
        let it = key("Shop.Test:80", "/A?utm_x=1&b=2&utm_y&c=%61", &["utm_*"]).unwrap();
        assert_eq!((it.as_str(), it.host(), it.path()), ("shop.test/A?b=2&c=%61", "shop.test", "/A"));
        assert_eq!(key("h", "/?fbclid=1", &["fbclid"]), key("h", "/", &[]));
        assert_ne!(key("h", "/?a", &[]), key("h", "/", &[]));
        assert_ne!(key("h:8080", "/", &[]), key("h", "/", &[]), "the program is told the port");
        assert_eq!(key("h:8080", "/", &[]).unwrap().host(), "h");
        assert_eq!(key("[::1]:8080", "/a/b?c", &[]).unwrap().host(), "[::1]");
        assert_eq!((key("h", "*", &[]), key("h", &format!("/{}", "a".repeat(4096)), &[])), (None, None));
    }

    #[test]
    fn what_a_change_says_it_made_is_found_on_the_same_host_alone() {
        let it = key("h:8080", "/things?x=1", &[]).unwrap();
        let beside = |location| it.beside(location, &Cache::default(), false).map(|key| key.as_str().to_owned());
        assert_eq!(beside("/things/7#top").as_deref(), Some("h:8080/things/7"));
        assert_eq!(beside("http://H:8080/a?b").as_deref(), Some("h:8080/a?b"));
        assert_eq!(beside("http://h:8080").as_deref(), Some("h:8080/"));
        for other in ["http://other/a", "//h:8080/a", "things/7", "", "ftp://h:8080/"] {
            assert_eq!(beside(other), None, "{other}");
        }
    }

    #[test]
    fn encodings_are_alike_in_whatever_order_they_are_named() {
        let of = |name: &'static str, lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(name, HeaderValue::try_from(*line).unwrap());
            }
            selecting(&headers, &HeaderName::from_static(name))
        };
        assert_eq!(of("accept-encoding", &["gzip, br"]), of("accept-encoding", &["BR", "gzip"]));
        assert_ne!(of("accept-encoding", &["gzip"]), of("accept-encoding", &["gzip, br"]));
        assert_ne!(of("accept-encoding", &[""]), of("accept-encoding", &[]));
        assert_eq!(of("accept-language", &["DE ", "en"]).as_deref(), Some(&b"de,en"[..]));
        assert_ne!(of("accept-language", &["en, de"]), of("accept-language", &["de, en"]));
        assert_eq!(of("x-a", &["A ", "b"]).as_deref(), Some(&b"A, b"[..]));
    }

    proptest! {
        #[test]
        fn two_requests_have_one_key_only_if_they_are_for_one_thing(
            a in "[a-c]{1,2}", b in "[a-c]{1,2}", p in "/[a-c/]{0,3}", q in "/[a-c/]{0,3}", x in "[a-c&=]{0,4}", y in "[a-c&=]{0,4}",
        ) {
            let one = key(&a, &format!("{p}?{x}"), &[]).unwrap();
            let other = key(&b, &format!("{q}?{y}"), &[]).unwrap();
            prop_assert_eq!(one == other, (a, p, x) == (b, q, y));
        }
    }
}

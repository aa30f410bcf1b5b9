//! How an answer that is kept is given to a request: whole, in part, or by saying that its client has it already (RFC 9110, sections
//! 13 and 14; RFC 9211). Pure.

use std::fmt::Write;
use std::ops::Range;

use hirsel_model::Timestamp;
use http::header::{
    ACCEPT_RANGES, AGE, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG,
    HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::dates;
use super::directives::Members;
use super::kept::Head;

/// What caches before this one and this one did (RFC 9211).
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Conditions that are the business of the program (section 13.2.1): whoever asks so is led to it.
pub fn is_for_the_program(headers: &HeaderMap) -> bool {
    headers.contains_key(IF_MATCH) || headers.contains_key(IF_UNMODIFIED_SINCE)
}

/// How an answer is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Give {
    /// As it is.
    Whole,
    /// Its client has it.
    NotModified,
    /// These bytes of it.
    Part(Range<u64>),
    /// What is asked for is not in it.
    Beyond,
}

/// How an answer with this head is given to a request; `length` is that of its body, if it is known.
pub fn give(method: &Method, asked: &HeaderMap, status: StatusCode, headers: &HeaderMap, length: Option<u64>) -> Give {
    if status != StatusCode::OK {
        return Give::Whole;
    }
    if is_known(asked, headers) {
        return Give::NotModified;
    }
    let Some(length) = length.filter(|_| *method == Method::GET && is_still_the_same(asked, headers)) else {
        return Give::Whole;
    };
    let mut lines = asked.get_all(RANGE).iter();
    match (lines.next(), lines.next()) {
        (Some(range), None) => part(range, length),
        _ => Give::Whole,
    }
}

/// Whether its client has it (sections 13.1.2 and 13.1.3).
fn is_known(asked: &HeaderMap, headers: &HeaderMap) -> bool {
    if asked.contains_key(IF_NONE_MATCH) {
        let mut tags = asked.get_all(IF_NONE_MATCH).iter().flat_map(Members::of);
        let own = headers.get(ETAG).map(|tag| bare(tag.as_bytes()));
        return tags.any(|tag| tag == b"*" || own.is_some_and(|own| own == bare(tag)));
    }
    // One that does not say when it was changed was not changed after it was made (RFC 9111, section 4.3.2).
    let changed = dates::said(headers, &LAST_MODIFIED).or_else(|| dates::said(headers, &DATE));
    match (dates::said(asked, &IF_MODIFIED_SINCE), changed) {
        (Some(since), Some(changed)) => changed <= since,
        _ => false,
    }
}

/// A tag without the mark of a weak one.
fn bare(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// Whether parts of it fit to those that its client has (section 13.1.5): byte for byte, so a weak tag does not do.
fn is_still_the_same(asked: &HeaderMap, headers: &HeaderMap) -> bool {
    let Some(condition) = asked.get(IF_RANGE) else { return true };
    let text = condition.as_bytes();
    if text.starts_with(b"\"") {
        return headers.get(ETAG).is_some_and(|tag| tag.as_bytes() == text);
    }
    !text.starts_with(b"W/") && dates::read(condition).is_some() && headers.get(LAST_MODIFIED) == Some(condition)
}

/// One range of bytes (section 14.1.2). What is none, or more than one, is passed over: an answer may always be whole.
fn part(range: &HeaderValue, length: u64) -> Give {
    let Some((unit, set)) = range.to_str().ok().and_then(|text| text.split_once('=')) else { return Give::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
        return Give::Whole;
    }
    let Some((first, last)) = set.trim().split_once('-') else { return Give::Whole };
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // More digits than these are beyond every end.
        is_number.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (number(first), number(last)) {
        (None, Some(suffix)) if first.is_empty() => match suffix.min(length) {
            0 => Give::Beyond,
            suffix => Give::Part(length - suffix..length),
        },
        (Some(first), _) if first >= length && (last.is_empty() || number(last).is_some_and(|last| last >= first)) => {
            Give::Beyond
        }
        (Some(first), None) if last.is_empty() => Give::Part(first..length),
        (Some(first), Some(last)) if first <= last => Give::Part(first..last.saturating_add(1).min(length)),
        _ => Give::Whole,
    }
}

/// The status and the fields of an answer that is given so.
pub fn dressed(give: &Give, status: StatusCode, headers: &HeaderMap, length: Option<u64>) -> (StatusCode, HeaderMap) {
    let mut headers = headers.clone();
    super::strip(&mut headers);
    let content_range = |text: String| HeaderValue::try_from(text).ok();
    match give {
        Give::Whole => (status, headers),
        Give::NotModified => {
            for name in [CONTENT_LENGTH, CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_RANGE, ACCEPT_RANGES]
            {
                headers.remove(name);
            }
            (StatusCode::NOT_MODIFIED, headers)
        }
        Give::Part(range) => {
            let (first, last, length) = (range.start, range.end.saturating_sub(1), length.unwrap_or(range.end));
            headers.remove(CONTENT_LENGTH);
            headers.extend(content_range(format!("bytes {first}-{last}/{length}")).map(|value| (CONTENT_RANGE, value)));
            (StatusCode::PARTIAL_CONTENT, headers)
        }
        Give::Beyond => {
            for name in [CONTENT_LENGTH, CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LANGUAGE] {
                headers.remove(name);
            }
            let value = content_range(format!("bytes */{}", length.unwrap_or(0)));
            headers.extend(value.map(|value| (CONTENT_RANGE, value)));
            (StatusCode::RANGE_NOT_SATISFIABLE, headers)
        }
    }
}

/// Says how old an answer is that is kept.
pub fn age(head: &Head, headers: &mut HeaderMap, now: Timestamp) {
    headers.insert(AGE, HeaderValue::from(head.freshness.age(now).as_secs()));
}

/// What was done about a request here, for those who look for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// It was answered by what is kept, and no program was asked.
    pub hit: bool,
    /// Why a program was asked.
    pub fwd: Option<&'static str>,
    /// What that answered.
    pub fwd_status: Option<u16>,
    /// For how many seconds the answer is fresh still.
    pub ttl: Option<i64>,
    /// It is kept now.
    pub stored: bool,
    /// Another request brought it.
    pub collapsed: bool,
    /// What else there is to say.
    pub detail: Option<&'static str>,
}

impl Said {
    /// Says it, behind what caches on the way said (RFC 9211, section 2).
    pub fn say(&self, headers: &mut HeaderMap) {
        let mut text = String::from("hirsel");
        if self.hit {
            text.push_str("; hit");
        }
        // Writing into a String cannot fail.
        let _ = self.fwd.map(|why| write!(text, "; fwd={why}"));
        let _ = self.fwd_status.map(|status| write!(text, "; fwd-status={status}"));
        let _ = self.ttl.map(|ttl| write!(text, "; ttl={ttl}"));
        if self.stored {
            text.push_str("; stored");
        }
        if self.collapsed {
            text.push_str("; collapsed");
        }
        let _ = self.detail.map(|detail| write!(text, "; detail={detail}"));
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.append(CACHE_STATUS, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHANGED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::try_from(*value).unwrap());
        }
        headers
    }

    fn given(asked: &[(&'static str, &str)], own: &[(&'static str, &str)]) -> Give {
        give(&Method::GET, &headers(asked), StatusCode::OK, &headers(own), Some(10))
    }

    #[test]
    fn rfc_9110_13_a_client_that_has_it_is_told_so() {
        let own = [("etag", "\"1\""), ("last-modified", CHANGED)];
        for tag in ["\"1\"", "W/\"1\"", "\"0\", \"1\"", "*"] {
            assert_eq!(given(&[("if-none-match", tag)], &own), Give::NotModified, "{tag}");
        }
        for tag in ["\"2\"", "1", "\"1", "\"0,1\""] {
            assert_eq!(given(&[("if-none-match", tag)], &own), Give::Whole, "{tag}");
        }
        assert_eq!(given(&[("if-none-match", "\"1\"")], &[("etag", "W/\"1\"")]), Give::NotModified);
        for since in [CHANGED, LATER] {
            assert_eq!(given(&[("if-modified-since", since)], &own), Give::NotModified);
        }
        for since in [BEFORE, "x"] {
            assert_eq!(given(&[("if-modified-since", since)], &own), Give::Whole);
        }
        let made = [("date", CHANGED)];
        assert_eq!(given(&[("if-modified-since", CHANGED)], &made), Give::NotModified);
        assert_eq!(given(&[("if-modified-since", BEFORE)], &made), Give::Whole);
        let both = [("if-none-match", "\"2\""), ("if-modified-since", LATER)];
        assert_eq!(given(&both, &own), Give::Whole, "the tag says it better");
        let missing =
            give(&Method::GET, &headers(&[("if-none-match", "*")]), StatusCode::NOT_FOUND, &headers(&own), None);
        assert_eq!(missing, Give::Whole);
    }

    #[test]
    fn rfc_9110_14_one_range_of_bytes_is_given_alone() {
        let range = |text| given(&[("range", text)], &[]);
        assert_eq!(range("bytes=0-0"), Give::Part(0..1));
        assert_eq!(range("Bytes=2-"), Give::Part(2..10));
        assert_eq!(range("bytes=5-100"), Give::Part(5..10));
        assert_eq!((range("bytes=-3"), range("bytes=-30")), (Give::Part(7..10), Give::Part(0..10)));
        for beyond in ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(range(beyond), Give::Beyond, "{beyond}");
        }
        for whole in
            ["bytes=0-1,3-4", "bytes=3-2", "bytes=20-10", "lines=0-1", "bytes", "bytes=x-1", "bytes=-", "bytes=+1-2"]
        {
            assert_eq!(range(whole), Give::Whole, "{whole}");
        }
        let head =
            give(&Method::HEAD, &headers(&[("range", "bytes=0-1")]), StatusCode::OK, &HeaderMap::new(), Some(10));
        assert_eq!(head, Give::Whole);
    }

    #[test]
    fn rfc_9110_13_1_5_a_part_is_given_if_it_fits_to_what_its_client_has() {
        let of =
            |condition, own: &[(&'static str, &str)]| given(&[("range", "bytes=1-2"), ("if-range", condition)], own);
        let own = [("etag", "\"1\""), ("last-modified", CHANGED)];
        assert_eq!((of("\"1\"", &own), of(CHANGED, &own)), (Give::Part(1..3), Give::Part(1..3)));
        for other in ["\"2\"", "W/\"1\"", LATER, BEFORE, "x"] {
            assert_eq!(of(other, &own), Give::Whole, "{other}");
        }
        assert_eq!(of("W/\"1\"", &[("etag", "W/\"1\"")]), Give::Whole);
    }

    #[test]
    fn what_is_given_says_what_it_is() {
        let own = headers(&[("content-type", "text/plain"), ("content-length", "10"), ("etag", "\"1\"")]);
        let (status, fields) = dressed(&Give::Part(2..5), StatusCode::OK, &own, Some(10));
        assert_eq!((status, fields["content-range"].as_bytes()), (StatusCode::PARTIAL_CONTENT, &b"bytes 2-4/10"[..]));
        assert!(!fields.contains_key("content-length") && fields.contains_key("content-type"));
        let (status, fields) = dressed(&Give::Beyond, StatusCode::OK, &own, Some(10));
        assert_eq!(
            (status, fields["content-range"].as_bytes()),
            (StatusCode::RANGE_NOT_SATISFIABLE, &b"bytes */10"[..])
        );
        let (status, fields) = dressed(&Give::NotModified, StatusCode::OK, &own, Some(10));
        assert_eq!((status, fields), (StatusCode::NOT_MODIFIED, headers(&[("etag", "\"1\"")])));
    }

    #[test]
    fn what_was_done_is_said_behind_what_others_did() {
        let mut fields = headers(&[("cache-status", "origin; hit")]);
        Said { fwd: Some("stale"), fwd_status: Some(304), ttl: Some(-3), ..Said::default() }.say(&mut fields);
        let lines: Vec<&[u8]> = fields.get_all(CACHE_STATUS).iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(lines, [&b"origin; hit"[..], b"hirsel; fwd=stale; fwd-status=304; ttl=-3"]);
    }

    proptest! {
        #[test]
        fn a_part_is_in_the_whole(text in "(bytes)?=?[0-9]{0,3}-?[0-9]{0,3}", length in 0..200u64) {
            let asked = headers(&[("range", &text)]);
            match give(&Method::GET, &asked, StatusCode::OK, &HeaderMap::new(), Some(length)) {
                Give::Part(range) => prop_assert!(range.start < range.end && range.end <= length),
                Give::Whole | Give::Beyond => {}
                Give::NotModified => prop_assert!(false),
            }
        }
    }
}

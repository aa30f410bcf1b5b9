//! What a request says of an object besides its bytes, and how it comes back. What comes back is what came, byte for byte.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use hirsel_model::WallTime;
use http::{HeaderMap, HeaderName, HeaderValue};
use s3s::dto::{Owner, Timestamp, TimestampFormat};

use super::access::Caller;
use super::error::{Done, argument, error};
use crate::meta::command::Condition;
use crate::meta::kinds::{About, Bucket, Checksum, Lock, LockMode, Object, Retention};

/// Headers that are kept with an object, besides those of the user.
pub const KEPT: [&str; 7] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
    ELSEWHERE,
];

/// What the user's own headers begin with.
pub const META: &str = "x-amz-meta-";
/// Where an object is elsewhere, for a web site.
pub const ELSEWHERE: &str = "x-amz-website-redirect-location";

/// What an object is that says nothing of itself.
pub const TYPE: &str = "binary/octet-stream";

/// A moment as s3s writes it.
pub fn moment(at: WallTime) -> Timestamp {
    Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_millis(at.0))
}

/// A moment as s3s has read it; before 1970 is 1970.
pub fn wall(at: &Timestamp) -> Option<WallTime> {
    let mut text = Vec::new();
    at.format(TimestampFormat::EpochSeconds, &mut text).ok()?;
    let seconds: f64 = std::str::from_utf8(&text).ok()?.parse().ok()?;
    Some(WallTime((seconds.max(0.0) * 1_000.0).round() as u64))
}

/// Whose something is, as clients see it.
pub fn owner(name: &str) -> Owner {
    Owner { display_name: Some(name.to_owned()), id: Some(name.to_owned()) }
}

/// The first of the characters that stand for bytes which are no text: they are of Unicode's private ones, and the byte is added.
const BYTES: u32 = 0xF700;

/// A header as it is kept: text as it is; where it is none (or holds characters that stand for bytes), a character for each byte that is
/// not ASCII.
fn text(value: &HeaderValue) -> String {
    let bytes = value.as_bytes();
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| byte_of(c).is_some()) => text.to_owned(),
        _ => {
            let one = |byte: &u8| {
                if byte.is_ascii() { Some(char::from(*byte)) } else { char::from_u32(BYTES + u32::from(*byte)) }
            };
            bytes.iter().filter_map(one).collect()
        }
    }
}

fn byte_of(c: char) -> Option<u8> {
    u32::from(c).checked_sub(BYTES).and_then(|byte| u8::try_from(byte).ok()).filter(|byte| !byte.is_ascii())
}

/// The bytes that a header came with.
fn bytes(kept: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(kept.len());
    for c in kept.chars() {
        match byte_of(c) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

/// One header as text; an empty one is none.
pub fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(text).filter(|text| !text.is_empty())
}

/// How long a body is, as the request says it: without what cuts it for its way.
pub fn length(content_length: Option<i64>, headers: &HeaderMap) -> Option<i64> {
    content_length.or_else(|| header(headers, "x-amz-decoded-content-length")?.parse().ok())
}

/// What a request says of the object that it makes, for an object in `bucket`.
///
/// # Errors
/// When it asks for what is not offered, or for what cannot be.
pub fn read(headers: &HeaderMap, caller: &Caller, bucket: &Bucket) -> Done<About> {
    offered(headers)?;
    let mut kept = BTreeMap::new();
    for name in KEPT {
        let Some(value) = header(headers, name) else { continue };
        let value = if name == "content-encoding" { unchunked(&value) } else { value };
        if !value.is_empty() {
            kept.insert(name.to_owned(), value);
        }
    }
    for name in headers.keys().filter(|name| name.as_str().len() > META.len() && name.as_str().starts_with(META)) {
        let values: Vec<String> = headers.get_all(name).iter().map(text).collect();
        kept.insert(name.as_str().to_owned(), values.join(","));
    }
    let tags = header(headers, "x-amz-tagging").map_or(Ok(BTreeMap::new()), |said| tags(&said))?;
    let owner = caller.owner().filter(|owner| *owner != bucket.owner).map(str::to_owned);
    Ok(About { headers: kept, tags, owner, ..About::default() })
}

/// How the body is cut for its way is nothing of the object.
fn unchunked(encoding: &str) -> String {
    let is_chunked = |one: &&str| one.eq_ignore_ascii_case("aws-chunked");
    let all = || encoding.split(',').map(str::trim);
    if !all().any(|one| is_chunked(&one)) {
        return encoding.to_owned();
    }
    all().filter(|one| !is_chunked(one)).collect::<Vec<_>>().join(", ")
}

/// Refuses what would be promised and not kept.
fn offered(headers: &HeaderMap) -> Done<()> {
    if let Some(class) = header(headers, "x-amz-storage-class").filter(|class| class != "STANDARD") {
        return Err(error("InvalidStorageClass", format!("storage class {class:.40?} is not offered: STANDARD is")));
    }
    if let Some(there) = header(headers, ELSEWHERE)
        && !["/", "http://", "https://"].iter().any(|begin| there.starts_with(begin))
    {
        return Err(error(
            "InvalidRedirectLocation",
            "the website redirect location begins with http://, https:// or /",
        ));
    }
    Ok(())
}

/// Tags written as a query.
///
/// # Errors
/// When they cannot be read, or one is said twice.
pub fn tags(query: &str) -> Done<BTreeMap<String, String>> {
    let mut tags = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (unescape(key), unescape(value));
        let (Some(key), Some(value)) = (key, value) else { return Err(argument("the tags cannot be read")) };
        if tags.insert(key, value).is_some() {
            return Err(error("InvalidTag", "a tag is said twice"));
        }
    }
    Ok(tags)
}

/// Undoes the escapes of a query; none if they are no text.
pub fn unescape(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
                (digit(bytes.next())? * 16 + digit(bytes.next())?) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(plain).ok()
}

/// How a client wants the object locked; none if it says nothing.
///
/// # Errors
/// When what it says is half of it, or nothing that is known.
pub fn lock(headers: &HeaderMap) -> Done<Option<Lock>> {
    let mode = header(headers, "x-amz-object-lock-mode");
    let until = header(headers, "x-amz-object-lock-retain-until-date");
    let hold = match header(headers, "x-amz-object-lock-legal-hold").as_deref() {
        None => None,
        Some("ON") => Some(true),
        Some("OFF") => Some(false),
        Some(word) => return Err(argument(format!("legal hold {word:.40?}: ON or OFF"))),
    };
    let retention = match (mode, until) {
        (None, None) => None,
        (Some(mode), Some(until)) => {
            let mode = match mode.as_str() {
                "GOVERNANCE" => LockMode::Governance,
                "COMPLIANCE" => LockMode::Compliance,
                _ => return Err(argument(format!("unknown wormMode directive {mode:.40?}"))),
            };
            let until = Timestamp::parse(TimestampFormat::DateTime, &until).ok().and_then(|until| wall(&until));
            let until = until.ok_or_else(|| argument("the date until which it is kept cannot be read"))?;
            Some(Retention { mode, until })
        }
        _ => {
            let words = "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied";
            return Err(argument(words));
        }
    };
    Ok((retention.is_some() || hold.is_some()).then(|| Lock { retention, hold: hold.unwrap_or_default() }))
}

/// What must hold of the newest version for a write to happen.
pub fn condition(headers: &HeaderMap) -> Condition {
    let bare =
        |name| header(headers, name).map(|etag| etag.trim().trim_start_matches("W/").trim_matches('"').to_owned());
    Condition { if_match: bare("if-match"), if_none_match: bare("if-none-match") }
}

/// The headers that come back with an object, whatever part of it is asked for.
pub fn headers(object: &Object) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut put = |name: &str, value: &str| {
        // What was kept came as a header once.
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(&bytes(value)))
        {
            headers.insert(name, value);
        }
    };
    put("content-type", TYPE);
    for (name, value) in &object.about.headers {
        put(name, value);
    }
    if !object.about.tags.is_empty() {
        put("x-amz-tagging-count", &object.about.tags.len().to_string());
    }
    if let Some(retention) = object.lock.retention {
        put("x-amz-object-lock-mode", mode(retention.mode));
        let mut until = Vec::new();
        if moment(retention.until).format(TimestampFormat::DateTime, &mut until).is_ok() {
            put("x-amz-object-lock-retain-until-date", &String::from_utf8_lossy(&until));
        }
    }
    if object.lock.hold {
        put("x-amz-object-lock-legal-hold", "ON");
    }
    headers
}

/// A mode of locking as S3 writes it.
pub fn mode(mode: LockMode) -> &'static str {
    match mode {
        LockMode::Governance => "GOVERNANCE",
        LockMode::Compliance => "COMPLIANCE",
    }
}

/// The kind of a checksum as S3 writes it.
pub fn kind(checksum: &Checksum) -> &'static str {
    if checksum.composite { "COMPOSITE" } else { "FULL_OBJECT" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_a_query_in_which_each_is_said_once() {
        let read = tags("a=1&b%20c=x%26y&d+e=&f").expect("they can be read");
        let pairs: Vec<(&str, &str)> = read.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("a", "1"), ("b c", "x&y"), ("d e", ""), ("f", "")]);
        for bad in ["a=%", "a=%4", "a=%zz", "%ff=1", "a=1&a=2"] {
            assert!(tags(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn how_a_body_is_cut_for_its_way_is_not_kept() {
        for (came, kept) in
            [("aws-chunked", ""), ("aws-chunked, gzip", "gzip"), ("a,b", "a,b"), ("a, AWS-chunked,b", "a, b")]
        {
            assert_eq!(unchunked(came), kept);
        }
    }

    #[test]
    fn a_header_comes_back_byte_for_byte() {
        let all: [&[u8]; 6] =
            [b"plain", "\u{e4}\u{1f411}".as_bytes(), b"Hello World\xe9", b"\xff\x80", "\u{f7e9}".as_bytes(), b""];
        for came in all {
            let kept = text(&HeaderValue::from_bytes(came).expect("it can be a header"));
            assert_eq!(bytes(&kept), came, "{kept:?}");
        }
        assert_eq!(text(&HeaderValue::from_bytes("\u{e4}".as_bytes()).expect("it can be a header")), "\u{e4}");
    }

    #[test]
    fn a_moment_is_the_same_there_and_back() {
        for at in [0, 1, 999, 1_700_000_000_123, 4_102_444_800_000] {
            assert_eq!(wall(&moment(WallTime(at))), Some(WallTime(at)));
        }
    }
}

//! Reading objects: whole, in part, by parts, or only what is said of them.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use s3s::dto::*;
use s3s::{Body, S3Error, S3Request, S3Response};

use super::about::{self, header, kind, unescape};
use super::access::{Action, Caller};
use super::body::give;
use super::conditions::{Conditions, Verdict};
use super::error::{Done, argument, error, strange};
use super::front::{Asked, Front, version};
use super::hash::Algorithm;
use super::sealing::open_bytes;
use crate::meta::kinds::{self, Versioning};
use crate::meta::names::BucketName;
use crate::meta::query::{Found, Query, Reply};
use crate::meta::refusal::Refusal;
use crate::rules::seal::DataKey;

/// What of an object is wanted.
struct Wanted {
    conditions: Conditions,
    range: Option<s3s::dto::Range>,
    part: Option<i32>,
    checksums: bool,
}

/// What is sent: which bytes, and what is said with them.
struct Sent {
    found: Box<Found>,
    bytes: Range<u64>,
    headers: HeaderMap,
    /// What opens it, if it is sealed.
    key: Option<DataKey>,
    /// `Content-Range`, where it is not the whole.
    part: Option<String>,
}

/// `GetObject`.
pub async fn get_object(front: &Front, request: S3Request<GetObjectInput>) -> Done<S3Response<GetObjectOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let conditions = Conditions {
        if_match: input.if_match,
        if_none_match: input.if_none_match,
        if_modified_since: input.if_modified_since,
        if_unmodified_since: input.if_unmodified_since,
    };
    let checksums = input.checksum_mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED);
    let wanted = Wanted { conditions, range: input.range, part: input.part_number, checksums };
    let sent = look(front, &asked, (&input.bucket, &input.key), input.version_id.as_deref(), wanted).await?;
    let Sent { found, bytes, headers, key, part } = sent;
    let object = found.version.object.ok_or_else(strange)?;
    // Pieces were told from the byte that was guessed; others are asked for on the way.
    let body = front.outgoing(&object, found.pieces, (bytes.start, bytes.end), key).await?;
    let body = Some(give(body).await?);
    let mut response = S3Response::new(GetObjectOutput { body, content_range: part, ..GetObjectOutput::default() });
    response.headers = headers;
    Ok(response)
}

/// `HeadObject`.
pub async fn head_object(front: &Front, request: S3Request<HeadObjectInput>) -> Done<S3Response<HeadObjectOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let conditions = Conditions {
        if_match: input.if_match,
        if_none_match: input.if_none_match,
        if_modified_since: input.if_modified_since,
        if_unmodified_since: input.if_unmodified_since,
    };
    let checksums = input.checksum_mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED);
    let wanted = Wanted { conditions, range: input.range, part: input.part_number, checksums };
    let sent = look(front, &asked, (&input.bucket, &input.key), input.version_id.as_deref(), wanted).await?;
    let mut response = S3Response::new(HeadObjectOutput { content_range: sent.part, ..HeadObjectOutput::default() });
    response.headers = sent.headers;
    Ok(response)
}

/// An object as a page of a web site: by the conditions and the range of `asked`, or whole. One that says where it is elsewhere is that.
pub(super) async fn page(
    front: &Front,
    asked: &Asked,
    method: &Method,
    at: (&str, &str),
    whole: Whole,
) -> Done<Response<Body>> {
    let said = |name| (whole == Whole::IfAsked).then(|| header(&asked.headers, name)).flatten();
    let etag = |name| said(name).and_then(|said| ETagCondition::parse_http_header(said.as_bytes()).ok());
    let date = |name| said(name).and_then(|said| Timestamp::parse(TimestampFormat::HttpDate, &said).ok());
    let conditions = Conditions {
        if_match: etag("if-match"),
        if_none_match: etag("if-none-match"),
        if_modified_since: date("if-modified-since"),
        if_unmodified_since: date("if-unmodified-since"),
    };
    let range = said("range").and_then(|said| s3s::dto::Range::parse(&said).ok());
    let sent = look(front, asked, at, None, Wanted { conditions, range, part: None, checksums: false }).await?;
    let Sent { found, bytes, headers, key, part } = sent;
    let mut response = Response::new(Body::empty());
    if let Some(location) = headers.get(super::about::ELSEWHERE) {
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        response.headers_mut().insert(http::header::LOCATION, location.clone());
        return Ok(response);
    }
    *response.headers_mut() = headers;
    if let Some(part) = part.and_then(|part| HeaderValue::from_str(&part).ok()) {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        response.headers_mut().insert(http::header::CONTENT_RANGE, part);
    }
    if *method != Method::HEAD {
        let object = found.version.object.ok_or_else(strange)?;
        let body = front.outgoing(&object, found.pieces, (bytes.start, bytes.end), key).await?;
        *response.body_mut() = Body::from(give(body).await?);
    }
    Ok(response)
}

/// Whether a page may be sent in part, or not at all, as the client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whole {
    /// As it asks.
    IfAsked,
    /// It is always whole: what is shown with an error is not what was asked for.
    Always,
}

async fn look(front: &Front, asked: &Asked, at: (&str, &str), id: Option<&str>, wanted: Wanted) -> Done<Sent> {
    let id = version(id)?;
    let action = if id.is_some() { Action::GetObjectVersion } else { Action::GetObject };
    let from = match wanted.range {
        Some(s3s::dto::Range::Int { first, .. }) => first,
        Some(s3s::dto::Range::Suffix { .. }) | None => 0,
    };
    let found = front.version(asked, action, at, id, from).await?;
    let Some(object) = &found.version.object else { return Err(marker(&found, id.is_some())) };
    if header(&asked.headers, "x-amz-server-side-encryption").is_some() {
        return Err(argument("x-amz-server-side-encryption is not asked for when an object is read"));
    }
    // A part that there is not is none with any key.
    let of_part = match (&wanted.range, wanted.part) {
        (Some(_), Some(_)) => return Err(error("InvalidRequest", "a range and a part cannot be asked for together")),
        (None, Some(number)) => Some(part_of(front, object, number).await?),
        (_, None) => None,
    };
    let opened = front.opens(object.about.sealed.as_ref(), &asked.headers, false)?;
    let mut headers = about::headers(object);
    if let Some((_, wanted)) = &opened {
        wanted.answer(&mut headers, &asked.headers);
    }
    if found.latest
        && let Ok(bucket) = BucketName::new(at.0)
        && let Some(expires) = front.expiration_of(asked, &bucket, at.1, &found.version).await?
        && let Ok(expires) = HeaderValue::from_str(&expires)
    {
        headers.insert("x-amz-expiration", expires);
    }
    seen(&mut headers, &found, object);
    match wanted.conditions.verdict(&object.etag, found.version.at) {
        Verdict::Go => {}
        Verdict::Failed => return Err(error("PreconditionFailed", "at least one of the preconditions did not hold")),
        Verdict::NotModified => {
            let mut unchanged = error("NotModified", "not modified");
            unchanged.set_status_code(StatusCode::NOT_MODIFIED);
            for name in ["content-type", "content-length"] {
                headers.remove(name);
            }
            unchanged.set_headers(headers);
            return Err(unchanged);
        }
    }
    let (bytes, part) = match (&wanted.range, of_part) {
        (None, None) => (0..object.bytes, None),
        (Some(range), _) => {
            let bytes = range.check(object.bytes).map_err(|_| unsatisfiable(object.bytes))?;
            let part = format!("bytes {}-{}/{}", bytes.start, bytes.end.saturating_sub(1), object.bytes);
            (bytes, Some(part))
        }
        (None, Some((bytes, count))) => {
            if let Some(count) = count {
                headers.insert("x-amz-mp-parts-count", HeaderValue::from(count));
            }
            let part = format!("bytes {}-{}/{}", bytes.start, bytes.end.saturating_sub(1), object.bytes);
            let part = (!bytes.is_empty()).then_some(part);
            (bytes, part)
        }
    };
    if wanted.checksums
        && let Some(whole) = &object.checksum
        && let Some(algorithm) = Algorithm::named(&whole.algorithm)
        && let Some(value) = summed(front, object, &bytes, wanted.part).await?
        && let Ok(value) = HeaderValue::from_str(&value)
    {
        headers.insert(algorithm.header(), value);
        headers.insert("x-amz-checksum-type", HeaderValue::from_static(kind(whole)));
    }
    headers.insert("content-length", HeaderValue::from(bytes.end - bytes.start));
    overridden(&mut headers, asked)?;
    Ok(Sent { found, bytes, headers, key: opened.map(|(key, _)| key), part })
}

/// The checksum of what is sent: of the whole, or of a part that was counted in the same way. Of a range there is none.
async fn summed(front: &Front, object: &kinds::Object, bytes: &Range<u64>, part: Option<i32>) -> Done<Option<String>> {
    let Some(whole) = &object.checksum else { return Ok(None) };
    let (Some(number), true) = (part, object.parts > 0) else {
        return Ok((bytes.end - bytes.start == object.bytes).then(|| whole.value.clone()));
    };
    let Ok(after) = u16::try_from(number - 1) else { return Ok(None) };
    let query = Query::PartsKept { body: object.body.clone(), after, max: 1 };
    let Reply::PartsKept(kept, _) = front.look(query).await? else { return Err(strange()) };
    let sum = kept.into_iter().next().and_then(|(_, part)| part.checksum);
    Ok(sum.filter(|sum| sum.algorithm == whole.algorithm).map(|sum| sum.value))
}

/// What is said of a version that is read.
fn seen(headers: &mut HeaderMap, found: &Found, object: &kinds::Object) {
    headers.insert("accept-ranges", HeaderValue::from_static("bytes"));
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{}\"", object.etag)) {
        headers.insert("etag", etag);
    }
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(found.version.at.0);
    if let Ok(at) = HeaderValue::from_str(&httpdate::fmt_http_date(at)) {
        headers.insert("last-modified", at);
    }
    named(headers, found);
}

fn named(headers: &mut HeaderMap, found: &Found) {
    if found.bucket.versioning != Versioning::Off
        && let Ok(id) = HeaderValue::from_str(&found.version.name().to_string())
    {
        headers.insert("x-amz-version-id", id);
    }
}

/// There is a delete marker and nothing to read.
fn marker(found: &Found, by_version: bool) -> S3Error {
    let mut gone = match by_version {
        true => super::error::refused(&Refusal::IsMarker),
        false => super::error::refused(&Refusal::NoSuchKey),
    };
    let mut headers = HeaderMap::new();
    headers.insert("x-amz-delete-marker", HeaderValue::from_static("true"));
    named(&mut headers, found);
    headers.insert("content-type", HeaderValue::from_static("application/xml"));
    gone.set_headers(headers);
    gone
}

fn unsatisfiable(bytes: u64) -> S3Error {
    let mut wrong = error("InvalidRange", "the requested range is not satisfiable");
    let mut headers = HeaderMap::new();
    if let Ok(range) = HeaderValue::from_str(&format!("bytes */{bytes}")) {
        headers.insert("content-range", range);
    }
    headers.insert("content-type", HeaderValue::from_static("application/xml"));
    wrong.set_headers(headers);
    wrong
}

/// Which bytes a part is, and how many parts there are; an object that was put whole is its only part.
async fn part_of(front: &Front, object: &kinds::Object, number: i32) -> Done<(Range<u64>, Option<u16>)> {
    let wrong = || error("InvalidPart", "the requested part number is not satisfiable");
    if number < 1 {
        return Err(argument("part numbers begin with 1"));
    }
    if object.parts == 0 {
        return if number == 1 { Ok((0..object.bytes, None)) } else { Err(wrong()) };
    }
    let Reply::PartsOf(parts) = front.look(Query::PartsOf { body: object.body.clone() }).await? else {
        return Err(strange());
    };
    let mut begins = 0;
    for part in parts {
        let bytes = open_bytes(&object.about, part.bytes)?;
        if i32::from(part.number) == number {
            return Ok((begins..begins + bytes, Some(object.parts)));
        }
        begins += bytes;
    }
    Err(wrong())
}

/// Headers that whoever has signed may have otherwise.
const OVERRIDES: [(&str, &str); 6] = [
    ("response-cache-control", "cache-control"),
    ("response-content-disposition", "content-disposition"),
    ("response-content-encoding", "content-encoding"),
    ("response-content-language", "content-language"),
    ("response-content-type", "content-type"),
    ("response-expires", "expires"),
];

fn overridden(headers: &mut HeaderMap, asked: &Asked) -> Done<()> {
    for pair in asked.query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some((_, name)) = OVERRIDES.iter().find(|(query, _)| *query == name) else { continue };
        if asked.caller == Caller::Anonymous {
            let words = "request specific response headers cannot be used for anonymous GET requests";
            return Err(error("InvalidRequest", words));
        }
        let value = unescape(value).and_then(|value| HeaderValue::from_str(&value).ok());
        let value = value.ok_or_else(|| argument(format!("the header {name} cannot be so")))?;
        headers.insert(HeaderName::from_static(name), value);
    }
    Ok(())
}

/// An answer whose ETags are written without quotes. Those of s3s have some everywhere, and S3 leaves them out among the attributes of objects.
#[derive(Clone, Copy)]
pub struct BareEtags;

/// A document of s3s without quotes around its ETags.
pub fn bare_etags(document: &str) -> String {
    let mut bare = String::with_capacity(document.len());
    let mut rest = document;
    while let Some((before, after)) = rest.split_once("<ETag>") {
        let (etag, behind) = after.split_once("</ETag>").unwrap_or((after, ""));
        let etag = etag.replace("&quot;", "").replace('"', "");
        bare += &format!("{before}<ETag>{etag}</ETag>");
        rest = behind;
    }
    bare + rest
}

/// `GetObjectAttributes`.
pub async fn get_object_attributes(
    front: &Front,
    request: S3Request<GetObjectAttributesInput>,
) -> Done<S3Response<GetObjectAttributesOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let id = version(input.version_id.as_deref())?;
    let action = if id.is_some() { Action::GetObjectVersionAttributes } else { Action::GetObjectAttributes };
    let found = front.version(&asked, action, (&input.bucket, &input.key), id, 0).await?;
    let Some(object) = &found.version.object else { return Err(marker(&found, id.is_some())) };
    front.opens(object.about.sealed.as_ref(), &asked.headers, false)?;
    let named: String = header(&asked.headers, "x-amz-object-attributes").unwrap_or_default();
    let wanted: Vec<&str> = named.split(',').map(str::trim).collect();
    let known = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"];
    if let Some(other) = wanted.iter().find(|one| !known.contains(*one)) {
        return Err(argument(format!("{other:.40?} is no attribute of objects")));
    }
    let wants = |name: &str| wanted.contains(&name);
    let mut output = GetObjectAttributesOutput {
        last_modified: Some(about::moment(found.version.at)),
        version_id: (found.bucket.versioning != Versioning::Off).then(|| found.version.name().to_string()),
        ..GetObjectAttributesOutput::default()
    };
    output.e_tag = wants("ETag").then(|| ETag::Strong(object.etag.clone()));
    output.object_size = wants("ObjectSize").then_some(object.bytes as i64);
    output.storage_class = wants("StorageClass").then(|| StorageClass::from_static(StorageClass::STANDARD));
    output.checksum = object.checksum.as_ref().filter(|_| wants("Checksum")).map(checksum);
    if wants("ObjectParts") && object.parts > 0 {
        let marker = input.part_number_marker.unwrap_or(0);
        let after = u16::try_from(marker).map_err(|_| argument("a marker is the number of a part"))?;
        let most = input.max_parts.unwrap_or(1_000).clamp(0, 1_000);
        let query = Query::PartsKept { body: object.body.clone(), after, max: most as usize };
        let Reply::PartsKept(page, more) = front.look(query).await? else { return Err(strange()) };
        output.object_parts = Some(GetObjectAttributesParts {
            is_truncated: Some(more),
            max_parts: Some(most),
            next_part_number_marker: page.last().map(|(number, _)| i32::from(*number)),
            part_number_marker: Some(marker),
            total_parts_count: Some(i32::from(object.parts)),
            parts: Some(page.iter().map(|(number, part)| listed(object, *number, part)).collect()),
        });
    }
    let mut response = S3Response::new(output);
    response.extensions.insert(BareEtags);
    Ok(response)
}

/// A part of a finished object; its checksum where that of the object was made of such.
fn listed(object: &kinds::Object, number: u16, part: &kinds::Part) -> ObjectPart {
    let of_object = object.checksum.as_ref().map(|sum| sum.algorithm.as_str());
    let sum = part.checksum.as_ref().filter(|sum| Some(sum.algorithm.as_str()) == of_object);
    let sum = sum.map(checksum).unwrap_or_default();
    ObjectPart {
        part_number: Some(i32::from(number)),
        size: open_bytes(&object.about, part.bytes).ok().map(|bytes| bytes as i64),
        checksum_crc32: sum.checksum_crc32,
        checksum_crc32c: sum.checksum_crc32c,
        checksum_crc64nvme: sum.checksum_crc64nvme,
        checksum_sha1: sum.checksum_sha1,
        checksum_sha256: sum.checksum_sha256,
    }
}

/// A checksum as s3s writes it.
pub fn checksum(checksum: &kinds::Checksum) -> Checksum {
    let value = |algorithm: Algorithm| (checksum.algorithm == algorithm.name()).then(|| checksum.value.clone());
    Checksum {
        checksum_crc32: value(Algorithm::Crc32),
        checksum_crc32c: value(Algorithm::Crc32c),
        checksum_crc64nvme: value(Algorithm::Crc64Nvme),
        checksum_sha1: value(Algorithm::Sha1),
        checksum_sha256: value(Algorithm::Sha256),
        checksum_type: Some(ChecksumType::from_static(kind(checksum))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_lose_their_quotes_and_nothing_else_does() {
        let document = "<A><ETag>&quot;abc-2&quot;</ETag><B>&quot;</B><ETag>\"d\"</ETag></A>";
        assert_eq!(bare_etags(document), "<A><ETag>abc-2</ETag><B>&quot;</B><ETag>d</ETag></A>");
        assert_eq!(bare_etags("<A/>"), "<A/>");
    }
}

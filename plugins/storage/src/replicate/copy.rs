//! Makes one key at the other side what it is here now: an object with all that is said of it, or nothing.
//!
//! What is there already is looked at first, with one small request: whoever has the same bytes (by ETag and length) and says the same of them
//! is left alone. That is what ends copies that go around in a circle, and what makes looking at everything once more cheap.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use s3s::dto::Tagging;
use tokio::sync::Semaphore;

use super::sign::{Headers, escape};
use super::there::{Ask, Failure, There};
use crate::meta::access::MetaError;
use crate::meta::kinds::Object;
use crate::meta::names::{BucketName, ObjectKey};
use crate::meta::query::{Query, Reply};
use crate::meta::refusal::Refusal;
use crate::rules::seal::DataKey;
use crate::rules::seal::header::Header;
use crate::s3::Front;
use crate::s3::copies::{self, Algorithm};

const MIB: u64 = 1 << 20;
/// Longest body that is sent at once; it is in memory meanwhile.
const WHOLE_BYTES_MAX: u64 = 64 * MIB;
/// Parts of longer ones that were put whole: 160 GB in ten thousand.
const PART_BYTES: u64 = 16 * MIB;
/// Parts that an object has at most (S3).
const PARTS_MAX: u64 = 10_000;
/// Mebibytes of bodies that are in memory at once, of all keys together.
pub const ROOM_MIB: usize = 128;

/// What became of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is there as it is here.
    Done,
    /// It cannot be copied as it is.
    Cannot(&'static str),
}

/// From where to where.
pub struct Copier<'a> {
    /// Objects here.
    pub front: &'a Front,
    /// The other side.
    pub there: &'a There,
    /// Room for bodies.
    pub room: &'a Semaphore,
}

/// How a body is sent: whole, or in parts of these lengths.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Shape {
    Whole,
    Parts(Vec<u64>),
}

/// How a body of so many bytes is sent that was made of parts of these lengths. The same parts give the same ETag, so they are kept
/// where that goes. None for what is too long.
fn shape(bytes: u64, parts: &[u64]) -> Option<Shape> {
    if !parts.is_empty() && parts.iter().all(|part| *part <= WHOLE_BYTES_MAX) {
        return Some(Shape::Parts(parts.to_vec()));
    }
    if bytes <= WHOLE_BYTES_MAX {
        return Some(Shape::Whole);
    }
    let part = [PART_BYTES, WHOLE_BYTES_MAX].into_iter().find(|part| bytes.div_ceil(*part) <= PARTS_MAX)?;
    Some(Shape::Parts((0..bytes.div_ceil(part)).map(|number| part.min(bytes - number * part)).collect()))
}

/// What is said of an object there is what is said of it here.
fn says_the_same(here: &HeaderMap, there: &HeaderMap) -> bool {
    let of_object = |name: &str| copies::is_kept(name);
    let names = here.keys().chain(there.keys()).filter(|name| of_object(name.as_str()));
    names.into_iter().all(|name| here.get(name) == there.get(name))
}

fn here(words: impl ToString) -> Failure {
    Failure::Refused(words.to_string())
}

impl Copier<'_> {
    /// Copies a key, or deletes it.
    ///
    /// # Errors
    /// When it is not done; whatever was begun is taken back as far as that goes.
    pub async fn copy(&self, bucket: &BucketName, key: &ObjectKey) -> Result<Outcome, Failure> {
        let query = Query::Version { bucket: bucket.clone(), key: key.clone(), version: None, from: 0 };
        let object = match self.front.gateway.look(query).await {
            Ok(Reply::Version(found)) => found.version.object,
            Err(MetaError::Refused(Refusal::NoSuchKey)) => None,
            Ok(_) => return Err(here("the metadata answer something else")),
            Err(error) => return Err(here(error)),
        };
        match object {
            None => self.delete(key.as_str()).await.map(|()| Outcome::Done),
            Some(object) => self.put(key.as_str(), &object).await,
        }
    }

    async fn ask(
        &self,
        method: Method,
        key: &str,
        query: Vec<(&str, String)>,
        (headers, body): (Headers, Bytes),
    ) -> Result<super::there::Answer, Failure> {
        let ask = Ask { method, key, query, headers, body };
        self.there.ask(ask, self.front.gateway.wall()).await
    }

    /// The same, and anything but success is a failure.
    async fn done(
        &self,
        method: Method,
        key: &str,
        query: Vec<(&str, String)>,
        sent: (Headers, Bytes),
    ) -> Result<super::there::Answer, Failure> {
        let what = format!("{method} {}", self.there.name(key));
        let answer = self.ask(method, key, query, sent).await?;
        // The end of an upload may fail after it was begun to be answered.
        match answer.status.is_success() && answer.tag("Error").is_none() {
            true => Ok(answer),
            false => Err(answer.failure(&what)),
        }
    }

    async fn delete(&self, key: &str) -> Result<(), Failure> {
        // Where versions are kept, deleting nothing would leave a marker each time.
        let head = self.ask(Method::HEAD, key, Vec::new(), Default::default()).await?;
        if head.status == StatusCode::NOT_FOUND {
            return Ok(());
        }
        self.done(Method::DELETE, key, Vec::new(), Default::default()).await.map(drop)
    }

    async fn put(&self, key: &str, object: &Object) -> Result<Outcome, Failure> {
        if let Some(sealed) = &object.about.sealed
            && let Ok(Header::Customer { .. }) = Header::decode(sealed)
        {
            return Ok(Outcome::Cannot("it is sealed with a key of a client's (SSE-C)"));
        }
        let parts = copies::parts(self.front, object).await.map_err(|error| here(error.to_string()))?;
        let Some(shape) = shape(object.bytes, &parts) else {
            return Ok(Outcome::Cannot("it is longer than 625 GiB and was put in parts that are longer than 64 MiB"));
        };
        if self.is_there(key, object).await? {
            return Ok(Outcome::Done);
        }
        let opened = copies::opens(self.front, object).map_err(|error| here(error.to_string()))?;
        match shape {
            Shape::Whole => self.whole(key, object, opened).await?,
            Shape::Parts(parts) => self.parts(key, object, &parts, opened).await?,
        }
        Ok(Outcome::Done)
    }

    async fn is_there(&self, key: &str, object: &Object) -> Result<bool, Failure> {
        let head = self.ask(Method::HEAD, key, Vec::new(), Default::default()).await?;
        let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let same = head.status == StatusCode::OK
            && text("etag").trim_matches('"') == object.etag
            && text("content-length").parse() == Ok(object.bytes)
            && says_the_same(&copies::headers(object), &head.headers);
        if !same {
            return Ok(false);
        }
        // Not everybody says in answer to HEAD how many tags there are.
        let tags = self.ask(Method::GET, key, vec![("tagging", String::new())], Default::default()).await?;
        let told = tags.status.is_success().then(|| std::str::from_utf8(&tags.body).ok()).flatten();
        let there = told.and_then(tags_of).unwrap_or_default();
        Ok(there == object.about.tags)
    }

    /// Headers of a request that makes the object.
    fn said(&self, object: &Object) -> Headers {
        let kept = copies::headers(object);
        let kept = kept.iter().filter(|(name, _)| copies::is_kept(name.as_str()));
        let mut said: Headers =
            kept.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
        let tags = object.about.tags.iter();
        let tags: Vec<String> =
            tags.map(|(name, value)| format!("{}={}", escape(name, false), escape(value, false))).collect();
        if !tags.is_empty() {
            said.insert("x-amz-tagging".into(), tags.join("&").into_bytes());
        }
        if object.about.sealed.is_some() {
            // What is sealed here lies open nowhere else.
            said.insert("x-amz-server-side-encryption".into(), b"AES256".to_vec());
        }
        said
    }

    async fn whole(&self, key: &str, object: &Object, opened: Option<DataKey>) -> Result<(), Failure> {
        let _room = self.room(object.bytes).await?;
        let body = self.read(object, (0, object.bytes), opened).await?;
        let mut said = self.said(object);
        if let Some(sum) = object.checksum.as_ref().filter(|sum| !sum.composite)
            && let Some(algorithm) = Algorithm::named(&sum.algorithm)
        {
            said.insert(algorithm.header().into(), sum.value.clone().into_bytes());
        }
        self.done(Method::PUT, key, Vec::new(), (said, body)).await.map(drop)
    }

    async fn parts(&self, key: &str, object: &Object, parts: &[u64], opened: Option<DataKey>) -> Result<(), Failure> {
        let begin = (self.said(object), Bytes::new());
        let begun = self.done(Method::POST, key, vec![("uploads", String::new())], begin).await?;
        let upload = begun.tag("UploadId").ok_or_else(|| begun.failure("an upload without an id"))?;
        let filled = self.fill(key, object, (&upload, parts), opened).await;
        if filled.is_err() {
            let abort = vec![("uploadId", upload)];
            drop(self.ask(Method::DELETE, key, abort, Default::default()).await);
        }
        filled
    }

    async fn fill(
        &self,
        key: &str,
        object: &Object,
        (upload, parts): (&str, &[u64]),
        opened: Option<DataKey>,
    ) -> Result<(), Failure> {
        let mut list = String::from("<CompleteMultipartUpload>");
        let mut from = 0;
        for (number, bytes) in (1_u32..).zip(parts) {
            let _room = self.room(*bytes).await?;
            let body = self.read(object, (from, from + bytes), opened.clone()).await?;
            let query = vec![("partNumber", number.to_string()), ("uploadId", upload.to_owned())];
            let put = self.done(Method::PUT, key, query, (Headers::new(), body)).await?;
            let etag = put.headers.get("etag").and_then(|etag| etag.to_str().ok());
            let etag = etag.ok_or_else(|| put.failure("a part without an ETag"))?.trim_matches('"');
            list.push_str(&format!("<Part><PartNumber>{number}</PartNumber><ETag>\"{etag}\"</ETag></Part>"));
            from += bytes;
        }
        list.push_str("</CompleteMultipartUpload>");
        let query = vec![("uploadId", upload.to_owned())];
        self.done(Method::POST, key, query, (Headers::new(), Bytes::from(list))).await.map(drop)
    }

    async fn room(&self, bytes: u64) -> Result<tokio::sync::SemaphorePermit<'_>, Failure> {
        let mebibytes = u32::try_from(bytes.div_ceil(MIB).max(1)).unwrap_or(u32::MAX).min(ROOM_MIB as u32);
        self.room.acquire_many(mebibytes).await.map_err(here)
    }

    /// The bytes `from..to` of an object, open.
    async fn read(&self, object: &Object, range: (u64, u64), opened: Option<DataKey>) -> Result<Bytes, Failure> {
        let body = self.front.outgoing(object, Vec::new(), range, opened).await;
        let mut body = body.map_err(|error| here(error.to_string()))?;
        let mut all = BytesMut::with_capacity((range.1 - range.0) as usize);
        while let Some(piece) = body.next().await.map_err(here)? {
            all.extend_from_slice(&piece);
        }
        match all.len() as u64 == range.1 - range.0 {
            true => Ok(all.freeze()),
            false => Err(here("the object is shorter than the metadata say")),
        }
    }
}

fn tags_of(text: &str) -> Option<BTreeMap<String, String>> {
    let tagging: Tagging = copies::document(text)?;
    Some(tagging.tag_set.into_iter().filter_map(|tag| Some((tag.key?, tag.value.unwrap_or_default()))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_sent_whole_or_in_the_parts_that_it_was_made_of_or_in_some() {
        assert_eq!(shape(0, &[]), Some(Shape::Whole));
        assert_eq!(shape(WHOLE_BYTES_MAX, &[]), Some(Shape::Whole));
        assert_eq!(shape(12 * MIB, &[5 * MIB, 7 * MIB]), Some(Shape::Parts(vec![5 * MIB, 7 * MIB])));
        let Some(Shape::Parts(cut)) = shape(WHOLE_BYTES_MAX + 1, &[WHOLE_BYTES_MAX + 1]) else { panic!("in parts") };
        assert_eq!(cut, [PART_BYTES, PART_BYTES, PART_BYTES, PART_BYTES, 1]);
        for bytes in [PART_BYTES * PARTS_MAX, PART_BYTES * PARTS_MAX + 1, WHOLE_BYTES_MAX * PARTS_MAX] {
            let Some(Shape::Parts(cut)) = shape(bytes, &[]) else { panic!("{bytes} in parts") };
            assert!(cut.len() as u64 <= PARTS_MAX && cut.iter().sum::<u64>() == bytes, "{bytes}");
            assert!(cut.iter().all(|part| *part <= WHOLE_BYTES_MAX));
        }
        assert_eq!(shape(WHOLE_BYTES_MAX * PARTS_MAX + 1, &[]), None);
    }

    #[test]
    fn tags_are_read_as_others_write_them() {
        let text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Tagging xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><TagSet>\
             <Tag><Key>a</Key><Value>b &amp; c</Value></Tag><Tag><Key>d</Key><Value></Value></Tag></TagSet></Tagging>";
        let tags = tags_of(text).expect("they can be read");
        assert_eq!(tags, [("a", "b & c"), ("d", "")].map(|(a, b)| (a.to_owned(), b.to_owned())).into());
        assert_eq!(tags_of("<html>"), None);
    }

    #[test]
    fn what_is_said_of_an_object_is_the_same_or_not() {
        let headers = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
            pairs.iter().map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value"))).collect()
        };
        let here = headers(&[("content-type", "a/b"), ("x-amz-meta-x", "1"), ("x-amz-tagging-count", "1")]);
        let same = headers(&[("content-type", "a/b"), ("x-amz-meta-x", "1"), ("date", "today")]);
        assert!(says_the_same(&here, &same));
        for other in [
            headers(&[("content-type", "a/c"), ("x-amz-meta-x", "1")]),
            headers(&[("content-type", "a/b")]),
            headers(&[("content-type", "a/b"), ("x-amz-meta-x", "1"), ("x-amz-meta-y", "1")]),
            headers(&[("content-type", "a/b"), ("x-amz-meta-x", "1"), ("cache-control", "no-store")]),
        ] {
            assert!(!says_the_same(&here, &other), "{other:?}");
        }
    }
}

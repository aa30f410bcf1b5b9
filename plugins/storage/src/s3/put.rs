//! Making objects: put whole, or copied.

use bytes::Bytes;
use s3s::dto::*;
use s3s::{S3Request, S3Response};

use super::about::{self, condition, header, lock, moment};
use super::access::Action;
use super::body::{Coming, sealer, take};
use super::conditions::{Conditions, Verdict};
use super::error::{Done, error, failed, strange, unwritten};
use super::front::{Asked, Front, version};
use super::get::checksum;
use super::hash::{Algorithm, Counted, Counting, Said};
use super::sealing::broken;
use crate::gateway::Writer;
use crate::meta::access::MetaError;
use crate::meta::command::{Answer, By, Command, Copying, Made, Put};
use crate::meta::kinds::{self, About, Versioning, Written};
use crate::meta::limits::BODY_BYTES_MAX;
use crate::meta::names::VersionRef;
use crate::meta::query::Found;
use crate::meta::refusal::Refusal;
use crate::rules::seal::{DataKey, Sealing};

/// `PutObject`.
pub async fn put_object(front: &Front, request: S3Request<PutObjectInput>) -> Done<S3Response<PutObjectOutput>> {
    let asked = front.asked(&request);
    let said = Said::read(&request.headers)?;
    let input = request.input;
    if input.write_offset_bytes.is_some() {
        return Err(error("NotImplemented", "objects are not appended to"));
    }
    let (bucket, key, there) = front.place(&asked, Action::PutObject, (&input.bucket, &input.key)).await?;
    let mut about = front.about(&asked, &bucket, &there).await?;
    let lock = lock(&asked.headers)?;
    let sealed = front.sealing(&asked, &bucket).await?;
    about.sealed = sealed.as_ref().map(|sealed| sealed.header.clone());
    let seal = sealer(front, sealed.as_ref().map(|sealed| &sealed.key), 0)?;
    let by = request.extensions.get::<By>().copied().unwrap_or_default();
    let trailers = request.trailing_headers;
    let length = about::length(input.content_length, &asked.headers);
    let coming = Coming { body: input.body, length, said, trailers, seal };
    let expires = front.expiration(&asked, &bucket, key.as_str(), &about.tags, length).await?;
    let (body, counted) = take(front.gateway.writer(there.class, there.when_short), coming).await?;
    let Counted { etag, checksum: counted, .. } = counted;
    let condition = condition(&asked.headers);
    let put = Put { bucket, key, body, etag, checksum: counted.clone(), about, lock, condition, by };
    let made = made(front.ask(Command::Put(Box::new(put))).await?)?;
    let sum = counted.as_ref().map(checksum).unwrap_or_default();
    let mut response = S3Response::new(PutObjectOutput {
        expiration: expires,
        e_tag: Some(ETag::Strong(made.etag)),
        version_id: made.version.map(|version| version.to_string()),
        checksum_crc32: sum.checksum_crc32,
        checksum_crc32c: sum.checksum_crc32c,
        checksum_crc64nvme: sum.checksum_crc64nvme,
        checksum_sha1: sum.checksum_sha1,
        checksum_sha256: sum.checksum_sha256,
        checksum_type: sum.checksum_type,
        ..PutObjectOutput::default()
    });
    if let Some(sealed) = sealed {
        sealed.wanted.answer(&mut response.headers, &asked.headers);
    }
    Ok(response)
}

/// What was made. Clients are not told of the null version, which is what there is where versions are no longer kept.
pub fn made(answer: Answer) -> Done<Made> {
    match answer {
        Answer::Made(made) => Ok(Made { version: made.version.filter(|version| *version != VersionRef::Null), ..made }),
        _ => Err(strange()),
    }
}

/// The object that is copied from, for whoever may read it and under the conditions of the request.
pub async fn source(
    front: &Front,
    asked: &Asked,
    source: &CopySource,
    conditions: Conditions,
    from: u64,
) -> Done<(String, String, Box<Found>)> {
    let CopySource::Bucket { bucket, key, version_id } = source else {
        return Err(error("NotImplemented", "a source is a bucket and a key"));
    };
    let id = version(version_id.as_deref())?;
    let action = if id.is_some() { Action::GetObjectVersion } else { Action::GetObject };
    let found = front.version(&asked.of_source(), action, (bucket, key), id, from).await?;
    let Some(object) = &found.version.object else {
        return Err(match id {
            Some(_) => error("InvalidRequest", "the source of a copy may not be a delete marker"),
            None => super::error::refused(&Refusal::NoSuchKey),
        });
    };
    match conditions.verdict(&object.etag, found.version.at) {
        Verdict::Go => Ok((bucket.to_string(), key.to_string(), found)),
        Verdict::NotModified | Verdict::Failed => {
            Err(error("PreconditionFailed", "at least one of the preconditions of the source did not hold"))
        }
    }
}

/// `CopyObject`.
pub async fn copy_object(front: &Front, request: S3Request<CopyObjectInput>) -> Done<S3Response<CopyObjectOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let (bucket, key, there) = front.place(&asked, Action::PutObject, (&input.bucket, &input.key)).await?;
    let conditions = Conditions {
        if_match: input.copy_source_if_match,
        if_none_match: input.copy_source_if_none_match,
        if_modified_since: input.copy_source_if_modified_since,
        if_unmodified_since: input.copy_source_if_unmodified_since,
    };
    let (from_bucket, from_key, found) = source(front, &asked, &input.copy_source, conditions, 0).await?;
    let object = found.version.object.as_deref().ok_or_else(strange)?;
    let mut about = front.about(&asked, &bucket, &there).await?;
    let opened = front.opens(object.about.sealed.as_ref(), &asked.headers, true)?;
    let sealed = front.sealing(&asked, &bucket).await?;
    let directive = |name| match header(&asked.headers, name).as_deref() {
        None | Some("COPY") => Ok(false),
        Some("REPLACE") => Ok(true),
        Some(word) => Err(super::error::argument(format!("{word:.40?}: COPY or REPLACE"))),
    };
    let anew = directive("x-amz-metadata-directive")?;
    let tags_anew = directive("x-amz-tagging-directive")?;
    let onto_itself = from_bucket == input.bucket && from_key == input.key;
    let algorithm = match header(&asked.headers, "x-amz-checksum-algorithm") {
        None => None,
        Some(name) => Some(Algorithm::named(&name).ok_or_else(|| error("InvalidRequest", "no such checksum"))?),
    };
    let is_newest = found.latest;
    if onto_itself
        && is_newest
        && !anew
        && !tags_anew
        && algorithm.is_none()
        && header(&asked.headers, "x-amz-website-redirect-location").is_none()
    {
        let words = "this copy request is illegal because it is trying to copy an object to itself without changing the \
                     object's metadata, storage class, website redirect location or encryption attributes";
        return Err(error("InvalidRequest", words));
    }
    if object.bytes > BODY_BYTES_MAX {
        let words = format!("the source of {} bytes exceeds {BODY_BYTES_MAX}: copy it in parts", object.bytes);
        return Err(error("InvalidRequest", words));
    }
    let lock = lock(&asked.headers)?;
    let condition = condition(&asked.headers);
    let same_sum = object.checksum.as_ref().map(|sum| sum.algorithm.as_str());
    let counts_anew = algorithm.is_some_and(|wanted| same_sum != Some(wanted.name()));
    let from = (found.bucket.versioning != Versioning::Off).then(|| found.version.name().to_string());
    // What is sealed is opened, and what is to be sealed gets a key of its own: only what is neither is shared.
    let (made, sum) = if counts_anew || opened.is_some() || sealed.is_some() {
        let algorithm = algorithm.or_else(|| same_sum.and_then(Algorithm::named));
        let said = Said { algorithm, ..Said::default() };
        let opener = opened.map(|(key, _)| key);
        let seal = sealer(front, sealed.as_ref().map(|sealed| &sealed.key), 0)?;
        let writer = front.gateway.writer(there.class, there.when_short);
        let (body, counted) = pour(front, writer, &found, 0..object.bytes, said, (opener, seal)).await?;
        about.sealed = sealed.as_ref().map(|sealed| sealed.header.clone());
        if !anew {
            about.headers = object.about.headers.clone();
        }
        if !tags_anew {
            about.tags = object.about.tags.clone();
        }
        let Counted { etag, checksum, .. } = counted;
        let put = Put { bucket, key, body, etag, checksum: checksum.clone(), about, lock, condition, by: By::Copy };
        (made(front.ask(Command::Put(Box::new(put))).await?)?, checksum)
    } else {
        let mut copying = Copying {
            from_bucket: crate::meta::names::BucketName::new(from_bucket.as_str())
                .map_err(|error| super::error::bad_bucket(&error))?,
            from_key: super::front::key(&from_key)?,
            from_version: Some(found.version.name()),
            from_etag: Some(object.etag.clone()),
            bucket,
            key,
            about: None,
            tags: tags_anew.then(|| about.tags.clone()),
            acl: about.acl.clone(),
            lock,
            condition,
        };
        copying.about = described(anew, about, object);
        let answer = front.gateway.ask(Command::Copy(Box::new(copying))).await;
        let answer = answer.map_err(|failure| match failure {
            // It was replaced since it was looked at: its bytes are not those that the client named.
            MetaError::Refused(Refusal::NoSuchVersion) if input_is_newest(&input.copy_source) => {
                error("ServiceUnavailable", "the source was replaced meanwhile")
            }
            failure => failed(failure),
        })?;
        (made(answer)?, object.checksum.clone())
    };
    let sum = sum.as_ref().map(checksum).unwrap_or_default();
    let result = CopyObjectResult {
        e_tag: Some(ETag::Strong(made.etag)),
        last_modified: Some(moment(made.at)),
        checksum_crc32: sum.checksum_crc32,
        checksum_crc32c: sum.checksum_crc32c,
        checksum_crc64nvme: sum.checksum_crc64nvme,
        checksum_sha1: sum.checksum_sha1,
        checksum_sha256: sum.checksum_sha256,
        checksum_type: sum.checksum_type,
    };
    let mut response = S3Response::new(CopyObjectOutput {
        copy_object_result: Some(result),
        version_id: made.version.map(|version| version.to_string()),
        copy_source_version_id: from,
        ..CopyObjectOutput::default()
    });
    if let Some(sealed) = sealed {
        sealed.wanted.answer(&mut response.headers, &asked.headers);
    }
    Ok(response)
}

fn input_is_newest(source: &CopySource) -> bool {
    matches!(source, CopySource::Bucket { version_id: None, .. })
}

/// What is said of a copy: what the request says, or what is said of the source, by whoever copies.
fn described(anew: bool, mut about: About, object: &kinds::Object) -> Option<About> {
    if !anew {
        about.headers = object.about.headers.clone();
    }
    Some(about)
}

/// Writes part of an object anew.
///
/// # Errors
/// When it cannot be read or kept.
pub async fn pour(
    front: &Front,
    mut writer: Writer,
    found: &Found,
    bytes: std::ops::Range<u64>,
    said: Said,
    (key, mut seal): (Option<DataKey>, Option<Sealing>),
) -> Done<(Written, Counted)> {
    let object = found.version.object.as_deref().ok_or_else(strange)?;
    let mut body = front.outgoing(object, found.pieces.clone(), (bytes.start, bytes.end), key).await?;
    let mut counting = Counting::new(said);
    while let Some(piece) = body.next().await.map_err(|why| error("ServiceUnavailable", why))? {
        counting.update(&piece);
        let piece = match &mut seal {
            None => piece,
            Some(seal) => Bytes::from(seal.push(&piece).map_err(broken)?),
        };
        writer.push(piece).await.map_err(unwritten)?;
    }
    let counted = counting.finish(None)?;
    if let Some(seal) = seal {
        writer.push(Bytes::from(seal.finish().map_err(broken)?)).await.map_err(unwritten)?;
    }
    Ok((writer.finish().await.map_err(unwritten)?, counted))
}

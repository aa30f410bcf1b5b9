//! Uploads in parts: begun, filled (from a client or from another object), listed, finished, given up.

use data_encoding::HEXLOWER;
use s3s::dto::*;
use s3s::{S3Request, S3Response};

use super::about::{self, condition, header, lock, moment, owner};
use super::access::Action;
use super::body::{Coming, sealer, take};
use super::conditions::Conditions;
use super::error::{Done, argument, error, failed, refused, strange};
use super::front::{Asked, Front, upload};
use super::get::checksum;
use super::hash::{Algorithm, Counted, Said, md5};
use super::put::{made, pour, source};
use super::sealing::open_bytes;
use super::sums::Way;
use crate::meta::access::MetaError;
use crate::meta::command::{Answer, Command, CompleteUpload, CreateUpload, PutPart};
use crate::meta::kinds::{self, Bucket, Upload};
use crate::meta::limits::{BODY_BYTES_MAX, PAGE_MAX, PARTS_MAX};
use crate::meta::names::{BucketName, ObjectKey, UploadId};
use crate::meta::query::{Query, Reply};
use crate::meta::refusal::Refusal;

/// `CreateMultipartUpload`.
pub async fn create_multipart_upload(
    front: &Front,
    request: S3Request<CreateMultipartUploadInput>,
) -> Done<S3Response<CreateMultipartUploadOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let (bucket, key, there) = front.place(&asked, Action::PutObject, (&input.bucket, &input.key)).await?;
    let mut about = front.about(&asked, &bucket, &there).await?;
    let sealed = front.sealing(&asked, &bucket).await?;
    about.sealed = sealed.as_ref().map(|sealed| sealed.header.clone());
    let lock = lock(&asked.headers)?;
    let way = Way::new(
        header(&asked.headers, "x-amz-checksum-algorithm").as_deref(),
        header(&asked.headers, "x-amz-checksum-type").as_deref(),
    )?;
    let create = CreateUpload { bucket, key, about, lock, checksum: way.map(Way::kept) };
    let Answer::Upload(id) = front.ask(Command::CreateUpload(Box::new(create))).await? else { return Err(strange()) };
    let mut response = S3Response::new(CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(id.to_string()),
        checksum_algorithm: way.map(|way| ChecksumAlgorithm::from_static(way.algorithm.name())),
        checksum_type: way.map(kind),
        ..CreateMultipartUploadOutput::default()
    });
    if let Some(sealed) = sealed {
        sealed.wanted.answer(&mut response.headers, &asked.headers);
    }
    Ok(response)
}

fn kind(way: Way) -> ChecksumType {
    ChecksumType::from_static(if way.composite { ChecksumType::COMPOSITE } else { ChecksumType::FULL_OBJECT })
}

/// An upload that is under way, for whoever may write to it.
async fn under_way(
    front: &Front,
    asked: &Asked,
    action: Action,
    at: (&str, &str),
    id: &str,
) -> Done<(BucketName, ObjectKey, Bucket, UploadId, Upload)> {
    let (bucket, key, there) = front.place(asked, action, at).await?;
    let id = upload(id)?;
    let query = Query::Upload { bucket: bucket.clone(), key: key.clone(), upload: id };
    let Reply::Upload(found) = front.look(query).await? else { return Err(strange()) };
    Ok((bucket, key, there, id, found))
}

fn part_number(number: i32) -> Done<u16> {
    let number = u16::try_from(number).ok().filter(|number| (1..=PARTS_MAX).contains(number));
    number.ok_or_else(|| argument(format!("part number must be an integer between 1 and {PARTS_MAX}, inclusive")))
}

/// What is counted of a part: what the client says, and in any case what the upload was begun with.
fn counted_as(upload: &Upload, mut said: Said) -> Done<Said> {
    let Some(way) = upload.checksum.as_deref().and_then(Way::read) else { return Ok(said) };
    match said.algorithm {
        Some(other) if other != way.algorithm => {
            let (wanted, other) = (way.algorithm.name(), other.name());
            Err(error("InvalidRequest", format!("checksum type mismatch: {wanted} is expected, and {other} came")))
        }
        _ => {
            said.algorithm = Some(way.algorithm);
            Ok(said)
        }
    }
}

/// `UploadPart`.
pub async fn upload_part(front: &Front, request: S3Request<UploadPartInput>) -> Done<S3Response<UploadPartOutput>> {
    let asked = front.asked(&request);
    let said = Said::read(&request.headers)?;
    let input = request.input;
    let number = part_number(input.part_number)?;
    let at = (input.bucket.as_str(), input.key.as_str());
    let (bucket, key, there, id, found) = under_way(front, &asked, Action::PutObject, at, &input.upload_id).await?;
    let said = counted_as(&found, said)?;
    let opened = front.opens(found.about.sealed.as_ref(), &asked.headers, false)?;
    let seal = sealer(front, opened.as_ref().map(|(key, _)| key), number)?;
    let trailers = request.trailing_headers;
    let length = about::length(input.content_length, &asked.headers);
    let coming = Coming { body: input.body, length, said, trailers, seal };
    let (body, counted) = take(front.gateway.writer(there.class, there.when_short).of_part(), coming).await?;
    let Counted { etag, checksum: counted, .. } = counted;
    let put = PutPart { bucket, key, upload: id, number, body, etag, checksum: counted.clone() };
    let made = made(front.ask(Command::PutPart(Box::new(put))).await?)?;
    let sum = counted.as_ref().map(checksum).unwrap_or_default();
    let mut response = S3Response::new(UploadPartOutput {
        e_tag: Some(ETag::Strong(made.etag)),
        checksum_crc32: sum.checksum_crc32,
        checksum_crc32c: sum.checksum_crc32c,
        checksum_crc64nvme: sum.checksum_crc64nvme,
        checksum_sha1: sum.checksum_sha1,
        checksum_sha256: sum.checksum_sha256,
        ..UploadPartOutput::default()
    });
    if let Some((_, wanted)) = opened {
        wanted.answer(&mut response.headers, &asked.headers);
    }
    Ok(response)
}

/// `UploadPartCopy`.
pub async fn upload_part_copy(
    front: &Front,
    request: S3Request<UploadPartCopyInput>,
) -> Done<S3Response<UploadPartCopyOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let number = part_number(input.part_number)?;
    let at = (input.bucket.as_str(), input.key.as_str());
    let (bucket, key, there, id, upload) = under_way(front, &asked, Action::PutObject, at, &input.upload_id).await?;
    let conditions = Conditions {
        if_match: input.copy_source_if_match,
        if_none_match: input.copy_source_if_none_match,
        if_modified_since: input.copy_source_if_modified_since,
        if_unmodified_since: input.copy_source_if_unmodified_since,
    };
    let range = input.copy_source_range.as_deref().map(whole_range).transpose()?;
    let from = range.as_ref().map_or(0, |range| range.start);
    let (_, _, found) = source(front, &asked, &input.copy_source, conditions, from).await?;
    let length = found.version.object.as_deref().map_or(0, |object| object.bytes);
    let range = range.unwrap_or(0..length);
    if range.end > length {
        return Err(error("InvalidRange", format!("the range ends behind the source of {length} bytes")));
    }
    if range.end - range.start > BODY_BYTES_MAX {
        return Err(error("InvalidRequest", format!("a part of more than {BODY_BYTES_MAX} bytes")));
    }
    let said = counted_as(&upload, Said::default())?;
    let source_sealed = found.version.object.as_deref().and_then(|object| object.about.sealed.as_ref());
    let opener = front.opens(source_sealed, &asked.headers, true)?.map(|(key, _)| key);
    let into = front.opens(upload.about.sealed.as_ref(), &asked.headers, false)?;
    let seal = sealer(front, into.as_ref().map(|(key, _)| key), number)?;
    let writer = front.gateway.writer(there.class, there.when_short).of_part();
    let (body, counted) = pour(front, writer, &found, range, said, (opener, seal)).await?;
    let Counted { etag, checksum: counted, .. } = counted;
    let put = PutPart { bucket, key, upload: id, number, body, etag, checksum: counted.clone() };
    let made = made(front.ask(Command::PutPart(Box::new(put))).await?)?;
    let sum = counted.as_ref().map(checksum).unwrap_or_default();
    let result = CopyPartResult {
        e_tag: Some(ETag::Strong(made.etag)),
        last_modified: Some(moment(made.at)),
        checksum_crc32: sum.checksum_crc32,
        checksum_crc32c: sum.checksum_crc32c,
        checksum_crc64nvme: sum.checksum_crc64nvme,
        checksum_sha1: sum.checksum_sha1,
        checksum_sha256: sum.checksum_sha256,
    };
    let versioned = found.bucket.versioning != kinds::Versioning::Off;
    let mut response = S3Response::new(UploadPartCopyOutput {
        copy_part_result: Some(result),
        copy_source_version_id: versioned.then(|| found.version.name().to_string()),
        ..UploadPartCopyOutput::default()
    });
    if let Some((_, wanted)) = into {
        wanted.answer(&mut response.headers, &asked.headers);
    }
    Ok(response)
}

/// A range of a source: both ends are said.
fn whole_range(text: &str) -> Done<std::ops::Range<u64>> {
    let ends = text.strip_prefix("bytes=").and_then(|ends| ends.split_once('-'));
    let number = |text: &str| text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let ends = ends.and_then(|(from, to)| Some((number(from)?, number(to)?)));
    match ends {
        Some((from, to)) if from <= to && to < u64::MAX => Ok(from..to + 1),
        _ => Err(argument("the x-amz-copy-source-range value must be of the form bytes=first-last")),
    }
}

/// `CompleteMultipartUpload`.
pub async fn complete_multipart_upload(
    front: &Front,
    request: S3Request<CompleteMultipartUploadInput>,
) -> Done<S3Response<CompleteMultipartUploadOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let (bucket, key, _) = front.place(&asked, Action::PutObject, (&input.bucket, &input.key)).await?;
    let id = upload(&input.upload_id)?;
    let listed = input.multipart_upload.and_then(|listed| listed.parts).unwrap_or_default();
    if listed.is_empty() || listed.len() > usize::from(PARTS_MAX) {
        return Err(error("MalformedXML", format!("{} parts, 1 to {PARTS_MAX} are", listed.len())));
    }
    let parts = listed.iter().map(numbered).collect::<Done<Vec<(u16, String)>>>()?;
    let etag = joined(&parts)?;
    let mut begun = kinds::About::default();
    let way = match front.gateway.look(Query::Upload { bucket: bucket.clone(), key: key.clone(), upload: id }).await {
        Ok(Reply::Upload(found)) => {
            let way = found.checksum.as_deref().and_then(Way::read);
            begun = found.about;
            way
        }
        Ok(_) => return Err(strange()),
        // It may have been finished, by a request whose answer was lost.
        Err(MetaError::Refused(Refusal::NoSuchUpload)) => None,
        Err(failure) => return Err(failed(failure)),
    };
    let whole = match way {
        Some(way) => Some(summed(front, (&bucket, &key, id), (way, &begun), &listed, &parts).await?),
        None => None,
    };
    if let (Some(whole), Some(way)) = (&whole, way) {
        let said = header(&asked.headers, way.algorithm.header());
        // A checksum of checksums may be said with the number of parts or without.
        let bare = |value: &str| value.split('-').next().unwrap_or_default().to_owned();
        if said.is_some_and(|said| bare(&said) != bare(&whole.value)) {
            return Err(error("BadDigest", format!("the {} of the object is {}", whole.algorithm, whole.value)));
        }
        let kind = header(&asked.headers, "x-amz-checksum-type");
        if kind.is_some_and(|kind| kind != about::kind(whole)) {
            return Err(error("InvalidRequest", "the upload was begun with another checksum type"));
        }
    }
    let bytes = input.mpu_object_size.map(u64::try_from).transpose();
    let bytes = bytes.map_err(|_| argument("a length below zero"))?;
    let condition = condition(&asked.headers);
    let (checksum_of, again) = (whole.clone(), way.is_none());
    let (named, called) = (bucket.clone(), key.clone());
    let complete = CompleteUpload { bucket, key, upload: id, parts, etag, checksum: whole, bytes, condition };
    let made = made(front.ask(Command::CompleteUpload(Box::new(complete))).await?)?;
    let (checksum_of, sealed) = match again {
        false => (checksum_of, begun.sealed),
        // The same as was answered before, should it have been.
        true => match front
            .gateway
            .look(Query::Version { bucket: named, key: called, version: made.version, from: 0 })
            .await
        {
            Ok(Reply::Version(found)) => {
                let made = found.version.object.filter(|it| it.etag == made.etag);
                made.map(|it| (it.checksum, it.about.sealed)).unwrap_or_default()
            }
            Ok(_) | Err(_) => Default::default(),
        },
    };
    let sum = checksum_of.as_ref().map(checksum).unwrap_or_default();
    let mut response = S3Response::new(CompleteMultipartUploadOutput {
        location: Some(format!("/{}/{}", input.bucket, input.key)),
        bucket: Some(input.bucket),
        key: Some(input.key),
        e_tag: Some(ETag::Strong(made.etag)),
        version_id: made.version.map(|version| version.to_string()),
        checksum_crc32: sum.checksum_crc32,
        checksum_crc32c: sum.checksum_crc32c,
        checksum_crc64nvme: sum.checksum_crc64nvme,
        checksum_sha1: sum.checksum_sha1,
        checksum_sha256: sum.checksum_sha256,
        checksum_type: sum.checksum_type,
        ..CompleteMultipartUploadOutput::default()
    });
    // The object is there. A customer's key need not come with the end of an upload: then nothing is said of it.
    if let Ok(Some((_, wanted))) = front.opens(sealed.as_ref(), &asked.headers, false) {
        wanted.answer(&mut response.headers, &asked.headers);
    }
    Ok(response)
}

fn numbered(part: &CompletedPart) -> Done<(u16, String)> {
    let number = part.part_number.ok_or_else(|| error("MalformedXML", "a part without a number"))?;
    let number = u16::try_from(number).ok().filter(|number| (1..=PARTS_MAX).contains(number));
    let number = number.ok_or_else(|| error("InvalidPart", "there is no part with such a number"))?;
    let etag = part.e_tag.as_ref().ok_or_else(|| error("MalformedXML", format!("part {number} without an ETag")))?;
    Ok((number, etag.value().trim_matches('"').to_ascii_lowercase()))
}

/// The ETag of an object of these parts: the MD5 of their MD5s, and how many there are.
fn joined(parts: &[(u16, String)]) -> Done<String> {
    let mut all = Vec::with_capacity(parts.len() * 16);
    for (number, etag) in parts {
        let digest = HEXLOWER.decode(etag.as_bytes()).ok().filter(|digest| digest.len() == 16);
        all.extend(digest.ok_or_else(|| refused(&Refusal::InvalidPart(*number)))?);
    }
    Ok(format!("{}-{}", HEXLOWER.encode(&md5(&all)), parts.len()))
}

/// The checksum of the object, of what is known of the parts; what the client says of them has to be the same.
async fn summed(
    front: &Front,
    at: (&BucketName, &ObjectKey, UploadId),
    (way, begun): (Way, &kinds::About),
    listed: &[CompletedPart],
    parts: &[(u16, String)],
) -> Done<kinds::Checksum> {
    let mut known = std::collections::BTreeMap::new();
    let mut after = 0;
    loop {
        let (bucket, key, upload) = (at.0.clone(), at.1.clone(), at.2);
        let query = Query::Parts { bucket, key, upload, after, max: PAGE_MAX };
        let Reply::Parts(_, page, more) = front.look(query).await? else { return Err(strange()) };
        after = page.last().map_or(after, |(number, _)| *number);
        known.extend(page.into_iter().map(|(number, part)| (number, (part.checksum, part.bytes))));
        if !more {
            break;
        }
    }
    let mut sums = Vec::with_capacity(parts.len());
    for (said, (number, _)) in listed.iter().zip(parts) {
        let missing = || refused(&Refusal::InvalidPart(*number));
        let (checksum, bytes) = known.get(number).ok_or_else(missing)?;
        let checksum = checksum.as_ref().filter(|sum| sum.algorithm == way.algorithm.name()).ok_or_else(missing)?;
        let said = match way.algorithm {
            Algorithm::Crc32 => &said.checksum_crc32,
            Algorithm::Crc32c => &said.checksum_crc32c,
            Algorithm::Crc64Nvme => &said.checksum_crc64nvme,
            Algorithm::Sha1 => &said.checksum_sha1,
            Algorithm::Sha256 => &said.checksum_sha256,
        };
        if said.as_ref().is_some_and(|said| *said != checksum.value) {
            return Err(missing());
        }
        sums.push((checksum.value.clone(), open_bytes(begun, *bytes)?));
    }
    way.whole(&sums)
}

/// `AbortMultipartUpload`.
pub async fn abort_multipart_upload(
    front: &Front,
    request: S3Request<AbortMultipartUploadInput>,
) -> Done<S3Response<AbortMultipartUploadOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let at = (input.bucket.as_str(), input.key.as_str());
    let (bucket, key, _) = front.place(&asked, Action::AbortMultipartUpload, at).await?;
    let upload = upload(&input.upload_id)?;
    front.ask(Command::AbortUpload { bucket, key, upload }).await?;
    Ok(S3Response::new(AbortMultipartUploadOutput::default()))
}

/// `ListParts`.
pub async fn list_parts(front: &Front, request: S3Request<ListPartsInput>) -> Done<S3Response<ListPartsOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let at = (input.bucket.as_str(), input.key.as_str());
    let action = Action::ListMultipartUploadParts;
    let (bucket, key, there, upload, _) = under_way(front, &asked, action, at, &input.upload_id).await?;
    let wanted = input.max_parts.unwrap_or(PAGE_MAX as i32);
    let max = usize::try_from(wanted).map_err(|_| argument("max-parts below zero"))?.min(PAGE_MAX);
    let marker = input.part_number_marker.unwrap_or(0);
    let after = u16::try_from(marker).map_err(|_| argument("a marker is the number of a part"))?;
    let query = Query::Parts { bucket, key, upload, after, max };
    let Reply::Parts(begun, page, more) = front.look(query).await? else { return Err(strange()) };
    let by = begun.about.owner.as_deref().unwrap_or(&there.owner);
    let way = begun.checksum.as_deref().and_then(Way::read);
    let next = page.last().filter(|_| more).map(|(number, _)| i32::from(*number));
    let parts = page.into_iter().map(|(number, part)| {
        let sum = part.checksum.as_ref().map(checksum).unwrap_or_default();
        Part {
            part_number: Some(i32::from(number)),
            e_tag: Some(ETag::Strong(part.etag)),
            last_modified: Some(moment(part.at)),
            size: open_bytes(&begun.about, part.bytes).ok().map(|bytes| bytes as i64),
            checksum_crc32: sum.checksum_crc32,
            checksum_crc32c: sum.checksum_crc32c,
            checksum_crc64nvme: sum.checksum_crc64nvme,
            checksum_sha1: sum.checksum_sha1,
            checksum_sha256: sum.checksum_sha256,
        }
    });
    Ok(S3Response::new(ListPartsOutput {
        parts: Some(parts.collect()),
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(input.upload_id),
        is_truncated: Some(more),
        max_parts: Some(max as i32),
        part_number_marker: Some(marker),
        next_part_number_marker: next,
        owner: Some(owner(by)),
        initiator: Some(Initiator { display_name: Some(by.to_owned()), id: Some(by.to_owned()) }),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        checksum_algorithm: way.map(|way| ChecksumAlgorithm::from_static(way.algorithm.name())),
        checksum_type: way.map(kind),
        ..ListPartsOutput::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_a_source_has_both_ends() {
        assert_eq!(whole_range("bytes=0-0").expect("it is one"), 0..1);
        assert_eq!(whole_range("bytes=5-9").expect("it is one"), 5..10);
        for bad in [
            "0-2",
            "bytes=0",
            "bytes=-5",
            "bytes=5-",
            "bytes=9-5",
            "bytes=0-2,3-4",
            "bytes=+1-2",
            "bytes=0-99999999999999999999",
        ] {
            assert!(whole_range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_etag_of_parts_is_the_digest_of_their_digests() {
        let parts = [(1, HEXLOWER.encode(&md5(b"a"))), (2, HEXLOWER.encode(&md5(b"b")))];
        let both = [md5(b"a"), md5(b"b")].concat();
        assert_eq!(joined(&parts).expect("they are digests"), format!("{}-2", HEXLOWER.encode(&md5(&both))));
        assert!(joined(&[(1, "no digest".into())]).is_err());
    }
}

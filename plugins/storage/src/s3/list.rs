//! Listings: objects in both of S3's ways, versions, uploads. What comes back is a page; where the next one begins is said in it.

use data_encoding::BASE64URL_NOPAD;
use s3s::dto::*;
use s3s::{S3Request, S3Response};

use super::about::{kind, moment, owner};
use super::access::{Action, owner_of};
use super::error::{Done, argument, strange};
use super::front::{Front, upload, version};
use crate::meta::kinds::{self, Bucket};
use crate::meta::limits::PAGE_MAX;
use crate::meta::list::Ask;
use crate::meta::query::{Query, Reply};

/// How keys are written in an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writing {
    /// As they are.
    Plain,
    /// Escaped, for keys with characters that XML has not.
    Url,
}

impl Writing {
    fn of(asked: Option<&EncodingType>) -> Done<Self> {
        match asked.map(EncodingType::as_str) {
            None => Ok(Self::Plain),
            Some(EncodingType::URL) => Ok(Self::Url),
            Some(_) => Err(argument("invalid encoding method specified in request")),
        }
    }

    fn write(self, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Url => escaped(text),
        }
    }

    /// The prefix as the first way of listing gives it back: as it was sent, where XML can carry it, for clients that unescape everything but
    /// what they sent themselves.
    fn sent(self, prefix: &str) -> String {
        let carried = |c: char| !c.is_control() || matches!(c, '\t' | '\n');
        if prefix.chars().all(carried) { prefix.to_owned() } else { self.write(prefix) }
    }

    fn prefixes(self, prefixes: &[String]) -> Option<Vec<CommonPrefix>> {
        Some(prefixes.iter().map(|prefix| CommonPrefix { prefix: Some(self.write(prefix)) }).collect())
    }
}

/// Escapes whatever is not plain in a path.
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                escaped.push(char::from(byte))
            }
            byte => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// How many are wanted, as the answer says it, and as is asked.
fn most(wanted: Option<i32>) -> Done<(i32, usize)> {
    let wanted = wanted.unwrap_or(PAGE_MAX as i32);
    let max = usize::try_from(wanted).map_err(|_| argument(format!("{wanted} of them cannot be listed")))?;
    let max = max.min(PAGE_MAX);
    Ok((max as i32, max))
}

fn entry(bucket: &Bucket, writing: Writing, key: &str, version: &kinds::Version, with_owner: bool) -> Option<Object> {
    let object = version.object.as_deref()?;
    Some(Object {
        key: Some(writing.write(key)),
        e_tag: Some(ETag::Strong(object.etag.clone())),
        last_modified: Some(moment(version.at)),
        size: Some(object.bytes as i64),
        storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
        owner: with_owner.then(|| owner(owner_of(bucket, object))),
        checksum_algorithm: object.checksum.as_ref().map(|sum| vec![ChecksumAlgorithm::from(sum.algorithm.clone())]),
        checksum_type: object.checksum.as_ref().map(|sum| ChecksumType::from_static(kind(sum))),
        ..Object::default()
    })
}

/// `ListObjects`.
pub async fn list_objects(front: &Front, request: S3Request<ListObjectsInput>) -> Done<S3Response<ListObjectsOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let (name, bucket) = front.bucket(&asked, Action::ListBucket, &input.bucket).await?;
    let writing = Writing::of(input.encoding_type.as_ref())?;
    let (max_keys, max) = most(input.max_keys)?;
    let (prefix, delimiter) = (input.prefix.unwrap_or_default(), input.delimiter.unwrap_or_default());
    let marker = input.marker.unwrap_or_default();
    let after = Some(marker.clone()).filter(|marker| !marker.is_empty());
    let ask = Ask { prefix: prefix.clone(), delimiter: delimiter.clone(), after, max };
    let Reply::Objects(page) = front.look(Query::Objects(name.clone(), ask)).await? else { return Err(strange()) };
    let contents = page.entries.iter().filter_map(|(key, version)| entry(&bucket, writing, key, version, true));
    Ok(S3Response::new(ListObjectsOutput {
        name: Some(name.to_string()),
        contents: Some(contents.collect()),
        common_prefixes: writing.prefixes(&page.prefixes),
        is_truncated: Some(page.next.is_some()),
        // Without a delimiter the last key says as much.
        next_marker: page.next.filter(|_| !delimiter.is_empty()).map(|next| writing.write(&next)),
        delimiter: Some(delimiter).filter(|delimiter| !delimiter.is_empty()).map(|it| writing.write(&it)),
        prefix: Some(writing.sent(&prefix)),
        marker: Some(writing.write(&marker)),
        max_keys: Some(max_keys),
        encoding_type: input.encoding_type,
        ..ListObjectsOutput::default()
    }))
}

/// `ListObjectsV2`.
pub async fn list_objects_v2(
    front: &Front,
    request: S3Request<ListObjectsV2Input>,
) -> Done<S3Response<ListObjectsV2Output>> {
    let asked = front.asked(&request);
    let input = request.input;
    let (name, bucket) = front.bucket(&asked, Action::ListBucket, &input.bucket).await?;
    let writing = Writing::of(input.encoding_type.as_ref())?;
    let (max_keys, max) = most(input.max_keys)?;
    let (prefix, delimiter) = (input.prefix.unwrap_or_default(), input.delimiter.unwrap_or_default());
    let start_after = input.start_after.filter(|after| !after.is_empty());
    let after = match input.continuation_token.as_deref() {
        Some("") | None => start_after.clone(),
        Some(token) => Some(resumed(token)?),
    };
    let ask = Ask { prefix: prefix.clone(), delimiter: delimiter.clone(), after, max };
    let Reply::Objects(page) = front.look(Query::Objects(name.clone(), ask)).await? else { return Err(strange()) };
    let with_owner = input.fetch_owner == Some(true);
    let contents: Vec<Object> =
        page.entries.iter().filter_map(|(key, version)| entry(&bucket, writing, key, version, with_owner)).collect();
    Ok(S3Response::new(ListObjectsV2Output {
        name: Some(name.to_string()),
        key_count: Some((contents.len() + page.prefixes.len()) as i32),
        contents: Some(contents),
        common_prefixes: writing.prefixes(&page.prefixes),
        is_truncated: Some(page.next.is_some()),
        next_continuation_token: page.next.map(|next| BASE64URL_NOPAD.encode(next.as_bytes())),
        continuation_token: input.continuation_token,
        start_after: start_after.map(|after| writing.write(&after)),
        delimiter: Some(delimiter).filter(|delimiter| !delimiter.is_empty()).map(|it| writing.write(&it)),
        prefix: Some(writing.write(&prefix)),
        max_keys: Some(max_keys),
        encoding_type: input.encoding_type,
        ..ListObjectsV2Output::default()
    }))
}

/// The key after which a page goes on. Whoever makes a token up gets a page after what it says, or is refused.
fn resumed(token: &str) -> Done<String> {
    let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).ok();
    let key = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).filter(|key| !key.is_empty());
    key.ok_or_else(|| argument("the continuation token provided is incorrect"))
}

/// `ListObjectVersions`.
pub async fn list_object_versions(
    front: &Front,
    request: S3Request<ListObjectVersionsInput>,
) -> Done<S3Response<ListObjectVersionsOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let (name, bucket) = front.bucket(&asked, Action::ListBucketVersions, &input.bucket).await?;
    let writing = Writing::of(input.encoding_type.as_ref())?;
    let (max_keys, max) = most(input.max_keys)?;
    let (prefix, delimiter) = (input.prefix.unwrap_or_default(), input.delimiter.unwrap_or_default());
    let key_marker = input.key_marker.unwrap_or_default();
    let after_version = version(input.version_id_marker.as_deref())?;
    if after_version.is_some() && key_marker.is_empty() {
        return Err(argument("a version-id marker cannot be specified without a key marker"));
    }
    let after = Some(key_marker.clone()).filter(|marker| !marker.is_empty());
    let ask = Ask { prefix: prefix.clone(), delimiter: delimiter.clone(), after, max };
    let query = Query::Versions(name.clone(), ask, after_version);
    let Reply::Versions(page) = front.look(query).await? else { return Err(strange()) };
    let (mut versions, mut markers) = (Vec::new(), Vec::new());
    for listed in &page.entries {
        let (key, id) = (Some(writing.write(&listed.key)), Some(listed.version.name().to_string()));
        let last_modified = Some(moment(listed.version.at));
        match listed.version.object.as_deref() {
            Some(object) => versions.push(ObjectVersion {
                key,
                version_id: id,
                is_latest: Some(listed.latest),
                last_modified,
                e_tag: Some(ETag::Strong(object.etag.clone())),
                size: Some(object.bytes as i64),
                owner: Some(owner(owner_of(&bucket, object))),
                storage_class: Some(ObjectVersionStorageClass::from_static(ObjectVersionStorageClass::STANDARD)),
                checksum_algorithm: object
                    .checksum
                    .as_ref()
                    .map(|sum| vec![ChecksumAlgorithm::from(sum.algorithm.clone())]),
                checksum_type: object.checksum.as_ref().map(|sum| ChecksumType::from_static(kind(sum))),
                ..ObjectVersion::default()
            }),
            None => markers.push(DeleteMarkerEntry {
                key,
                version_id: id,
                is_latest: Some(listed.latest),
                last_modified,
                owner: Some(owner(&bucket.owner)),
            }),
        }
    }
    let last = page.entries.last().filter(|last| page.next.as_deref() == Some(last.key.as_str()));
    Ok(S3Response::new(ListObjectVersionsOutput {
        name: Some(name.to_string()),
        versions: Some(versions),
        delete_markers: Some(markers),
        common_prefixes: writing.prefixes(&page.prefixes),
        is_truncated: Some(page.next.is_some()),
        next_version_id_marker: last.map(|last| last.version.name().to_string()),
        next_key_marker: page.next.as_ref().map(|next| writing.write(next)),
        delimiter: Some(delimiter).filter(|delimiter| !delimiter.is_empty()).map(|it| writing.write(&it)),
        prefix: Some(writing.write(&prefix)),
        key_marker: Some(writing.write(&key_marker)),
        version_id_marker: input.version_id_marker,
        max_keys: Some(max_keys),
        encoding_type: input.encoding_type,
        ..ListObjectVersionsOutput::default()
    }))
}

/// `ListMultipartUploads`.
pub async fn list_multipart_uploads(
    front: &Front,
    request: S3Request<ListMultipartUploadsInput>,
) -> Done<S3Response<ListMultipartUploadsOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let (name, bucket) = front.bucket(&asked, Action::ListBucketMultipartUploads, &input.bucket).await?;
    let writing = Writing::of(input.encoding_type.as_ref())?;
    let (max_uploads, max) = most(input.max_uploads)?;
    let (prefix, delimiter) = (input.prefix.unwrap_or_default(), input.delimiter.unwrap_or_default());
    let key_marker = input.key_marker.unwrap_or_default();
    let after_upload = input.upload_id_marker.as_deref().filter(|id| !id.is_empty() && !key_marker.is_empty());
    let after_upload = after_upload.map(upload).transpose().map_err(|_| argument("invalid uploadId marker"))?;
    let after = Some(key_marker.clone()).filter(|marker| !marker.is_empty());
    let ask = Ask { prefix: prefix.clone(), delimiter: delimiter.clone(), after, max };
    let query = Query::Uploads(name.clone(), ask, after_upload);
    let Reply::Uploads(page) = front.look(query).await? else { return Err(strange()) };
    let uploads = page.entries.iter().map(|one| {
        let by = one.upload.about.owner.as_deref().unwrap_or(&bucket.owner);
        MultipartUpload {
            key: Some(writing.write(&one.key)),
            upload_id: Some(one.id.to_string()),
            initiated: Some(moment(one.upload.at)),
            owner: Some(owner(by)),
            initiator: Some(Initiator { display_name: Some(by.to_owned()), id: Some(by.to_owned()) }),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            ..MultipartUpload::default()
        }
    });
    let last = page.entries.last().filter(|last| page.next.as_deref() == Some(last.key.as_str()));
    Ok(S3Response::new(ListMultipartUploadsOutput {
        bucket: Some(name.to_string()),
        uploads: Some(uploads.collect()),
        common_prefixes: writing.prefixes(&page.prefixes),
        is_truncated: Some(page.next.is_some()),
        next_upload_id_marker: last.map(|last| last.id.to_string()),
        next_key_marker: page.next.as_ref().map(|next| writing.write(next)),
        delimiter: Some(delimiter).filter(|delimiter| !delimiter.is_empty()).map(|it| writing.write(&it)),
        prefix: Some(writing.write(&prefix)),
        key_marker: Some(writing.write(&key_marker)),
        upload_id_marker: input.upload_id_marker,
        max_uploads: Some(max_uploads),
        encoding_type: input.encoding_type,
        ..ListMultipartUploadsOutput::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_leave_what_a_path_has_alone() {
        assert_eq!(escaped("foo+1/b r~\u{1}ä"), "foo%2B1/b%20r~%01%C3%A4");
    }

    #[test]
    fn a_prefix_comes_back_as_it_was_sent_where_it_can() {
        assert_eq!(Writing::Url.sent("a b/\nä"), "a b/\nä");
        assert_eq!(Writing::Url.sent("a b\u{1}"), "a%20b%01");
        assert_eq!(Writing::Plain.sent("a\u{1}"), "a\u{1}");
    }

    #[test]
    fn a_token_that_was_not_given_is_refused() {
        assert_eq!(resumed(&BASE64URL_NOPAD.encode("a/ä".as_bytes())).expect("it was given"), "a/ä");
        for bad in ["", "!", "_w"] {
            assert!(resumed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_page_has_a_thousand_at_most_and_never_less_than_none() {
        assert_eq!(most(None).expect("it can be"), (1_000, 1_000));
        assert_eq!(most(Some(5_000)).expect("it can be"), (1_000, 1_000));
        assert_eq!(most(Some(0)).expect("it can be"), (0, 0));
        assert!(most(Some(-1)).is_err());
    }
}

//! Tags of objects and of buckets.

use std::collections::BTreeMap;

use s3s::dto::*;
use s3s::{S3Request, S3Response};

use super::access::Action;
use super::error::{Done, error, strange};
use super::front::{Asked, Front, version};
use crate::meta::command::{BucketChange, Command, ObjectChange};
use crate::meta::kinds::{DocumentKind, Versioning};
use crate::meta::limits::{TAG_KEY_MAX, TAG_VALUE_MAX};
use crate::meta::names::BucketName;
use crate::meta::query::{Found, Query, Reply};
use crate::meta::refusal::Refusal;

/// Tags of a bucket (S3).
const BUCKET_TAGS_MAX: usize = 50;

fn read(set: Vec<Tag>) -> Done<BTreeMap<String, String>> {
    let mut tags = BTreeMap::new();
    for tag in set {
        let (Some(key), Some(value)) = (tag.key, tag.value) else {
            return Err(error("MalformedXML", "a tag has a key and a value"));
        };
        if tags.insert(key, value).is_some() {
            return Err(error("InvalidTag", "cannot provide multiple tags with the same key"));
        }
    }
    Ok(tags)
}

fn written(tags: BTreeMap<String, String>) -> Vec<Tag> {
    tags.into_iter().map(|(key, value)| Tag { key: Some(key), value: Some(value) }).collect()
}

/// The version that is meant, which is an object.
async fn object(
    front: &Front,
    asked: &Asked,
    (newest, certain): (Action, Action),
    at: (&str, &str),
    id: Option<&str>,
) -> Done<Box<Found>> {
    let id = version(id)?;
    let action = if id.is_some() { certain } else { newest };
    let found = front.version(asked, action, at, id, 0).await?;
    match (&found.version.object, id) {
        (Some(_), _) => Ok(found),
        (None, Some(_)) => Err(super::error::refused(&Refusal::IsMarker)),
        (None, None) => Err(super::error::refused(&Refusal::NoSuchKey)),
    }
}

fn called(found: &Found) -> Option<String> {
    (found.bucket.versioning != Versioning::Off).then(|| found.version.name().to_string())
}

/// `GetObjectTagging`.
pub async fn get_object_tagging(
    front: &Front,
    request: S3Request<GetObjectTaggingInput>,
) -> Done<S3Response<GetObjectTaggingOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let actions = (Action::GetObjectTagging, Action::GetObjectVersionTagging);
    let found = object(front, &asked, actions, (&input.bucket, &input.key), input.version_id.as_deref()).await?;
    let version_id = called(&found);
    let tags = found.version.object.map(|object| object.about.tags).unwrap_or_default();
    Ok(S3Response::new(GetObjectTaggingOutput { tag_set: written(tags), version_id }))
}

/// `PutObjectTagging`.
pub async fn put_object_tagging(
    front: &Front,
    request: S3Request<PutObjectTaggingInput>,
) -> Done<S3Response<PutObjectTaggingOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let actions = (Action::PutObjectTagging, Action::PutObjectVersionTagging);
    let tags = read(input.tagging.tag_set)?;
    let found = object(front, &asked, actions, (&input.bucket, &input.key), input.version_id.as_deref()).await?;
    set(front, &input.bucket, &input.key, &found, tags).await?;
    Ok(S3Response::new(PutObjectTaggingOutput { version_id: called(&found) }))
}

/// `DeleteObjectTagging`.
pub async fn delete_object_tagging(
    front: &Front,
    request: S3Request<DeleteObjectTaggingInput>,
) -> Done<S3Response<DeleteObjectTaggingOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let actions = (Action::DeleteObjectTagging, Action::DeleteObjectVersionTagging);
    let found = object(front, &asked, actions, (&input.bucket, &input.key), input.version_id.as_deref()).await?;
    set(front, &input.bucket, &input.key, &found, BTreeMap::new()).await?;
    Ok(S3Response::new(DeleteObjectTaggingOutput { version_id: called(&found) }))
}

async fn set(front: &Front, bucket: &str, key: &str, found: &Found, tags: BTreeMap<String, String>) -> Done<()> {
    let bucket = BucketName::new(bucket).map_err(|error| super::error::bad_bucket(&error))?;
    let key = super::front::key(key)?;
    let (version, change) = (Some(found.version.name()), ObjectChange::Tags(tags));
    front.ask(Command::SetObject { bucket, key, version, change }).await.map(drop)
}

/// `GetBucketTagging`.
pub async fn get_bucket_tagging(
    front: &Front,
    request: S3Request<GetBucketTaggingInput>,
) -> Done<S3Response<GetBucketTaggingOutput>> {
    let asked = front.asked(&request);
    let (name, _) = front.bucket(&asked, Action::GetBucketTagging, &request.input.bucket).await?;
    let query = Query::Document(name, DocumentKind::Tags);
    let Reply::Document(document) = front.look(query).await? else { return Err(strange()) };
    let document = document.ok_or_else(|| {
        let mut none = error("NoSuchTagSet", "there is no tag set associated with the bucket");
        none.set_status_code(http::StatusCode::NOT_FOUND);
        none
    })?;
    // A line for each, as it was kept below: neither has line breaks of its own there.
    let tags = document.lines().filter_map(|line| line.split_once('\t'));
    let plain = |text: &str| super::about::unescape(text).unwrap_or_default();
    let tag_set = tags.map(|(key, value)| Tag { key: Some(plain(key)), value: Some(plain(value)) }).collect();
    Ok(S3Response::new(GetBucketTaggingOutput { tag_set }))
}

/// `PutBucketTagging`.
pub async fn put_bucket_tagging(
    front: &Front,
    request: S3Request<PutBucketTaggingInput>,
) -> Done<S3Response<PutBucketTaggingOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let (name, _) = front.bucket(&asked, Action::PutBucketTagging, &input.bucket).await?;
    let tags = read(input.tagging.tag_set)?;
    if tags.len() > BUCKET_TAGS_MAX {
        return Err(error("InvalidTag", format!("{} tags exceed {BUCKET_TAGS_MAX}", tags.len())));
    }
    let mut document = String::new();
    for (key, value) in &tags {
        if key.is_empty() || key.chars().count() > TAG_KEY_MAX || value.chars().count() > TAG_VALUE_MAX {
            return Err(error("InvalidTag", format!("tag {key:.40?} is longer than tags are, or nothing")));
        }
        document.push_str(&format!("{}\t{}\n", super::list::escaped(key), super::list::escaped(value)));
    }
    let change = BucketChange::Document(DocumentKind::Tags, Some(document).filter(|document| !document.is_empty()));
    front.ask(Command::SetBucket { name, change }).await?;
    Ok(S3Response::new(PutBucketTaggingOutput::default()))
}

/// `DeleteBucketTagging`.
pub async fn delete_bucket_tagging(
    front: &Front,
    request: S3Request<DeleteBucketTaggingInput>,
) -> Done<S3Response<DeleteBucketTaggingOutput>> {
    let asked = front.asked(&request);
    let (name, _) = front.bucket(&asked, Action::PutBucketTagging, &request.input.bucket).await?;
    let change = BucketChange::Document(DocumentKind::Tags, None);
    front.ask(Command::SetBucket { name, change }).await?;
    Ok(S3Response::new(DeleteBucketTaggingOutput::default()))
}

//! Deleting: one object, a version of it, or up to a thousand at once.

use s3s::dto::*;
use s3s::{S3Request, S3Response};

use super::about::wall;
use super::access::Action;
use super::error::{Done, argument, error, refused, strange};
use super::front::{Asked, Front, key, version};
use crate::meta::access::MetaError;
use crate::meta::command::{Answer, Command, Deleted, Deletion};
use crate::meta::kinds::Bucket;
use crate::meta::limits::DELETIONS_MAX;
use crate::meta::names::{BucketName, VersionRef};
use crate::meta::query::{Query, Reply};
use crate::meta::refusal::Refusal;

/// What a client wants of the object that it deletes.
#[derive(Default)]
struct Only {
    etag: Option<String>,
    bytes: Option<i64>,
    made: Option<Timestamp>,
}

/// `DeleteObject`.
pub async fn delete_object(
    front: &Front,
    request: S3Request<DeleteObjectInput>,
) -> Done<S3Response<DeleteObjectOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let id = version(input.version_id.as_deref())?;
    let (bucket, key, there) = front.place(&asked, action(id), (&input.bucket, &input.key)).await?;
    let bypass = bypass(front, &asked, &bucket, &there, input.bypass_governance_retention, key.as_str()).await?;
    let etag = input.if_match.map(|wanted| wanted.into_etag().map_or("*".into(), ETag::into_value));
    let only = Only { etag, bytes: input.if_match_size, made: input.if_match_last_modified_time };
    let deletion = deletion(front, &bucket, Deletion { key, version: id, if_match: None }, only).await?;
    let (named, wanted, deletions) = (bucket.clone(), deletion.clone(), vec![deletion]);
    let Answer::Deleted(mut deleted) = front.ask(Command::Delete { bucket, deletions, bypass, expired: false }).await?
    else {
        return Err(strange());
    };
    let deleted = deleted.pop().ok_or_else(strange)?;
    let deleted = settled(front, &named, &wanted, deleted).await.map_err(|refusal| refused(&refusal))?;
    let marked = deleted.marker.map(|marker| marker.to_string());
    Ok(S3Response::new(DeleteObjectOutput {
        delete_marker: marked.is_some().then_some(true),
        version_id: marked.or_else(|| id.map(|id| id.to_string())),
        ..DeleteObjectOutput::default()
    }))
}

fn action(version: Option<VersionRef>) -> Action {
    if version.is_some() { Action::DeleteObjectVersion } else { Action::DeleteObject }
}

/// Whether governance locks do not count: for whoever says so and may.
async fn bypass(
    front: &Front,
    asked: &Asked,
    name: &BucketName,
    bucket: &Bucket,
    said: Option<bool>,
    key: &str,
) -> Done<bool> {
    if said != Some(true) {
        return Ok(false);
    }
    front.admit(asked, Action::BypassGovernanceRetention, name, bucket, Some((key, None))).await?;
    Ok(true)
}

/// Makes a condition of the ETag out of all that is wanted of the object: what was looked at is what is deleted, or nothing is.
async fn deletion(front: &Front, bucket: &BucketName, mut deletion: Deletion, only: Only) -> Done<Deletion> {
    deletion.if_match = only.etag;
    if only.bytes.is_none() && only.made.is_none() {
        return Ok(deletion);
    }
    let (bucket, key) = (bucket.clone(), deletion.key.clone());
    let looked = front.gateway.look(Query::Version { bucket, key, version: deletion.version, from: 0 }).await;
    let found = match looked {
        Ok(Reply::Version(found)) => found,
        Ok(_) => return Err(strange()),
        Err(MetaError::Refused(Refusal::NoSuchKey | Refusal::NoSuchVersion)) => {
            // What comes meanwhile is not what was looked at.
            deletion.if_match.get_or_insert_with(|| "-".into());
            return Ok(deletion);
        }
        Err(failure) => return Err(super::error::failed(failure)),
    };
    let failed = || error("PreconditionFailed", "at least one of the preconditions did not hold");
    let object = found.version.object.as_deref().ok_or_else(failed)?;
    let made_then = |made: &Timestamp| wall(made).is_some_and(|made| made.0 / 1_000 == found.version.at.0 / 1_000);
    if only.bytes.is_some_and(|bytes| bytes != object.bytes as i64) || only.made.is_some_and(|made| !made_then(&made)) {
        return Err(failed());
    }
    deletion.if_match.get_or_insert_with(|| object.etag.clone());
    Ok(deletion)
}

/// What became of a deletion, as clients know it: what is not there need not be deleted, whatever it was to be. A delete marker is there,
/// and is nothing that a condition could hold of.
async fn settled(
    front: &Front,
    bucket: &BucketName,
    wanted: &Deletion,
    answer: Result<Deleted, Refusal>,
) -> Result<Deleted, Refusal> {
    let (Err(Refusal::NoSuchKey), Some(etag)) = (&answer, &wanted.if_match) else { return answer };
    if etag == "*" {
        return Ok(Deleted::default());
    }
    let (bucket, key, version) = (bucket.clone(), wanted.key.clone(), wanted.version);
    match front.gateway.look(Query::Version { bucket, key, version, from: 0 }).await {
        Ok(_) => Err(Refusal::Condition("If-Match".into())),
        Err(_) => Ok(Deleted::default()),
    }
}

/// `DeleteObjects`.
pub async fn delete_objects(
    front: &Front,
    request: S3Request<DeleteObjectsInput>,
) -> Done<S3Response<DeleteObjectsOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let objects = input.delete.objects;
    if objects.is_empty() || objects.len() > DELETIONS_MAX {
        return Err(error("MalformedXML", format!("{} objects, 1 to {DELETIONS_MAX} are", objects.len())));
    }
    let name = BucketName::new(input.bucket.as_str()).map_err(|error| super::error::bad_bucket(&error))?;
    let Reply::Bucket(bucket) = front.look(Query::Bucket(name.clone())).await? else { return Err(strange()) };
    let bypass = bypass(front, &asked, &name, &bucket, input.bypass_governance_retention, "").await?;
    let quiet = input.delete.quiet == Some(true);
    let (mut deletions, mut output) = (Vec::new(), DeleteObjectsOutput::default());
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    for object in objects {
        let wrong = |why: s3s::S3Error| Error {
            code: Some(why.code().as_str().to_owned()),
            message: why.message().map(str::to_owned),
            key: Some(object.key.clone()),
            version_id: object.version_id.clone(),
        };
        match one(front, &asked, (&name, &bucket), &object).await {
            Ok(deletion) => deletions.push(deletion),
            Err(why) => errors.push(wrong(why)),
        }
    }
    if !deletions.is_empty() {
        let command = Command::Delete { bucket: name.clone(), deletions: deletions.clone(), bypass, expired: false };
        let Answer::Deleted(answers) = front.ask(command).await? else { return Err(strange()) };
        for (deletion, answer) in deletions.into_iter().zip(answers) {
            let answer = settled(front, &name, &deletion, answer).await;
            let (key, version_id) = (deletion.key.as_str().to_owned(), deletion.version.map(|id| id.to_string()));
            match answer {
                Ok(done) if !quiet => deleted.push(told(key, version_id, &done)),
                Ok(_) => {}
                Err(refusal) => errors.push(Error {
                    code: Some(refusal.code().to_owned()),
                    message: Some(refusal.to_string()),
                    key: Some(key),
                    version_id,
                }),
            }
        }
    }
    output.deleted = Some(deleted);
    output.errors = Some(errors);
    Ok(S3Response::new(output))
}

async fn one(front: &Front, asked: &Asked, at: (&BucketName, &Bucket), object: &ObjectIdentifier) -> Done<Deletion> {
    let (id, key) = (version(object.version_id.as_deref()), key(&object.key)?);
    let id = id.map_err(|_| {
        let mut unknown = argument("invalid version id specified");
        unknown.set_code(s3s::S3ErrorCode::NoSuchVersion);
        unknown
    })?;
    front.admit(asked, action(id), at.0, at.1, Some((key.as_str(), None))).await?;
    let etag = object.e_tag.as_ref().map(|etag| etag.value().to_owned());
    let only = Only { etag, bytes: object.size, made: object.last_modified_time.clone() };
    deletion(front, at.0, Deletion { key, version: id, if_match: None }, only).await
}

fn told(key: String, version_id: Option<String>, done: &Deleted) -> DeletedObject {
    DeletedObject {
        key: Some(key),
        delete_marker: done.marker.map(|_| true),
        delete_marker_version_id: done.marker.map(|marker| marker.to_string()),
        version_id,
    }
}

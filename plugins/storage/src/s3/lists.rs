//! Access control lists of buckets and objects, and who owns what others put.

use s3s::dto::*;
use s3s::{S3Request, S3Response};

use super::about::owner;
use super::access::{Action, owner_of};
use super::decision::{list_of, owns, untaken};
use super::documents::write;
use super::error::{Done, error, missing, refused};
use super::front::{Asked, Front, version};
use crate::meta::command::{BucketChange, Command, ObjectChange};
use crate::meta::kinds::{self, Acl, DocumentKind, Grantee as To};
use crate::meta::names::BucketName;
use crate::meta::refusal::Refusal;
use crate::rules::acl::{self, Owned, Ownership};

fn written(acl: &Acl, owner: &str, bucket_owner: &str) -> Vec<Grant> {
    let one = |grant: kinds::Grant| {
        let uri = acl::uri(&grant.to).map(str::to_owned);
        let type_ = Type::from_static(if uri.is_some() { Type::GROUP } else { Type::CANONICAL_USER });
        let id = match grant.to {
            To::User(name) => Some(name),
            To::Everybody | To::Authenticated | To::Logs => None,
        };
        let grantee = Grantee { display_name: id.clone(), email_address: None, id, type_, uri };
        Grant { grantee: Some(grantee), permission: Some(Permission::from_static(acl::word(grant.may))) }
    };
    let mut grants = acl::grants(acl, owner, bucket_owner);
    // The order says nothing. Groups have no name to be sorted by, and clients do not expect one behind somebody who has.
    grants.sort_by_key(|grant| matches!(grant.to, To::User(_)));
    grants.into_iter().map(one).collect()
}

/// `GetBucketAcl`.
pub async fn get_bucket_acl(
    front: &Front,
    request: S3Request<GetBucketAclInput>,
) -> Done<S3Response<GetBucketAclOutput>> {
    let asked = front.asked(&request);
    let (_, bucket) = front.bucket(&asked, Action::GetBucketAcl, &request.input.bucket).await?;
    let grants = Some(written(&bucket.acl, &bucket.owner, &bucket.owner));
    Ok(S3Response::new(GetBucketAclOutput { grants, owner: Some(owner(&bucket.owner)) }))
}

/// The list that a request brings, in headers or as a document.
async fn brought(
    front: &Front,
    asked: &Asked,
    name: &BucketName,
    policy: Option<AccessControlPolicy>,
    owner: &str,
) -> Done<Acl> {
    if let Some(said) = policy.as_ref().and_then(|policy| policy.owner.as_ref()).and_then(|owner| owner.id.as_deref())
        && said != owner
    {
        return Err(error("AccessDenied", "the owner of a list cannot be changed"));
    }
    let list = match (front.list(asked)?, policy) {
        (Some(list), None) => list,
        (None, Some(policy)) => list_of(Some(policy), &|name| front.keys.is_owner(name))?,
        (Some(_), Some(_)) => return Err(error("UnexpectedContent", "this request does not support content")),
        (None, None) => return Err(error("MissingSecurityHeader", "your request was missing a required header")),
    };
    front.rules(asked, name).await?.takes_list(Some(&list)).map_err(untaken)?;
    Ok(list)
}

/// `PutBucketAcl`.
pub async fn put_bucket_acl(
    front: &Front,
    request: S3Request<PutBucketAclInput>,
) -> Done<S3Response<PutBucketAclOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let (name, bucket) = front.bucket(&asked, Action::PutBucketAcl, &input.bucket).await?;
    let list = brought(front, &asked, &name, input.access_control_policy, &bucket.owner).await?;
    front.ask(Command::SetBucket { name, change: BucketChange::Acl(list) }).await?;
    Ok(S3Response::new(PutBucketAclOutput::default()))
}

/// `GetObjectAcl`.
pub async fn get_object_acl(
    front: &Front,
    request: S3Request<GetObjectAclInput>,
) -> Done<S3Response<GetObjectAclOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let id = version(input.version_id.as_deref())?;
    let action = if id.is_some() { Action::GetObjectVersionAcl } else { Action::GetObjectAcl };
    let found = front.version(&asked, action, (&input.bucket, &input.key), id, 0).await?;
    let none = || refused(if id.is_some() { &Refusal::IsMarker } else { &Refusal::NoSuchKey });
    let object = found.version.object.as_deref().ok_or_else(none)?;
    let name = BucketName::new(input.bucket.as_str()).map_err(|error| super::error::bad_bucket(&error))?;
    let enforced = front.rules(&asked, &name).await?.ownership == Ownership::Enforced;
    let whose = if enforced { found.bucket.owner.as_str() } else { owner_of(&found.bucket, object) };
    let acl = if enforced { &Acl::Private } else { &object.about.acl };
    let grants = Some(written(acl, whose, &found.bucket.owner));
    Ok(S3Response::new(GetObjectAclOutput { grants, owner: Some(owner(whose)), ..GetObjectAclOutput::default() }))
}

/// `PutObjectAcl`.
pub async fn put_object_acl(
    front: &Front,
    request: S3Request<PutObjectAclInput>,
) -> Done<S3Response<PutObjectAclOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let id = version(input.version_id.as_deref())?;
    let action = if id.is_some() { Action::PutObjectVersionAcl } else { Action::PutObjectAcl };
    let found = front.version(&asked, action, (&input.bucket, &input.key), id, 0).await?;
    let none = || refused(if id.is_some() { &Refusal::IsMarker } else { &Refusal::NoSuchKey });
    let object = found.version.object.as_deref().ok_or_else(none)?;
    let bucket = BucketName::new(input.bucket.as_str()).map_err(|error| super::error::bad_bucket(&error))?;
    let whose = owner_of(&found.bucket, object).to_owned();
    let list = brought(front, &asked, &bucket, input.access_control_policy, &whose).await?;
    // Of the version that was looked at: a newer one is another object.
    let version = Some(found.version.name());
    let key = super::front::key(&input.key)?;
    front.ask(Command::SetObject { bucket, key, version, change: ObjectChange::Acl(list) }).await?;
    Ok(S3Response::new(PutObjectAclOutput::default()))
}

/// `GetBucketOwnershipControls`.
pub async fn get_bucket_ownership_controls(
    front: &Front,
    request: S3Request<GetBucketOwnershipControlsInput>,
) -> Done<S3Response<GetBucketOwnershipControlsOutput>> {
    let asked = front.asked(&request);
    let (action, kind) = (Action::GetBucketOwnershipControls, DocumentKind::Ownership);
    let found = front.document(&asked, action, &request.input.bucket, kind).await?;
    let none = || missing("OwnershipControlsNotFoundError", "the bucket ownership controls were not found");
    let ownership_controls = Some(found.ok_or_else(none)?);
    Ok(S3Response::new(GetBucketOwnershipControlsOutput { ownership_controls }))
}

/// `PutBucketOwnershipControls`.
pub async fn put_bucket_ownership_controls(
    front: &Front,
    request: S3Request<PutBucketOwnershipControlsInput>,
) -> Done<S3Response<PutBucketOwnershipControlsOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let (name, bucket) = front.bucket(&asked, Action::PutBucketOwnershipControls, &input.bucket).await?;
    let wanted = owns(&input.ownership_controls)
        .ok_or_else(|| error("MalformedXML", "one rule says who owns what others put"))?;
    let list = Owned { acl: &bucket.acl, owner: &bucket.owner, bucket_owner: &bucket.owner };
    front.rules(&asked, &name).await?.takes_ownership(list, wanted).map_err(untaken)?;
    front.keep(name, DocumentKind::Ownership, Some(write(&input.ownership_controls)?)).await?;
    Ok(S3Response::new(PutBucketOwnershipControlsOutput::default()))
}

/// `DeleteBucketOwnershipControls`.
pub async fn delete_bucket_ownership_controls(
    front: &Front,
    request: S3Request<DeleteBucketOwnershipControlsInput>,
) -> Done<S3Response<DeleteBucketOwnershipControlsOutput>> {
    let asked = front.asked(&request);
    let bucket = &request.input.bucket;
    front.remove(&asked, Action::PutBucketOwnershipControls, bucket, DocumentKind::Ownership).await?;
    Ok(S3Response::new(DeleteBucketOwnershipControlsOutput::default()))
}

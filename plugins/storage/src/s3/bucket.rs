//! Buckets: made, found, removed; whether versions are kept in them.

use s3s::dto::*;
use s3s::{S3Request, S3Response};

use super::about::{header, moment, owner};
use super::access::{Action, Caller};
use super::decision::{owns, untaken};
use super::documents::write;
use super::error::{Done, argument, bad_bucket, denied, error, failed, strange};
use super::front::{Asked, Front};
use crate::meta::access::MetaError;
use crate::meta::command::{BucketChange, Command};
use crate::meta::kinds::{Acl, Class, DocumentKind, Versioning};
use crate::meta::limits::PAGE_MAX;
use crate::meta::names::BucketName;
use crate::meta::query::{Query, Reply};
use crate::meta::refusal::Refusal;
use crate::rules::access::Rules;

/// What clients call the region that has no name in answers.
const UNNAMED_REGION: &str = "us-east-1";

/// `CreateBucket`.
pub async fn create_bucket(
    front: &Front,
    request: S3Request<CreateBucketInput>,
) -> Done<S3Response<CreateBucketOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let Some(owner) = asked.caller.owner() else { return Err(denied()) };
    let name = BucketName::new(input.bucket.as_str()).map_err(|error| bad_bucket(&error))?;
    if !asked.caller.key_allows(Action::CreateBucket, name.as_str()) {
        return Err(denied());
    }
    let constraint = input.create_bucket_configuration.and_then(|wanted| wanted.location_constraint);
    // Clients that have been told of no region say the one that needs no saying.
    let offered = ["", UNNAMED_REGION, &*front.region];
    if let Some(constraint) = constraint.filter(|wanted| !offered.contains(&wanted.as_str())) {
        let words = format!("region {:.40?} is not offered: {} is", constraint.as_str(), front.region);
        return Err(error("InvalidLocationConstraint", words));
    }
    let ownership = input.object_ownership.map(|word| OwnershipControlsRule { object_ownership: word });
    let ownership = ownership.map(|rule| OwnershipControls { rules: vec![rule] });
    let owns = ownership.as_ref().map(|said| owns(said).ok_or_else(|| argument("no such ownership of objects")));
    let list = front.list(&asked)?;
    let rules = Rules { ownership: owns.transpose()?.unwrap_or_default(), ..Rules::default() };
    rules.takes_list(list.as_ref()).map_err(untaken)?;
    let named = name.clone();
    let (acl, lockable) = (list.unwrap_or_default(), input.object_lock_enabled_for_bucket == Some(true));
    let command = Command::CreateBucket {
        name,
        owner: owner.to_owned(),
        region: front.region.to_string(),
        lockable,
        acl: acl.clone(),
        class: Class::default(),
    };
    match front.gateway.ask(command).await {
        Ok(_) => {}
        // Whoever lost the answer asks once more, and some ask each time that they start.
        Err(MetaError::Refused(Refusal::BucketYours))
            if is_so(front, &asked, &named, (&acl, lockable, rules)).await? =>
        {
            return Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{}", input.bucket)) }));
        }
        Err(failure) => return Err(failed(failure)),
    }
    if let Some(ownership) = ownership {
        front.keep(named, DocumentKind::Ownership, Some(write(&ownership)?)).await?;
    }
    Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{}", input.bucket)) }))
}

/// Whether a bucket is what would be made.
async fn is_so(
    front: &Front,
    asked: &Asked,
    name: &BucketName,
    (acl, lockable, rules): (&Acl, bool, Rules),
) -> Done<bool> {
    let Reply::Bucket(there) = front.look(Query::Bucket(name.clone())).await? else { return Err(strange()) };
    let owned = front.rules(asked, name).await?.ownership == rules.ownership;
    Ok(there.acl == *acl && there.lockable == lockable && owned)
}

/// `DeleteBucket`.
pub async fn delete_bucket(
    front: &Front,
    request: S3Request<DeleteBucketInput>,
) -> Done<S3Response<DeleteBucketOutput>> {
    let asked = front.asked(&request);
    let (name, _) = front.bucket(&asked, Action::DeleteBucket, &request.input.bucket).await?;
    front.ask(Command::DeleteBucket { name }).await?;
    Ok(S3Response::new(DeleteBucketOutput::default()))
}

/// `HeadBucket`.
pub async fn head_bucket(front: &Front, request: S3Request<HeadBucketInput>) -> Done<S3Response<HeadBucketOutput>> {
    let asked = front.asked(&request);
    let (_, bucket) = front.bucket(&asked, Action::ListBucket, &request.input.bucket).await?;
    Ok(S3Response::new(HeadBucketOutput { bucket_region: Some(bucket.region), ..HeadBucketOutput::default() }))
}

/// `GetBucketLocation`.
pub async fn get_bucket_location(
    front: &Front,
    request: S3Request<GetBucketLocationInput>,
) -> Done<S3Response<GetBucketLocationOutput>> {
    let asked = front.asked(&request);
    let (_, bucket) = front.bucket(&asked, Action::GetBucketLocation, &request.input.bucket).await?;
    let named = Some(bucket.region).filter(|region| region != UNNAMED_REGION);
    let output = GetBucketLocationOutput { location_constraint: named.map(BucketLocationConstraint::from) };
    Ok(S3Response::new(output))
}

/// `ListBuckets`.
pub async fn list_buckets(front: &Front, request: S3Request<ListBucketsInput>) -> Done<S3Response<ListBucketsOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let Caller::Known { owner: mine, may, .. } = &asked.caller else { return Err(denied()) };
    let prefix = input.prefix.unwrap_or_default();
    let token = input.continuation_token.filter(|token| !token.is_empty());
    let incorrect = |_| argument("the continuation token provided is incorrect");
    let mut after = token.map(BucketName::new).transpose().map_err(incorrect)?;
    let wanted = match input.max_buckets {
        None => None,
        Some(wanted @ 1..=10_000) => Some(wanted as usize),
        Some(wanted) => return Err(argument(format!("max-buckets of {wanted}, 1 to 10000 are"))),
    };
    let (mut buckets, mut next) = (Vec::new(), None);
    loop {
        let max = wanted.map_or(PAGE_MAX, |wanted| (wanted - buckets.len()).min(PAGE_MAX));
        let query = Query::Buckets { owner: Some(mine.clone()), prefix: prefix.clone(), after, max };
        let Reply::Buckets(page, more) = front.look(query).await? else { return Err(strange()) };
        after = page.last().map(|last| last.name.clone());
        // What a key may not look at it is not told of.
        let seen = page.into_iter().filter(|one| may.read(one.name.as_str()));
        buckets.extend(seen.map(|one| Bucket {
            name: Some(one.name.to_string()),
            creation_date: Some(moment(one.bucket.made)),
            bucket_region: Some(one.bucket.region),
        }));
        if !more || after.is_none() {
            break;
        }
        if wanted.is_some_and(|wanted| buckets.len() >= wanted) {
            next = after.map(|name| name.to_string());
            break;
        }
    }
    Ok(S3Response::new(ListBucketsOutput {
        buckets: Some(buckets),
        owner: Some(owner(mine)),
        continuation_token: next,
        prefix: Some(prefix).filter(|prefix| !prefix.is_empty()),
    }))
}

/// `GetBucketVersioning`.
pub async fn get_bucket_versioning(
    front: &Front,
    request: S3Request<GetBucketVersioningInput>,
) -> Done<S3Response<GetBucketVersioningOutput>> {
    let asked = front.asked(&request);
    let (_, bucket) = front.bucket(&asked, Action::GetBucketVersioning, &request.input.bucket).await?;
    let status = match bucket.versioning {
        Versioning::Off => None,
        Versioning::On => Some(BucketVersioningStatus::ENABLED),
        Versioning::Suspended => Some(BucketVersioningStatus::SUSPENDED),
    };
    let status = status.map(BucketVersioningStatus::from_static);
    Ok(S3Response::new(GetBucketVersioningOutput { status, ..GetBucketVersioningOutput::default() }))
}

/// `PutBucketVersioning`.
pub async fn put_bucket_versioning(
    front: &Front,
    request: S3Request<PutBucketVersioningInput>,
) -> Done<S3Response<PutBucketVersioningOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let (name, _) = front.bucket(&asked, Action::PutBucketVersioning, &input.bucket).await?;
    let wanted = input.versioning_configuration;
    if wanted.mfa_delete.is_some_and(|mfa| mfa.as_str() == MFADelete::ENABLED)
        || header(&asked.headers, "x-amz-mfa").is_some()
    {
        return Err(error("NotImplemented", "deletion with a second factor is not offered"));
    }
    let versioning = match wanted.status.as_ref().map(BucketVersioningStatus::as_str) {
        Some(BucketVersioningStatus::ENABLED) => Versioning::On,
        Some(BucketVersioningStatus::SUSPENDED) => Versioning::Suspended,
        Some(_) | None => {
            let words = "the versioning configuration has a status of Enabled or Suspended";
            return Err(error("IllegalVersioningConfigurationException", words));
        }
    };
    front.ask(Command::SetBucket { name, change: BucketChange::Versioning(versioning) }).await?;
    Ok(S3Response::new(PutBucketVersioningOutput::default()))
}

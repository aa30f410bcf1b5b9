//! Policies of buckets, and what buckets block.

use s3s::dto::*;
use s3s::{S3Request, S3Response};

use super::access::Action;
use super::decision::untaken;
use super::documents::write;
use super::error::{Done, error, missing, strange};
use super::front::Front;
use crate::meta::kinds::DocumentKind;
use crate::meta::query::{Query, Reply};
use crate::rules::policy::Policy;

/// `GetBucketPolicy`: byte for byte as it was put.
pub async fn get_bucket_policy(
    front: &Front,
    request: S3Request<GetBucketPolicyInput>,
) -> Done<S3Response<GetBucketPolicyOutput>> {
    let asked = front.asked(&request);
    let (name, _) = front.bucket(&asked, Action::GetBucketPolicy, &request.input.bucket).await?;
    let query = Query::Document(name, DocumentKind::Policy);
    let Reply::Document(policy) = front.look(query).await? else { return Err(strange()) };
    let none = || missing("NoSuchBucketPolicy", "the bucket policy does not exist");
    Ok(S3Response::new(GetBucketPolicyOutput { policy: Some(policy.ok_or_else(none)?) }))
}

/// `PutBucketPolicy`.
pub async fn put_bucket_policy(
    front: &Front,
    request: S3Request<PutBucketPolicyInput>,
) -> Done<S3Response<PutBucketPolicyOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let (name, _) = front.bucket(&asked, Action::PutBucketPolicy, &input.bucket).await?;
    if input.policy.len() > DocumentKind::Policy.bytes_max() {
        let words = format!("a policy of {} bytes exceeds {}", input.policy.len(), DocumentKind::Policy.bytes_max());
        return Err(error("MalformedPolicy", words));
    }
    let malformed = |why: crate::rules::policy::PolicyError| error("MalformedPolicy", why.to_string());
    let policy = Policy::parse(name.as_str(), &input.policy).map_err(malformed)?;
    front.rules(&asked, &name).await?.takes_policy(&policy).map_err(untaken)?;
    front.keep(name, DocumentKind::Policy, Some(input.policy)).await?;
    let mut response = S3Response::new(PutBucketPolicyOutput::default());
    response.status = Some(http::StatusCode::NO_CONTENT);
    Ok(response)
}

/// `DeleteBucketPolicy`.
pub async fn delete_bucket_policy(
    front: &Front,
    request: S3Request<DeleteBucketPolicyInput>,
) -> Done<S3Response<DeleteBucketPolicyOutput>> {
    let asked = front.asked(&request);
    front.remove(&asked, Action::DeleteBucketPolicy, &request.input.bucket, DocumentKind::Policy).await?;
    Ok(S3Response::new(DeleteBucketPolicyOutput::default()))
}

/// `GetBucketPolicyStatus`.
pub async fn get_bucket_policy_status(
    front: &Front,
    request: S3Request<GetBucketPolicyStatusInput>,
) -> Done<S3Response<GetBucketPolicyStatusOutput>> {
    let asked = front.asked(&request);
    let (name, bucket) = front.bucket(&asked, Action::GetBucketPolicyStatus, &request.input.bucket).await?;
    let is_public = Some(front.rules(&asked, &name).await?.is_public(&bucket.acl));
    Ok(S3Response::new(GetBucketPolicyStatusOutput { policy_status: Some(PolicyStatus { is_public }) }))
}

/// `GetPublicAccessBlock`.
pub async fn get_public_access_block(
    front: &Front,
    request: S3Request<GetPublicAccessBlockInput>,
) -> Done<S3Response<GetPublicAccessBlockOutput>> {
    let asked = front.asked(&request);
    let (action, kind) = (Action::GetBucketPublicAccessBlock, DocumentKind::PublicAccess);
    let found = front.document(&asked, action, &request.input.bucket, kind).await?;
    let words = "the public access block configuration was not found";
    let none = || missing("NoSuchPublicAccessBlockConfiguration", words);
    let public_access_block_configuration = Some(found.ok_or_else(none)?);
    Ok(S3Response::new(GetPublicAccessBlockOutput { public_access_block_configuration }))
}

/// `PutPublicAccessBlock`.
pub async fn put_public_access_block(
    front: &Front,
    request: S3Request<PutPublicAccessBlockInput>,
) -> Done<S3Response<PutPublicAccessBlockOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let (name, _) = front.bucket(&asked, Action::PutBucketPublicAccessBlock, &input.bucket).await?;
    let said = input.public_access_block_configuration;
    // What is not said is not blocked, and comes back as that.
    let whole = PublicAccessBlockConfiguration {
        block_public_acls: Some(said.block_public_acls == Some(true)),
        block_public_policy: Some(said.block_public_policy == Some(true)),
        ignore_public_acls: Some(said.ignore_public_acls == Some(true)),
        restrict_public_buckets: Some(said.restrict_public_buckets == Some(true)),
    };
    front.keep(name, DocumentKind::PublicAccess, Some(write(&whole)?)).await?;
    Ok(S3Response::new(PutPublicAccessBlockOutput::default()))
}

/// `DeletePublicAccessBlock`.
pub async fn delete_public_access_block(
    front: &Front,
    request: S3Request<DeletePublicAccessBlockInput>,
) -> Done<S3Response<DeletePublicAccessBlockOutput>> {
    let asked = front.asked(&request);
    let bucket = &request.input.bucket;
    front.remove(&asked, Action::PutBucketPublicAccessBlock, bucket, DocumentKind::PublicAccess).await?;
    Ok(S3Response::new(DeletePublicAccessBlockOutput::default()))
}

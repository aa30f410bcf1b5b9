//! What buckets are told to do by themselves or for browsers: lifecycle, CORS, encryption.

use std::collections::BTreeMap;

use s3s::dto::*;
use s3s::{S3Request, S3Response};

use super::about::wall;
use super::access::Action;
use super::documents::{read, write};
use super::error::{Done, error, missing};
use super::front::{Asked, Front};
use crate::meta::kinds::{DocumentKind, Version};
use crate::meta::names::BucketName;
use crate::rules::{cors, lifecycle};

/// Rules of a document as the rules know them.
pub fn cors_rules(said: &CORSConfiguration) -> Vec<cors::Rule> {
    let one = |rule: &CORSRule| cors::Rule {
        origins: rule.allowed_origins.clone(),
        methods: rule.allowed_methods.clone(),
        headers: rule.allowed_headers.clone().unwrap_or_default(),
        exposed: rule.expose_headers.clone().unwrap_or_default(),
        max_age: rule.max_age_seconds.and_then(|seconds| u32::try_from(seconds).ok()),
    };
    said.cors_rules.iter().map(one).collect()
}

/// `GetBucketCors`.
pub async fn get_bucket_cors(
    front: &Front,
    request: S3Request<GetBucketCorsInput>,
) -> Done<S3Response<GetBucketCorsOutput>> {
    let asked = front.asked(&request);
    let (action, kind) = (Action::GetBucketCORS, DocumentKind::Cors);
    let found: Option<CORSConfiguration> = front.document(&asked, action, &request.input.bucket, kind).await?;
    let none = || missing("NoSuchCORSConfiguration", "the CORS configuration does not exist");
    Ok(S3Response::new(GetBucketCorsOutput { cors_rules: Some(found.ok_or_else(none)?.cors_rules) }))
}

/// `PutBucketCors`.
pub async fn put_bucket_cors(
    front: &Front,
    request: S3Request<PutBucketCorsInput>,
) -> Done<S3Response<PutBucketCorsOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let (name, _) = front.bucket(&asked, Action::PutBucketCORS, &input.bucket).await?;
    cors::check(&cors_rules(&input.cors_configuration)).map_err(|why| error("InvalidRequest", why.to_string()))?;
    front.keep(name, DocumentKind::Cors, Some(write(&input.cors_configuration)?)).await?;
    Ok(S3Response::new(PutBucketCorsOutput::default()))
}

/// `DeleteBucketCors`.
pub async fn delete_bucket_cors(
    front: &Front,
    request: S3Request<DeleteBucketCorsInput>,
) -> Done<S3Response<DeleteBucketCorsOutput>> {
    let asked = front.asked(&request);
    front.remove(&asked, Action::PutBucketCORS, &request.input.bucket, DocumentKind::Cors).await?;
    Ok(S3Response::new(DeleteBucketCorsOutput::default()))
}

/// Rules of a document as the rules know them.
///
/// # Errors
/// When it says something that would not be carried out.
pub fn lifecycle_rules(said: &BucketLifecycleConfiguration) -> Done<Vec<lifecycle::Rule>> {
    said.rules.iter().map(lifecycle_rule).collect()
}

/// Rules of a document that was kept; none if they cannot be read.
pub fn lifecycle_of(text: &str) -> Option<Vec<lifecycle::Rule>> {
    read(text).and_then(|said| lifecycle_rules(&said)).ok()
}

fn malformed(words: &str) -> s3s::S3Error {
    error("MalformedXML", words)
}

fn count(number: i32) -> Done<u32> {
    u32::try_from(number).map_err(|_| error("InvalidArgument", "days are a positive number"))
}

fn lifecycle_rule(rule: &LifecycleRule) -> Done<lifecycle::Rule> {
    if rule.transitions.as_ref().is_some_and(|all| !all.is_empty())
        || rule.noncurrent_version_transitions.as_ref().is_some_and(|all| !all.is_empty())
    {
        return Err(error("InvalidStorageClass", "there is one storage class: nothing is moved to another"));
    }
    let enabled = match rule.status.as_str() {
        "Enabled" => true,
        "Disabled" => false,
        _ => return Err(malformed("a rule is Enabled or Disabled")),
    };
    let filter = match (&rule.filter, &rule.prefix) {
        (Some(_), Some(_)) => return Err(malformed("a rule has a filter or a prefix")),
        (Some(filter), None) => filtered(filter)?,
        (None, prefix) => lifecycle::Filter { prefix: prefix.clone().unwrap_or_default(), ..Default::default() },
    };
    let (expires, lone_markers) = match &rule.expiration {
        None => (None, false),
        Some(said) => expires(said)?,
    };
    let noncurrent = match &rule.noncurrent_version_expiration {
        None => None,
        Some(said) => {
            let days = said.noncurrent_days.ok_or_else(|| malformed("noncurrent versions go after some days"))?;
            let keep = said.newer_noncurrent_versions.unwrap_or(0);
            Some(lifecycle::Noncurrent { days: count(days)?, keep: count(keep)? })
        }
    };
    let abort_days = match &rule.abort_incomplete_multipart_upload {
        None => None,
        Some(said) => Some(count(said.days_after_initiation.ok_or_else(|| malformed("uploads end after some days"))?)?),
    };
    let id = rule.id.clone().unwrap_or_default();
    Ok(lifecycle::Rule { id, enabled, filter, expires, lone_markers, noncurrent, abort_days })
}

fn expires(said: &LifecycleExpiration) -> Done<(Option<lifecycle::Expiry>, bool)> {
    let marker = said.expired_object_delete_marker == Some(true);
    Ok(match (said.days, &said.date) {
        (Some(_), Some(_)) => return Err(malformed("an expiration has days or a date")),
        (Some(days), None) => (Some(lifecycle::Expiry::Days(count(days)?)), marker),
        (None, Some(date)) => {
            let date = wall(date).ok_or_else(|| malformed("the date cannot be read"))?;
            (Some(lifecycle::Expiry::Date(date)), marker)
        }
        (None, None) if said.expired_object_delete_marker.is_none() => {
            return Err(malformed("an expiration has days, a date, or is about delete markers"));
        }
        (None, None) => (None, marker),
    })
}

fn tag(tag: &Tag) -> Done<(String, String)> {
    match (&tag.key, &tag.value) {
        (Some(key), Some(value)) => Ok((key.clone(), value.clone())),
        _ => Err(malformed("a tag has a key and a value")),
    }
}

fn size(bytes: Option<i64>) -> Done<Option<u64>> {
    bytes.map(u64::try_from).transpose().map_err(|_| error("InvalidArgument", "a size below zero"))
}

/// What a rule is about. Several things count together; S3 itself would have them in `And`.
fn filtered(said: &LifecycleRuleFilter) -> Done<lifecycle::Filter> {
    let Some(and) = &said.and else {
        return Ok(lifecycle::Filter {
            prefix: said.prefix.clone().unwrap_or_default(),
            tags: said.tag.iter().map(tag).collect::<Done<_>>()?,
            larger_than: size(said.object_size_greater_than)?,
            smaller_than: size(said.object_size_less_than)?,
        });
    };
    let beside = said.prefix.is_some()
        || said.tag.is_some()
        || said.object_size_greater_than.is_some()
        || said.object_size_less_than.is_some();
    if beside {
        return Err(malformed("a filter says nothing beside And"));
    }
    let tags = and.tags.as_deref().unwrap_or_default();
    let named: BTreeMap<String, String> = tags.iter().map(tag).collect::<Done<_>>()?;
    if named.len() < tags.len() {
        return Err(error("InvalidRequest", "a tag is said twice"));
    }
    Ok(lifecycle::Filter {
        prefix: and.prefix.clone().unwrap_or_default(),
        tags: named,
        larger_than: size(and.object_size_greater_than)?,
        smaller_than: size(and.object_size_less_than)?,
    })
}

/// `GetBucketLifecycleConfiguration`.
pub async fn get_bucket_lifecycle_configuration(
    front: &Front,
    request: S3Request<GetBucketLifecycleConfigurationInput>,
) -> Done<S3Response<GetBucketLifecycleConfigurationOutput>> {
    let asked = front.asked(&request);
    let (action, kind) = (Action::GetLifecycleConfiguration, DocumentKind::Lifecycle);
    let found: Option<BucketLifecycleConfiguration> =
        front.document(&asked, action, &request.input.bucket, kind).await?;
    let none = || missing("NoSuchLifecycleConfiguration", "the lifecycle configuration does not exist");
    let rules = Some(found.ok_or_else(none)?.rules);
    Ok(S3Response::new(GetBucketLifecycleConfigurationOutput { rules, ..Default::default() }))
}

/// `PutBucketLifecycleConfiguration`. A rule without a name gets one.
pub async fn put_bucket_lifecycle_configuration(
    front: &Front,
    request: S3Request<PutBucketLifecycleConfigurationInput>,
) -> Done<S3Response<PutBucketLifecycleConfigurationOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let (name, _) = front.bucket(&asked, Action::PutLifecycleConfiguration, &input.bucket).await?;
    let mut said = input.lifecycle_configuration.ok_or_else(|| malformed("there is no configuration"))?;
    for rule in &mut said.rules {
        if rule.id.as_ref().is_none_or(String::is_empty) {
            rule.id = Some(format!("{:016x}", front.gateway.chance().number()));
        }
    }
    let rules = lifecycle_rules(&said)?;
    lifecycle::check(&rules).map_err(|why| error(why.code(), why.to_string()))?;
    front.keep(name, DocumentKind::Lifecycle, Some(write(&said)?)).await?;
    Ok(S3Response::new(PutBucketLifecycleConfigurationOutput::default()))
}

/// `DeleteBucketLifecycle`.
pub async fn delete_bucket_lifecycle(
    front: &Front,
    request: S3Request<DeleteBucketLifecycleInput>,
) -> Done<S3Response<DeleteBucketLifecycleOutput>> {
    let asked = front.asked(&request);
    let bucket = &request.input.bucket;
    front.remove(&asked, Action::PutLifecycleConfiguration, bucket, DocumentKind::Lifecycle).await?;
    Ok(S3Response::new(DeleteBucketLifecycleOutput::default()))
}

/// `GetBucketEncryption`.
pub async fn get_bucket_encryption(
    front: &Front,
    request: S3Request<GetBucketEncryptionInput>,
) -> Done<S3Response<GetBucketEncryptionOutput>> {
    let asked = front.asked(&request);
    let (action, kind) = (Action::GetEncryptionConfiguration, DocumentKind::Encryption);
    let found = front.document(&asked, action, &request.input.bucket, kind).await?;
    let words = "the server side encryption configuration was not found";
    let none = || missing("ServerSideEncryptionConfigurationNotFoundError", words);
    let server_side_encryption_configuration = Some(found.ok_or_else(none)?);
    Ok(S3Response::new(GetBucketEncryptionOutput { server_side_encryption_configuration }))
}

/// `PutBucketEncryption`.
pub async fn put_bucket_encryption(
    front: &Front,
    request: S3Request<PutBucketEncryptionInput>,
) -> Done<S3Response<PutBucketEncryptionOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let (name, _) = front.bucket(&asked, Action::PutEncryptionConfiguration, &input.bucket).await?;
    let said = input.server_side_encryption_configuration;
    let default = match said.rules.as_slice() {
        [rule] => rule.apply_server_side_encryption_by_default.as_ref(),
        _ => None,
    };
    let Some(default) = default else { return Err(malformed("one rule says how objects are encrypted")) };
    super::sealing::Wanted::default_of(default)?;
    front.keep(name, DocumentKind::Encryption, Some(write(&said)?)).await?;
    Ok(S3Response::new(PutBucketEncryptionOutput::default()))
}

/// `DeleteBucketEncryption`.
pub async fn delete_bucket_encryption(
    front: &Front,
    request: S3Request<DeleteBucketEncryptionInput>,
) -> Done<S3Response<DeleteBucketEncryptionOutput>> {
    let asked = front.asked(&request);
    let bucket = &request.input.bucket;
    front.remove(&asked, Action::PutEncryptionConfiguration, bucket, DocumentKind::Encryption).await?;
    Ok(S3Response::new(DeleteBucketEncryptionOutput::default()))
}

impl Front {
    async fn lifecycle(&self, asked: &Asked, bucket: &BucketName) -> Done<Vec<lifecycle::Rule>> {
        let told = self.rules(asked, bucket).await?;
        told.lifecycle.as_deref().map_or(Ok(Vec::new()), |text| lifecycle_rules(&read(text)?))
    }

    /// When an object that is being put will be deleted by itself: `x-amz-expiration`.
    pub(crate) async fn expiration(
        &self,
        asked: &Asked,
        bucket: &BucketName,
        key: &str,
        tags: &BTreeMap<String, String>,
        bytes: Option<i64>,
    ) -> Done<Option<String>> {
        let rules = self.lifecycle(asked, bucket).await?;
        let bytes = bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default();
        let version = lifecycle::Version { at: self.gateway.wall(), object: Some((bytes, tags)) };
        Ok(lifecycle::header(&rules, key, &version))
    }

    /// When the newest version of a key will be deleted by itself.
    pub(crate) async fn expiration_of(
        &self,
        asked: &Asked,
        bucket: &BucketName,
        key: &str,
        version: &Version,
    ) -> Done<Option<String>> {
        let Some(object) = &version.object else { return Ok(None) };
        let rules = self.lifecycle(asked, bucket).await?;
        let version = lifecycle::Version { at: version.at, object: Some((object.bytes, &object.about.tags)) };
        Ok(lifecycle::header(&rules, key, &version))
    }
}

//! Locks of versions, and how a bucket locks those that do not say it themselves.

use s3s::dto::*;
use s3s::{S3Request, S3Response};

use super::about::{mode, moment, wall};
use super::access::Action;
use super::error::{Done, argument, error, missing, refused};
use super::front::{Asked, Front, version};
use crate::meta::command::{BucketChange, Command, ObjectChange};
use crate::meta::kinds::{Lock, LockDefault, LockMode, Retention};
use crate::meta::names::{BucketName, VersionRef};
use crate::meta::query::Found;
use crate::meta::refusal::Refusal;

/// Days of a year of a lock (S3).
const YEAR_DAYS: i32 = 365;

fn read_mode(word: &str) -> Done<LockMode> {
    match word {
        "GOVERNANCE" => Ok(LockMode::Governance),
        "COMPLIANCE" => Ok(LockMode::Compliance),
        _ => Err(malformed()),
    }
}

fn malformed() -> s3s::S3Error {
    error("MalformedXML", "the XML you provided was not well-formed or did not validate against our published schema")
}

/// `GetObjectLockConfiguration`.
pub async fn get_object_lock_configuration(
    front: &Front,
    request: S3Request<GetObjectLockConfigurationInput>,
) -> Done<S3Response<GetObjectLockConfigurationOutput>> {
    let asked = front.asked(&request);
    let action = Action::GetBucketObjectLockConfiguration;
    let (_, bucket) = front.bucket(&asked, action, &request.input.bucket).await?;
    if !bucket.lockable {
        let words = "object lock configuration does not exist for this bucket";
        return Err(missing("ObjectLockConfigurationNotFoundError", words));
    }
    let rule = bucket.lock.map(|lock| ObjectLockRule {
        default_retention: Some(DefaultRetention {
            days: i32::try_from(lock.days).ok(),
            mode: Some(ObjectLockRetentionMode::from_static(mode(lock.mode))),
            years: None,
        }),
    });
    let object_lock_enabled = Some(ObjectLockEnabled::from_static(ObjectLockEnabled::ENABLED));
    let object_lock_configuration = Some(ObjectLockConfiguration { object_lock_enabled, rule });
    Ok(S3Response::new(GetObjectLockConfigurationOutput { object_lock_configuration }))
}

/// `PutObjectLockConfiguration`.
pub async fn put_object_lock_configuration(
    front: &Front,
    request: S3Request<PutObjectLockConfigurationInput>,
) -> Done<S3Response<PutObjectLockConfigurationOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let (name, _) = front.bucket(&asked, Action::PutBucketObjectLockConfiguration, &input.bucket).await?;
    let said = input.object_lock_configuration.ok_or_else(malformed)?;
    if said.object_lock_enabled.is_none_or(|word| word.as_str() != ObjectLockEnabled::ENABLED) {
        return Err(malformed());
    }
    let default = match said.rule {
        None => None,
        Some(rule) => {
            let wanted = rule.default_retention.ok_or_else(malformed)?;
            let mode = read_mode(wanted.mode.as_ref().map_or("", |mode| mode.as_str()))?;
            let days = match (wanted.days, wanted.years) {
                (Some(days), None) => Some(days),
                (None, Some(years)) => years.checked_mul(YEAR_DAYS),
                _ => return Err(malformed()),
            };
            let days = days.and_then(|days| u32::try_from(days).ok()).filter(|days| *days > 0);
            let period =
                || error("InvalidRetentionPeriod", "a default retention lasts a positive number of days or years");
            Some(LockDefault { mode, days: days.ok_or_else(period)? })
        }
    };
    front.ask(Command::SetBucket { name, change: BucketChange::Lock(default) }).await?;
    Ok(S3Response::new(PutObjectLockConfigurationOutput::default()))
}

/// The version that is meant, in a bucket whose versions can be locked.
async fn locked(
    front: &Front,
    asked: &Asked,
    action: Action,
    at: (&str, &str),
    id: Option<VersionRef>,
) -> Done<(Box<Found>, Lock)> {
    let found = front.version(asked, action, at, id, 0).await?;
    if !found.bucket.lockable {
        return Err(error("InvalidRequest", "bucket is missing object lock configuration"));
    }
    match &found.version.object {
        Some(object) => {
            let lock = object.lock;
            Ok((found, lock))
        }
        None => Err(refused(if id.is_some() { &Refusal::IsMarker } else { &Refusal::NoSuchKey })),
    }
}

fn unlocked() -> s3s::S3Error {
    missing("NoSuchObjectLockConfiguration", "the specified object does not have an ObjectLock configuration")
}

/// `GetObjectRetention`.
pub async fn get_object_retention(
    front: &Front,
    request: S3Request<GetObjectRetentionInput>,
) -> Done<S3Response<GetObjectRetentionOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let id = version(input.version_id.as_deref())?;
    let at = (input.bucket.as_str(), input.key.as_str());
    let (_, lock) = locked(front, &asked, Action::GetObjectRetention, at, id).await?;
    let retention = lock.retention.ok_or_else(unlocked)?;
    let retention = Some(ObjectLockRetention {
        mode: Some(ObjectLockRetentionMode::from_static(mode(retention.mode))),
        retain_until_date: Some(moment(retention.until)),
    });
    Ok(S3Response::new(GetObjectRetentionOutput { retention }))
}

/// `PutObjectRetention`.
pub async fn put_object_retention(
    front: &Front,
    request: S3Request<PutObjectRetentionInput>,
) -> Done<S3Response<PutObjectRetentionOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let id = version(input.version_id.as_deref())?;
    let at = (input.bucket.as_str(), input.key.as_str());
    let (found, _) = locked(front, &asked, Action::PutObjectRetention, at, id).await?;
    let bucket = BucketName::new(input.bucket.as_str()).map_err(|error| super::error::bad_bucket(&error))?;
    let said = input.retention.ok_or_else(malformed)?;
    let to = match (said.mode, said.retain_until_date) {
        (None, None) => None,
        (Some(mode), Some(until)) => {
            let until = wall(&until).ok_or_else(|| argument("the date until which it is kept cannot be read"))?;
            Some(Retention { mode: read_mode(mode.as_str())?, until })
        }
        _ => return Err(malformed()),
    };
    let bypass = input.bypass_governance_retention == Some(true);
    if bypass {
        let object = Some((input.key.as_str(), found.version.object.as_deref()));
        front.admit(&asked, Action::BypassGovernanceRetention, &bucket, &found.bucket, object).await?;
    }
    let (key, version) = (super::front::key(&input.key)?, Some(found.version.name()));
    let change = ObjectChange::Retention { to, bypass };
    front.ask(Command::SetObject { bucket, key, version, change }).await?;
    Ok(S3Response::new(PutObjectRetentionOutput::default()))
}

/// `GetObjectLegalHold`.
pub async fn get_object_legal_hold(
    front: &Front,
    request: S3Request<GetObjectLegalHoldInput>,
) -> Done<S3Response<GetObjectLegalHoldOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let id = version(input.version_id.as_deref())?;
    let at = (input.bucket.as_str(), input.key.as_str());
    let (_, lock) = locked(front, &asked, Action::GetObjectLegalHold, at, id).await?;
    let word = if lock.hold { ObjectLockLegalHoldStatus::ON } else { ObjectLockLegalHoldStatus::OFF };
    let status = Some(ObjectLockLegalHoldStatus::from_static(word));
    Ok(S3Response::new(GetObjectLegalHoldOutput { legal_hold: Some(ObjectLockLegalHold { status }) }))
}

/// `PutObjectLegalHold`.
pub async fn put_object_legal_hold(
    front: &Front,
    request: S3Request<PutObjectLegalHoldInput>,
) -> Done<S3Response<PutObjectLegalHoldOutput>> {
    let asked = front.asked(&request);
    let input = request.input;
    let id = version(input.version_id.as_deref())?;
    let at = (input.bucket.as_str(), input.key.as_str());
    let (found, _) = locked(front, &asked, Action::PutObjectLegalHold, at, id).await?;
    let hold = match input.legal_hold.and_then(|hold| hold.status).as_ref().map(|status| status.as_str()) {
        Some(ObjectLockLegalHoldStatus::ON) => true,
        Some(ObjectLockLegalHoldStatus::OFF) => false,
        _ => return Err(malformed()),
    };
    let bucket = BucketName::new(input.bucket.as_str()).map_err(|error| super::error::bad_bucket(&error))?;
    let (key, version) = (super::front::key(&input.key)?, Some(found.version.name()));
    front.ask(Command::SetObject { bucket, key, version, change: ObjectChange::Hold(hold) }).await?;
    Ok(S3Response::new(PutObjectLegalHoldOutput::default()))
}

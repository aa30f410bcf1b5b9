//! Deletions: of the newest version, of a certain one, of many keys at once.

use super::notify::{Happened, happened};
use super::object::{check_condition, check_free, forget, make_room};
use super::replicate;
use super::scene::{Place, Scene, Stop};
use crate::meta::command::{Answer, Condition, Deleted, Deletion};
use crate::meta::key::BucketId;
use crate::meta::kinds::{Bucket, Version, Versioning};
use crate::meta::limits::DELETIONS_MAX;
use crate::meta::names::{BucketName, ObjectKey, VersionRef};
use crate::meta::refusal::Refusal;

/// Why something is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Somebody asks for it.
    Asked,
    /// The bucket's own rules want it.
    Expired,
}

pub fn delete(
    scene: &mut Scene,
    name: &BucketName,
    deletions: Vec<Deletion>,
    (bypass, how): (bool, How),
) -> Result<Answer, Stop> {
    let bucket = scene.bucket(name)?;
    if deletions.is_empty() || deletions.len() > DELETIONS_MAX {
        return Err(Refusal::Argument(format!("{} deletions, 1 to {DELETIONS_MAX} are", deletions.len())).into());
    }
    let mut answers = Vec::with_capacity(deletions.len());
    for deletion in deletions {
        // One that is refused has changed nothing: each looks first.
        let is_there = bucket.tells && is_there(scene, &bucket, &deletion)?;
        answers.push(match one(scene, &bucket, &deletion, bypass) {
            Ok(deleted) => {
                if is_there || deleted.made {
                    tell(scene, (name, &bucket), &deletion, &deleted, how)?;
                }
                Ok(deleted)
            }
            Err(Stop::Refused(refusal)) => Err(refusal),
            Err(broken) => return Err(broken),
        });
    }
    Ok(Answer::Deleted(answers))
}

/// Whether there is what is to be deleted.
fn is_there(scene: &Scene, bucket: &Bucket, deletion: &Deletion) -> Result<bool, Stop> {
    Ok(match deletion.version {
        Some(version) => scene.find(bucket.id, &deletion.key, version)?.is_some(),
        None => scene.current(bucket.id, &deletion.key)?.is_some(),
    })
}

/// Has those told who want to know of a deletion.
fn tell(
    scene: &mut Scene,
    (name, bucket): (&BucketName, &Bucket),
    deletion: &Deletion,
    deleted: &Deleted,
    how: How,
) -> Result<(), Stop> {
    let (event, version) = match (deleted.made, how) {
        (true, How::Asked) => ("s3:ObjectRemoved:DeleteMarkerCreated", deleted.marker),
        (true, How::Expired) => ("s3:LifecycleExpiration:DeleteMarkerCreated", deleted.marker),
        (false, How::Asked) => ("s3:ObjectRemoved:Delete", deletion.version),
        (false, How::Expired) => ("s3:LifecycleExpiration:Delete", deletion.version),
    };
    let version = version.filter(|_| bucket.versioning != Versioning::Off);
    happened(scene, name, bucket, &Happened { event, key: &deletion.key, version, object: None })
}

fn one(scene: &mut Scene, bucket: &Bucket, deletion: &Deletion, bypass: bool) -> Result<Deleted, Stop> {
    let Deletion { key, version, if_match } = deletion;
    let condition = Condition { if_match: if_match.clone(), if_none_match: None };
    match version {
        Some(version) => certain(scene, bucket, key, *version, &condition, bypass),
        None => newest(scene, bucket, key, &condition),
    }
}

fn newest(scene: &mut Scene, bucket: &Bucket, key: &ObjectKey, condition: &Condition) -> Result<Deleted, Stop> {
    let current = scene.current(bucket.id, key)?;
    check_condition(current.as_ref(), condition)?;
    make_room(scene, bucket, key)?;
    if current.is_some() {
        replicate::changed(scene, bucket, key)?;
    }
    if bucket.versioning == Versioning::Off {
        return Ok(Deleted::default());
    }
    let null = bucket.versioning == Versioning::Suspended;
    let marker = Version { stamp: scene.stamp(), null, at: scene.at, object: None };
    scene.keep(bucket.id, key, Place::Older, &marker);
    let mut usage = scene.usage(bucket.id)?;
    usage.markers += 1;
    scene.set_usage(bucket.id, usage);
    Ok(Deleted { marker: Some(marker.name()), made: true })
}

fn certain(
    scene: &mut Scene,
    bucket: &Bucket,
    key: &ObjectKey,
    wanted: VersionRef,
    condition: &Condition,
    bypass: bool,
) -> Result<Deleted, Stop> {
    let found = scene.find(bucket.id, key, wanted)?;
    check_condition(found.as_ref().map(|(_, version)| version), condition)?;
    let Some((place, version)) = found else { return Ok(Deleted::default()) };
    if let Some(object) = &version.object {
        check_free(scene.at, &object.lock, bypass)?;
    }
    forget(scene, bucket.id, key, place, &version)?;
    let is_promoted = promote(scene, bucket.id, key)?;
    if place == Place::Current || is_promoted {
        replicate::changed(scene, bucket, key)?;
    }
    let marker = version.object.is_none().then(|| version.name());
    Ok(Deleted { marker, made: false })
}

/// Makes the newest version the current one if it is an object and there is none. Whether it did.
fn promote(scene: &mut Scene, bucket: BucketId, key: &ObjectKey) -> Result<bool, Stop> {
    if scene.current(bucket, key)?.is_some() {
        return Ok(false);
    }
    let Some(newest) = scene.newest_older(bucket, key)?.filter(|newest| newest.object.is_some()) else {
        return Ok(false);
    };
    scene.drop_row(bucket, key, Place::Older, &newest);
    scene.keep(bucket, key, Place::Current, &newest);
    let mut usage = scene.usage(bucket)?;
    usage.noncurrent -= 1;
    usage.objects += 1;
    scene.set_usage(bucket, usage);
    Ok(true)
}

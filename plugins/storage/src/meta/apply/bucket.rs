//! Buckets: made, changed, removed.

use super::notify;
use super::object::check_acl;
use super::replicate;
use super::scene::{Scene, Stop};
use crate::meta::command::{Answer, BucketChange};
use crate::meta::key;
use crate::meta::kinds::{Acl, Bucket, Class, DocumentKind, Dying, LockDefault, Usage, Versioning, WhenShort};
use crate::meta::limits::{BUCKETS_MAX, WORD_BYTES_MAX};
use crate::meta::names::BucketName;
use crate::meta::refusal::Refusal;

/// Days that a default lock may last (S3: a hundred years).
const LOCK_DAYS_MAX: u32 = 36_500;

pub fn create(
    scene: &mut Scene,
    name: &BucketName,
    (owner, region): (String, String),
    lockable: bool,
    (acl, class): (Acl, Class),
) -> Result<Answer, Stop> {
    if let Some(there) = scene.read::<Bucket>(&key::bucket(name))? {
        return Err(if there.owner == owner { Refusal::BucketYours } else { Refusal::BucketTaken }.into());
    }
    for (what, word) in [("owner", &owner), ("region", &region)] {
        if word.is_empty() || word.len() > WORD_BYTES_MAX {
            return Err(Refusal::Argument(format!("{what} of {} bytes, 1 to {WORD_BYTES_MAX} are", word.len())).into());
        }
    }
    check_acl(&acl)?;
    known(class)?;
    if scene.head.buckets >= BUCKETS_MAX {
        return Err(Refusal::TooManyBuckets.into());
    }
    let versioning = if lockable { Versioning::On } else { Versioning::Off };
    let bucket = Bucket {
        id: scene.number(),
        owner,
        region,
        made: scene.at,
        versioning,
        lockable,
        lock: None,
        quota: Default::default(),
        acl,
        class,
        when_short: WhenShort::default(),
        replication: None,
        tells: false,
    };
    scene.head.buckets += 1;
    scene.write(key::bucket(name), &bucket);
    scene.set_usage(bucket.id, Usage::default());
    Ok(Answer::Done)
}

pub fn delete(scene: &mut Scene, name: &BucketName) -> Result<Answer, Stop> {
    let bucket = scene.bucket(name)?;
    let usage = scene.usage(bucket.id)?;
    if usage.objects + usage.noncurrent + usage.markers > 0 {
        return Err(Refusal::BucketNotEmpty.into());
    }
    scene.head.buckets -= 1;
    scene.remove(key::bucket(name));
    scene.remove(key::usage(bucket.id));
    scene.dies(&Dying::Bucket(bucket.id));
    replicate::end(scene, &bucket);
    Ok(Answer::Done)
}

pub fn change(scene: &mut Scene, name: &BucketName, change: BucketChange) -> Result<Answer, Stop> {
    let mut bucket = scene.bucket(name)?;
    match change {
        BucketChange::Versioning(versioning) => {
            if versioning == Versioning::Off && bucket.versioning != Versioning::Off {
                return Err(Refusal::Argument("versions were kept once: they can only be suspended".into()).into());
            }
            if versioning != Versioning::On && bucket.lockable {
                return Err(Refusal::BucketState("versions may be locked, so they are kept".into()).into());
            }
            bucket.versioning = versioning;
        }
        BucketChange::Lock(lock) => {
            if bucket.versioning != Versioning::On {
                return Err(Refusal::BucketState("only versions that are kept can be locked".into()).into());
            }
            if let Some(LockDefault { days, .. }) = lock
                && !(1..=LOCK_DAYS_MAX).contains(&days)
            {
                return Err(Refusal::Argument(format!("{days} days, 1 to {LOCK_DAYS_MAX} are")).into());
            }
            bucket.lockable = true;
            bucket.lock = lock;
        }
        BucketChange::Quota(quota) => bucket.quota = quota,
        BucketChange::Acl(acl) => {
            check_acl(&acl)?;
            bucket.acl = acl;
        }
        BucketChange::Class(class, when_short) => {
            known(class)?;
            (bucket.class, bucket.when_short) = (class, when_short);
        }
        BucketChange::Replication(target) => replicate::set(scene, name, &mut bucket, target)?,
        BucketChange::Document(kind, None) => {
            scene.remove(key::document(bucket.id, kind));
            if kind != DocumentKind::Notification {
                return Ok(Answer::Done);
            }
            bucket.tells = false;
        }
        BucketChange::Document(kind, Some(text)) => {
            if text.is_empty() || text.len() > kind.bytes_max() {
                let words = format!("a document of {} bytes, 1 to {} are", text.len(), kind.bytes_max());
                return Err(Refusal::Argument(words).into());
            }
            if kind == DocumentKind::Notification {
                bucket.tells = !notify::rules(&text)?.is_empty();
            }
            scene.write(key::document(bucket.id, kind), &text);
            if kind != DocumentKind::Notification {
                return Ok(Answer::Done);
            }
        }
    }
    scene.write(key::bucket(name), &bucket);
    Ok(Answer::Done)
}

fn known(class: Class) -> Result<(), Stop> {
    match class.width() {
        Some(_) => Ok(()),
        None => {
            Err(Refusal::Argument(format!("{class:?} is no way to keep bodies: 1 to 3 copies are, 4+2, and 8+3"))
                .into())
        }
    }
}

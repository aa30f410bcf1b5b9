//! Objects: put, copied, and what is said of them changed.

use hirsel_model::WallTime;

use super::chunk;
use super::notify::{Happened, happened};
use super::replicate;
use super::scene::{Place, Scene, Stop};
use crate::meta::command::{Answer, By, Condition, Copying, Made, ObjectChange, Put};
use crate::meta::key::BucketId;
use crate::meta::kinds::{
    About, Acl, Bucket, Checksum, Grant, Grantee, Lock, LockMode, Object, Retention, Usage, Version, Versioning,
};
use crate::meta::limits::{
    BODY_BYTES_MAX, GRANTS_MAX, HEADERS_BYTES_MAX, TAG_KEY_MAX, TAG_VALUE_MAX, TAGS_MAX, WORD_BYTES_MAX,
};
use crate::meta::names::{BucketName, ObjectKey, Stamp, VersionRef};
use crate::meta::refusal::Refusal;
use crate::rules::seal;

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

pub fn put(scene: &mut Scene, put: Put) -> Result<Answer, Stop> {
    let bucket = scene.bucket(&put.bucket)?;
    check_words(&put.etag, put.checksum.as_ref())?;
    check_about(&put.about)?;
    let current = scene.current(bucket.id, &put.key)?;
    check_condition(current.as_ref(), &put.condition)?;
    let lock = lock_of(scene.at, &bucket, put.lock)?;
    let bytes = open_bytes(&put.about, put.body.bytes())?;
    let usage = scene.usage(bucket.id)?;
    check_quota(scene, &bucket, &put.key, &usage, bytes)?;
    let body = chunk::take(scene, put.body)?;
    let Put { bucket: name, key, etag, checksum, about, by, .. } = put;
    let object = Object { bytes, etag, body, about, checksum, lock, parts: 0 };
    let stamp = scene.stamp();
    let made = place(scene, &bucket, &key, stamp, object, None)?;
    let event = match by {
        By::Put => "s3:ObjectCreated:Put",
        By::Form => "s3:ObjectCreated:Post",
        By::Copy => "s3:ObjectCreated:Copy",
    };
    created(scene, (&name, &bucket, &key), event, bytes, &made)?;
    Ok(Answer::Made(made))
}

pub fn copy(scene: &mut Scene, copy: Copying) -> Result<Answer, Stop> {
    let from_bucket = scene.bucket(&copy.from_bucket)?;
    let (_, source) = object(scene, from_bucket.id, &copy.from_key, copy.from_version)?;
    let from = (from_bucket.versioning != Versioning::Off).then(|| source.name());
    let Some(source) = source.object else { return Err(Refusal::IsMarker.into()) };
    let Object { bytes, etag, body, about: kept, checksum, parts, lock: _ } = *source;
    if copy.from_etag.as_ref().is_some_and(|seen| *seen != etag) {
        return Err(Refusal::Condition("the source is another one by now".into()).into());
    }
    if bytes > BODY_BYTES_MAX {
        return Err(Refusal::Argument(format!("{bytes} bytes exceed {BODY_BYTES_MAX}: copy it in parts")).into());
    }
    let bucket = scene.bucket(&copy.bucket)?;
    let current = scene.current(bucket.id, &copy.key)?;
    check_condition(current.as_ref(), &copy.condition)?;
    let mut about = copy.about.unwrap_or_else(|| About { owner: None, ..kept.clone() });
    about.tags = copy.tags.unwrap_or(kept.tags);
    about.acl = copy.acl;
    // The bytes are the same, and so is what opens them.
    about.sealed = kept.sealed;
    check_about(&about)?;
    let lock = lock_of(scene.at, &bucket, copy.lock)?;
    let usage = scene.usage(bucket.id)?;
    check_quota(scene, &bucket, &copy.key, &usage, bytes)?;
    // Before what it takes the place of is released: that may be the source.
    chunk::share(scene, &body)?;
    let object = Object { bytes, etag, body, about, checksum, lock, parts };
    let stamp = scene.stamp();
    let made = place(scene, &bucket, &copy.key, stamp, object, from)?;
    created(scene, (&copy.bucket, &bucket, &copy.key), "s3:ObjectCreated:Copy", bytes, &made)?;
    Ok(Answer::Made(made))
}

/// Has those told who want to know that an object was made.
pub fn created(
    scene: &mut Scene,
    (name, bucket, key): (&BucketName, &Bucket, &ObjectKey),
    event: &'static str,
    bytes: u64,
    made: &Made,
) -> Result<(), Stop> {
    let object = Some((bytes, made.etag.as_str()));
    happened(scene, name, bucket, &Happened { event, key, version: made.version, object })
}

/// The version that is meant, marker or object.
fn object(
    scene: &Scene,
    bucket: BucketId,
    key: &ObjectKey,
    version: Option<VersionRef>,
) -> Result<(Place, Version), Stop> {
    match version {
        Some(version) => Ok(scene.find(bucket, key, version)?.ok_or(Refusal::NoSuchVersion)?),
        None => Ok((Place::Current, scene.current(bucket, key)?.ok_or(Refusal::NoSuchKey)?)),
    }
}

/// How long a body is for clients, which lies on disks with so many bytes.
pub fn open_bytes(about: &About, bytes: u64) -> Result<u64, Refusal> {
    match about.sealed {
        None => Ok(bytes),
        Some(_) => {
            seal::plain_bytes(bytes).ok_or_else(|| Refusal::Argument(format!("no sealed body has {bytes} bytes")))
        }
    }
}

/// Makes `object` the newest version of its key.
pub fn place(
    scene: &mut Scene,
    bucket: &Bucket,
    key: &ObjectKey,
    stamp: Stamp,
    object: Object,
    from: Option<VersionRef>,
) -> Result<Made, Stop> {
    make_room(scene, bucket, key)?;
    let mut usage = scene.usage(bucket.id)?;
    usage.objects += 1;
    usage.bytes += object.bytes;
    scene.set_usage(bucket.id, usage);
    let null = bucket.versioning != Versioning::On;
    let etag = object.etag.clone();
    let version = Version { stamp, null, at: scene.at, object: Some(Box::new(object)) };
    scene.keep(bucket.id, key, Place::Current, &version);
    replicate::changed(scene, bucket, key)?;
    let named = (bucket.versioning != Versioning::Off).then(|| version.name());
    Ok(Made { version: named, etag, at: scene.at, from })
}

/// What was the newest version is not any more: it is kept among the others where versions are kept, and otherwise the null version
/// goes, wherever it is.
pub fn make_room(scene: &mut Scene, bucket: &Bucket, key: &ObjectKey) -> Result<(), Stop> {
    if bucket.versioning != Versioning::On
        && let Some((place, null)) = scene.find(bucket.id, key, VersionRef::Null)?
    {
        forget(scene, bucket.id, key, place, &null)?;
    }
    if let Some(current) = scene.current(bucket.id, key)? {
        scene.drop_row(bucket.id, key, Place::Current, &current);
        scene.keep(bucket.id, key, Place::Older, &current);
        let mut usage = scene.usage(bucket.id)?;
        usage.objects -= 1;
        usage.noncurrent += 1;
        scene.set_usage(bucket.id, usage);
    }
    Ok(())
}

/// Removes a version for good. What becomes the newest then is not looked at.
pub fn forget(
    scene: &mut Scene,
    bucket: BucketId,
    key: &ObjectKey,
    place: Place,
    version: &Version,
) -> Result<(), Stop> {
    scene.drop_row(bucket, key, place, version);
    let mut usage = scene.usage(bucket)?;
    match (&version.object, place) {
        (None, _) => usage.markers -= 1,
        (Some(object), place) => {
            usage.bytes -= object.bytes;
            match place {
                Place::Current => usage.objects -= 1,
                Place::Older => usage.noncurrent -= 1,
            }
        }
    }
    scene.set_usage(bucket, usage);
    if let Some(object) = &version.object {
        chunk::release(scene, &object.body)?;
    }
    Ok(())
}

pub fn change(
    scene: &mut Scene,
    name: &BucketName,
    key: &ObjectKey,
    version: Option<VersionRef>,
    change: ObjectChange,
) -> Result<Answer, Stop> {
    let bucket = scene.bucket(name)?;
    let (place, mut version) = object(scene, bucket.id, key, version)?;
    let object = version.object.as_mut().ok_or(Refusal::IsMarker)?;
    let mut event = None;
    match change {
        ObjectChange::Tags(tags) => {
            check_tags(&tags)?;
            event = Some(if tags.is_empty() { "s3:ObjectTagging:Delete" } else { "s3:ObjectTagging:Put" });
            object.about.tags = tags;
            if place == Place::Current {
                replicate::changed(scene, &bucket, key)?;
            }
        }
        ObjectChange::Acl(acl) => {
            check_acl(&acl)?;
            event = Some("s3:ObjectAcl:Put");
            object.about.acl = acl;
        }
        ObjectChange::Retention { to, bypass } => {
            check_lockable(&bucket)?;
            check_retention(scene.at, object.lock.retention, to, bypass)?;
            object.lock.retention = to;
        }
        ObjectChange::Hold(hold) => {
            check_lockable(&bucket)?;
            object.lock.hold = hold;
        }
    }
    scene.keep(bucket.id, key, place, &version);
    if let (Some(event), Some(object)) = (event, &version.object) {
        let named = (bucket.versioning != Versioning::Off).then(|| version.name());
        let object = Some((object.bytes, object.etag.as_str()));
        happened(scene, name, &bucket, &Happened { event, key, version: named, object })?;
    }
    Ok(Answer::Done)
}

/// The bytes of the null version that a put takes the place of.
fn replaced(scene: &Scene, bucket: &Bucket, key: &ObjectKey) -> Result<Option<u64>, Stop> {
    if bucket.versioning == Versioning::On {
        return Ok(None);
    }
    let null = scene.find(bucket.id, key, VersionRef::Null)?;
    Ok(null.and_then(|(_, version)| version.object).map(|object| object.bytes))
}

/// Refuses what would be more than the bucket may hold, once `more` bytes are in an object under `key`. `usage` may leave out what goes.
pub fn check_quota(scene: &Scene, bucket: &Bucket, key: &ObjectKey, usage: &Usage, more: u64) -> Result<(), Stop> {
    if bucket.quota == Default::default() {
        return Ok(());
    }
    let replaced = replaced(scene, bucket, key)?;
    let bytes = (usage.bytes + usage.part_bytes).saturating_add(more) - replaced.unwrap_or_default();
    let objects = usage.objects + usage.noncurrent + 1 - u64::from(replaced.is_some());
    over(bucket, bytes, Some(objects))
}

/// Refuses what is more than the bucket may hold.
pub fn over(bucket: &Bucket, bytes: u64, objects: Option<u64>) -> Result<(), Stop> {
    if let Some(most) = bucket.quota.bytes.filter(|most| bytes > *most) {
        return Err(Refusal::Quota(format!("{bytes} bytes of {most}")).into());
    }
    if let (Some(most), Some(objects)) = (bucket.quota.objects, objects)
        && objects > most
    {
        return Err(Refusal::Quota(format!("{objects} objects of {most}")).into());
    }
    Ok(())
}

/// Refuses what is not to happen with this newest version.
pub fn check_condition(current: Option<&Version>, condition: &Condition) -> Result<(), Refusal> {
    let etag = current.and_then(|version| version.object.as_ref()).map(|object| object.etag.as_str());
    let is = |wanted: &str, etag: &str| wanted == "*" || wanted == etag;
    if let Some(wanted) = &condition.if_match {
        let etag = etag.ok_or(Refusal::NoSuchKey)?;
        if !is(wanted, etag) {
            return Err(Refusal::Condition("If-Match".into()));
        }
    }
    match (&condition.if_none_match, etag) {
        (Some(unwanted), Some(etag)) if is(unwanted, etag) => Err(Refusal::Condition("If-None-Match".into())),
        _ => Ok(()),
    }
}

fn check_lockable(bucket: &Bucket) -> Result<(), Refusal> {
    match bucket.lockable {
        true => Ok(()),
        false => Err(Refusal::Argument("versions of this bucket cannot be locked".into())),
    }
}

/// How a new version is locked: as its writer says, or as the bucket does.
pub fn lock_of(at: WallTime, bucket: &Bucket, said: Option<Lock>) -> Result<Lock, Refusal> {
    let said = said.unwrap_or_default();
    if said != Lock::default() {
        check_lockable(bucket)?;
        check_end(at, said.retention)?;
    }
    let default = bucket
        .lock
        .map(|lock| Retention { mode: lock.mode, until: WallTime(at.0.saturating_add(u64::from(lock.days) * DAY_MS)) });
    Ok(Lock { retention: said.retention.or(default), ..said })
}

fn check_end(at: WallTime, retention: Option<Retention>) -> Result<(), Refusal> {
    match retention {
        Some(retention) if retention.until <= at => Err(Refusal::Argument("a lock ends in the future".into())),
        _ => Ok(()),
    }
}

/// A lock may be made longer by anybody, and otherwise only be changed if it is governance, by whoever may bypass it.
fn check_retention(at: WallTime, old: Option<Retention>, new: Option<Retention>, bypass: bool) -> Result<(), Refusal> {
    check_end(at, new)?;
    let Some(old) = old.filter(|old| old.until > at) else { return Ok(()) };
    let longer = new.is_some_and(|new| new.until >= old.until);
    let mode = new.map(|new| new.mode);
    let may = match old.mode {
        LockMode::Compliance => longer && mode == Some(LockMode::Compliance),
        LockMode::Governance => bypass || longer && mode == Some(LockMode::Governance),
    };
    if may { Ok(()) } else { Err(Refusal::Locked) }
}

/// Refuses to delete what is locked.
pub fn check_free(at: WallTime, lock: &Lock, bypass: bool) -> Result<(), Refusal> {
    let kept = lock
        .retention
        .is_some_and(|retention| retention.until > at && !(bypass && retention.mode == LockMode::Governance));
    if lock.hold || kept { Err(Refusal::Locked) } else { Ok(()) }
}

pub fn check_words(etag: &str, checksum: Option<&Checksum>) -> Result<(), Refusal> {
    let more = checksum.into_iter().flat_map(|checksum| [&checksum.algorithm, &checksum.value]).map(String::as_str);
    for word in [etag].into_iter().chain(more) {
        if word.is_empty() || word.len() > WORD_BYTES_MAX || !word.bytes().all(|c| c.is_ascii_graphic()) {
            return Err(Refusal::Argument(format!("{word:.40?} is no ETag or checksum")));
        }
    }
    Ok(())
}

pub fn check_about(about: &About) -> Result<(), Refusal> {
    let sealed = about.sealed.as_ref().map_or(0, |sealed| sealed.len());
    let owner = about.owner.as_ref().map_or(0, String::len);
    let bytes = about.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() + sealed + owner;
    if bytes > HEADERS_BYTES_MAX {
        return Err(Refusal::Headers(bytes as u64));
    }
    check_acl(&about.acl)?;
    check_tags(&about.tags)
}

pub fn check_acl(acl: &Acl) -> Result<(), Refusal> {
    let Acl::Grants(grants) = acl else { return Ok(()) };
    if grants.len() > GRANTS_MAX {
        return Err(Refusal::Argument(format!("{} grants exceed {GRANTS_MAX}", grants.len())));
    }
    let wrong = |grant: &&Grant| match &grant.to {
        Grantee::User(name) => name.is_empty() || name.len() > WORD_BYTES_MAX,
        Grantee::Everybody | Grantee::Authenticated | Grantee::Logs => false,
    };
    match grants.iter().find(wrong) {
        Some(_) => Err(Refusal::Argument(format!("the name of a grantee has 1 to {WORD_BYTES_MAX} bytes"))),
        None => Ok(()),
    }
}

fn check_tags(tags: &std::collections::BTreeMap<String, String>) -> Result<(), Refusal> {
    if tags.len() > TAGS_MAX {
        return Err(Refusal::Tags(format!("{} tags exceed {TAGS_MAX}", tags.len())));
    }
    for (key, value) in tags {
        if key.is_empty() || key.chars().count() > TAG_KEY_MAX || value.chars().count() > TAG_VALUE_MAX {
            let words =
                format!("tag {key:.40?}: 1 to {TAG_KEY_MAX} characters, and up to {TAG_VALUE_MAX} for its value");
            return Err(Refusal::Tags(words));
        }
    }
    Ok(())
}

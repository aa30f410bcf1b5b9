//! Uploads in parts: begun, filled, finished or ended.

use std::collections::{BTreeMap, BTreeSet};

use super::chunk;
use super::object::{
    check_about, check_condition, check_quota, check_words, created, lock_of, open_bytes, over, place,
};
use super::scene::{Scene, Stop, decode};
use crate::meta::command::{Answer, CompleteUpload, CreateUpload, Made, PutPart};
use crate::meta::key;
use crate::meta::kinds::{Body, Bucket, Dying, List, Manifest, Object, Part, PartHead, Upload, Versioning};
use crate::meta::limits::{OBJECT_BYTES_MAX, PART_BYTES_MIN, PARTS_MAX, WORD_BYTES_MAX};
use crate::meta::names::{BucketName, ObjectKey, UploadId, VersionRef};
use crate::meta::refusal::Refusal;
use crate::meta::rows::{RowsError, Step};

pub fn create(scene: &mut Scene, create: CreateUpload) -> Result<Answer, Stop> {
    let CreateUpload { bucket, key, about, lock, checksum } = create;
    let bucket = scene.bucket(&bucket)?;
    check_about(&about)?;
    if checksum.as_ref().is_some_and(|name| name.len() > WORD_BYTES_MAX) {
        return Err(Refusal::Argument("the name of the checksum is too long".into()).into());
    }
    // What the bucket says counts when the object is made.
    lock_of(scene.at, &bucket, lock)?;
    let id = scene.stamp();
    let upload = Upload { at: scene.at, about, lock: lock.unwrap_or_default(), checksum, parts: 0, bytes: 0 };
    scene.write(key::upload(bucket.id, &key, id), &upload);
    let mut usage = scene.usage(bucket.id)?;
    usage.uploads += 1;
    scene.set_usage(bucket.id, usage);
    Ok(Answer::Upload(id))
}

pub fn put_part(scene: &mut Scene, put: PutPart) -> Result<Answer, Stop> {
    let bucket = scene.bucket(&put.bucket)?;
    let row = key::upload(bucket.id, &put.key, put.upload);
    let mut upload: Upload = scene.read(&row)?.ok_or(Refusal::NoSuchUpload)?;
    if !(1..=PARTS_MAX).contains(&put.number) {
        return Err(Refusal::Argument(format!("part {}, 1 to {PARTS_MAX} are", put.number)).into());
    }
    check_words(&put.etag, put.checksum.as_ref())?;
    let bytes = put.body.bytes();
    let part_row = key::part(put.upload, put.number);
    let old: Option<Part> = scene.read(&part_row)?;
    let freed = old.as_ref().map_or(0, |old| old.bytes);
    let mut usage = scene.usage(bucket.id)?;
    usage.part_bytes = usage.part_bytes + bytes - freed;
    over(&bucket, usage.bytes + usage.part_bytes, None)?;
    let body = chunk::take(scene, put.body)?;
    upload.bytes = upload.bytes + bytes - freed;
    match &old {
        Some(old) => chunk::release(scene, &old.body)?,
        None => {
            upload.parts += 1;
            usage.parts += 1;
        }
    }
    scene.set_usage(bucket.id, usage);
    let made = Made { version: None, etag: put.etag.clone(), at: scene.at, from: None };
    scene.write(part_row, &Part { at: scene.at, bytes, etag: put.etag, checksum: put.checksum, body });
    scene.write(row, &upload);
    Ok(Answer::Made(made))
}

pub fn complete(scene: &mut Scene, complete: CompleteUpload) -> Result<Answer, Stop> {
    let bucket = scene.bucket(&complete.bucket)?;
    let row = key::upload(bucket.id, &complete.key, complete.upload);
    let Some(upload) = scene.read::<Upload>(&row)? else {
        return Ok(Answer::Made(finished(scene, &bucket, &complete)?));
    };
    check_words(&complete.etag, complete.checksum.as_ref())?;
    let mut there = parts_of(scene, complete.upload)?;
    let (heads, bytes) = check_parts(&complete, &upload, &mut there)?;
    let current = scene.current(bucket.id, &complete.key)?;
    check_condition(current.as_ref(), &complete.condition)?;
    let lock = lock_of(scene.at, &bucket, Some(upload.lock))?;
    let mut usage = scene.usage(bucket.id)?;
    usage.uploads -= 1;
    usage.parts -= u64::from(upload.parts);
    usage.part_bytes -= upload.bytes;
    check_quota(scene, &bucket, &complete.key, &usage, bytes)?;
    scene.set_usage(bucket.id, usage);
    scene.remove(row);
    if !there.is_empty() {
        let numbers: BTreeSet<u16> = there.into_keys().collect();
        scene.dies(&Dying::Parts { upload: complete.upload, numbers: Some(numbers) });
    }
    let stamp = scene.stamp();
    let parts = heads.len() as u16;
    let CompleteUpload { bucket: name, key, upload: id, etag, checksum, .. } = complete;
    let list = List::Parts {
        upload: id,
        parts: heads,
        bucket: bucket.id,
        key: key.clone(),
        version: stamp,
        etag: etag.clone(),
    };
    scene.write(key::manifest(id), &Manifest { shared: 1, list });
    let object = Object { bytes, etag, body: Body::Manifest(id), about: upload.about, checksum, lock, parts };
    let made = place(scene, &bucket, &key, stamp, object, None)?;
    created(scene, (&name, &bucket, &key), "s3:ObjectCreated:CompleteMultipartUpload", bytes, &made)?;
    Ok(Answer::Made(made))
}

/// Which parts there are, with length and ETag.
fn parts_of(scene: &Scene, upload: UploadId) -> Result<BTreeMap<u16, (u64, String)>, RowsError> {
    let mut there = BTreeMap::new();
    let (from, to) = (key::part(upload, 0), key::after(&key::part(upload, u16::MAX)));
    scene.rows().scan(&from, &to, &mut |row, value| {
        let part: Part = decode(row, value)?;
        let number = row.last_chunk().map_or(0, |number| u16::from_be_bytes(*number));
        there.insert(number, (part.bytes, part.etag));
        Ok(Step::On)
    })?;
    Ok(there)
}

/// Takes the parts that are listed out of those that there are, and says how long they are together for clients.
fn check_parts(
    complete: &CompleteUpload,
    upload: &Upload,
    there: &mut BTreeMap<u16, (u64, String)>,
) -> Result<(Vec<PartHead>, u64), Refusal> {
    let listed = &complete.parts;
    if listed.is_empty() || listed.len() > usize::from(PARTS_MAX) {
        return Err(Refusal::Argument(format!("{} parts, 1 to {PARTS_MAX} are", listed.len())));
    }
    if listed.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
        return Err(Refusal::PartOrder);
    }
    let (mut heads, mut sum) = (Vec::with_capacity(listed.len()), 0_u64);
    let mut small = None;
    for (number, etag) in listed {
        let found = there.remove(number).filter(|(_, known)| known == etag);
        let (bytes, _) = found.ok_or(Refusal::InvalidPart(*number))?;
        heads.push(PartHead { number: *number, bytes });
        let open = open_bytes(&upload.about, bytes)?;
        if open < PART_BYTES_MIN && heads.len() < listed.len() {
            small.get_or_insert(*number);
        }
        sum += open;
    }
    // That one is missing is said first.
    if let Some(number) = small {
        return Err(Refusal::PartTooSmall(number));
    }
    if sum > OBJECT_BYTES_MAX {
        return Err(Refusal::TooLarge(format!("{sum} bytes exceed {OBJECT_BYTES_MAX}")));
    }
    if let Some(said) = complete.bytes.filter(|said| *said != sum) {
        return Err(Refusal::Argument(format!("the parts are {sum} bytes, not {said}")));
    }
    Ok((heads, sum))
}

/// The upload is not there: it may have been finished, by a request whose answer was lost.
fn finished(scene: &Scene, bucket: &Bucket, complete: &CompleteUpload) -> Result<Made, Stop> {
    let manifest: Option<Manifest> = scene.read(&key::manifest(complete.upload))?;
    let Some(Manifest { list: List::Parts { bucket: into, key, version, etag, .. }, .. }) = manifest else {
        return Err(Refusal::NoSuchUpload.into());
    };
    if into != bucket.id || key != complete.key || etag != complete.etag {
        return Err(Refusal::NoSuchUpload.into());
    }
    let kept = [VersionRef::Id(version), VersionRef::Null].into_iter();
    for name in kept {
        if let Some((_, found)) = scene.find(bucket.id, &key, name)?
            && found.stamp == version
        {
            let named = (bucket.versioning != Versioning::Off).then(|| found.name());
            return Ok(Made { version: named, etag, at: found.at, from: None });
        }
    }
    Err(Refusal::NoSuchUpload.into())
}

pub fn abort(scene: &mut Scene, name: &BucketName, key: &ObjectKey, id: UploadId) -> Result<Answer, Stop> {
    let bucket = scene.bucket(name)?;
    let row = key::upload(bucket.id, key, id);
    let upload: Upload = scene.read(&row)?.ok_or(Refusal::NoSuchUpload)?;
    scene.remove(row);
    let mut usage = scene.usage(bucket.id)?;
    usage.uploads -= 1;
    usage.parts -= u64::from(upload.parts);
    usage.part_bytes -= upload.bytes;
    scene.set_usage(bucket.id, usage);
    if upload.parts > 0 {
        scene.dies(&Dying::Parts { upload: id, numbers: None });
    }
    Ok(Answer::Done)
}

//! Copies of a bucket elsewhere: which keys are due.
//!
//! A command that changes what a key is now makes it due in the same moment, so that nothing is forgotten and nothing has to be remembered
//! apart. A key is due once, however often it changes; what it is then is looked up when it is copied. Its place among the others is that
//! of its first change, its stamp that of the last one: who has copied it says the stamp, and is done if it is still the same.

use super::scene::{Scene, Stop};
use crate::meta::command::{Answer, Copied};
use crate::meta::key;
use crate::meta::kinds::{Bucket, Due, Dying, Failing, Replicating, Replication, ReplicationId, Target};
use crate::meta::limits::{FAILING_BYTES_MAX, FOUND_MAX, KEY_BYTES_MAX, NAMED_MAX, TARGET_BYTES_MAX, WORD_BYTES_MAX};
use crate::meta::names::{BucketName, ObjectKey};
use crate::meta::refusal::Refusal;

/// What `key` is now has changed.
pub fn changed(scene: &mut Scene, bucket: &Bucket, key: &ObjectKey) -> Result<(), Stop> {
    let Some(replication) = &bucket.replication else { return Ok(()) };
    if !key.as_str().starts_with(&replication.target.prefix) {
        return Ok(());
    }
    let row = key::replicating(replication.id);
    let Some(mut replicating) = scene.read::<Replicating>(&row)? else { return Ok(()) };
    make_due(scene, replication.id, &mut replicating, key)?;
    scene.write(row, &replicating);
    Ok(())
}

fn make_due(scene: &mut Scene, id: ReplicationId, of: &mut Replicating, key: &ObjectKey) -> Result<(), Stop> {
    let row = key::due(id, key);
    let stamp = scene.number();
    let due = match scene.read::<Due>(&row)? {
        Some(due) if !due.cannot => Due { stamp, ..due },
        before => {
            of.cannot -= u64::from(before.is_some());
            of.due += 1;
            scene.write(key::due_at(id, stamp), key);
            Due { stamp, place: stamp, since: scene.at, cannot: false }
        }
    };
    scene.write(row, &due);
    Ok(())
}

/// Says where a bucket is copied to from now on.
pub fn set(scene: &mut Scene, name: &BucketName, bucket: &mut Bucket, target: Option<Box<Target>>) -> Result<(), Stop> {
    let Some(target) = target else {
        end(scene, bucket);
        bucket.replication = None;
        return Ok(());
    };
    check(&target)?;
    let found = Some(String::new());
    let fresh = Replicating { bucket: name.clone(), since: scene.at, found, due: 0, cannot: 0, failing: None };
    let same = bucket.replication.as_ref().filter(|before| before.target.is_same_place(&target));
    let (id, replicating) = match same.map(|before| before.id) {
        // What is due stays due. Whoever says it again wants all to be looked at.
        Some(id) => {
            let before = scene.read::<Replicating>(&key::replicating(id))?;
            let (due, cannot) = before.map_or((0, 0), |before| (before.due, before.cannot));
            (id, Replicating { due, cannot, ..fresh })
        }
        None => {
            end(scene, bucket);
            (scene.number(), fresh)
        }
    };
    scene.write(key::replicating(id), &replicating);
    bucket.replication = Some(Box::new(Replication { id, target: *target }));
    Ok(())
}

/// Nothing of a bucket is copied any more.
pub fn end(scene: &mut Scene, bucket: &Bucket) {
    if let Some(replication) = &bucket.replication {
        scene.remove(key::replicating(replication.id));
        scene.dies(&Dying::Replication(replication.id));
    }
}

fn check(target: &Target) -> Result<(), Refusal> {
    let Target { endpoint, region, bucket, prefix, key_id, secret } = target;
    let bounded = [
        ("endpoint", endpoint.len(), TARGET_BYTES_MAX),
        ("region", region.len(), WORD_BYTES_MAX),
        ("bucket", bucket.len(), WORD_BYTES_MAX),
        ("access key", key_id.len(), WORD_BYTES_MAX),
        ("sealed secret", secret.len(), TARGET_BYTES_MAX),
    ];
    let wrong = bounded.into_iter().find(|(_, bytes, most)| *bytes == 0 || bytes > most);
    if let Some((what, bytes, most)) = wrong {
        let words = format!("the {what} of where it is copied to has {bytes} bytes, 1 to {most} are");
        return Err(Refusal::Argument(words));
    }
    if prefix.len() > KEY_BYTES_MAX {
        return Err(Refusal::Argument(format!("a prefix of {} bytes exceeds {KEY_BYTES_MAX}", prefix.len())));
    }
    Ok(())
}

/// Makes due what is in the bucket and is not yet, some keys at a time.
pub fn find(scene: &mut Scene, id: ReplicationId) -> Result<Answer, Stop> {
    let nothing = Ok(Answer::Some { done: 0, more: false });
    let row = key::replicating(id);
    let Some(mut replicating) = scene.read::<Replicating>(&row)? else { return nothing };
    let Some(found) = replicating.found.take() else { return nothing };
    let bucket = scene.bucket(&replicating.bucket)?;
    let Some(replication) = &bucket.replication else { return nothing };
    let (first, end) = key::all_of(key::keys_from(b'c', bucket.id, &replication.target.prefix));
    let from = match ObjectKey::new(found) {
        Ok(found) => key::after(&key::current(bucket.id, &found)),
        Err(_) => first,
    };
    let rows = scene.keys((from, end), FOUND_MAX)?;
    let mut done = 0;
    let keys = rows.iter().filter_map(|row| ObjectKey::new(key::key_in(row)?.0).ok());
    for key in keys {
        if scene.read::<Due>(&key::due(id, &key))?.is_none() {
            make_due(scene, id, &mut replicating, &key)?;
            done += 1;
        }
        replicating.found = Some(key.as_str().to_owned());
    }
    let more = rows.len() == FOUND_MAX;
    if !more {
        replicating.found = None;
    }
    scene.write(row, &replicating);
    Ok(Answer::Some { done, more })
}

/// Keys were copied, or cannot be.
pub fn copied(scene: &mut Scene, id: ReplicationId, keys: &[Copied]) -> Result<Answer, Stop> {
    if keys.len() > NAMED_MAX {
        return Err(Refusal::Argument(format!("{} keys exceed {NAMED_MAX}", keys.len())).into());
    }
    let row = key::replicating(id);
    let mut done = 0;
    if let Some(mut replicating) = scene.read::<Replicating>(&row)? {
        for Copied { key, stamp, cannot } in keys {
            let of_key = key::due(id, key);
            let due = scene.read::<Due>(&of_key)?.filter(|due| due.stamp == *stamp && !due.cannot);
            let Some(due) = due else { continue };
            done += 1;
            replicating.due -= 1;
            scene.remove(key::due_at(id, due.place));
            match cannot {
                true => {
                    replicating.cannot += 1;
                    scene.write(of_key, &Due { cannot: true, ..due });
                }
                false => scene.remove(of_key),
            }
        }
        scene.write(row, &replicating);
    }
    Ok(Answer::Some { done, more: false })
}

/// Nothing can be copied, or it can again.
pub fn fails(scene: &mut Scene, id: ReplicationId, words: Option<String>) -> Result<Answer, Stop> {
    if words.as_ref().is_some_and(|words| words.len() > FAILING_BYTES_MAX) {
        return Err(Refusal::Argument(format!("words of more than {FAILING_BYTES_MAX} bytes")).into());
    }
    let row = key::replicating(id);
    if let Some(mut replicating) = scene.read::<Replicating>(&row)? {
        let since = replicating.failing.as_ref().map_or(scene.at, |failing| failing.since);
        replicating.failing = words.map(|words| Failing { since, words });
        scene.write(row, &replicating);
    }
    Ok(Answer::Done)
}

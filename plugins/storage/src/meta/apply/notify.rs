//! Telling of changes: a notice is written with what it tells of, for each rule of the bucket that wants to know.

use super::scene::{Scene, Stop};
use crate::meta::command::Answer;
use crate::meta::key;
use crate::meta::kinds::{Bucket, DocumentKind};
use crate::meta::limits::{NOTICES_ALL_MAX, NOTICES_MAX, WORK_MAX};
use crate::meta::names::{BucketName, ObjectKey, VersionRef};
use crate::meta::outbox::{Ending, Notice, Queue, QueueId};
use crate::meta::refusal::Refusal;
use crate::rules::notify::{self, Rule, url};

/// What happened to an object.
pub struct Happened<'a> {
    /// As rules call it.
    pub event: &'static str,
    /// To which key.
    pub key: &'a ObjectKey,
    /// To which version, where they are kept.
    pub version: Option<VersionRef>,
    /// Length and ETag of the object, if it is there.
    pub object: Option<(u64, &'a str)>,
}

/// Reads rules as a bucket keeps them.
pub fn rules(text: &str) -> Result<Vec<Rule>, Refusal> {
    let wrong = |why: String| Refusal::Argument(format!("notifications: {why}"));
    let rules: Vec<Rule> = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    notify::check(&rules).map_err(|error| wrong(error.to_string()))?;
    Ok(rules)
}

/// Has those told who want to know. Costs nothing in a bucket that tells nobody.
pub fn happened(scene: &mut Scene, name: &BucketName, bucket: &Bucket, what: &Happened<'_>) -> Result<(), Stop> {
    if !bucket.tells {
        return Ok(());
    }
    // It was looked at when it was put: what cannot be read any more tells nobody.
    let kept = scene.read::<String>(&key::document(bucket.id, DocumentKind::Notification))?;
    let kept: Vec<Rule> = kept.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    for rule in notify::told(&kept, what.event, what.key.as_str()) {
        let Some(url) = url(&rule.to) else { continue };
        let notice = Notice {
            rule: rule.id.clone(),
            event: what.event.to_owned(),
            at: scene.at,
            bucket: name.clone(),
            owner: bucket.owner.clone(),
            region: bucket.region.clone(),
            key: what.key.clone(),
            version: what.version,
            bytes: what.object.map(|(bytes, _)| bytes),
            etag: what.object.map(|(_, etag)| etag.to_owned()),
        };
        wait(scene, url, &notice)?;
    }
    Ok(())
}

/// Puts a notice into the queue of its destination. Where that is full the oldest there gives way; where all queues together are and this one
/// is empty, the new one does.
fn wait(scene: &mut Scene, url: &str, notice: &Notice) -> Result<(), Stop> {
    let id = QueueId::of(url);
    let found: Option<Queue> = scene.read(&key::queue(id))?;
    let mut queue = found.unwrap_or_else(|| Queue { url: url.to_owned(), waiting: 0 });
    if queue.waiting >= NOTICES_MAX || scene.head.notices >= NOTICES_ALL_MAX {
        scene.head.notices_lost += 1;
        let Some(oldest) = scene.keys(key::notices(id), 1)?.pop() else { return Ok(()) };
        scene.remove(oldest);
        queue.waiting = queue.waiting.saturating_sub(1);
        scene.head.notices = scene.head.notices.saturating_sub(1);
    }
    let number = scene.number();
    scene.write(key::notice(id, number), notice);
    queue.waiting += 1;
    scene.head.notices += 1;
    scene.write(key::queue(id), &queue);
    Ok(())
}

/// Removes the notices of a queue up to this one.
pub fn ended(scene: &mut Scene, id: QueueId, up_to: u64, ending: Ending) -> Result<Answer, Stop> {
    let Some(mut queue) = scene.read::<Queue>(&key::queue(id))? else {
        return Ok(Answer::Some { done: 0, more: false });
    };
    let (from, to) = (key::notice(id, 0), key::after(&key::notice(id, up_to)));
    let rows = scene.keys((from, to), WORK_MAX)?;
    let (done, more) = (rows.len() as u64, rows.len() == WORK_MAX);
    for row in rows {
        scene.remove(row);
    }
    queue.waiting = queue.waiting.saturating_sub(done);
    scene.head.notices = scene.head.notices.saturating_sub(done);
    if ending == Ending::Lost {
        scene.head.notices_lost += done;
    }
    match queue.waiting {
        0 => scene.remove(key::queue(id)),
        _ => scene.write(key::queue(id), &queue),
    }
    Ok(Answer::Some { done, more })
}

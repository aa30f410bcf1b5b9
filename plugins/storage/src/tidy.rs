//! Carries out what buckets say is to be deleted by itself ([`crate::rules::lifecycle`]), on whichever node leads the metadata group.
//!
//! A pass looks at every version of every bucket that has such rules. What is due is deleted as a client would: locks hold, markers are
//! left where versions are kept, and what was replaced since it was looked at stays.

use std::time::Duration;

use tokio::time::sleep;
use tracing::{debug, info};

use crate::gateway::Gateway;
use crate::meta::access::MetaError;
use crate::meta::command::{Answer, Command, Deletion};
use crate::meta::kinds::{Bucket, DocumentKind, Named, Versioning};
use crate::meta::limits::PAGE_MAX;
use crate::meta::list::{Ask, Listed};
use crate::meta::names::{BucketName, ObjectKey, UploadId, VersionRef};
use crate::meta::query::{Query, Reply};
use crate::rules::date::Day;
use crate::rules::lifecycle::{self, Due, Now, Rule};
use crate::s3::lifecycle_of;

/// Between two passes. Rules count in days; an hour is late enough to cost nothing and early enough to be of the day.
const EVERY: Duration = Duration::from_secs(60 * 60);
/// Versions of one key that a pass looks at; what is older waits until these went.
const VERSIONS_MAX: usize = 10_000;
/// Deletions of one command: so that clients do not wait behind it.
const DELETIONS_MAX: usize = 100;

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tidied {
    /// Versions that were deleted, or put behind a marker.
    pub versions: u64,
    /// What was due and could not be: locked, or replaced meanwhile.
    pub kept: u64,
    /// Uploads that ended.
    pub uploads: u64,
}

/// Goes over all buckets again and again, while this node leads.
pub async fn keep(gateway: Gateway) {
    loop {
        sleep(EVERY).await;
        if !gateway.meta().group().leads() {
            continue;
        }
        match pass(&gateway, Day::REAL).await {
            Ok(done) if done.versions + done.uploads > 0 => {
                info!(
                    versions = done.versions,
                    uploads = done.uploads,
                    kept = done.kept,
                    "deleted what buckets say is due"
                );
            }
            Ok(_) => {}
            // The next pass begins anew.
            Err(error) => debug!(%error, "a pass over the rules of buckets ended early"),
        }
    }
}

/// Goes over all buckets once. Rules count in days of this length.
///
/// # Errors
/// When the metadata cannot be reached; what was done until then is done.
pub async fn pass(gateway: &Gateway, day: Day) -> Result<Tidied, MetaError> {
    let (mut done, mut after) = (Tidied::default(), None);
    loop {
        let query = Query::Buckets { owner: None, prefix: String::new(), after, max: PAGE_MAX };
        let Reply::Buckets(page, more) = gateway.look(query).await? else { return Ok(done) };
        for Named { name, bucket } in &page {
            match bucket_pass(gateway, (name, bucket), day, &mut done).await {
                // It was deleted meanwhile, or a rule cannot be read: the others are tidied all the same.
                Ok(()) | Err(MetaError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        after = page.last().map(|last| last.name.clone());
        if !more || after.is_none() {
            return Ok(done);
        }
    }
}

async fn bucket_pass(
    gateway: &Gateway,
    (name, bucket): (&BucketName, &Bucket),
    day: Day,
    done: &mut Tidied,
) -> Result<(), MetaError> {
    let query = Query::Document(name.clone(), DocumentKind::Lifecycle);
    let Reply::Document(Some(text)) = gateway.look(query).await? else { return Ok(()) };
    let Some(rules) = lifecycle_of(&text) else { return Ok(()) };
    let now = Now { at: gateway.wall(), day };
    versions(gateway, (name, bucket), &rules, now, done).await?;
    uploads(gateway, name, &rules, now, done).await
}

async fn versions(
    gateway: &Gateway,
    (name, bucket): (&BucketName, &Bucket),
    rules: &[Rule],
    now: Now,
    done: &mut Tidied,
) -> Result<(), MetaError> {
    let (mut after, mut version): (Option<String>, Option<VersionRef>) = (None, None);
    let mut of_one: Vec<Listed> = Vec::new();
    let mut deletions = Vec::new();
    loop {
        let ask = Ask { after: after.clone(), max: PAGE_MAX, ..Ask::default() };
        let Reply::Versions(page) = gateway.look(Query::Versions(name.clone(), ask, version)).await? else {
            return Ok(());
        };
        let last = page.entries.last().map(|last| (last.key.clone(), last.version.name()));
        for listed in page.entries {
            if of_one.first().is_some_and(|first| first.key != listed.key) {
                deletions.extend(due(rules, bucket, &of_one, now));
                of_one.clear();
            }
            if of_one.len() < VERSIONS_MAX {
                of_one.push(listed);
            }
        }
        while deletions.len() >= DELETIONS_MAX {
            let rest = deletions.split_off(DELETIONS_MAX);
            delete(gateway, name, std::mem::replace(&mut deletions, rest), done).await?;
        }
        match (page.next, last) {
            (Some(_), Some((key, id))) => (after, version) = (Some(key), Some(id)),
            _ => break,
        }
    }
    deletions.extend(due(rules, bucket, &of_one, now));
    while !deletions.is_empty() {
        let rest = deletions.split_off(DELETIONS_MAX.min(deletions.len()));
        delete(gateway, name, std::mem::replace(&mut deletions, rest), done).await?;
    }
    Ok(())
}

/// What is to be deleted of one key.
fn due(rules: &[Rule], bucket: &Bucket, versions: &[Listed], now: Now) -> Vec<Deletion> {
    let Some(key) = versions.first().and_then(|first| ObjectKey::new(first.key.as_str()).ok()) else {
        return Vec::new();
    };
    let seen: Vec<lifecycle::Version<'_>> = versions
        .iter()
        .map(|listed| lifecycle::Version {
            at: listed.version.at,
            object: listed.version.object.as_deref().map(|object| (object.bytes, &object.about.tags)),
        })
        .collect();
    let kept = bucket.versioning != Versioning::Off;
    let deletion = |which: Due| {
        let (at, version) = match which {
            Due::Expire => (0, None),
            Due::Remove(at) => (at, Some(versions.get(at)?.version.name())),
        };
        // Only what was looked at: a newer object has another ETag, or is another version.
        let if_match = versions.get(at)?.version.object.as_ref().map(|object| object.etag.clone());
        Some(Deletion { key: key.clone(), version, if_match })
    };
    lifecycle::due(rules, key.as_str(), &seen, now, kept).into_iter().filter_map(deletion).collect()
}

async fn delete(
    gateway: &Gateway,
    bucket: &BucketName,
    deletions: Vec<Deletion>,
    done: &mut Tidied,
) -> Result<(), MetaError> {
    let command = Command::Delete { bucket: bucket.clone(), deletions, bypass: false, expired: true };
    if let Answer::Deleted(answers) = gateway.ask(command).await? {
        let gone = answers.iter().filter(|answer| answer.is_ok()).count() as u64;
        done.versions += gone;
        done.kept += answers.len() as u64 - gone;
    }
    Ok(())
}

async fn uploads(
    gateway: &Gateway,
    name: &BucketName,
    rules: &[Rule],
    now: Now,
    done: &mut Tidied,
) -> Result<(), MetaError> {
    let (mut after, mut upload): (Option<String>, Option<UploadId>) = (None, None);
    loop {
        let ask = Ask { after: after.clone(), max: PAGE_MAX, ..Ask::default() };
        let Reply::Uploads(page) = gateway.look(Query::Uploads(name.clone(), ask, upload)).await? else {
            return Ok(());
        };
        let last = page.entries.last().map(|last| (last.key.clone(), last.id));
        for begun in page.entries {
            if !lifecycle::abort_is_due(rules, &begun.key, begun.upload.at, now) {
                continue;
            }
            let Ok(key) = ObjectKey::new(begun.key) else { continue };
            let abort = Command::AbortUpload { bucket: name.clone(), key, upload: begun.id };
            match gateway.ask(abort).await {
                Ok(_) => done.uploads += 1,
                // It was finished meanwhile.
                Err(MetaError::Refused(_)) => done.kept += 1,
                Err(error) => return Err(error),
            }
        }
        match (page.next, last) {
            (Some(_), Some((key, id))) => (after, upload) = (Some(key), Some(id)),
            _ => return Ok(()),
        }
    }
}

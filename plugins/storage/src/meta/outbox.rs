//! What buckets have told about and nobody has heard yet: notices of changes, in a queue for each destination.
//!
//! A notice is written with the change that it tells of, in one commit, and removed by a commit once its destination has it. So none is lost
//! with a node, and one may be told twice. Whoever sends them is [`crate::tell`].
//!
//! Bounded: see [`super::limits::NOTICES_MAX`]. A full queue loses its oldest notices, which is counted; a change never waits for one.

use hirsel_model::WallTime;
use serde::{Deserialize, Serialize};

use super::key;
use super::names::{BucketName, ObjectKey, VersionRef};
use super::read::value;
use super::rows::{Rows, RowsError, Step};

/// A queue, by the address that its notices go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct QueueId(pub [u8; 16]);

impl QueueId {
    /// The queue of an address.
    pub fn of(url: &str) -> Self {
        let mut id = [0; 16];
        blake3::Hasher::new().update(url.as_bytes()).finalize_xof().fill(&mut id);
        Self(id)
    }
}

/// A queue in which something waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// Where to.
    pub url: String,
    /// Notices in it.
    pub waiting: u64,
}

/// Something that happened to an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notice {
    /// The name of the rule that wants it told.
    #[serde(rename = "r")]
    pub rule: String,
    /// What, as rules call it: `s3:ObjectCreated:Put`.
    #[serde(rename = "e")]
    pub event: String,
    /// When.
    #[serde(rename = "t")]
    pub at: WallTime,
    /// Where.
    #[serde(rename = "b")]
    pub bucket: BucketName,
    /// Whose the bucket is.
    #[serde(rename = "o")]
    pub owner: String,
    /// The bucket's region.
    #[serde(rename = "g")]
    pub region: String,
    /// To which key.
    #[serde(rename = "k")]
    pub key: ObjectKey,
    /// To which version, where versions are kept.
    #[serde(rename = "v", default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionRef>,
    /// How long the object is; none if it is gone.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Its ETag.
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

/// What became of notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ending {
    /// Their destination has them.
    Told,
    /// They have waited for too long.
    Lost,
}

/// Queues in which something waits, at most `max`.
///
/// # Errors
/// When the rows cannot be read.
pub fn queues(rows: &dyn Rows, max: usize) -> Result<Vec<(QueueId, Queue)>, RowsError> {
    let mut found = Vec::new();
    let (from, to) = key::queues();
    rows.scan(&from, &to, &mut |row, bytes| {
        if found.len() >= max {
            return Ok(Step::Stop);
        }
        if let Some(id) = row.last_chunk() {
            found.push((QueueId(*id), value(row, bytes)?));
        }
        Ok(Step::On)
    })?;
    Ok(found)
}

/// The first notices of a queue with their numbers, at most `max`.
///
/// # Errors
/// When the rows cannot be read.
pub fn notices(rows: &dyn Rows, queue: QueueId, max: usize) -> Result<Vec<(u64, Notice)>, RowsError> {
    let mut found = Vec::new();
    let (from, to) = key::notices(queue);
    rows.scan(&from, &to, &mut |row, bytes| {
        if found.len() >= max {
            return Ok(Step::Stop);
        }
        if let Some(number) = key::number_in(row, row.len().saturating_sub(8)) {
            found.push((number, value(row, bytes)?));
        }
        Ok(Step::On)
    })?;
    Ok(found)
}

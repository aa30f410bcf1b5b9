//! `bucket list`, `bucket usage`: buckets, how they are kept, and what is in them.

use hirsel_role::storage::{Bucket as Known, Replication as KnownReplication, Safety, Stored as Written, Usage};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::wanted;
use crate::api::sight::{Sight, rfc3339};

/// A bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Bucket {
    /// Its name.
    pub bucket: String,
    /// Whose it is.
    pub account: String,
    /// The application that wants it, if any.
    pub app: Option<String>,
    /// When it was made.
    pub made_at: String,
    /// How what is written to it is kept: `3 copies`, or `4+2` for shards with data and those besides.
    pub safety: String,
    /// Whether nodes are chosen for what is written to it: those for a class that no bucket had before are some seconds later.
    pub placed: bool,
    /// Bytes of all versions in it, at most; none for no limit.
    pub quota_bytes: Option<u64>,
    /// Whether versions are kept.
    pub versioning: bool,
    /// Objects, as a listing shows them.
    pub objects: u64,
    /// Other versions, and markers of deletion.
    pub versions: u64,
    /// Bytes of all versions.
    pub bytes: u64,
    /// Uploads in parts that are under way.
    pub uploads: u64,
    /// Bytes of their parts.
    pub upload_bytes: u64,
    /// Where it is copied to, if anywhere.
    pub replication: Option<Replication>,
}

/// Where a bucket is copied to, and how far that is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Replication {
    /// The S3, and the bucket there.
    pub to: String,
    /// The region that requests are signed for.
    pub region: String,
    /// Keys that do not begin with this are not copied.
    pub prefix: String,
    /// The access key that it is written with.
    pub key_id: String,
    /// Whether what was in the bucket already is still being looked for: more may be due than is known.
    pub finding: bool,
    /// Keys that are not there as they are here.
    pub due: u64,
    /// Keys that cannot be copied as they are.
    pub cannot: u64,
    /// For how long the first of those that are due has waited; 0 when none is.
    pub lag_ms: u64,
    /// Since when it fails; none while it does not.
    pub failed_at: Option<String>,
    /// Why it fails.
    pub error: Option<String>,
}

/// An object that was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Stored {
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// How long it is.
    pub bytes: u64,
    /// What S3 tells its content by.
    pub etag: String,
    /// Which version of its key it is, where versions are kept.
    pub version: Option<String>,
}

/// A bucket, for people and programs.
pub fn bucket(sight: &Sight, known: Known) -> Bucket {
    let Known { name, owner, made, safety, quota, versioning, replication, usage } = known;
    let Usage { objects, versions, bytes, uploads, upload_bytes } = usage;
    Bucket {
        app: wanted::wanted_by(sight, &name).map(|(app, _)| app.to_string()),
        bucket: name,
        account: owner,
        made_at: rfc3339(made),
        safety: self::safety(safety),
        placed: sight.state.plan.storage.has_width(safety.nodes()),
        quota_bytes: quota,
        versioning,
        objects,
        versions,
        bytes,
        uploads,
        upload_bytes,
        replication: replication.map(self::replication),
    }
}

fn replication(known: KnownReplication) -> Replication {
    let KnownReplication { endpoint, region, bucket, prefix, key_id, finding, due, cannot, lag_ms, failing } = known;
    let (failed_at, error) = failing.map(|(since, words)| (rfc3339(since), words)).unzip();
    let to = format!("{endpoint}/{bucket}");
    Replication { to, region, prefix, key_id, finding, due, cannot, lag_ms, failed_at, error }
}

/// An object that was written.
pub fn stored(bucket: String, key: String, written: Written) -> Stored {
    let Written { bytes, etag, version } = written;
    Stored { bucket, key, bytes, etag, version }
}

/// How bodies are kept safe, in words.
pub fn safety(safety: Safety) -> String {
    safety.to_string()
}

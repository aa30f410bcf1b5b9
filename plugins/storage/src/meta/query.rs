//! Questions that any node may ask, and their answers: what [`super::read`] and [`super::list`] know, in a form that travels.
//!
//! Several questions asked together are answered out of one moment of the state.

use hirsel_model::WallTime;
use serde::{Deserialize, Serialize};

use super::key::BucketId;
use super::kinds::{
    Body, Bucket, Chunk, DocumentKind, Head, Missed, Named, Part, PartHead, Replicating, Replication, Upload, Usage,
    Version,
};
use super::list::{self, Ask, Listed, Page, Uploading};
use super::names::{BucketName, ChunkId, ObjectKey, UploadId, VersionRef};
use super::read::{self, Piece, ReadError};
use super::refusal::Refusal;
use super::rows::{Rows, RowsError};

/// Pieces of a body that are told at once: 256 MiB in stripes of 4 MiB.
pub const PIECES_MAX: usize = 64;
/// Questions that are asked together.
pub const QUESTIONS_MAX: usize = 16;
/// Where counting what waits ends.
pub const WAITING_MAX: usize = 10_000;
/// Chunks of a partition that are told at once. Fewer are the last ones.
pub const CHUNKS_MAX: usize = 1_000;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// What the group knows of itself.
    Head,
    /// A bucket.
    Bucket(BucketName),
    /// What is counted of a bucket.
    Usage(BucketName),
    /// A document of a bucket, by the name of the bucket.
    Document(BucketName, DocumentKind),
    /// A version of a key, marker or object, with the first pieces of its body.
    Version {
        /// Where.
        bucket: BucketName,
        /// Which key.
        key: ObjectKey,
        /// Which; the newest if none is said.
        version: Option<VersionRef>,
        /// The byte from which on pieces are told.
        from: u64,
    },
    /// More pieces of a body.
    Layout {
        /// Of which.
        body: Body,
        /// The byte from which on.
        from: u64,
    },
    /// The parts of an object that was uploaded in parts.
    PartsOf {
        /// Its body.
        body: Body,
    },
    /// The parts of an object that was uploaded in parts, as they were put.
    PartsKept {
        /// Its body.
        body: Body,
        /// Those with higher numbers.
        after: u16,
        /// At most so many.
        max: usize,
    },
    /// A page of objects.
    Objects(BucketName, Ask),
    /// A page of versions; see [`list::versions`].
    Versions(BucketName, Ask, Option<VersionRef>),
    /// A page of uploads under way; see [`list::uploads`].
    Uploads(BucketName, Ask, Option<UploadId>),
    /// An upload that is under way.
    Upload {
        /// Where.
        bucket: BucketName,
        /// Of which key.
        key: ObjectKey,
        /// Which.
        upload: UploadId,
    },
    /// Parts of an upload that is under way.
    Parts {
        /// Where.
        bucket: BucketName,
        /// Of which key.
        key: ObjectKey,
        /// Which upload.
        upload: UploadId,
        /// Those with higher numbers.
        after: u16,
        /// At most so many.
        max: usize,
    },
    /// How far the replication of a bucket is, by the name of the bucket.
    Replication(BucketName),
    /// Buckets, of one owner or of all.
    Buckets {
        /// Whose; everybody's if none is said.
        owner: Option<String>,
        /// Whose names begin with this.
        prefix: String,
        /// After this one.
        after: Option<BucketName>,
        /// At most so many.
        max: usize,
    },
    /// Chunks of a partition that somebody can read, after this one.
    Chunks(u16, Option<ChunkId>),
    /// What is known of each of these chunks.
    Fates(Vec<ChunkId>),
    /// What of these chunks waits to be made anew.
    Missing(Vec<ChunkId>),
    /// How much waits to be done, and the least table that commits of a partition may be made by, where one was said.
    Waiting(Option<u16>),
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Query::Head`].
    Head(Head),
    /// To [`Query::Bucket`].
    Bucket(Bucket),
    /// To [`Query::Usage`].
    Usage(Bucket, Usage),
    /// To [`Query::Document`].
    Document(Option<String>),
    /// To [`Query::Version`].
    Version(Box<Found>),
    /// To [`Query::Layout`].
    Layout(Vec<Piece>),
    /// To [`Query::PartsOf`].
    PartsOf(Vec<PartHead>),
    /// To [`Query::PartsKept`]: with their numbers, and whether there are more.
    PartsKept(Vec<(u16, Part)>, bool),
    /// To [`Query::Objects`].
    Objects(Page<(String, Version)>),
    /// To [`Query::Versions`].
    Versions(Page<Listed>),
    /// To [`Query::Uploads`].
    Uploads(Page<Uploading>),
    /// To [`Query::Upload`].
    Upload(Upload),
    /// To [`Query::Parts`]: with their numbers, and whether there are more.
    Parts(Upload, Vec<(u16, Part)>, bool),
    /// To [`Query::Replication`]; none of a bucket that is not copied.
    Replication(Option<Box<Replicated>>),
    /// To [`Query::Buckets`], and whether there are more.
    Buckets(Vec<Named>, bool),
    /// To [`Query::Chunks`].
    Chunks(Vec<(ChunkId, Chunk)>),
    /// To [`Query::Fates`], in the same order.
    Fates(Vec<read::Known>),
    /// To [`Query::Missing`].
    Missing(Vec<Missed>),
    /// To [`Query::Waiting`].
    Waiting(Waiting),
}

/// How far the replication of a bucket is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replicated {
    /// Where to.
    pub replication: Replication,
    /// How far it is.
    pub replicating: Replicating,
    /// When the first change was made that is not there; none when all are.
    pub oldest: Option<WallTime>,
}

/// How much waits to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Waiting {
    /// Pieces to make anew, counted up to [`WAITING_MAX`].
    pub repairs: usize,
    /// Chunks to unlink, counted up to [`WAITING_MAX`].
    pub condemned: usize,
    /// The least table that commits of the partition may be made by.
    pub least_table: u64,
}

/// A version that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Its bucket.
    pub bucket: Bucket,
    /// Itself: an object, or a delete marker.
    pub version: Version,
    /// It is the newest of its key.
    pub latest: bool,
    /// The first pieces of its body from the byte that was asked for, at most [`PIECES_MAX`]; none of one that is in its row.
    pub pieces: Vec<Piece>,
}

/// Answers out of one moment of the state.
///
/// # Errors
/// What S3 says where there is no answer, or that the rows cannot be read.
pub fn answer(rows: &dyn Rows, query: &Query) -> Result<Reply, ReadError> {
    Ok(match query {
        Query::Head => Reply::Head(read::head(rows)?),
        Query::Bucket(name) => Reply::Bucket(read::bucket(rows, name)?),
        Query::Usage(name) => {
            let bucket = read::bucket(rows, name)?;
            let usage = read::usage(rows, bucket.id)?;
            Reply::Usage(bucket, usage)
        }
        Query::Document(name, kind) => Reply::Document(read::document(rows, id(rows, name)?, *kind)?),
        Query::Version { bucket, key, version, from } => found(rows, bucket, key, *version, *from)?,
        Query::Layout { body, from } => Reply::Layout(read::layout(rows, body, *from, PIECES_MAX)?),
        Query::PartsOf { body } => Reply::PartsOf(read::parts(rows, body)?),
        Query::PartsKept { body, after, max } => {
            let (parts, more) = match body {
                Body::Manifest(upload) => list::parts(rows, *upload, *after, *max)?,
                Body::Inline(_) | Body::Chunks(..) => (Vec::new(), false),
            };
            Reply::PartsKept(parts, more)
        }
        Query::Objects(name, ask) => Reply::Objects(list::objects(rows, id(rows, name)?, ask)?),
        Query::Versions(name, ask, version) => Reply::Versions(list::versions(rows, id(rows, name)?, ask, *version)?),
        Query::Uploads(name, ask, upload) => Reply::Uploads(list::uploads(rows, id(rows, name)?, ask, *upload)?),
        Query::Upload { bucket, key, upload } => Reply::Upload(read::upload(rows, id(rows, bucket)?, key, *upload)?),
        Query::Parts { bucket, key, upload, after, max } => {
            let begun = read::upload(rows, id(rows, bucket)?, key, *upload)?;
            let (parts, more) = list::parts(rows, *upload, *after, *max)?;
            Reply::Parts(begun, parts, more)
        }
        Query::Replication(name) => {
            let bucket = read::bucket(rows, name)?;
            let replicated = bucket.replication.map(|replication| -> Result<_, RowsError> {
                let found = read::replicating(rows, replication.id)?;
                let lost = || RowsError(format!("replication {} is named and not there", replication.id));
                let replicating = found.ok_or_else(lost)?;
                let oldest = read::oldest_due(rows, replication.id, &replicating)?;
                Ok(Box::new(Replicated { replication: *replication, replicating, oldest }))
            });
            Reply::Replication(replicated.transpose()?)
        }
        Query::Buckets { owner, prefix, after, max } => {
            let (found, more) = list::buckets(rows, owner.as_deref(), prefix, after.as_ref(), *max)?;
            Reply::Buckets(found, more)
        }
        Query::Chunks(partition, after) => Reply::Chunks(read::chunks(rows, *partition, *after, CHUNKS_MAX)?),
        Query::Fates(chunks) => {
            let fates: Result<Vec<_>, RowsError> =
                chunks.iter().take(CHUNKS_MAX).map(|chunk| read::chunk(rows, *chunk)).collect();
            Reply::Fates(fates?)
        }
        Query::Missing(chunks) => {
            let missing: Result<Vec<_>, RowsError> =
                chunks.iter().take(CHUNKS_MAX).map(|chunk| read::repairs_of(rows, *chunk)).collect();
            Reply::Missing(missing?.into_iter().flatten().collect())
        }
        Query::Waiting(partition) => Reply::Waiting(Waiting {
            repairs: read::repairs(rows, *partition, None, WAITING_MAX)?.len(),
            condemned: read::condemned(rows, *partition, None, WAITING_MAX)?.len(),
            least_table: partition.map_or(Ok(0), |partition| read::least_table(rows, partition))?,
        }),
    })
}

fn id(rows: &dyn Rows, name: &BucketName) -> Result<BucketId, ReadError> {
    Ok(read::bucket(rows, name)?.id)
}

fn found(
    rows: &dyn Rows,
    bucket: &BucketName,
    key: &ObjectKey,
    wanted: Option<VersionRef>,
    from: u64,
) -> Result<Reply, ReadError> {
    let bucket = read::bucket(rows, bucket)?;
    let newest = read::newest(rows, bucket.id, key)?;
    let version = match wanted {
        None => newest.clone().ok_or(Refusal::NoSuchKey)?,
        Some(wanted) => read::version(rows, bucket.id, key, wanted)?.ok_or(Refusal::NoSuchVersion)?,
    };
    let latest = newest.is_some_and(|newest| newest.stamp == version.stamp);
    let pieces = match &version.object {
        Some(object) => read::layout(rows, &object.body, from, PIECES_MAX)?,
        None => Vec::new(),
    };
    Ok(Reply::Version(Box::new(Found { bucket, version, latest, pieces })))
}

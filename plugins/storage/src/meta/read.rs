//! Questions about one thing. Asked of rows that are as new as the read point of the group, the answers are linearizable.

use std::collections::{BTreeMap, BTreeSet};

use hirsel_model::storage::{WIDTHS, partition};
use hirsel_model::{Incarnation, NodeId, WallTime};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::key::{self, BucketId};
use super::kinds::{
    Body, Bucket, Chunk, ChunkRef, Class, DocumentKind, Due, Head, List, Manifest, Missed, Part, PartHead, Replicating,
    ReplicationId, Upload, Usage, Version,
};
use super::names::{BucketName, ChunkId, ObjectKey, Stamp, UploadId, VersionRef};
use super::refusal::Refusal;
use super::rows::{Rows, RowsError, Step};

/// What is not answered: refused, or the rows cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// As S3 says it.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The disk, or what is on it.
    #[error("{0}")]
    Rows(#[from] RowsError),
}

pub(super) fn row<T: DeserializeOwned>(rows: &dyn Rows, key: &[u8]) -> Result<Option<T>, RowsError> {
    rows.get(key)?.map(|bytes| value(key, &bytes)).transpose()
}

pub(super) fn value<T: DeserializeOwned>(key: &[u8], bytes: &[u8]) -> Result<T, RowsError> {
    let kind = key.first().map_or('?', |kind| char::from(*kind));
    hirsel_model::codec::decode(bytes).map_err(|error| RowsError(format!("a row of kind {kind}: {error}")))
}

/// What the group knows of itself.
///
/// # Errors
/// When the rows cannot be read.
pub fn head(rows: &dyn Rows) -> Result<Head, RowsError> {
    Ok(row(rows, &key::head())?.unwrap_or_default())
}

/// A bucket.
///
/// # Errors
/// [`Refusal::NoSuchBucket`], or when the rows cannot be read.
pub fn bucket(rows: &dyn Rows, name: &BucketName) -> Result<Bucket, ReadError> {
    Ok(row(rows, &key::bucket(name))?.ok_or(Refusal::NoSuchBucket)?)
}

/// What is counted of a bucket.
///
/// # Errors
/// When the rows cannot be read.
pub fn usage(rows: &dyn Rows, bucket: BucketId) -> Result<Usage, RowsError> {
    Ok(row(rows, &key::usage(bucket))?.unwrap_or_default())
}

/// What all buckets amount to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Everything {
    /// Buckets.
    pub buckets: u64,
    /// What is in them: objects, other versions, markers, and bytes of versions.
    pub usage: Usage,
    /// Nodes that the class of a bucket asks for at most.
    pub widest: u8,
    /// Nodes that may be lost by the class of the bucket with objects that bears least.
    pub bears: Option<u8>,
}

/// What all buckets amount to.
///
/// # Errors
/// When the rows cannot be read.
pub fn everything(rows: &dyn Rows) -> Result<Everything, RowsError> {
    let (mut all, mut classes) = (Everything::default(), BTreeMap::new());
    let (from, to) = key::buckets();
    rows.scan(&from, &to, &mut |key, bytes| {
        let bucket: Bucket = value(key, bytes)?;
        all.buckets += 1;
        all.widest = all.widest.max(bucket.class.pieces());
        classes.insert(key::usage(bucket.id), bucket.class);
        Ok(Step::On)
    })?;
    let (from, to) = key::all_of(b"s".to_vec());
    rows.scan(&from, &to, &mut |key, bytes| {
        let one: Usage = value(key, bytes)?;
        if let Some(class) = classes.get(key).filter(|_| one.objects + one.noncurrent > 0) {
            let bears = class.pieces().saturating_sub(class.enough());
            all.bears = Some(all.bears.map_or(bears, |before| before.min(bears)));
        }
        all.usage.objects += one.objects;
        all.usage.noncurrent += one.noncurrent;
        all.usage.markers += one.markers;
        all.usage.bytes += one.bytes;
        Ok(Step::On)
    })?;
    Ok(all)
}

/// Widths of the partitions in which some chunk is.
///
/// # Errors
/// When the rows cannot be read.
pub fn widths(rows: &dyn Rows) -> Result<BTreeSet<u8>, RowsError> {
    let mut found = BTreeSet::new();
    for width in WIDTHS {
        // All partitions of a width lie together: each number has its width in front.
        let first = |width: u8| [b"k".as_slice(), &partition(width, 0).to_be_bytes()].concat();
        if rows.first(&first(width), &first(width + 1))?.is_some() {
            found.insert(width);
        }
    }
    Ok(found)
}

/// A document of a bucket, as it was given.
///
/// # Errors
/// When the rows cannot be read.
pub fn document(rows: &dyn Rows, bucket: BucketId, kind: DocumentKind) -> Result<Option<String>, RowsError> {
    row(rows, &key::document(bucket, kind))
}

/// How far a replication is; none if it was ended.
///
/// # Errors
/// When the rows cannot be read.
pub fn replicating(rows: &dyn Rows, id: ReplicationId) -> Result<Option<Replicating>, RowsError> {
    row(rows, &key::replicating(id))
}

/// All replications, at most `max`.
///
/// # Errors
/// When the rows cannot be read.
pub fn replications(rows: &dyn Rows, max: usize) -> Result<Vec<(ReplicationId, Replicating)>, RowsError> {
    let (from, to) = key::all_of(b"h".to_vec());
    let mut found = Vec::new();
    rows.scan(&from, &to, &mut |key, bytes| {
        found.push((key::number_in(key, 1).unwrap_or_default(), value(key, bytes)?));
        Ok(if found.len() < max { Step::On } else { Step::Stop })
    })?;
    Ok(found)
}

/// Keys that are due of a replication and that `wanted` says yes to, in their order, at most `max`. Only the first `looked_at` are looked at.
///
/// # Errors
/// When the rows cannot be read.
pub fn due(
    rows: &dyn Rows,
    id: ReplicationId,
    (max, looked_at): (usize, usize),
    wanted: &mut dyn FnMut(&ObjectKey) -> bool,
) -> Result<Vec<(ObjectKey, Due)>, RowsError> {
    let [_, (from, to)] = key::all_due(id);
    let (mut keys, mut looked) = (Vec::new(), 0);
    if max > 0 {
        rows.scan(&from, &to, &mut |row, bytes| {
            let key: ObjectKey = value(row, bytes)?;
            looked += 1;
            if wanted(&key) {
                keys.push(key);
            }
            Ok(if keys.len() < max && looked < looked_at { Step::On } else { Step::Stop })
        })?;
    }
    let with = |key: ObjectKey| Ok(row(rows, &key::due(id, &key))?.map(|due| (key, due)));
    keys.into_iter().filter_map(|key| with(key).transpose()).collect()
}

/// When the first change was made that a replication has not copied; none when it has copied all.
///
/// # Errors
/// When the rows cannot be read.
pub fn oldest_due(rows: &dyn Rows, id: ReplicationId, of: &Replicating) -> Result<Option<WallTime>, RowsError> {
    let first = due(rows, id, (1, 1), &mut |_| true)?;
    let due = first.first().map(|(_, due)| due.since);
    let finding = of.found.as_ref().map(|_| of.since);
    Ok(due.into_iter().chain(finding).min())
}

/// The newest version of a key, marker or object.
///
/// # Errors
/// When the rows cannot be read.
pub fn newest(rows: &dyn Rows, bucket: BucketId, key: &ObjectKey) -> Result<Option<Version>, RowsError> {
    if let Some(current) = row(rows, &key::current(bucket, key))? {
        return Ok(Some(current));
    }
    let (from, to) = (key::version(bucket, key, u64::MAX), key::after(&key::version(bucket, key, 0)));
    rows.first(&from, &to)?.map(|(row, bytes)| value(&row, &bytes)).transpose()
}

/// A certain version of a key, marker or object.
///
/// # Errors
/// When the rows cannot be read.
pub fn version(
    rows: &dyn Rows,
    bucket: BucketId,
    key: &ObjectKey,
    wanted: VersionRef,
) -> Result<Option<Version>, RowsError> {
    let is = |version: &Version| version.name() == wanted;
    if let Some(current) = row(rows, &key::current(bucket, key))?.filter(is) {
        return Ok(Some(current));
    }
    let number = match wanted {
        VersionRef::Id(stamp) => Some(stamp.number),
        VersionRef::Null => row(rows, &key::null(bucket, key))?,
    };
    let Some(number) = number else { return Ok(None) };
    Ok(row(rows, &key::version(bucket, key, number))?.filter(is))
}

/// An upload in parts that is under way.
///
/// # Errors
/// [`Refusal::NoSuchUpload`], or when the rows cannot be read.
pub fn upload(rows: &dyn Rows, bucket: BucketId, key: &ObjectKey, upload: UploadId) -> Result<Upload, ReadError> {
    Ok(row(rows, &key::upload(bucket, key, upload))?.ok_or(Refusal::NoSuchUpload)?)
}

/// A piece of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Where in the body it begins.
    pub offset: u64,
    /// The chunk.
    pub chunk: ChunkRef,
    /// How it is kept safe.
    pub class: Class,
}

/// The chunks of a body from the one that holds byte `from` on, at most `max`; none of a body that is in its row.
///
/// # Errors
/// When the rows cannot be read: what is named and not there counts as damage.
pub fn layout(rows: &dyn Rows, body: &Body, from: u64, max: usize) -> Result<Vec<Piece>, RowsError> {
    let mut pieces = Pieces { from, max, found: Vec::new() };
    pieces.body(rows, body, 0)?;
    Ok(pieces.found)
}

struct Pieces {
    from: u64,
    max: usize,
    found: Vec<Piece>,
}

impl Pieces {
    fn body(&mut self, rows: &dyn Rows, body: &Body, offset: u64) -> Result<(), RowsError> {
        match body {
            Body::Inline(_) => Ok(()),
            Body::Chunks(class, chunks) => self.chunks(*class, chunks, offset),
            Body::Manifest(id) => match manifest(rows, *id)?.list {
                List::Chunks(class, chunks) => self.chunks(class, &chunks, offset),
                List::Parts { upload, parts, .. } => {
                    let mut begins = offset;
                    for PartHead { number, bytes } in parts {
                        if self.found.len() == self.max {
                            break;
                        }
                        if begins + bytes > self.from {
                            let key = key::part(upload, number);
                            let part: Option<Part> = row(rows, &key)?;
                            let lost = || RowsError(format!("part {number} of {upload} is named and not there"));
                            self.body(rows, &part.ok_or_else(lost)?.body, begins)?;
                        }
                        begins += bytes;
                    }
                    Ok(())
                }
            },
        }
    }

    fn chunks(&mut self, class: Class, chunks: &[ChunkRef], offset: u64) -> Result<(), RowsError> {
        let mut begins = offset;
        for chunk in chunks {
            if self.found.len() == self.max {
                break;
            }
            if begins + u64::from(chunk.bytes) > self.from {
                self.found.push(Piece { offset: begins, chunk: *chunk, class });
            }
            begins += u64::from(chunk.bytes);
        }
        Ok(())
    }
}

fn manifest(rows: &dyn Rows, id: Stamp) -> Result<Manifest, RowsError> {
    row(rows, &key::manifest(id))?.ok_or_else(|| RowsError(format!("list {id} is named and not there")))
}

/// The parts of a body that was uploaded in parts, in order; none of one that was put whole.
///
/// # Errors
/// When the rows cannot be read.
pub fn parts(rows: &dyn Rows, body: &Body) -> Result<Vec<PartHead>, RowsError> {
    match body {
        Body::Manifest(id) => match manifest(rows, *id)?.list {
            List::Parts { parts, .. } => Ok(parts),
            List::Chunks(..) => Ok(Vec::new()),
        },
        Body::Inline(_) | Body::Chunks(..) => Ok(Vec::new()),
    }
}

/// What is known of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    /// Somebody can read it.
    Named(Chunk),
    /// It may be unlinked.
    Condemned,
    /// Its write is open.
    Open,
    /// Nobody can name it any more, and nobody has condemned it yet.
    Unknown,
}

/// What is known of a chunk.
///
/// # Errors
/// When the rows cannot be read.
pub fn chunk(rows: &dyn Rows, id: ChunkId) -> Result<Known, RowsError> {
    if let Some(chunk) = row(rows, &key::chunk(id))? {
        return Ok(Known::Named(chunk));
    }
    if rows.get(&key::condemned(id))?.is_some() {
        return Ok(Known::Condemned);
    }
    Ok(if rows.get(&key::write(id.write()))?.is_some() { Known::Open } else { Known::Unknown })
}

/// Chunks of a partition that somebody can read, in order, after this one; at most `max`.
///
/// # Errors
/// When the rows cannot be read.
pub fn chunks(
    rows: &dyn Rows,
    partition: u16,
    after: Option<ChunkId>,
    max: usize,
) -> Result<Vec<(ChunkId, Chunk)>, RowsError> {
    in_partition(rows, b'k', Some(partition), after, max, |key, bytes| Ok((chunk_in(key)?, value(key, bytes)?)))
}

/// Condemned chunks of a partition, or of all, in order, after this one; at most `max`.
///
/// # Errors
/// When the rows cannot be read.
pub fn condemned(
    rows: &dyn Rows,
    partition: Option<u16>,
    after: Option<ChunkId>,
    max: usize,
) -> Result<Vec<ChunkId>, RowsError> {
    in_partition(rows, b'e', partition, after, max, |key, _| chunk_in(key))
}

/// What is missing where, of the chunks of a partition, or of all, in order, after this one; at most `max`.
///
/// # Errors
/// When the rows cannot be read.
pub fn repairs(
    rows: &dyn Rows,
    partition: Option<u16>,
    after: Option<ChunkId>,
    max: usize,
) -> Result<Vec<Missed>, RowsError> {
    in_partition(rows, b'r', partition, after, max, |key, _| missed_in(key))
}

/// What is missing where, of one chunk.
///
/// # Errors
/// When the rows cannot be read.
pub fn repairs_of(rows: &dyn Rows, chunk: ChunkId) -> Result<Vec<Missed>, RowsError> {
    let (from, to) = key::all_of([b"r".as_slice(), &chunk.0].concat());
    let mut found = Vec::new();
    rows.scan(&from, &to, &mut |key, _| {
        found.push(missed_in(key)?);
        Ok(Step::On)
    })?;
    Ok(found)
}

fn missed_in(key: &[u8]) -> Result<Missed, RowsError> {
    let short = || RowsError("a row of kind r is short".into());
    let node = key::number_in(key, 18).ok_or_else(short)?;
    Ok(Missed { chunk: chunk_in(key)?, shard: *key.get(17).ok_or_else(short)?, node: NodeId(node) })
}

fn chunk_in(key: &[u8]) -> Result<ChunkId, RowsError> {
    key::chunk_in(key).ok_or_else(|| RowsError("the row of a chunk is short".into()))
}

fn in_partition<T>(
    rows: &dyn Rows,
    kind: u8,
    partition: Option<u16>,
    after: Option<ChunkId>,
    max: usize,
    mut take: impl FnMut(&[u8], &[u8]) -> Result<T, RowsError>,
) -> Result<Vec<T>, RowsError> {
    let partition = partition.map(u16::to_be_bytes);
    let (mut from, to) = key::all_of([[kind].as_slice(), partition.as_ref().map_or(&[], |it| it)].concat());
    if let Some(after) = after {
        from = from.max(key::after(&[[kind].as_slice(), &after.0].concat()));
    }
    let mut found = Vec::new();
    rows.scan(&from, &to, &mut |key, bytes| {
        if found.len() == max {
            return Ok(Step::Stop);
        }
        found.push(take(key, bytes)?);
        Ok(Step::On)
    })?;
    Ok(found)
}

/// The least version of the placement table that a commit in this partition may be made by.
///
/// # Errors
/// When the rows cannot be read.
pub fn least_table(rows: &dyn Rows, partition: u16) -> Result<u64, RowsError> {
    Ok(row(rows, &key::table(partition))?.unwrap_or_default())
}

/// Gateways that have writes open, with the earliest start of each that has. It reads one row for each gateway.
///
/// # Errors
/// When the rows cannot be read.
pub fn writers(rows: &dyn Rows) -> Result<BTreeMap<NodeId, Incarnation>, RowsError> {
    let (from, to) = key::writes();
    let mut found = BTreeMap::new();
    rows.scan(&from, &to, &mut |row, _| {
        let (gateway, start) = key::writer_in(row).ok_or_else(|| RowsError("a row of kind g is short".into()))?;
        // Of each gateway the earliest start comes first.
        found.insert(gateway, start);
        Ok(Step::Seek(key::after_writes_of(gateway)))
    })?;
    Ok(found)
}

/// Whether something is in the queue of what dies.
///
/// # Errors
/// When the rows cannot be read.
pub fn is_dying(rows: &dyn Rows) -> Result<bool, RowsError> {
    let (from, to) = key::all_of(b"x".to_vec());
    Ok(rows.first(&from, &to)?.is_some())
}

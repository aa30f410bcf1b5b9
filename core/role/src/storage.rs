//! What the agent asks of the storage role for people: buckets, and single objects on their way in and out. Programs ask by the protocol
//! of S3, and none of it passes here.
//!
//! Whoever asks here has been let in by the agent and may do everything; access keys and policies are no matter of it.

use std::collections::BTreeMap;
use std::pin::Pin;

use bytes::Bytes;
use futures::Stream;
use futures::future::BoxFuture;
pub use hirsel_model::spec::Safety;
use hirsel_model::storage::Audit;
use hirsel_model::{AccountName, NodeId, WallTime};
use serde::{Deserialize, Serialize};

use crate::assets::Asset;
use crate::secret::Plain;
use crate::window;

/// Bytes as they come, in pieces of any size. An error is in words, and the last thing that comes.
pub type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, String>> + Send>>;

/// A bucket that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBucket {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub owner: AccountName,
    /// How bodies are kept safe; as usual if nothing is said.
    pub safety: Option<Safety>,
    /// Bytes of all versions in it, at most.
    pub quota: Option<u64>,
    /// Whether versions are kept.
    pub versioning: bool,
}

/// What of a bucket is to be changed; what is none stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BucketChange {
    /// How bodies are kept safe that are written from now on.
    pub safety: Option<Safety>,
    /// Bytes of all versions in it, at most; none within for no limit.
    pub quota: Option<Option<u64>>,
    /// Whether versions are kept from now on.
    pub versioning: Option<bool>,
}

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub owner: String,
    /// When it was made.
    pub made: WallTime,
    /// How bodies are kept safe.
    pub safety: Safety,
    /// Bytes of all versions in it, at most.
    pub quota: Option<u64>,
    /// Whether versions are kept.
    pub versioning: bool,
    /// Where it is copied to, if anywhere.
    pub replication: Option<Replication>,
    /// What is in it.
    pub usage: Usage,
}

/// Where a bucket is to be copied to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewReplication {
    /// `https://HOST` or `http://HOST`, and a port if it is not the usual one.
    pub endpoint: String,
    /// The region that requests are signed for.
    pub region: String,
    /// The bucket there.
    pub bucket: String,
    /// Keys that do not begin with this are not copied.
    pub prefix: String,
    /// The access key that requests are signed with.
    pub key_id: String,
    /// Its secret.
    pub secret: Plain,
}

/// Where a bucket is copied to, and how far that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replication {
    /// `https://HOST` or `http://HOST`, and a port if it is not the usual one.
    pub endpoint: String,
    /// The region that requests are signed for.
    pub region: String,
    /// The bucket there.
    pub bucket: String,
    /// Keys that do not begin with this are not copied.
    pub prefix: String,
    /// The access key that requests are signed with.
    pub key_id: String,
    /// Whether what was in the bucket already is still being looked for.
    pub finding: bool,
    /// Keys that are known not to be there as they are here.
    pub due: u64,
    /// Keys that cannot be copied as they are.
    pub cannot: u64,
    /// For how long the first of those that are due has waited, in milliseconds; 0 when none is.
    pub lag_ms: u64,
    /// Since when nothing, or not everything, can be copied, and why.
    pub failing: Option<(WallTime, String)>,
}

/// What is in a bucket. Exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
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
}

/// An object that is to be written.
pub struct NewObject {
    /// Into which bucket.
    pub bucket: String,
    /// Under which key.
    pub key: String,
    /// What clients are told that it is.
    pub content_type: Option<String>,
    /// Its bytes.
    pub body: Pieces,
}

/// An object that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// How long it is.
    pub bytes: u64,
    /// What S3 tells its content by.
    pub etag: String,
    /// Which version of its key it is, where versions are kept.
    pub version: Option<String>,
}

/// An object that is read.
pub struct Found {
    /// How long it is.
    pub bytes: u64,
    /// What S3 tells its content by.
    pub etag: String,
    /// What it is, where whoever wrote it said so.
    pub content_type: Option<String>,
    /// Its bytes.
    pub body: Pieces,
}

/// Of what kind an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What was asked makes no sense.
    Argument,
    /// There is no such bucket or object.
    NotFound,
    /// It does not go with what there is: a name that is taken, a bucket that is not empty.
    Conflict,
    /// A limit that somebody set, as a quota.
    Refused,
    /// Too few nodes answer; nothing was changed.
    Unavailable,
    /// Nobody said in time what became of it: it may have happened.
    Unknown,
    /// Anything else.
    Failed,
}

/// Why something cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StorageError {
    /// Of what kind it is.
    pub fault: Fault,
    /// S3's name for it.
    pub code: String,
    /// In words.
    pub message: String,
}

/// How far a node is with its audits: what it counts on its disk against what the metadata say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Auditing {
    /// What the last one counted that came to its end.
    pub last: Audit,
    /// Why the last one did not come to its end; none if it did.
    pub failed: Option<String>,
    /// Audits that began since the node started. One that is asked for now is the next.
    pub begun: u64,
    /// Of these, how many are over.
    pub ended: u64,
    /// Steps of the one under way that are done.
    pub step: u32,
    /// Steps it has.
    pub of: u32,
}

/// How far a node is with reading everything that its disk holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scrubbing {
    /// When the pass under way began, in milliseconds since 1970; zero before the first.
    pub begun_ms: u64,
    /// Chunks that it looked at.
    pub chunks: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// How many of them were damaged.
    pub damaged: u64,
    /// Bytes on the disk.
    pub held: u64,
    /// Passes that began at once because somebody asked, since the node started. One that is asked for now is the next.
    pub begun: u64,
    /// Of these, how many are over.
    pub ended: u64,
    /// When the last whole pass ended; zero before the first since the node started.
    pub last_ms: u64,
    /// Chunks that it looked at.
    pub last_chunks: u64,
    /// Bytes of them.
    pub last_bytes: u64,
    /// How many of them were damaged.
    pub last_damaged: u64,
    /// Why nothing is read; none if it is.
    pub failed: Option<String>,
}

/// Whether nodes shall only say what they know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Only that.
    Known,
    /// They shall do it again, from the beginning, beside that.
    Again,
}

/// What nodes that keep data say, or why one does not.
pub type Told<T> = BTreeMap<NodeId, Result<T, String>>;

/// Where the pieces of an object are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// When it was written.
    pub written: WallTime,
    /// How long it is.
    pub bytes: u64,
    /// Whether its bytes are in the metadata, with as many copies as these have voters.
    pub inline: bool,
    /// Its chunks, from the first; not all of a long one.
    pub chunks: Vec<ChunkLayout>,
    /// The byte before which those that were looked at end.
    pub looked_at: u64,
}

/// Where the pieces of a chunk are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkLayout {
    /// What it is called.
    pub chunk: String,
    /// The byte of the object at which it begins.
    pub from: u64,
    /// How many bytes of the object are in it.
    pub bytes: u32,
    /// How it is kept safe.
    pub safety: Safety,
    /// Pieces from which it can be read.
    pub enough: u8,
    /// Its pieces, as its class asks for them.
    pub pieces: Vec<PieceLayout>,
    /// To which nodes its partition moves; none where it does not.
    pub moves_to: Vec<NodeId>,
}

/// Where a piece is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PieceLayout {
    /// Which: the number of a shard, or of a copy.
    pub number: u8,
    /// Where it should be; none where fewer nodes keep data than the class asks for.
    pub node: Option<NodeId>,
    /// How it is there.
    pub state: PieceState,
    /// Whether it waits to be made anew there.
    pub waits: bool,
}

/// How a piece is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PieceState {
    /// It is there.
    There,
    /// The node has no such piece, or one that is damaged: its words.
    Missing(String),
    /// The node does not say: its words, or those of whoever asked it.
    Silent(String),
    /// There is no node for it.
    Homeless,
}

/// The objects of the cluster, for people.
pub trait Objects: Send + Sync {
    /// Makes a bucket.
    fn create<'a>(&'a self, new: NewBucket) -> BoxFuture<'a, Result<Bucket, StorageError>>;
    /// Buckets after that one, by name, at most a thousand, and whether there are more.
    fn list<'a>(&'a self, after: Option<&'a str>) -> BoxFuture<'a, Result<(Vec<Bucket>, bool), StorageError>>;
    /// One bucket.
    fn bucket<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Bucket, StorageError>>;
    /// Changes a bucket.
    fn change<'a>(&'a self, name: &'a str, change: BucketChange) -> BoxFuture<'a, Result<Bucket, StorageError>>;
    /// Has a bucket copied to another one from now on, beginning with what is in it; or not any more, where none is said.
    fn replicate<'a>(
        &'a self,
        name: &'a str,
        to: Option<NewReplication>,
    ) -> BoxFuture<'a, Result<Bucket, StorageError>>;
    /// Removes a bucket in which nothing is.
    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), StorageError>>;
    /// Writes an object. It is there when this is done, whole, and else not at all.
    fn put<'a>(&'a self, new: NewObject) -> BoxFuture<'a, Result<Stored, StorageError>>;
    /// Reads an object.
    fn get<'a>(&'a self, bucket: &'a str, key: &'a str) -> BoxFuture<'a, Result<Found, StorageError>>;
    /// Where the pieces of an object are, as the nodes say that should have them.
    fn layout<'a>(&'a self, bucket: &'a str, key: &'a str) -> BoxFuture<'a, Result<Layout, StorageError>>;
    /// How far each node that keeps data is with its audits. Changes nothing of what is stored.
    fn audits(&self, ask: Ask) -> BoxFuture<'_, Told<Auditing>>;
    /// How far each node that keeps data is with reading everything it has. Changes nothing of what is stored.
    fn scrubs(&self, ask: Ask) -> BoxFuture<'_, Told<Scrubbing>>;
    /// Finds an object for a load balancer.
    fn asset<'a>(&'a self, bucket: &'a str, key: &'a str) -> BoxFuture<'a, Result<Asset, StorageError>>;
}

/// Where the agent finds the objects of the cluster.
pub type Window = window::Window<dyn Objects>;

//! What the agent asks of the storage role for people: buckets, and single objects on their way in and out. Programs ask by the protocol
//! of S3, and none of it passes here.
//!
//! Whoever asks here has been let in by the agent and may do everything; access keys and policies are no matter of it.

use std::pin::Pin;

use bytes::Bytes;
use futures::Stream;
use futures::future::BoxFuture;
use hirsel_model::{AccountName, WallTime};
use serde::{Deserialize, Serialize};

use crate::window;

/// Bytes as they come, in pieces of any size. An error is in words, and the last thing that comes.
pub type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, String>> + Send>>;

/// How bodies are kept safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Safety {
    /// So many copies.
    Copies(u8),
    /// So many shards with data, and so many more, any of which may be lost.
    Erasure(u8, u8),
}

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
    /// What is in it.
    pub usage: Usage,
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
    /// Removes a bucket in which nothing is.
    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), StorageError>>;
    /// Writes an object. It is there when this is done, whole, and else not at all.
    fn put<'a>(&'a self, new: NewObject) -> BoxFuture<'a, Result<Stored, StorageError>>;
    /// Reads an object.
    fn get<'a>(&'a self, bucket: &'a str, key: &'a str) -> BoxFuture<'a, Result<Found, StorageError>>;
}

/// Where the agent finds the objects of the cluster.
pub type Window = window::Window<dyn Objects>;

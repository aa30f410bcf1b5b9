//! What is kept: the values of rows, and the parts of commands that are kept as they come.
//!
//! Names of fields that a million rows repeat are short.

use std::collections::{BTreeMap, BTreeSet};

use hirsel_model::{Incarnation, NodeId, WallTime};
use serde::{Deserialize, Serialize};

use super::key::BucketId;
use super::names::{BucketName, ChunkId, ObjectKey, Stamp, UploadId, VersionRef, WriteId};

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What the group knows of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The feature level that the group writes (see `hirsel_model::feature`).
    pub level: u32,
    /// The number of the next bucket, version, upload, list or thing that dies.
    pub next: u64,
    /// Buckets that there are.
    pub buckets: u64,
    /// Writes that are open.
    pub writes: u64,
    /// Notices that wait to be told.
    #[serde(default, skip_serializing_if = "is_default")]
    pub notices: u64,
    /// Notices that never were told, since the group is there.
    #[serde(default, skip_serializing_if = "is_default")]
    pub notices_lost: u64,
}

impl Default for Head {
    fn default() -> Self {
        Self { level: super::command::FIRST_LEVEL, next: 1, buckets: 0, writes: 0, notices: 0, notices_lost: 0 }
    }
}

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    /// Its number.
    pub id: BucketId,
    /// Whose it is.
    pub owner: String,
    /// Where clients are told it is.
    pub region: String,
    /// When it was made.
    pub made: WallTime,
    /// Whether versions are kept.
    pub versioning: Versioning,
    /// Whether versions may be locked; then they are kept for ever. Said when the bucket is made, or later; never taken back.
    pub lockable: bool,
    /// How versions are locked that do not say it themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockDefault>,
    /// How much may be in it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub quota: Quota,
    /// Who may do what.
    #[serde(default, skip_serializing_if = "is_default")]
    pub acl: Acl,
    /// How bodies are kept safe that are written from now on.
    #[serde(default, skip_serializing_if = "is_default")]
    pub class: Class,
    /// What becomes of a write that cannot be kept as safe as that.
    #[serde(default, skip_serializing_if = "is_default")]
    pub when_short: WhenShort,
    /// Whether somebody is told what happens in it: then there are rules in its document of notifications.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tells: bool,
    /// Where it is copied to, if anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<Box<Replication>>,
}

/// The number of a replication: what is due is kept under it, so that nothing of one that was ended is left to the next.
pub type ReplicationId = u64;

/// Where a bucket is copied to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replication {
    /// Its number. Another target has another one.
    pub id: ReplicationId,
    /// Where to.
    pub target: Target,
}

/// A bucket elsewhere, and as whom it is written to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// `https://HOST` or `http://HOST`, and a port if it is not the usual one.
    pub endpoint: String,
    /// The region that requests are signed for.
    pub region: String,
    /// The bucket there.
    pub bucket: String,
    /// Keys that do not begin with this are not copied.
    #[serde(default, skip_serializing_if = "is_default")]
    pub prefix: String,
    /// The access key that requests are signed with.
    pub key_id: String,
    /// Its secret, sealed with a key of the cluster's: what is here opens nothing.
    pub secret: serde_bytes::ByteBuf,
}

impl Target {
    /// The same keys go to the same place, whoever brings them.
    pub fn is_same_place(&self, other: &Self) -> bool {
        (&self.endpoint, &self.bucket, &self.prefix) == (&other.endpoint, &other.bucket, &other.prefix)
    }
}

/// How far a replication is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replicating {
    /// The bucket that is copied.
    pub bucket: BucketName,
    /// When it was said last that all that is there is to be copied.
    pub since: WallTime,
    /// Keys up to this one were found then; none when all were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// Keys that are due.
    pub due: u64,
    /// Keys that cannot be copied as they are.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cannot: u64,
    /// Why nothing can be copied now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing: Option<Failing>,
}

/// Why something fails, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failing {
    /// Since when.
    pub since: WallTime,
    /// In words.
    pub words: String,
}

/// A key that is not at the target as it is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Due {
    /// Rises with each change of the key: what was copied is done only if it is still the same.
    #[serde(rename = "n")]
    pub stamp: u64,
    /// Where it stands among those that are due.
    #[serde(rename = "o")]
    pub place: u64,
    /// When the first change was made that is not copied.
    #[serde(rename = "t")]
    pub since: WallTime,
    /// It cannot be copied as it is, and is nobody's turn.
    #[serde(rename = "c", default, skip_serializing_if = "is_default")]
    pub cannot: bool,
}

/// What becomes of a write for which too few nodes are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum WhenShort {
    /// It is taken with fewer, though never with less than 2 copies or one shard more than are needed; what is missing is made later.
    #[default]
    Degrade,
    /// It is refused.
    Refuse,
}

/// Whether versions are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Versioning {
    /// Never were.
    #[default]
    Off,
    /// Are.
    On,
    /// Were, and new objects have none.
    Suspended,
}

/// How much may be in a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Bytes of all versions and parts.
    pub bytes: Option<u64>,
    /// Versions that are objects.
    pub objects: Option<u64>,
}

/// Access control lists (S3): a canned one in a word, or grants one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs)]
pub enum Acl {
    #[default]
    Private,
    PublicRead,
    PublicReadWrite,
    AuthenticatedRead,
    BucketOwnerRead,
    BucketOwnerFullControl,
    /// These and no others, in the order in which they were given.
    Grants(Vec<Grant>),
}

/// What somebody may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Who.
    #[serde(rename = "g")]
    pub to: Grantee,
    /// What.
    #[serde(rename = "p")]
    pub may: Permission,
}

/// Who is granted something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Grantee {
    /// An owner of access keys.
    User(String),
    /// Everybody.
    Everybody,
    /// Everybody with an access key.
    Authenticated,
    /// Whatever writes the logs of buckets.
    Logs,
}

/// What can be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Permission {
    /// To list a bucket, or to get an object.
    Read,
    /// To put and delete objects of a bucket.
    Write,
    /// To read the list itself.
    ReadAcp,
    /// To change the list itself.
    WriteAcp,
    /// All of it.
    FullControl,
}

/// A default lock: the mode, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockDefault {
    /// Who may lift it.
    pub mode: LockMode,
    /// Days from when the version is made, 1 to 36,500.
    pub days: u32,
}

/// Who may lift a retention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum LockMode {
    /// Who has the permission to bypass it.
    Governance,
    /// Nobody.
    Compliance,
}

/// Until when a version is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Who may lift it.
    pub mode: LockMode,
    /// The end.
    pub until: WallTime,
}

/// What keeps a version from being deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// For a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Until it is taken back.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hold: bool,
}

/// Documents of a bucket, which are kept as they were given: who gives them checks what is in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum DocumentKind {
    Policy = 1,
    Cors = 2,
    Lifecycle = 3,
    Website = 4,
    Notification = 5,
    Encryption = 6,
    Tags = 7,
    Ownership = 8,
    PublicAccess = 9,
    Replication = 10,
}

impl DocumentKind {
    /// How large it may be. A policy and rules for CORS have S3's limits; the others are lists of which S3 limits the length.
    pub fn bytes_max(self) -> usize {
        match self {
            Self::Policy => 20 << 10,
            Self::Cors => 64 << 10,
            Self::Lifecycle | Self::Notification | Self::Replication => 256 << 10,
            Self::Website | Self::Tags => 32 << 10,
            Self::Encryption | Self::Ownership | Self::PublicAccess => 4 << 10,
        }
    }
}

/// What is counted of a bucket. Exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Usage {
    /// Keys whose newest version is an object.
    pub objects: u64,
    /// Other versions that are objects.
    pub noncurrent: u64,
    /// Delete markers.
    pub markers: u64,
    /// Bytes of all versions, as clients see them.
    pub bytes: u64,
    /// Uploads that are under way.
    pub uploads: u64,
    /// Their parts.
    pub parts: u64,
    /// Bytes of their parts, as they lie on disks.
    pub part_bytes: u64,
}

/// How a body is kept safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Class {
    /// So many copies.
    #[serde(rename = "c")]
    Copies(u8),
    /// So many shards with data, and so many more.
    #[serde(rename = "e")]
    Erasure(u8, u8),
}

impl Default for Class {
    fn default() -> Self {
        Class::Copies(3)
    }
}

impl Class {
    /// Of how many nodes the partitions are in which its chunks are; none for a class that there are no partitions of.
    pub fn width(self) -> Option<u8> {
        match self {
            Class::Copies(1..=3) => Some(3),
            Class::Erasure(4, 2) => Some(6),
            Class::Erasure(8, 3) => Some(11),
            Class::Copies(_) | Class::Erasure(..) => None,
        }
    }

    /// Pieces of a chunk, each on a node of its own.
    pub fn pieces(self) -> u8 {
        match self {
            Class::Copies(copies) => copies,
            Class::Erasure(data, parity) => data.saturating_add(parity),
        }
    }

    /// Pieces from which a chunk can be read.
    pub fn enough(self) -> u8 {
        match self {
            Class::Copies(_) => 1,
            Class::Erasure(data, _) => data,
        }
    }

    /// Pieces without which nothing is acknowledged, however few nodes there are.
    pub fn least(self) -> u8 {
        match self {
            Class::Copies(copies) => copies.min(2),
            Class::Erasure(data, parity) => data.saturating_add(parity.min(1)),
        }
    }
}

/// A chunk of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkRef {
    /// Which.
    #[serde(rename = "c")]
    pub id: ChunkId,
    /// Bytes of the body in it.
    #[serde(rename = "n")]
    pub bytes: u32,
}

/// A body as a gateway has written it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Written {
    /// In the command.
    Inline(#[serde(with = "serde_bytes")] Vec<u8>),
    /// In chunks.
    Chunks {
        /// The write that made them, which ends with the commit.
        write: WriteId,
        /// How they are kept safe.
        class: Class,
        /// The version of the placement table by which they were placed.
        table: u64,
        /// In order.
        chunks: Vec<ChunkRef>,
        /// Where something of them should be and is not.
        missed: Vec<Missed>,
    },
}

impl Written {
    /// How long it is.
    pub fn bytes(&self) -> u64 {
        match self {
            Written::Inline(bytes) => bytes.len() as u64,
            Written::Chunks { chunks, .. } => chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum(),
        }
    }
}

/// A node that a chunk, or a shard of it, should be on and is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Missed {
    /// Which chunk.
    #[serde(rename = "c")]
    pub chunk: ChunkId,
    /// Which shard; 0 for a copy.
    #[serde(rename = "s")]
    pub shard: u8,
    /// Where.
    #[serde(rename = "n")]
    pub node: NodeId,
}

/// A body as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Body {
    /// Here.
    #[serde(rename = "i")]
    Inline(#[serde(with = "serde_bytes")] Vec<u8>),
    /// In a few chunks.
    #[serde(rename = "c")]
    Chunks(Class, Vec<ChunkRef>),
    /// In what a row of its own lists.
    #[serde(rename = "m")]
    Manifest(Stamp),
}

/// A list that bodies share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Bodies that are this list.
    pub shared: u32,
    /// What is in it.
    pub list: List,
}

/// What is in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum List {
    /// Chunks, in order.
    Chunks(Class, Vec<ChunkRef>),
    /// The parts of a finished upload, in order.
    Parts {
        /// Which upload they were made by, and are kept under.
        upload: UploadId,
        /// Each with its length.
        parts: Vec<PartHead>,
        /// Where it went.
        bucket: BucketId,
        /// And under which key.
        key: ObjectKey,
        /// Which version it became: who asks for the end of an upload twice is told the same.
        version: Stamp,
        /// The ETag that the end was asked with.
        etag: String,
    },
}

/// A part in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartHead {
    /// Its number.
    #[serde(rename = "n")]
    pub number: u16,
    /// Its length, as it lies on disks: for clients a sealed one is shorter.
    #[serde(rename = "b")]
    pub bytes: u64,
}

/// A checksum that S3 clients ask for, next to the ETag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checksum {
    /// `CRC32`, `CRC32C`, `CRC64NVME`, `SHA1`, `SHA256`.
    pub algorithm: String,
    /// As clients see it.
    pub value: String,
    /// Of the checksums of parts, instead of all bytes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub composite: bool,
}

/// What a writer says of an object besides its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct About {
    /// Headers that come back with it, in lower case: `content-type`, `x-amz-meta-…`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Tags.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Who may do what.
    #[serde(skip_serializing_if = "is_default")]
    pub acl: Acl,
    /// Whose it is, if not the bucket's owner's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// How its bytes open, if they are sealed; then each body is one stream (`crate::rules::seal`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealed: Option<serde_bytes::ByteBuf>,
}

/// A version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// Its stamp; what clients call it unless it is the null one.
    #[serde(rename = "i")]
    pub stamp: Stamp,
    /// It was written while versions were not kept.
    #[serde(rename = "z", default, skip_serializing_if = "is_default")]
    pub null: bool,
    /// When.
    #[serde(rename = "t")]
    pub at: WallTime,
    /// The object; none for a delete marker.
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    pub object: Option<Box<Object>>,
}

impl Version {
    /// As clients call it.
    pub fn name(&self) -> VersionRef {
        if self.null { VersionRef::Null } else { VersionRef::Id(self.stamp) }
    }
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    /// Bytes, as clients see them: what is sealed is longer on disks.
    #[serde(rename = "n")]
    pub bytes: u64,
    /// Without quotes.
    #[serde(rename = "e")]
    pub etag: String,
    /// The bytes themselves, or where they are.
    #[serde(rename = "b")]
    pub body: Body,
    /// What its writer said of it.
    #[serde(rename = "a", default, skip_serializing_if = "is_default")]
    pub about: About,
    /// A further checksum.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Checksum>,
    /// What keeps it.
    #[serde(rename = "l", default, skip_serializing_if = "is_default")]
    pub lock: Lock,
    /// How many parts it was made of; 0 if it was put whole.
    #[serde(rename = "p", default, skip_serializing_if = "is_default")]
    pub parts: u16,
}

/// An upload in parts that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upload {
    /// When it was begun.
    pub at: WallTime,
    /// What the object will be.
    pub about: About,
    /// How the object will be locked.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lock: Lock,
    /// Which checksum its parts bring, as the client said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// Parts that there are.
    pub parts: u16,
    /// Bytes of them.
    pub bytes: u64,
}

/// A part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// When it was put.
    #[serde(rename = "t")]
    pub at: WallTime,
    /// Bytes, as they lie on disks.
    #[serde(rename = "n")]
    pub bytes: u64,
    /// Without quotes.
    #[serde(rename = "e")]
    pub etag: String,
    /// A further checksum.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Checksum>,
    /// Where its bytes are.
    #[serde(rename = "b")]
    pub body: Body,
}

/// A write that is open: chunks that begin with its id may be on their way, or wait for their commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Write {
    /// Who writes.
    #[serde(rename = "g")]
    pub gateway: NodeId,
    /// Which start of it: with it the write ends.
    #[serde(rename = "i")]
    pub incarnation: Incarnation,
}

/// A chunk that somebody can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chunk {
    /// How many bodies and lists name it.
    #[serde(rename = "r")]
    pub shared: u32,
    /// Bytes of a body in it.
    #[serde(rename = "n")]
    pub bytes: u32,
    /// How it is kept safe.
    #[serde(rename = "k")]
    pub class: Class,
}

/// What is in the queue of what dies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Dying {
    /// A list that no body is any more; what is before `done` is condemned already.
    Manifest {
        /// Which.
        id: Stamp,
        /// Chunks or parts.
        done: u32,
    },
    /// Parts of an upload, which no list names.
    Parts {
        /// Whose.
        upload: UploadId,
        /// Those; all if it is none.
        numbers: Option<BTreeSet<u16>>,
    },
    /// The uploads of a bucket that is deleted, and its documents.
    Bucket(BucketId),
    /// What was due of a replication that was ended.
    Replication(ReplicationId),
}

/// A bucket with its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Its name.
    pub name: BucketName,
    /// The rest.
    pub bucket: Bucket,
}

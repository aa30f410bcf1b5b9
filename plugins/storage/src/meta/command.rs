//! What can be asked of the metadata, and what is answered. One [`Entry`] is one entry of the group's log.
//!
//! New commands and fields need a feature level ([`needed`]), as everything strong does: an older replica would stop over them.

use std::collections::BTreeMap;

use hirsel_model::feature::Need;
use hirsel_model::{Incarnation, NodeId, WallTime};
use serde::{Deserialize, Serialize};

use super::kinds::{
    About, Acl, Checksum, Class, DocumentKind, Lock, LockDefault, Missed, Quota, ReplicationId, Retention, Target,
    Versioning, WhenShort, Written,
};
use super::names::{BucketName, ChunkId, ObjectKey, UploadId, VersionRef, WriteId};
use super::outbox::{Ending, QueueId};
use super::refusal::Refusal;

/// The level that groups begin with: the first that knows of storage.
pub const FIRST_LEVEL: u32 = 2;

/// A command with what its proposer adds: so that carrying it out needs neither clock nor chance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// When it was proposed, by the wall clock of whoever did. What is written is dated with it, and locks end by it.
    pub at: WallTime,
    /// Drawn: makes versions and uploads hard to guess.
    pub salt: u64,
    /// What to do.
    pub command: Command,
}

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Makes a bucket.
    CreateBucket {
        /// Its name.
        name: BucketName,
        /// Whose it is.
        owner: String,
        /// Where clients are told it is.
        region: String,
        /// Whether its versions may be locked; they are kept then.
        lockable: bool,
        /// Who may do what.
        acl: Acl,
        /// How bodies are kept safe.
        #[serde(default)]
        class: Class,
    },
    /// Removes a bucket in which nothing is. Uploads under way end.
    DeleteBucket {
        /// Which.
        name: BucketName,
    },
    /// Changes a bucket.
    SetBucket {
        /// Which.
        name: BucketName,
        /// How.
        change: BucketChange,
    },
    /// Opens writes, before their first chunk is on its way.
    Open {
        /// Who writes.
        gateway: NodeId,
        /// Which start of it.
        incarnation: Incarnation,
        /// Drawn; not used before.
        writes: Vec<WriteId>,
    },
    /// Ends writes without a commit: their chunks are nobody's.
    Abort {
        /// Which; those that are not open are passed over.
        writes: Vec<WriteId>,
    },
    /// Ends the writes of a gateway whose start is gone. Asked again until nothing is left.
    AbortGone {
        /// Whose.
        gateway: NodeId,
        /// Those of starts before this one.
        before: Incarnation,
    },
    /// Commits an object.
    Put(Box<Put>),
    /// Makes an object that shares the body of another one.
    Copy(Box<Copying>),
    /// Deletes, each for itself.
    Delete {
        /// Where.
        bucket: BucketName,
        /// What.
        deletions: Vec<Deletion>,
        /// Governance locks do not count: whoever asks may bypass them.
        bypass: bool,
        /// The bucket's own rules want it, not somebody who asks: whoever is told of it is told so.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        expired: bool,
    },
    /// Changes what is said of a version.
    SetObject {
        /// Where.
        bucket: BucketName,
        /// Which.
        key: ObjectKey,
        /// Which version; the newest one if none is said.
        version: Option<VersionRef>,
        /// How.
        change: ObjectChange,
    },
    /// Begins an upload in parts.
    CreateUpload(Box<CreateUpload>),
    /// Commits a part; one with the same number is replaced.
    PutPart(Box<PutPart>),
    /// Makes an object of parts.
    CompleteUpload(Box<CompleteUpload>),
    /// Ends an upload; its parts die.
    AbortUpload {
        /// Where.
        bucket: BucketName,
        /// Which key.
        key: ObjectKey,
        /// Which.
        upload: UploadId,
    },
    /// Goes on with what dies. Asked again while there is more.
    Sweep,
    /// "I have these chunks, and find no commit that names them": those that nobody can name any more are condemned.
    CondemnUnknown {
        /// Which.
        chunks: Vec<ChunkId>,
    },
    /// Condemned chunks that are unlinked wherever they were.
    Forget {
        /// Which.
        chunks: Vec<ChunkId>,
    },
    /// Adds to the queue of repairs what a scrub or a lost disk found missing.
    AddRepairs {
        /// What, where. Of chunks that are not named any more nothing is added.
        missed: Vec<Missed>,
    },
    /// Takes from the queue of repairs what is where it should be.
    Repaired {
        /// What, where.
        missed: Vec<Missed>,
    },
    /// A partition is on its next nodes: from now on commits by older tables are refused.
    MoveComplete {
        /// Which.
        partition: u16,
        /// The table that moved it.
        table: u64,
    },
    /// Goes on with finding what is in a bucket that is to be copied elsewhere. Asked again while there is more.
    FindDue {
        /// For which replication; one that was ended has nothing.
        replication: ReplicationId,
    },
    /// What was copied elsewhere. What has changed since stays due.
    Replicated {
        /// By which replication.
        replication: ReplicationId,
        /// Which keys.
        keys: Vec<Copied>,
    },
    /// Nothing can be copied elsewhere now, or it can again.
    ReplicationFails {
        /// By which replication.
        replication: ReplicationId,
        /// Why not; none if it can.
        words: Option<String>,
    },
    /// Takes notices out of a queue. Asked again while there is more.
    EndNotices {
        /// Which queue.
        queue: QueueId,
        /// Those with numbers up to this.
        up_to: u64,
        /// What became of them.
        ending: Ending,
    },
    /// Raises the feature level of the group.
    RaiseLevel {
        /// To.
        to: u32,
    },
}

/// A change of a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BucketChange {
    /// Whether versions are kept. Not [`Versioning::Off`] once they were.
    Versioning(Versioning),
    /// Lets versions be locked, if they are kept; and how, if they do not say it themselves.
    Lock(Option<LockDefault>),
    /// How much may be in it.
    Quota(Quota),
    /// Who may do what.
    Acl(Acl),
    /// How bodies are kept safe that are written from now on, and what becomes of those that cannot be.
    Class(Class, WhenShort),
    /// A document, or none any more.
    Document(DocumentKind, Option<String>),
    /// Where it is copied to, or nowhere any more. All that is there becomes due, also where nothing of it is new.
    Replication(Option<Box<Target>>),
}

/// A key that was looked at for a replication.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copied {
    /// Which.
    pub key: ObjectKey,
    /// The stamp that it was due with.
    pub stamp: u64,
    /// It cannot be copied as it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cannot: bool,
}

/// A change of a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ObjectChange {
    /// Its tags, all of them.
    Tags(BTreeMap<String, String>),
    /// Who may do what.
    Acl(Acl),
    /// Until when it is kept.
    Retention {
        /// The new end; none to lift it.
        to: Option<Retention>,
        /// Whoever asks may bypass governance.
        bypass: bool,
    },
    /// Whether it is held.
    Hold(bool),
}

/// What must hold of the newest version for a write to happen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Condition {
    /// There is an object with this ETag; `*` for any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub if_match: Option<String>,
    /// There is none with this ETag; `*` for any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub if_none_match: Option<String>,
}

/// Commits an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Put {
    /// Where.
    pub bucket: BucketName,
    /// Under which key.
    pub key: ObjectKey,
    /// Its bytes.
    pub body: Written,
    /// Without quotes.
    pub etag: String,
    /// A further checksum.
    pub checksum: Option<Checksum>,
    /// What is said of it.
    pub about: About,
    /// What keeps it, if the client says so; else the bucket does.
    pub lock: Option<Lock>,
    /// What must hold.
    pub condition: Condition,
    /// How it came.
    #[serde(default, skip_serializing_if = "By::is_put")]
    pub by: By,
}

/// How an object came that is put, for those who are told of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum By {
    /// As it is.
    #[default]
    Put,
    /// In a form of a browser.
    Form,
    /// It was copied, and its bytes were written anew.
    Copy,
}

impl By {
    /// The usual one, which need not be said.
    fn is_put(&self) -> bool {
        *self == By::Put
    }
}

/// Makes an object of another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copying {
    /// From which bucket.
    pub from_bucket: BucketName,
    /// Which key.
    pub from_key: ObjectKey,
    /// Which version; the newest one if none is said.
    pub from_version: Option<VersionRef>,
    /// The ETag that the gateway saw, if what it does hangs on it: another one is refused.
    pub from_etag: Option<String>,
    /// To which bucket.
    pub bucket: BucketName,
    /// Under which key.
    pub key: ObjectKey,
    /// What is said of it; what is said of the other one, if none.
    pub about: Option<About>,
    /// Its tags, where those of the other one shall not be kept.
    pub tags: Option<BTreeMap<String, String>>,
    /// Who may do what.
    pub acl: Acl,
    /// What keeps it.
    pub lock: Option<Lock>,
    /// What must hold where it goes.
    pub condition: Condition,
}

/// One deletion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deletion {
    /// Which key.
    pub key: ObjectKey,
    /// Which version, for good; without one the newest, behind a delete marker where versions are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionRef>,
    /// Only if what is deleted has this ETag; `*` for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_match: Option<String>,
}

/// Begins an upload in parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateUpload {
    /// Where.
    pub bucket: BucketName,
    /// Under which key.
    pub key: ObjectKey,
    /// What the object will be.
    pub about: About,
    /// How it will be locked, if the client says so.
    pub lock: Option<Lock>,
    /// Which checksum its parts bring.
    pub checksum: Option<String>,
}

/// Commits a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutPart {
    /// Where.
    pub bucket: BucketName,
    /// Of which key.
    pub key: ObjectKey,
    /// Of which upload.
    pub upload: UploadId,
    /// 1 to 10,000.
    pub number: u16,
    /// Its bytes.
    pub body: Written,
    /// Without quotes.
    pub etag: String,
    /// A further checksum.
    pub checksum: Option<Checksum>,
}

/// Makes an object of parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompleteUpload {
    /// Where.
    pub bucket: BucketName,
    /// Under which key.
    pub key: ObjectKey,
    /// Which upload.
    pub upload: UploadId,
    /// Numbers, rising, with ETags as the client knows them.
    pub parts: Vec<(u16, String)>,
    /// The ETag that follows from those of the parts.
    pub etag: String,
    /// A further checksum.
    pub checksum: Option<Checksum>,
    /// What the client says that the object is long.
    pub bytes: Option<u64>,
    /// What must hold.
    pub condition: Condition,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// It holds.
    Done,
    /// An object was made.
    Made(Made),
    /// What became of each deletion.
    Deleted(Vec<Result<Deleted, Refusal>>),
    /// An upload was begun.
    Upload(UploadId),
    /// Some of it was done, and whether there is more to do.
    Some {
        /// How many rows, writes or chunks.
        done: u64,
        /// Ask again.
        more: bool,
    },
    /// What is true of each chunk now.
    Fates(Vec<Fate>),
}

/// An object that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Made {
    /// Its version; none where versions are not kept.
    pub version: Option<VersionRef>,
    /// Its ETag.
    pub etag: String,
    /// When.
    pub at: WallTime,
    /// The version that it was copied from, where versions are kept there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<VersionRef>,
}

/// What a deletion did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deleted {
    /// The delete marker that was made, or that was deleted.
    pub marker: Option<VersionRef>,
    /// It was made, not deleted.
    pub made: bool,
}

/// What is true of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fate {
    /// Somebody can read it.
    Named,
    /// Its write is open: somebody may commit it.
    Open,
    /// It may be unlinked.
    Condemned,
}

/// Which feature level a command needs before it may be written. The patterns name every field, so that none can be forgotten.
pub fn needed(command: &Command) -> Need {
    match command {
        Command::CreateBucket { name: _, owner: _, region: _, lockable: _, acl: _, class: _ }
        | Command::DeleteBucket { name: _ }
        | Command::SetBucket { name: _, change: _ }
        | Command::Open { gateway: _, incarnation: _, writes: _ }
        | Command::Abort { writes: _ }
        | Command::AbortGone { gateway: _, before: _ }
        | Command::Put(_)
        | Command::Copy(_)
        | Command::Delete { bucket: _, deletions: _, bypass: _, expired: _ }
        | Command::SetObject { bucket: _, key: _, version: _, change: _ }
        | Command::CreateUpload(_)
        | Command::PutPart(_)
        | Command::CompleteUpload(_)
        | Command::AbortUpload { bucket: _, key: _, upload: _ }
        | Command::Sweep
        | Command::CondemnUnknown { chunks: _ }
        | Command::Forget { chunks: _ }
        | Command::AddRepairs { missed: _ }
        | Command::Repaired { missed: _ }
        | Command::MoveComplete { partition: _, table: _ }
        | Command::FindDue { replication: _ }
        | Command::Replicated { replication: _, keys: _ }
        | Command::ReplicationFails { replication: _, words: _ }
        | Command::EndNotices { queue: _, up_to: _, ending: _ }
        | Command::RaiseLevel { to: _ } => Need::of(FIRST_LEVEL, "storage"),
    }
}

//! Why something cannot be: as S3 says it to clients, and as people read it.

use serde::{Deserialize, Serialize};

/// A refusal. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Refusal {
    /// There is no such bucket.
    #[error("there is no such bucket")]
    NoSuchBucket,
    /// The name is somebody else's.
    #[error("the bucket is somebody else's")]
    BucketTaken,
    /// The name is the owner's already.
    #[error("the bucket is yours already")]
    BucketYours,
    /// Something is in it.
    #[error("the bucket is not empty")]
    BucketNotEmpty,
    /// The group has as many as it may.
    #[error("there are as many buckets as there may be")]
    TooManyBuckets,
    /// What the bucket is does not go with what is asked.
    #[error("{0}")]
    BucketState(String),
    /// There is no such key, or its newest version is a delete marker.
    #[error("there is no such key")]
    NoSuchKey,
    /// There is no such version.
    #[error("there is no such version")]
    NoSuchVersion,
    /// A delete marker has no bytes, tags or locks.
    #[error("the version is a delete marker")]
    IsMarker,
    /// A condition does not hold.
    #[error("a condition does not hold: {0}")]
    Condition(String),
    /// It is locked.
    #[error("the version is locked")]
    Locked,
    /// There is no such upload.
    #[error("there is no such upload")]
    NoSuchUpload,
    /// A part is missing, or is another one.
    #[error("part {0} is not there, or is another one")]
    InvalidPart(u16),
    /// The numbers do not rise.
    #[error("the numbers of the parts do not rise")]
    PartOrder,
    /// A part that is not the last one is too small.
    #[error("part {0} is too small, and is not the last one")]
    PartTooSmall(u16),
    /// Larger than it may be.
    #[error("{0}")]
    TooLarge(String),
    /// Headers are longer than they may be.
    #[error("headers of {0} bytes exceed the limit")]
    Headers(u64),
    /// Tags are more, or longer, than they may be.
    #[error("{0}")]
    Tags(String),
    /// More than the bucket may hold.
    #[error("the bucket may not hold more: {0}")]
    Quota(String),
    /// An argument is wrong.
    #[error("{0}")]
    Argument(String),
    /// The write is not open any more: it was aborted, or committed already.
    #[error("the write is not open")]
    NotOpen,
    /// The write is open already.
    #[error("the write is open already, or was used")]
    UsedWrite,
    /// A chunk is condemned, or is another write's.
    #[error("a chunk must not be named: {0}")]
    Chunk(String),
    /// The chunks were placed by a table that is too old; write to the nodes of this one.
    #[error("the chunks were placed by table {by}, and partition {partition} has moved with table {least}")]
    OldTable {
        /// Which partition.
        partition: u16,
        /// Placed by.
        by: u64,
        /// The least that is taken.
        least: u64,
    },
    /// The group's feature level is lower.
    #[error("{what} needs feature level {needs}, and the metadata group is at {level}")]
    Level {
        /// What needs more.
        what: String,
        /// What it needs.
        needs: u32,
        /// What there is.
        level: u32,
    },
}

impl Refusal {
    /// S3's name for it. [`Refusal::is_internal`] ones never reach a client.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::NoSuchBucket => "NoSuchBucket",
            Refusal::BucketTaken => "BucketAlreadyExists",
            Refusal::BucketYours => "BucketAlreadyOwnedByYou",
            Refusal::BucketNotEmpty => "BucketNotEmpty",
            Refusal::TooManyBuckets => "TooManyBuckets",
            Refusal::BucketState(_) => "InvalidBucketState",
            Refusal::NoSuchKey => "NoSuchKey",
            Refusal::NoSuchVersion => "NoSuchVersion",
            Refusal::IsMarker => "MethodNotAllowed",
            Refusal::Condition(_) => "PreconditionFailed",
            Refusal::Locked => "AccessDenied",
            Refusal::NoSuchUpload => "NoSuchUpload",
            Refusal::InvalidPart(_) => "InvalidPart",
            Refusal::PartOrder => "InvalidPartOrder",
            Refusal::PartTooSmall(_) => "EntityTooSmall",
            Refusal::TooLarge(_) => "EntityTooLarge",
            Refusal::Headers(_) => "MetadataTooLarge",
            Refusal::Tags(_) => "InvalidTag",
            Refusal::Quota(_) => "QuotaExceeded",
            Refusal::Argument(_) => "InvalidArgument",
            Refusal::NotOpen
            | Refusal::UsedWrite
            | Refusal::Chunk(_)
            | Refusal::OldTable { .. }
            | Refusal::Level { .. } => "InternalError",
        }
    }

    /// The status of the answer over HTTP.
    pub fn status(&self) -> u16 {
        match self.code() {
            "NoSuchBucket" | "NoSuchKey" | "NoSuchVersion" | "NoSuchUpload" => 404,
            "BucketAlreadyExists" | "BucketAlreadyOwnedByYou" | "BucketNotEmpty" | "InvalidBucketState" => 409,
            "MethodNotAllowed" => 405,
            "PreconditionFailed" => 412,
            "AccessDenied" | "QuotaExceeded" => 403,
            "InternalError" => 500,
            _ => 400,
        }
    }

    /// It is the gateway's to mend: by writing again, with another table or another write.
    pub fn is_internal(&self) -> bool {
        self.code() == "InternalError"
    }
}

//! Limits of the metadata, with their reasons. Those that S3 names are what clients expect.

/// Rows that one command touches, roughly. A thousand take some milliseconds; more would delay every other command behind it.
pub const WORK_MAX: usize = 1_000;
/// Buckets of a group. Listing them is paged; the limit keeps a runaway script from filling the group.
pub const BUCKETS_MAX: u64 = 100_000;
/// Bytes of a key (S3).
pub const KEY_BYTES_MAX: usize = 1_024;
/// Largest object (S3): 5 TiB.
pub const OBJECT_BYTES_MAX: u64 = 5 << 40;
/// Largest body of one request, and of one part (S3): 5 GiB.
pub const BODY_BYTES_MAX: u64 = 5 << 30;
/// A part may be smaller only if it is the last one (S3): 5 MiB.
pub const PART_BYTES_MIN: u64 = 5 << 20;
/// The highest part number (S3).
pub const PARTS_MAX: u16 = 10_000;
/// Chunks of one body: 5 GiB in chunks of 4 MiB are 1280.
pub const CHUNKS_MAX: usize = 2_048;
/// Bodies of more chunks keep their list in a row of its own, so that listing reads short rows and a copy counts one thing.
pub const CHUNKS_BESIDE: usize = 8;
/// A body of at most this many bytes may be kept in its row, and goes through Raft: a sync of its own on three disks would cost more.
pub const INLINE_BYTES_MAX: usize = 4 << 10;
/// System headers and user metadata of an object. S3 allows 2 KB of the user's and limits the rest by its 8 KB of headers.
pub const HEADERS_BYTES_MAX: usize = 8 << 10;
/// Tags of an object (S3).
pub const TAGS_MAX: usize = 10;
/// Grants of an access control list (S3).
pub const GRANTS_MAX: usize = 100;
/// Characters of the key of a tag (S3).
pub const TAG_KEY_MAX: usize = 128;
/// Characters of the value of a tag (S3).
pub const TAG_VALUE_MAX: usize = 256;
/// Text that is kept as it is and is short by nature: owners, regions, ETags, checksums.
pub const WORD_BYTES_MAX: usize = 256;
/// Objects that one command deletes (S3).
pub const DELETIONS_MAX: usize = 1_000;
/// Rows that a page of a listing has at most (S3).
pub const PAGE_MAX: usize = 1_000;
/// Notices that wait for one destination. Some hours of a busy bucket, and a few megabytes.
pub const NOTICES_MAX: u64 = 10_000;
/// Notices that wait for all destinations: as many as ten of them may have. Each is some hundred bytes, on every member of the group.
pub const NOTICES_ALL_MAX: u64 = 100_000;
/// Writes that one command registers: a gateway keeps some ready, so that a small object costs one command and not two.
pub const WRITES_MAX: usize = 256;
/// Targets that one commit may have missed: every shard of every chunk of a body, were all but the fewest nodes away.
pub const MISSED_MAX: usize = 16 * CHUNKS_MAX;
/// Chunks that one command of a storage node or of the repair names.
pub const NAMED_MAX: usize = 1_000;
/// Bytes of the endpoint that a bucket is copied to, and of a secret, sealed: more than any of both has.
pub const TARGET_BYTES_MAX: usize = 2_048;
/// Bytes of what is kept of why nothing can be copied.
pub const FAILING_BYTES_MAX: usize = 512;
/// Keys that are found at once for a replication: each is three rows.
pub const FOUND_MAX: usize = WORK_MAX / 4;
/// Partitions of the placement table, at most (`hirsel_model::planner::storage`).
pub const PARTITIONS_MAX: u16 = 4_096;

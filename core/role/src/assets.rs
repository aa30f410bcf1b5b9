//! What the load balancer asks of the storage role: objects to give to whoever a route lets in.
//!
//! That a route leads to a bucket says that its objects are for those whom the route lets in; access keys and policies are no matter of it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use hirsel_model::WallTime;

use crate::storage::Pieces;

/// Begins to read these bytes of an object. What is read ahead of whoever takes it is one chunk, [`CHUNK_BYTES_MAX`].
pub type Open = Box<dyn FnOnce(Range<u64>) -> Pieces + Send>;

/// What of an object may be in memory for one who reads it.
pub const CHUNK_BYTES_MAX: u64 = 4 << 20;

/// An object that was found and is not read yet.
pub struct Asset {
    /// How long it is.
    pub bytes: u64,
    /// What S3 tells its content by, without quotes.
    pub etag: String,
    /// When it was written.
    pub changed: WallTime,
    /// Fields of HTTP that whoever wrote it wants to be told with it, by name in lower case.
    pub headers: BTreeMap<String, String>,
    /// Reads it.
    pub open: Open,
}

impl fmt::Debug for Asset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, etag, changed, headers, open: _ } = self;
        f.debug_struct("Asset")
            .field("bytes", bytes)
            .field("etag", etag)
            .field("changed", changed)
            .field("headers", headers)
            .finish_non_exhaustive()
    }
}

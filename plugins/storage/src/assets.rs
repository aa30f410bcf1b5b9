//! Objects for the load balancer of this node, which gives them to whoever its routes let in.

use std::ops::Range;

use hirsel_role::assets::{Asset, CHUNK_BYTES_MAX};
use hirsel_role::storage::{Fault, StorageError};

use crate::chunk::CHUNK_BYTES_MAX as BYTES_MAX;
use crate::gateway::Gateway;
use crate::meta::query::{Query, Reply};
use crate::meta::refusal::Refusal;
use crate::people::{bucket_name, fault, meta, object_key, pieces, strange};

const _: () = assert!(BYTES_MAX as u64 <= CHUNK_BYTES_MAX);

/// Fields that are told with an object: what it is, and how long it may be kept. What is about S3 alone is not.
const TOLD: [&str; 6] =
    ["cache-control", "content-disposition", "content-encoding", "content-language", "content-type", "expires"];

/// Finds the newest version of an object.
pub(crate) async fn find(gateway: &Gateway, bucket: &str, key: &str) -> Result<Asset, StorageError> {
    let (bucket, key) = (bucket_name(bucket)?, object_key(key.to_owned())?);
    let query = Query::Version { bucket, key, version: None, from: 0 };
    let Reply::Version(found) = gateway.look(query).await.map_err(meta)? else { return Err(strange()) };
    let (version, known) = (found.version, found.pieces);
    let (changed, object) = (version.at, version.object);
    let object = object.ok_or_else(|| meta(Refusal::NoSuchKey.into()))?;
    if object.about.sealed.is_some() {
        let words = "the object is encrypted, and is given to clients of S3 only".to_owned();
        return Err(fault(Fault::Conflict, "InvalidObjectState", words));
    }
    let headers = object.about.headers.iter().filter(|(name, _)| TOLD.contains(&name.as_str()));
    let headers = headers.map(|(name, value)| (name.clone(), value.clone())).collect();
    let (bytes, etag, gateway) = (object.bytes, object.etag.clone(), gateway.clone());
    let open = move |range: Range<u64>| {
        // Clients may be slow, and many: the next chunk is read when this one is on its way.
        pieces(gateway.read(&object, known, range.start, range.end).one_by_one())
    };
    Ok(Asset { bytes, etag, changed, headers, open: Box::new(open) })
}

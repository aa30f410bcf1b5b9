//! What a copy of an object elsewhere has to be like: for [`crate::replicate`], which speaks S3 as a client.

use http::{HeaderMap, HeaderName};

pub(crate) use super::hash::Algorithm;

use super::about::{self, KEPT, META};
use super::documents::read;
use super::error::{Done, strange};
use super::front::Front;
use super::sealing::open_bytes;
use crate::meta::kinds::Object;
use crate::meta::query::{Query, Reply};
use crate::rules::seal::DataKey;

/// Whether a header is kept with an object.
pub(crate) fn is_kept(name: &str) -> bool {
    KEPT.contains(&name) || name.starts_with(META)
}

/// The headers that come back with an object.
pub(crate) fn headers(object: &Object) -> HeaderMap {
    let headers = about::headers(object).into_iter();
    let kept = headers.filter_map(|(name, value)| Some((name?, value)));
    kept.filter(|(name, _): &(HeaderName, _)| is_kept(name.as_str())).collect()
}

/// How long the parts are that an object was made of; none of one that was put whole.
///
/// # Errors
/// When the metadata cannot be asked.
pub(crate) async fn parts(front: &Front, object: &Object) -> Done<Vec<u64>> {
    if object.parts == 0 {
        return Ok(Vec::new());
    }
    let Reply::PartsOf(parts) = front.look(Query::PartsOf { body: object.body.clone() }).await? else {
        return Err(strange());
    };
    parts.iter().map(|part| open_bytes(&object.about, part.bytes)).collect()
}

/// What opens an object that is sealed with a key of the cluster.
///
/// # Errors
/// When the key has not come to this node, or is a client's.
pub(crate) fn opens(front: &Front, object: &Object) -> Done<Option<DataKey>> {
    let opened = front.opens(object.about.sealed.as_ref(), &HeaderMap::new(), false)?;
    Ok(opened.map(|(key, _)| key))
}

/// A document as clients of S3 are given it; none where it is another one.
pub(crate) fn document<T: for<'xml> s3s::xml::Deserialize<'xml>>(text: &str) -> Option<T> {
    read(text).ok()
}

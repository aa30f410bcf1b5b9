//! The path of a request whose route leads to objects: found through the storage role of this node, and given as its client wants it.

use hirsel_model::spec::Assets;
use hirsel_role::assets::{Asset, CHUNK_BYTES_MAX};
use hirsel_role::storage::{Fault as Trouble, Objects, StorageError};
use http::header::LOCATION;
use http::{Method, Response, StatusCode};

use super::Proxy;
use super::caching::{Answer, Trip};
use super::outbound::Outbound;
use crate::assets::{self, Given};
use crate::cache::give::{self, Give};
use crate::pages;
use crate::stream::AnswerBody;

/// Bytes of objects that may be in memory on their way to clients, of all of them together: 256 that are large, at once.
pub(super) const OBJECTS_BYTES_MAX: u64 = 256 * CHUNK_BYTES_MAX;

impl Proxy {
    /// Answers a request by an object.
    pub(super) async fn give_object(&self, spec: &Assets, outbound: &Outbound, trip: &mut Trip<'_>) -> Answer {
        trip.account.leads_to(trip.origin);
        let head = &outbound.head;
        if head.method != Method::GET && head.method != Method::HEAD {
            return Err(pages::only_read());
        }
        let (path, index) = (head.uri.path(), spec.index.as_deref());
        let Some(objects) = self.objects.behind() else {
            return Err(pages::no_storage("the storage role of this load balancer has not begun yet"));
        };
        let Some(key) = assets::key(path, index) else { return Err(pages::no_object(&spec.bucket)) };
        match objects.asset(&spec.bucket, &key).await {
            Ok(asset) => self.give_asset(asset, outbound),
            Err(error) if is_missing(&error) => match assets::folder(path, index) {
                Some((key, location))
                    if is_there(&*objects, &spec.bucket, &key).await.map_err(|it| refused(&it))? =>
                {
                    let mut answer = Response::new(AnswerBody::whole(bytes::Bytes::new()));
                    *answer.status_mut() = StatusCode::FOUND;
                    answer.headers_mut().insert(LOCATION, location);
                    Ok(answer)
                }
                _ => Err(pages::no_object(&spec.bucket)),
            },
            Err(error) => Err(refused(&error)),
        }
    }

    /// Gives an object as its client wants it.
    #[expect(clippy::result_large_err, reason = "the refusal is the answer itself")]
    fn give_asset(&self, asset: Asset, outbound: &Outbound) -> Answer {
        let asked = &outbound.head;
        let headers = assets::headers(&asset);
        if assets::is_refused(&asked.headers, &headers) {
            return Err(pages::changed());
        }
        let length = Some(asset.bytes);
        let give = give::give(&asked.method, &asked.headers, StatusCode::OK, &headers, length);
        let range = match &give {
            Give::Whole => 0..asset.bytes,
            Give::Part(range) => range.clone(),
            Give::NotModified | Give::Beyond => 0..0,
        };
        let bytes = range.end.saturating_sub(range.start);
        let body = match bytes {
            0 => AnswerBody::whole(bytes::Bytes::new()),
            _ => {
                let reserved =
                    self.of_objects.reserve(bytes.min(CHUNK_BYTES_MAX)).ok_or_else(pages::too_many_objects)?;
                AnswerBody::given(Given::new((asset.open)(range), bytes, reserved))
            }
        };
        let mut answer = Response::new(body);
        (*answer.status_mut(), *answer.headers_mut()) = give::dressed(&give, StatusCode::OK, &headers, length);
        Ok(answer)
    }
}

/// Whether an object is there.
async fn is_there(objects: &dyn Objects, bucket: &str, key: &str) -> Result<bool, StorageError> {
    match objects.asset(bucket, key).await {
        Ok(_) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What can be no name of an object names none.
fn is_missing(error: &StorageError) -> bool {
    matches!(error.fault, Trouble::NotFound | Trouble::Argument)
}

fn refused(error: &StorageError) -> Response<AnswerBody> {
    match error.fault {
        Trouble::Conflict | Trouble::Refused => pages::forbidden(&error.message),
        Trouble::NotFound | Trouble::Argument | Trouble::Unavailable | Trouble::Unknown | Trouble::Failed => {
            pages::no_storage(&error.message)
        }
    }
}

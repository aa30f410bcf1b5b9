//! Buckets, and single objects on their way in and out, which pass through here piece by piece. What is done is asked of the storage role of
//! this node, and not of the control state.

use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::response::Response;
use futures::TryStreamExt;
use hirsel_model::AppName;
use hirsel_model::access::ACCOUNT;
use hirsel_model::control::{Command, Entry};
use hirsel_model::event::{Cause, EventKind, NewEvent};
use hirsel_model::spec::{AppSpec, account, store_name};
use hirsel_role::secret::Plain;
use hirsel_role::storage::{
    Ask, BucketChange, Fault, NewBucket, NewObject, NewReplication, Objects, Safety, StorageError,
};
use http::HeaderValue;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG};
use serde::Deserialize;
use tokio::time::timeout;
use tracing::{debug, info};
use utoipa::ToSchema;

use super::changes::Changed;
use super::{AgentState, Fields, Part, answer};
use crate::api::auth::{Caller, signature};
use crate::api::envelope::Envelope;
use crate::api::error::{ApiError, Code, ErrorBody};
use crate::api::sight::Sight;
use crate::api::views::buckets::{self, Bucket, Stored};
use crate::api::views::layout;
use crate::api::views::storage::{self, NodeAudit, NodeScrub};
use crate::api::views::wanted;
use crate::api::views::why::Why;

/// Buckets that are listed for people at once: as many as there may be would be read for minutes.
const LISTED_MAX: usize = 10_000;

/// Whether a bucket is somebody else's is not asked for longer: it is found out later, too.
const LOOK_WITHIN: Duration = Duration::from_secs(2);
/// A line in the log is not waited for longer: what it tells of is done already.
const NOTE_WITHIN: Duration = Duration::from_secs(1);

/// The bucket to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BucketFields {
    /// Its name.
    bucket: String,
    /// Whose it is; of account `main` when none is given.
    #[serde(default)]
    account: Option<String>,
    /// So many copies, on as many nodes.
    #[serde(default)]
    copies: Option<u8>,
    /// So many shards with data, and so many more: `4+2` or `8+3`.
    #[serde(default)]
    erasure: Option<String>,
    /// Bytes of all versions in it, at most; 0 for no limit.
    #[serde(default)]
    quota_bytes: u64,
    /// Whether versions are kept.
    #[serde(default)]
    versioning: bool,
}

/// How a bucket shall be kept; what is not given stays.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KeptFields {
    /// So many copies, on as many nodes.
    copies: Option<u8>,
    /// So many shards with data, and so many more: `4+2` or `8+3`.
    erasure: Option<String>,
    /// Bytes of all versions in it, at most; 0 for no limit.
    quota_bytes: Option<u64>,
    /// Whether versions are kept.
    versioning: Option<bool>,
}

/// Where a bucket shall be copied to. It holds a secret, so nothing prints it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplicationFields {
    /// An S3 and a bucket of it: `https://HOST/BUCKET`.
    to: String,
    /// The region that requests are signed for.
    region: String,
    /// Only keys that begin with this.
    #[serde(default)]
    prefix: String,
    /// The access key that it is written with there.
    key_id: String,
    /// Its secret, which is kept sealed.
    secret: String,
}

fn safety(copies: Option<u8>, erasure: Option<&str>) -> Result<Option<Safety>, ApiError> {
    match (copies, erasure) {
        (None, None) => Ok(None),
        (Some(copies), None) => Ok(Some(Safety::Copies(copies))),
        (None, Some(text)) => {
            let parts = text.split_once('+').and_then(|(data, more)| Some((data.parse().ok()?, more.parse().ok()?)));
            let wrong = || ApiError::new(Code::Usage, format!("erasure {text:.40?}: expected K+M: 4+2 or 8+3"));
            parts.map(|(data, more)| Some(Safety::Erasure(data, more))).ok_or_else(wrong)
        }
        (Some(_), Some(_)) => Err(ApiError::new(Code::Usage, "copies and erasure coding exclude each other")),
    }
}

/// The storage role of this node, once it can be asked.
fn objects(agent: &AgentState) -> Result<std::sync::Arc<dyn Objects>, ApiError> {
    let begun = agent.objects().behind();
    let not_yet = || ApiError::new(Code::NoQuorum, "the object store of this node has not begun yet");
    begun.ok_or_else(|| not_yet().next("hirsel roles").next("hirsel VERB --node ANOTHER-NODE"))
}

fn wrong(error: StorageError) -> ApiError {
    let code = match error.fault {
        Fault::Argument => Code::Usage,
        Fault::NotFound => Code::NotFound,
        Fault::Conflict => Code::Conflict,
        Fault::Refused => Code::Unsafe,
        Fault::Unavailable => Code::NoQuorum,
        Fault::Unknown => Code::TimedOut,
        Fault::Failed => Code::Failed,
    };
    let told = ApiError::new(code, error.message).evidence(format!("in S3's words: {}", error.code));
    match error.fault {
        Fault::NotFound => told.next("hirsel bucket list"),
        Fault::Unavailable | Fault::Failed => told.next("hirsel roles"),
        Fault::Unknown => told.next("look whether it happened, then repeat"),
        Fault::Argument | Fault::Conflict | Fault::Refused => told,
    }
}

/// What an application says of its bucket is brought about again and again: who wants it otherwise says so there.
fn refuse_wanted(sight: &Sight, name: &str) -> Result<(), ApiError> {
    let Some((app, _)) = wanted::wanted_by(sight, name) else { return Ok(()) };
    let message = format!(
        "bucket {name} is wanted by application {app}: it is changed in its manifest, and removed once that has no such block"
    );
    Err(ApiError::new(Code::Unsafe, message).next(format!("hirsel why bucket/{name}")).next("hirsel apply FILE"))
}

/// Refuses an application whose new buckets are somebody else's already, as far as that can be seen at once. Who makes them looks again.
pub(super) async fn refuse_taken(agent: &AgentState, app: &AppName, spec: &AppSpec) -> Result<(), ApiError> {
    let sight = agent.sight();
    let (Some(account), false) = (account(app), sight.state.plan.storage.is_empty()) else { return Ok(()) };
    let Some(objects) = agent.objects().behind() else { return Ok(()) };
    let names = spec.buckets.keys().map(|label| store_name(app, label));
    for name in names.filter(|name| wanted::wanted_by(&sight, name).is_none()) {
        let Ok(looked) = timeout(LOOK_WITHIN, objects.bucket(&name)).await else { return Ok(()) };
        if let Ok(there) = looked
            && there.owner != account.as_str()
        {
            let owner = there.owner;
            let message = format!("bucket {name} is there already, of account {owner}, and is not taken from it");
            return Err(ApiError::new(Code::Conflict, message)
                .next(format!("hirsel bucket usage {name}"))
                .next(format!("give the block another name, or, once it is empty: hirsel bucket rm {name}")));
        }
    }
    Ok(())
}

/// Tells the cluster's log what became of a bucket, and by whom. What was done is done: where nobody leads, only this node's own log has it.
async fn noted(agent: &AgentState, sight: &Sight, caller: &Caller, bucket: &str, message: String) {
    let by = signature(sight, caller);
    info!(bucket, by, "{message}");
    let event = NewEvent {
        kind: EventKind::Happened,
        subject: format!("bucket/{bucket}"),
        message: format!("{message} (by {by})"),
        cause: Cause::None,
        rejected: Vec::new(),
    };
    let entry = Entry { at: sight.wall, by, if_index: None, command: Command::Note { events: vec![event] } };
    if agent.propose(entry, NOTE_WITHIN).await.is_err() {
        debug!(bucket, "not noted in the log of the cluster");
    }
}

/// The buckets there are.
#[utoipa::path(get, path = "/v1/buckets", responses((status = 200, body = Envelope<Vec<Bucket>>), (status = 503, body = ErrorBody)))]
pub async fn list(State(agent): State<AgentState>) -> Result<Response, ApiError> {
    let objects = objects(&agent)?;
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let (page, more) = objects.list(after.as_deref()).await.map_err(wrong)?;
        after = page.last().map(|last| last.name.clone());
        let sight = agent.sight();
        all.extend(page.into_iter().map(|it| buckets::bucket(&sight, it)));
        if !more || after.is_none() {
            break;
        }
        if all.len() >= LISTED_MAX {
            let message = format!("more than {LISTED_MAX} buckets: list them in pages, with a client of S3");
            return Err(ApiError::new(Code::TooLarge, message));
        }
    }
    Ok(answer(&agent.sight(), all))
}

/// A bucket, and what is in it.
#[utoipa::path(get, path = "/v1/buckets/{bucket}", params(("bucket", description = "bucket")),
    responses((status = 200, body = Envelope<Bucket>), (status = 404, body = ErrorBody)))]
pub async fn usage(State(agent): State<AgentState>, Part(name): Part<String>) -> Result<Response, ApiError> {
    let found = objects(&agent)?.bucket(&name).await.map_err(wrong)?;
    let sight = agent.sight();
    Ok(answer(&sight, buckets::bucket(&sight, found)))
}

/// Makes a bucket.
#[utoipa::path(post, path = "/v1/buckets", request_body = BucketFields,
    responses((status = 200, body = Envelope<Bucket>), (status = 409, body = ErrorBody)))]
pub async fn create(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Fields(fields): Fields<BucketFields>,
) -> Result<Response, ApiError> {
    let owner = fields.account.as_deref().unwrap_or(ACCOUNT);
    let owner = owner.parse().map_err(|error| ApiError::new(Code::Usage, format!("name of the account: {error}")))?;
    let new = NewBucket {
        name: fields.bucket,
        owner,
        safety: safety(fields.copies, fields.erasure.as_deref())?,
        quota: Some(fields.quota_bytes).filter(|bytes| *bytes > 0),
        versioning: fields.versioning,
    };
    let made = objects(&agent)?.create(new).await.map_err(wrong)?;
    let sight = agent.sight();
    noted(&agent, &sight, &caller, &made.name, format!("bucket {} was made", made.name)).await;
    Ok(answer(&sight, buckets::bucket(&sight, made)))
}

/// Changes how a bucket is kept.
#[utoipa::path(put, path = "/v1/buckets/{bucket}", request_body = KeptFields, params(("bucket", description = "bucket")),
    responses((status = 200, body = Envelope<Bucket>), (status = 404, body = ErrorBody)))]
pub async fn change(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Part(name): Part<String>,
    Fields(fields): Fields<KeptFields>,
) -> Result<Response, ApiError> {
    let change = BucketChange {
        safety: safety(fields.copies, fields.erasure.as_deref())?,
        quota: fields.quota_bytes.map(|bytes| Some(bytes).filter(|bytes| *bytes > 0)),
        versioning: fields.versioning,
    };
    if change == BucketChange::default() {
        return Err(ApiError::new(Code::Usage, "nothing is said that shall change").next("hirsel bucket set --help"));
    }
    refuse_wanted(&agent.sight(), &name)?;
    let changed = objects(&agent)?.change(&name, change).await.map_err(wrong)?;
    let sight = agent.sight();
    noted(&agent, &sight, &caller, &name, format!("bucket {name} was changed")).await;
    Ok(answer(&sight, buckets::bucket(&sight, changed)))
}

/// Has a bucket copied to another one, of any S3, from now on.
#[utoipa::path(put, path = "/v1/buckets/{bucket}/replication", request_body = ReplicationFields, params(("bucket", description = "bucket")),
    responses((status = 200, body = Envelope<Bucket>), (status = 404, body = ErrorBody)))]
pub async fn replicate(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Part(name): Part<String>,
    Fields(fields): Fields<ReplicationFields>,
) -> Result<Response, ApiError> {
    let ReplicationFields { to, region, prefix, key_id, secret } = fields;
    let wrong_place = || ApiError::new(Code::Usage, format!("{to:.80?}: expected URL/BUCKET, https://HOST/BUCKET"));
    let (endpoint, bucket) = to.trim_end_matches('/').rsplit_once('/').ok_or_else(wrong_place)?;
    let (endpoint, bucket, secret) = (endpoint.to_owned(), bucket.to_owned(), Plain(secret));
    let new = NewReplication { endpoint, region, bucket, prefix, key_id, secret };
    let changed = objects(&agent)?.replicate(&name, Some(new)).await.map_err(wrong)?;
    let sight = agent.sight();
    noted(&agent, &sight, &caller, &name, format!("bucket {name} is copied to {to} from now on")).await;
    Ok(answer(&sight, buckets::bucket(&sight, changed)))
}

/// Copies a bucket elsewhere no more.
#[utoipa::path(delete, path = "/v1/buckets/{bucket}/replication", params(("bucket", description = "bucket")),
    responses((status = 200, body = Envelope<Bucket>), (status = 404, body = ErrorBody)))]
pub async fn replicate_no_more(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Part(name): Part<String>,
) -> Result<Response, ApiError> {
    let changed = objects(&agent)?.replicate(&name, None).await.map_err(wrong)?;
    let sight = agent.sight();
    noted(&agent, &sight, &caller, &name, format!("bucket {name} is copied elsewhere no more")).await;
    Ok(answer(&sight, buckets::bucket(&sight, changed)))
}

/// Removes a bucket in which nothing is.
#[utoipa::path(delete, path = "/v1/buckets/{bucket}", params(("bucket", description = "bucket")),
    responses((status = 200, body = Envelope<Changed>), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub async fn remove(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Part(name): Part<String>,
) -> Result<Response, ApiError> {
    refuse_wanted(&agent.sight(), &name)?;
    objects(&agent)?.remove(&name).await.map_err(wrong)?;
    let sight = agent.sight();
    noted(&agent, &sight, &caller, &name, format!("bucket {name} was removed")).await;
    let (did, undo) = (format!("removed bucket {name}"), Some(format!("hirsel bucket create {name}")));
    Ok(answer(&sight, Changed { did, undo, index: sight.state.applied.0 }))
}

/// How far each node that keeps data is with its audit, and what the last one counted.
#[utoipa::path(get, path = "/v1/storage/audit", responses((status = 200, body = Envelope<Vec<NodeAudit>>), (status = 503, body = ErrorBody)))]
pub async fn audits(State(agent): State<AgentState>) -> Result<Response, ApiError> {
    let told = objects(&agent)?.audits(Ask::Known).await;
    let sight = agent.sight();
    Ok(answer(&sight, storage::audits(&sight, told)))
}

/// Has each node that keeps data audit it now: the next audit of each is the one that was asked for.
#[utoipa::path(post, path = "/v1/storage/audit", responses((status = 200, body = Envelope<Vec<NodeAudit>>), (status = 503, body = ErrorBody)))]
pub async fn audit(State(agent): State<AgentState>) -> Result<Response, ApiError> {
    let told = objects(&agent)?.audits(Ask::Again).await;
    let sight = agent.sight();
    Ok(answer(&sight, storage::audits(&sight, told)))
}

/// How far each node that keeps data is with reading all of it.
#[utoipa::path(get, path = "/v1/storage/scrub", responses((status = 200, body = Envelope<Vec<NodeScrub>>), (status = 503, body = ErrorBody)))]
pub async fn scrubs(State(agent): State<AgentState>) -> Result<Response, ApiError> {
    let told = objects(&agent)?.scrubs(Ask::Known).await;
    let sight = agent.sight();
    Ok(answer(&sight, storage::scrubs(&sight, told)))
}

/// Has each node that keeps data read all of it now: the next pass of each is the one that was asked for.
#[utoipa::path(post, path = "/v1/storage/scrub", responses((status = 200, body = Envelope<Vec<NodeScrub>>), (status = 503, body = ErrorBody)))]
pub async fn scrub(State(agent): State<AgentState>) -> Result<Response, ApiError> {
    let told = objects(&agent)?.scrubs(Ask::Again).await;
    let sight = agent.sight();
    Ok(answer(&sight, storage::scrubs(&sight, told)))
}

/// Why an object is as it is: `BUCKET/KEY`, or `s3://BUCKET/KEY` where the cluster has something else of that name. None where it is no object,
/// or nothing is stored at all.
pub async fn why(agent: &AgentState, sight: &Sight, thing: &str) -> Result<Option<Why>, ApiError> {
    let said = thing.strip_prefix("s3://").or_else(|| thing.strip_prefix("object/"));
    let Some((bucket, key)) = said.unwrap_or(thing).split_once('/').filter(|(_, key)| !key.is_empty()) else {
        return Ok(None);
    };
    // Whoever asks has objects founded, and a question about something else shall not.
    if sight.state.plan.storage.is_empty() {
        return Ok(None);
    }
    match objects(agent)?.layout(bucket, key).await {
        Ok(found) => Ok(Some(layout::why(sight, bucket, key, &found))),
        Err(error) if said.is_none() && matches!(error.fault, Fault::NotFound | Fault::Argument) => Ok(None),
        Err(error) => Err(wrong(error)),
    }
}

/// Writes an object: the body of the request, of any length up to 5 GiB.
#[utoipa::path(put, path = "/v1/objects/{bucket}/{key}", params(("bucket", description = "bucket"), ("key", description = "key, which may have slashes")),
    request_body(content = String, content_type = "application/octet-stream", description = "the object"),
    responses((status = 200, body = Envelope<Stored>), (status = 404, body = ErrorBody)))]
pub async fn put(
    State(agent): State<AgentState>,
    Part((bucket, key)): Part<(String, String)>,
    request: Request,
) -> Result<Response, ApiError> {
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok().map(str::to_owned));
    let body = request.into_body().into_data_stream();
    let body = Box::pin(body.map_err(|error| error.to_string()));
    let new = NewObject { bucket: bucket.clone(), key: key.clone(), content_type, body };
    let written = objects(&agent)?.put(new).await.map_err(wrong)?;
    Ok(answer(&agent.sight(), buckets::stored(bucket, key, written)))
}

/// Reads an object.
#[utoipa::path(get, path = "/v1/objects/{bucket}/{key}", params(("bucket", description = "bucket"), ("key", description = "key, which may have slashes")),
    responses((status = 200, description = "the object", content_type = "application/octet-stream"), (status = 404, body = ErrorBody)))]
pub async fn get(
    State(agent): State<AgentState>,
    Part((bucket, key)): Part<(String, String)>,
) -> Result<Response, ApiError> {
    let found = objects(&agent)?.get(&bucket, &key).await.map_err(wrong)?;
    // Who reads it knows by its length whether it came whole.
    let mut response = Response::new(Body::from_stream(found.body.map_err(io::Error::other)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(found.bytes));
    let text = found.content_type.as_deref().unwrap_or("application/octet-stream");
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("application/octet-stream")),
    );
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{}\"", found.etag)) {
        headers.insert(ETAG, etag);
    }
    Ok(response)
}

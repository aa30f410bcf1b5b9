//! Buckets and single objects for people, who ask through the agent: what `hirsel bucket` and `hirsel cp` stand on.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use hirsel_model::WallTime;
use hirsel_role::assets::Asset;
use hirsel_role::peers::Peers;
use hirsel_role::storage::{
    Ask, Auditing, Bucket, BucketChange, Fault, Found, Layout, NewBucket, NewObject, NewReplication, Objects, Pieces,
    Replication, Safety, Scrubbing, StorageError, Stored, Told, Usage,
};

use crate::assets;
use crate::gateway::{Body, Gateway, WriteError};
use crate::heal::{audit, upkeep};
use crate::meta::access::MetaError;
use crate::meta::command::{Answer, BucketChange as Change, By, Command, Condition, Put};
use crate::meta::kinds::{self, About, Acl, Class, Quota, Versioning};
use crate::meta::names::{BucketName, NameError, ObjectKey};
use crate::meta::query::{QUESTIONS_MAX, Query, Replicated, Reply};
use crate::meta::refusal::Refusal;
use crate::replicate::secret;
use crate::replicate::there;
use crate::s3::Front;

mod layout;

/// Buckets that are told at once, each with what is in it: some dozens of milliseconds of work.
const PAGE: usize = 10 * QUESTIONS_MAX;
/// The header that says what an object is.
const CONTENT_TYPE: &str = "content-type";

/// All objects, for people.
pub struct People {
    gateway: Gateway,
    front: Front,
    peers: Arc<dyn Peers>,
}

impl People {
    /// Through the gateway of this front, in whose region buckets are made; other nodes that keep data are asked through `peers`.
    pub fn new(front: Front, peers: Arc<dyn Peers>) -> Arc<Self> {
        Arc::new(Self { gateway: front.gateway.clone(), front, peers })
    }

    async fn create_now(&self, new: NewBucket) -> Result<Bucket, StorageError> {
        let NewBucket { name, owner, safety, quota, versioning } = new;
        let made = bucket_name(&name)?;
        let command = Command::CreateBucket {
            name: made,
            owner: owner.to_string(),
            region: self.front.region.to_string(),
            lockable: false,
            acl: Acl::default(),
            class: safety.map(class).unwrap_or_default(),
        };
        self.gateway.ask(command).await.map_err(meta)?;
        let quota = quota.map(Some);
        let change = BucketChange { safety: None, quota, versioning: versioning.then_some(true) };
        if change == BucketChange::default() {
            return self.about(&name).await;
        }
        let half = |error: StorageError| {
            let message = format!("the bucket was made, and is not as it should be: {}", error.message);
            StorageError { message, ..error }
        };
        self.change_now(&name, change).await.map_err(half)
    }

    async fn change_now(&self, name: &str, change: BucketChange) -> Result<Bucket, StorageError> {
        let BucketChange { safety, quota, versioning } = change;
        let before = self.about_bucket(name).await?.0;
        // How many objects may be in it is set by no verb, and stays.
        let quota = quota.map(|bytes| Change::Quota(Quota { bytes, ..before.quota }));
        let safety = safety.map(|safety| Change::Class(class(safety), before.when_short));
        let versioning = versioning.map(|on| match (on, before.versioning) {
            (true, _) => Versioning::On,
            (false, Versioning::Off) => Versioning::Off,
            (false, Versioning::On | Versioning::Suspended) => Versioning::Suspended,
        });
        let versioning = versioning.filter(|wanted| *wanted != before.versioning).map(Change::Versioning);
        for change in [safety, quota, versioning].into_iter().flatten() {
            self.gateway.ask(Command::SetBucket { name: bucket_name(name)?, change }).await.map_err(meta)?;
        }
        self.about(name).await
    }

    async fn replicate_now(&self, name: &str, to: Option<NewReplication>) -> Result<Bucket, StorageError> {
        let target = to.map(|to| self.target(to)).transpose()?.map(Box::new);
        let change = Change::Replication(target);
        self.gateway.ask(Command::SetBucket { name: bucket_name(name)?, change }).await.map_err(meta)?;
        self.about(name).await
    }

    fn target(&self, to: NewReplication) -> Result<kinds::Target, StorageError> {
        let NewReplication { endpoint, region, bucket, prefix, key_id, secret } = to;
        let wrong = |words: String| fault(Fault::Argument, "InvalidArgument", words);
        there::endpoint(&endpoint).map_err(wrong)?;
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        for (what, word) in [("bucket", &bucket), ("region", &region), ("id of an access key", &key_id)] {
            if word.is_empty() || !word.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c)) {
                return Err(wrong(format!("{word:.80?} is no {what} of an S3")));
            }
        }
        if secret.0.is_empty() || secret.0.len() > secret::SECRET_BYTES_MAX {
            let (bytes, most) = (secret.0.len(), secret::SECRET_BYTES_MAX);
            return Err(wrong(format!("a secret of {bytes} bytes, 1 to {most} are")));
        }
        let words = || "the cluster has no key to seal the secret with yet".to_owned();
        let unready = || fault(Fault::Unavailable, "ServiceUnavailable", words());
        let (version, master) = self.front.keys.encrypts().ok_or_else(unready)?;
        let sealed = secret::seal(&secret, (version, &master), self.gateway.chance());
        let secret = sealed.map_err(|error| fault(Fault::Failed, "InternalError", error.to_string()))?;
        Ok(kinds::Target { endpoint, region, bucket, prefix, key_id, secret })
    }

    async fn about(&self, name: &str) -> Result<Bucket, StorageError> {
        let questions = vec![Query::Usage(bucket_name(name)?), Query::Replication(bucket_name(name)?)];
        let mut replies = self.gateway.look_all(questions).await.map_err(meta)?.into_iter();
        match (replies.next(), replies.next()) {
            (Some(Ok(Reply::Usage(bucket, usage))), Some(Ok(Reply::Replication(replicated)))) => {
                Ok(told(name, (bucket, usage), replicated, self.gateway.wall()))
            }
            (Some(Err(refusal)), _) | (_, Some(Err(refusal))) => Err(meta(refusal.into())),
            _ => Err(strange()),
        }
    }

    async fn about_bucket(&self, name: &str) -> Result<(kinds::Bucket, kinds::Usage), StorageError> {
        match self.gateway.look(Query::Usage(bucket_name(name)?)).await.map_err(meta)? {
            Reply::Usage(bucket, usage) => Ok((bucket, usage)),
            _ => Err(strange()),
        }
    }

    async fn page(&self, after: Option<&str>) -> Result<(Vec<Bucket>, bool), StorageError> {
        let after = after.map(bucket_name).transpose()?;
        let query = Query::Buckets { owner: None, prefix: String::new(), after, max: PAGE };
        let Reply::Buckets(named, more) = self.gateway.look(query).await.map_err(meta)? else { return Err(strange()) };
        let mut page = Vec::with_capacity(named.len());
        for some in named.chunks(QUESTIONS_MAX / 2) {
            let both = |one: &kinds::Named| [Query::Usage(one.name.clone()), Query::Replication(one.name.clone())];
            let replies = self.gateway.look_all(some.iter().flat_map(both).collect()).await.map_err(meta)?;
            for (one, replies) in some.iter().zip(replies.chunks(2)) {
                match replies {
                    [Ok(Reply::Usage(bucket, usage)), Ok(Reply::Replication(replicated))] => {
                        let (bucket, usage) = (bucket.clone(), *usage);
                        page.push(told(one.name.as_str(), (bucket, usage), replicated.clone(), self.gateway.wall()));
                    }
                    // It was removed between the two questions; its name still says how far the page goes.
                    [Err(Refusal::NoSuchBucket), ..] => {}
                    [Err(refusal), ..] | [_, Err(refusal)] => return Err(meta(refusal.clone().into())),
                    _ => return Err(strange()),
                }
            }
        }
        Ok((page, more))
    }

    async fn write(&self, new: NewObject) -> Result<Stored, StorageError> {
        let NewObject { bucket, key, content_type, mut body } = new;
        let (name, key) = (bucket_name(&bucket)?, object_key(key)?);
        let (there, _) = self.about_bucket(&bucket).await?;
        let mut writer = self.gateway.writer(there.class, there.when_short);
        let mut hasher = blake3::Hasher::new();
        while let Some(piece) = writer.next_of(&mut body).await.map_err(unwritten)? {
            let cut = |why| fault(Fault::Failed, "IncompleteBody", format!("the object did not come whole: {why}"));
            let piece = piece.map_err(cut)?;
            hasher.update(&piece);
            writer.push(piece).await.map_err(unwritten)?;
        }
        let bytes = writer.bytes();
        let body = writer.finish().await.map_err(unwritten)?;
        let headers: BTreeMap<_, _> = content_type.map(|is| (CONTENT_TYPE.to_owned(), is)).into_iter().collect();
        let put = Put {
            bucket: name,
            key,
            body,
            etag: etag(&hasher),
            checksum: None,
            about: About { headers, ..About::default() },
            lock: None,
            condition: Condition::default(),
            by: By::Put,
        };
        match self.gateway.ask(Command::Put(Box::new(put))).await.map_err(meta)? {
            Answer::Made(made) => {
                Ok(Stored { bytes, etag: made.etag, version: made.version.map(|version| version.to_string()) })
            }
            _ => Err(strange()),
        }
    }

    async fn read(&self, bucket: &str, key: &str) -> Result<Found, StorageError> {
        let (bucket, key) = (bucket_name(bucket)?, object_key(key.to_owned())?);
        let query = Query::Version { bucket, key, version: None, from: 0 };
        let Reply::Version(found) = self.gateway.look(query).await.map_err(meta)? else { return Err(strange()) };
        let object = found.version.object.as_deref().ok_or_else(|| meta(Refusal::NoSuchKey.into()))?;
        if object.about.sealed.is_some() {
            let words = "the object is encrypted, and is given to clients of S3 only".to_owned();
            return Err(fault(Fault::Conflict, "InvalidObjectState", words));
        }
        let (bytes, etag) = (object.bytes, object.etag.clone());
        let content_type = object.about.headers.get(CONTENT_TYPE).cloned();
        let body = pieces(self.gateway.read(object, found.pieces, 0, bytes));
        Ok(Found { bytes, etag, content_type, body })
    }
}

impl Objects for People {
    fn create<'a>(&'a self, new: NewBucket) -> BoxFuture<'a, Result<Bucket, StorageError>> {
        self.create_now(new).boxed()
    }

    fn list<'a>(&'a self, after: Option<&'a str>) -> BoxFuture<'a, Result<(Vec<Bucket>, bool), StorageError>> {
        self.page(after).boxed()
    }

    fn bucket<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Bucket, StorageError>> {
        self.about(name).boxed()
    }

    fn change<'a>(&'a self, name: &'a str, change: BucketChange) -> BoxFuture<'a, Result<Bucket, StorageError>> {
        self.change_now(name, change).boxed()
    }

    fn replicate<'a>(
        &'a self,
        name: &'a str,
        to: Option<NewReplication>,
    ) -> BoxFuture<'a, Result<Bucket, StorageError>> {
        self.replicate_now(name, to).boxed()
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), StorageError>> {
        async move {
            let command = Command::DeleteBucket { name: bucket_name(name)? };
            self.gateway.ask(command).await.map(drop).map_err(meta)
        }
        .boxed()
    }

    fn put<'a>(&'a self, new: NewObject) -> BoxFuture<'a, Result<Stored, StorageError>> {
        self.write(new).boxed()
    }

    fn get<'a>(&'a self, bucket: &'a str, key: &'a str) -> BoxFuture<'a, Result<Found, StorageError>> {
        self.read(bucket, key).boxed()
    }

    fn layout<'a>(&'a self, bucket: &'a str, key: &'a str) -> BoxFuture<'a, Result<Layout, StorageError>> {
        async move {
            let (bucket, key) = (bucket_name(bucket)?, object_key(key.to_owned())?);
            layout::layout(self, bucket, key).await
        }
        .boxed()
    }

    fn audits(&self, ask: Ask) -> BoxFuture<'_, Told<Auditing>> {
        audit::ask(&*self.peers, self.gateway.keepers(), what(ask)).boxed()
    }

    fn scrubs(&self, ask: Ask) -> BoxFuture<'_, Told<Scrubbing>> {
        upkeep::ask(&*self.peers, self.gateway.keepers(), what(ask)).boxed()
    }

    fn asset<'a>(&'a self, bucket: &'a str, key: &'a str) -> BoxFuture<'a, Result<Asset, StorageError>> {
        assets::find(&self.gateway, bucket, key).boxed()
    }
}

fn what(ask: Ask) -> u8 {
    match ask {
        Ask::Known => audit::LAST,
        Ask::Again => audit::AGAIN,
    }
}

/// By what an object is told from others. No MD5, so it has the shape of one that clients do not compare with one.
fn etag(of: &blake3::Hasher) -> String {
    let hash = of.finalize().to_hex();
    format!("{}-1", &hash[..32])
}

fn told(
    name: &str,
    (bucket, usage): (kinds::Bucket, kinds::Usage),
    replicated: Option<Box<Replicated>>,
    now: WallTime,
) -> Bucket {
    Bucket {
        replication: replicated.map(|replicated| replication(*replicated, now)),
        name: name.to_owned(),
        owner: bucket.owner,
        made: bucket.made,
        safety: safety(bucket.class),
        quota: bucket.quota.bytes,
        versioning: bucket.versioning == Versioning::On,
        usage: Usage {
            objects: usage.objects,
            versions: usage.noncurrent + usage.markers,
            bytes: usage.bytes,
            uploads: usage.uploads,
            upload_bytes: usage.part_bytes,
        },
    }
}

fn replication(replicated: Replicated, now: WallTime) -> Replication {
    let Replicated { replication, replicating, oldest } = replicated;
    let kinds::Target { endpoint, region, bucket, prefix, key_id, secret: _ } = replication.target;
    Replication {
        endpoint,
        region,
        bucket,
        prefix,
        key_id,
        finding: replicating.found.is_some(),
        due: replicating.due,
        cannot: replicating.cannot,
        lag_ms: oldest.map_or(0, |oldest| now.0.saturating_sub(oldest.0)),
        failing: replicating.failing.map(|failing| (failing.since, failing.words)),
    }
}

fn safety(class: Class) -> Safety {
    match class {
        Class::Copies(copies) => Safety::Copies(copies),
        Class::Erasure(data, parity) => Safety::Erasure(data, parity),
    }
}

pub(crate) fn class(safety: Safety) -> Class {
    match safety {
        Safety::Copies(copies) => Class::Copies(copies),
        Safety::Erasure(data, parity) => Class::Erasure(data, parity),
    }
}

pub(crate) fn pieces(body: Body) -> Pieces {
    let next = |mut body: Body| async move {
        let piece: Option<Bytes> = body.next().await?;
        Ok(piece.map(|piece| (piece, body)))
    };
    Box::pin(futures::stream::try_unfold(body, next))
}

pub(crate) fn bucket_name(name: &str) -> Result<BucketName, StorageError> {
    BucketName::new(name).map_err(|NameError(words)| fault(Fault::Argument, "InvalidBucketName", words))
}

pub(crate) fn object_key(key: String) -> Result<ObjectKey, StorageError> {
    ObjectKey::new(key).map_err(|NameError(words)| fault(Fault::Argument, "InvalidArgument", words))
}

pub(crate) fn fault(fault: Fault, code: &str, message: String) -> StorageError {
    StorageError { fault, code: code.into(), message }
}

pub(crate) fn strange() -> StorageError {
    fault(Fault::Failed, "InternalError", "the metadata answer something else than was asked".into())
}

pub(crate) fn meta(error: MetaError) -> StorageError {
    let message = error.to_string();
    match error {
        MetaError::Refused(refusal) => {
            let of = match refusal.status() {
                404 => Fault::NotFound,
                403 => Fault::Refused,
                405 | 409 | 412 => Fault::Conflict,
                400 => Fault::Argument,
                // Another try is placed anew.
                _ => Fault::Unavailable,
            };
            fault(of, refusal.code(), message)
        }
        MetaError::Unreachable(_) => fault(Fault::Unavailable, "ServiceUnavailable", message),
        MetaError::Unknown => fault(Fault::Unknown, "ServiceUnavailable", message),
    }
}

fn unwritten(error: WriteError) -> StorageError {
    let message = error.to_string();
    match error {
        WriteError::Meta(error) => meta(error),
        WriteError::TooLarge => fault(Fault::Argument, "EntityTooLarge", message),
        WriteError::Busy => fault(Fault::Unavailable, "SlowDown", message),
        WriteError::TooFew { .. } => fault(Fault::Unavailable, "ServiceUnavailable", message),
        WriteError::Full(_) => fault(Fault::Failed, "InsufficientStorage", message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_its_code_and_says_what_kind_it_is_of() {
        let of = |refusal: Refusal| {
            let told = meta(refusal.into());
            (told.fault, told.code)
        };
        assert_eq!(of(Refusal::NoSuchBucket), (Fault::NotFound, "NoSuchBucket".into()));
        assert_eq!(of(Refusal::BucketNotEmpty), (Fault::Conflict, "BucketNotEmpty".into()));
        assert_eq!(of(Refusal::Quota("10 bytes".into())), (Fault::Refused, "QuotaExceeded".into()));
        assert_eq!(of(Refusal::Argument("no".into())), (Fault::Argument, "InvalidArgument".into()));
        assert_eq!(of(Refusal::NotOpen).0, Fault::Unavailable);
        assert_eq!(meta(MetaError::Unknown).fault, Fault::Unknown);
        assert_eq!(bucket_name("A").unwrap_err().code, "InvalidBucketName");
    }

    #[test]
    fn an_etag_of_ours_is_none_that_clients_compare_with_an_md5() {
        let of = |bytes: &[u8]| etag(blake3::Hasher::new().update(bytes));
        assert_eq!(of(b"one").len(), 34);
        assert!(of(b"one").ends_with("-1") && of(b"one") != of(b"two"));
    }
}

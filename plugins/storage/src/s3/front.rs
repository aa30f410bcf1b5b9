//! What every operation stands on: the gateway, the keys, and the one door to buckets and objects, at which is asked who may.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;
use s3s::S3Request;

use super::access::{Action, Caller};
use super::decision::{Remote, Told, rules_of, told};
use super::error::{Done, argument, bad_bucket, error, failed, strange};
use super::keys::Keys;
use crate::gateway::Gateway;
use crate::meta::access::MetaError;
use crate::meta::command::{Answer, Command};
use crate::meta::kinds::Bucket;
use crate::meta::names::{BucketName, ObjectKey, UploadId, VersionRef};
use crate::meta::query::{Found, Query, Reply};
use crate::meta::refusal::Refusal;

/// By this a client says whose it takes the bucket for.
pub(super) const EXPECTED_OWNER: &str = "x-amz-expected-bucket-owner";

/// Objects as clients of S3 see them.
#[derive(Clone)]
pub struct Front {
    pub(crate) gateway: Gateway,
    pub(crate) keys: Keys,
    /// Where clients are told that buckets are.
    pub(crate) region: Arc<str>,
}

/// Who asks what, before it is known whether they may.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Who.
    pub caller: Caller,
    /// The headers of the request.
    pub headers: HeaderMap,
    /// The query of the request, as it came.
    pub query: String,
    /// From where, if it is known.
    pub remote: Option<IpAddr>,
    /// What buckets say about access, once it was looked up.
    told: Arc<Mutex<BTreeMap<BucketName, Arc<Told>>>>,
}

impl Asked {
    pub(super) fn known(&self, bucket: &BucketName) -> Option<Arc<Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).get(bucket).cloned()
    }

    pub(super) fn remember(&self, bucket: &BucketName, told: Arc<Told>) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(bucket.clone(), told);
    }
}

impl Asked {
    /// Somebody who asks without a name.
    pub(crate) fn anonymous(headers: HeaderMap, remote: Option<IpAddr>) -> Self {
        Self { caller: Caller::Anonymous, headers, query: String::new(), remote, told: Arc::default() }
    }

    /// The same, as it is asked of the bucket that is copied from.
    pub(crate) fn of_source(&self) -> Self {
        let mut asked = self.clone();
        asked.headers.remove(EXPECTED_OWNER);
        if let Some(owner) = self.headers.get("x-amz-source-expected-bucket-owner") {
            asked.headers.insert(EXPECTED_OWNER, owner.clone());
        }
        asked
    }
}

impl Front {
    /// Objects of `gateway` for whoever has one of `keys`.
    pub fn new(gateway: Gateway, keys: Keys, region: &str) -> Self {
        Self { gateway, keys, region: region.into() }
    }

    /// Who asks.
    pub(crate) fn asked<T>(&self, request: &S3Request<T>) -> Asked {
        let caller = match &request.credentials {
            None => Caller::Anonymous,
            Some(shown) => match self.keys.known(&shown.access_key) {
                Some((owner, may)) => Caller::Known { key: shown.access_key.clone(), owner, may },
                // It was taken back since it was looked at.
                None => Caller::Anonymous,
            },
        };
        let query = request.uri.query().unwrap_or_default().to_owned();
        let remote = request.extensions.get::<Remote>().map(|remote| remote.0);
        Asked { caller, headers: request.headers.clone(), query, remote, told: Arc::default() }
    }

    pub(crate) async fn ask(&self, command: Command) -> Done<Answer> {
        self.gateway.ask(command).await.map_err(failed)
    }

    pub(crate) async fn look(&self, query: Query) -> Done<Reply> {
        self.gateway.look(query).await.map_err(failed)
    }

    /// The answer to a question about a bucket, or something in it. What the bucket says of who may comes with it, if it is not known yet, so
    /// that both take one round trip.
    async fn look_in(&self, asked: &Asked, name: &BucketName, query: Query) -> Result<Reply, MetaError> {
        if asked.known(name).is_some() {
            return self.gateway.look(query).await;
        }
        let mut replies = self.gateway.look_all([vec![query], rules_of(name)].concat()).await?.into_iter();
        let reply = replies.next().unwrap_or_else(|| Err(Refusal::Argument("no question was answered".into())))?;
        // What cannot be read is told to whoever asks for it.
        if let Ok(told) = told(name, replies) {
            asked.remember(name, Arc::new(told));
        }
        Ok(reply)
    }

    async fn bucket_in(&self, asked: &Asked, name: &BucketName) -> Done<Bucket> {
        match self.look_in(asked, name, Query::Bucket(name.clone())).await.map_err(failed)? {
            Reply::Bucket(bucket) => Ok(bucket),
            _ => Err(strange()),
        }
    }

    /// A bucket, for whoever may do this to it.
    pub(crate) async fn bucket(&self, asked: &Asked, action: Action, name: &str) -> Done<(BucketName, Bucket)> {
        let name = BucketName::new(name).map_err(|error| bad_bucket(&error))?;
        let bucket = self.bucket_in(asked, &name).await?;
        self.admit(asked, action, &name, &bucket, None).await?;
        Ok((name, bucket))
    }

    /// A bucket, and a key in it that need not be there, for whoever may do this to it.
    pub(crate) async fn place(
        &self,
        asked: &Asked,
        action: Action,
        at: (&str, &str),
    ) -> Done<(BucketName, ObjectKey, Bucket)> {
        let key = key(at.1)?;
        let name = BucketName::new(at.0).map_err(|error| bad_bucket(&error))?;
        let bucket = self.bucket_in(asked, &name).await?;
        self.admit(asked, action, &name, &bucket, Some((key.as_str(), None))).await?;
        Ok((name, key, bucket))
    }

    /// A version of a key, marker or object, for whoever may do this to it; its pieces begin with byte `from`.
    pub(crate) async fn version(
        &self,
        asked: &Asked,
        action: Action,
        at: (&str, &str),
        version: Option<VersionRef>,
        from: u64,
    ) -> Done<Box<Found>> {
        let key = key(at.1)?;
        let bucket = BucketName::new(at.0).map_err(|error| bad_bucket(&error))?;
        let query = Query::Version { bucket: bucket.clone(), key: key.clone(), version, from };
        match self.look_in(asked, &bucket, query).await {
            Ok(Reply::Version(found)) => {
                let object = found.version.object.as_deref();
                self.admit(asked, action, &bucket, &found.bucket, Some((key.as_str(), object))).await?;
                Ok(found)
            }
            Ok(_) => Err(strange()),
            Err(MetaError::Refused(missing @ (Refusal::NoSuchKey | Refusal::NoSuchVersion))) => {
                // Who may not see what is there is not told what is not there.
                let there = self.bucket_in(asked, &bucket).await?;
                self.admit(asked, action, &bucket, &there, Some((key.as_str(), None))).await?;
                Err(super::error::refused(&missing))
            }
            Err(error) => Err(failed(error)),
        }
    }
}

/// A key as a client wrote it.
pub(crate) fn key(key: &str) -> Done<ObjectKey> {
    ObjectKey::new(key).map_err(|problem| match key.is_empty() {
        true => argument(problem.to_string()),
        false => error("KeyTooLongError", problem.to_string()),
    })
}

/// A version as a client wrote it; an empty one is none.
pub(crate) fn version(id: Option<&str>) -> Done<Option<VersionRef>> {
    match id {
        None | Some("") => Ok(None),
        Some(id) => id.parse().map(Some).map_err(|_| argument("invalid version id specified")),
    }
}

/// An upload as a client wrote it.
pub(crate) fn upload(id: &str) -> Done<UploadId> {
    id.parse().map_err(|_| super::error::refused(&Refusal::NoSuchUpload))
}

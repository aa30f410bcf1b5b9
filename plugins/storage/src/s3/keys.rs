//! Access keys: whose they are, what they may do at most, and the secret that a request is signed with.

use std::sync::Arc;

use hirsel_model::access::{AccessKeyId, May};
use hirsel_role::access::AccessKeys;
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};
use tokio::sync::watch;

/// All access keys, as they are now.
#[derive(Clone)]
pub struct Keys(watch::Receiver<Arc<AccessKeys>>);

impl Keys {
    /// Those that are told here.
    pub fn new(told: watch::Receiver<Arc<AccessKeys>>) -> Self {
        Self(told)
    }

    /// To whom belongs what is made with this key, and what it may do at most; none if there is no such key.
    pub fn known(&self, id: &str) -> Option<(String, May)> {
        let id: AccessKeyId = id.parse().ok()?;
        self.0.borrow().keys.get(&id).map(|key| (key.account.to_string(), key.may.clone()))
    }

    /// Whether somebody of this name has an access key.
    pub fn is_owner(&self, name: &str) -> bool {
        self.0.borrow().keys.values().any(|key| key.account.as_str() == name)
    }

    /// With what is encrypted now: the newest of the cluster's keys, with its version.
    pub fn encrypts(&self) -> Option<(u64, [u8; 32])> {
        self.0.borrow().encrypts().map(|(version, key)| (version, key.0))
    }

    /// The cluster's key of this version.
    pub fn master(&self, version: u64) -> Option<[u8; 32]> {
        self.0.borrow().master.get(&version).map(|key| key.0)
    }
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let id = access_key.parse::<AccessKeyId>().ok();
        let secret = id.and_then(|id| self.0.borrow().keys.get(&id).map(|key| SecretKey::from(key.secret.0.as_str())));
        secret.ok_or_else(|| s3_error!(InvalidAccessKeyId, "there is no such access key"))
    }
}

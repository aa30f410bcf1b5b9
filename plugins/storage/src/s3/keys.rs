//! Access keys: whose they are, and the secret that a request is signed with.

use std::collections::BTreeMap;
use std::sync::Arc;

use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};
use tokio::sync::watch;

/// One access key.
#[derive(Clone)]
pub struct Key {
    /// What signs.
    pub secret: String,
    /// To whom belongs what is made with it.
    pub owner: String,
}

/// All access keys, as they are now.
#[derive(Clone)]
pub struct Keys(watch::Receiver<Arc<BTreeMap<String, Key>>>);

impl Keys {
    /// Those that are told here.
    pub fn new(told: watch::Receiver<Arc<BTreeMap<String, Key>>>) -> Self {
        Self(told)
    }

    /// To whom belongs what is made with this key; none if there is no such key.
    pub fn owner(&self, id: &str) -> Option<String> {
        self.0.borrow().get(id).map(|key| key.owner.clone())
    }
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match self.0.borrow().get(access_key) {
            Some(key) => Ok(SecretKey::from(key.secret.as_str())),
            None => Err(s3_error!(InvalidAccessKeyId, "there is no such access key")),
        }
    }
}

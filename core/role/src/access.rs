//! Who may ask the object store for something, with secrets, which are in memory only and which nothing prints; and the keys with which
//! it encrypts what is stored.

use std::collections::BTreeMap;
use std::fmt;

use hirsel_model::access::{AccessKeyId, MASTER_KEY_BYTES, May};
use hirsel_model::{AccountName, AppName};

use crate::secret::Plain;

/// One access key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessKey {
    /// A number that no other key of the cluster ever has.
    pub version: u64,
    /// For whom it acts.
    pub account: AccountName,
    /// What it may do.
    pub may: May,
    /// With what requests are signed.
    pub secret: Plain,
}

/// A key from which others are derived that encrypt what is stored (SSE-S3). Nothing prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey(pub [u8; MASTER_KEY_BYTES]);

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

/// All that a node knows of access keys and master keys, as far as it has come: every node is told the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessKeys {
    /// The access keys.
    pub keys: BTreeMap<AccessKeyId, AccessKey>,
    /// The master keys, by version. What is stored says with which one it was encrypted; none is ever forgotten.
    pub master: BTreeMap<u64, MasterKey>,
    /// Which of the access keys is an application's own.
    pub apps: BTreeMap<AppName, AccessKeyId>,
}

impl AccessKeys {
    /// The access key of an application, as far as it has come.
    pub fn of(&self, app: &AppName) -> Option<(&AccessKeyId, &AccessKey)> {
        let id = self.apps.get(app)?;
        Some((id, self.keys.get(id)?))
    }

    /// With what is encrypted now: the newest master key, and its version. None while none has come yet.
    pub fn encrypts(&self) -> Option<(u64, &MasterKey)> {
        self.master.last_key_value().map(|(version, key)| (*version, key))
    }
}

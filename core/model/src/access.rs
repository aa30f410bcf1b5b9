//! Access keys: who may ask the object store for something, and what. And the master keys with which it encrypts what is stored.
//!
//! An access key is what S3 calls one: an id that everybody may see, and a secret with which requests are signed. So the secret itself is
//! needed wherever a signature is checked, which is every node, because every node answers; the control state keeps it sealed. It is
//! drawn by the cluster, told to whoever asked for the key, once, and never changed: who wants another secret makes another key.
//!
//! Master keys are drawn by the leader, the first one as soon as somebody stores, and are never forgotten: what is encrypted with one
//! would be lost. Both kinds have a version, a number that none of either kind ever has again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::control::ControlState;
use crate::id::*;
use crate::plan::InstanceAssignment;
use crate::secret::{SEAL_BYTES_MAX, Sealed};
use crate::spec::asks_for_key;
use crate::time::WallTime;

/// Characters of the id of an access key: as many as those of AWS have, which some clients count.
pub const ID_BYTES: usize = 20;
/// What ids begin with that are drawn here, so that a scanner for leaked keys can find them.
pub const ID_PREFIX: &str = "HIRS";
/// Characters of the secret of an access key: as many as those of AWS have.
pub const SECRET_BYTES: usize = 40;
/// Bytes of a master key: of AES-256.
pub const MASTER_KEY_BYTES: usize = 32;
/// Access keys of a cluster: one for each of a thousand applications. All are in memory on every node, and each costs about 300 bytes.
pub const KEYS_MAX: usize = 1_000;
/// Master keys of a cluster: another one each year, for a lifetime.
pub const MASTER_KEYS_MAX: usize = 64;
/// Patterns of buckets of one key.
pub const PATTERNS_MAX: usize = 32;
/// Longest description in bytes.
pub const ABOUT_BYTES_MAX: usize = 200;
/// Bytes of everything sealed that is kept here.
pub const SEALED_BYTES_MAX: usize =
    KEYS_MAX * (SECRET_BYTES + SEAL_BYTES_MAX) + MASTER_KEYS_MAX * (MASTER_KEY_BYTES + SEAL_BYTES_MAX);
/// What a master key is sealed for in the control state.
pub const MASTER_PURPOSE: &str = "master key of the object store";
/// Whose buckets are, where nobody says otherwise.
pub const ACCOUNT: &str = "main";
/// The feature level from which on access keys may be written.
pub const LEVEL: u32 = 2;

/// The id of an access key: 20 capital letters and digits, as S3 has them. It is no secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AccessKeyId(String);

/// A text that is no id of an access key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no access key id: it has {ID_BYTES} capital letters and digits")]
pub struct AccessKeyIdError(String);

impl AccessKeyId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AccessKeyId {
    type Err = AccessKeyIdError;
    fn from_str(text: &str) -> Result<Self, AccessKeyIdError> {
        let good = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit();
        if text.len() == ID_BYTES && text.bytes().all(good) {
            return Ok(Self(text.into()));
        }
        Err(AccessKeyIdError(text.chars().take(2 * ID_BYTES).collect()))
    }
}

impl TryFrom<String> for AccessKeyId {
    type Error = AccessKeyIdError;
    fn try_from(text: String) -> Result<Self, AccessKeyIdError> {
        text.parse()
    }
}

impl From<AccessKeyId> for String {
    fn from(id: AccessKeyId) -> String {
        id.0
    }
}

impl fmt::Display for AccessKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Some buckets: one by its name, or with `*` at the end all whose names begin so; `*` alone is all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BucketPattern(String);

/// A text that is no bucket, nor the beginning of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no bucket: use a-z, 0-9, '-' and '.', at most {NAME_BYTES_MAX} of them, and '*' only at the end")]
pub struct BucketPatternError(String);

impl BucketPattern {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// All buckets.
    pub fn all() -> Self {
        Self("*".into())
    }

    /// Whether `bucket` is one of these.
    pub fn covers(&self, bucket: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => bucket.starts_with(beginning),
            None => bucket == self.0,
        }
    }
}

impl FromStr for BucketPattern {
    type Err = BucketPatternError;
    fn from_str(text: &str) -> Result<Self, BucketPatternError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        let letters = text.strip_suffix('*').unwrap_or(text);
        if !text.is_empty() && letters.len() <= NAME_BYTES_MAX && letters.bytes().all(plain) {
            return Ok(Self(text.into()));
        }
        Err(BucketPatternError(text.chars().take(2 * NAME_BYTES_MAX).collect()))
    }
}

impl TryFrom<String> for BucketPattern {
    type Error = BucketPatternError;
    fn try_from(text: String) -> Result<Self, BucketPatternError> {
        text.parse()
    }
}

impl From<BucketPattern> for String {
    fn from(pattern: BucketPattern) -> String {
        pattern.0
    }
}

impl fmt::Display for BucketPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What an access key may do at most. What a bucket's policy denies it may not do all the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct May {
    /// With which buckets.
    pub buckets: BTreeSet<BucketPattern>,
    /// Whether it may only read and list.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    pub reads_only: bool,
    /// Whether it may make buckets, with names that it may use, and remove them.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    pub makes_buckets: bool,
}

/// Everything.
impl Default for May {
    fn default() -> Self {
        Self { buckets: [BucketPattern::all()].into(), reads_only: false, makes_buckets: true }
    }
}

impl May {
    /// Whether it may read what is in `bucket`, and list it.
    pub fn read(&self, bucket: &str) -> bool {
        self.buckets.iter().any(|pattern| pattern.covers(bucket))
    }

    /// Whether it may also change what is in `bucket`, and how the bucket is set up.
    pub fn write(&self, bucket: &str) -> bool {
        !self.reads_only && self.read(bucket)
    }

    /// Whether it may make and remove `bucket`.
    pub fn make(&self, bucket: &str) -> bool {
        self.makes_buckets && self.write(bucket)
    }
}

/// Access keys and master keys of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// Version of the access key or master key that was drawn last, whether or not it was removed.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    pub last: u64,
    /// The access keys. Each stands for itself, so that a new state shares them with the one before.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<AccessKeyId, Arc<AccessKey>>,
    /// The master keys, by version.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub master: BTreeMap<u64, MasterKey>,
    /// Which of the access keys is an application's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub apps: BTreeMap<AppName, AccessKeyId>,
}

/// One access key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessKey {
    /// A number that no other key of the cluster has.
    pub version: u64,
    /// When it was made.
    pub at: WallTime,
    /// For whom it acts.
    pub account: AccountName,
    /// What it may do.
    pub may: May,
    /// What people say it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// Its secret, sealed for [`purpose`].
    pub secret: Sealed,
}

/// One master key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MasterKey {
    /// When it was drawn.
    pub at: WallTime,
    /// It, sealed for [`MASTER_PURPOSE`].
    pub key: Sealed,
}

/// An access key that is to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewAccessKey {
    /// For whom it acts.
    pub account: AccountName,
    /// What it may do.
    pub may: May,
    /// What people say it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// Its secret, sealed for [`purpose`].
    pub sealed: Sealed,
    /// With which key.
    pub key: String,
}

/// What changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// An operator makes an access key.
    Create {
        /// Its id, which was drawn.
        id: AccessKeyId,
        /// It.
        new: NewAccessKey,
    },
    /// The leader drew the access key of an application, which may use the buckets of that one.
    CreateForApp {
        /// Whose.
        app: AppName,
        /// Its id, which was drawn.
        id: AccessKeyId,
        /// Its secret, sealed for [`purpose`].
        sealed: Sealed,
        /// With which key.
        key: String,
    },
    /// An operator takes one back, or nobody needs the one of an application any more.
    Remove {
        /// Which.
        id: AccessKeyId,
    },
    /// The leader drew a master key.
    DrawMaster {
        /// Version of the one it follows, 0 for none: another one there refuses it.
        base: u64,
        /// The key, sealed for [`MASTER_PURPOSE`].
        sealed: Sealed,
        /// With which key.
        key: String,
    },
}

/// What the secret of the access key `id` is sealed for: a secret that is put elsewhere does not open.
pub fn purpose(id: &AccessKeyId) -> String {
    format!("access key {id}")
}

impl Access {
    /// Version of the newest master key; 0 without any.
    pub fn newest_master(&self) -> u64 {
        self.master.keys().next_back().copied().unwrap_or_default()
    }

    /// Everything that is sealed, by version, with what it is sealed for.
    pub fn sealed(&self) -> impl Iterator<Item = (u64, String, &Sealed)> {
        let keys = self.keys.iter().map(|(id, it)| (it.version, purpose(id), &it.secret));
        keys.chain(self.master.iter().map(|(version, it)| (*version, MASTER_PURPOSE.to_owned(), &it.key)))
    }

    /// The same, to seal it anew.
    pub(crate) fn sealed_mut(&mut self) -> impl Iterator<Item = (u64, &mut Sealed)> {
        let keys = self.keys.values_mut().map(|it| {
            let it = Arc::make_mut(it);
            (it.version, &mut it.secret)
        });
        keys.chain(self.master.iter_mut().map(|(version, it)| (*version, &mut it.key)))
    }
}

/// Whether the leader shall draw a master key now: the first one, once there is somebody who stores, or who will.
pub fn master_is_due(state: &ControlState) -> bool {
    let cluster = &state.cluster;
    let stores = state.plan.roles.get(&RoleName::storage()).is_some_and(|slots| !slots.is_empty());
    cluster.feature_level >= LEVEL
        && !cluster.sealing.key.is_empty()
        && state.access.master.is_empty()
        && (stores || !state.access.keys.is_empty())
}

/// What the leader shall do next about the keys of applications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyStep {
    /// Draw the key of this one.
    Draw(AppName),
    /// Remove this one, with which nobody runs any more.
    Remove(AccessKeyId),
}

/// The next step, if any: an application that wants buckets has a key, and one that wants none loses it once no instance runs with it.
pub fn key_step(state: &ControlState) -> Option<KeyStep> {
    let wants = |app: &AppName| state.spec.apps.get(app).is_some_and(|spec| !spec.buckets.is_empty());
    let has_it = |(id, assigned): (&InstanceId, &InstanceAssignment)| {
        state.service(&id.app, &id.service, assigned.revision).is_none_or(asks_for_key)
    };
    let runs = |app: &AppName| state.plan.instances.iter().filter(|(id, _)| id.app == *app).any(has_it);
    let over = state.access.apps.iter().find(|(app, _)| !wants(app) && !runs(app));
    if let Some((_, id)) = over {
        return Some(KeyStep::Remove(id.clone()));
    }
    let can = !state.cluster.sealing.key.is_empty() && state.access.keys.len() < KEYS_MAX;
    let lacks = state.spec.apps.keys().find(|app| wants(app) && !state.access.apps.contains_key(*app));
    lacks.filter(|_| can).cloned().map(KeyStep::Draw)
}

/// Whether `node` may be told the keys: every member answers.
pub fn serves(state: &ControlState, node: NodeId) -> bool {
    state.spec.nodes.contains_key(&node)
}

#[cfg(test)]
mod tests;

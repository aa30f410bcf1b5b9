//! `[bucket.NAME]`: a bucket of the object store that an application wants to have.
//!
//! In the store it is called `APP-NAME`, for names are unique there, and its account is `app-APP`: what is there already and has another
//! account was made by somebody else, and is not taken. It is made and set up by whoever leads the metadata of the store, by what is
//! wanted and what is there. Nothing here ever removes one: what is in it is worth more than the line that asked for it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{AppSpec, Assets, BUCKET_BYTES_MAX, ServiceSpec, is_default};
use crate::access::BucketPattern;
use crate::id::{AccountName, AppName, BucketLabel, NAME_BYTES_MAX};
use crate::secret::variables;
use crate::storage::WIDTHS;

/// What accounts of applications begin with.
const ACCOUNT_PREFIX: &str = "app-";

/// How bodies are kept safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Safety {
    /// So many copies.
    Copies(u8),
    /// So many shards with data, and so many more, any of which may be lost.
    Erasure(u8, u8),
}

impl Default for Safety {
    fn default() -> Self {
        Self::Copies(3)
    }
}

impl Safety {
    /// Whether the store keeps bodies like this.
    pub fn is_kept(self) -> bool {
        matches!(self, Self::Copies(1..=3) | Self::Erasure(4, 2) | Self::Erasure(8, 3))
    }

    /// Of how many nodes the partitions are in which what is kept like this is ([`crate::storage::WIDTHS`]).
    pub fn nodes(self) -> u8 {
        match self {
            Self::Copies(_) => WIDTHS[0],
            Self::Erasure(data, parity) => data.saturating_add(parity),
        }
    }
}

impl fmt::Display for Safety {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copies(1) => f.write_str("1 copy"),
            Self::Copies(copies) => write!(f, "{copies} copies"),
            Self::Erasure(data, parity) => write!(f, "{data}+{parity}"),
        }
    }
}

/// What becomes of a write that cannot be kept as safe as the bucket says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenShort {
    /// It is taken with fewer pieces, and the rest is made later.
    #[default]
    Degrade,
    /// It is refused.
    Refuse,
}

/// A bucket as an application wants it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketSpec {
    /// How what is written to it is kept safe.
    #[serde(default, skip_serializing_if = "is_default")]
    pub safety: Safety,
    /// What becomes of a write that cannot be kept so.
    #[serde(default, skip_serializing_if = "is_default")]
    pub when_short: WhenShort,
    /// Bytes of all versions in it, at most; none for no limit.
    #[serde(default, skip_serializing_if = "is_default")]
    pub quota_bytes: Option<u64>,
    /// Whether versions are kept; none leaves it to the programs that use it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub versioning: Option<bool>,
    /// The path under which load balancers give what is in it to everybody. The routes that do are those of the application.
    #[serde(default, skip_serializing_if = "is_default")]
    pub public: Option<String>,
}

/// What the bucket `label` of `app` is called in the store.
pub fn store_name(app: &AppName, label: &BucketLabel) -> String {
    format!("{app}-{label}")
}

/// Why the bucket `label` of `app` cannot be; none if it can.
pub fn unfit_bucket(app: &AppName, label: &BucketLabel) -> Option<String> {
    let name = store_name(app, label);
    if account(app).is_none() {
        let most = NAME_BYTES_MAX - ACCOUNT_PREFIX.len();
        return Some(format!("application {app} has more than {most} characters, too many for one with buckets"));
    }
    if !Assets::is_bucket(&name) {
        return Some(format!(
            "bucket {label} would be called {name:?} in the store, and names there have {BUCKET_BYTES_MAX} characters at most"
        ));
    }
    None
}

/// Whose the buckets of `app` are; none where its name is too long for one with buckets.
pub fn account(app: &AppName) -> Option<AccountName> {
    format!("{ACCOUNT_PREFIX}{app}").parse().ok()
}

/// The application whose buckets an account has.
pub fn app_of_account(account: &str) -> Option<&str> {
    account.strip_prefix(ACCOUNT_PREFIX)
}

impl AppSpec {
    /// What its buckets are called in the store, for the access key that it has.
    pub fn bucket_patterns(&self, app: &AppName) -> impl Iterator<Item = BucketPattern> {
        self.buckets.keys().filter_map(|label| store_name(app, label).parse().ok())
    }
}

/// What `${bucket.NAME.…}` may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BucketValue {
    /// `http://HOST:PORT/BUCKET`: where the node of the instance answers for it.
    Url,
    /// The same without the bucket.
    Endpoint,
    /// What it is called in the store.
    Name,
    /// What requests are signed for.
    Region,
    /// The id of the application's access key.
    AccessKeyId,
    /// Its secret.
    SecretAccessKey,
}

/// Words for them.
pub const BUCKET_VALUES: [(&str, BucketValue); 6] = [
    ("url", BucketValue::Url),
    ("endpoint", BucketValue::Endpoint),
    ("name", BucketValue::Name),
    ("region", BucketValue::Region),
    ("access_key_id", BucketValue::AccessKeyId),
    ("secret_access_key", BucketValue::SecretAccessKey),
];

impl BucketValue {
    /// Whether it is something of the access key.
    pub fn is_of_key(self) -> bool {
        matches!(self, Self::AccessKeyId | Self::SecretAccessKey)
    }
}

/// What `${bucket.NAME.VALUE}` asks for, by what stands within the braces.
pub fn bucket_reference(reference: &str) -> Option<(BucketLabel, BucketValue)> {
    let (label, value) = reference.strip_prefix("bucket.")?.split_once('.')?;
    let value = BUCKET_VALUES.iter().find(|(word, _)| *word == value).map(|(_, value)| *value)?;
    Some((label.parse().ok()?, value))
}

/// Whether a text has the secret of an access key in it.
pub fn holds_access_secret(text: &str) -> bool {
    asked(text).any(|value| value == BucketValue::SecretAccessKey)
}

/// Whether a service is told the access key of its application.
pub fn asks_for_key(service: &ServiceSpec) -> bool {
    service.env.values().any(|text| asked(text).any(BucketValue::is_of_key))
}

fn asked(text: &str) -> impl Iterator<Item = BucketValue> {
    variables(text).into_iter().filter_map(|it| bucket_reference(it).map(|(_, value)| value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str) -> AppName {
        name.parse().unwrap()
    }

    #[test]
    fn a_bucket_is_called_after_its_application_and_has_room_in_the_store() {
        let label: BucketLabel = "media".parse().unwrap();
        assert_eq!(store_name(&app("shop"), &label), "shop-media");
        assert_eq!(unfit_bucket(&app("shop"), &label), None);
        assert_eq!(account(&app("shop")).map(String::from).as_deref(), Some("app-shop"));
        assert_eq!(app_of_account("app-shop"), Some("shop"));
        let long = "a".repeat(58);
        assert!(unfit_bucket(&app(&long), &label).unwrap().contains("63 characters at most"));
        let long = "a".repeat(60);
        assert!(unfit_bucket(&app(&long), &label).unwrap().contains("more than 59 characters"));
    }

    #[test]
    fn what_a_service_asks_for_is_read_from_its_environment() {
        assert_eq!(bucket_reference("bucket.media.url"), Some(("media".parse().unwrap(), BucketValue::Url)));
        for wrong in ["bucket.media", "bucket.media.uri", "bucket.Media.url", "secret.media.url", "bucket..url"] {
            assert_eq!(bucket_reference(wrong), None, "{wrong}");
        }
        let mut service = crate::control::samples::service("serve");
        let mut asks = |text: &str| {
            service.env.insert("S3".into(), text.into());
            (asks_for_key(&service), holds_access_secret(text))
        };
        assert_eq!(asks("${bucket.media.url} ${bucket.media.region}"), (false, false));
        assert_eq!(asks("id=${bucket.media.access_key_id}"), (true, false));
        assert_eq!(asks("${bucket.media.secret_access_key}"), (true, true));
        assert_eq!(asks("$${bucket.media.secret_access_key}"), (false, false));
    }
}

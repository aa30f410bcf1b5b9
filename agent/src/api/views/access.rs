//! `bucket key list`: access keys of the object store, without their secrets. There is no way from here to one.

use hirsel_model::access::{AccessKey as Known, AccessKeyId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::sight::{Sight, rfc3339};

/// An access key, as far as anybody may know of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AccessKey {
    /// Its id.
    pub access_key_id: String,
    /// What people say it is for.
    pub name: String,
    /// For which account it acts: whose the buckets are that it makes.
    pub account: String,
    /// With which buckets: names, or beginnings of names with `*` behind.
    pub buckets: Vec<String>,
    /// Whether it may only read and list.
    pub read_only: bool,
    /// Whether it may make and remove buckets.
    pub makes_buckets: bool,
    /// When it was made.
    pub made_at: String,
}

/// An access key that was just made. Its secret is told this once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NewAccessKey {
    /// Its id.
    pub access_key_id: String,
    /// With what requests are signed.
    pub secret_access_key: String,
    /// Where the node that was asked answers; none where it does not. Any other node answers as well.
    pub endpoint: Option<String>,
    /// What clients are to take for the region.
    pub region: String,
    /// What people say it is for.
    pub name: String,
    /// For which account it acts.
    pub account: String,
}

/// Every access key.
pub fn access_keys(sight: &Sight) -> Vec<AccessKey> {
    sight.state.access.keys.iter().map(|(id, it)| access_key(id, it)).collect()
}

fn access_key(id: &AccessKeyId, it: &Known) -> AccessKey {
    let Known { version: _, at, account, may, about, secret: _ } = it;
    AccessKey {
        access_key_id: id.to_string(),
        name: about.clone(),
        account: account.to_string(),
        buckets: may.buckets.iter().map(ToString::to_string).collect(),
        read_only: may.reads_only,
        makes_buckets: may.makes_buckets,
        made_at: rfc3339(*at),
    }
}

/// Where the node that is asked serves objects, as others reach it.
pub fn endpoint(sight: &Sight) -> Option<String> {
    let mut addr = sight.config.s3?;
    if addr.ip().is_unspecified() {
        let told = sight.live.nodes.get(&sight.me).and_then(|seen| seen.addresses.as_ref()?.public.first().copied());
        addr.set_ip(told.or_else(|| Some(sight.state.spec.nodes.get(&sight.me)?.addr.ip()))?);
    }
    Some(format!("http://{addr}"))
}

//! Keys with which zones are signed (DNSSEC): when one is drawn, how another takes its place, and when it is let go.
//!
//! A zone has one key for everything. Whoever verifies begins with what the zone above says of it (DS), which a person puts there, so
//! a key is replaced in steps that wait until nobody can remember the step before (RFC 6781, section 4.1; RFC 7583):
//!
//! 1. [`Step::Published`]: the next key is listed beside the one in force, and signs the list, too. After [`PUBLISH_MS`] everybody
//!    who remembers a list knows both.
//! 2. [`Step::Offered`]: the zone above shall name the next key. Either one may be named, and the former still signs. How long this
//!    takes is known to whoever puts the record there, and says so.
//! 3. [`Step::Leaving`]: the next key signs. After [`LEAVE_MS`] nobody remembers what the former signed, or that it was named above.
//! 4. [`Step::Steady`] again.
//!
//! A zone that shall not be signed any more is signed for [`RETAIN_MS`], for whoever remembers that it should be would believe nothing
//! else; so the record above has to go first. Nothing here sees a key in the clear. All is decided from the state and the time of day
//! by whoever leads, and by no clock where it is applied.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::control::ControlState;
use crate::id::NodeId;
use crate::order::SignedZone;
use crate::secret::{SEAL_BYTES_MAX, Sealed};
use crate::time::WallTime;

/// The feature level from which on keys may be written.
pub const LEVEL: u32 = 2;
/// How long a list of keys may be remembered, in seconds.
pub const DNSKEY_TTL_S: u32 = 3_600;
/// How long the next key is listed before anybody has to know it: twice what a list may be remembered, for clocks and for nodes that
/// hear late.
pub const PUBLISH_MS: u64 = 2 * DNSKEY_TTL_S as u64 * 1000;
/// How long a key is listed that signs no more: zones above have their records remembered for two days at most, and ours are
/// remembered for one.
pub const LEAVE_MS: u64 = 72 * 3600 * 1000;
/// How long a zone is signed after nobody wants it any more: as long as a record above may be remembered, and a day to take it away.
pub const RETAIN_MS: u64 = 72 * 3600 * 1000;
/// Bytes of what is told of a key: a point on the curve P-256.
pub const PUBLIC_BYTES: usize = 64;
/// Bytes of a key (PKCS #8), with room for what other libraries would write.
pub const KEY_BYTES_MAX: usize = 256;
/// Keys of a zone at a time: the one in force, and the one that comes or goes.
pub const KEYS_MAX: usize = 2;
/// Zones that are signed, or were lately.
pub const ZONES_MAX: usize = 1_000;

/// Bytes of all sealed keys.
pub const KEYS_BYTES_MAX: usize = ZONES_MAX * KEYS_MAX * (KEY_BYTES_MAX + SEAL_BYTES_MAX);

/// What a key is sealed for in the control state: that of one zone stands for no other.
pub fn purpose(zone: &str) -> String {
    format!("key of the zone {zone}")
}

/// What events about the keys of a zone are about.
pub fn subject(zone: &str) -> String {
    format!("dns/{zone}")
}

/// All keys of zones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signing {
    /// Version of the key that was drawn last.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    pub last: u64,
    /// By the name of the zone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub zones: BTreeMap<String, ZoneKeys>,
}

/// Keys of a zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZoneKeys {
    /// The one that was drawn first comes first; one, or two while one takes the place of the other.
    pub keys: Vec<ZoneKey>,
    /// How far that is.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    pub step: Step,
    /// Since when.
    pub since: WallTime,
    /// An operator wants another key.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    pub wanted: bool,
    /// Since when nobody wants the zone signed.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    pub parting: Option<WallTime>,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZoneKey {
    /// A number that no other key of the cluster ever has.
    pub version: u64,
    /// When it was drawn.
    pub at: WallTime,
    /// What is told of it.
    pub public: Sealed,
    /// It, sealed for [`purpose`].
    pub key: Sealed,
}

/// How far a key is on the way to take the place of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// There is one key.
    #[default]
    Steady,
    /// The next one is listed.
    Published,
    /// The zone above shall name the next one.
    Offered,
    /// The next one signs, and the former is still listed.
    Leaving,
}

/// Why a step is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Cause {
    /// Its time has come.
    Time,
    /// An operator saw the next key named above.
    Seen,
    /// An operator does not want to wait.
    Forced(String),
}

/// What changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// The leader drew a key.
    Draw {
        /// For which zone.
        zone: String,
        /// Version of the one it follows, 0 for none: another one there refuses it.
        base: u64,
        /// What is told of it.
        public: Sealed,
        /// The key, sealed for [`purpose`].
        sealed: Sealed,
        /// With which key.
        key: String,
    },
    /// An operator wants another key for a zone.
    Want {
        /// Which zone.
        zone: String,
    },
    /// The next step of replacing a key.
    Advance {
        /// In which zone.
        zone: String,
        /// The step before: any other one there refuses it.
        from: Step,
        /// Why now.
        cause: Cause,
    },
    /// Nobody wants the zone signed any more, or somebody does again.
    Part {
        /// Which zone.
        zone: String,
        /// Whether nobody does.
        parts: bool,
    },
    /// Its keys are let go.
    Forget {
        /// Of which zone.
        zone: String,
    },
}

impl Signing {
    /// How many keys there are.
    pub fn count(&self) -> usize {
        self.zones.values().map(|it| it.keys.len()).sum()
    }
}

impl ZoneKeys {
    /// The one that signs.
    pub fn signing(&self) -> Option<&ZoneKey> {
        match self.step {
            Step::Steady | Step::Published | Step::Offered => self.keys.first(),
            Step::Leaving => self.keys.last(),
        }
    }

    /// The one that the zone above should name.
    pub fn offered(&self) -> Option<&ZoneKey> {
        match self.step {
            Step::Steady | Step::Published => self.keys.first(),
            Step::Offered | Step::Leaving => self.keys.last(),
        }
    }

    /// Version of the newest key.
    pub fn newest(&self) -> u64 {
        self.keys.last().map_or(0, |key| key.version)
    }

    /// When the next step may be taken by time alone; none where it is not time that it waits for.
    pub fn next_at(&self) -> Option<WallTime> {
        let after = |ms| Some(WallTime(self.since.0.saturating_add(ms)));
        match self.step {
            Step::Steady | Step::Offered => None,
            Step::Published => after(PUBLISH_MS),
            Step::Leaving => after(LEAVE_MS),
        }
    }

    /// When it is let go, if nobody wants it again.
    pub fn gone_at(&self) -> Option<WallTime> {
        self.parting.map(|since| WallTime(since.0.saturating_add(RETAIN_MS)))
    }

    /// What whoever answers needs to know.
    pub fn signed(&self) -> Option<SignedZone> {
        Some(SignedZone {
            keys: self.keys.iter().map(|key| (key.version, key.public.0.clone())).collect(),
            signs: self.signing()?.version,
            offered: self.offered().filter(|_| self.parting.is_none()).map(|key| key.version),
        })
    }
}

/// What the leader has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Draw a key for a zone; the version of the one that it follows.
    Draw(String, u64),
    /// Anything else.
    Change(Change),
}

/// Zones that an application wants signed.
pub fn wanted(state: &ControlState) -> BTreeSet<&str> {
    let zones = state.spec.apps.values().flat_map(|app| &app.zones);
    zones.filter(|(_, zone)| zone.dnssec).map(|(name, _)| name.as_str()).collect()
}

/// What is to be done at `wall`, the first of it.
pub fn due(state: &ControlState, wall: WallTime) -> Option<Due> {
    let cluster = &state.cluster;
    if cluster.feature_level < LEVEL || cluster.sealing.key.is_empty() {
        return None;
    }
    let wanted = wanted(state);
    let room = ZONES_MAX.saturating_sub(state.signing.zones.len());
    let new = wanted.iter().find(|zone| room > 0 && !state.signing.zones.contains_key(**zone));
    if let Some(zone) = new {
        return Some(Due::Draw((*zone).to_owned(), 0));
    }
    state.signing.zones.iter().find_map(|(zone, keys)| {
        let zone = zone.clone();
        let is_wanted = wanted.contains(zone.as_str());
        let parts = !is_wanted;
        if keys.parting.is_some() != parts {
            return Some(Due::Change(Change::Part { zone, parts }));
        }
        if keys.gone_at().is_some_and(|at| at <= wall) {
            return Some(Due::Change(Change::Forget { zone }));
        }
        if is_wanted && keys.wanted && keys.step == Step::Steady {
            return Some(Due::Draw(zone, keys.newest()));
        }
        let is_time = keys.next_at().is_some_and(|at| at <= wall);
        is_time.then_some(Due::Change(Change::Advance { zone, from: keys.step, cause: Cause::Time }))
    })
}

/// When something is due by time alone, if nothing else changes.
pub fn next_look(state: &ControlState) -> Option<WallTime> {
    state.signing.zones.values().flat_map(|keys| keys.next_at().into_iter().chain(keys.gone_at())).min()
}

/// The keys that `node` needs, by version: what each is sealed for, and it. Every node answers, so all of them.
pub fn needed(state: &ControlState, node: NodeId) -> BTreeMap<u64, (String, &Sealed)> {
    let all = state.signing.zones.iter().filter(|_| state.spec.nodes.contains_key(&node));
    let keys = all.flat_map(|(zone, it)| it.keys.iter().map(move |key| (zone, key)));
    keys.map(|(zone, key)| (key.version, (purpose(zone), &key.key))).collect()
}

#[cfg(test)]
mod tests;

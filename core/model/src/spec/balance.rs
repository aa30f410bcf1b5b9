//! How a route shares its requests among the instances that may take them.

use serde::{Deserialize, Serialize};

use super::is_default;

/// How requests are shared. Everything that is not said is as it always was: the less loaded of two drawn at random takes a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balance {
    /// Who is chosen.
    #[serde(default, skip_serializing_if = "is_default")]
    pub policy: Policy,
    /// For how many milliseconds the share of an instance grows that has become healthy; none gives it a full share at once.
    #[serde(default, skip_serializing_if = "is_default")]
    pub slow_start_ms: Option<u64>,
    /// How a client stays with the instance that answered it first.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sticky: Option<Sticky>,
    /// How many requests an instance has under way at most, from each load balancer; none for no limit.
    #[serde(default, skip_serializing_if = "is_default")]
    pub concurrency: Option<u32>,
    /// Who waits while every instance has as many; without it nobody does.
    #[serde(default, skip_serializing_if = "is_default")]
    pub queue: Option<Queue>,
    /// Which answers speak against an instance; without it only connections that fail do.
    #[serde(default, skip_serializing_if = "is_default")]
    pub eject: Option<Eject>,
    /// How many milliseconds an instance has to begin its answer before another one is tried; none for no limit of its own.
    #[serde(default, skip_serializing_if = "is_default")]
    pub try_timeout_ms: Option<u64>,
    /// When a request that may be carried out twice is told to a second instance before the first has answered.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hedge: Option<Hedge>,
    /// Whether instances of the load balancer's own zone come first, as far as they are its share.
    #[serde(default, skip_serializing_if = "is_default")]
    pub same_zone: bool,
}

/// A cookie that names an instance, in a way that tells nothing of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sticky {
    /// Its name.
    pub cookie: String,
    /// Below which path clients send it.
    pub path: String,
    /// Whether requests that other sites cause carry it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub same_site: SameSite,
    /// After how many seconds it is forgotten; none for when the browser is closed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub max_age_s: Option<u64>,
    /// Sent back over TLS alone, even where we are spoken to without: somebody before us speaks it. Where we speak it this always holds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub secure: bool,
}

/// Whether requests that other sites cause carry a cookie (RFC 6265bis, section 5.6.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SameSite {
    /// Those that lead to a page do.
    #[default]
    Lax,
    /// None does.
    Strict,
    /// All do.
    None,
}

impl SameSite {
    /// As it is written in a cookie.
    pub fn name(self) -> &'static str {
        match self {
            SameSite::Lax => "Lax",
            SameSite::Strict => "Strict",
            SameSite::None => "None",
        }
    }
}

/// Who waits for an instance, on each load balancer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// So many requests.
    pub requests: u32,
    /// So long, in milliseconds.
    pub wait_ms: u64,
}

/// How long the first instance is waited for before a second one is told too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hedge {
    /// So long.
    pub after: HedgeAfter,
}

/// A time, or one that follows what answers take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HedgeAfter {
    /// So many milliseconds.
    Ms(u64),
    /// The time within which so many hundredths of the route's answers begin.
    Percentile(u32),
}

/// When an instance is left alone for a while though it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Eject {
    /// After so many answers of 500 to 599 in a row.
    pub errors: u32,
    /// No more than this share of the instances at once, in hundredths.
    pub share_percent: u32,
}

/// Who is chosen among the instances that may take a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The better of two drawn at random, by requests under way and recent latency.
    #[default]
    LeastLoaded,
    /// One after another.
    RoundRobin,
    /// The one with the fewest requests under way.
    LeastRequests,
    /// The same for requests that are alike, on every load balancer.
    Hash(HashBy),
}

/// What makes requests alike, and how far that holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HashBy {
    /// What is compared.
    pub key: HashKey,
    /// No instance has more than this many hundredths of the mean of requests under way: what exceeds it goes to the next one.
    pub bound_percent: u32,
}

/// A part of a request by which an instance is chosen. A request that lacks it goes to whoever is less loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HashKey {
    /// The address of the client; of IPv6 the network (/64).
    Client,
    /// The path as it was sent, without its query.
    Path,
    /// The first line of this header field, by name in lower case.
    Header(String),
    /// The value of this cookie.
    Cookie(String),
    /// The first value of this parameter of the query, decoded.
    Query(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};
    use crate::spec::Actions;

    #[test]
    fn what_is_said_is_read_as_it_was_written_and_nothing_else_is_written() {
        assert_eq!(encode(&Actions::default()).len(), 1, "an empty map");
        let keys = [HashKey::Client, HashKey::Path, HashKey::Header("x-user".into()), HashKey::Cookie("id".into())];
        let keys = keys.into_iter().chain([HashKey::Query("id".into())]);
        let hashes = keys.map(|key| Policy::Hash(HashBy { key, bound_percent: 150 }));
        for policy in hashes.into_iter().chain([Policy::RoundRobin, Policy::LeastRequests, Policy::LeastLoaded]) {
            let balance = Balance {
                policy,
                slow_start_ms: Some(10_000),
                sticky: Some(Sticky {
                    cookie: "at".into(),
                    path: "/".into(),
                    same_site: SameSite::None,
                    max_age_s: Some(60),
                    secure: true,
                }),
                concurrency: Some(10),
                queue: Some(Queue { requests: 100, wait_ms: 2_000 }),
                eject: Some(Eject { errors: 5, share_percent: 50 }),
                try_timeout_ms: Some(500),
                hedge: Some(Hedge { after: HedgeAfter::Percentile(95) }),
                same_zone: true,
            };
            assert_eq!(decode::<Balance>(&encode(&balance)).unwrap(), balance);
        }
    }

    #[test]
    fn a_policy_of_a_newer_build_is_called_that() {
        let newer = std::collections::BTreeMap::from([("policy", "psychic")]);
        assert!(decode::<Balance>(&encode(&newer)).unwrap_err().is_newer());
    }
}

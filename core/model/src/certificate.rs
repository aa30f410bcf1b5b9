//! Certificates of the front door: what load balancers show to clients, with keys that nobody else shall see.
//!
//! The control state keeps the chain and what it says of itself in the clear, for it is public, and the key sealed. Each certificate
//! that is set gets a version, a number no other certificate of the cluster ever gets: a load balancer that has that version has the
//! whole of it. What is decided about certificates needs names and versions, never a key; nothing here reads a certificate, which is
//! done once, when it comes in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::acme::{Automatic, renew_at};
use crate::control::ControlState;
use crate::id::*;
use crate::secret::{SEAL_BYTES_MAX, Sealed};
use crate::time::WallTime;

/// Certificates of a cluster: a shop with a thousand domains has one for each.
pub const CERTIFICATES_MAX: usize = 1_000;
/// Longest chain in bytes: a certificate for a hundred domains and three that certify it fit.
pub const CHAIN_BYTES_MAX: usize = 16 << 10;
/// Longest key in bytes: RSA of 4096 bits, the longest that can sign here, is 3.3 KB.
pub const KEY_BYTES_MAX: usize = 4 << 10;
/// Bytes of all chains: they are in every snapshot, and in memory on every node.
pub const CHAINS_BYTES_MAX: usize = 8 << 20;
/// Bytes of all sealed keys: 4.2 MB. All of them travel in one change when they are sealed anew, beside all secrets
/// ([`crate::secret::SECRETS_BYTES_MAX`]), and a change holds 8 MiB.
pub const KEYS_BYTES_MAX: usize = (CERTIFICATES_MAX + ACME_KEYS) * (KEY_BYTES_MAX + SEAL_BYTES_MAX);
/// The keys of an account where certificates come from, and of its binding, are sealed with them.
const ACME_KEYS: usize = 2;
/// Domains of one certificate: as many as public authorities write into one.
pub const NAMES_MAX: usize = 100;
/// Longest name of an issuer in bytes; what is longer is cut where it comes in.
pub const ISSUER_BYTES_MAX: usize = 200;
/// Less than this left is worth a warning: who renews by a program does so a month before, and three weeks are left to notice that the
/// program does not.
pub const LATE_MS: u64 = 21 * 24 * 3600 * 1000;

/// The feature level from which on certificates may be written: every agent knows them.
pub const LEVEL: u32 = 2;

/// All certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificates {
    /// Version of the one that was set last.
    pub last: u64,
    /// By name. Each stands for itself, so that a new state shares those that did not change with the one before.
    pub named: BTreeMap<CertificateName, Arc<Certificate>>,
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// A number that no other certificate of the cluster has.
    pub version: u64,
    /// When it was set.
    pub set_at: WallTime,
    /// What it says of itself.
    pub facts: Facts,
    /// PEM: the certificate, then those that certify it.
    pub chain: String,
    /// PEM of its key, sealed for [`purpose`].
    pub key: Sealed,
    /// It came by itself, for the host that it is called after; otherwise people brought it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub automatic: Option<Automatic>,
}

/// What a certificate says of itself, as it was read when it came in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// Domains it is good for, in lower case; `*.example.com` stands for one more label.
    pub names: BTreeSet<String>,
    /// From when on it is good.
    pub not_before: WallTime,
    /// Until when.
    pub not_after: WallTime,
    /// Who certifies it, in words.
    pub issuer: String,
    /// The number its issuer gave it, in hexadecimal digits.
    pub serial: String,
    /// SHA-256 of the certificate, in hexadecimal digits.
    pub fingerprint: String,
    /// Kind of its key, in words: `RSA 2048`, `ECDSA P-256`, `Ed25519`.
    pub key: String,
}

/// A certificate that is to be set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewCertificate {
    /// What it says of itself.
    pub facts: Facts,
    /// PEM: the certificate, then those that certify it.
    pub chain: String,
    /// PEM of its key, sealed for [`purpose`].
    pub sealed: Sealed,
    /// With which key.
    pub key: String,
    /// It came by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub automatic: Option<Automatic>,
}

/// What the key of the certificate called `name` is sealed for: a sealed key that is put elsewhere does not open.
pub fn purpose(name: &CertificateName) -> String {
    format!("certificate {name}")
}

/// How far a certificate is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Age {
    /// It is good.
    Good,
    /// It is not good yet.
    Early,
    /// Less than [`LATE_MS`] is left.
    Late,
    /// Its time is over.
    Expired,
}

impl Facts {
    /// How far it is at `wall`.
    pub fn age(&self, wall: WallTime) -> Age {
        match self.not_after.0.saturating_sub(wall.0) {
            0 => Age::Expired,
            _ if wall < self.not_before => Age::Early,
            left if left < LATE_MS => Age::Late,
            _ => Age::Good,
        }
    }
}

/// How far the certificate called `name` is at `wall`. One that came by itself is late when half of the time in which it should have
/// been renewed is over, however long that is.
pub fn age(name: &CertificateName, certificate: &Certificate, wall: WallTime) -> Age {
    let age = certificate.facts.age(wall);
    if certificate.automatic.is_none() || !matches!(age, Age::Good | Age::Late) {
        return age;
    }
    let (renews, ends) = (renew_at(name.as_str(), certificate), certificate.facts.not_after);
    let is_late = wall.0 >= renews.0.saturating_add(ends.0.saturating_sub(renews.0) / 2);
    if is_late { Age::Late } else { Age::Good }
}

impl Certificates {
    /// Bytes of all chains.
    pub fn chain_bytes(&self) -> usize {
        self.named.values().map(|it| it.chain.len()).sum()
    }

    /// The version in force of each.
    pub fn versions(&self) -> BTreeMap<CertificateName, u64> {
        self.named.iter().map(|(name, it)| (name.clone(), it.version)).collect()
    }

    /// Whether clients that ask for `host` are shown a certificate that is good for it at `wall`. A host `*.example.com` stands for every
    /// name with one more label.
    pub fn cover(&self, host: &str, wall: WallTime) -> bool {
        let wildcard = host.split_once('.').map(|(_, parent)| format!("*.{parent}"));
        let covers = |facts: &Facts| {
            let named = facts.names.contains(host) || wildcard.as_ref().is_some_and(|name| facts.names.contains(name));
            named && matches!(facts.age(wall), Age::Good | Age::Late)
        };
        self.named.values().any(|it| covers(&it.facts))
    }

    /// Others than `but` that are good for one of `names` too, spelled alike.
    pub fn sharing<'a>(&'a self, but: &CertificateName, names: &BTreeSet<String>) -> Vec<&'a CertificateName> {
        let shares = |it: &Certificate| !it.facts.names.is_disjoint(names);
        self.named.iter().filter(|(name, it)| *name != but && shares(it)).map(|(name, _)| name).collect()
    }
}

/// Whether the plan makes `node` a load balancer: only such a node is told keys.
pub fn shows(state: &ControlState, node: NodeId) -> bool {
    let slots = state.plan.roles.get(&RoleName::lb());
    slots.is_some_and(|slots| slots.values().any(|slot| slot.node == node))
}

/// The certificates, by name and version, whose keys `node` needs: all that it may be told.
pub fn needed(state: &ControlState, node: NodeId) -> BTreeMap<CertificateName, u64> {
    if shows(state, node) { state.certificates.versions() } else { BTreeMap::new() }
}

/// Whether `text` is a domain that a certificate may be for, in lower case: `www.example.com`, or `*.example.com`.
pub fn is_domain(text: &str) -> bool {
    let (wild, rest) = match text.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    // Underscores are in no host name (RFC 1123), and in certificates all the same.
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= NAME_BYTES_MAX
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_whole = !wild || rest.contains('.');
    is_whole && text.len() <= crate::control::limits::HOST_BYTES_MAX && rest.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_a_name_in_lower_case_and_a_star_stands_for_its_first_label_alone() {
        for good in
            ["example.com", "a.b.c", "localhost", "*.example.com", "_dmarc.example.com", "xn--bcher-kva.example"]
        {
            assert!(is_domain(good), "{good}");
        }
        let long = format!("{}.com", "a".repeat(64));
        let longer = vec!["abcdefg"; 32].join(".");
        for wrong in [
            "",
            ".",
            "a..b",
            "example.com.",
            "Example.com",
            "*",
            "*.com",
            "a.*.com",
            "*a.com",
            "-a.com",
            "a b",
            &long,
            &longer,
        ] {
            assert!(!is_domain(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_certificate_is_late_three_weeks_before_its_end() {
        let facts = Facts { not_before: WallTime(1_000), not_after: WallTime(1_000 + 2 * LATE_MS), ..Facts::default() };
        let age = |ms| facts.age(WallTime(ms));
        assert_eq!([age(999), age(1_000), age(1_000 + LATE_MS)], [Age::Early, Age::Good, Age::Good]);
        assert_eq!([age(1_001 + LATE_MS), age(1_000 + 2 * LATE_MS)], [Age::Late, Age::Expired]);
    }
}

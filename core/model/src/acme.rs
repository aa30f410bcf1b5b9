//! Certificates that the cluster gets by itself (ACME, RFC 8555): for which hosts, when, and what follows a failure.
//!
//! What is asked for is in the applied manifests: hosts of routes with `tls = "auto"`. What is due follows from them, from the
//! certificates there are and from what failed lately, and is decided anew by whoever leads now: an order is never continued, only made
//! again, so that nothing is stuck when a leader goes. Of an order under way the control state knows the challenge alone, for every load
//! balancer must be able to answer it.
//!
//! Certificates live by wall time, so here, and here alone, wall time decides; a clock that is wrong by a day costs a day of a margin of
//! weeks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::certificate::{Certificate, is_domain};
use crate::control::ControlState;
use crate::id::CertificateName;
use crate::secret::Sealed;
use crate::spec::Tls;
use crate::time::WallTime;

/// The feature level from which on this may be written: every agent knows it.
pub const LEVEL: u32 = 2;
/// Orders under way at once: each holds a connection to the directory and a challenge in the control state.
pub const ORDERS_MAX: usize = 4;
/// Orders that may be made within [`ORDERS_WITHIN_MS`]: public directories take 300 of an account, and some are left for retries.
pub const ORDERS_WITHIN_MAX: usize = 250;
/// See [`ORDERS_WITHIN_MAX`].
pub const ORDERS_WITHIN_MS: u64 = 3 * HOUR_MS;
/// Wait after the first failure of a host; it doubles with each. Public directories take five failed validations of a host in an hour:
/// this makes four, and a wish of the operator the fifth.
pub const WAIT_FIRST_MS: u64 = 5 * MINUTE_MS;
/// Longest wait after a failure: whoever mends a record of a name should not have to wait for longer than a night.
pub const WAIT_MAX_MS: u64 = 12 * HOUR_MS;
/// Longest wait that a directory may ask for.
pub const ASKED_WAIT_MAX_MS: u64 = 7 * 24 * HOUR_MS;
/// Bytes of an URL of a directory or an account.
pub const URL_BYTES_MAX: usize = 2048;
/// Addresses of people whom the directory may write to.
pub const CONTACTS_MAX: usize = 8;
/// Bytes of such an address (RFC 5321, section 4.5.3.1).
pub const CONTACT_BYTES_MAX: usize = 256;
/// Bytes of further root certificates in PEM: a dozen.
pub const ROOTS_BYTES_MAX: usize = 32 << 10;
/// Bytes of the key identifier of an external account.
pub const KID_BYTES_MAX: usize = 512;
/// Bytes of a sealed key of an account or of its binding.
pub const KEY_BYTES_MAX: usize = 4 << 10;
/// Bytes of a token, and of what it is answered with (RFC 8555, section 8.3: a token of 128 bits and more, a hash).
pub const TOKEN_BYTES_MAX: usize = 512;
/// Bytes of the words of a failure.
pub const WORDS_BYTES_MAX: usize = 600;

/// What the key of the account is sealed for.
pub const ACCOUNT_PURPOSE: &str = "acme account";
/// What the key of an external account is sealed for.
pub const BINDING_PURPOSE: &str = "acme binding";

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

mod due;
#[cfg(test)]
mod tests;

pub use due::{Standing, Why, account_is_due, after_failure, due, next_look, renew_at, standing, tidy};

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acme {
    /// Where certificates come from; none while nobody said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Settings>,
    /// Who the cluster is there, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<Account>,
    /// Why it is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_trouble: Option<Trouble>,
    /// Why a host has not got its certificate, or not got it anew.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub troubles: BTreeMap<String, Trouble>,
    /// Hosts for which the operator wants another certificate now.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub wishes: BTreeSet<String>,
    /// What load balancers answer for, by host.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub challenges: BTreeMap<String, Challenge>,
}

impl Acme {
    /// What of it is sealed, by version.
    pub(crate) fn keys_mut(&mut self) -> impl Iterator<Item = (u64, &mut Sealed)> {
        let binding = self.settings.as_mut().and_then(|settings| settings.binding.as_mut());
        let account = self.account.as_mut().map(|it| (it.version, &mut it.key));
        binding.map(|it| (it.version, &mut it.key)).into_iter().chain(account)
    }

    /// What of it is sealed, by version, and for what.
    pub fn keys(&self) -> impl Iterator<Item = (u64, &'static str, &Sealed)> {
        let binding = self.settings.as_ref().and_then(|settings| settings.binding.as_ref());
        let account = self.account.as_ref().map(|it| (it.version, ACCOUNT_PURPOSE, &it.key));
        binding.map(|it| (it.version, BINDING_PURPOSE, &it.key)).into_iter().chain(account)
    }
}

/// Where certificates come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// URL of the directory.
    pub directory: String,
    /// Mail addresses of people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contacts: Vec<String>,
    /// PEM of roots that the directory itself is believed by, besides those that each host believes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub roots: String,
    /// How hosts are proven; both in turn when none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way: Option<Way>,
    /// The account belongs to one that exists elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
}

/// An account that exists elsewhere (RFC 8555, section 7.3.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// Its key identifier.
    pub kid: String,
    /// A number that no certificate, account or other binding of the cluster has.
    pub version: u64,
    /// Its key, sealed for [`BINDING_PURPOSE`].
    pub key: Sealed,
}

/// Who the cluster is at a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Which directory.
    pub directory: String,
    /// Its URL there.
    pub id: String,
    /// A number that no certificate, binding or other account of the cluster has.
    pub version: u64,
    /// What it is used with, sealed for [`ACCOUNT_PURPOSE`].
    pub key: Sealed,
    /// When it was made.
    pub made_at: WallTime,
}

/// How it is proven that a host is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Way {
    /// An answer over plain HTTP, on port 80 (RFC 8555, section 8.3).
    #[serde(rename = "http-01")]
    Http,
    /// A certificate of its own kind over TLS, on port 443 (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn,
}

impl Way {
    /// As RFCs and people call it.
    pub fn word(self) -> &'static str {
        match self {
            Way::Http => "http-01",
            Way::TlsAlpn => "tls-alpn-01",
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl std::str::FromStr for Way {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Way::Http, Way::TlsAlpn];
        all.into_iter()
            .find(|way| way.word() == text)
            .ok_or_else(|| format!("{text:?} is neither http-01 nor tls-alpn-01"))
    }
}

/// What a load balancer answers to whoever asks whether a host is ours. It is no secret: whoever asks gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenge {
    /// How.
    pub way: Way,
    /// By what it is asked for.
    pub token: String,
    /// The key authorization (RFC 8555, section 8.1).
    pub answer: String,
    /// Since when.
    pub since: WallTime,
}

/// What failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trouble {
    /// How often in a row.
    pub failures: u32,
    /// The last time.
    pub at: WallTime,
    /// Not tried before this.
    pub again_at: WallTime,
    /// Why, in words.
    pub words: String,
}

/// What sets an automatic certificate apart from one that people brought.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Automatic {
    /// When its directory wants it to be renewed (RFC 9773), once it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
}

/// When a directory wants a certificate to be renewed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Not before, if it can be helped.
    pub start: WallTime,
    /// Not after.
    pub end: WallTime,
    /// Where it is explained; empty when nowhere.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub url: String,
}

/// Settings that are to be in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewSettings {
    /// As [`Settings::directory`].
    pub directory: String,
    /// As [`Settings::contacts`].
    pub contacts: Vec<String>,
    /// As [`Settings::roots`].
    pub roots: String,
    /// As [`Settings::way`].
    pub way: Option<Way>,
    /// As [`Settings::binding`].
    pub binding: Option<NewBinding>,
}

/// An external account that is to be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewBinding {
    /// Its key identifier.
    pub kid: String,
    /// Its key, sealed for [`BINDING_PURPOSE`].
    pub sealed: Sealed,
    /// With which key.
    pub key: String,
}

/// A change of all this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// Says where certificates come from. The account stays where the directory and its binding do.
    Set {
        /// From where.
        settings: NewSettings,
    },
    /// No certificate is got any more. Those that are there stay until they end.
    Off,
    /// The cluster has an account.
    Account {
        /// At which directory.
        directory: String,
        /// Its URL there.
        id: String,
        /// What it is used with, sealed for [`ACCOUNT_PURPOSE`].
        sealed: Sealed,
        /// With which key.
        key: String,
    },
    /// The directory knows an account no more.
    ForgetAccount {
        /// Its URL.
        id: String,
    },
    /// Load balancers shall answer for a host.
    Offer {
        /// Which.
        host: String,
        /// What.
        challenge: Challenge,
    },
    /// Load balancers need not answer for hosts any more.
    Withdraw {
        /// Which.
        hosts: BTreeSet<String>,
    },
    /// A host did not get a certificate, or the cluster no account.
    Failed {
        /// Which host; none for the account.
        host: Option<String>,
        /// What is known of it.
        trouble: Trouble,
    },
    /// An operator wants another certificate for a host now.
    Renew {
        /// Which.
        host: String,
    },
    /// The directory says when a certificate should be renewed.
    Window {
        /// Which.
        name: CertificateName,
        /// When; none when it says so no more.
        window: Option<Window>,
    },
}

/// Why a host cannot get a certificate by itself; none if it can. For a wildcard a directory wants to see a record of the domain's names
/// (dns-01), which are kept elsewhere.
pub fn unfit(host: &str) -> Option<&'static str> {
    let is_address = || host.split('.').next_back().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if host == "*" {
        return Some("a certificate is for a name, and this route is for any");
    }
    if host.starts_with("*.") {
        return Some("no load balancer can prove a wildcard: bring a certificate for it (hirsel cert add)");
    }
    match !is_domain(host) || host.contains('_') || is_address() {
        true => Some("a certificate is for a domain"),
        false => None,
    }
}

/// The hosts whose routes ask for a certificate.
pub fn hosts(state: &ControlState) -> BTreeSet<&str> {
    let routes = state.spec.apps.values().flat_map(|app| &app.routes);
    let asking = routes.filter(|route| route.tls == Tls::Auto && unfit(&route.host).is_none());
    asking.map(|route| route.host.as_str()).collect()
}

/// Whether any route asks for one.
pub fn is_asked_for(state: &ControlState) -> bool {
    let mut routes = state.spec.apps.values().flat_map(|app| &app.routes);
    routes.any(|route| route.tls == Tls::Auto && unfit(&route.host).is_none())
}

/// The automatic certificate of a host.
pub fn certificate<'a>(state: &'a ControlState, host: &str) -> Option<&'a Certificate> {
    let name: CertificateName = host.parse().ok()?;
    state.certificates.named.get(&name).map(|it| &**it).filter(|it| it.automatic.is_some())
}

/// What people brought, by the domains it is for. Made once for all hosts that are looked at: a shop has a thousand.
#[derive(Clone, Debug)]
pub struct Brought<'a>(BTreeMap<&'a str, (&'a CertificateName, WallTime)>);

impl<'a> Brought<'a> {
    /// Of `state`.
    pub fn of(state: &'a ControlState) -> Self {
        let mut all = BTreeMap::new();
        for (name, it) in state.certificates.named.iter().filter(|(_, it)| it.automatic.is_none()) {
            for domain in &it.facts.names {
                let listed = all.entry(domain.as_str()).or_insert((name, it.facts.not_after));
                if listed.1 < it.facts.not_after {
                    *listed = (name, it.facts.not_after);
                }
            }
        }
        Self(all)
    }

    /// The one that is good for `host` at `wall`, and until when.
    pub fn covering(&self, host: &str, wall: WallTime) -> Option<(&'a CertificateName, WallTime)> {
        let wildcard = || self.0.get(format!("*.{}", host.split_once('.')?.1).as_str());
        let good = |it: &&(&'a CertificateName, WallTime)| it.1 > wall;
        self.0.get(host).filter(good).or_else(|| wildcard().filter(good)).copied()
    }
}

/// How the next order of a host is proven: as the settings say, else over HTTP first and otherwise after each failure, for one of the
/// two ports may be closed on the way.
pub fn way(settings: &Settings, trouble: Option<&Trouble>) -> Way {
    settings.way.unwrap_or(match trouble.map_or(0, |trouble| trouble.failures) % 2 {
        0 => Way::Http,
        _ => Way::TlsAlpn,
    })
}

//! What is done with the requests of a route besides being passed on.
//!
//! Header fields, status and expressions in here were checked by whoever wrote them; who carries them out checks again, since a newer
//! build may allow more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Balance, Cache, ClientCertificates, Compress, ErrorPage, Statuses, is_default};
use crate::id::SecretName;
use crate::secret::references;

/// Header fields that say where a message ends and how it travels: changing them would let one message pass for two.
pub const FIXED_HEADERS: [&str; 12] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// What is done with the requests of a route, in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Actions {
    /// Clients that are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<Block>,
    /// The only clients that are not refused, if there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Block>,
    /// The status with which clients that came without TLS are led to `https`; none lets them pass.
    #[serde(default, skip_serializing_if = "is_default")]
    pub https: Option<u16>,
    /// Who shows which certificate in the handshake; the same in all routes of a host.
    #[serde(default, skip_serializing_if = "is_default")]
    pub client_certificates: Option<ClientCertificates>,
    /// How many requests are taken.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rate_limit: Option<RateLimit>,
    /// Which pages of other origins may ask.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cors: Option<Cors>,
    /// Who may ask.
    #[serde(default, skip_serializing_if = "is_default")]
    pub basic_auth: Option<BasicAuth>,
    /// Largest body of a request in bytes; without it there is no limit.
    #[serde(default, skip_serializing_if = "is_default")]
    pub body_bytes_max: Option<u64>,
    /// Longest time until the answer begins; without it nothing may move for a minute.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timeout_ms: Option<u64>,
    /// Another path for the program that answers.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rewrite: Rewrite,
    /// Header fields of the request.
    #[serde(default, skip_serializing_if = "is_default")]
    pub request_headers: HeaderChanges,
    /// Which answers are kept. What comes above is done for every request, what comes below for every answer.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cache: Option<Cache>,
    /// Which instance takes them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub balance: Balance,
    /// Pages instead of errors in plain words.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub error_pages: BTreeMap<Statuses, ErrorPage>,
    /// Header fields of the answer.
    #[serde(default, skip_serializing_if = "is_default")]
    pub response_headers: HeaderChanges,
    /// Which answers go out encoded.
    #[serde(default, skip_serializing_if = "is_default")]
    pub compress: Option<Compress>,
}

/// A change of a path, in the order of the fields. All nothing: no change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    /// Another path, whatever it was. May have a query, which then replaces the request's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub path: Option<String>,
    /// What it loses at its beginning, if it has that, up to the end of a segment.
    #[serde(default, skip_serializing_if = "is_default")]
    pub strip_prefix: Option<String>,
    /// What is replaced, and by what.
    #[serde(default, skip_serializing_if = "is_default")]
    pub replace: Option<Replacement>,
    /// What it gets at its beginning.
    #[serde(default, skip_serializing_if = "is_default")]
    pub add_prefix: Option<String>,
}

/// The first match of an expression, and what takes its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replacement {
    /// As [`crate::expression::build`] reads it.
    pub regex: String,
    /// A text with `$0` to `$9` for what the groups matched, and `$$` for a dollar.
    pub with: String,
}

/// Changes of header fields, in the order of the fields. Names are in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderChanges {
    /// Taken out.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub remove: BTreeSet<String>,
    /// Put in place of what is there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// Put beside what is there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub add: BTreeMap<String, String>,
}

/// Users and passwords (RFC 7617).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BasicAuth {
    /// What the user is asked for.
    pub realm: String,
    /// By name: a hash of the password (see [`crate::password`]), or `${secret.NAME}` for a hash or the password itself.
    pub users: BTreeMap<String, String>,
}

impl BasicAuth {
    /// The secrets that are named.
    pub fn secrets(&self) -> BTreeSet<SecretName> {
        let names = self.users.values().flat_map(|text| references(text));
        names.filter_map(|name| name.parse().ok()).collect()
    }
}

/// Which pages of other origins may ask, and what (Fetch standard, section 3.2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// Origins like `https://app.example.com`, `https://*.example.com` for one more label, or `*` for all.
    pub origins: BTreeSet<String>,
    /// Methods beyond those that need no leave.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub methods: BTreeSet<String>,
    /// Header fields that a page may set.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub headers: BTreeSet<String>,
    /// Header fields of the answer that a page may see.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub expose: BTreeSet<String>,
    /// Whether cookies and passwords are sent along.
    #[serde(default, skip_serializing_if = "is_default")]
    pub credentials: bool,
    /// For how many seconds a browser remembers the leave; none leaves it to the browser.
    #[serde(default, skip_serializing_if = "is_default")]
    pub max_age_s: Option<u64>,
}

/// How many requests are taken: a bucket that holds `burst`, and gets `requests` more in each `per_ms`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// So many.
    pub requests: u32,
    /// In so many milliseconds.
    pub per_ms: u64,
    /// So many at once.
    pub burst: u32,
    /// Whether the whole route has one bucket, and not each client one of its own.
    #[serde(default, skip_serializing_if = "is_default")]
    pub together: bool,
    /// Whether all load balancers have the buckets in common, about, and not each its own.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cluster: bool,
}

/// An answer that leads the client elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// 301, 302, 307 or 308.
    pub status: u16,
    /// `http` or `https`; the client's own when none is given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub scheme: Option<String>,
    /// Another host, with its port if it is not the usual one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub host: Option<String>,
    /// Another path.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rewrite: Rewrite,
}

/// An answer that needs no program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Respond {
    /// 200 to 599.
    pub status: u16,
    /// Header fields, by name in lower case.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub body: String,
}

/// A block of addresses: `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Block {
    addr: IpAddr,
    bits: u8,
}

impl Block {
    /// Whether it holds `addr`. An IPv4 address that came in over IPv6 is one of IPv4.
    pub fn holds(&self, addr: IpAddr) -> bool {
        match (self.addr, addr.to_canonical()) {
            (IpAddr::V4(block), IpAddr::V4(addr)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                block.to_bits() & mask == addr.to_bits() & mask
            }
            (IpAddr::V6(block), IpAddr::V6(addr)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                block.to_bits() & mask == addr.to_bits() & mask
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl FromStr for Block {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no block of addresses: write 10.0.0.0/8, fd00::/8, or one address");
        let (addr, bits) = text.split_once('/').map_or((text, None), |(addr, bits)| (addr, Some(bits)));
        let addr: IpAddr = addr.parse().map_err(|_| wrong())?;
        let most = if addr.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) => {
                bits.parse::<u8>().ok().filter(|it| *it <= most && !bits.starts_with('+')).ok_or_else(wrong)?
            }
        };
        // As it is compared with: `::ffff:10.0.0.0/104` holds addresses of IPv4.
        match addr {
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() && bits >= 96 => {
                Ok(Self { addr: addr.to_canonical(), bits: bits - 96 })
            }
            addr => Ok(Self { addr, bits }),
        }
    }
}

impl TryFrom<String> for Block {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Block> for String {
    fn from(block: Block) -> String {
        block.to_string()
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};

    #[test]
    fn a_block_holds_the_addresses_that_begin_like_it() {
        let holds = |block: &str, addr: &str| block.parse::<Block>().unwrap().holds(addr.parse().unwrap());
        assert!(holds("10.0.0.0/8", "10.255.1.2") && !holds("10.0.0.0/8", "11.0.0.0"));
        assert!(holds("10.1.2.3", "10.1.2.3") && !holds("10.1.2.3", "10.1.2.4"));
        assert!(holds("0.0.0.0/0", "255.1.1.1") && !holds("0.0.0.0/0", "::1"));
        assert!(holds("::/0", "fd00::1") && holds("fd00::/8", "fdff::1") && !holds("fd00::/8", "fe80::1"));
        assert!(holds("10.0.0.0/8", "::ffff:10.0.0.1"), "as the client of a socket of both kinds");
        assert!(holds("::ffff:10.0.0.0/104", "10.0.0.1"));
        assert!(holds("10.0.0.77/8", "10.9.9.9"), "what follows the prefix says nothing");
    }

    #[test]
    fn what_is_no_block_is_refused_and_a_block_is_read_as_it_was_written() {
        for text in [
            "",
            "10.0.0.0/33",
            "fd00::/129",
            "10.0.0/8",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "a",
            "10.0.0.0/8/8",
        ] {
            assert!(text.parse::<Block>().is_err(), "{text}");
        }
        let block: Block = "fd00::/8".parse().unwrap();
        assert_eq!(decode::<Block>(&encode(&block)).unwrap(), block);
        assert_eq!(block.to_string(), "fd00::/8");
    }

    #[test]
    fn actions_that_are_none_are_not_written() {
        assert_eq!(encode(&Actions::default()), encode(&BTreeMap::<String, String>::new()));
    }
}

//! What is seen of the requests of a route: the traces they belong to, and what is written down of them.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::is_default;

/// A share of something, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Share(pub u32);

impl Share {
    /// Everything.
    pub const ALL: Self = Self(1_000_000);

    fn all() -> Self {
        Self::ALL
    }

    fn is_all(&self) -> bool {
        *self == Self::ALL
    }

    /// Whether `draw`, which is uniform over all numbers, falls into it.
    pub fn takes(self, draw: u64) -> bool {
        // The upper half of the draw, scaled to millionths without a division.
        ((draw >> 32) * u64::from(Self::ALL.0)) >> 32 < u64::from(self.0)
    }
}

/// What is seen of the requests of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// The traces they belong to; none for the usual way: continued where they come with one, begun and sampled where they do not.
    #[serde(default, skip_serializing_if = "is_default")]
    pub trace: Option<Trace>,
    /// How they are written down; none for the way that all routes have which do not say ([`super::RoleSpec::log`]).
    #[serde(default, skip_serializing_if = "is_default")]
    pub log: Option<Log>,
}

/// Whether requests are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Log {
    /// They are not.
    Off,
    /// They are.
    On(AccessLog),
}

/// How requests are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessLog {
    /// As what.
    pub format: LogFormat,
    /// How many of them. Those that fail are written down all the same.
    #[serde(default = "Share::all", skip_serializing_if = "Share::is_all")]
    pub sample: Share,
    /// Leaves the query of each out, which may hold what only the program shall see.
    #[serde(default, skip_serializing_if = "is_default")]
    pub without_query: bool,
    /// A collector that is told each line as well: syslog over UDP.
    #[serde(default, skip_serializing_if = "is_default")]
    pub syslog: Option<SocketAddr>,
}

impl AccessLog {
    /// All of it, of all requests.
    pub fn of(format: LogFormat) -> Self {
        Self { format, sample: Share::ALL, without_query: false, syslog: None }
    }
}

/// The port of syslog over UDP (RFC 5426, section 3.3).
const SYSLOG_PORT: u16 = 514;

/// The collector that `text` names: an address, with a port or without.
///
/// # Errors
/// In words, for whoever wrote it.
pub fn collector(text: &str) -> Result<SocketAddr, String> {
    let bare = || text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, SYSLOG_PORT));
    let found = text.parse().ok().or_else(bare).filter(|to: &SocketAddr| to.port() != 0 && !to.ip().is_unspecified());
    found.ok_or_else(|| format!("{text:.60?} is no address of a collector: write for example 10.0.0.9 or 10.0.0.9:514"))
}

/// How one request looks that was written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// An object on one line.
    Json,
    /// The combined format of Apache and nginx, and more behind it.
    Combined,
}

/// What is done about traces (W3C Trace Context).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trace {
    /// What a client says of a trace passes as it is, and none is begun.
    Untouched,
    /// A trace that came is continued; of those that are begun this share is marked as sampled.
    Sampled(Share),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};

    #[test]
    fn a_share_takes_as_many_as_it_says_and_its_ends_take_none_and_all() {
        let mut draw = 1u64;
        let mut draws = std::iter::repeat_with(move || {
            draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            draw
        });
        let taken = draws.by_ref().take(10_000).filter(|draw| Share(250_000).takes(*draw)).count();
        assert!((2_300..2_700).contains(&taken), "{taken}");
        for draw in draws.take(100).chain([0, u64::MAX]) {
            assert!(!Share(0).takes(draw) && Share::ALL.takes(draw), "{draw}");
        }
    }

    #[test]
    fn it_is_read_as_it_was_written_and_nothing_is_not_written() {
        let json = AccessLog::of(LogFormat::Json);
        let some = AccessLog {
            format: LogFormat::Combined,
            sample: Share(10),
            without_query: true,
            syslog: collector("10.0.0.9").ok(),
        };
        for trace in [None, Some(Trace::Untouched), Some(Trace::Sampled(Share(1)))] {
            for log in [None, Some(Log::Off), Some(Log::On(json)), Some(Log::On(some))] {
                let seen = Seen { trace, log };
                assert_eq!(decode::<Seen>(&encode(&seen)).unwrap(), seen);
            }
        }
        assert_eq!(encode(&json), encode(&std::collections::BTreeMap::from([("format", "json")])));
        assert_eq!(encode(&Seen::default()), encode(&std::collections::BTreeMap::<String, String>::new()));
    }
}

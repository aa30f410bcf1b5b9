//! Zones of names that an application hands over to the cluster, with the records that no route gives by itself.
//!
//! Names are compared without case (RFC 4343) and told in the case they were written in. What is in here is checked by
//! [`ZoneSpec::faults`], which both the manifest and the control state ask.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::is_default;
use crate::control::limits::{HOST_BYTES_MAX, RECORDS_PER_SET_MAX, RECORDS_PER_ZONE_MAX, TEXT_BYTES_MAX};
use crate::id::check_name;

/// How long records may be kept by who asked, unless the zone or the name says otherwise: a change is everywhere after five minutes.
pub const ZONE_TTL_S: u32 = 300;
/// Longest time that records may be kept: a day. What is longer is regretted when an address has to change.
pub const ZONE_TTL_S_MAX: u32 = 86_400;
/// What stands for the zone itself, as owner and in what records say.
pub const APEX: &str = "@";
/// Below this name are the nodes, as name servers of the zone: `NODE.ns.ZONE`.
pub const SERVERS: &str = "ns";
/// Longest name of a zone: `NODE.ns.` goes in front.
pub const ZONE_BYTES_MAX: usize = HOST_BYTES_MAX - 63 - 4;
/// CNAMEs in a row that are followed. More of them are a mistake, or somebody's trap.
pub const CHAIN_MAX: usize = 8;

/// A zone as an application describes it. Hosts of routes, of all applications, are in it besides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZoneSpec {
    /// Seconds that records may be kept, where their name says nothing; none for [`ZONE_TTL_S`].
    #[serde(default, skip_serializing_if = "is_default")]
    pub ttl_s: Option<u32>,
    /// Whether what is said of it is signed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dnssec: bool,
    /// What there is at each name, in lower case below the zone: `www`, `*.dev`, or [`APEX`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub records: BTreeMap<String, NameSpec>,
}

/// What there is at one name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameSpec {
    /// Seconds that it may be kept; none for what the zone says.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ttl_s: Option<u32>,
    /// The records, each once.
    pub data: BTreeSet<RecordData>,
}

/// Kinds of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// An IPv4 address.
    A,
    /// An IPv6 address.
    Aaaa,
    /// Another name for all there is (RFC 1034, section 3.6.2).
    Cname,
    /// Who may issue certificates (RFC 8659).
    Caa,
    /// Who takes mail.
    Mx,
    /// Who answers for what is below.
    Ns,
    /// Where a service is (RFC 2782).
    Srv,
    /// Words.
    Txt,
}

/// All kinds with the words for them.
pub const RECORD_KINDS: [(&str, RecordKind); 8] = [
    ("A", RecordKind::A),
    ("AAAA", RecordKind::Aaaa),
    ("CNAME", RecordKind::Cname),
    ("CAA", RecordKind::Caa),
    ("MX", RecordKind::Mx),
    ("NS", RecordKind::Ns),
    ("SRV", RecordKind::Srv),
    ("TXT", RecordKind::Txt),
];

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = RECORD_KINDS.iter().find(|(_, kind)| kind == self).map_or("?", |(word, _)| word);
        f.write_str(word)
    }
}

/// A whole name, written with a final dot; `.` alone is the root. Letters of any case, digits, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Domain(String);

impl Domain {
    /// With its final dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// In lower case, without the final dot; empty for the root.
    pub fn key(&self) -> String {
        self.0.trim_end_matches('.').to_ascii_lowercase()
    }

    /// Whether it is the root, which stands for "none" (RFC 2782, RFC 7505).
    pub fn is_root(&self) -> bool {
        self.0 == "."
    }

    /// Reads a name as it is written in a manifest: whole with a final dot, or one label below `zone`, or [`APEX`].
    fn read(text: &str, zone: Option<&str>) -> Result<Self, String> {
        let whole = match (text, zone) {
            (APEX, Some(zone)) => format!("{zone}."),
            _ if text.ends_with('.') => text.into(),
            (_, Some(zone)) if !text.contains('.') => format!("{text}.{zone}."),
            _ => {
                return Err(format!(
                    "{text:?} has no final dot: write {:?} if that is the whole name",
                    format!("{text}.")
                ));
            }
        };
        if whole != "." {
            check_labels(whole.trim_end_matches('.'))?;
            if whole.ends_with("..") {
                return Err(format!("{text:?} has a label without letters"));
            }
        }
        Ok(Self(whole))
    }
}

/// Refuses what is no name: a label without letters or with strange ones, one that is too long, too many of them.
fn check_labels(name: &str) -> Result<(), String> {
    if name.len() > HOST_BYTES_MAX {
        return Err(format!("a name of {} characters exceeds {HOST_BYTES_MAX}", name.len()));
    }
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    match name.split('.').find(|label| label.is_empty() || label.len() > 63 || !label.bytes().all(fits)) {
        None => Ok(()),
        Some(label) if !label.is_ascii() => {
            Err(format!("{label:?} is not of a-z, 0-9, '-' and '_': write the form that begins with xn--"))
        }
        Some(label) => Err(format!("{label:?} is no label: use 1 to 63 of a-z, 0-9, '-' and '_'")),
    }
}

/// What a record says. As text it is a word for its kind and then what is written in a manifest, with whole names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum RecordData {
    /// An address.
    A(Ipv4Addr),
    /// An address.
    Aaaa(Ipv6Addr),
    /// The name meant.
    Cname(Domain),
    /// Who may issue certificates, or what else the tag says.
    Caa {
        /// Who does not understand the tag must issue none.
        critical: bool,
        /// `issue`, `issuewild`, `iodef`, …
        tag: String,
        /// Printable ASCII without quotes and backslashes.
        value: String,
    },
    /// Who takes mail.
    Mx {
        /// The lower one is asked first.
        preference: u16,
        /// Whom to ask; the root for nobody.
        exchange: Domain,
    },
    /// Who answers for this name and all below.
    Ns(Domain),
    /// Where a service is.
    Srv {
        /// The lowest one is asked first.
        priority: u16,
        /// Share among those of one priority.
        weight: u16,
        /// Port.
        port: u16,
        /// Host; the root for nowhere.
        target: Domain,
    },
    /// Words, without characters that cannot be seen.
    Txt(String),
}

impl RecordData {
    /// Its kind.
    pub fn kind(&self) -> RecordKind {
        match self {
            RecordData::A(_) => RecordKind::A,
            RecordData::Aaaa(_) => RecordKind::Aaaa,
            RecordData::Cname(_) => RecordKind::Cname,
            RecordData::Caa { .. } => RecordKind::Caa,
            RecordData::Mx { .. } => RecordKind::Mx,
            RecordData::Ns(_) => RecordKind::Ns,
            RecordData::Srv { .. } => RecordKind::Srv,
            RecordData::Txt(_) => RecordKind::Txt,
        }
    }

    /// The host that it leads to, which must have addresses and no other name.
    pub fn host(&self) -> Option<&Domain> {
        match self {
            RecordData::Mx { exchange: host, .. } | RecordData::Srv { target: host, .. } | RecordData::Ns(host) => {
                Some(host)
            }
            RecordData::A(_)
            | RecordData::Aaaa(_)
            | RecordData::Cname(_)
            | RecordData::Caa { .. }
            | RecordData::Txt(_) => None,
        }
    }

    /// Reads what a manifest says of a record of `kind`. A name without a dot is one below `zone`; where that is none all are whole.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn read(kind: RecordKind, text: &str, zone: Option<&str>) -> Result<Self, String> {
        let example = match kind {
            RecordKind::A => "an IPv4 address, for example \"192.0.2.7\"",
            RecordKind::Aaaa => "an IPv6 address, for example \"2001:db8::7\"",
            RecordKind::Cname | RecordKind::Ns => "a name, for example \"www.example.net.\"",
            RecordKind::Caa => "a flag, a tag and a value, for example '0 issue \"letsencrypt.org\"'",
            RecordKind::Mx => "a preference and a host, for example \"10 mail.example.net.\"",
            RecordKind::Srv => "priority, weight, port and host, for example \"0 5 5060 sip.example.net.\"",
            RecordKind::Txt => "a text",
        };
        let wrong = || format!("{:?} is not {example}", crate::control::limits::cut(text, 80));
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let number = |word: &str| word.parse::<u16>().map_err(|_| wrong());
        let name = |word: &str| Domain::read(word, zone);
        let host = |word: &str| match Domain::read(word, zone)? {
            root if root.is_root() => Err(format!("\".\" is no host; {}", wrong())),
            host => Ok(host),
        };
        match (kind, words.as_slice()) {
            (RecordKind::A, [addr]) => addr.parse().map(Self::A).map_err(|_| wrong()),
            (RecordKind::Aaaa, [addr]) => addr.parse().map(Self::Aaaa).map_err(|_| wrong()),
            (RecordKind::Cname, [target]) => host(target).map(Self::Cname),
            (RecordKind::Ns, [server]) => host(server).map(Self::Ns),
            (RecordKind::Mx, [preference, exchange]) => {
                Ok(Self::Mx { preference: number(preference)?, exchange: name(exchange)? })
            }
            (RecordKind::Srv, [priority, weight, port, target]) => Ok(Self::Srv {
                priority: number(priority)?,
                weight: number(weight)?,
                port: number(port)?,
                target: name(target)?,
            }),
            (RecordKind::Caa, [flag, tag, ..]) => {
                let critical = match *flag {
                    "0" => false,
                    "128" => true,
                    _ => return Err(wrong()),
                };
                // All after the tag, which begins where it is found after the flag.
                let rest = text.trim_start().trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
                let value = rest.strip_prefix(tag).unwrap_or_default().trim();
                let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
                let is_tag = (1..=15).contains(&tag.len()) && tag.bytes().all(|byte| byte.is_ascii_alphanumeric());
                let is_plain = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\';
                if !is_tag || !value.bytes().all(is_plain) || value.trim() != value {
                    return Err(wrong());
                }
                if value.len() > TEXT_BYTES_MAX {
                    return Err(format!("a value of {} bytes exceeds {TEXT_BYTES_MAX}", value.len()));
                }
                Ok(Self::Caa { critical, tag: tag.to_ascii_lowercase(), value: value.into() })
            }
            (RecordKind::Txt, _) if text.chars().any(char::is_control) => {
                Err("a text has no characters that cannot be seen, also no line breaks".into())
            }
            (RecordKind::Txt, _) if text.len() > TEXT_BYTES_MAX => {
                Err(format!("a text of {} bytes exceeds {TEXT_BYTES_MAX}", text.len()))
            }
            (RecordKind::Txt, _) => Ok(Self::Txt(text.into())),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for RecordData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind())?;
        match self {
            RecordData::A(addr) => write!(f, "{addr}"),
            RecordData::Aaaa(addr) => write!(f, "{addr}"),
            RecordData::Cname(name) | RecordData::Ns(name) => f.write_str(name.as_str()),
            RecordData::Caa { critical, tag, value } => write!(f, "{} {tag} \"{value}\"", u8::from(*critical) << 7),
            RecordData::Mx { preference, exchange } => write!(f, "{preference} {}", exchange.as_str()),
            RecordData::Srv { priority, weight, port, target } => {
                write!(f, "{priority} {weight} {port} {}", target.as_str())
            }
            RecordData::Txt(text) => f.write_str(text),
        }
    }
}

impl FromStr for RecordData {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (word, rest) = text.split_once(' ').ok_or_else(|| format!("{text:?} is no record"))?;
        let kind = RECORD_KINDS.iter().find(|(known, _)| *known == word).map(|(_, kind)| *kind);
        Self::read(kind.ok_or_else(|| format!("{word:?} is no kind of record"))?, rest, None)
    }
}

impl TryFrom<String> for RecordData {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<RecordData> for String {
    fn from(data: RecordData) -> String {
        data.to_string()
    }
}

/// Something that is wrong in a zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneFault {
    /// At which name; none for the zone as a whole.
    pub owner: Option<String>,
    /// In which of its records; none for the name as a whole.
    pub kind: Option<RecordKind>,
    /// What is wrong, and what would be right.
    pub why: String,
}

/// Why `zone` cannot be the name of a zone that is handed over; none if it can.
pub fn unfit_zone(zone: &str) -> Option<String> {
    if zone.len() > ZONE_BYTES_MAX || !zone.split('.').all(|label| check_name(label).is_ok()) {
        return Some("is no zone: use labels of a-z, 0-9 and '-' between dots, for example example.com".into());
    }
    let is_internal = zone == "hirsel" || zone.ends_with(".hirsel");
    is_internal.then(|| "is the cluster's own zone, which is always answered".into())
}

/// The whole name, in lower case and without a final dot, that `owner` is below `zone`.
pub fn owner_name(owner: &str, zone: &str) -> String {
    if owner == APEX { zone.into() } else { format!("{owner}.{zone}") }
}

impl NameSpec {
    /// Whether there is a record of this kind.
    pub fn has(&self, kind: RecordKind) -> bool {
        self.data.iter().any(|data| data.kind() == kind)
    }

    fn has_address(&self) -> bool {
        self.has(RecordKind::A) || self.has(RecordKind::Aaaa)
    }

    /// Whether it would answer for the addresses of its name, so that no route can.
    pub fn takes_host(&self) -> bool {
        [RecordKind::A, RecordKind::Aaaa, RecordKind::Cname, RecordKind::Ns].into_iter().any(|kind| self.has(kind))
    }
}

impl ZoneSpec {
    /// How many records there are.
    pub fn count(&self) -> usize {
        self.records.values().map(|name| name.data.len()).sum()
    }

    /// The name from which on somebody else answers for `owner`, itself or above it.
    pub fn delegation<'o>(&self, owner: &'o str) -> Option<&'o str> {
        let above = owner.match_indices('.').map(|(dot, _)| &owner[dot + 1..]);
        let mut found = None;
        for name in std::iter::once(owner).chain(above).filter(|name| *name != APEX) {
            if self.records.get(name).is_some_and(|spec| spec.has(RecordKind::Ns)) {
                // The one that is nearest to the zone.
                found = Some(name);
            }
        }
        found
    }

    /// Everything that makes no sense in the zone called `zone`.
    pub fn faults(&self, zone: &str) -> Vec<ZoneFault> {
        let mut faults = Vec::new();
        let mut add = |owner: Option<&str>, kind: Option<RecordKind>, why: String| {
            faults.push(ZoneFault { owner: owner.map(str::to_owned), kind, why });
        };
        if self.count() > RECORDS_PER_ZONE_MAX {
            add(None, None, format!("{} records exceed {RECORDS_PER_ZONE_MAX}", self.count()));
        }
        if self.ttl_s.is_some_and(|ttl| ttl > ZONE_TTL_S_MAX) {
            add(None, None, format!("records are kept for at most {ZONE_TTL_S_MAX} s"));
        }
        for (owner, name) in &self.records {
            let mut say = |kind: Option<RecordKind>, why: String| add(Some(owner), kind, why);
            if let Err(why) = check_owner(owner, zone) {
                say(None, why);
                continue;
            }
            if name.data.is_empty() {
                say(None, "has no records".into());
            }
            if name.ttl_s.is_some_and(|ttl| ttl > ZONE_TTL_S_MAX) {
                say(None, format!("records are kept for at most {ZONE_TTL_S_MAX} s"));
            }
            for (_, kind) in RECORD_KINDS {
                let count = name.data.iter().filter(|data| data.kind() == kind).count();
                if count > RECORDS_PER_SET_MAX {
                    say(Some(kind), format!("{count} records exceed {RECORDS_PER_SET_MAX}"));
                }
            }
            self.alone(owner, name, &mut say);
            self.delegated(owner, name, zone, &mut say);
            for data in &name.data {
                if let Some(why) = self.astray(data, zone) {
                    say(Some(data.kind()), why);
                }
            }
            if let Some(why) = self.round(owner, zone) {
                say(Some(RecordKind::Cname), why);
            }
        }
        faults
    }

    /// Where there is a CNAME there is nothing else (RFC 2181, section 10.1), and none at the zone itself, which has SOA and NS.
    fn alone(&self, owner: &str, name: &NameSpec, say: &mut impl FnMut(Option<RecordKind>, String)) {
        if !name.has(RecordKind::Cname) {
            return;
        }
        if owner == APEX {
            say(Some(RecordKind::Cname), "the zone itself is no other name: it has records of its own".into());
        } else if name.data.len() > 1 {
            say(Some(RecordKind::Cname), "is another name, so there is one CNAME and nothing else".into());
        }
    }

    /// Delegations are below the zone, and what is below them is theirs, but for addresses of their servers.
    fn delegated(&self, owner: &str, name: &NameSpec, zone: &str, say: &mut impl FnMut(Option<RecordKind>, String)) {
        if name.has(RecordKind::Ns) {
            if owner == APEX {
                return say(
                    Some(RecordKind::Ns),
                    format!("the zone itself is answered by the nodes, NODE.{SERVERS}.{zone}"),
                );
            }
            if owner.starts_with('*') {
                return say(Some(RecordKind::Ns), "not every name can be answered by others".into());
            }
        }
        let Some(cut) = self.delegation(owner) else { return };
        let is_cut = cut == owner;
        let glue = |kind| matches!(kind, RecordKind::A | RecordKind::Aaaa) || is_cut && kind == RecordKind::Ns;
        if let Some(data) = name.data.iter().find(|data| !glue(data.kind())) {
            say(Some(data.kind()), format!("{cut} is answered by others (NS), and so is all below"));
        }
        for data in name.data.iter().filter(|data| data.kind() == RecordKind::Ns) {
            let server = data.host().map(Domain::key).unwrap_or_default();
            let Some(host) = owner_of(&server, zone) else { continue };
            if self.delegation(&host) == Some(cut) && !self.records.get(&host).is_some_and(NameSpec::has_address) {
                say(
                    Some(RecordKind::Ns),
                    format!("{server} is below what it answers for: say its address here, too (glue)"),
                );
            }
        }
    }

    /// Hosts that records lead to have no other name (RFC 2181, section 10.3).
    fn astray(&self, data: &RecordData, zone: &str) -> Option<String> {
        if let RecordData::Mx { preference, exchange } = data
            && exchange.is_root()
            && *preference != 0
        {
            return Some("no mail is taken: write \"0 .\", and nothing else".into());
        }
        let host = data.host()?;
        let there = self.records.get(&owner_of(&host.key(), zone)?)?;
        there
            .has(RecordKind::Cname)
            .then(|| format!("{} is another name (CNAME); say which host is meant", host.as_str()))
    }

    /// Whether following the other names of `owner` comes to no end in this zone.
    fn round(&self, owner: &str, zone: &str) -> Option<String> {
        let mut at = owner.to_owned();
        for _ in 0..=CHAIN_MAX {
            let target = self.records.get(&at)?.data.iter().find_map(|data| match data {
                RecordData::Cname(target) => Some(target.key()),
                _ => None,
            })?;
            at = owner_of(&target, zone)?;
        }
        Some(format!("leads through more than {CHAIN_MAX} other names, or in a circle"))
    }
}

/// What `name` is called below `zone`; none where it is not in it.
fn owner_of(name: &str, zone: &str) -> Option<String> {
    if name == zone {
        return Some(APEX.into());
    }
    name.strip_suffix(zone)?.strip_suffix('.').map(str::to_owned)
}

/// Refuses what is no name below `zone`, or belongs to the nodes.
fn check_owner(owner: &str, zone: &str) -> Result<(), String> {
    if owner == APEX {
        return Ok(());
    }
    if owner.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("names are in lower case here".into());
    }
    if owner == zone || owner.ends_with(&format!(".{zone}")) {
        return Err(format!("names are said below the zone: leave {zone} out, \"@\" is the zone itself"));
    }
    match owner {
        "*" => {}
        _ if owner.ends_with('.') => return Err("names are said below the zone, without a final dot".into()),
        _ => check_labels(owner.strip_prefix("*.").unwrap_or(owner))?,
    }
    let bytes = owner_name(owner, zone).len();
    if bytes > HOST_BYTES_MAX {
        return Err(format!("a name of {bytes} characters exceeds {HOST_BYTES_MAX}"));
    }
    if owner.ends_with(&format!(".{SERVERS}")) {
        return Err(format!("names below {SERVERS} are those of the nodes, NODE.{SERVERS}.{zone}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;

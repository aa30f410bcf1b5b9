//! Keys with which this node signs what it answers for zones (DNSSEC). They are in memory only, and nothing prints them.

use std::collections::BTreeMap;
use std::fmt;

/// A key of a zone: PKCS #8.
#[derive(Clone, PartialEq, Eq)]
pub struct ZoneKey(pub Vec<u8>);

impl fmt::Debug for ZoneKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ZoneKey(…)")
    }
}

/// The keys that have come to this node, by version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZoneKeyring(pub BTreeMap<u64, ZoneKey>);

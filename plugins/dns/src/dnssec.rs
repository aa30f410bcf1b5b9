//! Signatures (DNSSEC, RFC 4033 to 4035): who signs for a zone, and what is signed already.
//!
//! Every node signs what it answers itself, with the key that the cluster has for the zone (ECDSA P-256, algorithm 13, one key for
//! everything). A signature is good for a window of time that all nodes have in common, so what was signed once is good for hours,
//! and is remembered by a hash of all that it covers: what is remembered can never stand for anything else.
//!
//! What does not exist is denied in the compact way of RFC 9824, with one signature: by a record that says of exactly this name that it
//! has nothing, and tells nothing of other names. A chain of names made ahead (NSEC, NSEC3) would need all names of a zone in order, to
//! be made anew with each change, and lets anybody list them; the other way of signing on demand (RFC 4470) takes two or three
//! signatures for each answer.
//!
//! Signatures are not the same bytes on all nodes, for each is made with a number that is drawn; all of them are good.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use hickory_proto::rr::{Name, RData, Record, RecordType};
use hirsel_model::WallTime;
use hirsel_model::order::SignedZone;
use hirsel_role::dnssec::ZoneKeyring;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

pub mod wire;

use wire::{Covered, DIGEST_BYTES, SIGNATURE_BYTES};

/// How long signatures are the same: all are made anew twice a day.
const WINDOW_S: u64 = 12 * 3600;
/// How long before its window a signature is good already, for clocks that are behind.
const EARLY_S: u64 = 12 * 3600;
/// How long after its window a signature is good still: what was told in its last second may be kept for a day (the longest TTL), and
/// clocks may be ahead. The shorter, the sooner nobody can be told what was true once.
const LATE_S: u64 = 60 * 3600;
/// Signatures that are remembered: twice as many at most, of some 150 bytes each. Names without end are asked for, but those that are
/// asked for again stay.
const REMEMBERED_MAX: usize = 16_384;

/// When signatures are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Seconds since 1970, as they are written (RFC 4034, section 3.1.5).
    pub from: u32,
    /// The same.
    pub until: u32,
}

impl Window {
    /// The one of this moment, the same on all nodes.
    pub fn at(wall: WallTime) -> Self {
        let begin = wall.0 / 1_000 / WINDOW_S * WINDOW_S;
        // They begin again with zero in 2106, and are compared like that.
        let written = |seconds: u64| (seconds & u64::from(u32::MAX)) as u32;
        Self { from: written(begin.saturating_sub(EARLY_S)), until: written(begin + WINDOW_S + LATE_S) }
    }
}

/// Who signs, by zone.
#[derive(Debug, Default)]
pub struct Signers {
    zones: BTreeMap<String, Signer>,
    remembered: Arc<Remembered>,
}

/// Who signs for one zone.
#[derive(Debug)]
pub struct Signer {
    apex: Name,
    /// Those that have come to this node.
    keys: BTreeMap<u64, Key>,
    signs: u64,
    /// What there is at the zone besides: DNSKEY, CDNSKEY, CDS.
    told: Vec<(RecordType, RData)>,
    /// What the zone above it should say, where that is one of ours.
    above: Vec<RData>,
}

struct Key {
    pair: EcdsaKeyPair,
    tag: u16,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("tag", &self.tag).finish_non_exhaustive()
    }
}

impl Signers {
    /// Signers of `zones`, with the keys that have come.
    pub fn new(zones: &BTreeMap<String, Arc<SignedZone>>, keyring: &ZoneKeyring) -> Self {
        let signer = |(name, zone): (&String, &Arc<SignedZone>)| (name.clone(), Signer::new(name, zone, keyring));
        Self { zones: zones.iter().map(signer).collect(), remembered: Arc::default() }
    }

    /// The same for other zones and keys. What was signed before is good still.
    pub fn next(&self, zones: &BTreeMap<String, Arc<SignedZone>>, keyring: &ZoneKeyring) -> Self {
        Self { remembered: self.remembered.clone(), ..Self::new(zones, keyring) }
    }

    /// Whether nothing is signed.
    pub fn is_empty(&self) -> bool {
        self.zones.is_empty()
    }

    /// Who signs for a zone; none where it is not signed.
    pub fn of(&self, zone: &str) -> Option<&Signer> {
        self.zones.get(zone)
    }

    /// Signatures of a set of records, all of one owner, kind and TTL, which is a whole one.
    pub fn sign(&self, signer: &Signer, set: &[Record], window: Window) -> Vec<Record> {
        let Some(first) = set.first() else { return Vec::new() };
        let kind = first.record_type();
        let covered = Covered { set, zone: &signer.apex, window };
        let sign = |key: &Key| {
            let signed = covered.signed(key.tag)?;
            let signature = self.remembered.signature(key, &signed)?;
            let data = wire::rrsig(&covered, key.tag, &signature)?;
            Some(Record::from_rdata(first.name.clone(), first.ttl, data))
        };
        // Keys are believed by whichever of them the zone above names; all else by the one in force.
        let is_of_keys = matches!(kind, RecordType::DNSKEY | RecordType::CDNSKEY | RecordType::CDS);
        signer
            .keys
            .iter()
            .filter(|(version, _)| is_of_keys || **version == signer.signs)
            .filter_map(|(_, key)| sign(key))
            .collect()
    }
}

impl Signer {
    fn new(name: &str, zone: &SignedZone, keyring: &ZoneKeyring) -> Self {
        let apex = crate::names::name(format_args!("{name}"));
        let (mut told, mut above) = (Vec::new(), Vec::new());
        for (version, public) in &zone.keys {
            told.push((RecordType::DNSKEY, wire::dnskey(RecordType::DNSKEY, public)));
            above.push(wire::ds(RecordType::DS, &apex, public));
            if zone.offered == Some(*version) {
                told.push((RecordType::CDNSKEY, wire::dnskey(RecordType::CDNSKEY, public)));
                told.push((RecordType::CDS, wire::ds(RecordType::CDS, &apex, public)));
            }
        }
        if zone.offered.is_none() {
            told.extend([RecordType::CDNSKEY, RecordType::CDS].map(|kind| (kind, wire::forget(kind))));
        }
        let key = |(version, public): (&u64, &Vec<u8>)| {
            let plain = keyring.0.get(version)?;
            let pair =
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &plain.0, &SystemRandom::new()).ok()?;
            // What is told of it must be of it: with any other key everything would be false.
            let is_right = pair.public_key().as_ref().get(1..) == Some(public.as_slice());
            is_right.then(|| (*version, Key { tag: wire::tag(public), pair }))
        };
        Self { keys: zone.keys.iter().filter_map(key).collect(), signs: zone.signs, told, above, apex }
    }

    /// Whether the key in force has come. Until then nothing can be said to who wants it signed.
    pub fn is_ready(&self) -> bool {
        self.keys.contains_key(&self.signs)
    }

    /// What there is of a kind at the zone itself.
    pub fn told(&self, kind: RecordType) -> impl Iterator<Item = &RData> {
        self.told.iter().filter(move |(of, _)| *of == kind).map(|(_, data)| data)
    }

    /// What the zone above it says of it.
    pub fn above(&self) -> &[RData] {
        &self.above
    }
}

type Signature = [u8; SIGNATURE_BYTES];

/// Signatures by what they cover. What was not asked for again while as many others came, is forgotten.
#[derive(Default)]
struct Remembered {
    halves: Mutex<Halves>,
}

#[derive(Default)]
struct Halves {
    young: HashMap<[u8; DIGEST_BYTES], Signature>,
    old: HashMap<[u8; DIGEST_BYTES], Signature>,
}

impl fmt::Debug for Remembered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remembered").finish_non_exhaustive()
    }
}

impl Remembered {
    fn signature(&self, key: &Key, signed: &[u8]) -> Option<Signature> {
        // Two keys may have the same tag.
        let all = [key.pair.public_key().as_ref(), signed].concat();
        let at: [u8; DIGEST_BYTES] = digest(&SHA256, &all).as_ref().try_into().ok()?;
        if let Some(found) = self.halves().find(&at) {
            return Some(found);
        }
        // Not while others wait for what is remembered.
        let made = key.pair.sign(&SystemRandom::new(), signed).ok()?;
        let made: Signature = made.as_ref().try_into().ok()?;
        self.halves().put(at, made);
        Some(made)
    }

    fn halves(&self) -> std::sync::MutexGuard<'_, Halves> {
        self.halves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Halves {
    fn find(&mut self, at: &[u8; DIGEST_BYTES]) -> Option<Signature> {
        if let Some(found) = self.young.get(at) {
            return Some(*found);
        }
        let found = self.old.remove(at)?;
        self.put(*at, found);
        Some(found)
    }

    fn put(&mut self, at: [u8; DIGEST_BYTES], signature: Signature) {
        if self.young.len() >= REMEMBERED_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(at, signature);
    }
}

#[cfg(test)]
mod tests;

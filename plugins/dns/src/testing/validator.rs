//! Whoever verifies, written apart from what signs: it takes messages to pieces as RFC 4035 (section 5) and RFC 9824 say.

use std::collections::{BTreeMap, BTreeSet};

use hickory_proto::op::Message;
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder, NameEncoding};
use hirsel_model::WallTime;
use hirsel_role::dnssec::ZoneKey;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};

/// A key, and what is told of it.
pub fn draw() -> (ZoneKey, Vec<u8>) {
    let (kind, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
    let bytes = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap().as_ref().to_vec();
    let pair = EcdsaKeyPair::from_pkcs8(kind, &bytes, &random).unwrap();
    let public = pair.public_key().as_ref()[1..].to_vec();
    (ZoneKey(bytes), public)
}

/// Who believes these keys of a zone.
#[derive(Clone, Debug)]
pub struct Validator {
    pub zone: String,
    pub keys: Vec<Vec<u8>>,
}

/// What was proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proven {
    /// So many records.
    Answer(usize),
    NoData,
    NxDomain,
    /// Others answer, and sign nothing.
    Unsigned,
}

fn names(wire: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut at = 0;
    while wire[at] != 0 {
        at += 1 + usize::from(wire[at]);
    }
    (wire[..=at].to_ascii_lowercase(), &wire[at + 1..])
}

fn wire(name: &Name) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.iter() {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.to_ascii_lowercase());
    }
    bytes.push(0);
    bytes
}

/// What a record says, with names in lower case where RFC 4034 says so.
fn canonical(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_name_encoding(NameEncoding::Uncompressed);
    record.data.emit(&mut encoder).unwrap();
    let skip = match record.record_type() {
        RecordType::NS | RecordType::CNAME | RecordType::SOA => 0,
        RecordType::MX => 2,
        RecordType::SRV => 6,
        _ => return bytes,
    };
    let (mut all, mut rest) = (bytes[..skip].to_vec(), bytes[skip..].to_vec());
    let count = if record.record_type() == RecordType::SOA { 2 } else { 1 };
    for _ in 0..count {
        let (name, after) = names(&rest);
        all.extend(name);
        rest = after.to_vec();
    }
    all.extend(rest);
    all
}

fn kinds(bits: &[u8]) -> BTreeSet<u16> {
    let (mut all, mut rest) = (BTreeSet::new(), bits);
    while let [window, length, after @ ..] = rest {
        let (bits, after) = after.split_at(usize::from(*length));
        for (at, byte) in bits.iter().enumerate() {
            all.extend(
                (0..8)
                    .filter(|bit| byte >> (7 - bit) & 1 == 1)
                    .map(|bit| u16::from(*window) << 8 | u16::try_from(at * 8 + bit).unwrap()),
            );
        }
        rest = after;
    }
    all
}

impl Validator {
    /// What `message` proves at `wall`, or why nothing.
    pub fn validate(&self, message: &Message, wall: WallTime) -> Result<Proven, String> {
        let asked = &message.queries[0];
        let mut sets: BTreeMap<(String, u16, bool), Vec<&Record>> = BTreeMap::new();
        let answers = message.answers.iter().map(|record| (record, true));
        for (record, is_answer) in answers.chain(message.authorities.iter().map(|record| (record, false))) {
            let name = record.name.to_lowercase().to_string();
            sets.entry((name, record.record_type().into(), is_answer)).or_default().push(record);
        }
        let rrsig = u16::from(RecordType::RRSIG);
        for ((name, kind, is_answer), set) in sets.iter().filter(|((_, kind, _), _)| *kind != rrsig) {
            if *kind == u16::from(RecordType::NS) && !is_answer {
                continue;
            }
            let none = Vec::new();
            let signatures = sets.get(&(name.clone(), rrsig, *is_answer)).unwrap_or(&none);
            let good = signatures.iter().any(|signature| self.verify(set, signature, wall));
            if !good {
                return Err(format!("{name} {kind} is not signed"));
            }
        }
        let has_answer = message.answers.iter().filter(|record| record.record_type() != RecordType::RRSIG).count();
        let owner = |at: &Name| at.to_lowercase();
        // Where the names lead that are meant.
        let mut meant = owner(&asked.name);
        for _ in 0..9 {
            let alias =
                message.answers.iter().find(|it| it.record_type() == RecordType::CNAME && owner(&it.name) == meant);
            let Some(alias) = alias.filter(|_| asked.query_type != RecordType::CNAME) else { break };
            meant = Name::from_ascii(alias.data.to_string()).unwrap().to_lowercase();
        }
        let mut proofs = message.authorities.iter().filter(|record| record.record_type() == RecordType::NSEC);
        if let Some(proof) = proofs.next() {
            let bytes = proof.data.to_bytes().unwrap();
            let (next, bits) = names(&bytes);
            let kinds = kinds(bits);
            let at = owner(&proof.name);
            if kinds.contains(&2) && !kinds.contains(&6) {
                // A delegation: only DS is denied by it, and nothing below.
                let own = wire(&at);
                let beside = [&[own[0] + 1][..], &own[1..=usize::from(own[0])], &[0], &own[usize::from(own[0]) + 1..]];
                if kinds.contains(&43) || next != beside.concat() {
                    return Err("a delegation that is no unsigned one".into());
                }
                if asked.query_type == RecordType::DS && at == meant {
                    return Ok(Proven::NoData);
                }
                return if at.zone_of(&meant) { Ok(Proven::Unsigned) } else { Err("another delegation".into()) };
            }
            if next != [&[1, 0][..], &wire(&at)].concat() {
                return Err("what is denied is more than one name".into());
            }
            let code = u16::from(asked.query_type);
            if at != meant || kinds.contains(&code) || kinds.contains(&5) {
                return Err(format!("{at} {kinds:?} denies nothing"));
            }
            return Ok(if kinds.contains(&128) { Proven::NxDomain } else { Proven::NoData });
        }
        if has_answer == 0 {
            return Err("nothing is proven".into());
        }
        Ok(Proven::Answer(has_answer))
    }

    fn verify(&self, set: &[&Record], signature: &Record, wall: WallTime) -> bool {
        let bytes = signature.data.to_bytes().unwrap();
        let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        let (signer, sig) = names(&bytes[18..]);
        let now = u32::try_from(wall.0 / 1_000).unwrap();
        let first = set[0];
        let is_of_it = bytes[..2] == u16::from(first.record_type()).to_be_bytes()
            && bytes[2] == 13
            && signer == wire(&Name::from_ascii(format!("{}.", self.zone)).unwrap())
            && (word(12)..=word(8)).contains(&now)
            && set.iter().all(|record| record.ttl == word(4))
            && signature.ttl == word(4);
        let labels = usize::from(bytes[3]);
        let all = first.name.iter().count();
        let is_star = first.name.iter().next() == Some(b"*");
        if !is_of_it || labels != all - usize::from(is_star) {
            return false;
        }
        let mut signed = bytes[..18].to_vec();
        signed.extend(signer);
        let said: BTreeSet<Vec<u8>> = set.iter().map(|record| canonical(record)).collect();
        for data in said {
            signed.extend(wire(&first.name));
            signed.extend(&bytes[..2]);
            signed.extend([0, 1]);
            signed.extend(&bytes[4..8]);
            signed.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            signed.extend(data);
        }
        let good = |key: &Vec<u8>| {
            let point = [&[4][..], key].concat();
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(&signed, sig).is_ok()
        };
        self.keys.iter().any(good)
    }
}

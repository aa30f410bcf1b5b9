//! What is signed, byte for byte (RFC 4034), and the records that are made for it. Pure.
//!
//! They are written here as bytes and not by the library's own types, for which it would read what other servers say in them, too: what
//! is passed on stays as it was signed.

use hickory_proto::rr::rdata::NULL;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder, NameEncoding};
use ring::digest::{SHA256, digest};

use super::Window;

/// ECDSA on the curve P-256 with SHA-256 (RFC 6605): small and quick to sign with, and understood by all who verify anything.
const ALGORITHM: u8 = 13;
/// A key of a zone that the zone above it may name (RFC 4034, section 2.1.1).
const FLAGS: u16 = 257;
/// The only protocol there is.
const PROTOCOL: u8 = 3;
/// SHA-256 (RFC 4509).
const DIGEST: u8 = 2;
/// Bytes of that.
pub const DIGEST_BYTES: usize = 32;
/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;
/// There is no such name (RFC 9824, section 2). Nobody can ask for it.
pub const NXNAME: RecordType = RecordType::Unknown(128);
/// Longest name on the wire (RFC 1035, section 2.3.4), and longest label.
const NAME_BYTES_MAX: usize = 255;
const LABEL_BYTES_MAX: usize = 63;

/// A set of records that is signed: all of one owner, kind and TTL.
#[derive(Clone, Copy)]
pub struct Covered<'a> {
    /// The records, in any order.
    pub set: &'a [Record],
    /// The zone they are in.
    pub zone: &'a Name,
    /// When the signature is good.
    pub window: Window,
}

impl Covered<'_> {
    /// What a signature covers (RFC 4034, section 3.1.8.1). None for no records.
    pub fn signed(&self, tag: u16) -> Option<Vec<u8>> {
        let mut bytes = self.head(tag)?;
        let first = self.set.first()?;
        // Canonical order (section 6.3): by what they say, as bytes. Each once.
        let mut all = self.set.iter().map(|record| canonical(&record.data)).collect::<Option<Vec<_>>>()?;
        all.sort_unstable();
        all.dedup();
        for data in all {
            bytes.extend(lower(&first.name));
            bytes.extend(u16::from(first.record_type()).to_be_bytes());
            bytes.extend(u16::from(first.dns_class).to_be_bytes());
            bytes.extend(first.ttl.to_be_bytes());
            bytes.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
            bytes.extend(data);
        }
        Some(bytes)
    }

    /// What is before the signature (section 3.1).
    fn head(&self, tag: u16) -> Option<Vec<u8>> {
        let first = self.set.first()?;
        let mut bytes = Vec::with_capacity(200);
        bytes.extend(u16::from(first.record_type()).to_be_bytes());
        // All labels but that of a wildcard that is asked for by its own name: what one stands for is signed under the name it stands
        // for (RFC 9824, section 3.3).
        bytes.extend([ALGORITHM, first.name.num_labels()]);
        bytes.extend(first.ttl.to_be_bytes());
        bytes.extend(self.window.until.to_be_bytes());
        bytes.extend(self.window.from.to_be_bytes());
        bytes.extend(tag.to_be_bytes());
        bytes.extend(lower(self.zone));
        Some(bytes)
    }
}

/// A signature as a record.
pub fn rrsig(covered: &Covered<'_>, tag: u16, signature: &[u8; SIGNATURE_BYTES]) -> Option<RData> {
    let mut bytes = covered.head(tag)?;
    bytes.extend(signature);
    Some(data(RecordType::RRSIG, bytes))
}

/// What a record says in canonical form (section 6.2; RFC 6840, section 5.1): names whole and in lower case, where the kind is an old one.
fn canonical(data: &RData) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(64);
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_canonical_form(true);
    encoder.set_name_encoding(NameEncoding::Uncompressed);
    data.emit(&mut encoder).ok()?;
    Some(bytes)
}

/// A name, whole and in lower case.
fn lower(name: &Name) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 1);
    for label in name.iter() {
        // No label is longer than 63.
        bytes.push(label.len() as u8);
        bytes.extend(label.iter().map(u8::to_ascii_lowercase));
    }
    bytes.push(0);
    bytes
}

/// A key, as a record of `kind`: DNSKEY or CDNSKEY.
pub fn dnskey(kind: RecordType, public: &[u8]) -> RData {
    data(kind, key_bytes(public))
}

fn key_bytes(public: &[u8]) -> Vec<u8> {
    [&FLAGS.to_be_bytes()[..], &[PROTOCOL, ALGORITHM], public].concat()
}

/// By what a key is found (RFC 4034, appendix B).
pub fn tag(public: &[u8]) -> u16 {
    let bytes = key_bytes(public);
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    ((sum + (sum >> 16)) & 0xffff) as u16
}

/// What a zone above says of a key, as a record of `kind`: DS or CDS.
pub fn ds(kind: RecordType, zone: &Name, public: &[u8]) -> RData {
    data(kind, [&tag(public).to_be_bytes()[..], &[ALGORITHM, DIGEST], &hash(zone, public)].concat())
}

/// The hash of a key by which the zone above names it (RFC 4034, section 5.1.4).
pub fn hash(zone: &Name, public: &[u8]) -> Vec<u8> {
    digest(&SHA256, &[lower(zone), key_bytes(public)].concat()).as_ref().to_vec()
}

/// The word to the zone above to say nothing of keys any more (RFC 8078, section 4).
pub fn forget(kind: RecordType) -> RData {
    let bytes: &[u8] = if kind == RecordType::CDNSKEY { &[0, 0, 3, 0, 0] } else { &[0, 0, 0, 0, 0] };
    data(kind, bytes.to_vec())
}

/// What comes right after a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Whatever is below it, were there anything.
    Below,
    /// What is beside it, for what is below is answered by others (RFC 9824, section 3.4).
    Beside,
}

/// Says that `name` has records of these kinds, and no others (RFC 4034, section 4). None for a name that is so long that none comes
/// right after it.
pub fn nsec(name: &Name, next: Next, kinds: impl IntoIterator<Item = RecordType>) -> Option<RData> {
    let lower = lower(name);
    let mut bytes = match next {
        Next::Below => [&[1, 0][..], &lower].concat(),
        Next::Beside => {
            let length = usize::from(*lower.first()?);
            let longer = u8::try_from(length + 1).ok().filter(|longer| usize::from(*longer) <= LABEL_BYTES_MAX)?;
            [&[longer][..], lower.get(1..=length)?, &[0], lower.get(length + 1..)?].concat()
        }
    };
    if bytes.len() > NAME_BYTES_MAX {
        return None;
    }
    let own = [RecordType::RRSIG, RecordType::NSEC];
    let mut codes: Vec<u16> = kinds.into_iter().chain(own).map(u16::from).collect();
    codes.sort_unstable();
    codes.dedup();
    for window in codes.chunk_by(|one, other| one >> 8 == other >> 8) {
        let mut bits = Vec::new();
        for code in window {
            let at = usize::from(code & 0xff);
            bits.resize(at / 8 + 1, 0);
            bits[at / 8] |= 0x80 >> (at % 8);
        }
        // 32 at most.
        bytes.extend([(window[0] >> 8) as u8, bits.len() as u8]);
        bytes.extend(bits);
    }
    Some(data(RecordType::NSEC, bytes))
}

fn data(code: RecordType, bytes: Vec<u8>) -> RData {
    RData::Unknown { code, rdata: NULL::with(bytes) }
}

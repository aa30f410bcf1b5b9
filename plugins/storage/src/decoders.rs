//! Every decoder of what comes from a disk, or from other nodes, by name, as something that takes any bytes.
//!
//! Fuzzing (`fuzz/` in the root) and a property test throw bytes at them. None may panic, whatever the bytes are.

use crate::chunk::ChunkId;
use crate::disk::{PACKED_BYTES_MAX, deaths, file, identity, record, scan, sidecar};

/// A decoder by its name.
pub type Decoder = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: &[Decoder] = &[
    ("segment", |bytes| drop(scan(bytes, 1))),
    ("record", |bytes| drop(record::Head::decode(bytes, PACKED_BYTES_MAX, 1, 0))),
    ("sidecar", |bytes| drop(sidecar::decode(bytes, 1))),
    ("deaths", |bytes| drop(deaths::read(bytes))),
    ("file", |bytes| {
        drop(file::checksums(ChunkId([1; 16]), u32::try_from(bytes.len()).unwrap_or(u32::MAX), bytes));
        if let Ok(name) = std::str::from_utf8(bytes) {
            let _ = file::parse(name);
        }
    }),
    ("wire", crate::wire::decode_any),
    ("identity", |bytes| drop(identity::decode(bytes))),
];

/// Gives `bytes` to all of them.
pub fn all(bytes: &[u8]) {
    ALL.iter().for_each(|(_, decode)| decode(bytes));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chunk::Checksum;
    use crate::disk::deaths::Death;
    use crate::disk::{DiskId, Identity};

    fn samples() -> Vec<Vec<u8>> {
        let chunk = ChunkId([1; 16]);
        let head = record::Head { chunk, bytes: 9, segment: 1, offset: 0, safe: 0, checksums: vec![Checksum([0; 32])] };
        let mut encoded = Vec::new();
        head.encode(&mut encoded);
        encoded.resize(record::record_bytes(9) as usize, 0);
        let entry = sidecar::Entry { chunk, offset: 0, bytes: 9 };
        let node = hirsel_model::NodeId(1);
        let identity = Identity { cluster: hirsel_model::ClusterId("c".into()), node, disk: DiskId(1) };
        vec![
            encoded,
            sidecar::encode(1, &sidecar::Sidecar { end: 128, entries: vec![entry] }),
            deaths::encode(chunk, Death::Evicted(9)).to_vec(),
            file::tail(chunk, 9, &[Checksum([0; 32])]),
            file::name(chunk, 9).into_bytes(),
            identity::encode(&identity),
        ]
    }

    proptest! {
        #[test]
        fn no_decoder_panics(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            all(&bytes);
        }

        #[test]
        fn no_decoder_panics_at_what_is_almost_right(
            which in any::<prop::sample::Index>(),
            at in any::<prop::sample::Index>(),
            with in any::<u8>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let samples = samples();
            let mut bytes = which.get(&samples).clone();
            let at = at.index(bytes.len());
            bytes[at] = with;
            all(&bytes);
            bytes.truncate(cut.index(bytes.len() + 1));
            all(&bytes);
        }
    }
}

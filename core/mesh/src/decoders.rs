//! Every decoder of what comes from outside or from a disk, by name, as something that takes any bytes.
//!
//! Fuzzing (`fuzz/` in the root) and property tests throw bytes at them. None may panic, and none may take more memory than its limit
//! says, whatever the bytes are. What they understand is dropped.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use hirsel_model::control::{ControlState, Entry};
use hirsel_model::{ClusterId, NodeId, codec};

use crate::identity::{self, JoinToken};
use crate::transport::{Peer, Peers};
use crate::{archive, control, gossip, raft, transport};

/// A decoder by its name.
pub type Decoder = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: &[Decoder] = &[
    ("gossip", |bytes| gossip::decode(bytes, NodeId(1), &peers())),
    ("call", |bytes| done(transport::decode_call(bytes))),
    ("answer", |bytes| done(transport::decode_answer(bytes))),
    ("join", |bytes| done(transport::decode_join(bytes))),
    ("knock", transport::decode_knock),
    ("door", |bytes| done(transport::decode_door(bytes))),
    ("raft", raft::decode),
    ("snapshot", raft::decode_snapshot),
    ("entry", |bytes| drop(codec::decode::<Entry>(bytes))),
    ("state", |bytes| drop(codec::decode::<ControlState>(bytes))),
    ("follow", |bytes| done(control::decode_follow(bytes))),
    ("token", |bytes| {
        if let Ok(text) = std::str::from_utf8(bytes) {
            drop(text.parse::<JoinToken>());
        }
    }),
    ("certificate", |bytes| {
        drop(identity::certified(bytes, &ClusterId("c".into())));
        drop(identity::valid_from(bytes));
    }),
    ("request", identity::decode_request),
    ("front", identity::decode_front),
    ("backup", archive::decode),
];

/// The decoder called `name`.
///
/// # Panics
/// When there is none.
pub fn named(name: &str) -> fn(&[u8]) {
    let found = ALL.iter().find(|(known, _)| *known == name);
    found.map(|(_, decode)| *decode).unwrap_or_else(|| panic!("no decoder called {name}"))
}

/// Some members, whose words are not passed over.
fn peers() -> Peers {
    let peer = |id: u64| (NodeId(id), Peer { addr: ([127, 0, 0, id as u8], 7400).into(), key: [id as u8; 32] });
    Peers { nodes: BTreeMap::from([peer(1), peer(2), peer(3)]) }
}

/// Reading from bytes that are all there never waits.
fn done(reading: impl Future<Output = ()>) {
    reading.now_or_never().unwrap_or_default();
}

/// What each decoder may be given to begin with: true messages, of which others are made.
pub fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let state = Arc::new(ControlState::default());
    let entry = codec::encode(&Entry {
        at: Default::default(),
        by: "n1".into(),
        if_index: None,
        command: hirsel_model::control::Command::SetWebhook { url: Some("http://localhost/".into()) },
    });
    let mut samples = vec![
        ("entry", entry.clone()),
        ("state", codec::encode(&*state)),
        ("token", b"hirsel1q2w3e4r".to_vec()),
        ("door", b"\x0ashop/web/1".to_vec()),
        ("join", b"\0\0\0\x05hello".to_vec()),
        ("answer", b"\0\0\0\0\x02ok".to_vec()),
    ];
    samples.extend(gossip::samples().into_iter().map(|bytes| ("gossip", bytes)));
    samples.extend(raft::samples().into_iter().map(|bytes| ("raft", bytes)));
    samples.extend(raft::snapshot_samples(codec::encode(&*state)).into_iter().map(|bytes| ("snapshot", bytes)));
    samples.extend(control::follow_samples(&state, entry).into_iter().map(|bytes| ("follow", bytes)));
    samples.extend(transport::call_samples().into_iter().map(|bytes| ("call", bytes)));
    samples.extend(archive::samples().into_iter().map(|bytes| ("backup", bytes)));
    samples.extend(identity::samples());
    samples
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_decoder_takes_its_samples_and_all_others() {
        let samples = samples();
        for (name, decode) in ALL {
            assert!(*name == "knock" || samples.iter().any(|(of, _)| of == name), "{name} has no sample");
            samples.iter().for_each(|(_, bytes)| decode(bytes));
        }
    }

    /// A sample with bytes changed, cut out, doubled or appended.
    fn mutated() -> impl Strategy<Value = Vec<u8>> {
        let samples: Vec<Vec<u8>> = samples().into_iter().map(|(_, bytes)| bytes).collect();
        let change = (any::<prop::sample::Index>(), any::<u8>(), 0..6_u8);
        (prop::sample::select(samples), prop::collection::vec(change, 1..6)).prop_map(|(mut bytes, changes)| {
            for (at, value, how) in changes {
                if bytes.is_empty() {
                    break;
                }
                let at = at.index(bytes.len());
                match how {
                    0 => bytes[at] = value,
                    1 => bytes[at] ^= 1 << (value % 8),
                    2 => bytes.truncate(at),
                    3 => drop(bytes.remove(at)),
                    4 => bytes.insert(at, value),
                    _ => bytes.extend_from_within(at..),
                }
            }
            bytes
        })
    }

    proptest! {
        #[test]
        fn no_bytes_whatever_bring_a_decoder_down(bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..600), mutated()]) {
            ALL.iter().for_each(|(_, decode)| decode(&bytes));
        }
    }
}

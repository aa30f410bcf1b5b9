//! Every decoder of what comes from other nodes or from a disk, by name, as something that takes any bytes: for fuzzing (`fuzz/` in the
//! root) and property tests. None may panic, whatever the bytes are. What they understand is dropped.

use hirsel_model::{WallTime, codec};

use crate::meta::kinds::{
    Acl, Bucket, Chunk, Due, Dying, Head, Manifest, Part, Replicating, Upload, Usage, Version, Write,
};
use crate::meta::outbox::{Notice, Queue};
use crate::meta::rows::Memory;
use crate::meta::{Answer, Command, Entry, apply, key, names, snapshot, token};

/// A decoder by its name.
pub type Decoder = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: &[Decoder] =
    &[("meta-entry", entry), ("meta-rows", rows), ("meta-snapshot", frames), ("meta-text", text)];

/// The decoder called `name`.
///
/// # Panics
/// When there is none.
pub fn named(name: &str) -> fn(&[u8]) {
    let found = ALL.iter().find(|(known, _)| *known == name);
    found.map(|(_, decode)| *decode).unwrap_or_else(|| panic!("no decoder called {name}"))
}

/// An entry, which is also carried out over nothing.
fn entry(bytes: &[u8]) {
    if let Ok(entry) = codec::decode::<Entry>(bytes) {
        drop(apply(&Memory::new(), entry));
    }
    drop(codec::decode::<Answer>(bytes));
}

fn rows(bytes: &[u8]) {
    drop(codec::decode::<Head>(bytes));
    drop(codec::decode::<Bucket>(bytes));
    drop(codec::decode::<Usage>(bytes));
    drop(codec::decode::<Version>(bytes));
    drop(codec::decode::<Manifest>(bytes));
    drop(codec::decode::<Upload>(bytes));
    drop(codec::decode::<Part>(bytes));
    drop(codec::decode::<Write>(bytes));
    drop(codec::decode::<Chunk>(bytes));
    drop(codec::decode::<Dying>(bytes));
    drop(codec::decode::<Replicating>(bytes));
    let _ = codec::decode::<Due>(bytes);
    drop(codec::decode::<Queue>(bytes));
    drop(codec::decode::<Notice>(bytes));
    drop(key::key_in(bytes));
    let _ = (key::chunk_in(bytes), key::number_in(bytes, 1));
}

fn frames(bytes: &[u8]) {
    let mut taking = snapshot::Taking::default();
    drop(taking.take(bytes));
    if let Ok(Some(begin)) = snapshot::Frames::default().next(&Memory::new()) {
        drop(taking.take(&begin));
        drop(taking.take(bytes));
    }
}

fn text(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        drop(token::decode(text));
        drop(text.parse::<names::VersionRef>());
        drop(text.parse::<names::BucketName>());
        drop(text.parse::<names::ObjectKey>());
    }
}

/// What each decoder may be given to begin with: true bytes, of which others are made.
pub fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let mut samples = vec![("meta-text", token::encode("photos/").into_bytes()), ("meta-text", b"null".to_vec())];
    if let Ok(name) = "pics".parse() {
        let (owner, region) = ("ann".into(), "here".into());
        let command =
            Command::CreateBucket { name, owner, region, lockable: true, acl: Acl::Private, class: Default::default() };
        let entry = Entry { at: WallTime(1), salt: 2, command };
        samples.push(("meta-entry", codec::encode(&entry)));
        let mut rows = Memory::new();
        if let Ok((changes, _)) = apply(&rows, entry) {
            rows.extend(changes.into_iter().filter_map(|(key, change)| Some((key, change?))));
        }
        samples.extend(rows.iter().flat_map(|(key, value)| [("meta-rows", key.clone()), ("meta-rows", value.clone())]));
        let mut frames = snapshot::Frames::default();
        while let Ok(Some(frame)) = frames.next(&rows) {
            samples.push(("meta-snapshot", frame));
        }
    }
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
            assert!(samples.iter().any(|(of, _)| of == name), "{name} has no sample");
            samples.iter().for_each(|(_, bytes)| decode(bytes));
        }
    }

    /// A sample with bytes changed, cut out or added.
    fn mutated() -> impl Strategy<Value = Vec<u8>> {
        let samples: Vec<Vec<u8>> = samples().into_iter().map(|(_, bytes)| bytes).filter(|it| !it.is_empty()).collect();
        let change = (any::<prop::sample::Index>(), any::<u8>(), 0..4_u8);
        (prop::sample::select(samples), prop::collection::vec(change, 1..6)).prop_map(|(mut bytes, changes)| {
            for (at, value, how) in changes {
                if bytes.is_empty() {
                    break;
                }
                let at = at.index(bytes.len());
                match how {
                    0 => bytes[at] = value,
                    1 => bytes.truncate(at),
                    2 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, value),
                }
            }
            bytes
        })
    }

    proptest! {
        #[test]
        fn no_bytes_whatever_bring_a_decoder_down(bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..400), mutated()]) {
            ALL.iter().for_each(|(_, decode)| decode(&bytes));
        }
    }
}

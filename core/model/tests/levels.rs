//! What each feature level wrote stays as it was, byte for byte: builds of two levels keep one log.
//!
//! `levels/N.txt` was made by a build that understood N and no more, and is never written anew (level 1: commit 5dd9b58). Each line is
//! a log entry in hexadecimal, with the name of its command; the last one is the state that they lead to, one after another.

use hirsel_model::LogIndex;
use hirsel_model::codec::{decode, encode};
use hirsel_model::control::{ControlState, Entry, Outcome};
use hirsel_model::feature;

fn bytes(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Reads and writes every entry, applies it, and compares where that leads.
fn replay(file: &str, level: u32) {
    let mut state = ControlState::default();
    assert!(file.lines().count() > 30, "too few entries to show anything");
    for line in file.lines() {
        let (name, hex) = line.split_once(' ').unwrap();
        let written = bytes(hex);
        if name == "state" {
            let kept: ControlState = decode(&written).unwrap();
            assert_eq!(state, kept, "the same entries lead to another state");
            assert_eq!(encode(&state), written, "a state of level {level} is written in another way");
            assert_eq!(state.cluster.feature_level, level);
            return;
        }
        let entry: Entry = decode(&written).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(encode(&entry), written, "{name} is written in another way");
        assert!(feature::needed(&entry.command).level <= level, "{name} was understood at level {level}");
        let outcome = state.apply(LogIndex(state.applied.0 + 1), entry);
        assert!(!matches!(outcome, Outcome::Refused(_)), "{name}: {outcome:?}");
    }
    panic!("the file has no state");
}

#[test]
fn what_level_1_wrote_is_read_written_and_carried_out_as_it_was() {
    replay(include_str!("levels/1.txt"), 1);
}

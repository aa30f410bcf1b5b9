//! The rows on a disk whose power fails, and snapshots of them.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use redb::StorageBackend;

use super::random::History;
use super::*;
use crate::meta::machine::{Machine, on};
use crate::meta::snapshot::{Frames, SnapshotError, Taken, Taking, digest};

/// Each is one life with several failures.
const SEEDS: u64 = 30;

/// A file on a disk that forgets what was not synced.
#[derive(Clone, Debug, Default)]
struct Platter(Arc<Mutex<File>>);

#[derive(Debug, Default)]
struct File {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    /// Where something was written since the last sync.
    written: Vec<(usize, usize)>,
    mount: u64,
    /// Syncs until the power fails.
    left: Option<u32>,
    off: bool,
}

#[derive(Debug)]
struct Mounted(Platter, u64);

impl Platter {
    fn file(&self) -> MutexGuard<'_, File> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mount(&self) -> Box<dyn StorageBackend> {
        let mut file = self.file();
        file.mount += 1;
        (file.off, file.left) = (false, None);
        Box::new(Mounted(self.clone(), file.mount))
    }

    /// The power fails: a random half of what was not synced is there.
    fn fail(&self, chance: &mut SmallRng) {
        let mut file = self.file();
        file.off = true;
        let mut then = std::mem::take(&mut file.synced);
        then.resize(file.bytes.len(), 0);
        for (from, to) in std::mem::take(&mut file.written) {
            if chance.random_bool(0.5) && to <= then.len() {
                then[from..to].copy_from_slice(&file.bytes[from..to]);
            }
        }
        file.synced = then.clone();
        file.bytes = then;
    }
}

impl Mounted {
    fn with<T>(&self, act: impl FnOnce(&mut File) -> io::Result<T>) -> io::Result<T> {
        let mut file = self.0.file();
        if file.off || file.mount != self.1 {
            return Err(io::Error::other("the power is gone"));
        }
        act(&mut file)
    }
}

impl StorageBackend for Mounted {
    fn len(&self) -> io::Result<u64> {
        self.with(|file| Ok(file.bytes.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|file| {
            let at = offset as usize;
            out.copy_from_slice(file.bytes.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|file| {
            file.bytes.resize(len as usize, 0);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|file| {
            if let Some(left) = &mut file.left {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    file.off = true;
                    return Err(io::Error::other("the power fails"));
                }
            }
            file.synced = file.bytes.clone();
            file.written.clear();
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(|file| {
            let at = offset as usize;
            file.bytes.get_mut(at..at + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
            file.written.push((at, at + data.len()));
            Ok(())
        })
    }
}

/// The entries of a random history, encoded, and what the rows are after each.
fn history(seed: u64, steps: usize) -> (Vec<Vec<u8>>, Vec<[u8; 32]>) {
    let mut history = History::new(seed);
    for _ in 0..steps {
        history.step();
    }
    let log: Vec<Vec<u8>> = history.town.log.iter().map(codec::encode).collect();
    let mut rows = Memory::new();
    let mut digests = vec![digest(&rows).expect("memory")];
    for entry in &history.town.log {
        let (changes, _) = apply(&rows, entry.clone()).expect("it was applied before");
        take(&mut rows, changes);
        digests.push(digest(&rows).expect("memory"));
    }
    (log, digests)
}

fn digest_of(machine: &Machine) -> [u8; 32] {
    digest(&machine.reader().moment().expect("it can be read")).expect("it can be read")
}

fn applied(machine: &Machine) -> usize {
    let kept = machine.kept().expect("it can be read");
    kept.map_or(0, |kept| codec::decode(&kept).expect("a number"))
}

#[test]
fn whatever_a_power_failure_leaves_is_one_moment_and_goes_on_from_there() {
    for seed in 0..SEEDS {
        let (log, digests) = history(seed, 60);
        let (platter, mut chance) = (Platter::default(), SmallRng::seed_from_u64(seed));
        let mut durable = 0;
        let mut failures = 0;
        loop {
            let mut machine = on(platter.mount()).expect("it opens");
            let from = applied(&machine);
            assert!(from >= durable, "seed {seed}: what was synced is gone: {from} of {durable}");
            assert_eq!(digest_of(&machine), digests[from], "seed {seed} after {from} entries");
            if from == log.len() {
                break;
            }
            if failures < 5 {
                platter.file().left = Some(chance.random_range(1..6));
            }
            let lived = live(&mut machine, &log, from, &mut durable, &mut chance);
            failures += u32::from(!lived);
            if lived {
                assert_eq!(digest_of(&machine), digests[log.len()], "seed {seed}");
            }
            platter.fail(&mut chance);
            drop(machine);
            if lived {
                let machine = on(platter.mount()).expect("it opens");
                assert_eq!((applied(&machine), digest_of(&machine)), (log.len(), digests[log.len()]), "seed {seed}");
                break;
            }
        }
    }
}

/// Applies the rest of the log in batches, until the power fails, and says whether it did not.
fn live(machine: &mut Machine, log: &[Vec<u8>], from: usize, durable: &mut usize, chance: &mut SmallRng) -> bool {
    let mut at = from;
    while at < log.len() {
        let batch = chance.random_range(1..8).min(log.len() - at);
        for entry in &log[at..at + batch] {
            if machine.apply(entry).is_err() {
                return false;
            }
        }
        at += batch;
        let synced = chance.random_bool(0.3) || at == log.len();
        if machine.commit(&codec::encode(&at), synced).is_err() {
            return false;
        }
        if synced {
            *durable = at;
        }
    }
    true
}

#[test]
fn a_process_that_ends_between_two_batches_leaves_the_last_one() {
    let (log, digests) = history(3, 40);
    let platter = Platter::default();
    let mut machine = on(platter.mount()).expect("it opens");
    for (at, entry) in log.iter().enumerate().take(20) {
        machine.apply(entry).expect("it applies");
        machine.commit(&codec::encode(&(at + 1)), false).expect("it commits");
    }
    machine.apply(&log[20]).expect("it applies");
    assert_eq!(digest_of(&machine), digests[20], "readers see whole batches");
    drop(machine);
    let machine = on(platter.mount()).expect("it opens");
    assert_eq!(digest_of(&machine), digests[applied(&machine)]);
}

#[test]
fn a_snapshot_is_the_state_and_counts_only_when_it_is_whole() {
    let (log, digests) = history(5, 120);
    let platters = [Platter::default(), Platter::default()];
    let mut from = on(platters[0].mount()).expect("it opens");
    for entry in &log {
        from.apply(entry).expect("it applies");
    }
    from.commit(&codec::encode(&log.len()), true).expect("it commits");
    let moment = from.reader().moment().expect("it can be read");
    let (mut frames, mut all) = (Frames::default(), Vec::new());
    while let Some(frame) = frames.next(&moment).expect("it can be read") {
        all.push(frame);
    }
    let mut to = on(platters[1].mount()).expect("it opens");
    to.apply(&log[0]).expect("it applies");
    to.commit(&codec::encode(&1_usize), true).expect("it commits");
    for (at, frame) in all.iter().enumerate() {
        assert_eq!((digest_of(&to), applied(&to)), (digests[1], 1), "it does not count yet");
        assert!(at == 0 || to.arrive(frame, true).is_err(), "it does not begin with this one");
        // From the beginning again, up to here.
        for (before, frame) in all.iter().enumerate().take(at + 1) {
            assert_eq!(to.arrive(frame, before == 0).expect("the next frame"), before + 1 == all.len());
        }
    }
    to.install(&codec::encode(&log.len())).expect("it is taken");
    assert_eq!((digest_of(&to), applied(&to)), (digests[log.len()], log.len()));
    // It can go on, and be replaced.
    to.reset().expect("it forgets");
    assert_eq!((digest_of(&to), applied(&to)), (digests[0], 0));
    to.apply(&log[0]).expect("it applies");
    to.commit(&codec::encode(&1_usize), false).expect("it commits");
    assert_eq!(digest_of(&to), digests[1]);
}

#[test]
fn a_snapshot_that_is_cut_or_altered_is_refused() {
    let mut rows = Memory::new();
    for number in 0..3_000_u32 {
        rows.insert([b"k", number.to_be_bytes().as_slice()].concat(), vec![7; 300]);
    }
    let (mut frames, mut all) = (Frames::default(), Vec::new());
    while let Some(frame) = frames.next(&rows).expect("memory") {
        assert!(frame.len() < 300 << 10);
        all.push(frame);
    }
    assert!(all.len() > 5, "it is in pieces");
    let whole = |frames: &[Vec<u8>]| {
        let (mut taking, mut last) = (Taking::default(), Ok(Taken::Rows(Vec::new())));
        for frame in frames {
            last = taking.take(frame);
            if last.is_err() {
                break;
            }
        }
        last == Ok(Taken::All)
    };
    assert!(whole(&all));
    for without in 0..all.len() {
        let mut cut = all.clone();
        cut.remove(without);
        assert!(!whole(&cut), "without frame {without}");
    }
    let mut swapped = all.clone();
    swapped.swap(1, 2);
    assert!(!whole(&swapped));
    let mut altered = all.clone();
    *altered[2].last_mut().expect("bytes") ^= 1;
    assert!(!whole(&altered));
    let twice = [all.as_slice(), &all[all.len() - 1..]].concat();
    assert!(!whole(&twice));
    let mut taking = Taking::default();
    let newer = codec::encode(&BTreeMap::from([("moon", 1)]));
    assert!(matches!(taking.take(&newer), Err(SnapshotError::Newer(_))));
}

//! Reading everything that a disk holds, over and over, so that what was damaged is found while there are other copies.
//!
//! A pass goes through segments in the order in which they lie, then through files in the order of their ids. It is done in steps, each as
//! long as its caller says; where it is, is noted on the disk, so that the end of a process costs one step.

use std::sync::Arc;

use hirsel_model::codec;
use serde::{Deserialize, Serialize};

use super::index::{Known, Place};
use super::load::{self, sidecar_path};
use super::read;
use super::shared::Shared;
use super::sidecar::{self, Sidecar};
use super::{DiskError, SCRUB};
use crate::chunk::ChunkId;

/// Largest note of where a pass is.
const NOTE_BYTES_MAX: u64 = 4096;
/// Longest list of a segment that is read.
const LIST_BYTES_MAX: u64 = 1 << 30;

/// How far a pass is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// When it began: what its caller said, milliseconds of any clock that goes on over restarts.
    pub begun_ms: u64,
    /// Chunks that were looked at.
    pub chunks: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// How many of them were damaged.
    pub damaged: u64,
    /// Where it goes on.
    #[serde(default)]
    at: At,
}

impl Pass {
    /// One that has looked at nothing yet.
    pub fn begun(now_ms: u64) -> Pass {
        Pass { begun_ms: now_ms, ..Pass::default() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum At {
    Segment { number: u32, offset: u32 },
    File { after: Option<ChunkId> },
}

impl Default for At {
    fn default() -> Self {
        At::Segment { number: 0, offset: 0 }
    }
}

/// What a step of a pass found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// The pass as it is now.
    pub pass: Pass,
    /// Chunks that are not what was written. Another copy must be put in their place.
    pub damaged: Vec<ChunkId>,
    /// Whether everything has been looked at; the next step begins another pass.
    pub is_complete: bool,
}

/// How many bytes a pass that is to take `period_ms` should have looked at by now: those beyond `pass.bytes` are due. Bounded by
/// `rate_max`, bytes per second, counted from the step before, `since_ms` ago: a node that was off catches up without drowning its disk.
pub fn due(pass: &Pass, held: u64, period_ms: u64, now_ms: u64, since_ms: u64, rate_max: u64) -> u64 {
    let elapsed = u128::from(now_ms.saturating_sub(pass.begun_ms).min(period_ms));
    let wanted = u128::from(held) * elapsed / u128::from(period_ms.max(1));
    let allowed = u128::from(rate_max) * u128::from(since_ms) / 1000;
    let due = wanted.saturating_sub(u128::from(pass.bytes)).min(allowed);
    u64::try_from(due).unwrap_or(u64::MAX)
}

/// The pass that an earlier life was at.
pub fn noted(shared: &Shared) -> Option<Pass> {
    let note = load::whole(&*shared.volume, SCRUB, NOTE_BYTES_MAX).ok()??;
    codec::decode(&note).ok()
}

/// Looks at about `budget` bytes, at least one chunk. It blocks.
pub fn step(shared: &Arc<Shared>, pass: &mut Pass, budget: u64) -> Result<Step, DiskError> {
    let mut step = Step::default();
    let end = pass.bytes.saturating_add(budget);
    loop {
        let goes_on = match pass.at {
            At::Segment { number, offset } => through_segment(shared, pass, &mut step, (number, offset), end)?,
            At::File { after } => through_files(shared, pass, &mut step, after, end),
        };
        if !goes_on {
            break;
        }
    }
    step.pass = pass.clone();
    if shared.writable().is_ok() {
        // Where this cannot be noted, another life looks at some chunks once more.
        let _ = load::replace(&*shared.volume, SCRUB, &codec::encode(pass));
    }
    Ok(step)
}

/// Whether there is more to do within this step.
fn through_segment(
    shared: &Arc<Shared>,
    pass: &mut Pass,
    step: &mut Step,
    (number, offset): (u32, u32),
    end: u64,
) -> Result<bool, DiskError> {
    let Some(found) = shared.index().next_sealed(number) else {
        pass.at = At::File { after: None };
        return Ok(true);
    };
    let offset = if found == number { offset } else { 0 };
    for entry in list(shared, found)?.entries {
        if entry.offset < offset {
            continue;
        }
        let here = Place::Packed { segment: found, offset: entry.offset };
        let known = shared.index().get(entry.chunk).filter(|known| known.place == here);
        if let Some(known) = known {
            look(shared, pass, step, entry.chunk, known);
        }
        pass.at = At::Segment { number: found, offset: entry.offset + 1 };
        if pass.bytes >= end {
            return Ok(false);
        }
    }
    pass.at = At::Segment { number: found.saturating_add(1), offset: 0 };
    Ok(true)
}

fn through_files(shared: &Arc<Shared>, pass: &mut Pass, step: &mut Step, after: Option<ChunkId>, end: u64) -> bool {
    let found = shared.index().next_file(after);
    match found {
        Ok(Some((chunk, known))) => {
            look(shared, pass, step, chunk, known);
            pass.at = At::File { after: Some(chunk) };
            pass.bytes < end
        }
        Ok(None) => {
            step.is_complete = true;
            false
        }
        Err(last) => {
            pass.at = At::File { after: Some(last) };
            true
        }
    }
}

fn look(shared: &Arc<Shared>, pass: &mut Pass, step: &mut Step, chunk: ChunkId, known: Known) {
    let read = read::open_at(shared, chunk, known).and_then(|opened| match opened {
        Some(opened) => opened.read_all(shared).map(drop),
        None => Err(DiskError::Damaged { chunk, what: "its file is missing".into() }),
    });
    pass.chunks += 1;
    pass.bytes += u64::from(known.bytes);
    // What was moved or unlinked meanwhile is no damage.
    if read.is_err() && shared.index().get(chunk) == Some(known) {
        shared.is_damaged(chunk);
        pass.damaged += 1;
        step.damaged.push(chunk);
    }
}

/// What lies in a sealed segment.
pub fn list(shared: &Shared, number: u32) -> Result<Sidecar, DiskError> {
    let read = load::whole(&*shared.volume, &sidecar_path(number), LIST_BYTES_MAX);
    let list = read.map_err(|error| shared.failed(&error))?.and_then(|bytes| sidecar::decode(&bytes, number));
    match list {
        Some(list) => Ok(list),
        // Damaged: the index knows as well, in another order and more slowly.
        None => Ok(from_index(shared, number)),
    }
}

fn from_index(shared: &Shared, number: u32) -> Sidecar {
    let mut entries = Vec::new();
    let mut after = None;
    loop {
        let some = shared.index().list(after, 10_000);
        let Some((last, _)) = some.last() else { break };
        after = Some(*last);
        entries.extend(some.iter().filter_map(|(chunk, known)| match known.place {
            Place::Packed { segment, offset } if segment == number => {
                Some(sidecar::Entry { chunk: *chunk, offset, bytes: known.bytes })
            }
            _ => None,
        }));
    }
    entries.sort_by_key(|entry| entry.offset);
    let end = shared.index().segment(number).map_or(0, |segment| segment.end);
    Sidecar { end, entries }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_grows_evenly_and_is_bounded() {
        let pass = Pass { begun_ms: 1_000, bytes: 100, ..Pass::default() };
        let due = |now_ms, since_ms| due(&pass, 1_000_000, 100_000, now_ms, since_ms, 50_000);
        assert_eq!(due(1_000, 1_000), 0);
        assert_eq!(due(11_000, 60_000), 100_000 - 100);
        assert_eq!(due(1_000_000, 1_000), 50_000, "no more than the rate allows");
        assert_eq!(due(1_000_000, 600_000), 1_000_000 - 100);
        assert_eq!(due(0, 1_000), 0, "a clock that was set back");
    }
}

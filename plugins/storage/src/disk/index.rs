//! Where each chunk of a disk lies. It is kept in memory and made anew at each start from what lies on the disk, so that a write takes one
//! sync and not two, and no index can say something else than the data does.
//!
//! A chunk that was unlinked and whose records still lie in a segment is remembered (`graves`) until the segment is gone: until then a
//! start would find it again. A chunk that lies in two segments, because a crash came between the copy and the end of the old segment, is
//! counted (`doubles`), so that it is known when none is left. Records of chunks that were evicted are remembered one by one (`evicted`): the
//! chunk may be there again, in another segment.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::deaths::{Death, Deaths};
use super::record;
use super::sidecar;
use crate::chunk::ChunkId;

/// Entries that are looked at without letting others in between.
const STRETCH: usize = 10_000;

/// Where a chunk lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a segment, with others.
    Packed {
        /// Which one.
        segment: u32,
        /// Where its record begins.
        offset: u32,
    },
    /// In a file of its own.
    File,
}

/// A chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Where it lies.
    pub place: Place,
    /// How long it is.
    pub bytes: u32,
    /// Whether it was condemned.
    pub condemned: bool,
}

/// A segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Bytes up to the end of its last record.
    pub end: u32,
    /// Bytes of records that count.
    pub live: u32,
    /// Nothing more comes in.
    pub sealed: bool,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Index {
    chunks: BTreeMap<ChunkId, Known>,
    condemned: BTreeSet<ChunkId>,
    graves: BTreeMap<ChunkId, u32>,
    doubles: BTreeMap<ChunkId, u32>,
    evicted: BTreeSet<(ChunkId, u32)>,
    segments: BTreeMap<u32, Segment>,
    held: u64,
    /// Bytes of segments up to their ends, and of files.
    taken: u64,
}

/// A chunk is not there, or cannot be evicted now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept;

/// What an index amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Chunks that are there.
    pub chunks: u64,
    /// Bytes of them.
    pub held: u64,
    /// How many of them are condemned.
    pub condemned: u64,
    /// Bytes in segments that no chunk needs any more.
    pub garbage: u64,
}

/// What a chunk takes in a file of its own.
fn file_bytes(known: Known) -> u64 {
    match known.place {
        Place::File => u64::from(known.bytes),
        Place::Packed { .. } => 0,
    }
}

impl Index {
    /// A chunk that is there.
    pub fn get(&self, chunk: ChunkId) -> Option<Known> {
        self.chunks.get(&chunk).copied()
    }

    /// Whether it was unlinked not long ago.
    pub fn is_grave(&self, chunk: ChunkId) -> bool {
        self.graves.contains_key(&chunk)
    }

    /// How many chunks there are.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// A chunk that came in. One of that id whose place it takes was damaged, or is about to go with its segment.
    pub fn insert(&mut self, chunk: ChunkId, bytes: u32, place: Place) {
        let condemned = self.chunks.get(&chunk).is_some_and(|known| known.condemned);
        if let Some(old) = self.chunks.insert(chunk, Known { place, bytes, condemned }) {
            self.held -= u64::from(old.bytes);
            self.dies_in(old);
            self.taken -= file_bytes(old);
            if matches!(old.place, Place::Packed { .. }) {
                *self.doubles.entry(chunk).or_default() += 1;
            }
        }
        self.held += u64::from(bytes);
        self.taken += file_bytes(Known { place, bytes, condemned });
        if let Place::Packed { segment, offset } = place {
            let segment = self.segments.entry(segment).or_default();
            segment.live += record::record_bytes(bytes);
            let end = segment.end.max(offset + record::record_bytes(bytes));
            self.taken += u64::from(end - segment.end);
            segment.end = end;
        }
    }

    fn dies_in(&mut self, known: Known) {
        if let Place::Packed { segment, .. } = known.place
            && let Some(segment) = self.segments.get_mut(&segment)
        {
            segment.live -= record::record_bytes(known.bytes);
        }
    }

    /// A segment that is there, with what its list says and what is known of deaths. Those that were written later are read later.
    pub fn read_segment(&mut self, number: u32, list: &sidecar::Sidecar, deaths: &Deaths) {
        self.segments.insert(number, Segment { end: list.end, live: 0, sealed: true });
        self.taken += u64::from(list.end);
        for entry in &list.entries {
            if deaths.evicted.contains(&(entry.chunk, number)) {
                self.evicted.insert((entry.chunk, number));
            } else if deaths.of.get(&entry.chunk) == Some(&Death::Unlinked) {
                *self.graves.entry(entry.chunk).or_default() += 1;
            } else {
                self.insert(entry.chunk, entry.bytes, Place::Packed { segment: number, offset: entry.offset });
            }
        }
    }

    /// What was condemned before, once all chunks are there.
    pub fn read_deaths(&mut self, deaths: &Deaths) {
        for (chunk, death) in &deaths.of {
            if *death == Death::Condemned {
                self.condemn(*chunk);
            }
        }
    }

    /// Condemns a chunk; whether it is there.
    pub fn condemn(&mut self, chunk: ChunkId) -> bool {
        let Some(known) = self.chunks.get_mut(&chunk) else { return false };
        known.condemned = true;
        self.condemned.insert(chunk);
        true
    }

    /// Forgets a chunk that was unlinked.
    pub fn unlink(&mut self, chunk: ChunkId) {
        let Some(known) = self.chunks.remove(&chunk) else { return };
        self.condemned.remove(&chunk);
        self.held -= u64::from(known.bytes);
        self.dies_in(known);
        self.taken -= file_bytes(known);
        let more = self.doubles.remove(&chunk).unwrap_or_default();
        let here = u32::from(matches!(known.place, Place::Packed { .. }));
        if here + more > 0 {
            self.graves.insert(chunk, here + more);
        }
    }

    /// The segment from whose record alone a chunk can be evicted, none for a file of its own. Refused is what was condemned, what lies in a
    /// segment that is written to, and what lies in two.
    pub fn evictable(&self, chunk: ChunkId) -> Result<Option<u32>, Kept> {
        let known = self.chunks.get(&chunk).ok_or(Kept)?;
        if known.condemned || self.doubles.contains_key(&chunk) {
            return Err(Kept);
        }
        match known.place {
            Place::File => Ok(None),
            Place::Packed { segment, .. } if self.segments.get(&segment).is_some_and(|it| it.sealed) => {
                Ok(Some(segment))
            }
            Place::Packed { .. } => Err(Kept),
        }
    }

    /// Forgets a chunk that was evicted, and may come again.
    pub fn evict(&mut self, chunk: ChunkId) {
        let Some(known) = self.chunks.remove(&chunk) else { return };
        self.held -= u64::from(known.bytes);
        self.dies_in(known);
        self.taken -= file_bytes(known);
        if let Place::Packed { segment, .. } = known.place {
            self.evicted.insert((chunk, segment));
        }
    }

    /// A segment to which records are appended.
    pub fn open_segment(&mut self, number: u32) {
        self.segments.insert(number, Segment::default());
    }

    /// Nothing more comes into it.
    pub fn seal(&mut self, number: u32) {
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.sealed = true;
        }
    }

    /// A segment.
    pub fn segment(&self, number: u32) -> Option<Segment> {
        self.segments.get(&number).copied()
    }

    /// The first sealed segment from `from` on.
    pub fn next_sealed(&self, from: u32) -> Option<u32> {
        self.segments.range(from..).find(|(_, segment)| segment.sealed).map(|(number, _)| *number)
    }

    /// The sealed segment with the most room that nobody needs, if that is at least `share` per cent of it, and not one of `except`.
    pub fn wasteful(&self, share: u32, except: &BTreeSet<u32>) -> Option<u32> {
        let waste = |segment: &Segment| u64::from(segment.end - segment.live.min(segment.end));
        let candidates = self.segments.iter().filter(|(number, segment)| {
            segment.sealed
                && !except.contains(number)
                && (segment.live == 0 || waste(segment) * 100 >= u64::from(segment.end) * u64::from(share))
        });
        candidates.max_by_key(|(_, segment)| (segment.live == 0, waste(segment))).map(|(number, _)| *number)
    }

    /// A segment is gone, with all its records.
    pub fn retire(&mut self, number: u32, list: &sidecar::Sidecar) {
        if let Some(segment) = self.segments.remove(&number) {
            self.taken -= u64::from(segment.end);
        }
        for entry in &list.entries {
            if self.evicted.remove(&(entry.chunk, number)) {
                continue;
            }
            let counts = if self.graves.contains_key(&entry.chunk) { &mut self.graves } else { &mut self.doubles };
            if let Some(count) = counts.get_mut(&entry.chunk) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&entry.chunk);
                }
            }
        }
    }

    /// What a log of deaths must say, and nothing more.
    pub fn deaths(&self) -> impl Iterator<Item = (ChunkId, Death)> {
        let condemned = self.condemned.iter().map(|chunk| (*chunk, Death::Condemned));
        let unlinked = self.graves.keys().map(|chunk| (*chunk, Death::Unlinked));
        let evicted = self.evicted.iter().map(|(chunk, segment)| (*chunk, Death::Evicted(*segment)));
        condemned.chain(unlinked).chain(evicted)
    }

    /// How many entries that takes.
    pub fn deaths_len(&self) -> usize {
        self.condemned.len() + self.graves.len() + self.evicted.len()
    }

    /// Chunks after `after`, in the order of their ids, at most `limit`.
    pub fn list(&self, after: Option<ChunkId>, limit: usize) -> Vec<(ChunkId, Known)> {
        self.after(after).take(limit).map(|(chunk, known)| (*chunk, *known)).collect()
    }

    /// The next chunk after `after` that has a file of its own. An error names the one up to which there is none, and where to go on.
    pub fn next_file(&self, after: Option<ChunkId>) -> Result<Option<(ChunkId, Known)>, ChunkId> {
        let mut last = None;
        for (chunk, known) in self.after(after).take(STRETCH) {
            if known.place == Place::File {
                return Ok(Some((*chunk, *known)));
            }
            last = Some(*chunk);
        }
        last.map_or(Ok(None), Err)
    }

    fn after(&self, after: Option<ChunkId>) -> impl Iterator<Item = (&ChunkId, &Known)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.chunks.range((from, Bound::Unbounded))
    }

    /// Bytes that chunks take, with what nobody needs any more beside them.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// What it amounts to.
    pub fn sum(&self) -> Sum {
        let garbage = self.segments.values().map(|segment| u64::from(segment.end.saturating_sub(segment.live)));
        Sum {
            chunks: self.chunks.len() as u64,
            held: self.held,
            condemned: self.condemned.len() as u64,
            garbage: garbage.sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> ChunkId {
        ChunkId([n; 16])
    }

    fn entry(n: u8, offset: u32) -> sidecar::Entry {
        sidecar::Entry { chunk: id(n), offset, bytes: 10 }
    }

    #[test]
    fn a_grave_is_kept_until_no_record_is_left() {
        let mut index = Index::default();
        let size = record::record_bytes(10);
        let old = sidecar::Sidecar { end: 2 * size, entries: vec![entry(1, 0), entry(2, size)] };
        let new = sidecar::Sidecar { end: size, entries: vec![entry(1, 0)] };
        index.read_segment(1, &old, &Deaths::default());
        index.read_segment(2, &new, &Deaths::default());
        assert_eq!(index.get(id(1)).unwrap().place, Place::Packed { segment: 2, offset: 0 });
        assert_eq!(index.segment(1).unwrap().live, size);
        assert_eq!(index.sum(), Sum { chunks: 2, held: 20, condemned: 0, garbage: u64::from(size) });
        assert_eq!(index.taken(), 3 * u64::from(size));
        assert!(index.condemn(id(1)) && !index.condemn(id(9)));
        index.unlink(id(1));
        assert!(index.is_grave(id(1)));
        assert_eq!(index.wasteful(50, &BTreeSet::new()), Some(2), "nothing of it counts");
        index.retire(2, &new);
        assert!(index.is_grave(id(1)), "one record is left");
        assert_eq!(index.taken(), 2 * u64::from(size));
        assert_eq!(index.wasteful(50, &BTreeSet::new()), Some(1));
        assert_eq!(index.wasteful(51, &BTreeSet::new()), None);
        index.retire(1, &old);
        assert!(!index.is_grave(id(1)));
        assert_eq!((index.deaths_len(), index.taken()), (0, 0));
        for bytes in [300_000, 400_000] {
            index.insert(id(3), bytes, Place::File);
        }
        assert_eq!(index.taken(), 400_000);
        index.unlink(id(3));
        assert_eq!(index.taken(), 0);
    }

    #[test]
    fn a_record_that_was_evicted_is_remembered_until_its_segment_is_gone_whatever_becomes_of_the_chunk() {
        let mut index = Index::default();
        let size = record::record_bytes(10);
        let list = sidecar::Sidecar { end: size, entries: vec![entry(1, 0)] };
        index.read_segment(1, &list, &Deaths::default());
        assert_eq!(index.evictable(id(1)), Ok(Some(1)));
        index.evict(id(1));
        assert_eq!((index.get(id(1)), index.evictable(id(1)), index.is_grave(id(1))), (None, Err(Kept), false));
        assert_eq!((index.wasteful(50, &BTreeSet::new()), index.sum().held), (Some(1), 0));
        // It comes again, and dies there.
        index.open_segment(2);
        index.insert(id(1), 10, Place::Packed { segment: 2, offset: 0 });
        assert_eq!(index.evictable(id(1)), Err(Kept), "that segment is written to");
        index.condemn(id(1));
        index.unlink(id(1));
        let all: Vec<_> = index.deaths().collect();
        assert_eq!(all, [(id(1), Death::Unlinked), (id(1), Death::Evicted(1))]);
        index.retire(1, &list);
        assert!(index.is_grave(id(1)), "its other record is left");
        index.seal(2);
        index.retire(2, &list);
        assert_eq!((index.deaths_len(), index.taken()), (0, 0));
    }

    #[test]
    fn chunks_are_listed_in_the_order_of_their_ids() {
        let mut index = Index::default();
        for n in [3, 1, 2] {
            index.insert(id(n), 1, if n == 2 { Place::File } else { Place::Packed { segment: 1, offset: 0 } });
        }
        let list = |after, limit| index.list(after, limit).iter().map(|(chunk, _)| chunk.0[0]).collect::<Vec<_>>();
        assert_eq!(list(None, 2), [1, 2]);
        assert_eq!(list(Some(id(2)), 9), [3]);
        assert_eq!(index.next_file(None).unwrap().unwrap().0, id(2));
        assert_eq!(index.next_file(Some(id(2))), Err(id(3)));
        assert_eq!(index.next_file(Some(id(3))), Ok(None));
    }
}

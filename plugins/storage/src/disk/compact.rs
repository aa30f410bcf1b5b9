//! Freeing the room of chunks that are dead: what still counts of a segment is appended elsewhere, and then the segment is removed.
//!
//! Each record is looked at while it is copied. One that is damaged cannot be copied, and keeps its segment until its chunk was written anew
//! or unlinked. Readers that have the segment open go on reading; whoever comes later finds the copy.

use std::collections::BTreeSet;

use super::hands::{Small, Work};
use super::index::Place;
use super::{Disk, DiskError, read, scrub};

/// A segment is rewritten when so much of it is needed by nobody. Then each byte that is copied frees at least another one.
pub const WASTE_PERCENT: u32 = 50;

/// Records that are read before they are handed to the writer.
const AT_ONCE: usize = 64;

/// Segments that cannot be removed, because something in them is damaged.
pub type Stuck = BTreeSet<u32>;

/// What was freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freed {
    /// Bytes of the segment.
    pub bytes: u64,
    /// Bytes of chunks that were copied.
    pub copied: u64,
    /// Whether something in it is damaged, so that it is still there.
    pub is_stuck: bool,
}

pub(super) async fn one(disk: &Disk, stuck: &mut Stuck) -> Result<Option<Freed>, DiskError> {
    disk.shared.writable()?;
    // What was damaged may have been unlinked since.
    stuck.retain(|number| disk.shared.index().segment(*number).is_some_and(|segment| segment.live > 0));
    let Some(number) = disk.shared.index().wasteful(WASTE_PERCENT, stuck) else { return Ok(None) };
    let list = disk.shared.run(move |shared| scrub::list(shared, number)).await?;
    let mut freed = Freed { bytes: list.end.into(), copied: 0, is_stuck: false };
    for some in list.entries.chunks(AT_ONCE) {
        let some = some.to_vec();
        let read = disk.shared.run(move |shared| {
            let mut read = Vec::new();
            let mut damaged = false;
            for entry in some {
                let here = Place::Packed { segment: number, offset: entry.offset };
                let known = shared.index().get(entry.chunk).filter(|known| known.place == here);
                let Some(known) = known else { continue };
                let opened = read::open_at(shared, entry.chunk, known);
                match opened.and_then(|opened| opened.map(|it| Ok((it.read_all(shared)?, it))).transpose()) {
                    Ok(Some((data, opened))) => {
                        read.push(Small { chunk: entry.chunk, checksums: opened.checksums.to_vec(), data });
                    }
                    Ok(None) | Err(_) => damaged = true,
                }
            }
            Ok((read, damaged))
        });
        let (read, damaged) = read.await?;
        freed.is_stuck |= damaged;
        let moves =
            read.into_iter().map(|small| {
                let bytes = small.data.len() as u64;
                async move {
                    Ok::<_, DiskError>((disk.ask(|reply| Work::Move { small, from: number, reply }).await?, bytes))
                }
            });
        for moved in futures::future::join_all(moves).await {
            let (moved, bytes) = moved?;
            freed.copied += if moved { bytes } else { 0 };
        }
    }
    if freed.is_stuck {
        stuck.insert(number);
    } else {
        disk.ask(|reply| Work::Retire { segment: number, list, reply }).await?;
    }
    Ok(Some(freed))
}

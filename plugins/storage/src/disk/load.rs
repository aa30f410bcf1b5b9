//! What a start finds: reads a data folder and makes the index of it.
//!
//! Whatever a crash left half done is finished or removed here: files that were on their way, the end of a segment that was written to,
//! lists of segments that are gone. What is found whole is made safe before anybody is told of it: after the end of a process, other than
//! after the loss of power, it may be in the memory of the system only.

use std::io;
use std::sync::Arc;

use hirsel_mesh::seam::volume::{Volume, VolumeFile};

use super::deaths::{self, Deaths};
use super::index::{Index, Place};
use super::sidecar::{self, Sidecar};
use super::{CHUNKS, DEAD, DEATHS, INCOMING, PACKED_BYTES_MAX, SEGMENTS, file, record};
use crate::chunk::{self, Checksum};

/// Longest segment that is read: above the longest that is written.
const SEGMENT_BYTES_READ_MAX: u64 = 1 << 30;
/// Longest list of a segment, and longest log of deaths.
const LIST_BYTES_MAX: u64 = 1 << 30;

/// The log of deaths is lengthened by so much, ahead of what comes: so that two thousand entries can be made on a full disk.
pub const DEATHS_AHEAD: u64 = 64 << 10;

/// What was found.
pub struct Found {
    /// Where everything lies.
    pub index: Index,
    /// No segment has this number or a higher one, nor had.
    pub next: u32,
    /// The log of deaths: how many entries it has.
    pub deaths_end: u64,
    /// Why nothing may be written any more, as an earlier life noted it.
    pub dead: Option<String>,
}

/// Name of a segment.
pub fn segment_path(number: u32) -> String {
    format!("{SEGMENTS}/{number:010}")
}

/// Name of its list.
pub fn sidecar_path(number: u32) -> String {
    format!("{SEGMENTS}/{number:010}.index")
}

/// Reads the folder.
pub fn load(volume: &dyn Volume) -> io::Result<Found> {
    let dead = whole(volume, DEAD, 4096)?.map(|reason| String::from_utf8_lossy(&reason).into_owned());
    if dead.is_none() {
        for folder in [INCOMING, SEGMENTS, CHUNKS] {
            volume.make_folder(folder)?;
        }
        for name in volume.list(INCOMING)? {
            volume.remove(&format!("{INCOMING}/{name}"))?;
        }
        volume.sync_folder(CHUNKS)?;
    }
    let deaths = read_deaths(volume, dead.is_none())?;
    let mut index = Index::default();
    let next = read_segments(volume, &mut index, &deaths, dead.is_none())?;
    for name in volume.list(CHUNKS)? {
        if let Some((chunk, bytes)) = file::parse(&name) {
            index.insert(chunk, bytes, Place::File);
        }
    }
    index.read_deaths(&deaths);
    Ok(Found { index, next, deaths_end: deaths.end, dead })
}

/// A file as a whole; none where there is none or it is longer than any of its kind.
pub fn whole(volume: &dyn Volume, path: &str, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let Some(file) = volume.open(path)? else { return Ok(None) };
    let bytes = file.bytes()?;
    if bytes > bytes_max {
        return Ok(None);
    }
    let mut read = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
    file.read_at(0, &mut read)?;
    Ok(Some(read))
}

/// Writes a file that is there whole or not at all afterwards. Not safe before the folder is synced.
pub fn replace(volume: &dyn Volume, path: &str, bytes: &[u8]) -> io::Result<()> {
    let new = format!("{path}.new");
    volume.remove(&new)?;
    let written = (|| {
        let file = volume.create(&new)?;
        file.write_at(0, bytes)?;
        file.sync()
    })();
    if let Err(error) = written {
        let _ = volume.remove(&new);
        return Err(error);
    }
    volume.rename(&new, path)
}

fn read_deaths(volume: &dyn Volume, writable: bool) -> io::Result<Deaths> {
    let log = whole(volume, DEATHS, LIST_BYTES_MAX)?;
    if writable {
        let file = match volume.open(DEATHS)? {
            Some(file) => file,
            None => {
                let file = volume.create(DEATHS)?;
                // Taken while there is room; without any, chunks die once there is.
                let _ = file.write_at(0, &vec![0; DEATHS_AHEAD as usize]);
                file
            }
        };
        file.sync()?;
        volume.sync_folder("")?;
    }
    Ok(log.map_or_else(Deaths::default, |log| deaths::read(&log)))
}

fn read_segments(volume: &dyn Volume, index: &mut Index, deaths: &Deaths, writable: bool) -> io::Result<u32> {
    let mut segments = Vec::new();
    let mut lists = Vec::new();
    for name in volume.list(SEGMENTS)? {
        let (number, is_list) = match name.strip_suffix(".index") {
            Some(number) => (number, true),
            None => (name.as_str(), false),
        };
        if let Ok(number) = number.parse::<u32>() {
            if is_list { lists.push(number) } else { segments.push(number) }
        }
    }
    segments.sort_unstable();
    // What the log says of a record must not be said of one that comes later.
    let named = deaths.evicted.iter().map(|(_, segment)| segment);
    let next = segments.iter().chain(&lists).chain(named).max().map_or(1, |last| last.saturating_add(1));
    if writable {
        for number in lists.iter().filter(|number| !segments.contains(number)) {
            volume.remove(&sidecar_path(*number))?;
        }
    }
    for number in segments {
        let list = match whole(volume, &sidecar_path(number), LIST_BYTES_MAX)? {
            Some(bytes) => sidecar::decode(&bytes, number),
            None => None,
        };
        let list = match list {
            Some(list) => list,
            None => recover(volume, number, writable)?,
        };
        if list.entries.is_empty() && writable {
            volume.remove(&sidecar_path(number))?;
            volume.remove(&segment_path(number))?;
            continue;
        }
        index.read_segment(number, &list, deaths);
    }
    if writable {
        volume.sync_folder(SEGMENTS)?;
    }
    Ok(next)
}

/// Reads a segment that has no list, cuts off what is not whole, and lists the rest.
fn recover(volume: &dyn Volume, number: u32, writable: bool) -> io::Result<Sidecar> {
    let Some(file) = volume.open(&segment_path(number))? else { return Ok(Sidecar::default()) };
    let bytes = file.bytes()?;
    if bytes > SEGMENT_BYTES_READ_MAX {
        return Err(io::Error::other(format!("segment {number} of {bytes} bytes is none of ours")));
    }
    let mut content = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
    file.read_at(0, &mut content)?;
    let list = scan(&content, number);
    if writable {
        file.set_bytes(u64::from(list.end))?;
        file.sync()?;
        write_sidecar(volume, number, &list);
    }
    Ok(list)
}

/// Writes the list of a segment. It is a help only: where it cannot be written, the next start reads the segment.
pub fn write_sidecar(volume: &dyn Volume, number: u32, list: &Sidecar) {
    let path = sidecar_path(number);
    let written = volume
        .remove(&path)
        .and_then(|()| volume.create(&path))
        .and_then(|file: Arc<dyn VolumeFile>| file.write_at(0, &sidecar::encode(number, list)));
    if written.is_err() {
        let _ = volume.remove(&path);
    }
}

/// What of a segment counts: whole records, and damaged ones of which is known that they had been whole.
pub fn scan(content: &[u8], segment: u32) -> Sidecar {
    let mut found = Vec::new();
    let (mut at, mut safe) = (0usize, 0);
    while at + record::HEAD_BYTES_MIN <= content.len() {
        let offset = u32::try_from(at).unwrap_or(u32::MAX);
        match record::Head::decode(&content[at..], PACKED_BYTES_MAX, segment, offset) {
            Some(head) => {
                safe = safe.max(head.safe);
                let is_whole = is_whole(&head, &content[at..]);
                found.push((sidecar::Entry { chunk: head.chunk, offset, bytes: head.bytes }, is_whole));
                at += record::record_bytes(head.bytes) as usize;
            }
            None => at += record::ALIGNMENT as usize,
        }
    }
    found.retain(|(entry, is_whole)| *is_whole || entry.offset + record::record_bytes(entry.bytes) <= safe);
    let entries: Vec<_> = found.into_iter().map(|(entry, _)| entry).collect();
    let end = entries.last().map_or(0, |last| last.offset + record::record_bytes(last.bytes));
    Sidecar { end, entries }
}

fn is_whole(head: &record::Head, record: &[u8]) -> bool {
    let data = record.get(record::head_bytes(head.bytes) as usize..).and_then(|rest| rest.get(..head.bytes as usize));
    let Some(data) = data else { return false };
    (0..).zip(&head.checksums).all(|(number, sum): (u32, &Checksum)| {
        Checksum::of_block(head.chunk, number, &data[chunk::span(head.bytes, number)]) == *sum
    })
}

//! Whoever writes to a disk: one at a time, many pieces of work together. It blocks.
//!
//! A batch is written, made safe by one sync for each file that it touched, noted in the index, and only then answered. So of many writers
//! each waits for one sync, whoever began it. What fails before the sync is undone; a sync that fails ends all writing for good, because
//! nobody knows any more what of it is there.

use std::collections::BTreeSet;
use std::sync::Arc;

use hirsel_mesh::seam::volume::VolumeFile;
use tokio::sync::oneshot;

use super::deaths::{self, Death, ENTRY_BYTES};
use super::index::{Kept, Place};
use super::load::{self, DEATHS_AHEAD, segment_path, sidecar_path};
use super::record::Head;
use super::shared::Shared;
use super::sidecar::{Entry, Sidecar};
use super::{CHUNKS, DEATHS, DiskError, INCOMING, SEGMENTS, file, record};
use crate::chunk::{Checksum, ChunkId};

/// No segment is longer, whatever is set: a start reads the last one into memory.
const SEGMENT_BYTES_MAX: u32 = 256 << 20;
/// The log of deaths is written anew when it has so many entries more than twice those that are needed.
const DEATHS_SLACK: u64 = 4096;

/// How a piece of work went.
pub type Reply<T> = oneshot::Sender<Result<T, DiskError>>;

/// A small chunk, with its checksums.
pub struct Small {
    pub chunk: ChunkId,
    pub checksums: Vec<Checksum>,
    pub data: Vec<u8>,
}

/// What is to be done.
pub enum Work {
    /// Appends a small chunk.
    Append { small: Small, reply: Reply<()> },
    /// Appends a small chunk that lies in another segment, which is to go. Whether it was still needed.
    Move { small: Small, from: u32, reply: Reply<bool> },
    /// Names a large one that is written and safe.
    Publish { incoming: String, chunk: ChunkId, bytes: u32, reply: Reply<()> },
    /// Condemns a chunk. Whether it is there.
    Condemn { chunk: ChunkId, reply: Reply<bool> },
    /// Unlinks a condemned chunk. Whether it was there.
    Unlink { chunk: ChunkId, reply: Reply<bool> },
    /// Removes a chunk that others have, and that may come again. Whether it was there and could be.
    Evict { chunk: ChunkId, reply: Reply<bool> },
    /// Seals the segment that is written to.
    Seal { reply: Reply<()> },
    /// Does nothing: whoever waits for it learns that the writer goes on.
    Pass { reply: Reply<()> },
    /// Removes a segment of which nothing counts any more.
    Retire { segment: u32, list: Sidecar, reply: Reply<()> },
}

impl Work {
    /// Bytes that it adds to a batch.
    pub fn bytes(&self) -> usize {
        match self {
            Work::Append { small, .. } | Work::Move { small, .. } => small.data.len(),
            _ => 0,
        }
    }
}

/// The segment that is written to.
struct Active {
    number: u32,
    file: Arc<dyn VolumeFile>,
    end: u32,
    list: Vec<Entry>,
}

/// What the writer holds.
pub struct Hands {
    shared: Arc<Shared>,
    active: Option<Active>,
    next: u32,
    deaths: Option<Arc<dyn VolumeFile>>,
    deaths_end: u64,
}

/// What a batch will have done once it is safe.
#[derive(Default)]
struct Done {
    buffer: Vec<u8>,
    appended: Vec<(Entry, Answer)>,
    deaths: Vec<(ChunkId, Death, Reply<bool>)>,
    published: Vec<(String, ChunkId, u32, Reply<()>)>,
    removed: Vec<(ChunkId, u32, Reply<bool>)>,
    evicted: Vec<(ChunkId, Reply<bool>)>,
    seals: Vec<Reply<()>>,
    retired: Vec<(u32, Sidecar, Reply<()>)>,
    /// Chunks that this batch brings.
    new: BTreeSet<ChunkId>,
    /// Bytes that this batch takes.
    takes: u64,
}

/// Who waits for a record.
enum Answer {
    Appended(Reply<()>),
    Moved(Reply<bool>),
}

impl Answer {
    fn refuse(self, error: DiskError) {
        match self {
            Answer::Appended(reply) => drop(reply.send(Err(error))),
            Answer::Moved(reply) => drop(reply.send(Err(error))),
        }
    }
}

impl Hands {
    /// Takes up what a start found.
    pub fn new(shared: Arc<Shared>, next: u32, deaths_end: u64) -> Hands {
        Hands { shared, active: None, next, deaths: None, deaths_end }
    }

    /// Does all of a batch, and answers.
    pub fn work(&mut self, batch: Vec<Work>) {
        let mut done = Done::default();
        for work in batch {
            self.admit(work, &mut done);
        }
        self.append(&mut done);
        self.kill(&mut done);
        self.evict(&mut done);
        self.publish(&mut done);
        for reply in std::mem::take(&mut done.seals) {
            self.seal();
            let _ = reply.send(self.writable());
        }
        for (segment, list, reply) in std::mem::take(&mut done.retired) {
            let _ = reply.send(self.retire(segment, &list));
        }
        self.shorten_deaths();
    }

    fn writable(&self) -> Result<(), DiskError> {
        self.shared.writable()
    }

    /// Whether a chunk may come in now.
    fn may_come(&self, chunk: ChunkId, bytes: u64, done: &Done) -> Result<(), DiskError> {
        self.writable()?;
        self.shared.admit(chunk)?;
        if done.new.contains(&chunk) {
            return Err(DiskError::Exists(chunk));
        }
        self.shared.has_room(done.takes + bytes)
    }

    /// Says no at once, or puts it down to be done.
    fn admit(&mut self, work: Work, done: &mut Done) {
        match work {
            Work::Append { small, reply } => {
                match self.may_come(small.chunk, record_of(&small), done) {
                    Ok(()) => self.put_down(small, Answer::Appended(reply), done),
                    Err(error) => drop(reply.send(Err(error))),
                };
            }
            Work::Move { small, from, reply } => {
                let known = self.shared.index().get(small.chunk);
                let here = known.is_some_and(|it| matches!(it.place, Place::Packed { segment, .. } if segment == from));
                let room = self.writable().and_then(|()| self.shared.has_room_to_move(done.takes + record_of(&small)));
                match room {
                    Ok(()) if here => self.put_down(small, Answer::Moved(reply), done),
                    Ok(()) => drop(reply.send(Ok(false))),
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
            Work::Publish { incoming, chunk, bytes, reply } => match self.may_come(chunk, 0, done) {
                Ok(()) => {
                    done.new.insert(chunk);
                    done.published.push((incoming, chunk, bytes, reply));
                }
                Err(error) => {
                    let _ = self.shared.volume.remove(&incoming);
                    let _ = reply.send(Err(error));
                }
            },
            Work::Condemn { chunk, reply } => {
                let known = self.shared.index().get(chunk);
                match (self.writable(), known) {
                    (Err(error), _) => drop(reply.send(Err(error))),
                    (Ok(()), None) => drop(reply.send(Ok(false))),
                    (Ok(()), Some(known)) if known.condemned => drop(reply.send(Ok(true))),
                    (Ok(()), Some(_)) => done.deaths.push((chunk, Death::Condemned, reply)),
                }
            }
            Work::Unlink { chunk, reply } => {
                let known = self.shared.index().get(chunk);
                match (self.writable(), known) {
                    (Err(error), _) => drop(reply.send(Err(error))),
                    (Ok(()), None) => drop(reply.send(Ok(false))),
                    (Ok(()), Some(known)) if !known.condemned => drop(reply.send(Err(DiskError::NotCondemned(chunk)))),
                    (Ok(()), Some(known)) => match known.place {
                        Place::File => done.removed.push((chunk, known.bytes, reply)),
                        Place::Packed { .. } => done.deaths.push((chunk, Death::Unlinked, reply)),
                    },
                }
            }
            Work::Evict { chunk, reply } => match self.writable() {
                Err(error) => drop(reply.send(Err(error))),
                Ok(()) => done.evicted.push((chunk, reply)),
            },
            Work::Seal { reply } => done.seals.push(reply),
            Work::Pass { reply } => drop(reply.send(Ok(()))),
            Work::Retire { segment, list, reply } => done.retired.push((segment, list, reply)),
        }
    }

    /// Puts a record into the buffer of the batch; the segment is sealed before when it would become too long.
    fn put_down(&mut self, small: Small, answer: Answer, done: &mut Done) {
        let bytes = u32::try_from(small.data.len()).unwrap_or(u32::MAX);
        let length = record::record_bytes(bytes);
        let end = self.active.as_ref().map_or(0, |active| active.end) + done.buffer.len() as u32;
        if end > 0 && end.saturating_add(length) > self.shared.settings.segment_bytes.min(SEGMENT_BYTES_MAX) {
            self.append(done);
            self.seal();
        }
        let active = match self.opened() {
            Ok(active) => active,
            Err(error) => return answer.refuse(error),
        };
        let offset = active.end + done.buffer.len() as u32;
        let head = Head {
            chunk: small.chunk,
            bytes,
            segment: active.number,
            offset,
            safe: active.end,
            checksums: small.checksums,
        };
        head.encode(&mut done.buffer);
        done.buffer.extend(&small.data);
        done.buffer.resize((offset + length - active.end) as usize, 0);
        done.new.insert(small.chunk);
        done.takes += u64::from(length);
        done.appended.push((Entry { chunk: small.chunk, offset, bytes }, answer));
    }

    /// The segment that is written to; a new one where there is none.
    fn opened(&mut self) -> Result<&mut Active, DiskError> {
        if self.active.is_none() {
            self.writable()?;
            let number = self.next;
            let path = segment_path(number);
            let volume = &self.shared.volume;
            let file = volume.create(&path).map_err(|error| self.shared.failed(&error))?;
            volume.sync_folder(SEGMENTS).map_err(|error| self.shared.die(&error))?;
            self.next += 1;
            self.shared.index().open_segment(number);
            self.shared.handles().insert(number, file.clone());
            self.active = Some(Active { number, file, end: 0, list: Vec::new() });
        }
        Ok(self.active.as_mut().expect("it was opened"))
    }

    /// Writes the buffer and makes it safe.
    fn append(&mut self, done: &mut Done) {
        let appended = std::mem::take(&mut done.appended);
        let buffer = std::mem::take(&mut done.buffer);
        if appended.is_empty() {
            return;
        }
        let Some(active) = &mut self.active else { return };
        let written = active.file.write_at(u64::from(active.end), &buffer);
        let safe = match written {
            Ok(()) => active.file.sync().map_err(|error| self.shared.die(&error)),
            Err(error) => {
                // Nothing of it may be found later by who reads the segment.
                let cut = active.file.set_bytes(u64::from(active.end));
                Err(match cut {
                    Ok(()) => self.shared.failed(&error),
                    Err(_) => self.shared.die(&error),
                })
            }
        };
        if let Err(error) = safe {
            appended.into_iter().for_each(|(_, answer)| answer.refuse(error.clone()));
            return;
        }
        active.end += buffer.len() as u32;
        let number = active.number;
        {
            let mut index = self.shared.index();
            for (entry, _) in &appended {
                index.insert(entry.chunk, entry.bytes, Place::Packed { segment: number, offset: entry.offset });
                active.list.push(*entry);
            }
        }
        self.shared.mended(appended.iter().map(|(entry, _)| entry.chunk));
        for (_, answer) in appended {
            match answer {
                Answer::Appended(reply) => drop(reply.send(Ok(()))),
                Answer::Moved(reply) => drop(reply.send(Ok(true))),
            }
        }
    }

    /// Nothing more comes into the segment that is written to.
    fn seal(&mut self) {
        if let Some(active) = self.active.take() {
            let list = Sidecar { end: active.end, entries: active.list };
            if self.writable().is_ok() {
                load::write_sidecar(&*self.shared.volume, active.number, &list);
            }
            self.shared.index().seal(active.number);
        }
    }

    /// Writes deaths down and makes them safe; then removes files.
    fn kill(&mut self, done: &mut Done) {
        let deaths = std::mem::take(&mut done.deaths);
        if !deaths.is_empty() {
            let entries: Vec<u8> = deaths.iter().flat_map(|(chunk, death, _)| deaths::encode(*chunk, *death)).collect();
            match self.log(&entries) {
                Ok(()) => {
                    for (chunk, death, reply) in deaths {
                        match death {
                            Death::Condemned => drop(self.shared.index().condemn(chunk)),
                            Death::Unlinked => self.shared.forget(chunk),
                            Death::Evicted(_) => self.shared.evict(chunk),
                        }
                        let _ = reply.send(Ok(true));
                    }
                }
                Err(error) => deaths.into_iter().for_each(|(_, _, reply)| drop(reply.send(Err(error.clone())))),
            }
        }
        let removed = std::mem::take(&mut done.removed);
        self.remove(removed, |shared, chunk| shared.forget(chunk));
    }

    /// Removes what can be evicted. It is looked at only now: what was done before in this batch may have changed where it lies.
    fn evict(&mut self, done: &mut Done) {
        let (mut entries, mut packed, mut removed) = (Vec::new(), Vec::new(), Vec::new());
        {
            let index = self.shared.index();
            for (chunk, reply) in std::mem::take(&mut done.evicted) {
                match index.evictable(chunk) {
                    Err(Kept) => drop(reply.send(Ok(false))),
                    Ok(Some(segment)) => {
                        entries.extend(deaths::encode(chunk, Death::Evicted(segment)));
                        packed.push((chunk, reply));
                    }
                    Ok(None) => removed.push((chunk, index.get(chunk).map_or(0, |known| known.bytes), reply)),
                }
            }
        }
        if !packed.is_empty() {
            let safe = self.log(&entries);
            for (chunk, reply) in packed {
                if safe.is_ok() {
                    self.shared.evict(chunk);
                }
                let _ = reply.send(safe.clone().map(|()| true));
            }
        }
        self.remove(removed, |shared, chunk| shared.evict(chunk));
    }

    /// Removes files of chunks, and has them forgotten once they are gone for good.
    fn remove(&self, files: Vec<(ChunkId, u32, Reply<bool>)>, forget: impl Fn(&Shared, ChunkId)) {
        let mut removed = Vec::new();
        for (chunk, bytes, reply) in files {
            let path = format!("{CHUNKS}/{}", file::name(chunk, bytes));
            match self.shared.volume.remove(&path) {
                Ok(()) => removed.push((chunk, reply)),
                Err(error) => drop(reply.send(Err(self.shared.failed(&error)))),
            }
        }
        if !removed.is_empty() {
            let safe = self.shared.volume.sync_folder(CHUNKS).map_err(|error| self.shared.die(&error));
            for (chunk, reply) in removed {
                if safe.is_ok() {
                    forget(&self.shared, chunk);
                }
                let _ = reply.send(safe.clone().map(|()| true));
            }
        }
    }

    /// Appends to the log of deaths.
    fn log(&mut self, entries: &[u8]) -> Result<(), DiskError> {
        let volume = &self.shared.volume;
        let log = match &self.deaths {
            Some(log) => log.clone(),
            None => {
                let opened = volume.open(DEATHS).and_then(|log| match log {
                    Some(log) => Ok(log),
                    None => volume.create(DEATHS),
                });
                let log = opened.map_err(|error| self.shared.failed(&error))?;
                volume.sync_folder("").map_err(|error| self.shared.die(&error))?;
                self.deaths = Some(log.clone());
                log
            }
        };
        let (from, to) = (self.deaths_end, self.deaths_end + entries.len() as u64);
        let there = log.bytes().map_err(|error| self.shared.failed(&error))?;
        if there < to + DEATHS_AHEAD / 2 {
            // Room for what comes is taken while there is some; on a full disk what was taken is enough for a while.
            let _ = log.write_at(there, &vec![0; DEATHS_AHEAD as usize]);
        }
        // What was written in part is written over by the next; an entry that is whole among it says what was asked for.
        log.write_at(from, entries).map_err(|error| self.shared.failed(&error))?;
        log.sync().map_err(|error| self.shared.die(&error))?;
        self.deaths_end = to;
        Ok(())
    }

    /// Writes the log of deaths anew when most of it says nothing any more.
    fn shorten_deaths(&mut self) {
        let needed = self.shared.index().deaths_len() as u64;
        if self.deaths_end / (ENTRY_BYTES as u64) < 2 * needed + DEATHS_SLACK || self.writable().is_err() {
            return;
        }
        let log: Vec<u8> =
            self.shared.index().deaths().flat_map(|(chunk, death)| deaths::encode(chunk, death)).collect();
        let volume = &*self.shared.volume;
        if load::replace(volume, DEATHS, &log).is_ok() {
            self.deaths = None;
            self.deaths_end = log.len() as u64;
            if let Err(error) = volume.sync_folder("") {
                self.shared.die(&error);
            }
        }
    }

    /// Gives names to large chunks, and makes the names safe.
    fn publish(&mut self, done: &mut Done) {
        let mut named = Vec::new();
        for (incoming, chunk, bytes, reply) in std::mem::take(&mut done.published) {
            debug_assert!(incoming.starts_with(INCOMING));
            match self.shared.volume.rename(&incoming, &format!("{CHUNKS}/{}", file::name(chunk, bytes))) {
                Ok(()) => named.push((chunk, bytes, reply)),
                Err(error) => drop(reply.send(Err(self.shared.failed(&error)))),
            }
        }
        if named.is_empty() {
            return;
        }
        let safe = self.shared.volume.sync_folder(CHUNKS).map_err(|error| self.shared.die(&error));
        for (chunk, bytes, reply) in named {
            if safe.is_ok() {
                self.shared.index().insert(chunk, bytes, Place::File);
                self.shared.mended([chunk]);
            }
            let _ = reply.send(safe.clone());
        }
    }

    /// Removes a segment whose chunks lie elsewhere or are dead.
    fn retire(&mut self, segment: u32, list: &Sidecar) -> Result<(), DiskError> {
        self.writable()?;
        let known = self.shared.index().segment(segment);
        if known.is_none_or(|known| known.live > 0 || !known.sealed) {
            return Ok(());
        }
        let volume = &*self.shared.volume;
        let removed = volume.remove(&sidecar_path(segment)).and_then(|()| volume.remove(&segment_path(segment)));
        removed.map_err(|error| self.shared.failed(&error))?;
        // Only once the segment is gone for good may the deaths of its chunks be forgotten.
        volume.sync_folder(SEGMENTS).map_err(|error| self.shared.die(&error))?;
        self.shared.handles().remove(segment);
        self.shared.index().retire(segment, list);
        Ok(())
    }
}

fn record_of(small: &Small) -> u64 {
    u64::from(record::record_bytes(u32::try_from(small.data.len()).unwrap_or(u32::MAX)))
}

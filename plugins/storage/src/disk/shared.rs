//! What those who read a disk and the one who writes to it have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hirsel_mesh::seam::volume::{Room, Volume, VolumeFile};
use tokio::sync::{Semaphore, oneshot, watch};
use tracing::error;

use super::index::Index;
use super::load::segment_path;
use super::{CHUNKS_MAX, DEAD, DiskError, Health, READS_AT_ONCE_MAX, Settings};
use crate::chunk::ChunkId;

/// Of the reserve, what is left to those who move records out of a wasteful segment, as a divisor.
const RESERVE_FOR_MOVES: u64 = 2;

/// Segments that are open for reading: few file descriptors, and yet hardly a read that has to open one.
const HANDLES_MAX: usize = 256;
/// Damaged chunks that are remembered by name; beyond, a disk is to be given up anyway.
const DAMAGED_MAX: usize = 10_000;

/// What is known of a disk.
pub struct Shared {
    pub volume: Arc<dyn Volume>,
    pub settings: Settings,
    pub health: watch::Sender<Health>,
    index: Mutex<Index>,
    handles: Mutex<Handles>,
    damaged: Mutex<BTreeSet<ChunkId>>,
    /// Bytes of large chunks that are on their way.
    promised: AtomicU64,
    reads: Semaphore,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is changed under a lock is changed whole before anything can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn new(volume: Arc<dyn Volume>, settings: Settings, index: Index, health: Health) -> Shared {
        Shared {
            volume,
            settings,
            health: watch::Sender::new(health),
            index: Mutex::new(index),
            handles: Mutex::default(),
            damaged: Mutex::default(),
            promised: AtomicU64::new(0),
            reads: Semaphore::new(READS_AT_ONCE_MAX),
        }
    }

    pub fn index(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }

    pub fn handles(&self) -> MutexGuard<'_, Handles> {
        lock(&self.handles)
    }

    /// A segment to read from; none when it is gone.
    pub fn segment(&self, number: u32) -> io::Result<Option<Arc<dyn VolumeFile>>> {
        if let Some(file) = self.handles().get(number) {
            return Ok(Some(file));
        }
        let file = self.volume.open(&segment_path(number))?;
        if let Some(file) = &file {
            self.handles().insert(number, file.clone());
        }
        Ok(file)
    }

    pub fn writable(&self) -> Result<(), DiskError> {
        match &*self.health.borrow() {
            Health::Sound => Ok(()),
            Health::ReadOnly { reason } => Err(DiskError::ReadOnly { reason: reason.clone() }),
        }
    }

    /// Whether a chunk of this id may come in.
    pub fn admit(&self, chunk: ChunkId) -> Result<(), DiskError> {
        let damaged = self.damages(chunk);
        let index = self.index();
        match index.get(chunk) {
            Some(known) if known.condemned => Err(DiskError::Condemned(chunk)),
            Some(_) if !damaged => Err(DiskError::Exists(chunk)),
            None if index.is_grave(chunk) => Err(DiskError::Condemned(chunk)),
            None if index.len() >= CHUNKS_MAX => Err(DiskError::TooMany { chunks: CHUNKS_MAX }),
            Some(_) | None => Ok(()),
        }
    }

    /// How much room there is for chunks: on the volume, and of what they may take of it.
    pub fn room(&self) -> Result<Room, DiskError> {
        let room = self.volume.room().map_err(|error| self.failed(&error))?;
        let capacity = self.settings.capacity_bytes;
        let left = capacity.saturating_sub(self.index().taken());
        Ok(Room { total: room.total.min(capacity), free: room.free.min(left) })
    }

    /// Whether `bytes` more leave the reserve free.
    pub fn has_room(&self, bytes: u64) -> Result<(), DiskError> {
        self.leaves(self.room()?.free, bytes, self.settings.reserve_bytes)
    }

    /// Whether `bytes` may be copied out of a segment that is to go: the volume must bear it, and what chunks may take does not count, for
    /// they take less when it is gone. With less given to them than they take, nothing else would free what nobody needs.
    pub fn has_room_to_move(&self, bytes: u64) -> Result<(), DiskError> {
        let room = self.volume.room().map_err(|error| self.failed(&error))?;
        self.leaves(room.free, bytes, self.settings.reserve_bytes / RESERVE_FOR_MOVES)
    }

    fn leaves(&self, free: u64, bytes: u64, reserve: u64) -> Result<(), DiskError> {
        let promised = self.promised.load(Ordering::Relaxed);
        if free < reserve.saturating_add(promised).saturating_add(bytes) {
            return Err(DiskError::Full { free, reserve });
        }
        Ok(())
    }

    /// Sets room aside for a chunk that is on its way, if there is some.
    pub fn promise(self: &Arc<Self>, bytes: u64) -> Result<Promise, DiskError> {
        self.has_room(bytes)?;
        self.promised.fetch_add(bytes, Ordering::Relaxed);
        Ok(Promise { shared: self.clone(), bytes })
    }

    /// What an error of the system means. It may have been of one file only.
    pub fn failed(&self, error: &io::Error) -> DiskError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                let free = self.volume.room().map_or(0, |room| room.free);
                DiskError::Full { free, reserve: self.settings.reserve_bytes }
            }
            _ => DiskError::Io(error.to_string()),
        }
    }

    /// A sync failed: from now on nothing is written any more, in this life and in later ones.
    pub fn die(&self, cause: &io::Error) -> DiskError {
        let reason = format!("a sync failed: {cause}");
        let is_new = self.health.send_if_modified(|health| {
            let is_new = *health == Health::Sound;
            if is_new {
                *health = Health::ReadOnly { reason: reason.clone() };
            }
            is_new
        });
        if is_new {
            error!(%reason, "a disk is dead: it is read from only");
            // As well as it goes: the disk is what it is.
            let noted = self.volume.create(DEAD).and_then(|file| file.write_at(0, reason.as_bytes()));
            drop(noted);
        }
        DiskError::ReadOnly { reason }
    }

    /// A chunk is not what was written.
    pub fn is_damaged(&self, chunk: ChunkId) {
        let mut damaged = lock(&self.damaged);
        if damaged.len() < DAMAGED_MAX {
            damaged.insert(chunk);
        }
    }

    /// Chunks were written anew.
    pub fn mended(&self, chunks: impl IntoIterator<Item = ChunkId>) {
        let mut damaged = lock(&self.damaged);
        if !damaged.is_empty() {
            for chunk in chunks {
                damaged.remove(&chunk);
            }
        }
    }

    /// A chunk is gone.
    pub fn forget(&self, chunk: ChunkId) {
        self.index().unlink(chunk);
        self.mended([chunk]);
    }

    /// A chunk is gone, and may come again.
    pub fn evict(&self, chunk: ChunkId) {
        self.index().evict(chunk);
        self.mended([chunk]);
    }

    /// Whether a chunk is known not to be what was written.
    pub fn damages(&self, chunk: ChunkId) -> bool {
        lock(&self.damaged).contains(&chunk)
    }

    /// Which chunks are known not to be what was written.
    pub fn damaged(&self) -> Vec<ChunkId> {
        lock(&self.damaged).iter().copied().collect()
    }

    /// Reads, after as many others as may read at once.
    pub async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Shared>) -> Result<T, DiskError> + Send + 'static,
    ) -> Result<T, DiskError> {
        let _turn = self.reads.acquire().await;
        self.run(work).await
    }

    /// Runs what blocks, and waits for it.
    pub async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Shared>) -> Result<T, DiskError> + Send + 'static,
    ) -> Result<T, DiskError> {
        let (done, wait) = oneshot::channel();
        let shared = self.clone();
        let work = Box::new(move || drop(done.send(work(&shared))));
        self.volume.run(work).await.map_err(|error| self.failed(&error))?;
        wait.await.unwrap_or_else(|_| Err(DiskError::Io("the work was not finished".into())))
    }
}

/// Room that is set aside until this is dropped.
pub struct Promise {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.shared.promised.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Segments that are open.
#[derive(Default)]
pub struct Handles(BTreeMap<u32, Arc<dyn VolumeFile>>);

impl Handles {
    fn get(&self, segment: u32) -> Option<Arc<dyn VolumeFile>> {
        self.0.get(&segment).cloned()
    }

    pub fn insert(&mut self, segment: u32, file: Arc<dyn VolumeFile>) {
        if self.0.len() >= HANDLES_MAX {
            // The oldest one: what is new is read most.
            self.0.pop_first();
        }
        self.0.insert(segment, file);
    }

    pub fn remove(&mut self, segment: u32) {
        self.0.remove(&segment);
    }
}

//! The disk below the memory: what is too large for that, and what makes room there.
//!
//! Heads stay in memory, within a bound of their own; bodies are files, each written once, in blocks with a checksum. A file goes when
//! the last one who may want it lets go of it. Files are good for one life of the load balancer: the next one begins by removing all, so
//! that a purge which happened meanwhile holds. Nothing is lost with a file: what cannot be read is asked for again.
//!
//! A disk that takes nothing is left in peace for a while, and nobody is told but the counters.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hirsel_model::Timestamp;
use hirsel_role::host::scratch::{Scrap, Scratch};
use tokio::sync::Notify;

use super::kept::Head;
use super::store::Store;
use crate::budget::{Budget, Reserved};

/// What has one checksum, and is read at once.
pub const BLOCK_BYTES: usize = 64 * 1024;

/// What is written at once: a handful of blocks cost one way to another thread.
const WRITE_BYTES: usize = 4 * BLOCK_BYTES;

/// Memory that a body takes at most while it goes to disk: what is written at once, twice, and what comes meanwhile.
pub const SPOOL_BYTES: u64 = 1024 * 1024;

/// Of what the disk may hold one answer has at most so much.
const SHARE_OF_ONE: u64 = 8;

/// What file systems give room in.
const PAGE_BYTES: u64 = 4096;

/// A disk that took nothing is tried again after this.
pub const PAUSE: Duration = Duration::from_secs(10);

/// What is on disk.
pub struct Tier {
    /// By what it is found.
    pub index: Store,
    heads: Arc<Budget>,
    heads_max: u64,
    scratch: Arc<dyn Scratch>,
    /// Of the next file.
    number: AtomicU64,
    /// What was there before is removed.
    is_ready: AtomicBool,
    /// Until when nothing is tried, in milliseconds.
    rests_until: AtomicU64,
    gone: Arc<Gone>,
    refused: AtomicU64,
    damaged: AtomicU64,
}

/// Files that nobody wants any more, and that are to be removed: as many at most as there were answers.
#[derive(Default)]
pub struct Gone {
    numbers: Mutex<Vec<u64>>,
    bell: Notify,
}

impl Gone {
    fn add(&self, number: u64) {
        self.numbers().push(number);
        self.bell.notify_one();
    }

    /// Some of them, once there are any.
    pub async fn take(&self) -> Vec<u64> {
        loop {
            let numbers = std::mem::take(&mut *self.numbers());
            if !numbers.is_empty() {
                return numbers;
            }
            self.bell.notified().await;
        }
    }

    fn numbers(&self) -> MutexGuard<'_, Vec<u64>> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What there is on disk, for whoever counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answers.
    pub answers: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Answers that made room for others.
    pub evicted: u64,
    /// Answers that the disk did not take.
    pub refused: u64,
    /// Answers that could not be read again as they were written.
    pub damaged: u64,
}

/// A body on disk.
pub struct Stored {
    number: u64,
    length: u64,
    /// One for each block.
    sums: Vec<u32>,
    hits: AtomicU32,
    /// It turned out not to be what was written.
    is_bad: AtomicBool,
    gone: Arc<Gone>,
    _reserved: Reserved,
}

/// A body on its way to disk.
pub struct Draft {
    file: Arc<dyn Scrap>,
    number: u64,
    sums: Vec<u32>,
    written: u64,
    /// What has come and is not written.
    buffer: Vec<u8>,
    reserved: Option<Reserved>,
    gone: Arc<Gone>,
    /// Nobody has to fear that the rest finds no room.
    pub is_sure: bool,
}

impl Tier {
    /// Nothing yet: `bytes_max` of files at most, and `heads_max` bytes of memory for their heads. Numbers of files begin with `first`.
    pub fn new((bytes_max, heads_max): (u64, u64), scratch: Arc<dyn Scratch>, first: u64) -> Self {
        Self {
            index: Store::new(bytes_max),
            heads: Budget::new(heads_max),
            heads_max,
            scratch,
            number: AtomicU64::new(first),
            is_ready: AtomicBool::new(false),
            rests_until: AtomicU64::new(0),
            gone: Arc::default(),
            refused: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
        }
    }

    /// Files that nobody wants any more.
    pub fn gone(&self) -> &Arc<Gone> {
        &self.gone
    }

    /// Where files are.
    pub fn scratch(&self) -> &Arc<dyn Scratch> {
        &self.scratch
    }

    /// Largest body that is kept.
    pub fn one_bytes_max(&self) -> u64 {
        self.index.bytes_max() / SHARE_OF_ONE
    }

    /// What was there before is removed.
    pub fn begin(&self) {
        self.is_ready.store(true, Ordering::Release);
    }

    /// Whether it may be written to now.
    pub fn takes(&self, now: Timestamp) -> bool {
        self.is_ready.load(Ordering::Acquire) && now.0 >= self.rests_until.load(Ordering::Relaxed)
    }

    /// It took nothing.
    pub fn rests(&self, now: Timestamp) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.rests_until.store((now + PAUSE).0, Ordering::Relaxed);
    }

    /// A file was not there, or is not what was written.
    pub fn lost(&self) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
    }

    /// What there is.
    pub fn counts(&self) -> Counts {
        let (answers, bytes, evicted) = self.index.counts();
        let (refused, damaged) = (self.refused.load(Ordering::Relaxed), self.damaged.load(Ordering::Relaxed));
        Counts { answers, bytes, evicted, refused, damaged }
    }

    /// Room in memory for the head of a body on disk.
    pub fn head(&self, head: &Head) -> Option<Reserved> {
        let weight = head.weight();
        self.index.make_room(weight.min(self.heads_max), || self.heads.reserve(weight))
    }

    /// Begins a file for a body of this length, if that is known. None if that is too much, or there is no room now.
    pub async fn draft(&self, length: Option<u64>, now: Timestamp) -> Option<Draft> {
        if !self.takes(now) || length.is_some_and(|length| length > self.one_bytes_max()) {
            return None;
        }
        let reserved = self.index.reserve(on_disk(length.unwrap_or(0)))?;
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let sure = match length {
            Some(length) => self.scratch.create(number, length).await,
            None => Err(io::ErrorKind::Unsupported.into()),
        };
        let is_sure = sure.is_ok();
        let created = match sure {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.scratch.create(number, 0).await,
            sure => sure,
        };
        let Ok(file) = created else {
            self.rests(now);
            return None;
        };
        let (sums, buffer, gone) = (Vec::new(), Vec::new(), self.gone.clone());
        Some(Draft { file, number, sums, written: 0, buffer, reserved: Some(reserved), gone, is_sure })
    }

    /// Makes room for `more` of what is on its way. False if there is none.
    pub fn grow(&self, draft: &mut Draft, more: u64) -> bool {
        let (bytes, most) = (draft.written + draft.buffer.len() as u64 + more, self.one_bytes_max());
        let Some(reserved) = &mut draft.reserved else { return false };
        let needs = on_disk(bytes).saturating_sub(reserved.bytes());
        bytes <= most && (needs == 0 || self.index.grow(reserved, needs, on_disk(most)))
    }
}

/// What a body of this length takes.
fn on_disk(length: u64) -> u64 {
    length.div_ceil(PAGE_BYTES).saturating_mul(PAGE_BYTES)
}

impl Draft {
    /// More of it has come: writes what is worth a write.
    ///
    /// # Errors
    /// When the disk does not take it; the draft is of no use then.
    pub async fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() < WRITE_BYTES {
            return Ok(());
        }
        let rest = self.buffer.split_off(self.buffer.len() / BLOCK_BYTES * BLOCK_BYTES);
        let whole = std::mem::replace(&mut self.buffer, rest);
        self.write(whole).await
    }

    async fn write(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        self.sums.extend(bytes.chunks(BLOCK_BYTES).map(crc32fast::hash));
        let length = bytes.len() as u64;
        self.file.write(self.written, bytes).await?;
        self.written += length;
        Ok(())
    }

    /// Where it can be read meanwhile, and how much of it.
    pub fn written(&self) -> (&Arc<dyn Scrap>, u64) {
        (&self.file, self.written)
    }

    /// All of it has come.
    ///
    /// # Errors
    /// When the disk does not take the rest.
    pub async fn finish(mut self) -> io::Result<Arc<Stored>> {
        let rest = std::mem::take(&mut self.buffer);
        if !rest.is_empty() {
            self.write(rest).await?;
        }
        let reserved = self.reserved.take().ok_or(io::ErrorKind::InvalidInput)?;
        let (number, length, sums) = (self.number, self.written, std::mem::take(&mut self.sums));
        Ok(Arc::new(Stored {
            number,
            length,
            sums,
            hits: AtomicU32::new(0),
            is_bad: AtomicBool::new(false),
            gone: self.gone.clone(),
            _reserved: reserved,
        }))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.reserved.is_some() {
            self.gone.add(self.number);
        }
    }
}

impl Stored {
    /// How long it is.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Counts a hit, and says how many there were before.
    pub fn hit(&self) -> u32 {
        self.hits.fetch_add(1, Ordering::Relaxed)
    }

    /// Its block with this number.
    ///
    /// # Errors
    /// When it cannot be read, or is not what was written.
    pub async fn block(&self, file: &dyn Scrap, number: u64) -> io::Result<Bytes> {
        let at = number * BLOCK_BYTES as u64;
        let length = usize::try_from(self.length.saturating_sub(at)).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
        let sum = usize::try_from(number).ok().and_then(|number| self.sums.get(number));
        match file.read(at, length).await {
            Ok(read) if read.len() == length && sum == Some(&crc32fast::hash(&read)) => Ok(read.into()),
            read => {
                self.is_bad.store(true, Ordering::Relaxed);
                Err(read.err().unwrap_or(io::ErrorKind::InvalidData.into()))
            }
        }
    }

    /// Opens it, and reads its first block.
    ///
    /// # Errors
    /// When it is not there any more, or not what was written.
    pub async fn open(self: &Arc<Self>, scratch: &dyn Scratch) -> io::Result<Opened> {
        if self.is_bad.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let file = scratch.open(self.number).await?;
        let first = if self.length == 0 { Bytes::new() } else { self.block(file.as_ref(), 0).await? };
        Ok(Opened { file, stored: self.clone(), first })
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.gone.add(self.number);
    }
}

/// A body on disk that can be read.
#[derive(Clone)]
pub struct Opened {
    /// Where.
    pub file: Arc<dyn Scrap>,
    /// What.
    pub stored: Arc<Stored>,
    /// Its first block.
    pub first: Bytes,
}

impl fmt::Debug for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tier").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stored({} bytes)", self.length)
    }
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Draft({} bytes written)", self.written)
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stored.fmt(f)
    }
}

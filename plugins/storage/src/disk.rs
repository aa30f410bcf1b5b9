//! One disk: what a data folder of a storage node holds, and how it comes in, out and to its end.
//!
//! ```text
//! identity           whose the folder is
//! segments/N         small chunks, one behind the other (`record`); beside each that is sealed, a list (`sidecar`)
//! chunks/ID.BYTES    large chunks, a file each (`file`)
//! incoming/…         large chunks on their way; removed at each start
//! deaths             which chunks were condemned, and which small ones unlinked or evicted (`deaths`)
//! scrub, dead        how far reading everything is; why nothing is written any more
//! ```
//!
//! Kept: whatever was acknowledged is there, byte for byte, whenever the power fails; what was not is there whole or not at all. One that
//! was condemned never comes back to life, except when the disk lost the note of it. Nothing is deleted but by [`Disk::unlink`], of a chunk
//! that was condemned before, and by [`Disk::evict`], of one that others have. After a failed sync nothing is written any more. No read hands on a block that is not the one that was written.
//!
//! Writes of all callers go through one writer ([`hands`]), in batches; reads go beside it. It decides nothing about which chunks should be:
//! that is the metadata's. It reads no clock.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt};
use hirsel_mesh::seam::volume::Volume;
use hirsel_role::Spawner;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::chunk::{self, BLOCK_BYTES, Block, CHUNK_BYTES_MAX, Checksum, ChunkId};

pub mod compact;
pub mod deaths;
pub mod file;
mod hands;
pub mod identity;
mod incoming;
mod index;
mod load;
mod read;
pub mod record;
pub mod scrub;
mod shared;
pub mod sidecar;
#[cfg(test)]
mod tests;

use hands::{Hands, Small, Work};
pub use identity::{DiskId, Identity};
pub use index::Sum;
pub use load::scan;
pub use read::{Part, Reader};
use shared::Shared;

const INCOMING: &str = "incoming";
const SEGMENTS: &str = "segments";
const CHUNKS: &str = "chunks";
const DEATHS: &str = "deaths";
const SCRUB: &str = "scrub";
const DEAD: &str = "dead";
/// What file systems put into their root by themselves.
const LOST_AND_FOUND: &str = "lost+found";

/// A chunk of at most so many bytes is packed with others. Above, a file of its own costs less than copying it when its segment is to go.
pub const PACKED_BYTES_MAX: u32 = 256 << 10;
/// Chunks on one disk. The index takes some 60 bytes of memory for each, so this is about a gigabyte; large chunks alone would be 64 TB.
pub const CHUNKS_MAX: usize = 16_000_000;
/// Chunks that are listed at once.
pub const LIST_MAX: usize = 1000;
/// Bytes of small chunks that are held in memory until they are safe. More writers wait.
const PENDING_BYTES_MAX: usize = 32 << 20;
/// Large chunks that are written at once, each with a mebibyte in memory. More writers wait.
const LARGE_AT_ONCE_MAX: usize = 64;
/// Reads at once, each with a mebibyte in memory. More readers wait.
const READS_AT_ONCE_MAX: usize = 64;
/// Work that waits for the writer.
const QUEUE_MAX: usize = 4096;
/// Work that is made safe together: enough for one sync to cost each little, and little enough that nobody waits for much of others.
const BATCH_MAX: usize = 1024;
/// Bytes of small chunks in it.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// What can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes that chunks may take, garbage among them, whatever else there is room for.
    pub capacity_bytes: u64,
    /// Bytes that are left free. Deaths and moves take from them, and nothing else does.
    pub reserve_bytes: u64,
    /// Bytes of a segment: longer ones make fewer files, shorter ones are sooner compacted.
    pub segment_bytes: u32,
}

impl Settings {
    /// For a volume of so many bytes: a twentieth is left free.
    pub fn for_volume(total_bytes: u64) -> Settings {
        Settings { capacity_bytes: u64::MAX, reserve_bytes: total_bytes / 20, segment_bytes: 64 << 20 }
    }

    /// For at most so many bytes of a volume.
    pub fn within(capacity_bytes: u64, total_bytes: u64) -> Settings {
        Settings { capacity_bytes, ..Settings::for_volume(total_bytes.min(capacity_bytes)) }
    }
}

/// Why something was not done. Nothing was, unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// There is none.
    #[error("chunk {0} is not on this disk")]
    Absent(ChunkId),
    /// It is there already, with other content.
    #[error("chunk {0} is on this disk already, and holds something else")]
    Exists(ChunkId),
    /// It was condemned or unlinked: it is not written again.
    #[error("chunk {0} was condemned")]
    Condemned(ChunkId),
    /// Only what was condemned is unlinked.
    #[error("chunk {0} was not condemned before it was to be unlinked")]
    NotCondemned(ChunkId),
    /// What is on the disk is not what was written.
    #[error("chunk {chunk} is damaged: {what}; another copy must replace it")]
    Damaged {
        /// Which.
        chunk: ChunkId,
        /// What is wrong.
        what: String,
    },
    /// What was to be written is not what its checksums or its length say.
    #[error("chunk {chunk} did not come as it was announced: {what}")]
    Wrong {
        /// Which.
        chunk: ChunkId,
        /// What is wrong.
        what: String,
    },
    /// There is no room but the reserve.
    #[error("the disk is full: {free} bytes are free, and {reserve} of them are left so")]
    Full {
        /// Bytes that are free.
        free: u64,
        /// Bytes that are left so.
        reserve: u64,
    },
    /// There are as many chunks as an index may hold.
    #[error("the disk holds {chunks} chunks, which is the limit")]
    TooMany {
        /// The limit.
        chunks: usize,
    },
    /// A sync failed once.
    #[error("the disk is read from only: {reason}; replace it")]
    ReadOnly {
        /// Why.
        reason: String,
    },
    /// Something else failed. Whether it was done is unknown.
    #[error("{0}")]
    Io(String),
}

/// Why a folder is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It holds nothing: most likely the disk is not mounted.
    #[error("holds no data of hirsel: is the disk mounted there? It should be disk {expected}")]
    Empty {
        /// Which disk should be there.
        expected: DiskId,
    },
    /// It is somebody else's.
    #[error("belongs to {found}, and not to {expected}")]
    Foreign {
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// It is to be laid out and holds something.
    #[error("is not empty ({found}): only an empty folder is laid out")]
    Occupied {
        /// Something that is there.
        found: String,
    },
    /// It says something that cannot be read.
    #[error("cannot be used: {0}")]
    Unreadable(String),
}

/// How a disk is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It takes and gives.
    Sound,
    /// It only gives.
    ReadOnly {
        /// Why.
        reason: String,
    },
}

/// Says that a chunk is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// How long it is.
    pub bytes: u32,
    /// Its checksum as a whole.
    pub checksum: Checksum,
}

/// A chunk in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Which.
    pub chunk: ChunkId,
    /// How long it is.
    pub bytes: u32,
    /// Whether it was condemned.
    pub condemned: bool,
}

/// How much there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the volume, or of the part of it that may be used.
    pub total: u64,
    /// Bytes that are free, the reserve among them.
    pub free: u64,
    /// Bytes that are left free.
    pub reserve: u64,
    /// What the index amounts to.
    pub sum: Sum,
    /// Chunks known to be damaged, at most some thousand.
    pub damaged: Vec<ChunkId>,
    /// How the disk is.
    pub health: Health,
}

/// A disk in use. Once dropped, its writer ends when it has answered everybody.
pub struct Disk {
    shared: Arc<Shared>,
    work: mpsc::Sender<Work>,
    pending: Arc<Semaphore>,
    large: Arc<Semaphore>,
    numbers: std::sync::atomic::AtomicU64,
    spawner: Spawner,
    pass: Arc<tokio::sync::Mutex<Option<scrub::Pass>>>,
    compacting: tokio::sync::Mutex<compact::Stuck>,
}

impl Disk {
    /// Makes an empty folder one of `identity`. It blocks.
    pub fn lay_out(volume: &dyn Volume, identity: &Identity) -> Result<(), OpenError> {
        let unreadable = |error: std::io::Error| OpenError::Unreadable(error.to_string());
        let names = volume.list("").map_err(unreadable)?;
        if let Some(found) = names.into_iter().find(|name| name != LOST_AND_FOUND && name != &new_identity()) {
            return Err(OpenError::Occupied { found });
        }
        load::replace(volume, identity::FILE, &identity::encode(identity)).map_err(unreadable)?;
        volume.sync_folder("").map_err(unreadable)
    }

    /// Whose a folder is; none for one that holds nothing of ours. It blocks.
    pub fn identity(volume: &dyn Volume) -> Result<Option<Identity>, OpenError> {
        let read = load::whole(volume, identity::FILE, identity::BYTES_MAX);
        let read = read.map_err(|error| OpenError::Unreadable(error.to_string()))?;
        read.map(|bytes| identity::decode(&bytes).map_err(OpenError::Unreadable)).transpose()
    }

    /// Takes up a folder of `identity`, and refuses any other. It reads lists and names, and of data only what a crash left unlisted.
    pub async fn open(
        volume: Arc<dyn Volume>,
        identity: Identity,
        settings: Settings,
        spawner: Spawner,
    ) -> Result<Disk, OpenError> {
        let (done, wait) = oneshot::channel();
        let of = volume.clone();
        let read = Box::new(move || drop(done.send(take_up(&*of, &identity))));
        volume.run(read).await.map_err(|error| OpenError::Unreadable(error.to_string()))?;
        let found = wait.await.unwrap_or_else(|_| Err(OpenError::Unreadable("it was not read".into())))?;
        let health = match found.dead {
            None => Health::Sound,
            Some(reason) => Health::ReadOnly { reason },
        };
        let shared = Arc::new(Shared::new(volume, settings, found.index, health));
        let hands = Hands::new(shared.clone(), found.next, found.deaths_end);
        let (work, queue) = mpsc::channel(QUEUE_MAX);
        spawner.spawn(write(shared.clone(), hands, queue));
        Ok(Disk {
            shared,
            work,
            pending: Arc::new(Semaphore::new(PENDING_BYTES_MAX)),
            large: Arc::new(Semaphore::new(LARGE_AT_ONCE_MAX)),
            numbers: 0.into(),
            spawner,
            pass: Arc::default(),
            compacting: tokio::sync::Mutex::default(),
        })
    }

    /// Writes a chunk of `bytes` bytes, whose blocks come one by one, and returns when it is safe. The same chunk once more is no error
    /// and is not written; one that is known to be damaged is replaced. Dropped before it returns, it leaves the chunk whole or none.
    pub async fn put<S>(&self, chunk: ChunkId, bytes: u32, blocks: S) -> Result<Receipt, DiskError>
    where
        S: Stream<Item = Result<Block, String>> + Send + Unpin,
    {
        if bytes > CHUNK_BYTES_MAX {
            return Err(wrong(chunk, format!("{bytes} bytes are more than {CHUNK_BYTES_MAX}")));
        }
        self.shared.writable()?;
        match self.shared.admit(chunk) {
            Err(DiskError::Exists(_)) if self.is_sound(chunk).await? => {
                return self.compare(chunk, bytes, blocks).await;
            }
            // Now it is known to be damaged, or is gone.
            Err(DiskError::Exists(_)) => self.shared.admit(chunk)?,
            admitted => admitted?,
        }
        let mut blocks = Blocks { chunk, bytes, number: 0, blocks, checksums: Vec::new() };
        let put = if bytes <= PACKED_BYTES_MAX {
            self.put_small(&mut blocks).await
        } else {
            self.put_large(&mut blocks).await
        };
        put.map(|()| Receipt { bytes, checksum: Checksum::of_chunk(chunk, bytes, &blocks.checksums) })
    }

    async fn put_small<S>(&self, blocks: &mut Blocks<S>) -> Result<(), DiskError>
    where
        S: Stream<Item = Result<Block, String>> + Send + Unpin,
    {
        let room = self.pending.acquire_many(blocks.bytes.max(BLOCK_BYTES / 16)).await;
        let _room = room.map_err(|_| closed())?;
        let mut data = Vec::with_capacity(blocks.bytes as usize);
        while let Some(block) = blocks.next().await? {
            data.extend_from_slice(&block.bytes);
        }
        let small = Small { chunk: blocks.chunk, checksums: blocks.checksums.clone(), data };
        self.ask(|reply| Work::Append { small, reply }).await
    }

    async fn put_large<S>(&self, blocks: &mut Blocks<S>) -> Result<(), DiskError>
    where
        S: Stream<Item = Result<Block, String>> + Send + Unpin,
    {
        let _turn = self.large.acquire().await.map_err(|_| closed())?;
        let number = self.numbers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut incoming =
            incoming::Incoming::begin(&self.shared, self.spawner.clone(), blocks.chunk, number, blocks.bytes).await?;
        while let Some(block) = blocks.next().await? {
            incoming.push(block.bytes).await?;
        }
        let path = incoming.finish(blocks.chunk, blocks.bytes, &blocks.checksums).await?;
        let (chunk, bytes) = (blocks.chunk, blocks.bytes);
        let published = self.ask(|reply| Work::Publish { incoming: path, chunk, bytes, reply }).await;
        incoming.is_named();
        published
    }

    /// Whether a chunk that is there is what was written, all of it.
    async fn is_sound(&self, chunk: ChunkId) -> Result<bool, DiskError> {
        let read = async {
            let mut reader = self.get(chunk, 0..u32::MAX).await?;
            while reader.next().await?.is_some() {}
            Ok(true)
        };
        match read.await {
            Err(DiskError::Damaged { .. } | DiskError::Absent(_)) => Ok(false),
            other => other,
        }
    }

    /// Whether what comes is what is there.
    async fn compare<S>(&self, chunk: ChunkId, bytes: u32, blocks: S) -> Result<Receipt, DiskError>
    where
        S: Stream<Item = Result<Block, String>> + Send + Unpin,
    {
        let mut blocks = Blocks { chunk, bytes, number: 0, blocks, checksums: Vec::new() };
        while blocks.next().await?.is_some() {}
        let checksum = Checksum::of_chunk(chunk, bytes, &blocks.checksums);
        let known = self.get(chunk, 0..0).await?;
        let same = known.bytes() == bytes && known.checksum() == checksum;
        if same { Ok(Receipt { bytes, checksum }) } else { Err(DiskError::Exists(chunk)) }
    }

    /// Reads the blocks in which `range` of a chunk lies.
    pub async fn get(&self, chunk: ChunkId, range: Range<u32>) -> Result<Reader, DiskError> {
        Reader::open(&self.shared, chunk, range).await
    }

    /// Reads the same at once: for whoever wants all of it in memory, up to 4 MiB.
    pub async fn part(&self, chunk: ChunkId, range: Range<u32>) -> Result<Part, DiskError> {
        Part::read(&self.shared, chunk, range).await
    }

    /// Condemns a chunk, durably: it can still be read, is not written again, and may be unlinked. Whether it is there.
    pub async fn condemn(&self, chunk: ChunkId) -> Result<bool, DiskError> {
        self.ask(|reply| Work::Condemn { chunk, reply }).await
    }

    /// Unlinks a condemned chunk, durably. Whether it was there.
    pub async fn unlink(&self, chunk: ChunkId) -> Result<bool, DiskError> {
        self.ask(|reply| Work::Unlink { chunk, reply }).await
    }

    /// Removes chunks that others have, durably: they may be written here again. How many there were that could be; what is condemned dies
    /// otherwise, and what is about to be copied out of its segment can be evicted later.
    pub async fn evict(&self, chunks: &[ChunkId]) -> Result<usize, DiskError> {
        let is_open = |chunk: &ChunkId| {
            let index = self.shared.index();
            let segment = index.get(*chunk).and_then(|known| match known.place {
                index::Place::Packed { segment, .. } => index.segment(segment),
                index::Place::File => None,
            });
            segment.is_some_and(|segment| !segment.sealed)
        };
        if chunks.iter().any(is_open) {
            // Of what is written to now, no record can be named for good.
            self.ask(|reply| Work::Seal { reply }).await?;
        }
        let asked = chunks.iter().map(|chunk| self.ask(|reply| Work::Evict { chunk: *chunk, reply }));
        let evicted: Vec<bool> = futures::future::try_join_all(asked).await?;
        Ok(evicted.into_iter().filter(|evicted| *evicted).count())
    }

    /// Chunks after `after` in the order of their ids, at most [`LIST_MAX`]; none when there are no more.
    pub fn list(&self, after: Option<ChunkId>) -> Vec<Listed> {
        let listed = self.shared.index().list(after, LIST_MAX);
        let one =
            |(chunk, known): (ChunkId, index::Known)| Listed { chunk, bytes: known.bytes, condemned: known.condemned };
        listed.into_iter().map(one).collect()
    }

    /// A chunk as a list would have it.
    pub fn find(&self, chunk: ChunkId) -> Option<Listed> {
        let known = self.shared.index().get(chunk)?;
        Some(Listed { chunk, bytes: known.bytes, condemned: known.condemned })
    }

    /// Whether a chunk is known not to be what was written.
    pub fn is_damaged(&self, chunk: ChunkId) -> bool {
        self.shared.damages(chunk)
    }

    /// How much there is.
    pub async fn usage(&self) -> Result<Usage, DiskError> {
        let room = self.shared.run(|shared| shared.room()).await?;
        Ok(Usage {
            total: room.total,
            free: room.free,
            reserve: self.shared.settings.reserve_bytes,
            sum: self.shared.index().sum(),
            damaged: self.shared.damaged(),
            health: self.shared.health.borrow().clone(),
        })
    }

    /// Waits until all that was to be written before is done, and until it tells how much room it has: a disk that hangs does neither.
    pub async fn answers(&self) -> Result<(), DiskError> {
        self.ask(|reply| Work::Pass { reply }).await?;
        self.shared.run(|shared| shared.room()).await.map(drop)
    }

    /// How it is, now and from now on.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    /// Reads on for about `budget` bytes, and says what is damaged. After everything was read, another pass begins, at `now_ms` of a clock
    /// that goes on over restarts. [`scrub::due`] says how much is due.
    pub async fn scrub(&self, budget: u64, now_ms: u64) -> Result<scrub::Step, DiskError> {
        let mut held = self.pass.clone().lock_owned().await;
        if held.is_none() {
            *held = self.shared.run(|shared| Ok(scrub::noted(shared))).await?;
        }
        if held.is_none() {
            // What is written to now could stay so for years.
            let _ = self.ask(|reply| Work::Seal { reply }).await;
            *held = Some(scrub::Pass::begun(now_ms));
        }
        self.shared
            .run(move |shared| {
                let Some(pass) = &mut *held else { return Ok(scrub::Step::default()) };
                let step = scrub::step(shared, pass, budget)?;
                if step.is_complete {
                    *held = None;
                    let _ = shared.volume.remove(SCRUB);
                }
                Ok(step)
            })
            .await
    }

    /// Begins another pass of [`Disk::scrub`], wherever the one under way is.
    pub async fn scrub_anew(&self, now_ms: u64) {
        let mut held = self.pass.lock().await;
        // Where nothing is written any more, what was sealed before is read all the same.
        let _ = self.ask(|reply| Work::Seal { reply }).await;
        *held = Some(scrub::Pass::begun(now_ms));
    }

    /// Frees the room of the most wasteful segment, if one wastes enough ([`compact::WASTE_PERCENT`]); none if none does.
    pub async fn compact(&self) -> Result<Option<compact::Freed>, DiskError> {
        let mut stuck = self.compacting.lock().await;
        compact::one(self, &mut stuck).await
    }

    async fn ask<T>(&self, work: impl FnOnce(hands::Reply<T>) -> Work) -> Result<T, DiskError> {
        let (reply, answer) = oneshot::channel();
        self.work.send(work(reply)).await.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }
}

fn new_identity() -> String {
    format!("{}.new", identity::FILE)
}

fn closed() -> DiskError {
    DiskError::Io("the writer of the disk has ended".into())
}

fn wrong(chunk: ChunkId, what: String) -> DiskError {
    DiskError::Wrong { chunk, what }
}

/// Blocks as they come, each looked at.
struct Blocks<S> {
    chunk: ChunkId,
    bytes: u32,
    number: u32,
    blocks: S,
    checksums: Vec<Checksum>,
}

impl<S: Stream<Item = Result<Block, String>> + Send + Unpin> Blocks<S> {
    async fn next(&mut self) -> Result<Option<Block>, DiskError> {
        let expected = chunk::count(self.bytes);
        let block = match self.blocks.next().await {
            None if self.number == expected => return Ok(None),
            None => return Err(wrong(self.chunk, format!("{} of {expected} blocks came", self.number))),
            Some(Err(what)) => return Err(wrong(self.chunk, what)),
            Some(Ok(block)) => block,
        };
        if self.number == expected {
            return Err(wrong(self.chunk, format!("more than {expected} blocks came")));
        }
        if !block.is(self.chunk, self.bytes, self.number) {
            return Err(wrong(self.chunk, format!("block {} does not fit its checksum", self.number)));
        }
        self.number += 1;
        self.checksums.push(block.checksum);
        Ok(Some(block))
    }
}

/// Looks whose a folder is, and reads what it holds.
fn take_up(volume: &dyn Volume, expected: &Identity) -> Result<load::Found, OpenError> {
    let found = Disk::identity(volume)?;
    let words = |of: &Identity| format!("disk {} of node {} of cluster {}", of.disk, of.node, of.cluster);
    match found {
        None => Err(OpenError::Empty { expected: expected.disk }),
        Some(found) if found != *expected => {
            Err(OpenError::Foreign { found: words(&found), expected: words(expected) })
        }
        Some(_) => load::load(volume).map_err(|error| OpenError::Unreadable(error.to_string())),
    }
}

/// Takes up work as it comes, as much at once as there is.
async fn write(shared: Arc<Shared>, hands: Hands, mut queue: mpsc::Receiver<Work>) {
    let hands = Arc::new(Mutex::new(hands));
    while let Some(first) = queue.recv().await {
        let mut bytes = first.bytes();
        let mut batch = vec![first];
        while batch.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
            let Ok(more) = queue.try_recv() else { break };
            bytes += more.bytes();
            batch.push(more);
        }
        let hands = hands.clone();
        let worked = shared.run(move |_| {
            hands.lock().unwrap_or_else(PoisonError::into_inner).work(batch);
            Ok(())
        });
        if worked.await.is_err() {
            // It panicked. Whoever waits or asks learns that nobody writes; what is on the disk is as after a crash.
            break;
        }
    }
}

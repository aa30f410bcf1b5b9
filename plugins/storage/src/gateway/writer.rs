//! A body on its way in.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use futures::{Stream, StreamExt};
use hirsel_model::{NodeId, Timestamp};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

use super::{Gateway, Places};
use crate::chunk::CHUNK_BYTES_MAX;
use crate::codec::Scheme;
use crate::meta::access::MetaError;
use crate::meta::kinds::{ChunkRef, Class, Missed, WhenShort, Written};
use crate::meta::limits::{BODY_BYTES_MAX, CHUNKS_MAX, INLINE_BYTES_MAX};
use crate::meta::names::{ChunkId, WriteId};
use crate::spread::Goal;
use crate::store::Piece;
use crate::wire::Target;

/// Chunks of one body that are being written at once, each with its bytes in memory: enough to fill the time of a sync.
const AT_ONCE_MAX: usize = 3;
/// What a body may hold without room for a chunk: small objects do not wait behind large ones, and a thousand of these are 64 MiB.
const UNCOUNTED_BYTES_MAX: usize = 64 << 10;

/// A chunk that has not come whole after so long goes as it is when others wait for its room.
const FILLED_WITHIN: Duration = Duration::from_secs(1);
/// Partitions of a class that no bucket had before are in the plan within this: whoever leads the metadata counts every five seconds what
/// buckets ask for, and tells whoever plans. No client of S3 waits for less.
const PARTITIONS_WITHIN: Duration = Duration::from_secs(15);
/// How often it is looked whether others wait.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Chunks of one body that go before they are full. With as many, what is left still takes the longest body.
const SHORT_MAX: usize = 512;

/// Why a body is not kept. Nothing of it can ever be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The metadata say no, or nothing.
    #[error("{0}")]
    Meta(#[from] MetaError),
    /// Longer than a body may be.
    #[error("a body of more than {BODY_BYTES_MAX} bytes")]
    TooLarge,
    /// Too few nodes took it.
    #[error("{safe} of {needed} storage nodes took a piece, and {least} are the least: {why}")]
    TooFew {
        /// How many took it.
        safe: usize,
        /// How many should.
        needed: usize,
        /// How many must.
        least: usize,
        /// Why others did not.
        why: String,
    },
    /// Too much of other bodies is in memory.
    #[error("too many bodies are on their way")]
    Busy,
    /// Every node that should take it is full.
    #[error("the storage nodes are full: {0}")]
    Full(String),
}

/// A body on its way in, piece by piece. Dropped before [`Writer::finish`], it leaves nothing that anybody could read.
pub struct Writer {
    gateway: Gateway,
    class: Class,
    when_short: WhenShort,
    held: BytesMut,
    /// The room that `held` takes, once it is more than a little.
    room: Option<OwnedSemaphorePermit>,
    /// When it was given.
    since: Timestamp,
    /// Chunks that went before they were full.
    short: usize,
    taken: u64,
    /// A body of at most so many bytes is kept in its row.
    inline_bytes_max: usize,
    begun: Option<Begun>,
}

/// What is known once the body is too long to be kept in its row.
struct Begun {
    write: WriteId,
    places: Places,
    chunks: Vec<ChunkRef>,
    missed: Vec<Missed>,
    running: FuturesOrdered<BoxFuture<'static, Result<Vec<Missed>, WriteError>>>,
}

impl Writer {
    pub(super) fn new(gateway: Gateway, class: Class, when_short: WhenShort) -> Self {
        let (held, inline_bytes_max) = (BytesMut::new(), INLINE_BYTES_MAX);
        let since = gateway.now();
        Self { gateway, class, when_short, held, room: None, since, short: 0, taken: 0, inline_bytes_max, begun: None }
    }

    /// It is a part of an object: its bytes are never kept in its row, for who reads an object looks for chunks.
    pub fn of_part(mut self) -> Self {
        self.inline_bytes_max = 0;
        self
    }

    /// Bytes that were taken.
    pub fn bytes(&self) -> u64 {
        self.taken
    }

    /// Takes the next piece, and waits while too much is on its way.
    ///
    /// # Errors
    /// See [`WriteError`]; then the writer is to be dropped.
    pub async fn push(&mut self, mut piece: Bytes) -> Result<(), WriteError> {
        self.taken += piece.len() as u64;
        self.gateway.counts().bytes_in.inc_by(piece.len() as u64);
        if self.taken > BODY_BYTES_MAX {
            return Err(WriteError::TooLarge);
        }
        while !piece.is_empty() {
            let room = CHUNK_BYTES_MAX as usize - self.held.len();
            let part = piece.split_to(room.min(piece.len()));
            if self.room.is_none() && self.held.len() + part.len() > UNCOUNTED_BYTES_MAX {
                self.room = Some(self.gateway.room().await.ok_or(WriteError::Busy)?);
                self.since = self.gateway.now();
            }
            self.held.extend_from_slice(&part);
            if self.held.len() == CHUNK_BYTES_MAX as usize {
                self.send().await?;
            }
        }
        Ok(())
    }

    /// The next piece of a stream that is to be pushed. While it is waited for, a chunk that does not get full makes way for others: who
    /// sends slowly holds nobody back.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn next_of<S: Stream + Unpin>(&mut self, stream: &mut S) -> Result<Option<S::Item>, WriteError> {
        loop {
            let holds = self.room.is_some() && self.short < SHORT_MAX;
            let gateway = self.gateway.clone();
            let way = must_make_way(&gateway, holds.then_some(self.since));
            tokio::select! {
                piece = stream.next() => return Ok(piece),
                () = way => {
                    self.short += 1;
                    self.send().await?;
                }
            }
        }
    }

    /// The body, once all of it is safe: to be named by a commit.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn finish(mut self) -> Result<Written, WriteError> {
        if self.begun.is_none() && self.held.len() <= self.inline_bytes_max {
            return Ok(Written::Inline(std::mem::take(&mut self.held).to_vec()));
        }
        if !self.held.is_empty() {
            self.send().await?;
        }
        let class = self.class;
        let Some(begun) = &mut self.begun else { return Ok(Written::Inline(Vec::new())) };
        while let Some(sent) = begun.running.next().await {
            begun.missed.extend(sent?);
        }
        let Some(begun) = self.begun.take() else { return Ok(Written::Inline(Vec::new())) };
        let (write, table) = (begun.write, begun.places.version());
        Ok(Written::Chunks { write, class, table, chunks: begun.chunks, missed: begun.missed })
    }

    /// Sends off what is held.
    async fn send(&mut self) -> Result<(), WriteError> {
        if self.begun.is_none() {
            partitions_of(&self.gateway, self.class).await;
            let (write, places) = (self.gateway.open().await?, self.gateway.places());
            let (chunks, missed, running) = (Vec::new(), Vec::new(), FuturesOrdered::new());
            self.begun = Some(Begun { write, places, chunks, missed, running });
        }
        let Some(begun) = &mut self.begun else { return Ok(()) };
        while begun.running.len() >= AT_ONCE_MAX {
            if let Some(sent) = begun.running.next().await {
                begun.missed.extend(sent?);
            }
        }
        if begun.chunks.len() >= CHUNKS_MAX {
            return Err(WriteError::TooLarge);
        }
        let content = self.held.split().freeze();
        let Some(partition) = begun.places.draw(self.class, self.gateway.chance().number()) else {
            return Err(too_few(self.class, self.when_short, 0, "no node stores anything yet".into()));
        };
        let number = u16::try_from(begun.chunks.len()).map_err(|_| WriteError::TooLarge)?;
        let id = ChunkId::new(partition, begun.write, number);
        begun.chunks.push(ChunkRef { id, bytes: content.len() as u32 });
        let room = self.room.take();
        let sending = Sending { gateway: self.gateway.clone(), places: begun.places.clone(), id, content, _room: room };
        let (class, when_short) = (self.class, self.when_short);
        // A task of its own, so that it goes on while the client sends more.
        let task = self.gateway.spawner().spawn(sending.send(class, when_short));
        begun.running.push_back(Box::pin(Ending(task)));
        Ok(())
    }
}

/// Waits for partitions of this class, for a while: of a wide one there are none before a bucket asked for it, and the first object may come at once.
async fn partitions_of(gateway: &Gateway, class: Class) {
    let begun = gateway.now();
    while gateway.places().will_have(class) && gateway.now().since(begun) < PARTITIONS_WITHIN {
        sleep(LOOK_EVERY).await;
    }
}

/// Ends when others wait for room like that which was given at `since`, and was not filled in time; never if there is none.
async fn must_make_way(gateway: &Gateway, since: Option<Timestamp>) {
    let Some(since) = since else { return std::future::pending().await };
    loop {
        let left = FILLED_WITHIN.saturating_sub(gateway.now().since(since));
        if left.is_zero() && gateway.is_short_of_room() {
            return;
        }
        sleep(left.max(LOOK_EVERY)).await;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(begun) = self.begun.take() {
            self.gateway.abort(begun.write);
        }
    }
}

/// A task that ends with whoever waits for it.
struct Ending(tokio::task::JoinHandle<Result<Vec<Missed>, WriteError>>);

impl Future for Ending {
    type Output = Result<Vec<Missed>, WriteError>;

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        std::pin::Pin::new(&mut self.0).poll(cx).map(|ended| ended.unwrap_or(Err(WriteError::Meta(MetaError::Unknown))))
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One chunk on its way.
struct Sending {
    gateway: Gateway,
    places: Places,
    id: ChunkId,
    content: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl Sending {
    async fn send(self, class: Class, when_short: WhenShort) -> Result<Vec<Missed>, WriteError> {
        let pieces = usize::from(class.pieces());
        let targets = self.places.targets(self.id.partition(), pieces);
        let least = if when_short == WhenShort::Degrade { usize::from(class.least()) } else { pieces };
        let goal = Goal { needed: pieces, least };
        let store = self.gateway.store();
        let outcome = match class {
            Class::Copies(_) => {
                let piece = Piece::new(self.id.on_disk(0), &self.content);
                store.write_copies(&piece, pieces, &targets, goal).await
            }
            Class::Erasure(data, parity) => {
                let scheme = Scheme::new(data, parity).map_err(|error| no(class, when_short, error.to_string()))?;
                let shards = self.gateway.codec(scheme).encode(&self.content);
                let shards = shards.map_err(|error| no(class, when_short, error.to_string()))?;
                let shards = (0u8..).zip(&shards);
                let pieces: Vec<Piece> =
                    shards.map(|(shard, content)| Piece::new(self.id.on_disk(shard), content)).collect();
                store.write_pieces(&pieces, &targets, goal).await
            }
        };
        if !outcome.is_written {
            let why: Vec<String> = outcome.missed.iter().map(|missed| missed.why.clone()).collect();
            return Err(too_few(class, when_short, outcome.safe(), why.join("; ")));
        }
        let on = |place: &Option<usize>| place.and_then(|place| targets.get(place)).map(|target: &Target| target.node);
        let safe: Vec<Option<NodeId>> = outcome.places.iter().map(on).collect();
        Ok(self.places.missed(self.id, class, &safe))
    }
}

fn no(class: Class, when_short: WhenShort, why: String) -> WriteError {
    too_few(class, when_short, 0, why)
}

fn too_few(class: Class, when_short: WhenShort, safe: usize, why: String) -> WriteError {
    if !why.is_empty() && why.split("; ").all(|why| why.contains("the disk is full")) {
        return WriteError::Full(why);
    }
    let needed = usize::from(class.pieces());
    let least = if when_short == WhenShort::Degrade { usize::from(class.least()) } else { needed };
    WriteError::TooFew { safe, needed, least, why }
}

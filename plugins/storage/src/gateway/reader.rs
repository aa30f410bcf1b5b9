//! A body on its way out.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use tokio::sync::OwnedSemaphorePermit;

use super::Gateway;
use crate::codec::Scheme;
use crate::meta::kinds::{self, Class, Object};
use crate::meta::names::ChunkId;
use crate::meta::query::{Query, Reply};
use crate::meta::read::Piece;
use crate::wire::Target;

/// Chunks of one body that are read at once, each with its bytes in memory.
const AT_ONCE_MAX: usize = 3;
/// What a body may hold without room for a chunk: a thousand of these are 256 MiB.
const UNCOUNTED_BYTES_MAX: u32 = 256 << 10;

/// Part of a body, chunk by chunk. Each block of it has been looked at.
pub struct Body {
    gateway: Gateway,
    source: Source,
    /// The next byte that is asked for.
    next: u64,
    /// The byte before which it ends.
    end: u64,
    running: FuturesOrdered<BoxFuture<'static, Result<Held, String>>>,
    /// Chunks that are read at once.
    at_once: usize,
}

/// What was read, with its room.
type Held = (Bytes, Option<OwnedSemaphorePermit>);

enum Source {
    /// The bytes themselves.
    Row(Bytes),
    /// Chunks: those that are known, and the body of which there may be more.
    Chunks(VecDeque<Piece>, kinds::Body),
}

impl Body {
    pub(super) fn new(gateway: Gateway, object: &Object, pieces: Vec<Piece>, from: u64, to: u64) -> Self {
        let source = match &object.body {
            kinds::Body::Inline(bytes) => Source::Row(Bytes::copy_from_slice(bytes)),
            body => Source::Chunks(pieces.into(), body.clone()),
        };
        let end = to.min(object.bytes);
        Self { gateway, source, next: from.min(end), end, running: FuturesOrdered::new(), at_once: AT_ONCE_MAX }
    }

    /// The same, and no chunk is read before the one before it is asked for.
    pub fn one_by_one(self) -> Self {
        Self { at_once: 1, ..self }
    }

    /// The next bytes; none at the end.
    ///
    /// # Errors
    /// In words, when they cannot be read: then the body ends before its end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, String> {
        let next = self.take().await?;
        self.gateway.counts().bytes_out.inc_by(next.as_ref().map_or(0, Bytes::len) as u64);
        Ok(next)
    }

    async fn take(&mut self) -> Result<Option<Bytes>, String> {
        if let Source::Row(bytes) = &self.source {
            let (from, to) = (self.next as usize, self.end as usize);
            self.next = self.end;
            return match bytes.get(from..to) {
                Some([]) => Ok(None),
                Some(_) => Ok(Some(bytes.slice(from..to))),
                None => Err("the row of the object is shorter than it says".into()),
            };
        }
        while self.running.len() < self.at_once && self.next < self.end {
            if !self.begin().await? {
                break;
            }
        }
        // Its room is given back when the client takes it.
        Ok(self.running.next().await.transpose()?.map(|(bytes, _room)| bytes))
    }

    /// Begins to read the next piece, unless there is no room to have it ready beside another.
    async fn begin(&mut self) -> Result<bool, String> {
        let Source::Chunks(known, body) = &mut self.source else { return Ok(false) };
        if known.is_empty() {
            let more = self.gateway.look(Query::Layout { body: body.clone(), from: self.next }).await;
            match more.map_err(|error| error.to_string())? {
                Reply::Layout(more) if !more.is_empty() => known.extend(more),
                _ => return Err("the metadata do not tell where the rest of the body is".into()),
            }
        }
        let Some(piece) = known.pop_front() else { return Ok(true) };
        let (begins, ends) = (piece.offset, piece.offset + u64::from(piece.chunk.bytes));
        if ends <= self.next {
            return Ok(true);
        }
        if begins > self.next {
            return Err(format!("byte {} of the body is in no chunk", self.next));
        }
        let (from, mut to) = ((self.next - begins) as u32, (self.end.min(ends) - begins) as u32);
        // Of a stripe all is read, whatever is asked for.
        let is_striped = matches!(piece.class, Class::Erasure(..));
        let held = if is_striped { piece.chunk.bytes } else { to - from };
        let mut room = None;
        if held > UNCOUNTED_BYTES_MAX {
            room = self.gateway.room_to_go();
            if room.is_none() && !self.running.is_empty() {
                known.push_front(piece);
                return Ok(false);
            }
            if room.is_none() && is_striped {
                let waited = self.gateway.wait_to_go().await;
                room = Some(waited.ok_or("too many bodies are on their way: try again later")?);
            } else if room.is_none() {
                to = from + UNCOUNTED_BYTES_MAX;
                known.push_front(piece);
            }
        }
        self.next = begins + u64::from(to);
        let gateway = self.gateway.clone();
        let read = async move { Ok((gateway.read_piece(&piece, from, to).await?, room)) };
        // A task of its own, so that it goes on while the client takes what came before.
        let task = self.gateway.spawner().spawn(read);
        self.running.push_back(Box::pin(Ending(task)));
        Ok(true)
    }
}

/// A task that ends with whoever waits for it.
struct Ending(tokio::task::JoinHandle<Result<Held, String>>);

impl Future for Ending {
    type Output = Result<Held, String>;

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        let gone = |_| Err("this node is about to end".into());
        std::pin::Pin::new(&mut self.0).poll(cx).map(|ended| ended.unwrap_or_else(gone))
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Gateway {
    /// The bytes `from..to` of a chunk.
    ///
    /// # Errors
    /// In words, when too few nodes give it.
    pub async fn read_piece(&self, piece: &Piece, from: u32, to: u32) -> Result<Bytes, String> {
        let (chunk, bytes) = (piece.chunk.id, piece.chunk.bytes);
        let read = match piece.class {
            Class::Copies(_) => self.read_copy(chunk, piece.class, from, to).await?,
            Class::Erasure(data, parity) => {
                let scheme = Scheme::new(data, parity).map_err(|error| error.to_string())?;
                let stripe = self.read_stripe(chunk, bytes, scheme, piece.class).await?;
                stripe.slice((from as usize).min(stripe.len())..(to as usize).min(stripe.len()))
            }
        };
        if read.len() as u64 == u64::from(to.saturating_sub(from)) {
            Ok(read)
        } else {
            Err(format!("chunk {chunk} is shorter than the metadata say"))
        }
    }

    async fn read_copy(&self, chunk: ChunkId, class: Class, from: u32, to: u32) -> Result<Bytes, String> {
        let places = self.places();
        let homes = places.homes(chunk, class, 0);
        let read = self.store().read_copy(chunk.on_disk(0), from..to, &homes).await;
        let Err(error) = read else { return read.map_err(|error| error.to_string()) };
        let others = places.others(&homes);
        if others.is_empty() {
            return Err(error.to_string());
        }
        self.store().read_copy(chunk.on_disk(0), from..to, &others).await.map_err(|_| error.to_string())
    }

    async fn read_stripe(&self, chunk: ChunkId, bytes: u32, scheme: Scheme, class: Class) -> Result<Bytes, String> {
        let codec = self.codec(scheme);
        let places = self.places();
        let homes = |number: u8| (chunk.on_disk(number), places.homes(chunk, class, number).first().copied());
        let all = u8::try_from(scheme.shards()).unwrap_or(u8::MAX);
        let shards: Vec<_> = (0..all).map(homes).collect();
        let read = self.store().read_stripe(&codec, bytes, &shards).await;
        let Err(error) = read else { return read.map_err(|error| error.to_string()) };
        // Some are where they were before a move, or with whoever was there when they were written: everybody is asked for each.
        let found = self.find_shards(chunk, all).await;
        self.store().read_stripe(&codec, bytes, &found).await.map_err(|_| error.to_string())
    }

    /// Where each shard of a chunk is, asked of everybody.
    pub(crate) async fn find_shards(&self, chunk: ChunkId, shards: u8) -> Vec<(crate::chunk::ChunkId, Option<Target>)> {
        let everybody = self.places().others(&[]);
        let find = |shard: u8| {
            let (id, everybody) = (chunk.on_disk(shard), everybody.clone());
            async move {
                let asked = everybody.iter().map(|target| async move {
                    self.store().remote().get(*target, id, 0, 1).await.ok().map(|_| *target)
                });
                let found = futures::future::join_all(asked).await;
                (id, found.into_iter().flatten().next())
            }
        };
        futures::future::join_all((0..shards).map(find)).await
    }
}

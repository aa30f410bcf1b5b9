//! The side that has the disks: answers what other nodes ask of them.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use futures::{FutureExt, stream};
use hirsel_mesh::seam::BoxStream;
use hirsel_model::codec;
use hirsel_role::peers::Peers;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tracing::debug;

use super::{
    Answer, CONDEMN, Deaths, GET, Get, Got, LIST, Limited, List, Listed, OfDisk, PUT, Put, READ, Read, Receipt,
    Refusal, Room, SMALL_BYTES_MAX, UNLINK, USAGE, WRITE, Why, WireBlock, decode, wrong,
};
use crate::chunk::{self, Block, Checksum};
use crate::disk::{self, Disk, DiskId, Health};

/// The next block of a stream must have come, or gone, by then. A client that is slower has been given up by whom it serves.
const BLOCK_WITHIN: Duration = Duration::from_secs(10);

/// Answers for the disks of this node.
#[derive(Clone, Default)]
pub struct Service {
    disks: Arc<RwLock<BTreeMap<DiskId, Arc<Disk>>>>,
}

impl Service {
    /// Which disks there are from now on.
    pub fn set_disks(&self, disks: BTreeMap<DiskId, Arc<Disk>>) {
        *self.disks.write().unwrap_or_else(PoisonError::into_inner) = disks;
    }

    /// A disk of this node.
    pub fn disk(&self, id: DiskId) -> Option<Arc<Disk>> {
        let disks = self.disks.read().unwrap_or_else(PoisonError::into_inner);
        match id {
            DiskId::ONLY => disks.values().next().cloned(),
            id => disks.get(&id).cloned(),
        }
    }

    fn found(&self, id: DiskId) -> Result<Arc<Disk>, Refusal> {
        self.disk(id).ok_or_else(|| Refusal { why: Why::NoDisk, words: format!("this node has no disk {id}") })
    }

    /// Begins to answer.
    pub fn serve(&self, peers: &dyn Peers) {
        self.on(peers, PUT, |service, body| async move { service.put(&body).await });
        self.on(peers, GET, |service, body| async move { service.get(&body).await });
        self.on(peers, CONDEMN, |service, body| async move { service.die(&body, false).await });
        self.on(peers, UNLINK, |service, body| async move { service.die(&body, true).await });
        self.on(peers, LIST, |service, body| async move { service.list(&body) });
        self.on(peers, USAGE, |service, body| async move { service.usage(&body).await });
        let service = self.clone();
        let write = move |_, hello: Vec<u8>, stream: BoxStream| {
            let service = service.clone();
            async move { service.write(&hello, stream).await }.boxed()
        };
        peers.serve_streams(WRITE, Arc::new(write));
        let service = self.clone();
        let read = move |_, hello: Vec<u8>, stream: BoxStream| {
            let service = service.clone();
            async move { service.read(&hello, stream).await }.boxed()
        };
        peers.serve_streams(READ, Arc::new(read));
    }

    fn on<T, F>(
        &self,
        peers: &dyn Peers,
        kind: &'static str,
        answer: impl Fn(Service, Vec<u8>) -> F + Send + Sync + 'static,
    ) where
        T: Serialize,
        F: Future<Output = Result<T, Refusal>> + Send + 'static,
    {
        let service = self.clone();
        let handler = move |_, body: Vec<u8>| {
            let answered = answer(service.clone(), body);
            async move { Ok(codec::encode(&Answer::from(answered.await))) }.boxed()
        };
        peers.serve(kind, Arc::new(handler));
    }

    async fn put(&self, body: &[u8]) -> Result<Receipt, Refusal> {
        let put: Put = decode(body)?;
        let disk = self.found(put.disk)?;
        let blocks =
            put.blocks.into_iter().map(|block| Ok(Block { bytes: block.data.into(), checksum: block.checksum }));
        Ok(receipt(disk.put(put.chunk, put.bytes, stream::iter(blocks)).await?))
    }

    async fn get(&self, body: &[u8]) -> Result<Got, Refusal> {
        let get: Get = decode(body)?;
        let mut reader = self.found(get.disk)?.get(get.chunk, get.from..get.to).await?;
        let covering = chunk::covering(reader.bytes(), get.from..get.to);
        if covering.len() > chunk::count(SMALL_BYTES_MAX) as usize + 1 {
            return Err(wrong(format!("{} blocks are too many for one answer", covering.len())));
        }
        let mut got = Got {
            bytes: reader.bytes(),
            checksum: reader.checksum(),
            first: covering.start,
            count: covering.len() as u32,
            blocks: Vec::with_capacity(covering.len()),
        };
        while let Some((_, block)) = reader.next().await? {
            got.blocks.push(WireBlock { checksum: block.checksum, data: block.bytes.to_vec() });
        }
        Ok(got)
    }

    /// Reads for this node itself: nothing is sent, and what the disk has looked at is looked at no more.
    pub(super) async fn here(&self, get: &Get) -> Result<Read, Refusal> {
        get.check()?;
        let part = self.found(get.disk)?.part(get.chunk, get.from..get.to).await?;
        Ok(Read { bytes: part.bytes, checksum: part.checksum, first: part.numbers.start, data: part.data })
    }

    async fn die(&self, body: &[u8], unlink: bool) -> Result<Vec<bool>, Refusal> {
        let deaths: Deaths = decode(body)?;
        let disk = self.found(deaths.disk)?;
        let all = deaths.chunks.into_iter().map(|chunk| {
            let disk = &disk;
            async move { if unlink { disk.unlink(chunk).await } else { disk.condemn(chunk).await } }
        });
        // Those that went well did; asked once more, they are not there any more, or condemned already.
        let were_there: Result<Vec<bool>, disk::DiskError> = join_all(all).await.into_iter().collect();
        Ok(were_there?)
    }

    fn list(&self, body: &[u8]) -> Result<Vec<Listed>, Refusal> {
        let list: List = decode(body)?;
        let listed = self.found(list.disk)?.list(list.after);
        let one = |it: disk::Listed| Listed { chunk: it.chunk, bytes: it.bytes, condemned: it.condemned };
        Ok(listed.into_iter().map(one).collect())
    }

    async fn usage(&self, body: &[u8]) -> Result<Room, Refusal> {
        let of: OfDisk = decode(body)?;
        let usage = self.found(of.disk)?.usage().await?;
        Ok(Room {
            total: usage.total,
            free: usage.free,
            reserve: usage.reserve,
            held: usage.sum.held,
            chunks: usage.sum.chunks,
            condemned: usage.sum.condemned,
            damaged: usage.damaged.len() as u64,
            read_only: match usage.health {
                Health::Sound => None,
                Health::ReadOnly { reason } => Some(reason),
            },
        })
    }

    /// Takes a chunk block by block. What is refused is answered at once, whatever is still on its way.
    async fn write(&self, hello: &[u8], stream: BoxStream) {
        let (mut from, mut to) = tokio::io::split(stream);
        let written = async {
            let put: Put = decode(hello)?;
            let disk = self.found(put.disk)?;
            let blocks = stream::unfold((&mut from, 0), |(from, number)| async move {
                let length = chunk::span(put.bytes, number).len();
                if length == 0 {
                    return None;
                }
                let block = read_block(from, length).await;
                Some((block, (from, number + 1)))
            });
            let mut blocks = pin!(blocks);
            Ok::<_, Refusal>(receipt(disk.put(put.chunk, put.bytes, &mut blocks).await?))
        };
        let answer = codec::encode(&Answer::from(written.await));
        if timeout(BLOCK_WITHIN, end(&mut to, &answer)).await.is_err() {
            debug!("nobody waited for the answer to a write");
        }
    }

    /// Gives a chunk block by block.
    async fn read(&self, hello: &[u8], stream: BoxStream) {
        let (_from, mut to) = tokio::io::split(stream);
        let opened = async {
            let get: Get = decode(hello)?;
            let reader = self.found(get.disk)?.get(get.chunk, get.from..get.to).await?;
            Ok::<_, Refusal>((chunk::covering(reader.bytes(), get.from..get.to), reader))
        };
        let (covering, mut reader) = match opened.await {
            Ok(opened) => opened,
            Err(refusal) => {
                let answer = codec::encode(&Answer::<Got>::from(Err(refusal)));
                let _ = timeout(BLOCK_WITHIN, end(&mut to, &answer)).await;
                return;
            }
        };
        let (bytes, checksum) = (reader.bytes(), reader.checksum());
        let got = Got { bytes, checksum, first: covering.start, count: covering.len() as u32, blocks: Vec::new() };
        let sent = async {
            frame(&mut to, &codec::encode(&Answer::from(Ok::<_, Refusal>(got)))).await?;
            // Where a block is damaged the stream ends before its time, and the reader asks another node.
            while let Ok(Some((_, block))) = reader.next().await {
                let sent = timeout(BLOCK_WITHIN, async {
                    to.write_all(&block.checksum.0).await?;
                    to.write_all(&block.bytes).await
                });
                sent.await.map_err(std::io::Error::other)??;
            }
            to.flush().await?;
            to.shutdown().await
        };
        if let Err(error) = sent.await {
            debug!(%error, "nobody read a chunk to its end");
        }
    }
}

fn receipt(receipt: disk::Receipt) -> Receipt {
    Receipt { bytes: receipt.bytes, checksum: receipt.checksum }
}

async fn read_block(from: &mut (impl AsyncReadExt + Unpin), length: usize) -> Result<Block, String> {
    let read = timeout(BLOCK_WITHIN, async {
        let mut checksum = [0; 32];
        from.read_exact(&mut checksum).await?;
        let mut data = vec![0; length];
        from.read_exact(&mut data).await?;
        Ok::<_, std::io::Error>(Block { bytes: Bytes::from(data), checksum: Checksum(checksum) })
    });
    match read.await {
        Ok(read) => read.map_err(|error| format!("the stream ended: {error}")),
        Err(_) => Err(format!("no block came within {} s", BLOCK_WITHIN.as_secs())),
    }
}

/// Bytes with their length before them.
async fn frame(to: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(std::io::Error::other)?;
    to.write_all(&length.to_be_bytes()).await?;
    to.write_all(bytes).await
}

async fn end(to: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    frame(to, bytes).await?;
    to.flush().await?;
    to.shutdown().await
}

//! The side that needs the disks of others.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use hirsel_mesh::transport::CallError;
use hirsel_model::{NodeId, codec};
use hirsel_role::peers::Peers;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{
    Answer, CONDEMN, Deaths, FRAME_BYTES_MAX, GET, Get, Got, LIST, List, Listed, OfDisk, PUT, Put, READ, Receipt,
    Refusal, Room, SMALL_BYTES_MAX, Service, UNLINK, USAGE, WRITE, WireBlock, sound, wrong,
};
use crate::chunk::{self, BLOCK_BYTES, Block, Checksum, ChunkId};
use crate::disk::DiskId;
use crate::drive::Progress;

/// No call or stream takes longer; whoever writes or reads through several nodes gives one up long before.
const WITHIN: Duration = Duration::from_secs(10);
/// Unlinking a thousand chunks, or listing them, may take a busy disk a while.
const WITHIN_LONG: Duration = Duration::from_secs(60);

/// A disk of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Which node.
    pub node: NodeId,
    /// Which of its disks.
    pub disk: DiskId,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk {} of node {}", self.disk, self.node)
    }
}

/// Why a disk of another node did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// It said no.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// There is no answer; whether it was done is unknown.
    #[error("{0}")]
    Silent(#[from] CallError),
    /// What came is not what may come.
    #[error("the node answers what is no answer: {0}")]
    Garbled(String),
}

/// What was read of a chunk, each block looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// How long the whole chunk is.
    pub bytes: u32,
    /// Its checksum as a whole, as the disk says.
    pub checksum: Checksum,
    /// Number of the first block.
    pub first: u32,
    /// The blocks, one behind the other.
    pub data: Bytes,
}

impl Read {
    /// A range of the chunk, as far as it was read. Nothing is copied.
    pub fn range(&self, range: Range<u32>) -> Bytes {
        let begins = self.first.saturating_mul(BLOCK_BYTES);
        let place = |at: u32| (at.saturating_sub(begins) as usize).min(self.data.len());
        let (from, to) = (place(range.start), place(range.end));
        self.data.slice(from..to.max(from))
    }
}

/// Disks of other nodes, and of this one.
#[derive(Clone)]
pub struct Remote {
    peers: Arc<dyn Peers>,
    here: Option<(NodeId, Service)>,
}

impl Remote {
    /// Reached through `peers`.
    pub fn new(peers: Arc<dyn Peers>) -> Remote {
        Remote { peers, here: None }
    }

    /// The same at the node `me`, which reads from its own disks what it would else send to itself.
    pub fn beside(self, me: NodeId, service: Service) -> Remote {
        Remote { here: Some((me, service)), ..self }
    }

    /// Writes a chunk, and returns when it is safe there.
    pub async fn put(
        &self,
        target: Target,
        chunk: ChunkId,
        bytes: u32,
        blocks: &[Block],
        progress: &Progress,
    ) -> Result<Receipt, RemoteError> {
        let put = Put { disk: target.disk, chunk, bytes, blocks: Vec::new() };
        let receipt: Receipt = if bytes <= SMALL_BYTES_MAX {
            let wire = |block: &Block| WireBlock { checksum: block.checksum, data: block.bytes.to_vec() };
            self.ask(target.node, PUT, &Put { blocks: blocks.iter().map(wire).collect(), ..put }, WITHIN).await?
        } else {
            self.within(self.write(target.node, &put, blocks, progress)).await?
        };
        let sums: Vec<Checksum> = blocks.iter().map(|block| block.checksum).collect();
        let expected = Receipt { bytes, checksum: Checksum::of_chunk(chunk, bytes, &sums) };
        if receipt == expected {
            Ok(receipt)
        } else {
            Err(RemoteError::Garbled("it is the receipt of another chunk".into()))
        }
    }

    async fn write(
        &self,
        node: NodeId,
        put: &Put,
        blocks: &[Block],
        progress: &Progress,
    ) -> Result<Receipt, RemoteError> {
        let stream = self.peers.open(node, WRITE, codec::encode(put)).await?;
        let (mut from, mut to) = tokio::io::split(stream);
        for block in blocks {
            let sent = async {
                to.write_all(&block.checksum.0).await?;
                to.write_all(&block.bytes).await
            };
            // Who refuses says so and hears nothing more.
            if sent.await.is_err() {
                break;
            }
            progress.moved();
        }
        let _ = to.flush().await;
        let answer = read_frame(&mut from).await?;
        opened(&answer)
    }

    /// Reads the blocks in which `from..to` of a chunk lies.
    pub async fn get(&self, target: Target, chunk: ChunkId, from: u32, to: u32) -> Result<Read, RemoteError> {
        let get = Get { disk: target.disk, chunk, from, to };
        match &self.here {
            Some((me, service)) if *me == target.node => self.within(async { Ok(service.here(&get).await?) }).await,
            // A range may begin and end within a block.
            _ if to.saturating_sub(from) <= SMALL_BYTES_MAX - BLOCK_BYTES => {
                let got: Got = self.ask(target.node, GET, &get, WITHIN).await?;
                Ok(got.checked(&get)?)
            }
            _ => self.within(self.read(target.node, &get)).await,
        }
    }

    async fn read(&self, node: NodeId, get: &Get) -> Result<Read, RemoteError> {
        let mut stream = self.peers.open(node, READ, codec::encode(get)).await?;
        let got: Got = opened(&read_frame(&mut stream).await?)?;
        got.check(get)?;
        let spans = (got.first..got.first + got.count).map(|number| (number, chunk::span(got.bytes, number).len()));
        // All of them behind each other, so that nothing is copied to join them.
        let mut data = BytesMut::with_capacity(spans.clone().map(|(_, length)| length).sum());
        for (number, length) in spans {
            let (mut checksum, end) = ([0; 32], data.len() + length);
            let came = async {
                stream.read_exact(&mut checksum).await?;
                while data.len() < end {
                    let lacks = end - data.len();
                    if stream.read_buf(&mut (&mut data).limit(lacks)).await? == 0 {
                        return Err(std::io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Ok::<(), std::io::Error>(())
            };
            if let Err(error) = came.await {
                return Err(RemoteError::Garbled(format!("block {number} did not come: {error}")));
            }
            sound(get.chunk, got.bytes, number, &data[end - length..], Checksum(checksum))?;
        }
        Ok(Read { bytes: got.bytes, checksum: got.checksum, first: got.first, data: data.freeze() })
    }

    /// Condemns chunks, at most [`super::DEATHS_MAX`]. For each whether it is there.
    pub async fn condemn(&self, target: Target, chunks: Vec<ChunkId>) -> Result<Vec<bool>, RemoteError> {
        self.ask(target.node, CONDEMN, &Deaths { disk: target.disk, chunks }, WITHIN_LONG).await
    }

    /// Unlinks condemned chunks, at most [`super::DEATHS_MAX`]. For each whether it was there.
    pub async fn unlink(&self, target: Target, chunks: Vec<ChunkId>) -> Result<Vec<bool>, RemoteError> {
        self.ask(target.node, UNLINK, &Deaths { disk: target.disk, chunks }, WITHIN_LONG).await
    }

    /// Chunks after `after`, a page of them; none when there are no more.
    pub async fn list(&self, target: Target, after: Option<ChunkId>) -> Result<Vec<Listed>, RemoteError> {
        self.ask(target.node, LIST, &List { disk: target.disk, after }, WITHIN_LONG).await
    }

    /// How much there is.
    pub async fn usage(&self, target: Target) -> Result<Room, RemoteError> {
        self.ask(target.node, USAGE, &OfDisk { disk: target.disk }, WITHIN).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        node: NodeId,
        kind: &'static str,
        body: &impl Serialize,
        ttl: Duration,
    ) -> Result<T, RemoteError> {
        let answer = self.peers.call(node, kind, codec::encode(body), ttl).await?;
        opened(&answer)
    }

    async fn within<T>(&self, work: impl Future<Output = Result<T, RemoteError>>) -> Result<T, RemoteError> {
        timeout(WITHIN, work).await.unwrap_or(Err(RemoteError::Silent(CallError::TimedOut)))
    }
}

fn opened<T: DeserializeOwned>(answer: &[u8]) -> Result<T, RemoteError> {
    let answer: Answer<T> = codec::decode(answer).map_err(|error| RemoteError::Garbled(error.to_string()))?;
    Ok(Result::from(answer)?)
}

async fn read_frame(from: &mut (impl AsyncReadExt + Unpin)) -> Result<Vec<u8>, RemoteError> {
    let read = async {
        let length = from.read_u32().await?;
        if length > FRAME_BYTES_MAX {
            return Err(std::io::Error::other(format!("a frame of {length} bytes exceeds {FRAME_BYTES_MAX}")));
        }
        let mut frame = vec![0; length as usize];
        from.read_exact(&mut frame).await?;
        Ok(frame)
    };
    read.await.map_err(|error: std::io::Error| RemoteError::Garbled(error.to_string()))
}

/// A refusal for something that a caller asked for which cannot be.
impl From<crate::codec::CodeError> for RemoteError {
    fn from(error: crate::codec::CodeError) -> RemoteError {
        RemoteError::Refused(wrong(error))
    }
}

//! Reading a chunk, block by block or at once, each block looked at before it is handed on.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use hirsel_mesh::seam::volume::VolumeFile;

use super::index::{Known, Place};
use super::shared::Shared;
use super::{CHUNKS, DiskError, PACKED_BYTES_MAX, file, record};
use crate::chunk::{self, Block, Checksum, ChunkId};

/// Blocks that are read at once: a mebibyte.
const BLOCKS_AT_ONCE: u32 = 16;
/// How often a chunk is looked for again that was moved while it was opened.
const TRIES: usize = 3;

/// A chunk that is being read.
pub struct Reader {
    shared: Arc<Shared>,
    opened: Opened,
    /// Blocks that are still to be read.
    rest: Range<u32>,
    /// Blocks that were read and not handed on, with the number of the first.
    ready: VecDeque<Block>,
    ready_from: u32,
}

/// Part of a chunk, each block of it looked at.
pub struct Part {
    /// How long the whole chunk is.
    pub bytes: u32,
    /// The checksum of the chunk as a whole.
    pub checksum: Checksum,
    /// Which blocks these are.
    pub numbers: Range<u32>,
    /// They, one behind the other.
    pub data: Bytes,
}

impl Part {
    /// Reads the blocks in which `range` of a chunk lies, in one piece of work and into one piece of memory, as large as they are.
    pub(super) async fn read(shared: &Arc<Shared>, chunk: ChunkId, range: Range<u32>) -> Result<Part, DiskError> {
        let read = shared.read(move |shared| {
            let opened = open(shared, chunk)?;
            let numbers = chunk::covering(opened.bytes, range);
            let (data, _) = opened.load(shared, numbers.clone())?;
            let checksum = Checksum::of_chunk(chunk, opened.bytes, &opened.checksums);
            Ok(Part { bytes: opened.bytes, checksum, numbers, data })
        });
        read.await
    }
}

/// An open chunk.
#[derive(Clone)]
pub struct Opened {
    pub chunk: ChunkId,
    pub bytes: u32,
    pub checksums: Arc<[Checksum]>,
    file: Arc<dyn VolumeFile>,
    /// Where its data begins in the file.
    data: u64,
}

impl Reader {
    /// Opens a chunk and reads the first blocks of `range`, which counts bytes of the chunk.
    pub(super) async fn open(shared: &Arc<Shared>, chunk: ChunkId, range: Range<u32>) -> Result<Reader, DiskError> {
        let (opened, rest, ready) = shared
            .read(move |shared| {
                let opened = open(shared, chunk)?;
                let mut rest = chunk::covering(opened.bytes, range);
                let ready = opened.read(shared, &mut rest)?;
                Ok((opened, rest, ready))
            })
            .await?;
        let ready_from = rest.start - ready.len() as u32;
        Ok(Reader { shared: shared.clone(), opened, rest, ready: ready.into(), ready_from })
    }

    /// How long the whole chunk is.
    pub fn bytes(&self) -> u32 {
        self.opened.bytes
    }

    /// The checksum of the chunk as a whole, as [`super::Receipt`] has it.
    pub fn checksum(&self) -> Checksum {
        Checksum::of_chunk(self.opened.chunk, self.opened.bytes, &self.opened.checksums)
    }

    /// The next block and its number; none after the last. After an error there is none either.
    pub async fn next(&mut self) -> Result<Option<(u32, Block)>, DiskError> {
        if self.ready.is_empty() && self.rest.start < self.rest.end {
            let (opened, mut rest) = (self.opened.clone(), self.rest.clone());
            self.ready_from = rest.start;
            self.rest = 0..0;
            let read = self.shared.read(move |shared| Ok((opened.read(shared, &mut rest)?, rest)));
            let (ready, rest) = read.await?;
            (self.ready, self.rest) = (ready.into(), rest);
        }
        let block = self.ready.pop_front();
        Ok(block.map(|block| {
            self.ready_from += 1;
            (self.ready_from - 1, block)
        }))
    }
}

/// Opens a chunk, wherever it lies.
pub fn open(shared: &Arc<Shared>, chunk: ChunkId) -> Result<Opened, DiskError> {
    for _ in 0..TRIES {
        let known = shared.index().get(chunk).ok_or(DiskError::Absent(chunk))?;
        let opened = open_at(shared, chunk, known);
        match opened {
            Ok(Some(opened)) => return Ok(opened),
            // It may have been moved meanwhile.
            Ok(None) if shared.index().get(chunk) != Some(known) => {}
            Ok(None) => return Err(damaged(shared, chunk, "its file is missing")),
            Err(error) => return Err(error),
        }
    }
    Err(DiskError::Io(format!("chunk {chunk} was moved each time that it was opened")))
}

/// Opens a chunk at a place; none when there is no such file.
pub fn open_at(shared: &Arc<Shared>, chunk: ChunkId, known: Known) -> Result<Option<Opened>, DiskError> {
    let bytes = known.bytes;
    let read = |file: &Arc<dyn VolumeFile>, at: u64, length: u32| {
        let mut read = vec![0; length as usize];
        match file.read_at(at, &mut read) {
            Ok(()) => Ok(read),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(damaged(shared, chunk, "it is cut off")),
            Err(error) => Err(unreadable(shared, chunk, &error)),
        }
    };
    match known.place {
        Place::Packed { segment, offset } => {
            let Some(file) = shared.segment(segment).map_err(|error| shared.failed(&error))? else { return Ok(None) };
            let head = read(&file, u64::from(offset), record::head_bytes(bytes))?;
            let head = record::Head::decode(&head, PACKED_BYTES_MAX, segment, offset);
            let Some(head) = head.filter(|head| head.chunk == chunk && head.bytes == bytes) else {
                return Err(damaged(shared, chunk, "its head is damaged"));
            };
            let data = u64::from(offset + record::head_bytes(bytes));
            Ok(Some(Opened { chunk, bytes, checksums: head.checksums.into(), file, data }))
        }
        Place::File => {
            let path = format!("{CHUNKS}/{}", file::name(chunk, bytes));
            let Some(file) = shared.volume.open(&path).map_err(|error| shared.failed(&error))? else { return Ok(None) };
            let tail = read(&file, u64::from(bytes), file::tail_bytes(bytes))?;
            let Some(checksums) = file::checksums(chunk, bytes, &tail) else {
                return Err(damaged(shared, chunk, "its checksums are damaged"));
            };
            Ok(Some(Opened { chunk, bytes, checksums: checksums.into(), file, data: 0 }))
        }
    }
}

impl Opened {
    /// Reads some of the blocks of `rest` and takes them off it.
    pub fn read(&self, shared: &Shared, rest: &mut Range<u32>) -> Result<Vec<Block>, DiskError> {
        let some = rest.start..rest.end.min(rest.start.saturating_add(BLOCKS_AT_ONCE));
        let (_, blocks) = self.load(shared, some.clone())?;
        rest.start = some.end.max(rest.start);
        Ok(blocks)
    }

    /// Reads these blocks: one behind the other, and each.
    fn load(&self, shared: &Shared, numbers: Range<u32>) -> Result<(Bytes, Vec<Block>), DiskError> {
        if numbers.is_empty() {
            return Ok((Bytes::new(), Vec::new()));
        }
        let from = chunk::span(self.bytes, numbers.start).start;
        let mut data = vec![0; chunk::span(self.bytes, numbers.end - 1).end - from];
        if let Err(error) = self.file.read_at(self.data + from as u64, &mut data) {
            return Err(unreadable(shared, self.chunk, &error));
        }
        let data = Bytes::from(data);
        let mut blocks = Vec::with_capacity(numbers.len());
        for number in numbers {
            let span = chunk::span(self.bytes, number);
            let bytes = data.slice(span.start - from..span.end - from);
            let block = Block { bytes, checksum: self.checksums[number as usize] };
            if !block.is(self.chunk, self.bytes, number) {
                return Err(damaged(shared, self.chunk, &format!("block {number} is not what was written")));
            }
            blocks.push(block);
        }
        Ok((data, blocks))
    }

    /// All of it, looked at.
    pub fn read_all(&self, shared: &Shared) -> Result<Vec<u8>, DiskError> {
        let mut rest = 0..chunk::count(self.bytes);
        let mut data = Vec::with_capacity(self.bytes as usize);
        while rest.start < rest.end {
            for block in self.read(shared, &mut rest)? {
                data.extend_from_slice(&block.bytes);
            }
        }
        Ok(data)
    }
}

fn damaged(shared: &Shared, chunk: ChunkId, what: &str) -> DiskError {
    shared.is_damaged(chunk);
    DiskError::Damaged { chunk, what: what.to_owned() }
}

/// The disk does not read what it wrote: for who needs the chunk, that is damage.
fn unreadable(shared: &Shared, chunk: ChunkId, error: &io::Error) -> DiskError {
    damaged(shared, chunk, &error.to_string())
}

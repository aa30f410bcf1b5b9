//! A large chunk on its way to the disk: a file that nobody else knows of, until it is whole and safe and gets its name.

use std::sync::Arc;

use bytes::Bytes;
use hirsel_mesh::seam::volume::VolumeFile;
use hirsel_role::Spawner;

use super::shared::{Promise, Shared};
use super::{DiskError, INCOMING, file};
use crate::chunk::{Checksum, ChunkId};

/// Bytes that are gathered before they are written.
const WRITE_BYTES: usize = 1 << 20;

/// A file that is being written.
pub struct Incoming {
    shared: Arc<Shared>,
    spawner: Spawner,
    path: Option<String>,
    file: Arc<dyn VolumeFile>,
    at: u64,
    gathered: Vec<Bytes>,
    bytes: usize,
    _room: Promise,
}

impl Incoming {
    /// Makes the file, where there is room for all of it.
    pub async fn begin(
        shared: &Arc<Shared>,
        spawner: Spawner,
        chunk: ChunkId,
        number: u64,
        bytes: u32,
    ) -> Result<Incoming, DiskError> {
        let path = format!("{INCOMING}/{chunk}.{number}");
        let of = path.clone();
        let (file, room) = shared
            .run(move |shared| {
                let room = shared.promise(file::file_bytes(bytes))?;
                Ok((shared.volume.create(&of).map_err(|error| shared.failed(&error))?, room))
            })
            .await?;
        let shared = shared.clone();
        Ok(Incoming { shared, spawner, path: Some(path), file, at: 0, gathered: Vec::new(), bytes: 0, _room: room })
    }

    /// Adds to it.
    pub async fn push(&mut self, bytes: Bytes) -> Result<(), DiskError> {
        self.bytes += bytes.len();
        self.gathered.push(bytes);
        if self.bytes >= WRITE_BYTES { self.write(false).await } else { Ok(()) }
    }

    /// Ends it with its checksums and makes it safe. Its path, for who gives it its name.
    pub async fn finish(&mut self, chunk: ChunkId, bytes: u32, checksums: &[Checksum]) -> Result<String, DiskError> {
        self.gathered.push(Bytes::from(file::tail(chunk, bytes, checksums)));
        self.write(true).await?;
        Ok(self.path.clone().unwrap_or_default())
    }

    /// Somebody else answers for the file from now on.
    pub fn is_named(&mut self) {
        self.path = None;
    }

    async fn write(&mut self, sync: bool) -> Result<(), DiskError> {
        let (file, at, gathered) = (self.file.clone(), self.at, std::mem::take(&mut self.gathered));
        self.at += gathered.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
        self.bytes = 0;
        self.shared
            .run(move |shared| {
                let all = gathered.concat();
                file.write_at(at, &all).map_err(|error| shared.failed(&error))?;
                if sync { file.sync().map_err(|error| shared.die(&error)) } else { Ok(()) }
            })
            .await
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let Some(path) = self.path.take() else { return };
        let shared = self.shared.clone();
        // It takes room until it is removed, or until the next start.
        self.spawner.spawn(async move {
            let removed = shared.run(move |shared| shared.volume.remove(&path).map_err(|error| shared.failed(&error)));
            drop(removed.await);
        });
    }
}

//! Files of a role that are read and written in part, and that it can do without: what it keeps on disk to be quicker.
//!
//! They are called by numbers, and lie in folders of some hundred each. Nothing is synced: after a restart the role begins with none.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use rustix::fs::{FallocateFlags, fallocate, fstatvfs};

use super::folder::absent_is_fine;

/// This share of a file system is left to others, first of all to what the agent must write to go on.
const LEFT_SHARE: u64 = 16;

/// Folders that the files of one role are spread over.
const FOLDERS: u64 = 256;

/// A file that is read and written in part.
pub trait Scrap: Send + Sync {
    /// Bytes from `at` on: as many as are asked for, and fewer only at its end.
    fn read(&self, at: u64, bytes: usize) -> BoxFuture<'static, io::Result<Vec<u8>>>;
    /// Writes all of `bytes` from `at` on.
    fn write(&self, at: u64, bytes: Vec<u8>) -> BoxFuture<'static, io::Result<()>>;
}

/// What may be done with them. No call blocks the runtime.
pub trait Scratch: Send + Sync {
    /// Removes all files.
    fn clear(&self) -> BoxFuture<'static, io::Result<()>>;
    /// A new file. There is room for `bytes` on the disk when this returns; 0 asks for none. `Unsupported` where a file system gives
    /// room to nothing but what is written.
    fn create(&self, number: u64, bytes: u64) -> BoxFuture<'static, io::Result<Arc<dyn Scrap>>>;
    /// The file with this number. An error where there is none.
    fn open(&self, number: u64) -> BoxFuture<'static, io::Result<Arc<dyn Scrap>>>;
    /// Removes a file; whoever has it open reads on. No error where there is none.
    fn remove(&self, number: u64) -> BoxFuture<'static, io::Result<()>>;
}

/// Files below a folder, which is made with the first one.
#[derive(Debug)]
pub(super) struct Folders {
    folder: PathBuf,
    /// One part of so many of the file system is left to others.
    left_share: u64,
}

impl Folders {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, left_share: LEFT_SHARE }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{:02x}", number % FOLDERS)).join(format!("{number:016x}"))
    }
}

/// Does `work` where it may wait for a disk.
fn apart<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> BoxFuture<'static, io::Result<T>> {
    let done = tokio::task::spawn_blocking(work);
    async move { done.await.map_err(io::Error::other)? }.boxed()
}

struct Opened {
    file: Arc<File>,
    /// There is room for all that will be written.
    has_room: bool,
    left_share: u64,
}

/// Fails where `more` bytes would leave too little to others.
fn leaves_enough(file: &File, more: u64, left_share: u64) -> io::Result<()> {
    let stat = fstatvfs(file)?;
    let (free, left) = (stat.f_bavail, stat.f_blocks / left_share);
    let enough = free.saturating_sub(left).saturating_mul(stat.f_frsize) >= more;
    if enough { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
}

impl Scrap for Opened {
    fn read(&self, at: u64, bytes: usize) -> BoxFuture<'static, io::Result<Vec<u8>>> {
        let file = self.file.clone();
        apart(move || {
            let (mut read, mut whole) = (0, vec![0; bytes]);
            while read < bytes {
                match file.read_at(&mut whole[read..], at + read as u64) {
                    Ok(0) => break,
                    Ok(more) => read += more,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            whole.truncate(read);
            Ok(whole)
        })
    }

    fn write(&self, at: u64, bytes: Vec<u8>) -> BoxFuture<'static, io::Result<()>> {
        let (file, has_room, left_share) = (self.file.clone(), self.has_room, self.left_share);
        apart(move || {
            if !has_room {
                leaves_enough(&file, bytes.len() as u64, left_share)?;
            }
            file.write_all_at(&bytes, at)
        })
    }
}

impl Scratch for Folders {
    fn clear(&self) -> BoxFuture<'static, io::Result<()>> {
        let folder = self.folder.clone();
        apart(move || {
            // A disk of its own may be mounted there: the folder itself stays.
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                match entry.file_type()?.is_dir() {
                    true => absent_is_fine(fs::remove_dir_all(entry.path()))?,
                    false => absent_is_fine(fs::remove_file(entry.path()))?,
                }
            }
            Ok(())
        })
    }

    fn create(&self, number: u64, bytes: u64) -> BoxFuture<'static, io::Result<Arc<dyn Scrap>>> {
        let (path, left_share) = (self.path(number), self.left_share);
        apart(move || {
            let open = || OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
            let file = match (open(), path.parent()) {
                (Err(error), Some(folder)) if error.kind() == io::ErrorKind::NotFound => {
                    fs::create_dir_all(folder)?;
                    open()?
                }
                (opened, _) => opened?,
            };
            let allocate = || Ok(fallocate(&file, FallocateFlags::empty(), 0, bytes)?);
            let has_room = bytes > 0;
            let made =
                leaves_enough(&file, bytes, left_share).and_then(|()| if has_room { allocate() } else { Ok(()) });
            if let Err(error) = made {
                // It is of no use to anybody.
                let _ = fs::remove_file(&path);
                return Err(error);
            }
            Ok(Arc::new(Opened { file: Arc::new(file), has_room, left_share }) as Arc<dyn Scrap>)
        })
    }

    fn open(&self, number: u64) -> BoxFuture<'static, io::Result<Arc<dyn Scrap>>> {
        let (path, left_share) = (self.path(number), self.left_share);
        apart(move || {
            Ok(Arc::new(Opened { file: Arc::new(File::open(path)?), has_room: false, left_share }) as Arc<dyn Scrap>)
        })
    }

    fn remove(&self, number: u64) -> BoxFuture<'static, io::Result<()>> {
        let path = self.path(number);
        apart(move || absent_is_fine(fs::remove_file(path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_written_and_read_in_part_and_read_on_after_it_was_removed() {
        let folder = tempfile::tempdir().unwrap();
        // The disk of whoever runs this may be as good as full.
        let scratch = Folders { left_share: u64::MAX, ..Folders::new(folder.path().join("scratch")) };
        scratch.clear().await.unwrap();
        let file = scratch.create(300, 6).await.unwrap();
        file.write(0, b"abc".to_vec()).await.unwrap();
        file.write(3, b"def".to_vec()).await.unwrap();
        assert!(scratch.create(300, 0).await.is_err(), "a number is given once");
        let again = scratch.open(300).await.unwrap();
        assert_eq!(again.read(2, 3).await.unwrap(), b"cde");
        assert_eq!(again.read(4, 100).await.unwrap(), b"ef");
        scratch.remove(300).await.unwrap();
        scratch.remove(300).await.unwrap();
        assert!(scratch.open(300).await.is_err());
        assert_eq!(again.read(0, 6).await.unwrap(), b"abcdef");
        scratch.create(1, 0).await.unwrap();
        scratch.clear().await.unwrap();
        assert!(scratch.open(1).await.is_err());
        assert_eq!(fs::read_dir(folder.path().join("scratch")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn more_than_any_disk_holds_is_refused_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Folders::new(folder.path().into());
        assert!(scratch.create(7, 1 << 60).await.is_err());
        assert!(scratch.open(7).await.is_err());
    }
}

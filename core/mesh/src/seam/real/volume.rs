//! A folder of the file system as a volume.
//!
//! Kept: nothing outside the folder is touched; two processes never use one folder; files are nobody else's to read (0600).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::seam::volume::{Room, Volume, VolumeFile, folder_of, is_inside};

/// Held while a process uses the folder. It begins with a dot, so that no file of a volume has its name.
const LOCK: &str = ".lock";

/// A folder that is used as a volume.
#[derive(Debug)]
pub struct FolderVolume {
    root: PathBuf,
    /// Held for as long as this lives.
    _lock: File,
}

impl FolderVolume {
    /// Takes a folder that is there. Refuses one that another process uses.
    pub fn open(root: &Path) -> io::Result<Self> {
        let root = std::path::absolute(root)?;
        let path = root.join(LOCK);
        let lock = OpenOptions::new().mode(0o600).create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(|error| explain(&error, "open", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                format!("{} is in use by another process", root.display()),
            )),
            Err(TryLockError::Error(error)) => Err(explain(&error, "lock", &path)),
        }
    }

    fn path(&self, path: &str) -> io::Result<PathBuf> {
        if is_inside(path) {
            return Ok(self.root.join(path));
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{path:?} is no path inside a volume")))
    }

    fn folder(&self, folder: &str) -> io::Result<PathBuf> {
        if folder.is_empty() { Ok(self.root.clone()) } else { self.path(folder) }
    }
}

impl Volume for FolderVolume {
    fn open(&self, path: &str) -> io::Result<Option<Arc<dyn VolumeFile>>> {
        let path = self.path(path)?;
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => Ok(Some(Arc::new(RealFile { file, path }))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(explain(&error, "open", &path)),
        }
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn VolumeFile>> {
        let path = self.path(path)?;
        let file = OpenOptions::new().mode(0o600).create_new(true).read(true).write(true).open(&path);
        let file = file.map_err(|error| explain(&error, "make", &path))?;
        Ok(Arc::new(RealFile { file, path }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.path(from)?, self.path(to)?);
        fs::rename(&from, &to).map_err(|error| explain(&error, "rename", &from))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let path = self.path(path)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(explain(&error, "remove", &path)),
            _ => Ok(()),
        }
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let folder = self.folder(folder)?;
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(explain(&error, "list", &folder)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(|error| explain(&error, "list", &folder))?.file_name();
            // A name that is none of ours is shown as well as it goes: whoever lists may not take the folder for empty.
            let name = name.to_string_lossy().into_owned();
            if name != LOCK {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn make_folder(&self, folder: &str) -> io::Result<()> {
        let path = self.path(folder)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|error| explain(&error, "make", &path))?;
        self.sync_folder(folder_of(folder))
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        let path = self.folder(folder)?;
        let synced = File::open(&path).and_then(|folder| folder.sync_all());
        synced.map_err(|error| explain(&error, "sync", &path))
    }

    fn room(&self) -> io::Result<Room> {
        let found = rustix::fs::statvfs(&self.root).map_err(|error| explain(&error.into(), "look at", &self.root))?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        // What is set aside for root does not count as room for anybody.
        let taken = found.f_blocks.saturating_sub(found.f_bfree);
        Ok(Room { total: bytes(taken.saturating_add(found.f_bavail)), free: bytes(found.f_bavail) })
    }

    fn run<'a>(&'a self, work: Box<dyn FnOnce() + Send + 'static>) -> BoxFuture<'a, io::Result<()>> {
        let work = tokio::task::spawn_blocking(work);
        Box::pin(async move { work.await.map_err(|stopped| io::Error::other(format!("did not finish: {stopped}"))) })
    }
}

#[derive(Debug)]
struct RealFile {
    file: File,
    path: PathBuf,
}

impl VolumeFile for RealFile {
    fn bytes(&self) -> io::Result<u64> {
        self.file.metadata().map(|it| it.len()).map_err(|error| explain(&error, "look at", &self.path))
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset).map_err(|error| explain(&error, "read", &self.path))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset).map_err(|error| explain(&error, "write", &self.path))
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes).map_err(|error| explain(&error, "resize", &self.path))
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data().map_err(|error| explain(&error, "sync", &self.path))
    }
}

fn explain(error: &io::Error, what: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_written_in_place_renamed_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let volume = FolderVolume::open(folder.path()).unwrap();
        assert!(FolderVolume::open(folder.path()).unwrap_err().to_string().contains("in use"));
        assert!(volume.list("").unwrap().is_empty());
        volume.make_folder("a").unwrap();
        let file = volume.create("a/f").unwrap();
        assert_eq!(volume.create("a/f").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        file.write_at(2, b"xyz").unwrap();
        file.sync().unwrap();
        volume.rename("a/f", "a/g").unwrap();
        volume.sync_folder("a").unwrap();
        assert_eq!(volume.list("a").unwrap(), ["g"]);
        let again = volume.open("a/g").unwrap().unwrap();
        let mut bytes = [9; 5];
        again.read_at(0, &mut bytes).unwrap();
        assert_eq!((&bytes, again.bytes().unwrap()), (b"\0\0xyz", 5));
        assert_eq!(again.read_at(1, &mut bytes).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        volume.remove("a/g").unwrap();
        volume.remove("a/g").unwrap();
        again.read_at(0, &mut bytes).unwrap();
        assert!(volume.open("a/g").unwrap().is_none());
        let room = volume.room().unwrap();
        assert!(room.total > 0 && room.free <= room.total);
        assert!(volume.open("../x").is_err());
    }
}

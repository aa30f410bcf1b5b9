//! A directory of the file system as the data folder of one agent.
//!
//! Kept: a file is replaced whole or not at all; what [`Disk::write`] confirmed survives a power failure; nothing outside the folder
//! is touched; two processes never use one folder. A sync that failed once has lost pages that the kernel no longer remembers, so
//! from then on every write and sync of this process fails too, and the agent must be started again.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, OnceLock};

use futures::FutureExt;
use futures::future::BoxFuture;
use redb::StorageBackend;
use redb::backends::FileBackend;

use crate::seam::Disk;

/// Largest file that is read whole: far above anything kept in one, far below what would hurt.
const READ_BYTES_MAX: u64 = 64 << 20;
/// Ends the name of a file that is not whole yet. Left behind by a crash, it is overwritten by the next write.
const UNFINISHED: &str = ".tmp";
/// Held while a process uses the folder.
const LOCK: &str = "lock";

/// A data folder.
#[derive(Debug)]
pub struct FolderDisk {
    root: PathBuf,
    broken: Broken,
    /// Held for as long as this lives.
    _lock: File,
}

impl FolderDisk {
    /// Opens the folder, makes it (0700) if it is missing, and locks it; refuses one that another process holds.
    pub fn open(root: &Path) -> io::Result<Self> {
        let root = std::path::absolute(root)?;
        make_folder(&root).map_err(|error| explain(&error, "make", &root))?;
        let path = root.join(LOCK);
        let lock = private().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(|error| explain(&error, "open", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root, broken: Broken::default(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                format!("data folder {} is in use by another agent; try: hirsel status", root.display()),
            )),
            Err(TryLockError::Error(error)) => Err(explain(&error, "lock", &path)),
        }
    }

    /// Where a file of the agent is.
    fn path(&self, path: &str) -> io::Result<PathBuf> {
        let relative = Path::new(path);
        let inside = relative.components().all(|part| matches!(part, Component::Normal(_)));
        if path.is_empty() || path == LOCK || path.ends_with(UNFINISHED) || path.contains('\0') || !inside {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{path:?} is no path inside the data folder"),
            ));
        }
        Ok(self.root.join(relative))
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let folder = path.parent().unwrap_or(&self.root);
        make_folder(folder)?;
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(UNFINISHED);
        let unfinished = PathBuf::from(unfinished);
        // A file left by a crash may have other rights.
        remove_if_there(&unfinished)?;
        let mut file = private().create_new(true).write(true).open(&unfinished)?;
        let written = file.write_all(bytes);
        if let Err(error) = written {
            // The disk is full: give back what was taken. The old file is untouched.
            let _ = fs::remove_file(&unfinished);
            return Err(error);
        }
        self.broken.keep(file.sync_all())?;
        fs::rename(&unfinished, path)?;
        self.sync_folder(folder)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let folder = File::open(folder)?;
        self.broken.keep(folder.sync_all())
    }
}

impl Disk for FolderDisk {
    fn backend(&self, path: &str) -> io::Result<Box<dyn StorageBackend>> {
        let path = self.path(path)?;
        self.broken.check()?;
        let folder = path.parent().unwrap_or(&self.root);
        make_folder(folder)?;
        let file = private().create(true).truncate(false).read(true).write(true).open(&path);
        let file = file.map_err(|error| explain(&error, "open", &path))?;
        // The name must survive a power failure as well as the contents.
        self.sync_folder(folder)?;
        let inner = FileBackend::new(file).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
        Ok(Box::new(HonestBackend { inner, broken: self.broken.clone() }))
    }

    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let path = self.path(path)?;
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(explain(&error, "open", &path)),
        };
        let mut bytes = Vec::new();
        let read = file.take(READ_BYTES_MAX + 1).read_to_end(&mut bytes);
        read.map_err(|error| explain(&error, "read", &path))?;
        if bytes.len() as u64 > READ_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("{} is larger than {READ_BYTES_MAX} bytes", path.display()),
            ));
        }
        Ok(Some(bytes))
    }

    fn write(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(path)?;
        self.broken.check()?;
        self.replace(&path, bytes).map_err(|error| explain(&error, "write", &path))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let path = self.path(path)?;
        self.broken.check()?;
        let removed = remove_if_there(&path).map_err(|error| explain(&error, "remove", &path))?;
        match (removed, path.parent()) {
            (true, Some(folder)) => self.sync_folder(folder),
            _ => Ok(()),
        }
    }

    fn run<'a>(&'a self, work: Box<dyn FnOnce() -> io::Result<()> + Send + 'static>) -> BoxFuture<'a, io::Result<()>> {
        // Begun at once, and finished even if nobody waits for it any more: half of a durable piece of work is none.
        let work = tokio::task::spawn_blocking(work);
        async move {
            match work.await {
                Ok(result) => result,
                Err(stopped) => Err(io::Error::other(format!("durable work did not finish: {stopped}"))),
            }
        }
        .boxed()
    }
}

/// Remembers the first sync that failed, for all who share it.
#[derive(Clone, Debug, Default)]
struct Broken(Arc<OnceLock<String>>);

impl Broken {
    fn keep(&self, synced: io::Result<()>) -> io::Result<()> {
        match synced {
            Ok(()) => self.check(),
            Err(error) => {
                let _ = self.0.set(error.to_string());
                Err(error)
            }
        }
    }

    fn check(&self) -> io::Result<()> {
        match self.0.get() {
            None => Ok(()),
            Some(first) => Err(io::Error::other(format!(
                "an earlier sync of the data folder failed ({first}), so what it holds is unknown; check the disk and restart the agent"
            ))),
        }
    }
}

/// redb's file, except that a failed sync stays failed.
#[derive(Debug)]
struct HonestBackend {
    inner: FileBackend,
    broken: Broken,
}

impl StorageBackend for HonestBackend {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.broken.check()?;
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.broken.check()?;
        self.broken.keep(self.inner.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.broken.check()?;
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(
        &self,
        start: std::ops::Bound<u64>,
        end: std::ops::Bound<u64>,
    ) -> Result<bool, redb::BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: std::ops::Bound<u64>,
        end: std::ops::Bound<u64>,
    ) -> Result<bool, redb::BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: std::ops::Bound<u64>, end: std::ops::Bound<u64>) -> Result<(), redb::BackendError> {
        self.inner.unlock_range(start, end)
    }
}

/// Files and folders of an agent are nobody else's to read: keys are among them.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

fn make_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Whether there was something to remove.
fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn explain(error: &io::Error, what: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn disk() -> (tempfile::TempDir, FolderDisk) {
        let folder = tempfile::tempdir().unwrap();
        let disk = FolderDisk::open(&folder.path().join("data")).unwrap();
        (folder, disk)
    }

    #[test]
    fn what_was_written_is_read() {
        let (_folder, disk) = disk();
        assert_eq!(disk.read("a/b").unwrap(), None);
        disk.write("a/b", b"one").unwrap();
        disk.write("a/b", b"two").unwrap();
        assert_eq!(disk.read("a/b").unwrap().unwrap(), b"two");
        disk.remove("a/b").unwrap();
        disk.remove("a/b").unwrap();
        assert_eq!(disk.read("a/b").unwrap(), None);
    }

    #[test]
    fn files_are_private() {
        let (_folder, disk) = disk();
        disk.write("key", b"secret").unwrap();
        let mode = fs::metadata(disk.root.join("key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn no_path_leaves_the_folder() {
        let (_folder, disk) = disk();
        for path in ["", "..", "../x", "a/../../x", "/etc/passwd", "a/./..", "lock", "x.tmp", "a\0b"] {
            assert_eq!(disk.write(path, b"").unwrap_err().kind(), io::ErrorKind::InvalidInput, "{path:?}");
            assert!(disk.read(path).is_err() && disk.remove(path).is_err() && disk.backend(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn a_file_left_half_written_by_a_crash_is_replaced() {
        let (_folder, disk) = disk();
        fs::write(disk.root.join("x.tmp"), b"half of a much longer fi").unwrap();
        disk.write("x", b"whole").unwrap();
        assert_eq!(disk.read("x").unwrap().unwrap(), b"whole");
    }

    #[test]
    fn a_folder_has_one_owner() {
        let (folder, disk) = disk();
        let error = FolderDisk::open(&folder.path().join("data")).unwrap_err();
        assert!(error.to_string().contains("in use by another agent"), "{error}");
        drop(disk);
        FolderDisk::open(&folder.path().join("data")).unwrap();
    }

    #[test]
    fn a_failed_sync_stays_an_error() {
        let (_folder, disk) = disk();
        let backend = disk.backend("log").unwrap();
        backend.set_len(10).unwrap();
        backend.sync_data().unwrap();
        disk.broken.keep(Err(io::Error::other("no such device"))).unwrap_err();
        assert!(backend.sync_data().is_err());
        assert!(backend.write(0, b"x").is_err());
        let error = disk.write("x", b"x").unwrap_err();
        assert!(error.to_string().contains("no such device"), "{error}");
    }

    #[test]
    fn a_database_is_open_once() {
        let (_folder, disk) = disk();
        let open = |disk: &FolderDisk| redb::Builder::new().create_with_backend(Owned(disk.backend("db").unwrap()));
        let first = open(&disk).unwrap();
        assert!(open(&disk).is_err());
        drop(first);
        open(&disk).unwrap();
    }

    /// redb wants a type, the seam gives a trait object.
    #[derive(Debug)]
    struct Owned(Box<dyn StorageBackend>);
    impl StorageBackend for Owned {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.read(offset, out)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.set_len(len)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.0.sync_data()
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.0.write(offset, data)
        }
        fn close(&self) -> io::Result<()> {
            self.0.close()
        }
        fn try_lock_range(&self, a: std::ops::Bound<u64>, b: std::ops::Bound<u64>) -> Result<bool, redb::BackendError> {
            self.0.try_lock_range(a, b)
        }
        fn unlock_range(&self, a: std::ops::Bound<u64>, b: std::ops::Bound<u64>) -> Result<(), redb::BackendError> {
            self.0.unlock_range(a, b)
        }
    }

    #[tokio::test]
    async fn work_that_panics_is_an_error() {
        let (_folder, disk) = disk();
        disk.run(Box::new(|| Ok(()))).await.unwrap();
        assert!(disk.run(Box::new(|| panic!("on purpose"))).await.is_err());
    }
}

//! A folder on one disk, as somebody touches it who keeps much there: many files, written in place, each made safe when it must be.
//!
//! [`super::Disk`] is for the few files of the agent, each replaced whole; this is for data. Everything but [`Volume::run`] blocks. What
//! was written, named or removed may be lost with the power until it was synced: contents by [`VolumeFile::sync`], names by
//! [`Volume::sync_folder`]. After an error of either, nothing is known of what had not been synced before.

use std::fmt;
use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;

pub mod memory;

/// Longest path, in bytes: far below what a file system takes.
pub const PATH_BYTES_MAX: usize = 255;

/// A folder on one disk. Paths are relative to it, with `/`; they never leave it.
pub trait Volume: Send + Sync + fmt::Debug {
    /// A file that is there; none where there is none.
    fn open(&self, path: &str) -> io::Result<Option<Arc<dyn VolumeFile>>>;
    /// A new, empty file; an error (`AlreadyExists`) where there is one.
    fn create(&self, path: &str) -> io::Result<Arc<dyn VolumeFile>>;
    /// Gives a file another name, in whose place nothing else is then.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file; removing what is not there is no error. Whoever has it open goes on reading.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Names in a folder, without order; `""` is the volume itself. A folder that is not there has none.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;
    /// Makes a folder, durably, unless it is there.
    fn make_folder(&self, folder: &str) -> io::Result<()>;
    /// Makes names that were given or taken in a folder safe.
    fn sync_folder(&self, folder: &str) -> io::Result<()>;
    /// How much room there is.
    fn room(&self) -> io::Result<Room>;
    /// Runs what blocks where it stalls nobody, and waits for it. Begun work is finished even if nobody waits any more.
    fn run<'a>(&'a self, work: Box<dyn FnOnce() + Send + 'static>) -> BoxFuture<'a, io::Result<()>>;
}

/// An open file of a volume.
pub trait VolumeFile: Send + Sync + fmt::Debug {
    /// Its length in bytes.
    fn bytes(&self) -> io::Result<u64>;
    /// Fills `out` from `offset` on; an error (`UnexpectedEof`) where the file ends before.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`; the file grows when it must. After an error any part of it may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts the file, or fills it up with zeros.
    fn set_bytes(&self, bytes: u64) -> io::Result<()>;
    /// Makes what was written safe.
    fn sync(&self) -> io::Result<()>;
}

/// Room on a volume, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// All of it, whoever uses it.
    pub total: u64,
    /// What this process may still write.
    pub free: u64,
}

/// Whether `path` is one inside a volume: parts of usual characters, none of which begins with a dot.
pub fn is_inside(path: &str) -> bool {
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'+');
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(usual);
    path.len() <= PATH_BYTES_MAX && path.split('/').all(part)
}

/// The folder that a path is in.
pub fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leaves_the_volume() {
        for path in ["", "/", "a//b", "../a", "a/..", "a/.b", "/a", "a/", "a\0", "a b", &"a".repeat(256)] {
            assert!(!is_inside(path), "{path:?}");
        }
        for path in ["a", "chunks/00ff.4096", "segments/7.index"] {
            assert!(is_inside(path), "{path:?}");
        }
        assert_eq!((folder_of("a"), folder_of("a/b")), ("", "a"));
    }
}

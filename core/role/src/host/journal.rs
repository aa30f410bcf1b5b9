//! Journals of a role on disk: lines of its own, kept like the output of a process, in files of bounded size in all.
//!
//! What a full disk does not take is dropped, and whoever writes is told so.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::output::{self, Writer};
use super::{Output, OutputFrom};

/// Two files of 32 MiB for each journal: some hundred thousand lines, and what a node can miss of any disk.
const FILE_BYTES_MAX: u64 = 32 << 20;

/// The journals of one role. Nothing is made before the first line.
pub(super) struct Journals {
    folder: PathBuf,
    file_bytes_max: u64,
    writers: Mutex<BTreeMap<String, Writer>>,
}

impl Journals {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, file_bytes_max: FILE_BYTES_MAX, writers: Mutex::default() }
    }

    /// Appends whole lines. False if not all of them arrived.
    pub(super) fn append(&self, name: &str, lines: &[u8]) -> bool {
        let Some(folder) = self.folder_of(name) else { return false };
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = writers.entry(name.to_owned()).or_insert_with(|| {
            // Without it nothing can be written, which is what the caller is told.
            let _ = fs::create_dir_all(&folder);
            Writer::with_limit(&folder, self.file_bytes_max)
        });
        let arrived = writer.append(lines);
        if !arrived && !folder.is_dir() {
            // Somebody took the folder away: begin anew with the next lines.
            writers.remove(name);
        }
        arrived
    }

    /// Whole lines, and the offset to go on from. A journal that has none yet is empty.
    pub(super) fn read(&self, name: &str, from: OutputFrom) -> io::Result<Output> {
        let folder = self.folder_of(name).ok_or(io::ErrorKind::InvalidInput)?;
        output::read(&folder, from)
    }

    /// One folder below that of all; none for what would lead elsewhere.
    fn folder_of(&self, name: &str) -> Option<PathBuf> {
        let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        plain.then(|| self.folder.join(name))
    }
}

impl std::fmt::Debug for Journals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journals").field("folder", &self.folder).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journals(folder: &std::path::Path) -> Journals {
        Journals { file_bytes_max: 100, ..Journals::new(folder.join("journals")) }
    }

    #[test]
    fn a_journal_takes_a_bounded_room_and_goes_on_in_the_next_life() {
        let folder = tempfile::tempdir().unwrap();
        let mut next = 0;
        for life in 0..5 {
            let journals = journals(folder.path());
            for number in 0..50 {
                let line = format!("life {life}, line {number}\n");
                assert!(journals.append("requests", line.as_bytes()));
                let read = journals.read("requests", OutputFrom::Offset(next)).unwrap();
                assert_eq!(String::from_utf8_lossy(&read.bytes), line);
                next = read.next;
            }
        }
        let files = fs::read_dir(folder.path().join("journals/requests")).unwrap();
        let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert!(bytes <= 200, "{bytes}");
    }

    #[test]
    fn what_cannot_be_kept_is_told_and_a_strange_name_leads_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let journals = journals(folder.path());
        assert_eq!(journals.read("requests", OutputFrom::Tail(100)).unwrap(), Output::default());
        fs::write(folder.path().join("journals"), "in the way").unwrap();
        assert!(!journals.append("requests", b"lost\n"));
        fs::remove_file(folder.path().join("journals")).unwrap();
        assert!(journals.append("requests", b"kept\n"), "the first failure forgot the writer that has no folder");
        for name in ["", "..", "a/b", "/etc", "A"] {
            assert!(!journals.append(name, b"x\n"), "{name}");
            assert!(journals.read(name, OutputFrom::Tail(1)).is_err(), "{name}");
        }
    }
}

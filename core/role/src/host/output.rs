//! Output of a process on disk: lines `RFC3339 o|e text`, in at most [`FILES`] files of [`FILE_BYTES_MAX`] bytes. Each is named by
//! the offset of its first byte in everything that was ever written, so that a reader goes on where it stopped whatever was rotated.
//!
//! Writing never fails: what a full disk does not take is dropped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Output, OutputFrom};

/// Two files of 4 MiB: some tens of thousands of lines for each instance, and a bound on what a hundred instances take from a disk.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// The one being written and the one before.
const FILES: usize = 2;
/// Longer lines are cut into several: a reader needs a bound, and a program that writes no line end must not fill the memory.
const LINE_BYTES_MAX: usize = 8 << 10;
/// Most that one read returns, so that it fits a frame of the mesh.
const READ_BYTES_MAX: u64 = 1 << 20;

/// Appends to the output of a process.
pub(super) struct Writer {
    folder: PathBuf,
    file: Option<File>,
    /// Offset of the first byte of the file.
    base: u64,
    /// Bytes in the file.
    length: u64,
    /// The file ends inside a line: a write broke off.
    torn: bool,
    file_bytes_max: u64,
}

impl Writer {
    pub(super) fn open(folder: &Path) -> Self {
        Self::with_limit(folder, FILE_BYTES_MAX)
    }

    /// The same with files of another size.
    pub(super) fn with_limit(folder: &Path, file_bytes_max: u64) -> Self {
        let base = files(folder).last().copied().unwrap_or(0);
        let mut writer = Self { folder: folder.to_owned(), file: None, base, length: 0, torn: false, file_bytes_max };
        writer.reopen();
        writer
    }

    /// Appends whole lines, and says whether all of them arrived.
    pub(super) fn append(&mut self, lines: &[u8]) -> bool {
        if self.length > 0 && self.length + lines.len() as u64 > self.file_bytes_max {
            self.rotate();
        }
        if self.file.is_none() {
            self.reopen();
        }
        if self.torn && self.write(b"\n") {
            self.torn = false;
        }
        if self.torn {
            return false;
        }
        let arrived = lines.is_empty() || self.write(lines);
        self.torn = !arrived;
        arrived
    }

    /// Whether all of `bytes` arrived.
    fn write(&mut self, mut bytes: &[u8]) -> bool {
        let Some(file) = &mut self.file else { return false };
        while !bytes.is_empty() {
            match file.write(bytes) {
                Ok(0) => return false,
                Ok(count) => {
                    self.length += count as u64;
                    bytes = &bytes[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    fn rotate(&mut self) {
        self.base += self.length;
        self.length = 0;
        self.torn = false;
        self.file = None;
        let old = files(&self.folder);
        for base in &old[..old.len().saturating_sub(FILES - 1)] {
            let _ = fs::remove_file(path(&self.folder, *base));
        }
    }

    fn reopen(&mut self) {
        let path = path(&self.folder, self.base);
        self.file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).ok();
        let Some(file) = &mut self.file else { return };
        self.length = file.metadata().map_or(0, |found| found.len());
        let mut last = [b'\n'];
        if self.length > 0 && file.seek(SeekFrom::End(-1)).is_ok() {
            let _ = file.read(&mut last);
        }
        self.torn = last != [b'\n'];
    }
}

/// Cuts what one stream brings into marked lines.
pub(super) struct Lines {
    mark: u8,
    begun: Vec<u8>,
}

impl Lines {
    pub(super) fn new(mark: u8) -> Self {
        Self { mark, begun: Vec::new() }
    }

    /// Adds `bytes` that came at `wall_ms` and puts the lines that are whole now into `to`.
    pub(super) fn push(&mut self, bytes: &[u8], wall_ms: u64, to: &mut Vec<u8>) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match part.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (part, false),
            };
            let mut rest = text;
            while self.begun.len() + rest.len() > LINE_BYTES_MAX {
                let (now, later) = rest.split_at(LINE_BYTES_MAX - self.begun.len());
                self.begun.extend_from_slice(now);
                self.end_line(wall_ms, to);
                rest = later;
            }
            self.begun.extend_from_slice(rest);
            if ends {
                self.end_line(wall_ms, to);
            }
        }
    }

    /// The stream ended: a line without an end is one too.
    pub(super) fn finish(&mut self, wall_ms: u64, to: &mut Vec<u8>) {
        if !self.begun.is_empty() {
            self.end_line(wall_ms, to);
        }
    }

    fn end_line(&mut self, wall_ms: u64, to: &mut Vec<u8>) {
        to.extend_from_slice(rfc3339(wall_ms).as_bytes());
        to.extend_from_slice(&[b' ', self.mark, b' ']);
        to.append(&mut self.begun);
        to.push(b'\n');
    }
}

/// Reads whole lines of the output in `folder`.
pub(super) fn read(folder: &Path, from: OutputFrom) -> io::Result<Output> {
    match read_once(folder, from) {
        // Rotated between two looks.
        Err(error) if error.kind() == io::ErrorKind::NotFound => read_once(folder, from),
        result => result,
    }
}

fn read_once(folder: &Path, from: OutputFrom) -> io::Result<Output> {
    let bases = files(folder);
    let Some((first, last)) = bases.first().zip(bases.last()) else { return Ok(Output::default()) };
    let end = last + fs::metadata(path(folder, *last))?.len();
    let (mut from, whole) = match from {
        // An offset of a past life of this instance begins anew.
        OutputFrom::Offset(offset) if offset > end => (*first, true),
        OutputFrom::Offset(offset) => (offset.max(*first), true),
        OutputFrom::Tail(bytes) => {
            let from = end.saturating_sub(bytes.min(READ_BYTES_MAX)).max(*first);
            (from, from == *first)
        }
    };
    if !whole {
        // One byte more shows whether a line begins exactly here.
        from -= 1;
    }
    let mut bytes = gather(folder, &bases, from, READ_BYTES_MAX + 1)?;
    if !whole {
        let skip = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
        bytes.drain(..skip);
        from += skip as u64;
    }
    bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1));
    Ok(Output { next: from + bytes.len() as u64, bytes })
}

fn gather(folder: &Path, bases: &[u64], from: u64, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for (index, base) in bases.iter().enumerate() {
        let at = from + bytes.len() as u64;
        let next = bases.get(index + 1).copied().unwrap_or(u64::MAX);
        if at < *base || at >= next {
            continue;
        }
        let mut file = File::open(path(folder, *base))?;
        file.seek(SeekFrom::Start(at - base))?;
        let left = (limit - bytes.len() as u64).min(next - at);
        file.take(left).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

fn path(folder: &Path, base: u64) -> PathBuf {
    folder.join(format!("output.{base}"))
}

/// The first offsets of the files there are, in order.
fn files(folder: &Path) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut bases: Vec<u64> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("output.")?.parse().ok())
        .collect();
    bases.sort_unstable();
    bases
}

/// Milliseconds since 1970 as RFC 3339 in UTC. Days to date after Howard Hinnant, "chrono-compatible low-level date algorithms".
pub fn rfc3339(wall_ms: u64) -> String {
    let (days, of_day) = (wall_ms / 86_400_000, wall_ms % 86_400_000);
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", of_day % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_399_999), "2000-02-28T23:59:59.999Z");
        assert_eq!(rfc3339(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(1_767_225_599_001), "2025-12-31T23:59:59.001Z");
    }

    #[test]
    fn lines_are_marked_joined_over_reads_and_ended_by_the_end() {
        let mut lines = Lines::new(b'o');
        let mut out = Vec::new();
        lines.push(b"one\ntw", 0, &mut out);
        lines.push(b"o\n\nthree", 0, &mut out);
        lines.finish(0, &mut out);
        let stamp = "1970-01-01T00:00:00.000Z o";
        assert_eq!(text(&out), format!("{stamp} one\n{stamp} two\n{stamp} \n{stamp} three\n"));
    }

    #[test]
    fn an_overlong_line_is_cut_and_nothing_of_it_lost() {
        let mut lines = Lines::new(b'e');
        let mut out = Vec::new();
        for _ in 0..5 {
            lines.push(&[b'x'; 5_000], 0, &mut out);
        }
        lines.finish(0, &mut out);
        let cut: Vec<&str> = text(&out).lines().map(|line| &line[27..]).collect();
        assert_eq!(cut.iter().map(|line| line.len()).sum::<usize>(), 25_000);
        assert!(cut.iter().all(|line| line.len() <= LINE_BYTES_MAX));
    }

    #[test]
    fn rotation_keeps_two_files_and_offsets_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::with_limit(folder.path(), 100);
        let mut offset = 0;
        for number in 0..100 {
            writer.append(format!("line number {number}\n").as_bytes());
            let output = read(folder.path(), OutputFrom::Offset(offset)).unwrap();
            assert_eq!(text(&output.bytes), format!("line number {number}\n"));
            offset = output.next;
        }
        assert_eq!(files(folder.path()).len(), FILES);
        let all = read(folder.path(), OutputFrom::Offset(0)).unwrap();
        assert!(all.bytes.len() <= 200 && text(&all.bytes).ends_with("line number 98\nline number 99\n"));
        assert_eq!(all.next, offset);
    }

    #[test]
    fn a_tail_begins_with_a_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::with_limit(folder.path(), 12);
        for line in ["first\n", "second\n", "third\n"] {
            writer.append(line.as_bytes());
        }
        let tail = |bytes| text(&read(folder.path(), OutputFrom::Tail(bytes)).unwrap().bytes).to_owned();
        assert_eq!(tail(5), "");
        assert_eq!(tail(6), "third\n");
        assert_eq!(tail(12), "third\n");
        assert_eq!(tail(13), "second\nthird\n");
        assert_eq!(tail(1000), "second\nthird\n");
    }

    #[test]
    fn a_torn_line_is_ended_before_the_next_begins() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("output.70"), "half a li").unwrap();
        Writer::open(folder.path()).append(b"whole\n");
        let output = read(folder.path(), OutputFrom::Offset(0)).unwrap();
        assert_eq!((text(&output.bytes), output.next), ("half a li\nwhole\n", 86));
    }

    #[test]
    fn what_cannot_be_written_is_dropped_without_a_word() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(&folder.path().join("absent"));
        assert!(!writer.append(b"lost\n"));
        fs::create_dir(folder.path().join("absent")).unwrap();
        assert!(writer.append(b"kept\n"));
        assert_eq!(read(&folder.path().join("absent"), OutputFrom::Offset(0)).unwrap().bytes, b"kept\n");
    }
}

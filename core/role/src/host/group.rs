//! Groups of processes that nobody leaves: control groups (version 2), by which a program ends whole, whatever it forked off.
//!
//! Each is a folder below the agent's own control group, in a folder that belongs to one data folder. It holds the program and its
//! descendants, not the shim, and limits nothing. Where there is no such hierarchy, or none that may be written to (Linux before 5.14,
//! many containers, an agent that is not root and was delegated none), there are no groups: then a program is what descends from it or
//! from its shim, shares its session, or carries its mark.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Begins the name of the folder that holds the groups of one data folder.
const PREFIX: &[u8] = b"hirsel-";
/// Ended processes are gone from their group within some milliseconds, except for those that wait for a disk.
const EMPTY_MAX: Duration = Duration::from_secs(2);
/// Time between two looks whether they are gone.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Empty groups of other data folders that are older than this are nobody's: between making one and entering it lie milliseconds.
const STALE_AFTER: Duration = Duration::from_secs(600);
/// A program that may make groups in its own (it runs as root) nests them no deeper than this before it is given up on.
const DEPTH_MAX: usize = 16;

/// The groups of one data folder.
#[derive(Debug)]
pub(crate) struct Slice(PathBuf);

/// One group. It may be gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group(PathBuf);

impl Slice {
    /// Where processes of `folder` get their groups; none where this host has no groups for this agent.
    pub(crate) fn of(folder: &Path) -> Option<Self> {
        let mounts = fs::read(Path::new("/proc/self/mountinfo")).ok()?;
        let own = fs::read(Path::new("/proc/self/cgroup")).ok()?;
        let parent = own_group(&mounts, &own)?;
        let folder = fs::metadata(folder).ok()?;
        let prefix = String::from_utf8_lossy(PREFIX);
        let slice = Self(parent.join(format!("{prefix}{:x}-{:x}", folder.dev(), folder.ino())));
        slice.is_possible().then_some(slice)
    }

    /// Whether groups can be made here, and ended at once.
    fn is_possible(&self) -> bool {
        let made = fs::create_dir(&self.0);
        let there = made.is_ok() || made.is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists);
        let kind = fs::read_to_string(self.0.join("cgroup.type")).unwrap_or_default();
        let possible = there && kind.trim() == "domain" && writable(&self.0.join("cgroup.kill")).is_ok();
        self.tidy();
        possible
    }

    /// A fresh group of this name. What an earlier one of the name still holds is ended.
    pub(crate) fn make(&self, name: &str) -> io::Result<Group> {
        let group = Group(self.0.join(name));
        group.end()?;
        // The end of the last group there was may remove the folder of all of them in that moment.
        match fs::create_dir_all(&group.0) {
            Err(error) if is_gone(&error) => fs::create_dir_all(&group.0)?,
            result => result?,
        }
        Ok(group)
    }

    /// Ends and removes groups that are not `known`: their processes have lost whoever knew of them. What data folders that are no more
    /// left behind empty goes too. Best effort.
    pub(crate) fn sweep(&self, known: impl Fn(&str) -> bool) {
        for path in folders(&self.0) {
            if path.file_name().and_then(OsStr::to_str).is_none_or(|name| !known(name)) {
                let _ = Group(path).end();
            }
        }
        self.tidy();
        let is_slice = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_bytes().starts_with(PREFIX));
        for slice in self.0.parent().map(folders).unwrap_or_default().into_iter().filter(is_slice) {
            // Refused by the kernel while anything is in it.
            folders(&slice).iter().filter(|group| is_stale(group)).for_each(|group| drop(fs::remove_dir(group)));
            if slice != self.0 && is_stale(&slice) {
                Slice(slice).tidy();
            }
        }
    }

    /// An empty one goes. Refused by the kernel while anything is in it.
    fn tidy(&self) {
        let _ = fs::remove_dir(&self.0);
    }
}

impl Group {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// What a process writes a zero into to join. It fails once the group is removed, so that whatever begins too late does not.
    pub(crate) fn door(&self) -> io::Result<File> {
        writable(&self.0.join("cgroup.procs"))
    }

    /// Ends every process in it and below, at once and without a gap (cgroup.kill, Linux 5.14). One that is gone has none.
    pub(crate) fn kill(&self) -> io::Result<()> {
        gone_is_fine(writable(&self.0.join("cgroup.kill")).and_then(|mut kill| io::Write::write_all(&mut kill, b"1")))
    }

    /// Whether no process is left in it or below. One that cannot be asked is not empty.
    pub(crate) fn is_empty(&self) -> bool {
        match fs::read_to_string(self.0.join("cgroup.events")) {
            Ok(events) => events.lines().any(|line| line == "populated 0"),
            Err(error) => is_gone(&error),
        }
    }

    /// Removes it, with all below, if it is empty; and the folder of its siblings, if it was the last.
    pub(crate) fn remove(&self) -> io::Result<()> {
        remove_below(&self.0, DEPTH_MAX)?;
        if let Some(slice) = self.0.parent() {
            Slice(slice.to_owned()).tidy();
        }
        Ok(())
    }

    /// Ends what is in it, waits until that is gone, and removes it.
    pub(crate) fn end(&self) -> io::Result<()> {
        let until = Instant::now() + EMPTY_MAX;
        loop {
            self.kill()?;
            if self.is_empty() {
                return self.remove();
            }
            if Instant::now() >= until {
                let message = format!("processes in {} do not end", self.0.display());
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

fn writable(path: &Path) -> io::Result<File> {
    // Never made: a folder that is no control group has no such file.
    OpenOptions::new().write(true).custom_flags(libc::O_CLOEXEC).open(path)
}

/// The folders in a folder, as far as they can be seen.
fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// Whether a folder was made long ago. One that cannot be asked was not.
fn is_stale(path: &Path) -> bool {
    let age = fs::metadata(path).and_then(|meta| meta.modified()).ok().and_then(|at| at.elapsed().ok());
    age.is_some_and(|age| age > STALE_AFTER)
}

fn remove_below(path: &Path, depth: usize) -> io::Result<()> {
    if depth > 0 {
        for folder in folders(path) {
            remove_below(&folder, depth - 1)?;
        }
    }
    gone_is_fine(fs::remove_dir(path))
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if is_gone(&error) => Ok(()),
        other => other,
    }
}

/// The folder of the group this process is in (proc(5), cgroups(7)).
fn own_group(mountinfo: &[u8], cgroup: &[u8]) -> Option<PathBuf> {
    let own = cgroup.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::/"))?;
    // Outside what this process may see of the hierarchy, or removed.
    if own.starts_with(b"..") || own.ends_with(b" (deleted)") {
        return None;
    }
    // NUMBER PARENT DEVICE ROOT PLACE OPTIONS [FIELDS…] - KIND …
    let place = mountinfo.split(|byte| *byte == b'\n').find_map(|line| {
        let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let kind = words.iter().position(|word| *word == b"-").and_then(|dash| words.get(dash + 1))?;
        (*kind == b"cgroup2" && words.get(3) == Some(&&b"/"[..])).then(|| words.get(4).copied()).flatten()
    })?;
    Some(Path::new(OsStr::from_bytes(&unescaped(place))).join(OsStr::from_bytes(own)))
}

/// Blanks and the like are written as a backslash and three octal digits.
fn unescaped(word: &[u8]) -> Vec<u8> {
    let (mut plain, mut rest) = (Vec::new(), word);
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|digits| *first == b'\\' && digits.iter().all(u8::is_ascii_digit));
        let byte = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[3..] } else { after };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIXED: &[u8] = b"24 1 0:22 / /proc rw - proc proc rw\n\
        31 24 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        40 31 0:35 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_own_group_is_found_in_pure_and_mixed_hierarchies_and_nowhere_else() {
        let found = |mounts: &[u8], own: &[u8]| own_group(mounts, own).map(|path| path.display().to_string());
        let mixed = |own: &[u8]| found(MIXED, own);
        assert_eq!(mixed(b"8:pids:/x\n0::/\n").as_deref(), Some("/sys/fs/cgroup/unified/"));
        let unit = "/sys/fs/cgroup/unified/system.slice/hirsel.service";
        assert_eq!(mixed(b"0::/system.slice/hirsel.service\n").as_deref(), Some(unit));
        let pure = b"29 23 0:26 / /a\\040b rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(found(pure, b"0::/x\n").as_deref(), Some("/a b/x"));
        for (mounts, own) in [
            (MIXED, &b"8:pids:/x\n"[..]),
            (MIXED, b"0::/../outside\n"),
            (MIXED, b"0::/x (deleted)\n"),
            (b"", b"0::/\n"),
            (b"24 1 0:22 / /proc rw - proc proc rw\n", b"0::/\n"),
            (b"40 31 0:35 /part /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", b"0::/\n"),
            (b"40 31 -", b"0::/\n"),
        ] {
            assert_eq!(found(mounts, own), None, "{}", String::from_utf8_lossy(own));
        }
    }

    #[test]
    fn what_is_written_in_octal_is_read_and_what_only_looks_so_is_kept() {
        assert_eq!(unescaped(b"/a\\040b\\134c"), b"/a b\\c");
        assert_eq!(unescaped(b"/a\\04"), b"/a\\04");
        assert_eq!(unescaped(b"/a\\999"), b"/a\\999");
    }

    /// Folders of any file system do for this.
    #[test]
    fn what_other_data_folders_left_long_ago_goes_and_what_is_new_or_none_of_ours_stays() {
        let temporary = tempfile::tempdir().unwrap();
        let at = |path: &str| temporary.path().join(path);
        for path in ["hirsel-1-1/shop.one.1", "hirsel-1-2", "hirsel-1-3", "system.slice"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        let long_ago = std::time::SystemTime::now() - 2 * STALE_AFTER;
        for path in ["hirsel-1-1/shop.one.1", "hirsel-1-2", "system.slice"] {
            File::open(at(path)).unwrap().set_modified(long_ago).unwrap();
        }
        Slice(at("hirsel-1-4")).sweep(|_| true);
        let left = |path| folders(path).into_iter().map(|path| path.file_name().unwrap().to_owned());
        let mut left: Vec<_> = left(temporary.path()).chain(left(&at("hirsel-1-1"))).collect();
        left.sort();
        assert_eq!(left, ["hirsel-1-1", "hirsel-1-3", "system.slice"]);
    }

    #[test]
    fn a_group_that_is_gone_is_empty_and_ended() {
        let folder = tempfile::tempdir().unwrap();
        let group = Group::new(folder.path().join("slice/gone"));
        assert!(group.is_empty());
        group.kill().unwrap();
        group.end().unwrap();
        assert!(group.door().is_err());
    }
}

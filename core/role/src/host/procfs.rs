//! Reads `/proc`: which processes there are, whose children they are, and when they began. Whatever it says is taken as a hint that
//! may be gone a moment later, and a line that looks odd is passed over.

use std::fs;
use std::io::{self, Read};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process that cannot be confused with a later one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessKey {
    /// Process id.
    pub pid: u32,
    /// Clock ticks from boot to its start.
    pub start: u64,
}

impl ProcessKey {
    /// The key of the process that has this number now; a start of 0, which no process has, when there is none.
    pub(crate) fn of(pid: u32) -> Self {
        Self { pid, start: stat(pid).map_or(0, |stat| stat.start) }
    }

    /// Whether this very process still runs. One that ended and was not waited for does not.
    pub(crate) fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.start == self.start && stat.runs())
    }

    /// Kills this very process, and never one that was given its number meanwhile. That it is gone already is no error.
    pub(crate) fn kill(self) {
        let Some(pid) = i32::try_from(self.pid).ok().filter(|pid| *pid > 1).and_then(Pid::from_raw) else { return };
        // The descriptor stays with the process; whose it is, is asked once it is held.
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(held) if self.is_alive() => drop(pidfd_send_signal(&held, Signal::KILL)),
            Ok(_) | Err(rustix::io::Errno::SRCH) => {}
            // Before Linux 5.3, or out of descriptors: then there is a gap of some microseconds.
            Err(_) if self.is_alive() => drop(kill_process(pid, Signal::KILL)),
            Err(_) => {}
        }
    }
}

/// The fields of `/proc/PID/stat` that matter here (proc(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub pid: u32,
    pub state: char,
    pub parent: u32,
    pub session: u32,
    pub start: u64,
}

impl Stat {
    /// Neither ended and waiting to be noticed, nor half gone.
    pub(crate) fn runs(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }

    /// Which process it is.
    pub(crate) fn key(&self) -> ProcessKey {
        ProcessKey { pid: self.pid, start: self.start }
    }
}

/// What is known of one process.
pub(crate) fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Every process that can be seen. Fails rather than to say that there is none.
pub(crate) fn all() -> io::Result<Vec<Stat>> {
    let numbers = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(numbers.filter_map(stat).collect())
}

/// Those of `all` that descend from `root`, itself not among them.
pub(crate) fn descendants(root: u32, all: &[Stat]) -> Vec<Stat> {
    let mut found: Vec<Stat> = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for child in all.iter().filter(|stat| stat.parent == parent && stat.pid != parent) {
            // Numbers are read one after another, so that a ring is possible in theory.
            if !found.iter().any(|known| known.pid == child.pid) {
                found.push(*child);
                parents.push(child.pid);
            }
        }
    }
    found
}

/// How much of an environment is looked at: the kernel's limit for one string is 128 KiB, and marks are among the first.
const ENVIRON_BYTES_MAX: u64 = 1 << 20;

/// Whether the environment that process was started with holds `entry` (`NAME=value`).
pub(crate) fn environ_holds(pid: u32, entry: &str) -> bool {
    let Ok(file) = fs::File::open(format!("/proc/{pid}/environ")) else { return false };
    let mut bytes = Vec::new();
    // A read that breaks off leaves what came before.
    let _ = file.take(ENVIRON_BYTES_MAX).read_to_end(&mut bytes);
    bytes.split(|byte| *byte == 0).any(|found| found == entry.as_bytes())
}

/// Names this run of the host's kernel.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// What this process may do beyond ordinary users, as bits (capabilities(7)); none where the kernel does not tell.
pub(crate) fn effective_capabilities() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(bits.trim(), 16).ok()
}

fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    // The name in parentheses may hold anything, parentheses too: what follows the last one is well-formed.
    let open = bytes.iter().position(|byte| *byte == b'(')?;
    let close = bytes.iter().rposition(|byte| *byte == b')')?;
    let pid = std::str::from_utf8(bytes.get(..open)?).ok()?.trim().parse().ok()?;
    let rest = std::str::from_utf8(bytes.get(close + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Stat {
        pid,
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start: fields.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_is_read_over() {
        let line = b"77 (a) Z (b 9) S 1 2 3 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 1 1";
        let stat = parse_stat(line).unwrap();
        assert_eq!((stat.pid, stat.state, stat.parent, stat.session, stat.start), (77, 'S', 1, 3, 4242));
    }

    #[test]
    fn a_line_that_is_cut_anywhere_is_no_process_and_no_panic() {
        let line = b"77 (x) S 1 2 3 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242";
        for end in 0..line.len() - 4 {
            assert!(parse_stat(&line[..end]).is_none());
        }
        assert!(parse_stat(b")(").is_none());
    }

    #[test]
    fn descendants_are_found_through_generations_and_rings() {
        let one = |pid, parent| Stat { pid, state: 'S', parent, session: 0, start: 1 };
        let all = [one(2, 1), one(3, 2), one(4, 3), one(5, 1), one(6, 7), one(7, 6)];
        let mut found: Vec<u32> = descendants(2, &all).iter().map(|stat| stat.pid).collect();
        found.sort_unstable();
        assert_eq!(found, [3, 4]);
        assert_eq!(descendants(6, &all).len(), 2);
    }

    #[test]
    fn this_process_is_alive_and_another_of_its_number_is_not() {
        let me = ProcessKey::of(std::process::id());
        assert!(me.is_alive());
        assert!(!ProcessKey { start: me.start + 1, ..me }.is_alive());
    }

    #[test]
    fn a_process_is_killed_and_a_later_one_of_its_number_is_not() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let key = ProcessKey::of(child.id());
        ProcessKey { start: key.start - 1, ..key }.kill();
        assert!(key.is_alive());
        key.kill();
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
        key.kill();
    }
}

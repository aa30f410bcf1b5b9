//! The power of a node: everything that belongs to its data folder, found in `/proc`.
//!
//! The tests have a switch of their own, so that what the product's switch misses is noticed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::wait_for;

/// Sends a signal to one process, which may be gone.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Ends everything of the node with this data folder at once. Stopped first, so that nobody sees a neighbour die.
pub fn off(data: &Path) {
    wait_for("power off", Duration::from_secs(10), || {
        let all = processes(data);
        all.iter().for_each(|process| signal(process.pid, Signal::STOP));
        all.iter().for_each(|process| signal(process.pid, Signal::KILL));
        if all.is_empty() { Ok(()) } else { Err(format!("{all:?} go on")) }
    });
}

/// Stops everything of the node where it is, or lets it go on.
pub fn freeze(data: &Path, frozen: bool) {
    let all = processes(data);
    all.iter().for_each(|process| signal(process.pid, if frozen { Signal::STOP } else { Signal::CONT }));
}

/// A process that belongs to a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Its command line.
    pub command: String,
}

/// Every process of the node with this data folder: those that name it in their words, environment or folder, and their children.
pub fn processes(data: &Path) -> Vec<Process> {
    let mut parents = BTreeMap::new();
    let mut own = BTreeSet::new();
    for entry in fs::read_dir("/proc").expect("/proc is there").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Some(parent) = living_parent(&entry.path()) else { continue };
        parents.insert(pid, parent);
        if names(&entry.path(), data) {
            own.insert(pid);
        }
    }
    loop {
        let is_child = |pid: &u32| !own.contains(pid) && own.contains(&parents[pid]);
        let children: Vec<u32> = parents.keys().copied().filter(is_child).collect();
        if children.is_empty() {
            break;
        }
        own.extend(children);
    }
    let mut me = std::process::id();
    while let Some(parent) = parents.get(&me) {
        own.remove(&me);
        me = *parent;
    }
    let command = |pid: u32| {
        let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_string()
    };
    own.into_iter().map(|pid| Process { pid, command: command(pid) }).collect()
}

fn living_parent(process: &Path) -> Option<u32> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    // The name, in brackets, may hold anything.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    let is_dead = matches!(fields.next()?, "Z" | "X");
    if is_dead { None } else { fields.next()?.parse().ok() }
}

fn names(process: &Path, data: &Path) -> bool {
    let text = data.as_os_str().as_encoded_bytes();
    let holds = |file: &str| {
        let words = fs::read(process.join(file)).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| {
            let value = word.iter().position(|byte| *byte == b'=').map_or(word, |at| &word[at + 1..]);
            let is_inside =
                |word: &[u8]| word.strip_prefix(text).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')));
            is_inside(word) || is_inside(value)
        })
    };
    holds("cmdline") || holds("environ") || fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(data))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_node_is_everything_that_names_its_folder_and_what_that_started() {
        let folder = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let mut parent =
            Command::new("sh").args(["-c", "sleep 1000 & wait"]).env("DATA", folder.path()).spawn().unwrap();
        let mut stranger = Command::new("sleep").arg("1000").current_dir(other.path()).spawn().unwrap();
        wait_for("both run", Duration::from_secs(10), || match processes(folder.path()).len() {
            2 => Ok(()),
            count => Err(format!("{count} of 2")),
        });
        off(folder.path());
        parent.wait().unwrap();
        assert_eq!(processes(other.path()).len(), 1, "somebody else's process goes on");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}

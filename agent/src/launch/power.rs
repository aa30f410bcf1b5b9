//! The power switch of one development node: everything that belongs to a data folder, found in `/proc`, at once.
//!
//! A process belongs to a node when its command line, environment or working folder names the node's data folder, or when its
//! parent belongs to it. Nothing else is trusted: the switch works when the agent, its records or `dev` itself are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::args::Power;
use crate::launch::dev;

/// Scans until nothing of the node is left, but not for ever.
const ROUNDS_MAX: usize = 200;

/// `hirsel dev kill|freeze|thaw|start NODE`
pub fn switch(cluster: &Path, node: &str, power: Power) -> Result<()> {
    let folder = cluster.join(node);
    if !folder.is_dir() {
        let known: Vec<String> = dev::nodes(cluster)?;
        bail!("no node {node:?} in {}; there are: {}", cluster.display(), known.join(", "));
    }
    let folder = fs::canonicalize(&folder).with_context(|| format!("cannot find {}", folder.display()))?;
    match power {
        Power::Kill => off(&folder),
        Power::Freeze => signal_all(&folder, Signal::STOP),
        Power::Thaw => signal_all(&folder, Signal::CONT),
        Power::Start => dev::start_again(&folder),
    }
}

/// Ends everything of a node. Stopped first, so that nobody sees a neighbour die and acts on it.
pub fn off(folder: &Path) -> Result<()> {
    for _ in 0..ROUNDS_MAX {
        let all = processes(folder)?;
        if all.is_empty() {
            return Ok(());
        }
        for signal in [Signal::STOP, Signal::KILL] {
            for pid in &all {
                // It may have ended by itself.
                let _ = kill_process(*pid, signal);
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    bail!("processes of {} do not end", folder.display())
}

fn signal_all(folder: &Path, signal: Signal) -> Result<()> {
    // Until nothing new turns up: a process may be starting another one meanwhile.
    let mut reached = BTreeSet::new();
    loop {
        let fresh: Vec<Pid> = processes(folder)?.into_iter().filter(|pid| reached.insert(pid.as_raw_pid())).collect();
        if fresh.is_empty() {
            break;
        }
        for pid in fresh {
            let _ = kill_process(pid, signal);
        }
    }
    if reached.is_empty() {
        bail!("nothing of {} runs", folder.display());
    }
    Ok(())
}

/// Every process of the node in `folder`, but never this one or an ancestor of it.
pub fn processes(folder: &Path) -> Result<Vec<Pid>> {
    let mut parents = BTreeMap::new();
    let mut own = BTreeSet::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let path = entry.path();
        let Some((parent, zombie)) = stat(&path) else { continue };
        if zombie {
            continue;
        }
        parents.insert(pid, parent);
        if names(&path, folder) {
            own.insert(pid);
        }
    }
    loop {
        let children: Vec<i32> = parents
            .iter()
            .filter(|(pid, parent)| own.contains(parent) && !own.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if children.is_empty() {
            break;
        }
        own.extend(children);
    }
    let mut me = Some(std::process::id() as i32);
    while let Some(pid) = me {
        own.remove(&pid);
        me = parents.get(&pid).copied().filter(|parent| *parent > 0);
    }
    Ok(own.into_iter().filter_map(Pid::from_raw).collect())
}

/// Parent, and whether the process is dead already.
fn stat(process: &Path) -> Option<(i32, bool)> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    // The name, in brackets, may hold anything.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    let zombie = matches!(fields.next()?, "Z" | "X");
    Some((fields.next()?.parse().ok()?, zombie))
}

fn names(process: &Path, folder: &Path) -> bool {
    let text = folder.as_os_str().as_encoded_bytes();
    let holds = |file: &str| {
        fs::read(process.join(file)).is_ok_and(|bytes| {
            bytes.split(|byte| *byte == 0).any(|word| {
                let value = word.iter().position(|byte| *byte == b'=').map_or(word, |at| &word[at + 1..]);
                [word, value]
                    .iter()
                    .any(|word| word.strip_prefix(text).is_some_and(|rest| rest.is_empty() || rest[0] == b'/'))
            })
        })
    };
    let inside = fs::read_link(process.join("cwd")).is_ok_and(|cwd: PathBuf| cwd.starts_with(folder));
    inside || holds("cmdline") || holds("environ")
}

/// Lets `command` lead a session of its own, so that a Ctrl-C in this terminal does not reach it.
pub fn in_own_session(command: &mut Command) {
    command.process_group(0);
}

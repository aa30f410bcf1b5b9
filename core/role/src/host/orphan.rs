//! Ends what belongs to a program whoever watched over it: nothing goes on that nobody watches, and nothing past its deadline.

use std::io;
use std::time::{Duration, Instant};

use super::folder::{MARK, ShimState};
use super::procfs::{self, Stat};

/// How long ended processes are waited for: the kernel takes them down at once, except for those that wait for a disk.
const END_MAX: Duration = Duration::from_secs(2);

/// Ends everything that belongs to the run `state` tells of, if that was in the run `boot` of the kernel, and waits until it is gone.
/// Whether there was something.
pub(super) fn end(state: &ShimState, boot: &str) -> io::Result<bool> {
    if state.mark.is_empty() || state.boot != boot {
        return Ok(false);
    }
    let until = Instant::now() + END_MAX;
    let mut found = false;
    while strike(state)? && Instant::now() < until {
        found = true;
        std::thread::sleep(Duration::from_millis(5));
    }
    if let Some(group) = state.group()
        && group.is_empty()
    {
        group.remove()?;
    }
    Ok(found)
}

/// Kills all that belongs to the run `state` tells of, in this run of the kernel, and does not wait. Whether there was something.
/// The shim is spared.
pub(super) fn strike(state: &ShimState) -> io::Result<bool> {
    if state.mark.is_empty() {
        return Ok(false);
    }
    // First of all, for it needs no look at other processes.
    let group = state.group().filter(|group| !group.is_empty());
    let killed = group.as_ref().map_or(Ok(()), |group| group.kill());
    // And whatever is in none, or has left it.
    let left = belonging(state, &procfs::all()?);
    left.iter().for_each(|process| process.key().kill());
    killed.map(|()| group.is_some() || !left.is_empty())
}

/// The program while it is the one that was started, what descends from it or from its shim or shares its session, and what carries its
/// mark. Not the shim.
pub(super) fn belonging(state: &ShimState, all: &[Stat]) -> Vec<Stat> {
    let mark = format!("{MARK}={}", state.mark);
    let program = state.program.filter(|program| program.start != 0 && program.is_alive());
    // All orphans among the descendants are children of the shim while that lives.
    let shim = state.shim.filter(|shim| shim.start != 0 && shim.is_alive());
    let roots = [program, shim].into_iter().flatten();
    let descendants: Vec<Stat> = roots.flat_map(|root| procfs::descendants(root.pid, all)).collect();
    let belongs = |stat: &&Stat| {
        program.is_some_and(|program| stat.pid == program.pid || stat.session == program.pid)
            || descendants.iter().any(|descendant| descendant.pid == stat.pid)
            || procfs::environ_holds(stat.pid, &mark)
    };
    all.iter().filter(|stat| stat.runs()).filter(belongs).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::procfs::ProcessKey;

    #[test]
    fn whoever_has_the_number_of_a_shim_or_program_of_before_is_spared() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let before = |key: ProcessKey| ProcessKey { start: key.start - 1, ..key };
        let state = ShimState {
            boot: procfs::boot_id().unwrap(),
            id: "shop/one/1".parse().unwrap(),
            // The child descends from one of this number, and is one of that.
            shim: Some(before(ProcessKey::of(std::process::id()))),
            mark: format!("nobody-{}", std::process::id()),
            program: Some(before(ProcessKey::of(child.id()))),
            ended: None,
            group: None,
        };
        assert!(!strike(&state).unwrap());
        assert!(ProcessKey::of(child.id()).is_alive());
        let state = ShimState { program: Some(ProcessKey::of(child.id())), ..state };
        assert!(strike(&state).unwrap());
        child.wait().unwrap();
        assert!(!strike(&state).unwrap());
    }
}

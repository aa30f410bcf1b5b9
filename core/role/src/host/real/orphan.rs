//! Ends what a shim left running when it was killed: nothing goes on that nobody watches.

use std::io;
use std::time::{Duration, Instant};

use crate::host::folder::{MARK, ShimState};
use crate::host::procfs::{self, Stat};
use crate::host::shim::sys;

/// How long ended processes are waited for: the kernel takes them down at once, except for those that wait for a disk.
const END_MAX: Duration = Duration::from_secs(2);

/// Ends everything that belongs to the run `state` tells of, if that was in the run `boot` of the kernel. Whether there was something.
pub(super) fn end(state: &ShimState, boot: &str) -> io::Result<bool> {
    if state.mark.is_empty() || state.boot != boot {
        return Ok(false);
    }
    let until = Instant::now() + END_MAX;
    let mut found = false;
    loop {
        let left = belonging(state, &procfs::all()?);
        if left.is_empty() || Instant::now() >= until {
            return Ok(found);
        }
        found = true;
        for process in left {
            sys::kill(process.pid, 9);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The program while it is the one that was started, what descends from it or shares its session, and what carries its mark.
pub(super) fn belonging(state: &ShimState, all: &[Stat]) -> Vec<Stat> {
    let mark = format!("{MARK}={}", state.mark);
    let program = state.program.filter(|program| program.start != 0 && program.is_alive());
    let descendants = program.map_or_else(Vec::new, |program| procfs::descendants(program.pid, all));
    let belongs = |stat: &&Stat| {
        program.is_some_and(|program| stat.pid == program.pid || stat.session == program.pid)
            || descendants.iter().any(|descendant| descendant.pid == stat.pid)
            || procfs::environ_holds(stat.pid, &mark)
    };
    all.iter().filter(|stat| stat.runs()).filter(belongs).copied().collect()
}

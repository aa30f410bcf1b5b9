//! Ends what a shim left running when it was killed: nothing goes on that nobody watches.

use std::time::{Duration, Instant};

use crate::host::folder::{MARK, ShimState};
use crate::host::procfs::{self, Stat};
use crate::host::shim::sys;

/// How long ended processes are waited for: the kernel takes them down at once, except for those that wait for a disk.
const END_MAX: Duration = Duration::from_secs(2);

/// Ends everything that belongs to the run `state` tells of. Whether there was something.
pub(super) fn end(state: &ShimState) -> bool {
    if state.mark.is_empty() || state.boot != procfs::boot_id() {
        return false;
    }
    let until = Instant::now() + END_MAX;
    let mut found = false;
    loop {
        let left = belonging(state);
        if left.is_empty() || Instant::now() >= until {
            return found;
        }
        found = true;
        for process in left {
            sys::kill(process.pid, 9);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The program while it is the one that was started, what descends from it or shares its session, and what carries its mark.
fn belonging(state: &ShimState) -> Vec<Stat> {
    let all = procfs::all();
    let mark = format!("{MARK}={}", state.mark);
    let program = state.program.filter(|program| program.start != 0 && program.is_alive());
    let mut found: Vec<Stat> = program.map_or_else(Vec::new, |program| {
        let mut found = procfs::descendants(program.pid, &all);
        found.extend(all.iter().filter(|stat| stat.pid == program.pid || stat.session == program.pid));
        found
    });
    found.extend(all.iter().filter(|stat| procfs::environ_holds(stat.pid, &mark)));
    found.retain(Stat::runs);
    found
}

//! What processes use, from `/proc`.

use std::time::{Duration, Instant};

/// In which the kernel tells times; the same on every architecture that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Memory and processor time of some processes, as means over them.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Resident, shared pages counted whole.
    pub resident_mb: f64,
    /// Of these, memory that no file backs: the process's own.
    pub own_mb: f64,
    /// Processor time per second.
    pub cpu_ms: f64,
    /// The same of the one that uses most.
    pub cpu_ms_most: f64,
    /// Threads.
    pub threads: f64,
}

/// Watches `pids` for `time`.
pub fn watch(pids: &[u32], time: Duration) -> Usage {
    let before: Vec<f64> = pids.iter().map(|pid| cpu_ms(*pid)).collect();
    let began = Instant::now();
    std::thread::sleep(time);
    let seconds = began.elapsed().as_secs_f64();
    let spent: Vec<f64> = pids.iter().zip(before).map(|(pid, before)| (cpu_ms(*pid) - before) / seconds).collect();
    let mean = |all: &[f64]| all.iter().sum::<f64>() / all.len().max(1) as f64;
    let over = |read: &dyn Fn(u32) -> f64| mean(&pids.iter().map(|pid| read(*pid)).collect::<Vec<_>>());
    Usage {
        resident_mb: over(&|pid| memory_mb(pid, "Rss:")),
        own_mb: over(&|pid| memory_mb(pid, "Anonymous:")),
        cpu_ms: mean(&spent),
        cpu_ms_most: spent.iter().copied().fold(0.0, f64::max),
        threads: over(&|pid| std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0.0, |tasks| tasks.count() as f64)),
    }
}

/// Processor time of a process so far. The kernel counts it in ticks but scales them to what its scheduler measured.
pub fn cpu_ms(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    // The name, in brackets, may hold anything; utime and stime are the 14th and 15th field.
    let fields: Vec<&str> = stat[stat.rfind(')').expect("a name") + 2..].split(' ').collect();
    let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().expect("a number")).sum();
    ticks * 1000.0 / TICKS_PER_SECOND
}

fn memory_mb(pid: u32, what: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the process lives");
    let line = text.lines().find_map(|line| line.strip_prefix(what)).unwrap_or_default();
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number of kB");
    kib * 1024.0 / 1e6
}

//! How figures are taken and shown.

use std::time::{Duration, Instant};

/// Between two looks at something that is timed.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What this machine is, and how busy it was before.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = read("/proc/loadavg");
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{cores} cores of {}, Linux {}, load before {}",
        model.trim_start_matches(['\t', ' ', ':']),
        kernel.trim(),
        load.split(' ').next().unwrap_or("?")
    )
}

/// One line: the distribution of some times.
pub fn times(what: &str, times: &[Duration]) {
    let mut sorted = times.to_vec();
    sorted.sort();
    let Some(last) = sorted.len().checked_sub(1) else {
        println!("  {what:<44} no runs");
        return;
    };
    // The nearest rank at or above: no figure is better than what was seen.
    let at = |part: f64| sorted[(last as f64 * part).ceil() as usize].as_millis();
    println!(
        "  {what:<44} min {:>5}  median {:>5}  p90 {:>5}  p95 {:>5}  worst {:>5} ms  ({} runs)",
        at(0.0),
        at(0.5),
        at(0.9),
        at(0.95),
        at(1.0),
        sorted.len()
    );
}

/// Looks often until `holds`, and tells how long after `since` that was.
///
/// # Panics
/// When it does not within `limit`.
pub fn timed<T>(what: &str, since: Instant, limit: Duration, mut holds: impl FnMut() -> Option<T>) -> (T, Duration) {
    loop {
        if let Some(value) = holds() {
            return (value, since.elapsed());
        }
        assert!(since.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Whether a program can be started; says so if not, and `how` to have it.
pub fn installed(program: &str, how: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).any(|folder| folder.join(program).is_file());
    if !found {
        println!("  {program}: not installed ({how})");
    }
    found
}

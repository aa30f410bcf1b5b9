//! How busy this machine is: the scarcer of processors and memory.

use std::fs;
use std::sync::{Arc, Mutex};

/// A meter that tells the use since it was last asked, 0 to 1. What cannot be read counts as idle.
pub fn meter() -> Arc<dyn Fn() -> f64 + Send + Sync> {
    let last = Mutex::new((0, 0));
    Arc::new(move || {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let (idle, total) = ticks(&stat);
        let mut last = last.lock().expect("no panic under the lock");
        let (idle_before, total_before) = std::mem::replace(&mut *last, (idle, total));
        let passed = total.saturating_sub(total_before);
        let rested = idle.saturating_sub(idle_before);
        let busy = if passed == 0 { 0.0 } else { 1.0 - rested as f64 / passed as f64 };
        busy.max(memory_used(&memory)).clamp(0.0, 1.0)
    })
}

/// Idle and total ticks of all processors.
fn ticks(stat: &str) -> (u64, u64) {
    let line = stat.lines().next().unwrap_or_default();
    let numbers: Vec<u64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    let idle = numbers.iter().skip(3).take(2).sum();
    (idle, numbers.iter().take(8).sum())
}

fn memory_used(meminfo: &str) -> f64 {
    let field = |name: &str| {
        let line = meminfo.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok()
    };
    match (field("MemTotal:"), field("MemAvailable:")) {
        (Some(total), Some(available)) if total > 0.0 => 1.0 - available / total,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_read_from_what_the_kernel_writes() {
        assert_eq!(ticks("cpu  10 0 20 60 10 0 0 0 0 0\ncpu0 1"), (70, 100));
        assert_eq!(ticks(""), (0, 0));
        let used = memory_used("MemTotal: 100 kB\nMemFree: 1 kB\nMemAvailable: 25 kB\n");
        assert!((used - 0.75).abs() < 1e-9);
    }

    #[test]
    fn a_meter_stays_between_idle_and_full() {
        let meter = meter();
        assert!((0.0..=1.0).contains(&meter()));
        assert!((0.0..=1.0).contains(&meter()));
    }
}

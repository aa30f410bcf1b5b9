//! Tests with real processes: what they share. Clusters on loopback addresses of their own, hosts in network namespaces, power
//! switches, a load generator that records every failure, and the rule for what a machine may lack.
//!
//! Nothing here sleeps for a fixed time to let something happen: it waits for a condition, with a limit ([`wait_for`]).

use std::time::{Duration, Instant};

pub mod api;
pub mod authority;
pub mod callers;
pub mod cli;
pub mod cluster;
pub mod echo;
pub mod executable;
pub mod http;
pub mod journal;
pub mod load;
pub mod many;
pub mod netns;
pub mod pebble;
pub mod power;
pub mod programs;
pub mod told;
pub mod unit;
pub mod visitor;

/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Waits until `holds` returns something, and returns it with the time that took.
///
/// # Panics
/// When it does not hold within `limit`; with the last words of what is missing.
pub fn wait_for<T>(what: &str, limit: Duration, mut holds: impl FnMut() -> Result<T, String>) -> (T, Duration) {
    let began = Instant::now();
    loop {
        match holds() {
            Ok(value) => return (value, began.elapsed()),
            Err(missing) if began.elapsed() > limit => panic!("{what}: not within {limit:?}: {missing}"),
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// The rule for what a machine may lack: the test says `skipped: needs X` and ends, unless everything is required.
///
/// # Panics
/// When it is missing and `HIRSEL_REQUIRE=all`.
pub fn lacks(what: &str, is_there: bool) -> bool {
    if is_there {
        return false;
    }
    assert!(std::env::var("HIRSEL_REQUIRE").as_deref() != Ok("all"), "needs {what}");
    // Into the test's own output, where a reader looks for it.
    eprintln!("skipped: needs {what}");
    true
}

//! What gossip costs, how soon news is everywhere, and how soon somebody is missed, by the number of nodes.
//!
//! All nodes are in this process, each with an address and a socket of its own, and gossip as agents do: the same transport, the same
//! intervals, about as much to say. Nothing else runs: no consensus, no roles, no control pings. Bytes and packets are those of all
//! datagrams that a node sends, with their headers, so handshakes and acknowledgements of QUIC count. A node is lost by taking all
//! that it sends and is sent, as a cut cable does; detection and news are told by every other node, as an agent hears them.
//!
//! First in *simulated* time, on one thread and a network in memory: hundreds of nodes then have as much processor as they want, and
//! bytes, packets and times are those of nodes that are not overloaded. Their processor time is real, with that of the network in
//! memory. Then a few nodes in *real* time over loopback sockets, next to `serf` where it is installed.
//!
//! `cargo bench -p hirsel-mesh --bench gossip [-- [simulated|real] NODES...]`; in a network namespace of its own where other programs
//! use loopback, for serf is counted at the interface.

#![allow(clippy::print_stdout, reason = "a benchmark reports on the terminal")]
#![allow(missing_docs)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use hirsel_mesh::seam::real::OsNet;

mod air;
mod herd;
#[path = "../machine.rs"]
mod machine;
mod serf;
mod wire;

const SIMULATED: [usize; 4] = [10, 50, 100, 300];
const REAL: [usize; 2] = [10, 50];
/// After all hear each other: failure detectors have their samples.
const SETTLE: Duration = Duration::from_secs(10);
/// The same, after one that was lost is back.
const SETTLE_AGAIN: Duration = Duration::from_secs(3);
const MEASURE: Duration = Duration::from_secs(15);
/// Nodes lost, and values said anew: fewer where each second is a real one.
const EVENTS_SIMULATED: usize = 20;
const EVENTS_REAL: usize = 10;
const LIMIT: Duration = Duration::from_secs(120);

/// What was seen of a number of nodes.
struct Seen {
    /// Until all heard each other.
    whole: Duration,
    /// Sent by a node in a second.
    bytes: f64,
    packets: f64,
    /// Processor time of a node, as a share of a core.
    processor: f64,
    /// From a value to each other node that heard it.
    news: Vec<Duration>,
    /// From a loss to each other node that missed the lost one.
    missed: Vec<Duration>,
    /// Nodes that were missed while they were there, at each node.
    mistaken: usize,
}

fn main() {
    // `cargo test --benches` asks every bench to run as a test; a figure from there would mean nothing.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let sizes = |usual: &[usize]| {
        let asked: Vec<usize> =
            words.iter().filter_map(|word| word.parse().ok()).map(|count: usize| count.max(2)).collect();
        if asked.is_empty() { usual.to_vec() } else { asked }
    };
    let is_asked =
        |what: &str, other: &str| words.iter().any(|word| word == what) || words.iter().all(|word| word != other);
    let build = if cfg!(debug_assertions) { "debug: processor times mean nothing" } else { "release" };
    println!("machine: {}; build: {build}", machine::describe());
    println!("{} s of quiet, counted; then values said anew, then nodes lost one after another", MEASURE.as_secs());
    println!(
        "{:<18} {:>6} {:>9} {:>10} {:>10} {:>8}  {:<24} {:<28} {:>6} {:>8}",
        "",
        "nodes",
        "all hear",
        "kB/s each",
        "packets/s",
        "CPU each",
        "news: median, p95, max",
        "missed: median, p95, max",
        "false",
        "took"
    );
    if is_asked("simulated", "real") {
        for count in sizes(&SIMULATED) {
            let began = Instant::now();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
            let seen = runtime.block_on(herd::look(count, Arc::new(air::Air::default()), EVENTS_SIMULATED));
            report("hirsel, simulated", count, &seen, began.elapsed());
        }
    }
    if is_asked("real", "simulated") {
        for count in sizes(&REAL) {
            let began = Instant::now();
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            let seen = runtime.block_on(herd::look(count, Arc::new(OsNet), EVENTS_REAL));
            runtime.shutdown_timeout(Duration::from_secs(5));
            report("hirsel", count, &seen, began.elapsed());
            if serf::is_installed() {
                let began = Instant::now();
                report("serf", count, &serf::look(count, EVENTS_REAL), began.elapsed());
            }
        }
    }
}

fn report(what: &str, count: usize, seen: &Seen, took: Duration) {
    println!(
        "{what:<18} {count:>6} {:>7.1} s {:>10.1} {:>10.0} {:>6.2} %  {:<24} {:<28} {:>6} {:>6.0} s",
        seen.whole.as_secs_f64(),
        seen.bytes / 1e3,
        seen.packets,
        seen.processor * 100.0,
        spread(&seen.news),
        format!("{} ({})", spread(&seen.missed), seen.missed.len()),
        seen.mistaken,
        took.as_secs_f64(),
    );
}

/// Median, 95th percentile, worst.
fn spread(times: &[Duration]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort();
    let at = |part: f64| sorted[((sorted.len() - 1) as f64 * part).ceil() as usize].as_secs_f64();
    format!("{:.2}, {:.2}, {:.2} s", at(0.5), at(0.95), at(1.0))
}

//! Whole clusters of real processes: how fast they join and heal, and what they cost while nothing happens.
//!
//! `cargo bench -p hirsel-tests --bench cluster -- [SECTION...] [RUNS]`; sections are `join`, `idle`, `heal`, `leader`, `down`,
//! `exclusive`, `handover`, `calm`, and of what is stored `objects`, `stripes`, `million`, `long` and `repair`. Ten runs make a
//! distribution, fifty in `leader` and `down`, a hundred (in two halves) in `exclusive` and twenty in `handover`, unless a number among
//! the words, or `HIRSEL_BENCH_RUNS`, says otherwise; `calm` takes it as minutes. `HIRSEL_BIN` names another executable.
//!
//! Agents are release builds on loopback addresses of their own, all on this machine. A node is lost as a host whose processes die:
//! everything of it is stopped and killed at once, and its kernel closes what was open. Peers that are installed run in the same
//! session, one after the other, on the same machine: serf for what gossip costs, etcd for a write after the leader is lost.

#![allow(clippy::print_stdout, reason = "a benchmark reports on the terminal")]
#![allow(missing_docs)]

mod calm;
mod duty;
mod etcd;
mod figures;
mod heal;
mod idle;
mod join;
mod leader;
mod objects;
mod recorder;
mod serf;
mod usage;

/// Runs of each distribution, unless fewer are asked for.
const RUNS: usize = 10;
/// The same where the ends of a distribution are promised.
const RUNS_MANY: usize = 50;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    // The program that the exclusive duties run.
    if let [word, journal] = words.as_slice()
        && word == duty::ACT
    {
        return duty::act(journal);
    }
    let asked = words.iter().find_map(|word| word.parse().ok());
    let asked = asked.or_else(|| std::env::var("HIRSEL_BENCH_RUNS").ok()?.parse().ok());
    let sections: Vec<&str> = words.iter().map(String::as_str).filter(|word| word.parse::<usize>().is_err()).collect();
    type Section = (&'static str, fn(usize), usize);
    let all: [Section; 13] = [
        ("join", join::report, RUNS),
        ("idle", idle::report, RUNS),
        ("heal", heal::report, RUNS),
        ("leader", leader::report, RUNS_MANY),
        ("down", duty::down, RUNS_MANY),
        ("exclusive", duty::exclusive, 2 * RUNS_MANY),
        ("handover", duty::handover, 2 * RUNS),
        ("calm", calm::report, RUNS),
        ("objects", objects::report, 1),
        ("stripes", objects::stripes, 1),
        ("million", objects::million, 1),
        ("long", objects::long, 1),
        ("repair", objects::repair, 1),
    ];
    if let Some(unknown) = sections.iter().find(|word| all.iter().all(|(name, ..)| name != *word)) {
        let known = all.map(|(name, ..)| name).join(", ");
        eprintln!("no section {unknown:?}; there are: {known}");
        std::process::exit(2);
    }
    println!("machine: {}", figures::machine());
    println!("hirsel:  {}", hirsel_tests::executable::hirsel().display());
    for (name, report, runs) in all {
        if sections.is_empty() || sections.contains(&name) {
            report(asked.unwrap_or(runs).max(1));
        }
    }
}

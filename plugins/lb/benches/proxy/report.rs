//! What was seen, in words and columns.

use std::fs;

use super::case::Case;
use super::process::program;
use super::{ROUNDS, Seen};

pub fn method(seconds: u64) {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("").trim_start_matches([' ', '\t', ':']);
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let by: Vec<_> = ["wrk", "h2load"].into_iter().filter(|name| program(name).is_some()).collect();
    println!("machine: {cores} cores, {model}, load {}", load.split(' ').next().unwrap_or(""));
    println!(
        "method: 1,000 routes, every request written to a log, one worker each on the first processor; load by {} on the others; processor \
         time of the proxy's processes over {ROUNDS} alternating rounds of {seconds} s; memory is what is resident and not of a file",
        if by.is_empty() { "a client of our own".to_owned() } else { by.join(" and ") }
    );
}

pub fn case<'a>(case: &Case, all: impl Iterator<Item = &'a Seen>) {
    let all: Vec<_> = all.collect();
    let micros = |seconds: f64, seen: &Seen| seconds * 1e6 / seen.requests as f64;
    let ours = all.iter().find(|seen| seen.name == "hirsel lb").map(|seen| micros(seen.cpu.total(), seen));
    let wanted = case.target.map_or(String::new(), |target| format!(" (wanted: {target} times haproxy's)"));
    println!("\n{}: {}{wanted}", case.name, case.says);
    println!(
        "{:<20}{:>14}{:>9}{:>9}{:>12}{:>11}{:>9}{:>14}",
        "proxy", "CPU µs/request", "user", "system", "requests/s", "mean ms", "MB", "ours is times"
    );
    for seen in all {
        let total = micros(seen.cpu.total(), seen);
        let (user, system) = (micros(seen.cpu.user, seen), micros(seen.cpu.system, seen));
        let per_second = seen.requests as f64 / seen.seconds;
        let mean = seen.waited.map_or("-".to_owned(), |waited| format!("{:.2}", waited * 1e3 / seen.requests as f64));
        let memory = seen.resident as f64 / 1e6;
        let ratio = ours.map_or("-".to_owned(), |ours| format!("{:.2}", ours / total));
        println!(
            "{:<20}{total:>14.2}{user:>9.2}{system:>9.2}{per_second:>12.0}{mean:>11}{memory:>9.1}{ratio:>14}",
            seen.name
        );
    }
}

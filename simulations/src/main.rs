//! `cargo sim`: runs seeds until one fails, and says how to run it again.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use hirsel_sim::scenario::{self, History, Scenario};

/// Seeds that failed once. They run first, so that what was repaired stays so.
const KEPT: &str = include_str!("../seeds.txt");

/// Simulates the model and whole agents; one seed is one history.
#[derive(Parser)]
#[command(name = "cargo sim", after_help = "Example: cargo sim --seed 42 --twice")]
struct Args {
    /// Run this seed only
    #[arg(long)]
    seed: Option<u64>,
    /// Run these seeds: FIRST..END
    #[arg(long, value_parser = range, conflicts_with = "seed")]
    seeds: Option<(u64, u64)>,
    /// Draw new seeds for so many minutes
    #[arg(long, conflicts_with_all = ["seed", "seeds"])]
    minutes: Option<f64>,
    /// Run each seed twice and compare the histories
    #[arg(long)]
    twice: bool,
    /// What happens: random, calm, lossy, frozen, flapping, chained, blackout
    #[arg(long, default_value_t = Scenario::Random)]
    scenario: Scenario,
    /// Only the model
    #[arg(long, conflicts_with = "agents_only")]
    model_only: bool,
    /// Only whole agents
    #[arg(long)]
    agents_only: bool,
    /// Print what happened
    #[arg(long)]
    notes: bool,
    /// Print the agents' own log, filtered like RUST_LOG
    #[arg(long)]
    log: Option<String>,
    /// Leave the seeds that failed once out
    #[arg(long)]
    no_kept: bool,
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let (first, end) = text.split_once("..").ok_or("expected FIRST..END")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
    Ok((number(first)?, number(end)?))
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    if let Some(filter) = &args.log {
        let filter = tracing_subscriber::EnvFilter::try_new(filter).context("--log")?;
        let format = tracing_subscriber::fmt().without_time().with_ansi(false).with_writer(std::io::stderr);
        format.with_env_filter(filter).init();
    }
    let began = Instant::now();
    let limit = args.minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
    let mut seeds = 0;
    for (seed, scenario) in plan(&args)? {
        if limit.is_some_and(|limit| began.elapsed() > limit) {
            break;
        }
        seeds += 1;
        if !run(&args, seed, scenario) {
            eprintln!("run it again with:\n  cargo sim --seed {seed} --scenario {scenario} --notes");
            return Ok(ExitCode::FAILURE);
        }
    }
    eprintln!("{seeds} histories in {:.1} s, nothing found", began.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

type Seeds = Box<dyn Iterator<Item = (u64, Scenario)>>;

fn plan(args: &Args) -> Result<Seeds> {
    let scenario = args.scenario;
    if let Some(seed) = args.seed {
        return Ok(Box::new(std::iter::once((seed, scenario))));
    }
    let kept = if args.no_kept { Vec::new() } else { kept(KEPT)? };
    if let Some((first, end)) = args.seeds {
        return Ok(Box::new(kept.into_iter().chain((first..end).map(move |seed| (seed, scenario)))));
    }
    let new = std::iter::repeat_with(move || (u64::from(rand::random::<u32>()), scenario));
    Ok(Box::new(kept.into_iter().chain(new)))
}

/// `SEED SCENARIO` in each line, then what it found; `#` begins a comment.
fn kept(text: &str) -> Result<Vec<(u64, Scenario)>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let (Some(seed), Some(scenario)) = (words.next(), words.next()) else { bail!("seeds.txt: {line:?}") };
            let scenario = scenario.parse().map_err(anyhow::Error::msg)?;
            Ok((seed.parse().with_context(|| format!("seeds.txt: {line:?}"))?, scenario))
        })
        .collect()
}

/// Runs one seed. False when something was found.
fn run(args: &Args, seed: u64, scenario: Scenario) -> bool {
    let began = Instant::now();
    if args.model_only {
        return true;
    }
    let history = scenario::live(seed, scenario);
    let mut sound = tell(args, seed, scenario, &history, began.elapsed());
    if args.twice {
        let second = scenario::live(seed, scenario);
        if second.hash != history.hash {
            eprintln!("seed {seed} has two histories: {:016x} and {:016x}", history.hash, second.hash);
            let first = history.notes.iter().zip(&second.notes).find(|(a, b)| a != b);
            if let Some((a, b)) = first {
                eprintln!("  first difference:\n  {a}\n  {b}");
            }
            sound = false;
        }
    }
    sound
}

fn tell(args: &Args, seed: u64, scenario: Scenario, history: &History, took: Duration) -> bool {
    let sound = history.violations.is_empty();
    if args.notes {
        history.notes.iter().for_each(|note| eprintln!("{note}"));
    }
    eprintln!(
        "seed {seed} {scenario}: {:016x}, {:.0} s in {:.1} s, {} packets, {} requests, {} acknowledged{}",
        history.hash,
        history.length.as_secs_f64(),
        took.as_secs_f64(),
        history.pieces,
        history.requests,
        history.acknowledged,
        if sound { "" } else { ", FAILED" },
    );
    history.violations.iter().for_each(|violation| eprintln!("  {violation}"));
    sound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_seeds_are_read_and_the_file_is_sound() {
        assert_eq!(kept("# why\n\n7 blackout it lost a vote\n").unwrap(), [(7, Scenario::Blackout)]);
        assert!(kept("x random").is_err() && kept("7 none").is_err());
        kept(KEPT).unwrap();
    }

    #[test]
    fn a_range_of_seeds_is_read() {
        assert_eq!(range("3..9"), Ok((3, 9)));
        assert!(range("3").is_err() && range("a..b").is_err());
    }
}

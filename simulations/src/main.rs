//! `cargo sim`: runs seeds until one fails, and says how to run it again.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use hirsel_sim::model;
use hirsel_sim::scenario::{self, History, Scenario};
use hirsel_sim::trace::Trace;

/// Seeds that failed once. They run first, so that what was repaired stays so.
const KEPT: &str = include_str!("../seeds.txt");

/// `why` must name the true cause of at least so many percent of what moved because of a fault, once so many things moved.
const NAMED_PERCENT_MIN: u64 = 95;
const NAMED_OF_MIN: u64 = 20;

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
    /// What happens, to whole agents (random, calm, lossy, frozen, flapping, chained, blackout, years, full, slow, crowded, unguarded, sealed,
    /// stored, objects) or to the model; a name that only one of them knows runs only that one
    #[arg(long)]
    scenario: Option<String>,
    /// Only the model
    #[arg(long, conflicts_with = "agents_only")]
    model_only: bool,
    /// Only whole agents
    #[arg(long)]
    agents_only: bool,
    /// Print what happened
    #[arg(long)]
    notes: bool,
    /// Write every piece of whole agents' histories to FILE.1, and of the second run to FILE.2
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
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
    let play = Play::of(&args)?;
    let began = Instant::now();
    let limit = args.minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
    let (mut seeds, mut tally) = (0, Tally::default());
    for (seed, play) in plan(&args, play)? {
        if limit.is_some_and(|limit| began.elapsed() > limit) {
            break;
        }
        seeds += 1;
        if !run(&args, seed, &play, &mut tally)? {
            return Ok(ExitCode::FAILURE);
        }
    }
    if tally.histories > 0 {
        let Tally { promised, times, histories, .. } = tally;
        eprintln!(
            "an exclusive program acted by promises alone in {promised} of {histories} histories of the model, {times} times"
        );
    }
    let (right, wrong) = tally.named;
    if right + wrong > 0 {
        eprintln!("why named the true cause first for {right} of {} things that moved", right + wrong);
    }
    if right + wrong >= NAMED_OF_MIN && right * 100 < (right + wrong) * NAMED_PERCENT_MIN {
        eprintln!("that is less than {NAMED_PERCENT_MIN} %");
        return Ok(ExitCode::FAILURE);
    }
    eprintln!("{seeds} seeds in {:.1} s, nothing found", began.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

/// What is played of each seed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Play {
    /// The model, in the scenario named or the one that the seed picks.
    model: Option<Option<String>>,
    /// Whole agents.
    agents: Option<Scenario>,
}

impl Play {
    fn of(args: &Args) -> Result<Self> {
        let mut play = match &args.scenario {
            None => Self { model: Some(None), agents: Some(Scenario::Random) },
            Some(name) => {
                let agents = name.parse().ok();
                let model = model::SCENARIOS.contains(&name.as_str()).then(|| Some(name.clone()));
                if agents.is_none() && model.is_none() {
                    let agents = scenario::ALL.map(|(name, _)| name).join(", ");
                    bail!("no scenario {name:?}; whole agents: {agents}; the model: {}", model::SCENARIOS.join(", "));
                }
                Self { model, agents }
            }
        };
        if args.model_only {
            play.agents = None;
        }
        if args.agents_only {
            play.model = None;
        }
        if play.model.is_none() && play.agents.is_none() {
            bail!("nothing is left to play");
        }
        Ok(play)
    }
}

type Seeds = Box<dyn Iterator<Item = (u64, Play)>>;

fn plan(args: &Args, play: Play) -> Result<Seeds> {
    if let Some(seed) = args.seed {
        return Ok(Box::new(std::iter::once((seed, play))));
    }
    let kept = if args.no_kept { Vec::new() } else { kept(KEPT)? };
    let (model, agents) = (play.model.is_some(), play.agents.is_some());
    let kept =
        kept.into_iter().filter(move |(_, kept)| kept.agents.is_some() && agents || kept.model.is_some() && model);
    if let Some((first, end)) = args.seeds {
        return Ok(Box::new(kept.chain((first..end).map(move |seed| (seed, play.clone())))));
    }
    // Short enough to be typed.
    let new = std::iter::repeat_with(move || (u64::from(rand::random::<u32>()), play.clone()));
    Ok(Box::new(kept.chain(new)))
}

/// `SEED SCENARIO` in each line, then what it found; `#` begins a comment. A name that both know is one of whole agents.
fn kept(text: &str) -> Result<Vec<(u64, Play)>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let (Some(seed), Some(scenario)) = (words.next(), words.next()) else { bail!("seeds.txt: {line:?}") };
            let play = match scenario.parse() {
                Ok(agents) => Play { model: None, agents: Some(agents) },
                Err(_) if model::SCENARIOS.contains(&scenario) => {
                    Play { model: Some(Some(scenario.to_owned())), agents: None }
                }
                Err(error) => return Err(anyhow::Error::msg(error)),
            };
            Ok((seed.parse().with_context(|| format!("seeds.txt: {line:?}"))?, play))
        })
        .collect()
}

/// What is counted, so that nothing holds only because it was never tried.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// How often `why` named the true cause first, and how often not.
    named: (u64, u64),
    /// Histories of the model.
    histories: usize,
    /// Those in which a holder acted by promises alone, and how often.
    promised: usize,
    times: usize,
}

/// Runs one seed. False when something was found.
fn run(args: &Args, seed: u64, play: &Play, tally: &mut Tally) -> Result<bool> {
    let model = play.model.as_ref().is_none_or(|scenario| run_model(args, seed, scenario.as_deref(), tally));
    Ok(model && play.agents.map_or(Ok(true), |scenario| run_agents(args, seed, scenario, &mut tally.named))?)
}

fn run_model(args: &Args, seed: u64, scenario: Option<&str>, tally: &mut Tally) -> bool {
    let history = match model::run(seed, scenario) {
        Ok(history) => history,
        Err(failure) => {
            eprintln!("{failure}");
            return false;
        }
    };
    tally.histories += 1;
    tally.promised += usize::from(history.times_promised > 0);
    tally.times += history.times_promised;
    if args.notes {
        eprintln!("{}", history.text());
    }
    if args.seed.is_some() {
        eprintln!("seed {seed} model {}: {:016x}, {} lines", history.scenario, history.hash(), history.lines.len());
    }
    let twice = !args.twice || model::run(seed, scenario).is_ok_and(|second| second.hash() == history.hash());
    if !twice {
        eprintln!(
            "seed {seed} of the model has two histories\nrun it again with:\n  cargo sim --seed {seed} --model-only --twice"
        );
    }
    twice
}

fn run_agents(args: &Args, seed: u64, scenario: Scenario, named: &mut (u64, u64)) -> Result<bool> {
    let began = Instant::now();
    let history = scenario::live(seed, scenario, trace(args, 1)?);
    *named = (named.0 + history.named.0, named.1 + history.named.1);
    let mut sound = tell(args, seed, scenario, &history, began.elapsed());
    if args.twice {
        let second = scenario::live(seed, scenario, trace(args, 2)?);
        if second.hash != history.hash {
            eprintln!("seed {seed} has two histories: {:016x} and {:016x}", history.hash, second.hash);
            if let Some((a, b)) = history.notes.iter().zip(&second.notes).find(|(a, b)| a != b) {
                eprintln!("  first difference:\n  {a}\n  {b}");
            }
            sound = false;
        }
    }
    if !sound {
        let twice = if args.twice { " --twice" } else { "" };
        eprintln!("run it again with:\n  cargo sim --seed {seed} --scenario {scenario} --agents-only --notes{twice}");
    }
    Ok(sound)
}

fn trace(args: &Args, run: u8) -> Result<Trace> {
    let Some(path) = &args.trace else { return Ok(Trace::default()) };
    let path = path.with_extension(run.to_string());
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Trace::to_file(file))
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
        let agents = Play { model: None, agents: Some(Scenario::Blackout) };
        assert_eq!(kept("# why\n\n7 blackout it lost a vote\n").unwrap(), [(7, agents)]);
        let model = Play { model: Some(Some("refounded".into())), agents: None };
        assert_eq!(kept("7 refounded it gave up too few").unwrap(), [(7, model)]);
        assert!(kept("x random").is_err() && kept("7 none").is_err());
        kept(KEPT).unwrap();
    }

    #[test]
    fn a_range_of_seeds_is_read() {
        assert_eq!(range("3..9"), Ok((3, 9)));
        assert!(range("3").is_err() && range("a..b").is_err());
    }
}

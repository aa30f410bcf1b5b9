//! The model simulator: planner, verdicts, leases, reconciler and control state under faults drawn from a seed, without a network.
//!
//! Nodes gossip, ask for leases and follow the log at the level of facts; Raft is abstracted to entries that are committed or lost.
//! What decides is the production code of `hirsel-model`; what is played here is only what it is told. Checkers look after each
//! commit, at each step and after everything has healed. One seed is one history.

mod check;
mod directed;
mod foretold;
mod foundations;
mod grants;
mod host;
mod mistakes;
mod partings;
mod promises;
mod scenario;
mod world;

#[cfg(test)]
mod tests;

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

pub use scenario::SCENARIOS;

/// What happened in one run, line by line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct History {
    /// What it was drawn from.
    pub seed: u64,
    /// What was played.
    pub scenario: &'static str,
    /// How often a holder began to act on by promises alone.
    pub times_promised: usize,
    /// Faults, elections, commits and decisions, each with its time.
    pub lines: Vec<String>,
}

impl History {
    /// The same for the same history, in every process.
    pub fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        Hash::hash(self, &mut hasher);
        hasher.finish()
    }

    /// The whole history for people.
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }
}

/// A checker found something wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which one.
    pub checker: &'static str,
    /// What it found.
    pub message: String,
    /// What led there.
    pub history: History,
}

/// How much of a history a failure shows.
const SHOWN: usize = 40;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let History { seed, scenario, lines, .. } = &self.history;
        for line in &lines[lines.len().saturating_sub(SHOWN)..] {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "model {scenario}, seed {seed}: {}: {}", self.checker, self.message)?;
        write!(f, "again: cargo sim --seed {seed} --scenario {scenario}")
    }
}

impl std::error::Error for Failure {}

/// A mistake planted on purpose, to see that a checker finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), expect(dead_code, reason = "only tests plant mistakes"))]
pub(crate) enum Bug {
    /// None: what everybody but the tests runs.
    None,
    /// An election does not raise the term.
    SameTerm,
    /// A commit raises the generation twice.
    GenerationSkips,
    /// The planner finds something to change each time.
    Restless,
    /// The planner leaves an instance on a lost node.
    OnLostNode,
    /// The leader judges alone.
    JudgesAlone,
    /// A node that came back is trusted at once.
    NoHoldDown,
    /// A node counts as unheard as soon as messages of it are lost.
    Jumpy,
    /// Nodes go on running what the plan dropped.
    NeverStops,
    /// A leader grants without asking a majority whether it leads still, and so renews for ever what it granted before it was deposed.
    NoBarrier,
    /// A new leader does not wait for the grants of the one before it.
    NoWait,
    /// A holder counts a grant from when it was received.
    FromReceipt,
    /// A node says that an instance has ended as soon as it was asked to stop.
    Denies,
    /// Who says nothing counts as having let go.
    SilenceConfirms,
    /// A plan is adopted on top of another one than it was made for.
    StaleAdopt,
    /// The leader forgets what it granted.
    GrantsForgotten,
    /// A new leader grants by what was decided long before it was elected.
    Inherits,
    /// A node obeys the plan that its last grant was given by, though it follows a newer one.
    ObeysOldPlan,
    /// The clock of a host stands still while the host does.
    ClockStops,
    /// Who promised starts what it is granted all the same.
    PromiseBroken,
    /// A node that is started again does not mind that it may have promised something.
    PromiseForgotten,
    /// A node promises although it follows a plan that dropped the instance.
    PromisesDropped,
    /// A node promises as soon as it is started again.
    PromisesAtOnce,
    /// A promise prolongs what had run out.
    PromiseRevives,
    /// Of all instances that are to let go, the planner minds only the newest.
    NewestAlone,
    /// A holder counts a promise from when it was received.
    PromiseFromReceipt,
    /// A holder goes by a list of candidates that is older than its grant.
    OldList,
    /// A new list of candidates counts at once.
    ListUnacknowledged,
    /// A holder goes on once some candidate has promised.
    SomePromise,
    /// A leader takes a grant for all that lets an instance act on.
    PromisesUnknown,
    /// A leader whose agent was started again leads on without an election, as if it had never been away.
    Restored,
    /// Nodes that are given up are taken for off.
    LostTakenForOff,
    /// A new leader does not wait for a long grant that was given before it.
    LongUnknown,
    /// The start of an agent that asked for a long grant is taken for a later one.
    LongSameStart,
    /// An agent that is back is taken for having told guard and shim.
    LongUntold,
}

/// Plays the history of `seed`. Without a scenario the seed picks one. An unknown scenario is a failure of its own.
pub fn run(seed: u64, scenario: Option<&str>) -> Result<History, Failure> {
    play(seed, scenario, Bug::None)
}

fn play(seed: u64, scenario: Option<&str>, bug: Bug) -> Result<History, Failure> {
    let Some(scenario) = scenario::pick(seed, scenario) else {
        let message = format!("no scenario {:?}; there are {}", scenario.unwrap_or_default(), SCENARIOS.join(", "));
        let history = History { seed, scenario: "none", times_promised: 0, lines: Vec::new() };
        return Err(Failure { checker: "scenario", message, history });
    };
    let mut world = world::World::new(seed, bug, scenario::shape(scenario));
    let result = scenario::play(&mut world, scenario);
    told(seed, scenario, world, result)
}

fn told(
    seed: u64,
    scenario: &'static str,
    world: world::World,
    result: Result<(), check::Found>,
) -> Result<History, Failure> {
    let history = History { seed, scenario, times_promised: world.times_promised, lines: world.lines };
    match result {
        Ok(()) => Ok(history),
        Err(found) => Err(Failure { checker: found.checker, message: found.message, history }),
    }
}

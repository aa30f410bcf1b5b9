//! What happens to a cluster in a simulation. Every scenario forms a cluster, breaks it (safety must hold), mends it, and then gives
//! it a bound to be well again (liveness).

use std::fmt;
use std::str::FromStr;
use std::sync::Once;
use std::time::Duration;

use anyhow::Result;
use hirsel_model::RoleName;
use hirsel_model::control::Command;
use hirsel_model::spec::Availability;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use crate::bug::Bug;
use crate::chance::stream;
use crate::check::{Rule, Violation};
use crate::client::HOST_NAME;
use crate::node::Deed;
use crate::trace::{Note, Trace};
use crate::world::{Power, Trouble, World};

mod losses;
mod objects;
mod sealed;
mod wear;

/// Founding, joining, and the first instances.
const FORM_WITHIN: Duration = Duration::from_secs(40);
/// After heal everything holds within this. The longest wait of a healthy cluster is the hold-down of a node that came and went; a
/// few faults in a row double it.
const HEAL_WITHIN: Duration = Duration::from_secs(90);
/// After heal exclusive services act again within this, wherever they are.
const HELD_WITHIN: Duration = Duration::from_secs(10);
/// A wish that nobody took is asked for again after so long.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// A node is lost, or all were off: work is elsewhere, or back, within this.
const REPLACE_WITHIN: Duration = Duration::from_secs(20);
/// A cluster that is well comes to rest within this: spares catch up, hold-downs end.
const REST_WITHIN: Duration = Duration::from_secs(60);
/// At rest it decides nothing for so long.
const STILL_FOR: Duration = Duration::from_secs(8);
/// How long random faults go on.
const FAULTS_FOR: Duration = Duration::from_secs(45);
/// Enough for an election, a verdict, and answers through an lb.
const WARM_UP: Duration = Duration::from_secs(12);
/// Longer than a third of a certificate's life.
const DAYS_12: Duration = Duration::from_secs(12 * 86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);
/// Agents look at the age of their certificates every minute.
const RENEW_WITHIN: Duration = Duration::from_secs(120);
/// How long a disk is full or slow.
const DISK_FOR: Duration = Duration::from_secs(30);
/// What a slow disk takes for a piece of durable work: longer than an election.
const SLOW: Duration = Duration::from_millis(600);
/// Longest pause of a client between two uses of registers, while faults go on and in a crowd.
const REGISTERS_PAUSE: Duration = Duration::from_millis(1_500);
const CROWD_PAUSE: Duration = Duration::from_millis(60);
/// How long a crowd goes on.
const CROWD_FOR: Duration = Duration::from_secs(10);
const MINUTES_10: Duration = Duration::from_secs(600);

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Faults drawn from the seed.
    Random,
    /// Nothing.
    Calm,
    /// One node loses 30 % of its datagrams for ten minutes.
    Lossy,
    /// One node stands still for three seconds.
    Frozen,
    /// One node loses and gets power every five seconds for ten minutes.
    Flapping,
    /// The leader, then a worker, then the new leader lose power; then all come back in reverse order.
    Chained,
    /// All nodes lose power and come back in any order.
    Blackout,
    /// Months in leaps, then a year without power: certificates are renewed, and expired ones hold nobody up.
    Years,
    /// The disk of one node takes nothing more for a while.
    Full,
    /// The disk of one node takes a while for everything.
    Slow,
    /// Nothing is wrong, and many use the same registers at once.
    Crowded,
    /// The guard of the host that holds the exclusive duty answers nobody for a while.
    Unguarded,
    /// Another sealing key again and again, while those who hold it lose power.
    Sealed,
    /// Nothing is wrong, and many use the same objects at once.
    Stored,
    /// Many use the same objects, under faults of everything, disks among it.
    Objects,
}

/// Every scenario, with its name.
pub const ALL: [(&str, Scenario); 15] = [
    ("random", Scenario::Random),
    ("calm", Scenario::Calm),
    ("lossy", Scenario::Lossy),
    ("frozen", Scenario::Frozen),
    ("flapping", Scenario::Flapping),
    ("chained", Scenario::Chained),
    ("blackout", Scenario::Blackout),
    ("years", Scenario::Years),
    ("full", Scenario::Full),
    ("slow", Scenario::Slow),
    ("crowded", Scenario::Crowded),
    ("unguarded", Scenario::Unguarded),
    ("sealed", Scenario::Sealed),
    ("stored", Scenario::Stored),
    ("objects", Scenario::Objects),
];

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(ALL.iter().find(|(_, scenario)| scenario == self).map_or("?", |(name, _)| name))
    }
}

impl FromStr for Scenario {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let names = ALL.map(|(name, _)| name).join(", ");
        let found = ALL.iter().find(|(name, _)| *name == text);
        found.map(|(_, scenario)| *scenario).ok_or(format!("no scenario {text:?}; there are: {names}"))
    }
}

/// What became of one seed.
#[derive(Clone, Debug)]
pub struct History {
    /// Of everything that happened.
    pub hash: u64,
    /// Datagrams and pieces of streams.
    pub pieces: u64,
    /// Bytes of entropy drawn: the first thing to compare when two histories differ.
    pub drawn: u64,
    /// For people.
    pub notes: Vec<Note>,
    /// What was found.
    pub violations: Vec<Violation>,
    /// How long it took in virtual time.
    pub length: Duration,
    /// Answers that were owed.
    pub requests: u64,
    /// Commands that were acknowledged.
    pub acknowledged: usize,
    /// Of how many things that moved because of a fault `why` named that fault first, and of how many it did not.
    pub named: (u64, u64),
}

/// Libraries build some things once per process, hash maps among them, and each hash map changes the keys of the next one on its
/// thread. A first simulation that nobody looks at builds them all, so that a first history equals a second one.
fn warm_up() {
    static DONE: Once = Once::new();
    DONE.call_once(|| {
        let _ = crate::entropy::with_seed(0, || {
            let mut world = World::new(0, 3, Trace::default(), Bug::None);
            let mut play = Play::new(0, &mut world);
            let _ = play.form().and_then(|()| {
                play.world.set(0, |trouble| trouble.power = Power::Off);
                play.world.pass(WARM_UP)
            });
            finish(world);
        });
    });
}

/// Lives through `scenario` with `seed`, on a thread with that seed's entropy. A panic anywhere is a violation.
pub fn live(seed: u64, scenario: Scenario, trace: Trace) -> History {
    live_with(seed, scenario, trace, Bug::None)
}

/// As [`live`], with a mistake planted.
pub fn live_with(seed: u64, scenario: Scenario, trace: Trace, bug: Bug) -> History {
    warm_up();
    let seen = trace.clone();
    let history = crate::entropy::with_seed(seed, move || {
        let mut world = World::new(seed, nodes_for(seed, scenario), trace, bug);
        if let Err(error) = Play::new(seed, &mut world).run(scenario) {
            world.require(Rule::Alive, Err(format!("{error:#}")));
        }
        finish(world)
    });
    history.unwrap_or_else(|message| {
        let (hash, pieces, notes) = seen.finish();
        let length = notes.last().map_or(Duration::ZERO, |note| note.at);
        let violations = vec![Violation { rule: Rule::Alive, at: length, message }];
        History { hash, pieces, drawn: 0, notes, violations, length, requests: 0, acknowledged: 0, named: (0, 0) }
    })
}

fn finish(world: World) -> History {
    let (hash, pieces, notes) = world.trace().finish();
    let (drawn, length) = (crate::entropy::drawn(), world.now());
    let history = {
        let oracle = world.oracle();
        let (violations, requests) = (oracle.violations().to_vec(), oracle.requests);
        let (acknowledged, named) = (oracle.acknowledgements(), world.named());
        History { hash, pieces, drawn, notes, violations, length, requests, acknowledged, named }
    };
    crate::panics::forgive();
    // Some destructors of a half-broken simulation panic; the history is complete before they run.
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(world)));
    history
}

/// Mostly five; three every fourth seed, because quorums of two break differently. Shards of 4+2 are on six nodes, and one may be over.
fn nodes_for(seed: u64, scenario: Scenario) -> usize {
    match scenario {
        Scenario::Random if seed.is_multiple_of(4) => 3,
        Scenario::Objects if seed.is_multiple_of(3) => 7,
        Scenario::Objects | Scenario::Stored => 6,
        _ => 5,
    }
}

struct Play<'a> {
    world: &'a mut World,
    rng: SmallRng,
}

impl<'a> Play<'a> {
    fn new(seed: u64, world: &'a mut World) -> Self {
        Self { world, rng: stream(seed, "scenario") }
    }

    fn run(&mut self, scenario: Scenario) -> Result<()> {
        self.form()?;
        match scenario {
            Scenario::Random => self.random()?,
            Scenario::Calm => {}
            Scenario::Lossy => self.lossy()?,
            Scenario::Frozen => self.frozen()?,
            Scenario::Flapping => self.flapping()?,
            Scenario::Chained => self.chained()?,
            Scenario::Blackout => self.blackout()?,
            Scenario::Years => self.years()?,
            Scenario::Full => self.disk(|trouble| trouble.full = true)?,
            Scenario::Slow => self.disk(|trouble| trouble.slow = SLOW)?,
            Scenario::Crowded => self.crowded()?,
            Scenario::Unguarded => self.unguarded()?,
            Scenario::Sealed => self.sealed()?,
            Scenario::Stored => self.stored()?,
            Scenario::Objects => self.objects()?,
        }
        self.world.note("heals");
        self.world.heal();
        self.open()?;
        let held = self.world.until(HELD_WITHIN, World::is_held)?;
        let held = held.map(drop).map_err(|missing| format!("after heal, not within {HELD_WITHIN:?}: {missing}"));
        self.world.require(Rule::Healed, held);
        self.be_well(Rule::Healed, HEAL_WITHIN, "after heal")?;
        self.world.judge_registers()?;
        if matches!(scenario, Scenario::Stored | Scenario::Objects) {
            self.world.judge_objects()?;
        }
        self.be_still(STILL_FOR)
    }

    fn form(&mut self) -> Result<()> {
        let count = self.world.nodes.len();
        let joined = self.world.until(FORM_WITHIN, |world| {
            let nodes = world.newest().map_or(0, |state| state.spec.nodes.len());
            if nodes == count { Ok(()) } else { Err(format!("{nodes} of {count} nodes joined")) }
        })?;
        self.world.require(Rule::Healed, joined.map(drop));
        let sample = self.sample();
        self.world.nodes[0].ask(Deed::Change(sample));
        self.world
            .until(FORM_WITHIN, |world| {
                let applied = world.newest().is_some_and(|state| !state.spec.apps.is_empty());
                if applied { Ok(()) } else { Err("the application was not applied".into()) }
            })?
            .map(drop)
            .unwrap_or_else(|message| self.world.require(Rule::Healed, Err(message)));
        self.be_well(Rule::Healed, FORM_WITHIN, "at first")
    }

    /// What was drained is opened.
    fn open(&mut self) -> Result<()> {
        let closed = |world: &World| {
            let spec = world.newest().map(|state| state.spec.clone()).unwrap_or_default();
            spec.nodes.iter().find(|(_, node)| node.availability != Availability::Open).map(|(id, _)| *id)
        };
        let ends = self.world.now() + REST_WITHIN;
        while let Some(node) = closed(self.world).filter(|_| self.world.now() < ends) {
            self.world.change(Command::SetAvailability { node, availability: Availability::Open });
            let opened = |world: &World| if closed(world) == Some(node) { Err(String::new()) } else { Ok(()) };
            let _ = self.world.until(ASK_AGAIN, opened)?;
        }
        Ok(())
    }

    fn sample(&mut self) -> Command {
        let (start, stop) = (self.rng.random_range(50..400), self.rng.random_range(10..200));
        // Some programs have to be killed.
        let stop_one = match self.rng.random_range(0..4) {
            0 => "never".to_string(),
            _ => self.rng.random_range(10..1_500).to_string(),
        };
        let text = format!(
            "app = \"shop\"\n[service.web]\ncommand = [\"sim-web\", \"start={start}\", \"stop={stop}\"]\nreplicas = 3\n\
             health = {{ http = \"/healthz\", interval = \"1s\" }}\n\
             [service.one]\ncommand = [\"sim-web\", \"start={start}\", \"stop={stop_one}\"]\nexclusive = true\n\
             stop = {{ grace = \"2s\" }}\n[route.\"{HOST_NAME}\"]\nto = \"web\"\n"
        );
        let built = [RoleName::lb(), RoleName::compute(), RoleName::mgmt()];
        let (app, spec) = hirsel_model::manifest::parse(&text, &built).expect("the sample is a sound manifest");
        Command::ApplyApp { app, spec }
    }

    /// The cluster is well within `limit`.
    fn be_well(&mut self, rule: Rule, limit: Duration, when: &str) -> Result<()> {
        match self.world.until(limit, World::is_well)? {
            Ok(took) => self.world.note(format!("well {when} within {:.1} s", took.as_secs_f64())),
            Err(missing) => {
                let message = format!("{when}, not within {} s: {missing}", limit.as_secs());
                self.world.require(rule, Err(message));
            }
        }
        Ok(())
    }

    /// The cluster comes to rest: for `length` it decides nothing, and is well at the end.
    fn be_still(&mut self, length: Duration) -> Result<()> {
        let generation = |world: &World| world.newest().map(|state| state.plan.generation);
        let mut last = (generation(self.world), self.world.now());
        let rested = self.world.until(REST_WITHIN + length, |world| {
            let now = generation(world);
            if now != last.0 {
                last = (now, world.now());
            }
            if world.now() - last.1 >= length {
                Ok(())
            } else {
                Err(format!("the plan went on to {now:?} with nothing to do"))
            }
        })?;
        self.world.require(Rule::Still, rested.map(drop));
        self.world.require(Rule::Declared, self.world.is_well());
        Ok(())
    }

    /// Some node; mostly the leader, or the one where an exclusive instance acts.
    fn victim(&mut self) -> usize {
        let any = self.rng.random_range(0..self.world.nodes.len());
        match self.rng.random_range(0..3) {
            0 => self.world.leader().unwrap_or(any),
            1 => self.world.holder().unwrap_or(any),
            _ => any,
        }
    }

    fn random(&mut self) -> Result<()> {
        let count = self.world.nodes.len();
        // One seed in eight takes the quorum away: only safety and what follows heal are asked for then.
        let most = if self.rng.random_bool(0.125) { count } else { (count - 1) / 2 };
        let ends = self.world.now() + FAULTS_FOR;
        let mut next = self.world.now();
        let mut mends = vec![None; count];
        while self.world.now() < ends {
            self.world.pass(Duration::from_millis(50))?;
            if self.rng.random_bool(0.07) {
                self.world.mark();
            }
            self.world.use_registers(REGISTERS_PAUSE);
            let now = self.world.now();
            for (index, mend) in mends.iter_mut().enumerate() {
                if mend.is_some_and(|at| at <= now) {
                    *mend = None;
                    self.world.set(index, |trouble| *trouble = Trouble::default());
                }
            }
            if now < next {
                continue;
            }
            next = now + Duration::from_millis(self.rng.random_range(300..8_000));
            let index = self.victim();
            let busy = mends.iter().filter(|mend| mend.is_some()).count();
            if mends[index].is_some() || busy >= most {
                match self.rng.random_range(0..4) {
                    0 | 1 => self.kill_an_instance(),
                    _ => self.wish(),
                }
                continue;
            }
            mends[index] = Some(now + Duration::from_millis(self.rng.random_range(200..12_000)));
            let fault = self.fault(now);
            self.world.set(index, |trouble| *trouble = fault);
        }
        Ok(())
    }

    fn fault(&mut self, now: Duration) -> Trouble {
        let sound = Trouble::default();
        match self.rng.random_range(0..11) {
            0 => Trouble { power: Power::Killed(now), ..sound },
            1 => Trouble { power: Power::Off, ..sound },
            2 | 3 => Trouble { power: Power::Doomed, ..sound },
            4 => Trouble { cut: true, ..sound },
            5 => Trouble { mute: true, ..sound },
            6 => Trouble { frozen: true, ..sound },
            7 => Trouble { full: true, ..sound },
            8 => Trouble { deaf: true, ..sound },
            9 => Trouble { slow: Duration::from_millis(self.rng.random_range(20..800)), ..sound },
            _ => Trouble { loss: self.rng.random_range(0.1..0.6), ..sound },
        }
    }

    /// What an operator may do, with trouble or without.
    fn wish(&mut self) {
        let Some(state) = self.world.newest() else { return };
        let Some((app, _)) = state.spec.apps.first_key_value() else { return };
        let holder = state.plan.instances.values().find(|assigned| assigned.exclusive).map(|assigned| assigned.node);
        let any = state.spec.nodes.keys().nth(self.rng.random_range(0..state.spec.nodes.len())).copied();
        let node = if self.rng.random_bool(0.5) { holder.or(any) } else { any };
        let Some(node) = node else { return };
        let closed = state.spec.nodes.iter().find(|(_, spec)| spec.availability != Availability::Open);
        self.world.change(match (self.rng.random_range(0..3), closed) {
            (0, _) => Command::Restart { app: app.clone(), service: None },
            // One at a time, so that there is always a place for everything.
            (_, Some((node, _))) => Command::SetAvailability { node: *node, availability: Availability::Open },
            (_, None) => Command::SetAvailability { node, availability: Availability::Draining },
        });
    }

    fn crowded(&mut self) -> Result<()> {
        let ends = self.world.now() + CROWD_FOR;
        while self.world.now() < ends {
            self.world.pass(Duration::from_millis(5))?;
            self.world.use_registers(CROWD_PAUSE);
        }
        Ok(())
    }

    fn kill_an_instance(&mut self) {
        let node = &self.world.nodes[self.rng.random_range(0..self.world.nodes.len())];
        let running: Vec<_> = node.machine.running(self.world.now()).into_keys().collect();
        if let Some(id) = running.choose(&mut self.rng) {
            self.world.note(format!("{id} on {} is killed", node.name));
            node.machine.kill(id, 9);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which checkers speak when `bug` is planted.
    fn found(bug: Bug, scenario: Scenario) -> Vec<Violation> {
        live_with(1, scenario, Trace::default(), bug).violations
    }

    fn is_found(bug: Bug, scenario: Scenario, rule: Rule, says: &str) {
        let violations = found(bug, scenario);
        let fires = violations.iter().any(|violation| violation.rule == rule && violation.message.contains(says));
        assert!(fires, "{bug:?} in {scenario}: {violations:?}");
        // And nothing is found where nothing is planted.
        let sound = found(Bug::None, scenario);
        assert!(sound.is_empty(), "{scenario}: {sound:?}");
    }

    #[test]
    fn agents_that_forget_their_instances_are_found() {
        is_found(Bug::Forgetful, Scenario::Blackout, Rule::Healed, "after all had been off, not within");
    }

    #[test]
    fn a_cluster_that_never_rests_is_found() {
        is_found(Bug::Restless, Scenario::Calm, Rule::Still, "with nothing to do");
    }

    #[test]
    fn a_judged_bystander_is_found() {
        is_found(Bug::Contagious, Scenario::Frozen, Rule::Judged, "is judged");
    }

    #[test]
    fn a_stale_read_that_is_called_fresh_is_found() {
        is_found(Bug::Stale, Scenario::Crowded, Rule::Linear, "has no order");
    }

    #[test]
    fn a_write_that_is_confirmed_and_lost_is_found() {
        is_found(Bug::Loses, Scenario::Crowded, Rule::Linear, "has no order");
    }

    #[test]
    fn an_object_that_is_confirmed_and_lost_is_found() {
        is_found(Bug::Unkept, Scenario::Stored, Rule::Linear, "has no order");
    }

    #[test]
    fn pieces_that_are_not_what_was_written_are_counted() {
        let violations = found(Bug::Rots, Scenario::Stored);
        let fires = violations.iter().any(|it| it.rule == Rule::Objects && it.message.contains(" lacks "));
        assert!(fires, "{violations:?}");
    }

    #[test]
    fn an_agent_that_ends_by_itself_is_found() {
        is_found(Bug::Ends, Scenario::Calm, Rule::Alive, "n2 stopped");
    }
}

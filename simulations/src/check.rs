//! What must hold: the oracle sees everything from outside and is never asked by an agent.
//!
//! Safety is checked with every observation. What must hold after heal is asked for by the world, which gives it a bound.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::time::Duration;

use hirsel_model::control::ControlState;
use hirsel_model::{AppName, Generation, InstanceId, LogIndex, ServiceName, codec};

/// More violations than this say nothing new.
const VIOLATIONS_MAX: usize = 20;

/// Which checker spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A term has one leader.
    OneLeader,
    /// Generations rise by one, and each is one plan.
    Generations,
    /// Applied states are equal at equal index, and no node goes backwards.
    EqualStates,
    /// What was acknowledged is there for ever.
    Acknowledged,
    /// A node runs what the plan lists for it, nothing else and nothing less.
    Declared,
    /// An idempotent request through a live lb gets its answer.
    Requests,
    /// The cluster forms, and heals within its bound.
    Healed,
    /// A stable cluster decides nothing.
    Still,
    /// Nobody is judged, and nothing moves, without a reason.
    Judged,
    /// Of an exclusive service one instance acts at most, and each that begins has a higher fence than any before.
    NeverTwo,
    /// What clients were told of registers is what one copy would have answered.
    Linear,
    /// Of every object there is, at last, every piece where it should be, whole; and nothing else.
    Objects,
    /// Certificates are renewed long before they end.
    Renewed,
    /// What is sealed can be opened by somebody at every moment, and by all who should when it is calm.
    Opens,
    /// No agent panics or ends by itself.
    Alive,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which checker spoke.
    pub rule: Rule,
    /// True time.
    pub at: Duration,
    /// In words.
    pub message: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>9.3} {:?}: {}", self.at.as_secs_f64(), self.rule, self.message)
    }
}

/// Sees everything.
#[derive(Debug, Default)]
pub struct Oracle {
    leaders: BTreeMap<u64, String>,
    states: BTreeMap<LogIndex, (u64, String)>,
    plans: BTreeMap<Generation, (u64, String)>,
    seen: BTreeMap<String, (LogIndex, Generation)>,
    acked: BTreeMap<LogIndex, String>,
    register: Register,
    violations: Vec<Violation>,
    /// Requests whose answer was owed.
    pub requests: u64,
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

impl Oracle {
    /// Notes that a rule was broken.
    pub fn violated(&mut self, rule: Rule, at: Duration, message: impl Into<String>) {
        let message = message.into();
        let known = self.violations.iter().any(|known| known.rule == rule && known.message == message);
        if !known && self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation { rule, at, message });
        }
    }

    /// What was found so far.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// `node` acts as the leader of `term`.
    pub fn leads(&mut self, at: Duration, term: u64, node: &str) {
        let first = self.leaders.entry(term).or_insert_with(|| node.into()).clone();
        if first != node {
            self.violated(Rule::OneLeader, at, format!("term {term} has two leaders: {first} and {node}"));
        }
    }

    /// The newest term and its leader.
    pub fn leader(&self) -> Option<(u64, &str)> {
        self.leaders.last_key_value().map(|(term, node)| (*term, node.as_str()))
    }

    /// A new life of `node` begins, perhaps from an older state.
    pub fn restarted(&mut self, node: &str) {
        self.seen.remove(node);
    }

    /// `node` was told that the token `marker` is in the control state, at `index`.
    pub fn acknowledged(&mut self, index: LogIndex, marker: &str) {
        self.acked.insert(index, marker.into());
    }

    /// How many commands were acknowledged.
    pub fn acknowledgements(&self) -> usize {
        self.acked.len()
    }

    /// `node` has this state.
    pub fn applied(&mut self, at: Duration, node: &str, state: &ControlState) {
        let (index, generation) = (state.applied, state.plan.generation);
        let (state_digest, plan_digest) = (digest(&codec::encode(state)), digest(&codec::encode(&state.plan)));
        let (first, by) = self.states.entry(index).or_insert_with(|| (state_digest, node.into())).clone();
        if first != state_digest {
            self.violated(Rule::EqualStates, at, format!("{node} and {by} differ at index {index}"));
        }
        let (first, by) = self.plans.entry(generation).or_insert_with(|| (plan_digest, node.into())).clone();
        if first != plan_digest {
            self.violated(Rule::Generations, at, format!("{node} and {by} have different plans {generation}"));
        }
        if let Some((last_index, last_generation)) = self.seen.insert(node.into(), (index, generation)) {
            if index < last_index {
                self.violated(Rule::EqualStates, at, format!("{node} went back from index {last_index} to {index}"));
            }
            // An entry raises the generation by one at most, and entries may be applied many at a time.
            let (entries, rises) =
                (index.0.saturating_sub(last_index.0), generation.0.saturating_sub(last_generation.0));
            if generation < last_generation || rises > entries {
                let message =
                    format!("{node} went from plan {last_generation} to {generation} within {entries} entries");
                self.violated(Rule::Generations, at, message);
            }
        }
        let lost: Vec<String> = self
            .acked
            .range(..=index)
            .filter(|(_, marker)| !state.tokens.contains_key(*marker))
            .map(|(acked, marker)| format!("{node} at index {index} lacks {marker}, acknowledged at {acked}"))
            .collect();
        for message in lost {
            self.violated(Rule::Acknowledged, at, message);
        }
    }

    /// `actor` acts now, on whatever every process of its service acts on.
    pub fn acts(&mut self, at: Duration, actor: Actor) {
        if let Err(message) = self.register.write(at, actor) {
            self.violated(Rule::NeverTwo, at, message);
        }
    }

    /// How many processes of exclusive services acted, one after the other.
    pub fn actors(&self) -> usize {
        self.register.actors
    }

    /// The answer to an idempotent request through an lb that was live all the time.
    pub fn answered(&mut self, at: Duration, node: &str, answer: Result<(), String>) {
        self.requests += 1;
        if let Err(error) = answer {
            self.violated(Rule::Requests, at, format!("request through {node} failed: {error}"));
        }
    }
}

/// A process of an exclusive service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Where it runs.
    pub node: String,
    /// Its instance.
    pub id: InstanceId,
    /// Its process.
    pub pid: u32,
    /// What it was given to show to whatever it acts on.
    pub fence: u64,
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { node, id, pid, fence } = self;
        write!(f, "{id} on {node} (process {pid}, fence {fence})")
    }
}

/// What exclusive services act on: it knows who acted last, and lets nobody act whose fence is lower.
#[derive(Debug, Default)]
pub(crate) struct Register {
    last: BTreeMap<(AppName, ServiceName), (Duration, Actor)>,
    actors: usize,
}

impl Register {
    /// Lets `actor` act, or says why it must not.
    pub(crate) fn write(&mut self, at: Duration, actor: Actor) -> Result<(), String> {
        let service = (actor.id.app.clone(), actor.id.service.clone());
        let before = self.last.insert(service, (at, actor.clone()));
        let Some((acted_at, last)) = before else {
            self.actors = 1;
            return Ok(());
        };
        if last == actor {
            return Ok(());
        }
        self.actors += 1;
        if acted_at == at {
            Err(format!("{last} and {actor} act at once"))
        } else if last.fence >= actor.fence {
            Err(format!("{actor} acts after {last}"))
        } else {
            Ok(())
        }
    }
}

/// What a node runs against what the plan lists for it; none when they are equal.
pub fn undeclared(node: &str, running: &BTreeSet<InstanceId>, listed: &BTreeSet<InstanceId>) -> Option<String> {
    let names =
        |ids: &mut dyn Iterator<Item = &InstanceId>| ids.map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let stray = names(&mut running.difference(listed));
    let missing = names(&mut listed.difference(running));
    match (stray.is_empty(), missing.is_empty()) {
        (true, true) => None,
        (false, true) => Some(format!("{node} runs what the plan does not list: {stray}")),
        (true, false) => Some(format!("{node} does not run what the plan lists: {missing}")),
        (false, false) => Some(format!("{node} runs {stray} instead of {missing}")),
    }
}

#[cfg(test)]
mod tests {
    use hirsel_model::WallTime;
    use hirsel_model::control::{TokenGrants, TokenRecord};

    use super::*;

    const AT: Duration = Duration::ZERO;

    fn state(index: u64, generation: u64) -> ControlState {
        let mut state = ControlState { applied: LogIndex(index), ..ControlState::default() };
        state.plan.generation = Generation(generation);
        state
    }

    fn rules(oracle: &Oracle) -> Vec<Rule> {
        oracle.violations().iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn a_sound_history_breaks_no_rule() {
        let mut oracle = Oracle::default();
        oracle.leads(AT, 1, "n1");
        oracle.leads(AT, 1, "n1");
        oracle.leads(AT, 2, "n2");
        for node in ["n1", "n2"] {
            oracle.applied(AT, node, &state(3, 1));
            oracle.applied(AT, node, &state(5, 3));
        }
        oracle.answered(AT, "n1", Ok(()));
        assert!(oracle.violations().is_empty(), "{:?}", oracle.violations());
        assert_eq!(oracle.leader(), Some((2, "n2")));
    }

    #[test]
    fn a_second_leader_of_a_term_is_found() {
        let mut oracle = Oracle::default();
        oracle.leads(AT, 4, "n1");
        oracle.leads(AT, 4, "n2");
        assert_eq!(rules(&oracle), [Rule::OneLeader]);
    }

    #[test]
    fn a_generation_that_skips_goes_back_or_is_two_plans_is_found() {
        let mut oracle = Oracle::default();
        oracle.applied(AT, "n1", &state(3, 1));
        oracle.applied(AT, "n1", &state(4, 3));
        assert_eq!(rules(&oracle), [Rule::Generations], "skipped");

        let mut oracle = Oracle::default();
        oracle.applied(AT, "n1", &state(3, 2));
        oracle.applied(AT, "n1", &state(4, 1));
        assert_eq!(rules(&oracle), [Rule::Generations], "went back");

        let mut oracle = Oracle::default();
        let mut other = state(4, 1);
        other.plan.brake = true;
        oracle.applied(AT, "n1", &state(3, 1));
        oracle.applied(AT, "n2", &other);
        assert_eq!(rules(&oracle), [Rule::Generations], "two plans");
    }

    #[test]
    fn states_that_differ_at_an_index_are_found() {
        let mut oracle = Oracle::default();
        let mut other = state(3, 1);
        other.spec_index = LogIndex(2);
        oracle.applied(AT, "n1", &state(3, 1));
        oracle.applied(AT, "n2", &other);
        assert_eq!(rules(&oracle), [Rule::EqualStates]);
    }

    #[test]
    fn a_node_that_goes_back_within_a_life_is_found() {
        let mut oracle = Oracle::default();
        oracle.applied(AT, "n1", &state(3, 1));
        oracle.restarted("n1");
        oracle.applied(AT, "n1", &state(2, 1));
        assert!(oracle.violations().is_empty());
        oracle.applied(AT, "n1", &state(1, 1));
        assert_eq!(rules(&oracle), [Rule::EqualStates]);
    }

    #[test]
    fn a_lost_acknowledged_command_is_found() {
        let mut oracle = Oracle::default();
        let record = TokenRecord {
            secret_hash: Vec::new(),
            grants: TokenGrants::Join,
            expires_at: WallTime(0),
            uses_left: None,
            revoked: false,
        };
        let mut kept = state(3, 1);
        kept.tokens.insert("mark-1".into(), record);
        oracle.acknowledged(LogIndex(3), "mark-1");
        oracle.applied(AT, "n1", &state(2, 1));
        oracle.applied(AT, "n1", &kept);
        assert!(oracle.violations().is_empty());
        oracle.applied(AT, "n2", &state(4, 1));
        assert_eq!(rules(&oracle), [Rule::Acknowledged]);
    }

    #[test]
    fn two_at_once_and_a_fence_that_does_not_rise_are_found() {
        let actor = |node: &str, pid, fence| {
            let id: InstanceId = format!("shop/one/{pid}").parse().unwrap();
            Actor { node: node.into(), id, pid, fence }
        };
        let at = Duration::from_millis;
        let play = |acts: &[(u64, Actor)]| {
            let mut oracle = Oracle::default();
            acts.iter().for_each(|(ms, actor)| oracle.acts(at(*ms), actor.clone()));
            rules(&oracle)
        };
        let (one, two) = (actor("n1", 1, 5), actor("n2", 2, 6));
        assert_eq!(play(&[(0, one.clone()), (5, one.clone()), (10, two.clone()), (15, two.clone())]), []);
        assert_eq!(play(&[(0, one.clone()), (5, one.clone()), (5, two.clone())]), [Rule::NeverTwo], "at once");
        assert_eq!(play(&[(0, two.clone()), (5, one.clone())]), [Rule::NeverTwo], "fell");
        let again = Actor { pid: 9, ..one.clone() };
        assert_eq!(play(&[(0, one), (5, again)]), [Rule::NeverTwo], "a second start with the fence of the first");
        assert!(two.to_string().contains("fence 6"));
    }

    #[test]
    fn a_failed_request_is_found() {
        let mut oracle = Oracle::default();
        oracle.answered(AT, "n1", Err("status 502".into()));
        assert_eq!(rules(&oracle), [Rule::Requests]);
    }

    #[test]
    fn what_runs_undeclared_is_named() {
        let ids = |numbers: &[u64]| numbers.iter().map(|n| format!("shop/web/{n}").parse().unwrap()).collect();
        assert_eq!(undeclared("n1", &ids(&[1, 2]), &ids(&[1, 2])), None);
        assert!(undeclared("n1", &ids(&[1, 3]), &ids(&[1])).unwrap().contains("does not list: shop/web/3"));
        assert!(undeclared("n1", &ids(&[1]), &ids(&[1, 2])).unwrap().contains("does not run what the plan lists"));
        assert!(undeclared("n1", &ids(&[1]), &ids(&[2])).unwrap().contains("instead of"));
    }
}

//! Whether a history of concurrent operations on registers is linearizable: whether each operation could have happened at one moment
//! between its call and its return, so that every answer is the one that a single copy would have given.
//!
//! The search is that of Wing and Gong with the memory of Lowe: take a minimal operation, look whether its answer fits, go on, go back;
//! a set of operations done, with the value they led to, is looked at once. A history is linearizable if that of each key is
//! (P-compositionality), which keeps the sets small. An operation without a return may have happened at any time after its call, or
//! never; one whose value nobody ever saw cannot matter and is left out. (Where somebody was refused because of what a register held,
//! it can.)
//!
//! Sources: J. Wing, C. Gong, "Testing and Verifying Concurrent Objects", J. Parallel Distrib. Comput. 17 (1993); G. Lowe, "Testing for
//! Linearizability", Concurrency Computat.: Pract. Exper. 29 (2017); A. Horn, D. Kroening, "Faster Linearizability Checking via
//! P-Compositionality", FORTE 2015; M. Herlihy, J. Wing, "Linearizability: A Correctness Condition for Concurrent Objects", ACM TOPLAS 12
//! (1990).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;

/// Steps after which a history counts as undecided. Real ones take as many as they have operations, and some more per doubt.
const STEPS_MAX: u64 = 2_000_000;

/// What a register holds. Each write has a value of its own; none before the first.
pub type Value = Option<u64>;

/// What was asked of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// To hold this.
    Write(u64),
    /// To hold `to` if it holds `from`, and to fail otherwise.
    Swap {
        /// What it must hold.
        from: Value,
        /// What it shall hold.
        to: u64,
    },
    /// What it holds.
    Read,
    /// To hold nothing.
    Erase,
    /// Something that is refused, and was, because it held anything else than this.
    Differs(Value),
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Done; a read saw this.
    Done(Value),
    /// Refused or failed: it did not happen and never will.
    Failed,
    /// Nobody knows.
    Unknown,
}

/// An operation of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who asked, for people.
    pub client: String,
    /// Which register.
    pub key: String,
    /// For what.
    pub act: Act,
    /// When it was called, as a place in the order of all calls and returns.
    pub called: u64,
    /// When it returned, likewise; none when it never did.
    pub returned: Option<u64>,
    /// With what.
    pub end: End,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, key, act, called, returned, end } = self;
        let returned = returned.map_or("-".into(), |at| at.to_string());
        write!(f, "{called}..{returned} {client} {key} {act:?} {end:?}")
    }
}

/// What was found out about a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every key is linearizable.
    Linear,
    /// One is not; the operations around the place where every order ends.
    Broken(String),
    /// It would take too long to say.
    Undecided(String),
}

/// Judges a history.
pub fn check(history: &[Operation]) -> Verdict {
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in history.iter().filter(|operation| operation.end != End::Failed) {
        keys.entry(&operation.key).or_default().push(operation);
    }
    for (key, operations) in keys {
        let operations = relevant(operations);
        match Search::new(&operations).run() {
            Verdict::Linear => {}
            Verdict::Broken(why) => return Verdict::Broken(format!("{key} has no order: {why}")),
            Verdict::Undecided(why) => return Verdict::Undecided(format!("{key}: {why}")),
        }
    }
    Verdict::Linear
}

/// Without reads that saw nothing and unknown writes whose value was never seen: those can be ordered last, or never have happened.
fn relevant(operations: Vec<&Operation>) -> Vec<&Operation> {
    let (mut seen, mut differs) = (BTreeSet::new(), false);
    for operation in &operations {
        match (operation.act, operation.end) {
            (Act::Read, End::Done(value)) => seen.extend(value),
            (Act::Swap { from, .. }, _) => seen.extend(from),
            (Act::Differs(_), End::Done(_)) => differs = true,
            (Act::Read | Act::Write(_) | Act::Erase | Act::Differs(_), _) => {}
        }
    }
    let matters = |operation: &&Operation| match (operation.act, operation.end) {
        (_, End::Done(_)) | (Act::Erase, End::Unknown) => true,
        (Act::Read | Act::Differs(_), _) | (_, End::Failed) => false,
        (Act::Write(value) | Act::Swap { to: value, .. }, End::Unknown) => differs || seen.contains(&value),
    };
    let mut operations: Vec<&Operation> = operations.into_iter().filter(matters).collect();
    operations.sort_by_key(|operation| operation.called);
    operations
}

/// What a register holds after `act` with this end; none when the answer does not fit what it holds.
fn after(held: Value, act: Act, end: End) -> Option<Value> {
    match (act, end) {
        (Act::Write(value), _) => Some(Some(value)),
        (Act::Swap { from, to }, _) => (held == from).then_some(Some(to)),
        (Act::Read, End::Done(value)) => (held == value).then_some(held),
        (Act::Read, _) => Some(held),
        (Act::Erase, _) => Some(None),
        (Act::Differs(value), _) => (held != value).then_some(held),
    }
}

/// Sets of operations, one bit each.
type Set = Vec<u64>;

struct Search<'a> {
    operations: &'a [&'a Operation],
    /// Which are done, in the order tried now, each with the value before it.
    done: Set,
    path: Vec<(usize, Value)>,
    held: Value,
    tried: HashSet<(Set, Value)>,
    /// Those that must be done in the end.
    certain: usize,
    /// The most of them that any order got done, and how it went on: where it breaks.
    furthest: (usize, Set, Value),
}

impl<'a> Search<'a> {
    fn new(operations: &'a [&'a Operation]) -> Self {
        let done = vec![0; operations.len().div_ceil(64)];
        let certain = operations.iter().filter(|operation| operation.end != End::Unknown).count();
        let furthest = (0, done.clone(), None);
        Self { operations, done, path: Vec::new(), held: None, tried: HashSet::new(), certain, furthest }
    }

    fn is_done(&self, index: usize) -> bool {
        self.done[index / 64] & (1 << (index % 64)) != 0
    }

    fn flip(&mut self, index: usize) {
        self.done[index / 64] ^= 1 << (index % 64);
    }

    fn run(mut self) -> Verdict {
        // The next candidate to look at, on each level of the path.
        let mut next = 0;
        let mut certain_done = 0;
        for _ in 0..STEPS_MAX {
            if certain_done == self.certain {
                return Verdict::Linear;
            }
            match self.candidate(next) {
                Some((index, held)) => {
                    self.path.push((index, self.held));
                    self.flip(index);
                    self.held = held;
                    certain_done += usize::from(self.operations[index].end != End::Unknown);
                    if certain_done > self.furthest.0 {
                        self.furthest = (certain_done, self.done.clone(), self.held);
                    }
                    next = 0;
                }
                None => match self.path.pop() {
                    Some((index, held)) => {
                        self.flip(index);
                        self.held = held;
                        certain_done -= usize::from(self.operations[index].end != End::Unknown);
                        next = index + 1;
                    }
                    None => return Verdict::Broken(self.place()),
                },
            }
        }
        Verdict::Undecided(format!("{} operations took more than {STEPS_MAX} steps", self.operations.len()))
    }

    /// The first operation from `first` on that could be the next one, and leads where no order has been yet.
    fn candidate(&mut self, first: usize) -> Option<(usize, Value)> {
        // What has returned before another one was called comes before it.
        let mut ends = u64::MAX;
        for index in (0..self.operations.len()).filter(|index| !self.is_done(*index)) {
            ends = ends.min(self.operations[index].returned.unwrap_or(u64::MAX));
        }
        for index in first..self.operations.len() {
            let operation = self.operations[index];
            if operation.called > ends {
                return None;
            }
            if self.is_done(index) {
                continue;
            }
            let Some(held) = after(self.held, operation.act, operation.end) else { continue };
            self.flip(index);
            let is_new = self.tried.insert((self.done.clone(), held));
            self.flip(index);
            if is_new {
                return Some((index, held));
            }
        }
        None
    }

    /// Where the best order ends: what it holds there, and what does not fit.
    fn place(&self) -> String {
        let (_, done, held) = &self.furthest;
        let open = self.operations.iter().enumerate().filter(|(index, _)| done[index / 64] & (1 << (index % 64)) == 0);
        let open: Vec<String> = open.take(6).map(|(_, operation)| operation.to_string()).collect();
        format!("with {held:?} in it none of these can be next: {}", open.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn done(called: u64, returned: u64, act: Act, value: Value) -> Operation {
        Operation { client: "c".into(), key: "k".into(), act, called, returned: Some(returned), end: End::Done(value) }
    }

    fn unknown(called: u64, act: Act) -> Operation {
        Operation { returned: None, end: End::Unknown, ..done(called, 0, act, None) }
    }

    #[test]
    fn answers_of_one_copy_have_an_order() {
        let history = [
            done(1, 4, Act::Write(1), None),
            // Concurrent with the write, before and after it.
            done(2, 3, Act::Read, None),
            done(2, 5, Act::Read, Some(1)),
            done(6, 9, Act::Swap { from: Some(1), to: 2 }, None),
            done(7, 8, Act::Read, Some(2)),
        ];
        assert_eq!(check(&history), Verdict::Linear);
        assert_eq!(check(&[]), Verdict::Linear);
    }

    #[test]
    fn a_stale_read_a_lost_write_and_a_swap_that_hid_another_have_none() {
        let stale = [done(1, 2, Act::Write(1), None), done(3, 4, Act::Write(2), None), done(5, 6, Act::Read, Some(1))];
        let lost = [done(1, 2, Act::Write(1), None), done(3, 4, Act::Read, None)];
        let back = [
            done(1, 9, Act::Write(1), None),
            done(2, 3, Act::Read, Some(1)),
            // Real time holds between readers too.
            done(4, 5, Act::Read, None),
        ];
        let twice = [
            done(1, 2, Act::Write(1), None),
            done(3, 6, Act::Swap { from: Some(1), to: 2 }, None),
            done(4, 5, Act::Swap { from: Some(1), to: 3 }, None),
        ];
        let never_written = [done(1, 2, Act::Read, Some(7))];
        for history in [&stale[..], &lost, &back, &twice, &never_written] {
            assert!(matches!(check(history), Verdict::Broken(_)), "{history:?}");
        }
    }

    #[test]
    fn what_nobody_knows_may_happen_late_or_never() {
        let write = unknown(1, Act::Write(1));
        let never = [write.clone(), done(2, 3, Act::Read, None), done(8, 9, Act::Read, None)];
        let late = [write.clone(), done(2, 3, Act::Read, None), done(8, 9, Act::Read, Some(1))];
        let undone = [write.clone(), done(2, 3, Act::Read, Some(1)), done(8, 9, Act::Read, None)];
        let early = [done(0, 0, Act::Read, Some(1)), write];
        assert_eq!((check(&never), check(&late)), (Verdict::Linear, Verdict::Linear));
        assert!(matches!(check(&undone), Verdict::Broken(_)));
        assert!(matches!(check(&early), Verdict::Broken(_)), "before it was asked for");
        // What certainly failed must not be seen.
        let failed = Operation { end: End::Failed, ..done(1, 2, Act::Write(1), None) };
        assert!(matches!(check(&[failed, done(3, 4, Act::Read, Some(1))]), Verdict::Broken(_)));
    }

    #[test]
    fn of_those_who_want_to_be_first_one_is_and_the_others_are_told() {
        let first = |called, returned, to| done(called, returned, Act::Swap { from: None, to }, None);
        let late = |called, returned| done(called, returned, Act::Differs(None), None);
        assert_eq!(check(&[first(1, 9, 1), late(2, 8), done(10, 11, Act::Read, Some(1))]), Verdict::Linear);
        let again = [first(1, 2, 1), done(3, 4, Act::Erase, None), first(5, 6, 2), late(7, 8)];
        assert_eq!(check(&again), Verdict::Linear);
        let two = [first(1, 9, 1), first(2, 8, 2)];
        let nobody = [late(1, 9), late(2, 8)];
        let gone = [first(1, 2, 1), done(3, 4, Act::Erase, None), late(5, 6)];
        for history in [&two[..], &nobody, &gone] {
            assert!(matches!(check(history), Verdict::Broken(_)), "{history:?}");
        }
        // Whose answer was lost may have been the first, though nobody ever saw what it brought.
        let silent = [unknown(1, Act::Swap { from: None, to: 1 }), late(2, 3), done(4, 5, Act::Erase, None)];
        assert_eq!(check(&silent), Verdict::Linear);
        let erased = [first(1, 2, 1), unknown(3, Act::Erase), done(4, 5, Act::Read, None)];
        assert_eq!(check(&erased), Verdict::Linear);
    }

    #[test]
    fn keys_are_judged_one_by_one() {
        let other = |operation: Operation| Operation { key: "other".into(), ..operation };
        let sound = [done(1, 2, Act::Write(1), None), other(done(3, 4, Act::Read, None))];
        assert_eq!(check(&sound), Verdict::Linear);
        let Verdict::Broken(why) = check(&[done(1, 2, Act::Write(1), None), other(done(3, 4, Act::Read, Some(1)))])
        else {
            panic!("what was written to one key was read from another")
        };
        assert!(why.starts_with("other has no order"), "{why}");
    }

    /// A single copy with operations that take effect at a moment of their own; `alter` may falsify an answer.
    fn generated(seed: u64, alter: bool) -> Vec<Operation> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut moments: Vec<(u64, u64, u64, bool)> = (0..60)
            .map(|n: u64| {
                let called = n * 10 + rng.random_range(0..40);
                let at = called + rng.random_range(1..40);
                (at, called, at + rng.random_range(1..40), rng.random_bool(0.15))
            })
            .collect();
        moments.sort_unstable();
        let (mut held, mut history) = (None, Vec::new());
        for (number, (_, called, returned, lost)) in moments.into_iter().enumerate() {
            let value = number as u64 + 1;
            let act = match rng.random_range(0..4) {
                0 => Act::Write(value),
                1 => Act::Swap { from: held, to: value },
                _ => Act::Read,
            };
            held = after(held, act, End::Unknown).unwrap_or(held);
            let answer = if act == Act::Read { held } else { None };
            history.push(match lost {
                true => Operation { returned: None, end: End::Unknown, ..done(called, 0, act, None) },
                false => done(called, returned, act, answer),
            });
        }
        if alter {
            // A read that ends after everything, and sees what was long overwritten.
            let last = history.iter().filter_map(|operation| operation.returned).max().unwrap_or(0);
            history.push(done(last + 1, last + 2, Act::Write(900), None));
            history.push(done(last + 3, last + 4, Act::Write(901), None));
            history.push(done(last + 5, last + 6, Act::Read, Some(900)));
        }
        history
    }

    #[test]
    fn generated_histories_have_an_order_and_falsified_ones_have_none() {
        for seed in 0..200 {
            assert_eq!(check(&generated(seed, false)), Verdict::Linear, "seed {seed}");
            assert!(matches!(check(&generated(seed, true)), Verdict::Broken(_)), "seed {seed}");
        }
    }
}

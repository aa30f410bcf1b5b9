//! Whom a write is sent to, and when it is done: a decision, told the time and what happened.
//!
//! A write has pieces (copies of a chunk, or shards of a stripe), each for a node of its own. There are targets in the order in which they are
//! wanted, the first of them for the pieces and the rest to spare. A target that fails is replaced by a spare one at once. One that stands still
//! for [`SLOW`] gets a spare one beside it, and whichever is done first counts: where everybody is slow, a write is slow, and does not fail. A write is acknowledged when as many pieces are safe as the promise asks for; if that cannot be, it is acknowledged with
//! fewer where the bucket allows it ([`Goal::least`]), and the pieces that are nowhere are told, so that the same commit can say so.
//!
//! Nothing here sends anything: [`crate::drive`] does what this says.

use std::time::Duration;

/// A target that did nothing for so long has its piece sent to another one, too. Shorter, a disk that syncs under load would be taken for a hung one; longer, a frozen node
/// would be felt by everybody who writes.
pub const SLOW: Duration = Duration::from_millis(500);
/// Once the promise is kept, what is still on its way may take so long, lest a piece that is about to be safe has to be repaired.
pub const LINGER: Duration = Duration::from_millis(100);
/// No write takes longer: the client has given up by then, or tries again.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// When a write is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    /// As many pieces are safe as the promise asks for: f + 1 copies, or k + f shards.
    pub needed: usize,
    /// What is acknowledged at least where no more can be had; `needed` where less is to be refused.
    pub least: usize,
}

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Do {
    /// Sends a piece to a target.
    Begin {
        /// Attempts are numbered in the order in which they are begun.
        attempt: usize,
        /// Which piece.
        piece: usize,
        /// Which target, by its place in the list.
        target: usize,
    },
    /// Gives an attempt up. What it sent may come to be safe there all the same: nobody will name it.
    GiveUp {
        /// Which.
        attempt: usize,
    },
}

/// A target that a piece did not reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    /// Which piece.
    pub piece: usize,
    /// Which target.
    pub target: usize,
    /// Why, in words.
    pub why: String,
}

/// How a write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Where each piece is safe; none where it is nowhere.
    pub places: Vec<Option<usize>>,
    /// Which targets missed theirs.
    pub missed: Vec<Missed>,
    /// Whether it may be acknowledged.
    pub is_written: bool,
}

impl Outcome {
    /// How many pieces are safe.
    pub fn safe(&self) -> usize {
        self.places.iter().flatten().count()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running { moved: Duration },
    Over,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    piece: usize,
    target: usize,
    state: State,
}

impl Attempt {
    /// Whether it stands still.
    fn is_slow(&self, now: Duration) -> bool {
        matches!(self.state, State::Running { moved } if now.saturating_sub(moved) >= SLOW)
    }
}

/// A write on its way. Time is counted from its beginning.
#[derive(Clone, Debug)]
pub struct Spread {
    goal: Goal,
    targets: usize,
    next: usize,
    attempts: Vec<Attempt>,
    places: Vec<Option<usize>>,
    missed: Vec<Missed>,
    kept_at: Option<Duration>,
}

impl Spread {
    /// A write of `pieces` pieces to the first of `targets` targets.
    pub fn new(pieces: usize, targets: usize, goal: Goal) -> Spread {
        let goal = Goal { needed: goal.needed.min(pieces), least: goal.least.min(goal.needed).min(pieces).max(1) };
        let (attempts, missed) = (Vec::new(), Vec::new());
        Spread { goal, targets, next: 0, attempts, places: vec![None; pieces], missed, kept_at: None }
    }

    /// An attempt is safe.
    pub fn done(&mut self, attempt: usize, now: Duration) {
        let Some(it) = self.attempts.get_mut(attempt).filter(|it| it.state != State::Over) else { return };
        it.state = State::Over;
        self.places[it.piece] = Some(it.target);
        if self.safe() >= self.goal.needed && self.kept_at.is_none() {
            self.kept_at = Some(now);
        }
    }

    /// An attempt failed.
    pub fn failed(&mut self, attempt: usize, why: String) {
        let Some(it) = self.attempts.get_mut(attempt).filter(|it| it.state != State::Over) else { return };
        it.state = State::Over;
        self.missed.push(Missed { piece: it.piece, target: it.target, why });
    }

    /// An attempt went on a bit.
    pub fn moved(&mut self, attempt: usize, now: Duration) {
        if let Some(Attempt { state: State::Running { moved }, .. }) = self.attempts.get_mut(attempt) {
            *moved = now;
        }
    }

    /// What is to be done now.
    pub fn decide(&mut self, now: Duration) -> Vec<Do> {
        let mut todo = Vec::new();
        for attempt in 0..self.attempts.len() {
            let it = self.attempts[attempt];
            if it.state == State::Over {
                continue;
            }
            // Without anybody else, a slow one is waited for only while fewer are safe than could be acknowledged.
            let can_do_without = self.next == self.targets && self.safe() >= self.goal.least;
            if self.places[it.piece].is_some() || (it.is_slow(now) && can_do_without) {
                let why = if it.is_slow(now) {
                    format!("it did nothing for {} ms", SLOW.as_millis())
                } else {
                    "another one was done first".into()
                };
                self.failed(attempt, why);
                todo.push(Do::GiveUp { attempt });
            }
        }
        if self.kept_at.is_some() || now >= DEADLINE {
            return todo;
        }
        for piece in 0..self.places.len() {
            let goes_on = |(_, attempt): (usize, &Attempt)| attempt.piece == piece && !attempt.is_slow(now);
            let is_cared_for = self.places[piece].is_some() || self.running().any(goes_on);
            if is_cared_for || self.next == self.targets {
                continue;
            }
            let target = self.next;
            self.next += 1;
            self.attempts.push(Attempt { piece, target, state: State::Running { moved: now } });
            todo.push(Do::Begin { attempt: self.attempts.len() - 1, piece, target });
        }
        todo
    }

    /// How it ended, if it has, once what is to be done now has begun.
    pub fn outcome(&self, now: Duration) -> Option<Outcome> {
        let safe = self.safe();
        let is_whole = safe == self.places.len();
        let lingered = self.kept_at.is_some_and(|at| now.saturating_sub(at) >= LINGER);
        let nothing_runs = self.running().next().is_none();
        if !(is_whole || lingered || nothing_runs || now >= DEADLINE) {
            return None;
        }
        let mut missed = self.missed.clone();
        let late = |(_, attempt): (usize, &Attempt)| Missed {
            piece: attempt.piece,
            target: attempt.target,
            why: "it was not done in time".into(),
        };
        missed.extend(self.running().map(late));
        Some(Outcome { places: self.places.clone(), missed, is_written: safe >= self.goal.least })
    }

    /// When to decide again, if nothing happens before: after `now`, at which was decided.
    pub fn wake(&self, now: Duration) -> Duration {
        let slow = self.running().filter_map(|(_, attempt)| match attempt.state {
            State::Running { moved } => Some(moved + SLOW),
            State::Over => None,
        });
        let lingered = self.kept_at.map(|at| at + LINGER);
        // One that is slow already is waited for, as long as it takes.
        slow.chain(lingered).filter(|at| *at > now).min().unwrap_or(DEADLINE).min(DEADLINE)
    }

    fn safe(&self) -> usize {
        self.places.iter().flatten().count()
    }

    fn running(&self) -> impl Iterator<Item = (usize, &Attempt)> {
        self.attempts.iter().enumerate().filter(|(_, attempt)| attempt.state != State::Over)
    }
}

#[cfg(test)]
mod tests;

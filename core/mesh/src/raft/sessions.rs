//! Which proposals were already applied, so that one that is sent again is applied once (Raft dissertation, section 6.3).
//!
//! Part of the replicated state: the same on every replica and in every snapshot. A proposer numbers its proposals and says below
//! which number it waits for no answer; what is below is forgotten, and a late copy from there is refused instead of applied again.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Command, Reply};

/// Proposers that are remembered. One is added by each start of a replica that proposes; the one that was silent for the longest
/// is forgotten first. A retry ends after seconds, so a proposer would have to outlive this many starts of others between two copies.
const PROPOSERS_MAX: usize = 1024;
/// Answers that are remembered for one proposer, more than it may have under way ([`super::proposals`]).
const ANSWERS_MAX: usize = 4096;

/// The memory of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sessions {
    proposers: BTreeMap<u64, Session>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Session {
    /// Nothing below is waited for.
    settled_below: u64,
    /// The log index of its last command.
    last: u64,
    answers: BTreeMap<u64, (u64, Bytes)>,
}

impl Sessions {
    /// The answer to a copy of a proposal that was seen before; none for a new one.
    pub fn answered(&self, command: &Command) -> Option<Reply> {
        let session = self.proposers.get(&command.proposer)?;
        if let Some((index, result)) = session.answers.get(&command.sequence) {
            return Some(Reply::Done { index: *index, result: result.clone() });
        }
        (command.sequence < session.settled_below).then_some(Reply::Stale)
    }

    /// Remembers what a proposal gave.
    pub fn remember(&mut self, command: &Command, index: u64, result: Bytes) {
        let session = self.proposers.entry(command.proposer).or_default();
        session.last = index;
        session.settled_below = session.settled_below.max(command.settled_below);
        session.answers = session.answers.split_off(&session.settled_below);
        session.answers.insert(command.sequence, (index, result));
        while session.answers.len() > ANSWERS_MAX {
            if let Some((oldest, _)) = session.answers.pop_first() {
                session.settled_below = oldest + 1;
            }
        }
        while self.proposers.len() > PROPOSERS_MAX {
            let silent = self.proposers.iter().min_by_key(|(_, session)| session.last).map(|(proposer, _)| *proposer);
            self.proposers.remove(&silent.unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(proposer: u64, sequence: u64, settled_below: u64) -> Command {
        Command { proposer, sequence, settled_below, body: Bytes::new() }
    }

    fn done(index: u64) -> Option<Reply> {
        Some(Reply::Done { index, result: Bytes::from_static(b"x") })
    }

    #[test]
    fn a_copy_gets_the_first_answer_and_a_late_copy_none() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.answered(&command(1, 0, 0)), None);
        sessions.remember(&command(1, 0, 0), 10, Bytes::from_static(b"x"));
        assert_eq!(sessions.answered(&command(1, 0, 0)), done(10));
        // Another proposer has numbers of its own.
        assert_eq!(sessions.answered(&command(2, 0, 0)), None);
        sessions.remember(&command(1, 1, 1), 11, Bytes::from_static(b"x"));
        assert_eq!(sessions.answered(&command(1, 0, 0)), Some(Reply::Stale));
        assert_eq!(sessions.answered(&command(1, 1, 1)), done(11));
        assert_eq!(sessions.answered(&command(1, 2, 1)), None);
    }

    #[test]
    fn memory_is_bounded_and_forgets_the_silent_first() {
        let mut sessions = Sessions::default();
        for index in 0..2 * ANSWERS_MAX as u64 {
            sessions.remember(&command(1, index, 0), index, Bytes::new());
        }
        assert_eq!(sessions.proposers[&1].answers.len(), ANSWERS_MAX);
        assert_eq!(sessions.answered(&command(1, 0, 0)), Some(Reply::Stale), "what was forgotten is not applied again");
        for proposer in 2..2 * PROPOSERS_MAX as u64 {
            sessions.remember(&command(proposer, 0, 0), 100_000 + proposer, Bytes::new());
        }
        assert_eq!(sessions.proposers.len(), PROPOSERS_MAX);
        assert!(
            !sessions.proposers.contains_key(&1) && sessions.proposers.contains_key(&(2 * PROPOSERS_MAX as u64 - 1))
        );
    }
}

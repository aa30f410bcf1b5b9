//! The cluster's log of decisions: what happened, what was decided because of it, what was done, and what was then seen to hold.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::*;
use crate::time::WallTime;

/// How many events the control state keeps.
pub const EVENTS_MAX: usize = 10_000;
/// Longest message of an event in bytes; the rest is cut.
pub const MESSAGE_BYTES_MAX: usize = 512;
/// How many rejected nodes an event names.
pub const REJECTED_MAX: usize = 8;

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Counts the events of the cluster from one.
    pub index: u64,
    /// When the leader that recorded it looked at its clock.
    pub at: WallTime,
    /// What sort of line.
    pub kind: EventKind,
    /// What it is about: `n3`, `role/lb/0`, `shop/web/17`, `shop`, `voters`.
    pub subject: String,
    /// The sentence.
    pub message: String,
    /// The event this one follows from.
    pub cause: Option<u64>,
    /// The first event of the chain, the same for all that follow from it.
    pub incident: Option<u64>,
    /// Nodes that were considered and not chosen.
    pub rejected: Vec<Rejected>,
    /// The plan it belongs to.
    pub generation: Generation,
}

/// What sort of line an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A fact about the world, or a wish of the operator.
    Happened,
    /// A decision of the leader.
    Decided,
    /// A node carried a decision out.
    Done,
    /// The declared state was seen to hold again.
    Verified,
}

/// A node that was considered and not chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rejected {
    /// Which.
    pub node: NodeId,
    /// Why not.
    pub reason: String,
}

/// An event on its way into the log: its number is given when it is applied, so that it is the same on every replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewEvent {
    /// What sort of line.
    pub kind: EventKind,
    /// What it is about.
    pub subject: String,
    /// The sentence.
    pub message: String,
    /// What it follows from.
    pub cause: Cause,
    /// Nodes that were considered and not chosen.
    pub rejected: Vec<Rejected>,
}

/// What a new event follows from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Cause {
    /// Nothing known.
    #[default]
    None,
    /// The latest event in the log about this subject (of kind `Happened` where there is one), the batch it comes with included.
    Subject(String),
    /// This very event.
    Index(u64),
}

/// The last events, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventLog {
    /// The number of the last event given.
    pub last: u64,
    /// At most [`EVENTS_MAX`]. Each stands for itself: a new state shares those that it has in common with the one before, and there is
    /// a new state for each change.
    pub events: VecDeque<Arc<Event>>,
}

impl EventLog {
    /// All of them, the oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Event> + ExactSizeIterator {
        self.events.iter().map(|event| &**event)
    }

    /// The event with this number, as long as the log holds it.
    pub fn get(&self, index: u64) -> Option<&Event> {
        let first = self.events.front()?.index;
        self.events.get(usize::try_from(index.checked_sub(first)?).ok()?).map(|event| &**event)
    }
}

//! `events`: the cluster's log.

use hirsel_model::event::{Event, EventKind};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::sight::{Sight, rfc3339};

/// Most events of one answer: whoever wants more asks again with `after`.
pub const EVENTS_ANSWERED_MAX: usize = 1_000;

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventLine {
    /// Counts the events of the cluster.
    pub index: u64,
    /// When.
    pub at: String,
    /// `happened`, `decided`, `done`, `verified`.
    pub kind: String,
    /// What it is about.
    pub subject: String,
    /// The sentence.
    pub message: String,
    /// The event it follows from.
    pub cause_index: Option<u64>,
    /// The first event of its chain.
    pub incident: Option<u64>,
    /// The plan it belongs to.
    pub generation: u64,
}

/// Events after number `after`, oldest first, at most [`EVENTS_ANSWERED_MAX`]; the last `tail` of them where given.
pub fn events(sight: &Sight, after: u64, tail: Option<usize>) -> Vec<EventLine> {
    let all = &sight.state.log.events;
    let first = all.partition_point(|event| event.index <= after);
    let first = match tail {
        Some(tail) => first.max(all.len().saturating_sub(tail.min(EVENTS_ANSWERED_MAX))),
        None => first,
    };
    all.range(first..).take(EVENTS_ANSWERED_MAX).map(|event| line(event)).collect()
}

/// One event as it is shown.
pub fn line(event: &Event) -> EventLine {
    EventLine {
        index: event.index,
        at: rfc3339(event.at),
        kind: kind_word(event.kind).into(),
        subject: event.subject.clone(),
        message: event.message.clone(),
        cause_index: event.cause,
        incident: event.incident,
        generation: event.generation.0,
    }
}

/// The word for a kind of event.
pub fn kind_word(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Happened => "happened",
        EventKind::Decided => "decided",
        EventKind::Done => "done",
        EventKind::Verified => "verified",
    }
}

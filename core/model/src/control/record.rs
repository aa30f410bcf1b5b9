//! Writes events into the log: gives them their numbers, finds what caused them, and keeps the log within its limits.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ControlState;
use super::limits::cut;
use crate::event::{
    Cause, EVENTS_MAX, Event, EventKind, EventLog, MESSAGE_BYTES_MAX, NewEvent, REJECTED_MAX, Rejected,
};
use crate::time::WallTime;

/// Longest subject in bytes: an instance, with two names of 63 bytes and a number, fits.
const SUBJECT_BYTES_MAX: usize = 160;
/// How much of who asked is shown in a message.
const BY_BYTES_MAX: usize = 64;

/// Records that an operator (or a node) did something, with who asked for it.
pub(super) fn happened(state: &mut ControlState, at: WallTime, by: &str, subject: impl ToString, message: &str) {
    let by = cut(by, BY_BYTES_MAX);
    let message = if by.is_empty() { message.to_owned() } else { format!("{message} (by {by})") };
    let event = NewEvent {
        kind: EventKind::Happened,
        subject: subject.to_string(),
        message,
        cause: Cause::None,
        rejected: Vec::new(),
    };
    record(state, at, vec![event]);
}

/// Records a batch. An event may name one before it in the same batch as its cause.
pub(super) fn record(state: &mut ControlState, at: WallTime, batch: Vec<NewEvent>) {
    let generation = state.plan.generation;
    let log = &mut state.log;
    let mut found = Found::default();
    for new in batch {
        let index = log.last + 1;
        let cause = match &new.cause {
            Cause::None => None,
            Cause::Subject(subject) => found.latest(log, &cut(subject, SUBJECT_BYTES_MAX)),
            Cause::Index(cause) => (1..index).contains(cause).then_some(*cause),
        };
        let event = Event {
            index,
            at,
            kind: new.kind,
            subject: cut(&new.subject, SUBJECT_BYTES_MAX),
            message: cut(&new.message, MESSAGE_BYTES_MAX),
            cause,
            // Whatever has no cause begins a chain of its own.
            incident: Some(cause.map_or(index, |cause| incident_of(log, cause))),
            rejected: new.rejected.into_iter().take(REJECTED_MAX).map(cut_rejected).collect(),
            generation,
        };
        found.note(&event);
        log.last = index;
        log.events.push_back(Arc::new(event));
        while log.events.len() > EVENTS_MAX {
            log.events.pop_front();
        }
    }
}

fn cut_rejected(rejected: Rejected) -> Rejected {
    Rejected { node: rejected.node, reason: cut(&rejected.reason, MESSAGE_BYTES_MAX) }
}

/// The first event of the chain that `cause` is in. One that the log no longer holds stands for its chain.
fn incident_of(log: &EventLog, cause: u64) -> u64 {
    log.get(cause).and_then(|event| event.incident).unwrap_or(cause)
}

/// What was looked up for one batch, so that thousands of moves because of one node search the log once.
#[derive(Default)]
struct Found(BTreeMap<String, Latest>);

#[derive(Clone, Copy, Default)]
struct Latest {
    happened: Option<u64>,
    any: Option<u64>,
}

impl Found {
    fn latest(&mut self, log: &EventLog, subject: &str) -> Option<u64> {
        let latest = self.0.entry(subject.to_owned()).or_insert_with(|| {
            let about = || log.events.iter().rev().filter(|event| event.subject == subject);
            Latest {
                happened: about().find(|event| event.kind == EventKind::Happened).map(|event| event.index),
                any: about().next().map(|event| event.index),
            }
        });
        latest.happened.or(latest.any)
    }

    fn note(&mut self, event: &Event) {
        if let Some(latest) = self.0.get_mut(&event.subject) {
            latest.any = Some(event.index);
            if event.kind == EventKind::Happened {
                latest.happened = Some(event.index);
            }
        }
    }
}

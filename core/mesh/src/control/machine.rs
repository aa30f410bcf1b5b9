//! The control state as a replicated state machine, and its last entries for those who follow.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use hirsel_model::control::{ControlState, Entry};
use hirsel_model::{LogIndex, codec};
use tokio::sync::watch;

use super::Published;
use crate::raft::{StateMachine, StateMachineError};

/// Entries kept for followers that were away for a moment. Whoever lacks more gets the whole state.
const RECENT_ENTRIES_MAX: usize = 1024;
/// The same in bytes.
const RECENT_BYTES_MAX: usize = 4 << 20;

/// Applies entries to the state.
pub(super) struct ControlMachine {
    state: Arc<ControlState>,
    /// Applied and not shown yet.
    fresh: Vec<(u64, Bytes)>,
    restored: bool,
    published: Published,
    recent: Arc<Recent>,
}

impl ControlMachine {
    pub fn new(published: Published, recent: Arc<Recent>) -> Self {
        Self { state: Arc::default(), fresh: Vec::new(), restored: false, published, recent }
    }
}

impl StateMachine for ControlMachine {
    fn apply(&mut self, index: u64, command: &[u8]) -> Result<Vec<u8>, StateMachineError> {
        let outcome = apply(&mut self.state, index, command)?;
        self.fresh.push((index, Bytes::copy_from_slice(command)));
        Ok(outcome)
    }

    fn applied(&mut self) {
        let fresh = std::mem::take(&mut self.fresh);
        self.recent.push(fresh, &self.state, std::mem::take(&mut self.restored));
        self.published.offer(&self.state);
    }

    fn snapshot(&self) -> Vec<u8> {
        codec::encode(&*self.state)
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), StateMachineError> {
        self.state = decode_state(bytes)?;
        self.fresh.clear();
        self.restored = true;
        Ok(())
    }
}

/// Applies one entry as it is in the log, and returns the encoded outcome.
pub(super) fn apply(state: &mut Arc<ControlState>, index: u64, command: &[u8]) -> Result<Vec<u8>, StateMachineError> {
    let entry: Entry = codec::decode(command).map_err(newer)?;
    Ok(codec::encode(&Arc::make_mut(state).apply(LogIndex(index), entry)))
}

/// Reads a whole state.
pub(super) fn decode_state(bytes: &[u8]) -> Result<Arc<ControlState>, StateMachineError> {
    codec::decode(bytes).map(Arc::new).map_err(newer)
}

fn newer(error: codec::DecodeError) -> StateMachineError {
    StateMachineError(format!("written by a newer hirsel, upgrade this node ({error})"))
}

/// The newest state of this replica with the entries that led to it.
#[derive(Default)]
pub(super) struct Recent {
    tail: Mutex<Tail>,
    applied: watch::Sender<u64>,
}

#[derive(Default)]
struct Tail {
    state: Arc<ControlState>,
    /// The state before the first entry had applied this.
    floor: u64,
    entries: VecDeque<(u64, Bytes)>,
    bytes: usize,
}

/// What a follower lacks.
pub(super) enum Lacks {
    /// Nothing, or it is ahead.
    Nothing,
    /// These, in order.
    Entries(Vec<(u64, Bytes)>),
    /// More than is kept.
    All(Arc<ControlState>),
}

impl Recent {
    fn push(&self, fresh: Vec<(u64, Bytes)>, state: &Arc<ControlState>, restored: bool) {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.state = state.clone();
        if restored {
            // What came before is unknown, and what came since is in the state.
            *tail = Tail { state: state.clone(), floor: state.applied.0, ..Tail::default() };
        } else {
            for (index, entry) in fresh {
                tail.bytes += entry.len();
                tail.entries.push_back((index, entry));
            }
        }
        while tail.entries.len() > RECENT_ENTRIES_MAX || tail.bytes > RECENT_BYTES_MAX {
            let Some((index, entry)) = tail.entries.pop_front() else { break };
            tail.bytes -= entry.len();
            tail.floor = index;
        }
        drop(tail);
        self.applied.send_replace(state.applied.0);
    }

    /// The last command applied, as it changes.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// What someone at `applied` lacks, at most `bytes_max` of entries (at least one).
    pub fn since(&self, applied: u64, bytes_max: usize) -> Lacks {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        if applied >= tail.state.applied.0 {
            return Lacks::Nothing;
        }
        let known = applied == tail.floor || tail.entries.iter().any(|(index, _)| *index == applied);
        if !known {
            return Lacks::All(tail.state.clone());
        }
        let mut bytes = 0;
        let later = tail.entries.iter().skip_while(|(index, _)| *index <= applied);
        let fit = later.take_while(|(_, entry)| {
            let fits = bytes == 0 || bytes + entry.len() <= bytes_max;
            bytes += entry.len();
            fits
        });
        Lacks::Entries(fit.cloned().collect())
    }
}

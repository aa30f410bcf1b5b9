//! The control state as a replicated state machine, and its last entries for those who follow.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use hirsel_model::control::{ControlState, Entry, Outcome};
use hirsel_model::{LogIndex, codec, feature, panic};
use serde::Deserialize;
use tokio::sync::watch;

use super::Published;
use crate::raft::{Applied, StateMachine, StateMachineError};

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
    outdated: Outdated,
}

impl ControlMachine {
    pub fn new(published: Published, recent: Arc<Recent>, outdated: Outdated) -> Self {
        Self { state: Arc::default(), fresh: Vec::new(), restored: false, published, recent, outdated }
    }
}

impl StateMachine for ControlMachine {
    fn apply(&mut self, index: u64, command: &[u8]) -> Result<Vec<u8>, StateMachineError> {
        let outcome = self.outdated.note(apply(&mut self.state, index, command))?;
        self.fresh.push((index, Bytes::copy_from_slice(command)));
        Ok(outcome)
    }

    fn applied(&mut self, at: Applied) {
        let fresh = std::mem::take(&mut self.fresh);
        self.recent.push(fresh, &self.state, std::mem::take(&mut self.restored), at.term);
        self.published.offer(&self.state);
    }

    fn reset(&mut self) {
        self.state = Arc::default();
        self.fresh.clear();
        self.restored = true;
    }

    fn snapshot(&self) -> Vec<u8> {
        codec::encode(&*self.state)
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), StateMachineError> {
        self.state = self.outdated.note(decode_state(bytes))?;
        self.fresh.clear();
        self.restored = true;
        Ok(())
    }
}

/// Why an entry or a state cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotTaken {
    /// The cluster's feature level is above what this build understands.
    #[error("{0}")]
    Outdated(String),
    /// Something in it is unknown, or it is damaged.
    #[error("written by a newer hirsel, upgrade this node ({0})")]
    Newer(#[from] codec::DecodeError),
    /// Carrying it out panicked, and would again.
    #[error("it panicked: {0}")]
    Panicked(String),
}

impl From<NotTaken> for StateMachineError {
    fn from(error: NotTaken) -> Self {
        StateMachineError(error.to_string())
    }
}

/// Remembers that this build is too old for the cluster, from wherever that is learnt.
#[derive(Clone, Default)]
pub(super) struct Outdated(Arc<watch::Sender<Option<String>>>);

impl Outdated {
    /// Hands on what became of an entry or a state, and remembers if this build is too old for it.
    pub fn note<T>(&self, taken: Result<T, NotTaken>) -> Result<T, NotTaken> {
        if let Err(NotTaken::Outdated(words)) = &taken {
            self.0.send_replace(Some(words.clone()));
        }
        taken
    }

    /// The words, once it is known.
    pub fn seen(&self) -> watch::Receiver<Option<String>> {
        self.0.subscribe()
    }
}

/// Applies one entry as it is in the log, and returns the encoded outcome.
pub(super) fn apply(state: &mut Arc<ControlState>, index: u64, command: &[u8]) -> Result<Vec<u8>, NotTaken> {
    let entry: Entry = codec::decode(command)?;
    // What is half changed is shown to nobody: whoever applies stops here.
    let outcome = carried_out(Arc::make_mut(state), LogIndex(index), entry).map_err(NotTaken::Panicked)?;
    understood(state.cluster.feature_level)?;
    Ok(codec::encode(&outcome))
}

/// What became of `entry`, or what the panic over it said; the state is then good for nothing.
fn carried_out(state: &mut ControlState, index: LogIndex, entry: Entry) -> Result<Outcome, String> {
    catch_unwind(AssertUnwindSafe(|| state.apply(index, entry))).map_err(|caught| panic::words(caught.as_ref()))
}

/// Why `entry` must not get into the log: every replica would panic over it, one after the other, and stop. It is tried on a copy of the
/// state without the events, which are most of it and decide nothing.
pub(super) fn crashes(state: &ControlState, entry: &Entry) -> Option<String> {
    let mut copy = ControlState {
        cluster: state.cluster.clone(),
        spec: state.spec.clone(),
        spec_index: state.spec_index,
        plan: state.plan.clone(),
        former: state.former.clone(),
        tokens: state.tokens.clone(),
        next_node: state.next_node,
        applied: state.applied,
        ..ControlState::default()
    };
    carried_out(&mut copy, state.applied.next(), entry.clone()).err()
}

/// Reads a whole state.
pub(super) fn decode_state(bytes: &[u8]) -> Result<Arc<ControlState>, NotTaken> {
    // Looked at first, for it explains everything else that is unknown in there.
    if let Ok(peek) = codec::decode::<Peek>(bytes) {
        understood(peek.cluster.feature_level)?;
    }
    Ok(codec::decode(bytes).map(Arc::new)?)
}

fn understood(level: u32) -> Result<(), NotTaken> {
    feature::outdated(level).map_or(Ok(()), |words| Err(NotTaken::Outdated(words)))
}

/// As much of a state as any build understands.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Peek {
    pub cluster: PeekCluster,
}

/// As much of a cluster as any build understands.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct PeekCluster {
    pub feature_level: u32,
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
    /// The term of the last entry that was applied.
    term: u64,
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
    fn push(&self, fresh: Vec<(u64, Bytes)>, state: &Arc<ControlState>, restored: bool, term: u64) {
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
        tail.term = term;
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

    /// The last command applied, and the term of whatever was applied last.
    pub fn position(&self) -> (u64, u64) {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        (tail.term, tail.state.applied.0)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hirsel_model::WallTime;
    use hirsel_model::control::Command;

    use super::*;

    #[test]
    fn a_replica_stops_where_the_cluster_outgrows_its_build_and_starts_no_more() {
        let command = Command::RaiseLevel { to: feature::BUILT + 1, understood: Default::default() };
        let entry = codec::encode(&Entry { at: WallTime(0), by: "n1".into(), if_index: None, command });
        let (mut state, outdated) = (Arc::default(), Outdated::default());
        let error = outdated.note(apply(&mut state, 1, &entry)).expect_err("it must not go on");
        let words = error.to_string();
        assert!(
            words.ends_with("upgrade this node") && words.starts_with("the cluster runs at feature level"),
            "{words}"
        );
        assert_eq!(outdated.seen().borrow().as_deref(), Some(&*words));
        // A state says so as well, whatever else in it is unknown.
        assert_eq!(decode_state(&codec::encode(&*state)).expect_err("too new").to_string(), words);
        let cluster = BTreeMap::from([("feature_level", feature::BUILT + 1), ("moon", 1)]);
        let stranger = BTreeMap::from([("cluster", cluster), ("sun", BTreeMap::new())]);
        assert_eq!(decode_state(&codec::encode(&stranger)).expect_err("too new").to_string(), words);
    }
}

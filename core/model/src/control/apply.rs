//! Carries out commands.

use super::{ControlState, Entry, Outcome};
use crate::id::LogIndex;

pub(super) fn apply(state: &mut ControlState, index: LogIndex, entry: Entry) -> Outcome {
    state.applied = index;
    let _ = entry;
    Outcome::Done { index }
}

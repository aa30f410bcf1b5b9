//! One process that is guarded: until when it may run, who it is, and how far its end is.

use std::time::Duration;

use hirsel_model::Timestamp;

use crate::host::folder::{Folder, ShimState, is_damage};
use crate::host::orphan;

/// A shim that can act has written down the end within this after the deadline. One that has not is frozen, and would keep the agent from
/// seeing that all is over.
const SHIM_MAX: Duration = Duration::from_millis(500);
/// Time between two looks whether all has ended: what was killed is gone within some milliseconds.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// What is not gone by then waits for a broken disk, and is looked at less often.
const STUBBORN_AFTER: Duration = Duration::from_secs(2);
/// See [`STUBBORN_AFTER`].
const STUBBORN_LOOK_EVERY: Duration = Duration::from_millis(500);

/// What a process may still do.
#[derive(Debug)]
pub(super) struct Ward {
    folder: Folder,
    until: Timestamp,
    /// Who it is, once that is known. It is held in memory, for the disk may hang when it is needed.
    known: Option<ShimState>,
    /// When it was last looked at, once its deadline had passed.
    looked: Option<Timestamp>,
}

impl Ward {
    /// What is about to be started in `folder`.
    pub(super) fn new(folder: Folder, until: Timestamp) -> Self {
        Self { folder, until, known: None, looked: None }
    }

    /// Moves its deadline, unless that has passed at `now`. Whether it was moved.
    pub(super) fn keep(&mut self, until: Timestamp, now: Timestamp) -> bool {
        if self.until <= now {
            return false;
        }
        self.until = until;
        self.learn();
        true
    }

    /// Learns who it is, as soon as its shim has told.
    pub(super) fn learn(&mut self) {
        if self.known.is_none() {
            self.known = self.folder.state().ok().filter(|state| state.program.is_some());
        }
    }

    /// Whether it has ended already, as its shim says.
    pub(super) fn has_ended(&self) -> bool {
        self.folder.state().is_ok_and(|state| state.ended.is_some())
    }

    /// When there is something to do next.
    pub(super) fn due(&self) -> Timestamp {
        match self.looked {
            None => self.until,
            Some(at) if at.since(self.until) < STUBBORN_AFTER => at + LOOK_EVERY,
            Some(at) => at + STUBBORN_LOOK_EVERY,
        }
    }

    /// Ends it and all that belongs to it, at or after its deadline. Whether nothing is left of it, in this run `boot` of the kernel.
    pub(super) fn end(&mut self, boot: &str, now: Timestamp) -> bool {
        self.looked = Some(now);
        self.learn();
        let state = match &self.known {
            Some(state) => state.clone(),
            None => match self.folder.state() {
                Ok(state) => state,
                // Nothing was started; and a shim that comes so late starts nothing.
                Err(error) if is_damage(&error) => return true,
                Err(_) => return false,
            },
        };
        if state.boot != boot || state.mark.is_empty() {
            return true;
        }
        // Nothing was seen of whom it started: it stands still somewhere between here and there.
        if state.program.is_none() && state.ended.is_none() {
            self.end_shim(&state);
        }
        let left = orphan::strike(&state).unwrap_or(true);
        if left {
            return false;
        }
        if let Some(group) = state.group() {
            // From here on nothing begins in it.
            let _ = group.remove();
        }
        if state.shim.is_none_or(|shim| !shim.is_alive()) {
            return true;
        }
        if now.since(self.until) >= SHIM_MAX {
            self.end_shim(&state);
        }
        false
    }

    fn end_shim(&self, state: &ShimState) {
        if let Some(shim) = state.shim.filter(|shim| shim.is_alive()) {
            // First, so that whoever sees the shim gone finds it.
            self.folder.note_guard();
            shim.kill();
        }
    }
}

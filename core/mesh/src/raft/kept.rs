//! A machine that keeps its state on disk: what is kept beside it, where it goes on, and snapshots a frame at a time.
//!
//! With each batch the machine keeps, in one step with the state, how far that is applied, the membership, and who got which answer; so a
//! replica that starts again takes up exactly where its state is. Batches are not synced. A snapshot is the moment at which they are, and
//! is nothing else: only then may the log be shortened. What is sent to a member that lacks too much is the state as it is when sending
//! begins, frame by frame, and it counts there when all of it has arrived.

use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hirsel_model::{NodeId, codec};
use serde::{Deserialize, Serialize};

use super::machine::{Inner, Machine, sound};
use super::sessions::Sessions;
use super::store::lock;
use super::wire::{Head, Position};
use super::{Frames, Snapshot, SnapshotMeta, StateMachineError};

/// What is kept beside the state.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Beside {
    head: Head,
    /// The last entry that held a command.
    command: u64,
    sessions: Sessions,
}

/// A snapshot that arrives.
pub(super) struct Arriving {
    from: NodeId,
    head: Head,
    /// The number of the next frame.
    next: u64,
    beside: Bytes,
    whole: bool,
}

/// A snapshot that is sent.
pub(super) struct Sending {
    head: Head,
    /// The next piece, which is what is kept beside the state to begin with.
    ahead: Option<Vec<u8>>,
    frames: Arc<Mutex<Box<dyn Frames>>>,
}

impl Sending {
    pub fn head(&self) -> &Head {
        &self.head
    }
}

impl Inner {
    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() }
    }

    fn beside(&self) -> Vec<u8> {
        let head = Head::from(&self.meta());
        codec::encode(&Beside { head, command: self.command, sessions: self.sessions.clone() })
    }

    /// Ends a batch, if the machine keeps its state by itself.
    pub(super) fn keep(&mut self, durable: bool) -> Result<(), StateMachineError> {
        if self.machine.on_disk().is_none() {
            return Ok(());
        }
        let beside = self.beside();
        let machine = &mut self.machine;
        sound(|| machine.on_disk().map_or(Ok(()), |disk| disk.keep(&beside, durable)))
    }

    fn stand_at(&mut self, beside: Beside) {
        let meta = SnapshotMeta::from(beside.head);
        self.last = meta.last_log_id;
        self.membership = meta.last_membership;
        self.command = beside.command;
        self.sessions = beside.sessions;
    }
}

impl Machine {
    /// Whether the machine keeps its state by itself.
    pub(super) fn is_on_disk(&self) -> bool {
        lock(&self.shared.inner).machine.on_disk().is_some()
    }

    /// Stands where the state on disk is.
    pub(super) fn resume(&self) -> Result<(), String> {
        let mut inner = lock(&self.shared.inner);
        let machine = &mut inner.machine;
        let kept = sound(|| machine.on_disk().map_or(Ok(None), |disk| disk.kept())).map_err(|error| error.0)?;
        match kept {
            Some(kept) => inner.stand_at(codec::decode(&kept).map_err(|error| error.to_string())?),
            None => inner.forget(),
        }
        self.publish(&mut inner);
        Ok(())
    }

    /// Carries out something that waits for a disk, where it stalls nobody.
    async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Inner) -> Result<T, StateMachineError> + Send + 'static,
    ) -> Result<T, StateMachineError> {
        let slot = Arc::new(Mutex::new(None));
        let (machine, found) = (self.clone(), slot.clone());
        let run = self.shared.world.disk.run(Box::new(move || {
            *lock(&found) = Some(work(&mut lock(&machine.shared.inner)));
            Ok(())
        }));
        run.await.map_err(|error| StateMachineError(error.to_string()))?;
        let done = lock(&slot).take();
        done.unwrap_or_else(|| Err(StateMachineError("the disk did nothing".into())))
    }

    /// The snapshot that the state is by itself, once it is synced; none before anything was applied.
    pub(super) async fn as_it_is(&self) -> Result<Option<Snapshot>, io::Error> {
        let kept = self.aside(|inner| {
            if inner.last.is_none() {
                return Ok(None);
            }
            inner.keep(true)?;
            Ok(Some(Snapshot { meta: inner.meta(), snapshot: Bytes::new() }))
        });
        let index = lock(&self.shared.inner).last.map_or(0, |last| last.index);
        kept.await.map_err(|error| self.stop(index, &error))
    }

    /// Begins to send the state as it is; none if snapshots of it are held in memory.
    pub(super) async fn sending(&self) -> Result<Option<Sending>, String> {
        if !self.is_on_disk() {
            return Ok(None);
        }
        let sending = self.aside(|inner| {
            let (head, beside) = (Head::from(&inner.meta()), inner.beside());
            let Some(disk) = inner.machine.on_disk() else { return Ok(None) };
            Ok(Some(Sending { head, ahead: Some(beside), frames: Arc::new(Mutex::new(disk.frames()?)) }))
        });
        sending.await.map_err(|error| error.0)
    }

    /// The next piece, and whether it is the last one; none after that.
    pub(super) async fn next_frame(&self, sending: &mut Sending) -> Result<Option<(Vec<u8>, bool)>, String> {
        let Some(bytes) = sending.ahead.take() else { return Ok(None) };
        let frames = sending.frames.clone();
        sending.ahead = self.apart(move || lock(&frames).next()).await.map_err(|error| error.0)?;
        Ok(Some((bytes, sending.ahead.is_none())))
    }

    /// As [`Machine::aside`], without the state.
    async fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StateMachineError> + Send + 'static,
    ) -> Result<T, StateMachineError> {
        let slot = Arc::new(Mutex::new(None));
        let found = slot.clone();
        let run = self.shared.world.disk.run(Box::new(move || {
            *lock(&found) = Some(sound(work));
            Ok(())
        }));
        run.await.map_err(|error| StateMachineError(error.to_string()))?;
        let done = lock(&slot).take();
        done.unwrap_or_else(|| Err(StateMachineError("the disk did nothing".into())))
    }

    /// Takes a piece of a snapshot from another member, and says whether all of it is there.
    pub(super) async fn arrive(
        &self,
        from: NodeId,
        head: &Head,
        (number, last): (u64, bool),
        bytes: Bytes,
    ) -> Result<bool, String> {
        if !self.is_on_disk() {
            return Err("this group sends its snapshots in another way".into());
        }
        if number == 0 {
            codec::decode::<Beside>(&bytes).map_err(|error| error.to_string())?;
            // What the engine is about to take must stay; what it has passed over, because the state is newer, need not.
            let last = lock(&self.shared.inner).last.map(Position::from);
            if lock(&self.shared.arriving).as_ref().is_some_and(|it| it.whole && it.head.last > last) {
                return Err("another snapshot is being taken".into());
            }
            let whole = false;
            *lock(&self.shared.arriving) = Some(Arriving { from, head: head.clone(), next: 1, beside: bytes, whole });
            return Ok(false);
        }
        let follows = |it: &Arriving| it.from == from && it.head == *head && it.next == number && !it.whole;
        if !lock(&self.shared.arriving).as_ref().is_some_and(follows) {
            *lock(&self.shared.arriving) = None;
            return Err(format!("frame {number} of a snapshot does not follow the last one"));
        }
        let taken = self.aside(move |inner| {
            let machine = &mut inner.machine;
            sound(|| machine.on_disk().map_or(Ok(()), |disk| disk.arrive(&bytes, number == 1)))
        });
        let taken = taken.await;
        let mut arriving = lock(&self.shared.arriving);
        match (taken, arriving.as_mut().filter(|it| follows(it))) {
            (Ok(()), Some(it)) => {
                it.next += 1;
                it.whole = last;
                Ok(last)
            }
            (taken, _) => {
                *arriving = None;
                Err(taken.err().map_or_else(|| "another snapshot arrives".into(), |error| error.0))
            }
        }
    }

    /// Forgets the snapshot that has arrived, for the engine does not want it.
    pub(super) fn refuse_arrived(&self) {
        *lock(&self.shared.arriving) = None;
    }

    /// Makes the snapshot that has arrived the state.
    pub(super) async fn take_arrived(&self, meta: &SnapshotMeta) -> Result<(), StateMachineError> {
        let arrived = lock(&self.shared.arriving).take().filter(|it| it.whole && it.head == Head::from(meta));
        let Some(Arriving { beside, .. }) = arrived else {
            return Err(StateMachineError("the snapshot is not the one that arrived".into()));
        };
        let machine = self.clone();
        self.aside(move |inner| {
            let at = codec::decode(&beside).map_err(|error| StateMachineError(error.to_string()))?;
            let state = &mut inner.machine;
            sound(|| state.on_disk().map_or(Ok(()), |disk| disk.install(&beside)))?;
            inner.stand_at(at);
            machine.publish(inner);
            Ok(())
        })
        .await
    }
}

/// Reads what is kept beside a state.
pub(super) fn decode(bytes: &[u8]) {
    if let Ok(beside) = codec::decode::<Beside>(bytes) {
        drop(SnapshotMeta::from(beside.head));
    }
}

//! The serving end of the follow stream: any replica that is in the group.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use hirsel_model::codec;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::frame::{self, Beat, FOLLOW, Frame, Hello};
use super::machine::Lacks;
use crate::raft::Place;
use crate::seam::BoxStream;

/// Followers of one source. A few hundred nodes over three sources stay far below.
const FOLLOWERS_MAX: usize = 1024;
/// Who leads is said at least this often, so that a follower knows how old its news is.
const BEAT_EVERY: Duration = Duration::from_millis(500);
/// Entries are sent in frames of about this size.
const ENTRIES_BYTES_MAX: usize = 256 << 10;
/// A follower that takes nothing for this long is gone; it comes back by itself.
const WRITE_WITHIN: Duration = Duration::from_secs(10);

/// Begins to serve. The handler does not keep the control alive.
pub(super) fn serve(shared: &Arc<Shared>, stop: &CancellationToken) {
    let (weak, stop) = (Arc::downgrade(shared), stop.clone());
    let seats = Arc::new(Semaphore::new(FOLLOWERS_MAX));
    shared.calls.serve_stream(
        FOLLOW,
        Arc::new(move |from, hello, stream| {
            let (weak, stop, seats) = (weak.clone(), stop.clone(), seats.clone());
            async move {
                let (Some(shared), Ok(_seat), Ok(hello)) =
                    (weak.upgrade(), seats.try_acquire(), codec::decode::<Hello>(&hello))
                else {
                    return;
                };
                let fed = stop.run_until_cancelled(feed(&shared, hello, stream)).await;
                if let Some(Err(error)) = fed {
                    tracing::debug!(node = %from, %error, "a follower left");
                }
            }
            .boxed()
        }),
    );
}

async fn feed(shared: &Shared, hello: Hello, mut stream: BoxStream) -> std::io::Result<()> {
    let mut sent = hello.applied;
    let (mut standing, mut applied) = (shared.group.standing(), shared.recent.applied());
    let (mut beat_now, mut sent_term) = (true, 0);
    while shared.group.stopped().borrow().is_none() && standing.borrow_and_update().place != Place::Outside {
        applied.mark_unchanged();
        // Entries of a new term follow the beat that names it: a follower knows of which term its state is.
        let term = shared.recent.position().0;
        if std::mem::take(&mut beat_now) || term != sent_term {
            sent_term = term;
            write(&mut stream, &Frame::Beat(beat(shared))).await?;
        }
        let before = sent;
        let frame = match shared.recent.since(sent, ENTRIES_BYTES_MAX) {
            Lacks::Nothing => None,
            Lacks::Entries(entries) => {
                sent = entries.last().map_or(sent, |(index, _)| *index);
                Some(Frame::Entries(entries))
            }
            Lacks::All(state) => {
                sent = state.applied.0;
                Some(Frame::State(frame::pack(&*state)?))
            }
        };
        if let Some(frame) = frame {
            if shared.recent.position().0 != sent_term {
                // Its term is named first; what was taken is taken again.
                sent = before;
                continue;
            }
            write(&mut stream, &frame).await?;
            continue;
        }
        tokio::select! {
            changed = applied.changed() => if changed.is_err() { break },
            changed = standing.changed() => match changed {
                Ok(()) => beat_now = true,
                Err(_) => break,
            },
            () = tokio::time::sleep(BEAT_EVERY) => beat_now = true,
        }
    }
    Ok(())
}

async fn write(stream: &mut BoxStream, frame: &Frame) -> std::io::Result<()> {
    tokio::time::timeout(WRITE_WITHIN, frame::write(stream, frame)).await?
}

fn beat(shared: &Shared) -> Beat {
    let standing = shared.group.standing().borrow().clone();
    let (applied_term, applied) = shared.recent.position();
    Beat {
        term: standing.term,
        leader: standing.leader,
        voters: standing.voters,
        learners: standing.learners,
        applied,
        applied_term: Some(applied_term),
        stale_ms: shared.group.heard_ago().map(|ago| ago.as_millis() as u64),
    }
}

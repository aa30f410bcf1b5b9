//! The following end: a node that does not get the state from its own log gets it from one that does.
//!
//! It stays with a source as long as that is good: it answers, and has heard a leader lately. Otherwise it tries the next. What
//! comes is applied to the newest state known here, so changing sources never goes backwards.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hirsel_model::{NodeId, codec};
use tokio::time::{Instant, timeout};

use super::Shared;
use super::frame::{self, FOLLOW, Frame, Hello};
use super::machine::{NotTaken, apply, decode_state};

/// A source whose leader was silent for this long, or that is silent itself, is changed for another.
pub(super) const STALE_AFTER: Duration = Duration::from_secs(2);
/// A member follows when it heard no leader for this long: longer than an election usually takes.
pub(super) const MEMBER_ALONE_AFTER: Duration = Duration::from_secs(2);
/// Between two sources, times one to two by chance, so that followers of a dead source do not run to the next one in step.
const NEXT_AFTER: Duration = Duration::from_millis(100);
/// The same when every source was tried in vain.
const ROUND_AFTER: Duration = Duration::from_secs(1);

/// How many other nodes are tried when no voter and no spare is a source.
const ASKED_IN_VAIN: usize = 3;

/// Follows whenever it is needed.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut good: Option<NodeId> = None;
    let mut in_vain = false;
    loop {
        alone(&shared).await;
        let mut sources = sources(&shared, good, in_vain);
        let mut served = false;
        while let Some(source) = sources.pop() {
            if shared.has_leader_itself(MEMBER_ALONE_AFTER) {
                break;
            }
            let ended = follow(&shared, source).await;
            if let Err(error) = &ended {
                tracing::debug!(node = %source, %error, "following ended");
            }
            if ended.is_ok() {
                good = Some(source);
                served = true;
                break;
            }
            pause(&shared, NEXT_AFTER).await;
        }
        in_vain = !served;
        if !served {
            good = None;
            pause(&shared, ROUND_AFTER).await;
        }
    }
}

/// Waits until this node has heard no leader itself for [`MEMBER_ALONE_AFTER`].
async fn alone(shared: &Shared) {
    let (mut standing, mut stopped) = (shared.group.standing(), shared.group.stopped());
    while let Some(left) = shared.group.heard_ago().and_then(|ago| MEMBER_ALONE_AFTER.checked_sub(ago)) {
        standing.mark_unchanged();
        stopped.mark_unchanged();
        if !shared.has_leader_itself(MEMBER_ALONE_AFTER) {
            return;
        }
        // Whoever tells is gone only with everything else, and then there is nothing to wait for.
        tokio::select! {
            _ = standing.changed() => {}
            _ = stopped.changed() => {}
            () = tokio::time::sleep(left) => {}
        }
    }
}

async fn pause(shared: &Shared, at_least: Duration) {
    let extra = at_least.mul_f64((shared.world.chance.number() % 1000) as f64 / 1000.0);
    tokio::time::sleep(at_least + extra).await;
}

/// Whom to follow, the best last: the last good one, then voters, then spares, then anyone.
fn sources(shared: &Shared, good: Option<NodeId>, in_vain: bool) -> Vec<NodeId> {
    let beat = shared.beat.borrow().clone().map(|(beat, _)| beat).unwrap_or_default();
    let state = shared.state.now();
    let standing = shared.group.standing().borrow().clone();
    let mut voters: BTreeSet<NodeId> = beat.voters.union(&state.plan.voters).copied().collect();
    voters.extend(&standing.voters);
    let mut others: BTreeSet<NodeId> = beat.learners.union(&state.plan.spares).copied().collect();
    // Most nodes are no source, and asking them all would be a storm: only while nothing is known, and a few at a time when nobody
    // who should be one is. Where all voters were lost, another node may have founded the group anew.
    let everybody = shared.peers.borrow().clone();
    if voters.is_empty() {
        others.extend(everybody.nodes.keys());
    } else if in_vain {
        let mut drawn: Vec<(u64, NodeId)> =
            everybody.nodes.keys().map(|node| (shared.world.chance.number(), *node)).collect();
        drawn.sort_unstable();
        others.extend(drawn.into_iter().take(ASKED_IN_VAIN).map(|(_, node)| node));
    }
    let mut ranked: Vec<(u8, u64, NodeId)> = voters
        .union(&others)
        .filter(|node| **node != shared.me)
        .map(|node| {
            let rank = if Some(*node) == good { 2 } else { u8::from(voters.contains(node)) };
            (rank, shared.world.chance.number(), *node)
        })
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, _, node)| node).collect()
}

/// Why a source was left.
#[derive(Debug, thiserror::Error)]
enum Left {
    #[error("cannot open the stream: {0}")]
    Unreachable(#[from] crate::transport::CallError),
    #[error(transparent)]
    Stream(#[from] io::Error),
    #[error("silent for {} s", STALE_AFTER.as_secs())]
    Silent,
    #[error("it heard no leader for {} s", STALE_AFTER.as_secs())]
    Stale,
    #[error("{0}")]
    NotTaken(#[from] NotTaken),
}

/// Follows one source until it is not good any more (an error), or not needed.
async fn follow(shared: &Shared, source: NodeId) -> Result<(), Left> {
    let mut state = shared.state.now();
    let hello = codec::encode(&Hello { applied: state.applied.0 });
    let opened = timeout(STALE_AFTER, shared.calls.open_stream(source, FOLLOW, hello)).await;
    let mut stream = opened.map_err(|_| Left::Silent)??;
    // What a source has that heard no leader is taken all the same, up to here, before it is left.
    let mut leave_at: Option<u64> = None;
    loop {
        if leave_at.is_some_and(|applied| state.applied.0 >= applied) {
            return Err(Left::Stale);
        }
        let frame = timeout(STALE_AFTER, frame::read(&mut stream)).await.map_err(|_| Left::Silent)??;
        match frame {
            Frame::Beat(beat) => {
                let heard_ago = beat.stale_ms.map(Duration::from_millis);
                let stale = heard_ago.is_none_or(|ago| ago > STALE_AFTER);
                shared.group.hint(beat.leader.zip(heard_ago), beat.voters.clone());
                leave_at = stale.then_some(beat.applied);
                shared.beat.send_replace(Some((beat, Instant::now())));
                if !stale && shared.has_leader_itself(STALE_AFTER / 2) {
                    return Ok(());
                }
            }
            Frame::Entries(entries) => {
                // The own log may have been quicker meanwhile.
                let shown = shared.state.now();
                if shown.applied > state.applied {
                    state = shown;
                }
                for (index, entry) in
                    entries.iter().filter(|(index, _)| *index > state.applied.0).cloned().collect::<Vec<_>>()
                {
                    shared.outdated.note(apply(&mut state, index, &entry))?;
                }
                shared.state.offer(&state);
            }
            Frame::State(packed) => {
                let newer = shared.outdated.note(decode_state(&frame::unpack(&packed)?))?;
                if newer.applied > state.applied {
                    state = newer;
                }
                shared.state.offer(&state);
            }
        }
    }
}

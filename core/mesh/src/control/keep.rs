//! The last state on disk of a node that follows, for a start without anyone who answers.

use std::sync::Arc;
use std::time::Duration;

use hirsel_model::control::ControlState;
use hirsel_model::id::LogIndex;
use hirsel_model::{codec, feature};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::follow::MEMBER_ALONE_AFTER;
use super::frame::{self, Beat};
use super::machine::Peek;
use crate::seam::Disk;

/// In the data folder.
pub const FILE: &str = "control-state";
/// At most one write in this time: the state is written whole, and what is lost is asked for again.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// What is kept.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Kept {
    pub state: ControlState,
    /// Who led and voted.
    pub beat: Option<Beat>,
}

/// As much of it as any build understands.
#[derive(Default, Deserialize)]
#[serde(default)]
struct KeptPeek {
    state: Peek,
}

/// What was kept; nothing if there is nothing that can be understood, for it is only a copy.
///
/// # Errors
/// When the cluster's feature level is above what this build understands.
pub(super) fn load(disk: &dyn Disk) -> Result<Kept, String> {
    let mut level = 0;
    let mut read = || -> Result<Option<Kept>, String> {
        let Some(packed) = disk.read(FILE).map_err(|error| error.to_string())? else { return Ok(None) };
        let bytes = frame::unpack(&packed).map_err(|error| error.to_string())?;
        level = codec::decode::<KeptPeek>(&bytes).map_or(0, |peek| peek.state.cluster.feature_level);
        codec::decode(&bytes).map(Some).map_err(|error| error.to_string())
    };
    let read = read();
    if let Some(words) = feature::outdated(level) {
        return Err(words);
    }
    Ok(match read {
        Ok(kept) => kept.unwrap_or_default(),
        Err(error) => {
            tracing::warn!(file = FILE, error, "the kept control state cannot be read and is passed over");
            Kept::default()
        }
    })
}

/// Keeps the state of a node that follows until `stop`.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut state = shared.state.0.subscribe();
    let mut written = state.borrow_and_update().applied;
    let mut failing = false;
    loop {
        let more = stop.run_until_cancelled(state.changed()).await.is_some_and(|changed| changed.is_ok());
        // A member has it all in its log.
        if !shared.has_leader_itself(MEMBER_ALONE_AFTER) {
            match write(&shared, &mut written).await {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(file = FILE, %error, "cannot keep the control state");
                }
                Err(_) => {}
            }
        }
        if !more {
            return;
        }
        stop.run_until_cancelled(tokio::time::sleep(WRITE_EVERY)).await;
    }
}

pub(super) async fn write(shared: &Shared, written: &mut LogIndex) -> std::io::Result<()> {
    // One at a time: a file that is being replaced cannot be replaced by another writer.
    let _alone = shared.keeping.lock().await;
    let state = shared.state.now();
    if state.applied <= *written {
        return Ok(());
    }
    let beat = shared.beat.borrow().clone().map(|(beat, _)| Beat { stale_ms: None, ..beat });
    let (disk, newest) = (shared.world.disk.clone(), state.applied);
    // Encoding and syncing a large state takes milliseconds that nothing else should wait for.
    let work = move || disk.write(FILE, &frame::pack(&Kept { state: (*state).clone(), beat })?);
    shared.world.disk.run(Box::new(work)).await?;
    *written = newest;
    Ok(())
}

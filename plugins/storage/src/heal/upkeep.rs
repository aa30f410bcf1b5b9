//! What a node does with its own disk beside all requests: reads everything within a month or so, and frees the room of what is dead.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::disk::{Disk, scrub};
use crate::gateway::Gateway;
use crate::meta::command::Command;
use crate::meta::kinds::Missed;
use crate::meta::names::ChunkId;

/// Within which everything is read once: what rots on two disks meanwhile is lost only with a third.
const SCRUB_WITHIN_MS: u64 = 14 * 24 * 3600 * 1000;
/// Bytes a second that scrub takes of a disk at most.
const SCRUB_RATE_MAX: u64 = 20 << 20;
/// Between two looks at what is due.
const EVERY: Duration = Duration::from_secs(10);
/// Segments that are compacted between two looks.
const COMPACTED_MAX: usize = 4;

/// Keeps one disk, for as long as the role lives.
pub async fn keep(gateway: Gateway, disk: Arc<Disk>) {
    let mut pass = scrub::Pass::default();
    let mut before = gateway.now();
    loop {
        sleep(EVERY).await;
        let now = gateway.now();
        let since_ms = u64::try_from(now.since(before).as_millis()).unwrap_or(u64::MAX);
        before = now;
        let Ok(usage) = disk.usage().await else { continue };
        let wall_ms = gateway.wall().0;
        let due = scrub::due(&pass, usage.sum.held, SCRUB_WITHIN_MS, wall_ms, since_ms, SCRUB_RATE_MAX);
        if due > 0 || pass == scrub::Pass::default() {
            match disk.scrub(due, wall_ms).await {
                Ok(step) => {
                    pass = step.pass;
                    if !step.damaged.is_empty() {
                        warn!(damaged = step.damaged.len(), "scrub found damage, which is repaired from others");
                        repair(&gateway, &step.damaged).await;
                    }
                }
                Err(error) => debug!(%error, "not scrubbed"),
            }
        }
        for _ in 0..COMPACTED_MAX {
            match disk.compact().await {
                Ok(Some(freed)) => info!(bytes = freed.bytes, copied = freed.copied, "compacted"),
                Ok(None) => break,
                Err(error) => {
                    debug!(%error, "not compacted");
                    break;
                }
            }
        }
    }
}

/// Puts what is damaged here into the queue of repairs.
pub async fn repair(gateway: &Gateway, damaged: &[crate::chunk::ChunkId]) {
    let piece = |id: &crate::chunk::ChunkId| {
        let (chunk, shard) = ChunkId::from_disk(*id);
        Missed { chunk, shard, node: gateway.me() }
    };
    for some in damaged.chunks(crate::meta::limits::NAMED_MAX) {
        let missed = some.iter().map(piece).collect();
        if let Err(error) = gateway.ask(Command::AddRepairs { missed }).await {
            // The audit finds them again.
            debug!(%error, "damage not told");
        }
    }
}

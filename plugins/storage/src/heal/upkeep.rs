//! What a node does with its own disk beside all requests: reads everything within a month or so, and frees the room of what is dead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hirsel_model::NodeId;
use hirsel_role::peers::Peers;
use hirsel_role::storage::Scrubbing;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::audit;
use crate::disk::{Disk, DiskError, scrub};
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
/// Bytes that are read at once where somebody waits for a whole pass, and the pause behind them: 160 MiB a second at most, so that requests still
/// find the disk.
const WHOLE_STEP_BYTES: u64 = 16 << 20;
const WHOLE_PAUSE: Duration = Duration::from_millis(100);
/// Segments that are compacted between two looks.
const COMPACTED_MAX: usize = 4;

/// By what a node is asked how far scrub is, with one byte as for audits.
pub const ASK: &str = "storage.scrub";

/// Answers for what this node reads of its disk.
pub fn serve(peers: &dyn Peers, scrubs: watch::Receiver<Scrubbing>, now: Arc<Notify>) {
    peers.serve(ASK, audit::answering(scrubs, now));
}

/// How far each of `nodes` is, or why it does not say.
pub async fn ask(peers: &dyn Peers, nodes: BTreeSet<NodeId>, what: u8) -> BTreeMap<NodeId, Result<Scrubbing, String>> {
    audit::ask_all(peers, nodes, ASK, what).await
}

/// Keeps one disk, for as long as the role lives. When `now` says so, all of it is read at once.
pub async fn keep(gateway: Gateway, disk: Arc<Disk>, scrubs: watch::Sender<Scrubbing>, now: Arc<Notify>) {
    let mut pass = scrub::Pass::default();
    let mut before = gateway.now();
    loop {
        if timeout(EVERY, now.notified()).await.is_ok() {
            whole(&gateway, &disk, &scrubs).await;
            pass = scrub::Pass::default();
        }
        let now = gateway.now();
        let since_ms = u64::try_from(now.since(before).as_millis()).unwrap_or(u64::MAX);
        before = now;
        let Ok(usage) = disk.usage().await else { continue };
        let wall_ms = gateway.wall().0;
        let due = scrub::due(&pass, usage.sum.held, SCRUB_WITHIN_MS, wall_ms, since_ms, SCRUB_RATE_MAX);
        if due > 0 || pass == scrub::Pass::default() {
            match disk.scrub(due, wall_ms).await {
                Ok(step) => {
                    stepped(&gateway, &scrubs, usage.sum.held, &step).await;
                    pass = step.pass;
                }
                Err(error) => failed(&scrubs, &error),
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

/// Reads everything, from the beginning.
async fn whole(gateway: &Gateway, disk: &Disk, scrubs: &watch::Sender<Scrubbing>) {
    scrubs.send_modify(|it| it.begun += 1);
    disk.scrub_anew(gateway.wall().0).await;
    let mut done = false;
    while !done {
        let held = disk.usage().await.map_or(0, |usage| usage.sum.held);
        match disk.scrub(WHOLE_STEP_BYTES, gateway.wall().0).await {
            Ok(step) => {
                stepped(gateway, scrubs, held, &step).await;
                done = step.is_complete;
            }
            Err(error) => {
                failed(scrubs, &error);
                done = true;
            }
        }
        sleep(WHOLE_PAUSE).await;
    }
    scrubs.send_modify(|it| it.ended = it.begun);
}

/// Tells what a step found, and has it repaired.
async fn stepped(gateway: &Gateway, scrubs: &watch::Sender<Scrubbing>, held: u64, step: &scrub::Step) {
    if !step.damaged.is_empty() {
        warn!(damaged = step.damaged.len(), "scrub found damage, which is repaired from others");
        repair(gateway, &step.damaged).await;
    }
    let wall_ms = gateway.wall().0;
    scrubs.send_modify(|it| {
        let pass = &step.pass;
        (it.begun_ms, it.chunks, it.bytes, it.damaged) = (pass.begun_ms, pass.chunks, pass.bytes, pass.damaged);
        (it.held, it.failed) = (held, None);
        if step.is_complete {
            (it.last_ms, it.last_chunks, it.last_bytes, it.last_damaged) =
                (wall_ms, pass.chunks, pass.bytes, pass.damaged);
        }
    });
}

fn failed(scrubs: &watch::Sender<Scrubbing>, error: &DiskError) {
    debug!(%error, "not scrubbed");
    scrubs.send_modify(|it| it.failed = Some(error.to_string()));
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

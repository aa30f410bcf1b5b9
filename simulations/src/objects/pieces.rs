//! What is on the disks, against what the metadata say: counted from outside, piece by piece, each read and looked at.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hirsel_model::NodeId;
use hirsel_model::storage::{Audit, Partition, StorageTable};
use tokio::time::sleep;

use crate::plugins::storage::chunk::ChunkId;
use crate::plugins::storage::disk::Disk;
use crate::plugins::storage::gateway::Gateway;
use crate::plugins::storage::heal::audit;
use crate::plugins::storage::heal::upkeep;
use crate::plugins::storage::meta::kinds::{Chunk, Class};
use crate::plugins::storage::meta::{names, read};
use crate::plugins::storage::role::Seen;

/// Between two looks at whether an audit has ended.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Chunks of a partition that are counted; there are some dozens in all.
const CHUNKS_MAX: usize = 10_000;

/// What a node is asked to look at.
#[derive(Clone, Debug)]
pub enum Inspection {
    /// All of its disk; what is damaged is put into the queue of repairs.
    Scrub,
    /// What should be there, and what should not.
    Audit,
    /// Whether these pieces are there, whole.
    Count(Vec<ChunkId>),
}

/// What was found.
#[derive(Clone, Debug)]
pub enum Look {
    /// So much was damaged.
    Scrubbed(usize),
    /// What the node's own audit found.
    Audited(Audit),
    /// What is not there, or not whole, in words; and how many are.
    Counted(Vec<String>, usize),
}

/// What nodes found, by their names.
pub type Inspections = Arc<Mutex<BTreeMap<String, Look>>>;

impl Inspection {
    /// Looks, on the node.
    ///
    /// # Errors
    /// In words: it cannot be looked at now.
    pub async fn run(self, seen: Seen, me: NodeId, wall_ms: u64) -> Result<Look, String> {
        let gateway = seen.gateway().ok_or("it has no gateway yet")?;
        match self {
            Inspection::Scrub => scrub(&gateway, &*seen.disk().ok_or("it has no disk yet")?, wall_ms).await,
            Inspection::Audit => audit(&seen, me).await.map(Look::Audited),
            Inspection::Count(pieces) => count(&*seen.disk().ok_or("it has no disk yet")?, &pieces).await,
        }
    }
}

async fn scrub(gateway: &Gateway, disk: &Disk, wall_ms: u64) -> Result<Look, String> {
    let mut damaged = 0;
    // What an earlier pass had begun ends first.
    for _ in 0..2 {
        loop {
            let step = disk.scrub(u64::MAX, wall_ms).await.map_err(|error| error.to_string())?;
            damaged += step.damaged.len();
            upkeep::repair(gateway, &step.damaged).await;
            if step.is_complete {
                break;
            }
        }
    }
    Ok(Look::Scrubbed(damaged))
}

/// The next audit, which begins after this was asked for.
async fn audit(seen: &Seen, me: NodeId) -> Result<Audit, String> {
    let ask = |what| async move {
        let mut answers = audit::ask(seen.peers(), [me].into(), what).await;
        answers.remove(&me).unwrap_or_else(|| Err("it does not answer".into()))
    };
    let next = ask(audit::AGAIN).await?.begun + 1;
    loop {
        let told = ask(audit::LAST).await?;
        if told.ended >= next {
            return told.failed.map_or(Ok(told.last), Err);
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn count(disk: &Disk, pieces: &[ChunkId]) -> Result<Look, String> {
    let (mut missing, mut there) = (Vec::new(), 0);
    for piece in pieces {
        let read = async {
            let mut reader = disk.get(*piece, 0..u32::MAX).await?;
            while reader.next().await?.is_some() {}
            Ok::<_, crate::plugins::storage::disk::DiskError>(())
        };
        match read.await {
            Ok(()) => there += 1,
            Err(error) => missing.push(error.to_string()),
        }
    }
    Ok(Look::Counted(missing, there))
}

/// Whether nothing is on its way: no partition moves, nothing is to be made anew, and nothing is to be unlinked. By a node that leads.
///
/// # Errors
/// In words: what is.
pub fn is_settled(gateway: &Gateway, table: &StorageTable) -> Result<(), String> {
    let here = gateway.meta().group().here().map_err(|error| error.to_string())?;
    if let Some(moves) = table.partitions.values().find(|partition| !partition.next.is_empty()) {
        return Err(format!("a partition moves from {:?} to {:?}", moves.nodes, moves.next));
    }
    let wrong = |error: crate::plugins::storage::meta::rows::RowsError| error.to_string();
    let repairs = read::repairs(&here, None, None, CHUNKS_MAX).map_err(wrong)?;
    if let Some(missed) = repairs.first() {
        return Err(format!("{} pieces are missing, as {missed:?}", repairs.len()));
    }
    let condemned = read::condemned(&here, None, None, CHUNKS_MAX).map_err(wrong)?.len();
    if condemned > 0 || read::is_dying(&here).map_err(wrong)? {
        return Err(format!("{condemned} chunks are to be unlinked, or more are to be condemned"));
    }
    Ok(())
}

/// Which pieces should be where, by the metadata as a node that leads has them and by the table.
///
/// # Errors
/// In words, when they cannot be read.
pub fn expected(gateway: &Gateway, table: &StorageTable) -> Result<BTreeMap<NodeId, Vec<ChunkId>>, String> {
    let here = gateway.meta().group().here().map_err(|error| error.to_string())?;
    let mut expected: BTreeMap<NodeId, Vec<ChunkId>> = BTreeMap::new();
    for (number, partition) in &table.partitions {
        let chunks = read::chunks(&here, *number, None, CHUNKS_MAX).map_err(|error| error.to_string())?;
        for (id, chunk) in &chunks {
            for (node, piece) in homes(partition, *id, chunk) {
                expected.entry(node).or_default().push(piece);
            }
        }
    }
    Ok(expected)
}

fn homes(partition: &Partition, id: names::ChunkId, chunk: &Chunk) -> Vec<(NodeId, ChunkId)> {
    let homes = (0u8..).zip(&partition.nodes).take(usize::from(chunk.class.pieces()));
    let shard = |number| if matches!(chunk.class, Class::Copies(_)) { 0 } else { number };
    homes.map(|(number, node)| (*node, id.on_disk(shard(number)))).collect()
}

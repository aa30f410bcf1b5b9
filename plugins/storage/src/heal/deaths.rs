//! How what nobody can read comes to its end: first a commit, then the disks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::join_all;
use hirsel_model::order::StorageOrder;
use hirsel_model::storage::{WIDTHS, width};
use hirsel_model::{Incarnation, NodeId};

use crate::chunk;
use crate::gateway::{Gateway, target};
use crate::meta::command::{Answer, Command};
use crate::meta::names::{ChunkId, SHARDS_MAX};
use crate::meta::read;
use crate::meta::rows::{Rows, RowsError};
use crate::wire::DEATHS_MAX;

/// Chunks that are unlinked in one step: each may be as many pieces as a class has.
const UNLINKED: usize = 180;
/// Pieces that chunks of the widest class have.
const PIECES_MAX: u8 = WIDTHS[WIDTHS.len() - 1];
const _: () = assert!(PIECES_MAX <= SHARDS_MAX && UNLINKED * PIECES_MAX as usize <= DEATHS_MAX * 2);

/// What is to come to its end.
pub(crate) struct Due {
    /// Gateways with writes of a start that is over: of those before this one.
    pub gone: Vec<(NodeId, Incarnation)>,
    /// Something is to be swept.
    pub is_dying: bool,
    /// What is to be unlinked on every node, and then forgotten: not more than one step takes.
    pub condemned: Vec<ChunkId>,
}

/// Looks for what is to come to its end. Rows may lack what was committed lately: what is condemned, dying or begun by a start that is over stays so.
pub(crate) fn due(rows: &dyn Rows, incarnations: &BTreeMap<NodeId, Incarnation>) -> Result<Due, RowsError> {
    let writers = read::writers(rows)?.into_iter();
    let gone = writers.filter_map(|(node, earliest)| match incarnations.get(&node) {
        // Who does not belong to the cluster any more writes nothing.
        None => Some((node, Incarnation(u64::MAX))),
        Some(now) => (earliest < *now).then_some((node, *now)),
    });
    let condemned = read::condemned(rows, None, None, UNLINKED)?;
    Ok(Due { gone: gone.collect(), is_dying: read::is_dying(rows)?, condemned })
}

/// Ends writes of starts of gateways that are gone, sweeps, and unlinks some of what was condemned. Whether there is more to do.
pub async fn step(gateway: Gateway, order: Arc<StorageOrder>) -> Result<bool, String> {
    let due = {
        let here = gateway.meta().group().here().map_err(|error| error.to_string())?;
        due(&here, &order.incarnations).map_err(|error| error.to_string())?
    };
    let mut more = false;
    for (node, before) in due.gone {
        more |= ask(&gateway, Command::AbortGone { gateway: node, before }).await?;
    }
    if due.is_dying {
        more |= ask(&gateway, Command::Sweep).await?;
    }
    if !due.condemned.is_empty() {
        more |= unlink(&gateway, &order, due.condemned).await?;
    }
    Ok(more)
}

async fn ask(gateway: &Gateway, command: Command) -> Result<bool, String> {
    match gateway.ask(command).await.map_err(|error| error.to_string())? {
        Answer::Some { more, .. } => Ok(more),
        _ => Ok(false),
    }
}

/// Unlinks on every node that may have a piece; only what is gone from all of them is forgotten. One that does not answer is asked again.
async fn unlink(gateway: &Gateway, order: &StorageOrder, condemned: Vec<ChunkId>) -> Result<bool, String> {
    let nodes: BTreeSet<NodeId> = order.nodes.union(&order.table.nodes()).copied().collect();
    // As many as the partition has nodes; copies all have the number of the first.
    let pieces = |chunk: &ChunkId| {
        let chunk = *chunk;
        (0..width(chunk.partition()).min(PIECES_MAX)).map(move |shard| chunk.on_disk(shard))
    };
    let pieces: Vec<chunk::ChunkId> = condemned.iter().flat_map(pieces).collect();
    let asked = nodes.into_iter().map(|node| unlink_on(gateway.clone(), node, pieces.clone()).boxed());
    for unlinked in join_all(asked).await {
        unlinked?;
    }
    let all = condemned.len() == UNLINKED;
    gateway.ask(Command::Forget { chunks: condemned }).await.map_err(|error| error.to_string())?;
    Ok(all)
}

async fn unlink_on(gateway: Gateway, node: NodeId, pieces: Vec<chunk::ChunkId>) -> Result<(), String> {
    let (remote, target) = (gateway.store().remote(), target(node));
    for some in pieces.chunks(DEATHS_MAX) {
        remote.condemn(target, some.to_vec()).await.map_err(|error| format!("node {node}: {error}"))?;
        remote.unlink(target, some.to_vec()).await.map_err(|error| format!("node {node}: {error}"))?;
    }
    Ok(())
}

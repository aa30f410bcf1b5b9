//! How what nobody can read comes to its end: first a commit, then the disks.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::join_all;
use hirsel_model::order::StorageOrder;
use hirsel_model::{Incarnation, NodeId};

use crate::chunk;
use crate::gateway::{Gateway, target};
use crate::meta::command::{Answer, Command};
use crate::meta::names::{ChunkId, SHARDS_MAX};
use crate::meta::read;
use crate::wire::DEATHS_MAX;

/// Chunks that are unlinked in one step: each may be as many pieces as a class has.
const UNLINKED: usize = 200;
/// Open writes that are looked at in one step.
const WRITES_LOOKED_AT: usize = 10_000;
/// Pieces that chunks of the widest class have.
const PIECES: u8 = 6;
const _: () = assert!(PIECES <= SHARDS_MAX && UNLINKED * PIECES as usize <= DEATHS_MAX * 2);

/// Ends writes of starts of gateways that are gone, sweeps, and unlinks some of what was condemned. Whether there is more to do.
pub async fn step(gateway: Gateway, order: Arc<StorageOrder>) -> Result<bool, String> {
    // What this node has is old enough: what is condemned, dying or begun by a start that is over stays so.
    let (gone, dying, condemned) = {
        let here = gateway.meta().group().here().map_err(|error| error.to_string())?;
        let wrong = |error: crate::meta::rows::RowsError| error.to_string();
        let writers = read::writers(&here, WRITES_LOOKED_AT).map_err(wrong)?;
        let gone: Vec<(NodeId, Incarnation)> = writers
            .into_iter()
            .filter_map(|(node, earliest)| match order.incarnations.get(&node) {
                // Who does not belong to the cluster any more writes nothing.
                None => Some((node, Incarnation(u64::MAX))),
                Some(now) => (earliest < *now).then_some((node, *now)),
            })
            .collect();
        let dying = read::is_dying(&here).map_err(wrong)?;
        (gone, dying, read::condemned(&here, None, None, UNLINKED).map_err(wrong)?)
    };
    let mut more = false;
    for (node, before) in gone {
        more |= ask(&gateway, Command::AbortGone { gateway: node, before }).await?;
    }
    if dying {
        more |= ask(&gateway, Command::Sweep).await?;
    }
    if !condemned.is_empty() {
        more |= unlink(&gateway, &order, condemned).await?;
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
    let pieces: Vec<chunk::ChunkId> =
        condemned.iter().flat_map(|chunk| (0..PIECES).map(|shard| chunk.on_disk(shard))).collect();
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

//! Where the pieces of an object are: what its chunks' nodes themselves say, and what waits to be made anew.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, stream};
use hirsel_model::NodeId;
use hirsel_role::storage::{ChunkLayout, Layout, PieceLayout, PieceState, StorageError};
use tokio::time::timeout;

use super::{People, meta, safety, strange};
use crate::gateway::target;
use crate::meta::kinds::{Body, Class, Missed};
use crate::meta::names::{BucketName, ChunkId, ObjectKey};
use crate::meta::query::{Query, Reply};
use crate::meta::read::Piece;
use crate::wire::{RemoteError, Why};

/// Pieces that are asked for at once, on all nodes together.
const AT_ONCE: usize = 64;
/// A node that lives says within this whether it has a piece.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Where the pieces of an object are. Of a long one the first chunks are looked at, as many as the metadata tell at once: each piece is a call.
pub(super) async fn layout(people: &People, bucket: BucketName, key: ObjectKey) -> Result<Layout, StorageError> {
    let gateway = &people.gateway;
    let query = Query::Version { bucket, key, version: None, from: 0 };
    let Reply::Version(found) = gateway.look(query).await.map_err(meta)? else { return Err(strange()) };
    let object =
        found.version.object.as_deref().ok_or_else(|| meta(crate::meta::refusal::Refusal::NoSuchKey.into()))?;
    let pieces = found.pieces;
    let missed = match gateway.look(Query::Missing(pieces.iter().map(|it| it.chunk.id).collect())).await {
        Ok(Reply::Missing(missed)) => missed,
        Ok(_) => return Err(strange()),
        Err(error) => return Err(meta(error)),
    };
    let homes: Vec<Vec<Home>> = pieces.iter().map(|piece| homes(people, piece)).collect();
    let asked = pieces.iter().zip(&homes).enumerate().flat_map(|(at, (piece, homes))| {
        homes.iter().flat_map(move |home| home.nodes.iter().map(move |node| (at, piece.chunk.id, home.shard, *node)))
    });
    let asked: Vec<(usize, ChunkId, u8, NodeId)> = asked.collect();
    let ask = |(at, chunk, shard, node): (usize, ChunkId, u8, NodeId)| async move {
        ((at, shard, node), state(people, chunk, shard, node).await)
    };
    let states: BTreeMap<_, _> = stream::iter(asked).map(ask).buffer_unordered(AT_ONCE).collect().await;
    let chunks: Vec<ChunkLayout> = pieces
        .iter()
        .zip(homes)
        .enumerate()
        .map(|(at, (piece, homes))| ChunkLayout {
            chunk: piece.chunk.id.to_string(),
            from: piece.offset,
            bytes: piece.chunk.bytes,
            safety: safety(piece.class),
            enough: piece.class.enough(),
            pieces: homes.into_iter().map(|home| told(home, (at, piece.chunk.id), &states, &missed)).collect(),
            moves_to: gateway.places().moves_to(piece.chunk.id),
        })
        .collect();
    let looked_at = pieces.last().map_or(object.bytes, |last| last.offset + u64::from(last.chunk.bytes));
    let inline = matches!(object.body, Body::Inline(_));
    Ok(Layout { written: found.version.at, bytes: object.bytes, inline, chunks, looked_at })
}

/// Where a piece may be: where it should be first, and where it moves from.
struct Home {
    number: u8,
    /// Its number on the disk.
    shard: u8,
    nodes: Vec<NodeId>,
}

fn homes(people: &People, piece: &Piece) -> Vec<Home> {
    let places = people.gateway.places();
    let home = |number: u8| Home {
        number,
        shard: if matches!(piece.class, Class::Copies(_)) { 0 } else { number },
        nodes: places.at(piece.chunk.id, number),
    };
    (0..piece.class.pieces()).map(home).collect()
}

fn told(
    home: Home,
    (at, chunk): (usize, ChunkId),
    states: &BTreeMap<(usize, u8, NodeId), PieceState>,
    missed: &[Missed],
) -> PieceLayout {
    let state = |node: &NodeId| states.get(&(at, home.shard, *node)).cloned().unwrap_or(PieceState::Homeless);
    let there = home.nodes.iter().find(|node| state(node) == PieceState::There);
    let node = there.or(home.nodes.first()).copied();
    let waits = |missed: &Missed| missed.chunk == chunk && missed.shard == home.shard && Some(missed.node) == node;
    PieceLayout {
        number: home.number,
        node,
        state: node.as_ref().map_or(PieceState::Homeless, state),
        waits: missed.iter().any(waits),
    }
}

async fn state(people: &People, chunk: ChunkId, shard: u8, node: NodeId) -> PieceState {
    let remote = people.gateway.store().remote();
    match timeout(ANSWER_WITHIN, remote.get(target(node), chunk.on_disk(shard), 0, 1)).await {
        Ok(Ok(_)) => PieceState::There,
        Ok(Err(RemoteError::Refused(refusal))) if matches!(refusal.why, Why::Absent | Why::Damaged) => {
            PieceState::Missing(refusal.words)
        }
        Ok(Err(error)) => PieceState::Silent(error.to_string()),
        Err(_) => PieceState::Silent(format!("no answer within {} s", ANSWER_WITHIN.as_secs())),
    }
}

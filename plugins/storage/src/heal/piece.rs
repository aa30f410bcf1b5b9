//! One piece of a chunk, made anew and put where it should be.

use bytes::Bytes;
use hirsel_model::NodeId;

use crate::codec::Scheme;
use crate::gateway::{Gateway, target};
use crate::meta::kinds::{ChunkRef, Class};
use crate::meta::names::ChunkId;
use crate::meta::read::Piece as Part;
use crate::spread::Goal;
use crate::store::Piece;

/// Which piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Of which chunk.
    pub chunk: ChunkId,
    /// Bytes of a body in that.
    pub bytes: u32,
    /// How it is kept safe.
    pub class: Class,
    /// Which shard; 0 for a copy.
    pub shard: u8,
}

/// Whether a node has it, as far as its index knows.
pub async fn is_there(gateway: &Gateway, wanted: &Wanted, node: NodeId) -> bool {
    gateway.store().remote().get(target(node), wanted.chunk.on_disk(wanted.shard), 0, 1).await.is_ok()
}

/// Makes it of what others have, and puts it on a node. Bytes that were moved.
///
/// # Errors
/// In words: too little is left of it, or the node does not take it.
pub async fn put(gateway: &Gateway, wanted: &Wanted, node: NodeId) -> Result<u64, String> {
    let content = make(gateway, wanted).await?;
    let bytes = content.len() as u64;
    let piece = Piece::new(wanted.chunk.on_disk(wanted.shard), &content);
    let outcome = gateway.store().write_copies(&piece, 1, &[target(node)], Goal { needed: 1, least: 1 }).await;
    if outcome.is_written {
        return Ok(bytes);
    }
    let why: Vec<String> = outcome.missed.into_iter().map(|missed| missed.why).collect();
    Err(format!("node {node} did not take a piece of chunk {}: {}", wanted.chunk, why.join("; ")))
}

async fn make(gateway: &Gateway, wanted: &Wanted) -> Result<Bytes, String> {
    let Class::Erasure(data, parity) = wanted.class else {
        let chunk = ChunkRef { id: wanted.chunk, bytes: wanted.bytes };
        let whole = Part { offset: 0, chunk, class: wanted.class };
        return gateway.read_piece(&whole, 0, wanted.bytes).await;
    };
    let scheme = Scheme::new(data, parity).map_err(|error| error.to_string())?;
    let codec = gateway.codec(scheme);
    let places = gateway.places();
    let shards = (0..data.saturating_add(parity))
        .map(|shard| (wanted.chunk.on_disk(shard), places.homes(wanted.chunk, wanted.class, shard).first().copied()));
    let (shards, number): (Vec<_>, _) = (shards.collect(), usize::from(wanted.shard));
    let made = gateway.store().repair_shard(&codec, wanted.bytes, &shards, number).await;
    let Err(error) = made else { return made.map_err(|error| error.to_string()) };
    let found = gateway.find_shards(wanted.chunk, data.saturating_add(parity)).await;
    gateway.store().repair_shard(&codec, wanted.bytes, &found, number).await.map_err(|_| error.to_string())
}

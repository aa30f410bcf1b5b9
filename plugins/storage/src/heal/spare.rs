//! Frees the room of pieces that are here though they belong on other nodes: their partition moved, or they were taken in while their own node was
//! away.
//!
//! A piece is evicted once every node on which its chunk belongs says that it has its piece and will keep it. Nobody says so of a chunk that it
//! is about to evict itself, or that by its own table belongs elsewhere, or while its table is older than that of who asks. So whoever evicts
//! leaves behind a whole set of pieces, whatever tables others go by: of two nodes that rely on each other, one says no. Nothing else relies on
//! what is here: whoever needs it after the table changed once more finds that it is missing, as after the loss of a disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use hirsel_model::order::StorageOrder;
use hirsel_model::storage::Partition;
use hirsel_model::{NodeId, codec};
use hirsel_role::peers::Peers;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::debug;

use crate::chunk;
use crate::disk::{Disk, LIST_MAX};
use crate::gateway::Gateway;
use crate::meta::kinds::{Chunk, Class};
use crate::meta::names::ChunkId;

/// By what a node is asked which pieces it has and keeps.
const KEEPS: &str = "storage.keeps";
/// Pieces of one question: as many as an audit looks at together.
const PIECES_MAX: usize = LIST_MAX;
/// A node that lives answers within this: it only looks into its index.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Which of these pieces are there and stay?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Question {
    /// The table by which they belong there. Who has an older one does not say.
    table: u64,
    /// At most [`PIECES_MAX`], and how their chunks are kept.
    pieces: Vec<(chunk::ChunkId, Class)>,
}

/// A piece that is here and belongs elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spare {
    /// Of which chunk.
    pub chunk: ChunkId,
    /// Which shard.
    pub shard: u8,
    /// What is known of the chunk.
    pub known: Chunk,
}

/// What a node gives up, and what it tells others that it keeps. Copies are the same one.
#[derive(Clone)]
pub struct Spares {
    me: NodeId,
    disk: Arc<Disk>,
    order: watch::Receiver<Arc<StorageOrder>>,
    peers: Arc<dyn Peers>,
    /// About to be evicted: nobody may rely on them.
    leaving: Arc<Mutex<BTreeSet<chunk::ChunkId>>>,
}

/// On which nodes a chunk belongs, each with its shard; none while its partition moves or has too few nodes for it.
fn homes(order: &StorageOrder, chunk: ChunkId, class: Class) -> Option<Vec<(u8, NodeId)>> {
    let partition = order.table.partitions.get(&chunk.partition())?;
    let pieces = usize::from(class.pieces());
    if !partition.next.is_empty() || partition.nodes.len() < pieces {
        return None;
    }
    let shard = |number| if matches!(class, Class::Copies(_)) { 0 } else { number };
    Some((0u8..).map(shard).zip(partition.nodes.iter().copied()).take(pieces).collect())
}

impl Spares {
    /// Of this disk of this node.
    pub fn new(
        gateway: &Gateway,
        disk: Arc<Disk>,
        order: watch::Receiver<Arc<StorageOrder>>,
        peers: Arc<dyn Peers>,
    ) -> Self {
        Self { me: gateway.me(), disk, order, peers, leaving: Arc::default() }
    }

    /// Answers what others ask.
    pub fn serve(&self) {
        let spares = self.clone();
        let answer = move |_: NodeId, body: Vec<u8>| {
            let told = codec::decode(&body).map_err(|error| error.to_string()).and_then(|asked| spares.keeps(&asked));
            async move { Ok(codec::encode(&told)) }.boxed()
        };
        self.peers.serve(KEEPS, Arc::new(answer));
    }

    fn leaving(&self) -> MutexGuard<'_, BTreeSet<chunk::ChunkId>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which of these pieces are here and stay.
    fn keeps(&self, asked: &Question) -> Result<Vec<bool>, String> {
        if asked.pieces.len() > PIECES_MAX {
            return Err(format!("{} pieces are more than {PIECES_MAX}", asked.pieces.len()));
        }
        let order = self.order.borrow().clone();
        if order.table.version < asked.table {
            return Err(format!("knows table {} and not yet {}", order.table.version, asked.table));
        }
        let leaving = self.leaving();
        let keeps = |(piece, class): &(chunk::ChunkId, Class)| {
            let (chunk, shard) = ChunkId::from_disk(*piece);
            let partition = order.table.partitions.get(&chunk.partition());
            let belongs = partition.is_some_and(|partition| belongs(partition, *class, shard, self.me));
            let there = self.disk.find(*piece).is_some_and(|listed| !listed.condemned) && !self.disk.is_damaged(*piece);
            belongs && there && !leaving.contains(piece)
        };
        Ok(asked.pieces.iter().map(keeps).collect())
    }

    /// Evicts those of which the others have and keep everything. How many went.
    ///
    /// # Errors
    /// In words, when the disk does not do it.
    pub async fn evict(&self, spares: &[Spare]) -> Result<u64, String> {
        let order = self.order.borrow().clone();
        let candidates: Vec<(Spare, Vec<(u8, NodeId)>)> =
            spares.iter().filter_map(|spare| Some((*spare, homes(&order, spare.chunk, spare.known.class)?))).collect();
        let mut evicted = 0;
        for some in candidates.chunks(PIECES_MAX) {
            // From here on nobody is told that they stay; and whoever was told before has a table that is no newer than the one gone by here.
            let leaving =
                Leaving::begin(self, some.iter().map(|(spare, _)| spare.chunk.on_disk(spare.shard)).collect());
            let kept = self.kept(&order, some).await;
            let now = self.order.borrow().clone();
            let is_as_before = |chunk: ChunkId| {
                let of = |order: &StorageOrder| order.table.partitions.get(&chunk.partition()).cloned();
                of(&now) == of(&order)
            };
            let goes = |(spare, homes): &(Spare, Vec<(u8, NodeId)>)| {
                let all = homes.iter().all(|(shard, node)| kept.contains(&(spare.chunk.on_disk(*shard), *node)));
                all && is_as_before(spare.chunk)
            };
            let gone: Vec<chunk::ChunkId> =
                some.iter().filter(|it| goes(it)).map(|(spare, _)| spare.chunk.on_disk(spare.shard)).collect();
            if !gone.is_empty() {
                evicted += self.disk.evict(&gone).await.map_err(|error| error.to_string())? as u64;
            }
            drop(leaving);
        }
        Ok(evicted)
    }

    /// Which pieces the nodes on which chunks belong have and keep.
    async fn kept(
        &self,
        order: &StorageOrder,
        some: &[(Spare, Vec<(u8, NodeId)>)],
    ) -> BTreeSet<(chunk::ChunkId, NodeId)> {
        let mut by_node: BTreeMap<NodeId, Vec<(chunk::ChunkId, Class)>> = BTreeMap::new();
        for (spare, homes) in some {
            for (shard, node) in homes {
                by_node.entry(*node).or_default().push((spare.chunk.on_disk(*shard), spare.known.class));
            }
        }
        let asked = by_node.into_iter().map(|(node, pieces)| async move {
            let question = Question { table: order.table.version, pieces };
            let answer = self.peers.call(node, KEEPS, codec::encode(&question), ANSWER_WITHIN).await;
            let told = answer.map_err(|error| error.to_string()).and_then(|bytes| {
                codec::decode::<Result<Vec<bool>, String>>(&bytes).map_err(|error| error.to_string()).flatten()
            });
            match told {
                Ok(told) if told.len() == question.pieces.len() => {
                    let kept = question.pieces.into_iter().zip(told).filter(|(_, kept)| *kept);
                    kept.map(|((piece, _), _)| (piece, node)).collect()
                }
                Ok(_) => Vec::new(),
                Err(words) => {
                    debug!(%node, words, "does not say what it keeps");
                    Vec::new()
                }
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }
}

/// Whether a piece belongs on a node, and stays there.
fn belongs(partition: &Partition, class: Class, shard: u8, node: NodeId) -> bool {
    let mut homes = (0u8..).zip(partition.target()).take(usize::from(class.pieces()));
    homes.any(|(number, home)| *home == node && (matches!(class, Class::Copies(_)) || number == shard))
}

/// Pieces that are about to be evicted, until this is dropped.
struct Leaving<'a> {
    spares: &'a Spares,
    pieces: Vec<chunk::ChunkId>,
}

impl<'a> Leaving<'a> {
    fn begin(spares: &'a Spares, pieces: Vec<chunk::ChunkId>) -> Self {
        spares.leaving().extend(pieces.iter().copied());
        Self { spares, pieces }
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let mut leaving = self.spares.leaving();
        for piece in &self.pieces {
            leaving.remove(piece);
        }
    }
}

#[cfg(test)]
mod tests;

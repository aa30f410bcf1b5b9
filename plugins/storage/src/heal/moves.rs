//! Brings a partition to the nodes to which the plan moves it.
//!
//! First everything that is in it is copied. Then a commit says that it has moved: from there on nothing more is placed by an older table. What
//! was placed before that and after it was copied is copied then; only now the plan is told, and lets the old nodes go. Whoever leads in the middle
//! of it begins anew, and finds most of it there.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{FutureExt, StreamExt, stream};
use hirsel_model::NodeId;
use hirsel_model::order::StorageOrder;
use hirsel_model::storage::Partition;
use tokio::sync::watch;
use tracing::info;

use super::{AT_ONCE, Healing, piece};
use crate::gateway::Gateway;
use crate::meta::command::Command;
use crate::meta::kinds::{Chunk, Class};
use crate::meta::names::ChunkId;
use crate::meta::query::{Query, Reply};

/// Partitions that are told at once: the plan changes with each report.
const MOVED_MAX: usize = 128;
/// Partitions that move at once. Most of them are small, and wait for commits; of large ones each copies [`AT_ONCE`] pieces at once.
const PARTITIONS_AT_ONCE: usize = 8;

/// Brings some partitions to their end. Whether there is more to do.
pub async fn step(gateway: Gateway, order: Arc<StorageOrder>, healing: watch::Sender<Healing>) -> Result<bool, String> {
    // What the plan took note of is told no more.
    healing.send_if_modified(|healing| {
        let before = healing.moved.len();
        healing.moved.retain(|number, table| is_under_way(&order, *number, *table));
        healing.moved.len() != before
    });
    let moved = healing.borrow().moved.clone();
    let is_waiting =
        |number: &u16, partition: &Partition| !partition.next.is_empty() && moved.get(number) != Some(&partition.table);
    let waiting = order.table.partitions.iter().filter(|(number, partition)| is_waiting(number, partition));
    let waiting: Vec<(u16, Partition)> =
        waiting.take(MOVED_MAX + 1).map(|(number, it)| (*number, it.clone())).collect();
    let more = waiting.len() > MOVED_MAX;
    let moving = waiting.into_iter().take(MOVED_MAX).map(|(number, it)| bring_all(gateway.clone(), number, it).boxed());
    let mut moving = stream::iter(moving).buffer_unordered(PARTITIONS_AT_ONCE);
    let (mut done, mut failed) = (BTreeMap::new(), None);
    while let Some(one) = moving.next().await {
        match one {
            Ok((number, table)) => drop(done.insert(number, table)),
            Err(words) => failed = Some(words),
        }
    }
    if !done.is_empty() {
        info!(partitions = done.len(), "moved");
        healing.send_modify(|healing| healing.moved.extend(done));
    }
    failed.map_or(Ok(more), Err)
}

/// Brings one partition to its end: its number, and the table that moved it.
async fn bring_all(gateway: Gateway, number: u16, partition: Partition) -> Result<(u16, u64), String> {
    copy(&gateway, number, &partition).await?;
    let complete = Command::MoveComplete { partition: number, table: partition.table };
    gateway.ask(complete).await.map_err(|error| error.to_string())?;
    copy(&gateway, number, &partition).await?;
    Ok((number, partition.table))
}

fn is_under_way(order: &StorageOrder, number: u16, table: u64) -> bool {
    let partition = order.table.partitions.get(&number);
    partition.is_some_and(|partition| partition.table == table && !partition.next.is_empty())
}

/// Copies to the next nodes what they lack.
async fn copy(gateway: &Gateway, number: u16, partition: &Partition) -> Result<(), String> {
    let mut after: Option<ChunkId> = None;
    loop {
        let page = match gateway.look(Query::Chunks(number, after)).await.map_err(|error| error.to_string())? {
            Reply::Chunks(page) => page,
            _ => return Err("the metadata answer something else".into()),
        };
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(*last);
        if let Some((chunk, known)) = page.iter().find(|(_, chunk)| is_too_few(partition, chunk.class)) {
            let (nodes, least) = (partition.next.len(), known.class.least());
            return Err(format!(
                "partition {number} stays where it is: chunk {chunk} needs {least} nodes, and {nodes} are left for it"
            ));
        }
        let wanted: Vec<_> = page.iter().flat_map(|(id, chunk)| lacking(partition, *id, chunk)).collect();
        let copy = |(wanted, node)| bring(gateway.clone(), wanted, node).boxed();
        let mut copied = stream::iter(wanted).map(copy).buffer_unordered(AT_ONCE);
        while let Some(one) = copied.next().await {
            one?;
        }
    }
}

/// Whether fewer nodes would be left than a chunk of this class needs to be acknowledged: of those there were more, none is given up for less.
fn is_too_few(partition: &Partition, class: Class) -> bool {
    partition.next.len() < usize::from(class.least()) && partition.next.len() < partition.nodes.len()
}

/// Bytes that had to be moved for a node to have a piece.
async fn bring(gateway: Gateway, wanted: piece::Wanted, node: NodeId) -> Result<u64, String> {
    match piece::is_there(&gateway, &wanted, node).await {
        true => Ok(0),
        false => {
            let bytes = piece::put(&gateway, &wanted, node).await?;
            gateway.counts().moved.inc();
            Ok(bytes)
        }
    }
}

/// The pieces of a chunk that are to be on nodes which did not have them.
fn lacking(partition: &Partition, chunk: ChunkId, known: &Chunk) -> Vec<(piece::Wanted, NodeId)> {
    let (bytes, class) = (known.bytes, known.class);
    let homes = (0u8..).zip(&partition.next).take(usize::from(class.pieces()));
    let lacks = homes.filter(|(number, node)| match class {
        Class::Copies(copies) => !partition.nodes.iter().take(usize::from(copies)).any(|it| it == *node),
        Class::Erasure(..) => partition.nodes.get(usize::from(*number)) != Some(node),
    });
    let shard = |number| if matches!(class, Class::Copies(_)) { 0 } else { number };
    lacks.map(|(number, node)| (piece::Wanted { chunk, bytes, class, shard: shard(number) }, *node)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::names::WriteId;

    #[test]
    fn a_move_to_fewer_nodes_ends_only_while_as_many_are_left_as_are_needed() {
        let nodes = |count: u64| (1..=count).map(NodeId).collect::<Vec<_>>();
        let too_few = |from, to, class| is_too_few(&Partition { nodes: nodes(from), next: nodes(to), table: 1 }, class);
        assert!(!too_few(3, 2, Class::Copies(3)) && too_few(2, 1, Class::Copies(3)));
        assert!(!too_few(2, 1, Class::Copies(1)));
        assert!(!too_few(6, 5, Class::Erasure(4, 2)) && too_few(5, 4, Class::Erasure(4, 2)));
        assert!(!too_few(1, 1, Class::Copies(3)), "it was no more before");
    }

    #[test]
    fn only_nodes_that_are_new_lack_pieces() {
        let nodes = |ids: &[u64]| ids.iter().map(|id| NodeId(*id)).collect::<Vec<_>>();
        let partition = Partition { nodes: nodes(&[1, 2, 3]), next: nodes(&[4, 2, 1]), table: 7 };
        let chunk = ChunkId::new(800, WriteId([1; 12]), 0);
        let lacks = |class| {
            let lacking = lacking(&partition, chunk, &Chunk { shared: 1, bytes: 9, class });
            lacking.into_iter().map(|(wanted, node)| (wanted.shard, node.0)).collect::<Vec<_>>()
        };
        assert_eq!(lacks(Class::Copies(3)), [(0, 4)]);
        assert_eq!(lacks(Class::Copies(1)), [(0, 4)]);
        assert_eq!(lacks(Class::Erasure(2, 1)), [(0, 4), (2, 1)]);
    }
}

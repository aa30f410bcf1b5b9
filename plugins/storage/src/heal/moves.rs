//! Brings a partition to the nodes to which the plan moves it.
//!
//! First everything that is in it is copied. Then a commit says that it has moved: from there on nothing more is placed by an older table. What
//! was placed before that and after it was copied is copied then; only now the plan is told, and lets the old nodes go. Whoever leads in the middle
//! of it begins anew, and finds most of it there.
//!
//! Partitions of which most nodes are not heard come first, also where that turns out in the middle of others. Copies keep to the budget
//! ([`super::budget`]), but for chunks that bear no further loss.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt, stream};
use hirsel_model::NodeId;
use hirsel_model::order::StorageOrder;
use hirsel_model::storage::Partition;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::info;

use super::budget::{self, Budget};
use super::{AT_ONCE, Healing, piece};
use crate::gateway::{Gateway, Places};
use crate::meta::command::Command;
use crate::meta::kinds::{Chunk, Class};
use crate::meta::names::ChunkId;
use crate::meta::query::{CHUNKS_MAX, Query, Reply};

/// Partitions that are told at once: the plan changes with each report.
const MOVED_MAX: usize = 128;
/// Between two times that it is told which have moved: the plan changes each time, and large ones take hours.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Partitions that move at once. Most of them are small, and wait for commits; of large ones each copies [`AT_ONCE`] pieces at once.
const PARTITIONS_AT_ONCE: usize = 8;

/// Brings some partitions to their end. Whether there is more to do.
pub async fn step(
    gateway: Gateway,
    order: Arc<StorageOrder>,
    healing: watch::Sender<Healing>,
    budget: Budget,
) -> Result<bool, String> {
    // What the plan took note of is told no more.
    healing.send_if_modified(|healing| {
        let before = healing.moved.len();
        healing.moved.retain(|number, table| is_under_way(&order, *number, *table));
        healing.moved.len() != before
    });
    let moved = healing.borrow().moved.clone();
    let risks = risks(&order, &gateway.places(), &moved);
    let more = risks.len() > MOVED_MAX;
    let first: Vec<(Move, Partition)> = risks
        .iter()
        .rev()
        .take(MOVED_MAX)
        .filter_map(|it| Some((*it, order.table.partitions.get(&it.number)?.clone())))
        .collect();
    let mover = Mover { gateway: gateway.clone(), budget, risks, moved };
    let moving = first.into_iter().map(|(it, partition)| mover.bring_all(it, partition).boxed());
    let mut moving = stream::iter(moving).buffer_unordered(PARTITIONS_AT_ONCE);
    let (mut done, mut failed, mut told) = (BTreeMap::new(), None, gateway.now());
    let tell = |done: &mut BTreeMap<u16, u64>| {
        info!(partitions = done.len(), "moved");
        healing.send_modify(|healing| healing.moved.append(done));
    };
    while let Some(one) = moving.next().await {
        match one {
            Ok((number, table)) => drop(done.insert(number, table)),
            Err(words) => failed = Some(words),
        }
        if !done.is_empty() && gateway.now().since(told) >= TELL_EVERY {
            tell(&mut done);
            told = gateway.now();
        }
    }
    if !done.is_empty() {
        tell(&mut done);
    }
    failed.map_or(Ok(more), Err)
}

/// A partition that moves, by how much it is at risk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Move {
    /// Nodes that have it and are not heard.
    silent: usize,
    number: u16,
    /// The table that moved it.
    table: u64,
}

/// What moves and is not told to have moved, what is most at risk last.
fn risks(order: &StorageOrder, places: &Places, moved: &BTreeMap<u16, u64>) -> BTreeSet<Move> {
    let waits = |(number, partition): &(&u16, &Partition)| {
        !partition.next.is_empty() && moved.get(number) != Some(&partition.table)
    };
    let one = |(number, partition): (&u16, &Partition)| Move {
        silent: partition.nodes.iter().filter(|node| !places.is_heard(**node)).count(),
        number: *number,
        table: partition.table,
    };
    order.table.partitions.iter().filter(waits).map(one).collect()
}

/// Whether something is more at risk than `it` that was not when a step began: that one is to be begun first.
fn is_overtaken(it: Move, begun_with: &BTreeSet<Move>, now: &BTreeSet<Move>) -> bool {
    let mut more = now.iter().rev().take_while(|other| other.silent > it.silent);
    more.any(|other| other.number != it.number && !begun_with.contains(other))
}

/// One step of moves.
struct Mover {
    gateway: Gateway,
    budget: Budget,
    /// What was to be moved when it began.
    risks: BTreeSet<Move>,
    moved: BTreeMap<u16, u64>,
}

impl Mover {
    /// Brings one partition to its end: its number, and the table that moved it.
    async fn bring_all(&self, it: Move, partition: Partition) -> Result<(u16, u64), String> {
        self.copy(it, &partition).await?;
        let complete = Command::MoveComplete { partition: it.number, table: it.table };
        self.gateway.ask(complete).await.map_err(|error| error.to_string())?;
        self.copy(it, &partition).await?;
        Ok((it.number, it.table))
    }

    /// Copies to the next nodes what they lack.
    async fn copy(&self, it: Move, partition: &Partition) -> Result<(), String> {
        let (mut after, number): (Option<ChunkId>, u16) = (None, it.number);
        loop {
            let page = match self.gateway.look(Query::Chunks(number, after)).await.map_err(|error| error.to_string())? {
                Reply::Chunks(page) => page,
                _ => return Err("the metadata answer something else".into()),
            };
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            self.may_go_on(it)?;
            if let Some((chunk, known)) = page.iter().find(|(_, chunk)| is_too_few(partition, chunk.class)) {
                let (nodes, least) = (partition.next.len(), known.class.least());
                return Err(format!(
                    "partition {number} stays where it is: chunk {chunk} needs {least} nodes, and {nodes} are left for it"
                ));
            }
            let wanted: Vec<_> = page.iter().flat_map(|(id, chunk)| lacking(partition, *id, chunk)).collect();
            let copy = |(wanted, node)| self.bring(it, wanted, node).boxed();
            let mut copied = stream::iter(wanted).map(copy).buffer_unordered(AT_ONCE);
            while let Some(one) = copied.next().await {
                one?;
            }
            if page.len() < CHUNKS_MAX {
                return Ok(());
            }
        }
    }

    /// Makes a node have a piece, as soon as that may be.
    async fn bring(&self, it: Move, wanted: piece::Wanted, node: NodeId) -> Result<(), String> {
        if piece::is_there(&self.gateway, &wanted, node).await {
            return Ok(());
        }
        let cost = budget::cost(wanted.class, wanted.bytes);
        while let Err(wait) = self.budget.moves(self.gateway.now(), cost, self.is_urgent(it, wanted.class)) {
            sleep(wait).await;
            self.may_go_on(it)?;
        }
        let bytes = piece::put(&self.gateway, &wanted, node).await?;
        self.gateway.counts().moved.inc();
        self.gateway.counts().repaired_bytes.inc_by(bytes);
        Ok(())
    }

    /// Whether a chunk of this class is lost with the next node.
    fn is_urgent(&self, it: Move, class: Class) -> bool {
        let (order, places) = (self.gateway.order(), self.gateway.places());
        let nodes = order.table.partitions.get(&it.number).map(|partition| partition.nodes.as_slice());
        let homes = nodes.unwrap_or_default().iter().take(usize::from(class.pieces()));
        budget::is_urgent(class, homes.filter(|node| !places.is_heard(**node)).count())
    }

    /// Refuses where the plan has changed its mind, or something else should be moved first.
    fn may_go_on(&self, it: Move) -> Result<(), String> {
        let order = self.gateway.order();
        if order.table.partitions.get(&it.number).is_none_or(|now| now.table != it.table) {
            return Err(format!("partition {} moves elsewhere now", it.number));
        }
        match is_overtaken(it, &self.risks, &risks(&order, &self.gateway.places(), &self.moved)) {
            true => Err(format!("partition {} waits for others, which bear less", it.number)),
            false => Ok(()),
        }
    }
}

fn is_under_way(order: &StorageOrder, number: u16, table: u64) -> bool {
    let partition = order.table.partitions.get(&number);
    partition.is_some_and(|partition| partition.table == table && !partition.next.is_empty())
}

/// Whether fewer nodes would be left than a chunk of this class needs to be acknowledged: of those there were more, none is given up for less.
fn is_too_few(partition: &Partition, class: Class) -> bool {
    partition.next.len() < usize::from(class.least()) && partition.next.len() < partition.nodes.len()
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
        assert!(!too_few(10, 9, Class::Erasure(8, 3)) && too_few(9, 8, Class::Erasure(8, 3)));
        assert!(!too_few(1, 1, Class::Copies(3)), "it was no more before");
    }

    #[test]
    fn what_becomes_more_at_risk_than_what_is_under_way_is_begun_first_and_once() {
        let it = |silent, number| Move { silent, number, table: 7 };
        let begun = [it(0, 1), it(1, 2), it(2, 3)].into();
        let overtaken = |by: Move| is_overtaken(it(1, 2), &begun, &begun.iter().copied().chain([by]).collect());
        assert!(overtaken(it(2, 1)) && overtaken(Move { table: 8, ..it(2, 3) }));
        assert!(!overtaken(it(1, 9)) && !overtaken(it(2, 2)), "no more at risk, or the same");
        assert!(!overtaken(it(2, 3)), "that one was tried before");
        assert!(is_overtaken(it(0, 1), &begun, &[it(1, 9)].into()));
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

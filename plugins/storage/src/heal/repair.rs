//! Makes pieces anew that are missing, those of which the least is left first, as fast as the budget allows ([`super::budget`]). What is missing on
//! nodes that are not heard waits for them, or for the plan to move it, and keeps nothing else waiting.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{FutureExt, StreamExt, stream};
use hirsel_model::NodeId;
use hirsel_model::order::StorageOrder;
use hirsel_model::storage::{Partition, losses, width};
use tokio::sync::watch;

use super::budget::{self, Budget};
use super::{AT_ONCE, Healing, piece};
use crate::gateway::Gateway;
use crate::meta::command::Command;
use crate::meta::kinds::Missed;
use crate::meta::names::ChunkId;
use crate::meta::query::WAITING_MAX;
use crate::meta::read::{self, Known};
use crate::meta::rows::{Rows, RowsError};

/// Pieces that are looked at in one step.
const LOOKED_AT: usize = 256;
/// Rows of the queue that are read in one step: most of them may be about nodes that are not heard.
const ROWS_MAX: usize = 10 * WAITING_MAX;

/// Makes some missing pieces. Whether there is more to do that could begin now.
pub async fn step(
    gateway: Gateway,
    order: Arc<StorageOrder>,
    healing: watch::Sender<Healing>,
    budget: Budget,
) -> Result<bool, String> {
    let places = gateway.places();
    let (queue, silent) = {
        let here = gateway.meta().group().here().map_err(|error| error.to_string())?;
        let wrong = |error: RowsError| error.to_string();
        let can_be = |missed: &Missed| places.is_heard(missed.node) || !is_home(missed, &order);
        let queue = read_queue(&here, can_be).map_err(wrong)?;
        let silent = |chunk: ChunkId| {
            let target = order.table.partitions.get(&chunk.partition()).map(Partition::target).unwrap_or_default();
            target.iter().copied().filter(|node| !places.is_heard(*node)).collect()
        };
        let (heard, silent) = part(queue, can_be, silent, gateway.chance().number());
        let known =
            |(missed, lacks): (Missed, usize)| read::chunk(&here, missed.chunk).map(|known| (missed, known, lacks));
        (heard.into_iter().map(known).collect::<Result<Vec<_>, _>>().map_err(wrong)?, silent)
    };
    if queue.is_empty() {
        let stuck = silent.map(|node| format!("node {node}, which lacks pieces, is not heard"));
        healing.send_if_modified(|it| {
            let was_at_work = stuck.is_none() && std::mem::take(&mut it.repaired) > 0;
            let is_news = it.stuck != stuck;
            it.stuck = stuck;
            was_at_work || is_news
        });
        return Ok(false);
    }
    let (mut todo, done) = sort(queue, &order);
    let gone = done.len();
    let full = todo.len() + done.len() >= LOOKED_AT;
    let costs = todo.iter().map(|it| (budget::cost(it.wanted.class, it.wanted.bytes), it.is_urgent));
    let begun = budget.repairs(gateway.now(), costs);
    let waits = begun < todo.len();
    todo.truncate(begun);
    let make = |Todo { missed, wanted, .. }| {
        let gateway = gateway.clone();
        async move { piece::put(&gateway, &wanted, missed.node).await.map(|bytes| (missed, bytes)) }.boxed()
    };
    let made = stream::iter(todo).map(make);
    let made: Vec<Result<(Missed, u64), String>> = made.buffer_unordered(AT_ONCE).collect().await;
    let mut repaired = done;
    let mut failed = None;
    for one in made {
        match one {
            Ok((missed, bytes)) => {
                gateway.counts().repaired_bytes.inc_by(bytes);
                repaired.push(missed);
            }
            Err(words) => failed = Some(words),
        }
    }
    let went_on = !repaired.is_empty();
    let anew = repaired.len().saturating_sub(gone) as u64;
    healing.send_modify(|it| {
        it.repaired += anew;
        it.stuck = failed.clone().filter(|_| anew == 0);
    });
    gateway.counts().repaired.inc_by(anew);
    if went_on {
        gateway.ask(Command::Repaired { missed: repaired }).await.map_err(|error| error.to_string())?;
    }
    match failed {
        Some(words) if !went_on => Err(words),
        _ => Ok(full && went_on && !waits),
    }
}

/// What is missing, at least until there is enough that can be seen to now.
fn read_queue(rows: &dyn Rows, can_be: impl Fn(&Missed) -> bool) -> Result<Vec<Missed>, RowsError> {
    let (mut queue, mut now): (Vec<Missed>, usize) = (Vec::new(), 0);
    while now < LOOKED_AT && queue.len() < ROWS_MAX {
        let page = read::repairs(rows, None, queue.last().map(|missed| missed.chunk), WAITING_MAX)?;
        now += page.iter().filter(|missed| can_be(missed)).count();
        let is_last = page.len() < WAITING_MAX;
        queue.extend(page);
        if is_last {
            break;
        }
    }
    Ok(queue)
}

/// What can be seen to now and whose chunks lack most, each with how many pieces its chunk lacks; and a node that is waited for. What is on a node
/// that is not heard (`silent`) is lacking, too, for as long as that is so. Chunks that lack too much to be read come last. Of those that lack the
/// same another one comes first in each `turn`: some may be for a node that takes nothing.
fn part(
    queue: Vec<Missed>,
    can_be: impl Fn(&Missed) -> bool,
    silent: impl Fn(ChunkId) -> BTreeSet<NodeId>,
    turn: u64,
) -> (Vec<(Missed, usize)>, Option<NodeId>) {
    let mut lacking: BTreeMap<ChunkId, BTreeSet<NodeId>> = BTreeMap::new();
    for missed in &queue {
        lacking.entry(missed.chunk).or_insert_with(|| silent(missed.chunk)).insert(missed.node);
    }
    let (now, waits): (Vec<_>, Vec<_>) = queue.into_iter().partition(can_be);
    let mut now: Vec<(Missed, usize)> =
        now.into_iter().map(|missed| (missed, lacking.get(&missed.chunk).map_or(1, BTreeSet::len))).collect();
    let first = usize::try_from(turn % now.len().max(1) as u64).unwrap_or_default();
    now.rotate_left(first);
    let can_be_read = |chunk: ChunkId, lacks| lacks <= losses(width(chunk.partition()));
    now.sort_by_key(|(missed, lacks)| Reverse((can_be_read(missed.chunk, *lacks), *lacks)));
    now.truncate(LOOKED_AT);
    (now, waits.first().map(|missed| missed.node))
}

/// Whether a piece should still be where it is missing.
fn is_home(missed: &Missed, order: &StorageOrder) -> bool {
    let partition = order.table.partitions.get(&missed.chunk.partition());
    partition.is_some_and(|it| it.target().contains(&missed.node) || it.nodes.contains(&missed.node))
}

/// A piece that is to be made.
struct Todo {
    missed: Missed,
    wanted: piece::Wanted,
    /// Its chunk bears no further loss.
    is_urgent: bool,
    /// So many of its pieces are missing.
    lacks: usize,
}

/// What is to be made, and what need not be any more. What is urgent comes first, then a chunk that lacks more pieces before one that lacks fewer.
fn sort(queue: Vec<(Missed, Known, usize)>, order: &StorageOrder) -> (Vec<Todo>, Vec<Missed>) {
    let (mut todo, mut done) = (Vec::new(), Vec::new());
    for (missed, known, lacks) in queue {
        match known {
            Known::Named(chunk) if is_home(&missed, order) => {
                let Missed { chunk: id, shard, .. } = missed;
                let is_urgent = budget::is_urgent(chunk.class, lacks);
                let wanted = piece::Wanted { chunk: id, bytes: chunk.bytes, class: chunk.class, shard };
                todo.push(Todo { missed, wanted, is_urgent, lacks });
            }
            // Nobody reads it any more, or the partition has moved, and with it what it lacked.
            Known::Named(_) | Known::Condemned | Known::Open | Known::Unknown => done.push(missed),
        }
    }
    todo.sort_by_key(|it| Reverse((it.is_urgent, it.lacks)));
    (todo, done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::kinds::{Chunk, Class};
    use crate::meta::names::WriteId;

    fn missed(node: u64, number: u16) -> Missed {
        let chunk = ChunkId::new(768 + number / 1_000, WriteId([1; 12]), number % 1_000);
        Missed { chunk, shard: 0, node: NodeId(node) }
    }

    #[test]
    fn what_is_missing_on_a_node_that_is_not_heard_keeps_nothing_waiting() {
        let many: Vec<Missed> = (0..5_000).map(|number| missed(3, number)).chain([missed(1, 9_000)]).collect();
        let is_heard = |missed: &Missed| missed.node != NodeId(3);
        let nobody = |_| BTreeSet::new();
        assert_eq!(part(many.clone(), is_heard, nobody, 7), (vec![(missed(1, 9_000), 1)], Some(NodeId(3))));
        let (now, silent) = part(many.clone(), |_| true, nobody, 0);
        assert_eq!((now.len(), silent), (LOOKED_AT, None));
        let (later, _) = part(many, |_| true, nobody, 5_001 + 1_000);
        assert_eq!((now[0], later[0]), ((missed(3, 0), 1), (missed(3, 1_000), 1)));
    }

    #[test]
    fn chunks_that_lack_most_come_first_however_many_lack_less() {
        let mut queue: Vec<Missed> = (0..2_000).map(|number| missed(1, number)).collect();
        queue.extend([missed(1, 5_000), missed(2, 5_000), missed(1, 6_000), missed(1, 7_000)]);
        // Nodes that are not heard have a piece or lack it, too: one of one chunk, two of another.
        let silent = |chunk| match chunk {
            chunk if chunk == missed(1, 6_000).chunk => [NodeId(2)].into(),
            chunk if chunk == missed(1, 7_000).chunk => [NodeId(2), NodeId(3)].into(),
            _ => BTreeSet::new(),
        };
        let (now, _) = part(queue.clone(), |_| true, silent, 0);
        assert_eq!(now[..3], [(missed(1, 5_000), 2), (missed(2, 5_000), 2), (missed(1, 6_000), 2)]);
        assert_eq!(now[3], (missed(1, 0), 1));
        assert!(now.iter().all(|(_, lacks)| *lacks < 3), "what cannot be read keeps nothing else waiting");
        // Of eleven shards three may be lacking.
        let wide = |node| Missed { chunk: ChunkId::new(11 * 256, WriteId([1; 12]), 0), ..missed(node, 0) };
        let (wide_now, _) = part(queue.iter().copied().chain([1, 2, 3].map(wide)).collect(), |_| true, silent, 0);
        assert_eq!(wide_now[..3], [1, 2, 3].map(|node| (wide(node), 3)));
        let (now, _) = part(queue.split_off(2_003), |_| true, silent, 0);
        assert_eq!(now, [(missed(1, 7_000), 3)], "it is tried for all that: pieces of it may be elsewhere");
    }

    #[test]
    fn what_bears_no_further_loss_is_urgent_and_comes_before_all_others() {
        let mut order = StorageOrder::default();
        let nodes = (1..=6).map(NodeId).collect();
        order.table.partitions.insert(773, Partition { nodes, next: Vec::new(), table: 1 });
        let named = |class| Known::Named(Chunk { shared: 1, bytes: 9, class });
        let (copies, coded) = (Class::Copies(3), Class::Erasure(8, 3));
        let gone = (missed(9, 5_003), named(copies), 1);
        let queue = vec![(missed(1, 5_000), named(coded), 2), (missed(1, 5_001), named(copies), 2), gone];
        let (todo, done) = sort(queue, &order);
        let todo: Vec<(Missed, bool)> = todo.into_iter().map(|it| (it.missed, it.is_urgent)).collect();
        assert_eq!(todo, [(missed(1, 5_001), true), (missed(1, 5_000), false)]);
        assert_eq!(done, [missed(9, 5_003)], "its partition has moved");
    }
}

//! Makes pieces anew that are missing, those of which the least is left first. What is missing on nodes that are not heard waits for them, or for
//! the plan to move it, and keeps nothing else waiting.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{FutureExt, StreamExt, stream};
use hirsel_model::NodeId;
use hirsel_model::order::StorageOrder;
use tokio::sync::watch;

use super::{AT_ONCE, Healing, piece};
use crate::gateway::Gateway;
use crate::meta::command::Command;
use crate::meta::kinds::Missed;
use crate::meta::names::ChunkId;
use crate::meta::query::WAITING_MAX;
use crate::meta::read::{self, Known};

/// Pieces that are looked at in one step.
const LOOKED_AT: usize = 256;

/// Makes some missing pieces. Whether there is more to do.
pub async fn step(gateway: Gateway, order: Arc<StorageOrder>, healing: watch::Sender<Healing>) -> Result<bool, String> {
    let places = gateway.places();
    let (queue, silent) = {
        let here = gateway.meta().group().here().map_err(|error| error.to_string())?;
        let wrong = |error: crate::meta::rows::RowsError| error.to_string();
        let queue = read::repairs(&here, None, None, WAITING_MAX).map_err(wrong)?;
        let (heard, silent) = part(queue, |missed| places.is_heard(missed.node) || !is_home(missed, &order));
        let known = |missed: Missed| read::chunk(&here, missed.chunk).map(|known| (missed, known));
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
    let (todo, done) = sort(queue, &order);
    let gone = done.len();
    let full = todo.len() + done.len() >= LOOKED_AT;
    let make = |(missed, wanted): (Missed, piece::Wanted)| {
        let gateway = gateway.clone();
        async move { piece::put(&gateway, &wanted, missed.node).await.map(|_| missed) }.boxed()
    };
    let made = stream::iter(todo).map(make);
    let made: Vec<Result<Missed, String>> = made.buffer_unordered(AT_ONCE).collect().await;
    let mut repaired = done;
    let mut failed = None;
    for one in made {
        match one {
            Ok(missed) => repaired.push(missed),
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
        _ => Ok(full && went_on),
    }
}

/// The first of what can be seen to now, and a node that is waited for.
fn part(queue: Vec<Missed>, can_be: impl Fn(&Missed) -> bool) -> (Vec<Missed>, Option<NodeId>) {
    let (mut now, silent): (Vec<_>, Vec<_>) = queue.into_iter().partition(can_be);
    now.truncate(LOOKED_AT);
    (now, silent.first().map(|missed| missed.node))
}

/// Whether a piece should still be where it is missing.
fn is_home(missed: &Missed, order: &StorageOrder) -> bool {
    let partition = order.table.partitions.get(&missed.chunk.partition());
    partition.is_some_and(|it| it.target().contains(&missed.node) || it.nodes.contains(&missed.node))
}

/// What is to be made, and what need not be any more. A chunk that lacks more pieces comes before one that lacks fewer.
fn sort(queue: Vec<(Missed, Known)>, order: &StorageOrder) -> (Vec<(Missed, piece::Wanted)>, Vec<Missed>) {
    let mut lacks: BTreeMap<ChunkId, u8> = BTreeMap::new();
    for (missed, _) in &queue {
        *lacks.entry(missed.chunk).or_default() += 1;
    }
    let (mut todo, mut done) = (Vec::new(), Vec::new());
    for (missed, known) in queue {
        match known {
            Known::Named(chunk) if is_home(&missed, order) => {
                let Missed { chunk: id, shard, .. } = missed;
                todo.push((missed, piece::Wanted { chunk: id, bytes: chunk.bytes, class: chunk.class, shard }));
            }
            // Nobody reads it any more, or the partition has moved, and with it what it lacked.
            Known::Named(_) | Known::Condemned | Known::Open | Known::Unknown => done.push(missed),
        }
    }
    todo.sort_by_key(|(missed, _)| std::cmp::Reverse(lacks.get(&missed.chunk).copied().unwrap_or_default()));
    (todo, done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::names::WriteId;

    #[test]
    fn what_is_missing_on_a_node_that_is_not_heard_keeps_nothing_waiting() {
        let missed = |node, number: u16| Missed {
            chunk: ChunkId::new(768 + number / 1_000, WriteId([1; 12]), number % 1_000),
            shard: 0,
            node: NodeId(node),
        };
        let many: Vec<Missed> = (0..5_000).map(|number| missed(3, number)).chain([missed(1, 9_000)]).collect();
        let is_heard = |missed: &Missed| missed.node != NodeId(3);
        assert_eq!(part(many.clone(), is_heard), (vec![missed(1, 9_000)], Some(NodeId(3))));
        let (now, silent) = part(many, |_| true);
        assert_eq!((now.len(), silent), (LOOKED_AT, None));
    }
}

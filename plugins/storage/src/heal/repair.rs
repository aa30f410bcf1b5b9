//! Makes pieces anew that are missing, those of which the least is left first.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{FutureExt, StreamExt, stream};
use hirsel_model::order::StorageOrder;
use tokio::sync::watch;

use super::{AT_ONCE, Healing, piece};
use crate::gateway::Gateway;
use crate::meta::command::Command;
use crate::meta::kinds::Missed;
use crate::meta::names::ChunkId;
use crate::meta::read::{self, Known};

/// Pieces that are looked at in one step.
const LOOKED_AT: usize = 256;

/// Makes some missing pieces. Whether there is more to do.
pub async fn step(gateway: Gateway, order: Arc<StorageOrder>, healing: watch::Sender<Healing>) -> Result<bool, String> {
    let queue = {
        let here = gateway.meta().group().here().map_err(|error| error.to_string())?;
        let wrong = |error: crate::meta::rows::RowsError| error.to_string();
        let queue = read::repairs(&here, None, None, LOOKED_AT).map_err(wrong)?;
        let known = |missed: Missed| read::chunk(&here, missed.chunk).map(|known| (missed, known));
        queue.into_iter().map(known).collect::<Result<Vec<_>, _>>().map_err(wrong)?
    };
    if queue.is_empty() {
        healing.send_if_modified(|it| {
            let whole = std::mem::take(&mut it.repaired) == 0;
            !whole | it.stuck.take().is_some()
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

/// What is to be made, and what need not be any more. A chunk that lacks more pieces comes before one that lacks fewer.
fn sort(queue: Vec<(Missed, Known)>, order: &StorageOrder) -> (Vec<(Missed, piece::Wanted)>, Vec<Missed>) {
    let mut lacks: BTreeMap<ChunkId, u8> = BTreeMap::new();
    for (missed, _) in &queue {
        *lacks.entry(missed.chunk).or_default() += 1;
    }
    let (mut todo, mut done) = (Vec::new(), Vec::new());
    for (missed, known) in queue {
        let partition = order.table.partitions.get(&missed.chunk.partition());
        let is_home = partition.is_some_and(|it| it.target().contains(&missed.node) || it.nodes.contains(&missed.node));
        match known {
            Known::Named(chunk) if is_home => {
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

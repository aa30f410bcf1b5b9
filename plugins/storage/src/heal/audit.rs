//! Compares what is on this node's disk with what the metadata say, in both directions.
//!
//! One way: each piece that should be here by the table is looked for in the index of the disk; one that is not there is put into the queue of
//! repairs. The other way: each piece that is here is asked about; what nobody can name any more is condemned, by commit, and so comes to its
//! end; what belongs on other nodes is evicted once these have all of it ([`super::spare`]). Only this says that everything is where it should be: counts of the metadata alone say nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use hirsel_model::order::StorageOrder;
use hirsel_model::storage::{Audit, Partition, StorageTable};
use hirsel_model::{NodeId, codec};
use hirsel_role::peers::{CallHandler, Peers};
use hirsel_role::storage::Auditing;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use super::spare::{Spare, Spares};
use crate::disk::Disk;
use crate::gateway::Gateway;
use crate::meta::command::{Answer, Command, Fate};
use crate::meta::kinds::{Chunk, Class, Missed};
use crate::meta::names::ChunkId;
use crate::meta::query::{CHUNKS_MAX, QUESTIONS_MAX, Query, Reply};
use crate::meta::read::Known;

/// Between two audits that nobody asked for.
const EVERY: Duration = Duration::from_secs(10 * 60);
/// After the first start, once others had time to be heard; and after one that failed.
const FIRST_AFTER: Duration = Duration::from_secs(20);
/// After one that missed something, or was made by an older table: what is made anew meanwhile is soon seen to be there.
const SOON_AFTER: Duration = Duration::from_secs(30);
/// After one that found what belongs elsewhere, or since which a partition moved: the room of what is left here is soon freed.
const SPARE_AFTER: Duration = Duration::from_secs(2 * 60);
/// Between two looks at whether one is due.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Between two pages, so that an audit is never felt by others: a million pieces take some minutes.
const PAUSE: Duration = Duration::from_millis(20);

/// By what a node is asked for its last audit, with one byte: [`LAST`], or [`AGAIN`] to have it made anew beside.
pub const ASK: &str = "storage.audit";
/// Only what is known.
pub const LAST: u8 = 0;
/// Another one is to be made.
pub const AGAIN: u8 = 1;
/// A node that lives answers within this: it only looks up what it found before.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Answers for this node's audits.
pub fn serve(peers: &dyn Peers, audits: watch::Receiver<Auditing>, now: Arc<Notify>) {
    peers.serve(ASK, answering(audits, now));
}

/// Tells what is known, and has it done again where that is asked.
pub(super) fn answering<T: Clone + Serialize + Send + Sync + 'static>(
    known: watch::Receiver<T>,
    now: Arc<Notify>,
) -> CallHandler {
    let handler = move |_: NodeId, body: Vec<u8>| {
        let told = codec::encode(&*known.borrow());
        if body.first() == Some(&AGAIN) {
            now.notify_one();
        }
        async move { Ok(told) }.boxed()
    };
    Arc::new(handler)
}

/// What each of `nodes` found last, or why it does not say.
pub async fn ask(peers: &dyn Peers, nodes: BTreeSet<NodeId>, what: u8) -> BTreeMap<NodeId, Result<Auditing, String>> {
    ask_all(peers, nodes, ASK, what).await
}

/// What each of `nodes` says to a call with one byte.
pub(super) async fn ask_all<T: DeserializeOwned>(
    peers: &dyn Peers,
    nodes: BTreeSet<NodeId>,
    call: &'static str,
    what: u8,
) -> BTreeMap<NodeId, Result<T, String>> {
    let asked = nodes.into_iter().map(|node| async move {
        let answer = peers.call(node, call, vec![what], ANSWER_WITHIN).await.map_err(|error| error.to_string());
        let told = answer.and_then(|bytes| codec::decode::<T>(&bytes).map_err(|error| error.to_string()));
        (node, told)
    });
    join_all(asked).await.into_iter().collect()
}

/// Audits again and again, and at once when `now` says so, for as long as the role lives.
pub async fn keep(
    gateway: Gateway,
    disk: Arc<Disk>,
    order: watch::Receiver<Arc<StorageOrder>>,
    spares: Spares,
    audits: watch::Sender<Auditing>,
    now: Arc<Notify>,
) {
    let (mut wait, mut ended, mut by) = (FIRST_AFTER, gateway.now(), 0);
    loop {
        let asked = timeout(LOOK_EVERY, now.notified()).await.is_ok();
        if audits.is_closed() {
            return;
        }
        let table = order.borrow().table.clone();
        let last = audits.borrow().last;
        let due = gateway.now().since(ended) >= wait.min(pause_after(&last, &table, gateway.me(), by));
        // Before anybody wanted objects there are none.
        if table.is_empty() || !(asked || due) {
            continue;
        }
        note(&audits, |auditing| auditing.begun += 1);
        by = table.version;
        wait = match audit(&gateway, &disk, &order, &spares, &audits).await {
            Ok(audit) => {
                if audit.there < audit.wanted || audit.unknown > 0 {
                    info!(wanted = audit.wanted, there = audit.there, unknown = audit.unknown, "audited");
                }
                audits.send_modify(|auditing| (auditing.last, auditing.failed) = (audit, None));
                EVERY
            }
            Err(words) => {
                debug!(words, "not audited");
                note(&audits, |auditing| auditing.failed = Some(words));
                FIRST_AFTER
            }
        };
        note(&audits, |auditing| auditing.ended = auditing.begun);
        ended = gateway.now();
    }
}

/// Changes what whoever asks is told. Nobody is woken: only what an audit found is news to the cluster.
fn note(audits: &watch::Sender<Auditing>, change: impl FnOnce(&mut Auditing)) {
    audits.send_if_modified(|auditing| {
        change(auditing);
        false
    });
}

/// How long after an audit another one is made, of which the last began with the table `by`.
fn pause_after(last: &Audit, table: &StorageTable, me: NodeId, by: u64) -> Duration {
    let newest = table.holders().get(&me).copied().unwrap_or_default();
    match last.at_ms > 0 {
        true if last.there < last.wanted || last.table < newest => SOON_AFTER,
        true if last.elsewhere > 0 || by < table.version => SPARE_AFTER,
        _ => EVERY,
    }
}

async fn audit(
    gateway: &Gateway,
    disk: &Disk,
    order: &watch::Receiver<Arc<StorageOrder>>,
    spares: &Spares,
    audits: &watch::Sender<Auditing>,
) -> Result<Audit, String> {
    let mut audit = Audit::default();
    let damaged: BTreeSet<_> = disk.usage().await.map_err(|error| error.to_string())?.damaged.into_iter().collect();
    let table = order.borrow().table.clone();
    audit.table = table.version;
    let mine: Vec<_> = table.partitions.iter().filter(|(_, it)| it.target().contains(&gateway.me())).collect();
    // The other way is one step more.
    let of = u32::try_from(mine.len()).unwrap_or(u32::MAX).saturating_add(1);
    for (step, some) in (0..).step_by(QUESTIONS_MAX).zip(mine.chunks(QUESTIONS_MAX)) {
        note(audits, |auditing| (auditing.step, auditing.of) = (step, of));
        // What is on its way here is the move's to bring, and so is not counted as seen.
        let (settled, moving): (Vec<_>, Vec<_>) = some.iter().partition(|(_, partition)| partition.next.is_empty());
        for (_, partition) in moving {
            audit.table = audit.table.min(partition.table.saturating_sub(1));
        }
        // Most partitions of a small cluster are empty: it is asked about many at once.
        let queries = settled.iter().map(|(number, _)| Query::Chunks(**number, None)).collect();
        let replies = gateway.look_all(queries).await.map_err(|error| error.to_string())?;
        for ((number, partition), reply) in settled.into_iter().zip(replies) {
            let first = chunks(reply.map_err(|refusal| refusal.to_string())?)?;
            wanted(gateway, disk, (*number, partition), first, &damaged, &mut audit).await?;
        }
    }
    note(audits, |auditing| (auditing.step, auditing.of) = (of - 1, of));
    found(gateway, disk, order, spares, &mut audit).await?;
    audit.at_ms = gateway.wall().0;
    Ok(audit)
}

fn chunks(reply: Reply) -> Result<Vec<(ChunkId, Chunk)>, String> {
    match reply {
        Reply::Chunks(page) => Ok(page),
        _ => Err("the metadata answer something else".into()),
    }
}

/// Looks for what should be here of a partition, of whose chunks the first page is known.
async fn wanted(
    gateway: &Gateway,
    disk: &Disk,
    (number, partition): (u16, &Partition),
    mut page: Vec<(ChunkId, Chunk)>,
    damaged: &BTreeSet<crate::chunk::ChunkId>,
    audit: &mut Audit,
) -> Result<(), String> {
    while let Some((last, _)) = page.last() {
        let after = Some(*last);
        let mut lacks = Vec::new();
        for (chunk, known) in &page {
            let homes = partition.target().len().min(usize::from(known.class.pieces()));
            if partition.target().first() == Some(&gateway.me()) {
                audit.homeless += u64::from(known.class.pieces()).saturating_sub(homes as u64);
            }
            let bears = homes.saturating_sub(usize::from(known.class.enough())).min(usize::from(u8::MAX)) as u8;
            audit.bears = Some(audit.bears.map_or(bears, |before| before.min(bears)));
            for shard in shards_of(partition, known, gateway.me()) {
                let id = chunk.on_disk(shard);
                let (is_there, is_damaged) = (disk.find(id).is_some(), damaged.contains(&id));
                match is_there && !is_damaged {
                    true => (audit.wanted, audit.there) = (audit.wanted + 1, audit.there + 1),
                    false => lacks.push((Missed { chunk: *chunk, shard, node: gateway.me() }, is_there)),
                }
            }
        }
        if !lacks.is_empty() {
            lacking(gateway, lacks, audit).await?;
        }
        // That was all of it, as of most partitions of a small cluster.
        if page.len() < CHUNKS_MAX {
            return Ok(());
        }
        sleep(PAUSE).await;
        page = chunks(gateway.look(Query::Chunks(number, after)).await.map_err(|error| error.to_string())?)?;
    }
    Ok(())
}

/// Counts pieces that are not here, or damaged, and puts them into the queue of repairs. What was deleted since it was asked for lacks nothing.
async fn lacking(gateway: &Gateway, lacks: Vec<(Missed, bool)>, audit: &mut Audit) -> Result<(), String> {
    let known = fates(gateway, lacks.iter().map(|(missed, _)| missed.chunk).collect()).await?;
    let named = lacks.into_iter().zip(known).filter(|(_, fate)| matches!(fate, Known::Named(_)));
    let mut all = Vec::new();
    for ((missed, is_damaged), _) in named {
        audit.wanted += 1;
        audit.damaged += u64::from(is_damaged);
        all.push(missed);
    }
    if !all.is_empty() {
        gateway.ask(Command::AddRepairs { missed: all }).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

async fn fates(gateway: &Gateway, chunks: Vec<ChunkId>) -> Result<Vec<Known>, String> {
    match gateway.look(Query::Fates(chunks)).await.map_err(|error| error.to_string())? {
        Reply::Fates(fates) => Ok(fates),
        _ => Err("the metadata answer something else".into()),
    }
}

/// Which pieces of a chunk a node should have.
fn shards_of(partition: &Partition, known: &Chunk, node: NodeId) -> Vec<u8> {
    let homes = (0u8..).zip(partition.target()).take(usize::from(known.class.pieces()));
    let mine = homes.filter(|(_, home)| **home == node);
    mine.map(|(number, _)| if matches!(known.class, Class::Copies(_)) { 0 } else { number }).collect()
}

/// Asks about what is here.
async fn found(
    gateway: &Gateway,
    disk: &Disk,
    order: &watch::Receiver<Arc<StorageOrder>>,
    spares: &Spares,
    audit: &mut Audit,
) -> Result<(), String> {
    let mut after = None;
    loop {
        let page = disk.list(after);
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.chunk);
        let living = page.iter().filter(|listed| !listed.condemned);
        let pieces: Vec<(ChunkId, u8)> = living.map(|listed| ChunkId::from_disk(listed.chunk)).collect();
        let chunks: Vec<ChunkId> = pieces.iter().map(|(chunk, _)| *chunk).collect();
        if chunks.is_empty() {
            continue;
        }
        let fates = fates(gateway, chunks).await?;
        let (mut unknown, mut elsewhere) = (BTreeSet::new(), Vec::new());
        {
            let order = order.borrow();
            for ((chunk, shard), fate) in pieces.iter().zip(fates) {
                match fate {
                    Known::Named(known) => {
                        let partition = order.table.partitions.get(&chunk.partition());
                        let home = partition.is_some_and(|it| shards_of(it, &known, gateway.me()).contains(shard));
                        if !home {
                            elsewhere.push(Spare { chunk: *chunk, shard: *shard, known });
                        }
                    }
                    Known::Open => audit.open += 1,
                    // It is being unlinked.
                    Known::Condemned => {}
                    Known::Unknown => {
                        audit.unknown += 1;
                        unknown.insert(*chunk);
                    }
                }
            }
        }
        if !unknown.is_empty() {
            condemn(gateway, unknown.into_iter().collect()).await?;
        }
        if !elsewhere.is_empty() {
            // What is not evicted now is tried again.
            let evicted = spares.evict(&elsewhere).await.unwrap_or_else(|words| {
                debug!(words, "what belongs elsewhere stays");
                0
            });
            gateway.counts().evicted.inc_by(evicted);
            audit.elsewhere += (elsewhere.len() as u64).saturating_sub(evicted);
        }
        sleep(PAUSE).await;
    }
}

/// Has chunks condemned that nobody can name: whoever leads unlinks them then.
async fn condemn(gateway: &Gateway, chunks: Vec<ChunkId>) -> Result<(), String> {
    let answer = gateway.ask(Command::CondemnUnknown { chunks }).await.map_err(|error| error.to_string())?;
    if let Answer::Fates(fates) = answer {
        let condemned = fates.iter().filter(|fate| **fate == Fate::Condemned).count();
        debug!(condemned, "pieces that nobody names");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_is_made_sooner_after_one_that_missed_something_or_went_by_an_older_table() {
        let partition = Partition { nodes: [1, 2].map(NodeId).to_vec(), next: Vec::new(), table: 4 };
        let table = StorageTable { version: 6, partitions: [(768, partition)].into(), ..StorageTable::default() };
        let sound = Audit { at_ms: 1, table: 5, wanted: 3, there: 3, ..Audit::default() };
        let after = |audit: Audit, node| pause_after(&audit, &table, NodeId(node), 6);
        assert_eq!(after(sound, 1), EVERY);
        assert_eq!(after(Audit { there: 2, ..sound }, 1), SOON_AFTER);
        assert_eq!(after(Audit { table: 3, ..sound }, 1), SOON_AFTER);
        assert_eq!(after(Audit { table: 3, ..sound }, 3), EVERY, "it has no part of it");
        assert_eq!(after(Audit { elsewhere: 1, ..sound }, 3), SPARE_AFTER);
        assert_eq!(pause_after(&sound, &table, NodeId(3), 5), SPARE_AFTER, "a partition may have moved away");
        assert_eq!(after(Audit::default(), 1), EVERY, "before the first, what is waited for is others");
    }
}

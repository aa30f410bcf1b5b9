//! Compares what is on this node's disk with what the metadata say, in both directions.
//!
//! One way: each piece that should be here by the table is looked for in the index of the disk; one that is not there is put into the queue of
//! repairs. The other way: each piece that is here is asked about; what nobody can name any more is condemned, by commit, and so comes to its
//! end. Only this says that everything is where it should be: counts of the metadata alone say nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use hirsel_model::order::StorageOrder;
use hirsel_model::storage::Partition;
use hirsel_model::{NodeId, codec};
use hirsel_role::peers::Peers;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use crate::disk::Disk;
use crate::gateway::Gateway;
use crate::meta::command::{Answer, Command, Fate};
use crate::meta::kinds::{Chunk, Class, Missed};
use crate::meta::names::ChunkId;
use crate::meta::query::{Query, Reply};
use crate::meta::read::Known;

/// Between two audits that nobody asked for.
const EVERY: Duration = Duration::from_secs(10 * 60);
/// After the first start, once others had time to be heard.
const FIRST_AFTER: Duration = Duration::from_secs(20);
/// Between two pages, so that an audit is never felt by others: a million pieces take some minutes.
const PAUSE: Duration = Duration::from_millis(20);

/// What an audit found on one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Audit {
    /// When it ended, in milliseconds since 1970; zero before the first.
    pub at_ms: u64,
    /// Pieces that should be here.
    pub wanted: u64,
    /// Of these, pieces that are.
    pub there: u64,
    /// Pieces that are damaged, and are not counted as there.
    pub damaged: u64,
    /// Pieces here that should be elsewhere: they were kept when their own node was away, or their partition moved.
    pub elsewhere: u64,
    /// Pieces here that nobody could name any more.
    pub unknown: u64,
    /// Pieces here whose writing is under way.
    pub open: u64,
}

impl Audit {
    /// Whether everything is here that should be.
    pub fn is_complete(&self) -> bool {
        self.at_ms > 0 && self.there == self.wanted
    }
}

/// By what a node is asked for its last audit, with one byte: [`LAST`], or [`AGAIN`] to have it made anew beside.
pub const ASK: &str = "storage.audit";
/// Only what is known.
pub const LAST: u8 = 0;
/// Another one is to be made.
pub const AGAIN: u8 = 1;
/// A node that lives answers within this: it only looks up what it found before.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Answers for this node's audits.
pub fn serve(peers: &dyn Peers, audits: watch::Receiver<Audit>, now: Arc<Notify>) {
    let handler = move |_: NodeId, body: Vec<u8>| {
        if body.first() == Some(&AGAIN) {
            now.notify_one();
        }
        let audit = *audits.borrow();
        async move { Ok(codec::encode(&audit)) }.boxed()
    };
    peers.serve(ASK, Arc::new(handler));
}

/// What each of `nodes` found last, or why it does not say.
pub async fn ask(peers: &dyn Peers, nodes: BTreeSet<NodeId>, what: u8) -> BTreeMap<NodeId, Result<Audit, String>> {
    let asked = nodes.into_iter().map(|node| async move {
        let answer = peers.call(node, ASK, vec![what], ANSWER_WITHIN).await.map_err(|error| error.to_string());
        let audit = answer.and_then(|bytes| codec::decode::<Audit>(&bytes).map_err(|error| error.to_string()));
        (node, audit)
    });
    join_all(asked).await.into_iter().collect()
}

/// Audits again and again, and at once when `now` says so, for as long as the role lives.
pub async fn keep(
    gateway: Gateway,
    disk: Arc<Disk>,
    order: watch::Receiver<Arc<StorageOrder>>,
    audits: watch::Sender<Audit>,
    now: Arc<Notify>,
) {
    let mut wait = FIRST_AFTER;
    loop {
        let _ = timeout(wait, now.notified()).await;
        wait = EVERY;
        // Before anybody wanted objects there are none.
        if order.borrow().table.is_empty() {
            continue;
        }
        match audit(&gateway, &disk, &order).await {
            Ok(audit) => {
                if audit.there < audit.wanted || audit.unknown > 0 {
                    info!(wanted = audit.wanted, there = audit.there, unknown = audit.unknown, "audited");
                }
                audits.send_replace(audit);
            }
            Err(words) => {
                debug!(words, "not audited");
                wait = FIRST_AFTER;
            }
        }
        if audits.is_closed() {
            return;
        }
    }
}

async fn audit(gateway: &Gateway, disk: &Disk, order: &watch::Receiver<Arc<StorageOrder>>) -> Result<Audit, String> {
    let mut audit = Audit::default();
    let damaged: BTreeSet<_> = disk.usage().await.map_err(|error| error.to_string())?.damaged.into_iter().collect();
    let table = order.borrow().table.clone();
    for (number, partition) in &table.partitions {
        let mine = partition.nodes.iter().chain(&partition.next).any(|node| *node == gateway.me());
        // What is on its way here is the move's to bring.
        if !mine || !partition.target().contains(&gateway.me()) || !partition.next.is_empty() {
            continue;
        }
        wanted(gateway, disk, *number, partition, &damaged, &mut audit).await?;
    }
    found(gateway, disk, order, &mut audit).await?;
    audit.at_ms = gateway.wall().0;
    Ok(audit)
}

/// Looks for what should be here.
async fn wanted(
    gateway: &Gateway,
    disk: &Disk,
    number: u16,
    partition: &Partition,
    damaged: &BTreeSet<crate::chunk::ChunkId>,
    audit: &mut Audit,
) -> Result<(), String> {
    let mut after = None;
    loop {
        let page = match gateway.look(Query::Chunks(number, after)).await.map_err(|error| error.to_string())? {
            Reply::Chunks(page) => page,
            _ => return Err("the metadata answer something else".into()),
        };
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(*last);
        let mut missed = Vec::new();
        for (chunk, known) in &page {
            for shard in shards_of(partition, known, gateway.me()) {
                audit.wanted += 1;
                let id = chunk.on_disk(shard);
                match disk.find(id) {
                    Some(_) if damaged.contains(&id) => audit.damaged += 1,
                    Some(_) => {
                        audit.there += 1;
                        continue;
                    }
                    None => {}
                }
                missed.push(Missed { chunk: *chunk, shard, node: gateway.me() });
            }
        }
        if !missed.is_empty() {
            gateway.ask(Command::AddRepairs { missed }).await.map_err(|error| error.to_string())?;
        }
        sleep(PAUSE).await;
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
        let fates = match gateway.look(Query::Fates(chunks)).await.map_err(|error| error.to_string())? {
            Reply::Fates(fates) => fates,
            _ => return Err("the metadata answer something else".into()),
        };
        let mut unknown = BTreeSet::new();
        {
            let order = order.borrow();
            for ((chunk, shard), fate) in pieces.iter().zip(fates) {
                match fate {
                    Known::Named(known) => {
                        let partition = order.table.partitions.get(&chunk.partition());
                        let home = partition.is_some_and(|it| shards_of(it, &known, gateway.me()).contains(shard));
                        audit.elsewhere += u64::from(!home);
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

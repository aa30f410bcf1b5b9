//! The log, the vote and the commit point of one group, on the store it shares with others.
//!
//! The newest entries are also in memory: appended ones can be read at once while the flusher makes them durable, and sending and
//! applying them costs no disk. An entry leaves memory only when it is on disk.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::{Arc, Mutex};

use hirsel_model::{Tag, codec};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend};
use redb::TableDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::store::{FACTS, Store, StoreError, lock};
use super::wire::{Ballot, Members, Position, Row, What};
use super::{APPEND_BYTES_MAX, Entry, LogId, Types, Vote, io_error};

/// Entries kept in memory when they are on disk already; a replica that is a little behind is served from here.
const TAIL_ENTRIES_MAX: usize = 4096;
/// The same in bytes.
const TAIL_BYTES_MAX: usize = 4 << 20;
/// What an entry costs besides its command.
const ENTRY_BYTES: usize = 64;

/// The durable part of one replica.
#[derive(Clone)]
pub(super) struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<Store>,
    /// The name of the table.
    table: String,
    group: &'static str,
    tail: Mutex<Tail>,
}

#[derive(Default)]
struct Tail {
    entries: BTreeMap<u64, Entry>,
    bytes: usize,
    /// Everything below this index is on disk.
    durable: u64,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    /// As it was found on disk.
    last: Option<LogId>,
    /// What other members are known to have acknowledged of what is committed (`witness`).
    seen: BTreeMap<u64, Position>,
}

impl Tail {
    fn push(&mut self, entry: Entry) {
        self.bytes += weight(&entry);
        if let Some(old) = self.entries.insert(entry.log_id.index, entry) {
            self.bytes -= weight(&old);
        }
    }

    fn settle(&mut self, next: u64) {
        self.durable = self.durable.max(next);
        while self.entries.len() > TAIL_ENTRIES_MAX || self.bytes > TAIL_BYTES_MAX {
            match self.entries.first_entry() {
                Some(oldest) if *oldest.key() < self.durable => self.bytes -= weight(&oldest.remove()),
                _ => break,
            }
        }
    }

    fn cut(&mut self, from: u64) {
        for (_, gone) in self.entries.split_off(&from) {
            self.bytes -= weight(&gone);
        }
        self.durable = self.durable.min(from);
    }
}

pub(super) fn weight(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(command) => ENTRY_BYTES + command.body.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => ENTRY_BYTES,
    }
}

impl Log {
    /// Reads what the group left, and checks that all of its log is there and can be understood.
    pub fn open(store: &Arc<Store>, group: &'static str) -> Result<Self, StoreError> {
        let log = Self {
            shared: Arc::new(Shared {
                store: store.clone(),
                table: format!("{group}/log"),
                group,
                tail: Mutex::default(),
            }),
        };
        let vote = log.read_fact::<Ballot>("vote")?.map(Into::into);
        let committed = log.read_fact::<Position>("committed")?.map(Into::into);
        let purged: Option<LogId> = log.read_fact::<Position>("purged")?.map(Into::into);
        let seen = log.read_fact("seen")?.unwrap_or_default();
        let mut last = purged;
        for entry in log.read(0..u64::MAX, usize::MAX)? {
            let expected = last.map_or(0, |last| last.index + 1);
            if entry.log_id.index != expected {
                let found = entry.log_id.index;
                return Err(log.damaged(format!("entry {found} of {group} follows where {expected} should be")));
            }
            last = Some(entry.log_id);
        }
        if committed > last {
            return Err(log.damaged(format!("the log of {group} ends before its commit point")));
        }
        let durable = last.map_or(0, |last| last.index + 1);
        *lock(&log.shared.tail) = Tail { vote, committed, purged, last, durable, seen, ..Tail::default() };
        Ok(log)
    }

    /// Writes a fact of the group and waits until it is durable.
    pub async fn write_fact(&self, what: &str, bytes: Vec<u8>) -> Result<(), StoreError> {
        let key = self.key(what);
        let work = move |tx: &redb::WriteTransaction| {
            tx.open_table(FACTS)?.insert(key.as_str(), bytes.as_slice())?;
            Ok(())
        };
        self.shared.store.write(work).await
    }

    /// Reads a fact of the group as it is on disk.
    pub fn read_fact<T: DeserializeOwned>(&self, what: &str) -> Result<Option<T>, StoreError> {
        let Some(bytes) = self.shared.store.fact(&self.key(what))? else { return Ok(None) };
        let decoded = codec::decode(&bytes);
        decoded.map(Some).map_err(|error| self.damaged(format!("{what} of {}: {error}", self.shared.group)))
    }

    /// The last entry, durable or not.
    pub fn last(&self) -> Option<LogId> {
        let tail = lock(&self.shared.tail);
        tail.entries.values().next_back().map(|entry| entry.log_id).or(tail.last)
    }

    /// How far the log is known to be committed.
    pub fn committed(&self) -> Option<LogId> {
        let tail = lock(&self.shared.tail);
        tail.committed.max(tail.purged)
    }

    /// The newest term that it voted in.
    pub fn term(&self) -> u64 {
        lock(&self.shared.tail).vote.map_or(0, |vote| vote.leader_id.term)
    }

    /// What each other member acknowledged of what is committed, as far as this replica saw it as a leader.
    pub fn seen(&self) -> BTreeMap<u64, Position> {
        lock(&self.shared.tail).seen.clone()
    }

    /// Replaces what [`Log::seen`] tells. It reaches the disk with the next commit point.
    pub fn see(&self, seen: BTreeMap<u64, Position>) {
        lock(&self.shared.tail).seen = seen;
    }

    /// Begins another foundation of the group on what is there (`base` is none) or on a snapshot, with `me` as its only voter. The
    /// engine must not run. All of it happens or nothing does.
    pub async fn refound(
        &self,
        me: u64,
        tag: &Tag,
        above: u64,
        base: Option<(LogId, Vec<u8>)>,
    ) -> Result<(), StoreError> {
        let last = base.as_ref().map_or_else(|| self.last(), |(at, _)| Some(*at));
        let term = last.map_or(0, |last| *last.leader_id).max(self.term()).max(above) + 1;
        let at = Position { term, index: last.map_or(0, |last| last.index + 1) };
        let members = Members { voters: vec![[me].into()], nodes: [me].into() };
        let row = Row { at, what: What::Members(members) };
        let ballot = Ballot { term, node: me, won: false };
        let (encoded, facts) = (codec::encode(&row), [("tag", codec::encode(tag)), ("vote", codec::encode(&ballot))]);
        let facts: Vec<_> = facts.into_iter().map(|(what, bytes)| (self.key(what), bytes)).collect();
        let seeded = base.as_ref().map(|(at, snapshot)| (codec::encode(&Position::from(*at)), snapshot.clone()));
        let (log, table) = (self.clone(), self.shared.table.clone());
        let work = move |tx: &redb::WriteTransaction| {
            match &seeded {
                None => drop(tx.open_table(FACTS)?.remove(log.key("seen").as_str())?),
                Some((purged, snapshot)) => {
                    log.erase(tx)?;
                    let mut facts = tx.open_table(FACTS)?;
                    facts.insert(log.key("purged").as_str(), purged.as_slice())?;
                    facts.insert(log.key("snapshot").as_str(), snapshot.as_slice())?;
                }
            }
            tx.open_table(TableDefinition::<u64, &[u8]>::new(&table))?.insert(at.index, encoded.as_slice())?;
            let mut table = tx.open_table(FACTS)?;
            for (key, bytes) in &facts {
                table.insert(key.as_str(), bytes.as_slice())?;
            }
            Ok(())
        };
        self.shared.store.write(work).await?;
        let mut tail = lock(&self.shared.tail);
        if let Some((at, _)) = base {
            *tail = Tail { purged: Some(at), last: Some(at), ..Tail::default() };
        }
        tail.seen.clear();
        tail.vote = Some(ballot.into());
        tail.push(row.into());
        tail.settle(at.index + 1);
        Ok(())
    }

    /// Forgets everything, for the foundation `tag` tells it all anew. The engine must not run.
    pub async fn forget(&self, tag: &Tag) -> Result<(), StoreError> {
        let (log, key, bytes) = (self.clone(), self.key("tag"), codec::encode(tag));
        let work = move |tx: &redb::WriteTransaction| {
            log.erase(tx)?;
            tx.open_table(FACTS)?.insert(key.as_str(), bytes.as_slice())?;
            Ok(())
        };
        self.shared.store.write(work).await?;
        *lock(&self.shared.tail) = Tail::default();
        Ok(())
    }

    fn erase(&self, tx: &redb::WriteTransaction) -> Result<(), redb::Error> {
        tx.delete_table(TableDefinition::<u64, &[u8]>::new(&self.shared.table))?;
        let mut facts = tx.open_table(FACTS)?;
        for what in ["vote", "committed", "purged", "snapshot", "seen", "older"] {
            facts.remove(self.key(what).as_str())?;
        }
        Ok(())
    }

    pub fn store(&self) -> &Arc<Store> {
        &self.shared.store
    }

    pub fn damaged(&self, reason: String) -> StoreError {
        StoreError::Damaged { file: self.shared.store.file().into(), reason }
    }

    pub fn key(&self, what: &str) -> String {
        format!("{}/{what}", self.shared.group)
    }

    async fn put<T: Serialize>(&self, what: &str, value: &T) -> Result<(), StoreError> {
        self.write_fact(what, codec::encode(value)).await
    }

    /// Entries of a range, in order, until they exceed `bytes_max` (at least one).
    fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<Entry>, StoreError> {
        let mut entries: Vec<Entry> = Vec::new();
        let (mut next, mut bytes) = (range.start, 0);
        // Entries move from memory to disk only; so whoever misses one in memory finds it on disk in the next round.
        while next < range.end && bytes < bytes_max {
            let memory_from = {
                let tail = lock(&self.shared.tail);
                let first = tail.entries.keys().next().copied().unwrap_or(u64::MAX);
                if first <= next {
                    for (_, entry) in tail.entries.range(next..range.end) {
                        if bytes >= bytes_max {
                            break;
                        }
                        bytes += weight(entry);
                        entries.push(entry.clone());
                    }
                    break;
                }
                first
            };
            let mut wrong = None;
            self.shared.store.rows(self.table(), next..range.end.min(memory_from), |index, row| {
                bytes += row.len();
                match codec::decode::<Row>(row) {
                    Ok(row) if row.at.index == index => entries.push(row.into()),
                    Ok(row) => wrong = Some(format!("entry {index} says that it is {}", row.at.index)),
                    Err(error) => wrong = Some(format!("entry {index}: {error}")),
                }
                wrong.is_none() && bytes < bytes_max
            })?;
            if let Some(reason) = wrong {
                return Err(self.damaged(format!("{reason} (log of {})", self.shared.group)));
            }
            match entries.last() {
                Some(last) if last.log_id.index >= next => next = last.log_id.index + 1,
                _ => break,
            }
        }
        Ok(entries)
    }

    fn table(&self) -> TableDefinition<'_, u64, &'static [u8]> {
        TableDefinition::new(&self.shared.table)
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(half_open(&range), usize::MAX).map_err(io_error)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start..end, APPEND_BYTES_MAX).map_err(io_error)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(lock(&self.shared.tail).vote)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let tail = lock(&self.shared.tail);
        let last = tail.entries.values().next_back().map(|entry| entry.log_id).or(tail.last);
        Ok(LogState { last_purged_log_id: tail.purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.put("vote", &Ballot::from(*vote)).await.map_err(io_error)?;
        lock(&self.shared.tail).vote = Some(*vote);
        Ok(())
    }

    // Tells a restarting replica how much of its log it may apply before it hears from anyone. Losing it loses nothing else.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        lock(&self.shared.tail).committed = committed;
        let Some(committed) = committed else { return Ok(()) };
        let (key, bytes) = (self.key("committed"), codec::encode(&Position::from(committed)));
        let (shared, seen_key) = (self.shared.clone(), self.key("seen"));
        let work = move |tx: &redb::WriteTransaction| {
            let mut facts = tx.open_table(FACTS)?;
            facts.insert(key.as_str(), bytes.as_slice())?;
            // With it goes what others acknowledged: that changes with it, and costs no write of its own.
            let seen = lock(&shared.tail).seen.clone();
            if !seen.is_empty() {
                facts.insert(seen_key.as_str(), codec::encode(&seen).as_slice())?;
            }
            Ok(())
        };
        self.shared.store.submit_hint(work).await;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(lock(&self.shared.tail).committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut rows = Vec::new();
        {
            let mut tail = lock(&self.shared.tail);
            for entry in entries {
                rows.push((entry.log_id.index, Row::from(&entry)));
                tail.push(entry);
            }
        }
        let next = rows.last().map_or(0, |(index, _)| index + 1);
        let (shared, table) = (self.shared.clone(), self.shared.table.clone());
        let work = move |tx: &redb::WriteTransaction| {
            let mut table = tx.open_table(TableDefinition::<u64, &[u8]>::new(&table))?;
            for (index, row) in rows {
                table.insert(index, codec::encode(&row).as_slice())?;
            }
            Ok(())
        };
        let done = move |result: Result<(), StoreError>| {
            if result.is_ok() {
                lock(&shared.tail).settle(next);
            }
            callback.io_completed(result.map_err(io_error));
        };
        self.shared.store.submit(work, done).await;
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from = last.map_or(0, |last| last.index + 1);
        {
            let mut tail = lock(&self.shared.tail);
            tail.cut(from);
            tail.last = last;
        }
        let table = self.shared.table.clone();
        let work = move |tx: &redb::WriteTransaction| {
            tx.open_table(TableDefinition::<u64, &[u8]>::new(&table))?.retain_in(from.., |_, _| false)?;
            Ok(())
        };
        self.shared.store.write(work).await.map_err(io_error)?;
        // An append that was on its way meanwhile has called itself durable, and what it wrote is gone again.
        lock(&self.shared.tail).cut(from);
        Ok(())
    }

    async fn purge(&mut self, up_to: LogId) -> Result<(), io::Error> {
        {
            let mut tail = lock(&self.shared.tail);
            tail.purged = Some(up_to);
            tail.last = tail.last.max(Some(up_to));
            let kept = tail.entries.split_off(&(up_to.index + 1));
            tail.bytes = kept.values().map(weight).sum();
            tail.entries = kept;
            tail.durable = tail.durable.max(up_to.index + 1);
        }
        let (key, bytes) = (self.key("purged"), codec::encode(&Position::from(up_to)));
        let table = self.shared.table.clone();
        let work = move |tx: &redb::WriteTransaction| {
            tx.open_table(FACTS)?.insert(key.as_str(), bytes.as_slice())?;
            tx.open_table(TableDefinition::<u64, &[u8]>::new(&table))?.retain_in(..=up_to.index, |_, _| false)?;
            Ok(())
        };
        self.shared.store.write(work).await.map_err(io_error)
    }
}

fn half_open(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

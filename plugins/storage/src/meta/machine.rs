//! The rows on disk: a B-tree in one file behind the mesh's storage seam, so that a million objects do not sit in memory.
//!
//! A batch of entries is one transaction, and with it goes what the group wants to be kept beside the state ([`Machine::commit`]): how far
//! it is applied can never differ from what is applied. A batch is not synced: the log of the group is, and what a crash takes of the
//! rows is applied again from there. Only before entries are forgotten the rows are synced.
//!
//! Readers have a transaction of their own, which sees one moment and stops nobody.

use std::io;
use std::sync::Arc;

use hirsel_mesh::raft::{self, OnDisk, StateMachine, StateMachineError};
use hirsel_mesh::seam::Disk;
use hirsel_model::codec;
use redb::{
    Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, StorageBackend, Table, TableDefinition,
    WriteTransaction,
};

use super::apply::{self, Changes};
use super::command::{Answer, Entry};
use super::refusal::Refusal;
use super::rows::{Rows, RowsError, Show, Step};
use super::snapshot::{Frames, SnapshotError, Taken, Taking};

const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");
/// Rows of a snapshot that is on its way, and does not count yet.
const ARRIVING: TableDefinition<&[u8], &[u8]> = TableDefinition::new("arriving");
const FACTS: TableDefinition<&str, &[u8]> = TableDefinition::new("facts");
/// The fact that [`Machine::commit`] was told to keep.
const KEPT: &str = "kept";
/// Memory for pages of the file: the inner pages of a hundred million rows, and the leaves that are in use.
const CACHE_BYTES: usize = 64 << 20;

/// The state of a metadata group on one node.
pub struct Machine {
    db: Arc<Database>,
    /// What was applied and not committed yet.
    batch: Option<WriteTransaction>,
    /// A snapshot that is on its way, and whether all of it has come.
    arriving: (Taking, bool),
    /// Why it cannot go on, if something failed that has no answer.
    failed: Option<RowsError>,
}

/// Reads the state of a metadata group on one node. All copies read the same.
#[derive(Clone)]
pub struct Reader {
    db: Arc<Database>,
}

/// One moment of the state.
pub struct Moment(ReadOnlyTable<&'static [u8], &'static [u8]>);

impl Machine {
    /// Opens or makes the file. It blocks: it reads a disk.
    ///
    /// # Errors
    /// When the disk does not give it, or it holds what it should not.
    pub fn open(disk: &dyn Disk, file: &str) -> Result<Self, RowsError> {
        let backend = disk.backend(file).map_err(|error| RowsError(format!("cannot open {file}: {error}")))?;
        Self::on(backend)
    }

    fn on(backend: Box<dyn StorageBackend>) -> Result<Self, RowsError> {
        let mut builder = Database::builder();
        let db = builder.set_cache_size(CACHE_BYTES).create_with_backend(Backend(backend)).map_err(broken)?;
        let tx = db.begin_write().map_err(broken)?;
        tx.open_table(ROWS).map_err(broken)?;
        tx.open_table(FACTS).map_err(broken)?;
        tx.commit().map_err(broken)?;
        Ok(Self { db: Arc::new(db), batch: None, arriving: (Taking::default(), false), failed: None })
    }

    /// Reads what is committed.
    pub fn reader(&self) -> Reader {
        Reader { db: self.db.clone() }
    }

    /// What the last commit that is still there was told to keep; none before the first.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn kept(&self) -> Result<Option<Vec<u8>>, RowsError> {
        let facts = self.db.begin_read().map_err(broken)?.open_table(FACTS).map_err(broken)?;
        Ok(facts.get(KEPT).map_err(broken)?.map(|kept| kept.value().to_vec()))
    }

    fn batch(&mut self) -> Result<&mut WriteTransaction, RowsError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let batch = match self.batch.take() {
            Some(batch) => batch,
            None => {
                let mut batch = self.db.begin_write().map_err(broken)?;
                batch.set_durability(Durability::None).map_err(broken)?;
                batch
            }
        };
        Ok(self.batch.insert(batch))
    }

    /// Carries out one encoded [`Entry`] and returns its encoded answer ([`Outcome`]). Readers see it after [`Machine::commit`].
    ///
    /// # Errors
    /// When the replica must stop; the batch is lost then, and nothing of it was seen.
    pub fn apply(&mut self, entry: &[u8]) -> Result<Vec<u8>, apply::ApplyError> {
        let entry: Entry = codec::decode(entry)?;
        let batch = self.batch()?;
        let mut table = batch.open_table(ROWS).map_err(broken)?;
        let (changes, outcome): (Changes, Outcome) = apply::apply(&Stored(&table), entry)?;
        write(&mut table, &changes)?;
        Ok(codec::encode(&outcome))
    }

    /// Ends the batch, with what is to be kept beside it. Synced if `durable`, which takes the batches before it along, and blocks.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn commit(&mut self, kept: &[u8], durable: bool) -> Result<(), RowsError> {
        self.batch()?.open_table(FACTS).map_err(broken)?.insert(KEPT, kept).map_err(broken)?;
        let Some(mut batch) = self.batch.take() else { return Ok(()) };
        if durable {
            batch.set_durability(Durability::Immediate).map_err(broken)?;
        }
        batch.commit().map_err(broken)
    }

    /// Forgets everything, durably.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn reset(&mut self) -> Result<(), RowsError> {
        self.abandon()?;
        let tx = self.db.begin_write().map_err(broken)?;
        tx.delete_table(ROWS).map_err(broken)?;
        tx.delete_table(ARRIVING).map_err(broken)?;
        tx.open_table(ROWS).map_err(broken)?;
        tx.open_table(FACTS).map_err(broken)?.remove(KEPT).map_err(broken)?;
        tx.commit().map_err(broken)
    }

    fn abandon(&mut self) -> Result<(), RowsError> {
        self.batch.take().map_or(Ok(()), |batch| batch.abort().map_err(broken))
    }

    /// Takes the next frame of a snapshot into a place beside the state; `first` begins a new one. The state is as it was until
    /// [`Machine::install`]. Says whether it was the last one.
    ///
    /// # Errors
    /// When the frame is not the next one of a snapshot, or the disk does not take it.
    pub fn arrive(&mut self, frame: &[u8], first: bool) -> Result<bool, SnapshotError> {
        if first {
            self.arriving = (Taking::default(), false);
        }
        let taken = self.arriving.0.take(frame)?;
        self.abandon()?;
        let mut tx = self.db.begin_write().map_err(broken)?;
        tx.set_durability(Durability::None).map_err(broken)?;
        if first {
            tx.delete_table(ARRIVING).map_err(broken)?;
        }
        let all = matches!(taken, Taken::All);
        if let Taken::Rows(rows) = taken {
            let mut table = tx.open_table(ARRIVING).map_err(broken)?;
            for (key, value) in &rows {
                table.insert(key.as_slice(), value.as_slice()).map_err(broken)?;
            }
        }
        tx.commit().map_err(broken)?;
        self.arriving.1 = all;
        Ok(all)
    }

    /// Makes the snapshot that has arrived the state, in one durable step.
    ///
    /// # Errors
    /// When not all of it has arrived, or the disk does not take it.
    pub fn install(&mut self, kept: &[u8]) -> Result<(), RowsError> {
        if !std::mem::take(&mut self.arriving).1 {
            return Err(RowsError("a snapshot has not arrived whole".into()));
        }
        self.abandon()?;
        let tx = self.db.begin_write().map_err(broken)?;
        tx.delete_table(ROWS).map_err(broken)?;
        tx.open_table(ARRIVING).map_err(broken)?;
        tx.rename_table(ARRIVING, ROWS).map_err(broken)?;
        tx.open_table(FACTS).map_err(broken)?.insert(KEPT, kept).map_err(broken)?;
        tx.commit().map_err(broken)
    }
}

impl From<RowsError> for StateMachineError {
    fn from(error: RowsError) -> Self {
        StateMachineError(error.to_string())
    }
}

impl StateMachine for Machine {
    fn apply(&mut self, _: u64, command: &[u8]) -> Result<Vec<u8>, StateMachineError> {
        Machine::apply(self, command).map_err(|error| StateMachineError(error.to_string()))
    }

    fn reset(&mut self) {
        // There is nobody to tell; but nothing is applied on top of what could not be forgotten.
        self.failed = Machine::reset(self).err();
    }

    // Never called: the state is on disk.
    fn snapshot(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(&mut self, _: &[u8]) -> Result<(), StateMachineError> {
        Err(StateMachineError("metadata are not kept in memory".into()))
    }

    fn on_disk(&mut self) -> Option<&mut dyn OnDisk> {
        Some(self)
    }
}

impl OnDisk for Machine {
    fn kept(&self) -> Result<Option<Vec<u8>>, StateMachineError> {
        Ok(Machine::kept(self)?)
    }

    fn keep(&mut self, beside: &[u8], durable: bool) -> Result<(), StateMachineError> {
        Ok(self.commit(beside, durable)?)
    }

    fn frames(&self) -> Result<Box<dyn raft::Frames>, StateMachineError> {
        Ok(Box::new(Sent { moment: self.reader().moment()?, frames: Frames::default() }))
    }

    fn arrive(&mut self, frame: &[u8], first: bool) -> Result<(), StateMachineError> {
        Machine::arrive(self, frame, first).map(drop).map_err(|error| StateMachineError(error.to_string()))
    }

    fn install(&mut self, beside: &[u8]) -> Result<(), StateMachineError> {
        Ok(Machine::install(self, beside)?)
    }
}

/// The frames of one moment.
struct Sent {
    moment: Moment,
    frames: Frames,
}

impl raft::Frames for Sent {
    fn next(&mut self) -> Result<Option<Vec<u8>>, StateMachineError> {
        Ok(self.frames.next(&self.moment)?)
    }
}

/// What became of an entry.
pub type Outcome = Result<Answer, Refusal>;

fn write(table: &mut Table<'_, &'static [u8], &'static [u8]>, changes: &Changes) -> Result<(), RowsError> {
    for (key, change) in changes {
        match change {
            Some(value) => drop(table.insert(key.as_slice(), value.as_slice()).map_err(broken)?),
            None => drop(table.remove(key.as_slice()).map_err(broken)?),
        }
    }
    Ok(())
}

impl Reader {
    /// The state as it is committed now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn moment(&self) -> Result<Moment, RowsError> {
        let tx = self.db.begin_read().map_err(broken)?;
        Ok(Moment(tx.open_table(ROWS).map_err(broken)?))
    }
}

/// Rows of a table, whoever has it open.
struct Stored<'a, T>(&'a T);

impl<T: ReadableTable<&'static [u8], &'static [u8]>> Rows for Stored<'_, T> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RowsError> {
        Ok(self.0.get(key).map_err(broken)?.map(|value| value.value().to_vec()))
    }

    fn scan(&self, from: &[u8], to: &[u8], show: &mut Show<'_>) -> Result<(), RowsError> {
        let mut start = from.to_vec();
        'seek: while start.as_slice() < to {
            for row in self.0.range::<&[u8]>(start.as_slice()..to).map_err(broken)? {
                let (key, value) = row.map_err(broken)?;
                match show(key.value(), value.value())? {
                    Step::On => {}
                    Step::Seek(ahead) => {
                        start = ahead;
                        continue 'seek;
                    }
                    Step::Stop => return Ok(()),
                }
            }
            return Ok(());
        }
        Ok(())
    }
}

impl Rows for Moment {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RowsError> {
        Stored(&self.0).get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], show: &mut Show<'_>) -> Result<(), RowsError> {
        Stored(&self.0).scan(from, to, show)
    }
}

fn broken(error: impl Into<redb::Error>) -> RowsError {
    RowsError(error.into().to_string())
}

/// A file of the world, as redb wants it.
#[derive(Debug)]
struct Backend(Box<dyn StorageBackend>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
}

#[cfg(test)]
pub(super) fn on(backend: Box<dyn StorageBackend>) -> Result<Machine, RowsError> {
    Machine::on(backend)
}

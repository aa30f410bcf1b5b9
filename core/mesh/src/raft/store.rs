//! The durable store under the groups of one agent: one redb file, one flusher.
//!
//! Nobody writes by himself. A write is a job in a queue; the flusher takes all that wait, carries them out in one transaction,
//! syncs once, and tells everyone. So many writers share a sync, the async threads never wait for a disk, and the order of the
//! queue is the order on disk. The first failure is the last write: from then on every job is refused with its words, because
//! nobody knows what a disk that failed once still holds. A disk that neither does nor refuses what it is asked for ([`Store::owes_for`]) is
//! waited for without end: it is said how long that is, and nothing else is done about it here.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use redb::{Database, ReadableDatabase, StorageBackend, TableDefinition, WriteTransaction};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::seam::World;

/// Votes, positions and snapshots by `GROUP/what`.
pub(super) const FACTS: TableDefinition<&str, &[u8]> = TableDefinition::new("facts");
/// Memory for pages of the file. The tail of the log is kept by the log itself; this serves catching up.
const CACHE_BYTES: usize = 4 << 20;
/// Jobs that wait for the flusher. When it is full the engine waits, which is the right back-pressure for a slow disk.
const JOBS_MAX: usize = 1024;
/// A write that is only a hint (how far the log is committed) waits this long for another one to share its sync.
const HINT_WAIT: Duration = Duration::from_millis(200);

/// Why a store cannot be opened or used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// It holds what it should not.
    #[error(
        "{file} is damaged: {reason}; this node must not vote with it. Stop the agent, move the data folder away, and join again \
         under a new id: hirsel join SEED --token T"
    )]
    Damaged {
        /// Which file of the data folder.
        file: String,
        /// What was found.
        reason: String,
    },
    /// A newer hirsel wrote it.
    #[error("{file} was written by a newer hirsel ({reason}); upgrade this node")]
    Newer {
        /// Which file of the data folder.
        file: String,
        /// What was found.
        reason: String,
    },
    /// The disk does not take or give it.
    #[error("cannot {what} {file}: {reason}; free space and the agent goes on by itself, or replace the disk")]
    Disk {
        /// Open or write.
        what: &'static str,
        /// Which file of the data folder.
        file: String,
        /// What the system says.
        reason: String,
    },
    /// It was closed.
    #[error("the store is closed")]
    Closed,
}

/// Since when the disk owes the write that is under way.
type Owed = Arc<Mutex<Option<Instant>>>;
type Work = Box<dyn FnOnce(&WriteTransaction) -> Result<(), redb::Error> + Send>;
type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

struct Job {
    work: Work,
    done: Done,
    /// May wait for company.
    hint: bool,
}

/// One durable file for the groups of an agent.
pub struct Store {
    file: String,
    db: Arc<Database>,
    jobs: mpsc::Sender<Job>,
    failed: Arc<OnceLock<StoreError>>,
    owed: Owed,
    stop: CancellationToken,
    flusher: tokio::sync::Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl Store {
    /// Opens or makes the file, and checks all of it.
    ///
    /// # Errors
    /// What is wrong with the file, and what to do.
    pub async fn open(world: &World, file: &str) -> Result<Arc<Self>, StoreError> {
        let slot = Arc::new(Mutex::new(None));
        let (disk, name, found) = (world.disk.clone(), file.to_owned(), slot.clone());
        let opened = world.disk.run(Box::new(move || {
            *lock(&found) = Some(open_checked(&*disk, &name));
            Ok(())
        }));
        opened.await.map_err(|error| unusable("open", file, &error))?;
        let db = Arc::new(lock(&slot).take().unwrap_or(Err(StoreError::Closed))?);
        let (jobs, queue) = mpsc::channel(JOBS_MAX);
        let failed = Arc::new(OnceLock::new());
        let owed = Owed::default();
        let stop = CancellationToken::new();
        let flusher = Flusher {
            world: world.clone(),
            file: file.into(),
            db: db.clone(),
            failed: failed.clone(),
            owed: owed.clone(),
            stop: stop.clone(),
        };
        let flusher = tokio::spawn(flusher.run(queue));
        Ok(Arc::new(Self { file: file.into(), db, jobs, failed, owed, stop, flusher: Some(flusher).into() }))
    }

    /// Why it takes no more writes, once it does not.
    pub fn failed(&self) -> Option<StoreError> {
        self.failed.get().cloned()
    }

    /// For how long the disk has owed the write that is under way; nothing while none is.
    pub(super) fn owes_for(&self) -> Duration {
        lock(&self.owed).map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Writes what waits and closes the file when its last reader is gone.
    pub async fn close(&self) {
        self.stop.cancel();
        if let Some(flusher) = self.flusher.lock().await.take() {
            // It ends by itself, and a panic of it was reported where it happened.
            let _ = flusher.await;
        }
    }

    /// The name of the file in the data folder.
    pub(super) fn file(&self) -> &str {
        &self.file
    }

    /// Reads a fact that is on disk.
    pub(super) fn fact(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.db.begin_read()?.open_table(FACTS)?;
            Ok(table.get(key)?.map(|row| row.value().to_vec()))
        };
        read().map_err(|error| self.explain("read", error))
    }

    /// Reads rows of a log that are on disk.
    pub(super) fn rows(
        &self,
        table: TableDefinition<u64, &[u8]>,
        range: std::ops::Range<u64>,
        mut take: impl FnMut(u64, &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let mut read = || -> Result<_, redb::Error> {
            let table = match self.db.begin_read()?.open_table(table) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
                table => table?,
            };
            for row in table.range(range.clone())? {
                let (index, row) = row?;
                if !take(index.value(), row.value()) {
                    break;
                }
            }
            Ok(())
        };
        read().map_err(|error| self.explain("read", error))
    }

    /// Queues a write; `done` is told when it is durable, or why it never will be.
    pub(super) async fn submit(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error> + Send + 'static,
        done: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) {
        self.enqueue(Job { work: Box::new(work), done: Box::new(done), hint: false }).await;
    }

    /// Queues a write that may be lost in a crash.
    pub(super) async fn submit_hint(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error> + Send + 'static,
    ) {
        self.enqueue(Job { work: Box::new(work), done: Box::new(|_| ()), hint: true }).await;
    }

    /// Writes and waits until it is durable.
    pub(super) async fn write(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error> + Send + 'static,
    ) -> Result<(), StoreError> {
        let (done, written) = oneshot::channel();
        let tell = move |result| drop(done.send(result));
        self.submit(work, tell).await;
        written.await.unwrap_or(Err(StoreError::Closed))
    }

    async fn enqueue(&self, job: Job) {
        if let Err(refused) = self.jobs.send(job).await {
            (refused.0.done)(Err(self.failed().unwrap_or(StoreError::Closed)));
        }
    }

    fn explain(&self, what: &'static str, error: redb::Error) -> StoreError {
        explain(what, &self.file, error)
    }
}

struct Flusher {
    world: World,
    file: String,
    db: Arc<Database>,
    failed: Arc<OnceLock<StoreError>>,
    owed: Owed,
    stop: CancellationToken,
}

impl Flusher {
    async fn run(self, mut queue: mpsc::Receiver<Job>) {
        let mut batch = Vec::new();
        loop {
            let more = tokio::select! {
                biased;
                taken = queue.recv_many(&mut batch, JOBS_MAX) => taken > 0,
                () = self.stop.cancelled() => false,
            };
            if !more {
                queue.close();
                while let Ok(job) = queue.try_recv() {
                    batch.push(job);
                }
            } else if batch.iter().all(|job| job.hint) {
                // Whatever comes first: company, or the end of patience.
                let _ = tokio::time::timeout(HINT_WAIT, queue.recv_many(&mut batch, JOBS_MAX)).await;
            }
            if !batch.is_empty() {
                self.flush(std::mem::take(&mut batch)).await;
            }
            if !more {
                return;
            }
        }
    }

    async fn flush(&self, batch: Vec<Job>) {
        let (works, tell): (Vec<Work>, Vec<Done>) = batch.into_iter().map(|job| (job.work, job.done)).unzip();
        let result = match self.failed.get() {
            Some(failed) => Err(failed.clone()),
            None => self.commit(works).await,
        };
        if let Err(error) = &result
            && self.failed.set(error.clone()).is_ok()
        {
            tracing::error!(%error, "the log takes no more writes");
        }
        for done in tell {
            done(result.clone());
        }
    }

    async fn commit(&self, works: Vec<Work>) -> Result<(), StoreError> {
        let slot = Arc::new(Mutex::new(None));
        let (db, found) = (self.db.clone(), slot.clone());
        let committed = self.world.disk.run(Box::new(move || {
            let result = transact(&db, works);
            let failed = result.is_err();
            *lock(&found) = result.err();
            match failed {
                false => Ok(()),
                true => Err(io::Error::other("not written")),
            }
        }));
        *lock(&self.owed) = Some(Instant::now());
        let committed = committed.await;
        *lock(&self.owed) = None;
        let error = lock(&slot).take();
        match (committed, error) {
            (Ok(()), None) => Ok(()),
            (_, Some(error)) => Err(explain("write", &self.file, error)),
            // The world says that the work did not happen, whatever the work itself said.
            (Err(error), None) => Err(unusable("write", &self.file, &error)),
        }
    }
}

fn transact(db: &Database, works: Vec<Work>) -> Result<(), redb::Error> {
    let transaction = db.begin_write()?;
    for work in works {
        work(&transaction)?;
    }
    transaction.commit()?;
    Ok(())
}

fn open_checked(disk: &dyn crate::seam::Disk, file: &str) -> Result<Database, StoreError> {
    let backend = disk.backend(file).map_err(|error| unusable("open", file, &error))?;
    let mut builder = Database::builder();
    // A plain open trusts a file that was closed cleanly and may panic on one that something else wrote to. The log is small.
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    let db = builder.create_with_backend(Backend(backend)).map_err(|error| explain("open", file, error.into()))?;
    let make = || -> Result<(), redb::Error> {
        let transaction = db.begin_write()?;
        transaction.open_table(FACTS)?;
        transaction.commit()?;
        Ok(())
    };
    make().map_err(|error| explain("open", file, error))?;
    Ok(db)
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

fn explain(what: &'static str, file: &str, error: redb::Error) -> StoreError {
    use redb::Error as E;
    match error {
        E::Corrupted(reason) => StoreError::Damaged { file: file.into(), reason },
        E::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            StoreError::Damaged { file: file.into(), reason: error.to_string() }
        }
        E::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            StoreError::Damaged { file: file.into(), reason: format!("shorter than it says ({error})") }
        }
        error @ (E::TableTypeMismatch { .. } | E::TypeDefinitionChanged { .. } | E::RepairAborted) => {
            StoreError::Damaged { file: file.into(), reason: error.to_string() }
        }
        error @ E::UpgradeRequired(_) => StoreError::Newer { file: file.into(), reason: error.to_string() },
        error => StoreError::Disk { what, file: file.into(), reason: error.to_string() },
    }
}

fn unusable(what: &'static str, file: &str, error: &io::Error) -> StoreError {
    StoreError::Disk { what, file: file.into(), reason: error.to_string() }
}

/// A lock whose holder panicked is as good as any: everything under these locks is replaced whole.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

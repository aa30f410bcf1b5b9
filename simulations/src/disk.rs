//! A disk that loses what was not synced, wholly or in part, that may lose its power inside a sync, and that can be full.
//!
//! [`Platter`] outlives the agents; each life of an agent has a [`SimDisk`], a mount with a number. A newer mount, the end of the
//! agent and the loss of power make older ones void, so that what destructors do afterwards (redb syncs when it is dropped) never
//! reaches the platter.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use hirsel_mesh::seam::Disk;
use rand::Rng;
use rand::rngs::SmallRng;
use redb::StorageBackend;

/// Virtual time between asking for durable work and its being done: the window in which a crash loses it.
const SYNC_TIME: Duration = Duration::from_millis(2);
/// Limit of the seam for files that are read whole.
const FILE_BYTES_MAX: usize = 64 << 20;

/// What survives the agents of one host.
#[derive(Debug, Default)]
pub struct Platter(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    mount: u64,
    files: BTreeMap<String, File>,
    syncs: u64,
    full: bool,
    /// Added to each piece of durable work.
    slow: Duration,
    power: Power,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Power {
    #[default]
    On,
    /// Fails inside the next sync.
    Doomed,
    /// Failed; nobody noticed yet.
    Failed,
}

#[derive(Debug, Default)]
struct File {
    bytes: Vec<u8>,
    /// Since the last sync, oldest first.
    unsynced: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Write { at: usize, old: Vec<u8>, new: Vec<u8> },
    Resize { old: usize, new: usize },
}

impl File {
    fn apply(&mut self, change: &Change, forward: bool) {
        match change {
            Change::Write { at, old, new } => {
                let bytes = if forward { new } else { old };
                if let Some(range) = self.bytes.get_mut(*at..at + bytes.len()) {
                    range.copy_from_slice(bytes);
                }
            }
            Change::Resize { old, new } => self.bytes.resize(if forward { *new } else { *old }, 0),
        }
    }

    fn lose(&mut self, survivors: &mut Option<&mut SmallRng>) -> Loss {
        let changes = std::mem::take(&mut self.unsynced);
        for change in changes.iter().rev() {
            self.apply(change, false);
        }
        let mut loss = Loss { unsynced: changes.len(), lost: changes.len() };
        let Some(rng) = survivors else { return loss };
        for change in &changes {
            // The size of a file is metadata; it is kept with the data it makes room for.
            if matches!(change, Change::Resize { .. }) || rng.random_bool(0.5) {
                self.apply(change, true);
                loss.lost -= 1;
            }
        }
        loss
    }
}

/// What a loss of power cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Changes that were not safe yet.
    pub unsynced: usize,
    /// Those of them that are gone.
    pub lost: usize,
}

impl Platter {
    /// The disk of a new life of the agent. Earlier ones are void.
    pub fn mount(self: &Arc<Self>) -> Arc<SimDisk> {
        Arc::new(SimDisk { platter: self.clone(), mount: self.unmount() })
    }

    /// The agent ended and the host goes on: everything written stays, nothing more is.
    pub fn unmount(&self) -> u64 {
        let mut inner = crate::lock(&self.0);
        inner.mount += 1;
        inner.mount
    }

    /// Power loss. Without `survivors` every unsynced change is lost; with it a random half reaches the platter, as the cache of a
    /// real disk may do. To be called **before** the tasks of the agent are dropped.
    pub fn lose_power(&self, mut survivors: Option<&mut SmallRng>) -> Loss {
        let mut inner = crate::lock(&self.0);
        inner.mount += 1;
        inner.power = Power::On;
        let mut sum = Loss::default();
        for file in inner.files.values_mut() {
            let loss = file.lose(&mut survivors);
            sum = Loss { unsynced: sum.unsynced + loss.unsynced, lost: sum.lost + loss.lost };
        }
        sum
    }

    /// Lets the power fail inside the next sync, with its writes issued and not yet safe. redb writes nothing before a durable
    /// commit, so at any other moment there is hardly anything to lose.
    pub fn doom(&self) {
        crate::lock(&self.0).power = Power::Doomed;
    }

    /// Takes the doom back.
    pub fn spare(&self) {
        crate::lock(&self.0).power = Power::On;
    }

    /// A file that holds these bytes as they are, if there is one.
    pub fn holding(&self, bytes: &[u8]) -> Option<String> {
        let inner = crate::lock(&self.0);
        let holds = |file: &File| file.bytes.windows(bytes.len()).any(|part| part == bytes);
        inner.files.iter().find(|(_, file)| holds(file)).map(|(path, _)| path.clone())
    }

    /// Somebody removes a file, while no agent runs.
    pub fn remove(&self, path: &str) {
        crate::lock(&self.0).files.remove(path);
    }

    /// Whether that has happened. The host must lose its power before it acts on it.
    pub fn has_failed(&self) -> bool {
        crate::lock(&self.0).power == Power::Failed
    }

    /// Fills the disk up, or makes room again.
    pub fn set_full(&self, full: bool) {
        crate::lock(&self.0).full = full;
    }

    /// Makes every piece of durable work take so much longer.
    pub fn set_slow(&self, slow: Duration) {
        crate::lock(&self.0).slow = slow;
    }

    /// Whether it takes and keeps what is written.
    pub fn is_sound(&self) -> bool {
        let inner = crate::lock(&self.0);
        !inner.full && inner.power == Power::On
    }

    /// How often something was made safe.
    pub fn syncs(&self) -> u64 {
        crate::lock(&self.0).syncs
    }
}

impl Inner {
    fn check_room(&self) -> io::Result<()> {
        if self.full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    /// Everything durable passes here, and fails here.
    fn sync(&mut self) -> io::Result<()> {
        if self.power == Power::Doomed {
            self.power = Power::Failed;
            self.mount += 1;
            return Err(io::Error::other("power lost"));
        }
        self.syncs += 1;
        Ok(())
    }
}

/// The disk of one life of an agent.
#[derive(Clone, Debug)]
pub struct SimDisk {
    platter: Arc<Platter>,
    mount: u64,
}

impl SimDisk {
    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> io::Result<T>) -> io::Result<T> {
        let mut inner = crate::lock(&self.platter.0);
        if inner.mount != self.mount {
            return Err(io::Error::other("disk is gone"));
        }
        f(&mut inner)
    }

    /// Whether this life is over.
    pub fn is_gone(&self) -> bool {
        crate::lock(&self.platter.0).mount != self.mount
    }
}

impl Disk for SimDisk {
    fn backend(&self, path: &str) -> io::Result<Box<dyn StorageBackend>> {
        self.with(|inner| {
            inner.files.entry(path.into()).or_default();
            Ok(())
        })?;
        Ok(Box::new(SimFile { disk: self.clone(), path: path.into() }))
    }

    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        self.with(|inner| match inner.files.get(path) {
            Some(file) if file.bytes.len() > FILE_BYTES_MAX => Err(io::ErrorKind::FileTooLarge.into()),
            file => Ok(file.map(|file| file.bytes.clone())),
        })
    }

    fn write(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.with(|inner| {
            inner.check_room()?;
            // A new file is written, synced and renamed: power lost meanwhile leaves the old one.
            inner.sync()?;
            inner.files.insert(path.into(), File { bytes: bytes.to_vec(), unsynced: Vec::new() });
            Ok(())
        })
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.with(|inner| {
            inner.files.remove(path);
            Ok(())
        })
    }

    fn run<'a>(&'a self, work: Box<dyn FnOnce() -> io::Result<()> + Send + 'static>) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let slow = crate::lock(&self.platter.0).slow;
            tokio::time::sleep(SYNC_TIME + slow).await;
            let result = work();
            if self.is_gone() {
                // Without power nobody learns how it went.
                std::future::pending::<()>().await;
            }
            result
        })
    }
}

/// A file of a mount.
#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    path: String,
}

impl SimFile {
    fn with<T>(&self, f: impl FnOnce(&mut File) -> io::Result<T>) -> io::Result<T> {
        self.disk.with(|inner| f(inner.files.get_mut(&self.path).ok_or(io::ErrorKind::NotFound)?))
    }
}

fn index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl StorageBackend for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|file| Ok(file.bytes.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = index(offset)?;
        self.with(|file| {
            out.copy_from_slice(file.bytes.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let new = index(len)?;
        self.disk.with(|inner| {
            let room = inner.check_room();
            let file = inner.files.get_mut(&self.path).ok_or(io::ErrorKind::NotFound)?;
            let old = file.bytes.len();
            if new > old {
                room?;
            } else if new < old {
                // Kept, so that undoing the cut restores it.
                let cut = file.bytes[new..].to_vec();
                let zero = vec![0; cut.len()];
                file.unsynced.push(Change::Write { at: new, old: cut, new: zero });
            }
            file.unsynced.push(Change::Resize { old, new });
            file.bytes.resize(new, 0);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.with(|inner| {
            inner.sync()?;
            inner.files.get_mut(&self.path).ok_or(io::ErrorKind::NotFound)?.unsynced.clear();
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = index(offset)?;
        self.disk.with(|inner| {
            inner.check_room()?;
            let file = inner.files.get_mut(&self.path).ok_or(io::ErrorKind::NotFound)?;
            let range = file.bytes.get_mut(at..at + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            let old = range.to_vec();
            range.copy_from_slice(data);
            file.unsynced.push(Change::Write { at, old, new: data.to_vec() });
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use redb::{Database, Durability, ReadableDatabase, TableDefinition};

    use super::*;

    const TABLE: TableDefinition<&str, &str> = TableDefinition::new("t");

    fn open(platter: &Arc<Platter>) -> Database {
        Database::builder().create_with_backend(Boxed(platter.mount().backend("log").unwrap())).unwrap()
    }

    /// redb takes a backend by value.
    #[derive(Debug)]
    struct Boxed(Box<dyn StorageBackend>);

    impl StorageBackend for Boxed {
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
    }

    fn put(db: &Database, key: &str, durability: Durability) -> Result<(), redb::Error> {
        let mut tx = db.begin_write()?;
        tx.set_durability(durability)?;
        tx.open_table(TABLE)?.insert(key, "value")?;
        tx.commit()?;
        Ok(())
    }

    fn has(db: &Database, key: &str) -> bool {
        db.begin_read().unwrap().open_table(TABLE).unwrap().get(key).unwrap().is_some()
    }

    #[test]
    fn power_loss_takes_what_was_not_synced_and_a_clean_close_afterwards_rescues_nothing() {
        let platter = Arc::new(Platter::default());
        let db = open(&platter);
        put(&db, "kept", Durability::Immediate).unwrap();
        put(&db, "lost", Durability::None).unwrap();
        platter.lose_power(None);
        drop(db);
        let db = open(&platter);
        assert!(has(&db, "kept") && !has(&db, "lost"));
    }

    #[test]
    fn any_half_of_the_unsynced_writes_leaves_a_database_that_opens() {
        for seed in 0..100 {
            let mut rng = crate::chance::stream(seed, "disk");
            let platter = Arc::new(Platter::default());
            let db = open(&platter);
            put(&db, "kept", Durability::Immediate).unwrap();
            platter.doom();
            assert!(put(&db, "torn", Durability::Immediate).is_err(), "the power fails inside this commit");
            assert!(platter.has_failed());
            let loss = platter.lose_power(Some(&mut rng));
            assert!(loss.unsynced > 0 && !platter.has_failed());
            drop(db);
            assert!(has(&open(&platter), "kept"), "seed {seed}");
        }
    }

    #[test]
    fn the_end_of_an_agent_alone_loses_nothing_that_was_written() {
        let platter = Arc::new(Platter::default());
        let file = platter.mount().backend("f").unwrap();
        file.set_len(4).unwrap();
        file.write(0, b"abcd").unwrap();
        platter.unmount();
        assert!(file.write(0, b"late").is_err() && file.sync_data().is_err());
        assert_eq!(platter.mount().read("f").unwrap().unwrap(), b"abcd");
    }

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let platter = Arc::new(Platter::default());
        let disk = platter.mount();
        disk.write("identity", b"old").unwrap();
        platter.doom();
        assert!(disk.write("identity", b"new").is_err());
        platter.lose_power(None);
        assert_eq!(platter.mount().read("identity").unwrap().unwrap(), b"old");
    }

    #[test]
    fn a_full_disk_refuses_to_grow_and_still_reads() {
        let platter = Arc::new(Platter::default());
        let disk = platter.mount();
        disk.write("f", b"before").unwrap();
        platter.set_full(true);
        assert_eq!(disk.write("g", b"x").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.backend("h").unwrap().set_len(1).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.read("f").unwrap().unwrap(), b"before");
        platter.set_full(false);
        disk.write("g", b"x").unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_learns_how_work_went_after_the_power_failed() {
        let platter = Arc::new(Platter::default());
        let disk = platter.mount();
        disk.run(Box::new(|| Ok(()))).await.unwrap();
        let other = platter.clone();
        let work = disk.run(Box::new(move || {
            other.unmount();
            Ok(())
        }));
        assert!(tokio::time::timeout(Duration::from_secs(60), work).await.is_err());
    }
}

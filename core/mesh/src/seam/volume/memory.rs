//! A volume in memory that does whatever disks do to those who trust them: for tests of roles, and for simulation.
//!
//! It loses what was not synced, wholly, or sector by sector by chance; it loses its power inside any operation; a sync fails, and what
//! it was to make safe is gone although it can still be read; it is full; bits flip. Names and contents are lost apart from each other,
//! and the names of each folder apart from those of others, as POSIX allows.
//!
//! [`Platter`] is what stays; each life of whoever uses it has a [`MemoryVolume`], which is void once there is a newer one.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::sync::watch;

use super::{Room, Volume, VolumeFile, folder_of, is_inside};

/// What survives or is lost as one.
const SECTOR: usize = 512;

/// What stays of a volume when those who use it end.
#[derive(Debug)]
pub struct Platter(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    mount: u64,
    /// Names now.
    names: BTreeMap<String, u64>,
    /// Names that are safe.
    safe: BTreeMap<String, u64>,
    /// What was done to names since, by folder, oldest first.
    pending: BTreeMap<String, Vec<Naming>>,
    folders: Vec<String>,
    files: BTreeMap<u64, File>,
    next: u64,
    capacity: u64,
    /// Bytes of it that others have filled.
    taken: u64,
    /// Operations that change something.
    operations: u64,
    /// The power is lost inside the operation of this number.
    power_ends_at: Option<u64>,
    /// The sync of this number, counted from the next, fails.
    sync_fails_in: Option<u64>,
    syncs: u64,
    slow: Duration,
    hung: watch::Sender<bool>,
}

#[derive(Clone, Debug)]
enum Naming {
    Give { name: String, file: u64 },
    Take { name: String },
}

#[derive(Debug, Default)]
struct File {
    bytes: Vec<u8>,
    safe: Vec<u8>,
    /// Sectors written since the last sync.
    dirty: Vec<usize>,
}

impl File {
    fn write(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[at..end].copy_from_slice(bytes);
        self.dirty.extend(at / SECTOR..end.div_ceil(SECTOR));
    }

    /// Only what was written since the last sync: what a sync failed to make safe is not safe after a later one either.
    fn sync(&mut self) {
        self.safe.resize(self.bytes.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            let (from, to) = (sector * SECTOR, ((sector + 1) * SECTOR).min(self.bytes.len()));
            if from < to {
                self.safe[from..to].copy_from_slice(&self.bytes[from..to]);
            }
        }
    }

    /// What is on the platter after the power was lost.
    fn lose(&mut self, chance: &mut Option<&mut SmallRng>) {
        let new = std::mem::replace(&mut self.bytes, self.safe.clone());
        let dirty = std::mem::take(&mut self.dirty);
        let Some(rng) = chance else { return };
        let share = *[0.0, 0.5, 0.9, 1.0].get(rng.random_range(0..4)).unwrap_or(&0.5);
        // The length is kept by itself: there may be zeros where data was to be.
        if rng.random_bool(0.7) {
            self.bytes.resize(new.len(), 0);
        }
        for sector in dirty {
            let (from, to) = (sector * SECTOR, ((sector + 1) * SECTOR).min(new.len()).min(self.bytes.len()));
            if from < to && rng.random_bool(share) {
                self.bytes[from..to].copy_from_slice(&new[from..to]);
            }
        }
        self.safe.clone_from(&self.bytes);
    }
}

fn gone() -> io::Error {
    io::Error::other("the disk is gone")
}

impl Platter {
    /// An empty one of `capacity` bytes.
    pub fn new(capacity: u64) -> Arc<Platter> {
        Arc::new(Platter(Mutex::new(Inner {
            mount: 0,
            names: BTreeMap::new(),
            safe: BTreeMap::new(),
            pending: BTreeMap::new(),
            folders: Vec::new(),
            files: BTreeMap::new(),
            next: 0,
            capacity,
            taken: 0,
            operations: 0,
            power_ends_at: None,
            sync_fails_in: None,
            syncs: 0,
            slow: Duration::ZERO,
            hung: watch::Sender::new(false),
        })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The volume of a new life. Earlier ones are void.
    pub fn mount(self: &Arc<Self>) -> Arc<MemoryVolume> {
        let mut inner = self.inner();
        inner.mount += 1;
        inner.power_ends_at = None;
        Arc::new(MemoryVolume { platter: self.clone(), mount: inner.mount })
    }

    /// The power is lost: what was not synced is gone, or survives by `chance`, sector by sector and name by name.
    pub fn lose_power(&self, mut chance: Option<&mut SmallRng>) {
        let mut inner = self.inner();
        inner.mount += 1;
        inner.power_ends_at = None;
        let mut names = inner.safe.clone();
        for (_, pending) in std::mem::take(&mut inner.pending) {
            let kept = chance.as_mut().map_or(0, |rng| rng.random_range(0..=pending.len()));
            pending[..kept].iter().for_each(|naming| naming.apply(&mut names));
        }
        for file in inner.files.values_mut() {
            file.lose(&mut chance);
        }
        let kept: Vec<u64> = names.values().copied().collect();
        inner.files.retain(|file, _| kept.contains(file));
        inner.safe.clone_from(&names);
        inner.names = names;
    }

    /// Whoever used it ended and the host goes on: what was written stays, and may still be lost with the power.
    pub fn unmount(&self) {
        self.inner().mount += 1;
    }

    /// Lets the power fail inside the operation that comes after `operations` more: it and all later ones fail, and what it did is
    /// not safe.
    pub fn fail_power_after(&self, operations: u64) {
        let mut inner = self.inner();
        inner.power_ends_at = Some(inner.operations + operations);
    }

    /// Takes that back, unless it has happened.
    pub fn spare(&self) {
        let mut inner = self.inner();
        if !inner.is_dead() {
            inner.power_ends_at = None;
        }
    }

    /// Whether the power has failed inside an operation. The host must lose it before it acts on that.
    pub fn has_failed(&self) -> bool {
        self.inner().is_dead()
    }

    /// How many operations changed something so far.
    pub fn operations(&self) -> u64 {
        self.inner().operations
    }

    /// How often something was made safe.
    pub fn syncs(&self) -> u64 {
        self.inner().syncs
    }

    /// Lets a sync fail after `syncs` more. What it was to make safe can still be read and is lost with the power, whatever is synced later.
    pub fn fail_sync_after(&self, syncs: u64) {
        self.inner().sync_fails_in = Some(syncs);
    }

    /// Changes how much fits.
    pub fn set_capacity(&self, capacity: u64) {
        self.inner().capacity = capacity;
    }

    /// Lets others fill so many bytes of it.
    pub fn set_taken(&self, bytes: u64) {
        self.inner().taken = bytes;
    }

    /// Makes everything that blocks take so much longer.
    pub fn set_slow(&self, slow: Duration) {
        self.inner().slow = slow;
    }

    /// Nothing that blocks comes back, until this is taken back. Then it goes on where it was.
    pub fn set_hung(&self, hung: bool) {
        self.inner().hung.send_replace(hung);
    }

    /// Flips a bit of a file.
    ///
    /// # Panics
    /// When there is no such file or it is shorter.
    pub fn flip(&self, path: &str, at: u64, bit: u8) {
        let mut inner = self.inner();
        let file = inner.names[path];
        let file = inner.files.get_mut(&file).expect("a name has a file");
        let at = usize::try_from(at).expect("files are small here");
        file.bytes[at] ^= 1 << bit;
        if let Some(byte) = file.safe.get_mut(at) {
            *byte ^= 1 << bit;
        }
    }

    /// Reads a file from its beginning, as far as `out` goes.
    ///
    /// # Panics
    /// When there is no such file or it is shorter.
    pub fn look(&self, path: &str, out: &mut [u8]) {
        let inner = self.inner();
        out.copy_from_slice(&inner.files[&inner.names[path]].bytes[..out.len()]);
    }

    /// All files and their lengths.
    pub fn files(&self) -> BTreeMap<String, u64> {
        let inner = self.inner();
        inner.names.iter().map(|(name, file)| (name.clone(), inner.files[file].bytes.len() as u64)).collect()
    }
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Naming::Give { name, file } => drop(names.insert(name.clone(), *file)),
            Naming::Take { name } => drop(names.remove(name)),
        }
    }
}

impl Inner {
    /// Passed by whatever changes something. With an error the operation may still have had its effect.
    fn step(&mut self) -> io::Result<()> {
        self.operations += 1;
        match self.power_ends_at {
            Some(end) if self.operations > end => Err(gone()),
            _ => Ok(()),
        }
    }

    /// Whether the power has failed inside an operation.
    fn is_dead(&self) -> bool {
        self.power_ends_at.is_some_and(|end| self.operations > end)
    }

    fn free(&self) -> u64 {
        let used: u64 = self.names.values().map(|file| self.files[file].bytes.len() as u64).sum();
        self.capacity.saturating_sub(used).saturating_sub(self.taken)
    }

    fn name(&mut self, naming: Naming) {
        naming.apply(&mut self.names);
        let (Naming::Give { name, .. } | Naming::Take { name }) = &naming;
        self.pending.entry(folder_of(name).to_owned()).or_default().push(naming);
    }

    fn sync(&mut self, file: u64) -> io::Result<()> {
        self.syncs += 1;
        if let Some(left) = &mut self.sync_fails_in {
            if *left == 0 {
                self.sync_fails_in = None;
                if let Some(file) = self.files.get_mut(&file) {
                    file.dirty.clear();
                }
                return Err(io::Error::other("input/output error"));
            }
            *left -= 1;
        }
        self.step()?;
        if let Some(file) = self.files.get_mut(&file) {
            file.sync();
        }
        Ok(())
    }
}

/// A volume as one life of its user has it.
#[derive(Clone, Debug)]
pub struct MemoryVolume {
    platter: Arc<Platter>,
    mount: u64,
}

impl MemoryVolume {
    /// Whether nothing reaches the platter through it any more: there is a newer one, or the power has failed.
    pub fn is_gone(&self) -> bool {
        let inner = self.platter.inner();
        inner.mount != self.mount || inner.is_dead()
    }

    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> io::Result<T>) -> io::Result<T> {
        let mut inner = self.platter.inner();
        if inner.mount != self.mount || inner.is_dead() {
            return Err(gone());
        }
        f(&mut inner)
    }
}

fn inside(path: &str) -> io::Result<()> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidInput, format!("{path:?} is no path inside a volume"));
    if is_inside(path) { Ok(()) } else { Err(wrong()) }
}

impl Volume for MemoryVolume {
    fn open(&self, path: &str) -> io::Result<Option<Arc<dyn VolumeFile>>> {
        inside(path)?;
        self.with(|inner| {
            let file = inner.names.get(path).copied();
            Ok(file.map(|file| Arc::new(MemoryFile { volume: self.clone(), file }) as Arc<dyn VolumeFile>))
        })
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn VolumeFile>> {
        inside(path)?;
        self.with(|inner| {
            if inner.names.contains_key(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let folder = folder_of(path).to_owned();
            if !folder.is_empty() && !inner.folders.contains(&folder) {
                return Err(io::ErrorKind::NotFound.into());
            }
            let file = inner.next;
            inner.next += 1;
            inner.files.insert(file, File::default());
            inner.name(Naming::Give { name: path.into(), file });
            inner.step()?;
            Ok(Arc::new(MemoryFile { volume: self.clone(), file }) as Arc<dyn VolumeFile>)
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        inside(from)?;
        inside(to)?;
        self.with(|inner| {
            let file = *inner.names.get(from).ok_or(io::ErrorKind::NotFound)?;
            inner.name(Naming::Give { name: to.into(), file });
            inner.name(Naming::Take { name: from.into() });
            inner.step()
        })
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        inside(path)?;
        self.with(|inner| {
            if inner.names.contains_key(path) {
                inner.name(Naming::Take { name: path.into() });
                inner.step()?;
            }
            Ok(())
        })
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.with(|inner| {
            let files = inner.names.keys().filter(|name| folder_of(name) == folder);
            let folders = inner.folders.iter().filter(|name| folder_of(name) == folder);
            Ok(files.chain(folders).map(|name| name.rsplit('/').next().unwrap_or(name).to_owned()).collect())
        })
    }

    fn make_folder(&self, folder: &str) -> io::Result<()> {
        inside(folder)?;
        self.with(|inner| {
            if !inner.folders.iter().any(|known| known == folder) {
                inner.step()?;
                inner.folders.push(folder.into());
            }
            Ok(())
        })
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        self.with(|inner| {
            inner.sync(u64::MAX)?;
            for naming in inner.pending.remove(folder).unwrap_or_default() {
                naming.apply(&mut inner.safe);
            }
            Ok(())
        })
    }

    fn room(&self) -> io::Result<Room> {
        self.with(|inner| Ok(Room { total: inner.capacity, free: inner.free() }))
    }

    fn run<'a>(&'a self, work: Box<dyn FnOnce() + Send + 'static>) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let (slow, mut hung) = {
                let inner = self.platter.inner();
                (inner.slow, inner.hung.subscribe())
            };
            // Without a platter nobody takes it back.
            if hung.wait_for(|hung| !hung).await.is_err() {
                std::future::pending::<()>().await;
            }
            match slow {
                Duration::ZERO => tokio::task::yield_now().await,
                slow => tokio::time::sleep(slow).await,
            }
            work();
            Ok(())
        })
    }
}

/// An open file of a mount.
#[derive(Debug)]
struct MemoryFile {
    volume: MemoryVolume,
    file: u64,
}

impl MemoryFile {
    fn with<T>(&self, f: impl FnOnce(&mut File) -> io::Result<T>) -> io::Result<T> {
        self.volume.with(|inner| f(inner.files.get_mut(&self.file).ok_or(io::ErrorKind::NotFound)?))
    }
}

fn index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl VolumeFile for MemoryFile {
    fn bytes(&self) -> io::Result<u64> {
        self.with(|file| Ok(file.bytes.len() as u64))
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = index(offset)?;
        self.with(|file| {
            out.copy_from_slice(file.bytes.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let at = index(offset)?;
        self.volume.with(|inner| {
            let free = inner.free();
            let file = inner.files.get_mut(&self.file).ok_or(io::ErrorKind::NotFound)?;
            let grows = (at + bytes.len()).saturating_sub(file.bytes.len()) as u64;
            // A full disk takes what still fits, and then says so.
            let fits = if grows > free { bytes.len().saturating_sub(index(grows - free)?) } else { bytes.len() };
            if fits > 0 {
                file.write(at, &bytes[..fits]);
            }
            inner.step()?;
            if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        })
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        let new = index(bytes)?;
        self.volume.with(|inner| {
            let free = inner.free();
            let file = inner.files.get_mut(&self.file).ok_or(io::ErrorKind::NotFound)?;
            if new.saturating_sub(file.bytes.len()) as u64 > free {
                return Err(io::ErrorKind::StorageFull.into());
            }
            if new > file.bytes.len() {
                let from = file.bytes.len();
                let zeros = vec![0; new - from];
                file.write(from, &zeros);
            } else {
                file.bytes.truncate(new);
            }
            inner.step()
        })
    }

    fn sync(&self) -> io::Result<()> {
        let file = self.file;
        self.volume.with(|inner| inner.sync(file))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn names_and_contents_are_lost_apart_unless_each_was_synced() {
        let platter = Platter::new(1 << 20);
        let volume = platter.mount();
        volume.make_folder("a").unwrap();
        for name in ["a/both", "a/contents"] {
            let file = volume.create(name).unwrap();
            file.write_at(0, b"safe").unwrap();
            file.sync().unwrap();
            if name == "a/both" {
                volume.sync_folder("a").unwrap();
            }
        }
        let both = volume.open("a/both").unwrap().unwrap();
        both.write_at(4, b" not").unwrap();
        platter.lose_power(None);
        let volume = platter.mount();
        assert_eq!(platter.files(), BTreeMap::from([("a/both".to_owned(), 4)]));
        assert!(both.read_at(0, &mut [0]).is_err(), "of an earlier life");
        volume.rename("a/both", "a/new").unwrap();
        platter.lose_power(None);
        assert!(platter.files().contains_key("a/both"));
    }

    #[test]
    fn a_failed_sync_loses_what_can_still_be_read() {
        let platter = Platter::new(1 << 20);
        let volume = platter.mount();
        let file = volume.create("f").unwrap();
        volume.sync_folder("").unwrap();
        file.write_at(0, &[7; 600]).unwrap();
        platter.fail_sync_after(0);
        assert!(file.sync().is_err());
        let mut byte = [0];
        file.read_at(0, &mut byte).unwrap();
        assert_eq!(byte, [7]);
        file.sync().unwrap();
        platter.lose_power(Some(&mut SmallRng::seed_from_u64(1)));
        let file = platter.mount().open("f").unwrap().unwrap();
        let mut all = vec![0; file.bytes().unwrap() as usize];
        file.read_at(0, &mut all).unwrap();
        assert!(all.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_full_volume_takes_what_fits_and_says_so() {
        let platter = Platter::new(1000);
        let volume = platter.mount();
        let file = volume.create("f").unwrap();
        assert_eq!(file.write_at(0, &[1; 1200]).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(volume.room().unwrap(), Room { total: 1000, free: 0 });
        volume.remove("f").unwrap();
        assert_eq!(volume.room().unwrap().free, 1000);
        platter.set_taken(900);
        assert_eq!(volume.room().unwrap(), Room { total: 1000, free: 100 });
    }

    #[test]
    fn power_that_failed_inside_an_operation_is_noticed_and_one_that_did_not_can_be_spared() {
        let platter = Platter::new(1000);
        let volume = platter.mount();
        platter.fail_power_after(1);
        platter.spare();
        let file = volume.create("f").unwrap();
        file.sync().unwrap();
        assert!(!platter.has_failed() && !volume.is_gone());
        platter.fail_power_after(0);
        assert!(file.sync().is_err());
        platter.spare();
        assert!(platter.has_failed() && volume.is_gone());
        platter.lose_power(None);
        assert!(!platter.has_failed() && volume.is_gone());
    }
}

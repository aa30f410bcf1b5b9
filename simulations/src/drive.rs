//! The disk of a host on which objects are kept, beside the one of its agent: it takes virtual time, loses with the power what was not
//! synced, and may be full, slow, hung or dead, have flipped bits, or be replaced by an empty one.
//!
//! What lies on it, and what of that is safe, is a volume in memory ([`hirsel_mesh::seam::volume::memory`]), as the tests of disks have
//! it. Here is what a life of an agent adds: it has the volume as long as it has its own disk, and learns nothing that a disk without power
//! did.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use hirsel_mesh::seam::volume::memory::{MemoryVolume, Platter};
use hirsel_mesh::seam::volume::{Room, Volume, VolumeFile};
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::sync::watch;

use crate::disk::SimDisk;

/// Virtual time of anything that blocks: as long as a sync of the agent's own disk.
const WORK_TIME: Duration = Duration::from_millis(2);
/// Room on it: more than any history writes.
const BYTES: u64 = 1 << 30;
/// Files in which bits may flip: those with data. Who it belongs to is told by a person, should that be unreadable.
const ROTS: [&str; 2] = ["chunks/", "segments/"];
/// Operations that change something, until the power of a doomed one fails inside one: those of a few batches.
const DOOMED_WITHIN: u64 = 12;

/// What survives the agents of one host.
#[derive(Debug)]
pub struct Drive {
    platter: Mutex<Arc<Platter>>,
    slow: watch::Sender<Duration>,
    hung: watch::Sender<bool>,
}

impl Default for Drive {
    fn default() -> Self {
        Self {
            platter: Mutex::new(Platter::new(BYTES)),
            slow: watch::Sender::default(),
            hung: watch::Sender::default(),
        }
    }
}

impl Drive {
    fn platter(&self) -> Arc<Platter> {
        crate::lock(&self.platter).clone()
    }

    /// The volume of a life of the agent, which has `disk`. Earlier ones are void.
    ///
    /// # Errors
    /// When that life is over.
    pub fn mount(&self, disk: &SimDisk) -> io::Result<Arc<SimVolume>> {
        if disk.is_gone() {
            return Err(io::Error::other("the disk is gone"));
        }
        let (slow, hung) = (self.slow.subscribe(), self.hung.subscribe());
        Ok(Arc::new(SimVolume { volume: self.platter().mount(), disk: disk.clone(), slow, hung }))
    }

    /// The agent ended and the host goes on: everything written stays, nothing more is.
    pub fn unmount(&self) {
        self.platter().unmount();
    }

    /// Power loss, as [`crate::disk::Platter::lose_power`] has it.
    pub fn lose_power(&self, survivors: Option<&mut SmallRng>) {
        self.platter().lose_power(survivors);
    }

    /// Lets the power fail inside one of the next operations.
    pub fn doom(&self, rng: &mut SmallRng) {
        self.platter().fail_power_after(rng.random_range(0..DOOMED_WITHIN));
    }

    /// Takes the doom back.
    pub fn spare(&self) {
        self.platter().spare();
    }

    /// Whether that has happened.
    pub fn has_failed(&self) -> bool {
        self.platter().has_failed()
    }

    /// Others fill it up, or make room again.
    pub fn set_full(&self, full: bool) {
        self.platter().set_taken(if full { BYTES } else { 0 });
    }

    /// Makes everything take so much longer.
    pub fn set_slow(&self, slow: Duration) {
        self.slow.send_replace(slow);
    }

    /// Nothing that is begun comes to an end, until this is taken back.
    pub fn set_hung(&self, hung: bool) {
        self.hung.send_replace(hung);
    }

    /// One of the next syncs fails: the disk is dead.
    pub fn fail_sync(&self, rng: &mut SmallRng) {
        self.platter().fail_sync_after(rng.random_range(0..4));
    }

    /// Flips a bit of something that is kept. False when there is nothing.
    pub fn rot(&self, rng: &mut SmallRng) -> bool {
        let platter = self.platter();
        let rots = |name: &String, bytes: u64| bytes > 0 && ROTS.iter().any(|folder| name.starts_with(folder));
        let files: Vec<(String, u64)> =
            platter.files().into_iter().filter(|(name, bytes)| rots(name, *bytes)).collect();
        if files.is_empty() {
            return false;
        }
        let (name, bytes) = &files[rng.random_range(0..files.len())];
        platter.flip(name, rng.random_range(0..*bytes), rng.random_range(0..8));
        true
    }

    /// Somebody puts an empty disk into its place. Not while an agent runs.
    pub fn replace(&self) {
        *crate::lock(&self.platter) = Platter::new(BYTES);
    }
}

/// The disk for objects of one life of an agent.
#[derive(Debug)]
pub struct SimVolume {
    volume: Arc<MemoryVolume>,
    disk: SimDisk,
    slow: watch::Receiver<Duration>,
    hung: watch::Receiver<bool>,
}

impl Volume for SimVolume {
    fn open(&self, path: &str) -> io::Result<Option<Arc<dyn VolumeFile>>> {
        self.volume.open(path)
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn VolumeFile>> {
        self.volume.create(path)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.volume.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.volume.remove(path)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.volume.list(folder)
    }

    fn make_folder(&self, folder: &str) -> io::Result<()> {
        self.volume.make_folder(folder)
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        self.volume.sync_folder(folder)
    }

    fn room(&self) -> io::Result<Room> {
        self.volume.room()
    }

    fn run<'a>(&'a self, work: Box<dyn FnOnce() + Send + 'static>) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let slow = *self.slow.borrow();
            tokio::time::sleep(WORK_TIME + slow).await;
            // The sender lives as long as the host.
            let _ = self.hung.clone().wait_for(|hung| !hung).await;
            if !self.is_gone() {
                work();
            }
            if self.is_gone() {
                // Without power nobody learns how it went.
                std::future::pending::<()>().await;
            }
            Ok(())
        })
    }
}

impl SimVolume {
    fn is_gone(&self) -> bool {
        self.disk.is_gone() || self.volume.is_gone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::stream;

    fn written(volume: &Arc<SimVolume>, name: &'static str) -> impl Future<Output = io::Result<()>> {
        let volume = volume.clone();
        async move {
            let of = volume.clone();
            let work = move || {
                let file = of.create(name)?;
                file.write_at(0, b"safe")?;
                file.sync()?;
                of.sync_folder("")
            };
            let (done, result) = tokio::sync::oneshot::channel();
            volume.run(Box::new(move || drop(done.send(work())))).await?;
            result.await.map_err(io::Error::other)?
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hung_disk_goes_on_where_it_was_and_one_without_power_never_does() {
        let (drive, platter) = (Drive::default(), Arc::new(crate::disk::Platter::default()));
        let volume = drive.mount(&platter.mount()).unwrap();
        drive.set_hung(true);
        let mut write = Box::pin(written(&volume, "a"));
        assert!(tokio::time::timeout(Duration::from_secs(60), &mut write).await.is_err());
        drive.set_hung(false);
        write.await.unwrap();
        // The first operation of the next one.
        drive.platter().fail_power_after(0);
        assert!(tokio::time::timeout(Duration::from_secs(60), written(&volume, "b")).await.is_err());
        assert!(drive.has_failed());
        drive.lose_power(None);
        let volume = drive.mount(&platter.mount()).unwrap();
        assert_eq!(volume.list("").unwrap(), ["a"]);
        platter.unmount();
        assert!(tokio::time::timeout(Duration::from_secs(60), written(&volume, "c")).await.is_err());
        assert_eq!(volume.list("").unwrap(), ["a"], "an agent that ended writes no more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_one_takes_nothing_a_dead_one_fails_and_a_new_one_is_empty() {
        let (drive, platter) = (Drive::default(), Arc::new(crate::disk::Platter::default()));
        let disk = platter.mount();
        let volume = drive.mount(&disk).unwrap();
        drive.set_full(true);
        assert_eq!(written(&volume, "a").await.unwrap_err().kind(), io::ErrorKind::StorageFull);
        drive.set_full(false);
        let mut rng = stream(1, "drive");
        drive.fail_sync(&mut rng);
        let mut failed = 0;
        for name in ["b", "c", "d", "e"] {
            failed += usize::from(written(&volume, name).await.is_err());
        }
        assert_eq!(failed, 1);
        assert!(!drive.rot(&mut rng), "nothing with data is there");
        volume.make_folder("chunks").unwrap();
        let file = volume.create("chunks/x").unwrap();
        file.write_at(0, &[0; 8]).unwrap();
        assert!(drive.rot(&mut rng));
        let mut read = [0; 8];
        file.read_at(0, &mut read).unwrap();
        assert_eq!(read.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
        drive.replace();
        assert!(drive.mount(&disk).unwrap().list("").unwrap().is_empty());
    }
}

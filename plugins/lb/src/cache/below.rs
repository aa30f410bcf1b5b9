//! From memory to disk, and back.
//!
//! What is too large for memory is written while it comes in. What makes room in memory is written before it has to, by a task that looks
//! when there is little; what comes in faster than that goes as it would without a disk. What is small and wanted from disk again and again
//! rises. Nothing waits for the disk but who is given something from there.

use std::sync::Arc;

use hirsel_mesh::seam::Clock;
use hirsel_model::Timestamp;
use tracing::{debug, warn};

use super::disk::{BLOCK_BYTES, Counts, Draft, PAUSE, Tier};
use super::kept::{AtHand, Content, Hand, Head, Kept, held};
use super::{Cache, Moment};
use crate::budget::Reserved;

impl Cache {
    /// An answer with its body where it can be given. None if it turns out not to be there: then it is forgotten.
    pub async fn at_hand(&self, kept: Arc<Kept>) -> Option<Hand> {
        let (stored, disk) = match (&kept.body, &self.disk) {
            (Content::Memory(bytes), _) => return Some(Hand { body: AtHand::Memory(bytes.clone()), kept }),
            (Content::Disk(stored), Some(disk)) => (stored, disk),
            (Content::Disk(_), None) => return None,
        };
        let begun = self.begin(&kept.head.key);
        let opened = match stored.open(disk.scratch().as_ref()).await {
            Ok(opened) => opened,
            Err(error) => {
                debug!(%error, "a file of the cache is not what it was");
                if disk.index.take(&kept) {
                    disk.lost();
                }
                return None;
            }
        };
        if stored.length() > BLOCK_BYTES as u64 {
            return Some(Hand { kept, body: AtHand::File(opened) });
        }
        let bytes = opened.first;
        if stored.hit() > 0
            && let Some(of_body) = self.store.reserve(bytes.len() as u64)
            && let Some(of_head) = self.store.reserve(kept.head.weight())
        {
            // It is wanted again and again.
            let body = held(bytes.to_vec(), of_body);
            let risen = Arc::new(Kept::new(kept.head.clone(), Content::Memory(body), of_head));
            self.put(&risen, begun);
        }
        Some(Hand { kept, body: AtHand::Memory(bytes) })
    }

    /// Begins a file for a body of this length, if that is known. None where none can be had.
    pub async fn draft(&self, length: Option<u64>, now: Timestamp) -> Option<Draft> {
        self.disk.as_ref()?.draft(length, now).await
    }

    /// Whether a body of this length is for the disk.
    pub fn is_for_disk(&self, length: u64) -> bool {
        length > self.one_bytes_max() && self.disk.as_ref().is_some_and(|disk| length <= disk.one_bytes_max())
    }

    /// Writes more of a body to disk. False if that takes no more of it.
    pub async fn write(&self, draft: &mut Draft, bytes: &[u8], now: Timestamp) -> bool {
        let Some(disk) = &self.disk else { return false };
        if !disk.grow(draft, bytes.len() as u64) {
            return false;
        }
        let written = draft.push(bytes).await;
        if written.is_err() {
            disk.rests(now);
        }
        written.is_ok()
    }

    /// Keeps a body that was written whole; false if that cannot be.
    pub async fn settle(&self, head: &Arc<Head>, draft: Draft, begun: Moment, now: Timestamp) -> bool {
        let Some(disk) = &self.disk else { return false };
        let Ok(stored) = draft.finish().await else {
            disk.rests(now);
            return false;
        };
        let Some(reserved) = disk.head(head) else { return false };
        self.put(&Arc::new(Kept::new(head.clone(), Content::Disk(stored), reserved)), begun)
    }

    /// Room for another head of what is kept like this.
    pub fn head(&self, body: &Content, head: &Head) -> Option<Reserved> {
        match (body, &self.disk) {
            (Content::Disk(_), Some(disk)) => disk.head(head),
            (Content::Disk(_), None) | (Content::Memory(_), _) => self.store.reserve(head.weight()),
        }
    }

    /// Removes files that nobody wants any more, for ever.
    pub async fn sweep(self: Arc<Self>) {
        let Some(disk) = &self.disk else { return };
        loop {
            for number in disk.gone().take().await {
                if let Err(error) = disk.scratch().remove(number).await {
                    debug!(%error, number, "a file of the cache was not removed");
                }
            }
        }
    }

    /// What is on disk, where there is one.
    pub fn on_disk(&self) -> Option<Counts> {
        self.disk.as_ref().map(Tier::counts)
    }

    /// Keeps the disk in order, for ever: begins with an empty one, and has what makes room in memory go there before it has to.
    pub async fn tend(self: Arc<Self>, clock: Arc<dyn Clock>) {
        let Some(disk) = &self.disk else { return };
        while let Err(error) = disk.scratch().clear().await {
            warn!(%error, "what the cache left on disk cannot be removed: nothing is kept there");
            tokio::time::sleep(PAUSE).await;
        }
        disk.begin();
        loop {
            self.store.crowded().await;
            while disk.takes(clock.now())
                && let Some(kept) = self.store.next_to_go()
            {
                self.sink(disk, &kept, clock.now()).await;
            }
        }
    }

    /// Moves an answer from memory to disk, or out of both.
    async fn sink(&self, disk: &Tier, kept: &Arc<Kept>, now: Timestamp) {
        let Content::Memory(bytes) = &kept.body else { return };
        let begun = self.begin(&kept.head.key);
        let draft = disk.draft(Some(bytes.len() as u64), now).await;
        let Some(mut draft) = draft else {
            if disk.takes(now) {
                // It is too large for the disk.
                self.store.take(kept);
            }
            return;
        };
        let written = match draft.push(bytes).await {
            Ok(()) => draft.finish().await,
            Err(error) => Err(error),
        };
        let Ok(stored) = written else { return disk.rests(now) };
        let Some(reserved) = disk.head(&kept.head) else {
            self.store.take(kept);
            return;
        };
        let sunk = Arc::new(Kept::new(kept.head.clone(), Content::Disk(stored), reserved));
        // Another one may have taken its place meanwhile.
        if self.store.take(kept) && !self.put(&sunk, begun) {
            debug!("an answer was forgotten on its way to disk");
        }
    }
}

//! The disk of this node: laid out once, taken up at each start, and looked at for how much room there is.
//!
//! Which disk it is stands in the data folder of the agent, too: so a folder that should hold data and does not (a disk that is not mounted) is
//! never laid out a second time.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hirsel_mesh::seam::volume::Volume;
use hirsel_model::ClusterId;
use hirsel_model::order::StorageOrder;
use hirsel_role::Context;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::disk::{Disk, DiskId, Health, Identity, OpenError, Settings};
use crate::wire::Service;

/// Where it stands which disk this node has, in the role's own files.
const DISK_FILE: &str = "disk-id";
/// Between two tries to take up a disk.
const RETRY: Duration = Duration::from_secs(2);
/// Between two looks at how much room there is.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A disk that does not answer for so long hangs, and what it has counts as lost. Half a minute is what a controller waits before it tries again.
const HANGS_AFTER: Duration = Duration::from_secs(60);

/// What there is of room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// The disk is in use.
    pub is_open: bool,
    /// Why nothing can be kept here.
    pub unable: Option<String>,
    /// Size of the disk without what is left free.
    pub bytes: u64,
    /// What is free of that, in tenths, with hysteresis.
    pub free: u8,
    /// Nothing more is written.
    pub is_full: bool,
}

/// Takes up the disk once this node is to keep data, and tells of it, for as long as the role lives.
pub(super) async fn keep(
    context: Context,
    mut orders: watch::Receiver<Arc<StorageOrder>>,
    service: Service,
    rooms: watch::Sender<Room>,
    disks: watch::Sender<Option<Arc<Disk>>>,
) {
    let me = context.me.id;
    let needed = |order: &Arc<StorageOrder>| order.nodes.contains(&me) || order.table.holds(me);
    if orders.wait_for(needed).await.is_err() {
        return;
    }
    let disk = loop {
        match take_up(&context).await {
            Ok(disk) => break disk,
            Err(Trouble::Passing(words)) => warn!(words, "the disk of objects cannot be used yet"),
            Err(Trouble::Wrong(words)) => {
                let room = Room { unable: Some(words), ..Room::default() };
                if *rooms.borrow() != room {
                    rooms.send_replace(room);
                }
            }
        }
        if timeout(RETRY, rooms.closed()).await.is_ok() {
            return;
        }
    };
    let (id, disk) = (disk.0, Arc::new(disk.1));
    service.set_disks([(id, disk.clone())].into());
    disks.send_replace(Some(disk.clone()));
    info!(disk = %id, "keeps objects");
    watch_over(&disk, &rooms).await;
}

/// Tells how the disk is, for as long as anybody listens.
async fn watch_over(disk: &Disk, rooms: &watch::Sender<Room>) {
    let mut health = disk.health();
    loop {
        let before = rooms.borrow().clone();
        let state = health.borrow_and_update().clone();
        let mut looking = pin!(look(disk, &before, &state));
        let mut looked = timeout(HANGS_AFTER, &mut looking).await.ok();
        if looked.is_none() {
            let unable = format!("the disk has not answered for {} s: it hangs", HANGS_AFTER.as_secs());
            warn!(unable, "no objects are kept here");
            rooms.send_replace(Room { unable: Some(unable), ..before.clone() });
            looked = tokio::select! {
                now = looking => Some(now),
                () = rooms.closed() => return,
            };
        }
        let now = looked.unwrap_or_else(|| before.clone());
        if now != *rooms.borrow() {
            rooms.send_replace(now);
        }
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            changed = health.changed() => if changed.is_err() { sleep(LOOK_EVERY).await },
            () = rooms.closed() => return,
        }
    }
}

enum Trouble {
    /// Somebody else has it, or it does not answer.
    Passing(String),
    /// It is not what it should be: a person must look.
    Wrong(String),
}

async fn take_up(context: &Context) -> Result<(DiskId, Disk), Trouble> {
    let passing = |error: std::io::Error| Trouble::Passing(error.to_string());
    let cluster = context.live.borrow().cluster.clone();
    if cluster == ClusterId::default() {
        return Err(Trouble::Passing("this node does not know its cluster yet".into()));
    }
    let volume = context.host.volume(None).map_err(passing)?;
    let known = match context.host.read(DISK_FILE).map_err(passing)? {
        None => None,
        Some(bytes) => Some(read_id(&bytes).ok_or_else(|| Trouble::Wrong(format!("{DISK_FILE} cannot be read")))?),
    };
    let id = match known {
        Some(id) => id,
        None => lay_out(context, &volume, &cluster)?,
    };
    let identity = Identity { cluster, node: context.me.id, disk: id };
    let total = volume.room().map_err(passing)?.total;
    let settings = Settings::within(context.config.storage_bytes.unwrap_or(u64::MAX), total);
    let opened = Disk::open(volume, identity, settings, context.spawner.clone()).await;
    match opened {
        Ok(disk) => Ok((id, disk)),
        Err(error @ OpenError::Unreadable(_)) => Err(Trouble::Passing(error.to_string())),
        Err(error) => Err(Trouble::Wrong(format!("the disk of objects {error}"))),
    }
}

/// Makes the folder this node's. What is laid out before the note of it is safe is found and taken the next time.
fn lay_out(context: &Context, volume: &Arc<dyn Volume>, cluster: &ClusterId) -> Result<DiskId, Trouble> {
    let wrong = |error: OpenError| Trouble::Wrong(format!("the disk of objects {error}"));
    let node = context.me.id;
    let id = match Disk::identity(&**volume).map_err(wrong)? {
        Some(found) if found.cluster == *cluster && found.node == node => found.disk,
        Some(found) => {
            let words = format!("the disk of objects is that of node {} of cluster {}", found.node, found.cluster);
            return Err(Trouble::Wrong(words));
        }
        None => {
            let id = DiskId(context.chance.number().max(1));
            Disk::lay_out(&**volume, &Identity { cluster: cluster.clone(), node, disk: id }).map_err(wrong)?;
            id
        }
    };
    context.host.write(DISK_FILE, id.to_string().as_bytes()).map_err(|error| Trouble::Passing(error.to_string()))?;
    Ok(id)
}

fn read_id(bytes: &[u8]) -> Option<DiskId> {
    u64::from_str_radix(std::str::from_utf8(bytes).ok()?.trim(), 16).ok().map(DiskId)
}

async fn look(disk: &Disk, before: &Room, health: &Health) -> Room {
    // One that writes nothing any more, and can be read, answers with an error: what it is unable to do is in its health.
    let _ = disk.answers().await;
    let Ok(usage) = disk.usage().await else { return before.clone() };
    let unable = match health {
        Health::Sound => None,
        Health::ReadOnly { reason } => Some(format!("the disk has failed ({reason}): replace it")),
    };
    let bytes = usage.total.saturating_sub(usage.reserve);
    let free = usage.free.saturating_sub(usage.reserve);
    Room {
        is_open: true,
        unable,
        bytes,
        free: tenths(free, bytes, before.is_open.then_some(before.free)),
        is_full: free == 0,
    }
}

/// How many tenths of `bytes` are `free`, rounded down; the step before stays until it is a quarter of a step wrong, so that a plan does not
/// change with each object.
fn tenths(free: u64, bytes: u64, before: Option<u8>) -> u8 {
    let exact = free.saturating_mul(1000) / bytes.max(1);
    let now = u8::try_from(exact / 100).unwrap_or(10).min(10);
    match before {
        Some(before) if now > before && exact < u64::from(before) * 100 + 125 => before,
        _ => now,
    }
}

#[cfg(test)]
mod tests {
    use hirsel_mesh::seam::volume::memory::Platter;
    use hirsel_model::NodeId;
    use hirsel_role::Spawner;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_is_said_to_and_is_taken_up_again_when_it_goes_on() {
        let platter = Platter::new(1 << 30);
        let identity = Identity { cluster: ClusterId("pasture".into()), node: NodeId(1), disk: DiskId(7) };
        Disk::lay_out(&*platter.mount(), &identity).unwrap();
        let settings = Settings::within(u64::MAX, 1 << 30);
        let spawner = Spawner::new(tokio::runtime::Handle::current());
        let disk = Disk::open(platter.mount(), identity, settings, spawner).await.unwrap();
        let (rooms, mut told) = watch::channel(Room::default());
        let watching = tokio::spawn(async move { watch_over(&disk, &rooms).await });
        let sound = |room: &Room| room.is_open && room.unable.is_none();
        told.wait_for(sound).await.unwrap();
        platter.set_hung(true);
        let begun = Instant::now();
        let room = told.wait_for(|room| room.unable.is_some()).await.unwrap().clone();
        assert!(room.unable.unwrap().contains("hangs"));
        assert!(begun.elapsed() >= HANGS_AFTER && begun.elapsed() <= HANGS_AFTER + LOOK_EVERY, "{:?}", begun.elapsed());
        platter.set_hung(false);
        told.wait_for(sound).await.unwrap();
        drop(told);
        watching.await.unwrap();
    }

    #[test]
    fn free_room_is_told_in_steps_that_do_not_flutter() {
        assert_eq!(tenths(0, 0, None), 0);
        assert_eq!((tenths(99, 1000, None), tenths(100, 1000, None), tenths(1000, 1000, None)), (0, 1, 10));
        assert_eq!((tenths(399, 1000, Some(4)), tenths(401, 1000, Some(3)), tenths(430, 1000, Some(3))), (3, 3, 4));
    }

    #[test]
    fn the_note_of_a_disk_is_read_as_it_is_written() {
        let id = DiskId(0xfedc_ba98_7654_3210);
        assert_eq!(read_id(id.to_string().as_bytes()), Some(id));
        assert_eq!(read_id(b"disk"), None);
    }
}

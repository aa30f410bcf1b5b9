//! Machines that keep their state on disk: never applied twice, never behind their log, and sent a frame at a time.

use redb::{Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, WriteTransaction};

use super::super::{Frames, OnDisk};
use super::*;
use crate::seam::Disk;

const LINES: TableDefinition<u64, &str> = TableDefinition::new("lines");
const ARRIVING: TableDefinition<u64, &str> = TableDefinition::new("arriving");
const KEPT: TableDefinition<(), &[u8]> = TableDefinition::new("kept");

/// Each is one history of three members.
const SEEDS: u64 = 60;

/// Keeps every line, on a disk, and shows what is kept.
struct Chronicle {
    db: Arc<Database>,
    batch: Option<WriteTransaction>,
    shown: Shown,
}

fn broken(error: impl Into<redb::Error>) -> StateMachineError {
    StateMachineError(error.into().to_string())
}

impl Chronicle {
    fn open(disk: &dyn Disk, shown: &Shown) -> Self {
        #[derive(Debug)]
        struct Boxed(Box<dyn StorageBackend>);
        impl StorageBackend for Boxed {
            fn len(&self) -> std::io::Result<u64> {
                self.0.len()
            }
            fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
                self.0.read(offset, out)
            }
            fn set_len(&self, len: u64) -> std::io::Result<()> {
                self.0.set_len(len)
            }
            fn sync_data(&self) -> std::io::Result<()> {
                self.0.sync_data()
            }
            fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
                self.0.write(offset, data)
            }
        }
        let backend = Boxed(disk.backend("chronicle.redb").unwrap());
        let db = Arc::new(Database::builder().create_with_backend(backend).unwrap());
        let chronicle = Self { db, batch: None, shown: shown.clone() };
        chronicle.make().unwrap();
        chronicle.show();
        chronicle
    }

    fn make(&self) -> Result<(), redb::Error> {
        let tx = self.db.begin_write()?;
        tx.open_table(LINES)?;
        tx.open_table(KEPT)?;
        tx.commit()?;
        Ok(())
    }

    /// Tells the test what is kept.
    fn show(&self) {
        let lines = self.db.begin_read().unwrap().open_table(LINES).unwrap();
        let lines =
            lines.iter().unwrap().map(|row| row.unwrap()).map(|(at, line)| (at.value(), line.value().to_owned()));
        *lock(&self.shown) = lines.collect();
    }

    fn batch(&mut self) -> Result<&mut WriteTransaction, StateMachineError> {
        if self.batch.is_none() {
            let mut tx = self.db.begin_write().map_err(broken)?;
            tx.set_durability(Durability::None).map_err(broken)?;
            self.batch = Some(tx);
        }
        self.batch.as_mut().ok_or_else(|| StateMachineError("no batch".into()))
    }
}

impl StateMachine for Chronicle {
    fn apply(&mut self, index: u64, command: &[u8]) -> Result<Vec<u8>, StateMachineError> {
        let line = String::from_utf8_lossy(command).into_owned();
        let mut lines = self.batch()?.open_table(LINES).map_err(broken)?;
        let twice = lines.insert(index, line.as_str()).map_err(broken)?.is_some();
        assert!(!twice, "entry {index} is applied twice");
        Ok(line.into_bytes())
    }

    fn reset(&mut self) {
        self.batch = None;
        let tx = self.db.begin_write().unwrap();
        tx.delete_table(LINES).unwrap();
        tx.delete_table(KEPT).unwrap();
        tx.open_table(LINES).unwrap();
        tx.open_table(KEPT).unwrap();
        tx.commit().unwrap();
        self.show();
    }

    fn snapshot(&self) -> Vec<u8> {
        panic!("the state is on disk")
    }

    fn restore(&mut self, _: &[u8]) -> Result<(), StateMachineError> {
        panic!("the state is on disk")
    }

    fn on_disk(&mut self) -> Option<&mut dyn OnDisk> {
        Some(self)
    }
}

impl OnDisk for Chronicle {
    fn kept(&self) -> Result<Option<Vec<u8>>, StateMachineError> {
        let kept = self.db.begin_read().map_err(broken)?.open_table(KEPT).map_err(broken)?;
        Ok(kept.get(()).map_err(broken)?.map(|kept| kept.value().to_vec()))
    }

    fn keep(&mut self, beside: &[u8], durable: bool) -> Result<(), StateMachineError> {
        self.batch()?.open_table(KEPT).map_err(broken)?.insert((), beside).map_err(broken)?;
        if let Some(mut tx) = self.batch.take() {
            if durable {
                tx.set_durability(Durability::Immediate).map_err(broken)?;
            }
            tx.commit().map_err(broken)?;
        }
        self.show();
        Ok(())
    }

    fn frames(&self) -> Result<Box<dyn Frames>, StateMachineError> {
        let lines = self.db.begin_read().map_err(broken)?.open_table(LINES).map_err(broken)?;
        let all = lines.iter().map_err(broken)?.map(|row| row.unwrap());
        Ok(Box::new(Told(all.map(|(at, line)| (at.value(), line.value().to_owned())).collect(), false)))
    }

    fn arrive(&mut self, frame: &[u8], first: bool) -> Result<(), StateMachineError> {
        let tx = self.db.begin_write().map_err(broken)?;
        if first {
            tx.delete_table(ARRIVING).map_err(broken)?;
        }
        let lines: Vec<(u64, String)> = codec::decode(frame).map_err(|error| StateMachineError(error.to_string()))?;
        {
            let mut table = tx.open_table(ARRIVING).map_err(broken)?;
            for (at, line) in lines {
                table.insert(at, line.as_str()).map_err(broken)?;
            }
        }
        tx.commit().map_err(broken)
    }

    fn install(&mut self, beside: &[u8]) -> Result<(), StateMachineError> {
        self.batch = None;
        let tx = self.db.begin_write().map_err(broken)?;
        tx.delete_table(LINES).map_err(broken)?;
        tx.open_table(ARRIVING).map_err(broken)?;
        tx.rename_table(ARRIVING, LINES).map_err(broken)?;
        tx.open_table(KEPT).map_err(broken)?.insert((), beside).map_err(broken)?;
        tx.commit().map_err(broken)?;
        self.show();
        Ok(())
    }
}

/// Two lines a frame, and one frame of none at the end.
struct Told(std::collections::VecDeque<(u64, String)>, bool);

impl Frames for Told {
    fn next(&mut self) -> Result<Option<Vec<u8>>, StateMachineError> {
        if self.1 {
            return Ok(None);
        }
        let some: Vec<(u64, String)> = (0..2).filter_map(|_| self.0.pop_front()).collect();
        self.1 = some.is_empty();
        Ok(Some(codec::encode(&some)))
    }
}

/// A cluster of such machines.
async fn founded(nodes: u64) -> Cluster {
    let mut cluster = Cluster { on_disk: true, ..Cluster::default() };
    for node in 1..=nodes {
        cluster.start(NodeId(node)).await.unwrap();
    }
    cluster.group(1).found().await.unwrap();
    cluster.reach(&(1..=nodes).map(NodeId).collect(), &BTreeSet::new()).await;
    cluster
}

pub(super) fn machine(disk: &dyn Disk, shown: &Shown) -> Box<dyn StateMachine> {
    Box::new(Chronicle::open(disk, shown))
}

#[tokio::test(start_paused = true)]
async fn a_state_on_disk_goes_on_from_where_it_is() {
    let mut cluster = founded(3).await;
    for line in ["a", "b", "c"] {
        cluster.write(2, line).await;
    }
    cluster.all_have(&["a", "b", "c"].map(String::from)).await;
    cluster.stop(NodeId(2)).await;
    cluster.write(1, "d").await;
    cluster.start(NodeId(2)).await.unwrap();
    // Had it been applied again from the beginning, the machine would have panicked.
    cluster.all_have(&["a", "b", "c", "d"].map(String::from)).await;
    assert_eq!(*cluster.group(2).stopped().borrow(), None);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_lacks_too_much_gets_the_state_in_frames() {
    let mut cluster = founded(3).await;
    let mut lines = Vec::new();
    for number in 0..20 {
        lines.push(number.to_string());
        cluster.write(1, &number.to_string()).await;
    }
    cluster.all_have(&lines).await;
    for node in 1..=3 {
        cluster.group(node).snapshot_now().await;
    }
    // Its log begins after what the others have forgotten.
    cluster.start(NodeId(4)).await.unwrap();
    cluster.reach(&nodes([1, 2, 3, 4]), &BTreeSet::new()).await;
    cluster.all_have(&lines).await;
    lines.push("more".into());
    cluster.write(4, "more").await;
    cluster.all_have(&lines).await;
    // What it got is durable, and so is what was applied since.
    cluster.stop(NodeId(4)).await;
    cluster.start(NodeId(4)).await.unwrap();
    cluster.all_have(&lines).await;
}

#[test]
fn power_failures_lose_nothing_that_was_acknowledged_and_apply_nothing_twice() {
    for seed in 0..SEEDS {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async { crash::story(seed, founded(3).await).await });
    }
}

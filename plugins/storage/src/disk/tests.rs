//! What a disk keeps, over volumes in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use futures::stream;
use hirsel_mesh::seam::volume::memory::Platter;
use hirsel_model::{ClusterId, NodeId};

use super::*;

mod crash;
mod damage;

const CAPACITY: u64 = 64 << 20;
const RESERVE: u64 = 1 << 20;

pub fn identity() -> Identity {
    Identity { cluster: ClusterId("pasture".into()), node: NodeId(1), disk: DiskId(7) }
}

pub fn settings() -> Settings {
    Settings { capacity_bytes: u64::MAX, reserve_bytes: RESERVE, segment_bytes: 64 << 10 }
}

pub fn id(n: u64) -> ChunkId {
    let mut id = [0; 16];
    // Spread, so that the order of ids is not the one in which they come.
    id[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    id[8..].copy_from_slice(&n.to_be_bytes());
    ChunkId(id)
}

pub fn content(n: u64, bytes: usize) -> Bytes {
    // Nothing of it is found anywhere else.
    let mut content = vec![0; bytes];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut content);
    content.into()
}

pub fn laid_out() -> Arc<Platter> {
    let platter = Platter::new(CAPACITY);
    Disk::lay_out(&*platter.mount(), &identity()).unwrap();
    platter
}

pub async fn open(platter: &Arc<Platter>) -> Disk {
    let spawner = Spawner::new(tokio::runtime::Handle::current());
    Disk::open(platter.mount(), identity(), settings(), spawner).await.unwrap()
}

pub async fn put(disk: &Disk, chunk: ChunkId, content: &Bytes) -> Result<Receipt, DiskError> {
    let blocks = chunk::blocks(chunk, content).into_iter().map(Ok);
    disk.put(chunk, content.len() as u32, stream::iter(blocks)).await
}

pub async fn get(disk: &Disk, chunk: ChunkId) -> Result<Bytes, DiskError> {
    let mut reader = disk.get(chunk, 0..u32::MAX).await?;
    let mut all = Vec::new();
    while let Some((number, block)) = reader.next().await? {
        assert!(block.is(chunk, reader.bytes(), number));
        all.extend_from_slice(&block.bytes);
    }
    assert_eq!(all.len(), reader.bytes() as usize);
    Ok(all.into())
}

async fn bury(disk: &Disk, chunk: ChunkId) {
    assert!(disk.condemn(chunk).await.unwrap());
    assert!(disk.unlink(chunk).await.unwrap());
}

#[tokio::test]
async fn chunks_of_every_size_are_there_after_a_restart() {
    let platter = laid_out();
    let sizes = [0, 1, 4096, 65_536, 65_537, 262_144, 262_145, 1 << 20, 4 << 20];
    let disk = open(&platter).await;
    for (n, bytes) in (0..).zip(sizes) {
        let receipt = put(&disk, id(n), &content(n, bytes)).await.unwrap();
        assert_eq!(receipt.bytes as usize, bytes);
        assert_eq!(disk.get(id(n), 0..0).await.unwrap().checksum(), receipt.checksum);
    }
    platter.lose_power(None);
    let disk = open(&platter).await;
    for (n, bytes) in (0..).zip(sizes) {
        assert_eq!(get(&disk, id(n)).await.unwrap(), content(n, bytes), "{bytes}");
    }
    let usage = disk.usage().await.unwrap();
    assert_eq!((usage.sum.chunks, usage.sum.held), (9, sizes.iter().sum::<usize>() as u64));
    assert_eq!(get(&disk, id(99)).await, Err(DiskError::Absent(id(99))));
    assert!(matches!(disk.put(id(10), CHUNK_BYTES_MAX + 1, stream::iter([])).await, Err(DiskError::Wrong { .. })));
}

#[tokio::test]
async fn a_range_is_read_without_the_rest() {
    let platter = laid_out();
    let disk = open(&platter).await;
    for (n, bytes) in [(1, 200_000), (2, 3_000_000)] {
        put(&disk, id(n), &content(n, bytes)).await.unwrap();
        let mut reader = disk.get(id(n), 70_000..140_000).await.unwrap();
        let mut numbers = Vec::new();
        while let Some((number, block)) = reader.next().await.unwrap() {
            assert_eq!(block.bytes, content(n, bytes).slice(chunk::span(bytes as u32, number)));
            numbers.push(number);
        }
        assert_eq!(numbers, [1, 2]);
        assert!(disk.get(id(n), 5_000_000..6_000_000).await.unwrap().next().await.unwrap().is_none());
    }
    // A bit that is not read spoils nothing that is.
    let (path, _) = platter.files().into_iter().find(|(path, _)| path.starts_with(CHUNKS)).unwrap();
    platter.flip(&path, 2_000_000, 3);
    let mut reader = disk.get(id(2), 0..1_000_000).await.unwrap();
    while reader.next().await.unwrap().is_some() {}
}

#[tokio::test]
async fn many_writers_share_a_sync() {
    let platter = laid_out();
    let disk = open(&platter).await;
    put(&disk, id(0), &content(0, 10)).await.unwrap();
    let before = platter.syncs();
    let puts = (1..=64).map(|n| {
        let disk = &disk;
        async move { put(disk, id(n), &content(n, 512)).await }
    });
    assert!(join_all(puts).await.into_iter().all(|put| put.is_ok()));
    assert!(platter.syncs() - before <= 4, "{} syncs for 64 chunks", platter.syncs() - before);
    let before = platter.syncs();
    let puts = (101..=108).map(|n| {
        let disk = &disk;
        async move { put(disk, id(n), &content(n, 300_000)).await }
    });
    assert!(join_all(puts).await.into_iter().all(|put| put.is_ok()));
    assert!(platter.syncs() - before <= 8 + 4, "each file, and few of the folder: {}", platter.syncs() - before);
}

#[tokio::test]
async fn only_the_folder_that_is_meant_is_taken() {
    let spawner = Spawner::new(tokio::runtime::Handle::current());
    let open =
        |platter: &Arc<Platter>, identity: Identity| Disk::open(platter.mount(), identity, settings(), spawner.clone());
    let empty = Platter::new(CAPACITY);
    let error = open(&empty, identity()).await.err().unwrap();
    assert_eq!(error, OpenError::Empty { expected: DiskId(7) });
    assert!(error.to_string().contains("is the disk mounted there?"), "{error}");
    assert!(empty.files().is_empty(), "nothing was written to what is under a mount point");

    let platter = laid_out();
    let other = Identity { node: NodeId(2), ..identity() };
    let error = open(&platter, other.clone()).await.err().unwrap();
    assert!(error.to_string().contains("of node 1 of cluster pasture"), "{error}");
    let error = Disk::lay_out(&*platter.mount(), &other).unwrap_err();
    assert_eq!(error, OpenError::Occupied { found: "identity".into() });
    platter.flip("identity", 20, 0);
    assert!(matches!(open(&platter, identity()).await.err().unwrap(), OpenError::Unreadable(_)));
}

#[tokio::test]
async fn what_does_not_come_as_announced_is_not_there() {
    let platter = laid_out();
    let disk = open(&platter).await;
    for bytes in [1_000usize, 1_000_000] {
        let good = chunk::blocks(id(1), &content(1, bytes));
        let mut flipped = good.clone();
        flipped[0].bytes = content(2, flipped[0].bytes.len());
        let others = chunk::blocks(id(2), &content(1, bytes));
        let more: Vec<_> = good.iter().chain(&good[..1]).cloned().collect();
        let less = good[..good.len() - 1].to_vec();
        for blocks in [flipped, others, more, less] {
            let put = disk.put(id(1), bytes as u32, stream::iter(blocks.into_iter().map(Ok))).await;
            assert!(matches!(put, Err(DiskError::Wrong { .. })), "{put:?}");
        }
        let broken = stream::iter([Ok(good[0].clone()), Err("the peer hung up".to_owned())]);
        assert!(disk.put(id(1), bytes as u32 + 70_000, broken).await.is_err());
    }
    // One who writes and goes away.
    let good = chunk::blocks(id(1), &content(1, 1_000_000)).into_iter().map(Ok);
    let slow = futures::StreamExt::chain(stream::iter(good.take(12)), stream::pending());
    let waited = tokio::time::timeout(Duration::from_millis(50), disk.put(id(1), 1_000_000, slow)).await;
    assert!(waited.is_err());
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(disk.find(id(1)).is_none());
    let files = platter.files();
    assert!(!files.keys().any(|name| name.starts_with(INCOMING) || name.starts_with(CHUNKS)), "{files:?}");
    put(&disk, id(1), &content(1, 1_000_000)).await.unwrap();
}

#[tokio::test]
async fn a_chunk_is_written_once_and_the_same_once_more_is_no_error() {
    let platter = laid_out();
    let disk = open(&platter).await;
    for (n, bytes) in [(1, 500), (2, 400_000)] {
        let first = put(&disk, id(n), &content(n, bytes)).await.unwrap();
        let before = platter.operations();
        assert_eq!(put(&disk, id(n), &content(n, bytes)).await, Ok(first));
        assert_eq!(platter.operations(), before);
        assert_eq!(put(&disk, id(n), &content(9, bytes)).await, Err(DiskError::Exists(id(n))));
        assert_eq!(put(&disk, id(n), &content(n, bytes + 1)).await, Err(DiskError::Exists(id(n))));
    }
    let (one, other) = (content(3, 500), content(4, 500));
    let twice = [put(&disk, id(3), &one), put(&disk, id(3), &other)];
    let went: Vec<bool> = join_all(twice).await.into_iter().map(|put| put.is_ok()).collect();
    assert_eq!(went.iter().filter(|went| **went).count(), 1, "{went:?}");
}

#[tokio::test]
async fn a_chunk_dies_in_two_steps_and_for_good() {
    let platter = laid_out();
    let mut disk = open(&platter).await;
    for (n, bytes) in [(1, 500), (2, 400_000), (3, 500)] {
        put(&disk, id(n), &content(n, bytes)).await.unwrap();
    }
    for (n, bytes) in [(1, 500), (2, 400_000)] {
        assert_eq!(disk.unlink(id(n)).await, Err(DiskError::NotCondemned(id(n))));
        assert_eq!(disk.condemn(id(n)).await, Ok(true));
        platter.lose_power(None);
        disk = open(&platter).await;
        assert!(disk.find(id(n)).unwrap().condemned);
        assert_eq!(get(&disk, id(n)).await.unwrap(), content(n, bytes), "a condemned one can be read");
        assert_eq!(put(&disk, id(n), &content(n, bytes)).await, Err(DiskError::Condemned(id(n))));
        assert_eq!(disk.unlink(id(n)).await, Ok(true));
        assert_eq!(disk.unlink(id(n)).await, Ok(false));
        assert_eq!(disk.condemn(id(n)).await, Ok(false));
        platter.lose_power(None);
        disk = open(&platter).await;
        assert!(disk.find(id(n)).is_none());
    }
    assert_eq!(put(&disk, id(1), &content(1, 500)).await, Err(DiskError::Condemned(id(1))));
    assert_eq!(get(&disk, id(3)).await.unwrap(), content(3, 500));
    let listed: Vec<_> = disk.list(None).iter().map(|listed| listed.chunk).collect();
    assert_eq!(listed, [id(3)]);
}

#[tokio::test]
async fn the_room_of_the_dead_is_freed_and_readers_go_on() {
    let platter = laid_out();
    let disk = open(&platter).await;
    for n in 0..60 {
        put(&disk, id(n), &content(n, 5_000)).await.unwrap();
    }
    let mut readers = BTreeMap::new();
    for n in 0..60 {
        readers.insert(n, disk.get(id(n), 0..u32::MAX).await.unwrap());
    }
    for n in 0..60 {
        if n % 3 != 0 {
            bury(&disk, id(n)).await;
        }
    }
    let before = disk.usage().await.unwrap();
    assert!(before.sum.garbage > 200_000, "{before:?}");
    let mut freed = 0;
    while let Some(one) = disk.compact().await.unwrap() {
        assert!(!one.is_stuck);
        freed += one.bytes - one.copied;
    }
    let after = disk.usage().await.unwrap();
    assert!(freed > 100_000 && after.free > before.free, "{freed} {before:?} {after:?}");
    for (n, mut reader) in readers {
        assert_eq!(reader.next().await.unwrap().unwrap().1.bytes, content(n, 5_000));
    }
    // Whatever is done again after that, nobody is back.
    for power in [true, false] {
        if power {
            platter.lose_power(None)
        } else {
            platter.unmount()
        }
        let disk = open(&platter).await;
        for n in 0..60 {
            let expected = if n % 3 == 0 { Ok(content(n, 5_000)) } else { Err(DiskError::Absent(id(n))) };
            assert_eq!(get(&disk, id(n)).await, expected);
        }
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_frees_what_dies() {
    let platter = laid_out();
    let disk = open(&platter).await;
    platter.set_capacity(4 << 20);
    let mut n = 0;
    let refused = loop {
        let bytes = if n % 2 == 0 { 5_000 } else { 300_000 };
        match put(&disk, id(n), &content(n, bytes)).await {
            Ok(_) => n += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, DiskError::Full { reserve: RESERVE, .. }), "{refused:?}");
    assert!(disk.usage().await.unwrap().free >= RESERVE);
    assert_eq!(*disk.health().borrow(), Health::Sound);
    // Others filled the rest, to the last byte.
    let free = disk.usage().await.unwrap().free;
    platter.set_capacity((4 << 20) - free);
    for dead in 0..n {
        bury(&disk, id(dead)).await;
    }
    while disk.compact().await.unwrap().is_some() {}
    assert!(disk.usage().await.unwrap().free > 2 << 20);
    put(&disk, id(1000), &content(1000, 300_000)).await.unwrap();
    platter.lose_power(None);
    let disk = open(&platter).await;
    assert_eq!(disk.list(None).len(), 1);
    assert_eq!(get(&disk, id(1000)).await.unwrap(), content(1000, 300_000));
}

#[tokio::test]
async fn no_more_of_a_volume_is_taken_than_is_to_be() {
    let platter = laid_out();
    let spawner = Spawner::new(tokio::runtime::Handle::current());
    let within = Settings { capacity_bytes: 1 << 20, reserve_bytes: 100_000, ..settings() };
    let open = || async { Disk::open(platter.mount(), identity(), within.clone(), spawner.clone()).await.unwrap() };
    let disk = open().await;
    // A file of its own, and what is packed.
    put(&disk, id(0), &content(0, 400_000)).await.unwrap();
    let mut n = 1;
    let refused = loop {
        match put(&disk, id(n), &content(n, 10_000)).await {
            Ok(_) => n += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, DiskError::Full { reserve: 100_000, .. }), "{refused:?}");
    assert!((45..=55).contains(&n), "{n} chunks of 10 kB beside 400 kB, of a mebibyte");
    let usage = disk.usage().await.unwrap();
    assert!(usage.total == 1 << 20 && (100_000..120_000).contains(&usage.free), "{usage:?}");
    // A start counts the same, and room that is freed is room again.
    drop(disk);
    let disk = open().await;
    assert_eq!(disk.usage().await.unwrap().free, usage.free);
    bury(&disk, id(0)).await;
    assert_eq!(disk.usage().await.unwrap().free, usage.free + 400_000);
    put(&disk, id(n), &content(n, 300_000)).await.unwrap();
    // With less given than is taken nothing more comes in, and what nobody needs is freed all the same.
    for dead in (1..n).step_by(2) {
        bury(&disk, id(dead)).await;
    }
    drop(disk);
    let less = Settings { capacity_bytes: 100_000, reserve_bytes: 5_000, ..settings() };
    let disk = Disk::open(platter.mount(), identity(), less, spawner.clone()).await.unwrap();
    assert!(matches!(put(&disk, id(n + 1), &content(n, 10)).await, Err(DiskError::Full { free: 0, .. })));
    let before = disk.usage().await.unwrap().sum.garbage;
    while disk.compact().await.unwrap().is_some() {}
    let after = disk.usage().await.unwrap().sum.garbage;
    assert!(after < before / 2, "{after} of {before} bytes of garbage are left");
    assert_eq!(get(&disk, id(2)).await.unwrap(), content(2, 10_000));
}

#[tokio::test]
async fn a_volume_that_is_full_before_it_says_so_costs_nothing_else() {
    let platter = laid_out();
    let spawner = Spawner::new(tokio::runtime::Handle::current());
    let settings = Settings { reserve_bytes: 0, ..settings() };
    let disk = Disk::open(platter.mount(), identity(), settings, spawner).await.unwrap();
    put(&disk, id(1), &content(1, 3_000)).await.unwrap();
    let used: u64 = platter.files().values().sum();
    // What a chunk takes besides its data is not there.
    platter.set_capacity(used + 3_010);
    assert!(matches!(put(&disk, id(2), &content(2, 3_000)).await, Err(DiskError::Full { .. })));
    put(&disk, id(3), &content(3, 1_000)).await.unwrap();
    platter.lose_power(None);
    let disk = open(&platter).await;
    assert!(disk.find(id(2)).is_none());
    assert_eq!(get(&disk, id(1)).await.unwrap(), content(1, 3_000));
    assert_eq!(get(&disk, id(3)).await.unwrap(), content(3, 1_000));
}

#[tokio::test(start_paused = true)]
async fn a_hung_disk_holds_writers_back_and_memory_bounded() {
    let platter = laid_out();
    let disk = Arc::new(open(&platter).await);
    put(&disk, id(0), &content(0, 10)).await.unwrap();
    platter.set_hung(true);
    let mut waiting = Vec::new();
    for n in 1..=300 {
        let disk = disk.clone();
        waiting.push(tokio::spawn(async move { put(&disk, id(n), &content(n, 262_144)).await }));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(waiting.iter().all(|put| !put.is_finished()));
    assert!(disk.pending.available_permits() < 262_144, "as many as fit are held, and the others wait");
    for put in waiting {
        put.abort();
    }
}

//! Bits that flip, and syncs that fail.

use super::*;

/// Where a chunk's data begins in which file.
fn place(platter: &Platter, content: &Bytes) -> (String, u64) {
    let volume = Arc::new(platter);
    for (path, bytes) in volume.files() {
        if path.starts_with(SEGMENTS) && !path.ends_with(".index") || path.starts_with(CHUNKS) {
            let all = read(platter, &path, bytes);
            if let Some(at) = all.windows(64).position(|window| window == &content[..64]) {
                return (path, at as u64);
            }
        }
    }
    panic!("the chunk is nowhere");
}

fn read(platter: &Platter, path: &str, bytes: u64) -> Vec<u8> {
    let mut all = vec![0; bytes as usize];
    platter.look(path, &mut all);
    all
}

async fn scrubbed(disk: &Disk) -> Vec<ChunkId> {
    let mut damaged = Vec::new();
    for _ in 0..10_000 {
        let step = disk.scrub(20_000, 5).await.unwrap();
        damaged.extend(step.damaged);
        if step.is_complete {
            assert_eq!(step.pass.damaged as usize, damaged.len());
            damaged.sort();
            return damaged;
        }
    }
    panic!("a pass has no end");
}

#[tokio::test]
async fn a_flipped_bit_is_found_by_who_reads_and_by_who_looks_and_the_chunk_is_mended() {
    let platter = laid_out();
    let disk = open(&platter).await;
    for n in 0..40 {
        put(&disk, id(n), &content(n, if n < 30 { 3_000 } else { 300_000 })).await.unwrap();
    }
    assert!(scrubbed(&disk).await.is_empty());
    let flipped = [3, 17, 31, 38];
    for n in flipped {
        let (path, at) = place(&platter, &content(n, 3_000));
        platter.flip(&path, at + 1_000, (n % 8) as u8);
    }
    assert!(matches!(get(&disk, id(3)).await, Err(DiskError::Damaged { .. })));
    assert!(matches!(get(&disk, id(38)).await, Err(DiskError::Damaged { .. })));
    let mut expected: Vec<_> = flipped.iter().map(|n| id(*n)).collect();
    expected.sort();
    assert_eq!(scrubbed(&disk).await, expected);
    assert_eq!(disk.usage().await.unwrap().damaged, expected);
    for n in flipped {
        put(&disk, id(n), &content(n, if n < 30 { 3_000 } else { 300_000 })).await.unwrap();
    }
    assert!(scrubbed(&disk).await.is_empty());
    platter.lose_power(None);
    let disk = open(&platter).await;
    for n in 0..40 {
        assert_eq!(get(&disk, id(n)).await.unwrap(), content(n, if n < 30 { 3_000 } else { 300_000 }), "{n}");
    }
    assert!(scrubbed(&disk).await.is_empty());
}

#[tokio::test]
async fn a_damaged_chunk_that_nobody_has_read_since_a_start_is_replaced_by_who_writes_it_again() {
    let platter = laid_out();
    let mut disk = open(&platter).await;
    for (n, bytes) in [(1, 3_000), (2, 300_000)] {
        put(&disk, id(n), &content(n, bytes)).await.unwrap();
        let (path, at) = place(&platter, &content(n, bytes));
        platter.flip(&path, at + 2_000, 5);
        platter.unmount();
        disk = open(&platter).await;
        put(&disk, id(n), &content(n, bytes)).await.unwrap();
        assert_eq!(get(&disk, id(n)).await.unwrap(), content(n, bytes));
    }
}

#[tokio::test]
async fn no_flipped_bit_anywhere_gives_wrong_bytes_or_costs_another_chunk() {
    let platter = laid_out();
    let disk = open(&platter).await;
    for n in 0..6 {
        put(&disk, id(n), &content(n, 200)).await.unwrap();
    }
    put(&disk, id(6), &content(6, 263_000)).await.unwrap();
    bury(&disk, id(5)).await;
    drop(disk);
    platter.unmount();
    for (path, bytes) in platter.files() {
        let step = if bytes > 10_000 { 5_003 } else { 37 };
        for at in (0..bytes).step_by(step) {
            platter.flip(&path, at, 2);
            let disk = {
                let spawner = Spawner::new(tokio::runtime::Handle::current());
                match Disk::open(platter.mount(), identity(), settings(), spawner).await {
                    Ok(disk) => disk,
                    Err(error) => {
                        assert_eq!(path, "identity", "{error}");
                        platter.flip(&path, at, 2);
                        continue;
                    }
                }
            };
            let mut lost = 0;
            for n in (0..5).chain([6]) {
                match get(&disk, id(n)).await {
                    Ok(read) => assert_eq!(read, content(n, if n == 6 { 263_000 } else { 200 })),
                    Err(DiskError::Damaged { .. } | DiskError::Absent(_)) => lost += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(lost <= 1, "{lost} chunks for one bit of {path} at {at}");
            drop(disk);
            platter.unmount();
            // What was cut off at the start is no more there to be flipped back.
            if platter.files().get(&path).is_some_and(|bytes| *bytes > at) {
                platter.flip(&path, at, 2);
            }
        }
    }
}

#[tokio::test]
async fn a_chunk_that_lies_in_the_place_of_another_is_found() {
    let platter = laid_out();
    let disk = open(&platter).await;
    put(&disk, id(1), &content(1, 300_000)).await.unwrap();
    put(&disk, id(2), &content(2, 300_000)).await.unwrap();
    let volume = platter.mount();
    let (one, two) = (file::name(id(1), 300_000), file::name(id(2), 300_000));
    volume.rename(&format!("{CHUNKS}/{one}"), &format!("{CHUNKS}/{two}")).unwrap();
    drop(disk);
    let disk = open(&platter).await;
    assert!(matches!(get(&disk, id(2)).await, Err(DiskError::Damaged { .. })));
    assert!(matches!(get(&disk, id(1)).await, Err(DiskError::Absent(_))));
}

#[tokio::test]
async fn a_failed_sync_ends_all_writing_and_no_reading() {
    for bytes in [2_000, 300_000] {
        let platter = laid_out();
        let disk = open(&platter).await;
        for n in 0..5 {
            put(&disk, id(n), &content(n, bytes)).await.unwrap();
        }
        let mut health = disk.health();
        platter.fail_sync_after(0);
        let failed = put(&disk, id(5), &content(5, bytes)).await;
        assert!(matches!(failed, Err(DiskError::ReadOnly { .. })), "{failed:?}");
        assert!(matches!(&*health.borrow_and_update(), Health::ReadOnly { reason } if reason.contains("input/output")));
        let before = platter.syncs();
        assert!(matches!(put(&disk, id(6), &content(6, 10)).await, Err(DiskError::ReadOnly { .. })));
        assert!(matches!(disk.condemn(id(1)).await, Err(DiskError::ReadOnly { .. })));
        assert!(disk.compact().await.is_err());
        assert_eq!(platter.syncs(), before, "no other sync is tried");
        for n in 0..5 {
            assert_eq!(get(&disk, id(n)).await.unwrap(), content(n, bytes));
        }
        platter.unmount();
        let disk = open(&platter).await;
        assert!(matches!(&*disk.health().borrow(), Health::ReadOnly { .. }), "another life does not trust it either");
        for n in 0..5 {
            assert_eq!(get(&disk, id(n)).await.unwrap(), content(n, bytes));
        }
        assert!(scrubbed(&disk).await.is_empty());
    }
}

#[tokio::test]
async fn a_damaged_record_keeps_its_segment_until_its_chunk_is_gone() {
    let platter = laid_out();
    let disk = open(&platter).await;
    for n in 0..10 {
        put(&disk, id(n), &content(n, 6_000)).await.unwrap();
    }
    disk.scrub(1, 0).await.unwrap();
    let (path, at) = place(&platter, &content(4, 6_000));
    platter.flip(&path, at + 5, 1);
    for n in (0..10).filter(|n| *n != 4 && *n != 7) {
        bury(&disk, id(n)).await;
    }
    let freed = disk.compact().await.unwrap().unwrap();
    assert!(freed.is_stuck, "{freed:?}");
    assert!(disk.compact().await.unwrap().is_none());
    assert!(matches!(get(&disk, id(4)).await, Err(DiskError::Damaged { .. })), "still there, for who repairs it");
    bury(&disk, id(4)).await;
    assert!(!disk.compact().await.unwrap().unwrap().is_stuck);
    assert_eq!(get(&disk, id(7)).await.unwrap(), content(7, 6_000));
}

#[tokio::test]
async fn a_pass_goes_on_where_the_last_life_was() {
    let platter = laid_out();
    let disk = open(&platter).await;
    for n in 0..20 {
        put(&disk, id(n), &content(n, 6_000)).await.unwrap();
        put(&disk, id(100 + n), &content(n, 270_000)).await.unwrap();
    }
    let mut seen = 0;
    let mut disk = disk;
    for round in 0.. {
        let step = disk.scrub(400_000, 77).await.unwrap();
        assert_eq!(step.pass.begun_ms, 77);
        assert!(step.pass.chunks > seen || step.is_complete, "each step looks at something");
        seen = step.pass.chunks;
        if step.is_complete {
            break;
        }
        assert!(round < 100);
        platter.unmount();
        disk = open(&platter).await;
    }
    assert_eq!(seen, 40);
    assert_eq!(disk.scrub(0, 99).await.unwrap().pass.begun_ms, 99, "another pass begins");
}

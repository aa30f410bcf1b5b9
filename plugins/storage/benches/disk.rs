//! What a disk takes and gives, next to plain files on the same one; and what erasure coding costs.
//!
//! ```console
//! $ cargo bench -p hirsel-storage --bench disk               # all of it, about a minute
//! $ HIRSEL_BENCH_FOLDER=/data cargo bench -p hirsel-storage --bench disk -- small
//! ```
//!
//! Absolute numbers are those of the machine; the ratios to what plain files cost in the same run are what is to be compared. Words pick
//! sections: small, large, start, code.

#![allow(clippy::print_stdout)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use futures::stream;
use hirsel_mesh::seam::real::FolderVolume;
use hirsel_model::{ClusterId, NodeId};
use hirsel_role::Spawner;
use hirsel_storage::chunk::{self, ChunkId};
use hirsel_storage::codec::{Codec, STRIPE_BYTES_MAX};
use hirsel_storage::disk::{Disk, DiskId, Identity, Settings};

/// How long each rate is measured.
const FOR: Duration = Duration::from_secs(3);
const SMALL: usize = 4096;
const LARGE: usize = 64 << 20;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |section: &str| words.is_empty() || words.iter().any(|word| word == section);
    let given = std::env::var_os("HIRSEL_BENCH_FOLDER");
    let folder = given.map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let folder = tempfile::tempdir_in(folder).expect("a folder for the bench");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    if wanted("small") {
        small(folder.path(), &runtime);
    }
    if wanted("large") {
        large(folder.path(), &runtime);
    }
    if wanted("start") {
        start(folder.path(), &runtime);
    }
    if wanted("code") {
        code();
    }
}

fn id(n: u64) -> ChunkId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    id[8..].copy_from_slice(&n.to_be_bytes());
    ChunkId(id)
}

fn content(bytes: usize) -> Bytes {
    let mut content = vec![0; bytes];
    blake3::Hasher::new().finalize_xof().fill(&mut content);
    content.into()
}

async fn disk(folder: &Path, name: &str) -> Arc<Disk> {
    let root = folder.join(name);
    fs::create_dir_all(&root).expect("a folder");
    let volume = Arc::new(FolderVolume::open(&root).expect("a volume"));
    let identity = Identity { cluster: ClusterId("bench".into()), node: NodeId(1), disk: DiskId(1) };
    if Disk::identity(&*volume).expect("it can be read").is_none() {
        Disk::lay_out(&*volume, &identity).expect("it is empty");
    }
    let settings = Settings { capacity_bytes: u64::MAX, reserve_bytes: 1 << 30, segment_bytes: 64 << 20 };
    let spawner = Spawner::new(tokio::runtime::Handle::current());
    Arc::new(Disk::open(volume, identity, settings, spawner).await.expect("it opens"))
}

async fn put(disk: &Disk, n: u64, bytes: &Bytes) {
    let blocks = chunk::blocks(id(n), bytes).into_iter().map(Ok);
    disk.put(id(n), bytes.len() as u32, stream::iter(blocks)).await.expect("it is written");
}

/// How often `one` can be done per second by `tasks` tasks at once.
async fn rate<F: Future<Output = ()> + Send>(
    tasks: u64,
    one: impl Fn(u64) -> F + Send + Sync + Clone + 'static,
) -> f64 {
    static NUMBERS: AtomicU64 = AtomicU64::new(0);
    let begun = Instant::now();
    let tasks: Vec<_> = (0..tasks)
        .map(|_| {
            let one = one.clone();
            // The bound is for the future of each call, which lives no longer than its task.
            tokio::spawn(async move {
                let mut done = 0u64;
                while begun.elapsed() < FOR {
                    one(NUMBERS.fetch_add(1, Ordering::Relaxed)).await;
                    done += 1;
                }
                done
            })
        })
        .collect();
    let done: u64 = join_all(tasks).await.into_iter().map(|done| done.expect("no panic")).sum();
    done as f64 / begun.elapsed().as_secs_f64()
}

/// The same with threads, for what blocks.
fn rate_blocking(threads: u64, one: impl Fn(u64) + Send + Sync) -> f64 {
    let numbers = AtomicU64::new(0);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while begun.elapsed() < FOR {
                    one(numbers.fetch_add(1, Ordering::Relaxed));
                }
            });
        }
    });
    numbers.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()
}

fn small(folder: &Path, runtime: &tokio::runtime::Runtime) {
    let bytes = content(SMALL);
    let plain = folder.join("plain");
    fs::create_dir_all(&plain).expect("a folder");
    // One writer that appends 32 records and syncs: what group commit could reach if nothing else were done.
    let log = File::create(folder.join("log")).expect("a file");
    let record = vec![7u8; (SMALL + 128) * 32];
    let mut at = 0;
    let begun = Instant::now();
    let mut groups = 0;
    while begun.elapsed() < FOR {
        log.write_all_at(&record, at).expect("it is written");
        log.sync_data().expect("it is synced");
        at += record.len() as u64;
        groups += 1;
    }
    let group = f64::from(groups * 32) / begun.elapsed().as_secs_f64();
    println!("small: 32 appends of 4 KiB to one file and a sync: {group:.0}/s");
    for writers in [1, 16, 64] {
        let files = rate_blocking(writers, |n| {
            let (unfinished, path) = (plain.join(format!("{n}.tmp")), plain.join(format!("{writers}-{n}")));
            let mut file = File::create(&unfinished).expect("a file");
            file.write_all(&bytes).expect("it is written");
            file.sync_all().expect("it is synced");
            fs::rename(&unfinished, &path).expect("it is renamed");
        });
        let puts = runtime.block_on(async {
            let disk = disk(folder, &format!("small-{writers}")).await;
            let bytes = bytes.clone();
            rate(writers, move |n| {
                let (disk, bytes) = (disk.clone(), bytes.clone());
                async move { put(&disk, n, &bytes).await }
            })
            .await
        });
        let (times, share) = (puts / files, puts / group);
        println!(
            "small: 4 KiB put, {writers} writers: {puts:.0}/s; a file each, synced and renamed: {files:.0}/s ({times:.1}x); {share:.2} of 32 appends a sync"
        );
    }
    let gets = runtime.block_on(async {
        let disk = disk(folder, "small-gets").await;
        for n in 0..10_000u64 {
            let from = n * 64;
            if n < 157 {
                join_all((from..from + 64).map(|n| put(&disk, n, &bytes))).await;
            }
        }
        rate(64, move |n| {
            let disk = disk.clone();
            async move {
                let mut reader = disk.get(id(n % 10_000), 0..u32::MAX).await.expect("it is there");
                reader.next().await.expect("it is read").expect("it has a block");
            }
        })
        .await
    });
    println!("small: 4 KiB get, 64 readers, from the page cache: {gets:.0}/s");
}

fn large(folder: &Path, runtime: &tokio::runtime::Runtime) {
    let bytes = content(LARGE);
    let rounds = 8u64;
    let speed = |begun: Instant, files: u64| (LARGE as u64 * files) as f64 / begun.elapsed().as_secs_f64() / 1e6;
    for clients in [1u64, 8] {
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for client in 0..clients {
                let (bytes, path) = (&bytes, folder.join(format!("large-{client}")));
                scope.spawn(move || {
                    for _ in 0..rounds / clients {
                        let mut file = File::create(&path).expect("a file");
                        bytes.chunks(4 << 20).for_each(|piece| file.write_all(piece).expect("it is written"));
                        file.sync_data().expect("it is synced");
                    }
                });
            }
        });
        let plain_write = speed(begun, rounds);
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for client in 0..clients {
                let path = folder.join(format!("large-{client}"));
                scope.spawn(move || {
                    let mut piece = vec![0; 1 << 20];
                    for _ in 0..rounds / clients {
                        let mut file = File::open(&path).expect("it is there");
                        while file.read(&mut piece).expect("it is read") > 0 {}
                    }
                });
            }
        });
        let plain_read = speed(begun, rounds);
        let (put_speed, get_speed) = runtime.block_on(async {
            let disk = disk(folder, &format!("large-disk-{clients}")).await;
            let pieces: Vec<Bytes> =
                (0..LARGE / (4 << 20)).map(|n| bytes.slice(n * (4 << 20)..(n + 1) * (4 << 20))).collect();
            let begun = Instant::now();
            for round in 0..rounds / clients {
                join_all((0..clients).map(|client| {
                    let (disk, pieces) = (disk.clone(), pieces.clone());
                    tokio::spawn(async move {
                        for (n, piece) in (0..).zip(&pieces) {
                            put(&disk, (round * clients + client) * 100 + n, piece).await;
                        }
                    })
                }))
                .await;
            }
            let put_speed = speed(begun, rounds);
            let begun = Instant::now();
            for round in 0..rounds / clients {
                join_all((0..clients).map(|client| {
                    let disk = disk.clone();
                    tokio::spawn(async move {
                        for n in 0..16 {
                            let chunk = id((round * clients + client) * 100 + n);
                            let mut reader = disk.get(chunk, 0..u32::MAX).await.expect("it is there");
                            while reader.next().await.expect("it is read").is_some() {}
                        }
                    })
                }))
                .await;
            }
            (put_speed, speed(begun, rounds))
        });
        println!(
            "large: 64 MiB in chunks of 4 MiB, {clients} at once: put {put_speed:.0} MB/s (a plain file, synced once: {plain_write:.0}), get {get_speed:.0} MB/s (a plain file, not looked at: {plain_read:.0})"
        );
    }
}

fn start(folder: &Path, runtime: &tokio::runtime::Runtime) {
    let bytes = content(100);
    let chunks = 200_000u64;
    runtime.block_on(async {
        let disk = disk(folder, "start").await;
        for n in 0..chunks / 1000 {
            join_all((n * 1000..(n + 1) * 1000).map(|n| put(&disk, n, &bytes))).await;
        }
    });
    let memory = || {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default().to_owned();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default()
    };
    let before = memory();
    let begun = Instant::now();
    let opened = runtime.block_on(disk(folder, "start"));
    let (took, more) = (begun.elapsed(), memory().saturating_sub(before));
    let found = opened.list(None).len();
    println!(
        "start: {chunks} small chunks found in {took:.0?} (first page {found}), {} bytes of memory each at most",
        more * 1024 / chunks
    );
}

fn code() {
    for text in ["4+2", "8+3"] {
        let codec = Codec::new(text.parse().expect("a scheme"));
        let stripe = content(STRIPE_BYTES_MAX as usize);
        let shards: Vec<Option<Bytes>> = codec.encode(&stripe).expect("a stripe").into_iter().map(Some).collect();
        let speed = |what: &str, work: &dyn Fn()| {
            let begun = Instant::now();
            let mut rounds = 0;
            while begun.elapsed() < FOR {
                work();
                rounds += 1;
            }
            let speed = f64::from(rounds) * f64::from(STRIPE_BYTES_MAX) / begun.elapsed().as_secs_f64() / 1e6;
            println!("code: {text} {what}: {speed:.0} MB/s of one core");
        };
        speed("encode", &|| drop(codec.encode(&stripe)));
        speed("decode, nothing lost", &|| drop(codec.decode(STRIPE_BYTES_MAX, &shards)));
        let mut lost = shards.clone();
        lost[..codec.scheme().parity()].fill(None);
        speed("decode, as many data shards lost as may be", &|| drop(codec.decode(STRIPE_BYTES_MAX, &lost)));
        speed("repair of one shard", &|| drop(codec.repair(STRIPE_BYTES_MAX, &lost, 0)));
        let begun = Instant::now();
        let mut rounds = 0;
        while begun.elapsed() < FOR {
            drop(chunk::blocks(id(1), &stripe));
            rounds += 1;
        }
        if text == "4+2" {
            let speed = f64::from(rounds) * f64::from(STRIPE_BYTES_MAX) / begun.elapsed().as_secs_f64() / 1e6;
            println!("code: checksums: {speed:.0} MB/s of one core");
        }
    }
}

//! Plain files on the same disk: what anything that keeps objects is to be compared with.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::{CLIENTS, FOR, LARGE, MB, SMALL};

/// Appends that one sync makes safe, in the measure of group commit.
const GROUP: usize = 32;

pub struct Plain {
    /// By threads: files of 4 KiB written and synced, and written alone, a second.
    small: Vec<(usize, f64, f64)>,
    /// Appends of 4 KiB a second, 32 for each sync.
    pub group: f64,
    /// MB/s of a file of 64 MiB, synced.
    pub large: f64,
    large_unsynced: f64,
}

impl Plain {
    pub fn measure() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let body = noise(SMALL);
        let small = CLIENTS.map(|threads| {
            let rate = |name: &str, sync| files(&folder.path().join(format!("{name}{threads}")), threads, &body, sync);
            (threads, rate("synced", true), rate("plain", false))
        });
        let (large, large_unsynced) = (large(folder.path(), true), large(folder.path(), false));
        Self { small: small.to_vec(), group: group(folder.path()), large, large_unsynced }
    }

    /// Files of 4 KiB that as many threads write and sync a second.
    pub fn files(&self, threads: usize) -> f64 {
        self.small.iter().find(|(count, ..)| *count == threads).map_or(f64::NAN, |(_, synced, _)| *synced)
    }

    pub fn say(&self) {
        for (threads, synced, plain) in &self.small {
            println!(
                "  files of 4 KiB by {threads} threads: {synced:.0}/s written and synced; {plain:.0}/s not synced"
            );
        }
        println!("  group commit ({GROUP} appends of 4 KiB, one sync): {:.0}/s", self.group);
        println!(
            "  a file of 64 MiB: {:.0} MB/s written and synced; {:.0} not synced",
            self.large, self.large_unsynced
        );
    }
}

/// Bytes that no file system makes smaller.
pub fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).expect("chance");
    bytes
}

fn files(folder: &Path, threads: usize, body: &[u8], sync: bool) -> f64 {
    fs::create_dir_all(folder).expect("a folder");
    let done = AtomicU64::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let done = &done;
            scope.spawn(move || {
                for number in 0.. {
                    let mut file = File::create(folder.join(format!("{thread}-{number}"))).expect("a file");
                    file.write_all(body).expect("it is written");
                    if sync {
                        file.sync_all().expect("it is synced");
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                    if began.elapsed() > FOR {
                        return;
                    }
                }
            });
        }
    });
    let rate = done.into_inner() as f64 / began.elapsed().as_secs_f64();
    fs::remove_dir_all(folder).expect("it is removed");
    rate
}

fn group(folder: &Path) -> f64 {
    let log = File::create(folder.join("log")).expect("a file");
    let records = noise(SMALL * GROUP);
    let (began, mut groups) = (Instant::now(), 0);
    while began.elapsed() < FOR {
        log.write_all_at(&records, groups * records.len() as u64).expect("it is written");
        log.sync_data().expect("it is synced");
        groups += 1;
    }
    groups as f64 * GROUP as f64 / began.elapsed().as_secs_f64()
}

fn large(folder: &Path, sync: bool) -> f64 {
    let body = noise(LARGE);
    let path = folder.join("large");
    let (began, mut written) = (Instant::now(), 0.0);
    while began.elapsed() < FOR {
        let mut file = File::create(&path).expect("a file");
        file.write_all(&body).expect("it is written");
        if sync {
            file.sync_all().expect("it is synced");
        }
        written += LARGE as f64 / MB;
    }
    written / began.elapsed().as_secs_f64()
}

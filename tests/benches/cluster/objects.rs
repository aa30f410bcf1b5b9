//! What objects cost: over S3, on one disk, beside plain files there, and beside Garage where that is installed.
//!
//! `objects` measures rates of small and large ones with three copies, `stripes` of large ones with 4+2, `million` lists a million keys,
//! `long` sends one of 5 GB (`HIRSEL_BENCH_GB`), and `repair` loses one of four nodes that keep as much.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

mod client;
mod files;
mod garage;
mod long;
mod million;
mod repair;
mod signed;
mod store;

use store::{Rate, Store};

use crate::figures::installed;

/// How long each rate is measured.
const FOR: Duration = Duration::from_secs(5);
const SMALL: usize = 4 << 10;
const LARGE: usize = 64 << 20;
const CLIENTS: [usize; 3] = [1, 16, 64];
const CLIENTS_LARGE: [usize; 2] = [1, 8];
const MB: f64 = 1e6;

pub use long::report as long;
pub use million::report as million;
pub use repair::report as repair;

pub fn report(_: usize) {
    println!(
        "\nobjects: three nodes, 3 copies, each synced before the answer, all on the disk of {}; presigned requests over kept connections, to all \
         nodes in turn; {} s each; clients run on the same machine",
        std::env::temp_dir().display(),
        FOR.as_secs()
    );
    let plain = files::Plain::measure();
    plain.say();
    let ours = {
        let (_cluster, store) = store::hirsel(3, &["--copies", "3"]);
        let small = small(&store, Some(&plain));
        large(&store, Some(&plain));
        small
    };
    if !installed("garage", "cargo install garage --version 2.5.0 --locked") {
        return;
    }
    println!("  the same with Garage: three nodes, replication_factor = 3, metadata_fsync and data_fsync");
    let garage = garage::Garage::start(3);
    let theirs = small(&garage.store, None);
    large(&garage.store, None);
    for (what, ours, theirs) in ours.iter().zip(&theirs).map(|((what, ours), (_, theirs))| (what, ours, theirs)) {
        println!("    {what}: {:.1} times Garage's rate", ours.per_second / theirs.per_second);
    }
}

pub fn stripes(_: usize) {
    println!(
        "\nstripes: six nodes, 4+2, each shard synced before the answer, all on the disk of {}; else as objects",
        std::env::temp_dir().display()
    );
    let (_cluster, store) = store::hirsel(6, &["--erasure", "4+2"]);
    large(&store, None);
}

/// Objects that go with their metadata, of the size that others measure.
fn small(store: &Store, plain: Option<&files::Plain>) -> Vec<(String, Rate)> {
    let mut rates = Vec::new();
    let body = files::noise(SMALL);
    let next = AtomicU64::new(0);
    for clients in CLIENTS {
        let rate = store.measure(clients, |connection| {
            let key = next.fetch_add(1, Ordering::Relaxed);
            connection.ask(&store.signer, "PUT", &format!("small/{key:08}"), &body).map(drop)
        });
        let what = format!("PUT 4 KiB, {clients} clients");
        rate.say(&what, "/s", rate.per_second);
        if let Some(plain) = plain {
            println!(
                "      {:.2} times files, {:.3} times group commit",
                rate.per_second / plain.files(clients),
                rate.per_second / plain.group
            );
        }
        rates.push((what, rate));
    }
    let kept = next.into_inner();
    for clients in CLIENTS {
        let next = AtomicU64::new(0);
        let rate = store.measure(clients, |connection| {
            // A prime, so that keys far from each other follow.
            let key = next.fetch_add(7919, Ordering::Relaxed) % kept.max(1);
            let got = connection.ask(&store.signer, "GET", &format!("small/{key:08}"), &[])?;
            assert_eq!(got, SMALL as u64, "a whole object");
            Ok(())
        });
        let what = format!("GET 4 KiB, {clients} clients");
        rate.say(&what, "/s", rate.per_second);
        rates.push((what, rate));
    }
    let rate = store.measure(1, |connection| connection.list(&store.signer, &[]).map(drop));
    let what = format!("a page of {} of {kept} keys", client::PAGE);
    rate.say(&what, "/s", rate.per_second);
    rates.push((what, rate));
    rates
}

/// Objects of many chunks.
fn large(store: &Store, plain: Option<&files::Plain>) {
    let body = files::noise(LARGE);
    let mb = LARGE as f64 / MB;
    let before = store.used();
    let mut stored = 0;
    for clients in CLIENTS_LARGE {
        let next = AtomicU64::new(0);
        let rate = store.measure(clients, |connection| {
            let key = next.fetch_add(1, Ordering::Relaxed);
            connection.ask(&store.signer, "PUT", &format!("large/{clients}/{key}"), &body).map(drop)
        });
        stored += next.into_inner();
        rate.say(&format!("PUT 64 MiB, {clients} clients"), " MB/s", rate.per_second * mb);
        println!("      {:.1} s of CPU for each GB", rate.cpu_ms / mb);
        if let Some(plain) = plain {
            println!("      {:.2} times one file, synced", rate.per_second * mb / plain.large);
        }
    }
    let bytes = store.used().saturating_sub(before) as f64 / (stored as f64 * LARGE as f64);
    println!("  bytes on disks for each byte stored: {bytes:.2}");
    for clients in CLIENTS_LARGE {
        let rate = store.measure(clients, |connection| {
            let got = connection.ask(&store.signer, "GET", "large/1/0", &[])?;
            assert_eq!(got, LARGE as u64, "a whole object");
            Ok(())
        });
        rate.say(&format!("GET 64 MiB, {clients} clients"), " MB/s", rate.per_second * mb);
        println!("      {:.1} s of CPU for each GB", rate.cpu_ms / mb);
    }
}

//! One object that is longer than any memory: sent in parts, and read.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::client::Connection;
use super::files;
use super::store::hirsel;
use super::{LARGE, MB};

/// Decimal, unless `HIRSEL_BENCH_GB` says otherwise.
const GB: f64 = 5.0;
const CLIENTS: usize = 4;
const KEY: &str = "long";

/// GB that the benches of much data keep.
pub fn gigabytes() -> f64 {
    std::env::var("HIRSEL_BENCH_GB").ok().and_then(|gb| gb.parse().ok()).unwrap_or(GB)
}

pub fn report(_: usize) {
    let parts = (gigabytes() * 1e9 / LARGE as f64).ceil() as u64;
    println!("\nlong: an object of {parts} parts of 64 MiB, {CLIENTS} at once; six nodes, 4+2");
    let (_cluster, store) = hirsel(6, &["--erasure", "4+2"]);
    println!("  the most memory of an agent before: {:.0} MB", store.memory_most_mb());
    let mut connection = Connection::new(store.addrs[0]).expect("a gateway listens");
    let begun = connection.whole(&store.signer, "POST", KEY, &[("uploads", "")], &[]).expect("an upload");
    let text = String::from_utf8_lossy(&begun.body).into_owned();
    let upload = text.split("<UploadId>").nth(1).and_then(|rest| rest.split('<').next()).expect("an id").to_owned();
    let body = files::noise(LARGE);
    let (next, tags, began) = (AtomicU64::new(1), Mutex::new(Vec::new()), Instant::now());
    let rate = store.do_all(CLIENTS, parts, |connection| {
        let part = next.fetch_add(1, Ordering::Relaxed);
        let query = [("partNumber", part.to_string()), ("uploadId", upload.clone())];
        let query = query.each_ref().map(|(name, value)| (*name, value.as_str()));
        let answer = connection.whole(&store.signer, "PUT", KEY, &query, &body)?;
        tags.lock().expect("nobody panicked").push((part, answer.etag));
        Ok(())
    });
    let mut tags = tags.into_inner().expect("nobody panicked");
    tags.sort();
    let list = tags.iter().map(|(part, tag)| format!("<Part><PartNumber>{part}</PartNumber><ETag>{tag}</ETag></Part>"));
    let list = format!("<CompleteMultipartUpload>{}</CompleteMultipartUpload>", list.collect::<String>());
    connection.whole(&store.signer, "POST", KEY, &[("uploadId", &upload)], list.as_bytes()).expect("it ends");
    let whole = parts as f64 * LARGE as f64 / MB;
    println!(
        "  sent: {:.0} MB/s, {:.1} s of CPU for each GB; the most memory of an agent: {:.0} MB",
        whole / began.elapsed().as_secs_f64(),
        rate.cpu_ms / (LARGE as f64 / MB),
        store.memory_most_mb()
    );
    let began = Instant::now();
    let got = connection.ask(&store.signer, "GET", KEY, &[]).expect("it is read");
    assert_eq!(got, parts * LARGE as u64, "a whole object");
    println!(
        "  read: {:.0} MB/s; the most memory of an agent: {:.0} MB; bytes on disks for each byte: {:.2}",
        whole / began.elapsed().as_secs_f64(),
        store.memory_most_mb(),
        store.used() as f64 / (whole * MB)
    );
}

//! A million keys: putting them, and listing them with and without a delimiter.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::client::{Connection, PAGE};
use super::files;
use super::store::{Rate, hirsel};

/// Unless `HIRSEL_BENCH_KEYS` says otherwise.
const KEYS: u64 = 1_000_000;
const CLIENTS: usize = 64;
/// Keys below each of the folders.
const EACH: u64 = 1000;
const BYTES: usize = 512;

pub fn report(_: usize) {
    let keys = std::env::var("HIRSEL_BENCH_KEYS").ok().and_then(|keys| keys.parse().ok()).unwrap_or(KEYS);
    println!(
        "\nmillion: {keys} objects of {BYTES} bytes, {EACH} in each folder; three nodes, 3 copies; {CLIENTS} clients"
    );
    let (_cluster, store) = hirsel(3, &["--copies", "3"]);
    let body = files::noise(BYTES);
    let before = store.used();
    let next = AtomicU64::new(0);
    let rate = store.do_all(CLIENTS, keys, |connection| {
        let number = next.fetch_add(1, Ordering::Relaxed);
        // Not in the order in which they will be listed.
        let folder = number % keys.div_ceil(EACH);
        connection
            .ask(&store.signer, "PUT", &format!("{folder:05}/{:05}", number / keys.div_ceil(EACH)), &body)
            .map(drop)
    });
    rate.say("PUT", "/s", rate.per_second);
    println!(
        "  bytes on disks for each object: {:.0}; the most memory of an agent: {:.0} MB",
        store.used().saturating_sub(before) as f64 / keys as f64,
        store.memory_most_mb()
    );
    let mut connection = Connection::new(store.addrs[0]).expect("a gateway listens");
    let mut pages = |what: &str, item: &str, query: &[(&str, &str)]| {
        let (mut times, mut items, mut after) = (Vec::new(), 0u64, None::<String>);
        let cpu = store.cpu_ms();
        let began = Instant::now();
        loop {
            let mut query = query.to_vec();
            query.extend(after.as_deref().map(|after| ("start-after", after)));
            let at = Instant::now();
            let page = connection.list(&store.signer, &query).expect("a page");
            times.push(at.elapsed());
            let names: Vec<&str> = page.split(item).skip(1).filter_map(|rest| rest.split('<').next()).collect();
            items += names.len() as u64;
            if !page.contains("<IsTruncated>true</IsTruncated>") {
                break;
            }
            after = names.last().map(|name| name.replace('/', "%2F"));
        }
        let elapsed = began.elapsed().as_secs_f64();
        times.sort();
        let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or(Duration::ZERO);
        let cpu_ms = (store.cpu_ms() - cpu) / times.len() as f64;
        Rate { per_second: times.len() as f64 / elapsed, p50: at(50), p99: at(99), cpu_ms }.say(
            &format!("{what}: {} pages", times.len()),
            " items/s",
            items as f64 / elapsed,
        );
        items
    };
    assert_eq!(pages(&format!("keys, {PAGE} a page"), "<Key>", &[]), keys, "each key is listed once");
    // By both elements: the prefix that was asked for has one of the same name.
    let folders = pages("folders", "<CommonPrefixes><Prefix>", &[("delimiter", "%2F")]);
    assert_eq!(folders, keys.div_ceil(EACH), "each folder is listed once");
    let rate = store.measure(1, |connection| {
        connection.list(&store.signer, &[("delimiter", "%2F"), ("prefix", "00007%2F")]).map(drop)
    });
    rate.say("one folder", " pages/s", rate.per_second);
    println!("  the most memory of an agent at the end: {:.0} MB", store.memory_most_mb());
}

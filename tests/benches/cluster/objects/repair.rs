//! A node is lost for good, and what was on it is made anew on the others.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::long::gigabytes;
use super::store::{hirsel, taken};
use super::{LARGE, MB, files};
use crate::figures::timed;

const NODES: usize = 4;
const CLIENTS: usize = 4;
/// Bytes that the lost node has of each that is stored: three copies on four nodes.
const SHARE: f64 = 3.0 / 4.0;
/// The plan waits two minutes for a node before it moves what is on it.
const BEGINS_WITHIN: Duration = Duration::from_secs(240);
const ENDS_WITHIN: Duration = Duration::from_secs(3600);

pub fn report(_: usize) {
    let objects = (gigabytes() / SHARE * 1e9 / LARGE as f64).ceil() as u64;
    println!(
        "\nrepair: {NODES} nodes, 3 copies, {objects} objects of 64 MiB; one node loses power and never comes back"
    );
    let (mut cluster, store) = hirsel(NODES, &["--copies", "3"]);
    let body = files::noise(LARGE);
    let next = AtomicU64::new(0);
    store.do_all(CLIENTS, objects, |connection| {
        let key = next.fetch_add(1, Ordering::Relaxed);
        connection.ask(&store.signer, "PUT", &format!("object/{key}"), &body).map(drop)
    });
    let leader = cluster.leader();
    let victim = (0..NODES).rev().find(|node| cluster.nodes[*node].name != leader).expect("another one");
    let lost = taken(&store.folders[victim]);
    cluster.nodes[victim].off();
    let others = || (0..NODES).filter(|node| *node != victim);
    let used = || others().map(|node| taken(&store.folders[node])).sum::<u64>();
    let cpu = || others().map(|node| crate::usage::cpu_ms(store.pids[node])).sum::<f64>();
    let storage = || cluster.any().ask(["status"]).try_data().map(|status| status["storage"].clone()).ok();
    let (before, cpu_before, off) = (used(), cpu(), Instant::now());
    let moving = |storage: &serde_json::Value| storage["moving"].as_u64().unwrap_or(0);
    timed("what was lost is moved", off, BEGINS_WITHIN, || storage().filter(|storage| moving(storage) > 0));
    let began = Instant::now();
    let (_, took) =
        timed("all is where it should be", began, ENDS_WITHIN, || storage().filter(|storage| moving(storage) == 0));
    let (written, spent) = (used().saturating_sub(before) as f64, cpu() - cpu_before);
    println!(
        "  {:.1} GB lost; begun {:.0} s after the loss, done in {:.0} s: {:.0} MB/s; {:.1} s of CPU for each GB",
        lost as f64 / 1e9,
        (began - off).as_secs_f64(),
        took.as_secs_f64(),
        written / MB / took.as_secs_f64(),
        spent / (written / MB)
    );
    let healthy = |storage: &serde_json::Value| storage["health"] == "healthy";
    let (_, counted) = timed("an audit finds everything", began, ENDS_WITHIN, || storage().filter(healthy));
    println!("  every piece counted and found {:.0} s after the loss", (began - off + counted).as_secs_f64());
}

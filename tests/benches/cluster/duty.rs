//! A node is lost: when is it judged, and when is what only it might do done by another one? Each run has a cluster of its own: a node
//! that went once is not trusted for a while, and longer each time.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use hirsel_tests::cluster::{Cluster, array};
use hirsel_tests::journal::{Journal, now_ms};

use crate::figures::{installed, timed, times};
use crate::serf::Serf;

const NODES: usize = 5;
const LIMIT: Duration = Duration::from_secs(60);

pub fn down(runs: usize) {
    println!(
        "\ndown: one of {NODES} nodes is killed; to the verdict `down` at a survivor, which is asked again and again; a new cluster for \
         each run"
    );
    times("any node killed to judged down", &(0..runs).map(judged).collect::<Vec<_>>());
    if installed("serf", "apt-get install serf") {
        let mut serf = Serf::start(NODES);
        let took: Vec<Duration> = (0..runs)
            .map(|run| {
                std::thread::sleep(out_of_step(run));
                serf.fail(run % NODES)
            })
            .collect();
        times("serf (lan profile), killed to failed", &took);
    }
}

/// Not in step with whatever ticks.
fn out_of_step(run: usize) -> Duration {
    Duration::from_millis(300 + 37 * run as u64 % 500)
}

fn judged(run: usize) -> Duration {
    let mut cluster = Cluster::start(NODES);
    std::thread::sleep(out_of_step(run));
    let victim = run % NODES;
    let (name, witness) = (cluster.nodes[victim].name.clone(), (victim + 1) % NODES);
    let killed = Instant::now();
    cluster.nodes[victim].off();
    let (_, took) = timed("it is judged", killed, LIMIT, || {
        let members = cluster.nodes[witness].ask(["members"]).try_data().ok()?;
        array(&members).iter().any(|member| member["name"] == *name && member["liveness"] == "down").then_some(())
    });
    took
}

pub fn exclusive(runs: usize) {
    println!(
        "\nexclusive: the node of {NODES} whose program alone may act is killed; by what the programs write down, every ms, from the kill \
          to the first act of the next one; a new cluster for each run"
    );
    for leads in [false, true] {
        let who = if leads { "the leader, holding it" } else { "a holder that does not lead" };
        let took: Vec<Duration> = (0..runs.div_ceil(2)).map(|run| taken_over(run, leads)).collect();
        times(&format!("{who}, killed to acting again"), &took);
    }
}

/// What the benchmark calls itself when it is the program that acts.
pub const ACT: &str = "act";

/// A cluster with an exclusive program, this very executable, that acts already: with which fence.
fn acting() -> (Cluster, Journal, u64) {
    let cluster = Cluster::start(NODES);
    let journal = Journal::at(cluster.folder.path().join("journal"));
    let program = std::env::current_exe().expect("a benchmark has a path");
    cluster.apply(&journal.compiled(&program, &[ACT]));
    let fence = journal.taken_over(0, LIMIT);
    (cluster, journal, fence)
}

fn holder(cluster: &Cluster) -> String {
    let held = || cluster.instances("sole").first().map(|(_, node)| node.clone());
    timed("a holder is shown", Instant::now(), LIMIT, held).0
}

/// Acts for ever; returns only when it cannot.
pub fn act(path: &str) {
    let Err(error) = Journal::at(PathBuf::from(path)).act();
    eprintln!("{path}: {error}");
}

pub fn handover(runs: usize) {
    println!(
        "\nhandover: the node of {NODES} whose program alone may act is drained; by what the programs write down, every ms, for how \
         long nobody acts; one cluster for all runs"
    );
    let (cluster, journal, mut fence) = acting();
    let took: Vec<Duration> = (0..runs)
        .map(|run| {
            let holder = holder(&cluster);
            std::thread::sleep(out_of_step(run));
            assert_eq!(cluster.any().ask(["drain", &holder, "--yes"]).code, Some(0), "{holder} is drained");
            fence = journal.taken_over(fence, LIMIT);
            assert_eq!(cluster.any().ask(["uncordon", &holder]).code, Some(0));
            cluster.well(LIMIT);
            journal.pause_before(fence).expect("one acted before")
        })
        .collect();
    times("drained, to the first act elsewhere", &took);
    journal.assert_never_two();
}

fn taken_over(run: usize, leads: bool) -> Duration {
    let (mut cluster, journal, fence) = acting();
    let holder = holder(&cluster);
    // Whoever leads hands over before its agent stops, until the right one leads.
    for _ in 0..4 * NODES {
        let leader = cluster.leader();
        if (holder == leader) == leads {
            break;
        }
        let leader = cluster.index(&leader);
        cluster.nodes[leader].stop_agent();
        cluster.nodes[leader].start(None);
        cluster.whole();
    }
    assert_eq!(holder == cluster.leader(), leads, "the right one leads");
    std::thread::sleep(out_of_step(run));
    let index = cluster.index(&holder);
    let killed = now_ms();
    cluster.nodes[index].off();
    let next = journal.taken_over(fence, LIMIT);
    journal.assert_never_two();
    let (first, _) = journal.acts()[&next];
    Duration::from_millis(first.saturating_sub(killed))
}

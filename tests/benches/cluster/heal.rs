//! A node is lost while clients ask: when is it left alone, and when is its work done elsewhere?

use std::time::{Duration, Instant};

use hirsel_tests::cluster::{Cluster, MESH_PORT, sample};
use hirsel_tests::load::Load;
use hirsel_tests::wait_for;

use crate::figures::times;
use crate::recorder::Recorder;

const NODES: usize = 5;
const RATE: u32 = 200;
const LIMIT: Duration = Duration::from_secs(60);

/// What came of one loss.
struct Loss {
    last_sent: Duration,
    replaced: Duration,
    answered: u64,
    failed: usize,
    slowest: Duration,
}

pub fn report(runs: usize) {
    println!(
        "\nheal: one of {NODES} nodes with an instance is killed under {RATE} GET/s through load balancers that stay; \
         a new cluster for each run"
    );
    for leads in [false, true] {
        let who = if leads { "the leader" } else { "a worker" };
        let losses: Vec<Loss> = (0..runs).map(|_| lose(leads)).collect();
        let of = |part: fn(&Loss) -> Duration| losses.iter().map(part).collect::<Vec<_>>();
        times(&format!("{who} killed to nothing new sent to it"), &of(|loss| loss.last_sent));
        times(&format!("{who} killed to replaced and healthy"), &of(|loss| loss.replaced));
        let answered: u64 = losses.iter().map(|loss| loss.answered).sum();
        let failed: usize = losses.iter().map(|loss| loss.failed).sum();
        let slowest = losses.iter().map(|loss| loss.slowest).max().unwrap_or_default();
        println!(
            "    {failed} of {} GETs failed; the slowest took {} ms",
            answered + failed as u64,
            slowest.as_millis()
        );
    }
}

fn lose(leads: bool) -> Loss {
    let mut cluster = Cluster::start(NODES);
    // An instance on every node, so that the leader has one to lose.
    cluster.apply(&sample(NODES));
    let leader = cluster.leader();
    let victim = match leads {
        true => leader,
        false => {
            let holders = cluster.instances("hello").into_iter().map(|(_, node)| node);
            holders.into_iter().find(|node| *node != leader).expect("an instance elsewhere")
        }
    };
    let targets: Vec<_> = cluster.lbs().into_iter().filter(|(node, _)| *node != victim).map(|(_, addr)| addr).collect();
    assert!(!targets.is_empty(), "some load balancer stays");
    let load =
        Load { targets, host: "any".into(), path: "/".into(), method: "GET", status: 200, rate: RATE, connections: 12 };
    let load = load.start();
    wait_for("the load runs", Duration::from_secs(10), || {
        if load.answered() > u64::from(RATE) { Ok(()) } else { Err(load.answered().to_string()) }
    });
    let index = cluster.index(&victim);
    let recorder = Recorder::start(cluster.nodes[index].addr(MESH_PORT));
    let killed = Instant::now();
    cluster.nodes[index].off();
    cluster.well(LIMIT);
    let replaced = killed.elapsed();
    let last_sent = recorder.end().last().map_or(Duration::ZERO, |at| at.saturating_duration_since(killed));
    let tally = load.end();
    for failure in &tally.failures {
        println!("    failed: {failure:?}");
    }
    Loss { last_sent, replaced, answered: tally.answered, failed: tally.failures.len(), slowest: tally.slowest }
}

//! What an agent costs while nothing happens.

use std::time::Duration;

use hirsel_tests::cluster::{Cluster, sample};

use crate::figures::installed;
use crate::serf::Serf;
use crate::usage::{Usage, watch};

/// Joining is over, logs are compacted, caches are as full as they get.
const SETTLE: Duration = Duration::from_secs(10);
/// Long enough that single wake-ups do not count.
const MEASURE: Duration = Duration::from_secs(20);
const SIZES: [usize; 2] = [5, 30];

pub fn report(_: usize) {
    println!(
        "\nidle: mean per agent over {} s, {} s after the last one joined; the sample application runs with 3 replicas, without load",
        MEASURE.as_secs(),
        SETTLE.as_secs()
    );
    for nodes in SIZES {
        let cluster = Cluster::start(nodes);
        cluster.apply(&sample(3));
        std::thread::sleep(SETTLE);
        let leader = cluster.leader();
        let pids: Vec<u32> = cluster.nodes.iter().map(hirsel_tests::cluster::Node::agent_pid).collect();
        let all = watch(&pids, MEASURE);
        line(&format!("hirsel, {nodes} nodes"), &all);
        let leads = watch(&[cluster.node(&leader).agent_pid()], MEASURE / 2);
        line("  its leader", &leads);
    }
    if installed("serf", "apt-get install serf") {
        for nodes in SIZES {
            let serf = Serf::start(nodes);
            std::thread::sleep(SETTLE);
            line(&format!("serf (lan profile), {nodes} agents"), &watch(&serf.pids(), MEASURE));
        }
    }
}

fn line(who: &str, usage: &Usage) {
    println!(
        "  {who:<30} {:>5.1} MB resident, {:>5.1} MB of it its own; {:>5.2} ms of CPU per s ({:.2} % of a core; most {:.2} %); {:.0} threads",
        usage.resident_mb,
        usage.own_mb,
        usage.cpu_ms,
        usage.cpu_ms / 10.0,
        usage.cpu_ms_most / 10.0,
        usage.threads
    );
}

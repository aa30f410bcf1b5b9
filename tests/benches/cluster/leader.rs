//! The leader is lost: when is the next write accepted?

use std::time::{Duration, Instant};

use hirsel_tests::cluster::Cluster;
use hirsel_tests::power::signal;
use rustix::process::Signal;

use crate::etcd::Etcd;
use crate::figures::{installed, timed, times};

const NODES: usize = 5;
const LIMIT: Duration = Duration::from_secs(30);

pub fn report(runs: usize) {
    println!(
        "\nleader: the leader of {NODES} is killed while nothing is written; to the next write that was accepted through a survivor, \
         given to it in the same moment (`hirsel webhook set`, its start included; etcd: a put through its HTTP gateway each 20 ms)"
    );
    times("hirsel", &(0..runs).map(hirsel).collect::<Vec<_>>());
    if installed("etcd", "apt-get install etcd-server") {
        let times_of: Vec<Duration> = {
            let mut etcd = Etcd::start(NODES);
            (0..runs).map(|run| etcd.fail_over(run)).collect()
        };
        times("etcd (defaults: 100 ms, 1000 ms)", &times_of);
    }
}

fn hirsel(run: usize) -> Duration {
    let cluster = Cluster::start(NODES);
    let leader = cluster.index(&cluster.leader());
    let url = |when: &str| format!("http://127.0.0.1:9/{when}/{run}");
    let asked = (leader + 1 + run % (NODES - 1)) % NODES;
    let write = |cluster: &Cluster, when: &str| {
        let ran = cluster.nodes[asked].ask(["webhook", "set", &url(when)]);
        (ran.code == Some(0)).then_some(())
    };
    timed("a write before", Instant::now(), LIMIT, || write(&cluster, "before"));
    // Not in step with the heartbeats.
    std::thread::sleep(Duration::from_millis(500 + 37 * run as u64 % 200));
    let agent = cluster.nodes[leader].agent_pid();
    let killed = Instant::now();
    signal(agent, Signal::KILL);
    timed("a write after", killed, LIMIT, || write(&cluster, "after")).1
}

//! A node is lost: when is it judged, and when is what only it might do done by another one? Each run has a cluster of its own: a node
//! that went once is not trusted for a while, and longer each time.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hirsel_tests::cluster::{Cluster, array};

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
    if installed("serf", "serf") {
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
        "\nexclusive: the node of {NODES} whose program alone may act is killed; by what the programs write down, every 5 ms, from the \
         kill to the first act of the next one; a new cluster for each run"
    );
    for leads in [false, true] {
        let who = if leads { "the leader, holding it" } else { "a holder that does not lead" };
        let took: Vec<Duration> = (0..runs.div_ceil(2)).map(|run| taken_over(run, leads)).collect();
        times(&format!("{who}, killed to acting again"), &took);
    }
}

fn taken_over(run: usize, leads: bool) -> Duration {
    let mut cluster = Cluster::start(NODES);
    let journal = cluster.folder.path().join("journal");
    let script =
        format!("while :; do echo \\\"$HIRSEL_FENCE $(date +%s%3N)\\\" >> {}; sleep 0.005; done", journal.display());
    cluster.apply(&format!(
        "app = \"sole\"\n[service.one]\ncommand = [\"/bin/sh\", \"-c\", \"{script}\"]\nexclusive = true\n"
    ));
    let fence = timed("it acts", Instant::now(), LIMIT, || last(&journal)).0.0;
    let (holder, _) = timed("a holder is shown", Instant::now(), LIMIT, || {
        cluster.instances("sole").first().map(|(_, node)| node.clone())
    });
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
    let killed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    cluster.nodes[index].off();
    let next = |of: (u64, u64)| (of.0 > fence).then_some(of.0);
    let (next, _) = timed("another one acts", Instant::now(), LIMIT, || last(&journal).and_then(next));
    let first = lines(&journal).into_iter().find(|(fence, _)| *fence == next).map_or(0, |(_, at)| at);
    Duration::from_millis(first).saturating_sub(killed)
}

fn lines(journal: &Path) -> Vec<(u64, u64)> {
    let text = std::fs::read_to_string(journal).unwrap_or_default();
    let line = |line: &str| line.split_once(' ').and_then(|(fence, at)| Some((fence.parse().ok()?, at.parse().ok()?)));
    text.lines().filter_map(line).collect()
}

fn last(journal: &Path) -> Option<(u64, u64)> {
    lines(journal).into_iter().max()
}

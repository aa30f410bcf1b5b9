//! From starting `join` to being a member, and to work.

use std::time::{Duration, Instant};

use hirsel_tests::cluster::{Cluster, array};

use crate::figures::{timed, times};

const NODES: usize = 5;
const LIMIT: Duration = Duration::from_secs(60);

pub fn report(runs: usize) {
    // Each cluster gives four joins.
    let clusters = runs.div_ceil(NODES - 1);
    println!(
        "\njoin: `hirsel join` started, as the first node sees it; {clusters} clusters that grow to {NODES} nodes"
    );
    let (mut ready, mut member, mut work) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..clusters {
        let mut cluster = Cluster::start(1);
        // Drawn before the clock runs.
        cluster.nodes[0].token();
        for _ in 1..NODES {
            let began = Instant::now();
            let name = cluster.launch().name.clone();
            let has = |verb: &str, key: &str, wanted: (&str, &str)| {
                let rows = cluster.nodes[0].ask([verb]).try_data().ok()?;
                let found = array(&rows)
                    .iter()
                    .any(|row| row[key] == name.as_str() && row[wanted.0].as_str() == Some(wanted.1));
                found.then_some(())
            };
            let (_, took) = timed("a member", began, LIMIT, || has("members", "name", ("liveness", "alive")));
            member.push(took);
            let (_, took) = timed("work", began, LIMIT, || has("roles", "node", ("state", "running")));
            work.push(took);
            let node = cluster.nodes.last().expect("just launched");
            let (_, took) = timed("an answer", began, LIMIT, || node.ask(["status"]).try_data().ok());
            ready.push(took);
        }
        cluster.whole();
    }
    times("to a member that is alive", &member);
    times("to the first role running", &work);
    times("to this and its own agent answering", &ready);
}

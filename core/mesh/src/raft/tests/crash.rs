//! Power failures at random moments: what was acknowledged is there, once and in order.

use super::*;

/// Each is one history of three members.
const SEEDS: u64 = 120;

#[test]
fn power_failures_lose_nothing_that_was_acknowledged() {
    for seed in 0..SEEDS {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async { story(seed, Cluster::founded(3).await).await });
    }
}

pub(super) async fn story(seed: u64, mut cluster: Cluster) {
    let mut chance = SmallRng::seed_from_u64(seed);
    let mut acknowledged: Vec<(u64, String)> = Vec::new();
    let mut number = 0;
    for _ in 0..3 {
        // One or two of them fail within their next syncs, or all do.
        let victims = *[1, 1, 2, 3].get(chance.random_range(0..4usize)).unwrap();
        let mut doomed: BTreeSet<NodeId> = BTreeSet::new();
        while doomed.len() < victims {
            doomed.insert(NodeId(chance.random_range(1..=3)));
        }
        for node in &doomed {
            cluster.platters[node].doom(chance.random_range(1..12));
        }
        let through = chance.random_range(1..=3);
        for _ in 0..chance.random_range(4..16) {
            number += 1;
            let line = number.to_string();
            let proposed = cluster.group(through).propose(line.clone().into(), Duration::from_millis(1500)).await;
            acknowledged.extend(proposed.ok().map(|(index, _)| (index, line)));
        }
        if chance.random_bool(0.3) {
            let healthy = cluster.members.keys().find(|node| !cluster.platters[node].failed()).copied();
            if let Some(healthy) = healthy {
                cluster.group(healthy.0).snapshot_now().await;
            }
        }
        for node in doomed {
            cluster.crash(node, &mut chance).await;
            cluster.start(node).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
    }
    let last = cluster.write(1, "end").await;
    acknowledged.push((last, "end".into()));
    for (node, member) in &cluster.members {
        until(&format!("seed {seed}: node {node} to catch up"), || {
            lock(&member.lines).contains_key(&last).then_some(())
        })
        .await;
        let lines = lock(&member.lines).clone();
        for (index, line) in &acknowledged {
            assert_eq!(lines.get(index), Some(line), "seed {seed}: node {node} lost what was acknowledged");
        }
        let distinct: BTreeSet<&String> = lines.values().collect();
        assert_eq!(distinct.len(), lines.len(), "seed {seed}: node {node} applied a line twice");
        assert_eq!(lines, *lock(&cluster.members[&NodeId(1)].lines), "seed {seed}: node {node} differs");
    }
}

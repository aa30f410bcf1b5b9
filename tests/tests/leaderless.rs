//! Most voters are gone for a while, and nobody can decide anything: all that runs goes on, and what crashes is started again by its
//! own node.
//!
//! With `HIRSEL_SOAK_SECONDS` the voters are away for as long as that, up to a minute.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hirsel_tests::cluster::{Cluster, array, sample};
use hirsel_tests::load::Load;
use hirsel_tests::{power, wait_for};
use rustix::process::Signal;

const SOON: Duration = Duration::from_secs(30);
/// How long nobody leads.
const AWAY: Duration = Duration::from_secs(15);
const AWAY_MAX: Duration = Duration::from_secs(60);

fn away() -> Duration {
    let asked = std::env::var("HIRSEL_SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    asked.map_or(AWAY, |seconds| AWAY_MAX.min(Duration::from_secs(seconds)))
}

/// Waits until this much time has passed since `began`; nothing happens meanwhile that could be waited for.
fn until(began: Instant, passed: Duration) {
    wait_for("time passes", passed + SOON, || if began.elapsed() >= passed { Ok(()) } else { Err("not yet".into()) });
}

/// Who votes, as all nodes say: while voters are exchanged, one of them may name those before and those after together.
fn voters(cluster: &Cluster) -> Result<BTreeSet<String>, String> {
    let says = |name: &str| -> Result<BTreeSet<String>, String> {
        let voters = cluster.node(name).ask(["status"]).try_data()?["voters"].clone();
        Ok(array(&voters).iter().filter_map(|name| Some(name.as_str()?.to_owned())).collect())
    };
    let said = cluster.nodes.iter().map(|node| says(&node.name)).collect::<Result<BTreeSet<_>, _>>()?;
    let one = said.first().filter(|voters| said.len() == 1 && voters.len() == 5);
    one.cloned().ok_or_else(|| format!("{said:?}"))
}

/// Cordons three of five voters, which thus run nothing else; at least one load balancer is on another node.
fn three_voters(cluster: &Cluster) -> BTreeSet<String> {
    let (three, _) = wait_for("three of five voters are cordoned, and still vote", SOON, || {
        let mut some: Vec<String> = voters(cluster)?.into_iter().collect();
        let balances: BTreeSet<String> = cluster.lbs().into_iter().map(|(name, _)| name).collect();
        some.sort_by_key(|name| balances.contains(name));
        let three: BTreeSet<String> = some.into_iter().take(3).collect();
        let each = |verb: &str| three.iter().for_each(|name| assert_eq!(cluster.any().ask([verb, name]).code, Some(0)));
        each("cordon");
        let still = voters(cluster).is_ok_and(|voters| three.is_subset(&voters));
        if !still {
            each("uncordon");
        }
        if still { Ok(three) } else { Err("they do not vote any more".into()) }
    });
    three
}

#[test]
fn with_most_voters_frozen_all_that_runs_goes_on_and_what_crashes_starts_again() {
    let cluster = Cluster::start(7);
    let frozen = three_voters(&cluster);
    cluster.apply(&sample(4));
    let programs = || -> BTreeMap<String, Vec<u32>> {
        let others = cluster.nodes.iter().filter(|node| !frozen.contains(&node.name));
        others.map(|node| (node.name.clone(), node.programs("sample"))).collect()
    };
    let before = programs();
    assert_eq!(before.values().map(Vec::len).sum::<usize>(), 4, "{before:?}");

    let targets = cluster.lbs().into_iter().filter(|(name, _)| !frozen.contains(name)).map(|(_, at)| at).collect();
    let (host, path) = ("hello.example".into(), "/".into());
    let load = Load { targets, host, path, method: "GET", status: 200, rate: 1_000, connections: 48 }.start();
    let freeze = |on: bool| frozen.iter().for_each(|name| power::freeze(&cluster.node(name).data, on));
    freeze(true);
    let began = Instant::now();
    let witness = cluster.nodes.iter().find(|node| !frozen.contains(&node.name)).expect("four are left");
    wait_for("nobody leads", SOON, || {
        let status = witness.ask(["status"]).try_data()?;
        if status["leader"].is_null() { Ok(()) } else { Err(status.to_string()) }
    });

    // One program crashes. Its node starts it again, and what is sent meanwhile goes to the others.
    let (name, victim) = before.iter().find_map(|(name, pids)| Some((name.clone(), *pids.first()?))).expect("one runs");
    power::signal(victim, Signal::KILL);
    wait_for("it is started again by its own node", SOON, || {
        let now = programs()[&name].clone();
        let again = now.len() == before[&name].len() && !now.contains(&victim);
        if again { Ok(()) } else { Err(format!("{now:?}")) }
    });
    let refused = witness.ask(["webhook", "set", "http://127.0.0.1:9/"]);
    assert_eq!(refused.code, Some(7), "nothing can be changed: {}", refused.words());
    until(began, away());
    let during = programs();
    assert!(witness.ask(["status"]).data()["leader"].is_null(), "nobody came to lead");

    freeze(false);
    let thawed = Instant::now();
    wait_for("changes are accepted again", SOON, || {
        let ran = witness.ask(["webhook", "set", "http://127.0.0.1:9/"]);
        if ran.code == Some(0) { Ok(()) } else { Err(ran.words()) }
    });
    let accepted = thawed.elapsed();
    cluster.whole();
    cluster.well(SOON);
    let tally = load.end();
    eprintln!(
        "nobody led for {:.1} s: {} requests, {} failed, the longest took {:?}; changes were accepted {accepted:?} later",
        thawed.duration_since(began).as_secs_f64(),
        tally.answered,
        tally.failures.len(),
        tally.slowest
    );
    tally.assert_sound(5_000);
    let mut kept = before.clone();
    kept.values_mut().for_each(|pids| pids.retain(|pid| *pid != victim));
    let stayed = |now: &BTreeMap<String, Vec<u32>>| {
        kept.iter().all(|(name, pids)| pids.iter().all(|pid| now[name].contains(pid)))
    };
    assert!(stayed(&during) && stayed(&programs()), "{before:?}, then {during:?}, then {:?}", programs());
}

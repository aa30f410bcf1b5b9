//! Programs people write: Python, Node, Go, three instances each, under load while nodes are lost, drained and redeployed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hirsel_tests::cluster::Cluster;
use hirsel_tests::load::{Load, Running};
use hirsel_tests::netns::{self, Network, Seen, Watch};
use hirsel_tests::programs::{self, Program};
use hirsel_tests::{http, lacks, wait_for};

const NODES: u8 = 5;
const REPLICAS: usize = 3;
/// Requests per second, over all programs.
const RATE: u32 = 1_000;
/// Of the load in each phase that must have been answered before something happens.
const WARM: u64 = 1_000;
/// The promise is 5 s in the median (8 s when the leader is lost), twice that at most; a debug build on a shared machine, which also
/// makes the load, gets as much again.
const REPLACED_WITHIN: Duration = Duration::from_secs(40);

/// Nothing new is sent to a lost node after this. A second is promised.
const SILENT_WITHIN: Duration = Duration::from_secs(5);

/// An agent asks a member that it does not hear so often which foundation of the cluster it belongs to.
const ASKED_EVERY: Duration = Duration::from_secs(5);

/// Each of these tests wants the machine for itself.
static MACHINE: Mutex<()> = Mutex::new(());

/// The programs that this machine can run, by the application's name.
fn programs(folder: &Path) -> Vec<(&'static str, Program)> {
    type Make = fn(&Path) -> Option<Program>;
    let all: [(&str, Make, &str); 3] = [
        ("flask", programs::flask, "Python with gunicorn and Flask"),
        ("express", programs::node, "node with express"),
        ("golang", programs::go, "Go"),
    ];
    let there = all.into_iter().filter_map(|(app, make, needs)| {
        let program = make(folder);
        if lacks(needs, program.is_some()) { None } else { program.map(|program| (app, program)) }
    });
    there.collect()
}

/// Runs the programs, and waits until every lb answers for each of them.
fn deploy(cluster: &Cluster, programs: &[(&str, Program)]) {
    for (app, program) in programs {
        let ran = cluster.apply_only(&program.manifest(app, REPLICAS));
        assert_eq!(ran.code, Some(0), "{}", ran.words());
    }
    cluster.well(Duration::from_secs(90));
    for (_, addr) in cluster.lbs() {
        for (app, _) in programs {
            let answer = http::get(addr, &format!("{app}.example"), "/").unwrap();
            assert_eq!(answer.status, 200, "{app} through {addr}: {}", answer.text());
            if *app == "express" {
                assert_eq!(answer.header("x-powered-by"), Some("Express"), "{answer:?}");
            }
        }
    }
}

/// Load on every program through load balancers that stay up, `rate` a second in all.
fn load(targets: &[SocketAddr], programs: &[(&str, Program)], method: &'static str, rate: u32) -> Vec<Running> {
    assert!(!targets.is_empty(), "some lb stays up");
    let load = |app: &str| Load {
        targets: targets.to_vec(),
        host: format!("{app}.example"),
        path: "/".into(),
        method,
        status: 200,
        rate: rate / programs.len() as u32,
        connections: 12,
    };
    programs.iter().map(|(app, _)| load(app).start()).collect()
}

fn warm(loads: &[Running]) {
    wait_for("the load runs", Duration::from_secs(30), || {
        let answered: u64 = loads.iter().map(Running::answered).sum();
        if answered >= WARM { Ok(()) } else { Err(answered.to_string()) }
    });
}

/// Ends the loads; all of each must have been answered. Returns how many that were, and the longest answer.
fn sound(loads: Vec<Running>) -> (u64, Duration) {
    let tallies: Vec<_> = loads.into_iter().map(Running::end).collect();
    tallies.iter().for_each(|tally| tally.assert_sound(100));
    let slowest = tallies.iter().map(|tally| tally.slowest).max();
    (tallies.iter().map(|tally| tally.answered).sum(), slowest.unwrap_or_default())
}

/// Load balancers that `victim` is none of.
fn others(cluster: &Cluster, victim: &str) -> Vec<SocketAddr> {
    cluster.lbs().into_iter().filter(|(node, _)| node != victim).map(|(_, addr)| addr).collect()
}

/// Loses a compute node, an lb node and the leader, one after the other, under load; each comes back before the next is lost.
fn lose_one_after_another(cluster: &mut Cluster, programs: &[(&str, Program)], network: Option<&Network>) {
    for what in ["a compute node", "an lb node", "the leader"] {
        let leader = cluster.leader();
        let holders = programs.iter().flat_map(|(app, _)| cluster.instances(app)).map(|(_, node)| node);
        let lbs = cluster.lbs().into_iter().map(|(node, _)| node);
        let victim = match what {
            "a compute node" => holders.into_iter().find(|node| *node != leader).expect("an instance elsewhere"),
            "an lb node" => lbs.into_iter().find(|node| *node != leader).expect("an lb elsewhere"),
            _ => leader,
        };
        let index = cluster.index(&victim);
        let loads = load(&others(cluster, &victim), programs, "GET", RATE);
        warm(&loads);
        let watch = network.map(|network| {
            network.cut(index as u8 + 1);
            network.watch(index as u8 + 1)
        });
        if watch.is_some() {
            cluster.away.insert(victim.clone());
        } else {
            cluster.nodes[index].off();
        }
        let (planned, healthy) = cluster.replaced(&victim, REPLACED_WITHIN);
        let how = if network.is_some() { "cut off" } else { "switched off" };
        eprint!("{what} ({victim}) {how}: replaced within {planned:.1?}, healthy within {healthy:.1?}; ");
        let (answered, slowest) = sound(loads);
        eprintln!("{answered} requests at {RATE}/s, none failed, longest {slowest:.2?}");
        if let Some(seen) = watch.map(Watch::end) {
            assert_silent(&seen, what);
        }
        match network {
            Some(network) => {
                network.heal();
                cluster.away.clear();
            }
            None => cluster.nodes[index].start(None),
        }
        let (whole, well) = (cluster.whole(), cluster.well(REPLACED_WITHIN));
        eprintln!("  it came back: whole after {whole:.1?}, well {well:.1?} later");
    }
    for (app, program) in programs {
        // gunicorn's workers have the words of their parent.
        if *app != "flask" {
            cluster.assert_declared_is_running(app, &program.word);
        }
    }
}

/// Nothing new was sent to the lost node any more, but the question of each agent to a member that it does not hear.
fn assert_silent(seen: &Seen, what: &str) {
    let last =
        |pieces: &BTreeMap<String, (String, Duration)>| pieces.values().map(|(_, at)| *at).max().unwrap_or_default();
    eprintln!(
        "  {} pieces of data were sent to it after the cut, the last one {:.2?} after it; {} attempts to connect, the last one {:.2?} after",
        seen.data.len(),
        last(&seen.data),
        seen.dials.len(),
        last(&seen.dials)
    );
    assert!(last(&seen.data) < SILENT_WITHIN, "{seen:?}");
    let mut late: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for (from, at) in seen.dials.values().filter(|(_, at)| *at >= SILENT_WITHIN) {
        late.entry(from).or_default().push(*at);
    }
    let rounds = 1 + (last(&seen.dials).as_secs() / ASKED_EVERY.as_secs()) as usize;
    assert!(late.values().all(|dials| dials.len() <= rounds), "{late:?}");
    assert!(
        seen.data.len() + seen.dials.len() > 0 || what != "a compute node",
        "nothing at all was seen to go to an instance"
    );
}

/// Drains a node, then replaces every instance by a new one, under load of every kind.
fn drain_and_redeploy(cluster: &Cluster, programs: &[(&str, Program)]) {
    let victim = cluster.instances(programs[0].0).into_iter().map(|(_, node)| node).next().expect("an instance");
    let targets = others(cluster, &victim);
    let mut loads = load(&targets, programs, "GET", RATE / 2);
    loads.extend(load(&targets, programs, "POST", RATE / 2));
    warm(&loads);
    let ran = cluster.any().ask(["drain", &victim, "--yes"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    let (_, drained) = wait_for("the drained node is empty", Duration::from_secs(90), || {
        let left = programs.iter().flat_map(|(app, _)| cluster.instances(app)).filter(|(_, node)| *node == victim);
        let left: Vec<_> = left.collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    cluster.well(REPLACED_WITHIN);
    let ids = |app: &str| -> BTreeSet<String> { cluster.instances(app).into_iter().map(|(id, _)| id).collect() };
    let before: Vec<BTreeSet<String>> = programs.iter().map(|(app, _)| ids(app)).collect();
    for (app, _) in programs {
        let ran = cluster.any().ask(["restart", app, "--yes"]);
        assert_eq!(ran.code, Some(0), "{}", ran.words());
    }
    let (_, redeployed) = wait_for("every instance is a new one", Duration::from_secs(120), || {
        for ((app, _), before) in programs.iter().zip(&before) {
            let now = ids(app);
            if !now.is_disjoint(before) || now.len() != REPLICAS {
                return Err(format!("{before:?} {now:?}"));
            }
        }
        Ok(())
    });
    cluster.well(REPLACED_WITHIN);
    let (answered, slowest) = sound(loads);
    eprintln!(
        "drained within {drained:.1?}, all redeployed within {redeployed:.1?}: {answered} GET and POST requests at {RATE}/s, none \
         failed, longest {slowest:.2?}"
    );
}

#[test]
fn python_node_and_go_answer_all_requests_while_nodes_lose_power_and_through_a_redeploy() {
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::Builder::new().prefix("programs-").tempdir().unwrap();
    let programs = programs(folder.path());
    if programs.is_empty() {
        return;
    }
    let mut cluster = Cluster::start(NODES.into());
    deploy(&cluster, &programs);
    lose_one_after_another(&mut cluster, &programs, None);
    drain_and_redeploy(&cluster, &programs);
}

#[test]
fn python_node_and_go_answer_all_requests_while_cables_are_cut() {
    if lacks("root with ip and nft", netns::is_possible()) {
        return;
    }
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::Builder::new().prefix("programs-").tempdir().unwrap();
    let programs = programs(folder.path());
    if programs.is_empty() {
        return;
    }
    let network = Network::new(NODES);
    let mut cluster = Cluster::new();
    for host in 1..=NODES {
        cluster.add_at(network.address(host), network.prefix(host));
    }
    cluster.whole();
    deploy(&cluster, &programs);
    lose_one_after_another(&mut cluster, &programs, Some(&network));
}

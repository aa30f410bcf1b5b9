//! Objects while nodes are lost: reads and writes go on through the others and through the load balancers, whoever is frozen, cut off or dies.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use hirsel_tests::cluster::{Cluster, HTTP_PORT};
use hirsel_tests::load::{Load, Running};
use hirsel_tests::netns::{self, Network};
use hirsel_tests::{http, lacks, power, wait_for};

const NODES: usize = 5;
const S3_PORT: u16 = 7480;
const HOST: &str = "s3.example";
const BUCKET: &str = "media";
/// A cluster that has just begun takes objects within this.
const BEGINS_WITHIN: Duration = Duration::from_secs(90);
/// Requests per second of each kind.
const RATE: u32 = 40;
/// How long each loss is looked at: longer than it takes to be noticed, planned around and forgotten.
const FOR: Duration = Duration::from_secs(8);
/// Promised is a second, or the time of an election. This is a debug build on a shared machine.
const LONGEST: Duration = Duration::from_secs(8);

/// Reads and writes, straight to these nodes and through their load balancers.
fn load(cluster: &Cluster, nodes: &[usize]) -> Vec<(&'static str, Running)> {
    let at = |port: u16| -> Vec<SocketAddr> { nodes.iter().map(|node| cluster.nodes[*node].addr(port)).collect() };
    let lbs: Vec<SocketAddr> = cluster.lbs().into_iter().map(|(_, addr)| addr).collect();
    let lbs: Vec<SocketAddr> = at(HTTP_PORT).into_iter().filter(|addr| lbs.contains(addr)).collect();
    let kinds = [
        ("read from nodes", at(S3_PORT), "GET", "read"),
        ("written to nodes", at(S3_PORT), "PUT", "written"),
        ("read through load balancers", lbs.clone(), "GET", "read"),
        ("written through load balancers", lbs, "PUT", "written-too"),
    ];
    let start = |(what, targets, method, key): (&'static str, Vec<SocketAddr>, &'static str, &str)| {
        let path = format!("/{BUCKET}/{key}");
        let load = Load { targets, host: HOST.into(), path, method, status: 200, rate: RATE, connections: 4 };
        (what, load.start())
    };
    kinds.into_iter().filter(|(_, targets, ..)| !targets.is_empty()).map(start).collect()
}

fn curl(words: &[&str]) {
    let output =
        Command::new("curl").args(["-sS", "--fail-with-body", "--max-time", "30"]).args(words).output().unwrap();
    assert!(
        output.status.success(),
        "{words:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn reads_and_writes_go_on_while_nodes_freeze_and_die() {
    if lacks("curl", Command::new("curl").arg("--version").output().is_ok_and(|output| output.status.success())) {
        return;
    }
    if lacks("root with ip and nft", netns::is_possible()) {
        return;
    }
    let network = Network::new(NODES as u8);
    let mut cluster = Cluster::new();
    let config = cluster.folder.path().join("hirsel.toml");
    // Each load balancer asks the gateway beside it.
    std::fs::write(&config, "[storage]\ns3 = \"0.0.0.0\"\n").unwrap();
    cluster.config = Some(config);
    for host in 1..=NODES as u8 {
        cluster.add_at(network.address(host), network.prefix(host));
    }
    cluster.whole();
    wait_for("a bucket can be made", BEGINS_WITHIN, || match cluster.any().ask(["bucket", "create", BUCKET]) {
        ran if ran.code == Some(0) => Ok(()),
        ran => Err(ran.words()),
    });
    let made = cluster.any().ask(["bucket", "key", "create", "owner"]).data();
    let user = format!("{}:{}", made["access_key_id"].as_str().unwrap(), made["secret_access_key"].as_str().unwrap());
    let signed =
        ["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &user, "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"];
    let url = |path: &str| format!("http://{}/{path}", cluster.nodes[0].addr(S3_PORT));
    let (acl, read) = (url("media?acl="), url("media/read"));
    curl(
        &[&signed[..], &["-X", "PUT", "-H", "x-amz-acl: public-read-write", "-H", "content-length: 0", &acl]].concat(),
    );
    let body = cluster.folder.path().join("body");
    std::fs::write(&body, vec![7; 300_000]).unwrap();
    let body = body.display().to_string();
    curl(&[&signed[..], &["-T", &body, "-H", "x-amz-acl: public-read", &read]].concat());
    cluster.apply(&format!("app = \"objects\"\n[route.\"{HOST}\"]\nto = [\"http://127.0.0.1:{S3_PORT}\"]\n"));
    for (node, addr) in cluster.lbs() {
        wait_for("an object is read through each load balancer", BEGINS_WITHIN, || {
            let answer = http::get(addr, HOST, "/media/read").map_err(|error| error.to_string())?;
            if answer.body == vec![7; 300_000] {
                Ok(())
            } else {
                Err(format!("{node}: {} {}", answer.status, answer.text()))
            }
        });
    }

    // The last one keeps objects and no more; the first one has founded the cluster and the metadata of objects, and leads both.
    let [last, first] = [NODES - 1, 0];
    for (victim, how) in [(last, "frozen"), (last, "cut off"), (first, "cut off"), (first, "switched off")] {
        let others: Vec<usize> = (0..NODES).filter(|node| *node != victim).collect();
        let loads = load(&cluster, &others);
        wait_for("the load runs", BEGINS_WITHIN, || {
            let answered: Vec<u64> = loads.iter().map(|(_, load)| load.answered()).collect();
            if answered.iter().all(|answered| *answered >= 20) { Ok(()) } else { Err(format!("{answered:?}")) }
        });
        let before: Vec<u64> = loads.iter().map(|(_, load)| load.answered()).collect();
        match how {
            "frozen" => power::freeze(&cluster.nodes[victim].data, true),
            "cut off" => network.cut(victim as u8 + 1),
            _ => cluster.nodes[victim].off(),
        }
        let began = Instant::now();
        let expected = u64::from(RATE) * FOR.as_secs();
        wait_for("the load goes on", FOR + LONGEST * 3, || {
            let now = loads.iter().zip(&before).map(|((_, load), before)| load.answered() - before);
            let now: Vec<u64> = now.collect();
            let enough = now.iter().all(|answered| *answered >= expected * 9 / 10) && began.elapsed() >= FOR;
            if enough { Ok(()) } else { Err(format!("{now:?} of {expected}")) }
        });
        for (what, load) in loads {
            let tally = load.end();
            eprintln!(
                "n{} {how}: {} {what}, {} failed, the longest took {:.2?}",
                victim + 1,
                tally.answered,
                tally.failures.len(),
                tally.slowest
            );
            tally.assert_sound(20);
            assert!(tally.slowest < LONGEST, "{what}: {:?}", tally.slowest);
        }
        match how {
            "frozen" => power::freeze(&cluster.nodes[victim].data, false),
            "cut off" => network.heal(),
            _ => cluster.nodes[victim].start(None),
        }
        cluster.whole();
    }
}

//! gRPC through a cluster of processes: a program in Python on three nodes, called through each load balancer by the library that people
//! use, and while it is redeployed.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hirsel_tests::cluster::Cluster;
use hirsel_tests::{lacks, wait_for};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugins/lb/tests/grpc_peer.py");

fn python() -> Option<&'static str> {
    let has = |python: &&str| {
        let output = Command::new(python).args(["-c", "import grpc"]).output();
        output.is_ok_and(|output| output.status.success())
    };
    ["/usr/bin/python3", "python3"].into_iter().find(has)
}

fn manifest(python: &str, colour: &str) -> String {
    format!(
        "app = \"prices\"\n[service.prices]\ncommand = [{python:?}, {SCRIPT:?}, \"serve\", \"${{HOST}}\", \"${{PORT}}\"]\n\
         replicas = 3\nprotocol = \"h2c\"\nhealth = {{ grpc = \"\", interval = \"200ms\" }}\nenv = {{ COLOUR = {colour:?} }}\n\
         [route.\"*\"]\nto = \"prices\"\n"
    )
}

#[test]
fn calls_pass_through_a_cluster_and_none_fails_while_the_program_is_redeployed() {
    let python = python();
    if lacks("python3 with grpcio", python.is_some()) {
        return;
    }
    let python = python.unwrap_or_default();
    let cluster = Cluster::start(3);
    cluster.apply(&manifest(python, "red"));
    let lbs = cluster.lbs();
    assert!(!lbs.is_empty());
    for (node, addr) in &lbs {
        let (host, port) = (addr.ip().to_string(), addr.port().to_string());
        let output = Command::new(python).args([SCRIPT, "call", &host, &port]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{node}: {said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(
            said.starts_with("unary hello|mine|60 here 000102 OK\n") && said.ends_with("many 500\n"),
            "{node}: {said}"
        );
    }
    // Calls are no idempotent requests: one that is lost with its instance would be seen.
    let (_, addr) = &lbs[0];
    let mut load = Command::new(python)
        .args([SCRIPT, "load", &addr.ip().to_string(), &addr.port().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(load.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "calls");
    let before = cluster.instances("prices");
    cluster.apply(&manifest(python, "blue"));
    wait_for("all instances are new ones", Duration::from_secs(60), || {
        let now = cluster.instances("prices");
        let left: Vec<_> = now.iter().filter(|(id, _)| before.iter().any(|(old, _)| old == id)).collect();
        if left.is_empty() && now.len() == 3 { Ok(()) } else { Err(format!("{left:?} of {now:?}")) }
    });
    cluster.well(Duration::from_secs(60));
    drop(load.stdin.take());
    let said = lines.next().unwrap().unwrap();
    end(load);
    let (good, failed) = said.split_once(' ').unwrap();
    assert!(good.parse::<u32>().unwrap() > 50 && failed == "{}", "{said}");
}

fn end(mut child: Child) {
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}");
}

//! Programs people write: Python, Node, Go, three instances each, under load while nodes are lost.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use hirsel_tests::cluster::Cluster;
use hirsel_tests::load::{Load, Running};
use hirsel_tests::programs::{self, Program};
use hirsel_tests::{http, lacks, wait_for};

fn load(targets: &[SocketAddr], app: &str) -> Running {
    let targets = targets.to_vec();
    Load {
        targets,
        host: format!("{app}.example"),
        path: "/".into(),
        method: "GET",
        status: 200,
        rate: 330,
        connections: 12,
    }
    .start()
}

#[test]
fn python_node_and_go_answer_all_requests_while_nodes_are_lost() {
    type Make = fn(&Path) -> Option<Program>;
    let all: [(&str, Make, &str); 3] = [
        ("flask", programs::flask, "Python with gunicorn and Flask"),
        ("express", programs::node, "node"),
        ("golang", programs::go, "Go"),
    ];
    let folder = tempfile::Builder::new().prefix("programs-").tempdir().unwrap();
    let programs: Vec<(&str, Program)> = all
        .iter()
        .filter_map(|(app, make, needs)| {
            let program = make(folder.path());
            if lacks(needs, program.is_some()) { None } else { program.map(|program| (*app, program)) }
        })
        .collect();
    if programs.is_empty() {
        return;
    }
    let mut cluster = Cluster::start(5);
    for (app, program) in &programs {
        let ran = cluster.apply_only(&program.manifest(app, 3));
        assert_eq!(ran.code, Some(0), "{}", ran.words());
    }
    cluster.well(Duration::from_secs(90));
    for (_, addr) in cluster.lbs() {
        for (app, _) in &programs {
            let answer = http::get(addr, &format!("{app}.example"), "/").unwrap();
            assert_eq!(answer.status, 200, "{app} through {addr}: {}", answer.text());
        }
    }
    let leader = cluster.leader();
    let lbs = cluster.lbs();
    let stays = lbs.iter().find(|(node, _)| *node != leader).unwrap().clone();
    let worker = cluster.instances(programs[0].0).into_iter().map(|(_, node)| node);
    let worker = worker.into_iter().find(|node| *node != stays.0 && *node != leader).unwrap_or(leader.clone());
    let loads: Vec<Running> = programs.iter().map(|(app, _)| load(&[stays.1], app)).collect();
    wait_for("the load runs", Duration::from_secs(20), || {
        let answered: Vec<u64> = loads.iter().map(Running::answered).collect();
        if answered.iter().all(|count| *count > 300) { Ok(()) } else { Err(format!("{answered:?}")) }
    });
    for victim in [worker, leader] {
        let index = cluster.index(&victim);
        cluster.nodes[index].off();
        let took = cluster.well(Duration::from_secs(40));
        eprintln!("{victim} lost: replaced within {took:?}");
        cluster.nodes[index].start(None);
        cluster.whole();
    }
    for load in loads {
        load.end().assert_sound(300);
    }
    for (app, program) in &programs {
        if *app != "flask" {
            // gunicorn runs workers of the same words.
            cluster.assert_declared_is_running(app, &program.word);
        }
    }
}

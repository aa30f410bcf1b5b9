//! `doctor` finds what is wrong with hosts and the ways between them, and says what to do.

use std::time::Duration;

use hirsel_tests::cluster::{Cluster, MESH_PORT, array, loopback};
use hirsel_tests::{cli, lacks, netns, power, wait_for};
use serde_json::Value;

/// The checks of this kind and subject.
fn checks<'a>(told: &'a Value, check: &str, subject: &str) -> Vec<&'a Value> {
    let found: Vec<&Value> =
        array(&told["checks"]).iter().filter(|row| row["check"] == check && row["subject"] == subject).collect();
    assert!(!found.is_empty(), "no check of {check} for {subject} in {told}");
    found
}

fn assert_state(told: &Value, check: &str, subject: &str, state: &str) {
    for row in checks(told, check, subject) {
        assert_eq!(row["state"], state, "{row}");
        assert!(row["value"].is_string() && row["limit"].is_string(), "{row}");
        assert_eq!(row["next"].is_string(), state != "ok", "what to do is said where something is: {row}");
    }
}

#[test]
fn a_sound_cluster_passes_and_each_node_that_is_lost_is_found_with_what_to_do() {
    let mut cluster = Cluster::start(3);
    let ran = cluster.nodes[0].ask(["doctor"]);
    // Tests may run as root, and instances with them: that is worth a warning.
    let told = ran.try_data().unwrap();
    assert!(matches!((ran.code, told["state"].as_str()), (Some(0), Some("ok")) | (Some(3), Some("warning"))), "{told}");
    for other in ["n2", "n3"] {
        for way in [format!("n1 -> {other}"), format!("{other} -> n1")] {
            assert_state(&told, "tcp", &way, "ok");
            assert_state(&told, "udp", &way, "ok");
            assert_state(&told, "mtu", &way, "ok");
        }
        assert_state(&told, "clock", &format!("n1 -> {other}"), "ok");
    }
    for check in ["clock", "space", "certificate"] {
        assert_state(&told, check, "n1", "ok");
    }
    assert_state(&told, "versions", "all members", "ok");
    let disk = checks(&told, "disk", "n1")[0]["value"].as_str().unwrap().to_string();
    assert!(disk.contains("a durable write takes"), "{disk}");
    assert!(!cluster.nodes[0].data.join("doctor").exists(), "nothing is left behind");

    // A frozen agent: its host still takes TCP connections for it, and nobody answers.
    power::freeze(&cluster.nodes[1].data, true);
    let ran = cluster.nodes[0].ask(["doctor"]);
    assert_eq!(ran.code, Some(1), "{}", ran.words());
    let told: Value = serde_json::from_str::<Value>(&ran.stdout).unwrap()["data"].clone();
    assert_state(&told, "udp", "n1 -> n2", "failed");
    assert_state(&told, "agent", "n1 -> n2", "failed");
    assert_state(&told, "udp", "n1 -> n3", "ok");
    power::freeze(&cluster.nodes[1].data, false);

    cluster.nodes[2].off();
    wait_for("the loss is explained, not the ports", Duration::from_secs(40), || {
        let ran = cluster.nodes[0].ask(["doctor"]);
        let told: Value = serde_json::from_str(&ran.stdout).map_err(|error| format!("{error}: {ran:?}"))?;
        let tcp = checks(&told["data"], "tcp", "n1 -> n3")[0].clone();
        assert_eq!((ran.code, tcp["state"].as_str()), (Some(1), Some("failed")));
        if tcp["next"] == "hirsel why n3" { Ok(()) } else { Err(tcp.to_string()) }
    });
}

#[test]
fn a_host_is_looked_at_before_it_joins_without_any_token() {
    let cluster = Cluster::start(1);
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("not/made/yet");
    let seed = cluster.nodes[0].addr(MESH_PORT).to_string();
    let told = cli::ask(&data, ["doctor", &seed]).data();
    assert_state(&told, "tcp", &format!("this host -> {seed}"), "ok");
    assert_state(&told, "udp", &format!("this host -> {seed}"), "ok");
    assert!(checks(&told, "disk", "this host")[0]["value"].as_str().unwrap().contains("durable write"), "{told}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");

    let [a, b, c] = loopback();
    let nobody = format!("{a}.{b}.{c}.1:{MESH_PORT}");
    let ran = cli::ask(&data, ["doctor", &nobody]);
    assert_eq!(ran.code, Some(1), "{}", ran.words());
    let told: Value = serde_json::from_str::<Value>(&ran.stdout).unwrap()["data"].clone();
    assert_state(&told, "tcp", &format!("this host -> {nobody}"), "failed");
    assert_state(&told, "udp", &format!("this host -> {nobody}"), "failed");
    let words = cli::hirsel(["doctor", &nobody]);
    assert!(words.stdout.contains("open the mesh's port"), "{}", words.words());
}

#[test]
fn a_way_that_carries_less_than_the_interface_sends_is_found_with_what_to_do() {
    if lacks("root, ip and nft", netns::is_possible()) {
        return;
    }
    let network = netns::Network::new(2);
    let mut cluster = Cluster::new();
    for host in 1..=2 {
        cluster.add_at(network.address(host), network.prefix(host));
    }
    cluster.whole();
    let told = cluster.nodes[0].ask(["doctor"]).data();
    assert!(checks(&told, "mtu", "n1 -> n2")[0]["value"].as_str().unwrap().contains("packets of 1500 bytes"), "{told}");
    // The wire in between takes less than both ends believe, and says nothing.
    network.narrow(2, 1_300);
    let told = cluster.nodes[0].ask(["doctor"]).data();
    assert_state(&told, "udp", "n1 -> n2", "ok");
    assert_state(&told, "mtu", "n1 -> n2", "warning");
    let found = checks(&told, "mtu", "n1 -> n2")[0];
    assert!(
        found["value"].as_str().unwrap().starts_with("packets of 1260 bytes arrive, larger ones are lost"),
        "{found}"
    );
    assert!(found["next"].as_str().unwrap().contains("mtu 1260"), "{found}");
    assert!(cluster.any().ask(["status"]).data()["leader"].is_string(), "the mesh goes on with what passes");
}

//! Two operators on two sides of a cut: each recovers what they see, and the two clusters that come of it never mix.

use std::time::Duration;

use hirsel_tests::cli::hirsel;
use hirsel_tests::cluster::{Cluster, MESH_PORT, Node, array};
use hirsel_tests::{lacks, netns, wait_for};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

fn voters(node: &Node, count: usize) {
    wait_for(&format!("{count} vote with {}", node.name), SOON, || {
        let status = node.ask(["status"]).try_data()?;
        if array(&status["voters"]).len() == count { Ok(()) } else { Err(status.to_string()) }
    });
}

/// Recovers what is left around `node` once it hears no leader, and returns the tag of what begins.
fn recover(node: &Node, lost: &str) -> String {
    wait_for("the loss is noticed", SOON, || {
        let status = node.ask(["status"]).try_data()?;
        if status["health"] == "no_leader" { Ok(()) } else { Err(status.to_string()) }
    });
    let (done, _) = wait_for("it is recovered", SOON, || node.ask(["recover", "--lost", lost, "--yes"]).try_data());
    voters(node, 2);
    done["new_tag"].as_str().unwrap_or_default().to_string()
}

#[test]
fn two_sides_of_a_cut_are_recovered_and_refuse_each_other_until_one_joins_the_other() {
    if lacks("root, ip and nft", netns::is_possible()) {
        return;
    }
    let network = netns::Network::new(5);
    let mut cluster = Cluster::new();
    for host in 1..=5 {
        cluster.add_at(network.address(host), network.prefix(host));
    }
    cluster.whole();
    voters(cluster.any(), 5);
    cluster.nodes[4].off();
    network.split(&[1, 2], &[3, 4]);
    let (one, other) = (recover(&cluster.nodes[0], "n3,n4,n5"), recover(&cluster.nodes[2], "n1,n2,n5"));
    assert!(one != other && one.starts_with("1-") && other.starts_with("1-"), "{one} {other}");
    let new_token = |node: &Node, kind: &[&str]| {
        let ran = node.ask(["token", "new"].iter().chain(kind));
        ran.data()["token"].as_str().unwrap().to_string()
    };
    let here = new_token(&cluster.nodes[0], &[]);
    let person = new_token(&cluster.nodes[0], &["--viewer"]);

    // The cut heals, and nothing mixes: each names both.
    network.heal();
    for (node, tags) in [(0, [&one, &other]), (2, [&other, &one])] {
        wait_for("each side tells of the other", SOON, || {
            let events = cluster.nodes[node].ask(["events", "-n", "200"]).try_data()?.to_string();
            let told = format!("it belongs to the foundation with tag {}, this one has tag {}", tags[1], tags[0]);
            if events.contains(&told) { Ok(()) } else { Err(events) }
        });
    }
    for (node, count) in [(0, 2), (1, 2), (2, 2), (3, 2)] {
        let members = cluster.nodes[node].ask(["members"]).data();
        assert_eq!(array(&members).len(), count, "{members}");
    }
    let addr = |node: usize| cluster.nodes[node].addr(MESH_PORT).to_string();
    let stranger = cluster.folder.path().join("stranger").display().to_string();
    // From the bridge, both can be reached.
    let ran = hirsel(["join", &addr(2), "--token", &here, "--name", "x", "--data", &stranger]);
    assert!(ran.code == Some(1) && ran.words().contains(&format!("tag {other}")), "{}", ran.words());
    let ran = hirsel(["login", &addr(2), "--token", &person]);
    assert!(ran.code == Some(8) && ran.words().contains(&format!("tag {other}")), "{}", ran.words());

    // One of the other side, and one of the past that slept through all of it, join on request. They bring no vote and no member along.
    let seed = addr(0);
    for index in [2, 4] {
        cluster.nodes[index].off();
        cluster.nodes[index].start(Some((&seed, &here)));
    }
    voters(&cluster.nodes[0], 3);
    wait_for("both are members", SOON, || {
        let members = cluster.nodes[0].ask(["members"]).try_data()?;
        let alive = array(&members).iter().filter(|row| row["liveness"] == "alive").count();
        if alive == 4 && array(&members).len() == 4 { Ok(()) } else { Err(members.to_string()) }
    });
    let tag = |node: usize| {
        let ran = cluster.nodes[node].ask(["recover", "--plan"]);
        let envelope: Value = serde_json::from_str(ran.stdout.trim()).unwrap_or_else(|_| panic!("{}", ran.words()));
        envelope["data"]["tag"].as_str().unwrap_or_default().to_string()
    };
    assert_eq!([tag(2), tag(4)], [one.clone(), one]);
    // Whoever is left on the other side lost its majority, and stays where it was.
    assert_eq!(tag(3), other);
}

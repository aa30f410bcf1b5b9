//! What `simulate` foretells is what the cluster does when the same is then really done.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hirsel_tests::cluster::{Cluster, array, sample};
use hirsel_tests::wait_for;
use serde_json::Value;

/// Instances with their nodes, and slots with their holders.
type Places = (BTreeSet<(String, String)>, BTreeMap<(String, u64), String>);

fn text(row: &Value, key: &str) -> String {
    row[key].as_str().unwrap_or_default().to_string()
}

/// What is planned now, as some running agent knows it.
fn places(cluster: &Cluster) -> Places {
    let roles = cluster.any().ask(["roles"]).data();
    let slots = array(&roles).iter();
    let slots = slots.map(|row| ((text(row, "role"), row["slot"].as_u64().unwrap()), text(row, "node")));
    (cluster.instances("hello").into_iter().collect(), slots.collect())
}

/// What it would be after what was simulated.
fn foretold((mut instances, mut slots): Places, told: &Value) -> Places {
    for row in array(&told["stop"]) {
        assert!(instances.remove(&(text(row, "instance"), text(row, "node"))), "{row}");
    }
    instances.extend(array(&told["start"]).iter().map(|row| (text(row, "instance"), text(row, "node"))));
    for row in array(&told["roles"]) {
        let slot = (text(row, "role"), row["slot"].as_u64().unwrap());
        assert_eq!(slots.remove(&slot), row["before"].as_str().map(str::to_string), "{row}");
        slots.extend(row["after"].as_str().map(|after| (slot, after.to_string())));
    }
    (instances, slots)
}

fn voters(told: &Value) -> BTreeSet<String> {
    array(told).iter().filter_map(|name| name.as_str().map(str::to_string)).collect()
}

#[test]
fn what_is_simulated_comes_true_when_a_node_is_really_lost_or_leaves() {
    let mut cluster = Cluster::start(5);
    cluster.apply(&sample(4));
    let before = places(&cluster);
    let leader = cluster.leader();
    let (_, victim) = before.0.iter().find(|(_, node)| *node != leader).unwrap().clone();
    // Any node answers, and nothing changes by asking.
    let asked = cluster.nodes.iter().find(|node| node.name != leader && node.name != victim).unwrap();
    let ran = asked.ask(["simulate", &format!("kill:{victim}")]);
    let told = ran.data();
    assert_eq!(voters(&told["lost"]), BTreeSet::from([victim.clone()]));
    assert_eq!(told["complete"], true, "{told}");
    assert!(array(&told["start"]).iter().any(|row| text(row, "because").contains(&victim)), "{told}");
    // Five vote and nobody is left to take the lost vote.
    assert_eq!(ran.code, Some(3), "{told}");
    assert_eq!(places(&cluster), before, "asking changes nothing");
    let everybody = cluster.nodes.iter().map(|node| format!("kill:{}", node.name)).collect::<Vec<_>>().join(" ");
    let all = asked.ask(std::iter::once("simulate").chain(everybody.split(' '))).data();
    assert_eq!((all["quorum"].as_bool(), array(&all["start"]).len()), (Some(false), 0), "{all}");

    let index = cluster.index(&victim);
    cluster.nodes[index].off();
    cluster.replaced(&victim, Duration::from_secs(60));
    assert_eq!(places(&cluster), foretold(before, &told), "{told}");
    let status = cluster.any().ask(["status"]).data();
    assert_eq!(voters(&status["voters"]), voters(&told["voters"]["after"]));
    assert_eq!(status["can_lose"], told["can_lose"]);

    // The same with one that leaves, now that one is lost.
    let before = places(&cluster);
    let leaves = cluster.running().find(|node| node.name != cluster.leader()).unwrap().name.clone();
    let told = cluster.any().ask(["simulate", &format!("leave:{leaves}")]).data();
    let ran = cluster.node(&leaves).ask(["leave", "--yes"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    cluster.away.insert(leaves.clone());
    wait_for("it has left", Duration::from_secs(60), || {
        let members = cluster.any().ask(["members"]).try_data()?;
        let there = array(&members).iter().any(|row| row["name"] == leaves.as_str());
        if there { Err(members.to_string()) } else { Ok(()) }
    });
    assert_eq!(places(&cluster), foretold(before, &told), "{told}");
}

#[test]
fn what_is_no_event_is_refused_with_the_nearest_word() {
    let cluster = Cluster::start(1);
    for (event, code, says) in
        [("kill:n11", 9, "did you mean"), ("explode:n1", 2, "kill:NODE"), ("zone:aa", 9, "did you mean")]
    {
        let ran = cluster.nodes[0].ask(["simulate", event]);
        assert_eq!(ran.code, Some(code), "{event}: {}", ran.words());
        assert!(ran.words().contains(says), "{event}: {}", ran.words());
    }
}

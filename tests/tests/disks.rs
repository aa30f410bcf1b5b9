//! The data folder of a voter is put back from a copy: what it acknowledged since is not on it, and it must not vote with it.

use std::process::Command;
use std::time::Duration;

use hirsel_tests::cluster::{Cluster, array, sample};
use hirsel_tests::wait_for;

const SOON: Duration = Duration::from_secs(60);

#[test]
fn a_voter_put_back_from_a_copy_never_votes_joins_again_by_itself_and_nothing_confirmed_is_lost() {
    let mut cluster = Cluster::start(3);
    cluster.apply(&sample(2));
    wait_for("three vote", SOON, || {
        let status = cluster.any().ask(["status"]).try_data()?;
        if array(&status["voters"]).len() == 3 { Ok(()) } else { Err(status.to_string()) }
    });
    let leader = cluster.leader();
    let others: Vec<usize> = (0..3).filter(|index| cluster.nodes[*index].name != leader).collect();
    let (old, third) = (others[0], others[1]);
    let name = cluster.nodes[old].name.clone();
    let id_of = |cluster: &Cluster| {
        let members = cluster.node(&leader).ask(["members"]).try_data()?;
        let row = array(&members).iter().find(|row| row["name"] == *name).cloned();
        row.map(|row| row["id"].to_string()).ok_or(members.to_string())
    };
    let before = id_of(&cluster).unwrap();

    // Stopped, copied, started.
    let copy = cluster.folder.path().join("copy");
    let data = cluster.nodes[old].data.clone();
    cluster.nodes[old].off();
    assert!(Command::new("cp").arg("-a").arg(&data).arg(&copy).status().unwrap().success());
    cluster.nodes[old].start(None);
    cluster.whole();
    // What is confirmed from here on is on its disk and not on the copy.
    let tokens: Vec<String> = (0..5)
        .map(|_| cluster.node(&leader).ask(["token", "new", "--viewer"]).data()["id"].as_str().unwrap().to_string())
        .collect();
    assert_eq!(cluster.node(&leader).ask(["scale", "hello/web=3", "--wait"]).code, Some(0));
    let index = |node: usize| {
        let ran = cluster.nodes[node].ask(["status"]);
        let envelope: serde_json::Value = serde_json::from_str(ran.stdout.trim()).map_err(|error| error.to_string())?;
        envelope["index"].as_u64().ok_or(ran.words())
    };
    let leads = cluster.index(&leader);
    let (last, _) = wait_for("an index", SOON, || index(leads));
    wait_for("it has them too", SOON, || match index(old)? {
        has if has >= last => Ok(()),
        has => Err(format!("{has} of {last}")),
    });

    // With a third one away, its vote would make a majority; but it does not give it.
    for node in [old, third] {
        cluster.nodes[node].off();
    }
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&copy, &data).unwrap();
    cluster.nodes[old].start(None);
    let log = cluster.nodes[old].log();
    wait_for("it learns that its disk is old", SOON, || {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        said.contains("It does not vote with it").then_some(()).ok_or_else(|| "not said".to_string())
    });
    wait_for("one that votes is no majority", SOON, || {
        let status = cluster.node(&leader).ask(["status"]).try_data()?;
        if status["leader"].is_null() { Ok(()) } else { Err(status.to_string()) }
    });

    cluster.nodes[third].start(None);
    wait_for("it is another node", SOON, || {
        let now = id_of(&cluster)?;
        if now == before { Err(now) } else { Ok(()) }
    });
    cluster.whole();
    wait_for("three vote again", SOON, || {
        let status = cluster.any().ask(["status"]).try_data()?;
        if array(&status["voters"]).len() == 3 { Ok(()) } else { Err(status.to_string()) }
    });
    cluster.well(SOON);
    cluster.assert_declared_is_running("hello", " sample");
    let listed = cluster.nodes[old].ask(["token", "list"]).data().to_string();
    assert!(tokens.iter().all(|id| listed.contains(id)), "{tokens:?} in {listed}");
    assert_eq!(cluster.instances("hello").len(), 3);
    let events = cluster.any().ask(["events", "-n", "500"]).data().to_string();
    assert!(events.contains("joined again as a new node"), "{events}");
    assert!(std::path::Path::new(&format!("{}.aside-1/control.redb", data.display())).exists());
}

//! A cluster goes from one build to another, one node after the other, while it serves; and back, until the upgrade is ended.
//!
//! `HIRSEL_FORMER` names the executable of a build of the first feature level (`.ci/run full` makes one). Without it the nodes are
//! restarted onto the same build, which needs no less to go unnoticed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hirsel_tests::cluster::{Cluster, MESH_PORT, array, sample};
use hirsel_tests::executable::hirsel;
use hirsel_tests::load::Load;
use hirsel_tests::wait_for;

#[test]
fn a_cluster_goes_to_another_build_and_back_while_it_serves() {
    let former = std::env::var_os("HIRSEL_FORMER").map(PathBuf::from);
    let mut cluster = Cluster::new();
    cluster.executable = former.clone().unwrap_or_else(|| hirsel().into());
    for _ in 0..3 {
        cluster.add();
    }
    cluster.whole();
    cluster.apply(&sample(3));
    onto(&mut cluster, &[0, 1, 2], hirsel());
    let Some(former) = former else {
        let stands = cluster.any().ask(["upgrade"]);
        assert_eq!(stands.code, Some(0), "a new cluster has nothing to end: {}", stands.words());
        return;
    };

    // One goes back, which it still can, and then nobody can end the upgrade.
    wait_for("the upgrade can be ended", Duration::from_secs(20), || {
        let stands = cluster.nodes[0].ask(["upgrade"]);
        assert_eq!(stands.code, Some(4), "{}", stands.words());
        let data = stands.data();
        if data["level"] == 1 && data["ready"] == true { Ok(()) } else { Err(data.to_string()) }
    });
    onto(&mut cluster, &[2], &former);
    wait_for("n3 stands in the way", Duration::from_secs(20), || {
        let refused = cluster.nodes[0].ask(["upgrade", "--finish", "--yes"]);
        assert_eq!(refused.code, Some(6), "{}", refused.words());
        if refused.words().contains("n3 runs") { Ok(()) } else { Err(refused.words()) }
    });

    onto(&mut cluster, &[2], hirsel());
    wait_for("every node says what it understands", Duration::from_secs(20), || {
        let ended = cluster.nodes[0].ask(["upgrade", "--finish", "--yes"]);
        if ended.code == Some(0) { Ok(()) } else { Err(ended.words()) }
    });
    wait_for("the level rises everywhere", Duration::from_secs(20), || {
        let levels: Vec<_> = cluster.nodes.iter().map(|node| node.ask(["status"]).try_data()).collect();
        match levels.iter().all(|status| status.as_ref().is_ok_and(|status| status["level"] == 2)) {
            true => Ok(()),
            false => Err(format!("{levels:?}")),
        }
    });
    cluster.well(Duration::from_secs(30));

    // A newcomer of the older build is told so, and is no member.
    cluster.executable = former;
    let late = cluster.launch();
    let log = late.log();
    wait_for("the older build is refused", Duration::from_secs(40), || {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        if said.contains("the cluster runs at feature level 2") { Ok(()) } else { Err(said) }
    });
    cluster.nodes.pop().expect("the newcomer").off();
    assert_eq!(array(&cluster.any().ask(["members"]).data()).len(), 3);
}

/// Restarts the agents of these nodes on `executable`, one after another, under load through the others.
fn onto(cluster: &mut Cluster, nodes: &[usize], executable: &Path) {
    for index in nodes {
        let name = cluster.nodes[*index].name.clone();
        let before = cluster.nodes[*index].programs("sample");
        let targets = cluster.lbs().into_iter().filter(|(lb, _)| *lb != name).map(|(_, addr)| addr).collect();
        let (host, path) = ("any".into(), "/".into());
        let load = Load { targets, host, path, method: "GET", status: 200, rate: 1_000, connections: 48 };
        let running = load.start();
        let answered = |more: u64| {
            let enough = running.answered() + more;
            wait_for("the load goes on", Duration::from_secs(30), || {
                if running.answered() >= enough { Ok(()) } else { Err(format!("{} of {enough}", running.answered())) }
            });
        };
        answered(500);
        let node = &mut cluster.nodes[*index];
        node.stop_agent();
        assert_eq!(node.programs("sample"), before, "they run without the agent");
        node.executable = executable.into();
        node.start(None);
        cluster.whole();
        cluster.well(Duration::from_secs(30));
        assert_eq!(cluster.nodes[*index].programs("sample"), before, "the same processes");
        answered(500);
        let tally = running.end();
        let (at, onto) = (cluster.nodes[*index].addr(MESH_PORT), executable.display());
        eprintln!("{name} at {at} runs {onto}: {} requests, {} failed", tally.answered, tally.failures.len());
        tally.assert_sound(1_000);
    }
}

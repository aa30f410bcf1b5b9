//! A majority of the voters is lost for good: one command goes on with what is left, and the past does not mix with it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hirsel_tests::cli::Ran;
use hirsel_tests::cluster::{Cluster, MESH_PORT, array, sample};
use hirsel_tests::http::Connection;
use hirsel_tests::wait_for;
use serde_json::Value;

/// What people wait for. The promise is 10 s; a debug build on a shared machine gets as much again.
const SOON: Duration = Duration::from_secs(20);

const MANIFEST: &str = "app = \"rest\"\n[service.one]\ncommand = [\"/bin/sleep\", \"3600\"]\nreplicas = 2\n\
    [service.sole]\ncommand = [\"/bin/sleep\", \"3601\"]\nexclusive = true\n";

/// Whether one of these load balancers answers.
fn serves(lbs: &[(String, SocketAddr)]) -> Result<(), String> {
    let mut words = "no lb is left".to_string();
    for (name, at) in lbs {
        let asked = Connection::open(*at, Duration::from_secs(5)).and_then(|mut lb| lb.ask("GET", "any", "/", b""));
        match asked {
            Ok((answer, _)) if answer.status == 200 => return Ok(()),
            Ok((answer, _)) => words = format!("{name}: {}", answer.status),
            Err(error) => words = format!("{name}: {error}"),
        }
    }
    Err(words)
}

/// What a verb answered, whatever its exit status.
fn data(ran: &Ran) -> Value {
    let envelope: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.words()));
    envelope["data"].clone()
}

#[test]
fn two_of_three_voters_are_lost_at_once_and_what_is_left_goes_on() {
    let mut cluster = Cluster::start(4);
    cluster.apply(MANIFEST);
    cluster.apply(&sample(4));
    wait_for("three of four nodes to vote", SOON, || {
        let status = cluster.any().ask(["status"]).try_data()?;
        if array(&status["voters"]).len() == 3 { Ok(()) } else { Err(status.to_string()) }
    });
    let status = cluster.any().ask(["status"]).data();
    let voters: Vec<String> =
        array(&status["voters"]).iter().filter_map(|name| name.as_str().map(str::to_string)).collect();
    let (gone, stays) = ([voters[0].clone(), voters[1].clone()], voters[2].clone());
    let lost = gone.join(",");
    let lbs: Vec<_> = cluster.lbs().into_iter().filter(|(name, _)| !gone.contains(name)).collect();
    for name in &gone {
        let index = cluster.index(name);
        cluster.nodes[index].off();
    }
    let left = cluster.node(&stays);
    wait_for("the loss is noticed", SOON, || {
        let status = left.ask(["status"]).try_data()?;
        let says = status["because"].to_string().contains("hirsel recover --plan");
        if status["health"] == "no_leader" && says { Ok(()) } else { Err(status.to_string()) }
    });
    // What can be seen is seen, and what runs goes on.
    assert_eq!(array(&left.ask(["members"]).data()).len(), 4);
    assert_eq!(array(&left.ask(["apps"]).data()).len(), 2);
    wait_for("what is left serves", SOON, || serves(&lbs));
    let refused = left.ask(["token", "new"]);
    // Nobody knows what becomes of one that reached the last leader.
    assert!(matches!(refused.code, Some(5 | 7)), "{}", refused.words());

    let plan = left.ask(["recover", "--plan"]);
    assert_eq!(plan.code, Some(4), "{}", plan.words());
    let shown = data(&plan);
    assert_eq!((shown["from"].as_str(), shown["tag"].as_str()), (Some(&*stays), Some("0")), "{shown}");
    assert_eq!(array(&shown["survivors"]).iter().filter(|it| it["answers"] == true).count(), 2, "{shown}");
    let half = left.ask(["recover", "--lost", &gone[0], "--yes"]);
    assert_eq!(half.code, Some(6), "{}", half.words());
    assert!(half.words().contains(&format!("{} does not answer", gone[1])), "{}", half.words());

    let began = Instant::now();
    let done = left.ask(["recover", "--lost", &lost, "--yes"]);
    assert_eq!(done.code, Some(0), "{}", done.words());
    let tag = data(&done)["new_tag"].as_str().unwrap_or_default().to_string();
    assert!(tag.starts_with("1-"), "{}", done.words());
    let token = left.token();
    eprintln!("recovered: the next change was accepted after {:?}", began.elapsed());
    assert!(began.elapsed() < SOON);
    wait_for("all runs on what is left", SOON, || {
        let rows = left.ask(["ps", "rest"]).try_data()?;
        let well = array(&rows)
            .iter()
            .filter(|row| !gone.iter().any(|name| row["node"] == **name) && row["healthy"] == true)
            .count();
        if well == 2 { Ok(()) } else { Err(rows.to_string()) }
    });

    // What is exclusive may run on where nobody sees it, for all anybody here knows.
    let status = left.ask(["status"]).data();
    assert!(status["because"].to_string().contains("when they are off: hirsel recover --off"), "{status}");
    let confirmed = left.ask(["recover", "--off", "--yes"]);
    assert_eq!(confirmed.code, Some(0), "{}", confirmed.words());
    wait_for("what is exclusive runs on what is left", SOON, || {
        let rows = left.ask(["ps", "rest"]).try_data()?;
        let well = array(&rows)
            .iter()
            .filter(|row| !gone.iter().any(|name| row["node"] == **name) && row["healthy"] == true)
            .count();
        if well == 3 { Ok(()) } else { Err(rows.to_string()) }
    });
    assert_eq!(left.ask(["recover", "--off", "--yes"]).code, Some(9), "nobody is left to say it of");

    wait_for("the other one that is left to vote with it", SOON, || {
        let status = left.ask(["status"]).try_data()?;
        if array(&status["voters"]).len() == 2 { Ok(()) } else { Err(status.to_string()) }
    });

    // Both that were given up come back: they are a majority of the past, and of nothing else.
    for name in &gone {
        let index = cluster.index(name);
        cluster.nodes[index].start(None);
    }
    wait_for("the past to learn of the present", Duration::from_secs(60), || {
        let said = std::fs::read_to_string(cluster.node(&gone[0]).log()).unwrap_or_default();
        let line =
            said.lines().find(|line| line.contains(&tag) && line.contains("tag 0") && line.contains("hirsel join"));
        line.map(drop).ok_or("it says nothing".into())
    });
    let members = cluster.node(&stays).ask(["members"]).data();
    assert_eq!(array(&members).len(), 2, "{members}");

    // One of them joins again on request, as a new node on its old folder. What was its own is put aside.
    let (index, seed) = (cluster.index(&gone[0]), cluster.node(&stays).addr(MESH_PORT).to_string());
    cluster.nodes[index].off();
    cluster.nodes[index].start(Some((&seed, &token)));
    let aside = format!("{}.aside-1/control.redb", cluster.nodes[index].data.display());
    assert!(std::path::Path::new(&aside).exists(), "{aside}");
    wait_for("it to vote again", SOON, || {
        let status = cluster.node(&stays).ask(["status"]).try_data()?;
        if array(&status["voters"]).len() == 3 { Ok(()) } else { Err(status.to_string()) }
    });
}

#[test]
fn objects_outlive_a_majority_of_those_that_had_their_metadata() {
    let mut cluster = Cluster::start(5);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    wait_for("a bucket can be made", Duration::from_secs(90), || {
        match cluster.any().ask(["bucket", "create", "media"]) {
            ran if ran.code == Some(0) => Ok(()),
            ran => Err(ran.words()),
        }
    });
    wait_for("all five to vote over the metadata", Duration::from_secs(60), || {
        let status = cluster.any().ask(["status"]).try_data()?;
        match array(&status["storage"]["voters"]).len() {
            5 if status["storage"]["buckets"] == 1 => Ok(()),
            _ => Err(status["storage"].to_string()),
        }
    });
    std::fs::write(path("note"), "kept").unwrap();
    let ran = cluster.any().ask(["cp", &path("note"), "media/note"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());

    let gone: Vec<String> = cluster.nodes[..3]
        .iter_mut()
        .map(|node| {
            node.off();
            node.name.clone()
        })
        .collect();
    let (lost, left) = (gone.join(","), &cluster.nodes[4]);
    wait_for("those who are left to say what they have", Duration::from_secs(60), || {
        let status = left.ask(["status"]).try_data()?;
        let said = status["because"].to_string().contains("nobody leads the metadata of objects");
        if said && status["health"] == "no_leader" { Ok(()) } else { Err(status["because"].to_string()) }
    });
    assert_ne!(left.ask(["cp", "media/note", &path("no")]).code, Some(0), "nobody knows whether it is the newest");
    wait_for("all that is left to be known", SOON, || {
        let shown = data(&left.ask(["recover", "--plan", "--lost", &lost]));
        let words = shown["objects"].as_str().unwrap_or_default();
        if words.contains("they go on with what") { Ok(()) } else { Err(shown.to_string()) }
    });

    let done = left.ask(["recover", "--lost", &lost, "--yes"]);
    assert_eq!(done.code, Some(0), "{}", done.words());
    wait_for("what was stored to be read", Duration::from_secs(60), || {
        let ran = left.ask(["cp", "media/note", &path("back")]);
        if ran.code == Some(0) { Ok(()) } else { Err(ran.words()) }
    });
    assert_eq!(std::fs::read(path("back")).unwrap(), b"kept");
    wait_for("more to be taken", SOON, || {
        let ran = cluster.nodes[3].ask(["cp", &path("back"), "media/more"]);
        if ran.code == Some(0) { Ok(()) } else { Err(ran.words()) }
    });
    let said = left.ask(["events", "-n", "500"]).data().to_string();
    assert!(said.contains("the metadata of objects lost their majority for good"), "{said}");
}

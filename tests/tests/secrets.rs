//! Secrets with real processes: what a program is told, what is rolled out, what goes on without a leader, and that no value is to be
//! found anywhere but in the environment of the program it is for.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hirsel_tests::cli::Ran;
use hirsel_tests::cluster::{Cluster, MESH_PORT, Node, array, sample};
use hirsel_tests::executable::hirsel;
use hirsel_tests::load::Load;
use hirsel_tests::{lacks, told, wait_for};
use rustix::process::Signal;

const SOON: Duration = Duration::from_secs(60);
fn manifest(cluster: &Cluster, replicas: usize) -> String {
    told::manifest(cluster.folder.path(), replicas)
}

/// `secret set` with the value in a file outside of every node's folder.
fn set(node: &Node, value: &str, words: &[&str]) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("value");
    std::fs::write(&file, format!("{value}\n")).unwrap();
    let file = file.display().to_string();
    node.ask(["secret", "set", "key", "--file", &file].iter().chain(words))
}

/// Nothing on any disk holds any of `values`: neither the data folders nor the logs of the agents.
fn assert_hidden(cluster: &Cluster, values: &[&str]) {
    for value in values {
        let ran = Command::new("grep").args(["-r", "-a", "-l", value]).arg(cluster.folder.path()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&ran.stdout), "", "{value} is on a disk");
    }
    for node in cluster.running() {
        let asked = [
            &["secret", "list"][..],
            &["status"],
            &["apps"],
            &["ps", "shop", "--all"],
            &["events", "-n", "500"],
            &["why", "shop/web"],
            &["logs", "shop"],
            &["simulate", "kill:n1"],
        ];
        let mut answers: Vec<String> = asked.iter().map(|words| node.ask(*words).words()).collect();
        answers.push(command_lines());
        for (answer, value) in answers.iter().flat_map(|answer| values.iter().map(move |value| (answer, value))) {
            assert!(!answer.contains(value), "{value} in {answer}");
        }
    }
}

/// The command line of every process of this host.
fn command_lines() -> String {
    let read = |entry: std::fs::DirEntry| std::fs::read(Path::new(&entry.path()).join("cmdline")).ok();
    let all = std::fs::read_dir("/proc").unwrap().flatten().filter_map(read);
    all.map(|line| String::from_utf8_lossy(&line).into_owned()).collect()
}

#[test]
fn a_program_is_told_its_secret_and_nobody_else_is() {
    let python = Command::new("python3").arg("--version").output();
    if lacks("python3", python.is_ok_and(|python| python.status.success())) {
        return;
    }
    let mut cluster = Cluster::start(4);
    let (first, second, own) = ("first-4f1c9e", "second-8a2b7d", "own-77d0aa");
    let path = cluster.folder.path().join("shop.toml");
    std::fs::write(&path, manifest(&cluster, 4)).unwrap();
    let file = path.display().to_string();

    // What is not set is refused in its place, with the command that helps.
    for verb in ["plan", "apply"] {
        let ran = cluster.nodes[1].ask([verb, &file]);
        assert_eq!(ran.code, Some(2), "{}", ran.words());
        let error = ran.error();
        assert!(error["evidence"][0].as_str().unwrap().contains("shop.toml:6:15: "), "{error}");
        assert_eq!(error["next"][0], "hirsel secret set key", "{error}");
    }
    assert_eq!(cluster.nodes[3].ask(["secret", "rm", "kye", "--yes"]).code, Some(9));

    // Set through a node that does not hold the key, too.
    let holders = cluster.any().ask(["status"]).data()["voters"].clone();
    let outside = cluster.nodes.iter().find(|node| !holders.to_string().contains(&format!("{:?}", node.name)));
    let ran = set(outside.unwrap_or(&cluster.nodes[3]), first, &[]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    wait_for("the application is accepted", SOON, || {
        let ran = cluster.nodes[1].ask(["apply", &file]);
        if ran.code == Some(0) { Ok(()) } else { Err(ran.words()) }
    });
    cluster.well(SOON);
    told::everywhere(&cluster, &format!("key={first}"));
    let same = set(&cluster.nodes[0], first, &[]);
    assert!(same.data()["did"].as_str().unwrap().contains("has this value already"), "{}", same.words());

    // A new value is rolled out; one of the application comes before it.
    let ran = set(&cluster.nodes[0], second, &["--wait"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    told::everywhere(&cluster, &format!("key={second}"));
    let why = cluster.any().ask(["why", "shop/web"]).data().to_string();
    assert!(why.contains("gets the new value of secret key"), "{why}");
    assert_eq!(set(&cluster.nodes[1], own, &["--app", "shop", "--wait"]).code, Some(0));
    told::everywhere(&cluster, &format!("key={own}"));
    let listed = cluster.any().ask(["secret", "list"]).data();
    assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed}");
    assert_eq!((&listed[0]["app"], &listed[1]["app"]), (&serde_json::Value::Null, &"shop".into()));
    assert_eq!(listed[1]["used_by"][0], "shop/web");
    assert_eq!(cluster.any().ask(["secret", "rm", "key", "--app", "shop", "--yes", "--wait"]).code, Some(0));
    told::everywhere(&cluster, &format!("key={second}"));
    let ran = cluster.any().ask(["secret", "rm", "key", "--yes"]);
    assert_eq!(ran.code, Some(6), "{}", ran.words());
    assert_hidden(&cluster, &[first, second, own]);

    // Another sealing key: nothing is lost, and nobody notices.
    let ran = cluster.any().ask(["secret", "rotate", "--wait"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    assert_eq!(cluster.any().ask(["restart", "shop", "--wait"]).code, Some(0));
    told::everywhere(&cluster, &format!("key={second}"));

    // Only one node is left, and there is no leader: its instance starts again all the same, also after its agent did.
    for name in ["n1", "n2", "n3"] {
        let index = cluster.index(name);
        cluster.nodes[index].off();
    }
    let kill_program = |node: &Node, signal| {
        let programs = node.programs("told.py");
        assert_eq!(programs.len(), 1, "{programs:?}");
        hirsel_tests::power::signal(programs[0], signal);
        programs[0]
    };
    for restarted in [false, true] {
        if restarted {
            cluster.nodes[3].kill_agent();
            cluster.nodes[3].start(None);
        }
        let node = &cluster.nodes[3];
        let before = kill_program(node, Signal::KILL);
        wait_for("it runs again", SOON, || match node.programs("told.py").as_slice() {
            [program] if *program != before => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    let node = &cluster.nodes[3];
    wait_for("it answers", SOON, || {
        let rows = node.ask(["ps", "shop"]).try_data()?;
        let own = array(&rows).iter().find(|row| row["node"] == "n4").ok_or_else(|| rows.to_string())?;
        let at = own["addr"].as_str().and_then(|addr| addr.parse().ok()).ok_or_else(|| own.to_string())?;
        let answer = told::told(at)?;
        if answer == format!("key={second}") { Ok(()) } else { Err(answer) }
    });
    assert_hidden(&cluster, &[first, second, own]);
}

#[test]
fn a_value_is_taken_from_standard_input_and_from_no_argument() {
    let cluster = Cluster::start(1);
    let pipe = |text: &str, words: &str| {
        let data = cluster.nodes[0].data.display();
        let line = format!("printf '{text}' | {} secret set key --data {data} {words}", hirsel().display());
        let mut command = Command::new("sh");
        command.args(["-c", &line]).current_dir("/");
        hirsel_tests::cli::run(command)
    };
    let ran = pipe("one\\n", "");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "set secret key\n"), "{}", ran.words());
    assert!(pipe("one", "").stdout.contains("has this value already"));
    assert_eq!(pipe("", "").code, Some(2));
    assert_eq!(pipe("one", "two").code, Some(2), "there is no such argument");
    let ran = pipe("x\\n", "--app Shop");
    assert_eq!(ran.code, Some(2), "{}", ran.words());
    let ran = cluster.nodes[0].ask(["secret", "rm", "key", "--yes"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
}

#[test]
fn users_of_a_route_come_in_with_the_newest_value_of_its_secret_and_no_program_is_restarted() {
    let curl = Command::new("curl").arg("--version").output();
    if lacks("curl", curl.is_ok_and(|curl| curl.status.success())) {
        return;
    }
    let cluster = Cluster::start(3);
    let (first, second) = ("first-0b5d11", "second-c96e2f");
    assert_eq!(set(&cluster.nodes[0], first, &[]).code, Some(0));
    let staff = "[route.\"staff.test\"]\nto = \"web\"\nbasic_auth = { users = { anna = \"${secret.key}\" } }\n";
    wait_for("the application is accepted", SOON, || {
        let ran = cluster.apply_only(&format!("{}{staff}", sample(2)));
        if ran.code == Some(0) { Ok(()) } else { Err(ran.words()) }
    });
    cluster.well(SOON);
    let status = |at: SocketAddr, password: &str| {
        let (user, url) = (format!("anna:{password}"), format!("http://{at}/"));
        let mut curl = Command::new("curl");
        curl.args([
            "-sS",
            "-m",
            "5",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-H",
            "Host: staff.test",
            "-u",
            &user,
            &url,
        ]);
        String::from_utf8_lossy(&curl.output().unwrap().stdout).into_owned()
    };
    let admit_only = |password: &str, other: &str| {
        for (name, at) in cluster.lbs() {
            wait_for(&format!("{name} asks for the newest password"), SOON, || {
                let statuses = (status(at, password), status(at, other));
                if statuses == ("200".into(), "401".into()) { Ok(()) } else { Err(format!("{statuses:?}")) }
            });
        }
    };
    admit_only(first, second);
    let before = (cluster.instances("hello"), cluster.any().ask(["apps"]).data()[0]["revision"].clone());
    assert_eq!(set(&cluster.nodes[0], second, &["--wait"]).code, Some(0));
    admit_only(second, first);
    let after = (cluster.instances("hello"), cluster.any().ask(["apps"]).data()[0]["revision"].clone());
    assert_eq!(before, after);
    let listed = cluster.any().ask(["secret", "list"]).data();
    assert_eq!(listed[0]["used_by"][0], "hello, route staff.test/");
}

#[test]
fn the_authority_and_secrets_are_replaced_and_no_request_and_nobody_is_turned_away() {
    let mut cluster = Cluster::start(4);
    assert_eq!(set(&cluster.nodes[0], "before", &[]).code, Some(0));
    cluster.apply(&sample(3).replace("health =", "env = { KEY = \"${secret.key}\" }\nhealth ="));
    let home = tempfile::tempdir().unwrap();
    let person = |words: &[&str]| {
        let mut command = Command::new(hirsel());
        command.args(words).arg("--json").current_dir(home.path()).env("XDG_CONFIG_HOME", home.path());
        hirsel_tests::cli::run(command)
    };
    let word = cluster.nodes[0].ask(["token", "new", "--viewer"]).data()["token"].as_str().unwrap().to_owned();
    let at = cluster.nodes[0].addr(MESH_PORT).to_string();
    assert_eq!(person(&["login", &at, "--token", &word]).code, Some(0));
    let logins = || std::fs::read_to_string(home.path().join("hirsel/logins.json")).unwrap();
    assert!(!logins().contains("authority"));

    // One is away meanwhile.
    cluster.nodes[3].off();
    cluster.replaced("n4", SOON);
    let before = cluster.any().ask(["cert", "list"]).data();
    let load = Load {
        targets: cluster.lbs().into_iter().map(|(_, at)| at).collect(),
        host: "shop.example.com".into(),
        path: "/".into(),
        method: "GET",
        status: 200,
        rate: 1_000,
        connections: 48,
    };
    let load = load.start();
    // A value, which restarts every instance; the key that seals all values; the authority.
    for ran in [
        set(cluster.any(), "after", &["--wait"]),
        cluster.any().ask(["secret", "rotate", "--wait"]),
        cluster.any().ask(["cert", "rotate", "--wait"]),
    ] {
        assert_eq!(ran.code, Some(0), "{}", ran.words());
    }
    let after = cluster.any().ask(["cert", "list"]).data();
    assert_ne!(before["authorities"][0]["fingerprint"], after["authorities"][0]["fingerprint"]);
    assert_eq!(after["authorities"][1]["fingerprint"], before["authorities"][0]["fingerprint"]);
    assert_eq!(after["authorities"][1]["state"], "dropped");
    // The leader has heard of all certificates by then; whoever answers may hear of the last one a moment later.
    wait_for("all that are here are certified by the new authority", SOON, || {
        let nodes = cluster.any().ask(["cert", "list"]).try_data()?["nodes"].clone();
        let well = array(&nodes).iter().all(|node| node["node"] == "n4" || node["state"] == "ok");
        if well { Ok(()) } else { Err(nodes.to_string()) }
    });
    let tally = load.end();
    eprintln!("{} requests, {} failed, the longest took {:?}", tally.answered, tally.failures.len(), tally.slowest);
    tally.assert_sound(1_000);
    // Whoever pinned the former authority goes on, and pins the new one.
    assert_eq!(array(&person(&["members", "--node", &at]).data()).len(), 4);
    let present = after["authorities"][0]["fingerprint"].as_str().unwrap().to_owned();
    assert!(logins().contains(&present), "{}", logins());
    assert_eq!(person(&["members", "--node", &at]).code, Some(0));

    // The one that was away comes back and is certified anew; the token that let the others in, of before the change, is good still.
    cluster.nodes[3].start(None);
    cluster.add();
    cluster.whole();
    wait_for("all are certified by the new authority", SOON, || {
        let ran = cluster.any().ask(["cert", "list"]);
        let nodes = ran.try_data()?["nodes"].clone();
        if ran.code == Some(0) && array(&nodes).len() == 5 { Ok(()) } else { Err(nodes.to_string()) }
    });
    // What was kept is read again.
    cluster.nodes[1].kill_agent();
    cluster.nodes[1].start(None);
    cluster.whole();
    let again = cluster.any().ask(["cert", "rotate", "--wait"]);
    assert_eq!(again.code, Some(0), "{}", again.words());
    assert_eq!(person(&["members", "--node", &at]).code, Some(0));
    assert!(cluster.any().ask(["doctor"]).data().to_string().contains("\"certificate\""));
}

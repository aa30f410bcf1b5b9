//! People at a distance: they log in over HTTPS, look and change with what their token allows, and are told what to do when it allows
//! nothing. And the output of instances, which is read through any node.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use hirsel_tests::cli::{self, Ran};
use hirsel_tests::cluster::{Cluster, MESH_PORT, sample};
use hirsel_tests::executable::hirsel;
use hirsel_tests::wait_for;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

/// A person with a home of their own, on no host of the cluster.
struct Person {
    home: tempfile::TempDir,
}

impl Person {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    fn asks(&self, words: &[&str]) -> Ran {
        let mut command = Command::new(hirsel());
        command.args(words).arg("--json").current_dir(self.home.path()).env("XDG_CONFIG_HOME", self.home.path());
        cli::run(command)
    }

    fn logs_in(&self, at: &str, token: &str) -> Ran {
        // A node that did not give it out hears of a token a moment later.
        let (ran, _) = wait_for("the node knows the token", SOON, || {
            let ran = self.asks(&["login", at, "--token", token]);
            if ran.words().contains("does not know the token") { Err(ran.words()) } else { Ok(ran) }
        });
        ran
    }
}

fn token(cluster: &Cluster, words: &[&str]) -> (String, String) {
    let made = cluster.nodes[0].ask(["token", "new"].iter().chain(words)).data();
    let text = |key: &str| made[key].as_str().unwrap_or_else(|| panic!("no {key} in {made}")).to_string();
    (text("id"), text("token"))
}

/// A refusal: its exit status, and words that its message and its next commands must hold.
fn refused(ran: &Ran, exit: i32, words: &[&str], next: &str) {
    assert_eq!(ran.code, Some(exit), "{ran:?}");
    let error = ran.error();
    let message = error["message"].as_str().unwrap_or_default();
    for word in words {
        assert!(message.contains(word), "should say {word:?}: {error}");
    }
    let commands: Vec<&str> = error["next"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert!(commands.iter().any(|command| command.contains(next)), "should name {next:?}: {error}");
}

#[test]
fn a_person_logs_in_from_elsewhere_and_does_what_the_token_allows() {
    let cluster = Cluster::start(3);
    cluster.apply(&sample(2));
    let [first, second, third] = [0, 1, 2].map(|index: usize| cluster.nodes[index].addr(MESH_PORT).to_string());

    let viewer = Person::new();
    refused(&viewer.asks(&["members", "--node", &second]), 8, &["no token"], "hirsel login");
    assert_eq!(viewer.asks(&["login", &second, "--token", "swordfish"]).code, Some(2));
    let (viewer_id, word) = token(&cluster, &["--viewer"]);
    let told = viewer.logs_in(&second, &word).data();
    let file = told["file"].as_str().unwrap_or_else(|| panic!("{told}"));
    assert!(Path::new(file).starts_with(viewer.home.path()));
    // The token is good on every node, though only one was logged in to.
    for node in [&first, &second, &third] {
        let members = viewer.asks(&["members", "--node", node]).data();
        assert_eq!(members.as_array().map(Vec::len), Some(3), "{members}");
    }
    assert_eq!(viewer.asks(&["apps", "--node", &third]).data()[0]["app"], "hello");
    let write = ["scale", "hello/web=3", "--node", &third];
    refused(&viewer.asks(&write), 8, &["operator", "viewer"], "hirsel token new --operator");
    // What only a node may say, a person may not.
    let (_, joining) = token(&cluster, &[]);
    refused(&Person::new().logs_in(&second, &joining), 8, &["join"], "hirsel token new --viewer");

    let operator = Person::new();
    let (_, word) = token(&cluster, &["--operator"]);
    assert_eq!(operator.logs_in(&third, &word).code, Some(0));
    let scaled = operator.asks(&["scale", "hello/web=3", "--node", &third, "--wait"]);
    assert_eq!(scaled.code, Some(0), "{scaled:?}");
    assert_eq!(cluster.instances("hello").len(), 3);
    refused(&operator.asks(&["token", "list", "--node", &third]), 8, &["admin"], "hirsel token new --admin");

    // Revoked, it is refused by name everywhere, as soon as the node knows.
    assert_eq!(cluster.nodes[0].ask(["token", "revoke", &viewer_id, "--wait"]).code, Some(0));
    let (gone, _) = wait_for("the token is refused", SOON, || {
        let ran = viewer.asks(&["status", "--node", &second]);
        if ran.code == Some(8) { Ok(ran) } else { Err(format!("{ran:?}")) }
    });
    refused(&gone, 8, &["revoked", &viewer_id], "hirsel token new");
}

#[test]
fn a_token_of_a_short_life_is_refused_by_name_when_it_is_over() {
    let cluster = Cluster::start(1);
    let at = cluster.nodes[0].addr(MESH_PORT).to_string();
    let person = Person::new();
    let (id, word) = token(&cluster, &["--viewer", "--ttl", "3s"]);
    let (over, _) = wait_for("the token expires", SOON, || {
        let ran = person.logs_in(&at, &word);
        if ran.code == Some(0) { Err("it is still good".into()) } else { Ok(ran) }
    });
    refused(&over, 8, &["expired", &id], "hirsel token new");
    // One that lets nodes in, too.
    let (_, joining) = token(&cluster, &["--ttl", "1s"]);
    let folder = tempfile::tempdir().unwrap();
    let list = || cluster.nodes[0].ask(["token", "list"]).data();
    wait_for("the join token expires", SOON, || {
        let all = list();
        let states: Vec<&Value> = all.as_array().into_iter().flatten().map(|row| &row["state"]).collect();
        if states.iter().filter(|state| **state == "expired").count() == 2 { Ok(()) } else { Err(all.to_string()) }
    });
    let mut new = cluster.nodes[0].words(Some((&at, &joining)));
    let position = new.iter().position(|word| word == "--data").unwrap();
    new[position + 1] = folder.path().display().to_string();
    let ran = cli::hirsel(&new);
    assert_ne!(ran.code, Some(0));
    assert!(ran.words().contains("expired") && ran.words().contains("hirsel token new"), "{ran:?}");
}

#[test]
fn another_cluster_is_not_believed() {
    let (cluster, other) = (Cluster::start(1), Cluster::start(1));
    let (_, word) = token(&other, &["--admin"]);
    let at = cluster.nodes[0].addr(MESH_PORT).to_string();
    let ran = Person::new().asks(&["login", &at, "--token", &word]);
    assert!(ran.code.is_some_and(|code| code != 0), "{ran:?}");
    let said = ran.error()["message"].to_string();
    assert!(said.contains("cluster"), "{said}");
}

/// Lines of a verb that goes on until it is dropped.
struct Follower {
    child: std::process::Child,
    lines: mpsc::Receiver<String>,
}

impl Follower {
    fn start(data: &Path, words: &[&str]) -> Self {
        let mut command = Command::new(hirsel());
        command.args(words).arg("--json").arg("--data").arg(data).current_dir("/");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (tx, lines) = mpsc::channel();
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| tx.send(line)));
        Self { child, lines }
    }

    /// The data of the next line that `fits`.
    fn next(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let began = std::time::Instant::now();
        while began.elapsed() < SOON {
            let Ok(line) = self.lines.recv_timeout(SOON) else { break };
            let envelope: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            assert_eq!(envelope["api"], 1, "each line is an envelope: {line}");
            if fits(&envelope["data"]) {
                return envelope["data"].clone();
            }
        }
        panic!("{what}: no such line within {SOON:?}");
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn output_of_instances_on_other_nodes_is_read_and_followed_through_any_node() {
    let cluster = Cluster::start(3);
    let gate = cluster.folder.path().join("gate");
    // Says one thing at once, and another when the test opens the gate.
    let script = format!(
        "echo first on $HIRSEL_NODE_NAME; echo a complaint >&2; until [ -e {0} ]; do sleep 0.2; done; \
         echo second on $HIRSEL_NODE_NAME; exec sleep 100000",
        gate.display()
    );
    cluster.apply(&format!("app = \"talk\"\n[service.say]\ncommand = [\"sh\", \"-c\", {script:?}]\nreplicas = 3\n"));
    let asked = &cluster.nodes[0];
    let on: Vec<String> = cluster.instances("talk").into_iter().map(|(_, node)| node).collect();
    assert!(on.iter().any(|node| *node != asked.name), "{on:?}");

    let (lines, _) = wait_for("every instance's first words", SOON, || {
        let ran = asked.ask(["logs", "talk"]);
        let lines = ran.try_data()?.as_array().cloned().unwrap_or_default();
        let said = |node: &String| lines.iter().any(|line| line["text"] == format!("first on {node}"));
        if on.iter().all(said) { Ok(lines) } else { Err(format!("{lines:?}")) }
    });
    for line in &lines {
        let text = |key: &str| line[key].as_str().unwrap_or_else(|| panic!("no {key} in {line}")).to_string();
        let place = cluster.instances("talk").into_iter().find(|(id, _)| *id == text("instance"));
        assert_eq!(place.map(|(_, node)| node), Some(text("node")), "{line}");
        assert!(text("at").ends_with('Z') && ["out", "err"].contains(&text("stream").as_str()), "{line}");
    }
    assert!(lines.iter().any(|line| line["stream"] == "err" && line["text"] == "a complaint"), "{lines:?}");

    let follower = Follower::start(&asked.data, &["logs", "talk/say", "-f"]);
    follower
        .next("what was said before", |line| line["text"].as_str().is_some_and(|text| text.starts_with("first on")));
    std::fs::write(&gate, "").unwrap();
    let elsewhere = on.iter().find(|node| **node != asked.name).unwrap();
    let line = follower.next("what is said meanwhile", |line| line["text"] == format!("second on {elsewhere}"));
    assert_eq!(line["node"], elsewhere.as_str());
    let nothing = asked.ask(["logs", "talc"]);
    refused(&nothing, 9, &["talc", "talk"], "hirsel apps");
}

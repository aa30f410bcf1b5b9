//! What scripts rely on: the fields of each verb's JSON, and the exit status of each way to end.

use std::collections::BTreeSet;
use std::time::Duration;

use hirsel_tests::cli::Ran;
use hirsel_tests::cluster::{Cluster, array, sample};
use hirsel_tests::wait_for;
use serde_json::Value;

fn has(value: &Value, fields: &[&str]) {
    for field in fields {
        assert!(value.get(field).is_some(), "no {field:?} in {value}");
    }
}

/// A read that answers: one envelope on one line.
fn read(ran: &Ran, codes: &[i32]) -> Value {
    assert!(ran.code.is_some_and(|code| codes.contains(&code)), "{ran:?}");
    assert_eq!(ran.stdout.trim_end().lines().count(), 1, "one line: {ran:?}");
    let envelope: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    has(&envelope, &["cluster", "node", "index", "stale_ms", "data", "warnings"]);
    assert_eq!(envelope["api"], 1);
    envelope["data"].clone()
}

/// A refusal in JSON on standard error, with this exit status and code.
fn refused(ran: &Ran, exit: i32, code: &str) {
    assert_eq!(ran.code, Some(exit), "{ran:?}");
    assert_eq!(ran.stdout, "", "nothing on standard output");
    let error = ran.error();
    has(&error, &["code", "message", "evidence", "next"]);
    assert_eq!(error["code"], code, "{error}");
    assert!(!array(&error["next"]).is_empty() || code == "usage", "it names the next command: {error}");
}

fn is_one_of(value: &Value, words: &[&str]) {
    assert!(value.as_str().is_some_and(|word| words.contains(&word)), "{value} is none of {words:?}");
}

#[test]
fn every_answer_has_the_fields_that_scripts_rely_on() {
    let cluster = Cluster::start(3);
    cluster.apply(&sample(2));
    cluster.whole();
    let node = &cluster.nodes[1];
    let names: BTreeSet<&str> = cluster.nodes.iter().map(|node| node.name.as_str()).collect();
    let named = |value: &Value| assert!(value.as_str().is_some_and(|name| names.contains(name)), "{value} is no node");

    // What the others say of themselves reaches each node by gossip, a moment after it is so.
    let (status, _) = wait_for("this node hears that all is well", Duration::from_secs(20), || {
        let ran = node.ask(["status"]);
        if ran.code == Some(0) { Ok(read(&ran, &[0])) } else { Err(ran.words()) }
    });
    has(&status, &["health", "leader", "term", "voters", "nodes", "can_lose", "roles", "apps", "last_incident"]);
    has(&status["nodes"], &["alive", "suspect", "down"]);
    has(&status["can_lose"], &["nodes", "zones"]);
    named(&status["leader"]);
    array(&status["voters"]).iter().for_each(named);

    for member in array(&read(&node.ask(["members"]), &[0])) {
        has(member, &["id", "name", "addr", "zone", "site", "liveness", "roles", "raft", "version", "incarnation"]);
        has(member, &["load", "seen_ms", "note"]);
        is_one_of(&member["liveness"], &["alive", "suspect", "unfit", "down"]);
        is_one_of(&member["raft"], &["leader", "voter", "spare", "none"]);
        assert!(member["id"].is_u64());
    }
    let roles = read(&node.ask(["roles"]), &[0]);
    for slot in array(&roles) {
        has(slot, &["role", "slot", "node", "duty", "state", "because", "generation", "since_ms"]);
        is_one_of(&slot["duty"], &["primary", "replica", "holder", "standby"]);
        is_one_of(&slot["state"], &["stopped", "starting", "running", "degraded", "failed"]);
        named(&slot["node"]);
    }
    let apps = read(&node.ask(["apps"]), &[0]);
    has(&apps[0], &["app", "revision", "services", "endpoints", "health"]);
    has(&apps[0]["services"][0], &["service", "wanted", "healthy", "image_or_artifact"]);
    let listed = read(&node.ask(["ps", "hello"]), &[0]);
    for instance in array(&listed) {
        has(instance, &["instance", "service", "node", "addr", "state", "healthy", "restarts", "revision", "because"]);
        has(instance, &["since_ms"]);
        named(&instance["node"]);
        let addr = instance["addr"].as_str().unwrap_or_default();
        assert!(addr.parse::<std::net::SocketAddr>().is_ok(), "{instance}");
    }

    let events = read(&node.ask(["events", "-n", "1000"]), &[0]);
    let mut last = 0;
    for event in array(&events) {
        has(event, &["index", "at", "kind", "subject", "message", "cause_index", "incident"]);
        is_one_of(&event["kind"], &["happened", "decided", "done", "verified"]);
        let (index, cause) = (event["index"].as_u64().unwrap_or(0), event["cause_index"].as_u64());
        assert!(index > last && cause.is_none_or(|cause| cause < index), "{event}");
        last = index;
    }
    let after = read(&node.ask(["events", "--after", &(last - 1).to_string()]), &[0]);
    assert!(array(&after).iter().all(|event| event["index"].as_u64() >= Some(last)), "{after}");

    let instance = listed[0]["instance"].as_str().unwrap_or_default().to_string();
    for thing in ["n2", "lb/0", "role/lb/0", "hello", "hello/web", &instance, "voters", "can_lose"] {
        let why = read(&node.ask(["why", thing]), &[0]);
        has(&why, &["subject", "since", "because", "chosen", "rejected", "undo"]);
        for link in array(&why["because"]) {
            has(link, &["event_index", "text"]);
        }
        for rejected in array(&why["rejected"]) {
            has(rejected, &["node", "reason"]);
        }
        assert!(!array(&why["because"]).is_empty(), "why {thing} says nothing: {why}");
    }
}

#[test]
fn every_way_to_end_has_its_exit_status() {
    let mut cluster = Cluster::start(2);
    cluster.apply(&sample(1));
    cluster.whole();
    let file = cluster.folder.path().join("hello.toml");
    let file = file.to_str().unwrap();
    std::fs::write(file, sample(1)).unwrap();
    let node = &cluster.nodes[0];

    // Nothing would change; something would.
    let same = read(&node.ask(["plan", file]), &[0]);
    assert_eq!(same["changes"], false, "{same}");
    std::fs::write(file, sample(2)).unwrap();
    let more = read(&node.ask(["plan", file]), &[4]);
    assert_eq!((more["changes"].as_bool(), array(&more["start"]).len()), (Some(true), 1), "{more}");
    read(&node.ask(["apply", file, "--plan"]), &[4]);
    assert_eq!(cluster.instances("hello").len(), 1, "showing changes nothing");
    // Done, with what was done and how to undo it.
    let done = read(&node.ask(["apply", file, "--wait", "--timeout", "90s"]), &[0]);
    has(&done, &["did", "undo", "index"]);
    assert_eq!(cluster.instances("hello").len(), 2);

    for words in [
        &["why", "nothing"][..],
        &["ps", "helo"],
        &["scale", "helo/web=3"],
        &["cordon", "n9"],
        &["token", "revoke", "nobody"],
        &["rm", "helo", "--yes"],
    ] {
        refused(&node.ask(words), 9, "not_found");
    }
    for words in [&["webhook", "set", "ftp://x"][..], &["scale", "hello/web=999999"], &["restart", "hello/"]] {
        let ran = node.ask(words);
        assert!(matches!(ran.code, Some(2 | 9)), "{words:?}: {ran:?}");
    }
    refused(&node.ask(["scale", "hello/web=3", "--if-index", "1"]), 10, "conflict");
    refused(&node.ask(["webhook", "rm", "--if-index", "1"]), 10, "conflict");
    refused(&node.ask(["token", "new", "--viewer", "--if-index", "1"]), 10, "conflict");
    refused(&node.ask(["rm", "hello"]), 6, "unsafe");
    refused(&node.ask(["forget", "n2", "--yes"]), 6, "unsafe");
    // It cannot come true: nowhere is so much memory.
    let huge = sample(2).replace("replicas", "resources = { memory = \"9000GiB\" }\nreplicas");
    std::fs::write(file, huge).unwrap();
    refused(&node.ask(["apply", file, "--wait", "--timeout", "2"]), 5, "timed_out");
    read(&node.ask(["status"]), &[3]);
    // What is waited for is there already.
    read(&node.ask(["webhook", "set", "http://127.0.0.1:9/", "--wait"]), &[0]);
    read(&node.ask(["token", "new", "--viewer", "--plan"]), &[0]);
    read(&node.ask(["webhook", "rm", "--plan"]), &[4]);

    // Without a quorum everything that only reads still answers; what changes something does not.
    cluster.nodes[1].off();
    let node = &cluster.nodes[0];
    wait_for("no leader is known", Duration::from_secs(30), || {
        let status = node.ask(["status"]).try_data()?;
        if status["health"] == "no_leader" { Ok(()) } else { Err(status.to_string()) }
    });
    for words in [&["status"][..], &["members"], &["roles"], &["apps"], &["ps", "hello"], &["events"], &["why", "n2"]] {
        let ran = node.ask(words);
        read(&ran, &[0, 3]);
        let envelope: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert!(!array(&envelope["warnings"]).is_empty(), "it says that nobody leads: {ran:?}");
    }
    let ran = node.ask(["cordon", "n1"]);
    assert_eq!(ran.code, Some(7), "{ran:?}");
    is_one_of(&ran.error()["code"], &["no_leader", "no_quorum"]);
}

#[test]
fn a_node_that_left_is_no_member_and_not_forgotten() {
    let mut cluster = Cluster::start(3);
    let asked = cluster.nodes[0].data.clone();
    let ran = cluster.nodes[2].ask(["leave", "--yes", "--wait"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let ask = |words: &[&str]| hirsel_tests::cli::ask(&asked, words).try_data();
    wait_for("two members are left", Duration::from_secs(60), || {
        let count = array(&ask(&["members"])?).len();
        if count == 2 { Ok(()) } else { Err(count.to_string()) }
    });
    let all = ask(&["members", "--all"]).unwrap();
    let gone: Vec<&Value> = array(&all).iter().filter(|member| member["liveness"] == "left").collect();
    assert_eq!((array(&all).len(), gone.len()), (3, 1), "{all}");
    assert_eq!((gone[0]["name"].as_str(), gone[0]["raft"].as_str()), (Some("n3"), Some("none")));
    cluster.nodes[2].off();
}

#[test]
fn a_role_is_moved_once_and_stays_where_it_went_without_a_pin() {
    let cluster = Cluster::start(4);
    let node = cluster.any();
    let holders = || -> BTreeSet<String> { cluster.lbs().into_iter().map(|(name, _)| name).collect() };
    // n1 and n4 share a zone, and three of the four balance load.
    let before = holders();
    let (from, to) = if before.contains("n1") { ("n1", "n4") } else { ("n4", "n1") };
    let words = ["role", "move", "lb", from, "--to", to];
    let shown = node.ask(words.into_iter().chain(["--plan"]));
    assert_eq!(shown.code, Some(4), "{shown:?}");
    assert_eq!(array(&shown.data()["roles"])[0]["after"], to);
    let ran = node.ask(words.into_iter().chain(["--wait"]));
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    assert!(holders().contains(to) && !holders().contains(from), "{:?}", holders());
    let events = node.ask(["events"]).data();
    let told = |words: &str| array(&events).iter().any(|event| event["message"].as_str().unwrap().contains(words));
    assert!(
        told(&format!("role lb shall move from {from} to {to}")) && told("(socket)"),
        "who asked is told: {events}"
    );
    // Nothing is left of the wish: the old holder drains and comes back, and the slot stays.
    for verb in ["drain", "uncordon"] {
        assert_eq!(node.ask([verb, from]).code, Some(0));
    }
    cluster.well(Duration::from_secs(30));
    assert!(holders().contains(to), "{:?}", holders());
    let again = node.ask(words);
    refused(&again, 2, "usage");
    assert!(again.words().contains("holds no slot of lb"), "{}", again.words());
}

//! What is seen of requests with real processes: an id that leads from an answer to a line, a reason and a count, from any node.

use std::process::Command;
use std::time::Duration;

use hirsel_tests::cluster::{Cluster, array, sample};
use hirsel_tests::{lacks, wait_for};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);

/// What curl prints of an answer: status, and its `X-Request-Id`.
fn curl(url: &str, words: &[&str]) -> Result<(u16, String), String> {
    let format = "%{http_code} %header{x-request-id}";
    let output = Command::new("curl")
        .args(["--silent", "--max-time", "10", "--output", "/dev/null", "--write-out", format])
        .args(words)
        .arg(url)
        .output()
        .expect("curl runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (status, id) = text.split_once(' ').ok_or_else(|| format!("{text:?}"))?;
    Ok((status.parse().map_err(|_| text.clone())?, id.to_owned()))
}

/// Lines of the log, through `node`, once the one of `id` is there.
fn lines(cluster: &Cluster, node: &str, words: &[&str], id: &str) -> Vec<Value> {
    let words: Vec<&str> = ["logs", "--requests"].into_iter().chain(words.iter().copied()).collect();
    let read = || {
        let told = cluster.node(node).ask(&words).try_data()?;
        let found = array(&told).iter().any(|line| line["text"].as_str().is_some_and(|text| text.contains(id)));
        if found { Ok(array(&told).to_vec()) } else { Err(format!("no {id} in {told}")) }
    };
    wait_for("the request is written down", SOON, read).0
}

#[test]
fn the_id_of_an_answer_leads_to_its_line_its_reason_and_its_count_from_any_node() {
    if lacks("curl 7.84", Command::new("curl").arg("--version").output().is_ok_and(|it| it.status.success())) {
        return;
    }
    let cluster = Cluster::start(3);
    cluster.apply(&sample(3));
    let ran = cluster.any().ask(["role", "log", "lb", "json"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    assert_eq!(ran.data()["undo"], "hirsel role log lb off", "{}", ran.words());
    let (lb, addr) = cluster.lbs().into_iter().next().expect("somebody balances load");
    let asked = cluster.nodes.iter().map(|node| node.name.clone()).find(|name| *name != lb).expect("another node");
    let url = format!("http://{addr}/whoami?token=1");
    // The orders that say so reach the load balancer a moment later.
    let mut ids = Vec::new();
    let id = wait_for("the log begins", SOON, || {
        let (status, id) = curl(&url, &["--header", "user-agent: \u{9b}31mred"])?;
        if (status, id.len()) != (200, 32) {
            return Err(format!("{status} {id}"));
        }
        ids.push(id);
        // A line is written a moment after its request.
        let told = cluster.node(&asked).ask(["logs", "hello", "--requests"]).try_data()?;
        let is_there = |id: &&String| array(&told).iter().any(|line| line["request"]["id"] == id.as_str());
        ids.iter().find(is_there).cloned().ok_or_else(|| "not yet".into())
    })
    .0;
    let all = lines(&cluster, &asked, &["hello"], &id);
    let line = all.iter().find(|line| line["request"]["id"] == id.as_str()).expect("found before");
    let request = &line["request"];
    for (field, value) in
        [("path", "/whoami"), ("query", "token=1"), ("app", "hello"), ("lb", lb.as_str()), ("http", "HTTP/1.1")]
    {
        assert_eq!(request[field], value, "{field} of {line}");
    }
    assert_eq!((line["node"].as_str(), request["status"].as_u64()), (Some(lb.as_str()), Some(200)));
    assert_eq!(request["agent"], "\u{9b}31mred", "whole in JSON");
    let shown = hirsel_tests::cli::run({
        let mut command = Command::new(&cluster.executable);
        command.args(["logs", "hello", "--requests", "--data"]).arg(&cluster.node(&asked).data);
        command
    });
    assert!(shown.stdout.contains("\\u009b31mred") && !shown.stdout.contains('\u{9b}'), "{}", shown.words());

    // Why, from a node that did not see it; the instance is by name.
    let why = cluster.node(&asked).ask(["why", &id]).data();
    let texts: Vec<&str> = array(&why["because"]).iter().filter_map(|link| link["text"].as_str()).collect();
    assert!(texts[0].starts_with(&format!("answered 200 by the load balancer of {lb}")), "{texts:?}");
    assert!(texts.iter().any(|text| text.contains("route */, which leads to hello/web")), "{texts:?}");
    assert_eq!(why["chosen"]["node"], request["node"]);
    let gone = cluster.node(&asked).ask(["why", "4bf92f3577b34da6a3ce929d0e0e4736"]);
    assert_eq!(gone.code, Some(9), "{}", gone.words());
    assert!(gone.error()["message"].as_str().unwrap().contains("no load balancer remembers"), "{}", gone.words());

    // An id of the client's own, and a host that no route knows.
    let nowhere = curl(&url, &["--header", "x-request-id: my-own-id-0001", "--header", "host: x y"]).unwrap();
    assert_eq!(nowhere, (400, "my-own-id-0001".to_owned()));
    let all = lines(&cluster, &asked, &[], "my-own-id-0001");
    let line = all.iter().find(|line| line["request"]["id"] == "my-own-id-0001").expect("found before");
    assert_eq!((line["request"]["failed"].as_str(), line["app"].as_str()), (Some("bad_request"), None), "{line}");

    // Off again, and in the lines of the combined format.
    let ran = cluster.any().ask(["role", "log", "lb", "combined", "--no-query"]);
    assert_eq!(ran.data()["undo"], "hirsel role log lb json", "{}", ran.words());
    wait_for("lines are of the other format", SOON, || {
        curl(&url, &[])?;
        let told = cluster.node(&asked).ask(["logs", "hello/web", "--requests"]).try_data()?;
        let plain = array(&told).iter().filter_map(|line| line["text"].as_str()).find(|text| !text.starts_with('{'));
        let text = plain.ok_or("not yet")?;
        if text.contains("\"GET /whoami HTTP/1.1\" 200 ") { Ok(()) } else { Err(text.into()) }
    });
}

/// The status of each of so many requests for a page that is limited, over one connection.
fn limited(lb: std::net::SocketAddr, requests: usize) -> Vec<u16> {
    let output = Command::new("curl")
        .args([
            "--silent",
            "--max-time",
            "20",
            "--header",
            "host: limited.test",
            "--write-out",
            "%{stderr}%{http_code}\n",
        ])
        .arg(format!("http://{lb}/[1-{requests}]"))
        .output()
        .expect("curl runs");
    String::from_utf8_lossy(&output.stderr).lines().filter_map(|line| line.parse().ok()).collect()
}

#[test]
fn what_a_client_took_of_one_load_balancer_it_gets_of_none() {
    if lacks("curl", Command::new("curl").arg("--version").output().is_ok_and(|it| it.status.success())) {
        return;
    }
    let cluster = Cluster::start(3);
    let limited_page = "[route.\"limited.test\"]\nrespond = { status = 200, body = \"hello\" }\n\
        rate_limit = { requests = 400, per = \"1h\", scope = \"cluster\" }\n";
    cluster.apply(&format!("{}\n{limited_page}", sample(1)));
    let lbs = cluster.lbs();
    let [(_, first), (_, second), (_, third)] = lbs[..] else { panic!("three of them: {lbs:?}") };
    for addr in [second, third] {
        let is_there = || if limited(addr, 1) == [200] { Ok(()) } else { Err("no route yet".to_owned()) };
        wait_for("the route is there", SOON, is_there);
    }
    wait_for("the first one has the route", SOON, || {
        let all = limited(first, 400);
        let taken = all.iter().filter(|status| **status == 200).count();
        if taken >= 380 { Ok(()) } else { Err(format!("{taken} of {}", all.len())) }
    });
    let mut given = 0;
    wait_for("the second one has heard of it", SOON, || match limited(second, 1)[..] {
        [429] => Ok(()),
        ref other => {
            given += 1;
            Err(format!("{other:?}"))
        }
    });
    assert!(given < 300, "{given} more by a load balancer that counts alone");
    let seen = limited(third, 5);
    assert!(seen.iter().filter(|status| **status == 429).count() >= 4, "{seen:?}");
}

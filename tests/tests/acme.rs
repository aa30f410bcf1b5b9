//! Certificates that come by themselves, with a real directory: over HTTP and over TLS, renewed, through the loss of the leader, and what
//! is said when the directory refuses.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hirsel_tests::cli::Ran;
use hirsel_tests::cluster::{Cluster, HTTPS_PORT, Node, array};
use hirsel_tests::executable::hirsel;
use hirsel_tests::pebble::{Pebble, is_lacking};
use hirsel_tests::wait_for;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(120);

/// An application that answers on these hosts, each of which wants a certificate.
fn shop(hosts: &[&str]) -> String {
    let executable = hirsel().display();
    let routes: String =
        hosts.iter().map(|host| format!("[route.\"{host}\"]\nto = \"web\"\ntls = \"auto\"\n")).collect();
    format!(
        "app = \"shop\"\n[service.web]\ncommand = [\"{executable}\", \"sample\"]\nreplicas = 2\n\
         health = {{ http = \"/healthz\", interval = \"1s\" }}\n{routes}"
    )
}

fn set(node: &Node, pebble: &Pebble, words: &[&str]) -> Ran {
    let url = pebble.url();
    let root = pebble.own_root();
    let fixed = ["cert", "acme", "set", "--directory", &url, "--ca-file", &root, "--agree-tos"];
    node.ask(fixed.iter().chain(words))
}

/// What is known of a host that asks for a certificate.
fn host(cluster: &Cluster, host: &str) -> Result<Value, String> {
    let all = cluster.any().ask(["cert", "acme", "show"]).try_data()?;
    array(&all["hosts"]).iter().find(|it| it["host"] == host).cloned().ok_or(all.to_string())
}

/// The certificate of a host.
fn certificate(cluster: &Cluster, host: &str) -> Result<Value, String> {
    let all = cluster.any().ask(["cert", "list"]).try_data()?;
    array(&all["front"]).iter().find(|it| it["name"] == host).cloned().ok_or(all["automatic"].to_string())
}

/// The page that a client gets which believes `root` alone.
fn page(node: &Node, root: &str, host: &str) -> Result<String, String> {
    let there = format!("{host}:{HTTPS_PORT}:{}", node.ip);
    let url = format!("https://{host}:{HTTPS_PORT}/");
    let words = ["-sSf", "--max-time", "10", "--cacert", root, "--resolve", &there, &url];
    let ran = Command::new("curl").args(words).output().expect("curl runs");
    match ran.status.success() {
        true => Ok(String::from_utf8_lossy(&ran.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&ran.stderr).into_owned()),
    }
}

/// Every node gives the page of `host` to a client that believes the directory.
fn assert_served(cluster: &Cluster, pebble: &Pebble, host: &str) {
    let root = pebble.root();
    for node in cluster.running() {
        wait_for(&format!("{} shows the page of {host}", node.name), SOON, || page(node, &root, host));
    }
}

fn addrs(cluster: &Cluster) -> Vec<Ipv4Addr> {
    cluster.nodes.iter().map(|node| node.ip).collect()
}

/// Private keys are in no answer and on no disk, except sealed.
fn assert_hidden(cluster: &Cluster) {
    let grep = |folder: &Path| {
        let words = ["-r", "-a", "-l", "-F", "-e", "PRIVATE KEY", "-e", "key_pkcs8"];
        let ran = Command::new("grep").args(words).arg(folder).output().expect("grep runs");
        String::from_utf8_lossy(&ran.stdout).into_owned()
    };
    for node in &cluster.nodes {
        assert_eq!(grep(&node.data), "", "a key is on the disk of {}", node.name);
    }
}

#[test]
fn hosts_get_certificates_over_http_and_over_tls_and_a_leader_that_dies_stops_nothing() {
    if is_lacking() {
        return;
    }
    let mut cluster = Cluster::start(3);
    // A directory that takes its time, and forgets a nonce now and then.
    let environment = [("PEBBLE_VA_NOSLEEP", ""), ("PEBBLE_VA_SLEEPTIME", "3"), ("PEBBLE_WFE_NONCEREJECT", "3")];
    let pebble = Pebble::start(&cluster, &environment, &json!({}));
    for name in ["shop.test", "www.shop.test"] {
        pebble.names(name, &addrs(&cluster));
    }

    cluster.apply(&shop(&["shop.test"]));
    let status = cluster.any().ask(["status"]);
    assert!(status.words().contains("shop.test asks for a certificate"), "{}", status.words());
    assert_eq!(host(&cluster, "shop.test").unwrap()["state"], "unset");
    let url = pebble.url();
    let refused = cluster.any().ask(["cert", "acme", "set", "--directory", &url]);
    assert_eq!(refused.code, Some(2), "{}", refused.words());
    assert!(refused.words().contains("--agree-tos"), "{}", refused.words());

    // Over HTTP: with --wait the verb ends when it is there.
    let words = ["--contact", "admin@shop.test", "--challenge", "http-01"];
    let plan = set(&cluster.nodes[1], &pebble, &[&words[..], &["--plan"]].concat());
    assert_eq!(plan.code, Some(4), "{}", plan.words());
    let ran = set(&cluster.nodes[1], &pebble, &[&words[..], &["--wait", "--timeout", "90"]].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    assert_served(&cluster, &pebble, "shop.test");
    let first = certificate(&cluster, "shop.test").unwrap();
    assert_eq!(
        (&first["source"], &first["state"], &first["domains"]),
        (&"automatic".into(), &"ok".into(), &json!(["shop.test"])),
        "{first}"
    );
    assert!(first["renews_at"].as_str().unwrap() < first["ends_at"].as_str().unwrap(), "{first}");
    let status = cluster.any().ask(["status"]);
    assert_eq!((status.code, &status.data()["health"]), (Some(0), &"healthy".into()), "{}", status.words());

    // Over TLS, for a host without a certificate and for one that has one.
    let ran = set(&cluster.nodes[2], &pebble, &["--contact", "admin@shop.test", "--challenge", "tls-alpn-01"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    cluster.apply(&shop(&["shop.test", "www.shop.test"]));
    wait_for("the second host has one", SOON, || certificate(&cluster, "www.shop.test"));
    assert_served(&cluster, &pebble, "www.shop.test");
    let ran = cluster.any().ask(["cert", "renew", "shop.test", "--wait", "--timeout", "90"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    let second = certificate(&cluster, "shop.test").unwrap();
    assert_ne!(first["fingerprint"], second["fingerprint"]);
    assert_served(&cluster, &pebble, "shop.test");
    let logs: String = cluster.nodes.iter().map(|node| std::fs::read_to_string(node.log()).unwrap()).collect();
    assert_eq!((logs.matches("way=http-01").count(), logs.matches("way=tls-alpn-01").count()), (1, 2), "{logs}");

    // The leader dies while the directory looks: the next one begins anew. The name leads to the others, for a directory that happens
    // to ask a node which is off sees nothing.
    let leader = cluster.leader();
    let index = cluster.index(&leader);
    let others: Vec<Ipv4Addr> = cluster.nodes.iter().filter(|node| node.name != leader).map(|node| node.ip).collect();
    pebble.names("late.test", &others);
    cluster.apply_only(&shop(&["shop.test", "www.shop.test", "late.test"]));
    wait_for("the directory is asked", SOON, || match host(&cluster, "late.test")? {
        it if it["message"] == "the directory looks whether it is ours" => Ok(()),
        it => Err(it.to_string()),
    });
    cluster.nodes[index].off();
    wait_for("the third host has one", SOON, || certificate(&cluster, "late.test"));
    assert_served(&cluster, &pebble, "late.test");
    cluster.nodes[index].start(None);
    cluster.whole();
    assert_served(&cluster, &pebble, "late.test");
    assert_hidden(&cluster);
    let events = cluster.any().ask(["events", "-n", "500"]).data().to_string();
    for words in
        ["certificate shop.test was issued", "certificate shop.test was renewed", "the cluster has an account at"]
    {
        assert!(events.contains(words), "{words}: {events}");
    }
}

#[test]
fn a_certificate_is_renewed_in_time_and_everything_is_sealed_anew_with_it() {
    if is_lacking() {
        return;
    }
    let cluster = Cluster::start(3);
    let pebble = Pebble::start(&cluster, &[], &json!({ "certificateValidityPeriod": 90 }));
    pebble.names("shop.test", &addrs(&cluster));
    cluster.apply(&shop(&["shop.test"]));
    let ran = set(cluster.any(), &pebble, &["--wait", "--timeout", "90"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    let first = certificate(&cluster, "shop.test").unwrap();
    // The keys of the account and of the certificate open with the new key.
    let ran = cluster.any().ask(["secret", "rotate", "--wait"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    let root = pebble.root();
    let seen = |versions: u64| {
        wait_for("it is renewed", SOON, || {
            // All the while a client gets its page.
            page(cluster.any(), &root, "shop.test")?;
            let now = certificate(&cluster, "shop.test")?;
            assert_ne!(now["state"], "expired", "{now}");
            if now["version"].as_u64() >= Some(versions) { Ok(()) } else { Err(now.to_string()) }
        });
    };
    seen(first["version"].as_u64().unwrap() + 1);

    // Whoever is no more asked for is renewed no more, and gone once it ended.
    cluster.apply(&shop(&[]).replace("[service", "[route.\"other.test\"]\nto = \"web\"\n[service"));
    wait_for("it is forgotten when it ended", SOON, || match certificate(&cluster, "shop.test") {
        Ok(it) => Err(it.to_string()),
        Err(_) => Ok(()),
    });
}

#[test]
fn what_a_directory_refuses_is_said_in_its_words_and_comes_right_when_it_is_mended() {
    if is_lacking() {
        return;
    }
    let cluster = Cluster::start(1);
    let (kid, key) = ("kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W");
    let more = json!({
        "externalAccountBindingRequired": true,
        "externalAccountMACKeys": { kid: key },
        "domainBlocklist": ["blocked.test"],
    });
    let mut pebble = Pebble::start(&cluster, &[], &more);
    let node = &cluster.nodes[0];
    let says = |name: &str, words: &str| {
        let (it, _) = wait_for(&format!("{name} says {words:?}"), SOON, || match host(&cluster, name)? {
            it if it["message"].as_str().is_some_and(|it| it.contains(words)) => Ok(it),
            it => Err(it.to_string()),
        });
        it
    };

    // Nobody answers at that name; then whoever does wants an account that exists elsewhere.
    cluster.apply(&shop(&["shop.test", "blocked.test"]));
    let root = pebble.own_root();
    let nowhere = format!("https://{}:1/dir", node.ip);
    let ran = node.ask(["cert", "acme", "set", "--directory", &nowhere, "--ca-file", &root, "--agree-tos"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    says("shop.test", "cannot reach");
    assert_eq!(set(node, &pebble, &[]).code, Some(0));
    says("shop.test", "externalAccountRequired");
    let file = cluster.folder.path().join("eab");
    std::fs::write(&file, format!("{key}\n")).unwrap();
    let file = file.display().to_string();
    let ran = set(node, &pebble, &["--eab-kid", kid, "--eab-key-file", &file, "--challenge", "http-01"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());

    // One host is refused by name, and the other is nowhere.
    let blocked = says("blocked.test", "rejectedIdentifier");
    assert_eq!((&blocked["state"], &blocked["trouble"]["failures"]), (&"waiting".into(), &1.into()), "{blocked}");
    says("shop.test", "http-01: ");
    let why = node.ask(["why", "certificate/blocked.test"]);
    assert!(why.words().contains("rejectedIdentifier"), "{}", why.words());
    let status = node.ask(["status"]);
    assert!(status.words().contains("no certificate for blocked.test"), "{}", status.words());
    assert!(node.ask(["doctor"]).words().contains("rejectedIdentifier"));
    assert_eq!(node.ask(["cert", "list"]).code, Some(3));
    let ran = node.ask(["cert", "renew", "shop.test", "--wait", "--timeout", "60"]);
    assert_eq!(ran.code, Some(1), "{}", ran.words());

    // Its name leads here now; and the directory forgot who we are meanwhile.
    pebble.names("shop.test", &addrs(&cluster));
    pebble.start_again();
    let ran = node.ask(["cert", "renew", "shop.test"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    says("shop.test", "accountDoesNotExist");
    let ran = node.ask(["cert", "renew", "shop.test", "--wait", "--timeout", "60"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    assert_served(&cluster, &pebble, "shop.test");
    let shown = node.ask(["cert", "acme", "show"]).words();
    assert!(!shown.contains(key), "a key is shown: {shown}");

    // What is not asked for cannot be renewed, and off is off.
    assert_eq!(node.ask(["cert", "renew", "shpo.test"]).code, Some(9));
    assert_eq!(node.ask(["cert", "acme", "off"]).code, Some(6), "nobody was asked");
    assert_eq!(node.ask(["cert", "acme", "off", "--yes"]).code, Some(0));
    assert_eq!(host(&cluster, "blocked.test").unwrap()["state"], "unset");
    assert_eq!(certificate(&cluster, "shop.test").unwrap()["state"], "ok");
    assert_hidden(&cluster);
}

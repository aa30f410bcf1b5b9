//! Certificates of the front door with real processes: what is taken and what is refused, who is told a key, what outlives restarts and
//! the loss of everybody else, and that no key is to be found anywhere.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hirsel_tests::cli::{Ran, run};
use hirsel_tests::cluster::{Cluster, HTTPS_PORT, Node, array};
use hirsel_tests::executable::hirsel;
use hirsel_tests::{lacks, wait_for};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, date_time_ymd};

const SOON: Duration = Duration::from_secs(60);
/// Where a node keeps what its load balancer shows.
const KEPT: &str = "certificates";

/// Files outside of every node's folder.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// A certificate for `domains` until the end of a year, and its key.
    fn pair(&self, name: &str, domains: &[&str], year: i32) -> Pair {
        let mut params = CertificateParams::new(domains.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(year, 12, 31));
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let (cert, key) = (params.self_signed(&key).unwrap().pem(), key.serialize_pem());
        let secret = key.lines().nth(1).unwrap().to_owned();
        Pair { cert: self.write(&format!("{name}.pem"), &cert), key: self.write(&format!("{name}.key"), &key), secret }
    }
}

/// A certificate and its key in files, and a line of the key, which nobody may show.
struct Pair {
    cert: String,
    key: String,
    secret: String,
}

fn add(node: &Node, name: &str, pair: &Pair, words: &[&str]) -> Ran {
    node.ask(["cert", "add", name, "--cert", &pair.cert, "--key", &pair.key].iter().chain(words))
}

fn kept(node: &Node) -> PathBuf {
    node.data.join(KEPT)
}

/// Names of the nodes that balance load, and of those that do not.
fn halves(cluster: &Cluster) -> (Vec<String>, Vec<String>) {
    let lbs: Vec<String> = cluster.lbs().into_iter().map(|(name, _)| name).collect();
    let others = cluster.nodes.iter().map(|node| node.name.clone()).filter(|name| !lbs.contains(name)).collect();
    (lbs, others)
}

/// Waits until exactly those nodes that balance load keep certificates, and say that they have them.
fn assert_told(cluster: &Cluster) {
    wait_for("who balances load has them, and nobody else", SOON, || {
        let (lbs, others) = halves(cluster);
        let has = |names: &[String]| -> Vec<String> {
            names.iter().filter(|name| kept(cluster.node(name)).exists()).cloned().collect()
        };
        if has(&lbs) != lbs || !has(&others).is_empty() {
            return Err(format!("of {lbs:?} {:?}, of {others:?} {:?}", has(&lbs), has(&others)));
        }
        let all = cluster.any().ask(["cert", "list"]).try_data()?;
        let waits = array(&all["shown_by"]).iter().find(|it| it["state"] != "ok");
        waits.map_or(Ok(()), |it| Err(it.to_string()))
    });
}

/// No line of a key is on a disk, in an answer or in the command line of a process.
fn assert_hidden(cluster: &Cluster, pairs: &[&Pair]) {
    let mut seen: Vec<String> = Vec::new();
    for node in cluster.running() {
        for words in
            [&["cert", "list"][..], &["cert", "show", "shop"], &["events", "-n", "500"], &["status"], &["doctor"]]
        {
            seen.push(node.ask(words).words());
        }
    }
    let lines = std::fs::read_dir("/proc").unwrap().flatten();
    seen.extend(
        lines
            .filter_map(|entry| std::fs::read(Path::new(&entry.path()).join("cmdline")).ok())
            .map(|line| String::from_utf8_lossy(&line).into_owned()),
    );
    for Pair { secret, .. } in pairs {
        let ran = Command::new("grep").args(["-r", "-a", "-l", "-F", "-e", secret]).arg(cluster.folder.path()).output();
        assert_eq!(String::from_utf8_lossy(&ran.unwrap().stdout), "", "a key is on a disk");
        assert!(seen.iter().all(|text| !text.contains(secret)), "a key is shown");
    }
}

#[test]
fn a_certificate_reaches_every_load_balancer_and_nobody_else_and_outlives_everything_but_its_removal() {
    let mut cluster = Cluster::start(4);
    let files = Files::new();
    let first = files.pair("first", &["shop.example.com", "*.shop.example.com"], 2099);
    let second = files.pair("second", &["shop.example.com"], 2098);
    let blog = files.pair("blog", &["blog.example"], 2099);

    // Through a node that does not balance load and one that does not hold the sealing key; `--plan` adds nothing.
    let (_, others) = halves(&cluster);
    let outside = cluster.node(&others[0]);
    let plan = add(outside, "shop", &first, &["--plan"]);
    assert_eq!(
        (plan.code, &plan.data()["spec"][0]["path"]),
        (Some(4), &"certificates.shop".into()),
        "{}",
        plan.words()
    );
    let ran = add(outside, "shop", &first, &["--wait"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    let did = ran.data()["did"].as_str().unwrap().to_owned();
    assert_eq!(did, "added certificate shop for *.shop.example.com, shop.example.com, good until 2099-12-31T00:00:00Z");
    assert_told(&cluster);
    let same = add(&cluster.nodes[0], "shop", &first, &["--wait"]);
    assert!(same.data()["did"].as_str().unwrap().contains("is this one already, in version 1"), "{}", same.words());
    assert_eq!(add(&cluster.nodes[1], "blog", &blog, &["--wait"]).code, Some(0));

    // Another one takes its place, and every load balancer has it when the verb ends; the version tells.
    let ran = add(&cluster.nodes[2], "shop", &second, &["--wait", "--timeout", "20"]);
    assert!(ran.words().contains("replaced certificate shop"), "{}", ran.words());
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    assert_told(&cluster);
    let listed = cluster.any().ask(["cert", "list"]);
    assert_eq!(listed.code, Some(0), "{}", listed.words());
    let front: Vec<_> = array(&listed.data()["front"]).to_vec();
    let shown = |at: usize, field: &str| front[at][field].clone();
    assert_eq!((shown(0, "name"), shown(0, "version"), shown(0, "state")), ("blog".into(), 2.into(), "ok".into()));
    assert_eq!(
        (shown(1, "name"), shown(1, "version"), shown(1, "key")),
        ("shop".into(), 3.into(), "ECDSA P-256".into())
    );
    let one = cluster.any().ask(["cert", "show", "shop"]).data();
    assert_eq!(one["chain"], std::fs::read_to_string(&second.cert).unwrap().replace('\r', ""));
    assert_hidden(&cluster, &[&first, &second, &blog]);

    // The role moves: who has it no more forgets the keys, and who has it now is told.
    let (lbs, others) = halves(&cluster);
    let ran = cluster.any().ask(["role", "move", "lb", &lbs[0], "--to", &others[0], "--wait"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    assert_eq!(halves(&cluster).1, [lbs[0].clone()]);
    assert_told(&cluster);

    // Everything is sealed with another key, and opens: whoever gets the role next can be told.
    let ran = cluster.any().ask(["secret", "rotate", "--wait"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    let ran = cluster.any().ask(["role", "move", "lb", &others[0], "--to", &lbs[0], "--wait"]);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    assert_told(&cluster);

    // One load balancer is left, and its agent starts again: it has them from its disk, without anybody.
    let last = halves(&cluster).0[2].clone();
    for node in cluster.nodes.iter_mut().filter(|node| node.name != last) {
        node.off();
    }
    let index = cluster.index(&last);
    cluster.nodes[index].kill_agent();
    cluster.nodes[index].start(None);
    wait_for("it has what it had", SOON, || {
        let all = cluster.nodes[index].ask(["cert", "list"]).try_data()?;
        let own = array(&all["shown_by"]).iter().find(|it| it["node"] == last.as_str()).cloned();
        if own.as_ref().is_some_and(|own| own["state"] == "ok") { Ok(()) } else { Err(all["shown_by"].to_string()) }
    });
    assert!(kept(&cluster.nodes[index]).exists());
    for node in cluster.nodes.iter_mut().filter(|node| node.name != last) {
        node.start(None);
    }
    cluster.whole();

    // What is removed is gone everywhere.
    let ran = cluster.any().ask(["cert", "rm", "shop"]);
    assert_eq!(ran.code, Some(6), "nobody was asked: {}", ran.words());
    for name in ["shop", "blog"] {
        let ran = cluster.any().ask(["cert", "rm", name, "--yes", "--wait"]);
        assert_eq!(ran.code, Some(0), "{}", ran.words());
    }
    wait_for("nobody keeps any", SOON, || match cluster.nodes.iter().find(|node| kept(node).exists()) {
        Some(node) => Err(node.name.clone()),
        None => Ok(()),
    });
    let events = cluster.any().ask(["events", "-n", "500"]).data().to_string();
    assert!(
        events.contains("certificate shop was replaced: shop.example.com, version 3 (by admin@n3 (socket))"),
        "{events}"
    );
}

#[test]
fn what_clients_would_not_take_is_refused_and_the_exit_status_says_why() {
    let cluster = Cluster::start(1);
    let (node, files) = (&cluster.nodes[0], Files::new());
    let good = files.pair("good", &["shop.example.com"], 2099);
    let other = files.pair("other", &["other.example.com"], 2099);
    let old = files.pair("old", &["shop.example.com"], 2021);
    let (empty, nothing) = (files.write("empty", ""), "/no/such/file");
    for (words, code, says) in [
        (vec!["--cert", &good.cert, "--key", &other.key], 2, "the private key is not that of the certificate"),
        (vec!["--cert", &good.cert], 2, "no private key is in there"),
        (vec!["--cert", &empty, "--key", &good.key], 2, "no certificate is in there"),
        (vec!["--cert", nothing, "--key", &good.key], 2, nothing),
        (vec!["--cert", "-", "--key", "-"], 2, "standard input is one file"),
        (vec!["--cert", &old.cert, "--key", &old.key], 6, "expired at 2021-12-31"),
        (vec!["--cert", &good.cert, "--key", &good.key, "--if-index", "0"], 10, "expected 0"),
    ] {
        let ran = node.ask(["cert", "add", "shop"].iter().chain(&words));
        assert_eq!(ran.code, Some(code), "{words:?}: {}", ran.words());
        assert!(ran.error()["message"].as_str().unwrap().contains(says), "{}", ran.words());
    }
    for verb in [&["cert", "show", "shop"][..], &["cert", "rm", "shop", "--yes"]] {
        assert_eq!(node.ask(verb).code, Some(9), "{verb:?}");
    }
    assert_eq!(array(&node.ask(["cert", "list"]).data()["front"]), [] as [serde_json::Value; 0]);

    // Forced, it is shown, and everybody is told; the key comes through a pipe, and with it the certificate.
    let line = format!(
        "cat {} {} | {} cert add shop --cert - --data {} --wait --force 'a test'",
        old.cert,
        old.key,
        hirsel().display(),
        node.data.display()
    );
    let mut piped = Command::new("sh");
    piped.args(["-c", &line]).current_dir("/");
    let ran = run(piped);
    assert_eq!(ran.code, Some(0), "{}", ran.words());
    let status = node.ask(["status"]);
    assert_eq!((status.code, &status.data()["health"]), (Some(3), &"degraded".into()), "{}", status.words());
    assert!(status.words().contains("certificate shop expired"), "{}", status.words());
    assert_eq!(node.ask(["cert", "list"]).code, Some(3));
    assert_eq!(node.ask(["doctor"]).code, Some(1));
    assert_eq!(add(node, "shop", &good, &["--wait"]).code, Some(0));
    assert_eq!(node.ask(["status"]).code, Some(0));
    let words = node.ask(["cert", "rm", "shpo", "--yes"]).words();
    assert!(words.contains("did you mean") && words.contains("shop"), "{words}");
    assert_hidden(&cluster, &[&good, &other, &old]);
}

#[test]
fn files_as_openssl_writes_them_are_taken() {
    let made = Command::new("openssl").arg("version").output();
    if lacks("openssl", made.is_ok_and(|made| made.status.success())) {
        return;
    }
    let cluster = Cluster::start(1);
    let (node, files) = (&cluster.nodes[0], Files::new());
    let path = |name: &str| files.0.path().join(name).display().to_string();
    let openssl = |line: &str| {
        let ran = Command::new("sh").args(["-c", &format!("openssl {line}")]).output().unwrap();
        assert!(ran.status.success(), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
    };
    let add =
        |name: &str, cert: &str, key: &str| node.ask(["cert", "add", name, "--cert", &path(cert), "--key", &path(key)]);
    let named = "-subj /CN=shop.example.com -addext subjectAltName=DNS:shop.example.com,DNS:www.example.com -days 90";
    // PKCS #8, PKCS #1, SEC 1 with its parameters before it; and one that needs a passphrase.
    openssl(&format!("req -x509 -newkey rsa:2048 -nodes -keyout {} -out {} {named}", path("rsa.key"), path("rsa.pem")));
    openssl(&format!("rsa -traditional -in {} -out {}", path("rsa.key"), path("rsa1.key")));
    openssl(&format!("ecparam -name secp384r1 -genkey -out {}", path("ec.key")));
    openssl(&format!("req -x509 -new -key {} -out {} {named}", path("ec.key"), path("ec.pem")));
    openssl(&format!("pkey -in {} -aes256 -passout pass:secret -out {}", path("rsa.key"), path("locked.key")));
    openssl(&format!("x509 -in {} -outform der -out {}", path("rsa.pem"), path("rsa.der")));
    for (name, cert, key, kind) in [
        ("rsa", "rsa.pem", "rsa.key", "RSA 2048"),
        ("rsa1", "rsa.pem", "rsa1.key", "RSA 2048"),
        ("ec", "ec.pem", "ec.key", "ECDSA P-384"),
    ] {
        let ran = add(name, cert, key);
        assert_eq!(ran.code, Some(0), "{}", ran.words());
        let shown = node.ask(["cert", "show", name]).data();
        assert_eq!((&shown["key"], &shown["issuer"]), (&kind.into(), &"shop.example.com".into()), "{shown}");
        assert_eq!(shown["domains"], serde_json::json!(["shop.example.com", "www.example.com"]));
    }
    for (cert, key, says, next) in [
        ("rsa.pem", "locked.key", "encrypted", "openssl pkey"),
        ("rsa.der", "rsa.key", "looks like DER", "-inform der"),
        ("ec.pem", "rsa.key", "not that of the certificate", "openssl x509"),
    ] {
        let ran = add("wrong", cert, key);
        assert_eq!(ran.code, Some(2), "{}", ran.words());
        assert!(
            ran.words().contains(says) && ran.error()["next"][0].as_str().unwrap().contains(next),
            "{}",
            ran.words()
        );
    }

    // What a client is shown is the one in force, at once and without a restart.
    for name in ["rsa1", "ec"] {
        assert_eq!(node.ask(["cert", "rm", name, "--yes", "--wait"]).code, Some(0));
    }
    let shown = || {
        let at = node.addr(HTTPS_PORT);
        let line = format!(
            "openssl s_client -connect {at} -servername www.example.com </dev/null | openssl x509 -noout -fingerprint -sha256"
        );
        let ran = Command::new("sh").args(["-c", &line]).output().unwrap();
        let text = String::from_utf8_lossy(&ran.stdout).trim().to_lowercase().replace(':', "");
        text.split_once('=').map(|(_, print)| print.to_owned()).unwrap_or(String::from_utf8_lossy(&ran.stderr).into())
    };
    for (cert, key) in [("rsa.pem", "rsa.key"), ("ec.pem", "ec.key"), ("rsa.pem", "rsa1.key")] {
        assert_eq!(add("rsa", cert, key).code, Some(0));
        let expected = node.ask(["cert", "show", "rsa"]).data()["fingerprint"].clone();
        wait_for("a client is shown it", SOON, || {
            let shown = shown();
            if expected == shown.as_str() { Ok(()) } else { Err(shown) }
        });
    }
}

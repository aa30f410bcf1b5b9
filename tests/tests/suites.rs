//! What others wrote to find out whether something speaks a protocol as it should, over a cluster of processes: WebSockets
//! (Autobahn), TLS (testssl.sh), kept answers (http-cache-tests, beside nginx and varnish), names (dnsperf).
//!
//! `cargo test -p hirsel-tests --test suites`; `.ci/run full suites` installs what it needs. Not a part of `cargo test --workspace`.
//!
//! What is packaged is old: testssl.sh gives grades from 3.2 on, and http-cache-tests as npm has it asks in places for the opposite of RFC
//! 9111. `HIRSEL_TESTSSL` names another testssl.sh, `HIRSEL_CACHE_TESTS` a checkout of github.com/http-tests/cache-tests, with undici.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use hirsel_tests::authority::Authority;
use hirsel_tests::cluster::{Cluster, DNS_PORT, HTTP_PORT, HTTPS_PORT, array, sample};
use hirsel_tests::{lacks, power, wait_for};
use rustix::process::Signal;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

/// Cases of http-cache-tests that pass, less those that depend on time: a machine that is starved costs Varnish twenty of them.
const REQUIRED_MIN: usize = 120;
const OPTIMAL_MIN: usize = 65;

/// An echo with the library that most programs in Node.js use.
const ECHO: &str = "const { WebSocketServer } = require('ws');\n\
    const server = new WebSocketServer({ host: process.env.HOST, port: +process.env.PORT, maxPayload: 64 << 20 });\n\
    server.on('connection', (socket) => {\n\
      socket.on('error', () => {});\n\
      socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));\n\
    });\n";

/// Runs all cases of http-cache-tests against a cache, and prints of each its name, its kind and whether it passed. A checkout has them
/// elsewhere than the package, and brings its own client.
const CACHE_CASES: &str = "import { existsSync } from 'fs';\n\
    import { createRequire } from 'module';\n\
    import { pathToFileURL } from 'url';\n\
    const [suite, base] = process.argv.slice(2);\n\
    const at = (path) => import(pathToFileURL(`${suite}/${path}`));\n\
    const isCheckout = existsSync(`${suite}/test-engine`);\n\
    const own = isCheckout ? [] : [(await import(pathToFileURL(createRequire(`${suite}/cli.mjs`).resolve('node-fetch')))).default];\n\
    const { runTests, getResults } = await at(isCheckout ? 'test-engine/client/runner.mjs' : 'client/runner.mjs');\n\
    const tests = (await at('tests/index.mjs')).default;\n\
    await runTests(tests, ...own, false, base);\n\
    const results = getResults();\n\
    const all = tests.flatMap((suite) => suite.tests).filter((test) => test.id in results);\n\
    console.log(JSON.stringify(all.map((test) => [test.id, test.kind ?? 'required', results[test.id] === true])));\n";

fn works(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn read(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn web_sockets_pass_a_load_balancer_as_they_would_pass_nothing() {
    let there =
        works(Command::new("wstest").arg("--help")) && works(Command::new("node").args(["-e", "require('ws')"]));
    if lacks("wstest (autobahntestsuite) and node with ws", there) {
        return;
    }
    let cluster = Cluster::start(1);
    let at = |name: &str| cluster.folder.path().join(name);
    fs::write(at("echo.js"), ECHO).unwrap();
    let path = std::env::var("NODE_PATH").unwrap_or_default();
    cluster.apply(&format!(
        "app = \"ws\"\n[service.echo]\ncommand = [\"node\", {:?}]\nenv = {{ NODE_PATH = {path:?} }}\nhealth = {{ tcp = true }}\n\
         [route.\"*\"]\nto = \"echo\"\n",
        at("echo.js")
    ));
    let instances = cluster.any().ask(["ps", "ws"]).data();
    let server = |agent: &str, addr: &str| json!({ "agent": agent, "url": format!("ws://{addr}"), "options": { "version": 18 } });
    let through = cluster.lbs()[0].1.to_string();
    let spec = json!({
        "outdir": at("reports"),
        "servers": [server("direct", instances[0]["addr"].as_str().expect("it listens")), server("through", &through)],
        "cases": ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"],
        "exclude-cases": [],
        "exclude-agent-cases": {},
    });
    fs::write(at("spec.json"), spec.to_string()).unwrap();
    let ran = Command::new("wstest").args(["-m", "fuzzingclient", "-s"]).arg(at("spec.json")).output().unwrap();
    assert!(ran.status.success(), "{}", said(&ran));
    let index = read(&at("reports").join("index.json"));
    let ends = |agent: &str| -> BTreeMap<String, String> {
        let cases = index[agent].as_object().unwrap_or_else(|| panic!("{}", said(&ran)));
        cases
            .iter()
            .map(|(case, end)| (case.clone(), format!("{} {}", end["behavior"], end["behaviorClose"])))
            .collect()
    };
    let (direct, through) = (ends("direct"), ends("through"));
    let count = |ends: &BTreeMap<String, String>, word: &str| ends.values().filter(|end| end.contains(word)).count();
    let failed = (count(&direct, "FAILED"), count(&through, "FAILED"));
    eprintln!("{} cases, failed: {} direct, {} through a load balancer", through.len(), failed.0, failed.1);
    assert!(through.len() >= 240 && direct.len() == through.len(), "{} and {}", direct.len(), through.len());
    let worse: Vec<_> =
        through.iter().filter(|(case, end)| end.contains("FAILED") && !direct[*case].contains("FAILED")).collect();
    assert!(worse.is_empty(), "{worse:?}");
}

#[test]
fn nothing_is_found_wrong_with_tls() {
    let testssl = std::env::var_os("HIRSEL_TESTSSL").unwrap_or("testssl".into());
    if lacks("testssl", works(Command::new(&testssl).arg("--version"))) {
        return;
    }
    let cluster = Cluster::start(1);
    let at = |name: &str| cluster.folder.path().join(name);
    let authority = Authority::new();
    fs::write(at("root.pem"), authority.pem()).unwrap();
    cluster.apply(&sample(1));
    authority.equip(&cluster, &["hello.example"]);
    let ip = cluster.lbs()[0].1.ip();
    wait_for("HTTPS is spoken", SOON, || match std::net::TcpStream::connect((ip, HTTPS_PORT)) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    });
    let ran = Command::new(&testssl)
        .args(["--quiet", "--color", "0", "--warnings", "off", "--ip", &ip.to_string(), "--add-ca"])
        .arg(at("root.pem"))
        .arg("--jsonfile")
        .arg(at("found.json"))
        .arg(format!("hello.example:{HTTPS_PORT}"))
        .output()
        .unwrap();
    let found = read(&at("found.json"));
    let of =
        |id: &str| array(&found).iter().find(|it| it["id"] == id).unwrap_or_else(|| panic!("no {id}: {}", said(&ran)));
    // What is wrong with a certificate that no public authority made is not our doing.
    let wrong: Vec<&Value> = array(&found)
        .iter()
        .filter(|it| ["MEDIUM", "HIGH", "CRITICAL", "FATAL"].iter().any(|word| it["severity"] == *word))
        .filter(|it| it["id"] != "cert_revocation")
        .collect();
    let grade = array(&found)
        .iter()
        .find(|it| it["id"] == "overall_grade")
        .map(|it| it["finding"].as_str().unwrap_or_default());
    eprintln!("{} findings, wrong: {wrong:?}, grade: {}", array(&found).len(), grade.unwrap_or("none is given"));
    assert!(grade.is_none_or(|grade| grade.starts_with('A')), "{}", said(&ran));
    assert!(wrong.is_empty(), "{wrong:#?}");
    for (id, words) in [
        ("TLS1", "not offered"),
        ("TLS1_1", "not offered"),
        ("TLS1_2", "offered"),
        ("ALPN_HTTP2", "h2"),
        ("cert_chain_of_trust", "passed"),
    ] {
        let finding = of(id)["finding"].as_str().unwrap_or_default();
        assert!(finding.starts_with(words), "{id}: {finding}");
    }
}

/// A program that is ended with this.
struct Beside(Child);

impl Beside {
    /// What it says goes to `log`.
    fn start(command: &mut Command, log: &Path) -> Self {
        let log = fs::File::create(log).expect("a log");
        let both = (log.try_clone().expect("a second handle"), log);
        Self(command.stdin(Stdio::null()).stdout(both.0).stderr(both.1).spawn().expect("it starts"))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        power::signal(self.0.id(), Signal::TERM);
        let _ = self.0.wait();
    }
}

#[test]
fn what_is_kept_is_kept_more_rightly_than_by_nginx_and_varnish() {
    let resolve = "console.log(require('path').dirname(require.resolve('http-cache-tests/package.json')))";
    let packaged = || {
        let found = Command::new("node").args(["-e", resolve]).output().ok().filter(|it| it.status.success())?;
        Some(String::from_utf8_lossy(&found.stdout).trim().to_owned())
    };
    let suite = std::env::var("HIRSEL_CACHE_TESTS").ok().or_else(packaged);
    let there = works(Command::new("nginx").arg("-v")) && works(Command::new("varnishd").arg("-V"));
    let suite = suite.filter(|_| there);
    if lacks("node with http-cache-tests, nginx and varnishd", suite.is_some()) {
        return;
    }
    let suite = suite.expect("it is there");
    let server = ["test-engine/server/server.mjs", "server/server.mjs"].map(|path| Path::new(&suite).join(path));
    let server = server.into_iter().find(|path| path.exists()).expect("the suite has an origin");
    let cluster = Cluster::start(1);
    let at = |name: &str| cluster.folder.path().join(name);
    let ip = cluster.nodes[0].ip;
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let origin = Beside::start(
        Command::new("node")
            .arg("--no-warnings")
            .arg(server)
            .current_dir(&suite)
            .envs([("npm_config_protocol", "http"), ("npm_config_port", &port.to_string())])
            .env("npm_config_pidfile", at("origin.pid")),
        &at("origin.log"),
    );
    let (nginx, varnish) = ((ip, 8_002), (ip, 8_005));
    let kept: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {};\n", at(&format!("temp-{kind}")).display()))
        .concat();
    let config = format!(
        "daemon off; user root; error_log /dev/null; pid {};\nevents {{ worker_connections 1024; }}\nhttp {{ access_log off;\n{kept}\
         proxy_cache_path {} levels=1:2 keys_zone=kept:8m max_size=1000m inactive=600m;\n\
         server {{ listen {ip}:{}; location / {{ proxy_pass http://127.0.0.1:{port}; proxy_cache kept; proxy_cache_revalidate on; }} }} }}\n",
        at("nginx.pid").display(),
        at("nginx").display(),
        nginx.1
    );
    fs::write(at("nginx.conf"), config).unwrap();
    fs::write(
        at("varnish.vcl"),
        format!("vcl 4.1;\nbackend default {{ .host = \"127.0.0.1\"; .port = \"{port}\"; }}\n"),
    )
    .unwrap();
    let _nginx = Beside::start(
        Command::new("nginx").arg("-p").arg(cluster.folder.path()).arg("-c").arg(at("nginx.conf")),
        &at("nginx.log"),
    );
    let _varnish = Beside::start(
        Command::new("varnishd")
            .args(["-F", "-a", &format!("{ip}:{}", varnish.1), "-n"])
            .arg(at("varnish"))
            .arg("-f")
            .arg(at("varnish.vcl")),
        &at("varnish.log"),
    );
    cluster.apply(&format!(
        "{}[route.\"cached.example\"]\nto = \"web\"\n",
        sample(1).replace("to = \"web\"", &format!("to = \"http://127.0.0.1:{port}\"\ncache = true"))
    ));
    fs::write(at("cases.mjs"), CACHE_CASES).unwrap();
    let listens = |name: &str, addr: (Ipv4Addr, u16)| {
        wait_for(&format!("{name} listens"), SOON, || TcpStream::connect(addr).map_err(|error| error.to_string()));
    };
    listens("the origin", (Ipv4Addr::LOCALHOST, port));
    let passed = |name: &str, (ip, port): (Ipv4Addr, u16)| -> (usize, usize) {
        listens(name, (ip, port));
        let base = format!("http://{ip}:{port}");
        let ran =
            Command::new("node").arg("--no-warnings").arg(at("cases.mjs")).args([&suite, &base]).output().unwrap();
        let rows: Vec<(String, String, bool)> =
            serde_json::from_slice(&ran.stdout).unwrap_or_else(|error| panic!("{name}: {error}: {}", said(&ran)));
        // What is only asked for information is neither right nor wrong.
        let count = |kind: &str| rows.iter().filter(|row| row.1 == kind && row.2).count();
        eprintln!("{name}: {} required and {} optimal of {} cases", count("required"), count("optimal"), rows.len());
        (count("required"), count("optimal"))
    };
    let peers = [passed("nginx", nginx), passed("varnish", varnish)];
    let ours = passed("hirsel", (ip, HTTP_PORT));
    drop(origin);
    let origin = fs::read_to_string(at("origin.log")).unwrap_or_default();
    assert!(peers.iter().all(|peer| peer.0 > 0), "{peers:?}: {origin}");
    let better = |of: fn(&(usize, usize)) -> usize| peers.iter().map(of).max().unwrap_or_default();
    assert!(ours.0 >= better(|it| it.0) && ours.1 >= better(|it| it.1), "{ours:?} of {peers:?}");
    // Far more than that: a change that loses many of them is a defect, whatever others do.
    assert!(ours.0 >= REQUIRED_MIN && ours.1 >= OPTIMAL_MIN, "{ours:?}");
}

#[test]
fn no_question_for_a_name_is_lost_under_load() {
    if lacks("dnsperf", works(Command::new("dnsperf").arg("-h"))) {
        return;
    }
    let cluster = Cluster::start(3);
    cluster.apply(&sample(3));
    let questions = cluster.folder.path().join("questions");
    let names =
        ["web.hello.hirsel A", "web.hello.hirsel SRV", "hello.hirsel A", "n1.node.hirsel A", "hello.hirsel AAAA"];
    fs::write(&questions, names.join("\n") + "\n").unwrap();
    let (ip, port) = (cluster.nodes[0].ip.to_string(), DNS_PORT.to_string());
    let ran = Command::new("dnsperf")
        .args(["-s", &ip, "-p", &port, "-l", "10", "-c", "8", "-q", "64", "-e", "-d"])
        .arg(&questions)
        .output()
        .unwrap();
    let text = said(&ran);
    let number = |label: &str| -> f64 {
        let line = text.lines().find(|line| line.contains(label)).unwrap_or_else(|| panic!("no {label}: {text}"));
        let value = line.split_once(':').map(|(_, value)| value.split_whitespace().next().unwrap_or_default());
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{line}"))
    };
    let (sent, lost) = (number("Queries sent"), number("Queries lost"));
    eprintln!("{sent} questions in 10 s, {lost} lost, {} a second", number("Queries per second"));
    assert!(sent > 1_000.0 && lost <= sent / 1_000.0, "{text}");
    let codes = text.lines().find(|line| line.contains("Response codes")).unwrap_or_default();
    assert!(codes.contains("NOERROR") && !codes.contains("SERVFAIL") && !codes.contains("REFUSED"), "{text}");
}

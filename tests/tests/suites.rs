//! What others wrote to find out whether something speaks a protocol as it should, over a cluster of processes: WebSockets
//! (Autobahn), TLS (testssl.sh), names (dnsperf).
//!
//! `cargo test -p hirsel-tests --test suites`; `.ci/run full suites` installs what it needs. Not a part of `cargo test --workspace`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use hirsel_tests::cluster::{Cluster, DNS_PORT, HTTPS_PORT, array, sample};
use hirsel_tests::{lacks, wait_for};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

/// An echo with the library that most programs in Node.js use.
const ECHO: &str = "const { WebSocketServer } = require('ws');\n\
    const server = new WebSocketServer({ host: process.env.HOST, port: +process.env.PORT, maxPayload: 64 << 20 });\n\
    server.on('connection', (socket) => {\n\
      socket.on('error', () => {});\n\
      socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));\n\
    });\n";

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
    if lacks("testssl", works(Command::new("testssl").arg("--version"))) {
        return;
    }
    let cluster = Cluster::start(1);
    let at = |name: &str| cluster.folder.path().join(name);
    let mut root = CertificateParams::new(Vec::new()).unwrap();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    root.distinguished_name.push(DnType::CommonName, "root");
    let root = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut own = CertificateParams::new(vec!["hello.example".to_owned()]).unwrap();
    own.distinguished_name.push(DnType::CommonName, "hello.example");
    let day = Duration::from_secs(86_400);
    (own.not_before, own.not_after) = ((SystemTime::now() - day).into(), (SystemTime::now() + 80 * day).into());
    own.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    own.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let own = own.signed_by(&key, &root).unwrap();
    for (name, text) in [("root.pem", root.pem()), ("cert.pem", own.pem()), ("key.pem", key.serialize_pem())] {
        fs::write(at(name), text).unwrap();
    }
    cluster.apply(&sample(1));
    let words = ["cert", "add", "hello", "--wait", "--cert", &at("cert.pem").display().to_string()].map(str::to_owned);
    let added = cluster.any().ask(words.into_iter().chain(["--key".into(), at("key.pem").display().to_string()]));
    assert_eq!(added.code, Some(0), "{}", added.words());
    let ip = cluster.lbs()[0].1.ip();
    wait_for("HTTPS is spoken", SOON, || match std::net::TcpStream::connect((ip, HTTPS_PORT)) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    });
    let ran = Command::new("testssl")
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
    eprintln!("{} findings, wrong: {wrong:?}", array(&found).len());
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

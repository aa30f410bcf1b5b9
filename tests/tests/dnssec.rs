//! Zones that are signed, as those see them who verify: `delv` with nothing but the record that the zone above would have, and unbound.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use hirsel_tests::cluster::{Cluster, DNS_PORT, Node, array};
use hirsel_tests::{lacks, wait_for};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(20);

fn manifest(dnssec: bool) -> String {
    format!(
        "app = \"names\"\n[zone.\"example.com\"]\nttl = \"1m\"\ndnssec = {dnssec}\n[zone.\"example.com\".records]\n\
         \"@\" = {{ MX = [\"10 mail\", \"20 MX.Example.net.\"], TXT = \"v=spf1 mx -all\", CAA = '0 issue \"letsencrypt.org\"' }}\n\
         mail = {{ A = [\"192.0.2.7\", \"192.0.2.8\"], AAAA = \"2001:db8::7\" }}\n\
         alias = {{ CNAME = \"Mail\" }}\n\"*.dev\" = {{ A = \"192.0.2.9\" }}\n\
         \"_sip._tcp\" = {{ SRV = \"0 5 5060 Mail\" }}\nsub = {{ NS = \"ns1.sub.example.com.\" }}\n\
         \"ns1.sub\" = {{ A = \"192.0.2.53\" }}\n"
    )
}

fn no_tools() -> bool {
    let there = |tool: &str, flag: &str| Command::new(tool).arg(flag).output().is_ok();
    lacks("dig", there("dig", "-v")) || lacks("delv", there("delv", "-v")) || lacks("unbound", there("unbound", "-V"))
}

fn printed(command: &mut Command) -> String {
    let output = command.output().expect("it runs");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// What `delv` says of a name, who trusts `ds` and nothing else.
fn delv(folder: &Path, node: &Node, ds: &str, words: &[&str]) -> String {
    let anchor = folder.join("anchor");
    let fields: Vec<&str> = ds.split(' ').collect();
    let [zone, "IN", "DS", tag, algorithm, kind, hash] = fields[..] else { panic!("{ds}") };
    let text = format!("trust-anchors {{ \"{zone}\" static-ds {tag} {algorithm} {kind} \"{hash}\"; }};\n");
    std::fs::write(&anchor, text).expect("a file");
    let server = [format!("@{}", node.ip), "-p".into(), DNS_PORT.to_string()];
    let root = format!("+root={zone}");
    printed(Command::new("delv").args(server).arg("-a").arg(&anchor).arg(root).args(words))
}

fn dig(ip: &str, port: u16, words: &[&str]) -> String {
    let server = [format!("@{ip}"), "-p".into(), port.to_string(), "+tries=1".into(), "+time=3".into()];
    printed(Command::new("dig").args(server).args(words))
}

fn zone(node: &Node) -> Value {
    node.ask(["dns", "ds", "example.com"]).data()
}

fn ds(node: &Node) -> String {
    array(&zone(node)["ds"]).first().and_then(Value::as_str).expect("a record for the zone above").to_owned()
}

/// Everything that is asked for is believed by whoever trusts `ds`.
fn believed(folder: &Path, node: &Node, ds: &str) {
    for (words, says) in [
        (&["example.com", "SOA"][..], &["; fully validated", "SOA"][..]),
        (&["example.com", "DNSKEY"], &["; fully validated", "DNSKEY"]),
        (&["example.com", "MX"], &["; fully validated", "MX.Example.net."]),
        (&["example.com", "CAA"], &["; fully validated", "letsencrypt.org"]),
        (&["MAIL.example.com", "A"], &["; fully validated", "192.0.2.7", "192.0.2.8"]),
        (&["_sip._tcp.example.com", "SRV"], &["; fully validated", "5060"]),
        (&["alias.example.com", "AAAA"], &["; fully validated", "2001:db8::7"]),
        (&["x.y.dev.example.com", "A"], &["; fully validated", "192.0.2.9"]),
        (&["mail.example.com", "TXT"], &["; negative response, fully validated"]),
        (&["x.dev.example.com", "TXT"], &["; negative response, fully validated"]),
        (&["_tcp.example.com", "A"], &["; negative response, fully validated"]),
        (&["none.example.com", "A"], &["; negative response, fully validated"]),
    ] {
        wait_for("the answer is believed", LIMIT, || {
            let told = delv(folder, node, ds, words);
            if says.iter().all(|says| told.contains(says)) { Ok(()) } else { Err(format!("{words:?}: {told}")) }
        });
    }
}

/// A resolver that verifies, and asks these nodes.
struct Resolver {
    child: Child,
    port: u16,
}

impl Resolver {
    fn start(folder: &Path, nodes: &[Node], ds: &str) -> Self {
        let stubs: String = nodes.iter().map(|node| format!("  stub-addr: {}@{DNS_PORT}\n", node.ip)).collect();
        let at = folder.display();
        let (config, said) = (folder.join("unbound.conf"), folder.join("unbound.log"));
        // A port that is free now may be somebody else's before it is listened on.
        let (resolver, _) = wait_for("a resolver listens", LIMIT, || {
            let port = free_port();
            let text = format!(
                "server:\n  directory: \"{at}\"\n  chroot: \"\"\n  username: \"\"\n  pidfile: \"\"\n  use-syslog: no\n\
                 \x20 logfile: \"\"\n  do-daemonize: no\n  num-threads: 1\n  interface: 127.0.0.1@{port}\n\
                 \x20 do-not-query-localhost: no\n  module-config: \"validator iterator\"\n  trust-anchor: \"{ds}\"\n\
                 \x20 local-zone: \"example.com.\" transparent\nstub-zone:\n  name: example.com\n{stubs}\
                 remote-control:\n  control-enable: no\n"
            );
            std::fs::write(&config, text).expect("a file");
            let log = std::fs::File::create(&said).expect("a file");
            let child = Command::new("unbound").arg("-d").arg("-c").arg(&config).stderr(log).spawn();
            let mut resolver = Self { child: child.expect("unbound starts"), port };
            wait_for("it listens or has ended", LIMIT, || {
                let ended = resolver.child.try_wait().expect("it is ours").is_some();
                match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
                    Err(error) if !ended => Err(error.to_string()),
                    Ok(_) | Err(_) => Ok(()),
                }
            });
            match resolver.child.try_wait().expect("it is ours") {
                None => Ok(resolver),
                Some(_) => Err(std::fs::read_to_string(&said).unwrap_or_default()),
            }
        });
        resolver
    }

    fn ask(&self, words: &[&str]) -> String {
        dig("127.0.0.1", self.port, &[words, &["+dnssec"]].concat())
    }

    /// All of it is in the answer, which was verified.
    fn believes(&self, words: &[&str], says: &[&str]) {
        wait_for("a resolver believes it", LIMIT, || {
            let told = self.ask(words);
            let flags = told.lines().find(|line| line.contains("flags: qr")).unwrap_or_default();
            let is_believed = flags.split(';').any(|part| part.contains("flags:") && part.contains(" ad"));
            if is_believed && says.iter().all(|says| told.contains(says)) { Ok(()) } else { Err(told) }
        });
    }
}

/// A port that nobody has, neither of UDP nor of TCP.
fn free_port() -> u16 {
    loop {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let addr = socket.local_addr().expect("a port");
        if TcpListener::bind(addr).is_ok() {
            return addr.port();
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn whoever_verifies_believes_every_node_also_after_a_loss_and_while_a_key_is_replaced() {
    if no_tools() {
        return;
    }
    let mut cluster = Cluster::start(3);
    cluster.apply(&manifest(true));
    let folder = cluster.folder.path().to_owned();
    wait_for("the zone has a key", LIMIT, || match cluster.any().ask(["dns", "list"]).try_data()? {
        told if told[0]["state"] == "signed" => Ok(()),
        told => Err(told.to_string()),
    });
    let first = ds(cluster.any());
    for node in &cluster.nodes {
        believed(&folder, node, &first);
        let ip = node.ip.to_string();
        let plain = dig(&ip, DNS_PORT, &["none.example.com"]);
        assert!(plain.contains("NXDOMAIN") && !plain.contains("RRSIG") && !plain.contains("NSEC"), "{plain}");
        let compact = dig(&ip, DNS_PORT, &["none.example.com", "+dnssec"]);
        assert!(compact.contains("NOERROR") && compact.contains("TYPE128"), "{compact}");
        let cut = dig(&ip, DNS_PORT, &["a.sub.example.com", "+dnssec", "+norecurse"]);
        let proof = cut.lines().find(|line| line.contains("NSEC") && line.contains("sub\\000.example.com."));
        assert!(proof.is_some_and(|proof| proof.contains("NS RRSIG NSEC")), "{cut}");
        let cds = dig(&ip, DNS_PORT, &["example.com", "CDS", "+short"]);
        assert_eq!(cds.replace(' ', "").trim(), first.split(' ').skip(3).collect::<String>(), "{cds}");
        let own = dig(&ip, DNS_PORT, &["n1.node.hirsel", "+dnssec"]);
        assert!(own.contains("NOERROR") && !own.contains("RRSIG"), "the cluster's own zone is not signed: {own}");
    }
    let why = cluster.any().ask(["why", "example.com"]);
    assert!(why.stdout.contains("it is signed with keys"), "{}", why.stdout);

    let resolver = Resolver::start(&folder, &cluster.nodes, &first);
    resolver.believes(&["mail.example.com", "A"], &["192.0.2.7", "RRSIG"]);
    resolver.believes(&["alias.example.com", "AAAA"], &["2001:db8::7", "CNAME"]);
    resolver.believes(&["any.dev.example.com", "A"], &["192.0.2.9"]);
    resolver.believes(&["none.example.com", "A"], &["ANSWER: 0", "TYPE128"]);
    resolver.believes(&["mail.example.com", "MX"], &["ANSWER: 0", "NSEC"]);
    resolver.believes(&["sub.example.com", "DS"], &["ANSWER: 0", "NSEC"]);

    // The leader dies; whoever is left signs on, and who comes back signs from its disk.
    let leader = cluster.leader();
    let index = cluster.index(&leader);
    cluster.nodes[index].off();
    for name in ["after.dev.example.com", "loss.dev.example.com"] {
        resolver.believes(&[name, "A"], &["192.0.2.9"]);
    }
    for node in cluster.running() {
        believed(&folder, node, &first);
    }
    cluster.nodes[index].start(None);
    cluster.well(Duration::from_secs(60));
    believed(&folder, &cluster.nodes[index], &first);

    roll(&cluster, &folder, &first);
    let seen: BTreeSet<bool> = cluster.nodes.iter().map(holds_key).collect();
    assert_eq!(seen, [false].into(), "no key is on a disk as it is");
}

/// Another key takes over, without waiting; then what was named above before is not believed any more.
fn roll(cluster: &Cluster, folder: &Path, first: &str) {
    let node = cluster.any();
    let plan = node.ask(["dns", "roll", "example.com", "--plan"]);
    assert_eq!(plan.code, Some(4), "{}", plan.words());
    assert_eq!(node.ask(["dns", "roll", "example.com"]).code, Some(0));
    let step = |wanted: &str| {
        for node in cluster.running() {
            wait_for(wanted, LIMIT, || match zone(node) {
                told if told["step"] == wanted => Ok(()),
                told => Err(told.to_string()),
            });
        }
    };
    step("published");
    let early = node.ask(["dns", "roll", "example.com"]);
    assert_eq!(early.code, Some(6), "{}", early.words());
    assert_eq!(ds(node), first, "the zone above names the former still");
    believed(folder, node, first);
    assert_eq!(node.ask(["dns", "roll", "example.com", "--force", "a test"]).code, Some(0));
    step("offered");
    let next = ds(node);
    assert_ne!(next, first);
    assert_eq!(node.ask(["dns", "roll", "example.com"]).code, Some(6), "not before the zone above names it");
    let status = node.ask(["status"]);
    assert!(status.stdout.contains("have the zone above name its next key"), "{}", status.stdout);
    for anchor in [first, &next] {
        believed(folder, node, anchor);
    }
    assert_eq!(node.ask(["dns", "roll", "example.com", "--seen"]).code, Some(0));
    step("leaving");
    for anchor in [first, &next] {
        believed(folder, node, anchor);
    }
    assert_eq!(node.ask(["dns", "roll", "example.com", "--force", "a test"]).code, Some(0));
    step("steady");
    for node in cluster.running() {
        believed(folder, node, &next);
    }
    let former = delv(folder, node, first, &["mail.example.com", "A"]);
    assert!(!former.contains("; fully validated"), "{former}");
}

/// Whether the beginning of an unsealed private key of P-256 (PKCS #8) is in what a node keeps about zones.
fn holds_key(node: &Node) -> bool {
    let kept = std::fs::read(node.data.join("zone-keys")).expect("keys are kept");
    let oid = [0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    kept.windows(oid.len()).any(|part| part == oid)
}

#[test]
fn a_zone_that_does_not_ask_for_it_is_not_signed() {
    if no_tools() {
        return;
    }
    let cluster = Cluster::start(1);
    cluster.apply(&manifest(false));
    let node = &cluster.nodes[0];
    let ip = node.ip.to_string();
    wait_for("the zone is answered", LIMIT, || {
        let told = dig(&ip, DNS_PORT, &["mail.example.com", "+dnssec"]);
        if told.contains("192.0.2.7") && !told.contains("RRSIG") { Ok(()) } else { Err(told) }
    });
    let keys = dig(&ip, DNS_PORT, &["example.com", "DNSKEY", "+dnssec"]);
    assert!(keys.contains("ANSWER: 0") && !keys.contains("RRSIG"), "{keys}");
    let list = node.ask(["dns", "list"]).data();
    assert_eq!(array(&list).len(), 0);
    assert_eq!(node.ask(["dns", "ds", "example.com"]).code, Some(9));
}

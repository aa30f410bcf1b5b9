//! The names of the cluster, asked for as people and programs do: with `dig`, over UDP and TCP.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use hirsel_tests::cluster::{Cluster, DNS_PORT, Node, array, sample};
use hirsel_tests::{lacks, wait_for};

/// What `dig` printed.
struct Dug(String);

impl Dug {
    /// Records of the answer, each as one line: name, TTL, class, type, data.
    fn answer(&self) -> Vec<String> {
        self.section("ANSWER")
    }

    /// Data of the records of the answer.
    fn data(&self) -> BTreeSet<String> {
        let data = |line: &String| line.split_whitespace().skip(4).collect::<Vec<_>>().join(" ");
        self.answer().iter().map(data).collect()
    }

    fn section(&self, name: &str) -> Vec<String> {
        let lines = self.0.lines().skip_while(|line| !line.contains(&format!("{name} SECTION")));
        lines.skip(1).take_while(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// Asserts that all of these are in what was printed.
    fn says(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(self.0.contains(word), "no {word:?} in:\n{}", self.0);
        }
        self
    }
}

fn dig(node: &Node, words: &[&str]) -> Dug {
    let server = [format!("@{}", node.ip), "-p".into(), DNS_PORT.to_string(), "+tries=1".into(), "+time=2".into()];
    let output = Command::new("dig").args(server).args(words).output().expect("dig runs");
    Dug(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn no_dig() -> bool {
    lacks("dig", Command::new("dig").arg("-v").output().is_ok())
}

/// Where the instances of `hello` listen by `ps`: address and port.
fn listening(cluster: &Cluster) -> BTreeSet<(String, String)> {
    let rows = cluster.any().ask(["ps", "hello"]).data();
    let addrs = array(&rows).iter().filter_map(|row| row["addr"].as_str()?.rsplit_once(':'));
    addrs.map(|(ip, port)| (ip.to_owned(), port.to_owned())).collect()
}

#[test]
fn names_are_answered_on_every_node_and_a_killed_one_is_soon_in_no_answer() {
    if no_dig() {
        return;
    }
    let mut cluster = Cluster::start(3);
    cluster.apply(&sample(3));
    let wanted = listening(&cluster);
    let addrs: BTreeSet<String> = wanted.iter().map(|(ip, _)| ip.clone()).collect();
    assert_eq!(addrs.len(), 3, "one on each node");
    for node in &cluster.nodes {
        // News of health travels by gossip.
        wait_for("all instances are in the answer", Duration::from_secs(10), || {
            let told = dig(node, &["web.hello.hirsel"]);
            if told.data() == addrs { Ok(()) } else { Err(told.0) }
        });
        dig(node, &["web.hello.hirsel"]).says(&["status: NOERROR", "flags: qr aa rd", "EDNS: version: 0", "udp: 1232"]);
        let srv = dig(node, &["_web._tcp.hello.hirsel", "SRV"]);
        assert_eq!(srv.answer().len(), 3, "{}", srv.0);
        for line in srv.answer() {
            let [port, target] = line.split_whitespace().skip(6).collect::<Vec<_>>()[..] else { panic!("{line}") };
            let [addr] = &dig(node, &[target]).data().into_iter().collect::<Vec<_>>()[..] else { panic!("{target}") };
            assert!(wanted.contains(&(addr.clone(), port.to_owned())), "{line}, {addr}: {wanted:?}");
        }
        assert_eq!(dig(node, &["web.hello.hirsel", "SRV", "+tcp"]).data(), srv.data(), "the same over TCP");
        let lbs: BTreeSet<String> = cluster.lbs().iter().map(|(_, addr)| addr.ip().to_string()).collect();
        assert_eq!(dig(node, &["hello.hirsel"]).data(), lbs);
        assert_eq!(dig(node, &["n2.node.hirsel"]).data(), [cluster.node("n2").ip.to_string()].into());
    }
    let node = &cluster.nodes[0];
    dig(node, &["WeB.HeLLo.hirsel"]).says(&["NOERROR", ";WeB.HeLLo.hirsel.", "ANSWER: 3"]);
    dig(node, &["web.hello.hirsel", "AAAA"]).says(&[
        "NOERROR",
        "ANSWER: 0",
        "AUTHORITY: 1",
        "SOA",
        "hostmaster.hirsel.",
    ]);
    dig(node, &["hello.hirsel", "MX", "+tcp"]).says(&["NOERROR", "ANSWER: 0", "SOA"]);
    dig(node, &["api.hello.hirsel"]).says(&["NXDOMAIN", "flags: qr aa", "SOA"]);
    dig(node, &["n9.node.hirsel", "+tcp"]).says(&["NXDOMAIN", "SOA"]);
    dig(node, &["example.com"]).says(&["REFUSED"]);
    dig(node, &["web.hello.hirsel", "ANY", "+notcp"]).says(&["NOERROR", "HINFO", "RFC8482"]);
    dig(node, &["hirsel", "NS"]).says(&["n1.node.hirsel.", "n2.node.hirsel.", "n3.node.hirsel."]);
    dig(node, &["hirsel", "AXFR"]).says(&["Transfer failed"]);
    dig(node, &["web.hello.hirsel", "+edns=1", "+noednsnegotiation"]).says(&["BADVERS"]);
    dig(node, &["web.hello.hirsel", "+noedns"]).says(&["NOERROR", "ANSWER: 3"]);
    dig(node, &["web.hello.hirsel", "+opcode=status"]).says(&["NOTIMP"]);

    // Whoever asks at the moment of the loss, and does not lead.
    let victim = cluster.nodes.iter().map(|node| node.name.clone()).find(|name| *name != cluster.leader());
    let index = cluster.index(&victim.expect("three nodes"));
    let lost = cluster.nodes[index].ip.to_string();
    cluster.nodes[index].off();
    let ((), took) = wait_for("the lost node is in no answer", Duration::from_secs(30), || {
        for node in cluster.running() {
            for name in ["web.hello.hirsel", "hello.hirsel"] {
                let told = dig(node, &[name]);
                if told.data().contains(&lost) {
                    return Err(told.0);
                }
                told.says(&["NOERROR"]);
            }
        }
        Ok(())
    });
    eprintln!("a killed node was in no answer after {} ms", took.as_millis());
    cluster.well(Duration::from_secs(60));
    let now: BTreeSet<String> = listening(&cluster).into_iter().map(|(ip, _)| ip).collect();
    for node in cluster.running() {
        wait_for("what took its place is in the answer", Duration::from_secs(10), || {
            let told = dig(node, &["web.hello.hirsel", "SRV"]);
            if told.answer().len() == 3 && dig(node, &["web.hello.hirsel"]).data() == now {
                Ok(())
            } else {
                Err(told.0)
            }
        });
    }
}

#[test]
fn many_instances_are_cut_over_udp_and_whole_over_tcp() {
    if no_dig() {
        return;
    }
    let cluster = Cluster::start(1);
    cluster.apply(&sample(24));
    let node = &cluster.nodes[0];
    dig(node, &["web.hello.hirsel", "SRV", "+noedns", "+ignore"]).says(&["flags: qr aa tc", "NOERROR"]);
    let whole = dig(node, &["web.hello.hirsel", "SRV", "+noedns"]);
    whole.says(&["Truncated, retrying in TCP mode", "ANSWER: 24"]);
}

#[test]
fn garbage_does_no_harm() {
    if no_dig() {
        return;
    }
    let cluster = Cluster::start(1);
    cluster.apply(&sample(1));
    let node = &cluster.nodes[0];
    let socket = UdpSocket::bind((node.ip, 0)).unwrap();
    let mut bytes: Vec<u8> = (0..2_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for length in (0..600).chain([1_232, 2_000]) {
        bytes.rotate_left(7);
        socket.send_to(&bytes[..length], node.addr(DNS_PORT)).unwrap();
    }
    // A length that is never filled, one that is too long, and one of nothing.
    let mut connections = Vec::new();
    for start in [&[0xff, 0xff, 1, 2][..], &[0, 50, 1], &[0, 0]] {
        let mut stream = TcpStream::connect(node.addr(DNS_PORT)).unwrap();
        stream.write_all(start).unwrap();
        connections.push(stream);
    }
    let mut end = Vec::new();
    connections[0].set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    // Closed, with or without a reset.
    assert!(matches!(connections[0].read_to_end(&mut end), Ok(0) | Err(_)));
    dig(node, &["web.hello.hirsel"]).says(&["NOERROR", "ANSWER: 1"]);
    dig(node, &["web.hello.hirsel", "+tcp"]).says(&["NOERROR", "ANSWER: 1"]);
    let log = std::fs::read_to_string(node.log()).unwrap();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn routes_of_a_zone_that_was_handed_over_are_answered_and_a_taken_port_harms_nobody() {
    if no_dig() {
        return;
    }
    let mut cluster = Cluster::new();
    let config = cluster.folder.path().join("hirsel.toml");
    std::fs::write(&config, "[dns]\nzones = [\"shop.example\"]\npublic = [\"203.0.113.5\", \"2001:db8::5\"]\n")
        .unwrap();
    let node = cluster.place();
    let mut words = vec![node.executable.display().to_string()];
    words.extend(node.words(None));
    words.extend(["--config".into(), config.display().to_string()]);
    // Somebody has the port.
    let taken = UdpSocket::bind(node.addr(DNS_PORT)).unwrap();
    node.launch_as(&words);
    node.ready();
    let ip = node.ip.to_string();
    cluster.whole();
    let executable = hirsel_tests::executable::hirsel().display();
    cluster.apply(&format!(
        "app = \"shop\"\n[service.web]\ncommand = [\"{executable}\", \"sample\"]\nhealth = {{ http = \"/healthz\" }}\n\
         [route.\"www.shop.example\"]\nto = \"web\"\n[route.\"shop.example/cart\"]\nto = \"web\"\n"
    ));
    let node = &cluster.nodes[0];
    let status = node.ask(["status"]);
    assert_eq!(status.data()["health"], "healthy");
    assert!(status.stdout.contains("names are not answered on n1; try: hirsel doctor --node n1"), "{}", status.stdout);
    let doctor = node.ask(["doctor"]).data();
    let check = array(&doctor["checks"]).iter().find(|check| check["check"] == "dns").expect("a check of dns");
    assert_eq!(check["state"], "warning");
    assert!(check["value"].as_str().is_some_and(|value| value.contains("is taken by another program")), "{check}");
    drop(taken);
    wait_for("the port is used once it is free", Duration::from_secs(30), || {
        let told = dig(node, &["web.shop.hirsel"]);
        if told.data() == [ip.clone()].into() { Ok(()) } else { Err(told.0) }
    });
    let log = std::fs::read_to_string(node.log()).unwrap();
    assert_eq!(log.matches("names cannot be answered").count(), 1, "said once: {log}");

    let public = BTreeSet::from(["203.0.113.5".to_owned()]);
    assert_eq!(dig(node, &["www.shop.example"]).data(), public);
    assert_eq!(dig(node, &["shop.example"]).data(), public, "the zone itself may be a host");
    assert_eq!(dig(node, &["www.shop.example", "AAAA"]).data(), ["2001:db8::5".to_owned()].into());
    assert_eq!(dig(node, &["shop.example", "NS"]).data(), ["n1.ns.shop.example.".to_owned()].into());
    assert_eq!(dig(node, &["n1.ns.shop.example"]).data(), public);
    dig(node, &["shop.example", "SOA"]).says(&["n1.ns.shop.example. hostmaster.shop.example."]);
    dig(node, &["api.shop.example"]).says(&["NXDOMAIN", "SOA"]);
    dig(node, &["www.other.example"]).says(&["REFUSED"]);
}

/// An application that is a zone and nothing else, but for `more` records.
fn zone(more: &str) -> String {
    format!(
        "app = \"names\"\n[zone.\"example.com\"]\nttl = \"1m\"\n[zone.\"example.com\".records]\n\
         \"@\" = {{ MX = [\"10 mail\", \"20 MX.Example.net.\"], TXT = \"v=spf1 mx -all\", CAA = '0 issue \"letsencrypt.org\"' }}\n\
         mail = {{ A = [\"192.0.2.7\", \"192.0.2.8\"], AAAA = \"2001:db8::7\", ttl = \"1h\" }}\n\
         docs = {{ CNAME = \"www.example.net.\" }}\nalias = {{ CNAME = \"mail\" }}\n\"*.dev\" = {{ A = \"192.0.2.9\" }}\n\
         \"_sip._tcp\" = {{ SRV = \"0 5 5060 mail\" }}\nsub = {{ NS = \"ns1.sub.example.com.\" }}\n\
         \"ns1.sub\" = {{ A = \"192.0.2.53\" }}\n{more}"
    )
}

#[test]
fn records_of_a_zone_are_answered_on_every_node_and_change_without_a_restart() {
    if no_dig() {
        return;
    }
    let cluster = Cluster::start(3);
    cluster.apply(&zone(""));
    let one = |text: &str| BTreeSet::from([text.to_owned()]);
    for node in &cluster.nodes {
        wait_for("the zone is answered", Duration::from_secs(10), || {
            let told = dig(node, &["example.com", "TXT"]);
            if told.data() == one("\"v=spf1 mx -all\"") { Ok(()) } else { Err(told.0) }
        });
        let mx = dig(node, &["example.com", "MX"]);
        assert_eq!(mx.data(), ["10 mail.example.com.".to_owned(), "20 MX.Example.net.".into()].into());
        mx.says(&["flags: qr aa", "ADDITIONAL: 4", "192.0.2.7"]);
        assert_eq!(dig(node, &["example.com", "CAA"]).data(), one("0 issue \"letsencrypt.org\""));
        assert_eq!(dig(node, &["_sip._tcp.example.com", "SRV"]).data(), one("0 5 5060 mail.example.com."));
        let mail = dig(node, &["MAIL.example.com"]);
        assert_eq!(mail.data(), ["192.0.2.7".to_owned(), "192.0.2.8".into()].into());
        assert!(
            mail.answer().iter().all(|line| line.starts_with("MAIL.example.com.") && line.contains("3600")),
            "{}",
            mail.0
        );
        let alias = dig(node, &["alias.example.com", "AAAA"]);
        assert_eq!(alias.data(), ["mail.example.com.".to_owned(), "2001:db8::7".into()].into(), "{}", alias.0);
        dig(node, &["docs.example.com"]).says(&["NOERROR", "ANSWER: 1", "www.example.net.", "flags: qr aa"]);
        dig(node, &["x.y.dev.example.com"]).says(&["NOERROR", "x.y.dev.example.com.", "192.0.2.9"]);
        dig(node, &["x.dev.example.com", "MX"]).says(&["NOERROR", "ANSWER: 0", "SOA"]);
        dig(node, &["dev.example.com"]).says(&["NOERROR", "ANSWER: 0", "SOA"]);
        dig(node, &["none.example.com"]).says(&["NXDOMAIN", "flags: qr aa", "SOA"]);
        let sub = dig(node, &["a.b.sub.example.com", "+norecurse"]);
        sub.says(&["NOERROR", "flags: qr;", "ANSWER: 0", "AUTHORITY: 1", "ns1.sub.example.com.", "192.0.2.53"]);
        dig(node, &["sub.example.com", "DS"]).says(&["NOERROR", "flags: qr aa", "SOA"]);
        assert_eq!(dig(node, &["example.com", "NS"]).answer().len(), 3);
        assert_eq!(dig(node, &["n2.ns.example.com"]).data(), one(&cluster.node("n2").ip.to_string()));
    }

    // What will change is told by its name, before and after.
    let file = cluster.folder.path().join("zone.toml");
    let node = &cluster.nodes[0];
    std::fs::write(&file, zone("new = { A = \"192.0.2.11\" }\n").replace("192.0.2.9", "192.0.2.10")).unwrap();
    let plan = node.ask(["plan", file.to_str().unwrap()]);
    for says in ["zones.example.com.records.*.dev", "A 192.0.2.9", "A 192.0.2.10", "zones.example.com.records.new"] {
        assert!(plan.stdout.contains(says), "no {says:?} in:\n{}", plan.stdout);
    }
    assert!(!plan.stdout.contains("records.mail"), "{}", plan.stdout);
    let serial = |node: &Node| {
        let soa = dig(node, &["example.com", "SOA"]).data().into_iter().next().unwrap_or_default();
        soa.split(' ').nth(2).and_then(|serial| serial.parse::<u64>().ok()).unwrap_or_default()
    };
    let before = serial(node);
    cluster.apply_only(&std::fs::read_to_string(&file).unwrap());
    for node in &cluster.nodes {
        let ((), took) = wait_for("the change is answered", Duration::from_secs(10), || {
            let told = dig(node, &["x.dev.example.com"]);
            if told.data() == one("192.0.2.10") { Ok(()) } else { Err(told.0) }
        });
        eprintln!("a changed record was answered on {} after {} ms", node.name, took.as_millis());
        assert_eq!(dig(node, &["new.example.com"]).data(), one("192.0.2.11"));
        assert!(serial(node) > before, "whoever compares sees that it is new");
    }

    // Another application may have routes in it, but not where addresses are said.
    let executable = hirsel_tests::executable::hirsel().display();
    let routed = |host: &str| {
        format!(
            "app = \"shop\"\n[service.web]\ncommand = [\"{executable}\", \"sample\"]\n[route.\"{host}\"]\nto = \"web\"\n"
        )
    };
    let file = cluster.folder.path().join("shop.toml");
    std::fs::write(&file, routed("mail.example.com")).unwrap();
    let refused = node.ask(["apply", file.to_str().unwrap()]);
    assert!(refused.stderr.contains("says other addresses for it"), "{}", refused.stderr);
    std::fs::write(&file, "app = \"two\"\n[zone.\"example.com\"]\n").unwrap();
    let refused = node.ask(["apply", file.to_str().unwrap()]);
    assert!(refused.stderr.contains("zone example.com belongs to application names"), "{}", refused.stderr);
    std::fs::write(&file, "app = \"two\"\n[zone.\"b.test\".records]\nwww = { CNAME = \"a\", A = \"192.0.2.1\" }\n")
        .unwrap();
    let refused = node.ask(["apply", file.to_str().unwrap()]);
    assert!(
        refused.stderr.contains("3:9: CNAME of ") && refused.stderr.contains("is another name"),
        "{}",
        refused.stderr
    );
    cluster.apply(&routed("www.example.com"));
    let lbs: BTreeSet<String> = cluster.lbs().iter().map(|(_, addr)| addr.ip().to_string()).collect();
    for node in &cluster.nodes {
        wait_for("the route is answered", Duration::from_secs(10), || {
            let told = dig(node, &["www.example.com"]);
            if told.data() == lbs { Ok(()) } else { Err(told.0) }
        });
    }
    let log = std::fs::read_to_string(node.log()).unwrap();
    assert!(!log.contains("panicked"), "{log}");
}

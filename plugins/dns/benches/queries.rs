//! Processor time per question over UDP, next to knot and unbound where they are installed.
//!
//! `cargo bench -p hirsel-dns --bench queries [-- SECONDS]`. Each server is a process of its own with one worker, authoritative for the
//! same zone of a thousand addresses; load comes from `dnsperf`, which asks for them in a random order with EDNS. Processor time is that
//! of the server alone (`/proc/PID/stat`). Many short rounds alternate and are summed, so that a busy machine is busy for all. Rate
//! limiting is on in all of them, and never reached; ours does not count who asks from its own host, so what counting takes is measured
//! by itself and added. The same again for a signed zone and for who wants signatures: knot signs ahead in one row, and as it answers in
//! another.
#![allow(missing_docs, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hirsel_dns::limit::Limiter;
use hirsel_dns::metrics::Metrics;
use hirsel_dns::names::Names;
use hirsel_dns::serve::{Desk, Server};
use hirsel_mesh::seam::real::{OsClock, OsNet, chance};
use hirsel_mesh::seam::{Clock, Datagrams, Net};
use hirsel_model::order::{DnsOrder, NamedNode, SignedZone};
use hirsel_model::spec::ZoneSpec;
use hirsel_model::{Generation, NodeId};
use hirsel_role::dnssec::{ZoneKey, ZoneKeyring};
use hirsel_role::{Live, Me, Spawner};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use tokio::sync::watch;

const ROUNDS: usize = 10;
const NAMES: usize = 1_000;
/// Questions under way at once: what one busy resolver has.
const OUTSTANDING: &str = "100";

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[1..] {
        ["serve", listen] => serve(listen.parse().expect("an address"), Signing::None),
        ["sign", listen] => serve(listen.parse().expect("an address"), Signing::Own),
        _ => compare(args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(2)),
    }
}

/// How a zone is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signing {
    None,
    /// As each server does by itself.
    Own,
    /// knot: as it answers.
    Online,
}

struct Contender {
    name: &'static str,
    signing: Signing,
    addr: SocketAddr,
    child: Child,
    answers: u64,
    user: f64,
    system: f64,
}

fn compare(seconds: u64) {
    if program("dnsperf").is_none() {
        return println!("skipped: needs dnsperf");
    }
    let folder = std::env::temp_dir().join(format!("hirsel-dns-bench-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let questions = folder.join("questions");
    // Each name as often as any other, in an order that no cache likes.
    let asked: String = (0..NAMES * 10).fold(String::new(), |mut all, n| {
        let _ = writeln!(all, "h{}.example.com A", n * 7_919 % NAMES);
        all
    });
    fs::write(&questions, asked).expect("a file");
    let mut zone =
        "$ORIGIN example.com.\n$TTL 300\n@ SOA n1.ns hostmaster 1 60 10 86400 10\n@ NS n1.ns\nn1.ns A 192.0.2.1\n"
            .to_owned();
    for n in 0..NAMES {
        let _ = writeln!(zone, "h{n} A {}", address(n));
    }
    fs::write(folder.join("zone"), zone).expect("a file");

    let mut contenders = Vec::new();
    let mut add = |name, addr, signing, child: Option<Child>| match child {
        Some(child) => contenders.push(Contender { name, signing, addr, child, answers: 0, user: 0.0, system: 0.0 }),
        None => println!("skipped: needs {name}"),
    };
    let own = |word: &str, addr: SocketAddr| {
        Command::new(std::env::current_exe().expect("a path")).args([word, &addr.to_string()]).spawn().ok()
    };
    let addr = free_addr();
    add("hirsel dns", addr, Signing::None, own("serve", addr));
    let addr = free_addr();
    add("knot", addr, Signing::None, knot(&folder, addr, Signing::None));
    let addr = free_addr();
    add("unbound", addr, Signing::None, unbound(&folder, addr));
    let addr = free_addr();
    add("hirsel signed", addr, Signing::Own, own("sign", addr));
    let addr = free_addr();
    add("knot signed", addr, Signing::Own, knot(&folder, addr, Signing::Own));
    let addr = free_addr();
    add("knot online", addr, Signing::Online, knot(&folder, addr, Signing::Online));
    contenders.iter().for_each(|it| answers(it.addr));

    for it in &contenders {
        load(it.addr, &questions, 1, it.signing);
    }
    for _ in 0..ROUNDS {
        for it in &mut contenders {
            let before = cpu(it.child.id());
            it.answers += load(it.addr, &questions, seconds, it.signing);
            let after = cpu(it.child.id());
            (it.user, it.system) = (it.user + after.0 - before.0, it.system + after.1 - before.1);
        }
    }
    report(&contenders, seconds);
    for mut it in contenders {
        let _ = it.child.kill();
        let _ = it.child.wait();
    }
    let _ = fs::remove_dir_all(folder);
}

fn report(contenders: &[Contender], seconds: u64) {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let loadavg = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let limiter = limiter_micros();
    println!(
        "machine: {cores} cores, {}, load {}",
        model.trim_start_matches([' ', '\t', ':']),
        loadavg.split(' ').next().unwrap_or("")
    );
    println!(
        "method: dnsperf, {OUTSTANDING} questions under way, {NAMES} names, EDNS, one worker each; processor time of the server's process over \
         {ROUNDS} alternating rounds of {seconds} s; ours with {limiter:.3} µs for the limit of rates, which it spares its own host"
    );
    let micros = |time: f64, it: &Contender| time * 1e6 / it.answers.max(1) as f64;
    let total =
        |it: &Contender| micros(it.user + it.system, it) + if it.name.starts_with("hirsel") { limiter } else { 0.0 };
    let knot = contenders.iter().find(|it| it.name == "knot").map(total);
    println!("{:<14}{:>14}{:>9}{:>9}{:>12}{:>9}", "server", "CPU µs/query", "user", "system", "answers/s", "× knot");
    for it in contenders {
        let ratio = knot.map_or_else(String::new, |knot| format!("{:.2}", total(it) / knot));
        let rate = it.answers / (ROUNDS as u64 * seconds);
        let (user, system) = (micros(it.user, it), micros(it.system, it));
        println!("{:<14}{:>14.3}{user:>9.3}{system:>9.3}{rate:>12}{ratio:>9}", it.name, total(it));
    }
}

/// What one look at the limit of rates takes.
fn limiter_micros() -> f64 {
    const RUNS: u32 = 1_000_000;
    let (mut limiter, clock) = (Limiter::new(7), OsClock);
    let began = Instant::now();
    for n in 0..RUNS {
        black_box(limiter.take(Ipv4Addr::from_bits(n << 8).into(), clock.now()));
    }
    began.elapsed().as_secs_f64() * 1e6 / f64::from(RUNS)
}

fn serve(listen: SocketAddr, signing: Signing) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let kind = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let bytes = EcdsaKeyPair::generate_pkcs8(kind, &SystemRandom::new()).expect("a key").as_ref().to_vec();
    let pair = EcdsaKeyPair::from_pkcs8(kind, &bytes, &SystemRandom::new()).expect("a key");
    let public = pair.public_key().as_ref()[1..].to_vec();
    runtime.block_on(async {
        let mut zone = ZoneSpec::default();
        for n in 0..NAMES {
            let data = format!("A {}", address(n)).parse().expect("a record");
            zone.records.entry(format!("h{n}")).or_default().data.insert(data);
        }
        let (name, zone_name): (hirsel_model::NodeName, hirsel_model::ZoneName) =
            ("n1".parse().expect("a name"), "a".parse().expect("a name"));
        let node = NamedNode {
            name: name.clone(),
            addr: "192.0.2.1:7400".parse().expect("an address"),
            zone: zone_name.clone(),
            site: zone_name.clone(),
        };
        let order = DnsOrder {
            nodes: [(NodeId(1), node)].into(),
            zones: [("example.com".to_owned(), Arc::new(zone))].into(),
            signed: signed(signing, &public),
            ..DnsOrder::default()
        };
        let host = Ipv4Addr::LOCALHOST.into();
        let me = Me { id: NodeId(1), name, zone: zone_name, instance_host: host, bind: host };
        let (_told, live) = watch::channel(Arc::new(Live::default()));
        let names = Names::new(Generation(1), Arc::new(order), &[]);
        let names = names.with_keys(&ZoneKeyring([(1, ZoneKey(bytes))].into()));
        let desk = Arc::new(Desk::new(names, live, me, Arc::new(OsClock), chance().as_ref(), Metrics::new()));
        let datagrams = Datagrams::new(OsNet.udp(listen).await.expect("a socket"));
        let listener = OsNet.listen(listen).await.expect("a listener");
        let _server = Server::start(datagrams, listener, &desk, &Spawner::new(tokio::runtime::Handle::current()));
        std::future::pending::<()>().await;
    });
}

fn signed(signing: Signing, public: &[u8]) -> BTreeMap<String, Arc<SignedZone>> {
    let zone = SignedZone { keys: [(1, public.to_vec())].into(), signs: 1, offered: Some(1) };
    let zones = [("example.com".to_owned(), Arc::new(zone))];
    zones.into_iter().filter(|_| signing != Signing::None).collect()
}

fn knot(folder: &Path, addr: SocketAddr, signing: Signing) -> Option<Child> {
    let own = folder.join(format!("knot-{signing:?}"));
    fs::create_dir_all(&own).ok()?;
    fs::copy(folder.join("zone"), own.join("zone")).ok()?;
    let (at, config) = (own.display(), own.join("knot.conf"));
    let (ip, port) = (addr.ip(), addr.port());
    let more = match signing {
        Signing::None => "",
        Signing::Own => "    dnssec-signing: on\n    dnssec-policy: one\n    zonefile-sync: -1\n",
        Signing::Online => "    module: mod-onlinesign/one\n",
    };
    let text = format!(
        "server:\n  rundir: {at}\n  listen: {ip}@{port}\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n\
         database:\n  storage: {at}/knot\nlog:\n  - target: stderr\n    any: error\n\
         mod-rrl:\n  - id: default\n    rate-limit: 4000000\n    slip: 2\n\
         template:\n  - id: default\n    storage: {at}\n    global-module: mod-rrl/default\n    zonefile-load: whole\n    journal-content: none\n\
         policy:\n  - id: one\n    algorithm: ecdsap256sha256\n    single-type-signing: on\n\
         mod-onlinesign:\n  - id: one\n    policy: one\n\
         zone:\n  - domain: example.com\n    file: zone\n{more}"
    );
    fs::write(&config, text).ok()?;
    fs::create_dir_all(own.join("knot")).ok()?;
    Command::new(program("knotd")?).arg("-c").arg(&config).stdout(Stdio::null()).spawn().ok()
}

fn unbound(folder: &Path, addr: SocketAddr) -> Option<Child> {
    let (at, config) = (folder.display(), folder.join("unbound.conf"));
    let (ip, port) = (addr.ip(), addr.port());
    let text = format!(
        "server:\n  directory: \"{at}\"\n  chroot: \"\"\n  username: \"\"\n  pidfile: \"\"\n  use-syslog: no\n  logfile: \"\"\n  do-daemonize: no\n\
         \x20 num-threads: 1\n  interface: {ip}@{port}\n  access-control: 127.0.0.0/8 allow\n  ip-ratelimit: 4000000\n  module-config: \"iterator\"\n\
         auth-zone:\n  name: example.com\n  zonefile: \"{at}/zone\"\n  for-downstream: yes\n  for-upstream: no\n\
         remote-control:\n  control-enable: no\n"
    );
    fs::write(&config, text).ok()?;
    Command::new(program("unbound")?).arg("-d").arg("-c").arg(&config).stderr(Stdio::null()).spawn().ok()
}

fn address(n: usize) -> IpAddr {
    Ipv4Addr::new(10, 1, (n / 250) as u8, (n % 250) as u8 + 1).into()
}

fn program(name: &str) -> Option<std::path::PathBuf> {
    ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"]
        .map(|folder| Path::new(folder).join(name))
        .into_iter()
        .find(|path| path.exists())
}

/// A port that is free for both kinds of sockets.
fn free_addr() -> SocketAddr {
    let both = || {
        let addr = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
        TcpListener::bind(addr).is_ok().then_some(addr)
    };
    std::iter::repeat_with(both).flatten().next().expect("a port")
}

/// Waits until questions are answered there.
fn answers(addr: SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a limit");
    let question = b"\x12\x34\0\0\0\x01\0\0\0\0\0\0\x02h1\x07example\x03com\0\0\x01\0\x01";
    let mut answer = [0; 512];
    for _ in 0..100 {
        let _ = socket.send_to(question, addr);
        // With an answer in it.
        if socket.recv(&mut answer).is_ok() && answer[7] == 1 {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("nothing answers at {addr}");
}

/// Seconds of a process as user and in the kernel.
fn cpu(pid: u32) -> (f64, f64) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the server runs");
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    // USER_HZ is 100 on every Linux.
    let seconds = |field: usize| fields[field].parse::<f64>().unwrap_or_default() / 100.0;
    (seconds(11), seconds(12))
}

/// Asks for `seconds`, and tells how many answers came.
fn load(addr: SocketAddr, questions: &Path, seconds: u64, signing: Signing) -> u64 {
    let output = Command::new(program("dnsperf").expect("dnsperf"))
        .args([
            "-s",
            &addr.ip().to_string(),
            "-p",
            &addr.port().to_string(),
            "-e",
            "-c",
            "4",
            "-T",
            "1",
            "-q",
            OUTSTANDING,
        ])
        .args(if signing == Signing::None { &[][..] } else { &["-D"] })
        .args(["-l", &seconds.to_string(), "-d"])
        .arg(questions)
        .output()
        .expect("dnsperf runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let completed = text.lines().find_map(|line| line.trim().strip_prefix("Queries completed:"));
    let codes = text.lines().find(|line| line.contains("Response codes:")).unwrap_or_default();
    assert!(codes.contains("NOERROR") && !codes.contains(','), "only answers count: {text}");
    completed.and_then(|it| it.split_whitespace().next()).and_then(|count| count.parse().ok()).unwrap_or(0)
}

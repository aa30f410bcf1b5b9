//! Questions about names of others, passed on over real sockets to a resolver that behaves in many ways, and asked by `dig`.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hirsel_dns::forward::{Counters, Forward, Outside};
use hirsel_dns::metrics::Metrics;
use hirsel_dns::names::Names;
use hirsel_dns::serve::{Desk, Server};
use hirsel_mesh::seam::real::{OsClock, OsNet, chance};
use hirsel_mesh::seam::{Datagrams, Net};
use hirsel_model::{Generation, NodeId};
use hirsel_role::host::real::{Groups, GuardConfig, RealHost, RealHostConfig};
use hirsel_role::{Live, Me, Spawner};
use tokio::sync::watch;

/// A resolver of our own: it answers each name below `test.` with an address, in its own way.
struct Resolver {
    addr: SocketAddr,
    /// Names it was asked for over UDP, as they were written, and how often over TCP.
    asked: Arc<Mutex<Vec<String>>>,
    over_tcp: Arc<AtomicUsize>,
}

impl Resolver {
    fn start(ip: Ipv4Addr) -> Self {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        let addr = socket.local_addr().unwrap();
        let listener = TcpListener::bind(addr).unwrap();
        let (asked, over_tcp) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicUsize>::default());
        let (told, count) = (asked.clone(), over_tcp.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 2_048];
            while let Ok((length, from)) = socket.recv_from(&mut bytes) {
                let name = written(&bytes[..length]);
                told.lock().unwrap().push(name.clone());
                let mut answer = answer(&bytes[..length]);
                match name.to_lowercase().as_str() {
                    "silent.test" => continue,
                    "slow.test" => std::thread::sleep(Duration::from_millis(400)),
                    "large.test" => {
                        answer.truncate(12 + name.len() + 6);
                        answer[2] |= 2;
                        answer[6..12].fill(0);
                    }
                    "small.test" => answer[12..12 + name.len() + 2].make_ascii_lowercase(),
                    // Somebody who does not know the number, and then the true answer.
                    "forged.test" => {
                        let mut forged = answer.clone();
                        forged[0] ^= 1;
                        let end = forged.len() - 1;
                        forged[end] = 66;
                        socket.send_to(&forged, from).unwrap();
                    }
                    _ => {}
                }
                socket.send_to(&answer, from).unwrap();
            }
        });
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut length = [0; 2];
                if stream.read_exact(&mut length).is_err() {
                    continue;
                }
                let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut bytes).unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let answer = answer(&bytes);
                stream.write_all(&(answer.len() as u16).to_be_bytes()).unwrap();
                stream.write_all(&answer).unwrap();
            }
        });
        Self { addr, asked, over_tcp }
    }

    fn count(&self, name: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| asked.eq_ignore_ascii_case(name)).count()
    }
}

/// The name of a question as it is written.
fn written(bytes: &[u8]) -> String {
    let (mut at, mut labels) = (12, Vec::new());
    while bytes[at] != 0 {
        let end = at + 1 + usize::from(bytes[at]);
        labels.push(String::from_utf8_lossy(&bytes[at + 1..end]).into_owned());
        at = end;
    }
    labels.join(".")
}

/// Its question, and one address for a minute; that there is no such name for `none.test`.
fn answer(question: &[u8]) -> Vec<u8> {
    let end = 12 + written(question).len() + 6;
    let mut answer = question[..end].to_vec();
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    if written(question).eq_ignore_ascii_case("none.test") {
        answer[3] |= 3;
        answer[7] = 0;
    } else {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 80]);
    }
    answer
}

/// A server that passes questions on to these.
struct Asked {
    addr: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Asked {
    fn start(resolvers: Vec<SocketAddr>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let folder = std::env::temp_dir().join(format!("hirsel-dns-forward-{}", std::process::id()));
        let guard = GuardConfig { folder: folder.join("guard"), command: vec!["false".into()] };
        let config =
            RealHostConfig { folder, shim: vec!["false".into()], guard, groups: Groups::Never, net: Arc::new(OsNet) };
        let (send, receive) = std::sync::mpsc::sync_channel(1);
        let spawner = Spawner::new(runtime.handle().clone());
        drop(runtime.spawn(async move {
            let host = Arc::new(RealHost::new(config).unwrap());
            let outside = Outside { host, clock: Arc::new(OsClock), chance: chance(), spawner: spawner.clone() };
            let forward = Forward::new(resolvers, Vec::new(), outside, Counters::default());
            let (name, zone) = ("n1".parse().unwrap(), "a".parse().unwrap());
            let host = Ipv4Addr::LOCALHOST.into();
            let me = Me { id: NodeId(1), name, zone, instance_host: host, bind: host };
            let (_told, live) = watch::channel(Arc::new(Live::default()));
            let names = Names::new(Generation(1), Arc::default(), &[]);
            let desk = Desk::new(names, live, me, Arc::new(OsClock), chance().as_ref(), Metrics::new());
            let desk = Arc::new(desk.with_forward(forward));
            let listener = OsNet.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
            let addr = listener.local_addr().unwrap();
            let datagrams = Datagrams::new(OsNet.udp(addr).await.unwrap());
            let _server = Server::start(datagrams, listener, &desk, &spawner);
            send.send(addr).unwrap();
            std::future::pending::<()>().await;
        }));
        Self { addr: receive.recv_timeout(Duration::from_secs(10)).unwrap(), _runtime: runtime }
    }

    /// What `dig` printed.
    fn dig(&self, words: &[&str]) -> String {
        let child = self.dig_soon(words).wait_with_output().unwrap();
        String::from_utf8_lossy(&child.stdout).into_owned()
    }

    fn dig_soon(&self, words: &[&str]) -> std::process::Child {
        let server = [format!("@{}", self.addr.ip()), "-p".into(), self.addr.port().to_string(), "+tries=1".into()];
        Command::new("dig").args(server).args(words).stdout(Stdio::piped()).spawn().unwrap()
    }

    /// The addresses told.
    fn ask(&self, words: &[&str]) -> BTreeSet<String> {
        self.dig(&[words, &["+short", "+time=9"]].concat()).lines().map(str::to_owned).collect()
    }
}

/// Asserts that all of these are in what was printed.
fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no {word:?} in:\n{text}");
    }
}

#[test]
fn names_of_others_are_asked_for_once_wherever_they_can_be_had() {
    if Command::new("dig").arg("-v").output().is_err() {
        let required = std::env::var("HIRSEL_REQUIRE").unwrap_or_default();
        assert!(required.is_empty(), "needs dig");
        return eprintln!("skipped: needs dig");
    }
    let resolver = Resolver::start(Ipv4Addr::LOCALHOST);
    // The first one that is named is there and says nothing.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let asked = Asked::start(vec![silent.local_addr().unwrap(), resolver.addr]);
    let address = BTreeSet::from(["192.0.2.80".to_owned()]);
    let told = asked.dig(&["WWW.other.test", "+time=9"]);
    says(&told, &["status: NOERROR", "flags: qr rd ra;", "WWW.other.test.", "192.0.2.80"]);
    let is_drawn = resolver.asked.lock().unwrap().iter().any(|name| *name != name.to_lowercase());
    assert!(is_drawn, "the case of letters is drawn");
    says(&asked.dig(&["www.OTHER.test"]), &["www.OTHER.test.", "flags: qr rd ra;", "192.0.2.80"]);
    assert_eq!(resolver.count("www.other.test"), 1, "it is remembered");
    assert_eq!(asked.ask(&["www.other.test", "+tcp"]), address);
    assert_eq!(asked.ask(&["other2.test", "+tcp"]), address);
    // All who ask at once wait for one answer.
    let askers: Vec<_> = (0..10).map(|_| asked.dig_soon(&["slow.test", "+short"])).collect();
    for asker in askers {
        assert_eq!(String::from_utf8_lossy(&asker.wait_with_output().unwrap().stdout).trim(), "192.0.2.80");
    }
    assert_eq!(resolver.count("slow.test"), 1);
    for name in ["large.test", "small.test"] {
        let before = resolver.over_tcp.load(Ordering::Relaxed);
        assert_eq!(asked.ask(&[name]), address, "{name}");
        assert_eq!(resolver.over_tcp.load(Ordering::Relaxed), before + 1, "{name} was asked for over TCP");
    }
    assert_eq!(asked.ask(&["forged.test"]), address, "what is no answer is passed over");
    says(&asked.dig(&["none.test"]), &["NXDOMAIN", "flags: qr rd ra;"]);
    says(&asked.dig(&["silent.test", "+time=9"]), &["SERVFAIL", "flags: qr rd ra;"]);
    // What is ours is ours, and what cannot be passed on is refused.
    says(&asked.dig(&["none.hirsel"]), &["flags: qr aa rd;", "NXDOMAIN"]);
    says(&asked.dig(&["other.test", "+norecurse"]), &["REFUSED"]);
    says(&asked.dig(&["other.test", "ANY", "+notcp"]), &["REFUSED"]);
    says(&asked.dig(&["other.test", "AXFR"]), &["Transfer failed"]);
}

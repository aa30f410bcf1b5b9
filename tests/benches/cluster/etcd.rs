//! etcd on loopback, with its defaults.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use hirsel_tests::cluster::loopback;
use hirsel_tests::http::Connection;
use serde_json::Value;

use crate::figures::timed;

const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
const LIMIT: Duration = Duration::from_secs(30);
/// A write that is handed to a dead leader is lost and answered after seconds only; so a new one is tried each:
const TRY_EVERY: Duration = Duration::from_millis(20);
/// A key and a value, in base64 as the gateway wants them.
const PUT: &[u8] = b"{\"key\":\"a2V5\",\"value\":\"dmFsdWU=\"}";

pub struct Etcd {
    folder: tempfile::TempDir,
    net: [u8; 3],
    members: Vec<Option<Child>>,
}

impl Etcd {
    pub fn start(count: usize) -> Self {
        let folder = tempfile::Builder::new().prefix("etcd-").tempdir().expect("a folder");
        let mut etcd = Self { folder, net: loopback(), members: (0..count).map(|_| None).collect() };
        (0..count).for_each(|member| etcd.spawn(member, "new"));
        etcd.leader();
        etcd
    }

    fn addr(&self, member: usize, port: u16) -> SocketAddr {
        let [a, b, c] = self.net;
        (Ipv4Addr::new(a, b, c, member as u8 + 1), port).into()
    }

    fn spawn(&mut self, member: usize, state: &str) {
        let url = |member: usize, port: u16| format!("http://{}", self.addr(member, port));
        let cluster: Vec<String> =
            (0..self.members.len()).map(|other| format!("e{other}={}", url(other, PEER_PORT))).collect();
        let (client, peer) = (url(member, CLIENT_PORT), url(member, PEER_PORT));
        let child = Command::new("etcd")
            .args(["--name", &format!("e{member}"), "--log-level", "error"])
            .arg("--data-dir")
            .arg(self.folder.path().join(member.to_string()))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &cluster.join(","), "--initial-cluster-state", state])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.members[member] = Some(child.expect("etcd runs"));
    }

    /// A member that leads, as it says itself.
    fn leader(&self) -> usize {
        let leads = |member: &usize| {
            let status = post(self.addr(*member, CLIENT_PORT), "/v3/maintenance/status", b"{}");
            status
                .is_some_and(|status| status["leader"].is_string() && status["leader"] == status["header"]["member_id"])
        };
        timed("etcd has a leader", Instant::now(), LIMIT, || (0..self.members.len()).find(leads)).0
    }

    /// Kills the leader, and tells when a survivor accepted a write. The killed one comes back.
    pub fn fail_over(&mut self, run: usize) -> Duration {
        let count = self.members.len();
        let leader = self.leader();
        let survivor = self.addr((leader + 1 + run % (count - 1)) % count, CLIENT_PORT);
        let put = move || post(survivor, "/v3/kv/put", PUT).map(drop);
        timed("a write before", Instant::now(), LIMIT, put);
        std::thread::sleep(Duration::from_millis(500 + 37 * run as u64 % 200));
        let mut victim = self.members[leader].take().expect("it runs");
        let killed = Instant::now();
        victim.kill().expect("it can be killed");
        let (accepted, first) = mpsc::channel();
        let took = loop {
            let accepted = accepted.clone();
            std::thread::spawn(move || put().map(|()| accepted.send(killed.elapsed())));
            if let Ok(took) = first.recv_timeout(TRY_EVERY) {
                break took;
            }
            assert!(killed.elapsed() < LIMIT, "etcd accepts no write");
        };
        let _ = victim.wait();
        self.spawn(leader, "existing");
        let back = self.addr(leader, CLIENT_PORT);
        timed("it is back", Instant::now(), LIMIT, || post(back, "/v3/kv/put", PUT));
        took
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in self.members.iter_mut().flatten() {
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

/// The answer, if it is one of success.
fn post(addr: SocketAddr, path: &str, body: &[u8]) -> Option<Value> {
    let mut connection = Connection::open(addr, Duration::from_secs(5)).ok()?;
    let (answer, _) = connection.ask("POST", "etcd", path, body).ok()?;
    (answer.status == 200).then(|| serde_json::from_slice(&answer.body).ok())?
}

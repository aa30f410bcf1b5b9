//! Durable control writes per second; next to etcd where `etcd` is installed. It takes about a minute.
//!
//! Three members in this process, each with a runtime, a data folder on a real disk and a real transport on loopback. A write is a
//! change that was answered: on two disks, applied, and confirmed to the writer. etcd runs as three processes on loopback with its
//! defaults, data beside ours; writes go over kept HTTP/1.1 connections to its leader: v2 keys (handled directly) and v3 (through its
//! JSON gateway, which costs it more CPU than gRPC would). What the loss of a leader costs is measured with real processes, in the
//! bench `cluster` of `hirsel-tests`.
//!
//! `cargo bench -p hirsel-mesh --bench control_writes`

#![allow(clippy::print_stdout, reason = "a benchmark reports on the terminal")]
#![allow(missing_docs)]

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hirsel_mesh::control::{Control, ControlConfig};
use hirsel_mesh::identity::{Authority, Identity, NodeKey, draw_cluster_id};
use hirsel_mesh::seam::real;
use hirsel_mesh::transport::{Peer, Peers, Transport, TransportConfig};
use hirsel_model::control::{Command, Entry, Outcome};
use hirsel_model::{Incarnation, NodeId, WallTime};
use tokio::runtime::Runtime;
use tokio::sync::watch;

mod etcd;
#[path = "../machine.rs"]
mod machine;

const CONCURRENCY: [usize; 3] = [1, 16, 256];
const MEASURE: Duration = Duration::from_secs(5);
const TTL: Duration = Duration::from_secs(20);

struct Member {
    runtime: Runtime,
    control: Arc<Control>,
    _transport: Arc<Transport>,
}

struct Herd {
    folder: tempfile::TempDir,
    identities: Vec<Identity>,
    peers: watch::Sender<Arc<Peers>>,
    members: Vec<Option<Member>>,
}

impl Herd {
    fn founded() -> Self {
        // Beside the build, which is on a disk; the temporary folder may be in memory.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let scratch = real::world(&folder.path().join("authority")).unwrap();
        let cluster = draw_cluster_id(&*scratch.chance);
        let authority = Authority::create(&cluster, &*scratch.chance, scratch.clock.wall());
        let identity = |node: u64| {
            let key = NodeKey::generate(&*scratch.chance);
            let mut reset_seed = [0; 32];
            scratch.chance.fill(&mut reset_seed);
            Identity {
                cluster: cluster.clone(),
                node: NodeId(node),
                name: format!("n{node}").parse().unwrap(),
                ca: authority.certificate().to_vec(),
                former: Vec::new(),
                cert: authority.issue(NodeId(node), &cluster, &key.csr(), scratch.clock.wall()).unwrap(),
                key: key.pkcs8().to_vec(),
                reset_seed,
                incarnation: Incarnation(1),
            }
        };
        let identities: Vec<Identity> = (1..=3).map(identity).collect();
        let mut herd = Self {
            folder,
            identities,
            peers: watch::Sender::new(Arc::default()),
            members: (0..3).map(|_| None).collect(),
        };
        (0..3).for_each(|nth| herd.start(nth));
        let first = herd.member(0);
        first.runtime.block_on(first.control.found(entry("http://first"))).unwrap();
        let voters: std::collections::BTreeSet<NodeId> = (1..=3).map(NodeId).collect();
        let control = first.control.clone();
        first.runtime.block_on(async move {
            while control.leadership().borrow().voters != voters {
                let _ = control.set_membership(voters.clone(), Default::default()).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        herd
    }

    fn start(&mut self, nth: usize) {
        let identity = self.identities[nth].clone();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let world = wait_for(|| real::world(&self.folder.path().join(identity.node.to_string())).ok());
        let addr = format!("127.0.0.{}:0", identity.node).parse().unwrap();
        let peers = self.peers.subscribe();
        let config = TransportConfig {
            world: world.clone(),
            identity: identity.clone(),
            bind: addr,
            advertise: addr,
            peers,
            streams: runtime.handle().clone(),
        };
        let transport = runtime.block_on(Transport::start(config)).unwrap();
        self.peers.send_modify(|peers| {
            let peer = Peer { addr: transport.advertise(), key: identity.public_key() };
            Arc::make_mut(peers).nodes.insert(identity.node, peer);
        });
        let peers = self.peers.subscribe();
        let config = ControlConfig { world, transport: transport.clone(), me: identity.node, peers };
        let control = runtime.block_on(Control::start(config)).unwrap();
        self.members[nth] = Some(Member { runtime, control, _transport: transport });
    }

    fn member(&self, nth: usize) -> &Member {
        self.members[nth].as_ref().unwrap()
    }

    fn leader(&self) -> usize {
        let leads =
            |nth: &usize| self.members[*nth].as_ref().is_some_and(|member| member.control.leadership().borrow().mine);
        wait_for(|| (0..3).find(leads))
    }
}

fn entry(url: &str) -> Entry {
    Entry {
        at: WallTime(0),
        by: "bench".into(),
        if_index: None,
        command: Command::SetWebhook { url: Some(url.into()) },
    }
}

fn wait_for<T>(look: impl Fn() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < TTL, "waited in vain");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Counts what `writers` get answered within the measured time.
fn writes_per_second(herd: &Herd, writers: usize) -> f64 {
    let member = herd.member(herd.leader());
    let count = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let (control, count) = (member.control.clone(), count.clone());
            member.runtime.spawn(async move {
                for number in 0u64.. {
                    let outcome = control.propose(entry(&format!("http://{writer}/{number}")), TTL).await.unwrap();
                    assert!(matches!(outcome, Outcome::Done { .. }));
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    std::thread::sleep(Duration::from_secs(1));
    let (from, began) = (count.load(Ordering::Relaxed), Instant::now());
    std::thread::sleep(MEASURE);
    let rate = (count.load(Ordering::Relaxed) - from) as f64 / began.elapsed().as_secs_f64();
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    rate
}

/// Syncs per second of one file, as a log does them.
fn syncs_per_second(folder: &Path) -> f64 {
    let mut file = std::fs::File::create(folder.join("syncs")).unwrap();
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(2) {
        file.write_all(&[7; 512]).unwrap();
        file.sync_data().unwrap();
        count += 1;
    }
    f64::from(count) / began.elapsed().as_secs_f64()
}

fn main() {
    println!("machine: {}", machine::describe());
    let herd = Herd::founded();
    println!(
        "disk: {:.0} syncs/s of one file under {}",
        syncs_per_second(herd.folder.path()),
        env!("CARGO_TARGET_TMPDIR")
    );
    let etcd = etcd::Etcd::start(herd.folder.path());
    if etcd.is_none() {
        println!("skipped: needs etcd (Debian: apt install etcd-server); only our own numbers follow");
    }
    println!("durable control writes per second, 3 members, through the leader:");
    println!("  {:>7}  {:>8}  {:>8}  {:>8}  {:>9}", "writers", "hirsel", "etcd v2", "etcd v3", "ratio(v2)");
    for writers in CONCURRENCY {
        let ours = writes_per_second(&herd, writers);
        let theirs = etcd.as_ref().map(|etcd| {
            (etcd.writes_per_second(writers, etcd::Api::V2), etcd.writes_per_second(writers, etcd::Api::V3))
        });
        match theirs {
            Some((v2, v3)) => println!("  {writers:>7}  {ours:>8.0}  {v2:>8.0}  {v3:>8.0}  {:>9.2}", ours / v2),
            None => println!("  {writers:>7}  {ours:>8.0}"),
        }
    }
}

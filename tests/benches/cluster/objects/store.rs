//! A store that speaks S3 at some addresses, and how fast it is.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hirsel_tests::cluster::{Cluster, Node};
use hirsel_tests::wait_for;

use super::FOR;
use super::client::{BUCKET, Connection};
use super::signed::Signer;
use crate::usage::cpu_ms;

const S3_PORT: u16 = 7480;
/// A cluster that has just begun takes objects within this.
const BEGINS_WITHIN: Duration = Duration::from_secs(60);
/// What each node may keep of objects: all are on one disk, and the benches clean up after themselves.
const CAPACITY: &str = "40GiB";

pub struct Store {
    pub addrs: Vec<SocketAddr>,
    pub pids: Vec<u32>,
    pub signer: Signer,
    /// Where nodes keep what they have.
    pub folders: Vec<PathBuf>,
}

/// What was measured of one kind of work.
pub struct Rate {
    pub per_second: f64,
    pub p50: Duration,
    pub p99: Duration,
    /// Processor time of all nodes for one.
    pub cpu_ms: f64,
}

impl Rate {
    /// One line.
    pub fn say(&self, what: &str, unit: &str, value: f64) {
        println!(
            "  {what:<32} {value:>8.0}{unit}; median {:.1}, p99 {:.1} ms; {:.2} ms of CPU each",
            self.p50.as_secs_f64() * 1e3,
            self.p99.as_secs_f64() * 1e3,
            self.cpu_ms
        );
    }
}

/// A cluster of ours with a bucket of this class.
pub fn hirsel(nodes: usize, class: &[&str]) -> (Cluster, Store) {
    let mut cluster = Cluster::new();
    cluster.storage_capacity = CAPACITY.into();
    for _ in 0..nodes {
        cluster.add();
    }
    cluster.whole();
    wait_for("a bucket can be made", BEGINS_WITHIN, || {
        match cluster.any().ask([&["bucket", "create", BUCKET], class].concat()) {
            ran if ran.code == Some(0) => Ok(()),
            ran => Err(ran.words()),
        }
    });
    // Partitions go to nodes that came late, and copies of what is written meanwhile stay behind.
    wait_for("partitions are where they stay", BEGINS_WITHIN, || {
        let status = cluster.any().ask(["status"]).try_data()?;
        if status["storage"]["moving"] == 0 { Ok(()) } else { Err(status["storage"].to_string()) }
    });
    let made = cluster.any().ask(["bucket", "key", "create", "bench"]).data();
    let word = |name: &str| made[name].as_str().expect("a key").to_owned();
    let store = Store {
        signer: Signer::new(word("access_key_id"), &word("secret_access_key"), "us-east-1"),
        pids: cluster.nodes.iter().map(Node::agent_pid).collect(),
        addrs: cluster.nodes.iter().map(|node| node.addr(S3_PORT)).collect(),
        folders: cluster.nodes.iter().map(|node| node.data.clone()).collect(),
    };
    (cluster, store)
}

impl Store {
    /// Has `clients` do one thing after another, each over a connection of its own.
    pub fn measure(&self, clients: usize, one: impl Fn(&mut Connection) -> io::Result<()> + Sync) -> Rate {
        self.times(clients, None, one)
    }

    /// The same, until `count` were done instead of for some time.
    pub fn do_all(&self, clients: usize, count: u64, one: impl Fn(&mut Connection) -> io::Result<()> + Sync) -> Rate {
        self.times(clients, Some(count), one)
    }

    fn times(
        &self,
        clients: usize,
        count: Option<u64>,
        one: impl Fn(&mut Connection) -> io::Result<()> + Sync,
    ) -> Rate {
        let took = Mutex::new(Vec::new());
        let (before, began) = (self.cpu_ms(), Instant::now());
        std::thread::scope(|scope| {
            for client in 0..clients {
                let (one, took) = (&one, &took);
                let addr = self.addrs[client % self.addrs.len()];
                let mine = count.map(|count| (0..count).skip(client).step_by(clients).count());
                scope.spawn(move || {
                    let mut connection = Connection::new(addr).expect("a gateway listens");
                    let mut times = Vec::new();
                    while mine.map_or(began.elapsed() < FOR, |mine| times.len() < mine) {
                        let at = Instant::now();
                        one(&mut connection).unwrap_or_else(|error| panic!("{addr}: {error}"));
                        times.push(at.elapsed());
                    }
                    took.lock().expect("nobody panicked").extend(times);
                });
            }
        });
        let (spent, elapsed) = (self.cpu_ms() - before, began.elapsed().as_secs_f64());
        let mut times = took.into_inner().expect("nobody panicked");
        times.sort();
        let count = times.len();
        let at = |part: usize| times.get(count * part / 100).copied().unwrap_or_default();
        Rate { per_second: count as f64 / elapsed, p50: at(50), p99: at(99), cpu_ms: spent / count.max(1) as f64 }
    }

    /// Processor time of all nodes so far.
    pub fn cpu_ms(&self) -> f64 {
        self.pids.iter().map(|pid| cpu_ms(*pid)).sum()
    }

    /// The most memory that a node had resident so far, in MB.
    pub fn memory_most_mb(&self) -> f64 {
        let most = |pid: &u32| {
            let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
            line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number of kB") * 1024.0 / 1e6
        };
        self.pids.iter().map(most).fold(0.0, f64::max)
    }

    /// Bytes that the folders of all nodes take.
    pub fn used(&self) -> u64 {
        self.folders.iter().map(|folder| taken(folder)).sum()
    }
}

/// Bytes that a folder takes.
pub fn taken(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(about) if about.is_dir() => taken(&entry.path()),
        Ok(about) => std::os::unix::fs::MetadataExt::blocks(&about) * 512,
        Err(_) => 0,
    };
    entries.map(size).sum()
}

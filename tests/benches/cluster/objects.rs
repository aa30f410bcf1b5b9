//! What objects cost: over S3, through the gateways of three nodes that keep three copies, all on one disk; beside plain files there.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hirsel_tests::cluster::{Cluster, Node};
use hirsel_tests::wait_for;

use crate::usage::cpu_ms;

mod signed;

use signed::Signer;

const NODES: usize = 3;
const S3_PORT: u16 = 7480;
/// How long each rate is measured.
const FOR: Duration = Duration::from_secs(5);
const SMALL: usize = 4 << 10;
const LARGE: usize = 64 << 20;
const CLIENTS: [usize; 3] = [1, 16, 64];
const CLIENTS_LARGE: [usize; 2] = [1, 8];
const BUCKET: &str = "bench";
/// A cluster that has just begun takes objects within this.
const BEGINS_WITHIN: Duration = Duration::from_secs(60);
/// Keys that a list gives in one page.
const PAGE: u64 = 1000;

/// What was measured of one kind of work.
struct Rate {
    per_second: f64,
    p99: Duration,
    /// Processor time of all agents for one.
    cpu_ms: f64,
}

pub fn report(_: usize) {
    println!(
        "\nobjects: {NODES} nodes, 3 copies, each synced before the answer, all on the disk of {}; presigned requests over kept connections, to all \
         nodes in turn; {} s each; clients run on the same machine",
        std::env::temp_dir().display(),
        FOR.as_secs()
    );
    let cluster = Cluster::start(NODES);
    wait_for("a bucket can be made", BEGINS_WITHIN, || match cluster.any().ask(["bucket", "create", BUCKET]) {
        ran if ran.code == Some(0) => Ok(()),
        ran => Err(ran.words()),
    });
    let made = cluster.any().ask(["bucket", "key", "create", "bench"]).data();
    let word = |name: &str| made[name].as_str().expect("a key").to_owned();
    let signer = Signer::new(word("access_key_id"), &word("secret_access_key"));
    let pids: Vec<u32> = cluster.nodes.iter().map(Node::agent_pid).collect();
    let addrs: Vec<SocketAddr> = cluster.nodes.iter().map(|node| node.addr(S3_PORT)).collect();
    let work = Work { addrs: &addrs, pids: &pids };

    let folder = tempfile::tempdir().expect("a folder");
    let body = noise(SMALL);
    let mut kept = 0;
    for clients in CLIENTS {
        let plain = files(folder.path(), clients, &body);
        let next = AtomicU64::new(kept);
        let rate = work.measure(clients, |connection| {
            let key = next.fetch_add(1, Ordering::Relaxed);
            connection.ask(&signer, "PUT", &format!("small/{key:08}"), &body).map(|_| ())
        });
        kept = next.into_inner();
        line(&format!("PUT 4 KiB, {clients} clients"), &rate, "/s", rate.per_second);
        println!(
            "      files written and synced by as many threads: {plain:.0}/s; {:.2} times that",
            rate.per_second / plain
        );
    }
    for clients in CLIENTS {
        let next = AtomicU64::new(0);
        let rate = work.measure(clients, |connection| {
            let key = next.fetch_add(7919, Ordering::Relaxed) % kept.max(1);
            connection.ask(&signer, "GET", &format!("small/{key:08}"), &[]).map(|bytes| assert_eq!(bytes, SMALL as u64))
        });
        line(&format!("GET 4 KiB, {clients} clients"), &rate, "/s", rate.per_second);
    }
    let rate = work.measure(1, |connection| connection.list(&signer, PAGE));
    line(&format!("a page of {PAGE} of {kept} keys"), &rate, " pages/s", rate.per_second);

    let body = noise(LARGE);
    let mb = LARGE as f64 / 1e6;
    let began = Instant::now();
    let mut file = File::create(folder.path().join("large")).expect("a file");
    file.write_all(&body).and_then(|()| file.sync_all()).expect("it is written");
    println!("  a file of 64 MiB, written and synced: {:.0} MB/s", mb / began.elapsed().as_secs_f64());
    let before = used(&cluster);
    let mut stored = 0;
    for clients in CLIENTS_LARGE {
        let next = AtomicU64::new(0);
        let rate = work.measure(clients, |connection| {
            let key = next.fetch_add(1, Ordering::Relaxed);
            connection.ask(&signer, "PUT", &format!("large/{clients}/{key}"), &body).map(|_| ())
        });
        stored += next.into_inner();
        line(&format!("PUT 64 MiB, {clients} clients"), &rate, " MB/s", rate.per_second * mb);
    }
    let bytes = used(&cluster).saturating_sub(before) as f64 / (stored as f64 * LARGE as f64);
    println!("  bytes on disks for each byte stored: {bytes:.2}");
    for clients in CLIENTS_LARGE {
        let rate = work.measure(clients, |connection| {
            connection.ask(&signer, "GET", "large/1/0", &[]).map(|bytes| assert_eq!(bytes, LARGE as u64))
        });
        line(&format!("GET 64 MiB, {clients} clients"), &rate, " MB/s", rate.per_second * mb);
    }
}

fn line(what: &str, rate: &Rate, unit: &str, value: f64) {
    println!(
        "  {what:<32} {value:>8.0}{unit}; p99 {:>6.1} ms; {:.2} ms of CPU each",
        rate.p99.as_secs_f64() * 1e3,
        rate.cpu_ms
    );
}

/// Bytes that no file system makes smaller.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).expect("chance");
    bytes
}

/// How many files a second `threads` write and sync.
fn files(folder: &Path, threads: usize, body: &[u8]) -> f64 {
    let done = AtomicU64::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let done = &done;
            scope.spawn(move || {
                for number in 0.. {
                    let mut file = File::create(folder.join(format!("{thread}-{number}"))).expect("a file");
                    file.write_all(body).and_then(|()| file.sync_all()).expect("it is written");
                    done.fetch_add(1, Ordering::Relaxed);
                    if began.elapsed() > FOR {
                        return;
                    }
                }
            });
        }
    });
    done.into_inner() as f64 / began.elapsed().as_secs_f64()
}

/// Bytes in the data folders of all nodes.
fn used(cluster: &Cluster) -> u64 {
    fn of(folder: &Path) -> u64 {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let size = |entry: fs::DirEntry| match entry.metadata() {
            Ok(about) if about.is_dir() => of(&entry.path()),
            Ok(about) => std::os::unix::fs::MetadataExt::blocks(&about) * 512,
            Err(_) => 0,
        };
        entries.map(size).sum()
    }
    cluster.nodes.iter().map(|node| of(&node.data)).sum()
}

struct Work<'a> {
    addrs: &'a [SocketAddr],
    pids: &'a [u32],
}

impl Work<'_> {
    /// Has `clients` do one thing after another, each over a connection of its own.
    fn measure(&self, clients: usize, one: impl Fn(&mut Connection) -> io::Result<()> + Sync) -> Rate {
        let took = Mutex::new(Vec::new());
        let cpu = || self.pids.iter().map(|pid| cpu_ms(*pid)).sum::<f64>();
        let (before, began) = (cpu(), Instant::now());
        std::thread::scope(|scope| {
            for client in 0..clients {
                let (one, took) = (&one, &took);
                let addr = self.addrs[client % self.addrs.len()];
                scope.spawn(move || {
                    let mut connection = Connection::new(addr).expect("a gateway listens");
                    let mut times = Vec::new();
                    while began.elapsed() < FOR {
                        let at = Instant::now();
                        one(&mut connection).unwrap_or_else(|error| panic!("{addr}: {error}"));
                        times.push(at.elapsed());
                    }
                    took.lock().expect("nobody panicked").extend(times);
                });
            }
        });
        let (spent, elapsed) = (cpu() - before, began.elapsed().as_secs_f64());
        let mut times = took.into_inner().expect("nobody panicked");
        times.sort();
        let count = times.len();
        Rate {
            per_second: count as f64 / elapsed,
            p99: times.get(count * 99 / 100).copied().unwrap_or_default(),
            cpu_ms: spent / count.max(1) as f64,
        }
    }
}

/// A connection that is kept.
struct Connection {
    addr: SocketAddr,
    stream: io::BufReader<TcpStream>,
    buffer: Vec<u8>,
}

impl Connection {
    fn new(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self { addr, stream: io::BufReader::with_capacity(256 << 10, stream), buffer: vec![0; 256 << 10] })
    }

    /// The bytes of the answer's body, which is thrown away.
    fn ask(&mut self, signer: &Signer, method: &str, key: &str, body: &[u8]) -> io::Result<u64> {
        let at = signer.presigned(method, self.addr, &format!("/{BUCKET}/{key}"), &[]);
        self.exchange(method, &at, body)
    }

    fn list(&mut self, signer: &Signer, keys: u64) -> io::Result<()> {
        let at = signer.presigned(
            "GET",
            self.addr,
            &format!("/{BUCKET}"),
            &[("list-type", "2"), ("max-keys", &keys.to_string())],
        );
        self.exchange("GET", &at, &[]).map(|_| ())
    }

    fn exchange(&mut self, method: &str, at: &str, body: &[u8]) -> io::Result<u64> {
        let head = format!("{method} {at} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\r\n", self.addr, body.len());
        let mut out = self.stream.get_ref();
        out.write_all(head.as_bytes())?;
        out.write_all(body)?;
        let (mut status, mut left, mut first) = (String::new(), None, true);
        loop {
            let mut line = String::new();
            io::BufRead::read_line(&mut self.stream, &mut line)?;
            if line.trim().is_empty() {
                break;
            }
            if first {
                status = line.trim().to_owned();
                first = false;
            } else if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                left = value.trim().parse::<u64>().ok();
            }
        }
        if !status.contains(" 200") {
            return Err(io::Error::other(format!("{method} {at}: {status}")));
        }
        let Some(whole) = left else { return self.chunked() };
        let mut left = whole;
        while left > 0 {
            let most = (self.buffer.len() as u64).min(left) as usize;
            let read = self.stream.read(&mut self.buffer[..most])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= read as u64;
        }
        Ok(whole)
    }

    /// A body of which nobody knew the length.
    fn chunked(&mut self) -> io::Result<u64> {
        let mut whole = 0;
        loop {
            let mut line = String::new();
            io::BufRead::read_line(&mut self.stream, &mut line)?;
            let size = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            // With the line's end.
            let copied = io::copy(&mut (&mut self.stream).take(size + 2), &mut io::sink())?;
            if copied < size + 2 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            whole += size;
            if size == 0 {
                return Ok(whole);
            }
        }
    }
}

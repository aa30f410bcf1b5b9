//! Three etcd processes on loopback, spoken to over HTTP/1.1.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{MEASURE, wait_for};

/// Which interface is written through.
#[derive(Clone, Copy, PartialEq)]
pub enum Api {
    V2,
    V3,
}

pub struct Etcd {
    folder: PathBuf,
    ports: Vec<(u16, u16)>,
    members: Vec<Child>,
}

impl Etcd {
    /// None when it is not installed.
    pub fn start(folder: &Path) -> Option<Self> {
        Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().ok()?;
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let held: Vec<_> = (0..6).map(|_| free()).collect();
        let port = |nth: usize| held[nth].local_addr().unwrap().port();
        let ports = (0..3).map(|nth| (port(2 * nth), port(2 * nth + 1))).collect();
        drop(held);
        let mut etcd = Self { folder: folder.into(), ports, members: Vec::new() };
        (0..3).for_each(|nth| etcd.spawn(nth));
        etcd.leader();
        Some(etcd)
    }

    fn spawn(&mut self, nth: usize) {
        let (client, peer) = self.ports[nth];
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<String> = (0..3).map(|nth| format!("e{nth}={}", url(self.ports[nth].1))).collect();
        let child = Command::new("etcd")
            .args(["--name", &format!("e{nth}"), "--enable-v2=true", "--log-level", "error"])
            .arg("--data-dir")
            .arg(self.folder.join(format!("etcd{nth}")))
            .args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)])
            .args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)])
            .args(["--initial-cluster", &cluster.join(","), "--initial-cluster-state", "new"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.members.push(child.unwrap());
    }

    fn leader(&self) -> usize {
        wait_for(|| {
            let leads = |nth: &usize| {
                connect(self.ports[*nth].0)
                    .and_then(|mut stream| request(&mut stream, "GET", "/v2/stats/self", "", ""))
                    .is_some_and(|(_, body)| body.contains("StateLeader"))
            };
            (0..3).find(leads)
        })
    }

    pub fn writes_per_second(&self, writers: usize, api: Api) -> f64 {
        let port = self.ports[self.leader()].0;
        let (count, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let threads: Vec<_> = (0..writers)
            .map(|writer| {
                let (count, stop) = (count.clone(), stop.clone());
                std::thread::Builder::new().stack_size(128 << 10).spawn(move || {
                    let mut stream = connect(port).unwrap();
                    for number in 0u64.. {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        assert!(put(&mut stream, api, writer, number), "etcd refused a write");
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        std::thread::sleep(Duration::from_secs(1));
        let (from, began) = (count.load(Ordering::Relaxed), Instant::now());
        std::thread::sleep(MEASURE);
        let rate = (count.load(Ordering::Relaxed) - from) as f64 / began.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.unwrap().join().unwrap());
        rate
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

type Connection = BufReader<TcpStream>;

fn connect(port: u16) -> Option<Connection> {
    let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_nodelay(true).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    Some(BufReader::new(stream))
}

fn put(stream: &mut Connection, api: Api, writer: usize, number: u64) -> bool {
    let answer = match api {
        Api::V2 => request(
            stream,
            "PUT",
            &format!("/v2/keys/k{writer}"),
            "application/x-www-form-urlencoded",
            &format!("value=http://{writer}/{number}"),
        ),
        // "key" and a value, in base64 as the gateway wants it.
        Api::V3 => request(
            stream,
            "POST",
            "/v3/kv/put",
            "application/json",
            "{\"key\":\"a2V5\",\"value\":\"aHR0cDovLzAvMDAwMDAwMDA=\"}",
        ),
    };
    answer.is_some_and(|(status, _)| status == 200 || status == 201)
}

fn request(stream: &mut Connection, method: &str, path: &str, kind: &str, body: &str) -> Option<(u16, String)> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: e\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.get_mut().write_all(head.as_bytes()).ok()?;
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let status = line.split(' ').nth(1)?.parse().ok()?;
    let (mut length, mut chunked) = (0, false);
    loop {
        line.clear();
        stream.read_line(&mut line).ok()?;
        let lower = line.trim().to_ascii_lowercase();
        if lower.is_empty() {
            break;
        }
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        chunked |= lower == "transfer-encoding: chunked";
    }
    let mut answer = Vec::new();
    while chunked {
        line.clear();
        stream.read_line(&mut line).ok()?;
        length = usize::from_str_radix(line.trim(), 16).ok()?;
        let mut chunk = vec![0; length + 2];
        stream.read_exact(&mut chunk).ok()?;
        answer.extend_from_slice(&chunk[..length]);
        chunked = length > 0;
        length = 0;
    }
    let from = answer.len();
    answer.resize(from + length, 0);
    stream.read_exact(&mut answer[from..]).ok()?;
    Some((status, String::from_utf8_lossy(&answer).into_owned()))
}

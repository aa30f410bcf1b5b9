//! A crowd at the front door: connections that are idle, WebSockets, and a long upload, all at once, and what memory the agent has then.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hirsel_tests::cluster::{Cluster, sample};
use hirsel_tests::echo::{self, Seen};
use hirsel_tests::lacks;
use hirsel_tests::many::{self, Stream};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Mutex, Semaphore};

/// Connections that are idle most of the time.
const IDLE: usize = 10_000;
/// WebSockets.
const SOCKETS: usize = 2_000;
/// What is sent up meanwhile.
const UPLOAD_BYTES: u64 = 5_000_000_000;
/// Files that the agent has open then, and this test: each WebSocket has a connection on either side.
const FILES: u64 = (IDLE + 2 * SOCKETS) as u64 + 1_000;

/// Nobody waits longer; builds of tests are slow, and all of the crowd comes at once.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many connect at the same time: a listener's queue is no test.
const CONNECTING: usize = 64;
/// Each connection asks again before a load balancer ends it as idle, a minute after its last answer.
const ASKS_EVERY: Duration = Duration::from_secs(15);
/// What is sent at once of the upload.
const PIECE_BYTES: usize = 256 << 10;

/// The bound that the README of the load balancer states: for each idle connection, for each WebSocket, and for all that goes through,
/// long bodies among it.
const IDLE_KIB: u64 = 28;
const SOCKET_KIB: u64 = 28;
const THROUGH_KIB: u64 = 64 << 10;

/// Lets this process, and those that it starts, have as many files open as it needs.
fn allow_files() -> bool {
    let limit = getrlimit(Resource::Nofile);
    let enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= FILES);
    enough(limit.current)
        || enough(limit.maximum) && setrlimit(Resource::Nofile, Rlimit { current: Some(FILES), ..limit }).is_ok()
}

type Held = Mutex<Box<dyn Stream>>;

/// One that is idle, from `from`.
async fn idle(from: IpAddr, to: SocketAddr) -> Held {
    let mut stream = many::connect_from(from, to, PATIENCE).await.expect("it lets everybody in");
    let answer = many::get(&mut *stream, "out.example", "/", PATIENCE).await.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    Mutex::new(stream)
}

/// A WebSocket.
async fn socket(to: SocketAddr) -> Held {
    let mut stream = many::connect(to, None, PATIENCE).await.expect("it lets everybody in");
    stream.write_all(many::upgrade("out.example", "/ws").as_bytes()).await.unwrap();
    assert_eq!(many::read(&mut *stream).await.expect("an answer").status, 101);
    let stream = Mutex::new(stream);
    says(&stream).await;
    stream
}

/// Says something through a WebSocket, and hears it.
async fn says(socket: &Held) {
    let mut socket = socket.lock().await;
    socket.write_all(b"there and back").await.expect("it is open");
    let mut back = [0; 14];
    tokio::time::timeout(PATIENCE, socket.read_exact(&mut back)).await.expect("soon").expect("it is open");
    assert_eq!(&back, b"there and back");
}

/// Opens so many, a few at a time.
async fn open<F: Future<Output = Held> + Send + 'static>(count: usize, one: impl Fn() -> F) -> Vec<Arc<Held>> {
    let room = Arc::new(Semaphore::new(CONNECTING));
    let mut tasks = Vec::new();
    for _ in 0..count {
        let place = room.clone().acquire_owned().await.unwrap();
        let opening = one();
        tasks.push(tokio::spawn(async move {
            let held = opening.await;
            drop(place);
            Arc::new(held)
        }));
    }
    let mut all = Vec::new();
    for task in tasks {
        all.push(task.await.expect("it is opened"));
    }
    all
}

/// Asks on every connection once, on some at the same time: one after the other would take the minute after which the first ones end.
async fn ask_all(all: &[Arc<Held>]) {
    let some = all.chunks(all.len().div_ceil(CONNECTING)).map(|some| {
        let some = some.to_vec();
        tokio::spawn(async move {
            for held in some {
                let answer = many::get(&mut **held.lock().await, "out.example", "/", PATIENCE).await;
                assert_eq!(answer.expect("it was kept open").status, 200);
            }
        })
    });
    for asking in some.collect::<Vec<_>>() {
        asking.await.expect("all are answered");
    }
}

async fn upload(to: SocketAddr, bytes: u64) {
    let mut stream = many::connect(to, None, PATIENCE).await.unwrap();
    let head = format!("PUT /up HTTP/1.1\r\nhost: out.example\r\ncontent-length: {bytes}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let piece = vec![b'u'; PIECE_BYTES];
    let mut left = bytes;
    while left > 0 {
        let length = left.min(PIECE_BYTES as u64) as usize;
        stream.write_all(&piece[..length]).await.expect("all of it is taken");
        left -= length as u64;
    }
    assert_eq!(many::read(&mut *stream).await.expect("an answer").status, 200);
}

#[test]
fn idle_connections_websockets_and_a_long_upload_at_once_stay_within_their_memory() {
    if lacks("permission to have 15,000 files open", allow_files()) {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let cluster = Cluster::start(1);
    let seen = Seen::default();
    let behind = runtime.block_on(echo::serve((cluster.nodes[0].ip, 0).into(), seen.clone()));
    cluster.apply(&format!("{}[route.\"out.example\"]\nto = \"http://{behind}\"\n", sample(1)));
    let (pid, to) = (cluster.nodes[0].agent_pid(), cluster.lbs()[0].1);
    // All that are idle are of one client, which then has as many connections as it may.
    let (one, others) = (IpAddr::from([127, 0, 0, 9]), IpAddr::from([127, 0, 0, 1]));
    runtime.block_on(async {
        drop(idle(others, to).await);
        let before = many::memory_kib(pid, "VmRSS:");
        let began = Instant::now();
        let idles = open(IDLE, move || idle(one, to)).await;
        let with_idles = many::memory_kib(pid, "VmRSS:");
        let sockets = open(SOCKETS, move || socket(to)).await;
        let with_sockets = many::memory_kib(pid, "VmRSS:");
        eprintln!("{} connections and {} WebSockets open after {:.1?}", idles.len(), sockets.len(), began.elapsed());
        let most = Arc::new(AtomicU64::new(0));
        let (kept, began) = (idles.clone(), Instant::now());
        let asking = tokio::spawn(async move {
            loop {
                tokio::time::sleep(ASKS_EVERY).await;
                ask_all(&kept).await;
            }
        });
        let highest = most.clone();
        let looking = tokio::spawn(async move {
            loop {
                highest.fetch_max(many::memory_kib(pid, "VmRSS:"), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let mut more = many::connect_from(one, to, PATIENCE).await.expect("the kernel takes it");
        let refused = many::get(&mut *more, "out.example", "/", PATIENCE).await;
        assert!(refused.is_err(), "one more of the same client: {refused:?}");
        upload(to, UPLOAD_BYTES).await;
        let took = began.elapsed();
        assert_eq!(seen.uploaded.load(Ordering::Relaxed), UPLOAD_BYTES, "all of it arrived");
        assert!(!asking.is_finished(), "a connection was lost");
        asking.abort();
        ask_all(&idles).await;
        for socket in &sockets {
            says(socket).await;
        }
        assert!(!looking.is_finished());
        looking.abort();
        let most = most.load(Ordering::Relaxed).max(many::memory_kib(pid, "VmRSS:"));
        assert_eq!(seen.sockets.load(Ordering::Relaxed), SOCKETS as u64, "no WebSocket was opened twice");
        let each = |more: u64, less: u64, count: usize| more.saturating_sub(less) as f64 / count as f64;
        eprintln!(
            "memory of the agent: {before} KiB before, {:.1} KiB for each idle connection, {:.1} KiB for each WebSocket, {most} KiB at most \
             during an upload of {} MB in {took:.1?}",
            each(with_idles, before, IDLE),
            each(with_sockets, with_idles, SOCKETS),
            UPLOAD_BYTES / 1_000_000
        );
        let bound = before + IDLE as u64 * IDLE_KIB + SOCKETS as u64 * SOCKET_KIB + THROUGH_KIB;
        assert!(most <= bound, "{most} KiB, but {bound} KiB are promised");
    });
    let log = std::fs::read_to_string(cluster.nodes[0].log()).unwrap_or_default();
    assert!(!log.contains("panicked"), "{log}");
}

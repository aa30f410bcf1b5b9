//! What nobody should say at the front door, said again and again: each is answered or ended as it has to be, and counted; nothing of it
//! reaches a program as a request of its own, and the agent goes on with the memory it had.
//!
//! `HIRSEL_REFUSED` says how many there are; `.ci/run full` asks for a million.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hirsel_tests::authority::Authority;
use hirsel_tests::cluster::{Cluster, DNS_PORT, HTTP_PORT, HTTPS_PORT, sample};
use hirsel_tests::echo::{self, Seen};
use hirsel_tests::many::{self, Stream};
use hirsel_tests::{api, wait_for};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;

mod corpus;

use corpus::{Case, End};

/// How many are said, unless told otherwise.
const COUNT: u64 = 5_000;
/// How many are said at once.
const AT_ONCE: u64 = 24;
/// Nobody waits longer: a connection that should have ended by then did not.
const PATIENCE: Duration = Duration::from_secs(15);
/// More memory than this does not stay with an agent: what it remembers of requests, pools, and what an allocator holds back.
const GROWTH_KIB_MAX: u64 = 64 << 10;
/// An agent says more than that when something is wrong with it, and not when somebody talks nonsense.
const LOG_BYTES_MAX: usize = 32 << 10;
const REASONS_SHOWN: usize = 10;

fn count() -> u64 {
    std::env::var("HIRSEL_REFUSED").ok().and_then(|text| text.parse().ok()).unwrap_or(COUNT)
}

/// Where everything is said.
#[derive(Clone, Copy)]
struct Doors {
    http: SocketAddr,
    https: SocketAddr,
    dns: SocketAddr,
}

/// What came of it.
#[derive(Default)]
struct Tally {
    /// By status; 0 is an end without an answer.
    statuses: Mutex<BTreeMap<u16, u64>>,
    wrong: Mutex<Vec<String>>,
    handshakes: AtomicU64,
    questions: AtomicU64,
}

impl Tally {
    fn ends(&self, status: u16) {
        *self.statuses.lock().unwrap().entry(status).or_default() += 1;
    }

    fn goes_wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }
}

/// The status of the first answer, and all bytes until the connection ends or nothing is owed any more.
struct Heard {
    status: u16,
    ended: bool,
}

/// Says `bytes`, and listens until the connection ends; or, where it may go on, until an answer is there.
async fn say(stream: &mut dyn Stream, bytes: &[u8], goes_on: bool, then_ends: bool) -> Heard {
    let mut heard = Vec::new();
    let mut room = vec![0; 4096];
    // Who has heard enough may hang up before all is said: what is said is said beside listening.
    let (mut reading, mut writing) = tokio::io::split(stream);
    let saying = async {
        let said = writing.write_all(bytes).await;
        if then_ends {
            let _ = writing.shutdown().await;
        }
        let _: io::Result<()> = said;
        std::future::pending::<()>().await;
    };
    let listening = async {
        loop {
            match reading.read(&mut room).await {
                Ok(0) | Err(_) => return true,
                Ok(length) => heard.extend_from_slice(&room[..length]),
            }
            let text = String::from_utf8_lossy(&heard);
            if goes_on
                && let Some((head, body)) = text.split_once("\r\n\r\n")
                && let Some(length) = head
                    .to_ascii_lowercase()
                    .lines()
                    .find_map(|it| it.strip_prefix("content-length:")?.trim().parse::<usize>().ok())
                && body.len() >= length
            {
                return false;
            }
        }
    };
    let ended = tokio::select! {
        ended = tokio::time::timeout(PATIENCE, listening) => ended,
        () = saying => unreachable!("it pends"),
    };
    let word = heard.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3));
    let status = word.and_then(|word| std::str::from_utf8(word).ok()?.parse().ok()).unwrap_or(0);
    match ended {
        Ok(ended) => Heard { status, ended },
        Err(_) => Heard { status, ended: false },
    }
}

/// Says one that is written down, and looks whether it ends as it should.
async fn refuse(doors: Doors, case: &Case, tally: &Tally) {
    let Ok(mut stream) = many::connect(doors.http, None, PATIENCE).await else {
        return tally.goes_wrong(format!("{}: could not connect", case.name));
    };
    let goes_on = matches!(case.end, End::GoesOn(_));
    let heard = say(&mut *stream, &case.bytes, goes_on, false).await;
    tally.ends(heard.status);
    let is_right = match case.end {
        End::Closes(statuses) => statuses.contains(&heard.status) && heard.ended,
        End::GoesOn(statuses) => statuses.contains(&heard.status),
        End::Falls => heard.status == 0 && heard.ended,
    };
    if !is_right {
        return tally
            .goes_wrong(format!("{}: status {}, ended {}, not {:?}", case.name, heard.status, heard.ended, case.end));
    }
    if goes_on && !heard.ended {
        let next = many::get(&mut *stream, "out.example", "/next", PATIENCE).await;
        if next.as_ref().map_or(0, |answer| answer.status) != 200 {
            tally.goes_wrong(format!("{}: the next request of its connection: {next:?}", case.name));
        }
    }
}

/// One of all that is said, by its number.
async fn one(number: u64, doors: Doors, all: &[Case], strange: &[Case], rng: &mut SmallRng, tally: &Tally) {
    match number % 10 {
        0..4 => refuse(doors, &all[(number / 10 * 4 + number % 10) as usize % all.len()], tally).await,
        4..7 => {
            let bytes = corpus::mutated(strange, rng);
            let Ok(mut stream) = many::connect(doors.http, None, PATIENCE).await else {
                return tally.goes_wrong("could not connect".into());
            };
            let heard = say(&mut *stream, &bytes, false, true).await;
            tally.ends(heard.status);
            if !heard.ended {
                let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(400)]).into_owned();
                tally.goes_wrong(format!("the connection goes on after {shown:?}"));
            }
        }
        7 => {
            let Ok(mut stream) = many::connect(doors.https, None, PATIENCE).await else {
                return tally.goes_wrong("could not connect for TLS".into());
            };
            let heard = say(&mut *stream, &corpus::hello(rng), false, true).await;
            tally.handshakes.fetch_add(1, Ordering::Relaxed);
            if !heard.ended {
                tally.goes_wrong("a handshake that is none goes on".into());
            }
        }
        8 => {
            let socket = UdpSocket::bind((doors.dns.ip(), 0)).await.expect("a socket");
            let _ = socket.send_to(&corpus::question(rng), doors.dns).await;
            // The same port over UDP is that of HTTP/3.
            let mut noise = vec![0; rng.random_range(1..1_400)];
            rng.fill_bytes(&mut noise);
            let _ = socket.send_to(&noise, doors.https).await;
            tally.questions.fetch_add(1, Ordering::Relaxed);
        }
        _ => {
            let Ok(mut stream) = many::connect(doors.dns, None, PATIENCE).await else {
                return tally.goes_wrong("could not connect for a name".into());
            };
            let question = corpus::question(rng);
            // A length that may be that of the question, and may not.
            let length = if rng.random() { question.len() as u16 } else { rng.random_range(0..2_000) };
            let heard = say(&mut *stream, &[&length.to_be_bytes()[..], &question].concat(), false, true).await;
            tally.questions.fetch_add(1, Ordering::Relaxed);
            if !heard.ended {
                tally.goes_wrong("a connection for names goes on".into());
            }
        }
    }
}

/// Says so many, some at a time.
async fn storm(from: u64, to: u64, doors: Doors, all: Arc<Vec<Case>>, seed: u64, tally: Arc<Tally>) {
    let (next, strange) = (Arc::new(AtomicU64::new(from)), Arc::new(corpus::harmless(&all)));
    let tasks = (0..AT_ONCE).map(|task| {
        let (next, all, strange, tally) = (next.clone(), all.clone(), strange.clone(), tally.clone());
        let mut rng = SmallRng::seed_from_u64(seed ^ from ^ (task << 40));
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= to {
                    return;
                }
                one(number, doors, &all, &strange, &mut rng, &tally).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("it does not panic");
    }
}

fn equipped() -> (Cluster, Authority) {
    let cluster = Cluster::start(1);
    cluster.apply(&sample(1));
    let authority = Authority::new();
    authority.equip(&cluster, &["out.example"]);
    (cluster, authority)
}

#[test]
fn whatever_is_said_at_the_front_door_ends_as_it_should_is_counted_and_leaves_no_trace() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (cluster, authority) = equipped();
    let node = &cluster.nodes[0];
    let (pid, seen) = (node.agent_pid(), Seen::default());
    let behind = runtime.block_on(echo::serve((node.ip, 0).into(), seen.clone()));
    let doors = Doors { http: node.addr(HTTP_PORT), https: node.addr(HTTPS_PORT), dns: node.addr(DNS_PORT) };
    let routes = [
        ("out.example".to_owned(), format!("http://{behind}")),
        ("out.example/guarded".to_owned(), "http://127.0.0.1:9".to_owned()),
        ("round.example".to_owned(), format!("http://{}", doors.http)),
    ];
    let routes = routes.map(|(host, to)| format!("[route.\"{host}\"]\nto = {to:?}\n"));
    cluster.apply(&format!("{}{}", sample(1).replace("[route.\"*\"]", "[route.\"sample.example\"]"), routes.concat()));
    let (all, tally, seed) = (Arc::new(corpus::all()), Arc::new(Tally::default()), rand::random());
    eprintln!("seed {seed}, {} of them, {} written down", count(), all.len());
    // Once through all, then memory is what it is.
    runtime.block_on(storm(0, 10 * all.len() as u64, doors, all.clone(), seed, tally.clone()));
    let before = many::memory_kib(pid, "VmRSS:");
    let began = Instant::now();
    runtime.block_on(storm(0, count(), doors, all, seed, tally.clone()));
    let took = began.elapsed();

    let wrong = tally.wrong.lock().unwrap();
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    wrong.iter().for_each(|what| *kinds.entry(what).or_default() += 1);
    let shown: Vec<_> = kinds.iter().take(REASONS_SHOWN).collect();
    assert!(wrong.is_empty(), "{} of them: {shown:#?}", wrong.len());
    assert_eq!(seen.smuggled.load(Ordering::Relaxed), 0, "nothing was smuggled in");
    assert_eq!(node.agent_pid(), pid, "the same process");

    // Everything that was answered was counted, and so was what was not.
    let statuses = tally.statuses.lock().unwrap().clone();
    let told: u64 = statuses.iter().filter(|(status, _)| (400..500).contains(*status)).map(|(_, count)| count).sum();
    let answers = api::counted(&node.data, "hirsel_lb_answers_total", "class=\"4xx\"");
    let refused = api::counted(&node.data, "hirsel_lb_refused_requests_total", "");
    assert!(answers + refused >= told, "{answers} answered and {refused} refused, but {told} were told so");
    let handshakes = api::counted(&node.data, "hirsel_lb_refused_handshakes_total", "");
    assert!(
        handshakes >= tally.handshakes.load(Ordering::Relaxed),
        "{handshakes} handshakes refused: {:?}",
        tally.handshakes
    );

    // All doors are open to everybody else.
    runtime.block_on(async {
        let tls = many::Tls::new(&authority.pem(), "out.example");
        for tls in [None, Some(&tls)] {
            let to = if tls.is_some() { doors.https } else { doors.http };
            let mut stream = many::connect(to, tls, PATIENCE).await.expect("it is let in");
            assert_eq!(many::get(&mut *stream, "out.example", "/", PATIENCE).await.unwrap().status, 200);
        }
        let socket = UdpSocket::bind((node.ip, 0)).await.unwrap();
        socket.send_to(&corpus::question_for("n1.node.hirsel"), doors.dns).await.unwrap();
        let mut answer = [0; 512];
        let answered = tokio::time::timeout(PATIENCE, socket.recv(&mut answer)).await;
        assert!(answered.is_ok_and(|it| it.is_ok()) && answer[3] & 0xf == 0 && answer[7] == 1, "{answer:?}");
    });
    let log = std::fs::read_to_string(node.log()).unwrap_or_default();
    assert!(!log.contains("panicked"), "{log}");
    assert!(
        log.len() < LOG_BYTES_MAX,
        "strangers fill the log: {} bytes, the last of them {}",
        log.len(),
        &log[log.len() - 2_000..]
    );
    let (after, _) = wait_for("its memory is as before", Duration::from_secs(60), || {
        let now = many::memory_kib(pid, "VmRSS:");
        if now <= before + GROWTH_KIB_MAX { Ok(now) } else { Err(format!("{before} KiB became {now} KiB")) }
    });
    eprintln!(
        "{} in {took:.1?}: {statuses:?} (0: ended without an answer); {answers} answered with 4xx and {refused} refused, {handshakes} \
         handshakes; memory {before} KiB before, {after} KiB after",
        count()
    );
}

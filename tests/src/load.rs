//! Load at a fixed rate that records every failure. Requests begin when they are due, not when the last one ended, so a stall is
//! seen as what it is.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::http::Connection;

/// No person waits longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is put. Too long to be kept with what is known of it.
static OBJECT: [u8; 64 << 10] = [b'o'; 64 << 10];

/// What to ask.
#[derive(Clone, Debug)]
pub struct Load {
    /// Load balancers that stay up.
    pub targets: Vec<SocketAddr>,
    /// Name in the request.
    pub host: String,
    /// Path of the request.
    pub path: String,
    /// Method: idempotent ones must never fail; POST only when nothing is lost.
    pub method: &'static str,
    /// What the program answers when nothing goes wrong.
    pub status: u16,
    /// Requests per second, in all.
    pub rate: u32,
    /// Connections, in all; each asks one request at a time.
    pub connections: u32,
}

/// A request that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Since the load began.
    pub at: Duration,
    /// Which lb.
    pub target: SocketAddr,
    /// Method.
    pub method: &'static str,
    /// How.
    pub error: String,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Requests that were answered as they should be.
    pub answered: u64,
    /// The others.
    pub failures: Vec<Failure>,
    /// The longest answer.
    pub slowest: Duration,
}

/// Load that goes on until it is ended.
pub struct Running {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    failures: Arc<Mutex<Vec<Failure>>>,
    threads: Vec<JoinHandle<Duration>>,
}

impl Load {
    /// Begins.
    pub fn start(self) -> Running {
        let running =
            Running { stop: Arc::default(), answered: Arc::default(), failures: Arc::default(), threads: Vec::new() };
        let began = Instant::now();
        let pause = Duration::from_secs(1) * self.connections / self.rate;
        let threads = (0..self.connections).map(|number| {
            let target = self.targets[number as usize % self.targets.len()];
            let asker = Asker {
                load: self.clone(),
                target,
                began,
                // Spread over the pause, or all would ask in the same instant.
                first: began + pause * number / self.connections,
                pause,
                stop: running.stop.clone(),
                answered: running.answered.clone(),
                failures: running.failures.clone(),
            };
            std::thread::spawn(move || asker.run())
        });
        Running { threads: threads.collect(), ..running }
    }
}

impl Running {
    /// How many were answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Ends the load.
    ///
    /// # Panics
    /// When a thread of the load panicked.
    pub fn end(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let slowest = self.threads.into_iter().map(|thread| thread.join().expect("the load does not panic")).max();
        let failures = self.failures.lock().expect("the load does not panic").clone();
        Tally { answered: self.answered.load(Ordering::Relaxed), failures, slowest: slowest.unwrap_or_default() }
    }
}

impl Tally {
    /// Fails the test when any request failed, or when there was no load.
    ///
    /// # Panics
    /// Then.
    pub fn assert_sound(&self, at_least: u64) {
        let some: Vec<String> = self.failures.iter().take(10).map(|failure| format!("{failure:?}")).collect();
        let count = self.failures.len();
        assert!(count == 0, "{count} of {} requests failed:\n{}", self.answered + count as u64, some.join("\n"));
        assert!(self.answered >= at_least, "only {} requests were answered, {at_least} expected", self.answered);
    }
}

struct Asker {
    load: Load,
    target: SocketAddr,
    began: Instant,
    first: Instant,
    pause: Duration,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    failures: Arc<Mutex<Vec<Failure>>>,
}

impl Asker {
    fn run(self) -> Duration {
        let mut connection = None;
        let mut due = self.first;
        let mut slowest = Duration::ZERO;
        while !self.stop.load(Ordering::Relaxed) {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            due += self.pause;
            let asked = Instant::now();
            match self.ask(&mut connection) {
                Ok(()) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    slowest = slowest.max(asked.elapsed());
                }
                Err(error) => {
                    connection = None;
                    let at = asked.duration_since(self.began);
                    let failure = Failure { at, target: self.target, method: self.load.method, error };
                    self.failures.lock().expect("the load does not panic").push(failure);
                }
            }
            // What was missed while an answer was late is asked now, but never more than a second of it.
            due = due.max(Instant::now().checked_sub(Duration::from_secs(1)).unwrap_or(due));
        }
        slowest
    }

    fn ask(&self, kept: &mut Option<Connection>) -> Result<(), String> {
        let words = |what: &str, error: std::io::Error| format!("{what}: {error}");
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => Connection::open(self.target, PATIENCE).map_err(|error| words("connect", error))?,
        };
        let body: &[u8] = match self.load.method {
            "POST" => b"one more",
            "PUT" => &OBJECT,
            _ => b"",
        };
        let asked = connection.ask(self.load.method, &self.load.host, &self.load.path, body);
        let (answer, may_stay) = asked.map_err(|error| words("ask", error))?;
        if may_stay {
            *kept = Some(connection);
        }
        if answer.status == self.load.status {
            Ok(())
        } else {
            Err(format!("status {}: {}", answer.status, answer.text()))
        }
    }
}

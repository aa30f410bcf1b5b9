//! Clients on a host of their own that keep their connections and ask at a fixed rate, some over TLS; and others that speak through
//! WebSockets. What breaks under them is noted, and asked again over a new connection, as a client may do with what is idempotent.

use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};

use crate::many::{self, Answer, Stream, Tls};

/// A connection begun while an address moves is tried again by its host after 1 and 3 s.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// An answer takes no longer, unless whoever should give it is gone.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Whoever is not answered within this, with however many connections, was not answered.
const PATIENCE: Duration = Duration::from_secs(30);
/// Over TLS a connection is used so often; then another one is made, which is shown whatever certificate there is then.
const REQUESTS_OVER_TLS: u32 = 10;
/// Between two messages through a WebSocket.
const SAYS_EVERY: Duration = Duration::from_millis(500);

/// What is asked, and how often.
#[derive(Clone)]
pub struct Calls {
    /// Where plain requests go.
    pub plain: SocketAddr,
    /// Where a tenth of all go, over TLS.
    pub secure: Option<(SocketAddr, Tls)>,
    /// The host that is asked for.
    pub host: String,
    /// Requests per second, in all.
    pub rate: u32,
    /// Connections, in all; each asks one request at a time.
    pub connections: u32,
}

/// A connection that ended under a request.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Nothing of an answer had come, and it had answered before: it was closed as the request was on its way.
    pub idle: bool,
    /// How.
    pub error: String,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Requests that were answered as they should be.
    pub answered: u64,
    /// Requests that were answered otherwise, or by nobody in half a minute.
    pub failed: Vec<String>,
    /// Connections that ended under a request, which was asked again.
    pub broken: Vec<Broken>,
    /// The longest that anybody waited, with all connections that took.
    pub slowest: Duration,
}

/// Clients at work.
pub struct Callers {
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Runs `work` on a thread of its own in that namespace.
fn there(name_space: PathBuf, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let there = File::open(&name_space).expect("a name space");
        move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network)).expect("this thread moves");
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work);
    })
}

/// Runs `work` in that namespace for as long as the process lives.
pub fn forever(name_space: PathBuf, work: impl Future<Output = ()> + Send + 'static) {
    drop(there(name_space, async {
        work.await;
        std::future::pending::<()>().await;
    }));
}

impl Callers {
    /// Starts them on the host with this namespace.
    pub fn start(name_space: PathBuf, calls: Calls) -> Self {
        let (tally, stop) = (Arc::<Mutex<Tally>>::default(), Arc::<AtomicBool>::default());
        let pause = Duration::from_secs(1) * calls.connections / calls.rate;
        let began = Instant::now();
        let (noted, stopped) = (tally.clone(), stop.clone());
        let thread = there(name_space, async move {
            let tasks = (0..calls.connections).map(|number| {
                let (calls, tally, stop) = (calls.clone(), noted.clone(), stopped.clone());
                // Spread over the pause, or all would ask in the same instant.
                let first = began + pause * number / calls.connections;
                let over_tls = number % 10 == 9;
                tokio::spawn(
                    Caller { calls, tally, stop, pause, over_tls, kept: None, used: 0, had_answered: false }.run(first),
                )
            });
            for task in tasks.collect::<Vec<_>>() {
                task.await.expect("it does not panic");
            }
        });
        Self { tally, stop, thread: Some(thread) }
    }

    /// How many were answered since [`Callers::take`].
    pub fn answered(&self) -> u64 {
        lock(&self.tally).answered
    }

    /// What came of it since the last time.
    pub fn take(&self) -> Tally {
        std::mem::take(&mut *lock(&self.tally))
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Caller {
    calls: Calls,
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
    pause: Duration,
    over_tls: bool,
    kept: Option<Box<dyn Stream>>,
    used: u32,
    /// Whether the connection that was asked on last had answered before.
    had_answered: bool,
}

impl Caller {
    async fn run(mut self, first: Instant) {
        let mut due = first;
        while !self.stop.load(Ordering::Relaxed) {
            tokio::time::sleep_until(due.into()).await;
            due += self.pause;
            self.one().await;
            // What was missed while an answer was late is asked now, but never more than a second of it.
            due = due.max(Instant::now().checked_sub(Duration::from_secs(1)).unwrap_or(due));
        }
    }

    /// Asks until it is answered.
    async fn one(&mut self) {
        let asked = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            self.had_answered = false;
            match self.ask().await {
                Ok(answer) if answer.status == 200 => {
                    let mut tally = lock(&self.tally);
                    tally.answered += 1;
                    tally.slowest = tally.slowest.max(asked.elapsed());
                    return;
                }
                Ok(answer) => {
                    let words = String::from_utf8_lossy(&answer.body).into_owned();
                    return lock(&self.tally).failed.push(format!("{}: {words}", answer.status));
                }
                Err(error) if asked.elapsed() > PATIENCE => {
                    return lock(&self.tally).failed.push(format!("not answered: {error}"));
                }
                Err(error) => {
                    let unread =
                        [io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
                    let idle = self.had_answered && unread.contains(&error.kind());
                    let how = if self.had_answered { "" } else { "a new connection: " };
                    lock(&self.tally).broken.push(Broken { idle, error: format!("{how}{error}") });
                }
            }
            // Nobody asks again in the same instant.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn ask(&mut self) -> io::Result<Answer> {
        // One that was closed while nothing was asked on it is not used again, as clients do that keep connections.
        let mut stream = match still_open(self.kept.take()).await {
            Some(kept) => {
                self.had_answered = true;
                kept
            }
            None => {
                self.used = 0;
                match self.calls.secure.as_ref().filter(|_| self.over_tls) {
                    Some((to, tls)) => many::connect(*to, Some(tls), CONNECT_WITHIN).await?,
                    None => many::connect(self.calls.plain, None, CONNECT_WITHIN).await?,
                }
            }
        };
        let answer = many::get(&mut *stream, &self.calls.host, "/", ANSWER_WITHIN).await?;
        self.used += 1;
        if answer.stays && !(self.over_tls && self.used >= REQUESTS_OVER_TLS) {
            self.kept = Some(stream);
        }
        Ok(answer)
    }
}

/// The connection, unless its end has come.
async fn still_open(kept: Option<Box<dyn Stream>>) -> Option<Box<dyn Stream>> {
    let mut stream = kept?;
    let mut room = [0; 1];
    let mut room = ReadBuf::new(&mut room);
    let looked = poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_read(cx, &mut room))).await;
    looked.is_pending().then_some(stream)
}

/// WebSockets that are spoken through.
pub struct Sockets {
    echoes: Arc<AtomicU64>,
    dropped: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sockets {
    /// Opens so many to each of these load balancers, for `host`.
    pub fn open(name_space: PathBuf, to: &[SocketAddr], each: usize, host: &str) -> Self {
        let (echoes, dropped) = (Arc::<AtomicU64>::default(), Arc::<Mutex<Vec<String>>>::default());
        let stop = Arc::<AtomicBool>::default();
        let opening = upgrade_of(host);
        let to: Vec<SocketAddr> = to.iter().flat_map(|to| std::iter::repeat_n(*to, each)).collect();
        let (heard, noted, stopped) = (echoes.clone(), dropped.clone(), stop.clone());
        let thread = there(name_space, async move {
            let tasks = to.into_iter().map(|to| {
                let (opening, heard, noted, stopped) = (opening.clone(), heard.clone(), noted.clone(), stopped.clone());
                tokio::spawn(async move {
                    if let Err(error) = speak(to, &opening, &heard, &stopped).await {
                        lock(&noted).push(format!("through {to}: {error}"));
                    }
                })
            });
            for task in tasks.collect::<Vec<_>>() {
                task.await.expect("it does not panic");
            }
        });
        Self { echoes, dropped, stop, thread: Some(thread) }
    }

    /// Messages that came back so far.
    pub fn echoes(&self) -> u64 {
        self.echoes.load(Ordering::Relaxed)
    }

    /// Ends them; says which had ended before.
    pub fn end(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it does not panic");
        }
        lock(&self.dropped).clone()
    }
}

fn upgrade_of(host: &str) -> String {
    many::upgrade(host, "/ws")
}

async fn speak(to: SocketAddr, opening: &str, heard: &AtomicU64, stop: &AtomicBool) -> io::Result<()> {
    let mut stream = many::connect(to, None, CONNECT_WITHIN).await?;
    stream.write_all(opening.as_bytes()).await?;
    let answer = many::read(&mut *stream).await?;
    if answer.status != 101 {
        return Err(io::Error::other(format!("status {}", answer.status)));
    }
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(b"there and back").await?;
        let mut back = [0; 14];
        // Bytes are late where a machine is busy; what is dropped says so, or never comes.
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut back)).await.map_err(|_| io::ErrorKind::TimedOut)??;
        heard.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(SAYS_EVERY).await;
    }
    Ok(())
}

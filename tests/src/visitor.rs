//! A client on a host of its own, which asks one address again and again over new connections, and keeps what became of each request.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Between two requests.
const EVERY: Duration = Duration::from_millis(20);
/// A host that is gone does not refuse: whoever waits longer than this for it notices nothing else meanwhile.
const CONNECT_WITHIN: Duration = Duration::from_millis(250);

/// A request.
#[derive(Clone, Debug)]
pub struct Try {
    /// When it was begun.
    pub begun: Instant,
    /// When its answer was whole, or it failed.
    pub ended: Instant,
    /// What went wrong.
    pub error: Option<String>,
}

/// A client at work.
pub struct Visitor {
    tries: Arc<Mutex<Vec<Try>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Visitor {
    /// Asks `address` from the host with this network namespace; a connection is waited for as long as `patience`.
    pub fn start(name_space: PathBuf, address: SocketAddr, patience: Option<Duration>) -> Self {
        let (tries, stop) = (Arc::<Mutex<Vec<Try>>>::default(), Arc::new(AtomicBool::new(false)));
        let (kept, stopped) = (tries.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let there = File::open(&name_space).expect("a name space");
            move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network)).expect("this thread moves");
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let error = ask(address, patience.unwrap_or(CONNECT_WITHIN)).err();
                let done = Try { begun, ended: Instant::now(), error };
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(done);
                std::thread::sleep(EVERY);
            }
        });
        Self { tries, stop, thread: Some(thread) }
    }

    /// All requests that have ended, in order.
    pub fn tries(&self) -> Vec<Try> {
        self.tries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many requests were answered that were begun after `since`.
    pub fn answered(&self, since: Instant) -> usize {
        self.tries().iter().filter(|it| it.error.is_none() && it.begun > since).count()
    }

    /// What failed of the requests that were begun after `since`.
    pub fn failed(&self, since: Instant) -> Vec<Try> {
        self.tries().into_iter().filter(|it| it.error.is_some() && it.begun > since).collect()
    }

    /// The longest time in which nothing was answered, since `since`.
    pub fn gap(&self, since: Instant) -> Duration {
        let mut last = since;
        let mut longest = Duration::ZERO;
        for answered in self.tries().iter().filter(|it| it.error.is_none() && it.ended > since) {
            longest = longest.max(answered.ended.duration_since(last));
            last = answered.ended;
        }
        longest.max(last.elapsed())
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn ask(address: SocketAddr, patience: Duration) -> Result<(), String> {
    let words = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    let mut stream = TcpStream::connect_timeout(&address, patience).map_err(words("connect"))?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).map_err(words("set"))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: any\r\nconnection: close\r\n\r\n").map_err(words("write"))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(words("read"))?;
    match answer.starts_with(b"HTTP/1.1 200 ") {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&answer[..answer.len().min(200)]).into_owned()),
    }
}

//! Stands where a dead node was and notes who still comes.
//!
//! A load balancer reaches an instance on another node through that agent's TCP port. Once the agent is dead the port is free, and
//! whoever takes it sees each new connection. As a dead process's kernel would, it resets each one; so the load balancers learn
//! nothing that they would not have learned.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;

/// Between two looks for the port, and for a caller.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// The first words of a caller are there by then.
const WORDS_WITHIN: Duration = Duration::from_millis(20);
/// What a load balancer's connection says it wants, in clear, in its first words.
const DOOR: &[u8] = b"hirsel-door";

pub struct Recorder {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Instant>>,
}

impl Recorder {
    /// Takes the port as soon as it is free.
    pub fn start(addr: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut came = Vec::new();
            let mut listener: Option<TcpListener> = None;
            while !stopped.load(Ordering::Relaxed) {
                match &listener {
                    None => listener = TcpListener::bind(addr).ok().filter(|it| it.set_nonblocking(true).is_ok()),
                    Some(listener) => {
                        if let Ok((stream, _)) = listener.accept() {
                            let at = Instant::now();
                            if is_for_an_instance(stream) {
                                came.push(at);
                            }
                            continue;
                        }
                    }
                }
                std::thread::sleep(LOOK_EVERY);
            }
            assert!(listener.is_some(), "the port of the dead node was never free");
            came
        });
        Self { stop, thread }
    }

    /// When somebody came.
    pub fn end(self) -> Vec<Instant> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the recorder does not panic")
    }
}

fn is_for_an_instance(mut stream: TcpStream) -> bool {
    let mut words = [0; 1024];
    let ready = stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(WORDS_WITHIN)));
    let read = ready.and_then(|()| stream.read(&mut words)).unwrap_or(0);
    // Closing it now resets it.
    let _ = set_socket_linger(&stream, Some(Duration::ZERO));
    words[..read].windows(DOOR.len()).any(|part| part == DOOR)
}

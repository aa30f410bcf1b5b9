//! An instance that does as it is told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::wire::{Message, read_message};
use super::{until, write};

/// What an instance does with a request.
#[derive(Clone, Debug)]
pub enum Deed {
    /// Writes these bytes and reads on.
    Say(Vec<u8>),
    /// Writes these bytes and closes.
    SayAndClose(Vec<u8>),
    /// Says nothing, ever.
    Hang,
    /// Waits until it is released, then writes these bytes.
    Hold(Vec<u8>),
    /// Writes this, then gives back every byte that comes.
    Echo(Vec<u8>),
}

/// A running instance.
pub struct Backend {
    pub addr: SocketAddr,
    pub seen: Arc<Mutex<Vec<Message>>>,
    pub connections: Arc<Mutex<usize>>,
    open: Arc<()>,
    release: Arc<Notify>,
    released: Arc<Mutex<bool>>,
    task: tokio::task::JoinHandle<()>,
}

impl Backend {
    /// One that answers every request with `ok NAME`.
    pub async fn named(name: &str) -> Self {
        let answer = ok(&format!("ok {name}"));
        Self::new(move |_, _| Deed::Say(answer.clone())).await
    }

    /// One that does `deed` with each request, told how many came before.
    pub async fn new(deed: impl Fn(&Message, usize) -> Deed + Send + Sync + 'static) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), deed).await
    }

    /// The same, at an address.
    pub async fn at(addr: SocketAddr, deed: impl Fn(&Message, usize) -> Deed + Send + Sync + 'static) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(addr).unwrap();
        let listener = socket.listen(1024).unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<Message>>>::default();
        let (connections, open) = (Arc::<Mutex<usize>>::default(), Arc::new(()));
        let token = open.clone();
        let (release, released) = (Arc::<Notify>::default(), Arc::<Mutex<bool>>::default());
        let deed = Arc::new(deed);
        let task = {
            let (seen, connections) = (seen.clone(), connections.clone());
            let (release, released) = (release.clone(), released.clone());
            tokio::spawn(async move {
                // Dropped with the task: a killed program takes its connections with it.
                let mut sessions = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    *connections.lock().unwrap() += 1;
                    stream.set_nodelay(true).unwrap();
                    let (seen, deed) = (seen.clone(), deed.clone());
                    let (release, released) = (release.clone(), released.clone());
                    let token = token.clone();
                    sessions.spawn(async move {
                        session(stream, seen, deed, release, released).await;
                        drop(token);
                    });
                }
            })
        };
        Self { addr, seen, connections, open, release, released, task }
    }

    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub fn request(&self, at: usize) -> Message {
        self.seen.lock().unwrap()[at].clone()
    }

    /// How many connections are open now.
    pub fn open(&self) -> usize {
        // One is ours, one the listener's.
        Arc::strong_count(&self.open) - 2
    }

    pub async fn until_asked(&self, times: usize) {
        until(|| self.count() >= times).await;
    }

    /// Lets those on hold go on.
    pub fn release(&self) {
        *self.released.lock().unwrap() = true;
        self.release.notify_waiters();
    }

    /// Ends the program, its listener and its connections.
    pub async fn kill(&self) {
        self.task.abort();
        until(|| self.task.is_finished()).await;
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn session(
    mut stream: TcpStream,
    seen: Arc<Mutex<Vec<Message>>>,
    deed: Arc<impl Fn(&Message, usize) -> Deed>,
    release: Arc<Notify>,
    released: Arc<Mutex<bool>>,
) {
    let mut buffer = Vec::new();
    while let Some(request) = read_message(&mut stream, &mut buffer, false).await {
        let deed = {
            let mut seen = seen.lock().unwrap();
            seen.push(request.clone());
            deed(&request, seen.len() - 1)
        };
        let done = match deed {
            Deed::Say(bytes) => write(&mut stream, &bytes).await,
            Deed::SayAndClose(bytes) => {
                let _ = write(&mut stream, &bytes).await;
                return;
            }
            Deed::Hang => {
                let _ = super::read_more(&mut stream, &mut buffer).await;
                return;
            }
            Deed::Hold(bytes) => {
                let waiting = release.notified();
                if !*released.lock().unwrap() {
                    waiting.await;
                }
                write(&mut stream, &bytes).await
            }
            Deed::Echo(bytes) => {
                let _ = write(&mut stream, &bytes).await;
                loop {
                    let _ = write(&mut stream, &std::mem::take(&mut buffer)).await;
                    if super::read_more(&mut stream, &mut buffer).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
            }
        };
        if done.is_err() {
            return;
        }
    }
}

pub fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

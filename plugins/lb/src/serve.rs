//! The public side: accepts connections, serves HTTP/1.1 on each, and stops gracefully.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use hirsel_mesh::seam::{BoxStream, Listener};
use hirsel_role::Spawner;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use crate::client::{Client, Seen, Will};
use crate::headers::ClientLines;
use crate::io::Gauged;
use crate::proxy::Proxy;

/// Connections served at once; more wait in the kernel's queue. Each may hold a hundred kilobytes at worst.
pub const CLIENTS_MAX: usize = 10_000;

/// Most that is read ahead of one client: the longest head, and the largest piece of a body.
const READ_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Longest head of a request. Half of it is the usual limit; cookies of large sites come near that.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// When no file descriptor is left, accepting pauses: trying again at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long requests may go on after the role was told to stop.
pub const STOP_WITHIN: Duration = Duration::from_secs(30);

/// A listener at work.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    proxy: Arc<Proxy>,
    spawner: Spawner,
    clients: Mutex<Clients>,
    slots: Arc<Semaphore>,
    stopping: AtomicBool,
    /// Told when the last connection has ended while stopping.
    idle: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Clients {
    next: u64,
    open: BTreeMap<u64, (Arc<Client>, Seen)>,
}

impl Server {
    /// Serves what `listener` accepts. `idle` is told when the last connection has ended after a stop.
    pub fn start(listener: Box<dyn Listener>, proxy: Arc<Proxy>, spawner: Spawner, idle: Arc<Notify>) -> Self {
        let shared = Arc::new(Shared {
            proxy,
            spawner: spawner.clone(),
            clients: Mutex::default(),
            slots: Arc::new(Semaphore::new(CLIENTS_MAX)),
            stopping: AtomicBool::new(false),
            idle,
        });
        let accepting = spawner.spawn(accept(listener, shared.clone()));
        Self { shared, accepting }
    }

    /// Stops listening; connections end after the request under way, idle ones at once.
    pub fn stop(&self) {
        self.accepting.abort();
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.tell_all(Will::Finish);
    }

    /// Ends what is left.
    pub fn end(&self) {
        self.stop();
        self.tell_all(Will::End);
    }

    /// How many client connections are open.
    pub fn clients(&self) -> usize {
        self.shared.clients().open.len()
    }

    /// Whether the accept loop has ended by itself, which it never should.
    pub fn is_broken(&self) -> bool {
        self.accepting.is_finished()
    }

    /// Ends connections that stand still. Called every half second.
    pub fn sweep(&self) {
        for (client, seen) in self.shared.clients().open.values_mut() {
            if client.sweep(seen) {
                client.tell(Will::End);
            }
        }
    }

    fn tell_all(&self, will: Will) {
        for (client, _) in self.shared.clients().open.values() {
            client.tell(will);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(mut listener: Box<dyn Listener>, shared: Arc<Shared>) {
    loop {
        // Never closed: the semaphore lives as long as the server.
        let Ok(slot) = shared.slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, remote)) => drop(shared.spawner.spawn(serve(stream, remote, shared.clone(), slot))),
            Err(error) => {
                warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection until it ends.
async fn serve(stream: BoxStream, remote: SocketAddr, shared: Arc<Shared>, slot: OwnedSemaphorePermit) {
    let client = Arc::new(Client::new(ClientLines::new(remote), Some(slot)));
    let _registered = Registered::new(&shared, &client);
    let io = TokioIo::new(Gauged::new(stream, client.gauge.clone()));
    let service = service_fn(|request| {
        let (proxy, client) = (shared.proxy.clone(), client.clone());
        async move { Ok::<_, Infallible>(proxy.answer(&client, request).await) }
    });
    let mut connection = pin!(
        Builder::new()
            // The wall clock belongs to people; an instance's own `Date` passes.
            .auto_date_header(false)
            .max_buf_size(READ_BUFFER_BYTES_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .serve_connection(io, service)
            .with_upgrades()
    );
    let mut told = Will::Go;
    let result = poll_fn(|cx| {
        client.gauge.driven_by(cx);
        match client.will() {
            Will::End => return Poll::Ready(Ok(())),
            Will::Finish if told == Will::Go => {
                told = Will::Finish;
                connection.as_mut().graceful_shutdown();
            }
            Will::Finish | Will::Go => {}
        }
        connection.as_mut().poll(cx)
    })
    .await;
    if let Err(error) = result {
        debug!(%error, %remote, "connection ended");
    }
}

/// A connection in the list of the server for as long as it is open.
struct Registered {
    shared: Arc<Shared>,
    number: u64,
}

impl Registered {
    fn new(shared: &Arc<Shared>, client: &Arc<Client>) -> Self {
        let number = {
            let mut clients = shared.clients();
            clients.next += 1;
            let number = clients.next;
            clients.open.insert(number, (client.clone(), Seen::default()));
            number
        };
        shared.proxy.metrics.clients.inc();
        // Whoever was accepted just before the stop was not in the list when all were told.
        if shared.stopping.load(Ordering::SeqCst) {
            client.tell(Will::Finish);
        }
        Self { shared: shared.clone(), number }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.proxy.metrics.clients.dec();
        let mut clients = self.shared.clients();
        clients.open.remove(&self.number);
        if clients.open.is_empty() && self.shared.stopping.load(Ordering::SeqCst) {
            self.shared.idle.notify_one();
        }
    }
}

//! A world for tests: a network in memory, and disks that forget what was not synced. Runs in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hirsel_model::{NodeId, Timestamp, WallTime};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use redb::StorageBackend;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::calls::{CallHandler, Calls, StreamHandler};
use super::store::lock;
use crate::seam::{BoxStream, Chance, Clock, Disk, Listener, Net, World};
use crate::transport::CallError;

/// One way of a datagram.
const LATENCY: Duration = Duration::from_millis(1);
/// A piece of durable work.
const SYNC: Duration = Duration::from_millis(2);

/// The network between all nodes of a test.
#[derive(Clone, Default)]
pub(crate) struct Wires(Arc<Mutex<WiresInner>>);

#[derive(Default)]
struct WiresInner {
    nodes: BTreeMap<NodeId, Handlers>,
    cut: BTreeSet<(NodeId, NodeId)>,
    carried: BTreeMap<&'static str, u64>,
}

#[derive(Default)]
struct Handlers {
    calls: BTreeMap<&'static str, CallHandler>,
    streams: BTreeMap<&'static str, StreamHandler>,
    life: CancellationToken,
}

impl Wires {
    /// Plugs a node in.
    pub fn plug(&self, node: NodeId) -> Arc<Plug> {
        lock(&self.0).nodes.insert(node, Handlers::default());
        Arc::new(Plug { wires: self.clone(), me: node })
    }

    /// The node is gone: its streams break, and nobody reaches it.
    pub fn unplug(&self, node: NodeId) {
        if let Some(gone) = lock(&self.0).nodes.remove(&node) {
            gone.life.cancel();
        }
    }

    /// Nothing passes between these two, in either direction; streams that are open stay silent for ever.
    pub fn cut(&self, a: NodeId, b: NodeId) {
        lock(&self.0).cut.extend([(a, b), (b, a)]);
    }

    pub fn isolate(&self, node: NodeId) {
        let others: Vec<NodeId> = lock(&self.0).nodes.keys().copied().collect();
        others.into_iter().filter(|other| *other != node).for_each(|other| self.cut(node, other));
    }

    pub fn heal(&self) {
        lock(&self.0).cut.clear();
    }

    /// Calls of this kind that were made so far.
    pub fn carried(&self, kind: &str) -> u64 {
        lock(&self.0).carried.get(kind).copied().unwrap_or_default()
    }

    fn passes(&self, from: NodeId, to: NodeId) -> bool {
        !lock(&self.0).cut.contains(&(from, to))
    }
}

/// One node's access to the network.
pub(crate) struct Plug {
    wires: Wires,
    me: NodeId,
}

impl Calls for Plug {
    fn me(&self) -> NodeId {
        self.me
    }

    fn call<'a>(
        &'a self,
        to: NodeId,
        kind: &'static str,
        body: Vec<u8>,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, CallError>> {
        *lock(&self.wires.0).carried.entry(kind).or_default() += 1;
        let call = async move {
            tokio::time::sleep(LATENCY).await;
            if !self.wires.passes(self.me, to) {
                std::future::pending::<()>().await;
            }
            let handler = match lock(&self.wires.0).nodes.get(&to) {
                None => return Err(CallError::Unreachable),
                Some(handlers) => handlers.calls.get(kind).cloned().ok_or(CallError::NoHandler)?,
            };
            let answer = handler(self.me, body).await;
            tokio::time::sleep(LATENCY).await;
            if !self.wires.passes(to, self.me) {
                std::future::pending::<()>().await;
            }
            answer.map_err(CallError::Refused)
        };
        async move { tokio::time::timeout(ttl, call).await.unwrap_or(Err(CallError::TimedOut)) }.boxed()
    }

    fn serve(&self, kind: &'static str, handler: CallHandler) {
        if let Some(handlers) = lock(&self.wires.0).nodes.get_mut(&self.me) {
            handlers.calls.insert(kind, handler);
        }
    }

    fn open_stream<'a>(
        &'a self,
        to: NodeId,
        kind: &'static str,
        hello: Vec<u8>,
    ) -> BoxFuture<'a, Result<BoxStream, CallError>> {
        async move {
            tokio::time::sleep(LATENCY).await;
            if !self.wires.passes(self.me, to) {
                std::future::pending::<()>().await;
            }
            let (handler, life) = match lock(&self.wires.0).nodes.get(&to) {
                None => return Err(CallError::Unreachable),
                Some(handlers) => {
                    (handlers.streams.get(kind).cloned().ok_or(CallError::NoHandler)?, handlers.life.clone())
                }
            };
            let (near, far) = tokio::io::duplex(1 << 16);
            let me = self.me;
            tokio::spawn(async move { life.run_until_cancelled(handler(me, hello, Box::new(far))).await });
            Ok(Box::new(near) as BoxStream)
        }
        .boxed()
    }

    fn serve_stream(&self, kind: &'static str, handler: StreamHandler) {
        if let Some(handlers) = lock(&self.wires.0).nodes.get_mut(&self.me) {
            handlers.streams.insert(kind, handler);
        }
    }
}

/// The platters of one node; outlive its agents.
#[derive(Clone, Debug, Default)]
pub(crate) struct Platter(Arc<Mutex<PlatterInner>>);

#[derive(Debug, Default)]
struct PlatterInner {
    mount: u64,
    files: BTreeMap<String, TestFile>,
    /// Syncs until the power fails, inside of that sync.
    syncs_left: Option<u32>,
    failed: bool,
    /// No file may grow.
    full: bool,
    /// Work waits until it is taken back.
    hung: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct TestFile {
    bytes: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Write { at: usize, old: Vec<u8>, new: Vec<u8> },
    Resize { old: usize, new: usize },
}

impl TestFile {
    fn apply(&mut self, change: &Change, forward: bool) {
        match change {
            Change::Write { at, old, new } => {
                let bytes = if forward { new } else { old };
                if let Some(range) = self.bytes.get_mut(*at..at + bytes.len()) {
                    range.copy_from_slice(bytes);
                }
            }
            Change::Resize { old, new } => self.bytes.resize(if forward { *new } else { *old }, 0),
        }
    }
}

impl Platter {
    /// The disk of a new life of the node; earlier ones do not work any more.
    pub fn mount(&self) -> Arc<TestDisk> {
        let mut inner = lock(&self.0);
        inner.mount += 1;
        inner.failed = false;
        inner.syncs_left = None;
        Arc::new(TestDisk { platter: self.clone(), mount: inner.mount })
    }

    /// The power fails inside the `n`th sync from now, with its writes on their way.
    pub fn doom(&self, n: u32) {
        lock(&self.0).syncs_left = Some(n);
    }

    pub fn failed(&self) -> bool {
        lock(&self.0).failed
    }

    pub fn fill(&self, full: bool) {
        lock(&self.0).full = full;
    }

    /// Nothing that is asked of the disk comes back, until this is taken back.
    pub fn set_hung(&self, hung: bool) {
        lock(&self.0).hung.send_replace(hung);
    }

    /// Power loss: of the writes since the last sync, a random half reaches the platter. Before the agent is dropped, which would
    /// close its files cleanly.
    pub fn crash(&self, chance: &mut SmallRng) {
        let mut inner = lock(&self.0);
        inner.mount += 1;
        for file in inner.files.values_mut() {
            let changes = std::mem::take(&mut file.unsynced);
            changes.iter().rev().for_each(|change| file.apply(change, false));
            for change in &changes {
                // The size is kept with the data that it makes room for.
                if matches!(change, Change::Resize { .. }) || chance.random_bool(0.5) {
                    file.apply(change, true);
                }
            }
        }
    }

    /// What is on it now, as another platter.
    pub fn copy(&self) -> Platter {
        let inner = lock(&self.0);
        let copy = |(name, file): (&String, &TestFile)| {
            (name.clone(), TestFile { bytes: file.bytes.clone(), unsynced: Vec::new() })
        };
        let files = inner.files.iter().map(copy).collect();
        Platter(Arc::new(Mutex::new(PlatterInner { files, ..PlatterInner::default() })))
    }

    /// Does something to the bytes of a file that no agent has open.
    pub fn damage(&self, file: &str, harm: impl FnOnce(&mut Vec<u8>)) {
        harm(&mut lock(&self.0).files.get_mut(file).unwrap().bytes);
    }
}

/// One mount of a platter.
#[derive(Debug)]
pub(crate) struct TestDisk {
    platter: Platter,
    mount: u64,
}

impl TestDisk {
    fn with<T>(&self, act: impl FnOnce(&mut PlatterInner) -> io::Result<T>) -> io::Result<T> {
        let mut inner = lock(&self.platter.0);
        if inner.mount != self.mount || inner.failed {
            return Err(io::Error::other("the power is gone"));
        }
        act(&mut inner)
    }
}

impl Disk for TestDisk {
    fn backend(&self, path: &str) -> io::Result<Box<dyn StorageBackend>> {
        self.with(|inner| {
            inner.files.entry(path.into()).or_default();
            Ok(())
        })?;
        let disk = TestDisk { platter: self.platter.clone(), mount: self.mount };
        Ok(Box::new(TestBackend { disk, path: path.into() }))
    }

    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        self.with(|inner| Ok(inner.files.get(path).map(|file| file.bytes.clone())))
    }

    fn write(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.with(|inner| {
            inner.files.insert(path.into(), TestFile { bytes: bytes.to_vec(), unsynced: Vec::new() });
            Ok(())
        })
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.with(|inner| {
            inner.files.remove(path);
            Ok(())
        })
    }

    fn run<'a>(&'a self, work: Box<dyn FnOnce() -> io::Result<()> + Send + 'static>) -> BoxFuture<'a, io::Result<()>> {
        let mut hung = lock(&self.platter.0).hung.subscribe();
        async move {
            tokio::time::sleep(SYNC).await;
            // Without a platter nobody takes it back.
            if hung.wait_for(|hung| !hung).await.is_err() {
                std::future::pending::<()>().await;
            }
            work()
        }
        .boxed()
    }
}

#[derive(Debug)]
struct TestBackend {
    disk: TestDisk,
    path: String,
}

impl TestBackend {
    fn with<T>(&self, act: impl FnOnce(&mut TestFile, bool) -> io::Result<T>) -> io::Result<T> {
        self.disk.with(|inner| {
            let full = inner.full;
            act(inner.files.get_mut(&self.path).unwrap(), full)
        })
    }
}

impl StorageBackend for TestBackend {
    fn len(&self) -> io::Result<u64> {
        self.with(|file, _| Ok(file.bytes.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|file, _| {
            let at = offset as usize;
            let range = file.bytes.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            out.copy_from_slice(range);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|file, full| {
            let change = Change::Resize { old: file.bytes.len(), new: len as usize };
            if full && len as usize > file.bytes.len() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            file.apply(&change, true);
            file.unsynced.push(change);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.with(|inner| {
            if let Some(left) = &mut inner.syncs_left {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    inner.failed = true;
                    return Err(io::Error::other("the power fails"));
                }
            }
            inner.files.get_mut(&self.path).unwrap().unsynced.clear();
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(|file, full| {
            if full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let at = offset as usize;
            let range = file.bytes.get_mut(at..at + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            let old = range.to_vec();
            range.copy_from_slice(data);
            file.unsynced.push(Change::Write { at, old, new: data.to_vec() });
            Ok(())
        })
    }
}

/// A world with this disk, no sockets, and seeded chance.
pub(crate) fn world(disk: Arc<dyn Disk>, seed: u64) -> World {
    let chance = Arc::new(SeededChance(Mutex::new(SmallRng::seed_from_u64(seed))));
    World { net: Arc::new(NoNet), disk, clock: Arc::new(TokioClock(tokio::time::Instant::now())), chance }
}

#[derive(Debug)]
struct SeededChance(Mutex<SmallRng>);

impl Chance for SeededChance {
    fn fill(&self, bytes: &mut [u8]) {
        lock(&self.0).fill_bytes(bytes);
    }
}

#[derive(Debug)]
struct TokioClock(tokio::time::Instant);

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.elapsed().as_millis() as u64)
    }

    fn wall(&self) -> WallTime {
        WallTime(1_700_000_000_000)
    }
}

#[derive(Debug)]
struct NoNet;

impl Net for NoNet {
    fn udp(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<Arc<dyn quinn::AsyncUdpSocket>>> {
        async { Err(io::ErrorKind::Unsupported.into()) }.boxed()
    }

    fn listen(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        async { Err(io::ErrorKind::Unsupported.into()) }.boxed()
    }

    fn connect(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        async { Err(io::ErrorKind::Unsupported.into()) }.boxed()
    }
}

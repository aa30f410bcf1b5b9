//! Disks of some nodes, used by each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use hirsel_mesh::seam::BoxStream;
use hirsel_mesh::seam::volume::memory::Platter;
use hirsel_mesh::transport::CallError;
use hirsel_model::{ClusterId, NodeId};
use hirsel_role::Spawner;
use hirsel_role::peers::{CallHandler, Peers, StreamHandler};
use tokio::time::{Instant, timeout};

use super::*;
use crate::codec::Codec;
use crate::counts::Reads;
use crate::disk::{Disk, Identity, Settings};
use crate::drive::Progress;
use crate::patience::{HEDGE_AFTER_MAX, HEDGE_AFTER_MIN};
use crate::spread::Goal;
use crate::store::{Piece, ReadError, Store};

mod spread;

/// What connects the nodes of a test.
#[derive(Default)]
struct Wires {
    calls: BTreeMap<(NodeId, &'static str), CallHandler>,
    streams: BTreeMap<(NodeId, &'static str), StreamHandler>,
    /// Nodes that nobody reaches.
    cut: BTreeSet<NodeId>,
    /// Nodes that take what they are sent and say nothing.
    frozen: BTreeSet<NodeId>,
    /// Flips a byte of each question, or of each answer, that is longer than this.
    flip_asked: Option<usize>,
    flip_answered: Option<usize>,
}

/// A node's end of the wires.
struct End {
    me: NodeId,
    wires: Arc<Mutex<Wires>>,
}

fn flip(bytes: &mut [u8], from: Option<usize>) {
    if let Some(from) = from.filter(|from| bytes.len() > *from) {
        let at = from + (bytes.len() - from) / 2;
        bytes[at] ^= 1;
    }
}

impl Peers for End {
    fn call(
        &self,
        to: NodeId,
        kind: &'static str,
        mut body: Vec<u8>,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, CallError>> {
        async move {
            let (handler, flipped) = {
                let wires = self.wires.lock().unwrap();
                if wires.cut.contains(&to) {
                    return Err(CallError::Unreachable);
                }
                let frozen = wires.frozen.contains(&to);
                flip(&mut body, wires.flip_asked);
                (wires.calls.get(&(to, kind)).cloned().filter(|_| !frozen), wires.flip_answered)
            };
            let Some(handler) = handler else {
                tokio::time::sleep(ttl).await;
                return Err(CallError::TimedOut);
            };
            let answered = timeout(ttl, handler(self.me, body)).await.map_err(|_| CallError::TimedOut)?;
            let mut answer = answered.map_err(CallError::Refused)?;
            flip(&mut answer, flipped);
            Ok(answer)
        }
        .boxed()
    }

    fn open(&self, to: NodeId, kind: &'static str, hello: Vec<u8>) -> BoxFuture<'_, Result<BoxStream, CallError>> {
        async move {
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            let handler = {
                let wires = self.wires.lock().unwrap();
                if wires.cut.contains(&to) {
                    return Err(CallError::Unreachable);
                }
                let frozen = wires.frozen.contains(&to);
                wires.streams.get(&(to, kind)).cloned().filter(|_| !frozen)
            };
            match handler {
                Some(handler) => drop(tokio::spawn(handler(self.me, hello, Box::new(theirs)))),
                None => drop(tokio::spawn(async move {
                    let _theirs = theirs;
                    std::future::pending::<()>().await
                })),
            }
            Ok(Box::new(ours) as BoxStream)
        }
        .boxed()
    }

    fn serve(&self, kind: &'static str, handler: CallHandler) {
        self.wires.lock().unwrap().calls.insert((self.me, kind), handler);
    }

    fn serve_streams(&self, kind: &'static str, handler: StreamHandler) {
        self.wires.lock().unwrap().streams.insert((self.me, kind), handler);
    }
}

/// Some nodes with a disk each, and one that uses them.
struct Town {
    wires: Arc<Mutex<Wires>>,
    platters: Vec<Arc<Platter>>,
    disks: Vec<Arc<Disk>>,
    store: Store,
}

const CAPACITY: u64 = 64 << 20;

impl Town {
    async fn of(nodes: u64) -> Town {
        let wires = Arc::new(Mutex::new(Wires::default()));
        let spawner = Spawner::new(tokio::runtime::Handle::current());
        let (mut platters, mut disks) = (Vec::new(), Vec::new());
        for node in 1..=nodes {
            let platter = Platter::new(CAPACITY);
            let identity = Identity { cluster: ClusterId("c".into()), node: NodeId(node), disk: DiskId(node * 10) };
            Disk::lay_out(&*platter.mount(), &identity).unwrap();
            let settings = Settings::for_volume(CAPACITY);
            let disk = Arc::new(Disk::open(platter.mount(), identity, settings, spawner.clone()).await.unwrap());
            let service = Service::default();
            service.set_disks([(DiskId(node * 10), disk.clone())].into());
            service.serve(&End { me: NodeId(node), wires: wires.clone() });
            platters.push(platter);
            disks.push(disk);
        }
        let store = Store::new(Remote::new(Arc::new(End { me: NodeId(99), wires: wires.clone() })));
        Town { wires, platters, disks, store }
    }

    fn targets(&self) -> Vec<Target> {
        (1..=self.disks.len() as u64).map(|node| Target { node: NodeId(node), disk: DiskId(node * 10) }).collect()
    }

    fn wires(&self) -> std::sync::MutexGuard<'_, Wires> {
        self.wires.lock().unwrap()
    }

    fn cut(&self, nodes: &[usize]) {
        self.wires().cut = nodes.iter().map(|index| NodeId(*index as u64 + 1)).collect();
    }

    fn freeze(&self, nodes: &[usize]) {
        self.wires().frozen = nodes.iter().map(|index| NodeId(*index as u64 + 1)).collect();
    }
}

fn id(n: u8) -> ChunkId {
    ChunkId([n; 16])
}

fn content(n: u8, bytes: usize) -> Bytes {
    let mut content = vec![0; bytes];
    blake3::Hasher::new().update(&[n]).finalize_xof().fill(&mut content);
    content.into()
}

async fn put(town: &Town, target: Target, chunk: ChunkId, content: &Bytes) -> Result<Receipt, RemoteError> {
    let blocks = chunk::blocks(chunk, content);
    town.store.remote().put(target, chunk, content.len() as u32, &blocks, &Progress::default()).await
}

fn refused<T: std::fmt::Debug>(result: Result<T, RemoteError>) -> Why {
    match result {
        Err(RemoteError::Refused(refusal)) => refusal.why,
        other => panic!("{other:?} is no refusal"),
    }
}

#[tokio::test]
async fn a_chunk_is_written_read_listed_and_ended_from_another_node() {
    let town = Town::of(1).await;
    let target = town.targets()[0];
    let remote = town.store.remote();
    for (n, bytes) in [(1, 0), (2, 5_000), (3, 262_144), (4, 262_145), (5, 4 << 20)] {
        let receipt = put(&town, target, id(n), &content(n, bytes)).await.unwrap();
        assert_eq!(put(&town, target, id(n), &content(n, bytes)).await, Ok(receipt), "the same once more");
        let all = town.store.read_copy(id(n), 0..u32::MAX, &[target]).await.unwrap();
        assert_eq!(all, content(n, bytes), "{bytes}");
        for range in [0..1, 1_000..4_999, 60_000..140_000, 4_000_000..4_100_000, 1..3_000_000] {
            let (from, to) = ((range.start as usize).min(bytes), (range.end as usize).min(bytes));
            let read = town.store.read_copy(id(n), range.clone(), &[target]).await.unwrap();
            assert_eq!(read, content(n, bytes).slice(from..to), "{range:?} of {bytes}");
        }
    }
    assert_eq!(refused(put(&town, target, id(2), &content(9, 5_000)).await), Why::Exists);
    assert_eq!(refused(put(&town, target, id(5), &content(9, 4 << 20)).await), Why::Exists);
    let listed = remote.list(target, None).await.unwrap();
    assert_eq!(listed.iter().map(|listed| listed.bytes).collect::<Vec<_>>(), [0, 5_000, 262_144, 262_145, 4 << 20]);
    assert_eq!(refused(remote.unlink(target, vec![id(2)]).await), Why::NotCondemned);
    assert_eq!(remote.condemn(target, vec![id(2), id(9), id(5)]).await, Ok(vec![true, false, true]));
    assert!(remote.list(target, Some(id(1))).await.unwrap()[0].condemned);
    assert_eq!(remote.unlink(target, vec![id(2), id(9), id(5)]).await, Ok(vec![true, false, true]));
    assert_eq!(refused(remote.get(target, id(2), 0, 10).await), Why::Absent);
    assert_eq!(refused(remote.get(target, id(5), 0, 4 << 20).await), Why::Absent);
    let room = remote.usage(target).await.unwrap();
    assert_eq!((room.chunks, room.total, room.read_only), (3, CAPACITY, None));
    let elsewhere = Target { disk: DiskId(1), ..target };
    assert_eq!(refused(remote.usage(elsewhere).await), Why::NoDisk);
    assert_eq!(refused(put(&town, elsewhere, id(7), &content(7, 1 << 20)).await), Why::NoDisk);
    let nobody = Target { node: NodeId(50), ..target };
    assert!(matches!(
        timeout(Duration::from_secs(1), remote.usage(nobody)).await,
        Err(_) | Ok(Err(RemoteError::Silent(_)))
    ));
    let many = vec![id(1); DEATHS_MAX + 1];
    assert_eq!(refused(remote.condemn(target, many).await), Why::Wrong);
}

#[tokio::test]
async fn a_node_reads_its_own_disk_as_others_do_and_without_a_wire() {
    let town = Town::of(1).await;
    let (target, remote) = (town.targets()[0], town.store.remote());
    let service = Service::default();
    service.set_disks([(target.disk, town.disks[0].clone())].into());
    let here = Remote::new(Arc::new(End { me: target.node, wires: town.wires.clone() })).beside(target.node, service);
    let ranges = [0..0, 0..1, 1_000..4_999, 60_000..140_000, 4_000_000..4_100_000, 1..3_000_000, 0..u32::MAX];
    for (n, bytes) in [(1, 0), (2, 5_000), (3, 262_144), (4, 4 << 20)] {
        put(&town, target, id(n), &content(n, bytes)).await.unwrap();
        for range in &ranges {
            let (own, other) =
                (here.get(target, id(n), range.start, range.end), remote.get(target, id(n), range.start, range.end));
            assert_eq!(own.await.unwrap(), other.await.unwrap(), "{range:?} of {bytes}");
        }
    }
    town.cut(&[0]);
    assert_eq!(here.get(target, id(4), 0, 4 << 20).await.unwrap().data, content(4, 4 << 20));
    assert_eq!(refused(here.get(target, id(9), 0, 10).await), Why::Absent);
    assert_eq!(refused(here.get(target, id(4), 10, 9).await), Why::Wrong);
    let chunks = town.platters[0].files().into_iter().filter(|(path, _)| path.starts_with("chunks"));
    let (path, _) = chunks.max_by_key(|(_, length)| *length).unwrap();
    town.platters[0].flip(&path, 2_000_000, 1);
    assert_eq!(refused(here.get(target, id(4), 0, 4 << 20).await), Why::Damaged);
    let elsewhere = Target { disk: DiskId(1), ..target };
    assert_eq!(refused(here.get(elsewhere, id(4), 0, 10).await), Why::NoDisk);
}

#[tokio::test]
async fn what_changes_on_its_way_is_found_at_the_other_end() {
    let town = Town::of(2).await;
    let target = town.targets()[0];
    town.wires().flip_asked = Some(1_000);
    assert_eq!(refused(put(&town, target, id(1), &content(1, 50_000)).await), Why::Wrong);
    town.wires().flip_asked = None;
    assert!(town.disks[0].find(id(1)).is_none());
    for target in town.targets() {
        put(&town, target, id(1), &content(1, 50_000)).await.unwrap();
    }
    town.wires().flip_answered = Some(1_000);
    assert_eq!(refused(town.store.remote().get(target, id(1), 0, 50_000).await), Why::Damaged);
}

#[tokio::test]
async fn a_disk_says_why_it_takes_nothing() {
    let town = Town::of(1).await;
    let target = town.targets()[0];
    put(&town, target, id(1), &content(1, 300_000)).await.unwrap();
    town.platters[0].set_capacity(1 << 20);
    for bytes in [5_000, 3_000_000] {
        assert_eq!(refused(put(&town, target, id(2), &content(2, bytes)).await), Why::Full);
    }
    town.platters[0].set_capacity(CAPACITY);
    town.platters[0].fail_sync_after(0);
    for bytes in [5_000, 3_000_000] {
        assert_eq!(refused(put(&town, target, id(2), &content(2, bytes)).await), Why::ReadOnly);
    }
    assert!(town.store.remote().usage(target).await.unwrap().read_only.is_some());
    assert_eq!(town.store.read_copy(id(1), 0..300_000, &[target]).await.unwrap(), content(1, 300_000));
}

//! Nodes that go by different tables evict what they can, and never the last set of pieces.

use std::sync::Mutex as StdMutex;

use futures::future::BoxFuture;
use futures::stream;
use hirsel_mesh::seam::BoxStream;
use hirsel_mesh::seam::volume::memory::Platter;
use hirsel_mesh::transport::CallError;
use hirsel_model::ClusterId;
use hirsel_model::storage::{StorageTable, partition};
use hirsel_role::Spawner;
use hirsel_role::peers::{CallHandler, StreamHandler};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::*;
use crate::disk::{DiskId, Identity, Settings};
use crate::meta::names::WriteId;

const NODES: u64 = 8;
const TABLES: u64 = 6;

/// Connects the nodes; a call takes a few turns.
#[derive(Default)]
struct Wires {
    handlers: StdMutex<BTreeMap<NodeId, CallHandler>>,
}

struct End(NodeId, Arc<Wires>);

impl Peers for End {
    fn call(
        &self,
        to: NodeId,
        _: &'static str,
        body: Vec<u8>,
        _: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, CallError>> {
        async move {
            let handler = self.1.handlers.lock().unwrap().get(&to).cloned().ok_or(CallError::Unreachable)?;
            for _ in 0..(self.0.0 + to.0) % 4 {
                tokio::task::yield_now().await;
            }
            let answer = handler(self.0, body).await.map_err(CallError::Refused);
            tokio::task::yield_now().await;
            answer
        }
        .boxed()
    }
    fn open(&self, _: NodeId, _: &'static str, _: Vec<u8>) -> BoxFuture<'_, Result<BoxStream, CallError>> {
        std::future::ready(Err(CallError::Unreachable)).boxed()
    }
    fn serve(&self, _: &'static str, handler: CallHandler) {
        self.1.handlers.lock().unwrap().insert(self.0, handler);
    }
    fn serve_streams(&self, _: &'static str, _: StreamHandler) {}
}

struct Node {
    disk: Arc<Disk>,
    order: watch::Sender<Arc<StorageOrder>>,
    spares: Spares,
}

impl Node {
    async fn new(number: u64, wires: &Arc<Wires>, first: &Arc<StorageOrder>) -> Node {
        let platter = Platter::new(64 << 20);
        let identity = Identity { cluster: ClusterId("pasture".into()), node: NodeId(number), disk: DiskId(number) };
        Disk::lay_out(&*platter.mount(), &identity).unwrap();
        let settings = Settings { capacity_bytes: u64::MAX, reserve_bytes: 1 << 20, segment_bytes: 64 << 10 };
        let spawner = Spawner::new(tokio::runtime::Handle::current());
        let disk = Arc::new(Disk::open(platter.mount(), identity, settings, spawner).await.unwrap());
        let order = watch::Sender::new(first.clone());
        let spares = Spares {
            me: NodeId(number),
            disk: disk.clone(),
            order: order.subscribe(),
            peers: Arc::new(End(NodeId(number), wires.clone())),
            leaving: Arc::default(),
        };
        spares.serve();
        Node { disk, order, spares }
    }

    fn has(&self, piece: chunk::ChunkId) -> bool {
        self.disk.find(piece).is_some()
    }

    async fn put(&self, piece: chunk::ChunkId) {
        let content = [7; 100];
        let blocks = chunk::blocks(piece, &bytes::Bytes::copy_from_slice(&content)).into_iter().map(Ok);
        self.disk.put(piece, 100, stream::iter(blocks)).await.unwrap();
    }

    /// What an audit finds here that by the table of this node belongs elsewhere.
    fn elsewhere(&self, chunks: &[(ChunkId, Class)]) -> Vec<Spare> {
        let order = self.order.borrow().clone();
        let mut found = Vec::new();
        for (chunk, class) in chunks {
            for shard in 0..if matches!(class, Class::Copies(_)) { 1 } else { class.pieces() } {
                let partition = &order.table.partitions[&chunk.partition()];
                if self.has(chunk.on_disk(shard)) && !belongs(partition, *class, shard, self.spares.me) {
                    found.push(Spare { chunk: *chunk, shard, known: Chunk { shared: 1, bytes: 100, class: *class } });
                }
            }
        }
        found
    }
}

/// Tables over all nodes: each moves some partitions somewhere else.
fn tables(rng: &mut SmallRng, numbers: &[u16]) -> Vec<Arc<StorageOrder>> {
    let mut table = StorageTable { version: 0, ..StorageTable::default() };
    let mut orders = Vec::new();
    for version in 1..=TABLES {
        table.version = version;
        for number in numbers {
            if version > 1 && rng.random_bool(0.4) {
                continue;
            }
            let mut nodes: Vec<NodeId> = (1..=NODES).map(NodeId).collect();
            nodes.shuffle(rng);
            nodes.truncate(if *number < partition(4, 0) { 3 } else { 6 });
            table.partitions.insert(*number, Partition { nodes, next: Vec::new(), table: version });
        }
        orders.push(Arc::new(StorageOrder { table: table.clone(), ..StorageOrder::default() }));
    }
    orders
}

/// Refuses a chunk of which not everything is somewhere: as many copies, or all shards.
fn check(nodes: &[Node], chunks: &[(ChunkId, Class)], about: &str) {
    for (chunk, class) in chunks {
        let having = |shard| nodes.iter().filter(|node| node.has(chunk.on_disk(shard))).count();
        match class {
            Class::Copies(copies) => assert!(having(0) >= usize::from(*copies), "{about}: {} of {class:?}", having(0)),
            Class::Erasure(..) => {
                let lost: Vec<u8> = (0..class.pieces()).filter(|shard| having(*shard) == 0).collect();
                assert!(lost.is_empty(), "{about}: shards {lost:?} of {class:?}");
            }
        }
    }
}

/// Brings to where a table says it belongs what is not there yet.
async fn bring(nodes: &[Node], chunks: &[(ChunkId, Class)], order: &StorageOrder) {
    for (chunk, class) in chunks {
        for (shard, home) in homes(order, *chunk, *class).unwrap() {
            let home = &nodes[home.0 as usize - 1];
            if !home.has(chunk.on_disk(shard)) {
                home.put(chunk.on_disk(shard)).await;
            }
        }
    }
}

async fn story(seed: u64) -> u64 {
    let mut rng = SmallRng::seed_from_u64(seed);
    let numbers = [partition(3, 1), partition(3, 2), partition(6, 1)];
    let orders = tables(&mut rng, &numbers);
    let chunks: Vec<(ChunkId, Class)> = (0..24)
        .map(|n| {
            let number = numbers[n % numbers.len()];
            let class = if number < partition(4, 0) { Class::Copies(3) } else { Class::Erasure(4, 2) };
            (ChunkId::new(number, WriteId([n as u8; 12]), 0), class)
        })
        .collect();
    let wires = Arc::new(Wires::default());
    let mut nodes = Vec::new();
    for number in 1..=NODES {
        nodes.push(Node::new(number, &wires, &orders[0]).await);
    }
    bring(&nodes, &chunks, &orders[0]).await;
    let mut evicted = 0;
    for step in 0..30 {
        // Some nodes hear of another table, some of an older one: they were started anew. Moves go by any of them.
        if rng.random_bool(0.5) {
            let order = &orders[rng.random_range(0..orders.len())];
            let some: Vec<(ChunkId, Class)> = chunks.iter().copied().filter(|_| rng.random_bool(0.5)).collect();
            bring(&nodes, &some, order).await;
        }
        let (mut evicts, mut hears): (Vec<BoxFuture<'_, u64>>, Vec<BoxFuture<'_, u64>>) = Default::default();
        for node in &nodes {
            let turns = rng.random_range(0..12);
            if rng.random_bool(0.5) {
                let now = node.order.borrow().table.version;
                let next = if rng.random_bool(0.8) { (now + 1).min(TABLES) } else { rng.random_range(1..=now) };
                let order = orders[next as usize - 1].clone();
                hears.push(Box::pin(async move {
                    for _ in 0..turns {
                        tokio::task::yield_now().await;
                    }
                    node.order.send_replace(order);
                    0
                }));
            }
            if rng.random_bool(0.7) {
                let chunks = &chunks;
                evicts.push(Box::pin(async move { node.spares.evict(&node.elsewhere(chunks)).await.unwrap() }));
            }
        }
        evicted += join_all(evicts.into_iter().chain(hears)).await.into_iter().sum::<u64>();
        check(&nodes, &chunks, &format!("seed {seed}, step {step}"));
    }
    // Once all have heard of the last table, and everything is where it says, nothing is anywhere else for long.
    let last = orders.last().unwrap();
    nodes.iter().for_each(|node| drop(node.order.send_replace(last.clone())));
    bring(&nodes, &chunks, last).await;
    for node in &nodes {
        evicted += node.spares.evict(&node.elsewhere(&chunks)).await.unwrap();
    }
    let held: u64 = nodes.iter().map(|node| node.disk.list(None).len() as u64).sum();
    let pieces: u64 = chunks.iter().map(|(_, class)| u64::from(class.pieces())).sum();
    assert_eq!(held, pieces, "seed {seed}");
    check(&nodes, &chunks, &format!("seed {seed}, at its end"));
    evicted
}

#[tokio::test]
async fn whatever_tables_nodes_go_by_a_whole_set_of_pieces_stays_and_in_the_end_nothing_more() {
    let mut evicted = 0;
    for seed in 0..30 {
        evicted += story(seed).await;
    }
    assert!(evicted > 1_000, "{evicted} pieces were evicted in all");
}

#[tokio::test]
async fn a_node_says_what_it_keeps_only_by_a_table_that_is_as_new() {
    let wires = Arc::new(Wires::default());
    let nodes = (1..=3).map(NodeId).collect();
    let number = partition(3, 1);
    let mut order = StorageOrder::default();
    order.table.version = 5;
    order.table.partitions.insert(number, Partition { nodes, next: Vec::new(), table: 5 });
    let order = Arc::new(order);
    let node = Node::new(1, &wires, &order).await;
    let piece = ChunkId::new(number, WriteId([1; 12]), 0).on_disk(0);
    let ask = |table| node.spares.keeps(&Question { table, pieces: vec![(piece, Class::Copies(3))] });
    assert_eq!(ask(5), Ok(vec![false]), "it is not there");
    node.put(piece).await;
    assert_eq!((ask(4), ask(5)), (Ok(vec![true]), Ok(vec![true])));
    assert_eq!(ask(6), Err("knows table 5 and not yet 6".into()));
    let leaving = Leaving::begin(&node.spares, vec![piece]);
    assert_eq!(ask(5), Ok(vec![false]), "it is about to go");
    drop(leaving);
    assert_eq!(ask(5), Ok(vec![true]));
    node.disk.condemn(piece).await.unwrap();
    assert_eq!(ask(5), Ok(vec![false]));
}

//! As many nodes as a class bears (two of seven, three of twelve) are lost for good under load, at any operation of their disks, and with all
//! that was on these: whatever was acknowledged is read meanwhile, byte for byte, and once it is mended every piece is counted where it should be.
//!
//! Disks are in memory and end inside an operation; the mesh and the metadata are real. A seed draws who is lost, when, and what clients do.
//! `HIRSEL_STORAGE_LOSSES` says how many seeds there are with two losses, `HIRSEL_STORAGE_WIDE_LOSSES` with three, `HIRSEL_STORAGE_LOSSES_FROM`
//! is the first.

#[path = "../common/mod.rs"]
mod common;
mod load;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::{Mesh, Node, heard, steer};
use hirsel_mesh::seam::volume::memory::Platter;
use hirsel_model::order::StorageOrder;
use hirsel_model::storage::{Audit, Partition};
use hirsel_model::{Incarnation, NodeId};
use hirsel_role::Live;
use hirsel_role::storage::Auditing;
use hirsel_storage::disk::{DiskError, DiskId};
use hirsel_storage::gateway::Gateway;
use hirsel_storage::heal::budget::Budget;
use hirsel_storage::heal::{Healing, audit, deaths, moves, repair};
use hirsel_storage::meta::access::MetaError;
use hirsel_storage::meta::command::Command;
use hirsel_storage::meta::kinds::{Acl, Chunk, Class};
use hirsel_storage::meta::names::ChunkId;
use hirsel_storage::meta::refusal::Refusal;
use hirsel_storage::meta::{query, read};
use load::{Buckets, Client, Doors};
use rand::rngs::SmallRng;
use rand::seq::index;
use rand::{Rng, SeedableRng};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// A cluster, and what it bears.
#[derive(Clone, Copy, Debug)]
struct Kind {
    nodes: u64,
    /// So many may be lost.
    losses: usize,
    /// Any of these may go, and a majority is left.
    voters: u64,
    buckets: Buckets,
    /// The third number of its addresses, before that of the seed.
    net: u64,
    /// Histories of the quick tier, and which variable asks for others.
    seeds: (u64, &'static str),
}

const TWO: Kind = Kind {
    nodes: 7,
    losses: 2,
    voters: 5,
    buckets: &[("copied", Class::Copies(3)), ("coded", Class::Erasure(4, 2))],
    net: 100,
    seeds: (2, "HIRSEL_STORAGE_LOSSES"),
};
/// One node is over, so that what is written when three are gone has nine places, which is the least.
const THREE: Kind = Kind {
    nodes: 12,
    losses: 3,
    voters: 7,
    buckets: &[("wide", Class::Erasure(8, 3))],
    net: 180,
    seeds: (1, "HIRSEL_STORAGE_WIDE_LOSSES"),
};
const CLIENTS: u64 = 3;
/// What each client does in each phase, at least.
const STEPS: u32 = 8;
/// One of the next so many operations is the last one of a disk that is lost. A chunk costs it some four.
const OPERATIONS: u64 = 40;
const DISK_BYTES: u64 = 1 << 30;
/// Whatever is waited for happens within this, also where others use the machine.
const SOON: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(10);

/// What becomes of those that lose their disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// Nothing is left of the nodes: the plan moves what they had to two new ones.
    Nodes,
    /// The nodes go on, and get empty disks: their audits find what is missing.
    Disks,
}

/// Nodes under load.
struct Town {
    kind: Kind,
    mesh: Mesh,
    nodes: BTreeMap<NodeId, Node>,
    platters: BTreeMap<NodeId, Arc<Platter>>,
    doors: Doors,
    healing: watch::Sender<Healing>,
}

impl Town {
    async fn new(kind: Kind, mesh: Mesh) -> Town {
        let (nodes, platters, doors) = (BTreeMap::new(), BTreeMap::new(), Doors::default());
        let mut town = Town { kind, mesh, nodes, platters, doors, healing: watch::Sender::default() };
        for number in 1..=kind.nodes {
            town.start(number).await;
        }
        town.steer().await;
        let begun = Instant::now();
        for (name, class) in kind.buckets.iter().copied() {
            let (name, acl) = (name.parse().unwrap(), Acl::Private);
            let (owner, region, lockable) = ("ann".into(), "here".into(), false);
            let create = Command::CreateBucket { name, owner, region, lockable, acl, class };
            loop {
                match town.nodes[&NodeId(1)].gateway.ask(create.clone()).await {
                    Ok(_) | Err(MetaError::Refused(Refusal::BucketYours)) => break,
                    Err(error) => assert!(begun.elapsed() < SOON, "no bucket can be made: {error}"),
                }
            }
        }
        town
    }

    async fn steer(&self) {
        let table = self.mesh.order.borrow().table.clone();
        steer(self.nodes.values(), &table).await;
    }

    async fn start(&mut self, number: u64) {
        let platter = Platter::new(DISK_BYTES);
        let node = self.mesh.start_on(number, platter.mount()).await;
        self.doors.open(node.gateway.clone());
        self.platters.insert(NodeId(number), platter);
        self.nodes.insert(NodeId(number), node);
    }

    /// Waits until the disks of these have ended, and takes away what the loss takes.
    async fn lose(&mut self, victims: &[NodeId], loss: Loss) {
        let (begun, mut left) = (Instant::now(), victims.to_vec());
        while !left.is_empty() {
            let (failed, rest): (Vec<_>, Vec<_>) =
                left.iter().copied().partition(|node| self.platters[node].has_failed());
            for node in &failed {
                match loss {
                    Loss::Nodes => {
                        self.doors.close(*node);
                        self.nodes[node].transport.close().await;
                        self.mesh.live.send_modify(|live| {
                            Arc::<Live>::make_mut(live).nodes.remove(node);
                        });
                    }
                    Loss::Disks => {
                        let platter = Platter::new(DISK_BYTES);
                        let lost = self.nodes.get_mut(node).unwrap();
                        lost.replace_disk(platter.mount(), &self.mesh.cluster, DiskId(100 + node.0)).await;
                        self.platters.insert(*node, platter);
                    }
                }
            }
            left = rest;
            assert!(begun.elapsed() < SOON, "nothing is written on {left:?}");
            sleep(PAUSE).await;
        }
    }

    /// Does what the plan does about nodes that are gone for good: new ones come, and take their places.
    async fn replace(&mut self, victims: &[NodeId]) {
        let mut takes = BTreeMap::new();
        for (number, victim) in (self.kind.nodes + 1..).zip(victims) {
            self.start(number).await;
            let node = NodeId(number);
            self.mesh.live.send_modify(|live| {
                Arc::<Live>::make_mut(live).nodes.insert(node, heard());
            });
            self.nodes.remove(victim);
            takes.insert(*victim, node);
        }
        self.mesh.order.send_modify(|order| {
            let order = Arc::make_mut(order);
            let table = &mut order.table;
            table.version = 2;
            for partition in
                table.partitions.values_mut().filter(|it| it.nodes.iter().any(|node| takes.contains_key(node)))
            {
                partition.next = partition.nodes.iter().map(|node| *takes.get(node).unwrap_or(node)).collect();
                partition.table = 2;
            }
            let stay = self.nodes.keys().copied().filter(|node| node.0 <= self.kind.nodes);
            table.voters = stay.take(self.kind.voters as usize).collect();
            order.nodes = self.nodes.keys().copied().collect();
            order.incarnations = order.nodes.iter().map(|node| (*node, Incarnation(1))).collect();
        });
        self.steer().await;
    }

    /// Whether all partitions are where they move to: then the plan says so.
    fn has_moved(&self) -> bool {
        let moved = self.healing.borrow().moved.clone();
        let order = self.mesh.order.borrow().clone();
        let is_moved = |(number, it): (&u16, &Partition)| it.next.is_empty() || moved.get(number) == Some(&it.table);
        if !order.table.partitions.iter().all(is_moved) {
            return false;
        }
        self.mesh.order.send_modify(|order| {
            let table = &mut Arc::make_mut(order).table;
            table.version += 1;
            for partition in table.partitions.values_mut().filter(|it| !it.next.is_empty()) {
                partition.nodes = std::mem::take(&mut partition.next);
            }
        });
        true
    }

    /// Tells that all gateways have started anew: a write whose end was lost on its way ends with the start that began it.
    fn start_anew(&self) {
        self.mesh.order.send_modify(|order| {
            Arc::make_mut(order).incarnations.values_mut().for_each(|start| *start = Incarnation(2));
        });
    }

    /// Heals as whoever leads does, for as long as it is not ended.
    fn heal(&self) -> JoinHandle<()> {
        let (healing, moving) = (self.healing.clone(), self.healing.clone());
        let repairs = self.again(move |leader, order| repair::step(leader, order, healing.clone(), Budget::default()));
        let moves = self.again(move |leader, order| moves::step(leader, order, moving.clone(), Budget::default()));
        let deaths = self.again(deaths::step);
        tokio::spawn(async move {
            tokio::join!(repairs, moves, deaths);
        })
    }

    /// Has a step taken by whoever leads, again and again.
    fn again<S, F>(&self, step: S) -> impl Future<Output = ()> + use<S, F>
    where
        S: Fn(Gateway, Arc<StorageOrder>) -> F,
        F: Future<Output = Result<bool, String>>,
    {
        let (doors, order) = (self.doors.clone(), self.mesh.order.subscribe());
        async move {
            loop {
                if let Some(leader) = doors.leader() {
                    let now = order.borrow().clone();
                    // In words; what is reached is looked at.
                    let _ = step(leader, now).await;
                }
                sleep(PAUSE).await;
            }
        }
    }

    /// Nothing waits to be made anew, or to be unlinked.
    fn is_settled(&self) -> Result<(), String> {
        let leader = self.doors.leader().ok_or("nobody leads")?;
        let here = leader.meta().group().here().map_err(|error| error.to_string())?;
        let repairs = read::repairs(&here, None, None, 10).map_err(|error| error.to_string())?;
        let condemned = read::condemned(&here, None, None, 10).map_err(|error| error.to_string())?;
        if !repairs.is_empty() || !condemned.is_empty() || read::is_dying(&here).map_err(|error| error.to_string())? {
            let stuck = self.healing.borrow().stuck.clone();
            return Err(format!("{repairs:?} to be made anew, {condemned:?} to be unlinked; {stuck:?}"));
        }
        Ok(())
    }

    /// One audit of each node, all at once; what they found together.
    async fn audit(&self) -> Audit {
        let mut audits = Vec::new();
        for node in self.nodes.values() {
            let (audits_of, now) = (watch::Sender::new(Auditing::default()), Arc::new(Notify::new()));
            let (gateway, disk, order) = (node.gateway.clone(), node.disk.clone(), self.mesh.order.subscribe());
            now.notify_one();
            let told = audits_of.subscribe();
            let spares = node.spares.clone();
            audits.push((tokio::spawn(audit::keep(gateway, disk, order, spares, audits_of, now)), told));
        }
        let (begun, mut all) = (Instant::now(), None::<Audit>);
        for (task, told) in audits {
            while told.borrow().ended == 0 {
                assert!(begun.elapsed() < SOON, "an audit does not end");
                sleep(PAUSE).await;
            }
            task.abort();
            let told = told.borrow().clone();
            assert_eq!(told.failed, None);
            all = Some(all.map_or(told.last, |before| before.and(told.last)));
        }
        all.unwrap()
    }

    /// Counts from outside: which pieces should be where, each read and looked at. How many there are.
    async fn count(&self) -> u64 {
        let begun = Instant::now();
        let leader = loop {
            match self.doors.leader() {
                Some(leader) => break leader,
                None => sleep(PAUSE).await,
            }
            assert!(begun.elapsed() < SOON, "nobody leads");
        };
        let here = leader.meta().group().here().unwrap();
        let (table, mut there) = (self.mesh.order.borrow().table.clone(), 0);
        for (number, partition) in &table.partitions {
            for (id, chunk) in read::chunks(&here, *number, None, query::CHUNKS_MAX).unwrap() {
                for (node, shard) in homes(partition, &chunk) {
                    whole(&self.nodes[&node], id, shard).await;
                    there += 1;
                }
            }
        }
        there
    }
}

fn homes(partition: &Partition, chunk: &Chunk) -> Vec<(NodeId, u8)> {
    let homes = (0u8..).zip(&partition.nodes).take(usize::from(chunk.class.pieces()));
    homes.map(|(number, node)| (*node, if let Class::Copies(_) = chunk.class { 0 } else { number })).collect()
}

async fn whole(node: &Node, id: ChunkId, shard: u8) {
    let read = async {
        let mut reader = node.disk.get(id.on_disk(shard), 0..u32::MAX).await?;
        while reader.next().await?.is_some() {}
        Ok::<_, DiskError>(())
    };
    read.await.unwrap_or_else(|error| panic!("shard {shard} of {id} on node {}: {error}", node.target.node));
}

/// Clients at work, until they are told to end.
struct Clients {
    steps: Arc<AtomicU32>,
    ends: watch::Sender<bool>,
    running: Vec<JoinHandle<Client>>,
}

impl Clients {
    fn start(doors: &Doors, buckets: Buckets, seed: u64) -> Clients {
        let (steps, ends) = (Arc::new(AtomicU32::new(0)), watch::Sender::new(false));
        let run = |number| {
            let (steps, ends) = (steps.clone(), ends.subscribe());
            let mut client = Client::new(doors.clone(), buckets, seed, number);
            tokio::spawn(async move {
                while !*ends.borrow() {
                    client.step().await;
                    steps.fetch_add(1, Ordering::Relaxed);
                }
                client
            })
        };
        let running = (0..CLIENTS).map(run).collect();
        Clients { steps, ends, running }
    }

    /// Waits while they go on for so many steps each, or panics with whichever ended.
    async fn go_on(&self) {
        let (from, begun) = (self.steps.load(Ordering::Relaxed), Instant::now());
        while self.steps.load(Ordering::Relaxed) < from + STEPS * CLIENTS as u32 {
            assert!(begun.elapsed() < SOON, "clients do not go on");
            if self.running.iter().any(JoinHandle::is_finished) {
                return;
            }
            sleep(PAUSE).await;
        }
    }

    async fn end(self) -> Vec<Client> {
        self.ends.send_replace(true);
        let mut clients = Vec::new();
        for client in self.running {
            clients.push(client.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())));
        }
        clients
    }
}

async fn history(kind: Kind, seed: u64) {
    let mut chance = SmallRng::seed_from_u64(seed);
    let loss = if seed.is_multiple_of(2) { Loss::Nodes } else { Loss::Disks };
    let drawn = index::sample(&mut chance, kind.nodes as usize, kind.losses);
    let victims: Vec<NodeId> = drawn.into_iter().map(|number| NodeId(number as u64 + 1)).collect();
    // What the metadata sync is not what is looked at here.
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let net = (kind.net + seed % 70) as u8;
    let begun = Instant::now();
    let mut town = Town::new(kind, Mesh::new(folder.path(), net, kind.nodes, kind.voters)).await;
    let clients = Clients::start(&town.doors, kind.buckets, seed);
    let healer = town.heal();
    clients.go_on().await;
    let (before, begun) = (begun.elapsed(), Instant::now());
    for victim in &victims {
        town.platters[victim].fail_power_after(chance.random_range(0..OPERATIONS));
    }
    town.lose(&victims, loss).await;
    // Nobody knows yet that they will not come back.
    clients.go_on().await;
    if loss == Loss::Nodes {
        town.replace(&victims).await;
        clients.go_on().await;
    }
    let (lost, mut clients) = (begun.elapsed(), clients.end().await);
    for client in &mut clients {
        client.read_all().await;
    }
    let read = begun.elapsed();
    town.start_anew();
    settle(&town).await;
    let settled = begun.elapsed();
    healer.abort();
    for client in &mut clients {
        client.read_all().await;
    }
    let done: Vec<_> = clients.iter().map(|client| client.done).collect();
    eprintln!("seed {seed}: {loss:?} of {victims:?}, {done:?}; {before:?}, then {lost:?}, {read:?}, {settled:?}");
    assert!(done.iter().all(|done| done.acknowledged > 5 && done.read > 10), "{done:?}");
}

/// Waits until audits count every piece, and counts them all from outside.
async fn settle(town: &Town) {
    let begun = Instant::now();
    while !town.has_moved() {
        assert!(begun.elapsed() < SOON, "not all has moved");
        sleep(PAUSE).await;
    }
    loop {
        let settled = town.is_settled();
        let audit = if settled.is_ok() { town.audit().await } else { Audit::default() };
        let found = Audit { at_ms: 0, table: 0, bears: None, ..audit };
        if audit.wanted > 0 && found == (Audit { wanted: audit.wanted, there: audit.wanted, ..Audit::default() }) {
            assert_eq!(town.count().await, audit.wanted, "what audits count is there");
            return;
        }
        assert!(begun.elapsed() < SOON, "{settled:?}, {audit:?}");
        sleep(PAUSE).await;
    }
}

async fn histories(kind: Kind) {
    let told = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let from = told("HIRSEL_STORAGE_LOSSES_FROM").unwrap_or_default();
    let (seeds, asked) = kind.seeds;
    for seed in from..from + told(asked).unwrap_or(seeds) {
        let begun = Instant::now();
        history(kind, seed).await;
        eprintln!("{:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_the_loss_of_any_two_nodes_or_disks() {
    histories(TWO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_eleven_shards_survives_the_loss_of_any_three_nodes_or_disks() {
    histories(THREE).await;
}

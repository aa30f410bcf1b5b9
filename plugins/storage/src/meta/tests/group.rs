//! Whole groups: several nodes on disks of their own, a network in memory, and nodes that die.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hirsel_mesh::raft::{CallHandler, Calls, StreamHandler};
use hirsel_mesh::seam::{BoxStream, real};
use hirsel_mesh::transport::CallError;
use hirsel_model::storage::StorageTable;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::meta::group::{AskError, MetaGroup};
use crate::meta::list::{self, Ask};
use crate::meta::read;
use crate::meta::snapshot::digest;

pub(super) const SOON: Duration = Duration::from_secs(30);

/// The calls between all nodes of a test.
#[derive(Clone, Default)]
struct Wires(Arc<Mutex<BTreeMap<NodeId, BTreeMap<&'static str, CallHandler>>>>);

impl Wires {
    fn all(&self) -> MutexGuard<'_, BTreeMap<NodeId, BTreeMap<&'static str, CallHandler>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Plug(Wires, NodeId);

impl Calls for Plug {
    fn me(&self) -> NodeId {
        self.1
    }

    fn call<'a>(
        &'a self,
        to: NodeId,
        kind: &'static str,
        body: Vec<u8>,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, CallError>> {
        let call = async move {
            // Whoever is unplugged reaches nobody, and nobody reaches him.
            if !self.0.all().contains_key(&self.1) {
                return Err(CallError::Unreachable);
            }
            let handler = self.0.all().get(&to).map(|handlers| handlers.get(kind).cloned());
            let handler = handler.ok_or(CallError::Unreachable)?.ok_or(CallError::NoHandler)?;
            handler(self.1, body).await.map_err(CallError::Refused)
        };
        async move { timeout(ttl, call).await.unwrap_or(Err(CallError::TimedOut)) }.boxed()
    }

    fn serve(&self, kind: &'static str, handler: CallHandler) {
        self.0.all().entry(self.1).or_default().insert(kind, handler);
    }

    fn open_stream<'a>(
        &'a self,
        _: NodeId,
        _: &'static str,
        _: Vec<u8>,
    ) -> BoxFuture<'a, Result<BoxStream, CallError>> {
        async { Err(CallError::NoHandler) }.boxed()
    }

    fn serve_stream(&self, _: &'static str, _: StreamHandler) {}
}

pub(super) struct Cluster {
    wires: Wires,
    folder: tempfile::TempDir,
    pub(super) nodes: BTreeMap<NodeId, Arc<MetaGroup>>,
    pub(super) table: StorageTable,
    salt: u64,
}

impl Cluster {
    pub(super) async fn new(nodes: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let voters: BTreeSet<NodeId> = (1..=nodes).map(NodeId).collect();
        let table = StorageTable { founder: Some(NodeId(1)), voters, ..StorageTable::default() };
        let mut cluster = Self { wires: Wires::default(), folder, nodes: BTreeMap::new(), table, salt: 0 };
        for node in 1..=nodes {
            cluster.start(node).await;
        }
        cluster.reach().await;
        cluster.table.founder = None;
        cluster
    }

    pub(super) async fn start(&mut self, node: u64) {
        let me = NodeId(node);
        let path = self.folder.path().join(format!("n{node}"));
        // Whoever held the folder before may be on its way out.
        let deadline = Instant::now() + SOON;
        let world = loop {
            match real::world(&path) {
                Ok(world) => break world,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            sleep(Duration::from_millis(20)).await;
        };
        self.wires.all().insert(me, BTreeMap::new());
        let group = MetaGroup::start(&world, me, Arc::new(Plug(self.wires.clone(), me))).await.expect("it starts");
        self.nodes.insert(me, Arc::new(group));
    }

    pub(super) async fn kill(&mut self, node: NodeId) {
        self.wires.all().remove(&node);
        if let Some(group) = self.nodes.remove(&node) {
            group.stop().await;
        }
    }

    pub(super) async fn steer(&self) {
        for group in self.nodes.values() {
            // In words; what is reached is looked at.
            let _ = group.steer(&self.table).await;
        }
    }

    /// The newest term that anybody knows.
    pub(super) fn term(&self) -> u64 {
        self.nodes.values().map(|group| group.group().standing().borrow().term).max().unwrap_or_default()
    }

    /// Steers all until the members are those of the table.
    pub(super) async fn reach(&self) {
        let deadline = Instant::now() + SOON;
        loop {
            self.steer().await;
            let made = |group: &Arc<MetaGroup>| {
                let standing = group.group().standing().borrow().clone();
                standing.voters == self.table.voters && standing.learners.is_empty()
            };
            if self.table.voters.iter().filter_map(|node| self.nodes.get(node)).all(made) {
                return;
            }
            assert!(Instant::now() < deadline, "it never got there");
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn leader(&self) -> NodeId {
        let leads = |(_, group): &(&NodeId, &Arc<MetaGroup>)| group.group().standing().borrow().mine;
        self.nodes.iter().find(leads).map(|(node, _)| *node).expect("somebody leads")
    }

    fn entry(&mut self, command: Command) -> Entry {
        self.salt += 1;
        Entry { at: WallTime(1_000 + self.salt), salt: self.salt, command }
    }

    pub(super) async fn ask(&mut self, through: u64, command: Command) -> Result<Answer, AskError> {
        let entry = self.entry(command);
        self.nodes[&NodeId(through)].ask(&entry, SOON).await
    }

    pub(super) async fn put(&mut self, through: u64, key: &str, condition: Condition) -> Result<Answer, AskError> {
        let body = Written::Inline(key.as_bytes().to_vec());
        let put = Put { condition, ..put("pics", key, body) };
        self.ask(through, Command::Put(Box::new(put))).await
    }

    /// What a linearizable read on this node lists.
    pub(super) async fn keys(&self, on: u64) -> Vec<String> {
        let moment = self.nodes[&NodeId(on)].moment(SOON).await.expect("a moment");
        let id = read::bucket(&moment, &bucket("pics")).expect("it is there").id;
        let ask = Ask { max: 1_000, ..Ask::default() };
        let page = list::objects(&moment, id, &ask).expect("it can be read");
        page.entries.into_iter().map(|(key, _)| key).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_group_answered_is_there_while_nodes_die_and_others_take_their_place() {
    let mut cluster = Cluster::new(3).await;
    cluster.ask(2, create("pics", false)).await.expect("a bucket");
    for (at, key) in ["a", "b", "c", "d"].into_iter().enumerate() {
        cluster.put(1 + at as u64 % 3, key, Condition::default()).await.expect("a put");
        for on in 1..=3 {
            assert!(cluster.keys(on).await.contains(&key.to_owned()), "read after write on node {on}");
        }
    }
    // Many want to be the first, through all nodes at once.
    let first = Condition { if_none_match: Some("*".into()), ..Condition::default() };
    let won = {
        let asks: Vec<_> = (0..12_u64)
            .map(|number| {
                let body = Written::Inline(number.to_be_bytes().to_vec());
                let command = Command::Put(Box::new(Put { condition: first.clone(), ..put("pics", "first", body) }));
                (cluster.nodes[&NodeId(1 + number % 3)].clone(), cluster.entry(command))
            })
            .collect();
        let asks = asks.iter().map(|(group, entry)| group.ask(entry, SOON));
        futures::future::join_all(asks).await.into_iter().filter(Result::is_ok).count()
    };
    assert_eq!(won, 1);
    // The leader dies: what it answered is there, and the others go on.
    let dead = cluster.leader();
    cluster.kill(dead).await;
    let left: Vec<u64> = cluster.nodes.keys().map(|node| node.0).collect();
    cluster.put(left[0], "e", Condition::default()).await.expect("a put");
    assert_eq!(cluster.keys(left[1]).await, ["a", "b", "c", "d", "e", "first"]);
    // Another node takes its place, with all of the state.
    cluster.start(4).await;
    cluster.table.voters = left.iter().copied().chain([4]).map(NodeId).collect();
    cluster.reach().await;
    cluster.put(4, "f", Condition::default()).await.expect("a put");
    assert_eq!(cluster.keys(4).await, ["a", "b", "c", "d", "e", "f", "first"]);
    // Another one dies, and starts again on what it has.
    cluster.kill(NodeId(left[0])).await;
    cluster.put(4, "g", Condition::default()).await.expect("a put");
    cluster.start(left[0]).await;
    assert_eq!(cluster.keys(left[0]).await.last().map(String::as_str), Some("g"));
    let mut digests = Vec::new();
    for group in cluster.nodes.values() {
        digests.push(digest(&group.moment(SOON).await.expect("a moment")).expect("it can be read"));
    }
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "replicas differ");
    for node in cluster.nodes.keys().copied().collect::<Vec<_>>() {
        cluster.kill(node).await;
    }
}

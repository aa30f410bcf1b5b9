//! Who is heard, and what each node says of itself.
//!
//! chitchat (scuttlebutt reconciliation with a phi-accrual failure detector) over messages of the transport. Every message carries
//! the whole digest, so one gossip domain is a site of a few hundred nodes: keys are few and values small, with limits.
//!
//! chitchat asserts on what peers send. It therefore runs as a task of its own that is started again when it dies; its state is
//! soft, and what this node says is kept here. A former life of a node, this node included, is never heard: only its newest
//! generation counts. Nodes that are no members are not heard at all.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chitchat::{ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, spawn_chitchat};
use hirsel_model::view::Liveness;
use hirsel_model::{ClusterId, Incarnation, NodeId};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::seam::{Chance, World};
use crate::transport::{Peers, Transport};

mod socket;
#[cfg(test)]
mod tests;

use socket::{GossipTransport, News};

/// Reads a message of a member ([`crate::decoders`]).
pub(crate) fn decode(bytes: &[u8], me: NodeId, peers: &Peers) {
    socket::decode(bytes, me, peers);
}

/// Messages to begin with.
pub(crate) fn samples() -> Vec<Vec<u8>> {
    socket::samples()
}

/// How often a node gossips with three others. What was heard is looked at as often, in the same wake-up.
pub const GOSSIP_INTERVAL: Duration = Duration::from_millis(250);
/// Measured at 250 ms and 50 nodes: 8 finds a dead node in about 2 s without a false positive; 4 gave 63 of them in 15 s.
const PHI: f64 = 8.0;
/// Samples of heartbeats kept per node.
const SAMPLES: usize = 1000;
/// A longer gap is an absence, not a sample.
const GAP_MAX: Duration = Duration::from_secs(2);
/// A node that is dead for this long is forgotten, and so are deleted values.
const FORGET_AFTER: Duration = Duration::from_secs(600);
/// How many members that are not heard are asked at each look. chitchat knows only who was heard once; members come from the
/// control state at any time.
const UNHEARD_ASKED: usize = 2;
/// A restart after a panic waits this long, doubling to the maximum; a peer's message that kills may come again.
const RESTART_AFTER: Duration = Duration::from_millis(250);
const RESTART_AFTER_MAX: Duration = Duration::from_secs(10);
/// Running for this long makes the next restart a first one.
const STABLE_AFTER: Duration = Duration::from_secs(60);
/// Stopping waits for the task of chitchat to say so.
const STOP_WITHIN: Duration = Duration::from_secs(1);
/// Longest key, longest value, and all values of one node. A node's digest is meant to be under 2 KB; the rest is room.
const KEY_BYTES_MAX: usize = 64;
const VALUE_BYTES_MAX: usize = 8 << 10;
const NODE_BYTES_MAX: usize = 24 << 10;
const KEYS_MAX: usize = 64;
/// chitchat's generation is the incarnation, and in the low bits the number of its restarts in this life: a restarted chitchat
/// counts its versions from zero, which peers believe only of a new generation.
const RESTART_BITS: u32 = 16;

/// What is heard of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// `Alive` while heartbeats come about as often as usual.
    pub liveness: Liveness,
    /// Which life of the node.
    pub incarnation: Incarnation,
    /// What it says.
    pub values: BTreeMap<String, String>,
}

/// Gossip did not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot start gossip: {0}")]
pub struct GossipError(String);

/// Gossips in the background until it is shut down or dropped.
pub struct Gossip {
    me: NodeId,
    said: Arc<Mutex<BTreeMap<String, String>>>,
    news: Arc<News>,
    running: Arc<tokio::sync::Mutex<Option<ChitchatHandle>>>,
    heard: watch::Receiver<Arc<BTreeMap<NodeId, Heard>>>,
    stop: CancellationToken,
    stopped: watch::Receiver<bool>,
}

impl Gossip {
    /// Begins to gossip with the members, `seeds` first.
    pub async fn start(
        transport: &Arc<Transport>,
        world: &World,
        cluster: &ClusterId,
        me: (NodeId, Incarnation),
        seeds: Vec<SocketAddr>,
    ) -> Result<Arc<Gossip>, GossipError> {
        let (heard_tx, heard) = watch::channel(Arc::default());
        let (stopped_tx, stopped) = watch::channel(false);
        let (said, running, stop) = (Arc::default(), Arc::default(), CancellationToken::new());
        let news = Arc::<News>::default();
        let mut task = Task {
            transport: transport.clone(),
            chance: world.chance.clone(),
            cluster: cluster.clone(),
            me: me.0,
            incarnation: me.1,
            seeds,
            said: Arc::clone(&said),
            news: news.clone(),
            running: Arc::clone(&running),
            heard: heard_tx,
            stop: stop.clone(),
            restarts: 0,
        };
        task.begin().await.map_err(|error| GossipError(error.to_string()))?;
        tokio::spawn(async move {
            task.run().await;
            stopped_tx.send_replace(true);
        });
        Ok(Arc::new(Gossip { me: me.0, said, news, running, heard, stop, stopped }))
    }

    /// Says `value` under `key`, replacing what was said there. What exceeds the limits is not said, and logged.
    pub async fn set(&self, key: &str, value: String) {
        {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            let others: usize = said.iter().filter(|(k, _)| *k != key).map(|(k, v)| k.len() + v.len()).sum();
            let bytes = others + key.len() + value.len();
            let keys = said.len() + usize::from(!said.contains_key(key));
            if key.len() > KEY_BYTES_MAX || value.len() > VALUE_BYTES_MAX || bytes > NODE_BYTES_MAX || keys > KEYS_MAX {
                error!(node = %self.me, key, bytes = value.len(), "value too large to gossip, not said");
                return;
            }
            said.insert(key.into(), value.clone());
        }
        if let Some(running) = &*self.running.lock().await {
            running.with_chitchat(|chitchat| chitchat.self_node_state().set(key, &value)).await;
            self.news.note();
        }
    }

    /// What is heard of the other members. One that was never heard is not in here.
    pub fn heard(&self) -> watch::Receiver<Arc<BTreeMap<NodeId, Heard>>> {
        self.heard.clone()
    }

    /// Stops gossiping.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        let mut stopped = self.stopped.clone();
        // The task may be gone with its runtime already.
        let _ = timeout(STOP_WITHIN, stopped.wait_for(|stopped| *stopped)).await;
    }
}

impl Drop for Gossip {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Keeps chitchat running and looks at what it hears.
struct Task {
    transport: Arc<Transport>,
    chance: Arc<dyn Chance>,
    cluster: ClusterId,
    me: NodeId,
    incarnation: Incarnation,
    seeds: Vec<SocketAddr>,
    said: Arc<Mutex<BTreeMap<String, String>>>,
    news: Arc<News>,
    running: Arc<tokio::sync::Mutex<Option<ChitchatHandle>>>,
    heard: watch::Sender<Arc<BTreeMap<NodeId, Heard>>>,
    stop: CancellationToken,
    restarts: u64,
}

impl Task {
    async fn run(&mut self) {
        let mut wait = RESTART_AFTER;
        loop {
            let began = tokio::time::Instant::now();
            let stop = self.stop.clone();
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.look() => {}
            }
            // Only a panic or a transport that is gone brings us here. Nobody is heard through the pause: what was heard last
            // stands, and pings tell who answers.
            if began.elapsed() > STABLE_AFTER {
                wait = RESTART_AFTER;
            }
            warn!(restarts = self.restarts, ?wait, "gossip stopped, starting it again");
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(wait) => {}
            }
            wait = (wait * 2).min(RESTART_AFTER_MAX);
            self.restarts += 1;
            if let Err(error) = self.begin().await {
                error!(%error, "cannot start gossip again");
            }
        }
        if let Some(handle) = self.running.lock().await.take() {
            handle.abort();
        }
    }

    /// Starts a chitchat that says what was said so far.
    async fn begin(&self) -> anyhow::Result<()> {
        let advertise = self.transport.advertise();
        let generation = self.incarnation.0 << RESTART_BITS | self.restarts;
        let config = ChitchatConfig {
            chitchat_id: ChitchatId::new(name(self.me), generation, advertise),
            cluster_id: self.cluster.0.clone(),
            gossip_interval: GOSSIP_INTERVAL,
            listen_addr: advertise,
            // Addresses, never names: names would go to the host's resolver.
            seed_nodes: self.seeds.iter().map(SocketAddr::to_string).collect(),
            failure_detector_config: FailureDetectorConfig::new(PHI, SAMPLES, GAP_MAX, GOSSIP_INTERVAL, FORGET_AFTER),
            marked_for_deletion_grace_period: FORGET_AFTER,
            catchup_callback: None,
            extra_liveness_predicate: None,
        };
        let socket = GossipTransport::new(self.transport.clone(), self.news.clone());
        // Locked throughout, so that a value set meanwhile is not lost between the copy and the handle.
        let mut running = self.running.lock().await;
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner).clone();
        *running = Some(spawn_chitchat(config, said.into_iter().collect(), &socket).await?);
        Ok(())
    }

    /// Looks at what was heard, again and again, until chitchat ends.
    async fn look(&self) {
        let ended = match &*self.running.lock().await {
            Some(handle) => handle.termination_watcher(),
            None => return,
        };
        tokio::pin!(ended);
        let mut beats = self.transport.beats();
        loop {
            {
                let running = self.running.lock().await;
                let Some(handle) = &*running else { return };
                let peers = self.transport.peers().borrow().clone();
                let heard = listen(handle, self.me, &peers).await;
                self.ask(handle, &peers, &heard);
                self.heard.send_if_modified(|known| {
                    let changed = **known != heard;
                    if changed {
                        *known = Arc::new(heard);
                    }
                    changed
                });
            }
            tokio::select! {
                end = &mut ended => {
                    debug!(?end, "chitchat ended");
                    return;
                }
                beat = beats.changed() => if beat.is_err() { return },
            }
        }
    }

    /// Gossips with a few members that are not heard.
    fn ask(&self, handle: &ChitchatHandle, peers: &Peers, heard: &BTreeMap<NodeId, Heard>) {
        let is_alive = |node: &NodeId| heard.get(node).is_some_and(|heard| heard.liveness == Liveness::Alive);
        let mut unheard: Vec<SocketAddr> = peers
            .nodes
            .iter()
            .filter(|(node, _)| **node != self.me && !is_alive(node))
            .map(|(_, peer)| peer.addr)
            .collect();
        for _ in 0..UNHEARD_ASKED.min(unheard.len()) {
            let index = self.chance.number() % unheard.len() as u64;
            let addr = unheard.swap_remove(usize::try_from(index).unwrap_or(0));
            if handle.gossip(addr).is_err() {
                return;
            }
        }
    }
}

/// What chitchat knows of the members, each in its newest life.
async fn listen(handle: &ChitchatHandle, me: NodeId, peers: &Peers) -> BTreeMap<NodeId, Heard> {
    handle
        .with_chitchat(|chitchat| {
            let mut newest: BTreeMap<NodeId, &ChitchatId> = BTreeMap::new();
            for id in chitchat.node_states().keys() {
                let Some(node) = node_of(&id.node_id) else { continue };
                if node == me || !peers.nodes.contains_key(&node) {
                    continue;
                }
                let known = newest.entry(node).or_insert(id);
                if known.generation_id < id.generation_id {
                    *known = id;
                }
            }
            let alive: std::collections::BTreeSet<&ChitchatId> = chitchat.live_nodes().collect();
            let mut heard = BTreeMap::new();
            for (node, id) in newest {
                let Some(state) = chitchat.node_state(id) else { continue };
                let liveness = if alive.contains(id) { Liveness::Alive } else { Liveness::Suspect };
                let values = bounded(state.key_values());
                let incarnation = Incarnation(id.generation_id >> RESTART_BITS);
                heard.insert(node, Heard { liveness, incarnation, values });
            }
            heard
        })
        .await
}

/// What a node says, as far as it keeps the limits that we keep.
fn bounded<'a>(said: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, String> {
    let mut bytes = 0;
    said.filter(|(key, value)| key.len() <= KEY_BYTES_MAX && value.len() <= VALUE_BYTES_MAX)
        .take(KEYS_MAX)
        .take_while(|(key, value)| {
            bytes += key.len() + value.len();
            bytes <= NODE_BYTES_MAX
        })
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}

/// How chitchat knows a node.
fn name(node: NodeId) -> String {
    format!("n{node}")
}

fn node_of(text: &str) -> Option<NodeId> {
    let node = NodeId(text.strip_prefix('n')?.parse().ok()?);
    (name(node) == text).then_some(node)
}

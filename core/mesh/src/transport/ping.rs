//! Control pings: who answers right now.
//!
//! A ping is a datagram on the peer's connection. It passes bulk data that waits in streams, and it is sent again within its round,
//! so that a lossy link is not taken for a dead node. Three rounds without an answer: the node is not sent traffic until it answers.
//!
//! Rounds with all nodes begin in the same moment, and with gossip's own: the answers come together, and one wake-up serves all of it.
//! A message of gossip whose arrival the peer has just confirmed tells what an answer would tell, so most rounds among few nodes need
//! no ping; now and then one is sent all the same, for the time it takes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hirsel_model::NodeId;
use quinn::Connection;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{PingState, Shared};

/// Length of a round: gossip's, which gives the beat.
pub const PING_INTERVAL: Duration = Duration::from_millis(250);
/// What comes sooner after a beat is part of the same round.
const BEAT_MIN: Duration = Duration::from_millis(200);
/// Without a beat for this long, because gossip does not speak, rounds begin by themselves.
const BEAT_MAX: Duration = Duration::from_millis(270);
/// What arrived so long before a round began, or arrives so long after, is an answer to it. Longer than a peer waits with its
/// confirmation; and a peer that is gone is noticed later by no more than this.
const ARRIVED_WITHIN: Duration = Duration::from_millis(60);
/// A ping is sent in the first of so many rounds, whatever arrives.
const PINGED_EVERY: u64 = 8;
/// The same ping is sent again after this while there is no answer, three times in all: at 30 % loss each way, one round in seven stays
/// unanswered.
const REPEAT_AFTER: Duration = Duration::from_millis(60);
/// How long pings of a round wait; with what comes before them a little less than its length, so that rounds do not run into each other.
const ROUND: Duration = Duration::from_millis(180);
/// Rounds in a row without an answer until the node counts as not answering.
const UNANSWERED_MAX: u32 = 3;

const PING: u8 = 1;
const PONG: u8 = 2;

/// Whom we ping, and what came of it.
pub(super) struct Pings {
    targets: watch::Sender<BTreeSet<NodeId>>,
    states: watch::Sender<Arc<BTreeMap<NodeId, PingState>>>,
    /// Where answers go, by node.
    answers: Mutex<BTreeMap<NodeId, watch::Sender<Answered>>>,
    /// When the last round began.
    beat: watch::Sender<Instant>,
}

/// What a node has answered.
#[derive(Clone, Copy, Default)]
struct Answered {
    /// The highest number of a ping.
    number: u64,
    /// When it last confirmed that a message has arrived.
    arrived: Option<Instant>,
}

impl Default for Pings {
    fn default() -> Self {
        Self {
            targets: watch::Sender::new(BTreeSet::new()),
            states: watch::Sender::new(Arc::default()),
            answers: Mutex::default(),
            beat: watch::Sender::new(Instant::now()),
        }
    }
}

impl Pings {
    /// Begins a round, unless one has just begun.
    pub(super) fn beat(&self) {
        self.beat.send_if_modified(|last| {
            let due = last.elapsed() >= BEAT_MIN;
            if due {
                *last = Instant::now();
            }
            due
        });
    }

    /// Tells when a round begins.
    pub(super) fn beats(&self) -> watch::Receiver<Instant> {
        self.beat.subscribe()
    }

    pub(super) fn states(&self) -> watch::Receiver<Arc<BTreeMap<NodeId, PingState>>> {
        self.states.subscribe()
    }

    pub(super) fn set_targets(&self, mut nodes: BTreeSet<NodeId>, me: NodeId) {
        nodes.remove(&me);
        self.targets.send_if_modified(|targets| {
            let changed = *targets != nodes;
            *targets = nodes;
            changed
        });
    }

    fn answers_of(&self, node: NodeId) -> watch::Receiver<Answered> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.entry(node).or_default().subscribe()
    }

    fn answered(&self, node: NodeId, number: u64) {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answers) = answers.get(&node) {
            answers.send_if_modified(|answered| {
                let newer = number > answered.number;
                answered.number = number.max(answered.number);
                newer
            });
        }
    }

    /// Notes that a message to `node` has arrived there, and that this is known here: both ways work.
    pub(super) fn arrived(&self, node: NodeId) {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answers) = answers.get(&node) {
            answers.send_modify(|answered| answered.arrived = Some(Instant::now()));
        }
    }

    fn set(&self, node: NodeId, state: PingState) {
        self.states.send_if_modified(|states| {
            let known = states.get(&node);
            // Whoever watches is woken for what matters: an answer or none, or another order of magnitude.
            let same = known.is_some_and(|known| {
                known.answered == state.answered && known.rtt_ms.abs_diff(state.rtt_ms) <= known.rtt_ms.max(2) / 2
            });
            if !same {
                Arc::make_mut(states).insert(node, state);
            }
            !same
        });
    }

    fn forget(&self, nodes: &BTreeSet<NodeId>) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).retain(|node, _| nodes.contains(node));
        self.states.send_if_modified(|states| {
            let stale = states.keys().any(|node| !nodes.contains(node));
            if stale {
                Arc::make_mut(states).retain(|node, _| nodes.contains(node));
            }
            stale
        });
    }
}

/// Pings the targets, each in a task of its own.
pub(super) async fn run(shared: Arc<Shared>) {
    let (mut targets, mut beats) = (shared.pings.targets.subscribe(), shared.pings.beats());
    let mut running: BTreeMap<NodeId, CancellationToken> = BTreeMap::new();
    loop {
        let wanted = targets.borrow_and_update().clone();
        running.retain(|node, stop| {
            let keep = wanted.contains(node);
            if !keep {
                stop.cancel();
            }
            keep
        });
        shared.pings.forget(&wanted);
        for node in wanted {
            let new = || {
                let stop = shared.stop.child_token();
                let (pinging, stopped) = (shared.clone(), stop.clone());
                shared.spawn(async move {
                    tokio::select! {
                        () = stopped.cancelled() => {}
                        () = ping(pinging, node) => {}
                    }
                });
                stop
            };
            running.entry(node).or_insert_with(new);
        }
        loop {
            tokio::select! {
                changed = targets.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                beat = timeout(BEAT_MAX, beats.changed()) => if beat.is_err() {
                    shared.pings.beat();
                },
            }
        }
    }
}

async fn ping(shared: Arc<Shared>, node: NodeId) {
    let mut answers = shared.pings.answers_of(node);
    let mut beats = shared.pings.beats();
    let (mut unanswered, mut rtt_ms) = (0u32, 0);
    // Numbers rise over the life of this transport; a peer that answers numbers not asked for yet cheats only about itself.
    for number in 1u64.. {
        let answered = if number % PINGED_EVERY != 1 && arrives(&mut answers).await {
            true
        } else if let Some(rtt) = round(&shared, node, number, &mut answers).await {
            rtt_ms = u32::try_from((rtt.as_micros() + 500) / 1000).unwrap_or(u32::MAX);
            true
        } else {
            false
        };
        unanswered = if answered { 0 } else { unanswered.saturating_add(1) };
        if answered || unanswered >= UNANSWERED_MAX {
            shared.pings.set(node, PingState { answered, rtt_ms });
        }
        if beats.changed().await.is_err() {
            return;
        }
    }
}

/// Whether a message arrives, or has just arrived, that makes a ping needless.
async fn arrives(answers: &mut watch::Receiver<Answered>) -> bool {
    let began = Instant::now();
    let since = began.checked_sub(ARRIVED_WITHIN).unwrap_or(began);
    let arrived = answers.wait_for(|answered| answered.arrived.is_some_and(|at| at >= since));
    matches!(timeout(ARRIVED_WITHIN, arrived).await, Ok(Ok(_)))
}

/// One round: how long the answer took, if there was one.
async fn round(
    shared: &Arc<Shared>,
    node: NodeId,
    number: u64,
    answers: &mut watch::Receiver<Answered>,
) -> Option<Duration> {
    let end = Instant::now() + ROUND;
    let mut datagram = vec![PING];
    datagram.extend(number.to_be_bytes());
    let datagram = Bytes::from(datagram);
    let connection = timeout_at(end, shared.connection(node)).await.ok()?.ok()?;
    let sent = Instant::now();
    while Instant::now() < end {
        connection.send_datagram(datagram.clone()).ok()?;
        let wait = REPEAT_AFTER.min(end.saturating_duration_since(Instant::now()));
        if let Ok(answer) = timeout(wait, answers.wait_for(|answered| answered.number >= number)).await {
            return answer.ok().map(|_| sent.elapsed());
        }
    }
    None
}

/// A datagram arrived: a ping is answered, an answer is noted, anything else is nothing.
pub(super) fn receive(shared: &Shared, connection: &Connection, from: NodeId, datagram: &[u8]) {
    let Some((purpose, number)) = datagram.split_first() else { return };
    let Ok(number) = <[u8; 8]>::try_from(number) else { return };
    match *purpose {
        PING => {
            let mut answer = vec![PONG];
            answer.extend(number);
            let _ = connection.send_datagram(answer.into());
        }
        PONG => shared.pings.answered(from, u64::from_be_bytes(number)),
        _ => {}
    }
}

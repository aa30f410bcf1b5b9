//! Promises, both sides: while no leader answers, a node asks those that could take the place of its exclusive instances to promise not
//! to, a lease at a time, and answers when it is asked itself. What counts is decided in [`hirsel_model::grant`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use futures::{FutureExt, future};
use hirsel_model::codec::{decode, encode};
use hirsel_model::grant::{Holdings, NoPromise};
use hirsel_model::{InstanceId, NodeId, Tag, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use crate::shared::Shared;

/// The kind of call by which promises are asked for.
pub const PROMISE_CALL: &str = "promise";
/// Between two looks. Each node is asked again as soon as it has answered, but not more often: so a lost call costs a fifth of a lease.
const EVERY: Duration = Duration::from_millis(200);
/// A promise that is not given by then is asked for again.
const ANSWER_WITHIN: Duration = Duration::from_millis(700);
/// More instances than a node ever holds; a longer plea is no plea.
const PLEAS_MAX: usize = 10_000;

/// What a holder asks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Plea {
    /// The foundation that it follows.
    tag: Tag,
    /// Instances whose place shall not be taken.
    instances: BTreeSet<InstanceId>,
}

/// What it is answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Promises {
    /// Instances whose place is not taken for a while.
    promised: BTreeSet<InstanceId>,
    /// Why not, of the others.
    refused: BTreeMap<InstanceId, NoPromise>,
}

/// Registers the answer to pleas.
pub fn serve(shared: &Arc<Shared>, grants: watch::Sender<Arc<Holdings>>) {
    let agent = shared.clone();
    shared.transport.serve(PROMISE_CALL, move |from, body| {
        let answer = promise(&agent, &grants, from, &body);
        future::ready(answer).boxed()
    });
}

fn promise(
    shared: &Shared,
    grants: &watch::Sender<Arc<Holdings>>,
    from: NodeId,
    body: &[u8],
) -> Result<Vec<u8>, String> {
    let plea: Plea = decode(body).map_err(|error| error.to_string())?;
    if plea.instances.len() > PLEAS_MAX {
        return Err(format!("a plea for {} instances exceeds {PLEAS_MAX}", plea.instances.len()));
    }
    let mut answer = Promises::default();
    // State and time are looked at in between: whoever sees this node follow a newer plan knows that no older one counts here.
    grants.send_if_modified(|held| {
        let (state, now) = (shared.control.state().borrow().clone(), shared.world.clock.now());
        let held = Arc::make_mut(held);
        for id in plea.instances {
            match held.promise(&state, (from, &plea.tag), &id, now) {
                Ok(()) => drop(answer.promised.insert(id)),
                Err(refusal) => drop(answer.refused.insert(id, refusal)),
            }
        }
        // Nobody waits for it: a promise only keeps something from being started.
        false
    });
    Ok(encode(&answer))
}

/// An answer of a node to the plea for these instances that was sent then.
type Answered = (NodeId, BTreeSet<InstanceId>, Timestamp, Result<Vec<u8>, String>);

/// Asks for promises as long as they are needed, until the agent stops.
pub async fn keep(shared: Arc<Shared>, grants: watch::Sender<Arc<Holdings>>) {
    let mut calls: FuturesUnordered<BoxFuture<'static, Answered>> = FuturesUnordered::new();
    let mut asked = BTreeSet::new();
    let mut next = Instant::now();
    loop {
        tokio::select! {
            Some(answered) = calls.next(), if !calls.is_empty() => {
                asked.remove(&answered.0);
                take(&shared, &grants, answered);
            }
            () = sleep_until(next) => {
                next = Instant::now() + EVERY;
                for (node, instances) in look(&shared, &grants) {
                    if asked.insert(node) {
                        calls.push(ask(shared.clone(), node, instances).boxed());
                    }
                }
            }
            () = shared.stop.cancelled() => return,
        }
    }
}

/// What is to be asked of whom now. Says of what ran out why it did.
fn look(shared: &Shared, grants: &watch::Sender<Arc<Holdings>>) -> BTreeMap<NodeId, BTreeSet<InstanceId>> {
    let (state, now) = (shared.control.state().borrow().clone(), shared.world.clock.now());
    grants.send_if_modified(|held| {
        let mut next = (**held).clone();
        let out = next.run_out(&state, now);
        for (id, why) in &out {
            warn!(instance = %id, why, "exclusive instance may act no longer");
        }
        if !out.is_empty() {
            *held = Arc::new(next);
        }
        !out.is_empty()
    });
    let mut asks: BTreeMap<NodeId, BTreeSet<InstanceId>> = BTreeMap::new();
    for (id, candidates) in grants.borrow().pleas(&state, shared.node, now) {
        for node in candidates {
            asks.entry(node).or_default().insert(id.clone());
        }
    }
    asks
}

async fn ask(shared: Arc<Shared>, node: NodeId, instances: BTreeSet<InstanceId>) -> Answered {
    let asked_at = shared.world.clock.now();
    let tag = shared.control.state().borrow().cluster.tag.clone();
    let plea = encode(&Plea { tag, instances: instances.clone() });
    let answer = shared.transport.call(node, PROMISE_CALL, plea, ANSWER_WITHIN).await;
    (node, instances, asked_at, answer.map_err(|error| error.to_string()))
}

fn take(shared: &Shared, grants: &watch::Sender<Arc<Holdings>>, (node, asked, asked_at, answer): Answered) {
    let answer = answer.and_then(|bytes| decode::<Promises>(&bytes).map_err(|error| error.to_string()));
    if let Err(error) = &answer {
        debug!(%node, error, "no promise");
    }
    let (state, now) = (shared.control.state().borrow().clone(), shared.world.clock.now());
    grants.send_if_modified(|held| {
        let mut next = (**held).clone();
        for id in &asked {
            let word = match &answer {
                Ok(promises) if promises.promised.contains(id) => Ok(()),
                Ok(promises) => Err(promises.refused.get(id).copied().unwrap_or(NoPromise::Unknown).to_string()),
                Err(_) => Err("does not answer".into()),
            };
            next.answered(&state, shared.node, (id, node), word, asked_at, now);
        }
        let changed = **held != next;
        if changed {
            *held = Arc::new(next);
        }
        changed
    });
}

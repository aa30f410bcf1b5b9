//! Keys of TLS tickets on their way: drawn and sealed by the leader, told to the nodes that the plan makes load balancers, and to no
//! others.
//!
//! Such a node keeps them in memory alone. One that starts again asks again, and what is forgotten is left nowhere: who has yet to get
//! any shakes hands in full, which is all that is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use hirsel_model::NodeId;
use hirsel_model::codec::{decode, encode};
use hirsel_model::control::{Command, ControlState};
use hirsel_model::secret::Sealed;
use hirsel_model::tickets::{Change, Due, KEY_BYTES, PURPOSE, due, needed, next_look};
use hirsel_role::certificate::{TicketKey, TicketKeys};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::debug;

use crate::acme::propose;
use crate::run::REPEAT;
use crate::sealing;
use crate::secrets::holders;
use crate::shared::Shared;

/// The kind of call by which a load balancer's node fetches keys.
const KEYS_CALL: &str = "ticket-keys";
/// What one of those who hold the sealing key may take to open four keys.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Between two looks of a leader at what is due by time alone: a wall clock may be set.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Between two keys that are due at once, and two tries.
const PAUSE: Duration = Duration::from_secs(1);

/// Which keys are lacking, by version.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Wanted {
    versions: BTreeSet<u64>,
}

/// Keys that a node may know, by version; not sealed here, but by the connection.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Told {
    keys: Vec<(u64, Sealed)>,
}

type Have = BTreeMap<u64, TicketKey>;

/// Registers what this agent answers.
pub fn serve(shared: &Arc<Shared>) {
    let agent = shared.clone();
    shared.transport.serve(KEYS_CALL, move |from, body| {
        let wanted: Wanted = decode(&body).unwrap_or_default();
        let answer = tell(&agent, from, &wanted);
        async move { answer.map(|told| encode(&told)) }.boxed()
    });
}

/// The keys that `from` needs by the plan that this node knows, as far as it wants them.
fn tell(shared: &Shared, from: NodeId, wanted: &Wanted) -> Result<Told, String> {
    let state = shared.control.state().borrow().clone();
    if !state.spec.nodes.contains_key(&from) {
        return Err("keys are for members".into());
    }
    let given: BTreeSet<u64> = needed(&state, from).intersection(&wanted.versions).copied().collect();
    if given.is_empty() {
        return Ok(Told::default());
    }
    let key = sealing::key(shared, &state)?;
    let told = state.tickets.keys.iter().filter(|it| given.contains(&it.version));
    Ok(Told { keys: told.filter_map(|it| Some((it.version, Sealed(key.open(PURPOSE, &it.key.0)?)))).collect() })
}

/// Keeps `keys` in line with what the plan gives to this node, until the agent stops.
pub async fn keep(shared: Arc<Shared>, keys: watch::Sender<Arc<TicketKeys>>) {
    let mut state = shared.control.state();
    let mut have = Have::new();
    loop {
        let now = state.borrow_and_update().clone();
        let needed = needed(&now, shared.node);
        have.retain(|version, _| needed.contains(version));
        let lacking: BTreeSet<u64> = needed.iter().filter(|version| !have.contains_key(version)).copied().collect();
        if !lacking.is_empty() {
            have.extend(fetch(&shared, lacking).await);
        }
        let missing = have.len() < needed.len();
        let next =
            TicketKeys { sealing: now.tickets.sealing_of(|version| have.contains_key(&version)), keys: have.clone() };
        keys.send_if_modified(|before| {
            let changed = **before != next;
            if changed {
                *before = Arc::new(next);
            }
            changed
        });
        drop(now);
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            () = sleep(REPEAT), if missing => {}
            () = shared.stop.cancelled() => return,
        }
    }
}

/// Asks for keys until all have come that are wanted, or everybody was asked.
async fn fetch(shared: &Shared, mut lacking: BTreeSet<u64>) -> Have {
    let mut all = Have::new();
    for node in holders(shared) {
        if lacking.is_empty() {
            break;
        }
        let wanted = Wanted { versions: lacking.clone() };
        let told = match node == shared.node {
            true => tell(shared, shared.node, &wanted),
            false => {
                let asked = shared.transport.call(node, KEYS_CALL, encode(&wanted), ANSWER_WITHIN).await;
                let read = |bytes: Vec<u8>| decode::<Told>(&bytes).map_err(|_| "the answer cannot be read".to_owned());
                asked.map_err(|error| error.to_string()).and_then(read)
            }
        };
        match told {
            // Whoever has not heard of the change yet tells less.
            Ok(told) => {
                let keys = told.keys.into_iter().filter(|(version, _)| lacking.contains(version));
                let keys: Have =
                    keys.filter_map(|(version, key)| Some((version, TicketKey(key.0.try_into().ok()?)))).collect();
                lacking.retain(|version| !keys.contains_key(version));
                all.extend(keys);
            }
            Err(error) => debug!(%node, error, "no keys of TLS tickets from there"),
        }
    }
    all
}

/// Draws and forgets keys when that is due, while this node leads.
pub async fn tend(shared: Arc<Shared>) {
    let mut leadership = shared.control.leadership();
    let mut state = shared.control.state();
    loop {
        let mine = leadership.borrow_and_update().mine;
        let now = state.borrow_and_update().clone();
        let wall = shared.world.clock.wall();
        let due = if mine { due(&now, wall) } else { Due::Nothing };
        if let Err(words) = carry_out(&shared, &now, due).await {
            debug!(words, "keys of TLS tickets not changed yet");
        }
        let waits = next_look(&now).filter(|_| mine).map(|at| Duration::from_millis(at.0.saturating_sub(wall.0)));
        drop(now);
        tokio::select! {
            () = sleep(PAUSE), if due != Due::Nothing => {}
            () = sleep(waits.unwrap_or_default().clamp(PAUSE, LOOK_EVERY)), if waits.is_some() && due == Due::Nothing => {}
            changed = leadership.changed() => if changed.is_err() { return },
            changed = state.changed(), if mine && due == Due::Nothing => if changed.is_err() { return },
            () = shared.stop.cancelled() => return,
        }
    }
}

async fn carry_out(shared: &Shared, state: &ControlState, due: Due) -> Result<(), String> {
    let change = match due {
        Due::Nothing => return Ok(()),
        Due::Forget => Change::Forget,
        Due::Draw => {
            let sealing = sealing::key(shared, state)?;
            let mut drawn = [0; KEY_BYTES];
            shared.world.chance.fill(&mut drawn);
            let sealed = Sealed(sealing.seal(PURPOSE, &drawn, shared.world.chance.as_ref()));
            Change::Draw { base: state.tickets.newest(), sealed, key: sealing.id() }
        }
    };
    propose(shared, Command::Tickets { change }).await
}

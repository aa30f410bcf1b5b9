//! Secrets on their way: in, sealed by whoever holds the key, and out, to the node whose planned instances name them.
//!
//! A node asks a voter or a spare, the leader or any other, and is told the values that the plan gives it a reason to know, and no
//! others. It keeps them in memory, and on disk sealed with a key of its own, so that its instances start again without anybody.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use hirsel_mesh::identity::{Identity, NodeKey, SealingKey};
use hirsel_model::codec::{decode, encode};
use hirsel_model::control::ControlState;
use hirsel_model::secret::{SecretId, ValueKey, needed};
use hirsel_model::{AppName, NodeId, SecretName};
use hirsel_role::secret::{Plain, Values};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::pace::Pace;
use crate::run::REPEAT;
use crate::sealing;
use crate::shared::Shared;

/// The kind of call by which a value is sealed.
const SEAL_CALL: &str = "secret-seal";
/// The kind of call by which a node fetches the values that its instances need.
const VALUES_CALL: &str = "secret-values";
/// What one of those who hold the key may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Where a node keeps what it was told, in its data folder.
pub const FILE: &str = "secrets";
/// What that is sealed for.
const PURPOSE: &str = "secrets of this node";

/// A value to seal.
#[derive(Serialize, Deserialize)]
struct Question {
    id: SecretId,
    value: String,
}

/// A value that was sealed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SealedValue {
    /// Sealed.
    pub sealed: Vec<u8>,
    /// With which key.
    pub key: String,
    /// It is the value that the secret has already.
    pub same: bool,
}

/// Values that a node may know.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Told {
    values: Vec<(AppName, SecretName, u64, String)>,
}

/// Registers what this agent answers.
pub fn serve(shared: &Arc<Shared>) {
    let agent = shared.clone();
    shared.transport.serve(SEAL_CALL, move |_, body| {
        let answer = seal_here(&agent, &body);
        async move { answer }.boxed()
    });
    let agent = shared.clone();
    shared.transport.serve(VALUES_CALL, move |from, _| {
        let answer = tell(&agent, from);
        async move { answer.map(|told| encode(&told)) }.boxed()
    });
}

/// Has a value sealed, here or by another node that holds the key.
///
/// # Errors
/// In words, without the value.
pub async fn seal(shared: &Shared, id: &SecretId, value: String) -> Result<SealedValue, String> {
    let question = encode(&Question { id: id.clone(), value });
    sealed_by_holder(shared, SEAL_CALL, question, seal_here).await
}

/// Asks one after another of those who hold the key, this node with `here` and others with a `call`, until one has sealed something.
///
/// # Errors
/// In words: those of the last one.
pub(crate) async fn sealed_by_holder(
    shared: &Shared,
    call: &'static str,
    question: Vec<u8>,
    here: impl Fn(&Shared, &[u8]) -> Result<Vec<u8>, String>,
) -> Result<SealedValue, String> {
    let mut last = "no voter is known".to_owned();
    for node in holders(shared) {
        let answer = match node == shared.node {
            true => here(shared, &question),
            false => {
                let asked = shared.transport.call(node, call, question.clone(), ANSWER_WITHIN).await;
                asked.map_err(|error| error.to_string())
            }
        };
        match answer.and_then(|bytes| decode(&bytes).map_err(|error| error.to_string())) {
            Ok(sealed) => return Ok(sealed),
            Err(words) => last = words,
        }
    }
    Err(last)
}

fn seal_here(shared: &Shared, body: &[u8]) -> Result<Vec<u8>, String> {
    // An error of decoding might repeat what it stumbled over.
    let Question { id, value } = decode(body).map_err(|_| "the question cannot be read".to_owned())?;
    let state = shared.control.state().borrow().clone();
    let key = sealing::key(shared, &state)?;
    let newest = state.secrets.get(&id).and_then(|secret| secret.values.values().next_back());
    let known = newest.and_then(|sealed| key.open(&id.purpose(), &sealed.0));
    let same = known.is_some_and(|known| known == value.as_bytes());
    let sealed = key.seal(&id.purpose(), value.as_bytes(), shared.world.chance.as_ref());
    Ok(encode(&SealedValue { sealed, key: key.id(), same }))
}

/// Whom to ask: this node first if it should hold the key, then the leader, the voters and the spares.
pub(crate) fn holders(shared: &Shared) -> Vec<NodeId> {
    let plan = shared.control.state().borrow().plan.clone();
    let leader = shared.control.leadership().borrow().leader;
    let mut all: Vec<NodeId> = plan.voters.iter().chain(&plan.spares).copied().collect();
    all.sort_by_key(|node| (*node != shared.node, Some(*node) != leader));
    all.dedup();
    all
}

/// The values that `from` needs by the plan that this node knows.
fn tell(shared: &Shared, from: NodeId) -> Result<Told, String> {
    let state = shared.control.state().borrow().clone();
    if !state.spec.nodes.contains_key(&from) {
        return Err("secrets are for members".into());
    }
    let needed = needed(&state, from);
    if needed.is_empty() {
        return Ok(Told::default());
    }
    let key = sealing::key(shared, &state)?;
    let value = |wanted: ValueKey| {
        let plain = open(&state, &key, &wanted)?;
        let (app, name, version) = wanted;
        Some((app, name, version, plain))
    };
    Ok(Told { values: needed.into_iter().filter_map(value).collect() })
}

fn open(state: &ControlState, key: &SealingKey, wanted: &ValueKey) -> Option<String> {
    let (id, sealed) = state.secrets.value(wanted)?;
    String::from_utf8(key.open(&id.purpose(), &sealed.0)?).ok()
}

/// Keeps `values` in line with what the plan gives to this node, until the agent stops.
pub async fn keep(shared: Arc<Shared>, values: watch::Sender<Arc<Values>>, own: SealingKey) {
    let mut state = shared.control.state();
    let mut have = load(&shared, &own);
    values.send_replace(Arc::new(Values(have.clone())));
    let mut pace = Pace::begin();
    loop {
        pace.looks();
        let now = state.borrow_and_update().clone();
        let mut missing = false;
        // Before the first state is known nothing is let go.
        if now.spec.nodes.contains_key(&shared.node) {
            let needed = needed(&now, shared.node);
            let mut next = have.clone();
            next.retain(|key, _| needed.contains(key));
            if needed.iter().any(|key| !next.contains_key(key)) {
                next.extend(fetch(&shared).await.into_iter().filter(|(key, _)| needed.contains(key)));
                missing = needed.iter().any(|key| !next.contains_key(key));
            }
            if next != have {
                have = next;
                values.send_replace(Arc::new(Values(have.clone())));
                if let Err(error) = save(&shared, &own, &have) {
                    warn!(%error, "secrets of this node's instances not kept: they cannot start again without a voter");
                }
            }
        }
        tokio::select! {
            changed = pace.changed(&mut state) => if changed.is_err() { return },
            () = sleep(REPEAT), if missing => {}
            () = shared.stop.cancelled() => return,
        }
    }
}

async fn fetch(shared: &Shared) -> BTreeMap<ValueKey, Plain> {
    for node in holders(shared) {
        let told = match node == shared.node {
            true => tell(shared, shared.node),
            false => {
                let asked = shared.transport.call(node, VALUES_CALL, Vec::new(), ANSWER_WITHIN).await;
                let read = |bytes: Vec<u8>| decode::<Told>(&bytes).map_err(|_| "the answer cannot be read".to_owned());
                asked.map_err(|error| error.to_string()).and_then(read)
            }
        };
        match told {
            // Whoever has not heard of the plan yet tells nothing.
            Ok(told) if !told.values.is_empty() => {
                let value = |(app, name, version, value)| ((app, name, version), Plain(value));
                return told.values.into_iter().map(value).collect();
            }
            Ok(_) => debug!(%node, "it knows of no secret that is needed here"),
            Err(error) => debug!(%node, error, "no secrets from there"),
        }
    }
    BTreeMap::new()
}

/// The key with which a node seals what it keeps for itself.
pub fn own_key(identity: &Identity) -> SealingKey {
    let key = NodeKey::from_pkcs8(&identity.key).expect("the key of a checked identity");
    SealingKey::of_node(&key)
}

fn save(shared: &Shared, own: &SealingKey, values: &BTreeMap<ValueKey, Plain>) -> std::io::Result<()> {
    let disk = shared.world.disk.as_ref();
    if values.is_empty() {
        return disk.remove(FILE);
    }
    let rows =
        values.iter().map(|((app, name, version), value)| (app.clone(), name.clone(), *version, value.0.clone()));
    let plain = encode(&Told { values: rows.collect() });
    disk.write(FILE, &own.seal(PURPOSE, &plain, shared.world.chance.as_ref()))
}

/// What was kept; nothing when there is nothing or it is unreadable, for it can be fetched again.
fn load(shared: &Shared, own: &SealingKey) -> BTreeMap<ValueKey, Plain> {
    let Ok(Some(sealed)) = shared.world.disk.read(FILE) else { return BTreeMap::new() };
    let told = own.open(PURPOSE, &sealed).and_then(|plain| decode::<Told>(&plain).ok());
    if told.is_none() {
        warn!("kept secrets cannot be read; they are fetched again");
    }
    let value = |(app, name, version, value)| ((app, name, version), Plain(value));
    told.unwrap_or_default().values.into_iter().map(value).collect()
}

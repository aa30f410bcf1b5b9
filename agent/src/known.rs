//! What is sealed in the control state and some nodes may know, on its way to them: keys of certificates, keys of TLS tickets, access
//! keys. Of each kind every item has a version, a number that no other one ever has.
//!
//! A node asks those who hold the sealing key, one after another, for what it lacks, and is told what the state gives it a reason to
//! know, and nothing else. It keeps that in memory, and, where the kind says so, on disk sealed with a key of its own, so that it can go
//! on without anybody after a restart. Before the first state is known nothing is let go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use hirsel_mesh::identity::SealingKey;
use hirsel_model::NodeId;
use hirsel_model::codec::{decode, encode};
use hirsel_model::control::ControlState;
use hirsel_model::secret::Sealed;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::pace::Pace;
use crate::run::REPEAT;
use crate::sealing;
use crate::secrets::holders;
use crate::shared::Shared;

/// One kind of what is sealed.
pub trait Kind: Send + Sync + 'static {
    /// What a node that was told them makes of them, for its roles.
    type Have: Clone + Default + PartialEq + Send + Sync;
    /// The same as it lies on disk.
    type Rows: Default + Serialize + DeserializeOwned + Send;

    /// In words, for the log.
    const WHAT: &'static str;
    /// The kind of call by which a node fetches them.
    const CALL: &'static str;
    /// What one of those who hold the sealing key may take to open all of them.
    const ANSWER_WITHIN: Duration;
    /// Where they are kept; none where they are in memory alone.
    const KEPT: Option<Kept>;

    /// What `node` may be told, by version: what it is sealed for, and it.
    fn needed(state: &ControlState, node: NodeId) -> BTreeMap<u64, (String, &Sealed)>;
    /// Whether `have` is what `node` needs, and no more. Asked with every change of the state.
    fn is_settled(state: &ControlState, node: NodeId, have: &Self::Have) -> bool;
    /// The versions in `have`.
    fn versions(have: &Self::Have) -> BTreeSet<u64>;
    /// What `node` has, once it was told some more: opened, by version. Whoever told them may know another state than this one.
    fn follow(state: &ControlState, node: NodeId, have: &Self::Have, told: BTreeMap<u64, Vec<u8>>) -> Self::Have;
    /// For the disk; none where there is nothing to keep.
    fn rows(have: &Self::Have) -> Option<Self::Rows>;
    /// From the disk.
    fn of_rows(rows: Self::Rows) -> Self::Have;
}

/// Where a node keeps what it was told, in its data folder.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// The file.
    pub file: &'static str,
    /// What it is sealed for, with the node's own key.
    pub purpose: &'static str,
    /// What follows for people when it cannot be written.
    pub otherwise: &'static str,
}

/// Which items are lacking, by version.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Wanted {
    versions: BTreeSet<u64>,
}

/// Items that a node may know, by version; not sealed here, but by the connection.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Told {
    items: Vec<(u64, Sealed)>,
}

/// Registers what this agent answers.
pub fn serve<K: Kind>(shared: &Arc<Shared>) {
    let agent = shared.clone();
    shared.transport.serve(K::CALL, move |from, body| {
        let wanted: Wanted = decode(&body).unwrap_or_default();
        let answer = tell::<K>(&agent, from, &wanted);
        async move { answer.map(|told| encode(&told)) }.boxed()
    });
}

/// The items that `from` needs by what this node knows, as far as it wants them.
fn tell<K: Kind>(shared: &Shared, from: NodeId, wanted: &Wanted) -> Result<Told, String> {
    let state = shared.control.state().borrow().clone();
    if !state.spec.nodes.contains_key(&from) {
        return Err("keys are for members".into());
    }
    let needed = K::needed(&state, from).into_iter().filter(|(version, _)| wanted.versions.contains(version));
    let given: Vec<_> = needed.collect();
    if given.is_empty() {
        return Ok(Told::default());
    }
    let key = sealing::key(shared, &state)?;
    let open = |(version, (purpose, sealed)): (u64, (String, &Sealed))| {
        let plain = key.open(&purpose, &sealed.0)?;
        Some((version, Sealed(plain)))
    };
    Ok(Told { items: given.into_iter().filter_map(open).collect() })
}

/// Keeps `seen` in line with what this node needs, until the agent stops.
pub async fn keep<K: Kind>(shared: Arc<Shared>, seen: watch::Sender<Arc<K::Have>>, own: SealingKey) {
    let mut state = shared.control.state();
    let mut have = load::<K>(&shared, &own);
    seen.send_replace(Arc::new(have.clone()));
    let mut pace = Pace::begin();
    loop {
        pace.looks();
        let now = state.borrow_and_update().clone();
        let mut missing = false;
        if now.spec.nodes.contains_key(&shared.node) && !K::is_settled(&now, shared.node, &have) {
            let told = fetch::<K>(&shared, lacking::<K>(&now, shared.node, &have)).await;
            let next = K::follow(&now, shared.node, &have, told);
            missing = !lacking::<K>(&now, shared.node, &next).is_empty();
            if next != have {
                have = next;
                seen.send_replace(Arc::new(have.clone()));
                if let Some(kept) = K::KEPT
                    && let Err(error) = save::<K>(&shared, &own, &kept, &have).await
                {
                    warn!(%error, otherwise = kept.otherwise, "{} not kept", K::WHAT);
                }
            }
        }
        drop(now);
        tokio::select! {
            changed = pace.changed(&mut state) => if changed.is_err() { return },
            () = sleep(REPEAT), if missing => {}
            () = shared.stop.cancelled() => return,
        }
    }
}

/// The versions that `node` needs and has not got.
pub fn lacking<K: Kind>(state: &ControlState, node: NodeId, have: &K::Have) -> BTreeSet<u64> {
    let has = K::versions(have);
    K::needed(state, node).into_keys().filter(|version| !has.contains(version)).collect()
}

/// Asks for items until all have come that are wanted, or everybody was asked.
async fn fetch<K: Kind>(shared: &Shared, mut lacking: BTreeSet<u64>) -> BTreeMap<u64, Vec<u8>> {
    let mut all = BTreeMap::new();
    for node in holders(shared) {
        if lacking.is_empty() {
            break;
        }
        let wanted = Wanted { versions: lacking.clone() };
        let told = match node == shared.node {
            true => tell::<K>(shared, shared.node, &wanted),
            false => {
                let asked = shared.transport.call(node, K::CALL, encode(&wanted), K::ANSWER_WITHIN).await;
                let read = |bytes: Vec<u8>| decode::<Told>(&bytes).map_err(|_| "the answer cannot be read".to_owned());
                asked.map_err(|error| error.to_string()).and_then(read)
            }
        };
        match told {
            // Whoever has not heard of the change yet tells less.
            Ok(told) => {
                let items = told.items.into_iter().filter(|(version, _)| wanted.versions.contains(version));
                for (version, item) in items {
                    lacking.remove(&version);
                    all.insert(version, item.0);
                }
            }
            Err(error) => debug!(%node, error, "no {} from there", K::WHAT),
        }
    }
    all
}

async fn save<K: Kind>(shared: &Shared, own: &SealingKey, kept: &Kept, have: &K::Have) -> std::io::Result<()> {
    let (disk, file) = (shared.world.disk.clone(), kept.file);
    let Some(rows) = K::rows(have) else {
        return shared.world.disk.run(Box::new(move || disk.remove(file))).await;
    };
    let sealed = own.seal(kept.purpose, &encode(&rows), shared.world.chance.as_ref());
    // Syncing some megabytes takes milliseconds that nothing else should wait for.
    shared.world.disk.run(Box::new(move || disk.write(file, &sealed))).await
}

/// What was kept; nothing when there is nothing or it is unreadable, for it can be fetched again.
fn load<K: Kind>(shared: &Shared, own: &SealingKey) -> K::Have {
    let Some(kept) = K::KEPT else { return K::Have::default() };
    let Ok(Some(sealed)) = shared.world.disk.read(kept.file) else { return K::Have::default() };
    let rows = own.open(kept.purpose, &sealed).and_then(|plain| decode::<K::Rows>(&plain).ok());
    if rows.is_none() {
        warn!("kept {} cannot be read; they are fetched again", K::WHAT);
    }
    K::of_rows(rows.unwrap_or_default())
}

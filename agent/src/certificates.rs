//! Certificates of the front door on their way: keys in, sealed by whoever holds the sealing key, and out, to the nodes that the plan
//! makes load balancers, and to no others.
//!
//! Such a node keeps what it shows in memory, and on disk sealed with a key of its own, so that its load balancer starts again without
//! anybody. What it has is shown until what follows it has come whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use hirsel_mesh::identity::{SealingKey, fingerprint};
use hirsel_model::certificate::{needed, purpose, shows};
use hirsel_model::codec::{decode, encode};
use hirsel_model::control::ControlState;
use hirsel_model::{CertificateName, NodeId};
use hirsel_role::certificate::{Bundle, Bundles};
use hirsel_role::secret::Plain;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::run::REPEAT;
use crate::sealing;
use crate::secrets::{SealedValue, holders, sealed_by_holder};
use crate::shared::Shared;

/// The kind of call by which a key is sealed.
const SEAL_CALL: &str = "certificate-seal";
/// The kind of call by which a load balancer's node fetches keys.
const KEYS_CALL: &str = "certificate-keys";
/// What one of those who hold the sealing key may take: a thousand keys are four megabytes.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Where a node keeps what its load balancer shows, in its data folder.
pub const FILE: &str = "certificates";
/// What that is sealed for.
const PURPOSE: &str = "certificates of this node";

/// A key to seal.
#[derive(Serialize, Deserialize)]
struct Question {
    name: CertificateName,
    key: String,
}

/// Which keys are lacking, by version.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Wanted {
    versions: BTreeSet<u64>,
}

/// Keys that a node may know: of which certificate, and in which version.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Told {
    keys: Vec<(CertificateName, u64, String)>,
}

/// What is kept on disk: name, version, chain, key.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    bundles: Vec<(CertificateName, u64, String, String)>,
}

type Have = BTreeMap<CertificateName, Bundle>;

/// Registers what this agent answers.
pub fn serve(shared: &Arc<Shared>) {
    let agent = shared.clone();
    shared.transport.serve(SEAL_CALL, move |_, body| {
        let answer = seal_here(&agent, &body);
        async move { answer }.boxed()
    });
    let agent = shared.clone();
    shared.transport.serve(KEYS_CALL, move |from, body| {
        let wanted: Wanted = decode(&body).unwrap_or_default();
        let answer = tell(&agent, from, &wanted);
        async move { answer.map(|told| encode(&told)) }.boxed()
    });
}

/// Has the key of a certificate sealed, here or by another node that holds the sealing key.
///
/// # Errors
/// In words, without the key.
pub async fn seal(shared: &Shared, name: &CertificateName, key: String) -> Result<SealedValue, String> {
    let question = encode(&Question { name: name.clone(), key });
    sealed_by_holder(shared, SEAL_CALL, question, seal_here).await
}

fn seal_here(shared: &Shared, body: &[u8]) -> Result<Vec<u8>, String> {
    // An error of decoding might repeat what it stumbled over.
    let Question { name, key: plain } = decode(body).map_err(|_| "the question cannot be read".to_owned())?;
    let state = shared.control.state().borrow().clone();
    let key = sealing::key(shared, &state)?;
    let sealed = key.seal(&purpose(&name), plain.as_bytes(), shared.world.chance.as_ref());
    Ok(encode(&SealedValue { sealed, key: key.id(), same: false }))
}

/// The keys that `from` needs by the plan that this node knows, as far as it wants them.
fn tell(shared: &Shared, from: NodeId, wanted: &Wanted) -> Result<Told, String> {
    let state = shared.control.state().borrow().clone();
    if !state.spec.nodes.contains_key(&from) {
        return Err("keys are for members".into());
    }
    let given: Vec<_> =
        needed(&state, from).into_iter().filter(|(_, version)| wanted.versions.contains(version)).collect();
    if given.is_empty() {
        return Ok(Told::default());
    }
    let key = sealing::key(shared, &state)?;
    let told = |(name, version): (CertificateName, u64)| {
        let plain = open(&state, &key, &name)?;
        Some((name, version, plain))
    };
    Ok(Told { keys: given.into_iter().filter_map(told).collect() })
}

fn open(state: &ControlState, key: &SealingKey, name: &CertificateName) -> Option<String> {
    let sealed = &state.certificates.named.get(name)?.key;
    String::from_utf8(key.open(&purpose(name), &sealed.0)?).ok()
}

/// Keeps `bundles` in line with what the plan gives to this node, until the agent stops.
pub async fn keep(shared: Arc<Shared>, bundles: watch::Sender<Arc<Bundles>>, own: SealingKey) {
    let mut state = shared.control.state();
    let mut have = load(&shared, &own);
    bundles.send_replace(Arc::new(Bundles(have.clone())));
    loop {
        let now = state.borrow_and_update().clone();
        let mut missing = false;
        // Before the first state is known nothing is let go.
        if now.spec.nodes.contains_key(&shared.node) && !is_settled(&now, shared.node, &have) {
            let told = fetch(&shared, lacking(&now, shared.node, &have)).await;
            let next = follow(&now, shared.node, &have, told);
            missing = !is_settled(&now, shared.node, &next);
            if next != have {
                have = next;
                bundles.send_replace(Arc::new(Bundles(have.clone())));
                if let Err(error) = save(&shared, &own, &have).await {
                    warn!(%error, "certificates not kept: this node's load balancer cannot show them again without a voter");
                }
            }
        }
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            () = sleep(REPEAT), if missing => {}
            () = shared.stop.cancelled() => return,
        }
    }
}

/// Whether `have` is what `node` needs, and no more.
fn is_settled(state: &ControlState, node: NodeId, have: &Have) -> bool {
    let shows = shows(state, node);
    // Asked with every change of the state: nothing is copied for it.
    let given = state.certificates.named.iter().filter(|_| shows).map(|(name, it)| (name, it.version));
    given.eq(have.iter().map(|(name, bundle)| (name, bundle.version)))
}

/// The versions that `node` needs and has not got.
fn lacking(state: &ControlState, node: NodeId, have: &Have) -> BTreeSet<u64> {
    let lacks = |(name, version): &(CertificateName, u64)| have.get(name).is_none_or(|it| it.version != *version);
    needed(state, node).into_iter().filter(lacks).map(|(_, version)| version).collect()
}

/// What `node` has, once it was told some keys: of each certificate it needs the newest version that came, else the one before.
fn follow(state: &ControlState, node: NodeId, have: &Have, told: Vec<(CertificateName, u64, String)>) -> Have {
    let needed = needed(state, node);
    let mut next = have.clone();
    next.retain(|name, _| needed.contains_key(name));
    for (name, version, key) in told {
        // Whoever told it may know another state than this one.
        if needed.get(&name) == Some(&version)
            && let Some(certificate) = state.certificates.named.get(&name)
        {
            next.insert(name, Bundle { version, chain: certificate.chain.clone(), key: Plain(key) });
        }
    }
    next
}

/// Asks for keys until all have come that are wanted, or everybody was asked.
async fn fetch(shared: &Shared, mut lacking: BTreeSet<u64>) -> Vec<(CertificateName, u64, String)> {
    let mut all = Vec::new();
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
                for (_, version, _) in &told.keys {
                    lacking.remove(version);
                }
                all.extend(told.keys);
            }
            Err(error) => debug!(%node, error, "no keys of certificates from there"),
        }
    }
    all
}

async fn save(shared: &Shared, own: &SealingKey, have: &Have) -> std::io::Result<()> {
    let disk = shared.world.disk.clone();
    if have.is_empty() {
        return shared.world.disk.run(Box::new(move || disk.remove(FILE))).await;
    }
    let rows = have.iter().map(|(name, it)| (name.clone(), it.version, it.chain.clone(), it.key.0.clone()));
    let sealed = own.seal(PURPOSE, &encode(&Kept { bundles: rows.collect() }), shared.world.chance.as_ref());
    // Syncing some megabytes takes milliseconds that nothing else should wait for.
    shared.world.disk.run(Box::new(move || disk.write(FILE, &sealed))).await
}

/// What was kept; nothing when there is nothing or it is unreadable, for it can be fetched again.
fn load(shared: &Shared, own: &SealingKey) -> Have {
    let Ok(Some(sealed)) = shared.world.disk.read(FILE) else { return BTreeMap::new() };
    let kept = own.open(PURPOSE, &sealed).and_then(|plain| decode::<Kept>(&plain).ok());
    if kept.is_none() {
        warn!("kept certificates cannot be read; they are fetched again");
    }
    let bundle = |(name, version, chain, key)| (name, Bundle { version, chain, key: Plain(key) });
    kept.unwrap_or_default().bundles.into_iter().map(bundle).collect()
}

/// By what the certificates that a node has are told from others, in gossip: part of a hash of their names and versions. Empty
/// without any.
pub fn mark<'a>(versions: impl Iterator<Item = (&'a CertificateName, u64)>) -> String {
    let all: Vec<(&CertificateName, u64)> = versions.collect();
    if all.is_empty() {
        return String::new();
    }
    fingerprint(&encode(&all))[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What this node has, and the mark of it, made once for each set.
pub struct Having {
    bundles: watch::Receiver<Arc<Bundles>>,
    of: Arc<Bundles>,
    mark: String,
}

impl Having {
    /// None yet.
    pub fn new(bundles: watch::Receiver<Arc<Bundles>>) -> Self {
        Self { bundles, of: Arc::default(), mark: String::new() }
    }

    /// The mark of what it has now.
    pub fn mark(&mut self) -> &str {
        let now = self.bundles.borrow_and_update().clone();
        if !Arc::ptr_eq(&now, &self.of) {
            self.mark = mark(now.0.iter().map(|(name, bundle)| (name, bundle.version)));
            self.of = now;
        }
        &self.mark
    }

    /// Completes when it has another set than when it was last asked for its mark.
    ///
    /// # Errors
    /// When the agent ends.
    pub async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        self.bundles.changed().await
    }
}

/// The mark of what every load balancer's node should have.
pub fn expected(state: &ControlState) -> String {
    mark(state.certificates.named.iter().map(|(name, it)| (name, it.version)))
}

#[cfg(test)]
mod tests {
    use hirsel_model::certificate::{Certificate, Facts};
    use hirsel_model::secret::Sealed;

    use super::*;
    use crate::api::fixture;

    /// The fixture's cluster, whose three nodes all balance load, with some certificates.
    fn state(versions: &[(&str, u64)]) -> ControlState {
        let mut state = fixture::state();
        for (name, version) in versions {
            let certificate = Certificate {
                version: *version,
                set_at: fixture::NOON,
                facts: Facts::default(),
                chain: format!("chain {version}"),
                key: Sealed(Vec::new()),
                automatic: None,
            };
            state.certificates.named.insert(name.parse().unwrap(), Arc::new(certificate));
        }
        state
    }

    fn told(name: &str, version: u64) -> (CertificateName, u64, String) {
        (name.parse().unwrap(), version, format!("key {version}"))
    }

    fn versions(have: &Have) -> Vec<(&str, u64, &str, &str)> {
        have.iter().map(|(name, it)| (name.as_str(), it.version, it.chain.as_str(), it.key.0.as_str())).collect()
    }

    #[test]
    fn what_is_shown_stays_until_what_follows_it_has_come_whole() {
        let me = NodeId(1);
        let first = state(&[("blog", 1), ("shop", 2)]);
        let none = Have::new();
        assert_eq!(lacking(&first, me, &none), [1, 2].into());
        let have = follow(&first, me, &none, vec![told("blog", 1), told("shop", 2), told("other", 9), told("shop", 1)]);
        assert!(is_settled(&first, me, &have));
        assert_eq!(versions(&have), [("blog", 1, "chain 1", "key 1"), ("shop", 2, "chain 2", "key 2")]);

        let second = state(&[("shop", 3)]);
        assert!(!is_settled(&second, me, &have));
        assert_eq!(lacking(&second, me, &have), [3].into());
        let early = follow(&second, me, &have, Vec::new());
        assert_eq!(versions(&early), [("shop", 2, "chain 2", "key 2")], "nothing came yet; what is removed is gone");
        assert!(!is_settled(&second, me, &early));
        let late = follow(&second, me, &early, vec![told("shop", 3)]);
        assert_eq!(versions(&late), [("shop", 3, "chain 3", "key 3")]);
        assert!(is_settled(&second, me, &late));
    }

    #[test]
    fn who_balances_load_no_more_keeps_no_key() {
        let mut state = state(&[("shop", 2)]);
        let have = follow(&state, NodeId(1), &Have::new(), vec![told("shop", 2)]);
        state.plan.roles.clear();
        assert!(!is_settled(&state, NodeId(1), &have));
        assert!(lacking(&state, NodeId(1), &Have::new()).is_empty());
        let next = follow(&state, NodeId(1), &have, vec![told("shop", 2)]);
        assert!(next.is_empty() && is_settled(&state, NodeId(1), &next));
    }

    #[tokio::test]
    async fn a_node_that_waits_for_a_change_says_afterwards_what_it_has() {
        let (bundles, seen) = watch::channel(Arc::default());
        let mut having = Having::new(seen);
        assert_eq!(having.mark(), "");
        let state = state(&[("shop", 2)]);
        bundles.send_replace(Arc::new(Bundles(follow(&state, NodeId(1), &Have::new(), vec![told("shop", 2)]))));
        having.changed().await.unwrap();
        assert_eq!(having.mark(), expected(&state));
        bundles.send_replace(Arc::default());
        having.changed().await.unwrap();
        assert_eq!(having.mark(), "");
    }

    #[test]
    fn a_mark_tells_names_and_versions_apart() {
        let of = |all: &[(&str, u64)]| expected(&state(all));
        assert_eq!(of(&[]), "");
        assert_eq!(of(&[("a", 1), ("b", 2)]), of(&[("b", 2), ("a", 1)]));
        let marks: BTreeSet<String> = [&[("a", 1)][..], &[("a", 2)], &[("b", 1)], &[("a", 1), ("b", 2)]].map(of).into();
        assert_eq!(marks.len(), 4);
        assert!(marks.iter().all(|mark| mark.len() == 16));
    }
}

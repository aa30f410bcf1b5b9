//! Certificates of the front door on their way: keys in, sealed by whoever holds the sealing key, and out, to the nodes that the plan
//! makes load balancers, and to no others.
//!
//! Such a node keeps what it shows in memory, and on disk sealed with a key of its own, so that its load balancer starts again without
//! anybody. What it has is shown until what follows it has come whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use hirsel_mesh::identity::fingerprint;
use hirsel_model::certificate::{needed, purpose, shows};
use hirsel_model::codec::{decode, encode};
use hirsel_model::control::ControlState;
use hirsel_model::secret::Sealed;
use hirsel_model::{CertificateName, NodeId};
use hirsel_role::certificate::{Bundle, Bundles};
use hirsel_role::secret::Plain;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::known::{self, Kept, Kind};
use crate::sealing;
use crate::secrets::{SealedValue, sealed_by_holder};
use crate::shared::Shared;

/// The kind of call by which a key is sealed.
const SEAL_CALL: &str = "certificate-seal";
/// Where a node keeps what its load balancer shows, in its data folder.
pub const FILE: &str = "certificates";

/// A key to seal.
#[derive(Serialize, Deserialize)]
struct Question {
    name: CertificateName,
    key: String,
}

/// What is kept on disk: name, version, chain, key.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Rows {
    bundles: Vec<(CertificateName, u64, String, String)>,
}

/// Keys of certificates, for nodes that balance load, which have the chains already.
#[derive(Debug)]
pub struct Certificates;

impl Kind for Certificates {
    type Have = Bundles;
    type Rows = Rows;

    const WHAT: &'static str = "keys of certificates";
    const CALL: &'static str = "certificate-keys";
    /// A thousand keys are four megabytes.
    const ANSWER_WITHIN: Duration = Duration::from_secs(5);
    const KEPT: Option<Kept> = Some(Kept {
        file: FILE,
        purpose: "certificates of this node",
        otherwise: "this node's load balancer cannot show them again without a voter",
    });

    fn needed(state: &ControlState, node: NodeId) -> BTreeMap<u64, (String, &Sealed)> {
        let named = state.certificates.named.iter().filter(|_| shows(state, node));
        named.map(|(name, it)| (it.version, (purpose(name), &it.key))).collect()
    }

    fn is_settled(state: &ControlState, node: NodeId, have: &Bundles) -> bool {
        let shows = shows(state, node);
        // Nothing is copied for it.
        let given = state.certificates.named.iter().filter(|_| shows).map(|(name, it)| (name, it.version));
        given.eq(have.0.iter().map(|(name, bundle)| (name, bundle.version)))
    }

    fn versions(have: &Bundles) -> BTreeSet<u64> {
        have.0.values().map(|bundle| bundle.version).collect()
    }

    /// Of each certificate it needs the newest version that came, else the one before.
    fn follow(state: &ControlState, node: NodeId, have: &Bundles, mut told: BTreeMap<u64, Vec<u8>>) -> Bundles {
        let needed = needed(state, node);
        let mut next = have.clone();
        next.0.retain(|name, _| needed.contains_key(name));
        for (name, version) in needed {
            if let Some(key) = told.remove(&version).and_then(|key| String::from_utf8(key).ok())
                && let Some(certificate) = state.certificates.named.get(&name)
            {
                next.0.insert(name, Bundle { version, chain: certificate.chain.clone(), key: Plain(key) });
            }
        }
        next
    }

    fn rows(have: &Bundles) -> Option<Rows> {
        let row =
            |(name, it): (&CertificateName, &Bundle)| (name.clone(), it.version, it.chain.clone(), it.key.0.clone());
        (!have.0.is_empty()).then(|| Rows { bundles: have.0.iter().map(row).collect() })
    }

    fn of_rows(rows: Rows) -> Bundles {
        let bundle = |(name, version, chain, key)| (name, Bundle { version, chain, key: Plain(key) });
        Bundles(rows.bundles.into_iter().map(bundle).collect())
    }
}

/// Registers what this agent answers.
pub fn serve(shared: &Arc<Shared>) {
    let agent = shared.clone();
    shared.transport.serve(SEAL_CALL, move |_, body| {
        let answer = seal_here(&agent, &body);
        async move { answer }.boxed()
    });
    known::serve::<Certificates>(shared);
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

    use super::*;
    use crate::api::fixture;
    use crate::known::lacking;

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

    fn told(versions: &[u64]) -> BTreeMap<u64, Vec<u8>> {
        versions.iter().map(|version| (*version, format!("key {version}").into_bytes())).collect()
    }

    fn follow(state: &ControlState, have: &Bundles, versions: &[u64]) -> Bundles {
        Certificates::follow(state, NodeId(1), have, told(versions))
    }

    fn is_settled(state: &ControlState, have: &Bundles) -> bool {
        let settled = Certificates::is_settled(state, NodeId(1), have);
        assert!(!settled || lacking::<Certificates>(state, NodeId(1), have).is_empty());
        settled
    }

    fn versions(have: &Bundles) -> Vec<(&str, u64, &str, &str)> {
        have.0.iter().map(|(name, it)| (name.as_str(), it.version, it.chain.as_str(), it.key.0.as_str())).collect()
    }

    #[test]
    fn what_is_shown_stays_until_what_follows_it_has_come_whole() {
        let lacking = |state: &ControlState, have: &Bundles| lacking::<Certificates>(state, NodeId(1), have);
        let first = state(&[("blog", 1), ("shop", 2)]);
        let none = Bundles::default();
        assert_eq!(lacking(&first, &none), [1, 2].into());
        let have = follow(&first, &none, &[1, 2, 9]);
        assert!(is_settled(&first, &have));
        assert_eq!(versions(&have), [("blog", 1, "chain 1", "key 1"), ("shop", 2, "chain 2", "key 2")]);

        let second = state(&[("shop", 3)]);
        assert!(!is_settled(&second, &have));
        assert_eq!(lacking(&second, &have), [3].into());
        let early = follow(&second, &have, &[]);
        assert_eq!(versions(&early), [("shop", 2, "chain 2", "key 2")], "nothing came yet; what is removed is gone");
        assert!(!is_settled(&second, &early));
        let late = follow(&second, &early, &[3]);
        assert_eq!(versions(&late), [("shop", 3, "chain 3", "key 3")]);
        assert!(is_settled(&second, &late));
    }

    #[test]
    fn who_balances_load_no_more_keeps_no_key() {
        let mut state = state(&[("shop", 2)]);
        let have = follow(&state, &Bundles::default(), &[2]);
        state.plan.roles.clear();
        assert!(!is_settled(&state, &have));
        assert!(lacking::<Certificates>(&state, NodeId(1), &Bundles::default()).is_empty());
        let next = follow(&state, &have, &[2]);
        assert!(next.0.is_empty() && is_settled(&state, &next));
    }

    #[tokio::test]
    async fn a_node_that_waits_for_a_change_says_afterwards_what_it_has() {
        let (bundles, seen) = watch::channel(Arc::default());
        let mut having = Having::new(seen);
        assert_eq!(having.mark(), "");
        let state = state(&[("shop", 2)]);
        bundles.send_replace(Arc::new(follow(&state, &Bundles::default(), &[2])));
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

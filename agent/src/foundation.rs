//! Which foundation of the cluster a node belongs to, asked by one that does not hear it.
//!
//! A node that was given up in a recovery is not let in any more, and would never learn why. So whoever does not hear a member asks it
//! at the door for newcomers, which is open to anybody who knows the authority: the answer is a tag and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hirsel_mesh::identity::{JoinToken, fingerprint};
use hirsel_mesh::seam::World;
use hirsel_mesh::transport::join_request;
use hirsel_model::codec::{decode, encode};
use hirsel_model::{NodeId, Tag};
use tokio::time::sleep;
use tracing::warn;

use crate::shared::Shared;

/// The question.
const QUESTION: &[u8] = b"which foundation?";
/// Nodes that are not heard are asked so often: a person reads the answer.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// The answer to `request`, if it is the question.
pub fn answer(shared: &Shared, request: &[u8]) -> Option<Vec<u8>> {
    (request == QUESTION).then(|| encode(&shared.control.tag()))
}

/// Asks whoever is at `addr`; none where nobody answers who belongs to the cluster whose authority has this fingerprint, or had it.
pub async fn ask(world: &World, addr: SocketAddr, authority: [u8; 32]) -> Option<Tag> {
    let word = JoinToken { id: String::new(), secret: String::new(), ca_fingerprint: authority };
    let answer = join_request(world, addr, &word, QUESTION.to_vec()).await.ok()?;
    decode(&answer).ok()
}

/// Asks whoever is not heard, and says it once when somebody belongs to another foundation.
pub async fn watch(shared: Arc<Shared>) {
    let mut told: BTreeMap<NodeId, Tag> = BTreeMap::new();
    let mut before: BTreeSet<NodeId> = BTreeSet::new();
    loop {
        tokio::select! {
            () = sleep(ASK_EVERY) => {}
            () = shared.stop.cancelled() => return,
        }
        let state = shared.control.state().borrow().clone();
        let unheard = shared.unheard.borrow().clone();
        let mine = shared.control.tag();
        // Whoever is only on its way is not asked.
        for node in unheard.intersection(&before).filter(|node| **node != shared.node) {
            let Some(spec) = state.spec.nodes.get(node) else { continue };
            let asked = ask(&shared.world, spec.addr, fingerprint(&state.cluster.ca));
            let Some(theirs) = asked.await else { continue };
            if theirs != mine && told.insert(*node, theirs.clone()).as_ref() != Some(&theirs) {
                warn!(
                    "{} belongs to the foundation with tag {theirs} of cluster {}, this node to the one with tag {mine}; they do not \
                     mix. To bring this node there: stop its agent, put its data folder aside, and with a token from there: hirsel join \
                     {} --token T",
                    spec.name, shared.cluster, spec.addr
                );
            }
        }
        before = unheard;
    }
}

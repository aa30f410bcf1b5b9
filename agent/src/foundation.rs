//! Which foundation of the cluster a node belongs to, asked by one that does not hear it.
//!
//! A node that was given up in a recovery is not let in any more, and would never learn why. So whoever does not hear a member asks it
//! at the door for newcomers, which is open to anybody who knows the authority: the answer is a tag and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use hirsel_mesh::identity::{JoinToken, fingerprint};
use hirsel_mesh::seam::World;
use hirsel_mesh::transport::join_request;
use hirsel_model::codec::{decode, encode};
use hirsel_model::control::{Command, ControlState, Entry};
use hirsel_model::event::{Cause, EventKind, NewEvent};
use hirsel_model::spec::NodeSpec;
use hirsel_model::{NodeId, Tag, WallTime};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::shared::Shared;

/// The question.
const QUESTION: &[u8] = b"which foundation?";
/// Nodes that are not heard are asked so often: a person reads the answer.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// Those who were given up are asked in every such round, the first included; most of them are gone for good.
const ROUNDS_GIVEN_UP: u64 = 3;
/// How long they are asked. Whoever comes back later asks by itself, if it belongs to the past.
const GIVEN_UP_FOR_MS: u64 = 24 * 3_600_000;
/// How many of them, the last ones.
const GIVEN_UP_MAX: usize = 16;
/// One answer, and one note in the log.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// The answer to `request`, if it is the question.
pub fn answer(shared: &Shared, request: &[u8]) -> Option<Vec<u8>> {
    (request == QUESTION).then(|| encode(&shared.control.tag()))
}

/// ` (its foundation with tag T)`, where there is more than one foundation: what one gave out, the other does not know.
pub fn named(tag: &Tag) -> String {
    if tag.is_first() { String::new() } else { format!(" (its foundation with tag {tag})") }
}

/// Asks whoever is at `addr`; none where nobody answers who belongs to the cluster whose authority has this fingerprint, or had it.
pub async fn ask(world: &World, addr: SocketAddr, authority: [u8; 32]) -> Option<Tag> {
    let word = JoinToken { id: String::new(), secret: String::new(), ca_fingerprint: authority };
    let answer = join_request(world, addr, &word, QUESTION.to_vec()).await.ok()?;
    decode(&answer).ok()
}

/// Asks whoever is not heard, and says it once when somebody belongs to another foundation. While this node leads it also asks those who
/// were given up lately: they may have been given up by mistake, and go on as a foundation of their own.
pub async fn watch(shared: Arc<Shared>) {
    let mut told = Told::default();
    let mut before: BTreeSet<NodeId> = BTreeSet::new();
    for round in 0_u64.. {
        tokio::select! {
            () = sleep(ASK_EVERY) => {}
            () = shared.stop.cancelled() => return,
        }
        let state = shared.control.state().borrow().clone();
        let unheard = shared.unheard.borrow().clone();
        // Whoever is only on its way is not asked.
        let silent = unheard.intersection(&before).filter(|node| **node != shared.node);
        let mut asked: Vec<(NodeId, NodeSpec)> =
            silent.filter_map(|node| Some((*node, state.spec.nodes.get(node)?.clone()))).collect();
        let leads = shared.control.leadership().borrow().mine;
        if leads && round.is_multiple_of(ROUNDS_GIVEN_UP) {
            asked.extend(given_up(&state, shared.world.clock.wall()));
        }
        let mine = shared.control.tag();
        let authority = fingerprint(&state.cluster.ca);
        let answers = asked.into_iter().map(|(node, spec)| {
            let asked = timeout(ANSWER_WITHIN, ask(&shared.world, spec.addr, authority));
            asked.map(move |answer| (node, spec, answer.ok().flatten()))
        });
        let answers = join_all(answers).await;
        before = unheard;
        if shared.control.tag() != mine {
            // It was founded anew, or joined what was, while others were asked: who is strange to it is another question now.
            continue;
        }
        for (node, spec, theirs) in answers {
            let Some(theirs) = theirs.filter(|theirs| told.is_news(node, &mine, theirs)) else { continue };
            match state.spec.nodes.contains_key(&node) {
                true => warn!(
                    "{} belongs to the foundation with tag {theirs} of cluster {}, this node to the one with tag {mine}; they do not \
                     mix. To bring this node there: stop its agent, and with a token from there, on the same data folder, which is put \
                     aside then: hirsel join {} --token T",
                    spec.name, shared.cluster, spec.addr
                ),
                false => tell_of_lost(&shared, &spec, &theirs, &mine).await,
            }
        }
    }
}

/// What was said: of whom, that it belongs to which foundation, and to which this node belonged then.
#[derive(Default)]
struct Told(BTreeMap<NodeId, (Tag, Tag)>);

impl Told {
    /// Whether it is to be said that `node` belongs to `theirs`.
    fn is_news(&mut self, node: NodeId, mine: &Tag, theirs: &Tag) -> bool {
        let both = (mine.clone(), theirs.clone());
        theirs != mine && self.0.insert(node, both.clone()) != Some(both)
    }
}

/// Nodes that were given up within a day, and whose addresses no member has now.
fn given_up(state: &ControlState, now: WallTime) -> Vec<(NodeId, NodeSpec)> {
    if state.cluster.tag.is_first() {
        return Vec::new();
    }
    let lately = |at: WallTime| now.0.saturating_sub(at.0) < GIVEN_UP_FOR_MS;
    let free = |spec: &NodeSpec| state.spec.nodes.values().all(|node| node.addr != spec.addr);
    let left = state.left.iter().rev().filter(|left| lately(left.at) && free(&left.spec));
    left.take(GIVEN_UP_MAX).map(|left| (left.id, left.spec.clone())).collect()
}

/// One that was given up lives, and not as a node that only waits: the log of the cluster says it, where people look.
async fn tell_of_lost(shared: &Shared, spec: &NodeSpec, theirs: &Tag, mine: &Tag) {
    let message = format!(
        "{} was given up, and lives: it belongs to the foundation with tag {theirs}, this one has tag {mine}; they do not mix. To bring \
         it here: stop its agent, and on its data folder, which is put aside then: hirsel join {} --token T",
        spec.name, shared.config.advertise
    );
    warn!("{message}");
    let event = NewEvent {
        kind: EventKind::Happened,
        subject: spec.name.to_string(),
        message,
        cause: Cause::None,
        rejected: Vec::new(),
    };
    let (at, by) = (shared.world.clock.wall(), shared.me.name.to_string());
    let entry = Entry { at, by, if_index: None, command: Command::Note { events: vec![event] } };
    if let Err(error) = shared.control.propose(entry, ANSWER_WITHIN).await {
        debug!(%error, "not noted that one that was given up lives");
    }
}

#[cfg(test)]
mod tests {
    use hirsel_model::control::LeftNode;

    use super::*;
    use crate::testing::node_spec;

    #[test]
    fn who_is_strange_is_told_once_for_each_foundation_that_this_node_is_of() {
        let (mut told, first) = (Told::default(), Tag::default());
        let (one, other) = (first.next(1), first.next(2));
        assert!(!told.is_news(NodeId(1), &first, &first));
        assert!(told.is_news(NodeId(1), &first, &one));
        assert!(!told.is_news(NodeId(1), &first, &one));
        // This side was recovered meanwhile.
        assert!(told.is_news(NodeId(1), &other, &one));
        assert!(!told.is_news(NodeId(1), &other, &one));
        assert!(told.is_news(NodeId(2), &other, &one));
    }

    #[test]
    fn only_who_was_given_up_lately_and_whose_address_is_free_is_asked() {
        let now = WallTime(10 * GIVEN_UP_FOR_MS);
        let mut state = ControlState::default();
        let spec = |id: u64| NodeSpec { addr: ([10, 0, 0, id as u8], 7400).into(), ..node_spec(id) };
        let left = |id: u64, at| LeftNode { id: NodeId(id), at, spec: spec(id) };
        state.left = [left(1, WallTime(0)), left(2, now), left(3, now)].into();
        state.spec.nodes.insert(NodeId(9), spec(3));
        assert!(given_up(&state, now).is_empty(), "nobody is given up before a recovery");
        state.cluster.tag = Tag::default().next(1);
        let asked: Vec<NodeId> = given_up(&state, now).into_iter().map(|(id, _)| id).collect();
        assert_eq!(asked, [NodeId(2)]);
    }
}

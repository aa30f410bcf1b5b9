//! What a backup becomes where it is restored: the beginning of another foundation, with one node that nobody knew before.
//!
//! It stays the same cluster: its id, its authority, its secrets and its past are in the backup, and whoever knows the cluster goes on
//! knowing it. What tells it from the one that the backup was made of is the tag, as after a recovery; that one may still exist
//! somewhere, and must not be taken for this one. So the nodes of the past are no members here (their keys open nothing), no token of
//! the past is good, and no number is used again that the past may have given out since the backup was made. Nor is anything exclusive
//! started before somebody says that the nodes of the past are off.

use super::limits::LEFT_MAX;
use super::recover::estrange;
use super::{ControlState, LeftNode, record};
use crate::feature;
use crate::id::{Generation, Incarnation, NodeId};
use crate::spec::{Availability, NodeSpec};
use crate::storage::StorageTable;
use crate::tag::Tag;
use crate::time::WallTime;

/// The past may have started so many instances after the backup: three a second for a year. Their numbers fence what they do.
const INSTANCES_LEFT_OUT: u64 = 100_000_000;
/// The past may have adopted so many plans after the backup: three a second for a year.
const PLANS_LEFT_OUT: u64 = 100_000_000;
/// The past may have admitted so many nodes after the backup.
const NODES_LEFT_OUT: u64 = 1_000_000;
/// The past may have drawn so many keys of the object store after the backup: what is stored names the one that it is encrypted with.
const KEYS_LEFT_OUT: u64 = 1_000_000;

/// Who begins the new foundation.
#[derive(Clone, Debug)]
pub struct Founder {
    /// The node, as it presents itself.
    pub node: NodeSpec,
    /// Of the new foundation: the one after that of the backup.
    pub tag: Tag,
    /// When it is restored.
    pub at: WallTime,
    /// Who asked for it.
    pub by: String,
    /// When the backup was made, in words.
    pub made: String,
}

/// The number that whoever restores `state` gets.
pub fn next_node(state: &ControlState) -> NodeId {
    NodeId(state.next_node.0.max(1).saturating_add(NODES_LEFT_OUT))
}

/// The state that a backup of `state` begins again with, whose only member and voter is the founder, as [`next_node`].
pub fn restored(mut state: ControlState, founder: Founder) -> ControlState {
    let Founder { node, tag, at, by, made } = founder;
    let me = next_node(&state);
    let name = node.name.clone();
    let past = state.spec.nodes.iter().map(|(id, spec)| (*id, spec.name.clone())).collect();
    for (id, spec) in std::mem::take(&mut state.spec.nodes) {
        state.left.push_back(LeftNode { id, at, spec });
    }
    while state.left.len() > LEFT_MAX {
        state.left.pop_front();
    }
    state.spec.nodes.insert(me, NodeSpec { incarnation: Incarnation(0), availability: Availability::Open, ..node });
    for role in state.spec.roles.values_mut() {
        role.pins.clear();
        role.moves.clear();
    }
    let plan = &mut state.plan;
    plan.voters = [me].into();
    plan.spares.clear();
    plan.verdicts.clear();
    plan.flaps.clear();
    plan.brake = false;
    // What was stored is on the nodes of the past. The version goes on, for they may come back with what they know.
    plan.storage = StorageTable { version: plan.storage.version, ..StorageTable::default() };
    plan.generation = Generation(plan.generation.0.saturating_add(PLANS_LEFT_OUT));
    estrange(plan, &state.spec, past);
    // Nothing exclusive starts before a person has said that those of the past are off.
    state.long.clear();
    plan.next_instance = plan.next_instance.saturating_add(INSTANCES_LEFT_OUT);
    state.next_node = me.next();
    state.tokens.clear();
    // Whoever has the backup must not read what clients say here.
    state.tickets.forget();
    state.access.last = state.access.last.saturating_add(KEYS_LEFT_OUT);
    let before = std::mem::replace(&mut state.cluster.tag, tag.clone());
    // The only member understands all of it, and whoever joins is asked.
    state.cluster.feature_level = state.cluster.feature_level.max(feature::BUILT);
    state.cluster.sealing.holders.insert(me);
    state.spec_index = state.applied;
    let message = format!(
        "the cluster was restored on {name} from a backup made {made}, with tag {tag} (before: {before}); its nodes join anew"
    );
    record::happened(&mut state, at, &by, &name, &message);
    state
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::samples::{cluster, instance, place};
    use crate::control::{Command, Entry, TokenGrants, TokenRecord};
    use crate::plan::InstanceAssignment;
    use crate::sealing::{Haste, due};

    #[test]
    fn a_restored_cluster_keeps_what_is_wanted_and_trusts_nobody_of_the_past() {
        let mut state = cluster(3);
        state.plan.voters = (1..=3).map(NodeId).collect();
        state.plan.instances.insert(instance("shop/web/6"), place(1, 1));
        state.plan.instances.insert(instance("shop/one/5"), InstanceAssignment { exclusive: true, ..place(2, 1) });
        state.plan.next_instance = 7;
        let command = Command::LongGrant { node: NodeId(2), incarnation: Incarnation(1), length_ms: 15_000 };
        state.apply(state.applied.next(), Entry { at: WallTime(1), by: String::new(), if_index: None, command });
        state.cluster.sealing.key = "00000000000000aa".into();
        state.cluster.sealing.holders = state.plan.voters.clone();
        let expires_at = WallTime(1 << 50);
        let secret_hash = vec![7; 32];
        let token =
            TokenRecord { secret_hash, grants: TokenGrants::Admin, expires_at, uses_left: None, revoked: false };
        state.tokens.insert("t".into(), token);
        let before = state.clone();
        let node = NodeSpec { name: "new".parse().expect("a name"), ..before.spec.nodes[&NodeId(1)].clone() };
        let tag = Tag::default().next(5);
        let founder = Founder { node, tag: tag.clone(), at: WallTime(9), by: "admin".into(), made: "yesterday".into() };
        let after = restored(state, founder);
        let me = next_node(&before);
        assert!(me.0 > before.next_node.0 + 1_000 && after.next_node > me);
        assert_eq!(after.spec.nodes.keys().copied().collect::<Vec<_>>(), [me]);
        assert_eq!((after.plan.voters.clone(), after.left.len(), after.tokens.len()), ([me].into(), 3, 0));
        assert_eq!(
            (&after.cluster.id, &after.cluster.ca, &after.cluster.tag),
            (&before.cluster.id, &before.cluster.ca, &tag)
        );
        assert_eq!((&after.spec.apps, &after.secrets), (&before.spec.apps, &before.secrets));
        assert!(after.plan.next_instance > 7 + 1_000 && after.plan.generation > before.plan.generation);
        let estranged = &after.plan.estranged;
        assert_eq!((estranged.names().as_str(), estranged.services.len()), ("n1, n2, n3", 1));
        assert!(!after.plan.instances.contains_key(&instance("shop/one/5")), "it may act where the past goes on");
        assert_eq!((before.long.len(), after.long.len()), (1, 0), "until a person has said that the past is off");
        let last = after.log.events.back().expect("an event");
        assert!(last.message.contains("restored on new from a backup made yesterday"), "{}", last.message);
        // Everybody of the past held the key that seals: it is replaced at once.
        assert_eq!(due(&after).0, Haste::Now);
    }
}

//! `recover`: what survived the loss of a majority, who has the most of it, and what speaks against going on without the others.

use std::collections::BTreeSet;

use hirsel_model::{NodeId, Tag};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::recovery::{Testimony, hears_leader};

/// What survived, and what a recovery would make of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Recovery {
    /// Every node, and what it says.
    pub survivors: Vec<Survivor>,
    /// The most advanced survivor: the cluster would go on with what it has.
    pub from: Option<String>,
    /// Nodes that would be given up.
    pub lost: Vec<String>,
    /// Nodes that do not answer and were not named as lost.
    pub silent: Vec<String>,
    /// What may be lost, in words.
    pub may_be_lost: String,
    /// What becomes of the metadata of objects, in words; none where they have a leader, or there are none.
    pub objects: Option<String>,
    /// What becomes of secrets and the authority, in words.
    pub sealing_key: String,
    /// Exclusive services: the lost nodes may go on running them, so unless they are off nothing of them is started.
    pub exclusive: Vec<String>,
    /// Tag of the present foundation.
    pub tag: String,
    /// Tag of the new one, once it has begun.
    pub new_tag: Option<String>,
    /// Why it is refused, unless it is forced.
    pub refusals: Vec<String>,
    /// Why it is refused in any case.
    pub never: Vec<String>,
    /// The latest term any survivor voted in.
    pub term: u64,
    #[serde(skip)]
    #[schema(ignore)]
    pub(crate) from_id: Option<NodeId>,
    #[serde(skip)]
    #[schema(ignore)]
    pub(crate) lost_ids: BTreeSet<NodeId>,
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Survivor {
    /// Its name.
    pub node: String,
    /// Whether it answers.
    pub answers: bool,
    /// Why it does not.
    pub error: Option<String>,
    /// Tag of its foundation.
    pub tag: Option<String>,
    /// Term of the last entry that it has.
    pub term: u64,
    /// Index of the last entry that it has.
    pub index: u64,
    /// How far it knows the log to be committed.
    pub committed: u64,
    /// Whether it votes.
    pub votes: bool,
    /// Whether it hears a leader.
    pub hears_leader: bool,
    /// How long ago it heard one.
    pub stale_ms: u64,
    /// Whether it holds the sealing key.
    pub sealing_key: bool,
    /// Why its log does not work.
    pub stopped: Option<String>,
    #[serde(skip)]
    #[schema(ignore)]
    said: Option<(u64, BTreeSet<NodeId>)>,
}

impl Survivor {
    /// A node, and what it said or why it said nothing.
    pub(crate) fn new(node: String, said: Result<Testimony, String>) -> Self {
        match said {
            Err(error) => Self { node, error: Some(error), ..Self::default() },
            Ok(said) => Self {
                node,
                answers: true,
                error: None,
                tag: Some(said.tag.to_string()),
                term: said.best.0,
                index: said.best.1,
                committed: said.committed.map_or(0, |(_, index)| index),
                votes: said.votes,
                hears_leader: hears_leader(said.hears, said.stale_ms),
                stale_ms: said.stale_ms,
                sealing_key: said.sealing_key,
                stopped: said.stopped,
                said: Some((said.term, said.voters)),
            },
        }
    }

    /// One line.
    pub fn in_words(&self) -> String {
        let Self { node, index, term, .. } = self;
        match &self.error {
            Some(error) => format!("{node} does not answer: {error}"),
            None if self.hears_leader => format!("{node} hears a leader; it has entry {index} of term {term}"),
            None => {
                format!("{node} has entry {index} of term {term} and heard no leader for {} s", self.stale_ms / 1000)
            }
        }
    }
}

/// What can be made of what the nodes said, if `lost` are given up.
pub(crate) fn judge(nodes: Vec<(NodeId, Survivor)>, lost: &[String], tag: &Tag) -> Recovery {
    let named = |survivor: &Survivor| lost.contains(&survivor.node);
    let survivors = nodes.iter().map(|(_, survivor)| survivor.clone()).collect();
    let mut recovery = Recovery { survivors, lost: lost.to_vec(), tag: tag.to_string(), ..Recovery::default() };
    let answering = || nodes.iter().filter(|(_, survivor)| survivor.answers);
    for (_, survivor) in answering().filter(|(_, survivor)| survivor.hears_leader) {
        recovery.never.push(format!("{} hears a leader: the cluster works there", survivor.node));
    }
    for (_, survivor) in answering() {
        if survivor.tag.as_deref() != Some(recovery.tag.as_str()) {
            let theirs = survivor.tag.clone().unwrap_or_default();
            recovery.never.push(format!("{} has the tag {theirs}, not {tag}", survivor.node));
        }
        if named(survivor) {
            recovery.refusals.push(format!("{} answers, so it is not lost; stop its agent first", survivor.node));
        }
    }
    for (node, survivor) in &nodes {
        let silent = !survivor.answers && !named(survivor);
        if silent {
            recovery.silent.push(survivor.node.clone());
        }
        // Nobody who is not told of the new foundation may be a member of it.
        if silent || named(survivor) {
            recovery.lost_ids.insert(*node);
        }
    }
    if let Some(silent) = recovery.silent.first() {
        recovery.refusals.push(format!("{silent} does not answer and is not named by --lost"));
    }
    let stays = || answering().filter(|(_, survivor)| !named(survivor));
    let voters: BTreeSet<NodeId> =
        stays().filter_map(|(_, survivor)| survivor.said.as_ref()).flat_map(|(_, voters)| voters).copied().collect();
    let voting = stays().filter(|(node, survivor)| voters.contains(node) && survivor.stopped.is_none()).count();
    if !voters.is_empty() && voting > voters.len() / 2 {
        recovery.refusals.push(format!(
            "{voting} of {} voters answer: they are a majority, and elect a leader by themselves",
            voters.len()
        ));
    }
    recovery.term =
        stays().filter_map(|(_, survivor)| survivor.said.as_ref()).map(|(term, _)| *term).max().unwrap_or(0);
    let best = stays()
        .max_by_key(|(node, survivor)| (survivor.term, survivor.index, survivor.votes, std::cmp::Reverse(*node)));
    let Some((from, best)) = best.filter(|(_, best)| best.index > 0) else {
        recovery.never.push("no survivor has anything to go on with; restore a backup of the data folder".into());
        return recovery;
    };
    recovery.from = Some(best.node.clone());
    recovery.from_id = Some(*from);
    recovery.may_be_lost = format!(
        "changes after entry {} of term {} that only the lost nodes have, and that were confirmed by them in the moments before",
        best.index, best.term
    );
    let holders: Vec<&str> = stays().filter(|(_, it)| it.sealing_key).map(|(_, it)| it.node.as_str()).collect();
    recovery.sealing_key = match holders.is_empty() {
        false => format!("the sealing key survives on {}", holders.join(", ")),
        true => "no survivor holds the sealing key: no node can join and no certificate be renewed with the present authority; \
                 make a new cluster and apply the manifests there before certificates end (30 days)"
            .into(),
    };
    recovery
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64, said: Option<(u64, u64)>) -> (NodeId, Survivor) {
        let said = said.map(|best| Testimony {
            best,
            term: 9,
            votes: id <= 3,
            voters: (1..=3).map(NodeId).collect(),
            stale_ms: 60_000,
            sealing_key: id == 3,
            ..Testimony::default()
        });
        (NodeId(id), Survivor::new(format!("n{id}"), said.ok_or_else(|| "silent".to_string())))
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_most_advanced_survivor_is_taken_by_term_before_index() {
        let nodes =
            vec![node(1, None), node(2, None), node(3, Some((7, 90))), node(4, Some((8, 80))), node(5, Some((8, 79)))];
        let plan = judge(nodes, &names(&["n1", "n2"]), &Tag::default());
        assert_eq!((plan.from.as_deref(), plan.from_id, plan.term), (Some("n4"), Some(NodeId(4)), 9));
        assert_eq!(plan.survivors.iter().filter(|survivor| survivor.answers).count(), 3);
        assert_eq!(plan.lost_ids, [NodeId(1), NodeId(2)].into());
        assert!(plan.refusals.is_empty() && plan.never.is_empty(), "{plan:?}");
        assert!(plan.sealing_key.contains("n3") && plan.may_be_lost.contains("entry 80 of term 8"));
    }

    #[test]
    fn what_is_not_lost_is_not_given_up() {
        let nodes = || vec![node(1, None), node(2, None), node(3, Some((7, 90))), node(4, Some((7, 90)))];
        let plan = judge(nodes(), &names(&["n1"]), &Tag::default());
        assert!(plan.refusals[0].contains("n2 does not answer"), "{plan:?}");
        let plan = judge(nodes(), &names(&["n1", "n2", "n4"]), &Tag::default());
        assert!(plan.refusals[0].contains("n4 answers"), "{plan:?}");
        let mut heard = nodes();
        heard[3].1.hears_leader = true;
        assert!(judge(heard, &names(&["n1", "n2"]), &Tag::default()).never[0].contains("n4 hears a leader"));
        let majority = vec![node(1, None), node(2, Some((7, 90))), node(3, Some((7, 90)))];
        assert!(judge(majority, &names(&["n1"]), &Tag::default()).refusals[0].contains("majority"));
        let other = judge(nodes(), &names(&["n1", "n2"]), &Tag::default().next(3));
        assert!(other.never[0].contains("n3 has the tag 0"), "{other:?}");
    }
}

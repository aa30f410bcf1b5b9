//! A metadata group that lost its majority for good: what is left of it, and how it goes on.
//!
//! Raft cannot go on then, and whether the others are really lost is for a person to say. It is said by giving nodes up
//! (`hirsel recover --lost`) or by forgetting them (`hirsel forget`): who is no member any more is let in by nobody, and its number
//! is never given again. When so few of those who vote are members that no majority can ever be, and each of these has said what it has,
//! the newest log of what is left goes on, under a tag of its own that is in each message and on each disk ([`Foundation`]).
//! Of the former foundation nobody can lead any more, so there are never two groups.
//!
//! All of it is looked at again and again, from what is: nothing here is an event.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::id::NodeId;
use crate::spec::is_default;
use crate::tag::Tag;

/// What one node has of the metadata group, told while it hears nobody lead it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Left {
    /// The foundation that its log belongs to.
    #[serde(skip_serializing_if = "is_default")]
    pub tag: Tag,
    /// The newest term that it voted in.
    pub term: u64,
    /// Term and index of the last entry of its log.
    pub last: (u64, u64),
    /// Who votes, by its log; while that changes, who did and who will.
    pub voters: Vec<BTreeSet<NodeId>>,
}

/// To which foundation of the metadata group a node belongs, and what it has of that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Belongs {
    /// The foundation.
    #[serde(skip_serializing_if = "is_default")]
    pub tag: Tag,
    /// What it has, while it hears nobody lead the group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<Left>,
    /// Whether it hears somebody lead the group, or leads it.
    #[serde(skip_serializing_if = "is_default")]
    pub led: bool,
}

/// What is left of a group that nobody leads, of what nodes that are heard tell. Who was taken out of the group while it was off hears nobody lead,
/// and has an old log and old voters, some of whom may have been forgotten: where others hear somebody lead the same foundation or a newer one,
/// that is no news.
pub fn leaderless<'a>(told: impl Iterator<Item = (NodeId, &'a Belongs)> + Clone) -> BTreeMap<NodeId, &'a Left> {
    let led = told.clone().filter(|(_, group)| group.led).map(|(_, group)| &group.tag).max();
    let left = told.filter_map(|(node, group)| Some((node, group.left.as_ref()?)));
    left.filter(|(_, left)| led.is_none_or(|led| left.tag > *led)).collect()
}

/// How the metadata group goes on after a majority of it was lost for good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Foundation {
    /// What its messages and disks say.
    pub tag: Tag,
    /// The foundation whose log it goes on with.
    pub after: Tag,
    /// The node that begins it, as its only voter.
    pub from: NodeId,
    /// Term and index of the last entry of that node's log.
    pub at: (u64, u64),
    /// Nobody who is left voted in a later term.
    pub above: u64,
    /// Whether it has begun: from then on everybody belongs to it. Before that nobody gives up anything for it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stands: bool,
}

/// What becomes of a metadata group that nobody leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prospect {
    /// Enough of those who vote are members: they elect a leader, once enough of these, which are not heard, are back.
    Elects {
        /// Voters that have not said what they have.
        silent: BTreeSet<NodeId>,
    },
    /// Too few of those who vote are members, and some of them have not said what they have.
    Waits {
        /// Voters that are no members any more.
        gone: BTreeSet<NodeId>,
        /// Voters that are, and have not said what they have.
        silent: BTreeSet<NodeId>,
    },
    /// It goes on with what one node has.
    GoesOn {
        /// Voters that are no members any more.
        gone: BTreeSet<NodeId>,
        /// How; its tag is still that of the foundation before.
        with: Foundation,
    },
}

/// What becomes of a group of which this is left ([`leaderless`]), on nodes that are heard; none where nothing is.
pub fn prospect(is_member: impl Fn(NodeId) -> bool, left: &BTreeMap<NodeId, &Left>) -> Option<Prospect> {
    let here = || left.iter().filter(|(node, _)| is_member(**node));
    let tag = here().map(|(_, left)| &left.tag).max()?;
    let of = || here().filter(|(_, left)| left.tag == *tag);
    let votes = |node: &NodeId, left: &Left| left.voters.iter().any(|voters| voters.contains(node));
    let (from, most) = of().max_by_key(|(node, left)| (left.last, votes(node, left), Reverse(**node)))?;
    let all: BTreeSet<NodeId> = most.voters.iter().flatten().copied().collect();
    let (members, gone): (BTreeSet<NodeId>, BTreeSet<NodeId>) = all.into_iter().partition(|node| is_member(*node));
    let silent: BTreeSet<NodeId> =
        members.into_iter().filter(|node| left.get(node).is_none_or(|left| left.tag != *tag)).collect();
    let no_majority = |voters: &BTreeSet<NodeId>| {
        voters.iter().filter(|node| is_member(**node)).count() <= voters.len() / 2 && !voters.is_empty()
    };
    if !most.voters.iter().any(no_majority) {
        return Some(Prospect::Elects { silent });
    }
    if !silent.is_empty() {
        return Some(Prospect::Waits { gone, silent });
    }
    let above = of().map(|(_, left)| left.term).max().unwrap_or_default();
    let with =
        Foundation { tag: tag.clone(), after: tag.clone(), from: *from, at: most.last, above, ..Foundation::default() };
    Some(Prospect::GoesOn { gone, with })
}

impl Foundation {
    /// The foundation that the table has next: `heard` is to which one each node says that it belongs, `left` what they have left of it. `number` is
    /// drawn for another one.
    pub fn next(
        before: Option<&Self>,
        is_member: impl Fn(NodeId) -> bool,
        heard: &BTreeMap<NodeId, &Tag>,
        left: &BTreeMap<NodeId, &Left>,
        number: u64,
    ) -> Option<Self> {
        if let Some(before) = before.filter(|it| !it.stands && heard.get(&it.from) == Some(&&it.tag)) {
            return Some(Self { stands: true, ..before.clone() });
        }
        let Some(Prospect::GoesOn { with, .. }) = prospect(&is_member, left) else { return before.cloned() };
        // Whoever began it may lead it, and has not reached the others yet.
        let is_over = |it: &Self| !is_member(it.from) || left.get(&it.from).is_some_and(|left| left.tag == it.tag);
        let is_due = |it: &Self| match it.stands {
            true => with.after == it.tag && is_over(it),
            false => !is_member(it.from),
        };
        if !before.is_none_or(is_due) {
            return before.cloned();
        }
        let newest = before.map_or(&with.after, |it| (&it.tag).max(&with.after));
        Some(Self { tag: newest.next(number), ..with })
    }

    /// What may be lost, for people.
    pub fn may_be_lost(&self) -> String {
        let (term, index) = self.at;
        format!("changes of objects after entry {index} of term {term} that only the lost nodes have")
    }
}

impl Prospect {
    /// For people.
    pub fn in_words(&self, name: impl Fn(NodeId) -> String) -> String {
        let names = |nodes: &BTreeSet<NodeId>| nodes.iter().map(|node| name(*node)).collect::<Vec<_>>().join(", ");
        match self {
            Self::Elects { silent } if silent.is_empty() => {
                "those who vote over the metadata of objects have not elected a leader yet".into()
            }
            Self::Elects { silent } => format!(
                "nobody leads the metadata of objects: {} of those who vote are not heard; bring them back, or, each that is lost for good: \
                 hirsel forget NODE",
                names(silent)
            ),
            Self::Waits { gone, silent } => format!(
                "the metadata of objects lost their majority with {}: they go on when {} said what is there, or was given up: hirsel forget NODE",
                names(gone),
                names(silent)
            ),
            Self::GoesOn { gone, with } => format!(
                "the metadata of objects lost their majority with {}: they go on with what {} has; may be lost: {}",
                names(gone),
                name(with.from),
                with.may_be_lost()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(nodes: &[u64]) -> BTreeSet<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    /// A node that has the log up to there, with voters 1 to 5.
    fn has(term: u64, index: u64) -> Left {
        Left { term: term + 1, last: (term, index), voters: vec![set(&[1, 2, 3, 4, 5])], ..Left::default() }
    }

    fn seen(members: &[u64], left: &[(u64, Left)]) -> Option<Prospect> {
        let left = left.iter().map(|(node, left)| (NodeId(*node), left)).collect();
        prospect(|node| members.contains(&node.0), &left)
    }

    #[test]
    fn who_has_the_newest_log_goes_on_once_a_majority_is_given_up_and_all_others_have_spoken() {
        let all = [1, 2, 3, 4, 5, 6, 7];
        assert_eq!(seen(&all, &[]), None);
        let two = [(4, has(7, 90)), (5, has(8, 80))];
        assert_eq!(seen(&all, &two), Some(Prospect::Elects { silent: set(&[1, 2, 3]) }));
        assert_eq!(seen(&[3, 4, 5, 6, 7], &two), Some(Prospect::Elects { silent: set(&[3]) }));
        assert_eq!(seen(&[4, 5, 6, 7], &two[..1]), Some(Prospect::Waits { gone: set(&[1, 2, 3]), silent: set(&[5]) }));
        let Some(Prospect::GoesOn { gone, with }) = seen(&[4, 5, 6, 7], &two) else { panic!("it goes on") };
        assert_eq!((gone, with.from, with.at, with.above), (set(&[1, 2, 3]), NodeId(5), (8, 80), 9));
        // A spare that was not counted yet may have more.
        let three = [two[0].clone(), two[1].clone(), (6, has(8, 81))];
        let Some(Prospect::GoesOn { with, .. }) = seen(&[4, 5, 6, 7], &three) else { panic!("it goes on") };
        assert_eq!(with.from, NodeId(6));
    }

    #[test]
    fn while_voters_change_the_old_and_the_new_ones_need_a_majority() {
        let changing = Left { voters: vec![set(&[1, 2, 3]), set(&[3, 4, 5, 6, 7])], ..has(3, 9) };
        let left: Vec<(u64, Left)> = (3..=7).map(|node| (node, changing.clone())).collect();
        assert!(matches!(seen(&[2, 3, 4, 5, 6, 7], &left), Some(Prospect::Elects { .. })));
        assert!(matches!(seen(&[3, 4, 5, 6, 7], &left), Some(Prospect::GoesOn { .. })), "of 1, 2 and 3 one is left");
    }

    /// What the table has next, with nodes that belong to these foundations, and these that have something left.
    fn next(
        before: Option<&Foundation>,
        members: &[u64],
        heard: &[(u64, &Tag)],
        left: &[(u64, Left)],
    ) -> Option<Foundation> {
        let heard = heard.iter().map(|(node, tag)| (NodeId(*node), *tag)).collect();
        let left = left.iter().map(|(node, left)| (NodeId(*node), left)).collect();
        Foundation::next(before, |node| members.contains(&node.0), &heard, &left, 7)
    }

    #[test]
    fn a_foundation_is_named_once_stands_when_it_began_and_is_followed_by_the_next() {
        let members = [4, 5, 6, 7];
        let two = [(4, has(7, 90)), (5, has(8, 80))];
        assert_eq!(next(None, &members, &[], &two[..1]), None, "5 has not spoken");
        let first = next(None, &members, &[], &two).expect("it is decided");
        assert_eq!((first.tag.epoch, &first.after, first.from, first.stands), (1, &Tag::default(), NodeId(5), false));
        assert_eq!(next(Some(&first), &members, &[], &two).as_ref(), Some(&first), "decided once");
        assert_eq!(next(Some(&first), &members, &[(4, &first.tag)], &two).as_ref(), Some(&first), "5 was to begin it");
        let stands = next(Some(&first), &members, &[(5, &first.tag)], &two).expect("it began");
        assert_eq!(stands, Foundation { stands: true, ..first.clone() });
        // One that comes late with a log of the former foundation decides nothing.
        assert_eq!(next(Some(&stands), &members, &[], &two).as_ref(), Some(&stands));
        // Whoever was to begin it is lost before it did.
        let again = next(Some(&first), &[4, 6, 7], &[], &two[..1]).expect("another one does");
        assert_eq!((again.tag.epoch, again.after, again.from), (2, Tag::default(), NodeId(4)));
    }

    #[test]
    fn another_one_may_be_lost_too_but_not_while_whoever_began_it_may_lead_it() {
        let from = NodeId(6);
        let tag = Tag::default().next(3);
        let stands = Foundation { tag: tag.clone(), from, stands: true, ..Foundation::default() };
        let of_it = |node, voters: &[u64]| (node, Left { tag: tag.clone(), voters: vec![set(voters)], ..has(20, 100) });
        // 4 and 5 kept their logs, by which most voters are gone; 6 has not reached them yet, and leads.
        let waits = [of_it(4, &[1, 2, 3, 4, 5]), of_it(5, &[1, 2, 3, 4, 5])];
        assert_eq!(next(Some(&stands), &[4, 5, 6, 7], &[], &waits).as_ref(), Some(&stands));
        let second = next(Some(&stands), &[4, 5, 7], &[], &waits).expect("6 is lost");
        assert_eq!((second.tag.epoch, second.after, second.from), (2, tag.clone(), NodeId(4)));
        let later = [of_it(6, &[5, 6, 8])];
        let second = next(Some(&stands), &[4, 6, 7], &[], &later).expect("5 and 8 are lost");
        assert_eq!((second.tag.epoch, second.after, second.from), (2, tag.clone(), from));
    }

    #[test]
    fn people_are_told_who_is_missing_and_what_may_be_lost() {
        let words = |members: &[u64], left: &[(u64, Left)]| {
            seen(members, left).map(|it| it.in_words(|node| format!("n{node}"))).unwrap_or_default()
        };
        let two = [(4, has(7, 90)), (5, has(8, 80))];
        assert!(words(&[1, 2, 3, 4, 5], &two).contains("n1, n2, n3 of those who vote are not heard"));
        assert!(words(&[4, 5], &two[..1]).contains("go on when n5 said"));
        let on = words(&[4, 5], &two);
        assert!(on.contains("with what n5 has") && on.contains("after entry 80 of term 8"), "{on}");
    }
}

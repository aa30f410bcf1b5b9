//! What is seen of what is stored: what nodes counted on their disks, what whoever leads the metadata group counted there, and what follows.
//!
//! That everything is where it should be is said by audits only, and only while they cover the table as it is: see [`standing`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{StorageFacts, StorageTable, width};
use crate::id::NodeId;
use crate::spec::is_default;
use crate::time::WallTime;

/// An audit that is older says nothing any more: three of those that nobody asks for.
pub const AUDIT_GOOD_FOR: Duration = Duration::from_secs(30 * 60);

/// What an audit counted on one node: pieces (copies or shards) on its disk against what the metadata say, in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Audit {
    /// When it ended, in milliseconds since 1970; zero before the first.
    pub at_ms: u64,
    /// The version of the table that it went by.
    #[serde(skip_serializing_if = "is_default")]
    pub table: u64,
    /// Pieces that should be here.
    pub wanted: u64,
    /// Of these, pieces that are.
    pub there: u64,
    /// Pieces that are damaged, and are not counted as there.
    pub damaged: u64,
    /// Pieces that no node has room for: their class asks for more nodes than keep data. Counted by the first node of a partition.
    #[serde(skip_serializing_if = "is_default")]
    pub homeless: u64,
    /// Pieces here that should be elsewhere: they were kept when their own node was away, or their partition moved.
    pub elsewhere: u64,
    /// Pieces here that nobody could name any more.
    pub unknown: u64,
    /// Pieces here whose writing is under way.
    pub open: u64,
    /// Nodes that may be lost at once without losing the chunk that bears least, were all its pieces there; none while there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bears: Option<u8>,
}

impl Audit {
    /// Whether everything is here that should be.
    pub fn is_complete(&self) -> bool {
        self.at_ms > 0 && self.there == self.wanted
    }

    /// Both together, as old as the older one.
    pub fn and(self, other: Audit) -> Audit {
        Audit {
            at_ms: self.at_ms.min(other.at_ms),
            table: self.table.min(other.table),
            wanted: self.wanted + other.wanted,
            there: self.there + other.there,
            damaged: self.damaged + other.damaged,
            homeless: self.homeless + other.homeless,
            elsewhere: self.elsewhere + other.elsewhere,
            unknown: self.unknown + other.unknown,
            open: self.open + other.open,
            bears: [self.bears, other.bears].into_iter().flatten().min(),
        }
    }
}

/// What whoever leads the metadata group counted there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// The term in which it leads: of two that say this the later one is right.
    pub term: u64,
    /// Buckets.
    pub buckets: u64,
    /// Objects, to three digits, so that not each one is told.
    pub objects: u64,
    /// Bytes of all versions, to three digits.
    pub bytes: u64,
    /// Chunks that lack a piece somewhere, as far as they were counted.
    pub degraded: u64,
    /// Pieces that are to be made anew, as far as they were counted.
    pub repairs: u64,
    /// Pieces that were made anew since all was whole the last time, or since this node leads.
    pub repaired: u64,
    /// Why none could be made anew lately, for people.
    pub stuck: Option<String>,
    /// Chunks that are to be unlinked, as far as they were counted.
    pub condemned: u64,
    /// Widths of the partitions in which some chunk is.
    pub kept: BTreeSet<u8>,
    /// Nodes that the classes of the buckets ask for at most.
    pub widest: u8,
    /// Nodes that may be lost by the class of the bucket with objects that bears least; none while no bucket has any.
    pub bears: Option<u8>,
}

/// How what is stored is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// Audits counted every piece of the table as it is, and each was there.
    Healthy,
    /// Nothing is known to be missing, and no audit has said that nothing is.
    Unproven,
    /// Something is missing, and is made anew or waits for a node.
    Degraded,
}

/// How what is stored is, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// In a word.
    pub health: Health,
    /// Why it is not healthy; what weighs most first.
    pub because: Vec<String>,
    /// What the audits that count amount to; none before each node that keeps data has made one.
    pub audit: Option<Audit>,
    /// Nodes whose audit does not count: they are not heard, or it is not made yet, is too old, or went by an older table.
    pub unaudited: BTreeSet<NodeId>,
    /// Partitions that are on their way.
    pub moving: usize,
}

impl StorageTable {
    /// Nodes that pieces are looked for on, with the version that gave each something last. What is moving is nobody's to count.
    pub fn holders(&self) -> BTreeMap<NodeId, u64> {
        let mut holders = BTreeMap::new();
        for partition in self.partitions.values() {
            for node in partition.target() {
                let newest: &mut u64 = holders.entry(*node).or_default();
                *newest = (*newest).max(partition.table);
            }
        }
        holders
    }

    /// Partitions that are on their way.
    pub fn moving(&self) -> usize {
        self.partitions.values().filter(|partition| !partition.next.is_empty()).count()
    }
}

/// What follows from the table and from what nodes that are heard say. `name` is what people call a node.
pub fn standing(
    table: &StorageTable,
    heard: &BTreeMap<NodeId, &StorageFacts>,
    now: WallTime,
    name: impl Fn(NodeId) -> String,
) -> Standing {
    let mut holders = table.holders();
    // Of a width that no bucket uses nothing is anywhere, and who is lost for good may have nobody to take its place there.
    if let Some(totals) = totals(heard) {
        let used = table.partitions.iter().filter(|(number, _)| totals.kept.contains(&width(**number)));
        let used: BTreeSet<NodeId> = used.flat_map(|(_, partition)| partition.target()).copied().collect();
        holders.retain(|node, _| heard.contains_key(node) || used.contains(node));
    }
    let audit_of = |node: &NodeId| heard.get(node).map(|facts| facts.audit).filter(|audit| audit.at_ms > 0);
    let oldest = now.0.saturating_sub(u64::try_from(AUDIT_GOOD_FOR.as_millis()).unwrap_or(u64::MAX));
    let counts = |(node, newest): &(&NodeId, &u64)| {
        audit_of(node).is_some_and(|audit| audit.at_ms >= oldest && audit.table >= **newest)
    };
    let unaudited: BTreeSet<NodeId> = holders.iter().filter(|it| !counts(it)).map(|(node, _)| *node).collect();
    let audits: Vec<Audit> = holders.keys().filter_map(audit_of).collect();
    let audit = audits.iter().copied().reduce(Audit::and).filter(|_| audits.len() == holders.len());
    let sum = audits.into_iter().reduce(Audit::and).unwrap_or_default();
    let moving = table.moving();
    let names = |nodes: &mut dyn Iterator<Item = NodeId>| nodes.map(&name).collect::<Vec<_>>().join(", ");

    let mut wrong = Vec::new();
    let gone: Vec<NodeId> = holders.keys().copied().filter(|node| !heard.contains_key(node)).collect();
    if !gone.is_empty() {
        wrong.push(format!("not heard: {}, which should have pieces", names(&mut gone.iter().copied())));
    }
    for (node, facts) in heard {
        wrong.extend(facts.unable.as_ref().map(|why| format!("{}: {why}", name(*node))));
    }
    if let Some(totals) = totals(heard).filter(|totals| totals.repairs > 0) {
        let stuck = totals.stuck.as_ref().map(|why| format!("; the last try failed: {why}")).unwrap_or_default();
        wrong.push(format!(
            "{} of chunks that lack one wait to be made anew, {} done{stuck}",
            pieces(totals.repairs),
            totals.repaired
        ));
    }
    if sum.wanted > sum.there + sum.damaged {
        wrong.push(format!("the last audit missed {}", pieces(sum.wanted - sum.there - sum.damaged)));
    }
    if sum.damaged > 0 {
        wrong.push(format!("the last audit found {} damaged", pieces(sum.damaged)));
    }
    if sum.homeless > 0 {
        wrong.push(format!("{} have no node: fewer keep data than their class asks for", pieces(sum.homeless)));
    }
    let mut open = Vec::new();
    if moving > 0 {
        let s = if moving == 1 { "" } else { "s" };
        open.push(format!("{moving} partition{s} on the way to other nodes, where nothing is counted yet"));
    }
    let silent = unaudited.iter().copied().filter(|node| heard.contains_key(node));
    if silent.clone().next().is_some() {
        open.push(format!("no audit of the table as it is by {}", names(&mut silent.into_iter())));
    }
    let health = match (wrong.is_empty(), open.is_empty()) {
        (false, _) => Health::Degraded,
        (true, false) => Health::Unproven,
        (true, true) if holders.is_empty() => Health::Unproven,
        (true, true) => Health::Healthy,
    };
    wrong.extend(open);
    Standing { health, because: wrong, audit, unaudited, moving }
}

/// What the newest leader of the metadata group says, of those that are heard.
pub fn totals<'a>(heard: &BTreeMap<NodeId, &'a StorageFacts>) -> Option<&'a Totals> {
    heard.values().filter_map(|facts| facts.totals.as_deref()).max_by_key(|totals| totals.term)
}

/// Nodes that may be lost at once without losing anything of what is stored, were all nodes of the table there; none where nothing is. What audits
/// missed, or waits to be made anew, counts as one of them: nobody knows of which chunk it is.
pub fn bears(heard: &BTreeMap<NodeId, &StorageFacts>) -> Option<u8> {
    let totals = totals(heard);
    let audited = heard.values().filter_map(|facts| facts.audit.bears);
    let least = audited.chain(totals.and_then(|totals| totals.bears)).min()?;
    let lacks = heard.values().any(|facts| facts.audit.there < facts.audit.wanted);
    let waits = totals.is_some_and(|totals| totals.repairs > 0);
    Some(least.saturating_sub(u8::from(lacks || waits)))
}

/// To three digits, rounded down.
pub fn three_digits(number: u64) -> u64 {
    let mut scale = 1;
    while number / scale >= 1_000 {
        scale *= 10;
    }
    number / scale * scale
}

fn pieces(number: u64) -> String {
    if number == 1 { "1 piece".into() } else { format!("{number} pieces") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Partition, partition};

    const NOW: WallTime = WallTime(10_000_000);

    fn table() -> StorageTable {
        let partition = |table, next: &[u64]| Partition {
            nodes: [1, 2, 3].map(NodeId).to_vec(),
            next: next.iter().copied().map(NodeId).collect(),
            table,
        };
        let partitions = [(768, partition(3, &[])), (769, partition(5, &[]))].into();
        StorageTable { version: 5, partitions, voters: [1, 2, 3].map(NodeId).into(), ..StorageTable::default() }
    }

    fn facts(audit: Audit) -> StorageFacts {
        StorageFacts { bytes: 1 << 40, free: 9, audit, ..StorageFacts::default() }
    }

    fn sound() -> Audit {
        Audit { at_ms: NOW.0 - 1_000, table: 5, wanted: 7, there: 7, ..Audit::default() }
    }

    fn told(table: &StorageTable, audits: &[Audit]) -> (Health, Vec<String>) {
        let all: BTreeMap<NodeId, StorageFacts> = (1..).map(NodeId).zip(audits.iter().copied().map(facts)).collect();
        let heard = all.iter().map(|(node, facts)| (*node, facts)).collect();
        let standing = standing(table, &heard, NOW, |node| format!("n{node}"));
        (standing.health, standing.because)
    }

    #[test]
    fn healthy_is_said_by_audits_that_counted_every_piece_of_this_table() {
        assert_eq!(told(&table(), &[sound(); 3]), (Health::Healthy, vec![]));
        let unproven = |audit| told(&table(), &[sound(), sound(), audit]);
        let words = "no audit of the table as it is by n3";
        for audit in [Audit::default(), Audit { table: 4, ..sound() }, Audit { at_ms: NOW.0 - 31 * 60_000, ..sound() }]
        {
            assert_eq!(unproven(audit), (Health::Unproven, vec![words.into()]), "{audit:?}");
        }
        let mut moving = table();
        moving.partitions.get_mut(&768).expect("it is there").next = [1, 2, 4].map(NodeId).to_vec();
        let (health, because) = told(&moving, &[sound(); 3]);
        assert_eq!(health, Health::Degraded, "node 4 is not heard: {because:?}");
        let (health, because) = told(&moving, &[sound(); 4]);
        assert_eq!((health, because.len()), (Health::Unproven, 1), "{because:?}");
        assert_eq!(told(&StorageTable::default(), &[]).0, Health::Unproven);
    }

    #[test]
    fn what_is_missing_damaged_homeless_or_not_heard_is_said() {
        let with = |audit| told(&table(), &[sound(), sound(), audit]);
        let (health, because) = with(Audit { there: 4, damaged: 2, homeless: 3, ..sound() });
        assert_eq!(health, Health::Degraded);
        let expected = [
            "the last audit missed 1 piece",
            "the last audit found 2 pieces damaged",
            "3 pieces have no node: fewer keep data than their class asks for",
        ];
        assert_eq!(because, expected);
        let (health, because) = told(&table(), &[sound(), sound()]);
        assert_eq!((health, because), (Health::Degraded, vec!["not heard: n3, which should have pieces".into()]));
    }

    #[test]
    fn who_is_lost_and_has_a_place_only_where_nothing_is_lacks_nothing() {
        // Nobody takes its place among those of a width that no bucket uses.
        let mut table = table();
        let nodes = [1, 2, 3, 4].map(NodeId).to_vec();
        table.partitions.insert(partition(6, 0), Partition { nodes, next: Vec::new(), table: 5 });
        let mut all = [1, 2, 3].map(|_| facts(sound()));
        let mut health = |kept: &[u8]| {
            all[0].totals = Some(Box::new(Totals { kept: kept.iter().copied().collect(), ..Totals::default() }));
            let heard = (1..).map(NodeId).zip(&all).collect::<BTreeMap<_, _>>();
            standing(&table, &heard, NOW, |node| format!("n{node}")).health
        };
        assert_eq!((health(&[3]), health(&[]), health(&[3, 6])), (Health::Healthy, Health::Healthy, Health::Degraded));
    }

    #[test]
    fn of_two_who_lead_the_later_one_counts_and_what_waits_is_degraded() {
        let totals = |term, repairs| Some(Box::new(Totals { term, repairs, repaired: 4, ..Totals::default() }));
        let mut all = [1, 2, 3].map(|_| facts(sound()));
        all[0].totals = totals(7, 0);
        all[1].totals = totals(6, 9);
        let heard = || (1..).map(NodeId).zip(&all).collect::<BTreeMap<_, _>>();
        let name = |node: NodeId| format!("n{node}");
        assert_eq!(standing(&table(), &heard(), NOW, name).health, Health::Healthy);
        all[1].totals = totals(8, 9);
        let heard = (1..).map(NodeId).zip(&all).collect::<BTreeMap<_, _>>();
        let standing = standing(&table(), &heard, NOW, name);
        assert_eq!(standing.health, Health::Degraded);
        assert_eq!(standing.because, ["9 pieces of chunks that lack one wait to be made anew, 4 done"]);
        assert_eq!(bears(&heard), None, "nobody counted a chunk");
        assert_eq!(standing.audit.map(|audit| (audit.wanted, audit.there)), Some((21, 21)));
    }

    #[test]
    fn what_bears_least_is_what_all_bear_and_what_is_missing_counts_as_a_loss() {
        let bears = |audits: [Audit; 2], of_buckets: Option<u8>| {
            let totals = Some(Box::new(Totals { bears: of_buckets, ..Totals::default() }));
            let all = audits.map(|audit| StorageFacts { totals: totals.clone(), ..facts(audit) });
            bears(&(1..).map(NodeId).zip(&all).collect())
        };
        let with = |bears| Audit { bears: Some(bears), ..sound() };
        assert_eq!(bears([with(2), sound()], None), Some(2));
        assert_eq!(bears([with(2), with(0)], Some(1)), Some(0));
        assert_eq!(bears([sound(), sound()], Some(2)), Some(2));
        assert_eq!(bears([with(2), Audit { there: 6, ..with(2) }], None), Some(1));
    }

    #[test]
    fn numbers_are_told_to_three_digits() {
        assert_eq!([0, 999, 1_000, 1_234, 99_999, u64::MAX].map(three_digits)[..5], [0, 999, 1_000, 1_230, 99_900]);
        assert_eq!(three_digits(u64::MAX) / 10_u64.pow(17), 184);
    }
}

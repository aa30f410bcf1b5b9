//! Properties of the table, over thousands of random histories; and stories of a cluster that gets it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::table::{Host, MOVES_AT_ONCE, Shape, arrange, missing, voters, weight};
use crate::id::NodeId;
use crate::storage::{FLOORS, PARTITIONS, StorageTable, USUAL, WIDTHS, losses, partition, width};

mod stories;

/// What there is before a bucket asks for more.
const SHAPE: Shape<'static> =
    Shape { widths: &[WIDTHS[0], WIDTHS[1]], each: PARTITIONS, floors: &[FLOORS[0], FLOORS[1]] };
/// What there is once one did.
const ALL: Shape<'static> = Shape { widths: &WIDTHS, each: PARTITIONS, floors: &FLOORS };

fn host(id: u64, zone: usize) -> Host {
    let machine = Some([10, 0, 0, id as u8].into());
    Host { id: NodeId(id), weight: 512, zone, machine, takes: true, keeps: true, lives: true, goes: false }
}

fn hosts(nodes: u64, zones: usize) -> Vec<Host> {
    (1..=nodes).map(|id| host(id, id as usize % zones)).collect()
}

fn plain(before: &StorageTable, hosts: &[Host]) -> StorageTable {
    arrange(before, hosts, SHAPE, &BTreeMap::new(), false)
}

/// Everything that moves is reported complete.
fn complete(table: &StorageTable) -> BTreeMap<u16, u64> {
    table.partitions.iter().map(|(number, partition)| (*number, partition.table)).collect()
}

/// Arranges, and reports all moves complete, until nothing changes.
fn settled(table: StorageTable, hosts: &[Host]) -> StorageTable {
    settled_as(SHAPE, table, hosts)
}

fn settled_as(shape: Shape, mut table: StorageTable, hosts: &[Host]) -> StorageTable {
    for _ in 0..200 {
        let next = arrange(&table, hosts, shape, &complete(&table), false);
        if next == table {
            return table;
        }
        table = next;
    }
    panic!("it does not come to an end");
}

fn loads(table: &StorageTable, of: u8) -> BTreeMap<NodeId, usize> {
    let mut loads = BTreeMap::new();
    for (number, partition) in &table.partitions {
        for node in partition.target().iter().filter(|_| width(*number) == of) {
            *loads.entry(*node).or_default() += 1;
        }
    }
    loads
}

fn goes(hosts: &mut [Host], id: u64) {
    let gone = hosts.iter_mut().find(|host| host.id == NodeId(id)).expect("it is one of them");
    (gone.takes, gone.keeps, gone.lives) = (false, false, false);
}

/// Whatever happened, this holds of a table.
fn check(table: &StorageTable) {
    for (number, partition) in &table.partitions {
        for list in [&partition.nodes, &partition.next] {
            let distinct: BTreeSet<&NodeId> = list.iter().collect();
            assert_eq!(distinct.len(), list.len(), "a node is listed twice in {number}: {list:?}");
            assert!(list.len() <= usize::from(width(*number)));
        }
        assert!(!partition.nodes.is_empty() && partition.table <= table.version);
        assert!(partition.next.is_empty() || partition.next.len() >= partition.nodes.len(), "{partition:?}");
    }
}

#[test]
fn data_is_spread_evenly_over_equal_nodes_and_zones() {
    for (nodes, zones) in [(3, 3), (6, 3), (7, 7), (9, 3), (12, 4), (30, 3)] {
        let table = settled_as(ALL, StorageTable::default(), &hosts(nodes, zones));
        check(&table);
        for of in WIDTHS {
            let full = usize::from(of).min(nodes as usize);
            let loads = loads(&table, of);
            let even = full * usize::from(PARTITIONS) / nodes as usize;
            let (least, most) = (loads.values().min().expect("some"), loads.values().max().expect("some"));
            assert!(even - least <= 2 && most - even <= 2, "{nodes} nodes in {zones} zones: {loads:?}");
            for number in 0..PARTITIONS {
                let list = table.partitions[&partition(of, number)].target();
                let zone = |node: &NodeId| node.0 as usize % zones;
                let over: BTreeSet<usize> = list.iter().map(zone).collect();
                assert_eq!((list.len(), over.len()), (full, full.min(zones)), "{list:?}");
            }
        }
        assert!(missing(&table, ALL, nodes as usize).is_empty(), "more nodes there are not");
        let wider = WIDTHS.iter().filter(|of| u64::from(**of) > nodes).count();
        assert_eq!(missing(&table, ALL, nodes as usize + 1).len(), wider);
    }
}

#[test]
fn who_drains_with_nobody_to_take_its_place_leaves_it_empty_while_enough_stay() {
    let drain = |hosts: &mut [Host], id: u64| {
        let host = hosts.iter_mut().find(|host| host.id == NodeId(id)).expect("it is one of them");
        (host.takes, host.keeps, host.goes) = (false, false, true);
    };
    let lists = |table: &StorageTable, of| {
        let all = (0..PARTITIONS).map(|number| table.partitions[&partition(of, number)].target());
        all.map(|list| (list.len(), list.iter().any(|node| node.0 == 1))).collect::<BTreeSet<_>>()
    };
    for (nodes, of_three, of_six) in [
        (7, (3, false), (6, false)),
        (6, (3, false), (5, false)),
        (3, (2, false), (3, true)),
        (2, (2, true), (2, true)),
    ] {
        let mut hosts = hosts(nodes, 3);
        let table = settled(StorageTable::default(), &hosts);
        drain(&mut hosts, 1);
        let after = settled(table.clone(), &hosts);
        assert_eq!((lists(&after, 3), lists(&after, 6)), ([of_three].into(), [of_six].into()), "{nodes} nodes");
        // Where nothing is in them, one node is enough.
        let empty = Shape { floors: &[1, 1], ..SHAPE };
        let mut bare = table;
        for _ in 0..10 {
            bare = arrange(&bare, &hosts, empty, &complete(&bare), false);
        }
        assert!(!bare.holds(NodeId(1)), "{nodes} nodes");
        // It comes back, and with it its places.
        let back = settled(after, &self::hosts(nodes, 3));
        assert!(missing(&back, SHAPE, nodes as usize).is_empty(), "{nodes} nodes");
    }
}

#[test]
fn a_larger_disk_gets_more() {
    let mut hosts = hosts(8, 8);
    hosts[0].weight *= 2;
    let table = settled(StorageTable::default(), &hosts);
    let loads = loads(&table, 3);
    let others = (usize::from(PARTITIONS) * 3 - loads[&NodeId(1)]) / 7;
    assert!(loads[&NodeId(1)].abs_diff(2 * others) <= 3, "{loads:?}");
    assert_eq!((weight(1 << 40), weight((1 << 40) + (1 << 35)), weight(0)), (1024, 1024, 1));
}

#[test]
fn who_joins_gets_its_share_from_others_and_nothing_else_moves() {
    let (six, seven) = (hosts(6, 6), hosts(7, 7));
    let before = settled(StorageTable::default(), &six);
    let after = settled(before.clone(), &seven);
    check(&after);
    for of in WIDTHS.into_iter().take(USUAL) {
        let share = usize::from(PARTITIONS) * usize::from(of) / 7;
        let mut moved = 0;
        for number in 0..PARTITIONS {
            let [old, new] = [&before, &after].map(|table| table.partitions[&partition(of, number)].target());
            for (old, new) in old.iter().zip(new).filter(|(old, new)| old != new) {
                assert_eq!(*new, NodeId(7), "{old} gave its place to one that was there");
                moved += 1;
            }
        }
        assert!(moved <= share + 7, "{moved} places moved for a share of {share}");
        assert!(loads(&after, of)[&NodeId(7)] + 2 >= share);
    }
}

#[test]
fn who_is_gone_is_replaced_in_its_place_and_by_many() {
    let mut hosts = hosts(10, 10);
    let before = settled(StorageTable::default(), &hosts);
    goes(&mut hosts, 4);
    let after = plain(&before, &hosts);
    let mut heirs: BTreeMap<NodeId, usize> = BTreeMap::new();
    for (number, partition) in &after.partitions {
        let old = &before.partitions[number].nodes;
        assert_eq!(partition.nodes, *old, "it is where it was until the move is complete");
        for (old, new) in old.iter().zip(partition.target()) {
            assert_eq!(old == new, *old != NodeId(4));
            if old != new {
                *heirs.entry(*new).or_default() += 1;
            }
        }
    }
    assert!(heirs.len() >= 8 && heirs.values().all(|many| *many < 60), "one node pays for all: {heirs:?}");
    assert_eq!(plain(&after, &hosts), after, "nothing more happens until something is complete");
    // Another one is lost while the data moves to it.
    goes(&mut hosts, 9);
    let again = plain(&after, &hosts);
    for (number, partition) in &again.partitions {
        let earlier = &after.partitions[number];
        assert_eq!(partition.nodes, earlier.nodes);
        if !earlier.next.is_empty() {
            assert!(!partition.next.contains(&NodeId(9)));
            assert_eq!(partition.table > earlier.table, earlier.next.contains(&NodeId(9)));
        }
    }
    // What was complete for the table before is not for this one.
    let stale = complete(&after);
    let told = arrange(&again, &hosts, SHAPE, &stale, false);
    for (number, partition) in &told.partitions {
        let still = again.partitions[number].table > stale[number];
        assert_eq!(partition.next.is_empty(), !still || again.partitions[number].next.is_empty());
    }
    check(&told);
}

#[test]
fn partitions_of_eleven_come_beside_the_others_and_keep_nine_nodes_of_those_that_go() {
    let mut hosts = hosts(12, 4);
    let before = settled(StorageTable::default(), &hosts);
    let wide = settled_as(ALL, before.clone(), &hosts);
    check(&wide);
    assert!(
        before.partitions.iter().all(|(number, it)| wide.partitions[number] == *it),
        "what was there has not moved"
    );
    assert_eq!((before.losses(), wide.losses(), wide.has_width(11), before.has_width(11)), (2, 3, true, false));
    // One is lost: whoever has no place in a partition takes its place in it.
    goes(&mut hosts, 4);
    let after = settled_as(ALL, wide.clone(), &hosts);
    for number in (0..PARTITIONS).map(|number| partition(11, number)) {
        let [old, new] = [&wide, &after].map(|table| table.partitions[&number].target());
        assert!(new.len() == 11 && !new.contains(&NodeId(4)));
        assert!(old.iter().zip(new).all(|(old, new)| old == new || *old == NodeId(4)));
    }
    // Others drain one after another, with nobody to take their places.
    let least = |table: &StorageTable| table.partitions[&partition(11, 0)].nodes.len();
    let mut table = after;
    for (id, left) in [(1, 10), (2, 9), (3, 9)] {
        let host = hosts.iter_mut().find(|host| host.id == NodeId(id)).expect("it is one of them");
        (host.takes, host.keeps, host.goes) = (false, false, true);
        table = settled_as(ALL, table, &hosts);
        assert_eq!(least(&table), left, "nobody gives up the ninth shard");
    }
    assert!(table.holds(NodeId(3)));
}

#[test]
fn nothing_moves_while_the_brake_is_on() {
    let mut hosts = hosts(8, 4);
    let before = settled(StorageTable::default(), &hosts);
    (1..=5).for_each(|id| goes(&mut hosts, id));
    assert_eq!(arrange(&before, &hosts, SHAPE, &BTreeMap::new(), true), before);
    assert_ne!(plain(&before, &hosts), before);
}

#[test]
fn moves_for_balance_are_limited() {
    let before = settled(StorageTable::default(), &hosts(4, 4));
    let after = plain(&before, &hosts(8, 8));
    let moving = |of: u8| after.partitions.iter().filter(|(n, it)| width(**n) == of && !it.next.is_empty()).count();
    // Those that were on too few nodes get more at once.
    assert_eq!(moving(6), usize::from(PARTITIONS));
    assert_eq!(moving(3), MOVES_AT_ONCE);
}

#[test]
fn voters_are_enough_for_so_many_losses_where_there_are_nodes() {
    let none = BTreeSet::new();
    let of_two =
        [(0, 0), (1, 1), (2, 2), (3, 3), (4, 3), (5, 5), (6, 5), (40, 5)].map(|(nodes, many)| (2, nodes, many));
    for (losses, nodes, many) in of_two.into_iter().chain([(3, 6, 5), (3, 7, 7), (3, 8, 7), (3, 40, 7)]) {
        let hosts = hosts(nodes, 5);
        let first = voters(&none, &BTreeSet::new(), &hosts, losses);
        assert_eq!(first.len(), many);
        assert_eq!(voters(&first, &BTreeSet::from([first.clone()]), &hosts, losses), first);
    }
    let mut hosts = hosts(7, 7);
    let five = voters(&none, &BTreeSet::new(), &hosts, 2);
    let made = BTreeSet::from([five.clone()]);
    // Lost for a moment, with another one there: it is replaced. Without: its seat stays, until its data moves.
    hosts[0].lives = false;
    let swapped = voters(&five, &made, &hosts, 2);
    assert!(swapped.len() == 5 && !swapped.contains(&NodeId(1)) && swapped.intersection(&five).count() == 4);
    hosts.truncate(5);
    assert_eq!(voters(&five, &made, &hosts, 2), five);
    goes(&mut hosts, 1);
    assert_eq!(voters(&five, &made, &hosts, 2).len(), 3);
    // A change that is not made yet is waited for.
    let seven = self::hosts(7, 7);
    let three = BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)]);
    assert_eq!(voters(&three, &BTreeSet::new(), &seven, 2), three);
    assert_eq!(voters(&three, &BTreeSet::from([three.clone()]), &seven, 2).len(), 5);
}

/// What may happen to a cluster.
#[derive(Clone, Debug)]
enum Act {
    Join(usize, u64),
    Drain(prop::sample::Index),
    Lose(prop::sample::Index),
    /// Nodes that were lost are back, with what they had and still have a place for.
    Return,
    /// Moves of these partitions complete, as far as somebody is left to copy from.
    Complete(u16, u16),
    Brake(bool),
    All,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0..4_usize, 1..5_u64).prop_map(|(zone, size)| Act::Join(zone, size)),
        2 => any::<prop::sample::Index>().prop_map(Act::Drain),
        4 => any::<prop::sample::Index>().prop_map(Act::Lose),
        1 => Just(Act::Return),
        6 => (0..16_u16, 1..4_u16).prop_map(|(from, step)| Act::Complete(from, step)),
        1 => any::<bool>().prop_map(Act::Brake),
        3 => Just(Act::All),
    ];
    prop::collection::vec(act, 1..40)
}

/// Fewer partitions than a cluster has, so that more histories fit.
const SMALL: Shape<'static> = Shape { each: 8, ..SHAPE };

/// A cluster of which a few nodes are lost for good, never more at once than may be.
#[derive(Default)]
struct Town {
    hosts: Vec<Host>,
    table: StorageTable,
    /// Who has all that was written to each partition.
    holders: BTreeMap<u16, BTreeSet<NodeId>>,
    moved: BTreeMap<u16, u64>,
    brake: bool,
    /// Nodes that were lost since everything was at rest.
    lost: usize,
}

impl Town {
    fn act(&mut self, act: Act) {
        match act {
            Act::Join(zone, size) => {
                let id = self.hosts.len() as u64 + 1;
                self.hosts.push(Host { weight: size * 256, ..host(id, zone) });
            }
            Act::Drain(which) => {
                let open: Vec<usize> = (0..self.hosts.len()).filter(|at| self.hosts[*at].keeps).collect();
                // Somebody has to be left to take it.
                if open.len() > 6 {
                    let at = open[which.index(open.len())];
                    (self.hosts[at].takes, self.hosts[at].keeps) = (false, false);
                }
            }
            Act::Lose(which) => {
                let live: Vec<usize> = (0..self.hosts.len()).filter(|at| self.hosts[*at].lives).collect();
                if self.lost < losses(3) && live.len() > 6 {
                    self.lost += 1;
                    let at = live[which.index(live.len())];
                    let id = self.hosts[at].id;
                    goes(&mut self.hosts, id.0);
                    for holders in self.holders.values_mut() {
                        holders.remove(&id);
                    }
                }
            }
            Act::Return => {
                for host in self.hosts.iter_mut().filter(|host| !host.lives) {
                    (host.lives, host.takes, host.keeps) = (true, true, true);
                    let has = |number: &u16| self.table.partitions[number].target().contains(&host.id);
                    for (_, holders) in self.holders.iter_mut().filter(|(number, _)| has(number)) {
                        holders.insert(host.id);
                    }
                }
            }
            Act::Complete(from, step) => self.complete(|number| number % 16 >= from && number % step == 0),
            Act::Brake(brake) => self.brake = brake,
            Act::All => self.complete(|_| true),
        }
        self.arrange();
    }

    /// Whether every node that is listed has all that it should.
    fn is_at_rest(&self) -> bool {
        let whole = |(number, it): (&u16, &crate::storage::Partition)| {
            it.next.is_empty() && it.nodes.iter().all(|node| self.holders[number].contains(node))
        };
        self.table.partitions.iter().all(whole)
    }

    fn complete(&mut self, which: impl Fn(u16) -> bool) {
        for (number, partition) in self.table.partitions.iter().filter(|(number, _)| which(**number)) {
            let lives = |node: &&NodeId| self.hosts.iter().any(|host| host.id == **node && host.lives);
            if !partition.next.is_empty() && partition.next.iter().all(|node| lives(&node)) {
                self.moved.insert(*number, partition.table);
                self.holders.entry(*number).or_default().extend(&partition.next);
            }
        }
    }

    fn arrange(&mut self) {
        let before = self.table.clone();
        self.table = arrange(&before, &self.hosts, SMALL, &self.moved, self.brake);
        assert_eq!(
            arrange(&self.table, &self.hosts, SMALL, &self.moved, self.brake),
            self.table,
            "arranging again changes nothing"
        );
        check(&self.table);
        assert!(self.table.version - before.version <= 1);
        for (number, partition) in &self.table.partitions {
            let Some(earlier) = before.partitions.get(number) else {
                self.holders.insert(*number, partition.nodes.iter().copied().collect());
                continue;
            };
            let complete = self.moved.get(number).is_some_and(|moved| *moved >= earlier.table);
            if complete && !earlier.next.is_empty() {
                assert_eq!(partition.nodes, earlier.next, "what is current was next, and complete");
                let lists: BTreeSet<NodeId> = partition.nodes.iter().chain(&partition.next).copied().collect();
                self.holders.entry(*number).or_default().retain(|node| lists.contains(node));
                continue;
            }
            assert_eq!(partition.nodes, earlier.nodes, "{number} is elsewhere, and nobody said so");
            if !earlier.next.is_empty() {
                // It moves, and is not complete: who lives keeps its place in what is next.
                for (old, new) in earlier.next.iter().zip(&partition.next) {
                    let keeps = self.hosts.iter().any(|host| host.id == *old && host.keeps);
                    assert!(!keeps || old == new, "{number} is touched while it moves");
                }
                assert_eq!(earlier.next.len(), partition.next.len());
            }
        }
        for (number, holders) in &self.holders {
            assert!(!holders.is_empty(), "all that was in {number} is lost: {:?}", self.table.partitions[number]);
        }
        if self.is_at_rest() {
            self.lost = 0;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_no_partition_loses_all_and_the_table_comes_to_rest(acts in acts()) {
        let mut town = Town { hosts: hosts(7, 4), ..Town::default() };
        town.arrange();
        for act in acts {
            town.act(act);
        }
        town.brake = false;
        for _ in 0..200 {
            let before = town.table.clone();
            town.act(Act::All);
            if town.table == before {
                break;
            }
        }
        // At rest: everything is on as many nodes as there can be, and nothing on who is gone.
        let takes = town.hosts.iter().filter(|host| host.takes).count();
        let enough = |number: u16| usize::from(width(number)) <= takes;
        for (number, partition) in town.table.partitions.iter().filter(|(number, _)| enough(**number)) {
            prop_assert!(partition.next.is_empty(), "{} still moves", number);
            prop_assert_eq!(partition.nodes.len(), usize::from(width(*number)));
            for node in &partition.nodes {
                prop_assert!(town.hosts.iter().any(|host| host.id == *node && host.keeps));
            }
        }
        // Within a zone equal nodes have the same, but for one.
        for of in WIDTHS.into_iter().take(USUAL).filter(|of| usize::from(*of) <= takes) {
            let loads = loads(&town.table, of);
            for a in town.hosts.iter().filter(|host| host.takes) {
                for b in town.hosts.iter().filter(|host| host.takes && host.zone == a.zone && host.weight == a.weight) {
                    let load = |host: &Host| loads.get(&host.id).copied().unwrap_or_default();
                    prop_assert!(load(a).abs_diff(load(b)) <= 1, "{:?}", loads);
                }
            }
        }
    }
}

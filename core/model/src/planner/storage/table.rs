//! The table of partitions, from what it was, who is there, and which moves are complete.
//!
//! Kept:
//! - A partition is on two lists at most, where it is and where it moves to. While it moves, only who is gone is replaced, in the second.
//! - A place in a list is kept: whoever replaces a node takes its place, so no other shard moves. Only a node that goes, with nobody to take its
//!   place, makes a list shorter; then what was behind it moves up.
//! - No node is in a list twice. Lists are over as many zones as can be, evenly, and then over as many machines.
//! - What is moved for the sake of balance is limited, and makes the table better each time; so it comes to an end.
//! - The same table and the same nodes give the same: arranging again changes nothing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::score::score;
use crate::id::NodeId;
use crate::storage::{Partition, StorageTable, partition};

/// Partitions that move at once for balance or spread. What is lost or drained does not wait for it, and stops it.
pub const MOVES_AT_ONCE: usize = 32;

/// A node, as far as it matters here.
#[derive(Clone, Debug)]
pub struct Host {
    /// Which.
    pub id: NodeId,
    /// How much it should have, compared with others ([`weight`]); 0 if that is not known.
    pub weight: u64,
    /// What fails together with it.
    pub zone: usize,
    /// What fails together with it even more.
    pub machine: Option<IpAddr>,
    /// It may be given something.
    pub takes: bool,
    /// It may keep what it has.
    pub keeps: bool,
    /// It is not lost, not even for a moment.
    pub lives: bool,
    /// It drains or leaves: what it has goes, were it to fewer nodes than before.
    pub goes: bool,
}

/// The weight of disks of so many bytes: in GiB, with the first four binary digits, so that two disks that are nearly the same are.
pub fn weight(bytes: u64) -> u64 {
    let size = (bytes >> 30).max(1);
    let digits = 64 - size.leading_zeros();
    size >> digits.saturating_sub(4) << digits.saturating_sub(4)
}

/// The partitions that there are.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// On how many nodes each should be.
    pub widths: &'a [u8],
    /// How many there are of each width.
    pub each: u16,
    /// On how many nodes at least a partition of each width stays when one of its nodes goes and no other can take its place.
    pub floors: &'a [usize],
}

/// The next table.
pub fn arrange(
    before: &StorageTable,
    hosts: &[Host],
    shape: Shape,
    moved: &BTreeMap<u16, u64>,
    brake: bool,
) -> StorageTable {
    let mut table = before.clone();
    for (number, partition) in &mut table.partitions {
        let complete = moved.get(number).is_some_and(|moved| *moved >= partition.table);
        if complete && !partition.next.is_empty() {
            partition.nodes = std::mem::take(&mut partition.next);
        }
    }
    if !brake || table.partitions.is_empty() {
        for (width, floor) in shape.widths.iter().zip(shape.floors) {
            let mut board = Board::new(hosts, (*width, shape.each), &mut table, before.version + 1);
            board.replace(*floor);
            if !brake {
                board.improve();
            }
        }
    }
    if table.partitions != before.partitions {
        table.version = before.version + 1;
    }
    table
}

/// Widths whose partitions are on fewer nodes than they could be, with so many that take data, and how many each lacks at most. That there are
/// fewer nodes than a width has is nothing to mend: what is kept in that way is told where it is kept.
pub fn missing(table: &StorageTable, shape: Shape, takers: usize) -> BTreeMap<u8, usize> {
    let lacks = |width: u8| {
        let lists = (0..shape.each).map(|number| table.partitions.get(&partition(width, number)));
        let could = usize::from(width).min(takers);
        let most = lists.map(|list| could.saturating_sub(list.map_or(0, |list| list.target().len()))).max();
        (width, most.unwrap_or_default())
    };
    shape.widths.iter().map(|width| lacks(*width)).filter(|(_, missing)| *missing > 0).collect()
}

/// How a list of nodes is spread; less is better.
type Cost = (usize, usize);

/// The partitions of one width while they are given out.
struct Board<'a> {
    hosts: &'a [Host],
    index: BTreeMap<NodeId, usize>,
    width: u8,
    each: u16,
    table: &'a mut StorageTable,
    /// The version that what is decided here gets.
    version: u64,
    /// Partitions on each node, as they will be.
    load: Vec<u64>,
    /// What each node should have at most, unless there is no other.
    cap: Vec<u64>,
}

impl<'a> Board<'a> {
    fn new(hosts: &'a [Host], (width, each): (u8, u16), table: &'a mut StorageTable, version: u64) -> Self {
        let index: BTreeMap<NodeId, usize> = hosts.iter().enumerate().map(|(at, host)| (host.id, at)).collect();
        let mut load = vec![0; hosts.len()];
        for number in 0..each {
            let list = table.partitions.get(&partition(width, number));
            for at in list.into_iter().flat_map(Partition::target).filter_map(|node| index.get(node)) {
                load[*at] += 1;
            }
        }
        let all: u64 = hosts.iter().filter(|host| host.takes).map(|host| host.weight).sum();
        let whole = u64::from(each) * u64::from(width);
        let cap = hosts.iter().map(|host| (whole * host.weight).div_ceil(all.max(1)) + 1).collect();
        Self { hosts, index, width, each, table, version, load, cap }
    }

    /// Fills what has too few nodes, and replaces who is gone. Who goes and cannot be replaced leaves his place empty, one in a move, while more than
    /// `floor` stay.
    fn replace(&mut self, floor: usize) {
        for number in 0..self.each {
            let id = partition(self.width, number);
            let known = self.table.partitions.get(&id).cloned();
            let (old, holders) =
                known.as_ref().map_or_else(Default::default, |it| (it.target().to_vec(), it.nodes.clone()));
            let mut list = old.clone();
            for place in 0..list.len() {
                let stays = self.index.get(&list[place]).is_some_and(|at| self.hosts[*at].keeps);
                if !stays && let Some(best) = self.best(id, &list, Some(place), &holders) {
                    self.count(list[place], -1);
                    list[place] = self.hosts[best].id;
                    self.load[best] += 1;
                }
            }
            // While it moves nothing else changes of it.
            let settled = known.as_ref().is_none_or(|it| it.next.is_empty());
            while settled
                && list.len() < usize::from(self.width)
                && let Some(best) = self.best(id, &list, None, &holders)
            {
                list.push(self.hosts[best].id);
                self.load[best] += 1;
            }
            if list == old
                && settled
                && list.len() > floor.max(1)
                && let Some(place) =
                    list.iter().position(|node| self.index.get(node).is_some_and(|at| self.hosts[*at].goes))
            {
                self.count(list.remove(place), -1);
            }
            if list != old {
                self.give(id, list);
            }
        }
    }

    fn give(&mut self, id: u16, list: Vec<NodeId>) {
        let known = self.table.partitions.entry(id).or_default();
        known.table = self.version;
        // Nothing is in one that is new.
        if known.nodes.is_empty() { known.nodes = list } else { known.next = list }
    }

    fn count(&mut self, node: NodeId, step: i64) {
        if let Some(at) = self.index.get(&node) {
            self.load[*at] = self.load[*at].saturating_add_signed(step);
        }
    }

    /// The node that takes this place best, or a further one. Who has the chunks already needs no copy.
    fn best(&self, id: u16, list: &[NodeId], place: Option<usize>, holders: &[NodeId]) -> Option<usize> {
        let rest = list.iter().enumerate().filter(|(at, _)| Some(*at) != place);
        let rest: Vec<&Host> = rest.filter_map(|(_, node)| Some(&self.hosts[*self.index.get(node)?])).collect();
        // How many it would be together with. What all of them cost follows from it, and takes ten times as long.
        let beside = |host: &Host| -> Cost {
            let zone = rest.iter().filter(|other| other.zone == host.zone).count();
            (zone, rest.iter().filter(|other| other.machine == host.machine).count())
        };
        let free = (0..self.hosts.len()).filter(|at| self.hosts[*at].takes && !list.contains(&self.hosts[*at].id));
        free.min_by_key(|at| {
            let host = &self.hosts[*at];
            let full = self.load[*at] >= self.cap[*at];
            let holds = holders.contains(&host.id);
            (beside(host), !holds, full, Reverse(score(id, host.id, host.weight)), host.id)
        })
    }

    /// How many are together in a zone, and on a machine. Squared, so that even is less than uneven.
    fn cost(&self, list: &[NodeId]) -> Cost {
        let hosts: Vec<&Host> = list.iter().filter_map(|node| Some(&self.hosts[*self.index.get(node)?])).collect();
        let zones = hosts.iter().map(|host| hosts.iter().filter(|other| other.zone == host.zone).count()).sum();
        let machines =
            hosts.iter().map(|host| hosts.iter().filter(|other| other.machine == host.machine).count()).sum();
        (zones, machines)
    }

    /// Better spread first, then more even, as far as moves are allowed.
    fn improve(&mut self) {
        let moving = |partition: &Partition| !partition.next.is_empty();
        let mut left = MOVES_AT_ONCE.saturating_sub(self.table.partitions.values().filter(|it| moving(it)).count());
        let least = self.least_zones();
        for number in 0..self.each {
            let id = partition(self.width, number);
            if left > 0 && self.spread(id, least) {
                left -= 1;
            }
        }
        while left > 0 && self.even_out() {
            left -= 1;
        }
    }

    /// The least that a list can cost by zones, were it free to choose.
    fn least_zones(&self) -> usize {
        let mut room: BTreeMap<usize, usize> = BTreeMap::new();
        for host in self.hosts.iter().filter(|host| host.takes) {
            *room.entry(host.zone).or_default() += 1;
        }
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        for _ in 0..self.width {
            let count = |zone: &usize| counts.get(zone).copied().unwrap_or_default();
            let open = room.iter().filter(|(zone, room)| count(zone) < **room).map(|(zone, _)| *zone);
            let Some(zone) = open.min_by_key(count) else { break };
            *counts.entry(zone).or_default() += 1;
        }
        counts.values().map(|count| count * count).sum()
    }

    fn settled(&self, id: u16) -> Option<&Partition> {
        self.table.partitions.get(&id).filter(|it| it.next.is_empty())
    }

    /// Moves one place of a partition to where it is better spread over zones.
    fn spread(&mut self, id: u16, least: usize) -> bool {
        let Some(list) = self.settled(id).map(|it| it.nodes.clone()) else { return false };
        let cost = self.cost(&list);
        if cost.0 <= least {
            return false;
        }
        let better = (0..list.len()).filter_map(|place| {
            let at = self.best(id, &list, Some(place), &[])?;
            let mut then = list.clone();
            then[place] = self.hosts[at].id;
            Some((self.cost(&then), place, at))
        });
        let Some((_, place, at)) = better.filter(|(then, ..)| then.0 < cost.0).min() else { return false };
        self.shift(id, list, place, at);
        true
    }

    fn shift(&mut self, id: u16, mut list: Vec<NodeId>, place: usize, to: usize) {
        self.count(list[place], -1);
        list[place] = self.hosts[to].id;
        self.load[to] += 1;
        self.give(id, list);
    }

    /// Moves one place from a node that has more than its share to one that has less, if the sum of all squared loads by weight
    /// becomes less by it: so it ends.
    fn even_out(&mut self) -> bool {
        // In the order of what one less saves and one more costs, so that behind the first pair that gains nothing no other does.
        let by_weight = |twice: u64, at: usize| (u128::from(twice) << 64) / u128::from(self.hosts[at].weight.max(1));
        let saves = |at: &usize| by_weight(2 * self.load[*at] - 1, *at);
        let costs = |at: &usize| by_weight(2 * self.load[*at] + 1, *at);
        let mut givers: Vec<usize> =
            (0..self.hosts.len()).filter(|at| self.load[*at] > 0 && self.hosts[*at].weight > 0).collect();
        givers.sort_by_key(|at| (Reverse(saves(at)), self.hosts[*at].id));
        let mut takers: Vec<usize> = (0..self.hosts.len()).filter(|at| self.hosts[*at].takes).collect();
        takers.sort_by_key(|at| (costs(at), self.hosts[*at].id));
        for giver in &givers {
            for taker in &takers {
                if !self.gains(*giver, *taker) {
                    break;
                }
                if let Some((id, list, place)) = self.movable(*giver, *taker) {
                    self.shift(id, list, place, *taker);
                    return true;
                }
            }
        }
        false
    }

    /// Whether one less here and one more there is more even.
    fn gains(&self, giver: usize, taker: usize) -> bool {
        let more = u128::from(2 * self.load[taker] + 1) * u128::from(self.hosts[giver].weight);
        let less = u128::from(2 * self.load[giver] - 1) * u128::from(self.hosts[taker].weight);
        more < less
    }

    /// The partition that the giver has, the taker wants most, and that is spread no worse by it.
    fn movable(&self, giver: usize, taker: usize) -> Option<(u16, Vec<NodeId>, usize)> {
        let (from, to) = (self.hosts[giver].id, &self.hosts[taker]);
        let candidates = (0..self.each).filter_map(|number| {
            let id = partition(self.width, number);
            let list = &self.settled(id)?.nodes;
            let place = list.iter().position(|node| *node == from)?;
            if list.contains(&to.id) {
                return None;
            }
            let mut then = list.clone();
            then[place] = to.id;
            (self.cost(&then) <= self.cost(list)).then_some((id, place))
        });
        let (id, place) = candidates.max_by_key(|(id, _)| (score(*id, to.id, to.weight), *id))?;
        Some((id, self.table.partitions[&id].nodes.clone(), place))
    }
}

/// How many vote among so many nodes that may: twice as many as may be lost and one, if there are.
fn wanted(nodes: usize, losses: usize) -> usize {
    match nodes {
        0..=2 => nodes,
        _ => (2 * losses + 1).min(nodes - usize::from(nodes.is_multiple_of(2))),
    }
}

/// Who should vote in the metadata groups. `reported` is what members say that it is: the next change waits until they say what was
/// planned, unless a voter was lost meanwhile. One that is lost keeps its vote until another can take it, or its data moves. `losses` is how
/// many may be lost.
pub fn voters(
    before: &BTreeSet<NodeId>,
    reported: &BTreeSet<BTreeSet<NodeId>>,
    hosts: &[Host],
    losses: usize,
) -> BTreeSet<NodeId> {
    let (live, lost): (Vec<&Host>, Vec<&Host>) =
        hosts.iter().filter(|host| host.keeps && before.contains(&host.id)).partition(|host| host.lives);
    let is_made = before.is_empty() || reported.contains(before);
    if !is_made && live.len() == before.len() {
        return before.clone();
    }
    let may = |host: &&Host| host.takes && host.lives && !before.contains(&host.id);
    let mut free: Vec<&Host> = hosts.iter().filter(may).collect();
    let size = wanted(live.len() + lost.len() + free.len(), losses);
    let mut group: BTreeSet<NodeId> = live.iter().map(|host| host.id).collect();
    while group.len() > size {
        let crowded = live.iter().filter(|host| group.contains(&host.id));
        let Some(out) = crowded.max_by_key(|host| (together(&group, host, hosts), host.id)) else { break };
        group.remove(&out.id);
    }
    while group.len() < size
        && let Some(best) = free.iter().copied().min_by_key(|host| (together(&group, host, hosts), host.id))
    {
        group.insert(best.id);
        free.retain(|other| other.id != best.id);
    }
    let missing = size - group.len().min(size);
    group.extend(lost.iter().map(|host| host.id).take(missing));
    if group.is_empty() { before.clone() } else { group }
}

/// How many of the group are in the zone, and on the machine, of a node.
fn together(group: &BTreeSet<NodeId>, host: &Host, hosts: &[Host]) -> Cost {
    let of = || hosts.iter().filter(|other| group.contains(&other.id));
    (of().filter(|other| other.zone == host.zone).count(), of().filter(|other| other.machine == host.machine).count())
}

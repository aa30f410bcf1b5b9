//! Finds a node for one more instance.
//!
//! Nodes are kept ordered by load within their zone, so that a placement looks at a few nodes and not at all of them. Only constraints
//! that few nodes meet, or a cluster that is nearly full, make it look further.

use std::collections::{BTreeMap, BTreeSet};

use super::ground::{Ground, Row};
use crate::id::*;
use crate::plan::Plan;
use crate::spec::{Capacity, ServiceSpec, Spread};

/// What is where, while instances are placed.
pub(super) struct Board<'a> {
    ground: &'a Ground<'a>,
    compute: RoleName,
    /// Holds a slot of compute.
    slotted: Vec<bool>,
    used: Vec<Capacity>,
    count: Vec<u64>,
    /// Rows that take new instances, by zone, least loaded first.
    by_load: Vec<BTreeSet<(u64, usize)>>,
    /// Instances of the service at hand, by row and by zone.
    mine: Vec<u32>,
    mine_in_zone: Vec<u32>,
    marked: Vec<usize>,
}

impl<'a> Board<'a> {
    /// An empty board over the compute slots of `plan`.
    pub fn new(ground: &'a Ground<'a>, plan: &Plan) -> Self {
        let compute = RoleName::compute();
        let mut slotted = vec![false; ground.rows.len()];
        for row in plan.roles.get(&compute).into_iter().flat_map(BTreeMap::values).filter_map(|s| ground.row(s.node)) {
            slotted[row] = true;
        }
        let rows = ground.rows.len();
        let mut board = Self {
            ground,
            compute,
            slotted,
            used: vec![Capacity::default(); rows],
            count: vec![0; rows],
            by_load: vec![BTreeSet::new(); ground.zones.len()],
            mine: vec![0; rows],
            mine_in_zone: vec![0; ground.zones.len()],
            marked: Vec::new(),
        };
        for row in 0..rows {
            if board.takes(row) {
                let load = board.load(row);
                board.by_load[ground.rows[row].zone].insert((load, row));
            }
        }
        board
    }

    /// Whether the node may be given instances.
    pub fn takes(&self, row: usize) -> bool {
        self.slotted[row] && self.ground.rows[row].takes(&self.compute)
    }

    /// Whether an instance of the service may stay on the node.
    pub fn keeps(&self, row: usize, service: &ServiceSpec) -> bool {
        let node = &self.ground.rows[row];
        self.slotted[row] && node.keeps(&self.compute) && unmatched(node, service).is_none()
    }

    /// The same for one that stays with a node that is lost: what that has lost with its verdict does not count.
    pub fn keeps_away(&self, row: usize, service: &ServiceSpec) -> bool {
        let node = &self.ground.rows[row];
        node.would_keep(&self.compute) && unmatched(node, service).is_none()
    }

    /// Books what an instance uses.
    pub fn add(&mut self, row: usize, needs: Capacity) {
        self.reorder(row, |board| {
            board.used[row].cpu_millis = board.used[row].cpu_millis.saturating_add(needs.cpu_millis);
            board.used[row].memory_bytes = board.used[row].memory_bytes.saturating_add(needs.memory_bytes);
            board.count[row] += 1;
        });
    }

    /// Undoes [`Board::add`].
    pub fn remove(&mut self, row: usize, needs: Capacity) {
        self.reorder(row, |board| {
            board.used[row].cpu_millis = board.used[row].cpu_millis.saturating_sub(needs.cpu_millis);
            board.used[row].memory_bytes = board.used[row].memory_bytes.saturating_sub(needs.memory_bytes);
            board.count[row] = board.count[row].saturating_sub(1);
        });
    }

    fn reorder(&mut self, row: usize, change: impl FnOnce(&mut Self)) {
        let zone = self.ground.rows[row].zone;
        let before = (self.load(row), row);
        change(self);
        let after = (self.load(row), row);
        if self.by_load[zone].remove(&before) {
            self.by_load[zone].insert(after);
        }
    }

    /// Instances per processor, in thousandths.
    fn load(&self, row: usize) -> u64 {
        self.count[row].saturating_mul(1_000_000) / self.ground.rows[row].spec.capacity.cpu_millis.max(1_000)
    }

    /// Begins with another service.
    pub fn begin(&mut self) {
        for row in self.marked.drain(..) {
            self.mine_in_zone[self.ground.rows[row].zone] = 0;
            self.mine[row] = 0;
        }
    }

    /// Counts an instance of the service at hand.
    pub fn mark(&mut self, row: usize) {
        self.mine[row] += 1;
        self.mine_in_zone[self.ground.rows[row].zone] += 1;
        self.marked.push(row);
    }

    /// Undoes one [`Board::mark`].
    pub fn unmark(&mut self, row: usize) {
        self.mine[row] -= 1;
        self.mine_in_zone[self.ground.rows[row].zone] -= 1;
    }

    /// How badly an instance of the service at hand stands here: the more of its kind are near, the worse.
    pub fn crowd(&self, row: usize, spread: Spread) -> (u32, u32, u64) {
        let zone = match spread {
            Spread::Zone => self.mine_in_zone[self.ground.rows[row].zone],
            Spread::Node => 0,
        };
        (zone, self.mine[row], self.load(row))
    }

    /// Whether moving an instance of the service at hand from one node to the other clearly spreads it better.
    pub fn is_worth_moving(&self, from: usize, to: usize, spread: Spread) -> bool {
        let zone = |row: usize| self.mine_in_zone[self.ground.rows[row].zone];
        let better_zone = spread == Spread::Zone && zone(from) >= zone(to) + 2;
        let no_worse_zone =
            spread == Spread::Node || self.ground.rows[from].zone == self.ground.rows[to].zone || zone(from) > zone(to);
        better_zone || (no_worse_zone && self.mine[from] >= self.mine[to] + 2)
    }

    /// The node for one more instance, among `only` these where some are named.
    pub fn place(&self, service: &ServiceSpec, only: Option<&BTreeSet<NodeId>>) -> Option<usize> {
        let barred = |row: usize| only.is_some_and(|only| !only.contains(&self.ground.rows[row].id));
        let mut zones: Vec<usize> = (0..self.by_load.len()).filter(|zone| !self.by_load[*zone].is_empty()).collect();
        if service.spread == Spread::Zone {
            zones.sort_by_key(|zone| (self.mine_in_zone[*zone], self.by_load[*zone].first().copied()));
        }
        let mut best: Option<((u32, u32, u64, usize), usize)> = None;
        for zone in zones {
            let crowded = if service.spread == Spread::Zone { self.mine_in_zone[zone] } else { 0 };
            if best.is_some_and(|(rank, _)| rank.0 < crowded) {
                break;
            }
            for (load, row) in &self.by_load[zone] {
                let rank = (crowded, self.mine[*row], *load, *row);
                let free = || !barred(*row) && self.obstacle(*row, service).is_none();
                if best.is_some_and(|(known, _)| known < rank) || !free() {
                    continue;
                }
                best = Some((rank, *row));
                if rank.1 == 0 {
                    break;
                }
            }
        }
        best.map(|(_, row)| row)
    }

    /// Why the service can't be placed at all.
    pub fn why_not(&self, service: &ServiceSpec) -> String {
        let takes: Vec<usize> = (0..self.ground.rows.len()).filter(|row| self.takes(*row)).collect();
        if takes.is_empty() {
            return "no node takes instances".into();
        }
        let matching = takes.iter().filter(|row| unmatched(&self.ground.rows[**row], service).is_none()).count();
        if matching == 0 {
            let wanted: Vec<String> = service.constraints.iter().map(|(key, value)| format!("{key}={value}")).collect();
            return format!("no node that takes instances has {}", wanted.join(", "));
        }
        format!("no node that may run it has {} free", words(service.resources))
    }

    /// What keeps an instance of the service from this node.
    fn obstacle(&self, row: usize, service: &ServiceSpec) -> Option<Obstacle> {
        let (node, needs, used) = (&self.ground.rows[row], service.resources, self.used[row]);
        let has = node.spec.capacity;
        if unmatched(node, service).is_some() {
            Some(Obstacle::Constraint)
        } else if used.cpu_millis.saturating_add(needs.cpu_millis) > has.cpu_millis && needs.cpu_millis > 0 {
            Some(Obstacle::Processors)
        } else if used.memory_bytes.saturating_add(needs.memory_bytes) > has.memory_bytes && needs.memory_bytes > 0 {
            Some(Obstacle::Memory)
        } else {
            None
        }
    }

    /// The same in words, for the log.
    pub fn objection(&self, row: usize, service: &ServiceSpec) -> Option<String> {
        match self.obstacle(row, service)? {
            Obstacle::Constraint => {
                unmatched(&self.ground.rows[row], service).map(|(key, value)| format!("is not {key}={value}"))
            }
            Obstacle::Processors | Obstacle::Memory => Some(format!("has not {} free", words(service.resources))),
        }
    }
}

#[derive(Clone, Copy)]
enum Obstacle {
    Constraint,
    Processors,
    Memory,
}

/// The first constraint that the node does not meet.
fn unmatched<'s>(node: &Row, service: &'s ServiceSpec) -> Option<(&'s str, &'s str)> {
    let mut constraints = service.constraints.iter();
    constraints.find(|(key, value)| !node.spec.has_label(key, value)).map(|(key, value)| (key.as_str(), value.as_str()))
}

/// An amount for people: `500 millicpu and 256 MiB`.
fn words(needs: Capacity) -> String {
    let mib = needs.memory_bytes.div_ceil(1 << 20);
    match (needs.cpu_millis, mib) {
        (cpu, 0) => format!("{cpu} millicpu"),
        (0, mib) => format!("{mib} MiB"),
        (cpu, mib) => format!("{cpu} millicpu and {mib} MiB"),
    }
}

//! Who holds which slot of which role.
//!
//! Invariants: a slot stays where it is while its node is fit for it; a node holds at most one slot of a role; no slot on a node
//! that is lost, drains, or lacks the role. A slot whose node is gone keeps its number on its next node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::ground::{Ground, Row};
use super::{Draft, reason};
use crate::duty::Duty;
use crate::id::*;
use crate::plan::{Assignment, Because};
use crate::spec::{Availability, RoleSpec};

/// A node that came and went is not given slots for the sake of balance before it was steady this long.
const BALANCE_STEADY: Duration = Duration::from_secs(60);

/// How many slots a role has on `n` nodes when nobody said otherwise.
fn default_count(role: &RoleName, n: usize) -> usize {
    match role.as_str() {
        "lb" | "db" => n.min(3),
        "mgmt" => n.min(2),
        _ => n,
    }
}

/// Gives every role its slots.
pub(super) fn settle(ground: &Ground, draft: &mut Draft) {
    let built = ground.rows.iter().flat_map(|row| row.spec.built.iter());
    let names: BTreeSet<&RoleName> = built.chain(ground.view.spec.roles.keys()).collect();
    let names: BTreeSet<RoleName> = names.into_iter().chain(draft.plan.roles.keys()).cloned().collect();
    // Roles are spread over nodes as well: a node that holds few slots of other roles is preferred.
    let mut held = vec![0; ground.rows.len()];
    for slots in draft.plan.roles.values() {
        for row in slots.values().filter_map(|slot| ground.row(slot.node)) {
            held[row] += 1;
        }
    }
    for role in names {
        let wishes = ground.view.spec.roles.get(&role).cloned().unwrap_or_default();
        let before = draft.plan.roles.remove(&role).unwrap_or_default();
        // Data moves before the node that has it may let go of it.
        let bound = if role == RoleName::storage() { draft.plan.storage.nodes() } else { BTreeSet::new() };
        let mut cast = Cast::new(ground, &role, &wishes, before.clone(), draft.generation, &held, bound);
        cast.vacate();
        cast.shed();
        cast.fill();
        cast.obey_pins();
        if cast.slots == before && !draft.plan.brake {
            cast.balance();
        }
        for text in cast.unmoved().into_iter().chain(cast.unmet()) {
            draft.unmet(format!("role/{role}"), text);
        }
        let slots = cast.slots;
        draft.touched |= slots != before;
        for (slots, step) in [(&before, -1), (&slots, 1)] {
            for row in slots.values().filter_map(|slot| ground.row(slot.node)) {
                held[row] += step;
            }
        }
        if !slots.is_empty() {
            draft.plan.roles.insert(role, slots);
        }
    }
}

/// Slots that the operator moves change hands. Only in the first plan made for that wish: the next one would move on what was moved.
pub(super) fn move_once(ground: &Ground, draft: &mut Draft) {
    if ground.view.spec_index == ground.view.plan.spec_index {
        return;
    }
    for (role, wishes) in ground.view.spec.roles.iter().filter(|(_, wishes)| !wishes.moves.is_empty()) {
        let Some(slots) = draft.plan.roles.get_mut(role) else { continue };
        let before: BTreeSet<NodeId> = slots.values().map(|slot| slot.node).collect();
        let mut taken = before.clone();
        for (from, to) in &wishes.moves {
            let takes = ground.row(*to).is_some_and(|row| ground.rows[row].takes(role));
            let held = slots.values_mut().find(|slot| slot.node == *from && before.contains(from));
            if let Some(held) = held.filter(|_| takes && !taken.contains(to)) {
                taken.insert(*to);
                let text = format!("{role} was moved from {} to {}", ground.name(*from), ground.name(*to));
                held.node = *to;
                held.reason = reason(Because::Moved { node: *from }, text);
                held.since = draft.generation;
            }
        }
    }
}

/// One role while its slots are given out.
struct Cast<'a> {
    ground: &'a Ground<'a>,
    role: &'a RoleName,
    wishes: &'a RoleSpec,
    want: usize,
    slots: BTreeMap<Slot, Assignment>,
    /// Slots whose node is gone, and why.
    vacant: BTreeMap<Slot, Because>,
    holders: BTreeSet<NodeId>,
    /// Holders in each zone.
    counts: Vec<usize>,
    /// No slot below this one is free.
    full_below: u16,
    generation: Generation,
    held: &'a [i64],
    /// Nodes that keep their slot although they drain.
    bound: BTreeSet<NodeId>,
}

impl<'a> Cast<'a> {
    fn new(
        ground: &'a Ground<'a>,
        role: &'a RoleName,
        wishes: &'a RoleSpec,
        slots: BTreeMap<Slot, Assignment>,
        generation: Generation,
        held: &'a [i64],
        bound: BTreeSet<NodeId>,
    ) -> Self {
        let holding: BTreeSet<NodeId> = slots.values().map(|slot| slot.node).collect();
        let keeps = |row: &Row| row.keeps(role) || (!row.lost && bound.contains(&row.id));
        let fit = |row: &&Row| row.takes(role) || (keeps(row) && holding.contains(&row.id));
        let fit = ground.rows.iter().filter(fit).count();
        let want = wishes.count.map_or_else(|| default_count(role, fit), usize::from);
        let (vacant, counts, holders) = (BTreeMap::new(), vec![0; ground.zones.len()], BTreeSet::new());
        Self { ground, role, wishes, want, slots, vacant, holders, counts, full_below: 0, generation, held, bound }
    }

    /// Takes slots from nodes that can't keep them.
    fn vacate(&mut self) {
        for (slot, assignment) in std::mem::take(&mut self.slots) {
            let node = assignment.node;
            let row = self.ground.row(node).map(|row| &self.ground.rows[row]);
            if let Some(row) = row
                && (row.keeps(self.role) || (!row.lost && self.bound.contains(&node)))
                && self.holders.insert(node)
            {
                self.counts[row.zone] += 1;
                self.slots.insert(slot, assignment);
                continue;
            }
            let because = match row {
                Some(row) if row.lost => Because::Lost { node },
                Some(row) if matches!(row.spec.availability, Availability::Draining | Availability::Leaving) => {
                    Because::Drained { node }
                }
                Some(_) => Because::Wanted,
                None => Because::Lost { node },
            };
            self.vacant.insert(slot, because);
        }
    }

    /// Gives up slots beyond the wanted count: unpinned ones first, then where the zone has most.
    fn shed(&mut self) {
        while self.slots.len() > self.want {
            let rank = |(slot, held): &(&Slot, &Assignment)| {
                (!self.wishes.pins.contains(&held.node), self.crowd(held.node), **slot)
            };
            let Some(slot) = self.slots.iter().max_by_key(rank).map(|(slot, _)| *slot) else { return };
            self.take(slot);
        }
    }

    /// Gives out slots until the count is met or no node is left.
    fn fill(&mut self) {
        let missing = self.want.saturating_sub(self.slots.len());
        let free: Vec<usize> = if missing == 0 { Vec::new() } else { self.free().collect() };
        if free.len() <= missing {
            // No choice, so no search: on ten thousand nodes it would take minutes.
            free.into_iter().for_each(|row| self.fill_with(row));
            return;
        }
        for _ in 0..missing {
            let best = self.free().min_by_key(|row| self.rank(*row));
            if let Some(row) = best {
                self.fill_with(row);
            }
        }
    }

    fn fill_with(&mut self, row: usize) {
        let (slot, because) = match self.vacant.pop_first() {
            Some(vacant) => vacant,
            None => (self.free_slot(), self.because(row)),
        };
        self.give(slot, row, because);
    }

    /// Why a slot that nobody held before is given to this node.
    fn because(&self, row: usize) -> Because {
        let node = &self.ground.rows[row];
        if self.wishes.pins.contains(&node.id) {
            Because::Pinned
        } else if self.wishes.count.is_none() {
            Because::Joined { node: node.id }
        } else {
            Because::Wanted
        }
    }

    /// What the operator moves and is not where it shall be.
    fn unmoved(&self) -> Vec<String> {
        let still = |(from, to): &(&NodeId, &NodeId)| self.holders.contains(from) && !self.holders.contains(to);
        let text = |(from, to): (&NodeId, &NodeId)| {
            let (from, to) = (self.ground.name(*from), self.ground.name(*to));
            format!("{to} cannot take over from {from} now, so it was not moved")
        };
        self.wishes.moves.iter().filter(still).map(text).collect()
    }

    /// A pinned node takes the slot of one that is not.
    fn obey_pins(&mut self) {
        for pin in &self.wishes.pins {
            let Some(row) = self.ground.row(*pin) else { continue };
            if self.holders.contains(pin) || !self.ground.rows[row].takes(self.role) {
                continue;
            }
            // A neighbour in its zone makes room first, so that nothing else has to move for the spread.
            let zone = self.ground.rows[row].zone;
            let is_near =
                |held: &Assignment| self.ground.row(held.node).is_some_and(|at| self.ground.rows[at].zone == zone);
            let near = self.slots.iter().find(|(_, held)| is_near(held) && !self.wishes.pins.contains(&held.node));
            let Some(slot) = near.map(|(slot, _)| *slot).or_else(|| self.most_crowded_unpinned()) else { return };
            self.give(slot, row, Because::Pinned);
        }
    }

    /// Moves one slot from a crowded zone to a zone with at least two fewer, where a steady node is free.
    fn balance(&mut self) {
        let steady = |row: &usize| {
            let row = &self.ground.rows[*row];
            !row.flapped || row.facts.is_some_and(|facts| facts.steady_for >= BALANCE_STEADY)
        };
        let Some(row) = self.free().filter(steady).min_by_key(|row| self.rank(*row)) else { return };
        let Some(slot) = self.most_crowded_unpinned() else { return };
        if self.crowd(self.slots[&slot].node) >= self.counts[self.ground.rows[row].zone] + 2 {
            let because = Because::Joined { node: self.ground.rows[row].id };
            self.give(slot, row, because);
        }
    }

    /// How many hold the role in the zone of `node`.
    fn crowd(&self, node: NodeId) -> usize {
        self.ground.row(node).map_or(0, |row| self.counts[self.ground.rows[row].zone])
    }

    fn most_crowded_unpinned(&self) -> Option<Slot> {
        let unpinned = self.slots.iter().filter(|(_, held)| !self.wishes.pins.contains(&held.node));
        unpinned.max_by_key(|(slot, held)| (self.crowd(held.node), **slot)).map(|(slot, _)| *slot)
    }

    fn free(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.ground.rows.len()).filter(|row| {
            let row = &self.ground.rows[*row];
            row.takes(self.role) && !self.holders.contains(&row.id)
        })
    }

    /// Lower is better: pinned, then the emptiest zone, then the node with the fewest slots, then the largest, then the first.
    fn rank(&self, row: usize) -> impl Ord + use<> {
        let node = &self.ground.rows[row];
        let pinned = self.wishes.pins.contains(&node.id);
        let size = std::cmp::Reverse(node.spec.capacity.cpu_millis);
        (!pinned, self.counts[node.zone], node.flapped, self.held[row], size, node.id)
    }

    fn free_slot(&mut self) -> Slot {
        let taken = |slot: &Slot| self.slots.contains_key(slot) || self.vacant.contains_key(slot);
        let slot = (self.full_below..=u16::MAX).map(Slot).find(|slot| !taken(slot)).unwrap_or_default();
        self.full_below = slot.0;
        slot
    }

    fn take(&mut self, slot: Slot) {
        if let Some(before) = self.slots.remove(&slot) {
            self.holders.remove(&before.node);
            if let Some(row) = self.ground.row(before.node) {
                self.counts[self.ground.rows[row].zone] -= 1;
            }
        }
    }

    fn give(&mut self, slot: Slot, row: usize, because: Because) {
        let node = &self.ground.rows[row];
        let there = match self.counts[node.zone] {
            0 => format!("zone {} had none", node.spec.zone),
            _ => format!("{} was free for it", node.spec.name),
        };
        let role = self.role;
        let text = match &because {
            Because::Pinned => format!("{role} is pinned to {}", node.spec.name),
            Because::Lost { node: lost } => format!("{} is lost; {there}", self.ground.name(*lost)),
            Because::Drained { node: drained } => {
                format!("{} gives away what it has; {there}", self.ground.name(*drained))
            }
            Because::Joined { .. } | Because::Wanted => match self.wishes.count {
                Some(count) => format!("{role} is wanted on {count}; {there}"),
                None if default_count(role, usize::MAX) == usize::MAX => format!("{role} runs on every node"),
                None => format!("{role} runs on up to {}; {there}", default_count(role, usize::MAX)),
            },
            Because::Moved { .. } | Because::Applied { .. } | Because::Updated { .. } | Because::Reverted { .. } => {
                there
            }
        };
        let duty = Duty::Replica;
        let assignment = Assignment { node: node.id, duty, reason: reason(because, text), since: self.generation };
        self.take(slot);
        self.slots.insert(slot, assignment);
        self.holders.insert(node.id);
        self.counts[node.zone] += 1;
    }

    fn unmet(&self) -> Option<String> {
        let missing = self.want.saturating_sub(self.slots.len());
        (missing > 0)
            .then(|| format!("{missing} of {} slots have no node: no further node is fit for {}", self.want, self.role))
    }
}

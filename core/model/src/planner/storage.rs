//! Where data of the storage role goes: partitions to ordered nodes, and who votes in the metadata groups.
//!
//! Here the view is read: who may be given data, who keeps what he has, what is reported complete. What follows from that is decided in
//! [`table`], which knows of no view.
//!
//! - A node that is lost keeps its place for [`MOVE_DATA_AFTER`]: copying what a node has costs hours of a network, and most come back.
//! - Where many that keep data are lost together it waits longer ([`patience`]): that is a switch or a power line, and comes back or is mended sooner
//!   than so much is copied. While the brake is on (more than half of all nodes fell at once) no data moves at all.
//! - How long a node is lost is what this leader has seen of it: one that has just begun to lead waits anew, so that data moves later than it
//!   might, and never sooner. A disk that its own node calls lost does not come back, and nobody waits for it.
//! - A node that drains or leaves has its place taken by another; where there is none, its partitions stay on fewer nodes, within limits. It
//!   keeps its slot until nothing of it is in the table any more ([`super::roles`]).
//!
//! Nothing is planned before the feature level allows it, and before some node reports that it stores.

mod score;
pub(super) mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Draft;
use super::ground::{Ground, Row};
use crate::id::*;
use crate::report::RoleFacts;
use crate::spec::Availability;
use crate::storage::left::{Prospect, leaderless, prospect};
use crate::storage::{
    FLOORS, Foundation, MANY_LOST, MOVE_MANY_AFTER, PARTITIONS, STORAGE, StorageFacts, StorageTable, USUAL, WIDTHS,
    seen,
};

use table::{Host, Shape, arrange};

/// A node must be lost this long before its data moves: a server takes one to two minutes to start again. Twice as long leaves what it
/// had a copy short for two minutes more.
const MOVE_DATA_AFTER: Duration = Duration::from_secs(120);
/// One of how many of those that keep data is so many that they are waited for longer: the smallest zone of three.
const MANY: usize = 3;
/// A node with less of its disks free, in tenths, is given nothing more.
const FREE_MIN: u8 = 1;

/// Changes the table as the view asks for. The slots of the draft are given already.
pub(super) fn settle(ground: &Ground, draft: &mut Draft) {
    if ground.view.level < STORAGE.level {
        return;
    }
    let stores = |row: &&Row| facts(row).is_some();
    if draft.plan.storage.is_empty() && !ground.rows.iter().any(|row| stores(&row)) {
        return;
    }
    let role = RoleName::storage();
    let slots = draft.plan.roles.get(&role).into_iter().flat_map(BTreeMap::values);
    let held: BTreeSet<NodeId> = slots.map(|slot| slot.node).collect();
    let before = draft.plan.storage.clone();
    let keepers: BTreeSet<NodeId> = before.holders().keys().copied().collect();
    let after = patience(ground, &keepers, before.losses());
    let hosts: Vec<Host> = ground.rows.iter().map(|row| host(ground, row, held.contains(&row.id), after)).collect();
    let brake = draft.plan.brake;
    let moved = moved(ground);
    let (widths, floors) = shape(ground, &before);
    let shape = Shape { widths: &widths, each: PARTITIONS, floors: &floors };
    let mut table = arrange(&before, &hosts, shape, &moved, brake);
    let reported = reported_voters(ground);
    table.voters = table::voters(&before.voters, &reported, &hosts, table.losses());
    // Named once. Should it never come to found the group, nobody else may: it might have, with nobody to tell.
    table.founder = match before.voters.is_empty() {
        true => table.voters.first().copied(),
        false => before.founder.filter(|_| reported.is_empty()),
    };
    table.foundation = foundation(ground, draft, before.foundation.as_ref());
    let takers = hosts.iter().filter(|host| host.takes).count();
    for (width, missing) in table::missing(&table, shape, takers) {
        let text =
            format!("{missing} of {width} nodes are missing for each partition of {width}: no further node takes data");
        draft.unmet(format!("storage/{width}"), text);
    }
    let lost = ground.rows.iter().filter(|row| row.lost && keepers.contains(&row.id)).count();
    let waits = |host: &Host| !host.lives && host.keeps && keepers.contains(&host.id);
    if after == MOVE_MANY_AFTER && lost > before.losses() && hosts.iter().any(waits) {
        let (all, minutes) = (keepers.len(), MOVE_MANY_AFTER.as_secs() / 60);
        let text = format!(
            "{lost} of {all} nodes are lost together: what they keep moves once they are gone for {minutes} min"
        );
        draft.unmet(MANY_LOST, text);
    }
    draft.touched |= table != before;
    draft.plan.storage = table;
}

fn facts<'a>(row: &Row<'a>) -> Option<&'a StorageFacts> {
    match &row.facts?.report.as_deref()?.roles.get(&RoleName::storage())?.facts {
        RoleFacts::Storage(facts) => Some(facts),
        RoleFacts::None | RoleFacts::Compute(_) | RoleFacts::Lb(_) | RoleFacts::Address(_) | RoleFacts::Unknown => None,
    }
}

/// How long a node must be lost before its data moves. One that is just back counts with the lost ones: those that fell with it start now, too.
fn patience(ground: &Ground, keepers: &BTreeSet<NodeId>, losses: usize) -> Duration {
    let fell = |row: &&Row| (row.lost || row.flapped) && !row.reached_for(MOVE_DATA_AFTER);
    let together = ground.rows.iter().filter(|row| keepers.contains(&row.id)).filter(fell).count();
    if together > losses && together * MANY >= keepers.len() { MOVE_MANY_AFTER } else { MOVE_DATA_AFTER }
}

fn host(ground: &Ground, row: &Row, held: bool, after: Duration) -> Host {
    let facts = facts(row);
    let lost = row.lost && row.out_of_reach_for(after);
    let goes = matches!(row.spec.availability, Availability::Draining | Availability::Leaving);
    let able = facts.is_none_or(|facts| facts.unable.is_none());
    let keeps = !lost && !goes && able && row.spec.built.contains(&RoleName::storage());
    let takes = keeps && held && row.open && facts.is_some_and(|facts| facts.bytes > 0 && facts.free >= FREE_MIN);
    Host {
        id: row.id,
        weight: facts.map_or(0, |facts| table::weight(facts.bytes)),
        zone: row.zone,
        machine: ground.view.spec.nodes.get(&row.id).map(|node| node.addr.ip()),
        takes,
        keeps,
        lives: !row.lost,
        goes,
    }
}

/// The widths that there are partitions of, and on how many nodes these stay when one of theirs goes. Where no chunk is kept in partitions of
/// a width, as whoever leads the metadata group says, one is enough; should one come meanwhile, its move does not end
/// ([`crate::storage::Partition::next`]). Wide ones there are once a bucket asks for so many nodes, as the same says.
fn shape(ground: &Ground, before: &StorageTable) -> (Vec<u8>, Vec<usize>) {
    let heard = ground.rows.iter().filter(|row| !row.lost).filter_map(|row| Some((row.id, facts(row)?))).collect();
    let totals = seen::totals(&heard);
    let asked = totals.map_or(0, |totals| totals.widest);
    let usual = &WIDTHS[..USUAL];
    let all = WIDTHS.into_iter().zip(FLOORS);
    let shape = all.filter(|(width, _)| usual.contains(width) || asked >= *width || before.has_width(*width));
    let kept = totals.map(|totals| &totals.kept);
    shape.map(|(width, floor)| (width, if kept.is_some_and(|kept| !kept.contains(&width)) { 1 } else { floor })).unzip()
}

/// Moves that are reported complete. What a metadata group has committed is true whoever says it, and for ever.
fn moved(ground: &Ground) -> BTreeMap<u16, u64> {
    let mut moved: BTreeMap<u16, u64> = BTreeMap::new();
    for (partition, table) in ground.rows.iter().filter_map(facts).flat_map(|facts| &facts.moved) {
        let known = moved.entry(*partition).or_default();
        *known = (*known).max(*table);
    }
    moved
}

/// As what the metadata group goes on, where what nodes that are heard have left of it cannot by itself.
fn foundation(ground: &Ground, draft: &mut Draft, before: Option<&Foundation>) -> Option<Foundation> {
    let live = || ground.rows.iter().filter(|row| !row.lost).filter_map(|row| Some((row.id, facts(row)?)));
    let left = leaderless(live().map(|(node, facts)| (node, &*facts.group)));
    let heard = live().map(|(node, facts)| (node, &facts.group.tag)).collect();
    let spec = &ground.view.spec;
    let is_member = |node: NodeId| spec.nodes.contains_key(&node);
    if let Some(waits @ Prospect::Waits { .. }) = prospect(is_member, &left) {
        draft.unmet("storage/metadata", waits.in_words(|node| spec.name_of(node)));
    }
    // Two sides of a cut that are recovered have no node in common, so they draw no word twice.
    let drawn = left.keys().fold(draft.generation.0, |drawn, node: &NodeId| score::mix(drawn ^ node.0));
    Foundation::next(before, is_member, &heard, &left, drawn)
}

/// The voters that live members of the metadata groups report, each once.
fn reported_voters(ground: &Ground) -> BTreeSet<BTreeSet<NodeId>> {
    let live = ground.rows.iter().filter(|row| !row.lost).filter_map(facts);
    live.map(|facts| facts.voters.clone()).filter(|voters| !voters.is_empty()).collect()
}

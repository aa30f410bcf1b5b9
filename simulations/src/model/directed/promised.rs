//! Histories of holders that act on by promises: who may promise, for how long, and who has to.

use std::collections::BTreeSet;
use std::time::Duration;

use hirsel_model::grant::{GRANT_OVER, LEASE, grantable};
use hirsel_model::plan::InstanceAssignment;
use hirsel_model::spec::Availability;
use hirsel_model::*;
use rand::Rng;
use rand::seq::IteratorRandom;

use super::super::check::Found;
use super::super::host::Power;
use super::super::scenario::{cut_off, holder, power, seconds};
use super::super::world::World;
use super::{Cast, cast, led_by_who_only_votes, set, start_from, until};

/// What is kept back so long reaches its holder just before the grant or promise before it is over.
const JUST_IN_TIME: Duration = Duration::from_millis(1_400);

/// The holder goes on by promises, and does not learn that it is to go. Those who promised do, and refuse; they may not take its place,
/// and the one who may was never asked. Some are started again with what they knew before, while the chain of promises still holds or
/// long after it broke.
pub(in super::super) fn refused(world: &mut World) -> Result<(), Found> {
    let Some(Cast { holds, others, late }) = cast(world, 2)? else { return Ok(()) };
    let before = world.committed.clone();
    alone_with(world, holds, &others)?;
    set(world, late, Availability::Open)?;
    for node in &others {
        set(world, *node, Availability::Cordoned)?;
    }
    set(world, holds, Availability::Draining)?;
    let forgets_after = [None, Some(1_200), Some(6_000)].into_iter().choose(&mut world.rng).flatten();
    if let Some(after) = forgets_after.map(Duration::from_millis) {
        world.run(after)?;
        others.iter().for_each(|node| start_from(world, *node, &before));
    }
    world.run(seconds(7))
}

/// The last promise, of the one node that may take the place of the holder, or the last grant is kept back until just before the one
/// before it is over.
pub(in super::super) fn kept_back(world: &mut World) -> Result<(), Found> {
    if world.rng.random_bool(0.5) { promise_kept_back(world) } else { grant_kept_back(world) }
}

fn promise_kept_back(world: &mut World) -> Result<(), Found> {
    let Some(Cast { holds, others, .. }) = cast(world, 1)? else { return Ok(()) };
    alone_with(world, holds, &others)?;
    others.iter().for_each(|node| world.keep_back(*node, holds));
    until(world, LEASE, |world| !world.kept_back.is_empty())?;
    set(world, holds, Availability::Draining)?;
    world.run(JUST_IN_TIME)?;
    world.let_letters_go();
    world.run(seconds(4))
}

fn grant_kept_back(world: &mut World) -> Result<(), Found> {
    led_by_who_only_votes(world)?;
    let (Some(leader), Some(holds)) = (world.leader(), holder(world)) else { return Ok(()) };
    world.keep_back(leader, holds);
    until(world, LEASE, |world| !world.kept_back.is_empty())?;
    cut_off(world, &[holds]);
    // Who has no report of it does not know what it runs.
    world.hand_over()?;
    set(world, holds, Availability::Draining)?;
    world.run(JUST_IN_TIME)?;
    world.let_letters_go();
    world.run(seconds(4))
}

/// The holder is started again with a plan of before, which lists others than the one that it is granted by. They promise, as they may
/// not take its place any more; who may is on the other side of a cut.
pub(in super::super) fn old_list(world: &mut World) -> Result<(), Found> {
    let Some(Cast { holds, others, late }) = cast(world, 2)? else { return Ok(()) };
    let before = world.committed.clone();
    set(world, late, Availability::Open)?;
    for node in &others {
        set(world, *node, Availability::Cordoned)?;
    }
    world.run(seconds(3))?;
    start_from(world, holds, &before);
    world.run(seconds(1))?;
    alone_with(world, holds, &others)?;
    set(world, holds, Availability::Draining)?;
    world.run(seconds(6))
}

/// The holder goes on by the promises of two that do not learn that it is to go either. Its place is given to one of them, which learns
/// of that as little, and is to go as well: now two have to let go before somebody else may start.
pub(in super::super) fn twice(world: &mut World) -> Result<(), Found> {
    let Some(Cast { holds, others, late }) = cast(world, 2)? else { return Ok(()) };
    alone_with(world, holds, &others)?;
    world.behind.extend(&others);
    if let Some(leader) = world.leader() {
        others.iter().for_each(|node| world.keep_back(leader, *node));
    }
    set(world, late, Availability::Open)?;
    set(world, holds, Availability::Draining)?;
    world.run(seconds(2))?;
    let next = |(_, assigned): (_, &InstanceAssignment)| assigned.exclusive.then_some(assigned.node);
    let next = world.committed.plan.instances.iter().find_map(next);
    for node in &others {
        let goes = Some(*node) == next;
        set(world, *node, if goes { Availability::Draining } else { Availability::Cordoned })?;
    }
    world.run(seconds(5))
}

/// Two may take the place of the holder, and it hears only one of them. The other one is given it.
pub(in super::super) fn one_silent(world: &mut World) -> Result<(), Found> {
    let Some(Cast { holds, others, .. }) = cast(world, 2)? else { return Ok(()) };
    let hears: BTreeSet<NodeId> = others.iter().copied().choose(&mut world.rng).into_iter().collect();
    // Not for so long that it would be over if it did not count what it hears.
    begin_alone_with(world, holds, &hears)?;
    world.run(seconds(1))?;
    for node in &hears {
        set(world, *node, Availability::Cordoned)?;
    }
    set(world, holds, Availability::Draining)?;
    world.run(seconds(6))
}

/// The place of the holder is given to the one node that promised not to take it, and which may be started again when it knows that the
/// holder is to go.
pub(in super::super) fn promised(world: &mut World) -> Result<(), Found> {
    let Some(Cast { holds, others, .. }) = cast(world, 1)? else { return Ok(()) };
    begin_alone_with(world, holds, &others)?;
    // No grant runs any more, and nobody has missed the holder yet.
    world.run(GRANT_OVER)?;
    set(world, holds, Availability::Draining)?;
    let knows = |world: &World, node: &NodeId| grantable(&world.hosts[node].state, holds).is_empty();
    until(world, LEASE, |world| others.iter().all(|node| knows(world, node)))?;
    if world.rng.random_bool(0.5) {
        for node in &others {
            power(world, *node, Power::Orphaned);
            power(world, *node, Power::On);
        }
    }
    world.run(seconds(5))
}

/// The holder and all that may take its place are cut off from the leader, and go on by promises. One that is on the other side is a
/// candidate from now on, which the holder does not learn.
pub(in super::super) fn listed_anew(world: &mut World) -> Result<(), Found> {
    let Some(Cast { holds, others, late }) = cast(world, 2)? else { return Ok(()) };
    let there = |node: &NodeId| *node == holds || others.contains(node);
    let away: Vec<NodeId> = world.hosts.keys().copied().filter(|node| !there(node)).collect();
    cut_off(world, &away);
    set(world, late, Availability::Open)?;
    world.run(seconds(12))
}

/// The holder and these are linked, and it learns of nothing that is decided from now on. It goes on by their promises.
fn alone_with(world: &mut World, holds: NodeId, others: &BTreeSet<NodeId>) -> Result<(), Found> {
    begin_alone_with(world, holds, others)?;
    world.run(seconds(3))
}

/// The same, and no time passes. Somebody leads who has no report of the holder, and so does not know what it runs.
fn begin_alone_with(world: &mut World, holds: NodeId, others: &BTreeSet<NodeId>) -> Result<(), Found> {
    world.say(&format!("fault: {holds} hears {others:?} alone, and learns of nothing"));
    world.behind.insert(holds);
    let away = |node: &NodeId| *node != holds && !others.contains(node);
    let away: Vec<NodeId> = world.hosts.keys().copied().filter(away).collect();
    world.cuts.extend(away.into_iter().flat_map(|node| [(node, holds), (holds, node)]));
    world.hand_over()
}

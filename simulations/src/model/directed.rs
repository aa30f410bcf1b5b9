//! Histories of which only details are drawn: each brings about the one order of events that a guard of exclusive services is there for.
//! Drawn faults would, some day; and a guard that no drawn fault of some hundred seeds asks for looks like one that nobody needs.

mod away;
mod promised;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hirsel_model::control::{Command, ControlState};
use hirsel_model::grant::LEASE;
use hirsel_model::spec::Availability;
use hirsel_model::*;
use rand::Rng;
use rand::seq::IteratorRandom;

use super::check::Found;
use super::host::Power;
use super::scenario::{cut_off, everybody_disturbed, holder, power, seconds};
use super::world::{IDLE, World};

pub(super) use away::{away, back};
pub(super) use promised::{kept_back, listed_anew, old_list, one_silent, promised, refused, twice};

/// How often an answer comes too late.
const LATE_ANSWERS: usize = 4;
/// Where something exclusive is placed, it is started within this.
const STARTS_WITHIN: Duration = Duration::from_secs(4);
/// A proposal is under way for so long, and what is decided meanwhile is carried out.
const UNDER_WAY: Duration = Duration::from_millis(2_500);

/// Plays `story` while all that it does not disturb goes well: letters arrive at once, and no proposal is lost.
pub(super) fn directed(world: &mut World, story: impl FnOnce(&mut World) -> Result<(), Found>) -> Result<(), Found> {
    everybody_disturbed(world);
    (world.prompt, world.undisturbed) = (true, true);
    story(world)?;
    (world.prompt, world.undisturbed) = (false, false);
    world.keeps_back.clear();
    world.kept_back.clear();
    world.keeps_placement = None;
    world.behind.clear();
    Ok(())
}

/// One answer to the holder is under way for long while the holder is to go: what was granted by a plan that it follows no more arrives
/// when another one acts. All else goes well, so that it is as early as can be.
pub(super) fn late(world: &mut World) -> Result<(), Found> {
    for _ in 0..LATE_ANSWERS {
        let (Some(leader), Some(holds)) = (world.leader(), holder(world)) else { break };
        if leader == holds {
            world.hand_over()?;
            world.run(seconds(1))?;
            continue;
        }
        world.keep_back(leader, holds);
        until(world, LEASE, |world| !world.kept_back.is_empty())?;
        world.keeps_back.clear();
        set(world, holds, Availability::Draining)?;
        until(world, LEASE, |world| holder(world).is_some_and(|node| node != holds))?;
        world.let_letters_go();
        world.run(seconds(2))?;
        set(world, holds, Availability::Open)?;
        world.run(seconds(2))?;
    }
    Ok(())
}

/// The holder is cut off, and its place is taken. Then the leader stands still, and the next one is the only node that the holder hears,
/// and only its answers: it would believe whatever that one knew before it was elected. What took its place acts on by promises, as who
/// leads could never take it.
pub(super) fn inherited(world: &mut World) -> Result<(), Found> {
    led_by_who_only_votes(world)?;
    // Long enough for somebody to remember that.
    world.run(seconds(5))?;
    let (Some(leader), Some(holds)) = (world.leader(), holder(world)) else { return Ok(()) };
    cut_off(world, &[holds]);
    world.run(seconds(7))?;
    let until = world.now + seconds(8);
    power(world, leader, Power::Frozen(until));
    // Two may have been elected one after the other.
    world.run(seconds(3))?;
    if let Some(next) = world.leader().filter(|next| *next != leader) {
        world.say(&format!("fault: {holds} hears {next} alone, and learns of nothing"));
        world.behind.insert(holds);
        world.cuts.retain(|(from, to)| *from != next && *to != next);
    }
    world.run(seconds(3))
}

/// Leader and holder are cut off together, and the leader stands still until all is decided anew on the other side. What the holder asked
/// meanwhile waits for it, and is what it sees first.
pub(super) fn renewed(world: &mut World) -> Result<(), Found> {
    led_by_who_only_votes(world)?;
    let (Some(leader), Some(holds)) = (world.leader(), holder(world)) else { return Ok(()) };
    cut_off(world, &[leader, holds]);
    let until = world.now + seconds(9);
    power(world, leader, Power::Frozen(until));
    world.run(seconds(12))
}

/// The holder has just been granted something and is cut off. Somebody begins to lead who knows nothing of that: another one, or the same
/// agent, started again. Then the holder is to go.
pub(super) fn new_leader(world: &mut World) -> Result<(), Found> {
    led_by_who_only_votes(world)?;
    let (Some(leader), Some(holds)) = (world.leader(), holder(world)) else { return Ok(()) };
    cut_off(world, &[holds]);
    if world.rng.random_bool(0.5) {
        world.hand_over()?;
    } else {
        power(world, leader, Power::Orphaned);
        power(world, leader, Power::On);
    }
    set(world, holds, Availability::Draining)?;
    world.run(seconds(5))
}

/// A node is given something exclusive, starts it, and is cut off before it can say so. Then it is to go: but for the grant, nobody knows
/// that it runs.
pub(super) fn fresh(world: &mut World) -> Result<(), Found> {
    led_by_who_only_votes(world)?;
    world.run(seconds(3))?;
    let Some(former) = holder(world) else { return Ok(()) };
    set(world, former, Availability::Draining)?;
    until(world, STARTS_WITHIN, |world| holder(world).is_some_and(|node| node != former))?;
    let Some(holds) = holder(world).filter(|node| *node != former) else { return Ok(()) };
    cut_off(world, &[holds]);
    set(world, holds, Availability::Draining)?;
    world.run(seconds(5))
}

/// The holder is to go, and what it runs takes its time to end.
pub(super) fn dawdling(world: &mut World) -> Result<(), Found> {
    let Some(holds) = holder(world) else { return Ok(()) };
    world.hosts.get_mut(&holds).expect("a host").ends_late = true;
    set(world, holds, Availability::Draining)?;
    world.run(seconds(5))?;
    world.hosts.get_mut(&holds).expect("a host").ends_late = false;
    Ok(())
}

/// The host of the holder is suspended until its place has long been taken.
pub(super) fn suspended(world: &mut World) -> Result<(), Found> {
    led_by_who_only_votes(world)?;
    let Some(holds) = holder(world) else { return Ok(()) };
    let time = Duration::from_millis(world.rng.random_range(7_000..11_000));
    let until = world.now + time;
    power(world, holds, Power::Frozen(until));
    world.run(time + seconds(2))
}

/// Where something exclusive is to start is proposed, and under way for so long that it is decided otherwise meanwhile.
pub(super) fn stale_plan(world: &mut World) -> Result<(), Found> {
    let Some(Cast { holds, others, late }) = cast(world, 2)? else { return Ok(()) };
    world.keeps_placement = Some(UNDER_WAY);
    set(world, holds, Availability::Draining)?;
    until(world, STARTS_WITHIN, |world| world.keeps_placement.is_none())?;
    set(world, late, Availability::Open)?;
    for node in others {
        set(world, node, Availability::Cordoned)?;
    }
    world.run(seconds(6))
}

/// Who plays.
struct Cast {
    holds: NodeId,
    /// The only ones that may take its place, as all know.
    others: BTreeSet<NodeId>,
    /// One that may not yet.
    late: NodeId,
}

/// A node that only votes leads, and so many may take the place of the holder.
fn cast(world: &mut World, many: usize) -> Result<Option<Cast>, Found> {
    led_by_who_only_votes(world)?;
    let Some(holds) = holder(world) else { return Ok(None) };
    let all: BTreeSet<NodeId> = world.hosts.keys().copied().filter(|node| node.0 > IDLE && *node != holds).collect();
    let others: BTreeSet<NodeId> = all.iter().copied().choose_multiple(&mut world.rng, many).into_iter().collect();
    let mut late = None;
    for node in all.difference(&others) {
        set(world, *node, Availability::Cordoned)?;
        late = Some(*node);
    }
    world.run(seconds(3))?;
    Ok(late.map(|late| Cast { holds, others, late }))
}

/// The agent of a node is started again with what it knew `before`, and learns of nothing newer.
fn start_from(world: &mut World, node: NodeId, before: &Arc<ControlState>) {
    power(world, node, Power::Orphaned);
    world.hosts.get_mut(&node).expect("a host").state = before.clone();
    world.behind.insert(node);
    power(world, node, Power::On);
}

/// Lets time pass until it is so, or `most` is over.
fn until(world: &mut World, most: Duration, is_so: impl Fn(&World) -> bool) -> Result<(), Found> {
    let begun = world.now;
    while !is_so(world) && world.now.since(begun) < most {
        world.step()?;
    }
    Ok(())
}

fn set(world: &mut World, node: NodeId, availability: Availability) -> Result<(), Found> {
    world.operate(&Command::SetAvailability { node, availability })
}

/// Hands leadership to a node that only votes, where there are such nodes.
pub(super) fn led_by_who_only_votes(world: &mut World) -> Result<(), Found> {
    for _ in 0..5 {
        if world.leader().is_some_and(|leader| leader.0 > IDLE) {
            world.hand_over()?;
            world.run(seconds(3))?;
        }
    }
    Ok(())
}

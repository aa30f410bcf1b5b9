//! Nobody leads, or not those who would have to: an exclusive program acts on by promises, and never beside another one.

use std::collections::BTreeSet;
use std::time::Duration;

use hirsel_model::control::Command;
use hirsel_model::spec::Availability;
use hirsel_model::*;
use rand::Rng;
use rand::seq::IndexedRandom;

use super::check::{Found, found, heals};
use super::directed::led_by_who_only_votes;
use super::host::Power;
use super::scenario::{cut_off, everybody_disturbed, heal, holder, power, seconds};
use super::world::{IDLE, World};

/// So long nobody leads: many times a lease.
const LEADERLESS: Duration = Duration::from_secs(60);
/// A leader that lost its majority has given up by then, and whatever was on its way is decided.
const LEADS_NO_MORE: Duration = Duration::from_secs(5);
/// What nobody promises for has ended by then: a lease, and the way of the last promise.
const ENDS_WITHIN: Duration = Duration::from_secs(4);
/// After nodes that were given up are off, what they may have run acts again within this.
const ACTS_AGAIN_WITHIN: Duration = Duration::from_secs(20);

/// Most voters are taken away, and all who could take the place of the program are left: it acts on by their promises. Then one of those
/// is taken away too: it ends, and its node says why.
pub(super) fn leaderless(world: &mut World) -> Result<(), Found> {
    leaderless_for(world, LEADERLESS)
}

pub(super) fn leaderless_for(world: &mut World, time: Duration) -> Result<(), Found> {
    everybody_disturbed(world);
    let Some(holds) = holder(world) else { return found("goes on by promises", "nobody acts") };
    let Some(id) = world.hosts[&holds].acts.keys().next().cloned() else { return Ok(()) };
    let list = world.committed.plan.candidates.get(&id).map(|listed| listed.nodes.clone()).unwrap_or_default();
    let left = |node: &NodeId| *node == holds || list.contains(node);
    let away: Vec<NodeId> = world.raft.iter().copied().filter(|node| !left(node)).collect();
    let stay = world.raft.len() - away.len();
    if list.is_empty() || stay * 2 > world.raft.len() {
        let message = format!("{away:?} of {:?} are no majority, or nobody is listed: {list:?}", world.raft);
        return found("nobody leads", message);
    }
    // Who hears nothing for a lease is right to end; here the ways that are left are good.
    world.prompt = true;
    let frozen = world.rng.random_bool(0.5);
    let begun = (world.hosts[&holds].starts, world.now);
    let until = begun.1 + LEADS_NO_MORE + time;
    let end = until + ENDS_WITHIN + seconds(4);
    if frozen {
        away.iter().for_each(|node| power(world, *node, Power::Frozen(end + seconds(1))));
    } else {
        // Each is alone.
        away.iter().for_each(|node| cut_off(world, &[*node]));
    }
    let mut applied = None;
    while world.now < until {
        world.step()?;
        let host = &world.hosts[&holds];
        if !host.acts.contains_key(&id) || host.starts != begun.0 {
            return found("goes on by promises", format!("{id} on {holds} ended though all had promised"));
        }
        if world.now.since(begun.1) < LEADS_NO_MORE {
            continue;
        }
        if world.has_lead() {
            return found("nobody leads", format!("{:?} leads without a majority", world.leader()));
        }
        if *applied.get_or_insert(world.committed.applied) != world.committed.applied {
            return found("nobody leads", "something was committed without a majority");
        }
    }
    if world.times_promised == 0 || !world.promised.contains(&(holds, id.clone())) {
        return found("goes on by promises", format!("{id} on {holds} acts, and not by promises"));
    }
    // One that has to promise is gone as well.
    let list: Vec<NodeId> = list.into_iter().collect();
    let other = *list.choose(&mut world.rng).expect("it is not empty");
    power(world, other, Power::Frozen(end + seconds(1)));
    world.run(ENDS_WITHIN)?;
    while world.now < end {
        let host = &world.hosts[&holds];
        let says = host.holdings.missing(&id).is_some_and(|why| why.contains(&format!("n{}", other.0)));
        if holder(world).is_some() || !says {
            let message = format!("acts: {:?}; {holds} says why: {says}", holder(world));
            return found("ends without promises", message);
        }
        world.step()?;
    }
    world.prompt = false;
    Ok(())
}

/// Most voters are given up while they go on behind a cut, with a leader or by promises alone, mostly with the holder among them. Those
/// who are left found the control group anew, and run what is exclusive only when the others are off.
pub(super) fn refounded(world: &mut World) -> Result<(), Found> {
    everybody_disturbed(world);
    let Some(holds) = holder(world) else { return Ok(()) };
    // Those that only vote, some of those that can run it, and as many more voters as make a majority.
    let can_run: Vec<NodeId> = world.hosts.keys().copied().filter(|node| node.0 > IDLE).collect();
    let with_holder = world.rng.random_bool(0.8);
    let mut lost: BTreeSet<NodeId> = (1..=IDLE).map(NodeId).collect();
    let others = can_run.iter().copied().filter(|node| *node != holds).collect::<Vec<_>>();
    lost.extend(others.iter().copied().filter(|_| world.rng.random_bool(0.5)));
    if with_holder {
        lost.insert(holds);
    }
    if can_run.iter().all(|node| lost.contains(node)) {
        lost.remove(others.choose(&mut world.rng).expect("others"));
    }
    let most = |lost: &BTreeSet<NodeId>| lost.intersection(&world.raft).count() * 2 > world.raft.len();
    for node in others.iter().filter(|node| world.raft.contains(node)) {
        if !most(&lost) {
            lost.insert(*node);
        }
    }
    if !most(&lost) || can_run.iter().all(|node| lost.contains(node)) {
        return found("refounded", format!("{lost:?} are no majority of {:?}, or nobody else can run it", world.raft));
    }
    let side: Vec<NodeId> = lost.iter().copied().collect();
    cut_off(world, &side);
    let time = Duration::from_millis(world.rng.random_range(3_000..12_000));
    world.run(time)?;
    if world.rng.random_bool(0.5) {
        // Nobody leads among them either, and those who can run it go on by themselves.
        let until = world.now + seconds(120);
        (1..=IDLE).map(NodeId).for_each(|node| power(world, node, Power::Frozen(until)));
    }
    world.refound(&lost)?;
    let time = Duration::from_millis(world.rng.random_range(3_000..15_000));
    world.run(time)?;
    if world.rng.random_bool(0.5) {
        world.say("fault: cuts end");
        world.cuts.clear();
    }
    let time = Duration::from_millis(world.rng.random_range(3_000..15_000));
    world.run(time)?;
    for node in lost.iter().filter(|node| world.hosts[node].power != Power::Off).copied().collect::<Vec<_>>() {
        power(world, node, Power::Off);
    }
    world.run(seconds(1))?;
    if let Some(acts) = holder(world) {
        return found("waits until the lost are off", format!("{acts} acts"));
    }
    world.bury();
    world.operate(&Command::ConfirmOff { nodes: lost })?;
    heal(world)?;
    heals(world, ACTS_AGAIN_WITHIN)
}

/// The holder is cut off from those that only vote, one of which leads, and goes on by the promises of the others. Then it is to go, and
/// they may be started again.
pub(super) fn estranged(world: &mut World) -> Result<(), Found> {
    everybody_disturbed(world);
    led_by_who_only_votes(world)?;
    let Some(holder) = holder(world) else { return Ok(()) };
    world.say(&format!("fault: {holder} is cut off from the voters"));
    let idle = (1..=IDLE).map(NodeId);
    world.cuts.extend(idle.flat_map(|node| [(node, holder), (holder, node)]));
    let time = Duration::from_millis(world.rng.random_range(3_000..6_000));
    world.run(time)?;
    if world.rng.random_bool(0.5) {
        let others: Vec<NodeId> = world.hosts.keys().copied().filter(|node| node.0 > IDLE && *node != holder).collect();
        for node in others {
            power(world, node, Power::Orphaned);
            power(world, node, Power::On);
        }
    }
    world.operate(&Command::SetAvailability { node: holder, availability: Availability::Draining })?;
    world.run(seconds(5))
}

/// The holder and all that may take its place are on one side of a cut and go on without a leader. The leader is on the other with a node
/// that becomes a candidate only now, which the holder does not learn.
pub(super) fn apart(world: &mut World) -> Result<(), Found> {
    everybody_disturbed(world);
    let holder = holder(world);
    let others: Vec<NodeId> =
        world.hosts.keys().copied().filter(|node| node.0 > IDLE && Some(*node) != holder).collect();
    let late = *others.choose(&mut world.rng).expect("others");
    world.operate(&Command::SetAvailability { node: late, availability: Availability::Cordoned })?;
    world.run(seconds(3))?;
    let side: Vec<NodeId> = (1..=IDLE).map(NodeId).chain([late]).collect();
    cut_off(world, &side);
    world.run(seconds(5))?;
    world.operate(&Command::SetAvailability { node: late, availability: Availability::Open })?;
    let time = Duration::from_millis(world.rng.random_range(2_000..20_000));
    world.run(time)
}

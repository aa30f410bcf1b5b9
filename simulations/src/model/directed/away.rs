//! Histories of holders whose agents are stopped on purpose: who minds a long grant, and for how long.

use std::time::Duration;

use hirsel_model::grant::long::LONG;
use hirsel_model::spec::Availability;
use hirsel_model::*;
use rand::Rng;

use super::super::check::Found;
use super::super::host::Power;
use super::super::scenario::{cut_off, holder, power, seconds};
use super::super::world::World;
use super::{led_by_who_only_votes, set, until};

/// A long grant is asked for, given and told, and the agent is gone, within this.
const GONE_WITHIN: Duration = Duration::from_secs(2);

/// The agent of the holder is stopped on purpose, and does not come back. The holder is to go, and who leads then may be another one, or
/// the same agent, started again.
pub(in super::super) fn away(world: &mut World) -> Result<(), Found> {
    let Some(holds) = stopped(world, None)? else { return Ok(()) };
    match world.rng.random_range(0..3) {
        0 => world.hand_over()?,
        1 => {
            if let Some(leader) = world.leader() {
                power(world, leader, Power::Orphaned);
                power(world, leader, Power::On);
            }
        }
        _ => {}
    }
    set(world, holds, Availability::Draining)?;
    world.run(seconds(9))
}

/// The agent of the holder is stopped on purpose, and soon back. It is cut off when guard and shim may not keep yet what it tells them, and
/// the holder is to go.
pub(in super::super) fn back(world: &mut World) -> Result<(), Found> {
    let Some(holds) = stopped(world, Some(seconds(1)))? else { return Ok(()) };
    until(world, GONE_WITHIN, |world| world.hosts[&holds].is_on())?;
    let time = Duration::from_millis(world.rng.random_range(500..1_500));
    world.run(time)?;
    cut_off(world, &[holds]);
    set(world, holds, Availability::Draining)?;
    world.run(seconds(8))
}

/// Stops the agent of the holder, which is gone for so long, or for good.
fn stopped(world: &mut World, back: Option<Duration>) -> Result<Option<NodeId>, Found> {
    led_by_who_only_votes(world)?;
    let Some(holds) = holder(world) else { return Ok(None) };
    world.stop_for(holds, LONG, back, Duration::ZERO, Duration::ZERO);
    until(world, GONE_WITHIN, |world| !world.hosts[&holds].is_on())?;
    Ok(Some(holds))
}

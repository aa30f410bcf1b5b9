//! Agents that are restarted on purpose: a long grant is asked for, decided early, late or not at all, and answered or not; then the
//! agent is gone for a while, and its exclusive programs act on.

use std::time::Duration;

use hirsel_model::control::Command;
use hirsel_model::grant::grantable;
use hirsel_model::grant::long::{LONG, LONG_MAX, Lengthened};
use hirsel_model::spec::Availability;
use hirsel_model::*;
use rand::Rng;

use super::check::{Found, found};
use super::host::Power;
use super::scenario::{cut_off, everybody_disturbed, holder, power, seconds, update_cron};
use super::world::World;

/// An agent waits so long for the answer, and stops then in any case.
const WAITS_FOR: Duration = Duration::from_secs(2);
/// Guard and shim are told within this.
const TOLD_WITHIN: Duration = Duration::from_millis(300);
/// Who is not back so long after its long grant ran out has been replaced: a new leader may have begun to count anew in between.
const TAKEN_OVER_AFTER: Duration = Duration::from_secs(6);

/// An agent that is about to stop, or was stopped, on purpose.
#[derive(Clone, Debug)]
pub(super) struct Parting {
    node: NodeId,
    /// The start of its agent.
    life: Incarnation,
    /// On its own clock.
    asked_at: Timestamp,
    length: Duration,
    step: Next,
    /// When another agent is there.
    back_at: Option<Timestamp>,
}

/// What comes next, and when.
#[derive(Clone, Debug)]
enum Next {
    Decide { at: Timestamp, stop_at: Timestamp },
    Answer { at: Timestamp, grant: Lengthened, stop_at: Timestamp },
    Stop { at: Timestamp },
    Return,
}

impl World {
    /// The agent of `node` is told to stop. It may be back in time, too late, or not at all.
    pub(super) fn stop_on_purpose(&mut self, node: NodeId) {
        let length = Duration::from_millis(self.rng.random_range(3_000..=20_000));
        let back = Duration::from_millis(self.rng.random_range(500..15_000));
        let back = self.rng.random_bool(0.8).then_some(back);
        let (decided, answered) = match self.prompt {
            true => (0, 0),
            false if self.rng.random_bool(0.7) => (self.rng.random_range(0..200), 0),
            false => (self.rng.random_range(0..3_000), self.rng.random_range(0..1_500)),
        };
        let [decided, answered] = [decided, answered].map(Duration::from_millis);
        self.stop_for(node, length, back, decided, answered);
    }

    /// The agent of `node` is told to stop. Its long grant is decided and answered after so long, and it is back so long after it went.
    pub(super) fn stop_for(
        &mut self,
        node: NodeId,
        length: Duration,
        back: Option<Duration>,
        decided: Duration,
        answered: Duration,
    ) {
        let host = &self.hosts[&node];
        if !host.is_on() || self.past.is_some() || self.partings.iter().any(|parting| parting.node == node) {
            return;
        }
        let at = self.now + decided;
        let stop_at = self.now + WAITS_FOR.min(decided + answered + TOLD_WITHIN);
        let parting = Parting {
            node,
            life: host.incarnation,
            asked_at: host.clock(self.now),
            length,
            step: Next::Decide { at, stop_at },
            back_at: back.map(|back| stop_at + back),
        };
        self.say(&format!("the agent of {node} is to stop, and asks for a long grant of {} ms", length.as_millis()));
        self.partings.push(parting);
    }

    /// Whatever is due of agents that stop on purpose.
    pub(super) fn part(&mut self) -> Result<(), Found> {
        let mut rest = Vec::new();
        for mut parting in std::mem::take(&mut self.partings) {
            if self.go_on(&mut parting)? {
                rest.push(parting);
            }
        }
        self.partings.extend(rest);
        Ok(())
    }

    /// Takes the next step if it is due. Whether there is another one.
    fn go_on(&mut self, parting: &mut Parting) -> Result<bool, Found> {
        let (now, node) = (self.now, parting.node);
        let (is_on, life, clock) = {
            let host = &self.hosts[&node];
            (host.is_on(), host.incarnation, host.clock(now))
        };
        match parting.step.clone() {
            Next::Decide { at, stop_at } if at <= now => {
                let (incarnation, length_ms) = (parting.life, parting.length.as_millis() as u64);
                let command = Command::LongGrant { node, incarnation, length_ms };
                let decided = match self.leader() {
                    Some(leader) => self.commit(leader, command)?,
                    None => false,
                };
                let given = self.committed.long.iter().filter(|(_, long)| decided && long.since.0 == self.index);
                let grant = Lengthened {
                    tag: self.committed.cluster.tag.clone(),
                    generation: self.committed.plan.generation,
                    covers: given.map(|(id, _)| id.clone()).collect(),
                    length_ms,
                };
                if decided {
                    self.say(&format!("{node} is given a long grant for {:?}", grant.covers));
                }
                // It is not heard where it is cut off, and then it makes no difference to who asked.
                let heard = decided && self.hosts[&node].leader.is_some_and(|(leader, _)| self.is_wired(leader, node));
                let answer_at = stop_at.since(at).saturating_sub(Duration::from_millis(250));
                parting.step = match heard {
                    true => Next::Answer { at: at + answer_at, grant, stop_at },
                    false => Next::Stop { at: stop_at },
                };
            }
            Next::Answer { at, grant, stop_at } if at <= now && is_on => {
                if life == parting.life && now < stop_at {
                    let host = self.hosts.get_mut(&node).expect("a host");
                    host.holdings.dropped(host.state.plan.generation, &grantable(&host.state, node));
                    host.holdings.lengthen(&grant, parting.asked_at, clock);
                }
                parting.step = Next::Stop { at: stop_at };
            }
            Next::Stop { at } if at <= now && is_on => {
                if life == parting.life {
                    power(self, node, Power::Orphaned);
                    parting.step = Next::Return;
                } else {
                    return Ok(false);
                }
            }
            // Somebody else was here.
            Next::Return if self.hosts[&node].power != Power::Orphaned => return Ok(false),
            Next::Return => match parting.back_at {
                Some(at) if at <= now => {
                    power(self, node, Power::On);
                    return Ok(false);
                }
                Some(_) | None => {}
            },
            Next::Decide { .. } | Next::Answer { .. } | Next::Stop { .. } => {}
        }
        Ok(true)
    }
}

/// Agents of whoever holds something exclusive are restarted on purpose. When nothing else happens the program acts on as if nothing had;
/// then leaders change, wishes change and ways are cut while the agent is away, and when it is back.
pub(super) fn planned(world: &mut World) -> Result<(), Found> {
    everybody_disturbed(world);
    acts_on(world)?;
    for _ in 0..world.rng.random_range(3..8) {
        let Some(holder) = holder(world) else {
            world.run(seconds(1))?;
            continue;
        };
        world.stop_on_purpose(holder);
        for _ in 0..world.rng.random_range(1..4) {
            let time = Duration::from_millis(world.rng.random_range(0..4_000));
            world.run(time)?;
            disturb(world, holder)?;
        }
        if world.rng.random_bool(0.3) {
            cut_on_return(world, holder)?;
        }
        let time = Duration::from_millis(world.rng.random_range(0..12_000));
        world.run(time)?;
        world.cuts.clear();
        let closed = world.committed.spec.nodes.iter().filter(|(_, spec)| spec.availability != Availability::Open);
        for node in closed.map(|(node, _)| *node).collect::<Vec<_>>() {
            world.operate(&Command::SetAvailability { node, availability: Availability::Open })?;
        }
        for node in world.hosts.keys().copied().collect::<Vec<_>>() {
            power(world, node, Power::On);
        }
        let time = Duration::from_millis(world.rng.random_range(0..8_000));
        world.run(time)?;
    }
    Ok(())
}

/// The agent is back after five seconds, which is many leases: the same program acts all the time.
fn acts_on(world: &mut World) -> Result<(), Found> {
    const WHAT: &str = "acts on while its agent is restarted";
    world.run(seconds(5))?;
    let Some(holds) = holder(world) else { return found(WHAT, "nobody acts") };
    if world.leader() == Some(holds) {
        // A planned stop of a leader hands over first.
        world.hand_over()?;
        world.run(seconds(3))?;
    }
    let (starts, pids) = (world.hosts[&holds].starts, |world: &World| world.hosts[&holds].acts.len());
    (world.prompt, world.undisturbed) = (true, true);
    let before = world.now;
    world.stop_for(holds, LONG, Some(seconds(5)), Duration::ZERO, Duration::ZERO);
    while world.now.since(before) < LONG + seconds(5) {
        world.step()?;
        if pids(world) == 0 || world.hosts[&holds].starts != starts {
            return found(WHAT, format!("{holds} acts no more"));
        }
    }
    if !world.committed.long.is_empty() {
        return found(WHAT, format!("it is back, and still on record: {:?}", world.committed.long));
    }
    // And one that does not come back is replaced in time.
    world.stop_for(holds, LONG, None, Duration::ZERO, Duration::ZERO);
    let away_at = world.now;
    while holder(world).is_none_or(|now| now == holds) {
        if world.now.since(away_at) > LONG_MAX.min(LONG + LONG / 20) + TAKEN_OVER_AFTER {
            return found("is replaced after its long grant", format!("not after {:?}", world.now.since(away_at)));
        }
        world.step()?;
    }
    (world.prompt, world.undisturbed) = (false, false);
    power(world, holds, Power::On);
    world.run(seconds(15))
}

/// The agent is back, and before everybody knows what it was told it is cut off again.
fn cut_on_return(world: &mut World, holder: NodeId) -> Result<(), Found> {
    let before = world.hosts[&holder].incarnation;
    let until = world.now + LONG;
    while world.now < until && world.hosts[&holder].incarnation == before {
        world.step()?;
    }
    let time = Duration::from_millis(world.rng.random_range(200..1_500));
    world.run(time)?;
    cut_off(world, &[holder]);
    world.run(seconds(6))
}

/// Something that may come between.
fn disturb(world: &mut World, holder: NodeId) -> Result<(), Found> {
    let leader = world.leader();
    let until = world.now + Duration::from_millis(world.rng.random_range(1_000..6_000));
    match world.rng.random_range(0..10) {
        0 | 1 => world.hand_over()?,
        2 => {
            if let Some(leader) = leader {
                power(world, leader, Power::Frozen(until));
            }
        }
        3 => cut_off(world, &[holder]),
        4 => {
            // Dropped while it is away, or just before.
            world.operate(&Command::SetAvailability { node: holder, availability: Availability::Draining })?;
        }
        5 => update_cron(world)?,
        6 => {
            if let Some(leader) = leader.filter(|leader| *leader != holder) {
                power(world, leader, Power::Orphaned);
                power(world, leader, Power::On);
            }
        }
        7 => power(world, holder, Power::Frozen(until)),
        8 => {
            // Its host is started anew, and what it ran is gone.
            power(world, holder, Power::Off);
            let time = Duration::from_millis(world.rng.random_range(0..3_000));
            world.run(time)?;
            power(world, holder, Power::On);
        }
        _ => {}
    }
    Ok(())
}

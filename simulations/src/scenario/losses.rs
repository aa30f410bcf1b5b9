//! Nodes that are hard to hear, stand still, come and go, lack a guard, or are lost one after another: what must move does, and nothing
//! else.

use std::time::Duration;

use anyhow::Result;
use hirsel_model::grant::LEASE;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::{HEAL_WITHIN, MINUTES_10, Play, REPLACE_WITHIN};
use crate::check::Rule;
use crate::world::Power;

/// A guard that is silent is so for longer than a few grants.
const UNGUARDED_FOR: Duration = Duration::from_secs(10);
/// Between two looks.
const MOMENT: Duration = Duration::from_millis(100);

impl Play<'_> {
    pub(super) fn lossy(&mut self) -> Result<()> {
        let index = self.victim();
        let before = self.world.newest().map(|state| state.plan.generation);
        self.world.set(index, |trouble| trouble.loss = 0.3);
        self.world.pass(MINUTES_10)?;
        let after = self.world.newest().map(|state| state.plan.generation);
        if before != after {
            let message = format!("30 % loss on one node led from plan {before:?} to {after:?}");
            self.world.require(Rule::Judged, Err(message));
        }
        Ok(())
    }

    pub(super) fn frozen(&mut self) -> Result<()> {
        let index = self.victim();
        let frozen = self.world.nodes[index].name.clone();
        self.world.set(index, |trouble| trouble.frozen = true);
        self.judging_only(&frozen, Duration::from_secs(3))?;
        self.world.set(index, |trouble| trouble.frozen = false);
        self.judging_only(&frozen, Duration::from_secs(20))
    }

    /// The duty ends there with the grant that its guard last heard of, though the leader grants on, and nobody thinks less of the node.
    pub(super) fn unguarded(&mut self) -> Result<()> {
        let Some(index) = self.world.holder() else { return Ok(()) };
        let name = self.world.nodes[index].name.clone();
        self.world.note(format!("the guard of {name} is silent"));
        self.world.nodes[index].machine.silence_guard(true);
        self.world.pass(LEASE + MOMENT)?;
        let until = self.world.now() + UNGUARDED_FOR;
        while self.world.now() < until {
            let acts = self.world.nodes[index].machine.acting(self.world.now());
            if !acts.is_empty() {
                self.world.require(Rule::NeverTwo, Err(format!("{name} acts without a guard: {acts:?}")));
            }
            self.judging_only("nobody", MOMENT)?;
        }
        self.world.note(format!("the guard of {name} answers"));
        self.world.nodes[index].machine.silence_guard(false);
        Ok(())
    }

    fn judging_only(&mut self, victim: &str, length: Duration) -> Result<()> {
        let until = self.world.now() + length;
        while self.world.now() < until {
            self.world.pass(Duration::from_millis(100))?;
            let Some(state) = self.world.newest() else { continue };
            let judged: Vec<String> = state.plan.verdicts.keys().map(|node| state.spec.name_of(*node)).collect();
            if let Some(other) = judged.iter().find(|name| *name != victim) {
                self.world.require(Rule::Judged, Err(format!("{victim} was in trouble and {other} is judged")));
            }
        }
        Ok(())
    }

    pub(super) fn flapping(&mut self) -> Result<()> {
        let index = self.victim();
        let name = self.world.nodes[index].name.clone();
        let ends = self.world.now() + MINUTES_10;
        let mut moves = 0;
        let mut before = self.held_by(&name);
        while self.world.now() < ends {
            let on = self.world.trouble[index].power == Power::On;
            self.world.set(index, |trouble| trouble.power = if on { Power::Off } else { Power::On });
            for _ in 0..50 {
                self.world.pass(Duration::from_millis(100))?;
                let now = self.held_by(&name);
                if now != before {
                    moves += 1;
                    before = now;
                }
            }
        }
        if moves > 2 {
            self.world.require(Rule::Judged, Err(format!("work of the flapping {name} moved {moves} times")));
        }
        self.world.note(format!("work of {name} moved {moves} times"));
        Ok(())
    }

    /// Whether the plan gives a node anything.
    fn held_by(&self, name: &str) -> bool {
        let Some(state) = self.world.newest() else { return false };
        let slots = state.plan.roles.values().flat_map(|slots| slots.values().map(|slot| slot.node));
        let instances = state.plan.instances.values().map(|instance| instance.node);
        slots.chain(instances).any(|node| state.spec.name_of(node) == name)
    }

    pub(super) fn chained(&mut self) -> Result<()> {
        let mut off = Vec::new();
        for which in ["leader", "worker", "new leader"] {
            let leader = self.world.leader().unwrap_or(0);
            let others: Vec<usize> =
                (0..self.world.nodes.len()).filter(|index| *index != leader && !off.contains(index)).collect();
            let victim = if which == "worker" { others[self.rng.random_range(0..others.len())] } else { leader };
            off.push(victim);
            self.world.set(victim, |trouble| trouble.power = Power::Off);
            self.be_well(Rule::Healed, REPLACE_WITHIN, &format!("after the {which} was lost"))?;
        }
        for victim in off.into_iter().rev() {
            self.world.set(victim, |trouble| trouble.power = Power::On);
            self.be_well(Rule::Healed, HEAL_WITHIN, "after one came back")?;
        }
        Ok(())
    }

    pub(super) fn blackout(&mut self) -> Result<()> {
        let mut order: Vec<usize> = (0..self.world.nodes.len()).collect();
        for step in [Power::Off, Power::On] {
            order.shuffle(&mut SmallRng::from_rng(&mut self.rng));
            for index in order.clone() {
                self.world.set(index, |trouble| trouble.power = step);
                self.world.pass(Duration::from_millis(self.rng.random_range(0..1_000)))?;
                self.world.mark();
            }
        }
        self.be_well(Rule::Healed, REPLACE_WITHIN, "after all had been off")
    }
}

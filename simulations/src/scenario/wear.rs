//! What time does to certificates, and what disks do when they are full or slow.

use std::time::Duration;

use anyhow::Result;
use rand::Rng;

use super::{DAYS_12, DISK_FOR, HEAL_WITHIN, Play, RENEW_WITHIN, REPLACE_WITHIN, YEAR};
use crate::check::Rule;
use crate::world::{Power, Trouble};

impl Play<'_> {
    pub(super) fn years(&mut self) -> Result<()> {
        // Until the first leap is over, the work that was applied in a hurry is spread.
        let mut before = None;
        for leap in 0..4 {
            self.world.leap(DAYS_12);
            self.renewed()?;
            if leap == 0 {
                before = self.world.newest().map(|state| state.plan.generation);
            }
        }
        if before != self.world.newest().map(|state| state.plan.generation) {
            self.world.require(Rule::Judged, Err("renewing certificates changed the plan".into()));
        }
        // Who renewed before a restart shows the same after it, and asks for none.
        let index = self.victim();
        let ends = self.world.nodes[index].look(|eyes| eyes.certificate_ends()).flatten();
        self.world.set(index, |trouble| trouble.power = Power::Off);
        self.be_well(Rule::Healed, REPLACE_WITHIN, "after one was lost")?;
        self.world.set(index, |trouble| trouble.power = Power::On);
        self.be_well(Rule::Healed, HEAL_WITHIN, "after it came back")?;
        let after = self.world.nodes[index].look(|eyes| eyes.certificate_ends()).flatten();
        if ends.is_none() || ends != after {
            self.world.require(Rule::Renewed, Err(format!("a certificate that ends at {ends:?} became {after:?}")));
        }
        for index in 0..self.world.nodes.len() {
            self.world.set(index, |trouble| trouble.power = Power::Off);
        }
        self.world.leap(YEAR);
        for index in 0..self.world.nodes.len() {
            self.world.set(index, |trouble| trouble.power = Power::On);
        }
        self.be_well(Rule::Healed, REPLACE_WITHIN, "after a year without power")?;
        self.renewed()
    }

    /// Soon all running agents show certificates that are good for most of their life.
    fn renewed(&mut self) -> Result<()> {
        let renewed = self.world.until(RENEW_WITHIN, |world| {
            let now = world.wall_s();
            let shown = world.nodes.iter().map(|node| (&node.name, node.look(|eyes| eyes.certificate_ends())));
            for (name, ends) in shown {
                let left = ends.flatten().unwrap_or(0).saturating_sub(now);
                if left < 25 * 86_400 {
                    return Err(format!("{name} shows a certificate that is good for {left} s"));
                }
            }
            Ok(())
        })?;
        self.world.require(Rule::Renewed, renewed.map(drop));
        Ok(())
    }

    /// Something is wrong with the disk of one node: the others take changes all the time.
    pub(super) fn disk(&mut self, wrong: fn(&mut Trouble)) -> Result<()> {
        let index = self.victim();
        self.world.set(index, wrong);
        let ends = self.world.now() + DISK_FOR;
        let (mut before, mut since) = (self.world.oracle().acknowledgements(), self.world.now());
        while self.world.now() < ends {
            self.world.mark();
            self.world.pass(Duration::from_millis(self.rng.random_range(50..500)))?;
            let (acknowledged, now) = (self.world.oracle().acknowledgements(), self.world.now());
            if acknowledged > before {
                (before, since) = (acknowledged, now);
            }
            if now - since > REPLACE_WITHIN {
                let name = &self.world.nodes[index].name;
                let message = format!("nothing was acknowledged any more because of the disk of {name}");
                self.world.require(Rule::Healed, Err(message));
                since = now;
            }
        }
        Ok(())
    }
}

//! Objects under faults of everything: agents killed, hosts without power, frozen or cut off, disks that are full, slow or hung. One disk
//! also rots, dies, or is replaced by an empty one: what was kept as the classes promise survives that, and no more.

use std::time::Duration;

use anyhow::Result;
use rand::Rng;

use super::{Play, SLOW};
use crate::world::{Power, Trouble};

/// How long faults go on, and clients do without any.
const FAULTS_FOR: Duration = Duration::from_secs(40);
const CALM_FOR: Duration = Duration::from_secs(10);
/// Longest pause of a client between two uses.
const PAUSE: Duration = Duration::from_millis(2_500);
/// Nobody uses anything while a disk is replaced, and for so long after the faults: what is on its way ends.
const END_WITHIN: Duration = Duration::from_secs(1);
/// Bits that flip at once.
const FLIPS_MAX: usize = 6;

impl Play<'_> {
    /// Nothing is wrong, and many use the same objects at once.
    pub(super) fn stored(&mut self) -> Result<()> {
        self.world.make_buckets()?;
        let ends = self.world.now() + CALM_FOR;
        while self.world.now() < ends {
            self.world.pass(Duration::from_millis(20))?;
            self.world.use_objects(Duration::from_millis(500));
        }
        Ok(())
    }

    pub(super) fn objects(&mut self) -> Result<()> {
        self.world.make_buckets()?;
        let count = self.world.nodes.len();
        // Whose disk loses what it has. Of every body another piece more than is needed is elsewhere.
        let poor = self.rng.random_range(0..count);
        let most = if self.rng.random_bool(0.125) { count } else { 2 };
        let ends = self.world.now() + FAULTS_FOR;
        let (mut next, mut mends) = (self.world.now(), vec![None; count]);
        // Its disk is dead, and somebody is on the way with another one.
        let mut is_dead = false;
        while self.world.now() < ends {
            self.world.pass(Duration::from_millis(50))?;
            self.world.use_objects(PAUSE);
            let now = self.world.now();
            for (index, mend) in mends.iter_mut().enumerate() {
                if mend.is_some_and(|at| at <= now) {
                    *mend = None;
                    if index == poor && self.world.trouble[index].power == Power::Off && self.rng.random_bool(0.7) {
                        is_dead = false;
                        self.replace(index);
                    }
                    self.world.set(index, |trouble| *trouble = Trouble::default());
                }
            }
            if now < next {
                continue;
            }
            next = now + Duration::from_millis(self.rng.random_range(300..6_000));
            match self.rng.random_range(0..8) {
                0 => self.world.rot(poor, self.rng.random_range(1..=FLIPS_MAX)),
                1 if !is_dead && self.rng.random_bool(0.3) => {
                    is_dead = true;
                    self.world.fail_sync(poor);
                }
                2 => self.wish(),
                _ => {
                    let index = if self.rng.random_bool(0.3) { poor } else { self.victim() };
                    if mends[index].is_some() || mends.iter().filter(|mend| mend.is_some()).count() >= most {
                        continue;
                    }
                    mends[index] = Some(now + Duration::from_millis(self.rng.random_range(200..12_000)));
                    let fault = self.fault_of_objects(now, index == poor);
                    self.world.set(index, |trouble| *trouble = fault);
                }
            }
        }
        if is_dead {
            self.world.set(poor, |trouble| *trouble = Trouble { power: Power::Off, ..Trouble::default() });
            self.world.pass(END_WITHIN)?;
            self.replace(poor);
        }
        Ok(())
    }

    fn replace(&mut self, index: usize) {
        let node = &self.world.nodes[index];
        self.world.note(format!("{} gets an empty disk for objects", node.name));
        node.replace_drive();
    }

    fn fault_of_objects(&mut self, now: Duration, is_poor: bool) -> Trouble {
        let sound = Trouble::default();
        match self.rng.random_range(0..if is_poor { 16 } else { 12 }) {
            0 => Trouble { power: Power::Killed(now), ..sound },
            1 => Trouble { power: Power::Off, ..sound },
            2 | 3 => Trouble { power: Power::Doomed, ..sound },
            4 => Trouble { cut: true, ..sound },
            5 => Trouble { mute: true, ..sound },
            6 => Trouble { deaf: true, ..sound },
            7 => Trouble { frozen: true, ..sound },
            8 => Trouble { full: true, ..sound },
            9 => Trouble { hung: true, ..sound },
            10 => Trouble { slow: self.rng.random_range(Duration::from_millis(20)..SLOW), ..sound },
            11 => Trouble { loss: self.rng.random_range(0.1..0.5), ..sound },
            _ => Trouble { power: Power::Off, ..sound },
        }
    }
}

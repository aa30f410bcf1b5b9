//! The hands that break a node, and mend it.

use std::net::IpAddr;
use std::time::Duration;

use rand::Rng;

use super::World;
use crate::bug::Bug;
use crate::node::Node;

/// What a dying agent's kernel still sends arrives before its host begins to refuse.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(20);

/// How a node is, apart from its links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Power {
    /// Its agent runs.
    #[default]
    On,
    /// Its agent was killed at this time; its processes run.
    Killed(Duration),
    /// It has no power.
    Off,
    /// Its power fails inside the next sync.
    Doomed,
}

/// What is wrong with a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trouble {
    /// Its power.
    pub power: Power,
    /// Its cable is out.
    pub cut: bool,
    /// Nothing comes out of it, though everything arrives.
    pub mute: bool,
    /// Nothing reaches it, though everything leaves it.
    pub deaf: bool,
    /// Nothing leaves or reaches it until it thaws. (turmoil cannot stop the clock of one host; a host whose network stands still is
    /// what everybody else sees of a frozen one.) Its agent does nothing to its programs, which go on.
    pub frozen: bool,
    /// Share of datagrams its wire loses.
    pub loss: f64,
    /// Its disk is full.
    pub full: bool,
    /// So much longer each piece of durable work takes.
    pub slow: Duration,
    /// Nothing on its disk for objects comes to an end.
    pub hung: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Link {
    #[default]
    Open,
    /// Streams are held back.
    Hold,
    /// A living kernel refuses for a dead agent.
    Refuse,
}

impl World {
    /// Changes what is wrong with a node.
    pub fn set(&mut self, index: usize, change: impl FnOnce(&mut Trouble)) {
        let before = self.trouble[index].clone();
        change(&mut self.trouble[index]);
        let after = self.trouble[index].clone();
        if before == after {
            return;
        }
        self.note(format!("{} {after:?}", self.nodes[index].name));
        self.common.links.set_loss(self.nodes[index].ip, after.loss);
        self.nodes[index].platter.set_full(after.full);
        self.nodes[index].platter.set_slow(after.slow);
        self.nodes[index].drive.set_full(after.full);
        self.nodes[index].drive.set_slow(after.slow);
        self.nodes[index].drive.set_hung(after.hung);
        self.nodes[index].machine.hold_still(after.frozen);
        // At once, so that no request which begins now is owed an answer.
        self.look_around();
        match (before.power, after.power) {
            (same, other) if same == other => self.relink(),
            (_, Power::Killed(_)) => {
                // The kernel lives: it says that the connections end, and its page cache is written some day.
                self.nodes[index].unmount();
                self.sim.crash(self.nodes[index].name.as_str());
                self.common.links.set_down(self.nodes[index].ip, true);
            }
            (_, Power::Off) => self.lose_power(index),
            (_, Power::Doomed) => {
                self.nodes[index].platter.doom();
                self.nodes[index].drive.doom(&mut self.drives);
                self.relink();
            }
            (Power::Doomed, Power::On) => {
                // It never synced: there was nothing to lose, and the power stays.
                self.nodes[index].platter.spare();
                self.nodes[index].drive.spare();
                self.relink();
            }
            (_, Power::On) => {
                self.common.links.set_down(self.nodes[index].ip, false);
                self.relink();
                self.sim.bounce(self.nodes[index].name.as_str());
            }
        }
    }

    pub(super) fn lose_power(&mut self, index: usize) {
        let node = self.nodes[index].clone();
        self.trouble[index].power = Power::Off;
        self.common.links.set_down(node.ip, true);
        // Nothing leaves a host without power, not even the end of a connection.
        self.relink();
        let torn = self.rng.random_bool(0.5);
        let loss = node.platter.lose_power(torn.then_some(&mut self.rng));
        node.drive.lose_power(torn.then_some(&mut self.drives));
        node.machine.lose_power();
        self.sim.crash(node.name.as_str());
        self.note(format!("{} is off, {} of {} unsynced writes are lost", node.name, loss.lost, loss.unsynced));
    }

    /// Ends everything that is wrong.
    pub fn heal(&mut self) {
        for index in 0..self.nodes.len() {
            self.set(index, |trouble| *trouble = Trouble::default());
        }
    }

    /// Makes every link what the troubles at its ends say.
    pub(super) fn relink(&mut self) {
        let mut troubles = self.trouble.clone();
        if self.common.bug == Bug::Contagious {
            for (trouble, next) in troubles.iter_mut().zip(self.trouble.iter().cycle().skip(1)) {
                trouble.frozen |= next.frozen;
            }
        }
        let ends: Vec<(IpAddr, Trouble)> = self.nodes.iter().map(|node| node.ip).zip(troubles).collect();
        let ends: Vec<_> = ends.into_iter().chain([(self.client, Trouble::default())]).collect();
        for (index, (a, trouble_a)) in ends.iter().enumerate() {
            for (b, trouble_b) in &ends[index + 1..] {
                self.relink_pair(*a, trouble_a, *b, trouble_b);
            }
        }
    }

    fn relink_pair(&mut self, a: IpAddr, trouble_a: &Trouble, b: IpAddr, trouble_b: &Trouble) {
        let either = |f: fn(&Trouble) -> bool| f(trouble_a) || f(trouble_b);
        let links = &self.common.links;
        for (from, to, silent) in [(a, b, trouble_a.mute || trouble_b.deaf), (b, a, trouble_b.mute || trouble_a.deaf)] {
            if either(|t| t.cut) || silent { links.cut(from, to) } else { links.repair(from, to) }
        }
        let now = self.sim.elapsed();
        let refuses = |t: &Trouble| matches!(t.power, Power::Killed(at) if now >= at + LAST_WORDS);
        let wanted = if either(|t| t.cut || t.frozen || t.power == Power::Off) {
            Link::Hold
        } else if refuses(trouble_a) || refuses(trouble_b) {
            Link::Refuse
        } else {
            Link::Open
        };
        let link = self.links.entry((a, b)).or_default();
        let before = std::mem::replace(link, wanted);
        match (before, wanted) {
            (Link::Open, Link::Open) | (Link::Hold, Link::Hold) | (Link::Refuse, Link::Refuse) => {}
            (_, Link::Refuse) => self.sim.partition(a, b),
            (_, Link::Hold) => self.sim.hold(a, b),
            (Link::Hold, Link::Open) => self.sim.release(a, b),
            (Link::Refuse, Link::Open) => self.sim.repair(a, b),
        }
    }

    /// Nodes with which something is wrong.
    pub fn in_trouble(&self) -> impl Iterator<Item = &Node> {
        self.nodes
            .iter()
            .zip(&self.trouble)
            .filter(|(_, trouble)| **trouble != Trouble::default())
            .map(|(node, _)| node)
    }
}

//! A few candidates of one address on one wire: beats that are late, lost or cut off one way, hosts that die, freeze and come back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{BEAT_EVERY, Contest, Say};
use crate::id::*;
use crate::time::Timestamp;

/// The world moves in steps of so long, and so late is every beat.
pub(super) const STEP: Duration = Duration::from_millis(10);

#[derive(Clone)]
pub(super) struct Host {
    pub contest: Contest,
    pub up: bool,
    pub frozen: bool,
    pub holds: bool,
    pub able: bool,
    /// How long what is under way takes once it is brought to an end, and since when it is.
    pub takes: Duration,
    leaving: Option<Timestamp>,
    /// How long the host takes to put the address on or take it off, and what it is about to have done then.
    pub slow: Duration,
    deed: Option<(Timestamp, bool)>,
    /// When its guard drops the address unless it is told otherwise.
    guarded: Timestamp,
    words: String,
}

pub(super) struct Town {
    pub now: Timestamp,
    pub hosts: BTreeMap<NodeId, Host>,
    pub list: Vec<NodeId>,
    pub since: Generation,
    /// From whom to whom nothing goes.
    pub cut: BTreeSet<(NodeId, NodeId)>,
    /// So many of a hundred beats are lost.
    pub loss: u64,
    /// Who knows of no newer list than the one before.
    pub behind: BTreeSet<NodeId>,
    air: Vec<(NodeId, NodeId, Say)>,
    chance: u64,
}

impl Town {
    pub fn new(count: u64, chance: u64) -> Self {
        let mut town = Self {
            now: Timestamp(1_000),
            hosts: BTreeMap::new(),
            list: (1..=count).map(NodeId).collect(),
            since: Generation(1),
            cut: BTreeSet::new(),
            loss: 0,
            behind: BTreeSet::new(),
            air: Vec::new(),
            chance,
        };
        for node in (1..=count).map(NodeId) {
            town.start(node);
        }
        town
    }

    pub fn start(&mut self, node: NodeId) {
        let (contest, words) = (Contest::new(node, self.now), String::new());
        let host = Host {
            contest,
            up: true,
            frozen: false,
            holds: false,
            able: true,
            takes: Duration::ZERO,
            leaving: None,
            slow: Duration::ZERO,
            deed: None,
            guarded: self.now,
            words,
        };
        self.hosts.insert(node, host);
    }

    pub fn host(&mut self, node: u64) -> &mut Host {
        self.hosts.get_mut(&NodeId(node)).expect("a host")
    }

    /// Cuts both ways between a host and all others; or one way.
    pub fn cut_off(&mut self, node: NodeId, to: bool, from: bool) {
        for other in self.hosts.keys().filter(|other| **other != node) {
            self.cut.extend(to.then_some((*other, node)));
            self.cut.extend(from.then_some((node, *other)));
        }
    }

    pub fn holders(&self) -> Vec<NodeId> {
        self.hosts.iter().filter(|(_, host)| host.up && host.holds).map(|(node, _)| *node).collect()
    }

    pub fn change(&mut self, list: &[u64]) {
        self.list = list.iter().copied().map(NodeId).collect();
        self.since = self.since.next();
    }

    /// One step. Says what changed.
    pub fn step(&mut self) -> Vec<String> {
        self.now = self.now + STEP;
        let now = self.now;
        for (from, to, say) in std::mem::take(&mut self.air) {
            let lost = self.draw() % 100 < self.loss;
            let host = self.hosts.get_mut(&to).expect("a host");
            // What reaches a frozen host is read when it goes on; that it is left out here makes it harder.
            if host.up && !host.frozen && !lost && !self.cut.contains(&(from, to)) {
                host.contest.hear(now, from, say);
            }
        }
        let nodes: Vec<NodeId> = self.hosts.keys().copied().collect();
        let mut told = Vec::new();
        for (node, host) in &mut self.hosts {
            if host.holds && now >= host.guarded {
                host.holds = false;
                told.push(format!("{node} drops it: its agent stands still"));
            }
            if let Some((_, holds)) = host.deed.take_if(|(at, _)| now >= *at) {
                host.holds = holds && host.up;
            }
            // Each in its own rhythm.
            let beats = (now.0 + node.0 * 30).is_multiple_of(BEAT_EVERY.as_millis() as u64);
            if !host.up || host.frozen || !beats {
                continue;
            }
            if !self.behind.contains(node) {
                host.contest.adopt(now, self.list.clone(), self.since);
            }
            host.contest.set_able(host.able);
            host.contest.set_holds(host.holds);
            host.contest.set_busy(host.leaving.is_none_or(|since| now.since(since) < host.takes));
            let decision = host.contest.decide(now);
            host.leaving = decision.leaving.then_some(host.leaving.unwrap_or(now));
            host.guarded = now + Duration::from_secs(1);
            let what = if decision.hold { "holds it" } else { "does not" };
            let words = format!("{node} {what}: {:?}", decision.why);
            let begins = host.holds != decision.hold && host.deed.is_none();
            if begins || (host.words != words && !words.contains("Listens")) {
                told.push(words.clone());
            }
            host.words = words;
            if begins && host.slow.is_zero() {
                host.holds = decision.hold;
            } else if begins {
                host.deed = Some((now + host.slow, decision.hold));
            }
            host.contest.set_holds(host.holds);
            if let Some(say) = host.contest.say(now) {
                let others = nodes.iter().filter(|other| *other != node);
                self.air.extend(others.map(|other| (*node, *other, say.clone())));
            }
        }
        told
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    pub fn draw(&mut self) -> u64 {
        // SplitMix64: tests need no better.
        self.chance = self.chance.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.chance ^ (self.chance >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

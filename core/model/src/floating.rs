//! Who holds a floating address, as its candidates find out among each other: a state machine that is told the time and what was heard.
//!
//! The plan lists the candidates of each address, the best one first ([`crate::plan::AddressPlan`]). They beat every [`BEAT_EVERY`] on
//! the interface that carries the address, and each decides for itself ([`Contest::decide`]). Two holders for a moment are harmless and
//! none is an outage, so that no lease, leader or majority is asked for:
//!
//! - Whoever hears nobody better for [`DEAD_AFTER`] takes the address; a holder lets go when somebody better *holds* it, and not before.
//! - *Better* is the later list, and of one list the earlier place. So a list that changed wins by itself, whoever has heard of it.
//! - A beat tells whom its sender hears. Somebody that is heard by another one that we hear, and that hears us, lives too, so that a
//!   broken cable between two does not make two holders. A candidate that hears how others hear each other, and is heard by none of
//!   them, *stands back*. One that says that it hears nobody is passed over by whoever hears it: either it is deaf, and somebody has to
//!   serve in its place, or we are mute, and nobody sees what we hold.
//! - A holder that serves lets go to nobody that is about to give way to it: to none that comes out of solitude, or has just come. Else both
//!   would let go at once when a wire heals, and take again, in turn.
//! - Whoever has just come (its agent began, its load balancer came to life, its cable was plugged in again) does not take from one that
//!   serves before [`STEADY_AFTER`]: what it knows of the cluster may be old. Nor does a deaf one count that begins to hear again.
//! - Where a holder lives that is to let go, its heir waits until it is no more *busy*, for [`HANDOVER_MAX`] at most: it lets nobody in
//!   any more and ends what is under way, so that a planned move breaks no connection.
//!
//! What is absent here: clocks, sockets, signatures ([`Ledger`] only counts). Whoever executes says whether it holds the address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::*;
use crate::time::Timestamp;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod town;

/// Where candidates hear each other, by UDP. Nobody else need reach it.
pub const BEAT_PORT: u16 = 7401;
/// Time between two beats.
pub const BEAT_EVERY: Duration = Duration::from_millis(100);
/// A candidate that was not heard for so long is dead: four beats in a row were lost, or its host is.
pub const DEAD_AFTER: Duration = Duration::from_millis(500);
/// Whoever has just come does not take from one that serves before this. Gossip has told it by then which instances work.
pub const STEADY_AFTER: Duration = Duration::from_secs(3);

/// A holder that is to let go is waited for no longer: what takes more time is broken off.
pub const HANDOVER_MAX: Duration = Duration::from_secs(4);

/// What one candidate says ten times a second, of all addresses that it may hold on one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Beat {
    /// Who speaks.
    pub node: NodeId,
    /// Which start of its agent.
    pub incarnation: Incarnation,
    /// Rises with every beat of that start.
    pub counter: u64,
    /// About each address.
    pub says: Vec<(IpAddr, Say)>,
}

/// What a candidate says of itself about one address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Say {
    /// What it is up to.
    pub claim: Claim,
    /// Whom it hears, and what they are up to.
    pub hears: BTreeMap<NodeId, Claim>,
    /// It became fit for the address less than [`STEADY_AFTER`] ago.
    pub fresh: bool,
}

/// What a candidate is up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Claim {
    /// The plan that made the list it goes by.
    pub since: Generation,
    /// It holds the address.
    pub holds: bool,
    /// It would, if there were nobody better.
    pub wants: bool,
    /// It serves at the address, and would break something off if it let go now.
    #[serde(skip_serializing_if = "crate::spec::is_default")]
    pub busy: bool,
}

/// Why a node does or does not hold an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Nobody better lives.
    Best,
    /// Somebody better holds it, or is about to.
    Better(NodeId),
    /// It is in no list, and nobody that is holds the address yet.
    Lingers,
    /// It is in no list.
    Unlisted,
    /// Its load balancer does not answer, or its host cannot hold the address.
    Unable,
    /// It has just begun to listen.
    Listens,
    /// It has just come, and somebody else serves.
    Fresh(NodeId),
    /// It hears others, and none of them hears it.
    Unheard,
    /// It is about to take it, and waits until another one has ended what is under way there.
    Handover(NodeId),
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether to hold the address.
    pub hold: bool,
    /// Why.
    pub why: Why,
    /// Somebody else claims to hold it too: neighbours shall hear again who does.
    pub contested: bool,
    /// It is held here, and somebody else is about to take it: what is under way shall be brought to an end.
    pub leaving: bool,
}

/// One address as one node sees it.
#[derive(Clone, Debug)]
pub struct Contest {
    me: NodeId,
    list: Vec<NodeId>,
    since: Generation,
    /// Since when it listens without a pause.
    listens_since: Timestamp,
    decided: Timestamp,
    able: bool,
    /// Since when it has been able to serve.
    able_since: Option<Timestamp>,
    /// Since when it has gone by this list.
    adopted: Timestamp,
    holds: bool,
    busy: bool,
    /// Since when it waits for a holder that is busy.
    waits_since: Option<Timestamp>,
    parting: bool,
    /// Since when it is fit: listed, able, and not standing back.
    fit_since: Option<Timestamp>,
    /// When somebody last said that it is heard.
    heard_back: Option<Timestamp>,
    /// Since when it has been hearing somebody.
    company_since: Option<Timestamp>,
    others: BTreeMap<NodeId, Other>,
}

/// Another candidate, as it was last heard.
#[derive(Clone, Debug)]
struct Other {
    at: Timestamp,
    /// Since when it has been heard without a pause.
    first: Timestamp,
    /// When it last said that it hears somebody.
    heard_some: Timestamp,
    say: Say,
}

impl Contest {
    /// `me` begins to listen at `now`. It knows of no list yet.
    pub fn new(me: NodeId, now: Timestamp) -> Self {
        Self {
            me,
            list: Vec::new(),
            since: Generation(0),
            listens_since: now,
            decided: now,
            able: false,
            able_since: None,
            adopted: now,
            holds: false,
            busy: false,
            waits_since: None,
            parting: false,
            fit_since: None,
            heard_back: None,
            company_since: None,
            others: BTreeMap::new(),
        }
    }

    /// Goes by this list from here on.
    pub fn adopt(&mut self, now: Timestamp, list: Vec<NodeId>, since: Generation) {
        if since != self.since {
            self.adopted = now;
        }
        (self.list, self.since) = (list, since);
    }

    /// Says whether this node could serve whoever asks at the address: its load balancer answers, and the host lets it hold the address.
    pub fn set_able(&mut self, able: bool) {
        self.able = able;
    }

    /// Says whether the address is on this host.
    pub fn set_holds(&mut self, holds: bool) {
        self.holds = holds;
    }

    /// Says whether something would be broken off if this node let go of the address.
    pub fn set_busy(&mut self, busy: bool) {
        self.busy = busy;
    }

    /// The agent is about to end: somebody else shall take over first.
    pub fn part(&mut self) {
        self.parting = true;
    }

    /// Whether the address is on this host, as was last said.
    pub fn holds(&self) -> bool {
        self.holds
    }

    /// Whether nobody else is heard.
    pub fn is_alone(&self, now: Timestamp) -> bool {
        self.present(now).next().is_none()
    }

    /// Takes what another candidate says.
    pub fn hear(&mut self, now: Timestamp, from: NodeId, say: Say) {
        if from == self.me {
            return;
        }
        if say.hears.contains_key(&self.me) {
            self.heard_back = Some(now);
        }
        let before = self.others.get(&from).filter(|other| now.since(other.at) < DEAD_AFTER);
        let first = before.map_or(now, |other| other.first);
        let heard_some = if say.hears.is_empty() { before.map_or(now, |other| other.heard_some) } else { now };
        self.others.insert(from, Other { at: now, first, heard_some, say });
    }

    /// What to do now. To be asked at least every [`BEAT_EVERY`]: after a pause nobody is taken for dead who only was not listened to.
    pub fn decide(&mut self, now: Timestamp) -> Decision {
        let pause = now.since(self.decided);
        self.decided = now;
        if pause >= DEAD_AFTER {
            self.listens_since = now;
            self.heard_back = None;
            // While it stood still others took over, and what it knows is old.
            if pause >= 2 * DEAD_AFTER {
                self.fit_since = None;
            }
        }
        self.others.retain(|_, other| now.since(other.at) < DEAD_AFTER);
        self.keep_company(now);
        self.able_since = if self.able { Some(self.able_since.unwrap_or(now)) } else { None };
        let unheard = self.is_unheard(now);
        let fit = self.place(self.me).is_some() && self.able && !unheard && !self.parting;
        self.fit_since = if fit { Some(self.fit_since.unwrap_or(now)) } else { None };
        let (hold, why) = self.judge(now, unheard);
        let (hold, why) = self.wait_for_busy(now, hold, why);
        let contested = hold && self.present(now).any(|(_, other)| other.say.claim.holds);
        let leaving = hold && self.holds && self.has_heir(now);
        Decision { hold, why, contested, leaving }
    }

    /// What to tell the others, if anything: only whoever could serve has a say, and whoever holds the address.
    pub fn say(&self, now: Timestamp) -> Option<Say> {
        if !self.able || (self.place(self.me).is_none() && !self.holds) {
            return None;
        }
        let hears = self.present(now).map(|(node, other)| (*node, other.say.claim)).collect();
        let (holds, busy) = (self.holds, self.holds && self.busy);
        let claim = Claim { since: self.since, holds, wants: self.wants(now), busy };
        Some(Say { claim, hears, fresh: self.is_fresh(now) })
    }

    fn judge(&self, now: Timestamp, unheard: bool) -> (bool, Why) {
        let alive = self.alive(now);
        let serving = alive.iter().find(|(_, claim)| claim.holds && claim.wants).map(|(node, _)| *node);
        let better = |claimed: bool| {
            let ahead = alive.iter().filter(|(node, claim)| claim.wants && self.is_better(now, **node, claim));
            let ahead = ahead.filter(|(node, claim)| !claimed || (claim.holds && !self.gives_way(now, **node)));
            ahead.map(|(node, _)| *node).next()
        };
        if self.list.is_empty() {
            return (false, Why::Unlisted);
        }
        if self.holds {
            if unheard {
                return (false, Why::Unheard);
            }
            return match (serving, self.wants(now)) {
                (Some(other), false) => (false, self.hindrance(now, other)),
                (None, false) => (true, Why::Lingers),
                (_, true) => better(true).map_or((true, Why::Best), |other| (false, Why::Better(other))),
            };
        }
        if self.place(self.me).is_none() {
            return (false, Why::Unlisted);
        }
        if !self.able || self.parting {
            return (false, Why::Unable);
        }
        if unheard {
            return (false, Why::Unheard);
        }
        if let Some(other) = better(false) {
            return (false, Why::Better(other));
        }
        match serving {
            Some(other) if !self.wants(now) => (false, Why::Fresh(other)),
            _ if now.since(self.listens_since) < DEAD_AFTER => (false, Why::Listens),
            Some(_) | None => (true, Why::Best),
        }
    }

    /// Whoever is about to take the address waits for a holder that lives and is busy.
    fn wait_for_busy(&mut self, now: Timestamp, hold: bool, why: Why) -> (bool, Why) {
        let takes = hold && !self.holds;
        let busy = self.alive(now).into_iter().find(|(_, claim)| takes && claim.holds && claim.busy);
        let Some((other, _)) = busy else {
            self.waits_since = None;
            return (hold, why);
        };
        let since = *self.waits_since.get_or_insert(now);
        if now.since(since) < HANDOVER_MAX { (false, Why::Handover(other)) } else { (hold, why) }
    }

    /// Whether somebody else is about to take what is held here.
    fn has_heir(&self, now: Timestamp) -> bool {
        let mine = self.wants(now);
        self.alive(now)
            .iter()
            .any(|(node, claim)| claim.wants && !claim.holds && (!mine || self.is_better(now, *node, claim)))
    }

    /// Why a holder does not want the address, while `other` serves.
    fn hindrance(&self, now: Timestamp, other: NodeId) -> Why {
        if self.place(self.me).is_none() {
            Why::Better(other)
        } else if !self.able || self.parting {
            Why::Unable
        } else if self.is_fresh(now) {
            Why::Fresh(other)
        } else {
            Why::Better(other)
        }
    }

    /// Whether it would hold the address if nobody better lived. Whoever has just come takes from nobody that serves, and one that holds
    /// the address since it was alone gives it to whoever serves and was not.
    fn wants(&self, now: Timestamp) -> bool {
        let serves = |(_, other): (&NodeId, &Other)| {
            let Claim { holds, wants, .. } = other.say.claim;
            // One that hears nobody comes out of solitude as this node does, and is fresh as soon as it does.
            let is_new = other.say.fresh || other.say.hears.is_empty();
            holds && wants && !(self.holds && is_new) && !self.is_deaf(now, other)
        };
        self.fit_since.is_some() && !(self.is_fresh(now) && self.present(now).any(serves))
    }

    /// Whether another holder lets go of the address as soon as it has heard this one, which holds it: it comes out of solitude, or is fresh and
    /// this one is not. One that is only told of by others is not known that well.
    fn gives_way(&self, now: Timestamp, node: NodeId) -> bool {
        let other = self.others.get(&node).map(|other| &other.say);
        other.is_some_and(|say| say.hears.is_empty() || (say.fresh && !self.is_fresh(now)))
    }

    fn is_fresh(&self, now: Timestamp) -> bool {
        self.fit_since.is_none_or(|since| now.since(since) < STEADY_AFTER)
    }

    fn present(&self, now: Timestamp) -> impl Iterator<Item = (&NodeId, &Other)> {
        self.others.iter().filter(move |(_, other)| now.since(other.at) < DEAD_AFTER)
    }

    fn hears_me(&self, other: &Other) -> bool {
        other.say.hears.contains_key(&self.me)
    }

    /// Whoever comes out of solitude begins anew: what served meanwhile goes on.
    fn keep_company(&mut self, now: Timestamp) {
        match (self.others.is_empty(), self.company_since) {
            (true, _) => self.company_since = None,
            (false, Some(_)) => {}
            (false, None) => {
                self.company_since = Some(now);
                self.fit_since = None;
            }
        }
    }

    /// Whether it hears that others hear somebody, and for a while none of them has heard it, though it spoke.
    fn is_unheard(&self, now: Timestamp) -> bool {
        let others_hear = self.present(now).any(|(_, other)| !other.say.hears.is_empty());
        let since = [self.company_since, self.heard_back, self.able_since, Some(self.listens_since)];
        let since = since.into_iter().flatten().max().unwrap_or(now);
        others_hear && now.since(since) >= DEAD_AFTER
    }

    /// Whether another one has heard nobody for a while.
    fn is_deaf(&self, now: Timestamp, other: &Other) -> bool {
        other.say.hears.is_empty() && now.since(other.first.max(other.heard_some)) >= DEAD_AFTER
    }

    /// Everybody else that lives: heard here, or by one that we hear and that hears us.
    fn alive(&self, now: Timestamp) -> BTreeMap<NodeId, Claim> {
        let sound = |(_, other): &(&NodeId, &Other)| !self.is_deaf(now, other);
        let present: BTreeSet<NodeId> = self.present(now).map(|(node, _)| *node).collect();
        let mut alive = BTreeMap::new();
        for (_, other) in self.present(now).filter(|(_, other)| self.hears_me(other)) {
            let told = other.say.hears.iter().filter(|(node, _)| **node != self.me && !present.contains(node));
            alive.extend(told.map(|(node, claim)| (*node, *claim)));
        }
        alive.extend(self.present(now).filter(sound).map(|(node, other)| (*node, other.say.claim)));
        alive
    }

    /// Its place in the list that is known here.
    fn place(&self, node: NodeId) -> Option<usize> {
        self.list.iter().position(|listed| *listed == node)
    }

    fn is_better(&self, now: Timestamp, node: NodeId, claim: &Claim) -> bool {
        // Whoever is to hear of our list in a moment is waited for, and no longer.
        let late = claim.since < self.since && now.since(self.adopted) < DEAD_AFTER && !claim.holds;
        if claim.since != self.since && !late {
            return claim.since > self.since;
        }
        match (self.place(node), self.place(self.me)) {
            (Some(other), Some(mine)) => other < mine,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}

/// Which beats count: those of the present start of a node, each once, in their order. So nothing that was recorded can be said again.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    last: BTreeMap<NodeId, (Incarnation, u64)>,
}

impl Ledger {
    /// Whether a beat that was signed by its sender is new; `known` is the latest start of it that the cluster knows of.
    pub fn admits(&mut self, beat: &Beat, known: Incarnation) -> bool {
        let now = (beat.incarnation, beat.counter);
        let is_new = beat.incarnation >= known && self.last.get(&beat.node).is_none_or(|last| *last < now);
        if is_new {
            self.last.insert(beat.node, now);
        }
        is_new
    }
}

//! What this node knows of each floating address, and what it does about it: told the time, and the outcome of what it had done.
//!
//! Nothing here waits or touches the host. [`Desk::beat`] is asked ten times a second; it returns deeds, which somebody carries out
//! beside the beats, for a host that is slow must not make a holder fall silent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hirsel_model::floating::{Beat, Contest, Ledger, Say, Why};
use hirsel_model::order::{AddressOrder, FloatingAddress};
use hirsel_model::{NodeId, Timestamp};
use hirsel_role::host::floating::Floating;

#[cfg(test)]
mod tests;

/// The guard takes an address off the host when it was not renewed for so long. Others have taken it by then.
pub const GUARDED_FOR: Duration = Duration::from_secs(1);
/// A renewal may fail three times before that.
const RENEW_EVERY: Duration = Duration::from_millis(250);
/// A load balancer that did not answer for so long is not there. It is asked four times in this time.
const ANSWER_COUNTS_FOR: Duration = Duration::from_secs(1);
/// An address that the host did not take is not tried again before this. Others hold it meanwhile.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Neighbours are told at once, and twice again, for a packet may be lost: gaps between those.
const ANNOUNCE_GAPS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(300), Duration::from_millis(700)];
/// And then every so often, for whoever was asleep or misled.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(30);
/// While somebody else claims the address too.
const ANNOUNCE_CONTESTED: Duration = Duration::from_millis(500);
/// Whoever is in no list is answered for so long after it was last heard: it has to hear who holds the address now.
const VISITOR_FOR: Duration = Duration::from_secs(1);

/// The hook is run at once, and again after this: the call of a holder before this one may have come to its end later.
const HOOK_SECOND: Duration = Duration::from_secs(10);
/// And then every so often, for whatever was changed behind our back. Whoever is asked by it may count calls.
const HOOK_EVERY: Duration = Duration::from_secs(300);
/// A hook that failed is run again after this, then after twice as long, up to a limit.
const HOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);
const HOOK_AGAIN_AFTER_MAX: Duration = Duration::from_secs(30);

/// Where beats go out and come in: an interface, and this node's own address there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// The interface.
    pub interface: String,
    /// This node's own address.
    pub at: IpAddr,
}

/// Something to have done by the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Put it on its interface, or leave it there, until then.
    Hold(Floating, Timestamp),
    /// Take it off.
    LetGo(Floating),
    /// Tell the neighbours.
    Announce(Floating),
    /// Have the operator's program do what it takes besides, while it is held.
    Hook(Floating),
}

/// What is to be told on a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mail {
    /// To whom.
    pub to: BTreeSet<IpAddr>,
    /// What.
    pub says: Vec<(IpAddr, Say)>,
}

/// What to do now.
#[derive(Debug, Default)]
pub struct Pulse {
    /// On the host, in any order.
    pub deeds: Vec<Deed>,
    /// On each link that there is to be, whether there is something to tell or not.
    pub mail: BTreeMap<Link, Mail>,
}

/// All addresses at this node.
#[derive(Debug)]
pub struct Desk {
    me: NodeId,
    order: Arc<AddressOrder>,
    ledger: Ledger,
    lb_answered: Option<Timestamp>,
    barred: Option<String>,
    parting: bool,
    /// There is a program of the operator to run.
    hooked: bool,
    /// Addresses at which nothing is under way on this host.
    quiet: BTreeSet<IpAddr>,
    seats: BTreeMap<IpAddr, Seat>,
    /// Addresses that are or may be on this host and have no place here, and whether their end is being brought about.
    strays: BTreeMap<Floating, bool>,
}

/// One address at this node.
#[derive(Debug)]
struct Seat {
    contest: Contest,
    floating: Floating,
    at: IpAddr,
    peers: BTreeSet<IpAddr>,
    visitors: BTreeMap<IpAddr, Timestamp>,
    /// On this host, and guarded until [`GUARDED_FOR`] after that.
    held_since_renewal: Option<Timestamp>,
    /// Another node is about to take it.
    leaving: bool,
    /// A deed is under way.
    busy: bool,
    told: usize,
    told_at: Timestamp,
    failed: Option<(String, Timestamp)>,
    hook: Hook,
    why: Why,
}

/// The operator's program, while the address is held.
#[derive(Debug)]
struct Hook {
    due: Timestamp,
    busy: bool,
    /// It ended well so often since the address was taken.
    ran: usize,
    /// Since then it failed so often, and how it did last.
    failures: u32,
    failed: Option<String>,
}

impl Desk {
    /// Of the node `me`, without an order; `hooked` where there is a program of the operator to run besides.
    pub fn new(me: NodeId, hooked: bool) -> Self {
        Self {
            me,
            order: Arc::default(),
            ledger: Ledger::default(),
            lb_answered: None,
            barred: None,
            parting: false,
            hooked,
            quiet: BTreeSet::new(),
            seats: BTreeMap::new(),
            strays: BTreeMap::new(),
        }
    }

    /// Addresses that a start of the agent before this one may have left on the host.
    pub fn leftover(&mut self, floating: impl IntoIterator<Item = Floating>) {
        self.strays.extend(floating.into_iter().map(|floating| (floating, false)));
    }

    /// Why the host takes no address at all; none when it does.
    pub fn set_barred(&mut self, barred: Option<String>) {
        self.barred = barred;
    }

    /// The load balancer of this node answered.
    pub fn lb_answers(&mut self, now: Timestamp) {
        self.lb_answered = Some(now);
    }

    /// The agent is about to end: what is held is handed over.
    pub fn part(&mut self) {
        self.parting = true;
    }

    /// Addresses about to leave at which nothing is under way any more on this host.
    pub fn set_quiet(&mut self, quiet: BTreeSet<IpAddr>) {
        self.quiet = quiet;
    }

    /// Addresses that are on this host and about to be taken by another one.
    pub fn leaving(&self) -> BTreeSet<IpAddr> {
        self.seats.iter().filter(|(_, seat)| seat.leaving).map(|(address, _)| *address).collect()
    }

    /// Whether there is anything to do.
    pub fn is_idle(&self) -> bool {
        self.seats.is_empty() && self.strays.is_empty()
    }

    /// What this node would have to be able to find again, if it went by `order`.
    pub fn names(&self, order: &AddressOrder) -> BTreeSet<Floating> {
        let mine = order.addresses.iter().filter_map(|(address, list)| Some(own(self.me, *address, list)?.0));
        let seats = self.seats.values().map(|seat| seat.floating.clone());
        mine.chain(seats).chain(self.strays.keys().cloned()).collect()
    }

    /// Goes by `order` from here on.
    pub fn adopt(&mut self, now: Timestamp, order: &Arc<AddressOrder>) {
        if self.order == *order {
            return;
        }
        self.order = order.clone();
        let gone: Vec<IpAddr> =
            self.seats.keys().filter(|address| !order.addresses.contains_key(*address)).copied().collect();
        gone.iter().for_each(|address| self.leave(*address));
        for (address, list) in &order.addresses {
            let place = own(self.me, *address, list);
            match (self.seats.get_mut(address), place) {
                (None, None) => continue,
                (None, Some((floating, at))) => {
                    let seat = Seat::new(self.me, floating, at, now);
                    self.seats.insert(*address, seat);
                }
                // It holds the address on until somebody else does.
                (Some(_), None) => {}
                (Some(seat), Some((floating, at))) => {
                    if seat.floating != floating && (seat.held_since_renewal.is_some() || seat.busy) {
                        self.strays.insert(seat.floating.clone(), false);
                        seat.held_since_renewal = None;
                        seat.busy = false;
                    }
                    (seat.floating, seat.at) = (floating, at);
                }
            }
            if let Some(seat) = self.seats.get_mut(address) {
                let nodes = list.candidates.iter().map(|candidate| candidate.node).collect();
                seat.contest.adopt(now, nodes, list.since);
                let others = list.candidates.iter().filter(|candidate| candidate.node != self.me);
                seat.peers = others.map(|candidate| candidate.at).collect();
            }
        }
    }

    fn leave(&mut self, address: IpAddr) {
        if let Some(seat) = self.seats.remove(&address)
            && (seat.held_since_renewal.is_some() || seat.busy)
        {
            self.strays.insert(seat.floating, false);
        }
    }

    /// Takes a datagram that came in on `link`. `read` says what it is, if it is to be believed.
    pub fn hear(
        &mut self,
        now: Timestamp,
        link: &Link,
        from: IpAddr,
        read: impl FnOnce(&AddressOrder, &mut Ledger) -> Option<Beat>,
    ) {
        let Some(beat) = read(&self.order, &mut self.ledger) else { return };
        for (address, say) in beat.says {
            let Some(seat) = self.seats.get_mut(&address) else { continue };
            if seat.link() == *link {
                seat.visitors.insert(from, now);
                seat.contest.hear(now, beat.node, say);
            }
        }
    }

    /// What to do and to tell now.
    pub fn beat(&mut self, now: Timestamp) -> Pulse {
        let mut pulse = Pulse::default();
        for (floating, busy) in self.strays.iter_mut().filter(|(_, busy)| !**busy) {
            *busy = true;
            pulse.deeds.push(Deed::LetGo(floating.clone()));
        }
        let answers = self.lb_answered.is_some_and(|at| now.since(at) < ANSWER_COUNTS_FOR);
        let able = answers && self.barred.is_none();
        for (address, seat) in &mut self.seats {
            if self.parting {
                seat.contest.part();
            }
            let strays = self.strays.keys().any(|stray| stray.address == *address);
            seat.contest.set_busy(!self.quiet.contains(address));
            pulse.deeds.extend(seat.decide(now, able, strays));
            if self.hooked && seat.held_since_renewal.is_some() && seat.hook.begins(now) {
                pulse.deeds.push(Deed::Hook(seat.floating.clone()));
            }
            let mail = pulse.mail.entry(seat.link()).or_default();
            if let Some(say) = seat.contest.say(now) {
                seat.visitors.retain(|_, at| now.since(*at) < VISITOR_FOR);
                mail.to.extend(seat.peers.iter().chain(seat.visitors.keys()));
                mail.says.push((*address, say));
            }
        }
        let idle = |seat: &Seat| seat.why == Why::Unlisted && seat.held_since_renewal.is_none() && !seat.busy;
        self.seats.retain(|_, seat| !idle(seat));
        pulse
    }

    /// A deed has come to its end.
    pub fn done(&mut self, now: Timestamp, deed: &Deed, result: Result<(), String>) {
        match deed {
            Deed::Hold(floating, until) => match self.seats.get_mut(&floating.address) {
                Some(seat) if seat.floating == *floating => seat.held(now, *until, result),
                // It was taken away while it was put there.
                _ => drop(self.strays.insert(floating.clone(), false)),
            },
            Deed::LetGo(floating) => {
                let ended = result.is_ok();
                if let Some(busy) = self.strays.get_mut(floating) {
                    *busy = false;
                    if ended {
                        self.strays.remove(floating);
                    }
                } else if let Some(seat) = self.seats.get_mut(&floating.address) {
                    seat.busy = false;
                    if ended {
                        seat.held_since_renewal = None;
                    }
                }
            }
            Deed::Announce(_) => {}
            Deed::Hook(floating) => {
                if let Some(seat) = self.seats.get_mut(&floating.address) {
                    seat.hook.ended(now, result);
                }
            }
        }
    }

    /// Addresses that are on this host, or about to be.
    pub fn held(&self) -> BTreeSet<IpAddr> {
        let seats = self.seats.iter().filter(|(_, seat)| seat.held_since_renewal.is_some());
        seats.map(|(address, _)| *address).collect()
    }

    /// For each address, why this node does or does not hold it.
    pub fn words(&self) -> BTreeMap<IpAddr, String> {
        let name = |node: NodeId| {
            self.order.members.get(&node).map_or_else(|| format!("#{node}"), |member| member.name.to_string())
        };
        let words = |seat: &Seat| match &seat.why {
            Why::Best => "nobody better is there".into(),
            Why::Better(other) => format!("{} comes before it", name(*other)),
            Why::Handover(other) => format!("{} brings what is under way to an end first", name(*other)),
            Why::Lingers => "nobody else holds it yet".into(),
            Why::Unlisted => "it is no candidate".into(),
            Why::Listens => "it has just begun to listen for others".into(),
            Why::Fresh(other) => format!("it has just come, and {} serves", name(*other)),
            Why::Unheard => "it hears others, and none of them hears it".into(),
            Why::Unable => match (&self.barred, &seat.failed) {
                _ if self.parting => "its agent is being stopped".into(),
                (Some(words), _) | (None, Some((words, _))) => words.clone(),
                (None, None) => "its load balancer does not answer".into(),
            },
        };
        self.seats.iter().map(|(address, seat)| (*address, words(seat))).collect()
    }

    /// What went wrong with an address that this node should be able to hold.
    pub fn trouble(&self) -> Option<String> {
        let seats = self.seats.iter();
        let words = |seat: &Seat| {
            let hook = seat.hook.failed.as_ref().filter(|_| seat.held_since_renewal.is_some());
            let hook = || Some(format!("its hook failed, and is run again: {}", hook?));
            seat.failed.as_ref().map(|(words, _)| words.clone()).or_else(hook)
        };
        seats.filter_map(|(address, seat)| Some(format!("{address}: {}", words(seat)?))).next()
    }
}

/// This node's place among the candidates of an address.
fn own(me: NodeId, address: IpAddr, list: &FloatingAddress) -> Option<(Floating, IpAddr)> {
    let candidate = list.candidates.iter().find(|candidate| candidate.node == me)?;
    let floating = Floating { address, prefix: list.prefix, interface: candidate.interface.clone() };
    Some((floating, candidate.at))
}

impl Seat {
    fn new(me: NodeId, floating: Floating, at: IpAddr, now: Timestamp) -> Self {
        Self {
            contest: Contest::new(me, now),
            floating,
            at,
            peers: BTreeSet::new(),
            visitors: BTreeMap::new(),
            held_since_renewal: None,
            leaving: false,
            busy: false,
            told: 0,
            told_at: now,
            failed: None,
            hook: Hook::due(now),
            why: Why::Listens,
        }
    }

    fn link(&self) -> Link {
        Link { interface: self.floating.interface.clone(), at: self.at }
    }

    fn decide(&mut self, now: Timestamp, able: bool, strays: bool) -> Vec<Deed> {
        self.failed.take_if(|(_, until)| now >= *until);
        if self.held_since_renewal.is_some_and(|at| now.since(at) >= GUARDED_FOR) {
            // The guard has taken it off.
            self.held_since_renewal = None;
        }
        let held = self.held_since_renewal;
        self.contest.set_able(able && self.failed.is_none());
        self.contest.set_holds(held.is_some());
        let decision = self.contest.decide(now);
        self.why = decision.why;
        self.leaving = decision.leaving;
        let mut deeds = Vec::new();
        let hold = || Deed::Hold(self.floating.clone(), now + GUARDED_FOR);
        match (decision.hold, held) {
            _ if self.busy => {}
            (true, None) if !strays => deeds.push(hold()),
            (true, Some(at)) if now.since(at) >= RENEW_EVERY => deeds.push(hold()),
            (false, Some(_)) => deeds.push(Deed::LetGo(self.floating.clone())),
            (true, _) | (false, None) => {}
        }
        self.busy |= !deeds.is_empty();
        if decision.hold && held.is_some() && self.is_to_be_told(now, decision.contested) {
            (self.told, self.told_at) = (self.told + 1, now);
            deeds.push(Deed::Announce(self.floating.clone()));
        }
        deeds
    }

    fn is_to_be_told(&self, now: Timestamp, contested: bool) -> bool {
        let gap = match ANNOUNCE_GAPS.get(self.told) {
            Some(gap) => *gap,
            None if contested => ANNOUNCE_CONTESTED,
            // Whoever hears nobody may be deaf, and would mislead others.
            None if self.contest.is_alone(now) => return false,
            None => ANNOUNCE_EVERY,
        };
        now.since(self.told_at) >= gap
    }

    fn held(&mut self, now: Timestamp, until: Timestamp, result: Result<(), String>) {
        self.busy = false;
        match result {
            Ok(()) => {
                if self.held_since_renewal.is_none() {
                    (self.told, self.told_at) = (0, now);
                    self.hook = Hook { busy: self.hook.busy, ..Hook::due(now) };
                }
                self.held_since_renewal = Some(Timestamp(until.0.saturating_sub(GUARDED_FOR.as_millis() as u64)));
            }
            Err(words) => self.failed = Some((words, now + TRY_AGAIN_AFTER)),
        }
    }
}

impl Hook {
    fn due(now: Timestamp) -> Self {
        Self { due: now, busy: false, ran: 0, failures: 0, failed: None }
    }

    fn begins(&mut self, now: Timestamp) -> bool {
        let begins = !self.busy && now >= self.due;
        self.busy |= begins;
        begins
    }

    fn ended(&mut self, now: Timestamp, result: Result<(), String>) {
        self.busy = false;
        let after = match result {
            Ok(()) => {
                self.ran += 1;
                (self.failures, self.failed) = (0, None);
                if self.ran == 1 { HOOK_SECOND } else { HOOK_EVERY }
            }
            Err(words) => {
                let after = HOOK_AGAIN_AFTER.saturating_mul(1 << self.failures.min(5)).min(HOOK_AGAIN_AFTER_MAX);
                self.failures = self.failures.saturating_add(1);
                self.failed = Some(words);
                after
            }
        };
        self.due = now + after;
    }
}

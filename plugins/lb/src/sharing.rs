//! Which instance takes a request of a route that says how its requests are shared: [`hirsel_model::spec::Balance`], compiled.
//!
//! A route that says nothing has none of this, and its requests go by [`Service::pick`].
//!
//! Invariants: an instance that is closed or was tried takes nothing; one that is left alone only if all are; one on a node that is not
//! heard only if no other is left; none has more requests of a route than the route allows.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use hirsel_model::Timestamp;
use hirsel_model::spec::{Balance, Eject, HashBy, HashKey, Policy};
use http::header::COOKIE;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::balance::warming::Warming;
use crate::balance::zones::{self, ByZone};
use crate::balance::{self, alike};
use crate::instance::{Instance, Ticket};
use crate::matching::{Unusable, form_decode};
use crate::table::{Candidate, Service, Way};

pub mod hedge;
pub mod line;
pub mod purse;
pub mod session;

use hedge::Hedge;
use line::Line;
use purse::Purse;
use session::{Sessions, Token};

/// So many requests of a hundred may be told to another instance because the first is slow: enough for one slow instance of five, and no
/// storm when all of them are.
const SLOW_SHARE_PERCENT: u32 = 20;

/// So many of them at once, when none was needed for long.
const SLOW_BURST: u32 = 20;

/// How the requests of a route are shared.
#[derive(Debug)]
pub struct Sharing {
    by: By,
    slow_start: Option<Duration>,
    sessions: Option<Sessions>,
    limit: Option<Limit>,
    eject: Option<Eject>,
    try_timeout: Option<Duration>,
    /// What may be told again because it took too long.
    slow: Purse,
    hedge: Option<Hedge>,
    same_zone: bool,
}

#[derive(Debug)]
enum By {
    LeastLoaded,
    /// With what counts the turns.
    Turns(AtomicUsize),
    LeastRequests,
    Hash(Key, u32),
}

/// The part of a request that is hashed.
#[derive(Debug)]
enum Key {
    Client,
    Path,
    Header(HeaderName),
    Cookie(String),
    Query(Vec<u8>),
}

/// How many requests an instance has at most, and who waits meanwhile.
#[derive(Debug)]
struct Limit {
    requests: u32,
    line: Arc<Line>,
}

/// How one request is shared.
#[derive(Debug)]
pub struct Choice<'a> {
    sharing: &'a Sharing,
    key: Option<u64>,
    session: Option<Token>,
    /// The token of whoever was taken last.
    taken: AtomicU64,
}

/// What an instance is picked by, besides the request.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// The time.
    pub now: Timestamp,
    /// Chance.
    pub draw: u64,
    /// Who had this request before.
    pub tried: &'a [Arc<Instance>],
    /// How many load balancers there are in each zone.
    pub balancers: &'a ByZone,
    /// Whether the request waited until it was the first.
    pub is_first: bool,
}

/// Some instances, and which of them may be taken.
type Tier<'a> = (&'a [Candidate], &'a dyn Fn(&Candidate) -> bool);

/// What became of picking an instance.
#[derive(Debug)]
pub enum Picked<'a> {
    /// One took the request on.
    Taken(Ticket, Way),
    /// There are some, and all of them have as many requests as they may.
    Full(&'a Line),
    /// There is none.
    Nobody,
}

impl Sharing {
    /// How `balance` shares requests; none if as always. `seed` is where turns begin.
    ///
    /// # Errors
    /// If this build cannot make it out.
    pub fn of(balance: &Balance, seed: u64) -> Result<Option<Self>, Unusable> {
        if *balance == Balance::default() {
            return Ok(None);
        }
        let Balance { policy, slow_start_ms, sticky, concurrency, queue, eject, try_timeout_ms, hedge, same_zone } =
            balance;
        let by = match policy {
            Policy::LeastLoaded => By::LeastLoaded,
            Policy::RoundRobin => By::Turns(AtomicUsize::new(seed as usize)),
            Policy::LeastRequests => By::LeastRequests,
            Policy::Hash(HashBy { key, bound_percent }) => By::Hash(Key::of(key)?, *bound_percent),
        };
        let limit = |requests: &u32| Limit { requests: *requests, line: Arc::new(Line::new(queue.as_ref())) };
        Ok(Some(Self {
            by,
            slow_start: slow_start_ms.map(Duration::from_millis),
            sessions: sticky.as_ref().map(Sessions::of).transpose()?,
            limit: concurrency.as_ref().map(limit),
            eject: eject.clone(),
            try_timeout: try_timeout_ms.map(Duration::from_millis),
            slow: Purse::new(SLOW_SHARE_PERCENT, SLOW_BURST),
            // Of two instances one would see what the other's client does.
            hedge: hedge.as_ref().filter(|_| sticky.is_none()).map(Hedge::of),
            same_zone: *same_zone,
        }))
    }

    /// How a request of `client` with this head is shared.
    pub fn choice(&self, head: &Parts, client: IpAddr) -> Choice<'_> {
        if self.try_timeout.is_some() {
            self.slow.bring();
        }
        Choice { sharing: self, key: self.key(head, client), session: self.session(head), taken: AtomicU64::new(0) }
    }

    /// A number that requests have in common which are alike; none where nothing makes them so.
    pub fn key(&self, head: &Parts, client: IpAddr) -> Option<u64> {
        match &self.by {
            By::Hash(key, _) => key.find(head, client),
            By::LeastLoaded | By::Turns(_) | By::LeastRequests => None,
        }
    }

    /// Whom a request with this head was answered by before.
    pub fn session(&self, head: &Parts) -> Option<Token> {
        self.sessions.as_ref()?.find(&head.headers)
    }
}

impl Key {
    fn of(key: &HashKey) -> Result<Self, Unusable> {
        Ok(match key {
            HashKey::Client => Key::Client,
            HashKey::Path => Key::Path,
            HashKey::Header(name) => {
                Key::Header(HeaderName::try_from(name.as_str()).map_err(|_| Unusable::new("no header field"))?)
            }
            HashKey::Cookie(name) => Key::Cookie(name.clone()),
            HashKey::Query(name) => Key::Query(name.clone().into_bytes()),
        })
    }

    fn find(&self, head: &Parts, client: IpAddr) -> Option<u64> {
        let text = match self {
            Key::Client => return Some(alike::mix(client_number(client))),
            Key::Path => head.uri.path().as_bytes(),
            Key::Header(name) => head.headers.get(name)?.as_bytes(),
            Key::Cookie(name) => cookie(&head.headers, name)?,
            Key::Query(name) => {
                let pairs = head.uri.query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
                let value = pairs.into_iter().find(|(its_name, _)| form_decode(its_name) == *name)?.1;
                return (!value.is_empty()).then(|| alike::key(&form_decode(value)));
            }
        };
        (!text.is_empty()).then(|| alike::key(text))
    }
}

/// An IPv4 address, or the network of an IPv6 address: hosts change the rest every day.
fn client_number(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(addr) => u64::from(addr.to_bits()),
        IpAddr::V6(addr) => (addr.to_bits() >> 64) as u64,
    }
}

/// The value of the first cookie of this name (RFC 6265, section 4.2.1; in HTTP/2 they come in several lines).
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

impl<'a> Choice<'a> {
    /// Takes a request on with one of the instances of `service`: with that of its session if it can, else by preference one that is
    /// not left alone, then one that is, then one whose node is not heard.
    pub fn pick(&self, service: &Service, moment: Moment<'_>) -> Picked<'a> {
        let Moment { now, tried, .. } = moment;
        if let Some(limit) = &self.sharing.limit
            && limit.line.is_waited_in()
            && !moment.is_first
        {
            return Picked::Full(&limit.line);
        }
        let untried = |candidate: &Candidate| {
            !candidate.instance.is_closed() && !tried.iter().any(|tried| Arc::ptr_eq(tried, &candidate.instance))
        };
        let errs = |instance: &Instance| self.sharing.eject.is_some() && instance.errs(now);
        let healthy = |candidate: &Candidate| {
            untried(candidate) && !candidate.instance.is_ejected(now) && !errs(&candidate.instance)
        };
        if let Some(taken) = self.resume(service, now, healthy) {
            return taken;
        }
        // In this order, and not to the next because the one before is full.
        let tiers: [Tier<'_>; 3] =
            [(&service.ready, &healthy), (&service.ready, &untried), (&service.doubtful, &untried)];
        for (candidates, usable) in tiers {
            if candidates.iter().any(usable) {
                return self.among(candidates, moment, usable);
            }
        }
        Picked::Nobody
    }

    /// The time that each try has for itself.
    pub fn try_timeout(&self) -> Option<Duration> {
        self.sharing.try_timeout
    }

    /// Whether a request that took too long may be told to another instance; if so it is counted.
    pub fn may_repeat_slow(&self) -> bool {
        self.sharing.slow.spend()
    }

    /// When a second instance is told, if the route says so.
    pub fn hedge(&self) -> Option<&'a Hedge> {
        self.sharing.hedge.as_ref()
    }

    /// What a client is told that shall come back to whoever was taken last, if it does not know yet.
    pub fn cookie(&self, encrypted: bool) -> Option<HeaderValue> {
        let taken = Some(Token(self.taken.load(Ordering::Relaxed)));
        self.sharing.sessions.as_ref().filter(|_| taken != self.session)?.written(taken?, encrypted)
    }

    /// Notes what an answer of `instance` says of it. True if it is left alone from now on, as far as it was not.
    pub fn judge(&self, service: &Service, instance: &Arc<Instance>, status: StatusCode, now: Timestamp) -> bool {
        let Some(Eject { errors, share_percent }) = self.sharing.eject else { return false };
        if !status.is_server_error() {
            instance.answered_well();
            return false;
        }
        if !instance.answered_badly(errors) || instance.errs(now) {
            return false;
        }
        let alone = service.ready.iter().filter(|candidate| candidate.instance.errs(now)).count();
        let most = service.ready.len() * share_percent as usize / 100;
        alone < most && instance.eject_erring(now)
    }

    /// Takes a request on with the instance of its session, also if that one is about to stop.
    fn resume(&self, service: &Service, now: Timestamp, healthy: impl Fn(&Candidate) -> bool) -> Option<Picked<'a>> {
        let token = self.session?;
        let mut all = service.ready.iter().chain(&service.lingering);
        let candidate = all.find(|candidate| candidate.token == token && healthy(candidate))?;
        let ticket = self.take(candidate)?;
        candidate.instance.answers_session(now);
        Some(Picked::Taken(ticket, candidate.way))
    }

    /// Takes a request on, within the limit of the route.
    fn take(&self, candidate: &Candidate) -> Option<Ticket> {
        let ticket = match &self.sharing.limit {
            None => candidate.instance.take(),
            Some(limit) => candidate.instance.take_within(limit.requests, &limit.line),
        };
        self.taken.store(candidate.token.0, Ordering::Relaxed);
        ticket
    }

    fn among(&self, candidates: &[Candidate], moment: Moment<'_>, usable: &dyn Fn(&Candidate) -> bool) -> Picked<'a> {
        // Others may be faster, each time with another one.
        for _ in 0..=candidates.len() {
            let most = self.sharing.limit.as_ref().map_or(u32::MAX, |limit| limit.requests);
            let open = |at: usize| usable(&candidates[at]) && candidates[at].instance.in_flight() < most;
            let Some(at) = self.near(candidates, moment, &open) else { break };
            if let Some(ticket) = self.take(&candidates[at]) {
                if self.sharing.sessions.is_some() {
                    candidates[at].instance.answers_session(moment.now);
                }
                return Picked::Taken(ticket, candidates[at].way);
            }
        }
        self.sharing.limit.as_ref().map_or(Picked::Nobody, |limit| Picked::Full(&limit.line))
    }

    /// One of the own zone, as far as that has its share of those that are open.
    fn near(&self, candidates: &[Candidate], moment: Moment<'_>, open: &impl Fn(usize) -> bool) -> Option<usize> {
        let zone = || {
            let mut instances = ByZone::default();
            for at in (0..candidates.len()).filter(|at| open(*at)) {
                instances[candidates[at].zone] += 1;
            }
            zones::choose(0, &instances, moment.balancers, alike::mix(self.key.unwrap_or(moment.draw)))
        };
        let near = self.sharing.same_zone.then(zone).flatten().and_then(|zone| {
            let there = |at: usize| candidates[at].zone == zone && open(at);
            self.warm(candidates, moment, &there)
        });
        near.or_else(|| self.warm(candidates, moment, open))
    }

    /// One of those that are warm enough for this request, if there is a difference.
    fn warm(&self, candidates: &[Candidate], moment: Moment<'_>, open: &impl Fn(usize) -> bool) -> Option<usize> {
        let since = |at: usize| candidates[at].instance.ready_since();
        let considers = || {
            let window = self.sharing.slow_start?;
            let ages = || (0..candidates.len()).filter(|at| open(*at)).map(since);
            if ages().max()? + window <= moment.now {
                return None;
            }
            Some(Warming::new(window, ages().min()?, moment.now))
        };
        let Some(warming) = considers() else { return self.choose(candidates, moment, open) };
        // The same key passes the same instances over until they are warmer: it moves once.
        let draw = self.key.unwrap_or(moment.draw);
        let considered = |at: usize| open(at) && warming.considers(since(at), candidates[at].instance.name, draw);
        self.choose(candidates, moment, &considered).or_else(|| self.choose(candidates, moment, open))
    }

    fn choose(&self, candidates: &[Candidate], moment: Moment<'_>, open: &impl Fn(usize) -> bool) -> Option<usize> {
        let (count, draw) = (candidates.len(), moment.draw);
        let in_flight = |at: usize| candidates[at].instance.in_flight();
        match (&self.sharing.by, self.key) {
            (By::Hash(_, percent), Some(key)) => {
                let able = (0..count).filter(|at| open(*at));
                let (sum, able) = able.fold((0, 0), |(sum, able), at| (sum + u64::from(in_flight(at)), able + 1));
                let most = alike::bound(sum, able, *percent);
                let has_room = |at: usize| u64::from(in_flight(at)) < most;
                alike::choose(count, key, |at| candidates[at].instance.name, open, has_room)
            }
            (By::Turns(turns), _) => balance::turn(count, || turns.fetch_add(1, Ordering::Relaxed), open),
            (By::LeastRequests, _) => balance::fewest(count, draw, open, in_flight),
            (By::LeastLoaded, _) | (By::Hash(..), None) => {
                let cost = |at: usize| balance::cost(in_flight(at), candidates[at].instance.latency_us(moment.now));
                balance::pick(count, draw, open, cost)
            }
        }
    }
}

#[cfg(test)]
mod tests;

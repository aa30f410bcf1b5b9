//! Answers that are kept for those who ask next (RFC 9111), of routes that say so.
//!
//! Where to start: [`policy`] decides what may be kept and when it may be given, [`give`] how it is given (both pure), [`key`] by what it is
//! found. [`store`] holds it; [`sieve`] says what goes when there is no room. [`disk`] holds what has none in memory, and [`below`] moves it
//! there and back. [`filling`] is a body that comes in while others read it, [`flights`] lets requests for one thing wait for the first. The
//! path of a request through it is in [`crate::proxy`].
//!
//! Invariants: what is for one user is given to nobody else; an answer that broke off, or was forgotten while it was on its way, is never
//! given; memory has one bound, for what is kept and for what is still on its way to slow clients (but for the block that each of those has
//! who is given something from disk). Every load balancer keeps its own: a change that goes through one is seen by the others when their
//! answers are stale, or by a purge, which reaches all of them.
//!
//! Not `http-cache-semantics`: it reads directives with capitals, or with commas in quotes, wrong, takes a number that is too large for
//! none, bounds no heuristic, replaces `Date`, and keeps the heads of both messages and maps of their directives for each answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use hirsel_model::codec::encode;
use hirsel_model::purge::{Kept as Looked, Owed, Purges};
use hirsel_model::spec::{self, RouteSpec};
use hirsel_model::{AppName, LogIndex, Timestamp};
use hirsel_role::host::scratch::Scratch;
use http::HeaderMap;

pub mod below;
pub mod dates;
pub mod directives;
pub mod disk;
pub mod filling;
pub mod flights;
pub mod give;
pub mod kept;
pub mod key;
pub mod policy;
pub mod reading;
pub mod sieve;
pub mod store;

use disk::Tier;
use flights::Flights;
use kept::{Content, Head, Kept};
use key::{Key, Way};
use policy::Rules;
use store::{Begun, Found, Store, UNFIT_FOR};

/// Of what is kept one answer has at most so much: a share, so that some dozen fit beside it.
const SHARE_OF_ONE: u64 = 8;

/// The same in bytes: larger things are files, which a disk keeps better than a memory, if there is one for them.
const ONE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Of the memory this share is for heads of what is on disk, where there is one: a kilobyte each.
const HEADS_SHARE: u64 = 4;

/// Answers that are asked for anew at once while stale ones are given. Beyond that they stay stale for a moment longer.
const RENEWALS_MAX: usize = 64;

/// What a cache did for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// What was kept was given.
    Hit,
    /// The same, though it was stale.
    Stale,
    /// An instance said that what was kept is still good.
    Revalidated,
    /// An instance answered.
    Miss,
    /// What was asked for is nothing to be kept.
    Bypass,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Hit, Self::Stale, Self::Revalidated, Self::Miss, Self::Bypass];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Hit => "hit",
            Outcome::Stale => "stale",
            Outcome::Revalidated => "revalidated",
            Outcome::Miss => "miss",
            Outcome::Bypass => "bypass",
        }
    }
}

/// On what terms the answers of a route are kept.
#[derive(Debug)]
pub struct Terms {
    /// As they were written.
    pub spec: spec::Cache,
    /// Whose route it is.
    pub app: AppName,
    /// For how long.
    pub rules: Rules,
    /// A number of the route, and of all of it that the program is told.
    pub route: u64,
}

impl Terms {
    /// Of a route, if it keeps answers.
    pub fn of(app: &AppName, route: &RouteSpec) -> Option<Arc<Self>> {
        let spec = route.actions.cache.as_ref()?;
        let actions = &route.actions;
        // What leads elsewhere, or asks in other words, may be answered otherwise.
        let asked =
            (&route.host, &route.path, &route.kind, &route.when, &route.to, &actions.rewrite, &actions.request_headers);
        let route = key::hash(encode(&(app, asked)));
        Some(Arc::new(Self { spec: spec.clone(), app: app.clone(), rules: Rules::of(spec), route }))
    }
}

/// Answers that are kept.
#[derive(Debug)]
pub struct Cache {
    /// Where, in memory.
    pub store: Store,
    /// And below that.
    disk: Option<Tier>,
    /// Requests under way that others wait for.
    pub flights: Arc<Flights>,
    purges: ArcSwap<Purges>,
    /// The last purge that was carried out.
    done: AtomicU64,
    renewals: Arc<AtomicUsize>,
}

/// The moment before an answer was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    memory: Begun,
    disk: Option<Begun>,
}

/// A place among the answers that are asked for anew at once.
#[derive(Debug)]
pub struct Renewal(Arc<AtomicUsize>);

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Cache {
    /// Nothing yet; so many bytes of memory at most, zero for nothing ever, and maybe so many of a disk. With a disk a part of the memory
    /// is for heads of what is there.
    pub fn new(bytes_max: u64, disk: Option<(u64, Arc<dyn Scratch>, u64)>) -> Self {
        let heads_max = if disk.is_some() { bytes_max / HEADS_SHARE } else { 0 };
        Self {
            store: Store::new(bytes_max - heads_max),
            disk: disk.map(|(bytes_max, scratch, first)| Tier::new((bytes_max, heads_max), scratch, first)),
            flights: Arc::default(),
            purges: ArcSwap::default(),
            done: AtomicU64::new(0),
            renewals: Arc::default(),
        }
    }

    /// Whether anything is kept at all.
    pub fn is_on(&self) -> bool {
        self.store.bytes_max() > 0
    }

    /// Largest body that is kept.
    pub fn one_bytes_max(&self) -> u64 {
        (self.store.bytes_max() / SHARE_OF_ONE).min(ONE_BYTES_MAX)
    }

    /// The last purge that was carried out.
    pub fn purged(&self) -> LogIndex {
        LogIndex(self.done.load(Ordering::Acquire))
    }

    /// Carries out what was not carried out yet. When this returns, nothing that was asked for before is given any more.
    pub fn adopt(&self, purges: &Purges) {
        let done = self.purged();
        if purges.last() == done {
            return;
        }
        // From here on nothing comes in that they are about.
        self.purges.store(Arc::new(purges.clone()));
        // A cluster that was founded anew counts from where it was: nobody knows what happened meanwhile.
        let owed = if purges.last() < done { Owed::All } else { purges.owed(done) };
        self.flights.forget(|_| true);
        self.stores().for_each(|store| store.forget_all(|head| is_about(&owed, head)));
        self.done.store(purges.last().0, Ordering::Release);
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.flights.forget(|_| true);
        self.stores().for_each(|store| store.forget_all(|_| true));
    }

    /// Forgets what a change of `key` made obsolete.
    pub fn change(&self, key: &key::Key) {
        self.flights.forget(|other| other == key);
        self.stores().for_each(|store| store.forget(key));
    }

    /// Keeps an answer; false if it was forgotten while it was on its way.
    pub fn put(&self, kept: &Arc<Kept>, begun: Moment) -> bool {
        let is_forgotten = |head: &Head| {
            let purges = self.purges.load();
            head.is_older_than(purges.last()) && is_about(&purges.owed(head.asked_after), head)
        };
        let ((store, begun), others) = match (&kept.body, &self.disk, begun.disk) {
            (Content::Disk(_), Some(disk), Some(on_disk)) => ((&disk.index, on_disk), Some(&self.store)),
            (Content::Disk(_), ..) => return false,
            (Content::Memory(_), disk, _) => ((&self.store, begun.memory), disk.as_ref().map(|disk| &disk.index)),
        };
        let stored = store.put(kept, begun, is_forgotten);
        if let Some(others) = others.filter(|_| stored) {
            others.yield_to(&kept.head);
        }
        stored
    }

    /// To be called before an answer is asked for that may be kept.
    pub fn begin(&self, key: &Key) -> Moment {
        Moment { memory: self.store.begin(key), disk: self.disk.as_ref().map(|disk| disk.index.begin(key)) }
    }

    /// What there is for a request with these fields that came by this way.
    pub fn find(&self, key: &Key, way: Way, asked: &HeaderMap, usable: impl Fn(&Head) -> bool) -> Found {
        let found = self.store.find(key, way, asked, &usable);
        let Some(disk) = self.disk.as_ref().filter(|_| !matches!(found, Found::Answer(_))) else { return found };
        match (disk.index.find(key, way, asked, usable), found) {
            (Found::Answer(kept), _) => Found::Answer(kept),
            (Found::Others(names), Found::Nothing) => Found::Others(names),
            (Found::Others(_) | Found::Nothing, found) => found,
        }
    }

    fn stores(&self) -> impl Iterator<Item = &Store> {
        std::iter::once(&self.store).chain(self.disk.as_ref().map(|disk| &disk.index))
    }

    /// Nobody shall wait for an answer of this key for a while.
    pub fn is_unfit(&self, key: &key::Key, now: Timestamp) {
        self.store.is_unfit_until(key, now + UNFIT_FOR, now);
    }

    /// A place for one that is asked for anew; none if enough are.
    pub fn renews(&self) -> Option<Renewal> {
        let more = |number| (number < RENEWALS_MAX).then_some(number + 1);
        let took = self.renewals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        took.ok().map(|_| Renewal(self.renewals.clone()))
    }
}

fn is_about(owed: &Owed<'_>, head: &Head) -> bool {
    match owed {
        Owed::All => true,
        Owed::These(these) => {
            let kept = Looked { app: &head.app, host: head.key.host(), path: head.key.path() };
            these.iter().any(|what| what.is_about(kept, head.tags()))
        }
    }
}

/// Takes out what is said to caches alone.
pub fn strip(headers: &mut HeaderMap) {
    headers.remove(&kept::CACHE_TAG);
}

//! What is counted of each route. There are as many meters as routes, up to a bound; a request pays a handful of additions.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hirsel_model::AppName;
use hirsel_model::spec::{AccessLog, Log, RouteSpec, Trace};
use hirsel_role::requests::{TIME_BOUNDS_MS, TIMES, Traffic};

use crate::cache::Outcome;

/// Routes that are counted each for itself. Every one is a few dozen lines of an exposition; the others are counted together.
const METERS_MAX: usize = 500;

/// What is counted of one route.
#[derive(Debug, Default)]
pub struct Meter {
    /// Its application; none for what no route takes, and for those that are counted together.
    pub app: Option<AppName>,
    /// Host and path.
    pub route: String,
    answers: [AtomicU64; 5],
    failed: AtomicU64,
    retries: AtomicU64,
    begun: AtomicU64,
    ended: AtomicU64,
    times: [AtomicU64; TIMES],
    sum_ms: AtomicU64,
    /// What the cache did, in the order of [`Outcome::ALL`].
    cached: [AtomicU64; Outcome::ALL.len()],
}

/// How one request ended.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// What the client was answered.
    pub status: u16,
    /// Whether it did not go as it should have.
    pub failed: bool,
    /// Tries after the first one.
    pub retries: u32,
    /// How long it took.
    pub took_ms: u64,
    /// What the cache did.
    pub cached: Option<Outcome>,
}

impl Meter {
    /// Has counted nothing yet.
    pub fn of(app: Option<AppName>, route: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { app, route: route.into(), ..Self::default() })
    }

    /// A request came.
    pub fn begins(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// It is over.
    pub fn ends(&self, ending: Ending) {
        let add = |to: &AtomicU64, more: u64| {
            to.fetch_add(more, Ordering::Relaxed);
        };
        add(&self.ended, 1);
        add(&self.answers[usize::from(ending.status / 100).clamp(1, 5) - 1], 1);
        if ending.failed {
            add(&self.failed, 1);
        }
        if ending.retries > 0 {
            add(&self.retries, ending.retries.into());
        }
        add(&self.times[TIME_BOUNDS_MS.partition_point(|bound| *bound < ending.took_ms)], 1);
        add(&self.sum_ms, ending.took_ms);
        if let Some(outcome) = ending.cached {
            add(&self.cached[outcome as usize], 1);
        }
    }

    /// What was counted so far.
    pub fn traffic(&self) -> Traffic {
        let read = |from: &AtomicU64| from.load(Ordering::Relaxed);
        // Read in this order, so that a request which comes meanwhile is not counted as less than none.
        let ended = read(&self.ended);
        Traffic {
            app: self.app.clone(),
            route: self.route.clone(),
            answers: self.answers.each_ref().map(read),
            failed: read(&self.failed),
            retries: read(&self.retries),
            in_flight: read(&self.begun).saturating_sub(ended),
            times: self.times.each_ref().map(read),
        }
    }

    /// What the cache did, and how often; only what it did.
    pub fn cached(&self) -> impl Iterator<Item = (Outcome, u64)> {
        let counts = Outcome::ALL.into_iter().zip(self.cached.each_ref().map(|count| count.load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count > 0)
    }

    /// The sum of all times, in milliseconds.
    pub fn sum_ms(&self) -> u64 {
        self.sum_ms.load(Ordering::Relaxed)
    }
}

/// The meters of all routes of the table in force, and of the one that is built.
#[derive(Debug)]
pub struct Meters {
    routes: Mutex<BTreeMap<(AppName, String), Arc<Meter>>>,
    /// What no route takes.
    pub nowhere: Arc<Meter>,
    others: Arc<Meter>,
}

impl Default for Meters {
    fn default() -> Self {
        Self { routes: Mutex::default(), nowhere: Meter::of(None, "(no route)"), others: Meter::of(None, "(others)") }
    }
}

impl Meters {
    /// The one of `route`, which goes on counting over all tables that have it.
    pub fn of(&self, app: &AppName, route: &RouteSpec) -> Arc<Meter> {
        let mut routes = self.routes();
        let key = (app.clone(), route.to_string());
        if routes.len() >= METERS_MAX && !routes.contains_key(&key) {
            // Those of routes that are gone make room.
            routes.retain(|_, meter| Arc::strong_count(meter) > 1);
            if routes.len() >= METERS_MAX {
                return self.others.clone();
            }
        }
        let name = key.1.clone();
        routes.entry(key).or_insert_with(|| Meter::of(Some(app.clone()), name)).clone()
    }

    /// Every meter that counts something that is or was there: those of routes in use, and the two of all else once they counted.
    pub fn all(&self) -> Vec<Arc<Meter>> {
        let mut routes = self.routes();
        routes.retain(|_, meter| Arc::strong_count(meter) > 1);
        let used = |meter: &&Arc<Meter>| meter.begun.load(Ordering::Relaxed) > 0;
        let rest = [&self.nowhere, &self.others].into_iter().filter(used);
        routes.values().chain(rest).cloned().collect()
    }

    fn routes(&self) -> MutexGuard<'_, BTreeMap<(AppName, String), Arc<Meter>>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is seen of the requests of a route, as it is carried out.
#[derive(Debug)]
pub struct Watch {
    /// What is done about traces.
    pub trace: Option<Trace>,
    /// How its requests are written down, if they are.
    pub log: Option<AccessLog>,
    /// What is counted.
    pub meter: Arc<Meter>,
}

impl Watch {
    /// Of `route`; `usual` is what a route does that does not say how its requests are written down.
    pub fn of(app: &AppName, route: &RouteSpec, usual: Option<AccessLog>, meters: &Meters) -> Arc<Self> {
        let log = match route.seen.log {
            None => usual,
            Some(Log::Off) => None,
            Some(Log::On(log)) => Some(log),
        };
        Arc::new(Self { trace: route.seen.trace, log, meter: meters.of(app, route) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(host: &str) -> RouteSpec {
        RouteSpec::plain(host, "/", "web".parse().unwrap())
    }

    fn app() -> AppName {
        "shop".parse().unwrap()
    }

    #[test]
    fn times_are_counted_up_to_their_bound_and_longer_ones_behind_the_last() {
        let meter = Meter::default();
        for took_ms in [0, 1, 2, 3, 30_000, 30_001, u64::from(u32::MAX)] {
            meter.begins();
            meter.ends(Ending { status: 200, failed: false, retries: 0, took_ms, cached: None });
        }
        let traffic = meter.traffic();
        assert_eq!(traffic.times, [2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!((traffic.answers, traffic.in_flight), ([0, 7, 0, 0, 0], 0));
    }

    #[test]
    fn a_status_that_is_none_is_counted_nonetheless() {
        let meter = Meter::default();
        for status in [0, 99, 100, 599, 600, 65_535] {
            meter.begins();
            meter.ends(Ending { status, failed: true, retries: 2, took_ms: 0, cached: None });
        }
        meter.begins();
        let traffic = meter.traffic();
        assert_eq!((traffic.answers, traffic.failed, traffic.retries, traffic.in_flight), ([3, 0, 0, 0, 3], 6, 12, 1));
    }

    #[test]
    fn a_route_counts_on_while_some_table_has_it_and_there_are_so_many_at_most() {
        let meters = Meters::default();
        let first = meters.of(&app(), &route("a.test"));
        first.begins();
        assert_eq!(meters.of(&app(), &route("a.test")).traffic().in_flight, 1);
        let many: Vec<_> = (0..2 * METERS_MAX).map(|n| meters.of(&app(), &route(&format!("h{n}.test")))).collect();
        many.iter().for_each(|meter| meter.begins());
        assert_eq!(meters.all().len(), METERS_MAX + 1);
        let others = meters.all().into_iter().find(|meter| meter.route == "(others)").expect("counted together");
        assert_eq!(others.traffic().in_flight, METERS_MAX as u64 + 1);
        drop(many);
        assert_eq!(meters.all().len(), 2, "gone with their tables: {:?}", meters.all());
        assert_eq!(meters.of(&app(), &route("new.test")).route, "new.test/");
    }
}

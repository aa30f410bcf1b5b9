//! Requests for one thing that nobody has yet: the first one goes, the others wait for what it brings.
//!
//! Whoever waits waits for a bounded time, and with a bounded number of others; then it goes by itself. One that brought nothing to be
//! shared says so, and those who waited go at once; one that was given up leaves its place to the next.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::filling::Filling;
use super::kept::Head;
use super::key::Key;

/// Those who wait for one. Each holds a connection and some kilobytes.
const FOLLOWERS_MAX: usize = 1_000;

/// What became of the one that went.
#[derive(Clone, Debug, Default)]
pub enum Landing {
    /// Nothing yet.
    #[default]
    Flying,
    /// Its body comes in, of known length: whoever wants the same reads along.
    Filling(Arc<Head>, Arc<Filling>, u64),
    /// What it brought is kept.
    Kept,
    /// What it brought is of use to itself alone.
    Unfit,
    /// It brought nothing.
    Gone,
}

/// What tells one request from others for the same key: way and fields.
pub type Kind = u64;

/// Those that are under way, and what tells others what became of each.
type UnderWay = HashMap<(Key, Kind), Arc<watch::Sender<Landing>>>;

/// Requests under way that others may wait for.
#[derive(Default)]
pub struct Flights {
    under_way: Mutex<UnderWay>,
}

/// How a request goes on.
#[derive(Debug)]
pub enum Turn {
    /// It goes, and others wait for it.
    Lead(Lead),
    /// It waits.
    Follow(watch::Receiver<Landing>),
    /// Enough wait already.
    Alone,
}

/// The one that goes. Dropped, it has brought nothing unless it said something else.
pub struct Lead {
    flights: Arc<Flights>,
    key: (Key, Kind),
    landing: Arc<watch::Sender<Landing>>,
}

impl Flights {
    /// Whether it goes or waits.
    pub fn join(self: &Arc<Self>, key: Key, kind: Kind) -> Turn {
        let key = (key, kind);
        match self.under_way().entry(key.clone()) {
            Entry::Occupied(other) if other.get().receiver_count() >= FOLLOWERS_MAX => Turn::Alone,
            Entry::Occupied(other) => Turn::Follow(other.get().subscribe()),
            Entry::Vacant(free) => {
                let landing = free.insert(Arc::new(watch::Sender::new(Landing::Flying))).clone();
                Turn::Lead(Lead { flights: self.clone(), key, landing })
            }
        }
    }

    /// Nobody waits any more for those of these keys that are under way now: they may bring what is forgotten.
    pub fn forget(&self, of: impl Fn(&Key) -> bool) {
        self.under_way().retain(|(key, _), _| !of(key));
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lead {
    /// Says what became of it. Until it is dropped others find that.
    pub fn land(&self, landing: Landing) {
        self.landing.send_replace(landing);
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        let mut under_way = self.flights.under_way();
        // Another one may have taken its place.
        if under_way.get(&self.key).is_some_and(|other| Arc::ptr_eq(other, &self.landing)) {
            under_way.remove(&self.key);
        }
        drop(under_way);
        self.landing.send_if_modified(|landing| {
            let is_lost = matches!(landing, Landing::Flying);
            if is_lost {
                *landing = Landing::Gone;
            }
            is_lost
        });
    }
}

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").field("under_way", &self.under_way().len()).finish()
    }
}

impl fmt::Debug for Lead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lead").field("key", &self.key).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hirsel_model::spec::Cache;

    fn key(path: &str) -> Key {
        Key::of(b"h", false, path, &Cache::default()).unwrap()
    }

    #[test]
    fn one_goes_and_the_others_learn_what_became_of_it() {
        let flights = Arc::<Flights>::default();
        let Turn::Lead(lead) = flights.join(key("/"), 0) else { panic!("nobody went before") };
        let Turn::Follow(mut seen) = flights.join(key("/"), 0) else { panic!("it waits") };
        assert!(matches!(flights.join(key("/"), 1), Turn::Lead(_)), "for something else");
        lead.land(Landing::Kept);
        drop(lead);
        assert!(matches!(*seen.borrow_and_update(), Landing::Kept));
        assert!(flights.under_way().is_empty());
    }

    #[test]
    fn one_that_is_given_up_leaves_its_place_to_the_next() {
        let flights = Arc::<Flights>::default();
        let Turn::Lead(lead) = flights.join(key("/"), 0) else { panic!("nobody went before") };
        let Turn::Follow(seen) = flights.join(key("/"), 0) else { panic!("it waits") };
        drop(lead);
        assert!(matches!(*seen.borrow(), Landing::Gone));
        assert!(matches!(flights.join(key("/"), 0), Turn::Lead(_)));
    }

    #[test]
    fn so_many_wait_at_most_and_nobody_for_what_is_forgotten() {
        let flights = Arc::<Flights>::default();
        let Turn::Lead(before) = flights.join(key("/"), 0) else { panic!("nobody went before") };
        let waiting: Vec<Turn> = (0..FOLLOWERS_MAX).map(|_| flights.join(key("/"), 0)).collect();
        assert!(waiting.iter().all(|turn| matches!(turn, Turn::Follow(_))));
        assert!(matches!(flights.join(key("/"), 0), Turn::Alone));
        flights.forget(|key| key.path() == "/");
        let Turn::Lead(_after) = flights.join(key("/"), 0) else { panic!("it goes anew") };
        drop(before);
        assert!(matches!(flights.join(key("/"), 0), Turn::Follow(_)), "the new one keeps its place");
    }
}

//! Where answers are kept: in memory, in shards, up to a number of bytes over all of them.
//!
//! An answer is counted from before its first byte is kept until nobody sends it any more, so all that is kept and all that is on its
//! way to slow clients has one bound. What goes to make room is decided by [`Sieve`], in each shard for itself. A shard that nothing was
//! ever put into holds nothing.
//!
//! What is forgotten stays forgotten: an answer is put in only if nothing that it may be about was forgotten since it was asked for.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hirsel_model::Timestamp;
use http::HeaderMap;
use http::header::HeaderName;
use tokio::sync::Notify;

use super::kept::{Head, Kept};
use super::key::{Key, Way};
use super::sieve::Sieve;
use crate::budget::{Budget, Reserved};

/// Two requests seldom wait for each other.
const SHARDS: usize = 16;

/// Answers of one key. Where there are more, what tells them apart is different for everybody.
const VARIANTS_MAX: usize = 32;

/// What was forgotten last in a shard. An answer that took so long that more was forgotten meanwhile is not kept.
const FORGOTTEN_MAX: usize = 256;

/// Keys of a shard whose answers were of no use.
const UNFIT_MAX: usize = 1024;

/// Requests for what could not be kept go to an instance at once for so long, and wait for no other one.
pub const UNFIT_FOR: Duration = Duration::from_secs(60);

/// All that is kept.
#[derive(Debug)]
pub struct Store {
    shards: [Mutex<Shard>; SHARDS],
    budget: Arc<Budget>,
    bytes_max: u64,
    /// Which shard makes room next.
    turn: AtomicUsize,
    evicted: AtomicU64,
    /// Somebody should move something elsewhere.
    crowded: Notify,
}

/// Beyond this share of all bytes, in sixteenths, something should move elsewhere; until no more than that is left.
const CROWDED: u64 = 15;
const CALM: u64 = 14;

#[derive(Debug, Default)]
struct Shard {
    keys: HashMap<Key, Vec<usize>>,
    sieve: Sieve<Arc<Kept>>,
    forgotten: VecDeque<u64>,
    /// How often something was forgotten.
    times: u64,
    /// Until when nobody waits for answers of these keys.
    unfit: HashMap<u64, Timestamp>,
}

/// What there is for a request.
#[derive(Debug)]
pub enum Found {
    /// An answer.
    Answer(Arc<Kept>),
    /// There are answers, but to requests that said something else in these fields.
    Others(Vec<HeaderName>),
    /// Nothing.
    Nothing,
}

/// The moment before an answer was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    times: u64,
}

impl Store {
    /// Nothing yet, and so many bytes at most.
    pub fn new(bytes_max: u64) -> Self {
        Self {
            shards: Default::default(),
            budget: Budget::new(bytes_max),
            bytes_max,
            turn: AtomicUsize::new(0),
            evicted: AtomicU64::new(0),
            crowded: Notify::new(),
        }
    }

    /// How many bytes there may be.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// How many answers there are, how many bytes they take with those that are on their way, and how many made room for others.
    pub fn counts(&self) -> (u64, u64, u64) {
        let answers = (0..SHARDS).map(|number| self.shard(number).sieve.len() as u64).sum();
        (answers, self.used(), self.evicted.load(Ordering::Relaxed))
    }

    /// What there is for a request with these fields that came by this way.
    pub fn find(&self, key: &Key, way: Way, asked: &HeaderMap, usable: impl Fn(&Head) -> bool) -> Found {
        let mut shard = self.shard_of(key);
        let Shard { keys, sieve, .. } = &mut *shard;
        let Some(numbers) = keys.get(key) else { return Found::Nothing };
        // The latest one comes last (RFC 9111, section 4.1).
        for number in numbers.iter().rev() {
            if let Some(kept) = sieve.get(*number).filter(|kept| kept.head.is_for(way, asked) && usable(&kept.head)) {
                let kept = kept.clone();
                sieve.mark(*number);
                return Found::Answer(kept);
            }
        }
        let latest = numbers.iter().rev().filter_map(|number| sieve.get(*number)).find(|kept| kept.head.way == way);
        match latest.filter(|kept| !kept.head.selected.is_empty()) {
            Some(kept) => Found::Others(kept.head.selected.iter().map(|(name, _)| name.clone()).collect()),
            None => Found::Nothing,
        }
    }

    /// To be called before an answer is asked for that may be kept.
    pub fn begin(&self, key: &Key) -> Begun {
        Begun { times: self.shard_of(key).times }
    }

    /// Keeps an answer, in place of the one before for the same requests. False if something was forgotten meanwhile that may be about it;
    /// `is_forgotten` is asked while nobody else can forget anything.
    pub fn put(&self, kept: &Arc<Kept>, begun: Begun, is_forgotten: impl FnOnce(&Head) -> bool) -> bool {
        let (key, hash) = (&kept.head.key, kept.head.key.hash());
        let mut shard = self.shard_of(key);
        let meanwhile = usize::try_from(shard.times.saturating_sub(begun.times)).unwrap_or(usize::MAX);
        if meanwhile > shard.forgotten.len() || shard.forgotten.iter().rev().take(meanwhile).any(|it| *it == hash) {
            return false;
        }
        if is_forgotten(&kept.head) {
            return false;
        }
        let Shard { keys, sieve, unfit, .. } = &mut *shard;
        unfit.remove(&hash);
        let numbers = keys.entry(key.clone()).or_default();
        let same = |number: &usize| sieve.get(*number).is_none_or(|it| it.head.is_like(&kept.head));
        let (mut gone, mut stays): (Vec<usize>, Vec<usize>) = numbers.iter().partition(|number| same(number));
        if stays.len() >= VARIANTS_MAX {
            gone.push(stays.remove(0));
        }
        for number in gone {
            sieve.remove(number);
        }
        stays.push(sieve.insert(kept.clone()));
        *numbers = stays;
        true
    }

    /// Lets go of answers to the same requests: another one is elsewhere.
    pub fn yield_to(&self, head: &Head) {
        let mut shard = self.shard_of(&head.key);
        let numbers = shard.keys.get(&head.key).cloned().unwrap_or_default();
        for number in numbers {
            if shard.sieve.get(number).is_some_and(|it| it.head.is_like(head)) {
                shard.take_out(number);
            }
        }
    }

    /// Lets go of this answer. False if it is not there any more.
    pub fn take(&self, kept: &Arc<Kept>) -> bool {
        let mut shard = self.shard_of(&kept.head.key);
        let numbers = shard.keys.get(&kept.head.key).cloned().unwrap_or_default();
        let is_it = |number: &usize| shard.sieve.get(*number).is_some_and(|it| Arc::ptr_eq(it, kept));
        let found = numbers.into_iter().find(is_it);
        if let Some(number) = found {
            shard.take_out(number);
        }
        found.is_some()
    }

    /// The next one that would make room, while there is little.
    pub fn next_to_go(&self) -> Option<Arc<Kept>> {
        if self.used() <= self.bytes_max / 16 * CALM {
            return None;
        }
        (0..SHARDS).find_map(|_| {
            let number = self.turn.fetch_add(1, Ordering::Relaxed) % SHARDS;
            self.shard(number).sieve.next_to_go().cloned()
        })
    }

    /// Completes when there is little room.
    pub async fn crowded(&self) {
        self.crowded.notified().await;
    }

    fn used(&self) -> u64 {
        self.bytes_max.saturating_sub(self.budget.left())
    }

    /// Forgets all answers of a key.
    pub fn forget(&self, key: &Key) {
        let mut shard = self.shard_of(key);
        shard.times += 1;
        shard.forgotten.push_back(key.hash());
        if shard.forgotten.len() > FORGOTTEN_MAX {
            shard.forgotten.pop_front();
        }
        for number in shard.keys.remove(key).unwrap_or_default() {
            shard.sieve.remove(number);
        }
    }

    /// Forgets each answer that `goes`. What comes in meanwhile is the business of whoever puts it in.
    pub fn forget_all(&self, goes: impl Fn(&Head) -> bool) {
        for number in 0..SHARDS {
            let mut shard = self.shard(number);
            for number in shard.sieve.numbers() {
                if shard.sieve.get(number).is_some_and(|kept| goes(&kept.head)) {
                    shard.take_out(number);
                }
            }
        }
    }

    /// Nobody shall wait for an answer of this key for a while.
    pub fn is_unfit_until(&self, key: &Key, until: Timestamp, now: Timestamp) {
        let mut shard = self.shard_of(key);
        if shard.unfit.len() >= UNFIT_MAX {
            shard.unfit.retain(|_, until| *until > now);
            if shard.unfit.len() >= UNFIT_MAX {
                // So many at once: waiting costs less than remembering.
                shard.unfit.clear();
            }
        }
        shard.unfit.insert(key.hash(), until);
    }

    /// Whether nobody shall wait for an answer of this key.
    pub fn is_unfit(&self, key: &Key, now: Timestamp) -> bool {
        let shard = self.shard_of(key);
        !shard.unfit.is_empty() && shard.unfit.get(&key.hash()).is_some_and(|until| *until > now)
    }

    /// Makes room for so many bytes. None if there is none: too much is on its way to clients.
    pub fn reserve(&self, bytes: u64) -> Option<Reserved> {
        self.make_room(bytes, || self.budget.reserve(bytes))
    }

    /// Makes room for `more` beside what is reserved, `most` in all. False if there is none.
    pub fn grow(&self, reserved: &mut Reserved, more: u64, most: u64) -> bool {
        reserved.bytes().saturating_add(more) <= most
            && self.make_room(more, || reserved.grow(more, most).then_some(())).is_some()
    }

    /// Evicts until `take` takes, or too much for `bytes` has gone.
    pub(super) fn make_room<T>(&self, bytes: u64, mut take: impl FnMut() -> Option<T>) -> Option<T> {
        if bytes > self.bytes_max {
            return None;
        }
        let (mut freed, mut empty) = (0, 0);
        loop {
            if let Some(took) = take() {
                if self.used() > self.bytes_max / 16 * CROWDED {
                    self.crowded.notify_one();
                }
                return Some(took);
            }
            // What others send still frees nothing: twice as much as is needed is enough.
            if freed >= bytes.saturating_mul(2).max(64 * 1024) || empty == SHARDS {
                return None;
            }
            let number = self.turn.fetch_add(1, Ordering::Relaxed) % SHARDS;
            let gone = self.shard(number).evict();
            match gone {
                Some(kept) => {
                    empty = 0;
                    freed += kept.head.weight() + kept.body.length();
                    self.evicted.fetch_add(1, Ordering::Relaxed);
                }
                None => empty += 1,
            }
        }
    }

    fn shard_of(&self, key: &Key) -> MutexGuard<'_, Shard> {
        self.shard(usize::try_from(key.hash() % SHARDS as u64).unwrap_or(0))
    }

    fn shard(&self, number: usize) -> MutexGuard<'_, Shard> {
        self.shards[number].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn evict(&mut self) -> Option<Arc<Kept>> {
        let kept = self.sieve.evict()?;
        self.forget_number(&kept);
        Some(kept)
    }

    fn take_out(&mut self, number: usize) {
        if let Some(kept) = self.sieve.remove(number) {
            self.forget_number(&kept);
        }
    }

    /// Takes what is not there any more out of the list of its key.
    fn forget_number(&mut self, kept: &Kept) {
        let Self { keys, sieve, .. } = self;
        if let Some(numbers) = keys.get_mut(&kept.head.key) {
            numbers.retain(|number| sieve.get(*number).is_some_and(|it| it.head.key == kept.head.key));
            if numbers.is_empty() {
                keys.remove(&kept.head.key);
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! Which answers may be kept, for how long they are fresh, and whether one that is kept answers a request (RFC 9111, sections 3 and 4;
//! RFC 5861). Pure: told all that it depends on.
//!
//! This is the cache of many users. Whatever is not clearly for all of them is not kept: an answer to somebody who said who he is or
//! that sets a cookie only if it says that it is for others, and one that only the route or its age makes last neither for nor from
//! requests with cookies.

use std::time::Duration;

use hirsel_model::{Timestamp, WallTime, spec};
use http::header::{AGE, CONTENT_TYPE, COOKIE, DATE, ETAG, EXPIRES, HeaderName, LAST_MODIFIED, SET_COOKIE, VARY};
use http::{HeaderMap, StatusCode};

use super::dates;
use super::directives::{Asked, Members, Told};

/// Whatever an answer says, it is fresh for a month at most. Longer than that no memory here holds anything.
const LIFETIME_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// An answer that says only when it was changed is fresh for a tenth of the time since then (section 4.2.2), but not longer: nobody
/// said that it will not change.
const HEURISTIC_MAX: Duration = Duration::from_secs(3600);

/// Fields of a request that an answer may depend on. Each is compared for each request.
const VARY_MAX: usize = 8;

/// What a route says of its answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Fresh for so long, where the answer says nothing.
    pub ttl: Option<Duration>,
    /// Fresh for so long at most.
    pub max_ttl: Option<Duration>,
    /// Given for so long more while a new one is asked for, where the answer says nothing.
    pub stale: Duration,
    /// Given for so long more while none is to be had, where the answer says nothing.
    pub stale_if_error: Duration,
}

impl Rules {
    /// As they are carried out.
    pub fn of(cache: &spec::Cache) -> Self {
        let time = |ms: Option<u64>| ms.map(Duration::from_millis);
        Self {
            ttl: time(cache.ttl_ms),
            max_ttl: time(cache.max_ttl_ms),
            stale: time(cache.stale_ms).unwrap_or_default(),
            stale_if_error: time(cache.stale_if_error_ms).unwrap_or_default(),
        }
    }
}

/// When an answer was asked for, and came.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The request went out.
    pub asked: Timestamp,
    /// The head of the answer was there.
    pub came: Timestamp,
    /// The same, by the wall clock: dates are compared with it, as section 4.2.3 has it. A wrong one makes answers older than they are,
    /// never younger.
    pub wall: WallTime,
}

/// Who asked for what might be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asker {
    /// It says who asks.
    pub is_known: bool,
    /// It has cookies.
    pub has_cookies: bool,
    /// Nothing of its answer shall be kept.
    pub no_store: bool,
}

impl Asker {
    /// Of a request with these header fields; `is_known` if it said who asks.
    pub fn of(headers: &HeaderMap, is_known: bool) -> Self {
        Self { is_known, has_cookies: headers.contains_key(COOKIE), no_store: Asked::of(headers).no_store }
    }
}

/// For how long an answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// Its age when it came.
    age: Duration,
    came: Timestamp,
    lifetime: Duration,
    /// It said nothing of how long it is fresh.
    pub is_implicit: bool,
    /// It is given to nobody before it was validated.
    must_validate: bool,
    while_revalidate: Duration,
    if_error: Duration,
    /// Clients may take it stale.
    bears_stale: bool,
}

/// What is done with an answer that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It is given.
    Fresh,
    /// It is given, and a new one is asked for.
    Stale,
    /// It is given, for the client takes it so.
    Old,
    /// It has to be validated first.
    Validate,
}

/// For how long the answer holds to a request of `asker` by GET, if it may be kept and is worth it.
pub fn keep(asker: Asker, status: StatusCode, headers: &HeaderMap, rules: &Rules, times: Times) -> Option<Freshness> {
    let told = Told::of(headers);
    let understood = is_understood(status);
    // Whoever says so says `no-store` for those who do not understand it (section 5.2.2.3).
    let no_store = told.no_store && !(told.must_understand && understood);
    if no_store || told.private || asker.no_store || (told.must_understand && !understood) || !is_whole(status) {
        return None;
    }
    if (asker.is_known && !told.is_for_others()) || (headers.contains_key(SET_COOKIE) && !told.public) {
        return None;
    }
    let mut names = 0;
    for member in vary(headers) {
        names += 1;
        if member == b"*" || names > VARY_MAX {
            return None;
        }
    }
    let freshness = Freshness::of(&told, status, headers, rules, times)?;
    (freshness.is_worth_it(headers) && !(freshness.is_implicit && asker.has_cookies)).then_some(freshness)
}

/// The fields of a request that an answer says it depends on.
pub fn vary(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers.get_all(VARY).iter().flat_map(Members::of)
}

/// A final answer that is no part of another one.
fn is_whole(status: StatusCode) -> bool {
    status.as_u16() >= 200 && !matches!(status, StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Statuses whose meaning for a cache is known here.
fn is_understood(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300..=303 | 307 | 308 | 404 | 405 | 410 | 414 | 451 | 500..=504)
}

/// Statuses that may be kept although they say nothing (RFC 9110, section 15.1).
fn is_lasting(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// Of those the ones that the time of a route is about: what is missing now may be there in a moment.
fn is_success(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 410)
}

impl Freshness {
    fn of(told: &Told, status: StatusCode, headers: &HeaderMap, rules: &Rules, times: Times) -> Option<Self> {
        let date = dates::said(headers, &DATE).unwrap_or(times.wall.0 / 1_000);
        let explicit = told.s_maxage.or(told.max_age).or_else(|| {
            // A date that is none, or two of them, is past.
            (headers.contains_key(EXPIRES) && !told.is_targeted)
                .then(|| dates::said(headers, &EXPIRES).map_or(0, |at| at.saturating_sub(date)))
        });
        let changed = || dates::said(headers, &LAST_MODIFIED).filter(|at| *at <= date);
        let heuristic = || changed().map(|at| Duration::from_secs((date - at) / 10).min(HEURISTIC_MAX));
        let lifetime = match explicit {
            Some(seconds) => Duration::from_secs(seconds),
            // It is given to nobody before it was validated, so it needs no time.
            None if told.no_cache => Duration::ZERO,
            None if !is_lasting(status) && !told.public => return None,
            None if is_stream(headers) => return None,
            None => rules.ttl.filter(|_| is_success(status)).or_else(heuristic)?,
        };
        let most = rules.max_ttl.unwrap_or(LIFETIME_MAX).min(LIFETIME_MAX);
        let grace = |said: Option<u64>, usual: Duration| match said {
            _ if told.forbids_stale() => Duration::ZERO,
            Some(seconds) => Duration::from_secs(seconds),
            // It stands for `proxy-revalidate` too (section 5.2.2.10), unless the answer itself says otherwise.
            None if told.s_maxage.is_some() => Duration::ZERO,
            None => usual,
        };
        Some(Self {
            age: age_when_it_came(headers, date, times),
            came: times.came,
            lifetime: lifetime.min(most),
            is_implicit: explicit.is_none() && !told.no_cache,
            must_validate: told.no_cache,
            while_revalidate: grace(told.while_revalidate, rules.stale).min(LIFETIME_MAX),
            if_error: grace(told.if_error, rules.stale_if_error).min(LIFETIME_MAX),
            bears_stale: !told.forbids_stale() && told.s_maxage.is_none(),
        })
    }

    /// Whether anybody will ever be given it, or spared the sending of it again.
    fn is_worth_it(&self, headers: &HeaderMap) -> bool {
        let lasts = !self.must_validate && self.lifetime + self.while_revalidate.max(self.if_error) > self.age;
        lasts || (!self.is_implicit && (headers.contains_key(ETAG) || headers.contains_key(LAST_MODIFIED)))
    }

    /// Its age (section 4.2.3).
    pub fn age(&self, now: Timestamp) -> Duration {
        self.age + now.since(self.came)
    }

    /// Whether it is fresh, and may be given to whoever asks without a wish of his own.
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        !self.must_validate && self.age(now) < self.lifetime
    }

    /// Whether each request has it validated anew: there is no use in waiting for that of another one.
    pub fn is_never_fresh(&self) -> bool {
        self.must_validate || self.lifetime <= self.age
    }

    /// For how many seconds it is fresh still; below zero when it was for the last time.
    pub fn left_s(&self, now: Timestamp) -> i64 {
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        seconds(self.lifetime).saturating_sub(seconds(self.age(now)))
    }

    /// Whether it answers a request that says so.
    pub fn usable(&self, asked: &Asked, now: Timestamp) -> Use {
        let age = self.age(now);
        let seconds = Duration::from_secs;
        if self.must_validate || asked.no_cache || asked.max_age.is_some_and(|most| age > seconds(most)) {
            return Use::Validate;
        }
        if let Some(left) = self.lifetime.checked_sub(age).filter(|left| !left.is_zero()) {
            let least = asked.min_fresh.map_or(Duration::ZERO, seconds);
            return if left >= least { Use::Fresh } else { Use::Validate };
        }
        let late = age.saturating_sub(self.lifetime);
        // Whoever wants it fresh for a while to come bears nothing old, even if it says so too.
        let max_stale = asked.max_stale.filter(|_| asked.min_fresh.is_none());
        if self.bears_stale && max_stale.is_some_and(|most| late <= seconds(most)) {
            return Use::Old;
        }
        // Whoever says how old it may be wants it fresh (section 5.2.1.1).
        let bears = asked.min_fresh.is_none() && asked.max_age.is_none();
        if bears && !self.while_revalidate.is_zero() && late <= self.while_revalidate {
            Use::Stale
        } else {
            Use::Validate
        }
    }

    /// Whether it is given where no other answer is to be had.
    pub fn stands_in(&self, now: Timestamp) -> bool {
        let late = self.age(now).saturating_sub(self.lifetime);
        !self.must_validate && !self.if_error.is_zero() && late <= self.if_error
    }
}

/// What never ends is nothing to keep, unless it says so itself.
fn is_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(http::HeaderValue::as_bytes).unwrap_or_default();
    kind.get(..17).is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/event-stream"))
}

/// `corrected_initial_age` of section 4.2.3.
fn age_when_it_came(headers: &HeaderMap, date: u64, times: Times) -> Duration {
    let said = headers.get(AGE).and_then(|value| value.to_str().ok()?.split(',').next()?.trim().parse::<u64>().ok());
    let said = Duration::from_secs(said.unwrap_or(0).min(super::directives::SECONDS_MAX));
    let apparent = Duration::from_secs((times.wall.0 / 1_000).saturating_sub(date));
    apparent.max(said + times.came.since(times.asked))
}

/// Fields that do not go over from an answer that says nothing changed to the one that is kept (section 3.2): they are about its body.
pub const OF_THE_BODY: [HeaderName; 4] = [
    http::header::CONTENT_LENGTH,
    http::header::CONTENT_ENCODING,
    http::header::CONTENT_TYPE,
    http::header::CONTENT_RANGE,
];

#[cfg(test)]
mod tests;

//! When an instance that failed is left alone, and for how long.
//!
//! One failure is enough: the next request goes elsewhere, and a wrong suspicion costs a second. The time grows while failures follow
//! each other and starts over with the first success. Ejection is only a preference: when every instance of a service is ejected
//! they all take requests again, so the last one is never ejected (see [`crate::table::Service::pick`]).
//!
//! Pure: time is an argument.

use std::time::Duration;

use hirsel_model::Timestamp;

/// After a first failure. A restarted program is back within a second; less would let through requests that fail again.
pub const EJECTED_FIRST: Duration = Duration::from_secs(1);

/// After many failures. One request in half a minute finds out that a long absent instance is back.
pub const EJECTED_MAX: Duration = Duration::from_secs(30);

/// How long an instance answers its sessions that drains for `drain` at most: well before that is over, for who stops it counts from
/// a moment before we heard of it, and a request that comes last has to end too.
pub fn lingers_for(drain: Duration) -> Duration {
    (drain * 3 / 4).saturating_sub(Duration::from_secs(1))
}

/// How an instance has been doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    failures: u32,
    until: Timestamp,
}

impl Record {
    /// Until when it is left alone.
    pub fn until(&self) -> Timestamp {
        self.until
    }

    /// Whether it is left alone at `now`.
    pub fn is_ejected(&self, now: Timestamp) -> bool {
        now < self.until
    }

    /// The record after a failure. Failures while it is ejected count once: they are of requests that were under way together.
    #[must_use]
    pub fn failed(self, now: Timestamp) -> Self {
        if self.is_ejected(now) {
            return self;
        }
        let failures = self.failures.saturating_add(1);
        let doubled = EJECTED_FIRST.saturating_mul(2u32.saturating_pow(failures - 1));
        Self { failures, until: now + doubled.min(EJECTED_MAX) }
    }

    /// The record after a success.
    #[must_use]
    pub fn succeeded(self) -> Self {
        Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_failure_ejects_for_a_second() {
        let now = Timestamp(10_000);
        let record = Record::default().failed(now);
        assert!(record.is_ejected(now));
        assert!(record.is_ejected(Timestamp(10_999)));
        assert!(!record.is_ejected(Timestamp(11_000)));
    }

    #[test]
    fn the_time_doubles_up_to_half_a_minute_and_a_success_clears_it() {
        let mut record = Record::default();
        let mut now = Timestamp(0);
        let mut times = Vec::new();
        for _ in 0..8 {
            record = record.failed(now);
            times.push(record.until().since(now).as_secs());
            now = record.until();
        }
        assert_eq!(times, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(record.succeeded().failed(now).until().since(now), EJECTED_FIRST);
    }

    #[test]
    fn failures_of_requests_that_were_under_way_together_count_once() {
        let now = Timestamp(0);
        let record = (0..100).fold(Record::default(), |record, _| record.failed(now));
        assert_eq!(record, Record::default().failed(now));
    }

    proptest! {
        #[test]
        fn nothing_is_ejected_for_longer_than_the_limit(steps in prop::collection::vec((any::<bool>(), 0u64..60_000), 0..100)) {
            let (mut record, mut now) = (Record::default(), Timestamp(0));
            for (failed, pause_ms) in steps {
                record = if failed { record.failed(now) } else { record.succeeded() };
                prop_assert!(record.until().since(now) <= EJECTED_MAX);
                now = now + Duration::from_millis(pause_ms);
            }
        }
    }
}

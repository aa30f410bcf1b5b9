//! When a request that may be carried out twice is told to a second instance before the first has answered ("hedged", after Dean and
//! Barroso, "The Tail at Scale", 2013): one slow instance in twenty is then no slow request in twenty.
//!
//! After a fixed time, or after that within which most requests of the route are answered. Second requests are a small part of all: when
//! everything is slow they would make it slower.
//!
//! The time within which so many are answered is not counted but followed: each answer moves the estimate a little, up or down by the
//! odds of the quantile (after Ma, Muthukrishnan, Sandler: "Frugal Streaming for Estimating Quantiles", 2014).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hirsel_model::spec::{Hedge as Wanted, HedgeAfter};

use super::purse::Purse;

/// So many requests of a hundred may have a second one, in the long run.
const SHARE_PERCENT: u32 = 10;

/// So many second requests at once, when none was needed for long.
const BURST: u32 = 10;

/// Each answer moves the estimate by this fraction of it times the odds. A hundred answers follow a change; noise moves it by some
/// hundredths.
const STEP_FRACTION: u64 = 32;

/// Of a route that nobody asked yet nothing is known. Within a data centre this is a slow answer.
const UNKNOWN: Duration = Duration::from_millis(100);

/// The clock counts in milliseconds, and what is faster than one needs no second request.
const LEAST: Duration = Duration::from_millis(1);

/// When requests of a route are hedged.
#[derive(Debug)]
pub struct Hedge {
    after: After,
    purse: Purse,
}

#[derive(Debug)]
enum After {
    Fixed(Duration),
    /// Within which so many hundredths of the answers begin: followed in microseconds, zero for unknown.
    Quantile(u32, AtomicU64),
}

impl Hedge {
    /// As a route says it.
    pub fn of(wanted: &Wanted) -> Self {
        let after = match wanted.after {
            HedgeAfter::Ms(ms) => After::Fixed(Duration::from_millis(ms)),
            HedgeAfter::Percentile(percent) => After::Quantile(percent.min(99), AtomicU64::new(0)),
        };
        Self { after, purse: Purse::new(SHARE_PERCENT, BURST) }
    }

    /// How long one instance is waited for. Each request asks once.
    pub fn wait(&self) -> Duration {
        self.purse.bring();
        match &self.after {
            After::Fixed(time) => *time,
            After::Quantile(_, estimate) => match estimate.load(Ordering::Relaxed) {
                0 => UNKNOWN,
                us => Duration::from_micros(us).max(LEAST),
            },
        }
    }

    /// Whether there may be a second request now.
    pub fn may(&self) -> bool {
        self.purse.spend()
    }

    /// Notes how long the first of a request's instances took, at least.
    pub fn took(&self, time: Duration) {
        let After::Quantile(percent, estimate) = &self.after else { return };
        let sample = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
        let before = estimate.load(Ordering::Relaxed);
        // Of two answers at the same moment one may be lost: that is noise too.
        estimate.store(followed(before, sample, u64::from(*percent)), Ordering::Relaxed);
    }
}

/// The estimate of the quantile after one more sample.
fn followed(before: u64, sample: u64, percent: u64) -> u64 {
    if before == 0 {
        return sample;
    }
    // Never nothing, so that it moves when it is small.
    let step = (before / STEP_FRACTION).max(100);
    if sample > before {
        before.saturating_add(step * percent / 100).min(sample)
    } else {
        before.saturating_sub(step * (100 - percent) / 100).max(sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::alike::mix;
    use proptest::prelude::*;

    fn hedge(after: HedgeAfter) -> Hedge {
        Hedge::of(&Wanted { after })
    }

    #[test]
    fn the_time_follows_what_most_answers_take() {
        let hedge = hedge(HedgeAfter::Percentile(95));
        assert_eq!(hedge.wait(), UNKNOWN);
        // 0 to 100 ms, all alike often: 95 of them are below 95 ms.
        let ms = |hedge: &Hedge| hedge.wait().as_millis();
        (0..5_000).for_each(|at| hedge.took(Duration::from_micros(mix(at) % 100_000)));
        assert!((85..=100).contains(&ms(&hedge)), "{}", ms(&hedge));
        // All of it ten times as fast.
        (0..5_000).for_each(|at| hedge.took(Duration::from_micros(mix(at) % 10_000)));
        assert!((8..=11).contains(&ms(&hedge)), "{}", ms(&hedge));
        // One answer that never ends moves it by a little.
        let before = ms(&hedge);
        hedge.took(Duration::from_secs(600));
        assert!(ms(&hedge) <= before + 1);
    }

    #[test]
    fn a_fixed_time_stays_and_second_requests_are_few() {
        let hedge = hedge(HedgeAfter::Ms(20));
        hedge.took(Duration::from_secs(1));
        assert_eq!(hedge.wait(), Duration::from_millis(20));
        assert_eq!((0..100).filter(|_| hedge.may()).count(), BURST as usize);
    }

    proptest! {
        #[test]
        fn the_estimate_stays_between_what_was_seen(samples in prop::collection::vec(1u64..1_000_000, 1..200), percent in 50u64..100) {
            let mut estimate = 0;
            for sample in &samples {
                estimate = followed(estimate, *sample, percent);
            }
            prop_assert!(estimate >= *samples.iter().min().unwrap() && estimate <= *samples.iter().max().unwrap());
        }
    }
}

//! Which instance takes the next request: the better of two drawn at random, by requests under way and recent latency.
//!
//! Drawing two and taking the better avoids both the herd (everybody sees the same best one) and the blind draw; see Mitzenmacher,
//! "The Power of Two Choices in Randomized Load Balancing". The latency is a peak EWMA as in Twitter's Finagle: it jumps up at once
//! and comes down slowly, so that an instance that begins to stall is left alone within one answer.
//!
//! Pure: chance and time are arguments.

use std::time::Duration;

use hirsel_model::Timestamp;

/// An average without news loses half of its value in this time: a slow instance is tried again, and a fast one is not judged by
/// what it did a minute ago.
const HALF_LIFE_MS: u64 = 5_000;

/// Each answer that is faster than the average moves it by this fraction.
const FALL_FRACTION: u64 = 16;

/// Latencies below this count alike. The clock counts in milliseconds, and differences below one say nothing about load.
const FLOOR_US: u64 = 1_000;

/// Recent latency of one instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    average_us: u64,
    at: Timestamp,
}

impl Latency {
    /// Puts a stored latency together again.
    pub fn from_parts(average_us: u64, at: Timestamp) -> Self {
        Self { average_us, at }
    }

    /// What is to be stored.
    pub fn into_parts(self) -> (u64, Timestamp) {
        (self.average_us, self.at)
    }

    /// The average as it stands at `now`, faded.
    pub fn at(self, now: Timestamp) -> u64 {
        let age_ms = u64::try_from(now.since(self.at).as_millis()).unwrap_or(u64::MAX);
        let halvings = u32::try_from(age_ms / HALF_LIFE_MS).unwrap_or(u32::MAX);
        self.average_us.checked_shr(halvings).unwrap_or(0)
    }

    /// The latency after one more answer.
    #[must_use]
    pub fn with(self, sample: Duration, now: Timestamp) -> Self {
        let sample_us = u64::try_from(sample.as_micros()).unwrap_or(u64::MAX);
        let average_us = self.at(now);
        let average_us = if sample_us >= average_us {
            sample_us
        } else {
            average_us - (average_us - sample_us).div_ceil(FALL_FRACTION)
        };
        Self { average_us, at: now }
    }
}

/// What one more request on this instance costs, for comparison.
pub fn cost(in_flight: u32, latency_us: u64) -> u64 {
    (u64::from(in_flight) + 1).saturating_mul(latency_us.max(FLOOR_US))
}

/// Draws two of the `count` candidates that are `usable` and returns the cheaper one; the only one if there is one, else none.
///
/// An unusable one that was drawn hands over to its next neighbour that is usable.
pub fn pick(count: usize, draw: u64, usable: impl Fn(usize) -> bool, cost: impl Fn(usize) -> u64) -> Option<usize> {
    if count == 0 {
        return None;
    }
    let next_usable = |from: usize, not: Option<usize>| {
        (0..count).map(|step| (from + step) % count).find(|at| Some(*at) != not && usable(*at))
    };
    let first = next_usable(scale(draw as u32, count), None)?;
    let Some(second) = next_usable(scale((draw >> 32) as u32, count), Some(first)) else { return Some(first) };
    Some(if cost(second) < cost(first) { second } else { first })
}

/// Maps 32 random bits to `0..count` without a division.
fn scale(bits: u32, count: usize) -> usize {
    ((u64::from(bits) * count as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn of_two_drawn_the_cheaper_one_is_taken() {
        let costs = [50, 10];
        for draw in [0, u64::MAX, 0xFFFF_FFFF, 0xFFFF_FFFF_0000_0000] {
            assert_eq!(pick(2, draw, |_| true, |at| costs[at]), Some(1));
        }
    }

    #[test]
    fn a_slow_answer_counts_at_once_and_is_forgotten_slowly() {
        let start = Timestamp(1_000);
        let calm = Latency::default().with(Duration::from_millis(5), start);
        let peak = calm.with(Duration::from_millis(800), start);
        assert_eq!(peak.at(start), 800_000);
        let after = peak.with(Duration::from_millis(5), start);
        assert!(after.at(start) > 700_000, "one good answer does not redeem: {}", after.at(start));
        assert_eq!(peak.at(start + Duration::from_millis(HALF_LIFE_MS)), 400_000);
        assert_eq!(peak.at(start + Duration::from_secs(3600)), 0);
    }

    #[test]
    fn requests_under_way_weigh_more_than_noise_of_the_clock() {
        assert!(cost(0, 900) == cost(0, 0));
        assert!(cost(2, 0) > cost(0, 1_900));
    }

    #[test]
    fn load_spreads_evenly_over_equal_instances() {
        let mut taken = [0u64; 5];
        let mut seed = 7u64;
        for _ in 0..10_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = pick(5, seed, |_| true, |at| taken[at]).unwrap();
            taken[at] += 1;
        }
        assert!(taken.iter().all(|n| (1_950..=2_050).contains(n)), "{taken:?}");
    }

    proptest! {
        #[test]
        fn only_usable_ones_are_picked_and_one_always_is(draw: u64, usable in prop::collection::vec(any::<bool>(), 0..20)) {
            match pick(usable.len(), draw, |at| usable[at], |at| at as u64) {
                Some(at) => prop_assert!(usable[at]),
                None => prop_assert!(usable.iter().all(|usable| !usable)),
            }
        }

        #[test]
        fn an_average_stays_between_its_samples(samples in prop::collection::vec(0u64..10_000, 1..50)) {
            let now = Timestamp(5);
            let mut latency = Latency::default();
            for sample in &samples {
                latency = latency.with(Duration::from_millis(*sample), now);
            }
            prop_assert!(latency.at(now) <= samples.iter().max().unwrap() * 1000);
            prop_assert!(latency.at(now) >= samples.last().unwrap() * 1000);
        }
    }
}

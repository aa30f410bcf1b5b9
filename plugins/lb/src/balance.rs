//! Which instance takes the next request: unless a route says otherwise the better of two drawn at random, by requests under way and
//! recent latency. What else a route may say is here too: turns, the fewest requests, and in [`alike`] the same for what is alike.
//!
//! Drawing two and taking the better avoids both the herd (everybody sees the same best one) and the blind draw; see Mitzenmacher,
//! "The Power of Two Choices in Randomized Load Balancing". The latency is a peak EWMA as in Twitter's Finagle: it jumps up at once
//! and comes down slowly, so that an instance that begins to stall is left alone within one answer.
//!
//! Pure: chance and time are arguments.

use std::time::Duration;

use hirsel_model::Timestamp;

pub mod alike;
pub mod warming;
pub mod zones;

/// At most so many instances are compared by [`fewest`]: who is the least of a thousand matters less than the time to find out.
const COMPARED_MAX: usize = 128;

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

/// The usable one of `count` candidates whose turn it is. `next` counts: whoever is passed over loses its turn, and its neighbour gets
/// no second one for it.
pub fn turn(count: usize, mut next: impl FnMut() -> usize, usable: impl Fn(usize) -> bool) -> Option<usize> {
    let mut at = 0;
    for _ in 0..count {
        at = next() % count;
        if usable(at) {
            return Some(at);
        }
    }
    // Others took turns meanwhile, maybe all those of the one that is left.
    (0..count).map(|step| (at + step) % count).find(|at| usable(*at))
}

/// The usable one of `count` candidates with the fewest requests under way, of those that are alike one by chance.
pub fn fewest(
    count: usize,
    draw: u64,
    usable: impl Fn(usize) -> bool,
    in_flight: impl Fn(usize) -> u32,
) -> Option<usize> {
    let from = scale(draw as u32, count);
    let usable = (0..count).map(|step| (from + step) % count).filter(|at| usable(*at));
    usable.take(COMPARED_MAX).min_by_key(|at| in_flight(*at))
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

    #[test]
    fn turns_are_taken_one_after_another_and_whoever_is_passed_over_hands_nobody_two() {
        let mut count = 0;
        let mut next = || {
            count += 1;
            count - 1
        };
        let mut taken = [0; 4];
        for _ in 0..400 {
            taken[turn(4, &mut next, |_| true).unwrap()] += 1;
        }
        assert_eq!(taken, [100; 4]);
        let mut taken = [0; 4];
        for _ in 0..300 {
            taken[turn(4, &mut next, |at| at != 2).unwrap()] += 1;
        }
        assert_eq!(taken, [100, 100, 0, 100]);
        assert_eq!(turn(4, || 2, |at| at == 1), Some(1), "whatever others count meanwhile");
        assert_eq!(turn(0, || 0, |_| true), None);
    }

    #[test]
    fn of_all_the_one_with_the_fewest_requests_is_taken() {
        let under_way = [3, 1, 2, 1];
        let mut taken = [0u32; 4];
        let mut seed = 7u64;
        for _ in 0..1_000 {
            seed = alike::mix(seed);
            taken[fewest(4, seed, |_| true, |at| under_way[at]).unwrap()] += 1;
        }
        assert_eq!((taken[0], taken[2]), (0, 0));
        assert!(taken[1] > 200 && taken[3] > 200, "{taken:?}");
        assert_eq!(fewest(4, 0, |at| at == 0, |at| under_way[at]), Some(0));
        assert_eq!(fewest(1_000, 0, |at| at == 900, |_| 0), Some(900), "those that are not usable are not compared");
    }

    proptest! {
        #[test]
        fn every_policy_takes_usable_ones_alone_and_one_if_there_is_one(
            draw: u64, usable in prop::collection::vec(any::<bool>(), 0..20)
        ) {
            let mut count = draw as usize;
            let next = || { count = count.wrapping_add(1); count };
            let chosen = [
                turn(usable.len(), next, |at| usable[at]),
                fewest(usable.len(), draw, |at| usable[at], |at| at as u32),
            ];
            for at in chosen {
                prop_assert_eq!(at.map(|at| usable[at]), usable.contains(&true).then_some(true));
            }
        }

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

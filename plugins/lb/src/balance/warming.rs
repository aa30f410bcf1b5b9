//! Slow start: the share of an instance that has become healthy grows from a tenth to the whole.
//!
//! An instance that is not warm is passed over in some of the choices that it takes part in, whatever the policy is. What counts is how
//! much younger it is than the oldest one beside it: where all are new, none is.
//!
//! Pure: chance and time are arguments.

use std::time::Duration;

use hirsel_model::Timestamp;

use super::alike::mix;

/// A whole share; two of them multiplied are still a number.
const WHOLE: u64 = 1 << 31;

/// What an instance gets from its first moment on: without a request nothing becomes warm.
const LEAST: u64 = WHOLE / 10;

/// How warm the instances of a service are.
#[derive(Clone, Copy, Debug)]
pub struct Warming {
    window: Duration,
    now: Timestamp,
    /// The share of the oldest one.
    most: u64,
}

impl Warming {
    /// At `now`, with instances of which the oldest has been ready since `oldest`. None if all of them are warm, as far as that tells.
    pub fn new(window: Duration, oldest: Timestamp, now: Timestamp) -> Self {
        Self { window, now, most: share(window, oldest, now) }
    }

    /// Whether an instance that is ready since `since` is considered in the choice that `draw` stands for. `name` is its number, so that
    /// two of one age are not always passed over together.
    pub fn considers(&self, since: Timestamp, name: u64, draw: u64) -> bool {
        let own = share(self.window, since, self.now);
        let wanted = own.saturating_mul(WHOLE) / self.most;
        mix(draw.rotate_left(17) ^ name) >> 33 < wanted
    }
}

/// Of [`WHOLE`], for an instance that is ready since `since`.
fn share(window: Duration, since: Timestamp, now: Timestamp) -> u64 {
    let (age, window) = (now.since(since).as_millis(), window.as_millis().max(1));
    if age >= window {
        return WHOLE;
    }
    u64::try_from(u128::from(WHOLE) * age / window).unwrap_or(WHOLE).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WINDOW: Duration = Duration::from_secs(10);

    fn considered(oldest: Timestamp, since: Timestamp, now: Timestamp) -> u32 {
        let warming = Warming::new(WINDOW, oldest, now);
        (0..10_000).filter(|draw| warming.considers(since, 99, mix(*draw))).count() as u32
    }

    #[test]
    fn a_share_grows_from_a_tenth_to_the_whole() {
        let (oldest, since) = (Timestamp(0), Timestamp(100_000));
        let after = |ms: u64| considered(oldest, since, since + Duration::from_millis(ms));
        assert!((900..=1_100).contains(&after(0)), "{}", after(0));
        assert!((2_350..=2_650).contains(&after(2_500)), "{}", after(2_500));
        assert!((7_350..=7_650).contains(&after(7_500)), "{}", after(7_500));
        assert_eq!(after(10_000), 10_000);
    }

    #[test]
    fn where_all_are_new_none_is() {
        let now = Timestamp(101_000);
        assert_eq!(considered(Timestamp(100_000), Timestamp(100_000), now), 10_000);
        assert_eq!(considered(Timestamp(100_000), Timestamp(100_200), now), 10_000, "the floor holds for both");
    }

    proptest! {
        #[test]
        fn the_oldest_is_always_considered_and_older_ones_more_often(
            oldest in 0u64..20_000, later in 0u64..20_000, passed in 0u64..20_000, name: u64, draw: u64
        ) {
            let now = Timestamp(oldest + later + passed);
            let warming = Warming::new(WINDOW, Timestamp(oldest), now);
            prop_assert!(warming.considers(Timestamp(oldest), name, draw));
            if warming.considers(Timestamp(oldest + later), name, draw) {
                prop_assert!(warming.considers(Timestamp(oldest + later / 2), name, draw));
            }
        }
    }
}

//! Virtual time. Each host counts from an origin of its own, at a rate of its own; its wall clock is off by an amount of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hirsel_mesh::seam::Clock;
use hirsel_model::{Timestamp, WallTime};

/// 2027-01-15: where the wall clocks of all simulations begin.
pub const EPOCH_MS: u64 = 1_800_000_000_000;

/// The clock of one host.
#[derive(Clone, Debug, Default)]
pub struct SimClock {
    /// What the monotonic clock showed when the simulation began.
    pub origin_ms: u64,
    /// How much faster it runs than true time, in millionths. Real oscillators stay within ±100; here within
    /// ±10,000, and leases allow for 5 %.
    pub rate_ppm: i32,
    /// How far the wall clock is off.
    pub wall_offset_ms: i64,
    /// How far all wall clocks went ahead of virtual time at once, in milliseconds: months that nobody waits for.
    pub leapt_ms: Arc<AtomicU64>,
}

impl SimClock {
    /// What it shows after `elapsed` of true time.
    pub fn at(&self, elapsed: Duration) -> Timestamp {
        Timestamp(self.monotonic_ms(elapsed))
    }

    /// The true time at which it shows `moment`, or at most some microseconds later.
    pub fn when(&self, moment: Timestamp) -> Duration {
        let own_us = i128::from(moment.0.saturating_sub(self.origin_ms)) * 1000;
        let true_us = own_us * 1_000_000 / i128::from(1_000_000 + self.rate_ppm) + 1;
        Duration::from_micros(u64::try_from(true_us).unwrap_or(u64::MAX))
    }

    fn monotonic_ms(&self, elapsed: Duration) -> u64 {
        let true_us = elapsed.as_micros() as i128;
        let own_us = true_us + true_us * i128::from(self.rate_ppm) / 1_000_000;
        self.origin_ms + (own_us / 1000) as u64
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.at(elapsed())
    }

    fn wall(&self) -> WallTime {
        let since = elapsed().as_millis() as u64 + self.leapt_ms.load(Ordering::Relaxed);
        WallTime((EPOCH_MS + since).saturating_add_signed(self.wall_offset_ms))
    }
}

/// True time since the simulation began; zero outside every simulated host.
pub fn elapsed() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_clock_shows_more_and_a_slow_one_less() {
        let minute = Duration::from_secs(60);
        let at = |rate_ppm| SimClock { origin_ms: 5, rate_ppm, ..SimClock::default() }.monotonic_ms(minute);
        assert_eq!((at(0), at(10_000), at(-10_000)), (60_005, 60_605, 59_405));
    }

    #[test]
    fn when_a_moment_comes_the_clock_shows_it() {
        for rate_ppm in [-200, 0, 137, 200, 10_000] {
            let clock = SimClock { origin_ms: 77, rate_ppm, ..SimClock::default() };
            for moment in [78, 1_000, 2_345, 999_999].map(Timestamp) {
                assert_eq!(clock.at(clock.when(moment)), moment, "at {rate_ppm}");
            }
        }
    }

    #[test]
    fn both_clocks_follow_virtual_time() {
        let mut sim = turmoil::Builder::new().build();
        sim.client("n1", async {
            let clock = SimClock { origin_ms: 1_000, wall_offset_ms: -500, ..SimClock::default() };
            let (now, wall) = (clock.now(), clock.wall());
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert_eq!(clock.now().since(now), Duration::from_secs(3));
            assert_eq!(clock.wall().0 - wall.0, 3_000);
            Ok(())
        });
        sim.run().unwrap();
    }
}

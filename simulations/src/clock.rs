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
    /// How much faster it runs than true time, in millionths. Real oscillators stay within ±100; leases allow for 5 %.
    pub rate_ppm: i32,
    /// How far the wall clock is off.
    pub wall_offset_ms: i64,
    /// How far all wall clocks went ahead of virtual time at once, in milliseconds: months that nobody waits for.
    pub leapt_ms: Arc<AtomicU64>,
}

impl SimClock {
    fn monotonic_ms(&self, elapsed: Duration) -> u64 {
        let true_us = elapsed.as_micros() as i128;
        let own_us = true_us + true_us * i128::from(self.rate_ppm) / 1_000_000;
        self.origin_ms + (own_us / 1000) as u64
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.monotonic_ms(elapsed()))
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

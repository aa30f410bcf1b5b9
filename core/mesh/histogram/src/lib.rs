//! Counts values by their power of two. See the README for why this exists.

use std::fmt;
use std::marker::PhantomData;

/// One counter for zero, and one for each number of significant bits.
const BUCKETS: usize = 65;

/// How often values of each size were seen.
pub struct Histogram<T = ()> {
    counts: [u64; BUCKETS],
    of: PhantomData<T>,
}

/// What part of all values are at most so large, to a factor of two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PercentileStats {
    /// How many values there are.
    pub samples: u64,
    /// A thousandth of them.
    pub p0_1: u64,
    /// A hundredth.
    pub p1: u64,
    /// A twentieth.
    pub p5: u64,
    /// A tenth.
    pub p10: u64,
    /// Half.
    pub p50: u64,
    /// Nine tenths.
    pub p90: u64,
    /// All but a hundredth.
    pub p99: u64,
    /// All but a thousandth.
    pub p99_9: u64,
}

/// Histograms to be shown below each other.
#[derive(Default)]
pub struct AsciiChart {
    rows: Vec<(String, Histogram)>,
}

impl<T> Histogram<T> {
    /// One that has seen nothing.
    pub fn new() -> Self {
        Self { counts: [0; BUCKETS], of: PhantomData }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value `count` times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        let bits = u64::BITS - value.leading_zeros();
        let counter = &mut self.counts[bits as usize];
        *counter = counter.saturating_add(count);
    }

    /// The percentiles of what was counted; zeros when that is nothing.
    pub fn percentile_stats(&self) -> PercentileStats {
        let samples = self.counts.iter().fold(0u64, |sum, count| sum.saturating_add(*count));
        let at = |per_mille: u64| self.at_most(samples, per_mille);
        PercentileStats {
            samples,
            p0_1: at(1),
            p1: at(10),
            p5: at(50),
            p10: at(100),
            p50: at(500),
            p90: at(900),
            p99: at(990),
            p99_9: at(999),
        }
    }

    /// The largest value of the bucket in which the value of this rank lies.
    fn at_most(&self, samples: u64, per_mille: u64) -> u64 {
        let rank = (u128::from(samples) * u128::from(per_mille)).div_ceil(1000);
        let mut seen = 0;
        for (bits, count) in self.counts.iter().enumerate() {
            seen += u128::from(*count);
            if *count > 0 && seen >= rank {
                return u64::MAX.checked_shr(u64::BITS - bits as u32).unwrap_or(0);
            }
        }
        0
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for Histogram<T> {
    fn clone(&self) -> Self {
        Self { counts: self.counts, of: PhantomData }
    }
}

impl<T> PartialEq for Histogram<T> {
    fn eq(&self, other: &Self) -> bool {
        self.counts == other.counts
    }
}

impl<T> Eq for Histogram<T> {}

impl<T> fmt::Debug for Histogram<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Histogram").field(&self.percentile_stats()).finish()
    }
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p50, p90, p99, p99_9, .. } = self;
        write!(f, "{samples} values, half at most {p50}, 90 % {p90}, 99 % {p99}, 99.9 % {p99_9}")
    }
}

impl AsciiChart {
    /// One without rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more row.
    pub fn add(mut self, name: impl Into<String>, histogram: Histogram) -> Self {
        self.rows.push((name.into(), histogram));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rows.iter().try_for_each(|(name, histogram)| writeln!(f, "{name}: {}", histogram.percentile_stats()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_exact_to_a_factor_of_two() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats(), PercentileStats::default());
        (1..=1000).for_each(|value| histogram.record(value));
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p0_1, stats.p50, stats.p99), (1000, 1, 511, 1023));
        histogram.record_n(0, 5_000);
        histogram.record_n(u64::MAX, 50);
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p50, stats.p99_9), (6050, 0, u64::MAX));
    }
}

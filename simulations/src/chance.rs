//! Chance from the seed: what an agent draws, and independent streams for the parts of a simulation.

use std::sync::Mutex;

use hirsel_mesh::seam::Chance;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};

/// A generator for one purpose of one simulation. Streams of different purposes are independent: drawing more faults does not
/// change which datagrams are lost.
pub fn stream(seed: u64, purpose: &str) -> SmallRng {
    let mut state = mix(seed ^ 0x5157_a11e);
    for byte in purpose.bytes() {
        state = mix(state.wrapping_add(u64::from(byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
    SmallRng::seed_from_u64(state)
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The chance of one life of an agent.
#[derive(Debug)]
pub struct SimChance(Mutex<SmallRng>);

impl SimChance {
    /// Draws from `rng`.
    pub fn new(rng: SmallRng) -> Self {
        Self(Mutex::new(rng))
    }
}

impl Chance for SimChance {
    fn fill(&self, bytes: &mut [u8]) {
        crate::lock(&self.0).fill_bytes(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_purposes_draw_equal_numbers_and_others_do_not() {
        let draw = |seed, purpose| SimChance::new(stream(seed, purpose)).number();
        assert_eq!(draw(1, "net n1"), draw(1, "net n1"));
        assert_ne!(draw(1, "net n1"), draw(1, "net n2"));
        assert_ne!(draw(1, "net n1"), draw(2, "net n1"));
    }
}

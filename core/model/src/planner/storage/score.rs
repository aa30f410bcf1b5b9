//! Weighted rendezvous (Thaler and Ravishankar 1998; weights as by Schindelhauer and Schomaker 2005): every node has a score for every
//! partition, and those with the highest have it. A node that comes or goes changes nobody else's score. In whole numbers, so that every
//! build on every processor comes to the same.

use crate::id::NodeId;

/// The score of a node of this weight for this partition; higher is better.
pub fn score(partition: u16, node: NodeId, weight: u64) -> u128 {
    let drawn = mix(mix(u64::from(partition)) ^ node.0).max(1);
    // A number drawn evenly from 0 to 1 has -log of it drawn exponentially: the smallest of several, each by its weight, is that of a
    // node with a probability in proportion to its weight.
    let long = (64 << 32) - log2(drawn);
    (u128::from(weight) << 64) / u128::from(long + 1)
}

/// The logarithm to base 2 of `number`, which is not zero, with 32 bits behind the point.
fn log2(number: u64) -> u64 {
    let whole = 63 - u64::from(number.leading_zeros());
    let mut rest = number << number.leading_zeros();
    let mut log = whole;
    for _ in 0..32 {
        let square = (u128::from(rest) * u128::from(rest)) >> 63;
        let above = square >> 64;
        log = log << 1 | above as u64;
        rest = (square >> above) as u64;
    }
    log
}

/// Spreads a number over all (SplitMix64, Steele et al. 2014).
pub(super) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_right() {
        for (number, log) in [(1, 0), (2, 1 << 32), (1 << 63, 63 << 32), (3, 6_807_362_105), (10, 14_267_572_527)] {
            assert!(log2(number).abs_diff(log) <= 2, "log2({number}) is {}, not {log}", log2(number));
        }
        assert!(log2(u64::MAX) <= 64 << 32);
    }

    #[test]
    fn the_first_of_several_is_drawn_by_weight() {
        let weights = [1_u64, 1, 2, 4];
        let mut first = [0_u32; 4];
        for partition in 0..8_000 {
            let score = |at: &usize| score(partition, NodeId(*at as u64 + 1), weights[*at]);
            first[(0..4).max_by_key(score).expect("four")] += 1;
        }
        for (at, weight) in weights.iter().enumerate() {
            let expected = 1_000 * u32::try_from(*weight).expect("small");
            assert!(first[at].abs_diff(expected) < 150, "{first:?}");
        }
    }
}

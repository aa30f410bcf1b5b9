//! Gives each instance a port of its own out of the node's range.

use std::collections::BTreeSet;

/// How many ports are tried. A range that is so full of strangers is reported, and tried again later from another point.
const TRIES_MAX: u32 = 1_000;

/// A port between `first` and `last` that no instance has (`taken`) and nobody listens on (`is_free`). The search begins at a random
/// place: a port that was just given up may still be known to somebody.
pub(crate) fn pick(
    (first, last): (u16, u16),
    random: u64,
    taken: &BTreeSet<u16>,
    is_free: impl Fn(u16) -> bool,
) -> Result<u16, String> {
    let count = u32::from(last.saturating_sub(first)) + 1;
    let start = u32::try_from(random % u64::from(count)).unwrap_or(0);
    (0..count.min(TRIES_MAX))
        .filter_map(|step| u16::try_from(u32::from(first) + (start + step) % count).ok())
        .find(|port| !taken.contains(port) && is_free(*port))
        .ok_or_else(|| {
            format!("no free port between {first} and {last}, of which {} are given to instances", taken.len())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_of_the_range_is_given_once_and_then_no_more() {
        let mut taken = BTreeSet::new();
        for random in 0..10 {
            let port = pick((65_526, 65_535), random * 7, &taken, |_| true).unwrap();
            assert!(port >= 65_526 && taken.insert(port));
        }
        let error = pick((65_526, 65_535), 3, &taken, |_| true).unwrap_err();
        assert_eq!(error, "no free port between 65526 and 65535, of which 10 are given to instances");
    }

    #[test]
    fn a_port_somebody_listens_on_is_passed_over() {
        assert_eq!(pick((10, 13), 0, &BTreeSet::from([10]), |port| port != 11), Ok(12));
        assert_eq!(pick((10, 13), 3, &BTreeSet::new(), |port| port == 10), Ok(10));
        assert!(pick((13, 10), 9, &BTreeSet::new(), |_| false).is_err());
    }
}

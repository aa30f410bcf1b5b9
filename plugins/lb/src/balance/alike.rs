//! The same instance for requests that are alike, on every load balancer: rendezvous hashing with bounded loads.
//!
//! Each instance has a score with each key, and the highest takes the request (Thaler, Ravishankar: "A Name-Based Mapping Scheme for
//! Rendezvous", 1996). Scores depend on nothing but the key and the name of the instance: an instance that goes moves only its own
//! keys, one that comes takes keys from all alike, and load balancers agree without a word. What an instance has too much of goes
//! to the next score (Mirrokni, Thorup, Zadimoghaddam: "Consistent Hashing with Bounded Loads", 2016).
//!
//! Numbers made here are part of what load balancers of two builds agree on: a change moves every key.
//!
//! Pure.

/// So many requests under way are never too many for an instance: of a handful the mean says nothing, and a key would move for nothing.
const FREE: u64 = 8;

/// A text as a number (Fowler, Noll, Vo: FNV-1a), well mixed.
pub fn key(text: &[u8]) -> u64 {
    let hash = text
        .iter()
        .fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3));
    mix(hash)
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood).
pub fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// How many requests one of `count` instances may have under way when they have `under_way` together and one more comes: `percent`
/// hundredths of the mean, rounded up.
pub fn bound(under_way: u64, count: usize, percent: u32) -> u64 {
    let most = (under_way + 1).saturating_mul(percent.into()).div_ceil(100 * count.max(1) as u64);
    most.max(FREE)
}

/// Of the `count` candidates that are `usable` the one with the highest score for `key` that has room; if none has, whoever has the
/// highest. `name` is the well mixed number of a candidate.
pub fn choose(
    count: usize,
    key: u64,
    name: impl Fn(usize) -> u64,
    usable: impl Fn(usize) -> bool,
    has_room: impl Fn(usize) -> bool,
) -> Option<usize> {
    let score = |at: &usize| mix(key ^ name(*at));
    let with_room = (0..count).filter(|at| usable(*at) && has_room(*at)).max_by_key(score);
    with_room.or_else(|| (0..count).filter(|at| usable(*at)).max_by_key(score))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(key: u64, names: &[u64]) -> u64 {
        names[choose(names.len(), key, |at| names[at], |_| true, |_| true).unwrap()]
    }

    fn names(count: u64) -> Vec<u64> {
        (0..count).map(|number| key(format!("shop/web/{number}").as_bytes())).collect()
    }

    #[test]
    fn numbers_stay_as_they_are_for_load_balancers_of_two_builds_agree() {
        assert_eq!((key(b""), key(b"anna")), (0xC381_7C01_6BA4_FF30, 0x73AB_02FE_FCDA_7C90));
        assert_eq!(of(key(b"anna"), &names(5)), names(5)[0]);
    }

    #[test]
    fn keys_are_shared_evenly() {
        let names = names(10);
        let mut taken = std::collections::BTreeMap::<u64, u32>::new();
        for number in 0..20_000 {
            *taken.entry(of(key(format!("/page/{number}").as_bytes()), &names)).or_default() += 1;
        }
        assert!(taken.len() == 10 && taken.values().all(|n| (1_850..=2_150).contains(n)), "{taken:?}");
    }

    #[test]
    fn a_key_that_everybody_asks_for_is_spread_as_far_as_the_bound_says() {
        let names = names(4);
        let mut load = [0u64; 4];
        for _ in 0..1_000 {
            let most = bound(load.iter().sum(), 4, 125);
            let at = choose(4, 7, |at| names[at], |_| true, |at| load[at] < most).unwrap();
            load[at] += 1;
        }
        assert_eq!(load.iter().max(), Some(&313), "125 % of 250: {load:?}");
        assert!(load.iter().all(|n| *n > 0), "{load:?}");
    }

    proptest! {
        #[test]
        fn an_instance_that_goes_moves_only_its_own_keys(count in 2u64..30, gone in any::<prop::sample::Index>(), keys: Vec<u64>) {
            let before = names(count);
            let mut after = before.clone();
            let gone = after.remove(gone.index(before.len()));
            for key in keys {
                let (was, is) = (of(key, &before), of(key, &after));
                prop_assert!(was == is || was == gone);
            }
        }

        #[test]
        fn the_order_of_instances_says_nothing(count in 1u64..30, by in any::<prop::sample::Index>(), key: u64) {
            let names = names(count);
            let mut turned = names.clone();
            turned.rotate_left(by.index(names.len()));
            prop_assert_eq!(of(key, &names), of(key, &turned));
        }

        #[test]
        fn nobody_has_more_than_the_bound_and_one_always_has_room(
            keys in prop::collection::vec(0u64..4, 1..300), count in 1u64..12, percent in 110u32..400
        ) {
            let names = names(count);
            let mut load = vec![0u64; names.len()];
            for key in keys {
                let most = bound(load.iter().sum(), names.len(), percent);
                prop_assert!(load.iter().any(|n| *n < most));
                let at = choose(names.len(), key, |at| names[at], |_| true, |at| load[at] < most).unwrap();
                load[at] += 1;
                prop_assert!(load[at] <= most);
            }
        }

        #[test]
        fn only_usable_ones_are_chosen_and_one_always_is(key: u64, usable in prop::collection::vec(any::<bool>(), 0..20)) {
            let names = names(usable.len() as u64);
            match choose(usable.len(), key, |at| names[at], |at| usable[at], |at| at % 2 == 0) {
                Some(at) => prop_assert!(usable[at]),
                None => prop_assert!(usable.iter().all(|usable| !usable)),
            }
        }
    }
}

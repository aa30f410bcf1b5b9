//! Which zone a request goes to where instances of the own zone come first.
//!
//! Each load balancer takes its share of the requests, so those of a zone together take the zone's share. If the zone has that share of
//! the instances or more, all its requests stay. If it has less, what it cannot carry goes to zones that have more instances than load
//! balancers, in proportion: so every instance gets the same load, whatever zone it is in, as long as load balancers get the same (the
//! zone aware routing of Envoy).
//!
//! Pure: chance is an argument.

/// More zones than this are one: nobody has as many, and this keeps the count on the stack.
pub const ZONES_MAX: usize = 16;

/// Numbers by zone.
pub type ByZone = [u32; ZONES_MAX];

/// The zone that a request of a load balancer in zone `own` goes to. `instances` are those that would take it, `balancers` are all load
/// balancers. None if it makes no difference, or too little is known.
pub fn choose(own: usize, instances: &ByZone, balancers: &ByZone, draw: u64) -> Option<usize> {
    let total = |zones: &ByZone| zones.iter().map(|number| u64::from(*number)).sum::<u64>();
    let (all_instances, all_balancers) = (total(instances), total(balancers));
    let (here, ours) = (u64::from(*instances.get(own)?), u64::from(*balancers.get(own)?));
    if here == 0 || here == all_instances || ours == 0 {
        return None;
    }
    // Both shares over one denominator: what the zone can carry, and what comes to it.
    let (able, wanted) = (here * all_balancers, ours * all_instances);
    if able >= wanted || scale(draw as u32, wanted) < able {
        return Some(own);
    }
    // What the others can carry beyond what comes to them.
    let spare = |zone: usize| {
        (u64::from(instances[zone]) * all_balancers).saturating_sub(u64::from(balancers[zone]) * all_instances)
    };
    let mut left = scale((draw >> 32) as u32, (0..ZONES_MAX).map(spare).sum());
    (0..ZONES_MAX).find(|zone| match left.checked_sub(spare(*zone)) {
        Some(less) => {
            left = less;
            false
        }
        None => true,
    })
}

/// Maps 32 random bits to `0..count`.
fn scale(bits: u32, count: u64) -> u64 {
    ((u128::from(bits) * u128::from(count)) >> 32) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::alike::mix;
    use proptest::prelude::*;

    fn zones(numbers: &[u32]) -> ByZone {
        let mut zones = [0; ZONES_MAX];
        zones[..numbers.len()].copy_from_slice(numbers);
        zones
    }

    /// Where requests of zone `own` go, in hundredths.
    fn shares(own: usize, instances: &[u32], balancers: &[u32]) -> Vec<u32> {
        let mut taken = vec![0; instances.len()];
        for draw in 0..20_000 {
            if let Some(zone) = choose(own, &zones(instances), &zones(balancers), mix(draw)) {
                taken[zone] += 1;
            }
        }
        taken.iter().map(|number| (number + 100) / 200).collect()
    }

    #[test]
    fn requests_stay_in_their_zone_while_it_has_its_share_of_instances() {
        assert_eq!(shares(0, &[2, 2, 2], &[1, 1, 1]), [100, 0, 0]);
        assert_eq!(shares(0, &[4, 1, 1], &[1, 1, 1]), [100, 0, 0], "the more the better");
    }

    #[test]
    fn what_a_zone_cannot_carry_goes_where_there_is_more_than_comes_by_itself() {
        // A third of the requests, a sixth of the instances: half stays.
        assert_eq!(shares(0, &[1, 2, 3], &[1, 1, 1]), [50, 0, 50]);
        assert_eq!(shares(0, &[2, 2, 4], &[1, 1, 0]), [50, 0, 50], "a zone without load balancers is open to all");
    }

    #[test]
    fn where_it_makes_no_difference_nothing_is_said() {
        for (instances, balancers) in [([0, 3], [1, 1]), ([3, 0], [1, 1]), ([2, 2], [0, 2])] {
            assert_eq!(choose(0, &zones(&instances), &zones(&balancers), 7), None);
        }
        assert_eq!(choose(ZONES_MAX, &zones(&[1]), &zones(&[1]), 7), None);
    }

    proptest! {
        #[test]
        fn every_instance_gets_the_same_load_whatever_zone_it_is_in(
            instances in prop::collection::vec(1u32..8, 4), balancers in prop::collection::vec(1u32..4, 4), seed: u64
        ) {
            const DRAWS: u64 = 4_000;
            let (mut load, all) = ([0.0; 4], f64::from(balancers.iter().sum::<u32>()));
            for own in 0..4 {
                for draw in 0..DRAWS {
                    let zone = choose(own, &zones(&instances), &zones(&balancers), mix(seed ^ draw)).unwrap();
                    load[zone] += f64::from(balancers[own]) / all / DRAWS as f64;
                }
            }
            let fair = 1.0 / f64::from(instances.iter().sum::<u32>());
            for (zone, load) in load.into_iter().enumerate() {
                let each = load / f64::from(instances[zone]) / fair;
                prop_assert!((0.75..=1.25).contains(&each), "zone {} of {:?} with {:?}: {}", zone, instances, balancers, each);
            }
        }

        #[test]
        fn only_zones_with_instances_are_chosen(
            own in 0usize..20, instances in prop::collection::vec(0u32..5, ZONES_MAX),
            balancers in prop::collection::vec(0u32..5, ZONES_MAX), draw: u64
        ) {
            if let Some(zone) = choose(own, &zones(&instances), &zones(&balancers), draw) {
                prop_assert!(instances[zone] > 0);
            }
        }
    }
}

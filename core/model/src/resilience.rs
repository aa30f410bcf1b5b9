//! How much may vanish at once: the largest n such that *any* n nodes (or zones) may be lost and the cluster still has its quorum, one
//! healthy instance of each service, a node to take over each exclusive one, and everything that is stored.
//!
//! Each of these wishes tolerates losses on its own, whatever the others tolerate, and the worst loss of n is the n nodes (zones) that
//! carry most of it. So counting is exact: no set of victims has to be tried.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::control::ControlState;
use crate::id::*;
use crate::plan::Phase;
use crate::spec::ServiceSpec;
use crate::view::Liveness;

/// What can be lost, and what limits it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanLose {
    /// Any so many nodes.
    pub nodes: u32,
    /// Any so many zones.
    pub zones: u32,
    /// What is lost first, in words: that of the nodes, then that of the zones where it is another one.
    pub limit: String,
}

/// What one wish tolerates, and words for it.
struct Tolerance {
    lost: usize,
    words: String,
}

impl Tolerance {
    /// The one that tolerates less; of two alike this one.
    fn or(self, other: Option<Tolerance>) -> Tolerance {
        match other {
            Some(other) if other.lost < self.lost => other,
            _ => self,
        }
    }
}

/// What can be lost now. Only nodes that are heard and not judged count, and only instances in `healthy` that take requests. What is stored bears
/// the loss of `bears` nodes of each partition (see [`crate::storage::seen::bears`]).
pub fn can_lose(
    state: &ControlState,
    liveness: &BTreeMap<NodeId, Liveness>,
    healthy: &BTreeSet<InstanceId>,
    bears: Option<u8>,
) -> CanLose {
    let live: BTreeMap<NodeId, Zone> = state
        .spec
        .nodes
        .iter()
        .filter(|(id, _)| liveness.get(id) == Some(&Liveness::Alive) && !state.plan.verdicts.contains_key(id))
        .map(|(id, node)| (*id, (&node.site, &node.zone)))
        .collect();

    let nodes = least(state, &live, healthy, "node", |id| live.contains_key(&id).then_some(id));
    let nodes = nodes.or(stored(state, bears, "node", |id| live.contains_key(&id).then_some(id)));
    let zones = least(state, &live, healthy, "zone", |id| live.get(&id).copied());
    let zones = zones.or(stored(state, bears, "zone", |id| live.get(&id).copied()));
    let limit = if nodes.words == zones.words {
        nodes.words
    } else {
        format!("nodes: {}; zones: {}", nodes.words, zones.words)
    };
    let count = |lost| u32::try_from(lost).unwrap_or(u32::MAX);
    CanLose { nodes: count(nodes.lost), zones: count(zones.lost), limit }
}

/// A zone is named within its site.
type Zone<'a> = (&'a ZoneName, &'a ZoneName);

/// The wish that tolerates least, when what is lost together is told by `domain` (nothing for what does not live).
fn least<D: Ord>(
    state: &ControlState,
    live: &BTreeMap<NodeId, Zone>,
    healthy: &BTreeSet<InstanceId>,
    what: &str,
    domain: impl Fn(NodeId) -> Option<D>,
) -> Tolerance {
    let mut least = quorum(&state.plan.voters, "voters", &domain);
    for (app, spec) in state.spec.apps.iter().filter(|(_, spec)| !spec.stopped) {
        for (service, described) in spec.services.iter().filter(|(_, service)| service.replicas.min > 0) {
            let mut domains = BTreeSet::new();
            if described.exclusive {
                let able = able(state, described).filter(|node| live.contains_key(node));
                domains.extend(able.filter_map(&domain));
                let lost = domains.len().saturating_sub(1);
                if lost < least.lost {
                    let s = if domains.len() == 1 { "" } else { "s" };
                    let words = format!("{app}/{service} can run on {} {what}{s}, one at a time", domains.len());
                    least = Tolerance { lost, words };
                }
                continue;
            }
            let instance = |number| InstanceId { app: app.clone(), service: service.clone(), number };
            for id in healthy.range(instance(0)..=instance(u64::MAX)) {
                let planned = state.plan.instances.get(id).filter(|planned| planned.phase == Phase::Active);
                domains.extend(planned.filter(|it| live.contains_key(&it.node)).and_then(|it| domain(it.node)));
            }
            let lost = domains.len().saturating_sub(1);
            if lost < least.lost {
                let words = match domains.len() {
                    0 => format!("{app}/{service} has no healthy instance"),
                    1 => format!("{app}/{service} is healthy on one {what} only"),
                    some => format!("{app}/{service} is healthy on {some} {what}s"),
                };
                least = Tolerance { lost, words };
            }
        }
    }
    least
}

/// Nodes that hold a slot of compute and have the labels that the service asks for.
fn able(state: &ControlState, service: &ServiceSpec) -> impl Iterator<Item = NodeId> {
    let slots = state.plan.roles.get(&RoleName::compute()).into_iter().flat_map(BTreeMap::values);
    slots.map(|slot| slot.node).filter(|node| {
        let spec = state.spec.nodes.get(node);
        spec.is_some_and(|spec| service.constraints.iter().all(|(label, value)| spec.has_label(label, value)))
    })
}

/// What is stored: a majority of those who vote over its metadata, and of each partition all but so many nodes as its chunks bear to lose. None
/// while nothing is stored.
fn stored<D: Ord>(
    state: &ControlState,
    bears: Option<u8>,
    what: &str,
    domain: impl Fn(NodeId) -> Option<D>,
) -> Option<Tolerance> {
    let table = &state.plan.storage;
    if table.is_empty() {
        return None;
    }
    let least = quorum(&table.voters, "voters of the metadata of objects", &domain);
    let Some(bears) = bears.map(usize::from) else { return Some(least) };
    // While a partition moves a chunk may be on either list.
    let lists = table.partitions.values().flat_map(|partition| [&partition.nodes, &partition.next]);
    let lost = lists.filter(|list| !list.is_empty()).map(|list| {
        let live: Vec<D> = list.iter().filter_map(|node| domain(*node)).collect();
        bears.checked_sub(list.len() - live.len()).map_or(0, |spare| domains(counts(live), spare))
    });
    let lost = lost.min().unwrap_or(usize::MAX);
    let s = if bears == 1 { "" } else { "s" };
    let words =
        format!("what is stored bears the loss of {bears} node{s} that have a part of it, and so of {lost} by {what}");
    Some(least.or(Some(Tolerance { lost, words })))
}

/// The most domains that may vanish, however unlucky, with a majority of the voters left.
fn quorum<D: Ord>(voters: &BTreeSet<NodeId>, who: &str, domain: impl Fn(NodeId) -> Option<D>) -> Tolerance {
    let needed = voters.len() / 2 + 1;
    let per_domain = counts(voters.iter().filter_map(|voter| domain(*voter)));
    let live: usize = per_domain.iter().sum();
    let all = voters.len();
    match live.checked_sub(needed) {
        None => Tolerance { lost: 0, words: format!("no quorum: {live} of {all} {who} live, {needed} are needed") },
        Some(spare) => Tolerance {
            lost: domains(per_domain, spare),
            words: format!("quorum: {needed} of {all} {who} are needed, {live} live"),
        },
    }
}

/// How many are in each domain, most first.
fn counts<D: Ord>(all: impl IntoIterator<Item = D>) -> Vec<usize> {
    let mut per_domain: BTreeMap<D, usize> = BTreeMap::new();
    for domain in all {
        *per_domain.entry(domain).or_default() += 1;
    }
    let mut counts: Vec<usize> = per_domain.into_values().collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    counts
}

/// How many domains of so many may vanish, however unlucky, when `spare` may be lost.
fn domains(counts: Vec<usize>, mut spare: usize) -> usize {
    let mut lost = 0;
    for count in counts {
        if count > spare {
            break;
        }
        spare -= count;
        lost += 1;
    }
    lost
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::control::samples::{app, cluster, instance, named, place, service};
    use crate::duty::Duty;
    use crate::plan::{Assignment, Because, Reason, Verdict, VerdictKind};
    use crate::storage::Partition;

    /// Nodes `n1`… each in a zone by letter; voters; and the nodes on which shop/web is healthy.
    fn herd(zones: &str, voters: &[u64], web: &[u64]) -> (ControlState, BTreeSet<InstanceId>) {
        let mut state = cluster(u8::try_from(zones.len()).expect("a small herd"));
        for (node, zone) in state.spec.nodes.values_mut().zip(zones.chars()) {
            node.zone = named(&zone.to_string());
        }
        state.plan.voters = voters.iter().copied().map(NodeId).collect();
        state.spec.apps.insert(named("shop"), app(&[("web", service("serve"))]));
        let mut healthy = BTreeSet::new();
        for (number, node) in web.iter().enumerate() {
            let id = instance(&format!("shop/web/{number}"));
            state.plan.instances.insert(id.clone(), place(*node, 1));
            healthy.insert(id);
        }
        (state, healthy)
    }

    fn all_alive(state: &ControlState) -> BTreeMap<NodeId, Liveness> {
        state.spec.nodes.keys().map(|node| (*node, Liveness::Alive)).collect()
    }

    fn told((state, healthy): &(ControlState, BTreeSet<InstanceId>)) -> (u32, u32, String) {
        let can = can_lose(state, &all_alive(state), healthy, None);
        (can.nodes, can.zones, can.limit)
    }

    #[test]
    fn five_voters_over_three_zones_bear_two_nodes_or_one_zone() {
        let expected = "quorum: 3 of 5 voters are needed, 5 live";
        assert_eq!(told(&herd("abcab", &[1, 2, 3, 4, 5], &[1, 2, 3])), (2, 1, expected.into()));
    }

    #[test]
    fn a_single_node_bears_nothing() {
        assert_eq!(told(&herd("a", &[1], &[1])), (0, 0, "quorum: 1 of 1 voters are needed, 1 live".into()));
    }

    #[test]
    fn two_nodes_bear_nothing() {
        assert_eq!(told(&herd("ab", &[1, 2], &[1, 2])).0, 0);
    }

    #[test]
    fn a_service_on_one_node_is_what_limits() {
        let (nodes, zones, limit) = told(&herd("abcab", &[1, 2, 3, 4, 5], &[2, 2, 2]));
        assert_eq!((nodes, zones), (0, 0));
        assert_eq!(limit, "nodes: shop/web is healthy on one node only; zones: shop/web is healthy on one zone only");
    }

    #[test]
    fn an_exclusive_service_needs_nodes_that_could_run_it() {
        let mut herd = herd("abcab", &[1, 2, 3, 4, 5], &[1]);
        let app = herd.0.spec.apps.get_mut(&named::<AppName>("shop")).expect("the herd has a shop");
        app.services.values_mut().for_each(|service| service.exclusive = true);
        let held = |node| Assignment {
            node: NodeId(node),
            duty: Duty::Replica,
            reason: Reason { because: Because::Wanted, text: String::new() },
            since: Generation(1),
        };
        let slots = |nodes: &[u64]| (0..).map(Slot).zip(nodes.iter().copied().map(held)).collect();
        herd.0.plan.roles.insert(RoleName::compute(), slots(&[1, 2, 3, 4, 5]));
        assert_eq!(told(&herd), (2, 1, "quorum: 3 of 5 voters are needed, 5 live".into()));
        herd.0.plan.roles.insert(RoleName::compute(), slots(&[1, 4]));
        let limit =
            "nodes: shop/web can run on 2 nodes, one at a time; zones: shop/web can run on 1 zone, one at a time";
        assert_eq!(told(&herd), (1, 0, limit.into()));
    }

    #[test]
    fn a_service_in_one_zone_limits_zones_only() {
        let (nodes, zones, limit) = told(&herd("abcab", &[1, 2, 3, 4, 5], &[1, 4]));
        assert_eq!((nodes, zones), (1, 0));
        assert_eq!(limit, "nodes: shop/web is healthy on 2 nodes; zones: shop/web is healthy on one zone only");
    }

    #[test]
    fn a_service_that_is_stopped_or_wanted_by_nobody_limits_nothing() {
        let mut herd = herd("abc", &[1, 2, 3], &[]);
        assert_eq!(told(&herd), (0, 0, "shop/web has no healthy instance".into()));
        herd.0.spec.apps.values_mut().for_each(|app| app.stopped = true);
        assert_eq!(told(&herd).0, 1);
        for app in herd.0.spec.apps.values_mut() {
            app.stopped = false;
            app.services.values_mut().for_each(|service| service.replicas.min = 0);
        }
        assert_eq!(told(&herd).0, 1);
    }

    #[test]
    fn instances_that_drain_or_are_not_in_the_plan_do_not_count() {
        let mut herd = herd("abcde", &[1, 2, 3, 4, 5], &[1, 2, 3]);
        herd.0.plan.instances.get_mut(&instance("shop/web/0")).expect("planned").phase = Phase::Draining;
        herd.0.plan.instances.remove(&instance("shop/web/1"));
        assert_eq!(told(&herd).0, 0);
    }

    #[test]
    fn nodes_that_are_suspect_or_judged_are_lost_already() {
        let (mut state, healthy) = herd("abcde", &[1, 2, 3, 4, 5], &[1, 2, 3]);
        let mut liveness = all_alive(&state);
        liveness.insert(NodeId(5), Liveness::Suspect);
        assert_eq!(can_lose(&state, &liveness, &healthy, None).nodes, 1);
        let verdict = Verdict {
            kind: VerdictKind::Down,
            incarnation: Incarnation(1),
            since: Generation(1),
            evidence: String::new(),
        };
        state.plan.verdicts.insert(NodeId(4), verdict);
        assert_eq!(can_lose(&state, &liveness, &healthy, None).nodes, 0);
        liveness.remove(&NodeId(3));
        let can = can_lose(&state, &liveness, &healthy, None);
        assert_eq!((can.nodes, can.limit.as_str()), (0, "no quorum: 2 of 5 voters live, 3 are needed"));
    }

    #[test]
    fn zones_of_one_name_in_two_sites_are_two() {
        let mut herd = herd("aaa", &[1, 2, 3], &[1, 2, 3]);
        assert_eq!(told(&herd).1, 0);
        for (node, site) in herd.0.spec.nodes.values_mut().zip(["x", "y", "z"]) {
            node.site = named(site);
        }
        assert_eq!(told(&herd).1, 1);
    }

    #[test]
    fn what_is_stored_limits_by_the_partition_that_bears_least() {
        let (mut state, healthy) = herd("abcabcabc", &[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5, 6]);
        let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<Vec<_>>();
        let partition = |ids: &[u64], next: &[u64]| Partition { nodes: nodes(ids), next: nodes(next), table: 1 };
        let told = |state: &ControlState, bears| {
            let can = can_lose(state, &all_alive(state), &healthy, bears);
            (can.nodes, can.zones)
        };
        let before = told(&state, Some(0));
        assert_eq!(before, (2, 1), "nothing is stored");
        state.plan.storage.voters = nodes(&[1, 2, 3]).into_iter().collect();
        assert_eq!(told(&state, None), (1, 1), "the metadata have three voters");
        state.plan.storage.voters = state.plan.voters.clone();
        state.plan.storage.partitions.insert(768, partition(&[1, 2, 3], &[]));
        assert_eq!(told(&state, Some(2)), (2, 1));
        assert_eq!(told(&state, Some(1)), (1, 1));
        assert_eq!(told(&state, Some(0)), (0, 0));
        state.plan.storage.partitions.insert(769, partition(&[1, 4, 2], &[]));
        assert_eq!(told(&state, Some(1)), (1, 0), "two of it are in one zone");
        state.plan.storage.partitions.insert(769, partition(&[1, 77, 2], &[1, 3, 2]));
        assert_eq!(told(&state, Some(1)), (0, 0), "one of it is gone already");
    }

    /// By trying every set of victims.
    fn by_force(state: &ControlState, healthy: &BTreeSet<InstanceId>, domains: &[BTreeSet<NodeId>]) -> u32 {
        let voters = &state.plan.voters;
        let holds = |lost: &BTreeSet<NodeId>| {
            let lives = |node: &NodeId| state.spec.nodes.contains_key(node) && !lost.contains(node);
            let quorum = voters.iter().filter(|voter| lives(voter)).count() > voters.len() / 2;
            quorum && healthy.iter().any(|id| state.plan.instances.get(id).is_some_and(|it| lives(&it.node)))
        };
        let worst = |n: u32| {
            (0..1u32 << domains.len()).filter(|victims| victims.count_ones() == n).all(|victims| {
                let lost = (0..domains.len()).filter(|at| victims >> at & 1 == 1).flat_map(|at| domains[at].clone());
                holds(&lost.collect())
            })
        };
        (0..=u32::try_from(domains.len()).expect("few")).take_while(|n| worst(*n)).last().unwrap_or(0)
    }

    proptest! {
        #[test]
        fn counting_says_what_trying_every_loss_says(
            zones in "[a-d]{1,8}",
            voters in prop::collection::vec(1..9u64, 1..6),
            web in prop::collection::vec(1..9u64, 0..6),
        ) {
            let size = zones.len() as u64;
            let inside = |nodes: Vec<u64>| nodes.into_iter().map(|node| (node - 1) % size + 1).collect::<Vec<_>>();
            let (state, healthy) = herd(&zones, &inside(voters), &inside(web));
            let nodes: Vec<BTreeSet<NodeId>> = state.spec.nodes.keys().map(|node| BTreeSet::from([*node])).collect();
            let mut by_zone: BTreeMap<&ZoneName, BTreeSet<NodeId>> = BTreeMap::new();
            for (id, node) in &state.spec.nodes {
                by_zone.entry(&node.zone).or_default().insert(*id);
            }
            let zones: Vec<_> = by_zone.into_values().collect();
            let can = can_lose(&state, &all_alive(&state), &healthy, None);
            prop_assert_eq!(can.nodes, by_force(&state, &healthy, &nodes));
            prop_assert_eq!(can.zones, by_force(&state, &healthy, &zones));
            prop_assert!(!can.limit.is_empty());
        }
    }
}

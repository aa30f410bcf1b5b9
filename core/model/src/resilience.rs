//! How much may vanish at once: the largest n such that *any* n nodes (or zones) may be lost and the cluster still has its quorum and
//! one healthy instance of each service.
//!
//! Each of these wishes tolerates losses on its own, whatever the others tolerate, and the worst loss of n is the n nodes (zones) that
//! carry most of it. So counting is exact: no set of victims has to be tried.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::control::ControlState;
use crate::id::*;
use crate::plan::Phase;
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

/// What can be lost now. Only nodes that are heard and not judged count, and only instances in `healthy` that take requests.
pub fn can_lose(
    state: &ControlState,
    liveness: &BTreeMap<NodeId, Liveness>,
    healthy: &BTreeSet<InstanceId>,
) -> CanLose {
    let live: BTreeMap<NodeId, Zone> = state
        .spec
        .nodes
        .iter()
        .filter(|(id, _)| liveness.get(id) == Some(&Liveness::Alive) && !state.plan.verdicts.contains_key(id))
        .map(|(id, node)| (*id, (&node.site, &node.zone)))
        .collect();

    let nodes = least(state, &live, healthy, "node", |id| live.contains_key(&id).then_some(id));
    let zones = least(state, &live, healthy, "zone", |id| live.get(&id).copied());
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
    let mut least = quorum(state, &domain);
    for (app, spec) in state.spec.apps.iter().filter(|(_, spec)| !spec.stopped) {
        for (service, _) in spec.services.iter().filter(|(_, service)| service.replicas.min > 0) {
            let mut domains = BTreeSet::new();
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

/// The most domains that may vanish, however unlucky, with a majority of the voters left.
fn quorum<D: Ord>(state: &ControlState, domain: impl Fn(NodeId) -> Option<D>) -> Tolerance {
    let voters = state.plan.voters.len();
    let needed = voters / 2 + 1;
    let mut per_domain: BTreeMap<D, usize> = BTreeMap::new();
    for domain in state.plan.voters.iter().filter_map(|voter| domain(*voter)) {
        *per_domain.entry(domain).or_default() += 1;
    }
    let live: usize = per_domain.values().sum();
    let words = match live {
        _ if live < needed => format!("no quorum: {live} of {voters} voters live, {needed} are needed"),
        _ => format!("quorum: {needed} of {voters} voters are needed, {live} live"),
    };
    let mut spare = live.saturating_sub(needed);
    let mut counts: Vec<usize> = per_domain.into_values().collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let mut lost = 0;
    for count in counts {
        if live < needed || count > spare {
            break;
        }
        spare -= count;
        lost += 1;
    }
    Tolerance { lost, words }
}

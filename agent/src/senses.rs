//! What this node hears of the others: gossip and control pings put together, for the roles ([`Live`]) and for the leader (`unheard`).
//!
//! The two tiers of reaction are kept apart. Traffic stops at the first doubt: gossip's `Suspect`, or three unanswered pings. But a
//! node counts as *unheard*, which is evidence for a verdict, only when gossip and pings agree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hirsel_mesh::gossip::Heard;
use hirsel_mesh::transport::PingState;
use hirsel_model::control::ControlState;
use hirsel_model::report::{NodeReport, RoleFacts};
use hirsel_model::resilience::{CanLose, can_lose};
use hirsel_model::storage::seen;
use hirsel_model::view::Liveness;
use hirsel_model::{NodeId, RoleName, Timestamp};
use hirsel_role::{Live, LiveNode};
use tokio::sync::watch;

use crate::pace::Pace;
use crate::shared::Shared;
use crate::{authority, certificates, digest};

/// Each node is pinged by this many neighbours on the ring of ids, besides those who send it traffic.
const RING_NEIGHBOURS: usize = 3;

/// What the senses tell.
pub struct Senses {
    /// For roles and readers.
    pub live: watch::Sender<Arc<Live>>,
    /// For the leader.
    pub unheard: watch::Sender<BTreeSet<NodeId>>,
    /// For people: since when each silent node is silent.
    pub silent_since: watch::Sender<BTreeMap<NodeId, Timestamp>>,
}

/// Keeps `senses` current until the agent stops.
pub async fn watch(shared: Arc<Shared>, mut heard: watch::Receiver<Arc<BTreeMap<NodeId, Heard>>>, senses: Senses) {
    let me = shared.node;
    let (control, transport, stop) = (&shared.control, &shared.transport, &shared.stop);
    let mut state = control.state();
    let mut leadership = control.leadership();
    let mut pings = transport.pings();
    let mut own = shared.report.clone();
    let mut having = certificates::Having::new(shared.certificates.clone());
    let mut pinged = BTreeSet::new();
    let mut pace = Pace::begin();
    loop {
        pace.looks();
        let now = state.borrow_and_update().clone();
        let members = heard.borrow_and_update().clone();
        let answers = pings.borrow_and_update().clone();
        let leader = leadership.borrow_and_update().leader;
        let wanted = to_ping(me, &now);
        if wanted != pinged {
            transport.set_pinged(wanted.clone());
            pinged = wanted;
        }
        let report = own.borrow_and_update().clone();
        let mut live = live((me, &report), &now, &members, &answers, leader);
        let shown = having.mark();
        if let Some(own) = live.nodes.get_mut(&me) {
            own.certificate = digest::read_certificate(&authority::told(&shared));
            own.addresses = Some(shared.config.addresses());
            own.shown = shown.into();
        }
        let clock = shared.world.clock.now();
        senses.silent_since.send_modify(|since| note_silence(since, &live, clock));
        senses.live.send_if_modified(|before| {
            let changed = **before != live;
            if changed {
                *before = Arc::new(live);
            }
            changed
        });
        let unheard = unheard(me, &now, &members, &answers);
        senses.unheard.send_if_modified(|before| {
            let changed = *before != unheard;
            *before = unheard;
            changed
        });
        tokio::select! {
            changed = pace.changed(&mut state) => if changed.is_err() { return },
            changed = heard.changed() => if changed.is_err() { return },
            changed = pings.changed() => if changed.is_err() { return },
            changed = leadership.changed() => if changed.is_err() { return },
            changed = own.changed() => if changed.is_err() { return },
            changed = having.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

fn note_silence(since: &mut BTreeMap<NodeId, Timestamp>, live: &Live, now: Timestamp) {
    let silent = |id: &NodeId| live.nodes.get(id).is_some_and(|node| node.liveness == Liveness::Suspect);
    since.retain(|id, _| silent(id));
    for id in live.nodes.keys().filter(|id| silent(id)) {
        since.entry(*id).or_insert(now);
    }
}

fn live(
    (me, report): (NodeId, &NodeReport),
    state: &ControlState,
    heard: &BTreeMap<NodeId, Heard>,
    pings: &BTreeMap<NodeId, PingState>,
    leader: Option<NodeId>,
) -> Live {
    let nodes = state.spec.nodes.keys().map(|id| {
        let member = heard.get(id);
        let mut node = match member {
            // Gossip does not bring back what one says oneself.
            _ if *id == me => digest::read(&digest::write(report)),
            Some(member) => digest::read(&member.values),
            None => LiveNode::default(),
        };
        let gossip = *id == me || member.is_some_and(|member| member.liveness == Liveness::Alive);
        let answers = pings.get(id).is_none_or(|ping| ping.answered);
        node.liveness = if gossip && answers { Liveness::Alive } else { Liveness::Suspect };
        (*id, node)
    });
    let mut live = Live { nodes: nodes.collect(), leader, cluster: state.cluster.id.clone(), ..Live::default() };
    let mgmt = state.plan.roles.get(&RoleName::mgmt());
    if mgmt.is_some_and(|slots| slots.values().any(|slot| slot.node == me)) {
        live.webhook.clone_from(&state.cluster.webhook);
        live.can_lose = Some(can_lose_now(state, &live));
    }
    live
}

fn can_lose_now(state: &ControlState, live: &Live) -> CanLose {
    let alive = |node: &LiveNode| node.liveness == Liveness::Alive;
    let reports =
        live.nodes.values().filter(|node| alive(node)).filter_map(|node| node.facts.get(&RoleName::compute()));
    let healthy = reports.flat_map(|facts| match facts {
        RoleFacts::Compute(instances) => {
            instances.iter().filter(|(_, facts)| facts.healthy).map(|(id, _)| id.clone()).collect()
        }
        RoleFacts::None | RoleFacts::Lb(_) | RoleFacts::Address(_) | RoleFacts::Storage(_) | RoleFacts::Unknown => {
            Vec::new()
        }
    });
    let liveness = live.nodes.iter().map(|(id, node)| (*id, node.liveness)).collect();
    let stored = live.nodes.iter().filter(|(_, node)| alive(node)).filter_map(|(id, node)| {
        match node.facts.get(&RoleName::storage())? {
            RoleFacts::Storage(facts) => Some((*id, facts)),
            RoleFacts::None | RoleFacts::Compute(_) | RoleFacts::Lb(_) | RoleFacts::Address(_) | RoleFacts::Unknown => {
                None
            }
        }
    });
    can_lose(state, &liveness, &healthy.collect(), seen::bears(&stored.collect()))
}

fn unheard(
    me: NodeId,
    state: &ControlState,
    heard: &BTreeMap<NodeId, Heard>,
    pings: &BTreeMap<NodeId, PingState>,
) -> BTreeSet<NodeId> {
    let silent = |id: &&NodeId| {
        let gossip = heard.get(id).is_some_and(|member| member.liveness == Liveness::Alive);
        let answers = pings.get(id).is_some_and(|ping| ping.answered);
        **id != me && !gossip && !answers
    };
    state.spec.nodes.keys().filter(silent).copied().collect()
}

/// The nodes that this one pings: the next ones on the ring, and, where it balances load, all that run instances.
fn to_ping(me: NodeId, state: &ControlState) -> BTreeSet<NodeId> {
    let ids: Vec<NodeId> = state.spec.nodes.keys().copied().collect();
    let after = ids.partition_point(|id| *id <= me);
    let ring = ids[after..].iter().chain(&ids[..after]).filter(|id| **id != me).take(RING_NEIGHBOURS);
    let mut pinged: BTreeSet<NodeId> = ring.copied().collect();
    let lb = state.plan.roles.get(&RoleName::lb());
    if lb.is_some_and(|slots| slots.values().any(|slot| slot.node == me)) {
        pinged.extend(state.plan.instances.values().map(|instance| instance.node).filter(|node| *node != me));
    }
    pinged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::node_spec;

    fn state(nodes: u64) -> ControlState {
        let mut state = ControlState::default();
        state.spec.nodes = (1..=nodes).map(|id| (NodeId(id), node_spec(id))).collect();
        state
    }

    fn heard(liveness: Liveness) -> Heard {
        Heard { liveness, incarnation: hirsel_model::Incarnation(1), values: BTreeMap::new() }
    }

    fn ping(answered: bool) -> PingState {
        PingState { answered, rtt_ms: 1 }
    }

    #[test]
    fn the_ring_closes_and_leaves_out_oneself() {
        assert_eq!(to_ping(NodeId(4), &state(5)), [1, 2, 5].map(NodeId).into());
        assert_eq!(to_ping(NodeId(1), &state(2)), [2].map(NodeId).into());
        assert!(to_ping(NodeId(1), &state(1)).is_empty());
    }

    #[test]
    fn traffic_stops_at_the_first_doubt_but_evidence_needs_both() {
        let state = state(2);
        let gossip = BTreeMap::from([(NodeId(2), heard(Liveness::Alive))]);
        let pings = BTreeMap::from([(NodeId(2), ping(false))]);
        let live = live((NodeId(1), &NodeReport::default()), &state, &gossip, &pings, None);
        assert_eq!(live.nodes[&NodeId(2)].liveness, Liveness::Suspect);
        assert!(unheard(NodeId(1), &state, &gossip, &pings).is_empty());
        let gossip = BTreeMap::from([(NodeId(2), heard(Liveness::Suspect))]);
        assert_eq!(unheard(NodeId(1), &state, &gossip, &pings), [NodeId(2)].into());
        assert!(unheard(NodeId(1), &state, &gossip, &BTreeMap::from([(NodeId(2), ping(true))])).is_empty());
    }

    #[test]
    fn a_node_hears_itself() {
        let live = live((NodeId(1), &NodeReport::default()), &state(1), &BTreeMap::new(), &BTreeMap::new(), None);
        assert_eq!(live.nodes[&NodeId(1)].liveness, Liveness::Alive);
        assert!(unheard(NodeId(1), &state(1), &BTreeMap::new(), &BTreeMap::new()).is_empty());
    }
}

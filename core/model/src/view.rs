//! The planner's snapshot of everything: spec, plan, and what the leader knows of each node at one moment of its own clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::grant::long::LongGrant;
use crate::id::*;
use crate::plan::Plan;
use crate::report::NodeReport;
use crate::spec::{Former, Spec};
use crate::time::Timestamp;

/// Everything the planner decides from.
#[derive(Clone, Debug)]
pub struct View {
    /// The leader's monotonic clock.
    pub now: Timestamp,
    /// Since when this leader leads, or woke from a pause of its own (frozen, suspended) if that was later. Its measurements go back
    /// no further, and it judges nobody before it has measured for a while.
    pub leading_since: Timestamp,
    /// Who leads.
    pub leader: NodeId,
    /// The feature level of the cluster: nothing is planned that needs a higher one (see [`crate::feature`]).
    pub level: u32,
    /// What the operator wants.
    pub spec: Arc<Spec>,
    /// The log index of the last change of the spec.
    pub spec_index: LogIndex,
    /// The plan in force.
    pub plan: Arc<Plan>,
    /// How services were described before, as far as it is still known: what can be gone back to.
    pub former: Arc<Former>,
    /// What is known of each node of the spec, heard or not. A node that is missing is neither judged nor given work.
    pub nodes: BTreeMap<NodeId, NodeFacts>,
    /// For how long each draining instance has been so, as measured by this leader.
    pub draining_for: BTreeMap<InstanceId, Duration>,
    /// For how long each instance that is not healthy has been so, as measured by this leader.
    pub unhealthy_for: BTreeMap<InstanceId, Duration>,
    /// How long ago this leader last granted each exclusive instance to its node; one that it never granted is missing.
    pub granted: BTreeMap<InstanceId, Duration>,
    /// Long grants on record, with how long this leader has known of each.
    pub long: BTreeMap<InstanceId, KnownLong>,
    /// For how long a node that has to promise for an exclusive instance on its way out has been known, by this leader, to refuse.
    pub refused_for: BTreeMap<InstanceId, Duration>,
    /// When nodes were last judged, by this leader's clock: the brake looks at how many fell within a time.
    pub losses: Vec<(Timestamp, NodeId)>,
}

/// A long grant as a leader knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownLong {
    /// As it is on record.
    pub grant: LongGrant,
    /// For how long this leader has known of it; no longer than it leads.
    pub known_for: Duration,
}

/// What the leader knows of one node.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// What gossip says.
    pub liveness: Liveness,
    /// Whether its lease runs (it asked, and acknowledged, lately). Nodes with a lease are observers.
    pub leased: bool,
    /// Nodes with a lease that do not hear it, and the leader if it does not.
    pub unheard_by: BTreeSet<NodeId>,
    /// How long [`View::is_reachable`] has had its present value for this node, as measured by this leader; for a node that was never
    /// heard, since it is in the spec.
    pub steady_for: Duration,
    /// The start of the agent that speaks now.
    pub incarnation: Incarnation,
    /// The newest plan at which it confirmed that it holds nothing exclusive.
    pub released: Generation,
    /// Its place in the control group.
    pub raft: RaftFacts,
    /// Its last full report.
    pub report: Option<Arc<NodeReport>>,
}

/// A node's place in the control group as the leader's Raft sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RaftFacts {
    /// Not in it.
    #[default]
    Absent,
    /// Follows the log.
    Learner {
        /// It has nearly all of it.
        caught_up: bool,
    },
    /// Votes.
    Voter,
}

/// What gossip says of a node: local and reversible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Liveness {
    /// Heard.
    Alive,
    /// Not heard for longer than usual, or never.
    #[default]
    Suspect,
}

impl View {
    /// Nodes whose word counts about others: those with a lease, and the leader.
    pub fn observers(&self) -> BTreeSet<NodeId> {
        let leased = self.nodes.iter().filter(|(_, facts)| facts.leased).map(|(node, _)| *node);
        leased.filter(|node| self.spec.nodes.contains_key(node)).chain([self.leader]).collect()
    }

    /// Whether most of the other observers hear `node`, and what is needed to judge it down is not there. On this question the
    /// measurement of [`NodeFacts::steady_for`] is made.
    pub fn is_reachable(&self, node: NodeId) -> bool {
        let sight = crate::planner::verdicts::Sight::new(self);
        self.nodes.get(&node).is_some_and(|facts| sight.of(node, facts).is_reachable())
    }

    /// [`View::is_reachable`] for every node at once.
    pub fn reachable(&self) -> BTreeMap<NodeId, bool> {
        let sight = crate::planner::verdicts::Sight::new(self);
        self.nodes.iter().map(|(node, facts)| (*node, sight.of(*node, facts).is_reachable())).collect()
    }
}

//! The planner's snapshot of everything: spec, plan, and what the leader knows of each node at one moment of its own clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::*;
use crate::plan::Plan;
use crate::report::NodeReport;
use crate::spec::Spec;
use crate::time::Timestamp;

/// Everything the planner decides from.
#[derive(Clone, Debug)]
pub struct View {
    /// The leader's monotonic clock.
    pub now: Timestamp,
    /// Since when this leader leads. Its measurements go back no further.
    pub leading_since: Timestamp,
    /// Who leads.
    pub leader: NodeId,
    /// What the operator wants.
    pub spec: Arc<Spec>,
    /// The log index of the last change of the spec.
    pub spec_index: LogIndex,
    /// The plan in force.
    pub plan: Arc<Plan>,
    /// What is known of each node of the spec. A node that is missing was never heard by this leader.
    pub nodes: BTreeMap<NodeId, NodeFacts>,
    /// For how long each draining instance has been so, as measured by this leader.
    pub draining_for: BTreeMap<InstanceId, Duration>,
    /// For how long each instance that is not healthy has been so, as measured by this leader.
    pub unhealthy_for: BTreeMap<InstanceId, Duration>,
    /// When nodes were last judged, by this leader's clock: the brake looks at how many fell within a time.
    pub losses: Vec<(Timestamp, NodeId)>,
}

/// What the leader knows of one node.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// What gossip says.
    pub liveness: Liveness,
    /// Whether its lease runs (it asked, and acknowledged, lately). Nodes with a lease are observers.
    pub leased: bool,
    /// Observers that do not hear it (the leader included).
    pub unheard_by: BTreeSet<NodeId>,
    /// How long `reachable` (a majority of the other observers hears it) has had its present value, as measured by this leader.
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

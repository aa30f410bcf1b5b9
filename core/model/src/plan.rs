//! The plan: what the leader decided, complete, each assignment with its reason. A target, not a list of steps.
//!
//! Invariants: the generation rises by one with each adopted change; neither a reason nor an unmet wish holds a measurement or an
//! age, for then every look at the clock would be a new plan.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::duty::Duty;
use crate::id::*;
use crate::storage::StorageTable;

/// The whole target of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Number of this plan.
    pub generation: Generation,
    /// The last change of the spec, by its log index, when this plan was adopted. Later ones that asked for no other plan are not
    /// adopted, so this says which spec the plan was made from, never that a newer one was overlooked.
    pub spec_index: LogIndex,
    /// Who holds which slot of which role.
    pub roles: BTreeMap<RoleName, BTreeMap<Slot, Assignment>>,
    /// Which instance runs where.
    pub instances: BTreeMap<InstanceId, InstanceAssignment>,
    /// Exclusive instances that left the plan and may still act.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub letting_go: BTreeMap<InstanceId, LettingGo>,
    /// For each exclusive instance that acts or may still act: the nodes that may take its place.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub candidates: BTreeMap<InstanceId, Candidates>,
    /// What may still act on nodes that were given up when the control group was founded anew.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    pub estranged: Estranged,
    /// Who may hold each floating address.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub addresses: BTreeMap<IpAddr, AddressPlan>,
    /// Where data of the storage role is, and who votes in its metadata groups.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    pub storage: StorageTable,
    /// Who votes in the control group.
    pub voters: BTreeSet<NodeId>,
    /// Who follows the log closely, to replace a voter.
    pub spares: BTreeSet<NodeId>,
    /// Nodes that were judged.
    pub verdicts: BTreeMap<NodeId, Verdict>,
    /// Nodes that come and go, with the number of times: they wait longer before they are trusted again.
    pub flaps: BTreeMap<NodeId, u32>,
    /// Too much was lost at once: data is not moved and nothing is rebalanced.
    pub brake: bool,
    /// Services whose `auto_revert` found the newest revision wanting.
    pub reverted: BTreeMap<AppName, BTreeMap<ServiceName, Revision>>,
    /// The last revision that all wanted instances of a service were healthy with, for services with `auto_revert`: where to go back
    /// to. A revision in here has not failed, whatever befalls its instances later.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub proven: BTreeMap<AppName, BTreeMap<ServiceName, Revision>>,
    /// What could not be met, and why.
    pub unmet: Vec<Unmet>,
    /// The number of the next instance.
    pub next_instance: u64,
}

/// A slot of a role on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// Who.
    pub node: NodeId,
    /// To do what.
    pub duty: Duty,
    /// Why there.
    pub reason: Reason,
    /// The plan that put it there.
    pub since: Generation,
}

/// An instance on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceAssignment {
    /// Where.
    pub node: NodeId,
    /// Which revision of its service it runs.
    pub revision: Revision,
    /// Whether it takes new requests.
    pub phase: Phase,
    /// Why there.
    pub reason: Reason,
    /// The plan that put it there, or last changed its phase.
    pub since: Generation,
    /// It acts only with a grant (see [`crate::grant`]).
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    pub exclusive: bool,
}

/// An exclusive instance that left the plan and may still act. Nothing takes its place before it has let go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LettingGo {
    /// Where it was.
    pub node: NodeId,
    /// The plan that dropped it.
    pub since: Generation,
    /// It acted with grants, so it has let go when they and all promises have run out, heard or not. Otherwise only a word ends it: that
    /// of its node, or that of a person that the node is off.
    pub granted: bool,
    /// Why it was dropped: the reason of whatever takes its place.
    pub reason: Reason,
}

/// The nodes that may take the place of an exclusive instance. While no leader answers its node lets it act on only as long as each
/// of them has promised not to (see [`crate::grant`]). Without any it ends with its last grant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidates {
    /// The newest list.
    pub nodes: BTreeSet<NodeId>,
    /// The plan that listed them.
    pub since: Generation,
    /// The list before, while it is not known that the node of the instance goes by the newest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<BTreeSet<NodeId>>,
}

impl Candidates {
    /// Nodes that are asked for promises by whichever list the holder goes. A list of nobody asks nobody, and lets nothing act on.
    pub fn bound(&self) -> BTreeSet<NodeId> {
        match &self.before {
            Some(before) if self.nodes.is_empty() => before.clone(),
            Some(before) if !before.is_empty() => self.nodes.intersection(before).copied().collect(),
            Some(_) | None => self.nodes.clone(),
        }
    }
}

/// Who may hold a floating address. The first of them that lives does; they find out among each other (see [`crate::floating`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressPlan {
    /// The best one first.
    pub candidates: Vec<AddressCandidate>,
    /// The plan that made this list, by which it is told from those before.
    pub since: Generation,
    /// Why these, and why in this order.
    pub reason: Reason,
}

/// A node that may hold a floating address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressCandidate {
    /// Who.
    pub node: NodeId,
    /// On which of its interfaces.
    pub interface: String,
    /// Its own address there, at which the other candidates beat.
    pub at: IpAddr,
}

/// Nodes that were given up when the control group was founded anew, and that nobody has said to be off: behind a cut they may go on
/// as the former foundation, with a leader and plans that nobody here has seen. Whatever exclusive service was there may act there, so
/// nothing of it is given to anybody here ([`crate::grant`] says why no time is long enough).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estranged {
    /// The nodes, by the names that they had.
    pub nodes: BTreeMap<NodeId, NodeName>,
    /// The exclusive services.
    pub services: BTreeSet<(AppName, ServiceName)>,
}

impl Estranged {
    /// The names of the nodes, for people.
    pub fn names(&self) -> String {
        let names: Vec<&str> = self.nodes.values().map(NodeName::as_str).collect();
        names.join(", ")
    }
}

/// Whether an instance takes new requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Yes, when it is healthy.
    #[default]
    Active,
    /// No: it ends the requests under way and is then stopped.
    Draining,
}

/// Why something was decided: a cause that can be followed, and words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// What it followed from.
    pub because: Because,
    /// The whole sentence for people, without measurements.
    pub text: String,
}

/// What a decision followed from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Because {
    /// The role wants this many slots and the node is fit for one.
    Wanted,
    /// The operator pinned it.
    Pinned,
    /// The operator moved it, once.
    Moved {
        /// The node that had it.
        node: NodeId,
    },
    /// An application was applied, scaled or restarted.
    Applied {
        /// Which.
        app: AppName,
        /// Which time.
        revision: Revision,
    },
    /// A node was judged down or unfit.
    Lost {
        /// The node that had it.
        node: NodeId,
    },
    /// A node drains or leaves.
    Drained {
        /// The node that had it.
        node: NodeId,
    },
    /// A node joined, came back, or was opened again.
    Joined {
        /// Which.
        node: NodeId,
    },
    /// A newer revision replaced it, or is replaced by an older one.
    Updated {
        /// Application.
        app: AppName,
        /// The revision that runs then.
        revision: Revision,
    },
    /// A revision did not become healthy.
    Reverted {
        /// Application.
        app: AppName,
        /// The revision that failed.
        revision: Revision,
    },
}

/// A node that was judged. Every node and every later leader sees the same verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// What it amounts to.
    pub kind: VerdictKind,
    /// The start of the node that was judged.
    pub incarnation: Incarnation,
    /// The plan that judged.
    pub since: Generation,
    /// Who did not hear it, in words, without measurements.
    pub evidence: String,
}

/// What a verdict amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictKind {
    /// Most observers do not reach it: plural work moves.
    Unfit,
    /// Its lease is gone too: everything moves.
    Down,
}

/// A wish that could not be met.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unmet {
    /// `role/lb`, `shop/web`, `voters`.
    pub subject: String,
    /// Why not, without measurements.
    pub reason: String,
}

//! Where data of the storage role is: the table of partitions, which is part of the plan, and what nodes report of it.
//!
//! A chunk is in a partition, and a partition is on as many nodes as the class of its chunk asks for: on three for three copies, on six
//! for 4+2, on eleven for 8+3. So there are partitions of each *width*, and the number of a partition says which it has. The order of the
//! nodes counts: the shard with number i is on the node with number i. [`crate::planner`] fills the table, storage nodes and gateways go
//! by it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::feature::Need;
use crate::id::NodeId;
use crate::spec::is_default;

pub mod left;
pub mod seen;

pub use left::{Belongs, Foundation, Left};
pub use seen::{Audit, Totals};

/// What a table of partitions needs.
pub const STORAGE: Need = Need::of(2, "storage");

/// Partitions of each width. With a hundred nodes a node has seven of three nodes each; the table of one width is some 10 KB.
pub const PARTITIONS: u16 = 256;
/// Widths that there may be partitions of: three copies, 4+2, and 8+3.
pub const WIDTHS: [u8; 3] = [3, 6, 11];
/// Of how many of them, the first ones, there are partitions everywhere. Of a wider one there are some once a bucket asks for it, and from
/// then on: few clusters have so many nodes, and each partition is work for whoever plans.
pub const USUAL: usize = 2;
/// Nodes that may be lost at once without losing anything, in each of [`WIDTHS`].
const LOSSES: [usize; 3] = [2, 2, 3];

/// A node must be lost this long before its data moves where a third of those that keep data, and more than the table bears
/// ([`StorageTable::losses`]), are lost together. Copying so much takes hours, and costs those that are left the room and the network that requests need.
pub const MOVE_MANY_AFTER: Duration = Duration::from_secs(15 * 60);
/// What the plan calls it that so much is waited for.
pub const MANY_LOST: &str = "storage/lost";

/// On how many nodes at least a partition of each of [`WIDTHS`] stays when one of its nodes goes and no other can take its place: two
/// copies, 4+1, and 8+1. Less than that is never acknowledged, and so is not left behind on purpose.
pub const FLOORS: [usize; 3] = [2, 5, 9];

/// Nodes that may be lost at once without losing anything that is in partitions of this width.
pub fn losses(width: u8) -> usize {
    WIDTHS.iter().zip(LOSSES).find(|(known, _)| **known == width).map_or(0, |(_, losses)| losses)
}

/// On how many nodes at least a partition of this width stays when one of its nodes goes.
pub fn floor(width: u8) -> usize {
    WIDTHS.iter().zip(FLOORS).find(|(known, _)| **known == width).map_or(usize::from(width), |(_, floor)| floor)
}

/// A partition, by its width and its number among those of that width.
pub fn partition(width: u8, number: u16) -> u16 {
    u16::from(width) * PARTITIONS + number % PARTITIONS
}

/// On how many nodes a partition should be.
pub fn width(partition: u16) -> u8 {
    (partition / PARTITIONS) as u8
}

/// The placement table, and who votes in the metadata groups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageTable {
    /// Rises with each change of a partition.
    pub version: u64,
    /// By number.
    pub partitions: BTreeMap<u16, Partition>,
    /// Who should vote in the metadata group.
    pub voters: BTreeSet<NodeId>,
    /// Who founds it; none once somebody reports that there is one, and for ever after: a node whose disk is new must not begin another.
    /// Nothing may be acknowledged before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub founder: Option<NodeId>,
    /// As what the metadata group goes on, once a majority of it was lost for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foundation: Option<Foundation>,
}

impl StorageTable {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty() && self.voters.is_empty()
    }

    /// Every node that has, or gets, something.
    pub fn nodes(&self) -> BTreeSet<NodeId> {
        let listed = self.partitions.values().flat_map(|partition| partition.nodes.iter().chain(&partition.next));
        listed.chain(&self.voters).copied().collect()
    }

    /// Nodes that may be lost at once without losing anything that is in its widest partitions; the metadata groups have voters for the same,
    /// where there are as many nodes.
    pub fn losses(&self) -> usize {
        self.partitions.last_key_value().map_or(LOSSES[0], |(number, _)| losses(width(*number)))
    }

    /// Whether there are partitions of this width.
    pub fn has_width(&self, width: u8) -> bool {
        let first = partition(width, 0);
        self.partitions.range(first..first.saturating_add(PARTITIONS)).next().is_some()
    }

    /// Whether `node` has, or gets, something.
    pub fn holds(&self, node: NodeId) -> bool {
        let lists = |partition: &Partition| partition.nodes.contains(&node) || partition.next.contains(&node);
        self.voters.contains(&node) || self.partitions.values().any(lists)
    }
}

/// A partition: where it is, and where it moves to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    /// Nodes that have its chunks. What is lost is still listed: its place is kept until the move is complete.
    pub nodes: Vec<NodeId>,
    /// Nodes that get its chunks, and all that is written from now on; empty when it does not move. Until the move is reported complete
    /// nothing else changes of it, except that a node that is lost meanwhile is replaced in here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<NodeId>,
    /// The version of the table that decided this. A move is complete when somebody reports it complete for this version.
    pub table: u64,
}

impl Partition {
    /// Where writes go.
    pub fn target(&self) -> &[NodeId] {
        if self.next.is_empty() { &self.nodes } else { &self.next }
    }
}

/// What leads from one table to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageChange {
    /// The new version.
    pub version: u64,
    /// Partitions that changed; none for those that are gone.
    pub partitions: BTreeMap<u16, Option<Partition>>,
    /// Voters of the metadata group, if they changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voters: Option<BTreeSet<NodeId>>,
    /// Who founds the metadata group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub founder: Option<NodeId>,
    /// As what it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foundation: Option<Foundation>,
}

/// Buckets that are told of at once, of those that cannot be: the report goes to every node again and again.
pub const UNMET_MAX: usize = 8;

/// Buckets that applications want and that cannot be as they want them, by what they are called in the store, and why.
pub type Unmet = BTreeMap<String, String>;

/// What a node with the storage role says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageFacts {
    /// Why it can keep nothing, for people: its disk has failed, or is not the one it should be. What it had counts as lost.
    pub unable: Option<String>,
    /// Size of its disks in bytes, without what is reserved.
    pub bytes: u64,
    /// What is free of that in tenths, rounded down, with hysteresis.
    #[serde(skip_serializing_if = "is_default")]
    pub free: u8,
    /// Moves that every metadata group has committed as complete: the partition, and the version of the table that decided the move.
    pub moved: BTreeMap<u16, u64>,
    /// Who votes in the metadata groups, as far as it knows.
    pub voters: BTreeSet<NodeId>,
    /// What its last audit counted.
    #[serde(skip_serializing_if = "is_default")]
    pub audit: Audit,
    /// What it counted in the metadata, while it leads their group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub totals: Option<Box<Totals>>,
    /// To which foundation of the metadata group it belongs, unless that is the first one and well.
    #[serde(skip_serializing_if = "is_default")]
    pub group: Box<Belongs>,
    /// Buckets that cannot be as they are wanted, some of them, while it leads the group of metadata.
    #[serde(skip_serializing_if = "is_default")]
    pub unmet: Unmet,
}

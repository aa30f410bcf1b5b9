//! Where a chunk goes, and where it is looked for: the table of the plan, and who is heard now.

use std::sync::Arc;

use hirsel_model::NodeId;
use hirsel_model::order::StorageOrder;
use hirsel_model::storage::{PARTITIONS, Partition, partition};
use hirsel_model::view::Liveness;
use hirsel_role::Live;

use crate::disk::DiskId;
use crate::meta::kinds::{Class, Missed};
use crate::meta::names::ChunkId;
use crate::wire::Target;

/// One look at the table.
#[derive(Clone)]
pub struct Places {
    order: Arc<StorageOrder>,
    live: Arc<Live>,
    me: NodeId,
}

impl Places {
    /// By that table, with those who are heard, seen from `me`.
    pub fn new(order: Arc<StorageOrder>, live: Arc<Live>, me: NodeId) -> Self {
        Self { order, live, me }
    }

    /// The version of the table.
    pub fn version(&self) -> u64 {
        self.order.table.version
    }

    /// A partition for chunks of `class`, `drawn` by chance; none while there is none.
    pub fn draw(&self, class: Class, drawn: u64) -> Option<u16> {
        let width = class.width()?;
        let number = partition(width, u16::try_from(drawn % u64::from(PARTITIONS)).unwrap_or_default());
        self.order.table.partitions.contains_key(&number).then_some(number)
    }

    /// Whether there are no partitions for chunks of `class` yet, and will be: those of another class are there.
    pub fn will_have(&self, class: Class) -> bool {
        class.width().is_some() && !self.order.table.partitions.is_empty() && self.draw(class, 0).is_none()
    }

    fn partition(&self, number: u16) -> Option<&Partition> {
        self.order.table.partitions.get(&number)
    }

    /// Whether a node is heard now.
    pub fn is_heard(&self, node: NodeId) -> bool {
        node == self.me || self.live.nodes.get(&node).is_some_and(|node| node.liveness == Liveness::Alive)
    }

    /// Whom a write of `pieces` pieces is sent to: the piece with number i should be on the node with number i. One that is not heard has its
    /// place taken by another node of the table, and comes last.
    pub fn targets(&self, number: u16, pieces: usize) -> Vec<Target> {
        let Some(partition) = self.partition(number) else { return Vec::new() };
        let home: Vec<NodeId> = partition.target().iter().take(pieces).copied().collect();
        let holders = self.order.table.nodes();
        let spare = holders.iter().filter(|node| !home.contains(node) && self.is_heard(**node) && self.stores(**node));
        // Not everybody's first replacement is the same node.
        let mut spare: Vec<NodeId> = spare.copied().collect();
        let turn = usize::from(number) % spare.len().max(1);
        spare.rotate_left(turn);
        let mut spare = spare.into_iter();
        let mut silent = Vec::new();
        let mut targets: Vec<NodeId> = Vec::with_capacity(holders.len());
        for node in home {
            if self.is_heard(node) {
                targets.push(node);
            } else {
                silent.push(node);
                targets.extend(spare.next());
            }
        }
        targets.extend(spare);
        targets.extend(silent);
        targets.into_iter().map(target).collect()
    }

    /// Which nodes of the partition lack a piece, once pieces are safe on the nodes of `safe` (by number of the piece).
    pub fn missed(&self, chunk: ChunkId, class: Class, safe: &[Option<NodeId>]) -> Vec<Missed> {
        let Some(partition) = self.partition(chunk.partition()) else { return Vec::new() };
        let home = partition.target().iter().take(usize::from(class.pieces()));
        let missed = (0..).zip(home).filter(|(number, node)| match class {
            Class::Copies(_) => !safe.contains(&Some(**node)),
            Class::Erasure(..) => safe.get(usize::from(*number)) != Some(&Some(**node)),
        });
        let shard = |number| if matches!(class, Class::Copies(_)) { 0 } else { number };
        missed.map(|(number, node)| Missed { chunk, shard: shard(number), node: *node }).collect()
    }

    /// Where the piece `number` of a chunk of `class` may be, the likeliest first: where it is to be, where it moves from, this node and those
    /// that are heard before others. Those of the last resort are not among them: see [`Places::others`].
    pub fn homes(&self, chunk: ChunkId, class: Class, number: u8) -> Vec<Target> {
        let Some(partition) = self.partition(chunk.partition()) else { return Vec::new() };
        let mut homes: Vec<NodeId> = Vec::new();
        for list in [partition.target(), &partition.nodes] {
            let these: Vec<NodeId> = match class {
                Class::Copies(_) => list.to_vec(),
                Class::Erasure(..) => list.get(usize::from(number)).copied().into_iter().collect(),
            };
            homes.extend(these.into_iter().filter(|node| !homes.contains(node)).collect::<Vec<_>>());
        }
        homes.sort_by_key(|node| (*node != self.me, !self.is_heard(*node)));
        homes.into_iter().map(target).collect()
    }

    /// Where the piece `number` of a chunk should be, and where it moves from.
    pub fn at(&self, chunk: ChunkId, number: u8) -> Vec<NodeId> {
        let Some(partition) = self.partition(chunk.partition()) else { return Vec::new() };
        let mut nodes: Vec<NodeId> = Vec::new();
        for list in [partition.target(), &partition.nodes] {
            nodes.extend(list.get(usize::from(number)).filter(|node| !nodes.contains(node)).copied());
        }
        nodes
    }

    /// To which nodes the partition of a chunk moves.
    pub fn moves_to(&self, chunk: ChunkId) -> Vec<NodeId> {
        self.partition(chunk.partition()).map(|partition| partition.next.clone()).unwrap_or_default()
    }

    /// Everybody else who keeps data: a write that found its nodes gone went to some of them.
    pub fn others(&self, not: &[Target]) -> Vec<Target> {
        let known = |node: &NodeId| not.iter().all(|target| target.node != *node);
        let all = self.order.nodes.iter().filter(|node| known(node) && self.is_heard(**node));
        all.copied().map(target).collect()
    }

    fn stores(&self, node: NodeId) -> bool {
        self.order.nodes.contains(&node)
    }
}

/// The disk of a node.
pub fn target(node: NodeId) -> Target {
    Target { node, disk: DiskId::ONLY }
}

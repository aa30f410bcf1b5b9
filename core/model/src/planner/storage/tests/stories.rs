//! A small cluster whose nodes store: what the whole planner makes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::super::{MOVE_DATA_AFTER, MOVE_MANY_AFTER};
use crate::control::samples::node;
use crate::feature::FIRST;
use crate::id::*;
use crate::plan::{Verdict, VerdictKind};
use crate::planner::change::change;
use crate::planner::{narrate, plan};
use crate::report::{NodeReport, RoleFacts, RoleReport, RoleState};
use crate::spec::{Availability, Former, Spec};
use crate::storage::{Left, MANY_LOST, StorageFacts, StorageTable, Totals, USUAL, WIDTHS};
use crate::time::Timestamp;
use crate::view::{Liveness, NodeFacts, RaftFacts, View};

struct Town {
    view: View,
    facts: BTreeMap<NodeId, StorageFacts>,
    silent: BTreeSet<NodeId>,
    /// Who is as it is for another time than all others.
    differs: BTreeMap<NodeId, Duration>,
}

impl Town {
    /// Nodes in zones of their own, which store if `stores`.
    fn new(nodes: u8, stores: bool) -> Self {
        let mut spec = Spec::default();
        for number in 1..=nodes {
            let mut node = node(&format!("n{number}"), number);
            node.zone = format!("z{number}").parse().expect("a zone");
            node.built.insert(RoleName::storage());
            spec.nodes.insert(NodeId(u64::from(number)), node);
        }
        let view = View {
            now: Timestamp(1_000_000),
            leading_since: Timestamp(0),
            leader: NodeId(1),
            level: 2,
            spec: Arc::new(spec),
            spec_index: LogIndex(1),
            plan: Arc::default(),
            former: Arc::new(Former::default()),
            nodes: BTreeMap::new(),
            draining_for: BTreeMap::new(),
            unhealthy_for: BTreeMap::new(),
            granted: BTreeMap::new(),
            long: BTreeMap::new(),
            refused_for: BTreeMap::new(),
            losses: Vec::new(),
        };
        let facts = |number: u8| {
            (NodeId(u64::from(number)), StorageFacts { bytes: 1 << 40, free: 9, ..StorageFacts::default() })
        };
        let facts = if stores { (1..=nodes).map(facts).collect() } else { BTreeMap::new() };
        Self { view, facts, silent: BTreeSet::new(), differs: BTreeMap::new() }
    }

    fn look(&mut self, steady_for: Duration) {
        let plan = self.view.plan.clone();
        let spec = self.view.spec.clone();
        self.view.nodes = spec.nodes.keys().map(|id| (*id, self.seen(*id, &plan, steady_for))).collect();
    }

    fn seen(&self, id: NodeId, plan: &crate::plan::Plan, steady_for: Duration) -> NodeFacts {
        let silent = self.silent.contains(&id);
        let facts = self.facts.get(&id).cloned().map_or(RoleFacts::None, RoleFacts::Storage);
        let role =
            RoleReport { state: RoleState::Running, generation: plan.generation, facts, ..RoleReport::default() };
        let report = NodeReport {
            incarnation: Incarnation(1),
            generation: plan.generation,
            roles: [(RoleName::storage(), role)].into(),
            level: 2,
            ..NodeReport::default()
        };
        let others = self.view.spec.nodes.keys().copied().filter(|other| *other != id && !self.silent.contains(other));
        NodeFacts {
            liveness: if silent { Liveness::Suspect } else { Liveness::Alive },
            leased: !silent,
            unheard_by: if silent { others.collect() } else { BTreeSet::new() },
            steady_for: self.differs.get(&id).copied().unwrap_or(steady_for),
            incarnation: Incarnation(1),
            released: plan.generation,
            raft: if plan.voters.contains(&id) { RaftFacts::Voter } else { RaftFacts::Learner { caught_up: true } },
            report: Some(Arc::new(report)),
        }
    }

    /// Plans until nothing changes, and adopts each as a change of the one before.
    fn plan(&mut self, steady_for: Duration) -> StorageTable {
        for _ in 0..20 {
            self.look(steady_for);
            let next = plan(&self.view);
            if next == *self.view.plan {
                return next.storage;
            }
            let change = change(&self.view.plan, &next);
            let mut adopted = (*self.view.plan).clone();
            adopted.apply(change);
            adopted.spec_index = next.spec_index;
            assert_eq!(adopted, next, "a change leads to what was planned");
            self.view.plan = Arc::new(next);
        }
        panic!("planning does not come to an end");
    }

    /// Plans, and reports everything complete, until nothing changes.
    fn settle(&mut self, steady_for: Duration) -> StorageTable {
        for _ in 0..100 {
            let before = self.plan(steady_for);
            let moved: BTreeMap<u16, u64> = before.partitions.iter().map(|(number, it)| (*number, it.table)).collect();
            for facts in self.facts.values_mut() {
                facts.moved.clone_from(&moved);
                facts.voters.clone_from(&before.voters);
            }
            if self.plan(steady_for) == before {
                return before;
            }
        }
        panic!("moving does not come to an end");
    }

    fn set(&mut self, node: u64, availability: Availability) {
        let spec = Arc::make_mut(&mut self.view.spec);
        spec.nodes.get_mut(&NodeId(node)).expect("it is there").availability = availability;
        self.view.spec_index = self.view.spec_index.next();
    }

    /// Whether it is told that many are waited for.
    fn waits(&self) -> bool {
        let told = |reason: &str| {
            reason.contains("3 of 9 nodes are lost together: what they keep moves once they are gone for 15 min")
        };
        self.view.plan.unmet.iter().any(|unmet| unmet.subject == MANY_LOST && told(&unmet.reason))
    }

    fn has_slot(&self, node: u64) -> bool {
        let slots = self.view.plan.roles.get(&RoleName::storage());
        slots.is_some_and(|slots| slots.values().any(|slot| slot.node == NodeId(node)))
    }
}

const STEADY: Duration = Duration::from_secs(3_600);

#[test]
fn nothing_is_planned_before_a_node_stores_and_the_level_allows_it() {
    assert!(Town::new(5, false).plan(STEADY).is_empty());
    let mut old = Town::new(5, true);
    old.view.level = FIRST;
    assert!(old.plan(STEADY).is_empty());
    old.view.level = 2;
    let table = old.plan(STEADY);
    assert_eq!((table.version, table.partitions.len()), (1, 512));
    assert_eq!((table.voters.len(), table.founder), (5, Some(NodeId(1))));
    assert_eq!(old.settle(STEADY).founder, None, "somebody says that there is a group");
    let unmet: Vec<&str> = old.view.plan.unmet.iter().map(|unmet| unmet.reason.as_str()).collect();
    assert!(unmet.iter().all(|reason| !reason.contains("partition")), "five nodes are all that there are: {unmet:?}");
}

#[test]
fn partitions_of_eleven_are_made_when_a_bucket_asks_for_them_and_stay() {
    let lists = |table: &StorageTable| {
        let of = table.partitions.iter().filter(|(number, _)| crate::storage::width(**number) == 11);
        of.map(|(_, it)| it.nodes.len()).collect::<Vec<_>>()
    };
    for nodes in [12, 9] {
        let mut town = Town::new(nodes, true);
        assert!(lists(&town.settle(STEADY)).is_empty(), "nobody asks");
        let asks = |widest| Some(Box::new(Totals { term: 1, widest, kept: [3].into(), ..Totals::default() }));
        town.facts.get_mut(&NodeId(1)).expect("n1").totals = asks(6);
        assert!(lists(&town.settle(STEADY)).is_empty(), "six are asked for");
        town.facts.get_mut(&NodeId(1)).expect("n1").totals = asks(11);
        let before = town.view.plan.storage.clone();
        let made = town.settle(STEADY);
        assert_eq!(lists(&made), vec![usize::from(nodes).min(11); 256]);
        assert_eq!((before.voters.len(), made.voters.len()), (5, 7), "the metadata bear as many losses");
        assert!(before.voters.is_subset(&made.voters));
        assert!(before.partitions.iter().all(|(number, it)| made.partitions.get(number) == Some(it)), "nothing moved");
        // The bucket is gone, its partitions are not: what dies in them may not be gone yet.
        town.facts.get_mut(&NodeId(1)).expect("n1").totals = asks(3);
        assert_eq!(lists(&town.settle(STEADY)).len(), 256);
    }
}

#[test]
fn data_waits_before_it_moves_away_from_a_node_that_is_lost() {
    let mut town = Town::new(7, true);
    let before = town.settle(STEADY);
    town.silent.insert(NodeId(3));
    // The node under judgement is the only one for which this counts.
    let early = town.plan(MOVE_DATA_AFTER - Duration::from_secs(1));
    assert!(town.view.plan.verdicts.contains_key(&NodeId(3)));
    assert_eq!(early.partitions, before.partitions, "it may come back");
    assert!(!early.voters.contains(&NodeId(3)) && early.voters.len() == 5, "its vote does not wait");
    let late = town.plan(MOVE_DATA_AFTER);
    assert!(late.partitions.values().all(|it| !it.target().contains(&NodeId(3))));
    assert!(late.partitions.values().any(|it| it.nodes.contains(&NodeId(3))));
    let rest = town.settle(STEADY);
    assert!(!rest.nodes().contains(&NodeId(3)));
    for width in WIDTHS.into_iter().take(USUAL) {
        let lists = rest.partitions.iter().filter(|(number, _)| crate::storage::width(**number) == width);
        assert!(lists.clone().count() == 256 && lists.clone().all(|(_, it)| it.nodes.len() == usize::from(width)));
    }
}

/// Nine nodes at rest. None of the last three votes over the plan.
fn nine() -> (Town, StorageTable) {
    let mut town = Town::new(9, true);
    let before = town.settle(STEADY);
    (town, before)
}

#[test]
fn where_many_that_keep_data_are_lost_together_it_waits_longer_before_it_moves() {
    let (mut few, before) = nine();
    few.silent = [NodeId(7), NodeId(8)].into();
    assert_ne!(few.plan(MOVE_DATA_AFTER).partitions, before.partitions, "two may be lost at once");
    assert!(!few.waits());

    let (mut town, before) = nine();
    town.silent = [NodeId(7), NodeId(8), NodeId(9)].into();
    let early = town.plan(MOVE_MANY_AFTER - Duration::from_secs(1));
    assert!(town.silent.iter().all(|node| town.view.plan.verdicts.contains_key(node)) && !town.view.plan.brake);
    assert_eq!(early.partitions, before.partitions, "a third is a zone, and comes back as one");
    assert!(town.waits(), "{:?}", town.view.plan.unmet);
    let late = town.plan(MOVE_MANY_AFTER);
    assert!(late.partitions.values().all(|it| it.target().iter().all(|node| !town.silent.contains(node))));
    assert!(!town.waits(), "it moves");
}

#[test]
fn the_last_of_many_that_come_back_are_waited_for_a_little_longer() {
    let (mut town, before) = nine();
    town.silent = [NodeId(7), NodeId(8), NodeId(9)].into();
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    town.plan(minutes(5));
    // One is heard again, and soon no longer under its verdict: the power is back.
    town.silent.remove(&NodeId(9));
    town.differs = [(NodeId(9), Duration::from_secs(30))].into();
    assert_eq!(town.plan(minutes(6)).partitions, before.partitions);
    assert!(!town.view.plan.verdicts.contains_key(&NodeId(9)), "it is trusted");
    // The two others do not come: what they have is lost now, as that of any two.
    town.differs = [(NodeId(9), MOVE_DATA_AFTER)].into();
    let moving = town.plan(minutes(8));
    assert!(moving.partitions.values().all(|it| it.target().iter().all(|node| !town.silent.contains(node))));
    assert!(moving.holds(NodeId(9)));
}

#[test]
fn who_is_removed_is_not_waited_for() {
    let (mut town, _) = nine();
    town.silent = [NodeId(7), NodeId(8), NodeId(9)].into();
    town.plan(MOVE_DATA_AFTER);
    Arc::make_mut(&mut town.view.spec).nodes.remove(&NodeId(8));
    town.view.spec_index = town.view.spec_index.next();
    let moving = town.plan(MOVE_DATA_AFTER);
    assert!(moving.partitions.values().all(|it| !it.target().contains(&NodeId(8))), "somebody said that it is gone");
}

#[test]
fn a_node_that_is_heard_again_keeps_its_data_though_it_is_not_trusted_yet() {
    let (mut town, before) = nine();
    town.silent.insert(NodeId(7));
    // It fell so often that it must be steady for minutes.
    Arc::make_mut(&mut town.view.plan).flaps.insert(NodeId(7), 6);
    town.plan(Duration::from_secs(1));
    town.silent.clear();
    town.differs = [(NodeId(7), MOVE_DATA_AFTER)].into();
    assert_eq!(town.plan(STEADY).partitions, before.partitions);
    assert!(town.view.plan.verdicts.contains_key(&NodeId(7)));
}

#[test]
fn a_node_that_drains_keeps_its_slot_until_its_data_has_moved() {
    let mut town = Town::new(7, true);
    town.settle(STEADY);
    town.set(2, Availability::Leaving);
    let moving = town.plan(STEADY);
    assert!(moving.holds(NodeId(2)) && moving.partitions.values().all(|it| !it.target().contains(&NodeId(2))));
    assert!(town.has_slot(2), "what it has is read from it until it is elsewhere");
    let rest = town.settle(STEADY);
    assert!(!rest.holds(NodeId(2)) && !town.has_slot(2));
}

#[test]
fn when_most_fall_at_once_no_data_moves() {
    let mut town = Town::new(9, true);
    let before = town.settle(STEADY);
    town.silent = (4..=9).map(NodeId).collect();
    town.view.losses = town.silent.iter().map(|node| (town.view.now, *node)).collect();
    let verdict = Verdict {
        kind: VerdictKind::Down,
        incarnation: Incarnation(1),
        since: town.view.plan.generation,
        evidence: "not heard by n1".into(),
    };
    let plan = Arc::make_mut(&mut town.view.plan);
    plan.verdicts = town.silent.iter().map(|node| (*node, verdict.clone())).collect();
    plan.brake = true;
    assert_eq!(town.plan(STEADY).partitions, before.partitions);
}

#[test]
fn a_node_whose_disk_has_failed_has_lost_its_data_and_one_that_is_full_gets_no_more() {
    let mut town = Town::new(7, true);
    town.settle(STEADY);
    town.facts.get_mut(&NodeId(5)).expect("it stores").unable = Some("its disk has failed".into());
    let rest = town.settle(STEADY);
    assert!(rest.partitions.values().all(|it| !it.nodes.contains(&NodeId(5))));
    town.facts.get_mut(&NodeId(5)).expect("it stores").unable = None;
    town.facts.get_mut(&NodeId(5)).expect("it stores").free = 0;
    assert_eq!(town.settle(STEADY).partitions, rest.partitions);
    town.facts.get_mut(&NodeId(5)).expect("it stores").free = 9;
    assert!(town.settle(STEADY).partitions.values().any(|it| it.nodes.contains(&NodeId(5))));
}

#[test]
fn metadata_that_lost_their_majority_go_on_with_the_newest_that_is_left_once_the_others_are_given_up() {
    let mut town = Town::new(7, true);
    assert_eq!(town.settle(STEADY).voters, (1..=5).map(NodeId).collect());
    for node in [1, 2, 3] {
        town.silent.insert(NodeId(node));
    }
    let has = |index| {
        Some(Left { last: (7, index), term: 8, voters: vec![(1..=5).map(NodeId).collect()], ..Left::default() })
    };
    town.facts.get_mut(&NodeId(4)).expect("n4").group.left = has(90);
    assert_eq!(town.settle(STEADY).foundation, None, "they may come back");
    for node in [1, 2, 3] {
        Arc::make_mut(&mut town.view.spec).nodes.remove(&NodeId(node));
    }
    assert_eq!(town.settle(STEADY).foundation, None, "n5 may have more");
    let unmet = town.view.plan.unmet.iter().map(|it| it.reason.as_str()).collect::<Vec<_>>();
    assert!(unmet.iter().any(|it| it.contains("go on when n5 said what is there")), "{unmet:?}");
    town.facts.get_mut(&NodeId(5)).expect("n5").group.left = has(91);
    let table = town.settle(STEADY);
    let decided = table.foundation.expect("it is decided");
    assert_eq!((decided.from, decided.at, decided.tag.epoch, decided.stands), (NodeId(5), (7, 91), 1, false));
    assert_eq!(table.voters.len(), 3, "of four nodes: {:?}", table.voters);
    town.facts.get_mut(&NodeId(5)).expect("n5").group.tag = decided.tag.clone();
    let before = town.view.clone();
    let stands = town.settle(STEADY).foundation.expect("it stays");
    assert!(stands.stands && stands.tag == decided.tag);
    let told = narrate(&before, &town.view.plan);
    assert!(told.iter().any(|event| event.message.contains("go on with what n5 had")), "{told:?}");
}

#[test]
fn what_a_node_has_that_was_off_while_the_metadata_went_on_without_it_is_no_news() {
    let mut town = Town::new(7, true);
    town.settle(STEADY);
    // It was off while all others who voted with it were replaced, and forgotten.
    for node in [1, 2] {
        Arc::make_mut(&mut town.view.spec).nodes.remove(&NodeId(node));
    }
    let voters = vec![(1..=3).map(NodeId).collect()];
    town.facts.get_mut(&NodeId(3)).expect("n3").group.left =
        Some(Left { last: (7, 90), term: 8, voters, ..Left::default() });
    town.facts.get_mut(&NodeId(5)).expect("n5").group.led = true;
    assert_eq!(town.settle(STEADY).foundation, None, "the group is led, by others");
    town.facts.get_mut(&NodeId(5)).expect("n5").group.led = false;
    assert!(town.settle(STEADY).foundation.is_some(), "now there is nothing else");
}

//! Who is lost: the verdicts, the hold-down of nodes that come and go, and the brake.
//!
//! - *Unfit*: most observers do not reach the node. Plural work moves.
//! - *Down*: its lease is gone and min(2, other live nodes) observers do not hear it. Everything moves.
//!
//! Nobody is judged by a leader that is itself out of contact, or that leads (or is awake) for less than it takes to know better; and
//! a leader never judges itself. A verdict is lifted when the node has been reachable without a break for its hold-down, which
//! doubles with each fall, and follows the plan that judged it. One that was away on purpose ([`long`]) has not fallen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Draft, long};
use crate::id::*;
use crate::plan::{Verdict, VerdictKind};
use crate::view::{NodeFacts, RaftFacts, View};

/// A leader must have led this long before it calls a node unfit: every live node has asked it for a lease by then, twice.
const UNFIT_LEADING: Duration = Duration::from_secs(1);
/// A leader must have led this long before it calls a node down: every live node has asked it for a lease by then, three times. What
/// the leader before it granted may still run; who takes the place of something exclusive waits for that by himself
/// ([`GRANT_OVER`](crate::grant::GRANT_OVER)).
const DOWN_LEADING: Duration = Duration::from_millis(1_500);
/// A node must be out of reach this long without a break. It hides a lost datagram or two, and costs half a second of every failover.
const UNREACHED: Duration = Duration::from_millis(500);
/// The same for a node that this leader never heard: one that has just joined, or starts after the leader did, is still on its way.
const NEVER_HEARD: Duration = Duration::from_secs(5);
/// Hold-down after the first fall; it doubles with each further one.
const HOLD_FIRST: Duration = Duration::from_secs(10);
/// Longest hold-down.
const HOLD_MAX: Duration = Duration::from_secs(600);
/// A node that was quiet this long has its falls forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(1_800);
/// Falls are counted so far; the hold-down has reached its longest by then.
const FLAPS_MAX: u32 = 7;
/// The brake looks at the losses of this time.
const BRAKE_WINDOW: Duration = Duration::from_secs(30);
/// In a smaller cluster losing more than half is no sign of anything but bad luck.
const BRAKE_NODES_MIN: usize = 6;
/// How many observers a verdict names.
const NAMED_MAX: usize = 5;

/// What the observers see of nodes.
pub(crate) struct Sight {
    observers: BTreeSet<NodeId>,
    /// Nodes that the leader has some sign of. Like everything here it does not depend on the plan, or planning would not be idempotent.
    live: BTreeSet<NodeId>,
}

/// What the observers see of one node.
pub(crate) struct Seen {
    unheard_by: Vec<NodeId>,
    heard: usize,
    leased: bool,
    enough: bool,
}

impl Sight {
    pub(crate) fn new(view: &View) -> Self {
        let live = view.nodes.iter().filter(|(node, facts)| {
            let heard = facts.leased || !facts.unheard_by.contains(&view.leader);
            heard && view.spec.nodes.contains_key(node)
        });
        Self { observers: view.observers(), live: live.map(|(node, _)| *node).chain([view.leader]).collect() }
    }

    pub(crate) fn of(&self, node: NodeId, facts: &NodeFacts) -> Seen {
        let others = self.observers.len() - usize::from(self.observers.contains(&node));
        let live = self.live.len() - usize::from(self.live.contains(&node));
        let says = |other: &&NodeId| **other != node && self.observers.contains(other);
        let unheard_by: Vec<NodeId> = facts.unheard_by.iter().filter(says).copied().collect();
        let enough = unheard_by.len() >= live.clamp(1, 2);
        Seen { heard: others - unheard_by.len(), unheard_by, leased: facts.leased, enough }
    }
}

impl Seen {
    fn is_down(&self) -> bool {
        self.enough && !self.leased
    }

    fn is_unfit(&self) -> bool {
        self.enough && self.unheard_by.len() > self.heard
    }

    /// Neither lost nor in doubt: at a tie a node stays what it was.
    pub(crate) fn is_reachable(&self) -> bool {
        (self.heard > self.unheard_by.len() || self.unheard_by.is_empty()) && !self.is_down()
    }
}

/// Judges, lifts, counts falls and sets the brake.
pub(super) fn judge(view: &View, draft: &mut Draft) {
    forget_removed(view, draft);
    let sight = Sight::new(view);
    lift(view, &sight, draft);
    let judged = if in_contact(view) { due(view, &sight, draft) } else { BTreeMap::new() };
    let mut fallen = BTreeSet::new();
    for (node, (kind, seen)) in judged {
        if !draft.plan.verdicts.contains_key(&node) {
            fallen.insert(node);
            if !long::is_away(view, node) {
                let flaps = draft.plan.flaps.entry(node).or_default();
                *flaps = (*flaps + 1).min(FLAPS_MAX);
            }
        }
        let incarnation = view.nodes.get(&node).map_or(view.spec.nodes[&node].incarnation, |facts| facts.incarnation);
        let evidence = evidence(view, kind, &seen);
        draft.plan.verdicts.insert(node, Verdict { kind, incarnation, since: draft.generation, evidence });
    }
    brake(view, draft, &fallen);
}

fn forget_removed(view: &View, draft: &mut Draft) {
    let plan = &mut draft.plan;
    plan.verdicts.retain(|node, _| view.spec.nodes.contains_key(node));
    plan.flaps.retain(|node, _| view.spec.nodes.contains_key(node));
}

/// A leader that does not hear a majority of the voters could not have its judgement adopted, and is more likely the one that is lost.
fn in_contact(view: &View) -> bool {
    let voters = || view.nodes.iter().filter(|(_, facts)| facts.raft == RaftFacts::Voter);
    let hears =
        |(node, facts): &(&NodeId, &NodeFacts)| **node == view.leader || !facts.unheard_by.contains(&view.leader);
    voters().next().is_none() || voters().filter(hears).count() * 2 > voters().count()
}

/// Who is to be judged now, and how.
fn due(view: &View, sight: &Sight, draft: &Draft) -> BTreeMap<NodeId, (VerdictKind, Seen)> {
    let led = view.now.since(view.leading_since);
    let mut due = BTreeMap::new();
    let mut nearly = BTreeMap::new();
    for (node, facts) in &view.nodes {
        if *node == view.leader || !view.spec.nodes.contains_key(node) {
            continue;
        }
        let seen = sight.of(*node, facts);
        let kind = if seen.is_down() && led >= DOWN_LEADING {
            VerdictKind::Down
        } else if seen.is_unfit() && led >= UNFIT_LEADING {
            VerdictKind::Unfit
        } else {
            continue;
        };
        if draft.plan.verdicts.get(node).is_some_and(|known| known.kind >= kind) {
            continue;
        }
        let never_heard = facts.report.is_none() && facts.incarnation == Incarnation(0);
        let patience = if never_heard { NEVER_HEARD } else { UNREACHED };
        if facts.steady_for >= patience {
            due.insert(*node, (kind, seen));
        } else if !never_heard {
            nearly.insert(*node, (kind, seen));
        }
    }
    due.append(&mut rest_of_lost_zones(view, draft, &due, nearly));
    due
}

/// When all of a zone is out of reach, the node found first speaks for the others: the zone is lost at once, not node by node.
fn rest_of_lost_zones(
    view: &View,
    draft: &Draft,
    due: &BTreeMap<NodeId, (VerdictKind, Seen)>,
    mut nearly: BTreeMap<NodeId, (VerdictKind, Seen)>,
) -> BTreeMap<NodeId, (VerdictKind, Seen)> {
    if due.is_empty() || nearly.is_empty() {
        return BTreeMap::new();
    }
    let zones: BTreeSet<_> = due.keys().map(|node| zone_of(view, *node)).collect();
    let mut alive = BTreeSet::new();
    for (node, spec) in &view.spec.nodes {
        let lost = due.contains_key(node) || nearly.contains_key(node) || draft.plan.verdicts.contains_key(node);
        if !lost {
            alive.insert((&spec.site, &spec.zone));
        }
    }
    nearly.retain(|node, _| zones.contains(&zone_of(view, *node)) && !alive.contains(&zone_of(view, *node)));
    nearly
}

fn zone_of(view: &View, node: NodeId) -> (&ZoneName, &ZoneName) {
    let spec = &view.spec.nodes[&node];
    (&spec.site, &spec.zone)
}

fn lift(view: &View, sight: &Sight, draft: &mut Draft) {
    let steady = |node: &NodeId, at_least: Duration| {
        let facts = view.nodes.get(node);
        facts.is_some_and(|facts| facts.steady_for >= at_least && sight.of(*node, facts).is_reachable())
    };
    let plan = &mut draft.plan;
    let flaps = &plan.flaps;
    plan.verdicts.retain(|node, verdict| {
        let hold = hold_down(flaps.get(node).copied().unwrap_or(1));
        let facts = view.nodes.get(node);
        let back = facts.is_some_and(|facts| long::is_back(view, *node, verdict, facts));
        let follows = facts.is_some_and(|facts| has_let_go(facts, verdict));
        !((steady(node, hold) && follows) || (back && steady(node, long::BACK_FOR)))
    });
    let verdicts = &plan.verdicts;
    plan.flaps.retain(|node, _| verdicts.contains_key(node) || !steady(node, FORGET_AFTER));
}

/// Whether the node follows the plan that judged it. That plan gave it nothing exclusive but what it has a long grant for, so it has let
/// go of all other.
fn has_let_go(facts: &NodeFacts, verdict: &Verdict) -> bool {
    match verdict.kind {
        VerdictKind::Unfit => true,
        VerdictKind::Down => {
            let follows = facts.report.as_ref().is_some_and(|report| report.generation >= verdict.since);
            follows || facts.released >= verdict.since
        }
    }
}

/// How long a node that fell `flaps` times must have been steady before it is trusted again.
fn hold_down(flaps: u32) -> Duration {
    HOLD_FIRST.saturating_mul(1 << flaps.clamp(1, FLAPS_MAX).saturating_sub(1)).min(HOLD_MAX)
}

fn brake(view: &View, draft: &mut Draft, fallen: &BTreeSet<NodeId>) {
    let nodes = view.spec.nodes.len();
    let plan = &mut draft.plan;
    let recent = view.losses.iter().filter(|(at, _)| view.now.since(*at) <= BRAKE_WINDOW).map(|(_, node)| *node);
    let recent: BTreeSet<NodeId> = recent.chain(fallen.iter().copied()).collect();
    let lost = |count: usize| nodes >= BRAKE_NODES_MIN && count * 2 > nodes;
    let at_once = recent.iter().filter(|node| plan.verdicts.contains_key(node)).count();
    // Once on it stays until half of the nodes are back (or forgotten): a new leader did not see them fall.
    plan.brake = lost(at_once) || (plan.brake && lost(plan.verdicts.len()));
}

fn evidence(view: &View, kind: VerdictKind, seen: &Seen) -> String {
    let mut who: Vec<String> = seen.unheard_by.iter().take(NAMED_MAX).map(|node| view.spec.name_of(*node)).collect();
    if seen.unheard_by.len() > NAMED_MAX {
        who.push("others".into());
    }
    let who = who.join(", ");
    match kind {
        VerdictKind::Unfit => format!("not heard by {who}"),
        VerdictKind::Down => format!("without a lease, not heard by {who}"),
    }
}

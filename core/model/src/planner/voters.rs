//! Who votes in the control group, and who stands ready to.
//!
//! Invariants: 1, 2, 3 or 5 voters by the number of live nodes; only a caught-up learner becomes a voter; the next change waits until
//! Raft has made the last one, unless a voter was lost meanwhile. A lost voter goes at once when another can take its place, or when
//! fewer voters can lose more than those that are left. Otherwise it keeps its vote: three with one lost can lose no less than two,
//! and five with one lost no less than three. It may come back, and until it does nothing is gained by two changes of the group.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Draft;
use super::ground::{Ground, Row};
use crate::id::*;
use crate::spec::Availability;
use crate::view::RaftFacts;

/// A node that came back after a verdict votes after this long: a group that changes with every flap is worse than a smaller one.
const RETURNED_STEADY: Duration = Duration::from_secs(30);
/// Learners kept ready beyond the voters. Two, so that a voter and a spare may fall together.
const SPARES: usize = 2;

/// One step towards the voters that the live nodes ask for.
pub(super) fn settle(ground: &Ground, draft: &mut Draft) {
    let before = (draft.plan.voters.clone(), draft.plan.spares.clone());
    vote(ground, draft);
    spare(ground, draft);
    draft.touched |= before != (draft.plan.voters.clone(), draft.plan.spares.clone());
}

/// How many vote among `live` nodes.
fn wanted(live: usize) -> usize {
    match live {
        0..=2 => live,
        3..=4 => 3,
        _ => 5,
    }
}

/// Two vote only where there are no more; four can lose no more than three.
fn is_sound(size: usize) -> bool {
    matches!(size, 1 | 2 | 3 | 5)
}

fn is_lost(ground: &Ground, node: NodeId) -> bool {
    ground.row(node).is_none_or(|row| ground.rows[row].lost)
}

fn goes(ground: &Ground, node: NodeId) -> bool {
    let row = ground.row(node).map(|row| &ground.rows[row]);
    row.is_none_or(|row| row.spec.availability == Availability::Leaving)
}

fn is_candidate(row: &Row) -> bool {
    let Some(facts) = row.facts else { return false };
    row.open
        && facts.raft == (RaftFacts::Learner { caught_up: true })
        && (!row.flapped || facts.steady_for >= RETURNED_STEADY)
}

fn vote(ground: &Ground, draft: &mut Draft) {
    let leader = ground.view.leader;
    let raft = |row: &&Row| row.facts.is_some_and(|facts| facts.raft == RaftFacts::Voter);
    let actual: BTreeSet<NodeId> = ground.rows.iter().filter(raft).map(|row| row.id).collect();
    if draft.plan.voters.is_empty() {
        draft.plan.voters = if actual.is_empty() { BTreeSet::from([leader]) } else { actual };
        return;
    }
    let voters = draft.plan.voters.clone();
    let (lost, kept): (Vec<NodeId>, Vec<NodeId>) =
        voters.iter().partition(|node| is_lost(ground, **node) || goes(ground, **node));
    let making = actual != voters.iter().copied().filter(|node| ground.row(*node).is_some()).collect();
    if making && lost.is_empty() {
        return;
    }
    let mut group: BTreeSet<NodeId> = kept.iter().copied().collect();
    let live = ground.rows.iter().filter(|row| !row.lost && row.spec.availability != Availability::Leaving).count();
    let want = wanted(live).max(1);
    let mut candidates: Vec<usize> = (0..ground.rows.len()).filter(|row| is_candidate(&ground.rows[*row])).collect();
    candidates.retain(|row| !voters.contains(&ground.rows[*row].id));
    let size = (1..=want).rev().find(|size| is_sound(*size) && group.len() + candidates.len() >= *size);
    let size = size.unwrap_or(1);
    while group.len() < size
        && let Some(row) = most_apart(ground, &group, &candidates)
    {
        group.insert(ground.rows[row].id);
        candidates.retain(|other| *other != row);
    }
    while group.len() > size
        && let Some(node) = most_crowded(ground, &group, leader)
    {
        group.remove(&node);
    }
    let staying: BTreeSet<NodeId> = voters.iter().copied().filter(|node| !goes(ground, *node)).collect();
    let gains = tolerance(group.len(), group.len()) > tolerance(staying.len(), kept.len());
    if group.len() < staying.len() && is_sound(staying.len()) && !gains {
        group = staying;
    }
    if group.is_empty() {
        group.insert(leader);
    }
    if let Some(node) = voters.iter().find(|node| group.contains(node) && is_lost(ground, **node)) {
        let text = format!("{} is lost, and no caught-up node can take its vote", ground.name(*node));
        draft.unmet("voters", text);
    }
    if group == voters && lost.is_empty() && !making {
        relieve(ground, draft, &candidates);
        return;
    }
    draft.plan.voters = group;
}

/// How many more of a group of `size` may be lost while it can decide, `live` of it being alive. Negative when it can't decide now.
fn tolerance(size: usize, live: usize) -> isize {
    live.cast_signed() - (size / 2 + 1).cast_signed()
}

/// A spare takes the vote of a draining node, or of one in a crowded zone when it is clearly better placed.
fn relieve(ground: &Ground, draft: &mut Draft, candidates: &[usize]) {
    let voters = &draft.plan.voters;
    let drains = |node: &&NodeId| {
        ground.row(**node).is_some_and(|row| ground.rows[row].spec.availability == Availability::Draining)
    };
    let swap = if let Some(draining) = voters.iter().find(drains) {
        let rest = voters.iter().copied().filter(|node| node != draining).collect();
        most_apart(ground, &rest, candidates).map(|row| (*draining, row))
    } else if draft.plan.brake {
        None
    } else {
        let counts = zone_counts(ground, voters);
        let crowded = most_crowded(ground, voters, ground.view.leader);
        crowded.zip(most_apart(ground, voters, candidates)).filter(|(node, row)| {
            let here = ground.row(*node).map_or(0, |row| counts[ground.rows[row].zone]);
            here >= counts[ground.rows[*row].zone] + 2
        })
    };
    if let Some((out, row)) = swap {
        draft.plan.voters.remove(&out);
        draft.plan.voters.insert(ground.rows[row].id);
    }
}

fn zone_counts(ground: &Ground, nodes: &BTreeSet<NodeId>) -> Vec<usize> {
    let mut counts = vec![0; ground.zones.len()];
    for row in nodes.iter().filter_map(|node| ground.row(*node)) {
        counts[ground.rows[row].zone] += 1;
    }
    counts
}

/// The row in the zone with the fewest of `group`.
fn most_apart(ground: &Ground, group: &BTreeSet<NodeId>, rows: &[usize]) -> Option<usize> {
    let counts = zone_counts(ground, group);
    rows.iter().copied().min_by_key(|row| (counts[ground.rows[*row].zone], ground.rows[*row].id))
}

/// The node in the zone with the most of `group`, never the leader.
fn most_crowded(ground: &Ground, group: &BTreeSet<NodeId>, leader: NodeId) -> Option<NodeId> {
    let counts = zone_counts(ground, group);
    let others = group.iter().copied().filter(|node| *node != leader);
    others.max_by_key(|node| (ground.row(*node).map_or(usize::MAX, |row| counts[ground.rows[row].zone]), *node))
}

fn spare(ground: &Ground, draft: &mut Draft) {
    let voters = &draft.plan.voters;
    let may = |row: &Row| row.open && !voters.contains(&row.id);
    let kept = draft.plan.spares.iter().copied();
    let mut spares: BTreeSet<NodeId> =
        kept.filter(|node| ground.row(*node).is_some_and(|row| stays_spare(&ground.rows[row], voters))).collect();
    let live = ground.rows.iter().filter(|row| !row.lost && row.spec.availability != Availability::Leaving).count();
    let fit = voters.iter().filter(|node| !is_lost(ground, **node) && !goes(ground, **node)).count();
    // While voters are missing, as many learn as are missing: they can only vote once they caught up.
    let want = SPARES.max(wanted(live).saturating_sub(fit));
    let mut rest: Vec<usize> = (0..ground.rows.len()).filter(|row| may(&ground.rows[*row])).collect();
    rest.retain(|row| !spares.contains(&ground.rows[*row].id));
    let mut group: BTreeSet<NodeId> = voters.union(&spares).copied().collect();
    while spares.len() < want
        && let Some(row) = most_apart(ground, &group, &rest)
    {
        rest.retain(|other| *other != row);
        spares.insert(ground.rows[row].id);
        group.insert(ground.rows[row].id);
    }
    while spares.len() > want
        && let Some(node) = most_crowded(ground, &spares, ground.view.leader)
    {
        spares.remove(&node);
    }
    draft.plan.spares = spares;
}

/// A spare that is briefly out of reach keeps its place; one that is lost, voting or told to go does not.
fn stays_spare(row: &Row, voters: &BTreeSet<NodeId>) -> bool {
    let stays = matches!(row.spec.availability, Availability::Open | Availability::Cordoned);
    !row.lost && stays && !voters.contains(&row.id)
}

//! What is stored, how it is, and what is done about it: a part of `status`, of `doctor` and of `why`, and what `bucket audit|scrub` show.
//!
//! All of it is what nodes said of themselves last, but what `audit` and `scrub` are told is asked at that moment.

use std::collections::{BTreeMap, BTreeSet};

use hirsel_model::report::{RoleFacts, RoleState};
use hirsel_model::spec::Availability;
use hirsel_model::storage::seen::{self, Health, Standing as Seen};
use hirsel_model::storage::{MANY_LOST, MOVE_MANY_AFTER, StorageFacts, floor, left, width};
use hirsel_model::{NodeId, RoleName, WallTime};
use hirsel_role::storage::{Auditing, Scrubbing, Told};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::sight::{Sight, Standing, people_order, rfc3339};

/// What is stored, and how it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct StorageStatus {
    /// `healthy`: audits counted every piece, and each was there. `unproven`: nothing is known to be missing, and no audit says so.
    /// `degraded`: something is missing. `unknown` from a newer agent.
    pub health: String,
    /// Why it is not healthy.
    pub because: Vec<String>,
    /// Nodes that keep data.
    pub nodes: u32,
    /// Of these, nodes whose disk works.
    pub working: u32,
    /// Size of their disks in bytes, without what is left free.
    pub disk_bytes: u64,
    /// What is free of that, in tenths of each disk.
    pub disk_free_bytes: u64,
    /// Buckets; this and the next five are counted by whoever leads the metadata, and not there while nobody does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buckets: Option<u64>,
    /// Objects, to three digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objects: Option<u64>,
    /// Bytes of all versions, to three digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Chunks that lack a piece somewhere; counted up to some thousand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degraded_chunks: Option<u64>,
    /// Pieces that wait to be made anew; counted up to some thousand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repairs_waiting: Option<u64>,
    /// Pieces that were made anew since all was whole the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repairs_done: Option<u64>,
    /// Partitions on their way to other nodes.
    pub moving: u32,
    /// Nodes that vote over the metadata.
    pub voters: Vec<String>,
    /// How many nodes the metadata bear to lose now.
    pub voters_can_lose: u32,
    /// What the last audits of all nodes counted; none before each made one.
    pub audit: Option<AuditCount>,
}

/// What audits counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AuditCount {
    /// When it ended; of several the earliest.
    pub at: Option<String>,
    /// How long ago that was.
    pub age_ms: u64,
    /// Pieces (copies or shards) that should be there.
    pub expected: u64,
    /// Of these, pieces that are.
    pub found: u64,
    /// Of these, pieces that are not, the damaged ones among them.
    pub missing: u64,
    /// Of these, pieces that are damaged.
    pub damaged: u64,
    /// Pieces that have no node, since fewer keep data than their class asks for.
    pub homeless: u64,
    /// Pieces that are on another node than they should be, besides.
    pub elsewhere: u64,
    /// Pieces that nobody could name any more, and that are removed.
    pub unknown: u64,
    /// Pieces whose writing is under way.
    pub open: u64,
}

/// How far a node is with its audit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NodeAudit {
    /// Which.
    pub node: String,
    /// Why it does not say, or why its last audit did not come to its end.
    pub error: Option<String>,
    /// Whether it answered.
    pub answered: bool,
    /// Audits that began since it started; one that is asked for now is the next.
    pub begun: u64,
    /// Of these, how many are over.
    pub ended: u64,
    /// Steps of the one under way that are done.
    pub step: u32,
    /// Steps it has.
    pub of: u32,
    /// Whether the last one counted everything that this node should have by the table as it is now; not while partitions are on their way.
    pub covers: bool,
    /// What the last one counted.
    pub count: AuditCount,
}

/// How far a node is with reading everything it has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NodeScrub {
    /// Which.
    pub node: String,
    /// Why it does not say, or why it does not read.
    pub error: Option<String>,
    /// Whether it answered.
    pub answered: bool,
    /// Passes that began because somebody asked, since it started; one that is asked for now is the next.
    pub begun: u64,
    /// Of these, how many are over.
    pub ended: u64,
    /// Chunks that the pass under way has read.
    pub chunks: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// How many of them were damaged.
    pub damaged: u64,
    /// Bytes there are to read.
    pub held_bytes: u64,
    /// When the last whole pass ended; none before the first since it started.
    pub last_at: Option<String>,
    /// Chunks that it read.
    pub last_chunks: u64,
    /// Bytes of them.
    pub last_bytes: u64,
    /// How many of them were damaged.
    pub last_damaged: u64,
}

/// What nodes that are heard say of what they store.
pub fn heard(sight: &Sight) -> BTreeMap<NodeId, &StorageFacts> {
    let alive = sight.state.spec.nodes.keys().filter(|node| sight.standing(**node) == Standing::Alive);
    let facts = alive.filter_map(|node| match &sight.role_report(*node, &RoleName::storage())?.facts {
        RoleFacts::Storage(facts) => Some((*node, facts)),
        RoleFacts::None | RoleFacts::Compute(_) | RoleFacts::Lb(_) | RoleFacts::Address(_) | RoleFacts::Unknown => None,
    });
    facts.collect()
}

/// How what is stored is; none while nothing is.
pub fn standing(sight: &Sight) -> Option<Seen> {
    let table = &sight.state.plan.storage;
    (!table.is_empty()).then(|| seen::standing(table, &heard(sight), sight.wall, |node| sight.name(node)))
}

/// What is stored, on one screen; none while nothing is.
pub fn storage(sight: &Sight) -> Option<StorageStatus> {
    let seen = standing(sight)?;
    let (table, heard) = (&sight.state.plan.storage, heard(sight));
    let totals = seen::totals(&heard);
    let works = |node: &&NodeId| heard.get(*node).is_some_and(|facts| facts.unable.is_none() && facts.bytes > 0);
    let holders = table.holders();
    let free = |facts: &&StorageFacts| facts.bytes / 10 * u64::from(facts.free);
    Some(StorageStatus {
        health: word(seen.health).into(),
        because: seen.because,
        nodes: count(holders.len()),
        working: count(holders.keys().filter(works).count()),
        disk_bytes: heard.values().map(|facts| facts.bytes).sum(),
        disk_free_bytes: heard.values().map(free).sum(),
        buckets: totals.map(|totals| totals.buckets),
        objects: totals.map(|totals| totals.objects),
        bytes: totals.map(|totals| totals.bytes),
        degraded_chunks: totals.map(|totals| totals.degraded),
        repairs_waiting: totals.map(|totals| totals.repairs),
        repairs_done: totals.map(|totals| totals.repaired),
        moving: count(seen.moving),
        voters: sight.names(&table.voters),
        voters_can_lose: count(voters_spare(sight).unwrap_or_default()),
        audit: seen.audit.map(|audit| counted(audit, sight.wall)),
    })
}

/// How many nodes the metadata bear to lose; none when they have no majority.
fn voters_spare(sight: &Sight) -> Option<usize> {
    let voters = &sight.state.plan.storage.voters;
    let live = voters.iter().filter(|node| sight.standing(**node) == Standing::Alive).count();
    live.checked_sub(voters.len() / 2 + 1)
}

/// What becomes of the metadata when nobody leads them and `lost` are given up, in words; none while somebody leads them.
pub fn prospect(sight: &Sight, lost: &BTreeSet<NodeId>) -> Option<String> {
    let heard = heard(sight);
    let rest = heard.iter().filter(|(node, _)| !lost.contains(node));
    let left = left::leaderless(rest.map(|(node, facts)| (*node, &*facts.group)));
    let is_member = |node: NodeId| sight.state.spec.nodes.contains_key(&node) && !lost.contains(&node);
    if let Some(prospect) = left::prospect(is_member, &left) {
        return Some(prospect.in_words(|node| sight.name(node)));
    }
    let voters = &sight.state.plan.storage.voters;
    let all = !voters.is_empty() && voters.is_subset(lost);
    all.then(|| "nobody who is left has the metadata of objects: what was stored is lost".into())
}

/// Why the whole cluster is less than healthy for what is stored: critical, and degraded. That fewer nodes keep data than a class asks for is no
/// such thing, nor is what waits to be made anew for a moment.
pub fn troubles(sight: &Sight) -> (Vec<String>, Vec<String>) {
    let table = &sight.state.plan.storage;
    if table.is_empty() {
        return Default::default();
    }
    let critical = (voters_spare(sight).is_none()).then(|| {
        let live = table.voters.iter().filter(|node| sight.standing(**node) == Standing::Alive).count();
        format!(
            "storage: {live} of {} voters of its metadata live: no object can be read or written",
            table.voters.len()
        )
    });
    let heard = heard(sight);
    let mut degraded = Vec::new();
    let missing: u64 = heard.values().map(|facts| facts.audit.wanted.saturating_sub(facts.audit.there)).sum();
    if missing > 0 {
        let s = if missing == 1 { "" } else { "s" };
        degraded.push(format!("storage: {missing} piece{s} missing or damaged, by the last audit"));
    }
    if let Some(why) = seen::totals(&heard).and_then(|totals| totals.stuck.as_ref()) {
        degraded.push(format!("storage: a piece cannot be made anew: {why}"));
    }
    let prospect = prospect(sight, &BTreeSet::new()).map(|words| format!("storage: {words}"));
    (critical.into_iter().chain(prospect).collect(), degraded)
}

/// What the plan waits for where many nodes that keep data are lost together, and until when at least; none where it does not wait.
pub fn waits(sight: &Sight) -> Option<String> {
    let plan = &sight.state.plan;
    let unmet = plan.unmet.iter().find(|unmet| unmet.subject == MANY_LOST)?;
    let lost = plan.verdicts.iter().filter(|(node, _)| plan.storage.holds(**node));
    let wait_ms = MOVE_MANY_AFTER.as_secs() * 1_000;
    let moves = lost.filter_map(|(_, verdict)| Some(WallTime(sight.adopted_at(verdict.since)?.0 + wait_ms)));
    // Whoever leads since later waits longer: he did not see them fall.
    let earliest = moves.filter(|at| *at > sight.wall).min().map(|at| format!(", not before {}", rfc3339(at)));
    Some(format!("{}{}", unmet.reason, earliest.unwrap_or_default()))
}

/// What is worth knowing besides: fewer nodes than a class asks for, disks that are nearly full, metadata that bear less than they should.
pub fn warnings(sight: &Sight) -> Vec<String> {
    let table = &sight.state.plan.storage;
    if table.is_empty() {
        return Vec::new();
    }
    let heard = heard(sight);
    let full = heard.iter().filter(|(_, facts)| facts.bytes > 0 && facts.free < 2).map(|(node, facts)| {
        format!("the disk of objects on {} has {} % free at most", sight.name(*node), u32::from(facts.free) * 10 + 10)
    });
    let bears = voters_spare(sight).unwrap_or_default();
    // Few nodes bear few losses, and that is no news; who votes and is not heard is, and so are fewer voters than there are nodes for.
    let nodes = table.holders().len().max(table.voters.len());
    let should = (nodes.saturating_sub(1) / 2).min(table.losses());
    let s = if bears == 1 { "" } else { "s" };
    let short = (bears < should).then(|| {
        format!("the metadata of objects bear the loss of {bears} node{s}, with {} voters", table.voters.len())
    });
    too_few(sight).into_iter().chain(full).chain(short).collect()
}

/// That fewer nodes keep data than the class of a bucket asks for.
pub fn too_few(sight: &Sight) -> Option<String> {
    let nodes = sight.state.plan.storage.holders().len();
    let widest = seen::totals(&heard(sight)).map_or(0, |totals| usize::from(totals.widest));
    (nodes < widest).then(|| {
        format!("{nodes} nodes keep data, and a bucket asks for {widest}: what is written to it bears fewer losses")
    })
}

/// Whether a majority of those who vote over the metadata is heard.
pub fn has_majority(sight: &Sight) -> bool {
    voters_spare(sight).is_some()
}

/// What of the data of `node` has nowhere to go, in words: a node takes the place of another in a partition that it is not in yet.
pub fn stays(sight: &Sight, node: NodeId) -> Option<String> {
    let table = &sight.state.plan.storage;
    let open = |id: &NodeId| {
        let spec = sight.state.spec.nodes.get(id);
        spec.is_some_and(|spec| spec.availability == Availability::Open) && sight.standing(*id) == Standing::Alive
    };
    let heard = heard(sight);
    let takers = heard.iter().filter(|(id, facts)| **id != node && open(id) && facts.bytes > 0 && facts.free > 0);
    let takers: BTreeSet<NodeId> = takers.map(|(id, _)| *id).collect();
    let kept = seen::totals(&heard).map(|totals| &totals.kept);
    let lists = table.partitions.iter().map(|(number, partition)| (width(*number), partition.target()));
    let lists = lists.filter(|(_, list)| list.contains(&node) && takers.iter().all(|taker| list.contains(taker)));
    let lists = lists.filter(|(width, _)| kept.is_none_or(|kept| kept.contains(width)));
    let (mut fewer, mut stuck) = (0, 0);
    for (width, list) in lists {
        *if list.len() > floor(width) { &mut fewer } else { &mut stuck } += 1;
    }
    let others = takers.len();
    match (stuck, fewer) {
        (0, 0) => None,
        (0, _) => Some(format!(
            "no other node can take its part of {fewer} partitions: what is stored in them bears one loss less ({others} nodes keep data)"
        )),
        (_, _) => Some(format!(
            "it stays until another node keeps data: no other can take its part of {stuck} partitions, and fewer would not do ({others} nodes \
             keep data)"
        )),
    }
}

/// What would be lost for good with `node`, in words: pieces of which too few are left on nodes that are heard.
pub fn lost_with(sight: &Sight, node: NodeId) -> Option<String> {
    let bears = usize::from(seen::bears(&heard(sight))?);
    let gone = |id: &NodeId| *id == node || sight.standing(*id) != Standing::Alive;
    let lists = sight.state.plan.storage.partitions.values().map(|partition| &partition.nodes);
    let lists = lists.filter(|list| list.contains(&node));
    let lost = lists.filter(|list| list.iter().filter(|id| gone(id)).count() > bears).count();
    (lost > 0).then(|| {
        format!("what is stored bears the loss of {bears} nodes, and of {lost} partitions more are gone: only it has the rest of them")
    })
}

/// Why a disk of objects is as it is, by node: its state, for `doctor`.
pub fn disks(sight: &Sight) -> Vec<(String, RoleState, Option<String>, Option<u8>)> {
    let told = sight.state.spec.nodes.keys().filter_map(|node| {
        let report = sight.role_report(*node, &RoleName::storage())?;
        let RoleFacts::Storage(facts) = &report.facts else { return None };
        let free = (facts.bytes > 0).then_some(facts.free);
        Some((sight.name(*node), report.state, facts.unable.clone().or_else(|| report.message.clone()), free))
    });
    let mut told: Vec<_> = told.collect();
    told.sort_by(|one, other| people_order(&one.0, &other.0));
    told
}

/// How far each node is with its audit.
pub fn audits(sight: &Sight, told: Told<Auditing>) -> Vec<NodeAudit> {
    let holders = sight.state.plan.storage.holders();
    let one = |(id, told): (NodeId, Result<Auditing, String>)| {
        let node = sight.name(id);
        match told {
            Err(error) => NodeAudit { node, error: Some(error), ..NodeAudit::default() },
            Ok(it) => NodeAudit {
                node,
                error: it.failed,
                answered: true,
                begun: it.begun,
                ended: it.ended,
                step: it.step,
                of: it.of,
                covers: holders.get(&id).is_none_or(|newest| it.last.table >= *newest),
                count: counted(it.last, sight.wall),
            },
        }
    };
    let mut all: Vec<NodeAudit> = told.into_iter().map(one).collect();
    all.sort_by(|one, other| people_order(&one.node, &other.node));
    all
}

/// How far each node is with reading everything it has.
pub fn scrubs(sight: &Sight, told: Told<Scrubbing>) -> Vec<NodeScrub> {
    let one = |(node, told): (NodeId, Result<Scrubbing, String>)| {
        let node = sight.name(node);
        match told {
            Err(error) => NodeScrub { node, error: Some(error), ..NodeScrub::default() },
            Ok(it) => NodeScrub {
                node,
                error: it.failed,
                answered: true,
                begun: it.begun,
                ended: it.ended,
                chunks: it.chunks,
                bytes: it.bytes,
                damaged: it.damaged,
                held_bytes: it.held,
                last_at: (it.last_ms > 0).then(|| rfc3339(WallTime(it.last_ms))),
                last_chunks: it.last_chunks,
                last_bytes: it.last_bytes,
                last_damaged: it.last_damaged,
            },
        }
    };
    let mut all: Vec<NodeScrub> = told.into_iter().map(one).collect();
    all.sort_by(|one, other| people_order(&one.node, &other.node));
    all
}

fn counted(audit: hirsel_model::storage::Audit, now: WallTime) -> AuditCount {
    AuditCount {
        at: (audit.at_ms > 0).then(|| rfc3339(WallTime(audit.at_ms))),
        age_ms: now.0.saturating_sub(audit.at_ms),
        expected: audit.wanted,
        found: audit.there,
        missing: audit.wanted.saturating_sub(audit.there),
        damaged: audit.damaged,
        homeless: audit.homeless,
        elsewhere: audit.elsewhere,
        unknown: audit.unknown,
        open: audit.open,
    }
}

fn word(health: Health) -> &'static str {
    match health {
        Health::Healthy => "healthy",
        Health::Unproven => "unproven",
        Health::Degraded => "degraded",
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

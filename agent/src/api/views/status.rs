//! `status`: one screen. Health means that all that this number of nodes allows is met, so one node alone can be healthy.

use std::collections::BTreeMap;

use hirsel_model::RoleName;
use hirsel_model::event::{Event, EventKind};
use hirsel_model::report::RoleState;
use hirsel_model::storage::MANY_LOST;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::addresses::{self, FloatingAddress};
use super::apps::{self, App};
use super::certificates;
use super::members::voters;
use super::roles::{self, RoleSlot};
use super::storage::{self, StorageStatus};
use super::{wanted, zones};
use crate::api::sight::{Sight, Standing, people_order, rfc3339};

/// The whole cluster on one screen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// `healthy`, `degraded`, `critical`, `no_leader`.
    pub health: String,
    /// Why it is not healthy.
    pub because: Vec<String>,
    /// Who leads.
    pub leader: Option<String>,
    /// Term of the control group.
    pub term: u64,
    /// Who votes.
    pub voters: Vec<String>,
    /// How many nodes are how.
    pub nodes: NodeCounts,
    /// What may vanish at once.
    pub can_lose: Losses,
    /// The roles.
    pub roles: Vec<RoleSummary>,
    /// The applications.
    pub apps: BTreeMap<String, AppSummary>,
    /// The last thing that went wrong.
    pub last_incident: Option<Incident>,
    /// The feature level of the cluster.
    #[serde(default)]
    pub level: u32,
    /// Number of the plan in force.
    pub generation: u64,
    /// Too much was lost at once: data is not moved and nothing is rebalanced.
    pub brake: bool,
    /// Exclusive instances that may act on though the agent of their node is away on purpose, by instance.
    #[serde(default)]
    pub long_grants: Vec<LongGrant>,
    /// Floating addresses.
    #[serde(default)]
    pub addresses: Vec<FloatingAddress>,
    /// What is stored; none while nothing is.
    #[serde(default)]
    pub storage: Option<StorageStatus>,
}

/// What may act on while the agent of its node is restarted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LongGrant {
    /// Which instance.
    pub instance: String,
    /// Where.
    pub node: String,
    /// Until about when, unless the agent is back before.
    pub until: String,
}

/// How many nodes are how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeCounts {
    /// Heard.
    pub alive: u32,
    /// Not heard for longer than usual.
    pub suspect: u32,
    /// Judged: most observers do not reach them.
    pub unfit: u32,
    /// Judged: gone.
    pub down: u32,
}

/// What may vanish at once without harm.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Losses {
    /// Any so many nodes.
    pub nodes: u32,
    /// Any so many zones.
    pub zones: u32,
}

/// A role in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoleSummary {
    /// The role.
    pub role: String,
    /// How many slots the plan has.
    pub slots: u32,
    /// How many of them run.
    pub running: u32,
    /// Who holds them.
    pub nodes: Vec<String>,
}

/// An application in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppSummary {
    /// `healthy`, `degraded`, `critical`, `stopped`.
    pub health: String,
    /// How many instances are wanted.
    pub wanted: u32,
    /// How many work.
    pub healthy: u32,
    /// Where it answers.
    pub endpoints: Vec<String>,
}

/// Something that went wrong, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Incident {
    /// The event it began with.
    pub index: u64,
    /// When.
    pub at: String,
    /// What it is about.
    pub subject: String,
    /// The sentence.
    pub message: String,
    /// How many events followed from it.
    pub followed: u32,
    /// Whether the declared state was seen to hold again.
    pub verified: bool,
}

/// The whole cluster on one screen.
pub fn status(sight: &Sight) -> Status {
    let apps = apps::apps(sight);
    let roles = roles::roles(sight);
    let (health, because) = health(sight, &apps, &roles);
    let can_lose = sight.can_lose();
    Status {
        health: health.into(),
        because,
        leader: sight.leader().map(|leader| sight.name(leader)),
        term: sight.leadership.term,
        voters: sight.names(voters(sight)),
        nodes: count(sight),
        can_lose: Losses { nodes: can_lose.nodes, zones: can_lose.zones },
        roles: summarize(&roles),
        apps: apps.into_iter().map(|app| (app.app.clone(), summary(app))).collect(),
        last_incident: last_incident(sight),
        level: sight.state.cluster.feature_level,
        generation: sight.state.plan.generation.0,
        brake: sight.state.plan.brake,
        long_grants: long_grants(sight),
        addresses: addresses::addresses(sight),
        storage: storage::storage(sight),
    }
}

/// What is worth knowing besides, and makes nothing less healthy: nodes that do not answer names, though they should; certificates that
/// end soon; zones whose keys somebody has to see to; what is stored less safely than somebody asked for.
pub fn warnings(sight: &Sight) -> Vec<String> {
    let silent = sight.state.spec.nodes.keys().filter(|node| {
        let report = sight.role_report(**node, &RoleName::dns());
        sight.standing(**node) == Standing::Alive && report.is_some_and(|report| report.state == RoleState::Failed)
    });
    let told = |node: String| format!("names are not answered on {node}; try: hirsel doctor --node {node}");
    let silent = sight.names(silent).into_iter().map(told);
    silent.chain(certificates::warnings(sight)).chain(zones::to_do(sight)).chain(storage::warnings(sight)).collect()
}

/// What was only assumed when the control group was founded anew is nobody's wish, and left out.
fn long_grants(sight: &Sight) -> Vec<LongGrant> {
    let asked = sight.state.long.iter().filter(|(_, long)| long.asked_by.is_some());
    let told = asked.map(|(id, long)| LongGrant {
        instance: id.to_string(),
        node: sight.name(long.node),
        until: rfc3339(long.until()),
    });
    told.collect()
}

fn count(sight: &Sight) -> NodeCounts {
    let mut counts = NodeCounts::default();
    for node in sight.state.spec.nodes.keys() {
        let counter = match sight.standing(*node) {
            Standing::Alive => &mut counts.alive,
            Standing::Suspect => &mut counts.suspect,
            Standing::Unfit => &mut counts.unfit,
            Standing::Down => &mut counts.down,
        };
        *counter += 1;
    }
    counts
}

fn summarize(slots: &[RoleSlot]) -> Vec<RoleSummary> {
    let mut summaries: Vec<RoleSummary> = Vec::new();
    for slot in slots {
        if summaries.last().is_none_or(|last| last.role != slot.role) {
            summaries.push(RoleSummary { role: slot.role.clone(), slots: 0, running: 0, nodes: Vec::new() });
        }
        let Some(summary) = summaries.last_mut() else { continue };
        summary.slots += 1;
        summary.running += u32::from(slot.state == "running");
        summary.nodes.push(slot.node.clone());
    }
    summaries.iter_mut().for_each(|summary| summary.nodes.sort_by(|one, other| people_order(one, other)));
    summaries
}

fn summary(app: App) -> AppSummary {
    AppSummary {
        health: app.health,
        wanted: app.services.iter().map(|service| service.wanted).sum(),
        healthy: app.services.iter().map(|service| service.healthy).sum(),
        endpoints: app.endpoints,
    }
}

/// How the cluster is, and why it is not healthy. Nodes that are missing make it degraded even when all work has moved: the operator
/// counted on them.
fn health(sight: &Sight, apps: &[App], roles: &[RoleSlot]) -> (&'static str, Vec<String>) {
    let mut critical = Vec::new();
    let mut degraded = Vec::new();
    for app in apps {
        for service in app.services.iter().filter(|service| service.healthy < service.wanted) {
            let line =
                format!("{}/{}: {} of {} instances work", app.app, service.service, service.healthy, service.wanted);
            if service.healthy == 0 { critical.push(line) } else { degraded.push(line) }
        }
    }
    for summary in summarize(roles).iter().filter(|summary| summary.running < summary.slots) {
        let line = format!("role {}: {} of {} slots run", summary.role, summary.running, summary.slots);
        if summary.running == 0 { critical.push(line) } else { degraded.push(line) }
    }
    critical.extend(addresses::missing(sight));
    let (lost, lacking) = storage::troubles(sight);
    critical.extend(lost);
    degraded.extend(lacking);
    for node in sight.state.spec.nodes.keys() {
        match sight.standing(*node) {
            Standing::Alive => {}
            standing => degraded.push(format!("{} is {}", sight.name(*node), standing.word())),
        }
    }
    let unmet = sight.state.plan.unmet.iter().filter(|unmet| unmet.subject != MANY_LOST);
    degraded.extend(unmet.map(|unmet| format!("{}: {}", unmet.subject, unmet.reason)));
    degraded.extend(storage::waits(sight).map(|waits| format!("storage: {waits}")));
    degraded.extend(wanted::troubles(sight));
    degraded.extend(certificates::expired(sight));
    degraded.extend(addresses::troubles(sight));
    if sight.state.plan.brake {
        degraded.push("the brake is on: many nodes were lost at once".into());
    }
    let word = match (sight.leader(), critical.is_empty(), degraded.is_empty()) {
        (None, _, _) => "no_leader",
        (Some(_), false, _) => "critical",
        (Some(_), true, false) => "degraded",
        (Some(_), true, true) => "healthy",
    };
    let leaderless = (sight.leader().is_none()).then(|| {
        "no leader is known; where a majority of the voters is lost for good: hirsel recover --plan".to_string()
    });
    (word, leaderless.into_iter().chain(critical).chain(degraded).collect())
}

/// The newest loss of a node or a zone, and what came of it.
fn last_incident(sight: &Sight) -> Option<Incident> {
    let events = &sight.state.log.events;
    let newest = events.iter().rev().find(|event| is_loss(event))?;
    // A node that is lost with its zone belongs to the zone's incident; where the log forgot the zone, the node stands for it.
    let root = newest.incident.and_then(|root| sight.state.log.get(root)).unwrap_or(newest);
    let incident = newest.incident.unwrap_or(newest.index);
    let chain = || events.iter().filter(|event| event.incident == Some(incident) && event.index != root.index);
    Some(Incident {
        index: root.index,
        at: rfc3339(root.at),
        subject: root.subject.clone(),
        message: root.message.clone(),
        followed: chain().map(|_| 1).sum(),
        verified: chain().any(|event| event.kind == EventKind::Verified),
    })
}

/// Whether an event tells of a node or a zone that was lost, in the planner's words for verdicts.
fn is_loss(event: &Event) -> bool {
    let told = |words: &str| {
        let rest = event.message.strip_prefix(&event.subject);
        rest.is_some_and(|rest| rest.trim_start().starts_with(words))
    };
    event.kind == EventKind::Happened && (event.subject.starts_with("zone/") || told("is down:") || told("is unfit:"))
}

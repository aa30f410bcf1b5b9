//! `members`: one line per node.

use hirsel_model::control::LeftNode;
use hirsel_model::spec::Availability;
use hirsel_model::{NodeId, RoleName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::sight::{Sight, people_order, rfc3339};

/// A node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Its number.
    pub id: u64,
    /// What people call it.
    pub name: String,
    /// Where the mesh reaches it.
    pub addr: String,
    /// Failure domain.
    pub zone: String,
    /// Data centre.
    pub site: String,
    /// `alive`, `suspect`, `unfit`, `down`; with those that are no members any more also `left`.
    pub liveness: String,
    /// Roles it holds by the plan.
    pub roles: Vec<String>,
    /// `leader`, `voter`, `spare`, `none`.
    pub raft: String,
    /// Version of its agent.
    pub version: String,
    /// The feature level its build understands; none while nothing was heard of it.
    #[serde(default)]
    pub level: Option<u32>,
    /// Restart counter.
    pub incarnation: u64,
    /// Use of its scarcest resource, 0 to 1; none when it was never heard.
    pub load: Option<f64>,
    /// How long ago it was heard; none when it never was.
    pub seen_ms: Option<u64>,
    /// What is special about it: cordoned, draining, judged and by whom.
    pub note: Option<String>,
}

/// Every node of the spec, by name.
pub fn members(sight: &Sight) -> Vec<Member> {
    let mut members: Vec<Member> = sight.state.spec.nodes.keys().map(|id| member(sight, *id)).collect();
    members.sort_by(|one, other| people_order(&one.name, &other.name));
    members
}

/// The nodes that were removed last, the newest one at the end.
pub fn left(sight: &Sight) -> Vec<Member> {
    sight.state.left.iter().map(gone).collect()
}

fn gone(left: &LeftNode) -> Member {
    let LeftNode { id, at, spec } = left;
    Member {
        id: id.0,
        name: spec.name.to_string(),
        addr: spec.addr.to_string(),
        zone: spec.zone.to_string(),
        site: spec.site.to_string(),
        liveness: "left".into(),
        roles: Vec::new(),
        raft: "none".into(),
        version: spec.version.clone(),
        level: None,
        incarnation: spec.incarnation.0,
        load: None,
        seen_ms: None,
        note: Some(format!("no member since {}", rfc3339(*at))),
    }
}

fn member(sight: &Sight, id: NodeId) -> Member {
    let spec = &sight.state.spec.nodes[&id];
    let seen = sight.live.nodes.get(&id);
    Member {
        id: id.0,
        name: spec.name.to_string(),
        addr: spec.addr.to_string(),
        zone: spec.zone.to_string(),
        site: spec.site.to_string(),
        liveness: sight.standing(id).word().into(),
        roles: roles_of(sight, id).map(ToString::to_string).collect(),
        raft: raft(sight, id).into(),
        version: spec.version.clone(),
        level: seen.filter(|seen| seen.incarnation.0 > 0).map(|seen| hirsel_model::feature::reported(seen.level)),
        incarnation: spec.incarnation.0,
        load: seen.map(|seen| f64::from(seen.load) / 10.0),
        seen_ms: if id == sight.me { Some(0) } else { sight.seen_ms.get(&id).copied() },
        note: note(sight, id),
    }
}

/// The roles that `node` holds a slot of.
pub fn roles_of(sight: &Sight, node: NodeId) -> impl Iterator<Item = &RoleName> {
    let held = move |slots: &std::collections::BTreeMap<_, hirsel_model::plan::Assignment>| {
        slots.values().any(|assignment| assignment.node == node)
    };
    sight.state.plan.roles.iter().filter(move |(_, slots)| held(slots)).map(|(role, _)| role)
}

/// Its place in the control group, in one word.
pub fn raft(sight: &Sight, node: NodeId) -> &'static str {
    if sight.leader() == Some(node) {
        "leader"
    } else if voters(sight).contains(&node) {
        "voter"
    } else if sight.state.plan.spares.contains(&node) {
        "spare"
    } else {
        "none"
    }
}

/// Who votes: as the control group says, or by the plan where this node is too far from it to know.
pub fn voters(sight: &Sight) -> &std::collections::BTreeSet<NodeId> {
    if sight.leadership.voters.is_empty() { &sight.state.plan.voters } else { &sight.leadership.voters }
}

fn note(sight: &Sight, node: NodeId) -> Option<String> {
    let availability = match sight.state.spec.nodes[&node].availability {
        Availability::Open => None,
        Availability::Cordoned => Some("cordoned".to_string()),
        Availability::Draining => Some("draining".to_string()),
        Availability::Leaving => Some("leaving".to_string()),
    };
    let verdict = sight.state.plan.verdicts.get(&node).map(|verdict| verdict.evidence.clone());
    let flaps = sight.state.plan.flaps.get(&node).map(|times| match times {
        1 => "came and went once".to_string(),
        times => format!("came and went {times} times"),
    });
    let held = super::addresses::held_by(sight, node).into_iter().map(|address| format!("holds {address}"));
    let failed = sight.live.nodes.get(&node).into_iter().flat_map(|seen| &seen.roles);
    let failed =
        failed.filter_map(|(role, report)| report.message.as_ref().map(|message| format!("{role}: {message}")));
    let parts: Vec<String> = availability.into_iter().chain(held).chain(verdict).chain(flaps).chain(failed).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

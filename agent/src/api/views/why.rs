//! `why`: a reason as it was recorded when it was decided. Nothing is rebuilt from present state: the chain is read from the event
//! log, and where the log does not reach back that far, from the reason the plan keeps with each assignment.

use hirsel_model::dnssec;
use hirsel_model::event::{Event, EventKind};
use hirsel_model::plan::{Because, Reason};
use hirsel_model::{Generation, InstanceId, NodeId, RoleName, Slot};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{addresses, storage, wanted, zones};
use crate::api::error::ApiError;
use crate::api::sight::{Sight, rfc3339};

/// Longest chain that is followed. A cause always lies before its effect, so a chain ends; a person reads no more than this.
const CHAIN_MAX: usize = 32;
/// How many events that followed are told.
const AFTERWARDS_MAX: usize = 16;

/// The reason for something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Why {
    /// What it is about.
    pub subject: String,
    /// When it was decided.
    pub since: Option<String>,
    /// The chain, from the decision back to what it began with.
    pub because: Vec<Link>,
    /// What was decided.
    pub chosen: Chosen,
    /// Who was considered and not chosen.
    pub rejected: Vec<RejectedNode>,
    /// How to undo it, where that is possible.
    pub undo: Option<String>,
    /// What followed from the same beginning.
    pub afterwards: Vec<Link>,
}

/// A link of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Link {
    /// The event; none when the log does not hold it any more.
    pub event_index: Option<u64>,
    /// The sentence.
    pub text: String,
    /// What it is about.
    pub subject: String,
    /// When.
    pub at: Option<String>,
}

/// What was decided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Chosen {
    /// On which node.
    pub node: Option<String>,
    /// The decision in words.
    pub text: String,
    /// The plan that decided.
    pub generation: Option<u64>,
}

/// A node that was considered and not chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RejectedNode {
    /// Which.
    pub node: String,
    /// Why not.
    pub reason: String,
}

/// What a question is about, once understood.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Thing {
    CanLose,
    Voters,
    Node(NodeId),
    Role(RoleName),
    Slot(RoleName, Slot),
    App(String),
    Service(String),
    Instance(InstanceId),
    Address(std::net::IpAddr),
    /// A zone that is signed, or shall be.
    Zone(String),
    /// A bucket that an application wants, by what it is called in the store.
    Bucket(String),
    /// Nothing of today, but the log speaks of it.
    Past(String),
}

/// Why `thing` is as it is: a node, `ROLE`, `ROLE/SLOT`, an application, `APP/SERVICE`, an instance, a floating address, a signed zone, a bucket of an application, `voters`, `can_lose`.
pub fn why(sight: &Sight, thing: &str) -> Result<Why, ApiError> {
    let understood = understand(sight, thing)?;
    if understood == Thing::CanLose {
        return Ok(why_can_lose(sight));
    }
    let subject = subject(sight, &understood);
    let event = deciding_event(sight, &understood, &subject);
    let planned = planned(sight, &understood);
    let unmet_subject = match &understood {
        Thing::Address(address) => format!("address/{address}"),
        _ => subject.clone(),
    };
    let unmet = sight.state.plan.unmet.iter().filter(|unmet| unmet.subject == unmet_subject).map(|unmet| Link {
        event_index: None,
        text: format!("waits: {}", unmet.reason),
        subject: subject.clone(),
        at: None,
    });
    let mut because: Vec<Link> = unmet
        .chain(long_grants(sight, &understood))
        .chain(held(sight, &understood))
        .chain(kept(sight, &understood))
        .collect();
    because.extend(event.map(|event| chain(sight, event)).unwrap_or_default());
    if event.is_none()
        && because.iter().all(|link| link.event_index.is_none())
        && let Some(planned) = &planned
    {
        because.push(Link {
            event_index: None,
            text: planned.reason.text.clone(),
            subject: subject.clone(),
            at: sight.adopted_at(planned.since).map(rfc3339),
        });
    }
    if because.is_empty() {
        because.push(Link { event_index: None, text: plain(sight, &understood), subject: subject.clone(), at: None });
    }
    Ok(Why {
        since: event.map(|event| rfc3339(event.at)).or_else(|| because.iter().find_map(|link| link.at.clone())),
        chosen: chosen(sight, event, planned.as_ref()),
        rejected: event.map(|event| rejected(sight, event)).unwrap_or_default(),
        undo: undo(sight, &understood, planned.as_ref().map(|planned| &planned.reason.because)),
        afterwards: event.map(|event| afterwards(sight, event)).unwrap_or_default(),
        subject,
        because,
    })
}

/// Why something may act though the agent of its node is away, or may not be started elsewhere.
fn long_grants<'a>(sight: &'a Sight, thing: &'a Thing) -> impl Iterator<Item = Link> + 'a {
    let about = move |id: &InstanceId, node: NodeId| match thing {
        Thing::Node(asked) => *asked == node,
        Thing::App(app) => id.app.as_str() == app,
        Thing::Service(service) => format!("{}/{}", id.app, id.service) == *service,
        Thing::Instance(asked) => id == asked,
        Thing::Past(subject) => id.to_string() == *subject,
        Thing::CanLose
        | Thing::Voters
        | Thing::Role(_)
        | Thing::Slot(..)
        | Thing::Address(_)
        | Thing::Zone(_)
        | Thing::Bucket(_) => false,
    };
    let asked = sight.state.long.iter().filter(move |(id, long)| long.asked_by.is_some() && about(id, long.node));
    asked.map(|(id, long)| Link {
        event_index: None,
        text: format!(
            "the agent of {} was stopped on purpose: {id} may act on there until about {}, and nothing takes its place before",
            sight.name(long.node),
            rfc3339(long.until())
        ),
        subject: id.to_string(),
        at: Some(rfc3339(long.at)),
    })
}

/// Who holds an address now, how a zone is signed, or who wants a bucket.
fn held<'a>(sight: &'a Sight, thing: &'a Thing) -> impl Iterator<Item = Link> + 'a {
    let words = match thing {
        Thing::Address(address) => addresses::words(sight, *address).map(|text| (address.to_string(), text)),
        Thing::Zone(zone) => zones::zone(sight, zone).map(|it| (zone.clone(), zones::words(&it))),
        Thing::Bucket(name) => wanted::why(sight, name).map(|text| (name.clone(), text)),
        _ => None,
    };
    words.into_iter().map(|(subject, text)| Link { event_index: None, text, subject, at: None })
}

/// That what a lost node keeps is not moved yet, asked of the node or of the role.
fn kept(sight: &Sight, thing: &Thing) -> Option<Link> {
    let plan = &sight.state.plan;
    let subject = match thing {
        Thing::Node(node) if plan.verdicts.contains_key(node) && plan.storage.holds(*node) => sight.name(*node),
        Thing::Role(role) if *role == RoleName::storage() => format!("role/{role}"),
        _ => return None,
    };
    Some(Link { event_index: None, text: format!("waits: {}", storage::waits(sight)?), subject, at: None })
}

fn why_can_lose(sight: &Sight) -> Why {
    let can = sight.can_lose();
    let link = |text: String| Link { event_index: None, text, subject: "can_lose".into(), at: None };
    Why {
        subject: "can_lose".into(),
        since: None,
        because: vec![link(can.limit)],
        chosen: Chosen {
            text: format!("any {} nodes and any {} zones may vanish at once", can.nodes, can.zones),
            ..Chosen::default()
        },
        rejected: Vec::new(),
        undo: None,
        afterwards: Vec::new(),
    }
}

fn understand(sight: &Sight, thing: &str) -> Result<Thing, ApiError> {
    let spec = &sight.state.spec;
    let plan = &sight.state.plan;
    let (thing, explicit_role) = match thing.strip_prefix("role/") {
        Some(rest) => (rest, true),
        None => (thing.trim_end_matches('/'), false),
    };
    let role = |name: &str| plan.roles.keys().find(|role| role.as_str() == name).cloned();
    if let Some(address) = floating(thing).filter(|address| spec.addresses.contains_key(address)) {
        return Ok(Thing::Address(address));
    }
    if let Some(zone) = zones::zone(sight, &thing.trim_end_matches('.').to_ascii_lowercase()) {
        return Ok(Thing::Zone(zone.zone));
    }
    if let Some(bucket) = wanted::meant(sight, thing) {
        return Ok(Thing::Bucket(bucket));
    }
    let parts: Vec<&str> = thing.split('/').collect();
    let understood = match parts.as_slice() {
        ["can_lose" | "can-lose"] => Some(Thing::CanLose),
        ["voters"] => Some(Thing::Voters),
        [name] if !explicit_role && spec.node_named(name).is_some() => {
            spec.node_named(name).map(|(id, _)| Thing::Node(id))
        }
        [name] if !explicit_role && spec.apps.keys().any(|app| app.as_str() == *name) => {
            Some(Thing::App((*name).into()))
        }
        [name] => role(name).map(Thing::Role),
        [name, slot] if role(name).is_some() => match slot.parse() {
            Ok(slot) => role(name).map(|role| Thing::Slot(role, Slot(slot))),
            Err(_) => None,
        },
        [app, service] => spec
            .apps
            .iter()
            .find(|(name, spec)| name.as_str() == *app && spec.services.keys().any(|name| name.as_str() == *service))
            .map(|_| Thing::Service(thing.into())),
        [_, _, _] => thing.parse().ok().filter(|id| plan.instances.contains_key(id)).map(Thing::Instance),
        _ => None,
    };
    let logged = || {
        let spoken_of = |event: &Event| event.subject == thing || event.subject == format!("role/{thing}");
        sight
            .state
            .log
            .events
            .iter()
            .rev()
            .find(|event| spoken_of(event))
            .map(|event| Thing::Past(event.subject.clone()))
    };
    understood.or_else(logged).ok_or_else(|| not_found(sight, thing))
}

/// An address, with the bits of its network or without.
fn floating(thing: &str) -> Option<std::net::IpAddr> {
    let thing = thing.strip_prefix("address/").unwrap_or(thing);
    thing.split_once('/').map_or(thing, |(address, _)| address).parse().ok()
}

fn not_found(sight: &Sight, thing: &str) -> ApiError {
    let spec = &sight.state.spec;
    let plan = &sight.state.plan;
    let slots = plan.roles.iter().flat_map(|(role, slots)| slots.keys().map(move |slot| format!("{role}/{slot}")));
    let services =
        spec.apps.iter().flat_map(|(app, spec)| spec.services.keys().map(move |service| format!("{app}/{service}")));
    let known: Vec<String> = spec
        .nodes
        .values()
        .map(|node| node.name.to_string())
        .chain(plan.roles.keys().map(ToString::to_string))
        .chain(spec.apps.keys().map(ToString::to_string))
        .chain(slots)
        .chain(services)
        .chain(plan.instances.keys().map(ToString::to_string))
        .chain(spec.addresses.keys().map(ToString::to_string))
        .chain(["voters".to_string(), "can_lose".to_string()])
        .collect();
    ApiError::not_found("node, role, app, service, instance or address", thing, known.iter().map(String::as_str))
}

/// The subject as the log writes it.
fn subject(sight: &Sight, thing: &Thing) -> String {
    match thing {
        Thing::CanLose => "can_lose".into(),
        Thing::Voters => "voters".into(),
        Thing::Node(node) => sight.name(*node),
        Thing::Role(role) => format!("role/{role}"),
        Thing::Slot(role, slot) => format!("role/{role}/{slot}"),
        Thing::App(text) | Thing::Service(text) | Thing::Past(text) => text.clone(),
        Thing::Instance(id) => id.to_string(),
        Thing::Address(address) => address.to_string(),
        Thing::Zone(zone) => dnssec::subject(zone),
        Thing::Bucket(name) => format!("bucket/{name}"),
    }
}

/// The latest decision about `subject`; for a whole (a role, an application, a service) the latest about any part of it. Without a
/// decision, the latest event of any kind.
fn deciding_event<'a>(sight: &'a Sight, thing: &Thing, subject: &str) -> Option<&'a Event> {
    let prefix = format!("{subject}/");
    let parts_too = matches!(thing, Thing::Role(_) | Thing::App(_) | Thing::Service(_) | Thing::Past(_));
    let about = |event: &&Event| event.subject == subject || (parts_too && event.subject.starts_with(&prefix));
    let events = || sight.state.log.iter().rev().filter(about);
    events().find(|event| event.kind == EventKind::Decided).or_else(|| events().next())
}

fn chain(sight: &Sight, event: &Event) -> Vec<Link> {
    let next =
        |event: &&Event| event.cause.filter(|cause| *cause < event.index).and_then(|cause| numbered(sight, cause));
    let mut links: Vec<Link> = std::iter::successors(Some(event), next).take(CHAIN_MAX).map(link).collect();
    let last = std::iter::successors(Some(event), next).take(CHAIN_MAX).last();
    if let Some(lost) = last.and_then(|last| last.cause).filter(|cause| numbered(sight, *cause).is_none()) {
        let text = format!("event {lost}, which the log does not hold any more");
        links.push(Link { event_index: Some(lost), text, subject: event.subject.clone(), at: None });
    }
    links
}

fn numbered(sight: &Sight, index: u64) -> Option<&Event> {
    let events = &sight.state.log.events;
    let found = events.get(events.partition_point(|event| event.index < index)).map(|event| &**event);
    found.filter(|event| event.index == index)
}

fn link(event: &Event) -> Link {
    Link {
        event_index: Some(event.index),
        text: event.message.clone(),
        subject: event.subject.clone(),
        at: Some(rfc3339(event.at)),
    }
}

fn afterwards(sight: &Sight, event: &Event) -> Vec<Link> {
    let Some(incident) = event.incident else { return Vec::new() };
    let later = sight.state.log.iter().filter(|later| later.index > event.index && later.incident == Some(incident));
    later.take(AFTERWARDS_MAX).map(link).collect()
}

fn rejected(sight: &Sight, event: &Event) -> Vec<RejectedNode> {
    let told = |rejected: &hirsel_model::event::Rejected| RejectedNode {
        node: sight.name(rejected.node),
        reason: rejected.reason.clone(),
    };
    event.rejected.iter().map(told).collect()
}

/// What the plan keeps about an assignment: its reason, recorded when it was decided.
struct Planned {
    node: NodeId,
    reason: Reason,
    since: Generation,
}

fn planned(sight: &Sight, thing: &Thing) -> Option<Planned> {
    let plan = &sight.state.plan;
    match thing {
        Thing::Slot(role, slot) => plan.roles.get(role)?.get(slot).map(|assignment| Planned {
            node: assignment.node,
            reason: assignment.reason.clone(),
            since: assignment.since,
        }),
        Thing::Instance(id) => plan.instances.get(id).map(|assignment| Planned {
            node: assignment.node,
            reason: assignment.reason.clone(),
            since: assignment.since,
        }),
        Thing::Address(address) => plan.addresses.get(address).and_then(|list| {
            let node = addresses::holders(sight, *address).first().copied();
            let node = node.or_else(|| list.candidates.first().map(|candidate| candidate.node))?;
            Some(Planned { node, reason: list.reason.clone(), since: list.since })
        }),
        _ => None,
    }
}

fn chosen(sight: &Sight, event: Option<&Event>, planned: Option<&Planned>) -> Chosen {
    let text = event.map(|event| event.message.clone());
    Chosen {
        node: planned.map(|planned| sight.name(planned.node)),
        text: text.or_else(|| planned.map(|planned| planned.reason.text.clone())).unwrap_or_default(),
        generation: planned.map(|planned| planned.since.0).or_else(|| event.map(|event| event.generation.0)),
    }
}

fn plain(sight: &Sight, thing: &Thing) -> String {
    match thing {
        Thing::Node(node) => match sight.state.plan.verdicts.get(node) {
            Some(verdict) => verdict.evidence.clone(),
            None => "nothing was decided about this node that the log still holds".into(),
        },
        _ => "nothing was decided about it that the log still holds".into(),
    }
}

/// The command that takes back what the decision followed from.
fn undo(sight: &Sight, thing: &Thing, because: Option<&Because>) -> Option<String> {
    match (because, thing) {
        (Some(Because::Pinned), Thing::Slot(role, slot)) => {
            let holder = sight.state.plan.roles.get(role)?.get(slot)?.node;
            Some(format!("hirsel role unpin {role} {}", sight.name(holder)))
        }
        (Some(Because::Moved { node }), Thing::Slot(role, slot)) => {
            let holder = sight.state.plan.roles.get(role)?.get(slot)?.node;
            Some(format!("hirsel role move {role} {} --to {}", sight.name(holder), sight.name(*node)))
        }
        (Some(Because::Drained { node }), _) => Some(format!("hirsel uncordon {}", sight.name(*node))),
        (Some(Because::Applied { app, .. } | Because::Updated { app, .. }), _) => {
            Some(format!("apply the manifest of {app} as it was before: hirsel apply FILE"))
        }
        (Some(Because::Lost { node }), _) => Some(format!("nothing to undo: start {} again", sight.name(*node))),
        (Some(Because::Reverted { app, .. }), _) => Some(format!("correct {app}, then: hirsel apply FILE")),
        (_, Thing::Node(node)) => {
            use hirsel_model::spec::Availability;
            let spec = sight.state.spec.nodes.get(node)?;
            (spec.availability != Availability::Open).then(|| format!("hirsel uncordon {}", spec.name))
        }
        _ => None,
    }
}

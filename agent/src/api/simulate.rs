//! What losses and departures would come to, answered by the planner itself on a copy of the control state. Nothing is changed, and
//! any node answers.

use std::collections::{BTreeMap, BTreeSet};

use hirsel_model::control::{Command, ControlState, Entry, Outcome};
use hirsel_model::plan::{Phase, Plan};
use hirsel_model::resilience::can_lose;
use hirsel_model::spec::Availability;
use hirsel_model::storage::seen;
use hirsel_model::view::Liveness;
use hirsel_model::{InstanceId, NodeId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{ApiError, Code};
use super::forecast::{Count, Placed, SlotChange, counts, placements, settle, slot_changes, without_log};
use super::sight::{Sight, Standing};
use super::views::status::Losses;
use super::views::storage;

/// What may be asked for, in words.
const KINDS: &str = "kill:NODE, zone:ZONE, leave:NODE or drain:NODE";
/// Most events of one question. A cluster of a thousand nodes has fewer zones.
const EVENTS_MAX: usize = 1_000;

/// What would come of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Simulated {
    /// What was supposed to happen.
    pub events: Vec<String>,
    /// Nodes that would be lost.
    pub lost: Vec<String>,
    /// Instances that would start.
    pub start: Vec<Placed>,
    /// Instances that would end, with their node or because they move away from it.
    pub stop: Vec<Placed>,
    /// Slots of roles that would change hands.
    pub roles: Vec<SlotChange>,
    /// How many instances run per service, before and after.
    pub counts: Vec<Count>,
    /// Who votes, and who would.
    pub voters: Voters,
    /// Whether enough voters would live to decide anything.
    pub quorum: bool,
    /// What would not be met because of it, and why; what is unmet now in the same way is left out.
    pub unmet: Vec<String>,
    /// What may vanish at once now.
    pub can_lose_before: Losses,
    /// What may vanish at once when all of this is done.
    pub can_lose: Losses,
    /// What limits that.
    pub limit: String,
    /// Whether the forecast reaches the end.
    pub complete: bool,
}

/// Voters of the control group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Voters {
    /// Now.
    pub before: Vec<String>,
    /// Then.
    pub after: Vec<String>,
}

/// One thing that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Happening {
    /// These nodes are gone at once.
    Lost(BTreeSet<NodeId>),
    /// An operator takes a node out.
    Out(NodeId, Availability),
}

/// What would come of `events`, which happen together.
pub async fn simulate(sight: &Sight, events: &[String]) -> Result<Simulated, ApiError> {
    let events: Vec<&str> = events.iter().map(|event| event.trim()).filter(|event| !event.is_empty()).collect();
    if events.is_empty() {
        return Err(ApiError::new(Code::Usage, format!("nothing to simulate; expected {KINDS}"))
            .next("hirsel simulate kill:NODE"));
    }
    if events.len() > EVENTS_MAX {
        let message = format!("{} events exceed the limit of {EVENTS_MAX}", events.len());
        return Err(ApiError::new(Code::TooLarge, message));
    }
    let mut state = without_log(&sight.state);
    let mut gone = BTreeSet::new();
    for event in &events {
        match read(sight, event)? {
            Happening::Lost(nodes) => gone.extend(nodes),
            Happening::Out(node, availability) => take_out(sight, &mut state, node, availability)?,
        }
    }
    let (still, _) = settle(sight, without_log(&sight.state), &BTreeSet::new()).await;
    let (then, complete) = settle(sight, state.clone(), &gone).await;
    state.spec = then.spec().clone();
    state.plan = then.plan().clone();
    let (mut start, mut stop) = placements(sight, still.plan(), then.plan());
    let lives = |node: &NodeId| {
        let heard = sight.standing(*node) == Standing::Alive && !gone.contains(node);
        heard && state.spec.nodes.contains_key(node)
    };
    let (live, needed) = then.quorum();
    let quorum = live >= needed;
    // What is unmet anyway is not what these events do.
    let news = state.plan.unmet.iter().filter(|unmet| !still.plan().unmet.contains(unmet));
    let mut unmet: Vec<String> = news.map(|unmet| format!("{}: {}", unmet.subject, unmet.reason)).collect();
    let mut roles = slot_changes(sight, still.plan(), then.plan());
    if !quorum {
        // The plan stays as it is, and what it puts on lost nodes is lost.
        let dead = state.plan.instances.iter().filter(|(_, placed)| !lives(&placed.node));
        let dead = dead.map(|(id, placed)| (id.to_string(), sight.name(placed.node)));
        stop = dead.map(|(instance, node)| Placed { instance, node, because: String::new() }).collect();
        start.clear();
        roles.clear();
        let votes = then.voter_count();
        unmet.insert(
            0,
            format!("voters: {live} of {votes} would live, {needed} are needed: nothing moves until more return"),
        );
        let heard = |node: &NodeId| sight.standing(*node) == Standing::Alive;
        let short = short_services(&sight.state, heard);
        unmet.extend(short_services(&state, lives).into_iter().filter(|line| !short.contains(line)));
    }
    let lost = sight.names(&gone);
    for placed in &mut stop {
        // Why it was put there is no answer here.
        placed.because = match lost.contains(&placed.node) {
            true => format!("{} is lost", placed.node),
            false => format!("it moves away from {}", placed.node),
        };
    }
    let before = sight.can_lose();
    let liveness: BTreeMap<NodeId, Liveness> =
        state.spec.nodes.keys().filter(|node| lives(node)).map(|node| (*node, Liveness::Alive)).collect();
    let healthy: BTreeSet<InstanceId> =
        state.plan.instances.iter().filter(|(_, placed)| lives(&placed.node)).map(|(id, _)| id.clone()).collect();
    let after = can_lose(&state, &liveness, &healthy, seen::bears(&storage::heard(sight)));
    Ok(Simulated {
        events: events.iter().map(ToString::to_string).collect(),
        lost,
        roles,
        counts: counts(still.plan(), &alive_part(&state.plan, lives)),
        voters: Voters { before: sight.names(&still.plan().voters), after: sight.names(&state.plan.voters) },
        start,
        stop,
        quorum,
        unmet,
        can_lose_before: Losses { nodes: before.nodes, zones: before.zones },
        can_lose: Losses { nodes: after.nodes, zones: after.zones },
        limit: after.limit,
        complete,
    })
}

/// Reads one event.
fn read(sight: &Sight, event: &str) -> Result<Happening, ApiError> {
    let nodes = &sight.state.spec.nodes;
    let expected = || {
        let shown: String = event.chars().take(100).collect();
        ApiError::new(Code::Usage, format!("{shown:?} is no event; expected {KINDS}")).next("hirsel simulate --help")
    };
    let (kind, name) = event.split_once(':').ok_or_else(expected)?;
    let node = || super::handlers::nodes::node_named(sight, name);
    match kind {
        "kill" => Ok(Happening::Lost([node()?].into())),
        "leave" => Ok(Happening::Out(node()?, Availability::Leaving)),
        "drain" => Ok(Happening::Out(node()?, Availability::Draining)),
        "zone" => {
            let inside: BTreeSet<NodeId> =
                nodes.iter().filter(|(_, node)| node.zone.as_str() == name).map(|(id, _)| *id).collect();
            if inside.is_empty() {
                let known: BTreeSet<&str> = nodes.values().map(|node| node.zone.as_str()).collect();
                return Err(ApiError::not_found("zone", name, known).next("hirsel members"));
            }
            Ok(Happening::Lost(inside))
        }
        "traffic" => {
            let message = "traffic moves nothing here: no service of this cluster scales with its load".to_string();
            Err(ApiError::new(Code::Usage, message).next("hirsel scale APP/SERVICE=N --plan"))
        }
        _ => Err(expected()),
    }
}

fn take_out(sight: &Sight, state: &mut ControlState, node: NodeId, availability: Availability) -> Result<(), ApiError> {
    let command = Command::SetAvailability { node, availability };
    let entry = Entry { at: sight.wall, by: String::new(), if_index: None, command };
    match state.apply(state.applied.next(), entry) {
        Outcome::Refused(refusal) => Err(refusal.into()),
        Outcome::Done { .. } | Outcome::Admitted { .. } | Outcome::Lengthened { .. } => Ok(()),
    }
}

fn alive_part(plan: &Plan, lives: impl Fn(&NodeId) -> bool) -> Plan {
    let mut alive = plan.clone();
    alive.instances.retain(|_, placed| lives(&placed.node));
    alive
}

/// Services of which fewer than wanted would be left, when nobody can decide to start more.
fn short_services(state: &ControlState, lives: impl Fn(&NodeId) -> bool) -> Vec<String> {
    let mut short = Vec::new();
    for (app, spec) in state.spec.apps.iter().filter(|(_, spec)| !spec.stopped) {
        for (service, wanted) in &spec.services {
            let of = |(id, placed): &(&InstanceId, &hirsel_model::plan::InstanceAssignment)| {
                id.app == *app && id.service == *service && placed.phase == Phase::Active && lives(&placed.node)
            };
            let left = state.plan.instances.iter().filter(of).count();
            if left < wanted.replicas.min as usize {
                short.push(format!("{app}/{service}: {left} of {} would be left", wanted.replicas.min));
            }
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fixture::{altered, sight};

    async fn of(sight: &Sight, events: &[&str]) -> Result<Simulated, ApiError> {
        simulate(sight, &events.iter().map(ToString::to_string).collect::<Vec<_>>()).await
    }

    #[tokio::test]
    async fn a_lost_node_loses_what_it_has_and_another_takes_it() {
        let told = of(&sight(), &["kill:n2"]).await.unwrap();
        assert!(told.complete && told.quorum, "{told:?}");
        assert_eq!(
            (told.lost.as_slice(), told.start.len(), told.stop.len()),
            (&["n2".to_string()][..], 1, 1),
            "{told:?}"
        );
        assert_eq!((told.stop[0].node.as_str(), told.start[0].node.as_str()), ("n2", "n3"), "{told:?}");
        assert!(told.start[0].because.contains("n2 is lost"), "{told:?}");
        assert_eq!(told.stop[0].because, "n2 is lost");
        assert!(told.roles.iter().all(|change| change.after.as_deref() != Some("n2")), "{told:?}");
        assert_eq!((told.can_lose_before.nodes, told.can_lose.nodes), (1, 0), "{told:?}");
    }

    #[tokio::test]
    async fn a_zone_is_all_of_its_nodes_and_events_happen_together() {
        let sight = altered(|state| {
            let zone = state.spec.nodes[&NodeId(1)].zone.clone();
            state.spec.nodes.get_mut(&NodeId(3)).unwrap().zone = zone;
        });
        let zone = of(&sight, &["zone:a"]).await.unwrap();
        let both = of(&sight, &["kill:n1", "kill:n3"]).await.unwrap();
        assert_eq!(zone.lost, ["n1", "n3"]);
        assert_eq!(Simulated { events: both.events.clone(), ..zone }, both);
    }

    #[tokio::test]
    async fn without_a_majority_nothing_moves_and_it_says_so() {
        let told = of(&sight(), &["kill:n1", "kill:n2"]).await.unwrap();
        assert!(!told.quorum && told.start.is_empty() && told.roles.is_empty(), "{told:?}");
        assert!(told.unmet[0].contains("1 of 3 would live, 2 are needed"), "{told:?}");
        assert!(told.unmet.contains(&"shop/web: 0 of 2 would be left".to_string()), "{told:?}");
        assert_eq!(told.stop.len(), 2, "{told:?}");
    }

    #[tokio::test]
    async fn what_is_unmet_anyway_is_not_put_down_to_the_event() {
        let sight = altered(|state| {
            let mut stuck = state.spec.apps.values().next().unwrap().clone();
            stuck.routes.clear();
            let service = stuck.services.values_mut().next().unwrap();
            service.constraints.insert("zone".into(), "nowhere".into());
            state.spec.apps.insert("stuck".parse().unwrap(), stuck);
        });
        let told = of(&sight, &["drain:n3"]).await.unwrap();
        assert!(!told.unmet.iter().any(|unmet| unmet.starts_with("stuck/")), "{told:?}");
    }

    #[tokio::test]
    async fn who_leaves_hands_everything_over_and_is_gone() {
        let told = of(&sight(), &["leave:n2"]).await.unwrap();
        assert!(told.complete && told.lost.is_empty(), "{told:?}");
        assert!(!told.voters.after.contains(&"n2".to_string()), "{told:?}");
        assert!(told.start.iter().all(|placed| placed.node != "n2") && told.start.len() == 1, "{told:?}");
    }

    #[tokio::test]
    async fn what_is_no_event_is_refused_with_the_nearest_word() {
        for (event, says) in [
            ("", "nothing to simulate"),
            ("n2", "kill:NODE"),
            ("explode:n2", "kill:NODE"),
            ("kill:n22", "did you mean"),
            ("zone:aa", "did you mean"),
            ("traffic:shop*3", "scales with its load"),
        ] {
            let error = of(&sight(), &[event]).await.unwrap_err();
            assert!(error.message.contains(says), "{event}: {error:?}");
        }
        let last = of(&sight(), &["leave:n1", "leave:n2", "leave:n3"]).await.unwrap_err();
        assert_eq!(last.code, Code::Unsafe, "{last:?}");
    }
}

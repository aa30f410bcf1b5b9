//! What a change would do: it is carried out on a copy of the control state, and the planner plans on it, step by step, with every
//! instance that it starts taken as healthy, until nothing changes any more. The same pure functions decide later, so the forecast
//! holds as long as the world does not change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hirsel_model::control::{Command, ControlState, Entry, Outcome};
use hirsel_model::forecast::{Ahead, Start};
use hirsel_model::plan::{Assignment, Plan};
use hirsel_model::spec::{BucketSpec, NameSpec, PathKind, RouteSpec, ZoneSpec, store_name};
use hirsel_model::{AppName, BucketLabel, InstanceId, NodeId, RoleName};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::task::yield_now;
use utoipa::ToSchema;

use super::error::ApiError;
use super::sight::{Sight, Standing, rfc3339};
use super::views::zones;

/// Most steps planned ahead. A rolling update takes three per instance; beyond this the forecast says that it is not complete.
const STEPS_MAX: usize = 600;
/// Fewest steps planned ahead, however large the cluster is.
const STEPS_MIN: usize = 20;
/// Steps times instances and nodes: keeps the answer within the time a client waits, at some microseconds for each.
const WORK_MAX: usize = 500_000;
/// What a change would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Forecast {
    /// What was asked, in words.
    pub command: String,
    /// Whether anything would change.
    pub changes: bool,
    /// What would change in what is wanted.
    pub spec: Vec<Difference>,
    /// Instances that would start.
    pub start: Vec<Placed>,
    /// Instances that would stop.
    pub stop: Vec<Placed>,
    /// Slots of roles that would change hands.
    pub roles: Vec<SlotChange>,
    /// How many instances run per service, before and after.
    pub counts: Vec<Count>,
    /// What would not be met, and why.
    pub unmet: Vec<String>,
    /// Whether the forecast reaches the end.
    pub complete: bool,
}

/// A value that would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// Which, for example `apps.shop.services.web.replicas.min`.
    pub path: String,
    /// What it is.
    pub before: Option<String>,
    /// What it would be.
    pub after: Option<String>,
}

/// An instance on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Placed {
    /// `APP/SERVICE/NUMBER`.
    pub instance: String,
    /// Where.
    pub node: String,
    /// Why.
    pub because: String,
}

/// A slot that would change hands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SlotChange {
    /// The role.
    pub role: String,
    /// Which copy.
    pub slot: u16,
    /// Who holds it.
    pub before: Option<String>,
    /// Who would.
    pub after: Option<String>,
    /// Why.
    pub because: Option<String>,
}

/// Instances of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Count {
    /// `APP/SERVICE`.
    pub service: String,
    /// How many the plan has.
    pub before: u32,
    /// How many it would have.
    pub after: u32,
}

/// What `command` would do, or why it would be refused. Planning ahead takes a while on a large cluster: after each step, which takes
/// no longer than one of a leader, others get their turn.
pub async fn forecast(sight: &Sight, words: &str, entry: Entry) -> Result<Forecast, ApiError> {
    let mut after = without_log(&sight.state);
    let rolls = matches!(entry.command, Command::Restart { .. });
    if let Outcome::Refused(refusal) = after.apply(sight.state.applied.next(), entry) {
        return Err(refusal.into());
    }
    let spec = differences(&sight.state, &after);
    let nothing_wanted = spec.is_empty() && !rolls;
    // What would happen anyway is not what this change does: both futures are planned and compared.
    let nobody = BTreeSet::new();
    let (still, _) = settle(sight, without_log(&sight.state), &nobody).await;
    let (then, complete) = if nothing_wanted { (still.clone(), true) } else { settle(sight, after, &nobody).await };
    let (still, then) = (still.plan(), then.plan());
    let (start, stop) = placements(sight, still, then);
    let roles = slot_changes(sight, still, then);
    let unmet = then.unmet.iter().map(|unmet| format!("{}: {}", unmet.subject, unmet.reason)).collect();
    Ok(Forecast {
        command: words.into(),
        changes: !spec.is_empty() || !start.is_empty() || !stop.is_empty() || !roles.is_empty(),
        counts: counts(&sight.state.plan, then),
        spec,
        start,
        stop,
        roles,
        unmet,
        complete,
    })
}

/// The log is large and decides nothing.
pub(super) fn without_log(state: &ControlState) -> ControlState {
    ControlState {
        cluster: state.cluster.clone(),
        spec: state.spec.clone(),
        spec_index: state.spec_index,
        plan: state.plan.clone(),
        tokens: state.tokens.clone(),
        secrets: state.secrets.clone(),
        certificates: state.certificates.clone(),
        acme: state.acme.clone(),
        signing: state.signing.clone(),
        next_node: state.next_node,
        applied: state.applied,
        ..ControlState::default()
    }
}

/// Plans until nothing changes any more; says whether it came to that. `gone` is lost besides what is not heard now.
pub(super) async fn settle(sight: &Sight, state: ControlState, gone: &BTreeSet<NodeId>) -> (Ahead, bool) {
    let size = state.plan.instances.len() + state.spec.nodes.len() + 1;
    let mut ahead = foretell(sight, state, gone);
    for _ in 0..(WORK_MAX / size).clamp(STEPS_MIN, STEPS_MAX) {
        if !ahead.step() {
            return (ahead, true);
        }
        yield_now().await;
    }
    (ahead, false)
}

/// The future of `state`, as seen from here.
pub(super) fn foretell(sight: &Sight, state: ControlState, gone: &BTreeSet<NodeId>) -> Ahead {
    let silent = state.spec.nodes.keys().copied().filter(|node| sight.standing(*node) != Standing::Alive);
    let voters = Some(&sight.leadership.voters).filter(|voters| !voters.is_empty());
    Ahead::new(Start {
        gone: silent.chain(gone.iter().copied()).collect(),
        voters: voters.unwrap_or(&state.plan.voters).clone(),
        leader: sight.leader().unwrap_or(sight.me),
        level: state.cluster.feature_level,
        former: Arc::new(sight.state.former.clone()),
        spec_index: state.spec_index,
        spec: state.spec,
        plan: state.plan,
    })
}

pub(super) fn placements(sight: &Sight, before: &Plan, after: &Plan) -> (Vec<Placed>, Vec<Placed>) {
    let only_in = |one: &Plan, other: &Plan| -> Vec<Placed> {
        let same_place = |id: &InstanceId, node: NodeId, revision| {
            other.instances.get(id).is_some_and(|there| there.node == node && there.revision == revision)
        };
        let here =
            one.instances.iter().filter(|(id, assignment)| !same_place(id, assignment.node, assignment.revision));
        here.map(|(id, assignment)| Placed {
            instance: id.to_string(),
            node: sight.name(assignment.node),
            because: assignment.reason.text.clone(),
        })
        .collect()
    };
    (only_in(after, before), only_in(before, after))
}

pub(super) fn slot_changes(sight: &Sight, before: &Plan, after: &Plan) -> Vec<SlotChange> {
    fn holders(plan: &Plan) -> BTreeMap<(&RoleName, u16), &Assignment> {
        let roles = plan.roles.iter();
        roles.flat_map(|(role, slots)| slots.iter().map(move |(slot, held)| ((role, slot.0), held))).collect()
    }
    let (before, after) = (holders(before), holders(after));
    let slots: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let node = |held: Option<&&Assignment>| held.map(|held| held.node);
    slots
        .into_iter()
        .filter(|slot| node(before.get(slot)) != node(after.get(slot)))
        .map(|slot| SlotChange {
            role: slot.0.to_string(),
            slot: slot.1,
            before: node(before.get(slot)).map(|node| sight.name(node)),
            after: node(after.get(slot)).map(|node| sight.name(node)),
            because: after.get(slot).map(|held| held.reason.text.clone()),
        })
        .collect()
}

pub(super) fn counts(before: &Plan, after: &Plan) -> Vec<Count> {
    let mut counts: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    let service = |id: &InstanceId| format!("{}/{}", id.app, id.service);
    before.instances.keys().for_each(|id| counts.entry(service(id)).or_default().0 += 1);
    after.instances.keys().for_each(|id| counts.entry(service(id)).or_default().1 += 1);
    let changed = counts.into_iter().filter(|(_, (before, after))| before != after);
    changed.map(|(service, (before, after))| Count { service, before, after }).collect()
}

/// Every value of the spec that differs, revisions aside: those only count.
fn differences(before: &ControlState, after: &ControlState) -> Vec<Difference> {
    let flat = |state: &ControlState| {
        let mut values = BTreeMap::new();
        let mut apps = serde_json::to_value(&state.spec.apps).unwrap_or_default();
        for (name, app) in &state.spec.apps {
            apps[name.as_str()]["routes"] = Value::Object(by_name(&app.routes));
            if !app.buckets.is_empty() {
                let told = |(label, bucket)| (String::from(Clone::clone(label)), bucket_value(name, label, bucket));
                apps[name.as_str()]["buckets"] = app.buckets.iter().map(told).collect();
            }
            if !app.zones.is_empty() {
                apps[name.as_str()]["zones"] =
                    app.zones.iter().map(|(name, zone)| (name.clone(), zone_value(zone))).collect();
            }
        }
        flatten("apps", &apps, &mut values);
        for node in state.spec.nodes.values() {
            let availability = serde_json::to_value(node.availability).unwrap_or_default();
            flatten(&format!("nodes.{}.availability", node.name), &availability, &mut values);
        }
        for (role, spec) in &state.spec.roles {
            flatten(&format!("roles.{role}.count"), &serde_json::to_value(spec.count).unwrap_or_default(), &mut values);
            for pin in &spec.pins {
                values.insert(format!("roles.{role}.pins.{}", state.spec.name_of(*pin)), "pinned".into());
            }
        }
        for (role, from, to) in
            state.spec.roles.iter().flat_map(|(role, spec)| spec.moves.iter().map(move |(from, to)| (role, from, to)))
        {
            let (from, to) = (state.spec.name_of(*from), state.spec.name_of(*to));
            values.insert(format!("roles.{role}.moves.{from}"), to);
        }
        for (name, it) in &state.certificates.named {
            let domains: Vec<&str> = it.facts.names.iter().map(String::as_str).collect();
            let told =
                format!("{}, until {}, {}", domains.join(" "), rfc3339(it.facts.not_after), it.facts.fingerprint);
            values.insert(format!("certificates.{name}"), told);
        }
        if let Some(acme) = &state.acme.settings {
            let told = [Some(acme.directory.clone()), acme.way.map(|way| way.to_string())];
            let kid = acme.binding.as_ref().map(|binding| format!("external account {}", binding.kid));
            let told: Vec<String> =
                told.into_iter().flatten().chain(acme.contacts.iter().cloned()).chain(kid).collect();
            values.insert("acme".into(), told.join(", "));
        }
        for host in &state.acme.wishes {
            values.insert(format!("acme.wishes.{host}"), "another certificate is got now".into());
        }
        for (zone, it) in &state.signing.zones {
            let keys: Vec<String> = it.keys.iter().map(|key| key.version.to_string()).collect();
            let wanted = if it.wanted { ", another one is wanted" } else { "" };
            let told = format!("{}, keys {}{wanted}", zones::word(it.step), keys.join(" "));
            values.insert(format!("dns.{zone}"), told);
        }
        if let Some(webhook) = &state.cluster.webhook {
            values.insert("webhook".into(), webhook.clone());
        }
        values
    };
    let (before, after) = (flat(before), flat(after));
    let paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    paths
        .into_iter()
        .filter(|path| before.get(*path) != after.get(*path))
        .map(|path| Difference {
            path: path.clone(),
            before: before.get(path).cloned(),
            after: after.get(path).cloned(),
        })
        .collect()
}

/// A bucket, with what goes without saying.
fn bucket_value(app: &AppName, label: &BucketLabel, bucket: &BucketSpec) -> Value {
    serde_json::json!({ "is": store_name(app, label), "safety": bucket.safety.to_string(),
        "when_short": bucket.when_short, "quota_bytes": bucket.quota_bytes, "versioning": bucket.versioning,
        "public": bucket.public })
}

/// A zone with one line for each name.
fn zone_value(zone: &ZoneSpec) -> Value {
    let ttl = |ttl: Option<u32>| ttl.map(|ttl| format!("ttl {ttl} s"));
    let line = |name: &NameSpec| {
        let data = name.data.iter().map(ToString::to_string).chain(ttl(name.ttl_s));
        data.collect::<Vec<_>>().join(", ")
    };
    let records: Map<String, Value> =
        zone.records.iter().map(|(owner, name)| (owner.clone(), line(name).into())).collect();
    serde_json::json!({ "is": "handed over", "ttl": ttl(zone.ttl_s), "dnssec": zone.dnssec.then_some("signed"),
        "records": records })
}

/// Each route under the host and path it is for, so that a change of one is not one of all; those for the same path by their place.
/// Which comes first matters to expressions and conditions alone.
fn by_name(routes: &[RouteSpec]) -> Map<String, Value> {
    let mut named = Map::new();
    let ordered = routes.iter().filter(|route| route.kind == PathKind::Regex || route.when.count() > 0);
    let ordered: Vec<String> = ordered.map(ToString::to_string).collect();
    if ordered.len() > 1 {
        named.insert("(order)".into(), ordered.join(", ").into());
    }
    for (number, route) in (1..).zip(routes) {
        let name = route.to_string();
        let name = if named.contains_key(&name) { format!("{name} ({number})") } else { name };
        let mut value = serde_json::to_value(route).unwrap_or_default();
        if let Some(fields) = value.as_object_mut() {
            // They are the name.
            ["host", "path", "kind"].into_iter().for_each(|field| drop(fields.remove(field)));
        }
        named.insert(name, value);
    }
    named
}

fn flatten(path: &str, value: &Value, values: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields.iter().filter(|(name, _)| *name != "revision") {
                flatten(&format!("{path}.{name}"), value, values);
            }
        }
        Value::Null => {}
        Value::String(text) => {
            values.insert(path.into(), text.clone());
        }
        other => {
            values.insert(path.into(), other.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use hirsel_model::spec::{AppSpec, Availability, Conditions, Policy, Replicas};

    use super::*;
    use crate::api::fixture::{altered, sight};

    async fn of(sight: &Sight, command: Command) -> Forecast {
        forecast(sight, "test", Entry { at: sight.wall, by: "test".into(), if_index: None, command }).await.unwrap()
    }

    fn shop(sight: &Sight) -> hirsel_model::spec::AppSpec {
        sight.state.spec.apps.values().next().unwrap().clone()
    }

    #[tokio::test]
    async fn what_is_applied_again_changes_nothing() {
        let sight = sight();
        let told = of(&sight, Command::ApplyApp { app: "shop".parse().unwrap(), spec: shop(&sight) }).await;
        assert!(!told.changes && told.complete, "{told:?}");
    }

    #[tokio::test]
    async fn a_new_command_replaces_every_instance_and_comes_to_rest() {
        let sight = sight();
        let mut spec = shop(&sight);
        spec.services.values_mut().for_each(|service| service.command.push("--new".into()));
        let told = of(&sight, Command::ApplyApp { app: "shop".parse().unwrap(), spec }).await;
        assert!(told.complete, "{told:?}");
        assert_eq!((told.start.len(), told.stop.len(), told.counts.len()), (2, 2, 0), "{told:?}");
        assert_eq!(
            told.spec.iter().map(|change| change.path.as_str()).collect::<Vec<_>>(),
            ["apps.shop.services.web.command"]
        );
    }

    #[tokio::test]
    async fn a_route_that_changes_is_told_by_host_path_and_what_changes() {
        let sight = sight();
        let mut spec = shop(&sight);
        spec.routes[0].actions.balance.policy = Policy::RoundRobin;
        spec.routes[0].actions.balance.slow_start_ms = Some(10_000);
        let told = of(&sight, Command::ApplyApp { app: "shop".parse().unwrap(), spec: spec.clone() }).await;
        let shown: Vec<_> = told.spec.iter().map(|it| (it.path.as_str(), it.after.as_deref())).collect();
        let (policy, start) = (
            ("apps.shop.routes.*/.actions.balance.policy", Some("round-robin")),
            ("apps.shop.routes.*/.actions.balance.slow_start_ms", Some("10000")),
        );
        assert_eq!(shown, [policy, start]);
        assert!(told.changes && told.start.is_empty() && told.stop.is_empty(), "no instance is replaced: {told:?}");
        // What is tried first is part of what is wanted.
        let mut conditional = spec.clone();
        for value in ["1", "2"] {
            let when =
                Conditions { headers: [("x-a".to_owned(), Some(value.to_owned()))].into(), ..Default::default() };
            conditional.routes.push(RouteSpec { when, ..spec.routes[0].clone() });
        }
        let mut swapped = conditional.clone();
        swapped.routes.swap(1, 2);
        let flat = |spec: &AppSpec| serde_json::to_string(&by_name(&spec.routes)).unwrap();
        assert_ne!(flat(&conditional), flat(&swapped));
    }

    #[tokio::test]
    async fn a_record_that_changes_is_told_by_its_name_and_replaces_nothing() {
        let sight = sight();
        let mut spec = shop(&sight);
        let mut zone = hirsel_model::spec::ZoneSpec { ttl_s: Some(60), ..Default::default() };
        let mail = zone.records.entry("mail".into()).or_default();
        mail.data.extend(["A 192.0.2.7".parse().unwrap(), "TXT one, two".parse().unwrap()]);
        spec.zones.insert("example.com".into(), zone.into());
        let told = of(&sight, Command::ApplyApp { app: "shop".parse().unwrap(), spec: spec.clone() }).await;
        let shown: Vec<_> = told.spec.iter().map(|it| (it.path.as_str(), it.after.as_deref())).collect();
        let expected = [
            ("apps.shop.zones.example.com.is", Some("handed over")),
            ("apps.shop.zones.example.com.records.mail", Some("A 192.0.2.7, TXT one, two")),
            ("apps.shop.zones.example.com.ttl", Some("ttl 60 s")),
        ];
        assert_eq!(shown, expected);
        assert!(told.complete && told.start.is_empty() && told.stop.is_empty(), "{told:?}");
    }

    #[tokio::test]
    async fn a_bucket_is_told_by_what_it_is_called_and_how_it_is_kept() {
        let sight = sight();
        let mut spec = shop(&sight);
        let bucket = BucketSpec { quota_bytes: Some(9), ..BucketSpec::default() };
        spec.buckets.insert("media".parse().unwrap(), bucket);
        let told = of(&sight, Command::ApplyApp { app: "shop".parse().unwrap(), spec }).await;
        let shown: Vec<_> = told.spec.iter().map(|it| (it.path.as_str(), it.after.as_deref())).collect();
        let expected = [
            ("apps.shop.buckets.media.is", Some("shop-media")),
            ("apps.shop.buckets.media.quota_bytes", Some("9")),
            ("apps.shop.buckets.media.safety", Some("3 copies")),
            ("apps.shop.buckets.media.when_short", Some("degrade")),
        ];
        assert_eq!(shown, expected);
        assert!(told.start.is_empty() && told.stop.is_empty(), "no instance is replaced: {told:?}");
    }

    #[tokio::test]
    async fn scaling_starts_or_stops_as_many_as_are_missing() {
        for (count, start, stop) in [(3, 1, 0), (1, 0, 1), (0, 0, 2)] {
            let command = Command::Scale {
                app: "shop".parse().unwrap(),
                service: "web".parse().unwrap(),
                replicas: Replicas { min: count, max: count },
            };
            let told = of(&sight(), command).await;
            assert_eq!((told.start.len(), told.stop.len(), told.complete), (start, stop, true), "{told:?}");
        }
    }

    #[tokio::test]
    async fn a_restart_replaces_instances_though_nothing_else_is_wanted() {
        let told = of(&sight(), Command::Restart { app: "shop".parse().unwrap(), service: None }).await;
        assert_eq!((told.spec.len(), told.start.len(), told.stop.len()), (0, 2, 2), "{told:?}");
    }

    #[tokio::test]
    async fn a_drain_moves_what_the_node_holds() {
        let command = Command::SetAvailability { node: NodeId(2), availability: Availability::Draining };
        let told = of(&sight(), command).await;
        assert!(
            told.start.iter().all(|placed| placed.node != "n2") && told.stop.iter().any(|placed| placed.node == "n2")
        );
        assert!(told.roles.iter().any(|change| change.before.as_deref() == Some("n2")), "{told:?}");
    }

    #[tokio::test]
    async fn what_would_be_refused_says_so_and_what_happens_anyway_is_not_told() {
        let command = Command::RemoveApp { app: "nothing".parse().unwrap() };
        let entry = Entry { at: sight().wall, by: String::new(), if_index: None, command };
        assert_eq!(forecast(&sight(), "", entry).await.unwrap_err().code, crate::api::error::Code::NotFound);
        // An instance is missing, and the planner will place it in any case.
        let behind = altered(|state| {
            state.plan.instances.pop_first();
        });
        let told = of(&behind, Command::SetWebhook { url: Some("http://127.0.0.1/".into()) }).await;
        assert_eq!((told.start.len(), told.stop.len(), told.spec.len()), (0, 0, 1), "{told:?}");
    }

    #[tokio::test]
    async fn others_get_their_turn_while_it_is_planned_ahead() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let turns = Arc::new(AtomicUsize::new(0));
        let counted = turns.clone();
        // On one thread, as in simulation.
        let other = tokio::spawn(async move {
            loop {
                counted.fetch_add(1, Ordering::Relaxed);
                yield_now().await;
            }
        });
        of(&sight(), Command::Restart { app: "shop".parse().unwrap(), service: None }).await;
        assert!(turns.load(Ordering::Relaxed) > 2, "{turns:?}");
        other.abort();
    }
}

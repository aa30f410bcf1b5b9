//! What must hold, looked at after each election, each decision, each commit, and when all has healed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hirsel_model::control::ControlState;
use hirsel_model::plan::{Phase, Plan};
use hirsel_model::planner::change::change;
use hirsel_model::planner::long;
use hirsel_model::spec::Availability;
use hirsel_model::view::View;
use hirsel_model::*;

use super::world::World;

/// What a checker found.
pub(super) struct Found {
    pub checker: &'static str,
    pub message: String,
}

pub(super) fn found<T>(checker: &'static str, message: impl Into<String>) -> Result<T, Found> {
    Err(Found { checker, message: message.into() })
}

/// How long after a disturbance a node may still be judged for it.
const GUILTY_FOR: Duration = Duration::from_secs(15);

/// What the checkers remember.
#[derive(Default)]
pub(super) struct Checks {
    /// By epoch of the foundation, and term.
    leaders: BTreeMap<(u64, u64), NodeId>,
    /// Until when a node has something to answer for; what is not listed may not be judged.
    guilty: BTreeMap<NodeId, Timestamp>,
    /// Nodes whose work is counted, with the times it was given or taken.
    watched: BTreeMap<NodeId, u32>,
    /// Nothing may move.
    still: bool,
}

impl Checks {
    pub fn disturbed(&mut self, node: NodeId, until: Timestamp) {
        let known = self.guilty.entry(node).or_insert(until);
        *known = (*known).max(until + GUILTY_FOR);
    }

    pub fn watch(&mut self, node: NodeId) {
        self.watched.insert(node, 0);
    }

    pub fn moves(&self, node: NodeId) -> u32 {
        self.watched.get(&node).copied().unwrap_or(0)
    }

    pub fn hold_still(&mut self, still: bool) {
        self.still = still;
    }

    /// One leader per term of a foundation.
    pub fn elected(&mut self, epoch: u64, term: u64, node: NodeId) -> Result<(), Found> {
        match self.leaders.insert((epoch, term), node) {
            Some(other) if other != node => {
                found("one leader per term", format!("{other} and {node} lead term {term}"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// A decision is idempotent, and gives nothing to a node that may not have it.
    pub fn planned(&self, view: &View, new: &Plan, decide: impl Fn(&View) -> Plan) -> Result<(), Found> {
        if *new == *view.plan {
            return Ok(());
        }
        let may = |node: NodeId, had: bool| {
            let Some(spec) = view.spec.nodes.get(&node) else { return false };
            let takes = spec.availability == Availability::Open || (had && spec.availability == Availability::Cordoned);
            takes && !new.verdicts.contains_key(&node)
        };
        for (role, slots) in &new.roles {
            for slot in slots.values() {
                let before = view.plan.roles.get(role);
                let had = before.is_some_and(|slots| slots.values().any(|other| other.node == slot.node));
                if !may(slot.node, had) {
                    return found("nothing on an unfit node", format!("{role} on {}", slot.node));
                }
            }
        }
        for (id, assigned) in &new.instances {
            let stays = view.plan.instances.get(id).is_some_and(|before| before.node == assigned.node);
            let away = stays && long::stays(view, id, assigned);
            let lost = new.verdicts.contains_key(&assigned.node) && !away;
            if lost || (!stays && !may(assigned.node, false)) {
                return found("nothing on an unfit node", format!("{id} on {}", assigned.node));
            }
        }
        // Whether something that was dropped just now can act no more is only told by a later look.
        if new.letting_go.keys().any(|id| !view.plan.letting_go.contains_key(id)) {
            return Ok(());
        }
        let mut again = view.clone();
        again.plan = new.clone().into();
        let again = decide(&again);
        let difference = change(new, &again);
        if !difference.is_empty() {
            return found("planning is idempotent", format!("planned twice: {difference:?}"));
        }
        Ok(())
    }

    /// Generations rise by one, only the guilty are judged, and what shall not move does not.
    pub fn committed(&mut self, now: Timestamp, before: &ControlState, after: &ControlState) -> Result<(), Found> {
        let (old, new) = (&before.plan, &after.plan);
        if old.generation != new.generation && old.generation.next() != new.generation {
            return found("generations rise by one", format!("{} follows {}", new.generation, old.generation));
        }
        for (node, verdict) in &new.verdicts {
            let judged = old.verdicts.get(node) != Some(verdict);
            if judged && self.guilty.get(node).is_none_or(|until| *until < now) {
                let what = format!("{node} is {:?}: {}", verdict.kind, verdict.evidence);
                return found("only the guilty are judged", what);
            }
        }
        for (node, moves) in &mut self.watched {
            *moves += u32::from(has_work(old, *node) != has_work(new, *node));
        }
        let placed = |plan: &Plan| -> BTreeSet<(InstanceId, NodeId)> {
            plan.instances.iter().map(|(id, assigned)| (id.clone(), assigned.node)).collect()
        };
        let held = |plan: &Plan| -> Vec<(RoleName, Vec<NodeId>)> {
            plan.roles
                .iter()
                .map(|(role, slots)| (role.clone(), slots.values().map(|slot| slot.node).collect()))
                .collect()
        };
        if self.still && (placed(old) != placed(new) || held(old) != held(new)) {
            return found("nothing moves", format!("plan {} moves something", new.generation));
        }
        Ok(())
    }
}

fn has_work(plan: &Plan, node: NodeId) -> bool {
    plan.instances.values().any(|assigned| assigned.node == node)
        || plan.roles.values().any(|slots| slots.values().any(|slot| slot.node == node))
}

/// Why the declared state does not hold yet; none when it does.
pub(super) fn unhealed(world: &World) -> Option<String> {
    if !world.has_lead() {
        return Some("nobody leads".into());
    }
    if !world.committed.long.is_empty() {
        return Some(format!("a long grant is on record: {:?}", world.committed.long));
    }
    let state = &world.committed;
    let plan = &state.plan;
    for (app, spec) in &state.spec.apps {
        for (service, described) in &spec.services {
            let active = plan
                .instances
                .iter()
                .filter(|(id, assigned)| id.app == *app && id.service == *service && assigned.phase == Phase::Active);
            let active: Vec<_> = active.collect();
            let want = if spec.stopped { 0 } else { usize::try_from(described.replicas.min).unwrap_or(usize::MAX) };
            if active.len() != want {
                return Some(format!("{app}/{service} has {} of {want} instances", active.len()));
            }
            if let Some((id, _)) = active.iter().find(|(_, assigned)| assigned.revision != described.revision) {
                return Some(format!("{id} has an old revision"));
            }
        }
    }
    if let Some((id, _)) = plan.instances.iter().find(|(_, assigned)| assigned.phase == Phase::Draining) {
        return Some(format!("{id} still drains"));
    }
    for host in world.hosts.values().filter(|host| host.has_power()) {
        let declared: BTreeSet<&InstanceId> =
            plan.instances.iter().filter(|(_, assigned)| assigned.node == host.id).map(|(id, _)| id).collect();
        let runs = host.runs.iter().map(|(id, (_, healthy_at))| (id, *healthy_at));
        let all: BTreeMap<&InstanceId, Timestamp> =
            runs.chain(host.acts.iter().map(|(id, acting)| (id, acting.healthy_at))).collect();
        let healthy = all.iter().filter(|(_, healthy_at)| **healthy_at <= world.now);
        let running: BTreeSet<&InstanceId> = healthy.map(|(id, _)| *id).collect();
        let all: BTreeSet<&InstanceId> = all.into_keys().collect();
        if declared != running || running != all {
            let all: Vec<String> = all.iter().map(ToString::to_string).collect();
            let declared: Vec<String> = declared.iter().map(ToString::to_string).collect();
            return Some(format!("{} runs [{}], declared [{}]", host.id, all.join(" "), declared.join(" ")));
        }
    }
    None
}

/// Runs until the declared state holds, and a little longer to see that it stays so.
pub(super) fn heals(world: &mut World, within: Duration) -> Result<(), Found> {
    let begun = world.now;
    while let Some(why) = unhealed(world) {
        if world.now.since(begun) >= within {
            return found("healed within its bound", format!("{within:?} after all was well: {why}"));
        }
        world.step()?;
    }
    let took = world.now.since(begun);
    world.say(&format!("healed in {} ms", took.as_millis()));
    Ok(())
}

/// At most `most` moves of the work of `node`.
pub(super) fn at_most(world: &World, node: NodeId, most: u32) -> Result<(), Found> {
    let moves = world.checks.moves(node);
    if moves > most {
        return found("a flapping node moves little", format!("{moves} moves of {node}, at most {most} expected"));
    }
    Ok(())
}

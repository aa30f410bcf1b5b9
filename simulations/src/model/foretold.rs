//! What `simulate` says is what is decided: at the end of each history, when all is well, a node is lost, after the future without it has
//! been told by the same function that answers `simulate`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hirsel_model::forecast::{Ahead, Start};
use hirsel_model::plan::Plan;
use hirsel_model::*;
use rand::seq::IndexedRandom;

use super::check::Found;
use super::host::Power;
use super::scenario::power;
use super::world::World;

/// What a cluster that is well may still do before it rests: spares catch up, work that was applied in a hurry is spread.
const REST_WITHIN: Duration = Duration::from_secs(300);
/// At rest it decides nothing for so long.
const STILL_FOR: Duration = Duration::from_secs(10);
/// The same where nodes came back lately: they are steady enough for balance after a minute.
const STILL_AFTER_FLAPS_FOR: Duration = Duration::from_secs(65);
/// What was foretold has come true by then.
const TRUE_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Steps of a forecast that goes on for ever.
const STEPS_MAX: usize = 200;

/// Holders of slots, and where instances of each service are. Their numbers depend on how many steps it took.
type Places = (BTreeMap<(RoleName, Slot), NodeId>, Vec<(AppName, ServiceName, NodeId)>);

fn places(plan: &Plan) -> Places {
    let slots = plan.roles.iter().flat_map(|(role, slots)| slots.iter().map(move |(slot, held)| (role, slot, held)));
    let slots = slots.map(|(role, slot, held)| ((role.clone(), *slot), held.node)).collect();
    let placed = plan.instances.iter().map(|(id, placed)| (id.app.clone(), id.service.clone(), placed.node));
    let mut placed: Vec<_> = placed.collect();
    placed.sort();
    (slots, placed)
}

/// Tells what the loss of a node would come to, and then loses it.
pub(super) fn comes_true(world: &mut World) -> Result<(), Found> {
    if !rests(world)? {
        return Ok(());
    }
    let nodes: Vec<NodeId> = world.committed.spec.nodes.keys().copied().collect();
    let (Some(lost), Some(leader)) = (nodes.choose(&mut world.rng).copied(), world.leader()) else { return Ok(()) };
    let state = world.committed.clone();
    let mut ahead = Ahead::new(Start {
        spec: state.spec.clone(),
        spec_index: state.spec_index,
        plan: state.plan.clone(),
        former: Arc::new(state.former.clone()),
        gone: BTreeSet::from([lost]),
        voters: world.voters().clone(),
        leader,
        level: state.cluster.feature_level,
    });
    let steps = (0..STEPS_MAX).take_while(|_| ahead.step()).count();
    if steps == STEPS_MAX {
        return Err(Found { checker: "foretold", message: format!("without {lost} no plan is the last one") });
    }
    let told = places(ahead.plan());
    world.say(&format!("{lost} is lost after that was foretold"));
    // What is decided late, or twice, is decided on other grounds: it was foretold for when nothing else happens.
    world.undisturbed = true;
    power(world, lost, Power::Off);
    for _ in 0..TRUE_WITHIN.as_secs() {
        world.run(LOOK_EVERY)?;
        if places(&world.committed.plan) == told {
            return Ok(());
        }
    }
    let came = places(&world.committed.plan);
    let apart = |one: &Places, other: &Places| {
        let slots = one.0.iter().filter(|(slot, node)| other.0.get(slot) != Some(node));
        let slots = slots.map(|((role, slot), node)| format!("{role}/{slot} on {node}"));
        let mut left = other.1.clone();
        let instances = one.1.iter().filter(|placed| match left.iter().position(|there| there == *placed) {
            Some(at) => {
                left.remove(at);
                false
            }
            None => true,
        });
        let instances = instances.map(|(app, service, node)| format!("{app}/{service} on {node}"));
        slots.chain(instances).collect::<Vec<_>>().join(", ")
    };
    let message = format!("without {lost} it was foretold: {}; and came: {}", apart(&told, &came), apart(&came, &told));
    Err(Found { checker: "foretold", message })
}

/// Whether it came to rest.
fn rests(world: &mut World) -> Result<bool, Found> {
    let (mut generation, mut still) = (world.committed.plan.generation, Duration::ZERO);
    for _ in 0..REST_WITHIN.as_secs() {
        world.run(LOOK_EVERY)?;
        still += LOOK_EVERY;
        if world.committed.plan.generation != generation {
            (generation, still) = (world.committed.plan.generation, Duration::ZERO);
        }
        let plan = &world.committed.plan;
        let enough = if plan.flaps.is_empty() { STILL_FOR } else { STILL_AFTER_FLAPS_FOR };
        // A verdict is lifted by time alone.
        if still >= enough && plan.verdicts.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

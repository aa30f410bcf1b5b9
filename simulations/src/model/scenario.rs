//! What befalls the cluster: faults and wishes drawn from the seed, healing, and how long that may take.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hirsel_model::control::Command;
use hirsel_model::spec::*;
use hirsel_model::*;
use rand::Rng;
use rand::seq::IndexedRandom;

use super::check::{Found, at_most, heals};
use super::directed::{
    away, back, dawdling, directed, fresh, inherited, kept_back, late, listed_anew, new_leader, old_list, one_silent,
    promised, refused, renewed, stale_plan, suspended, twice,
};
use super::host::Power;
use super::partings::planned;
use super::promises::{apart, estranged, leaderless, refounded};
use super::world::{IDLE, Shape, World};
use super::{Bug, foretold};

/// Everything that can be played by name.
pub const SCENARIOS: &[&str] = &[
    "mixed",
    "chained",
    "zone",
    "restart",
    "frozen",
    "frozen-leader",
    "flapping",
    "loss",
    "wishes",
    "exclusive",
    "late",
    "inherited",
    "leaderless",
    "apart",
    "estranged",
    "refounded",
    "refused",
    "kept-back",
    "old-list",
    "twice",
    "one-silent",
    "renewed",
    "new-leader",
    "fresh",
    "dawdling",
    "stale-plan",
    "planned",
    "away",
    "back",
    "suspended",
    "promised",
    "listed-anew",
];

/// After everything is well again the declared state holds within this: an update of six instances one by one takes half of it.
const HEAL_WITHIN: Duration = Duration::from_secs(60);
/// A killed node is replaced within this: 8 s when it led, and twice that is the most.
const REPLACE_WITHIN: Duration = Duration::from_secs(16);
/// All agents stopped and started again.
const RESTART_WITHIN: Duration = Duration::from_secs(20);

/// The application that is exclusive.
pub(super) const CRON: &str = "cron";

/// The scenario called `name`, or the one that the seed picks.
pub(super) fn pick(seed: u64, name: Option<&str>) -> Option<&'static str> {
    match name {
        Some(name) => SCENARIOS.iter().copied().find(|known| *known == name),
        None => {
            // The long ones (ten minutes) are rarer: thousands of seeds shall fit a minute.
            let long = ["flapping", "loss"];
            let short = ["mixed", "chained", "zone", "restart", "frozen", "frozen-leader", "wishes"];
            let promises = ["leaderless", "apart", "estranged", "refounded"];
            let directed = [
                "late",
                "inherited",
                "renewed",
                "new-leader",
                "fresh",
                "dawdling",
                "stale-plan",
                "refused",
                "kept-back",
                "old-list",
                "twice",
                "one-silent",
                "away",
                "back",
                "suspended",
                "promised",
                "listed-anew",
            ];
            let of = |names: &[&'static str]| names[usize::try_from(seed / 20).unwrap_or(0) % names.len()];
            Some(match seed % 20 {
                0 => of(&long),
                1..=4 => "mixed",
                5..=9 => "exclusive",
                10 => "planned",
                11..=13 => of(&promises),
                14 | 15 => directed[usize::try_from(seed / 20 * 2 + seed % 2).unwrap_or(0) % directed.len()],
                _ => short[usize::try_from(seed / 20 + seed % 20).unwrap_or(0) % short.len()],
            })
        }
    }
}

/// What the cluster begins as.
pub(super) fn shape(scenario: &str) -> Shape {
    match scenario {
        "leaderless" => Shape { nodes: Some(7), idle: 0 },
        "late" | "mixed" | "chained" | "zone" | "restart" | "frozen" | "frozen-leader" | "flapping" | "loss"
        | "wishes" | "exclusive" => Shape::default(),
        _ => Shape { nodes: Some(7), idle: IDLE },
    }
}

pub(super) fn play(world: &mut World, scenario: &'static str) -> Result<(), Found> {
    begin(world, scenario)?;
    match scenario {
        "chained" => chained(world),
        "zone" => zone(world),
        "restart" => restart(world),
        "frozen" => frozen(world, false),
        "frozen-leader" => frozen(world, true),
        "flapping" => flapping(world),
        "loss" => loss(world),
        "wishes" => wishes(world),
        "exclusive" => exclusive(world),
        "late" => directed(world, late),
        "inherited" => directed(world, inherited),
        "renewed" => directed(world, renewed),
        "new-leader" => directed(world, new_leader),
        "fresh" => directed(world, fresh),
        "dawdling" => directed(world, dawdling),
        "stale-plan" => directed(world, stale_plan),
        "leaderless" => leaderless(world),
        "apart" => apart(world),
        "estranged" => estranged(world),
        "refounded" => refounded(world),
        "refused" => directed(world, refused),
        "kept-back" => directed(world, kept_back),
        "old-list" => directed(world, old_list),
        "twice" => directed(world, twice),
        "one-silent" => directed(world, one_silent),
        "away" => directed(world, away),
        "back" => directed(world, back),
        "suspended" => directed(world, suspended),
        "promised" => directed(world, promised),
        "listed-anew" => directed(world, listed_anew),
        "planned" => planned(world),
        _ => mixed(world),
    }?;
    heal(world)?;
    heals(world, HEAL_WITHIN)?;
    // Too few may be left to lose one more.
    if scenario == "refounded" { Ok(()) } else { foretold::comes_true(world) }
}

pub(super) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Voters and roles are given, two applications run.
pub(super) fn begin(world: &mut World, scenario: &str) -> Result<(), Found> {
    world.run(seconds(5))?;
    for (name, service, count) in [("shop", "web", world.rng.random_range(2..=6)), ("blog", "api", 2)] {
        let spec = app(name, service, count, "first");
        world.operate(&Command::ApplyApp { app: name.parse().expect("a name"), spec })?;
    }
    let mut spec = app(CRON, "one", 1, "first");
    if scenario == "leaderless" {
        // So that most voters can be taken away, and all who could take its place are left.
        spec.services.values_mut().for_each(|one| one.constraints = [("zone".into(), "a".into())].into());
    }
    world.operate(&Command::ApplyApp { app: CRON.parse().expect("a name"), spec })?;
    heals(world, seconds(30))
}

fn app(name: &str, service: &str, count: u32, command: &str) -> AppSpec {
    let service: ServiceName = service.parse().expect("a name");
    let described = ServiceSpec {
        revision: Revision(0),
        command: vec![command.into()],
        workdir: None,
        env: BTreeMap::new(),
        user: None,
        replicas: Replicas { min: count, max: count },
        resources: Capacity::default(),
        health: None,
        update: UpdateSpec {
            order: if name == "shop" { UpdateOrder::StartFirst } else { UpdateOrder::StopFirst },
            ..UpdateSpec::default()
        },
        stop: StopSpec { drain_ms: 5_000, ..StopSpec::default() },
        constraints: BTreeMap::new(),
        spread: Spread::Zone,
        exclusive: name == CRON,
        secrets: BTreeMap::new(),
        protocol: Default::default(),
    };
    let routes = if name == CRON { Vec::new() } else { routes(name, &service) };
    AppSpec {
        revision: Revision(0),
        services: [(service, described)].into(),
        routes,
        stopped: false,
        ports: BTreeMap::new(),
        zones: BTreeMap::new(),
        buckets: BTreeMap::new(),
    }
}

fn routes(name: &str, service: &ServiceName) -> Vec<RouteSpec> {
    vec![RouteSpec::plain(format!("{name}.example.com"), "/", service.clone())]
}

pub(super) fn any_node(world: &mut World) -> NodeId {
    let nodes: Vec<NodeId> = world.hosts.keys().copied().collect();
    *nodes.choose(&mut world.rng).expect("nodes")
}

pub(super) fn power(world: &mut World, node: NodeId, power: Power) {
    world.say(&format!("fault: {node} {power:?}"));
    let now = world.now;
    let host = world.hosts.get_mut(&node).expect("a host");
    match power {
        Power::On if !host.is_on() => {
            host.start(now);
            world.start_over(node);
        }
        Power::On => {}
        Power::Frozen(until) => {
            if host.is_on() {
                host.power = Power::Frozen(until);
                if world.bug == Bug::ClockStops {
                    host.stood_since = Some(now);
                }
                world.checks.disturbed(node, until);
            }
            return;
        }
        Power::Off | Power::Orphaned => host.stop(power),
    }
    // A node that is off may be judged as long as it is, and a while after.
    let until = if power == Power::On { now } else { now + seconds(3_600) };
    world.checks.disturbed(node, until);
}

/// Nothing is disturbed any more from now on.
pub(super) fn heal(world: &mut World) -> Result<(), Found> {
    world.say("all is well again");
    world.cuts.clear();
    world.loss.clear();
    world.partings.clear();
    let nodes: Vec<NodeId> = world.hosts.keys().copied().collect();
    for node in nodes {
        if let Power::Frozen(until) = world.hosts[&node].power {
            world.checks.disturbed(node, until);
        } else if !world.hosts[&node].is_on() {
            power(world, node, Power::On);
        }
    }
    for node in world.committed.spec.nodes.clone().into_iter().filter(|(_, s)| s.availability != Availability::Open) {
        world.operate(&Command::SetAvailability { node: node.0, availability: Availability::Open })?;
    }
    Ok(())
}

/// A few faults of any kind, one upon the other.
fn mixed(world: &mut World) -> Result<(), Found> {
    for _ in 0..world.rng.random_range(2..8) {
        let node = any_node(world);
        let time = Duration::from_millis(world.rng.random_range(200..12_000));
        let until = world.now + time;
        match world.rng.random_range(0..10) {
            0 | 1 => power(world, node, Power::Off),
            2 => power(world, node, Power::Orphaned),
            3 => power(world, node, Power::On),
            4 => power(world, node, Power::Frozen(until)),
            5 => {
                if let Some(leader) = world.leader() {
                    power(world, leader, Power::Off);
                }
            }
            6 => split(world),
            7 => {
                let other = any_node(world);
                world.say(&format!("fault: nothing gets from {node} to {other}"));
                world.cuts.insert((node, other));
                everybody_disturbed(world);
            }
            8 => {
                world.say("fault: cuts end");
                world.cuts.clear();
            }
            _ => wish(world)?,
        }
        world.run(time)?;
    }
    Ok(())
}

/// While links are cut anybody may be out of reach of most others.
pub(super) fn everybody_disturbed(world: &mut World) {
    let nodes: Vec<NodeId> = world.hosts.keys().copied().collect();
    for node in nodes {
        world.checks.disturbed(node, world.now + seconds(3_600));
    }
}

fn split(world: &mut World) {
    let nodes: Vec<NodeId> = world.hosts.keys().copied().collect();
    let side: BTreeSet<NodeId> = nodes.iter().copied().filter(|_| world.rng.random_bool(0.4)).collect();
    world.say(&format!("fault: {side:?} are cut off"));
    for from in &nodes {
        for to in nodes.iter().filter(|to| side.contains(from) != side.contains(to)) {
            world.cuts.insert((*from, *to));
        }
    }
    everybody_disturbed(world);
}

/// Something an operator may ask for.
fn wish(world: &mut World) -> Result<(), Found> {
    let (shop, web): (AppName, ServiceName) = ("shop".parse().expect("a name"), "web".parse().expect("a name"));
    let node = any_node(world);
    let command = match world.rng.random_range(0..5) {
        0 => {
            let (min, max) = (world.rng.random_range(0..8), 8);
            Command::Scale { app: shop, service: web, replicas: Replicas { min, max } }
        }
        1 => {
            let count = world.rng.random_range(1..6);
            let command = format!("take {}", world.now);
            Command::ApplyApp { spec: app("shop", "web", count, &command), app: shop }
        }
        2 => {
            let command = format!("take {}", world.now);
            Command::ApplyApp { spec: app("blog", "api", 3, &command), app: "blog".parse().expect("a name") }
        }
        3 => Command::SetAvailability { node, availability: Availability::Draining },
        _ => Command::SetAvailability { node, availability: Availability::Cordoned },
    };
    world.operate(&command)
}

/// Everything that may come between a leader, the holder of a grant, and the next one.
fn exclusive(world: &mut World) -> Result<(), Found> {
    everybody_disturbed(world);
    for _ in 0..world.rng.random_range(4..14) {
        let any = any_node(world);
        let leader = world.leader().unwrap_or(any);
        let holds =
            |(_, assigned): (_, &hirsel_model::plan::InstanceAssignment)| assigned.exclusive.then_some(assigned.node);
        let holder = world.committed.plan.instances.iter().find_map(holds).unwrap_or(any);
        let until = world.now + Duration::from_millis(world.rng.random_range(100..6_000));
        let (a, b) = *[(leader, holder), (holder, leader), (any, leader), (any, holder), (leader, any)]
            .choose(&mut world.rng)
            .expect("ways");
        match world.rng.random_range(0..18) {
            13 | 14 => {
                // Nobody can lead.
                let voters: Vec<NodeId> = world.raft.iter().copied().filter(|node| *node != holder).collect();
                let until = until + Duration::from_millis(world.rng.random_range(0..6_000));
                voters.into_iter().for_each(|node| power(world, node, Power::Frozen(until)));
            }
            15 => {
                // Its agent is killed, and started at once.
                power(world, any, Power::Orphaned);
                power(world, any, Power::On);
            }
            16 => {
                let availability = world.committed.spec.nodes.get(&any).map(|spec| spec.availability);
                let open = availability == Some(Availability::Open);
                let availability = if open { Availability::Cordoned } else { Availability::Open };
                world.operate(&Command::SetAvailability { node: any, availability })?;
            }
            17 => {
                // It is to go while it cannot be told, and whoever leads then begins anew.
                cut_off(world, &[holder]);
                world.operate(&Command::SetAvailability { node: holder, availability: Availability::Draining })?;
                if world.rng.random_bool(0.5) {
                    world.hand_over()?;
                } else if let Some(leader) = world.leader() {
                    power(world, leader, Power::Orphaned);
                    power(world, leader, Power::On);
                }
            }
            0 => cut_off(world, &[holder]),
            1 => cut_off(world, &[holder, leader]),
            2 => {
                cut_off(world, &[holder, leader]);
                power(world, leader, Power::Frozen(until));
            }
            3 => power(world, leader, Power::Frozen(until)),
            4 => power(world, holder, Power::Frozen(until)),
            5 => {
                world.say(&format!("fault: nothing gets from {a} to {b}"));
                world.cuts.insert((a, b));
            }
            6 | 7 => world.hand_over()?,
            8 => {
                world.operate(&Command::SetAvailability { node: holder, availability: Availability::Draining })?;
            }
            9 => {
                update_cron(world)?;
            }
            10 => {
                world.say("fault: cuts end");
                world.cuts.clear();
                world.loss.clear();
                let closed = world.committed.spec.nodes.iter().find(|(_, s)| s.availability != Availability::Open);
                if let Some(node) = closed.map(|(node, _)| *node) {
                    world.operate(&Command::SetAvailability { node, availability: Availability::Open })?;
                }
            }
            11 => {
                let on = world.hosts[&holder].is_on();
                let off = *[Power::Off, Power::Orphaned].choose(&mut world.rng).expect("kinds");
                power(world, holder, if on { off } else { Power::On });
            }
            _ => {
                world.loss.insert(holder, 0.5);
            }
        }
        let time = Duration::from_millis(world.rng.random_range(0..3_000));
        world.run(time)?;
    }
    Ok(())
}

/// What is exclusive gets another revision.
pub(super) fn update_cron(world: &mut World) -> Result<(), Found> {
    let spec = app(CRON, "one", 1, &format!("take {}", world.now));
    world.operate(&Command::ApplyApp { app: CRON.parse().expect("a name"), spec })
}

/// These and the others do not hear each other.
pub(super) fn cut_off(world: &mut World, side: &[NodeId]) {
    world.say(&format!("fault: {side:?} are cut off"));
    let nodes: Vec<NodeId> = world.hosts.keys().copied().collect();
    for from in &nodes {
        for to in nodes.iter().filter(|to| side.contains(from) != side.contains(to)) {
            world.cuts.insert((*from, *to));
        }
    }
}

/// Where something exclusive acts.
pub(super) fn holder(world: &World) -> Option<NodeId> {
    world.hosts.values().find(|host| !host.acts.is_empty()).map(|host| host.id)
}

fn wishes(world: &mut World) -> Result<(), Found> {
    for _ in 0..world.rng.random_range(2..8) {
        wish(world)?;
        let time = Duration::from_millis(world.rng.random_range(0..8_000));
        world.run(time)?;
    }
    Ok(())
}

/// The leader, then a worker, then the new leader, then all back in reverse order; each step heals.
fn chained(world: &mut World) -> Result<(), Found> {
    let mut victims = Vec::new();
    // As many as leave the voters a majority at each step.
    let most = if world.hosts.len() >= 5 { 3 } else { 1 };
    for kill in 0..most {
        let leader = world.leader();
        let others: Vec<NodeId> =
            world.hosts.values().filter(|host| host.is_on() && Some(host.id) != leader).map(|host| host.id).collect();
        let victim = if kill == 1 { others.choose(&mut world.rng).copied() } else { leader };
        let Some(victim) = victim else { continue };
        victims.push(victim);
        power(world, victim, Power::Off);
        world.run(seconds(4))?;
        heals(world, REPLACE_WITHIN.saturating_sub(seconds(4)))?;
        world.run(seconds(3))?;
    }
    for victim in victims.into_iter().rev() {
        power(world, victim, Power::On);
        world.run(seconds(1))?;
        heals(world, REPLACE_WITHIN)?;
    }
    Ok(())
}

fn zone(world: &mut World) -> Result<(), Found> {
    let zone: ZoneName = ["a", "b", "c"].choose(&mut world.rng).expect("zones").parse().expect("a name");
    let nodes: Vec<NodeId> =
        world.committed.spec.nodes.iter().filter(|(_, spec)| spec.zone == zone).map(|(node, _)| *node).collect();
    for node in nodes {
        power(world, node, Power::Off);
    }
    world.run(seconds(20))
}

/// All hosts lose power and come back in any order.
fn restart(world: &mut World) -> Result<(), Found> {
    let mut nodes: Vec<NodeId> = world.hosts.keys().copied().collect();
    for node in &nodes {
        power(world, *node, Power::Off);
    }
    world.run(seconds(2))?;
    while !nodes.is_empty() {
        let next = world.rng.random_range(0..nodes.len());
        power(world, nodes.swap_remove(next), Power::On);
        let pause = Duration::from_millis(world.rng.random_range(0..2_000));
        world.run(pause)?;
    }
    heals(world, RESTART_WITHIN)
}

/// One node freezes for three seconds, again and again. It may lose its own work; nobody else is judged.
fn frozen(world: &mut World, leader: bool) -> Result<(), Found> {
    for _ in 0..3 {
        let node = if leader { world.leader().unwrap_or(NodeId(1)) } else { any_node(world) };
        let until = world.now + seconds(3);
        power(world, node, Power::Frozen(until));
        world.run(seconds(25))?;
    }
    Ok(())
}

/// A node that comes and goes every five seconds, for ten minutes, is moved at most twice.
fn flapping(world: &mut World) -> Result<(), Found> {
    let leader = world.leader();
    let mut node = any_node(world);
    while Some(node) == leader {
        node = any_node(world);
    }
    world.checks.watch(node);
    for _ in 0..60 {
        power(world, node, Power::Off);
        world.run(seconds(5))?;
        power(world, node, Power::On);
        world.run(seconds(5))?;
    }
    at_most(world, node, 2)
}

/// 30 % loss on one node for ten minutes moves nothing.
fn loss(world: &mut World) -> Result<(), Found> {
    world.run(seconds(60))?;
    let node = any_node(world);
    world.say(&format!("fault: 30 % loss on {node}"));
    world.loss.insert(node, 0.3);
    world.checks.disturbed(node, world.now + seconds(600));
    world.checks.hold_still(true);
    world.run(seconds(600))?;
    world.checks.hold_still(false);
    Ok(())
}

//! Another sealing key again and again, while those who hold it lose power: what is sealed opens at every moment, and at last all who
//! vote or are spares hold the key in force.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hirsel_mesh::identity::{Front, front};
use hirsel_model::Revision;
use hirsel_model::control::Command;
use hirsel_model::spec::{AppSpec, ZoneSpec};
use rand::Rng;

use super::{HEAL_WITHIN, Play, REPLACE_WITHIN};
use crate::check::Rule;
use crate::world::{Power, World};

/// Rounds of a wish and a loss.
const ROUNDS: usize = 4;
/// A key goes round within this: one call to each, and one change.
const GOES_ROUND: Duration = Duration::from_millis(400);
/// Most of a round without the node that was lost: until after another has its vote, and a key without it is due.
const LOST_FOR: Duration = Duration::from_secs(80);
/// All hold the key in force within this, once nothing else happens.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);
/// Whoever balances load has certificates within this, once nothing else happens.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);
/// What a secret is, in this scenario.
const VALUE: &str = "nobody shall see it";

impl Play<'_> {
    pub(super) fn sealed(&mut self) -> Result<()> {
        let front = sample()?;
        for round in 0..ROUNDS {
            self.world.change(zone()?);
            if let Some(command) =
                self.world.nodes.iter().find_map(|node| node.look(|eyes| eyes.secret(VALUE)).flatten())
            {
                self.world.change(command);
            }
            if let Some(command) =
                self.world.nodes.iter().find_map(|node| node.look(|eyes| eyes.certificate(&front)).flatten())
            {
                self.world.change(command);
            }
            self.world.change(Command::RotateSealing);
            // In any of the steps.
            let pause = GOES_ROUND.mul_f64(self.rng.random_range(0.0..1.0));
            self.world.pass(pause)?;
            let leader = self.world.leader().unwrap_or(0);
            let victim =
                if self.rng.random_bool(0.5) { leader } else { self.rng.random_range(0..self.world.nodes.len()) };
            self.world.set(victim, |trouble| trouble.power = Power::Off);
            self.be_well(Rule::Healed, REPLACE_WITHIN, "after one who may hold the key was lost")?;
            let ends = self.world.now() + if round % 2 == 0 { LOST_FOR } else { Duration::ZERO };
            while self.world.now() < ends {
                self.world.pass(Duration::from_millis(500))?;
                let opens = some_opens(self.world);
                self.world.require(Rule::Opens, opens);
            }
            self.world.set(victim, |trouble| trouble.power = Power::On);
            self.be_well(Rule::Healed, HEAL_WITHIN, "after it came back")?;
        }
        let settled = self.world.until(SETTLED_WITHIN, all_open)?;
        self.world.require(Rule::Opens, settled.map(drop));
        let shown = self.world.until(SHOWN_WITHIN, |world| all_show(world, &front))?;
        self.world.require(Rule::Opens, shown.map(drop));
        let told = self.world.until(SHOWN_WITHIN, all_resume)?;
        self.world.require(Rule::Opens, told.map(drop));
        let told = self.world.until(SHOWN_WITHIN, all_sign)?;
        self.world.require(Rule::Opens, told.map(drop));
        Ok(())
    }
}

/// A certificate of nobody, with its key.
fn sample() -> Result<Front> {
    let samples = hirsel_mesh::decoders::samples();
    let (_, text) = samples.iter().find(|(of, _)| *of == "front").context("no sample of a certificate")?;
    Ok(front(text)?)
}

/// Who balances load has what clients are shown, with the key that was given, and nobody else has any of it.
fn all_show(world: &World, front: &Front) -> Result<(), String> {
    let state = world.newest().ok_or("no agent runs")?;
    if state.certificates.named.is_empty() {
        return Err("no certificate was set".into());
    }
    for node in &world.nodes {
        let shows = node.look(|eyes| eyes.shows(front)).unwrap_or(Err("it does not run".into()));
        shows.map_err(|error| format!("{}: {error}", node.name))?;
    }
    Ok(())
}

/// Whoever balances load has the same keys of TLS tickets, one that seals and one that is next, and nobody else has any.
fn all_resume(world: &World) -> Result<(), String> {
    let mut same = None;
    for node in &world.nodes {
        let has = node.look(|eyes| eyes.tickets()).unwrap_or(Err("it does not run".into()));
        let has = has.map_err(|error| format!("{}: {error}", node.name))?;
        if !has.is_empty() && same.get_or_insert_with(|| has.clone()) != &has {
            return Err(format!("{} has other keys than another one", node.name));
        }
    }
    let keys = same.unwrap_or_default();
    if keys.len() < 2 {
        return Err("fewer keys than two".into());
    }
    let all = || world.nodes.iter().flat_map(|node| keys.values().map(move |key| (node, &key.0)));
    // Half of a key would be too much.
    match all().find_map(|(node, key)| Some((node, node.platter.holding(&key[24..])?))) {
        Some((node, path)) => Err(format!("a key of TLS tickets is in {path} of {}", node.name)),
        None => Ok(()),
    }
}

/// An application that is a zone which is signed.
fn zone() -> Result<Command> {
    let zone = ZoneSpec { dnssec: true, ..ZoneSpec::default() };
    let spec = AppSpec {
        revision: Revision(0),
        services: BTreeMap::new(),
        routes: Vec::new(),
        stopped: false,
        ports: BTreeMap::new(),
        zones: [("example.com".to_owned(), Arc::new(zone))].into(),
        buckets: BTreeMap::new(),
    };
    Ok(Command::ApplyApp { app: "names".parse()?, spec })
}

/// Every node has the key of the zone, the same one, and on no disk is it in the clear.
fn all_sign(world: &World) -> Result<(), String> {
    let mut same = None;
    for node in &world.nodes {
        let has = node.look(|eyes| eyes.zone_keys()).unwrap_or(Err("it does not run".into()));
        let has = has.map_err(|error| format!("{}: {error}", node.name))?;
        if same.get_or_insert_with(|| has.clone()) != &has {
            return Err(format!("{} has another key than another one", node.name));
        }
    }
    let keys = same.unwrap_or_default();
    let key = keys.values().next().ok_or("the zone has no key")?;
    // Where the number is that nobody else knows.
    let secret = &key.0[36..68];
    match world.nodes.iter().find_map(|node| Some((node, node.platter.holding(secret)?))) {
        Some((node, path)) => Err(format!("the key of the zone is in {path} of {}", node.name)),
        None => Ok(()),
    }
}

/// Some running agent opens all that it knows.
fn some_opens(world: &World) -> Result<(), String> {
    let seen: Vec<Result<(), String>> = world.nodes.iter().filter_map(|node| node.look(|eyes| eyes.opens())).collect();
    if seen.iter().any(Result::is_ok) { Ok(()) } else { Err(format!("nobody opens what is sealed: {seen:?}")) }
}

/// All who vote or are spares open everything, and nobody is waited for.
fn all_open(world: &World) -> Result<(), String> {
    let state = world.newest().ok_or("no agent runs")?;
    if state.cluster.sealing.wanted {
        return Err("another key is wanted still".into());
    }
    for id in state.plan.voters.iter().chain(&state.plan.spares) {
        let name = state.spec.name_of(*id);
        let node = world.nodes.iter().find(|node| node.name == name).ok_or(format!("{name} is nowhere"))?;
        node.look(|eyes| eyes.opens())
            .unwrap_or(Err("it does not run".into()))
            .map_err(|error| format!("{name}: {error}"))?;
    }
    match &state.secrets.cluster.len() {
        0 => Err("no secret was set".into()),
        _ => Ok(()),
    }
}

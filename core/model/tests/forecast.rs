//! What is foretold is what comes: a small cluster loses nodes, and its leader decides what the forecast said.

mod town;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hirsel_model::control::Command;
use hirsel_model::forecast::{Ahead, Start};
use hirsel_model::plan::Plan;
use hirsel_model::spec::*;
use hirsel_model::*;
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use town::Town;

/// Verdicts, elections, leases, voters, starts and ends of instances all take seconds.
const REST: Duration = Duration::from_secs(90);

/// A town at rest, with applications of all kinds.
fn any_town(rng: &mut SmallRng) -> Town {
    let any_node = |rng: &mut SmallRng, number: u64| {
        let zone = ["a", "b", "c"][rng.random_range(0..3)];
        let mut node = town::node(&format!("n{number}"), number, zone);
        node.capacity.cpu_millis = rng.random_range(1..5) * 1_000;
        node
    };
    let mut town = Town::found(any_node(rng, 1));
    for number in 2..=rng.random_range(2..10) {
        let node = any_node(rng, number);
        town.join(node).unwrap();
    }
    for app in ["blog", "shop"] {
        let spec = any_app(rng);
        if !spec.services.is_empty() {
            town.command(Command::ApplyApp { app: app.parse().unwrap(), spec }).unwrap();
        }
    }
    town.run(REST);
    town
}

fn any_app(rng: &mut SmallRng) -> AppSpec {
    let mut services = BTreeMap::new();
    for name in ["api", "web", "work"] {
        let exclusive = rng.random_bool(0.2);
        let count = if exclusive { 1 } else { rng.random_range(0..5) };
        let service = ServiceSpec {
            revision: Revision(1),
            command: vec!["serve".into()],
            workdir: None,
            env: BTreeMap::new(),
            user: None,
            replicas: Replicas { min: count, max: count },
            resources: Capacity { cpu_millis: rng.random_range(0..3) * 400, memory_bytes: 0 },
            health: None,
            update: UpdateSpec {
                order: if exclusive { UpdateOrder::StopFirst } else { UpdateOrder::StartFirst },
                ..UpdateSpec::default()
            },
            stop: StopSpec::default(),
            constraints: BTreeMap::new(),
            spread: if rng.random_bool(0.7) { Spread::Zone } else { Spread::Node },
            exclusive,
            secrets: BTreeMap::new(),
            protocol: Default::default(),
        };
        services.insert(name.parse().unwrap(), service);
    }
    AppSpec {
        revision: Revision(1),
        services,
        routes: vec![],
        stopped: false,
        ports: BTreeMap::new(),
        zones: BTreeMap::new(),
        buckets: BTreeMap::new(),
    }
}

/// What would be decided in `town` without the nodes of `gone`.
fn foretold(town: &Town, gone: BTreeSet<NodeId>) -> Plan {
    let view = town.view();
    let voters = view.plan.voters.clone();
    let mut forecast = Ahead::new(Start {
        spec: (*view.spec).clone(),
        spec_index: view.spec_index,
        plan: (*view.plan).clone(),
        former: Arc::default(),
        gone,
        voters,
        leader: view.leader,
        level: view.level,
    });
    let steps = (0..200).take_while(|_| forecast.step()).count();
    assert!(steps < 200, "the forecast comes to rest");
    forecast.plan().clone()
}

/// Holders of slots, and where instances of each service are.
type Places = (BTreeMap<(RoleName, Slot), NodeId>, Vec<(AppName, ServiceName, NodeId)>);

/// Who has what. The numbers of instances are counted up as they are started, which a step more or less alters.
fn places(plan: &Plan) -> Places {
    let slots = plan.roles.iter().flat_map(|(role, slots)| {
        slots.iter().map(|(slot, held)| ((role.clone(), *slot), held.node)).collect::<Vec<_>>()
    });
    let mut instances: Vec<_> =
        plan.instances.iter().map(|(id, placed)| (id.app.clone(), id.service.clone(), placed.node)).collect();
    instances.sort();
    (slots.collect(), instances)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_foretold_of_a_loss_is_what_the_leader_decides(seed: u64) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut town = any_town(&mut rng);
        let all: Vec<NodeId> = town.houses.keys().copied().collect();
        let lost = rng.random_range(1..=all.len().div_ceil(2));
        let gone: BTreeSet<NodeId> = all.iter().copied().choose_multiple(&mut rng, lost).into_iter().collect();
        let told = foretold(&town, gone.clone());
        gone.iter().for_each(|node| town.set_alive(*node, false));
        town.run(REST);
        prop_assert_eq!(places(&told), places(&town.state.plan));
        prop_assert_eq!(&told.voters, &town.state.plan.voters);
        prop_assert_eq!(&told.unmet, &town.state.plan.unmet);
    }

    #[test]
    fn what_is_foretold_of_a_drain_or_leave_is_what_the_leader_decides(seed: u64) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut town = any_town(&mut rng);
        let node = *town.houses.keys().choose(&mut rng).unwrap();
        let availability = if rng.random_bool(0.5) { Availability::Draining } else { Availability::Leaving };
        town.command(Command::SetAvailability { node, availability }).unwrap();
        let told = foretold(&town, BTreeSet::new());
        town.run(REST);
        if availability == Availability::Leaving {
            let _ = town.command(Command::RemoveNode { node });
            town.run(REST);
        }
        prop_assert_eq!(places(&told), places(&town.state.plan));
        prop_assert_eq!(&told.voters, &town.state.plan.voters);
    }
}

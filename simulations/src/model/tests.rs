use std::time::Duration;

use super::*;

/// Seeds that a planted bug gets to show itself.
const TRIES: u64 = 20;

fn is_found(bug: Bug, scenario: &str, checker: &str) {
    let finds: Vec<&str> = (0..TRIES)
        .filter_map(|seed| play(seed, Some(scenario), bug).err())
        .map(|failure| failure.checker)
        .take(1)
        .collect();
    assert_eq!(finds, [checker], "{bug:?} in {scenario}");
}

#[test]
fn two_leaders_of_one_term_are_found() {
    is_found(Bug::SameTerm, "chained", "one leader per term");
}

#[test]
fn a_generation_that_skips_is_found() {
    is_found(Bug::GenerationSkips, "mixed", "generations rise by one");
}

#[test]
fn a_planner_that_is_never_content_is_found() {
    is_found(Bug::Restless, "mixed", "planning is idempotent");
}

#[test]
fn work_on_a_lost_node_is_found() {
    is_found(Bug::OnLostNode, "zone", "nothing on an unfit node");
}

#[test]
fn a_leader_that_judges_alone_is_found() {
    is_found(Bug::JudgesAlone, "frozen-leader", "only the guilty are judged");
}

#[test]
fn a_flapping_node_that_is_trusted_at_once_is_found() {
    is_found(Bug::NoHoldDown, "flapping", "a flapping node moves little");
}

#[test]
fn moves_because_of_loss_are_found() {
    is_found(Bug::Jumpy, "loss", "nothing moves");
}

#[test]
fn instances_that_are_never_stopped_are_found() {
    is_found(Bug::NeverStops, "wishes", "healed within its bound");
}

#[test]
fn every_scenario_holds_for_some_seeds() {
    for scenario in SCENARIOS {
        for seed in 0..4 {
            if let Err(failure) = run(seed, Some(scenario)) {
                panic!("{failure}");
            }
        }
    }
}

#[test]
fn one_seed_is_one_history_and_another_seed_another() {
    let [first, again, other] = [7, 7, 8].map(|seed| run(seed, Some("mixed")).unwrap());
    assert_eq!(first.text(), again.text());
    assert_eq!(first.hash(), again.hash());
    assert_ne!(first.hash(), other.hash());
    assert!(first.lines.len() > 10, "{}", first.text());
}

#[test]
fn an_unknown_scenario_is_refused_with_the_known_ones() {
    let failure = run(1, Some("mixd")).unwrap_err();
    assert!(failure.message.contains("mixed"), "{failure}");
}

#[test]
fn steps_are_short_enough_for_every_timing() {
    assert!(world::STEP <= Duration::from_millis(50));
}

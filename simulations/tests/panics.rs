//! Panics inside a simulation are told, with the seed that leads to them. The threads that panicked stand still for good, so this ends
//! without waiting for them.
#![allow(clippy::print_stdout)]

use std::process::exit;

use hirsel_sim::bug::Bug;
use hirsel_sim::check::Rule;
use hirsel_sim::entropy::with_seed;
use hirsel_sim::scenario::{Scenario, live_with};
use hirsel_sim::trace::Trace;

fn a_panic_inside_is_returned() {
    let words = with_seed(1, || panic!("inside")).expect_err("it panicked");
    assert!(words.contains("inside"), "{words}");
}

fn an_agent_that_panics_is_found() {
    let violations = live_with(1, Scenario::Calm, Trace::default(), Bug::Panics).violations;
    let found = violations.iter().any(|it| it.rule == Rule::Alive && it.message.contains("a planted mistake"));
    assert!(found, "{violations:?}");
}

fn main() {
    let tests: [(&str, fn()); 2] = [
        ("a_panic_inside_is_returned", a_panic_inside_is_returned),
        ("an_agent_that_panics_is_found", an_agent_that_panics_is_found),
    ];
    let filter: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let mut failed = 0;
    for (name, test) in tests {
        if !filter.is_empty() && !filter.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        let sound = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if sound { "ok" } else { "FAILED" });
        failed += i32::from(!sound);
    }
    exit(failed.min(1) * 101);
}

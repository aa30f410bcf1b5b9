//! The real host with real processes. This executable is its own shim and guard: started as `real_host shim DIR` it becomes one.
#![allow(clippy::print_stdout, missing_docs)]

use std::path::Path;
use std::process::exit;

mod fixture;
mod groups;
mod guard;
mod life;
mod loss;
mod surroundings;

type Test = (&'static str, fn());

macro_rules! tests {
    ($($module:ident: $($name:ident),+ $(,)?;)+) => {
        &[$($((stringify!($name), || fixture::run($module::$name)),)+)+]
    };
}

const TESTS: &[Test] = tests! {
    life: a_program_runs_and_its_exit_status_and_output_are_learned,
        what_is_not_to_be_seen_reaches_the_program_and_no_file,
        a_signal_reaches_the_program_and_its_answer_is_learned,
        every_descendant_ends_with_its_program,
        a_kill_reaches_descendants_that_left_the_session,
        an_id_runs_once_and_again_after_its_end_with_its_output_going_on,
        a_start_that_nobody_waits_for_goes_on,
        what_is_forgotten_leaves_nothing_behind,
        at_its_deadline_a_program_ends_with_all_its_descendants_unless_it_is_put_off;
    loss: an_agent_that_starts_anew_adopts_what_runs_and_learns_how_it_ends,
        an_end_while_no_agent_runs_is_learned_by_the_next,
        a_program_whose_shim_is_killed_is_ended_and_lost,
        a_program_with_a_deadline_ends_with_its_shim_though_no_agent_looks,
        descendants_are_ended_too_when_shim_and_program_are_killed,
        a_shim_told_to_end_asks_its_program_to_stop,
        what_cannot_be_read_is_removed_and_ended,
        a_node_can_be_switched_off_from_outside,
        a_full_disk_neither_stops_a_program_nor_hides_its_end;
    guard: what_has_a_frozen_shim_ends_at_its_deadline_and_the_agent_learns_it,
        what_has_a_frozen_shim_ends_whole_without_control_groups_too,
        a_program_whose_shim_is_gone_ends_at_its_deadline_with_what_it_left_behind,
        a_guard_is_there_only_while_something_has_a_deadline_and_goes_on_without_an_agent,
        a_guard_that_is_killed_is_started_again_and_knows_what_it_knew,
        a_deadline_that_the_next_agent_makes_sooner_holds_for_the_guard_and_for_the_shim,
        a_guard_that_stands_still_is_replaced,
        without_a_guard_nothing_with_a_deadline_begins_and_no_deadline_moves,
        what_the_first_agents_say_is_understood_and_anything_else_harms_nothing;
    groups: a_program_in_a_group_ends_whole_whatever_it_does_to_hide,
        a_group_that_nobody_knows_is_ended_by_the_next_agent,
        nothing_begins_in_a_group_that_was_removed;
    surroundings: the_environment_is_exactly_the_given_one,
        nothing_the_agent_has_open_reaches_a_program,
        what_cannot_be_started_says_why_and_is_listed_as_lost,
        what_an_operator_has_run_is_waited_for_and_ends_with_all_it_began,
        a_program_runs_as_the_user_it_was_given,
        much_output_is_rotated_and_its_end_is_kept,
        signals_and_limits_are_those_of_a_fresh_process,
        a_shim_is_small,
        no_zombie_is_left;
};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["shim", folder] => exit(hirsel_role::host::shim::main(Path::new(folder))),
        ["guard", folder] => exit(hirsel_role::host::guard::main(Path::new(folder))),
        _ => {}
    }
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let chosen = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    let list = arguments.iter().any(|argument| argument == "--list");
    let mut failed = 0;
    for (name, test) in TESTS.iter().filter(|(name, _)| chosen(name)) {
        if list {
            println!("{name}: test");
        } else if std::panic::catch_unwind(test).is_ok() {
            println!("test {name} ... ok");
        } else {
            println!("test {name} ... FAILED");
            failed += 1;
        }
    }
    exit(if failed == 0 { 0 } else { 101 });
}

//! Stories of the compute role on a host in memory, in virtual time.
#![allow(missing_docs)]

use std::time::Duration;

use hirsel_model::Timestamp;
use hirsel_model::plan::Phase;
use hirsel_model::report::{Bound, InstanceState, RoleState};
use hirsel_model::spec::ServiceSpec;
use hirsel_role::host::ProcessState;

mod fake;
mod fixture;

use fixture::{Node, id, service, with_check};

const WEB: &str = "shop/web/1";

#[tokio::test(start_paused = true)]
async fn an_instance_is_started_with_a_port_of_its_own_and_becomes_healthy() {
    let mut on = Node::new();
    on.order(WEB, with_check(service("serve")));
    on.until("it runs", |now| now.state(WEB) == InstanceState::Running).await;
    let facts = on.facts(WEB);
    assert!(facts.healthy && facts.restarts == 0 && (20_000..=20_009).contains(&facts.port), "{facts:?}");
    assert_eq!(on.report.state, RoleState::Running);
    assert_eq!(on.report.generation, on.order.generation);
    let door = on.doors.table().remove(&id(WEB)).unwrap();
    assert_eq!(door.to_string(), format!("127.0.0.9:{}", facts.port));
    let env = on.host.spec(WEB).env;
    assert_eq!((env["PORT"].as_str(), env["HIRSEL_INSTANCE"].as_str()), (facts.port.to_string().as_str(), WEB));
}

#[tokio::test(start_paused = true)]
async fn without_a_check_it_is_healthy_while_it_runs() {
    let mut on = Node::new();
    on.order(WEB, service("mute"));
    on.until("it runs", |now| now.state(WEB) == InstanceState::Running).await;
    assert!(on.facts(WEB).healthy);
    on.host.end(WEB, ProcessState::Exited { code: 0 });
    on.until("it rests", |now| now.state(WEB) == InstanceState::Waiting).await;
    assert!(!on.facts(WEB).healthy && on.doors.table().is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_that_starts_slowly_is_starting_until_its_check_passes() {
    let mut on = Node::new();
    on.order(WEB, with_check(service("after 3000")));
    on.until("it is started", |now| now.state(WEB) == InstanceState::Starting).await;
    assert!(!on.facts(WEB).healthy);
    assert_eq!(on.report.state, RoleState::Starting);
    on.until("it is healthy", |now| now.facts(WEB).healthy).await;
    assert!((3.0..3.5).contains(&on.seconds()), "{}", on.seconds());
}

#[tokio::test(start_paused = true)]
async fn one_that_falls_ill_is_unhealthy_after_some_checks_and_healthy_after_one() {
    let mut on = Node::new();
    on.order(WEB, with_check(service("serve")));
    on.until("it is healthy", |now| now.facts(WEB).healthy).await;
    on.host.set_ill(WEB, true);
    let begun = on.seconds();
    on.until("it is unhealthy", |now| !now.facts(WEB).healthy).await;
    assert!((2.0..3.5).contains(&(on.seconds() - begun)), "three checks, a second apart");
    assert_eq!(on.facts(WEB).state, InstanceState::Running);
    assert_eq!(on.facts(WEB).message.as_deref(), Some("GET /healthz: status 503"));
    on.host.set_ill(WEB, false);
    on.until("it is healthy", |now| now.facts(WEB).healthy).await;
    assert_eq!(on.host.starts(WEB), 1, "a check starts nothing anew");
}

#[tokio::test(start_paused = true)]
async fn a_check_that_hangs_keeps_nobody_else() {
    let mut on = Node::new();
    on.order(WEB, with_check(service("hang")));
    on.order("shop/web/2", with_check(service("serve")));
    on.until("the other is healthy", |now| now.facts("shop/web/2").healthy).await;
    assert!(on.seconds() < 0.5, "{}", on.seconds());
    on.run_for(Duration::from_secs(5)).await;
    assert_eq!(on.state(WEB), InstanceState::Starting);
    assert_eq!(on.facts(WEB).message.as_deref(), Some("no answer in 500 ms"));
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_slows_down_and_says_why() {
    let mut on = Node::new();
    on.order(WEB, service("crash 50"));
    on.order("shop/web/2", service("serve"));
    on.run_for(Duration::from_secs(300)).await;
    let starts = on.host.start_times(WEB);
    let rests: Vec<f64> = starts.windows(2).map(|two| two[1] - two[0]).collect();
    for (rest, expected) in rests.iter().zip([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]) {
        assert!((expected + 0.04..expected + 0.2).contains(rest), "{rests:?}");
    }
    let facts = on.facts(WEB);
    assert_eq!(u64::from(facts.restarts), starts.len() as u64 - 1);
    assert_eq!(facts.message.as_deref(), Some("exited with 3: no such table"));
    assert_eq!(on.report.state, RoleState::Degraded);
    assert_eq!(on.report.message.as_deref(), Some("shop/web/1 fails: exited with 3: no such table"));
    assert!(on.facts("shop/web/2").healthy);
}

#[tokio::test(start_paused = true)]
async fn one_that_ran_for_a_minute_starts_again_at_once() {
    let mut on = Node::new();
    on.order(WEB, service("crash 70000"));
    on.run_for(Duration::from_secs(400)).await;
    let starts = on.host.start_times(WEB);
    assert!(starts.windows(2).all(|two| (70.0..70.5).contains(&(two[1] - two[0]))), "{starts:?}");
    assert_eq!(on.report.state, RoleState::Running);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_listed_is_asked_to_stop_and_leaves_nothing() {
    let mut on = Node::new();
    on.order(WEB, service("serve"));
    on.until("it runs", |now| now.state(WEB) == InstanceState::Running).await;
    on.unlist(WEB);
    on.until("it stops", |now| now.knows(WEB) && now.state(WEB) == InstanceState::Stopping).await;
    assert!(!on.facts(WEB).healthy);
    on.until("it is gone", |now| !now.knows(WEB)).await;
    assert_eq!(on.host.signals(WEB), [15]);
    assert!(on.host.is_empty());
    assert_eq!(on.report.state, RoleState::Stopped);
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_listen_is_killed_after_its_grace() {
    let mut on = Node::new();
    let mut deaf = service("deaf");
    deaf.stop.grace_ms = 4_000;
    deaf.stop.signal = 2;
    on.order(WEB, deaf);
    on.until("it runs", |now| now.state(WEB) == InstanceState::Running).await;
    on.unlist(WEB);
    let begun = on.seconds();
    on.until("it is gone", |now| !now.knows(WEB)).await;
    assert!((4.0..4.5).contains(&(on.seconds() - begun)));
    assert_eq!(on.host.signals(WEB), [2, 9]);
}

#[tokio::test(start_paused = true)]
async fn a_draining_one_goes_on_but_is_not_started_again() {
    let mut on = Node::new();
    on.order(WEB, service("serve"));
    on.until("it runs", |now| now.state(WEB) == InstanceState::Running).await;
    on.set_phase(WEB, Phase::Draining);
    on.run_for(Duration::from_secs(5)).await;
    assert_eq!(on.state(WEB), InstanceState::Running);
    on.host.end(WEB, ProcessState::Exited { code: 0 });
    on.run_for(Duration::from_secs(60)).await;
    assert_eq!((on.state(WEB), on.host.starts(WEB)), (InstanceState::Ended, 1));
    on.unlist(WEB);
    on.until("it is forgotten", |now| !now.knows(WEB)).await;
    assert!(on.host.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_update_runs_old_and_new_beside_each_other_as_ordered() {
    let mut on = Node::new();
    on.order(WEB, with_check(service("serve")));
    on.until("the old one is healthy", |now| now.facts(WEB).healthy).await;
    let mut newer = with_check(service("after 500"));
    newer.revision.0 = 2;
    on.order("shop/web/2", newer);
    on.until("the new one is healthy", |now| now.facts("shop/web/2").healthy).await;
    assert!(on.facts(WEB).healthy && on.facts(WEB).port != on.facts("shop/web/2").port);
    assert_eq!(on.facts("shop/web/2").revision.0, 2);
    on.set_phase(WEB, Phase::Draining);
    on.unlist(WEB);
    on.until("the old one is gone", |now| !now.knows(WEB)).await;
    assert!(on.facts("shop/web/2").healthy);
}

#[tokio::test(start_paused = true)]
async fn an_older_instance_that_ends_is_started_again_the_old_way() {
    let mut on = Node::new();
    on.order(WEB, service("serve old"));
    on.until("it runs", |now| now.state(WEB) == InstanceState::Running).await;
    // The spec went on; this instance is to be replaced, but not yet.
    let mut newer = service("serve new");
    newer.revision.0 = 2;
    on.order_older(WEB, newer);
    on.run_for(Duration::from_secs(5)).await;
    assert_eq!(on.host.starts(WEB), 1);
    on.restart();
    on.host.end(WEB, ProcessState::Killed { signal: 11 });
    on.until("it runs again", |now| now.facts(WEB).restarts == 1 && now.facts(WEB).healthy).await;
    assert_eq!(on.host.spec(WEB).command, ["serve", "old"]);
}

#[tokio::test(start_paused = true)]
async fn a_role_that_starts_anew_adopts_without_a_moment_of_illness() {
    let mut on = Node::new();
    on.order(WEB, with_check(service("serve")));
    on.order("shop/web/2", service("serve"));
    on.until("all run", |now| now.facts(WEB).healthy && now.facts("shop/web/2").healthy).await;
    on.unlist("shop/web/2");
    on.restart();
    on.converge().await;
    assert!(on.facts(WEB).healthy, "{:?}", on.facts(WEB));
    on.until("what is not listed is gone", |now| !now.knows("shop/web/2")).await;
    assert_eq!((on.host.starts(WEB), on.host.signals(WEB).len()), (1, 0));
    // One that never passed a check is not taken for healthy.
    on.order("shop/web/3", with_check(service("hang")));
    on.until("it starts", |now| now.knows("shop/web/3") && now.state("shop/web/3") == InstanceState::Starting).await;
    on.restart();
    on.converge().await;
    assert!(!on.facts("shop/web/3").healthy);
}

#[tokio::test(start_paused = true)]
async fn restarts_are_still_counted_by_a_role_that_starts_anew() {
    let mut on = Node::new();
    on.order(WEB, service("serve"));
    on.until("it runs", |now| now.state(WEB) == InstanceState::Running).await;
    for count in 1..=3 {
        on.host.end(WEB, ProcessState::Exited { code: 1 });
        on.until("it runs again", |now| now.facts(WEB).restarts == count && now.facts(WEB).healthy).await;
    }
    on.restart();
    on.converge().await;
    assert_eq!(on.facts(WEB).restarts, 3);
}

#[tokio::test(start_paused = true)]
async fn a_port_that_is_taken_is_changed_and_others_are_kept() {
    let mut on = Node::new();
    on.order(WEB, service("taken"));
    on.order("shop/web/2", service("serve"));
    on.until("it failed and started again", |now| now.host.starts(WEB) >= 3).await;
    let ports = on.host.ports(WEB);
    assert!(ports.windows(2).all(|two| two[0] != two[1]), "{ports:?}");
    on.until("its words are known", |now| now.facts(WEB).message.as_deref().is_some_and(|m| m.contains("in use")))
        .await;

    on.run_for(Duration::from_secs(70)).await;
    let port = on.facts("shop/web/2").port;
    on.host.end("shop/web/2", ProcessState::Exited { code: 1 });
    on.until("the other runs again", |now| now.facts("shop/web/2").restarts == 1 && now.facts("shop/web/2").healthy)
        .await;
    assert_eq!(on.facts("shop/web/2").port, port);
}

#[tokio::test(start_paused = true)]
async fn more_instances_than_ports_wait_and_say_so() {
    let mut on = Node::new();
    for number in 1..=11 {
        on.order(&format!("shop/web/{number}"), service("serve"));
    }
    on.run_for(Duration::from_secs(5)).await;
    let running = (1..=11).filter(|number| on.facts(&format!("shop/web/{number}")).healthy).count();
    assert_eq!(running, 10);
    assert_eq!(on.host.distinct_running_ports(), 10);
    assert_eq!(on.report.state, RoleState::Degraded);
    assert!(on.report.message.as_deref().unwrap().contains("no free port between 20000 and 20009"), "{:?}", on.report);
}

#[tokio::test(start_paused = true)]
async fn a_command_with_an_unknown_variable_waits_and_says_so() {
    let mut on = Node::new();
    let mut wrong = service("serve");
    wrong.command.push("${PROT}".into());
    on.order(WEB, wrong);
    on.run_for(Duration::from_secs(1)).await;
    assert_eq!((on.state(WEB), on.host.starts(WEB)), (InstanceState::Waiting, 0));
    assert!(on.facts(WEB).message.as_deref().unwrap().starts_with("command: no variable \"PROT\""));
}

#[tokio::test(start_paused = true)]
async fn what_the_host_refuses_to_start_is_tried_again_later() {
    let mut on = Node::new();
    on.order(WEB, service("refused"));
    on.run_for(Duration::from_secs(10)).await;
    assert!((6..=8).contains(&on.host.starts(WEB)), "{:?}", on.host.start_times(WEB));
    assert_eq!(on.facts(WEB).message.as_deref(), Some("could not start \"refused\""));
    assert_eq!(on.report.state, RoleState::Degraded);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_hangs_does_not_hang_the_role_nor_start_anything_twice() {
    let mut on = Node::new();
    on.order(WEB, service("serve"));
    on.until("it runs", |now| now.state(WEB) == InstanceState::Running).await;
    on.host.set_hanging(true);
    on.order("shop/web/2", service("serve"));
    on.converge().await;
    assert_eq!(on.report.state, RoleState::Degraded);
    assert!(on.facts(WEB).healthy, "what was last known");
    on.host.set_hanging(false);
    on.until("both run", |now| now.knows("shop/web/2") && now.facts("shop/web/2").healthy).await;
    assert_eq!(on.host.starts(WEB) + on.host.starts("shop/web/2"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_slow_start_is_begun_once_even_by_a_role_that_starts_anew_meanwhile() {
    let mut on = Node::new();
    on.host.set_start_takes(Duration::from_secs(3));
    on.order(WEB, service("serve"));
    on.run_for(Duration::from_secs(1)).await;
    on.restart();
    on.until("it runs", |now| now.knows(WEB) && now.facts(WEB).healthy).await;
    on.run_for(Duration::from_secs(5)).await;
    assert_eq!(on.host.starts(WEB), 1);
    on.host.set_start_takes(Duration::from_secs(3));
    on.order("shop/web/2", service("serve"));
    on.run_for(Duration::from_secs(1)).await;
    on.unlist("shop/web/2");
    on.run_for(Duration::from_secs(10)).await;
    assert!(!on.knows("shop/web/2") && !on.host.runs("shop/web/2"), "what was begun and is not wanted is stopped");
}

#[tokio::test(start_paused = true)]
async fn an_order_that_says_stop_stops_everything() {
    let mut on = Node::new();
    for number in 1..=3 {
        on.order(&format!("shop/web/{number}"), service("serve"));
    }
    on.until("all run", |now| (1..=3).all(|number| now.facts(&format!("shop/web/{number}")).healthy)).await;
    on.stop();
    on.until("nothing is left", |now| now.host.is_empty()).await;
    on.until("stopped", |now| now.report.state == RoleState::Stopped).await;
    assert!(on.doors.table().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_quiet_node_is_quiet() {
    let mut on = Node::new();
    on.order(WEB, with_check(service("serve")));
    on.until("it runs", |now| now.facts(WEB).healthy).await;
    let (writes, published) = (on.host.writes(), on.doors.published());
    let woken = on.woken;
    on.run_for(Duration::from_secs(60)).await;
    assert_eq!((on.host.writes(), on.doors.published()), (writes, published));
    assert_eq!(on.woken, woken, "nothing woke the loop");
}

#[tokio::test(start_paused = true)]
async fn an_instance_waits_for_the_value_of_its_secret_and_gets_it_in_its_environment_only() {
    let mut on = Node::new();
    let env = [("KEY".to_owned(), "k=${secret.key}".to_owned())].into();
    on.order(WEB, ServiceSpec { env, secrets: [("key".parse().unwrap(), 4)].into(), ..service("mute") });
    on.run_for(Duration::from_secs(5)).await;
    assert_eq!((on.state(WEB), on.host.starts(WEB)), (InstanceState::Waiting, 0));
    assert!(on.facts(WEB).message.unwrap().contains("waits for the values of its secrets"));
    on.tell("key", 3, "of another version");
    on.run_for(Duration::from_secs(1)).await;
    assert_eq!(on.host.starts(WEB), 0);
    on.tell("key", 4, "s3cret");
    on.until("it runs", |now| now.state(WEB) == InstanceState::Running).await;
    let spec = on.host.spec(WEB);
    assert_eq!(spec.secret_env["KEY"].0, "k=s3cret");
    assert!(!format!("{spec:?}").contains("s3cret"));
    assert!(!String::from_utf8_lossy(&spec.note).contains("s3cret"));
    assert_eq!(on.facts(WEB).restarts, 0, "waiting is no failure");
}

/// Only one at a time: it runs while it is granted, and a grant that is renewed reaches its shim.
#[tokio::test(start_paused = true)]
async fn an_exclusive_instance_starts_with_a_grant_and_its_deadline_moves_with_it() {
    let mut on = Node::new();
    on.order(WEB, ServiceSpec { exclusive: true, ..service("mute") });
    on.run_for(Duration::from_secs(5)).await;
    assert_eq!((on.state(WEB), on.host.starts(WEB)), (InstanceState::Waiting, 0));
    assert!(on.facts(WEB).message.unwrap().contains("waits for a grant"));
    on.grant(WEB);
    on.until("it runs", |now| now.state(WEB) == InstanceState::Running).await;
    let first = on.host.spec(WEB);
    assert_eq!(first.env["HIRSEL_FENCE"], ((1u64 << 24) + 1).to_string());
    assert_eq!(first.deadline, Some(Timestamp(7_000)), "two seconds after the question");
    on.run_for(Duration::from_millis(400)).await;
    on.grant(WEB);
    on.until("its shim was told", |now| now.host.spec(WEB).deadline > first.deadline).await;
    assert!(on.facts(WEB).healthy && on.host.starts(WEB) == 1);
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_instance_that_lost_its_grant_starts_again_with_the_next_one_and_a_higher_fence() {
    let mut on = Node::new();
    on.order(WEB, ServiceSpec { exclusive: true, ..service("mute") });
    on.grant(WEB);
    on.until("it runs", |now| now.state(WEB) == InstanceState::Running).await;
    let fence = |on: &Node| on.host.spec(WEB).env["HIRSEL_FENCE"].parse::<u64>().unwrap();
    let before = fence(&on);
    // Nobody renews it, and its shim ends it.
    on.run_for(Duration::from_secs(2)).await;
    on.host.end(WEB, ProcessState::lapsed());
    on.run_for(Duration::from_secs(60)).await;
    assert_eq!((on.state(WEB), on.host.starts(WEB)), (InstanceState::Waiting, 1), "not without a grant");
    on.restart();
    on.grant(WEB);
    on.until("it runs again", |now| now.state(WEB) == InstanceState::Running).await;
    assert!(fence(&on) > before);
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_ran_out_is_no_fault_of_the_program_and_costs_it_no_rest() {
    let mut on = Node::new();
    on.order(WEB, ServiceSpec { exclusive: true, ..service("mute") });
    for time in 1..=6 {
        on.grant(WEB);
        on.until("it runs", |now| now.state(WEB) == InstanceState::Running).await;
        assert_eq!(on.host.starts(WEB), time);
        on.host.end(WEB, ProcessState::lapsed());
        on.until("its end was seen", |now| now.state(WEB) != InstanceState::Running).await;
    }
    assert_eq!(on.report.state, RoleState::Starting, "a program that failed so often would be told of");
}

/// A promise keeps the place of an instance elsewhere, whatever is granted here.
#[tokio::test(start_paused = true)]
async fn what_was_promised_is_kept_though_a_grant_came() {
    let mut on = Node::new();
    on.order(WEB, ServiceSpec { exclusive: true, ..service("mute") });
    on.run_for(Duration::from_secs(3)).await;
    on.promise("shop/web/2");
    on.grant(WEB);
    on.run_for(Duration::from_millis(400)).await;
    assert_eq!(on.host.starts(WEB), 0);
    for _ in 0..6 {
        on.grant(WEB);
        on.run_for(Duration::from_millis(400)).await;
    }
    assert_eq!(on.host.starts(WEB), 1, "the promise is over");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_starts_anew_leaves_an_exclusive_instance_to_its_shim_until_it_is_granted_again() {
    let mut on = Node::new();
    on.order(WEB, ServiceSpec { exclusive: true, ..service("mute") });
    on.grant(WEB);
    on.until("it runs", |now| now.state(WEB) == InstanceState::Running).await;
    let before = on.host.spec(WEB).deadline;
    on.restart();
    on.run_for(Duration::from_secs(1)).await;
    assert!(on.host.runs(WEB) && on.host.signals(WEB).is_empty() && on.host.spec(WEB).deadline == before);
    on.grant(WEB);
    on.until("its shim was told", |now| now.host.spec(WEB).deadline > before).await;
    assert_eq!(on.host.starts(WEB), 1);
}

/// What guard and shim keep is told, so that the agent may go; and the next one tells them a sooner end before it says so.
#[tokio::test(start_paused = true)]
async fn a_long_grant_is_told_and_the_next_agent_makes_it_shorter_with_its_first_grant() {
    let mut on = Node::new();
    on.order(WEB, ServiceSpec { exclusive: true, ..service("mute") });
    on.grant(WEB);
    on.until("it runs", |now| now.facts(WEB).bound == Bound::Grant).await;
    on.grant(WEB);
    let end = on.lengthen(WEB, 15_000);
    on.until("it is told", |now| now.facts(WEB).bound == Bound::Long).await;
    assert_eq!(on.host.spec(WEB).deadline, Some(end));
    on.grant(WEB);
    on.run_for(Duration::from_millis(400)).await;
    assert_eq!(
        (on.host.spec(WEB).deadline, on.facts(WEB).bound),
        (Some(end), Bound::Long),
        "it is not made shorter here"
    );
    on.restart();
    on.run_for(Duration::from_secs(5)).await;
    assert_eq!(
        (on.host.spec(WEB).deadline, on.facts(WEB).bound),
        (Some(end), Bound::Unknown),
        "nothing is granted yet"
    );
    on.host.set_silent_guard(true);
    on.grant(WEB);
    on.run_for(Duration::from_millis(400)).await;
    assert_eq!((on.host.spec(WEB).deadline, on.facts(WEB).bound), (Some(end), Bound::Unknown), "nobody took it");
    on.host.set_silent_guard(false);
    on.grant(WEB);
    on.until("it is told", |now| now.facts(WEB).bound == Bound::Grant).await;
    assert!(on.host.spec(WEB).deadline.is_some_and(|sooner| sooner < end));
    assert_eq!(on.host.starts(WEB), 1);
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_the_guard_does_not_take_is_told_until_it_takes_one_again() {
    let mut on = Node::new();
    on.order(WEB, ServiceSpec { exclusive: true, ..service("mute") });
    on.grant(WEB);
    on.until("it runs", |now| now.state(WEB) == InstanceState::Running).await;
    on.host.set_silent_guard(true);
    on.run_for(Duration::from_millis(400)).await;
    on.grant(WEB);
    on.until("it is told", |now| now.report.state == RoleState::Degraded).await;
    let told = |on: &Node| (on.report.message.clone().unwrap_or_default(), on.facts(WEB).message.unwrap_or_default());
    let (role, instance) = told(&on);
    assert_eq!(role, "the grant of shop/web/1 is not prolonged: the guard of this host does not answer");
    assert!(instance.contains("ends with it: the guard of this host does not answer"), "{instance}");
    on.host.set_silent_guard(false);
    on.run_for(Duration::from_millis(400)).await;
    on.grant(WEB);
    on.until("all is well", |now| now.report.state == RoleState::Running).await;
    assert_eq!(told(&on), Default::default());
    assert_eq!(on.host.starts(WEB), 1);
}

#[tokio::test(start_paused = true)]
async fn what_guard_and_shim_do_not_end_with_its_grant_is_killed() {
    let mut on = Node::new();
    on.order(WEB, ServiceSpec { exclusive: true, ..service("mute") });
    on.grant(WEB);
    on.until("it runs", |now| now.state(WEB) == InstanceState::Running).await;
    on.run_for(Duration::from_secs(2)).await;
    assert_eq!(on.host.signals(WEB), []);
    on.until("it has ended", |now| !now.host.runs(WEB)).await;
    assert!(on.host.signals(WEB).contains(&9) && on.seconds() < 4.0, "{}", on.seconds());
}

/// What is about to start may still act: the node does not say that it has let go.
#[tokio::test(start_paused = true)]
async fn an_instance_whose_start_is_under_way_has_not_ended() {
    let mut on = Node::new();
    on.host.set_start_takes(Duration::from_secs(3));
    on.order(WEB, ServiceSpec { exclusive: true, ..service("mute") });
    on.grant(WEB);
    on.run_for(Duration::from_millis(500)).await;
    on.unlist(WEB);
    on.run_for(Duration::from_secs(1)).await;
    assert_eq!(on.state(WEB), InstanceState::Stopping);
    on.until("it is gone", |now| !now.knows(WEB)).await;
    assert!(on.seconds() > 3.0);
}

#[tokio::test(start_paused = true)]
async fn an_instance_over_which_the_role_panics_is_set_aside_and_the_others_go_on() {
    let mut on = Node::new();
    on.order("shop/poison/2", service("serve"));
    on.order(WEB, service("serve"));
    on.until("the other one runs", |now| now.state(WEB) == InstanceState::Running).await;
    let facts = on.facts("shop/poison/2");
    assert!(facts.message.as_ref().is_some_and(|words| words.contains("no folder for shop/poison/2")), "{facts:?}");
    assert_eq!((facts.state, on.report.state), (InstanceState::Waiting, RoleState::Degraded));
    assert!(on.report.message.as_ref().is_some_and(|words| words.contains("shop/poison/2")), "{:?}", on.report.message);
    // It costs nothing while its order stays, and is tried again when that changes.
    on.host.end(WEB, ProcessState::Exited { code: 1 });
    on.until("the other one is healed", |now| now.facts(WEB).restarts == 1 && now.facts(WEB).healthy).await;
}

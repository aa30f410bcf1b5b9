//! What commands do, one sentence each.

use std::collections::{BTreeMap, BTreeSet};

use super::samples::{adopt, app, cluster, instance, named, node, place, service, text_event, token};
use super::*;
use crate::event::{Cause, EVENTS_MAX, EventKind, MESSAGE_BYTES_MAX, REJECTED_MAX, Rejected};
use crate::plan::{Phase, Verdict, VerdictKind};
use crate::spec::{Capacity, RouteSpec, Target, UpdateOrder, UpdateSpec};

/// Applies `command` after everything before it.
fn run(state: &mut ControlState, command: Command) -> Outcome {
    let index = state.applied.next();
    state.apply(index, Entry { at: WallTime(1_000), by: "admin@n1".into(), if_index: None, command })
}

fn done(state: &mut ControlState, command: Command) {
    let outcome = run(state, command);
    assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
}

/// The words of the refusal, after seeing that nothing else came of it.
fn refused(state: &mut ControlState, command: Command) -> String {
    let mut before = state.clone();
    let outcome = run(state, command);
    before.applied = state.applied;
    assert_eq!(*state, before, "a refused command changed something");
    match outcome {
        Outcome::Refused(refusal) => refusal.to_string(),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn last(state: &ControlState) -> (&str, &str) {
    state.log.events.back().map(|event| (event.subject.as_str(), event.message.as_str())).unwrap_or_default()
}

fn revision(state: &ControlState, service: &str) -> u64 {
    state.spec.apps[&named("shop")].services[&named(service)].revision.0
}

#[test]
fn a_cluster_is_founded_once_and_begins_with_node_1() {
    let mut state = ControlState::default();
    let found = || Command::Found {
        cluster: ClusterInfo { id: ClusterId("c1".into()), ..Default::default() },
        node: node("n1", 1),
    };
    let outcome = run(&mut state, found());
    assert_eq!(outcome, Outcome::Admitted { index: LogIndex(1), node: NodeId(1), name: named("n1") });
    assert_eq!((state.next_node, state.spec_index), (NodeId(2), LogIndex(1)));
    assert_eq!(refused(&mut state, found()), "cluster c1 was founded before");
}

#[test]
fn a_node_joins_under_its_name_and_the_next_number() {
    let mut state = cluster(1);
    done(&mut state, Command::NewToken { id: "t1".into(), record: token(None) });
    let outcome = run(&mut state, Command::Admit { node: node("db", 9), token: "t1".into() });
    assert_eq!(outcome, Outcome::Admitted { index: state.applied, node: NodeId(2), name: named("db") });
    assert_eq!(last(&state), ("db", "db joined (10.0.0.9:7400, zone a) (by admin@n1)"));
}

#[test]
fn a_name_that_is_taken_gets_the_next_free_number() {
    let mut state = cluster(1);
    done(&mut state, Command::NewToken { id: "t1".into(), record: token(None) });
    for (key, expected) in [(2, "n1-2"), (3, "n1-3")] {
        let outcome = run(&mut state, Command::Admit { node: node("n1", key), token: "t1".into() });
        assert!(matches!(outcome, Outcome::Admitted { name, .. } if name.as_str() == expected));
    }
    // The longest name still has room for the number, and never ends in two dashes.
    let long = format!("{}-{}", "a".repeat(60), "bb");
    for (key, expected) in [(4, long.clone()), (5, format!("{}-2", "a".repeat(60)))] {
        let outcome = run(&mut state, Command::Admit { node: node(&long, key), token: "t1".into() });
        assert!(matches!(outcome, Outcome::Admitted { name, .. } if name.as_str() == expected));
    }
}

#[test]
fn a_node_that_asks_again_with_its_key_is_told_what_it_became() {
    let mut state = cluster(1);
    done(&mut state, Command::NewToken { id: "t1".into(), record: token(Some(1)) });
    let first = run(&mut state, Command::Admit { node: node("n2", 2), token: "t1".into() });
    let again = run(&mut state, Command::Admit { node: node("n2", 2), token: "t1".into() });
    assert!(matches!(first, Outcome::Admitted { node: NodeId(2), .. }));
    assert!(matches!(again, Outcome::Admitted { node: NodeId(2), .. }), "{again:?}");
    assert_eq!(state.spec.nodes.len(), 2);
}

#[test]
fn a_token_that_is_not_good_is_refused_with_the_reason() {
    let mut state = cluster(1);
    let mut give = |id: &str, record: TokenRecord| done(&mut state, Command::NewToken { id: id.into(), record });
    give("once", token(Some(1)));
    give("old", TokenRecord { expires_at: WallTime(1_000), ..token(None) });
    give("person", TokenRecord { grants: TokenGrants::Admin, ..token(None) });
    give("back", token(None));
    done(&mut state, Command::RevokeToken { id: "back".into() });
    done(&mut state, Command::Admit { node: node("n2", 2), token: "once".into() });
    let expected = [
        ("once", "used up"),
        ("old", "expired"),
        ("person", "it is for people, not for joining"),
        ("back", "revoked"),
        ("none", "unknown here"),
    ];
    for (id, reason) in expected {
        let words = refused(&mut state, Command::Admit { node: node("n3", 3), token: id.into() });
        assert_eq!(words, format!("token {id} is not valid: {reason}; try on a member: hirsel token new"));
    }
}

#[test]
fn tokens_that_are_no_longer_good_make_room_for_new_ones() {
    let mut state = cluster(1);
    for number in state.tokens.len()..limits::TOKENS_MAX {
        done(&mut state, Command::NewToken { id: format!("t{number}"), record: token(None) });
    }
    let words = refused(&mut state, Command::NewToken { id: "more".into(), record: token(None) });
    assert_eq!(words, "number of tokens of 1001 exceeds 1000");
    done(&mut state, Command::RevokeToken { id: "t3".into() });
    done(&mut state, Command::NewToken { id: "more".into(), record: token(None) });
    assert!(!state.tokens.contains_key("t3") && state.tokens.contains_key("more"));
}

#[test]
fn the_same_announcement_twice_changes_nothing_and_a_new_start_is_news() {
    let mut state = cluster(1);
    let announce = |incarnation| Command::Announce {
        node: NodeId(1),
        incarnation: Incarnation(incarnation),
        addr: "10.0.0.1:7400".parse().expect("an address"),
        capacity: Capacity::default(),
        built: [RoleName::lb(), RoleName::compute(), RoleName::mgmt()].into(),
        version: "0.1.0".into(),
    };
    let before = (state.spec_index, state.log.last);
    done(&mut state, announce(1));
    assert_eq!((state.spec_index, state.log.last), before);
    done(&mut state, announce(2));
    assert_eq!(state.spec_index, state.applied);
    assert_eq!(last(&state).1, "n1: its agent started again (by admin@n1)");
    assert_eq!(refused(&mut state, announce(1)), "start of n1: expected 1, found 2");
}

#[test]
fn the_feature_level_rises_only_if_every_member_as_it_runs_now_understands_it() {
    let mut state = cluster(2);
    state.cluster.feature_level = 1;
    let raise = |to, understood: &[(u64, u64)]| Command::RaiseLevel {
        to,
        understood: understood.iter().map(|(node, start)| (NodeId(*node), Incarnation(*start))).collect(),
    };
    let words = refused(&mut state, raise(2, &[(1, 1)]));
    assert!(words.contains("nobody heard n2, as it runs now, say that it understands level 2"), "{words}");
    assert!(refused(&mut state, raise(2, &[(1, 1), (2, 7)])).contains("n2"));
    done(&mut state, raise(2, &[(1, 1), (2, 1), (9, 9)]));
    assert_eq!(state.cluster.feature_level, 2);
    assert_eq!(last(&state).0, "upgrade");
    // It never falls, and to ask twice does no harm.
    let before = state.log.last;
    done(&mut state, raise(1, &[]));
    done(&mut state, raise(2, &[]));
    assert_eq!((state.cluster.feature_level, state.log.last), (2, before));
}

#[test]
fn a_command_made_for_another_state_of_the_spec_is_refused() {
    let mut state = cluster(2);
    let mut entry = Entry {
        at: WallTime(0),
        by: String::new(),
        if_index: Some(LogIndex(99)),
        command: Command::SetAvailability { node: NodeId(2), availability: Availability::Draining },
    };
    let outcome = state.apply(LogIndex(50), entry.clone());
    let Outcome::Refused(refusal) = outcome else { panic!("{outcome:?}") };
    assert!(refusal.to_string().starts_with("index of the last change: expected 99, found"), "{refusal}");
    entry.if_index = Some(state.spec_index);
    assert_eq!(state.apply(LogIndex(51), entry), Outcome::Done { index: LogIndex(51) });
    assert_eq!(last(&state), ("n2", "n2 is drained: what it has moves away"));
}

#[test]
fn the_last_node_neither_leaves_nor_is_removed() {
    let mut state = cluster(2);
    let leave = |node| Command::SetAvailability { node: NodeId(node), availability: Availability::Leaving };
    done(&mut state, leave(1));
    assert!(refused(&mut state, leave(2)).contains("n2 is the last node that stays"));
    done(&mut state, Command::RemoveNode { node: NodeId(1) });
    assert_eq!(refused(&mut state, Command::RemoveNode { node: NodeId(2) }), "refused: n2 is the last node");
    assert_eq!(refused(&mut state, Command::RemoveNode { node: NodeId(1) }), "no node named \"1\"");
}

#[test]
fn a_node_is_removed_when_nothing_is_left_on_it_or_when_it_was_judged() {
    let mut state = cluster(3);
    done(&mut state, Command::ApplyApp { app: named("shop"), spec: app(&[("web", service("serve"))]) });
    adopt(&mut state, |plan| {
        plan.voters.insert(NodeId(2));
        plan.instances.insert(instance("shop/web/1"), place(3, 1));
    });
    let words = refused(&mut state, Command::RemoveNode { node: NodeId(3) });
    assert_eq!(words, "refused: n3 still has instance shop/web/1; try: hirsel drain n3");
    assert!(refused(&mut state, Command::RemoveNode { node: NodeId(2) }).contains("n2 still has a vote"));
    adopt(&mut state, |plan| {
        let verdict = Verdict {
            kind: VerdictKind::Down,
            incarnation: Incarnation(1),
            since: Generation(2),
            evidence: String::new(),
        };
        plan.verdicts.insert(NodeId(3), verdict);
    });
    done(&mut state, Command::RemoveNode { node: NodeId(3) });
    let left = state.left.back().expect("it is remembered");
    assert_eq!((left.id, left.spec.name.as_str()), (NodeId(3), "n3"));
    assert_eq!(last(&state), ("n3", "n3 was removed: it is no member any more (by admin@n1)"));
}

#[test]
fn a_node_whose_disk_went_back_goes_on_under_another_number_and_keeps_what_was_said_of_it() {
    let mut state = cluster(3);
    let rejoin = |former, key| Command::Rejoin { former: NodeId(former), node: node("else", key) };
    state.cluster.feature_level = 1;
    assert!(refused(&mut state, rejoin(2, 9)).contains("needs feature level 2"));
    state.cluster.feature_level = 2;
    done(&mut state, Command::SetAvailability { node: NodeId(2), availability: Availability::Cordoned });
    let pins = RoleSpec { pins: [NodeId(2)].into(), ..RoleSpec::default() };
    done(&mut state, Command::SetRole { role: RoleName::lb(), spec: pins });
    adopt(&mut state, |plan| plan.voters = [NodeId(1), NodeId(2), NodeId(3)].into());
    let outcome = run(&mut state, rejoin(2, 9));
    let admitted = |index| Outcome::Admitted { index, node: NodeId(4), name: named("n2") };
    assert_eq!(outcome, admitted(state.applied));
    assert!(!state.spec.nodes.contains_key(&NodeId(2)) && state.left.back().expect("it left").id == NodeId(2));
    assert_eq!(state.spec.nodes[&NodeId(4)].availability, Availability::Cordoned);
    assert_eq!(state.spec.roles[&RoleName::lb()].pins, [NodeId(4)].into());
    assert!(last(&state).1.contains("n2 joined again as a new node (2 before, 4 now)"), "{:?}", last(&state));
    // Its answer was lost.
    let again = run(&mut state, rejoin(2, 9));
    assert_eq!(again, admitted(state.applied));
    assert!(refused(&mut state, rejoin(2, 8)).contains("no node named"));
}

#[test]
fn a_node_that_may_run_what_nobody_can_end_does_not_go_on_under_another_number() {
    let mut state = cluster(3);
    let update = UpdateSpec { order: UpdateOrder::StopFirst, ..UpdateSpec::default() };
    let web = ServiceSpec { exclusive: true, replicas: Replicas { min: 1, max: 1 }, update, ..service("serve") };
    let shop = app(&[("web", web)]);
    done(&mut state, Command::ApplyApp { app: named("shop"), spec: shop });
    let id = instance("shop/web/1");
    adopt(&mut state, |plan| drop(plan.instances.insert(id.clone(), place(2, 1))));
    let rejoin = || Command::Rejoin { former: NodeId(2), node: node("n2", 9) };
    assert!(refused(&mut state, rejoin()).contains("n2 may still run shop/web/1"));
    // What has a grant ends with it.
    adopt(&mut state, |plan| plan.instances.get_mut(&id).expect("it").exclusive = true);
    done(&mut state, rejoin());
}

#[test]
fn a_number_is_never_given_to_a_second_node() {
    let mut state = cluster(3);
    done(&mut state, Command::RemoveNode { node: NodeId(3) });
    done(&mut state, Command::NewToken { id: "t1".into(), record: token(None) });
    let outcome = run(&mut state, Command::Admit { node: node("n3", 33), token: "t1".into() });
    assert!(matches!(outcome, Outcome::Admitted { node: NodeId(4), .. }), "{outcome:?}");
}

#[test]
fn only_services_whose_way_of_running_changed_get_a_new_revision() {
    let mut state = cluster(1);
    let mut spec = app(&[("web", service("serve")), ("worker", service("work"))]);
    done(&mut state, Command::ApplyApp { app: named("shop"), spec: spec.clone() });
    assert_eq!((revision(&state, "web"), revision(&state, "worker")), (1, 1));

    let worker = spec.services.get_mut(&named::<ServiceName>("worker")).expect("a worker");
    worker.env.insert("LEVEL".into(), "debug".into());
    let web = spec.services.get_mut(&named::<ServiceName>("web")).expect("a web");
    web.replicas = Replicas { min: 4, max: 8 };
    web.constraints.insert("zone".into(), "b".into());
    done(&mut state, Command::ApplyApp { app: named("shop"), spec });
    assert_eq!(state.spec.apps[&named("shop")].revision, Revision(2));
    assert_eq!((revision(&state, "web"), revision(&state, "worker")), (1, 2));
    assert_eq!(last(&state), ("shop", "shop was applied: revision 2 (by admin@n1)"));
}

#[test]
fn applying_a_reverted_service_again_tries_it_again() {
    let mut state = cluster(1);
    let spec = app(&[("web", service("serve"))]);
    done(&mut state, Command::ApplyApp { app: named("shop"), spec: spec.clone() });
    adopt(&mut state, |plan| {
        plan.reverted.insert(named("shop"), BTreeMap::from([(named("web"), Revision(1))]));
    });
    done(&mut state, Command::ApplyApp { app: named("shop"), spec });
    assert_eq!(revision(&state, "web"), 2);
}

#[test]
fn scaling_changes_the_count_and_no_revision() {
    let mut state = cluster(1);
    done(&mut state, Command::ApplyApp { app: named("shop"), spec: app(&[("web", service("serve"))]) });
    let scale = |app: &str, service: &str, min, max| Command::Scale {
        app: named(app),
        service: named(service),
        replicas: Replicas { min, max },
    };
    done(&mut state, scale("shop", "web", 5, 9));
    assert_eq!(revision(&state, "web"), 1);
    assert_eq!(last(&state), ("shop", "shop/web was scaled from 2 to 5–9 (by admin@n1)"));
    assert_eq!(refused(&mut state, scale("shop", "wep", 1, 1)), "no service named \"shop/wep\"");
    assert_eq!(refused(&mut state, scale("shed", "web", 1, 1)), "no app named \"shed\"");
    assert!(refused(&mut state, scale("shop", "web", 3, 2)).contains("at least 3 is more than at most 2"));
    let most = limits::REPLICAS_MAX;
    done(&mut state, scale("shop", "web", 1, most));
    let words = refused(&mut state, scale("shop", "web", 1, most + 1));
    assert_eq!(words, "instances of \"web\" of 10001 exceeds 10000");
}

#[test]
fn a_restart_gives_one_service_or_all_a_new_revision() {
    let mut state = cluster(1);
    done(
        &mut state,
        Command::ApplyApp { app: named("shop"), spec: app(&[("web", service("a")), ("worker", service("b"))]) },
    );
    done(&mut state, Command::Restart { app: named("shop"), service: Some(named("web")) });
    assert_eq!((revision(&state, "web"), revision(&state, "worker")), (2, 1));
    done(&mut state, Command::Restart { app: named("shop"), service: None });
    assert_eq!((revision(&state, "web"), revision(&state, "worker")), (3, 3));
    assert!(refused(&mut state, Command::Restart { app: named("shop"), service: Some(named("x")) }).contains("shop/x"));
}

#[test]
fn a_former_description_is_kept_while_an_instance_runs_by_it() {
    let mut state = cluster(1);
    let apply = |state: &mut ControlState, command: &str| {
        done(state, Command::ApplyApp { app: named("shop"), spec: app(&[("web", service(command))]) });
    };
    let described = |state: &ControlState, revision| {
        state.service(&named("shop"), &named("web"), Revision(revision)).map(|service| service.command[0].clone())
    };
    apply(&mut state, "first");
    adopt(&mut state, |plan| drop(plan.instances.insert(instance("shop/web/1"), place(1, 1))));
    apply(&mut state, "second");
    apply(&mut state, "third");
    for (revision, command) in [(1, "first"), (2, "second"), (3, "third")] {
        assert_eq!(described(&state, revision).as_deref(), Some(command));
    }
    // No instance of the first any more: only the one before the newest stays, to go back to.
    adopt(&mut state, |plan| drop(plan.instances.insert(instance("shop/web/1"), place(1, 3))));
    assert_eq!(state.former[&named("shop")][&named("web")].keys().collect::<Vec<_>>(), [&Revision(2)]);
    // A removed application is described until its last instance is gone.
    done(&mut state, Command::RemoveApp { app: named("shop") });
    assert_eq!(described(&state, 3).as_deref(), Some("third"));
    adopt(&mut state, |plan| plan.instances.clear());
    assert_eq!(described(&state, 3), None);
    assert!(state.former.is_empty());
}

#[test]
fn an_application_that_comes_back_goes_on_counting_while_old_instances_drain() {
    let mut state = cluster(1);
    let apply = || Command::ApplyApp { app: named("shop"), spec: app(&[("web", service("serve"))]) };
    done(&mut state, apply());
    adopt(&mut state, |plan| drop(plan.instances.insert(instance("shop/web/1"), place(1, 1))));
    done(&mut state, Command::RemoveApp { app: named("shop") });
    done(&mut state, apply());
    assert_eq!(revision(&state, "web"), 2);
}

#[test]
fn two_applications_cannot_have_one_route() {
    let mut state = cluster(1);
    let mut spec = app(&[("web", service("serve"))]);
    spec.routes.push(RouteSpec::plain("shop.test", "/", named("web")));
    done(&mut state, Command::ApplyApp { app: named("shop"), spec: spec.clone() });
    let words = refused(&mut state, Command::ApplyApp { app: named("shed"), spec: spec.clone() });
    assert_eq!(words, "route shop.test/ belongs to application shop");
    // Whatever else it asks of a request, and however the path is written.
    spec.routes[0].when.methods.insert("GET".into());
    spec.routes[0].path = "//".into();
    let words = refused(&mut state, Command::ApplyApp { app: named("shed"), spec: spec.clone() });
    assert_eq!(words, "route shop.test/ belongs to application shop");
    spec.routes[0].to = Target::Service(named("webb"));
    let words = refused(&mut state, Command::ApplyApp { app: named("shed"), spec });
    assert_eq!(words, "route \"shop.test//\" leads to \"webb\", which is no service");
}

#[test]
fn what_is_too_large_is_refused_with_its_limit() {
    let mut state = cluster(1);
    let mut large = service("serve");
    large.env.insert("A".into(), "x".repeat(limits::ENV_BYTES_MAX));
    let words = refused(&mut state, Command::ApplyApp { app: named("shop"), spec: app(&[("web", large)]) });
    assert_eq!(words, "variables of \"web\" in bytes of 65539 exceeds 65536");
    let services: Vec<_> = (0..=limits::SERVICES_PER_APP_MAX).map(|n| (format!("s{n}"), service("serve"))).collect();
    let services: Vec<_> = services.iter().map(|(name, service)| (name.as_str(), service.clone())).collect();
    let words = refused(&mut state, Command::ApplyApp { app: named("shop"), spec: app(&services) });
    assert_eq!(words, "number of services of 65 exceeds 64");
}

#[test]
fn stopping_and_starting_is_remembered_once() {
    let mut state = cluster(1);
    done(&mut state, Command::ApplyApp { app: named("shop"), spec: app(&[("web", service("serve"))]) });
    for (stopped, message) in [(true, "shop was stopped (by admin@n1)"), (false, "shop was started (by admin@n1)")] {
        for _ in 0..2 {
            done(&mut state, Command::SetStopped { app: named("shop"), stopped });
        }
        assert_eq!(last(&state), ("shop", message));
    }
    assert_eq!(state.log.events.iter().filter(|event| event.subject == "shop").count(), 3);
}

#[test]
fn wishes_about_a_role_name_nodes_that_are_there_and_a_role_that_is_built() {
    let mut state = cluster(2);
    let set = |role: &str, pin| Command::SetRole {
        role: named(role),
        spec: RoleSpec { count: Some(2), pins: BTreeSet::from([NodeId(pin)]), ..RoleSpec::default() },
    };
    done(&mut state, set("lb", 2));
    assert_eq!(last(&state), ("role/lb", "role lb shall have 2 slots, first on n2 (by admin@n1)"));
    assert_eq!(refused(&mut state, set("lb", 7)), "no node named \"7\"");
    assert_eq!(refused(&mut state, set("tea", 1)), "no role named \"tea\"");
    done(&mut state, Command::RemoveNode { node: NodeId(2) });
    assert!(state.spec.roles[&RoleName::lb()].pins.is_empty());
}

#[test]
fn a_plan_is_adopted_only_on_top_of_what_it_was_made_for() {
    let mut state = cluster(1);
    let adopt = |base, spec_index, next| Command::Adopt {
        base: Generation(base),
        spec_index,
        change: PlanChange { next_instance: next, voters: Some([NodeId(1)].into()), ..Default::default() },
        events: vec![],
    };
    let index = state.spec_index;
    assert_eq!(refused(&mut state, adopt(1, index, None)), "generation of the plan: expected 1, found 0");
    assert!(refused(&mut state, adopt(0, LogIndex(77), None)).starts_with("index of the last change"));
    done(&mut state, adopt(0, index, Some(5)));
    assert_eq!((state.plan.generation, state.plan.spec_index), (Generation(1), index));
    assert_eq!(refused(&mut state, adopt(0, index, None)), "generation of the plan: expected 0, found 1");
    assert!(refused(&mut state, adopt(1, index, Some(4))).contains("instance number 4 was given before"));
    done(&mut state, adopt(1, index, None));
    assert_eq!((state.plan.generation, state.plan.next_instance), (Generation(2), 5));
}

#[test]
fn a_decision_points_at_what_happened_and_shares_its_incident() {
    let mut state = cluster(3);
    let first = state.log.last + 1;
    let batch = vec![
        text_event(EventKind::Happened, "n3", "n3 is down", Cause::None),
        text_event(EventKind::Decided, "n3", "judged", Cause::Subject("n3".into())),
        text_event(EventKind::Decided, "shop/web/1", "moves", Cause::Subject("n3".into())),
        text_event(EventKind::Done, "shop/web/1", "stopped", Cause::Subject("shop/web/1".into())),
    ];
    done(&mut state, Command::Note { events: batch });
    let events: Vec<_> = state.log.events.iter().filter(|event| event.index >= first).collect();
    // The verdict in between is the latest about n3, but what happened comes first.
    let causes: Vec<_> = events.iter().map(|event| event.cause).collect();
    assert_eq!(causes, [None, Some(first), Some(first), Some(first + 2)]);
    assert!(events.iter().all(|event| event.incident == Some(first)));

    // Later, in another batch, the same things are still found.
    let later = vec![
        text_event(EventKind::Verified, "shop", "holds again", Cause::Index(first + 3)),
        text_event(EventKind::Decided, "shop", "nothing known", Cause::Subject("nobody".into())),
        text_event(EventKind::Decided, "shop", "not yet there", Cause::Index(u64::MAX)),
    ];
    done(&mut state, Command::Note { events: later });
    let events: Vec<_> = state.log.events.iter().rev().take(3).map(|event| (event.cause, event.incident)).collect();
    let last = state.log.last;
    assert_eq!(events, [(None, Some(last)), (None, Some(last - 1)), (Some(first + 3), Some(first))]);
}

#[test]
fn the_log_keeps_the_newest_and_cuts_what_is_too_long() {
    let mut state = cluster(1);
    let long = NewEvent {
        rejected: (0..20).map(|n| Rejected { node: NodeId(n), reason: "ü".repeat(1_000) }).collect(),
        ..text_event(EventKind::Decided, "n1", &"ü".repeat(1_000), Cause::None)
    };
    done(&mut state, Command::Note { events: vec![long] });
    let event = state.log.events.back().expect("an event");
    assert!(event.message.len() <= MESSAGE_BYTES_MAX && event.message.ends_with('…'));
    assert!(event.rejected.len() == REJECTED_MAX && event.rejected[0].reason.len() <= MESSAGE_BYTES_MAX);

    let many = (0..EVENTS_MAX + 5).map(|n| text_event(EventKind::Done, "n1", &n.to_string(), Cause::None)).collect();
    let before = state.log.last;
    done(&mut state, Command::Note { events: many });
    assert_eq!(state.log.events.len(), EVENTS_MAX);
    assert_eq!(state.log.last, before + EVENTS_MAX as u64 + 5);
    let first = state.log.last - EVENTS_MAX as u64;
    assert_eq!(state.log.get(first), None);
    assert_eq!(state.log.get(first + 1).map(|event| event.message.as_str()), Some("5"));
    assert_eq!(state.log.get(state.log.last + 1), None);
}

#[test]
fn the_webhook_is_an_address_or_nothing() {
    let mut state = cluster(1);
    done(&mut state, Command::SetWebhook { url: Some("https://example.com/hook".into()) });
    assert!(refused(&mut state, Command::SetWebhook { url: Some("ftp://x".into()) }).contains("is no address"));
    done(&mut state, Command::SetWebhook { url: None });
    assert_eq!((last(&state).1, &state.cluster.webhook), ("the webhook was removed (by admin@n1)", &None));
}

#[test]
fn a_draining_instance_is_still_ordered_with_its_own_description() {
    let mut state = cluster(1);
    done(&mut state, Command::ApplyApp { app: named("shop"), spec: app(&[("web", service("old"))]) });
    adopt(&mut state, |plan| drop(plan.instances.insert(instance("shop/web/1"), place(1, 1))));
    done(&mut state, Command::ApplyApp { app: named("shop"), spec: app(&[("web", service("new"))]) });
    adopt(&mut state, |plan| {
        plan.instances.insert(instance("shop/web/2"), place(1, 2));
        plan.instances.get_mut(&instance("shop/web/1")).expect("planned").phase = Phase::Draining;
    });
    let orders = crate::reconciler::orders(&state, NodeId(1), &[RoleName::compute()]);
    let crate::order::Work::Compute(instances) = &orders[&RoleName::compute()].work else { panic!("{orders:?}") };
    let commands: Vec<_> = instances.values().map(|order| (order.service.command[0].as_str(), order.phase)).collect();
    assert_eq!(commands, [("old", Phase::Draining), ("new", Phase::Active)]);
}

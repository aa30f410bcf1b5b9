//! Every view over one small cluster, well and unwell.

use std::sync::Arc;

use hirsel_model::certificate::{Certificate, Facts};
use hirsel_model::grant::long::LongGrant;
use hirsel_model::plan::{Because, Unmet, Verdict, VerdictKind};
use hirsel_model::secret::Sealed;
use hirsel_model::spec::{PathKind, PortSpec, RouteSpec, Target};
use hirsel_model::view::Liveness;
use hirsel_model::*;

use super::apps::{Which, apps, ps};
use super::events::events;
use super::members::members;
use super::roles::roles;
use super::status::status;
use super::tokens::tokens;
use super::why::why;
use crate::api::envelope::Envelope;
use crate::api::error::Code;
use crate::api::fixture::{NOON, altered, instance_id, reason, sight};
use crate::api::sight::Sight;

fn down(sight: &mut Sight, node: u64) {
    let verdict = Verdict {
        kind: VerdictKind::Down,
        incarnation: Incarnation(1),
        since: Generation(5),
        evidence: "n1 and n2 do not hear it".into(),
    };
    Arc::make_mut(&mut sight.state).plan.verdicts.insert(NodeId(node), verdict);
}

#[test]
fn a_cluster_that_lacks_nothing_is_healthy() {
    let status = status(&sight());
    assert_eq!((status.health.as_str(), status.because.as_slice()), ("healthy", &[] as &[String]));
    assert_eq!(status.leader.as_deref(), Some("n2"));
    assert_eq!(status.voters, ["n1", "n2", "n3"]);
    assert_eq!((status.nodes.alive, status.can_lose.nodes), (3, 1));
    assert_eq!(status.apps["shop"].healthy, 2);
}

#[test]
fn a_node_that_is_down_makes_the_cluster_degraded_and_its_instances_unhealthy() {
    let mut sight = sight();
    down(&mut sight, 2);
    let status = status(&sight);
    assert_eq!(status.health, "degraded");
    assert!(status.because.iter().any(|line| line == "n2 is down"), "{:?}", status.because);
    assert_eq!((status.nodes.alive, status.nodes.down, status.apps["shop"].healthy), (2, 1, 1));
    let listed = ps(&sight, &"shop".parse().unwrap(), Which::Planned).unwrap();
    assert_eq!(
        listed.iter().map(|i| (i.state.as_str(), i.healthy)).collect::<Vec<_>>(),
        [("running", true), ("unknown", false)]
    );
}

#[test]
fn a_long_grant_is_told_by_status_and_by_why() {
    let sight = altered(|state| {
        let mut give = |number, asked_by| {
            let long = LongGrant {
                node: NodeId(2),
                asked_by,
                length_ms: 15_000,
                since: LogIndex(41),
                generation: Generation(5),
                at: NOON,
            };
            state.long.insert(instance_id(number), long);
        };
        give(3, Some(Incarnation(1)));
        give(1, None);
    });
    let told = status(&sight).long_grants;
    assert_eq!(told.len(), 1, "what is only assumed is nobody's wish: {told:?}");
    assert_eq!((told[0].instance.as_str(), told[0].node.as_str()), ("shop/web/3", "n2"));
    assert_eq!(told[0].until, "2023-11-14T22:13:35Z");
    for (thing, told) in [("n2", true), ("shop/web/3", true), ("shop/web", true), ("n1", false), ("shop/web/1", false)]
    {
        let because = why(&sight, thing).unwrap().because;
        let says = because[0].text.contains("shop/web/3 may act on there until about 2023-11-14T22:13:35Z");
        assert_eq!(says, told, "{thing}: {because:?}");
    }
}

#[test]
fn a_service_with_no_working_instance_is_critical() {
    let mut sight = sight();
    down(&mut sight, 2);
    Arc::make_mut(&mut sight.live).nodes.insert(NodeId(1), Default::default());
    assert_eq!(status(&sight).health, "critical");
    assert_eq!(apps(&sight)[0].health, "critical");
}

#[test]
fn a_leader_not_heard_for_long_is_no_leader_and_the_answer_says_how_old_it_is() {
    let mut sight = sight();
    sight.leadership.stale_ms = 5_000;
    let status = status(&sight);
    assert_eq!((status.health.as_str(), status.leader), ("no_leader", None));
    let envelope = Envelope::new(&sight, ());
    assert_eq!(envelope.stale_ms, 5_000);
    assert!(envelope.warnings[0].contains("no leader"), "{:?}", envelope.warnings);
    assert!(members(&sight).iter().all(|member| member.raft == "voter"));
}

#[test]
fn a_wish_that_is_not_met_is_told_by_status_by_the_app_and_by_why() {
    let sight = altered(|state| {
        state.plan.unmet.push(Unmet { subject: "shop/web".into(), reason: "no node has 9 GiB".into() });
    });
    assert_eq!(status(&sight).health, "degraded");
    assert_eq!(apps(&sight)[0].unmet, ["shop/web: no node has 9 GiB"]);
    assert_eq!(why(&sight, "shop/web").unwrap().because[0].text, "waits: no node has 9 GiB");
}

#[test]
fn data_that_waits_for_many_lost_nodes_is_told_with_the_time_by_status_and_by_why() {
    use hirsel_model::storage::{MANY_LOST, Partition};
    let mut sight = altered(|state| {
        let partition = Partition { nodes: vec![NodeId(1), NodeId(2)], ..Partition::default() };
        state.plan.storage.partitions.insert(768, partition);
        state.plan.roles.insert(RoleName::storage(), Default::default());
        state.plan.unmet.push(Unmet { subject: MANY_LOST.into(), reason: "it moves once they are gone".into() });
    });
    down(&mut sight, 2);
    // The plan that said so is of 55 s ago.
    let told = "it moves once they are gone, not before 2023-11-14T22:27:25Z";
    let because = status(&sight).because;
    assert_eq!(because.iter().filter(|line| line.contains("once they are gone")).count(), 1, "{because:?}");
    assert!(because.contains(&format!("storage: {told}")), "{because:?}");
    for thing in ["n2", "storage"] {
        let because = why(&sight, thing).unwrap().because;
        assert_eq!(because[0].text, format!("waits: {told}"), "{thing}: {because:?}");
    }
    assert!(why(&sight, "n1").unwrap().because.iter().all(|link| !link.text.contains("once they are gone")));
}

#[test]
fn members_tell_standing_raft_place_roles_and_notes() {
    let mut sight = altered(|state| {
        state.spec.nodes.get_mut(&NodeId(1)).unwrap().availability = hirsel_model::spec::Availability::Cordoned;
    });
    Arc::make_mut(&mut sight.live).nodes.get_mut(&NodeId(3)).unwrap().liveness = Liveness::Suspect;
    let members = members(&sight);
    let column = |f: fn(&super::members::Member) -> String| members.iter().map(f).collect::<Vec<_>>();
    assert_eq!(column(|m| m.raft.clone()), ["voter", "leader", "voter"]);
    assert_eq!(column(|m| m.liveness.clone()), ["alive", "alive", "suspect"]);
    assert_eq!(members[0].note.as_deref(), Some("cordoned"));
    assert_eq!(members[1].roles, ["compute", "lb", "mgmt"]);
    assert_eq!((members[1].load, members[1].seen_ms), (Some(0.3), Some(120)));
}

#[test]
fn a_slot_is_running_only_while_its_node_is_heard() {
    let mut sight = sight();
    down(&mut sight, 3);
    let of_lb: Vec<_> = roles(&sight).into_iter().filter(|slot| slot.role == "lb").collect();
    assert_eq!(of_lb.iter().map(|slot| slot.state.as_str()).collect::<Vec<_>>(), ["running", "running", "unknown"]);
    assert_eq!((of_lb[0].duty.as_str(), of_lb[0].because.as_str()), ("replica", "wants one on each node"));
    assert_eq!(of_lb[0].since_ms, Some(59_000));
}

#[test]
fn endpoints_of_a_route_for_any_host_are_the_lb_nodes() {
    let endpoints = &apps(&sight())[0].endpoints;
    assert_eq!(endpoints, &["http://127.0.0.1:8080/", "http://127.0.0.2:8080/", "http://127.0.0.3:8080/"]);
}

#[test]
fn a_port_is_an_endpoint_at_each_lb_node() {
    let sight = altered(|state| {
        let app = state.spec.apps.get_mut(&"shop".parse().unwrap()).unwrap();
        app.routes.clear();
        app.ports.insert("5432".parse().unwrap(), PortSpec::to(Target::Service("web".parse().unwrap())));
    });
    let expected = ["tcp://127.0.0.1:5432", "tcp://127.0.0.2:5432", "tcp://127.0.0.3:5432"];
    assert_eq!(apps(&sight)[0].endpoints, expected);
}

#[test]
fn each_host_and_path_is_an_endpoint_once() {
    let sight = altered(|state| {
        let app = state.spec.apps.get_mut(&"shop".parse().unwrap()).unwrap();
        let plain = RouteSpec::plain("shop.test", "/api", "web".parse().unwrap());
        let mut posts = plain.clone();
        posts.when.methods.insert("POST".into());
        let expression = RouteSpec { path: "^/a".into(), kind: PathKind::Regex, ..plain.clone() };
        app.routes = vec![posts, plain, expression, RouteSpec::plain("*.shop.test", "/", "web".parse().unwrap())];
    });
    let expected = ["http://shop.test:8080/api", "http://shop.test:8080/", "http://*.shop.test:8080/"];
    assert_eq!(apps(&sight)[0].endpoints, expected);
}

#[test]
fn a_host_that_a_certificate_covers_is_reached_with_https_first() {
    let endpoints = |until: u64| {
        let sight = altered(|state| {
            let names = ["shop.test", "*.shop.test"].map(String::from).into();
            let facts = Facts { names, not_after: WallTime(until), ..Facts::default() };
            let (chain, key) = (String::new(), Sealed(Vec::new()));
            let certificate = Certificate { version: 1, set_at: WallTime(0), facts, chain, key, automatic: None };
            state.certificates.named.insert("shop".parse().unwrap(), Arc::new(certificate));
            let app = state.spec.apps.get_mut(&"shop".parse().unwrap()).unwrap();
            let route = |host: &str, path: &str| RouteSpec::plain(host, path, "web".parse().unwrap());
            let mut led = route("www.shop.test", "/");
            led.actions.https = Some(308);
            app.routes = vec![route("shop.test", "/"), led, route("a.b.shop.test", "/x")];
        });
        apps(&sight)[0].endpoints.clone()
    };
    let good = altered(|_| {}).wall.0 + 1_000;
    let expected = [
        "https://shop.test:8443/",
        "http://shop.test:8080/",
        "https://www.shop.test:8443/",
        "http://a.b.shop.test:8080/x",
    ];
    assert_eq!(endpoints(good), expected);
    let expected = ["http://shop.test:8080/", "http://www.shop.test:8080/", "http://a.b.shop.test:8080/x"];
    assert_eq!(endpoints(1), expected, "its time is over");
}

#[test]
fn ps_tells_where_each_instance_listens_and_why_it_is_there() {
    let listed = ps(&sight(), &"shop".parse().unwrap(), Which::Planned).unwrap();
    assert_eq!(listed[0].addr.as_deref(), Some("127.0.0.1:20000"));
    assert_eq!((listed[1].instance.as_str(), listed[1].because.as_str()), ("shop/web/3", "n3 is down"));
    assert_eq!(ps(&sight(), &"nothing".parse().unwrap(), Which::Planned), None);
}

#[test]
fn an_instance_the_plan_does_not_list_is_shown_only_on_request() {
    let mut sight = sight();
    Arc::make_mut(&mut sight.live).nodes.insert(NodeId(3), crate::api::fixture::seen(&[(2, 20002)]));
    let app = "shop".parse().unwrap();
    assert_eq!(ps(&sight, &app, Which::Planned).unwrap().len(), 2);
    let all = ps(&sight, &app, Which::All).unwrap();
    assert_eq!(all.iter().map(|i| i.node.as_str()).collect::<Vec<_>>(), ["n1", "n3", "n2"]);
    assert!(!all[1].healthy);
}

#[test]
fn an_instance_without_a_check_is_healthy_while_it_runs() {
    let mut sight = altered(|state| {
        let app = state.spec.apps.get_mut(&"shop".parse().unwrap()).unwrap();
        app.services.values_mut().for_each(|service| service.health = None);
    });
    let node = Arc::make_mut(&mut sight.live).nodes.get_mut(&NodeId(1)).unwrap();
    if let report::RoleFacts::Compute(facts) = &mut node.roles.get_mut(&RoleName::compute()).unwrap().facts {
        facts.values_mut().for_each(|facts| facts.healthy = false);
    }
    assert!(sight.is_healthy(&instance_id(1)));
}

#[test]
fn events_go_on_after_a_number_or_show_the_last_ones() {
    let sight = sight();
    let indexes = |lines: Vec<super::events::EventLine>| lines.iter().map(|line| line.index).collect::<Vec<_>>();
    assert_eq!(indexes(events(&sight, 3, None)), [4, 5]);
    assert_eq!(indexes(events(&sight, 0, Some(2))), [4, 5]);
    assert_eq!(indexes(events(&sight, 9, None)), [0u64; 0]);
    let line = &events(&sight, 0, None)[3];
    assert_eq!((line.kind.as_str(), line.cause_index, line.incident), ("decided", Some(3), Some(3)));
    assert_eq!(line.at, "2023-11-14T22:12:24Z");
}

#[test]
fn why_follows_the_recorded_causes_to_their_beginning() {
    let why = why(&sight(), "shop/web/3").unwrap();
    assert_eq!(why.because.iter().map(|link| link.event_index).collect::<Vec<_>>(), [Some(4), Some(3)]);
    assert!(why.because[1].text.contains("n3 is down"));
    assert_eq!(why.chosen.node.as_deref(), Some("n2"));
    assert_eq!((why.rejected[0].node.as_str(), why.rejected[0].reason.as_str()), ("n1", "has one already"));
    assert_eq!(why.afterwards[0].event_index, Some(5));
    assert_eq!(why.undo.as_deref(), Some("nothing to undo: start n3 again"));
}

#[test]
fn why_never_asks_the_present_when_the_log_has_the_answer() {
    let told = why(&sight(), "shop/web/3").unwrap();
    let sight = altered(|state| {
        let assignment = state.plan.instances.get_mut(&instance_id(3)).unwrap();
        assignment.reason = reason(Because::Wanted, "something else");
    });
    assert_eq!(why(&sight, "shop/web/3").unwrap().because, told.because);
}

#[test]
fn why_falls_back_on_the_reason_in_the_plan_when_the_log_has_forgotten() {
    let sight = altered(|state| state.log.events.clear());
    let why = why(&sight, "shop/web/3").unwrap();
    assert_eq!((why.because[0].text.as_str(), why.because[0].event_index), ("n3 is down", None));
}

#[test]
fn why_says_when_the_beginning_of_a_chain_was_forgotten_and_survives_a_cause_that_points_forward() {
    let sight = altered(|state| {
        state.log.events.remove(2);
        Arc::make_mut(&mut state.log.events[0]).cause = Some(9);
    });
    let told = why(&sight, "shop/web/3").unwrap();
    assert!(told.because[1].text.contains("event 3"), "{told:?}");
    assert!(why(&sight, "shop").is_ok());
}

#[test]
fn why_knows_nodes_roles_slots_services_and_what_can_be_lost() {
    let sight = sight();
    assert_eq!(why(&sight, "n3").unwrap().because[0].event_index, Some(3));
    for (asked, subject) in [
        ("lb", "role/lb"),
        ("lb/0", "role/lb/0"),
        ("role/lb/2", "role/lb/2"),
        ("shop/web", "shop/web"),
        ("voters", "voters"),
    ] {
        assert_eq!(why(&sight, asked).unwrap().subject, subject);
    }
    assert!(!why(&sight, "can_lose").unwrap().because[0].text.is_empty());
    assert_eq!(why(&sight, "shop/web/2").unwrap_err().code, Code::NotFound);
    assert!(why(&sight, "shop/wbe").unwrap_err().message.contains("did you mean \"shop/web\"?"));
    for odd in ["", "/", "//", "role/", "lb/99999", "lb/x", "a/b/c/d", "\u{0}"] {
        assert!(why(&sight, odd).is_err() || odd.starts_with("lb/9"), "{odd:?}");
    }
}

#[test]
fn the_last_incident_is_the_loss_not_the_deployment() {
    let incident = status(&sight()).last_incident.unwrap();
    assert_eq!((incident.index, incident.subject.as_str(), incident.verified), (3, "n3", false));
}

#[test]
fn a_loss_as_the_planner_tells_it_is_an_incident_and_what_the_operator_did_is_none() {
    let before = altered(|state| state.log = Default::default());
    let mut lost = before.clone();
    down(&mut lost, 3);
    let ahead = crate::api::forecast::foretell(&before, (*before.state).clone(), &Default::default());
    let entry = hirsel_model::control::Entry {
        at: before.wall,
        by: "n2".into(),
        if_index: None,
        command: hirsel_model::control::Command::Note { events: planner::narrate(ahead.view(), &lost.state.plan) },
    };
    Arc::make_mut(&mut lost.state).apply(LogIndex(43), entry);
    let incident = status(&lost).last_incident.expect("a node was lost");
    assert_eq!(incident.subject, "n3", "{incident:?}");
    let mut scaled = before;
    let entry = hirsel_model::control::Entry {
        at: scaled.wall,
        by: "admin".into(),
        if_index: None,
        command: hirsel_model::control::Command::SetStopped { app: "shop".parse().unwrap(), stopped: true },
    };
    Arc::make_mut(&mut scaled.state).apply(LogIndex(43), entry);
    assert_eq!((scaled.state.log.events.len(), status(&scaled).last_incident), (1, None));
}

#[test]
fn tokens_show_no_secret_and_their_state() {
    let sight = altered(|state| {
        state.tokens.get_mut("join").unwrap().revoked = true;
        state.tokens.get_mut("view").unwrap().expires_at = WallTime(1);
    });
    let tokens = tokens(&sight);
    let states: Vec<_> = tokens.iter().map(|token| (token.grants.as_str(), token.state.as_str())).collect();
    assert_eq!(states, [("admin", "valid"), ("join", "revoked"), ("operator", "valid"), ("viewer", "expired")]);
    assert!(!serde_json::to_string(&tokens).unwrap().contains("secret"));
}

#[test]
fn who_cannot_answer_names_is_warned_of_and_no_less_healthy() {
    use hirsel_model::report::{RoleReport, RoleState};
    let mut sight = sight();
    assert!(super::status::warnings(&sight).is_empty(), "an older agent answers none, and says nothing of it");
    let live = Arc::make_mut(&mut sight.live);
    let failed = RoleReport { state: RoleState::Failed, ..RoleReport::default() };
    live.nodes.get_mut(&NodeId(3)).unwrap().roles.insert(hirsel_model::RoleName::dns(), failed);
    let told = super::status::warnings(&sight);
    assert_eq!(told, ["names are not answered on n3; try: hirsel doctor --node n3"]);
    assert_eq!(status(&sight).health, "healthy");
}

#[test]
fn views_of_an_empty_state_do_not_fail() {
    let sight = Sight::default();
    status(&sight);
    assert!(members(&sight).is_empty() && roles(&sight).is_empty() && apps(&sight).is_empty());
    assert!(events(&sight, 0, None).is_empty() && tokens(&sight).is_empty());
    assert!(why(&sight, "n1").is_err());
}

#[test]
fn a_node_that_left_is_remembered_and_no_member() {
    let sight = altered(|state| {
        let spec = state.spec.nodes.remove(&NodeId(3)).unwrap();
        state.left.push_back(hirsel_model::control::LeftNode { id: NodeId(3), at: crate::api::fixture::NOON, spec });
    });
    assert!(members(&sight).iter().all(|member| member.name != "n3"));
    let gone = super::members::left(&sight);
    assert_eq!(
        gone.iter().map(|node| (node.name.as_str(), node.liveness.as_str())).collect::<Vec<_>>(),
        [("n3", "left")]
    );
    assert!(gone[0].note.as_ref().is_some_and(|note| note.starts_with("no member since 20")), "{gone:?}");
}

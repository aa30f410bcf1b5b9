use super::*;
use crate::api::fixture::{NOON, altered, sight};

/// All is well: one peer that answers.
pub(crate) fn good() -> Findings {
    let way = Way { ms: Some(1), error: None };
    let sizes = Some(Sizes { mtu: Some(1_500), arrived: Some(1_500), tried: 1_500 });
    let answered = Answered { offset_ms: -3, tcp: way.clone(), udp: way.clone(), sizes, version: "0.1.0".into() };
    Findings {
        host: HostFindings {
            sync: Some(Ok((2, 9))),
            space: Some((50 << 30, 100 << 30)),
            reserve: Some(true),
            open_files: Some(1 << 20),
            drift_ms: 1,
            wall: NOON,
            supervised: Some(true),
            guard: Some(Ok(2)),
            user: Some(User::Named("nobody".into(), true)),
            names: Some(Ok("10.0.0.1:53".into())),
            addresses: Some(Ok(1)),
            port_taken: None,
        },
        certificate_ends: Some(NOON.0 / 1000 + 29 * 86_400),
        peers: vec![PeerFindings { name: "n2".into(), tcp: way.clone(), udp: way, sizes, answer: Some(Ok(answered)) }],
    }
}

fn of(alter: impl FnOnce(&mut Findings)) -> (String, Vec<Check>) {
    let mut found = good();
    alter(&mut found);
    let told = doctor(&sight(), &found);
    (told.state, told.checks.into_iter().filter(|check| check.state != "ok").collect())
}

#[test]
fn where_all_is_well_nothing_is_to_do() {
    let told = doctor(&sight(), &good());
    assert_eq!(told.state, "ok", "{told:?}");
    assert!(told.checks.iter().all(|check| check.next.is_none()) && told.checks.len() > 10, "{told:?}");
}

#[test]
fn each_limit_is_told_with_its_value_and_what_to_do() {
    let one = |alter: fn(&mut Findings), what: &str, state: &str| {
        let (worst, wrong) = of(alter);
        assert_eq!((worst.as_str(), wrong.len()), (state, 1), "{what}: {wrong:?}");
        assert_eq!((wrong[0].check.as_str(), wrong[0].state.as_str()), (what, state), "{wrong:?}");
        assert!(wrong[0].next.is_some() && !wrong[0].value.is_empty() && !wrong[0].limit.is_empty());
    };
    one(|found| found.host.sync = Some(Ok((30, 80))), "disk", "warning");
    one(|found| found.host.sync = Some(Ok((500, 800))), "disk", "failed");
    one(|found| found.host.sync = Some(Err("read-only".into())), "disk", "failed");
    one(|found| found.host.space = Some((512 << 20, 1 << 40)), "space", "warning");
    one(|found| found.host.space = Some((1 << 20, 1 << 40)), "space", "failed");
    one(|found| found.host.reserve = Some(false), "reserve", "warning");
    one(|found| found.host.open_files = Some(1_024), "files", "warning");
    one(|found| found.host.open_files = Some(256), "files", "failed");
    one(|found| found.host.drift_ms = 900, "clock", "warning");
    one(|found| found.host.supervised = Some(false), "unit", "warning");
    one(|found| found.host.guard = Some(Err("it does not answer".into())), "guard", "failed");
    one(|found| found.host.user = Some(User::Root), "user", "warning");
    one(|found| found.host.names = Some(Err("port 53 is taken".into())), "dns", "warning");
    one(|found| found.host.addresses = Some(Err("its agent lacks CAP_NET_ADMIN".into())), "address", "warning");
    one(|found| found.host.user = Some(User::Named("web".into(), false)), "user", "failed");
    one(|found| found.certificate_ends = Some(NOON.0 / 1000 + 86_400), "certificate", "warning");
    one(|found| found.certificate_ends = Some(NOON.0 / 1000 - 1), "certificate", "failed");
    one(|found| found.peers[0].udp = Way { ms: None, error: Some("no answer".into()) }, "udp", "failed");
    one(|found| found.peers[0].answer = Some(Err("no connection".into())), "agent", "failed");
    let sizes = |mtu, arrived| Some(Sizes { mtu: Some(mtu), arrived, tried: mtu });
    let (_, wrong) = of(|found| found.peers[0].sizes = sizes(9_000, Some(1_500)));
    assert_eq!((wrong[0].check.as_str(), wrong[0].state.as_str()), ("mtu", "warning"));
    assert_eq!(wrong[0].value, "packets of 1500 bytes arrive, larger ones are lost; this host sends up to 9000");
    let (_, wrong) = of(|found| found.peers[0].sizes = sizes(1_000, None));
    assert_eq!((wrong[0].check.as_str(), wrong[0].state.as_str()), ("mtu", "failed"));
    assert!(of(|found| found.peers[0].sizes = sizes(1_500, None)).1.is_empty(), "UDP is told by itself");
    let answered = |found: &mut Findings, alter: fn(&mut Answered)| {
        if let Some(Ok(answered)) = &mut found.peers[0].answer {
            alter(answered);
        }
    };
    let (_, wrong) = of(|found| answered(found, |it| it.offset_ms = -4_000));
    assert_eq!((wrong[0].value.as_str(), wrong[0].subject.as_str()), ("-4000 ms", "n1 -> n2"));
    let (_, wrong) = of(|found| answered(found, |it| it.tcp = Way::default()));
    assert_eq!((wrong[0].check.as_str(), wrong[0].subject.as_str()), ("tcp", "n2 -> n1"));
    let (_, wrong) = of(|found| answered(found, |it| it.version = "0.2.0".into()));
    assert_eq!((wrong[0].check.as_str(), wrong[0].value.as_str()), ("versions", "0.1.0, 0.2.0"));
}

#[test]
fn a_node_that_is_down_is_explained_and_not_a_matter_of_ports() {
    use hirsel_model::plan::{Verdict, VerdictKind};
    use hirsel_model::{Generation, Incarnation, NodeId};
    let sight = altered(|state| {
        let verdict = Verdict {
            kind: VerdictKind::Down,
            incarnation: Incarnation(1),
            since: Generation(5),
            evidence: String::new(),
        };
        state.plan.verdicts.insert(NodeId(2), verdict);
    });
    let mut found = good();
    found.peers[0].tcp = Way::default();
    let told = doctor(&sight, &found);
    let wrong = told.checks.iter().find(|check| check.state == "failed").unwrap();
    assert_eq!(wrong.next.as_deref(), Some("hirsel why n2"));
}

#[test]
fn before_joining_the_seed_is_the_only_peer_and_no_agent_is_asked() {
    let mut found = good();
    found.certificate_ends = None;
    found.peers[0].answer = None;
    found.host.port_taken = Some(Err("UDP 7400 is in use".into()));
    let told = before_joining(&found);
    assert_eq!(told.state, "failed");
    assert!(told.checks.iter().any(|check| check.check == "port" && check.state == "failed"), "{told:?}");
    assert!(told.checks.iter().all(|check| check.check != "versions" && check.check != "agent"));
}

//! Certificates of the front door, as a client brings them.

use hirsel_model::control::ControlState;
use hirsel_model::secret::Sealed;
use hirsel_model::tickets::TicketKey;
use hirsel_model::{CertificateName, WallTime};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, date_time_ymd};

use super::*;
use crate::api::fixture::NOON;
use crate::api::views::certificates as views;

const SHOP: &str = "/v1/certificates/front/shop";
const DAY_MS: u64 = 86_400_000;

/// A cluster that can seal.
fn sealing() -> Arc<StandIn> {
    let agent = StandIn::new(sight());
    agent.alter(|sight| Arc::make_mut(&mut sight.state).cluster.sealing.key = "00000000000000aa".into());
    agent
}

/// A certificate for `domains` and its key, good for so many days around [`NOON`], which is a day in November 2023.
fn pem(domains: &[&str], from: i64, until: i64) -> String {
    let domains: Vec<String> = domains.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(domains).unwrap();
    let noon = date_time_ymd(2023, 11, 14);
    let day = std::time::Duration::from_secs(86_400);
    let at = |days: i64| if days < 0 { noon - day * days.unsigned_abs() as u32 } else { noon + day * days as u32 };
    (params.not_before, params.not_after) = (at(from), at(until));
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    params.self_signed(&key).unwrap().pem() + &key.serialize_pem()
}

fn state(agent: &StandIn) -> Arc<ControlState> {
    crate::api::agent::Agent::sight(agent).state
}

#[tokio::test]
async fn a_certificate_is_brought_shown_and_taken_away_by_operators_and_looked_at_by_viewers() {
    let body = pem(&["shop.example.com", "*.shop.example.com"], -1, 60);
    for (token, rights) in [("tok-join", 0), ("tok-view", 1), ("tok-oper", 2), ("tok-admi", 3)] {
        let agent = sealing();
        let expected = |need| if rights >= need { StatusCode::OK } else { StatusCode::FORBIDDEN };
        let (status, answer) = ask(&agent, STRANGER, "PUT", SHOP, Some(token), &body).await;
        assert_eq!(status, expected(2), "{token}: {answer}");
        assert_eq!(admin(&agent, "PUT", SHOP, &body).await.0, StatusCode::OK);
        for path in ["/v1/certificates", SHOP] {
            assert_eq!(ask(&agent, STRANGER, "GET", path, Some(token), "").await.0, expected(1), "{token} {path}");
        }
        assert_eq!(ask(&agent, STRANGER, "DELETE", SHOP, Some(token), "").await.0, expected(2), "{token}");
    }
    assert_eq!(ask(&sealing(), STRANGER, "GET", SHOP, None, "").await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn what_was_done_is_told_and_never_the_key() {
    let agent = sealing();
    let (first, second) = (pem(&["Shop.example.com"], -1, 60), pem(&["shop.example.com", "a.example"], -1, 90));
    let key = first.lines().rev().nth(1).unwrap().to_owned();
    let (_, planned) = admin(&agent, "PUT", &format!("{SHOP}?plan=true"), &first).await;
    assert_eq!(planned["data"]["spec"][0]["path"], "certificates.shop", "{planned}");
    assert!(planned["data"]["changes"].as_bool().unwrap() && state(&agent).certificates.named.is_empty());
    let (_, added) = admin(&agent, "PUT", SHOP, &first).await;
    assert_eq!(added["data"]["did"], "added certificate shop for shop.example.com, good until 2024-01-13T00:00:00Z");
    assert_eq!(added["data"]["undo"], "hirsel cert rm shop");
    let (_, same) = admin(&agent, "PUT", SHOP, &first).await;
    assert_eq!(same["data"]["did"], "certificate shop is this one already, in version 1");
    let (_, planned) = admin(&agent, "PUT", &format!("{SHOP}?plan=true"), &first).await;
    assert_eq!(planned["data"]["changes"], false, "{planned}");
    let (_, other) = admin(&agent, "PUT", "/v1/certificates/front/more", &second).await;
    let did = other["data"]["did"].as_str().unwrap();
    assert!(did.contains("; shop is for one of these domains too, and what is good for longer is shown"), "{did}");
    let (_, replaced) = admin(&agent, "PUT", SHOP, &second).await;
    assert!(replaced["data"]["did"].as_str().unwrap().starts_with("replaced certificate shop for a.example, "));
    let (_, shown) = admin(&agent, "GET", SHOP, "").await;
    assert_eq!((&shown["data"]["version"], &shown["data"]["key"]), (&json!(3), &json!("Ed25519")));
    assert!(second.starts_with(&shown["data"]["chain"].as_str().unwrap()[..400]));
    let (_, listed) = admin(&agent, "GET", "/v1/certificates", "").await;
    assert_eq!(listed["data"]["front"].as_array().map(Vec::len), Some(2));
    assert_eq!(listed["data"]["front"][0].get("chain"), None);
    let (_, events) = admin(&agent, "GET", "/v1/events", "").await;
    for answer in [planned, added, same, other, replaced, shown, listed, events] {
        let text = answer.to_string();
        assert!(!text.contains("PRIVATE") && !text.contains(&key), "{text}");
    }
    let sealed = &state(&agent).certificates.named[&"shop".parse::<CertificateName>().unwrap()].key;
    let brought: Vec<u8> = sealed.0.iter().rev().copied().collect();
    assert!(second.ends_with(std::str::from_utf8(&brought).unwrap()), "what is sealed is the key alone");
}

#[tokio::test]
async fn what_clients_would_not_take_is_refused_with_words() {
    let agent = sealing();
    let good = pem(&["shop.example.com"], -1, 60);
    let key_of = |pem: &str| pem[pem.find("-----BEGIN PRIVATE").unwrap()..].to_owned();
    let certificate = &good[..good.len() - key_of(&good).len()];
    let other = key_of(&pem(&["other.example.com"], -1, 60));
    for (path, body, status, words) in [
        (SHOP, "", StatusCode::BAD_REQUEST, "no certificate is in there"),
        (SHOP, certificate, StatusCode::BAD_REQUEST, "no private key is in there"),
        (
            SHOP,
            &format!("{certificate}{other}"),
            StatusCode::BAD_REQUEST,
            "the private key is not that of the certificate",
        ),
        (SHOP, &pem(&["shop.example.com"], -60, -3), StatusCode::UNPROCESSABLE_ENTITY, "expired at 2023-11-11"),
        (SHOP, &pem(&["shop.example.com"], 3, 60), StatusCode::UNPROCESSABLE_ENTITY, "not good before 2023-11-17"),
        ("/v1/certificates/front/Shop", &good, StatusCode::BAD_REQUEST, "is no name"),
        (&format!("{SHOP}?plna=true"), &good, StatusCode::BAD_REQUEST, "plna"),
        (&format!("{SHOP}?if_index=1"), &good, StatusCode::CONFLICT, "expected 1"),
    ] {
        let (is, answer) = admin(&agent, "PUT", path, body).await;
        assert_eq!(is, status, "{path}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(words), "{answer}");
    }
    assert!(state(&agent).certificates.named.is_empty());
    let (status, answer) = admin(&agent, "DELETE", SHOP, "").await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::NOT_FOUND, &json!("not_found")));
    let forced = pem(&["shop.example.com"], -60, -3);
    assert_eq!(admin(&agent, "PUT", &format!("{SHOP}?force=a%20test"), &forced).await.0, StatusCode::OK);
    let (_, answer) = admin(&agent, "DELETE", "/v1/certificates/front/shpo", "").await;
    assert!(answer["error"]["message"].as_str().unwrap().contains("did you mean \"shop\"?"), "{answer}");
    assert!(state(&agent).log.events.back().unwrap().message.contains("(forced: a test)"));
    // An older cluster is told to be upgraded.
    agent.alter(|sight| Arc::make_mut(&mut sight.state).cluster.feature_level = 1);
    let (status, answer) = admin(&agent, "PUT", SHOP, &good).await;
    assert_eq!(
        (status, &answer["error"]["next"][0]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("hirsel upgrade --plan"))
    );
}

#[tokio::test]
async fn one_that_ends_soon_is_warned_of_and_one_that_ended_makes_the_cluster_degraded() {
    let agent = sealing();
    assert_eq!(admin(&agent, "PUT", SHOP, &pem(&["shop.example.com"], -1, 60)).await.0, StatusCode::OK);
    let at = |days: u64| agent.alter(|sight| sight.wall = WallTime(NOON.0 + days * DAY_MS));
    let look = async |path: &'static str| admin(&agent, "GET", path, "").await.1;
    let doctor = || crate::api::doctor::doctor(&crate::api::agent::Agent::sight(&*agent), &Default::default());
    let graded = || doctor().checks.into_iter().find(|check| check.check == "certificate").unwrap();
    at(30);
    let status = look("/v1/status").await;
    assert_eq!((&status["data"]["health"], &status["warnings"]), (&json!("healthy"), &json!([])), "{status}");
    assert_eq!((graded().subject.as_str(), graded().state.as_str()), ("front door", "ok"));
    at(45);
    for path in ["/v1/status", "/v1/certificates"] {
        let answer = look(path).await;
        let warning = &answer["warnings"][0];
        assert_eq!(warning, "certificate shop expires in 14 days, at 2024-01-13T00:00:00Z", "{answer}");
    }
    assert_eq!((graded().subject.as_str(), graded().state.as_str()), ("certificate/shop", "warning"));
    at(61);
    let status = look("/v1/status").await;
    assert_eq!(status["data"]["health"], "degraded");
    assert_eq!(status["data"]["because"][0], "certificate shop expired 1 day ago, at 2024-01-13T00:00:00Z", "{status}");
    assert_eq!(look("/v1/certificates").await["data"]["front"][0]["state"], "expired");
    assert_eq!(graded().state, "failed");
}

#[tokio::test]
async fn nodes_that_balance_load_have_it_once_they_say_so() {
    let agent = sealing();
    let shown = || {
        let all = views::certificates(&crate::api::agent::Agent::sight(&*agent)).shown_by;
        all.into_iter().map(|it| format!("{} {}", it.node, it.state)).collect::<Vec<_>>()
    };
    assert!(shown().is_empty(), "nothing is to be shown");
    assert_eq!(admin(&agent, "PUT", SHOP, &pem(&["shop.example.com"], -1, 60)).await.0, StatusCode::OK);
    assert_eq!(shown(), ["n1 waiting", "n2 waiting", "n3 waiting"]);
    let mark = crate::certificates::expected(&state(&agent));
    agent.alter(|sight| {
        let live = Arc::make_mut(&mut sight.live);
        live.nodes.get_mut(&NodeId(1)).unwrap().shown = mark;
        live.nodes.get_mut(&NodeId(3)).unwrap().liveness = hirsel_model::view::Liveness::Suspect;
    });
    assert_eq!(shown(), ["n1 ok", "n2 waiting", "n3 unknown"]);
    assert_eq!(admin(&agent, "PUT", SHOP, &pem(&["shop.example.com"], -1, 60)).await.0, StatusCode::OK);
    assert_eq!(shown()[0], "n1 waiting", "another one took its place");
}

#[tokio::test]
async fn keys_of_tickets_are_replaced_by_whoever_administers_and_told_without_what_they_are() {
    let agent = sealing();
    let path = "/v1/certificates/tickets";
    let (status, answer) = admin(&agent, "POST", path, "{}").await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("nothing to resume"), "{answer}");
    let body = pem(&["shop.example.com"], -1, 60);
    assert_eq!(admin(&agent, "PUT", SHOP, &body).await.0, StatusCode::OK);
    assert_eq!(ask(&agent, STRANGER, "POST", path, Some("tok-oper"), "{}").await.0, StatusCode::FORBIDDEN);
    assert_eq!(admin(&agent, "POST", path, r#"{"forgetful":true}"#).await.0, StatusCode::BAD_REQUEST);
    let (_, did) = admin(&agent, "POST", path, "{}").await;
    assert!(did["data"]["did"].as_str().unwrap().contains("still good"), "{did}");
    assert!(state(&agent).tickets.wanted);
    agent.alter(|sight| {
        let keys = &mut Arc::make_mut(&mut sight.state).tickets.keys;
        let drawn = |version| TicketKey { version, at: hirsel_model::WallTime(0), key: Sealed(vec![7; 9]) };
        keys.extend([3, 2, 1].map(drawn));
    });
    let (_, listed) = admin(&agent, "GET", "/v1/certificates", "").await;
    let states: Vec<_> = listed["data"]["tickets"].as_array().unwrap().iter().map(|key| key["state"].clone()).collect();
    assert_eq!(states, ["next", "seals", "opens"]);
    let (_, did) = admin(&agent, "POST", path, r#"{"forget":true}"#).await;
    assert!(did["data"]["did"].as_str().unwrap().contains("forgotten"), "{did}");
    assert!(state(&agent).tickets.keys.is_empty() && state(&agent).tickets.wanted);
}

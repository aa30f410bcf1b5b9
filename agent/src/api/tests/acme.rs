//! Where certificates come from by themselves, as people say it and see it.

use hirsel_model::acme::{Change, after_failure};
use hirsel_model::control::{Command, ControlState, Entry};
use hirsel_model::spec::{RouteSpec, Tls};

use super::*;
use crate::api::fixture::NOON;

const PATH: &str = "/v1/certificates/acme";
const EAB_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

/// A cluster that can seal, one of whose routes asks for a certificate.
fn asking() -> Arc<StandIn> {
    let agent = StandIn::new(sight());
    agent.alter(|sight| {
        let state = Arc::make_mut(&mut sight.state);
        state.cluster.sealing.key = "00000000000000aa".into();
        let shop = state.spec.apps.values_mut().next().unwrap();
        let route = RouteSpec::plain("shop.example.com", "/", "web".parse().unwrap());
        shop.routes.push(RouteSpec { tls: Tls::Auto, ..route });
    });
    agent
}

fn state(agent: &StandIn) -> Arc<ControlState> {
    crate::api::agent::Agent::sight(agent).state
}

fn good() -> serde_json::Map<String, Value> {
    let fields = json!({
        "directory": "https://ca.example/dir", "contacts": ["me@example.com"], "agree_tos": true, "challenge": "http-01",
        "kid": "kid-1", "eab_key": EAB_KEY,
    });
    fields.as_object().unwrap().clone()
}

fn apply(agent: &StandIn, change: Change) {
    agent.alter(|sight| {
        let state = Arc::make_mut(&mut sight.state);
        let entry = Entry { at: NOON, by: "n1".into(), if_index: None, command: Command::Acme { change } };
        let outcome = state.apply(state.applied.next(), entry);
        assert!(!matches!(outcome, hirsel_model::control::Outcome::Refused(_)), "{outcome:?}");
    });
}

#[tokio::test]
async fn what_is_set_is_shown_and_never_a_key() {
    let agent = asking();
    let body = Value::Object(good()).to_string();
    let (_, planned) = admin(&agent, "PUT", &format!("{PATH}?plan=true"), &body).await;
    assert_eq!(planned["data"]["spec"][0]["path"], "acme", "{planned}");
    assert!(state(&agent).acme.settings.is_none());
    let (status, did) = admin(&agent, "PUT", PATH, &body).await;
    assert_eq!((status, &did["data"]["undo"]), (StatusCode::OK, &json!("hirsel cert acme off")), "{did}");
    let (_, shown) = admin(&agent, "GET", PATH, "").await;
    let data = &shown["data"];
    assert_eq!(data["directory"], "https://ca.example/dir");
    assert_eq!(
        (&data["kid"], &data["challenge"], &data["account"]),
        (&json!("kid-1"), &json!("http-01"), &json!(null))
    );
    assert_eq!((&data["hosts"][0]["host"], &data["hosts"][0]["state"]), (&json!("shop.example.com"), &json!("due")));
    let (_, events) = admin(&agent, "GET", "/v1/events", "").await;
    for answer in [planned, did, shown, events] {
        assert!(!answer.to_string().contains(&EAB_KEY[..10]), "{answer}");
    }
    let sealed = state(&agent).acme.settings.clone().unwrap().binding.unwrap().key;
    let brought: Vec<u8> = sealed.0.iter().rev().copied().collect();
    assert_eq!(brought, EAB_KEY.as_bytes());
    assert_eq!(admin(&agent, "DELETE", PATH, "").await.0, StatusCode::OK);
    assert_eq!(admin(&agent, "DELETE", PATH, "").await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_words() {
    let agent = asking();
    for (field, value, words) in [
        ("agree_tos", json!(false), "are not agreed to"),
        ("directory", json!("http://ca.example/dir"), "expected https://"),
        ("directory", json!("https://"), "directory \"https://\""),
        ("contacts", json!(["nobody"]), "is no mail address"),
        ("contacts", json!(["a@b?cc=c@d"]), "is no mail address"),
        ("challenge", json!("dns-01"), "neither http-01 nor tls-alpn-01"),
        ("kid", json!(null), "a key identifier and a key"),
        ("eab_key", json!("not base64!"), "no Base64 for URLs"),
        ("roots", json!("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"), "no certificates in PEM"),
        ("directroy", json!(1), "directroy"),
    ] {
        let mut fields = good();
        fields.insert(field.into(), value);
        let (status, answer) = admin(&agent, "PUT", PATH, &Value::Object(fields).to_string()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{field}: {answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(words) && !message.contains(&EAB_KEY[..10]), "{answer}");
    }
    assert!(state(&agent).acme.settings.is_none());
    let renew = |host: &str| format!("/v1/certificates/front/{host}/renew");
    let (status, answer) = admin(&agent, "POST", &renew("shpo.example.com"), "").await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("did you mean"), "{answer}");
}

#[tokio::test]
async fn a_host_that_waits_for_its_certificate_is_warned_of_until_it_has_one() {
    let agent = asking();
    let warnings = async || admin(&agent, "GET", "/v1/status", "").await.1["warnings"].clone();
    let doctor = || {
        let all = crate::api::doctor::doctor(&crate::api::agent::Agent::sight(&*agent), &Default::default());
        all.checks.into_iter().find(|check| check.subject == "automatic").map(|check| check.value)
    };
    let unset =
        "shop.example.com asks for a certificate, and nobody said where they come from; try: hirsel cert acme set";
    assert_eq!(warnings().await, json!([unset]));
    assert_eq!(admin(&agent, "PUT", PATH, &Value::Object(good()).to_string()).await.0, StatusCode::OK);
    assert_eq!((warnings().await, doctor()), (json!([]), None));
    let trouble = after_failure(None, NOON, "https://ca.example/dir says: not yours (rejectedIdentifier)", None, 0);
    apply(&agent, Change::Failed { host: Some("shop.example.com".into()), trouble });
    let said = warnings().await;
    let said = said[0].as_str().unwrap();
    assert!(said.starts_with("no certificate for shop.example.com: https://ca.example/dir says: not yours"), "{said}");
    assert_eq!(doctor().as_deref(), Some(said));
    let (_, shown) = admin(&agent, "GET", "/v1/certificates", "").await;
    let host = &shown["data"]["automatic"][0];
    assert_eq!(
        (&host["state"], &host["served"], &host["trouble"]["failures"]),
        (&json!("waiting"), &json!(false), &json!(1))
    );
    // An operator need not wait.
    let path = "/v1/certificates/front/Shop.example.com/renew";
    assert_eq!(ask(&agent, STRANGER, "POST", path, Some("tok-view"), "").await.0, StatusCode::FORBIDDEN);
    assert_eq!(ask(&agent, STRANGER, "POST", path, Some("tok-oper"), "").await.0, StatusCode::OK);
    assert_eq!(warnings().await, json!([]));
}

//! Requests as people ask for them: what was written down, what is remembered, what is counted.

use hirsel_model::spec::{AccessLog, LogFormat, Share};
use hirsel_role::requests::{Remembered, Teller, Traffic, Tried};

use super::*;
use crate::api::agent::Agent;

/// Remembers one request, and counts one route.
struct One;

impl Teller for One {
    fn recall(&self, id: &str) -> Vec<Remembered> {
        let tries = vec![Tried {
            whom: "shop/web/1".into(),
            node: Some(NodeId(1)),
            outcome: "answered".into(),
            ..Tried::default()
        }];
        let one = Remembered { id: "3f2a9c1e-7d4b".into(), status: 200, tries, tried: 1, ..Remembered::default() };
        [one].into_iter().filter(|one| one.id == id).collect()
    }

    fn traffic(&self) -> Vec<Traffic> {
        vec![Traffic { route: "shop.test/".into(), answers: [0, 7, 0, 0, 1], ..Traffic::default() }]
    }
}

#[tokio::test]
async fn lines_of_all_load_balancers_are_put_in_order_and_who_is_silent_is_named() {
    let agent = StandIn::new(sight());
    let (status, answer) = admin(&agent, "GET", "/v1/requests", "").await;
    assert_eq!(status, StatusCode::OK);
    let lines: Vec<_> = answer["data"].as_array().unwrap().iter().collect();
    let seen: Vec<_> = lines.iter().map(|line| (line["node"].as_str(), line["app"].as_str())).collect();
    let (n1, n2) = (Some("n1"), Some("n2"));
    let (shop, other) = (Some("shop"), Some("other"));
    assert_eq!(seen, [(n1, shop), (n2, shop), (n1, other), (n2, other), (n1, shop), (n2, shop)]);
    assert_eq!(lines[0]["request"]["app"], "shop");
    assert!(answer["warnings"][0].as_str().is_some_and(|words| words.contains("nothing from n3")), "{answer}");
    let (_, answer) = admin(&agent, "GET", "/v1/requests?what=shop/web", "").await;
    assert_eq!(answer["data"], json!([]), "of another service");
    let (_, answer) = admin(&agent, "GET", "/v1/requests?what=shop&tail=1", "").await;
    assert_eq!(answer["data"].as_array().map(Vec::len), Some(1));
    let (status, answer) = admin(&agent, "GET", "/v1/requests?what=shpo", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(answer["error"]["message"].as_str().unwrap().contains("did you mean \"shop\""), "{answer}");
}

#[tokio::test]
async fn why_knows_a_request_by_its_id_and_says_so_when_nobody_does() {
    let agent = StandIn::new(sight());
    agent.requests.open(Arc::new(One));
    let (status, answer) = admin(&agent, "GET", "/v1/why/3f2a9c1e-7d4b", "").await;
    assert_eq!((status, &answer["data"]["subject"]), (StatusCode::OK, &json!("request/3f2a9c1e-7d4b")));
    assert_eq!(answer["data"]["chosen"]["text"], "answered by shop/web/1");
    let (status, answer) = admin(&agent, "GET", "/v1/why/4bf92f3577b34da6a3ce929d0e0e4736", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let error = &answer["error"];
    assert!(error["message"].as_str().unwrap().contains("no load balancer remembers a request"), "{answer}");
    assert_eq!(error["next"][0], "hirsel logs --requests | grep 4bf92f3577b34da6a3ce929d0e0e4736");
    assert!(error["evidence"][0].as_str().unwrap().contains("n3"), "{answer}");
    // A name that is misspelled is no request.
    let (status, answer) = admin(&agent, "GET", "/v1/why/shop-frontend", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(!answer["error"]["message"].as_str().unwrap().contains("request"), "{answer}");
}

#[tokio::test]
async fn counts_come_from_every_load_balancer() {
    let agent = StandIn::new(sight());
    agent.requests.open(Arc::new(One));
    let (_, answer) = admin(&agent, "GET", "/v1/traffic", "").await;
    let rows: Vec<_> = answer["data"].as_array().unwrap().iter().map(|row| row["node"].clone()).collect();
    assert_eq!(rows, [json!("n1"), json!("n2")]);
    assert_eq!(answer["data"][0]["answers"], json!([0, 7, 0, 0, 1]));
    assert_eq!(answer["data"][0]["took"].as_array().unwrap().last().unwrap()["at_most_ms"], Value::Null);
}

#[tokio::test]
async fn how_requests_are_written_down_is_changed_and_taken_back_beside_other_wishes() {
    let agent = StandIn::new(sight());
    let log = || {
        let lb = agent.sight().state.spec.roles.get(&hirsel_model::RoleName::lb()).cloned().unwrap_or_default();
        (lb.log, lb.pins.len())
    };
    assert_eq!(admin(&agent, "POST", "/v1/roles/lb/pin", r#"{"node":"n1"}"#).await.0, StatusCode::OK);
    let body = r#"{"format":"combined","sample":0.25,"query":false,"syslog":"10.0.0.9"}"#;
    let (status, answer) = admin(&agent, "PUT", "/v1/roles/lb/log", body).await;
    assert_eq!((status, &answer["data"]["undo"]), (StatusCode::OK, &json!("hirsel role log lb off")));
    let syslog = Some(([10, 0, 0, 9], 514).into());
    let combined = AccessLog { format: LogFormat::Combined, sample: Share(250_000), without_query: true, syslog };
    assert_eq!(log(), (Some(combined), 1));
    let (_, answer) = admin(&agent, "PUT", "/v1/roles/lb/log", r#"{"format":"off"}"#).await;
    assert_eq!(answer["data"]["undo"], "hirsel role log lb combined --sample 0.25 --no-query --syslog 10.0.0.9:514");
    assert_eq!(log(), (None, 1));
}

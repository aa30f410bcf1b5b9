//! The interface as a client sees it: who may do what, shapes, refusals, and that no bytes whatever bring it down.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;

use super::auth::Source;
use super::fixture::{self, sight};
use super::server::{Server, router};
use super::sight::Sight;
use super::stand_in::StandIn;
use hirsel_model::{LogIndex, NodeId};

mod access;
mod acme;
mod certificates;
mod requests;

const SOCKET: Source = Source::Socket;
const STRANGER: Source = Source::Network { node: None };

async fn ask(
    agent: &Arc<StandIn>,
    source: Source,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: &str,
) -> (StatusCode, Value) {
    let response = send(agent, source, method, path, token, body).await;
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::String(String::from_utf8_lossy(&bytes).into())))
}

async fn send(
    agent: &Arc<StandIn>,
    source: Source,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: &str,
) -> Response {
    let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(path);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let mut request = request.body(Body::from(body.to_string())).unwrap();
    request.extensions_mut().insert(source);
    router(agent.clone()).oneshot(request).await.unwrap()
}

async fn admin(agent: &Arc<StandIn>, method: &str, path: &str, body: &str) -> (StatusCode, Value) {
    ask(agent, SOCKET, method, path, None, body).await
}

/// The control state forgets only nodes that hold nothing.
fn n3_holds_nothing(sight: &mut Sight) {
    let plan = &mut Arc::make_mut(&mut sight.state).plan;
    plan.roles.values_mut().for_each(|slots| slots.retain(|_, held| held.node != NodeId(3)));
    plan.voters.remove(&NodeId(3));
}

/// So that it can be rolled back.
fn shop_ran_otherwise(sight: &mut Sight) {
    let state = Arc::make_mut(&mut sight.state);
    let Some((app, spec)) = state.spec.apps.first_key_value() else { return };
    for (name, service) in &spec.services {
        let (mut former, before) = (service.clone(), hirsel_model::Revision(0));
        former.revision = before;
        former.command.push("--old".into());
        state.former.entry(app.clone()).or_default().entry(name.clone()).or_default().insert(before, former);
    }
}

const MANIFEST: &str = "app = \"blog\"\n[service.web]\ncommand = [\"serve\"]\nreplicas = 2\n";

const ACME: &str = r#"{"directory":"https://ca.example/dir","agree_tos":true}"#;

const BACKUP: &str = "{\"by\":\"passphrase\",\"rounds\":1000,\
    \"salt\":\"0000000000000000000000000000000000000000000000000000000000000001\",\
    \"key\":\"0000000000000000000000000000000000000000000000000000000000000002\"}";

/// Every path, a good body, and the least rights that suffice: 0 none, 1 viewer, 2 operator, 3 admin.
const PATHS: &[(&str, &str, &str, usize)] = &[
    ("GET", "/healthz", "", 0),
    ("GET", "/metrics", "", 1),
    ("GET", "/v1/status", "", 1),
    ("GET", "/v1/members", "", 1),
    ("GET", "/v1/roles", "", 1),
    ("GET", "/v1/apps", "", 1),
    ("GET", "/v1/apps/shop/ps", "", 1),
    ("GET", "/v1/events", "", 1),
    ("GET", "/v1/why/n3", "", 1),
    ("GET", "/v1/logs/shop", "", 1),
    ("GET", "/v1/openapi.json", "", 1),
    ("POST", "/v1/plan", MANIFEST, 1),
    ("GET", "/v1/simulate?events=kill:n3,zone:a", "", 1),
    ("GET", "/v1/doctor", "", 1),
    ("POST", "/v1/apply", MANIFEST, 2),
    ("POST", "/v1/apps/shop/scale", r#"{"replicas":3}"#, 2),
    ("POST", "/v1/apps/shop/restart", "", 2),
    ("POST", "/v1/apps/shop/rollback", "", 2),
    ("GET", "/v1/upgrade", "", 1),
    ("POST", "/v1/upgrade/finish", "", 3),
    ("POST", "/v1/apps/shop/stop", "", 2),
    ("POST", "/v1/apps/shop/start", "", 2),
    ("DELETE", "/v1/apps/shop", "", 2),
    ("POST", "/v1/nodes/n3/drain", "", 2),
    ("POST", "/v1/nodes/n3/cordon", "", 2),
    ("POST", "/v1/nodes/n3/uncordon", "", 2),
    ("POST", "/v1/nodes/n3/leave", "", 3),
    ("POST", "/v1/nodes/n3/forget?force=gone", "", 3),
    ("POST", "/v1/roles/lb/pin", r#"{"node":"n1"}"#, 2),
    ("POST", "/v1/roles/lb/unpin", r#"{"node":"n1"}"#, 2),
    ("POST", "/v1/roles/lb/move", r#"{"node":"n1","to":"n3"}"#, 2),
    ("PUT", "/v1/roles/lb/log", r#"{"format":"json","sample":0.1}"#, 2),
    ("GET", "/v1/requests?what=shop", "", 1),
    ("GET", "/v1/traffic", "", 1),
    ("GET", "/v1/tokens", "", 3),
    ("POST", "/v1/tokens", r#"{"grants":"join"}"#, 3),
    ("DELETE", "/v1/tokens/view", "", 3),
    ("POST", "/v1/backup", BACKUP, 3),
    ("GET", "/v1/certificates/acme", "", 1),
    ("PUT", "/v1/certificates/acme", ACME, 3),
    ("PUT", "/v1/webhook", r#"{"url":"http://127.0.0.1:9/x"}"#, 3),
    ("GET", "/v1/cache", "", 1),
    ("POST", "/v1/cache/purge", r#"{"place":"shop.test/a/*"}"#, 2),
    ("GET", "/v1/addresses", "", 1),
    ("GET", "/v1/dns/zones", "", 1),
    ("GET", "/v1/dns/zones/example.com", "", 1),
    ("POST", "/v1/dns/zones/example.com/roll", r#"{"seen":true}"#, 2),
    ("PUT", "/v1/addresses/192.0.2.10", r#"{"prefix":24}"#, 3),
];

/// A zone whose next key waits to be named by the zone above.
fn example_com_has_another_key(sight: &mut Sight) {
    use hirsel_model::dnssec::{PUBLIC_BYTES, Step, ZoneKey, ZoneKeys};
    use hirsel_model::secret::Sealed;
    let key = |version: u8| ZoneKey {
        version: version.into(),
        at: fixture::NOON,
        public: Sealed(vec![version; PUBLIC_BYTES]),
        key: Sealed(vec![version]),
    };
    let keys = [key(1), key(2)].into();
    let zone = ZoneKeys { keys, step: Step::Offered, since: fixture::NOON, wanted: false, parting: None };
    Arc::make_mut(&mut sight.state).signing.zones.insert("example.com".into(), zone);
}

#[tokio::test]
async fn every_path_is_open_to_exactly_those_who_have_the_rights() {
    let callers: [(Source, Option<&str>, usize); 7] = [
        (STRANGER, None, 0),
        (STRANGER, Some("tok-join"), 0),
        (STRANGER, Some("tok-view"), 1),
        (STRANGER, Some("tok-oper"), 2),
        (STRANGER, Some("tok-admi"), 3),
        (Source::Network { node: Some(NodeId(2)) }, None, 1),
        (SOCKET, None, 3),
    ];
    for (method, path, body, need) in PATHS {
        for (source, token, rights) in callers {
            let agent = StandIn::new(sight());
            agent.alter(n3_holds_nothing);
            agent.alter(shop_ran_otherwise);
            agent.alter(example_com_has_another_key);
            let (status, answer) = ask(&agent, source, method, path, token, body).await;
            let case = format!("{method} {path} as {source:?} {token:?}: {status} {answer}");
            if rights >= *need {
                assert_eq!(status, StatusCode::OK, "{case}");
            } else {
                let expected =
                    if rights == 0 && token.is_none() { StatusCode::UNAUTHORIZED } else { StatusCode::FORBIDDEN };
                assert_eq!(status, expected, "{case}");
                assert!(!answer["error"]["next"].as_array().unwrap().is_empty(), "{case}");
            }
        }
    }
}

#[tokio::test]
async fn a_token_that_is_wrong_revoked_expired_or_none_opens_nothing() {
    let agent = StandIn::new(sight());
    agent.alter(|sight| {
        let tokens = &mut Arc::make_mut(&mut sight.state).tokens;
        tokens.get_mut("oper").unwrap().revoked = true;
        tokens.get_mut("view").unwrap().expires_at = hirsel_model::WallTime(1);
    });
    for (token, words) in [
        ("bad-admi", "does not know the token"),
        ("tok-nobody", "does not know the token"),
        ("tok-oper", "revoked"),
        ("tok-view", "expired"),
        ("rubbish", "holds no token"),
        ("", "holds no token"),
    ] {
        let (status, answer) = ask(&agent, STRANGER, "GET", "/v1/status", Some(token), "").await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{token}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(words), "{token}: {answer}");
    }
    // A wrong token is not forgiven because a certificate came with it.
    let node = Source::Network { node: Some(NodeId(2)) };
    assert_eq!(ask(&agent, node, "GET", "/v1/status", Some("bad-admi"), "").await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn an_answer_is_one_line_in_the_envelope_of_the_contract() {
    let agent = StandIn::new(sight());
    let response = send(&agent, SOCKET, "GET", "/v1/status", None, "").await;
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1);
    let answer: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(
        (&answer["api"], &answer["cluster"], &answer["node"]),
        (&json!(1), &json!("test-cluster"), &json!("n1"))
    );
    assert_eq!((&answer["index"], &answer["stale_ms"], &answer["warnings"]), (&json!(42), &json!(80), &json!([])));
    assert_eq!(answer["data"]["leader"], json!("n2"));
}

#[tokio::test]
async fn reads_answer_without_a_leader_and_changes_say_that_there_is_none() {
    let agent = StandIn::new(sight());
    agent.alter(|sight| sight.leadership.leader = None);
    let (status, answer) = admin(&agent, "GET", "/v1/status", "").await;
    assert_eq!((status, &answer["data"]["health"]), (StatusCode::OK, &json!("no_leader")));
    let (status, answer) = admin(&agent, "POST", "/v1/apps/shop/stop", "").await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("no_leader")));
}

#[tokio::test]
async fn a_fresh_read_needs_a_leader_and_goes_with_every_other_question() {
    let agent = StandIn::new(sight());
    for path in ["/v1/status?fresh=true", "/v1/members?all=true&fresh=true", "/v1/tokens?fresh=true"] {
        assert_eq!(admin(&agent, "GET", path, "").await.0, StatusCode::OK, "{path}");
    }
    assert_eq!(admin(&agent, "GET", "/v1/status?fresh=maybe", "").await.0, StatusCode::BAD_REQUEST);
    agent.alter(|sight| sight.leadership.stale_ms = 60_000);
    assert_eq!(admin(&agent, "GET", "/v1/status?fresh=false", "").await.0, StatusCode::OK);
    let (status, answer) = admin(&agent, "GET", "/v1/status?fresh=true", "").await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("no_leader")));
}

#[tokio::test]
async fn a_change_tells_what_it_did_and_how_to_undo_it() {
    let agent = StandIn::new(sight());
    let (_, answer) = admin(&agent, "POST", "/v1/apps/shop/scale", r#"{"replicas":5}"#).await;
    assert_eq!(
        answer["data"],
        json!({"did": "scaled shop/web from 2 to 5", "undo": "hirsel scale shop/web=2", "index": 43})
    );
    let (_, answer) = admin(&agent, "GET", "/v1/apps", "").await;
    assert_eq!(answer["data"][0]["services"][0]["wanted"], json!(5));
    let (_, answer) = admin(&agent, "POST", "/v1/apply", MANIFEST).await;
    assert_eq!(answer["data"]["undo"], json!("hirsel rm blog"));
}

#[tokio::test]
async fn a_change_for_an_index_that_is_past_is_a_conflict_and_any_index_since_the_last_change_is_good() {
    let agent = StandIn::new(sight());
    let scale = |index: u64| format!("/v1/apps/shop/scale?if_index={index}");
    let (status, answer) = admin(&agent, "POST", &scale(39), r#"{"replicas":3}"#).await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::CONFLICT, &json!("conflict")));
    assert_eq!(admin(&agent, "POST", &scale(42), r#"{"replicas":3}"#).await.0, StatusCode::OK);
    assert_eq!(admin(&agent, "POST", &scale(42), r#"{"replicas":4}"#).await.0, StatusCode::CONFLICT);
    assert_eq!(admin(&agent, "POST", &scale(43), r#"{"replicas":4}"#).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_plan_shows_and_changes_nothing() {
    let agent = StandIn::new(sight());
    let (_, answer) = admin(&agent, "POST", "/v1/plan", MANIFEST).await;
    assert_eq!(answer["data"]["changes"], json!(true), "{answer}");
    assert!(answer["data"]["spec"].as_array().unwrap().iter().any(|change| {
        change["path"] == json!("apps.blog.services.web.replicas.min") && change["after"] == json!("2")
    }));
    let (_, answer) = admin(&agent, "POST", "/v1/apps/shop/scale?plan=true", r#"{"replicas":2}"#).await;
    assert_eq!(answer["data"]["spec"], json!([]), "{answer}");
    assert_eq!(super::agent::Agent::sight(&*agent).state.applied, LogIndex(42));
}

#[tokio::test]
async fn a_manifest_that_is_wrong_is_refused_whole_with_every_place() {
    let agent = StandIn::new(sight());
    let (status, answer) =
        admin(&agent, "POST", "/v1/apply", "app = \"x\"\n[service.web]\ncomand = [\"a\"]\nreplicas = -1\n").await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::BAD_REQUEST, &json!("manifest")));
    assert!(answer["error"]["evidence"].as_array().unwrap().len() >= 2, "{answer}");
}

#[tokio::test]
async fn names_that_are_not_there_are_not_found_with_a_suggestion() {
    let agent = StandIn::new(sight());
    for (method, path, body) in [
        ("GET", "/v1/apps/shpo/ps", ""),
        ("GET", "/v1/why/shop/wbe", ""),
        ("GET", "/v1/logs/shop/wbe", ""),
        ("POST", "/v1/apps/shop/scale", r#"{"service":"wbe","replicas":1}"#),
        ("POST", "/v1/nodes/n33/drain", ""),
        ("POST", "/v1/nodes/n3/drian", ""),
        ("POST", "/v1/roles/compte/pin", r#"{"node":"n1"}"#),
        ("DELETE", "/v1/tokens/veiw", ""),
    ] {
        let (status, answer) = admin(&agent, method, path, body).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains("did you mean"), "{path}: {answer}");
    }
    assert_eq!(admin(&agent, "GET", "/v1/nowhere", "").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_is_asked_wrongly_is_named() {
    let agent = StandIn::new(sight());
    for (method, path, body, word) in [
        ("POST", "/v1/apps/shop/scale", "{", "EOF"),
        ("POST", "/v1/apps/shop/scale", r#"{"replicas":1,"x":2}"#, "x"),
        ("POST", "/v1/apps/shop/scale?plna=true", r#"{"replicas":1}"#, "plna"),
        ("POST", "/v1/tokens", r#"{"grants":"king"}"#, "king"),
        ("POST", "/v1/tokens", r#"{"grants":"join","uses":0}"#, "uses"),
        ("POST", "/v1/tokens", r#"{"grants":"join","ttl_s":0}"#, "between"),
        ("PUT", "/v1/webhook", r#"{"url":"ftp://x"}"#, "http://"),
        ("PUT", "/v1/roles/lb/log", r#"{"format":"xml"}"#, "none of json, combined, off"),
        ("PUT", "/v1/roles/lb/log", r#"{"format":"json","sample":7}"#, "no share"),
        ("PUT", "/v1/roles/lb/log", r#"{"format":"json","syslog":"logs"}"#, "no address of a collector"),
        ("PUT", "/v1/roles/compute/log", r#"{"format":"json"}"#, "only lb"),
        ("PUT", "/v1/addresses/192.0.2.300", r#"{"prefix":24}"#, "no IPv4"),
        ("PUT", "/v1/addresses/224.0.0.1", r#"{"prefix":24}"#, "one host"),
        ("PUT", "/v1/addresses/192.0.2.10", r#"{"interface":"a/b"}"#, "no name of an interface"),
        ("POST", "/v1/cache/purge", "{}", "say what to forget"),
        ("POST", "/v1/cache/purge", r#"{"tag":"a","all":true}"#, "say what to forget"),
        ("POST", "/v1/cache/purge", r#"{"place":"http://h/a"}"#, "no host"),
        ("POST", "/v1/cache/purge", r#"{"place":"h/a*"}"#, "no path"),
        ("POST", "/v1/cache/purge", r#"{"tag":"a b"}"#, "no tag"),
        ("GET", "/v1/events?after=x", "", "after"),
    ] {
        let (status, answer) = admin(&agent, method, path, body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(word), "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let body = "x".repeat(super::server::BODY_BYTES_MAX + 1);
    let (status, answer) = admin(&StandIn::new(sight()), "POST", "/v1/apply", &body).await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("too_large")));
}

#[tokio::test]
async fn a_node_that_is_alive_is_forgotten_only_by_force() {
    let agent = StandIn::new(sight());
    agent.alter(n3_holds_nothing);
    let (status, answer) = admin(&agent, "POST", "/v1/nodes/n3/forget", "").await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("unsafe")));
    assert_eq!(admin(&agent, "POST", "/v1/nodes/n3/forget?force=sold", "").await.0, StatusCode::OK);
    assert_eq!(admin(&agent, "GET", "/v1/members", "").await.1["data"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn pins_add_up_and_are_taken_back_one_by_one() {
    let agent = StandIn::new(sight());
    for (verb, node) in [("pin", "n1"), ("pin", "n2"), ("unpin", "n1")] {
        let body = format!(r#"{{"node":"{node}"}}"#);
        assert_eq!(admin(&agent, "POST", &format!("/v1/roles/lb/{verb}"), &body).await.0, StatusCode::OK);
    }
    let sight = super::agent::Agent::sight(&*agent);
    assert_eq!(sight.state.spec.roles.values().next().unwrap().pins, [NodeId(2)].into());
}

#[tokio::test]
async fn logs_come_from_all_nodes_in_order_of_time_and_name_who_did_not_answer() {
    let agent = StandIn::new(sight());
    let (_, answer) = admin(&agent, "GET", "/v1/logs/shop", "").await;
    let told: Vec<_> = answer["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| (line["node"].as_str().unwrap(), line["text"].as_str().unwrap()))
        .collect();
    assert_eq!(told, [("n1", "hello of shop/web/1"), ("n2", "hello of shop/web/3")]);
    agent.alter(|sight| {
        let plan = &mut Arc::make_mut(&mut sight.state).plan;
        plan.instances.values_mut().next().unwrap().node = NodeId(3);
    });
    let (_, answer) = admin(&agent, "GET", "/v1/logs/shop/web", "").await;
    assert!(answer["warnings"][0].as_str().unwrap().contains("no output from n3"), "{answer}");
}

#[tokio::test]
async fn events_are_followed_line_by_line() {
    let agent = StandIn::new(sight());
    let mut body = send(&agent, SOCKET, "GET", "/v1/events?follow=1&tail=1", None, "").await.into_body();
    let next = async |body: &mut Body| -> Value {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        serde_json::from_slice(frame.split(|byte| *byte == b'\n').next().unwrap()).unwrap()
    };
    assert_eq!(next(&mut body).await["data"]["index"], json!(5));
    assert_eq!(admin(&agent, "POST", "/v1/apps/shop/stop", "").await.0, StatusCode::OK);
    assert_eq!(next(&mut body).await["data"]["index"], json!(6));
}

#[tokio::test]
async fn metrics_and_the_description_are_whole() {
    let agent = StandIn::new(sight());
    let (_, text) = admin(&agent, "GET", "/metrics", "").await;
    let text = text.as_str().unwrap();
    assert!(
        text.contains("hirsel_leader 0\n") && text.contains("hirsel_app_instances_healthy{app=\"shop\"} 2\n"),
        "{text}"
    );
    assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1, "{text}");
    let (_, document) = admin(&agent, "GET", "/v1/openapi.json", "").await;
    let described = document["paths"].as_object().unwrap();
    for (_, path, _, _) in
        PATHS.iter().filter(|(_, path, _, _)| path.matches('/').count() == 2 && !path.ends_with(".json"))
    {
        assert!(described.contains_key(path.split('?').next().unwrap()), "{path} is not described");
    }
}

#[tokio::test]
async fn a_socket_is_private_and_answers() {
    let folder = tempfile::tempdir().unwrap();
    // Longer than the system takes.
    let deep = folder.path().join("d".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    let path = deep.join("agent.sock");
    std::fs::write(&path, "stale").unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let server = Server::new(StandIn::new(sight()));
    let (serving, stopped) = (path.clone(), stop.clone());
    let served = tokio::spawn(async move { server.listen_unix(&serving, stopped).await });
    let mut stream = loop {
        let (_folder, short) = super::server::short_path(&path).unwrap();
        match tokio::net::UnixStream::connect(short).await {
            Ok(stream) => break stream,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    stream.write_all(b"GET /v1/members HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    stop.cancel();
    served.await.unwrap().unwrap();
    assert!(!path.exists());
}

/// Sends `bytes` as a client would, and says whether the server ended the connection by itself or in the usual way.
async fn survives(bytes: Vec<u8>, source: Source) {
    let server = Server::new(StandIn::new(sight()));
    let (mut client, served) = tokio::io::duplex(1 << 16);
    let serving = tokio::spawn(async move { server.serve(served, source).await });
    let _ = client.write_all(&bytes).await;
    let _ = client.shutdown().await;
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer).await;
    serving.await.expect("no bytes make the server panic");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_bring_the_server_down(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(survives(bytes, STRANGER));
    }

    #[test]
    fn no_path_and_body_bring_a_handler_down(which in 0..PATHS.len(), tail in "[ -~]{0,40}", body in proptest::collection::vec(any::<u8>(), 0..512)) {
        let (method, path, _, _) = PATHS[which];
        let cut = path.rfind('/').unwrap_or(0) + 1;
        let tail: String = tail.chars().map(|c| if c == ' ' { '+' } else { c }).collect();
        let mut bytes = format!("{method} {}{tail} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", &path[..cut], body.len()).into_bytes();
        bytes.extend(body);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(survives(bytes, SOCKET));
    }
}

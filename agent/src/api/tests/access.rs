//! Access keys of the object store, as a client makes them.

use super::*;

const KEYS: &str = "/v1/access-keys";
const KEY: &str = "/v1/access-keys/HIRS0000000000000001";

fn sealing() -> Arc<StandIn> {
    let agent = StandIn::new(sight());
    agent.alter(|sight| {
        Arc::make_mut(&mut sight.state).cluster.sealing.key = "00000000000000aa".into();
        sight.config.s3 = Some("127.0.0.1:7480".parse().unwrap());
    });
    agent
}

#[tokio::test]
async fn a_secret_is_told_once_to_who_asked_for_the_key_and_to_nobody_else() {
    let agent = sealing();
    let fields = r#"{"name":"pictures","buckets":["media","shop-*"],"makes_no_buckets":true}"#;
    let (status, made) = admin(&agent, "POST", KEYS, fields).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    let expected = json!({
        "access_key_id": "HIRS0000000000000001", "secret_access_key": "s3cr3t", "endpoint": "http://127.0.0.1:7480",
        "region": "hirsel", "name": "pictures", "account": "main",
    });
    assert_eq!(made["data"], expected);
    let (_, listed) = ask(&agent, STRANGER, "GET", KEYS, Some("tok-view"), "").await;
    let key = &listed["data"][0];
    assert_eq!((&key["name"], &key["account"]), (&json!("pictures"), &json!("main")));
    assert_eq!((&key["buckets"], &key["makes_buckets"]), (&json!(["media", "shop-*"]), &json!(false)));
    assert!(!listed.to_string().contains("s3cr3t"));
    let (_, events) = admin(&agent, "GET", "/v1/events", "").await;
    assert!(events.to_string().contains("was made, for account main") && !events.to_string().contains("s3cr3t"));
    let (_, again) = admin(&agent, "POST", KEYS, fields).await;
    assert!(!again.to_string().contains("s3cr3t"), "it is refused: {again}");
}

#[tokio::test]
async fn who_deploys_makes_and_removes_keys_and_who_looks_does_not() {
    let agent = sealing();
    assert_eq!(ask(&agent, STRANGER, "POST", KEYS, Some("tok-view"), "{}").await.0, StatusCode::FORBIDDEN);
    assert_eq!(ask(&agent, STRANGER, "GET", KEYS, None, "").await.0, StatusCode::UNAUTHORIZED);
    let (status, shown) = ask(&agent, STRANGER, "POST", &format!("{KEYS}?plan=true"), Some("tok-oper"), "{}").await;
    assert_eq!(status, StatusCode::OK, "{shown}");
    assert_eq!(admin(&agent, "GET", KEYS, "").await.1["data"], json!([]), "it was only shown");
    assert_eq!(ask(&agent, STRANGER, "POST", KEYS, Some("tok-oper"), "{}").await.0, StatusCode::OK);
    assert_eq!(ask(&agent, STRANGER, "DELETE", KEY, Some("tok-view"), "").await.0, StatusCode::FORBIDDEN);
    assert_eq!(ask(&agent, STRANGER, "DELETE", KEY, Some("tok-oper"), "").await.0, StatusCode::OK);
    assert_eq!(ask(&agent, STRANGER, "DELETE", KEY, Some("tok-oper"), "").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_makes_no_sense_is_said_and_nothing_is_made() {
    let agent = sealing();
    for (fields, says) in [
        (r#"{"bucket":"media"}"#, "unknown field"),
        (r#"{"buckets":["Media"]}"#, "is no bucket"),
        (r#"{"account":"Main"}"#, "name of the account"),
        (r#"{"name":"a\nb"}"#, "more than one line"),
    ] {
        let (status, answer) = admin(&agent, "POST", KEYS, fields).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(says), "{fields}: {answer}");
    }
    assert_eq!(admin(&agent, "DELETE", "/v1/access-keys/it", "").await.0, StatusCode::BAD_REQUEST);
    assert_eq!(admin(&agent, "GET", KEYS, "").await.1["data"], json!([]));
}

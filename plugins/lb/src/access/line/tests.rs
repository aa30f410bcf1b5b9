use hirsel_mesh::seam::Chance;
use hirsel_model::NodeId;
use hirsel_model::spec::Share;
use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::ids::Ids;

#[derive(Debug)]
struct Sevens;

impl Chance for Sevens {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(7);
    }
}

struct Numbered;

impl Names for Numbered {
    fn me(&self) -> &str {
        "n1"
    }
    fn of(&self, node: NodeId) -> Option<&str> {
        (node == NodeId(2)).then_some("n2")
    }
}

const JSON: AccessLog = AccessLog { format: LogFormat::Json, sample: Share::ALL, without_query: false, syslog: None };
const COMBINED: AccessLog = AccessLog { format: LogFormat::Combined, ..JSON };

fn mark() -> Mark {
    let headers: HeaderMap = [(crate::ids::X_REQUEST_ID, HeaderValue::from_static("3f2a9c1e"))].into_iter().collect();
    Ids::new(&Sevens).mark(&headers)
}

fn line<'a>(mark: &'a Mark, asked: &'a PathAndQuery) -> Line<'a> {
    Line {
        // 26 November 2026.
        at: WallTime(1_795_702_509_042),
        took_ms: 12,
        first_byte_ms: Some(9),
        mark,
        client: [10, 0, 0, 9].into(),
        encrypted: true,
        tls: Some("TLSv1.3"),
        version: Version::HTTP_2,
        method: "GET",
        host: b"shop.test",
        asked: Some(asked),
        referer: None,
        agent: Some(b"curl/8"),
        status: 200,
        fault: None,
        cached: None,
        shown: None,
        bytes_in: Some(0),
        bytes_out: 512,
        meter: None,
        origin: None,
        whom: None,
        tries: 1,
    }
}

#[test]
fn a_line_says_what_happened_in_both_formats() {
    let (mark, asked) = (mark(), PathAndQuery::from_static("/cart?item=1"));
    let app: hirsel_model::AppName = "shop".parse().unwrap();
    let meter = Meter::of(Some(app.clone()), "shop.test/");
    let origin = Origin::Service(app, "web".parse().unwrap());
    let whom = Whom::Instance { id: "shop/web/3".parse().unwrap(), node: NodeId(2) };
    let mut line = line(&mark, &asked);
    (line.meter, line.origin, line.whom) = (Some(&*meter), Some(&origin), Some(&whom));
    let text = line.write(JSON, &Numbered);
    assert_eq!(
        text,
        "{\"at\":\"2026-11-26T14:15:09.042Z\",\"id\":\"3f2a9c1e\",\"client\":\"10.0.0.9\",\"host\":\"shop.test\",\"method\":\"GET\",\
         \"path\":\"/cart\",\"query\":\"item=1\",\"http\":\"HTTP/2.0\",\"tls\":\"TLSv1.3\",\"status\":200,\"bytes_in\":0,\
         \"bytes_out\":512,\"took_ms\":12,\"first_byte_ms\":9,\"route\":\"shop.test/\",\"app\":\"shop\",\"service\":\"web\",\
         \"instance\":\"shop/web/3\",\"node\":\"n2\",\"tries\":1,\"lb\":\"n1\",\"agent\":\"curl/8\"}\n"
    );
    let combined = line.write(COMBINED, &Numbered);
    assert_eq!(
        combined,
        "10.0.0.9 - - [26/Nov/2026:14:15:09 +0000] \"GET /cart?item=1 HTTP/2.0\" 200 512 \"-\" \"curl/8\" \
         \"shop.test\" 3f2a9c1e shop/web shop/web/3 n2 1 9 12 -\n"
    );
    for format in [JSON, COMBINED] {
        let kept = line.write(AccessLog { without_query: true, ..format }, &Numbered);
        assert!(!kept.contains("item") && kept.contains("/cart"), "{kept}");
    }
}

#[test]
fn what_is_not_known_is_left_out_or_a_dash() {
    let (mark, asked) = (mark(), PathAndQuery::from_static("/"));
    let mut line = line(&mark, &asked);
    line.fault = Some(Fault::NoRoute);
    (line.asked, line.tries, line.first_byte_ms, line.encrypted) = (None, 0, None, false);
    let value: Value = serde_json::from_str(&line.write(JSON, &Numbered)).unwrap();
    for absent in ["tls", "route", "app", "service", "instance", "node", "query", "first_byte_ms", "referer"] {
        assert!(value.get(absent).is_none(), "{absent}");
    }
    assert_eq!(value["failed"], "no_route");
    assert!(line.write(COMBINED, &Numbered).ends_with("\"shop.test\" 3f2a9c1e -/- - - 0 - 12 no_route\n"));
}

proptest! {
    #[test]
    fn nothing_that_a_client_sends_ends_a_line_or_a_field(
        host in prop::collection::vec(any::<u8>(), 0..700),
        agent in prop::collection::vec(any::<u8>(), 0..700),
        referer in ".{0,40}",
        path in "/[!-~]{0,40}",
        method in "[!-~]{1,20}",
    ) {
        let Ok(asked) = path.parse::<PathAndQuery>() else { return Ok(()) };
        let mark = mark();
        let mut line = line(&mark, &asked);
        (line.host, line.agent, line.referer, line.method) = (&host, Some(&agent[..]), Some(referer.as_bytes()), &method);
        let text = line.write(JSON, &Numbered);
        prop_assert_eq!(text.matches('\n').count(), 1);
        prop_assert!(!text.trim_end().chars().any(char::is_control), "{:?}", text);
        let value: Value = serde_json::from_str(&text).expect("an object");
        prop_assert_eq!(&value["status"], 200, "nothing overwrites what is ours");
        prop_assert_eq!(value["referer"].as_str(), Some(referer.as_str()));
        prop_assert_eq!(value["method"].as_str(), Some(method.as_str()));
        let cut = String::from_utf8_lossy(&host[..host.len().min(FIELD_BYTES_MAX)]).into_owned();
        prop_assert_eq!(value["host"].as_str(), Some(cut.as_str()));
        let combined = line.write(COMBINED, &Numbered);
        prop_assert!(combined.trim_end_matches('\n').bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{combined:?}");
        prop_assert_eq!(combined.matches('"').count(), 8, "four quoted fields: {}", combined);
        prop_assert!(combined.len() < 16 << 10 && text.len() < 16 << 10);
    }
}

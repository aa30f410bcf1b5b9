//! Fields behind bodies: they pass both ways, where there is a place for them, and nothing among them that belongs in a head.

mod common;

use common::Bed;
use common::backend::{Backend, Deed, ok};

const SUMMED: &str = "HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 294\r\nContent-Length: 7\r\nX-Forwarded-User: eve\r\n\r\n";

#[tokio::test]
async fn fields_behind_a_request_reach_the_instance_but_those_of_a_head() {
    let backend = Backend::new(|_, _| Deed::Say(ok("done"))).await;
    let bed = Bed::serving(&[&backend]).await;
    let request = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 294\r\nHost: b\r\nAuthorization: x\r\n\r\n";
    assert_eq!(bed.ask(request).await.text(), "done");
    let seen = backend.request(0);
    assert_eq!((seen.body.as_slice(), seen.trailer.as_slice()), (&b"abc"[..], &["x-sum: 294".to_owned()][..]));
    // And where all of them are left out, the body ends as any other.
    assert_eq!(bed.ask(&request.replace("X-Sum", "Host")).await.text(), "done");
    assert_eq!(backend.request(1).trailer, Vec::<String>::new());
    // The connection went on.
    assert_eq!(*backend.connections.lock().unwrap(), 1);
}

#[tokio::test]
async fn fields_behind_an_answer_reach_whoever_takes_them() {
    let backend = Backend::new(|_, _| Deed::Say(SUMMED.into())).await;
    let bed = Bed::serving(&[&backend]).await;
    let takes = bed.ask("GET / HTTP/1.1\r\nHost: a\r\nTE: gzip;q=0.5, trailers\r\nConnection: TE\r\n\r\n").await;
    assert_eq!((takes.text(), takes.trailer.as_slice()), ("abc", &["x-sum: 294".to_owned()][..]));
    assert_eq!(backend.request(0).header("te"), Some("trailers"));
    let takes_not = bed.get("/").await;
    assert_eq!((takes_not.text(), takes_not.trailer.len()), ("abc", 0));
    assert_eq!(backend.request(1).header("te"), None);
    assert_eq!(*backend.connections.lock().unwrap(), 1);
}

#[tokio::test]
async fn more_fields_than_anybody_needs_behind_a_body_are_refused_in_both_directions() {
    let many: String = (0..2_000).map(|number| format!("x-{number}: 0123456789\r\n")).collect();
    let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{many}\r\n");
    let backend = Backend::new(move |request, _| match request.path() {
        "/many" => Deed::Say(answer.clone().into()),
        _ => Deed::Say(ok("done")),
    })
    .await;
    let bed = Bed::serving(&[&backend]).await;
    let mut client = common::wire::Client::connect(bed.addr).await;
    client.send("GET /many HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n").await;
    assert!(client.try_answer().await.is_none(), "the answer breaks off");
    let mut client = common::wire::Client::connect(bed.addr).await;
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{many}\r\n")).await;
    assert!(client.try_answer().await.is_none_or(|answer| answer.status() >= 400));
    assert_eq!(bed.get("/").await.text(), "done");
}

#[tokio::test]
async fn no_upgrade_leads_into_a_tunnel_of_http_2_around_the_routes() {
    let backend = Backend::named("a").await;
    let bed = Bed::serving(&[&backend]).await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    assert_eq!(bed.ask(request).await.text(), "ok a");
    let seen = backend.request(0);
    assert_eq!((seen.header("upgrade"), seen.header("http2-settings"), seen.header("connection")), (None, None, None));
}

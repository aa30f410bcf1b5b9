//! What is written down of requests, what is remembered of them, and what is counted: as whoever asks sees it.

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::backend::{Backend, Deed, ok};
use common::wire::Client;
use common::{Bed, ME, until, within};
use hirsel_model::spec::{AccessLog, LogFormat};
use hirsel_role::requests::{Remembered, Traffic};
use serde_json::Value;

const LOGGED: &str = "[route.h]\nto = \"web\"\nlog = \"json\"\n";

async fn bed(routes: &str, backends: &[&Backend]) -> Bed {
    let mut bed = Bed::new().await;
    bed.routes(routes);
    for (number, backend) in (1..).zip(backends) {
        bed.place(number, ME, backend.addr.port());
    }
    bed.converge().await;
    bed
}

async fn ask(bed: &Bed, start: &str, lines: &str) -> common::wire::Answer {
    bed.ask(&format!("{start} HTTP/1.1\r\nHost: h\r\n{lines}\r\n")).await
}

fn object(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// What is remembered of the request with this id, once it is over.
async fn recalled(bed: &Bed, id: &str) -> Remembered {
    let teller = bed.requests.behind().expect("the role has begun");
    until(|| !teller.recall(id).is_empty()).await;
    teller.recall(id).remove(0)
}

fn traffic(bed: &Bed, route: &str) -> Traffic {
    let all = bed.requests.behind().expect("the role has begun").traffic();
    all.iter().find(|of| of.route == route).unwrap_or_else(|| panic!("{route}: {all:?}")).clone()
}

#[tokio::test]
async fn a_request_is_written_down_as_it_went() {
    let backend = Backend::named("a").await;
    let bed = bed(LOGGED, &[&backend]).await;
    let lines = "X-Request-Id: 3f2a9c1e\r\nUser-Agent: cu\"rl\r\nReferer: http://x/\r\nContent-Length: 3\r\n\
                 Cookie: session=SECRET\r\nAuthorization: Basic SECRET\r\n";
    let mut client = Client::connect(bed.addr).await;
    client.send(format!("POST /cart/a?item=1 HTTP/1.1\r\nHost: H:80\r\n{lines}\r\nabc")).await;
    assert_eq!(client.answer().await.status(), 200);
    let log = bed.log(1).await;
    let line = object(&log[0]);
    for (field, value) in [
        ("id", "3f2a9c1e"),
        ("client", "127.0.0.1"),
        ("host", "H:80"),
        ("method", "POST"),
        ("path", "/cart/a"),
        ("query", "item=1"),
        ("http", "HTTP/1.1"),
        ("route", "h/"),
        ("app", "shop"),
        ("service", "web"),
        ("instance", "shop/web/1"),
        ("node", "#1"),
        ("lb", "n1"),
        ("agent", "cu\"rl"),
        ("referer", "http://x/"),
    ] {
        assert_eq!(line[field], value, "{field} of {line}");
    }
    for (field, value) in [("status", 200), ("bytes_in", 3), ("bytes_out", 4), ("tries", 1)] {
        assert_eq!(line[field], value, "{field} of {line}");
    }
    assert!(line["took_ms"].as_u64() >= line["first_byte_ms"].as_u64() && line["at"].is_string());
    assert_eq!(line["trace"].as_str().map(str::len), Some(32));
    assert!(!log[0].contains("SECRET"), "{}", log[0]);
}

#[tokio::test]
async fn what_is_written_down_is_for_each_route_to_say() {
    let backend = Backend::named("a").await;
    let routes = "[route.h]\nto = \"web\"\nlog = { format = \"combined\", query = false }\n[route.\"h/quiet\"]\nto = \"web\"\nlog = \"off\"\n\
                  [route.\"h/usual\"]\nto = \"web\"\n[route.\"h/some\"]\nto = \"web\"\nlog = { format = \"json\", sample = 0 }\n";
    let mut bed = bed(routes, &[&backend]).await;
    for path in ["/quiet", "/usual", "/some", "/?token=SECRET"] {
        assert_eq!(ask(&bed, &format!("GET {path}"), "").await.status(), 200);
    }
    let log = bed.log(1).await;
    assert_eq!(log.len(), 1, "{log:?}");
    assert!(log[0].starts_with("127.0.0.1 - - [") && log[0].contains("] \"GET / HTTP/1.1\" 200 4 \"-\" \"-\" \"h\" "));
    assert!(log[0].contains(" shop/web shop/web/1 #1 1 ") && log[0].ends_with(" -"), "{}", log[0]);
    // From now on as JSON where a route does not say, and where there is none.
    bed.usual_log(AccessLog::of(LogFormat::Json));
    bed.converge().await;
    assert_eq!(ask(&bed, "GET /usual", "").await.status(), 200);
    assert_eq!(bed.ask("GET /x HTTP/1.1\r\nHost: elsewhere\r\n\r\n").await.status(), 404);
    assert_eq!(ask(&bed, "GET /quiet", "").await.status(), 200);
    // What fails is written down whatever the share.
    backend.kill().await;
    assert!(ask(&bed, "POST /some", "Content-Length: 0\r\n").await.status() >= 500);
    let log: Vec<Value> = bed.log(4).await[1..].iter().map(|line| object(line)).collect();
    let seen: Vec<_> =
        log.iter().map(|it| (it["path"].as_str(), it["status"].as_u64(), it["failed"].as_str())).collect();
    let some = log[2]["status"].as_u64();
    assert_eq!(seen[..2], [(Some("/usual"), Some(200), None), (Some("/x"), Some(404), Some("no_route"))]);
    assert_eq!(seen[2], (Some("/some"), some, Some("no_instance")));
    assert_eq!(log[1]["host"], "elsewhere");
}

#[tokio::test]
async fn a_line_says_why_a_request_failed_and_who_was_tried() {
    let bad = Backend::new(|_, _| Deed::SayAndClose(Vec::new())).await;
    let bed = bed(LOGGED, &[&bad]).await;
    let answer = ask(&bed, "POST /", "Content-Length: 0\r\nX-Request-Id: broken-one\r\n").await;
    assert_eq!((answer.status(), answer.header("x-request-id")), (502, Some("broken-one")));
    let line = object(&bed.log(1).await[0]);
    assert_eq!((line["failed"].as_str(), line["status"].as_u64()), (Some("broken"), Some(502)));
    assert_eq!((line["instance"].as_str(), line["tries"].as_u64()), (Some("shop/web/1"), Some(1)));
    let past = recalled(&bed, "broken-one").await;
    assert_eq!((past.status, past.failed.as_deref(), past.tried), (502, Some("broken"), 1));
    assert_eq!((past.tries[0].whom.as_str(), past.tries[0].outcome.as_str()), ("shop/web/1", "broken"));
    assert_eq!((past.asked.as_str(), past.origin.as_deref()), ("POST h/", Some("shop/web")));
    let of = traffic(&bed, "h/");
    assert_eq!((of.answers, of.failed, of.in_flight), ([0, 0, 0, 0, 1], 1, 0));
    assert_eq!(bed.counted("hirsel_lb_instance_failed_total{instance=\"shop/web/1\"}"), 1);
}

#[tokio::test]
async fn a_request_that_was_tried_twice_is_remembered_with_both() {
    let bad = Backend::new(|_, _| Deed::SayAndClose(Vec::new())).await;
    let good = Backend::named("good").await;
    // Without a log, which makes no difference to what is remembered.
    let bed = bed("[route.h]\nto = \"web\"\n", &[&bad, &good]).await;
    // Chance decides which is asked first; what fails is left alone afterwards.
    for number in 0..20 {
        let answer = ask(&bed, "GET /a?secret=1", &format!("X-Request-Id: number-{number}\r\n")).await;
        assert_eq!(answer.status(), 200);
    }
    let mut all = Vec::new();
    for number in 0..20 {
        all.push(recalled(&bed, &format!("number-{number}")).await);
    }
    let twice = all.iter().find(|past| past.tried == 2).expect("one met the bad one first");
    let tries: Vec<_> = twice.tries.iter().map(|it| (it.whom.as_str(), it.outcome.as_str())).collect();
    assert_eq!(tries, [("shop/web/1", "broken"), ("shop/web/2", "answered")]);
    assert_eq!((twice.status, twice.failed.as_deref(), twice.asked.as_str()), (200, None, "GET h/a"));
    assert!(twice.first_byte_ms.is_some_and(|ms| ms <= twice.took_ms));
    assert_eq!(twice.trace.as_ref().map(String::len), Some(32));
    let of = traffic(&bed, "h/");
    assert_eq!((of.answers[1], of.failed, of.times.iter().sum()), (20, 0, 20));
    assert_eq!(of.retries, all.iter().map(|past| u64::from(past.tried) - 1).sum::<u64>());
    assert_eq!(bed.counted("hirsel_lb_route_answers_total{app=\"shop\",route=\"h/\",class=\"2xx\"}"), 20);
    assert_eq!(bed.counted("hirsel_lb_route_seconds_count{app=\"shop\",route=\"h/\"}"), 20);
    assert!(bed.host.journal.lock().unwrap().is_empty(), "nobody asked for a log");
}

#[tokio::test]
async fn a_client_that_goes_away_is_seen_to_have_gone() {
    let slow = Backend::new(|_, _| Deed::Hold(ok("late"))).await;
    let bed = bed(LOGGED, &[&slow]).await;
    let mut client = Client::connect(bed.addr).await;
    client.send("GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: impatient\r\n\r\n").await;
    slow.until_asked(1).await;
    assert_eq!(traffic(&bed, "h/").in_flight, 1);
    drop(client);
    let line = object(&bed.log(1).await[0]);
    assert_eq!((line["status"].as_u64(), line["failed"].as_str()), (Some(499), Some("reset_by_client")));
    assert_eq!(recalled(&bed, "impatient").await.tries[0].outcome, "given_up");
    assert_eq!(traffic(&bed, "h/").in_flight, 0);
}

#[tokio::test]
async fn an_answer_that_is_passed_on_counts_until_its_last_byte() {
    let long = "x".repeat(300_000);
    let whole = ok(&long);
    let cut = format!("HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n{}", "x".repeat(100_000)).into_bytes();
    let backend = Backend::new(move |request, _| match request.path() {
        "/cut" => Deed::SayAndClose(cut.clone()),
        _ => Deed::Say(whole.clone()),
    })
    .await;
    let bed = bed(LOGGED, &[&backend]).await;
    assert_eq!(ask(&bed, "GET /", "").await.body.len(), 300_000);
    let line = object(&bed.log(1).await[0]);
    assert_eq!((line["bytes_out"].as_u64(), line["failed"].as_str()), (Some(300_000), None));
    let mut client = Client::connect(bed.addr).await;
    client.send("GET /cut HTTP/1.1\r\nHost: h\r\nX-Request-Id: cut-short\r\n\r\n").await;
    assert!(client.try_answer().await.is_none(), "it breaks off");
    let line = object(&bed.log(2).await[1]);
    assert_eq!((line["status"].as_u64(), line["failed"].as_str()), (Some(200), Some("answer_broken")));
    assert_eq!(recalled(&bed, "cut-short").await.bytes_out, 100_000);
    assert_eq!(traffic(&bed, "h/").failed, 1);
    // One that the client has seen enough of is no failure.
    let mut client = Client::connect(bed.addr).await;
    client.send("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(client.answer().await.status(), 200);
    let line = object(&bed.log(3).await[2]);
    assert_eq!((line["bytes_out"].as_u64(), line["failed"].as_str()), (Some(0), None));
}

#[tokio::test]
async fn a_full_disk_costs_lines_and_no_request() {
    let backend = Backend::named("a").await;
    let bed = bed(LOGGED, &[&backend]).await;
    bed.host.is_full.store(true, Ordering::SeqCst);
    for _ in 0..10 {
        assert_eq!(ask(&bed, "GET /lost", "").await.status(), 200);
    }
    within(async {
        while bed.counted("hirsel_lb_log_dropped_total") < 10 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    bed.host.is_full.store(false, Ordering::SeqCst);
    assert_eq!(ask(&bed, "GET /kept", "").await.status(), 200);
    assert_eq!(object(&bed.log(1).await[0])["path"], "/kept");
    assert_eq!(bed.counted("hirsel_lb_log_lines_total"), 1);
}

#[tokio::test]
async fn a_collector_is_told_each_line_as_well() {
    let backend = Backend::named("a").await;
    let collector = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = collector.local_addr().unwrap();
    let routes = format!("[route.h]\nto = \"web\"\nlog = {{ format = \"json\", syslog = \"{to}\" }}\n");
    let bed = bed(&routes, &[&backend]).await;
    for path in ["/one", "/two"] {
        assert_eq!(ask(&bed, &format!("GET {path}"), "").await.status(), 200);
        let mut buffer = [0; 9_000];
        let length = within(collector.recv(&mut buffer)).await.unwrap();
        let message = std::str::from_utf8(&buffer[..length]).unwrap();
        let (head, line) = message.split_once(" n1 hirsel-lb - requests - ").unwrap_or_else(|| panic!("{message}"));
        assert!(head.starts_with("<134>1 20") && head.ends_with('Z'), "{head}");
        assert_eq!(object(line)["path"], path);
    }
    assert_eq!(bed.log(2).await.len(), 2, "and so is the disk");
    assert_eq!(bed.counted("hirsel_lb_syslog_sent_total"), 2);
}

#[tokio::test]
async fn what_nobody_remembers_is_not_made_up() {
    let backend = Backend::named("a").await;
    let bed = bed(LOGGED, &[&backend]).await;
    assert_eq!(ask(&bed, "GET /", "").await.status(), 200);
    assert_eq!(bed.requests.behind().expect("begun").recall("never-asked"), []);
}

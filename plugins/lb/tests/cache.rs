//! Answers that are kept: what a client sees, and what an instance is asked (RFC 9111, by section; RFC 5861; RFC 9110, sections 13 and
//! 14).

mod common;

use std::time::Duration;

use common::backend::{Backend, Deed};
use common::wire::{Answer, Client, Message};
use common::{Bed, ME, until, within, write};
use hirsel_model::purge::Purged;
use tokio::io::AsyncReadExt;

const KEPT: &str = "[route.h]\nto = \"web\"\ncache = true\n";

/// An answer with these lines in its head.
fn answer(lines: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {lines}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

async fn serving(routes: &str, deed: impl Fn(&Message, usize) -> Deed + Send + Sync + 'static) -> (Bed, Backend) {
    let backend = Backend::new(deed).await;
    let mut bed = Bed::new().await;
    bed.routes(routes);
    bed.place(1, ME, backend.addr.port());
    bed.converge().await;
    (bed, backend)
}

/// An instance that answers each request with these lines, and its number.
async fn saying(routes: &str, lines: &'static str) -> (Bed, Backend) {
    serving(routes, move |_, number| Deed::Say(answer(lines, &format!("answer {number}")))).await
}

async fn ask(bed: &Bed, start: &str, lines: &str) -> Answer {
    bed.ask(&format!("{start} HTTP/1.1\r\nHost: h\r\n{lines}\r\n")).await
}

async fn get(bed: &Bed, path: &str) -> Answer {
    ask(bed, &format!("GET {path}"), "").await
}

fn said(answer: &Answer) -> &str {
    answer.header("cache-status").unwrap_or_default()
}

#[tokio::test]
async fn section_4_an_answer_that_is_fresh_is_given_with_its_age_and_asked_for_once() {
    let (bed, backend) = saying(KEPT, "200 OK\r\nCache-Control: max-age=60\r\nX-A: 1").await;
    let first = get(&bed, "/a?b").await;
    assert_eq!((first.text(), said(&first)), ("answer 0", "hirsel; fwd=uri-miss; fwd-status=200; ttl=60; stored"));
    assert!(first.header("date").is_some());
    bed.clock.by(Duration::from_secs(7));
    let again = get(&bed, "/a?b").await;
    assert_eq!((again.text(), again.header("age"), again.header("x-a")), ("answer 0", Some("7"), Some("1")));
    assert_eq!((said(&again), again.header("content-length")), ("hirsel; hit; ttl=53", Some("8")));
    assert_ne!(again.header("x-request-id"), first.header("x-request-id"));
    assert_eq!(get(&bed, "/a?c").await.text(), "answer 1", "another query is another thing");
    assert_eq!(bed.ask("GET /a?b HTTP/1.1\r\nHost: H:80\r\n\r\n").await.text(), "answer 0");
    assert_eq!(bed.ask("GET /a?b HTTP/1.1\r\nHost: h:81\r\n\r\n").await.status(), 200);
    assert_eq!(backend.count(), 3);
}

#[tokio::test]
async fn section_3_what_is_not_for_everybody_is_not_kept() {
    for lines in [
        "200 OK",
        "200 OK\r\nETag: \"1\"",
        "200 OK\r\nCache-Control: no-store",
        "200 OK\r\nCache-Control: private, max-age=60",
        "200 OK\r\nCache-Control: max-age=60\r\nSet-Cookie: a=1",
        "200 OK\r\nCache-Control: max-age=60\r\nVary: *",
        "200 OK\r\nCache-Control: max-age=0",
        "302 Found\r\nLocation: /b",
        "500 Internal Server Error",
    ] {
        let (bed, backend) = saying(KEPT, lines).await;
        assert!(!said(&get(&bed, "/").await).contains("stored"), "{lines}");
        assert_eq!((get(&bed, "/").await.text(), backend.count()), ("answer 1", 2), "{lines}");
    }
    for lines in [
        "200 OK\r\nCache-Control: public, max-age=60\r\nSet-Cookie: a=1",
        "404 Not Found\r\nCache-Control: max-age=60",
        "302 Found\r\nLocation: /b\r\nCache-Control: max-age=60",
        "200 OK\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT",
    ] {
        let (bed, backend) = saying(KEPT, lines).await;
        get(&bed, "/").await;
        assert_eq!((get(&bed, "/").await.text(), backend.count()), ("answer 0", 1), "{lines}");
    }
}

#[tokio::test]
async fn section_3_5_an_answer_to_somebody_who_is_known_is_for_him_unless_it_says_otherwise() {
    let basic = "Authorization: Basic YTpi\r\n";
    let (bed, backend) = saying(KEPT, "200 OK\r\nCache-Control: max-age=60").await;
    ask(&bed, "GET /", basic).await;
    assert_eq!((ask(&bed, "GET /", basic).await.text(), backend.count()), ("answer 1", 2));
    let (bed, backend) = saying(KEPT, "200 OK\r\nCache-Control: public, max-age=60").await;
    ask(&bed, "GET /", basic).await;
    assert_eq!((get(&bed, "/").await.text(), backend.count()), ("answer 0", 1));
}

#[tokio::test]
async fn what_only_its_route_makes_last_is_neither_from_nor_for_requests_with_cookies() {
    let (bed, backend) =
        saying("[route.h]\nto = \"web\"\ncache = { ttl = \"5s\", ignore = [\"utm_*\"] }\n", "200 OK").await;
    ask(&bed, "GET /", "Cookie: a=1\r\n").await;
    assert_eq!(get(&bed, "/").await.text(), "answer 1", "the first one may have been for one user");
    assert_eq!(get(&bed, "/?utm_source=x").await.text(), "answer 1");
    assert_eq!(ask(&bed, "GET /", "Cookie: a=1\r\n").await.text(), "answer 2");
    bed.clock.by(Duration::from_secs(5));
    assert_eq!((get(&bed, "/").await.text(), backend.count()), ("answer 3", 4));
}

#[tokio::test]
async fn only_the_paths_that_a_route_names_are_kept() {
    let routes = "[route.h]\nto = \"web\"\ncache = { paths = [\"/static/*\"] }\n[[route.h.rule]]\npath = \"/static/no\"\ncache = false\n";
    let (bed, backend) = saying(routes, "200 OK\r\nCache-Control: max-age=60").await;
    for path in ["/static/a", "/static/a", "/b", "/b", "/static/no", "/static/no"] {
        get(&bed, path).await;
    }
    assert_eq!((backend.count(), said(&get(&bed, "/b").await)), (5, ""));
}

#[tokio::test]
async fn section_4_1_each_gets_the_answer_that_depends_on_what_it_says() {
    let (bed, backend) = serving(KEPT, |request, number| {
        let language = request.header("accept-language").unwrap_or("-").to_owned();
        Deed::Say(answer(
            "200 OK\r\nCache-Control: max-age=60\r\nVary: Accept-Language",
            &format!("{language} {number}"),
        ))
    })
    .await;
    let of = |language: &'static str| ask(&bed, "GET /", language);
    assert_eq!(of("Accept-Language: de\r\n").await.text(), "de 0");
    let other = of("Accept-Language: en\r\n").await;
    assert_eq!((other.text(), said(&other)), ("en 1", "hirsel; fwd=vary-miss; fwd-status=200; ttl=60; stored"));
    assert_eq!(of("").await.text(), "- 2");
    assert_eq!(
        (of("Accept-Language: de\r\n").await.text(), of("Accept-Language: en\r\n").await.text()),
        ("de 0", "en 1")
    );
    assert_eq!(backend.count(), 3);
}

#[tokio::test]
async fn section_4_3_what_is_stale_is_validated_and_fresh_again_with_what_that_says() {
    let (bed, backend) = serving(KEPT, |request, number| match request.header("if-none-match") {
        Some("\"v1\"") => {
            Deed::Say(b"HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=9\r\nX-New: 1\r\n\r\n".to_vec())
        }
        Some(_) => Deed::Say(answer("400 Bad Request", "")),
        None => Deed::Say(answer(
            "200 OK\r\nCache-Control: max-age=60\r\nETag: \"v1\"\r\nX-Old: 1",
            &format!("answer {number}"),
        )),
    })
    .await;
    get(&bed, "/").await;
    bed.clock.by(Duration::from_secs(60));
    let again = get(&bed, "/").await;
    assert_eq!((again.text(), said(&again)), ("answer 0", "hirsel; fwd=stale; fwd-status=304; ttl=9; stored"));
    assert_eq!((again.header("x-old"), again.header("x-new"), again.header("age")), (Some("1"), Some("1"), Some("0")));
    assert_eq!(said(&get(&bed, "/").await), "hirsel; hit; ttl=9");
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn section_4_3_1_one_that_changed_takes_the_place_of_the_one_before() {
    let (bed, backend) = serving(KEPT, |_, number| {
        Deed::Say(answer(
            &format!("200 OK\r\nCache-Control: no-cache\r\nETag: \"v{number}\""),
            &format!("answer {number}"),
        ))
    })
    .await;
    for number in 0..3 {
        assert_eq!(get(&bed, "/").await.text(), format!("answer {number}"));
    }
    assert_eq!(backend.request(2).header("if-none-match"), Some("\"v1\""));
}

#[tokio::test]
async fn section_4_3_2_a_client_that_has_it_is_told_so_whether_it_is_kept_or_not() {
    let (bed, backend) =
        saying(KEPT, "200 OK\r\nCache-Control: max-age=60\r\nETag: \"1\"\r\nContent-Type: text/plain").await;
    let known = "If-None-Match: \"0\", W/\"1\"\r\n";
    let first = ask(&bed, "GET /", known).await;
    assert_eq!((first.status(), first.header("etag"), first.header("content-type")), (304, Some("\"1\""), None));
    assert_eq!(backend.request(0).header("if-none-match"), None, "others may want all of it");
    let again = ask(&bed, "GET /", known).await;
    assert_eq!((again.status(), said(&again)), (304, "hirsel; hit; ttl=60"));
    assert_eq!((get(&bed, "/").await.text(), backend.count()), ("answer 0", 1));
    ask(&bed, "GET /", "If-Match: \"1\"\r\n").await;
    assert_eq!(backend.request(1).header("if-match"), Some("\"1\""), "what is to be decided by the program");
}

#[tokio::test]
async fn section_4_3_5_a_head_is_given_of_what_is_kept_and_never_kept_itself() {
    let (bed, backend) = serving(KEPT, |request, number| {
        let body = if request.method() == "HEAD" { "" } else { "12345" };
        let lines =
            format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nX-N: {number}\r\nContent-Length: 5\r\n\r\n{body}");
        Deed::Say(lines.into_bytes())
    })
    .await;
    assert_eq!(ask(&bed, "HEAD /", "").await.header("x-n"), Some("0"));
    assert_eq!(get(&bed, "/").await.header("x-n"), Some("1"));
    let head = ask(&bed, "HEAD /", "").await;
    assert_eq!((head.header("x-n"), head.header("content-length"), head.body.len()), (Some("1"), Some("5"), 0));
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn section_4_4_a_change_makes_what_is_kept_of_it_obsolete_and_a_failed_one_does_not() {
    let (bed, backend) = serving(KEPT, |request, number| match (request.method(), request.header("x-fail")) {
        ("GET", _) => Deed::Say(answer("200 OK\r\nCache-Control: max-age=60", &format!("answer {number}"))),
        (_, None) => Deed::Say(answer("201 Created\r\nLocation: /made\r\nContent-Location: http://other/kept", "")),
        (_, Some(_)) => Deed::Say(answer("400 Bad Request", "")),
    })
    .await;
    for path in ["/things", "/made", "/kept"] {
        get(&bed, path).await;
    }
    assert_eq!(ask(&bed, "POST /things", "X-Fail: 1\r\nContent-Length: 0\r\n").await.status(), 400);
    assert_eq!(get(&bed, "/things").await.text(), "answer 0");
    let made = ask(&bed, "POST /things", "Content-Length: 0\r\n").await;
    assert_eq!((made.status(), said(&made)), (201, "hirsel; fwd=method"));
    assert_eq!(get(&bed, "/things").await.text(), "answer 5");
    assert_eq!(get(&bed, "/made").await.text(), "answer 6");
    assert_eq!(get(&bed, "/kept").await.text(), "answer 2", "of another host");
    assert_eq!(backend.count(), 7);
}

#[tokio::test]
async fn section_5_2_1_a_client_says_what_it_takes() {
    let (bed, backend) = saying(KEPT, "200 OK\r\nCache-Control: max-age=60").await;
    let with = |line: &'static str| ask(&bed, "GET /", line);
    let only = with("Cache-Control: only-if-cached\r\n").await;
    assert_eq!((only.status(), backend.count()), (504, 0));
    assert_eq!(with("Cache-Control: no-store\r\n").await.text(), "answer 0");
    assert_eq!(with("").await.text(), "answer 1", "nothing was kept of the one before");
    assert_eq!(with("Cache-Control: only-if-cached\r\n").await.text(), "answer 1");
    bed.clock.by(Duration::from_secs(10));
    assert_eq!(with("Cache-Control: max-age=20\r\n").await.text(), "answer 1");
    let younger = with("Cache-Control: max-age=5\r\n").await;
    assert_eq!((younger.text(), said(&younger)), ("answer 2", "hirsel; fwd=request; fwd-status=200; ttl=60; stored"));
    assert_eq!(with("Cache-Control: min-fresh=61\r\n").await.text(), "answer 3");
    assert_eq!(with("Pragma: no-cache\r\n").await.text(), "answer 4");
    bed.clock.by(Duration::from_secs(65));
    assert_eq!(with("Cache-Control: max-stale=10\r\n").await.text(), "answer 4");
    assert_eq!(with("Cache-Control: max-stale=4\r\n").await.text(), "answer 5");
}

#[tokio::test]
async fn rfc_9110_14_parts_are_cut_out_of_what_is_kept_and_never_kept_themselves() {
    let (bed, backend) = serving(KEPT, |request, _| match request.header("range") {
        Some(_) => {
            Deed::Say(answer("206 Partial Content\r\nCache-Control: max-age=60\r\nContent-Range: bytes 0-1/10", "01"))
        }
        None => Deed::Say(answer("200 OK\r\nCache-Control: max-age=60\r\nETag: \"1\"", "0123456789")),
    })
    .await;
    let range = |lines: &'static str| ask(&bed, "GET /", lines);
    assert_eq!((range("Range: bytes=0-1\r\n").await.status(), backend.count()), (206, 1));
    assert_eq!((get(&bed, "/").await.text(), backend.count()), ("0123456789", 2));
    let part = range("Range: bytes=2-4\r\n").await;
    assert_eq!((part.status(), part.text(), part.header("content-range")), (206, "234", Some("bytes 2-4/10")));
    assert_eq!(part.header("content-length"), Some("3"));
    assert_eq!(range("Range: bytes=-2\r\n").await.text(), "89");
    assert_eq!(range("Range: bytes=0-1\r\nIf-Range: \"1\"\r\n").await.text(), "01");
    assert_eq!(range("Range: bytes=0-1\r\nIf-Range: \"2\"\r\n").await.text(), "0123456789");
    assert_eq!(range("Range: bytes=0-1,3-4\r\n").await.status(), 200);
    let beyond = range("Range: bytes=10-\r\n").await;
    assert_eq!((beyond.status(), beyond.header("content-range"), beyond.body.len()), (416, Some("bytes */10"), 0));
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn rfc_5861_what_is_stale_is_given_while_a_new_one_is_asked_for_once() {
    let (bed, backend) = serving(KEPT, |_, number| {
        let lines = "200 OK\r\nCache-Control: max-age=10, stale-while-revalidate=20";
        let said = answer(lines, &format!("answer {number}"));
        if number == 0 { Deed::Say(said) } else { Deed::Hold(said) }
    })
    .await;
    get(&bed, "/").await;
    bed.clock.by(Duration::from_secs(15));
    for _ in 0..5 {
        let stale = get(&bed, "/").await;
        assert_eq!((stale.text(), said(&stale)), ("answer 0", "hirsel; hit; ttl=-5"));
    }
    backend.until_asked(2).await;
    backend.release();
    within(async { while get(&bed, "/").await.text() != "answer 1" {} }).await;
    assert_eq!(backend.count(), 2);
    bed.clock.by(Duration::from_secs(31));
    assert_eq!(get(&bed, "/").await.text(), "answer 2", "too stale to be given");
}

#[tokio::test]
async fn rfc_5861_what_is_stale_stands_in_for_errors() {
    let routes = "[route.h]\nto = \"web\"\ncache = { stale_if_error = \"20s\" }\n";
    let (bed, backend) = serving(routes, |_, number| match number {
        0 => Deed::Say(answer("200 OK\r\nCache-Control: max-age=10", "answer 0")),
        _ => Deed::Say(answer("503 Service Unavailable", "down")),
    })
    .await;
    get(&bed, "/").await;
    bed.clock.by(Duration::from_secs(15));
    let stale = get(&bed, "/").await;
    assert_eq!((stale.status(), stale.text()), (200, "answer 0"));
    assert_eq!(said(&stale), "hirsel; fwd=stale; fwd-status=503; ttl=-5; detail=stale-if-error");
    let again = get(&bed, "/").await;
    assert_eq!(said(&again), "hirsel; hit; ttl=-5; detail=stale-if-error", "it is left in peace for a moment");
    assert_eq!(backend.count(), 2);
    backend.kill().await;
    bed.clock.by(Duration::from_secs(2));
    assert_eq!(get(&bed, "/").await.text(), "answer 0", "nobody is there");
    bed.clock.by(Duration::from_secs(20));
    assert!(get(&bed, "/").await.status() >= 500);
}

#[tokio::test]
async fn requests_for_one_thing_wait_for_the_first() {
    let (bed, backend) = serving(KEPT, |_, number| {
        Deed::Hold(answer("200 OK\r\nCache-Control: max-age=60", &format!("answer {number}")))
    })
    .await;
    let asking = async { futures::future::join_all((0..30).map(|_| get(&bed, "/"))).await };
    let release = async {
        backend.until_asked(1).await;
        tokio::task::yield_now().await;
        backend.release();
    };
    let (answers, ()) = futures::join!(asking, release);
    assert!(answers.iter().all(|answer| answer.text() == "answer 0"));
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn what_is_of_use_to_one_alone_makes_nobody_wait_the_next_time() {
    let (bed, backend) = serving(KEPT, |_, number| {
        let said = answer("200 OK\r\nCache-Control: private", &format!("answer {number}"));
        if number == 0 { Deed::Say(said) } else { Deed::Hold(said) }
    })
    .await;
    get(&bed, "/").await;
    // All are asked for at once, though none is answered.
    let asking = futures::future::join_all((0..5).map(|_| get(&bed, "/")));
    let release = async {
        backend.until_asked(6).await;
        backend.release();
    };
    let (answers, ()) = within(futures::future::join(asking, release)).await;
    let texts: std::collections::BTreeSet<&str> = answers.iter().map(Answer::text).collect();
    assert_eq!(texts.len(), 5, "each has its own");
}

#[tokio::test]
async fn those_who_wait_go_themselves_when_the_first_one_gives_up() {
    let (bed, backend) = serving(KEPT, |_, number| {
        let said = answer("200 OK\r\nCache-Control: max-age=60", &format!("answer {number}"));
        if number == 0 { Deed::Hang } else { Deed::Say(said) }
    })
    .await;
    let mut first = Client::connect(bed.addr).await;
    first.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    backend.until_asked(1).await;
    let waiting = get(&bed, "/");
    let gone = async {
        tokio::task::yield_now().await;
        drop(first);
    };
    let (answer, ()) = futures::join!(waiting, gone);
    assert_eq!(answer.text(), "answer 1");
}

/// A body that is passed on as it comes, longer than what sockets hold for a client that takes nothing.
fn large(number: usize) -> String {
    let line = format!("line of answer {number}\n");
    line.repeat((6 << 20) / line.len())
}

#[tokio::test]
async fn a_slow_client_holds_up_nobody_who_reads_the_same() {
    let (bed, backend) =
        serving(KEPT, |_, number| Deed::Say(answer("200 OK\r\nCache-Control: max-age=60", &large(number)))).await;
    let mut slow = Client::connect(bed.addr).await;
    slow.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    backend.until_asked(1).await;
    let body = large(0);
    assert!(get(&bed, "/").await.text() == body);
    assert!(get(&bed, "/").await.text() == body);
    assert!(slow.answer().await.text() == body);
    assert_eq!(backend.count(), 1);
    until(|| bed.counted("hirsel_lb_cache_answers") == 1).await;
    let part = ask(&bed, "GET /", "Range: bytes=0-99999\r\n").await;
    assert!(part.text() == &body[..100_000]);
}

#[tokio::test]
async fn one_of_unknown_length_is_kept_once_it_is_whole_and_one_that_is_too_long_is_passed_on() {
    let chunked = |body: &str| {
        let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n";
        format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).into_bytes()
    };
    let (bed, backend) = serving(KEPT, move |request, number| {
        let body = large(number);
        Deed::Say(chunked(&if request.path() == "/long" { body.repeat(2) } else { body }))
    })
    .await;
    assert!(get(&bed, "/").await.text() == large(0));
    until(|| bed.counted("hirsel_lb_cache_answers") == 1).await;
    assert!(get(&bed, "/").await.text() == large(0));
    assert!(get(&bed, "/long").await.text() == large(1).repeat(2));
    assert!(get(&bed, "/long").await.text() == large(2).repeat(2), "it is too long to be kept");
    assert_eq!(backend.count(), 3);
}

#[tokio::test]
async fn one_that_breaks_off_is_not_kept() {
    let (bed, backend) = serving(KEPT, |_, number| {
        let lines = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 200000\r\n\r\n";
        match number {
            0 => Deed::SayAndClose(format!("{lines}{}", "x".repeat(150_000)).into_bytes()),
            _ => Deed::Say(format!("{lines}{}", "y".repeat(200_000)).into_bytes()),
        }
    })
    .await;
    let mut client = Client::connect(bed.addr).await;
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert!(client.try_answer().await.is_none(), "it was not whole");
    assert!(get(&bed, "/").await.text() == "y".repeat(200_000));
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn a_body_goes_on_to_be_kept_when_its_client_is_gone() {
    let (bed, backend) =
        serving(KEPT, |_, number| Deed::Say(answer("200 OK\r\nCache-Control: max-age=60", &large(number)))).await;
    let mut client = Client::connect(bed.addr).await;
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let mut first = [0; 1024];
    within(client.stream.read_exact(&mut first)).await.unwrap();
    drop(client);
    until(|| bed.counted("hirsel_lb_cache_answers") == 1).await;
    assert!(get(&bed, "/").await.text() == large(0));
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn a_purge_forgets_paths_and_tags_and_what_is_on_its_way() {
    let (mut bed, backend) = serving(KEPT, |request, number| {
        let tag = if request.path().starts_with("/p") { "product-17, all" } else { "all" };
        let said =
            answer(&format!("200 OK\r\nCache-Control: max-age=60\r\nCache-Tag: {tag}"), &format!("answer {number}"));
        if request.path() == "/slow" { Deed::Hold(said) } else { Deed::Say(said) }
    })
    .await;
    let place = |path: Option<&str>| Purged::Place { host: "h".into(), path: path.map(str::to_owned) };
    assert_eq!(get(&bed, "/p/1").await.header("cache-tag"), None, "clients do not see it");
    get(&bed, "/a").await;
    bed.purge(Purged::Tag("product-17".into()));
    let report = bed.converge().await;
    assert_eq!(report.purged.0, 1);
    assert_eq!((get(&bed, "/p/1").await.text(), get(&bed, "/a").await.text()), ("answer 2", "answer 1"));
    bed.purge(place(Some("/p/*")));
    bed.converge().await;
    assert_eq!((get(&bed, "/p/1").await.text(), get(&bed, "/a").await.text()), ("answer 3", "answer 1"));
    bed.purge(Purged::Place { host: "other".into(), path: None });
    bed.converge().await;
    assert_eq!(get(&bed, "/a").await.text(), "answer 1");
    // What was asked for before is given to whoever asked for it, and to nobody else.
    let mut slow = Client::connect(bed.addr).await;
    slow.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n").await;
    backend.until_asked(5).await;
    bed.purge(place(None));
    assert_eq!(bed.converge().await.purged.0, 4);
    backend.release();
    assert_eq!(slow.answer().await.text(), "answer 4");
    assert_eq!((get(&bed, "/slow").await.text(), get(&bed, "/a").await.text()), ("answer 5", "answer 6"));
}

#[tokio::test]
async fn what_a_route_does_besides_is_done_once_and_for_each_request() {
    let routes = r#"
[route.h]
to = "web"
cache = true
rewrite = { add_prefix = "/v2" }
response_headers = { add = { x-added = "1" } }
cors = { origins = ["https://a.test", "https://b.test"] }
compress = { with = ["gzip"], min = "1B" }
error_pages = { 404 = { body = "nothing here", programs = true } }
"#;
    let (bed, backend) = serving(routes, |request, _| {
        let status = if request.path() == "/v2/gone" { "404 Not Found" } else { "200 OK" };
        let lines = format!("{status}\r\nCache-Control: max-age=60\r\nContent-Type: text/plain\r\nETag: \"1\"");
        Deed::Say(answer(&lines, &"a text that repeats itself ".repeat(20)))
    })
    .await;
    for origin in ["https://a.test", "https://b.test", "https://a.test"] {
        let given = ask(&bed, "GET /x", &format!("Origin: {origin}\r\n")).await;
        assert_eq!(given.header("access-control-allow-origin"), Some(origin));
        let added = given.headers.iter().filter(|(name, _)| name == "x-added");
        assert_eq!((added.count(), given.text().len()), (1, 540));
    }
    let encoded = ask(&bed, "GET /x", "Accept-Encoding: gzip\r\n").await;
    assert_eq!((encoded.header("content-encoding"), encoded.header("etag")), (Some("gzip"), Some("W/\"1\"")));
    assert_eq!(ask(&bed, "GET /x", "Accept-Encoding: gzip\r\nIf-None-Match: W/\"1\"\r\n").await.status(), 304);
    assert_eq!((get(&bed, "/gone").await.text(), get(&bed, "/gone").await.text()), ("nothing here", "nothing here"));
    assert_eq!((backend.count(), backend.request(0).path()), (2, "/v2/x"));
}

#[tokio::test]
async fn who_may_not_ask_is_given_nothing_that_is_kept() {
    let routes = "[route.h]\nto = \"web\"\ncache = true\n[route.\"h/in\"]\nto = \"web\"\ncache = true\ndeny = [\"127.0.0.0/8\"]\n[route.\"h/few\"]\nto = \"web\"\ncache = true\nrate_limit = { requests = 1, per = \"1h\" }\n";
    let (bed, backend) = saying(routes, "200 OK\r\nCache-Control: max-age=60").await;
    assert_eq!((get(&bed, "/in").await.status(), backend.count()), (403, 0));
    assert_eq!((get(&bed, "/few").await.status(), get(&bed, "/few").await.status()), (200, 429));
}

#[tokio::test]
async fn what_an_instance_encoded_is_for_those_who_understand_it_though_it_does_not_say_so() {
    let (bed, backend) = serving(KEPT, |request, number| {
        let encoded = request.header("accept-encoding").is_some_and(|it| it.contains("br"));
        let line = if encoded { "\r\nContent-Encoding: br" } else { "" };
        Deed::Say(answer(&format!("200 OK\r\nCache-Control: max-age=60{line}"), &format!("answer {number}")))
    })
    .await;
    assert_eq!(ask(&bed, "GET /", "Accept-Encoding: gzip, br\r\n").await.text(), "answer 0");
    assert_eq!(ask(&bed, "GET /", "Accept-Encoding: BR,gzip\r\n").await.text(), "answer 0");
    assert_eq!((get(&bed, "/").await.text(), backend.count()), ("answer 1", 2));
}

#[tokio::test]
async fn a_stranger_does_not_choose_what_others_are_given() {
    let (bed, backend) = saying(KEPT, "200 OK\r\nCache-Control: max-age=60").await;
    ask(&bed, "GET /", "X-Forwarded-Host: evil\r\nX-Original-URL: /admin\r\nX-HTTP-Method-Override: DELETE\r\n").await;
    let seen = backend.request(0);
    assert_eq!(seen.header("x-forwarded-host"), Some("h"));
    assert_eq!((seen.header("x-original-url"), seen.header("x-http-method-override")), (None, None));
    // What comes with a body might mean it.
    ask(&bed, "GET /", "Content-Length: 1\r\n\r\nx").await;
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn a_route_that_leads_elsewhere_is_not_answered_by_what_it_was_before() {
    let (mut bed, backend) = saying(KEPT, "200 OK\r\nCache-Control: max-age=60").await;
    get(&bed, "/").await;
    bed.routes("[route.h]\nto = \"web\"\ncache = { ttl = \"1m\" }\n");
    bed.converge().await;
    assert_eq!((get(&bed, "/").await.text(), backend.count()), ("answer 0", 1), "it leads where it led");
    bed.routes("[route.h]\nto = \"web\"\ncache = true\nrequest_headers = { set = { x-a = \"1\" } }\n");
    bed.converge().await;
    assert_eq!((get(&bed, "/").await.text(), backend.count()), ("answer 1", 2));
}

#[tokio::test]
async fn it_is_seen_what_the_cache_did() {
    let routes = "[route.h]\nto = \"web\"\ncache = true\nlog = \"json\"\n";
    let (bed, _backend) = saying(routes, "200 OK\r\nCache-Control: max-age=60").await;
    let ids = ["firstone1", "secondone"].map(|id| format!("X-Request-Id: {id}\r\n"));
    for id in &ids {
        ask(&bed, "GET /", id).await;
    }
    ask(&bed, "DELETE /", "").await;
    let lines = bed.log(3).await;
    let cached: Vec<String> = lines
        .iter()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["cache"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(cached, ["miss", "hit", "bypass"]);
    let teller = bed.requests.behind().expect("the role has begun");
    assert_eq!(teller.recall("secondone")[0].cached.as_deref(), Some("hit"));
    assert_eq!(bed.counted("hirsel_lb_route_cache_total{app=\"shop\",route=\"h/\",outcome=\"hit\"}"), 1);
    assert_eq!((bed.counted("hirsel_lb_cache_answers"), bed.counted("hirsel_lb_cache_bytes") > 0), (0, false));
}

#[tokio::test]
async fn a_connection_that_is_kept_open_serves_one_after_another() {
    let (bed, backend) = saying(KEPT, "200 OK\r\nCache-Control: max-age=60").await;
    let mut client = Client::connect(bed.addr).await;
    for _ in 0..3 {
        within(write(&mut client.stream, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")).await.unwrap();
        assert_eq!(client.answer().await.text(), "answer 0");
    }
    assert_eq!(backend.count(), 1);
}

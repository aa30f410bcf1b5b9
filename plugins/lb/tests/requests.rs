//! What a client sees when all is well: routing, framing, headers, keep-alive, upgrades, limits.

mod common;

use common::backend::{Backend, Deed, ok};
use common::wire::Client;
use common::{Bed, ME, OTHER, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_request_reaches_an_instance_and_its_answer_comes_back() {
    let backend = Backend::named("a").await;
    let bed = Bed::serving(&[&backend]).await;
    let answer = bed.get("/x?y=1").await;
    assert_eq!((answer.status(), answer.text()), (200, "ok a"));
    assert_eq!(backend.request(0).start, "GET /x?y=1 HTTP/1.1");
    assert_eq!(backend.request(0).header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(backend.request(0).header("via"), Some("1.1 hirsel"));
}

#[tokio::test]
async fn an_instance_on_another_node_is_reached_through_its_door() {
    let backend = Backend::named("far").await;
    let mut bed = Bed::serving(&[]).await;
    bed.place(1, OTHER, backend.addr.port());
    bed.converge().await;
    assert_eq!(bed.get("/").await.text(), "ok far");
    assert_eq!(bed.doors.opened.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn host_and_path_choose_the_service() {
    let (shop, api, rest) = (Backend::named("shop").await, Backend::named("api").await, Backend::named("rest").await);
    let mut bed = Bed::new().await;
    bed.route("shop.example", "/", "shop");
    bed.route("shop.example", "/api", "api");
    bed.route("*", "/pub/", "rest");
    bed.place_as("shop", 1, ME, shop.addr.port());
    bed.place_as("api", 2, ME, api.addr.port());
    bed.place_as("rest", 3, ME, rest.addr.port());
    bed.converge().await;
    let text = async |host: &str, path: &str| {
        let answer = bed.ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        answer.text().lines().next().unwrap().to_owned()
    };
    assert_eq!(text("SHOP.example:8080", "/apix").await, "ok shop");
    assert_eq!(text("shop.example", "/api/v1?x").await, "ok api");
    assert_eq!(text("shop.example", "/api").await, "ok api");
    assert_eq!(text("other.example", "/pub").await, "ok rest");
    assert_eq!(text("other.example", "/").await, "404 Not Found");
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let backend = Backend::named("a").await;
    let bed = Bed::serving(&[&backend]).await;
    let mut client = Client::connect(bed.addr).await;
    for _ in 0..50 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.answer().await.status(), 200);
    }
    assert_eq!(*backend.connections.lock().unwrap(), 1);
}

#[tokio::test]
async fn headers_of_one_hop_do_not_pass_in_either_direction() {
    let answer = "HTTP/1.1 200 OK\r\nConnection: x-inner\r\nX-Inner: 1\r\nKeep-Alive: timeout=5\r\nX-Kept: 2\r\nContent-Length: 0\r\n\r\n";
    let backend = Backend::new(move |_, _| Deed::Say(answer.into())).await;
    let bed = Bed::serving(&[&backend]).await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\nTE: trailers\r\nX-Yours: 2\r\n\r\n";
    let answer = bed.ask(request).await;
    assert_eq!((answer.header("x-inner"), answer.header("keep-alive")), (None, None));
    assert_eq!(answer.header("x-kept"), Some("2"));
    let seen = backend.request(0);
    assert_eq!(
        (seen.header("x-mine"), seen.header("te"), seen.header("connection")),
        (None, Some("trailers"), Some("te"))
    );
    assert_eq!(seen.header("x-yours"), Some("2"));
}

#[tokio::test]
async fn bodies_pass_whatever_their_framing() {
    let backend = Backend::new(|request, _| Deed::Say(ok(&format!("{}", request.body.len())))).await;
    let bed = Bed::serving(&[&backend]).await;
    let small = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(bed.ask(small).await.text(), "5");
    let large = "x".repeat(300_000);
    let request = format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{large}", large.len());
    assert_eq!(bed.ask(&request).await.text(), "300000");
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n";
    assert_eq!(bed.ask(chunked).await.text(), "7");
    assert_eq!(backend.request(2).body, b"abcdefg");
}

#[tokio::test]
async fn answers_pass_whatever_their_framing() {
    let large = "y".repeat(1_000_000);
    let long = ok(&large);
    let backend = Backend::new(move |request, _| match request.path() {
        "/long" => Deed::Say(long.clone()),
        "/chunked" => Deed::Say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".into()),
        "/until-close" => Deed::SayAndClose("HTTP/1.1 200 OK\r\n\r\nto the end".into()),
        "/empty" => Deed::Say("HTTP/1.1 204 No Content\r\n\r\n".into()),
        _ => Deed::Say("HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n".into()),
    })
    .await;
    let bed = Bed::serving(&[&backend]).await;
    let mut client = Client::connect(bed.addr).await;
    let mut get = async |path: &str| {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        client.answer().await
    };
    assert_eq!(get("/long").await.body.len(), large.len());
    assert_eq!(get("/chunked").await.text(), "abc");
    assert_eq!(get("/empty").await.status(), 204);
    assert_eq!(get("/not-modified").await.header("etag"), Some("\"1\""));
    assert_eq!(get("/until-close").await.text(), "to the end");
    // The long answer gave its connection back.
    assert_eq!(*backend.connections.lock().unwrap(), 1);
}

#[tokio::test]
async fn hints_on_the_way_to_an_answer_are_passed_over() {
    let hint = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    let backend = Backend::new(move |request, _| {
        let hints = hint.repeat(request.path()[1..].parse().unwrap());
        Deed::Say([hints.into_bytes(), ok("at last")].concat())
    })
    .await;
    let bed = Bed::serving(&[&backend]).await;
    assert_eq!(bed.get("/2").await.text(), "at last");
    assert_eq!(bed.get("/1000").await.status(), 502, "there are limits");
}

#[tokio::test]
async fn what_an_instance_says_beyond_its_answer_is_no_answer_to_the_next_request() {
    let backend = Backend::new(|request, _| Deed::Say([ok(request.path()), ok("forged")].concat())).await;
    let bed = Bed::serving(&[&backend]).await;
    let mut client = Client::connect(bed.addr).await;
    for path in ["/1", "/2", "/3"] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert_eq!(client.answer().await.text(), path);
    }
    assert_eq!(*backend.connections.lock().unwrap(), 3);
}

#[tokio::test]
async fn an_answer_that_can_be_read_in_two_ways_is_not_passed_on() {
    let backend = Backend::new(|request, _| {
        let lines = match request.path() {
            "/lengths" => "Content-Length: 2\r\nContent-Length: 3",
            "/codings" => "Transfer-Encoding: gzip, chunked",
            _ => "Content-Length: 2\r\nFolded: a\r\n b",
        };
        Deed::Say(format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n0\r\n\r\n").into())
    })
    .await;
    let bed = Bed::serving(&[&backend]).await;
    for path in ["/lengths", "/codings", "/folded"] {
        let answer = bed.ask(&format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")).await;
        assert_eq!(answer.status(), 502, "{path}");
    }
}

#[tokio::test]
async fn an_answer_that_comes_before_the_upload_is_whole_reaches_the_client() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut bed = Bed::serving(&[]).await;
    bed.place(1, ME, listener.local_addr().unwrap().port());
    bed.converge().await;
    let instance = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 4096];
        let read = stream.read(&mut head).await.unwrap();
        stream.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\n\r\ntoo much").await.unwrap();
        (stream, read)
    });
    let mut client = Client::connect(bed.addr).await;
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\nthe beginning").await;
    let answer = within(client.answer()).await;
    assert_eq!((answer.status(), answer.text()), (413, "too much"));
    assert!(instance.await.unwrap().1 > 0);
}

#[tokio::test]
async fn head_keeps_the_length_of_the_body_that_is_not_sent() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n";
    let backend = Backend::new(move |_, _| Deed::Say(head.into())).await;
    let bed = Bed::serving(&[&backend]).await;
    let mut client = Client::connect(bed.addr).await;
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = client.answer().await;
        assert_eq!((answer.status(), answer.header("content-length")), (200, Some("1234")));
    }
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it() {
    let backend = Backend::new(|request, _| Deed::Say(ok(request.text()))).await;
    let bed = Bed::serving(&[&backend]).await;
    let mut client = Client::connect(bed.addr).await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
    assert_eq!(client.answer().await.status(), 100);
    client.send("hello").await;
    assert_eq!(client.answer().await.text(), "hello");
    assert_eq!(backend.request(0).header("expect"), None);
}

#[tokio::test]
async fn a_websocket_is_tunnelled_both_ways() {
    let agree = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nhi";
    let backend = Backend::new(move |_, _| Deed::Echo(agree.into())).await;
    let mut bed = Bed::serving(&[&backend]).await;
    let mut client = Client::connect(bed.addr).await;
    client.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.status(), answer.header("upgrade")), (101, Some("websocket")));
    assert_eq!(backend.request(0).header("connection"), Some("upgrade"));
    let mut stream = client.into_stream();
    let mut greeting = [0; 2];
    within(stream.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(&greeting, b"hi");
    within(stream.write_all(b"there and back")).await.unwrap();
    let mut back = [0; 14];
    within(stream.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"there and back");
    bed.drain(1);
    let report = bed.converge().await;
    assert!(format!("{:?}", report.facts).contains(": 1"), "a tunnel is a request under way: {:?}", report.facts);
    drop(stream);
    bed.converge_until(|report| !format!("{:?}", report.facts).contains(": 1")).await;
}

#[tokio::test]
async fn http_1_0_and_absolute_targets_are_understood() {
    let backend = Backend::named("a").await;
    let bed = Bed::serving(&[&backend]).await;
    assert_eq!(bed.ask("GET / HTTP/1.0\r\n\r\n").await.text(), "ok a");
    assert_eq!(bed.ask("GET http://shop.example/y HTTP/1.1\r\nHost: b\r\n\r\n").await.text(), "ok a");
    assert_eq!(backend.request(1).start, "GET /y HTTP/1.1");
    assert_eq!(backend.request(1).header("host"), Some("shop.example"));
    assert_eq!(bed.ask("OPTIONS * HTTP/1.1\r\nHost: b\r\n\r\n").await.status(), 200);
}

#[tokio::test]
async fn what_is_ambiguous_or_too_large_is_refused() {
    let backend = Backend::named("a").await;
    let bed = Bed::serving(&[&backend]).await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".to_owned(), 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd".to_owned(), 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n".to_owned(), 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc".to_owned(), 400),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n".to_owned(), 400),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(40_000)), 431),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(200)), 431),
        ("nonsense\r\n\r\n".to_owned(), 400),
    ] {
        let shown: String = request.chars().take(80).collect();
        assert_eq!(bed.ask(&request).await.status(), status, "{shown}");
    }
    assert_eq!(backend.count(), 0);
    // What hyper refuses by itself, and what we do.
    let refused = bed.counted("hirsel_lb_refused_requests_total");
    assert_eq!((refused, bed.counted("hirsel_lb_answers_total{class=\"4xx\"}")), (6, 4));
}

#[tokio::test]
async fn a_route_that_leads_back_to_its_load_balancer_ends() {
    let mut bed = Bed::new().await;
    let addr = bed.addr;
    bed.routes(&format!("[route.round]\nto = \"http://{addr}\"\n[route.framed]\nto = \"h2c://{addr}\"\n"));
    bed.converge().await;
    for host in ["round", "framed"] {
        let answer = bed.ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(answer.status(), 508, "{host}: {}", answer.text());
    }
    assert!(bed.counted("hirsel_lb_connects_total") <= 16 + 2);
}

#[tokio::test]
async fn a_length_beside_chunks_does_not_smuggle_a_request() {
    let backend = Backend::named("a").await;
    let bed = Bed::serving(&[&backend]).await;
    let mut client = Client::connect(bed.addr).await;
    client
        .send(
            "POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
             GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .await;
    let _ = client.answer().await;
    assert!(client.is_closed().await, "a connection with two framings is not used again");
    let seen = backend.seen.lock().unwrap();
    assert!(seen.iter().all(|request| request.path() == "/one"), "{seen:?}");
    assert!(seen.iter().all(|request| request.header("content-length").is_none()), "{seen:?}");
}

#[tokio::test]
async fn a_slow_reader_gets_all_of_a_long_answer_and_holds_it_back_at_the_instance() {
    let long = ok(&"z".repeat(8_000_000));
    let backend = Backend::new(move |_, _| Deed::Say(long.clone())).await;
    let bed = Bed::serving(&[&backend]).await;
    let mut client = Client::connect(bed.addr).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    backend.until_asked(1).await;
    let mut bytes = Vec::new();
    let mut chunk = vec![0; 5_000];
    while bytes.len() < 8_000_000 {
        let n = within(client.stream.read(&mut chunk)).await.unwrap();
        assert!(n > 0, "ended after {} bytes", bytes.len());
        bytes.extend_from_slice(&chunk[..n]);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let backend = Backend::new(|request, _| Deed::Say(ok(request.path()))).await;
    let bed = Bed::serving(&[&backend]).await;
    let mut client = Client::connect(bed.addr).await;
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.answer().await.text(), "/1");
    assert_eq!(client.answer().await.text(), "/2");
}

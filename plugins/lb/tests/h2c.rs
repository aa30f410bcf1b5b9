//! Instances that speak HTTP/2 in clear: what they are told, how connections to them are shared, and what a failure costs.

mod common;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use common::backend::Backend;
use common::frames::*;
use common::{Bed, ME, until, within};
use h2::Reason;
use hirsel_model::report::RoleState;
use hirsel_model::spec::AppProtocol;
use http::{HeaderMap, Response};
use tokio::sync::Notify;

/// A role that routes everything to `shop/web`, which runs at these ports and speaks HTTP/2.
async fn serving(ports: &[u16]) -> Bed {
    let mut bed = Bed::new().await;
    bed.protocol = AppProtocol::H2c;
    bed.route("*", "/", "web");
    for (number, port) in (1..).zip(ports) {
        bed.place(number, ME, *port);
    }
    assert_eq!(bed.converge().await.state, RoleState::Running);
    bed
}

#[tokio::test]
async fn a_client_of_http_1_1_reaches_an_instance_that_speaks_http_2() {
    let peer = Peer::new(100, |request, respond| {
        Box::pin(async move {
            let status = if request.uri().path() == "/none" { 204 } else { 200 };
            let (body, _) = whole(request.into_body()).await.unwrap();
            let body = String::from_utf8(body).unwrap().leak();
            say(respond, status, body);
        })
    })
    .await;
    let bed = serving(&[peer.addr.port()]).await;
    let answer = bed.ask("POST /a?b=1 HTTP/1.1\r\nHost: shop:81\r\nX-A: 1\r\nContent-Length: 5\r\n\r\nhello").await;
    assert_eq!((answer.status(), answer.text()), (200, "hello"));
    let chunked =
        "POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n";
    assert_eq!(bed.ask(chunked).await.text(), "abcdefg");
    assert_eq!(bed.get("/none").await.status(), 204);
    let upgrade = "GET / HTTP/1.1\r\nHost: shop\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(bed.ask(upgrade).await.status(), 200, "there is nothing to upgrade to");
    let seen = peer.seen.lock().unwrap();
    let told = &seen[0];
    assert_eq!((told.method.as_str(), told.uri.to_string().as_str()), ("POST", "http://shop:81/a?b=1"));
    assert_eq!((&told.headers["x-a"], &told.headers["content-length"]), (&"1".parse().unwrap(), &"5".parse().unwrap()));
    assert_eq!(told.headers["x-forwarded-for"], "127.0.0.1");
    assert_eq!(told.headers["x-forwarded-host"], "shop:81");
    assert!(!told.headers.contains_key("host") && !seen[1].headers.contains_key("transfer-encoding"));
    assert_eq!(peer.connections(), 1);
}

#[tokio::test]
async fn no_connection_carries_more_than_its_instance_takes() {
    let inside = Arc::<AtomicUsize>::default();
    let (all_in, go) = (inside.clone(), Arc::<Notify>::default());
    let release = go.clone();
    let peer = Peer::new(3, move |_, respond| {
        let (inside, go) = (inside.clone(), go.clone());
        Box::pin(async move {
            let released = go.notified();
            inside.fetch_add(1, Ordering::SeqCst);
            released.await;
            say(respond, 200, "ok");
        })
    })
    .await;
    let bed = serving(&[peer.addr.port()]).await;
    let addr = bed.addr;
    let ask = move || async move {
        let mut client = common::wire::Client::connect(addr).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.answer().await.status()
    };
    let asks: Vec<_> = (0..10).map(|_| tokio::spawn(ask())).collect();
    until(|| all_in.load(Ordering::SeqCst) == 10).await;
    // A stream over the limit would have been refused, and seen twice.
    assert_eq!((peer.connections(), peer.count()), (4, 10));
    release.notify_waiters();
    for ask in asks {
        assert_eq!(within(ask).await.unwrap(), 200);
    }
    assert_eq!(bed.counted("hirsel_lb_connects_total"), 4);
}

#[tokio::test]
async fn what_an_instance_did_not_take_when_it_ended_a_connection_is_told_again_whatever_it_is() {
    let told = Arc::<Mutex<Vec<(usize, Vec<u8>)>>>::default();
    let seen = told.clone();
    let (addr, _peer) = bare(move |connection, came| {
        if came.kind == DATA {
            told.lock().unwrap().push((connection, came.payload.clone()));
        }
        match (connection, came.kind, came.flags & END_STREAM) {
            // Once it has come, all of it: it was read, and yet not taken.
            (0, DATA, END_STREAM) => goaway(0, 0),
            (_, DATA, END_STREAM) => ok(came.stream, "done"),
            _ => Vec::new(),
        }
    })
    .await;
    let bed = serving(&[addr.port()]).await;
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let answer = bed.ask(chunked).await;
    assert_eq!((answer.status(), answer.text()), (200, "done"));
    let seen: BTreeMap<usize, Vec<u8>> =
        seen.lock().unwrap().iter().fold(BTreeMap::new(), |mut all, (number, bytes)| {
            all.entry(*number).or_insert_with(Vec::new).extend_from_slice(bytes);
            all
        });
    assert_eq!(seen, BTreeMap::from([(0, b"abc".to_vec()), (1, b"abc".to_vec())]));
    assert_eq!(bed.counted("hirsel_lb_ejections_total"), 0, "it did as it may");
}

#[tokio::test]
async fn a_request_that_an_instance_refuses_goes_to_another() {
    let (addr, _peer) = bare(|_, came| match came.kind {
        HEADERS => frame(RST_STREAM, 0, came.stream, &7_u32.to_be_bytes()),
        _ => Vec::new(),
    })
    .await;
    let other = Peer::named("other").await;
    let bed = serving(&[addr.port(), other.addr.port()]).await;
    for _ in 0..10 {
        let answer = bed.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").await;
        assert_eq!((answer.status(), answer.text()), (200, "other"));
    }
    assert_eq!(bed.counted("hirsel_lb_ejections_total"), 0);
}

#[tokio::test]
async fn where_all_refuse_the_answer_is_503_and_says_that_nothing_was_done() {
    let (addr, _peer) = bare(|_, came| match came.kind {
        HEADERS => frame(RST_STREAM, 0, came.stream, &7_u32.to_be_bytes()),
        _ => Vec::new(),
    })
    .await;
    let bed = serving(&[addr.port()]).await;
    let answer = bed.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(answer.status(), 503);
    assert!(answer.text().contains("nothing of this request was carried out"), "{}", answer.text());
}

#[tokio::test]
async fn a_reset_for_another_reason_is_no_reason_to_tell_a_post_again() {
    let heads = Arc::<AtomicUsize>::default();
    let seen = heads.clone();
    let (addr, _peer) = bare(move |_, came| match came.kind {
        HEADERS => {
            heads.fetch_add(1, Ordering::SeqCst);
            frame(RST_STREAM, 0, came.stream, &2_u32.to_be_bytes())
        }
        _ => Vec::new(),
    })
    .await;
    let bed = serving(&[addr.port()]).await;
    let answer = bed.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!((answer.status(), seen.load(Ordering::SeqCst)), (502, 1));
    assert!(answer.text().contains("INTERNAL_ERROR"), "{}", answer.text());
    assert_eq!((bed.get("/").await.status(), seen.load(Ordering::SeqCst)), (502, 4), "three times at most");
    assert_eq!(bed.counted("hirsel_lb_ejections_total"), 0);
}

#[tokio::test]
async fn a_program_that_speaks_something_else_is_told_no_request() {
    let backend = Backend::named("old").await;
    let bed = serving(&[backend.addr.port()]).await;
    assert_eq!(bed.get("/secret").await.status(), 503);
    assert!(bed.counted("hirsel_lb_ejections_total") >= 1);
    assert!(backend.seen.lock().unwrap().iter().all(|told| !told.start.contains("secret")));
}

#[tokio::test]
async fn resets_pass_in_both_directions() {
    let (reset, go) = (Arc::<Mutex<Option<Reason>>>::default(), Arc::<Notify>::default());
    let (seen, release) = (reset.clone(), go.clone());
    let peer = Peer::new(100, move |request, mut respond| {
        let (reset, go) = (reset.clone(), go.clone());
        Box::pin(async move {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(b"begun"), false).unwrap();
            if request.uri().path() == "/break" {
                go.notified().await;
                return stream.send_reset(Reason::ENHANCE_YOUR_CALM);
            }
            let reason = within(poll_fn(|cx| stream.poll_reset(cx))).await.unwrap();
            *reset.lock().unwrap() = Some(reason);
        })
    })
    .await;
    let bed = serving(&[peer.addr.port()]).await;
    let client = Client2::connect(bed.addr).await;
    let begin = async |path| {
        let (answer, _) = client.begin(request("GET", path), true).await.unwrap();
        let mut body = within(answer).await.unwrap().into_body();
        assert_eq!(within(body.data()).await.unwrap().unwrap(), "begun");
        body
    };
    let mut body = begin("/break").await;
    release.notify_one();
    let error = within(body.data()).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
    drop(begin("/wait").await);
    until(|| *seen.lock().unwrap() == Some(Reason::CANCEL)).await;
    // The connections go on, on both sides.
    let mut body = begin("/break").await;
    release.notify_one();
    assert!(within(body.data()).await.unwrap().is_err());
    assert_eq!(peer.connections(), 1);
    // A client of HTTP/1.1 sees it end before it is whole.
    let mut old = common::wire::Client::connect(bed.addr).await;
    old.send("GET /break HTTP/1.1\r\nHost: a\r\n\r\n").await;
    until(|| peer.count() == 4).await;
    release.notify_one();
    assert!(old.try_answer().await.is_none());
}

#[tokio::test]
async fn a_request_that_its_client_gives_up_before_an_answer_is_reset() {
    let reset = Arc::<Notify>::default();
    let seen = reset.clone();
    let peer = Peer::new(100, move |_, mut respond| {
        let reset = reset.clone();
        Box::pin(async move {
            within(poll_fn(|cx| respond.poll_reset(cx))).await.unwrap();
            reset.notify_one();
        })
    })
    .await;
    let bed = serving(&[peer.addr.port()]).await;
    let client = Client2::connect(bed.addr).await;
    let given_up = client.begin(request("POST", "/"), false).await.unwrap();
    until(|| peer.count() == 1).await;
    drop(given_up);
    within(seen.notified()).await;
}

#[tokio::test]
async fn fields_behind_bodies_pass_in_both_directions() {
    let told = Arc::<Mutex<Option<HeaderMap>>>::default();
    let seen = told.clone();
    let peer = Peer::new(100, move |request, mut respond| {
        let told = told.clone();
        Box::pin(async move {
            let short = request.uri().path() == "/short";
            let (_, trailer) = whole(request.into_body()).await.unwrap();
            *told.lock().unwrap() = trailer;
            let mut answer = Response::builder();
            if short {
                answer = answer.header("content-length", "4");
            }
            let mut stream = respond.send_response(answer.body(()).unwrap(), false).unwrap();
            stream.send_data(Bytes::from_static(b"done"), false).unwrap();
            let mut trailer = HeaderMap::new();
            trailer.insert("x-sum", "8".parse().unwrap());
            trailer.insert("content-type", "text/html".parse().unwrap());
            stream.send_trailers(trailer).unwrap();
        })
    })
    .await;
    let bed = serving(&[peer.addr.port()]).await;
    let client = Client2::connect(bed.addr).await;
    for (path, length) in [("/", None), ("/short", Some("3"))] {
        let mut asked = request("POST", path);
        if let Some(length) = length {
            asked.headers_mut().insert("content-length", length.parse().unwrap());
        }
        let (answer, mut stream) = client.begin(asked, false).await.unwrap();
        stream.send_data(Bytes::from_static(b"abc"), false).unwrap();
        let mut trailer = HeaderMap::new();
        trailer.insert("x-mine", "7".parse().unwrap());
        trailer.insert("authorization", "x".parse().unwrap());
        stream.send_trailers(trailer).unwrap();
        let (body, behind) = whole(within(answer).await.unwrap().into_body()).await.unwrap();
        let behind = behind.unwrap_or_default();
        assert_eq!((body.as_slice(), behind.len(), &behind["x-sum"]), (&b"done"[..], 1, &"8".parse().unwrap()));
        let told = seen.lock().unwrap().take().unwrap();
        assert_eq!((told.len(), &told["x-mine"]), (1, &"7".parse().unwrap()), "{path}");
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_holds_its_answer_back_and_no_other() {
    let sent = Arc::<AtomicUsize>::default();
    let seen = sent.clone();
    let peer = Peer::new(100, move |request, mut respond| {
        let sent = sent.clone();
        Box::pin(async move {
            if request.uri().path() != "/endless" {
                return say(respond, 200, "ok");
            }
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            loop {
                stream.reserve_capacity(16 * 1024);
                let Some(Ok(room)) = poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
                if stream.send_data(Bytes::from(vec![b'x'; room]), false).is_err() {
                    return;
                }
                sent.fetch_add(room, Ordering::SeqCst);
            }
        })
    })
    .await;
    let bed = serving(&[peer.addr.port()]).await;
    let client = Client2::connect(bed.addr).await;
    let mut held = Vec::new();
    for _ in 0..20 {
        let (answer, stream) = client.begin(request("GET", "/endless"), true).await.unwrap();
        held.push((within(answer).await.unwrap().into_body(), stream));
    }
    // Its window, what we hold for it, and what the instance may send ahead.
    let most = 20 * 4 * 64 * 1024;
    let mut before = 0;
    loop {
        assert_eq!(bed.get("/").await.text(), "ok");
        let now = seen.load(Ordering::SeqCst);
        assert!(now <= most, "{now} bytes");
        if now == before && now > 0 {
            break;
        }
        before = now;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(peer.connections(), 1);
    // Whoever takes gets more.
    let (body, _) = &mut held[0];
    let mut taken = 0;
    while taken < 1_000_000 {
        let piece = within(body.data()).await.unwrap().unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        taken += piece.len();
    }
}

#[tokio::test]
async fn a_killed_instance_costs_no_idempotent_request() {
    let (first, second) = (Peer::named("first").await, Peer::named("second").await);
    let bed = serving(&[first.addr.port(), second.addr.port()]).await;
    let addr = bed.addr;
    let (stop, asked) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (stop, asked) = (stop.clone(), asked.clone());
            tokio::spawn(async move {
                let client = Client2::connect(addr).await;
                let mut wrong = Vec::new();
                while stop.load(Ordering::SeqCst) == 0 {
                    match client.get("/").await {
                        Ok(answer) if answer.head.status == 200 => {}
                        Ok(answer) => wrong.push(answer.body),
                        Err(error) => wrong.push(error.to_string()),
                    }
                    asked.fetch_add(1, Ordering::SeqCst);
                }
                wrong
            })
        })
        .collect();
    until(|| asked.load(Ordering::SeqCst) > 200 && first.count() > 0).await;
    first.kill();
    let then = asked.load(Ordering::SeqCst);
    until(|| asked.load(Ordering::SeqCst) > then + 200).await;
    stop.store(1, Ordering::SeqCst);
    for client in clients {
        assert_eq!(within(client).await.unwrap(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_draining_instance_ends_its_streams_and_then_its_connection() {
    let go = Arc::<Notify>::default();
    let release = go.clone();
    let peer = Peer::new(100, move |_, respond| {
        let go = go.clone();
        Box::pin(async move {
            go.notified().await;
            say(respond, 200, "late");
        })
    })
    .await;
    let mut bed = serving(&[peer.addr.port()]).await;
    let client = Client2::connect(bed.addr).await;
    let asking = tokio::spawn(async move { client.get("/").await.unwrap().body });
    until(|| peer.count() == 1).await;
    bed.drain(1);
    let report = bed.converge().await;
    let hirsel_model::report::RoleFacts::Lb(draining) = report.facts else { unreachable!() };
    assert_eq!(draining.values().copied().collect::<Vec<_>>(), [1]);
    release.notify_one();
    assert_eq!(within(asking).await.unwrap(), "late");
    until(|| peer.open() == 0).await;
}

#[tokio::test]
async fn addresses_outside_speak_it_too_where_the_route_says_so() {
    let peer = Peer::named("outside").await;
    let mut bed = Bed::new().await;
    bed.routes(&format!("[route.\"*\"]\nto = \"h2c://{}\"\n[route.\"old.example\"]\nto = \"http://{0}\"\n", peer.addr));
    assert_eq!(bed.converge().await.state, RoleState::Running);
    assert_eq!(bed.get("/").await.text(), "outside");
    // The same address in another tongue is another program: this one does not speak it.
    assert_ne!(bed.ask("GET / HTTP/1.1\r\nHost: old.example\r\n\r\n").await.status(), 200);
    assert_eq!(bed.get("/").await.text(), "outside");
}

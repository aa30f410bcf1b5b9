//! What keeps an instance from more than it can bear, and clients from an instance that does not work.

mod common;

use std::time::{Duration, Instant};

use common::backend::{Backend, Deed, ok};
use common::wire::Client;
use common::{Bed, ME, until};

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n";

async fn bed(lines: &str, backends: &[&Backend]) -> Bed {
    let mut bed = Bed::new().await;
    bed.routes(&format!("[route.h]\nto = \"web\"\n{lines}\n"));
    for (number, backend) in (1..).zip(backends) {
        bed.place(number, ME, backend.addr.port());
    }
    bed.converge().await;
    bed
}

async fn client(bed: &Bed, request: &str) -> Client {
    let mut client = Client::connect(bed.addr).await;
    client.send(request).await;
    client
}

async fn holds() -> Backend {
    Backend::new(|_, _| Deed::Hold(ok("late"))).await
}

#[tokio::test]
async fn more_than_all_instances_may_have_is_refused_and_counted() {
    let (one, other) = (holds().await, holds().await);
    let bed = bed("concurrency = 2", &[&one, &other]).await;
    let mut clients = Vec::new();
    for at in 1..=4 {
        clients.push(client(&bed, GET).await);
        until(|| one.count() + other.count() == at).await;
    }
    assert_eq!((one.count(), other.count()), (2, 2));
    let refused = bed.ask(POST).await;
    assert_eq!((refused.status(), refused.header("retry-after")), (503, Some("2")));
    assert!(refused.text().contains("was not carried out"), "{}", refused.text());
    assert_eq!((bed.counted("hirsel_lb_overflows_total"), bed.counted("hirsel_lb_ejections_total")), (1, 0));
    one.release();
    other.release();
    for client in &mut clients {
        assert_eq!(client.answer().await.text(), "late");
    }
    assert_eq!(bed.ask(POST).await.status(), 200);
}

#[tokio::test]
async fn requests_wait_in_the_order_they_came_as_many_and_as_long_as_they_may() {
    let backend = Backend::new(|request, before| match before {
        0 => Deed::Hold(ok("first")),
        _ => Deed::Say(ok(request.path())),
    })
    .await;
    let bed = bed("concurrency = 1\nqueue = { requests = 3, wait = \"60s\" }", &[&backend]).await;
    let mut first = client(&bed, GET).await;
    backend.until_asked(1).await;
    let mut waiting = Vec::new();
    for (number, path) in (1..).zip(["/a", "/b", "/c"]) {
        waiting.push(client(&bed, &format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")).await);
        until(|| bed.counted("hirsel_lb_queued_total") == number).await;
    }
    assert_eq!(bed.ask(GET).await.status(), 503, "the line is full");
    assert_eq!((backend.count(), bed.counted("hirsel_lb_overflows_total")), (1, 1));
    backend.release();
    assert_eq!(first.answer().await.text(), "first");
    for (client, path) in waiting.iter_mut().zip(["/a", "/b", "/c"]) {
        assert_eq!(client.answer().await.text(), path);
    }
    let served: Vec<_> = (1..4).map(|at| backend.request(at).path().to_owned()).collect();
    assert_eq!(served, ["/a", "/b", "/c"], "who came first is first");
}

#[tokio::test]
async fn who_waits_too_long_is_told_and_who_goes_away_leaves_its_place() {
    let backend = holds().await;
    let bed = bed("concurrency = 1\nqueue = { requests = 1, wait = \"100ms\" }", &[&backend]).await;
    let mut first = client(&bed, GET).await;
    backend.until_asked(1).await;
    let begun = Instant::now();
    assert_eq!(bed.ask(GET).await.status(), 503);
    assert!(begun.elapsed() >= Duration::from_millis(100));
    assert_eq!(bed.counted("hirsel_lb_overflows_total"), 1);
    let gone = client(&bed, GET).await;
    until(|| bed.counted("hirsel_lb_queued_total") == 2).await;
    drop(gone);
    backend.release();
    assert_eq!(first.answer().await.text(), "late");
    assert_eq!(bed.ask(GET).await.status(), 200);
}

#[tokio::test]
async fn an_instance_that_only_makes_errors_is_left_alone() {
    let bad = Backend::new(|_, _| Deed::Say(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n".to_vec())).await;
    let good = Backend::named("good").await;
    let bed = bed("balance = \"round-robin\"\neject = { errors = 3 }", &[&bad, &good]).await;
    let mut errors = 0;
    for _ in 0..30 {
        errors += u32::from(bed.ask(GET).await.status() == 500);
    }
    assert_eq!((errors, bad.count()), (3, 3));
    assert_eq!(bed.counted("hirsel_lb_ejections_total"), 1);
    // It is tried again, and one more error is enough.
    bed.clock.by(Duration::from_secs(1));
    for _ in 0..10 {
        bed.ask(GET).await;
    }
    assert_eq!((bad.count(), bed.counted("hirsel_lb_ejections_total")), (4, 2));
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_made_elsewhere_if_it_may_be() {
    let (slow, quick) = (Backend::new(|_, _| Deed::Hang).await, Backend::named("quick").await);
    let bed = bed("balance = \"round-robin\"\ntry_timeout = \"100ms\"", &[&slow, &quick]).await;
    for _ in 0..4 {
        assert_eq!(bed.ask(GET).await.text(), "ok quick");
    }
    assert!(slow.count() > 0 && bed.counted("hirsel_lb_replays_total") > 0);
    assert_eq!(bed.counted("hirsel_lb_ejections_total"), 0, "slowness ejects nobody");
    let mut statuses = [bed.ask(POST).await.status(), bed.ask(POST).await.status()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 504], "what may have been carried out is not told again");
}

#[tokio::test]
async fn instances_of_the_own_zone_come_first_and_others_when_they_fail() {
    let (near, far) = (Backend::named("near").await, Backend::named("far").await);
    let mut bed = bed("zone = \"own\"", &[&near, &far]).await;
    bed.zones(2, "b", &[("a", 1), ("b", 1)]);
    bed.converge().await;
    for _ in 0..20 {
        assert_eq!(bed.ask(GET).await.text(), "ok near");
    }
    near.kill().await;
    for _ in 0..20 {
        assert_eq!(bed.ask(GET).await.text(), "ok far");
    }
}

#[tokio::test]
async fn tries_that_take_too_long_are_no_storm_when_all_instances_are_slow() {
    let backends = [Backend::new(|_, _| Deed::Hang).await, Backend::new(|_, _| Deed::Hang).await];
    let bed = bed("try_timeout = \"20ms\"", &[&backends[0], &backends[1]]).await;
    for _ in 0..60 {
        assert_eq!(bed.ask(GET).await.status(), 504);
    }
    let asked = backends[0].count() + backends[1].count();
    assert!((60..=60 + 20 + 12).contains(&asked), "twenty at once, and a fifth of sixty: {asked}");
}

#[tokio::test]
async fn a_second_instance_is_told_when_the_first_is_slow_and_who_answers_first_counts() {
    let (slow, quick) = (holds().await, Backend::named("quick").await);
    let bed = bed("balance = \"round-robin\"\nhedge = { after = \"50ms\" }", &[&slow, &quick]).await;
    for _ in 0..6 {
        assert_eq!(bed.ask(GET).await.text(), "ok quick");
    }
    let hedges = slow.count();
    assert!(hedges >= 3 && quick.count() == 6, "the slow one has its turns: {hedges}");
    assert_eq!(bed.counted("hirsel_lb_hedges_total"), hedges as u64);
    assert_eq!(bed.counted("hirsel_lb_ejections_total"), 0);
    // What may have had an effect is told once.
    let mut posts = [client(&bed, POST).await, client(&bed, POST).await];
    until(|| slow.count() == hedges + 1 && quick.count() == 7).await;
    slow.release();
    let mut texts = Vec::new();
    for post in &mut posts {
        texts.push(post.answer().await.text().to_owned());
    }
    texts.sort();
    assert_eq!(texts, ["late", "ok quick"]);
    assert_eq!(bed.counted("hirsel_lb_hedges_total"), hedges as u64);
}

#[tokio::test]
async fn when_all_are_slow_few_are_told_twice_and_all_are_answered() {
    let backends = [holds().await, holds().await];
    let bed = bed("hedge = { after = \"20ms\" }", &[&backends[0], &backends[1]]).await;
    let asked = || backends[0].count() + backends[1].count();
    let mut clients = Vec::new();
    for _ in 0..30 {
        clients.push(client(&bed, GET).await);
    }
    until(|| asked() >= 30 && bed.counted("hirsel_lb_hedges_total") >= 10).await;
    let hedges = bed.counted("hirsel_lb_hedges_total");
    assert!((10..=13).contains(&hedges), "ten at once, and a tenth of thirty: {hedges}");
    backends.iter().for_each(Backend::release);
    for client in &mut clients {
        assert_eq!(client.answer().await.text(), "late");
    }
    assert!(asked() <= 43, "{}", asked());
}

#[tokio::test]
async fn a_request_whose_first_instance_fails_while_a_second_works_is_answered() {
    let breaks = Backend::new(|_, _| Deed::SayAndClose(Vec::new())).await;
    let works = Backend::named("works").await;
    let bed = bed("balance = \"round-robin\"\nhedge = { after = \"1ms\" }", &[&breaks, &works]).await;
    for _ in 0..10 {
        assert_eq!(bed.ask(GET).await.text(), "ok works");
    }
    assert!(breaks.count() <= 1, "it is left alone: {}", breaks.count());
}

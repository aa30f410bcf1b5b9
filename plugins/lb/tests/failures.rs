//! What a client sees when instances and nodes fail, drain and come back: nothing, as far as HTTP allows.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::backend::{Backend, Deed, ok};
use common::wire::Client;
use common::{Bed, ME, OTHER, free_addr, until, within};
use hirsel_model::Generation;
use hirsel_model::report::{RoleFacts, RoleState};
use hirsel_model::view::Liveness;

/// An instance that breaks off the first answer it gives, and then works.
async fn breaks_once(piece: &'static str) -> Backend {
    Backend::new(move |_, before| match before {
        0 => Deed::SayAndClose(piece.into()),
        _ => Deed::Say(ok("second")),
    })
    .await
}

const PUT: &str = "PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
const POST: &str = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";

#[tokio::test]
async fn an_idempotent_request_is_told_again_when_its_connection_breaks() {
    for piece in ["", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbroken off"] {
        let breaks = breaks_once(piece).await;
        let bed = Bed::serving(&[&breaks]).await;
        let answer = bed.ask(PUT).await;
        assert_eq!((answer.status(), answer.text()), (200, "second"), "after {piece:?}");
        assert_eq!(breaks.request(1).body, b"hello", "with its body");
        assert_eq!(bed.counted("hirsel_lb_replays_total"), 1);
    }
}

#[tokio::test]
async fn a_retry_goes_to_another_instance_and_the_first_is_ejected() {
    let (breaks, works) = (Backend::new(|_, _| Deed::SayAndClose(Vec::new())).await, Backend::named("b").await);
    let bed = Bed::serving(&[&breaks, &works]).await;
    for _ in 0..20 {
        assert_eq!(bed.get("/").await.text(), "ok b");
    }
    assert!(breaks.count() <= 1, "asked {} times", breaks.count());
    assert!(works.count() == 20);
}

#[tokio::test]
async fn a_post_that_was_written_is_never_told_again() {
    for piece in ["", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbroken off"] {
        let breaks = breaks_once(piece).await;
        let bed = Bed::serving(&[&breaks]).await;
        let answer = bed.ask(POST).await;
        assert_eq!(answer.status(), 502, "{}", answer.text());
        assert!(answer.text().contains("shop/web"), "{}", answer.text());
        assert_eq!(breaks.count(), 1);
    }
}

#[tokio::test]
async fn a_post_that_was_not_written_goes_elsewhere() {
    let (gone, works) = (free_addr().await, Backend::named("b").await);
    let mut bed = Bed::serving(&[&works]).await;
    bed.place(7, ME, gone.port());
    bed.place(8, ME, free_addr().await.port());
    bed.converge().await;
    for _ in 0..5 {
        assert_eq!(bed.ask(POST).await.text(), "ok b");
    }
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    assert_eq!(bed.ask(chunked).await.text(), "ok b");
}

#[tokio::test]
async fn an_answer_that_began_to_be_sent_breaks_off_visibly() {
    let long = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nonly this";
    let breaks = Backend::new(move |_, _| Deed::SayAndClose(long.into())).await;
    let bed = Bed::serving(&[&breaks]).await;
    let mut client = Client::connect(bed.addr).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(client.try_answer().await.is_none());
    assert_eq!(breaks.count(), 1);
}

#[tokio::test]
async fn a_request_that_kills_whoever_reads_it_is_given_up() {
    let deadly = Backend::new(|_, _| Deed::SayAndClose(Vec::new())).await;
    let bed = Bed::serving(&[&deadly]).await;
    assert_eq!(bed.get("/").await.status(), 502);
    assert_eq!(deadly.count(), 3);
}

#[tokio::test]
async fn a_kept_connection_that_the_instance_closed_costs_nothing() {
    let backend = Backend::new(|_, _| Deed::SayAndClose(ok("once"))).await;
    let bed = Bed::serving(&[&backend]).await;
    for request in [PUT, POST, PUT, POST] {
        assert_eq!(bed.ask(request).await.text(), "once");
    }
    assert_eq!(backend.count(), 4, "nothing is told twice");
}

#[tokio::test]
async fn without_an_instance_the_answer_is_503_after_a_short_wait_and_one_that_appears_meanwhile_answers() {
    let mut bed = Bed::serving(&[]).await;
    let answer = bed.ask(POST).await;
    assert_eq!((answer.status(), answer.header("retry-after")), (503, Some("2")));
    let late = Backend::named("late").await;
    let mut client = Client::connect(bed.addr).await;
    client.send(POST).await;
    bed.place(1, ME, late.addr.port());
    bed.converge().await;
    assert_eq!(client.answer().await.text(), "ok late");
}

#[tokio::test]
async fn a_program_that_restarts_on_its_port_is_waited_for() {
    let first = Backend::named("first").await;
    let bed = Bed::serving(&[&first]).await;
    assert_eq!(bed.get("/").await.text(), "ok first");
    first.kill().await;
    let mut client = Client::connect(bed.addr).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    until(|| bed.counted("hirsel_lb_ejections_total") == 1).await;
    let _again = Backend::at(first.addr, |_, _| Deed::Say(ok("again"))).await;
    assert_eq!(client.answer().await.text(), "again");
}

#[tokio::test]
async fn a_connection_that_does_not_come_is_tried_elsewhere_soon() {
    let (cut, works) = (Backend::named("cut").await, Backend::named("b").await);
    let bed = Bed::serving(&[&cut, &works]).await;
    bed.host.cut.lock().unwrap().insert(cut.addr);
    let begun = Instant::now();
    for _ in 0..4 {
        assert_eq!(bed.get("/").await.text(), "ok b");
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(cut.count(), 0);
}

#[tokio::test]
async fn requests_that_wait_on_a_node_that_is_not_heard_any_more_are_told_elsewhere() {
    let (silent, works) = (Backend::new(|_, _| Deed::Hang).await, Backend::named("b").await);
    let mut bed = Bed::serving(&[]).await;
    bed.place(1, OTHER, silent.addr.port());
    bed.converge().await;
    let mut get = Client::connect(bed.addr).await;
    get.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut post = Client::connect(bed.addr).await;
    post.send(POST).await;
    silent.until_asked(2).await;
    bed.place(2, ME, works.addr.port());
    bed.converge().await;
    bed.suspect(OTHER, Liveness::Suspect);
    assert_eq!(get.answer().await.text(), "ok b");
    // The post waits on: the node may be heard again. Once it left the plan nothing will come.
    bed.unplace(1);
    bed.converge().await;
    assert_eq!(post.answer().await.status(), 502);
    assert_eq!(works.count(), 1);
}

#[tokio::test]
async fn a_request_that_waits_at_the_only_instance_follows_it_to_where_it_is_replaced() {
    let (silent, works) = (Backend::new(|_, _| Deed::Hang).await, Backend::named("b").await);
    let mut bed = Bed::serving(&[]).await;
    bed.place(1, OTHER, silent.addr.port());
    bed.converge().await;
    let mut client = Client::connect(bed.addr).await;
    client.send(PUT).await;
    silent.until_asked(1).await;
    bed.suspect(OTHER, Liveness::Suspect);
    bed.unplace(1);
    bed.place(2, ME, works.addr.port());
    bed.converge().await;
    assert_eq!(client.answer().await.text(), "ok b");
}

#[tokio::test]
async fn a_small_answer_that_stands_still_on_a_lost_node_is_asked_for_again() {
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
    let (stalls, works) = (Backend::new(move |_, _| Deed::Say(half.into())).await, Backend::named("b").await);
    let mut bed = Bed::serving(&[]).await;
    bed.place(1, OTHER, stalls.addr.port());
    bed.converge().await;
    let mut client = Client::connect(bed.addr).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    stalls.until_asked(1).await;
    bed.place(2, ME, works.addr.port());
    bed.converge().await;
    bed.suspect(OTHER, Liveness::Suspect);
    assert_eq!(client.answer().await.text(), "ok b");
}

#[tokio::test]
async fn nothing_new_goes_to_a_node_that_is_not_heard() {
    let (far, near) = (Backend::named("far").await, Backend::named("near").await);
    let mut bed = Bed::serving(&[&near]).await;
    bed.place(9, OTHER, far.addr.port());
    bed.converge().await;
    bed.suspect(OTHER, Liveness::Suspect);
    let mut swapped = false;
    for _ in 0..200 {
        let before = far.count();
        bed.get("/").await;
        swapped |= far.count() == before;
    }
    let settled = far.count();
    for _ in 0..50 {
        assert_eq!(bed.get("/").await.text(), "ok near");
    }
    assert!(swapped && far.count() == settled);
}

#[tokio::test]
async fn a_draining_instance_ends_its_requests_gets_no_new_ones_and_the_report_says_when_it_is_idle() {
    let held = Backend::new(|_, _| Deed::Hold(ok("held"))).await;
    let other = Backend::named("b").await;
    let mut bed = Bed::serving(&[&held]).await;
    let mut client = Client::connect(bed.addr).await;
    client.send(POST).await;
    held.until_asked(1).await;
    bed.place(2, ME, other.addr.port());
    bed.drain(1);
    let report = bed.converge().await;
    assert_eq!(report.generation, bed.order.generation);
    let RoleFacts::Lb(busy) = &report.facts else { panic!("{report:?}") };
    assert_eq!(busy.values().copied().collect::<Vec<_>>(), [1]);
    for _ in 0..20 {
        assert_eq!(bed.ask(POST).await.text(), "ok b");
    }
    held.release();
    assert_eq!(client.answer().await.text(), "held");
    bed.converge_until(|report| report.facts == RoleFacts::Lb(Default::default())).await;
    assert_eq!(held.count(), 1);
}

#[tokio::test]
async fn idle_connections_of_a_draining_instance_are_closed_before_the_report() {
    let backend = Backend::named("a").await;
    let mut bed = Bed::serving(&[&backend]).await;
    bed.get("/").await;
    assert_eq!(backend.open(), 1);
    bed.drain(1);
    bed.converge().await;
    until(|| backend.open() == 0).await;
}

/// Loads the bed with `clients` connections until told to stop; returns how many were answered well, and what was not.
struct Load {
    over: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(bed: &Bed, clients: usize, request: &'static str) -> Self {
        let (over, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let tasks = (0..clients).map(|_| {
            let (addr, over, done) = (bed.addr, over.clone(), done.clone());
            tokio::spawn(async move {
                let mut client = Client::connect(addr).await;
                let mut failed = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    client.send(request).await;
                    let answer = client.answer().await;
                    if !answer.start.contains(" 200 ") {
                        failed.push(format!("{} {}", answer.start, String::from_utf8_lossy(&answer.body)));
                        client = Client::connect(addr).await;
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
                failed
            })
        });
        let tasks = tasks.collect();
        Self { over, done, tasks }
    }

    async fn until(&self, more: u64) {
        let goal = self.done.load(Ordering::Relaxed) + more;
        until(|| self.done.load(Ordering::Relaxed) >= goal).await;
    }

    async fn stop(self) -> (u64, Vec<String>) {
        self.over.store(true, Ordering::Relaxed);
        let mut failed = Vec::new();
        for task in self.tasks {
            failed.extend(within(task).await.unwrap());
        }
        (self.done.load(Ordering::Relaxed), failed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planned_changes_under_load_cost_no_request_of_any_kind() {
    let mut running = Backend::named("1").await;
    let mut bed = Bed::serving(&[&running]).await;
    let load = Load::start(&bed, 8, POST);
    for number in 2..=20 {
        let next = Backend::named(&number.to_string()).await;
        bed.place(number, if number % 2 == 0 { OTHER } else { ME }, next.addr.port());
        bed.converge().await;
        load.until(20).await;
        bed.drain(number - 1);
        bed.converge_until(|report| {
            report.generation == bed_generation(number) && report.facts == RoleFacts::Lb(Default::default())
        })
        .await;
        running.kill().await;
        running = next;
        bed.unplace(number - 1);
        bed.converge().await;
        load.until(50).await;
    }
    let (done, failed) = load.stop().await;
    assert_eq!(failed, Vec::<String>::new(), "of {done}");
    assert!(done > 1_000, "{done}");
}

/// Generations as the story above counts them: one route, then place, drain and unplace for each instance.
fn bed_generation(number: u64) -> Generation {
    Generation(1 + 1 + 1 + (number - 2) * 3 + 2)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_instances_under_load_cost_no_idempotent_request() {
    let mut bed = Bed::serving(&[]).await;
    let mut backends = Vec::new();
    for number in 1..=3 {
        backends.push(Backend::named(&number.to_string()).await);
        bed.place(number, ME, backends.last().unwrap().addr.port());
    }
    bed.converge().await;
    let load = Load::start(&bed, 16, PUT);
    for number in 4..=15 {
        load.until(100).await;
        let next = Backend::named(&number.to_string()).await;
        let killed = std::mem::replace(&mut backends[number as usize % 3], next);
        killed.kill().await;
        load.until(100).await;
        bed.place(number, ME, backends[number as usize % 3].addr.port());
        bed.converge().await;
    }
    let (done, failed) = load.stop().await;
    assert_eq!(failed, Vec::<String>::new(), "of {done}");
    assert!(done > 2_400, "{done}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_swapped_under_load_lose_nothing() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let mut bed = Bed::serving(&[&a, &b]).await;
    let load = Load::start(&bed, 8, POST);
    let mut number = 2;
    while load.done.load(Ordering::Relaxed) < 5_000 {
        number += 1;
        // Each order gives an instance another name: old ones are closed with requests under way.
        bed.place(number, ME, if number % 2 == 0 { a.addr.port() } else { b.addr.port() });
        bed.unplace(number - 2);
        let report = bed.converge().await;
        assert_eq!(report.generation, bed.order.generation);
        tokio::task::yield_now().await;
    }
    let (done, failed) = load.stop().await;
    assert_eq!(failed, Vec::<String>::new(), "of {done} over {number} tables");
}

#[tokio::test]
async fn a_stop_ends_idle_connections_at_once_and_busy_ones_after_their_answer() {
    let held = Backend::new(|_, _| Deed::Hold(ok("held"))).await;
    let mut bed = Bed::serving(&[&held]).await;
    let mut idle = Client::connect(bed.addr).await;
    let mut busy = Client::connect(bed.addr).await;
    busy.send(POST).await;
    held.until_asked(1).await;
    let report = bed.stop().await;
    assert_eq!(report.state, RoleState::Running, "{report:?}");
    assert!(idle.is_closed().await);
    until(|| std::net::TcpStream::connect(bed.addr).is_err()).await;
    held.release();
    assert_eq!(busy.answer().await.text(), "held");
    assert!(busy.is_closed().await);
    let report = bed.converge_until(|report| report.state == RoleState::Stopped).await;
    assert_eq!(report.generation, bed.order.generation);
}

#[tokio::test]
async fn a_taken_port_is_a_failure_in_words_and_is_tried_again() {
    let addr = free_addr().await;
    let taken = std::net::TcpListener::bind(addr).unwrap();
    let mut bed = Bed::listening_on(addr).await;
    let report = bed.converge().await;
    assert_eq!(report.state, RoleState::Failed);
    let message = report.message.unwrap();
    assert!(
        message.starts_with(&format!("port {} on 127.0.0.7 is taken by another program", addr.port())),
        "{message}"
    );
    drop(taken);
    bed.converge_until(|report| report.state == RoleState::Running && report.message.is_none()).await;
}

#[tokio::test]
async fn an_upload_that_the_client_breaks_off_speaks_against_no_instance() {
    let backend = Backend::named("a").await;
    let bed = Bed::serving(&[&backend]).await;
    let mut client = Client::connect(bed.addr).await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nonly this").await;
    until(|| *backend.connections.lock().unwrap() == 1).await;
    drop(client);
    until(|| backend.open() == 0).await;
    assert_eq!(bed.get("/").await.status(), 200);
    assert_eq!(bed.counted("hirsel_lb_ejections_total"), 0);
}

//! Clients that stay with the instance that answered them first.

mod common;

use std::time::Duration;

use common::backend::Backend;
use common::wire::{Answer, Client};
use common::{Bed, ME};
use hirsel_model::InstanceId;
use hirsel_model::report::RoleFacts;

const STICKY: &str = "[route.h]\nto = \"web\"\nsticky = { cookie = \"at\" }\n";

/// A role with these routes, and these instances of `web`.
async fn bed(routes: &str, backends: &[Backend]) -> Bed {
    let mut bed = Bed::new().await;
    bed.routes(routes);
    for (number, backend) in (1..).zip(backends) {
        bed.place(number, ME, backend.addr.port());
    }
    bed.converge().await;
    bed
}

async fn backends(count: u32) -> Vec<Backend> {
    let mut backends = Vec::new();
    for number in 1..=count {
        backends.push(Backend::named(&number.to_string()).await);
    }
    backends
}

/// A browser: it sends back what it was told.
#[derive(Default)]
struct Browser {
    cookie: Option<String>,
}

impl Browser {
    /// Asks on a connection of its own; the number of whoever answers.
    async fn ask(&mut self, bed: &Bed) -> u64 {
        let answer = self.answer(bed).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        answer.text().strip_prefix("ok ").unwrap().parse().unwrap()
    }

    async fn answer(&mut self, bed: &Bed) -> Answer {
        let cookie = self.cookie.as_ref().map_or(String::new(), |cookie| format!("Cookie: lang=en; {cookie}\r\n"));
        let mut client = Client::connect(bed.addr).await;
        client.send(format!("GET / HTTP/1.1\r\nHost: h\r\n{cookie}\r\n")).await;
        let answer = client.answer().await;
        if let Some(set) = answer.header("set-cookie") {
            self.cookie = Some(set.split(';').next().unwrap().to_owned());
        }
        answer
    }
}

#[tokio::test]
async fn a_client_stays_where_it_was_answered_first_on_every_load_balancer() {
    let backends = backends(4).await;
    let (one, other) = (bed(STICKY, &backends).await, bed(STICKY, &backends).await);
    let mut used = std::collections::BTreeSet::new();
    for _ in 0..12 {
        let mut browser = Browser::default();
        let first = browser.answer(&one).await;
        let set = first.header("set-cookie").unwrap();
        assert!(set.starts_with("at=") && set.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{set}");
        assert!(!set.contains("web") && !set.contains("127."), "{set}");
        let at: u64 = first.text().strip_prefix("ok ").unwrap().parse().unwrap();
        for bed in [&one, &other, &one, &other] {
            let answer = browser.answer(bed).await;
            assert_eq!((answer.text(), answer.header("set-cookie")), (format!("ok {at}").as_str(), None));
        }
        used.insert(at);
    }
    assert!(used.len() > 1, "new ones are shared: {used:?}");
}

#[tokio::test]
async fn a_client_whose_instance_died_is_answered_elsewhere_and_stays_there() {
    let backends = backends(3).await;
    let bed = bed(STICKY, &backends).await;
    let mut browser = Browser::default();
    let first = browser.ask(&bed).await;
    let before = browser.cookie.clone();
    backends[first as usize - 1].kill().await;
    let second = browser.ask(&bed).await;
    assert!(second != first && browser.cookie != before);
    for _ in 0..10 {
        assert_eq!(browser.ask(&bed).await, second);
    }
}

#[tokio::test]
async fn an_instance_that_drains_keeps_its_sessions_gets_no_new_ones_and_ends_when_they_do() {
    let backends = backends(2).await;
    let mut bed = bed(STICKY, &backends).await;
    let mut browser = Browser::default();
    let at = browser.ask(&bed).await;
    let id: InstanceId = format!("shop/web/{at}").parse().unwrap();
    bed.drain(at);
    let report = bed.converge().await;
    assert_eq!(report.facts, RoleFacts::Lb([(id.clone(), 1)].into()), "it is not to be stopped yet");
    for _ in 0..10 {
        assert_eq!(browser.ask(&bed).await, at, "its session stays");
        assert_ne!(Browser::default().ask(&bed).await, at, "nobody else comes");
    }
    // Nobody asks for a while: there is no session any more.
    bed.clock.by(Duration::from_secs(11));
    bed.converge_until(|report| report.facts == RoleFacts::Lb(Default::default())).await;
    backends[at as usize - 1].kill().await;
    let before = browser.cookie.clone();
    assert!(browser.ask(&bed).await != at && browser.cookie != before);
}

#[tokio::test]
async fn an_instance_without_sessions_drains_at_once() {
    let backends = backends(2).await;
    let mut bed = bed(STICKY, &backends).await;
    bed.drain(1);
    assert_eq!(bed.converge().await.facts, RoleFacts::Lb(Default::default()));
}

#[tokio::test]
async fn a_session_takes_the_share_of_a_route_that_it_began_in() {
    let routes = "[route.h]\nto = { web = 50, next = 50 }\nsticky = { cookie = \"at\" }\n";
    let backends = backends(2).await;
    let mut bed = bed(routes, &backends).await;
    let next = [Backend::named("3").await, Backend::named("4").await];
    for (number, backend) in (3..).zip(&next) {
        bed.place_as("next", number, ME, backend.addr.port());
    }
    bed.converge().await;
    for _ in 0..8 {
        let mut browser = Browser::default();
        let first = browser.ask(&bed).await;
        for _ in 0..5 {
            assert_eq!(browser.ask(&bed).await, first);
        }
    }
}

#[tokio::test]
async fn programs_outside_have_sessions_too() {
    let backends = backends(3).await;
    let to: Vec<_> = backends.iter().map(|it| format!("\"http://{}\"", it.addr)).collect();
    let bed = bed(&format!("[route.h]\nto = [{}]\nsticky = {{ cookie = \"at\" }}\n", to.join(", ")), &[]).await;
    let mut browser = Browser::default();
    let first = browser.ask(&bed).await;
    for _ in 0..10 {
        assert_eq!(browser.ask(&bed).await, first);
    }
}

//! Who answers which request, as a route shares them.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::backend::{Backend, Deed, ok};
use common::wire::Client;
use common::{Bed, ME};

/// A role with these routes, and instances 1 to `count` of `web` that say their number.
async fn bed(routes: &str, count: u64) -> (Bed, Vec<Backend>) {
    let mut bed = Bed::new().await;
    bed.routes(routes);
    let mut backends = Vec::new();
    for number in 1..=count {
        let backend = Backend::named(&number.to_string()).await;
        bed.place(number, ME, backend.addr.port());
        backends.push(backend);
    }
    bed.converge().await;
    (bed, backends)
}

/// Who answers, by number.
async fn ask(client: &mut Client, path: &str, lines: &str) -> u64 {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n{lines}\r\n")).await;
    let answer = client.answer().await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    answer.text().strip_prefix("ok ").unwrap().parse().unwrap()
}

fn counts(backends: &[Backend]) -> Vec<usize> {
    backends.iter().map(Backend::count).collect()
}

#[tokio::test]
async fn each_instance_takes_its_turn() {
    let (mut bed, backends) = bed("[route.h]\nto = \"web\"\nbalance = \"round-robin\"\n", 3).await;
    let mut client = Client::connect(bed.addr).await;
    for _ in 0..30 {
        ask(&mut client, "/", "").await;
    }
    assert_eq!(counts(&backends), [10, 10, 10]);
    bed.drain(2);
    bed.converge().await;
    for _ in 0..30 {
        ask(&mut client, "/", "").await;
    }
    assert_eq!(counts(&backends), [25, 10, 25]);
}

#[tokio::test]
async fn users_stay_where_they_are_when_the_instance_of_others_dies() {
    let (bed, backends) = bed("[route.h]\nto = \"web\"\nbalance = { hash = { header = \"x-user\" } }\n", 4).await;
    let mut client = Client::connect(bed.addr).await;
    let mut at = BTreeMap::new();
    for user in 0..40 {
        at.insert(user, ask(&mut client, "/", &format!("X-User: u{user}\r\n")).await);
    }
    assert_eq!(at.values().collect::<std::collections::BTreeSet<_>>().len(), 4, "{at:?}");
    backends[1].kill().await;
    for (user, before) in at {
        for path in ["/", "/other"] {
            let now = ask(&mut client, path, &format!("X-User: u{user}\r\n")).await;
            assert!(now != 2 && (before == 2 || now == before), "u{user} from {before} to {now}");
        }
    }
}

#[tokio::test]
async fn requests_that_are_alike_take_the_same_share_of_a_route() {
    let routes = "[route.h]\nto = { web = 50, next = 50 }\nbalance = { hash = { cookie = \"sid\" } }\n";
    let (mut bed, _backends) = bed(routes, 2).await;
    let next = [Backend::named("3").await, Backend::named("4").await];
    for (number, backend) in (3..).zip(&next) {
        bed.place_as("next", number, ME, backend.addr.port());
    }
    bed.converge().await;
    let mut client = Client::connect(bed.addr).await;
    let mut used = std::collections::BTreeSet::new();
    for user in 0..30 {
        let cookie = format!("Cookie: a=b; sid=s{user}\r\n");
        let first = ask(&mut client, "/", &cookie).await;
        for _ in 0..3 {
            assert_eq!(ask(&mut client, "/", &cookie).await, first);
        }
        used.insert(first);
    }
    assert_eq!(used, [1, 2, 3, 4].into());
}

#[tokio::test]
async fn the_instance_with_the_fewest_requests_takes_the_next() {
    let mut bed = Bed::new().await;
    bed.routes("[route.h]\nto = \"web\"\nbalance = \"least-requests\"\n");
    let backends = [0; 3].map(|_| Backend::new(|_, _| Deed::Hold(ok("late"))));
    let backends = futures::future::join_all(backends).await;
    for (number, backend) in (1..).zip(&backends) {
        bed.place(number, ME, backend.addr.port());
    }
    bed.converge().await;
    let mut clients = Vec::new();
    for at in 1..=12 {
        let mut client = Client::connect(bed.addr).await;
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
        common::until(|| counts(&backends).iter().sum::<usize>() == at).await;
        clients.push(client);
    }
    assert_eq!(counts(&backends), [4, 4, 4]);
    backends.iter().for_each(Backend::release);
    for client in &mut clients {
        assert_eq!(client.answer().await.text(), "late");
    }
}

#[tokio::test]
async fn an_instance_that_comes_later_gets_a_growing_share() {
    let routes = "[route.h]\nto = \"web\"\nbalance = \"round-robin\"\nslow_start = \"60s\"\n";
    let (mut bed, mut backends) = bed(routes, 3).await;
    bed.clock.by(Duration::from_secs(60));
    let late = Backend::named("4").await;
    bed.place(4, ME, late.addr.port());
    backends.push(late);
    bed.converge().await;
    let mut client = Client::connect(bed.addr).await;
    let mut shares = Vec::new();
    for _ in 0..3 {
        let before = backends[3].count();
        for _ in 0..200 {
            ask(&mut client, "/", "").await;
        }
        shares.push(backends[3].count() - before);
        bed.clock.by(Duration::from_secs(30));
    }
    // Of 200 a quarter is its share in the end.
    assert!((1..=18).contains(&shares[0]) && (18..=42).contains(&shares[1]), "{shares:?}");
    assert_eq!(shares[2], 50);
    // One whose program was started anew is new again.
    let again = Backend::named("1").await;
    bed.place(1, ME, again.addr.port());
    bed.converge().await;
    for _ in 0..200 {
        ask(&mut client, "/", "").await;
    }
    assert!((1..=18).contains(&again.count()), "{}", again.count());
}

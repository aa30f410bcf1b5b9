//! Which requests a route takes, as a client sees it: hosts, paths, methods, header fields, shares, addresses outside, and spellings
//! of a path that lead around no rule.

mod common;

use common::backend::{Backend, Deed};
use common::{Bed, ME};

/// A role with these routes, over services that answer `ok NAME`.
async fn bed(routes: &str) -> (Bed, Vec<Backend>) {
    let mut bed = Bed::new().await;
    bed.routes(routes);
    let mut backends = Vec::new();
    for (number, name) in (1..).zip(["web", "api", "next", "admin"]) {
        let backend = Backend::named(name).await;
        bed.place_as(name, number, ME, backend.addr.port());
        backends.push(backend);
    }
    bed.converge().await;
    (bed, backends)
}

/// The first line of the answer.
async fn ask(bed: &Bed, start: &str, host: &str, lines: &str) -> String {
    let answer = bed.ask(&format!("{start} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n")).await;
    answer.text().lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn host_path_method_header_and_query_choose_the_service() {
    let (bed, _backends) = bed(r#"
[route."shop.test"]
to = "web"
[[route."shop.test".rule]]
path = "/api/*"
method = ["GET", "HEAD"]
to = "api"
[[route."shop.test".rule]]
header = { x-canary = "1" }
to = "next"
[[route."shop.test".rule]]
path_regex = '^/u/[0-9]+$'
query = { edit = true }
to = "admin"
[route."*.shop.test"]
to = "api"
"#)
    .await;
    assert_eq!(ask(&bed, "GET /", "shop.test", "").await, "ok web");
    assert_eq!(ask(&bed, "GET /api/v1", "shop.test", "").await, "ok api");
    assert_eq!(ask(&bed, "DELETE /api/v1", "shop.test", "").await, "ok web");
    assert_eq!(ask(&bed, "GET /x", "shop.test", "X-Canary: 1\r\n").await, "ok next");
    assert_eq!(ask(&bed, "GET /u/77?edit", "shop.test", "").await, "ok admin");
    assert_eq!(ask(&bed, "GET /u/77", "shop.test", "").await, "ok web");
    assert_eq!(ask(&bed, "GET /", "a.shop.test", "").await, "ok api");
    assert_eq!(ask(&bed, "GET /", "a.b.shop.test", "").await, "404 Not Found");
    assert_eq!(ask(&bed, "GET /", "test", "").await, "404 Not Found");
}

#[tokio::test]
async fn no_spelling_of_a_path_leads_around_a_rule() {
    let (bed, backends) = bed(r#"
[route."h"]
to = "web"
[route."h/admin"]
to = "admin"
"#)
    .await;
    for path in [
        "/static/../admin",
        "/static/%2e%2e/admin",
        "/static/..%2fadmin",
        "/static/..;/admin",
        "/static/..\\admin",
        "//admin",
        "/./admin",
        "/%61dmin",
        "/%2561dmin",
        "/admin;x",
        "/admin%2f",
    ] {
        assert_eq!(ask(&bed, &format!("GET {path}"), "h", "").await, "400 Bad Request", "{path}");
        assert_eq!(ask(&bed, &format!("GET http://h{path}"), "x", "").await, "400 Bad Request", "absolute {path}");
    }
    assert!(backends.iter().all(|backend| backend.count() == 0), "nothing was passed on");
    for path in ["/a%20b//c/../d", "/admin/%61//b"] {
        ask(&bed, &format!("GET {path}"), "h", "").await;
    }
    assert_eq!(backends[0].request(0).path(), "/a%20b//c/../d", "what is clear is passed on as it was sent");
    assert_eq!(backends[3].request(0).path(), "/admin/%61//b");
}

#[tokio::test]
async fn services_share_requests_by_weight_and_stand_in_for_each_other() {
    let (mut bed, backends) = bed("[route.h]\nto = { web = 3, next = 1 }\n").await;
    for _ in 0..200 {
        ask(&bed, "GET /", "h", "").await;
    }
    let counts = (backends[0].count(), backends[2].count());
    assert!(counts.0 + counts.1 == 200 && (20..=80).contains(&counts.1), "{counts:?}");
    bed.unplace(1);
    bed.converge().await;
    for _ in 0..20 {
        assert_eq!(ask(&bed, "GET /", "h", "").await, "ok next");
    }
}

#[tokio::test]
async fn an_address_outside_answers_and_one_that_fails_is_left_alone() {
    let (first, second) = (Backend::named("one").await, Backend::named("two").await);
    let mut bed = Bed::new().await;
    bed.routes(&format!("[route.h]\nto = [\"http://{}\", \"http://{}\"]\n", first.addr, second.addr));
    bed.converge().await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..50 {
        seen.insert(ask(&bed, "GET /", "h", "").await);
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert_eq!(first.request(0).header("host"), Some("h"));
    first.kill().await;
    for _ in 0..50 {
        assert_eq!(ask(&bed, "GET /", "h", "").await, "ok two");
    }
    // One that is not named any more gets no request, and what stays keeps its connections.
    let connections = *second.connections.lock().unwrap();
    bed.routes(&format!("[route.h]\nto = \"http://{}\"\n", second.addr));
    bed.converge().await;
    assert_eq!(ask(&bed, "GET /", "h", "").await, "ok two");
    assert_eq!(*second.connections.lock().unwrap(), connections);
    second.kill().await;
    assert_eq!(ask(&bed, "POST /", "h", "Content-Length: 0\r\n").await, "503 Service Unavailable");
}

#[tokio::test]
async fn an_address_outside_that_says_nothing_sensible_is_told_as_such() {
    let odd = Backend::new(|_, _| Deed::SayAndClose(b"hello\r\n\r\n".to_vec())).await;
    let mut bed = Bed::new().await;
    bed.routes(&format!("[route.h]\nto = \"http://{}\"\n", odd.addr));
    bed.converge().await;
    let answer = bed.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(answer.status(), 502);
    assert!(answer.text().contains("outside the cluster"), "{}", answer.text());
}

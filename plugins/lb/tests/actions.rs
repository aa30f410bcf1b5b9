//! What a route does with its requests, as a client and an instance see it.

mod common;

use common::backend::{Backend, Deed, ok};
use common::wire::{Answer, Client};
use common::{Bed, ME};

/// A role with these routes, over one instance of each service that answers `ok`.
async fn bed(routes: &str) -> (Bed, Backend) {
    let backend = Backend::new(|request, _| {
        let head = "HTTP/1.1 200 OK\r\nServer: old\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: ";
        Deed::Say(format!("{head}{}\r\n\r\n{}", request.path().len(), request.path()).into_bytes())
    })
    .await;
    let mut bed = Bed::new().await;
    bed.routes(routes);
    for (number, name) in (1..).zip(["web", "api", "next", "admin"]) {
        bed.place_as(name, number, ME, backend.addr.port());
    }
    bed.converge().await;
    (bed, backend)
}

async fn ask(bed: &Bed, start: &str, host: &str, lines: &str) -> Answer {
    bed.ask(&format!("{start} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n")).await
}

#[tokio::test]
async fn a_redirect_leads_elsewhere_and_reaches_no_instance() {
    let (bed, backend) = bed(r#"
[route."old.test"]
redirect = { to = "https://www.new.test", status = 308 }
[route."plain.test"]
to = "web"
redirect = "https"
[route."here.test/docs"]
redirect = { strip_prefix = true, add_prefix = "/manual", status = 301 }
[route."one.test"]
redirect = "/new?x=1"
"#)
    .await;
    let to = async |start: &str, host: &str| {
        let answer = ask(&bed, start, host, "").await;
        (answer.status(), answer.header("location").unwrap_or("-").to_owned())
    };
    assert_eq!(to("GET /a/b?c=%20", "old.test").await, (308, "https://www.new.test/a/b?c=%20".into()));
    assert_eq!(to("POST /a", "Plain.test:8080").await, (302, format!("https://plain.test:{}/a", bed.https.port())));
    assert_eq!(
        to("GET //evil.test/a", "plain.test").await,
        (302, format!("https://plain.test:{}/evil.test/a", bed.https.port()))
    );
    assert_eq!(to("GET /docs/x", "here.test").await, (301, "/manual/x".into()));
    assert_eq!(to("GET /docs//evil.test", "here.test").await, (301, "/manual/evil.test".into()));
    assert_eq!(to("GET /?y", "one.test").await, (302, "/new?x=1".into()));
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn an_answer_that_is_known_needs_no_instance() {
    let (bed, backend) = bed(r#"
[route.h]
respond = { status = 503, body = "back at nine\n", headers = { Retry-After = "3600" } }
[[route.h.rule]]
path = "/robots.txt"
respond = { body = "User-agent: *\n", headers = { content-type = "text/x-robots" } }
[[route.h.rule]]
path = "/empty"
respond = { status = 204 }
"#)
    .await;
    let mut client = Client::connect(bed.addr).await;
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.status(), answer.text(), answer.header("retry-after")),
            (503, "back at nine\n", Some("3600"))
        );
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    }
    client.send("HEAD /robots.txt HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.status(), answer.header("content-type")), (200, Some("text/x-robots")));
    client.send("GET /empty HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(client.answer().await.status(), 204);
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn a_rewritten_path_reaches_the_instance() {
    let (bed, backend) = bed(r#"
[route."h/api"]
to = "api"
rewrite = { strip_prefix = true, add_prefix = "/v2" }
[[route.h.rule]]
path_regex = '^/u/([0-9]+)'
rewrite = { regex = '^/u/([0-9]+)', replace = "/users/$1" }
to = "web"
[[route.h.rule]]
path = "/app/*"
rewrite = { path = "/index.html" }
to = "web"
"#)
    .await;
    for (path, reached) in [
        ("/api/items?q=%2F", "/v2/items?q=%2F"),
        ("/api", "/v2"),
        ("/api//evil.test", "/v2/evil.test"),
        ("/u/77/edit?x", "/users/77/edit?x"),
        ("/app/deep/link", "/index.html"),
    ] {
        assert_eq!(ask(&bed, &format!("GET {path}"), "h", "").await.text(), reached);
    }
    // Nothing leads out of what was stripped.
    let before = backend.count();
    for path in ["/api/../admin", "/api/%2e%2e/admin", "/api/..%2fadmin"] {
        assert_eq!(ask(&bed, &format!("GET {path}"), "h", "").await.status(), 400, "{path}");
    }
    assert_eq!(backend.count(), before);
}

#[tokio::test]
async fn a_request_does_not_step_out_of_where_its_path_was_put() {
    let (bed, backend) = bed("[route.h]\nto = \"web\"\nrewrite = { add_prefix = \"/public\" }\n").await;
    assert_eq!(ask(&bed, "GET /a%2Fb/c..d", "h", "").await.text(), "/public/a%2Fb/c..d");
    let before = backend.count();
    for path in ["/../secret", "/x/%2e%2e/%2e%2e/secret", "/..;/secret", "/%252e%252e/secret", "/x/..%5c..%5csecret"] {
        assert_eq!(ask(&bed, &format!("GET {path}"), "h", "").await.status(), 400, "{path}");
    }
    assert_eq!(backend.count(), before);
}

#[tokio::test]
async fn header_fields_are_set_added_and_removed_in_both_directions() {
    let (bed, backend) = bed(r#"
[route.h]
to = "web"
request_headers = { set = { Host = "inner.test", X-Tenant = "shop" }, add = { x-more = "2" }, remove = ["cookie"] }
response_headers = { set = { Strict-Transport-Security = "max-age=60" }, remove = ["server"] }
"#)
    .await;
    let answer = ask(&bed, "GET /", "h", "X-Tenant: evil\r\nX-More: 1\r\nCookie: a\r\n").await;
    assert_eq!(answer.header("strict-transport-security"), Some("max-age=60"));
    assert_eq!(answer.header("server"), None);
    let seen = backend.request(0);
    assert_eq!((seen.header("host"), seen.header("x-forwarded-host")), (Some("inner.test"), Some("h")));
    assert_eq!((seen.header("x-tenant"), seen.header("cookie")), (Some("shop"), None));
    let more: Vec<_> =
        seen.headers.iter().filter(|(name, _)| name == "x-more").map(|(_, value)| value.as_str()).collect();
    assert_eq!(more, ["1", "2"]);
    // Pages of our own are answers too.
    bed.host.cut.lock().unwrap().insert(backend.addr);
    backend.kill().await;
    let answer = ask(&bed, "POST /", "h", "Content-Length: 0\r\n").await;
    assert_eq!((answer.status(), answer.header("strict-transport-security")), (503, Some("max-age=60")));
}

#[tokio::test]
async fn only_users_with_a_password_reach_what_is_protected_whatever_the_spelling() {
    // PBKDF2 of "right" with 1000 rounds and the salt "salt".
    let (bed, backend) = bed(r#"
[route.h]
to = "web"
[route."h/admin"]
to = "admin"
basic_auth = { realm = "staff", users = { anna = "$pbkdf2-sha256$i=1000$c2FsdA$Q/9Kvus9r/Z5pRD/V9eBFX31v5LhSkQG2Q44eDQAprk" } }
"#)
    .await;
    let answer = ask(&bed, "GET /admin", "h", "").await;
    assert_eq!(answer.status(), 401);
    assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"staff\", charset=\"UTF-8\""));
    assert_eq!(ask(&bed, "GET /admin", "h", "Authorization: Basic YW5uYTp3cm9uZw==\r\n").await.status(), 401);
    for path in ["//admin", "/x/../admin", "/%61dmin", "/admin;x", "/x/%2e%2e/admin", "/admin%2fx", "/./admin"] {
        let status = ask(&bed, &format!("GET {path}"), "h", "").await.status();
        assert!(matches!(status, 400 | 401), "{path}: {status}");
    }
    assert_eq!(backend.count(), 0);
    let right = "Authorization: Basic YW5uYTpyaWdodA==\r\nX-Forwarded-User: root\r\n";
    for _ in 0..2 {
        assert_eq!(ask(&bed, "GET /admin/x", "h", right).await.status(), 200);
    }
    let seen = backend.request(0);
    assert_eq!((seen.header("authorization"), seen.header("x-forwarded-user")), (None, Some("anna")));
    assert_eq!(ask(&bed, "GET /", "h", "").await.status(), 200, "the rest is open");
}

#[tokio::test]
async fn clients_are_refused_by_their_address() {
    let (bed, backend) = bed(r#"
[route.deny]
to = "web"
deny = "127.0.0.0/8"
[route.allow]
to = "web"
allow = ["10.0.0.0/8", "fd00::/8"]
[route.both]
to = "web"
allow = ["127.0.0.1"]
deny = ["10.0.0.0/8"]
"#)
    .await;
    let forged = "X-Forwarded-For: 10.0.0.1\r\n";
    assert_eq!(ask(&bed, "GET /", "deny", forged).await.status(), 403);
    assert_eq!(ask(&bed, "GET /", "allow", forged).await.status(), 403, "what a client says of itself does not count");
    assert_eq!(backend.count(), 0);
    assert_eq!(ask(&bed, "GET /", "both", forged).await.status(), 200);
}

#[tokio::test]
async fn pages_of_other_origins_ask_as_far_as_they_may() {
    let (bed, backend) = bed(r#"
[route.h]
to = "web"
cors = { origins = ["https://app.test", "https://*.app.test"], methods = ["PUT"], headers = ["X-Token"], expose = ["x-count"], credentials = true, max_age = "10m" }
basic_auth = { users = { anna = "$pbkdf2-sha256$i=1000$c2FsdA$Q/9Kvus9r/Z5pRD/V9eBFX31v5LhSkQG2Q44eDQAprk" } }
"#)
    .await;
    let asks = "Access-Control-Request-Method: PUT\r\n";
    let answer = ask(&bed, "OPTIONS /", "h", &format!("Origin: https://app.test\r\n{asks}")).await;
    assert_eq!((answer.status(), answer.body.len()), (204, 0));
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.test"));
    assert_eq!(answer.header("access-control-allow-methods"), Some("GET, HEAD, POST, PUT"));
    assert_eq!(answer.header("access-control-allow-headers"), Some("x-token"));
    assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(answer.header("access-control-max-age"), Some("600"));
    assert_eq!(answer.header("vary"), Some("Origin"));
    let answer = ask(&bed, "OPTIONS /", "h", &format!("Origin: https://evil.test\r\n{asks}")).await;
    assert_eq!((answer.status(), answer.header("access-control-allow-origin")), (403, None));
    assert_eq!(backend.count(), 0);
    let right = "Authorization: Basic YW5uYTpyaWdodA==\r\n";
    let answer = ask(&bed, "GET /", "h", &format!("Origin: https://x.app.test\r\n{right}")).await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://x.app.test"));
    assert_eq!(answer.header("access-control-expose-headers"), Some("x-count"));
    let answer = ask(&bed, "GET /", "h", &format!("Origin: https://evil.test\r\n{right}")).await;
    assert_eq!((answer.status(), answer.header("access-control-allow-origin")), (200, None));
    let answer = ask(&bed, "GET /", "h", "Origin: https://app.test\r\n").await;
    assert_eq!((answer.status(), answer.header("access-control-allow-origin")), (401, Some("https://app.test")));
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_however_it_comes() {
    let (bed, backend) = bed("[route.h]\nto = \"web\"\nbody_max = \"10B\"\n").await;
    let post =
        |length: usize| format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length));
    assert_eq!(bed.ask(&post(10)).await.status(), 200);
    assert_eq!(bed.ask(&post(11)).await.status(), 413);
    assert_eq!(bed.ask(&post(300_000)).await.status(), 413);
    assert_eq!(backend.count(), 1);
    let chunked = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(bed.ask(&format!("{chunked}5\r\nabcde\r\n5\r\nabcde\r\n0\r\n\r\n")).await.status(), 200);
    assert_eq!(bed.ask(&format!("{chunked}5\r\nabcde\r\n6\r\nabcdef\r\n0\r\n\r\n")).await.status(), 413);
    assert_eq!(backend.count(), 2, "what was cut off is no request");
    assert_eq!(bed.ask(&post(3)).await.status(), 200, "and the instance was not at fault");
}

#[tokio::test]
async fn an_answer_that_does_not_begin_in_time_is_not_waited_for() {
    let slow = Backend::new(|request, _| match request.path() {
        "/hang" => Deed::Hang,
        _ => Deed::Say(ok("quick")),
    })
    .await;
    let mut bed = Bed::new().await;
    bed.routes("[route.h]\nto = \"web\"\ntimeout = \"50ms\"\n");
    bed.place(1, ME, slow.addr.port());
    bed.converge().await;
    let answer = ask(&bed, "POST /hang", "h", "Content-Length: 0\r\n").await;
    assert_eq!((answer.status(), answer.text().lines().next()), (504, Some("504 Gateway Timeout")));
    assert_eq!(ask(&bed, "GET /", "h", "").await.text(), "quick");
}

#[tokio::test]
async fn whoever_asks_too_often_waits_and_a_new_table_forgets_nobody() {
    let limit = "rate_limit = { requests = 2, per = \"1h\" }\n";
    let (mut bed, backend) = bed(&format!("[route.h]\nto = \"web\"\n{limit}[route.other]\nto = \"web\"\n")).await;
    assert_eq!(ask(&bed, "GET /", "h", "").await.status(), 200);
    assert_eq!(ask(&bed, "GET /", "h", "").await.status(), 200);
    let answer = ask(&bed, "GET /", "h", "").await;
    assert_eq!(answer.status(), 429);
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1_700..=1_800).contains(&wait), "{wait}");
    assert_eq!(ask(&bed, "GET /", "other", "").await.status(), 200);
    // Another order with the same route, and with another limit.
    bed.routes(&format!("[route.first]\nto = \"web\"\n[route.h]\nto = \"api\"\n{limit}"));
    bed.converge().await;
    assert_eq!(ask(&bed, "GET /", "h", "").await.status(), 429);
    bed.routes("[route.h]\nto = \"web\"\nrate_limit = { requests = 3, per = \"1h\", by = \"route\" }\n");
    bed.converge().await;
    assert_eq!(ask(&bed, "GET /", "h", "").await.status(), 200);
    assert_eq!(backend.count(), 4);
}

#[tokio::test]
async fn an_upgrade_passes_through_actions() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    let backend = Backend::new(move |_, _| Deed::Echo(switch.into())).await;
    let mut bed = Bed::new().await;
    bed.routes("[route.h]\nto = \"web\"\nrewrite = { add_prefix = \"/ws\" }\nresponse_headers = { set = { x-a = \"1\" } }\ntimeout = \"10s\"\n");
    bed.place(1, ME, backend.addr.port());
    bed.converge().await;
    let mut client = Client::connect(bed.addr).await;
    client.send("GET /chat HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.status(), answer.header("x-a")), (101, Some("1")));
    assert_eq!(backend.request(0).path(), "/ws/chat");
    client.send("hello").await;
    let mut stream = client.into_stream();
    let mut echoed = [0; 5];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut echoed).await.unwrap();
    assert_eq!(&echoed, b"hello");
}

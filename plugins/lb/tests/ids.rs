//! By what a request is known, as its client and the instance that works on it see it.

mod common;

use common::backend::Backend;
use common::{Bed, ME};

const CAME: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

async fn bed(routes: &str) -> (Bed, Backend) {
    let backend = Backend::named("a").await;
    let mut bed = Bed::new().await;
    bed.routes(routes);
    bed.place(1, ME, backend.addr.port());
    bed.converge().await;
    (bed, backend)
}

/// Asks with these header fields, and gives what the client and what the instance were told by this name.
async fn told(bed: &Bed, backend: &Backend, lines: &str, name: &str) -> (Option<String>, Option<String>) {
    let before = backend.count();
    let answer = bed.ask(&format!("GET / HTTP/1.1\r\nHost: h\r\n{lines}\r\n")).await;
    assert_eq!(answer.status(), 200);
    let request = backend.request(before);
    (answer.header(name).map(str::to_owned), request.header(name).map(str::to_owned))
}

#[tokio::test]
async fn client_and_instance_are_told_one_id() {
    let (bed, backend) = bed("[route.h]\nto = \"web\"\n").await;
    let (client, instance) = told(&bed, &backend, "", "x-request-id").await;
    assert_eq!(client, instance);
    assert_eq!(client.as_ref().map(String::len), Some(32));
    let (again, _) = told(&bed, &backend, "", "x-request-id").await;
    assert_ne!(again, client);
    let (client, instance) = told(&bed, &backend, "X-Request-Id: 3f2a9c1e-7d4b\r\n", "x-request-id").await;
    assert_eq!((client.as_deref(), instance.as_deref()), (Some("3f2a9c1e-7d4b"), Some("3f2a9c1e-7d4b")));
    let (client, instance) = told(&bed, &backend, "X-Request-Id: a\" or 1=1\r\n", "x-request-id").await;
    assert_eq!((client.as_ref().map(String::len), &client), (Some(32), &instance));
    // Nobody takes it away from the instance by calling it a matter of this hop.
    let (_, instance) = told(&bed, &backend, "Connection: x-request-id, traceparent\r\n", "x-request-id").await;
    assert_eq!(instance.map(|id| id.len()), Some(32));
}

#[tokio::test]
async fn an_answer_of_our_own_has_an_id_too() {
    let (bed, _backend) = bed("[route.\"h/a\"]\nrespond = { body = \"x\" }\n").await;
    for path in ["/a", "/nowhere"] {
        let answer = bed.ask(&format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")).await;
        assert_eq!(answer.header("x-request-id").map(str::len), Some(32), "{path}");
    }
}

#[tokio::test]
async fn a_trace_is_continued_or_begun_as_the_route_says() {
    let routes = "[route.h]\nto = \"web\"\n[[route.h.rule]]\nheader = { x-none = true }\ntrace = false\n\
                  [[route.h.rule]]\nheader = { x-unsampled = true }\ntrace = 0\nbody_max = \"1MiB\"\n";
    let (bed, backend) = bed(routes).await;
    let (client, instance) = told(&bed, &backend, "", "traceparent").await;
    assert_eq!(client, None, "that is between us and the instance");
    assert!(instance.is_some_and(|parent| parent.starts_with("00-") && parent.ends_with("-01") && parent.len() == 55));
    let lines = format!("Traceparent: {CAME}\r\nTracestate: a=1\r\n");
    let instance = told(&bed, &backend, &lines, "traceparent").await.1.expect("a trace");
    assert_eq!((&instance[..36], &instance[52..]), (&CAME[..36], "-01"));
    assert_ne!(instance, CAME, "under a parent of its own");
    assert_eq!(told(&bed, &backend, &lines, "tracestate").await.1.as_deref(), Some("a=1"));
    let wrong = lines.replace("4bf9", "4BF9");
    let instance = told(&bed, &backend, &wrong, "traceparent").await.1.expect("a trace");
    assert_ne!(instance[..36], CAME[..36]);
    assert_eq!(told(&bed, &backend, &wrong, "tracestate").await.1, None);
    let none = format!("X-None: 1\r\n{wrong}");
    assert_eq!(told(&bed, &backend, &none, "traceparent").await.1, Some(CAME.replace("4bf9", "4BF9")));
    assert_eq!(told(&bed, &backend, "X-None: 1\r\n", "traceparent").await.1, None);
    let instance = told(&bed, &backend, "X-Unsampled: 1\r\n", "traceparent").await.1.expect("a trace");
    assert!(instance.ends_with("-00"), "{instance}");
}

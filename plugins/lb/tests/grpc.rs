//! gRPC from end to end, by the library that people use on both sides, and what the load balancer says of itself to those who call.

mod common;

use std::process::Stdio;

use bytes::Bytes;
use common::frames::*;
use common::{Bed, ME, until, within};
use hirsel_model::report::RoleState;
use hirsel_model::spec::AppProtocol;
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/grpc_peer.py");

/// A python that has the library; none where it is missing, unless it must not be.
fn python() -> Option<&'static str> {
    let has = |python: &&str| {
        let mut command = std::process::Command::new(python);
        command.args(["-c", "import grpc"]).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let found = ["/usr/bin/python3", "python3"].into_iter().find(has);
    assert!(found.is_some() || std::env::var("HIRSEL_REQUIRE").as_deref() != Ok("all"), "needs python3-grpcio");
    if found.is_none() {
        eprintln!("skipped: python3 has no grpc");
    }
    found
}

/// The program, and what it says.
async fn program(python: &str) -> (Child, Lines<BufReader<ChildStdout>>, u16) {
    let mut command = Command::new(python);
    command.args([SCRIPT, "serve", "127.0.0.1", "0"]).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = within(lines.next_line()).await.unwrap().expect("it says that it is ready");
    (child, lines, line.strip_prefix("ready ").unwrap().parse().unwrap())
}

async fn client(python: &str, does: &str, bed: &Bed) -> Vec<String> {
    let mut command = Command::new(python);
    command.args([SCRIPT, does, "127.0.0.7", &bed.addr.port().to_string()]).kill_on_drop(true);
    let output = tokio::time::timeout(std::time::Duration::from_secs(120), command.output()).await.unwrap().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said.lines().map(str::to_owned).collect()
}

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
async fn calls_of_every_kind_pass_with_their_deadlines_and_what_comes_behind() {
    let Some(python) = python() else { return };
    let (_child, mut lines, port) = program(python).await;
    let bed = serving(&[port]).await;
    let said = client(python, "call", &bed).await;
    assert_eq!(
        said,
        [
            "unary hello|mine|60 here 000102 OK",
            "fails FAILED_PRECONDITION not 100 % so, \u{fc}",
            "counts 12497500",
            "adds 3000000",
            "echoes 200 199",
            "late DEADLINE_EXCEEDED",
            "unknown UNIMPLEMENTED",
            "large 3000005",
            "many 500",
        ]
    );
    // Both calls that were given up, by the time and by the client, were given up there too.
    let mut given_up = 0;
    while given_up < 2 {
        let line = within(lines.next_line()).await.unwrap().expect("it goes on");
        given_up += usize::from(line == "given up");
    }
}

#[tokio::test]
async fn whoever_calls_is_told_what_the_load_balancer_has_to_say_in_its_words() {
    let Some(python) = python() else { return };
    let mut bed = serving(&[]).await;
    let said = client(python, "refused", &bed).await;
    assert!(said[0].starts_with("UNAVAILABLE no instance of shop/web takes requests now"), "{said:?}");
    bed.routes("[route.\"other.example\"]\nto = \"web\"\n");
    bed.converge().await;
    let said = client(python, "refused", &bed).await;
    assert!(said[0].starts_with("UNIMPLEMENTED no application is routed at"), "{said:?}");
    bed.routes("[route.\"*\"]\nto = \"web\"\ndeny = [\"127.0.0.0/8\"]\nerror_pages = { 403 = { body = \"<p>no\" } }\n");
    bed.converge().await;
    let said = client(python, "refused", &bed).await;
    assert!(said[0].starts_with("PERMISSION_DENIED "), "{said:?}");
}

fn call(path: &str) -> Request<()> {
    let mut call = request("POST", path);
    call.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    call.headers_mut().insert("te", "trailers".parse().unwrap());
    call
}

fn status(fields: &HeaderMap) -> &str {
    fields["grpc-status"].to_str().unwrap()
}

#[tokio::test]
async fn a_call_that_takes_too_long_or_is_broken_off_has_the_status_of_that() {
    let peer = Peer::new(100, |request, mut respond| {
        Box::pin(async move {
            match request.uri().path() {
                "/hang" => std::future::pending().await,
                "/reset" => respond.send_reset(h2::Reason::ENHANCE_YOUR_CALM),
                _ => {
                    let answer = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                    let mut stream = respond.send_response(answer, false).unwrap();
                    stream.send_data(Bytes::from_static(b"\0\0\0\0\0"), false).unwrap();
                    std::future::pending().await
                }
            }
        })
    })
    .await;
    let mut bed = serving(&[peer.addr.port()]).await;
    bed.routes("[route.\"*\"]\nto = \"web\"\n[route.\"*/hang\"]\nto = \"web\"\ntimeout = \"200ms\"\n");
    bed.converge().await;
    let client = Client2::connect(bed.addr).await;
    let late = client.ask(call("/hang"), "").await.unwrap();
    assert_eq!((late.head.status.as_u16(), status(&late.head.headers), late.body.as_str()), (200, "4", ""));
    let reset = client.ask(call("/reset"), "").await.unwrap();
    assert_eq!(status(&reset.head.headers), "8");
    // One whose answer had begun ends with a status, where others would only end.
    let asking = tokio::spawn({
        let client = client.clone();
        async move { client.ask(call("/begun"), "").await.unwrap() }
    });
    until(|| peer.count() == 3).await;
    let (answer, _) = client.begin(call("/begun"), true).await.unwrap();
    within(answer).await.unwrap();
    peer.kill();
    let broken = within(asking).await.unwrap();
    assert_eq!((broken.body.len(), status(&broken.trailer)), (5, "14"));
    // Whoever does not call is shown a page.
    assert_eq!(client.get("/hang").await.unwrap().head.status, 504);
}

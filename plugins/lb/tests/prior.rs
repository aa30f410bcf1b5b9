//! HTTP/2 in clear on the port of HTTP, for clients that know of it before ("prior knowledge"), and what holds whoever abuses it.

mod common;

use std::process::Stdio;

use common::backend::{Backend, Deed, ok as said};
use common::frames::*;
use common::{Bed, until, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = within(command.output()).await.unwrap_or_else(|error| panic!("{program}: {error}"));
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Whether a program is there. Where all must be, it is.
fn has(program: &str) -> bool {
    let there = std::process::Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    assert!(there || std::env::var("HIRSEL_REQUIRE").as_deref() != Ok("all"), "needs {program}");
    if !there {
        eprintln!("skipped: {program} is missing");
    }
    there
}

#[tokio::test]
async fn curl_speaks_http_2_on_the_port_of_http_and_1_1_beside_it() {
    let backend =
        Backend::new(|request, _| Deed::Say(said(&format!("{} {}", request.method(), request.body.len())))).await;
    let bed = Bed::serving(&[&backend]).await;
    let url = format!("http://{}/a", bed.addr);
    let large = "x".repeat(300_000);
    for (flag, version) in [("--http2-prior-knowledge", "2"), ("--http1.1", "1.1"), ("--http2", "1.1")] {
        let (good, got) = run("curl", &["-sS", flag, "-w", " %{http_version}", &url]).await;
        assert!(good && got == format!("GET 0 {version}"), "{flag}: {got}");
    }
    let file = std::env::temp_dir().join(format!("hirsel-prior-{}", std::process::id()));
    std::fs::write(&file, &large).unwrap();
    let upload = format!("@{}", file.display());
    let (good, got) =
        run("curl", &["-sS", "--http2-prior-knowledge", "-H", "content-type: x/y", "--data-binary", &upload, &url])
            .await;
    std::fs::remove_file(file).unwrap();
    assert!(good && got == "POST 300000", "{got}");
}

#[tokio::test]
async fn h2load_gets_all_its_answers() {
    if !has("h2load") {
        return;
    }
    let backend = Backend::named("a").await;
    let bed = Bed::serving(&[&backend]).await;
    let url = format!("http://{}/", bed.addr);
    let (good, got) = run("h2load", &["-n", "1000", "-c", "4", "-m", "20", &url]).await;
    assert!(good && got.contains("1000 succeeded, 0 failed, 0 errored, 0 timeout"), "{got}");
}

#[tokio::test]
async fn whoever_begins_almost_so_speaks_http_1_1() {
    let backend = Backend::new(|request, _| Deed::Say(said(&request.start))).await;
    let bed = Bed::serving(&[&backend]).await;
    // Byte by byte, and nothing of it is lost.
    for start in ["PRIX / HTTP/1.1", "PRI / HTTP/1.1", "P / HTTP/1.1"] {
        let mut client = common::wire::Client::connect(bed.addr).await;
        for byte in format!("{start}\r\nHost: a\r\n\r\n").bytes() {
            client.send([byte]).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(client.answer().await.text(), start);
    }
    // So does the other, if it comes in pieces.
    let mut stream = within(TcpStream::connect(bed.addr)).await.unwrap();
    for byte in PREFACE {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    assert_eq!(within(read_frame(&mut stream)).await.unwrap().kind, SETTINGS);
    // Who ends before it is known what it speaks is not waited for.
    let mut stream = within(TcpStream::connect(bed.addr)).await.unwrap();
    stream.write_all(&PREFACE[..5]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    let _ = within(stream.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn a_stop_ends_those_who_have_said_nothing_yet() {
    let backend = Backend::named("a").await;
    let mut bed = Bed::serving(&[&backend]).await;
    let mut silent = common::wire::Client::connect(bed.addr).await;
    let client = Client2::connect(bed.addr).await;
    assert_eq!(client.get("/").await.unwrap().body, "ok a");
    until(|| bed.counted("hirsel_lb_clients") == 2).await;
    bed.stop().await;
    assert!(silent.is_closed().await);
    bed.converge_until(|report| report.state == hirsel_model::report::RoleState::Stopped).await;
}

/// A connection in bare frames that has said its settings.
async fn bare_client(bed: &Bed) -> TcpStream {
    let mut stream = within(TcpStream::connect(bed.addr)).await.unwrap();
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    stream
}

fn head() -> Vec<u8> {
    fields(&[(":method", "GET"), (":scheme", "http"), (":authority", "shop.example"), (":path", "/")])
}

/// Writes `flood` again and again until the other side ends the connection; false if it bears them all.
async fn is_ended(mut stream: TcpStream, times: u32, flood: impl Fn(u32) -> Vec<u8>) -> bool {
    let (mut read, mut write) = stream.split();
    let reading = async {
        let mut sink = vec![0; 64 * 1024];
        while read.read(&mut sink).await.is_ok_and(|bytes| bytes > 0) {}
    };
    let writing = async {
        for time in 0..times {
            if write.write_all(&flood(time)).await.is_err() {
                return;
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::time::timeout(std::time::Duration::from_secs(5), async {
        tokio::select! { () = reading => {}, () = writing => {} }
    })
    .await
    .is_ok()
}

#[tokio::test]
async fn whoever_resets_all_that_it_asks_for_is_sent_away_and_others_are_served() {
    let backend = Backend::named("a").await;
    let bed = Bed::serving(&[&backend]).await;
    let other = Client2::connect(bed.addr).await;
    let flood = |time: u32| {
        let stream = 2 * time + 1;
        let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        [frame(HEADERS, END_HEADERS | END_STREAM, stream, &head()), reset].concat()
    };
    assert!(is_ended(bare_client(&bed).await, 100_000, flood).await);
    assert!(backend.count() < 5_000, "{} of them reached the instance", backend.count());
    assert_eq!(other.get("/").await.unwrap().body, "ok a");
}

#[tokio::test]
async fn whoever_gives_up_what_was_begun_again_and_again_is_sent_away() {
    let backend = Backend::new(|request, _| match request.path() {
        "/hang" => Deed::Hang,
        _ => Deed::Say(said("ok")),
    })
    .await;
    let bed = Bed::serving(&[&backend]).await;
    let client = Client2::connect(bed.addr).await;
    let mut given_up = 0;
    while given_up < 20_000 {
        // Each is seen to be taken before it is given up.
        let mut held = Vec::new();
        for _ in 0..50 {
            match client.begin(request("GET", "/hang"), true).await {
                Ok(begun) => held.push(begun),
                Err(_) => break,
            }
        }
        if client.get("/").await.is_err() {
            break;
        }
        given_up += held.len();
    }
    assert!(given_up < 5_000, "{given_up}");
    assert_eq!(bed.get("/").await.text(), "ok");
}

#[tokio::test]
async fn floods_of_frames_that_ask_for_nothing_end_their_connection_or_wait() {
    let backend = Backend::named("a").await;
    let bed = Bed::serving(&[&backend]).await;
    // A head that never ends.
    let endless = |time: u32| match time {
        0 => frame(HEADERS, 0, 1, &head()),
        _ => frame(CONTINUATION, 0, 1, &fields(&[("x-a", &"y".repeat(100))])),
    };
    assert!(is_ended(bare_client(&bed).await, 1_000_000, endless).await);
    let empty = |time: u32| frame(if time == 0 { HEADERS } else { CONTINUATION }, 0, 1, &[]);
    assert!(is_ended(bare_client(&bed).await, 1_000_000, empty).await);
    // Empty pieces of a body.
    let hollow = |time: u32| match time {
        0 => frame(HEADERS, END_HEADERS, 1, &head()),
        _ => frame(DATA, 0, 1, &[]),
    };
    assert!(is_ended(bare_client(&bed).await, 1_000_000, hollow).await);
    // Questions whose answers nobody reads: they wait in the kernel, on both sides, and not with us.
    for question in [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, &[7; 8])] {
        let mut stream = bare_client(&bed).await;
        let flood = question.repeat(1_000);
        let stuck = tokio::time::timeout(std::time::Duration::from_secs(2), async {
            for _ in 0..10_000 {
                if stream.write_all(&flood).await.is_err() {
                    return;
                }
            }
            panic!("ninety megabytes of questions were taken, and no answer");
        });
        let _ended_or_stuck = stuck.await;
        assert_eq!(bed.get("/").await.text(), "ok a");
    }
}

#[tokio::test]
async fn the_limits_of_a_head_and_of_requests_at_once_are_those_over_tls() {
    let backend = Backend::new(|_, _| Deed::Hold(said("ok"))).await;
    let bed = Bed::serving(&[&backend]).await;
    // No head is longer than 32 KiB.
    let client = Client2::connect(bed.addr).await;
    let mut large = request("GET", "/");
    for number in 0..40 {
        large.headers_mut().append("x-a", "y".repeat(1_000 + number).parse().unwrap());
    }
    let refused = client.ask(large, "").await;
    assert!(refused.as_ref().map_or(true, |answer| answer.head.status == 431), "{:?}", refused.map(|it| it.head));
    assert_eq!(backend.count(), 0);
    // A hundred requests at once; what is more is refused.
    let mut stream = bare_client(&bed).await;
    for number in 0..150 {
        stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &head())).await.unwrap();
    }
    let mut refused = 0;
    while refused < 50 {
        let came = within(read_frame(&mut stream)).await.expect("the connection goes on");
        assert!(!matches!(came.kind, GOAWAY | HEADERS), "{came:?}");
        refused += usize::from(came.kind == RST_STREAM && came.payload == 7_u32.to_be_bytes());
    }
    until(|| backend.count() == 100).await;
    backend.release();
}

//! What becomes of an answer on its way to a client: encoded, or with another page in its place.

mod common;

use std::io::Read;

use common::backend::{Backend, Deed};
use common::wire::{Answer, Client};
use common::{Bed, ME, read_more, within};

/// A text that gets smaller, and no two lines of which are the same.
fn text(lines: usize) -> String {
    (0..lines).map(|line| format!("line {line} of a text that repeats itself\n")).collect()
}

fn decoded(answer: &Answer) -> String {
    String::from_utf8(decoded_so_far(answer.header("content-encoding").unwrap_or("identity"), &answer.body)).unwrap()
}

/// What can be read of a body of which only the beginning came.
fn decoded_so_far(encoding: &str, body: &[u8]) -> Vec<u8> {
    let mut reader: Box<dyn Read> = match encoding {
        "gzip" => Box::new(flate2::read::GzDecoder::new(body)),
        "br" => Box::new(brotli::Decompressor::new(body, 4096)),
        "zstd" => Box::new(zstd::stream::read::Decoder::new(body).unwrap()),
        other => {
            assert_eq!(other, "identity");
            Box::new(body)
        }
    };
    let mut whole = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = reader.read(&mut piece) {
        whole.extend_from_slice(&piece[..length]);
    }
    whole
}

/// An instance whose answers have these lines in their heads, by path.
async fn serving(routes: &str, answers: &'static [(&'static str, &'static str, usize)]) -> (Bed, Backend) {
    let backend = Backend::new(|request, _| {
        let (_, lines, length) = answers.iter().find(|(path, ..)| *path == request.path()).expect("a known path");
        let body = text(*length);
        let body = if request.method() == "HEAD" { "" } else { &body };
        let announced = text(*length).len();
        Deed::Say(format!("HTTP/1.1 {lines}\r\nContent-Length: {announced}\r\n\r\n{body}").into_bytes())
    })
    .await;
    let mut bed = Bed::new().await;
    bed.routes(routes);
    bed.place(1, ME, backend.addr.port());
    bed.converge().await;
    (bed, backend)
}

async fn ask(bed: &Bed, start: &str, lines: &str) -> Answer {
    bed.ask(&format!("{start} HTTP/1.1\r\nHost: h\r\n{lines}\r\n")).await
}

const COMPRESSED: &str = r#"
[route.h]
to = "web"
compress = { with = ["zstd", "br", "gzip"] }
[[route.h.rule]]
path = "/plain"
compress = false
[[route.h.rule]]
path = "/known"
respond = { body = "0123456789012345678901234567890123456789", headers = { content-type = "text/html" } }
compress = { with = ["gzip"], min = "1B" }
"#;

const HTML: &str = "200 OK\r\nContent-Type: text/html\r\nETag: \"1\"\r\nAccept-Ranges: bytes";

#[tokio::test]
async fn an_answer_is_encoded_as_its_client_likes_best() {
    // Held whole, and passed on as it comes.
    let answers = &[("/", HTML, 100), ("/large", HTML, 50_000)];
    let (bed, _backend) = serving(COMPRESSED, answers).await;
    for (path, lines) in [("/", 100), ("/large", 50_000)] {
        for (accepts, encoding) in [("gzip, deflate, br, zstd", "zstd"), ("gzip, br", "br"), ("gzip", "gzip")] {
            let answer = ask(&bed, &format!("GET {path}"), &format!("Accept-Encoding: {accepts}\r\n")).await;
            assert_eq!((answer.status(), answer.header("content-encoding")), (200, Some(encoding)));
            assert_eq!((answer.header("etag"), answer.header("accept-ranges")), (Some("W/\"1\""), None));
            assert_eq!(answer.header("vary"), Some("Accept-Encoding"));
            assert!(answer.body.len() < text(lines).len() / 4, "{path} {encoding}: {}", answer.body.len());
            assert_eq!(decoded(&answer), text(lines), "{path} {encoding}");
        }
        let answer = ask(&bed, &format!("GET {path}"), "").await;
        assert_eq!((answer.header("content-encoding"), answer.header("etag")), (None, Some("\"1\"")));
        assert_eq!((answer.header("vary"), answer.text()), (Some("Accept-Encoding"), &*text(lines)));
        let answer = ask(&bed, &format!("HEAD {path}"), "Accept-Encoding: gzip\r\n").await;
        assert_eq!((answer.header("content-encoding"), answer.header("content-length")), (Some("gzip"), None));
    }
    let answer = ask(&bed, "GET /known", "Accept-Encoding: gzip\r\n").await;
    assert_eq!(decoded(&answer), "0123456789".repeat(4));
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
}

#[tokio::test]
async fn curl_reads_what_it_is_sent() {
    let (bed, _backend) = serving(COMPRESSED, &[("/", HTML, 100), ("/large", HTML, 50_000)]).await;
    for (path, lines) in [("/", 100), ("/large", 50_000)] {
        let url = format!("http://{}{path}", bed.addr);
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["-sS", "--compressed", "-H", "Host: h", "-w", "%{size_download}", &url]).kill_on_drop(true);
        let output = within(curl.output()).await.expect("curl is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout).unwrap();
        let (body, downloaded) = said.split_at(text(lines).len());
        assert_eq!(body, text(lines));
        assert!(downloaded.parse::<usize>().unwrap() < body.len() / 4, "{path}: {downloaded}");
    }
}

#[tokio::test]
async fn what_is_encoded_already_or_must_stay_as_it_is_goes_out_as_it_came() {
    let answers = &[
        ("/plain", HTML, 100),
        ("/small", HTML, 3),
        ("/encoded", "200 OK\r\nContent-Type: text/html\r\nContent-Encoding: x", 100),
        ("/image", "200 OK\r\nContent-Type: image/png", 100),
        ("/piece", "206 Partial Content\r\nContent-Type: text/html\r\nContent-Range: bytes 0-1/2", 100),
        ("/kept", "200 OK\r\nContent-Type: text/html\r\nCache-Control: no-transform", 100),
        ("/events", "200 OK\r\nContent-Type: text/event-stream", 100),
    ];
    let (bed, _backend) = serving(COMPRESSED, answers).await;
    for (path, lines, length) in answers {
        let answer = ask(&bed, &format!("GET {path}"), "Accept-Encoding: gzip, br, zstd\r\n").await;
        assert_eq!(answer.text(), text(*length), "{path}");
        assert_eq!(answer.header("content-encoding").is_some(), lines.contains("Encoding"), "{path}");
    }
}

#[tokio::test]
async fn an_event_goes_out_when_it_comes_also_encoded() {
    for encoding in ["gzip", "br", "zstd"] {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
        let backend = Backend::new(move |_, _| Deed::Echo(format!("{head}data: 1\n\n").into_bytes())).await;
        let mut bed = Bed::new().await;
        bed.routes("[route.h]\nto = \"web\"\ncompress = { types = [\"text/event-stream\"] }\n");
        bed.place(1, ME, backend.addr.port());
        bed.converge().await;
        let mut client = Client::connect(bed.addr).await;
        // In HTTP/1.0, so that the body is bytes and nothing else.
        client.send(format!("GET / HTTP/1.0\r\nHost: h\r\nAccept-Encoding: {encoding}\r\n\r\n")).await;
        let mut came = Vec::new();
        within(async {
            loop {
                assert!(read_more(&mut client.stream, &mut came).await.unwrap() > 0, "{encoding}: it ended");
                let Some(end) = came.windows(4).position(|it| it == b"\r\n\r\n") else { continue };
                if decoded_so_far(encoding, &came[end + 4..]) == b"data: 1\n\n" {
                    break;
                }
            }
        })
        .await;
        let head = String::from_utf8_lossy(&came).to_ascii_lowercase();
        assert!(head.contains(&format!("content-encoding: {encoding}\r\n")), "{head}");
    }
}

#[tokio::test]
async fn an_instance_that_breaks_off_is_no_whole_answer_when_encoded_either() {
    let half = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 1000000\r\n\r\n{}", text(2_000));
    let backend = Backend::new(move |_, _| Deed::SayAndClose(half.clone().into_bytes())).await;
    let mut bed = Bed::new().await;
    bed.routes("[route.h]\nto = \"web\"\ncompress = true\n");
    bed.place(1, ME, backend.addr.port());
    bed.converge().await;
    let mut client = Client::connect(bed.addr).await;
    client.send("GET / HTTP/1.1\r\nHost: h\r\nAccept-Encoding: gzip\r\n\r\n").await;
    assert!(client.try_answer().await.is_none());
}

const PAGES: &str = r#"
[route.h]
to = "web"
compress = { min = "1B" }
response_headers = { set = { x-a = "1" } }
[route.h.error_pages]
404 = { body = "<h1>Not here</h1>", programs = true }
503 = "back soon"
5xx = { body = '{"error":true}', content_type = "application/json" }
[route."h/staff"]
to = "web"
basic_auth = { users = { anna = "$pbkdf2-sha256$i=1000$c2FsdA$Q/9Kvus9r/Z5pRD/V9eBFX31v5LhSkQG2Q44eDQAprk" } }
error_pages = { 401 = "<p>Whom do we know?</p>" }
[route."h/closed"]
respond = { status = 503, body = "as it was meant" }
error_pages = { 503 = { body = "another", programs = true } }
"#;

#[tokio::test]
async fn a_route_has_pages_of_its_own_for_errors() {
    let answers = &[
        ("/", "200 OK\r\nContent-Type: text/html", 1),
        ("/gone", "404 Not Found\r\nContent-Type: text/html\r\nETag: \"1\"", 1),
        ("/large", "404 Not Found\r\nContent-Type: text/html", 50_000),
        ("/broken", "500 Oops\r\nContent-Type: text/html", 1),
    ];
    let (bed, backend) = serving(PAGES, answers).await;
    assert_eq!(ask(&bed, "GET /", "").await.text(), text(1));
    for path in ["/gone", "/large", "/gone"] {
        let answer = ask(&bed, &format!("GET {path}"), "").await;
        assert_eq!((answer.status(), answer.text()), (404, "<h1>Not here</h1>"));
        assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!((answer.header("etag"), answer.header("x-a")), (None, Some("1")));
    }
    let answer = ask(&bed, "HEAD /gone", "").await;
    assert_eq!((answer.status(), answer.header("content-length")), (404, Some("17")));
    assert_eq!(ask(&bed, "GET /broken", "").await.text(), text(1), "what a program says of its errors stays");
    let answer = ask(&bed, "GET /staff", "").await;
    assert_eq!((answer.status(), answer.text()), (401, "<p>Whom do we know?</p>"));
    assert!(answer.header("www-authenticate").is_some());
    assert_eq!(ask(&bed, "GET /closed", "").await.text(), "as it was meant");
    backend.kill().await;
    let answer = ask(&bed, "POST /", "Content-Length: 0\r\n").await;
    assert_eq!((answer.status(), answer.text()), (503, "back soon"));
    assert!(answer.header("retry-after").is_some());
}

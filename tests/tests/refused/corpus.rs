//! What nobody should say at a front door: written by hand after what is known of request smuggling and of floods, and what is to become
//! of it.

use rand::rngs::SmallRng;
use rand::{Rng, RngCore};

/// How a connection goes on after something that was said on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// One of these statuses, and the connection ends.
    Closes(&'static [u16]),
    /// This status, and the connection may go on.
    GoesOn(&'static [u16]),
    /// No answer in HTTP/1.1, and the connection ends.
    Falls,
}

/// Something that is said, and its end.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is wrong with it.
    pub name: &'static str,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// What becomes of it.
    pub end: End,
}

const BAD: End = End::Closes(&[400]);
/// It is taken by its chunks or refused; whichever, nothing that follows is read.
const EITHER: End = End::Closes(&[200, 400]);
const TOO_LARGE: End = End::Closes(&[414, 431]);

/// What would be a second request if the first one were read otherwise than it is.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: out.example\r\n\r\n";

/// A head of these lines, behind a first one and a host.
fn post(lines: &str, body: &str) -> Vec<u8> {
    format!("POST /in HTTP/1.1\r\nhost: out.example\r\n{lines}\r\n{body}").into_bytes()
}

fn get(lines: &str) -> Vec<u8> {
    format!("GET /in HTTP/1.1\r\nhost: out.example\r\n{lines}\r\n").into_bytes()
}

/// All of it.
pub fn all() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut case = |name, bytes: Vec<u8>, end| cases.push(Case { name, bytes, end });
    lengths(&mut case);
    chunks(&mut case);
    heads(&mut case);
    ways(&mut case);
    frames(&mut case);
    cases
}

type Add<'a> = &'a mut dyn FnMut(&'static str, Vec<u8>, End);

/// Lengths that contradict each other, or are none.
fn lengths(case: Add<'_>) {
    let hidden = format!("0\r\n\r\n{SMUGGLED}");
    let both = "content-length: 5\r\ntransfer-encoding: chunked\r\n";
    case("a length and chunks", post(both, &hidden), EITHER);
    case("chunks and a length", post("transfer-encoding: chunked\r\ncontent-length: 5\r\n", &hidden), EITHER);
    for (name, lines) in [
        ("two lengths", "content-length: 4\r\ncontent-length: 5\r\n"),
        ("two lengths in one line", "content-length: 4, 5\r\n"),
        ("a length with a sign", "content-length: +5\r\n"),
        ("a negative length", "content-length: -1\r\n"),
        ("a length in hexadecimal", "content-length: 0x5\r\n"),
        ("a length with a space", "content-length: 5 5\r\n"),
        ("a length with a letter", "content-length: 5a\r\n"),
        ("no length at all", "content-length: \r\n"),
        ("a length beyond all numbers", "content-length: 99999999999999999999999\r\n"),
        ("a coding that is none", "transfer-encoding: xchunked\r\n"),
        ("a coding behind chunks", "transfer-encoding: chunked, identity\r\n"),
        ("a coding that nobody knows", "transfer-encoding: gzip\r\n"),
        ("two codings", "transfer-encoding: chunked\r\ntransfer-encoding: cow\r\n"),
        ("a space before the colon", "transfer-encoding : chunked\r\n"),
        ("a coding on a folded line", "transfer-encoding:\r\n chunked\r\n"),
        ("a coding with a control character", "transfer-encoding: \u{b}chunked\r\n"),
        ("a coding in quotes", "transfer-encoding: \"chunked\"\r\n"),
    ] {
        case(name, post(lines, &hidden), BAD);
    }
    let old = b"POST /in HTTP/1.0\r\nhost: out.example\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    case("chunks in HTTP/1.0", old.to_vec(), BAD);
    let body = format!("content-length: {}\r\n", SMUGGLED.len());
    case("a request as the body of another", [get(&body), SMUGGLED.into()].concat(), End::GoesOn(&[200]));
}

/// Chunks that are none.
fn chunks(case: Add<'_>) {
    let chunked = |body: &str| post("transfer-encoding: chunked\r\n", body);
    for (name, body) in [
        ("a chunk of no number", "zz\r\nabc\r\n0\r\n\r\n"),
        ("a chunk with a prefix", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("a chunk with a sign", "+3\r\nabc\r\n0\r\n\r\n"),
        ("a negative chunk", "-3\r\nabc\r\n0\r\n\r\n"),
        ("a chunk beyond all numbers", "fffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
        ("a chunk longer than it says", "3\r\nabcdef\r\n0\r\n\r\n"),
        ("a chunk without an end", "3\r\nabcXX0\r\n\r\n"),
        ("a chunk of nothing", "\r\nabc\r\n0\r\n\r\n"),
        ("a chunk whose length ends in a carriage return alone", "3\rabc\r\n0\r\n\r\n"),
    ] {
        case(name, chunked(body), BAD);
    }
    let long = format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(20_000));
    case("a chunk with a long remark", chunked(&long), BAD);
    let behind = format!("0\r\n{}\r\n", "x-behind: y\r\n".repeat(5_000));
    case("more behind the body than anybody wants", chunked(&behind), BAD);
}

/// Heads that are none.
fn heads(case: Add<'_>) {
    case("a folded line", get("x-long: a\r\n b\r\n"), BAD);
    case("a line that begins with a space", b"GET / HTTP/1.1\r\n host: out.example\r\n\r\n".to_vec(), BAD);
    case("a field without a name", get(": x\r\n"), BAD);
    case("a name with a space", get("x y: z\r\n"), BAD);
    case("a line without a colon", get("x\r\n"), BAD);
    case("a carriage return in a value", get("x: a\rtransfer-encoding: chunked\r\n"), BAD);
    case("NUL in a value", get("x: a\0b\r\n"), BAD);
    case("NUL in a name", get("x\0y: z\r\n"), BAD);
    case("NUL in the path", b"GET /\0 HTTP/1.1\r\nhost: out.example\r\n\r\n".to_vec(), BAD);
    case("NUL in the method", b"G\0T / HTTP/1.1\r\nhost: out.example\r\n\r\n".to_vec(), BAD);
    // A line may end without a carriage return (RFC 9112, section 2.2); what is passed on has one.
    case("bare line feeds", b"GET /in HTTP/1.1\nhost: out.example\n\n".to_vec(), End::GoesOn(&[200, 400]));
    let hidden = post("x: y\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n", &format!("0\r\n\r\n{SMUGGLED}"));
    case("a coding behind a bare line feed", hidden, EITHER);
    case("no version", b"GET /in\r\nhost: out.example\r\n\r\n".to_vec(), BAD);
    case("a version that is none", b"GET /in HTTP/9.9\r\nhost: out.example\r\n\r\n".to_vec(), BAD);
    case("a fourth word", b"GET /in HTTP/1.1 x\r\nhost: out.example\r\n\r\n".to_vec(), BAD);
    case("two spaces", b"GET  /in HTTP/1.1\r\nhost: out.example\r\n\r\n".to_vec(), BAD);
    case("a method that is none", b"G@{T /in HTTP/1.1\r\nhost: out.example\r\n\r\n".to_vec(), BAD);
    case("words", b"what do you want?\r\n\r\n".to_vec(), BAD);
    case("a greeting by mail", b"EHLO out.example\r\n".to_vec(), BAD);
    case("a long value", get(&format!("x: {}\r\n", "y".repeat(40_000))), TOO_LARGE);
    case("a long name", get(&format!("{}: y\r\n", "x".repeat(40_000))), TOO_LARGE);
    case("many fields", get(&"x: y\r\n".repeat(3_000)), TOO_LARGE);
    case("a long path", format!("GET /{} HTTP/1.1\r\n\r\n", "p".repeat(70_000)).into_bytes(), TOO_LARGE);
    case("a head without an end", [get("")[..30].to_vec(), vec![b'x'; 100_000]].concat(), TOO_LARGE);
}

/// Hosts and routes that lead nowhere.
fn ways(case: Add<'_>) {
    let for_host = |host: &str| format!("GET /in HTTP/1.1\r\n{host}\r\n").into_bytes();
    for (name, host) in [
        ("no host", ""),
        ("two hosts", "host: out.example\r\nhost: other.example\r\n"),
        ("a host with a path", "host: out.example/smuggled\r\n"),
        ("a host with a user", "host: out.example@other.example\r\n"),
        ("two hosts in one line", "host: out.example, other.example\r\n"),
        ("a host with a strange port", "host: out.example:80x\r\n"),
    ] {
        case(name, for_host(host), End::GoesOn(&[400]));
    }
    case(
        "a tunnel",
        b"CONNECT other.example:443 HTTP/1.1\r\nhost: other.example\r\n\r\n".to_vec(),
        End::GoesOn(&[400]),
    );
    case(
        "a path in two readings",
        b"GET /in/..%2fguarded HTTP/1.1\r\nhost: out.example\r\n\r\n".to_vec(),
        End::GoesOn(&[400]),
    );
    case("a route to nothing", for_host("host: nowhere.example\r\n"), End::GoesOn(&[404]));
    case("a route to itself", for_host("host: round.example\r\n"), End::GoesOn(&[508]));
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), content].concat()
}

/// HTTP/2 that is none.
fn frames(case: Add<'_>) {
    let settings = frame(4, 0, 0, &[]);
    let after = |frames: &[Vec<u8>]| [PREFACE, &settings, &frames.concat()].concat();
    let over = |frames: &[Vec<u8>]| [PREFACE, &frames.concat()].concat();
    case("noise behind the preface", [PREFACE, &[0xff; 64][..]].concat(), End::Falls);
    case("HTTP/1.1 behind the preface", [PREFACE, SMUGGLED.as_bytes()].concat(), End::Falls);
    case(
        "a frame longer than allowed",
        after(&[[&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1][..], &[0; 64]].concat()]),
        End::Falls,
    );
    case("settings of a strange length", over(&[frame(4, 0, 0, &[0; 5])]), End::Falls);
    case("a window that grows by nothing", after(&[frame(8, 0, 0, &[0; 4])]), End::Falls);
    case("a window beyond all numbers", after(&[frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff])]), End::Falls);
    case("a head of no stream", after(&[frame(1, 5, 0, &[0x82])]), End::Falls);
    case("a head of our stream", after(&[frame(1, 5, 2, &[0x82])]), End::Falls);
    case("a head that cannot be unpacked", after(&[frame(1, 5, 1, &[0xff; 16])]), End::Falls);
    case("a ping of a strange length", after(&[frame(6, 0, 0, &[0; 7])]), End::Falls);
    case("data of a stream that is none", after(&[frame(0, 0, 1, b"x")]), End::Falls);
    let without_end = [vec![frame(1, 1, 1, &[0x82])], vec![frame(9, 0, 1, &[0x41; 16_000]); 100]].concat();
    case("a head that goes on and on", after(&without_end), End::Falls);
    let hurried: Vec<Vec<u8>> = (0..2_000_u32)
        .flat_map(|number| {
            let stream = 2 * number + 1;
            // GET / of an authority, given up at once.
            let head = [&[0x82, 0x86, 0x84, 0x41, 11][..], b"out.example"].concat();
            [frame(1, 5, stream, &head), frame(3, 0, stream, &8_u32.to_be_bytes())]
        })
        .collect();
    case("requests that are given up at once", after(&hurried), End::Falls);
}

/// The same with another path in place of the one that must never be asked for: what becomes of it when it is changed, nobody knows.
pub fn harmless(all: &[Case]) -> Vec<Case> {
    let mut all = all.to_vec();
    for case in &mut all {
        while let Some(at) = case.bytes.windows(8).position(|window| window == b"smuggled") {
            case.bytes[at..at + 8].copy_from_slice(b"whatever");
        }
    }
    all
}

/// Something like it that nobody has written down: turned, cut, doubled, or mixed with something else.
pub fn mutated(all: &[Case], rng: &mut SmallRng) -> Vec<u8> {
    let mut bytes = all[rng.random_range(0..all.len())].bytes.clone();
    for _ in 0..rng.random_range(1..=4) {
        let at = rng.random_range(0..bytes.len().max(1));
        match rng.random_range(0..6) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            2 if at < bytes.len() => bytes[at] = [0, b'\r', b'\n', b' ', b':', 0xff][rng.random_range(0..6)],
            3 => {
                let end = (at + rng.random_range(1..64)).min(bytes.len());
                let piece = bytes[at.min(end)..end].to_vec();
                bytes.splice(at.min(end)..at.min(end), piece);
            }
            4 => bytes.extend_from_slice(&all[rng.random_range(0..all.len())].bytes),
            _ => {
                let mut noise = vec![0; rng.random_range(1..64)];
                rng.fill_bytes(&mut noise);
                bytes.splice(at.min(bytes.len())..at.min(bytes.len()), noise);
            }
        }
    }
    bytes
}

/// What is said at the door of TLS: nothing that leads to a connection.
pub fn hello(rng: &mut SmallRng) -> Vec<u8> {
    let mut noise = vec![0; rng.random_range(1..2_000)];
    rng.fill_bytes(&mut noise);
    match rng.random_range(0..7) {
        // The beginning of a hello, and then nothing of it.
        0 => [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &noise].concat(),
        // A record longer than there are any.
        1 => [&[0x16, 3, 1, 0xff, 0xff][..], &noise].concat(),
        // As it was said in the nineties.
        2 => [&[0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10][..], &noise].concat(),
        // An alert, an answer, and what is said once all is agreed.
        3 => vec![0x15, 3, 3, 0, 2, 2, 40],
        4 => [&[0x17, 3, 3, 0, 16][..], &noise].concat(),
        5 => SMUGGLED.into(),
        _ => noise,
    }
}

/// What is asked of a server of names: more or less a question.
pub fn question(rng: &mut SmallRng) -> Vec<u8> {
    let mut bytes = question_for("web.hello.hirsel");
    match rng.random_range(0..5) {
        0 => {
            bytes = vec![0; rng.random_range(0..600)];
            rng.fill_bytes(&mut bytes);
        }
        // A name that leads back to itself.
        1 => {
            bytes.truncate(12);
            bytes.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
        }
        // More questions, answers and records than there are.
        2 => rng.fill_bytes(&mut bytes[4..12]),
        3 => bytes.truncate(rng.random_range(0..bytes.len())),
        _ => {
            let at = rng.random_range(2..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
        }
    }
    bytes
}

/// A question for the addresses of a name.
pub fn question_for(name: &str) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
    bytes
}

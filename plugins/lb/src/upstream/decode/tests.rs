use proptest::prelude::*;

use super::*;

fn told(text: &[u8], method: Method) -> Result<Option<Head>, Garbled> {
    head(&mut text.into(), &method)
}

fn said(lines: &str) -> Result<(Body, bool), Garbled> {
    let text = format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
    told(text.as_bytes(), Method::GET).map(|head| head.map(|head| (head.body, head.keeps)).expect("whole"))
}

/// Everything that comes of `text`, which comes in pieces of these sizes, one after another.
fn read(
    mut body: Body,
    text: &[u8],
    sizes: &[usize],
    closed: bool,
) -> Result<(Vec<u8>, Option<HeaderMap>, usize), Garbled> {
    let (mut data, mut fields, mut come, mut at) = (Vec::new(), None, BytesMut::new(), 0);
    let mut sizes = sizes.iter().cycle();
    loop {
        let whole = at == text.len();
        match body.take(&mut come, whole && closed)? {
            Piece::Data(bytes) => {
                assert!(!bytes.is_empty());
                data.extend_from_slice(&bytes);
            }
            Piece::Trailer(trailer) => fields = Some(trailer),
            Piece::End => return Ok((data, fields, come.len() + text.len() - at)),
            Piece::More => {
                if whole {
                    return Err(Garbled);
                }
                let size = sizes.next().copied().unwrap_or(1).min(text.len() - at);
                come.extend_from_slice(&text[at..at + size]);
                at += size;
            }
        }
    }
}

fn chunked(text: &[u8]) -> Result<Vec<u8>, Garbled> {
    read(Body::Chunked(Chunks::default()), text, &[1], true).map(|(data, ..)| data)
}

#[test]
fn a_head_is_taken_when_it_is_whole() {
    let text = b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\nX-One: a\r\nX-One: b\r\nX-None:\r\n\r\nhello";
    for cut in 0..text.len() - b"hello".len() {
        assert!(told(&text[..cut], Method::GET).unwrap().is_none(), "{cut}");
    }
    let mut read = BytesMut::from(&text[..]);
    let Head { response, body, keeps } = head(&mut read, &Method::GET).unwrap().unwrap();
    assert_eq!((response.status(), body, keeps), (StatusCode::NOT_FOUND, Body::Length(5), true));
    assert_eq!(response.headers().get_all("x-one").iter().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(response.headers()["x-none"], "");
    assert_eq!(read, "hello");
}

#[test]
fn a_reason_of_its_own_is_kept() {
    let reason = |text: &[u8]| {
        let head = told(text, Method::GET).unwrap().unwrap();
        head.response.extensions().get::<ReasonPhrase>().map(|reason| reason.as_bytes().to_vec())
    };
    assert_eq!(reason(b"HTTP/1.1 200 Fine\r\n\r\n"), Some(b"Fine".to_vec()));
    assert_eq!(reason(b"HTTP/1.1 200 OK\r\n\r\n"), None);
    assert_eq!(reason(b"HTTP/1.1 200\r\n\r\n"), None);
}

#[test]
fn what_is_no_head_is_garbled() {
    for text in [
        &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nname : x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nname: a\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nname: \0\r\n\r\n",
    ] {
        assert_eq!(told(text, Method::GET).unwrap_err(), Garbled, "{}", text.escape_ascii());
    }
    let many = |count| [&b"HTTP/1.1 200 OK\r\n"[..], &b"a: b\r\n".repeat(count), b"\r\n"].concat();
    assert!(told(&many(FIELDS_MAX), Method::GET).unwrap().is_some());
    assert_eq!(told(&many(FIELDS_MAX + 1), Method::GET).unwrap_err(), Garbled);
}

#[test]
fn a_body_ends_as_its_head_says() {
    let chunks = || Body::Chunked(Chunks::default());
    for (lines, expected) in [
        ("Content-Length: 3\r\n", Ok((Body::Length(3), true))),
        ("Content-Length: 0\r\n", Ok((Body::End, true))),
        ("Content-Length: 3\r\nContent-Length: 3\r\n", Ok((Body::Length(3), true))),
        ("Content-Length: 3, 3\r\n", Ok((Body::Length(3), true))),
        ("Content-Length: 3\r\nConnection: x, Close\r\n", Ok((Body::Length(3), false))),
        ("Transfer-Encoding: Chunked\r\n", Ok((chunks(), true))),
        ("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", Ok((chunks(), false))),
        ("", Ok((Body::UntilClosed, false))),
        ("Content-Length: 3\r\nContent-Length: 4\r\n", Err(Garbled)),
        ("Content-Length: 3, 4\r\n", Err(Garbled)),
        ("Content-Length: +3\r\n", Err(Garbled)),
        ("Content-Length: -3\r\n", Err(Garbled)),
        ("Content-Length: 3a\r\n", Err(Garbled)),
        ("Content-Length:\r\n", Err(Garbled)),
        ("Content-Length: 99999999999999999999\r\n", Err(Garbled)),
        ("Transfer-Encoding: gzip, chunked\r\n", Err(Garbled)),
        ("Transfer-Encoding: chunked, chunked\r\n", Err(Garbled)),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Err(Garbled)),
        ("Transfer-Encoding: identity\r\n", Err(Garbled)),
        ("Transfer-Encoding:\r\n", Err(Garbled)),
    ] {
        assert_eq!(said(lines), expected, "{lines}");
    }
    let twice = told(b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\n", Method::GET).unwrap().unwrap();
    assert_eq!(twice.response.headers()[CONTENT_LENGTH], "3");
    let both = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert!(!told(both, Method::GET).unwrap().unwrap().response.headers().contains_key(CONTENT_LENGTH));
}

#[test]
fn some_answers_have_no_body_whatever_they_say() {
    for status in [100, 204, 304] {
        let text = format!("HTTP/1.1 {status} X\r\nContent-Length: 9\r\n\r\n");
        assert_eq!(told(text.as_bytes(), Method::GET).unwrap().unwrap().body, Body::End, "{status}");
    }
    let asked = told(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", Method::HEAD).unwrap().unwrap();
    assert_eq!((asked.body, asked.keeps), (Body::End, true));
    assert_eq!(asked.response.headers()[CONTENT_LENGTH], "9", "so long would it be");
}

#[test]
fn an_old_program_keeps_its_connection_only_when_it_says_so() {
    let keeps = |lines: &str| {
        let text = format!("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n{lines}\r\n");
        told(text.as_bytes(), Method::GET).map(|head| head.unwrap().keeps)
    };
    assert_eq!(keeps(""), Ok(false));
    assert_eq!(keeps("Connection: Keep-Alive\r\n"), Ok(true));
    assert_eq!(keeps("Connection: keep-alive, close\r\n"), Ok(false));
    assert_eq!(keeps("Transfer-Encoding: chunked\r\n"), Err(Garbled), "there were none then");
}

#[test]
fn chunks_are_put_together() {
    assert_eq!(chunked(b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n").unwrap(), b"hello!");
    assert_eq!(chunked(b"00A ; a=\"b\"\r\n0123456789\r\n0;last\r\n\r\n").unwrap(), b"0123456789");
    let (data, fields, left) =
        read(Body::Chunked(Chunks::default()), b"1\r\nx\r\n0\r\nX-Sum: 7\r\n\r\nHTTP", &[3], false).unwrap();
    assert_eq!((data.as_slice(), fields.unwrap()["x-sum"].as_bytes(), left), (&b"x"[..], &b"7"[..], 4));
}

#[test]
fn what_are_no_chunks_is_garbled() {
    for text in [
        &b"\r\n"[..],
        b"x\r\n",
        b"-1\r\n",
        b"0x1\r\nx\r\n0\r\n\r\n",
        b"1\nx\r\n0\r\n\r\n",
        b"1\rx",
        b"1;a\nx\r\n0\r\n\r\n",
        b"1\r\nxy\r\n0\r\n\r\n",
        b"1\r\nx0\r\n\r\n",
        b"1\r\nx\n0\r\n\r\n",
        b"10000000000000000\r\nx",
        b"1\r\nx\r\n",
        b"1\r\nx\r\n0\r\n",
        b"5\r\nhel",
        b"0\r\nno colon\r\n\r\n",
    ] {
        assert_eq!(chunked(text), Err(Garbled), "{}", text.escape_ascii());
    }
}

#[test]
fn what_comes_aside_of_a_body_is_bounded() {
    let mut extended = b"1;".to_vec();
    extended.extend_from_slice(&vec![b'a'; ASIDE_BYTES_MAX + 1]);
    assert_eq!(chunked(&extended), Err(Garbled));
    let mut trailing = b"0\r\nx: ".to_vec();
    trailing.extend_from_slice(&vec![b'a'; ASIDE_BYTES_MAX + 1]);
    assert_eq!(read(Body::Chunked(Chunks::default()), &trailing, &[1000], false).unwrap_err(), Garbled);
}

#[test]
fn a_body_that_breaks_off_is_no_whole_one() {
    assert_eq!(read(Body::Length(5), b"hell", &[2], true).unwrap_err(), Garbled);
    let (data, _, left) = read(Body::Length(5), b"hello, world", &[4], true).unwrap();
    assert_eq!((data.as_slice(), left), (&b"hello"[..], 7));
    assert_eq!(read(Body::UntilClosed, b"hello", &[2], true).unwrap().0, b"hello");
}

proptest! {
    #[test]
    fn however_it_comes_the_same_is_read(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
        behind in prop::collection::vec(any::<u8>(), 0..20),
        sizes in prop::collection::vec(1_usize..50, 1..8),
    ) {
        let mut text = Vec::new();
        for piece in &pieces {
            text.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            text.extend_from_slice(piece);
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b"0\r\n\r\n");
        text.extend_from_slice(&behind);
        let (data, _, left) = read(Body::Chunked(Chunks::default()), &text, &sizes, true).unwrap();
        prop_assert_eq!(data, pieces.concat());
        prop_assert_eq!(left, behind.len());
    }

    #[test]
    fn noise_is_read_alike_in_one_piece_and_byte_by_byte(
        text in prop::collection::vec(prop::sample::select(&b"012aF;\r\n x:"[..]), 0..40),
    ) {
        let whole = read(Body::Chunked(Chunks::default()), &text, &[text.len().max(1)], true);
        let bytewise = read(Body::Chunked(Chunks::default()), &text, &[1], true);
        prop_assert_eq!(whole, bytewise);
    }

    #[test]
    fn noise_is_no_head_and_harms_nobody(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = told(&text, Method::GET);
        let _ = told(&[b"HTTP/1.1 200 OK\r\n", &text[..]].concat(), Method::GET);
    }
}

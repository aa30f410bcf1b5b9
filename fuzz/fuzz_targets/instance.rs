#![no_main]
//! What an instance answers: the first byte chooses the method, the second in which pieces the rest comes.
use bytes::BytesMut;
use hirsel_lb::upstream::decode::{self, Piece};
use http::Method;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let [method, size, rest @ ..] = bytes else { return };
    let method = if method % 2 == 0 { Method::GET } else { Method::HEAD };
    let mut read = BytesMut::new();
    let mut pieces = rest.chunks(usize::from(*size) + 1);
    let mut body = loop {
        match decode::head(&mut read, &method) {
            Ok(Some(head)) => break head.body,
            Ok(None) => match pieces.next() {
                Some(piece) => read.extend_from_slice(piece),
                None => return,
            },
            Err(decode::Garbled) => return,
        }
    };
    let mut closed = false;
    loop {
        match body.take(&mut read, closed) {
            Ok(Piece::Data(bytes)) => assert!(!bytes.is_empty()),
            Ok(Piece::Trailer(_)) => {}
            Ok(Piece::End) | Err(decode::Garbled) => return,
            Ok(Piece::More) => match pieces.next() {
                Some(piece) => read.extend_from_slice(piece),
                None => closed = true,
            },
        }
    }
});

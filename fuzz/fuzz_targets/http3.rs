#![no_main]
//! What anybody may send on a stream of HTTP/3: the first byte chooses which, and in what pieces it comes.
use bytes::Bytes;
use hirsel_lb::http3::frames::{Fault, Frames};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let [kind, rest @ ..] = bytes else { return };
    let stream = if kind & 1 == 0 { Frames::of_request } else { Frames::of_one_way };
    let whole = cut(stream(), rest, usize::MAX);
    assert_eq!(cut(stream(), rest, 1 + usize::from(kind >> 1)), whole);
});

/// What is handed over, and how it ends.
fn cut(mut frames: Frames, bytes: &[u8], at_once: usize) -> (Vec<u8>, Result<(), Fault>) {
    let mut all = Vec::new();
    for came in bytes.chunks(at_once) {
        let mut came = Bytes::copy_from_slice(came);
        loop {
            match frames.next(&mut came) {
                Ok(Some(piece)) => {
                    assert!(!piece.is_empty());
                    all.extend_from_slice(&piece);
                }
                Ok(None) => {
                    assert!(came.is_empty());
                    break;
                }
                Err(fault) => return (all, Err(fault)),
            }
        }
    }
    let end = frames.end();
    (all, end)
}

//! Encoding a body: whole, or piece by piece as it comes. Whenever whoever sends it pauses, what was encoded so far goes out, so that
//! nothing waits in here that somebody else waits for.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hirsel_model::spec::Encoding;
use hyper::body::Frame;

use crate::budget::{Budget, Reserved};

/// Bytes of memory for all bodies that are being encoded: some dozens of them, each for as long as it takes its client.
pub const ENCODERS_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// What one encoder is counted with: window and tables, as set up below, at the most that was measured.
const GZIP_BYTES: u64 = 512 * 1024;
const BROTLI_BYTES: u64 = 4 * 1024 * 1024;
const ZSTD_BYTES: u64 = 2 * 1024 * 1024;

/// Levels beyond which time grows faster than bodies shrink. At these text became 31, 33 and 28 hundredths of it (zstd, gzip, brotli), in
/// times like 1 to 3 to 18.
const GZIP_LEVEL: u32 = 4;
const BROTLI_QUALITY: u32 = 4;
const ZSTD_LEVEL: i32 = 3;

/// Windows as powers of two: a quarter of a megabyte. Larger ones pay off for files of megabytes only, and each client that reads
/// slowly holds one.
const WINDOW_BITS: u32 = 18;
/// Brotli has none smaller (RFC 7932, section 9.1).
const BROTLI_WINDOW_BITS_MIN: u32 = 10;
const BROTLI_BUFFER_BYTES: usize = 4 * 1024;

/// So much is encoded before others have their turn: some milliseconds' work.
const TURN_BYTES: usize = 64 * 1024;

/// Where encoders have their place.
#[derive(Clone, Debug)]
pub struct Room(Arc<Budget>);

impl Default for Room {
    fn default() -> Self {
        Self(Budget::new(ENCODERS_BYTES_MAX))
    }
}

/// An encoder at work.
pub struct Encoder {
    writer: Writer,
    _place: Reserved,
}

enum Writer {
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Br(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    /// Begins, if there is room for one more. Of a body whose `length` is known no more is set up than it needs.
    pub fn new(encoding: Encoding, length: Option<u64>, room: &Room) -> Option<Self> {
        let bytes = match encoding {
            Encoding::Gzip => GZIP_BYTES,
            Encoding::Br => BROTLI_BYTES,
            Encoding::Zstd => ZSTD_BYTES,
        };
        let place = room.0.reserve(bytes)?;
        let writer = match encoding {
            Encoding::Gzip => {
                Writer::Gzip(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL)))
            }
            Encoding::Br => {
                let needed = length.map_or(WINDOW_BITS, |bytes| u64::BITS - bytes.leading_zeros());
                let window = needed.clamp(BROTLI_WINDOW_BITS_MIN, WINDOW_BITS);
                let buffer = BROTLI_BUFFER_BYTES;
                Writer::Br(Box::new(brotli::CompressorWriter::new(Vec::new(), buffer, BROTLI_QUALITY, window)))
            }
            Encoding::Zstd => {
                let mut writer = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL).ok()?;
                match length {
                    Some(_) => writer.set_pledged_src_size(length).ok()?,
                    None => writer.window_log(WINDOW_BITS).ok()?,
                }
                Writer::Zstd(writer)
            }
        };
        Some(Self { writer, _place: place })
    }

    /// All of a body at once; none if there is no room, or if it does not get smaller.
    pub fn whole(encoding: Encoding, body: &[u8], room: &Room) -> Option<Bytes> {
        let mut encoder = Self::new(encoding, Some(body.len() as u64), room)?;
        encoder.write(body).ok()?;
        encoder.finish().ok().filter(|encoded| encoded.len() < body.len())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.writer {
            Writer::Gzip(writer) => writer.write_all(bytes),
            Writer::Br(writer) => writer.write_all(bytes),
            Writer::Zstd(writer) => writer.write_all(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.writer {
            Writer::Gzip(writer) => writer.flush(),
            Writer::Br(writer) => writer.flush(),
            Writer::Zstd(writer) => writer.flush(),
        }
    }

    /// What was encoded since the last time.
    fn take(&mut self) -> Bytes {
        let encoded = match &mut self.writer {
            Writer::Gzip(writer) => writer.get_mut(),
            Writer::Br(writer) => writer.get_mut(),
            Writer::Zstd(writer) => writer.get_mut(),
        };
        std::mem::take(encoded).into()
    }

    /// The rest.
    fn finish(self) -> io::Result<Bytes> {
        let encoded = match self.writer {
            Writer::Gzip(writer) => writer.finish()?,
            Writer::Br(writer) => writer.into_inner(),
            Writer::Zstd(writer) => writer.finish()?,
        };
        Ok(encoded.into())
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encoder")
    }
}

/// A body that is encoded on its way.
#[derive(Debug)]
pub struct Encoded {
    /// None once all has gone out.
    encoder: Option<Encoder>,
    /// Something was written that has not gone out.
    held: bool,
}

impl Encoded {
    /// By an encoder at its beginning.
    pub fn by(encoder: Encoder) -> Self {
        Self { encoder: Some(encoder), held: false }
    }

    /// Whether all has gone out.
    pub fn is_done(&self) -> bool {
        self.encoder.is_none()
    }

    /// The next piece, made of what `plain` gives.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        mut plain: impl FnMut(&mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let mut written = 0;
        loop {
            let Some(encoder) = &mut self.encoder else { return Poll::Ready(None) };
            if written >= TURN_BYTES {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let polled = plain(cx);
            let out = if polled.is_pending() && self.held {
                self.held = false;
                encoder.flush().map(|()| encoder.take())
            } else {
                match ready!(polled) {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(bytes) => {
                            written += bytes.len();
                            self.held = true;
                            encoder.write(&bytes).map(|()| encoder.take())
                        }
                        // Trailers speak of the body as it was.
                        Err(_trailers) => continue,
                    },
                    Some(Err(error)) => Err(error),
                    None => match self.encoder.take() {
                        Some(encoder) => encoder.finish(),
                        None => return Poll::Ready(None),
                    },
                }
            };
            match out {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Err(error) => {
                    self.encoder = None;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::io::Read;

    use proptest::prelude::*;

    const ALL: [Encoding; 3] = [Encoding::Gzip, Encoding::Br, Encoding::Zstd];

    fn decoded(encoding: Encoding, bytes: &[u8]) -> Vec<u8> {
        let (whole, end) = read(encoding, bytes);
        end.unwrap_or_else(|error| panic!("{encoding:?}: {error}"));
        whole
    }

    /// What can be read of the beginning of a body, and how reading ended.
    fn read(encoding: Encoding, bytes: &[u8]) -> (Vec<u8>, io::Result<usize>) {
        let mut whole = Vec::new();
        let end = match encoding {
            Encoding::Gzip => flate2::read::GzDecoder::new(bytes).read_to_end(&mut whole),
            Encoding::Br => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut whole),
            Encoding::Zstd => zstd::stream::read::Decoder::new(bytes).unwrap().read_to_end(&mut whole),
        };
        (whole, end)
    }

    /// What comes out at each poll of a body that comes in these pieces; none is a pause.
    fn polled(encoding: Encoding, pieces: &[Option<&[u8]>]) -> Vec<Option<Vec<u8>>> {
        let mut pieces: VecDeque<_> = pieces.iter().copied().collect();
        let mut encoded = Encoded::by(Encoder::new(encoding, None, &Room::default()).unwrap());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut out = Vec::new();
        loop {
            let polled = encoded.poll_frame(&mut cx, |_| match pieces.front() {
                Some(Some(piece)) => {
                    let frame = Frame::data(Bytes::copy_from_slice(piece));
                    pieces.pop_front();
                    Poll::Ready(Some(Ok(frame)))
                }
                Some(None) => Poll::Pending,
                None => Poll::Ready(None),
            });
            match polled {
                Poll::Ready(Some(frame)) => out.push(Some(frame.unwrap().into_data().unwrap().to_vec())),
                Poll::Ready(None) => break,
                Poll::Pending => {
                    out.push(None);
                    if pieces.front() == Some(&None) {
                        pieces.pop_front();
                    }
                }
            }
        }
        assert!(encoded.is_done());
        out
    }

    #[test]
    fn whatever_came_before_a_pause_has_gone_out_by_then() {
        for encoding in ALL {
            let out = polled(encoding, &[Some(b"data: 1\n\n"), None, None, Some(b"data: 2\n\n"), None]);
            let mut seen = Vec::new();
            let mut at_pauses = Vec::new();
            for piece in &out {
                match piece {
                    Some(bytes) => seen.extend_from_slice(bytes),
                    None => at_pauses.push(read(encoding, &seen).0),
                }
            }
            let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).unwrap();
            let at_pauses: Vec<String> = at_pauses.iter().map(text).collect();
            let (one, both) = ("data: 1\n\n", "data: 1\n\ndata: 2\n\n");
            assert_eq!(at_pauses, [one, one, both], "{encoding:?}");
            assert_eq!(decoded(encoding, &seen), both.as_bytes(), "{encoding:?}");
        }
    }

    #[test]
    fn others_have_their_turn_while_much_comes_and_little_goes_out() {
        let zeros = vec![0; TURN_BYTES];
        for encoding in ALL {
            let out = polled(encoding, &[Some(&zeros), Some(&zeros), Some(&zeros), Some(&zeros)]);
            let whole = out.iter().flatten().flatten().copied().collect::<Vec<u8>>();
            assert!(out.len() > 4 && decoded(encoding, &whole).len() == 4 * TURN_BYTES, "{encoding:?}");
        }
    }

    #[test]
    fn a_body_that_breaks_off_breaks_off() {
        let mut encoded = Encoded::by(Encoder::new(Encoding::Gzip, None, &Room::default()).unwrap());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let polled = encoded.poll_frame(&mut cx, |_| Poll::Ready(Some(Err(io::ErrorKind::BrokenPipe.into()))));
        assert!(matches!(polled, Poll::Ready(Some(Err(_)))) && encoded.is_done());
    }

    #[test]
    fn there_is_room_for_some_and_then_bodies_go_out_as_they_are() {
        let room = Room::default();
        let all: Vec<_> = std::iter::from_fn(|| Encoder::new(Encoding::Zstd, None, &room)).collect();
        assert_eq!(all.len() as u64, ENCODERS_BYTES_MAX / ZSTD_BYTES);
        let text = vec![b'a'; 10_000];
        assert!(Encoder::whole(Encoding::Gzip, &text, &room).is_none());
        drop(all);
        assert!(Encoder::whole(Encoding::Gzip, &text, &room).is_some());
        let short = Encoder::whole(Encoding::Gzip, b"a", &room);
        assert!(short.is_none(), "it would get longer");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_is_encoded_is_decoded_again_however_it_comes(
            pieces in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..3_000)), 0..8),
        ) {
            let whole: Vec<u8> = pieces.iter().flatten().flatten().copied().collect();
            let pieces: Vec<_> = pieces.iter().map(Option::as_deref).collect();
            for encoding in ALL {
                if let Some(encoded) = Encoder::whole(encoding, &whole, &Room::default()) {
                    prop_assert_eq!(&decoded(encoding, &encoded), &whole);
                }
                let out: Vec<u8> = polled(encoding, &pieces).into_iter().flatten().flatten().collect();
                prop_assert_eq!(&decoded(encoding, &out), &whole);
            }
        }
    }
}

//! Cuts what comes on a stream into frames before the library sees it (RFC 9114, sections 6 and 7).
//!
//! As published the library keeps whatever it cannot use yet, and asks for more: a frame of a gigabyte, known or not, would be kept whole;
//! pieces of one byte would be kept faster than they are used; one without content ends a body, and one that breaks off makes it panic. So
//! each frame is handed over by itself, and of its content no more than is there; what is not known is passed over here; what is too long,
//! or in the wrong place, never comes through. Pure.

use bytes::{Buf, Bytes, BytesMut};

use super::HEAD_BYTES_MAX;
use super::lines::{self, Refused, Section};

/// Error codes (RFC 9114, section 8.1; RFC 9204, section 6).
pub mod code {
    /// A frame where it may not be.
    pub const FRAME_UNEXPECTED: u64 = 0x105;
    /// A frame that is malformed.
    pub const FRAME_ERROR: u64 = 0x106;
    /// Too much of something.
    pub const EXCESSIVE_LOAD: u64 = 0x107;
    /// A request that is no message.
    pub const MESSAGE_ERROR: u64 = 0x10e;
    /// Field lines that cannot be decoded.
    pub const DECOMPRESSION_FAILED: u64 = 0x200;
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// With this request: its stream is reset.
    Stream(u64),
    /// With the whole connection: it is closed.
    Connection(u64),
}

/// Content of a frame on the control stream, settings above all.
const CONTROL_BYTES_MAX: u64 = 4 * 1024;

/// Room that a frame gets before it comes: most heads are shorter.
const GATHERED_BYTES_FIRST: usize = 1024;

/// Two numbers: a type and a length.
const PREFIX_BYTES_MAX: usize = 16;

/// Frames by their types (RFC 9114, section 7.2).
mod kind {
    pub const DATA: u64 = 0x0;
    pub const HEADERS: u64 = 0x1;
    pub const CANCEL_PUSH: u64 = 0x3;
    pub const SETTINGS: u64 = 0x4;
    pub const PUSH_PROMISE: u64 = 0x5;
    pub const GOAWAY: u64 = 0x7;
    pub const MAX_PUSH_ID: u64 = 0xd;
    /// Those of HTTP/2 that have no meaning here (section 11.2.1).
    pub const FORMER: [u64; 4] = [0x2, 0x6, 0x8, 0x9];
}

/// The one-way stream that says what a client is set to (section 6.2.1).
const CONTROL_STREAM: u64 = 0x0;

/// One stream as it comes in.
#[derive(Debug)]
pub struct Frames {
    stream: Stream,
    at: At,
    /// What has come of the next prefix.
    prefix: [u8; PREFIX_BYTES_MAX],
    prefix_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    /// A request, of which so many sections have come.
    Request(u8),
    /// A one-way stream whose type has not come yet.
    Untyped,
    Control,
    /// Whatever else the library looks at, or does not.
    Other,
}

#[derive(Debug)]
enum At {
    /// Before a frame, or in its prefix.
    Prefix,
    /// In the content of a frame that is handed over as it comes.
    Content(u64),
    /// In one that is handed over whole.
    Whole { frame: BytesMut, prefix_bytes: usize, left: usize },
    /// In one that is passed over.
    Unknown(u64),
    /// Nothing that comes matters.
    Over,
}

impl Frames {
    /// Of a request.
    pub fn of_request() -> Self {
        Self::of(Stream::Request(0))
    }

    /// Of a one-way stream.
    pub fn of_one_way() -> Self {
        Self::of(Stream::Untyped)
    }

    fn of(stream: Stream) -> Self {
        Self { stream, at: At::Prefix, prefix: [0; PREFIX_BYTES_MAX], prefix_bytes: 0 }
    }

    /// The next piece that may be handed over, out of what has come; none if more must come first, and then all was taken.
    ///
    /// # Errors
    /// If what has come may not. Nothing is to be asked after that.
    pub fn next(&mut self, came: &mut Bytes) -> Result<Option<Bytes>, Fault> {
        while !came.is_empty() {
            let piece = match &mut self.at {
                At::Over => {
                    came.clear();
                    None
                }
                At::Content(left) => {
                    let piece = came.split_to(within(*left, came.len()));
                    *left -= piece.len() as u64;
                    if *left == 0 {
                        self.at = At::Prefix;
                    }
                    Some(piece)
                }
                At::Unknown(left) => {
                    let bytes = within(*left, came.len());
                    came.advance(bytes);
                    *left -= bytes as u64;
                    if *left == 0 {
                        self.at = At::Prefix;
                    }
                    None
                }
                At::Whole { frame, left, .. } => {
                    let bytes = came.len().min(*left);
                    frame.extend_from_slice(&came.split_to(bytes));
                    *left -= bytes;
                    if *left == 0 { Some(self.whole()?) } else { None }
                }
                At::Prefix if self.stream == Stream::Other => Some(came.split_to(came.len())),
                At::Prefix => self.prefix(came)?,
            };
            if piece.is_some() {
                return Ok(piece);
            }
        }
        Ok(None)
    }

    /// Nothing more comes.
    ///
    /// # Errors
    /// If something is missing.
    pub fn end(&self) -> Result<(), Fault> {
        let is_between = matches!(self.at, At::Prefix | At::Over) && self.prefix_bytes == 0;
        if is_between || matches!(self.stream, Stream::Untyped | Stream::Other) {
            return Ok(());
        }
        Err(Fault::Connection(code::FRAME_ERROR))
    }

    /// Takes one byte of a prefix, and begins what it is the prefix of.
    fn prefix(&mut self, came: &mut Bytes) -> Result<Option<Bytes>, Fault> {
        self.prefix[self.prefix_bytes] = came.get_u8();
        self.prefix_bytes += 1;
        let said = &self.prefix[..self.prefix_bytes];
        let Some((kind, rest)) = number(said) else { return Ok(None) };
        if self.stream == Stream::Untyped {
            self.stream = if kind == CONTROL_STREAM { Stream::Control } else { Stream::Other };
            let piece = Bytes::copy_from_slice(said);
            self.prefix_bytes = 0;
            return Ok(Some(piece));
        }
        let Some((length, _)) = number(rest) else { return Ok(None) };
        let begun = self.begin(kind, length);
        self.prefix_bytes = 0;
        begun
    }

    /// Begins a frame whose prefix is whole.
    fn begin(&mut self, kind: u64, length: u64) -> Result<Option<Bytes>, Fault> {
        let unexpected = Err(Fault::Connection(code::FRAME_UNEXPECTED));
        let prefix = &self.prefix[..self.prefix_bytes];
        match (self.stream, kind) {
            (Stream::Request(1), kind::DATA) if length == 0 => {}
            (Stream::Request(1), kind::DATA) => {
                self.at = At::Content(length);
                return Ok(Some(Bytes::copy_from_slice(prefix)));
            }
            (Stream::Request(sections @ 0..=1), kind::HEADERS) => {
                self.stream = Stream::Request(sections + 1);
                if length > HEAD_BYTES_MAX {
                    self.at = At::Over;
                    // Behind a body nobody is answered any more.
                    return match sections {
                        0 => Ok(Some(Bytes::from_static(&TOO_LONG))),
                        _ => Err(Fault::Stream(code::EXCESSIVE_LOAD)),
                    };
                }
                return self.gather(length);
            }
            (Stream::Request(_), kind::DATA | kind::HEADERS) => return unexpected,
            (Stream::Control, kind::SETTINGS | kind::CANCEL_PUSH | kind::GOAWAY | kind::MAX_PUSH_ID) => {
                if length > CONTROL_BYTES_MAX {
                    return Err(Fault::Connection(code::EXCESSIVE_LOAD));
                }
                return self.gather(length);
            }
            (
                _,
                kind::DATA
                | kind::HEADERS
                | kind::CANCEL_PUSH
                | kind::SETTINGS
                | kind::PUSH_PROMISE
                | kind::GOAWAY
                | kind::MAX_PUSH_ID,
            ) => return unexpected,
            (_, kind) if kind::FORMER.contains(&kind) => return unexpected,
            (_, _unknown) if length > 0 => self.at = At::Unknown(length),
            (_, _unknown) => {}
        }
        Ok(None)
    }

    /// Waits for the whole content of a frame.
    fn gather(&mut self, length: u64) -> Result<Option<Bytes>, Fault> {
        let (prefix, left) = (&self.prefix[..self.prefix_bytes], within(length, usize::MAX));
        // Whoever says that it will be long does not get the room for it in advance.
        let mut frame = BytesMut::with_capacity(prefix.len() + left.min(GATHERED_BYTES_FIRST));
        frame.extend_from_slice(prefix);
        self.at = At::Whole { frame, prefix_bytes: prefix.len(), left };
        if left == 0 { self.whole().map(Some) } else { Ok(None) }
    }

    /// Hands a whole frame over, if it may be.
    fn whole(&mut self) -> Result<Bytes, Fault> {
        let At::Whole { frame, prefix_bytes, .. } = std::mem::replace(&mut self.at, At::Prefix) else {
            return Ok(Bytes::new());
        };
        let section = match self.stream {
            Stream::Request(1) => Some(Section::Head),
            Stream::Request(_) => Some(Section::Trailer),
            Stream::Control | Stream::Untyped | Stream::Other => None,
        };
        if let Some(section) = section {
            lines::check(&frame[prefix_bytes..], section).map_err(|refused| match refused {
                Refused::Malformed => Fault::Stream(code::MESSAGE_ERROR),
                Refused::Undecodable => Fault::Connection(code::DECOMPRESSION_FAILED),
            })?;
        }
        Ok(frame.freeze())
    }
}

/// Bytes of `there` that are within a limit.
fn within(limit: u64, there: usize) -> usize {
    usize::try_from(limit).map_or(there, |limit| limit.min(there))
}

/// The number that something begins with (RFC 9000, section 16), and what follows.
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let first = *bytes.first()?;
    let (number, rest) = bytes.split_at_checked(1 << (first >> 6))?;
    let begin = u64::from(first & 0x3f);
    Some((number[1..].iter().fold(begin, |all, byte| all << 8 | u64::from(*byte)), rest))
}

/// A head in the place of one that is too long: the library finds that it is, and says so to the client (431).
static TOO_LONG: [u8; TOO_LONG_BYTES] = too_long();

const TOO_LONG_BYTES: usize = HEAD_BYTES_MAX as usize + 16;

const fn too_long() -> [u8; TOO_LONG_BYTES] {
    const PREFIX: usize = 5;
    /// A section without references, and a field `x` whose value has the rest.
    const LINE: usize = 8;
    let (content, value) = (TOO_LONG_BYTES - PREFIX, TOO_LONG_BYTES - PREFIX - LINE);
    let mut frame = [b'x'; TOO_LONG_BYTES];
    frame[0] = kind::HEADERS as u8;
    frame[1] = 0x80 | (content >> 24) as u8;
    frame[2] = (content >> 16) as u8;
    frame[3] = (content >> 8) as u8;
    frame[4] = content as u8;
    (frame[5], frame[6], frame[7]) = (0, 0, 0x21);
    let rest = value - 0x7f;
    frame[9] = 0x7f;
    frame[10] = 0x80 | (rest & 0x7f) as u8;
    frame[11] = 0x80 | (rest >> 7 & 0x7f) as u8;
    frame[12] = (rest >> 14) as u8;
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A head without a line that matters.
    const HEAD: &[u8] = &[1, 3, 0, 0, 0xd1];

    fn request(bytes: &[u8], at_once: usize) -> Result<Vec<Vec<u8>>, Fault> {
        cut(Frames::of_request(), bytes, at_once)
    }

    fn cut(mut frames: Frames, bytes: &[u8], at_once: usize) -> Result<Vec<Vec<u8>>, Fault> {
        let mut pieces = Vec::new();
        for came in bytes.chunks(at_once) {
            let mut came = Bytes::copy_from_slice(came);
            while let Some(piece) = frames.next(&mut came)? {
                assert!(!piece.is_empty());
                pieces.push(piece.to_vec());
            }
            assert!(came.is_empty());
        }
        frames.end().map(|()| pieces)
    }

    fn control(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Fault> {
        let all = cut(Frames::of_one_way(), bytes, 1000)?;
        assert_eq!(cut(Frames::of_one_way(), bytes, 1)?, all);
        Ok(all)
    }

    #[test]
    fn frames_come_one_by_one_however_they_arrive() {
        let bytes = [HEAD, &[0, 3], b"abc", &[0, 0], &[0x21, 2, 9, 9], &[0x40, 0, 2], b"de", &[1, 2, 0, 0]].concat();
        let pieces = [HEAD, &[0, 3], b"abc", &[0x40, 0, 2], b"de", &[1, 2, 0, 0]];
        assert_eq!(request(&bytes, bytes.len()).unwrap(), pieces);
        for at_once in 1..bytes.len() {
            let all = request(&bytes, at_once).unwrap();
            assert_eq!(all.concat(), pieces.concat(), "{at_once}");
            assert_eq!((&all[0][..], &all[1][..]), (HEAD, &[0, 3][..]), "a head is whole, and a prefix by itself");
        }
    }

    #[test]
    fn what_breaks_off_or_is_in_the_wrong_place_ends_the_connection() {
        let with_head = |rest: &[u8]| [HEAD, rest].concat();
        for (bytes, code, why) in [
            (with_head(&[0, 3, b'a']), code::FRAME_ERROR, "a body breaks off"),
            (with_head(&[0]), code::FRAME_ERROR, "a prefix breaks off"),
            (vec![1, 3, 0, 0], code::FRAME_ERROR, "a head breaks off"),
            (with_head(&[0x21, 2, 9]), code::FRAME_ERROR, "what nobody knows breaks off"),
            (vec![0, 1, b'a'], code::FRAME_UNEXPECTED, "a body without a head"),
            (with_head(&[1, 2, 0, 0, 0, 1, b'a']), code::FRAME_UNEXPECTED, "a body behind its end"),
            (with_head(&[1, 2, 0, 0, 1, 2, 0, 0]), code::FRAME_UNEXPECTED, "a third section"),
            (vec![4, 0], code::FRAME_UNEXPECTED, "settings in a request"),
            (with_head(&[5, 1, 0]), code::FRAME_UNEXPECTED, "a promise"),
            (with_head(&[6, 0]), code::FRAME_UNEXPECTED, "a ping of HTTP/2"),
            (vec![1, 2, 1, 0], code::DECOMPRESSION_FAILED, "a section that needs a table"),
        ] {
            for at_once in [1, 1000] {
                assert_eq!(request(&bytes, at_once), Err(Fault::Connection(code)), "{why}");
            }
        }
    }

    #[test]
    fn a_malformed_section_ends_its_request() {
        assert_eq!(request(&[1, 3, 0, 0, 0xd9], 1), Err(Fault::Stream(code::MESSAGE_ERROR)));
        let behind = [HEAD, &[1, 3, 0, 0, 0xc1]].concat();
        assert_eq!(request(&behind, 1), Err(Fault::Stream(code::MESSAGE_ERROR)));
    }

    #[test]
    fn a_frame_however_long_is_not_kept() {
        // Four gigabytes that nobody knows, then a head that is too long, then more.
        let mut frames = Frames::of_request();
        let mut came = Bytes::from_static(&[0x21, 0xc0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(frames.next(&mut came), Ok(None));
        let some = Bytes::from(vec![0; 1 << 20]);
        for _ in 0..1 << 12 {
            assert_eq!(frames.next(&mut some.clone()), Ok(None));
        }
        let mut came = Bytes::from_static(&[1, 0x80, 1, 0, 0, 9, 9]);
        let head = frames.next(&mut came).unwrap().unwrap();
        assert_eq!(head.len(), TOO_LONG_BYTES);
        assert_eq!(lines::check(&head[5..], Section::Head), Ok(()));
        assert_eq!(number(&head).and_then(|(_, rest)| number(rest)).unwrap().0 as usize, head.len() - 5);
        assert_eq!(
            (frames.next(&mut came), frames.next(&mut some.clone()), frames.end()),
            (Ok(None), Ok(None), Ok(()))
        );
        let behind = [HEAD, &[1, 0x80, 1, 0, 0]].concat();
        assert_eq!(request(&behind, 1), Err(Fault::Stream(code::EXCESSIVE_LOAD)));
    }

    #[test]
    fn the_control_stream_says_what_it_may_and_not_too_much_of_it() {
        let settings = [&[0][..], &[4, 2, 6, 1], &[0x21, 1, 9], &[7, 1, 0]].concat();
        assert_eq!(control(&settings).unwrap(), [&[0][..], &[4, 2, 6, 1], &[7, 1, 0]]);
        for frame in [&[0, 1, 9][..], &[1, 1, 9], &[5, 1, 9], &[2, 1, 9]] {
            let told = control(&[&[0], frame].concat());
            assert_eq!(told, Err(Fault::Connection(code::FRAME_UNEXPECTED)), "{frame:?}");
        }
        assert_eq!(control(&[0, 4, 0x80, 0, 0x20, 0]), Err(Fault::Connection(code::EXCESSIVE_LOAD)));
        assert_eq!(control(&[0, 4, 2, 6]), Err(Fault::Connection(code::FRAME_ERROR)));
    }

    #[test]
    fn other_one_way_streams_pass_as_they_are() {
        let mut frames = Frames::of_one_way();
        let mut came = Bytes::from_static(&[0x40, 0x54, 1, 2, 3]);
        assert_eq!(frames.next(&mut came).unwrap().unwrap().to_vec(), [0x40, 0x54]);
        assert_eq!(frames.next(&mut came).unwrap().unwrap().to_vec(), [1, 2, 3]);
        assert_eq!(frames.end(), Ok(()));
    }

    /// What is handed over of a stream that comes in pieces of this size, and how it ends.
    fn handed_over(mut frames: Frames, bytes: &[u8], at_once: usize) -> (Vec<u8>, Result<(), Fault>) {
        let mut all = Vec::new();
        for came in bytes.chunks(at_once) {
            let mut came = Bytes::copy_from_slice(came);
            loop {
                match frames.next(&mut came) {
                    Ok(Some(piece)) => all.extend_from_slice(&piece),
                    Ok(None) => break,
                    Err(fault) => return (all, Err(fault)),
                }
            }
        }
        let end = frames.end();
        (all, end)
    }

    /// Frames that are mostly some, with whatever in them.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let kind = prop_oneof![4 => 0..2_u8, 1 => 0..16_u8, 1 => Just(0x21)];
        let content = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(|lines| [&[0, 0][..], &lines].concat()),
            Just(vec![0, 0, 0xd1, 0xc1]),
        ];
        let length = prop_oneof![8 => Just(None), 1 => any::<u64>().prop_map(Some)];
        let frame = (kind, content, length).prop_map(|(kind, content, length)| {
            let length = length.map_or(vec![content.len() as u8], |length| (length | 3 << 62).to_be_bytes().to_vec());
            [&[kind][..], &length, &content].concat()
        });
        prop::collection::vec(frame, 0..6).prop_map(|frames| frames.concat())
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_how_they_arrive_changes_nothing(bytes in bytes(), at_once in 1..20_usize) {
            for stream in [Frames::of_request, Frames::of_one_way] {
                let whole = handed_over(stream(), &bytes, usize::MAX);
                prop_assert_eq!(&handed_over(stream(), &bytes, at_once), &whole);
                prop_assert!(whole.0.len() <= bytes.len() + TOO_LONG_BYTES);
            }
        }

        #[test]
        fn what_passes_twice_is_the_same(bytes in bytes()) {
            if let (passed, Ok(())) = handed_over(Frames::of_request(), &bytes, usize::MAX) {
                // But for what is too long, which is no request.
                if !passed.starts_with(&TOO_LONG[..5]) {
                    prop_assert_eq!(handed_over(Frames::of_request(), &passed, usize::MAX), (passed.clone(), Ok(())));
                }
            }
        }
    }
}

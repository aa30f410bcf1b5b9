//! What a request is known by: an id of its own, and the trace it belongs to.
//!
//! An id that a client brings is taken over if it is well-formed ([`is_id`]): whoever asks may choose by what name to ask for it later. Any
//! other is replaced by one that is drawn. A drawn one costs one allocation, which the trace that is begun with it shares: it then has the
//! same digits.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use hirsel_mesh::seam::Chance;
use hirsel_model::spec::{Share, Trace};
use hirsel_role::requests::is_id;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::trace::{self, PARENT_BYTES, SAMPLED, SPAN_DIGITS, TRACE_DIGITS};

/// The field that tells the id of a request: to whoever works on it, and to whoever asked.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators": the golden ratio as an odd number.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// Draws ids without a lock and without a system call. They differ from each other and from those of every other node and life; a stranger
/// who sees some may be able to tell others, so none of them opens anything.
#[derive(Debug)]
pub struct Ids {
    drawn: AtomicU64,
    keys: [u64; 3],
}

/// By what one request is known.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Its id.
    pub id: HeaderValue,
    /// The number it was drawn by.
    number: u64,
    /// A number by chance that is its own.
    draw: u64,
    /// The trace it is part of towards the instance, once that is known.
    pub told: Option<HeaderValue>,
    /// Who asked within the trace that it came with.
    pub parent: Option<[u8; SPAN_DIGITS]>,
}

impl Ids {
    /// Begins at a place, and in an order, that nobody else has.
    pub fn new(chance: &dyn Chance) -> Self {
        Self { drawn: AtomicU64::new(chance.number()), keys: [chance.number(), chance.number(), chance.number()] }
    }

    /// By what the request with these header fields is known.
    pub fn mark(&self, headers: &HeaderMap) -> Mark {
        let number = self.drawn.fetch_add(1, Ordering::Relaxed);
        let draw = mix(number ^ self.keys[2]);
        let mut lines = headers.get_all(X_REQUEST_ID).iter();
        // A copy: the field as it came holds on to all that was read with it.
        let brought = match (lines.next(), lines.next()) {
            (Some(line), None) if is_id(line.as_bytes()) => HeaderValue::from_bytes(line.as_bytes()).ok(),
            _ => None,
        };
        match brought {
            Some(id) => Mark { id, number, draw, told: None, parent: None },
            None => {
                let parent = trace::write(&self.trace(number), &self.span(number), SAMPLED);
                // One allocation for both: the digits of the trace are the id.
                let begun = Bytes::from_owner(parent);
                let id = value(begun.slice(3..3 + TRACE_DIGITS));
                Mark { id, number, draw, told: Some(value(begun)), parent: None }
            }
        }
    }

    /// Tells the instance by what the request is known: its id, and its trace as the route says.
    pub fn tell(&self, mark: &mut Mark, headers: &mut HeaderMap, wanted: Option<Trace>, draw: impl FnOnce() -> u64) {
        headers.insert(X_REQUEST_ID, mark.id.clone());
        let share = match wanted {
            Some(Trace::Untouched) => {
                mark.told = None;
                return;
            }
            Some(Trace::Sampled(share)) => share,
            None => Share::ALL,
        };
        let came = trace::came(headers);
        let span = || self.span(mark.number);
        let (told, continues) = match &came {
            Some(came) => (told(&came.trace, &span(), came.flags), true),
            None if share == Share::ALL || share.takes(draw()) => {
                let begun = || told(&self.trace(mark.number), &span(), SAMPLED);
                (mark.told.take().unwrap_or_else(begun), false)
            }
            None => (told(&self.trace(mark.number), &span(), 0), false),
        };
        mark.parent = came.map(|came| came.parent);
        trace::tell(headers, told.clone(), continues);
        mark.told = Some(told);
    }

    fn trace(&self, number: u64) -> [u8; TRACE_DIGITS] {
        let mut digits = [0; TRACE_DIGITS];
        let halves = [mix(number.wrapping_mul(GAMMA) ^ self.keys[0]), mix(number.rotate_left(32) ^ self.keys[1])];
        trace::hex(&halves[0].to_be_bytes(), &mut digits[..16]);
        trace::hex(&halves[1].to_be_bytes(), &mut digits[16..]);
        // Of 2^128 ids one is no trace.
        if digits == [b'0'; TRACE_DIGITS] { [b'1'; TRACE_DIGITS] } else { digits }
    }

    fn span(&self, number: u64) -> [u8; SPAN_DIGITS] {
        let mut digits = [0; SPAN_DIGITS];
        trace::hex(&mix(number.wrapping_mul(GAMMA) ^ self.keys[2]).max(1).to_be_bytes(), &mut digits);
        digits
    }
}

fn told(trace: &[u8; TRACE_DIGITS], span: &[u8; SPAN_DIGITS], flags: u8) -> HeaderValue {
    let parent: [u8; PARENT_BYTES] = trace::write(trace, span, flags);
    value(Bytes::copy_from_slice(&parent))
}

/// Digits and dashes are a value.
fn value(bytes: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(bytes).unwrap_or(HeaderValue::from_static("-"))
}

/// The finalizer of SplitMix64: one number of another, each of exactly one.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Mark {
    /// Which request it is of those of this life.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// A number by chance, the same each time.
    pub fn draw(&self) -> u64 {
        self.draw
    }

    /// The id as text.
    pub fn id(&self) -> &str {
        self.id.to_str().unwrap_or("-")
    }

    /// Digits of the trace that the instance was told.
    pub fn trace(&self) -> Option<&str> {
        self.told.as_ref()?.to_str().ok()?.get(3..35)
    }

    /// Digits of what the instance was told to be asked by.
    pub fn span(&self) -> Option<&str> {
        self.told.as_ref()?.to_str().ok()?.get(36..52)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{TRACEPARENT, TRACESTATE};
    use std::collections::BTreeSet;
    use std::sync::atomic::AtomicU8;

    const CAME: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[derive(Debug, Default)]
    struct Counted(AtomicU8);

    impl Chance for Counted {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.iter_mut().for_each(|byte| *byte = self.0.fetch_add(1, Ordering::Relaxed));
        }
    }

    fn ids() -> Ids {
        Ids::new(&Counted::default())
    }

    fn with(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    /// The fields that an instance is told of a request with these.
    fn told(lines: &[(&'static str, &str)], trace: Option<Trace>) -> (Mark, HeaderMap) {
        let ids = ids();
        let mut headers = with(lines);
        let mut mark = ids.mark(&headers);
        ids.tell(&mut mark, &mut headers, trace, || u64::MAX);
        (mark, headers)
    }

    #[test]
    fn a_request_without_id_and_trace_gets_both_and_they_are_one() {
        let (mark, headers) = told(&[], None);
        assert_eq!(mark.id().len(), TRACE_DIGITS);
        assert_eq!(headers[X_REQUEST_ID], mark.id());
        let came = trace::came(&headers).expect("a trace");
        assert_eq!((&came.trace[..], came.flags), (mark.id().as_bytes(), SAMPLED));
        assert_eq!((mark.trace(), mark.parent), (Some(mark.id()), None));
        assert_eq!(mark.span().map(str::as_bytes), Some(&came.parent[..]));
    }

    #[test]
    fn an_id_that_is_well_formed_is_taken_over_and_any_other_is_replaced() {
        for id in ["3f2a9c1e-7d4b", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "Root=1-67891233:abc", &"x".repeat(128)] {
            let (mark, headers) = told(&[("x-request-id", id)], None);
            assert_eq!((mark.id(), &headers[X_REQUEST_ID]), (id, &HeaderValue::from_str(id).unwrap()));
            assert_ne!(mark.trace(), Some(id), "its trace is another matter");
        }
        for id in ["", "short", "with space here", "semi;colon;123", "quote\"quote\"", "a/b/c/d/e", &"x".repeat(129)] {
            let (mark, headers) = told(&[("x-request-id", id)], None);
            assert_eq!(mark.id().len(), TRACE_DIGITS, "{id:?}");
            assert_eq!(headers.get_all(X_REQUEST_ID).iter().collect::<Vec<_>>(), [mark.id()], "{id:?}");
        }
        let (mark, _) = told(&[("x-request-id", "12345678"), ("x-request-id", "12345678")], None);
        assert_eq!(mark.id().len(), TRACE_DIGITS, "two are none");
    }

    #[test]
    fn a_trace_goes_on_under_another_parent_and_is_begun_anew_where_it_is_none() {
        let (mark, headers) = told(&[("traceparent", CAME), ("tracestate", "a=1")], None);
        let came = trace::came(&headers).expect("a trace");
        assert_eq!(&came.trace, b"4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(mark.parent.as_ref(), Some(b"00f067aa0ba902b7"));
        assert_ne!(&came.parent, b"00f067aa0ba902b7");
        assert_eq!(headers[TRACESTATE], "a=1");
        let (mark, headers) = told(&[("traceparent", &CAME.to_uppercase()), ("tracestate", "a=1")], None);
        assert_eq!(mark.trace(), Some(mark.id()));
        assert!(!headers.contains_key(TRACESTATE));
    }

    #[test]
    fn a_route_says_how_many_traces_are_sampled_or_leaves_them_alone() {
        let (_, headers) = told(&[], Some(Trace::Sampled(Share(0))));
        assert_eq!(trace::came(&headers).expect("a trace").flags, 0);
        let (_, headers) = told(&[("traceparent", CAME)], Some(Trace::Sampled(Share(0))));
        assert_eq!(trace::came(&headers).expect("a trace").flags, SAMPLED, "whoever began it decided");
        let (mark, headers) = told(&[("traceparent", "x"), ("tracestate", "y")], Some(Trace::Untouched));
        assert_eq!((headers[TRACEPARENT].as_bytes(), headers[TRACESTATE].as_bytes()), (&b"x"[..], &b"y"[..]));
        assert_eq!((mark.trace(), headers[X_REQUEST_ID].len()), (None, TRACE_DIGITS));
        assert!(!told(&[], Some(Trace::Untouched)).1.contains_key(TRACEPARENT));
    }

    #[test]
    fn no_two_are_alike() {
        let (one, other) = (ids(), Ids::new(&Counted(AtomicU8::new(100))));
        let all = (0..5_000).flat_map(|_| [&one, &other].map(|ids| ids.mark(&HeaderMap::new()).id));
        assert_eq!(all.map(|id| id.as_bytes().to_vec()).collect::<BTreeSet<_>>().len(), 10_000);
    }
}

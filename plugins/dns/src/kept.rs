//! Answers over UDP that were given before, kept as bytes: the same question gets them again, in another order, as long as nothing
//! that is known has changed. No more than a look into a table and a copy.
//!
//! Invariants: what is told from here is, byte for byte and order aside, what [`crate::message::reply`] would say; a question that is in
//! any way unusual is not looked up at all. Nothing outlives the names and the news it was made from.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use hirsel_role::Live;

use crate::answer::Order;
use crate::dnssec::Window;
use crate::message::{PLAIN_BYTES_MAX, Reply, UDP_BYTES_MAX};
use crate::metrics::Class;
use crate::names::Names;

/// Memory for what is kept, questions and answers together; beyond it all is forgotten, and what is asked for comes back. It holds some
/// twenty thousand answers.
const BYTES_MAX: usize = 4 << 20;
/// What an answer takes besides its bytes: places in the table.
const PLACE_BYTES: usize = 96;
const HEADER_BYTES: usize = 12;
/// Longest name on the wire (RFC 1035, section 2.3.4).
const NAME_BYTES_MAX: usize = 255;
/// A question without its name; one is its type and class.
const KIND_BYTES: usize = 4;
/// An OPT record without options (RFC 6891).
const OPT_BYTES: usize = 11;
/// An address in an answer, as a reference to the name that was asked for, kind, class, TTL, length: what is before the address itself.
const RECORD_BYTES: usize = 12;

/// The answers.
#[derive(Debug)]
pub struct Kept {
    names: Arc<Names>,
    live: Arc<Live>,
    window: Option<Window>,
    answers: HashMap<Box<[u8]>, Template>,
    bytes: usize,
}

#[derive(Debug)]
struct Template {
    bytes: Box<[u8]>,
    class: Class,
    /// Where addresses are that are told in turn: near ones, and others behind them.
    groups: [Range<usize>; 2],
    /// Bytes of each of them.
    stride: usize,
}

/// A question as it is looked up: its name in lower case, and what else makes a difference.
#[derive(Debug)]
pub struct Key {
    bytes: [u8; NAME_BYTES_MAX + KIND_BYTES + 1],
    len: usize,
    /// Bytes of the name.
    name: usize,
    /// As many as the asker can take.
    limit: usize,
}

impl Key {
    /// The question of a datagram as most of them are: one, plainly written, and EDNS without options. None for all others.
    pub fn of(bytes: &[u8], is_local: bool) -> Option<Self> {
        let header = bytes.first_chunk::<HEADER_BYTES>()?;
        // A question, of the usual kind, for one name; with nothing before what is additional.
        if header[2] & 0xf8 != 0 || header[4..10] != [0, 1, 0, 0, 0, 0] || header[10] != 0 || header[11] > 1 {
            return None;
        }
        let mut key =
            Self { bytes: [0; NAME_BYTES_MAX + KIND_BYTES + 1], len: 0, name: 0, limit: usize::from(PLAIN_BYTES_MAX) };
        let mut at = HEADER_BYTES;
        loop {
            let length = usize::from(*bytes.get(at)?);
            if length > 63 || key.name + length + 1 > NAME_BYTES_MAX {
                return None;
            }
            let label = bytes.get(at..=at + length)?;
            let to = &mut key.bytes[key.name..key.name + label.len()];
            to.copy_from_slice(label);
            // The length is no letter: it is below 64.
            to.make_ascii_lowercase();
            (at, key.name) = (at + label.len(), key.name + label.len());
            if length == 0 {
                break;
            }
        }
        let kind = bytes.get(at..at + KIND_BYTES)?;
        key.bytes[key.name..key.name + KIND_BYTES].copy_from_slice(kind);
        at += KIND_BYTES;
        let mut flags = u8::from(is_local);
        let opt = &bytes[at..];
        match (header[11], opt) {
            (0, []) => {}
            // The root, OPT, size, no extended code, version 0, flags, no options.
            (1, [0, 0, 41, high, low, 0, 0, wants, 0, 0, 0]) if wants & 0x3f == 0 => {
                debug_assert_eq!(opt.len(), OPT_BYTES);
                // Both flags that make a difference: signatures, and NXDOMAIN with them.
                flags |= 2 | (wants >> 4);
                key.limit = usize::from(u16::from_be_bytes([*high, *low]).clamp(PLAIN_BYTES_MAX, UDP_BYTES_MAX));
            }
            _ => return None,
        }
        key.bytes[key.name + KIND_BYTES] = flags;
        key.len = key.name + KIND_BYTES + 1;
        Some(key)
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Kept {
    /// Nothing is kept yet.
    pub fn new(names: Arc<Names>, live: Arc<Live>) -> Self {
        Self { names, live, window: None, answers: HashMap::new(), bytes: 0 }
    }

    /// Forgets everything if it was made from other names or other news than these, or signed for another time.
    pub fn follow(&mut self, names: &Arc<Names>, live: &Arc<Live>, window: Option<Window>) {
        if Arc::ptr_eq(&self.names, names) && Arc::ptr_eq(&self.live, live) && self.window == window {
            return;
        }
        (self.names, self.live, self.window) = (names.clone(), live.clone(), window);
        self.clear();
    }

    fn clear(&mut self) {
        self.answers.clear();
        self.bytes = 0;
    }

    /// Writes the answer to a question into `out`, and tells what it was; none when it is not kept. `draw` is any number, a new one each
    /// time.
    pub fn answer(&self, key: &Key, question: &[u8], draw: u64, out: &mut Vec<u8>) -> Option<Class> {
        let found = self.answers.get(key.bytes()).filter(|found| found.bytes.len() <= key.limit)?;
        let [near, far] = &found.groups;
        out.clear();
        out.extend_from_slice(&found.bytes[..near.start]);
        for group in [near, far] {
            let group = &found.bytes[group.clone()];
            // Less than there are.
            let turn = draw.checked_rem((group.len() / found.stride) as u64).unwrap_or(0) as usize * found.stride;
            out.extend_from_slice(&group[turn..]);
            out.extend_from_slice(&group[..turn]);
        }
        out.extend_from_slice(&found.bytes[far.end..]);
        // The number of the question, whether it wanted recursion, and its name as it was written.
        out[..2].copy_from_slice(&question[..2]);
        out[2] = out[2] & !1 | question[2] & 1;
        let name = HEADER_BYTES..HEADER_BYTES + key.name;
        out[name.clone()].copy_from_slice(&question[name]);
        Some(found.class)
    }

    /// Keeps an answer, where that may be done.
    pub fn keep(&mut self, key: &Key, reply: &Reply) {
        let Some(bytes) = reply.bytes.as_deref().filter(|_| reply.is_kept && !reply.is_cut) else { return };
        let begin = HEADER_BYTES + key.name + KIND_BYTES;
        let Some((groups, stride)) = groups(bytes, begin, reply.order) else { return };
        if self.bytes >= BYTES_MAX {
            self.clear();
        }
        self.bytes += key.len + bytes.len() + PLACE_BYTES;
        self.answers.insert(key.bytes().into(), Template { bytes: bytes.into(), class: reply.class, groups, stride });
    }

    /// How many answers are kept.
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }
}

/// Where addresses are told in turn: from `begin` on, where the answers are.
fn groups(bytes: &[u8], begin: usize, order: Order) -> Option<([Range<usize>; 2], usize)> {
    let Order::Turned { near, of: count } = order else { return Some(([begin..begin, begin..begin], 1)) };
    if count == 0 {
        return Some(([begin..begin, begin..begin], 1));
    }
    let length = bytes.get(begin + RECORD_BYTES - 2..begin + RECORD_BYTES)?;
    let stride = RECORD_BYTES + usize::from(u16::from_be_bytes([length[0], length[1]]));
    let (middle, end) = (begin + near.min(count) * stride, begin + count * stride);
    let records = bytes.get(begin..end)?;
    // Each begins with a reference to the question, and is of the same kind: they can change places.
    let is_alike = records
        .chunks(stride)
        .all(|record| record[..RECORD_BYTES] == records[..RECORD_BYTES] && record[..2] == [0xc0, 12]);
    is_alike.then_some(([begin..middle, middle..end], stride))
}

#[cfg(test)]
mod tests;

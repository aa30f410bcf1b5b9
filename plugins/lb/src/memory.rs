//! The requests that were last over, for whoever asks for one of them by its id.
//!
//! Bounded in number, and in what is kept of each: nothing is allocated for one once the rings are full. Those that did not go as they
//! should have, and slow ones, have rings of their own, so that the many do not wash them away.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use hirsel_model::{Timestamp, WallTime};
use hirsel_role::requests::{KEPT_MAX, RECENT_MAX, Remembered, Tried};
use http::{HeaderValue, Method};

use crate::account::tries::Tries;
use crate::cache::Outcome;
use crate::clients::Proof;
use crate::clients::shown::Shown;
use crate::fault::Fault;
use crate::meter::Watch;
use crate::table::Origin;

/// Rings that are filled in turn: requests of several processors seldom wait for each other.
const RINGS: usize = 8;
/// Kept of a host.
const HOST_BYTES_MAX: usize = 63;
/// Kept of a path.
const PATH_BYTES_MAX: usize = 95;

/// A text that is cut where it is too long.
#[derive(Clone, Copy)]
pub struct Cut<const N: usize> {
    length: u8,
    bytes: [u8; N],
}

impl<const N: usize> Cut<N> {
    /// The beginning of `text`. At most 255 bytes.
    pub fn of(text: &[u8]) -> Self {
        let mut bytes = [0; N];
        let length = text.len().min(N).min(usize::from(u8::MAX));
        bytes[..length].copy_from_slice(&text[..length]);
        Self { length: u8::try_from(length).unwrap_or(u8::MAX), bytes }
    }

    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes[..usize::from(self.length)]);
        // Whoever reads it sits at a terminal.
        text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
    }
}

/// A request that is over.
pub struct Past {
    /// Its id.
    pub id: HeaderValue,
    /// The `traceparent` that the instance was told.
    pub told: Option<HeaderValue>,
    /// When it began.
    pub begun: Timestamp,
    /// How long it took.
    pub took_ms: u64,
    /// How long until the head of its answer was there.
    pub first_byte_ms: Option<u64>,
    /// Who asked.
    pub client: IpAddr,
    /// How.
    pub method: Method,
    /// The host it was for.
    pub host: Cut<HOST_BYTES_MAX>,
    /// Its path, without the query.
    pub path: Cut<PATH_BYTES_MAX>,
    /// Its route.
    pub watch: Option<Arc<Watch>>,
    /// What it led to.
    pub origin: Option<Arc<Origin>>,
    /// What the client was answered.
    pub status: u16,
    /// Why it did not go as it should have.
    pub fault: Option<Fault>,
    /// What the cache did, where its route has one.
    pub cached: Option<Outcome>,
    /// What its client showed, where its route asks for that.
    pub proof: Option<Arc<Proof>>,
    /// How much of a body went out.
    pub bytes_out: u64,
    /// What was tried.
    pub tries: Tries,
}

#[derive(Default)]
struct Ring {
    recent: VecDeque<Past>,
    kept: VecDeque<Past>,
}

/// Requests that are over.
#[derive(Default)]
pub struct Memory {
    rings: [Mutex<Ring>; RINGS],
}

impl Memory {
    /// Keeps a request, which was the `number`th; `long` if it is to be kept for longer.
    pub fn keep(&self, number: u64, past: Past, long: bool) {
        let ring = &self.rings[usize::try_from(number % RINGS as u64).unwrap_or(0)];
        let mut ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
        let (ring, most) = if long { (&mut ring.kept, KEPT_MAX) } else { (&mut ring.recent, RECENT_MAX) };
        if ring.len() >= most / RINGS {
            ring.pop_front();
        }
        ring.push_back(past);
    }

    /// What is known of requests called `id`, the oldest first.
    pub fn recall(&self, id: &str, now: Timestamp, wall: WallTime) -> Vec<Remembered> {
        let mut found = Vec::new();
        for ring in &self.rings {
            let ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
            let all = ring.kept.iter().chain(&ring.recent).filter(|past| past.id.as_bytes() == id.as_bytes());
            found.extend(all.map(|past| past.told(now, wall)));
        }
        found.sort_by_key(|past| past.at_ms);
        found
    }
}

impl Past {
    fn told(&self, now: Timestamp, wall: WallTime) -> Remembered {
        let ago_ms = u64::try_from(now.since(self.begun).as_millis()).unwrap_or(u64::MAX);
        let trace = self.told.as_ref().and_then(|told| told.to_str().ok()?.get(3..35).map(str::to_owned));
        Remembered {
            id: self.id.to_str().unwrap_or_default().to_owned(),
            trace,
            at_ms: wall.0.saturating_sub(ago_ms),
            client: self.client.to_string(),
            asked: format!("{} {}{}", self.method, self.host.text(), self.path.text()),
            route: self.watch.as_ref().map(|watch| watch.meter.route.clone()),
            origin: self.origin.as_ref().map(|origin| origin.to_string()),
            status: self.status,
            failed: self.fault.map(|fault| fault.word().to_owned()),
            cached: self.cached.map(|outcome| outcome.word().to_owned()),
            certificate: self.proof.as_ref().and_then(|proof| proof.shown.as_ref()).map(Shown::words),
            first_byte_ms: self.first_byte_ms,
            took_ms: self.took_ms,
            bytes_out: self.bytes_out,
            tries: self.tries.told(self.begun).collect(),
            tried: self.tries.count(),
        }
    }
}

/// What is told of a try.
pub(crate) fn tried(whom: &crate::instance::Whom, after_ms: u64, took_ms: u64, outcome: &str) -> Tried {
    use crate::instance::Whom;
    let node = match whom {
        Whom::Instance { id: _, node } => Some(*node),
        Whom::Outside(_) => None,
    };
    Tried { whom: whom.to_string(), node, after_ms, took_ms, outcome: outcome.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn past(number: u64) -> Past {
        Past {
            id: HeaderValue::from_str(&format!("request-{number}")).unwrap(),
            told: None,
            begun: Timestamp(number),
            took_ms: 5,
            first_byte_ms: None,
            client: [127, 0, 0, 1].into(),
            method: Method::GET,
            host: Cut::of(b"h"),
            path: Cut::of(b"/\x1b[2J"),
            watch: None,
            origin: None,
            status: 200,
            fault: None,
            cached: None,
            proof: None,
            bytes_out: 0,
            tries: Tries::default(),
        }
    }

    #[test]
    fn as_many_as_there_is_room_for_are_known_and_the_odd_ones_for_longer() {
        let memory = Memory::default();
        for number in 0..10_000 {
            memory.keep(number, past(number), number == 3);
        }
        let known =
            |number: u64| memory.recall(&format!("request-{number}"), Timestamp(10_000), WallTime(20_000)).len();
        assert_eq!((known(3), known(9_999), known(10_000 - RECENT_MAX as u64)), (1, 1, 1));
        assert_eq!((known(4), known(9_999 - RECENT_MAX as u64)), (0, 0));
    }

    #[test]
    fn what_is_remembered_is_told_in_times_of_the_wall_and_without_control_characters() {
        let memory = Memory::default();
        memory.keep(9, past(9), false);
        let told = &memory.recall("request-9", Timestamp(1_009), WallTime(50_000))[0];
        assert_eq!((told.at_ms, told.asked.as_str()), (49_000, "GET h/\u{fffd}[2J"));
    }

    #[test]
    fn an_id_that_came_twice_is_found_twice() {
        let memory = Memory::default();
        memory.keep(1, Past { begun: Timestamp(50), ..past(7) }, false);
        memory.keep(2, Past { begun: Timestamp(40), ..past(7) }, true);
        let told = memory.recall("request-7", Timestamp(100), WallTime(1_000));
        assert_eq!(told.iter().map(|past| past.at_ms).collect::<Vec<_>>(), [940, 950]);
    }

    #[test]
    fn a_text_that_is_too_long_is_cut() {
        assert_eq!(Cut::<3>::of("abcdef".as_bytes()).text(), "abc");
        assert_eq!(Cut::<3>::of("aß∂".as_bytes()).text(), "aß");
        assert_eq!(Cut::<300>::of(&[b'a'; 400]).text().len(), 255);
    }
}

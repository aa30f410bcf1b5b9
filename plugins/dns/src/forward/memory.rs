//! What resolvers said, for as long as they said that it holds. Pure: it is told the time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hirsel_model::Timestamp;

use super::{Asked, Found};

/// Bytes of one half; two of them are kept. Together they hold some thirty thousand answers, more than a host asks for.
const HALF_BYTES: usize = 4 << 20;
/// What an answer takes besides its own bytes and its name.
const PLACE_BYTES: usize = 160;
/// Whatever resolvers say, nothing is remembered for longer: an hour.
const KEEP_MAX: Duration = Duration::from_secs(3_600);

/// The memory, in two halves: when the younger one is full the older one is forgotten, and what is asked for again moves on.
#[derive(Debug, Default)]
pub(super) struct Memory {
    young: HashMap<Asked, Kept>,
    old: HashMap<Asked, Kept>,
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Kept {
    found: Arc<Found>,
    until: Timestamp,
}

impl Memory {
    /// What is remembered and holds.
    pub(super) fn get(&mut self, asked: &Asked, now: Timestamp) -> Option<Arc<Found>> {
        if let Some(kept) = self.young.get(asked) {
            return (now < kept.until).then(|| kept.found.clone());
        }
        let kept = self.old.remove(asked).filter(|kept| now < kept.until)?;
        let found = kept.found.clone();
        self.put(asked.clone(), kept);
        Some(found)
    }

    /// Remembers what was found for so many seconds.
    pub(super) fn keep(&mut self, asked: Asked, found: Arc<Found>, seconds: u32, now: Timestamp) {
        if seconds > 0 {
            let until = now + Duration::from_secs(u64::from(seconds)).min(KEEP_MAX);
            self.old.remove(&asked);
            self.put(asked, Kept { found, until });
        }
    }

    fn put(&mut self, asked: Asked, kept: Kept) {
        let bytes = kept.found.bytes.len() + asked.name.len() + PLACE_BYTES;
        if self.bytes + bytes > HALF_BYTES {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
        self.bytes += bytes;
        if let Some(before) = self.young.insert(asked.clone(), kept) {
            self.bytes -= before.found.bytes.len() + asked.name.len() + PLACE_BYTES;
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{Name, RecordType};

    use super::*;

    fn asked(name: &str) -> Asked {
        Asked {
            name: Name::from_ascii(name).unwrap(),
            kind: RecordType::A,
            wants_signatures: false,
            is_unchecked: false,
        }
    }

    fn found(bytes: usize) -> Arc<Found> {
        Arc::new(Found { bytes: vec![0; bytes], at: Timestamp(0) })
    }

    #[test]
    fn what_was_said_holds_as_long_as_was_said_and_an_hour_at_most() {
        let (mut memory, now) = (Memory::default(), Timestamp(1_000));
        memory.keep(asked("a."), found(10), 5, now);
        memory.keep(asked("b."), found(10), 0, now);
        memory.keep(asked("c."), found(10), u32::MAX, now);
        let after = |seconds| now + Duration::from_secs(seconds);
        assert!(memory.get(&asked("a."), after(4)).is_some() && memory.get(&asked("a."), after(5)).is_none());
        assert!(memory.get(&asked("b."), now).is_none(), "it said that it must not be remembered");
        assert!(memory.get(&asked("c."), after(3_599)).is_some() && memory.get(&asked("c."), after(3_600)).is_none());
    }

    #[test]
    fn memory_has_an_end_and_what_is_asked_for_stays() {
        let (mut memory, now) = (Memory::default(), Timestamp(0));
        memory.keep(asked("stays."), found(100), 3_600, now);
        for number in 0..100_000_u32 {
            memory.keep(asked(&format!("n{number}.")), found(400), 3_600, now);
            if number.is_multiple_of(1_000) {
                assert!(memory.get(&asked("stays."), now).is_some());
            }
            assert!(memory.bytes <= HALF_BYTES);
        }
        assert!(memory.get(&asked("n0."), now).is_none() && memory.get(&asked("n99999."), now).is_some());
    }
}

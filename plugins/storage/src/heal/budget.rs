//! How fast pieces are made anew and moved, so that requests keep their share of the network: a budget of bytes per second, told the time.
//!
//! What is counted is what the node that heals reads and writes for a piece ([`cost`]). A piece may begin once all that was begun before is paid
//! for, so one that is larger than a second's worth goes, too, and others wait for as long as it takes. Nothing here waits.
//!
//! - A chunk that bears no further loss ([`is_urgent`]) never waits. It is paid for all the same, by those that may wait.
//! - Where both repairs and moves wait they take turns: neither keeps the other waiting for as long as it has something to do.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hirsel_model::Timestamp;

use crate::codec::Scheme;
use crate::meta::kinds::Class;

/// What was not used within so long can be used at once: repairs are looked for once a second.
const SAVED_S_MAX: u64 = 2;
/// What is urgent makes others wait for it no longer than this.
const OWED_S_MAX: u64 = 10;
/// It is the turn of repairs that had to wait for so long: whoever looks for them comes back sooner, if there is anything left.
const TURN: Duration = Duration::from_secs(2);
/// Nobody asks again sooner, or later: what waits may have become urgent.
const AGAIN_MS: (u64, u64) = (100, 1_000);

/// Bytes per second, and what was taken of them. Copies are the same one.
#[derive(Clone, Debug, Default)]
pub struct Budget(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// None where there is no limit.
    rate: Option<u64>,
    /// Bytes that may be used now; less than none where more was taken.
    left: i128,
    /// When that was so.
    at: Timestamp,
    /// Until when moves leave the turn to repairs.
    repairs_until: Timestamp,
}

impl Budget {
    /// So many bytes per second; no limit where there are none.
    pub fn new(rate: Option<u64>) -> Budget {
        let rate = rate.filter(|rate| *rate > 0);
        Budget(Arc::new(Mutex::new(State { rate, ..State::default() })))
    }

    /// How many of these repairs, the most urgent first, may begin now: for each what it costs, and whether it is urgent. They are paid for with
    /// that.
    pub fn repairs(&self, now: Timestamp, wanted: impl Iterator<Item = (u64, bool)>) -> usize {
        let mut state = self.state();
        state.earn(now);
        let mut begun = 0;
        for (bytes, is_urgent) in wanted {
            if !is_urgent && !state.is_paid() {
                // Who has begun something lets moves have their turn.
                state.repairs_until = if begun == 0 { now + TURN } else { now };
                return begun;
            }
            state.pay(bytes, is_urgent);
            begun += 1;
        }
        state.repairs_until = now;
        begun
    }

    /// Whether a piece that moves may begin now. It is paid for with that.
    ///
    /// # Errors
    /// After how long it is worth asking again.
    pub fn moves(&self, now: Timestamp, bytes: u64, is_urgent: bool) -> Result<(), Duration> {
        let mut state = self.state();
        state.earn(now);
        if is_urgent || (state.is_paid() && state.repairs_until <= now) {
            state.pay(bytes, is_urgent);
            return Ok(());
        }
        let owed_ms = u64::try_from(-state.left).unwrap_or_default() / state.rate.unwrap_or(1).div_ceil(1_000).max(1);
        Err(Duration::from_millis(owed_ms.clamp(AGAIN_MS.0, AGAIN_MS.1)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn earn(&mut self, now: Timestamp) {
        let Some(rate) = self.rate else { return };
        let earned = i128::from(rate) * now.since(self.at).as_millis() as i128 / 1_000;
        self.left = (self.left + earned).min(i128::from(rate * SAVED_S_MAX));
        self.at = now;
    }

    /// Whether all that was begun is paid for.
    fn is_paid(&self) -> bool {
        self.rate.is_none() || self.left >= 0
    }

    fn pay(&mut self, bytes: u64, is_urgent: bool) {
        let Some(rate) = self.rate else { return };
        let left = self.left - i128::from(bytes);
        let least = self.left.min(-i128::from(rate * OWED_S_MAX));
        self.left = if is_urgent { left.max(least) } else { left };
    }
}

/// What a piece of a chunk of so many bytes costs: what is read to make it, and what is written.
pub fn cost(class: Class, bytes: u32) -> u64 {
    match class {
        Class::Copies(_) => 2 * u64::from(bytes),
        // A stripe as a whole where there can be no such code: then there is no shard either.
        Class::Erasure(data, parity) => {
            let shard = Scheme::new(data, parity).map_or(bytes, |scheme| scheme.shard_bytes(bytes));
            (u64::from(data) + 1) * u64::from(shard)
        }
    }
}

/// Whether a chunk of which so many pieces are missing is lost with the next one.
pub fn is_urgent(class: Class, missing: usize) -> bool {
    missing > 0 && missing + usize::from(class.enough()) >= usize::from(class.pieces())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn s(seconds: u64) -> Timestamp {
        Timestamp(1_000_000 + seconds * 1_000)
    }

    #[test]
    fn as_much_is_repaired_as_the_rate_says_however_large_the_pieces_are() {
        for bytes in [4_096, 100_000, 8 * MIB, 100 * MIB] {
            let budget = Budget::new(Some(10 * MIB));
            let mut done = 0;
            for second in 0..1_000 {
                done += budget.repairs(s(second), std::iter::repeat_n((bytes, false), 100_000)) as u64 * bytes;
            }
            let expected = 10 * MIB * 1_000;
            assert!(done >= expected && done <= expected + 20 * MIB + bytes, "{done} bytes, {bytes} each");
        }
    }

    #[test]
    fn what_was_not_used_is_saved_for_two_seconds_and_no_longer() {
        let budget = Budget::new(Some(10 * MIB));
        assert_eq!(budget.repairs(s(0), std::iter::empty()), 0);
        let all = |now| budget.repairs(now, std::iter::repeat_n((MIB, false), 1_000));
        // All that is paid for, and the one that is begun with nothing left.
        assert_eq!(all(s(3_600)), 21);
        assert_eq!(all(s(3_600)), 0);
        assert_eq!(all(s(3_601)), 10);
    }

    #[test]
    fn what_bears_no_further_loss_does_not_wait_and_others_wait_for_it_for_a_while() {
        let budget = Budget::new(Some(10 * MIB));
        let urgent = std::iter::repeat_n((MIB, true), 1_000).chain([(MIB, false)]);
        assert_eq!(budget.repairs(s(0), urgent), 1_000);
        assert_eq!(budget.repairs(s(9), [(MIB, false)].into_iter()), 0);
        assert_eq!(budget.repairs(s(9), [(MIB, true), (MIB, false)].into_iter()), 1);
        assert_eq!(budget.moves(s(9), MIB, true), Ok(()));
        assert_eq!(budget.repairs(s(10), [(MIB, false)].into_iter()), 0);
        assert_eq!(budget.repairs(s(11), [(MIB, false)].into_iter()), 1);
    }

    #[test]
    fn repairs_and_moves_take_turns() {
        let budget = Budget::new(Some(10 * MIB));
        let (mut repaired, mut moved) = (0, 0);
        for ms in 0..600_000 {
            let now = Timestamp(1_000_000 + ms);
            if ms % 1_000 == 0 {
                repaired += budget.repairs(now, std::iter::repeat_n((MIB, false), 256));
            }
            while budget.moves(now, MIB, false).is_ok() {
                moved += 1;
            }
        }
        assert!((5_990..=6_021).contains(&(repaired + moved)), "{repaired} and {moved}");
        assert!(repaired > 1_500 && moved > 1_500, "{repaired} and {moved}");
    }

    #[test]
    fn repairs_that_nobody_looks_for_any_more_keep_nothing_waiting() {
        let budget = Budget::new(Some(10 * MIB));
        assert_eq!(budget.moves(s(0), 25 * MIB, false), Ok(()));
        let repairs = |now, pieces| budget.repairs(now, std::iter::repeat_n((MIB, false), pieces));
        assert_eq!(repairs(s(0), 9), 0);
        assert!(budget.moves(s(1), MIB, false).is_err(), "it is their turn");
        assert_eq!(budget.moves(s(2), MIB, false), Ok(()));
        while budget.moves(s(2), MIB, false).is_ok() {}
        assert_eq!(repairs(s(2), 9), 0);
        assert_eq!(repairs(s(3), 0), 0, "there are none any more");
        assert_eq!(budget.moves(s(3), MIB, false), Ok(()));
    }

    #[test]
    fn whoever_waits_is_told_for_how_long() {
        let budget = Budget::new(Some(10 * MIB));
        assert_eq!(budget.moves(s(0), 25 * MIB, false), Ok(()));
        let wait = |now| budget.moves(now, MIB, false).map_err(|wait| wait.as_millis());
        // Twenty of them had been saved.
        assert_eq!(wait(s(0)), Err(499));
        assert_eq!(wait(Timestamp(s(0).0 + 499)), Err(100));
        assert_eq!(wait(Timestamp(s(0).0 + 520)), Ok(()));
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        for budget in [Budget::default(), Budget::new(None), Budget::new(Some(0))] {
            assert_eq!(budget.repairs(s(0), std::iter::repeat_n((u64::MAX, false), 9)), 9);
            assert_eq!(budget.moves(s(0), u64::MAX, false), Ok(()));
        }
    }

    #[test]
    fn a_shard_costs_what_is_read_for_it_and_urgent_is_what_bears_no_further_loss() {
        assert_eq!(cost(Class::Copies(3), 1_000), 2_000);
        assert_eq!(cost(Class::Erasure(4, 2), 4 << 20), 5 << 20);
        let urgent = |class| (0..4).filter(|missing| is_urgent(class, *missing)).collect::<Vec<_>>();
        assert_eq!(urgent(Class::Copies(3)), [2, 3]);
        assert_eq!(urgent(Class::Copies(1)), [1, 2, 3]);
        assert_eq!(urgent(Class::Erasure(4, 2)), [2, 3]);
        assert_eq!(urgent(Class::Erasure(8, 3)), [3]);
    }
}

//! Whom a read is asked of, and when it is done: a decision, told the time and what happened.
//!
//! One copy is enough, or k shards of a stripe, the ones of data first. As many sources as are needed are asked at once; whenever one
//! fails, and each time that too few have answered for a while ([`crate::patience`] says how long), one more is. Whoever answers first counts.
//!
//! Nothing here sends anything: [`crate::drive`] does what this says.

use std::time::Duration;

/// No read takes longer.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// A read on its way. Time is counted from its beginning.
#[derive(Clone, Debug)]
pub struct Gather {
    sources: usize,
    needed: usize,
    asked: usize,
    answered: usize,
    failed: usize,
    hedges: usize,
    hedge_after: Duration,
    hedged_at: Duration,
}

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As many as are needed answered.
    Enough,
    /// They cannot any more, or not in time.
    TooFew,
}

impl Gather {
    /// A read of `needed` out of `sources` sources, one more of which is asked each time that too few have answered for `hedge_after`.
    pub fn new(sources: usize, needed: usize, hedge_after: Duration) -> Gather {
        let (asked, answered, failed, hedges) = (0, 0, 0, 0);
        Gather { sources, needed, asked, answered, failed, hedges, hedge_after, hedged_at: Duration::ZERO }
    }

    /// How many sources were asked since others were slow.
    pub fn hedges(&self) -> usize {
        self.hedges
    }

    /// A source answered.
    pub fn answered(&mut self) {
        self.answered += 1;
    }

    /// A source failed.
    pub fn failed(&mut self) {
        self.failed += 1;
    }

    /// Which sources are to be asked now.
    pub fn decide(&mut self, now: Duration) -> std::ops::Range<usize> {
        let from = self.asked;
        let running = self.asked - self.answered - self.failed;
        let lacking = self.needed.saturating_sub(self.answered + running);
        self.asked = (self.asked + lacking).min(self.sources);
        if self.asked > from {
            self.hedged_at = now;
        } else if now.saturating_sub(self.hedged_at) >= self.hedge_after && self.asked < self.sources {
            self.asked += 1;
            self.hedges += 1;
            self.hedged_at = now;
        }
        from..self.asked
    }

    /// How it ended, if it has, once those to be asked now have been.
    pub fn end(&self, now: Duration) -> Option<End> {
        if self.answered >= self.needed {
            return Some(End::Enough);
        }
        (self.sources - self.failed < self.needed || now >= DEADLINE).then_some(End::TooFew)
    }

    /// When to decide again, if nothing happens before.
    pub fn wake(&self) -> Duration {
        if self.asked < self.sources { (self.hedged_at + self.hedge_after).min(DEADLINE) } else { DEADLINE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn one_copy_is_asked_for_and_another_when_it_is_slow() {
        let mut read = Gather::new(3, 1, ms(50));
        assert_eq!(read.decide(ms(0)), 0..1);
        assert!(read.decide(ms(10)).is_empty());
        assert_eq!((read.wake(), read.hedges()), (ms(50), 0));
        assert_eq!(read.decide(ms(50)), 1..2);
        read.failed();
        assert!(read.decide(ms(60)).is_empty(), "one is still asked");
        read.failed();
        assert_eq!(read.decide(ms(61)), 2..3);
        assert_eq!(read.end(ms(61)), None);
        read.answered();
        assert_eq!((read.end(ms(62)), read.hedges()), (Some(End::Enough), 1));
        let mut slow = Gather::new(3, 1, ms(200));
        assert_eq!((slow.decide(ms(0)), slow.wake()), (0..1, ms(200)));
        assert!(slow.decide(ms(199)).is_empty());
        assert_eq!(slow.decide(ms(200)), 1..2);
    }

    #[test]
    fn four_of_six_shards_are_enough_and_three_are_not() {
        let mut read = Gather::new(6, 4, ms(50));
        assert_eq!(read.decide(ms(0)), 0..4);
        read.failed();
        read.answered();
        assert_eq!(read.decide(ms(1)), 4..5);
        read.failed();
        assert_eq!(read.decide(ms(2)), 5..6);
        assert_eq!(read.end(ms(2)), None);
        read.failed();
        assert_eq!(read.end(ms(2)), Some(End::TooFew));
        assert_eq!(Gather::new(2, 4, ms(50)).end(ms(0)), Some(End::TooFew));
    }

    #[test]
    fn a_read_of_which_nobody_answers_has_an_end() {
        let mut read = Gather::new(2, 1, ms(50));
        read.decide(ms(0));
        read.decide(ms(50));
        assert_eq!((read.wake(), read.end(DEADLINE)), (DEADLINE, Some(End::TooFew)));
    }
}

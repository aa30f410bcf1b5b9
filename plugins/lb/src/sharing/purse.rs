//! How many requests may be told twice: a part of all of them, so that what is slow is not made slower by it.

use std::sync::atomic::{AtomicI64, Ordering};

/// What telling a request twice costs, where each request brings a part of it.
const COST: i64 = 100;

/// What there is to be spent by the requests of a route.
#[derive(Debug)]
pub struct Purse {
    left: AtomicI64,
    brings: i64,
    most: i64,
}

impl Purse {
    /// For `share_percent` of all requests in the long run, and `burst` of them at once when it was not needed for long.
    pub fn new(share_percent: u32, burst: u32) -> Self {
        let most = i64::from(burst) * COST;
        Self { left: AtomicI64::new(most), brings: i64::from(share_percent), most }
    }

    /// A request has come.
    pub fn bring(&self) {
        // A bound, not a count: what is brought at once beyond it is taken off by the next.
        if self.left.fetch_add(self.brings, Ordering::Relaxed) + self.brings > self.most {
            self.left.store(self.most, Ordering::Relaxed);
        }
    }

    /// Whether one may be told twice now; if so it is paid for.
    pub fn spend(&self) -> bool {
        let enough = |left: i64| left.checked_sub(COST).filter(|left| *left >= 0);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enough).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_all_requests_is_told_twice_and_some_at_once() {
        let purse = Purse::new(10, 10);
        assert_eq!((0..100).filter(|_| purse.spend()).count(), 10);
        let mut spent = 0;
        for _ in 0..1_000 {
            purse.bring();
            spent += u32::from(purse.spend());
        }
        assert_eq!(spent, 100);
        for _ in 0..10_000 {
            purse.bring();
        }
        assert_eq!((0..100).filter(|_| purse.spend()).count(), 10, "what was not needed is not saved up");
    }
}

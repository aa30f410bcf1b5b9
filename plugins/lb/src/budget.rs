//! A bound on the bytes that are kept in memory for all requests together. Beyond it requests and answers are streamed, and lose
//! only the chance to be told again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that may be kept for all requests together: a thousand full-size ones.
pub const KEPT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What may still be kept.
#[derive(Debug)]
pub struct Budget {
    left: AtomicU64,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self { left: AtomicU64::new(bytes) })
    }

    /// How many bytes are left.
    pub fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    /// Takes `bytes`, or nothing if that many are not left.
    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Reserved> {
        let took = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        took.ok().map(|_| Reserved { budget: self.clone(), bytes })
    }
}

/// Bytes taken from a budget; given back when dropped.
#[derive(Debug)]
pub struct Reserved {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Reserved {
    /// How many.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes `more` besides, `most` in all. False, with nothing taken, if that is too much or not left.
    pub fn grow(&mut self, more: u64, most: u64) -> bool {
        let bytes = self.bytes.saturating_add(more);
        if bytes > most {
            return false;
        }
        let Some(mut reserved) = self.budget.reserve(more) else { return false };
        // Its own share is given back with all of it.
        reserved.bytes = 0;
        self.bytes = bytes;
        true
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_missing_until_it_is_dropped() {
        let budget = Budget::new(100);
        let first = budget.reserve(60).expect("fits");
        assert!(budget.reserve(60).is_none());
        drop(first);
        assert!(budget.reserve(100).is_some());
    }

    #[test]
    fn what_is_reserved_grows_as_far_as_it_may_and_there_is() {
        let budget = Budget::new(100);
        let mut first = budget.reserve(0).expect("fits");
        assert!(first.grow(60, 70));
        assert!(!first.grow(20, 70), "more than it may");
        let second = budget.reserve(35).expect("fits");
        assert!(!first.grow(10, 70), "more than there is");
        drop((first, second));
        assert!(budget.reserve(100).is_some());
    }
}

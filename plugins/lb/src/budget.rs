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
}

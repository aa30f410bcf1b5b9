//! The log of requests on its way to disk: lines wait in a bounded room, and a task of its own writes them.
//!
//! No request waits for a disk. What there is no room for, and what the disk does not take, is dropped and counted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hirsel_role::Host;
use hirsel_role::requests::JOURNAL;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;
use tracing::{info, warn};

pub mod line;
pub mod syslog;

/// Lines that wait for the disk, in bytes: some seconds of a busy node.
const WAITING_BYTES_MAX: usize = 4 << 20;

/// Lines are gathered for this long before they are written: one write for many.
const GATHER: Duration = Duration::from_millis(100);

/// Lines on their way to disk.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    some: Notify,
    /// Lines that were written.
    pub written: Counter,
    /// Lines that were dropped.
    pub dropped: Counter,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    lines: u64,
}

impl Queue {
    /// Takes a line with its end, if there is room.
    pub fn push(&self, line: &str) {
        let was_empty = {
            let mut waiting = self.waiting();
            if waiting.bytes.len() + line.len() > WAITING_BYTES_MAX {
                drop(waiting);
                self.dropped.inc();
                return;
            }
            let was_empty = waiting.bytes.is_empty();
            waiting.bytes.extend_from_slice(line.as_bytes());
            waiting.lines += 1;
            was_empty
        };
        if was_empty {
            self.some.notify_one();
        }
    }

    /// Writes what comes, until it is dropped.
    pub async fn write(self: Arc<Self>, host: Arc<dyn Host>) {
        let mut fails = false;
        loop {
            self.some.notified().await;
            tokio::time::sleep(GATHER).await;
            self.flush(&*host, &mut fails).await;
        }
    }

    /// Writes what waits now. `fails` is whether the time before some of it was lost: only a change is worth a word.
    async fn flush(&self, host: &dyn Host, fails: &mut bool) {
        let Waiting { bytes, lines } = {
            let mut waiting = self.waiting();
            // As much room as was needed: growing to it again would copy every line.
            let next = Waiting { bytes: Vec::with_capacity(waiting.bytes.len()), lines: 0 };
            std::mem::replace(&mut *waiting, next)
        };
        if bytes.is_empty() {
            return;
        }
        let arrived = host.append(JOURNAL, bytes).await;
        if arrived {
            self.written.inc_by(lines);
        } else {
            self.dropped.inc_by(lines);
        }
        match (arrived, std::mem::replace(fails, !arrived)) {
            (false, false) => warn!(lines, "lines of the log of requests are lost: the disk does not take them"),
            (true, true) => info!("the disk takes the log of requests again"),
            (true, false) | (false, true) => {}
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_no_room_for_is_dropped_and_counted() {
        let queue = Queue::default();
        let line = "x".repeat(1 << 20);
        for _ in 0..6 {
            queue.push(&line);
        }
        assert_eq!((queue.waiting().lines, queue.dropped.get()), (4, 2));
        assert_eq!(queue.waiting().bytes.len(), WAITING_BYTES_MAX);
    }
}

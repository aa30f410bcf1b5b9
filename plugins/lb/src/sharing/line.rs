//! Requests that wait because every instance has as many under way as it may: first come, first served, within limits.
//!
//! Only the first of a line looks for an instance; it is told when a request of the route ends, and looks again now and then by itself,
//! since an instance may answer other routes too. Nobody who comes later is served before the line is empty.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hirsel_model::spec::Queue;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};

/// The first of a line looks at the instances at least this often: what ends for other routes does not tell it.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A line of requests.
#[derive(Debug)]
pub struct Line {
    waiting: AtomicU32,
    waiting_max: u32,
    wait: Duration,
    /// One permit: that of the first.
    first: Semaphore,
    freed: Notify,
}

/// Why a request is not waited with any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// As many wait already as may.
    Full,
    /// Its time is up.
    Late,
}

/// The first place of a line. Given up when dropped.
#[derive(Debug)]
pub struct Place<'a> {
    line: &'a Line,
    until: Instant,
    // In this order: whoever is next shall not count this one any more.
    _waiting: Waiting<'a>,
    _first: SemaphorePermit<'a>,
}

/// A place somewhere in a line. Given up when dropped.
#[derive(Debug)]
pub struct Waiting<'a>(&'a Line);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Line {
    /// Nobody waits; nobody ever does without a `queue`.
    pub fn new(queue: Option<&Queue>) -> Self {
        Self {
            waiting: AtomicU32::new(0),
            waiting_max: queue.map_or(0, |queue| queue.requests),
            wait: Duration::from_millis(queue.map_or(0, |queue| queue.wait_ms)),
            first: Semaphore::new(1),
            freed: Notify::new(),
        }
    }

    /// Whether somebody waits: who comes now is behind them.
    pub fn is_waited_in(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// A request has ended: the first may look.
    pub fn freed(&self) {
        if self.is_waited_in() {
            self.freed.notify_one();
        }
    }

    /// Goes to the end of the line.
    ///
    /// # Errors
    /// If there is no room.
    pub fn join(&self) -> Result<Waiting<'_>, Refused> {
        let before = self.waiting.fetch_add(1, Ordering::SeqCst);
        let waiting = Waiting(self);
        if before < self.waiting_max { Ok(waiting) } else { Err(Refused::Full) }
    }
}

impl<'a> Waiting<'a> {
    /// Waits to be the first.
    ///
    /// # Errors
    /// If the time is up.
    pub async fn first(self) -> Result<Place<'a>, Refused> {
        let line = self.0;
        let until = Instant::now() + line.wait;
        match timeout_at(until, line.first.acquire()).await {
            Ok(Ok(first)) => Ok(Place { line, until, _waiting: self, _first: first }),
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => Err(Refused::Late),
        }
    }
}

impl<'a> Place<'a> {
    /// Waits until there may be room.
    ///
    /// # Errors
    /// If the time is up.
    pub async fn wait(self) -> Result<Self, Refused> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Refused::Late);
        }
        // Told or not, the next look tells what there is.
        let _ = timeout(left.min(LOOK_EVERY), self.line.freed.notified()).await;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn line(requests: u32, wait_ms: u64) -> Arc<Line> {
        Arc::new(Line::new(Some(&Queue { requests, wait_ms })))
    }

    async fn first_of(line: &Line) -> Result<Place<'_>, Refused> {
        line.join()?.first().await
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_come_first_in_the_order_they_came() {
        let line = line(10, 60_000);
        let served = Arc::<Mutex<Vec<u32>>>::default();
        let place = first_of(&line).await.unwrap();
        let mut tasks = Vec::new();
        for number in 0..5 {
            let (line, served) = (line.clone(), served.clone());
            tasks.push(tokio::spawn(async move {
                let place = first_of(&line).await.unwrap();
                served.lock().unwrap().push(number);
                drop(place);
            }));
            tokio::task::yield_now().await;
        }
        assert!(line.is_waited_in());
        drop(place);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*served.lock().unwrap(), [0, 1, 2, 3, 4]);
        assert!(!line.is_waited_in());
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_has_room_for_so_many_and_for_so_long() {
        let short = line(2, 1_000);
        let first = first_of(&short).await.unwrap();
        let second = tokio::spawn({
            let line = short.clone();
            async move { first_of(&line).await.map(drop) }
        });
        tokio::task::yield_now().await;
        assert_eq!(first_of(&short).await.map(drop), Err(Refused::Full));
        assert_eq!(second.await.unwrap(), Err(Refused::Late), "who is behind waits no longer than who is first");
        assert_eq!(first.wait().await.map(drop), Err(Refused::Late));
        assert!(!short.is_waited_in());
        assert_eq!(first_of(&Line::new(None)).await.map(drop), Err(Refused::Full));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_is_told_at_once_when_a_request_ends_and_looks_by_itself_too() {
        let line = line(2, 60_000);
        let place = first_of(&line).await.unwrap();
        let begun = Instant::now();
        line.freed();
        let place = place.wait().await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let place = place.wait().await.unwrap();
        assert!(begun.elapsed() >= LOOK_EVERY && begun.elapsed() < 2 * LOOK_EVERY);
        drop(place);
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_leaves_its_place() {
        let line = line(2, 60_000);
        let first = first_of(&line).await.unwrap();
        let gone = tokio::spawn({
            let line = line.clone();
            async move { first_of(&line).await.map(drop) }
        });
        tokio::task::yield_now().await;
        gone.abort();
        let _ = gone.await;
        assert_eq!(line.waiting.load(Ordering::SeqCst), 1);
        drop(first);
        assert!(first_of(&line).await.is_ok());
    }
}

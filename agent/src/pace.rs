//! How often a loop that looks at levels looks again while the control state changes all the time.
//!
//! The first change after a pause is looked at at once. Those that follow it closely are looked at together: whoever looks takes the newest
//! state, so that nothing is missed, and a thousand changes cost no more than what is looked at in their time.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Two looks at a state that changes all the time are so far apart. Nobody notices that a route is there so much later; and nodes, of
/// which each has a dozen such loops, keep their processors for what they do besides.
const APART: Duration = Duration::from_millis(50);

/// The pace of one loop.
pub struct Pace {
    next: Instant,
}

impl Pace {
    /// Nothing was looked at yet.
    pub fn begin() -> Self {
        Self { next: Instant::now() }
    }

    /// It is looked at now.
    pub fn looks(&mut self) {
        self.next = Instant::now() + APART;
    }

    /// Returns when there is something newer to look at than what was taken out of `state` last, and the last look is long enough ago. May
    /// be dropped and called again.
    ///
    /// # Errors
    /// When nothing newer will come.
    pub async fn changed<T>(&self, state: &mut watch::Receiver<T>) -> Result<(), watch::error::RecvError> {
        sleep_until(self.next).await;
        state.changed().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_change_is_looked_at_at_once_and_many_together() {
        let (sender, mut state) = watch::channel(0);
        let mut pace = Pace::begin();
        pace.looks();
        tokio::time::sleep(APART).await;
        let since = Instant::now();
        sender.send_replace(1);
        pace.changed(&mut state).await.unwrap();
        assert_eq!(since.elapsed(), Duration::ZERO);
        let changes = tokio::spawn(async move {
            for number in 2..=100 {
                tokio::time::sleep(APART / 10).await;
                sender.send_replace(number);
            }
        });
        let mut looks = 0;
        loop {
            pace.looks();
            state.borrow_and_update();
            if pace.changed(&mut state).await.is_err() {
                break;
            }
            looks += 1;
        }
        changes.await.unwrap();
        assert_eq!(*state.borrow(), 100, "the last one is not missed");
        assert!((9..=11).contains(&looks), "{looks}");
    }
}

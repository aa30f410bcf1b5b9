//! Read points. Those that are asked for at the same time are confirmed together: a confirmation costs a round trip to a majority, however
//! many wait for it, and a busy node would otherwise have one on its way for each of its requests.
//!
//! Kept: whoever waits is told of a confirmation that began after it asked. So one that asks during a confirmation waits for the next one.

use std::sync::Weak;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::group::Inner;
use super::proposals::ProposeError;

/// Somebody who waits for a read point.
pub(super) struct Waiting {
    until: Instant,
    answer: oneshot::Sender<Result<u64, ProposeError>>,
}

/// Reads that wait in the queue; more wait to get into it. As many again are being confirmed.
pub(super) const READS_MAX: usize = 1024;
/// Where they queue.
pub(super) type Queue = mpsc::Sender<Waiting>;

impl Inner {
    /// The last command that any answer given before now could reflect.
    pub(super) async fn read_point(&self, ttl: Duration) -> Result<u64, ProposeError> {
        let until = Instant::now() + ttl;
        let (answer, point) = oneshot::channel();
        let confirmed = async {
            // Nobody takes it once the replica is gone; then nobody answers, either.
            let _ = self.reads.send(Waiting { until, answer }).await;
            point.await
        };
        match timeout_at(until, confirmed).await {
            Ok(Ok(point)) => point,
            Ok(Err(_)) | Err(_) => Err(self.nobody()),
        }
    }
}

/// Confirms for whoever waits, until the replica is gone.
pub(super) async fn confirm_all(group: Weak<Inner>, mut queue: mpsc::Receiver<Waiting>) {
    let mut together = Vec::new();
    while queue.recv_many(&mut together, READS_MAX).await > 0 {
        let Some(group) = group.upgrade() else { return };
        together.retain(|waiting: &Waiting| !waiting.answer.is_closed());
        let Some(until) = together.iter().map(|waiting| waiting.until).max() else { continue };
        let point = group.confirm_read(until).await;
        for waiting in together.drain(..) {
            let _ = waiting.answer.send(point.clone());
        }
    }
}

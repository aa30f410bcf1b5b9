//! Messages that may be lost: one uni stream each, because a gossip digest does not fit a datagram.

use std::sync::Arc;
use std::time::Duration;

use hirsel_model::NodeId;
use quinn::RecvStream;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use super::Shared;
use super::lane::{Lane, Line};
use super::quic::SILENT;

/// Largest message, compressed: the digest of some thousand nodes.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// A message that has not arrived by then is worth nothing: the next one is four intervals newer.
const MESSAGE_WITHIN: Duration = Duration::from_secs(1);
/// Messages on their way out. Some peers do not answer, and their messages wait for a dial that fails.
pub(super) const MESSAGES_LEAVING_MAX: usize = 256;
/// Messages that arrived and were not read yet; what does not fit is lost.
pub(super) const MESSAGES_WAITING_MAX: usize = 256;

/// Sends `body` to `to`, at most once and without waiting.
pub(super) fn send(shared: &Arc<Shared>, to: NodeId, body: Vec<u8>) {
    if to == shared.me() || body.len() > MESSAGE_BYTES_MAX {
        return;
    }
    let Ok(permit) = shared.messages_out.clone().try_acquire_owned() else { return };
    let sending = shared.clone();
    shared.spawn(async move {
        let _permit = permit;
        let sent = match timeout(MESSAGE_WITHIN, sending.connection_for_messages(to)).await {
            Ok(Ok(line)) => write(&sending, to, &line, &body).await,
            _ => false,
        };
        if !sent {
            debug!(node = %to, "message lost");
        }
    });
}

/// Whether it has left; on a resting connection, whether it has arrived: nobody else would notice that the peer is gone, and after a cut
/// QUIC tries again ever more seldom. That it has arrived is an answer to control pings, too.
async fn write(shared: &Shared, to: NodeId, line: &Line, body: &[u8]) -> bool {
    let is_resting = Lane::of(line) == Lane::Resting;
    let (mut has_left, within) = (false, Instant::now() + MESSAGE_WITHIN);
    let confirmed = timeout_at(within, async {
        let mut stream = line.open_uni().await.ok()?;
        stream.write_all(body).await.ok()?;
        stream.finish().ok()?;
        has_left = true;
        stream.stopped().await.ok()?.is_none().then_some(())
    });
    let confirmed = confirmed.await;
    if is_resting && confirmed.is_err() {
        line.close(SILENT, b"silent");
    }
    let has_arrived = matches!(confirmed, Ok(Some(())));
    if has_arrived {
        shared.pings.arrived(to);
    }
    has_arrived || has_left && !is_resting
}

/// Receives one message.
pub(super) async fn receive(shared: Arc<Shared>, from: NodeId, mut stream: RecvStream) {
    if let Ok(Ok(body)) = timeout(MESSAGE_WITHIN, stream.read_to_end(MESSAGE_BYTES_MAX)).await {
        let _ = shared.messages_in.try_send((from, body));
    }
}

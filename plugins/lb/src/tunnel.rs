//! Upgraded connections (WebSocket): bytes pass in both directions until one side ends.

use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, copy_bidirectional};

use crate::carrier::Carrier;
use crate::client::Client;
use crate::stream::Leg;
use crate::upstream::Stage;

/// Carries a tunnel of `owner` (whose place among the connections it keeps) until it ends. `client` is what the client's connection becomes once it has read the 101.
pub async fn carry(owner: Arc<Client>, client: OnUpgrade, leg: Leg) {
    let Leg { upstream, ticket } = leg;
    // Nothing else switches to another protocol.
    let Carrier::Alone(upstream) = upstream else { return };
    // A connection that carries others too has this one under way.
    let mut busy = owner.begin();
    busy.answered();
    let pulse = upstream.pulse.clone();
    pulse.enter(Stage::Tunnel);
    let Ok(client) = client.await else { return };
    let (mut stream, begun) = upstream.into_upgraded();
    let mut client = TokioIo::new(client);
    let ended = async {
        // What the instance sent right behind its 101.
        client.write_all(&begun).await?;
        copy_bidirectional(&mut client, &mut stream).await
    };
    let mut ended = std::pin::pin!(ended);
    // A tunnel that broke has nobody to tell: both sides see it end.
    let _ = std::future::poll_fn(|cx| {
        pulse.gauge.driven_by(cx);
        if pulse.over().is_some() {
            return std::task::Poll::Ready(Ok((0, 0)));
        }
        ended.as_mut().poll(cx)
    })
    .await;
    drop((ticket, busy, owner));
}

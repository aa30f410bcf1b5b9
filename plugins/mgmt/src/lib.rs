//! The mgmt role, first version: it watches what can be lost, and tells people by webhook when that becomes less.
//!
//! Every holder of a slot watches; the one in slot 0 tells. A holder that gets slot 0 because its former holder fell tells what
//! nobody could tell meanwhile, so a drop is told at least once, and twice only when its teller falls within a minute.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use hirsel_model::order::Order;
use hirsel_model::report::{RoleFacts, RoleReport, RoleState};
use hirsel_model::{RoleName, Slot};
use hirsel_role::outbound::Outbound;
use hirsel_role::{Context, Plugin, Role};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use serde::Serialize;
use tokio::sync::mpsc;
use tracing::{info, warn};

mod watch;

use watch::{Drop, Watcher};

/// So many drops wait to be told; a newer one says more than an older one.
const QUEUE: usize = 16;
/// A webhook is tried so often, with growing pauses, before the drop is given up with a warning.
const TRIES: u32 = 6;
/// A try takes at most this, from the name to the answer.
const WITHIN: Duration = Duration::from_secs(10);
/// First pause between two tries; it doubles.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The plugin.
pub struct Mgmt;

impl Plugin for Mgmt {
    fn role(&self) -> RoleName {
        RoleName::mgmt()
    }

    fn start(&self, context: Context) -> Box<dyn Role> {
        Box::new(Holder::new(context))
    }
}

struct Holder {
    context: Context,
    watcher: Watcher,
    out: mpsc::Sender<(String, Message)>,
    can_lose: Gauge,
}

/// What the webhook is sent.
#[derive(Clone, Debug, Serialize)]
struct Message {
    event: &'static str,
    cluster: String,
    node: String,
    can_lose_nodes: u32,
    before: u32,
    limit: String,
    at_ms: u64,
    text: String,
}

impl Holder {
    fn new(context: Context) -> Self {
        let (out, queue) = mpsc::channel(QUEUE);
        let (can_lose, told, failed) = (Gauge::default(), Counter::default(), Counter::default());
        if let Ok(mut registry) = context.metrics.lock() {
            registry.register("hirsel_mgmt_can_lose_nodes", "Any so many nodes may vanish at once", can_lose.clone());
            registry.register("hirsel_mgmt_webhooks", "Webhooks delivered", told.clone());
            registry.register("hirsel_mgmt_webhooks_failed", "Webhooks given up", failed.clone());
        }
        context.spawner.spawn(deliver(Outbound::new(context.host.clone()), queue, told, failed));
        Self { context, watcher: Watcher::default(), out, can_lose }
    }

    fn step(&mut self, order: &Order) -> RoleReport {
        let report = |state| RoleReport {
            state,
            generation: order.generation,
            message: None,
            facts: RoleFacts::None,
            ..RoleReport::default()
        };
        if order.is_stop() {
            self.watcher = Watcher::default();
            return report(RoleState::Stopped);
        }
        let live = self.context.live.borrow().clone();
        let Some(seen) = &live.can_lose else { return report(RoleState::Starting) };
        self.can_lose.set(i64::from(seen.nodes));
        let tells = order.slots.contains_key(&Slot(0));
        if let Some(drop) = self.watcher.look(self.context.clock.now(), seen.nodes, tells)
            && let Some(url) = &live.webhook
        {
            // A full queue holds newer news than could be told anyway.
            let _ = self.out.try_send((url.clone(), self.message(&live, &drop, &seen.limit)));
        }
        report(RoleState::Running)
    }

    fn message(&self, live: &hirsel_role::Live, drop: &Drop, limit: &str) -> Message {
        Message {
            event: "can_lose_dropped",
            cluster: live.cluster.to_string(),
            node: self.context.me.name.to_string(),
            can_lose_nodes: drop.to,
            before: drop.from,
            limit: limit.to_owned(),
            at_ms: self.context.clock.wall().0,
            text: format!("can lose {} nodes now ({} before): {limit}; look at: hirsel status", drop.to, drop.from),
        }
    }
}

impl Role for Holder {
    fn converge<'a>(&'a mut self, order: &'a Order) -> BoxFuture<'a, RoleReport> {
        async move { self.step(order) }.boxed()
    }
}

async fn deliver(outbound: Outbound, mut queue: mpsc::Receiver<(String, Message)>, told: Counter, failed: Counter) {
    while let Some((url, message)) = queue.recv().await {
        let body = Bytes::from(serde_json::to_vec(&message).unwrap_or_default());
        let mut pause = RETRY_AFTER;
        for attempt in 1..=TRIES {
            match outbound.post_json(&url, body.clone(), WITHIN).await {
                Ok(()) => {
                    told.inc();
                    info!(url, can_lose = message.can_lose_nodes, "webhook told");
                    break;
                }
                Err(error) if attempt == TRIES => {
                    failed.inc();
                    warn!(url, error, tries = TRIES, "webhook given up");
                }
                Err(_) => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
            }
        }
    }
}

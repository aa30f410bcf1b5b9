//! A connection to whoever takes those of a port, or of a host that is passed on as it is.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hirsel_mesh::seam::BoxStream;
use tokio::io::AsyncWriteExt;
use tracing::{debug, info};

use super::Proxy;
use crate::instance::{Instance, Ticket, Whom};
use crate::io::Gauged;
use crate::replay::{PATIENCE, TRIES_MAX};
use crate::table::{Origin, Table, Way};
use crate::upstream::Pulse;

/// A connection to a target.
pub struct Dialled {
    /// The connection itself.
    pub stream: Gauged,
    /// Counts among the connections of its instance.
    pub ticket: Ticket,
    /// What others may tell whoever uses it.
    pub pulse: Arc<Pulse>,
}

/// Finds whoever takes a connection in the table of the moment.
pub trait Target: Fn(&Table, u64) -> Option<Arc<Origin>> + Send + Sync {}
impl<F: Fn(&Table, u64) -> Option<Arc<Origin>> + Send + Sync> Target for F {}

impl Proxy {
    /// Connects to an instance of what `to` finds in the table, told a number drawn by chance, and writes `first`. Nothing of the client has gone out before, so whoever fails
    /// is left alone for a while, and the next one is tried; none when there is nobody, and nobody comes in a while.
    pub async fn dial(&self, to: impl Target, within: Duration, first: &[u8]) -> Option<Dialled> {
        let mut tried: Vec<Arc<Instance>> = Vec::new();
        let (mut give_up_at, mut tries) = (None, 0);
        while tries < TRIES_MAX {
            let Some((ticket, way)) = self.pick_for(&to, &tried) else {
                let until = *give_up_at.get_or_insert_with(|| self.now() + PATIENCE);
                if !self.wait_for_instance(until).await {
                    return None;
                }
                tried.clear();
                continue;
            };
            let instance = ticket.instance().clone();
            let begun = self.now();
            match self.reach(&instance, way, within, first).await {
                Ok((stream, pulse)) => {
                    let now = self.now();
                    instance.succeeded(now.since(begun), now);
                    return Some(Dialled { stream, ticket, pulse });
                }
                Err(error) => {
                    debug!(instance = %instance.whom, %error, "no connection");
                    self.leave_alone(&instance, &error);
                    tries += 1;
                    self.metrics.retries.inc();
                    tried.push(instance);
                }
            }
        }
        None
    }

    fn pick_for(&self, to: &impl Target, tried: &[Arc<Instance>]) -> Option<(Ticket, Way)> {
        let table = self.routes.table();
        let origin = to(&table, self.draw())?;
        table.service(&origin)?.pick(self.now(), self.draw(), tried)
    }

    async fn reach(
        &self,
        instance: &Instance,
        way: Way,
        within: Duration,
        first: &[u8],
    ) -> io::Result<(Gauged, Arc<Pulse>)> {
        self.metrics.connects.inc();
        let reached = async {
            let stream: BoxStream = self.open(&instance.whom, way).await?;
            let pulse = instance.pool.watch();
            let mut stream = Gauged::new(stream, pulse.gauge.clone());
            if !first.is_empty() {
                stream.write_all(first).await?;
                stream.flush().await?;
            }
            Ok((stream, pulse))
        };
        match tokio::time::timeout(within, reached).await {
            Ok(reached) => reached,
            Err(_late) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn leave_alone(&self, instance: &Instance, error: &io::Error) {
        if !instance.failed(self.now()) {
            return;
        }
        self.metrics.ejections.inc();
        match &instance.whom {
            Whom::Instance { id, node } => info!(instance = %id, %node, %error, "instance ejected"),
            Whom::Outside(addr) => info!(%addr, %error, "address outside ejected"),
        }
    }
}

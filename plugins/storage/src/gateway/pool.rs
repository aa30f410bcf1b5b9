//! Writes that are open already, so that the first chunk of a body need not wait for the metadata.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Gateway, lock};
use crate::meta::access::MetaError;
use crate::meta::command::Command;
use crate::meta::names::WriteId;

/// Writes that are opened at once.
const OPENED: usize = 64;
/// With fewer left, more are opened beside.
const LOW: usize = 32;

#[derive(Default)]
pub struct Pool {
    ready: Mutex<VecDeque<WriteId>>,
    filling: AtomicBool,
}

impl Pool {
    /// Those that are open are taken for ended.
    pub fn forget(&self) {
        lock(&self.ready).clear();
    }
}

impl Gateway {
    /// An open write that nobody else has.
    pub(super) async fn open(&self) -> Result<WriteId, MetaError> {
        let pool = &self.shared.pool;
        let (taken, left) = {
            let mut ready = lock(&pool.ready);
            (ready.pop_front(), ready.len())
        };
        if let Some(write) = taken {
            if left < LOW && !pool.filling.swap(true, Ordering::Relaxed) {
                let gateway = self.clone();
                self.shared.parts.spawner.spawn(async move {
                    // Whoever finds none opens some, and is told what is wrong.
                    if let Ok(more) = gateway.open_some(OPENED).await {
                        lock(&gateway.shared.pool.ready).extend(more);
                    }
                    gateway.shared.pool.filling.store(false, Ordering::Relaxed);
                });
            }
            return Ok(write);
        }
        let mut more = self.open_some(OPENED).await?;
        let first = more.pop().ok_or(MetaError::Unknown)?;
        lock(&pool.ready).extend(more);
        Ok(first)
    }

    async fn open_some(&self, count: usize) -> Result<Vec<WriteId>, MetaError> {
        let draw = || {
            let mut id = [0; 12];
            self.shared.parts.chance.fill(&mut id);
            WriteId(id)
        };
        let writes: Vec<WriteId> = (0..count).map(|_| draw()).collect();
        let (gateway, incarnation) = (self.shared.parts.me, self.shared.parts.incarnation);
        self.ask(Command::Open { gateway, incarnation, writes: writes.clone() }).await?;
        Ok(writes)
    }
}

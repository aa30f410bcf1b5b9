//! Healing: what is done beside all requests, so that everything is as safe as its class promises, and nothing is kept that nobody can read.
//!
//! All of it goes by levels, and is taken up by whoever leads the metadata group now: what is missing is in the queue of repairs, what dies is
//! condemned, a move is in the plan until it is complete. [`audit`] and [`upkeep`] are each node's own.
//!
//! - [`deaths`] ends writes of gateways that are gone, sweeps what dies, and unlinks what was condemned.
//! - [`repair`] makes pieces anew that are missing.
//! - [`moves`] brings partitions to where the plan moves them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use hirsel_model::order::StorageOrder;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::debug;

use crate::gateway::Gateway;

pub mod audit;
pub mod deaths;
pub mod moves;
pub mod piece;
pub mod repair;
pub mod upkeep;

/// Between two looks at what there is to do.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Chunks that are worked on at once: each is some mebibytes in memory, and others want the disks.
const AT_ONCE: usize = 4;

/// How far healing is, for the report of the node that leads it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Healing {
    /// Moves that are complete: the partition, and the table that decided it.
    pub moved: BTreeMap<u16, u64>,
}

/// Does what the leader of the metadata group does, whenever this node leads it.
pub async fn lead(gateway: Gateway, order: watch::Receiver<Arc<StorageOrder>>, healing: watch::Sender<Healing>) {
    let deaths = {
        let (gateway, order) = (gateway.clone(), order.clone());
        while_leading(gateway.clone(), "deaths", move || deaths::step(gateway.clone(), order.borrow().clone()))
    };
    let repairs = {
        let (gateway, order) = (gateway.clone(), order.clone());
        while_leading(gateway.clone(), "repairs", move || repair::step(gateway.clone(), order.borrow().clone()))
    };
    let moves = while_leading(gateway.clone(), "moves", move || {
        moves::step(gateway.clone(), order.borrow().clone(), healing.clone())
    });
    tokio::join!(deaths, repairs, moves);
}

/// Takes steps, one after the other, while this node leads: at once where the last one did something, after a pause where not.
async fn while_leading<F>(gateway: Gateway, what: &'static str, step: impl Fn() -> F)
where
    F: Future<Output = Result<bool, String>> + Send,
{
    loop {
        let more = match gateway.meta().group().leads() {
            true => step().boxed().await,
            false => Ok(false),
        };
        match more {
            Ok(true) => tokio::task::yield_now().await,
            Ok(false) => sleep(LOOK_EVERY).await,
            Err(words) => {
                debug!(what, words, "not done yet");
                sleep(LOOK_EVERY).await;
            }
        }
    }
}

//! Healing: what is done beside all requests, so that everything is as safe as its class promises, and nothing is kept that nobody can read.
//!
//! All of it goes by levels, and is taken up by whoever leads the metadata group now: what is missing is in the queue of repairs, what dies is
//! condemned, a move is in the plan until it is complete. [`audit`], [`spare`] and [`upkeep`] are each node's own.
//!
//! - [`deaths`] ends writes of gateways that are gone, sweeps what dies, and unlinks what was condemned.
//! - [`repair`] makes pieces anew that are missing.
//! - [`moves`] brings partitions to where the plan moves them.
//! - [`budget`] bounds how fast both do that.
//! - [`survey`] counts what there is and what waits, for people.
//! - [`wanted`] makes the buckets that applications want.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use hirsel_model::order::StorageOrder;
use hirsel_model::storage::{Totals, Unmet};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::debug;

use crate::gateway::Gateway;
use budget::Budget;

pub mod audit;
pub mod budget;
pub mod deaths;
pub mod moves;
pub mod piece;
pub mod repair;
pub mod spare;
pub mod survey;
pub mod upkeep;
pub mod wanted;

/// Between two looks at what there is to do.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two counts of everything: each is told to all nodes if something changed.
const SURVEY_EVERY: Duration = Duration::from_secs(5);
/// Chunks that are worked on at once: each is some mebibytes in memory, and others want the disks.
const AT_ONCE: usize = 4;

/// How far healing is, for the report of the node that leads it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Healing {
    /// Moves that are complete: the partition, and the table that decided it.
    pub moved: BTreeMap<u16, u64>,
    /// What was counted last; none before this node has led.
    pub totals: Option<Totals>,
    /// Pieces that were made anew since all was whole the last time.
    pub repaired: u64,
    /// Why none could be made anew in the last try.
    pub stuck: Option<String>,
    /// Buckets that applications want and that cannot be as they want them.
    pub unmet: Unmet,
}

/// Does what the leader of the metadata group does, whenever this node leads it: pieces within `budget`, buckets in `region`.
pub async fn lead(
    gateway: Gateway,
    order: watch::Receiver<Arc<StorageOrder>>,
    healing: watch::Sender<Healing>,
    budget: Budget,
    region: Arc<str>,
) {
    let deaths = {
        let (gateway, order) = (gateway.clone(), order.clone());
        let step = move || deaths::step(gateway.clone(), order.borrow().clone());
        (LOOK_EVERY, step)
    };
    let repairs = {
        let (gateway, order, healing, budget) = (gateway.clone(), order.clone(), healing.clone(), budget.clone());
        let step = move || repair::step(gateway.clone(), order.borrow().clone(), healing.clone(), budget.clone());
        (LOOK_EVERY, step)
    };
    let survey = {
        let (gateway, healing) = (gateway.clone(), healing.clone());
        let step = move || survey::step(gateway.clone(), healing.clone());
        (SURVEY_EVERY, step)
    };
    let wanted = {
        let (gateway, order, healing) = (gateway.clone(), order.clone(), healing.clone());
        let step = move || wanted::step(gateway.clone(), order.borrow().clone(), region.clone(), healing.clone());
        (LOOK_EVERY, step)
    };
    let moves = {
        let gateway = gateway.clone();
        let step = move || moves::step(gateway.clone(), order.borrow().clone(), healing.clone(), budget.clone());
        (LOOK_EVERY, step)
    };
    tokio::join!(
        while_leading(&gateway, "deaths", deaths),
        while_leading(&gateway, "repairs", repairs),
        while_leading(&gateway, "survey", survey),
        while_leading(&gateway, "moves", moves),
        while_leading(&gateway, "wanted buckets", wanted),
    );
}

/// Takes steps, one after the other, while this node leads: at once where the last one did something, after a pause where not.
async fn while_leading<F>(gateway: &Gateway, what: &'static str, (pause, step): (Duration, impl Fn() -> F))
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
            Ok(false) => sleep(pause).await,
            Err(words) => {
                debug!(what, words, "not done yet");
                sleep(pause).await;
            }
        }
    }
}

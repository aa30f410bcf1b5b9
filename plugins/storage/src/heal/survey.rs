//! Counts what there is and what waits, where all of it is known: in the rows of whoever leads the metadata group. What is counted is told with the
//! report of that node, so that every node can say it at once.

use std::collections::BTreeSet;

use hirsel_model::storage::Totals;
use hirsel_model::storage::seen::three_digits;
use tokio::sync::watch;

use super::Healing;
use crate::gateway::Gateway;
use crate::meta::query::WAITING_MAX;
use crate::meta::read;
use crate::meta::rows::{Rows, RowsError};

/// Counts once. There is never more to do.
pub async fn step(gateway: Gateway, healing: watch::Sender<Healing>) -> Result<bool, String> {
    let group = gateway.meta().group().group();
    let term = group.standing().borrow().term;
    let here = gateway.meta().group().here().map_err(|error| error.to_string())?;
    let counted = count(&here).map_err(|error| error.to_string())?;
    healing.send_if_modified(|healing| {
        let totals = Totals { term, repaired: healing.repaired, stuck: healing.stuck.clone(), ..counted };
        let changed = healing.totals.as_ref() != Some(&totals);
        healing.totals = Some(totals);
        changed
    });
    Ok(false)
}

fn count(rows: &dyn Rows) -> Result<Totals, RowsError> {
    let all = read::everything(rows)?;
    let repairs = read::repairs(rows, None, None, WAITING_MAX)?;
    let degraded: BTreeSet<_> = repairs.iter().map(|missed| missed.chunk).collect();
    Ok(Totals {
        buckets: all.buckets,
        objects: three_digits(all.usage.objects),
        bytes: three_digits(all.usage.bytes),
        degraded: degraded.len() as u64,
        repairs: repairs.len() as u64,
        condemned: read::condemned(rows, None, None, WAITING_MAX)?.len() as u64,
        kept: read::widths(rows)?,
        widest: all.widest,
        bears: all.bears,
        ..Totals::default()
    })
}

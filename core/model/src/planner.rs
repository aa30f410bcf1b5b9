//! `plan(&View) -> Plan`: total, deterministic, idempotent, level-triggered.

pub mod change;

use crate::plan::Plan;
use crate::view::View;

/// The complete target for what `view` shows. Equal to the plan in force when nothing has to change.
pub fn plan(view: &View) -> Plan {
    (*view.plan).clone()
}

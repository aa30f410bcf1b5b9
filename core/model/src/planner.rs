//! `plan(&View) -> Plan`: total, deterministic, idempotent, level-triggered.

pub mod change;

use crate::plan::Plan;
use crate::view::View;

/// The complete target for what `view` shows. Equal to the plan in force when nothing has to change.
pub fn plan(view: &View) -> Plan {
    (*view.plan).clone()
}

/// The events that go into the log with the plan `new`: what happened, then what was decided because of it.
pub fn narrate(view: &View, new: &Plan) -> Vec<crate::event::NewEvent> {
    let _ = (view, new);
    Vec::new()
}

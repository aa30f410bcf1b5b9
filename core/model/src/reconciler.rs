//! Cuts the orders of one node out of spec and plan.

use std::collections::BTreeMap;

use crate::control::ControlState;
use crate::id::{NodeId, RoleName};
use crate::order::Order;

/// What `node` shall make true, for each role in `built` (a role without an order must stop; it is listed with a stop order).
pub fn orders(state: &ControlState, node: NodeId, built: &[RoleName]) -> BTreeMap<RoleName, Order> {
    let _ = (state, node, built);
    BTreeMap::new()
}

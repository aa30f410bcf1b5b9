//! Commands about keys of TLS tickets.

use super::limits::at_most;
use super::{Context, ControlState, Outcome, Refusal, secrets};
use crate::secret::{SEAL_BYTES_MAX, Sealed};
use crate::tickets::{Change, KEY_BYTES, KEYS_MAX, TicketKey};

const SUBJECT: &str = "tickets";

pub(super) fn change(state: &mut ControlState, context: &Context, change: Change) -> Result<Outcome, Refusal> {
    match change {
        Change::Draw { base, sealed, key } => draw(state, context, base, sealed, &key),
        Change::Want { forget } => want(state, context, forget),
        Change::Forget => {
            state.tickets.forget();
            Ok(context.done())
        }
    }
}

/// No event tells of it: it happens twice a day, and nobody has to know.
fn draw(state: &mut ControlState, context: &Context, base: u64, sealed: Sealed, key: &str) -> Result<Outcome, Refusal> {
    secrets::check_key(state, key)?;
    let found = state.tickets.newest();
    if base != found {
        return Err(Refusal::Conflict { what: "newest key of TLS tickets".into(), expected: base, found });
    }
    if sealed.0.is_empty() {
        return Err(Refusal::Invalid("the key of TLS tickets is empty".into()));
    }
    at_most(|| "key of TLS tickets in bytes".into(), sealed.0.len(), KEY_BYTES + SEAL_BYTES_MAX)?;
    let tickets = &mut state.tickets;
    tickets.last = tickets.last.saturating_add(1);
    tickets.keys.insert(0, TicketKey { version: tickets.last, at: context.at, key: sealed });
    tickets.keys.truncate(KEYS_MAX);
    tickets.wanted = false;
    Ok(context.done())
}

fn want(state: &mut ControlState, context: &Context, forget: bool) -> Result<Outcome, Refusal> {
    if state.certificates.named.is_empty() {
        return Err(Refusal::Invalid("there is no certificate that load balancers show, so nothing to resume".into()));
    }
    secrets::check_ready(state)?;
    state.tickets.wanted = true;
    let message = match forget {
        true => {
            state.tickets.keys.clear();
            "all keys of TLS tickets are forgotten: each client shakes hands as with a stranger once"
        }
        false => "another key of TLS tickets is wanted now",
    };
    context.happened(state, SUBJECT, message);
    Ok(context.done())
}

//! Keys of TLS tickets on their way: drawn and sealed by the leader, told to the nodes that the plan makes load balancers, and to no
//! others.
//!
//! Such a node keeps them in memory alone. One that starts again asks again, and what is forgotten is left nowhere: who has yet to get
//! any shakes hands in full, which is all that is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hirsel_model::NodeId;
use hirsel_model::certificate::shows;
use hirsel_model::control::{Command, ControlState};
use hirsel_model::secret::Sealed;
use hirsel_model::tickets::{Change, Due, KEY_BYTES, PURPOSE, due, needed, next_look};
use hirsel_role::certificate::{TicketKey, TicketKeys};
use tokio::time::sleep;
use tracing::debug;

use crate::acme::propose;
use crate::known::{Kept, Kind};
use crate::sealing;
use crate::shared::Shared;

/// Between two looks of a leader at what is due by time alone: a wall clock may be set.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Between two keys that are due at once, and two tries.
const PAUSE: Duration = Duration::from_secs(1);

/// Keys of TLS tickets, for nodes that balance load.
#[derive(Debug)]
pub struct Tickets;

impl Kind for Tickets {
    type Have = TicketKeys;
    type Rows = ();

    const WHAT: &'static str = "keys of TLS tickets";
    const CALL: &'static str = "ticket-keys";
    const ANSWER_WITHIN: Duration = Duration::from_secs(2);
    const KEPT: Option<Kept> = None;

    fn needed(state: &ControlState, node: NodeId) -> BTreeMap<u64, (String, &Sealed)> {
        let keys = state.tickets.keys.iter().filter(|_| shows(state, node));
        keys.map(|it| (it.version, (PURPOSE.to_owned(), &it.key))).collect()
    }

    fn is_settled(state: &ControlState, node: NodeId, have: &TicketKeys) -> bool {
        let sealing = state.tickets.sealing_of(|version| have.keys.contains_key(&version));
        have.sealing == sealing && have.keys.keys().eq(&needed(state, node))
    }

    fn versions(have: &TicketKeys) -> BTreeSet<u64> {
        have.keys.keys().copied().collect()
    }

    fn follow(state: &ControlState, node: NodeId, have: &TicketKeys, told: BTreeMap<u64, Vec<u8>>) -> TicketKeys {
        let needed = needed(state, node);
        let mut keys = have.keys.clone();
        keys.extend(told.into_iter().filter_map(|(version, key)| Some((version, TicketKey(key.try_into().ok()?)))));
        keys.retain(|version, _| needed.contains(version));
        TicketKeys { sealing: state.tickets.sealing_of(|version| keys.contains_key(&version)), keys }
    }

    fn rows(_: &TicketKeys) -> Option<()> {
        None
    }

    fn of_rows((): ()) -> TicketKeys {
        TicketKeys::default()
    }
}

/// Draws and forgets keys when that is due, while this node leads.
pub async fn tend(shared: Arc<Shared>) {
    let mut leadership = shared.control.leadership();
    let mut state = shared.control.state();
    loop {
        let mine = leadership.borrow_and_update().mine;
        let now = state.borrow_and_update().clone();
        let wall = shared.world.clock.wall();
        let due = if mine { due(&now, wall) } else { Due::Nothing };
        if let Err(words) = carry_out(&shared, &now, due).await {
            debug!(words, "keys of TLS tickets not changed yet");
        }
        let waits = next_look(&now).filter(|_| mine).map(|at| Duration::from_millis(at.0.saturating_sub(wall.0)));
        drop(now);
        tokio::select! {
            () = sleep(PAUSE), if due != Due::Nothing => {}
            () = sleep(waits.unwrap_or_default().clamp(PAUSE, LOOK_EVERY)), if waits.is_some() && due == Due::Nothing => {}
            changed = leadership.changed() => if changed.is_err() { return },
            changed = state.changed(), if mine && due == Due::Nothing => if changed.is_err() { return },
            () = shared.stop.cancelled() => return,
        }
    }
}

async fn carry_out(shared: &Shared, state: &ControlState, due: Due) -> Result<(), String> {
    let change = match due {
        Due::Nothing => return Ok(()),
        Due::Forget => Change::Forget,
        Due::Draw => {
            let sealing = sealing::key(shared, state)?;
            let mut drawn = [0; KEY_BYTES];
            shared.world.chance.fill(&mut drawn);
            let sealed = Sealed(sealing.seal(PURPOSE, &drawn, shared.world.chance.as_ref()));
            Change::Draw { base: state.tickets.newest(), sealed, key: sealing.id() }
        }
    };
    propose(shared, Command::Tickets { change }).await
}

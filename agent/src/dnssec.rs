//! Keys of zones on their way: drawn and sealed by the leader, and told to every member, for every agent answers and signs.
//!
//! A node keeps them on disk, sealed with a key of its own: one that starts while nobody is there to ask signs on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hirsel_model::NodeId;
use hirsel_model::control::{Command, ControlState};
use hirsel_model::dnssec::{Change, Due, PUBLIC_BYTES, due, needed, next_look, purpose};
use hirsel_model::secret::Sealed;
use hirsel_role::dnssec::{ZoneKey, ZoneKeyring};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use tokio::time::sleep;
use tracing::debug;

use crate::acme::propose;
use crate::known::{Kept, Kind};
use crate::sealing;
use crate::shared::Shared;

/// Between two looks of a leader at what is due by time alone: a wall clock may be set.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Between two things that are due at once, and two tries.
const PAUSE: Duration = Duration::from_secs(1);
/// Where a node keeps what it signs with, in its data folder.
pub const FILE: &str = "zone-keys";

/// Keys of zones, for all nodes.
#[derive(Debug)]
pub struct Zones;

impl Kind for Zones {
    type Have = ZoneKeyring;
    type Rows = BTreeMap<u64, Sealed>;

    const WHAT: &'static str = "keys of zones";
    const CALL: &'static str = "zone-keys";
    // Two thousand keys are half a megabyte.
    const ANSWER_WITHIN: Duration = Duration::from_secs(5);
    const KEPT: Option<Kept> = Some(Kept {
        file: FILE,
        purpose: "keys of zones of this node",
        otherwise: "it cannot sign after a restart without a voter",
    });

    fn needed(state: &ControlState, node: NodeId) -> BTreeMap<u64, (String, &Sealed)> {
        needed(state, node)
    }

    fn is_settled(state: &ControlState, node: NodeId, have: &ZoneKeyring) -> bool {
        have.0.len() == state.signing.count() && have.0.keys().eq(needed(state, node).keys())
    }

    fn versions(have: &ZoneKeyring) -> BTreeSet<u64> {
        have.0.keys().copied().collect()
    }

    fn follow(state: &ControlState, node: NodeId, have: &ZoneKeyring, told: BTreeMap<u64, Vec<u8>>) -> ZoneKeyring {
        let needed = needed(state, node);
        let mut keys = have.0.clone();
        keys.extend(told.into_iter().map(|(version, key)| (version, ZoneKey(key))));
        keys.retain(|version, _| needed.contains_key(version));
        ZoneKeyring(keys)
    }

    fn rows(have: &ZoneKeyring) -> Option<BTreeMap<u64, Sealed>> {
        let rows = || have.0.iter().map(|(version, key)| (*version, Sealed(key.0.clone()))).collect();
        (!have.0.is_empty()).then(rows)
    }

    fn of_rows(rows: BTreeMap<u64, Sealed>) -> ZoneKeyring {
        ZoneKeyring(rows.into_iter().map(|(version, key)| (version, ZoneKey(key.0))).collect())
    }
}

/// Draws, replaces and forgets keys when that is due, while this node leads.
pub async fn tend(shared: Arc<Shared>) {
    let mut leadership = shared.control.leadership();
    let mut state = shared.control.state();
    loop {
        let mine = leadership.borrow_and_update().mine;
        let now = state.borrow_and_update().clone();
        let wall = shared.world.clock.wall();
        let due = if mine { due(&now, wall) } else { None };
        let is_due = due.is_some();
        if let Some(due) = due
            && let Err(words) = carry_out(&shared, &now, due).await
        {
            debug!(words, "keys of zones not changed yet");
        }
        let waits = next_look(&now).filter(|_| mine).map(|at| Duration::from_millis(at.0.saturating_sub(wall.0)));
        drop(now);
        tokio::select! {
            () = sleep(PAUSE), if is_due => {}
            () = sleep(waits.unwrap_or_default().clamp(PAUSE, LOOK_EVERY)), if waits.is_some() && !is_due => {}
            changed = leadership.changed() => if changed.is_err() { return },
            changed = state.changed(), if mine && !is_due => if changed.is_err() { return },
            () = shared.stop.cancelled() => return,
        }
    }
}

async fn carry_out(shared: &Shared, state: &ControlState, due: Due) -> Result<(), String> {
    let change = match due {
        Due::Change(change) => change,
        Due::Draw(zone, base) => {
            let sealing = sealing::key(shared, state)?;
            // The library takes chance from the operating system, and only from there.
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| error.to_string())?;
            // A point is written behind a byte that says how.
            let public = key.der_bytes().get(1..).filter(|point| point.len() == PUBLIC_BYTES);
            let public = Sealed(public.ok_or("the key that was drawn is none of P-256")?.to_vec());
            let sealed = sealing.seal(&purpose(&zone), &key.serialize_der(), shared.world.chance.as_ref());
            Change::Draw { zone, base, public, sealed: Sealed(sealed), key: sealing.id() }
        }
    };
    propose(shared, Command::Signing { change }).await
}

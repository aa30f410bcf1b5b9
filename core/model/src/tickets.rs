//! Keys of TLS tickets (RFC 5077; RFC 8446, section 4.6.1): with them a client that talked to one load balancer goes on with its session
//! at any other, without the signature and the certificate that a whole handshake costs.
//!
//! Whoever has such a key can read what was said over TLS 1.2 under its tickets, and stand in for the cluster towards clients that hold
//! one. So a key does not last: the leader draws another every [`ROTATE_EVERY_MS`], and each has four lives of that length. It is told
//! to load balancers ahead, so that none is shown a ticket that it cannot open; it seals tickets; twice it only opens them; and then it
//! is forgotten. All of it follows from the order of the list: the second one seals. Nothing here sees a key in the clear.
//!
//! There are keys only while there is something to be resumed: a certificate, and a load balancer that shows it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::certificate::shows;
use crate::control::ControlState;
use crate::id::*;
use crate::secret::{SEAL_BYTES_MAX, Sealed};
use crate::time::WallTime;

/// A key seals tickets for so long. RFC 5077, section 5.5, asks for a regular change and names no period; what is recorded of TLS 1.2 can
/// be read by whoever gets the key until it is forgotten, three of these later.
pub const ROTATE_EVERY_MS: u64 = 12 * 3600 * 1000;
/// Keys at a time: one that is told ahead, one that seals, and two that only open.
pub const KEYS_MAX: usize = 4;
/// Bytes of a key: its name in tickets (16), and what they are sealed with (32).
pub const KEY_BYTES: usize = 48;
/// Bytes of all sealed keys.
pub const KEYS_BYTES_MAX: usize = KEYS_MAX * (KEY_BYTES + SEAL_BYTES_MAX);
/// How long a client may use a ticket, in seconds: at the end of the time in which its key seals, two more begin in which it opens.
pub const LIFETIME_S: u32 = (2 * ROTATE_EVERY_MS / 1000) as u32;
/// What a key is sealed for in the control state.
pub const PURPOSE: &str = "key of TLS tickets";
/// The feature level from which on keys may be written.
pub const LEVEL: u32 = 2;

/// The keys of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tickets {
    /// Version of the one that was drawn last, whether or not it is forgotten.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    pub last: u64,
    /// The newest one first; at most [`KEYS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<TicketKey>,
    /// An operator wants another one now.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    pub wanted: bool,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TicketKey {
    /// A number that no other key of the cluster ever has.
    pub version: u64,
    /// When it was drawn.
    pub at: WallTime,
    /// It, sealed for [`PURPOSE`].
    pub key: Sealed,
}

/// What changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// The leader drew another key.
    Draw {
        /// Version of the one it follows, 0 for none: another one there refuses it.
        base: u64,
        /// The key, sealed for [`PURPOSE`].
        sealed: Sealed,
        /// With which key.
        key: String,
    },
    /// An operator wants another key now.
    Want {
        /// And no ticket that is out to be opened any more.
        forget: bool,
    },
    /// Nobody needs keys any more.
    Forget,
}

impl Tickets {
    /// None any more.
    pub fn forget(&mut self) {
        self.keys.clear();
        self.wanted = false;
    }

    /// Version of the newest key; 0 without any.
    pub fn newest(&self) -> u64 {
        self.keys.first().map_or(0, |key| key.version)
    }

    /// The key that seals tickets: the one after the newest, which is only told yet; the newest where it is alone.
    pub fn sealing(&self) -> Option<u64> {
        self.keys.get(1).or(self.keys.first()).map(|key| key.version)
    }

    /// What a load balancer seals with that has these keys: the one that it should, else the youngest of those that opened before it. One
    /// that nobody may have been told yet never.
    pub fn sealing_of(&self, has: impl Fn(u64) -> bool) -> Option<u64> {
        let from = usize::from(self.keys.len() > 1);
        self.keys.iter().skip(from).map(|key| key.version).find(|version| has(*version))
    }
}

/// What the leader has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// Draw another key.
    Draw,
    /// Forget all keys.
    Forget,
}

/// What is to be done at `wall`.
pub fn due(state: &ControlState, wall: WallTime) -> Due {
    let Tickets { last: _, keys, wanted } = &state.tickets;
    if !is_served(state) {
        return if keys.is_empty() && !wanted { Due::Nothing } else { Due::Forget };
    }
    match keys.first() {
        Some(newest) if keys.len() > 1 && !wanted && !is_old(newest, wall) => Due::Nothing,
        Some(_) | None => Due::Draw,
    }
}

/// When something is due by time alone, if nothing else changes.
pub fn next_look(state: &ControlState) -> Option<WallTime> {
    let newest = state.tickets.keys.first()?;
    Some(WallTime(newest.at.0.saturating_add(ROTATE_EVERY_MS)))
}

/// Whether anything can be resumed: the cluster may write of it, and somebody shows a certificate.
fn is_served(state: &ControlState) -> bool {
    let cluster = &state.cluster;
    let balances = state.plan.roles.get(&RoleName::lb()).is_some_and(|slots| !slots.is_empty());
    cluster.feature_level >= LEVEL
        && !cluster.sealing.key.is_empty()
        && balances
        && !state.certificates.named.is_empty()
}

/// A key from the future was drawn by a clock that was wrong: it would last until that time comes.
fn is_old(newest: &TicketKey, wall: WallTime) -> bool {
    wall.0.abs_diff(newest.at.0) >= ROTATE_EVERY_MS
}

/// The keys that `node` needs, by version: all that it may be told.
pub fn needed(state: &ControlState, node: NodeId) -> BTreeSet<u64> {
    if shows(state, node) { state.tickets.keys.iter().map(|key| key.version).collect() } else { BTreeSet::new() }
}

#[cfg(test)]
mod tests;

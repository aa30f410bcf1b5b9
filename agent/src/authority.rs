//! The authority that certifies nodes, and how another one takes its place without anybody being turned away.
//!
//! The leader makes the new one and has the old one sign its key; one change puts it into force. From then on nodes are certified by
//! it, and each gets a new certificate. Who knows only the old one (a node that was away, a person who pinned it, a token given out
//! before) follows by that signature, which every member shows. Once all live nodes have new certificates the leader notes that the
//! old one is not needed any more; what comes back later is believed for its pinned key, as with an expired certificate.

use std::sync::Arc;
use std::time::Duration;

use hirsel_mesh::identity::{Former, Identity, fingerprint};
use hirsel_model::control::{Command, ControlState, Entry, NewAuthority, Outcome};
use hirsel_model::secret::Sealed;
use hirsel_model::view::Liveness;
use tokio::time::sleep;
use tracing::{debug, info};

use crate::shared::Shared;
use crate::{admission, sealing};

/// Between two looks of a leader at what is to do, when something is.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const PROPOSE_WITHIN: Duration = Duration::from_secs(3);

/// The authorities before the present one.
pub fn former(state: &ControlState) -> Vec<Former> {
    let former = |it: &hirsel_model::control::FormerAuthority| Former {
        ca: it.ca.0.clone(),
        successor: it.successor.0.clone(),
        dropped: it.dropped,
    };
    state.cluster.former.iter().map(former).collect()
}

/// How an authority is shown to people and told by gossip: the beginning of its fingerprint.
pub fn mark(ca: &[u8]) -> String {
    fingerprint(ca)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Believes and shows the authorities of `state`, durably. Whether anything changed.
pub fn follow(shared: &Shared, state: &ControlState, identity: &mut Identity) -> Result<bool, String> {
    let known = state.spec.nodes.contains_key(&shared.node);
    let former = former(state);
    if !known || state.cluster.ca.is_empty() || (identity.ca == state.cluster.ca && identity.former == former) {
        return Ok(false);
    }
    let next = Identity { ca: state.cluster.ca.clone(), former: former.clone(), ..identity.clone() };
    shared.transport.follow_authority(next.ca.clone(), former).map_err(|error| error.to_string())?;
    next.save(shared.world.disk.as_ref()).map_err(|error| error.to_string())?;
    *identity = next;
    Ok(true)
}

/// What this node says of its certificate: when it ends, in seconds since 1970, and the mark of its authority.
pub fn told(shared: &Shared) -> String {
    let state = shared.control.state().borrow().clone();
    let of = if shared.transport.is_current() { mark(&state.cluster.ca) } else { "former".into() };
    format!("{}.{of}", shared.transport.certificate().not_after)
}

/// Replaces the authority when that is wanted, and notes when the old one is not needed any more, while this node leads.
pub async fn tend(shared: Arc<Shared>) {
    let mut leadership = shared.control.leadership();
    let mut state = shared.control.state();
    loop {
        let mine = leadership.borrow_and_update().mine;
        let now = state.borrow_and_update().clone();
        let open = now.cluster.authority_wanted || now.cluster.former.iter().any(|former| !former.dropped);
        if mine
            && open
            && let Err(words) = step(&shared, &now).await
        {
            debug!(error = words, "authority not replaced yet");
        }
        tokio::select! {
            () = sleep(LOOK_EVERY), if mine && open => {}
            changed = leadership.changed() => if changed.is_err() { return },
            changed = state.changed(), if mine && !open => if changed.is_err() { return },
            () = shared.stop.cancelled() => return,
        }
    }
}

async fn step(shared: &Shared, state: &ControlState) -> Result<(), String> {
    let cluster = &state.cluster;
    if cluster.authority_wanted {
        let key = sealing::key(shared, state)?;
        let old = admission::authority(shared, state)?;
        let chance = shared.world.chance.as_ref();
        let (next, successor) =
            old.succeed(&cluster.id, chance, shared.world.clock.wall()).map_err(|error| error.to_string())?;
        let new = NewAuthority {
            base: Sealed(cluster.ca.clone()),
            ca: Sealed(next.certificate().to_vec()),
            successor: Sealed(successor),
            ca_key: Sealed(next.seal(&key, chance)),
            key: key.id(),
        };
        propose(shared, Command::ReplaceAuthority { new }).await?;
        info!("a new authority certifies nodes");
        return Ok(());
    }
    let present = mark(&cluster.ca);
    let live = shared.live.borrow().clone();
    let alive = live.nodes.values().filter(|node| node.liveness == Liveness::Alive);
    if let Some(first) = cluster.former.iter().find(|former| !former.dropped) {
        if alive.into_iter().any(|node| node.certificate.as_ref().is_none_or(|certificate| certificate.of != present)) {
            return Err("not every live node has a new certificate".into());
        }
        propose(shared, Command::DropAuthority { ca: first.ca.clone() }).await?;
    }
    Ok(())
}

async fn propose(shared: &Shared, command: Command) -> Result<(), String> {
    let at = shared.world.clock.wall();
    let entry = Entry { at, by: shared.me.name.to_string(), if_index: None, command };
    match shared.control.propose(entry, PROPOSE_WITHIN).await {
        Ok(Outcome::Done { .. } | Outcome::Admitted { .. } | Outcome::Lengthened { .. }) => Ok(()),
        Ok(Outcome::Refused(refusal)) => Err(refusal.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
